"""A build that is killed goes on where it stopped, and ends as if nothing had happened."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from demo_build import DemoWorld
from landpatch.catalog.errors import DatasetConflict
from landpatch.catalog.store import Storage
from landpatch.functions.building import build, rebuild
from landpatch.functions.jobs import Ledger, Parameters, State

KILLS = 10
BUILD = """
import sys, orjson
from landpatch.functions.building import ScenePair, build
if __name__ == "__main__":
    document = orjson.loads(open(sys.argv[1], "rb").read())
    pairs = [ScenePair(optical, tuple(radars)) for optical, radars in document["pairs"]]
    build(pairs, sys.argv[2], labels=document["labels"], block_rows=13, workers=2)
"""


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file but the ledger, which tells of attempts and times; unfinished files would show."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] != "jobs"
    }


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory, demo_world: DemoWorld) -> list[str]:
    folder = tmp_path_factory.mktemp("script")
    (folder / "build_demo.py").write_text(BUILD)
    document = {
        "pairs": [[pair.optical, list(pair.radars)] for pair in demo_world.pairs],
        "labels": str(demo_world.labels),
    }
    (folder / "pairs.json").write_bytes(orjson.dumps(document))
    return [sys.executable, str(folder / "build_demo.py"), str(folder / "pairs.json")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, script: list[str]) -> tuple[Path, float]:
    folder = tmp_path_factory.mktemp("undisturbed") / "dataset"
    begun = time.monotonic()
    subprocess.run([*script, str(folder)], check=True)
    return folder, time.monotonic() - begun


def test_kill_9_at_ten_random_moments_changes_nothing(
    tmp_path: Path, script: list[str], undisturbed: tuple[Path, float]
) -> None:
    reference, seconds = undisturbed
    moments = random.Random(os.environ.get("LANDPATCH_TEST_SEED", time.time_ns()))
    folder = tmp_path / "dataset"
    killed = []
    for _ in range(KILLS):
        process = subprocess.Popen([*script, str(folder)], start_new_session=True)
        wait = moments.uniform(0.1, seconds)
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            killed.append(round(wait, 2))
        # Half of the time the workers are killed too, half of the time they are left to find out by themselves.
        if moments.random() < 0.5 and process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        elif process.returncode is None:
            process.kill()
        process.wait()
    assert killed, "no attempt was killed before its end: the moments say nothing"
    subprocess.run([*script, str(folder)], check=True)
    assert contents(folder) == contents(reference), f"killed after {killed} s"


def test_a_finished_build_run_again_writes_nothing(script: list[str], undisturbed: tuple[Path, float]) -> None:
    folder, _ = undisturbed
    before = times(folder)
    subprocess.run([*script, str(folder)], check=True)
    assert times(folder) == before


def test_how_the_tile_is_cut_into_blocks_does_not_show(
    tmp_path: Path, demo_world: DemoWorld, undisturbed: tuple[Path, float]
) -> None:
    folder = tmp_path / "dataset"
    build(demo_world.pairs[1:], folder, labels=str(demo_world.labels), workers=1)
    whole, pieces = contents(folder), contents(undisturbed[0])
    patches = {path: digest for path, digest in pieces.items() if "33TUN" in path and path.startswith("patches/")}
    assert patches
    assert {path: digest for path, digest in whole.items() if path.startswith("patches/")} == patches


def test_other_parameters_for_the_same_scene_are_refused(
    demo_world: DemoWorld, undisturbed: tuple[Path, float]
) -> None:
    folder, _ = undisturbed
    before = times(folder)
    with pytest.raises(DatasetConflict, match="max_unlabelled"):
        build(
            demo_world.pairs,
            folder,
            labels=str(demo_world.labels),
            parameters=Parameters(max_unlabelled=0.5),
            block_rows=13,
        )
    assert times(folder) == before


def test_interrupted_blocks_are_aborted_and_taken_up_again(
    tmp_path: Path, script: list[str], undisturbed: tuple[Path, float]
) -> None:
    """Ctrl-C: SIGINT reaches the whole group, blocks say ABORTED, `retry` completes them."""
    reference, _ = undisturbed
    folder = tmp_path / "dataset"
    process = subprocess.Popen([*script, str(folder)], start_new_session=True, stderr=subprocess.PIPE)
    ledger = Ledger(Storage.open(folder, create=True))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any(entry.state is State.PROCESSING for entry in ledger.entries()):
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    states = {entry.state for entry in ledger.entries()}
    assert State.ABORTED in states or State.PENDING in states
    assert not states & {State.CLAIMED, State.PROCESSING}
    result = rebuild(folder, workers=2)
    assert result.unfinished == []
    assert contents(folder) == contents(reference)
