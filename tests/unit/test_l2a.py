"""The runner of sen2cor, driven by a stand-in program: what it does with success, failure, silence and death."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from demo_build import run_landpatch
from landpatch.catalog.errors import (
    InvalidItem,
    InvalidScene,
    LandpatchError,
    MissingProgram,
    ProcessingFailed,
    ProcessingTimeout,
    StorageError,
)
from landpatch.catalog.scenes import optical_scene
from landpatch.functions.cli import main
from landpatch.functions.l2a import Sen2Cor, correct, correct_all, find_sen2cor, version_warning
from small_safe import PASSED, Safe
from small_scenes import SmallScene
from stand_in_l2a_process import write_stand_in


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No sen2cor of the developer's machine takes part."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LANDPATCH_L2A_PROCESS", raising=False)


def l1c(folder: Path, scene: SmallScene | None = None, **fields: object) -> Path:
    """A small L1C product as CDSE hands it out: without its empty folders."""
    return Safe("1C", **{"baseline": "05.11", **fields}).write(folder, scene or SmallScene(nx=1, ny=1))  # type: ignore[arg-type]


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """All that is there, with sizes and times of change."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")
    }


def runs(program: Path) -> int:
    record = program.parent / "runs"
    return len(record.read_text().splitlines()) if record.exists() else 0


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_success(tmp_path: Path) -> None:
    """GIVEN an L1C product without its empty folders, WHEN it is corrected, THEN the product, its item and the log
    stand in the target, nothing else does, and the input is as it was.
    """
    source = l1c(tmp_path / "in")
    before = tree(source)
    program = write_stand_in(tmp_path / "bin")
    seen: list[tuple[int, int]] = []
    product = correct(
        source, tmp_path / "out", program=str(program), resolution=10, progress=lambda *told: seen.append(told)
    )
    name = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_20240901T120000"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"{source.stem}.sen2cor.log",
        f"{name}.SAFE",
        f"{name}.json",
    ]
    assert product.folder == tmp_path / "out" / f"{name}.SAFE"
    assert json.loads(product.item_path.read_bytes()) == product.item
    assert product.item["properties"]["landpatch:l1c"] == source.stem
    assert product.item["properties"]["processing:software"] == {"sen2cor": "02.12.03"}
    scene = optical_scene(product.item)
    assert scene.offset.present  # the product's own metadata count, whatever the baseline 99.99
    assert product.changed
    assert product.warning is None
    assert product.failed_quality == scene.failed_quality == ()
    assert seen == [(0, 100), (55, 100), (100, 100)]
    assert "--resolution 10 --output_dir" in (program.parent / "runs").read_text()
    log = product.log.read_text()
    assert log.startswith("sen2cor 02.12.03: ")
    assert "Application terminated successfully" in log
    assert tree(source) == before


@pytest.fixture
def small_offset() -> SmallScene:
    """Pixels with 1000 added."""
    small = SmallScene(nx=1, ny=1)
    for pixels in small.bands.values():
        pixels += 1000
    return small


def test_a_second_run_changes_nothing_and_needs_no_sen2cor(tmp_path: Path) -> None:
    source = l1c(tmp_path / "in")
    program = write_stand_in(tmp_path / "bin")
    first = correct(source, tmp_path / "out", program=str(program))
    before = tree(tmp_path)
    second = correct(source, tmp_path / "out", program="/nowhere/L2A_Process")
    assert tree(tmp_path) == before
    assert (second.item, second.folder, second.changed) == (first.item, first.folder, False)
    # A folder that was moved since: its item follows.
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    third = correct(source, moved, program="/nowhere/L2A_Process")
    assert all(asset["href"].startswith(str(moved)) for asset in third.item["assets"].values())
    assert json.loads(third.item_path.read_bytes()) == third.item
    shutil.rmtree(third.folder)
    assert correct(source, moved, program=str(program)).changed
    assert runs(program) == 2


def test_patches_are_built_from_the_result(tmp_path: Path, small_offset: SmallScene) -> None:
    """The command line from L1C to patches; pixels are those of the L1C product less the offset."""
    source = l1c(tmp_path / "in", small_offset)
    program = write_stand_in(tmp_path / "bin")
    done = run_landpatch("l2a", source, "--to", tmp_path / "l2a", "--sen2cor", program)
    item = done.stdout.strip()
    assert "made; log:" in done.stderr
    again = CliRunner().invoke(main, ["l2a", str(source), "--to", str(tmp_path / "l2a"), "--json"])
    assert json.loads(again.stdout) == json.loads(Path(item).read_bytes())
    built = run_landpatch(
        "build", item, "--no-labels", "--s2-only", "--to", tmp_path / "data", "--workers", 1, "--json"
    )
    assert json.loads(built.stdout)["kept"] == 1
    import rasterio

    patch = next((tmp_path / "data").rglob("*_S2_10m.tif"))
    with rasterio.open(patch) as dataset:
        expected = [small_offset.bands[name].astype(int) - 1000 for name in ("B02", "B03", "B04", "B08")]
        np.testing.assert_array_equal(dataset.read(), expected)


@pytest.mark.parametrize("how", ["zip", "renamed", "read-only", "whole"])
def test_inputs_of_other_forms(tmp_path: Path, how: str) -> None:
    source = l1c(tmp_path / "in")
    if how == "zip":
        archive = tmp_path / "in" / "download.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in source.rglob("*"):
                packed.write(path, Path(source.name) / path.relative_to(source))
        shutil.rmtree(source)
        source = archive
    elif how == "renamed":
        source = source.rename(tmp_path / "in" / "my scene")
    elif how == "read-only":
        for path in (source, *source.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
    else:
        next(source.glob("DATASTRIP/*")).joinpath("QI_DATA").mkdir()
        next(source.glob("GRANULE/*")).joinpath("AUX_DATA").mkdir()
    before = tree(tmp_path / "in")
    program = write_stand_in(tmp_path / "bin")
    product = correct(source, tmp_path / "out", program=str(program))
    assert product.changed
    assert tree(tmp_path / "in") == before
    used = (program.parent / "runs").read_text().split()[-1]
    assert (Path(used) == source) is (how == "whole")  # nothing is copied that need not be
    assert len(list((tmp_path / "out").iterdir())) == 3


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        ("fail", r"sen2cor failed \(exit code 1\): .*IOError: cannot open AUX_ECMWFT .* whole log is"),
        ("fail-quietly", "sen2cor failed .*with at least one error"),
        ("die", "sen2cor failed"),
        ("nothing", r"left no L2A product \(in its output: nothing\)"),
        ("no-bands", r"its product cannot be used: .*band\(s\) B8A"),
        ("garbage", "its product cannot be used: .*cannot be opened"),
        ("other-tile", "its product cannot be used: .*is not the L2A product of"),
    ],
)
def test_failures(tmp_path: Path, behaviour: str, says: str) -> None:
    source = l1c(tmp_path / "in")
    before = tree(source)
    program = write_stand_in(tmp_path / "bin", behaviour)
    with pytest.raises(ProcessingFailed, match=says) as caught:
        correct(source, tmp_path / "out", program=str(program))
    assert source.stem in str(caught.value)
    assert (caught.value.exit_code, caught.value.retryable) == (21, True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{source.stem}.sen2cor.log"]
    assert tree(source) == before
    write_stand_in(tmp_path / "bin")
    assert correct(source, tmp_path / "out", program=str(program)).changed


def test_time_out_ends_all_of_its_processes(tmp_path: Path) -> None:
    program = write_stand_in(tmp_path / "bin", "hang")
    with pytest.raises(ProcessingTimeout, match=r"not done after 8 s .*--timeout") as caught:
        correct(l1c(tmp_path / "in"), tmp_path / "out", program=str(program), timeout=8)
    assert caught.value.exit_code == 22
    wait_for(lambda: not alive(int((program.parent / "pid").read_text())))
    assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".log"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ended_in_the_middle(tmp_path: Path, number: signal.Signals) -> None:
    """GIVEN a run at work, WHEN it is interrupted, or killed without warning, THEN sen2cor ends too, and the next
    run begins again.
    """
    source = l1c(tmp_path / "in")
    program = write_stand_in(tmp_path / "bin", "hang")
    arguments = ["l2a", source, "--to", tmp_path / "out", "--sen2cor", program]
    running = subprocess.Popen(
        [sys.executable, "-m", "landpatch.functions", *map(str, arguments)], stderr=subprocess.PIPE
    )
    with running:
        pid = program.parent / "pid"
        wait_for(lambda: pid.exists() and pid.read_text() != "")
        with pytest.raises(ProcessingFailed, match="another process is making this product"):
            correct(source, tmp_path / "out", program=str(program))
        running.send_signal(number)
        assert running.wait(30) == (-9 if number == signal.SIGKILL else 130)
    wait_for(lambda: not alive(int(pid.read_text())))
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == [
        *([f".{source.stem}.l2a"] if number == signal.SIGKILL else []),
        f"{source.stem}.sen2cor.log",
    ]
    write_stand_in(tmp_path / "bin")
    assert correct(source, tmp_path / "out", program=str(program)).changed
    assert len(list((tmp_path / "out").iterdir())) == 3


@pytest.mark.parametrize("moved", [False, True])
def test_killed_between_the_checks_and_the_end(tmp_path: Path, moved: bool) -> None:
    source = l1c(tmp_path / "in")
    program = write_stand_in(tmp_path / "bin")
    product = correct(source, tmp_path / "out", program=str(program))
    work = tmp_path / "out" / f".{source.stem}.l2a"
    (work / "out").mkdir(parents=True)
    (work / "checked.json").write_text(json.dumps({"product": product.folder.name, "sen2cor": "02.12.03"}))
    product.item_path.unlink()
    if not moved:
        product.folder.rename(work / "out" / product.folder.name)
    resumed = correct(source, tmp_path / "out", program=str(program))
    assert resumed.item == product.item
    assert not work.exists()
    assert runs(program) == 1


def test_indicators_that_failed(tmp_path: Path) -> None:
    """Of the L1C product: nothing is run. Of the result: it is kept, and said to be of no use."""
    program = write_stand_in(tmp_path / "bin", "bad-quality")
    bad = l1c(tmp_path / "bad", quality={**PASSED, "SENSOR_QUALITY": "FAILED"})
    with pytest.raises(InvalidScene, match=f"{bad}: quality indicators not PASSED: sensor"):
        correct(bad, tmp_path / "out", program=str(program))
    assert runs(program) == 0
    source = l1c(tmp_path / "in")
    for _ in range(2):
        result = correct_all([source], tmp_path / "out", program=str(program))
        assert [product.failed_quality for product in result.products] == [("general",)]
        error = result.refused[str(source)]
        assert isinstance(error, InvalidScene)
        assert "quality indicators not PASSED: general; the product is kept" in str(error)
    assert runs(program) == 1
    done = CliRunner().invoke(main, ["l2a", str(source), "--to", str(tmp_path / "out")])
    assert done.exit_code == 4
    assert done.stdout.strip().endswith("_N9999_R022_T33UUP_20240901T120000.json")


def test_what_is_no_l1c_product(tmp_path: Path) -> None:
    program = str(write_stand_in(tmp_path / "bin"))
    l2a = Safe("2A").write(tmp_path)
    with pytest.raises(InvalidItem, match=f"{l2a} is no L1C product but L2A"):
        correct(l2a, program=program)
    with pytest.raises(InvalidItem, match=r"no MTD_MSIL2A.xml or MTD_MSIL1C.xml"):
        correct(tmp_path, program=program)


def test_one_of_several_that_fails_stops_none(tmp_path: Path) -> None:
    program = write_stand_in(tmp_path / "bin")
    product = "S2A_MSIL1C_20170613T101031_N0510_R022_T33UUP_20240830T134009.SAFE"
    good = l1c(tmp_path / "a", baseline="05.10", product=product)
    bad, missing = l1c(tmp_path / "b", quality={"GENERAL_QUALITY": "FAILED"}), tmp_path / "missing.SAFE"
    arguments = ["l2a", missing, bad, good, "--to", tmp_path / "out", "--sen2cor", program]
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == 3
    assert len(done.stdout.splitlines()) == 1
    assert f"refused {missing}: " in done.stderr
    assert f"refused {bad}: " in done.stderr
    assert "2 of 3 products did not succeed" in done.stderr
    for source, options, code in (
        (bad, [], 4),
        (good, ["--sen2cor", tmp_path / "no"], 0),
        (good, ["--to", tmp_path / "elsewhere"], 20),
    ):
        arguments = ["l2a", source, "--to", tmp_path / "out", *options]
        assert CliRunner().invoke(main, list(map(str, arguments))).exit_code == code


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StorageError, match="cannot be written there"):
        correct(l1c(tmp_path / "in"), tmp_path / "out", program=str(write_stand_in(tmp_path / "bin")))


def test_where_sen2cor_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An option, then the environment, then the PATH, then the installer's folders, the newest of them."""
    with pytest.raises(MissingProgram, match=r"no L2A_Process found.*step\.esa\.int.*--sen2cor") as caught:
        find_sen2cor()
    assert caught.value.exit_code == 20
    home = tmp_path / "home"
    for version in ("02.05.05", "02.09.00", "02.11.00"):
        write_stand_in(home / f"Sen2Cor-{version}-Linux64" / "bin", version=version)
    assert find_sen2cor() == Sen2Cor(home / "Sen2Cor-02.11.00-Linux64/bin/L2A_Process", "02.11.00")
    write_stand_in(home / "Sen2Cor-2.12.3-Linux64" / "bin", version="02.12.03")
    assert find_sen2cor().release == (2, 12)
    on_path = write_stand_in(tmp_path / "path", version="02.08.00")
    monkeypatch.setenv("PATH", f"{on_path.parent}:{os.environ['PATH']}")
    assert find_sen2cor().program == on_path
    named = write_stand_in(tmp_path / "named", version="02.10.01")
    monkeypatch.setenv("LANDPATCH_L2A_PROCESS", str(named))
    assert find_sen2cor().version == "02.10.01"
    assert find_sen2cor(str(on_path)).version == "02.08.00"
    with pytest.raises(MissingProgram, match="is no program that can be run"):
        find_sen2cor(str(tmp_path / "named"))
    with pytest.raises(MissingProgram, match="names no version of sen2cor"):
        find_sen2cor("true")


@pytest.mark.parametrize(
    ("version", "baseline", "wanted"),
    [
        ("02.12.03", "05.11", None),
        ("02.11.00", "05.11", "2.12"),
        ("02.11.00", "05.00", "2.12"),
        ("02.11.00", "04.00", None),
        ("02.10.01", "04.00", "2.11"),
        ("02.05.05", "02.05", None),
        ("03.00.00", "05.11", None),
    ],
)
def test_versions_that_are_too_old(version: str, baseline: str, wanted: str | None) -> None:
    text = version_warning(Sen2Cor(Path("L2A_Process"), version), baseline)
    assert text is None if wanted is None else text is not None and f"{wanted} or newer" in text


def test_an_old_version_warns_and_works(tmp_path: Path) -> None:
    product = correct(
        l1c(tmp_path / "in"), tmp_path / "out", program=str(write_stand_in(tmp_path / "bin", version="02.09.00"))
    )
    assert product.warning is not None
    assert product.changed


def test_errors_of_the_runner_are_landpatch_s_own() -> None:
    codes = [kind.exit_code for kind in (MissingProgram, ProcessingFailed, ProcessingTimeout)]
    assert codes == [20, 21, 22]
    assert all(issubclass(kind, LandpatchError) for kind in (MissingProgram, ProcessingTimeout))
