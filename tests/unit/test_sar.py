"""Sentinel-1 on the patch grid: averaged in power, given in decibel, copied bit for bit where grids coincide."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.control import GroundControlPoint
from rasterio.windows import Window

from landpatch.catalog.errors import InvalidScene, UnreadableAsset
from landpatch.catalog.grid import TileGrid
from landpatch.catalog.names import RadarPatchName, RadarSceneId
from landpatch.catalog.scenes import RadarScene
from landpatch.functions.sar import RadarReader, to_decibel, to_power

GRID = TileGrid.from_tile("33UUP")
ROWS = range(40, 42)
NAME = "S1B_IW_GRDH_1SDV_20170612T165809"
CORNER = (GRID.ulx + 30 * 1200, GRID.uly - 40 * 1200)
"""Of the patch in column 30 of the first row of ROWS."""


def scene(vv: Path, vh: Path, unit: str = "power", nodata: float | None = None) -> RadarScene:
    return RadarScene(
        item_id="the-item",
        name=RadarSceneId.parse(NAME),
        sensed=datetime(2017, 6, 12, 16, 58, 9, tzinfo=UTC),
        vv=str(vv),
        vh=str(vh),
        unit=unit,  # type: ignore[arg-type]
        backscatter="gamma0-terrain",
        nodata=nodata,
    )


def store(
    path: Path, pixels: NDArray[Any], transform: Affine | None, crs: str | None = "EPSG:32633", **options: Any
) -> Path:
    pixels = np.atleast_3d(pixels.T).T  # (bands, rows, columns)
    count, height, width = pixels.shape
    profile = {"count": count, "height": height, "width": width, "dtype": pixels.dtype, "crs": crs}
    with rasterio.open(path, "w", driver="GTiff", transform=transform, **profile, **options) as dataset:
        dataset.write(pixels)
    return path


def shifted(right: float, down: float) -> Affine:
    """Source pixel (right, down) begins at CORNER."""
    return Affine(10, 0, CORNER[0] - 10 * right, 0, -10, CORNER[1] + 10 * down)


def read(scene: RadarScene, grid: TileGrid = GRID, rows: range = ROWS) -> NDArray[np.float32]:
    out = np.full((2, len(rows) * 120, 10_920), 77, np.float32)
    with RadarReader(scene, grid) as reader:
        reader.strip(rows, out)
    return out


def speckle(seed: int, shape: tuple[int, int] = (400, 400)) -> NDArray[np.float32]:
    """Linear power of land, about -12 dB, under speckle of 4.4 looks."""
    line, column = np.mgrid[: shape[0], : shape[1]]
    ground = 10 ** (-1.2 + 0.3 * np.sin(column / 40) * np.cos(line / 30))
    return (ground * np.random.default_rng(seed).gamma(4.4, 1 / 4.4, shape)).astype(np.float32)


# -- conversions ------------------------------------------------------------------------------------------------

any_float32 = arrays.arrays(
    np.float32, st.integers(0, 5000), elements=st.floats(width=32, allow_nan=True, allow_infinity=False)
)


@given(power=any_float32)
def test_decibel_of_any_power(power: NDArray[np.float32]) -> None:
    expected = 10 * np.log10(np.fmax(power.astype(np.float64), 1e-7))
    expected[np.isnan(power)] = np.nan
    found = power.copy()
    to_decibel(found)
    np.testing.assert_allclose(found, expected, rtol=3e-7, atol=6e-6)


def test_decibel_over_the_range_of_backscatter() -> None:
    power = np.geomspace(1.1e-7, 1e4, 3_000_001).astype(np.float32)
    found = power.copy()
    to_decibel(found)
    assert np.abs(found - 10 * np.log10(power.astype(np.float64))).max() < 6e-6
    assert (np.diff(found) >= -4e-6).all()


def test_power_at_and_below_the_floor_is_70_decibel_down() -> None:
    power = np.array([1e-7, 9.9e-8, 1e-30, 1e-44, 0.0, -0.0, -1e-9, -5.0, -np.inf], np.float32)
    to_decibel(power)
    assert (power == -70).all()


def test_nan_of_either_sign_stays() -> None:
    for convert in (to_decibel, to_power):
        values = np.array([np.nan, -np.nan, 1], np.float32)
        assert np.signbit(values).tolist() == [False, True, False]
        convert(values)
        assert np.isnan(values).tolist() == [True, True, False]


@given(decibel=arrays.arrays(np.float32, st.integers(0, 5000), elements=st.floats(-90, 90, width=32)))
def test_power_of_any_decibel_and_back(decibel: NDArray[np.float32]) -> None:
    found = decibel.copy()
    to_power(found)
    np.testing.assert_allclose(found, 10 ** (decibel.astype(np.float64) / 10), rtol=1.5e-6)
    to_decibel(found)
    np.testing.assert_allclose(found, np.fmax(decibel, -70), rtol=3e-7, atol=1e-5)


@given(values=any_float32, cut=st.integers(0, 5000))
def test_a_pixel_does_not_depend_on_its_neighbours(values: NDArray[np.float32], cut: int) -> None:
    for convert in (to_decibel, to_power):
        whole, first, rest = values.copy(), values[:cut].copy(), values[cut:].copy()
        convert(whole)
        convert(first)
        convert(rest)
        assert whole.tobytes() == first.tobytes() + rest.tobytes()


def test_what_cannot_be_converted_in_place_is_refused() -> None:
    for convert in (to_decibel, to_power):
        for values in (np.ones((4, 4), np.float32)[:, :2], np.ones(4, np.float64)):
            with pytest.raises(ValueError, match="contiguous float32"):
                convert(values)  # type: ignore[arg-type]


# -- scenes that are written for the test -----------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["power", "dB"])
def test_off_the_grid_pixels_are_averaged_in_power(unit: str, tmp_path: Path) -> None:
    # GIVEN VV and VH shifted by a quarter and half a pixel, in power or in decibel
    powers = np.stack([speckle(1), speckle(2)])
    stored = powers if unit == "power" else (10 * np.log10(powers)).astype(np.float32)
    vv = store(tmp_path / "vv.tif", stored[0], shifted(60.25, 70.5))
    vh = store(tmp_path / "vh.tif", stored[1], shifted(60.25, 70.5))
    # WHEN read
    found = read(scene(vv, vh, unit))[:, :, 3600:3840]
    # THEN each pixel is the decibel of the weighted mean of power
    p = powers.astype(np.float64)
    rows, columns = slice(70, 310), slice(60, 300)
    below, beside = slice(71, 311), slice(61, 301)
    upper = 0.75 * p[:, rows, columns] + 0.25 * p[:, rows, beside]
    lower = 0.75 * p[:, below, columns] + 0.25 * p[:, below, beside]
    np.testing.assert_allclose(found, 10 * np.log10((upper + lower) / 2), rtol=0, atol=2e-5)


def test_power_on_the_grid_is_converted_pixel_by_pixel(tmp_path: Path) -> None:
    powers = np.stack([speckle(1), speckle(2)])
    powers[0, 80, 70], powers[1, 90, 90] = 0, np.nan
    vv = store(tmp_path / "vv.tif", powers[0], shifted(60, 70))
    vh = store(tmp_path / "vh.tif", powers[1], shifted(60, 70))
    with RadarReader(scene(vv, vh), GRID) as reader:
        assert reader.aligned
    found = read(scene(vv, vh))
    inside = found[:, :, 3600:3840]
    assert inside[0, 10, 10] == -70
    assert np.isnan(inside[1, 20, 30])
    expected = 10 * np.log10(np.fmax(powers[:, 70:310, 60:300].astype(np.float64), 1e-7))
    expected[1, 20, 30] = np.nan
    np.testing.assert_allclose(inside, expected, rtol=0, atol=6e-6)
    assert np.isnan(found[:, :, :3540]).all()
    assert np.isnan(found[:, :, 3940:]).all()


@pytest.mark.parametrize("nodata", [-32768.0, 0.0, float("nan")])
@pytest.mark.parametrize("declared", ["item", "file"])
@pytest.mark.parametrize("right", [60.0, 60.5])
def test_nodata_of_the_item_or_the_file(nodata: float, declared: str, right: float, tmp_path: Path) -> None:
    power = np.full((400, 400), 0.1, np.float32)
    power[:, 100:110] = nodata
    tag = nodata if declared == "file" else None
    vv = store(tmp_path / "vv.tif", power, shifted(right, 70), nodata=tag)
    vh = store(tmp_path / "vh.tif", power, shifted(right, 70), nodata=tag)
    found = read(scene(vv, vh, nodata=nodata if declared == "item" else None))[:, :, 3600:3840]
    holes = np.arange(240)
    holes = (holes >= (40 if right == 60 else 39)) & (holes < 50)
    assert (np.isnan(found) == holes).all()
    np.testing.assert_allclose(found[:, :, ~holes], -10, atol=1e-5)


def test_decibel_of_no_power_counts_as_no_data_on_and_off_the_grid(tmp_path: Path) -> None:
    decibel = np.full((400, 400), -10, np.float32)
    decibel[:, 100] = -np.inf
    for right in (60, 60.5):
        path = store(tmp_path / "both.tif", decibel, shifted(right, 70))
        found = read(scene(path, path, "dB"))[:, :, 3600:3840]
        assert set(np.flatnonzero(np.isnan(found[0, 0]))) == ({40} if right == 60 else {39, 40})


def test_polarisations_on_different_grids(tmp_path: Path) -> None:
    decibel = np.random.default_rng(3).uniform(-20, 0, (400, 400)).astype(np.float32)
    vv = store(tmp_path / "vv.tif", decibel, shifted(60, 70))
    vh = store(tmp_path / "vh.tif", decibel, shifted(60.5, 70))
    with RadarReader(scene(vv, vh, "dB"), GRID) as reader:
        assert not reader.aligned
    found = read(scene(vv, vh, "dB"))[:, :, 3600:3840]
    assert found[0].tobytes() == decibel[70:310, 60:300].tobytes()
    power = 10 ** (decibel.astype(np.float64) / 10)
    mean = (power[70:310, 60:300] + power[70:310, 61:301]) / 2
    np.testing.assert_allclose(found[1], 10 * np.log10(mean), rtol=0, atol=2e-5)


def test_integers_with_a_scale(tmp_path: Path) -> None:
    # GIVEN decibel in hundredths as int16, as some providers store it
    stored = np.random.default_rng(4).integers(-2500, 0, (400, 400)).astype(np.int16)
    path = store(tmp_path / "vv.tif", stored, shifted(60, 70), nodata=-32768)
    with rasterio.open(path, "r+") as dataset:
        dataset.scales = (0.01,)
    found = read(scene(path, path, "dB"))[0, :, 3600:3840]
    np.testing.assert_allclose(found, stored[70:310, 60:300] / 100, rtol=1e-6)


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:32632", "EPSG:4326"])
def test_a_patch_does_not_depend_on_how_the_work_was_cut(crs: str, tmp_path: Path) -> None:
    x, y = Transformer.from_crs(32633, crs, always_xy=True).transform(CORNER[0] + 503, CORNER[1] - 1207)
    pixel = 9e-5 if crs == "EPSG:4326" else 10
    transform = Affine(pixel, 0, x - 200 * pixel, 0, -pixel, y + 250 * pixel)
    vv = store(tmp_path / "vv.tif", speckle(5, (500, 400)), transform, crs)
    vh = store(tmp_path / "vh.tif", speckle(6, (500, 400)), transform, crs)
    whole = read(scene(vv, vh), rows=range(38, 44))
    assert np.isfinite(whole).sum() > 100_000
    for rows in (range(38, 39), range(41, 42), range(40, 44), range(43, 44)):
        part = read(scene(vv, vh), rows=rows)
        expected = whole[:, (rows.start - 38) * 120 : (rows.stop - 38) * 120]
        assert part.tobytes() == np.ascontiguousarray(expected).tobytes()


# -- real pixels ------------------------------------------------------------------------------------------------


def test_published_patches_come_out_bit_for_bit_and_nothing_else(shared_data: Path) -> None:
    # GIVEN tile 33UUP with 14 published patches in place, sigma0 in decibel on the tile's own grid
    folder = shared_data / "scene-33uup"
    names = [RadarPatchName.parse(name) for name in json.loads((folder / "patches.json").read_text())[NAME]]
    paths = [folder / NAME / "vv.tif", folder / NAME / "vh.tif"]
    assert len(names) == 14
    with RadarReader(scene(paths[0], paths[1], "dB"), GRID) as reader:
        assert reader.aligned
        out = np.empty((2, 13 * 120, 10_920), np.float32)
        for start in range(0, 91, 13):
            # WHEN a strip is read
            reader.strip(range(start, start + 13), out)
            # THEN it holds the patches' pixels as rasterio reads them, and NaN elsewhere
            for name in names:
                if start <= name.y < start + 13:
                    rows = slice((name.y - start) * 120, (name.y - start + 1) * 120)
                    columns = slice(name.x * 120, (name.x + 1) * 120)
                    for plane, path in zip(out, paths, strict=True):
                        with rasterio.open(path) as dataset:
                            window = dataset.read(1, window=Window(name.x * 120, name.y * 120, 120, 120))
                        assert np.isfinite(window).all()
                        assert np.ascontiguousarray(plane[rows, columns]).tobytes() == window.tobytes()
                    out[:, rows, columns] = np.nan
            assert np.isnan(out).all()


@pytest.mark.parametrize("zones", [0, 1])
@pytest.mark.parametrize("place", ["282D_485L_3_3", "38D_378R_2_3", "433D_629L_3_1", "609U_541L_3_0"])
def test_rtc_scenes_of_four_places(place: str, zones: int, shared_data: Path, tmp_path: Path) -> None:
    # GIVEN real terrain-corrected backscatter in decibel, off any tile's grid, three places of four in the south,
    # one file a polarisation
    paths = [tmp_path / "vv.tif", tmp_path / "vh.tif"]
    with rasterio.open(shared_data / "terramind" / f"{place}_S1RTC.tif") as dataset:
        transform, crs, decibel = dataset.transform, dataset.crs, dataset.read()
    for path, plane in zip(paths, decibel, strict=True):
        store(path, plane, transform, crs)
    # WHEN read for a tile of the same or the neighbouring zone that it lies in
    epsg = crs.to_epsg() + zones
    to_source = Transformer.from_crs(epsg, crs.to_epsg(), always_xy=True)
    x, y = to_source.transform(*(transform @ (112, 112)), direction="INVERSE")
    grid = TileGrid("33UUP", epsg, int(x - 47_000) // 60 * 60, int(y + 51_000) // 60 * 60)
    found = read(scene(paths[0], paths[1], "dB"), grid, range(40, 45))
    # THEN each pixel is the mean of power around its centre, its place computed by PROJ for itself
    near = slice(3600, 5400)
    east, north = np.meshgrid(
        grid.ulx + 5 + 10.0 * np.arange(near.start, near.stop), grid.uly - 48_005 - 10.0 * np.arange(600)
    )
    column, line = ~transform @ to_source.transform(east, north)
    column, line = column - 0.5, line - 0.5
    inside = (column > 0.01) & (column < 222.99) & (line > 0.01) & (line < 222.99)
    c, r = np.floor(column[inside]).astype(int), np.floor(line[inside]).astype(int)
    right, below = column[inside] - c, line[inside] - r
    power = 10 ** (decibel / 10)
    upper = power[:, r, c] * (1 - right) + power[:, r, c + 1] * right
    lower = power[:, r + 1, c] * (1 - right) + power[:, r + 1, c + 1] * right
    expected = 10 * np.log10(upper * (1 - below) + lower * below)
    assert inside.sum() > 48_000
    assert np.abs(found[:, :, near][:, inside] - expected).max() <= 0.002
    assert np.isfinite(found).sum() <= 2 * 224 * 224


# -- files that cannot be used ----------------------------------------------------------------------------------


def test_ground_control_points_only_ask_for_geocoding(tmp_path: Path) -> None:
    # GIVEN a GRD: ground control points, no grid
    points = [
        GroundControlPoint(row, column, 13 + column / 1000, 48 - row / 1000) for row in (0, 99) for column in (0, 99)
    ]
    path = tmp_path / "grd.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=100, height=100, count=1, dtype="uint16", gcps=points, crs="EPSG:4326"
    ) as dataset:
        dataset.write(np.ones((1, 100, 100), np.uint16))
    with pytest.raises(InvalidScene, match=r"the-item: .*grd\.tif has ground control points .* geocoded"):
        RadarReader(scene(path, path), GRID)


@pytest.mark.parametrize(
    ("shape", "dtype", "crs", "transform", "message"),
    [
        ((9, 9), "float32", None, shifted(0, 0), "no CRS or no geotransform"),
        ((2, 9, 9), "float32", "EPSG:32633", shifted(0, 0), "has 2 bands"),
        ((9, 9), "complex64", "EPSG:32633", shifted(0, 0), "complex64"),
    ],
)
def test_rasters_of_the_wrong_kind(
    shape: tuple[int, ...], dtype: str, crs: str | None, transform: Affine, message: str, tmp_path: Path
) -> None:
    good = store(tmp_path / "vv.tif", np.ones((9, 9), np.float32), shifted(0, 0))
    bad = store(tmp_path / "vh.tif", np.ones(shape, dtype), transform, crs)
    with pytest.raises(InvalidScene, match=rf"the-item: .*vh\.tif.*{message}"):
        RadarReader(scene(good, bad), GRID)


def test_a_missing_polarisation(tmp_path: Path) -> None:
    good = store(tmp_path / "vv.tif", np.ones((9, 9), np.float32), shifted(0, 0))
    with pytest.raises(UnreadableAsset, match=r"vh\.tif"):
        RadarReader(scene(good, tmp_path / "vh.tif"), GRID)


@pytest.mark.parametrize("right", [60.0, 60.5])
def test_a_truncated_file(right: float, tmp_path: Path) -> None:
    good = store(tmp_path / "vv.tif", speckle(7), shifted(right, 70))
    half = tmp_path / "vh.tif"
    with rasterio.open(
        half,
        "w",
        driver="COG",
        width=400,
        height=400,
        count=1,
        dtype="float32",
        crs="EPSG:32633",
        transform=shifted(right, 70),
        BLOCKSIZE=128,
        OVERVIEWS="NONE",
    ) as dataset:
        dataset.write(speckle(8), 1)
    data = half.read_bytes()
    half.write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableAsset, match=r"vh\.tif: rows .* truncated"):
        read(scene(good, half))
    assert np.isfinite(read(scene(good, good))).any()
