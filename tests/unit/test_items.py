import hashlib
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rasterio import warp

from landpatch.catalog.bands import OPTICAL_ASSETS, PATCH_ASSETS, REFERENCE_MAP, S1
from landpatch.catalog.compaction import compact, part_path, write_part
from landpatch.catalog.errors import InvalidDataset
from landpatch.catalog.grid import TileGrid
from landpatch.catalog.items import (
    PROPERTIES,
    SCHEMA,
    THUMBNAIL,
    LabelOrigin,
    Origin,
    PatchRecord,
    Summary,
    collection_document,
    item_from_row,
    items,
    label_item,
    multihash,
    parquet_metadata,
    patch_hrefs,
    patch_table,
)
from landpatch.catalog.names import RadarSceneId, SceneId
from landpatch.catalog.nomenclature import clc2018
from landpatch.catalog.scenes import BoaOffset, RadarScene
from landpatch.catalog.schemas import validate_collection, validate_item
from landpatch.catalog.store import ITEMS, Dataset, Storage

NORTH = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"
SOUTH = "S2B_MSIL2A_20240830T134009_N0511_R024_T21HVB"
SENSED = datetime(2017, 6, 13, 10, 13, 22, 456000, tzinfo=UTC)
BEFORE = datetime(2017, 6, 12, 16, 58, 9, tzinfo=UTC)
AFTER = datetime(2017, 6, 14, 5, 1, 2, tzinfo=UTC)


def radar(sensed: datetime, name: str = "S1B_IW_GRDH_1SDV_20170612T165809") -> RadarScene:
    return RadarScene(f"{name}_rtc", RadarSceneId.parse(name), sensed, "vv", "vh", "power", "gamma0-terrain", None)


def origin(name: str = NORTH, *, labels: bool = True, present: bool = True) -> Origin:
    scene = SceneId.parse(name)
    return Origin(
        scene=scene,
        grid=TileGrid.from_tile(scene.tile),
        optical_item="S2A_33UUP_20170613_0_L2A",
        sensed=SENSED,
        offset=BoaOffset(present, "the baseline adds 1000", "0.1 percentile of clear pixels 1012"),
        radars=(radar(BEFORE), radar(AFTER, "S1A_IW_GRDH_1SDV_20170614T050102")),
        labels=LabelOrigin("clc2018", clc2018()) if labels else None,
        collection="patches",
    )


def file_of(key: str, x: int, y: int) -> tuple[int, str]:
    return 1000 + 10 * x + y, hashlib.sha256(f"{key} {x} {y}".encode()).hexdigest()


def record(
    x: int = 26,
    y: int = 57,
    *,
    s1: int | None = 0,
    labels: bool = True,
    thumbnail: bool = False,
    scl: bool = True,
) -> PatchRecord:
    keys = [asset.key for asset in OPTICAL_ASSETS]
    keys += [S1.key] * (s1 is not None) + [REFERENCE_MAP.key] * labels + [THUMBNAIL] * thumbnail
    return PatchRecord(
        x=x,
        y=y,
        radar=s1,
        labels=("Arable land", "Pastures") if labels else (),
        label_pixels=(14000, 400) if labels else (),
        unlabelled=0.0 if labels else None,
        snow=0.0 if scl else None,
        cloud=0.0123456 if scl else None,
        shadow=0.25 if scl else None,
        contains_seasonal_snow=False,
        contains_cloud_or_shadow=scl,
        files={key: file_of(key, x, y) for key in keys},
    )


def one_item(origin: Origin, record: PatchRecord) -> dict[str, Any]:
    (item,) = items(patch_table(origin, [record]))
    return item


# --- one item ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("s1", [None, 0, 1])
@pytest.mark.parametrize("labels", [True, False], ids=["labels", "no-labels"])
@pytest.mark.parametrize("thumbnail", [True, False], ids=["thumbnail", "no-thumbnail"])
@pytest.mark.parametrize("scl", [True, False], ids=["scl", "no-scl"])
@pytest.mark.parametrize("scene", [NORTH, SOUTH])
def test_every_kind_of_patch_is_a_valid_item(
    s1: int | None, labels: bool, thumbnail: bool, scl: bool, scene: str
) -> None:
    item = one_item(origin(scene, labels=labels), record(s1=s1, labels=labels, thumbnail=thumbnail, scl=scl))
    validate_item(item)
    assert json.loads(json.dumps(item)) == item
    keys = {"S2_10m", "S2_20m", "S2_60m"}
    keys |= {"S1"} if s1 is not None else set()
    keys |= {"reference_map"} if labels else set()
    keys |= {"thumbnail"} if thumbnail else set()
    assert set(item["assets"]) == keys
    assert ("eo:cloud_cover" in item["properties"]) is scl
    assert ("label:type" in item["properties"]) is labels
    extensions = {url.split("/")[3] for url in item["stac_extensions"]}
    assert ("sar" in extensions, "label" in extensions) == (s1 is not None, labels)
    assert item["properties"]["instruments"] == (["msi"] if s1 is None else ["msi", "c-sar"])


def test_what_an_item_says() -> None:
    item = one_item(origin(), record(thumbnail=True))
    assert item["id"] == f"{NORTH}_26_57"
    assert item["collection"] == "patches"
    assert item["stac_version"] == "1.1.0"
    properties = item["properties"]
    assert {
        key: value for key, value in properties.items() if not key.startswith(("label:", "processing:software"))
    } == {
        "datetime": "2017-06-13T10:13:22.456000Z",
        "start_datetime": "2017-06-12T16:58:09Z",
        "end_datetime": "2017-06-13T10:13:22.456000Z",
        "platform": "sentinel-2a",
        "constellation": "sentinel-2",
        "instruments": ["msi", "c-sar"],
        "gsd": 10.0,
        "eo:cloud_cover": 1.2346,
        "eo:snow_cover": 0.0,
        "grid:code": "MGRS-33UUP",
        "mgrs:utm_zone": 33,
        "mgrs:latitude_band": "U",
        "mgrs:grid_square": "UP",
        "proj:code": "EPSG:32633",
        "processing:level": "L2A",
        "processing:version": "99.99",
        "sat:relative_orbit": 22,
        "ml-aoi:split": "test",  # x 26, y 57: its row in the published metadata
        "landpatch:scene": NORTH,
        "landpatch:tile": "33UUP",
        "landpatch:x": 26,
        "landpatch:y": 57,
        "landpatch:split": "test",
        "landpatch:labels": ["Arable land", "Pastures"],
        "landpatch:label_pixels": [14000, 400],
        "landpatch:unlabelled": 0.0,
        "landpatch:snow": 0.0,
        "landpatch:cloud": 0.0123456,
        "landpatch:shadow": 0.25,
        "landpatch:contains_seasonal_snow": False,
        "landpatch:contains_cloud_or_shadow": True,
        "landpatch:s1_name": "S1B_IW_GRDH_1SDV_20170612T165809_33UUP_26_57",
        "landpatch:s1_gap_hours": 17.2537,
        "landpatch:longitude": 12.740300299577253,
        "landpatch:latitude": 48.11003471465957,
        "landpatch:season": "summer",
        "landpatch:backscatter": "gamma0-terrain",
        "landpatch:boa_offset": "removed",
        "landpatch:boa_offset_reason": "the baseline adds 1000",
        "landpatch:boa_offset_seen": "0.1 percentile of clear pixels 1012",
    }
    assert properties["label:properties"] is None
    assert properties["label:classes"] == [{"name": None, "classes": list(clc2018().classes)}]
    assert len(clc2018().classes) == 19


def test_hrefs_are_the_official_names() -> None:
    assets = one_item(origin(), record(4, 5, thumbnail=True))["assets"]
    patch = f"{NORTH}_04_05"
    folder = f"patches/33UUP/{NORTH}/{patch}"
    assert {key: asset["href"] for key, asset in assets.items()} == {
        "S2_10m": f"{folder}/{patch}_S2_10m.tif",
        "S2_20m": f"{folder}/{patch}_S2_20m.tif",
        "S2_60m": f"{folder}/{patch}_S2_60m.tif",
        "S1": f"{folder}/S1B_IW_GRDH_1SDV_20170612T165809_33UUP_4_5.tif",  # published names do not pad here
        "reference_map": f"{folder}/{patch}_reference_map.tif",
        "thumbnail": f"{folder}/{patch}_thumbnail.png",
    }
    without = patch_hrefs(SceneId.parse(NORTH), 4, 5, None)
    assert without == {key: asset["href"] for key, asset in assets.items() if key != "S1"}


def test_assets_name_their_bands_and_their_place() -> None:
    assets = one_item(origin(), record(4, 5))["assets"]
    bands = {key: [band["name"] for band in asset["bands"]] for key, asset in assets.items()}
    assert bands == {
        "S2_10m": ["B02", "B03", "B04", "B08"],
        "S2_20m": ["B05", "B06", "B07", "B8A", "B11", "B12"],
        "S2_60m": ["B01", "B09"],
        "S1": ["VV", "VH"],
        "reference_map": ["Data"],
    }
    common = {
        band["name"]: band["eo:common_name"]
        for key in assets
        for band in assets[key]["bands"]
        if "eo:common_name" in band
    }
    assert (common["B05"], common["B06"], common["B07"]) == ("rededge071", "rededge075", "rededge078")
    assert (common["B8A"], common["B09"]) == ("nir08", "nir09")
    for key, pixels, resolution in (("S2_10m", 120, 10), ("S2_20m", 60, 20), ("S2_60m", 20, 60), ("S1", 120, 10)):
        asset = assets[key]
        assert asset["proj:shape"] == [pixels, pixels]
        # Row-major affine, as the extension has it, and not GDAL's order.
        assert asset["proj:transform"] == [resolution, 0, 300000 + 1200 * 4, 0, -resolution, 5400000 - 1200 * 5]
        assert asset["raster:spatial_resolution"] == resolution
        assert asset["type"] == "image/tiff; application=geotiff; profile=cloud-optimized"
    assert [assets[key]["data_type"] for key in bands] == ["uint16", "uint16", "uint16", "float32", "uint16"]
    assert [assets[key].get("nodata", "none") for key in bands] == [0, 0, 0, "none", 0]
    assert isinstance(assets["S2_10m"]["nodata"], int)
    assert assets["S1"]["datetime"] == "2017-06-12T16:58:09Z"
    assert assets["S1"]["unit"] == "dB"
    assert [asset["ml-aoi:role"] for asset in assets.values()] == ["feature"] * 4 + ["label"]


def test_checksums_are_multihashes_of_sha_256() -> None:
    """GIVEN the bytes of a file, THEN code 0x12 and length 0x20 stand before their digest (multiformats.io)."""
    item = one_item(origin(), record(4, 5, thumbnail=True))
    for key, asset in item["assets"].items():
        digest = bytes.fromhex(asset["file:checksum"])
        assert (digest[0], digest[1]) == (0x12, 0x20)
        assert digest[2:] == hashlib.sha256(f"{key} 4 5".encode()).digest()
        assert asset["file:size"] == 1045
    item["assets"]["S1"]["file:checksum"] = item["assets"]["S1"]["file:checksum"][4:]
    with pytest.raises(InvalidDataset, match="no sha-256 multihash"):
        validate_item(item)
    assert multihash("ab") == "1220ab"


@pytest.mark.parametrize(("s1", "start", "end"), [(None, SENSED, SENSED), (0, BEFORE, SENSED), (1, SENSED, AFTER)])
def test_the_range_of_time_spans_both_sensors(s1: int | None, start: datetime, end: datetime) -> None:
    properties = one_item(origin(), record(s1=s1))["properties"]
    found = {key: datetime.fromisoformat(properties[key]) for key in ("datetime", "start_datetime", "end_datetime")}
    assert found == {"datetime": SENSED, "start_datetime": start, "end_datetime": end}


def test_links_name_what_a_patch_was_made_from() -> None:
    links = one_item(origin(), record())["links"]
    assert [(link["rel"], link["href"]) for link in links] == [
        ("collection", "collection.json"),
        ("derived_from", "scenes/S2A_33UUP_20170613_0_L2A.json"),
        ("derived_from", "scenes/S1B_IW_GRDH_1SDV_20170612T165809_rtc.json"),
        ("derived_from", "scenes/clc2018.json"),
    ]
    assert [link.get("ml-aoi:role") for link in links] == [None, "feature", "feature", "label"]
    second = one_item(origin(), record(s1=1))["links"]
    assert second[2]["href"] == "scenes/S1A_IW_GRDH_1SDV_20170614T050102_rtc.json"
    bare = one_item(origin(labels=False), record(s1=None, labels=False))["links"]
    assert [link["rel"] for link in bare] == ["collection", "derived_from"]


def test_an_l1c_scene_without_offset_says_so() -> None:
    item = one_item(origin(NORTH.replace("MSIL2A", "MSIL1C").replace("N9999", "N0205"), present=False), record())
    properties = item["properties"]
    assert (properties["processing:level"], properties["processing:version"]) == ("L1C", "02.05")
    assert properties["landpatch:boa_offset"] == "absent"


# --- where a patch lies ------------------------------------------------------------------------------------------

TILES = {"33UUP": 32633, "21HVB": 32721, "01CDH": 32701, "32VKM": 32632, "60KWF": 32760, "31NAA": 32631}


@settings(max_examples=25)
@given(st.sampled_from(sorted(TILES)), st.integers(0, 90), st.integers(0, 90))
def test_the_footprint_is_1200_m_square(tile: str, x: int, y: int) -> None:
    """GDAL's transformation back to metres, not the one that made the footprint, gives the file's own corners."""
    item = one_item(origin(NORTH.replace("33UUP", tile)), record(x, y))
    assert item["properties"]["proj:code"] == f"EPSG:{TILES[tile]}"
    assume(item["geometry"]["type"] == "Polygon")  # on 180 degrees: the next test
    (ring,) = item["geometry"]["coordinates"]
    longitude, latitude = np.array(ring).T
    west, south, east, north = item["bbox"]
    assert [west, south, east, north] == [longitude.min(), latitude.min(), longitude.max(), latitude.max()]
    assert east - west < 0.3
    transform = item["assets"]["S2_60m"]["proj:transform"]
    left, top = transform[2], transform[5]
    corners = [(left, top - 1200), (left + 1200, top - 1200), (left + 1200, top), (left, top), (left, top - 1200)]
    metres = np.transpose(warp.transform("EPSG:4326", f"EPSG:{TILES[tile]}", longitude, latitude))
    np.testing.assert_allclose(metres, corners, rtol=0, atol=1e-3)
    assert shapely.Polygon(ring).exterior.is_ccw


def test_south_of_the_equator_northings_are_southern() -> None:
    item = one_item(origin(SOUTH), record(0, 0))
    grid = TileGrid.from_tile("21HVB")
    assert item["properties"]["proj:code"] == "EPSG:32721"
    assert item["assets"]["S2_10m"]["proj:transform"][5] == grid.uly > 5_000_000
    assert item["bbox"][3] < 0


def test_a_patch_on_the_antimeridian_lies_on_both_its_sides() -> None:
    """Fiji: 92 patches of tile 01KAB cross 180 E; a box from -180 to 180 would find them all over the world."""
    there = origin(NORTH.replace("33UUP", "01KAB"))
    rows = patch_table(there, [record(x, y) for x in range(91) for y in (0, 45, 90)])
    found = {item["id"][-5:]: item for item in items(rows)}
    crossing = {key: item for key, item in found.items() if item["geometry"]["type"] == "MultiPolygon"}
    assert 3 <= len(crossing) <= 6
    for key, item in found.items():
        validate_item(item)
        west, south, east, north = item["bbox"]
        shape = shapely.from_geojson(json.dumps(item["geometry"]))
        assert shape.is_valid
        assert -180 <= west <= 180
        assert -180 <= east <= 180
        assert shape.bounds[1::2] == (south, north)
        parts = list(shape.geoms) if key in crossing else [shape]
        assert all(part.exterior.is_ccw for part in parts)
        assert all(part.bounds[2] - part.bounds[0] < 0.02 for part in parts)
        assert (west > east) == (key in crossing)
        assert (east - west) % 360 < 0.02
        # Nothing is lost by cutting: the area is that of the first patch of this row.
        first = shapely.from_geojson(json.dumps(found[f"00_{key[-2:]}"]["geometry"]))
        assert shape.area == pytest.approx(first.area, rel=2e-3)
    summary = Summary()
    summary.add(rows)
    assert summary.bbox is not None
    assert (summary.bbox[0], summary.bbox[2]) == (-180, 180)
    document = collection_document("patches", summary, nomenclature=clc2018(), dropped={})
    validate_collection(document)
    geo = json.loads(parquet_metadata(document)[b"geo"])
    assert geo["columns"]["geometry"]["geometry_types"] == ["MultiPolygon", "Polygon"]


# --- many items --------------------------------------------------------------------------------------------------

MIXED = [
    record(30, 2, s1=None, labels=False, scl=False),
    record(9, 12),
    record(10, 3, s1=1, thumbnail=True),
    record(9, 2, s1=0, thumbnail=True),
]


def test_rows_come_in_the_order_of_their_ids() -> None:
    table = patch_table(origin(), MIXED)
    assert table.schema.equals(SCHEMA)
    ids = table.column("id").to_pylist()
    assert ids == sorted(ids) == [f"{NORTH}_{end}" for end in ("09_02", "09_12", "10_03", "30_02")]
    assert patch_table(origin(), MIXED[::-1]).equals(table)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    together = {item["id"]: item for item in items(patch_table(origin(), MIXED))}
    for each in MIXED:
        alone = one_item(origin(), each)
        assert together[alone["id"]] == alone


def test_no_patches_are_a_table_without_rows() -> None:
    table = patch_table(origin(), [])
    assert table.num_rows == 0
    assert table.schema.equals(SCHEMA)


@given(
    st.lists(
        st.builds(
            record,
            st.integers(0, 90),
            st.integers(0, 90),
            s1=st.sampled_from([None, 0, 1]),
            labels=st.booleans(),
            thumbnail=st.booleans(),
            scl=st.booleans(),
        ),
        max_size=5,
        unique_by=lambda one: (one.x, one.y),
    ),
    st.booleans(),
)
@settings(max_examples=25)
def test_items_survive_a_parquet_file(records: list[PatchRecord], labels: bool) -> None:
    table = patch_table(origin(labels=labels), records)
    file = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(parquet_metadata({"id": "patches"})), file, compression="zstd")
    file.seek(0)
    read = pq.read_table(file).cast(SCHEMA)
    assert list(items(read)) == list(items(table))
    for item, row in zip(items(read), table.to_pylist(), strict=True):
        assert item == item_from_row(row)
        assert set(item["properties"]) <= {name for name, _ in PROPERTIES}


# --- a dataset's collection --------------------------------------------------------------------------------------


def written(folder: Path, *, labels: bool = True) -> Dataset:
    """Two scenes of two tiles, brought to storage as a build does it."""
    storage = Storage.open(folder, create=True)
    for name, records in ((NORTH, MIXED), (SOUTH, [record(1, 1, labels=labels), record(80, 90, labels=labels)])):
        records = [record(r.x, r.y, s1=r.radar, labels=labels and bool(r.labels)) for r in records]
        write_part(
            storage,
            part_path(name, "rows-00-90"),
            patch_table(origin(name, labels=labels), records),
            collection="patches",
            nomenclature=clc2018() if labels else None,
            dropped={"NODATA": 8000, "UNLABELLED": 7},
        )
    assert compact(storage)
    return Dataset.open(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return written(tmp_path_factory.mktemp("dataset") / "d")


@pytest.fixture(scope="module")
def items_file(dataset: Dataset) -> Path:
    assert dataset.storage.folder is not None
    return dataset.storage.folder / ITEMS


def test_the_collection_is_valid_and_says_what_is_in_it(dataset: Dataset, tmp_path: Path) -> None:
    document = dataset.collection()
    validate_collection(document)
    table = dataset.table()
    assert document["landpatch:patches"] == table.num_rows == 6
    assert document["landpatch:counts"] == {
        "labels": {"Arable land": 5, "Pastures": 5},
        "splits": {
            split: table.column("landpatch:split").to_pylist().count(split)
            for split in sorted(set(table.column("landpatch:split").to_pylist()))
        },
        "tiles": {"21HVB": 2, "33UUP": 4},
        "countries": {},
        "seasons": {"summer": 4, "winter": 2},
        "flags": {"contains_cloud_or_shadow": 6, "contains_seasonal_snow": 0},
    }
    assert document["landpatch:dropped"] == {"NODATA": 16000, "UNLABELLED": 14}
    assert document["summaries"]["proj:code"] == ["EPSG:32633", "EPSG:32721"]
    assert document["summaries"]["platform"] == ["sentinel-2a", "sentinel-2b"]
    boxes = np.array([item["bbox"] for item in items(table)])
    assert document["extent"]["spatial"]["bbox"] == [
        [*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()]
    ]
    assert document["extent"]["temporal"]["interval"] == [["2017-06-12T16:58:09Z", "2017-06-14T05:01:02Z"]]
    nomenclature = dataset.nomenclature()
    assert nomenclature is not None
    assert nomenclature.to_json() == clc2018().to_json()
    without = written(tmp_path / "without", labels=False)
    validate_collection(without.collection())
    assert "reference_map" not in without.collection()["item_assets"]
    assert without.nomenclature() is None


def test_the_collection_s_words_for_assets_are_those_of_the_items(dataset: Dataset) -> None:
    declared = dataset.collection()["item_assets"]
    for item in items(dataset.table()):
        for key, asset in item["assets"].items():
            for name, value in declared[key].items():
                if name not in ("classification:classes", "nodata"):
                    assert asset[name] == value, (key, name)
            assert asset.get("nodata") == declared[key].get("nodata")
    assert not [key for asset in declared.values() for key in asset if key.startswith("file:")]


def test_an_empty_collection_is_valid() -> None:
    document = collection_document("patches", Summary(), nomenclature=None, dropped={"NODATA": 8281})
    validate_collection(document)
    assert document["landpatch:patches"] == 0


def test_summaries_add_up_part_by_part(dataset: Dataset) -> None:
    table = dataset.table()
    whole, parts = Summary(), Summary()
    whole.add(table)
    for row in range(table.num_rows):
        parts.add(table.slice(row, 1))
    parts.add(table.slice(0, 0))
    assert parts == whole


@pytest.mark.parametrize("href", ["labels/clc.parquet", "labels/clc.tif"])
def test_the_label_item_is_valid(href: str) -> None:
    item = label_item("clc2018", "CORINE Land Cover 2018", href, (-31.3, 27.6, 44.8, 71.2), clc2018())
    validate_item(item)
    assert item["properties"]["label:type"] == ("vector" if href.endswith("parquet") else "raster")
    assert item["bbox"] == [-31.3, 27.6, 44.8, 71.2]


# --- other programs ----------------------------------------------------------------------------------------------


def test_pystac_reads_items_and_collection(dataset: Dataset) -> None:
    import pystac

    collection = pystac.Collection.from_dict(dataset.collection())
    assert collection.item_assets.keys() == {asset.key for asset in PATCH_ASSETS}
    for document in items(dataset.table()):
        item = pystac.Item.from_dict(document)
        assert item.id == document["id"]
        assert item.datetime == SENSED
        assert set(item.assets) == set(document["assets"])
        back = item.to_dict(include_self_link=False, transform_hrefs=False)
        assert back["properties"] == document["properties"]
        assert back["assets"] == document["assets"]
        assert back["geometry"] == document["geometry"]


def test_stac_geoparquet_reads_the_same_items(dataset: Dataset, items_file: Path) -> None:
    from stac_geoparquet.arrow import stac_table_to_items

    metadata = pq.read_metadata(items_file).metadata
    assert json.loads(metadata[b"stac-geoparquet"]) == {
        "version": "1.1.0",
        "collections": {"patches": dataset.collection()},
    }
    theirs = list(stac_table_to_items(pq.read_table(items_file)))
    ours = list(items(dataset.table()))
    assert len(theirs) == len(ours) == 6
    for their, our in zip(theirs, ours, strict=True):
        assert their["id"] == our["id"]
        assert their["bbox"] == pytest.approx(our["bbox"])
        assert their["assets"].keys() == our["assets"].keys()
        assert their["assets"]["S2_10m"]["proj:transform"] == our["assets"]["S2_10m"]["proj:transform"]
        assert their["properties"]["landpatch:labels"] == our["properties"]["landpatch:labels"]
        assert datetime.fromisoformat(their["properties"]["datetime"]) == SENSED


def test_geopandas_reads_the_same_rows(dataset: Dataset, items_file: Path) -> None:
    import geopandas

    frame = geopandas.read_parquet(items_file)
    assert frame["id"].tolist() == dataset.table(["id"]).column("id").to_pylist()
    assert frame.crs.to_string() == "OGC:CRS84"
    assert frame.geometry.name == "geometry"
    geo = json.loads(pq.read_metadata(items_file).metadata[b"geo"])
    assert geo["columns"]["geometry"]["geometry_types"] == sorted(set(frame.geom_type)) == ["Polygon"]
    metres = frame[frame["landpatch:tile"] == "33UUP"].to_crs(32633)
    np.testing.assert_allclose(metres.area, 1200.0**2, rtol=1e-6)
    # The covering: GeoParquet 1.1 lets a reader skip rows by their box.
    inside = geopandas.read_parquet(items_file, bbox=tuple(frame.total_bounds[[0, 1]].tolist()) * 2)
    assert len(inside) < len(frame)
    some = geopandas.read_parquet(items_file, bbox=tuple(metres.to_crs(4326).total_bounds.tolist()))
    assert sorted(some["id"]) == sorted(metres["id"])


def test_duckdb_reads_the_same_rows(dataset: Dataset, items_file: Path) -> None:
    import duckdb

    with duckdb.connect() as connection:
        rows = connection.execute(
            """select id, assets.S2_10m.href, "landpatch:labels", assets.S1 is null from read_parquet(?)""",
            [str(items_file)],
        ).fetchall()
    assert rows == [
        (
            item["id"],
            item["assets"]["S2_10m"]["href"],
            item["properties"]["landpatch:labels"],
            "S1" not in item["assets"],
        )
        for item in items(dataset.table())
    ]


def test_rustac_reads_the_same_items(dataset: Dataset, items_file: Path) -> None:
    import rustac

    theirs = rustac.read_sync(str(items_file))["features"]
    ours = list(items(dataset.table()))
    assert [item["id"] for item in theirs] == [item["id"] for item in ours]
    for their, our in zip(theirs, ours, strict=True):
        assert their["geometry"] == our["geometry"]
        assert their["bbox"] == pytest.approx(our["bbox"])
        assert their["properties"]["landpatch:split"] == our["properties"]["landpatch:split"]
        gap = datetime.fromisoformat(their["properties"]["datetime"]) - SENSED
        assert abs(gap) < timedelta(milliseconds=1)
        present = {key for key, asset in their["assets"].items() if asset}
        assert present == set(our["assets"])


def test_the_columns_are_the_same_in_every_dataset(dataset: Dataset, tmp_path: Path) -> None:
    """Readers open many of them as one table."""
    without = written(tmp_path / "d", labels=False)
    one, other = dataset.table(), without.table()
    assert one.schema.remove_metadata().equals(other.schema.remove_metadata())
    plain = [table.replace_schema_metadata(None) for table in (one, other)]
    assert pa.concat_tables(plain).num_rows == 12


def test_a_dataset_of_an_earlier_version_is_brought_up_to_date(tmp_path: Path) -> None:
    dataset = written(tmp_path / "d")
    new = ["landpatch:season", "landpatch:s1_gap_hours"]
    for path in dataset.storage.list("parts"):
        table = pq.read_table(tmp_path / "d" / path)
        pq.write_table(table.drop_columns(new), tmp_path / "d" / path)
    state = pq.read_schema(tmp_path / "d" / ITEMS).metadata
    older = dataset.table().drop_columns(new)
    earlier = {**state, b"landpatch:parts": json.dumps(json.loads(state[b"landpatch:parts"])[1:]).encode()}
    pq.write_table(older.replace_schema_metadata(earlier), tmp_path / "d" / ITEMS)

    assert compact(dataset.storage)
    table = dataset.table()
    assert table.schema.equals(SCHEMA)
    assert all(table.column(name).null_count == 6 for name in new)
    assert table.drop_columns(new).equals(older)
    assert not compact(dataset.storage)
