"""What pyproject.toml declares, what the modules import and what the locks pin belong together."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


def _pins(lock: str) -> dict[str, tuple[str, int]]:
    """Version and number of hashes of every package in a lock."""
    text = (CHECKOUT / "requirements" / lock).read_text("utf-8")
    found = re.finditer(
        r"^([\w.-]+)==([^\s;]+)[^\\\n]*((?: \\\n    --hash=sha256:[0-9a-f]{64})*)$", text, re.MULTILINE
    )
    return {_name(match[1]): (match[2], match[3].count("--hash")) for match in found}


def _imported_packages() -> set[str]:
    names = set()
    for wing in ("catalog", "functions"):
        for path in (CHECKOUT / wing).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"landpatch"}


def test_every_import_is_declared() -> None:
    extras = PROJECT["project"]["optional-dependencies"].values()
    requirements = [*PROJECT["project"]["dependencies"], *(one for extra in extras for one in extra)]
    declared = {_name(requirement) for requirement in requirements}
    distributions = packages_distributions()
    undeclared = {
        module for module in _imported_packages() if not declared & {_name(d) for d in distributions.get(module, ())}
    }
    assert not undeclared


def test_the_locks_hold_what_is_declared() -> None:
    runtime, dev, uv = _pins("runtime.txt"), _pins("dev.txt"), _pins("uv.txt")
    backend = {_name(requirement) for requirement in PROJECT["build-system"]["requires"]}
    needed = {_name(requirement) for requirement in PROJECT["project"]["dependencies"]} | backend | {"editables"}
    assert needed <= runtime.keys()
    assert {_name(requirement) for requirement in PROJECT["dependency-groups"]["test"]} <= dev.keys()
    assert runtime.items() <= dev.items()
    assert list(uv) == ["uv"]


def test_the_locks_are_hashed_and_name_no_host() -> None:
    for lock in ("runtime.txt", "dev.txt", "uv.txt"):
        text = (CHECKOUT / "requirements" / lock).read_text("utf-8")
        pins = _pins(lock)
        assert len(pins) == len(re.findall(r"^[\w.-]+==", text, re.MULTILINE))
        assert all(hashes for _, hashes in pins.values())
        assert "://" not in text
        assert not re.search(r"^(-|--(?!hash))", text, re.MULTILINE)
