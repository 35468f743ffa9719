"""The narrow columns of ``items.parquet`` as a table that DuckDB searches: derived, disposable, never the truth.

One row an item, in the order of ids; ``rank`` counts them, ``row`` is the place in the parquet. Times are
microseconds since 1970, words of small vocabularies bits. The table is a file in a cache folder, made once for each
state of the parquet and opened by any number of processes (0.2 s), or lies in memory where there is no such folder.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from landpatch.catalog.cql2_sql import MASK_BITS, Column, Kind
from landpatch.catalog.errors import InvalidDataset
from landpatch.catalog.items import PROPERTIES

FORMAT = 1
TABLE = "kept.items"

_VOCABULARY = 620  # words of an array property that are kept as bits; beyond, as lists
_ROWS = 100_000  # read at once: 100 MB
SIDES = ("xmin", "ymin", "xmax", "ymax")


def index_name() -> str:
    """What belongs into the name of an index file: other versions cannot read it."""
    import duckdb

    return f"{FORMAT}-{duckdb.__version__}.duckdb"


def make_index(file: pq.ParquetFile, path: Path, collection: str) -> None:
    """Write the index file of a parquet, atomically. Raises InvalidDataset, OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        made = Path(folder) / "index"
        database = _connected(f"'{_escaped(made)}'", "", 2)
        try:
            _fill(database, file, collection)
            database.execute("CHECKPOINT kept")
        finally:
            database.close()
        made.replace(path)


def open_index(path: Path, threads: int) -> Any:
    """A database with the index of this file, for reading. Raises OSError for what is none."""
    import duckdb

    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        return _locked(_connected(f"'{_escaped(path)}'", "(READ_ONLY)", threads))
    except duckdb.Error as error:
        raise OSError(f"{path} is no index: {error}") from error


def index_in_memory(file: pq.ParquetFile, threads: int, collection: str) -> Any:
    """A database with the index of a parquet in memory. Raises InvalidDataset."""
    # Compressed: most columns say the same for thousands of items.
    database = _connected("':memory:'", "(COMPRESS)", threads)
    _fill(database, file, collection)
    database.execute("CHECKPOINT kept")
    return _locked(database)


def index_columns(database: Any) -> dict[str, Column]:
    """The properties that a filter may name, ``id``, ``collection`` and ``geometry`` among them."""
    stored = orjson.loads(database.execute("SELECT columns FROM kept.about").fetchone()[0])
    return {
        name: Column(
            entry["sql"],
            Kind(entry["kind"]),
            None if entry["vocabulary"] is None else tuple(entry["vocabulary"]),
            tuple(entry["masks"]),
            entry["item"],
        )
        for name, entry in stored.items()
    }


def _connected(place: str, how: str, threads: int) -> Any:
    import duckdb

    database = duckdb.connect(config={"threads": threads})
    database.execute(f"ATTACH {place} AS kept {how}")
    return database


def _locked(database: Any) -> Any:
    """Nothing that a filter could say reaches a file or a setting, even if it became SQL."""
    database.execute("SET memory_limit = '512MB'")
    database.execute("SET enable_external_access = false")
    database.execute("SET lock_configuration = true")
    return database


def _fill(database: Any, file: pq.ParquetFile, collection: str) -> None:
    try:
        vocabularies = _vocabularies(file)
        columns: dict[str, Column] = {}
        for table, first in _in_order(file):
            columns, narrow = _narrow(table, first, vocabularies)
            database.register("narrow", narrow)
            verb = "INSERT INTO" if first else "CREATE TABLE"
            database.execute(
                f"{verb} {TABLE} {'' if first else 'AS'} SELECT *, ? AS collection FROM narrow", [collection]
            )
            database.unregister("narrow")
    except (pa.ArrowException, OSError) as error:
        raise InvalidDataset(f"items.parquet is damaged: {' '.join(str(error).split())}; restore it") from error
    stored = orjson.dumps({name: asdict(column) for name, column in columns.items()}).decode()
    database.execute("CREATE TABLE kept.about AS SELECT ? AS columns", [stored])
    pa.default_memory_pool().release_unused()


def _in_order(file: pq.ParquetFile) -> Iterator[tuple[pa.Table, int]]:
    """The narrow columns and ``row``, in the order of ids, some row groups at a time; with the first rank of each.

    Raises InvalidDataset where an id is there twice.
    """
    names = ["id", "geometry", "bbox", *(name for name, kind in PROPERTIES if property_kind(kind))]
    ids = file.read(columns=["id"]).column("id").combine_chunks()
    if len(ids) > 1 and not pc.all(pc.less(ids[:-1], ids[1:])).as_py():
        order = pc.sort_indices(ids)
        ids = ids.take(order)
        if not pc.all(pc.less(ids[:-1], ids[1:])).as_py():
            raise InvalidDataset("items.parquet holds an id more than once; delete it and `landpatch build` again")
        yield file.read(columns=names).take(order).append_column("row", order.cast(pa.int32())), 0
        return
    del ids
    groups, count, first = [], 0, 0
    for number in range(file.num_row_groups):
        groups.append(number)
        count += file.metadata.row_group(number).num_rows
        if count >= _ROWS or number == file.num_row_groups - 1:
            table = file.read_row_groups(groups, columns=names)
            yield table.append_column("row", pa.array(np.arange(first, first + count, dtype=np.int32))), first
            groups, first, count = [], first + count, 0
    if file.num_row_groups == 0:
        yield file.read(columns=names).append_column("row", pa.array([], pa.int32())), 0


def _vocabularies(file: pq.ParquetFile) -> dict[str, list[str]]:
    """The words of those array properties that have few."""
    names = [name for name, kind in PROPERTIES if pa.types.is_list(kind) and pa.types.is_string(kind.value_type)]
    table = file.read(columns=names)
    words = {name: pc.unique(pc.list_flatten(table.column(name))).drop_null().to_pylist() for name in names}
    return {name: sorted(found) for name, found in words.items() if len(found) <= _VOCABULARY}


def _narrow(table: pa.Table, first: int, vocabularies: Mapping[str, list[str]]) -> tuple[dict[str, Column], pa.Table]:
    columns: dict[str, Column] = {
        "id": Column('"id"', Kind.TEXT),
        "geometry": Column('"geometry"', Kind.GEOMETRY),
        "collection": Column('"collection"', Kind.TEXT),
    }
    box = table.column("bbox").combine_chunks()
    narrow: dict[str, Any] = {
        "rank": pa.array(np.arange(first, first + table.num_rows, dtype=np.int32)),
        "row": table.column("row"),
        "id": table.column("id"),
        "geometry": table.column("geometry"),
        **{side: box.field(side) for side in SIDES},
    }
    for name, type_ in PROPERTIES:
        kind = property_kind(type_)
        if kind is None:
            continue
        values = table.column(name).combine_chunks()
        if kind is Kind.ARRAY:
            columns[name], more = _array_column(name, values, vocabularies.get(name))
            narrow |= more
            continue
        columns[name] = Column(_quoted(name), kind)
        narrow[name] = values.cast(pa.timestamp("us")).cast(pa.int64()) if kind is Kind.TIME else values
    return columns, pa.table(narrow)


def property_kind(type_: pa.DataType) -> Kind | None:
    """What a column of this type is to a filter; None for structures, which have no order and no equality."""
    if pa.types.is_list(type_):
        element = property_kind(type_.value_type)
        return Kind.ARRAY if element in (Kind.TEXT, Kind.NUMBER) else None
    for test, kind in (
        (pa.types.is_string, Kind.TEXT),
        (pa.types.is_boolean, Kind.BOOLEAN),
        (pa.types.is_timestamp, Kind.TIME),
        (pa.types.is_integer, Kind.NUMBER),
        (pa.types.is_floating, Kind.NUMBER),
    ):
        if test(type_):
            return kind
    return None


def _array_column(
    name: str, values: pa.ListArray, vocabulary: list[str] | None
) -> tuple[Column, Mapping[str, pa.Array]]:
    """An array property: its words as bits where they are few, else a list column."""
    if vocabulary is None:
        element = property_kind(values.type.value_type)
        listed = values if element is Kind.TEXT else values.cast(pa.list_(pa.float64()))
        return Column(_quoted(name), Kind.ARRAY, item=str(element)), {name: listed}
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy()
    owners = np.repeat(np.arange(len(values)), lengths)
    places = pc.fill_null(pc.index_in(values.flatten(), value_set=pa.array(vocabulary, pa.string())), -1)
    places = places.to_numpy().astype(np.int64)
    columns = {}
    for number in range(max(1, -(-len(vocabulary) // MASK_BITS))):
        mask = np.zeros(len(values), np.int64)
        here = places // MASK_BITS == number
        np.bitwise_or.at(mask, owners[here], np.int64(1) << (places[here] % MASK_BITS))
        columns[f"{name}#{number}"] = pa.array(mask, mask=pc.is_null(values).to_numpy(zero_copy_only=False))
    return Column("", Kind.ARRAY, tuple(vocabulary), tuple(map(_quoted, columns))), columns


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _escaped(path: Path) -> str:
    return os.fspath(path).replace("'", "''")


def remove_older(path: Path) -> None:
    """Remove files of the same dataset and kind that an earlier state left in a cache folder."""
    for other in path.parent.glob(f"{path.name.split('-')[0]}-*{path.suffix}"):
        if other != path:
            with suppress(OSError):
                other.unlink()
