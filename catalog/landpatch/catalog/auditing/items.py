"""Whether the items of a dataset say the truth about names, ground, pixels' lattice, labels and split.

Everything is compared with the rules of the grid, never with the files: those are another matter (``files``).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from landpatch.catalog.auditing.findings import Findings, Kind
from landpatch.catalog.bands import PATCH_ASSETS, S1, PatchAsset
from landpatch.catalog.errors import InvalidItem
from landpatch.catalog.footprints import footprint
from landpatch.catalog.grid import PATCH_METRES, TileGrid
from landpatch.catalog.items import LINKED_SCHEMA
from landpatch.catalog.names import SceneId
from landpatch.catalog.nomenclature import Nomenclature
from landpatch.catalog.official_layout import BAND_FILES
from landpatch.catalog.splits import SPLITS, Split, by_position

# Degrees are written with all their digits; a millimetre is 1e-8 of them.
_DEGREES = 1e-7
# A drawn footprint may be off by what projections differ, not by a pixel.
_METRES = 1.0


def check_items(table: pa.Table, findings: Findings, *, nomenclature: Nomenclature | None, positional: bool) -> None:
    """Rows of ``items.parquet`` whose ids can be read. ``positional``: the splits are those of the position."""
    rows = _Rows.of(table)
    _names(rows, findings)
    _footprints(rows, findings)
    assets = table.column("assets").combine_chunks()
    for asset in dict.fromkeys((*PATCH_ASSETS, *BAND_FILES)):
        if asset.key in {field.name for field in assets.type}:
            _lattice(rows, asset, assets.field(asset.key), findings)
    if assets.type == LINKED_SCHEMA.field("assets").type:
        for band in BAND_FILES:
            _leads_to(rows, band, pc.struct_field(assets.field(band.key), "href"), findings)
    _labels(rows, findings, nomenclature)
    _splits(rows, findings, positional)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of the table, and what their ids mean."""

    table: pa.Table
    ids: list[str]
    scenes: list[SceneId]
    x: NDArray[np.int64]
    y: NDArray[np.int64]
    corners: NDArray[np.int64]
    """Upper left, metres of their zones; shape (rows, 2)."""

    @classmethod
    def of(cls, table: pa.Table) -> "_Rows":
        ids = table.column("id").to_pylist()
        x, y = (np.array([int(text[part]) for text in ids], np.int64) for part in (slice(-5, -3), slice(-2, None)))
        scenes = [_scene(text[:-6]) for text in ids]
        origins = np.array([(grid.ulx, grid.uly) for grid in (_grid(scene.tile) for scene in scenes)], np.int64)
        corners = origins.reshape(-1, 2) + PATCH_METRES * np.stack([x, -y], axis=-1)
        return cls(table, ids, scenes, x, y, corners)


@lru_cache(maxsize=4096)
def _scene(text: str) -> SceneId:
    return SceneId.parse(text)


@lru_cache(maxsize=4096)
def _grid(tile: str) -> TileGrid:
    return TileGrid.from_tile(tile)


def _names(rows: _Rows, findings: Findings) -> None:
    grids = [_grid(scene.tile) for scene in rows.scenes]
    expected: dict[str, Iterable[Any]] = {
        "landpatch:scene": map(str, rows.scenes),
        "landpatch:tile": (scene.tile for scene in rows.scenes),
        "landpatch:x": rows.x.tolist(),
        "landpatch:y": rows.y.tolist(),
        "grid:code": (f"MGRS-{scene.tile}" for scene in rows.scenes),
        "proj:code": (f"EPSG:{grid.epsg}" for grid in grids),
    }
    for name, values in expected.items():
        column = rows.table.column(name).combine_chunks()
        wanted = pa.array(list(values), column.type)
        wrong = pc.fill_null(pc.not_equal(column, wanted), True)
        kind = Kind.PROJECTION if name == "proj:code" else Kind.NAME
        for row in np.flatnonzero(wrong.to_numpy(zero_copy_only=False)).tolist():
            findings.add(
                kind,
                f"{name} is {column[row].as_py()!r}, its id means {wanted[row].as_py()!r}: build it again",
                patch=rows.ids[row],
            )


def _footprints(rows: _Rows, findings: Findings) -> None:
    shapes = shapely.from_wkb(rows.table.column("geometry").to_numpy(), on_invalid="ignore")
    tiles = np.array([scene.tile for scene in rows.scenes])
    expected = np.empty((len(rows.ids), 5, 2))
    for tile in np.unique(tiles):
        here = tiles == tile
        expected[here] = _grid(str(tile)).footprints(rows.x[here], rows.y[here])
    squares = shapely.polygons(expected)
    for row in np.flatnonzero(~shapely.equals_exact(shapes, squares, tolerance=_DEGREES)).tolist():
        problem = _displaced(shapes[row], rows.scenes[row].tile, int(rows.x[row]), int(rows.y[row]))
        if problem:
            findings.add(Kind.FOOTPRINT, problem, patch=rows.ids[row])
    box = rows.table.column("bbox").combine_chunks()
    sides = np.stack([box.field(side).to_numpy(zero_copy_only=False) for side in ("xmin", "ymin", "xmax", "ymax")])
    bounds = shapely.bounds(shapes).T
    crossing = sides[0] > sides[2]  # RFC 7946, 5.2: the geometry is then two pieces, whose bounds are all the world
    bounds[[0, 2]] = np.where(crossing & (bounds[0] == -180), sides[[0, 2]], bounds[[0, 2]])
    for row in np.flatnonzero(~(np.abs(sides - bounds) <= _DEGREES).all(axis=0)).tolist():
        if shapes[row] is not None:
            findings.add(
                Kind.FOOTPRINT,
                f"bbox {sides[:, row].tolist()} is not of its geometry, {bounds[:, row].tolist()}: build it again",
                patch=rows.ids[row],
            )


def _displaced(shape: Any, tile: str, x: int, y: int) -> str:
    """What is wrong with a footprint that is not drawn as ours are; empty if it is the same square all the same."""
    try:
        document = orjson.loads(shapely.to_geojson(shape)) if shape is not None else None
        found = footprint({"id": "", "geometry": document}, tile)
    except InvalidItem:
        return "its geometry cannot be read as an area: build it again"
    square = shapely.box(*_grid(tile).bounds(x, y))
    if found.is_empty:
        return f"its footprint does not lie near tile {tile} at all: build it again"
    if shapely.hausdorff_distance(found, square) <= _METRES:
        return ""
    west, south, east, north = shapely.bounds(found)
    away = float(shapely.distance(shapely.centroid(found), shapely.centroid(square)))
    return (
        f"its footprint is {east - west:,.0f} x {north - south:,.0f} m and lies {away:,.0f} m off: its id means "
        f"{PATCH_METRES} m at {square.bounds[0]:.0f}, {square.bounds[3]:.0f} of tile {tile}; build it again"
    )


def _lattice(rows: _Rows, asset: PatchAsset, column: pa.StructArray, findings: Findings) -> None:
    """What the item says of a file: shape, transform, type and names of its bands."""
    here = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    if not len(here):
        return
    entries = column.take(pa.array(here))
    wanted = np.zeros((len(here), 6))
    wanted[:, 0], wanted[:, 4] = asset.resolution, -asset.resolution
    wanted[:, [2, 5]] = rows.corners[here]
    shape = np.full((len(here), 2), float(asset.pixels))
    for name, values in (("proj:transform", wanted), ("proj:shape", shape)):
        found = _numbers(entries.field(name), values.shape[1])
        for row in np.flatnonzero(~(found == values).all(axis=1)).tolist():
            findings.add(
                Kind.PROJECTION,
                f"{asset.key} {name} is {entries.field(name)[row].as_py()}, the grid has "
                f"{[float(value) for value in values[row]]}: build it again",
                patch=rows.ids[here[row]],
            )
    bands = entries.field("bands")
    names = pa.ListArray.from_arrays(
        pa.array(_offsets(bands), pa.int32()), pc.struct_field(pc.list_flatten(bands), "name")
    )
    for name, values, right in (
        ("data_type", entries.field("data_type"), asset.dtype),
        ("bands", pc.binary_join(names, " "), " ".join(asset.planes)),
    ):
        wrong = pc.fill_null(pc.not_equal(values, right), True).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(wrong).tolist():
            findings.add(
                Kind.PROJECTION,
                f"{asset.key} {name}: {values[row].as_py()!r} where it has {right!r}: build it again",
                patch=rows.ids[here[row]],
            )


def _leads_to(rows: _Rows, band: PatchAsset, hrefs: pa.Array, findings: Findings) -> None:
    """Whether links lead to the patch's own file in BigEarthNet's layout, wherever that tree lies."""
    radar = band.planes[0] in S1.planes
    names = rows.table.column("landpatch:s1_name").to_pylist() if radar else rows.ids
    for patch, name, href in zip(rows.ids, names, hrefs.to_pylist(), strict=True):
        if href is None:
            continue
        scene = (name or "").rsplit("_", 3 if radar else 2)[0]
        if not href.endswith(f"/{scene}/{name}/{name}{band.suffix}.tif"):
            text = f"{band.key} leads to {href}, which is not the {band.key} of {name or 'anything'}: import it again"
            findings.add(Kind.LINK, text, patch=patch)


def _offsets(lists: pa.Array) -> NDArray[np.int32]:
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def _numbers(lists: pa.Array, width: int) -> NDArray[np.float64]:
    """Lists of ``width`` numbers as rows; NaN where a list has another length."""
    rows = np.full((len(lists), width), np.nan)
    fit = pc.fill_null(pc.equal(pc.list_value_length(lists), width), False)
    numbers = pc.list_flatten(lists.filter(fit)).cast(pa.float64()).to_numpy(zero_copy_only=False)
    rows[fit.to_numpy(zero_copy_only=False)] = numbers.reshape(-1, width)
    return rows


def _labels(rows: _Rows, findings: Findings, nomenclature: Nomenclature | None) -> None:
    known = set(nomenclature.classes) if nomenclature else set()
    labels = rows.table.column("landpatch:labels").combine_chunks()
    pixels = rows.table.column("landpatch:label_pixels").combine_chunks()
    joined = pc.binary_join(labels, "\n").dictionary_encode()
    problems = [
        _label_problem((text or "").split("\n") if text else [], known) for text in joined.dictionary.to_pylist()
    ]
    if any(problems):
        for row, code in enumerate(joined.indices.to_pylist()):
            if code is not None and problems[code]:
                findings.add(Kind.LABELS, problems[code], patch=rows.ids[row])
    counted = pc.fill_null(pc.list_value_length(pixels), -1)
    differ = pc.and_(
        pc.not_equal(counted, pc.fill_null(pc.list_value_length(labels), -1)), pc.greater_equal(counted, 0)
    )
    for row in np.flatnonzero(differ.to_numpy(zero_copy_only=False)).tolist():
        findings.add(
            Kind.LABELS,
            "has not as many landpatch:label_pixels as landpatch:labels: build it again",
            patch=rows.ids[row],
        )


def _label_problem(labels: list[str], known: set[str]) -> str:
    unknown = [label for label in labels if label not in known]
    if unknown and known:
        return f"label {unknown[0]!r} is none of the nomenclature in collection.json: correct one of the two"
    if labels != sorted(set(labels)):
        return "its labels are not sorted, or one is there twice: BigEarthNet's are sorted by name; build it again"
    return ""


def _splits(rows: _Rows, findings: Findings, positional: bool) -> None:
    splits = rows.table.column("landpatch:split").to_pylist()
    words: Mapping[str, str] = {split.value: split.ml_aoi for split in Split}
    for patch, split, word in zip(rows.ids, splits, rows.table.column("ml-aoi:split").to_pylist(), strict=True):
        if word != words.get(split):
            findings.add(
                Kind.SPLIT,
                f"landpatch:split is {split!r} and ml-aoi:split {word!r}: assign the splits again",
                patch=patch,
            )
    if positional:
        for patch, split, code in zip(rows.ids, splits, by_position(rows.x, rows.y).tolist(), strict=True):
            if split != SPLITS[code]:
                findings.add(
                    Kind.SPLIT, f"is {split}, its position means {SPLITS[code]}: assign the splits again", patch=patch
                )
