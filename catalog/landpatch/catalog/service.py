"""What ``landpatch serve`` offers beside the STAC API: previews, map tiles and STAC Browser, in one application.

Everything hangs on addresses below the API's own, so that one process and one URL are enough, and only reads.

* ``/previews/{collection}/{item}/{rendering}.png?size=`` and ``.tif`` (georeferenced), ``/legend.svg`` of its codes
* ``/previews/{collection}/legend.json`` and ``.svg``: the whole nomenclature
* ``/tiles/{rendering}/{z}/{x}/{y}.png``: all patches as one map
* ``/browser/``: STAC Browser, or why it is not there; ``/`` leads people to it, and programs to the API
"""

import hashlib
import html
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
import orjson
from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.datastructures import Headers
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from landpatch.catalog.api.errors import NoSuchThing
from landpatch.catalog.bodies import completed
from landpatch.catalog.browser import browser_config
from landpatch.catalog.errors import InvalidParameter
from landpatch.catalog.mosaic import TILE_PIXELS, Mosaic
from landpatch.catalog.nomenclature import Nomenclature
from landpatch.catalog.previews import SIZES, codes_of, entity_tag, geotiff, preview, rendering_of
from landpatch.catalog.renderings import RENDERINGS, Rendering, legend, legend_svg, png
from landpatch.catalog.search import SearchableDataset
from landpatch.catalog.store import Dataset, NotFound

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
        """The item with hrefs relative to the dataset's root. Raises NoSuchThing."""
        snapshot = self._searchable.snapshot()
        rank = snapshot.rank_of(item_id)
        if rank is None:
            raise NoSuchThing(f"no item {item_id!r} in collection {snapshot.collection['id']!r}")
        item: dict[str, Any] = orjson.loads(completed(snapshot.bodies([rank])[0], b"", b"null"))
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


def add_previews(app: FastAPI) -> None:
    """Give the STAC API's application (``create_app``) the routes of previews, legends and map tiles."""
    datasets: Mapping[str, SearchableDataset] = app.state.datasets
    shown = {collection: _Shown(searchable) for collection, searchable in datasets.items()}
    routes = APIRouter(tags=["Previews"])

    def of(collection: str) -> _Shown:
        try:
            return shown[collection]
        except KeyError:
            raise NoSuchThing(f"no collection {collection!r}") from None

    def nomenclature_of(collection: str) -> Nomenclature:
        found = of(collection).nomenclature
        if found is None:
            raise NoSuchThing(f"{collection!r} has no reference maps, so there is no legend")
        return found

    @routes.get("/previews/{collection}/legend.json")
    def legend_document(collection: str) -> list[dict[str, Any]]:
        """Codes, names, classes and colours of the collection's reference maps."""
        return [
            {"code": entry.code, "name": entry.name, "class": entry.class_name or None, "colour": entry.colour}
            for entry in legend(nomenclature_of(collection))
        ]

    @routes.get("/previews/{collection}/legend.svg", response_class=Response)
    def legend_picture(collection: str) -> Response:
        """The same as a picture."""
        return Response(legend_svg(legend(nomenclature_of(collection))), media_type=_SVG)

    @routes.get("/previews/{collection}/{item}/legend.svg", response_class=Response)
    def item_legend(collection: str, item: str, request: Request) -> Response:
        """The colours that are in the item's reference map."""
        found = of(collection).item(item)
        rendering = _chosen(found, "reference_map")

        def drawn() -> bytes:
            codes = codes_of(of(collection).dataset, found)
            return legend_svg(legend(nomenclature_of(collection), codes)).encode()

        return _answered(request, entity_tag(found, rendering, "legend"), _SVG, drawn)

    @routes.get("/previews/{collection}/{item}/{rendering}.png", response_class=Response)
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
        chosen = _chosen(found, rendering)
        return _answered(
            request,
            entity_tag(found, chosen, size),
            "image/png",
            lambda: preview(of_.dataset, found, chosen, size, of_.nomenclature),
        )

    @routes.get("/previews/{collection}/{item}/{rendering}.tif", response_class=Response)
    def georeferenced(collection: str, item: str, rendering: str, request: Request) -> Response:
        """The same as a GeoTIFF of red, green and blue, with the patch's own pixels and place."""
        of_ = of(collection)
        found = of_.item(item)
        chosen = _chosen(found, rendering)
        return _answered(
            request,
            entity_tag(found, chosen, "tif"),
            "image/tiff; application=geotiff",
            lambda: geotiff(of_.dataset, found, chosen, of_.nomenclature),
        )

    @routes.get("/tiles/{rendering}/{zoom}/{column}/{row}.png", response_class=Response)
    def map_tile(rendering: str, zoom: int, column: int, row: int, request: Request) -> Response:
        """All patches as one map: a tile of 256 pixels in Web Mercator; from afar only where they lie."""
        if rendering not in RENDERINGS:
            raise NoSuchThing(f"there is no map {rendering!r}: choose {', '.join(RENDERINGS)}")
        what = "\n".join([*(of_.state for of_ in shown.values()), rendering, f"{zoom}/{column}/{row}"])
        tag = f'"{hashlib.sha256(what.encode()).hexdigest()[:32]}"'
        return _answered(
            request, tag, "image/png", lambda: _map_tile(shown.values(), RENDERINGS[rendering], zoom, column, row)
        )

    app.include_router(routes)


def _chosen(item: Mapping[str, Any], name: str) -> Rendering:
    try:
        return rendering_of(item, name)
    except NotFound as error:
        raise NoSuchThing(str(error)) from None


def _map_tile(shown: Iterable[_Shown], rendering: Rendering, zoom: int, column: int, row: int) -> bytes:
    """The datasets' tiles, one over the other. Raises NoSuchThing."""
    whole = np.zeros((TILE_PIXELS, TILE_PIXELS, 4), np.uint8)
    for of_ in shown:
        try:
            drawn = of_.mosaic().tile(zoom, column, row, rendering, of_.nomenclature)
        except InvalidParameter as error:
            raise NoSuchThing(str(error)) from None
        there = drawn[..., 3] > 0
        whole[there] = drawn[there]
    return png(whole, level=1)


def _answered(request: Request, tag: str, media_type: str, draw: Callable[[], bytes]) -> Response:
    """304 where the client has it already (RFC 9110, 13.1.2), else what is drawn."""
    headers = {"ETag": tag, "Cache-Control": _CACHE}
    known = {word.strip().removeprefix("W/") for word in request.headers.get("if-none-match", "").split(",")}
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(draw(), media_type=media_type, headers=headers)


# --- STAC Browser ------------------------------------------------------------------------------------------------


class BrowserSite:
    """STAC Browser below one address, which may come later than the server: an ASGI application.

    Until ``show`` names the folder of its files, or where ``explain`` said why there is none, a page tells so.
    """

    def __init__(self, *, title: str, basemap: str | None = None) -> None:
        """``basemap`` is the address of map tiles with ``{z}``, ``{x}``, ``{y}`` in it, the only thing that is asked
        of another host; without it the map shows the datasets alone.
        """
        self._config = browser_config({"catalogTitle": title, "basemaps": _basemaps(basemap)})
        self._files: StaticFiles | None = None
        self._page = _page("STAC Browser is being built: a few minutes, once. It will appear here.", again=True)

    def show(self, folder: Path) -> None:
        """From now on, the files of the folder."""
        self._files = StaticFiles(directory=folder, html=True)

    def explain(self, reason: str) -> None:
        """From now on, a page that says why there is no STAC Browser."""
        self._page = _page(f"There is no STAC Browser here. {reason}", again=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        answer: ASGIApp
        if self._files is None:
            answer = HTMLResponse(self._page, 503, {"Retry-After": "5"})
        elif _path(scope) == "/config.js":
            answer = Response(self._config, media_type="text/javascript", headers={"Cache-Control": "no-cache"})
        else:
            answer = self._files
        await answer(scope, receive, send)


def add_browser(app: FastAPI, site: BrowserSite) -> None:
    """Serve STAC Browser below ``/browser/`` and lead people from ``/`` to it: to the collection, if there is one."""
    app.mount("/browser", site, name="browser")
    collections = [quote(collection, safe="") for collection in app.state.datasets]
    start = f"browser/#/collections/{collections[0]}" if len(collections) == 1 else "browser/"
    app.add_middleware(_Front, start=start)


def _path(scope: Scope) -> str:
    """The path below where the application is mounted."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def _page(text: str, *, again: bool) -> str:
    refresh = '<meta http-equiv="refresh" content="5">' if again else ""
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>landpatch</title>{refresh}</head>'
        '<body style="font-family: sans-serif; max-width: 50em; margin: 3em auto">'
        f'<h1>landpatch</h1><p style="white-space: pre-wrap">{html.escape(text)}</p>'
        '<p>The STAC API is at work: <a href="../collections">collections</a>, '
        '<a href="../api.html">what it can do</a>.</p></body></html>'
    )


class _Front:
    """Middleware: ``/`` for people. Programs ask for JSON, or for nothing in particular; browsers for HTML first."""

    def __init__(self, app: ASGIApp, start: str) -> None:
        self._app, self._start = app, start

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http" and scope["method"] == "GET" and _path(scope) == "/":
            wanted = Headers(scope=scope).get("accept", "").split(",")[0].split(";")[0].strip()
            if wanted == "text/html":
                answer = RedirectResponse(self._start, 303, {"Vary": "Accept"})
                await answer(scope, receive, send)
                return
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
