"""What a user names on the command line, read: scene items and SAFE folders, label files."""

import hashlib
from pathlib import Path
from typing import Any

import orjson

from landpatch.catalog.errors import InvalidItem, InvalidLabels
from landpatch.catalog.radar_safe import is_radar_safe, radar_safe_item
from landpatch.catalog.safe import is_safe, safe_item
from landpatch.catalog.scenes import with_absolute_hrefs
from landpatch.catalog.store import Storage
from landpatch.functions.hrefs import is_remote, local_path, read_bytes
from landpatch.functions.labels import open_labels


def read_scene(href: str) -> dict[str, Any]:
    """A scene's STAC item with absolute asset hrefs, from a file, http(s):// or s3://, or from a SAFE folder.

    Raises InvalidItem (no item), UnreadableAsset (not there).
    """
    remote = is_remote(href)
    if not remote and local_path(href).is_dir():
        if is_radar_safe(local_path(href)):
            return radar_safe_item(local_path(href))
        if not is_safe(local_path(href)):
            raise InvalidItem(
                f"{href} is a folder, but no SAFE product (no MTD_MSIL2A.xml, MTD_MSIL1C.xml or manifest.safe in it)"
            )
        return safe_item(local_path(href))
    base = href if remote else str(local_path(href))
    try:
        document = orjson.loads(read_bytes(href))
    except orjson.JSONDecodeError as error:
        raise InvalidItem(f"{href} is not JSON ({error}); a scene is given as STAC item or SAFE folder") from error
    if not isinstance(document, dict) or document.get("type") != "Feature":
        kind = document.get("type") if isinstance(document, dict) else type(document).__name__
        raise InvalidItem(f"{href} is no STAC item: its type is {kind!r}, expected 'Feature'")
    return with_absolute_hrefs(document, base)


def prepared_labels(source: str, destination: str) -> str:
    """The href of a prepared label source: ``source`` itself, or what is prepared from it.

    A CORINE file given as it was downloaded is prepared once into ``labels/`` of the dataset. Raises InvalidLabels.
    """
    if "://" in source or not Path(source).exists():
        return open_labels(source).href
    path = Path(source).absolute()
    if path.suffix.lower() in (".parquet", ".tif", ".tiff"):
        try:
            return open_labels(path).href
        except InvalidLabels:
            if path.suffix.lower() == ".parquet":
                raise
    # Here, because preparing needs pyogrio and half a second to import it: few builds prepare.
    from landpatch.functions.console import counting
    from landpatch.functions.labels_prepare import prepare_labels

    suffix = ".tif" if path.suffix.lower() in (".tif", ".tiff") else ".parquet"
    storage = Storage.open(destination, create=True)
    name = f"labels/{path.stem}-{_fingerprint(path)}{suffix}"
    target = f"{storage.url}/{name}"
    if not storage.exists(name):
        with counting(f"Preparing {path.name}") as progress:
            prepare_labels(str(path), target, progress=progress)
    return target


def _fingerprint(path: Path) -> str:
    """Tells files of the same name apart, without reading 9 GB: of the size and the first and last megabyte."""
    size, piece = path.stat().st_size, 2**20
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(piece))
        file.seek(max(size - piece, 0))
        digest.update(file.read(piece))
    return digest.hexdigest()[:8]
