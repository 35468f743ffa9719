"""The dataset as an LMDB file, the form in which BigEarthNet v2.0 is trained on.

A directory with ``data.mdb``: the unnamed database, one key for each Sentinel-1 patch (``s1_name``), Sentinel-2 patch
(``patch_id``) and reference map (``patch_id`` + ``_reference_map``), each value a safetensors blob of its bands at
native resolution. Keys are written Sentinel-1 first, then Sentinel-2, then maps, each sorted, 512 a transaction, as
rico-hdl (Clasen et al.) does it. Up to 512 patches the same pixels give the same file but for the map size; in larger
ones bytes differ that no page uses, so that an export gives the same file whether it was interrupted or not.

The two metadata tables of the same patches lie beside ``data.mdb``.

A file grows beside its place, in ``<path>.partial``, and is moved there when it is complete. ``export_lmdb`` makes it
from patch files; a build can fill it on the way (LmdbWriter), in transactions so small that their values stay in the
processor's caches, and let ``export_lmdb`` add what is missing.

Sources: https://github.com/kai-tub/rico-hdl; https://github.com/huggingface/safetensors (format); LMDB 0.9, mdb.c.
"""

import json
import os
import shutil
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from hashlib import sha256
from itertools import repeat
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from landpatch.catalog.bands import OPTICAL_ASSETS, REFERENCE_MAP, S1, PatchAsset
from landpatch.catalog.errors import DatasetConflict, InvalidDataset, InvalidParameter, StorageError
from landpatch.catalog.exports.sources import (
    DamagedFile,
    PatchFile,
    asset_columns,
    asset_field,
    batches,
    chosen_rows,
    damage_report,
    fingerprints,
)
from landpatch.catalog.heap import kept_memory
from landpatch.catalog.store import METADATA, METADATA_FLAGGED, Dataset, Storage
from landpatch.catalog.tables import COLUMNS_NEEDED, official_tables, write_table

MARKER = "landpatch.json"
"""Beside ``data.mdb``: which dataset it was made from, and in which state of it."""

_KEYS_A_TRANSACTION = 512  # rico-hdl's, so that files are equal; about 80 MB
_KEYS_A_FLUSH = 6  # two patches of a build, 0.6 MB: encoded, copied by LMDB and written while the caches hold them
_VALUES_A_TASK, _TASKS_AHEAD = 8, 2  # of each thread that reads files: 1.3 MB a task at most
_LET_GO = 64 * 2**20  # bytes; 8 and 256 MB take as long
_FIRST_MAP = 64 * 2**20
_SPARE_PAGES = 64  # of a transaction: the way to the leaf, the list of free pages
_MAP_STEP = 4 * 2**30  # the map doubles up to this size and then grows by it
_DATA, _LOCK = "data.mdb", "lock.mdb"
_PATIENCE = 10  # seconds that a folder may be held by others: joining it takes them a moment
_FORMAT = "1"  # of the values and keys; another number makes finished exports out of date


# --- Values ---------------------------------------------------------------------------------------------------------

_SAFETENSORS_DTYPES = {"uint16": "U16", "float32": "F32"}


class BlobLayout:
    """How the planes of some assets of one dtype lie in a safetensors blob: by name, each at its native size.

    ``header`` is what precedes the pixels, ``size`` the blob's bytes, ``tensors`` gives the first byte of each plane
    in the blob and its shape.
    """

    def __init__(self, assets: Sequence[PatchAsset]) -> None:
        (dtype,) = {asset.dtype for asset in assets}
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self._shapes = {asset.key: (len(asset.planes), asset.pixels, asset.pixels) for asset in assets}
        # The serialiser sorts by alignment of the dtype, then by name; here all have one dtype.
        planes = sorted((name, asset, number) for asset in assets for number, name in enumerate(asset.planes))
        entries: dict[str, Any] = {}
        runs: list[_Run] = []
        start = 0
        for name, asset, number in planes:
            shape = (asset.pixels, asset.pixels)
            count = asset.pixels**2
            span = [start * self.dtype.itemsize, (start + count) * self.dtype.itemsize]
            entries[name] = {"dtype": _SAFETENSORS_DTYPES[dtype], "shape": list(shape), "data_offsets": span}
            if runs and (runs[-1].asset, runs[-1].last) == (asset.key, number):
                runs[-1] = replace(runs[-1], last=number + 1)
            else:
                runs.append(_Run(asset.key, number, number + 1, start, asset.pixels))
            start += count
        self._runs = tuple(runs)
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # so that the pixels are aligned
        self.header = struct.pack("<Q", len(text)) + text
        self.size = len(self.header) + start * self.dtype.itemsize
        self.tensors = {
            name: (len(self.header) + entry["data_offsets"][0], tuple(entry["shape"]))
            for name, entry in entries.items()
        }
        self._head = np.frombuffer(self.header, np.uint8)
        self._planes = [(asset.key, name) for asset in assets for name in asset.planes]

    def empty(self) -> NDArray[np.uint8]:
        """A new blob whose pixels have no value yet."""
        blob = np.empty(self.size, np.uint8)
        blob[: len(self._head)] = self._head
        return blob

    def planes(self, blob: NDArray[np.uint8]) -> dict[str, list[NDArray[Any]]]:
        """The planes of each asset by its key, as views of the blob."""
        views: dict[str, list[NDArray[Any]]] = {key: [] for key in self._shapes}
        for key, name in self._planes:
            start, shape = self.tensors[name]
            end = start + shape[0] * shape[1] * self.dtype.itemsize
            views[key].append(blob[start:end].view(self.dtype).reshape(shape))
        return views

    def encode(self, planes: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
        """The blob, as a new 1-d array of bytes, equal to ``safetensors.numpy.save`` of the same planes by name.

        ``planes`` gives each asset's (planes, pixels, pixels) by its key and may hold views. Raises InvalidParameter
        for another shape or dtype, which would be cast in silence.
        """
        for key, shape in self._shapes.items():
            found = planes[key]
            if found.shape != shape or found.dtype != self.dtype:
                raise InvalidParameter(
                    f"{key} takes {' x '.join(map(str, shape))} of {self.dtype}, "
                    f"not {' x '.join(map(str, found.shape))} of {found.dtype}"
                )
        blob = self.empty()
        pixels = blob[len(self._head) :].view(self.dtype)
        for run in self._runs:
            count = (run.last - run.first) * run.pixels**2
            target = pixels[run.start : run.start + count].reshape(-1, run.pixels, run.pixels)
            target[...] = planes[run.asset][run.first : run.last]
        return blob


@dataclass(frozen=True, slots=True)
class _Run:
    """Planes ``first`` to ``last`` of an asset that lie one behind the other from pixel ``start`` on."""

    asset: str
    first: int
    last: int
    start: int
    pixels: int


OPTICAL_BLOB = BlobLayout(OPTICAL_ASSETS)
"""B01 ... B12, B8A: uint16, 160,832 bytes."""
RADAR_BLOB = BlobLayout((S1,))
"""VH, VV: float32 dB, 115,344 bytes."""
MAP_BLOB = BlobLayout((REFERENCE_MAP,))
"""Data: uint16, 28,880 bytes."""


# --- The file -------------------------------------------------------------------------------------------------------


class _Database:
    """The LMDB file of a folder, open for writing. py-lmdb lets a process have it open once: close it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._env = self._opened(_FIRST_MAP)
        self._passed = self._end()

    def _opened(self, map_size: int) -> Any:
        with self._explained():
            # Synced once, on closing: a killed process loses nothing by that, only a machine that goes down does.
            return lmdb.open(str(self._folder), map_size=map_size, sync=False, readahead=False)

    def forget(self) -> None:
        """Open the file anew and forget the pages kept for use again: what they held would stay in the unused
        bytes of the next transaction's pages, and the file would tell where its writing was interrupted.
        """
        map_size = self._env.info()["map_size"]
        self._env.close()
        self._env = self._opened(map_size)

    def missing(self, keys: Sequence[str]) -> list[bool]:
        """Of each key, whether it is not there."""
        with self._explained(), self._begin(write=False) as transaction:
            cursor = transaction.cursor()  # `get` would read the value, 160 kB, from the disk
            return [not cursor.set_key(key.encode()) for key in keys]

    def all_keys(self) -> list[str]:
        """All keys in order."""
        with self._explained(), self._begin(write=False) as transaction:
            return [bytes(key).decode() for key in transaction.cursor().iternext(keys=True, values=False)]

    def __len__(self) -> int:
        with self._explained():
            entries: int = self._env.stat()["entries"]
            return entries

    def put(self, pairs: Sequence[tuple[str, Any]]) -> None:
        """Write the pairs in one transaction, over what is there already; the same value stays untouched."""

        def write(transaction: Any) -> None:
            for key, value in pairs:
                if not _put(transaction, key, value):
                    transaction.put(key.encode(), value)

        self._written(write)

    @contextmanager
    def transaction(self, values: int, size: int) -> Iterator[Callable[[str, Any], bool]]:
        """One transaction for up to ``values`` values of ``size`` bytes; no other process may write.

        Gives what puts a value and tells whether the key has that value now: what is there already stays. The value's
        memory may be used again at once.
        """
        with self._explained():
            self._make_room(values, size)
            with self._begin(write=True) as transaction:
                yield partial(_put, transaction)
            self._let_go()

    def _make_room(self, values: int, size: int) -> None:
        """So that a transaction does not have to be begun again with a larger map, for which it is too late then."""
        page = self._env.stat()["psize"]
        # A value has pages of its own; of the tree's it needs less than one, a transaction some more.
        needed = self._end() + (values * (size // page + 3) + _SPARE_PAGES) * page
        present = map_size = self._env.info()["map_size"]
        while map_size < needed:
            map_size += min(map_size, _MAP_STEP)
        if map_size != present:
            self._env.set_mapsize(map_size)

    def _let_go(self) -> None:
        """Have the system write what was added lately, and forget what it has written.

        It would else begin late, keep the whole file in memory, more than there may be, and push out what is being
        read for it. Where memory has to be asked back from a host, that takes longer than the writing.
        """
        end = self._end()
        if end - self._passed >= _LET_GO and hasattr(os, "posix_fadvise"):  # Linux, BSD
            # Of what is not on the disk yet the writing begins only; the next call has it forgotten.
            start = max(0, self._passed - _LET_GO)
            with (self._folder / _DATA).open("rb") as file:
                os.posix_fadvise(file.fileno(), start, end - start, os.POSIX_FADV_DONTNEED)
            self._passed = end

    def _end(self) -> int:
        """Bytes that the pages in use take, from the file's beginning."""
        return int((self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"])

    def delete(self, keys: Sequence[str]) -> None:
        """Remove keys."""

        def write(transaction: Any) -> None:
            for key in keys:
                transaction.delete(key.encode())

        self._written(write)

    def close(self) -> None:
        """Bring everything to the disk and let go of the file."""
        try:
            with self._explained():
                self._env.sync(True)
        finally:
            self._env.close()

    def _written(self, write: Callable[[Any], None]) -> None:
        with self._explained():
            while True:
                try:
                    with self._begin(write=True) as transaction:
                        write(transaction)
                    self._let_go()
                    return
                except lmdb.MapFullError:
                    size = self._env.info()["map_size"]
                    self._env.set_mapsize(size + min(size, _MAP_STEP))

    def _begin(self, *, write: bool) -> Any:
        while True:
            try:
                return self._env.begin(write=write, buffers=True)
            except lmdb.MapResizedError:
                self._env.set_mapsize(0)  # another process let the file grow: take its size over

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except lmdb.Error as error:
            reason = str(error)
            # A write that fits in part is an input/output error to LMDB.
            if "No space left" in reason or shutil.disk_usage(self._folder).free < 2**20:
                reason = "the disk is full; free some space and run the same command again"
            raise StorageError(f"cannot write {self._folder / _DATA}: {reason}") from error


def _put(transaction: Any, key: str, value: Any) -> bool:
    """Put a value where there is none; whether the key has it now."""
    name = key.encode()
    # The rightmost page is split in halves as upstream does it: no append mode.
    return transaction.put(name, value, overwrite=False) or bytes(transaction.get(name)) == bytes(value)


# Of a meta page (mdb.c, MDB_meta behind a page header of 16 bytes): magic number and version, then the offsets of the
# map size, the page size, the last page in use and the number of the transaction that wrote it.
_MAGIC = struct.pack("<II", 0xBEEFC0DE, 1)
_MAP_SIZE_AT, _PAGE_SIZE_AT, _LAST_PAGE_AT, _TRANSACTION_AT = 32, 40, 136, 144


def _trim(file: Path) -> int:
    """Make file size and map size what the pages in use take, in bytes; nobody may have the file open.

    LMDB itself only ever raises the map size, and a copy of a file with a large one may come out sparse, or not fit.
    """
    with file.open("r+b") as handle:
        first = handle.read(_TRANSACTION_AT + 8)
        if first[16:24] != _MAGIC:
            raise InvalidDataset(f"{file} is no LMDB file of version 1; delete its folder and export again")
        (page,) = struct.unpack_from("<I", first, _PAGE_SIZE_AT)
        handle.seek(page)
        metas = [first, handle.read(_TRANSACTION_AT + 8)]
        newest = max(metas, key=lambda meta: struct.unpack_from("<Q", meta, _TRANSACTION_AT))
        (last,) = struct.unpack_from("<Q", newest, _LAST_PAGE_AT)
        size: int = (last + 1) * page
        if handle.seek(0, os.SEEK_END) < size:
            raise InvalidDataset(f"{file} is truncated; delete its folder and export again")
        for start in (0, page):
            handle.seek(start + _MAP_SIZE_AT)
            handle.write(struct.pack("<Q", size))
        handle.truncate(size)
        handle.flush()
        os.fsync(handle.fileno())
    return size


# --- Places ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Marker:
    """What a folder holds: an export of ``dataset`` in the state ``fingerprint`` (None while a build fills it).

    ``boot`` is the machine's start during which it was written: what was not synced before another is not trusted.
    ``subset`` tells whether some patches were chosen; ``bytes`` is data.mdb's size once it is finished.
    """

    dataset: str
    fingerprint: str | None
    subset: bool
    boot: str | None
    patches: int = 0
    keys: int = 0
    bytes: int = 0

    def write(self, folder: Path) -> None:
        new = folder / f"{MARKER}.{os.getpid()}.new"
        new.write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n")
        new.replace(folder / MARKER)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """None where there is none that makes sense."""
        try:
            return cls(**json.loads((folder / MARKER).read_text()))
        except (OSError, ValueError, TypeError):
            return None


def _boot() -> str | None:
    file = Path("/proc/sys/kernel/random/boot_id")
    return file.read_text().strip() if file.exists() else None


def _place(path: str | os.PathLike[str]) -> Path:
    text = os.fspath(path)
    if "://" in text:
        raise InvalidParameter(
            f"{text!r}: an LMDB file is mapped into memory and has to be written to a local folder"
        )
    return Path(text).absolute()


def _partial(place: Path) -> Path:
    return place.with_name(place.name + ".partial")


@contextmanager
def _held(place: Path, wanted: _Marker, *, alone: bool, trust: bool) -> Iterator[None]:
    """Hold the folder in which the file grows; what it holds is emptied out unless it is of use for ``wanted``.

    ``alone``: nobody else may be writing there; else everybody must be writing the same. ``trust``: what a build left
    there is of use. Raises DatasetConflict, StorageError. The hold ends with the process, however that ends.
    """
    folder = _partial(place)
    patience = time.monotonic() + _PATIENCE
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError(f"cannot write to {folder}: {error.strerror}") from error
        try:
            if _joined(handle, folder, wanted, alone=alone, trust=trust):
                yield
                return
        finally:
            os.close(handle)
        if time.monotonic() > patience:
            raise DatasetConflict(f"another process is writing {folder}: wait for it, or choose another path")
        time.sleep(0.02)


def _joined(handle: int, folder: Path, wanted: _Marker, *, alone: bool, trust: bool) -> bool:
    """One attempt to hold ``folder``; False if somebody else is in the way."""
    first = _lock(handle, shared=False)
    if not first and (alone or not _lock(handle, shared=True)):
        return False
    try:
        if folder.stat().st_ino != os.fstat(handle).st_ino:  # finished and moved away meanwhile
            return False
    except FileNotFoundError:
        return False
    found = _Marker.read(folder)
    useful = (
        found is not None
        and (found.dataset, found.boot) == (wanted.dataset, wanted.boot)
        and (found.fingerprint == wanted.fingerprint or (trust and found.fingerprint is None))
    )
    if not first and not useful:
        raise DatasetConflict(
            f"another process is writing {found.dataset if found else 'something else'} to {folder}, this one would "
            f"write {wanted.dataset}: choose another path"
        )
    if not useful:
        try:
            _empty(folder)
            wanted.write(folder)
        except OSError as error:
            raise StorageError(f"cannot write to {folder}: {error.strerror}") from error
    if first and not alone:
        _lock(handle, shared=True)
    return True


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _lock(handle: int, *, shared: bool) -> bool:
    """Lock an open folder; False if another process holds it."""
    import fcntl  # not on Windows, where everything but writing LMDB files works

    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# --- Filled by a build ----------------------------------------------------------------------------------------------


class LmdbWriter:
    """Takes the arrays of patches while they are built, and writes them to the file that grows for ``path``.

    ``dataset`` is the URL of the dataset being built, as its Storage gives it. Several threads may put patches into
    one writer, and several processes may each have a writer for the same path; in one process there can be only one
    at a time. Patches that are put again are replaced. The file gets to its place by ``export_lmdb(..., fused=True)``
    once the dataset is complete. Raises DatasetConflict if another dataset is being written there, StorageError.
    """

    def __init__(self, path: str | os.PathLike[str], *, dataset: str) -> None:
        place = _place(path)
        with ExitStack() as stack:
            stack.enter_context(_held(place, _Marker(dataset, None, False, _boot()), alone=False, trust=True))
            stack.enter_context(kept_memory())
            self._database = _Database(_partial(place))
            stack.callback(self._database.close)
            self._open = stack.pop_all()
        self._waiting: list[tuple[str, Any]] = []
        self._changing = threading.Lock()
        self._writing = threading.Lock()

    def put_patch(
        self,
        patch_id: str,
        s1_name: str | None,
        optical: Mapping[str, NDArray[np.uint16]],
        radar: NDArray[np.float32] | None,
        reference_map: NDArray[np.uint16] | None,
    ) -> None:
        """Add a patch: optical planes by asset key (bands, px, px); ``radar`` VV, VH (2, 120, 120) dB under
        ``s1_name``; ``reference_map`` (120, 120). The arrays are copied. Raises InvalidParameter, StorageError.
        """
        pairs: list[tuple[str, Any]] = []
        if radar is not None:
            if s1_name is None:
                raise InvalidParameter(f"{patch_id}: Sentinel-1 pixels without a name")
            pairs.append((s1_name, RADAR_BLOB.encode({S1.key: radar})))
        pairs.append((patch_id, OPTICAL_BLOB.encode(optical)))
        if reference_map is not None:
            key = f"{patch_id}{REFERENCE_MAP.suffix}"
            pairs.append((key, MAP_BLOB.encode({REFERENCE_MAP.key: reference_map[None]})))
        with self._changing:
            self._waiting += pairs
            full = len(self._waiting) >= _KEYS_A_FLUSH
        if full:
            self.flush()

    def flush(self) -> None:
        """Commit what has been put so far."""
        # The other threads go on encoding meanwhile, and what they add waits for the next transaction.
        with self._writing:
            with self._changing:
                pairs, self._waiting = self._waiting, []
            if pairs:
                self._database.put(pairs)

    def close(self) -> None:
        """Commit, bring everything to the disk and let go of the file."""
        try:
            self.flush()
        finally:
            self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._open.close()  # what is still waiting belongs to a block that will be done again


# --- Made from patch files ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExportResult:
    """A finished export: its ``patches`` and ``keys``, the size of data.mdb in ``bytes``, and how many keys this call
    has ``written`` (0: it was there already).
    """

    patches: int
    keys: int
    bytes: int
    written: int


def export_lmdb(
    dataset: Dataset,
    path: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] | None = None,
    where: Collection[str] | None = None,
    fused: bool = False,
) -> ExportResult:
    """Write the patches of a dataset (``where``: those with these ids) as an LMDB file to the local folder ``path``.

    The same dataset gives the same bytes. An export that was interrupted goes on where it stopped; one that is there
    and up to date is left as it is; one of an older state of the same dataset is replaced when the new one is
    complete. ``fused``: the build that has just ended filled the file with a LmdbWriter; what is there is taken as it
    is and only what is missing is read from patch files, else all of it is. Keys and values are the same then, but
    where they lie in the file depends on the order of the build. ``progress`` gets (keys done, all keys).

    Raises InvalidDataset after everything else was written if files are missing or damaged, naming them;
    DatasetConflict if something else lies at ``path``; InvalidParameter, StorageError.
    """
    place = _place(path)
    subset = where is not None
    state = sha256(json.dumps([_FORMAT, fingerprints(dataset, where)]).encode()).hexdigest()
    finished = _finished(place, dataset, state, subset=subset)
    if finished is not None:
        _write_tables(dataset, where, place)  # splits and countries may be others by now
        return finished
    sources = [_Source.read(dataset, *kind, where) for kind in _KINDS]
    total = sum(source.table.num_rows for source in sources)
    wanted = _Marker(dataset.storage.url, state, subset, _boot())
    with _held(place, wanted, alone=True, trust=fused), kept_memory():
        folder = _partial(place)
        # So few that they are written in one go, and begun again when that fails, are left exactly as upstream's.
        at_once = not fused and all(source.table.num_rows <= _KEYS_A_TRANSACTION for source in sources)
        if at_once:
            _empty(folder)
            wanted.write(folder)
        database = _Database(folder)
        with closing(database):
            if fused:
                _delete_others(database, sources)
            work = _Work(dataset.storage, database, progress or _silent, total, at_once)
            for source in sources:
                work.run(source)
            keys = len(database)
        if work.problems:
            raise damage_report(work.problems, f"Everything else is in {folder}.")
        size = _trim(folder / _DATA)
        _write_tables(dataset, where, folder)
        (folder / _LOCK).unlink(missing_ok=True)  # readers make their own, or do without
        replace(wanted, patches=sources[1].table.num_rows, keys=keys, bytes=size).write(folder)
        _move(folder, place)
    return ExportResult(sources[1].table.num_rows, keys, size, work.written)


def _write_tables(dataset: Dataset, where: Collection[str] | None, folder: Path) -> None:
    """The metadata tables of what is in the file: readers break on a patch of theirs that it lacks."""
    tables = official_tables(chosen_rows(dataset, COLUMNS_NEEDED[1:], where))
    storage = Storage.open(folder)
    for name, table in zip((METADATA, METADATA_FLAGGED), tables, strict=True):
        storage.put_changed(name, write_table(table))


def _silent(done: int, total: int) -> None:
    """No progress wanted."""


def _finished(place: Path, dataset: Dataset, state: str, *, subset: bool) -> ExportResult | None:
    """The export at ``place`` if it is up to date; None if one can be written. Raises DatasetConflict."""
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return None
    marker = _Marker.read(place) if place.is_dir() else None
    if marker is None:
        raise DatasetConflict(f"{place} is there and is no export of landpatch: choose another path, or remove it")
    file = place / _DATA
    if marker.fingerprint == state and file.exists() and file.stat().st_size == marker.bytes:
        return ExportResult(marker.patches, marker.keys, marker.bytes, 0)
    if marker.dataset != dataset.storage.url or marker.subset or subset:
        raise DatasetConflict(
            f"{place} holds {'a selection' if marker.subset else 'an export'} of {marker.dataset}, which is not what "
            "would be written: choose another path, or remove it"
        )
    return None


def _move(folder: Path, place: Path) -> None:
    """Put the finished folder in its place, and what was there out of the way."""
    old = place.with_name(place.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    try:
        if place.exists():
            place.rename(old)
        folder.rename(place)
    except OSError as error:
        raise StorageError(f"cannot move {folder} to {place}: {error.strerror}") from error
    shutil.rmtree(old, ignore_errors=True)


def _delete_others(database: _Database, sources: Sequence["_Source"]) -> None:
    """Remove what a build put in and the dataset does not have: patches of blocks that failed after all."""
    wanted = {key for source in sources for key in source.table.column("key").to_pylist()}
    others = [key for key in database.all_keys() if key not in wanted]
    if others:
        database.delete(others)


# Sentinel-1, Sentinel-2, maps: the column that gives the key, what is appended to it, the blob, the files in it.
_KINDS: tuple[tuple[str, str, BlobLayout, tuple[PatchAsset, ...]], ...] = (
    ("landpatch:s1_name", "", RADAR_BLOB, (S1,)),
    ("id", "", OPTICAL_BLOB, OPTICAL_ASSETS),
    ("id", REFERENCE_MAP.suffix, MAP_BLOB, (REFERENCE_MAP,)),
)


@dataclass(frozen=True, slots=True)
class _Source:
    """All values of one kind: a table by key with ``key``, ``patch`` and each asset's href and checksum.

    ``contested`` keys have several rows: patches of several dates may share one Sentinel-1 patch, which has one key;
    where their files are not the same byte for byte, the pixels are compared.
    """

    table: pa.Table
    layout: BlobLayout
    assets: tuple[PatchAsset, ...]
    contested: frozenset[str]

    @classmethod
    def read(
        cls,
        dataset: Dataset,
        column: str,
        suffix: str,
        layout: BlobLayout,
        assets: tuple[PatchAsset, ...],
        where: Collection[str] | None,
    ) -> Self:
        columns = [] if column == "id" else [column]
        items = chosen_rows(dataset, [*columns, *asset_columns(assets, "href", "file:checksum")], where)
        values = {"key": items.column(column), "patch": items.column("id")}
        if suffix:
            values["key"] = pc.binary_join_element_wise(values["key"], suffix, "")
        for asset in assets:
            values[f"{asset.key}.href"] = asset_field(items, asset, "href")
            values[f"{asset.key}.checksum"] = asset_field(items, asset, "file:checksum")
        table = pa.table(values)
        table = table.filter(pc.is_valid(table.column(f"{assets[0].key}.href")))
        for asset in assets:
            if table.column(f"{asset.key}.href").null_count:
                raise InvalidDataset(f"{dataset.storage.url}: patches lack {asset.key}, and an LMDB holds all bands")
        if table.column("key").null_count:
            raise InvalidDataset(f"{dataset.storage.url}: patches have Sentinel-1 files but no landpatch:s1_name")
        table = table.sort_by([("key", "ascending"), ("patch", "ascending")])
        seen: dict[str, set[str]] = {}
        wanted = []
        for key, checksum in zip(
            table.column("key").to_pylist(), table.column(f"{assets[0].key}.checksum").to_pylist(), strict=True
        ):
            checksums = seen.setdefault(key, set())
            wanted.append(checksum not in checksums)
            checksums.add(checksum)
        contested = frozenset(key for key, checksums in seen.items() if len(checksums) > 1)
        return cls(table.filter(pa.array(wanted, pa.bool_())), layout, assets, contested)

    def values(
        self, rows: range, missing: Callable[[Sequence[str]], Sequence[bool]]
    ) -> list[tuple[str, list[PatchFile]]]:
        """Of some rows, the keys that are ``missing`` or contested, and the files whose planes are their values."""
        table = self.table.slice(rows.start, len(rows))
        keys = table.column("key").to_pylist()
        wanted = [lacking or key in self.contested for key, lacking in zip(keys, missing(keys), strict=True)]
        chosen = table.filter(pa.array(wanted, pa.bool_())).to_pydict()
        files = [
            map(
                PatchFile,
                chosen["patch"],
                repeat(asset),
                chosen[f"{asset.key}.href"],
                chosen[f"{asset.key}.checksum"],
            )
            for asset in self.assets
        ]
        return list(zip(chosen["key"], map(list, zip(*files, strict=True)), strict=True))


class _Memory:
    """A blob that is filled, written and filled again, which costs least while it stays in the processor's caches."""

    def __init__(self, layout: BlobLayout) -> None:
        self.blob = layout.empty()
        self.planes = layout.planes(self.blob)


@dataclass(slots=True)
class _Work:
    """Reads files in threads and writes their values in order, a few of them behind the reading."""

    storage: Storage
    database: _Database
    report: Callable[[int, int], None]
    total: int
    at_once: bool
    done: int = 0
    written: int = 0
    problems: list[str] = field(default_factory=list)

    def run(self, source: _Source) -> None:
        """Write what is missing of one source, in transactions that are the same whenever the work was stopped."""
        pool = ThreadPoolExecutor(self.storage.threads)
        spare: list[_Memory] = []
        groups = self._read_ahead(source, pool, spare)
        try:
            for rows in batches(source.table.num_rows, _KEYS_A_TRANSACTION):
                keys = set()
                with self.database.transaction(len(rows), source.layout.size) as put:
                    while group := next(groups):
                        for key, found in group:
                            if isinstance(found, DamagedFile):
                                self.problems.append(str(found))
                                continue
                            keys.add(key)
                            if not put(key, found.blob):
                                self.problems.append(
                                    f"{key} has other pixels in one patch than in another: two Sentinel-1 products "
                                    "of this name"
                                )
                            spare.append(found)
                if keys and not self.at_once:
                    self.database.forget()
                self.written += len(keys)
                self.done += len(rows)
                self.report(self.done, self.total)
        finally:
            pool.shutdown(cancel_futures=True)

    def _read_ahead(self, source: _Source, pool: ThreadPoolExecutor, spare: list[_Memory]) -> Iterator["_Group"]:
        """What is missing, in order, a few values at a time; an empty group ends the rows of a transaction.

        A bounded number is read ahead of what is taken.
        """
        ahead: deque[Future[_Group]] = deque()
        for rows in batches(source.table.num_rows, _KEYS_A_TRANSACTION):
            # What the transaction that is open puts is not seen, and is in other rows.
            values = source.values(rows, self.database.missing)
            for group in (*batches(len(values), _VALUES_A_TASK), range(0)):
                wanted = values[group.start : group.stop]
                ahead.append(pool.submit(_read, self.storage, source.layout, wanted, spare))
                if len(ahead) > _TASKS_AHEAD * self.storage.threads:
                    yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


_Group = list[tuple[str, _Memory | DamagedFile]]


def _read(
    storage: Storage, layout: BlobLayout, values: Sequence[tuple[str, list[PatchFile]]], spare: list[_Memory]
) -> _Group:
    """The values of some keys, in ``spare`` memory as far as there is some."""
    group: _Group = []
    for key, files in values:
        try:
            memory = spare.pop()
        except IndexError:
            memory = _Memory(layout)
        try:
            for file in files:
                file.read_into(storage, memory.planes[file.asset.key])
        except DamagedFile as error:
            group.append((key, error))
        else:
            group.append((key, memory))
    return group
