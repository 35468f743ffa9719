"""The split into train, validation and test by a patch's position in its tile.

Same ground, same split, whatever the date. Three concentric areas 2:1:1 by patch centroid: BigEarthNet v2.0
(arXiv:2407.03653, section on the geographical split), true of all 549,488 published patches.
"""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Split(StrEnum):
    """The dataset's own words."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"

    @property
    def ml_aoi(self) -> str:
        """The word of STAC's ml-aoi extension: ``validate`` where the dataset says ``validation``."""
        return "validate" if self is Split.VALIDATION else self.value


# Outermost ring of 13 patches: train. Middle square of 46 x 46: test. What is left between: validation.
_RING = 12
_RING_FAR = 78
_CORE = 23
_CORE_FAR = 68


def split_by_position(x: int, y: int) -> Split:
    """The split of the patch in column ``x`` and row ``y`` (0..90) of its tile."""
    near, far = min(x, y), max(x, y)
    if near <= _RING or far >= _RING_FAR:
        return Split.TRAIN
    if near >= _CORE and far <= _CORE_FAR:
        return Split.TEST
    return Split.VALIDATION


def splits_by_position(xs: NDArray[np.integer], ys: NDArray[np.integer]) -> list[Split]:
    """The splits of many patches; ``xs`` and ``ys`` are 1-d arrays of the same length."""
    near, far = np.minimum(xs, ys), np.maximum(xs, ys)
    train = (near <= _RING) | (far >= _RING_FAR)
    test = ~train & (near >= _CORE) & (far <= _CORE_FAR)
    words = np.array([Split.VALIDATION, Split.TEST, Split.TRAIN], dtype=object)
    return list(words[np.where(train, 2, np.where(test, 1, 0))])
