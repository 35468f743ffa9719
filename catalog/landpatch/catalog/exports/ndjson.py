"""The items as JSON, one a line, and the collection beside them: what catalogues with a database server load.

    collection.json    the STAC collection
    items.ndjson       a STAC item a line, in the order of their ids: 3 to 4 KB each

Items are as the API gives them, without links to a server. Hrefs are absolute, for whoever loads the items has no
folder that they could be relative to.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from landpatch.catalog.bodies import completed, json_rows
from landpatch.catalog.errors import InvalidDataset, StorageError
from landpatch.catalog.items import LINKED_SCHEMA, conformed
from landpatch.catalog.store import COLLECTION, ITEMS, Dataset, Storage

ITEM_LINES = "items.ndjson"
_BATCH = 1000  # items in memory at a time: 20 MB as columns and text


def export_ndjson(
    dataset: Dataset,
    destination: str | os.PathLike[str],
    *,
    files_at: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write ``collection.json`` and ``items.ndjson`` of a dataset into the folder ``destination``; returns the number
    of items.

    ``files_at`` is the address below which the dataset's files are found, e.g. ``https://host/assets/europe``; the
    dataset's own address otherwise. Each file is there whole or not at all. ``progress`` gets (items done, all).

    Raises InvalidDataset, StorageError.
    """
    base = (files_at or _address(dataset.storage)).rstrip("/") + "/"
    target = Path(destination)
    file = dataset.storage.open_parquet(ITEMS)
    total, done = file.metadata.num_rows, 0
    try:
        target.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target, prefix=f".{ITEM_LINES}-")
        try:
            with os.fdopen(handle, "wb") as lines:
                for table in _tables(dataset, file):
                    lines.writelines(_lines(table, base))
                    done += table.num_rows
                    if progress is not None:
                        progress(done, total)
            Path(name).chmod(0o644)
            Path(name).replace(target / ITEM_LINES)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{target / ITEM_LINES} cannot be written: {error}") from error
    Storage.open(target).put_json(COLLECTION, _absolute(dataset.collection(), base))
    return total


def _tables(dataset: Dataset, file: pq.ParquetFile) -> Iterator[pa.Table]:
    """The items, some at a time; what an earlier version did not write is null. Raises InvalidDataset."""
    try:
        for batch in file.iter_batches(batch_size=_BATCH):
            yield conformed(pa.Table.from_batches([batch]), LINKED_SCHEMA)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise InvalidDataset(f"{dataset.storage.url}/{ITEMS} is damaged: {reason}; restore it") from error


def _lines(table: pa.Table, base: str) -> Iterator[bytes]:
    """Each item and a line feed, hrefs below ``base``."""
    link = orjson.dumps({"rel": "collection", "type": "application/json", "href": base + COLLECTION})
    for body in json_rows(table):
        yield completed(body, base.encode(), link) + b"\n"


def _address(storage: Storage) -> str:
    """Where the storage's files are, as a URL."""
    return storage.url if storage.folder is None else storage.folder.as_uri()


def _absolute(collection: dict[str, Any], base: str) -> dict[str, Any]:
    """The collection with absolute hrefs."""
    for entry in (*collection.get("assets", {}).values(), *collection.get("links", ())):
        if ":" not in entry["href"]:
            entry["href"] = base + entry["href"].removeprefix("./")
    return collection
