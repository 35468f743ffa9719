"""Reading the JSON documents of a catalogue of scenes, from disk, http(s) or S3, in spite of what networks do.

What is asked again is decided here and nowhere else: urllib3's ``Retry``, which pystac-client relies on, leaves out
POST, answers that break off in their body and JSON that is cut short, and gives up on 5xx at once.
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson
import requests

from landpatch.catalog.errors import InvalidParameter, SourceError, StorageError
from landpatch.catalog.store import NotFound, Storage

REMOTE = ("http", "https", "s3")
# Too many requests, time-outs and gateways: RFC 9110, 15.5 and 15.6, and 425 of RFC 8470.
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_CHUNK = 2**18


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to put up with a server; times in seconds.

    A document is asked for up to ``tries`` times, first after ``first_wait``, then twice as long each time up to
    ``longest_wait``; a server's ``Retry-After`` is honoured up to ``longest_request``. A try is lost after
    ``silence`` without a byte, or when it takes longer than ``longest_try``.
    """

    tries: int = 6
    first_wait: float = 0.5
    longest_wait: float = 30.0
    longest_request: float = 300.0
    silence: float = 60.0
    longest_try: float = 300.0

    def __post_init__(self) -> None:
        if self.tries < 1 or min(self.first_wait, self.longest_wait, self.silence, self.longest_try) < 0:
            raise InvalidParameter(f"{self}: at least one try, and no negative times")


class UnusableDocument(SourceError):
    """A document is not there, is no JSON, too large, or lies where its catalogue must not point to."""

    retryable = False


class _Lost(Exception):
    """A try failed in a way that another may not; ``wait`` is what the server asks for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class DocumentReader:
    """Reads what a catalogue that was opened at ``root`` may point to; may be used by several threads.

    A catalogue on the network is not trusted with local files: only ``http(s)`` and ``s3`` lead on from there.
    """

    def __init__(self, root: str, patience: Patience, *, most_bytes: int = 2**26) -> None:
        self.remote = is_remote(root)
        self.patience = patience
        self.most_bytes = most_bytes
        """Of one document, after decompression: 64 MiB hold thousands of items; anything larger is no page."""
        self._threads = threading.local()

    def json(self, href: str, *, method: str = "GET", body: Any = None, headers: Any = None) -> Any:
        """The document at ``href``; over http(s) with ``body`` as JSON where the method is POST.

        Raises SourceError when the server fails again and again, UnusableDocument when asking again cannot help.
        """
        scheme = urlsplit(href).scheme.lower()
        if scheme in ("http", "https"):
            return self._patiently(href, lambda: self._http(href, method, body, headers))
        return self._parsed(href, self.content(href))

    def content(self, href: str) -> bytes:
        """The whole object of any size that ``json`` takes. Raises as that does."""
        scheme = urlsplit(href).scheme.lower()
        if scheme in ("http", "https"):
            content: bytes = self._patiently(href, lambda: self._http(href, "GET", None, None, parse=False))
            return content
        try:
            if scheme == "s3":
                folder, _, name = href.rpartition("/")
                storage = Storage.open(folder)
                if storage.size(name) > self.most_bytes:
                    raise self._too_large(href)
                return storage.get(name)
            if self.remote or (scheme not in ("", "file") and len(scheme) > 1):
                raise UnusableDocument(
                    f"{href} is not read: a catalogue on the network leads to http(s):// and s3:// only"
                )
            path = local_path(href)
            if path.stat().st_size > self.most_bytes:
                raise self._too_large(href)
            return path.read_bytes()
        except NotFound as error:
            raise UnusableDocument(str(error)) from error
        except StorageError as error:
            raise SourceError(str(error)) from error
        except (OSError, ValueError) as error:
            raise UnusableDocument(f"{href} cannot be read: {error}") from error

    def _patiently(self, href: str, attempt: Callable[[], Any]) -> Any:
        patience = self.patience
        for tried in range(1, patience.tries + 1):
            try:
                return attempt()
            except _Lost as lost:
                if lost.wait > patience.longest_request:
                    raise SourceError(
                        f"{href}: {lost}, and the server asks for a pause of {lost.wait:.0f} s; run this again then"
                    ) from lost
                if tried == patience.tries:
                    raise SourceError(
                        f"{href} failed {tried} times, the last time with: {lost}. Nothing of the result is used; "
                        "run this again later, or ask for a smaller area or a shorter time"
                    ) from lost
                # Not all clients that were sent away come back at the same moment.
                pause = min(patience.first_wait * 2 ** (tried - 1), patience.longest_wait)
                time.sleep(max(pause * random.uniform(0.5, 1), lost.wait))
        raise AssertionError("at least one try")

    def _http(self, href: str, method: str, body: Any, headers: Any, *, parse: bool = True) -> Any:
        patience = self.patience
        until = time.monotonic() + patience.longest_try
        try:
            with self._session().request(
                method,
                href,
                json=body if method == "POST" else None,
                headers=headers,
                timeout=(min(10.0, patience.silence), patience.silence),
                stream=True,
            ) as answer:
                if answer.status_code in _TRANSIENT:
                    raise _Lost(f"HTTP {answer.status_code} {answer.reason}", _retry_after(answer))
                if answer.request.method != method:  # 301 and 302 turn POST into GET, and the question is lost
                    raise UnusableDocument(f"{href} is moved to {answer.url}: give the catalogue's new address")
                if not answer.ok:
                    said = " ".join(answer.raw.read(400, decode_content=True).decode("utf-8", "replace").split())
                    raise UnusableDocument(f"{href}: HTTP {answer.status_code} {answer.reason}: {said}")
                content = bytearray()
                for piece in answer.iter_content(_CHUNK):
                    content += piece
                    if len(content) > self.most_bytes:
                        raise self._too_large(href)
                    if time.monotonic() > until:
                        raise _Lost(f"no complete answer within {patience.longest_try:g} s")
        except requests.exceptions.SSLError as error:
            raise UnusableDocument(f"{href}: no secure connection ({error})") from error
        except (
            requests.exceptions.ConnectionError,  # also of a body that breaks off
            requests.exceptions.Timeout,
            requests.exceptions.ChunkedEncodingError,
            requests.exceptions.ContentDecodingError,
        ) as error:
            raise _Lost(_short(error)) from error
        except (requests.exceptions.RequestException, ValueError) as error:
            raise UnusableDocument(f"{href} cannot be asked: {error}") from error
        if not parse:
            return bytes(content)
        try:
            return orjson.loads(bytes(content))
        except orjson.JSONDecodeError as error:
            raise _Lost(f"the answer is no JSON ({error})") from error

    def _session(self) -> requests.Session:
        """One for each thread: requests does not promise more."""
        if not hasattr(self._threads, "session"):
            self._threads.session = requests.Session()
        session: requests.Session = self._threads.session
        return session

    def _parsed(self, href: str, content: bytes) -> Any:
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise UnusableDocument(f"{href} is not JSON ({error})") from error

    def _too_large(self, href: str) -> UnusableDocument:
        return UnusableDocument(f"{href} is larger than {self.most_bytes / 2**20:.0f} MiB: no such document is read")


def is_remote(href: str) -> bool:
    """Whether an href leads over a network."""
    return urlsplit(href).scheme.lower() in REMOTE


def local_path(href: str) -> Path:
    """A path or ``file://`` URL as absolute path."""
    return Path(unquote(urlsplit(href).path) if href.startswith("file:") else href).absolute()


def _retry_after(answer: requests.Response) -> float:
    """Seconds that ``Retry-After`` asks for, as a number or a date (RFC 9110, 10.2.3); 0 where it asks for none."""
    stated = answer.headers.get("Retry-After", "").strip()
    if stated.isascii() and stated.isdigit():
        return float(stated[:9])
    try:
        moment = parsedate_to_datetime(stated)
    except ValueError:
        return 0.0
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _short(error: BaseException) -> str:
    """The innermost of requests' and urllib3's nested reasons."""
    while error.args and isinstance(error.args[-1], BaseException):
        error = error.args[-1]
    reason = getattr(error, "reason", None)
    return _short(reason) if isinstance(reason, BaseException) else f"{type(error).__name__}: {error}"
