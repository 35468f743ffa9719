"""cfn-lint, sam and checkov on the templates, each from its own locked environment and without network."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
TEMPLATES = [str(path) for path in sorted((CHECKOUT / "infra").glob("*.yaml"))]
Lint = Callable[..., str]


@pytest.fixture
def lint(component: Callable[[str, object], None], tmp_path: Path) -> Lint:
    """``lint("sam", "cfn-lint", ...)``: what the program of that environment says, which must end well."""

    def run(environment: str, program: str, *arguments: str) -> str:
        command = CHECKOUT / f".venv-{environment}" / "bin" / program
        component(f"{program} (requirements/separate {environment})", command.exists())
        # Any region: its rules are part of the programs. They keep settings in the home folder.
        own = {"AWS_DEFAULT_REGION": "eu-central-1", "SAM_CLI_TELEMETRY": "0", "HOME": str(tmp_path)}
        done = subprocess.run([command, *arguments], capture_output=True, text=True, env={**os.environ, **own})
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_cfn_lint_has_nothing_to_say(lint: Lint) -> None:
    assert len(TEMPLATES) == 2
    assert lint("sam", "cfn-lint", *TEMPLATES) == ""


def test_sam_takes_the_template(lint: Lint) -> None:
    said = lint("sam", "sam", "validate", "--lint", "--template", str(CHECKOUT / "infra" / "template.yaml"))
    assert "is a valid SAM Template" in said


def test_checkov_finds_nothing_but_what_is_left_out_with_a_reason(lint: Lint) -> None:
    files = [word for template in TEMPLATES for word in ("--file", template)]
    said = lint("checkov", "checkov", *files, "--framework", "cloudformation", "--skip-download", "--output", "json")
    found = json.loads(said)
    assert found["summary"]["failed"] == found["summary"]["parsing_errors"] == 0
    assert found["summary"]["passed"] > 70
    skipped = {
        (check["resource"].split(".")[1], check["check_id"], check["check_result"]["suppress_comment"])
        for check in found["results"]["skipped_checks"]
    }
    assert skipped == {skip for template in TEMPLATES for skip in _skips(Path(template))}
    assert all(len(reason.split()) > 5 for *_, reason in skipped)


def _skips(template: Path) -> set[tuple[str, str, str]]:
    """Resource, check and reason of everything that a template asks checkov to leave out."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", lambda *_: None)  # no short form matters here
    resources: dict[str, Any] = yaml.load(template.read_text(), Loader)["Resources"]
    return {
        (name, skip["id"], skip["comment"])
        for name, resource in resources.items()
        for skip in resource.get("Metadata", {}).get("checkov", {}).get("skip", [])
    }
