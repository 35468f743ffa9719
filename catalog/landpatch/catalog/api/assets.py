"""The files of a dataset over HTTP: byte ranges, conditional requests, and nothing outside of the dataset."""

import mimetypes
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, RedirectResponse, Response

from landpatch.catalog.api.errors import NoSuchThing
from landpatch.catalog.api.settings import Settings
from landpatch.catalog.items import COG_TYPE, PARQUET_TYPE
from landpatch.catalog.search import SearchableDataset
from landpatch.catalog.store import COLLECTION, ITEMS, METADATA, METADATA_FLAGGED, NotFound, Storage

# What items and the collection refer to; not jobs/, parts/ and labels/.
_FOLDERS = ("patches", "scenes")
_FILES = (COLLECTION, ITEMS, METADATA, METADATA_FLAGGED)
_TYPES = {".tif": COG_TYPE, ".parquet": PARQUET_TYPE, ".json": "application/json"}
_RANGE = re.compile(r"bytes=(\d*)-(\d*)\Z", re.ASCII)


def asset_router(datasets: Mapping[str, SearchableDataset], settings: Settings) -> APIRouter:
    """Route ``/assets/{collection_id}/{path}``: the file itself, or where S3 has it if URLs are to be presigned."""
    router = APIRouter(tags=["Assets"])

    @router.get("/assets/{collection_id}/{path:path}", name="Asset", response_class=Response)
    def asset(collection_id: str, path: str, request: Request) -> Response:
        """A file of a dataset, whole or a range of bytes."""
        dataset = datasets.get(collection_id)
        if dataset is None or not _published(path):
            raise NoSuchThing(f"no asset {path!r} in collection {collection_id!r}")
        if settings.assets == "presigned":
            signed = dataset.storage.signed(path, settings.presigned_seconds)
            return RedirectResponse(signed, 307, {"Cache-Control": "no-store"})
        media = _TYPES.get(PurePosixPath(path).suffix) or mimetypes.guess_type(path)[0] or "application/octet-stream"
        storage = dataset.storage
        if storage.folder is None:
            return _remote(storage, path, media, request)
        root = storage.folder.resolve()
        file = (root / path).resolve()
        if not file.is_relative_to(root) or not file.is_file():  # a link that leads out is no file of the dataset
            raise NoSuchThing(f"no asset {path!r} in collection {collection_id!r}")
        return FileResponse(file, media_type=media)

    return router


def _published(path: str) -> bool:
    parts = path.split("/")
    if not {"", ".", ".."}.isdisjoint(parts) or "\0" in path or "\\" in path:
        return False
    return path in _FILES or (len(parts) > 1 and parts[0] in _FOLDERS)


def _remote(storage: Storage, path: str, media: str, request: Request) -> Response:
    try:
        entry = storage.head(path)
    except NotFound:
        raise NoSuchThing(f"no asset {path!r} here") from None
    size, e_tag = int(entry["size"]), entry["e_tag"]
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": e_tag or "",
        "Last-Modified": entry["last_modified"].strftime("%a, %d %b %Y %H:%M:%S GMT"),
    }
    if e_tag and request.headers.get("if-none-match") == e_tag:
        return Response(status_code=304, headers=headers)
    wanted = _RANGE.match(request.headers.get("range", ""))
    if wanted is None or wanted.groups() == ("", "") or request.headers.get("if-range", e_tag) != e_tag:
        return Response(storage.get_range(path, 0, size, e_tag) if size else b"", media_type=media, headers=headers)
    first, last = wanted.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last) + 1, size) if first and last else size
    if start >= end:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return Response(storage.get_range(path, start, end, e_tag), 206, headers, media)
