"""What a dataset records, and how people find it and take it. No pixels are made here."""

from landpatch.catalog.errors import LandpatchError
from landpatch.catalog.grid import Geobox, TileGrid
from landpatch.catalog.items import items
from landpatch.catalog.names import PatchId, RadarPatchName, RadarSceneId, SceneId
from landpatch.catalog.nomenclature import Nomenclature, clc2018
from landpatch.catalog.splits import Split, split_by_position
from landpatch.catalog.store import Dataset, Storage

__all__ = [
    "Dataset",
    "Geobox",
    "LandpatchError",
    "Nomenclature",
    "PatchId",
    "RadarPatchName",
    "RadarSceneId",
    "SceneId",
    "Split",
    "Storage",
    "TileGrid",
    "clc2018",
    "items",
    "split_by_position",
]
