"""What a dataset records, and how people find it and take it. No pixels are made here.

Names are looked up when they are first used: whoever needs a patch id does not wait for Arrow and object storage.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landpatch.catalog.errors import LandpatchError
    from landpatch.catalog.exports.folders import export_folders
    from landpatch.catalog.exports.lmdb import export_lmdb
    from landpatch.catalog.grid import Geobox, TileGrid
    from landpatch.catalog.names import PatchId, RadarPatchName, RadarSceneId, SceneId
    from landpatch.catalog.nomenclature import Nomenclature, clc2018
    from landpatch.catalog.selection import Question
    from landpatch.catalog.splits import Split, split_by_position
    from landpatch.catalog.store import Dataset, Storage
    from landpatch.catalog.subset import download

_MODULES = {
    "Dataset": "store",
    "Geobox": "grid",
    "LandpatchError": "errors",
    "Nomenclature": "nomenclature",
    "PatchId": "names",
    "Question": "selection",
    "RadarPatchName": "names",
    "RadarSceneId": "names",
    "SceneId": "names",
    "Split": "splits",
    "Storage": "store",
    "TileGrid": "grid",
    "clc2018": "nomenclature",
    "download": "subset",
    "export_folders": "exports.folders",
    "export_lmdb": "exports.lmdb",
    "split_by_position": "splits",
}

__all__ = [
    "Dataset",
    "Geobox",
    "LandpatchError",
    "Nomenclature",
    "PatchId",
    "Question",
    "RadarPatchName",
    "RadarSceneId",
    "SceneId",
    "Split",
    "Storage",
    "TileGrid",
    "clc2018",
    "download",
    "export_folders",
    "export_lmdb",
    "split_by_position",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"landpatch.catalog.{_MODULES[name]}"), name)
