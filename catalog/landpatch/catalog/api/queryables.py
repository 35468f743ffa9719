"""What filters may name and results may be sorted by, as JSON Schema; enumerations let forms offer a choice."""

from collections.abc import Collection, Iterable
from typing import Any

from landpatch.catalog.cql2_sql import Column, Kind
from landpatch.catalog.search import Snapshot

_TITLES = {
    "id": "Id",
    "collection": "Collection",
    "geometry": "Geometry",
    "datetime": "Time of Sentinel-2",
    "landpatch:labels": "Labels",
    "landpatch:split": "Split",
    "landpatch:tile": "Sentinel-2 tile",
    "landpatch:country": "Country",
    "eo:cloud_cover": "Cloud cover, %",
    "eo:snow_cover": "Snow cover, %",
    "landpatch:unlabelled": "Share of pixels without a class",
}
_TYPES = {Kind.NUMBER: "number", Kind.TEXT: "string", Kind.BOOLEAN: "boolean"}
_SHOWN_FIRST = tuple(_TITLES)


def queryables(snapshots: Collection[Snapshot]) -> dict[str, Any]:
    """Of datasets together, values enumerated where they are few. Other properties may be named: they are null."""
    schema = _schema("Queryables", snapshots, frozenset())
    labels = schema["properties"].get("landpatch:labels")
    if labels is not None:  # forms such as STAC Browser's know nothing of arrays
        schema["properties"]["landpatch:label"] = {"title": "Label (one of the patch's)", **labels["items"]}
    return schema


def sortables(snapshots: Iterable[Snapshot]) -> dict[str, Any]:
    """Of datasets together."""
    return _schema("Sortables", list(snapshots), frozenset({Kind.ARRAY, Kind.GEOMETRY}))


def _schema(title: str, snapshots: Collection[Snapshot], without: frozenset[Kind]) -> dict[str, Any]:
    names = {name for snapshot in snapshots for name in snapshot.columns}
    order = sorted(names, key=lambda name: (_SHOWN_FIRST.index(name) if name in _TITLES else len(_TITLES), name))
    properties = {}
    for name in order:
        holders = [snapshot for snapshot in snapshots if name in snapshot.columns]
        column = holders[0].columns[name]
        if column.kind not in without:
            words = sorted({word for snapshot in holders for word in snapshot.distinct(name)})
            if name == "collection":
                words = sorted(str(snapshot.collection["id"]) for snapshot in holders)
            properties[name] = {"title": _TITLES.get(name, name), **_type(column, words)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "title": title,
        "properties": properties,
        "additionalProperties": True,
    }


def _type(column: Column, words: list[str]) -> dict[str, Any]:
    if column.kind is Kind.GEOMETRY:
        # OGC API Features, part 5. A $ref to GeoJSON's schema would make forms fetch it, and fail without a network.
        return {"format": "geometry-any"}
    if column.kind is Kind.TIME:
        return {"type": "string", "format": "date-time"}
    if column.kind is Kind.ARRAY:
        items = {"type": "number"} if column.item == Kind.NUMBER else {"type": "string"}
        return {"type": "array", "items": {**items, **({"enum": words} if words else {})}}
    return {"type": _TYPES[column.kind], **({"enum": words} if words else {})}
