"""Previews and map tiles of a small dataset, held against the pixels that were written."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from pyproj import Transformer

from landpatch.catalog.bands import S2_10M
from landpatch.catalog.errors import InvalidParameter, UnreadableAsset
from landpatch.catalog.grid import TileGrid
from landpatch.catalog.items import items
from landpatch.catalog.mosaic import TILE_PIXELS, Mosaic
from landpatch.catalog.nomenclature import clc2018
from landpatch.catalog.previews import codes_of, entity_tag, geotiff, preview, rendering_of
from landpatch.catalog.renderings import RENDERINGS, picture
from landpatch.catalog.store import Dataset, NotFound
from small_dataset import Patch, write_dataset

LATER = "S2A_MSIL2A_20180613T101031_N9999_R022_T33UUP"
PATCHES = [Patch(10, 20), Patch(11, 20), Patch(10, 21, radar=None, labelled=False), Patch(11, 20, scene=LATER)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(str(tmp_path_factory.mktemp("dataset")), PATCHES)


@pytest.fixture(scope="module")
def by_id(dataset: Dataset) -> dict[str, dict[str, Any]]:
    return {item["id"]: item for item in items(dataset.table())}


def _image(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("name", ["true_colour", "false_colour", "s1_composite", "reference_map"])
def test_a_preview_shows_the_patch_s_pixels(dataset: Dataset, by_id: dict[str, Any], name: str) -> None:
    patch, rendering = PATCHES[0], RENDERINGS[name]
    expected = picture(rendering, patch.pixels()[rendering.asset.key], clc2018())
    item = by_id[patch.id]
    assert (_image(preview(dataset, item, rendering, 120, clc2018())) == expected).all()
    assert _image(preview(dataset, item, rendering, 300, clc2018())).shape == (300, 300, 3)
    with rasterio.MemoryFile(geotiff(dataset, item, rendering, clc2018())) as memory, memory.open() as raster:
        assert raster.crs.to_epsg() == 32633
        left, top = TileGrid.from_tile("33UUP").corner(patch.x, patch.y)
        assert tuple(raster.bounds) == (left, top - 1200, left + 1200, top)
        assert (np.moveaxis(raster.read(), 0, -1) == expected).all()


def test_what_a_patch_does_not_have_is_not_found(by_id: dict[str, Any]) -> None:
    bare = by_id[PATCHES[2].id]
    assert rendering_of(bare, "true_colour") is RENDERINGS["true_colour"]
    for name in ("s1_composite", "reference_map", "thermal"):
        with pytest.raises(NotFound, match=name):
            rendering_of(bare, name)


def test_sizes_have_limits(dataset: Dataset, by_id: dict[str, Any]) -> None:
    for size in (0, 15, 1201, 10**9):
        with pytest.raises(InvalidParameter, match="16 to 1200"):
            preview(dataset, by_id[PATCHES[0].id], RENDERINGS["true_colour"], size)


def test_an_entity_tag_changes_with_what_is_drawn(by_id: dict[str, Any]) -> None:
    one, other = (by_id[patch.id] for patch in PATCHES[:2])
    tags = [
        entity_tag(item, RENDERINGS[name], size)
        for item in (one, other)
        for name in ("true_colour", "false_colour")
        for size in (120, 240)
    ]
    assert len(set(tags)) == 8
    assert tags[0] == entity_tag(one, RENDERINGS["true_colour"], 120)
    rewritten = {**one, "assets": {**one["assets"], "S2_10m": {**one["assets"]["S2_10m"], "file:checksum": "1220ff"}}}
    assert entity_tag(rewritten, RENDERINGS["true_colour"], 120) != tags[0]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    dataset = write_dataset(str(tmp_path), PATCHES[:1])
    (item,) = items(dataset.table())
    (tmp_path / item["assets"]["S2_10m"]["href"]).write_bytes(b"not a TIFF")
    with pytest.raises(UnreadableAsset, match=r"S2_10m\.tif: not a TIFF"):
        preview(dataset, item, RENDERINGS["true_colour"], 120)


def test_the_codes_of_a_map(dataset: Dataset, by_id: dict[str, Any]) -> None:
    assert codes_of(dataset, by_id[PATCHES[0].id]) == {211, 231, 999}


# --- map tiles ---------------------------------------------------------------------------------------------------


def _tile_over(longitude: float, latitude: float, zoom: int) -> tuple[int, int]:
    x = int((longitude + 180) / 360 * 2**zoom)
    y = int((1 - np.arcsinh(np.tan(np.radians(latitude))) / np.pi) / 2 * 2**zoom)
    return x, y


def _place(tile: str, metres_right: float, metres_down: float) -> tuple[float, float]:
    grid = TileGrid.from_tile(tile)
    transformer = Transformer.from_crs(grid.epsg, 4326, always_xy=True)
    longitude, latitude = transformer.transform(grid.ulx + metres_right, grid.uly - metres_down)
    return float(longitude), float(latitude)


def test_a_map_tile_shows_each_pixel_where_it_lies(dataset: Dataset) -> None:
    """Each pixel of the tile is the one that lies there: looked up here through the projected position."""
    zoom = 15
    column, row = _tile_over(*_place("33UUP", 11 * 1200, 20 * 1200 + 600), zoom)  # on the edge between two patches
    drawn = Mosaic(dataset).tile(zoom, column, row, RENDERINGS["true_colour"])
    assert drawn.shape == (TILE_PIXELS, TILE_PIXELS, 4)
    # Of two scenes in one place the newer one is seen.
    seen = {(10, 20): PATCHES[0], (11, 20): PATCHES[3], (10, 21): PATCHES[2]}
    colours = {place: picture(RENDERINGS["true_colour"], patch.pixels()[S2_10M.key]) for place, patch in seen.items()}
    to_mercator = 20037508.342789244
    grid = TileGrid.from_tile("33UUP")
    to_utm = Transformer.from_crs(3857, grid.epsg, always_xy=True)
    met = set()
    for line in range(0, TILE_PIXELS, 5):
        for pixel in range(0, TILE_PIXELS, 5):
            x = ((column + (pixel + 0.5) / TILE_PIXELS) / 2**zoom * 2 - 1) * to_mercator
            y = (1 - (row + (line + 0.5) / TILE_PIXELS) / 2**zoom * 2) * to_mercator
            easting, northing = to_utm.transform(x, y)
            place = int((easting - grid.ulx) // 1200), int((grid.uly - northing) // 1200)
            if place not in colours:
                assert drawn[line, pixel].tolist() == [0, 0, 0, 0]
                continue
            met.add(place)
            inside = int((grid.uly - northing) % 1200 // 10), int((easting - grid.ulx) % 1200 // 10)
            assert drawn[line, pixel].tolist() == [*colours[place][inside].tolist(), 255]
    assert {(10, 20), (11, 20)} <= met


def test_from_afar_only_places_are_drawn(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landpatch.catalog.mosaic._MOST_PATCHES", 0)
    mosaic = Mosaic(dataset)
    middle = _place("33UUP", 11 * 1200, 21 * 1200)
    column, row = _tile_over(*middle, 12)
    drawn = np.stack(
        [
            mosaic.tile(12, column + right, row + down, RENDERINGS["true_colour"])
            for right in (-1, 0, 1)
            for down in (-1, 0, 1)
        ]
    )
    there = drawn[..., 3] > 0
    # Boxes around three squares of 1200 m, tilted by 1.6 degrees; a pixel at zoom 12 is 38.2 m * cos(latitude) wide.
    pixel = 2 * 20037508.34 / 2**12 / TILE_PIXELS * np.cos(np.radians(middle[1]))
    assert there.sum() == pytest.approx(3 * (1200 * 1.03 / pixel) ** 2, rel=0.08)
    assert len(np.unique(drawn[there], axis=0)) == 1


def test_from_very_far_no_patch_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landpatch.catalog.mosaic._MOST_PATCHES", 0)
    mosaic = Mosaic(write_dataset(str(tmp_path), [Patch(0, 0), Patch(90, 90)]))
    longitude, latitude = _place("33UUP", 54_000, 54_000)
    for zoom, most in ((0, 4), (3, 4), (6, 8)):  # 100 km are 60 pixels at zoom 6
        there = mosaic.tile(zoom, *_tile_over(longitude, latitude, zoom), RENDERINGS["true_colour"])[..., 3] > 0
        assert most // 4 <= there.sum() <= most


def test_elsewhere_a_map_tile_is_empty(dataset: Dataset) -> None:
    mosaic = Mosaic(dataset)
    assert not mosaic.tile(12, 0, 0, RENDERINGS["true_colour"]).any()
    assert mosaic.tile(0, 0, 0, RENDERINGS["true_colour"]).shape == (TILE_PIXELS, TILE_PIXELS, 4)
    for zoom, column, row in ((3, 8, 0), (3, 0, -1), (-1, 0, 0), (23, 0, 0)):
        with pytest.raises(InvalidParameter, match="no map tile"):
            mosaic.tile(zoom, column, row, RENDERINGS["true_colour"])


def test_what_cannot_be_read_leaves_its_place_empty(tmp_path: Path) -> None:
    dataset = write_dataset(str(tmp_path), PATCHES[:2])
    good, broken = sorted(items(dataset.table()), key=lambda item: item["id"])
    (tmp_path / broken["assets"]["S2_10m"]["href"]).write_bytes(b"II*\0")
    mosaic = Mosaic(dataset)
    for patch, there in ((PATCHES[0], True), (PATCHES[1], False)):
        place = _place("33UUP", patch.x * 1200 + 600, patch.y * 1200 + 600)
        drawn = mosaic.tile(17, *_tile_over(*place, 17), RENDERINGS["true_colour"])
        assert drawn[..., 3].any() == there
    assert good["id"] < broken["id"]
