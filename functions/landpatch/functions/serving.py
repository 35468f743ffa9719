"""A process that serves datasets: the STAC API under uvicorn."""

import logging
import socket
import sys
from collections.abc import Sequence

from landpatch.catalog.errors import InvalidParameter
from landpatch.functions.console import say


def serve(datasets: Sequence[str], *, host: str, port: int, json_log: bool) -> None:
    """Serve until interrupted; ``port`` 0 takes a free one. The address is printed once the API answers.

    Raises InvalidParameter (address in use, extra not installed), StorageError, InvalidDataset.
    """
    try:
        import uvicorn

        from landpatch.catalog.api import Settings, create_app
    except ModuleNotFoundError as error:
        raise InvalidParameter(f"{error.name} is missing: pip install 'landpatch[server]'") from error

    _log_to_streams(json_log)
    listening = _listening(host, port)
    app = create_app(datasets, Settings(access_log=json_log))
    address = f"[{host}]" if ":" in host else host
    items = sum(len(dataset.snapshot()) for dataset in app.state.datasets.values())
    say(f"{items:,} patches: STAC API at http://{address}:{listening.getsockname()[1]}/")
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5)
    uvicorn.Server(config).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(2048)  # whoever reads the address may connect at once, and waits
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
