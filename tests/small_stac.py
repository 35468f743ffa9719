"""A STAC API on this machine: stac-fastapi over a list of items, and the ways in which real ones misbehave.

The server itself tells the truth. ``Faults`` stands between it and the client, as proxies do, and loses, delays,
cuts and falsifies the answers to searches.
"""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from operator import eq, ge, gt, le, lt
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import attr
import shapely
import uvicorn
from stac_fastapi.api.app import StacApi
from stac_fastapi.api.models import create_get_request_model, create_post_request_model
from stac_fastapi.extensions.pagination import TokenPaginationExtension
from stac_fastapi.extensions.query import QueryExtension
from stac_fastapi.types.config import ApiSettings
from stac_fastapi.types.core import BaseCoreClient
from stac_fastapi.types.errors import NotFoundError
from starlette.responses import JSONResponse

Item = dict[str, Any]
_TESTS = {"eq": eq, "lt": lt, "lte": le, "gt": gt, "gte": ge, "in": lambda value, wanted: value in wanted}


@attr.s
class _Memory(BaseCoreClient):
    """Searches a list; a token is the number of items that were given already."""

    items: list[Item] = attr.ib(factory=list)
    filters: bool = attr.ib(default=True)
    count: bool = attr.ib(default=True)
    answers: dict[str, list[Item]] = attr.ib(factory=dict)

    def post_search(self, search_request: Any, **kwargs: Any) -> Any:
        body = {k: v for k, v in search_request.model_dump(mode="json").items() if v is not None}
        intersects = body.get("intersects")
        return self._page(body, intersects, str(kwargs["request"].url), post=body)

    def get_search(self, *_arguments: Any, **kwargs: Any) -> Any:
        request = kwargs.pop("request")
        body = {k: v for k, v in kwargs.items() if v is not None}
        body["query"] = json.loads(body["query"]) if body.get("query") else None
        intersects = json.loads(body["intersects"]) if body.get("intersects") else None
        return self._page(body, intersects, str(request.url), post=None)

    def _page(self, body: Item, intersects: Item | None, url: str, post: Item | None) -> JSONResponse:
        asked = json.dumps({key: value for key, value in body.items() if key != "token"}, default=str)
        if asked not in self.answers:
            fitting = [item for item in self.items if not self.filters or self._fits(item, body, intersects)]
            self.answers[asked] = fitting
        found = self.answers[asked]
        start, limit = int(body.get("token") or 0), int(body.get("limit") or 10)
        links = []
        if start + limit < len(found):
            token = str(start + limit)
            if post is not None:
                links = [{"rel": "next", "href": url, "method": "POST", "body": {**post, "token": token}}]
            else:
                query = {key: values[0] for key, values in parse_qs(urlsplit(url).query).items()}
                href = f"{url.partition('?')[0]}?{urlencode({**query, 'token': token})}"
                links = [{"rel": "next", "href": href, "method": "GET"}]
        page = {"type": "FeatureCollection", "features": found[start : start + limit], "links": links}
        # As a response, since FastAPI takes longer to look at a page than everything else together.
        return JSONResponse({**page, "numberMatched": len(found)} if self.count else page)

    @staticmethod
    def _fits(item: Item, body: Item, intersects: Item | None) -> bool:
        properties = item["properties"]
        if body.get("collections") and item["collection"] not in body["collections"]:
            return False
        if isinstance(body.get("datetime"), str):
            first, last = (datetime.fromisoformat(text) for text in body["datetime"].split("/"))
            if not first <= datetime.fromisoformat(properties["datetime"]) <= last:
                return False
        shape = shapely.geometry.shape(item["geometry"])
        if intersects and not shapely.intersects(shape, shapely.geometry.shape(intersects)):
            return False
        if body.get("bbox") and not shapely.intersects(shape, shapely.box(*map(float, body["bbox"]))):
            return False
        return all(
            name in properties and _TESTS[test](properties[name], value)
            for name, terms in (body.get("query") or {}).items()
            for test, value in terms.items()
        )

    def all_collections(self, **_kwargs: Any) -> Any:
        names = sorted({item["collection"] for item in self.items})
        return {"collections": [self._collection(name) for name in names], "links": []}

    def get_collection(self, collection_id: str, **kwargs: Any) -> Any:
        home = str(kwargs["request"].base_url)
        links = [
            {"rel": "root", "type": "application/json", "href": home},
            {"rel": "items", "type": "application/geo+json", "href": f"{home}collections/{collection_id}/items"},
        ]
        return {**self._collection(collection_id), "links": links}

    @staticmethod
    def _collection(name: str) -> Item:
        return {"type": "Collection", "id": name, "stac_version": "1.1.0", "description": name, "links": []}

    def get_item(self, item_id: str, collection_id: str, **_kwargs: Any) -> Any:
        raise NotFoundError(f"{collection_id}/{item_id}")

    def item_collection(self, collection_id: str, *_arguments: Any, **kwargs: Any) -> Any:
        request = kwargs["request"]
        asked = dict(request.query_params)
        body = {"collections": [collection_id], "limit": asked.get("limit"), "token": asked.get("token")}
        return self._page(body, None, str(request.url), post=None)


@dataclass
class Fault:
    """What happens to one answer: a ``status`` instead of it, half of it (``cut``), ``delay`` seconds before it, or
    another page (``rewrite``).
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    delay: float = 0.0
    rewrite: Callable[[Item], Any] | None = None


@dataclass
class SmallApi:
    """``searches`` are the bodies (POST) or queries (GET) of all searches in the order in which they came."""

    url: str = ""
    searches: list[Any] = field(default_factory=list)
    fault: Callable[[int], Fault | None] = lambda _: None
    """Called with the number of each search, from 1."""


class _Faults:
    def __init__(self, app: Any, record: SmallApi) -> None:
        self.app, self.record = app, record

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].endswith(("/search", "/items")):
            await self.app(scope, receive, send)
            return
        body = b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        body += message["body"]
        self.record.searches.append(json.loads(body) if body else scope["query_string"].decode())
        fault = self.record.fault(len(self.record.searches)) or Fault()
        if fault.delay:
            await asyncio.sleep(fault.delay)
        status, content = fault.status, b"the server is unwell"
        if status is None:
            status, content = await self._truth(scope, body)
            if fault.rewrite is not None:
                content = json.dumps(fault.rewrite(json.loads(content))).encode()
        headers = {"content-type": "application/json", "content-length": str(len(content)), **fault.headers}
        start = {"type": "http.response.start", "status": status}
        await send({**start, "headers": [(k.encode(), v.encode()) for k, v in headers.items()]})
        if fault.cut:
            await send({"type": "http.response.body", "body": content[: len(content) // 2], "more_body": True})
            raise ConnectionError("cut")  # uvicorn closes the connection
        await send({"type": "http.response.body", "body": content})

    async def _truth(self, scope: Any, body: bytes) -> tuple[int, bytes]:
        told: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            told.append(message)

        plain = [(key, value) for key, value in scope["headers"] if key != b"accept-encoding"]
        await self.app({**scope, "headers": plain}, receive, send)
        return told[0]["status"], b"".join(message.get("body", b"") for message in told[1:])


@contextmanager
def serve_api(items: list[Item], *, filters: bool = True, count: bool = True) -> Iterator[SmallApi]:
    """The items as a STAC API on a free port; ``filters``: whether it heeds them, ``count``: ``numberMatched``."""
    extensions = [QueryExtension(), TokenPaginationExtension()]
    get_model, post_model = create_get_request_model(extensions), create_post_request_model(extensions)
    api = StacApi(
        settings=ApiSettings(
            stac_fastapi_title="small",
            stac_fastapi_description="small",
            stac_fastapi_version="1",
            stac_fastapi_landing_id="small",
        ),
        client=_Memory(items=items, filters=filters, count=count),
        extensions=extensions,
        search_get_request_model=get_model,
        search_post_request_model=post_model,
        middlewares=[],
    )
    with serve_app(api.app) as record:
        yield record


@contextmanager
def serve_app(app: Any) -> Iterator[SmallApi]:
    """Any ASGI application on a free port of the loopback interface, with faults."""
    record = SmallApi()
    config = uvicorn.Config(
        _Faults(app, record),
        "127.0.0.1",
        0,
        log_level="critical",
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the small STAC API did not start")
            threading.Event().wait(0.01)
        record.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield record
    finally:
        server.should_exit = True
        thread.join()
