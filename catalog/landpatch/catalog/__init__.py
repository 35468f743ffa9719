"""What a dataset records, and how people find it and take it. No pixels are made here.

Names are looked up when they are first used: whoever needs a patch id does not wait for Arrow and object storage.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landpatch.catalog.areas import Area
    from landpatch.catalog.choice import Per, Preference, TargetDate, choose
    from landpatch.catalog.countries import Countries
    from landpatch.catalog.discovery import Discovery, discover
    from landpatch.catalog.errors import LandpatchError
    from landpatch.catalog.exports.folders import export_folders
    from landpatch.catalog.exports.lmdb import export_lmdb
    from landpatch.catalog.grid import Geobox, TileGrid
    from landpatch.catalog.names import PatchId, RadarPatchName, RadarSceneId, SceneId
    from landpatch.catalog.nomenclature import Nomenclature, clc2018
    from landpatch.catalog.official import import_bigearthnet
    from landpatch.catalog.pairing import PairingLimits, pair
    from landpatch.catalog.resplit import SplitCounts, name_countries, resplit
    from landpatch.catalog.samples import Samples
    from landpatch.catalog.scene_list import write_scene_list
    from landpatch.catalog.selection import Question
    from landpatch.catalog.signing import signed_hrefs
    from landpatch.catalog.splits import Split, SplitRule, split_by_position
    from landpatch.catalog.stac_sources import OpticalQuery, RadarQuery, SceneSource
    from landpatch.catalog.store import Dataset, Storage
    from landpatch.catalog.subset import download

_MODULES = {
    "Area": "areas",
    "Countries": "countries",
    "Dataset": "store",
    "Discovery": "discovery",
    "Geobox": "grid",
    "LandpatchError": "errors",
    "Nomenclature": "nomenclature",
    "OpticalQuery": "stac_sources",
    "PairingLimits": "pairing",
    "PatchId": "names",
    "Per": "choice",
    "Preference": "choice",
    "Question": "selection",
    "RadarPatchName": "names",
    "RadarQuery": "stac_sources",
    "RadarSceneId": "names",
    "Samples": "samples",
    "SceneId": "names",
    "SceneSource": "stac_sources",
    "Split": "splits",
    "SplitCounts": "resplit",
    "SplitRule": "splits",
    "Storage": "store",
    "TargetDate": "choice",
    "TileGrid": "grid",
    "choose": "choice",
    "clc2018": "nomenclature",
    "discover": "discovery",
    "download": "subset",
    "export_folders": "exports.folders",
    "export_lmdb": "exports.lmdb",
    "import_bigearthnet": "official",
    "name_countries": "resplit",
    "pair": "pairing",
    "resplit": "resplit",
    "signed_hrefs": "signing",
    "split_by_position": "splits",
    "write_scene_list": "scene_list",
}

__all__ = [
    "Area",
    "Countries",
    "Dataset",
    "Discovery",
    "Geobox",
    "LandpatchError",
    "Nomenclature",
    "OpticalQuery",
    "PairingLimits",
    "PatchId",
    "Per",
    "Preference",
    "Question",
    "RadarPatchName",
    "RadarQuery",
    "RadarSceneId",
    "Samples",
    "SceneId",
    "SceneSource",
    "Split",
    "SplitCounts",
    "SplitRule",
    "Storage",
    "TargetDate",
    "TileGrid",
    "choose",
    "clc2018",
    "discover",
    "download",
    "export_folders",
    "export_lmdb",
    "import_bigearthnet",
    "name_countries",
    "pair",
    "resplit",
    "signed_hrefs",
    "split_by_position",
    "write_scene_list",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"landpatch.catalog.{_MODULES[name]}"), name)
