"""What ``landpatch serve`` offers beside the STAC API: previews, map tiles and STAC Browser, in one application.

Everything hangs on addresses below the API's own, so that one process and one URL are enough, and only reads.

* ``/previews/{collection}/{item}/{rendering}.png?size=`` and ``.tif`` (georeferenced), ``/legend.svg`` of its codes
* ``/previews/{collection}/legend.json`` and ``.svg``: the whole nomenclature
* ``/tiles/{rendering}/{z}/{x}/{y}.png``: all patches as one map
* ``/browser/``: STAC Browser; ``/`` leads people there, and programs to the API
"""

import hashlib
import html
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from landpatch.catalog.bodies import completed
from landpatch.catalog.search import SearchableDataset
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from landpatch.catalog.browser import browser_config
from landpatch.catalog.errors import InvalidParameter
from landpatch.catalog.mosaic import TILE_PIXELS, Mosaic
from landpatch.catalog.nomenclature import Nomenclature
from landpatch.catalog.previews import SIZES, codes_of, entity_tag, geotiff, preview, rendering_of
from landpatch.catalog.renderings import RENDERINGS, Rendering, legend, legend_svg, png
from landpatch.catalog.store import Dataset, NotFound

_log = logging.getLogger("landpatch.service")

PREVIEW_SIZE = 240
"""Pixels of a preview unless asked for: two for each of the patch's, and a card in STAC Browser."""
# A dataset may be built anew at any time: a browser asks again after a minute, and is told by the ETag.
_CACHE = "public, max-age=60"
_SVG = "image/svg+xml"


class _Shown:
    """A dataset as it is shown: its items and where they lie, of the state that is searched."""

    def __init__(self, searchable: SearchableDataset) -> None:
        self._searchable = searchable
        self.dataset = Dataset(searchable.storage)
        self._lock = threading.Lock()
        self._mosaic: tuple[str, Mosaic] | None = None

    def item(self, item_id: str) -> dict[str, Any]:
        """The item with hrefs relative to the dataset's root. Raises NotFound."""
        snapshot = self._searchable.snapshot()
        rank = snapshot.rank_of(item_id)
        if rank is None:
            raise NotFound(f"there is no item {item_id!r} in {snapshot.collection['id']!r}")
        item: dict[str, Any] = orjson.loads(completed(snapshot.bodies([rank])[0], b"", b""))
        return item

    @property
    def nomenclature(self) -> Nomenclature | None:
        """Of the reference maps; None without labels."""
        stored = self._searchable.snapshot().collection.get("landpatch:nomenclature")
        return None if stored is None else Nomenclature.from_document(stored)

    def mosaic(self) -> Mosaic:
        """The places of its patches, read when first asked for and whenever the dataset has changed."""
        with self._lock:
            state = self._searchable.snapshot().state
            if self._mosaic is None or self._mosaic[0] != state:
                self._mosaic = state, Mosaic(self.dataset)
            return self._mosaic[1]

    @property
    def state(self) -> str:
        """Changes whenever the dataset does."""
        return self._searchable.snapshot().state


def add_previews(app: FastAPI, datasets: Mapping[str, SearchableDataset]) -> None:
    """Give an application the routes of previews, legends and map tiles of datasets by collection id."""
    shown = {collection: _Shown(searchable) for collection, searchable in datasets.items()}
    routes = APIRouter(tags=["Previews"])
    get = ["GET", "HEAD"]

    def of(collection: str) -> _Shown:
        try:
            return shown[collection]
        except KeyError:
            raise NotFound(f"there is no collection {collection!r} here") from None

    def nomenclature_of(collection: str) -> Nomenclature:
        found = of(collection).nomenclature
        if found is None:
            raise NotFound(f"{collection!r} has no reference maps, so there is no legend")
        return found

    @routes.api_route("/previews/{collection}/legend.json", methods=get)
    def legend_document(collection: str) -> list[dict[str, Any]]:
        """Codes, names, classes and colours of the collection's reference maps."""
        return [
            {"code": entry.code, "name": entry.name, "class": entry.class_name or None, "colour": entry.colour}
            for entry in legend(nomenclature_of(collection))
        ]

    @routes.api_route("/previews/{collection}/legend.svg", methods=get, response_class=Response)
    def legend_picture(collection: str) -> Response:
        """The same as a picture."""
        return Response(legend_svg(legend(nomenclature_of(collection))), media_type=_SVG)

    @routes.api_route("/previews/{collection}/{item}/legend.svg", methods=get, response_class=Response)
    def item_legend(collection: str, item: str, request: Request) -> Response:
        """The colours that are in the item's reference map."""
        found = of(collection).item(item)
        rendering = rendering_of(found, "reference_map")

        def drawn() -> bytes:
            codes = codes_of(of(collection).dataset, found)
            return legend_svg(legend(nomenclature_of(collection), codes)).encode()

        return _answered(request, entity_tag(found, rendering, "legend"), _SVG, drawn)

    @routes.api_route("/previews/{collection}/{item}/{rendering}.png", methods=get, response_class=Response)
    def picture(
        collection: str,
        item: str,
        rendering: str,
        request: Request,
        size: Annotated[int, Query(ge=SIZES[0], le=SIZES[-1])] = PREVIEW_SIZE,
    ) -> Response:
        """A patch as a picture of ``size`` pixels: true_colour, false_colour, s1_composite, reference_map ..."""
        of_ = of(collection)
        found = of_.item(item)
        chosen = rendering_of(found, rendering)
        return _answered(
            request,
            entity_tag(found, chosen, size),
            "image/png",
            lambda: preview(of_.dataset, found, chosen, size, of_.nomenclature),
        )

    @routes.api_route("/previews/{collection}/{item}/{rendering}.tif", methods=get, response_class=Response)
    def georeferenced(collection: str, item: str, rendering: str, request: Request) -> Response:
        """The same as a GeoTIFF of red, green and blue, with the patch's own pixels and place."""
        of_ = of(collection)
        found = of_.item(item)
        chosen = rendering_of(found, rendering)
        return _answered(
            request,
            entity_tag(found, chosen, "tif"),
            "image/tiff; application=geotiff",
            lambda: geotiff(of_.dataset, found, chosen, of_.nomenclature),
        )

    @routes.api_route("/tiles/{rendering}/{zoom}/{column}/{row}.png", methods=get, response_class=Response)
    def map_tile(rendering: str, zoom: int, column: int, row: int, request: Request) -> Response:
        """All patches as one map: a tile of 256 pixels in Web Mercator; from afar only where they lie."""
        if rendering not in RENDERINGS:
            raise NotFound(f"there is no map {rendering!r}: choose {', '.join(RENDERINGS)}")
        what = "\n".join([*(of_.state for of_ in shown.values()), rendering, f"{zoom}/{column}/{row}"])
        tag = f'"{hashlib.sha256(what.encode()).hexdigest()[:32]}"'
        return _answered(
            request, tag, "image/png", lambda: _map_tile(shown.values(), RENDERINGS[rendering], zoom, column, row)
        )

    app.include_router(routes)
    app.add_exception_handler(NotFound, _refused(404))
    app.add_exception_handler(InvalidParameter, _refused(400))


def _map_tile(shown: Any, rendering: Rendering, zoom: int, column: int, row: int) -> bytes:
    whole = np.zeros((TILE_PIXELS, TILE_PIXELS, 4), np.uint8)
    for of_ in shown:
        drawn = of_.mosaic().tile(zoom, column, row, rendering, of_.nomenclature)
        there = drawn[..., 3] > 0
        whole[there] = drawn[there]
    return png(whole)


def _answered(request: Request, tag: str, media_type: str, draw: Callable[[], bytes]) -> Response:
    """304 where the client has it already (RFC 9110, 13.1.2), else what is drawn."""
    headers = {"ETag": tag, "Cache-Control": _CACHE}
    known = {word.strip().removeprefix("W/") for word in request.headers.get("if-none-match", "").split(",")}
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(draw(), media_type=media_type, headers=headers)


def _refused(status: int) -> Any:
    def answer(_: Request, error: Exception) -> Response:
        body = orjson.dumps({"code": type(error).__name__, "description": str(error)})
        return Response(body, status_code=status, media_type="application/json")

    return answer


# --- STAC Browser ------------------------------------------------------------------------------------------------


def add_browser(app: FastAPI, folder: Path, *, title: str, basemap: str | None = None) -> None:
    """Serve the built STAC Browser below ``/browser/`` and lead people from ``/`` to it.

    ``basemap`` is the address of map tiles with ``{z}``, ``{x}``, ``{y}`` in it, the only thing that is asked of
    another host; without it the map shows the datasets alone.
    """
    config = browser_config({"catalogTitle": title, "basemaps": _basemaps(basemap)})

    @app.get("/browser/config.js", include_in_schema=False)
    def configuration() -> Response:
        return Response(config, media_type="text/javascript", headers={"Cache-Control": "no-cache"})

    app.mount("/browser", StaticFiles(directory=folder, html=True), name="browser")
    app.add_middleware(_Front, answer=RedirectResponse("browser/", status_code=303))


def add_no_browser(app: FastAPI, reason: str) -> None:
    """Tell people who open ``/`` why there is no STAC Browser, and what there is."""
    page = (
        "<!DOCTYPE html><html lang='en'><meta charset='utf-8'><title>landpatch</title>"
        f"<h1>landpatch</h1><p>The STAC API runs here, without STAC Browser.</p><pre>{html.escape(reason)}</pre>"
        "<p><a href='collections'>Collections</a> · <a href='api.html'>What the API can do</a></p></html>"
    )
    app.add_middleware(_Front, answer=HTMLResponse(page))


class _Front:
    """Middleware: ``/`` for people. Programs ask for JSON, or for nothing in particular; browsers for HTML first."""

    def __init__(self, app: ASGIApp, answer: Response) -> None:
        self._app, self._answer = app, answer
        self._answer.headers["Vary"] = "Accept"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = dict(scope.get("headers") or ()).get(b"accept", b"").split(b",")[0].split(b";")[0].strip()
        if scope["type"] == "http" and scope["path"] == "/" and wanted == b"text/html":
            await self._answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _basemaps(remote: str | None) -> list[dict[str, Any]]:
    """As STAC Browser wants them: all patches in one picture, several ways, and a map of the world if asked for."""
    maps = [
        {
            "url": f"../tiles/{rendering.name}/{{z}}/{{x}}/{{y}}.png",
            "is": "XYZ",
            "title": f"Patches: {rendering.title}",
            "projection": "EPSG:3857",
            "maxZoom": 16,
            "visible": remote is None and rendering.name == "true_colour",
        }
        for rendering in RENDERINGS.values()
    ]
    if remote is not None:
        maps.append({"url": remote, "is": "XYZ", "title": "Basemap", "projection": "EPSG:3857", "visible": True})
    return maps
