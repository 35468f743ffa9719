"""The import of published rows and published files: all rows of some tiles, and real patches bit for bit."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from landpatch.catalog.bands import OPTICAL_ASSETS, PATCH_ASSETS, S1, PatchAsset, band_files
from landpatch.catalog.cogs import read_planes
from landpatch.catalog.exports.folders import export_folders
from landpatch.catalog.exports.lmdb import export_lmdb
from landpatch.catalog.grid import TileGrid
from landpatch.catalog.items import items
from landpatch.catalog.official import import_bigearthnet
from landpatch.catalog.store import Dataset
from landpatch.catalog.tables import write_table
from small_official import write_archives, write_tiff

TABLES = ("metadata.parquet", "metadata_for_patches_with_snow_cloud_or_shadow.parquet")
PATCH = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57"
BESIDE = f"{PATCH[:-6]}_65_63"
RADAR = "S1B_IW_GRDH_1SDV_20170612T165809_33UUP_26_57"


def write_rows(shared_data: Path, target: Path, wanted: Any) -> list[pa.Table]:
    """The published rows for which ``wanted`` (of the ids) holds, as tables of their own."""
    target.mkdir(parents=True, exist_ok=True)
    chosen = []
    for name in TABLES:
        table = pq.read_table(shared_data / "bigearthnet-v2" / name)
        chosen.append(table.filter(wanted(table.column("patch_id"))))
        (target / name).write_bytes(write_table(chosen[-1]))
    return chosen


def test_all_rows_of_three_tiles(shared_data: Path, tmp_path: Path) -> None:
    tiles = "T33UUP|T34VER|T29UPU"
    published = write_rows(
        shared_data, tmp_path / "source", lambda ids: pc.match_substring_regex(ids, f"_({tiles})_")
    )
    result = import_bigearthnet(tmp_path / "source", tmp_path / "dataset")
    assert result.patches == sum(table.num_rows for table in published) > 20_000
    for name, table in zip(TABLES, published, strict=True):
        again = pq.read_table(tmp_path / "dataset" / name)
        assert again.schema.equals(table.schema)
        assert again.equals(table)
    counts = Dataset.open(tmp_path / "dataset").collection()["landpatch:counts"]
    whole = pa.concat_tables(published)
    assert counts["labels"] == dict(Counter(label for row in whole["labels"].to_pylist() for label in row))
    assert counts["countries"] == dict(Counter(whole["country"].to_pylist()))
    assert counts["splits"] == dict(Counter(whole["split"].to_pylist()))
    gaps = Dataset.open(tmp_path / "dataset").table(["landpatch:s1_gap_hours"]).column(0)
    assert 0 < pc.min(gaps).as_py() < pc.max(gaps).as_py() <= 137.8


def test_a_published_optical_patch(shared_data: Path, tmp_path: Path) -> None:
    (folder,) = (shared_data / "bigearthnet-v2/patches/S2").iterdir()
    write_rows(shared_data, tmp_path / "source", lambda ids: pc.equal(ids, folder.name))
    target = tmp_path / "source/BigEarthNet-S2" / folder.name[:-6] / folder.name
    shutil.copytree(folder, target)
    assert import_bigearthnet(tmp_path / "source", tmp_path / "dataset").patches == 1
    dataset = Dataset.open(tmp_path / "dataset")
    (item,) = items(dataset.table())
    for key, asset in item["assets"].items():
        (ours,) = (one for one in PATCH_ASSETS if one.key == key)
        planes = read_planes(dataset.storage.get(asset["href"]), ours)
        for band, plane in zip(band_files(ours), planes, strict=True):
            with rasterio.open(folder / f"{folder.name}{band.suffix}.tiff") as file:
                np.testing.assert_array_equal(file.read(1), plane)
                assert asset["proj:transform"] == list(file.transform)[:6]
                assert item["properties"]["proj:code"] == f"EPSG:{file.crs.to_epsg()}"


def write_bands(shared_data: Path, folder: Path, name: str, asset: PatchAsset, x: int, y: int) -> None:
    """A patch's bands in the official layout, cut from the scene of tile 33UUP that is at hand."""
    radar = asset is S1
    left, top = TileGrid.from_tile("33UUP").corner(x, y)
    folder.mkdir(parents=True, exist_ok=True)
    for band in band_files(asset):
        source = shared_data / "scene-33uup" / (RADAR[:32] if radar else PATCH[:-6])
        with rasterio.open(source / f"{band.key.lower() if radar else band.key}.tif") as file:
            size = asset.pixels
            plane = file.read(1, window=Window(x * size, y * size, size, size))
        write_tiff(folder / f"{name}{band.suffix}.tif", plane, 32633, left, top, asset.resolution)


def test_a_published_radar_patch_pixel_for_pixel(shared_data: Path, tmp_path: Path) -> None:
    """Its published files, beside the optical half of its scene: what is imported is what GDAL reads in them."""
    (folder,) = (shared_data / "bigearthnet-v2/patches/S1").iterdir()
    source = tmp_path / "source"
    ((row,), _) = (table.to_pylist() for table in write_rows(shared_data, source, lambda ids: pc.equal(ids, BESIDE)))
    assert row["s1_name"] == folder.name
    shutil.copytree(folder, source / "BigEarthNet-S1" / folder.name[:32] / folder.name)
    for asset in OPTICAL_ASSETS:
        write_bands(shared_data, source / "BigEarthNet-S2" / BESIDE[:-6] / BESIDE, BESIDE, asset, 65, 63)
    result = import_bigearthnet(source, tmp_path / "dataset")
    assert result.dropped == {}, result.problems
    dataset = Dataset.open(tmp_path / "dataset")
    (item,) = items(dataset.table())
    asset = item["assets"][S1.key]
    planes = read_planes(dataset.storage.get(asset["href"]), S1)
    with rasterio.open(tmp_path / "dataset" / asset["href"]) as ours:
        np.testing.assert_array_equal(ours.read(), planes)
        for band, plane in zip(band_files(S1), planes, strict=True):
            with rasterio.open(folder / f"{folder.name}{band.suffix}.tif") as file:
                np.testing.assert_array_equal(file.read(1), plane)
                assert (file.transform, file.crs.to_epsg()) == (ours.transform, ours.crs.to_epsg())
                assert plane.std() > 1  # decibels of a landscape


@pytest.fixture(scope="module")
def published_tree(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patch 26_57 of tile 33UUP as the official tree has it, with its published map."""
    root = tmp_path_factory.mktemp("published") / "tree"
    write_rows(shared_data, root, lambda ids: pc.equal(ids, PATCH))
    for asset in (*OPTICAL_ASSETS, S1):
        tree, name = ("BigEarthNet-S1", RADAR) if asset is S1 else ("BigEarthNet-S2", PATCH)
        scene = RADAR[:32] if asset is S1 else PATCH[:-6]
        write_bands(shared_data, root / tree / scene / name, name, asset, 26, 57)
    folder = root / "Reference_Maps" / PATCH[:-6] / PATCH
    folder.mkdir(parents=True)
    shutil.copy(shared_data / "scene-33uup" / f"{PATCH}_reference_map.tif", folder)
    return root


def planes_of(root: Path) -> dict[str, NDArray[Any]]:
    found = {}
    for path in root.rglob("*.tif"):
        with rasterio.open(path) as file:
            found[str(path.relative_to(root))] = file.read(1)
    return found


@pytest.mark.parametrize("form", ["folders", "archives"])
def test_a_published_pair_with_its_map(published_tree: Path, tmp_path: Path, form: str) -> None:
    source = published_tree
    if form == "archives":
        source = tmp_path / "archives"
        write_archives(source, published_tree)
    result = import_bigearthnet(source, tmp_path / "dataset")
    assert (result.patches, result.dropped, result.ignored) == (1, {}, 0)
    dataset = Dataset.open(tmp_path / "dataset")
    (item,) = items(dataset.table())
    # The published labels are those of the published map, so that their pixels can be counted.
    assert sum(item["properties"]["landpatch:label_pixels"]) == 14400 * (
        1 - item["properties"]["landpatch:unlabelled"]
    )
    export_folders(dataset, tmp_path / "tree")
    before, after = planes_of(published_tree), planes_of(tmp_path / "tree")
    assert before.keys() == after.keys()
    assert len(before) == 15
    for name, plane in before.items():
        np.testing.assert_array_equal(after[name], plane)
    for name in TABLES:
        assert (tmp_path / "tree" / name).read_bytes() == (published_tree / name).read_bytes()
    assert export_lmdb(dataset, tmp_path / "lmdb").patches == 1
