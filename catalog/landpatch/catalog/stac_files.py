"""Scenes that lie in files: static catalogues, item collections, lines of items, stac-geoparquet.

Whatever such a file cannot give is said in ``problems``, and the rest is given; only what would hide a whole branch
of a catalogue is an error.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from landpatch.catalog.errors import SourceError, StorageError
from landpatch.catalog.scenes import absolute_href
from landpatch.catalog.stac_documents import DocumentReader, UnusableDocument, is_remote, local_path
from landpatch.catalog.store import Storage

Found = tuple[Any, str]
"""An item and the href that its relative hrefs start from."""

_WALKERS = 8  # requests at a time: what browsers allow themselves, times the usual two hosts
_MOST_DOCUMENTS = 1_000_000


def walk(root: Any, href: str, reader: DocumentReader, problems: list[str]) -> Iterator[Found]:
    """Every item below a catalogue or collection, each once, in the order of its links.

    An item that cannot be read becomes a problem; a catalogue that cannot, a SourceError, since nobody knows what it
    holds.
    """
    seen = {href}
    level: list[tuple[Any, str]] = [(root, href)]
    with ThreadPoolExecutor(_WALKERS) as pool:
        while level:
            wanted: list[tuple[str, bool]] = []
            for document, base in level:
                for target, is_item in _children(document, base, problems):
                    if target not in seen:
                        seen.add(target)
                        wanted.append((target, is_item))
            if len(seen) > _MOST_DOCUMENTS:
                raise SourceError(f"{href} leads to more than {_MOST_DOCUMENTS:,} documents; give a part of it")
            level = []
            for (target, is_item), answer in zip(
                wanted, pool.map(lambda want: _attempt(reader, *want), wanted), strict=True
            ):
                if isinstance(answer, UnusableDocument):
                    problems.append(str(answer))
                elif isinstance(answer, Mapping) and answer.get("type") == "FeatureCollection":
                    yield from ((item, f"{target}#{number}") for number, item in enumerate(features(answer, target)))
                elif is_item or (isinstance(answer, Mapping) and answer.get("type") == "Feature"):
                    yield answer, target
                else:
                    level.append((answer, target))


def features(collection: Mapping[str, Any], href: str) -> Iterable[Any]:
    """The items of an item collection. Raises UnusableDocument."""
    items = collection.get("features")
    if not isinstance(items, list):
        raise UnusableDocument(f"{href} is an item collection without features")
    return items


def read_lines(content: bytes, href: str, problems: list[str]) -> Iterator[Any]:
    """Items that stand one in a line (``.jsonl``, ``.ndjson``)."""
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError as error:
            problems.append(f"{href}, line {number}: no JSON ({error})")


def read_parquet(
    href: str,
    intervals: Sequence[tuple[datetime, datetime]],
    bounds: tuple[float, float, float, float] | None,
    progress: Callable[[int, int], None],
) -> Iterator[Any]:
    """The items of a stac-geoparquet file that may lie in one of the intervals and in ``bounds`` (degrees).

    Only row groups with such a row are read whole. Raises SourceError, UnusableDocument.
    """
    # A second and more to import (pandas, geopandas), which other sources need not wait for.
    from stac_geoparquet.arrow import stac_table_to_items

    try:
        file = _open_parquet(href)
        names = set(file.schema_arrow.names)
        if not {"id", "assets"} <= names:
            raise UnusableDocument(f"{href} is no stac-geoparquet file: it has no columns id and assets")
        done, total = 0, file.metadata.num_rows
        for group in range(file.num_row_groups):
            tests = file.read_row_group(group, columns=[name for name in ("datetime", "bbox") if name in names])
            rows = np.flatnonzero(_may_match(tests, intervals, bounds))
            if rows.size:
                table = _plain_strings(file.read_row_group(group).take(pa.array(rows)))
                yield from map(_without_nulls, stac_table_to_items(table))
            done += tests.num_rows
            progress(done, total)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise UnusableDocument(f"{href} cannot be read as stac-geoparquet ({reason}); restore the file") from error
    except StorageError as error:
        raise SourceError(str(error)) from error


def _attempt(reader: DocumentReader, href: str, is_item: bool) -> Any:
    try:
        return reader.json(href)
    except UnusableDocument as error:
        if is_item:
            return error
        raise


def _children(document: Any, base: str, problems: list[str]) -> Iterator[tuple[str, bool]]:
    """What a catalogue or collection links to: absolute href, and whether it is an item."""
    links = document.get("links") if isinstance(document, Mapping) else None
    if not isinstance(links, list):
        raise UnusableDocument(f"{base} is no STAC catalogue: it has no links")
    for link in links:
        if not isinstance(link, Mapping) or link.get("rel") not in ("item", "items", "child"):
            continue
        try:
            target = absolute_href(str(link["href"]), base)
            if urlsplit(target).scheme == "file" and not is_remote(base):
                target = str(local_path(target))
            yield target.partition("#")[0] if is_remote(target) else target, link["rel"] != "child"
        except (KeyError, ValueError):
            problems.append(f"{base}: a link of rel {link.get('rel')!r} leads nowhere: {link.get('href')!r}")


def _open_parquet(href: str) -> pq.ParquetFile:
    if not is_remote(href):
        return pq.ParquetFile(local_path(href))
    folder, _, name = href.rpartition("/")
    return pq.ParquetFile(Storage.open(folder).open_file(name), pre_buffer=True)


def _may_match(
    table: pa.Table,
    intervals: Sequence[tuple[datetime, datetime]],
    bounds: tuple[float, float, float, float] | None,
) -> NDArray[np.bool_]:
    """Which rows cannot be excluded; a row that lacks a value never is."""
    rows = np.ones(table.num_rows, bool)
    if "datetime" in table.column_names and pa.types.is_timestamp(table.schema.field("datetime").type):
        moments = table["datetime"].cast(pa.timestamp("us", "UTC")).to_numpy()
        inside = np.isnat(moments)
        for start, end in intervals:
            first, last = (np.datetime64(moment.replace(tzinfo=None), "us") for moment in (start, end))
            inside |= (moments >= first) & (moments <= last)
        rows &= inside
    box = table.schema.field("bbox").type if "bbox" in table.column_names else None
    if bounds is not None and box is not None and pa.types.is_struct(box):
        fields = {box.field(i).name for i in range(box.num_fields)}
        if {"xmin", "ymin", "xmax", "ymax"} <= fields:
            column = table["bbox"].combine_chunks()
            west, south, east, north = (
                column.field(name).to_numpy(zero_copy_only=False).astype(float)
                for name in ("xmin", "ymin", "xmax", "ymax")
            )
            with np.errstate(invalid="ignore"):
                beside = (west <= east) & ((east < bounds[0]) | (west > bounds[2]))  # not across the antimeridian
                rows &= ~(beside | (north < bounds[1]) | (south > bounds[3]))
    return rows


def _plain_strings(table: pa.Table) -> pa.Table:
    """Dictionary-encoded columns as plain ones: stac-geoparquet expects strings."""
    for i, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(i, field.name, table[field.name].cast(field.type.value_type))
    return table


def _without_nulls(value: Any, *, top: bool = True) -> Any:
    """In Parquet every row has every column; what is null there was absent from the item."""
    if isinstance(value, dict):
        return {
            key: _without_nulls(entry, top=False)
            for key, entry in value.items()
            if entry is not None or (top and key == "geometry") or key == "datetime"
        }
    if isinstance(value, list):
        return [_without_nulls(entry, top=False) for entry in value]
    return value
