"""Scenes from files and static catalogues, real and made up; what filters mean."""

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from landpatch.catalog.areas import Area
from landpatch.catalog.errors import InvalidParameter, SourceError
from landpatch.catalog.seasons import SEASONS
from landpatch.catalog.stac_documents import Patience
from landpatch.catalog.stac_sources import (
    OpticalQuery,
    RadarQuery,
    SceneSource,
    known_sources,
    tile_of,
)
from small_server import serve

HASTY = Patience(tries=2, first_wait=0.001)
ALWAYS = (datetime(2014, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))
WORLD = Area.from_bbox((-180, -84, 180, 84))
TILE = Area.from_tiles(["33UUP"])


def _scene(name: str = "S2A_33UUP_20170613_0_L2A", **properties: Any) -> dict[str, Any]:
    stated = {"datetime": "2017-06-13T10:10:31Z", "platform": "sentinel-2a", "grid:code": "MGRS-33UUP"}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": "sentinel-2-l2a",
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[12.3, 47.7], [13.7, 47.7], [13.7, 48.7], [12.3, 48.7], [12.3, 47.7]]],
        },
        "properties": {**stated, **properties},
        "assets": {"blue": {"href": "./B02.tif"}},
        "links": [],
    }


def _found(source: str | Path, **limits: Any) -> list[str]:
    query = replace(OpticalQuery(TILE, *ALWAYS), **limits)
    return [item["id"] for item in SceneSource.open(str(source), patience=HASTY).optical(query)]


def _collection(folder: Path, *items: Any) -> Path:
    path = folder / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return path


# --- real items ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["100-sentinel-2-items", "1000-sentinel-2-items"])
def test_planetary_computer_as_parquet(shared_data: Path, name: str) -> None:
    path = shared_data / f"stac-items/planetary-computer/{name}.parquet"
    table = pq.read_table(path)
    tile = Counter(table["s2:mgrs_tile"].to_pylist()).most_common(1)[0][0]
    start, end = datetime(2024, 6, 1, tzinfo=UTC), datetime(2024, 8, 15, 23, 59, tzinfo=UTC)
    mask = pc.and_(pc.equal(table["s2:mgrs_tile"], tile), pc.less_equal(table["eo:cloud_cover"], 40.0))
    mask = pc.and_(mask, pc.less_equal(table["s2:nodata_pixel_percentage"], 10.0))
    mask = pc.and_(mask, pc.less_equal(table["s2:mean_solar_zenith"], 45.0))
    mask = pc.and_(mask, pc.greater_equal(table["s2:processing_baseline"], "05.10"))
    times = table["datetime"]
    mask = pc.and_(mask, pc.and_(pc.greater_equal(times, start), pc.less_equal(times, end)))
    rows = table.filter(mask).select(["id", "datetime"]).sort_by([("datetime", "ascending"), ("id", "ascending")])
    source = SceneSource.open(str(path))
    query = OpticalQuery(Area.from_tiles([tile]), start, end)
    items = source.optical(replace(query, max_cloud=0.4, max_nodata=0.1, min_sun=45, min_baseline=5.1))
    assert [item["id"] for item in items] == rows["id"].to_pylist()
    assert source.problems == []
    if name.startswith("1000"):
        assert items
    everything = source.optical(OpticalQuery(WORLD, *ALWAYS))
    assert len(everything) == len(set(table["id"].to_pylist()))
    first = everything[0]
    assert first["assets"]["B02"]["href"].startswith("https://sentinel2l2a01.blob.core.windows.net/")
    assert first["links"][0]["rel"] == "self"
    assert not any(value is None for link in first["links"] for value in link.values())


def test_mosaics_are_no_scenes(shared_data: Path) -> None:
    source = SceneSource.open(str(shared_data / "stac-items/planetary-computer/sentinel-1-global-mosaics.parquet"))
    assert WORLD.geometry is not None
    assert source.radar(RadarQuery(WORLD.geometry, *ALWAYS)) == []
    assert source.optical(OpticalQuery(WORLD, *ALWAYS)) == []


def test_items_of_every_dialect(shared_data: Path, tmp_path: Path) -> None:
    lines = (shared_data / "stac-items/sentinel_items.jsonl").read_text().splitlines()
    items = [json.loads(line)["item"] for line in lines]
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join([json.dumps(item) for item in items] + ["", "{not json"]))
    source = SceneSource.open(str(path))
    found = source.optical(OpticalQuery(WORLD, *ALWAYS))
    # By collection alone, all but L1C: 2A is what these collections hold.
    level_2a = {"sentinel-2-l2a", "sentinel-s2-l2a-cogs", "sentinel-2-c1-l2a", "S2MSI2A", "sentinel-s2-l2a"}
    expected = {(item["collection"], item["id"]) for item in items if item.get("collection") in level_2a}
    assert {(item["collection"], item["id"]) for item in found} == expected
    assert len(found) == len(expected)
    assert len(source.problems) == 1
    assert f"{path}, line {len(items) + 2}: no JSON" in source.problems[0]
    assert WORLD.geometry is not None
    radar = source.radar(RadarQuery(WORLD.geometry, *ALWAYS))
    kinds = {"sentinel-1-rtc", "sentinel-1-grd", "sentinel1-grd"}
    dual = {
        item["id"]
        for item in items
        if item.get("collection") in kinds
        and item["properties"]["sar:instrument_mode"] == "IW"
        and set(item["properties"]["sar:polarizations"]) == {"VV", "VH"}
    }
    assert {item["id"] for item in radar} == dual
    assert dual


def test_the_series_of_one_tile(shared_data: Path, tmp_path: Path) -> None:
    files = sorted((shared_data / "stac-items/earth-search-v1").glob("*_33TWN_*"))
    items = [json.loads(file.read_bytes()) for file in files]
    path = _collection(tmp_path, *items)
    query = OpticalQuery(Area.from_tiles(["33TWN"]), *ALWAYS)
    source = SceneSource.open(str(path))
    everything = source.optical(query)
    assert [item["id"] for item in everything] == sorted(
        (item["id"] for item in items), key=lambda name: (name.split("_")[2], name)
    )
    clear = [i["id"] for i in source.optical(replace(query, max_cloud=0.2))]
    assert clear == [i["id"] for i in everything if i["properties"]["eo:cloud_cover"] <= 20]
    summer = [i["id"] for i in source.optical(replace(query, months=SEASONS["summer"]))]
    assert summer == [i["id"] for i in everything if i["id"].split("_")[2][4:6] in ("06", "07", "08")]
    assert clear
    assert summer
    assert source.optical(replace(query, area=Area.from_tiles(["33TVN"]))) == []


# --- filters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "passes", "fails"),
    [
        ({"max_cloud": 0.2}, {"eo:cloud_cover": 20}, {"eo:cloud_cover": 20.1}),
        ({"max_nodata": 0.1}, {"s2:nodata_pixel_percentage": 10}, {"s2:nodata_pixel_percentage": 11}),
        ({"max_nodata": 0.1}, {"sentinel:data_coverage": 90}, {"sentinel:data_coverage": 89}),
        ({"max_nodata": 0.1}, {"statistics": {"nodata": 10}}, {"statistics": {"nodata": 11}}),
        ({"min_sun": 30}, {"view:sun_elevation": 30}, {"view:sun_elevation": 29}),
        ({"min_sun": 30}, {"s2:mean_solar_zenith": 60}, {"s2:mean_solar_zenith": 61}),
        ({"min_baseline": 5}, {"s2:processing_baseline": "05.00"}, {"s2:processing_baseline": "04.00"}),
        ({"max_baseline": 4}, {"processing:version": "04.00"}, {"processing:version": "05.10"}),
        ({"max_baseline": 4}, {"s2:processing_baseline": "99.99"}, {"s2:processing_baseline": "05.11"}),
    ],
)
def test_limits_and_what_is_not_stated(
    tmp_path: Path, limits: dict[str, float], passes: dict[str, Any], fails: dict[str, Any]
) -> None:
    path = _collection(tmp_path, _scene("S2_a", **passes), _scene("S2_b", **fails), _scene("S2_c"))
    assert _found(path, **limits) == ["S2_a", "S2_c"]


def test_the_period_is_inclusive_and_seasons_are_months(tmp_path: Path) -> None:
    path = _collection(
        tmp_path, *(_scene(f"S2_{m:02d}", datetime=f"2017-{m:02d}-28T12:00:00Z") for m in range(1, 13))
    )
    moment = datetime(2017, 6, 28, 12, tzinfo=UTC)
    assert _found(path, start=moment, end=moment) == ["S2_06"]
    assert _found(path, start=moment + timedelta(microseconds=1), end=moment + timedelta(days=1)) == []
    assert _found(path, months=SEASONS["winter"]) == ["S2_01", "S2_02", "S2_12"]
    query = OpticalQuery(TILE, datetime(2016, 2, 10, tzinfo=UTC), moment, SEASONS["winter"] | SEASONS["spring"])
    stretches = query.intervals()
    assert [(start.date().isoformat(), end.date().isoformat()) for start, end in stretches] == [
        ("2016-02-10", "2016-05-31"),
        ("2016-12-01", "2017-05-31"),
    ]
    assert all(end < start for (_, end), (start, _) in pairwise(stretches))
    assert sorted(month for months in SEASONS.values() for month in months) == list(range(1, 13))


def test_tiles_and_footprints(tmp_path: Path) -> None:
    elsewhere = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}
    unnamed = _scene("S2_unnamed")
    del unnamed["properties"]["grid:code"]
    lost = {**unnamed, "id": "S2_lost", "geometry": None}
    far = {**unnamed, "id": "S2_far", "geometry": elsewhere}
    path = _collection(tmp_path, unnamed, lost, far, _scene("S2_other", **{"grid:code": "MGRS-33UVP"}))
    # Kept is what cannot be excluded.
    assert _found(path) == ["S2_lost", "S2_unnamed"]
    assert _found(path, area=Area.from_bbox((13.65, 48.6, 13.68, 48.65))) == ["S2_lost", "S2_other", "S2_unnamed"]
    assert _found(path, area=Area.from_bbox((13.71, 48.6, 13.72, 48.65))) == ["S2_lost"], (
        "beside the data, in the tile"
    )


@pytest.mark.parametrize(
    ("item", "tile"),
    [
        (
            {
                "id": "x",
                "properties": {
                    "s2:product_uri": "S2B_MSIL2A_20180924T223529_N0208_R115_T01CCV_20180925T010203.SAFE",
                    "grid:code": "MGRS-60CWE",
                },
            },
            "01CCV",
        ),
        ({"id": "x", "properties": {"s2:mgrs_tile": "33UUP"}}, "33UUP"),
        ({"id": "x", "properties": {"grid:code": "MGRS-1CCV"}}, "01CCV"),
        (
            {"id": "x", "properties": {"mgrs:utm_zone": 1, "mgrs:latitude_band": "C", "mgrs:grid_square": "CV"}},
            "01CCV",
        ),
        (
            {
                "id": "x",
                "properties": {
                    "sentinel:utm_zone": "33",
                    "sentinel:latitude_band": "U",
                    "sentinel:grid_square": "UP",
                },
            },
            "33UUP",
        ),
        ({"id": "S2A_34SGA_20200318_0_L2A", "properties": {}}, "34SGA"),
        ({"id": "S2B_T20EPT_20250731T131905_L2A", "properties": {}}, "20EPT"),
        ({"id": "S2_somewhere", "properties": {}}, None),
    ],
)
def test_the_tile_of_an_item(item: dict[str, Any], tile: str | None) -> None:
    assert tile_of(item) == tile


def test_one_item_of_each_id_and_the_newest_of_two(tmp_path: Path) -> None:
    old, new = _scene(updated="2020-01-01T00:00:00Z"), _scene(updated="2021-01-01T00:00:00Z")
    other = {**old, "collection": "sentinel-2-c1-l2a"}
    for order in ([old, new, other], [other, new, old], [new, new, other, old]):
        source = SceneSource.open(str(_collection(tmp_path, *order)))
        items = source.optical(OpticalQuery(TILE, *ALWAYS))
        assert [item["collection"] for item in items] == ["sentinel-2-c1-l2a", "sentinel-2-l2a"]
        assert items[1]["properties"]["updated"] == new["properties"]["updated"]


def test_queries_that_cannot_be_meant() -> None:
    query = OpticalQuery(TILE, *ALWAYS)
    for change, says in (
        ({"max_cloud": 20}, "max_cloud 20 is no share: expected 0 to 1"),
        ({"months": frozenset({0})}, "numbers from 1 to 12"),
        ({"start": ALWAYS[1], "end": ALWAYS[0]}, "starts at 2030-01-01 and ends before"),
        ({"start": datetime(2017, 1, 1)}, "must say their zone"),
    ):
        with pytest.raises(InvalidParameter, match=says):
            replace(query, **change)
    with pytest.raises(InvalidParameter, match="run from 1 to 175"):
        RadarQuery(TILE.search_geometry(), *ALWAYS, relative_orbit=176)


# --- places -------------------------------------------------------------------------------------------------------


def test_names_and_paths(tmp_path: Path) -> None:
    assert set(known_sources()) == {"earth-search", "earth-search-c1", "planetary-computer", "cdse"}
    source = SceneSource.open("planetary-computer")
    assert source.url == "https://planetarycomputer.microsoft.com/api/stac/v1"
    assert SceneSource.open(f"{source.url}/").known == source.known
    with pytest.raises(InvalidParameter, match="there is no source 'earthsearch': expected earth-search, "):
        SceneSource.open("earthsearch")
    with pytest.raises(InvalidParameter, match=r"is a folder without catalog.json or collection.json"):
        SceneSource.open(str(tmp_path))


def _catalogue(folder: Path) -> list[str]:
    """A catalogue of two collections with items, written by pystac."""
    import pystac

    catalogue = pystac.Catalog("c", "scenes")
    names = []
    for year in (2017, 2018):
        child = pystac.Catalog(f"y{year}", f"{year}")
        catalogue.add_child(child)
        for month in (1, 7):
            name = f"S2A_33UUP_{year}{month:02d}13_0_L2A"
            names.append(name)
            child.add_item(pystac.Item.from_dict(_scene(name, datetime=f"{year}-{month:02d}-13T10:00:00Z")))
    catalogue.normalize_and_save(str(folder), pystac.CatalogType.SELF_CONTAINED)
    return names


def test_a_static_catalogue_on_disk_and_over_http(tmp_path: Path) -> None:
    names = _catalogue(tmp_path)
    assert _found(tmp_path) == names
    source = SceneSource.open(str(tmp_path / "catalog.json"))
    item = source.optical(OpticalQuery(TILE, *ALWAYS))[0]
    here = tmp_path / f"y2017/{names[0]}"
    assert item["links"][0]["href"] == str(here / f"{names[0]}.json")
    assert item["assets"]["blue"]["href"] == str(here / "B02.tif")
    with serve(tmp_path) as server:
        assert _found(f"{server.url}/catalog.json") == names
        assert len(server.requests) == 1 + 2 + 4
        item = SceneSource.open(f"{server.url}/catalog.json").optical(OpticalQuery(TILE, *ALWAYS))[0]
        assert item["assets"]["blue"]["href"] == f"{server.url}/y2017/{names[0]}/B02.tif"
        assert _found(f"{server.url}/y2017/{names[0]}/{names[0]}.json") == names[:1]


def test_a_catalogue_that_is_damaged_or_hostile(tmp_path: Path) -> None:
    names = _catalogue(tmp_path)
    secret = tmp_path.parent / f"{tmp_path.name}-secret.json"
    secret.write_text(json.dumps(_scene("S2_secret")))
    year = tmp_path / "y2017/catalog.json"
    document = json.loads(year.read_text())
    links = [
        {"rel": "item", "href": f"file://{secret}"},
        {"rel": "item", "href": "./none.json"},
        {"rel": "item", "href": "./catalog.json"},
        {"rel": "child", "href": "../catalog.json"},  # a circle
        {"rel": "item"},
        "text",
    ]
    year.write_text(json.dumps({**document, "links": [*document["links"], *links]}))
    (tmp_path / f"y2018/{names[2]}/{names[2]}.json").write_text('{"type": "Feature", ')
    with serve(tmp_path) as server:
        source = SceneSource.open(f"{server.url}/catalog.json", patience=HASTY)
        with pytest.raises(SourceError, match=r"the answer is no JSON"):
            source.optical(OpticalQuery(TILE, *ALWAYS))
        (tmp_path / f"y2018/{names[2]}/{names[2]}.json").write_text("{}")
        items = source.optical(OpticalQuery(TILE, *ALWAYS))
        assert [item["id"] for item in items] == [names[0], names[1], names[3]]
        told = "\n".join(source.problems)
        for expected in (
            f"{secret} is not read",
            "none.json: HTTP 404",
            "leads nowhere: None",
            f"{names[2]}.json: an item has the id None",
        ):
            assert expected in told
    # On the own disk the same link is a link.
    assert "S2_secret" in _found(tmp_path)
    (tmp_path / "y2018/catalog.json").unlink()
    with pytest.raises(SourceError, match=r"y2018/catalog\.json cannot be read"):
        _found(tmp_path)


def test_files_that_hold_no_items(tmp_path: Path) -> None:
    for name, content, says in (
        ("a.json", "{", "is not JSON"),
        ("b.json", "[]", "is no STAC document"),
        ("c.json", "{}", "is no STAC catalogue: it has no links"),
        ("d.json", '{"type": "FeatureCollection"}', "without features"),
        ("e.parquet", "PAR1PAR1", "cannot be read as stac-geoparquet"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(SourceError, match=says):
            _found(tmp_path / name)
    pq.write_table(pq.read_table(_not_items(tmp_path)), tmp_path / "f.parquet")
    with pytest.raises(SourceError, match="it has no columns id and assets"):
        _found(tmp_path / "f.parquet")
    source = SceneSource.open(str(_collection(tmp_path, _scene("S2_ok"), 7, {"type": "Collection"}, _scene("a/b"))))
    assert [item["id"] for item in source.optical(OpticalQuery(TILE, *ALWAYS))] == ["S2_ok"]
    assert len(source.problems) == 3


def _not_items(folder: Path) -> Path:
    import pyarrow as pa

    path = folder / "plain.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    return path
