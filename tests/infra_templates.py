"""The CloudFormation templates, as tests read them: resources, and what roles may do with what."""

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

INFRA = Path(__file__).resolve().parents[1] / "infra"


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


def read_resources(template: str) -> dict[str, dict[str, Any]]:
    """The resources of a template in infra/, by name."""
    found: dict[str, dict[str, Any]] = yaml.load((INFRA / template).read_text(), _Template)["Resources"]
    return found


def statements(resources: Mapping[str, Mapping[str, Any]], role: str) -> Iterator[dict[str, Any]]:
    """What a role allows."""
    for policy in resources[role]["Properties"]["Policies"]:
        yield from policy["PolicyDocument"]["Statement"]


def as_list(value: Any) -> list[Any]:
    """One or many, as policies have them."""
    return value if isinstance(value, list) else [value]


def granted(
    resources: Mapping[str, Mapping[str, Any]], role: str, names: Mapping[str, Any], without: frozenset[str]
) -> set[tuple[str, str]]:
    """Action and resource pattern of all that a role allows, but for the statements ``without``.

    ``names`` says what the template's references are in the test, such as {"DatasetBucket.Arn": ...}.
    """

    def filled(value: Any) -> list[str]:
        if isinstance(value, str):
            return [re.sub(r"\$\{([\w:.]+)\}", lambda match: str(names[match[1]]), value)]
        ((form, inner),) = value.items()
        return filled(inner) if form == "Sub" else as_list(names[inner])

    return {
        (action, pattern)
        for statement in statements(resources, role)
        if statement["Sid"] not in without
        for action in as_list(statement["Action"])
        for resource in as_list(statement["Resource"])
        for pattern in filled(resource)
    }


def covered(asked: tuple[str, str], may: set[tuple[str, str]]) -> bool:
    """Whether an action on a resource is among those granted."""
    return any(asked[0] == action and fnmatchcase(asked[1], pattern) for action, pattern in may)
