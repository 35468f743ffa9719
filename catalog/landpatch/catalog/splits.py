"""The rules that split patches into train, validation and test.

By position in the tile, unless a dataset says otherwise: three concentric areas 2:1:1 by patch centroid, BigEarthNet
v2.0 (arXiv:2407.03653, section on the geographical split), true of all 549,488 published patches. The other rules
are by blocks of the ground, tile, country or polygons. Whatever the rule: same place, same split, on every date.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from landpatch.catalog.errors import InvalidParameter

By = Literal["position", "blocks", "tile", "country", "polygons"]


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
    return list(np.array(SPLITS, dtype=object)[by_position(xs, ys)])


def by_position(xs: NDArray[np.integer], ys: NDArray[np.integer]) -> NDArray[np.int8]:
    """The same as indices of SPLITS."""
    near, far = np.minimum(xs, ys), np.maximum(xs, ys)
    train = (near <= _RING) | (far >= _RING_FAR)
    test = ~train & (near >= _CORE) & (far <= _CORE_FAR)
    return np.where(train, 0, np.where(test, 2, 1)).astype(np.int8)


class LeftOut(StrEnum):
    """Why a patch of the dataset is in no split."""

    OVERLAP = "OVERLAP"
    """Its ground is also in a patch of another tile, which is kept."""
    NO_SPLIT = "NO_SPLIT"
    """The rule names no split for it."""
    BUFFER = "BUFFER"
    """It lies too near to a patch of another split."""


@dataclass(frozen=True, slots=True)
class SplitRule:
    """How the patches of a dataset are split; the same rule and patches, the same splits.

    ``by``: what decides. Blocks (``block``: metres of a side), tiles and countries are drawn by a hash with ``seed``,
    in ``shares`` of train, validation and test; or ``given`` says the split of tiles or countries by name, and those
    that it does not name are left out. ``areas``: for polygons, a GeoJSON FeatureCollection in WGS 84 whose features
    have the property ``split``. ``buffer``: metres that patches of different splits lie apart at least, 0: they share
    no ground, None: no matter. ``one_per_ground``: of ground that several tiles have, the patches of one are kept.

    Raises InvalidParameter where this makes no sense.
    """

    by: By = "position"
    shares: tuple[float, ...] = (2, 1, 1)
    seed: int = 0
    block: int = 12_000
    given: Mapping[str, Split] = field(default_factory=dict)
    areas: Mapping[str, Any] | None = None
    buffer: float | None = None
    one_per_ground: bool = False

    def __post_init__(self) -> None:
        if self.by not in get_args(By):
            raise InvalidParameter(f"a split is by one of {', '.join(get_args(By))}, not by {self.by!r}")
        if len(self.shares) != 3 or not all(math.isfinite(s) and s >= 0 for s in self.shares) or not sum(self.shares):
            raise InvalidParameter(f"shares of train, validation and test are three numbers, not {self.shares}")
        if self.block < 1200:
            raise InvalidParameter(f"a block of {self.block} m is smaller than a patch of 1200 m")
        if self.buffer is not None and not 0 <= self.buffer <= 100_000:
            raise InvalidParameter(f"a buffer lies between 0 and 100,000 m, not {self.buffer}")
        if (self.by == "polygons") != (self.areas is not None):
            raise InvalidParameter("a split by polygons, and no other, needs polygons")
        if self.given and self.by not in ("tile", "country"):
            raise InvalidParameter(f"a split by {self.by} gives no names to splits; by tile or country does")

    def to_document(self) -> dict[str, Any]:
        """As plain JSON values: only what bears on the result."""
        document: dict[str, Any] = {"by": self.by}
        if self.by == "blocks":
            document["block"] = self.block
        if self.given:
            document["given"] = {name: str(split) for name, split in sorted(self.given.items())}
        elif self.by in ("blocks", "tile", "country"):
            document |= {"shares": list(self.shares), "seed": self.seed}
        if self.areas is not None:
            document["areas"] = self.areas
        if self.buffer is not None:
            document["buffer"] = self.buffer
        if self.one_per_ground:
            document["one_per_ground"] = True
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """From what ``to_document`` gave. Raises InvalidParameter."""
        try:
            values = {**document, "given": {name: Split(word) for name, word in document.get("given", {}).items()}}
            if "shares" in values:
                values["shares"] = tuple(values["shares"])
            return cls(**values)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InvalidParameter(f"not a split rule of this version of landpatch: {error}") from error


SPLITS = tuple(Split)
NONE = -1
"""In an array of splits, which holds indices of SPLITS: in no split."""


def drawn(keys: Sequence[str], shares: Sequence[float], seed: int) -> NDArray[np.int8]:
    """A split for each key by its hash alone, as indices of SPLITS.

    The fraction ``h / 2**64``, with h the first eight bytes (big-endian) of the SHA-256 of ``<seed>:<key>``, falls
    into train, validation or test as the shares follow each other.
    """
    digests = b"".join(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8] for key in keys)
    fractions = np.frombuffer(digests, ">u8").astype(np.float64) / 2.0**64
    limits = np.cumsum(shares)[:-1] / sum(shares)
    return np.searchsorted(limits, np.minimum(fractions, np.nextafter(1, 0)), side="right").astype(np.int8)


def by_name(names: Sequence[str | None], rule: SplitRule) -> NDArray[np.int8]:
    """The split of each tile or country: as given, or drawn; NONE where the rule does not name it, or it is None."""
    if rule.given:
        return np.array([_index(rule.given.get(name)) if name else NONE for name in names], np.int8)
    found = drawn([name or "" for name in names], rule.shares, rule.seed)
    return np.where([name is None for name in names], NONE, found).astype(np.int8)


def given_names(words: Iterable[str]) -> dict[str, Split]:
    """From words such as ``test=Austria,Finland``. Raises InvalidParameter; a name in two splits is an error."""
    given: dict[str, Split] = {}
    for word in words:
        split, _, names = word.partition("=")
        listed = [name for name in map(str.strip, names.split(",")) if name]
        if split not in SPLITS or not listed or any(given.get(name, split) != split for name in listed):
            raise InvalidParameter(
                f"{word!r}: expected one of {', '.join(SPLITS)}, '=', and names that are in no other split"
            )
        given |= dict.fromkeys(listed, Split(split))
    return given


def _index(split: Split | None) -> int:
    return NONE if split is None else SPLITS.index(split)
