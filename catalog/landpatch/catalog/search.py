"""Search over a dataset's ``items.parquet``, on disk or on S3, without a database server.

The parquet is the truth. Its narrow columns are searched in DuckDB (``search_index.py``), but ids, boxes and
geometries lie in memory, 200 bytes an item: a look at those costs a tenth of a query. What a search finds are ranks
in the order of ids, and the bodies of a page come by row number (``bodies.py``). A ``Snapshot`` is one state of
the file and never changes; a ``SearchableDataset`` watches the file and swaps snapshots whole, so that no answer
mixes two states.

Paging is by keyset: a token says the sort values and the id of the last item of a page, never an offset, so that no
item is lost or doubled under ties and missing values, whatever happens to the dataset in between.
"""

import hashlib
import json
import logging
import os
import threading
import time
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from landpatch.catalog.bodies import BodyFile, RowGroups
from landpatch.catalog.cql2_sql import FALSE, MASK_BITS, TRUE, Column, Fragment, InvalidQuery, Kind, condition
from landpatch.catalog.errors import InvalidDataset, LandpatchError
from landpatch.catalog.items import SCHEMA
from landpatch.catalog.search_index import (
    SIDES,
    TABLE,
    index_columns,
    index_in_memory,
    index_name,
    make_index,
    open_index,
    remove_older,
)
from landpatch.catalog.store import COLLECTION, ITEMS, Storage

_log = logging.getLogger("landpatch.search")

_REMEMBERED = 128  # counts, and results of spatial conditions, of recent searches
_CHUNK = 50_000  # geometries looked at between two looks at the clock
_BODIES = "1.bodies"
_SQL_KINDS = {Kind.NUMBER: "DOUBLE", Kind.TEXT: "VARCHAR", Kind.TIME: "BIGINT", Kind.BOOLEAN: "BOOLEAN"}


class SearchTimeout(LandpatchError):
    """A search took longer than it may."""

    exit_code = 7
    retryable = True


@dataclass(frozen=True, slots=True)
class Query:
    """What is searched for; conditions that are None do not apply.

    ``geometry`` is a shapely geometry that items intersect, ``interval`` microseconds since 1970 (None: open),
    ``filter`` CQL2 in its JSON form, ``terms`` free text of which one must be found.
    """

    ids: tuple[str, ...] | None = None
    geometry: Any = None
    interval: tuple[int | None, int | None] | None = None
    filter: Any = None
    terms: tuple[str, ...] | None = None

    def key(self) -> tuple[Any, ...]:
        """Equal for equal queries, and hashable."""
        import shapely

        place = None if self.geometry is None else shapely.to_wkb(self.geometry)
        return self.ids, place, self.interval, json.dumps(self.filter, sort_keys=True), self.terms


@dataclass(frozen=True, slots=True)
class SortKey:
    """A property, and whether its largest values come first; items without it come last either way."""

    name: str
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Hit:
    """An item found: its ``rank`` in the snapshot, its ``id`` and the values it is sorted by."""

    rank: int
    id: str
    values: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class After:
    """Where the page before ended: its last item's sort values and id. ``id`` "" lies before all ids of this
    dataset, None behind them (a tie with an item of another dataset).
    """

    values: tuple[Any, ...]
    id: str | None


class Snapshot:
    """One state of a dataset's items, searchable by any number of threads; never changes."""

    def __init__(
        self, storage: Storage, *, cache: Path | None = None, seconds: float = 10.0, threads: int | None = None
    ) -> None:
        """Open or make the index. ``cache`` is a folder for derived files (None: all in memory); ``seconds`` is what
        a search may take.

        Raises StorageError, InvalidDataset.
        """
        self.storage, self._seconds = storage, seconds
        self.state = state_of(storage)
        self._file = storage.open_parquet(ITEMS)
        missing = sorted(set(SCHEMA.names) - set(self._file.schema_arrow.names))
        if missing:
            raise InvalidDataset(
                f"{storage.url}/{ITEMS} lacks the column(s) {', '.join(missing)}: it is of an earlier version, and "
                f"`landpatch retry {storage.url}` brings it up to date; or it is none of landpatch's"
            )
        self.collection = self._collection()
        self._database = self._index(cache, threads or min(os.cpu_count() or 1, 4))
        self.columns = index_columns(self._database)
        # In the order of ranks, as they were put in.
        with closing(self._database.cursor()) as cursor:
            held = cursor.sql(f"SELECT row, id, geometry, {', '.join(SIDES)} FROM {TABLE}").to_arrow_table()
        self._rows = np.from_dlpack(held["row"].combine_chunks())  # by rank, like the others
        self._ids = held["id"].combine_chunks()
        self._geometries = held["geometry"].combine_chunks()
        self._box = {side: np.from_dlpack(held[side].combine_chunks()) for side in SIDES}
        self._crossing = np.flatnonzero(self._box["xmin"] > self._box["xmax"]).astype(np.int32)
        self._groups = RowGroups(self._file, self._alternate)
        self._bodies: BodyFile | None = None
        self._spatial_found: OrderedDict[tuple[str, bytes], NDArray[np.int32]] = OrderedDict()
        self._counts: OrderedDict[Any, int] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def _alternate(self) -> str | None:
        return self.storage.url if self.storage.url.startswith("s3://") else None

    # --- loading --------------------------------------------------------------------------------------------------

    def _collection(self) -> dict[str, Any]:
        """From the parquet itself, so that both are of one state; ``collection.json`` where it holds none."""
        stored = orjson.loads((self._file.schema_arrow.metadata or {}).get(b"stac-geoparquet", b"{}"))
        collections = list((stored.get("collections") or {}).values())
        document: dict[str, Any] = collections[0] if collections else self.storage.get_json(COLLECTION)
        return document

    def _index(self, cache: Path | None, threads: int) -> Any:
        collection = str(self.collection["id"])
        if cache is None:
            return index_in_memory(self._file, threads, collection)
        path = self._cached(cache, index_name())
        with suppress(OSError):
            return open_index(path, threads)
        try:
            make_index(self._file, path, collection)
            remove_older(path)
            return open_index(path, threads)
        except OSError as error:
            _log.warning("no index in %s: %s; it is kept in memory", cache, error)
            return index_in_memory(self._file, threads, collection)

    def _cached(self, folder: Path, ending: str) -> Path:
        place, state = (hashlib.sha256(text.encode()).hexdigest()[:16] for text in (self.storage.url, self.state))
        return folder / f"{place}-{state}-{ending}"

    def close(self) -> None:
        """Let go of database and files; searches that still run end first or fail."""
        self._database.close()
        self._file.close()
        if self._bodies is not None:
            self._bodies.close()

    # --- searching ------------------------------------------------------------------------------------------------

    def search(
        self, query: Query, *, sort: Sequence[SortKey] = (), after: After | None = None, limit: int = 10
    ) -> list[Hit]:
        """The first ``limit`` items behind ``after``, sorted by ``sort`` and then by id.

        Raises InvalidQuery, SearchTimeout.
        """
        wanted = [self._sortable(key.name) for key in sort]
        if after is not None and len(after.values) != len(sort):
            raise InvalidQuery("the page token belongs to another search: begin again without it")
        with self._searching(query) as search:
            if not sort and search.rest is TRUE:
                first = 0 if after is None else self._rank_behind(after.id)
                if search.chosen is None:
                    ranks: Sequence[int] = range(first, min(first + limit, len(self)))
                else:
                    place = int(np.searchsorted(search.chosen, first))
                    ranks = search.chosen[place : place + limit].tolist()
                return [Hit(rank, self._id(rank)) for rank in ranks]
            behind = TRUE if after is None else self._behind(sort, wanted, after)
            order = [
                f"{column.sql} {'DESC' if key.descending else 'ASC'} NULLS LAST"
                for key, column in zip(sort, wanted, strict=True)
                if column is not None
            ]
            values = "".join(f", {'NULL' if column is None else column.sql}" for column in wanted)
            rows = search.rows(
                f"SELECT rank{values} FROM {TABLE} WHERE {search.where.sql} AND {behind.sql} "
                f"ORDER BY {', '.join([*order, 'rank'])} LIMIT {int(limit)}",
                [*search.where.values, *behind.values],
            )
        return [Hit(rank, self._id(rank), tuple(values)) for rank, *values in rows]

    def count(self, query: Query) -> int:
        """How many items match. Raises InvalidQuery, SearchTimeout."""
        if query == Query():
            return len(self)
        key = query.key()
        known = self._counts.get(key)
        if known is None:
            with self._searching(query) as search:
                if search.rest is TRUE and search.chosen is not None:
                    known = len(search.chosen)
                else:
                    sql = f"SELECT count(*) FROM {TABLE} WHERE {search.where.sql}"
                    known = int(search.rows(sql, search.where.values)[0][0])
            self._remember(self._counts, key, known)
        return known

    def frequencies(self, query: Query, name: str, *, by: str = "{}") -> list[tuple[Any, int]]:
        """How often each value of a property occurs among the items that match, most frequent first, then by value.

        An item counts for every word of an array. ``by`` is what the value becomes first, as SQL with ``{}``.
        Raises InvalidQuery, SearchTimeout.
        """
        column = self.columns[name]
        with self._searching(query) as search:
            if column.vocabulary is not None:
                masks = ", ".join(column.masks)
                grouped = search.rows(
                    f"SELECT count(*), {masks} FROM {TABLE} "
                    f"WHERE {search.where.sql} AND {column.masks[0]} IS NOT NULL GROUP BY {masks}",
                    search.where.values,
                )
                found = _words_counted(column.vocabulary, grouped)
            else:
                key = by.format(column.sql)
                found = search.rows(
                    f"SELECT {key} AS key, count(*) FROM {TABLE} "
                    f"WHERE {search.where.sql} AND {column.sql} IS NOT NULL GROUP BY key",
                    search.where.values,
                )
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))

    def extremes(self, query: Query, name: str) -> tuple[Any, Any]:
        """Smallest and largest value of a property among the items that match; None, None where there is none."""
        column = self.columns[name]
        with self._searching(query) as search:
            row = search.rows(
                f"SELECT min({column.sql}), max({column.sql}) FROM {TABLE} WHERE {search.where.sql}",
                search.where.values,
            )[0]
        return row[0], row[1]

    def distinct(self, name: str) -> list[str]:
        """The words that a text or array property has anywhere, sorted."""
        return self._distinct.get(name, [])

    @cached_property
    def _distinct(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, column in self.columns.items():
            if column.vocabulary is not None:
                found[name] = list(column.vocabulary)
            elif name in _ENUMERATED:
                rows = self._database.cursor().execute(
                    f"SELECT DISTINCT {column.sql} FROM {TABLE} WHERE {column.sql} IS NOT NULL ORDER BY 1"
                )
                found[name] = [row[0] for row in rows.fetchall()]
        return found

    def rank_of(self, item_id: str) -> int | None:
        """The rank of an id; None where there is no such item."""
        rank = bisect_left(range(len(self)), item_id, key=self._id)
        return rank if rank < len(self) and self._id(rank) == item_id else None

    def _id(self, rank: int) -> str:
        id_: str = self._ids[rank].as_py()
        return id_

    def _rank_behind(self, item_id: str | None) -> int:
        """The first rank behind an id as it sorts here and now: the item itself may be gone."""
        return len(self) if item_id is None else bisect_right(range(len(self)), item_id, key=self._id)

    def bodies(self, ranks: Sequence[int]) -> list[bytes]:
        """The items of these ranks as JSON text, open in two places (``bodies.completed``).

        Raises StorageError where the file has changed on S3 meanwhile.
        """
        rows = self._rows[np.asarray(ranks, np.int64)].tolist()
        return (self._bodies or self._groups).bodies(rows)

    def _sortable(self, name: str) -> Column | None:
        column = self.columns.get(name.removeprefix("properties."))
        if column is not None and column.kind not in _SQL_KINDS:
            raise InvalidQuery(f"{name!r} is of kind {column.kind}, and has no order")
        return column

    def _behind(self, sort: Sequence[SortKey], columns: Sequence[Column | None], after: After) -> Fragment:
        """Condition that an item comes behind a place in the order: lexicographic, with NULLs last."""
        choices: list[str] = []
        values: list[Any] = []
        prefix_values: list[Any] = []
        prefix = ""
        for key, column, value in zip(sort, columns, after.values, strict=True):
            if column is None:
                continue
            bound = f"?::{_SQL_KINDS[column.kind]}"
            if value is not None:  # nothing comes behind NULL but more NULLs
                order = "<" if key.descending else ">"
                choices.append(f"({prefix}({column.sql} {order} {bound} OR {column.sql} IS NULL))")
                values += [*prefix_values, value]
            prefix += f"{column.sql} IS NOT DISTINCT FROM {bound} AND "
            prefix_values.append(value)
        if after.id is not None:
            choices.append(f"({prefix}rank >= ?)")
            values += [*prefix_values, self._rank_behind(after.id)]
        if not choices:
            return FALSE
        return Fragment(f"({' OR '.join(choices)})", tuple(values))

    @contextmanager
    def _searching(self, query: Query) -> Iterator["_Search"]:
        search = _Search(self._database, time.monotonic() + self._seconds)
        try:
            search.chosen = self._chosen(query, search)
            search.rest = self._rest(query, search)
            yield search
        finally:
            search.close()

    def _chosen(self, query: Query, search: "_Search") -> NDArray[np.int32] | None:
        """Ranks that ids and places leave, sorted; None: all."""
        chosen = None
        if query.geometry is not None:
            chosen = self._related("intersects", query.geometry, search)
        if query.ids is not None:
            ranks = sorted({rank for rank in map(self.rank_of, query.ids) if rank is not None})
            named = np.array(ranks, np.int32)
            chosen = named if chosen is None else np.intersect1d(chosen, named, assume_unique=True)
        return chosen

    def _rest(self, query: Query, search: "_Search") -> Fragment:
        """What only the database can tell."""
        parts = []
        if query.interval is not None:
            start, end = query.interval
            time_, first, last = (self.columns[name].sql for name in ("datetime", "start_datetime", "end_datetime"))
            begins, ends = f"coalesce({time_}, {first})", f"coalesce({time_}, {last})"
            if end is not None:
                parts.append(Fragment(f"{begins} <= ?", (end,)))
            if start is not None:
                parts.append(Fragment(f"{ends} >= ?", (start,)))

        def spatial(relation: str, geometry: Any) -> Fragment:
            return search.within(self._related(relation, geometry, search))

        if query.filter is not None:
            parts.append(condition(query.filter, self.columns, spatial))
        if query.terms is not None:
            parts.append(self._free_text(query.terms))
        return _all_of(parts)

    def _free_text(self, terms: Sequence[str]) -> Fragment:
        """Any of the terms in the id, the labels, the country, the split or the tile; case does not matter."""
        parts, values = [], []
        for term in terms:
            word = term.strip().lower()
            try:
                word.encode()
            except UnicodeEncodeError:
                raise InvalidQuery("the free text is no valid text") from None
            for name in ("id", "landpatch:country", "landpatch:split"):
                parts.append(f"contains(lower({self.columns[name].sql}), ?)")
                values.append(word)
            labels = [label for label in self.distinct("landpatch:labels") if word in label.lower()]
            if labels:
                found = condition(
                    {"op": "a_overlaps", "args": [{"property": "landpatch:labels"}, labels]}, self.columns, _no_places
                )
                parts.append(found.sql)
                values += found.values
        return Fragment(f"({' OR '.join(parts)})", tuple(values)) if parts else FALSE

    # --- places ---------------------------------------------------------------------------------------------------

    def _related(self, relation: str, geometry: Any, search: "_Search") -> NDArray[np.int32]:
        """Ranks of the items whose geometry stands in a relation to ``geometry``, sorted."""
        import shapely

        key = (relation, shapely.to_wkb(geometry))
        known = self._spatial_found.get(key)
        if known is not None:
            return known
        parts = getattr(geometry, "geoms", [geometry])
        near = np.unique(np.concatenate([self._near(*shapely.bounds(part).tolist()) for part in parts]))
        certain = np.zeros(0, np.int32)
        if relation == "intersects" and len(parts) == 1 and geometry.equals(shapely.box(*shapely.bounds(geometry))):
            # Of a box, only the items on its edge need a look at their own geometry.
            inside = self._inside(near, *shapely.bounds(geometry).tolist())
            certain, near = near[inside], near[~inside]
        shapely.prepare(geometry)
        test = getattr(shapely, _CONVERSE.get(relation, relation))
        found = [certain]
        for start in range(0, len(near), _CHUNK):
            chunk = near[start : start + _CHUNK]
            # Prepared geometries are the first of the two; what is prepared here is the query's.
            search.look_at_the_clock()
            shapes = shapely.from_wkb(self._geometries.take(_arrow(chunk)).to_pylist())
            found.append(chunk[test(geometry, shapes)])
        result = np.sort(np.concatenate(found)).astype(np.int32)
        self._remember(self._spatial_found, key, result)
        return result

    def _near(self, west: float, south: float, east: float, north: float) -> NDArray[np.int32]:
        """Ranks of the items whose bbox meets a box; an item's own may cross the antimeridian (west > east)."""
        xmin, ymin, xmax, ymax = (self._box[side] for side in SIDES)
        near = np.flatnonzero((xmin <= east) & (xmax >= west) & (ymin <= north) & (ymax >= south)).astype(np.int32)
        across = self._crossing[(xmin[self._crossing] <= east) | (xmax[self._crossing] >= west)]
        across = across[(ymin[across] <= north) & (ymax[across] >= south)]
        return np.union1d(near, across)

    def _inside(
        self, ranks: NDArray[np.int32], west: float, south: float, east: float, north: float
    ) -> NDArray[np.bool_]:
        xmin, ymin, xmax, ymax = (self._box[side][ranks] for side in SIDES)
        within = (xmin >= west) & (xmax <= east) & (ymin >= south) & (ymax <= north) & (xmin <= xmax)
        return np.asarray(within)

    def _remember(self, memory: "OrderedDict[Any, Any]", key: Any, value: Any) -> None:
        with self._lock:
            memory[key] = value
            while len(memory) > _REMEMBERED:
                memory.popitem(last=False)

    # --- the file of bodies ---------------------------------------------------------------------------------------

    def find_bodies(self, folder: Path) -> bool:
        """Take the body file of this very state from a cache folder; whether there is one."""
        try:
            self._bodies = BodyFile(self._cached(folder, _BODIES))
        except (OSError, ValueError):
            return False
        if self._bodies.count != len(self):
            self._bodies = None
        return self._bodies is not None

    def make_bodies(self, folder: Path, stop: threading.Event) -> bool:
        """Make the body file in a cache folder, and take it; False where it was stopped or the disk refused.

        Files of earlier states of the same dataset are removed. Takes a minute or two for half a million items.
        """
        path = self._cached(folder, _BODIES)
        try:
            file = self.storage.open_parquet(ITEMS)
            made = BodyFile.write(path, file, self._alternate, lambda *_: not stop.is_set())
        except OSError as error:
            _log.warning("no body file in %s: %s; sorted pages take longer without", folder, error)
            return False
        if made is None or made.count != len(self) or state_of(self.storage) != self.state:
            with suppress(FileNotFoundError):
                path.unlink()
            return False
        remove_older(path)
        self._bodies = made
        return True


class _Search:
    """One search: what is looked for, the time when it must be over, and a connection of its own if it needs one."""

    chosen: NDArray[np.int32] | None = None
    """Ranks among which it is looked for, sorted; None: all."""
    rest: Fragment = TRUE
    """What else holds."""

    def __init__(self, database: Any, deadline: float) -> None:
        self._database, self._deadline = database, deadline
        self._cursor: Any = None
        self._relations = 0

    @cached_property
    def where(self) -> Fragment:
        """All of it as SQL."""
        return self.rest if self.chosen is None else _all_of([self.within(self.chosen), self.rest])

    def within(self, ranks: NDArray[np.int32]) -> Fragment:
        """Condition that a rank is one of these, which are sorted."""
        if len(ranks) == 0:
            return FALSE
        if len(ranks) <= 16:
            return Fragment(f"rank IN ({', '.join('?' for _ in ranks)})", tuple(ranks.tolist()))
        if int(ranks[-1]) - int(ranks[0]) + 1 == len(ranks):
            return Fragment("rank BETWEEN ? AND ?", (int(ranks[0]), int(ranks[-1])))
        name = f"ranks_{self._relations}"
        self._relations += 1
        self._connection().register(name, pa.table({"rank": _arrow(ranks)}))
        return Fragment(f"rank IN (SELECT rank FROM {name})")

    def close(self) -> None:
        """Let go of the connection."""
        if self._cursor is not None:
            self._cursor.close()

    def _connection(self) -> Any:
        if self._cursor is None:
            self._cursor = self._database.cursor()
        return self._cursor

    def rows(self, sql: str, values: Sequence[Any]) -> list[Any]:
        """All rows of a query."""
        return list(self._executed(sql, values, "fetchall"))

    def look_at_the_clock(self) -> None:
        """Raises SearchTimeout when the time is over."""
        if time.monotonic() > self._deadline:
            raise SearchTimeout("the search takes too long: make it narrower")

    def _executed(self, sql: str, values: Sequence[Any], fetch: str) -> Any:
        import duckdb

        self.look_at_the_clock()
        cursor = self._connection()
        timer = threading.Timer(self._deadline - time.monotonic(), cursor.interrupt)
        timer.daemon = True
        timer.start()
        try:
            return getattr(cursor.execute(sql, list(values)), fetch)()
        except duckdb.InterruptException:
            raise SearchTimeout("the search takes too long: make it narrower") from None
        except (duckdb.OutOfRangeException, duckdb.ConversionException, duckdb.InvalidInputException) as error:
            text = str(error).split("\n", 1)[0]
            raise InvalidQuery(f"the filter cannot be computed: {text}") from None
        finally:
            timer.cancel()


class SearchableDataset:
    """A dataset that is watched: always the snapshot of its present state, loaded in the background."""

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        cache: Path | None = None,
        seconds: float = 10.0,
        watch_seconds: float = 2.0,
        threads: int | None = None,
    ) -> None:
        """Load the dataset. ``cache`` is a folder for body files (None: go without); ``watch_seconds`` is how often
        the file is looked at.

        Raises StorageError, InvalidDataset.
        """
        self.storage = Storage.open(url)
        self._cache, self._seconds, self._threads = cache, seconds, threads
        self._watch_seconds = watch_seconds
        self._looked = time.monotonic()
        self._lock = threading.Lock()
        self._loading: threading.Thread | None = None
        self._closed = threading.Event()
        self._refused = ""
        self._snapshot = self._load()

    def snapshot(self) -> Snapshot:
        """The newest state that is loaded; looks from time to time whether there is a newer one."""
        if time.monotonic() - self._looked > self._watch_seconds and self._lock.acquire(blocking=False):
            try:
                self._looked = time.monotonic()
                if self._loading is None or not self._loading.is_alive():
                    self._start(self._reload)
            finally:
                self._lock.release()
        return self._snapshot

    def reload(self) -> Snapshot:
        """Look now, and wait for the newest state. Raises StorageError, InvalidDataset."""
        if state_of(self.storage) != self._snapshot.state:
            self._snapshot = self._load()
        return self._snapshot

    def close(self) -> None:
        """Stop what goes on in the background, and let go of the files."""
        self._closed.set()
        if self._loading is not None:
            self._loading.join()
        self._snapshot.close()

    def _start(self, work: Any) -> None:
        self._loading = threading.Thread(target=work, name="landpatch-reload", daemon=True)
        self._loading.start()

    def _load(self) -> Snapshot:
        begun = time.monotonic()
        snapshot = Snapshot(self.storage, cache=self._cache, seconds=self._seconds, threads=self._threads)
        with suppress(SearchTimeout):  # warm up: the first query costs ten times as much as the next
            snapshot.search(Query(), limit=1)
        snapshot.distinct("landpatch:split")
        _log.info("%s: %s items loaded in %.1f s", self.storage.url, len(snapshot), time.monotonic() - begun)
        if self._cache is not None and not snapshot.find_bodies(self._cache):
            folder = self._cache
            if threading.current_thread().name == "landpatch-reload":
                snapshot.make_bodies(folder, self._closed)
            else:
                self._start(lambda: snapshot.make_bodies(folder, self._closed))
        return snapshot

    def _reload(self) -> None:
        try:
            state = state_of(self.storage)
            if state != self._snapshot.state and state != self._refused:
                self._refused = state  # a damaged file is told once, not every two seconds
                self._snapshot = self._load()
        except LandpatchError as error:
            _log.error("%s: not reloaded, the state before is served: %s", self.storage.url, error)


def state_of(storage: Storage) -> str:
    """What changes whenever ``items.parquet`` does: ETag, size and time of its last change. Raises StorageError."""
    entry = storage.head(ITEMS)
    return json.dumps([entry["e_tag"], entry["size"], str(entry["last_modified"])])


_CONVERSE = {"contains": "within", "within": "contains"}
_ENUMERATED = (
    "landpatch:split",
    "ml-aoi:split",
    "landpatch:tile",
    "grid:code",
    "landpatch:country",
    "platform",
    "proj:code",
    "processing:level",
    "landpatch:backscatter",
    "landpatch:boa_offset",
)
"""Properties whose values are few."""


def _arrow(ranks: NDArray[np.int32]) -> pa.Array:
    """The same memory as an Arrow array; pyarrow's own way imports pandas where there is one, which takes 2 s."""
    return pa.Array.from_buffers(pa.int32(), len(ranks), [None, pa.py_buffer(np.ascontiguousarray(ranks, np.int32))])


def _all_of(parts: Sequence[Fragment]) -> Fragment:
    if not parts:
        return TRUE
    return Fragment(
        f"({' AND '.join(part.sql for part in parts)})", tuple(value for part in parts for value in part.values)
    )


def _words_counted(vocabulary: Sequence[str], grouped: Sequence[Sequence[int]]) -> list[tuple[str, int]]:
    """From rows of a count and the masks that so many items have: how many items have each word."""
    rows = np.array(grouped, np.int64).reshape(len(grouped), -1)
    found = []
    for place, word in enumerate(vocabulary):
        number, bit = divmod(place, MASK_BITS)
        times = int(rows[(rows[:, 1 + number] >> bit) & 1 == 1, 0].sum()) if len(rows) else 0
        if times:
            found.append((word, times))
    return found


def _no_places(relation: str, geometry: Any) -> Fragment:  # noqa: ARG001
    raise InvalidQuery("no geometry here")
