"""The STAC API over real HTTP: pystac-client, paging, filters against an independent evaluation, hostile requests,
datasets that change, S3.
"""

import json
import random
import socket
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pyarrow.parquet as pq
import pystac_client
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from api_server import running
from catalogue_items import COLLECTION, made_up, write_catalogue
from landpatch.catalog.api import Settings, create_app
from landpatch.catalog.errors import InvalidParameter
from landpatch.catalog.items import item_from_row
from landpatch.catalog.search import SearchableDataset
from landpatch.catalog.store import ITEMS, Storage
from s3_server import serve_s3
from small_dataset import Patch, write_dataset

COUNT = 20_000
PLACE = (12.5, 47.6, 13.1, 48.1)


class Served:
    """A catalogue and the API over it."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address
        table = pq.read_table(folder / ITEMS)
        self.rows: list[dict[str, Any]] = table.drop_columns(["assets", "links", "stac_extensions"]).to_pylist()

    def ask(self, path: str, body: Any = None, **parameters: Any) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        query = f"?{urlencode(parameters)}" if parameters else ""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}{path}{query}", data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def found(self, **parameters: Any) -> Any:
        status, answer = self.ask("search", **parameters)
        assert status == 200, answer
        return answer


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("catalogue")
    write_catalogue(folder, made_up(COUNT))
    with running(create_app([folder], Settings(cache=tmp_path_factory.mktemp("cache"), access_log=False))) as address:
        yield Served(folder, address)


@pytest.fixture(scope="module")
def client(api: Served) -> pystac_client.Client:
    return pystac_client.Client.open(api.address)


# --- pystac-client -----------------------------------------------------------------------------------------------


def test_pages_to_the_end_hold_every_item_once(api: Served, client: pystac_client.Client) -> None:
    search = client.search(collections=[COLLECTION], limit=1000, fields=["id"])
    assert search.matched() == COUNT
    ids = [item["id"] for page in search.pages_as_dicts() for item in page["features"]]
    assert ids == sorted(row["id"] for row in api.rows)


@pytest.mark.parametrize("sortby", ["-properties.eo:cloud_cover", "+properties.landpatch:tile,-properties.datetime"])
def test_sorted_pages_hold_every_item_once_under_ties_and_missing_values(
    api: Served, client: pystac_client.Client, sortby: str
) -> None:
    search = client.search(
        method="GET",
        limit=777,
        sortby=sortby,
        fields=["id"],
        filter="landpatch:split = 'train'",
        filter_lang="cql2-text",
    )
    ids = [item["id"] for page in search.pages_as_dicts() for item in page["features"]]
    rows = [row for row in api.rows if row["landpatch:split"] == "train"]
    rows.sort(key=lambda row: row["id"])
    if "cloud" in sortby:
        assert any(row["eo:cloud_cover"] is None for row in rows)
        rows.sort(key=lambda row: (row["eo:cloud_cover"] is None, -(row["eo:cloud_cover"] or 0)))
    else:
        rows.sort(key=lambda row: row["datetime"], reverse=True)
        rows.sort(key=lambda row: row["landpatch:tile"])
    assert ids == [row["id"] for row in rows]


def test_filters_as_text_and_as_json_find_the_same(api: Served, client: pystac_client.Client) -> None:
    text = "landpatch:split='train' AND a_contains(landpatch:labels,'Inland wetlands')"
    document = {
        "op": "and",
        "args": [
            {"op": "=", "args": [{"property": "landpatch:split"}, "train"]},
            {"op": "a_contains", "args": [{"property": "landpatch:labels"}, ["Inland wetlands"]]},
        ],
    }
    expected = {
        row["id"]
        for row in api.rows
        if row["landpatch:split"] == "train" and "Inland wetlands" in row["landpatch:labels"]
    }
    assert len(expected) > 100
    for filter_, method in ((text, "GET"), (document, "POST")):
        search = client.search(filter=filter_, method=method, limit=1000)
        assert {item.id for item in search.items()} == expected
        assert search.matched() == len(expected)
    status, answer = api.ask("search", {"filter": text, "filter-lang": "cql2-text", "limit": 1})
    assert (status, answer["numberMatched"]) == (200, len(expected))


def test_labels_ids_places_times_and_words(api: Served, client: pystac_client.Client) -> None:
    wet = ["Inland wetlands", "Coastal wetlands"]
    overlap = client.search(filter={"op": "a_overlaps", "args": [{"property": "landpatch:labels"}, wet]})
    assert overlap.matched() == sum(bool(set(wet) & set(row["landpatch:labels"])) for row in api.rows)
    ids = [api.rows[number]["id"] for number in (5, 19_999, 7_000)]
    assert [item.id for item in client.search(ids=[*ids, "no-such-item"]).items()] == sorted(ids)

    shapes = {row["id"]: shapely.from_wkb(row["geometry"]) for row in api.rows}
    box = shapely.box(*PLACE)
    inside = {name for name, shape in shapes.items() if shape.intersects(box)}
    assert 300 < len(inside) < 3_000
    found = [item["id"] for item in client.search(bbox=PLACE, limit=1000).items_as_dicts()]
    assert (len(found), set(found)) == (len(inside), inside)
    triangle = shapely.Polygon([(12.5, 47.6), (13.1, 47.6), (12.5, 48.1)])
    inside = {name for name, shape in shapes.items() if shape.intersects(triangle)}
    found = [
        item["id"]
        for item in client.search(intersects=shapely.geometry.mapping(triangle), limit=1000).items_as_dicts()
    ]
    assert (len(found), set(found)) == (len(inside), inside)

    assert client.search(datetime="2017-07-01/2017-07-31").matched() == sum(
        row["landpatch:tile"] == "35VNK" for row in api.rows
    )
    assert api.found(q="serbia,finland", limit=1)["numberMatched"] == sum(
        row["landpatch:country"] in ("Serbia", "Finland") for row in api.rows
    )


def test_items_are_those_of_the_parquet(api: Served, client: pystac_client.Client) -> None:
    row = pq.ParquetFile(api.folder / ITEMS).read_row_group(1).slice(17, 1).to_pylist()[0]
    expected = item_from_row(row)
    status, item = api.ask(f"collections/{COLLECTION}/items/{row['id']}")
    assert status == 200
    base = f"{api.address}assets/{COLLECTION}/"
    for asset in expected["assets"].values():
        asset["href"] = base + asset["href"]
    assert [link["rel"] for link in item["links"][:4]] == ["self", "parent", "collection", "root"]
    assert item["links"][4:] == [
        {**link, "href": base + link["href"]} for link in expected["links"] if link["rel"] != "collection"
    ]
    assert {**item, "links": None} == {**expected, "links": None}
    assert client.get_collection(COLLECTION).get_item(row["id"]).id == row["id"]  # type: ignore[union-attr]


def test_fields(api: Served) -> None:
    item = api.found(fields="id,properties.landpatch:split", limit=1)["features"][0]
    always = {"type": "Feature", "stac_version": "1.1.0", "id": item["id"], "collection": COLLECTION}
    split = item["properties"]["landpatch:split"]
    assert item == {**always, "properties": {"landpatch:split": split}}
    # Included by name wins over excluded; the most specific path decides (Fields extension 1.0.0, rules 5 and 6).
    for asked in ("-properties,properties.landpatch:split", "-properties.landpatch:split,properties.landpatch:split"):
        assert api.found(fields=asked, limit=1)["features"] == [item]
    assert api.found(fields="-id,id", limit=1)["features"] == [always]
    less = api.found(fields="properties,-properties.landpatch:split", limit=1)["features"][0]
    assert less.keys() == item.keys()
    assert "landpatch:labels" in less["properties"]
    assert "landpatch:split" not in less["properties"]
    item = api.found(fields="-assets,-properties.datetime", limit=1)["features"][0]
    assert "assets" not in item
    assert "datetime" not in item["properties"]
    assert "landpatch:labels" in item["properties"]


def test_collection_search(api: Served, client: pystac_client.Client) -> None:
    assert [found.id for found in client.collection_search(q="Sentinel-1", bbox=(10, 40, 20, 50)).collections()] == [
        COLLECTION
    ]
    assert list(client.collection_search(datetime="1990-01-01/1990-12-31").collections()) == []
    assert list(client.collection_search(bbox=(-100, 30, -90, 40)).collections()) == []


def test_queryables_offer_choices(api: Served) -> None:
    for path in ("queryables", f"collections/{COLLECTION}/queryables"):
        status, schema = api.ask(path)
        assert status == 200
        assert schema["$id"] == f"{api.address}{path}"
        known = schema["properties"]
        assert known["landpatch:split"]["enum"] == ["test", "train", "validation"]
        assert known["landpatch:tile"]["enum"] == ["33UUP", "34TCR", "35VNK"]
        assert known["landpatch:country"]["enum"] == ["Austria", "Finland", "Serbia"]
        assert "Pastures" in known["landpatch:labels"]["items"]["enum"]


def test_aggregations_count_what_matches(api: Served) -> None:
    train = [row for row in api.rows if row["landpatch:split"] == "train"]
    names = "total_count,label_frequency,tile_frequency,country_frequency,split_frequency,grid_code_frequency"
    status, answer = api.ask(
        "aggregate", aggregations=f"{names},datetime_frequency,datetime_max", filter="landpatch:split='train'"
    )
    assert status == 200
    got = {entry["name"]: entry for entry in answer["aggregations"]}
    buckets = {
        name: {bucket["key"]: bucket["frequency"] for bucket in entry.get("buckets", ())}
        for name, entry in got.items()
    }
    assert got["total_count"]["value"] == len(train)
    assert buckets["label_frequency"] == Counter(label for row in train for label in row["landpatch:labels"])
    assert buckets["tile_frequency"] == Counter(row["landpatch:tile"] for row in train)
    assert buckets["country_frequency"] == Counter(row["landpatch:country"] for row in train)
    assert buckets["split_frequency"] == {"train": len(train)}
    assert buckets["grid_code_frequency"] == Counter(row["grid:code"] for row in train)
    assert buckets["datetime_frequency"] == Counter(f"{row['datetime']:%Y-%m-01T00:00:00Z}" for row in train)
    assert got["datetime_max"]["value"] == "2018-02-04T09:41:59Z"
    assert api.ask("aggregate", {"aggregations": ["total_count"]})[1]["aggregations"][0]["value"] == COUNT
    assert api.ask("aggregate", aggregations="nonsense")[0] == 400


# --- filters against an independent evaluation -------------------------------------------------------------------

# Property, values to compare with, and how the row says it; None is missing.
_SCALARS: dict[str, list[Any]] = {
    "landpatch:split": ["train", "test", "validation", "it's", ""],
    "landpatch:country": ["Serbia", "Finland", 'Ä"; DROP TABLE items; --'],
    "eo:cloud_cover": [0, 0.1, 5, 50.5, -1e300, 1e300],
    "landpatch:x": [0, 10, 45.5, 90],
    "landpatch:s1_name": ["S1B", "S1A_IW_GRDH_1SDV_20170701T043011_35VNK_0_0"],
    "no:such": ["a", 1],
}
_LABELS = ["Pastures", "Arable land", "Inland waters", "No such label", "Mixed forest"]


def _compare(op: str, one: Any, other: Any) -> bool | None:
    if one is None:
        return None
    return {"=": one == other, "<>": one != other, "<": one < other, ">": one > other, "<=": one <= other}.get(
        op, one >= other
    )


_texts = st.sampled_from([name for name, values in _SCALARS.items() if isinstance(values[0], str)])
_numbers = st.sampled_from([name for name, values in _SCALARS.items() if not isinstance(values[0], str)])


@st.composite
def _leaf(draw: st.DrawFn) -> tuple[Any, Any]:
    """A condition, and the function that says what it is of a row: True, False or None."""
    kind = draw(st.sampled_from(["compare", "null", "in", "between", "like", "array", "time", "casei", "sum"]))
    name = draw(st.sampled_from(list(_SCALARS)))
    here = {"property": name}
    if kind == "compare":
        op, value = draw(st.sampled_from(["=", "<>", "<", ">", "<=", ">="])), draw(st.sampled_from(_SCALARS[name]))
        return {"op": op, "args": [here, value]}, lambda row: _compare(op, row.get(name), value)
    if kind == "null":
        return {"op": "isNull", "args": [here]}, lambda row: row.get(name) is None
    if kind == "in":
        values = draw(st.lists(st.sampled_from(_SCALARS[name]), min_size=1))
        return {
            "op": "in",
            "args": [here, values],
        }, lambda row: None if row.get(name) is None else row[name] in values
    if kind == "between":
        name = draw(_numbers)
        low, high = draw(st.sampled_from(_SCALARS[name])), draw(st.sampled_from(_SCALARS[name]))
        return {
            "op": "between",
            "args": [{"property": name}, low, high],
        }, lambda row: None if row.get(name) is None else low <= row[name] <= high
    if kind == "sum":
        name, more = draw(_numbers), draw(st.integers(-50, 50))
        return {
            "op": ">",
            "args": [{"op": "+", "args": [{"property": name}, more]}, 20],
        }, lambda row: None if row.get(name) is None else row[name] + more > 20
    if kind == "like":
        name, start = draw(_texts), draw(st.sampled_from(["", "S", "S1A_", "Fin", "%", "100\\%"]))
        plain = start.replace("\\%", "\x00").replace("%", "").replace("\x00", "%")
        exact_under = "_" in start  # matches any one character: said by the length alone here
        return (
            {"op": "like", "args": [{"property": name}, start + "%"]},
            lambda row: (
                None
                if row.get(name) is None
                else (
                    row[name][:3] == plain[:3] and len(row[name]) >= 4 if exact_under else row[name].startswith(plain)
                )
            ),
        )
    if kind == "casei":
        name = draw(_texts)
        value = draw(st.sampled_from(_SCALARS[name])) if name != "no:such" else "A"
        one = {"op": "casei", "args": [{"property": name}]}
        return {
            "op": "=",
            "args": [one, {"op": "casei", "args": [str(value).upper()]}],
        }, lambda row: None if row.get(name) is None else row[name].lower() == str(value).upper().lower()
    if kind == "time":
        day = draw(st.integers(0, 400))
        moment = datetime(2017, 5, 1, tzinfo=UTC) + timedelta(days=day)
        return {
            "op": "t_after",
            "args": [{"property": "datetime"}, {"date": f"{moment:%Y-%m-%d}"}],
        }, lambda row: row["datetime"] > moment
    words = draw(st.lists(st.sampled_from(_LABELS), max_size=3))
    op = draw(st.sampled_from(["a_contains", "a_overlaps", "a_containedBy", "a_equals"]))
    test = {
        "a_contains": lambda row: set(words) <= set(row["landpatch:labels"]),
        "a_overlaps": lambda row: bool(set(words) & set(row["landpatch:labels"])),
        "a_containedBy": lambda row: set(words) >= set(row["landpatch:labels"]),
        "a_equals": lambda row: set(words) == set(row["landpatch:labels"]),
    }[op]
    return {"op": op, "args": [{"property": "landpatch:labels"}, words]}, test


def _not(inner: tuple[Any, Any]) -> tuple[Any, Any]:
    node, test = inner
    return {"op": "not", "args": [node]}, lambda row: None if test(row) is None else not test(row)


def _all_or_any(op: str, parts: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    decisive = op == "or"

    def test(row: dict[str, Any]) -> bool | None:
        said = [part(row) for _, part in parts]
        return decisive if decisive in said else None if None in said else not decisive

    return {"op": op, "args": [node for node, _ in parts]}, test


_filters = st.recursive(
    _leaf(),
    lambda inner: st.one_of(
        inner.map(_not),
        st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3)).map(
            lambda pair: _all_or_any(*pair)
        ),
    ),
    max_leaves=5,
)


@settings(max_examples=80)
@given(_filters)
def test_a_filter_finds_what_its_meaning_says(api: Served, filter_: tuple[Any, Any]) -> None:
    node, test = filter_
    status, answer = api.ask("search", {"filter": node, "limit": 3, "fields": {"include": ["id"]}})
    assert status == 200, (node, answer)
    expected = sorted(row["id"] for row in api.rows if test(row) is True)
    assert answer["numberMatched"] == len(expected), node
    assert [item["id"] for item in answer["features"]] == expected[:3]


@settings(max_examples=15)
@given(
    sort=st.lists(
        st.tuples(
            st.sampled_from(
                ["eo:cloud_cover", "landpatch:split", "landpatch:s1_name", "no:such", "datetime", "landpatch:x"]
            ),
            st.booleans(),
        ),
        max_size=3,
        unique_by=lambda pair: pair[0],
    ),
    limit=st.integers(7, 60),
    modulo=st.integers(0, 90),
)
def test_no_item_is_lost_or_doubled_between_pages(
    api: Served, sort: list[tuple[str, bool]], limit: int, modulo: int
) -> None:
    body: dict[str, Any] = {
        "limit": limit,
        "fields": {"include": ["id"]},
        "filter": {"op": "=", "args": [{"property": "landpatch:x"}, modulo]},
        "sortby": [{"field": name, "direction": "desc" if down else "asc"} for name, down in sort],
    }
    rows = sorted((row for row in api.rows if row["landpatch:x"] == modulo), key=lambda row: row["id"])
    for name, down in reversed(sort):
        known = sorted((r for r in rows if r.get(name) is not None), key=lambda r: r[name], reverse=down)
        rows = known + [row for row in rows if row.get(name) is None]
    ids: list[str] = []
    while True:
        status, page = api.ask("search", body)
        assert status == 200, page
        ids += [item["id"] for item in page["features"]]
        following = [link for link in page["links"] if link["rel"] == "next"]
        if not following:
            break
        body = following[0]["body"]
    assert ids == [row["id"] for row in rows]


# --- hostile requests --------------------------------------------------------------------------------------------

_WORDS = st.one_of(
    st.sampled_from("()'\",=<>+-*/^%;\\\0é"),
    st.sampled_from(
        ["<>", ">=", "and", "or", "not", "in", "like", "between", "is", "null", "true", "--", "/*", "*/"]
    ),
    st.sampled_from(
        ["casei(", "a_contains(", "s_intersects(", "t_after(", "POINT(1 1)", "POLYGON((0 0,1 1,2 2,0 0))"]
    ),
    st.sampled_from(
        ["landpatch:split", "geometry", "landpatch:labels", "datetime", "'x'", "1", "-1", "1e999", "DROP"]
    ),
    st.sampled_from(["TIMESTAMP('2017-01-01T00:00:00Z')", "INTERVAL('..','2017-01-01')", "DATE('x')"]),
)


@settings(max_examples=100)
@given(st.one_of(st.lists(_WORDS, max_size=25).map(" ".join), st.text(max_size=80)))
def test_no_text_of_a_filter_breaks_the_server(api: Served, text: str) -> None:
    begun = time.monotonic()
    text = text.encode("utf-8", "replace").decode()
    status, answer = api.ask("search", filter=text, limit=1)
    assert status in (200, 400), answer
    assert time.monotonic() - begun < 20
    if status == 400:
        assert set(answer) == {"code", "description"}


_json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["landpatch:x", ".."]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["op", "args", "property", "date", "interval", "type", "coordinates", "bbox"]), inner
        ),
        st.builds(
            lambda op, args: {"op": op, "args": args},
            st.sampled_from(
                [
                    "and",
                    "not",
                    "=",
                    "like",
                    "in",
                    "between",
                    "isNull",
                    "s_within",
                    "t_during",
                    "a_equals",
                    "+",
                    "^",
                    "casei",
                ]
            ),
            st.lists(inner, max_size=3),
        ),
        st.sampled_from([{"property": "landpatch:labels"}, {"property": "geometry"}, {"property": "datetime"}]),
    ),
    max_leaves=12,
)


@settings(max_examples=100)
@given(_json_values.filter(lambda value: value is not None))
def test_no_json_of_a_filter_breaks_the_server(api: Served, value: Any) -> None:
    status, answer = api.ask("search", {"filter": value, "limit": 1})
    assert status in (200, 400), answer
    status, answer = api.ask("search", {"intersects": value, "limit": 1})
    assert status in (200, 400), answer


@settings(max_examples=60)
@given(st.one_of(st.text(max_size=60), st.binary(max_size=60).map(lambda raw: raw.hex())))
def test_no_token_breaks_the_server(api: Served, token: str) -> None:
    token = token.encode("utf-8", "replace").decode()
    assert api.ask("search", token=token)[0] in (200, 400)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 3000 + "landpatch:x=1" + ")" * 3000,
        "not " * 5000 + "landpatch:x=1",
        "s_intersects(geometry," + "(" * 40 + "0 0" + ")" * 40 + ")",
        "(" * 40 + "landpatch:x=1",
        "a = 'x\\'))))))))))))' and " + "(" * 40 + "a = 1",
        "-" * 9000 + "1 = landpatch:x",
        "casei(" * 500 + "id" + ")" * 500 + " = 'x'",
    ],
    ids=lambda text: text[:12],
)
def test_what_would_hang_or_crash_the_parser_is_refused_at_once(api: Served, text: str) -> None:
    begun = time.monotonic()
    assert api.ask("search", {"filter": text, "filter-lang": "cql2-text"})[0] == 400
    assert time.monotonic() - begun < 10
    assert api.ask("_mgmt/ping") == (200, {"message": "PONG"})


def test_sql_in_values_and_names_is_only_text(api: Served) -> None:
    for hostile in ("'; DROP TABLE kept.items; --", "x' OR '1'='1", "\"; ATTACH '/etc/passwd' AS p; --"):
        for node in (
            {"op": "=", "args": [{"property": "landpatch:split"}, hostile]},
            {"op": "=", "args": [{"property": hostile}, "train"]},
            {"op": "a_contains", "args": [{"property": "landpatch:labels"}, [hostile]]},
        ):
            assert api.ask("search", {"filter": node})[1]["numberMatched"] == 0
        assert api.found(ids=hostile)["numberMatched"] == 0
        assert api.ask("search", sortby=f"-{hostile}", limit=1)[0] == 200
        assert api.ask("search", q=hostile, limit=1)[0] == 200
    assert api.found(limit=1)["numberMatched"] == COUNT


def test_limits(api: Served) -> None:
    deep: Any = {"op": "=", "args": [{"property": "landpatch:x"}, 1]}
    for _ in range(40):
        deep = {"op": "not", "args": [deep]}
    assert api.ask("search", {"filter": deep})[0] == 400
    very_deep = b'{"filter":' + b'{"op":"not","args":[' * 50_000 + b"]}" * 50_000 + b"}"
    assert api.ask("search", very_deep)[0] in (400, 413)
    long = {"op": "in", "args": [{"property": "landpatch:x"}, list(range(10_000))]}
    assert api.ask("search", {"filter": long})[0] == 400
    assert api.ask("search", b"[" + b"1," * 1_000_000 + b"1]")[0] == 413
    ring = [[random.uniform(-10, 10), random.uniform(-10, 10)] for _ in range(30_000)]
    polygon = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    assert api.ask("search", {"intersects": polygon})[0] in (400, 413)
    assert len(api.found(limit=10_000, fields="id")["features"]) == 1000
    for parameters in (
        {"limit": 0},
        {"limit": -1},
        {"bbox": "1,2,3"},
        {"bbox": "10,50,11,40"},
        {"bbox": "0,0,1,1", "intersects": '{"type":"Point","coordinates":[0,0]}'},
        {"datetime": "2017"},
        {"datetime": "2018-01-01T00:00:00Z/2017-01-01T00:00:00Z"},
        {"intersects": "{"},
        {"filter": "landpatch:x = 1", "filter-crs": "EPSG:3857"},
        {"filter": "landpatch:x = 'a'"},
        {"sortby": "landpatch:labels"},
        {"token": "W10"},
    ):
        status, answer = api.ask("search", **parameters)
        assert status == 400, (parameters, answer)
        assert set(answer) == {"code", "description"}


def test_a_search_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    write_catalogue(tmp_path, made_up(300))
    with running(create_app([tmp_path], Settings(cache=None, seconds=1e-6))) as address:
        status, answer = Served(tmp_path, address).ask("search", q="a", limit=1)
        assert (status, answer["code"]) == (503, "SearchTimeout")


# --- HTTP --------------------------------------------------------------------------------------------------------


def test_head_cors_and_errors(api: Served) -> None:
    request = urllib.request.Request(f"{api.address}search?limit=5", method="HEAD", headers={"Origin": "http://a.b"})
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
        assert int(answer.headers["Content-Length"]) > 10_000
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Content-Range" in answer.headers["Access-Control-Expose-Headers"]
        assert answer.read() == b""
    for path in ("collections/none", f"collections/{COLLECTION}/items/none", "collections/none/items", "nowhere"):
        status, error = api.ask(path)
        assert status == 404
        assert set(error) == {"code", "description"}
    for method in ("PUT", "DELETE", "PATCH"):
        refused = urllib.request.Request(f"{api.address}collections/{COLLECTION}", method=method)
        with pytest.raises(urllib.error.HTTPError, match="405"):
            urllib.request.urlopen(refused)


def test_metrics_and_access_log(api: Served, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    write_catalogue(tmp_path, made_up(30))
    with (
        caplog.at_level("INFO", "landpatch.access"),
        running(create_app([tmp_path], Settings(cache=None))) as address,
    ):
        served = Served(tmp_path, address)
        served.ask("search", limit=1)
        served.ask("collections/x")
        with urllib.request.urlopen(f"{address}_mgmt/metrics") as answer:
            text = answer.read().decode()
    assert 'landpatch_requests_total{method="GET",route="/search",status="200"} 1.0' in text
    assert 'route="/collections/{collection_id}",status="404"} 1.0' in text
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "landpatch.access"]
    assert [(line["route"], line["status"]) for line in lines[:2]] == [
        ("/search", 200),
        ("/collections/{collection_id}", 404),
    ]


def test_assets_are_served_by_range_and_nothing_else_is(tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    write_dataset(str(dataset), [Patch(26, 57)])
    (tmp_path / "secret").write_text("not for you")
    (dataset / "patches" / "link.tif").symlink_to(tmp_path / "secret")
    (dataset / "jobs").mkdir()
    (dataset / "jobs" / "job.json").write_text("{}")
    with running(create_app([dataset], Settings(cache=None))) as address:
        served = Served(dataset, address)
        item = served.found()["features"][0]
        for asset in item["assets"].values():
            path = asset["href"].removeprefix(f"{address}assets/small/")
            whole = (dataset / path).read_bytes()
            with urllib.request.urlopen(asset["href"]) as answer:
                assert answer.read() == whole
                assert answer.headers["Content-Type"] == asset["type"]
            ranged = urllib.request.Request(asset["href"], headers={"Range": "bytes=10-19", "Accept-Encoding": "br"})
            with urllib.request.urlopen(ranged) as answer:
                assert (answer.status, answer.read()) == (206, whole[10:20])
                assert answer.headers["Content-Range"] == f"bytes 10-19/{len(whole)}"
            with urllib.request.urlopen(urllib.request.Request(asset["href"], method="HEAD")) as answer:
                assert int(answer.headers["Content-Length"]) == len(whole)
        host, port = address.removeprefix("http://").rstrip("/").split(":")
        for path in (
            "../secret",
            "patches/../../secret",
            "patches/%2e%2e/%2e%2e/secret",
            "patches/..%2f..%2fsecret",
            "/etc/passwd",
            "patches//etc/passwd",
            "patches/link.tif",
            "jobs/job.json",
            "patches",
            "patches/%00",
        ):
            with socket.create_connection((host, int(port))) as raw:  # as it is: clients would tidy the path up
                raw.sendall(
                    f"GET /assets/small/{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
                )
                answer = b"".join(iter(lambda: raw.recv(65536), b""))
            assert b" 404 " in answer.split(b"\r\n", 1)[0], path
            assert b"not for you" not in answer


# --- several datasets, and datasets that change ------------------------------------------------------------------


def test_several_datasets_behind_one_api(tmp_path: Path) -> None:
    rows = made_up(90)
    write_catalogue(tmp_path / "one", rows[:60], "one")
    write_catalogue(tmp_path / "two", rows[30:], "two")
    with running(create_app([tmp_path / "one", tmp_path / "two"], Settings(cache=None))) as address:
        served = Served(tmp_path / "one", address)
        two = Served(tmp_path / "two", address)
        everything = [("one", row) for row in served.rows] + [("two", row) for row in two.rows]
        for sortby in ("", "-eo:cloud_cover", "landpatch:split"):
            rest: str | None = f"search?limit=7&sortby={sortby}" if sortby else "search?limit=7"
            got = []
            while rest:
                _, page = served.ask(rest)
                assert page["numberMatched"] == 120
                got += [(item["collection"], item["id"]) for item in page["features"]]
                links = [link["href"] for link in page["links"] if link["rel"] == "next"]
                rest = links[0].removeprefix(address) if links else None
            name = sortby.lstrip("-")
            wanted = sorted(everything, key=lambda pair: (pair[0], pair[1]["id"]))
            if name:
                wanted.sort(
                    key=lambda pair: pair[1][name] or "" if name != "eo:cloud_cover" else -(pair[1][name] or 0)
                )
                wanted.sort(key=lambda pair: pair[1][name] is None)
            assert got == [(collection, row["id"]) for collection, row in wanted]
        assert served.found(collections="two", limit=1)["numberMatched"] == 60
        assert served.found(collections="none", limit=1)["numberMatched"] == 0
        _, answer = served.ask("collections", limit=1)
        assert [collection["id"] for collection in answer["collections"]] == ["one"]
        following = next(link["href"] for link in answer["links"] if link["rel"] == "next")
        _, answer = served.ask(following.removeprefix(address))
        assert [collection["id"] for collection in answer["collections"]] == ["two"]
    with pytest.raises(InvalidParameter, match="both the collection 'one'"):
        create_app([tmp_path / "one", tmp_path / "one"], Settings(cache=None))


def test_a_dataset_that_changes_is_reloaded_whole_while_it_is_searched(tmp_path: Path) -> None:
    """Two states of different patches of the same scenes: an answer is of one of them, never of both."""
    rows = made_up(900)
    states = [tmp_path / "even", tmp_path / "odd"]
    for number, folder in enumerate(states):
        write_catalogue(
            folder, [row for place, row in enumerate(rows) if place % (2 + number) == number or place % 9 == 0]
        )
    contents = [(folder / ITEMS).read_bytes() for folder in states]
    ids = [frozenset(pq.read_table(folder / ITEMS, columns=["id"])["id"].to_pylist()) for folder in states]
    live = tmp_path / "live"
    write_catalogue(live, [row for place, row in enumerate(rows) if place % 2 == 0 or place % 9 == 0])
    storage = Storage.open(live)
    stop = threading.Event()
    seen: Counter[int] = Counter()

    def search(served: Served) -> None:
        while not stop.is_set():
            answer = served.found(limit=1000, fields="id")
            found = [item["id"] for item in answer["features"]]
            assert answer["numberMatched"] == len(found) == len(set(found))
            seen[ids.index(frozenset(found))] += 1

    def wait_for(state: frozenset[str], served: Served) -> None:
        deadline = time.monotonic() + 60
        while served.found(limit=1)["numberMatched"] != len(state) and time.monotonic() < deadline:
            time.sleep(0.05)

    settings = Settings(cache=tmp_path / "cache", watch_seconds=0.05, access_log=False)
    with running(create_app([live], settings)) as address, ThreadPoolExecutor(3) as pool:
        served = Served(live, address)
        work = [pool.submit(search, served) for _ in range(3)]
        try:
            token_page = served.found(limit=100, fields="id")
            for turn in range(1, 7):
                storage.put(ITEMS, contents[turn % 2])
                time.sleep(0.4)
            # On a busy machine it is late, and what is served meanwhile would be taken for the last state.
            wait_for(ids[0], served)
            storage.put(ITEMS, contents[1])
            wait_for(ids[1], served)
            # A search begun on the first state goes on in the last: behind the same place, nothing twice.
            got = [item["id"] for item in token_page["features"]]
            following = [link["href"] for link in token_page["links"] if link["rel"] == "next"]
            while following:
                _, page = served.ask(following[0].removeprefix(address))
                got += [item["id"] for item in page["features"]]
                following = [link["href"] for link in page["links"] if link["rel"] == "next"]
            assert got == sorted(set(got))
            assert set(got[100:]) == {item for item in ids[1] if item > got[99]}
            storage.put(ITEMS, b"damaged")
            time.sleep(0.4)
            assert served.found(limit=1)["numberMatched"] == len(ids[1])
        finally:
            stop.set()
        for done in work:
            done.result()
    assert seen[0]
    assert seen[1]


def test_derived_files_change_nothing_and_old_ones_go(tmp_path: Path) -> None:
    write_catalogue(tmp_path / "a", made_up(200))
    cache = tmp_path / "cache"
    direct = SearchableDataset(tmp_path / "a")
    dataset = SearchableDataset(tmp_path / "a", cache=cache)
    try:
        ranks = random.Random(1).sample(range(200), 50)
        assert dataset.snapshot().make_bodies(cache, threading.Event())
        assert dataset.snapshot().bodies(ranks) == direct.snapshot().bodies(ranks)
        first = sorted(path.name for path in cache.iterdir() if not path.name.startswith("."))
        assert len(first) == 2
        write_catalogue(tmp_path / "a", made_up(210))
        assert len(dataset.reload()) == 210
        assert dataset.reload().make_bodies(cache, threading.Event())
        later = sorted(path.name for path in cache.iterdir() if not path.name.startswith("."))
        assert len(later) == 2
        assert not set(first) & set(later)
        for path in cache.iterdir():
            path.write_bytes(b"damaged")
    finally:
        dataset.close()
        direct.close()
    again = SearchableDataset(tmp_path / "a", cache=cache)
    assert len(again.snapshot()) == 210
    again.close()


# --- S3 ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with serve_s3(monkeypatch, "catalogue"):
        yield "s3://catalogue/europe"


def test_a_dataset_on_s3(bucket: str, tmp_path: Path) -> None:
    local = tmp_path / "local"
    write_dataset(str(local), [Patch(26, 57), Patch(27, 55)])
    storage, remote = Storage.open(local), Storage.open(bucket)
    for path in storage.list():
        remote.put(path, storage.get(path))
    with running(create_app([bucket], Settings(cache=None, watch_seconds=0.05))) as address:
        served = Served(local, address)
        page = served.found(filter="landpatch:x = 26")
        assert page["numberMatched"] == 1
        item = page["features"][0]
        for asset in item["assets"].values():
            path = asset["href"].removeprefix(f"{address}assets/small/")
            assert asset["alternate"] == {"s3": {"href": f"{bucket}/{path}"}}
            whole = storage.get(path)
            with urllib.request.urlopen(asset["href"]) as answer:
                assert answer.read() == whole
            for wanted, expected in (("bytes=5-9", whole[5:10]), ("bytes=-7", whole[-7:]), ("bytes=90-", whole[90:])):
                ranged = urllib.request.Request(asset["href"], headers={"Range": wanted})
                with urllib.request.urlopen(ranged) as answer:
                    assert (answer.status, answer.read()) == (206, expected)
        assert any("alternate-assets" in url for url in item["stac_extensions"])
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{address}assets/small/{quote('patches/none.tif')}")
        # Replaced: the next answers are of the new state, whatever was read of the old one.
        write_dataset(remote, [Patch(26, 57), Patch(27, 55), Patch(30, 30)])
        deadline = time.monotonic() + 30
        while served.found()["numberMatched"] != 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(served.found()["features"]) == 3
    presigned = Settings(cache=None, assets="presigned")
    with running(create_app([bucket], presigned)) as address:
        item = Served(local, address).found(limit=1)["features"][0]
        href = item["assets"]["S2_10m"]["href"]
        assert "X-Amz-Signature" in href
        with urllib.request.urlopen(href) as answer:
            assert len(answer.read()) == item["assets"]["S2_10m"]["file:size"]
