"""Items as JSON text, by their row in ``items.parquet``: what a page of search results is put together from.

The text is what ``item_from_row`` says, made by the database's vectorised functions. Two places in it are left open,
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
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from landpatch.catalog.items import PROPERTIES, SCHEMA

ALTERNATE_ASSETS = "https://stac-extensions.github.io/alternate-assets/v1.2.0/schema.json"

_BLOCK = 16
"""Items compressed together: 0.05 ms to open, 500 bytes an item; 64 save a fifth of the bytes and cost four times."""
_GROUPS_KEPT = 4  # decoded row groups, about 30 MB each
_MAGIC = b"landpatch bodies 1\n"
_TAIL = struct.Struct("<QQ19s")  # place of the tables, number of items, magic

# WKB of a polygon of one ring of five points: byte order, type, rings, points, 5 x 2 doubles (items.py writes such).
_SQUARE_HEAD = bytes.fromhex("01030000000100000005000000")
# A column of doubles; the file's nodata is an integer.
_INTEGER_NODATA = r"""'("nodata":-?\d+)\.0', '\1'"""
_SQUARE = len(_SQUARE_HEAD) + 80


def json_rows(table: pa.Table, alternate: str | None = None) -> list[bytes]:
    """The rows of a table of SCHEMA as JSON text, open in the two places.

    ``alternate`` is the root's S3 URL: assets then say their S3 href too (alternate-assets 1.2.0).
    """
    import duckdb

    # Copied: DuckDB refuses structs that are a part of larger ones.
    table = table.select(SCHEMA.names).take(pa.array(np.arange(table.num_rows))).combine_chunks()
    columns = {
        name: column.cast(pa.timestamp("us")) if pa.types.is_timestamp(column.type) else column
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    columns["ring"], columns["geometry"] = _shapes(table.column("geometry"))
    with duckdb.connect() as database:
        database.execute("SET threads = 2")
        database.register("rows", pa.table(columns))
        # Where a relative href ends, the rest of what an asset says of its place begins.
        asset = '"href":@"\\1"' + (f',"alternate":{{"s3":{{"href":"{alternate}/\\1"}}}}' if alternate else "")
        more = [ALTERNATE_ASSETS] if alternate else []
        texts = database.execute(_SELECT, [more, asset]).fetchnumpy()["body"]
    return [text.encode() for text in texts.tolist()]


def completed(body: bytes, base: bytes, links: bytes) -> bytes:
    """A body with its hrefs below ``base`` (ends with ``/``), and ``links`` (JSON objects with commas between them)
    before its own.
    """
    return body.replace(b'"links":[@', b'"links":[' + links, 1).replace(b'"href":@"', b'"href":"' + base)


def _shapes(column: pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
    """Rings of plain squares as lists of positions, and GeoJSON text of everything else; null where the other is."""
    import shapely

    values = column.combine_chunks().to_pylist()
    plain = [len(value) == _SQUARE and value.startswith(_SQUARE_HEAD) for value in values]
    points = np.frombuffer(
        b"".join(value[len(_SQUARE_HEAD) :] for value, is_ in zip(values, plain, strict=True) if is_), "<f8"
    )
    positions = pa.FixedSizeListArray.from_arrays(pa.array(points), 2).cast(pa.list_(pa.float64()))
    ends = np.concatenate([[0], np.cumsum(np.where(plain, 5, 0))]).astype(np.int32)
    missing = pa.array([not is_ for is_ in plain])
    rings = pa.ListArray.from_arrays(pa.array(ends), positions, mask=missing)
    others = [
        None if is_ else shapely.to_geojson(shapely.from_wkb(value)) for value, is_ in zip(values, plain, strict=True)
    ]
    return rings, pa.array(others, pa.string())


def _select() -> str:
    def quoted(name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    def value(name: str, kind: pa.DataType) -> str:
        column = quoted(name)
        if not pa.types.is_timestamp(kind):
            return column
        whole, fraction = (f"strftime({column}, '%Y-%m-%dT%H:%M:{end}Z')" for end in ("%S", "%S.%f"))
        return f"CASE WHEN microsecond({column}) % 1000000 = 0 THEN {whole} ELSE {fraction} END"

    # label:properties must be there although null, and a class list's nulls mean something (label 1.0.1).
    kept = ("label:properties", "label:classes")
    properties = ", ".join(f"{quoted(name)} := {value(name, kind)}" for name, kind in PROPERTIES if name not in kept)
    label = " || ".join(f"""',"{name}":' || coalesce(to_json({quoted(name)})::VARCHAR, 'null')""" for name in kept)

    def dense(text: str) -> str:
        """Without nulls: a quotation mark inside a JSON string is escaped, so these patterns match keys only."""
        for pattern, by in ((r""",\"[^\"]+\":null""", ""), (r"""\{\"[^\"]+\":null,?""", "{")):
            text = f"""regexp_replace({text}, '{pattern}', '{by}', 'g')"""
        return text

    def open_hrefs(text: str, by: str) -> str:
        return f"""regexp_replace({text}, '"href":"([^":]+)"', {by}, 'g')"""

    links = dense("to_json(list_filter(links, lambda link: link.rel <> 'collection'))::VARCHAR")
    links = open_hrefs(f"coalesce({links}, '[]')", '\'"href":@"\\1"\'')
    integers = f"""regexp_replace({dense("to_json(assets)::VARCHAR")}, {_INTEGER_NODATA}, 'g')"""
    assets = open_hrefs(integers, "?")
    said = dense(f"to_json(struct_pack({properties}))::VARCHAR")
    return f"""
    SELECT '{{"type":"Feature","stac_version":' || to_json(stac_version)::VARCHAR
        || ',"stac_extensions":' || to_json(list_concat(stac_extensions, ?::VARCHAR[]))::VARCHAR
        || ',"id":' || to_json(id)::VARCHAR
        || ',"geometry":'
        || coalesce(geometry, '{{"type":"Polygon","coordinates":[' || to_json(ring)::VARCHAR || ']}}')
        || ',"bbox":' || to_json([bbox.xmin, bbox.ymin, bbox.xmax, bbox.ymax])::VARCHAR
        || ',"properties":' || left({said}, -1)
        || CASE WHEN "label:type" IS NULL THEN '' ELSE {label} END
        || '}},"links":[@' || CASE WHEN linked = '[]' THEN ']' ELSE ',' || right(linked, -1) END
        || ',"assets":' || {assets}
        || ',"collection":' || to_json(collection)::VARCHAR || '}}' AS body
    FROM (SELECT *, {links} AS linked FROM rows)
    """


_SELECT = _select()


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
        tables, self.count, magic = _TAIL.unpack(self._map[-_TAIL.size :])
        blocks = -(-self.count // _BLOCK)
        if magic != _MAGIC or len(self._map) != tables + 8 * (2 * blocks + 1) + _TAIL.size:
            raise ValueError(f"{path} is no file of bodies")
        self._places = np.frombuffer(self._map[tables : tables + 8 * (blocks + 1)], "<u8")
        self._sizes = np.frombuffer(self._map[tables + 8 * (blocks + 1) : -_TAIL.size], "<u8")

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
                for batch in file.iter_batches(batch_size=1024):
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
