"""From the parts that blocks wrote to the catalogue: ``items.parquet``, ``collection.json``, official tables.

A part holds the items of one block, and in its metadata what a reader of the dataset needs besides: counts of
dropped patches, the nomenclature, a digest of its content. Compaction merges parts one scene at a time, so that
memory does not grow with the dataset, and writes nothing when the parts are the same as the last time. Where the
dataset has rules of its own for splits and countries (``assignment``), it writes what these say.
"""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from landpatch.catalog.assignment import NEEDED, Assignment, Rules
from landpatch.catalog.errors import DatasetConflict, InvalidDataset
from landpatch.catalog.items import LINKED_SCHEMA, SCHEMA, Summary, collection_document, conformed, parquet_metadata
from landpatch.catalog.nomenclature import Nomenclature
from landpatch.catalog.store import COLLECTION, ITEMS, METADATA, METADATA_FLAGGED, NotFound, Storage
from landpatch.catalog.tables import OfficialTables

ROW_GROUP = 5000
"""Rows a row group: a page of search results touches one or two (measured in the project's catalogue notes)."""

_PART_KEY = b"landpatch:part"
_PARTS_KEY = b"landpatch:parts"
# Part of the state of a catalogue, so that one of an earlier version is brought up to date.
_COLUMNS = hashlib.sha256(str(SCHEMA).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Part:
    """A part's description, from its footer alone. ``linked``: its items are of LINKED_SCHEMA; ``about`` is what the
    collection says of a dataset that somebody else made (``items.collection_document``).
    """

    path: str
    digest: str
    rows: int
    collection: str
    dropped: Mapping[str, int]
    nomenclature: Nomenclature | None
    linked: bool
    about: Mapping[str, Any] | None


def part_path(scene: str, block: str) -> str:
    """Where a block's part lies, relative to the dataset's root."""
    return f"parts/{scene}/{block}.parquet"


def write_part(
    storage: Storage,
    path: str,
    table: pa.Table,
    *,
    collection: str,
    nomenclature: Nomenclature | None,
    dropped: Mapping[str, int],
    about: Mapping[str, Any] | None = None,
) -> str:
    """Write a block's items (rows of SCHEMA or LINKED_SCHEMA, sorted by id); returns the digest of the content,
    sha-256 in hex.
    """
    said = [dropped, collection] if about is None else [dropped, collection, about]
    digest = hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS))
    content = pa.BufferOutputStream()
    with pa.ipc.new_stream(content, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    digest.update(content.getvalue())
    description = {
        **({} if about is None else {"about": about}),
        "collection": collection,
        "digest": digest.hexdigest(),
        "dropped": dict(dropped),
        "nomenclature": nomenclature.to_document() if nomenclature else None,
    }
    target = pa.BufferOutputStream()
    table = table.replace_schema_metadata(
        {**parquet_metadata(None), _PART_KEY: orjson.dumps(description, option=orjson.OPT_SORT_KEYS)}
    )
    pq.write_table(table, target, compression="zstd", row_group_size=ROW_GROUP)
    storage.put(path, target.getvalue().to_pybytes())
    return digest.hexdigest()


def parts(storage: Storage) -> list[Part]:
    """All parts of a dataset, by path. Raises InvalidDataset for a file that is none."""
    return [_describe(storage, path) for path in storage.list("parts") if path.endswith(".parquet")]


def compact(
    storage: Storage,
    *,
    progress: Callable[[int, int], None] | None = None,
    describe: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> bool:
    """Bring the catalogue up to date with the parts; False if it was. ``describe`` has the last word on what the
    collection says of the dataset.

    Written in the order official tables, collection, ``items.parquet``: whoever sees the new items finds the rest.
    Both passes over the parts hold one scene and one row group of what is written in memory. May run several times
    at once: what is written last is of all the parts that were there before it.
    Raises InvalidDataset (damaged part), DatasetConflict (parts that do not belong together), StorageError.
    """
    found, rules = parts(storage), Rules.read(storage)
    if not found or _compacted_state(storage) == _state(found, rules):
        return False
    while True:
        _write(storage, found, rules, progress, describe)
        # A part that came meanwhile may be in what another has written, over which this one has just written.
        # Hence not what items.parquet says decides, but the parts: who writes last looks last.
        later, later_rules = parts(storage), Rules.read(storage)
        if _state(later, later_rules) == _state(found, rules):
            return True
        found, rules = later, later_rules


def _state(found: list[Part], rules: Rules) -> bytes:
    return orjson.dumps([_COLUMNS, *((part.path, part.digest) for part in found), *rules.state])


def _write(
    storage: Storage,
    found: list[Part],
    rules: Rules,
    progress: Callable[[int, int], None] | None,
    describe: Callable[[dict[str, Any]], dict[str, Any]] | None,
) -> None:
    collection, nomenclature = _in_common(found)
    dropped: Counter[str] = Counter()
    for part in found:
        dropped.update(part.dropped)
    assignment = Assignment(None, None, None)
    if rules.state:
        assignment = rules.assign(pa.concat_tables(_scenes(storage, found, _columns(NEEDED))))
    about = next((part.about for part in found if part.about is not None), None)
    schema = LINKED_SCHEMA if any(part.linked for part in found) else SCHEMA
    report = _Steps(2 * len({_scene(part) for part in found}), progress)
    with tempfile.TemporaryDirectory(prefix="landpatch-") as name:
        folder = Path(name)
        summary = Summary()
        with OfficialTables(folder / METADATA, folder / METADATA_FLAGGED) as official:
            for table in report.each(assignment.into(_scenes(storage, found, schema))):
                summary.add(table)
                official.add(table)
        document = collection_document(collection, summary, nomenclature=nomenclature, dropped=dropped, about=about)
        document |= rules.described(assignment)
        if describe is not None:
            document = describe(document)
        storage.put_file(METADATA, folder / METADATA)
        storage.put_file(METADATA_FLAGGED, folder / METADATA_FLAGGED)
        storage.put_json(COLLECTION, document)
        metadata = {**parquet_metadata(document), _PARTS_KEY: _state(found, rules)}
        items = report.each(assignment.into(_scenes(storage, found, schema)))
        _write_items(folder / ITEMS, items, schema, metadata)
        storage.put_file(ITEMS, folder / ITEMS)


def overview(
    storage: Storage, columns: Sequence[str], *, progress: Callable[[int, int], None] | None = None
) -> pa.Table:
    """Some columns (``id`` among them) of all patches, as their parts have them. Raises InvalidDataset for none."""
    found = parts(storage)
    if not found:
        raise InvalidDataset(f"{storage.url} holds no patches of a build, import or download (no parts/)")
    tables = []
    for table in _scenes(storage, found, _columns(columns)):
        tables.append(table)
        if progress:
            progress(len(tables), len(found))
    return pa.concat_tables(tables)


class _Steps:
    """Counts the scenes of both passes."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def each(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """The tables; each is counted when the next is asked for."""
        for table in tables:
            yield table
            self._done += 1
            if self._progress:
                self._progress(self._done, self._total)


def _describe(storage: Storage, path: str) -> Part:
    footer = storage.open_parquet(path)
    raw = (footer.metadata.metadata or {}).get(_PART_KEY)
    if raw is None:
        raise InvalidDataset(f"{storage.url}/{path} is no part of a landpatch dataset; remove it")
    description = orjson.loads(raw)
    stored = description["nomenclature"]
    return Part(
        path,
        description["digest"],
        footer.metadata.num_rows,
        description["collection"],
        description["dropped"],
        None if stored is None else Nomenclature.from_document(stored),
        footer.schema_arrow.field("assets").type.num_fields > SCHEMA.field("assets").type.num_fields,
        description.get("about"),
    )


def _compacted_state(storage: Storage) -> bytes | None:
    """The parts that ``items.parquet`` was made from; None if it is not there or anything beside it is missing."""
    try:
        state = (storage.open_parquet(ITEMS).metadata.metadata or {}).get(_PARTS_KEY)
    except (NotFound, InvalidDataset):
        return None
    beside = (COLLECTION, METADATA, METADATA_FLAGGED)
    return state if all(storage.exists(name) for name in beside) else None


def _in_common(found: list[Part]) -> tuple[str, Nomenclature | None]:
    collections = sorted({part.collection for part in found})
    if len(collections) > 1:
        raise DatasetConflict(f"parts belong to different collections: {', '.join(collections)}")
    nomenclatures = {None if part.nomenclature is None else part.nomenclature.to_json() for part in found}
    if len(nomenclatures) > 1:
        names = sorted("no labels" if n is None else Nomenclature.from_json(n).name for n in nomenclatures)
        raise DatasetConflict(
            f"parts were labelled in different ways ({', '.join(names)}); a dataset has one nomenclature"
        )
    return collections[0], found[0].nomenclature


def _columns(names: Sequence[str]) -> pa.Schema:
    return pa.schema([SCHEMA.field(name) for name in names])


def _scene(part: Part) -> str:
    return part.path.split("/")[1]


def _scenes(storage: Storage, found: list[Part], schema: pa.Schema) -> Iterator[pa.Table]:
    """The items of one scene after the other, each sorted by id; scenes in the order of their names.

    All scenes' names have the same length, so that ids are in order over all of them.
    """
    for _, group in groupby(found, key=_scene):
        tables = [_read(storage, part, schema) for part in group]
        if len(tables) == 1:
            yield tables[0]
        else:
            yield pa.concat_tables(tables).sort_by("id")


def _read(storage: Storage, part: Part, schema: pa.Schema) -> pa.Table:
    try:
        return conformed(storage.open_parquet(part.path).read(columns=schema.names), schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, ValueError) as error:
        raise InvalidDataset(
            f"{storage.url}/{part.path} is damaged ({error}); delete it and its entry under jobs/, and build again"
        ) from error


def _write_items(file: Path, tables: Iterator[pa.Table], columns: pa.Schema, metadata: Mapping[bytes, Any]) -> None:
    """All items into one file in row groups of ROW_GROUP, whatever the sizes of the scenes."""
    schema = columns.with_metadata(dict(metadata))
    rest = columns.empty_table()
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for table in tables:
            rest = pa.concat_tables([rest, table.replace_schema_metadata(None)]).combine_chunks()
            while rest.num_rows >= ROW_GROUP:
                writer.write_table(rest.slice(0, ROW_GROUP).cast(schema), row_group_size=ROW_GROUP)
                rest = rest.slice(ROW_GROUP).combine_chunks()
        if rest.num_rows:
            writer.write_table(rest.cast(schema), row_group_size=ROW_GROUP)
