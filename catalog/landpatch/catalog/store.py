"""A dataset on storage: one folder, bucket prefix or memory, the same through all of them.

All access goes through obstore. A write is atomic on every kind of storage: a reader sees the old object, the new
one or none, never a part.
"""

import io
import itertools
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import obstore
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import HTTPStore, LocalStore, MemoryStore, S3Store

from landpatch.catalog.errors import InvalidDataset, InvalidParameter, StorageError
from landpatch.catalog.nomenclature import Nomenclature
from landpatch.catalog.traffic import Traffic, count

COLLECTION = "collection.json"
ITEMS = "items.parquet"
METADATA = "metadata.parquet"
METADATA_FLAGGED = "metadata_for_patches_with_snow_cloud_or_shadow.parquet"

_IN_FLIGHT = 32  # requests: measured optimum of obstore against one S3 endpoint
# What object_store calls a file that it has not finished writing: the final name, '#' and a counter. It hides such
# names from listings, but a killed process leaves them on disk.
_STAGED = re.compile(r"#\d+$")


class NotFound(StorageError):
    """An object is not there."""

    retryable = False


class Changed(StorageError):
    """An object was replaced while it was being read."""


class Storage:
    """Objects under one root. Paths are relative to it, with ``/`` between segments.

    Every method raises StorageError (NotFound where an object is missing) with the root and path in the text.
    """

    def __init__(self, url: str, store: Any, folder: Path | None = None) -> None:
        self.url = url
        self.folder = folder
        """The root as a local folder; None on S3 and in memory."""
        self._store = store

    @classmethod
    def open(cls, url: str | os.PathLike[str], *, create: bool = False) -> Self:
        """From a folder, ``file://``, ``s3://bucket/prefix``, ``memory://``, or ``http(s)://`` for reading.

        S3 takes credentials, region and endpoint (``AWS_ENDPOINT_URL``) from the environment. ``create`` makes a
        missing local folder. Raises StorageError, InvalidParameter for other schemes.
        """
        text = os.fspath(url)
        parts = urlsplit(text)
        if parts.scheme == "s3":
            if not parts.netloc:
                raise InvalidParameter(f"{text!r} names no bucket: expected s3://bucket/prefix")
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
            config: Any = {"endpoint": endpoint} if endpoint else {}
            if os.environ.get("AWS_REQUEST_PAYER") == "requester":  # as GDAL has it; obstore reads no such variable
                config["request_payer"] = "true"
            store: Any = S3Store(
                parts.netloc,
                prefix=parts.path.strip("/") or None,
                config=config,
                client_options={"allow_http": endpoint.startswith("http://")},
            )
            return cls(text.rstrip("/"), store)
        if parts.scheme in ("http", "https"):
            # Plain http serves test servers and intranets; whether to trust it, the address says.
            return cls(text.rstrip("/"), HTTPStore.from_url(text, client_options={"allow_http": True}))
        if parts.scheme == "memory":
            return cls(text, MemoryStore())
        if parts.scheme == "file":
            text = unquote(parts.path)
        elif parts.scheme and len(parts.scheme) > 1:
            raise InvalidParameter(f"{text!r}: storage is a folder, file://, s3:// or memory://")
        folder = Path(text).absolute()
        try:
            if create:
                folder.mkdir(parents=True, exist_ok=True)
            return cls(str(folder), LocalStore(folder), folder)
        except (OSError, BaseError, ValueError) as error:
            raise StorageError(f"{folder} cannot be opened as storage: {_reason(error)}") from error

    @property
    def threads(self) -> int:
        """How many threads do well that read or write here: from S3 most of the time is waiting, on a disk it is the
        decoding and encoding between.
        """
        return _IN_FLIGHT if self.folder is None else min(4, os.cpu_count() or 1)

    def get(self, path: str) -> bytes:
        """The whole object."""
        with self._explained("read", path):
            if self.folder is not None:
                # Half the CPU time of Path.read_bytes, a sixth of obstore's.
                with open(f"{self.folder}/{path}", "rb", buffering=0) as file:  # noqa: PTH123 - Path.open takes longer
                    return file.read()
            data = bytes(obstore.get(self._store, path).bytes())
            self._count(bytes_read=len(data))
            return data

    def get_many(self, paths: Iterable[str]) -> Iterator[bytes]:
        """The objects in the order asked for, read ahead concurrently; bounded memory."""
        if self.folder is not None:  # a local read is too short for threads to help
            yield from map(self.get, paths)
            return
        with ThreadPoolExecutor(_IN_FLIGHT) as pool:
            waiting: deque[Future[bytes]] = deque()
            for path in paths:
                waiting.append(pool.submit(self.get, path))
                if len(waiting) >= 2 * _IN_FLIGHT:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def stream(self, path: str, first: int = 0, *, tag: str | None = None) -> tuple[int, str | None, Iterator[bytes]]:
        """The whole object's size, its entity tag, and its bytes from ``first`` on, piece by piece.

        Raises Changed where ``tag`` is given and is no longer the object's.
        """
        with self._explained("read", path):
            try:
                options: Any = {"range": {"offset": first}} if first else {}
                answer = obstore.get(self._store, path, options=options | ({"if_match": tag} if tag else {}))
            except PreconditionError as error:
                raise Changed(f"{self.url}/{path} has changed meanwhile") from error
            meta = answer.meta
            return int(meta["size"]), meta["e_tag"], self._pieces(path, answer)

    def _pieces(self, path: str, answer: Any) -> Iterator[bytes]:
        with self._explained("read", path):
            yield from map(bytes, answer.stream(min_chunk_size=2**18))

    def put(self, path: str, data: bytes | memoryview) -> None:
        """Write the object, over what was there."""
        with self._explained("write", path):
            if self.folder is not None:  # two thirds of the CPU time of obstore's write, which hands over to a thread
                _write_file(f"{self.folder}/{path}", data)
                return
            obstore.put(self._store, path, data, use_multipart=False)
            self._count(bytes_written=len(data))

    def put_changed(self, path: str, data: bytes) -> bool:
        """Write the object unless it holds exactly ``data`` already; whether it was written."""
        try:
            if self.get(path) == data:
                return False
        except NotFound:
            pass
        self.put(path, data)
        return True

    def put_file(self, path: str, source: Path) -> None:
        """Write a local file's content, in parts where it is large."""
        with self._explained("write", path), source.open("rb") as file:
            obstore.put(self._store, path, file)
            self._count(bytes_written=source.stat().st_size)

    def create(self, path: str, data: bytes) -> bool:
        """Write the object only if there is none; False if there was. One of many callers wins."""
        with self._explained("write", path):
            try:
                obstore.put(self._store, path, data, mode="create")
            except AlreadyExistsError:
                return False
            return True

    def exists(self, path: str) -> bool:
        """Whether the object is there."""
        try:
            with self._explained("read", path):
                obstore.head(self._store, path)
        except NotFound:
            return False
        return True

    def sizes(self, prefix: str) -> dict[str, int]:
        """Bytes of all objects whose path starts with the segments of ``prefix``, by path."""
        return {path: size for path, (size, _) in self.states(prefix).items()}

    def states(self, prefix: str) -> dict[str, tuple[int, str]]:
        """Of the same objects bytes and entity tag, which on disk is made of file number, time of change and size."""
        with self._explained("list", prefix):
            entries = (entry for batch in obstore.list(self._store, prefix) for entry in batch)
            return {
                entry["path"]: (entry["size"], entry["e_tag"] or str(entry["last_modified"])) for entry in entries
            }

    def folders(self, prefix: str) -> list[str]:
        """Paths of the folders directly below ``prefix``, sorted."""
        with self._explained("list", prefix):
            return sorted(obstore.list_with_delimiter(self._store, prefix)["common_prefixes"])

    def list(self, prefix: str = "") -> list[str]:
        """Paths of all objects whose path starts with the segments of ``prefix``, sorted."""
        with self._explained("list", prefix):
            return sorted(entry["path"] for batch in obstore.list(self._store, prefix or None) for entry in batch)

    def delete(self, paths: Iterable[str]) -> None:
        """Remove objects; one that is not there is no error."""
        for path in paths:
            try:
                with self._explained("delete", path):
                    obstore.delete(self._store, path)
            except NotFound:
                continue

    def sweep(self, prefix: str, owned: Callable[[str], bool], *, deep: bool = False) -> None:
        """Remove what killed writers left unfinished in the folder ``prefix``; ``deep``: and below it.

        Local storage only: S3 leaves nothing behind. ``owned`` tells from an object's path whether the caller owns
        it: an unfinished file of somebody who is still writing must stay.
        """
        if self.folder is None:
            return
        top = self.folder / prefix
        for file in list(top.rglob("*#*") if deep else top.glob("*#*")):
            path = file.relative_to(self.folder).as_posix()
            if _STAGED.search(path) and owned(_STAGED.sub("", path)):
                file.unlink(missing_ok=True)

    def get_json(self, path: str) -> Any:
        """The object as JSON. Raises InvalidDataset when it is none."""
        try:
            return orjson.loads(self.get(path))
        except orjson.JSONDecodeError as error:
            raise InvalidDataset(f"{self.url}/{path} is not JSON: {error}") from error

    def put_json(self, path: str, document: Any) -> None:
        """Write ``document`` as indented JSON with sorted keys: same document, same bytes."""
        self.put(path, json_bytes(document))

    def open_parquet(self, path: str) -> pq.ParquetFile:
        """The object as an open Parquet file; only what is asked for is read. Raises InvalidDataset."""
        with self._explained("read", path):
            try:
                return pq.ParquetFile(self.open_file(path), pre_buffer=self.folder is None)
            except (pa.ArrowException, OSError) as error:
                if isinstance(error, FileNotFoundError):
                    raise
                reason = " ".join(str(error).split())
                raise InvalidDataset(
                    f"{self.url}/{path} is no readable Parquet file ({reason}); restore it, or delete it and run "
                    "`landpatch build` again: parts that are still there are not built anew"
                ) from error

    def open_file(self, path: str) -> io.RawIOBase | str:
        """The object as what Arrow reads from: a local path, or a file of which only the ranges read are fetched."""
        return str(self.folder / path) if self.folder is not None else _RemoteFile(self, path)

    def size(self, path: str) -> int:
        """Bytes of the object."""
        return int(self.head(path)["size"])

    def head(self, path: str) -> dict[str, Any]:
        """What storage says of the object: ``size``, ``e_tag``, ``last_modified``."""
        with self._explained("read", path):
            return dict(obstore.head(self._store, path))

    def signed(self, path: str, seconds: int) -> str:
        """A URL by which anybody can GET the object for some time; S3 only. Raises StorageError elsewhere."""
        with self._explained("sign a URL of", path):
            if not isinstance(self._store, S3Store):
                raise NotImplementedError("only objects on S3 have signed URLs")
            return str(obstore.sign(self._store, "GET", path, timedelta(seconds=seconds)))

    def get_range(self, path: str, start: int, end: int, e_tag: str | None = None) -> bytes:
        """Bytes ``start`` up to but not including ``end`` of the object.

        With ``e_tag``: raises Changed if the object is another one by now.
        """
        with self._explained("read", path):
            self._count(bytes_read=end - start)
            if e_tag is None:
                return bytes(obstore.get_range(self._store, path, start=start, end=end))
            return bytes(obstore.get(self._store, path, options={"range": (start, end), "if_match": e_tag}).bytes())

    def _count(self, **asked: int) -> None:
        if self.folder is None:
            count(Traffic(**asked))

    @contextmanager
    def _explained(self, verb: str, path: str) -> Iterator[None]:
        parts = path.rstrip("/" if verb == "list" else "").split("/")
        if path and not {"", ".", ".."}.isdisjoint(parts):  # paths come from items, which may be anybody's
            raise StorageError(f"cannot {verb} {self.url}/{path}: the path does not lie below the root")
        self._count(reads=verb == "read", writes=verb == "write", lists=verb == "list")
        try:
            yield
        except FileNotFoundError as error:
            if verb != "write":
                raise NotFound(f"{self.url}/{path} is not there") from error
            raise StorageError(f"cannot write {self.url}/{path}: {_reason(error)}") from error
        except PreconditionError as error:
            raise Changed(f"{self.url}/{path} was replaced while it was being read") from error
        except (BaseError, OSError, NotImplementedError) as error:
            raise StorageError(f"cannot {verb} {self.url}/{path}: {_reason(error)}") from error


class _RemoteFile(io.RawIOBase):
    """An object as the file that Arrow wants: only the ranges that are asked for are fetched."""

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage, self._path, self._place = storage, path, 0
        entry = storage.head(path)
        self._size, self._e_tag = int(entry["size"]), entry["e_tag"]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        left = self._size - self._place
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted <= 0:
            return b""
        data = self._storage.get_range(self._path, self._place, self._place + wanted, self._e_tag)
        self._place += len(data)
        return data


def _write_file(target: str, data: bytes | memoryview) -> None:
    """Write a file under a name of its own, as object_store does it, and then give it its place."""
    for number in itertools.count(1):
        staged = f"{target}#{number}"
        try:
            file = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            break
        except FileExistsError:  # somebody else is writing, or was killed while he did
            continue
        except FileNotFoundError:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
    try:
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(file, left) :]
        finally:
            os.close(file)
        os.replace(staged, target)  # noqa: PTH105 - a Path costs more than the system's work
    except BaseException:
        with suppress(OSError):
            Path(staged).unlink()
        raise


def json_bytes(document: Any) -> bytes:
    """``document`` as JSON bytes, the same for equal documents."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def _reason(error: BaseException) -> str:
    """The part of an error that a person can use: obstore appends its debug view below an empty line."""
    text = str(error).split("\n\nDebug source", 1)[0].strip()
    if "os error 28" in text or "No space left" in text:
        return "the disk is full; free some space and run the same command again"
    if "os error 13" in text or "Permission denied" in text or "PermissionDenied" in type(error).__name__:
        return f"permission denied ({text})"
    return text or type(error).__name__


class Dataset:
    """A finished or growing dataset, for reading."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    @classmethod
    def open(cls, url: str | os.PathLike[str]) -> Self:
        """Raises InvalidDataset where no dataset lies."""
        storage = Storage.open(url)
        for name in (COLLECTION, ITEMS):
            if not storage.exists(name):
                raise InvalidDataset(
                    f"{storage.url} holds no {name}: it is not a landpatch dataset, or its build has not finished "
                    "(`landpatch status` tells)"
                )
        return cls(storage)

    def table(self, columns: Iterable[str] | None = None) -> pa.Table:
        """``items.parquet``, one row a patch, sorted by id; ``columns`` limits what is read."""
        file = self.storage.open_parquet(ITEMS)
        try:
            return file.read(columns=None if columns is None else list(columns))
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise InvalidDataset(f"{self.storage.url}/{ITEMS} is damaged: {reason}; restore it") from error

    def collection(self) -> dict[str, Any]:
        """``collection.json``."""
        document: dict[str, Any] = self.storage.get_json(COLLECTION)
        return document

    def nomenclature(self) -> Nomenclature | None:
        """The nomenclature of the reference maps; None for a dataset without labels."""
        stored = self.collection().get("landpatch:nomenclature")
        return None if stored is None else Nomenclature.from_document(stored)
