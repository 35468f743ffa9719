"""Real chips of other people's making (TerraMind examples): what of them can be a source, and what is refused.

Four places, three in southern UTM zones, 224 pixels of 10 m. Sentinel-1: VV and VH in decibel, two bands of one
float64 file. Sentinel-2 L2A: twelve bands of one int16 file. Neither lies on Sentinel-2's pixel lattice (corners such
as 790236.04), and the bands of 20 and 60 m are repeated to 10 m. They come without items: those here say what the
files' makers say; product names are made up where the makers name none.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from demo_build import Landpatch
from landpatch.catalog.bands import OPTICAL_ASSETS, optical_bands
from landpatch.catalog.errors import InvalidScene
from landpatch.catalog.grid import TileGrid
from landpatch.catalog.scenes import optical_scene, radar_scene
from landpatch.functions.optical import OpticalReader
from landpatch.functions.raster import gdal_environment
from landpatch.functions.sar import RadarReader


@dataclass(frozen=True)
class Place:
    """A chip: the tile around it, the whole patch inside it (column, row; None: there is none), and whether 1000 was
    added to its Sentinel-2 pixels, as the darkest of them tell.
    """

    chip: str
    tile: str
    patch: tuple[int, int] | None
    offset: bool = False


PLACES = [
    Place("282D_485L_3_3", "22JGS", (76, 2)),
    Place("38D_378R_2_3", "36MXB", (15, 63)),
    Place("433D_629L_3_1", "18HYC", (15, 84), offset=True),
    Place("609U_541L_3_0", "16UFF", None),
]
each_place = pytest.mark.parametrize("place", PLACES, ids=lambda place: place.tile)


@pytest.fixture
def chips(shared_data: Path) -> Path:
    return shared_data / "terramind"


def radar_item(chips: Path, place: Place) -> dict[str, Any]:
    path = chips / f"{place.chip}_S1RTC.tif"
    with rasterio.open(path) as dataset:
        when = dataset.tags()["datetime"]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": f"{place.chip}_S1RTC",
        "collection": "terramind-s1-rtc",
        "geometry": None,
        "properties": {"datetime": f"{when[:19]}Z", "platform": "sentinel-1a", "sar:instrument_mode": "IW"},
        "assets": {
            "chip": {
                "href": str(path),
                "roles": ["data"],
                "bands": [{"name": name, "unit": "dB"} for name in ("VV", "VH")],
            }
        },
        "links": [],
    }


def optical_item(place: Place, assets: dict[str, Any]) -> dict[str, Any]:
    product = f"S2A_MSIL2A_20210721T133231_N9999_R081_T{place.tile}_20210801T000000.SAFE"
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": f"{place.chip}_S2L2A",
        "collection": "terramind-s2-l2a",
        "geometry": None,
        "properties": {"datetime": "2021-07-21T13:32:31Z", "s2:product_uri": product},
        "assets": assets,
        "links": [],
    }


def asset(path: Path, bands: list[str]) -> dict[str, Any]:
    return {"href": str(path), "roles": ["data"], "bands": [{"name": name} for name in bands]}


def bilinear_db(decibel: np.ndarray, transform: Affine, east: np.ndarray, north: np.ndarray) -> np.ndarray:
    """The mean of the four neighbours in power, in double precision; NaN where one is missing."""
    power = 10 ** (decibel / 10)
    column, row = (east - transform.c) / 10 - 0.5, (transform.f - north) / 10 - 0.5
    left, top = np.floor(column).astype(int), np.floor(row).astype(int)
    x, y = (column - left)[None, :], (row - top)[:, None]
    inside = ((top >= 0) & (top < 223))[:, None] & ((left >= 0) & (left < 223))[None, :]
    left, top = left.clip(0, 222), top.clip(0, 222)
    upper = power[np.ix_(top, left)] * (1 - x) + power[np.ix_(top, left + 1)] * x
    lower = power[np.ix_(top + 1, left)] * (1 - x) + power[np.ix_(top + 1, left + 1)] * x
    return np.where(inside, 10 * np.log10(upper * (1 - y) + lower * y), np.nan)


def expected_radar(chips: Path, place: Place, columns: range, rows: range) -> np.ndarray:
    """VV and VH of some patches, computed with nothing of landpatch's but the tile's corner."""
    grid = TileGrid.from_tile(place.tile)
    east = grid.ulx + 1200 * columns.start + 5 + 10 * np.arange(120 * len(columns))
    north = grid.uly - 1200 * rows.start - 5 - 10 * np.arange(120 * len(rows))
    with rasterio.open(chips / f"{place.chip}_S1RTC.tif") as dataset:
        assert dataset.crs.to_epsg() == grid.epsg
        return np.stack([bilinear_db(plane, dataset.transform, east, north) for plane in dataset.read()])


@each_place
def test_radar_of_one_file_with_two_bands(chips: Path, place: Place) -> None:
    """GIVEN decibel off the lattice, WHEN read on the patch grid, THEN it is the mean in power of its neighbours."""
    grid = TileGrid.from_tile(place.tile)
    scene = radar_scene(radar_item(chips, place))
    assert (scene.bands, scene.unit, scene.backscatter) == ((1, 2), "dB", "gamma0-terrain")
    with rasterio.open(scene.vv) as dataset:
        bounds = dataset.bounds
    rows = range(int(grid.uly - bounds.top) // 1200, int(grid.uly - bounds.bottom) // 1200 + 1)
    columns = range(int(bounds.left - grid.ulx) // 1200, int(bounds.right - grid.ulx) // 1200 + 1)
    out = np.empty((2, len(rows) * 120, 10920), np.float32)
    with gdal_environment(), RadarReader(scene, grid) as reader:
        assert not reader.aligned
        reader.strip(rows, out)
    here = slice(columns.start * 120, columns.stop * 120)
    expected = expected_radar(chips, place, columns, rows)
    assert np.isfinite(expected).sum() == 2 * 223 * 223
    np.testing.assert_array_equal(np.isnan(out[:, :, here]), np.isnan(expected))
    np.testing.assert_allclose(out[:, :, here], expected, rtol=0, atol=3e-5)
    assert np.isnan(np.delete(out, np.s_[here], axis=2)).all()
    if place.patch is not None:
        column, row = place.patch
        patch = expected_radar(chips, place, range(column, column + 1), range(row, row + 1))
        assert np.isfinite(patch).all()


@each_place
def test_optical_as_it_comes_is_refused(chips: Path, place: Place) -> None:
    """Patches are cut without resampling: bands repeated to 10 m are none of 60 m, and the lattice is another."""
    grid = TileGrid.from_tile(place.tile)
    path = chips / f"{place.chip}_S2L2A.tif"
    scene = optical_scene(optical_item(place, {"chip": asset(path, list(optical_bands()))}))
    assert [band.band for band in scene.bands.values()] == list(range(1, 13))
    says = rf"item {place.chip}_S2L2A, asset chip \({path}\): its pixels are 10 x 10 m, B01 must have 60 m"
    with gdal_environment(), pytest.raises(InvalidScene, match=says):
        OpticalReader(scene, grid)


def own_grid(chips: Path, place: Place) -> dict[int, tuple[np.ndarray, Affine]]:
    """The bands at the resolution that they have in truth, by resolution: (bands, y, x) int16 and where they lie.

    Repetition is checked, not assumed: every block of 2 x 2 or 6 x 6 pixels holds one value.
    """
    names = list(optical_bands())
    found = {}
    with rasterio.open(chips / f"{place.chip}_S2L2A.tif") as dataset:
        pixels, t = dataset.read(), dataset.transform
    assert pixels.dtype == np.int16
    for kind in OPTICAL_ASSETS:
        n = kind.resolution // 10
        planes = pixels[[names.index(name) for name in kind.planes], : 224 // n * n, : 224 // n * n]
        blocks = planes.reshape(len(planes), 224 // n, n, 224 // n, n)
        assert (blocks == blocks[:, :, :1, :, :1]).all()
        found[kind.resolution] = blocks[:, :, 0, :, 0], Affine(kind.resolution, 0, t.c, 0, -kind.resolution, t.f)
    return found


def stacks(folder: Path, place: Place, bands: dict[int, tuple[np.ndarray, Affine]]) -> dict[str, Any]:
    """A file of int16 for each resolution, as assets."""
    assets = {}
    for kind in OPTICAL_ASSETS:
        pixels, transform = bands[kind.resolution]
        path = folder / f"{place.chip}_{kind.key}.tif"
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=len(pixels),
            height=pixels.shape[1],
            width=pixels.shape[2],
            dtype="int16",
            crs=f"EPSG:{TileGrid.from_tile(place.tile).epsg}",
            transform=transform,
            nodata=-9999,
        ) as target:
            target.write(pixels)
        assets[kind.key] = asset(path, list(kind.planes))
    return assets


def on_the_lattice(place: Place, bands: dict[int, tuple[np.ndarray, Affine]]) -> dict[int, tuple[np.ndarray, Affine]]:
    """The same pixels, each put where the pixel of the tile's lattice lies that holds its centre."""
    grid = TileGrid.from_tile(place.tile)
    moved = {}
    for r, (pixels, t) in bands.items():
        column, row = (t.c + r / 2 - grid.ulx) // r, (grid.uly - t.f + r / 2) // r
        moved[r] = pixels, Affine(r, 0, grid.ulx + column * r, 0, -r, grid.uly - row * r)
        assert abs(moved[r][1].c - t.c) <= r / 2
        assert abs(moved[r][1].f - t.f) <= r / 2
    return moved


@each_place
def test_optical_off_the_lattice_is_refused(chips: Path, place: Place, tmp_path: Path) -> None:
    grid = TileGrid.from_tile(place.tile)
    scene = optical_scene(optical_item(place, stacks(tmp_path, place, own_grid(chips, place))))
    says = rf"item {place.chip}_S2L2A, asset S2_\d0m .* is not on the \d0 m grid of tile"
    with gdal_environment(), pytest.raises(InvalidScene, match=says):
        OpticalReader(scene, grid)


@each_place
def test_optical_moved_to_the_lattice(chips: Path, place: Place, tmp_path: Path) -> None:
    """GIVEN real int16 pixels, some of them 1 and with nodata and negative ones added, WHEN cut, THEN they come out
    on the dataset's scale; where 1000 was added and the item does not say so, the item is named.
    """
    bands = on_the_lattice(place, own_grid(chips, place))
    b02 = bands[10][0][0]
    b02[100, 100:103] = -9999, -20, 0
    item = optical_item(place, stacks(tmp_path, place, bands))
    grid = TileGrid.from_tile(place.tile)
    with gdal_environment():
        with OpticalReader(optical_scene(item), grid) as reader:
            if place.offset:
                with pytest.raises(InvalidScene, match=rf"item {place.chip}_S2L2A: .*--offset present"):
                    reader.verify_offset()
            else:
                assert reader.verify_offset().startswith("0.1 percentile of clear pixels ")
        with OpticalReader(optical_scene(item, offset="present" if place.offset else "absent"), grid) as reader:
            reader.verify_offset()
            rows, columns = reader.covered
            for kind in OPTICAL_ASSETS:
                out = np.empty((len(rows), 91, len(kind.planes), kind.pixels, kind.pixels), np.uint16)
                reader.cut(rows, kind, out)
                assert not np.delete(out, np.s_[columns.start : columns.stop], axis=1).any()
                expected = expected_optical(place, *bands[kind.resolution], rows, columns)
                np.testing.assert_array_equal(out[:, columns.start : columns.stop], expected)


def expected_optical(place: Place, pixels: np.ndarray, t: Affine, rows: range, columns: range) -> np.ndarray:
    """Patches (rows, columns, bands, px, px) of a stack on the lattice: 0 where it has nothing."""
    grid = TileGrid.from_tile(place.tile)
    px = round(1200 / t.a)
    values = pixels.astype(int)
    values = np.where((values == 0) | (values == -9999), 0, np.maximum(values - 1000 * place.offset, 1))
    whole = np.zeros((len(pixels), len(rows) * px + 300, len(columns) * px + 300), int)  # room for what is beyond
    top = round((grid.uly - 1200 * rows.start - t.f) / t.a)
    left = round((t.c - grid.ulx - 1200 * columns.start) / t.a)
    whole[:, top : top + values.shape[1], left : left + values.shape[2]] = values
    whole = whole[:, : len(rows) * px, : len(columns) * px]
    return whole.reshape(len(pixels), len(rows), px, len(columns), px).transpose(1, 3, 0, 2, 4)


@pytest.mark.parametrize("place", PLACES[:3], ids=lambda place: place.tile)
def test_patches_of_the_south(chips: Path, place: Place, tmp_path: Path, landpatch: Landpatch) -> None:
    """Both sensors through the command line: one patch of each place, on the grid of a southern zone."""
    assert place.patch is not None
    column, row = place.patch
    bands = on_the_lattice(place, own_grid(chips, place))
    for name, item in (
        ("s1.json", radar_item(chips, place)),
        ("s2.json", optical_item(place, stacks(tmp_path, place, bands))),
    ):
        (tmp_path / name).write_text(json.dumps(item))
    data = tmp_path / "data"
    arguments = [tmp_path / "s2.json", "--s1", tmp_path / "s1.json", "--no-labels", "--to", data, "--json"]
    if place.offset:
        refused = landpatch("build", *arguments, check=False)
        assert refused.returncode == 4
        assert "--offset present" in refused.stderr
        arguments = [*arguments[:-2], tmp_path / "again", "--json", "--offset", "present"]
        data = tmp_path / "again"
    assert json.loads(landpatch("build", *arguments).stdout)["kept"] == 1
    file = next(data.glob(f"patches/**/*_{place.tile}_{column}_{row}.tif"))
    with rasterio.open(file) as patch:
        assert patch.crs.to_epsg() == TileGrid.from_tile(place.tile).epsg
        expected = expected_radar(chips, place, range(column, column + 1), range(row, row + 1))
        np.testing.assert_allclose(patch.read(), expected, rtol=0, atol=3e-5)
