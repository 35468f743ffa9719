"""The rules of the layout, which no single module's tests would notice broken."""

import ast
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
WINGS = ("catalog", "functions")
MODULES = sorted(path for wing in WINGS for path in (CHECKOUT / wing).rglob("*.py"))
# A module or class named so has no subject of its own.
NO_SUBJECT = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "managers"}
PURE = ("names", "grid", "splits", "bands", "nomenclature")

each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(CHECKOUT)))


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # importlib.import_module("landpatch.functions.x") and its like
            yield from re.findall(r"\Alandpatch\.functions[\w.]*\Z", node.value)


def test_both_wings_are_looked_at() -> None:
    assert {path.relative_to(CHECKOUT).parts[0] for path in MODULES} == set(WINGS)
    assert not list(CHECKOUT.glob("*/landpatch/__init__.py")), "landpatch is a namespace package in two folders"


@each_module
def test_imports_are_absolute_and_the_catalog_never_imports_functions(path: Path) -> None:
    imported = list(_imported(ast.parse(path.read_text("utf-8"))))
    assert not [name for name in imported if name.startswith(".")]
    if path.is_relative_to(CHECKOUT / "catalog"):
        assert not [name for name in imported if name.startswith("landpatch.functions")]


@each_module
def test_every_module_says_what_it_is_about(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    assert docstring
    assert docstring.splitlines()[0].endswith((".", "?", ":"))


@each_module
def test_nothing_is_named_for_want_of_a_subject(path: Path) -> None:
    parts = path.relative_to(CHECKOUT).with_suffix("").parts
    assert not NO_SUBJECT.intersection(word for part in parts for word in _words(part))
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ClassDef):
            assert not NO_SUBJECT.intersection(_words(node.name)), node.name


def _loaded_by(statement: str) -> set[str]:
    program = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_the_pure_rules_need_no_geography_and_no_storage() -> None:
    loaded = _loaded_by("\n".join(f"import landpatch.catalog.{name}" for name in PURE))
    assert not loaded & {"rasterio", "pyproj", "shapely", "pyogrio", "pyarrow", "pystac", "obstore", "numba"}


def test_the_tile_worker_starts_without_what_it_never_uses() -> None:
    """A Lambda pays for every import at its cold start, a local worker in each process."""
    loaded = _loaded_by("import landpatch.functions.tile")
    assert "landpatch.functions.tile" in loaded
    # Not click: rasterio imports it.
    assert not loaded & {"geopandas", "pandas", "xarray", "odc.stac", "rich", "pystac"}


@pytest.mark.parametrize(
    ("handler", "absent"),
    [
        ("plan", {"pyogrio", "duckdb", "fastapi"}),
        ("tile", {"pyogrio", "duckdb", "fastapi", "requests"}),
        ("index", {"pyogrio", "duckdb", "fastapi", "requests", "numba", "rasterio", "deflate"}),
        ("api", {"pyogrio", "numba", "rasterio", "deflate", "boto3", "pyproj", "jsonschema_rs"}),
    ],
)
def test_a_function_starts_without_what_it_does_not_need_at_once(handler: str, absent: set[str]) -> None:
    """How long the rest takes: tests/benchmarks/import_time.py."""
    loaded = _loaded_by(f"import landpatch.functions.handlers.{handler}")
    assert f"landpatch.functions.handlers.{handler}" in loaded
    assert not loaded & (absent | {"geopandas", "pandas", "xarray", "odc.stac", "rich", "pystac", "matplotlib"})


def test_tests_cannot_leave_this_machine() -> None:
    """The guard of conftest.py. A broadcast address: the kernel itself refuses it, should the guard fail."""
    for family, host in ((socket.AF_INET, "255.255.255.255"), (socket.AF_INET6, "ff02::1")):
        with socket.socket(family) as outside:
            with pytest.raises(RuntimeError, match="this machine only"):
                outside.connect((host, 9))
            with pytest.raises(RuntimeError, match="this machine only"):
                outside.connect_ex((host, 9))
    with pytest.raises(RuntimeError, match="this machine only"):
        socket.create_connection(("stac.invalid", 443), timeout=1)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as inside:
        assert inside.getpeername() == server.getsockname()
