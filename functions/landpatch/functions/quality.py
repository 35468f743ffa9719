"""Which patches are kept, which are dropped and why, and what the scene classification says of each.

Pure rules on arrays with one element a patch. A patch is counted under the first reason that holds, in the order
of ``Reason``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from landpatch.catalog.grid import PATCH_METRES
from landpatch.catalog.names import TILE_PATCHES

SCL_PIXELS = PATCH_METRES // 20
"""Pixels of the scene classification along each side of a patch."""


class Reason(StrEnum):
    """Why a patch was dropped."""

    QUALITY = "QUALITY"
    """A quality indicator of the whole tile (GEOMETRIC, GENERAL, RADIOMETRIC, SENSOR) is not PASSED."""
    NODATA = "NODATA"
    """More pixels than allowed (none) of the 12 bands are 0 at their native resolution, or the scene ends there."""
    UNLABELLED = "UNLABELLED"
    """At least a quarter of the reference map has no class."""
    CLOUD = "CLOUD"
    """More cloud and shadow than the user allows."""
    SNOW = "SNOW"
    """More snow than the user allows."""
    NO_S1 = "NO_S1"
    """No Sentinel-1 scene covers the patch wholly."""


@dataclass(frozen=True, slots=True)
class SceneClassification:
    """Fractions 0..1 of each patch, shape (rows, 91), float64: from SCL classes 11 snow, 8 9 10 cloud, 3 shadow."""

    snow: NDArray[np.float64]
    cloud: NDArray[np.float64]
    shadow: NDArray[np.float64]


def classify(scl: NDArray[np.uint8]) -> SceneClassification:
    """The fractions of a strip of the scene classification: uint8, (rows * 60, 91 * 60), 20 m."""
    counts = _count_scl(np.ascontiguousarray(scl), SCL_PIXELS, TILE_PATCHES) / SCL_PIXELS**2
    return SceneClassification(counts[:, :, 0], counts[:, :, 1], counts[:, :, 2])


@njit(cache=True, nogil=True)
def _count_scl(scl: Any, pixels: int, columns: int) -> Any:  # pragma: no cover - compiled
    rows = scl.shape[0] // pixels
    group = np.full(256, -1, np.int8)
    group[11] = 0
    group[8] = 1
    group[9] = 1
    group[10] = 1
    group[3] = 2
    counts = np.zeros((rows, columns, 3), np.int64)
    for y in range(rows * pixels):
        for x in range(columns * pixels):
            which = group[scl[y, x]]
            if which >= 0:
                counts[y // pixels, x // pixels, which] += 1
    return counts


def official_flags(
    classification: SceneClassification | None, shape: tuple[int, int], snow_from: float, cloud_from: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """``contains_seasonal_snow`` and ``contains_cloud_or_shadow`` of each patch, shape (rows, 91).

    The original's lists were made by eye; here a flag stands from a share of the patch on (``snow_from``;
    ``cloud_from`` for cloud and shadow together). Never both, as in the published tables: the larger share wins,
    snow where they are equal. Without a scene classification both are False, as for published patches on no list.
    """
    if classification is None:
        return np.zeros(shape, bool), np.zeros(shape, bool)
    snow = classification.snow
    covered = classification.cloud + classification.shadow
    snowy, cloudy = snow >= snow_from, covered >= cloud_from
    both = snowy & cloudy
    return snowy & ~(both & (covered > snow)), cloudy & ~(both & (covered <= snow))


def reasons(holds: Mapping[Reason, NDArray[np.bool_]]) -> NDArray[np.object_]:
    """The first reason that holds for each patch, None where none does; arrays are all of the same shape."""
    first = np.full(next(iter(holds.values())).shape, None, object)
    for reason in reversed(Reason):
        if reason in holds:
            first[holds[reason]] = reason
    return first
