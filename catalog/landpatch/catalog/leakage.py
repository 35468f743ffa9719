"""What patches of one split have to do with the ground of another: do they touch, overlap, lie near. No I/O.

The grid says where a patch lies, so ids and splits are enough. In one UTM zone everything is exact: squares with
whole metres as corners. Patches of another zone are taken into the zone of the patch that is asked about by their
corners; their edges, which bend by less than 0.1 m, are drawn straight. Distances are metres of that zone's grid,
within 0.1 % of those on the ellipsoid.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from landpatch.catalog.errors import InvalidParameter
from landpatch.catalog.grid import PATCH_METRES, TileGrid
from landpatch.catalog.names import TILE_PATCHES, SceneId
from landpatch.catalog.splits import NONE, SPLITS, Split, by_position
from landpatch.catalog.squares import Floats, Ints, Squares, to_degrees

WITHIN_METRES = (0.0, 1200.0, 5000.0, 10_000.0)

# Whose ground must not be whose. Where a buffer is made, validation gives way to both others, test to train.
_PAIRS = ((Split.TEST, Split.TRAIN), (Split.VALIDATION, Split.TRAIN), (Split.VALIDATION, Split.TEST))
# A zone's projection is still good to 3 % so far from its meridian; what lies further is nobody's neighbour.
_REACH_DEGREES = 12.0
BIN_METRES = 1200.0


@dataclass(frozen=True, slots=True)
class Patches:
    """Many patches: ``scene`` indexes ``scenes``; ``x``, ``y`` 0..90; ``split`` indexes SPLITS (NONE: in none).

    All four arrays are 1-d and of one length.
    """

    scenes: tuple[SceneId, ...]
    scene: NDArray[np.int32]
    x: NDArray[np.int16]
    y: NDArray[np.int16]
    split: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.scene)

    def id(self, row: int) -> str:
        """The id of one of them."""
        return str(self.scenes[self.scene[row]].patch(int(self.x[row]), int(self.y[row])))

    def under(self, rule: str) -> "Patches":
        """The same patches, split by another rule of SPLIT_RULES. Raises InvalidParameter."""
        if rule not in SPLIT_RULES:
            raise InvalidParameter(f"split rule {rule!r} is unknown: choose {' or '.join(SPLIT_RULES)}")
        return Patches(self.scenes, self.scene, self.x, self.y, SPLIT_RULES[rule](self.x, self.y))

    @property
    def tiles(self) -> tuple[str, ...]:
        """The tiles of the scenes, sorted."""
        return tuple(sorted({scene.tile for scene in self.scenes}))

    @property
    def tile(self) -> NDArray[np.int32]:
        """Of each patch the index of its tile in ``tiles``."""
        number = {tile: code for code, tile in enumerate(self.tiles)}
        return np.array([number[scene.tile] for scene in self.scenes], np.int32)[self.scene]


def by_fours(x: NDArray[np.integer], y: NDArray[np.integer]) -> NDArray[np.int8]:
    """BigEarthNet v1's split as indices of SPLITS: of each 2 x 2 patches two are train, one is validation, one test.

    v1 drew which ones; here they follow in reading order, upper row train, lower row validation and test.
    """
    return np.where(y % 2 == 0, 0, np.where(x % 2 == 0, 1, 2)).astype(np.int8)


SPLIT_RULES: Mapping[str, Callable[[NDArray[np.integer], NDArray[np.integer]], NDArray[np.int8]]] = {
    "bigearthnet-v2": by_position,
    "bigearthnet-v1": by_fours,
}


@dataclass(frozen=True, slots=True)
class Nearest:
    """The two patches of a pair of splits whose centres are nearest: ``grid_metres`` apart on the UTM grid of the
    first, ``ground_metres`` on the ellipsoid (WGS 84).
    """

    patch: str
    other: str
    grid_metres: float
    ground_metres: float


@dataclass(frozen=True, slots=True)
class Relation:
    """Patches of split ``of`` and their neighbours of split ``to``; all counts are patches of ``of``.

    ``overlap``: share ground with one; ``edge``: no ground, but an edge or a piece of one; ``corner``: a corner only.
    ``edge_same_scene``: have a whole edge in common with one of their own scene. ``within``: squares that lie no
    further apart than so many metres (0: touch or overlap). ``median_metres`` and ``histogram`` (``BIN_METRES``
    wide, from 0) are of the distance to the nearest centre.
    """

    of: str
    to: str
    patches: int
    overlap: int
    edge: int
    corner: int
    edge_same_scene: int
    within: dict[float, int]
    nearest: Nearest | None
    median_metres: float | None
    histogram: list[int]


@dataclass(frozen=True, slots=True)
class SameGround:
    """Ground that is there more than once; counts are patches.

    ``several_dates``: their place of their tile comes again at another date; ``dates_across_splits``: in another
    split. ``two_tiles``: a patch of another tile shares ground with them; ``tiles_across_splits``: one of another
    split. ``square_km``: ground of two tiles, ``square_km_across_splits`` of two tiles and two splits, counted
    for each pair of places once.
    """

    several_dates: int
    dates_across_splits: int
    two_tiles: int
    tiles_across_splits: int
    square_km: float
    square_km_across_splits: float


@dataclass(frozen=True, slots=True)
class Buffer:
    """What it takes to have more than ``metres`` between the squares of any two splits: patches ``left_out`` of
    validation (near train or test) and of test (near train); train keeps all. ``share`` is of all patches.
    """

    metres: float
    left_out: dict[str, int]
    share: float


@dataclass(frozen=True, slots=True)
class Leakage:
    """How far apart the splits are. ``patches`` by split; ``unsplit`` belong to none."""

    patches: dict[str, int]
    unsplit: int
    relations: list[Relation]
    same_ground: SameGround
    buffers: list[Buffer]

    def relation(self, of: str, to: str) -> Relation:
        """Of one pair of splits."""
        return next(relation for relation in self.relations if (relation.of, relation.to) == (of, to))


def leakage(
    patches: Patches,
    within: Sequence[float] = WITHIN_METRES,
    progress: Callable[[int, int], None] | None = None,
) -> Leakage:
    """Measure the splits of ``patches``. ``within`` are distances in metres between the edges of squares.

    Memory: some hundred bytes a place. ``progress`` is told zones done and zones in all.
    """
    metres = sorted({0.0, *map(float, within)})
    places = _places(patches)
    found = _Found.empty(len(places), metres[-1])
    zones = np.unique(places.zone).tolist()
    for number, zone in enumerate(zones):
        _look_around(places, zone, found)
        if progress:
            progress(number + 1, len(zones))
    counts = {split.value: int((patches.split == code).sum()) for code, split in enumerate(SPLITS)}
    return Leakage(
        patches=counts,
        unsplit=int((patches.split == NONE).sum()),
        relations=[_relation(patches, places, found, *pair, metres) for pair in _PAIRS],
        same_ground=_same_ground(patches, places, found),
        buffers=[_buffer(places, found, distance, len(patches)) for distance in metres],
    )


# --- places ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Places:
    """Each place (tile, x, y) once a split, with the number of its patches as ``weight`` and one of them as ``row``.

    ``centres`` in metres of their ``zone``, shape (n, 2); ``degrees`` are their longitudes and latitudes, (n, 2).
    """

    squares: Squares
    split: Ints
    row: Ints
    weight: Ints
    zone: Ints
    centres: Floats
    degrees: Floats

    def __len__(self) -> int:
        return len(self.squares)

    @property
    def tile(self) -> Ints:
        return self.squares.tile


def _places(patches: Patches) -> _Places:
    tile = patches.tile.astype(np.int64)
    x, y, split = (column.astype(np.int64) for column in (patches.x, patches.y, patches.split))
    key = ((tile * TILE_PATCHES + x) * TILE_PATCHES + y) * 4 + split + 1
    _, row, weight = np.unique(key, return_index=True, return_counts=True)
    squares = Squares(tuple(map(TileGrid.from_tile, patches.tiles)), tile[row], x[row], y[row])
    centres, degrees = (np.stack(values, axis=-1) for values in (squares.centres, squares.degrees()))
    return _Places(squares, split[row], row, weight, squares.zone, centres, degrees)


# --- what lies around them ---------------------------------------------------------------------------------------


_NOTHING, _CORNER, _EDGE, _OVERLAP = 0, 1, 2, 3


@dataclass(slots=True)
class _Found:
    """Of each place, by pair of splits: how it touches (``touch``), metres to the nearest square (``gap``, inf beyond
    ``reach``), to the nearest centre (``distance``) and which that is (``nearest``). ``shared`` marks places with
    ground of another tile, ``across`` those where it is of another split; areas are square metres of both sides.
    """

    reach: float
    touch: dict[tuple[Split, Split], NDArray[np.int8]]
    gap: dict[tuple[Split, Split], Floats]
    distance: dict[tuple[Split, Split], Floats]
    nearest: dict[tuple[Split, Split], Ints]
    shared: NDArray[np.bool_]
    across: NDArray[np.bool_]
    area: float = 0.0
    area_across: float = 0.0

    @classmethod
    def empty(cls, count: int, reach: float) -> "_Found":
        return cls(
            reach,
            {pair: np.zeros(count, np.int8) for pair in _PAIRS},
            {pair: np.full(count, np.inf) for pair in _PAIRS},
            {pair: np.full(count, np.inf) for pair in _PAIRS},
            {pair: np.full(count, -1, np.int64) for pair in _PAIRS},
            np.zeros(count, bool),
            np.zeros(count, bool),
        )


def _look_around(places: _Places, zone: int, found: _Found) -> None:
    """Everything that concerns the places of one zone, in its metres."""
    own = np.flatnonzero(places.zone == zone)
    away = np.abs((places.degrees[:, 0] - (6 * zone - 183) + 180) % 360 - 180)
    foreign = np.flatnonzero((places.zone != zone) & (away < _REACH_DEGREES))
    longitude, latitude = places.degrees[foreign].T
    taken = to_degrees(zone).transform(longitude, latitude, direction="INVERSE")
    everything = np.concatenate([own, foreign])
    centres = np.concatenate([places.centres[own], np.stack(taken, axis=-1)])
    squares = places.squares.boxes(own)
    _touch_in_zone(places, own, squares, found)
    near = foreign[_close(centres[len(own) :], centres[: len(own)], found.reach)]
    drawn = places.squares.taken_over(near, zone)
    _touch_other_zones(places, own, squares, near, drawn, found)
    for of, to in _PAIRS:
        asked = np.flatnonzero(places.split[own] == SPLITS.index(of))
        others = np.flatnonzero(places.split[everything] == SPLITS.index(to))
        if not len(asked) or not len(others):
            continue
        pair = (of, to)
        tree = shapely.STRtree(shapely.points(centres[others]))
        (number, answer), distance = tree.query_nearest(
            shapely.points(centres[asked]), all_matches=False, return_distance=True
        )
        found.distance[pair][own[asked[number]]] = distance
        found.nearest[pair][own[asked[number]]] = everything[others[answer]]
        of_target = places.split[own] == SPLITS.index(to)
        targets = np.concatenate([squares[of_target], drawn[places.split[near] == SPLITS.index(to)]])
        # Squares are never nearer than their centres less a diagonal: the others need not be asked.
        candidates = asked[number[distance - 1.5 * PATCH_METRES <= found.reach]]
        if len(candidates) and len(targets):
            (number, _), gap = shapely.STRtree(targets).query_nearest(
                squares[candidates], max_distance=max(found.reach, 1.0), all_matches=False, return_distance=True
            )
            found.gap[pair][own[candidates[number]]] = gap


def _close(points: Floats, others: Floats, reach: float) -> Ints:
    """Numbers of the points whose square may come within ``reach`` metres of the square around one of the others."""
    if not len(points) or not len(others):
        return np.empty(0, np.int64)
    tree = shapely.STRtree(shapely.points(others))
    number: Ints = tree.query_nearest(
        shapely.points(points), max_distance=reach + 1.5 * PATCH_METRES, all_matches=False
    )[0]
    return number


def _touch_in_zone(places: _Places, own: Ints, squares: NDArray[np.object_], found: _Found) -> None:
    # The box of an axis-aligned square is the square: no predicate, and whole metres decide.
    one, other = own[shapely.STRtree(squares).query(squares)]
    side, height = (PATCH_METRES - np.abs(places.centres[one] - places.centres[other])).T
    kind = np.where((side > 0) & (height > 0), _OVERLAP, np.where((side > 0) | (height > 0), _EDGE, _CORNER))
    _note(places, one, other, kind, np.where(kind == _OVERLAP, side * height, 0), found)


def _touch_other_zones(
    places: _Places,
    own: Ints,
    squares: NDArray[np.object_],
    near: Ints,
    drawn: NDArray[np.object_],
    found: _Found,
) -> None:
    if not len(near):
        return
    one, other = shapely.STRtree(drawn).query(squares, predicate="intersects")
    area = shapely.area(shapely.intersection(squares[one], drawn[other]))
    # No two edges of different zones fall together: what meets, overlaps, if only by a sliver.
    _note(places, own[one], near[other], np.full(len(one), _OVERLAP), area, found)


def _note(places: _Places, one: Ints, other: Ints, kind: NDArray[Any], area: Floats, found: _Found) -> None:
    for of, to in _PAIRS:
        here = (places.split[one] == SPLITS.index(of)) & (places.split[other] == SPLITS.index(to))
        np.maximum.at(found.touch[of, to], one[here], kind[here].astype(np.int8))
    shared = (kind == _OVERLAP) & (places.tile[one] != places.tile[other])
    split = places.split[one] != places.split[other]
    across = shared & split & (places.split[one] >= 0) & (places.split[other] >= 0)
    found.shared[one[shared]] = True
    found.across[one[across]] = True
    found.area += float(area[shared].sum())
    found.area_across += float(area[across].sum())


# --- what it comes to --------------------------------------------------------------------------------------------


def _relation(
    patches: Patches, places: _Places, found: _Found, of: Split, to: Split, metres: Sequence[float]
) -> Relation:
    pair = (of, to)
    here = places.split == SPLITS.index(of)
    weight = places.weight[here]
    touch, gap, distance = found.touch[pair][here], found.gap[pair][here], found.distance[pair][here]
    gap = np.where(touch > _NOTHING, 0.0, gap)
    known = np.isfinite(distance)
    histogram = np.bincount((distance[known] // BIN_METRES).astype(np.int64), weight[known]).astype(np.int64)
    return Relation(
        of=of.value,
        to=to.value,
        patches=int(weight.sum()),
        overlap=int(weight[touch == _OVERLAP].sum()),
        edge=int(weight[touch == _EDGE].sum()),
        corner=int(weight[touch == _CORNER].sum()),
        edge_same_scene=_edge_same_scene(patches, of, to),
        within={limit: int(weight[gap <= limit].sum()) for limit in metres},
        nearest=_nearest(patches, places, found, pair),
        median_metres=_median(distance[known], weight[known]),
        histogram=histogram.tolist(),
    )


def _nearest(patches: Patches, places: _Places, found: _Found, pair: tuple[Split, Split]) -> Nearest | None:
    distance = found.distance[pair]
    best = distance.min(initial=np.inf)
    if not np.isfinite(best):
        return None
    # Of pairs that are equally near on the grid, those differ on the ground: the nearest there.
    one = np.flatnonzero(distance <= best + 1e-6)
    other = found.nearest[pair][one]
    ground = pyproj.Geod(ellps="WGS84").inv(*places.degrees[one].T, *places.degrees[other].T)[2]
    first = int(np.argmin(ground))
    rows = places.row[one[first]], places.row[other[first]]
    return Nearest(patches.id(rows[0]), patches.id(rows[1]), round(float(best), 3), round(float(ground[first]), 3))


def _median(values: Floats, weight: Ints) -> float | None:
    if not len(values):
        return None
    order = np.argsort(values)
    half = np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2)
    return round(float(values[order][half]), 3)


def _edge_same_scene(patches: Patches, of: Split, to: Split) -> int:
    # With a margin all around, so that a neighbour beyond the edge is no patch of the next column.
    width = TILE_PATCHES + 2
    key = (patches.scene.astype(np.int64) * width + patches.x + 1) * width + patches.y + 1
    asked = key[patches.split == SPLITS.index(of)]
    others = np.unique(key[patches.split == SPLITS.index(to)])
    touching = np.zeros(len(asked), bool)
    for step in (1, -1, width, -width):
        touching |= np.isin(asked + step, others)
    return int(touching.sum())


def _same_ground(patches: Patches, places: _Places, found: _Found) -> SameGround:
    several, differ = _several_dates(patches)
    return SameGround(
        several_dates=several,
        dates_across_splits=differ,
        two_tiles=int(places.weight[found.shared].sum()),
        tiles_across_splits=int(places.weight[found.across].sum()),
        square_km=round(found.area / 2e6, 3),  # each pair of places was met from both its sides
        square_km_across_splits=round(found.area_across / 2e6, 3),
    )


def _several_dates(patches: Patches) -> tuple[int, int]:
    key = (patches.tile.astype(np.int64) * TILE_PATCHES + patches.x) * TILE_PATCHES + patches.y
    _, place, times = np.unique(key, return_inverse=True, return_counts=True)
    lowest, highest = np.full(len(times), 9, np.int8), np.full(len(times), -1, np.int8)
    split = patches.split >= 0
    np.minimum.at(lowest, place[split], patches.split[split])
    np.maximum.at(highest, place[split], patches.split[split])
    differ = (lowest < highest)[place] & split
    return int((times > 1)[place].sum()), int(differ.sum())


def _buffer(places: _Places, found: _Found, metres: float, total: int) -> Buffer:
    left_out = {}
    for of in (Split.VALIDATION, Split.TEST):
        near = np.zeros(len(places), bool)
        for pair in _PAIRS:
            if pair[0] is of:
                near |= (found.gap[pair] <= metres) | (found.touch[pair] > _NOTHING)
        left_out[of.value] = int(places.weight[near].sum())
    return Buffer(metres, left_out, sum(left_out.values()) / max(total, 1))
