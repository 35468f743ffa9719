"""What the template must not do, read from the template itself."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

INFRA = Path(__file__).resolve().parents[2] / "infra"

WITHOUT_RESOURCES = {"Traces", "LogDelivery"}
"""Statements that must allow any resource: X-Ray and log delivery know none."""


class _Template(yaml.SafeLoader):
    """CloudFormation's short forms: ``!Ref x`` is {"Ref": x}, and so on."""


def _short_form(loader: _Template, name: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    assert isinstance(node, yaml.MappingNode)
    return {name: loader.construct_mapping(node, deep=True)}


_Template.add_multi_constructor("!", _short_form)


@pytest.fixture(scope="module")
def resources() -> dict[str, dict[str, Any]]:
    template: dict[str, Any] = yaml.load((INFRA / "template.yaml").read_text(), _Template)
    found: dict[str, dict[str, Any]] = template["Resources"]
    return found


def statements(resources: dict[str, dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, resource in resources.items():
        if resource["Type"] == "AWS::IAM::Role":
            for policy in resource["Properties"]["Policies"]:
                for statement in policy["PolicyDocument"]["Statement"]:
                    yield name, statement


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_no_role_may_do_everything_or_with_everything(resources: dict[str, dict[str, Any]]) -> None:
    allowed = list(statements(resources))
    assert len(allowed) > 15
    for role, statement in allowed:
        where = f"{role}, {statement['Sid']}"
        assert not [action for action in as_list(statement["Action"]) if "*" in action], where
        if statement["Sid"] not in WITHOUT_RESOURCES:
            assert "*" not in as_list(statement["Resource"]), where


def test_every_role_is_used_and_has_no_managed_policies(resources: dict[str, dict[str, Any]]) -> None:
    roles = {name: role for name, role in resources.items() if role["Type"] == "AWS::IAM::Role"}
    used = [resource.get("Properties", {}).get("Role") for resource in resources.values()]
    for name, role in roles.items():
        assert {"GetAtt": f"{name}.Arn"} in used, name
        assert "ManagedPolicyArns" not in role["Properties"], name


def test_buckets_are_encrypted_private_and_refuse_plain_http(resources: dict[str, dict[str, Any]]) -> None:
    buckets = [name for name, resource in resources.items() if resource["Type"] == "AWS::S3::Bucket"]
    policies = [r["Properties"] for r in resources.values() if r["Type"] == "AWS::S3::BucketPolicy"]
    assert len(buckets) >= 2
    for bucket in buckets:
        properties = resources[bucket]["Properties"]
        assert properties["BucketEncryption"], bucket
        assert all(properties["PublicAccessBlockConfiguration"].values()), bucket
        (policy,) = [policy for policy in policies if policy["Bucket"] == {"Ref": bucket}]
        denied = [s for s in policy["PolicyDocument"]["Statement"] if s["Effect"] == "Deny"]
        assert denied[0]["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}, bucket


def test_the_queue_waits_six_times_the_function_s_timeout(resources: dict[str, dict[str, Any]]) -> None:
    timeout = resources["PlanFunction"]["Properties"]["Timeout"]
    queue = resources["ArrivalsQueue"]["Properties"]
    assert queue["VisibilityTimeout"] >= 6 * timeout
    assert queue["RedrivePolicy"]["maxReceiveCount"] == 5


def test_the_state_machine_s_gaps_are_those_the_template_fills(resources: dict[str, dict[str, Any]]) -> None:
    machine = resources["BlocksMachine"]["Properties"]
    definition = (INFRA / machine["DefinitionUri"]).read_text()
    for name in machine["DefinitionSubstitutions"]:
        definition = definition.replace(f"${{{name}}}", "filled")
    assert "${" not in definition
    states = json.loads(definition)["States"]
    assert states["Blocks"]["Catch"][0]["Next"] == "Index"
