"""Around every request: HEAD, limits, metrics, the access log. Plain ASGI, so that nothing is buffered."""

import logging
import time
from collections.abc import MutableMapping
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_access = logging.getLogger("landpatch.access")

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Counts and times of requests, by route: the path a client makes up must not become a time series."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("route", "method")
        self.requests = Counter(
            "landpatch_requests_total", "Requests answered.", (*labels, "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "landpatch_request_seconds", "Time to the last byte.", labels, registry=self.registry, buckets=_BUCKETS
        )


class Observed:
    """Counts, times and logs each request; what escapes the application becomes a plain 500."""

    def __init__(self, app: ASGIApp, metrics: Metrics, log: bool) -> None:
        self._app, self._metrics, self._log = app, metrics, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        seen: dict[str, int] = {"status": 0, "bytes": 0}

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
            elif message["type"] == "http.response.body":
                seen["bytes"] += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            seconds = time.perf_counter() - begun
            route = getattr(scope.get("route"), "path", None) or "other"
            method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "OPTIONS") else "other"
            self._metrics.requests.labels(route, method, str(seen["status"])).inc()
            self._metrics.seconds.labels(route, method).observe(seconds)
            if self._log:
                _access.info("%s", _line(scope, method, route, seen, seconds))


def _line(scope: Scope, method: str, route: str, seen: dict[str, int], seconds: float) -> str:
    entry = {
        "time": round(time.time(), 3),
        "method": method,
        "path": scope["path"],
        "query": scope["query_string"].decode("latin-1")[:500],
        "route": route,
        **seen,
        "ms": round(seconds * 1000, 1),
        "client": (scope.get("client") or ("",))[0],
    }
    return orjson.dumps(entry).decode()


class HeadAsGet:
    """Answers HEAD where there is GET: the same status and headers, and no body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        started: MutableMapping[str, Any] = {}

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.start":
                started.update(message)
                await send(message)
            elif message["type"] == "http.response.body" and not message.get("more_body", False):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        inner = dict(scope)
        inner["method"] = "GET"
        await self._app(inner, receive, without_body)
        if "route" in inner:
            scope["route"] = inner["route"]


class Limited:
    """Refuses requests whose body or address is too long, before anything reads them."""

    def __init__(self, app: ASGIApp, body_bytes: int) -> None:
        self._app, self._most = app, body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self._most:
            await self._drain(receive)
            await self._refuse(send)
            return
        got = 0
        begun = refused = False

        async def counted() -> Message:
            nonlocal got, refused
            message = await receive()
            got += len(message.get("body", b""))
            if got > self._most:
                refused = True
                if not begun:
                    await self._refuse(send)
                return {"type": "http.disconnect"}
            return message

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            if not refused:
                await send(message)

        await self._app(scope, counted, sending)

    async def _drain(self, receive: Receive) -> None:
        """Take some of the body: a client that is still sending would see a broken connection, not the answer."""
        got, more = 0, True
        while more and got < 10 * self._most:
            message = await receive()
            got += len(message.get("body", b""))
            more = bool(message.get("more_body", False))

    async def _refuse(self, send: Send) -> None:
        text = orjson.dumps(
            {"code": "RequestTooLarge", "description": f"a request's body may have {self._most:,} bytes"}
        )
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": text})
