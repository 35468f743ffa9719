"""The official folder tree: which files, what is in them, and that it can be interrupted."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio

from landpatch.catalog.errors import DatasetConflict, InvalidDataset
from landpatch.catalog.exports.folders import export_folders
from landpatch.catalog.store import Dataset
from small_dataset import RADAR, SCENE, Patch, write_dataset

OTHER = "S2B_MSIL2A_20170715T104029_N9999_R008_T31UDQ"
OTHER_RADAR = "S1A_IW_GRDH_1SDV_20170715T055000"
PATCHES = [Patch(2, 9), Patch(11, 3), Patch(0, 0, scene=OTHER, radar=OTHER_RADAR)]
# Written out: where each band lies in our files, and how large its pixels are in metres.
BANDS = {
    "B01": ("S2_60m", 0, 60),
    "B02": ("S2_10m", 0, 10),
    "B03": ("S2_10m", 1, 10),
    "B04": ("S2_10m", 2, 10),
    "B05": ("S2_20m", 0, 20),
    "B06": ("S2_20m", 1, 20),
    "B07": ("S2_20m", 2, 20),
    "B08": ("S2_10m", 3, 10),
    "B8A": ("S2_20m", 3, 20),
    "B09": ("S2_60m", 1, 60),
    "B11": ("S2_20m", 4, 20),
    "B12": ("S2_20m", 5, 20),
}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return write_dataset(str(tmp_path / "dataset"), PATCHES)


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def files_of(patch: Patch) -> set[str]:
    files = {f"BigEarthNet-S2/{patch.scene}/{patch.id}/{patch.id}_{band}.tif" for band in BANDS}
    if patch.radar:
        files |= {f"BigEarthNet-S1/{patch.radar}/{patch.s1_name}/{patch.s1_name}_{band}.tif" for band in ("VV", "VH")}
    if patch.labelled:
        files.add(f"Reference_Maps/{patch.scene}/{patch.id}/{patch.id}_reference_map.tif")
    return files


TABLES = {"metadata.parquet", "metadata_for_patches_with_snow_cloud_or_shadow.parquet", "landpatch.json"}


def written(root: Path) -> dict[str, int]:
    return {name: (root / name).stat().st_mtime_ns for name in tree(root)}


def test_the_tree_is_the_official_one(dataset: Dataset, tmp_path: Path) -> None:
    assert export_folders(dataset, tmp_path / "tree") == 3
    expected = set().union(*(files_of(patch) for patch in PATCHES))
    assert tree(tmp_path / "tree") == expected | TABLES
    assert f"BigEarthNet-S1/{RADAR}/{RADAR}_33UUP_2_9/{RADAR}_33UUP_2_9_VV.tif" in expected
    assert f"BigEarthNet-S2/{SCENE}/{SCENE}_02_09/{SCENE}_02_09_B8A.tif" in expected


def read(path: Path) -> tuple[Any, dict[str, Any]]:
    with rasterio.open(path) as source:
        tags = source.tags(ns="IMAGE_STRUCTURE")
        facts = {
            "dtype": source.dtypes,
            "shape": source.shape,
            "nodata": source.nodata,
            "epsg": source.crs.to_epsg(),
            "transform": tuple(source.transform)[:6],
            "compression": tags["COMPRESSION"],
            "predictor": tags.get("PREDICTOR"),
        }
        return source.read(1), facts


@pytest.mark.parametrize("compression", ["deflate", "zstd"])
def test_files_hold_one_band_as_published(tmp_path: Path, compression: str) -> None:
    patch = Patch(2, 9, compression=compression)
    export_folders(write_dataset(str(tmp_path / "dataset"), [patch]), tmp_path / "tree")
    left, top = 300_000 + 2 * 1200, 5_400_000 - 9 * 1200  # of tile 33UUP
    pixels = patch.pixels()
    folder = tmp_path / "tree" / "BigEarthNet-S2" / SCENE / patch.id
    for band, (key, plane, metres) in BANDS.items():
        found, facts = read(folder / f"{patch.id}_{band}.tif")
        np.testing.assert_array_equal(found, pixels[key][plane])
        assert facts == {
            "dtype": ("uint16",),
            "shape": (1200 // metres, 1200 // metres),
            "nodata": 0,
            "epsg": 32633,
            "transform": (metres, 0, left, 0, -metres, top),
            "compression": "DEFLATE",
            "predictor": "2",
        }
    folder = tmp_path / "tree" / "BigEarthNet-S1" / RADAR / patch.s1_name
    for plane, band in enumerate(("VV", "VH")):
        found, facts = read(folder / f"{patch.s1_name}_{band}.tif")
        np.testing.assert_array_equal(found, pixels["S1"][plane])
        assert (facts["dtype"], facts["nodata"], facts["epsg"]) == (("float32",), None, 32633)
        assert facts["transform"] == (10, 0, left, 0, -10, top)
    found, facts = read(tmp_path / "tree" / "Reference_Maps" / SCENE / patch.id / f"{patch.id}_reference_map.tif")
    np.testing.assert_array_equal(found, pixels["reference_map"][0])
    assert (facts["dtype"], facts["nodata"], facts["compression"], facts["predictor"]) == (
        ("uint16",),
        0,
        "DEFLATE",
        "2",
    )


def test_structure_is_that_of_a_published_map(dataset: Dataset, tmp_path: Path, shared_data: Path) -> None:
    export_folders(dataset, tmp_path / "tree")
    patch = PATCHES[0]
    ours = read(tmp_path / "tree" / "Reference_Maps" / SCENE / patch.id / f"{patch.id}_reference_map.tif")[1]
    theirs = read(shared_data / "scene-33uup" / f"{SCENE}_26_57_reference_map.tif")[1]
    del ours["transform"], theirs["transform"]
    assert ours == theirs


def test_tables_are_those_of_the_dataset(tmp_path: Path) -> None:
    patches = [Patch(1, 1), Patch(1, 2, flags=(True, False)), Patch(1, 3, flags=(False, True))]
    export_folders(write_dataset(str(tmp_path / "dataset"), patches), tmp_path / "tree")
    clean, flagged = (pq.read_table(tmp_path / "tree" / name) for name in sorted(TABLES - {"landpatch.json"}))
    assert clean.column("patch_id").to_pylist() == [patches[0].id]
    assert flagged.column("patch_id").to_pylist() == [patches[1].id, patches[2].id]
    assert clean.column("s1_name").to_pylist() == [patches[0].s1_name]
    assert clean.column("labels").to_pylist() == [["Arable land", "Pastures"]]


def test_what_a_patch_lacks_has_no_files(tmp_path: Path) -> None:
    patches = [Patch(1, 1, radar=None), Patch(1, 2, labelled=False)]
    export_folders(write_dataset(str(tmp_path / "dataset"), patches), tmp_path / "tree")
    assert tree(tmp_path / "tree") == files_of(patches[0]) | files_of(patches[1]) | TABLES


def test_a_second_run_writes_nothing(dataset: Dataset, tmp_path: Path) -> None:
    export_folders(dataset, tmp_path / "tree")
    before = written(tmp_path / "tree")
    told: list[tuple[int, int]] = []
    assert export_folders(dataset, tmp_path / "tree", progress=lambda *numbers: told.append(numbers)) == 3
    assert written(tmp_path / "tree") == before
    assert told == [(3, 3)]


def test_an_interrupted_export_writes_what_is_missing(dataset: Dataset, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    export_folders(dataset, tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        export_folders(dataset, tmp_path / "tree", progress=stop)
    gone = next((tmp_path / "tree" / "BigEarthNet-S2").rglob(f"{PATCHES[0].id}_B05.tif"))
    gone.unlink()
    before = written(tmp_path / "tree")
    told: list[tuple[int, int]] = []
    export_folders(dataset, tmp_path / "tree", progress=lambda *numbers: told.append(numbers))
    assert told == [(1, 3), (2, 3), (3, 3)]
    after = written(tmp_path / "tree")
    assert {name: after[name] for name in before if name != "landpatch.json"} == {
        name: time for name, time in before.items() if name != "landpatch.json"
    }
    for name in tree(tmp_path / "undisturbed"):
        assert (tmp_path / "tree" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


def test_scenes_that_a_dataset_gains_are_added(dataset: Dataset, tmp_path: Path) -> None:
    first = write_dataset(str(tmp_path / "first"), PATCHES[:2])
    export_folders(first, tmp_path / "tree")
    before = written(tmp_path / "tree")
    export_folders(dataset, tmp_path / "tree")
    after = written(tmp_path / "tree")
    assert set(after) - set(before) == files_of(PATCHES[2])
    # No patch has a flag: the other table stays as it was.
    assert {name for name in before if after[name] != before[name]} == TABLES - {
        "metadata_for_patches_with_snow_cloud_or_shadow.parquet"
    }
    assert pq.read_table(tmp_path / "tree" / "metadata.parquet").num_rows == 3


def test_another_state_of_a_scene_is_not_mixed_in(dataset: Dataset, tmp_path: Path) -> None:
    export_folders(dataset, tmp_path / "tree")
    before = written(tmp_path / "tree")
    other = write_dataset(str(tmp_path / "other"), [Patch(2, 9, radar_seed=1)])
    with pytest.raises(DatasetConflict, match="another state"):
        export_folders(other, tmp_path / "tree")
    assert written(tmp_path / "tree") == before


@pytest.mark.parametrize("name", ["metadata.parquet", f"BigEarthNet-S2/{SCENE}/x/x_B01.tif"])
def test_an_official_tree_is_left_alone(dataset: Dataset, tmp_path: Path, name: str) -> None:
    file = tmp_path / "tree" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"published")
    with pytest.raises(DatasetConflict, match="no export of landpatch"):
        export_folders(dataset, tmp_path / "tree")
    assert tree(tmp_path / "tree") == {name}


def test_damaged_files_are_named_and_the_others_are_written(dataset: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "dataset" / "patches" / "33UUP" / SCENE
    cut = folder / PATCHES[0].id / f"{PATCHES[0].id}_S2_60m.tif"
    gone = folder / PATCHES[1].id / f"{PATCHES[1].s1_name}.tif"
    sound = {file: file.read_bytes() for file in (cut, gone)}
    cut.write_bytes(sound[cut][:-1])
    gone.unlink()
    with pytest.raises(InvalidDataset) as caught:
        export_folders(dataset, tmp_path / "tree")
    for patch, file in ((PATCHES[0], cut), (PATCHES[1], gone)):
        assert f"patch {patch.id}: {file}" in str(caught.value)
    lacking = {name for name in files_of(PATCHES[0]) if name.endswith(("_B01.tif", "_B09.tif"))}
    lacking |= {name for name in files_of(PATCHES[1]) if "-S1/" in name}
    expected = set().union(*(files_of(patch) for patch in PATCHES))
    assert tree(tmp_path / "tree") == expected - lacking | {"landpatch.json"}

    for file, data in sound.items():
        file.write_bytes(data)
    export_folders(dataset, tmp_path / "tree")
    assert tree(tmp_path / "tree") == expected | TABLES


def test_sentinel_1_of_two_dates_is_one_file_unless_it_differs(tmp_path: Path) -> None:
    later = "S2B_MSIL2A_20170620T101029_N9999_R022_T33UUP"
    same = [Patch(1, 1, radar_seed=7), Patch(1, 1, scene=later, radar_seed=7, compression="zstd")]
    export_folders(write_dataset(str(tmp_path / "same"), same), tmp_path / "tree")
    assert tree(tmp_path / "tree") == files_of(same[0]) | files_of(same[1]) | TABLES
    other = write_dataset(str(tmp_path / "other"), [Patch(1, 1), Patch(1, 1, scene=later)])
    for _ in range(2):
        with pytest.raises(InvalidDataset, match=f"{same[0].s1_name}_V[VH].tif has other pixels"):
            export_folders(other, tmp_path / "refused")
