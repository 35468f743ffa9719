"""Every row of the two published metadata tables, read by the rules of names, split and nomenclature."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import compute, parquet

from landpatch.catalog.assignment import split_squares
from landpatch.catalog.countries import Countries
from landpatch.catalog.grid import TileGrid
from landpatch.catalog.names import PatchId, RadarPatchName, V1PatchName
from landpatch.catalog.nomenclature import clc2018
from landpatch.catalog.splits import SPLITS, LeftOut, SplitRule, splits_by_position
from landpatch.catalog.squares import Squares

ROWS = {"metadata": 480_038, "metadata_for_patches_with_snow_cloud_or_shadow": 69_450}


@pytest.fixture(scope="module")
def table(shared_data: Path) -> pa.Table:
    parts = [parquet.read_table(shared_data / f"bigearthnet-v2/{name}.parquet") for name in ROWS]
    assert [part.num_rows for part in parts] == list(ROWS.values())
    return pa.concat_tables(parts)


@pytest.fixture(scope="module")
def patches(table: pa.Table) -> list[PatchId]:
    return [PatchId.parse(text) for text in table["patch_id"].to_pylist()]


def _same(values: list[Any], column: pa.ChunkedArray) -> bool:
    return list(map(str, values)) == column.to_pylist()


def test_all_patch_ids_format_back(table: pa.Table, patches: list[PatchId]) -> None:
    assert len(patches) == 549_488
    assert compute.count_distinct(table["patch_id"]).as_py() == 549_488
    assert _same(patches, table["patch_id"])
    scenes = {patch.scene for patch in patches}
    assert len(scenes) == 115
    assert {scene.baseline for scene in scenes} == {"9999"}


def test_all_tiles_exist(patches: list[PatchId]) -> None:
    grids = {TileGrid.from_tile(tile) for tile in {patch.scene.tile for patch in patches}}
    assert {grid.epsg // 100 for grid in grids} == {326}


def test_the_split_is_that_of_the_position(table: pa.Table, patches: list[PatchId]) -> None:
    xs = np.array([patch.x for patch in patches])
    ys = np.array([patch.y for patch in patches])
    assert _same(splits_by_position(xs, ys), table["split"])


@pytest.fixture(scope="module")
def places(patches: list[PatchId]) -> tuple[Squares, Any]:
    tiles = sorted({patch.scene.tile for patch in patches})
    number = {tile: code for code, tile in enumerate(tiles)}
    columns = np.array([(number[patch.scene.tile], patch.x, patch.y) for patch in patches])
    return Squares.of(tiles, *columns.T)


def test_the_country_is_the_nearest_one(table: pa.Table, places: tuple[Squares, Any]) -> None:
    """All of them: none is let off for lying near a border, or at sea."""
    squares, place_of = places
    countries = Countries.read(only=compute.unique(table["country"]).to_pylist())
    assert len(countries.names) == 10
    nearest = np.array(countries.nearest(squares), object)[place_of]
    assert int((nearest == table["country"].to_numpy()).sum()) == 549_488


def test_what_buffers_cost(table: pa.Table, places: tuple[Squares, Any]) -> None:
    """The figures of docs/splits.md. Without a buffer the rule gives the published column; and as patches of
    different splits touch but never share ground, tiles of two zones among them, a buffer of 0 costs nothing.
    """
    squares, place_of = places
    for buffer, lost in ((None, 0), (0, 0), (1200, 29_708)):
        splits, reasons = split_squares(squares, SplitRule(buffer=buffer), np.ones(len(squares), bool))
        kept = splits[place_of] >= 0
        assert _same(np.array(SPLITS)[splits[place_of][kept]].tolist(), table["split"].filter(pa.array(kept)))
        assert (reasons[place_of] == list(LeftOut).index(LeftOut.BUFFER)).sum() == lost == (~kept).sum()


def test_all_radar_names_format_back_and_belong_to_their_patch(table: pa.Table, patches: list[PatchId]) -> None:
    names = [RadarPatchName.parse(text) for text in table["s1_name"].to_pylist()]
    assert _same(names, table["s1_name"])
    assert all(name.belongs_to(patch) for name, patch in zip(names, patches, strict=True))
    assert len({name.scene for name in names}) == 312
    # BIGEARTHNET_V2: the scene closest in time, at most 137.8 h away.
    pairs = {(name.scene.start, patch.scene.sensed) for name, patch in zip(names, patches, strict=True)}
    assert max(abs(radar - optical).total_seconds() for radar, optical in pairs) / 3600 == pytest.approx(
        137.8, abs=0.1
    )


def test_all_names_of_the_first_version_parse(table: pa.Table, patches: list[PatchId]) -> None:
    texts = table["s2v1_name"].to_pylist()
    names = [V1PatchName.parse(text) for text in texts]
    for name, patch in zip(names, patches, strict=True):
        assert (name.platform, name.x, name.y) == (patch.scene.platform, patch.x, patch.y)
    # The first version took its time from elsewhere in the product: some seconds off, never more than eight.
    pairs = {(name.sensed, patch.scene.sensed) for name, patch in zip(names, patches, strict=True)}
    assert max(abs(first - second).total_seconds() for first, second in pairs) == 8
    # Both quirks are in the table, so that they were parsed above.
    clocks = {text.split("_")[2].split("T")[1] for text in texts}
    assert {len(clock) for clock in clocks} == {5, 6}
    assert {clock for clock in clocks if int(clock[-2:]) > 59} == {"94160", "94161"}


def test_all_labels_are_known_and_sorted(table: pa.Table) -> None:
    names = compute.unique(compute.list_flatten(table["labels"])).to_pylist()
    assert sorted(names) == list(clc2018().classes)
    joined = compute.unique(compute.binary_join(table["labels"], "|")).to_pylist()
    assert all(text.split("|") == sorted(set(text.split("|"))) for text in joined)
    assert "" not in joined
