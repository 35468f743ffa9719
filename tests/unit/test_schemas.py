import copy
import functools
import json
import operator
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from landpatch.catalog.errors import InvalidDataset
from landpatch.catalog.schemas import shipped_extensions, validate_collection, validate_item

E = "https://stac-extensions.github.io/"
GEOTIFF = "image/tiff; application=geotiff; profile=cloud-optimized"
CHECKSUM = "1220" + sha256(b"pixels").hexdigest()


def extension(name: str, version: str) -> str:
    return f"{E}{name}/v{version}/schema.json"


@pytest.fixture
def item() -> dict[str, Any]:
    """A patch as landpatch describes one, with every extension that an item may declare."""
    names = {
        "eo": "2.0.0", "projection": "2.0.0", "raster": "2.0.0", "sar": "1.3.0", "sat": "1.2.0", "grid": "1.1.0",
        "mgrs": "1.0.0", "label": "1.0.1", "ml-aoi": "0.2.0", "classification": "1.1.0", "file": "2.1.0",
        "processing": "1.2.0", "render": "2.0.0", "scientific": "1.0.0", "version": "1.2.0",
    }  # fmt: skip
    classes = [{"value": 311, "name": "broad-leaved-forest", "color_hint": "80FF00"}]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [extension(*pair) for pair in names.items()],
        "id": "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57",
        "collection": "patches",
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[12.7, 48.0], [12.72, 48.0], [12.72, 48.01], [12.7, 48.01], [12.7, 48.0]]],
        },
        "bbox": [12.7, 48.0, 12.72, 48.01],
        "properties": {
            "datetime": "2017-06-13T10:10:31Z",
            "platform": "sentinel-2a",
            "instruments": ["msi"],
            "gsd": 10,
            "proj:code": "EPSG:32633",
            "eo:cloud_cover": 0.0,
            "grid:code": "MGRS-33UUP",
            "mgrs:utm_zone": 33,
            "mgrs:latitude_band": "U",
            "mgrs:grid_square": "UP",
            "sat:orbit_state": "descending",
            "sat:relative_orbit": 22,
            "ml-aoi:split": "validate",
            "label:type": "raster",
            "label:properties": None,
            "label:description": "CORINE Land Cover 2018",
            "label:classes": [{"name": None, "classes": ["Arable land"]}],
            "label:tasks": ["segmentation"],
            "processing:version": "99.99",
            "sci:doi": "10.1109/IGARSS55030.2025.11242671",
            "version": "1",
            "renders": {"radar": {"assets": ["S1"], "rescale": [[-25, 0]]}},
        },
        "links": [
            {"rel": "collection", "href": "../collection.json", "type": "application/json"},
            {"rel": "source", "href": "./map.tif", "label:assets": ["S2_10m"]},
        ],
        "assets": {
            "S2_10m": {
                "href": "./S2_10m.tif",
                "type": GEOTIFF,
                "roles": ["data"],
                "data_type": "uint16",
                "bands": [{"name": "B02", "eo:common_name": "blue", "eo:center_wavelength": 0.4966}],
                "nodata": 0,
                "proj:shape": [120, 120],
                "proj:transform": [10, 0, 331200, 0, -10, 5331600],
                "raster:spatial_resolution": 10,
                "file:checksum": CHECKSUM,
                "file:size": 115344,
                "ml-aoi:role": "feature",
            },
            "S1": {
                "href": "./S1.tif",
                "type": GEOTIFF,
                "sar:polarizations": ["VV", "VH"],
                "sar:instrument_mode": "IW",
                "sar:frequency_band": "C",
            },
            "reference_map": {"href": "./map.tif", "type": GEOTIFF, "classification:classes": classes},
        },
    }


@pytest.fixture
def collection() -> dict[str, Any]:
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "stac_extensions": [
            extension("projection", "2.0.0"),
            extension("ml-aoi", "0.2.0"),
            extension("file", "2.1.0"),
        ],
        "id": "patches",
        "description": "Patches of one tile",
        "license": "CDLA-Permissive-1.0",
        "extent": {
            "spatial": {"bbox": [[12.7, 48.0, 12.72, 48.01]]},
            "temporal": {"interval": [["2017-06-13T10:10:31Z", "2017-06-13T10:10:31Z"]]},
        },
        "summaries": {"ml-aoi:split": ["train", "validate", "test"], "proj:code": ["EPSG:32633"]},
        "item_assets": {"S2_10m": {"type": GEOTIFF, "roles": ["data"]}},
        "assets": {"items": {"href": "./items.parquet", "file:checksum": CHECKSUM, "file:size": 7}},
        "links": [{"rel": "root", "href": "./collection.json"}],
    }


def test_every_extension_that_ships_has_its_address_and_opens() -> None:
    assert len(shipped_extensions()) == 15
    folder = Path(__file__).parents[2] / "catalog/landpatch/catalog/data/schemas"
    for url in shipped_extensions():
        schema = json.loads((folder / url.removeprefix(E)).read_text("utf-8"))
        assert schema["$id"].removesuffix("#") == url


def test_the_shipped_schemas_are_the_published_ones(shared_data: Path) -> None:
    folder = Path(__file__).parents[2] / "catalog/landpatch/catalog/data/schemas"
    for url in shipped_extensions():
        name = url.removeprefix(E)
        assert (folder / name).read_bytes() == (shared_data.parent / "schemas" / name).read_bytes()


def test_a_patch_and_its_collection_are_valid(item: dict[str, Any], collection: dict[str, Any]) -> None:
    assert set(item["stac_extensions"]) == set(shipped_extensions())
    before = copy.deepcopy((item, collection))
    validate_item(item)
    validate_collection(collection)
    assert (item, collection) == before


DROPPED = object()
BROKEN_ITEMS = [
    # where, what is written there, the schema that says so
    ("/stac_version", "1.0.0", "STAC 1.1.0"),
    ("/id", DROPPED, "STAC 1.1.0"),
    ("/properties/datetime", DROPPED, "STAC 1.1.0"),
    ("/properties/datetime", "2017-06-13 10:10:31Z", "STAC 1.1.0"),
    ("/geometry/coordinates/0", [[12.7, 48.0], [12.72, 48.0]], "STAC 1.1.0"),
    ("/assets/S1/href", DROPPED, "STAC 1.1.0"),
    ("/assets/S2_10m/data_type", "short", "STAC 1.1.0"),
    ("/properties/ml-aoi:split", "validation", "ml-aoi/v0.2.0"),
    ("/assets/S2_10m/bands/0/eo:common_name", "azure", "eo/v2.0.0"),
    ("/properties/proj:code", 32633, "projection/v2.0.0"),
    ("/assets/S2_10m/proj:shape", [4, 120, 120], "projection/v2.0.0"),
    ("/assets/S2_10m/raster:spatial_resolution", "10 m", "raster/v2.0.0"),
    ("/assets/S1/sar:polarizations/0", "VX", "sar/v1.3.0"),
    ("/properties/sat:orbit_state", "down", "sat/v1.2.0"),
    ("/properties/grid:code", "33UUP", "grid/v1.1.0"),
    ("/properties/mgrs:utm_zone", "33", "mgrs/v1.0.0"),
    ("/properties/label:type", DROPPED, "label/v1.0.1"),
    ("/assets/reference_map/classification:classes/0/name", "broad leaved", "classification/v1.1.0"),
    ("/assets/S2_10m/file:checksum", "xyz", "file/v2.1.0"),
    ("/properties/processing:version", 99.99, "processing/v1.2.0"),
    ("/properties/renders", DROPPED, "render/v2.0.0"),
    ("/properties/sci:doi", "https://doi.org/10.1/x", "scientific/v1.0.0"),
    ("/properties/version", 1, "version/v1.2.0"),
]


@pytest.mark.parametrize(("where", "value", "schema"), BROKEN_ITEMS)
def test_one_wrong_field_is_found_and_named(item: dict[str, Any], where: str, value: object, schema: str) -> None:
    parent, name = where.rsplit("/", 1)
    steps = [int(step) if step.isdigit() else step for step in parent.split("/")[1:]]
    holder: Any = functools.reduce(operator.getitem, steps, item)
    if value is DROPPED:
        del holder[name]
    else:
        holder[int(name) if name.isdigit() else name] = value
    with pytest.raises(InvalidDataset) as error:
        validate_item(item)
    message = str(error.value)
    begin = f"item {item.get('id')!r} is not valid: "
    assert message.startswith(begin)
    # What is missing can only be missed by what should hold it.
    pointer = (parent or "/") if value is DROPPED else where
    problems = message.removeprefix(begin).split("; ")
    assert any(part.startswith(f"{pointer}: ") and part.endswith(f"({schema})") for part in problems), message


def test_a_collection_without_its_link_is_told_so(item: dict[str, Any]) -> None:
    del item["links"][0]
    with pytest.raises(InvalidDataset, match="/collection: must not be there"):
        validate_item(item)


BROKEN_RULES: list[tuple[dict[str, Any], str]] = [
    ({"file:checksum": CHECKSUM[4:]}, "no sha-256 multihash"),  # a bare sha-256 passes the schema
    ({"file:checksum": CHECKSUM[:-2]}, "no sha-256 multihash"),
    ({"file:checksum": "1620" + CHECKSUM[4:]}, "no sha-256 multihash"),  # sha3-256, as CDSE has it
    ({"proj:transform": [331200, 10, 0, 5331600, 0, -10]}, "GDAL's order"),
]


@pytest.mark.parametrize(("fields", "says"), BROKEN_RULES)
def test_what_the_schemas_let_pass_is_found_too(item: dict[str, Any], fields: dict[str, Any], says: str) -> None:
    item["assets"]["S2_10m"].update(fields)
    with pytest.raises(InvalidDataset, match=f"/assets/S2_10m/{next(iter(fields))}: .*{says}"):
        validate_item(item)


def test_a_checksum_of_a_link_is_checked_as_well(item: dict[str, Any]) -> None:
    item["links"][1]["file:checksum"] = "00"
    with pytest.raises(InvalidDataset, match="/links/1/file:checksum: '00' is no sha-256 multihash"):
        validate_item(item)


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (lambda c: c.pop("license"), '"license" is a required property'),
        (lambda c: c.update(type="Feature"), "/type: "),
        (lambda c: c["extent"]["temporal"].update(interval=[]), "/extent/temporal/interval: "),
        (lambda c: c["summaries"].update({"ml-aoi:split": ["validation"]}), "/summaries/ml-aoi:split/0: .*ml-aoi"),
        (lambda c: c["assets"]["items"].update({"file:checksum": CHECKSUM[4:]}), "/assets/items/file:checksum: "),
        (lambda c: c["item_assets"]["S2_10m"].update({"file:size": 7}), "/item_assets/S2_10m/file:size: .*leave"),
    ],
)
def test_a_wrong_collection_is_refused(
    collection: dict[str, Any], breaks: Callable[[dict[str, Any]], Any], says: str
) -> None:
    breaks(collection)
    with pytest.raises(InvalidDataset, match=f"collection 'patches' is not valid: .*{says}"):
        validate_collection(collection)


def test_an_item_is_no_collection(item: dict[str, Any], collection: dict[str, Any]) -> None:
    with pytest.raises(InvalidDataset, match=r"collection '.*26_57'"):
        validate_collection(item)
    with pytest.raises(InvalidDataset, match="item 'patches'"):
        validate_item(collection)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (extension("sar", "1.0.0"), "sar/v1.0.0/schema.json does not ship .*; declare sar/v1.3.0 instead"),
        (extension("storage", "2.0.0"), "storage/v2.0.0/schema.json does not ship .*; leave it out"),
        ("https://example.org/own/v1.0.0/schema.json", "example.org/own/v1.0.0/schema.json does not ship"),
    ],
)
def test_an_extension_without_a_shipped_schema_is_an_error(item: dict[str, Any], url: str, says: str) -> None:
    item["stac_extensions"].append(url)
    with pytest.raises(InvalidDataset, match=says):
        validate_item(item)


def test_a_heap_of_problems_is_cut_short(item: dict[str, Any]) -> None:
    for number in range(9):
        item["assets"][f"extra{number}"] = {"href": "./x.tif", "file:checksum": "00"}
    with pytest.raises(InvalidDataset, match=r"; and 4 more$"):
        validate_item(item)


def test_nothing_is_needed_but_what_is_installed(item: dict[str, Any]) -> None:
    """No network and no pystac: validating from a fresh process opens no socket and imports neither."""
    program = """
import json, socket, sys
def refuse(*_): raise SystemExit("a socket was opened")
socket.socket = refuse
from landpatch.catalog.schemas import validate_item
validate_item(json.load(sys.stdin))
print(json.dumps([name for name in ("pystac", "pystac_client", "requests") if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", program], input=json.dumps(item), capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def _as_stac_1_1(item: dict[str, Any]) -> dict[str, Any]:
    """A real item as it would be today: the extensions whose version ships kept, the old version's slips mended."""
    item = copy.deepcopy(item)
    item["stac_version"] = "1.1.0"
    item["stac_extensions"] = [url for url in item["stac_extensions"] if url in shipped_extensions()]
    item["links"].append({"rel": "collection", "href": "./collection.json"})
    for name in ("start_datetime", "end_datetime"):
        if name in item["properties"]:
            item["properties"][name] = item["properties"][name].replace(" ", "T")
    return item


def test_real_items(shared_data: Path) -> None:
    with (shared_data / "stac-items/sentinel_items.jsonl").open(encoding="utf-8") as lines:
        real = [json.loads(line)["item"] for line in lines]
    problems = {}
    for old in real:
        item = _as_stac_1_1(old)
        try:
            validate_item(item)
        except InvalidDataset as error:
            problems[item["id"]] = str(error)
        else:
            item["assets"]["one"] = {"title": "without href"}
            with pytest.raises(InvalidDataset, match='/assets/one: "href" is a required property'):
                validate_item(item)
        if old["stac_version"] != "1.1.0":
            with pytest.raises(InvalidDataset, match="/stac_version"):
                validate_item(old)
    # CDSE's checksums are sha3-256 or blake3, Planetary Computer's md5: no sha-256 multihash. One item has a number
    # where processing asks for text.
    assert len(real) - len(problems) == 140
    assert sum("no sha-256 multihash" in problem for problem in problems.values()) == 9
    assert sum('/properties/processing:version: 0.1 is not of type "string"' in p for p in problems.values()) == 1
