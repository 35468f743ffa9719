"""Discovery against a real STAC API over HTTP: the whole answer or a clear error, whatever the server does."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from landpatch.catalog.areas import Area, tile_outline
from landpatch.catalog.bands import optical_bands
from landpatch.catalog.errors import SourceError
from landpatch.catalog.stac_documents import Patience
from landpatch.catalog.stac_sources import OpticalQuery, RadarQuery, SceneSource, known_sources
from landpatch.functions.cli import main
from small_stac import Fault, SmallApi, serve_api

TILES = ("32UQU", "33TUN", "33UUP", "01CCV")
SHAPES = {tile: tile_outline(tile).simplify(0.1) for tile in TILES}
FIRST = datetime(2017, 1, 1, 10, 0, tzinfo=UTC)
COUNT = 2000
HASTY = Patience(tries=4, first_wait=0.001, longest_wait=0.01, silence=30.0, longest_try=60.0)
PAGE = 100


def _item(number: int) -> dict[str, Any]:
    """One acquisition of each tile every day; cloud 0..99 % in turn."""
    tile = TILES[number % len(TILES)]
    time = FIRST + timedelta(days=number // len(TILES))
    shape = SHAPES[tile]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": f"S2A_{tile}_{time:%Y%m%d}_0_L2A",
        "collection": "sentinel-2-l2a",
        "bbox": list(shape.bounds),
        "geometry": shape.__geo_interface__,
        "properties": {
            "datetime": f"{time:%Y-%m-%dT%H:%M:%SZ}",
            "platform": "sentinel-2a",
            "grid:code": f"MGRS-{tile.removeprefix('0')}",
            "eo:cloud_cover": number * 7 % 100,
            "s2:processing_baseline": "02.05",
        },
        "assets": {"blue": {"href": f"https://data.invalid/{number}/B02.tif"}},
        "links": [],
    }


ITEMS = [_item(number) for number in range(COUNT)]
ALL = OpticalQuery(Area.from_tiles(TILES), FIRST, FIRST + timedelta(days=1000))
EXPECTED = sorted(item["id"] for item in ITEMS)


@pytest.fixture(scope="module")
def _server() -> Iterator[SmallApi]:
    with serve_api(ITEMS) as server:
        yield server


@pytest.fixture
def server(_server: SmallApi) -> Iterator[SmallApi]:
    _server.searches.clear()
    yield _server
    _server.fault = lambda _: None


@pytest.fixture(scope="module")
def _uncounted() -> Iterator[SmallApi]:
    with serve_api(ITEMS, count=False) as server:
        yield server


@pytest.fixture
def uncounted(_uncounted: SmallApi) -> Iterator[SmallApi]:
    """A server that does not say how many items there are."""
    _uncounted.searches.clear()
    yield _uncounted
    _uncounted.fault = lambda _: None


def _source(server: SmallApi, patience: Patience = HASTY, known: str = "earth-search") -> SceneSource:
    """The local server, spoken to in the dialect of a public one."""
    row = replace(known_sources()[known], url=server.url, page_size=PAGE)
    return SceneSource(known, server.url, patience, row)


def _ids(server: SmallApi, query: OpticalQuery = ALL, patience: Patience = HASTY) -> list[str]:
    source = _source(server, patience)
    items = source.optical(query)
    assert source.problems == []
    moments = [(item["properties"]["datetime"], item["id"]) for item in items]
    assert all(a <= b for a, b in pairwise(moments))
    return sorted(item["id"] for item in items)


def test_two_thousand_items_page_by_page(server: SmallApi) -> None:
    source = _source(server)
    told: list[tuple[int, int]] = []
    started = time.process_time()
    items = source.optical(ALL, progress=lambda *now: told.append(now))
    print(f"2,000 items in {time.process_time() - started:.1f} CPU s, server included")
    assert sorted(item["id"] for item in items) == EXPECTED
    assert len(server.searches) == COUNT // PAGE
    assert told[-1] == (COUNT, COUNT)
    assert all(a <= b for a, b in pairwise(told))
    first = items[0]
    assert first["links"][0] == {
        "rel": "self",
        "href": f"{server.url}/collections/sentinel-2-l2a/items/{first['id']}",
        "type": "application/geo+json",
    }
    assert source.optical(ALL) == items


def test_the_server_filters_and_the_client_again(server: SmallApi) -> None:
    query = replace(ALL, area=Area.from_tiles(["33UUP", "01CCV"]), max_cloud=0.2, months=frozenset({6, 7}))
    expected = sorted(
        item["id"]
        for item in ITEMS
        if item["properties"]["grid:code"] in ("MGRS-33UUP", "MGRS-1CCV")
        and item["properties"]["eo:cloud_cover"] <= 20
        and item["properties"]["datetime"][5:7] in ("06", "07")
    )
    assert expected
    assert _ids(server, query) == expected
    asked = server.searches[0]
    assert asked["collections"] == ["sentinel-2-l2a"]
    assert asked["datetime"] == "2017-06-01T00:00:00Z/2017-08-01T00:00:00Z"
    assert asked["query"]["eo:cloud_cover"] == {"lte": 20}
    assert asked["query"]["grid:code"] == {"in": ["MGRS-01CCV", "MGRS-1CCV", "MGRS-33UUP"]}
    # By address alone nothing is known of its properties: the place is asked for, the rest is looked at here.
    source = SceneSource.open(server.url, patience=HASTY)
    server.searches.clear()
    assert sorted(item["id"] for item in source.optical(query)) == expected
    assert "query" not in server.searches[0]
    assert server.searches[0]["intersects"]["type"] == "MultiPolygon"
    with serve_api(ITEMS[:400], filters=False) as deaf:
        heard = _ids(deaf, query)
        assert heard == [name for name in expected if name in {item["id"] for item in ITEMS[:400]}]
        assert len(heard) < len(deaf.searches) * PAGE


def test_a_collection_and_a_page_of_items_as_sources(server: SmallApi) -> None:
    source = SceneSource.open(f"{server.url}/collections/sentinel-2-l2a", patience=HASTY)
    assert sorted(item["id"] for item in source.optical(ALL)) == EXPECTED
    assert server.searches[0]["collections"] == ["sentinel-2-l2a"]
    source = SceneSource.open(f"{server.url}/collections/sentinel-2-l2a/items?limit=500", patience=HASTY)
    assert sorted(item["id"] for item in source.optical(ALL)) == EXPECTED


def test_a_server_that_takes_get_alone(server: SmallApi) -> None:
    from landpatch.catalog.stac_api import ItemRequest, StacApi
    from landpatch.catalog.stac_documents import DocumentReader

    reader = DocumentReader(server.url, HASTY)
    links = [{"rel": "search", "type": "application/geo+json", "method": "GET", "href": f"{server.url}/search"}]
    api = StacApi(server.url, {"type": "Catalog", "links": links}, reader)
    geometry = Area.from_tiles(["33UUP", "01CCV"]).search_geometry()
    request = ItemRequest(("sentinel-2-l2a",), FIRST, FIRST + timedelta(days=99), geometry, {})
    found = {item["id"] for item in api.items(request, 50, lambda *_: None)}
    assert found >= {item["id"] for item in ITEMS[:400] if item["id"][4:9] in ("33UUP", "01CCV")}
    assert all(isinstance(search, str) and len(search) < 2000 for search in server.searches)


# --- servers that fail --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [Fault(status=503), Fault(status=500), Fault(status=429, headers={"Retry-After": "0"}), Fault(cut=True)],
    ids=["503", "500", "429", "cut"],
)
def test_every_third_request_fails(server: SmallApi, fault: Fault) -> None:
    server.fault = lambda number: fault if number % 3 == 0 else None
    assert _ids(server) == EXPECTED
    assert len(server.searches) == 29  # 20 pages, and 9 of 29 requests failed
    server.searches.clear()
    assert _ids(server) == EXPECTED


def test_half_an_answer_that_ends_as_if_it_were_whole(server: SmallApi) -> None:
    """No Content-Length, no chunks: that the page is cut short shows only in its JSON."""
    server.fault = lambda number: Fault(cut=True, headers={"content-length": "99"}) if number == 4 else None
    assert _ids(server) == EXPECTED


def test_a_slow_server_and_one_that_is_too_slow(server: SmallApi) -> None:
    server.fault = lambda number: Fault(delay=0.3) if number % 5 == 0 else None
    assert _ids(server) == EXPECTED
    # A request that goes unanswered is asked again.
    server.searches.clear()
    server.fault = lambda number: Fault(delay=1.0) if number == 3 else None
    assert _ids(server, patience=replace(HASTY, silence=0.5)) == EXPECTED
    assert len(server.searches) == 21


def test_retry_after_is_honoured(server: SmallApi) -> None:
    server.fault = lambda number: Fault(status=429, headers={"Retry-After": "1"}) if number == 2 else None
    started = time.monotonic()
    assert _ids(server) == EXPECTED
    assert time.monotonic() - started >= 1
    server.searches.clear()
    server.fault = lambda number: Fault(status=503, headers={"Retry-After": "7200"}) if number == 2 else None
    with pytest.raises(SourceError, match=r"page 2 of the search: .*asks for a pause of 7200 s; run this again then"):
        _ids(server)


def test_a_page_that_is_lost_for_good_is_an_error(server: SmallApi) -> None:
    server.fault = lambda number: Fault(status=502) if number >= 7 else None
    with pytest.raises(
        SourceError, match=r"page 7 of the search: http://.*/search failed 4 times.*HTTP 502"
    ) as raised:
        _ids(server)
    assert raised.value.retryable
    assert len(server.searches) == 10
    server.searches.clear()
    server.fault = lambda number: Fault(status=400) if number == 2 else None
    with pytest.raises(SourceError, match=r"page 2 of the search.*HTTP 400 Bad Request: the server is unwell"):
        _ids(server)
    assert len(server.searches) == 2, "what the server refuses is not asked again"


def test_nobody_there() -> None:
    source = SceneSource.open("http://127.0.0.1:9", patience=HASTY)
    with pytest.raises(SourceError, match=r"http://127\.0\.0\.1:9 failed 4 times.*refused"):
        source.optical(ALL)


# --- servers that lie ---------------------------------------------------------------------------------------------


def _with_next(page: dict[str, Any], **change: Any) -> dict[str, Any]:
    links = [{**link, **change} for link in page["links"] if link["rel"] == "next"]
    return {**page, "links": links}


def _forever(page: dict[str, Any], url: str) -> dict[str, Any]:
    """A next link on every page, the last included: back to the start, with a token that is new each time."""
    body = {"limit": PAGE, "collections": ["sentinel-2-l2a"], "token": "0"}
    for link in page["links"]:
        body = link["body"]
    body = {**body, "unique": time.monotonic_ns()}
    return {**page, "links": [{"rel": "next", "href": f"{url}/search", "method": "POST", "body": body}]}


def test_next_leads_to_the_same_page(server: SmallApi, uncounted: SmallApi) -> None:
    def again(target: SmallApi, at: int) -> Callable[[int], Fault | None]:
        def rewrite(page: dict[str, Any]) -> dict[str, Any]:
            body = target.searches[-1]
            return {
                **page,
                "links": [{"rel": "next", "href": f"{target.url}/search", "method": "POST", "body": body}],
            }

        return lambda number: Fault(rewrite=rewrite) if number == at else None

    for target in (server, uncounted):
        target.fault = again(target, 5)
        with pytest.raises(SourceError, match=r"page 5 of the search leads back to a page that was read before"):
            _ids(target)
        assert len(target.searches) == 5
        target.searches.clear()
        target.fault = again(target, 20)  # on the last page: everything is here
        if target is server:
            assert _ids(target) == EXPECTED
        else:  # nobody can know that
            with pytest.raises(SourceError, match="page 20 of the search leads back"):
                _ids(target)
        assert len(target.searches) == 20


def test_next_leads_in_a_circle(server: SmallApi, uncounted: SmallApi) -> None:
    def back(target: SmallApi) -> Callable[[int], Fault]:
        def rewrite(page: dict[str, Any]) -> dict[str, Any]:
            return _with_next(page, body=target.searches[1]) if len(target.searches) == 6 else page

        return lambda _: Fault(rewrite=rewrite)

    for target in (server, uncounted):
        target.fault = back(target)
        with pytest.raises(SourceError, match="page 6 of the search leads back to a page that was read before"):
            _ids(target)


def test_next_goes_on_for_ever(server: SmallApi, uncounted: SmallApi) -> None:
    """Each request differs, so that only the repeated items tell."""
    server.fault = lambda _: Fault(rewrite=lambda page: _forever(page, server.url))
    assert _ids(server) == EXPECTED
    uncounted.fault = lambda _: Fault(rewrite=lambda page: _forever(page, uncounted.url))
    with pytest.raises(SourceError, match=r"the search goes on for ever \(after 2000 items\)"):
        _ids(uncounted)


def test_empty_pages_that_have_a_successor(server: SmallApi, uncounted: SmallApi) -> None:
    """pystac-client takes the first empty page for the end."""

    def emptied(page: dict[str, Any]) -> dict[str, Any]:
        # The page's items come with its successor: an empty page before it.
        body = {**target.searches[-1], "again": len(target.searches)}
        return {
            **page,
            "features": [],
            "links": [{"rel": "next", "href": f"{target.url}/search", "method": "POST", "body": body}],
        }

    for target in (server, uncounted):
        target.fault = lambda number: Fault(rewrite=emptied) if number in (1, 5, 6, 7) else None
        assert _ids(target) == EXPECTED
        assert len(target.searches) == 24


@pytest.mark.parametrize(
    "href",
    ["http://localhost:9/search", "http://169.254.169.254/latest", "file:///etc/passwd", "http://[x/", "ftp://h/x"],
)
def test_next_leads_elsewhere(server: SmallApi, href: str) -> None:
    server.fault = lambda number: Fault(rewrite=lambda page: _with_next(page, href=href)) if number == 3 else None
    with pytest.raises(
        SourceError, match=r"after page 3 the search leads to .*, another server, which is not followed"
    ):
        _ids(server)
    assert len(server.searches) == 3


def test_next_as_a_path(server: SmallApi) -> None:
    """Relative links are resolved, and a path is never a file of this machine."""
    server.fault = lambda _: Fault(rewrite=lambda page: _with_next(page, href="/search"))
    assert _ids(server) == EXPECTED
    server.searches.clear()
    server.fault = lambda _: Fault(rewrite=lambda page: _with_next(page, href="/etc/passwd", method="GET"))
    with pytest.raises(SourceError, match=r"page 2 of the search: http://127.*/etc/passwd.*HTTP 404"):
        _ids(server)


def test_duplicates_across_pages(server: SmallApi, uncounted: SmallApi) -> None:
    """Each page begins with the last item of the one before, as when something was added meanwhile."""

    def overlapping(page: dict[str, Any]) -> dict[str, Any]:
        first = ITEMS.index(next(item for item in ITEMS if item["id"] == page["features"][0]["id"]))
        return {**page, "features": [*ITEMS[max(first - 3, 0) : first], *page["features"]]}

    for target in (server, uncounted):
        target.fault = lambda _: Fault(rewrite=overlapping)
        assert _ids(target) == EXPECTED


@pytest.mark.parametrize("announce", ["numberMatched", "context"])
def test_more_is_announced_than_comes(uncounted: SmallApi, announce: str) -> None:
    count = {"numberMatched": 2001} if announce == "numberMatched" else {"context": {"matched": 2001}}
    uncounted.fault = lambda _: Fault(rewrite=lambda page: {**page, **count})
    with pytest.raises(SourceError, match=r"announces 2001 items, but its 20 pages held 2000 different ones"):
        _ids(uncounted)


def test_a_next_link_that_is_lost(server: SmallApi) -> None:
    server.fault = lambda number: Fault(rewrite=lambda page: {**page, "links": []}) if number == 4 else None
    with pytest.raises(SourceError, match="announces 2000 items, but its 4 pages held 400 different ones"):
        _ids(server)


@pytest.mark.parametrize("page", [{"code": 7, "description": "no"}, [], None, {"features": "none"}, "text"])
def test_an_answer_that_is_no_page(server: SmallApi, page: Any) -> None:
    server.fault = lambda number: Fault(rewrite=lambda _: page) if number == 2 else None
    with pytest.raises(SourceError, match=r"page 2 of the search: .* answers no item collection but"):
        _ids(server)


def test_a_page_too_large_to_be_one(server: SmallApi, monkeypatch: pytest.MonkeyPatch) -> None:
    server.fault = lambda number: Fault(rewrite=lambda page: {**page, "more": "x" * 2**26}) if number == 2 else None
    with pytest.raises(SourceError, match=r"page 2 of the search: .* is larger than 64 MiB"):
        _ids(server)
    assert len(server.searches) == 2


def test_items_that_cannot_be_used_are_told_and_the_others_kept(server: SmallApi) -> None:
    def spoiled(page: dict[str, Any]) -> dict[str, Any]:
        one, two, three, four, *rest = json.loads(json.dumps(page["features"]))
        del one["id"]
        two["properties"]["datetime"] = None
        del three["assets"]
        four["assets"]["blue"]["href"] = "file:///etc/passwd"
        return {**page, "features": [one, two, three, four, *rest]}

    server.fault = lambda number: Fault(rewrite=spoiled) if number == 1 else None
    source = _source(server)
    items = {item["id"]: item for item in source.optical(ALL)}
    assert sorted(items) == sorted(item["id"] for item in ITEMS[3:])
    assert items[ITEMS[3]["id"]]["assets"] == {}
    for told, expected in zip(
        source.problems,
        ["has the id None", "no valid datetime", "has no assets", "asset blue points to file:///etc"],
        strict=True,
    ):
        assert expected in told


def test_radar_scenes(server: SmallApi) -> None:
    def radar(number: int, **properties: Any) -> dict[str, Any]:
        moment = FIRST + timedelta(hours=number)
        name = f"S1A_IW_GRDH_1SDV_{moment:%Y%m%dT%H%M%S}_x_{number:06d}"
        stated = {
            "datetime": f"{moment:%Y-%m-%dT%H:%M:%S.5Z}",
            "platform": "sentinel-1a",
            "sar:instrument_mode": "IW",
            "sar:polarizations": ["VV", "VH"],
            "sat:orbit_state": "ascending" if number % 2 else "descending",
            "sat:relative_orbit": 44 + number % 2,
        }
        return {**ITEMS[2], "id": name, "collection": "sentinel-1-grd", "properties": {**stated, **properties}}

    items = [
        *(radar(number) for number in range(150)),
        radar(900, **{"sar:instrument_mode": "EW"}),
        radar(901, **{"sar:polarizations": ["HH", "HV"]}),
        radar(902, **{"sar:product_type": "SLC"}),
        *ITEMS[:10],
    ]
    query = RadarQuery(Area.from_tiles(["33UUP"]).search_geometry(), FIRST, FIRST + timedelta(days=99))
    with serve_api(items) as api:
        for source in (_source(api), SceneSource.open(api.url, patience=HASTY)):
            assert [item["id"] for item in source.radar(query)] == [item["id"] for item in items[:150]]
            ascending = source.radar(replace(query, orbit_state="ascending"))
            assert [item["id"] for item in ascending] == [item["id"] for item in items[1:150:2]]
            assert ascending == source.radar(replace(query, relative_orbit=45))
        elsewhere = Area.from_bbox((100, 0, 101, 1)).search_geometry()
        assert _source(api).radar(replace(query, geometry=elsewhere)) == []


def _usable(item: dict[str, Any]) -> dict[str, Any]:
    """With all that patches are made from: product id and bands."""
    tile, moment = item["id"][4:9], datetime.fromisoformat(item["properties"]["datetime"])
    product = f"S2A_MSIL2A_{moment:%Y%m%dT%H%M%S}_N0205_R022_T{tile}_{moment:%Y%m%dT%H%M%S}.SAFE"
    bands = {name: {"href": f"https://data.invalid/{product}/{name}.tif"} for name in optical_bands()}
    return {**item, "properties": {**item["properties"], "s2:product_uri": product}, "assets": bands}


def _radar(item: dict[str, Any]) -> dict[str, Any]:
    """The Sentinel-1 scene of five hours before."""
    moment = datetime.fromisoformat(item["properties"]["datetime"]) - timedelta(hours=5)
    name = f"S1A_IW_GRDH_1SDV_{moment:%Y%m%dT%H%M%S}"
    return {
        **item,
        "id": f"{name}_{item['id'][4:9]}_rtc",
        "collection": "sentinel-1-rtc",
        "properties": {
            "datetime": f"{moment:%Y-%m-%dT%H:%M:%SZ}",
            "platform": "sentinel-1a",
            "s1:product_identifier": name,
            "sar:instrument_mode": "IW",
            "sar:polarizations": ["VV", "VH"],
        },
        "assets": {p: {"href": f"https://data.invalid/{name}/{p}.tif"} for p in ("vv", "vh")},
    }


def test_the_verb_over_a_server_that_fails_every_third_request(tmp_path: Path) -> None:
    """The best scene and its pair, and the same scene list byte for byte whether the server fails or not."""
    optical = [_usable(item) for item in ITEMS]
    best = min(
        (item for item in optical if item["id"][4:9] == "33UUP" and item["properties"]["datetime"] < "2018"),
        key=lambda item: (item["properties"]["eo:cloud_cover"], item["properties"]["datetime"]),
    )
    days = ("--from", "2017-01-01", "--to", "2017-12-31")
    with serve_api([*optical, *map(_radar, optical)]) as server:
        written = []
        for number, fault in enumerate((lambda _: None, lambda n: Fault(status=503) if n % 3 == 0 else None)):
            server.fault = fault
            target = tmp_path / f"{number}.json"
            arguments = ["discover", "--source", server.url, "--tiles", "33UUP", *days, "--json", "-o", str(target)]
            done = CliRunner().invoke(main, arguments)
            assert done.exit_code == 0, done.output
            (row,) = (json.loads(line) for line in done.stdout.splitlines())
            assert (row["item"], row["s1"], row["s1_gap_hours"]) == (best["id"], [_radar(best)["id"]], 5.0)
            written.append(target.read_bytes())
    assert written[0] == written[1]
