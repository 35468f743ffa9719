"""What the routes answer: stac-fastapi's client classes over snapshots of datasets."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

import attr
import orjson
from fastapi import Request
from stac_fastapi.extensions.aggregation.client import BaseAggregationClient
from stac_fastapi.extensions.filter.client import BaseFiltersClient
from stac_fastapi.extensions.sort.client import BaseSortablesClient
from stac_fastapi.types.core import BaseCoreClient
from stac_fastapi.types.requests import get_base_url
from starlette.responses import JSONResponse, Response

from landpatch.catalog.api.aggregations import AGGREGATIONS, aggregated
from landpatch.catalog.api.collections import collection_document, matching_collections
from landpatch.catalog.api.errors import NoSuchThing
from landpatch.catalog.api.pages import Addresses, Fields, Found, item_texts, search_page, token_after
from landpatch.catalog.api.queryables import queryables, sortables
from landpatch.catalog.api.settings import Settings
from landpatch.catalog.cql2_sql import InvalidQuery, box_geometry, microseconds, parse_geometry, parse_text
from landpatch.catalog.scenes import STAC_VERSION
from landpatch.catalog.search import Query, SearchableDataset, Snapshot, SortKey
from landpatch.catalog.store import Changed

_GEOJSON = "application/geo+json"
_SCHEMA = "application/schema+json"
_CRS84 = "http://www.opengis.net/def/crs/OGC/1.3/CRS84"
_IDS = 10_000

Answer = TypeVar("Answer")


class Datasets:
    """The datasets behind one API, by collection id."""

    def __init__(self, datasets: Mapping[str, SearchableDataset]) -> None:
        self.by_collection = dict(sorted(datasets.items()))

    def snapshots(self, collections: Sequence[str] | None = None) -> dict[str, Snapshot]:
        """Present states, of all collections or of those named; unknown names are left out."""
        chosen = self.by_collection if collections is None else set(collections) & self.by_collection.keys()
        return {name: self.by_collection[name].snapshot() for name in sorted(chosen)}

    def snapshot(self, collection: str) -> Snapshot:
        """Raises NoSuchThing."""
        if collection not in self.by_collection:
            raise NoSuchThing(f"no collection {collection!r}")
        return self.by_collection[collection].snapshot()

    def answered(self, answer: Callable[[], Answer]) -> Answer:
        """What ``answer`` gives; asked once more where a file on S3 was replaced in the middle of it."""
        try:
            return answer()
        except Changed:
            for dataset in self.by_collection.values():
                dataset.reload()
            return answer()


@attr.s
class CatalogueClient(BaseCoreClient):
    """Landing page, collections, items and search."""

    datasets: Datasets = attr.ib(kw_only=True)
    limits: Settings = attr.ib(kw_only=True)

    def landing_page(self, **kwargs: Any) -> Response:  # type: ignore[override]
        """``GET /``."""
        page: dict[str, Any] = {**super().landing_page(**kwargs), "stac_version": STAC_VERSION}
        addresses = Addresses(get_base_url(kwargs["request"]))
        page["links"] += [
            {
                "rel": "child",
                "type": "application/json",
                "title": snapshot.collection.get("title", name),
                "href": addresses.collection(name),
            }
            for name, snapshot in self.datasets.snapshots().items()
        ]
        return JSONResponse(page)

    def all_collections(self, **kwargs: Any) -> Response:  # type: ignore[override]
        """``GET /collections``, with what collection search may ask for."""
        request: Request = kwargs["request"]
        addresses = Addresses(get_base_url(request))
        chosen = matching_collections(
            self.datasets.snapshots(),
            geometry=None if kwargs.get("bbox") is None else box_geometry(kwargs["bbox"]),
            interval=interval(kwargs.get("datetime")),
            terms=kwargs.get("q"),
        )
        token = kwargs.get("token")
        rest = [name for name in chosen if token is None or name > token]
        limit = self._limit(kwargs.get("limit"))
        fields = _fields(kwargs.get("fields"))
        documents = [collection_document(chosen[name], addresses) for name in rest[:limit]]
        links = [
            {"rel": "root", "type": "application/json", "href": addresses.base},
            {"rel": "self", "type": "application/json", "href": f"{addresses.base}collections"},
        ]
        if len(rest) > limit:
            links.append(_next_by_get(request, rest[limit - 1]))
        return JSONResponse(
            {
                "collections": documents if fields is None else [fields.of(document) for document in documents],
                "links": links,
                "numberMatched": len(chosen),
                "numberReturned": len(documents),
            }
        )

    def get_collection(self, collection_id: str, **kwargs: Any) -> Response:  # type: ignore[override]
        """``GET /collections/{collection_id}``."""
        addresses = Addresses(get_base_url(kwargs["request"]))
        return JSONResponse(collection_document(self.datasets.snapshot(collection_id), addresses))

    def get_item(self, item_id: str, collection_id: str, **kwargs: Any) -> Response:  # type: ignore[override]
        """``GET /collections/{collection_id}/items/{item_id}``."""
        addresses = Addresses(get_base_url(kwargs["request"]))

        def answer() -> bytes:
            snapshot = self.datasets.snapshot(collection_id)
            hits = snapshot.search(Query(ids=(item_id,)), limit=1)
            if not hits:
                raise NoSuchThing(f"no item {item_id!r} in collection {collection_id!r}")
            return next(item_texts([Found(collection_id, snapshot, hits[0])], addresses, self.limits, None))

        return Response(self.datasets.answered(answer), media_type=_GEOJSON)

    def item_collection(self, collection_id: str, **kwargs: Any) -> Response:  # type: ignore[override]
        """``GET /collections/{collection_id}/items``."""
        self.datasets.snapshot(collection_id)  # 404 where there is none; a search of unknown collections is empty
        return self._get({**kwargs, "collections": [collection_id]})

    def get_search(self, **kwargs: Any) -> Response:  # type: ignore[override]
        """``GET /search``."""
        return self._get(kwargs)

    def _get(self, asked: Mapping[str, Any]) -> Response:
        request: Request = asked["request"]
        return self._page(asked, request, lambda token: _next_by_get(request, token))

    def post_search(self, search_request: Any, **kwargs: Any) -> Response:  # type: ignore[override]
        """``POST /search``."""
        request: Request = kwargs["request"]
        body = search_request.model_dump(mode="json", by_alias=True, exclude_unset=True)

        def next_link(token: str) -> dict[str, Any]:
            return {
                "rel": "next",
                "type": _GEOJSON,
                "method": "POST",
                "href": f"{get_base_url(request)}search",
                "body": {**body, "token": token},
            }

        return self._page(posted(search_request, body), request, next_link)

    def _page(
        self, asked: Mapping[str, Any], request: Request, next_link: Callable[[str], dict[str, Any]]
    ) -> Response:
        addresses = Addresses(get_base_url(request))
        query, sort, fields = query_of(asked), _sort(asked.get("sortby")), _fields(asked.get("fields"))
        limit = self._limit(asked.get("limit"))

        def answer() -> bytes:
            snapshots = self.datasets.snapshots(asked.get("collections"))
            found = search_page(snapshots, query, sort=sort, token=asked.get("token"), limit=limit)
            texts: list[bytes] = []
            size = 0
            for text in item_texts(found[:limit], addresses, self.limits, fields):
                size += len(text) + 1
                if texts and self.limits.page_bytes is not None and size > self.limits.page_bytes:
                    break
                texts.append(text)
            links = [
                {"rel": "root", "type": "application/json", "href": addresses.base},
                {"rel": "self", "type": _GEOJSON, "href": _own(request)},
            ]
            if len(texts) < len(found):
                last = found[len(texts) - 1]
                links.append(next_link(token_after(last.collection, last.hit, sort)))
            tail = {
                "links": links,
                "numberMatched": sum(snapshot.count(query) for snapshot in snapshots.values()),
                "numberReturned": len(texts),
            }
            return b'{"type":"FeatureCollection","features":[' + b",".join(texts) + b"]," + orjson.dumps(tail)[1:]

        return Response(self.datasets.answered(answer), media_type=_GEOJSON)

    def _limit(self, asked: int | None) -> int:
        return min(10 if asked is None else asked, self.limits.page)


@attr.s
class QueryablesClient(BaseFiltersClient):
    """Properties that filters may name."""

    datasets: Datasets = attr.ib(kw_only=True)

    def get_queryables(self, collection_id: str | None = None, **kwargs: Any) -> Response:  # type: ignore[override]
        """``GET /queryables`` and ``GET /collections/{collection_id}/queryables``."""
        return _schema(kwargs["request"], queryables(_snapshots(self.datasets, collection_id)))


@attr.s
class SortablesClient(BaseSortablesClient):
    """Properties that results may be sorted by."""

    datasets: Datasets = attr.ib(kw_only=True)

    def get_sortables(self, request: Request | None = None, **_: Any) -> Response:  # type: ignore[override]
        """``GET /sortables``."""
        return _schema(request, sortables(self.datasets.snapshots().values()))

    def get_collection_sortables(  # type: ignore[override]
        self, collection_id: str, request: Request | None = None, **_: Any
    ) -> Response:
        """``GET /collections/{collection_id}/sortables``."""
        return _schema(request, sortables([self.datasets.snapshot(collection_id)]))


@attr.s
class AggregationClient(BaseAggregationClient):
    """Counts of what matches."""

    datasets: Datasets = attr.ib(kw_only=True)

    def get_aggregations(self, collection_id: str | None = None, **kwargs: Any) -> Response:  # type: ignore[override]
        """``GET /aggregations`` and ``GET /collections/{collection_id}/aggregations``."""
        _snapshots(self.datasets, collection_id)
        known = [{"name": name, "data_type": kind} for name, kind in AGGREGATIONS.items()]
        return _aggregations(kwargs["request"], known)

    def aggregate(self, search_request: Any = None, **kwargs: Any) -> Response:  # type: ignore[override]
        """``GET`` and ``POST`` of ``/aggregate`` and ``/collections/{collection_id}/aggregate``."""
        request: Request = kwargs["request"]
        asked = kwargs if search_request is None else posted(search_request, None)
        query = query_of(asked)
        collection = request.path_params.get("collection_id")
        names = asked.get("aggregations") or ["total_count"]
        unknown = sorted(set(names) - AGGREGATIONS.keys())
        if unknown:
            raise InvalidQuery(f"no aggregation {unknown[0]!r}; there are {', '.join(AGGREGATIONS)}")
        if collection is None:
            snapshots = self.datasets.snapshots(asked.get("collections"))
        else:
            snapshots = {collection: self.datasets.snapshot(collection)}
        return _aggregations(request, [aggregated(name, snapshots, query) for name in dict.fromkeys(names)])


# --- what was asked ----------------------------------------------------------------------------------------------


def query_of(asked: Mapping[str, Any]) -> Query:
    """The parameters of a request as a Query. Raises InvalidQuery."""
    bbox, intersects, ids = asked.get("bbox"), asked.get("intersects"), asked.get("ids")
    if bbox is not None and intersects is not None:
        raise InvalidQuery("bbox and intersects exclude each other")
    if ids is not None and len(ids) > _IDS:
        raise InvalidQuery(f"{_IDS:,} ids are possible at once")
    if asked.get("filter_crs") not in (None, _CRS84):
        raise InvalidQuery(f"filter-crs can be {_CRS84} only")
    geometry = None
    if bbox is not None:
        geometry = box_geometry(bbox)
    elif intersects is not None:
        geometry = parse_geometry(_json(intersects, "intersects") if isinstance(intersects, str) else intersects)
    filter_ = asked.get("filter_expr")
    if isinstance(filter_, str):
        text = asked.get("filter_lang") != "cql2-json"
        filter_ = parse_text(filter_) if text else _json(filter_, "filter")
    terms = asked.get("q")
    return Query(
        ids=None if ids is None else tuple(ids),
        geometry=geometry,
        interval=interval(asked.get("datetime")),
        filter=filter_,
        terms=tuple(terms) if terms else None,
    )


def posted(model: Any, body: Any) -> dict[str, Any]:
    """The parameters of a POST's body by the names that GET has."""
    asked = {name: getattr(model, name) for name in type(model).model_fields}
    if asked.get("intersects") is not None:
        asked["intersects"] = asked["intersects"].model_dump(mode="json")
    if body is not None and body.get("fields") is None:
        asked["fields"] = None
    return asked


def interval(text: str | None) -> tuple[int | None, int | None] | None:
    """``datetime`` as a search has it. Raises InvalidQuery."""
    if text is None:
        return None
    ends = text.split("/")
    if len(ends) > 2 or text == "":
        raise InvalidQuery(f"{text[:60]!r} is no time and no interval")
    start, end = (None if part in ("", "..") else microseconds(part) for part in (ends[0], ends[-1]))
    if start is None and end is None:
        raise InvalidQuery("an interval is open at one end at most")
    if start is not None and end is not None and start > end:
        raise InvalidQuery("an interval starts before it ends")
    return start, end


def _json(text: str, what: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidQuery(f"{what} is no JSON: {error}") from None


def _sort(asked: Any) -> tuple[SortKey, ...]:
    keys = []
    for entry in asked or ():
        if isinstance(entry, str):
            match = re.match(r"([-+ ]?)(.+)\Z", entry)  # a plus that was not escaped comes as a blank
            if match is None:
                raise InvalidQuery("sortby names properties")
            keys.append(SortKey(_plain(match[2]), match[1] == "-"))
        else:
            keys.append(SortKey(_plain(entry.field), entry.direction.value == "desc"))
    if len(keys) > 8:
        raise InvalidQuery("results can be sorted by 8 properties at once")
    return tuple(keys)


def _plain(name: str) -> str:
    return name.removeprefix("properties.")


def _fields(asked: Any) -> Fields | None:
    if asked is None:
        return None
    if isinstance(asked, list):
        exclude = {entry[1:] for entry in asked if entry.startswith("-")} - {""}
        include = {entry.lstrip("+ ") for entry in asked if not entry.startswith("-")} - {""}
        left_open = False
    else:
        include, exclude = set(asked.include or ()) - {""}, set(asked.exclude or ()) - {""}
        left_open = not include and (not exclude or "include" in asked.model_fields_set)
    if len(include) + len(exclude) > 200:
        raise InvalidQuery("200 fields can be named at once")
    if not include and not exclude and not left_open:
        return None
    return Fields(frozenset(include), frozenset(exclude), left_open)


# --- answers -----------------------------------------------------------------------------------------------------


def _snapshots(datasets: Datasets, collection: str | None) -> list[Snapshot]:
    return list(datasets.snapshots().values()) if collection is None else [datasets.snapshot(collection)]


def _own(request: Request) -> str:
    query = request.url.query
    path = request.scope["path"].removeprefix(request.scope.get("root_path", "")).lstrip("/")
    return f"{get_base_url(request)}{path}" + (f"?{query}" if query else "")


def _next_by_get(request: Request, token: str) -> dict[str, Any]:
    asked = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
    here = _own(request).split("?", 1)[0]
    return {
        "rel": "next",
        "type": _GEOJSON,
        "method": "GET",
        "href": f"{here}?{urlencode([*asked, ('token', token)])}",
    }


def _schema(request: Request | None, document: dict[str, Any]) -> Response:
    own = "" if request is None else _own(request)
    return JSONResponse({"$id": own, **document}, media_type=_SCHEMA)


def _aggregations(request: Request, aggregations: list[dict[str, Any]]) -> Response:
    links = [
        {"rel": "root", "type": "application/json", "href": get_base_url(request)},
        {"rel": "self", "type": "application/json", "href": _own(request)},
    ]
    return JSONResponse({"type": "AggregationCollection", "aggregations": aggregations, "links": links})
