"""Search over a snapshot: what spatial and temporal operators of CQL2 mean, and when files are let go."""

import gc
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import shapely
from shapely import affinity

from catalogue_items import made_up, write_catalogue
from landpatch.catalog.cql2_sql import parse_text
from landpatch.catalog.search import After, Query, SearchableDataset, Snapshot, SortKey
from landpatch.catalog.store import ITEMS, Storage

# Three scenes of 20 patches each, in one column from north to south: A(ustria), F(inland), S(erbia).
A = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_00_{:02d}"
F = "S2A_MSIL2A_20170701T093031_N9999_R136_T35VNK_00_{:02d}"
S = "S2B_MSIL2A_20180204T094159_N9999_R036_T34TCR_00_{:02d}"
ALL = {name.format(number) for name in (A, F, S) for number in range(20)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalogue")
    write_catalogue(folder, made_up(60))
    return folder


@pytest.fixture(scope="module")
def snapshot(folder: Path) -> Iterator[Snapshot]:
    dataset = SearchableDataset(folder)
    yield dataset.snapshot()
    dataset.close()


def found(snapshot: Snapshot, filter_: Any) -> set[str]:
    query = Query(filter=filter_)
    ids = [hit.id for hit in snapshot.search(query, limit=100)]
    assert ids == sorted(ids)
    assert snapshot.count(query) == len(ids)
    return set(ids)


# --- places ------------------------------------------------------------------------------------------------------

HERE, NORTH, SOUTH = (A.format(number) for number in (10, 9, 11))
# What each relation to something made of the patch HERE leaves.
PLACES = {
    "equals": ("itself", {HERE}),
    "intersects": ("middle", {HERE}),
    "disjoint": ("middle", ALL - {HERE}),
    "within": ("larger", {HERE}),
    "contains": ("smaller", {HERE}),
    "touches": ("itself", {NORTH, SOUTH}),
    "overlaps": ("larger", {NORTH, SOUTH}),
    "crosses": ("line to the south", {HERE, SOUTH}),
}


def made_of(folder: Path, what: str) -> dict[str, Any]:
    rows = pq.read_table(folder / ITEMS, columns=["id", "geometry"]).to_pylist()
    shapes = {row["id"]: shapely.from_wkb(row["geometry"]) for row in rows}
    here = shapes[HERE]
    made = {
        "itself": here,
        "middle": here.centroid,
        "larger": affinity.scale(here, 1.1, 1.1),
        "smaller": affinity.scale(here, 0.5, 0.5),
        "line to the south": shapely.LineString([here.centroid, shapes[SOUTH].centroid]),
    }
    return dict(shapely.geometry.mapping(made[what]))


@pytest.mark.parametrize("relation", PLACES)
def test_spatial_operators(folder: Path, snapshot: Snapshot, relation: str) -> None:
    what, expected = PLACES[relation]
    place = made_of(folder, what)
    here = {"property": "geometry"}
    assert found(snapshot, {"op": f"s_{relation}", "args": [here, place]}) == expected
    converse = {"within": "contains", "contains": "within"}.get(relation, relation)
    assert found(snapshot, {"op": f"s_{converse}", "args": [place, here]}) == expected
    negated = {"op": "not", "args": [{"op": f"s_{relation}", "args": [here, place]}]}
    assert found(snapshot, negated) == ALL - expected


def test_a_place_alone_and_with_other_conditions(folder: Path, snapshot: Snapshot) -> None:
    """What is answered from memory, and what the database answers, are the same search."""
    around = shapely.from_geojson(shapely.to_geojson(shapely.geometry.shape(made_of(folder, "larger"))))
    near = sorted((NORTH, HERE, SOUTH))
    for also in (None, True, {"op": "=", "args": [{"property": "landpatch:tile"}, "33UUP"]}):
        query = Query(geometry=around, filter=also)
        assert [hit.id for hit in snapshot.search(query)] == near
        assert [hit.id for hit in snapshot.search(query, sort=[SortKey("id", descending=True)])] == near[::-1]
        assert [hit.id for hit in snapshot.search(query, after=After((), near[0]))] == near[1:]
        assert snapshot.search(query, after=After((), None)) == []
        assert snapshot.count(query) == 3
        named = Query(geometry=around, filter=also, ids=(SOUTH, F.format(3), "nowhere", SOUTH, "\ud800"))
        assert [hit.id for hit in snapshot.search(named)] == [SOUTH]
        assert snapshot.count(named) == 1


def test_pages_go_on_behind_an_id_that_is_not_there(snapshot: Snapshot) -> None:
    ids = sorted(ALL)
    for after, rest in (("", ids), (f"{ids[4]}x", ids[5:]), (ids[4], ids[5:]), ("z", [])):
        assert [hit.id for hit in snapshot.search(Query(), after=After((), after), limit=100)] == rest
    assert [snapshot.rank_of(id_) for id_ in (ids[0], ids[59], "", "z", f"{ids[4]}x")] == [0, 59, None, None, None]


# --- times -------------------------------------------------------------------------------------------------------

# Sentinel-2 saw A, F and S at these moments; Sentinel-1 saw A and F before, where their intervals start.
A_STARTS, A_ENDS = "2017-06-12T16:58:09Z", "2017-06-13T10:10:31Z"
F_STARTS, F_ENDS = "2017-07-01T04:30:11Z", "2017-07-01T09:30:31Z"
F_MIDDLE = "2017-07-01T06:00:00Z"
MOMENT = "datetime"
SPAN = "interval"
TIMES = [
    ("t_after", MOMENT, [F_ENDS], "S"),
    ("t_before", MOMENT, [F_ENDS], "A"),
    ("t_equals", MOMENT, [F_ENDS], "F"),
    ("t_disjoint", MOMENT, [F_ENDS], "AS"),
    ("t_intersects", MOMENT, [F_ENDS, ".."], "FS"),
    ("t_intersects", MOMENT, ["..", F_ENDS], "AF"),
    ("t_during", MOMENT, [A_ENDS, "2018-01-01T00:00:00Z"], "F"),
    ("t_after", SPAN, [A_ENDS, F_STARTS], "S"),
    ("t_before", SPAN, [F_STARTS, F_ENDS], "A"),
    ("t_contains", SPAN, [F_MIDDLE, "2017-07-01T07:00:00Z"], "F"),
    ("t_contains", SPAN, [F_STARTS, F_MIDDLE], ""),
    ("t_disjoint", SPAN, [F_MIDDLE, "2018-01-01T00:00:00Z"], "AS"),
    ("t_during", SPAN, ["2017-06-01T00:00:00Z", F_ENDS], "A"),
    ("t_equals", SPAN, [F_STARTS, F_ENDS], "F"),
    ("t_finishedby", SPAN, [F_MIDDLE, F_ENDS], "F"),
    ("t_finishes", SPAN, [A_STARTS, F_ENDS], "F"),
    ("t_intersects", SPAN, [A_ENDS, F_STARTS], "AF"),
    ("t_meets", SPAN, [A_ENDS, F_STARTS], "A"),
    ("t_metby", SPAN, [A_ENDS, F_STARTS], "F"),
    ("t_overlappedby", SPAN, [A_STARTS, F_MIDDLE], "F"),
    ("t_overlaps", SPAN, [F_MIDDLE, "2018-01-01T00:00:00Z"], "F"),
    ("t_startedby", SPAN, [F_STARTS, F_MIDDLE], "F"),
    ("t_starts", SPAN, [A_STARTS, F_STARTS], "A"),
]


@pytest.mark.parametrize(("op", "of", "ends", "expected"), TIMES)
def test_temporal_operators(snapshot: Snapshot, op: str, of: str, ends: list[str], expected: str) -> None:
    own: dict[str, Any] = {"property": "datetime"}
    if of == SPAN:
        own = {"interval": [{"property": "start_datetime"}, {"property": "end_datetime"}]}
    other = {"timestamp": ends[0]} if len(ends) == 1 else {"interval": ends}
    scenes = [name for key, name in zip("AFS", (A, F, S), strict=True) if key in expected]
    wanted = {name.format(number) for name in scenes for number in range(20)}
    assert found(snapshot, {"op": op, "args": [own, other]}) == wanted


def test_operators_in_text(snapshot: Snapshot) -> None:
    text = (
        "T_DURING(datetime, INTERVAL('2017-06-30', '2017-07-02')) AND S_INTERSECTS(geometry, BBOX(-180, 0, 180, 90))"
    )
    assert found(snapshot, parse_text(text)) == {F.format(number) for number in range(20)}


# --- files -------------------------------------------------------------------------------------------------------


def held(cache: Path) -> list[str]:
    """Files of a cache folder that this process has open or in its memory, removed ones too."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            links.append(str(descriptor.readlink()))
    maps = [line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    return sorted({place.removesuffix(" (deleted)") for place in links + maps if place.startswith(f"{cache}/")})


def wait_for_bodies(cache: Path) -> None:
    deadline = time.monotonic() + 60
    while not any(name.endswith(".bodies") for name in held(cache)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="open files are told by /proc")
def test_a_state_is_let_go_when_nobody_searches_it_any_more(tmp_path: Path, folder: Path) -> None:
    cache, live = tmp_path / "cache", tmp_path / "live"
    write_catalogue(live, made_up(30))
    dataset = SearchableDataset(live, cache=cache, watch_seconds=1e6)
    old = dataset.snapshot()
    wait_for_bodies(cache)
    before = held(cache)
    assert {Path(name).suffix for name in before} == {".duckdb", ".bodies"}

    Storage.open(live).put(ITEMS, (folder / ITEMS).read_bytes())
    new = dataset.reload()
    assert (len(old), len(new)) == (30, 60)
    assert old.count(Query(filter={"op": ">=", "args": [{"property": "landpatch:x"}, 0]})) == 30  # goes on
    assert set(before) <= set(held(cache))
    del old
    deadline = time.monotonic() + 60
    while set(before) & set(held(cache)):  # the thread that wrote the bodies may hold it for a moment
        assert time.monotonic() < deadline
        gc.collect()
        time.sleep(0.02)
    assert new.count(Query(filter={"op": ">=", "args": [{"property": "landpatch:x"}, 0]})) == 60

    dataset.close()
    assert held(cache) == []
