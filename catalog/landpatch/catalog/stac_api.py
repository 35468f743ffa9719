"""Searching a STAC API to the end: every page, or an error; never a part that looks like the whole.

pystac-client builds the requests and knows the protocol. Its paging trusts the server: it stops at an empty page that
has a successor, follows ``next`` in circles, to other hosts and into local files, does not ask again what failed
within a search, and does not compare what came with what was announced. So the pages are walked here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit, urlunsplit

import orjson
import requests
import shapely
from pystac_client import ItemSearch
from pystac_client.stac_api_io import StacApiIO

from landpatch.catalog.errors import SourceError
from landpatch.catalog.stac_documents import DocumentReader

Progress = Callable[[int, int], None]
"""Called with how many items came and how many are announced so far (0: unknown)."""

_QUERY = "item-search#query"  # the end of the conformance class, whose version differs
# After so many pages in a row without one new item the server turns in circles. A few empty or repeated pages occur
# where a server filters after it has cut the pages.
_STALE_PAGES = 20
_MOST_ITEMS = 2_000_000  # all Sentinel-2 tiles of some days; beyond, somebody is making items up
_MOST_CORNERS = 500  # of a geometry that is sent; its hull then
_LONGEST_GEOMETRY = 1500  # characters in the address of a GET: servers stop at 8 kB or less


@dataclass(frozen=True, slots=True)
class ItemRequest:
    """What a server is asked for, all that it can filter by: it may send more, not less.

    ``geometry`` is GeoJSON in WGS 84; ``query`` the terms of the query extension.
    """

    collections: tuple[str, ...]
    start: datetime
    end: datetime
    geometry: Mapping[str, Any] | None
    query: Mapping[str, Mapping[str, Any]]


class StacApi:
    """A STAC API by its landing page."""

    def __init__(self, url: str, landing: Mapping[str, Any], reader: DocumentReader) -> None:
        self.url = url
        self._reader = reader
        classes = landing.get("conformsTo")
        self.has_query = isinstance(classes, list) and any(str(name).endswith(_QUERY) for name in classes)
        self._search, self._method = search_link(landing, url) or ("", "GET")
        if not self._search:
            raise SourceError(f"{url} names no search; it is no STAC API")

    def collections(self, known: Sequence[str]) -> tuple[str, ...]:
        """Those of the ``known`` collections that the API has, in their order; none where it does not tell."""
        try:
            document = self._reader.json(f"{self.url.rstrip('/')}/collections")
        except SourceError:  # optional in the API specification
            return ()
        entries = document.get("collections") if isinstance(document, dict) else None
        has = (
            {entry.get("id") for entry in entries if isinstance(entry, dict)} if isinstance(entries, list) else set()
        )
        return tuple(name for name in known if name in has)

    def items(self, request: ItemRequest, page_size: int, progress: Progress) -> Iterator[dict[str, Any]]:
        """Everything that answers the request, each item once as it came. Raises SourceError."""
        place: dict[str, Any] = {}
        if request.geometry is not None:
            geometry = _simplified(request.geometry)
            place = {"intersects": geometry}
            if self._method == "GET" and len(orjson.dumps(geometry)) > _LONGEST_GEOMETRY:
                place = {"bbox": list(shapely.geometry.shape(geometry).bounds)}
        search = ItemSearch(
            self._search,
            method=self._method,
            stac_io=Pages(self._reader, progress),
            collections=list(request.collections) or None,
            datetime=f"{request.start:%Y-%m-%dT%H:%M:%SZ}/{request.end:%Y-%m-%dT%H:%M:%SZ}",
            query=dict(request.query) or None,
            limit=page_size,
            **place,
        )
        for page in search.pages_as_dicts():
            yield from page["features"]


def pages_of(href: str, reader: DocumentReader, progress: Progress) -> Iterator[dict[str, Any]]:
    """The items of an item collection at ``href`` and of the pages that follow it. Raises SourceError."""
    for page in Pages(reader, progress).get_pages(href):
        yield from page["features"]


def search_link(landing: Mapping[str, Any], url: str) -> tuple[str, str] | None:
    """Address and method of an API's search; POST where it has both: its requests have no length limit."""
    found: dict[str, str] = {}
    for link in _links(landing):
        if link.get("rel") == "search" and str(link.get("type", "geo+json")).endswith("json"):
            found.setdefault(
                str(link.get("method", "GET")).upper(), _same_scheme(urljoin(url, str(link["href"])), url)
            )
    for method in ("POST", "GET"):
        if method in found:
            return found[method], method
    return None


class JsonReader(Protocol):
    """Whatever fetches a document of an API, patiently."""

    def json(self, href: str, *, method: str = "GET", body: Any = None, headers: Any = None) -> Any:
        """The document at ``href``, for which ``body`` is posted where the method is POST."""


class Pages(StacApiIO):
    """pystac-client's way to the network, with pages that are walked to their end."""

    def __init__(self, reader: JsonReader, progress: Progress) -> None:
        super().__init__(max_retries=None)
        self._reader, self._progress = reader, progress

    def get_pages(
        self, url: str, method: str | None = None, parameters: dict[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Pages with at least one new item, and of each page the new items alone. Raises SourceError."""
        step: _Step | None = _Step(url, method or "GET", parameters or {}, {})
        asked: set[bytes] = set()
        seen: set[tuple[str, str]] = set()
        nameless = 0  # items without an id, which cannot be told from each other: the caller says what is wrong
        came, announced, number, stale = 0, 0, 0, 0
        while step is not None:
            number += 1
            asked.add(step.key)
            page = self._ask(step, number)
            features = page["features"]
            announced = max(announced, _announced(page))
            before = len(seen)
            fresh = []
            for item in features:
                if not isinstance(item.get("id"), str):
                    nameless += 1
                elif (key := (str(item.get("collection")), item["id"])) in seen:
                    continue
                else:
                    seen.add(key)
                fresh.append(item)
            came = len(seen) + nameless
            self._progress(came, announced)
            if fresh:
                yield {**page, "features": fresh}
            stale = 0 if len(seen) > before else stale + 1
            following = _next(page, step, url, number)
            circular = following is not None and following.key in asked
            if circular or stale > _STALE_PAGES or came > _MOST_ITEMS:
                if announced and came >= announced:  # all is here; the server does not know how to stop
                    return
                what = "leads back to a page that was read before" if circular else "goes on for ever"
                raise SourceError(
                    f"{url}: page {number} of the search {what} (after {came} items"
                    f"{f' of {announced}' if announced else ''}). This server's paging is broken; ask for less, so "
                    "that one page holds it, or use another source"
                )
            step = following
        if came < announced:
            raise SourceError(
                f"{url} announces {announced} items, but its {number} pages held {came} different ones: items "
                "are missing. Run this again (the catalogue may have changed meanwhile), or ask for less at a time"
            )

    def _ask(self, step: "_Step", number: int) -> dict[str, Any]:
        href = step.href
        body = step.parameters if step.method == "POST" else None
        if step.method == "GET" and step.parameters:
            href = str(requests.Request("GET", href, params=dict(step.parameters)).prepare().url)
        try:
            page = self._reader.json(href, method=step.method, body=body, headers=step.headers or None)
        except SourceError as error:
            raise type(error)(f"page {number} of the search: {error}") from error
        features = page.get("features") if isinstance(page, dict) else None
        if not isinstance(features, list):
            said = orjson.dumps(page)[:200].decode("utf-8", "replace")
            raise SourceError(f"page {number} of the search: {step.href} answers no item collection but {said}")
        return {**page, "features": [item if isinstance(item, dict) else {} for item in features]}


@dataclass(frozen=True, slots=True)
class _Step:
    """One request of a paged search."""

    href: str
    method: str
    parameters: Mapping[str, Any]
    headers: Mapping[str, str]

    @property
    def key(self) -> bytes:
        """Equal for requests that a server cannot tell apart."""
        said = [self.href, self.method, self.parameters, self.headers]
        return orjson.dumps(said, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)


def _next(page: Mapping[str, Any], step: _Step, url: str, number: int) -> _Step | None:
    """What the page's ``next`` link asks for (STAC API - Item Search, paging). Raises SourceError."""
    link = next((link for link in _links(page) if link.get("rel") == "next"), None)
    if link is None:
        return None
    try:
        href = _same_scheme(urljoin(step.href, str(link["href"])), url)
        here, there = urlsplit(url), urlsplit(href)
        ours = (there.scheme, there.hostname, there.port) == (here.scheme, here.hostname, here.port)
    except ValueError:
        ours, href = False, str(link["href"])
    if not ours:
        raise SourceError(
            f"{url}: after page {number} the search leads to {href}, another server, which is not followed. If that "
            "is the catalogue's true address, give it as the source"
        )
    method = str(link.get("method", "GET")).upper()
    body = link.get("body")
    parameters: dict[str, Any] = dict(body) if method == "POST" and isinstance(body, dict) else {}
    if method == "POST" and link.get("merge") is True:
        parameters = {**step.parameters, **parameters}
    stated = link.get("headers")
    headers = {str(k): str(v) for k, v in stated.items()} if isinstance(stated, dict) else {}
    return _Step(href, method if method == "POST" else "GET", parameters, headers)


def _same_scheme(href: str, url: str) -> str:
    """Many servers behind a proxy do not know that they are reached by https, and write http into their links."""
    there, here = urlsplit(href), urlsplit(url)
    if there.hostname == here.hostname and there.scheme == "http" and here.scheme == "https":
        return urlunsplit(("https", here.netloc, there.path, there.query, ""))
    return href


def _announced(page: Mapping[str, Any]) -> int:
    """How many items the whole search has, as the server says; 0 where it does not."""
    context = page.get("context")
    for stated in (page.get("numberMatched"), context.get("matched") if isinstance(context, dict) else None):
        if isinstance(stated, int) and not isinstance(stated, bool):
            return max(stated, 0)
    return 0


def _links(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    links = document.get("links")
    return [li for li in links if isinstance(li, dict) and "href" in li] if isinstance(links, list) else []


def _simplified(geometry: Mapping[str, Any]) -> dict[str, Any]:
    """The geometry, or what surely covers it in fewer corners: the hull of each part, or the box of all."""
    shape = shapely.geometry.shape(geometry)
    if shapely.get_num_coordinates(shape) > _MOST_CORNERS:
        shape = shapely.union_all([shapely.convex_hull(part) for part in shapely.get_parts(shape)])
    if shapely.get_num_coordinates(shape) > _MOST_CORNERS:
        shape = shapely.box(*shape.bounds)
    return dict(shapely.geometry.mapping(shape))
