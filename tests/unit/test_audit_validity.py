"""Items are judged together where no schema can tell them apart: the verdict is that of judging each by itself."""

import math
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
import shapely

from landpatch.catalog.auditing.findings import Findings, Kind
from landpatch.catalog.auditing.validity import check_validity
from landpatch.catalog.errors import InvalidDataset
from landpatch.catalog.items import SCHEMA, item_from_row
from landpatch.catalog.schemas import validate_item
from landpatch.catalog.store import Storage
from small_dataset import Patch, write_dataset

Row = dict[str, Any]
WRONG = (2, 5, 6)
PATCHES = [Patch(x, 3, radar=None) if x == 5 else Patch(x, 3, labelled=x != 6) for x in range(9)]


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return write_dataset(Storage.open("memory://"), PATCHES).table()


def one_by_one(table: pa.Table) -> dict[str, str]:
    found = {}
    for row in table.to_pylist():
        try:
            validate_item(item_from_row(row))
        except InvalidDataset as error:
            found[row["id"]] = str(error)
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, shapely.GEOSException) as error:
            found[row["id"]] = f"{type(error).__name__}: {error}"
    return found


def of_column(name: str, value: Any) -> Callable[[Row], None]:
    return lambda row: row.__setitem__(name, value)


def of_asset(name: str, value: Any) -> Callable[[Row], None]:
    return lambda row: row["assets"]["S2_10m"].__setitem__(name, value)


def of_link(name: str, value: Any) -> Callable[[Row], None]:
    return lambda row: row["links"][1].__setitem__(name, value)


def _shape(text: str) -> bytes:
    binary: bytes = shapely.to_wkb(shapely.from_wkt(text), output_dimension=3)
    return binary


CHANGES = {
    "nothing": of_column("landpatch:country", "Austria"),
    "checksum": of_asset("file:checksum", "1220" + 64 * "A"),
    "short checksum": of_asset("file:checksum", "1220ab"),
    "no checksum": of_asset("file:checksum", None),
    "size": of_asset("file:size", -1),
    "no href": of_asset("href", None),
    "empty href": of_asset("href", ""),
    "href with a space": of_asset("href", "patches/a b.tif"),
    "href with a bad escape": of_asset("href", "patches/%zz.tif"),
    "href with an escape": of_asset("href", "https://host:8080/a%20b.tif?c=d"),
    "rotated": of_asset("proj:transform", [10.0, 1.0, 300000.0, 0.0, -10.0, 5900040.0]),
    "transform of five": of_asset("proj:transform", [10.0, 0.0, 300000.0, 0.0, -10.0]),
    "transform of nine": of_asset("proj:transform", [10.0, 0.0, 3e5, 0.0, -10.0, 59e5, 0.0, 0.0, 1.0]),
    "transform without a number": of_asset("proj:transform", [10.0, 0.0, math.nan, 0.0, -10.0, 59e5]),
    "no bands": of_asset("bands", []),
    "band without a name": of_asset("bands", [{"name": None}]),
    "data type": of_asset("data_type", "uint17"),
    "datetime of a file": of_asset("datetime", "yesterday"),
    "no asset": lambda row: row["assets"].__setitem__("S1", None),
    "cloud cover": of_column("eo:cloud_cover", 101.0),
    "no number": of_column("landpatch:snow", math.nan),
    "infinite": of_column("gsd", math.inf),
    "no datetime": of_column("datetime", None),
    "no time at all": lambda row: row.update(datetime=None, start_datetime=None, end_datetime=None),
    "half a span": of_column("end_datetime", None),
    "split": of_column("ml-aoi:split", "holdout"),
    "version": of_column("stac_version", "1.0.0"),
    "extension": lambda row: row["stac_extensions"].append("https://stac-extensions.github.io/moon/v1/schema.json"),
    "extension twice": lambda row: row["stac_extensions"].append(row["stac_extensions"][0]),
    "geometry": of_column("geometry", None),
    "broken geometry": of_column("geometry", b"\1\3\0\0\0"),
    "no area": of_column("geometry", _shape("POLYGON EMPTY")),
    "a height": of_column("geometry", _shape("POLYGON Z ((0 0 1, 1 0 1, 1 1 1, 0 0 1))")),
    "a hole": of_column("geometry", _shape("POLYGON ((0 0, 9 0, 9 9, 0 9, 0 0), (1 1, 2 1, 2 2, 1 1))")),
    "bbox": lambda row: row["bbox"].__setitem__("xmin", math.nan),
    "link": of_link("href", ""),
    "relation": of_link("rel", None),
    "no collection": of_column("collection", None),
    "other type": of_column("label:type", "picture"),
    "no classes": of_column("label:classes", []),
    "null class": of_column("label:classes", [{"name": None, "classes": None}]),
    "code": of_column("proj:code", "moon"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_verdict_is_that_on_each_item(table: pa.Table, what: str) -> None:
    rows = table.to_pylist()
    for number in WRONG:
        CHANGES[what](rows[number])
    changed = pa.Table.from_pylist(rows, SCHEMA)
    findings, expected = Findings(), one_by_one(changed)
    check_validity(changed, findings)
    found = {finding.patch: finding.text for finding in findings.kept}
    assert found.keys() == expected.keys()
    assert {finding.kind for finding in findings.kept} <= {Kind.STAC}
    assert all(expected[patch] in text for patch, text in found.items())


def test_most_changes_are_no_valid_items(table: pa.Table) -> None:
    """Else the comparison above would prove little."""
    invalid = 0
    for change in CHANGES.values():
        rows = table.to_pylist()[:1]
        change(rows[0])
        invalid += bool(one_by_one(pa.Table.from_pylist(rows, SCHEMA)))
    assert invalid > 25


def test_no_rows(table: pa.Table) -> None:
    findings = Findings()
    check_validity(table.slice(0, 0), findings)
    assert not findings.counts
