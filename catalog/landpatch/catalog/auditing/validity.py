"""Whether items are valid STAC, without asking the schemas about each of half a million.

Schemas cannot tell most items of a dataset apart: these differ in what is free, ids, places, times, sizes, checksums
and all that is ours (``landpatch:``). Free values are looked at as columns, by rules that are narrower than what the
schemas ask of such a field. Of rows whose free values keep these rules and that are equal in everything else, to the
last link, one is made an item and validated, for all of them; a row with any other free value is validated itself.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from landpatch.catalog.auditing.findings import Findings, Kind
from landpatch.catalog.errors import InvalidDataset
from landpatch.catalog.items import item_from_row
from landpatch.catalog.schemas import validate_item

Flags = NDArray[np.bool_]
Codes = NDArray[np.int64]


def check_validity(table: pa.Table, findings: Findings) -> None:
    """Rows of ``items.parquet``: a finding for each that is no valid item."""
    ids = table.column("id").to_pylist()
    for rows in _alike(table):
        first = int(rows[0])
        problem = _problem(table.slice(first, 1))
        if problem:
            for row in rows.tolist():
                findings.add(Kind.STAC, problem.replace(ids[first], ids[row]), patch=ids[row])


def _problem(row: pa.Table) -> str:
    try:
        validate_item(item_from_row(row.to_pylist()[0]))
    except InvalidDataset as error:
        return f"{error}: build it again"
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, shapely.GEOSException) as error:
        return f"its row is no item ({type(error).__name__}: {error}): build it again"
    return ""


def _alike(table: pa.Table) -> Iterator[NDArray[np.int64]]:
    """Numbers of the rows, those together that no schema can tell apart; in the order of the first of each."""
    count = table.num_rows
    plain, kinds = np.ones(count, bool), []
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        if name == "assets":
            fields = [
                (inner.name, values)
                for asset in column.flatten()
                for inner, values in zip(asset.type, asset.flatten(), strict=True)
            ]
            kinds += [_valid(asset) for asset in column.flatten()]
            rules = [(values, _OF_ASSETS.get(inner)) for inner, values in fields]
        else:
            rules = [(column, _rule(name, column.type))]
        for values, rule in rules:
            if rule is None:
                kinds.append(_codes(values))
            else:
                plain &= rule(values)
                kinds.append(_valid(values))
    kind = _joined(count, kinds)
    alone = np.flatnonzero(~plain)
    kind[alone] = kind.max(initial=-1) + 1 + np.arange(len(alone))
    _, first, of = np.unique(kind, return_index=True, return_inverse=True)
    together = np.split(np.argsort(of, kind="stable"), np.cumsum(np.bincount(of))[:-1])
    yield from (together[number] for number in np.argsort(first) if count)


# --- equal in everything ------------------------------------------------------------------------------------------


def _codes(values: pa.Array) -> Codes:
    """Numbers that are the same where the values are, whatever their type."""
    if values.null_count == len(values):
        return np.zeros(len(values), np.int64)
    if pa.types.is_struct(values.type):
        return _joined(len(values), [_valid(values), *map(_codes, values.flatten())])
    if pa.types.is_list(values.type):
        lengths = np.asarray(pc.fill_null(pc.list_value_length(values), -1), np.int64)
        elements = np.append(_codes(values.flatten()), -1)  # flatten leaves out what lies under a null
        starts = np.cumsum(np.maximum(lengths, 0)) - np.maximum(lengths, 0)
        at = (np.where(place < lengths, starts + place, len(elements) - 1) for place in range(lengths.max(initial=0)))
        return _joined(len(values), [lengths, *(elements[place] for place in at)])
    return np.asarray(pc.fill_null(values.dictionary_encode().indices, -1), np.int64)


def _joined(count: int, parts: list[Codes]) -> Codes:
    """Numbers that are the same where all parts (-1 or more) are."""
    codes = np.zeros(count, np.int64)
    for part in parts:
        if count and part.min() != part.max():
            codes = np.unique(codes * (part.max() + 2) + part + 1, return_inverse=True)[1]
    return codes


def _valid(values: pa.Array) -> Codes:
    return np.asarray(values.is_valid(), np.int64)


# --- what is free, and how it looks -------------------------------------------------------------------------------

_Rule = Callable[[pa.Array], Flags]


def _anything(values: pa.Array) -> Flags:
    return np.ones(len(values), bool)


def _finite(values: pa.Array) -> Flags:
    return np.asarray(pc.fill_null(pc.is_finite(values), True))


def _share(values: pa.Array) -> Flags:
    """Percent."""
    numbers = np.asarray(pc.fill_null(values, 0))
    return (numbers >= 0) & (numbers <= 100)


def _size(values: pa.Array) -> Flags:
    return np.asarray(pc.fill_null(values, 0)) >= 0


def _like(pattern: str) -> _Rule:
    return lambda values: np.asarray(pc.fill_null(pc.match_substring_regex(values, pattern), True))


def _box(values: pa.Array) -> Flags:
    return np.logical_and.reduce([np.isfinite(np.asarray(side)) for side in values.flatten()])


def _one_ring(values: pa.Array) -> Flags:
    """A polygon of four corners."""
    shapes = shapely.from_wkb(values.to_numpy(zero_copy_only=False), on_invalid="ignore")
    plain = (shapely.get_type_id(shapes) == shapely.GeometryType.POLYGON) & ~shapely.has_z(shapes)
    plain &= (shapely.get_num_interior_rings(shapes) == 0) & (shapely.get_num_coordinates(shapes) == 5)
    points, of = shapely.get_coordinates(shapes, return_index=True)
    plain[of[~np.isfinite(points).all(axis=1)]] = False
    return np.asarray(plain, bool)


def _transform(values: pa.Array) -> Flags:
    """Six numbers, not rotated, as the projection extension orders them."""
    lengths = np.asarray(pc.fill_null(pc.list_value_length(values), 0))
    if not np.isin(lengths, (0, 6)).all():
        return np.zeros(len(values), bool)
    numbers = np.asarray(values.flatten()).reshape(-1, 6)
    plain = np.asarray(values.is_null())
    plain[lengths == 6] = np.isfinite(numbers).all(axis=1) & (numbers[:, [1, 3]] == 0).all(axis=1)
    return plain


_FREE: Mapping[str, _Rule] = {
    "id": _anything,  # those that cannot be read are no longer there
    "geometry": _one_ring,
    "bbox": _box,
    "datetime": _anything,
    "start_datetime": _anything,
    "end_datetime": _anything,
    "eo:cloud_cover": _share,
    "eo:snow_cover": _share,
}
_OF_ASSETS: Mapping[str, _Rule] = {
    # Paths and addresses without anything that RFC 3986 would have to be asked about.
    "href": _like(r"\A([a-z][a-z0-9]*://)?[A-Za-z0-9._~/-]+\z"),
    "file:size": _size,
    "file:checksum": _like(r"\A1220[0-9a-f]{64}\z"),
    "proj:transform": _transform,
}


def _rule(name: str, kind: pa.DataType) -> _Rule | None:
    if name.startswith("landpatch:"):
        return _finite if pa.types.is_floating(kind) else _anything
    return _FREE.get(name)
