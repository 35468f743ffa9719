"""What happens to a tile, and what triggers it.

Names are looked up when they are first used: whoever needs one block cut does not wait for what plans a build.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landpatch.functions.building import BuildResult, ScenePair, build, rebuild
    from landpatch.functions.jobs import Parameters, State
    from landpatch.functions.l2a import correct, correct_all
    from landpatch.functions.labels import Labels, open_labels
    from landpatch.functions.labels_prepare import prepare_labels
    from landpatch.functions.sources import read_pairs, read_scene

_MODULES = {
    "BuildResult": "building",
    "Labels": "labels",
    "Parameters": "jobs",
    "ScenePair": "building",
    "State": "jobs",
    "build": "building",
    "correct": "l2a",
    "correct_all": "l2a",
    "open_labels": "labels",
    "prepare_labels": "labels_prepare",
    "read_pairs": "sources",
    "read_scene": "sources",
    "rebuild": "building",
}

__all__ = [
    "BuildResult",
    "Labels",
    "Parameters",
    "ScenePair",
    "State",
    "build",
    "correct",
    "correct_all",
    "open_labels",
    "prepare_labels",
    "read_pairs",
    "read_scene",
    "rebuild",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"landpatch.functions.{_MODULES[name]}"), name)
