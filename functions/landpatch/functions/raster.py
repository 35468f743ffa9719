"""Opening the rasters of a scene, wherever they lie, and nothing but rasters.

An href is a local path, ``file://``, ``http(s)://``, ``s3://``, or a member of a local zip (``zip://``, as the SAFE
reader writes it). GDAL would take much more (virtual file systems,
VRT documents inside the name): an href from a catalogue is not trusted with any of it, and only GeoTIFF and
JPEG 2000 drivers are let near the file.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import rasterio
from rasterio.errors import RasterioError

from landpatch.catalog.errors import InvalidItem, UnreadableAsset
from landpatch.catalog.safe import split_zip_href
from landpatch.catalog.signing import signed_href, without_secrets

_JPEG_2000 = (".jp2", ".j2k")

# What cloud reads need (shared INFRA notes; GDAL's "Cloud optimized" guide): no directory listings, one ranged
# request at open, adjacent ranges merged, retries. GDAL_CACHEMAX is in bytes: 512 MB hold two rows of blocks of all
# twelve bands of a tile, so that strips never decode a block twice; local files mostly go past it (geotiff_blocks).
_GDAL_OPTIONS: dict[str, str | int | bool] = {
    "GDAL_CACHEMAX": 512 * 2**20,
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_INGESTED_BYTES_AT_OPEN": 32768,
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": True,
    "GDAL_HTTP_MULTIPLEX": True,
    "GDAL_HTTP_VERSION": "2",
    "GDAL_HTTP_MAX_RETRY": 5,
    "GDAL_HTTP_RETRY_DELAY": 1,
    # A warm function must not take what it read an hour ago for what lies at an address now.
    "CPL_VSIL_CURL_NON_CACHED": "/vsis3/:/vsicurl/",
}


@contextmanager
def gdal_environment() -> Iterator[None]:
    """GDAL configured for reading scenes; what the user's environment sets already stays as it is.

    ``AWS_ENDPOINT_URL`` (an S3 of one's own, LocalStack) is passed on in the form that GDAL understands.
    """
    options = {key: value for key, value in _GDAL_OPTIONS.items() if key not in os.environ}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and "AWS_S3_ENDPOINT" not in os.environ:
        parts = urlsplit(endpoint)
        options |= {
            "AWS_S3_ENDPOINT": parts.netloc,
            "AWS_HTTPS": "YES" if parts.scheme == "https" else "NO",
            "AWS_VIRTUAL_HOSTING": False,
        }
    with rasterio.Env(**options):
        yield


def gdal_path(href: str) -> str:
    """The name under which GDAL opens ``href``. Raises InvalidItem for anything but the five kinds of href."""
    try:
        parts = urlsplit(href)
    except ValueError as error:
        raise InvalidItem(f"href {href!r} is no path and no URL: {error}") from error
    if parts.scheme in ("http", "https") and parts.netloc:
        return f"/vsicurl/{href}"
    if parts.scheme == "s3" and parts.netloc:
        return f"/vsis3/{parts.netloc}{unquote(parts.path)}"
    if parts.scheme == "zip":
        archive, member = split_zip_href(href)
        return f"/vsizip/{{{gdal_path(str(archive))}}}/{member}"
    if parts.scheme == "file":
        href = unquote(parts.path)
    elif parts.scheme and len(parts.scheme) > 1:  # one letter: a Windows drive
        raise InvalidItem(f"href {href!r}: scheme {parts.scheme!r} is not read; use a path, http(s):// or s3://")
    path = str(Path(href).absolute())
    # Looked for in what GDAL is given: "///vsizip/a" and "/./vsizip/a" are the same path.
    if path.startswith("/vsi") or "\0" in path:
        raise InvalidItem(f"href {href!r} names a GDAL virtual file system; use a path, http(s):// or s3://")
    return path


def open_raster(href: str) -> rasterio.DatasetReader:
    """Open a GeoTIFF or JPEG 2000 file for reading. Raises InvalidItem (bad href), UnreadableAsset."""
    path = gdal_path(signed_href(href))
    driver = "JP2OpenJPEG" if urlsplit(href).path.lower().endswith(_JPEG_2000) else "GTiff"
    try:
        return rasterio.open(path, driver=driver)
    except RasterioError as error:
        raise UnreadableAsset(
            f"{href} cannot be opened as GeoTIFF or JPEG 2000 ({without_secrets(str(error))}); is it there, "
            "complete and readable?"
        ) from error
