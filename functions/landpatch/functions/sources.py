"""What a user names on the command line, read: scene items and SAFE products, scene lists, label files."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from landpatch.catalog.errors import InvalidItem, InvalidLabels, InvalidParameter
from landpatch.catalog.radar_safe import is_radar_safe, radar_safe_item
from landpatch.catalog.safe import is_safe, safe_item
from landpatch.catalog.scene_list import is_scene_list, scene_pairs
from landpatch.catalog.scenes import with_absolute_hrefs
from landpatch.catalog.signing import unsigned
from landpatch.catalog.store import Storage
from landpatch.functions.hrefs import is_remote, local_path, read_bytes
from landpatch.functions.labels import open_labels

Item = Mapping[str, Any]


def read_pairs(scenes: Iterable[str], radars: Sequence[str] = ()) -> list[tuple[Item, tuple[Item, ...]]]:
    """What ``build`` is given: Sentinel-2 items, each with its Sentinel-1 items, in the order of ``scenes``.

    Each of ``scenes`` is a Sentinel-2 scene, to which all of ``radars`` belong, or a scene list, which says itself
    what belongs together. Raises InvalidItem, UnreadableAsset; InvalidParameter for a scene list beside ``radars``.
    """
    given = tuple(read_scene(href) for href in radars)
    pairs: list[tuple[Item, tuple[Item, ...]]] = []
    for href in scenes:
        document = _document(href)
        if not is_scene_list(document):
            pairs.append((_item(document, href), given))
            continue
        if radars:
            raise InvalidParameter(
                f"{href} is a scene list, which says itself what Sentinel-1 scenes belong to it: leave --s1 out, or "
                "add the items to the list"
            )
        listed = scene_pairs(document, _base(href))
        pairs += [(unsigned(optical), tuple(map(unsigned, beside))) for optical, beside in listed]
    return pairs


def read_documents(href: str) -> tuple[tuple[Item, ...], tuple[tuple[Item, tuple[Item, ...]], ...]]:
    """What lies at an address: the items by themselves, and the pairs of a scene list. Raises as ``read_pairs``."""
    document = _document(href)
    if not is_scene_list(document):
        return (_item(document, href),), ()
    listed = scene_pairs(document, _base(href))
    return (), tuple((unsigned(optical), tuple(map(unsigned, beside))) for optical, beside in listed)


def read_scene(href: str) -> dict[str, Any]:
    """A scene's STAC item with absolute asset hrefs, from a file, http(s):// or s3://, or from a SAFE folder or zip.

    Raises InvalidItem (no item), UnreadableAsset (not there).
    """
    return _item(_document(href), href)


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


def _document(href: str) -> Any:
    """What lies at ``href``: the JSON there, or the item of a SAFE folder or zip."""
    remote = is_remote(href)
    if not remote and local_path(href).is_dir():
        if is_radar_safe(local_path(href)):
            return radar_safe_item(local_path(href))
        if not is_safe(local_path(href)):
            raise InvalidItem(
                f"{href} is a folder, but no SAFE product (no MTD_MSIL2A.xml, MTD_MSIL1C.xml or manifest.safe in it)"
            )
        return safe_item(local_path(href))
    if href.lower().endswith(".zip"):
        if remote:
            raise InvalidItem(f"{href}: a SAFE product is read from this machine; download the zip first")
        return safe_item(local_path(href))
    try:
        return orjson.loads(read_bytes(href))
    except orjson.JSONDecodeError as error:
        raise InvalidItem(f"{href} is not JSON ({error}); a scene is given as STAC item or SAFE folder") from error


def _item(document: Any, href: str) -> dict[str, Any]:
    if not isinstance(document, dict) or document.get("type") != "Feature":
        kind = document.get("type") if isinstance(document, dict) else type(document).__name__
        raise InvalidItem(f"{href} is no STAC item: its type is {kind!r}, expected 'Feature'")
    return unsigned(with_absolute_hrefs(document, _base(href)))


def _base(href: str) -> str:
    return href if is_remote(href) else str(local_path(href))
