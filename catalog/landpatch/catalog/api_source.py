"""A STAC API as a source of items, through pystac-client; its requests are sent through a Transfer."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import cql2
import orjson
from pystac_client import Client, ConformanceClasses
from pystac_client.exceptions import APIError
from pystac_client.warnings import PystacClientWarning

from landpatch.catalog.errors import InvalidParameter, LandpatchError, UnreadableAsset
from landpatch.catalog.reach import RefusedHref
from landpatch.catalog.scenes import absolute_href
from landpatch.catalog.selection import Question, Source, matches
from landpatch.catalog.stac_api import Pages
from landpatch.catalog.transfer import Transfer, shown

_PAGE = 250  # items: about 1 MB of JSON, and no API has a lower limit than this
_IDS_A_REQUEST = 50  # so that they fit into a URL


@dataclass(frozen=True, slots=True)
class _TransferReader:
    """Documents through a Transfer: they keep to the same hosts and wait as long as files do."""

    transfer: Transfer

    def json(self, href: str, *, method: str = "GET", body: Any = None, headers: Any = None) -> Any:
        content = self.transfer.document(href, body=(body or {}) if method == "POST" else None, headers=headers)
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise UnreadableAsset(f"{shown(href)} is not JSON ({error})") from error


class _ApiIO(Pages):
    """pystac-client's requests, sent through a Transfer; pages are walked to their end."""

    def __init__(self, transfer: Transfer) -> None:
        super().__init__(_TransferReader(transfer), lambda *_: None)
        self._transfer = transfer

    def read_text(self, source: Any, *args: Any, **kwargs: Any) -> str:
        """Of URLs alone: the links in answers are the server's."""
        href = source if isinstance(source, str) else source.to_dict()["href"]
        if urlsplit(href).scheme not in ("http", "https"):
            raise RefusedHref(f"{shown(href)}: a catalogue on the web leads to http(s):// only")
        return super().read_text(source, *args, **kwargs)

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """As StacApiIO does."""
        if (method or "GET").upper() == "POST":
            return self._transfer.document(href, body=parameters or {}, headers=headers).decode()
        if parameters:
            href += ("&" if urlsplit(href).query else "?") + urlencode(parameters, doseq=True)
        return self._transfer.document(href, headers=headers).decode()


class ApiSource(Source):
    """A STAC API. What it cannot filter by itself (no Filter extension) is filtered here."""

    def __init__(self, url: str, transfer: Transfer) -> None:
        self.url = url
        self._transfer = transfer
        with _unwarned(), _explained(url):
            self._client = Client.open(url, stac_io=_ApiIO(transfer))
            searchable = self._client.conforms_to(ConformanceClasses.ITEM_SEARCH)
            self._filters = self._client.conforms_to(ConformanceClasses.FILTER)
            link = self._client.get_search_link()
            if not searchable or link is None:
                raise InvalidParameter(f"{shown(url)} is a STAC catalogue that cannot be searched: it is no STAC API")
            self._search = str(link.absolute_href)
            data = self._client.get_single_link("data")
            self._collections = str(data.absolute_href) if data else f"{url.rstrip('/')}/collections"
            methods = {
                found.extra_fields.get("method", "GET") for found in self._client.links if found.rel == "search"
            }
            self._method = "POST" if "POST" in methods else "GET"

    def collection(self, name: str) -> dict[str, Any]:
        """The collection of this id, as its JSON says."""
        with _explained(self.url):
            # As it is: what pystac makes of it would no longer be what its publisher wrote.
            return dict(orjson.loads(self._transfer.document(self.collection_href(name))))

    def collection_href(self, name: str) -> str:
        """Where the collection lies."""
        return f"{self._collections}/{quote(name, safe='')}"

    def items(self, question: Question) -> Iterator[Any]:
        """What answers the question, in the API's order; ids a few at a time, in theirs."""
        expression = question.expression()
        ours = None if expression is None or self._filters else cql2.Expr(orjson.dumps(expression).decode())
        batches: list[tuple[str, ...] | None] = [
            question.ids[start : start + _IDS_A_REQUEST] for start in range(0, len(question.ids), _IDS_A_REQUEST)
        ]
        for ids in batches or [None]:
            for item in self._pages(question, ids, None if ours is not None else expression):
                if ours is None or matches(ours, item):
                    yield item

    def _pages(
        self, question: Question, ids: Sequence[str] | None, expression: dict[str, Any] | None
    ) -> Iterator[Any]:
        with _unwarned(), _explained(self.url):
            search = self._client.search(
                method=self._method,
                bbox=question.bbox,
                datetime=question.datetime,
                collections=list(question.collections) or None,
                ids=None if ids is None else list(ids),
                filter=expression,
                filter_lang="cql2-json" if expression is not None and self._method == "POST" else None,
                limit=min(_PAGE, question.maximum or _PAGE),
                max_items=None,
            )
        with _explained(self.url):
            for page in search.pages_as_dicts():
                for item in page["features"]:
                    yield self._absolute(item)

    def _absolute(self, item: Any) -> Any:
        if not isinstance(item, dict):
            return item
        links = item.get("links")
        own = next(
            (
                str(link.get("href"))
                for link in (links if isinstance(links, list) else [])
                if isinstance(link, dict) and link.get("rel") == "self"
            ),
            self._search,
        )
        assets = item.get("assets")
        for holder in [
            *(assets.values() if isinstance(assets, dict) else []),
            *(link for link in (links if isinstance(links, list) else []) if _is_derived(link)),
        ]:
            # What is no href, or none that makes sense, shows itself where it is used.
            if isinstance(holder, dict) and isinstance(holder.get("href"), str):
                with suppress(ValueError):
                    holder["href"] = absolute_href(holder["href"], own)
        return item

    def renewed(self, item: Mapping[str, Any]) -> dict[str, Any] | None:
        """The item as the API gives it now."""
        parameters = {"ids": item["id"], "limit": 1} | (
            {"collections": item["collection"]} if item.get("collection") else {}
        )
        url = self._search + ("&" if urlsplit(self._search).query else "?") + urlencode(parameters)
        try:
            found = orjson.loads(self._transfer.document(url))["features"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return None
        same = next((new for new in found if isinstance(new, dict) and new.get("id") == item["id"]), None)
        return None if same is None else self._absolute(same)


def _is_derived(link: Any) -> bool:
    return isinstance(link, dict) and link.get("rel") == "derived_from"


@contextmanager
def _unwarned() -> Iterator[None]:
    """What pystac-client warns of is asked for where it matters."""
    with warnings.catch_warnings(action="ignore", category=PystacClientWarning):
        yield


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """pystac-client takes a server at its word, and stumbles over what is no STAC."""
    try:
        yield
    except LandpatchError:
        raise
    except (APIError, AttributeError, KeyError, TypeError, ValueError, NotImplementedError) as error:
        raise UnreadableAsset(f"{shown(url)} does not answer as a STAC API does: {error!r}") from error
