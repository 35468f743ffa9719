"""The STAC API as an AWS Lambda function, behind a Function URL or API Gateway (HTTP or REST): read-only.

The same application as ``landpatch serve``, without STAC Browser and previews. Environment:

* ``LANDPATCH_DATASET``: the datasets, ``s3://bucket/prefix``, separated by blanks or commas
* ``LANDPATCH_ASSETS``: ``presigned`` (default: clients get files from S3, by URLs that are good for an hour) or
  ``served`` (through the function, which answers with 6 MB at most)
"""

import logging
import os
from functools import cache
from typing import Any, Literal, cast

from mangum import Mangum
from starlette.types import ASGIApp, Receive, Scope, Send

from landpatch.catalog.api import Settings, create_app
from landpatch.catalog.errors import InvalidParameter

DATASET, ASSETS = "LANDPATCH_DATASET", "LANDPATCH_ASSETS"

# Lambda's answers have 6 MB at most (6,291,556 bytes), of JSON in which every quote of ours is escaped: a tenth more.
_PAGE_BYTES = 5_000_000
# What goes out as text; anything else as base64, compressed answers too.
_TEXT = [
    "text/",
    "application/json",
    "application/geo+json",
    "application/schema+json",
    "application/vnd.oai.openapi",
]


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """One request as API Gateway or a Function URL hands it over."""
    return _adapter()(event, context)


@cache
def _adapter() -> Mangum:
    """The application over the datasets that the environment names, loaded at the first request."""
    datasets = os.environ.get(DATASET, "").replace(",", " ").split()
    if not datasets:
        raise InvalidParameter(f"{DATASET} names no dataset: set it to s3://bucket/prefix")
    assets = os.environ.get(ASSETS, "presigned")
    if assets not in ("presigned", "served"):
        raise InvalidParameter(f"{ASSETS} is presigned or served, not {assets!r}")
    logging.getLogger("landpatch.access").setLevel(logging.INFO)
    settings = Settings(
        page_bytes=_PAGE_BYTES,
        assets=cast(Literal["presigned", "served"], assets),
        cache=None,  # what a function keeps on its disk is gone with it
    )
    return Mangum(_BelowStage(create_app(datasets, settings)), lifespan="off", text_mime_types=_TEXT)


class _BelowStage:
    """Tells the application what a gateway puts before the path of its address, so that its links have it too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        path = scope["path"]
        before = _before(scope["aws.event"])
        if before:
            scope["root_path"] = before
            scope["path"] = path if path.startswith(f"{before}/") else f"{before}{path}"
        await self._app(scope, receive, send)


def _before(event: dict[str, Any]) -> str:
    """``/stage`` where it is part of the address: HTTP APIs have it in their path, REST APIs say both paths."""
    context = event["requestContext"]
    if "http" in context:
        stage = f"/{context.get('stage', '$default')}"
        return stage if f"{context['http']['path']}/".startswith(f"{stage}/") else ""
    return str(context.get("path", "")).removesuffix(event["path"])
