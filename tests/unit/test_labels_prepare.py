"""Preparing labels: what is written, in bounded memory, and what is refused."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pytest
import rasterio
import shapely
from pyproj import CRS

from landpatch.catalog.errors import InvalidLabels, InvalidParameter, StorageError
from landpatch.catalog.nomenclature import Nomenclature, clc2018
from landpatch.functions.labels import NOMENCLATURE_TAG, open_labels
from landpatch.functions.labels_prepare import ROW_GROUP_BYTES, ROW_GROUP_ROWS, prepare_labels

CODES = [c.code for c in clc2018().codes]


def write(path: Path, shapes: Any, values: Any, column: str = "code_18", layer: str = "clc", **options: Any) -> Path:
    """A layer of shapes (None: no geometry) with one column of values."""
    shapes = np.array(shapes, object)
    pyogrio.raw.write(
        path,
        shapely.to_wkb(shapes),
        [np.array(values)],
        [column],
        layer=layer,
        **({"geometry_type": "Unknown", "crs": "EPSG:3035"} | options),
    )
    return path


def squares(count: int, side: float = 900.0) -> Any:
    """``count`` squares in a grid of 1 km cells, row by row from the south-west."""
    width = int(np.ceil(np.sqrt(count)))
    x, y = np.arange(count) % width * 1000.0 + 4e6, np.arange(count) // width * 1000.0 + 3e6
    return shapely.box(x, y, x + side, y + side)


def text(codes: Any) -> Any:
    return np.array([str(code) for code in codes], object)


# What is written --------------------------------------------------------------------------------------------------


def test_geoparquet_holds_every_polygon_with_its_place_in_the_source(tmp_path: Path) -> None:
    shapes = squares(5000)
    rng = np.random.default_rng(1)
    shapes, codes = shapes[rng.permutation(5000)], rng.choice(CODES, 5000)
    source = write(tmp_path / "u2018.gpkg", shapes, text(codes), layer="U2018_CLC2018_V2020_20u1")
    calls: list[tuple[int, int]] = []
    count = prepare_labels(source, tmp_path / "to/labels.parquet", progress=lambda *call: calls.append(call))
    assert count == 5000
    assert [p.name for p in (tmp_path / "to").iterdir()] == ["labels.parquet"], "nothing temporary stays"
    done, totals = zip(*calls, strict=True)
    assert list(done) == sorted(done)
    assert done[-1] == totals[-1]
    assert len(set(totals)) == 1

    file = pq.ParquetFile(tmp_path / "to/labels.parquet")
    schema = file.schema_arrow
    assert schema.names == ["code", "fid", "geometry", "bbox"]
    assert [schema.field(n).type for n in ("code", "fid", "geometry")] == [pa.uint16(), pa.int64(), pa.binary()]
    assert [f.name for f in schema.field("bbox").type] == ["xmin", "ymin", "xmax", "ymax"]
    geo = json.loads(file.metadata.metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    assert geo["primary_column"] == "geometry"
    column = geo["columns"]["geometry"]
    assert column["encoding"] == "WKB"
    assert column["geometry_types"] == ["Polygon"]
    assert CRS.from_json_dict(column["crs"]) == CRS.from_epsg(3035)
    assert column["covering"]["bbox"]["ymax"] == ["bbox", "ymax"]
    assert column["bbox"] == list(shapely.total_bounds(shapes))
    assert Nomenclature.from_json(file.metadata.metadata[b"landpatch:nomenclature"].decode()) == clc2018()
    about = json.loads(file.metadata.metadata[b"landpatch:labels"])
    assert about == {
        "name": "u2018-U2018_CLC2018_V2020_20u1",
        "code_column": "code_18",
        "features": 5000,
        "skipped": 0,
    }

    table = file.read()
    fids = table["fid"].to_numpy()
    assert sorted(fids.tolist()) == list(range(5000))
    np.testing.assert_array_equal(table["code"].to_numpy(), codes[fids])
    written = shapely.from_wkb(table["geometry"].to_numpy())
    assert shapely.equals_identical(written, shapes[fids]).all()
    box = np.column_stack([edge.to_numpy() for edge in table["bbox"].combine_chunks().flatten()])
    np.testing.assert_array_equal(box, shapely.bounds(written))


def test_geopandas_reads_it_and_its_covering(tmp_path: Path) -> None:
    source = write(tmp_path / "clc.gpkg", squares(3000), text(np.resize(CODES, 3000)))
    prepare_labels(source, tmp_path / "labels.parquet")
    frame = geopandas.read_parquet(tmp_path / "labels.parquet")
    assert frame.crs == CRS.from_epsg(3035)
    assert len(frame) == 3000
    some = geopandas.read_parquet(tmp_path / "labels.parquet", bbox=(4e6, 3e6, 4e6 + 3500, 3e6 + 1500))
    assert len(some) == 8


def test_neighbours_in_the_file_are_neighbours_on_the_ground(tmp_path: Path) -> None:
    # On a square grid of 2^n cells a Hilbert curve goes from each cell to one beside it.
    shapes = squares(64 * 64, side=1000.0)
    order = np.random.default_rng(3).permutation(len(shapes))
    source = write(tmp_path / "clc.gpkg", shapes[order], text(np.resize(CODES, len(shapes))))
    prepare_labels(source, tmp_path / "labels.parquet")
    table = pq.read_table(tmp_path / "labels.parquet")
    centres = shapely.get_coordinates(shapely.centroid(shapely.from_wkb(table["geometry"].to_numpy())))
    steps = np.abs(np.diff(centres, axis=0)).sum(axis=1)
    np.testing.assert_allclose(steps, 1000.0)


def test_row_groups_are_small_in_rows_and_in_bytes(tmp_path: Path) -> None:
    angles = np.linspace(0, 2 * np.pi, 30_000, endpoint=False)
    round_ = [
        shapely.Polygon(np.column_stack([4e6 + 2000 * i + 900 * np.cos(angles), 3e6 + 900 * np.sin(angles)]))
        for i in range(40)
    ]
    source = write(tmp_path / "clc.gpkg", [*round_, *squares(6000, 5.0)], text(np.resize(CODES, 6040)))
    prepare_labels(source, tmp_path / "labels.parquet")
    file = pq.ParquetFile(tmp_path / "labels.parquet")
    total = 0
    for i in range(file.num_row_groups):
        table = file.read_row_group(i)
        lengths = [len(value) for value in table["geometry"].to_pylist()]
        assert len(table) <= ROW_GROUP_ROWS
        assert sum(lengths) <= ROW_GROUP_BYTES
        total += len(table)
    assert total == 6040
    assert file.num_row_groups < 10


def test_polygons_far_wider_than_others_have_row_groups_of_their_own(tmp_path: Path) -> None:
    shapes = list(squares(4000))
    for i in range(20):
        shapes.insert(i * 150, shapely.box(4e6, 3e6 + i * 1000, 4e6 + 60_000, 3e6 + i * 1000 + 10))
    source = write(tmp_path / "clc.gpkg", shapes, text(np.resize(CODES, 4020)))
    prepare_labels(source, tmp_path / "labels.parquet")
    file = pq.ParquetFile(tmp_path / "labels.parquet")
    widths = []
    for i in range(file.num_row_groups):
        xmin, _, xmax, _ = (e.to_numpy() for e in file.read_row_group(i)["bbox"].combine_chunks().flatten())
        widths.append(set(np.unique(xmax - xmin)))
    assert widths[-1] == {60_000.0}
    assert all(width == {900.0} for width in widths[:-1])


def test_twice_the_same_bytes_whatever_lay_there(tmp_path: Path) -> None:
    source = write(tmp_path / "clc.gpkg", squares(3000), text(np.resize(CODES, 3000)))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "b/labels.parquet").write_bytes(b"something old")
    for name in ("a", "b"):
        prepare_labels(source, tmp_path / name / "labels.parquet")
    assert (tmp_path / "a/labels.parquet").read_bytes() == (tmp_path / "b/labels.parquet").read_bytes()


@pytest.mark.parametrize("suffix", [".shp", ".geojson", ".fgb"])
def test_other_formats_of_polygons(tmp_path: Path, suffix: str) -> None:
    crs = {"crs": "EPSG:4326"} if suffix == ".geojson" else {}
    shapes = shapely.box([10, 11, 12], 50, [10.5, 11.5, 12.5], 50.5) if crs else squares(3)
    options = {"layer_options": {"SPATIAL_INDEX": "NO"}} if suffix == ".fgb" else {}
    source = write(
        tmp_path / f"land{suffix}", shapes, text([311, 512, 112]), "CODE_18", "land",
        geometry_type="Polygon", **crs, **options,
    )  # fmt: skip
    prepare_labels(source, tmp_path / "labels.parquet")
    table = pq.read_table(tmp_path / "labels.parquet").sort_by("fid")
    assert table["code"].to_pylist() == [311, 512, 112]
    assert open_labels(tmp_path / "labels.parquet").name == "land"


# Codes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        np.array([311, 512, 999], np.int32),
        np.array([311, 512, 999], np.int64),
        np.array([311, 512, 999], np.float64),
        np.array(["311", " 512", "999 "], object),
    ],
)
def test_codes_of_any_type(tmp_path: Path, values: Any) -> None:
    prepare_labels(write(tmp_path / "a.gpkg", squares(3), values), tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet").sort_by("fid")["code"].to_pylist() == [311, 512, 999]


def test_what_clc_leaves_unclassified_is_unlabelled(tmp_path: Path) -> None:
    source = write(tmp_path / "a.gpkg", squares(4), text([990, 995, 999, 311]))
    prepare_labels(source, tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet").sort_by("fid")["code"].to_pylist() == [999, 999, 999, 311]
    own = Nomenclature.from_csv("code,name,class\n311,Trees,Trees\n", "own")
    with pytest.raises(InvalidLabels, match=r"2 value\(s\).*'own' does not know: 990 \(1 features\), 995 \(1"):
        prepare_labels(source, tmp_path / "b.parquet", nomenclature=own)


def test_unknown_values_are_counted_and_nothing_is_written(tmp_path: Path) -> None:
    values = text([*CODES, 777, 777, 778, *range(1000, 1009)])
    source = write(tmp_path / "a.gpkg", squares(len(values)), values)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.parquet").write_bytes(b"what was there")
    with pytest.raises(InvalidLabels) as caught:
        prepare_labels(source, tmp_path / "out/a.parquet")
    message = str(caught.value)
    assert "'code_18' holds 11 value(s)" in message
    assert "777 (2 features), 1000 (1 features)" in message
    assert "and 3 more" in message
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.parquet"]
    assert (tmp_path / "out/a.parquet").read_bytes() == b"what was there"


def test_a_polygon_without_a_code_is_an_unknown_value(tmp_path: Path) -> None:
    source = write(tmp_path / "a.gpkg", squares(2), np.array(["311", None], object))
    with pytest.raises(InvalidLabels, match=r"\(empty\) \(1 features\)"):
        prepare_labels(source, tmp_path / "a.parquet")


def test_the_code_column_must_be_named_where_it_is_not_clc(tmp_path: Path) -> None:
    source = write(tmp_path / "a.gpkg", squares(2), text([311, 512]), "fclass")
    with pytest.raises(InvalidLabels, match=r"no column 'code_18', so it is not CLC 2018.*Columns of clc: fclass"):
        prepare_labels(source, tmp_path / "a.parquet")
    with pytest.raises(InvalidLabels, match=r"no column 'kind'.*Columns of clc: fclass"):
        prepare_labels(source, tmp_path / "a.parquet", code_column="kind")
    assert prepare_labels(source, tmp_path / "a.parquet", code_column="fclass") == 2


def test_several_layers(tmp_path: Path) -> None:
    source = write(tmp_path / "a.gpkg", squares(2), text([311, 512]), layer="north")
    write(source, squares(3), text([311, 512, 112]), layer="south", append=True)
    write(source, squares(4), text("abcd"), "name", layer="towns", append=True)
    with pytest.raises(InvalidLabels, match=r"several layers with a column 'code_18': north, south; say which"):
        prepare_labels(source, tmp_path / "a.parquet")
    assert prepare_labels(source, tmp_path / "a.parquet", layer="south") == 3
    assert open_labels(tmp_path / "a.parquet").name == "a-south"
    with pytest.raises(InvalidLabels, match=r"no layer 'west' with geometry; it has north, south, towns"):
        prepare_labels(source, tmp_path / "a.parquet", layer="west")


def test_the_only_layer_with_codes_is_taken(tmp_path: Path, shared_data: Path) -> None:
    # Three layers: the codes (CODE_18), the municipality, QGIS styles.
    source = shared_data / "clc/lanjaron_clc2018.gpkg"
    assert prepare_labels(source, tmp_path / "a.parquet") == 136
    about = json.loads(pq.read_metadata(tmp_path / "a.parquet").metadata[b"landpatch:labels"])
    assert about["code_column"] == "CODE_18"
    assert about["name"] == "lanjaron_clc2018-clc"


# Geometries -------------------------------------------------------------------------------------------------------


def test_features_without_polygons_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    square = shapely.box(0, 0, 10, 10)
    bow_tie = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    mixed = shapely.GeometryCollection([shapely.Point(5, 5), square, shapely.MultiPolygon([bow_tie])])
    shapes = [
        square, None, shapely.Polygon(), shapely.Point(1, 1), shapely.LineString([(0, 0), (9, 9)]),
        shapely.MultiPolygon([square]), bow_tie, mixed, shapely.force_3d(square, 7.0),
    ]  # fmt: skip
    source = write(tmp_path / "a.gpkg", shapes, text([311] * 9))
    with caplog.at_level(logging.WARNING):
        assert prepare_labels(source, tmp_path / "a.parquet") == 5
    assert "left out 4 of 9 features" in caplog.text
    table = pq.read_table(tmp_path / "a.parquet").sort_by("fid")
    assert table["fid"].to_pylist() == [0, 5, 6, 7, 8]
    written = shapely.from_wkb(table["geometry"].to_numpy())
    assert [shape.geom_type for shape in written] == ["Polygon", "MultiPolygon", "Polygon", "MultiPolygon", "Polygon"]
    assert len(written[3].geoms) == 2
    assert not shapely.has_z(written).any()
    assert written[4].equals(square)
    geo = json.loads(pq.read_metadata(tmp_path / "a.parquet").metadata[b"geo"])
    assert geo["columns"]["geometry"]["geometry_types"] == ["Polygon", "MultiPolygon"]


def test_a_layer_of_points_has_no_labels(tmp_path: Path) -> None:
    source = write(tmp_path / "a.gpkg", shapely.points([1, 2], [3, 4]), text([311, 311]))
    with pytest.raises(InvalidLabels, match="no polygons among its 2 features"):
        prepare_labels(source, tmp_path / "a.parquet")


def test_curved_polygons_must_be_made_straight(tmp_path: Path) -> None:
    source = tmp_path / "curves.csv"
    source.write_text('WKT,code_18\n"CURVEPOLYGON(CIRCULARSTRING(0 0,1 1,2 0,1 -1,0 0))",311\n')
    (tmp_path / "curves.prj").write_text(CRS.from_epsg(3035).to_wkt("WKT1_ESRI"))
    with pytest.raises(InvalidLabels, match="curved geometries"):
        prepare_labels(source, tmp_path / "a.parquet")


# What cannot be prepared ------------------------------------------------------------------------------------------


def test_no_crs_and_no_features(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="crs"):
        nowhere = write(tmp_path / "nowhere.gpkg", squares(1), text([311]), crs=None)
    with pytest.raises(InvalidLabels, match="declares no coordinate reference system"):
        prepare_labels(nowhere, tmp_path / "a.parquet")
    empty = write(tmp_path / "empty.gpkg", squares(0), np.array([], object))
    with pytest.raises(InvalidLabels, match="has no features"):
        prepare_labels(empty, tmp_path / "a.parquet")


def test_a_truncated_geopackage(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.gpkg", squares(3000), text(np.resize(CODES, 3000))).read_bytes()
    for share in (0.01, 0.3, 0.6, 0.95):
        broken = tmp_path / "broken.gpkg"
        broken.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InvalidLabels, match=r"broken\.gpkg"):
            prepare_labels(broken, tmp_path / "a.parquet")
    assert not (tmp_path / "a.parquet").exists()


def test_a_hole_in_a_geopackage_is_noticed(tmp_path: Path) -> None:
    # GDAL ends the features at such a hole without an error.
    source = write(
        tmp_path / "a.gpkg", squares(3000), text(np.resize(CODES, 3000)), layer_options={"SPATIAL_INDEX": "NO"}
    )
    data = bytearray(source.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 8192] = bytes(8192)
    source.write_bytes(data)
    with pytest.raises(InvalidLabels, match=r"declares 3000 features but only \d+ can be read|cannot be read to its"):
        prepare_labels(source, tmp_path / "a.parquet")
    assert [p.name for p in tmp_path.iterdir()] == ["a.gpkg"]


def test_names_that_cannot_be(tmp_path: Path) -> None:
    source = write(tmp_path / "a.gpkg", squares(1), text([311]))
    with pytest.raises(InvalidLabels, match="does not exist"):
        prepare_labels(tmp_path / "none.gpkg", tmp_path / "a.parquet")
    with pytest.raises(InvalidParameter, match=r"must end with \.parquet"):
        prepare_labels(source, tmp_path / "a.tif")
    with pytest.raises(InvalidParameter, match="not a local file"):
        prepare_labels("https://example.org/a.gpkg", tmp_path / "a.parquet")
    (tmp_path / "notes.txt").write_text("no polygons")
    with pytest.raises(InvalidLabels, match="cannot be read as polygons"):
        prepare_labels(tmp_path / "notes.txt", tmp_path / "a.parquet")
    with pytest.raises(StorageError, match="cannot write"):
        prepare_labels(source, tmp_path / "notes.txt/a.parquet")


# Memory and disk --------------------------------------------------------------------------------------------------

# The peak of this process alone: what getrusage tells includes the process that started it.
_MEASURED = """
import re, sys
from pathlib import Path
from landpatch.functions.labels_prepare import prepare_labels
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024
before = peak()
print(prepare_labels(sys.argv[1], sys.argv[2]), peak() - before)
"""

_LIMITED = """
import resource, signal, sys
from landpatch.catalog.errors import StorageError
from landpatch.functions.labels_prepare import prepare_labels
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    prepare_labels(sys.argv[1], sys.argv[2])
except StorageError as error:
    print(error)
"""


def _many(path: Path, count: int, points: int) -> Path:
    """Round polygons, most of them in one corner of a large layer."""
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    for start in range(0, count, 50_000):
        n = min(50_000, count - start)
        centres = rng.uniform((5e6, 2e6), (5.03e6, 2.03e6), (n, 1, 2))
        centres[::1000] = rng.uniform(1e6, 6e6, (len(centres[::1000]), 1, 2))
        rings = centres + 50 * rng.uniform(0.5, 1, (n, points, 1)) * np.stack(
            [np.cos(angles), np.sin(angles)], axis=1
        )
        write(
            path, shapely.polygons(rings), text(rng.choice(CODES, n)), append=start > 0, geometry_type="Polygon",
            layer_options={} if start else {"SPATIAL_INDEX": "NO"},
        )  # fmt: skip
    return path


def test_memory_stays_bounded(tmp_path: Path) -> None:
    # 390 MB of polygons, 99.9 % of them in a 20,000th of the area: one piece of the curve must be cut up again.
    source = _many(tmp_path / "many.gpkg", 200_000, 100)
    size = source.stat().st_size / 2**20
    assert size > 380
    arguments = [sys.executable, "-c", _MEASURED, source, tmp_path / "labels.parquet"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    count, grown = (int(word) for word in done.stdout.split())
    assert count == 200_000
    assert grown < 340
    source.unlink()
    fids = pq.read_table(tmp_path / "labels.parquet", columns=["fid"])["fid"].to_numpy()
    assert sorted(fids.tolist()) == list(range(200_000))


def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    source = _many(tmp_path / "many.gpkg", 2000, 50)
    (tmp_path / "out").mkdir()
    arguments = [sys.executable, "-c", _LIMITED, source, tmp_path / "out/labels.parquet"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout
    assert "labels.parquet" in done.stdout
    assert not list((tmp_path / "out").iterdir())


# Rasters ----------------------------------------------------------------------------------------------------------


def raster(path: Path, pixels: Any, **options: Any) -> Path:
    pixels = np.asarray(pixels)
    profile = {
        "driver": "GTiff", "dtype": pixels.dtype, "count": 1, "height": pixels.shape[0], "width": pixels.shape[1],
        "crs": "EPSG:3035", "transform": rasterio.Affine(100, 0, 4e6, 0, -100, 3e6),
    }  # fmt: skip
    with rasterio.open(path, "w", **(profile | options)) as dataset:
        dataset.write(pixels, 1)
    return path


def read(path: Path) -> Any:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


@pytest.mark.parametrize(
    ("pixels", "nodata", "expected"),
    [
        (np.uint8([[1, 44, 0], [23, 23, 255]]), None, [[111, 523, 0], [311, 311, 999]]),
        (np.uint8([[1, 44, 0], [23, 23, 255]]), 255, [[111, 523, 0], [311, 311, 0]]),
        (np.int16([[111, 523, 0], [311, 999, -128]]), -128, [[111, 523, 0], [311, 999, 0]]),
        (np.uint32([[111, 523, 0], [311, 995, 4294967295]]), 4294967295, [[111, 523, 0], [311, 999, 0]]),
        (np.float32([[1, 44, 0], [48, 23, np.nan]]), np.nan, [[111, 523, 0], [999, 311, 0]]),
    ],
)
def test_grid_codes_and_codes_are_told_apart(tmp_path: Path, pixels: Any, nodata: float, expected: Any) -> None:
    source = raster(tmp_path / "a.tif", pixels, nodata=nodata)
    count = prepare_labels(source, tmp_path / "labels.tif")
    assert count == np.count_nonzero(expected)
    np.testing.assert_array_equal(read(tmp_path / "labels.tif"), expected)
    with rasterio.open(tmp_path / "labels.tif") as dataset, rasterio.open(source) as original:
        assert (dataset.crs, dataset.transform, dataset.nodata) == (original.crs, original.transform, 0)
        assert dataset.dtypes == ("uint16",)
        assert Nomenclature.from_json(dataset.tags()[NOMENCLATURE_TAG]) == clc2018()


def test_real_rasters_keep_their_grid_and_every_pixel(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "clc/latvia_clc.tif"
    calls: list[tuple[int, int]] = []
    prepare_labels(source, tmp_path / "a.tif", progress=lambda *call: calls.append(call))
    prepare_labels(source, tmp_path / "b.tif")
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    assert calls[-1][0] == calls[-1][1] == len(calls)
    lookup = np.zeros(256, np.uint16)
    for code in clc2018().codes:
        lookup[code.grid_code] = code.code
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), lookup[read(source)])
    with rasterio.open(tmp_path / "a.tif") as dataset:
        assert dataset.profile["tiled"]
        assert dataset.compression.value == "DEFLATE"


def test_rasters_that_are_no_labels(tmp_path: Path) -> None:
    for pixels, message in (
        (np.uint8([[1, 45, 60]]), r"2 value\(s\) .* neither as grid code nor as code: 45, 60"),
        (np.int16([[111, 523, -1]]), r"1 value\(s\) .*: -1\."),
        (np.zeros((2, 2), np.uint8), "no labelled pixels"),
        (np.float32([[1.5, 2]]), "fractions"),
    ):
        with pytest.raises(InvalidLabels, match=message):
            prepare_labels(raster(tmp_path / "a.tif", pixels), tmp_path / "b.tif")
    with pytest.raises(InvalidParameter, match=r"must end with \.tif"):
        prepare_labels(tmp_path / "a.tif", tmp_path / "b.parquet")
    rng = np.random.default_rng(2)
    whole = raster(tmp_path / "a.tif", rng.integers(1, 45, (600, 600), np.uint8)).read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidLabels, match="damaged or incomplete"):
        prepare_labels(tmp_path / "a.tif", tmp_path / "b.tif")
    assert not (tmp_path / "b.tif").exists()
