"""The scripts of docs/gallery, each in a process of its own, on what the demo leaves."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

CHECKOUT = Path(__file__).resolve().parents[2]
GALLERY = CHECKOUT / "docs/gallery"
TORCH = CHECKOUT / ".cache/torch"  # requirements/components


@pytest.fixture(scope="module")
def address(demo: Path) -> Iterator[str]:
    """`landpatch serve` of the demo's dataset."""
    command = [sys.executable, "-m", "landpatch.functions", "serve", str(demo / "dataset"), "--port", "0"]
    with subprocess.Popen([*command, "--no-browser"], stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            yield re.findall(r"http://\S+", server.stderr.readline())[0]
        finally:
            server.send_signal(signal.SIGINT)
            server.communicate()


def run(script: str, *arguments: object, **environment: str) -> str:
    """What a script prints; its last argument is the picture that it makes, which shows something."""
    done = subprocess.run(
        [sys.executable, GALLERY / script, *map(str, arguments)],
        env={**os.environ, "MPLBACKEND": "agg", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with Image.open(str(arguments[-1])) as picture:
        assert picture.width > 300
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 20
    return done.stdout


def test_search_and_map(address: str, tmp_path: Path) -> None:
    assert re.search(r"^[1-9]\d* patches found", run("search_and_map.py", address, tmp_path / "map.png"), re.M)


def test_load_patches(address: str, demo: Path, tmp_path: Path) -> None:
    printed = run("load_patches.py", address, demo / "dataset", tmp_path / "patches.jpg")
    assert re.search(r"y: 480, x: 480, time: 1", printed)
    assert re.search(r"B04 +\(time, y, x\) uint16", printed)


def test_query_parquet(demo: Path, tmp_path: Path) -> None:
    assert "Arable land" in run("query_parquet.py", demo / "dataset/items.parquet", tmp_path / "labels.png")


def test_train(component: Callable[[str, object], None], demo: Path, tmp_path: Path) -> None:
    path = {"PYTHONPATH": str(TORCH)} if (TORCH / "complete").exists() else {}
    component("PyTorch", path or find_spec("torch"))
    printed = run("train.py", demo / "demo.lmdb", tmp_path / "loss.png", **path)
    first, last = map(float, re.findall(r"loss ([\d.]+) at first, ([\d.]+) at last", printed)[0])
    assert last < 0.8 * first


def test_every_script_is_short_and_shown() -> None:
    page = (GALLERY / "README.md").read_text()
    scripts = sorted(GALLERY.glob("*.py"))
    assert len(scripts) == 4
    for script in scripts:
        assert f"[{script.name}]({script.name})" in page
        assert len(script.read_text().splitlines()) < 60
    for picture in re.findall(r"!\[.+\]\((.+)\)", page):
        assert (GALLERY / picture).exists()
