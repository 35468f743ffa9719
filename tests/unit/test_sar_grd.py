"""Sentinel-1 GRD on the patch grid: geometry in closed form, calibration pixel by pixel, ESA's own geolocation."""

import json
import re
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray

from landpatch.catalog.errors import InvalidItem, InvalidParameter, InvalidScene, LandpatchError, UnreadableAsset
from landpatch.catalog.grid import TileGrid
from landpatch.catalog.radar_safe import is_radar_safe, radar_safe_item
from landpatch.catalog.scenes import GrdBackscatter, radar_scene
from landpatch.catalog.schemas import validate_item
from landpatch.functions.raster import gdal_environment
from landpatch.functions.sar import ElevationModel, open_radar
from landpatch.functions.sar_grd.annotation import read_annotation, read_calibration, read_noise
from landpatch.functions.sar_grd.calibration import Calibration
from landpatch.functions.sar_grd.elevation import Elevation, geoid_undulation
from landpatch.functions.sar_grd.geometry import Geometry, to_ecef
from landpatch.functions.sources import read_scene
from small_grd import GRID, PRODUCT, SmallGrd, image, terrain, write_dem
from small_server import serve

ROWS = range(40, 44)
COLUMNS = slice(40 * 120, 44 * 120)
Array = NDArray[Any]


def read(
    safe: Path,
    model: ElevationModel | None,
    rows: range = ROWS,
    grid: TileGrid = GRID,
    backscatter: GrdBackscatter = "sigma0",
) -> NDArray[np.float32]:
    out = np.full((2, len(rows) * 120, 10_920), 77, np.float32)
    scene = radar_scene(read_scene(str(safe)), backscatter=backscatter)
    with gdal_environment(), open_radar(scene, grid, model) as reader:
        assert not reader.aligned
        reader.strip(rows, out)
    return out


def pixel_centres(rows: range = ROWS) -> tuple[Array, Array]:
    """Easting and northing of the pixels of COLUMNS in some patch rows."""
    right = (np.arange(COLUMNS.start, COLUMNS.stop) + 0.5) * 10
    down = (np.arange(rows.start * 120, rows.stop * 120) + 0.5) * 10
    return np.meshgrid(GRID.ulx + right, GRID.uly - down)


def bilinear(values: Array, line: Array, sample: Array) -> Array:
    r, c = np.floor(line).astype(int), np.floor(sample).astype(int)
    south, east = line - r, sample - c
    upper = values[r, c] * (1 - east) + values[r, c + 1] * east
    lower = values[r + 1, c] * (1 - east) + values[r + 1, c + 1] * east
    return upper * (1 - south) + lower * south


# -- a product on a circular orbit ------------------------------------------------------------------------------


@pytest.mark.parametrize("heading", [-13.0, 193.0])
def test_pixels_come_from_where_the_closed_form_says(heading: float, tmp_path: Path) -> None:
    # GIVEN an ascending or descending pass over a hill of 1300 m, with several ground range polynomials
    product = SmallGrd(heading=heading)
    safe = product.write(tmp_path)
    # WHEN read with heights above the ellipsoid
    found = read(safe, ElevationModel(str(write_dem(tmp_path / "dem.tif")), "ellipsoid"))[:, :, COLUMNS]
    # THEN each pixel is the mean in power of four pixels around its place on that orbit
    east, north = pixel_centres()
    line, sample = product.place(east, north, terrain(east, north))
    assert len({*np.searchsorted([t for t, _ in product.records()], line.ravel() * 0.0015)}) > 1
    for plane, counts in zip(found, product.counts, strict=True):
        expected = 10 * np.log10(bilinear((counts / 500.0) ** 2, line, sample))
        np.testing.assert_allclose(plane, expected, rtol=0, atol=5e-4)
    # AND without the terrain they would come from tens of pixels away
    _, flat_sample = product.place(east, north, np.zeros_like(east))
    assert np.abs(flat_sample - sample).max() > 100


def test_outside_the_product_is_no_data(tmp_path: Path) -> None:
    product = SmallGrd()
    found = read(product.write(tmp_path), ElevationModel(str(write_dem(tmp_path / "dem.tif")), "ellipsoid", True))
    assert np.isnan(found[:, :, : 30 * 120]).all()
    assert np.isnan(found[:, :, 60 * 120 :]).all()
    assert np.isfinite(found[:, :, COLUMNS]).all()


def test_the_edge_of_the_image_is_where_its_last_pixels_are(tmp_path: Path) -> None:
    product = SmallGrd()
    rows = range(36, 38)
    dem = write_dem(tmp_path / "dem.tif", reach=60_000, pixel=40)
    found = read(product.write(tmp_path), ElevationModel(str(dem), "ellipsoid"), rows)
    found = found[:, :, 30 * 120 : 60 * 120]
    right = (np.arange(30 * 120, 60 * 120) + 0.5) * 10
    down = (np.arange(rows.start * 120, rows.stop * 120) + 0.5) * 10
    east, north = np.meshgrid(GRID.ulx + right, GRID.uly - down)
    line, sample = product.place(east, north, terrain(east, north))
    height, width = product.shape
    inside = (line >= 0) & (line <= height - 1) & (sample >= 0) & (sample <= width - 1)
    sure = (np.abs(np.stack([line, line - height + 1, sample, sample - width + 1])) > 0.02).all(axis=0)
    assert (np.isfinite(found[0]) == inside)[sure].all()
    assert 50_000 < inside.sum() < inside.size - 50_000


def test_a_patch_does_not_depend_on_how_the_work_was_cut(tmp_path: Path) -> None:
    product = SmallGrd()
    random = np.random.default_rng(1)
    product.counts = [random.integers(0, 4000, product.shape).astype(np.uint16) for _ in "vh"]
    product.counts[0][600:620, 500:700] = 0
    safe = product.write(tmp_path)
    model = ElevationModel(str(write_dem(tmp_path / "dem.tif", pixel=30, reach=60_000)))
    whole = read(safe, model, range(34, 51))
    assert np.isfinite(whole).sum() > 1_000_000
    for rows in (range(34, 35), range(41, 42), range(40, 44), range(37, 51)):
        part = read(safe, model, rows)
        expected = whole[:, (rows.start - 34) * 120 : (rows.stop - 34) * 120]
        assert part.tobytes() == np.ascontiguousarray(expected).tobytes()


def test_nor_on_how_the_elevation_model_is_cut_into_files_and_work(tmp_path: Path) -> None:
    # GIVEN a model in two files with the seam inside a patch, and holes in one of them
    whole = write_dem(tmp_path / "whole.tif", pixel=33, reach=20_000)
    folder = tmp_path / "parts"
    folder.mkdir()
    cut(whole, folder / "west.tif", slice(0, 607))
    cut(whole, folder / "east.tif", slice(607, None))
    with rasterio.open(folder / "east.tif", "r+") as dataset:
        pixels = dataset.read(1)
        pixels[580:600, 3:40] = -9999
        dataset.write(pixels, 1)
        dataset.nodata = -9999
    model = ElevationModel(str(folder), sea=True)
    safe = SmallGrd().write(tmp_path)
    together = read(safe, model, range(40, 44))
    assert np.isfinite(together[:, :, COLUMNS]).all()
    for row in range(40, 44):
        alone = read(safe, model, range(row, row + 1))
        expected = together[:, (row - 40) * 120 : (row - 39) * 120]
        assert alone.tobytes() == np.ascontiguousarray(expected).tobytes()


def test_counts_of_zero_are_no_data_and_so_is_what_would_need_them(tmp_path: Path) -> None:
    product = SmallGrd()
    product.counts[0][580:600, 640:650] = 0
    found = read(product.write(tmp_path), ElevationModel(str(write_dem(tmp_path / "dem.tif")), "ellipsoid"))
    east, north = pixel_centres()
    line, sample = product.place(east, north, terrain(east, north))
    needs = (line > 579) & (line < 600) & (sample > 639) & (sample < 650)
    unsure = (np.abs(np.stack([line - 579, line - 600, sample - 639, sample - 650])) < 0.01).any(axis=0)
    assert needs.sum() > 100
    assert (np.isnan(found[0][:, COLUMNS]) == needs)[~unsure].all()
    assert np.isfinite(found[1][:, COLUMNS]).all()


# -- calibration ------------------------------------------------------------------------------------------------

TABLES = [(-3, [0, 500, 1299], [400.0, 520.0, 610.0]), (600, [0, 40, 1299], [420.0, 430.0, 700.0]),
          (1210, [0, 1299], [450.0, 655.0])]  # fmt: skip
NOISE = [(0, [0, 650, 1299], [9e4, 5e4, 1.2e5]), (700, [10, 1290], [8e4, 1e5])]
BLOCKS = [(0, 1199, 0, 649, [0.0, 400.0, 1199.0], [1.0, 1.3, 0.9]), (0, 500, 650, 1299, [0.0, 500.0], [0.8, 1.1]),
          (501, 1199, 650, 1299, [501.0], [1.5])]  # fmt: skip


def at(vectors: list[tuple[float, list[float], list[float]]], line: int, sample: int) -> float:
    """Bilinear, each vector along its own axis."""
    along = [float(np.interp(sample, pixels, values)) for _, pixels, values in vectors]
    return float(np.interp(line, [line for line, _, _ in vectors], along))


@pytest.mark.parametrize("schema", ["new", "old"])
def test_power_of_any_pixel(schema: str, tmp_path: Path) -> None:
    blocks = BLOCKS if schema == "new" else None
    product = SmallGrd(tables=TABLES, noise=NOISE, blocks=blocks)
    safe = product.write(tmp_path)
    calibration_file = next(safe.glob("annotation/calibration/calibration-*vv*"))
    noise_file = next(safe.glob("annotation/calibration/noise-*vv*"))
    calibration = Calibration(read_calibration(str(calibration_file)), read_noise(str(noise_file)), product.shape)
    assert calibration.has_border_noise is (schema == "old")
    random = np.random.default_rng(2)
    counts = random.integers(1, 900, (400, 700)).astype(np.uint16)
    top, left = 350, 300
    found = np.empty(counts.shape, np.float32)
    calibration.power(counts, top, left, found)
    for y, x in random.integers((0, 0), counts.shape, (500, 2)):
        line, sample = top + y, left + x
        factor = 1.0
        for first, last, west, east, lines, factors in blocks or []:
            if first <= line <= last and west <= sample <= east:
                factor = float(np.interp(line, lines, factors))
        eta = at(NOISE, line, sample) * factor
        expected = max(float(counts[y, x]) ** 2 - eta, 0) / at(TABLES, line, sample) ** 2
        assert found[y, x] == pytest.approx(expected, rel=2e-5, abs=1e-5)
    assert (found == 0).any()


def test_border_noise_of_old_processors_is_masked_in_both_polarisations(tmp_path: Path) -> None:
    # GIVEN an image of the old schema, 4500 lines, with weak counts at its edge and in its middle
    product = SmallGrd(shape=(9, 9), tables=[(0, [0], [500.0])], noise=[(0, [0], [900.0])], blocks=None)
    safe = product.write(tmp_path)
    calibration = Calibration(
        read_calibration(str(next(safe.glob("annotation/calibration/calibration-*vv*")))),
        read_noise(str(next(safe.glob("annotation/calibration/noise-*vv*")))),
        (4500, 4600),
    )
    counts = np.full((40, 3), 500, np.uint16)
    counts[:, 0] = np.arange(40)
    powers = [np.ones(counts.shape, np.float32) for _ in "vh"]
    # WHEN masked at the edge, in a corner of the middle, and astride
    calibration.mask_border(counts, 2500, 10, *powers)
    # THEN what is weaker than 30 counts, or not above its noise (30^2), is gone
    for power in powers:
        assert np.isnan(power[:, 0]).tolist() == [count <= 30 for count in range(40)]
        assert np.isfinite(power[:, 1:]).all()
    powers = [np.ones(counts.shape, np.float32) for _ in "vh"]
    calibration.mask_border(counts, 2100, 2300, *powers)
    assert all(np.isfinite(power).all() for power in powers)
    calibration.mask_border(np.zeros((40, 3), np.uint16), 1990, 2300, *powers)
    assert np.isnan(powers[1][:10]).all()
    assert np.isfinite(powers[1][10:]).all()


def test_border_noise_is_masked_where_a_scene_is_read(tmp_path: Path) -> None:
    weak = [np.full((1200, 1300), 20, np.uint16), np.full((1200, 1300), 900, np.uint16)]
    for blocks, masked in ((None, True), ([], False)):
        product = SmallGrd(blocks=blocks)
        product.counts = weak
        folder = tmp_path / str(masked)
        folder.mkdir()
        found = read(product.write(folder), ElevationModel(str(write_dem(folder / "dem.tif")), "ellipsoid"))
        assert np.isnan(found[:, :, COLUMNS]).all() == masked
        assert np.isfinite(found[:, :, COLUMNS]).all() == (not masked)


# -- the height of the ground -----------------------------------------------------------------------------------


def heights(model: ElevationModel, rows: range = ROWS, columns: range = range(40, 44)) -> Array:
    from pyproj import Transformer

    east, north = np.meshgrid(
        GRID.ulx + 200.0 * np.arange(columns.start * 6, columns.stop * 6 + 1),
        GRID.uly - 200.0 * np.arange(rows.start * 6, rows.stop * 6 + 1),
    )
    longitude, latitude = Transformer.from_crs(GRID.epsg, 4326, always_xy=True).transform(east, north)
    elevation = Elevation(model, GRID)
    try:
        return elevation.heights(rows, columns, longitude, latitude).copy()
    finally:
        elevation.close()


def cut(source: Path, target: Path, columns: slice, rows: slice = slice(None), nodata: float | None = None) -> Path:
    """Part of a raster as a file of its own."""
    with rasterio.open(source) as dataset:
        pixels, profile = dataset.read(1)[rows, columns], dataset.profile
        profile |= {
            "width": pixels.shape[1], "height": pixels.shape[0], "nodata": nodata,
            "transform": dataset.transform @ Affine.translation(columns.start or 0, rows.start or 0),
        }  # fmt: skip
    with rasterio.open(target, "w", **profile) as dataset:
        dataset.write(pixels, 1)
    return target


def test_files_that_continue_each_other_are_one_model(tmp_path: Path) -> None:
    # GIVEN one model, and the same in two files with their seam in the middle of a patch, off the pixels
    whole = write_dem(tmp_path / "whole.tif", pixel=33, reach=6000)
    folder = tmp_path / "parts"
    folder.mkdir()
    cut(whole, folder / "west.tif", slice(0, 171))
    cut(whole, folder / "east.tif", slice(171, None))
    # WHEN both are read, THEN the seam cannot be seen
    one, two = (heights(ElevationModel(str(path), "ellipsoid")) for path in (whole, folder))
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-3)
    east, north = pixel_centres()
    np.testing.assert_allclose(one, terrain(east, north), rtol=0, atol=1)


@pytest.mark.parametrize("form", ["item", "collection", "relative"])
def test_a_model_as_stac_items(form: str, tmp_path: Path) -> None:
    whole = write_dem(tmp_path / "whole.tif", pixel=30, reach=6000)
    cut(whole, tmp_path / "north.tif", slice(None), slice(0, 200))
    cut(whole, tmp_path / "south.tif", slice(None), slice(200, None))
    far = {"type": "Feature", "id": "far", "bbox": [50, 20, 51, 21], "properties": {},
           "assets": {"data": {"href": "/nowhere/far.tif"}}}  # fmt: skip

    def item(name: str) -> dict[str, Any]:
        href = f"./{name}.tif" if form == "relative" else str(tmp_path / f"{name}.tif")
        return {"type": "Feature", "id": name, "bbox": [11, 47, 16, 50], "properties": {},
                "assets": {"thumbnail": {"href": "x.png", "type": "image/png"}, "data": {"href": href}}}  # fmt: skip

    items = [item("whole")] if form == "item" else [item("north"), far, item("south")]
    document = items[0] if form == "item" else {"type": "FeatureCollection", "features": items}
    path = tmp_path / "dem.json"
    path.write_text(json.dumps(document))
    np.testing.assert_allclose(
        heights(ElevationModel(str(path), "ellipsoid")), heights(ElevationModel(str(whole), "ellipsoid")), atol=1e-3
    )


def test_nodata_is_sea_and_what_no_file_reaches_is_none_or_sea(tmp_path: Path) -> None:
    whole = write_dem(tmp_path / "whole.tif", pixel=10, reach=2400)
    with rasterio.open(whole, "r+") as dataset:
        pixels = dataset.read(1)
        pixels[100:150] = -32768
        dataset.write(pixels, 1)
        dataset.nodata = -32768
    found = heights(ElevationModel(str(whole), "ellipsoid"))
    assert (found[100:150] == 0).all()
    assert (found[:100] > 300).all()
    part = cut(whole, tmp_path / "part.tif", slice(0, 240), nodata=-32768)
    assert np.isnan(heights(ElevationModel(str(part), "ellipsoid"))[:, 241:]).all()
    assert (heights(ElevationModel(str(part), "ellipsoid", sea=True))[:, 241:] == 0).all()


def test_a_model_that_does_not_cover_the_scene_is_an_error(tmp_path: Path) -> None:
    safe = SmallGrd().write(tmp_path)
    small = write_dem(tmp_path / "dem.tif", reach=3000)
    with pytest.raises(InvalidParameter, match=r"does not cover tile 33UUP: \d+ of \d+ patch corners .*--dem-sea"):
        read(safe, ElevationModel(str(small)))
    assert np.isfinite(read(safe, ElevationModel(str(small), sea=True))[:, :, COLUMNS]).all()


def test_the_geoid_at_points_that_its_makers_published() -> None:
    # NGA, EGM96 harmonic synthesis program F477: OUTPUT.DAT, latitude, longitude, undulation
    points = np.array(
        [
            (38.6281550, 269.7791550, -31.628),
            (-14.6212170, 305.0211140, -2.969),
            (46.8743190, 102.4487290, -43.575),
            (-23.6174460, 133.8747120, 15.871),
            (38.6254730, 359.9995000, 50.066),
            (-0.4667440, 0.0023000, 17.329),
        ]
    )
    found = geoid_undulation(points[:, 1], points[:, 0])
    np.testing.assert_allclose(found, points[:, 2], rtol=0, atol=0.1)
    poles = geoid_undulation(np.array([0.0, 17.0, 180.0, -180.0]), np.array([90.0, -90.0, 30.0, 30.0]))
    np.testing.assert_allclose(poles[:2], [13.6, -29.5], atol=0.1)
    assert poles[2] == poles[3]


def test_heights_above_the_geoid_get_its_undulation(tmp_path: Path) -> None:
    dem = str(write_dem(tmp_path / "dem.tif"))
    difference = heights(ElevationModel(dem)) - heights(ElevationModel(dem, "ellipsoid"))
    assert difference.min() > 40  # the geoid in Lower Austria: 44 to 47 m
    assert difference.max() < 50


def test_a_vertical_crs_changes_nothing(tmp_path: Path) -> None:
    plain = write_dem(tmp_path / "plain.tif")
    compound = write_dem(tmp_path / "compound.tif", crs="EPSG:32633+5773")
    assert heights(ElevationModel(str(plain))).tobytes() == heights(ElevationModel(str(compound))).tobytes()


@pytest.mark.parametrize(
    ("content", "error", "match"),
    [
        ({"type": "Feature", "id": "a", "assets": {"x": {"href": "a.txt"}}}, InvalidItem, "which of its assets"),
        ({"type": "FeatureCollection", "features": []}, InvalidParameter, "none of the 0 items"),
        ({"type": "Catalog"}, InvalidItem, "neither a STAC item nor an item collection"),
        ([1], InvalidItem, "neither a STAC item"),
        ("no json", InvalidItem, "is not JSON"),
    ],
)
def test_what_is_no_elevation_model(content: Any, error: type[LandpatchError], match: str, tmp_path: Path) -> None:
    path = tmp_path / "dem.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(error, match=match):
        Elevation(ElevationModel(str(path)), GRID)
    with pytest.raises(InvalidParameter, match="folder without GeoTIFFs"):
        Elevation(ElevationModel(str(tmp_path)), GRID)
    with pytest.raises(UnreadableAsset, match="missing"):
        Elevation(ElevationModel(str(tmp_path / "missing.tif")), GRID)


# -- products that cannot be read -------------------------------------------------------------------------------


def test_without_an_elevation_model_the_error_says_how(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match=r"is a GRD product in radar geometry.*--dem"):
        read(SmallGrd().write(tmp_path), None)


@pytest.mark.parametrize(
    ("file", "old", "new", "match"),
    [
        ("annotation/s1b*vv*", "<sr0>[^<]*</sr0>", "", r"coordinateConversion\[0\]/sr0 is missing or empty"),
        ("annotation/s1b*vv*", "(<x>)[^<]*", r"\1a", r"orbit\[0\]/position/x is not a list of numbers"),
        ("annotation/s1b*vv*", "(<x>)[^<]*", r"\1nan", r"position/x has numbers that are not finite"),
        ("annotation/s1b*vv*", "(<time>)[^<]*", r"\1yesterday", r"orbit\[0\]/time is no time"),
        ("annotation/s1b*vv*", "<orbitList>.*</orbitList>", "", r"orbitList/orbit is missing"),
        ("annotation/s1b*vv*", ">GRD<", ">SLC<", r"describes a product of type SLC"),
        ("annotation/s1b*vv*", "(numberOfLines>)1200", r"\g<1>1100", r"shape \(1200, 1300\); its annotation"),
        ("annotation/s1b*vv*", "product>", "rfi>", r"root element is <rfi>, expected <product>"),
        ("annotation/s1b*vv*", "</product>", "", r"cannot be read as XML"),
        ("annotation/calibration/cal*vh*", "(<sigmaNought>)[^<]*", r"\1 500", r"2 numbers, but sigmaNought has 1"),
        ("annotation/calibration/cal*vh*", "(<sigmaNought>)[^<]*", r"\g<1>500 0", r"not positive"),
        ("annotation/calibration/cal*vh*", "<line>0</line>", "<line>4000</line>", r"/line does not ascend"),
        ("annotation/calibration/noise*vh*", "noiseRangeVectorList", "x", r"noiseRangeVector is missing"),
        ("annotation/calibration/noise*vh*", "(firstRangeSample>)0", r"\1-4", r"firstRangeSample is -4"),
    ],
)  # fmt: skip
def test_errors_name_file_and_element(file: str, old: str, new: str, match: str, tmp_path: Path) -> None:
    safe = SmallGrd().write(tmp_path)
    path = next(safe.glob(file))
    text = path.read_text()
    changed = re.sub(old, new, text, count=0 if "product>" in old or "List" in old else 1, flags=re.S)
    assert changed != text
    path.write_text(changed)
    with pytest.raises(InvalidScene, match=match) as caught:
        read(safe, ElevationModel(str(write_dem(tmp_path / "dem.tif"))))
    assert path.name in str(caught.value)


def test_a_truncated_image_is_an_unreadable_asset(tmp_path: Path) -> None:
    safe = SmallGrd().write(tmp_path, compress="deflate")
    image = next(safe.glob("measurement/*vv*"))
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    with pytest.raises(UnreadableAsset, match=r"vv.*cannot be (read|opened)"):
        read(safe, ElevationModel(str(write_dem(tmp_path / "dem.tif"))))
    next(safe.glob("annotation/calibration/noise*vv*")).unlink()
    with pytest.raises(UnreadableAsset, match=r"noise-.*cannot be read"):
        read(safe, ElevationModel(str(write_dem(tmp_path / "dem.tif"))))


# -- items ------------------------------------------------------------------------------------------------------


def test_a_safe_folder_is_an_item(tmp_path: Path) -> None:
    safe = SmallGrd(shape=(10, 10)).write(tmp_path)
    assert is_radar_safe(safe)
    item = radar_safe_item(safe)
    validate_item(item)
    assert item == read_scene(str(safe))
    assert item["bbox"] == [12.5, 47.5, 15.5, 48.9]
    assert item["properties"]["sat:orbit_state"] == "ascending"
    assert item["properties"]["sat:relative_orbit"] == 146
    scene = radar_scene(item)
    assert str(scene.name) == PRODUCT[:32]
    assert (scene.unit, scene.backscatter) == ("power", "sigma0")
    assert scene.grd is not None
    for href in (scene.vv, scene.vh, scene.grd.annotation, *scene.grd.calibration, *scene.grd.noise):
        assert Path(href).is_file()
    assert ["-vv-" in scene.vv, "-vh-" in scene.vh, "-vh-" in scene.grd.noise[1]] == [True] * 3
    (safe / "manifest.safe").write_text("<a/>")
    with pytest.raises(InvalidItem, match=r"manifest\.safe: no footprint"):
        radar_safe_item(safe)


def catalogue_item(root: str, query: str = "") -> dict[str, Any]:
    """As Planetary Computer and Earth Search have them: schema-product names the rfi report."""
    assets = {}
    for p in ("vv", "vh"):
        assets[p] = {"href": f"{root}/measurement/iw-{p}.tiff{query}"}
        assets[f"schema-product-{p}"] = {"href": f"{root}/annotation/rfi/rfi-iw-{p}.xml{query}"}
        assets[f"schema-calibration-{p}"] = {"href": f"{root}/annotation/calibration/calibration-iw-{p}.xml{query}"}
        assets[f"schema-noise-{p}"] = {"href": f"{root}/annotation/calibration/noise-iw-{p}.xml{query}"}
    properties = {"datetime": "2017-06-12T16:58:21Z", "proj:shape": [1, 1]}
    return {"type": "Feature", "id": PRODUCT[:-5], "collection": "sentinel-1-grd", "properties": properties,
            "assets": assets}  # fmt: skip


@pytest.mark.parametrize("query", ["", "?sv=2021&sig=a%2Fb"])
def test_the_annotation_is_beside_the_calibration(query: str) -> None:
    root = "s3://sentinel-s1-l1c/GRD/2017/6/12/IW/DV/S1B_IW"
    grd = radar_scene(catalogue_item(root, query)).grd
    assert grd is not None
    assert grd.annotation == f"{root}/annotation/iw-vv.xml{query}"
    assert grd.calibration[1] == f"{root}/annotation/calibration/calibration-iw-vh.xml{query}"
    assert grd.noise[0] == f"{root}/annotation/calibration/noise-iw-vv.xml{query}"


def test_without_metadata_assets_they_lie_as_in_a_safe_folder() -> None:
    item = catalogue_item("s3://eodata/x.SAFE")
    whole = radar_scene(item)
    assert radar_scene(item, unit="dB") == whole  # --s1-unit is meant for other scenes of the build
    item["assets"] = {key: item["assets"][key] for key in ("vv", "vh")}
    assert radar_scene(item) == whole
    item["collection"] = "sentinel-1-rtc"
    assert radar_scene(item).grd is None


@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_a_product_and_its_elevation_model_on_a_server(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    safe = SmallGrd().write(tmp_path / "bucket")
    dem = write_dem(tmp_path / "bucket/dem.tif", pixel=40, reach=20_000)
    expected = read(safe, ElevationModel(str(dem)), range(42, 43))
    with serve(tmp_path / "bucket" if scheme == "http" else tmp_path) as server:
        root = server.url if scheme == "http" else "s3://bucket"
        for name, value in {"AWS_ENDPOINT_URL": server.url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
                            "AWS_REGION": "eu-central-1", "AWS_REQUEST_PAYER": "requester"}.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        item = json.dumps(radar_safe_item(safe)).replace(str(tmp_path / "bucket"), root)
        found = np.empty_like(expected)
        model = ElevationModel(f"{root}/dem.tif")
        with gdal_environment(), open_radar(radar_scene(json.loads(item)), GRID, model) as reader:
            reader.strip(range(42, 43), found)
    assert found.tobytes() == expected.tobytes()


# -- the real product over Rome ---------------------------------------------------------------------------------

ROME = "S1B_IW_GRDH_1SDV_20211223T051122_20211223T051147_030148_039993_5371.SAFE"


@pytest.fixture(scope="module")
def rome(shared_data: Path) -> Path:
    return shared_data / "s1-grd-rome" / ROME


def test_esas_own_geolocation(rome: Path) -> None:
    annotation = read_annotation(str(next(rome.glob("annotation/*.xml"))))
    grid, geometry = annotation.grid, Geometry(annotation)
    assert grid.lines.size == 210
    points = np.concatenate(
        [
            to_ecef(grid.longitudes[i : i + 1], grid.latitudes[i : i + 1], grid.heights[i])
            for i in range(grid.lines.size)
        ]
    )
    times, ranges = geometry.seen_from_orbit(points)
    lines, samples = geometry.pixels(times, ranges)
    assert np.abs(ranges - grid.slant_ranges).max() <= 1e-5
    assert np.abs(times - grid.times).max() <= 2e-6
    assert np.abs(lines - grid.lines).max() <= 0.25
    assert np.abs(samples - grid.pixels).max() <= 0.6


def test_the_geoid_moves_rome_by_five_pixels(rome: Path) -> None:
    geometry = Geometry(read_annotation(str(next(rome.glob("annotation/*.xml")))))
    place = np.array([12.49]), np.array([41.89])
    undulation = geoid_undulation(*place)[0]
    assert undulation == pytest.approx(48.5, abs=0.5)
    samples = [
        geometry.pixels(*geometry.seen_from_orbit(to_ecef(*place, height)))[1][0]
        for height in (20.0, 20 + undulation)
    ]
    # A point higher by h is nearer by h cos(theta), which is h / tan(theta) on the ground: theta is 40 degrees here
    assert samples[0] - samples[1] == pytest.approx(5.5, abs=1)


FORGED = TileGrid.from_tile("33TUG")
FORGED_ROWS, FORGED_COLUMNS = range(50, 53), slice(40 * 120, 44 * 120)


def forged(rome: Path, folder: Path, old: bool) -> Path:
    """Rome's metadata with an image of -10 dB in VV, -17 in VH around some patches; ``old``: noise as before 2.90."""
    safe = folder / ROME
    (safe / "annotation/calibration").mkdir(parents=True)
    (safe / "measurement").mkdir()
    (safe / "manifest.safe").write_bytes((rome / "manifest.safe").read_bytes())
    for source in rome.glob("annotation/**/*.xml"):
        text = source.read_text()
        if old:
            text = re.sub(r"<noiseAzimuthVectorList.*</noiseAzimuthVectorList>", "", text, flags=re.S)
            text = re.sub(r"noiseRange(VectorList|Vector|Lut)", r"noise\1", text)
        for polarisation in ("vv", "vh"):
            name = str(source.relative_to(rome)).replace("-vv-", f"-{polarisation}-")
            (safe / name).write_text(text)
    annotation = read_annotation(str(next(safe.glob("annotation/*-vv-*.xml"))))
    table = read_calibration(str(next(safe.glob("annotation/calibration/calibration-*-vv-*"))))
    noise = read_noise(str(next(safe.glob("annotation/calibration/noise-*-vv-*"))))
    geometry = Geometry(annotation)
    from pyproj import Transformer

    east = FORGED.ulx + np.array([40, 44, 44, 40]) * 1200.0
    north = FORGED.uly - np.array([50, 50, 53, 53]) * 1200.0
    corners = to_ecef(*Transformer.from_crs(FORGED.epsg, 4326, always_xy=True).transform(east, north), 0.0)
    line, sample = geometry.pixels(*geometry.seen_from_orbit(corners))
    top, left = int(line.min()) - 300, int(sample.min()) - 300
    lines, samples = np.arange(top, int(line.max()) + 300), np.arange(left, int(sample.max()) + 300)

    def spread(vectors: Any) -> Array:
        along = np.stack([np.interp(samples, *pair) for pair in zip(vectors.pixels, vectors.values, strict=True)])
        return np.stack([np.interp(lines, vectors.lines, column) for column in along.T], axis=1)

    amplitude, eta = spread(table), spread(noise.range)
    for block in noise.azimuth or ():
        inside = (samples >= block.first_pixel) & (samples <= block.last_pixel)
        eta[:, inside] *= np.interp(lines, block.lines, block.factors)[:, None]
    for polarisation, level in (("vv", -10), ("vh", -17)):
        name = next(rome.glob("measurement/*")).name.replace("-vv-", f"-{polarisation}-")
        options = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", "SPARSE_OK": True}
        # Rounded up or down at random: the LUTs are so smooth that whole patches would be rounded the same way.
        exact = np.sqrt(10 ** (level / 10) * amplitude**2 + eta)
        counts = np.floor(exact + np.random.default_rng(level + 99).random(exact.shape)).astype(np.uint16)
        with image(safe / "measurement" / name, annotation.shape, **options) as dataset:
            dataset.write(counts, 1, window=((top, top + lines.size), (left, left + samples.size)))
    return safe


@pytest.mark.parametrize("old", [False, True])
def test_forged_backscatter_comes_back(rome: Path, old: bool, tmp_path: Path) -> None:
    safe = forged(rome, tmp_path, old)
    dem = tmp_path / "dem.tif"
    profile = {"count": 1, "dtype": "int16", "height": 40, "width": 40, "crs": "EPSG:32633",
               "transform": Affine(3000, 0, FORGED.ulx - 3000, 0, -3000, FORGED.uly + 3000)}  # fmt: skip
    with rasterio.open(dem, "w", "GTiff", **profile) as dataset:
        dataset.write(np.random.default_rng(5).integers(0, 1200, (40, 40)).astype(np.int16), 1)
    found = read(safe, ElevationModel(str(dem)), FORGED_ROWS, FORGED)[:, :, FORGED_COLUMNS]
    for plane, level in zip(found, (-10, -17), strict=True):
        patches = plane.reshape(3, 120, 4, 120).astype(np.float64)
        means = 10 * np.log10((10 ** (patches / 10)).mean(axis=(1, 3)))
        np.testing.assert_allclose(means, level, atol=0.002)
        # Counts are whole numbers: one in about 200 (VV) or 100 (VH) is 0.05 and 0.12 dB in a single pixel.
        np.testing.assert_allclose(plane, level, atol=0.05 if level == -10 else 0.12)


def test_on_flat_ground_the_real_tables_say_the_same_of_gamma0(rome: Path, tmp_path: Path) -> None:
    # GIVEN ground at the height that ESA's incidence angles hold for nearby, and an image of one sigma0
    safe = forged(rome, tmp_path, False)
    document = ElementTree.parse(next(rome.glob("annotation/*-vv-*.xml"))).getroot()
    points = np.array(
        [
            [float(point.findtext(name) or "nan") for name in ("longitude", "latitude", "height", "incidenceAngle")]
            for point in document.iter("geolocationGridPoint")
        ]
    )
    dem = tmp_path / "dem.tif"
    place = {"crs": "EPSG:32633", "transform": Affine(12000, 0, FORGED.ulx - 9000, 0, -12000, FORGED.uly + 9000)}
    with rasterio.open(dem, "w", "GTiff", count=1, dtype="int16", height=12, width=12, **place) as dataset:
        dataset.write(np.full((12, 12), 100, np.int16), 1)
    # WHEN read as sigma0 and as flattened gamma0, which come from two tables of the product
    sigma0, gamma0 = (
        read(safe, ElevationModel(str(dem), "ellipsoid"), FORGED_ROWS, FORGED, quantity)[0, :, FORGED_COLUMNS]
        for quantity in get_args(GrdBackscatter)
    )
    # THEN one is the other over the cosine of ESA's incidence angle
    from pyproj import Transformer

    east = FORGED.ulx + (np.arange(FORGED_COLUMNS.start, FORGED_COLUMNS.stop) + 0.5) * 10
    north = FORGED.uly - (np.arange(FORGED_ROWS.start * 120, FORGED_ROWS.stop * 120) + 0.5) * 10
    east, north = np.meshgrid(east, north)
    longitude, latitude = Transformer.from_crs(FORGED.epsg, 4326, always_xy=True).transform(east, north)
    near = np.hypot(points[:, 0] - longitude.mean(), points[:, 1] - latitude.mean()) < 0.6
    x, y, _, angle = points[near].T
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=1)
    fit = np.linalg.lstsq(terms, angle, rcond=None)[0]
    x, y = longitude, latitude
    cosine = np.cos(np.radians(np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=-1) @ fit))
    np.testing.assert_allclose(gamma0 - sigma0, -10 * np.log10(cosine), atol=0.02)
