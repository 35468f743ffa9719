"""STAC items and the collection of a dataset's patches.

One item per patch: Sentinel-2, Sentinel-1 and reference map are its assets, the split is a property. Half a million
items are never half a million objects: they live as rows of stac-geoparquet, built a tile at a time straight as
Arrow columns, and become JSON one by one where somebody asks (``item_from_row``).

Extension versions: the table in the project's STAC notes; schemas are in ``data/schemas``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from landpatch.catalog.bands import (
    OPTICAL_ASSETS,
    PATCH_ASSETS,
    REFERENCE_MAP,
    S1,
    PatchAsset,
    optical_bands,
)
from landpatch.catalog.errors import InvalidItem
from landpatch.catalog.grid import TileGrid
from landpatch.catalog.names import PatchId, RadarPatchName, SceneId
from landpatch.catalog.nomenclature import UNLABELLED, Nomenclature
from landpatch.catalog.official_layout import BAND_FILES, official_stem
from landpatch.catalog.renderings import renders
from landpatch.catalog.scenes import STAC_VERSION, BoaOffset, RadarScene
from landpatch.catalog.seasons import season_of
from landpatch.catalog.splits import Split, splits_by_position

COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
PARQUET_TYPE = "application/vnd.apache.parquet"
THUMBNAIL = "thumbnail"
GEOPARQUET_METADATA_VERSION = "1.1.0"

_EXTENSION = "https://stac-extensions.github.io/{}/schema.json"
_ALWAYS = (
    "eo/v2.0.0",
    "file/v2.1.0",
    "grid/v1.1.0",
    "mgrs/v1.0.0",
    "ml-aoi/v0.2.0",
    "processing/v1.2.0",
    "projection/v2.0.0",
    "raster/v2.0.0",
    "sat/v1.2.0",
)
# Their schemas want an asset with one of their fields.
_OF_FILES = ("eo/v2.0.0", "file/v2.1.0", "raster/v2.0.0")


@dataclass(frozen=True, slots=True)
class LabelOrigin:
    """Where reference maps come from: ``item_id`` of the label item, the ``nomenclature``."""

    item_id: str
    nomenclature: Nomenclature


@dataclass(frozen=True, slots=True)
class Origin:
    """What all patches of one scene have in common.

    ``optical_item`` is the S2 item's id; ``sensed`` its datetime (UTC); ``offset`` is None where nobody knows what
    was done to the pixels; ``radars`` the Sentinel-1 scenes in the order that records refer to; ``labels`` is None
    for a dataset without reference maps.
    """

    scene: SceneId
    grid: TileGrid
    optical_item: str
    sensed: datetime
    offset: BoaOffset | None
    radars: tuple[RadarScene, ...]
    labels: LabelOrigin | None
    collection: str


@dataclass(frozen=True, slots=True)
class PatchRecord:
    """What is known of one written patch.

    ``radar`` is an index into ``Origin.radars`` (None: no Sentinel-1). ``labels`` are sorted class names with their
    ``label_pixels`` (None: nobody counted); ``unlabelled`` the fraction of pixels without a class. ``snow``,
    ``cloud`` and ``shadow`` are fractions of the patch from the scene classification (None: there is none).
    ``files`` gives size in bytes and sha-256 (hex) by asset key. ``split``: by position, unless it is given.
    """

    x: int
    y: int
    radar: int | None
    labels: tuple[str, ...]
    label_pixels: tuple[int, ...] | None
    unlabelled: float | None
    snow: float | None
    cloud: float | None
    shadow: float | None
    contains_seasonal_snow: bool
    contains_cloud_or_shadow: bool
    files: Mapping[str, tuple[int, str]]
    split: Split | None = None
    country: str | None = None
    s2v1_name: str | None = None


def patch_hrefs(scene: SceneId, x: int, y: int, radar: RadarScene | None) -> dict[str, str]:
    """Paths of a patch's files relative to the dataset's root, by asset key; those of Sentinel-1 only with a scene.

    Sentinel-1 files carry their published name.
    """
    patch = scene.patch(x, y)
    folder, name = patch_folder(patch), str(patch)
    hrefs = {asset.key: f"{folder}/{name}{asset.suffix}.tif" for asset in PATCH_ASSETS if asset is not S1}
    if radar is not None:
        hrefs[S1.key] = f"{folder}/{radar.name.patch(scene.tile, x, y)}.tif"
    hrefs[THUMBNAIL] = f"{folder}/{name}_thumbnail.png"
    return hrefs


def patch_folder(patch: PatchId) -> str:
    """Where a patch's files lie, relative to the dataset's root."""
    return f"patches/{patch.scene.tile}/{patch.scene}/{patch}"


def scene_item_href(item_id: str) -> str:
    """Path of a stored scene or label item relative to the dataset's root."""
    return f"scenes/{item_id}.json"


# --- the schema --------------------------------------------------------------------------------------------------

_BAND = pa.struct(
    [
        ("name", pa.string()),
        ("eo:common_name", pa.string()),
        ("eo:center_wavelength", pa.float64()),
    ]
)
_ASSET_FIELDS = [
    ("href", pa.string()),
    ("type", pa.string()),
    ("title", pa.string()),
    ("roles", pa.list_(pa.string())),
    ("bands", pa.list_(_BAND)),
    ("data_type", pa.string()),
    ("nodata", pa.float64()),
    ("unit", pa.string()),
    ("datetime", pa.string()),
    ("proj:shape", pa.list_(pa.int64())),
    ("proj:transform", pa.list_(pa.float64())),
    ("raster:spatial_resolution", pa.float64()),
    ("sar:polarizations", pa.list_(pa.string())),
    ("sar:instrument_mode", pa.string()),
    ("sar:frequency_band", pa.string()),
    ("ml-aoi:role", pa.string()),
    ("file:size", pa.int64()),
    ("file:checksum", pa.string()),
]
_ASSET = pa.struct(_ASSET_FIELDS)
_THUMBNAIL = pa.struct(
    [(name, kind) for name, kind in _ASSET_FIELDS if name in ("href", "type", "title", "roles", "file:size")]
    + [("file:checksum", pa.string())]
)
_LINK = pa.struct(
    [
        ("rel", pa.string()),
        ("href", pa.string()),
        ("type", pa.string()),
        ("title", pa.string()),
        ("ml-aoi:role", pa.string()),
    ]
)
_TIME = pa.timestamp("us", tz="UTC")

PROPERTIES: tuple[tuple[str, pa.DataType], ...] = (
    ("datetime", _TIME),
    ("start_datetime", _TIME),
    ("end_datetime", _TIME),
    ("platform", pa.string()),
    ("constellation", pa.string()),
    ("instruments", pa.list_(pa.string())),
    ("gsd", pa.float64()),
    ("eo:cloud_cover", pa.float64()),
    ("eo:snow_cover", pa.float64()),
    ("grid:code", pa.string()),
    ("mgrs:utm_zone", pa.int64()),
    ("mgrs:latitude_band", pa.string()),
    ("mgrs:grid_square", pa.string()),
    ("proj:code", pa.string()),
    ("processing:level", pa.string()),
    ("processing:version", pa.string()),
    ("processing:software", pa.struct([("landpatch", pa.string())])),
    ("sat:relative_orbit", pa.int64()),
    ("label:type", pa.string()),
    ("label:tasks", pa.list_(pa.string())),
    ("label:methods", pa.list_(pa.string())),
    ("label:description", pa.string()),
    ("label:properties", pa.list_(pa.string())),
    ("label:classes", pa.list_(pa.struct([("name", pa.string()), ("classes", pa.list_(pa.string()))]))),
    ("ml-aoi:split", pa.string()),
    ("landpatch:scene", pa.string()),
    ("landpatch:tile", pa.string()),
    ("landpatch:x", pa.int64()),
    ("landpatch:y", pa.int64()),
    ("landpatch:longitude", pa.float64()),
    ("landpatch:latitude", pa.float64()),
    ("landpatch:season", pa.string()),
    ("landpatch:split", pa.string()),
    ("landpatch:labels", pa.list_(pa.string())),
    ("landpatch:label_pixels", pa.list_(pa.int64())),
    ("landpatch:unlabelled", pa.float64()),
    ("landpatch:snow", pa.float64()),
    ("landpatch:cloud", pa.float64()),
    ("landpatch:shadow", pa.float64()),
    ("landpatch:contains_seasonal_snow", pa.bool_()),
    ("landpatch:contains_cloud_or_shadow", pa.bool_()),
    ("landpatch:country", pa.string()),
    ("landpatch:s1_name", pa.string()),
    ("landpatch:s1_gap_hours", pa.float64()),
    ("landpatch:s2v1_name", pa.string()),
    ("landpatch:backscatter", pa.string()),
    ("landpatch:boa_offset", pa.string()),
    ("landpatch:boa_offset_reason", pa.string()),
    ("landpatch:boa_offset_seen", pa.string()),
)
"""Item properties in column order, with their Arrow types."""

# Required by the label extension although null: raster labels have no vector properties and no class attribute.
_REQUIRED_NULL = "label:properties"

SCHEMA = pa.schema(
    [
        ("type", pa.string()),
        ("stac_version", pa.string()),
        ("stac_extensions", pa.list_(pa.string())),
        ("id", pa.string()),
        ("geometry", pa.binary()),
        ("bbox", pa.struct([(side, pa.float64()) for side in ("xmin", "ymin", "xmax", "ymax")])),
        ("links", pa.list_(_LINK)),
        (
            "assets",
            pa.struct([*((asset.key, _ASSET) for asset in PATCH_ASSETS), (THUMBNAIL, _THUMBNAIL)]),
        ),
        ("collection", pa.string()),
        *PROPERTIES,
    ]
)
"""Of a part and of ``items.parquet``: the same columns in every dataset, whatever it lacks."""

LINKED_SCHEMA = SCHEMA.set(
    SCHEMA.get_field_index("assets"),
    pa.field(
        "assets",
        pa.struct(
            [*SCHEMA.field("assets").type, *((band.key, _ASSET) for band in BAND_FILES if band not in PATCH_ASSETS)]
        ),
    ),
)
"""SCHEMA with an asset for each file of BigEarthNet's own layout (``B02`` ... ``VH``), for items that only lead to
files which lie elsewhere in that layout: twice the columns, so that no other dataset has them."""


def conformed(table: pa.Table, schema: pa.Schema = SCHEMA) -> pa.Table:
    """The table with the columns and assets of ``schema``: what an earlier version did not know of is null.

    Raises ArrowInvalid for a column of another type.
    """

    def column(field: pa.Field) -> pa.ChunkedArray:
        if field.name not in table.column_names:
            return pa.chunked_array([pa.nulls(table.num_rows, field.type)])
        values = table.column(field.name)
        if field.name == "assets" and values.type != field.type:
            return pa.chunked_array([_assets_as(chunk, field.type) for chunk in values.chunks], field.type)
        return values.cast(field.type)

    return pa.table([column(field) for field in schema], schema=schema)


def _assets_as(assets: pa.StructArray, kind: pa.StructType) -> pa.StructArray:
    there = {field.name for field in assets.type}
    children = [
        assets.field(field.name).cast(field.type) if field.name in there else pa.nulls(len(assets), field.type)
        for field in kind
    ]
    return pa.StructArray.from_arrays(children, fields=list(kind), mask=assets.is_null())


# --- patches of a scene as a table -------------------------------------------------------------------------------


def patch_table(origin: Origin, records: Sequence[PatchRecord]) -> pa.Table:
    """The items of a scene's patches as rows of SCHEMA, in the order of their ids."""
    records = sorted(records, key=lambda record: (record.x, record.y))
    count = len(records)
    scene, grid = origin.scene, origin.grid
    xs = np.array([record.x for record in records], np.int64)
    ys = np.array([record.y for record in records], np.int64)
    radars = [None if record.radar is None else origin.radars[record.radar] for record in records]
    rings = grid.footprints(xs, ys)
    centres = grid.centres(xs, ys)
    splits = [
        record.split or by_position for record, by_position in zip(records, splits_by_position(xs, ys), strict=True)
    ]

    def same(name: str, value: Any) -> pa.Array:
        """A column that holds one value; nested values are built once and repeated."""
        one = pa.array([value], SCHEMA.field(name).type)
        return one.take(pa.array(np.zeros(count, np.int64)))

    def each(name: str, values: Iterable[Any]) -> pa.Array:
        return pa.array(values, SCHEMA.field(name).type)

    kinds = [_Kind(record.radar is not None, THUMBNAIL in record.files, bool(record.files)) for record in records]
    nomenclature = origin.labels.nomenclature if origin.labels else None
    columns: dict[str, pa.Array] = {
        "type": same("type", "Feature"),
        "stac_version": same("stac_version", STAC_VERSION),
        "stac_extensions": _choose(kinds, "stac_extensions", origin),
        "id": each("id", [str(scene.patch(record.x, record.y)) for record in records]),
        "geometry": pa.array(_polygons(rings), pa.binary()),
        "bbox": pa.StructArray.from_arrays(
            [pa.array(corner) for corner in _boxes(rings)], fields=list(SCHEMA.field("bbox").type)
        ),
        "links": _links(origin, [record.radar for record in records]),
        "assets": _assets(origin, records, radars, kinds),
        "collection": same("collection", origin.collection),
        "datetime": same("datetime", origin.sensed),
        "start_datetime": each("start_datetime", [_span(origin, radar)[0] for radar in radars]),
        "end_datetime": each("end_datetime", [_span(origin, radar)[1] for radar in radars]),
        "platform": same("platform", f"sentinel-2{scene.platform[-1].lower()}"),
        "constellation": same("constellation", "sentinel-2"),
        "instruments": _choose(kinds, "instruments", origin),
        "gsd": same("gsd", 10.0),
        "eo:cloud_cover": each("eo:cloud_cover", [_percent(record.cloud) for record in records]),
        "eo:snow_cover": each("eo:snow_cover", [_percent(record.snow) for record in records]),
        "grid:code": same("grid:code", f"MGRS-{scene.tile}"),
        "mgrs:utm_zone": same("mgrs:utm_zone", int(scene.tile[:2])),
        "mgrs:latitude_band": same("mgrs:latitude_band", scene.tile[2]),
        "mgrs:grid_square": same("mgrs:grid_square", scene.tile[3:]),
        "proj:code": same("proj:code", f"EPSG:{grid.epsg}"),
        "processing:level": same("processing:level", "L2A" if scene.level == "MSIL2A" else "L1C"),
        "processing:version": same("processing:version", f"{scene.baseline[:2]}.{scene.baseline[2:]}"),
        "processing:software": same("processing:software", {"landpatch": version("landpatch")}),
        "sat:relative_orbit": same("sat:relative_orbit", scene.orbit),
        **{
            name: same(name, None if nomenclature is None else value)
            for name, value in _label_properties(nomenclature).items()
        },
        "label:properties": same("label:properties", None),
        "ml-aoi:split": each("ml-aoi:split", [split.ml_aoi for split in splits]),
        "landpatch:scene": same("landpatch:scene", str(scene)),
        "landpatch:tile": same("landpatch:tile", scene.tile),
        "landpatch:x": pa.array(xs),
        "landpatch:y": pa.array(ys),
        "landpatch:longitude": pa.array(centres[:, 0]),
        "landpatch:latitude": pa.array(centres[:, 1]),
        "landpatch:season": same("landpatch:season", season_of(origin.sensed, scene.tile)),
        "landpatch:split": each("landpatch:split", [split.value for split in splits]),
        "landpatch:labels": each("landpatch:labels", [list(record.labels) for record in records]),
        "landpatch:label_pixels": each("landpatch:label_pixels", [record.label_pixels for record in records]),
        "landpatch:s1_name": each(
            "landpatch:s1_name",
            [
                None if radar is None else str(radar.name.patch(scene.tile, record.x, record.y))
                for record, radar in zip(records, radars, strict=True)
            ],
        ),
        "landpatch:s1_gap_hours": each("landpatch:s1_gap_hours", [_gap_hours(origin, radar) for radar in radars]),
        "landpatch:backscatter": each(
            "landpatch:backscatter", [None if radar is None else radar.backscatter for radar in radars]
        ),
        "landpatch:boa_offset": same("landpatch:boa_offset", origin.offset and _offset_word(origin.offset)),
        "landpatch:boa_offset_reason": same("landpatch:boa_offset_reason", origin.offset and origin.offset.reason),
        "landpatch:boa_offset_seen": same("landpatch:boa_offset_seen", origin.offset and origin.offset.seen),
    }
    for name in (
        "unlabelled",
        "snow",
        "cloud",
        "shadow",
        "contains_seasonal_snow",
        "contains_cloud_or_shadow",
        "country",
        "s2v1_name",
    ):
        column = f"landpatch:{name}"
        columns[column] = each(column, [getattr(record, name) for record in records])
    return pa.Table.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


@dataclass(frozen=True, slots=True)
class _Kind:
    radar: bool
    thumbnail: bool
    files: bool


def _offset_word(offset: BoaOffset) -> str:
    return "removed" if offset.present else "absent"


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else round(100 * fraction, 4)


def _span(origin: Origin, radar: RadarScene | None) -> tuple[datetime, datetime]:
    times = [origin.sensed, origin.sensed if radar is None else radar.sensed]
    return min(times), max(times)


def _gap_hours(origin: Origin, radar: RadarScene | None) -> float | None:
    """Hours between Sentinel-2 and Sentinel-1, whichever came first."""
    return None if radar is None else round(abs((radar.sensed - origin.sensed).total_seconds()) / 3600, 4)


def _extensions(origin: Origin, radar: bool, files: bool) -> list[str]:
    names = [*(name for name in _ALWAYS if files or name not in _OF_FILES)]
    names += ["sar/v1.3.0"] if radar and files else []
    names += ["label/v1.0.1"] if origin.labels else []
    return [_EXTENSION.format(name) for name in sorted(names)]


def _choose(kinds: Sequence["_Kind"], name: str, origin: Origin) -> pa.Array:
    """A column with one of four nested values: for patches without and with Sentinel-1, without and with files."""
    if name == "instruments":
        values: list[Any] = [["msi"], ["msi", "c-sar"]] * 2
    else:
        values = [_extensions(origin, radar, files) for files in (False, True) for radar in (False, True)]
    index = [kind.radar + 2 * kind.files for kind in kinds]
    return pa.array(values, SCHEMA.field(name).type).take(pa.array(np.array(index, np.int64)))


def _label_properties(nomenclature: Nomenclature | None) -> dict[str, Any]:
    classes = list(nomenclature.classes) if nomenclature else []
    return {
        "label:type": "raster",
        "label:tasks": ["segmentation", "classification"],
        "label:methods": ["automated"],
        "label:description": "Land cover: one code a pixel in the reference map, the classes present as multi-labels",
        "label:classes": [{"name": None, "classes": classes}],
    }


_Rings = np.ndarray[Any, np.dtype[np.float64]]


def _polygons(rings: _Rings) -> list[bytes]:
    """Well-known binary (little-endian) of one closed ring each; ``rings`` has shape (n, 5, 2).

    What crosses the antimeridian becomes two polygons, one on each side (RFC 7946, 3.1.9).
    """
    head = np.zeros(1, [("order", "u1"), ("kind", "<u4"), ("rings", "<u4"), ("points", "<u4")])
    head["order"], head["kind"], head["rings"], head["points"] = 1, 3, 1, rings.shape[1]
    start = head.tobytes()
    polygons = [start + ring.tobytes() for ring in np.ascontiguousarray(rings, "<f8")]
    for row in np.flatnonzero(_crossing(rings)):
        polygons[row] = _two_polygons(rings[row])
    return polygons


def _boxes(rings: _Rings) -> tuple[_Rings, ...]:
    """West, south, east, north of each ring; west > east across the antimeridian (RFC 7946, 5.2)."""
    longitude, latitude = rings[:, :, 0], rings[:, :, 1]
    crossing = _crossing(rings)[:, None]
    west = np.where(crossing & (longitude < 0), 180, longitude).min(axis=1)
    east = np.where(crossing & (longitude > 0), -180, longitude).max(axis=1)
    return west, latitude.min(axis=1), east, latitude.max(axis=1)


def _crossing(rings: _Rings) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rings cross the antimeridian: no patch is 180 degrees wide."""
    return np.asarray(np.ptp(rings[:, :, 0], axis=1) > 180)


def _two_polygons(ring: _Rings) -> bytes:
    import shapely
    from shapely.geometry.polygon import orient

    longitude = np.where(ring[:, 0] < 0, ring[:, 0] + 360, ring[:, 0])
    whole = shapely.Polygon(np.stack([longitude, ring[:, 1]], axis=1))
    east = whole.intersection(shapely.box(0, -90, 180, 90))
    west = shapely.transform(whole.intersection(shapely.box(180, -90, 360, 90)), lambda points: points - [360, 0])
    both = shapely.MultiPolygon([orient(east), orient(west)])
    binary: bytes = shapely.to_wkb(both, byte_order=1)
    return binary


def _links(origin: Origin, radars: Sequence[int | None]) -> pa.Array:
    choices = []
    for radar in (None, *origin.radars):
        links = [
            {"rel": "collection", "href": "collection.json", "type": "application/json"},
            _derived_from(origin.optical_item, "Sentinel-2 scene", "feature"),
        ]
        if radar is not None:
            links.append(_derived_from(radar.item_id, "Sentinel-1 scene", "feature"))
        if origin.labels is not None:
            links.append(_derived_from(origin.labels.item_id, "Label source", "label"))
        choices.append(links)
    index = np.array([0 if radar is None else radar + 1 for radar in radars], np.int64)
    return pa.array(choices, SCHEMA.field("links").type).take(pa.array(index))


def _derived_from(item_id: str, title: str, role: str) -> dict[str, str]:
    return {
        "rel": "derived_from",
        "href": scene_item_href(item_id),
        "type": "application/geo+json",
        "title": f"{title} {item_id}",
        "ml-aoi:role": role,
    }


def _assets(
    origin: Origin,
    records: Sequence[PatchRecord],
    radars: Sequence[RadarScene | None],
    kinds: Sequence[_Kind],
) -> pa.Array:
    fields = SCHEMA.field("assets").type
    children = []
    hrefs = [
        patch_hrefs(origin.scene, record.x, record.y, radar) for record, radar in zip(records, radars, strict=True)
    ]
    corners = [origin.grid.corner(record.x, record.y) for record in records]
    for asset in PATCH_ASSETS:
        here = [asset.key in record.files for record in records]
        if not any(here):
            children.append(pa.nulls(len(records), _ASSET))
            continue
        values: dict[str, Sequence[Any]] = {
            "href": [paths[asset.key] if there else None for paths, there in zip(hrefs, here, strict=True)],
            "datetime": [rfc3339(radar.sensed) if asset is S1 and radar else None for radar in radars],
            "proj:transform": [[asset.resolution, 0, left, 0, -asset.resolution, top] for left, top in corners],
            "file:size": [record.files[asset.key][0] if asset.key in record.files else None for record in records],
            "file:checksum": [
                multihash(record.files[asset.key][1]) if asset.key in record.files else None for record in records
            ],
        }
        children.append(_struct(_ASSET, values, _asset_constants(asset), here))
    here = [kind.thumbnail for kind in kinds]
    if not any(here):
        return pa.StructArray.from_arrays([*children, pa.nulls(len(records), _THUMBNAIL)], fields=list(fields))
    values = {
        "href": [paths[THUMBNAIL] for paths in hrefs],
        "file:size": [
            record.files[THUMBNAIL][0] if there else None for record, there in zip(records, here, strict=True)
        ],
        "file:checksum": [
            multihash(record.files[THUMBNAIL][1]) if there else None
            for record, there in zip(records, here, strict=True)
        ],
    }
    constants = {"type": "image/png", "title": "True colour", "roles": ["thumbnail"]}
    children.append(_struct(_THUMBNAIL, values, constants, here))
    return pa.StructArray.from_arrays(children, fields=list(fields))


def _struct(
    kind: pa.StructType, values: Mapping[str, Sequence[Any]], constants: Mapping[str, Any], here: Sequence[bool]
) -> pa.StructArray:
    """A struct column: per-row ``values``, ``constants`` repeated, null where not ``here``."""
    zeros = pa.array(np.zeros(len(here), np.int64))
    children = [
        pa.array(values[field.name], field.type)
        if field.name in values
        else pa.array([constants.get(field.name)], field.type).take(zeros)
        for field in kind
    ]
    return pa.StructArray.from_arrays(
        children, fields=list(kind), mask=pa.array([not there for there in here], pa.bool_())
    )


def linked_table(table: pa.Table, base: str) -> pa.Table:
    """The rows of SCHEMA, with an asset (LINKED_SCHEMA) for every file that BigEarthNet's own layout has of a patch.

    Hrefs are ``<base>/<tree>/<scene>/<name>/<name>_<band>.tif`` (``official_layout``); nothing is known of size and
    checksum. Patches without a Sentinel-1 name have no such files.
    """
    base = base.rstrip("/")
    patches = [PatchId.parse(name) for name in table.column("id").to_pylist()]
    radars = [name and RadarPatchName.parse(name) for name in table.column("landpatch:s1_name").to_pylist()]
    grids = {tile: TileGrid.from_tile(tile) for tile in table.column("landpatch:tile").unique().to_pylist()}
    children = {}
    for band in BAND_FILES:
        radar = band.planes[0] in S1.planes
        here = [found is not None or not radar for found in radars]
        places = [grids[patch.scene.tile].corner(patch.x, patch.y) for patch in patches]
        values: dict[str, Sequence[Any]] = {
            "href": [
                f"{base}/{official_stem(band, patch, name)}{band.suffix}.tif" if there else None
                for patch, name, there in zip(patches, radars, here, strict=True)
            ],
            "datetime": [rfc3339(name.scene.start) if radar and name else None for name in radars],
            "proj:transform": [[band.resolution, 0, left, 0, -band.resolution, top] for left, top in places],
            "file:size": [None] * len(patches),
            "file:checksum": [None] * len(patches),
        }
        children[band.key] = _struct(_ASSET, values, _asset_constants(band), here)
    kind = LINKED_SCHEMA.field("assets").type
    assets = pa.StructArray.from_arrays(
        [children.get(field.name, pa.nulls(len(patches), field.type)) for field in kind], fields=list(kind)
    )
    extensions = [
        sorted({*urls, *map(_EXTENSION.format, ("eo/v2.0.0", "raster/v2.0.0", *(["sar/v1.3.0"] if radar else [])))})
        for urls, radar in zip(table.column("stac_extensions").to_pylist(), radars, strict=True)
    ]
    columns = {"assets": assets, "stac_extensions": pa.array(extensions, pa.list_(pa.string()))}
    return pa.table([columns.get(name, table.column(name)) for name in LINKED_SCHEMA.names], schema=LINKED_SCHEMA)


def multihash(sha256: str) -> str:
    """A sha-256 (64 hex digits) as the multihash that ``file:checksum`` wants: code 0x12, length 0x20."""
    return f"1220{sha256}"


def _asset_constants(asset: PatchAsset) -> dict[str, Any]:
    radar = asset.planes[0] in S1.planes
    values: dict[str, Any] = {
        "type": COG_TYPE if asset in PATCH_ASSETS else "image/tiff; application=geotiff",
        "title": _TITLES.get(asset.key) or f"Sentinel-{1 if radar else 2} {asset.key}",
        "roles": list(_ROLES.get(asset.key) or (_ROLES["S1"] if radar else _ROLES["S2_10m"])),
        "bands": [_band(name) for name in asset.planes],
        "data_type": asset.dtype,
        "nodata": asset.nodata,
        "proj:shape": [asset.pixels, asset.pixels],
        "raster:spatial_resolution": asset.resolution,
        "ml-aoi:role": "label" if asset is REFERENCE_MAP else "feature",
    }
    if radar:
        values |= {
            "unit": "dB",
            "sar:polarizations": list(asset.planes),
            "sar:instrument_mode": "IW",
            "sar:frequency_band": "C",
        }
    return values


_TITLES = {
    "S2_10m": "Sentinel-2, 10 m: B02 B03 B04 B08",
    "S2_20m": "Sentinel-2, 20 m: B05 B06 B07 B8A B11 B12",
    "S2_60m": "Sentinel-2, 60 m: B01 B09",
    "S1": "Sentinel-1 backscatter, dB: VV VH",
    "reference_map": "Reference map: land-cover codes",
}
_ROLES = {
    "S2_10m": ("data", "reflectance"),
    "S2_20m": ("data", "reflectance"),
    "S2_60m": ("data", "reflectance"),
    "S1": ("data",),
    "reference_map": ("data", "labels", "labels-raster"),
}


def _band(name: str) -> dict[str, Any]:
    band = optical_bands().get(name)
    if band is None:
        return {"name": name}
    return {
        "name": name,
        "eo:common_name": band.common_name,
        "eo:center_wavelength": band.center_wavelength,
    }


# --- rows as items -----------------------------------------------------------------------------------------------


def item_from_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of SCHEMA (as ``Table.to_pylist`` gives it) as a STAC item: plain JSON values, absent fields left out.

    Hrefs stay as they are: relative to the dataset's root.
    """
    import shapely

    properties = {}
    for name, _ in PROPERTIES:
        value = row[name]
        if isinstance(value, datetime):
            properties[name] = rfc3339(value)
        elif value is not None:
            properties[name] = value if name == "label:classes" else without_nulls(value)
    if "label:type" in properties:
        properties[_REQUIRED_NULL] = row[_REQUIRED_NULL]
    bbox = row["bbox"]
    geometry = orjson.loads(shapely.to_geojson(shapely.from_wkb(row["geometry"])))
    return {
        "type": "Feature",
        "stac_version": row["stac_version"],
        "stac_extensions": row["stac_extensions"],
        "id": row["id"],
        "geometry": geometry,
        "bbox": [bbox["xmin"], bbox["ymin"], bbox["xmax"], bbox["ymax"]],
        "properties": properties,
        "links": [without_nulls(link) for link in row["links"]],
        "assets": {key: _asset_from_row(asset) for key, asset in row["assets"].items() if asset is not None},
        "collection": row["collection"],
    }


def items(table: pa.Table) -> Iterator[dict[str, Any]]:
    """All rows of a table as STAC items, a batch at a time."""
    for batch in table.to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            yield item_from_row(row)


def table_from_items(documents: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The reverse of ``items``: rows of SCHEMA from items as their JSON says; what SCHEMA does not have is left out.

    Raises InvalidItem, naming the first item that cannot be such a row.
    """
    import shapely

    wrong = (
        pa.ArrowException,
        shapely.GEOSException,
        ArithmeticError,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
    )
    try:
        return pa.Table.from_pylist([_row(document) for document in documents], schema=SCHEMA)
    except wrong as error:
        if len(documents) == 1:
            raise InvalidItem(
                f"item {documents[0].get('id')!r} is no patch item of landpatch: {type(error).__name__}: {error}"
            ) from error
        return pa.concat_tables(table_from_items([document]) for document in documents)


def _row(document: Mapping[str, Any]) -> dict[str, Any]:
    import shapely

    properties = document["properties"]
    values: dict[str, Any] = {name: properties.get(name) for name, _ in PROPERTIES}
    for name, kind in PROPERTIES:
        if kind == _TIME and values[name] is not None:
            moment = datetime.fromisoformat(values[name])
            values[name] = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    geometry = shapely.from_geojson(orjson.dumps(document["geometry"]))
    west, south, east, north = document["bbox"]
    return {
        **values,
        **{name: document.get(name) for name in ("type", "stac_version", "stac_extensions", "id", "collection")},
        "geometry": shapely.to_wkb(geometry, byte_order=1, output_dimension=2),
        "bbox": {"xmin": west, "ymin": south, "xmax": east, "ymax": north},
        "links": document["links"],
        "assets": document["assets"],
    }


def without_nulls(value: Any) -> Any:
    """A JSON value without the members of objects that are null."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [without_nulls(inner) for inner in value]
    return value


def _asset_from_row(asset: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = without_nulls(dict(asset))
    if "nodata" in plain:  # a column of doubles; the file's nodata is an integer
        plain["nodata"] = int(plain["nodata"])
    return plain


def rfc3339(moment: datetime) -> str:
    """A moment in UTC as STAC writes it."""
    text = moment.astimezone(UTC).isoformat(timespec="microseconds" if moment.microsecond else "seconds")
    return text.replace("+00:00", "Z")


# --- label item and collection -----------------------------------------------------------------------------------


def label_item(
    item_id: str,
    title: str,
    href: str,
    bounds: tuple[float, float, float, float],
    nomenclature: Nomenclature,
) -> dict[str, Any]:
    """The item of a label source, which patches are ``derived_from``; ``bounds`` in degrees (west, south, east,
    north).

    Its ``datetime`` is null: land cover such as CORINE's describes years, which the source's own documents tell.
    """
    west, south, east, north = bounds
    vector = href.endswith(".parquet")
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [_EXTENSION.format("label/v1.0.1")],
        "id": item_id,
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[west, south], [east, south], [east, north], [west, north], [west, south]]],
        },
        "bbox": [west, south, east, north],
        "properties": {
            "title": title,
            "datetime": None,
            # STAC wants a range where there is no instant: CORINE's first and the calendar's last year.
            "start_datetime": "1990-01-01T00:00:00Z",
            "end_datetime": "9999-12-31T23:59:59Z",
            "label:type": "vector" if vector else "raster",
            "label:properties": ["code"] if vector else None,
            "label:classes": [{"name": "code" if vector else None, "classes": list(nomenclature.classes)}],
            "label:description": f"Land-cover source of the reference maps, nomenclature {nomenclature.name}",
            "label:tasks": ["segmentation", "classification"],
        },
        "links": [],
        "assets": {
            "labels": {
                "href": href,
                "type": PARQUET_TYPE if vector else COG_TYPE,
                "title": title,
                "roles": ["labels", "labels-vector" if vector else "labels-raster"],
            }
        },
    }


_COUNTED = {
    "labels": "landpatch:labels",
    "splits": "landpatch:split",
    "tiles": "landpatch:tile",
    "countries": "landpatch:country",
    "seasons": "landpatch:season",
    "platforms": "platform",
    "codes": "proj:code",
}
_FLAGS = ("contains_seasonal_snow", "contains_cloud_or_shadow")


@dataclass
class Summary:
    """What a collection says of all its patches together; grows with ``add``."""

    patches: int = 0
    bbox: tuple[float, float, float, float] | None = None
    first: datetime | None = None
    last: datetime | None = None
    counts: dict[str, dict[str, int]] = field(
        default_factory=lambda: {key: {} for key in (*_COUNTED, "flags", "assets")}
    )

    def add(self, table: pa.Table) -> None:
        """Take the rows of a table of SCHEMA in."""
        import pyarrow.compute as pc

        if table.num_rows == 0:
            return
        self.patches += table.num_rows
        box = table.column("bbox").combine_chunks()
        sides = [box.field(name) for name in ("xmin", "ymin", "xmax", "ymax")]
        crossing = pc.greater(sides[0], sides[2])  # a patch on the antimeridian lies on both its sides
        sides[0] = pc.if_else(crossing, -180.0, sides[0])
        sides[2] = pc.if_else(crossing, 180.0, sides[2])
        found = (
            pc.min(sides[0]).as_py(),
            pc.min(sides[1]).as_py(),
            pc.max(sides[2]).as_py(),
            pc.max(sides[3]).as_py(),
        )
        self.bbox = found if self.bbox is None else _union(self.bbox, found)
        first = pc.min(table.column("start_datetime")).as_py()
        last = pc.max(table.column("end_datetime")).as_py()
        self.first = first if self.first is None else min(self.first, first)
        self.last = last if self.last is None else max(self.last, last)
        for key, name in _COUNTED.items():
            column = table.column(name)
            column = pc.list_flatten(column) if pa.types.is_list(column.type) else column
            for entry in pc.value_counts(column.drop_null()).to_pylist():
                self._count(key, entry["values"], entry["counts"])
        for flag in _FLAGS:
            self._count("flags", flag, pc.sum(table.column(f"landpatch:{flag}")).as_py() or 0)
        for asset in table.schema.field("assets").type:
            there = pc.sum(pc.is_valid(pc.struct_field(table.column("assets"), asset.name))).as_py()
            self._count("assets", asset.name, there or 0)

    def _count(self, key: str, word: str, count: int) -> None:
        self.counts[key][word] = self.counts[key].get(word, 0) + count


def _union(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    return (
        min(one[0], other[0]),
        min(one[1], other[1]),
        max(one[2], other[2]),
        max(one[3], other[3]),
    )


def collection_document(
    collection: str,
    summary: Summary,
    *,
    nomenclature: Nomenclature | None,
    dropped: Mapping[str, int],
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The dataset's STAC collection: extents, summaries with counts, ``item_assets``, the parquet mirror.

    ``dropped`` counts the patches that are not there, by reason. ``about`` has what is said of a dataset that
    somebody else made: title, description, keywords, license, providers, ``sci:*``, and links in place of ours.
    """
    known = {asset.key: asset for asset in (*PATCH_ASSETS, *BAND_FILES)}.values()
    there = [asset for asset in known if summary.counts["assets"].get(asset.key)]
    assets = {
        asset.key: {
            **{
                key: value
                for key, value in _asset_constants(asset).items()
                if value is not None and key not in ("proj:shape",)
            },
            **(_classification(nomenclature) if asset is REFERENCE_MAP and nomenclature else {}),
        }
        for asset in (there if summary.patches else PATCH_ASSETS)
        if asset is not REFERENCE_MAP or nomenclature is not None
    }
    bbox = list(summary.bbox) if summary.bbox else [-180.0, -90.0, 180.0, 90.0]
    interval = [rfc3339(moment) if moment else None for moment in (summary.first, summary.last)]
    names = ["ml-aoi/v0.2.0", "projection/v2.0.0"]
    pictures = {name: one for name, one in renders(nomenclature).items() if set(one["assets"]) <= assets.keys()}
    if assets:
        names += ["raster/v2.0.0", "sar/v1.3.0"]
    if any(asset.key in assets for asset in OPTICAL_ASSETS):  # eo's schema wants one of its fields
        names.append("eo/v2.0.0")
    if pictures:
        names.append("render/v2.0.0")
    if nomenclature is not None and assets:
        names.append("classification/v1.1.0")
    document: dict[str, Any] = {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "stac_extensions": [_EXTENSION.format(name) for name in sorted(names)],
        "id": collection,
        "title": "Land-cover patches of Sentinel-1 and Sentinel-2",
        "description": (
            "Pairs of Sentinel-1 and Sentinel-2 patches of 1200 m with reference map, multi-labels and a split into "
            "train, validation and test, made by landpatch after the rules of BigEarthNet v2.0 "
            "(Clasen et al. 2025, arXiv:2407.03653)."
        ),
        "keywords": ["Sentinel-1", "Sentinel-2", "land cover", "multi-label", "segmentation"],
        # Pixels: Copernicus' own free and open terms, which have no SPDX identifier.
        "license": "other",
        "providers": [
            {
                "name": "European Union, Copernicus",
                "description": "Contains modified Copernicus Sentinel data",
                "roles": ["producer", "licensor"],
                "url": "https://www.copernicus.eu",
            }
        ],
        "extent": {"spatial": {"bbox": [bbox]}, "temporal": {"interval": [interval]}},
        "summaries": _filled(
            {
                "platform": sorted(summary.counts["platforms"]),
                "instruments": ["msi", "c-sar"],
                "gsd": [10.0],
                "proj:code": sorted(summary.counts["codes"]),
                "grid:code": [f"MGRS-{tile}" for tile in sorted(summary.counts["tiles"])],
                "ml-aoi:split": sorted(Split(split).ml_aoi for split in summary.counts["splits"]),
                "landpatch:split": sorted(summary.counts["splits"]),
                "landpatch:labels": sorted(summary.counts["labels"]),
                "landpatch:country": sorted(summary.counts["countries"]),
                "landpatch:season": sorted(summary.counts["seasons"]),
            }
        ),
        **({"item_assets": assets} if assets else {}),
        **({"renders": pictures} if pictures else {}),
        "assets": {
            "items": {
                "href": "items.parquet",
                "type": PARQUET_TYPE,
                "title": "All items as stac-geoparquet",
                "roles": ["collection-mirror"],
            },
            "metadata": {
                "href": "metadata.parquet",
                "type": PARQUET_TYPE,
                "title": "Metadata table of BigEarthNet v2.0: patches without snow, cloud or shadow",
                "roles": ["metadata"],
            },
            "metadata_flagged": {
                "href": "metadata_for_patches_with_snow_cloud_or_shadow.parquet",
                "type": PARQUET_TYPE,
                "title": "Metadata table of BigEarthNet v2.0: patches with snow, cloud or shadow",
                "roles": ["metadata"],
            },
        },
        "links": [
            {"rel": "root", "href": "collection.json", "type": "application/json"},
            {
                "rel": "license",
                "href": "https://sentinel.esa.int/documents/247904/690755/Sentinel_Data_Legal_Notice",
                "type": "application/pdf",
                "title": "Legal notice on the use of Copernicus Sentinel data",
            },
        ],
        "landpatch:patches": summary.patches,
        "landpatch:counts": {
            "labels": dict(sorted(summary.counts["labels"].items())),
            "splits": dict(sorted(summary.counts["splits"].items())),
            "tiles": dict(sorted(summary.counts["tiles"].items())),
            "countries": dict(sorted(summary.counts["countries"].items())),
            "seasons": dict(sorted(summary.counts["seasons"].items())),
            "flags": dict(sorted(summary.counts["flags"].items())),
        },
        "landpatch:dropped": dict(sorted(dropped.items())),
    }
    if nomenclature is not None:
        document["landpatch:nomenclature"] = nomenclature.to_document()
    if about is not None:
        document |= {
            **about,
            "links": [*(link for link in document["links"] if link["rel"] == "root"), *about["links"]],
        }
        names += ["scientific/v1.0.0"] if "sci:citation" in about else []
        document["stac_extensions"] = [_EXTENSION.format(name) for name in sorted(names)]
    return document


ABOUT = ("title", "description", "keywords", "license", "providers", "sci:doi", "sci:citation", "sci:publications")
"""What a collection says of who made it and on what terms; the rest speaks of its own items."""
ABOUT_LINKS = ("license", "cite-as", "about", "describedby")


def about_of(collection: Mapping[str, Any]) -> dict[str, Any]:
    """A collection's ABOUT and its links of these kinds, as ``collection_document`` takes them."""
    links = [link for link in collection["links"] if link["rel"] in ABOUT_LINKS]
    return {**{key: collection[key] for key in ABOUT if key in collection}, "links": links}


def _filled(summaries: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Without the empty lists, which STAC does not allow in summaries."""
    return {name: values for name, values in summaries.items() if values}


def _classification(nomenclature: Nomenclature) -> dict[str, Any]:
    codes = {code.code: code for code in nomenclature.codes}
    classes = [
        {
            "value": code.code,
            "name": _identifier(code.name),
            "title": code.name,
            "description": f"{code.name} ({code.class_name or 'no class'})",
            "color_hint": "".join(f"{part:02X}" for part in code.colour),
        }
        for _, code in sorted(codes.items())
    ]
    classes.append(
        {"value": UNLABELLED, "name": "unlabelled", "title": "Unlabelled", "description": "No polygon here"}
    )
    return {"classification:classes": classes}


def _identifier(text: str) -> str:
    """The extension's class name: letters, digits, ``-`` and ``_`` only."""
    words = "".join(letter if letter.isascii() and letter.isalnum() else " " for letter in text).split()
    return "-".join(words).lower() or "class"


def _geometry_types(collection: Mapping[str, Any] | None) -> list[str]:
    """What GeoParquet declares; nothing (unknown) in a part. Readers take it at its word: rustac makes a
    MultiPolygon of every Polygon where both are declared.
    """
    if collection is None or "extent" not in collection:
        return []
    west, _, east, _ = collection["extent"]["spatial"]["bbox"][0]
    return ["MultiPolygon", "Polygon"] if (west, east) == (-180, 180) else ["Polygon"]


def parquet_metadata(collection: Mapping[str, Any] | None) -> dict[bytes, bytes]:
    """File metadata that makes a Parquet file of SCHEMA stac-geoparquet 1.1 and GeoParquet 1.1.

    ``collection`` is the whole collection document (None: leave it out, in parts, which are no catalogue yet).
    """
    geo = {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {
            "geometry": {
                "encoding": "WKB",
                "geometry_types": _geometry_types(collection),
                "covering": {"bbox": {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}},
            }
        },
    }
    stac: dict[str, Any] = {"version": GEOPARQUET_METADATA_VERSION}
    if collection is not None:
        stac["collections"] = {collection["id"]: collection}
    return {
        b"geo": orjson.dumps(geo, option=orjson.OPT_SORT_KEYS),
        b"stac-geoparquet": orjson.dumps(stac, option=orjson.OPT_SORT_KEYS),
    }
