"""Resampling onto the patch grid: right answers computed pixel by pixel with PROJ, and independence of the cut."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.warp import Resampling, reproject
from rasterio.windows import Window

from landpatch.catalog.errors import InvalidScene, UnreadableAsset
from landpatch.catalog.grid import TileGrid
from landpatch.functions import warp
from landpatch.functions.warp import TileSampler

GRID = TileGrid.from_tile("33UUP")
SOUTHERN = TileGrid.from_tile("22JGS")
EQUATOR = TileGrid.from_tile("33NTA")
ARCTIC = TileGrid.from_tile("33XWJ")
ROWS = range(40, 42)
SIZE = 420
NEAR = slice(25 * 120, 36 * 120)
"""Pixel columns around CENTRE; no source of SIZE pixels reaches beyond them."""
CENTRE = (30.4 * 1200, 41.0 * 1200)  # metres right of and below the tile's corner: in the middle of ROWS


def store(path: Path, pixels: NDArray[Any], transform: Affine, crs: str, **options: Any) -> Path:
    height, width = pixels.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=1,
        dtype=pixels.dtype,
        crs=crs,
        transform=transform,
        **options,
    ) as dataset:
        dataset.write(pixels, 1)
    return path


def source_transform(grid: TileGrid, crs: str, pixel: float, turn: float = 0, flip: bool = False) -> Affine:
    """A source grid of SIZE pixels around CENTRE, with an odd offset."""
    to_source = Transformer.from_crs(grid.epsg, crs, always_xy=True)
    x, y = to_source.transform(grid.ulx + CENTRE[0] + 3.3, grid.uly - CENTRE[1] - 6.1)
    middle = Affine.translation(x, y) @ Affine.rotation(turn) @ Affine.scale(pixel, pixel if flip else -pixel)
    return middle @ Affine.translation(-SIZE / 2, -SIZE / 2)


def exact_positions(grid: TileGrid, rows: range, crs: str, transform: Affine) -> NDArray[np.float64]:
    """Source column and row of every pixel centre of the rows in the columns NEAR, by PROJ, pixel for pixel."""
    east = grid.ulx + 5 + 10.0 * np.arange(NEAR.start, NEAR.stop)
    north = grid.uly - 5 - 10.0 * np.arange(rows.start * 120, rows.stop * 120)
    x, y = Transformer.from_crs(grid.epsg, crs, always_xy=True).transform(*np.meshgrid(east, north))
    columns, lines = ~transform @ (x, y)
    return np.stack([columns, lines])


def near(found: NDArray[Any], fill: float = np.nan) -> NDArray[Any]:
    """The columns NEAR, after a check that there is nothing in the others."""
    beside = np.delete(found, NEAR, axis=1)
    assert np.array_equal(beside, np.full_like(beside, fill), equal_nan=bool(np.isnan(fill)))
    return found[:, NEAR]


def interpolated(pixels: NDArray[Any], position: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bilinear between pixel centres in float64, NaN where one of four neighbours is missing or NaN."""
    column, line = position - 0.5
    left, top = np.floor(column).astype(int), np.floor(line).astype(int)
    padded = np.full((pixels.shape[0] + 3, pixels.shape[1] + 3), np.nan)
    padded[1:-2, 1:-2] = pixels

    def at(r: NDArray[np.int64], c: NDArray[np.int64]) -> NDArray[np.float64]:
        return padded[
            np.clip(r, -1, pixels.shape[0] + 1) + 1,
            np.clip(c, -1, pixels.shape[1] + 1) + 1,
        ]

    east, south = column - left, line - top
    upper = at(top, left) * (1 - east) + at(top, left + 1) * east
    lower = at(top + 1, left) * (1 - east) + at(top + 1, left + 1) * east
    return upper * (1 - south) + lower * south


@dataclass(frozen=True)
class Case:
    grid: TileGrid
    crs: str
    pixel: float
    turn: float = 0
    flip: bool = False
    tolerance: float = 2e-4
    """Pixels by which positions may be off."""


DEGREE = 9e-5  # about 10 m of latitude
CASES = {
    "same zone, shifted": Case(GRID, "EPSG:32633", 10, tolerance=1e-6),
    "same zone, 20 m": Case(GRID, "EPSG:32633", 20, tolerance=1e-6),
    "same zone, 7.3 m": Case(GRID, "EPSG:32633", 7.3, tolerance=1e-6),
    "same zone, south up": Case(GRID, "EPSG:32633", 10, flip=True, tolerance=1e-6),
    "same zone, turned": Case(GRID, "EPSG:32633", 10, turn=33, tolerance=1e-6),
    "neighbouring zone": Case(GRID, "EPSG:32632", 10, tolerance=2e-5),
    "two zones away at the equator": Case(EQUATOR, "EPSG:32635", 10, tolerance=5e-5),
    "across the equator": Case(EQUATOR, "EPSG:32733", 10, tolerance=1e-6),
    "degrees": Case(GRID, "EPSG:4326", DEGREE),
    "LAEA Europe": Case(GRID, "EPSG:3035", 10, tolerance=2e-5),
    "web mercator": Case(GRID, "EPSG:3857", 15),
    "southern, shifted": Case(SOUTHERN, "EPSG:32722", 10, tolerance=1e-6),
    "southern, neighbouring zone": Case(SOUTHERN, "EPSG:32723", 10, tolerance=2e-5),
    "southern, degrees": Case(SOUTHERN, "EPSG:4326", DEGREE),
    "arctic, degrees": Case(ARCTIC, "EPSG:4326", 3 * DEGREE, tolerance=1e-3),
    "arctic, polar stereographic": Case(ARCTIC, "EPSG:3413", 10, tolerance=2e-5),
}


@pytest.mark.parametrize("name", CASES)
def test_bilinear_of_a_ramp_is_the_ramp_at_the_exact_position(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    transform = source_transform(case.grid, case.crs, case.pixel, case.turn, case.flip)
    line, column = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    # Both slopes are sums of few powers of two: pixels are exact in float32.
    path = store(tmp_path / "ramp.tif", (0.25 * column + 0.125 * line).astype(np.float32), transform, case.crs)
    with rasterio.open(path) as dataset:
        sampler = TileSampler(dataset, case.grid)
        found = near(sampler.bilinear(ROWS))
    assert not sampler.aligned
    column, line = exact_positions(case.grid, ROWS, case.crs, transform)
    margin = np.minimum(np.minimum(column, SIZE - column), np.minimum(line, SIZE - line)) - 0.5
    inside, outside = margin > case.tolerance, margin < -case.tolerance
    assert inside.sum() > 20_000
    assert np.isnan(found[outside]).all()
    expected = 0.25 * column[inside] + 0.125 * line[inside]
    # float32 holds numbers up to 160 to within 8e-6; four such roundings are in the result.
    assert np.abs(found[inside] - expected).max() <= 0.375 * case.tolerance + 3.2e-5


@pytest.mark.parametrize("name", CASES)
def test_bilinear_of_noise_is_that_of_the_formula(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    transform = source_transform(case.grid, case.crs, case.pixel, case.turn, case.flip)
    pixels = np.random.default_rng(1).uniform(0, 1, (SIZE, SIZE)).astype(np.float32)
    holes = np.random.default_rng(2).uniform(0, 1, (SIZE, SIZE)) < 0.01
    pixels[holes] = -32768
    path = store(tmp_path / "noise.tif", pixels, transform, case.crs, nodata=-32768)
    with rasterio.open(path) as dataset:
        found = near(TileSampler(dataset, case.grid).bilinear(ROWS))
    pixels[holes] = np.nan
    position = exact_positions(case.grid, ROWS, case.crs, transform)
    # A position this near to a pixel's centre may fall on either side of it: then other neighbours count.
    centred = position - 0.5
    ambiguous = (np.abs(centred - np.round(centred)) < case.tolerance + 2e-6).any(axis=0)
    expected = interpolated(pixels, position)
    assert (np.isnan(found) == np.isnan(expected))[~ambiguous].all()
    both = ~np.isnan(found) & ~np.isnan(expected) & ~ambiguous
    assert both.sum() > 20_000
    assert np.abs(found - expected)[both].max() <= 2 * case.tolerance + 5e-7


@pytest.mark.parametrize("name", CASES)
def test_nearest_takes_the_pixel_that_holds_the_centre(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    transform = source_transform(case.grid, case.crs, case.pixel, case.turn, case.flip)
    pixels = np.random.default_rng(3).integers(1, 60_000, (SIZE, SIZE)).astype(np.uint16)
    path = store(tmp_path / "codes.tif", pixels, transform, case.crs, nodata=0)
    with rasterio.open(path) as dataset:
        found = near(TileSampler(dataset, case.grid).nearest(ROWS, 65_535), 65_535)
    position = exact_positions(case.grid, ROWS, case.crs, transform)
    column, line = np.floor(position).astype(int)
    inside = (column >= 0) & (column < SIZE) & (line >= 0) & (line < SIZE)
    expected = np.full(found.shape, 65_535, np.uint16)
    expected[inside] = pixels[line[inside], column[inside]]
    ambiguous = (np.abs(position - np.round(position)) < case.tolerance + 1e-6).any(axis=0)
    assert found.dtype == np.uint16
    assert inside.sum() > 20_000
    assert (found == expected)[~ambiguous].all()
    assert ambiguous.mean() < 0.05


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_nearest_keeps_the_dtype(dtype: str, tmp_path: Path) -> None:
    pixels = np.arange(SIZE * SIZE).reshape(SIZE, SIZE).astype(dtype)
    transform = source_transform(GRID, "EPSG:3035", 10)
    with rasterio.open(store(tmp_path / "a.tif", pixels, transform, "EPSG:3035")) as dataset:
        found = TileSampler(dataset, GRID).nearest(ROWS, 7)
    assert found.dtype == dtype
    assert found[0, 0] == 7
    assert set(np.unique(found)) <= set(np.unique(pixels)) | {7}


# -- independence of the cut ------------------------------------------------------------------------------------

WHOLE = range(38, 44)


@dataclass(frozen=True)
class Uncut:
    sampler: TileSampler
    bilinear: NDArray[np.float32]
    nearest: NDArray[Any]


@pytest.fixture(scope="module", params=["same zone, shifted", "same zone, turned", "neighbouring zone", "degrees"])
def uncut(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    case = CASES[request.param]
    transform = source_transform(case.grid, case.crs, case.pixel, case.turn, case.flip)
    rng = np.random.default_rng(4)
    pixels = rng.gamma(4.4, 1 / 4.4, (SIZE, SIZE)).astype(np.float32)
    pixels[rng.uniform(0, 1, pixels.shape) < 0.02] = np.nan
    path = store(tmp_path_factory.mktemp("cut") / "a.tif", pixels, transform, case.crs)
    with rasterio.open(path) as dataset:
        sampler = TileSampler(dataset, case.grid)
        yield Uncut(sampler, sampler.bilinear(WHOLE), sampler.nearest(WHOLE, -1))


def same_bits(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    return np.array_equal(a.view(np.uint32), b.view(np.uint32))


@settings(max_examples=12)
@given(cuts=st.sets(st.integers(WHOLE.start + 1, WHOLE.stop - 1)), order=st.randoms(use_true_random=False))
def test_any_cut_into_rows_gives_the_same_bits(uncut: Uncut, cuts: set[int], order: Any) -> None:
    parts = [range(a, b) for a, b in pairwise([WHOLE.start, *sorted(cuts), WHOLE.stop])]
    order.shuffle(parts)
    bilinear = np.empty_like(uncut.bilinear)
    nearest = np.empty_like(uncut.nearest)
    for part in parts:
        pixels = slice((part.start - WHOLE.start) * 120, (part.stop - WHOLE.start) * 120)
        uncut.sampler.bilinear(part, bilinear[pixels])
        nearest[pixels] = uncut.sampler.nearest(part, -1)
    assert np.isfinite(bilinear).sum() > 50_000
    assert same_bits(bilinear, uncut.bilinear)
    assert same_bits(nearest, uncut.nearest)


@pytest.mark.parametrize("budget", [1, 20_000, 100_000])
def test_windows_cut_for_memory_give_the_same_bits(
    uncut: Uncut, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warp, "_WINDOW_PIXELS", budget)
    sizes: list[int] = []
    read = TileSampler._read

    def counted(self: TileSampler, window: Any, mask: bool = False) -> Any:
        sizes.append((window[2] - window[0]) * (window[3] - window[1]))
        return read(self, window, mask)

    monkeypatch.setattr(TileSampler, "_read", counted)
    assert same_bits(uncut.sampler.bilinear(WHOLE), uncut.bilinear)
    assert same_bits(uncut.sampler.nearest(WHOLE, -1), uncut.nearest)
    if uncut.sampler.lattice.shift is None:
        # A single patch is never cut: 120 px square, turned by 45 degrees at most, and a margin.
        assert max(sizes) <= max(budget, 180 * 180)
        assert len(sizes) > 2


def test_a_huge_source_is_read_in_bounded_windows(tmp_path: Path) -> None:
    # GIVEN a source of 2 m pixels, sparse on disk: a row of patches needs 600 x 54,600 of its pixels
    transform = Affine(2, 0, GRID.ulx - 3001, 0, -2, GRID.uly + 3001)
    profile = {"width": 60_000, "height": 60_000, "count": 1, "dtype": "float32", "crs": "EPSG:32633"}
    with rasterio.open(
        path := tmp_path / "huge.tif",
        "w",
        driver="GTiff",
        transform=transform,
        tiled=True,
        SPARSE_OK=True,
        BIGTIFF="YES",
        **profile,
    ) as dataset:
        dataset.write(np.full((1, 512, 512), 5, np.float32), window=Window(25_600, 25_600, 512, 512))
    # WHEN two rows of patches are sampled
    with rasterio.open(path) as dataset:
        sampler = TileSampler(dataset, GRID)
        found = sampler.bilinear(range(40, 42))
        held = sum(buffer.nbytes for buffer in sampler._buffers.values())
    # THEN the window in memory is within the bound, and the known pixels are there
    assert held <= 4 * warp._WINDOW_PIXELS
    assert (found == 5).sum() in range(101 * 101, 103 * 103)


# -- nodata -----------------------------------------------------------------------------------------------------


def shifted(tmp_path: Path, pixels: NDArray[Any], right: float, down: float, **options: Any) -> Path:
    """``pixels`` in the tile's CRS: the tile's pixel (4800, 3600) at source position (right, down)."""
    transform = Affine(10, 0, GRID.ulx + 36_000 - 10 * right, 0, -10, GRID.uly - 48_000 + 10 * down)
    return store(tmp_path / "shifted.tif", pixels, transform, "EPSG:32633", **options)


@pytest.mark.parametrize(
    ("right", "down", "hit"),
    [
        (50.5, 50.5, {(49, 49), (49, 50), (50, 49), (50, 50)}),
        (50.5, 50.0, {(50, 49), (50, 50)}),
        (50.5, 50.0000003, {(50, 49), (50, 50)}),
        (50.5, 49.9999997, {(50, 49), (50, 50)}),
        (50.0, 50.25, {(49, 50), (50, 50)}),
        (50.0, 50.0, {(50, 50)}),
    ],
)
def test_nodata_spreads_only_to_pixels_that_need_it(
    right: float, down: float, hit: set[tuple[int, int]], tmp_path: Path
) -> None:
    # GIVEN one invalid pixel in the middle of a source shifted by a part of a pixel, or by none, in each direction
    pixels = np.ones((240, 240), np.float32)
    pixels[100, 100] = np.nan
    with rasterio.open(shifted(tmp_path, pixels, right, down)) as dataset:
        sampler = TileSampler(dataset, GRID)
        found = sampler.bilinear(range(40, 41))[:, 3600:3720]
    # THEN exactly the tile's pixels that give it weight are invalid, all others are exact
    assert sampler.aligned == (right == 50 and down == 50)
    assert {(int(r), int(c)) for r, c in np.argwhere(np.isnan(found))} == hit
    assert (found[~np.isnan(found)] == 1).all()


@pytest.mark.parametrize("rounding", [0, 3e-6, -3e-6])
def test_a_coinciding_grid_that_runs_from_south_to_north_is_exact(rounding: float, tmp_path: Path) -> None:
    # GIVEN the tile's own pixels, stored south up, their corner rounded: neighbours have no weight
    pixels = np.random.default_rng(5).uniform(0, 1, (240, 240)).astype(np.float32)
    pixels[100, 100] = np.nan
    transform = Affine(10, 0, GRID.ulx + 36_000 + rounding, 0, 10, GRID.uly - 50_400 - rounding)
    path = store(tmp_path / "up.tif", pixels, transform, "EPSG:32633")
    with rasterio.open(path) as dataset:
        sampler = TileSampler(dataset, GRID)
        found = sampler.bilinear(range(40, 42))[:, 3600:3840]
    assert not sampler.aligned
    np.testing.assert_array_equal(found, pixels[::-1])


@pytest.mark.parametrize(
    ("dtype", "nodata", "stored"),
    [
        ("float32", -32768, -32768),
        ("float32", 0, 0),
        ("float32", float("nan"), float("nan")),
        ("float32", -3.4028234663852886e38, -3.4028234663852886e38),
        ("float64", -1.7976931348623157e308, -1.7976931348623157e308),
        ("int16", -32768, -32768),
        ("uint16", 0, 0),
    ],
)
@pytest.mark.parametrize("right", [50.0, 50.5])
def test_nodata_as_declared(dtype: str, nodata: float, stored: float, right: float, tmp_path: Path) -> None:
    pixels = np.full((240, 240), 3, dtype)
    pixels[:, 100:110] = stored
    with rasterio.open(shifted(tmp_path, pixels, right, 50.0, nodata=nodata)) as dataset:
        found = TileSampler(dataset, GRID).bilinear(range(40, 41))[:, 3600:3720]
    holes = np.zeros((120, 120), bool)
    holes[:, 50 if right == 50 else 49 : 60] = True
    np.testing.assert_array_equal(found, np.where(holes, np.nan, 3))


def test_nodata_given_overrides_the_file(tmp_path: Path) -> None:
    pixels = np.full((240, 240), 3, np.float32)
    pixels[:, 100:110] = -9999
    with rasterio.open(shifted(tmp_path, pixels, 50.0, 50.0, nodata=3)) as dataset:
        found = TileSampler(dataset, GRID, nodata=-9999).bilinear(range(40, 41))[:, 3600:3720]
        assert np.isnan(found[:, 50:60]).all()
        assert (found[:, :50] == 3).all()
        # A number that float32 does not have is the nodata of no pixel.
        found = TileSampler(dataset, GRID, nodata=-1.7976931348623157e308).bilinear(range(40, 41))[:, 3600:3720]
        assert (found[:, 50:60] == -9999).all()


def test_masked_scaled_and_infinite_pixels(tmp_path: Path) -> None:
    pixels = np.full((240, 240), 250, np.int16)
    path = shifted(tmp_path, pixels, 50.5, 50.0)
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.1,), (-5,)
        mask = np.full((240, 240), 255, np.uint8)
        mask[:, 100:110] = 0
        dataset.write_mask(mask)
    with rasterio.open(path) as dataset:
        found = TileSampler(dataset, GRID).bilinear(range(40, 41))[:, 3600:3720]
    assert np.isnan(found[:, 49:60]).all()
    np.testing.assert_allclose(found[:, 60:], 20, rtol=1e-6)

    infinite = np.ones((240, 240), np.float32)
    infinite[:, 100], infinite[:, 109] = np.inf, -np.inf
    with rasterio.open(shifted(tmp_path, infinite, 50.0, 50.0)) as dataset:
        found = TileSampler(dataset, GRID).bilinear(range(40, 41))[:, 3600:3720]
    assert set(np.flatnonzero(np.isnan(found[0]))) == {50, 59}


def test_linearise_works_on_the_source_before_averaging(tmp_path: Path) -> None:
    pixels = np.tile(np.array([1, 3], np.float32), (240, 120))

    def square(values: NDArray[np.float32]) -> None:
        values *= values

    with rasterio.open(shifted(tmp_path, pixels, 50.5, 50.0)) as dataset:
        found = TileSampler(dataset, GRID).bilinear(range(40, 41), linearise=square)[:, 3600:3720]
    assert (found == 5).all()  # the mean of 1 and 9, not the square of 2


# -- copies -----------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    right=st.integers(-300, 11_100),
    down=st.integers(-300, 11_100),
    rounding=st.floats(-5e-4, 5e-4),
    seed=st.integers(0, 2**32 - 1),
    first=st.integers(0, 90),
)
def test_coinciding_pixels_are_copied_bit_for_bit(
    right: int,
    down: int,
    rounding: float,
    seed: int,
    first: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # GIVEN any finite bits of float32 (subnormals, -0 and all) anywhere on, over or beside the tile's pixels
    bits = np.random.default_rng(seed).integers(0, 2**32, (260, 280), dtype=np.uint32)
    pixels = bits.view(np.float32)
    pixels[~np.isfinite(pixels)] = -0.0
    transform = Affine(10, 0, GRID.ulx + 10 * (right + rounding), 0, -10, GRID.uly - 10 * down)
    path = store(tmp_path_factory.mktemp("copy") / "a.tif", pixels, transform, "EPSG:32633")
    # WHEN some patch rows are read
    rows = range(first, min(91, first + 3))
    with rasterio.open(path) as dataset:
        sampler = TileSampler(dataset, GRID)
        found, nearest = sampler.bilinear(rows), sampler.nearest(rows, -7)
    # THEN each pixel of the tile holds the source's bits, or nothing
    canvas = np.full((len(rows) * 120 + 1200, 10_920 + 1200), np.nan, np.float32)
    top, left = down - rows.start * 120 + 600, right + 600
    if -260 < top < canvas.shape[0] and 0 <= left <= canvas.shape[1] - 280:
        piece = canvas[max(0, top) : max(0, top + 260), left : left + 280]
        piece[:] = pixels[max(0, -top) : max(0, -top) + piece.shape[0]]
    expected = np.ascontiguousarray(canvas[600:-600, 600:-600])
    assert sampler.aligned
    assert same_bits(found, expected)
    assert same_bits(nearest, np.where(np.isnan(expected), np.float32(-7), expected))


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:32632", "EPSG:4326"])
def test_a_source_elsewhere_fills_nothing(crs: str, tmp_path: Path) -> None:
    far = TileGrid.from_tile("33VVE")
    transform = source_transform(far, crs, DEGREE if crs == "EPSG:4326" else 10.0)
    with rasterio.open(store(tmp_path / "a.tif", np.ones((SIZE, SIZE), np.uint8), transform, crs)) as dataset:
        sampler = TileSampler(dataset, GRID)
        assert np.isnan(sampler.bilinear(ROWS)).all()
        assert (sampler.nearest(ROWS, 9) == 9).all()


def test_an_orthographic_globe_has_nothing_behind_its_horizon(tmp_path: Path) -> None:
    # GIVEN a projection in which the tile does not exist at all (PROJ answers with infinity)
    crs = "+proj=ortho +lat_0=0 +lon_0=-165 +datum=WGS84"
    transform = Affine(50_000, 0, -6_500_000, 0, -50_000, 6_500_000)
    with rasterio.open(store(tmp_path / "a.tif", np.ones((260, 260), np.uint8), transform, crs)) as dataset:
        sampler = TileSampler(dataset, GRID)
        assert (sampler.nearest(ROWS, 9) == 9).all()
        assert np.isnan(sampler.bilinear(ROWS)).all()


# -- the antimeridian -------------------------------------------------------------------------------------------

ANTIMERIDIAN = TileGrid("01VCH", 32601, 300_000, 6_900_000)
"""A tile that 180 degrees runs through: the west edge of zone 1 is at 342 km there."""


@pytest.mark.parametrize("west", [179.2, -180.8, -180.0, 179.0])
def test_degrees_across_the_antimeridian(west: float, tmp_path: Path) -> None:
    # GIVEN a source whose longitudes run on over 180, or over -180, or end there
    transform = Affine(2e-3, 0, west, 0, -1e-3, 62.2)
    width = 500 if west == 179.0 else 1000
    longitude = west + 2e-3 * (np.arange(width) + 0.5)
    pixels = np.broadcast_to(((longitude + 360) % 360).astype(np.float32), (1400, width))
    with rasterio.open(store(tmp_path / "a.tif", pixels, transform, "EPSG:4326")) as dataset:
        found = TileSampler(dataset, ANTIMERIDIAN).bilinear(range(50, 51))
    # THEN every valid pixel holds its own longitude, and every pixel inside the source is valid
    east = ANTIMERIDIAN.ulx + 5 + 10.0 * np.arange(10_920)
    north = ANTIMERIDIAN.uly - 60_005 - 10.0 * np.arange(120)
    exact = Transformer.from_crs(32601, 4326, always_xy=True).transform(*np.meshgrid(east, north))[0]
    assert exact.min() < -179
    assert exact.max() > 179
    column = ((exact - west) % 360) / 2e-3
    inside = (column > 0.6) & (column < width - 0.6)
    assert (np.isfinite(found) == inside)[(np.abs(column - 0.5) > 0.1) & (np.abs(column - width + 0.5) > 0.1)].all()
    assert np.abs(found[inside] - exact[inside] % 360).max() < 5e-5


def test_the_seam_of_a_projected_map_is_not_bridged(tmp_path: Path) -> None:
    # GIVEN web mercator, whose x jumps by 40,000 km inside the tile, holding x itself in units of 1000 km
    half = 20_037_508.342789244
    transform = Affine(40_000, 0, -half, 0, -20_000, 9_100_000)
    x = -half + 40_000 * (np.arange(1002) + 0.5)
    pixels = np.broadcast_to((x / 1e6).astype(np.float32), (30, 1002))
    with rasterio.open(store(tmp_path / "a.tif", pixels, transform, "EPSG:3857")) as dataset:
        found = TileSampler(dataset, ANTIMERIDIAN).bilinear(range(50, 51))
    # THEN no pixel holds anything between the two ends
    assert np.isfinite(found).sum() > 100_000
    assert np.nanmin(np.abs(found)) > 19


# -- against GDAL -----------------------------------------------------------------------------------------------


GDAL_PIXELS = 30
"""GDAL's transformer is linear along a window's line: 6e-4 px off over 120 px (0.02 dB on speckle), 4e-5 over 30."""


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].pixel == 10])
def test_gdal_agrees_in_small_windows(name: str, tmp_path: Path) -> None:
    # GIVEN backscatter as linear power: a smooth scene under speckle of 4.4 looks
    case = CASES[name]
    transform = source_transform(case.grid, case.crs, case.pixel, case.turn, case.flip)
    line, column = np.mgrid[0:SIZE, 0:SIZE]
    scene = 10 ** (-1.2 + 0.3 * np.sin(column / 40) * np.cos(line / 30))
    speckle = np.random.default_rng(6).gamma(4.4, 1 / 4.4, (SIZE, SIZE))
    pixels = (scene * speckle).astype(np.float32)
    path = store(tmp_path / "a.tif", pixels, transform, case.crs, nodata=-32768)
    patch = case.grid.geobox(30, 41, 10)
    by_gdal = np.empty((120, 120), np.float32)
    with rasterio.open(path) as dataset:
        ours = TileSampler(dataset, case.grid).bilinear(range(41, 42))[:, 3600:3720]
        # WHEN GDAL warps the same patch in small windows, its kernel not widened because grids are turned
        for top in range(0, 120, GDAL_PIXELS):
            for left in range(0, 120, GDAL_PIXELS):
                reproject(
                    rasterio.band(dataset, 1),
                    window := np.empty((GDAL_PIXELS, GDAL_PIXELS), np.float32),
                    dst_transform=patch.transform @ Affine.translation(left, top),
                    dst_crs=f"EPSG:{patch.epsg}",
                    dst_nodata=np.nan,
                    resampling=Resampling.bilinear,
                    tolerance=0,
                    XSCALE=1,
                    YSCALE=1,
                )
                by_gdal[top : top + GDAL_PIXELS, left : left + GDAL_PIXELS] = window
    # THEN both agree, and ours is the nearer one to the exact answer
    position = exact_positions(case.grid, range(41, 42), case.crs, transform)[:, :, 600:720]
    exact = 10 * np.log10(interpolated(pixels, position))
    assert np.isfinite(exact).all()
    assert np.abs(10 * np.log10(ours) - 10 * np.log10(by_gdal)).max() <= 0.002
    assert np.abs(10 * np.log10(ours) - exact).max() <= 0.0005


# -- files that cannot be read ----------------------------------------------------------------------------------


def truncated(path: Path, pixels: NDArray[Any], transform: Affine) -> Path:
    profile = {"width": pixels.shape[1], "height": pixels.shape[0], "count": 1, "dtype": pixels.dtype}
    with rasterio.open(
        path, "w", driver="COG", crs="EPSG:32633", transform=transform, OVERVIEWS="NONE", **profile
    ) as dataset:
        dataset.write(pixels, 1)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


@pytest.mark.parametrize("sample", ["bilinear", "nearest"])
def test_a_truncated_file_is_named(sample: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(7).integers(0, 255, (1200, 1200)).astype(np.uint8)
    transform = Affine(10, 0, GRID.ulx + 3.3, 0, -10, GRID.uly - 3.3)
    path = truncated(tmp_path / "half.tif", pixels, transform)
    read: Callable[[TileSampler], Any] = (
        (lambda sampler: sampler.bilinear(range(5, 10)))
        if sample == "bilinear"
        else (lambda sampler: sampler.nearest(range(5, 10), 0))
    )
    with rasterio.open(path) as dataset, pytest.raises(UnreadableAsset, match=r"half\.tif: rows \d+ to .*truncated"):
        read(TileSampler(dataset, GRID))


def test_a_crs_of_nowhere_is_refused(tmp_path: Path) -> None:
    local = 'LOCAL_CS["site grid",LOCAL_DATUM["site",0],UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
    path = store(tmp_path / "site.tif", np.ones((9, 9), np.uint8), Affine(10, 0, 0, 0, -10, 0), local)
    with rasterio.open(path) as dataset, pytest.raises(InvalidScene, match=r"site\.tif: no transformation"):
        TileSampler(dataset, GRID)


def test_out_of_the_wrong_shape_is_refused(tmp_path: Path) -> None:
    with ExitStack() as stack:
        path = shifted(tmp_path, np.ones((9, 9), np.uint8), 0, 0)
        dataset = stack.enter_context(rasterio.open(path))
        with pytest.raises(ValueError, match=r"2 patch rows need \(240, 10920\)"):
            TileSampler(dataset, GRID).bilinear(range(2), np.empty((120, 10_920), np.float32))


def test_rasters_on_one_grid_share_a_lattice(tmp_path: Path) -> None:
    transform = source_transform(GRID, "EPSG:3035", 10)
    first = store(tmp_path / "a.tif", np.ones((SIZE, SIZE), np.uint8), transform, "EPSG:3035")
    same = store(tmp_path / "b.tif", np.ones((SIZE, SIZE), np.float32), transform, "EPSG:3035")
    other = store(tmp_path / "c.tif", np.ones((SIZE, SIZE), np.float32), transform, "EPSG:3034")
    with rasterio.open(first) as a, rasterio.open(same) as b, rasterio.open(other) as c:
        lattice = TileSampler(a, GRID).lattice
        assert TileSampler(b, GRID, lattice=lattice).lattice is lattice
        assert TileSampler(c, GRID, lattice=lattice).lattice is not lattice
        assert TileSampler(b, SOUTHERN, lattice=lattice).lattice is not lattice
