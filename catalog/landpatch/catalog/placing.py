"""Where the files of an item lie in a download, whatever the item says.

A patch's files get the names of landpatch's own datasets, made from ids that are of the official form and nothing
else. Of other items ids and file names are somebody's text: what no file system must see is taken out of them.
"""

import hashlib
import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from landpatch.catalog.bands import PATCH_ASSETS, S1
from landpatch.catalog.errors import InvalidItem, InvalidName
from landpatch.catalog.items import THUMBNAIL, patch_folder
from landpatch.catalog.names import PatchId, RadarPatchName
from landpatch.catalog.splits import Split
from landpatch.catalog.transfer import Expected

PATCH_KEYS = (*(asset.key for asset in PATCH_ASSETS), THUMBNAIL)
ITEM_FILE = "item.json"
"""An item that is no patch, beside its files."""

_SUFFIXES = {asset.key: f"{asset.suffix}.tif" for asset in PATCH_ASSETS} | {THUMBNAIL: "_thumbnail.png"}
_SHA256 = re.compile(r"1220[0-9a-f]{64}", re.ASCII)
_CODE = re.compile(r"EPSG:\d{4,6}", re.ASCII)
_LONGEST_NAME = 120  # characters; file systems take 255 bytes, and Windows 260 for a whole path
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file, whatever follows a dot
_DEVICES = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)


def item_id(item: Any) -> str:
    """The id of what a server sent as an item. Raises InvalidItem where it is none."""
    found = item.get("id") if isinstance(item, Mapping) else None
    if not isinstance(found, str) or not found or len(found) > 1024:
        raise InvalidItem(f"an item has no usable id: {str(found)[:100]!r}")
    if not isinstance(item.get("properties"), Mapping) or not isinstance(item.get("assets"), Mapping):
        raise InvalidItem(f"{found!r} has no properties or no assets: it is no STAC item")
    return found


def claims_to_be_patch(item: Any) -> bool:
    """Whether an item is meant as a patch of landpatch; whether it is one, ``patch_files`` finds out."""
    properties = item.get("properties") if isinstance(item, Mapping) else None
    return isinstance(properties, Mapping) and "landpatch:scene" in properties


def patch_files(item: Mapping[str, Any], keys: Collection[str]) -> dict[str, str]:
    """Paths of a patch's files by asset key, of those among ``keys`` that it has, below a dataset's root.

    Raises InvalidItem where the item is not what landpatch writes: catalogue, tables and exports rely on it.
    """
    name = item_id(item)
    properties, assets = item["properties"], item["assets"]
    try:
        patch = PatchId.parse(name)
        radar = properties.get("landpatch:s1_name")
        radar_patch = None if radar is None else RadarPatchName.parse(radar)
    except (InvalidName, TypeError) as error:
        raise InvalidItem(f"{name!r}: {error}") from error
    labels, bbox, links = properties.get("landpatch:labels"), item.get("bbox"), item.get("links")
    for right, what in (
        (name == str(patch) and properties.get("landpatch:scene") == str(patch.scene), "landpatch:scene"),
        (properties.get("landpatch:tile") == patch.scene.tile, "landpatch:tile"),
        ((properties.get("landpatch:x"), properties.get("landpatch:y")) == (patch.x, patch.y), "landpatch:x, y"),
        (properties.get("landpatch:split") in (*Split, None), "landpatch:split"),  # None: left out of all splits
        (isinstance(labels, list) and all(isinstance(label, str) for label in labels), "landpatch:labels"),
        (radar_patch is None or radar_patch.belongs_to(patch), "landpatch:s1_name"),
        (_CODE.fullmatch(str(properties.get("proj:code"))), "proj:code"),
        (
            all(isinstance(properties.get(key), str) for key in ("start_datetime", "end_datetime", "platform")),
            "times",
        ),
        (isinstance(item.get("collection"), str), "collection"),
        (isinstance(links, list) and all(map(_is_link, links)), "links"),
        (isinstance(bbox, list) and len(bbox) == 4 and _finite(bbox), "bbox"),
    ):
        if not right:
            raise InvalidItem(f"{name!r} is no patch item of landpatch: its {what} is missing or contradicts its id")
    folder = patch_folder(patch)
    found = {}
    for key in keys:
        asset = assets.get(key)
        if asset is None:
            continue
        transform = asset.get("proj:transform") if isinstance(asset, Mapping) else None
        recorded = expected(asset)
        if (
            recorded.size is None
            or _SHA256.fullmatch(recorded.checksum or "") is None
            or not isinstance(asset["href"], str)
            or (key != THUMBNAIL and not (isinstance(transform, list) and len(transform) == 6 and _finite(transform)))
            or (key == S1.key and radar_patch is None)
        ):
            raise InvalidItem(f"{name!r}: asset {key} lacks href, file:size, file:checksum (sha-256) or its place")
        found[key] = f"{folder}/{radar_patch}.tif" if key == S1.key else f"{folder}/{patch}{_SUFFIXES[key]}"
    return found


def expected(asset: Any) -> Expected:
    """What an item records of an asset's file; what makes no sense counts as not recorded."""
    if not isinstance(asset, Mapping):
        return Expected()
    size, checksum, media = asset.get("file:size"), asset.get("file:checksum"), asset.get("type")
    return Expected(
        size if type(size) is int and size >= 0 else None,
        checksum if isinstance(checksum, str) else None,
        media if isinstance(media, str) else None,
    )


def _is_link(link: Any) -> bool:
    return isinstance(link, Mapping) and isinstance(link.get("rel"), str) and isinstance(link.get("href"), str)


def _finite(numbers: Iterable[Any]) -> bool:
    return all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)


class PlainPlaces:
    """Paths of items that are no patches: ``<collection>/<item>/<file>``, each name used once, in any case."""

    def __init__(self) -> None:
        self._taken: dict[str, dict[str, str]] = {"": {"catalog.json": ""}}

    def files(self, item: Mapping[str, Any], keys: Collection[str]) -> tuple[str, dict[str, str]]:
        """The item's folder, and the paths of its files by asset key, of those among ``keys`` that it has."""
        name = item_id(item)
        collection = item.get("collection")
        top = self._name("", collection if isinstance(collection, str) and collection else "items")
        folder = f"{top}/{self._name(top, name)}"
        self._taken[folder] = {ITEM_FILE: ""}
        paths = {}
        for key in keys:
            asset = item["assets"].get(key)
            if isinstance(asset, Mapping) and isinstance(asset.get("href"), str):
                paths[key] = f"{folder}/{self._name(folder, _last(asset['href']) or key, key)}"
        return folder, paths

    def _name(self, folder: str, text: str, owner: str | None = None) -> str:
        """A name in ``folder`` for ``text``, which ``owner`` (else the text) has for itself."""
        taken = self._taken.setdefault(folder, {})
        owner = text if owner is None else owner
        name = safe_name(text)
        while taken.setdefault(name.casefold(), owner) != owner:
            name = _marked(name, f"{owner}/{name}")
        return name


def safe_name(text: str) -> str:
    """``text`` as the name of a file or folder on any system: itself where it is harmless, else marked by a digest of
    itself, so that two texts do not become one name.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip(".").rstrip("._")[:_LONGEST_NAME]
    if not name or _DEVICES.fullmatch(name):
        name = f"_{name}"
    return name if name == text else _marked(name, text)


def _marked(name: str, text: str) -> str:
    path = PurePosixPath(name)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{path.stem}-{digest}{path.suffix}"


def _last(href: str) -> str:
    try:
        return unquote(urlsplit(href).path).rpartition("/")[2]
    except ValueError:
        return ""
