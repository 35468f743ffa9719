"""Bad input and bad luck: a clear error with its own exit code, and nothing else harmed."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rasterio

from demo_build import Landpatch
from landpatch.catalog.items import items
from landpatch.catalog.store import Dataset
from small_scenes import ULX, ULY, SmallRadar, SmallScene, write_clc, write_raster


@pytest.fixture
def scenes(tmp_path: Path) -> tuple[Path, Path]:
    return SmallScene().write(tmp_path / "s2"), SmallRadar().write(tmp_path / "s1")


def edited(path: Path, change: Callable[[dict], object]) -> Path:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return path


def refused(landpatch: Landpatch, target: Path, *arguments: object) -> tuple[int, str]:
    """Exit code and message of a build that must write nothing."""
    result = landpatch("build", *arguments, "--to", target, check=False)
    assert "Traceback" not in result.stderr
    assert not target.exists()
    return result.returncode, result.stderr


def test_a_missing_band_is_named(tmp_path: Path, landpatch: Landpatch, scenes: tuple[Path, Path]) -> None:
    edited(scenes[0], lambda item: item["assets"].pop("swir22"))
    code, message = refused(landpatch, tmp_path / "d", scenes[0], "--s1", scenes[1], "--no-labels")
    assert code == 4
    assert "B12" in message


def test_an_item_without_proj_is_read_by_its_files(
    tmp_path: Path, landpatch: Landpatch, scenes: tuple[Path, Path]
) -> None:
    """What an item leaves out of proj, the files say; what they lack as well is an error that names the asset."""

    def without(item: dict) -> None:
        item["properties"].pop("proj:epsg")
        for asset in item["assets"].values():
            asset.pop("proj:shape")
            asset.pop("proj:transform")

    edited(scenes[0], without)
    landpatch("build", scenes[0], "--s1", scenes[1], "--no-labels", "--to", tmp_path / "d")
    assert len(Dataset.open(tmp_path / "d").table(["id"])) == 6
    with rasterio.open(scenes[0].parent / "B03.tif") as source:
        pixels, transform = source.read(1), source.transform
    write_raster(scenes[0].parent / "B03.tif", pixels, transform, epsg=None, nodata=0)
    code, message = refused(landpatch, tmp_path / "e", scenes[0], "--s1", scenes[1], "--no-labels")
    assert code == 4
    assert "asset green" in message


def test_a_scene_that_is_no_json_or_no_item(tmp_path: Path, landpatch: Landpatch) -> None:
    (tmp_path / "x.json").write_text("{")
    assert refused(landpatch, tmp_path / "d", tmp_path / "x.json", "--s2-only", "--no-labels")[0] == 4
    (tmp_path / "x.json").write_text('{"type": "FeatureCollection", "features": []}')
    code, message = refused(landpatch, tmp_path / "d", tmp_path / "x.json", "--s2-only", "--no-labels")
    assert code == 4
    assert "there is no Sentinel-2 item in the list" in message
    assert refused(landpatch, tmp_path / "d", tmp_path / "nowhere.json", "--s2-only", "--no-labels")[0] == 5


def test_a_scene_of_a_list_without_its_pair_does_not_stop_the_others(
    tmp_path: Path, landpatch: Landpatch, scenes: tuple[Path, Path]
) -> None:
    """Three scenes: one with a pair, one without, one with a band missing. What can be built is built."""
    optical, radar = (json.loads(path.read_text()) for path in scenes)
    for item, folder in ((optical, "s2"), (radar, "s1")):
        for asset in item["assets"].values():
            asset["href"] = f"{folder}/{asset['href']}"
    pair = {"rel": "landpatch:pair", "href": f"#{radar['id']}"}
    whole = {**optical, "links": [pair]}
    other = {"s2:product_uri": optical["properties"]["s2:product_uri"].replace("S2A_", "S2B_")}
    alone = {**optical, "id": "alone", "properties": {**optical["properties"], **other}}
    bare = {**optical, "id": "bare", "links": [pair], "assets": {"red": optical["assets"]["red"]}}
    listed = tmp_path / "scenes.json"
    listed.write_text(json.dumps({"type": "FeatureCollection", "features": [alone, bare, radar, whole]}))
    arguments = ("build", listed, "--no-labels", "--json", "--to")
    result = landpatch(*arguments, tmp_path / "d", check=False)
    assert result.returncode == 3, result.stderr
    answer = json.loads(result.stdout)
    assert answer["kept"] == 6
    assert answer["refused"] == {
        "alone": "item alone: it comes without a Sentinel-1 scene, so that every patch would be dropped as NO_S1: "
        "give Sentinel-1 items, or keep Sentinel-2 alone (--s2-only)",
        "bare": answer["refused"]["bare"],
    }
    assert "no asset at native resolution for band(s) B01" in answer["refused"]["bare"]
    answer = json.loads(landpatch(*arguments, tmp_path / "e", "--s2-only", check=False).stdout)
    assert answer["kept"] == 12
    assert list(answer["refused"]) == ["bare"]
    # Where none has a pair, nothing is begun.
    listed.write_text(json.dumps({"type": "FeatureCollection", "features": [alone, radar]}))
    code, message = refused(landpatch, tmp_path / "f", listed, "--no-labels")
    assert code == 2
    assert "no Sentinel-2 scene comes with a Sentinel-1 scene" in message
    code, message = refused(landpatch, tmp_path / "f", listed, "--s1", scenes[1], "--no-labels")
    assert code == 2
    assert "is a scene list" in message


@pytest.mark.parametrize("href", ["/vsicurl/x.tif", "ftp://host/x.tif", "gs://bucket/x.tif"])
def test_hostile_hrefs_are_not_followed(
    tmp_path: Path, landpatch: Landpatch, scenes: tuple[Path, Path], href: str
) -> None:
    edited(scenes[0], lambda item: item["assets"]["blue"].update(href=href))
    code, message = refused(landpatch, tmp_path / "d", scenes[0], "--s1", scenes[1], "--no-labels")
    assert code == 4
    assert href in message


def test_an_item_id_cannot_leave_the_dataset(tmp_path: Path, landpatch: Landpatch, scenes: tuple[Path, Path]) -> None:
    edited(scenes[0], lambda item: item.update(id="../../evil"))
    code, message = refused(landpatch, tmp_path / "d", scenes[0], "--s1", scenes[1], "--no-labels")
    assert code == 4
    assert "../../evil" in message


def test_labels_that_cannot_be_used(tmp_path: Path, landpatch: Landpatch, scenes: tuple[Path, Path]) -> None:
    gpkg = write_clc(tmp_path / "clc.gpkg", [(ULX, ULY - 9000, ULX + 9000, ULY, "211")])
    whole = gpkg.read_bytes()
    (tmp_path / "half.gpkg").write_bytes(whole[: len(whole) // 2])
    result = landpatch("labels", "prepare", tmp_path / "half.gpkg", tmp_path / "half.parquet", check=False)
    assert result.returncode == 6
    assert "half.gpkg" in result.stderr
    assert not (tmp_path / "half.parquet").exists()
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and nothing more PAR1")
    code, message = refused(
        landpatch, tmp_path / "d", scenes[0], "--s1", scenes[1], "--labels", tmp_path / "bad.parquet"
    )
    assert code == 6
    assert "bad.parquet" in message


def test_usage_is_explained(tmp_path: Path, landpatch: Landpatch, scenes: tuple[Path, Path]) -> None:
    for arguments in (
        [scenes[0], "--s1", scenes[1]],
        [scenes[0], "--s1", scenes[1], "--no-labels", "--labels", "x.parquet"],
        [scenes[0], "--no-labels"],
    ):
        code, message = refused(landpatch, tmp_path / "d", *arguments)
        assert code == 2
        assert "--" in message


def test_an_unwritable_target(tmp_path: Path, landpatch: Landpatch, scenes: tuple[Path, Path]) -> None:
    """Below a file there can be no folder, not even for root."""
    (tmp_path / "file").write_text("here first")
    target = tmp_path / "file" / "dataset"
    result = landpatch("build", scenes[0], "--s1", scenes[1], "--no-labels", "--to", target, check=False)
    assert result.returncode == 7
    assert str(target) in result.stderr
    assert (tmp_path / "file").read_text() == "here first"


@pytest.fixture
def small_disk(tmp_path: Path, component: Callable[[str, object], None]) -> Iterator[Path]:
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0
    component("a tmpfs of a fixed size (mount, as root)", mounted)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_loses_nothing_and_the_same_command_goes_on(
    tmp_path: Path, landpatch: Landpatch, small_disk: Path
) -> None:
    scene = SmallScene(nx=6, ny=4).write(tmp_path / "s2")  # 24 patches of about 300 kB
    radar = SmallRadar(nx=6, ny=4).write(tmp_path / "s1")
    command = ["build", scene, "--s1", radar, "--no-labels", "--to", small_disk / "dataset"]
    result = landpatch(*command, check=False)
    assert result.returncode == 7
    assert "disk is full" in result.stderr
    assert "Traceback" not in result.stderr
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    landpatch(*command)
    landpatch("build", scene, "--s1", radar, "--no-labels", "--to", tmp_path / "elsewhere")
    there, here = Dataset.open(small_disk / "dataset"), Dataset.open(tmp_path / "elsewhere")
    assert list(items(there.table())) == list(items(here.table()))
    files = {p.relative_to(small_disk / "dataset") for p in (small_disk / "dataset").rglob("*") if p.is_file()}
    assert not [file for file in files if "#" in file.name]


def test_a_damaged_dataset_is_said_to_be_one(tmp_path: Path, landpatch: Landpatch, scenes: tuple[Path, Path]) -> None:
    target = tmp_path / "dataset"
    landpatch("build", scenes[0], "--s1", scenes[1], "--no-labels", "--to", target)
    table = target / "items.parquet"
    whole = table.read_bytes()
    table.write_bytes(whole[:1000])
    result = landpatch("export", "lmdb", target, tmp_path / "x.lmdb", check=False)
    assert result.returncode == 9
    assert "items.parquet" in result.stderr
    # The remedy that the message names: build again; the parts are still there.
    landpatch("build", scenes[0], "--s1", scenes[1], "--no-labels", "--to", target)
    assert table.read_bytes() == whole
    assert landpatch("status", tmp_path / "s2", check=False).returncode == 0
    assert landpatch("export", "folders", tmp_path / "s2", tmp_path / "x", check=False).returncode == 9
