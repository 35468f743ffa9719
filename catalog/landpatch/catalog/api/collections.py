"""Collections as the API shows them, and the search among them."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from landpatch.catalog.api.pages import Addresses
from landpatch.catalog.cql2_sql import InvalidQuery, box_geometry, microseconds
from landpatch.catalog.search import Snapshot


def collection_document(snapshot: Snapshot, addresses: Addresses) -> dict[str, Any]:
    """The dataset's own collection with links to this server, and hrefs that this server answers."""
    document = copy.deepcopy(snapshot.collection)
    name = document["id"]
    here = addresses.collection(name)
    files = addresses.assets(name)
    for asset in document.get("assets", {}).values():
        asset["href"] = _absolute(asset["href"], files)
    own = ("self", "root", "parent", "items", "collection")
    kept = [
        {**link, "href": _absolute(link["href"], files)}
        for link in document.get("links", ())
        if link["rel"] not in own
    ]
    document["links"] = [
        {"rel": "self", "type": "application/json", "href": here},
        {"rel": "parent", "type": "application/json", "href": addresses.base},
        {"rel": "root", "type": "application/json", "href": addresses.base},
        {"rel": "items", "type": "application/geo+json", "href": f"{here}/items"},
        *(
            {"rel": rel, "type": "application/schema+json", "title": title, "href": f"{here}/{path}"}
            for rel, title, path in (
                ("http://www.opengis.net/def/rel/ogc/1.0/queryables", "Queryables", "queryables"),
                ("http://www.opengis.net/def/rel/ogc/1.0/sortables", "Sortables", "sortables"),
            )
        ),
        {"rel": "aggregate", "type": "application/json", "href": f"{here}/aggregate"},
        {"rel": "aggregations", "type": "application/json", "href": f"{here}/aggregations"},
        *kept,
    ]
    return document


def matching_collections(
    snapshots: Mapping[str, Snapshot],
    *,
    geometry: Any,
    interval: tuple[int | None, int | None] | None,
    terms: Sequence[str] | None,
) -> dict[str, Snapshot]:
    """Those whose extent meets the geometry and the interval, and whose words hold one of the terms."""
    return {
        name: snapshot
        for name, snapshot in snapshots.items()
        if (geometry is None or _meets_place(snapshot.collection, geometry))
        and (interval is None or _meets_time(snapshot.collection, *interval))
        and (terms is None or _says(snapshot.collection, terms))
    }


def _absolute(href: str, base: str) -> str:
    return href if "://" in href else base + href.removeprefix("./")


def _meets_place(collection: Mapping[str, Any], geometry: Any) -> bool:
    import shapely

    try:
        boxes = [box_geometry(bbox) for bbox in collection["extent"]["spatial"]["bbox"]]
    except InvalidQuery:  # an extent that says nothing excludes nothing
        return True
    return any(shapely.intersects(box, geometry) for box in boxes)


def _meets_time(collection: Mapping[str, Any], start: int | None, end: int | None) -> bool:
    for first, last in collection["extent"]["temporal"]["interval"]:
        begins_late = first is not None and end is not None and microseconds(first) > end
        ends_early = last is not None and start is not None and microseconds(last) < start
        if not begins_late and not ends_early:
            return True
    return False


def _says(collection: Mapping[str, Any], terms: Sequence[str]) -> bool:
    words = [
        collection["id"],
        collection.get("title"),
        collection.get("description"),
        *collection.get("keywords", ()),
    ]
    text = "\n".join(word for word in words if word).lower()
    return any(term.strip().lower() in text for term in terms)
