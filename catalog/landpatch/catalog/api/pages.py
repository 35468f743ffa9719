"""Pages of search results over several datasets: order, tokens, fields, links."""

import base64
import binascii
import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cmp_to_key
from typing import Any
from urllib.parse import quote

import orjson

from landpatch.catalog.api.settings import Settings
from landpatch.catalog.bodies import completed
from landpatch.catalog.cql2_sql import InvalidQuery
from landpatch.catalog.renderings import TRUE_COLOUR
from landpatch.catalog.search import After, Hit, Query, Snapshot, SortKey

_TOKEN_LENGTH = 4096


_DEFAULT = ("type", "stac_version", "id", "collection", "geometry", "bbox", "links", "assets", "properties.datetime")
"""What the Fields extension recommends where a request leaves it open."""
_ALWAYS = ("type", "stac_version", "id", "collection")
"""What tells any reader that this is an item, and which."""


@dataclass(frozen=True, slots=True)
class Fields:
    """What of an item is wanted, as paths like ``id`` or ``properties.landpatch:split`` (Fields extension 1.0.0).

    ``include``: that alone, and what makes it an item; of what lies within it, ``exclude`` is left out. Only
    ``exclude``: everything else. ``from_default``: what the extension recommends, without ``exclude``. What is
    included by name is never excluded.
    """

    include: frozenset[str] = frozenset()
    exclude: frozenset[str] = frozenset()
    from_default: bool = False

    def of(self, item: dict[str, Any]) -> dict[str, Any]:
        """The item with what is wanted."""
        if not self.include and not self.from_default:
            kept = item
            for path in self.exclude:
                _remove(kept, path)
            return kept
        kept = {}
        for path in _DEFAULT if self.from_default else (*_ALWAYS, *self.include):
            _copy(item, path, kept)
        for path in self.exclude - self.include:
            if self.from_default or any(path.startswith(f"{parent}.") for parent in self.include):
                _remove(kept, path)
        return kept


def _steps(container: Mapping[str, Any], path: str) -> list[str]:
    """``properties.a.b`` as steps; a key may have dots itself."""
    steps, rest, here = [], path, container
    while isinstance(here, Mapping) and rest not in here and "." in rest:
        head, rest = rest.split(".", 1)
        steps.append(head)
        here = here.get(head, {})
    return [*steps, rest]


def _copy(item: dict[str, Any], path: str, target: dict[str, Any]) -> None:
    *parents, last = _steps(item, path)
    source: Any = item
    for step in parents:
        source = source.get(step) if isinstance(source, Mapping) else None
    if not isinstance(source, Mapping) or last not in source:
        if path in item.get("properties", {}):  # a property's bare name, which many clients send
            _copy(item, f"properties.{path}", target)
        return
    for step in parents:
        target = target.setdefault(step, {})
        if not isinstance(target, dict):
            return
    value = source[last]
    target[last] = {**value, **target.get(last, {})} if isinstance(value, dict) else value


def _remove(item: dict[str, Any], path: str) -> None:
    *parents, last = _steps(item, path)
    here: Any = item
    for step in parents:
        here = here.get(step) if isinstance(here, dict) else None
    if isinstance(here, dict):
        here.pop(last, None)


# --- tokens ------------------------------------------------------------------------------------------------------


def token_after(collection: str, hit: Hit, sort: Sequence[SortKey]) -> str:
    """The place behind an item, for the next page: its sort values, collection and id, and what the order was."""
    document = [_order(sort), list(hit.values), collection, hit.id]
    return base64.urlsafe_b64encode(json.dumps(document, separators=(",", ":")).encode()).decode().rstrip("=")


def place_of(token: str, sort: Sequence[SortKey]) -> tuple[tuple[Any, ...], str, str]:
    """Sort values, collection and id of a token. Raises InvalidQuery for what ``token_after`` never gave."""
    try:
        if len(token) > _TOKEN_LENGTH:
            raise ValueError("too long")
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        order, values, collection, item = json.loads(raw)
        plain = all(value is None or isinstance(value, str | int | float) for value in values)
        if not (isinstance(collection, str) and isinstance(item, str) and isinstance(values, list) and plain):
            raise ValueError("not of the form")
        f"{values}{collection}{item}".encode()
        if any(isinstance(value, int) and abs(value) >= 2**63 for value in values):
            raise ValueError("too large")
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise InvalidQuery("the page token is none of this server's: begin again without it") from None
    if order != _order(sort) or len(values) != len(sort):
        raise InvalidQuery("the page token belongs to another order: keep sortby, or begin again without the token")
    return tuple(values), collection, item


def _order(sort: Sequence[SortKey]) -> list[str]:
    return [f"{'-' if key.descending else '+'}{key.name}" for key in sort]


# --- a page ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """An item found in one of several snapshots."""

    collection: str
    snapshot: Snapshot
    hit: Hit


def search_page(
    snapshots: Mapping[str, Snapshot],
    query: Query,
    *,
    sort: Sequence[SortKey],
    token: str | None,
    limit: int,
) -> list[Found]:
    """The next ``limit + 1`` items of all snapshots in one order: by ``sort``, then collection, then id.

    The one more tells whether there is another page. Raises InvalidQuery, SearchTimeout.
    """
    begun = place_of(token, sort) if token else None
    streams = []
    missing = limit + 1
    for name in sorted(snapshots):
        if begun is None:
            after = None
        else:
            values, collection, item = begun
            if not sort and name < collection:
                continue
            after = After(values, item if name == collection else "" if name > collection else None)
        hits = snapshots[name].search(query, sort=sort, after=after, limit=missing)
        streams.append([Found(name, snapshots[name], hit) for hit in hits])
        if not sort:  # collections follow one another
            missing -= len(hits)
            if missing <= 0:
                break
    if len(streams) == 1:
        return streams[0]

    def compare(one: Found, other: Found) -> int:
        return _compared(one, other, sort)

    return list(heapq.merge(*streams, key=cmp_to_key(compare)))[: limit + 1]


def _compared(one: Found, other: Found, sort: Sequence[SortKey]) -> int:
    for key, left, right in zip(sort, one.hit.values, other.hit.values, strict=True):
        if left == right:
            continue
        if left is None or right is None:
            return 1 if left is None else -1
        return (1 if left > right else -1) * (-1 if key.descending else 1)
    return (one.collection > other.collection) - (one.collection < other.collection)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses of one server as a request reached it; ``base`` ends with ``/``."""

    base: str

    def collection(self, collection: str) -> str:
        """Of a collection."""
        return f"{self.base}collections/{quote(collection, safe='')}"

    def item(self, collection: str, item: str) -> str:
        """Of an item."""
        return f"{self.collection(collection)}/items/{quote(item, safe='')}"

    def assets(self, collection: str) -> str:
        """Below which a dataset's files lie; ends with ``/``."""
        return f"{self.base}assets/{quote(collection, safe='')}/"

    def item_links(self, collection: str, item: str) -> bytes:
        """Own links of an item, as JSON objects with commas between them."""
        parent = self.collection(collection)
        links = [
            {"rel": "self", "type": "application/geo+json", "href": self.item(collection, item)},
            {"rel": "parent", "type": "application/json", "href": parent},
            {"rel": "collection", "type": "application/json", "href": parent},
            {"rel": "root", "type": "application/json", "href": self.base},
        ]
        return orjson.dumps(links)[1:-1]

    def preview_link(self, collection: str, item: str) -> bytes:
        """Link to an item's picture, as ``item_links``. Only one: STAC Browser takes it for the thumbnail."""
        place = f"{self.base}previews/{quote(collection, safe='')}/{quote(item, safe='')}"
        link = {
            "rel": "preview",
            "type": "image/png",
            "title": TRUE_COLOUR.title,
            "href": f"{place}/{TRUE_COLOUR.name}.png",
        }
        return orjson.dumps(link)


def item_texts(
    page: Sequence[Found], addresses: Addresses, settings: Settings, fields: Fields | None
) -> Iterator[bytes]:
    """The items of a page as JSON, in its order. Raises StorageError."""
    texts: dict[tuple[str, int], bytes] = {}
    for name in {found.collection for found in page}:
        mine = [found for found in page if found.collection == name]
        bodies = mine[0].snapshot.bodies([found.hit.rank for found in mine])
        texts.update({(name, found.hit.rank): body for found, body in zip(mine, bodies, strict=True)})
    for found in page:
        links = addresses.item_links(found.collection, found.hit.id)
        if settings.previews:
            links += b"," + addresses.preview_link(found.collection, found.hit.id)
        body = completed(texts[found.collection, found.hit.rank], addresses.assets(found.collection).encode(), links)
        if fields is None and settings.assets == "served":
            yield body
            continue
        item = orjson.loads(body)
        if settings.assets == "presigned":
            _presign(item, found.snapshot, addresses.assets(found.collection), settings.presigned_seconds)
        yield orjson.dumps(item if fields is None else fields.of(item))


def _presign(item: dict[str, Any], snapshot: Snapshot, base: str, seconds: int) -> None:
    for asset in item["assets"].values():
        if asset["href"].startswith(base):
            asset["href"] = snapshot.storage.signed(asset["href"].removeprefix(base), seconds)
