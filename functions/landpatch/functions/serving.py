"""A process that serves datasets: STAC API, STAC Browser and previews under uvicorn."""

import logging
import socket
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from landpatch.catalog.browser import build_browser, cached_browser
from landpatch.catalog.cache import cache_folder
from landpatch.catalog.errors import InvalidParameter, LandpatchError, MissingComponent
from landpatch.functions.console import counting, say


def serve(
    datasets: Sequence[str],
    *,
    host: str,
    port: int,
    json_log: bool = False,
    browser: bool = True,
    basemap: str | None = None,
    open_page: bool = False,
) -> None:
    """Serve until interrupted; ``port`` 0 takes a free one. The address is printed once the API answers.

    ``browser``: with STAC Browser, which the first time is built meanwhile. ``basemap`` is the address of map tiles
    (``{z}``, ``{x}``, ``{y}``) for its maps. ``open_page`` opens the address in the user's web browser.

    Raises InvalidParameter (address in use), MissingComponent (extra not installed), StorageError, InvalidDataset.
    """
    _log_to_streams(json_log)
    with _listening(host, port) as listening:
        opened = _loaded(datasets)
        import uvicorn

        from landpatch.catalog.api import Settings, create_app
        from landpatch.catalog.service import BrowserSite, add_browser, add_previews

        app = create_app(opened, Settings(access_log=json_log, previews=True))
        add_previews(app)
        stop = threading.Event()
        builder = None
        if browser:
            site = BrowserSite(title=_title(app), basemap=basemap)
            add_browser(app, site)
            if (files := cached_browser()) is not None:
                site.show(files)
            else:
                builder = threading.Thread(target=_build_meanwhile, args=(site, stop), name="landpatch-browser")
        url = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"
        items = sum(len(dataset.snapshot()) for dataset in app.state.datasets.values())
        say(f"{items:,} patches: {'STAC Browser and API' if browser else 'STAC API'} at {url} (Ctrl-C ends it)")
        if open_page:
            import webbrowser

            webbrowser.open(url)
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5)
        try:
            if builder is not None:
                builder.start()
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:  # uvicorn has closed everything, and hands the signal on
            say("landpatch: stopped")
        finally:
            stop.set()
            if builder is not None:
                builder.join()


def _loaded(datasets: Sequence[str]) -> list[Any]:
    """The datasets. While they load, which is the database's work, Python imports the web framework."""
    try:
        from landpatch.catalog.search import SearchableDataset

        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(lambda: [SearchableDataset(url, cache=cache_folder()) for url in datasets])
            import uvicorn  # noqa: F401

            import landpatch.catalog.service  # noqa: F401
        return loading.result()
    except ModuleNotFoundError as error:
        raise MissingComponent(
            f"`landpatch serve` needs the package {error.name}: pip install 'landpatch[server]'"
        ) from error


def _title(app: Any) -> str:
    collections = [dataset.snapshot().collection for dataset in app.state.datasets.values()]
    return str(collections[0].get("title", "landpatch")) if len(collections) == 1 else "landpatch"


def _build_meanwhile(site: Any, stop: threading.Event) -> None:
    try:
        site.show(build_browser(counting, stop))
        say("STAC Browser is ready")
    except LandpatchError as error:
        site.explain(str(error))
        if not stop.is_set():
            say(f"landpatch: {error}\nThe API and previews work without it.")


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Of a socket that does not say that it is TCP asyncio leaves Nagle's algorithm on: 40 ms more for every answer.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(2048)  # who comes while datasets are loading waits; a second server is refused
    except OSError as error:
        listening.close()
        raise InvalidParameter(f"cannot listen at {host}:{port}: {error.strerror}; choose another --port") from error
    return listening


def _log_to_streams(json_log: bool) -> None:
    """What goes wrong to stderr; with ``json_log`` the access log, which is JSON already, to stdout."""
    logging.basicConfig(level=logging.WARNING, format="landpatch: %(message)s", stream=sys.stderr)
    if json_log:
        access = logging.getLogger("landpatch.access")
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        access.handlers, access.propagate = [handler], False
        access.setLevel(logging.INFO)
