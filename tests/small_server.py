"""A folder served on this machine over HTTP, with byte ranges: web server and, read-only, S3 at once."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class SmallServer:
    """``requests`` are method, path with query and Range header, in the order in which they came."""

    url: str
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, server: SmallServer, *arguments: object) -> None:
        self.folder, self.record = folder, server
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        wanted = self.headers.get("Range")
        self.record.requests.append((self.command, self.path, wanted))
        file = self.folder / unquote(urlsplit(self.path).path).lstrip("/")
        data = file.read_bytes() if file.is_file() else None
        status, extra = (404, {}) if data is None else (200, {"Accept-Ranges": "bytes", "ETag": '"1"'})
        data = data or b""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "")
        if status == 200 and match:
            first, last = int(match.group(1)), min(int(match.group(2) or len(data)), len(data) - 1)
            status, extra["Content-Range"] = 206, f"bytes {first}-{last}/{len(data)}"
            data = data[first : last + 1]
        self.send_response(status)
        for name, value in extra.items():
            self.send_header(name, value)
        self.send_header("Last-Modified", formatdate(0, usegmt=True))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing on the test's output."""


@contextmanager
def serve(folder: Path) -> Iterator[SmallServer]:
    """The folder on a free port of the loopback interface."""
    record = SmallServer("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, folder, record))
    record.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield record
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
