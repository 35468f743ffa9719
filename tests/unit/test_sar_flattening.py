"""Terrain flattening of Sentinel-1 GRD: gamma0 that is known in closed form, or forged facet by facet in numpy."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.warp import transform_bounds

from landpatch.catalog.scenes import GrdBackscatter, radar_scene
from landpatch.functions.raster import gdal_environment
from landpatch.functions.sar import ElevationModel, open_radar
from landpatch.functions.sar_grd.elevation import Elevation
from landpatch.functions.sources import read_scene
from small_grd import CENTRE, GRID, LINE_SECONDS, RADIUS, SPEED, SmallGrd, ecef, terrain, write_dem

Array = NDArray[np.float64]
Ground = Callable[[Array, Array], Array]
ROWS = range(41, 43)
COLUMNS = slice(41 * 120, 43 * 120)


def read(
    safe: Path, dem: Path, backscatter: GrdBackscatter = "gamma0-terrain", rows: range = ROWS
) -> NDArray[np.float32]:
    out = np.full((2, len(rows) * 120, 10_920), 77, np.float32)
    scene = radar_scene(read_scene(str(safe)), backscatter=backscatter)
    assert scene.backscatter == backscatter
    with gdal_environment(), open_radar(scene, GRID, ElevationModel(str(dem), "ellipsoid")) as reader:
        reader.strip(rows, out)
    return out


def pixel_centres() -> tuple[Array, Array]:
    right = (np.arange(COLUMNS.start, COLUMNS.stop) + 0.5) * 10
    down = (np.arange(ROWS.start * 120, ROWS.stop * 120) + 0.5) * 10
    return tuple(np.meshgrid(GRID.ulx + right, GRID.uly - down))  # type: ignore[return-value]


def uniform(folder: Path, heading: float = -13.0) -> tuple[SmallGrd, Path]:
    """A product of the same brightness everywhere: beta0 of 16."""
    product = SmallGrd(shape=(700, 700), heading=heading)
    product.counts = [np.full(product.shape, 2000, np.uint16) for _ in "vh"]
    return product, product.write(folder)


def sight(product: SmallGrd, points: Array) -> tuple[Array, Array]:
    """Unit vectors from the satellite to points (..., 3), and of its flight."""
    angle = np.arctan2(points @ product.along, points @ product.radial)
    towards = points - product.position(angle)
    turned = angle[..., None]
    flight = np.cos(turned) * product.along - np.sin(turned) * product.radial
    return towards / np.linalg.norm(towards, axis=-1, keepdims=True), flight


def normals(ground: Ground, east: Array, north: Array) -> Array:
    """Of a surface, upwards, not of unit length: from points half a metre around."""
    a, b = (
        ecef(east + x, north + y, ground(east + x, north + y))
        - ecef(east - x, north - y, ground(east - x, north - y))
        for x, y in ((0.5, 0.0), (0.0, 0.5))
    )
    return np.cross(a, b)


def flat(east: Array, north: Array) -> Array:
    return np.full(np.shape(east), 350.0)


def test_on_flat_ground_gamma0_is_sigma0_over_the_cosine_of_incidence(tmp_path: Path) -> None:
    product, safe = uniform(tmp_path)
    found = read(safe, write_dem(tmp_path / "dem.tif", pixel=50, ground=flat))[:, :, COLUMNS]
    east, north = pixel_centres()
    towards, _ = sight(product, ecef(east, north, flat(east, north)))
    up = normals(flat, east, north)
    up /= np.linalg.norm(up, axis=-1, keepdims=True)
    cosine = -(towards * up).sum(axis=-1)
    sigma0 = 16 * np.sqrt(1 - cosine**2)
    np.testing.assert_allclose(found, np.stack([10 * np.log10(sigma0 / cosine)] * 2), atol=0.02)


def test_beyond_the_elevation_model_the_ground_goes_on_level(tmp_path: Path) -> None:
    _, safe = uniform(tmp_path)
    large = read(safe, write_dem(tmp_path / "large.tif", pixel=50, ground=flat, reach=30_000))
    small = read(safe, write_dem(tmp_path / "small.tif", pixel=50, ground=flat, reach=5500))
    assert np.isfinite(large[:, :, COLUMNS]).all()
    assert small.tobytes() == large.tobytes()


def test_elevation_files_beside_the_tile_are_read_too(tmp_path: Path) -> None:
    # GIVEN a model as STAC items: one file for the tile, one for what lies 8 to 14 km to its west
    items = []
    for name, west, width in (("tile", GRID.ulx, 110_000), ("beside", GRID.ulx - 14_000, 6000)):
        place = Affine(1000, 0, west, 0, -1000, GRID.uly + 10_000)
        with rasterio.open(
            tmp_path / f"{name}.tif", "w", "GTiff", count=1, dtype="int16", height=130, width=width // 1000,
            crs=f"EPSG:{GRID.epsg}", transform=place,
        ) as dataset:  # fmt: skip
            dataset.write(np.full(dataset.shape, 100, np.int16), 1)
            bounds = transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds)
        items.append({"type": "Feature", "id": name, "bbox": bounds, "properties": {},
                      "assets": {"data": {"href": str(tmp_path / f"{name}.tif")}}})  # fmt: skip
    (tmp_path / "dem.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    # WHEN read 10 km to the west of the tile, THEN there is a height if a margin was asked for
    longitude, latitude = np.full((7, 7), 12.0), np.full((7, 7), 48.5)
    for margin, known in ((12_000.0, True), (0.0, False)):
        with gdal_environment():
            elevation = Elevation(ElevationModel(str(tmp_path / "dem.json"), "ellipsoid"), GRID, margin)
            heights = elevation.heights(range(40, 41), range(-9, -8), longitude, latitude)
            elevation.close()
        np.testing.assert_allclose(heights, 100 if known else np.nan, rtol=1e-6)


@pytest.mark.parametrize("heading", [-13.0, 193.0])
@pytest.mark.parametrize("slope", [(0.35, 0.0), (-0.35, 0.0), (0.1, 0.4)])
def test_on_a_slope_gamma0_is_what_its_angle_says(slope: tuple[float, float], heading: float, tmp_path: Path) -> None:
    def plane(east: Array, north: Array) -> Array:
        return 2500 + slope[0] * (east - CENTRE[0]) + slope[1] * (north - CENTRE[1])

    product, safe = uniform(tmp_path, heading)
    found = read(safe, write_dem(tmp_path / "dem.tif", pixel=50, ground=plane, reach=7000))[:, :, COLUMNS]
    east, north = pixel_centres()
    towards, flight = sight(product, ecef(east, north, plane(east, north)))
    up = normals(plane, east, north)
    # A_beta / A_gamma: the surface projected onto the plane of range and flight, and across the line of sight
    ratio = np.abs((up * np.cross(towards, flight)).sum(axis=-1)) / -(up * towards).sum(axis=-1)
    inside = np.isfinite(found[0])
    assert inside.mean() > 0.2
    np.testing.assert_allclose(found[0][inside], 10 * np.log10(16 * ratio)[inside], atol=0.03)


def hill(east: Array, north: Array) -> Array:
    """300 m high and half a kilometre wide: up to 20 degrees steep."""
    x, y = east - CENTRE[0], north - CENTRE[1]
    return 200 + 300 * np.exp(-(x**2 + y**2) / 2 / 500**2)


def brightness(
    product: SmallGrd, ground: Ground, reach: float = 2300.0, side: float = 10.0, parts: int = 16
) -> Array:
    """beta0 of ground whose gamma0 is 1: the areas that facets of ``side`` metres show, in ``parts`` squared points
    each, summed in their pixels.
    """
    at = np.arange(int(2 * reach / side) + 1) * side - reach
    east, north = np.meshgrid(CENTRE[0] + at, CENTRE[1] - at)
    points = ecef(east, north, ground(east, north))
    area = np.cross(points[1:, 1:] - points[:-1, :-1], points[:-1, 1:] - points[1:, :-1]) / 2
    middle = (points[1:, 1:] + points[:-1, :-1] + points[1:, :-1] + points[:-1, 1:]) / 4
    towards, _ = sight(product, middle)
    line, sample = product.place(east, north, ground(east, north))
    # The pixel's own area: metres of slant range a sample, metres of flight (over the ground) a line.
    _, ranges = product.seen(middle)
    t = (line[1:, 1:] * LINE_SECONDS + 0.5) / 0.7
    samples_a_metre = (1.62 + 0.004 * t - 2 * 3e-6 * (ranges - product.origin)) / 10
    nadir = (middle - ranges[..., None] * towards) / RADIUS
    along = SPEED * LINE_SECONDS * (middle * nadir).sum(axis=-1) / RADIUS
    share = np.maximum(-(area * towards).sum(axis=-1), 0) * samples_a_metre / along / parts**2
    beta0 = np.zeros(product.shape[0] * product.shape[1])
    for down, right in np.ndindex(parts, parts):
        v, u = (down + 0.5) / parts, (right + 0.5) / parts
        y, x = (
            np.floor(
                (grid[:-1, :-1] * (1 - u) + grid[:-1, 1:] * u) * (1 - v)
                + (grid[1:, :-1] * (1 - u) + grid[1:, 1:] * u) * v
                + 0.5
            ).astype(int)
            for grid in (line, sample)
        )
        inside = (y >= 0) & (y < product.shape[0]) & (x >= 0) & (x < product.shape[1])
        beta0 += np.bincount(y[inside] * product.shape[1] + x[inside], share[inside], beta0.size)
    return beta0.reshape(product.shape)


def test_a_hill_of_one_gamma0_is_flattened(tmp_path: Path) -> None:
    # GIVEN the image of a hill whose gamma0 is 0.1 everywhere (-10 dB)
    product = SmallGrd(shape=(560, 560), tables=[(line, [0, 559], [9000.0, 9000.0]) for line in (0, 559)])
    counts = np.rint(np.sqrt(0.1 * brightness(product, hill)) * 9000).astype(np.uint16)
    product.counts = [counts, counts]
    safe = product.write(tmp_path)
    dem = write_dem(tmp_path / "dem.tif", ground=hill, reach=7000)
    # WHEN read, THEN the hill has gone, which sigma0 shows
    gamma0 = read(safe, dem)[0][:, COLUMNS]
    np.testing.assert_allclose(gamma0, -10, atol=0.3)
    assert abs(np.mean(gamma0) + 10) < 0.02
    sigma0 = read(safe, dem, "sigma0")[0][:, COLUMNS]
    assert np.ptp(sigma0) > 3


def peak(east: Array, north: Array) -> Array:
    """900 m high and half a kilometre wide: up to 47 degrees steep, more than the radar's 42 from above."""
    x, y = east - CENTRE[0], north - CENTRE[1]
    return 200 + 900 * np.exp(-(x**2 + y**2) / 2 / 500**2)


def test_in_layover_all_ground_counts(tmp_path: Path) -> None:
    # GIVEN the image of a peak of one gamma0 (-10 dB), parts of which are laid over others
    product = SmallGrd(shape=(560, 700), tables=[(line, [0, 699], [6000.0, 6000.0]) for line in (0, 559)])
    counts = np.rint(np.sqrt(0.1 * brightness(product, peak, reach=2600)) * 6000).astype(np.uint16)
    product.counts = [counts, counts]
    safe = product.write(tmp_path)
    error = read(safe, write_dem(tmp_path / "dem.tif", ground=peak))[0][:, COLUMNS] + 10
    east, north = pixel_centres()
    towards, flight = sight(product, ecef(east, north, peak(east, north)))
    up = normals(peak, east, north)
    up /= np.linalg.norm(up, axis=-1, keepdims=True)
    across = (up * np.cross(towards, flight)).sum(axis=-1)
    across *= np.sign(np.median(across))  # below zero where range falls as the ground goes on: laid over
    shown = -(up * towards).sum(axis=-1)
    over, gentle = across < 0, (across > 0.15) & (shown > 0.2)
    # THEN what is laid over has that gamma0 as well, if its pixels are noisy: some hold the edges of the fold
    assert over.mean() > 0.03
    assert np.isfinite(error[over]).all()
    assert abs(np.median(error[over])) < 0.05
    assert np.percentile(np.abs(error[over]), 95) < 0.7
    assert np.percentile(np.abs(error[gentle]), 98) < 0.2


def test_shadow_is_no_data(tmp_path: Path) -> None:
    # GIVEN a ridge along the flight, 500 m high, that falls steeply on its far side
    product, safe = uniform(tmp_path)
    turn = np.radians(product.heading)

    def across(east: Array, north: Array) -> Array:
        """Metres along range from the ridge."""
        return (east - CENTRE[0]) * np.cos(turn) - (north - CENTRE[1]) * np.sin(turn)

    def ridge(east: Array, north: Array) -> Array:
        x = across(east, north)
        return np.where(x < 0, np.maximum(500 + 0.5 * x, 0), np.maximum(500 - 5 * x, 0))

    found = read(safe, write_dem(tmp_path / "dem.tif", ground=ridge, reach=7000))
    east, north = pixel_centres()
    x, z = across(east, north), ridge(east, north)
    points = ecef(east, north, z)
    towards, _ = sight(product, points)
    cosine = -(towards * (points / np.linalg.norm(points, axis=-1, keepdims=True))).sum(axis=-1)
    # The line of sight rises by 1 / tan(incidence): it passes the ridge's crest above the ground behind it, or below.
    over = z + x * cosine / np.sqrt(1 - cosine**2) - 500
    for plane in found[:, :, COLUMNS]:
        assert np.isnan(plane[(x > 60) & (over < -60)]).all()
        assert np.isfinite(plane[(x > 60) & (over > 60)]).all()
        assert np.isfinite(plane[x < -60]).all()
    assert ((x > 60) & (over < -60)).sum() > 3000


def test_gamma0_of_a_patch_does_not_depend_on_how_the_work_was_cut(tmp_path: Path) -> None:
    product = SmallGrd()
    safe = product.write(tmp_path)
    dem = write_dem(tmp_path / "dem.tif", pixel=30, reach=25_000, ground=terrain)
    whole = read(safe, dem, rows=range(37, 47))
    assert np.isfinite(whole).sum() > 1_000_000
    for rows in (range(38, 39), range(41, 46)):
        expected = whole[:, (rows.start - 37) * 120 : (rows.stop - 37) * 120]
        assert read(safe, dem, rows=rows).tobytes() == np.ascontiguousarray(expected).tobytes()
    # AND where fixed pieces meet (every 13 patches: before patch column 39) it bends no more than beside
    bends = np.abs(np.diff(whole[0, :, 39 * 120 - 21 : 39 * 120 + 21].astype(np.float64), 2))
    seam, beside = bends[:, 18:22], np.delete(bends, range(18, 22), axis=1)
    assert np.isfinite(seam).sum() > 3000
    assert np.nanmax(seam) <= np.nanmax(beside)
    assert np.nanmedian(seam) < 1.1 * np.nanmedian(beside)
