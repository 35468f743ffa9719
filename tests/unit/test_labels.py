"""Reference maps and class counts: real maps where there are any, otherwise maps worked out in another way."""

import math
import re
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.features import rasterize

from landpatch.catalog.errors import InvalidLabels, UnreadableAsset
from landpatch.catalog.grid import TileGrid
from landpatch.catalog.nomenclature import NO_CLASS, UNLABELLED, Nomenclature, clc2018
from landpatch.functions.labels import Labels, count_classes, open_labels
from landpatch.functions.labels_prepare import prepare_labels

TILE = TileGrid.from_tile("33UUP")
CODES = [c.code for c in clc2018().codes]
Shapes = Sequence[Any]


def prepare(folder: Path, shapes: Shapes, codes: Sequence[int], crs: str, **options: Any) -> Path:
    """Polygons with CLC codes as a prepared file."""
    source = folder / "source.gpkg"
    source.unlink(missing_ok=True)
    pyogrio.raw.write(
        source,
        shapely.to_wkb(np.array(shapes, object)),
        [np.array([str(code) for code in codes], object)],
        ["code_18"],
        layer="polygons",
        geometry_type="Unknown",
        crs=crs,
    )
    prepare_labels(source, folder / "labels.parquet", **options)
    return folder / "labels.parquet"


def centres(grid: TileGrid, rows: range) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Easting of every column's, northing of every row's pixel centres."""
    pixels = np.arange(rows.start * 120, rows.stop * 120)
    return grid.ulx + 10.0 * np.arange(10920) + 5, grid.uly - 10.0 * pixels - 5


def burnt_by_gdal(shapes: Shapes, codes: Sequence[int], grid: TileGrid) -> NDArray[np.uint16]:
    return rasterize(
        zip(shapes, codes, strict=True),
        out_shape=(10920, 10920),
        transform=grid.tile_geobox(10).transform,
        fill=UNLABELLED,
        dtype="uint16",
    )


def to_utm(shapes: Shapes, crs: int, epsg: int) -> Shapes:
    transformer = Transformer.from_crs(crs, epsg, always_xy=True)
    return shapely.transform(
        np.array(shapes, object), lambda xy: np.column_stack(transformer.transform(xy[:, 0], xy[:, 1]))
    )


# Real labels ------------------------------------------------------------------------------------------------------


def test_published_map_comes_out_in_every_pixel(shared_data: Path, tmp_path: Path) -> None:
    scene = shared_data / "scene-33uup"
    assert prepare_labels(scene / "clc2018_26_57.gpkg", tmp_path / "clc.parquet") == 5
    labels = open_labels(tmp_path / "clc.parquet")
    with rasterio.open(scene / "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57_reference_map.tif") as dataset:
        published = dataset.read(1)
    burnt = labels.reference_map(TILE, range(57, 58))
    assert burnt.dtype == np.uint16
    assert burnt.shape == (120, 10920)
    np.testing.assert_array_equal(burnt[:, 26 * 120 : 27 * 120], published)
    # The polygons are those of this patch, cut off beyond it.
    assert (burnt[:, : 25 * 120] == UNLABELLED).all()
    assert (burnt[:, 28 * 120 :] == UNLABELLED).all()
    west, south, east, north = labels.bounds
    assert west < 12.74 < east
    assert south < 48.11 < north
    counts = count_classes(burnt, clc2018().class_of_code, 19)[0, 26]
    codes, pixels = np.unique(published, return_counts=True)
    for code, n in zip(codes.tolist(), pixels.tolist(), strict=True):
        assert counts[clc2018().class_of_code[code]] == n


def test_vector_and_raster_of_lanjaron_agree_but_for_borders(shared_data: Path, tmp_path: Path) -> None:
    # The same land cover, as polygons in EPSG:25830 and as 25 m pixels in EPSG:3042 (axes the other way round).
    grid, rows = TileGrid.from_tile("30SVF"), range(0, 16)
    assert prepare_labels(shared_data / "clc/lanjaron_clc2018.gpkg", tmp_path / "vector.parquet") == 136
    assert prepare_labels(shared_data / "clc/lanjaron_clc.tif", tmp_path / "raster.tif") == 353130
    around = slice(44 * 120, 55 * 120)
    vector = open_labels(tmp_path / "vector.parquet").reference_map(grid, rows)[:, around]
    raster = open_labels(tmp_path / "raster.tif").reference_map(grid, rows)[:, around]
    assert (vector != UNLABELLED).sum() > 2_000_000
    differ = vector != raster
    # Within 30 m of a differing pixel lies another class: half a 25 m pixel's diagonal, and half a pixel.
    reach = 3
    padded = np.pad(vector, reach, mode="edge")
    border = np.zeros(vector.shape, bool)
    for i in range(2 * reach + 1):
        for j in range(2 * reach + 1):
            border |= padded[i : i + vector.shape[0], j : j + vector.shape[1]] != vector
    assert 0.005 < differ.mean() < 0.05
    assert (differ & ~border).sum() == 0


@pytest.mark.parametrize(("name", "tile"), [("latvia_clc.tif", "34VFH"), ("saarland_luxembourg_clc.tif", "32ULV")])
def test_grid_code_rasters_give_the_pixel_below(shared_data: Path, tmp_path: Path, name: str, tile: str) -> None:
    prepare_labels(shared_data / "clc" / name, tmp_path / name)
    grid, rows = TileGrid.from_tile(tile), range(30, 43)
    burnt = open_labels(tmp_path / name).reference_map(grid, rows)
    with rasterio.open(shared_data / "clc" / name) as dataset:
        source, transform = dataset.read(1), dataset.transform
    lookup = np.full(256, UNLABELLED)
    for code in clc2018().codes:
        lookup[code.grid_code] = code.code
    chosen = np.random.default_rng(7)
    i, j = chosen.integers(0, burnt.shape[0], 20_000), chosen.integers(0, 10920, 20_000)
    east, north = centres(grid, rows)
    x, y = Transformer.from_crs(grid.epsg, 3035, always_xy=True).transform(east[j], north[i])
    column, row = (x - transform.c) / 100, (transform.f - y) / 100
    clear = (abs(column - np.rint(column)) > 0.01) & (abs(row - np.rint(row)) > 0.01)
    column, row = np.floor(column).astype(int), np.floor(row).astype(int)
    inside = (column >= 0) & (row >= 0) & (column < source.shape[1]) & (row < source.shape[0])
    expected = np.full(len(i), UNLABELLED)
    expected[inside] = lookup[source[row[inside], column[inside]]]
    assert (expected != UNLABELLED).mean() > 0.3
    np.testing.assert_array_equal(burnt[i, j][clear], expected[clear])


def test_osm_polygons_of_brandenburg_through_a_nomenclature_of_their_own(shared_data: Path, tmp_path: Path) -> None:
    (source,) = (shared_data / "brandenburg-l1c").glob("gis_osm*.gpkg")
    table = Path(__file__).parents[1] / "data/osm_landuse.csv"
    osm = Nomenclature.from_csv(table.read_text("utf-8"), "osm-landuse")
    count = prepare_labels(source, tmp_path / "osm.parquet", nomenclature=osm, code_column="fclass")
    assert count == 604
    labels = open_labels(tmp_path / "osm.parquet")
    assert labels.nomenclature == osm
    grid = TileGrid.from_tile("33UUU")
    burnt = labels.reference_map(grid, range(65, 71))
    _, features = pyogrio.read_arrow(source, columns=["fclass"])
    codes = {c.source: c.code for c in osm.codes}
    shapes = shapely.from_wkb(features["geom"].to_numpy())
    expected = burnt_by_gdal(shapes, [codes[value] for value in features["fclass"].to_pylist()], grid)
    np.testing.assert_array_equal(burnt, expected[65 * 120 : 71 * 120])
    counts = count_classes(burnt, osm.class_of_code, len(osm.classes))[:, 25:37]
    assert counts.shape == (6, 12, len(osm.classes) + 2)
    assert (counts.sum(axis=2) == 14400).all()
    assert (counts[..., :-2].sum(axis=(0, 1)) > 0).all()


# Generated labels -------------------------------------------------------------------------------------------------

# Sides in steps of 2.5 m: on pixel edges, on pixel centres and between.
_side = st.integers(-400, 4 * 1600)
_rectangle = st.tuples(
    _side, _side, st.integers(1, 3000), st.integers(1, 3000), st.sampled_from(CODES), st.booleans()
)


@settings(max_examples=25)
@given(rectangles=st.lists(_rectangle, min_size=1, max_size=12), cut=st.integers(0, 2))
def test_rectangles_in_utm_cover_the_centres_within(
    tmp_path_factory: pytest.TempPathFactory, rectangles: list[tuple[int, int, int, int, int, bool]], cut: int
) -> None:
    shapes, expected = [], np.full((2 * 120, 10920), UNLABELLED, np.uint16)
    east, north = centres(TILE, range(0, 2))
    for left, down, width, height, code, clockwise in rectangles:
        xmin, ymax = TILE.ulx + 2.5 * left, TILE.uly - 2.5 * down
        xmax, ymin = xmin + 2.5 * width, ymax - 2.5 * height
        shapes.append(shapely.box(xmin, ymin, xmax, ymax, ccw=not clockwise))
        # A centre on an edge is that of the polygon west or south of the edge.
        inside = ((north > ymin) & (north <= ymax))[:, None] & ((east > xmin) & (east <= xmax))[None, :]
        expected[inside] = code
    path = prepare(tmp_path_factory.mktemp("rectangles"), shapes, [r[4] for r in rectangles], f"EPSG:{TILE.epsg}")
    labels = open_labels(path)
    burnt = np.concatenate([labels.reference_map(TILE, rows) for rows in (range(0, cut), range(cut, 2))])
    np.testing.assert_array_equal(burnt, expected)


def test_rectangles_in_laea_are_transformed_by_their_corners(tmp_path: Path) -> None:
    # Independently of any scan line: GEOS tells for every centre whether it lies in the transformed polygon.
    x, y = Transformer.from_crs(TILE.epsg, 3035, always_xy=True).transform(TILE.ulx + 50_000, TILE.uly - 50_000)
    shapes = [
        shapely.box(x + dx, y + dy, x + dx + 7000, y + dy + 5000) for dx, dy in ((0, 0), (4000, 3000), (-9e3, 9e2))
    ]
    burnt = open_labels(prepare(tmp_path, shapes, [311, 512, 112], "EPSG:3035")).reference_map(TILE, range(38, 42))
    east, north = centres(TILE, range(38, 42))
    expected = np.full(burnt.shape, UNLABELLED, np.uint16)
    for shape, code in zip(to_utm(shapes, 3035, TILE.epsg), (311, 512, 112), strict=True):
        shapely.prepare(shape)
        expected[shapely.contains_xy(shape, east[None, :], north[:, None])] = code
    assert set(np.unique(expected)) == {112, 311, 512, UNLABELLED}
    np.testing.assert_array_equal(burnt, expected)


@pytest.fixture(scope="module")
def messy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.uint16]]:
    """A whole tile of overlapping stars, rings, multipolygons and bow ties in EPSG:3035, and GDAL's map of it."""
    rng = np.random.default_rng(11)
    to_laea = Transformer.from_crs(TILE.epsg, 3035, always_xy=True)
    shapes: list[Any] = []
    for i in range(500):
        x, y = to_laea.transform(TILE.ulx + rng.uniform(-5e3, 115e3), TILE.uly - rng.uniform(-5e3, 115e3))
        radius = float(rng.choice([300, 2000, 6000]))
        points = int(rng.integers(3, 60))
        angles = np.arange(points) * 2 * math.pi / points
        reach = radius * rng.uniform(0.3, 1, points)
        star = shapely.Polygon(np.column_stack([x + reach * np.cos(angles), y + reach * np.sin(angles)]))
        if i % 5 == 1:
            star = shapely.Polygon(star.exterior, [shapely.Point(x, y).buffer(radius / 9).exterior])
        elif i % 5 == 2:
            star = shapely.MultiPolygon([star, shapely.box(x + radius, y, x + 1.5 * radius, y + radius)])
        elif i % 5 == 3:
            star = shapely.Polygon([(x, y), (x + radius, y + radius), (x + radius, y), (x, y + radius / 3)])
        shapes.append(star)
    codes = rng.choice(CODES, len(shapes)).tolist()
    path = prepare(tmp_path_factory.mktemp("messy"), shapes, codes, "EPSG:3035")
    return path, burnt_by_gdal(to_utm(shapes, 3035, TILE.epsg), codes, TILE)


@pytest.fixture(scope="module")
def messy_labels(messy: tuple[Path, NDArray[np.uint16]]) -> Labels:
    return open_labels(messy[0])


def test_every_pixel_of_a_tile_is_as_gdal_burns_it(
    messy_labels: Labels, messy: tuple[Path, NDArray[np.uint16]]
) -> None:
    assert len(np.unique(messy[1])) == 45
    np.testing.assert_array_equal(messy_labels.reference_map(TILE, range(0, 91)), messy[1])


@settings(max_examples=15)
@given(first=st.integers(0, 91), count=st.integers(0, 5))
def test_a_patch_does_not_depend_on_the_cut(
    messy_labels: Labels, messy: tuple[Path, NDArray[np.uint16]], first: int, count: int
) -> None:
    rows = range(first, min(first + count, 91))
    burnt = messy_labels.reference_map(TILE, rows)
    np.testing.assert_array_equal(burnt, messy[1][rows.start * 120 : rows.stop * 120])


def test_one_after_the_other_tile_gets_its_own_polygons(tmp_path: Path) -> None:
    neighbour = TileGrid.from_tile("33UVP")
    shapes = [shapely.box(grid.ulx, grid.uly - 2400, grid.ulx + 1200, grid.uly) for grid in (TILE, neighbour)]
    labels = open_labels(prepare(tmp_path, shapes, [311, 512], f"EPSG:{TILE.epsg}"))
    for _ in range(2):
        assert (labels.reference_map(TILE, range(0, 2))[:, :120] == 311).all()
        assert (labels.reference_map(neighbour, range(0, 2))[:, :120] == 512).all()
    assert (labels.reference_map(TileGrid.from_tile("31UDQ"), range(5, 6)) == UNLABELLED).all()


@pytest.mark.parametrize("tile", ["60KZF", "01KAB"])
def test_labels_on_both_sides_of_the_antimeridian(tmp_path: Path, tile: str) -> None:
    shapes = [shapely.box(178, -26, 180, -14), shapely.box(-180, -26, -178, -14)]
    shapes = [shapely.segmentize(shape, 0.01) for shape in shapes]
    grid = TileGrid.from_tile(tile)
    burnt = open_labels(prepare(tmp_path, shapes, [311, 512], "EPSG:4326")).reference_map(grid, range(40, 42))
    east, north = centres(grid, range(40, 42))
    longitude, _ = Transformer.from_crs(grid.epsg, 4326, always_xy=True).transform(*np.meshgrid(east, north))
    clear = abs(abs(longitude) - 180) > 1e-4
    expected = np.where(longitude > 178, 311, 0) + np.where(longitude < -178, 512, 0)
    assert {311, 512} <= set(np.unique(expected[clear]))
    np.testing.assert_array_equal(burnt[clear], np.where(expected == 0, UNLABELLED, expected)[clear])


def test_polygon_around_the_globe_reaches_where_utm_does_not(tmp_path: Path) -> None:
    # 90 degrees from the central meridian on the equator UTM has no coordinates: PROJ answers infinity.
    globe = shapely.segmentize(shapely.box(-75, -60, 105, 60), 5)
    globe = shapely.Polygon([*globe.exterior.coords[:-1], (-75, 0), (-75, -1), globe.exterior.coords[0]])
    assert np.isinf(Transformer.from_crs(4326, TILE.epsg, always_xy=True).transform(-75, 0)[0])
    burnt = open_labels(prepare(tmp_path, [globe], [523], "EPSG:4326")).reference_map(TILE, range(44, 46))
    assert (burnt == 523).all()


def test_long_edges_are_straight_in_utm(tmp_path: Path) -> None:
    # In EPSG:4326 this edge passes 10 km south of the tile; between its vertices' UTM positions it crosses it.
    to_degrees = Transformer.from_crs(TILE.epsg, 4326, always_xy=True)
    middle = TILE.uly - 55_000
    corners = [
        (TILE.ulx - 600e3, middle),
        (TILE.ulx + 700e3, middle),
        (TILE.ulx + 700e3, middle - 9e5),
        (TILE.ulx - 600e3, middle - 9e5),
    ]
    shape = shapely.Polygon([to_degrees.transform(*corner) for corner in corners])
    assert shape.bounds[3] < to_degrees.transform(TILE.ulx + 50e3, TILE.uly - 64e3)[1]
    burnt = open_labels(prepare(tmp_path, [shape], [523], "EPSG:4326")).reference_map(TILE, range(45, 47))
    np.testing.assert_array_equal(burnt[:, 5000] == 523, np.arange(45 * 120, 47 * 120) >= 5500)


# Reading only what is needed --------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Files of a folder by ranges; remembers which bytes were asked for; can refuse."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.refuses = folder, list[tuple[str, int, int]](), False
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.server.folder / self.path.lstrip("/")
        if self.server.refuses or not path.is_file():
            self.send_error(403 if self.server.refuses else 404)
            return
        data = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end = (int(asked[1]), int(asked[2] or len(data) - 1) + 1) if asked else (0, len(data))
        self.send_response(206 if asked else 200)
        body = data[start:end]
        self.send_header("Content-Length", str(len(body)))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(data)}")
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Wed, 13 Jun 2018 10:10:31 GMT")
        self.end_headers()
        if self.command == "GET":
            self.server.asked.append((path.name, start, start + len(body)))
            self.wfile.write(body)

    def do_PUT(self) -> None:
        path = self.server.folder / self.path.lstrip("/").partition("?")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def continent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with labels of 40,000 fields all over Europe, a sea that spans it, and a raster."""
    folder = tmp_path_factory.mktemp("continent")
    rng = np.random.default_rng(5)
    x, y = rng.uniform(2.6e6, 6.4e6, 40_000), rng.uniform(1.5e6, 5.3e6, 40_000)
    shapes = list(shapely.box(x, y, x + 15_000, y + 9_000))
    shapes.insert(20_000, shapely.box(2.6e6, 1.5e6, 6.4e6, 5.3e6).segmentize(10_000))
    prepare(folder, shapes, [523 if i == 20_000 else CODES[i % 40] for i in range(len(shapes))], "EPSG:3035")
    field = rng.choice([23, 24], (500, 600)).astype(np.uint8)
    with rasterio.open(
        folder / "grid.tif", "w", driver="GTiff", dtype="uint8", count=1, height=500, width=600, crs="EPSG:3035",
        transform=rasterio.Affine(100, 0, 4_480_000, 0, -100, 2_830_000),
    ) as dataset:  # fmt: skip
        dataset.write(field, 1)
    prepare_labels(folder / "grid.tif", folder / "raster.tif")
    server = Server(folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_tile_reads_only_the_row_groups_that_touch_it(continent: Server) -> None:
    path = continent.folder / "labels.parquet"
    metadata = pq.ParquetFile(path).metadata
    assert metadata.num_row_groups >= 20
    url = f"http://127.0.0.1:{continent.server_port}/labels.parquet"
    continent.asked.clear()
    labels = open_labels(url)
    burnt = labels.reference_map(TILE, range(0, 3))
    read = continent.asked.copy()
    labels.reference_map(TILE, range(3, 20))
    assert continent.asked == read, "strips of a tile read nothing again"
    np.testing.assert_array_equal(burnt, open_labels(path).reference_map(TILE, range(0, 3)))
    assert (burnt == 523).any()
    assert (burnt != UNLABELLED).all()
    groups = set()
    for i in range(metadata.num_row_groups):
        column = metadata.row_group(i).column(2)
        start = column.dictionary_page_offset or column.data_page_offset
        if any(first < start + column.total_compressed_size and start < last - 65536 for _, first, last in read):
            groups.add(i)
    # The sea's own group is the last; around the tile lie a few of the 20 others.
    assert 1 <= len(groups) <= 6
    assert sum(last - first for _, first, last in read) < 0.4 * path.stat().st_size
    assert len(read) <= 6


def test_raster_labels_over_http(continent: Server) -> None:
    labels = open_labels(f"http://127.0.0.1:{continent.server_port}/raster.tif")
    assert labels.name == "grid"
    burnt = labels.reference_map(TILE, range(50, 51))
    np.testing.assert_array_equal(
        burnt, open_labels(continent.folder / "raster.tif").reference_map(TILE, range(50, 51))
    )
    assert set(np.unique(burnt)) == {311, 312, UNLABELLED}


def test_storage_that_fails_meanwhile_may_be_tried_again(continent: Server) -> None:
    labels = open_labels(f"http://127.0.0.1:{continent.server_port}/labels.parquet")
    continent.refuses = True
    try:
        with pytest.raises(UnreadableAsset, match=r"labels\.parquet cannot be read"):
            labels.reference_map(TILE, range(0, 1))
    finally:
        continent.refuses = False
    assert UnreadableAsset.retryable
    assert (labels.reference_map(TILE, range(0, 1)) != UNLABELLED).all()


def test_labels_on_s3(continent: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{continent.server_port}"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_REGION", "eu-central-1"),
    ):
        monkeypatch.setenv(name, value)
    prepare_labels(continent.folder / "source.gpkg", "s3://bucket/labels/europe.parquet")
    there = continent.folder / "bucket/labels/europe.parquet"
    assert there.read_bytes() == (continent.folder / "labels.parquet").read_bytes()
    labels = open_labels("s3://bucket/labels/europe.parquet")
    expected = open_labels(continent.folder / "labels.parquet").reference_map(TILE, range(9, 10))
    np.testing.assert_array_equal(labels.reference_map(TILE, range(9, 10)), expected)

    prepare_labels(continent.folder / "grid.tif", "s3://bucket/labels/grid.tif")
    expected = open_labels(continent.folder / "raster.tif").reference_map(TILE, range(9, 10))
    raster = open_labels("s3://bucket/labels/grid.tif")
    np.testing.assert_array_equal(raster.reference_map(TILE, range(9, 10)), expected)


def test_missing_labels_on_a_server(continent: Server) -> None:
    with pytest.raises(InvalidLabels, match="do not exist"):
        open_labels(f"http://127.0.0.1:{continent.server_port}/nothing.parquet")


# What cannot be opened --------------------------------------------------------------------------------------------


def test_unprepared_files_name_the_command(tmp_path: Path, shared_data: Path) -> None:
    gpkg = shared_data / "scene-33uup/clc2018_26_57.gpkg"
    with pytest.raises(InvalidLabels) as caught:
        open_labels(gpkg)
    assert f"landpatch labels prepare {gpkg} {gpkg.with_suffix('.parquet')}" in str(caught.value)
    raster = shared_data / "clc/latvia_clc.tif"
    with pytest.raises(InvalidLabels, match=r"labels prepare \S+latvia_clc\.tif \S+latvia_clc-prepared\.tif"):
        open_labels(raster)
    table = shared_data / "bigearthnet-v2/metadata_for_patches_with_snow_cloud_or_shadow.parquet"
    with pytest.raises(InvalidLabels, match=r"is not prepared; run: landpatch labels prepare"):
        open_labels(table)
    with pytest.raises(InvalidLabels, match="do not exist"):
        open_labels(tmp_path / "none.parquet")


def test_damaged_parquet(tmp_path: Path, messy: tuple[Path, NDArray[np.uint16]]) -> None:
    data = messy[0].read_bytes()
    broken = tmp_path / "broken.parquet"
    for content in (b"", data[: len(data) // 2], b"PAR1" + bytes(100), data[:-8]):
        broken.write_bytes(content)
        with pytest.raises(InvalidLabels, match="prepare them again"):
            open_labels(broken)
    for position in range(1000, len(data) * 9 // 10, len(data) // 5):
        broken.write_bytes(data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :])
        with pytest.raises(InvalidLabels, match="damaged"):
            open_labels(broken).reference_map(TILE, range(0, 1))


def test_damaged_raster(tmp_path: Path, continent: Server) -> None:
    data = (continent.folder / "raster.tif").read_bytes()
    broken = tmp_path / "broken.tif"
    broken.write_bytes(data[:100])
    with pytest.raises(InvalidLabels, match="damaged"):
        open_labels(broken)
    broken.write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(InvalidLabels, match="damaged"):
        open_labels(broken).reference_map(TILE, range(0, 91))


# Counts -----------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    rows=st.integers(1, 3),
    columns=st.integers(1, 4),
    values=hnp.arrays(np.uint16, st.integers(1, 40), elements=st.sampled_from([*CODES, UNLABELLED, 1, 65535])),
    seed=st.integers(0, 2**32 - 1),
)
def test_counts_are_those_of_numpy(rows: int, columns: int, values: NDArray[np.uint16], seed: int) -> None:
    strip = np.random.default_rng(seed).choice(values, (rows * 120, columns * 120))
    lookup = clc2018().class_of_code
    counts = count_classes(strip, lookup, 19)
    assert counts.shape == (rows, columns, 21)
    assert counts.dtype == np.int32
    for y in range(rows):
        for x in range(columns):
            expected = np.zeros(21, int)
            codes, pixels = np.unique(strip[y * 120 : y * 120 + 120, x * 120 : x * 120 + 120], return_counts=True)
            for code, n in zip(codes.tolist(), pixels.tolist(), strict=True):
                place = 20 if code == UNLABELLED else 19 if lookup[code] == NO_CLASS else lookup[code]
                expected[place] += n
            np.testing.assert_array_equal(counts[y, x], expected)
