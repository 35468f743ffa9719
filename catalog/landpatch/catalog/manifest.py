"""What a download is to hold, and what of it is there: kept beside it, so that every run goes on from the last.

    manifest.json    what was asked of which catalogue, and whether everything is in its place
    chosen.ndjson    the items that were chosen, one a line, complete or not there
    files.ndjson     path, size, time of change and sha-256 of every file that was put in its place, a line each
    parts/           files that grow

The choice is made once: a catalogue that has grown meanwhile, or answers in another order, does not change it.
"""

import hashlib
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from landpatch.catalog.errors import DatasetConflict, InvalidDataset, StorageError
from landpatch.catalog.selection import Question
from landpatch.catalog.store import json_bytes
from landpatch.catalog.transfer import Expected, Fetched

_MANIFEST, _CHOSEN, _FILES, _LOCK = "manifest.json", "chosen.ndjson", "files.ndjson", "lock"
_SHA256 = "1220"  # multihash (multiformats.io): code 0x12 = sha-256, length 0x20
_PIECE = 2**20


class Manifest:
    """Of one download, in the folder ``state``; held by one process at a time (``Manifest.held``)."""

    def __init__(self, state: Path, asked: Mapping[str, Any]) -> None:
        self._state = state
        self._asked = dict(asked)
        self.parts = state / "parts"
        self.chosen = False
        """Whether the choice has been made."""
        self.finished = False
        """Whether a run has left everything in its place."""
        self.collections: dict[str, Any] = {}
        """The collections of the chosen items by id, as the catalogue had them."""
        self.origins: dict[str, str] = {}
        """Where the catalogue has these collections."""
        self.refused: dict[str, str] = {}
        """Items that were not taken, by id, with the reasons."""

    @classmethod
    @contextmanager
    def held(cls, state: Path, source: str, question: Question, **form: Any) -> Iterator["Manifest"]:
        """The manifest of this download; a new one where there is none. ``form``: how it is to lie.

        Raises DatasetConflict where another process holds it, or where something else was asked. StorageError.
        """
        asked = orjson.loads(orjson.dumps({"source": source, "question": asdict(question), **form}))
        with _written(state):
            make_folder(state)
            make_folder(state / "parts")
            handle = os.open(state / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _lock(handle):
                raise DatasetConflict(f"another process is downloading to {state.parent}: wait for it")
            manifest = cls(state, asked)
            manifest._read()
            yield manifest
        finally:
            os.close(handle)

    def _read(self) -> None:
        file = self._state / _MANIFEST
        try:
            document = orjson.loads(file.read_bytes())
            asked, self.finished, self.refused = (document[key] for key in ("asked", "finished", "refused"))
            self.collections, self.origins = document["collections"], document["origins"]
        except FileNotFoundError:
            return
        except (OSError, KeyError, TypeError, orjson.JSONDecodeError) as error:
            raise InvalidDataset(f"{file} is damaged: remove {self._state} and download again") from error
        if asked != self._asked:
            changed = [key for key in {**asked, **self._asked} if asked.get(key) != self._asked.get(key)]
            raise DatasetConflict(
                f"{self._state.parent} holds another download ({', '.join(changed)} differ): choose another "
                "destination, or remove it"
            )
        self.chosen = True

    def write(self, *, finished: bool) -> None:
        """Note down what is known; from here on the choice is made."""
        self.chosen, self.finished = True, finished
        document = {
            "asked": self._asked,
            "finished": finished,
            "refused": self.refused,
            "collections": self.collections,
            "origins": self.origins,
        }
        replace_file(self._state / _MANIFEST, json_bytes(document))

    def choose(self, items: Iterable[Mapping[str, Any]]) -> int:
        """Write down the chosen items; returns their number. ``write`` makes them the choice."""
        new = self._state / f"{_CHOSEN}.new"
        count = 0
        with _written(new), new.open("wb") as file:
            for item in items:
                file.write(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE))
                count += 1
        with _written(new):
            new.replace(self._state / _CHOSEN)
        return count

    def items(self) -> Iterator[dict[str, Any]]:
        """The chosen items, in their order. Raises InvalidDataset."""
        file = self._state / _CHOSEN
        try:
            with file.open("rb") as lines:
                for line in lines:
                    yield orjson.loads(line)
        except (OSError, orjson.JSONDecodeError) as error:
            raise InvalidDataset(f"{file} is damaged: remove {self._state} and download again") from error

    @contextmanager
    def files(self) -> Iterator["Files"]:
        """The state of the files."""
        with _written(self._state):
            handle = os.open(self._state / _FILES, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            yield Files(self._state / _FILES, handle)
        finally:
            os.close(handle)


class Files:
    """What is known of the files that are in their places; called by several threads."""

    def __init__(self, file: Path, handle: int) -> None:
        self._file, self._handle = file, handle
        self._known: dict[str, tuple[int, int, str]] = {}
        self._changing = threading.Lock()
        content = file.read_bytes()
        for line in content.splitlines():
            try:
                path, size, changed, sha256 = orjson.loads(line)
            except (ValueError, TypeError):  # a process was killed while it wrote the line
                continue
            self._known[path] = (size, changed, sha256)
        if content and not content.endswith(b"\n"):
            os.write(handle, b"\n")

    def record(self, path: str, found: Fetched) -> None:
        """A file is in its place."""
        line = orjson.dumps([path, found.size, found.changed, found.sha256], option=orjson.OPT_APPEND_NEWLINE)
        with _written(self._file), self._changing:
            self._known[path] = (found.size, found.changed, found.sha256)
            os.write(self._handle, line)

    def sound(self, root: Path, path: str, expected: Expected, *, thorough: bool) -> bool:
        """Whether the file is in its place and is what was fetched, or what its item records.

        A file that has not been touched since is believed; ``thorough``: its bytes are read all the same.
        """
        try:
            status = (root / path).lstat()
        except OSError:
            return False
        if not stat.S_ISREG(status.st_mode) or expected.size not in (None, status.st_size):
            return False
        size, changed, sha256 = self._known.get(path, (-1, -1, ""))
        recorded = expected.checksum or ""
        wanted = recorded[len(_SHA256) :] if recorded.startswith(_SHA256) else sha256
        if not wanted:
            return False
        if (size, changed) == (status.st_size, status.st_mtime_ns) and not thorough:
            return sha256 == wanted
        digest = hashlib.sha256()
        try:
            with (root / path).open("rb") as file:
                while piece := file.read(_PIECE):
                    digest.update(piece)
        except OSError:
            return False
        if digest.hexdigest() != wanted:
            return False
        if (size, changed) != (status.st_size, status.st_mtime_ns):
            self.record(path, Fetched(status.st_size, wanted, status.st_mtime_ns))
        return True


class Tree:
    """Folders below ``root``, made where they are missing. A link is not followed: it leads anywhere."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known = {"."}
        self._changing = threading.Lock()

    def place(self, path: str) -> Path:
        """Where the file ``path`` lies; its folder is there. Raises DatasetConflict, StorageError."""
        folder = PurePosixPath(path).parent
        if str(folder) not in self._known:
            with self._changing, _written(self.root / folder):
                for parent in (*reversed(folder.parents), folder):
                    if str(parent) not in self._known:
                        make_folder(self.root / parent)
                        self._known.add(str(parent))
        return self.root / path


def make_folder(folder: Path) -> None:
    """One folder, if it is not there. Raises DatasetConflict where something else is, a link to a folder too."""
    try:
        folder.mkdir()
    except FileExistsError:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise DatasetConflict(f"{folder} is there and is no folder, or a link to one: remove it") from None


def replace_file(file: Path, content: bytes) -> None:
    """Write a file whole, over what was there. Raises StorageError."""
    new = file.with_name(f"{file.name}.new")
    with _written(file):
        new.unlink(missing_ok=True)
        with new.open("xb") as handle:
            handle.write(content)
        new.replace(file)


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def _lock(handle: int) -> bool:
    """Lock an open file until the process ends; False if another process has it."""
    try:
        import fcntl
    except ImportError:  # Windows: two processes that download to one place there get in each other's way
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
