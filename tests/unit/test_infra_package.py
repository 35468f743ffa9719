"""Sizes and digests of what is deployed, on small trees: the real one needs the network (`make package`)."""

import os
from pathlib import Path

import pytest

import package


def write_tree(folder: Path, *, backwards: bool = False, code: str = "x = 1\n") -> Path:
    files = {
        "land/__init__.py": code,
        "land/data.bin": "0" * 1000,
        "land/__pycache__/a.pyc": f"bytecode {backwards}",
        "land_patch-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: Land.Patch\nVersion: 1.0\n",
        "land_patch-1.0.dist-info/RECORD": "land/__init__.py,,\nland/data.bin,,\nland/__pycache__/a.pyc,,\n",
        "land_patch-1.0.dist-info/INSTALLER": f"one of {backwards}",
    }
    for name in sorted(files, reverse=backwards):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[name])
        os.utime(path, (0, 1000 + len(name) * backwards))
    return folder


def test_the_same_content_has_the_same_digest(tmp_path: Path) -> None:
    first = package.tree_digest(write_tree(tmp_path / "a"))
    assert package.tree_digest(write_tree(tmp_path / "b", backwards=True)) == first
    assert package.tree_digest(write_tree(tmp_path / "c", code="x = 2\n")) != first


def test_sizes_are_by_package_and_without_bytecode(tmp_path: Path) -> None:
    assert package.package_sizes(write_tree(tmp_path)) == {"land-patch": 1006}


def test_an_image_that_is_too_large_is_refused_and_says_why() -> None:
    package.check_image({"numpy": package.IMAGE_LIMIT})
    with pytest.raises(SystemExit, match=r"10,241 MB.*10,240 MB at most; the largest are numpy, llvmlite"):
        package.check_image({"llvmlite": package.MB, "numpy": package.IMAGE_LIMIT})
