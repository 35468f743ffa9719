import contextlib
import copy
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landpatch.catalog.errors import InvalidItem
from landpatch.catalog.names import SceneId
from landpatch.catalog.scenes import (
    BandAsset,
    RadarScene,
    absolute_href,
    boa_offset,
    by_time_gap,
    find_bands,
    optical_scene,
    radar_scene,
    scene_id,
    sensing_time,
    with_absolute_hrefs,
)
from small_scenes import KEYS, RESOLUTIONS

SCENE = "S2B_MSIL2A_20240830T100559_N0511_R022_T33UUP"
RADAR = "S1B_IW_GRDH_1SDV_20170612T165809_20170612T165834_006022_00A94B_9E4A"

Item = dict[str, Any]


def earth_search(**properties: Any) -> Item:
    """An item in the manner of Earth Search v1: keys by colour, COG and JPEG 2000 of each band, true colour."""
    assets: dict[str, Any] = {
        "thumbnail": {"href": "https://e.org/thumbnail.jpg", "type": "image/jpeg", "roles": ["thumbnail"]},
        "visual": {
            "href": "https://e.org/TCI.tif",
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "eo:bands": [{"name": name, "common_name": name} for name in ("red", "green", "blue")],
            "proj:transform": [10, 0, 300000, 0, -10, 5400000],
        },
        "scl": {
            "href": "https://e.org/SCL.tif",
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "proj:transform": [20, 0, 300000, 0, -20, 5400000],
        },
        "scl-jp2": {"href": "s3://e/SCL.jp2", "type": "image/jp2"},
        "aot": {"href": "https://e.org/AOT.tif", "type": "image/tiff"},
    }
    for band, key in reversed(KEYS.items()):
        resolution = RESOLUTIONS[band]
        common = "rededge" if key.startswith("rededge") else key
        for suffix, ending, kind in (("-jp2", "jp2", "image/jp2"), ("", "tif", "image/tiff; application=geotiff")):
            assets[key + suffix] = {
                "href": f"https://e.org/{band}.{ending}",
                "type": kind,
                "eo:bands": [{"name": key, "common_name": common}],
                "gsd": resolution,
                "proj:transform": [resolution, 0, 300000, 0, -resolution, 5400000],
                "raster:bands": [{"nodata": 0, "scale": 0.0001, "offset": -0.1, "spatial_resolution": resolution}],
                "roles": ["data", "reflectance"],
            }
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "S2B_33UUP_20240830_0_L2A",
        "collection": "sentinel-2-l2a",
        "properties": {
            "datetime": "2024-08-30T10:06:21.919000Z",
            "earthsearch:boa_offset_applied": True,
            "s2:product_uri": f"{SCENE}_20240830T134009.SAFE",
            "s2:processing_baseline": "05.11",
            **properties,
        },
        "assets": assets,
    }


def cdse(**properties: Any) -> Item:
    """An item in the manner of the Copernicus Data Space: STAC 1.1, every band at every coarser resolution."""
    assets: dict[str, Any] = {}
    for band, native in RESOLUTIONS.items():
        for resolution in (60, 20, 10):
            if resolution >= native and not (band == "B08" and resolution > 10):
                assets[f"{band}_{resolution}m"] = {
                    "href": f"s3://eodata/{band}_{resolution}m.jp2",
                    "type": "image/jp2",
                    "gsd": native,
                    "bands": [{"name": band, "eo:common_name": "rededge" if band == "B06" else ""}],
                    "raster:offset": -0.1,
                    "proj:transform": [resolution, 0, 300000, 0, -resolution, 5400000],
                }
    for resolution in (60, 20):
        assets[f"SCL_{resolution}m"] = {"href": f"s3://eodata/SCL_{resolution}m.jp2", "type": "image/jp2"}
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": f"{SCENE}_20240830T134009",
        "collection": "sentinel-2-l2a",
        "properties": {"datetime": "2024-08-30T10:05:59Z", "processing:version": "05.11", **properties},
        "assets": assets,
    }


def radar_item(**properties: Any) -> Item:
    assets = {
        key: {"href": f"/data/{key}.tif", "raster:bands": [{"unit": "dB", "nodata": "nan"}]} for key in ("vv", "vh")
    }
    return {
        "type": "Feature",
        "id": RADAR,
        "collection": "sigma0-db",
        "properties": {"datetime": "2017-06-12T16:58:09Z", **properties},
        "assets": assets,
    }


# --- bands -------------------------------------------------------------------------------------------------------


def test_earth_search_bands_are_cogs_by_colour_and_not_their_jp2_twins() -> None:
    scene = optical_scene(earth_search())
    assert {name: asset.key for name, asset in scene.bands.items()} == KEYS
    assert all(asset.href == f"https://e.org/{name}.tif" for name, asset in scene.bands.items())
    assert scene.scl == BandAsset("scl", "https://e.org/SCL.tif")


def test_bands_come_in_the_order_of_the_patch() -> None:
    assert list(find_bands(earth_search())) == list(RESOLUTIONS)


def test_the_jp2_twin_is_taken_where_there_is_no_other() -> None:
    item = earth_search()
    for key in ("blue", "scl"):
        del item["assets"][key]
    scene = optical_scene(item)
    assert scene.bands["B02"].key == "blue-jp2"
    assert scene.scl == BandAsset("scl-jp2", "s3://e/SCL.jp2")


def test_of_several_resolutions_the_native_one_is_taken() -> None:
    scene = optical_scene(cdse())
    assert {name: asset.key for name, asset in scene.bands.items()} == {
        name: f"{name}_{resolution}m" for name, resolution in RESOLUTIONS.items()
    }
    assert scene.scl is not None
    assert scene.scl.key == "SCL_20m"


def test_a_band_that_is_only_there_at_another_resolution_is_missing() -> None:
    item = cdse()
    del item["assets"]["B02_10m"]
    for key in [key for key in item["assets"] if key.startswith("B11")]:
        del item["assets"][key]
    with pytest.raises(InvalidItem, match=rf"item {item['id']}: .* B02 \(only as B02_60m, B02_20m\), B11$"):
        find_bands(item)


def test_the_file_s_resolution_counts_not_the_instrument_s() -> None:
    item = earth_search()
    blue = item["assets"]["blue"]
    blue["raster:bands"][0]["spatial_resolution"] = 20  # gsd, what the instrument resolves, stays 10
    assert find_bands(item)["B02"].key == "blue-jp2"
    del blue["raster:bands"][0]["spatial_resolution"], blue["proj:transform"]
    assert find_bands(item)["B02"].key == "blue"


def test_three_bands_called_rededge_are_told_apart() -> None:
    """GIVEN eo 1.x, where B05, B06 and B07 share the common name rededge, WHEN keys say nothing, THEN names do."""
    item = earth_search()
    item["assets"] = {
        f"asset{number}": {"href": f"/{band}.tif", "eo:bands": [{"name": band, "common_name": "rededge"}]}
        for number, band in enumerate(RESOLUTIONS)
    }
    assert {name: asset.href for name, asset in find_bands(item).items()} == {b: f"/{b}.tif" for b in RESOLUTIONS}


def test_rededge_alone_is_no_band() -> None:
    item = earth_search()
    for band in ("B05", "B06", "B07"):
        for suffix in ("", "-jp2"):
            asset = item["assets"].pop(KEYS[band] + suffix)
            item["assets"][f"{band[-1]}{suffix}"] = {**asset, "eo:bands": [{"name": "x", "common_name": "rededge"}]}
    with pytest.raises(InvalidItem, match=r"band\(s\) B05, B06, B07$"):
        find_bands(item)


def test_the_band_s_name_counts_more_than_the_key() -> None:
    """B8A and B08 are both called nir somewhere: a key of another catalogue must not outvote the band's own name."""
    item = earth_search()
    item["assets"]["nir"]["eo:bands"] = [{"name": "B08", "common_name": "nir"}]
    item["assets"]["nir08"]["eo:bands"] = [{"name": "B8A", "common_name": "nir"}]
    bands = find_bands(item)
    assert (bands["B08"].key, bands["B8A"].key) == ("nir", "nir08")


@pytest.mark.parametrize(
    "asset",
    [
        {"eo:bands": [{"name": "B02"}, {"name": "B03"}, {"name": "B04"}], "type": "image/tiff"},
        {"eo:bands": [{"name": "B02"}], "type": "image/jpeg"},
        {"eo:bands": [{"name": "B02"}], "type": "image/tiff", "roles": ["overview"]},
        {"eo:bands": [{"name": "B02"}], "type": "application/xml"},
        {"eo:bands": [{"name": "B02"}], "href": None},
    ],
    ids=["true-colour", "jpeg", "overview", "xml", "no-href"],
)
def test_what_only_looks_like_a_band_is_passed_over(asset: dict[str, Any]) -> None:
    item = earth_search()
    item["assets"] = {"AAA": {"href": "/first-by-name.tif", **asset}, **item["assets"]}
    assert find_bands(item)["B02"].key == "blue"


def test_without_scl_there_is_none_and_a_60_m_one_is_no_substitute() -> None:
    item = cdse()
    del item["assets"]["SCL_20m"]
    assert optical_scene(item).scl is None


# --- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["s2:product_uri", "sentinel2:product_uri", "sentinel2:product_title", "sentinel:product_id"]
)
def test_the_product_id_is_found_wherever_a_dialect_keeps_it(place: str) -> None:
    item = earth_search()
    del item["properties"]["s2:product_uri"]
    with pytest.raises(
        InvalidItem, match=r"item S2B_33UUP_20240830_0_L2A: no Sentinel-2 product id .*s2:product_uri"
    ):
        scene_id(item)
    item["properties"][place] = f"{SCENE}_20240830T134009.SAFE"
    assert str(scene_id(item)) == SCENE


def test_the_item_s_id_is_the_last_resort() -> None:
    assert str(scene_id(cdse())) == SCENE
    other = SCENE.replace("33UUP", "33UVP")
    assert str(scene_id(cdse(**{"s2:product_uri": other}))) == other


@pytest.mark.parametrize(
    "key", ["s2:geometric_quality", "sentinel2:general_quality_flag", "landpatch:sensor_quality"]
)
def test_quality_indicators_that_did_not_pass(key: str) -> None:
    name = key.split(":")[1].split("_")[0]
    assert optical_scene(earth_search(**{key: "PASSED", "s2:radiometric_quality": "passed"})).failed_quality == ()
    assert optical_scene(earth_search(**{key: None})).failed_quality == ()  # not known is not failed
    scene = optical_scene(earth_search(**{key: "FAILED", "s2:radiometric_quality": "FAILED"}))
    assert scene.failed_quality == tuple(sorted({name, "radiometric"}))
    assert optical_scene(earth_search(**{"s2:format_correctness": "FAILED"})).failed_quality == ()


# --- the radiometric offset --------------------------------------------------------------------------------------


def no_offset_declared(item: Item) -> Item:
    for asset in item["assets"].values():
        for band in asset.get("raster:bands", []):
            band.pop("offset")
        asset.pop("raster:offset", None)
    return item


@pytest.mark.parametrize(
    ("item", "present"),
    [
        # Earth Search sentinel-2-l2a declares -0.1 either way; what counts is whether it says it took it away.
        (earth_search(), False),
        (earth_search(**{"earthsearch:boa_offset_applied": False}), True),
        (earth_search(**{"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "03.01"}), False),
        (earth_search(**{"earthsearch:boa_offset_applied": False}) | {"collection": "sentinel-2-l1c"}, True),
        (
            earth_search(**{"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "02.08"})
            | {"collection": "sentinel-2-l1c"},
            False,
        ),
        # Collection-1 is right about itself.
        (earth_search(**{"earthsearch:boa_offset_applied": None}) | {"collection": "sentinel-2-c1-l2a"}, True),
        (cdse(), True),
        (cdse(**{"processing:version": "99.99"}), False),
        # Planetary Computer declares nothing; the baseline tells, whatever the date.
        (no_offset_declared(cdse(**{"s2:processing_baseline": "04.00"})), True),
        (no_offset_declared(cdse(**{"s2:processing_baseline": "03.01"})), False),
        (no_offset_declared(cdse(**{"processing:version": "2.5.1"})), True),  # not a baseline: the id's N0511 is
        (no_offset_declared(cdse(**{"s2:processing_baseline": "nan"})), True),
        (no_offset_declared(cdse(**{"s2:processing_baseline": "05.11", "sentinel:boa_offset_applied": True})), False),
        # The product's own metadata outvote everything.
        (earth_search(**{"landpatch:boa_add_offset": -1000}), True),
        (cdse(**{"landpatch:boa_add_offset": 0}), False),
        (cdse(**{"landpatch:boa_add_offset": -1000, "s2:processing_baseline": "99.99"}), True),
    ],
)
def test_the_verdict_on_the_offset(item: Item, present: bool) -> None:
    verdict = boa_offset(item)
    assert verdict.present is present
    assert optical_scene(item).offset == verdict
    assert verdict.reason


def test_nothing_tells_the_offset() -> None:
    item = no_offset_declared(earth_search(**{"earthsearch:boa_offset_applied": None}))
    item["properties"] |= {"s2:product_uri": None, "s2:processing_baseline": None}
    with pytest.raises(InvalidItem, match=r"item S2B_33UUP_20240830_0_L2A: .*--offset present or absent"):
        boa_offset(item)


@pytest.mark.parametrize(("said", "present"), [("present", True), ("absent", False)])
def test_the_user_overrules_the_item(said: Any, present: bool) -> None:
    assert optical_scene(earth_search(), offset=said).offset.present is present
    assert optical_scene(cdse(), offset=said).offset.present is present


# --- radar -------------------------------------------------------------------------------------------------------


def test_a_radar_scene_in_decibel() -> None:
    scene = radar_scene(radar_item())
    assert (str(scene.name), scene.unit, scene.backscatter) == ("S1B_IW_GRDH_1SDV_20170612T165809", "dB", "sigma0")
    assert (scene.vv, scene.vh, scene.item_id) == ("/data/vv.tif", "/data/vh.tif", RADAR)
    assert scene.nodata is not None
    assert math.isnan(scene.nodata)
    assert scene.sensed == datetime(2017, 6, 12, 16, 58, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("unit", "collection", "expected"),
    [
        ("dB", "", "dB"),
        (" decibels ", "", "dB"),
        ("linear power", "", "power"),
        ("m2/m2", "", "power"),
        (None, "sentinel-1-rtc", "power"),
        ("dB", "sentinel-1-rtc", "dB"),
        (None, "sentinel-1-grd", None),
        ("1", "sentinel-1-grd", None),  # a number without unit: power, amplitude and raw counts all are
        ("amplitude", "", None),
    ],
)
def test_the_unit_is_known_or_an_error(unit: str | None, collection: str, expected: str | None) -> None:
    item = radar_item()
    item["collection"] = collection
    for asset in item["assets"].values():
        asset["raster:bands"][0]["unit"] = unit
    if expected is not None:
        assert radar_scene(item).unit == expected
        return
    with pytest.raises(InvalidItem, match=rf"item {RADAR}: .*dB or linear power; say it with --s1-unit"):
        radar_scene(item)
    assert radar_scene(item, unit="power").unit == "power"


@pytest.mark.parametrize(
    "place",
    [
        lambda asset: asset.update({"unit": "dB"}),
        lambda asset: asset.update({"bands": [{"unit": "dB"}]}),
        lambda asset: asset.update({"raster:bands": [{"unit": "dB"}]}),
    ],
    ids=["stac-1.1", "bands", "raster:bands"],
)
def test_the_unit_is_found_in_every_version_of_stac(place: Callable[[dict[str, Any]], None]) -> None:
    item = radar_item()
    for asset in item["assets"].values():
        del asset["raster:bands"]
        place(asset)
    assert radar_scene(item).unit == "dB"


def test_the_user_overrules_the_unit() -> None:
    assert radar_scene(radar_item(), unit="power").unit == "power"


@pytest.mark.parametrize(
    ("declared", "nodata"),
    [(-32768, -32768.0), ("0", 0.0), ("-inf", -math.inf), ("none", None), (None, None), ([], None)],
)
def test_declared_nodata(declared: Any, nodata: float | None) -> None:
    item = radar_item()
    item["assets"]["vv"]["raster:bands"][0]["nodata"] = declared
    assert radar_scene(item).nodata == nodata


@pytest.mark.parametrize(
    ("collection", "properties", "backscatter"),
    [
        ("sentinel-1-rtc", {}, "gamma0-terrain"),
        ("s1-gamma0", {}, "gamma0"),
        ("something", {}, "unknown"),
        ("something", {"landpatch:backscatter": "sigma0"}, "sigma0"),
        ("something", {"landpatch:backscatter": "gamma0-terrain"}, "gamma0-terrain"),
    ],
)
def test_which_backscatter(collection: str, properties: dict[str, Any], backscatter: str) -> None:
    assert radar_scene(radar_item(**properties) | {"collection": collection}).backscatter == backscatter


def test_radar_keys_in_capitals() -> None:
    item = radar_item()
    item["assets"] = {key.upper(): asset for key, asset in item["assets"].items()}
    assert radar_scene(item).vh == "/data/vh.tif"


def test_a_radar_scene_without_vh() -> None:
    item = radar_item()
    item["assets"]["hh"] = item["assets"].pop("vh")
    with pytest.raises(InvalidItem, match=rf"item {RADAR}: no asset vh; a patch needs VV and VH"):
        radar_scene(item)


def test_another_mode_than_interferometric_wide_swath_is_refused() -> None:
    identifier = "S1A_EW_GRDM_1SDV_20221130T014342_20221130T014446_046117_058549"
    with pytest.raises(InvalidItem, match=rf"item {identifier}: its mode is EW"):
        radar_scene(radar_item() | {"id": identifier})


def test_a_radar_item_named_otherwise_is_named_by_platform_and_time() -> None:
    item = radar_item(platform="Sentinel-1A", datetime="2017-06-12T16:58:09.7Z") | {"id": "mosaic"}
    assert str(radar_scene(item).name) == "S1A_IW_GRDH_1SDV_20170612T165809"
    with pytest.raises(InvalidItem, match="item mosaic: no Sentinel-1 product id found"):
        radar_scene(radar_item() | {"id": "mosaic"})


seconds = st.integers(-200_000, 200_000)


@given(st.lists(seconds, max_size=8), st.randoms(use_true_random=False))
def test_the_nearest_radar_scene_comes_first_and_the_order_is_one(offsets: list[int], random: Any) -> None:
    sensed = datetime(2017, 6, 13, 10, 10, 31, tzinfo=UTC)
    scenes = []
    for number, offset in enumerate(offsets):
        when = sensed + timedelta(seconds=offset)
        item = radar_item(datetime=when.isoformat(), platform="sentinel-1b") | {"id": f"scene-{number}"}
        scenes.append(radar_scene(item))
    ordered = by_time_gap(scenes, sensed)
    gaps = [abs(scene.sensed - sensed) for scene in ordered]
    assert gaps == sorted(abs(timedelta(seconds=offset)) for offset in offsets)
    random.shuffle(scenes)
    assert by_time_gap(scenes, sensed) == ordered


# --- time --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2017-06-13T10:10:31Z", datetime(2017, 6, 13, 10, 10, 31, tzinfo=UTC)),
        ("2017-06-13T10:10:31.024000Z", datetime(2017, 6, 13, 10, 10, 31, 24000, tzinfo=UTC)),
        ("2017-06-13 12:10:31+02:00", datetime(2017, 6, 13, 10, 10, 31, tzinfo=UTC)),
        ("2017-06-13T10:10:31", datetime(2017, 6, 13, 10, 10, 31, tzinfo=UTC)),  # STAC times are UTC
    ],
)
def test_sensing_time_is_utc(text: str, expected: datetime) -> None:
    assert sensing_time(cdse(datetime=text)) == expected
    assert sensing_time(cdse(datetime=None, start_datetime=text)) == expected
    assert sensing_time(cdse(datetime=text)).tzinfo == UTC


@pytest.mark.parametrize("text", [None, "", "yesterday", "0001-01-01T00:00:00+23:00", 5])
def test_no_valid_time(text: Any) -> None:
    with pytest.raises(InvalidItem, match="no valid datetime"):
        sensing_time(cdse(datetime=text))


# --- hrefs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("href", "base", "absolute"),
    [
        ("./B02.tif", "/data/scene/item.json", "/data/scene/B02.tif"),
        ("B02.tif", "/data/scene/item.json", "/data/scene/B02.tif"),
        ("../B02.tif", "/data/scene/item.json", "/data/B02.tif"),
        ("../../../../B02.tif", "/data/scene/item.json", "/B02.tif"),
        ("/other/B02.tif", "/data/scene/item.json", "/other/B02.tif"),
        ("a b%20c.tif", "/data/item.json", "/data/a b%20c.tif"),
        ("../B02.tif", "scene/item.json", "B02.tif"),
        ("./B02.tif", "https://e.org/stac/item.json", "https://e.org/stac/B02.tif"),
        ("../B02.tif", "https://e.org/stac/items/1?token=x", "https://e.org/stac/B02.tif"),
        ("../../../B02.tif", "https://e.org/stac/items/1", "https://e.org/B02.tif"),
        # On a server "/" is the server's root, never a file of the machine that reads the item.
        ("/assets/B02.tif", "https://e.org/stac/item.json", "https://e.org/assets/B02.tif"),
        ("//cdn.org/B02.tif", "https://e.org/stac/item.json", "https://cdn.org/B02.tif"),
        ("B02.tif?sig=a%2Fb", "https://e.org/stac/item.json", "https://e.org/stac/B02.tif?sig=a%2Fb"),
        ("./B02.tif", "s3://bucket/stac/item.json", "s3://bucket/stac/B02.tif"),
        ("../B02.tif", "s3://bucket/stac/item.json", "s3://bucket/B02.tif"),
        ("../../../B02.tif", "s3://bucket/stac/item.json", "s3://bucket/B02.tif"),  # not into another bucket
        ("/etc/B02.tif", "s3://bucket/stac/item.json", "s3://bucket/etc/B02.tif"),
        ("B02.tif", "s3://bucket/item.json", "s3://bucket/B02.tif"),
        ("./B02.tif", "file:///data/item.json", "file:///data/B02.tif"),
        ("../../B02.tif", "file:///data/item.json", "file:///B02.tif"),
        ("s3://other/B02.tif", "/data/item.json", "s3://other/B02.tif"),
        ("https://e.org/B02.tif", "s3://bucket/item.json", "https://e.org/B02.tif"),
        ("file:///data/B02.tif", "https://e.org/item.json", "file:///data/B02.tif"),
    ],
)
def test_hrefs_are_made_absolute(href: str, base: str, absolute: str) -> None:
    assert absolute_href(href, base) == absolute
    item = cdse()
    item["assets"] = {"B02": {"href": href, "title": "Blue"}, "empty": {"title": "no file"}}
    before = copy.deepcopy(item)
    assert with_absolute_hrefs(item, base)["assets"] == {"B02": {"href": absolute, "title": "Blue"}}
    assert item == before


def test_an_href_that_is_none() -> None:
    item = cdse()
    item["assets"]["B02_10m"]["href"] = "http://[half-an-address"
    with pytest.raises(InvalidItem, match=rf"item {item['id']}: the href of asset B02_10m is no path or URL"):
        with_absolute_hrefs(item, "/data/item.json")


@pytest.mark.parametrize("identifier", ["../../escape", "a/b", "a\0b"])
def test_an_id_that_would_lead_elsewhere_is_refused(identifier: str) -> None:
    with pytest.raises(InvalidItem, match="cannot name the item's file"):
        optical_scene(cdse() | {"id": identifier})
    with pytest.raises(InvalidItem, match="cannot name the item's file"):
        radar_scene(radar_item() | {"id": identifier})


# --- items from strangers ----------------------------------------------------------------------------------------

JUNK = st.sampled_from(
    [
        None,
        "",
        "x",
        "nan",
        "1e999",
        0,
        -1,
        2**70,
        1.5,
        True,
        [],
        {},
        [None],
        ["x"],
        [{}],
        [[1]],
        {"0": 1},
        {"name": 5},
    ]
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(inner, (*path, key))


@given(st.data())
def test_an_item_that_is_wrong_anywhere_never_raises_anything_but_invalid_item(data: st.DataObject) -> None:
    make = data.draw(st.sampled_from([earth_search, cdse, radar_item]))
    item = make()
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(_places(item))))
        holder = item
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = copy.deepcopy(data.draw(JUNK))  # the same list in itself would have no end
    for read in (optical_scene, radar_scene, sensing_time, lambda item: with_absolute_hrefs(item, "s3://b/i.json")):
        with contextlib.suppress(InvalidItem):
            read(item)


# --- real items --------------------------------------------------------------------------------------------------


def real_items(folder: Path) -> Iterator[tuple[str, Item]]:
    with (folder / "sentinel_items.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line)
            yield entry["source"].split("@")[0], entry["item"]
    for path in sorted((folder / "earth-search-v1").rglob("*")):
        if path.is_file() and path.suffix != ".xml":
            yield "earth-search-v1", json.loads(path.read_text())


def is_optical(item: Item) -> bool:
    return any(word in str(item.get("collection", "")).lower() for word in ("sentinel-2", "sentinel-s2", "s2msi"))


def test_every_real_dialect_of_sentinel_2_is_read_or_refused_by_name(shared_data: Path) -> None:
    read, refused = 0, {}
    for _, item in real_items(shared_data / "stac-items"):
        if not is_optical(item):
            continue
        try:
            scene = optical_scene(item)
        except InvalidItem as error:
            refused[item["id"]] = str(error).removeprefix(f"item {item['id']}: ")
            continue
        read += 1
        properties = item["properties"]
        assert list(scene.bands) == list(RESOLUTIONS)
        for name, asset in scene.bands.items():
            assert item["assets"][asset.key]["href"] == asset.href
            # Independent evidence that it is this band: every catalogue's file name says so.
            assert f"{name}." in asset.href or f"{name}_{RESOLUTIONS[name]}m." in asset.href, asset.href
            assert len(item["assets"][asset.key].get("eo:bands", [{}])) == 1
        assert len({asset.href for asset in scene.bands.values()}) == 12
        stated = properties.get("s2:processing_baseline") or properties.get("sentinel:processing_baseline")
        if stated is not None:
            assert scene.scene.baseline == f"{float(stated) * 100:04.0f}"
        code = properties.get("grid:code") or f"MGRS-{properties.get('s2:mgrs_tile', scene.scene.tile)}"
        if "sentinel-s2-l2a-cogs" not in item["collection"]:  # there computed from the centroid, and wrong at 180 E
            assert code.removeprefix("MGRS-").zfill(5) == scene.scene.tile
        gap = abs(sensing_time(item) - scene.scene.sensed)
        assert gap < timedelta(hours=1)
    assert read == 142
    # Three items of the L1C archive have a thumbnail alone; three others name no product (one of them twice there).
    bare = {"S2B_9VXK_20171016_0", "S2B_9VXK_20171017_0", "S2A_9VXK_20171002_0"}
    nameless = {"S2A_34SGA_20200318_0_L2A", "Jaca_4", "S2A_52HGH_20221007_0_L2A"}
    assert {name for name, text in refused.items() if text.startswith("no asset at native resolution")} == bare
    assert {name for name, text in refused.items() if text.startswith("no Sentinel-2 product id")} == nameless
    assert len(refused) == 6


def test_verdicts_on_real_items(shared_data: Path) -> None:
    """The rules of each catalogue, written again from the project's notes on Sentinel sources."""
    verdicts: Counter[tuple[str, bool]] = Counter()
    for _, item in real_items(shared_data / "stac-items"):
        try:
            scene = optical_scene(item)
        except InvalidItem:
            continue
        properties = item["properties"]
        added = int(scene.scene.baseline) >= 400
        if properties.get("earthsearch:boa_offset_applied") or properties.get("sentinel:boa_offset_applied"):
            added = False
        assert scene.offset.present is added, item["id"]
        verdicts[item["collection"], added] += 1
    assert verdicts["sentinel-2-c1-l2a", True] == 7
    assert verdicts["sentinel-2-l2a", True] > 10
    assert verdicts["sentinel-2-l2a", False] > 30
    assert verdicts["sentinel-s2-l2a-cogs", False] > 40


def test_planetary_computer_s_parquet(shared_data: Path) -> None:
    import pyarrow.parquet as pq
    from stac_geoparquet.arrow import stac_table_to_items

    count = 0
    for name in ("100-sentinel-2-items.parquet", "1000-sentinel-2-items.parquet"):
        table = pq.read_table(shared_data / "stac-items/planetary-computer" / name).slice(0, 30)
        for item in stac_table_to_items(table):
            scene = optical_scene(item)
            assert {key: asset.key for key, asset in scene.bands.items()} == {band: band for band in RESOLUTIONS}
            assert scene.scl is not None
            assert str(scene.scene) in item["properties"]["s2:product_uri"]
            assert scene.offset.present is True  # all of 2025: baselines 05.10 and 05.11
            assert scene.failed_quality == ()
            count += 1
    assert count == 60


def test_real_radar_items(shared_data: Path) -> None:
    read: list[RadarScene] = []
    reasons: Counter[str] = Counter()
    for _, item in real_items(shared_data / "stac-items"):
        text = str(item.get("collection", "")).lower()
        if "sentinel-1" not in text and "sentinel1" not in text and "s1" not in text.split("_"):
            continue
        try:
            read.append(radar_scene(item))
        except InvalidItem as error:
            text = str(error).removeprefix(f"item {item['id']}: ")
            reasons["unit" if text.startswith("neither its assets' unit") else text[:8]] += 1
    assert len(read) == 6
    assert {(scene.unit, scene.backscatter, scene.nodata) for scene in read if scene.grd is None} == {
        ("power", "gamma0-terrain", -32768.0)
    }
    products = [scene for scene in read if scene.grd is not None]
    assert len(products) == 2
    for product in products:
        assert product.backscatter == "sigma0"
        assert product.grd is not None
        assert "/rfi/" not in product.grd.annotation
        assert product.grd.annotation.rpartition("/")[2] == product.vv.rpartition("/")[2].replace(".tiff", ".xml")
    assert all(scene.item_id.startswith(str(scene.name)) for scene in read)
    assert all("vv" in scene.vv and "vh" in scene.vh for scene in read)
    assert reasons == {"no asset": 11}  # single polarisation, HH/HV and SLC bursts


def test_the_real_scenes_of_the_project(shared_data: Path) -> None:
    folder = shared_data / "scene-33uup"
    optical = json.loads((folder / f"{OPTICAL}/S2A_33UUP_20170613_0_L2A.json").read_text())
    scene = optical_scene(optical)
    assert (str(scene.scene), scene.offset.present, scene.failed_quality) == (OPTICAL, False, ())
    assert scene.scene == SceneId.parse(OPTICAL)
    name = "S1B_IW_GRDH_1SDV_20170612T165809"
    radar = radar_scene(json.loads((folder / f"{name}/{name}_33UUP.json").read_text()))
    assert (str(radar.name), radar.unit, radar.backscatter) == (name, "dB", "sigma0")


OPTICAL = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"
