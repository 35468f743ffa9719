import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod, Transformer

from landpatch.catalog.errors import InvalidName
from landpatch.catalog.grid import STRIP_ROWS, TileGrid, strips
from landpatch.catalog.names import TILE_PATCHES, parse_tile

positions = st.integers(0, 90)

# Read from the proj:transform and proj:epsg of real items: both hemispheres, both ends of MGRS, odd and even zones,
# and squares whose edges are and are not multiples of 60 m.
REAL = [
    ("33UUP", 32633, 300000, 5400000),
    ("33UUU", 32633, 300000, 5900040),
    ("32TPS", 32632, 600000, 5200020),
    ("33TWN", 32633, 499980, 5300040),
    ("35MNM", 32735, 499980, 9200020),
    ("20EPT", 32720, 600000, 3300040),
    ("01CCV", 32701, 300000, 2000020),
    ("01CDH", 32701, 399960, 800020),
    ("24MUA", 32724, 300000, 9600040),
]
tiles = st.sampled_from([TileGrid.from_tile(tile) for tile, *_ in REAL])


@pytest.mark.parametrize(("tile", "epsg", "ulx", "uly"), REAL)
def test_a_tile_lies_where_its_items_say(tile: str, epsg: int, ulx: int, uly: int) -> None:
    assert TileGrid.from_tile(tile) == TileGrid(tile, epsg, ulx, uly)


def _items(shared_data: Path) -> Iterator[dict[str, Any]]:
    with (shared_data / "stac-items/sentinel_items.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["item"]


def _tile_of(item: dict[str, Any]) -> str:
    # The id first: grid:code of Earth Search v0 is wrong at the antimeridian (60CWE for 01CCV).
    for text in (item["id"], item["properties"].get("grid:code", "")):
        match = re.search(r"(?:_T?|MGRS-)(\d{1,2}[C-X][A-Z]{2})(?:_|$)", text)
        if match:
            return parse_tile(match.group(1))
    raise AssertionError(f"no tile in {item['id']}")


def test_every_full_size_asset_of_real_items_lies_on_its_grid(shared_data: Path) -> None:
    items = assets = 0
    tiles = set()
    for item in _items(shared_data):
        full = [asset for asset in item["assets"].values() if asset.get("proj:shape") == [10980, 10980]]
        full = [asset for asset in full if "proj:transform" in asset]
        if not full:
            continue
        grid = TileGrid.from_tile(_tile_of(item))
        items += 1
        tiles.add(grid.tile)
        for asset in full:
            code = {**item["properties"], **asset}
            epsg = code.get("proj:epsg") or int(code["proj:code"].removeprefix("EPSG:"))
            assert epsg == grid.epsg, item["id"]
            assert asset["proj:transform"][:6] == [10, 0, grid.ulx, 0, -10, grid.uly], item["id"]
            assets += 1
    assert (items, assets, len(tiles)) == (125, 872, 54)
    assert sum(tile[2] < "N" for tile in tiles) == 12


def test_every_planetary_computer_item_lies_on_its_grid(shared_data: Path) -> None:
    from pyarrow import parquet

    for name in ("100-sentinel-2-items", "1000-sentinel-2-items"):
        path = shared_data / f"stac-items/planetary-computer/{name}.parquet"
        rows = parquet.read_table(path, columns=["s2:mgrs_tile", "proj:epsg", "assets"]).to_pylist()
        assert len(rows) == int(name.split("-")[0])
        for row in rows:
            grid = TileGrid.from_tile(row["s2:mgrs_tile"])
            assert row["proj:epsg"] == grid.epsg
            assert row["assets"]["B02"]["proj:transform"] == [10, 0, grid.ulx, 0, -10, grid.uly]


def test_real_pixels_lie_on_their_grid(shared_data: Path) -> None:
    import rasterio

    scene = shared_data / "scene-33uup/S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP/B02.tif"
    with rasterio.open(scene) as dataset:
        box = TileGrid.from_tile("33UUP").tile_geobox(10)
        assert (dataset.shape, dataset.transform, dataset.crs.to_epsg()) == (box.shape, box.transform, box.epsg)
    with rasterio.open(shared_data / "scene-33uup" / f"{scene.parent.name}_26_57_reference_map.tif") as dataset:
        box = TileGrid.from_tile("33UUP").geobox(26, 57, 10)
        assert (dataset.shape, dataset.transform, dataset.crs.to_epsg()) == (box.shape, box.transform, box.epsg)
    # A crop of 12 x 6 patches whose first is 25_65, with some pixels to spare.
    grid = TileGrid.from_tile("33UUU")
    for band, resolution in (("B02", 10), ("B05", 20), ("B01", 60)):
        with rasterio.open(shared_data / f"brandenburg-l1c/IMG_DATA/T33UUU_20170216T102101_{band}.jp2") as dataset:
            column, row = ~dataset.transform @ grid.corner(25, 65)
            assert (column, row) == (round(column), round(row))
            assert dataset.crs.to_epsg() == grid.epsg
            assert dataset.res == (resolution, resolution)
            west, south, east, north = dataset.bounds
            assert west <= grid.bounds(25, 65)[0]
            assert north >= grid.bounds(25, 65)[3]
            assert east >= grid.bounds(36, 70)[2]
            assert south <= grid.bounds(36, 70)[1]


@given(tiles, positions, positions, st.sampled_from([10, 20, 60]))
def test_patches_are_1200_m_and_share_their_edges(grid: TileGrid, x: int, y: int, resolution: int) -> None:
    west, south, east, north = grid.bounds(x, y)
    assert (east - west, north - south) == (1200, 1200)
    assert (west, north) == grid.corner(x, y) == (grid.ulx + 1200 * x, grid.uly - 1200 * y)
    if x:
        assert grid.bounds(x - 1, y)[2] == west
    if y:
        assert grid.bounds(x, y - 1)[1] == north
    box = grid.geobox(x, y, resolution)
    assert box.shape == (1200 // resolution,) * 2
    assert box.epsg == grid.epsg
    assert box.transform @ (0, 0) == (west, north)
    assert box.transform @ box.shape == (east, south)
    tile = grid.tile_geobox(resolution)
    assert tile.shape == ({10: 10980, 20: 5490, 60: 1830}[resolution],) * 2
    assert tile.transform @ (box.shape[1] * x, box.shape[0] * y) == (west, north)


@given(tiles, st.lists(st.tuples(positions, positions), min_size=1, max_size=20))
def test_footprints_are_squares_of_1200_m_on_the_map_again(grid: TileGrid, points: list[tuple[int, int]]) -> None:
    xs, ys = (np.array(values, np.uint8) for values in zip(*points, strict=True))
    rings = grid.footprints(xs, ys)
    assert (rings.shape, rings.dtype) == ((len(points), 5, 2), np.float64)
    back = Transformer.from_crs(4326, grid.epsg, always_xy=True)
    for (x, y), ring in zip(points, rings, strict=True):
        west, south, east, north = grid.bounds(x, y)
        wanted = [(west, south), (east, south), (east, north), (west, north), (west, south)]
        np.testing.assert_allclose(np.stack(back.transform(*ring.T), axis=-1), wanted, atol=1e-3)


@pytest.mark.parametrize("tile", [tile for tile, *_ in REAL])
def test_footprints_are_1200_m_on_the_ground_and_counter_clockwise(tile: str) -> None:
    """Measured on the ellipsoid: UTM's scale within a tile is 1 - 0.0004 .. 1 + 0.001."""
    ys, xs = np.divmod(np.arange(0, 8281, 97), 91)
    for ring in TileGrid.from_tile(tile).footprints(xs, ys):
        area, perimeter = Geod(ellps="WGS84").polygon_area_perimeter(*ring.T)
        assert perimeter == pytest.approx(4800, rel=1.1e-3)
        assert area == pytest.approx(1200**2, rel=2.2e-3)  # negative were it clockwise


def test_a_tile_holds_its_square_and_little_more() -> None:
    """Every tile's north-west corner lies within 60 m of a corner of the 100 km grid."""
    for tile, *_ in REAL:
        grid = TileGrid.from_tile(tile)
        north = grid.uly - (10_000_000 if grid.epsg > 32700 else 0)
        assert 0 <= -grid.ulx % 100_000 < 60
        assert 0 <= north % 100_000 < 60


@pytest.mark.parametrize("zone", [1, 2, 3, 32, 60])
def test_the_tiles_of_a_zone_fill_their_latitude_bands(zone: int) -> None:
    """Each latitude band has exactly the rows that its 8 (C and X: 12) degrees meet."""
    column = {1: "D", 2: "M", 0: "V"}[zone % 3]  # 400 km easting: next to the central meridian
    for number, band in enumerate("CDEFGHJKLMNPQRSTUVWX"):
        lowest = -84 if band == "C" else -80 + 8 * number
        highest = 84 if band == "X" else -72 + 8 * number
        found = []
        for row in "ABCDEFGHJKLMNPQRSTUV":
            try:
                found.append(TileGrid.from_tile(f"{zone:02d}{band}{column}{row}"))
            except InvalidName:
                continue
        assert len({grid.uly for grid in found}) == len(found)
        assert len({grid.epsg for grid in found}) == 1
        edges = sorted(grid.uly for grid in found)
        assert all(99_960 <= step <= 100_020 for step in np.diff(edges))
        lookup = Transformer.from_crs(found[0].epsg, 4326, always_xy=True)
        south, north = (lookup.transform(450_000, y)[1] for y in (edges[0] - 100_000, edges[-1]))
        assert lowest - 1.1 < south <= lowest + 0.01
        assert highest - 0.01 <= north < highest + 1.1


@pytest.mark.parametrize("tile", ["33SAA", "31UJP", "32UHP", "33UIP"])
def test_a_column_of_another_zone_is_refused(tile: str) -> None:
    with pytest.raises(InvalidName, match=tile):
        TileGrid.from_tile(tile)


@pytest.mark.parametrize("tile", ["33UUM", "33TUA", "20EPH", "01XDU"])
def test_a_row_of_another_latitude_is_refused(tile: str) -> None:
    with pytest.raises(InvalidName, match=f"{tile}.*has no row"):
        TileGrid.from_tile(tile)


@given(st.integers(0, 91), st.integers(0, 91), st.integers(1, 91))
def test_strips_cover_every_row_once(first: int, last: int, rows: int) -> None:
    ranges = list(strips(first, last, rows))
    assert [row for strip in ranges for row in strip] == list(range(first, last))
    assert all(0 < len(strip) <= rows for strip in ranges)


def test_a_tile_is_seven_strips() -> None:
    assert [len(strip) for strip in strips()] == [STRIP_ROWS] * 13
    assert STRIP_ROWS * 13 == TILE_PATCHES
