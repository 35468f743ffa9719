"""Items as JSON text, by their row in ``items.parquet``: what a page of search results is put together from.

The text is what ``item_from_row`` says, made a column at a time: a tenth of the work. Two places in it are left open,
marked by an ``@`` that JSON has no use for outside of strings: ``"href":@"relative/path"`` and the start of
``"links":[@``. ``completed`` fills them in for one server.

Rows come from the parquet, a row group at a time, or from a ``BodyFile``: a disposable file made from it in which any
row is a fraction of a millisecond away. Sorted results lie all over the catalogue, and need it.
"""

import mmap
import os
import struct
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from landpatch.catalog.items import PROPERTIES, SCHEMA, rfc3339, without_nulls

ALTERNATE_ASSETS = "https://stac-extensions.github.io/alternate-assets/v1.2.0/schema.json"

_BLOCK = 16
"""Items compressed together: 0.05 ms to open, 500 bytes an item; 64 save a fifth of the bytes and cost four times."""
_GROUPS_KEPT = 4  # decoded row groups, about 30 MB each
_MAGIC = b"landpatch bodies 1\n"
_TAIL = struct.Struct("<QQ19s")  # place of the tables, number of items, magic

# WKB of a polygon of one ring of five points: byte order, type, rings, points, 5 x 2 doubles (items.py writes such).
_SQUARE_HEAD = bytes.fromhex("01030000000100000005000000")
_SQUARE = len(_SQUARE_HEAD) + 80
_SQUARE_POINTS = struct.Struct("<10d")


def json_rows(table: pa.Table, alternate: str | None = None) -> list[bytes]:
    """The rows of a table of SCHEMA as JSON text, open in the two places.

    ``alternate`` is the root's S3 URL: assets then say their S3 href too (alternate-assets 1.2.0).
    """
    count = table.num_rows
    if count == 0:
        return []
    columns = {name: table.column(name).combine_chunks() for name in SCHEMA.names}
    more = [ALTERNATE_ASSETS] if alternate else []
    plain = {name: _each(columns[name], orjson.dumps) for name in ("type", "stac_version", "id", "collection")}
    extensions = _each(columns["stac_extensions"], lambda urls: orjson.dumps(urls + more))
    shapes = _geometries(columns["geometry"])
    sides = [column.to_pylist() for column in columns["bbox"].flatten()]
    properties = _members([(name, columns[name]) for name, _ in PROPERTIES if name not in _NULLS_MEAN], alternate)
    labelled = columns["label:type"].is_valid().to_pylist()
    label = [(name.encode(), _each(columns[name], orjson.dumps)) for name in _NULLS_MEAN]
    links = _each(columns["links"], _links)
    assets = []
    for asset, column in zip(columns["assets"].type, columns["assets"].flatten(), strict=True):
        if column.null_count == count:
            continue
        names = [field.name for field in column.type]
        members = _members(list(zip(names, column.flatten(), strict=True)), alternate)
        assets.append((asset.name.encode(), members, column.is_valid().to_pylist()))
    rows = []
    for row in range(count):
        meant = (b',"%b":%b' % (name, texts[row] or b"null") for name, texts in label) if labelled[row] else ()
        rows.append(
            b'{"type":%b,"stac_version":%b,"stac_extensions":%b,"id":%b,"geometry":%b,"bbox":%b,"properties":{%b%b},'
            b'"links":[@%b,"assets":{%b},"collection":%b}'
            % (
                plain["type"][row],
                plain["stac_version"][row],
                extensions[row],
                plain["id"][row],
                shapes[row],
                orjson.dumps([side[row] for side in sides]),
                properties[row],
                b"".join(meant),
                links[row],
                b",".join(b'"%b":{%b}' % (key, texts[row]) for key, texts, here in assets if here[row]),
                plain["collection"][row],
            )
        )
    return rows


def completed(body: bytes, base: bytes, links: bytes) -> bytes:
    """A body with its hrefs below ``base`` (ends with ``/``), and ``links`` (JSON objects with commas between them)
    before its own.
    """
    return body.replace(b'"links":[@', b'"links":[' + links, 1).replace(b'"href":@"', b'"href":"' + base)


# A class list's nulls mean something, and properties must be there although null (label 1.0.1).
_NULLS_MEAN = ("label:properties", "label:classes")


def _members(fields: Sequence[tuple[str, pa.Array]], alternate: str | None) -> list[bytes]:
    """Of every row the members of a JSON object, what is null left out. What all rows have in common is made once."""
    count = len(fields[0][1])
    parts: list[list[bytes]] = []
    common: list[bytes] = []
    for name, column in fields:
        if column.null_count == count:
            continue
        texts = _texts(column, _member(name, column.type, alternate))
        if isinstance(texts, bytes):
            common.append(texts)
            continue
        if common:
            parts.append([b",".join(common)] * count)
            common = []
        parts.append(texts)
    if common:
        parts.append([b",".join(common)] * count)
    return [b",".join(filter(None, row)) for row in zip(*parts, strict=True)] if parts else [b""] * count


def _member(name: str, kind: pa.DataType, alternate: str | None) -> Callable[[Any], bytes]:
    """What makes the text of a member from its value."""
    head = b'"%b":' % name.encode()
    if name == "href":
        return lambda href: _href(href, alternate)
    if name == "nodata":  # a column of doubles; the file's nodata is an integer
        return lambda value: head + orjson.dumps(int(value))
    if pa.types.is_timestamp(kind):
        return lambda value: head + orjson.dumps(rfc3339(value))
    if pa.types.is_struct(kind) or (pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)):
        return lambda value: head + orjson.dumps(without_nulls(value))
    return lambda value: head + orjson.dumps(value)


def _texts(column: pa.Array, text: Callable[[Any], bytes]) -> list[bytes] | bytes:
    """The text of each value, nothing for null; only one where all are the same."""
    first = column[:1]
    if column.null_count == 0 and column.equals(first.take(pa.array(np.zeros(len(column), np.int64)))):
        return text(first.to_pylist()[0])
    return [b"" if value is None else text(value) for value in column.to_pylist()]


def _each(column: pa.Array, text: Callable[[Any], bytes]) -> list[bytes]:
    texts = _texts(column, text)
    return [texts] * len(column) if isinstance(texts, bytes) else texts


def _href(href: str, alternate: str | None) -> bytes:
    if ":" in href:  # absolute already
        return b'"href":' + orjson.dumps(href)
    more = b"" if alternate is None else b',"alternate":{"s3":{"href":%b}}' % orjson.dumps(f"{alternate}/{href}")
    return b'"href":@' + orjson.dumps(href) + more


def _links(links: Sequence[Mapping[str, Any]]) -> bytes:
    """The rest of an array of links that begins with others; the one to the collection is the server's."""
    texts = []
    for link in links:
        if link["rel"] != "collection":
            text = orjson.dumps(without_nulls(dict(link)))
            texts.append(text if ":" in link["href"] else text.replace(b'"href":"', b'"href":@"', 1))
    return b"".join(b"," + text for text in texts) + b"]"


def _geometries(column: pa.Array) -> list[bytes]:
    """GeoJSON of well-known binary; without the detour over geometries where it is a plain square."""
    import shapely

    texts = []
    for value in column.to_pylist():
        if len(value) == _SQUARE and value.startswith(_SQUARE_HEAD):
            numbers = _SQUARE_POINTS.unpack_from(value, len(_SQUARE_HEAD))
            ring = [numbers[place : place + 2] for place in range(0, 10, 2)]
            texts.append(b'{"type":"Polygon","coordinates":[%b]}' % orjson.dumps(ring))
        else:
            texts.append(shapely.to_geojson(shapely.from_wkb(value)).encode())
    return texts


class RowGroups:
    """Bodies straight from the parquet: a page costs the row groups that it touches, the last few are kept."""

    def __init__(self, file: pq.ParquetFile, alternate: str | None) -> None:
        self._file, self._alternate = file, alternate
        counts = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._kept: OrderedDict[int, pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def bodies(self, rows: Sequence[int]) -> list[bytes]:
        """The bodies of these rows, in the order given."""
        found: dict[int, bytes] = {}
        wanted = np.unique(np.asarray(rows, np.int64))
        groups = np.searchsorted(self._starts, wanted, side="right") - 1
        for group in np.unique(groups).tolist():
            inside = wanted[groups == group]
            table = self._group(group).take(pa.array(inside - self._starts[group]))
            found.update(zip(inside.tolist(), json_rows(table, self._alternate), strict=True))
        return [found[row] for row in rows]

    def _group(self, number: int) -> pa.Table:
        with self._lock:  # a ParquetFile is one reader's at a time
            if number not in self._kept:
                self._kept[number] = self._file.read_row_group(number)
                while len(self._kept) > _GROUPS_KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(number)
            return self._kept[number]


class BodyFile:
    """All bodies in one local file of compressed blocks, mapped into memory."""

    def __init__(self, path: Path) -> None:
        """Raises OSError, ValueError for what is no whole file of bodies."""
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._map) < _TAIL.size:
            raise ValueError(f"{path} is no file of bodies")
        tables, self.count, magic = _TAIL.unpack(self._map[-_TAIL.size :])
        blocks = -(-self.count // _BLOCK)
        if magic != _MAGIC or len(self._map) != tables + 8 * (2 * blocks + 1) + _TAIL.size:
            raise ValueError(f"{path} is no file of bodies")
        self._places = np.frombuffer(self._map[tables : tables + 8 * (blocks + 1)], "<u8")
        self._sizes = np.frombuffer(self._map[tables + 8 * (blocks + 1) : -_TAIL.size], "<u8")

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()

    def bodies(self, rows: Sequence[int]) -> list[bytes]:
        """The bodies of these rows, in the order given."""
        codec = pa.Codec("zstd")
        blocks: dict[int, list[bytes]] = {}
        found = []
        for row in rows:
            number, place = divmod(row, _BLOCK)
            if number not in blocks:
                start, end = int(self._places[number]), int(self._places[number + 1])
                raw = codec.decompress(self._map[start:end], int(self._sizes[number]), asbytes=True)
                blocks[number] = raw.split(b"\n")
            found.append(blocks[number][place])
        return found

    @classmethod
    def write(
        cls, path: Path, file: pq.ParquetFile, alternate: str | None, going_on: Callable[[int, int], bool]
    ) -> Self | None:
        """Make it from the parquet, atomically; None if ``going_on(done, total)`` said False on the way.

        Raises OSError.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        total = file.metadata.num_rows
        codec = pa.Codec("zstd", compression_level=3)
        places, sizes, done, place = [0], [], 0, 0
        waiting: list[bytes] = []
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "wb") as target:
                for batch in file.iter_batches(batch_size=256):
                    begun = time.thread_time()
                    waiting += json_rows(pa.Table.from_batches([batch]), alternate)
                    done += batch.num_rows
                    last = done == total
                    whole = len(waiting) if last else len(waiting) // _BLOCK * _BLOCK
                    for start in range(0, whole, _BLOCK):
                        raw = b"\n".join(waiting[start : min(start + _BLOCK, whole)])
                        block = codec.compress(raw, asbytes=True)
                        place += target.write(block)
                        places.append(place)
                        sizes.append(len(raw))
                    waiting = waiting[whole:]
                    if not going_on(done, total):
                        return None
                    time.sleep(time.thread_time() - begun)  # as much again for searches that wait for the interpreter
                target.write(np.array(places, "<u8").tobytes() + np.array(sizes, "<u8").tobytes())
                target.write(_TAIL.pack(place, total, _MAGIC))
            Path(name).replace(path)
        finally:
            with suppress(FileNotFoundError):
                Path(name).unlink()
        return cls(path)


def parsed(body: bytes) -> dict[str, Any]:
    """A completed body as a dictionary."""
    item: dict[str, Any] = orjson.loads(body)
    return item
