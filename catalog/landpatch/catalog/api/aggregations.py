"""Counts of items by label, split, tile, country, place and time (STAC API Aggregation 0.3.0)."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from landpatch.catalog.search import Query, Snapshot

AGGREGATIONS = {
    "total_count": "integer",
    "datetime_min": "datetime",
    "datetime_max": "datetime",
    "datetime_frequency": "frequency_distribution",
    "collection_frequency": "frequency_distribution",
    "grid_code_frequency": "frequency_distribution",
    "label_frequency": "frequency_distribution",
    "split_frequency": "frequency_distribution",
    "tile_frequency": "frequency_distribution",
    "country_frequency": "frequency_distribution",
    "platform_frequency": "frequency_distribution",
    "cloud_cover_frequency": "frequency_distribution",
}
"""Names and types of what can be counted."""

_COUNTED = {
    "grid_code_frequency": "grid:code",
    "label_frequency": "landpatch:labels",
    "split_frequency": "landpatch:split",
    "tile_frequency": "landpatch:tile",
    "country_frequency": "landpatch:country",
    "platform_frequency": "platform",
}
_MONTH = "strftime(make_timestamp({}), '%Y-%m-01T00:00:00Z')"
_TENTH = "least(floor({} / 10), 9)"  # 100 % belongs to the last of ten ranges
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def aggregated(name: str, snapshots: Mapping[str, Snapshot], query: Query) -> dict[str, Any]:
    """One of AGGREGATIONS over what matches in several datasets. Raises InvalidQuery, SearchTimeout."""
    kind = AGGREGATIONS[name]
    if name == "total_count":
        return _single(name, kind, sum(snapshot.count(query) for snapshot in snapshots.values()))
    if name in ("datetime_min", "datetime_max"):
        last = name == "datetime_max"
        ends = [snapshot.extremes(query, "datetime")[last] for snapshot in snapshots.values()]
        known = [end for end in ends if end is not None]
        return _single(name, kind, _rfc3339((max if last else min)(known)) if known else None)
    counts: Counter[Any] = Counter()
    for collection, snapshot in snapshots.items():
        if name == "collection_frequency":
            counts[collection] += snapshot.count(query)
        elif name == "datetime_frequency":
            counts.update(dict(snapshot.frequencies(query, "datetime", by=_MONTH)))
        elif name == "cloud_cover_frequency":
            counts.update(dict(snapshot.frequencies(query, "eo:cloud_cover", by=_TENTH)))
        else:
            counts.update(dict(snapshot.frequencies(query, _COUNTED[name])))
    return {"name": name, "data_type": kind, "buckets": _buckets(name, counts), "overflow": 0}


def _single(name: str, kind: str, value: Any) -> dict[str, Any]:
    return {"name": name, "data_type": kind, **({} if value is None else {"value": value})}


def _buckets(name: str, counts: Counter[Any]) -> list[dict[str, Any]]:
    if name == "cloud_cover_frequency":
        return [
            {"key": f"{low * 10:.0f}-{low * 10 + 10:.0f}", "data_type": "numeric", "frequency": number}
            | {"from": low * 10, "to": low * 10 + 10}
            for low, number in sorted(counts.items())
        ]
    kind = "datetime" if name == "datetime_frequency" else "string"
    # Times in their order; everything else the most frequent first.
    ordered = sorted(counts.items(), key=lambda pair: pair[0] if kind == "datetime" else (-pair[1], pair[0]))
    return [{"key": key, "data_type": kind, "frequency": number} for key, number in ordered]


def _rfc3339(microseconds: int) -> str:
    return (_EPOCH + timedelta(microseconds=microseconds)).isoformat().replace("+00:00", "Z")
