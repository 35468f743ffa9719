"""Where BigEarthNet v2.0 keeps a patch's files: one file a band, in three trees.

    BigEarthNet-S1/<s1 scene>/<s1_name>/<s1_name>_{VV,VH}.tif
    BigEarthNet-S2/<s2 scene>/<patch_id>/<patch_id>_{B01,...,B12}.tif
    Reference_Maps/<s2 scene>/<patch_id>/<patch_id>_reference_map.tif

Beside them lie the two metadata tables, ``store.METADATA`` and ``store.METADATA_FLAGGED``.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath

from landpatch.catalog.bands import OPTICAL_ASSETS, REFERENCE_MAP, S1, PatchAsset, band_files
from landpatch.catalog.errors import InvalidName
from landpatch.catalog.names import PatchId, RadarPatchName

TREES: dict[str, tuple[PatchAsset, ...]] = {
    "BigEarthNet-S2": OPTICAL_ASSETS,
    "BigEarthNet-S1": (S1,),
    "Reference_Maps": (REFERENCE_MAP,),
}
"""The trees, and which of our assets are made of what lies in each."""

MARKER = "landpatch.json"
"""Beside the tables of an export: which scenes are there, in which state, and the collection that they are of."""

BAND_FILES: tuple[PatchAsset, ...] = tuple(
    band for assets in TREES.values() for asset in assets for band in band_files(asset)
)
"""All files of a patch in the official layout; keys are ``B02`` ... ``VH``, ``reference_map``."""

_TREE_OF = {
    key: tree
    for tree, assets in TREES.items()
    for asset in assets
    for key in (asset.key, *(b.key for b in band_files(asset)))
}
_SUFFIXES = {
    tree: {band.suffix: band for asset in assets for band in band_files(asset)} for tree, assets in TREES.items()
}


def official_stem(asset: PatchAsset, patch: PatchId, radar: RadarPatchName | None) -> str:
    """Path of the file that ``asset`` is, or the files that it becomes, without the end of names (``_B02.tif``)."""
    tree = _TREE_OF[asset.key]
    if asset.planes[0] in S1.planes:
        if radar is None:
            raise ValueError(f"{patch} has no Sentinel-1 half")
        return f"{tree}/{radar.scene}/{radar}/{radar}"
    return f"{tree}/{patch.scene}/{patch}/{patch}"


@dataclass(frozen=True, slots=True)
class OfficialFile:
    """One file of the layout: the ``tree`` it lies in, the patch (of Sentinel-2 or -1) and the band it holds."""

    tree: str
    patch: PatchId | RadarPatchName
    band: PatchAsset


def official_file(path: str) -> OfficialFile | None:
    """What a path below the trees' parent is (``.tif`` or ``.tiff``); None for what is none of the layout's files."""
    parts = PurePosixPath(path).parts
    if len(parts) != 4 or parts[0] not in TREES:
        return None
    tree, scene, name, file = parts
    stem, dot, ending = file.rpartition(".")
    band = _SUFFIXES[tree].get(stem.removeprefix(name))
    if ending not in ("tif", "tiff") or not dot or not stem.startswith(name) or band is None:
        return None
    try:
        patch = RadarPatchName.parse(name) if tree == "BigEarthNet-S1" else PatchId.parse(name)
    except InvalidName:
        return None
    return OfficialFile(tree, patch, band) if scene == str(patch.scene) else None
