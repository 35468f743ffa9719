"""Files fetched from wherever a catalogue's hrefs lead, verified, and put in their places whole.

A file grows as a part beside its place and is renamed when size and checksum are those that its item records. What
is cut off goes on by a range request, as long as the server's entity tag says that it is still the same file; what
cannot go on begins anew. Servers are left alone when they ask for it (429, 503, Retry-After), for all files together.

Nothing that a server says is believed: not a length, not a range, not a media type. Nothing is ever decompressed, so
that what is written is never more than what was sent, and never more than the item records or ``Manners.largest``.
"""

import errno
import hashlib
import os
import random
import re
import stat
import threading
import time
from abc import ABC, abstractmethod
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from http.client import HTTPException
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit

import orjson
import urllib3
from urllib3.exceptions import HTTPError

from landpatch.catalog.errors import InvalidParameter, StorageError, UnreadableAsset
from landpatch.catalog.reach import Connections, Reach, RefusedHref
from landpatch.catalog.store import Changed, NotFound, Storage

_PIECE = 2**18
_HOPS = 5  # redirects that one request follows
_WORTH = 2**20  # bytes after which a try counts as progress: a long file over a bad line goes on for ever
_STALL_SECONDS, _STALL_BYTES = 30.0, 2**12  # slower than this is no transfer
_LONGEST_TAG = 120  # of an entity tag, to be part of a file's name
_PART = re.compile(r"([0-9a-f]{32})\.([A-Za-z0-9_=-]+)\.part")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

# Multihash (multiformats.io): code and length of sha-1, sha-256, sha-512, before the digest in hex.
_MULTIHASHES = {"1114": "sha1", "1220": "sha256", "1340": "sha512"}
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF 6.0 and BigTIFF, both byte orders


@dataclass(frozen=True, slots=True)
class Manners:
    """How a transfer behaves towards servers, and what it puts up with."""

    per_host: int = 8
    """Connections to one host at a time."""
    tries: int = 8
    """Tries for a file without a megabyte of progress, the first included."""
    first_wait: float = 0.25
    """Seconds before the second try; doubled each time, and drawn at random between half and the whole."""
    longest_wait: float = 60.0
    """Seconds at most between two tries, unless the server asks for more."""
    patience: float = 300.0
    """Seconds at most that a server's Retry-After is waited for; one that asks for more is given up."""
    largest: int = 4 * 2**30
    """Bytes of the largest file that is taken."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What an item records of a file: ``size`` in bytes, ``checksum`` as multihash, ``media`` type; None: nothing.

    ``largest`` is the limit of its bytes where ``Manners.largest`` is too many.
    """

    size: int | None = None
    checksum: str | None = None
    media: str | None = None
    largest: int | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file as it came: bytes, sha-256 in hex, time of its last change in nanoseconds."""

    size: int
    sha256: str
    changed: int


class Declined(UnreadableAsset):
    """A server answers, but not with what it was asked for."""


class Stopped(Exception):
    """The transfer was told to end."""


class _Again(Exception):
    """This try came to nothing; the next may not. ``after``: seconds that the server asked to wait."""

    def __init__(self, reason: str, after: float | None = None, *, anew: bool = False) -> None:
        super().__init__(reason)
        self.after = after
        self.anew = anew  # what has come so far is of no use


class _Stale(Exception):
    """The href leads nowhere, or no longer: gone, or its signature has expired."""


@dataclass(slots=True)
class _Answer:
    """An open file at its source: bytes come from ``first`` on; ``total`` and ``tag`` as the source says."""

    first: int
    total: int | None
    tag: str | None
    media: str
    pieces: Iterator[bytes]
    close: Callable[[], None]


class _Host:
    """What all requests to one host share."""

    def __init__(self, connections: int) -> None:
        self.slots = threading.Semaphore(connections)
        self.ready = 0.0  # monotonic time before which the host wants no request


_Result = TypeVar("_Result")
Renew = Callable[[str], str | None]
"""From an href that has become useless to a new one; None: there is none."""


class Transfer:
    """Fetches files for several threads. ``source`` is the storage of hrefs that are no URLs, where there is one."""

    def __init__(self, reach: Reach, manners: Manners | None = None, *, source: Storage | None = None) -> None:
        self.manners = manners or Manners()
        self.received = 0
        """Bytes that have come, including those that were of no use."""
        timeout = urllib3.Timeout(connect=10, read=30)
        self._connections = Connections(reach, per_host=self.manners.per_host, timeout=timeout)
        self._source = source
        self._hosts: dict[str, _Host] = {}
        self._buckets: dict[str, Storage] = {}
        self._shared = threading.Lock()
        self._stop = threading.Event()

    def stop(self) -> None:
        """Make all that is under way end soon, with Stopped; parts stay."""
        self._stop.set()

    def close(self) -> None:
        """Let go of idle connections."""
        self._connections.close()

    def fetch(
        self, href: str, target: Path, parts: "Parts", expected: Expected, renew: Renew | None = None
    ) -> Fetched:
        """Bring the file at ``href`` to ``target``, whose folder exists; over what was there.

        Raises UnreadableAsset (after all tries), RefusedHref, StorageError (no room), Stopped.
        """
        with parts.open(str(target)) as part:
            self._receive(href, part, expected, renew)
            return part.finish(target)

    def read(self, href: str, expected: Expected, renew: Renew | None = None) -> bytes:
        """The verified file at ``href``, in memory. Raises as ``fetch`` does."""
        buffer = _Buffer()
        self._receive(href, buffer, expected, renew)
        return bytes(buffer.content)

    def document(
        self, url: str, *, body: Any = None, headers: Mapping[str, str] | None = None, largest: int = 2**28
    ) -> bytes:
        """What an API answers to a request; a ``body`` goes out as JSON, by POST.

        Raises InvalidParameter with the server's words where it refuses the request, Declined where it answers
        with another error, else as ``fetch`` does.
        """
        method, encoded, sent = "GET", None, dict(headers or {})
        if body is not None:
            method, encoded, sent["Content-Type"] = "POST", orjson.dumps(body), "application/json"

        def ask(_: _Again | None) -> bytes:
            content = bytearray()
            with self._turn(url):
                answer = self._request(method, url, sent, encoded)
                try:
                    if not 200 <= answer.status < 300:
                        text = answer.read1(2048, decode_content=False).decode("utf-8", "replace")
                        kind = InvalidParameter if answer.status in (400, 405, 422) else Declined
                        raise kind(f"{shown(url)} answers {answer.status}: {' '.join(text.split())}")
                    for piece in self._pieces(answer):
                        content += piece
                        if len(content) > largest:
                            raise UnreadableAsset(f"{shown(url)} sends more than {largest:,} bytes")
                    missing = answer.length_remaining
                    if missing:
                        raise _Again(f"the answer ended {missing} bytes early")
                finally:
                    answer.close()
            return bytes(content)

        return self._persist(lambda: url, ask, tries=min(5, self.manners.tries))

    # --- tries ---

    def _receive(self, href: str, sink: "_Sink", expected: Expected, renew: Renew | None) -> None:
        self._admit(href, expected.size, expected)
        start = sink.size

        def attempt(again: _Again | None) -> None:
            nonlocal href
            if again is not None and again.anew:
                sink.restart(None)
            try:
                _verify(sink, expected, self._continue(href, sink, expected))
            except _Stale as error:
                new = None if renew is None else renew(href)
                if new is None or new == href:
                    raise UnreadableAsset(f"{shown(href)}: {error}") from error
                href = new
                raise _Again(str(error), after=0.0) from error

        def gained() -> bool:
            nonlocal start
            more, start = sink.size - start >= _WORTH, sink.size
            return more

        self._persist(lambda: href, attempt, gained, tries=self.manners.tries)

    def _limit(self, expected: Expected) -> int:
        return self.manners.largest if expected.largest is None else expected.largest

    def _admit(self, href: str, size: int | None, expected: Expected) -> None:
        limit = self._limit(expected)
        if size is not None and size > limit:
            raise UnreadableAsset(f"{shown(href)} has {size:,} bytes, and the limit is {limit:,} (--max-bytes)")

    def _persist(
        self,
        url: Callable[[], str],
        work: Callable[[_Again | None], _Result],
        gained: Callable[[], bool] = lambda: False,
        *,
        tries: int,
    ) -> _Result:
        """``work`` until it succeeds, with what made the last try fail; tries that ``gained`` are not counted."""
        count = 0
        again: _Again | None = None
        while True:
            try:
                return work(again)
            except _Again as error:
                again = error
            count = 1 if gained() else count + 1
            if count >= tries:
                raise UnreadableAsset(f"{shown(url())}: {again}; given up after {count} tries")
            if again.after is None:
                self._wait(min(self.manners.longest_wait, self.manners.first_wait * 2 ** (count - 1)))
            elif again.after > self.manners.patience:
                raise UnreadableAsset(f"{shown(url())}: the server asks to come back in {again.after:,.0f} s")
            else:
                host = self._host(url())
                host.ready = max(host.ready, time.monotonic() + again.after)

    def _wait(self, seconds: float) -> None:
        # At random: what failed together must not come back together.
        if self._stop.wait(seconds * random.uniform(0.5, 1)):
            raise Stopped

    def _host(self, url: str) -> _Host:
        name = _split(url).netloc.lower()
        with self._shared:
            if name not in self._hosts:
                self._hosts[name] = _Host(self.manners.per_host)
            return self._hosts[name]

    @contextmanager
    def _turn(self, url: str) -> Iterator[None]:
        """One of the host's connections, once it wants requests."""
        host = self._host(url)
        with host.slots:
            while (pause := host.ready - time.monotonic()) > 0:
                if self._stop.wait(pause):
                    break
            if self._stop.is_set():
                raise Stopped
            yield

    # --- one try ---

    def _continue(self, href: str, sink: "_Sink", expected: Expected) -> str:
        """Bring ``sink`` to the end of the file; returns the media type by the server. Raises _Again, _Stale."""
        if expected.size is not None and sink.size >= expected.size:
            if sink.size == expected.size:  # complete when the last run was killed, unless it is damaged
                return ""
            sink.restart(None)
        with self._turn(href):
            # Without entity tag or checksum nothing would tell that the rest is of another file.
            answer = self._open(href, sink.size if sink.tag or expected.checksum else 0, sink.tag)
            try:
                if not answer.first:
                    sink.restart(answer.tag)
                elif answer.tag != sink.tag:
                    raise _Again("the file has changed on the server meanwhile", anew=True)
                if expected.size is None:
                    self._admit(href, answer.total, expected)
                self._take(href, answer, sink, expected)
            finally:
                answer.close()
        return answer.media

    def _take(self, href: str, answer: _Answer, sink: "_Sink", expected: Expected) -> None:
        limit = self._limit(expected) if expected.size is None else expected.size
        for piece in answer.pieces:
            room = limit - sink.size
            sink.write(piece[:room])
            if len(piece) > room:
                # With a checksum it does not matter what a server appends.
                if expected.size is not None and expected.checksum is not None:
                    return
                if expected.size is None:
                    raise UnreadableAsset(f"{shown(href)} goes on after {limit:,} bytes (--max-bytes)")
                raise _Again(f"more than the {limit:,} bytes that its item records", anew=True)
        end = expected.size if expected.size is not None else answer.total
        if end is not None and sink.size < end:
            raise _Again(f"cut off after {sink.size:,} of {end:,} bytes")

    def _open(self, href: str, first: int, tag: str | None) -> _Answer:
        scheme = _split(href).scheme.lower()
        if scheme in ("http", "https"):
            return self._open_web(href, first, tag)
        if scheme == "s3":
            return self._open_object(*self._bucket(href), first, tag)
        if not scheme and self._source is not None:
            return self._open_object(self._source, href, first, tag)
        raise RefusedHref(f"{shown(href)}: files are fetched from http(s):// and s3:// only")

    def _open_web(self, url: str, first: int, tag: str | None) -> _Answer:
        headers = {} if not first else {"Range": f"bytes={first}-"} | ({"If-Range": tag} if tag else {})
        answer = self._request("GET", url, headers)
        status = answer.status
        try:
            if status in (400, 401, 403, 404, 410):  # 400: some stores' word for an expired signature
                raise _Stale(f"the server answers {status} ({answer.reason})")
            if status in (412, 416):
                raise _Again(f"the server answers {status} ({answer.reason})", anew=True)
            if status not in (200, 206):
                raise UnreadableAsset(f"{shown(url)}: the server answers {status} ({answer.reason})")
            coding = answer.headers.get("Content-Encoding", "identity").lower()
            if coding != "identity":
                raise UnreadableAsset(f"{shown(url)}: the server sends {coding} although asked for the plain file")
            found_tag = answer.headers.get("ETag", "")
            strong = found_tag if found_tag.startswith('"') and len(found_tag) <= _LONGEST_TAG else None
            media = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            begin, total = 0, answer.length_remaining
            if status == 206:
                match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
                if match is None or int(match[1]) != first:
                    raise _Again("the server sends another range than was asked for", anew=True)
                begin, total = first, None if match[3] == "*" else int(match[3])
        except BaseException:
            answer.close()
            raise

        def close() -> None:
            # A connection that was not read to its end is of no more use.
            answer.release_conn() if answer.length_remaining == 0 else answer.close()

        return _Answer(begin, total, strong, media, self._pieces(answer), close)

    def _open_object(self, storage: Storage, path: str, first: int, tag: str | None) -> _Answer:
        try:
            total, tag, pieces = storage.stream(path, first, tag=tag if first else None)
        except NotFound as error:
            raise _Stale(str(error)) from error
        except Changed as error:
            raise _Again(str(error), anew=True) from error
        except StorageError as error:
            raise _Again(str(error), anew=bool(first)) from error

        def counted() -> Iterator[bytes]:
            try:
                for piece in pieces:
                    self._count(piece)
                    yield piece
            except StorageError as error:
                raise _Again(str(error)) from error

        return _Answer(first, total, tag, "", counted(), lambda: None)

    def _bucket(self, href: str) -> tuple[Storage, str]:
        parts = _split(href)
        with self._shared:
            if parts.netloc not in self._buckets:
                self._buckets[parts.netloc] = Storage.open(f"s3://{parts.netloc}")
            return self._buckets[parts.netloc], parts.path.lstrip("/")

    def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> urllib3.BaseHTTPResponse:
        """The answer behind all redirects, unread. Raises _Again where another try may help."""
        sent = {"User-Agent": _agent(), "Accept-Encoding": "identity", **headers}
        for _ in range(_HOPS + 1):
            try:
                answer = self._connections.open(method, url, headers=sent, body=body)
            except ValueError as error:  # urllib3's LocationValueError among them
                raise RefusedHref(f"{shown(url)} is no URL that can be asked: {error}") from error
            except (HTTPError, HTTPException, OSError) as error:
                raise _Again(_reason(error)) from error
            if answer.status in (408, 425, 429, 500, 502, 503, 504):
                after = _retry_after(answer.headers.get("Retry-After"))
                answer.close()
                raise _Again(f"the server answers {answer.status} ({answer.reason})", after)
            location = answer.headers.get("Location")
            if answer.status not in (301, 302, 303, 307, 308) or location is None:
                return answer
            answer.close()
            url = self._redirected(url, location)
            if answer.status in (301, 302, 303) and method == "POST":
                method, body = "GET", None
        raise UnreadableAsset(f"{shown(url)}: more than {_HOPS} redirects")

    def _redirected(self, url: str, location: str) -> str:
        try:
            target = urljoin(url, location)
            old, new = urlsplit(url).scheme.lower(), urlsplit(target).scheme.lower()
        except ValueError as error:
            raise RefusedHref(f"{shown(url)} redirects to what is no URL") from error
        if new not in ("http", "https"):
            raise RefusedHref(f"{shown(url)} redirects to {new or 'no'}://, which is not fetched")
        if old == "https" and new == "http":
            raise RefusedHref(f"{shown(url)} redirects from https to http, where anybody could have changed it")
        return target

    def _pieces(self, answer: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        """The body as it comes, still encoded. Raises _Again where it breaks off or stalls, Stopped."""
        since, came = time.monotonic(), 0
        while True:
            try:
                piece = answer.read1(_PIECE, decode_content=False)
            except (HTTPError, HTTPException, OSError) as error:
                raise _Again(_reason(error)) from error
            if not piece:
                return
            self._count(piece)
            yield piece
            came += len(piece)
            now = time.monotonic()
            if now - since >= _STALL_SECONDS:
                if came < _STALL_BYTES:
                    raise _Again(f"only {came} bytes in {now - since:.0f} s")
                since, came = now, 0

    def _count(self, piece: bytes) -> None:
        if self._stop.is_set():
            raise Stopped
        with self._shared:
            self.received += len(piece)


@cache
def _agent() -> str:
    return f"landpatch/{version('landpatch')}"


def shown(href: str) -> str:
    """An href for people: without the query, which may hold a signature, and without a password."""
    try:
        parts = urlsplit(href)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return repr(href[:200])
    text = f"{parts.scheme}://{host}{parts.path}" if parts.scheme else parts.path
    return text if text.isprintable() else repr(text)


def _split(href: str) -> SplitResult:
    try:
        return urlsplit(href)
    except ValueError as error:
        raise RefusedHref(f"{shown(href)} is no URL: {error}") from error


def _reason(error: Exception) -> str:
    """The part of an error that a person can use: urllib3 puts the connection object before it."""
    return re.sub(r"^<[^>]*>: |^\w+\([^)]*\): ", "", str(error)) or type(error).__name__


def _retry_after(text: str | None) -> float | None:
    """Seconds from now by a Retry-After header (RFC 9110, 10.2.3); None where there is none that makes sense."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _verify(sink: "_Sink", expected: Expected, media: str) -> None:
    """Raises _Again where what has come is not what the item describes."""
    page = " (what came is an HTML page)" if media == "text/html" else ""
    if expected.size is not None and sink.size != expected.size:
        raise _Again(f"{sink.size:,} bytes instead of {expected.size:,}{page}", anew=True)
    algorithm = _MULTIHASHES.get((expected.checksum or "")[:4])
    if algorithm is not None:
        if (expected.checksum or "")[4:].lower() != sink.digest(algorithm):
            raise _Again(f"does not have the checksum that its item records{page}", anew=True)
        return
    wanted = (expected.media or "").lower()
    if wanted.startswith("image/tiff") and sink.start() not in _TIFF_STARTS:
        raise _Again(f"is no TIFF file{page}", anew=True)
    if page and not wanted.startswith(("text/html", "application/xhtml")):
        raise _Again(f"is an HTML page instead of {wanted or 'a file'}", anew=True)


# --- what has come so far -----------------------------------------------------------------------------------------


class _Sink(ABC):
    """The first bytes of a file, ``size`` of them, of the state that the entity ``tag`` names."""

    def __init__(self) -> None:
        self.size = 0
        self.tag: str | None = None
        self._sha256 = hashlib.sha256()

    def write(self, piece: bytes) -> None:
        """Append."""
        self._store(piece)
        self._sha256.update(piece)
        self.size += len(piece)

    def restart(self, tag: str | None) -> None:
        """Begin anew, with a file that the server knows as ``tag``."""
        self.size, self.tag = 0, tag
        self._sha256 = hashlib.sha256()

    def digest(self, algorithm: str) -> str:
        """Of all bytes, in hex."""
        if algorithm == "sha256":
            return self._sha256.hexdigest()
        other = hashlib.new(algorithm)
        for piece in self._content():
            other.update(piece)
        return other.hexdigest()

    def start(self) -> bytes:
        """The first four bytes."""
        return next(self._content(), b"")[:4]

    @abstractmethod
    def _store(self, piece: bytes) -> None:
        """Keep the next piece."""

    @abstractmethod
    def _content(self) -> Iterator[bytes]:
        """What has been kept, in pieces."""


class _Buffer(_Sink):
    """In memory."""

    def __init__(self) -> None:
        super().__init__()
        self.content = bytearray()

    def restart(self, tag: str | None) -> None:
        super().restart(tag)
        self.content.clear()

    def _store(self, piece: bytes) -> None:
        self.content += piece

    def _content(self) -> Iterator[bytes]:
        yield bytes(self.content)


class Parts:
    """The folder in which files grow. A part's name holds what it becomes, as a digest, and its entity tag."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, Path] = {}
        for file in folder.iterdir():
            match = _PART.fullmatch(file.name)
            if match is None:
                continue
            if match[1] in self._known:  # of another state of the file, left by a process killed in between
                file.unlink(missing_ok=True)
            else:
                self._known[match[1]] = file
        self._changing = threading.Lock()

    @contextmanager
    def open(self, name: str) -> Iterator["_Part"]:
        """The part of what becomes ``name``, with what an earlier run left of it."""
        key = hashlib.sha256(name.encode()).hexdigest()[:32]
        with self._changing:
            left = self._known.pop(key, None)
        part = _Part(self._folder, key, left)
        try:
            yield part
        finally:
            part.close()

    def sweep(self) -> None:
        """Remove the parts that nobody has asked for."""
        for file in self._known.values():
            file.unlink(missing_ok=True)
        self._known.clear()


class _Part(_Sink):
    """On disk."""

    def __init__(self, folder: Path, key: str, left: Path | None) -> None:
        super().__init__()
        self._folder, self._key = str(folder), key
        self._path = ""
        self._handle = -1
        if left is not None:
            self._take_over(left)

    def _take_over(self, left: Path) -> None:
        word = left.name.split(".")[1]
        try:
            tag = urlsafe_b64decode(word).decode() if word != "-" else None
        except ValueError:
            tag = None
        handle = -1
        try:
            handle = os.open(left, os.O_RDWR | _NO_LINKS)
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                raise OSError
        except OSError:
            if handle >= 0:
                os.close(handle)
            left.unlink(missing_ok=True)
            return
        self._handle, self._path, self.tag = handle, str(left), tag
        while piece := os.read(handle, _PIECE):
            self._sha256.update(piece)
            self.size += len(piece)

    def restart(self, tag: str | None) -> None:
        if self._handle >= 0 and not self.size and tag == self.tag:
            return
        super().restart(tag)
        word = "-" if tag is None else urlsafe_b64encode(tag.encode()).decode()
        old, self._path = self._path, os.path.join(self._folder, f"{self._key}.{word}.part")  # noqa: PTH118 - a third
        # of pathlib's time, for every file
        with _room(self._path):
            if self._handle >= 0:
                self.close()
                os.unlink(old)  # noqa: PTH108
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | _NO_LINKS, 0o666)

    def _store(self, piece: bytes) -> None:
        with _room(self._path):
            view = memoryview(piece)
            while view:
                view = view[os.write(self._handle, view) :]

    def _content(self) -> Iterator[bytes]:
        with Path(self._path).open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece

    def finish(self, target: Path) -> Fetched:
        """Put the file in its place."""
        if self._handle < 0:  # an empty file, of which no byte came
            self.restart(None)
        with _room(target):
            changed = os.fstat(self._handle).st_mtime_ns
            self.close()
            os.replace(self._path, target)  # noqa: PTH105
        return Fetched(self.size, self._sha256.hexdigest(), changed)

    def close(self) -> None:
        """Let go of the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


@contextmanager
def _room(path: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full; free some space and run the same command again" if full else error.strerror
        raise StorageError(f"cannot write {path}: {reason}") from error
