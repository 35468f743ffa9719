"""Previews of a dataset's patches: PNG pictures drawn from the patch files when they are asked for.

A patch file is small and read whole, so nothing is prepared or stored; what a preview is drawn from, and how, is in
its ETag, so that a browser asks again without getting the picture again.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from landpatch.catalog.bands import REFERENCE_MAP, PatchAsset
from landpatch.catalog.errors import InvalidParameter, UnreadableAsset
from landpatch.catalog.nomenclature import Nomenclature
from landpatch.catalog.renderings import RENDERINGS, Rendering, picture, png
from landpatch.catalog.store import Dataset, NotFound

SIZES = range(16, 1201)
"""Pixels along a side that a preview may have: with ten for each of the patch's there is nothing more to see."""
_DRAWING = 1
"""Part of every ETag: a number that grows when landpatch draws the same patch differently."""


def rendering_of(item: Mapping[str, Any], name: str) -> Rendering:
    """The rendering of that name. Raises NotFound where there is none or the item lacks what it shows."""
    rendering = RENDERINGS.get(name)
    if rendering is None:
        raise NotFound(f"there is no preview {name!r}: choose {', '.join(RENDERINGS)}")
    if rendering.asset.key not in item["assets"]:
        raise NotFound(f"{item['id']} has no {rendering.asset.key}, so there is no preview {name!r} of it")
    return rendering


def preview(
    dataset: Dataset,
    item: Mapping[str, Any],
    rendering: Rendering,
    size: int,
    nomenclature: Nomenclature | None = None,
) -> bytes:
    """The PNG of a patch, ``size`` pixels square. ``item`` is the dataset's, with hrefs relative to its root.

    Raises InvalidParameter for a size outside SIZES, StorageError where the file cannot be read, UnreadableAsset
    where it is damaged.
    """
    if size not in SIZES:
        raise InvalidParameter(f"a preview of {size} pixels: {SIZES[0]} to {SIZES[-1]} are possible")
    drawn = picture(
        rendering, patch_planes(dataset, item["assets"][rendering.asset.key]["href"], rendering.asset), nomenclature
    )
    return png(drawn, size, level=1)


def geotiff(
    dataset: Dataset, item: Mapping[str, Any], rendering: Rendering, nomenclature: Nomenclature | None = None
) -> bytes:
    """The picture of a patch as a GeoTIFF: red, green, blue in the patch's own pixels. Raises as ``preview`` does."""
    from rasterio.io import MemoryFile

    asset = item["assets"][rendering.asset.key]
    drawn = picture(rendering, patch_planes(dataset, asset["href"], rendering.asset), nomenclature)
    planes = np.moveaxis(np.atleast_3d(drawn), -1, 0)
    profile = {
        "driver": "GTiff",
        "count": len(planes),
        "height": planes.shape[1],
        "width": planes.shape[2],
        "dtype": "uint8",
        "crs": item["properties"]["proj:code"],
        "transform": Affine(*asset["proj:transform"]),
        "compress": "deflate",
    }
    if len(planes) == 3:
        profile["photometric"] = "RGB"
    with MemoryFile() as memory:
        with memory.open(**profile) as target:
            target.write(planes)
        return bytes(memory.read())


def patch_planes(dataset: Dataset, href: str, asset: PatchAsset) -> NDArray[Any]:
    """The pixels of one file of the dataset, (planes, pixels, pixels). Raises as ``preview`` does."""
    from landpatch.catalog.cogs import read_planes  # with numba, which a start need not wait for

    try:
        return read_planes(dataset.storage.get(href), asset)
    except UnreadableAsset as error:
        raise UnreadableAsset(f"{dataset.storage.url}/{href}: {error}") from error


def entity_tag(item: Mapping[str, Any], rendering: Rendering, form: int | str) -> str:
    """The HTTP ETag of a preview, known before it is drawn: from the file's checksum and how it is drawn.

    ``form`` is its size in pixels, or what else is made of the same file.
    """
    asset = item["assets"][rendering.asset.key]
    what = f"{asset['href']} {asset.get('file:checksum')} {rendering.name} {form} {_DRAWING}"
    return f'"{hashlib.sha256(what.encode()).hexdigest()[:32]}"'


def codes_of(dataset: Dataset, item: Mapping[str, Any]) -> set[int]:
    """The codes in an item's reference map. Raises as ``preview`` does."""
    return {
        int(code)
        for code in np.unique(patch_planes(dataset, item["assets"][REFERENCE_MAP.key]["href"], REFERENCE_MAP))
    }
