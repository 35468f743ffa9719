"""What the template must not do, read from the template itself."""

import json
from typing import Any

import pytest

from infra_templates import INFRA, as_list, read_resources, statements

WITHOUT_RESOURCES = {"Traces", "LogDelivery", "Login"}
"""Statements that must allow any resource: X-Ray, log delivery and a login to ECR know none."""


@pytest.fixture(scope="module", params=["template.yaml", "l2a.yaml"])
def each_template(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    return read_resources(request.param)


@pytest.fixture(scope="module")
def resources() -> dict[str, dict[str, Any]]:
    return read_resources("template.yaml")


def test_no_role_may_do_everything_or_with_everything(each_template: dict[str, dict[str, Any]]) -> None:
    roles = [name for name, resource in each_template.items() if resource["Type"] == "AWS::IAM::Role"]
    assert len(roles) >= 3
    for role in roles:
        for statement in statements(each_template, role):
            where = f"{role}, {statement['Sid']}"
            assert not [action for action in as_list(statement["Action"]) if "*" in action], where
            if statement["Sid"] not in WITHOUT_RESOURCES:
                assert "*" not in as_list(statement["Resource"]), where


def test_every_role_is_used_and_has_no_managed_policies(each_template: dict[str, dict[str, Any]]) -> None:
    for name, role in each_template.items():
        if role["Type"] == "AWS::IAM::Role":
            assert f"{{'GetAtt': '{name}.Arn'}}" in str(each_template), name
            assert "ManagedPolicyArns" not in role["Properties"], name


def test_buckets_are_encrypted_private_and_refuse_plain_http(each_template: dict[str, dict[str, Any]]) -> None:
    resources = each_template
    buckets = [name for name, resource in resources.items() if resource["Type"] == "AWS::S3::Bucket"]
    policies = [r["Properties"] for r in resources.values() if r["Type"] == "AWS::S3::BucketPolicy"]
    assert buckets
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
