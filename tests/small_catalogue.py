"""A STAC API over the items of a small dataset, with its files, on loopback; it can be made to misbehave in every way
that servers do. The faults of a file come in an order drawn from its name: the same in every run.
"""

import hashlib
import json
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import cql2

from landpatch.catalog.items import items
from landpatch.catalog.store import Dataset

CONFORMS = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/item-search",
    "https://api.stacspec.org/v1.0.0/collections",
    "https://api.stacspec.org/v1.0.0/ogcapi-features",
    "https://api.stacspec.org/v1.0.0/item-search#filter",
]
FAULTS = ("cut", "busy", "unavailable", "too long", "too short", "flipped", "login page", "no ranges", "other tag")


@dataclass
class Catalogue:
    """``documents`` are the items that it serves, ``page`` how many at a time. ``faults``: of a file's first requests
    how many go wrong, by its path. ``asked`` are the search parameters, ``requests`` the paths, in order of arrival.
    ``signature``: hrefs carry it, and the server takes no other (None: any). ``unsigned``: items go out as they are,
    whatever they are. ``endless``: every page leads to itself. ``gap``: an empty page comes before the second.
    ``announced``: how many items the server says that there are.
    """

    folder: Path
    documents: list[dict[str, Any]]
    collection: dict[str, Any]
    url: str = ""
    page: int = 100
    conforms: list[str] = field(default_factory=lambda: list(CONFORMS))
    faults: Callable[[str], Sequence[str]] = lambda _: ()
    signature: Callable[[], str | None] = lambda: None
    unsigned: bool = False
    endless: bool = False
    gap: bool = False
    announced: int | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    faulted: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    changing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def files(self) -> list[str]:
        """Paths of the files that were asked for."""
        return [path for path in self.requests if path.startswith("/files/")]


def some_faults(path: str) -> Sequence[str]:
    """Of one file in three the first one to three requests go wrong."""
    drawn = random.Random(path)
    return [drawn.choice(FAULTS) for _ in range(drawn.choice((0, 0, 0, 0, 1, 3)))]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    catalogue: Catalogue

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._search(json.loads(body))

    def do_GET(self) -> None:
        catalogue, parts = self.catalogue, urlsplit(self.path)
        with catalogue.changing:
            catalogue.requests.append(parts.path)
        if parts.path == "/":
            self._json(self._landing())
        elif parts.path == "/search":
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            for name in ("ids", "collections"):
                if name in query:
                    query[name] = query[name].split(",")  # type: ignore[assignment]
            self._search(query)
        elif parts.path == f"/collections/{catalogue.collection['id']}":
            self._json(catalogue.collection)
        elif parts.path.startswith("/files/"):
            self._file(unquote(parts.path.removeprefix("/files/")), parse_qs(parts.query).get("sig", [None])[0])
        else:
            self._send(404, b"{}")

    def _landing(self) -> dict[str, Any]:
        url = self.catalogue.url
        links = [
            {"rel": "self", "href": f"{url}/"},
            {"rel": "data", "href": f"{url}/collections"},
            {"rel": "search", "href": f"{url}/search", "type": "application/geo+json", "method": "GET"},
            {"rel": "search", "href": f"{url}/search", "type": "application/geo+json", "method": "POST"},
        ]
        return {
            "type": "Catalog",
            "id": "small",
            "stac_version": "1.0.0",
            "description": "small",
            "conformsTo": self.catalogue.conforms,
            "links": links,
        }

    def _search(self, asked: dict[str, Any]) -> None:
        catalogue = self.catalogue
        with catalogue.changing:
            catalogue.asked.append(asked)
        found = catalogue.documents
        if asked.get("ids"):
            found = [item for item in found if item["id"] in asked["ids"]]
        if asked.get("filter") is not None:
            expression = cql2.Expr(json.dumps(asked["filter"]))
            found = [item for item in found if expression.matches(item)]
        start, size = int(asked.get("token", 0)), min(int(asked.get("limit", 10)), catalogue.page)
        body = {**asked, "token": start + (0 if catalogue.endless else size)}
        link = {"rel": "next", "href": f"{catalogue.url}/search", "method": "POST", "body": body}
        features = [self._signed(item) for item in found[start : start + size]]
        links = [link] if start + size < len(found) else []
        if catalogue.gap and start and "gap" not in asked:
            features, links = [], [{**link, "body": {**asked, "gap": True}}]
        counts = {} if catalogue.announced is None else {"numberMatched": catalogue.announced}
        self._json({"type": "FeatureCollection", "features": features, "links": links, **counts})

    def _signed(self, item: dict[str, Any]) -> dict[str, Any]:
        if self.catalogue.unsigned:
            return item
        signature = self.catalogue.signature()
        end = "" if signature is None else f"?sig={signature}"
        assets = {
            key: {**asset, "href": asset["href"] if ":" in asset["href"] else f"/files/{quote(asset['href'])}{end}"}
            for key, asset in item["assets"].items()
        }
        return {**item, "assets": assets}

    def _file(self, path: str, signature: str | None) -> None:
        catalogue = self.catalogue
        wanted = self.headers.get("Range")
        with catalogue.changing:
            number = catalogue.counts[path]
            catalogue.counts[path] += 1
            if wanted:
                catalogue.ranges.append(wanted)
        file = catalogue.folder / path
        if catalogue.signature() not in (None, signature):
            self._send(403, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>")
            return
        if not file.is_file():
            self._send(404, b"no such file")
            return
        data = file.read_bytes()
        faults = catalogue.faults(path)
        fault = faults[number] if number < len(faults) else None
        tag = '"' + hashlib.md5(data).hexdigest() + '"'
        if fault is not None:
            with catalogue.changing:
                catalogue.faulted[fault] += 1
        if fault == "busy":
            self._send(429, b"slow down", {"Retry-After": "0"})
        elif fault == "unavailable":
            self._send(503, b"later")
        elif fault == "login page":
            self._send(200, b"<html><body>Please log in</body></html>", {"Content-Type": "text/html"})
        elif fault == "flipped":
            middle = len(data) // 2
            self._send(200, data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], {"ETag": tag})
        elif fault == "too long":
            self._send(200, data, {"ETag": tag}, claim=len(data) + 1000, whole=False)
        elif fault == "too short":
            self._send(200, data[: len(data) // 3], {"ETag": tag})
        elif fault == "cut":
            self._send(200, data[: len(data) // 2], {"ETag": tag}, claim=len(data), whole=False)
        elif fault == "other tag":  # another file for a moment, which is cut off so that a range of it is asked for
            self._send(200, bytes(len(data) // 2), {"ETag": '"other"'}, claim=len(data), whole=False)
        else:
            match = re.fullmatch(r"bytes=(\d+)-", wanted or "")
            fresh = self.headers.get("If-Range") in (None, tag)
            if match and fresh and fault != "no ranges":
                first = int(match[1])
                span = f"bytes {first}-{len(data) - 1}/{len(data)}"
                self._send(206, data[first:], {"ETag": tag, "Content-Range": span})
            else:
                self._send(200, data, {"ETag": tag})

    def _json(self, document: Any) -> None:
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        *,
        claim: int | None = None,
        whole: bool = True,
    ) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "image/tiff"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if claim is None else claim))
        self.end_headers()
        self.wfile.write(body)
        if not whole:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nothing on the test's output."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """A client that was killed is no news."""


@contextmanager
def serve_catalogue(dataset: Dataset, **behaviour: Any) -> Iterator[Catalogue]:
    """The items of a local dataset as a STAC API on a free port."""
    assert dataset.storage.folder is not None
    catalogue = Catalogue(dataset.storage.folder, list(items(dataset.table())), dataset.collection(), **behaviour)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"catalogue": catalogue}))
    catalogue.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield catalogue
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
