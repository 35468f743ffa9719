"""The ground of patches: 1200 m squares in their UTM zones, which share ground, and which lie near to each other.

A square is a place in a tile, whatever the dates of its patches. Within a zone everything is exact: corners are whole
metres. Squares of another zone are taken over by their corners. Northings count from the equator in both hemispheres,
so that a zone has one grid.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Transformer

from landpatch.catalog.grid import PATCH_METRES, TILE_METRES, TileGrid
from landpatch.catalog.names import TILE_PATCHES

# Squares that only touch share no ground, and those exactly a distance apart are not nearer: within a centimetre.
_HAIR = 0.01
# Near the poles a tile (9.4 degrees wide at 84 degrees) meets those of the zone after the next.
_ZONES_ACROSS = 2

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Squares:
    """Many places: ``tile`` indexes ``grids``, ``x`` and ``y`` are 0..90; 1-d arrays of one length."""

    grids: tuple[TileGrid, ...]
    tile: Ints
    x: Ints
    y: Ints

    @classmethod
    def of(cls, tiles: Sequence[str], tile: Ints, x: Ints, y: Ints) -> tuple[Self, Ints]:
        """The places of patches, each once, by tile name, x and y; and of each patch the index of its place.

        ``tile`` indexes the names ``tiles``. Raises InvalidName.
        """
        names, number = np.unique(np.array(tiles, dtype=str), return_inverse=True)
        key = (number[tile] * TILE_PATCHES + x) * TILE_PATCHES + y
        places, place_of = np.unique(key, return_inverse=True)
        rest, row = np.divmod(places, TILE_PATCHES)
        which, column = np.divmod(rest, TILE_PATCHES)
        return cls(tuple(TileGrid.from_tile(str(name)) for name in names), which, column, row), place_of

    def __len__(self) -> int:
        return len(self.tile)

    @property
    def zone(self) -> Ints:
        """UTM zone of the tile, 1..60."""
        return np.array([grid.epsg % 100 for grid in self.grids], np.int64)[self.tile]

    @property
    def centres(self) -> tuple[Floats, Floats]:
        """Easting and northing of the centres, metres of their own zone."""
        left = np.array([grid.ulx for grid in self.grids], np.float64)[self.tile]
        top = np.array([_from_equator(grid) for grid in self.grids], np.float64)[self.tile]
        return left + PATCH_METRES * (self.x + 0.5), top - PATCH_METRES * (self.y + 0.5)

    @property
    def off_centre(self) -> Floats:
        """Metres from the centre of the square to the centre of its tile."""
        half = TILE_METRES / 2
        across, down = PATCH_METRES * (self.x + 0.5) - half, PATCH_METRES * (self.y + 0.5) - half
        return np.asarray(np.hypot(across, down))

    def degrees(self) -> tuple[Floats, Floats]:
        """Longitude (-180..180) and latitude of the centres."""
        east, north = self.centres
        longitude, latitude = np.empty(len(self)), np.empty(len(self))
        zones = self.zone
        for zone in np.unique(zones):
            here = zones == zone
            longitude[here], latitude[here] = to_degrees(int(zone)).transform(east[here], north[here])
        return longitude, latitude

    def boxes(self, rows: Ints | Flags, shrunk: float = 0.0) -> NDArray[Any]:
        """The squares as polygons in metres of their own zone, smaller by ``shrunk`` on each side."""
        east, north = (values[rows] for values in self.centres)
        half = PATCH_METRES / 2 - shrunk
        return np.asarray(shapely.box(east - half, north - half, east + half, north + half))

    def too_near(self, low: Flags, high: Flags, metres: float) -> Flags:
        """Which of the squares ``low`` lie nearer than ``metres`` to one of ``high``; 0: share ground with one."""
        found = np.zeros(len(self), bool)
        for rows, others, boxes in self._neighbourhoods(low, high, metres):
            if len(rows) and len(others):
                tree = shapely.STRtree(boxes)
                near, _ = tree.query_nearest(
                    self.boxes(rows, _HAIR), max_distance=metres + _HAIR / 2, all_matches=False
                )
                found[rows[near]] = True
        return found

    def sharing_ground(self) -> tuple[Ints, Ints]:
        """All pairs of squares of different tiles that share ground, each pair in both orders."""
        every = np.ones(len(self), bool)
        pairs = [np.empty((2, 0), np.int64)]
        for rows, others, boxes in self._neighbourhoods(every, every, 0.0, alone=False):
            one, other = shapely.STRtree(boxes).query(self.boxes(rows, _HAIR), predicate="intersects")
            one, other = rows[one], others[other]
            pairs.append(np.stack([one, other])[:, self.tile[one] != self.tile[other]])
        # Twice what lies in two zones, seen from either; both ways round, were they to differ by a hair.
        joined = np.concatenate(pairs, axis=1)
        joined = np.unique(np.concatenate([joined, joined[::-1]], axis=1), axis=1)
        return joined[0], joined[1]

    def _neighbourhoods(
        self, low: Flags, high: Flags, metres: float, *, alone: bool = True
    ) -> Iterator[tuple[Ints, Ints, NDArray[Any]]]:
        """Zone by zone: squares of ``low`` there, those of ``high`` that may be near them, and these as polygons.

        Without ``alone`` tiles that meet no other tile are left out.
        """
        zones = np.array([grid.epsg % 100 for grid in self.grids])
        for zone in np.unique(zones):
            here = np.flatnonzero(zones == zone)
            around = np.flatnonzero(np.abs((zones - zone + 30) % 60 - 30) <= _ZONES_ACROSS)  # 60 is beside 1
            outlines = shapely.STRtree([_outline(self.grids[number], int(zone)) for number in around])
            own, near = outlines.query(
                [_outline(self.grids[number], int(zone)) for number in here], "dwithin", distance=metres + 1
            )
            own, near = here[own], around[near]
            if not alone:
                own, near = own[own != near], near[own != near]
            rows = np.flatnonzero(low & np.isin(self.tile, own))
            others = np.flatnonzero(high & np.isin(self.tile, near))
            foreign = zones[self.tile[others]] != zone
            boxes = self.boxes(others)
            boxes[foreign] = self.taken_over(others[foreign], int(zone))
            yield rows, others, boxes

    def taken_over(self, rows: Ints, zone: int) -> NDArray[Any]:
        """Squares of other zones as polygons in metres of ``zone``."""
        corners = shapely.get_coordinates(self.boxes(rows))
        zones = np.repeat(self.zone[rows], 5)
        for other in np.unique(zones):
            here = zones == other
            corners[here] = np.stack(between(int(other), zone).transform(*corners[here].T), axis=-1)
        return np.asarray(shapely.polygons(corners.reshape(-1, 5, 2)))


def _from_equator(grid: TileGrid) -> int:
    return grid.uly - (10_000_000 if grid.epsg >= 32700 else 0)


@lru_cache(maxsize=4096)
def _outline(grid: TileGrid, zone: int) -> shapely.Polygon:
    """The tile's square in metres of a zone; an edge of another zone bends, hence 20 pieces a side."""
    top = _from_equator(grid)
    square = shapely.box(grid.ulx, top - TILE_METRES, grid.ulx + TILE_METRES, top)
    if grid.epsg % 100 == zone:
        return square
    fine = shapely.segmentize(square, TILE_METRES / 20)
    return shapely.transform(fine, between(grid.epsg % 100, zone).transform, interleaved=False)


@lru_cache(maxsize=60)
def to_degrees(zone: int) -> Transformer:
    """From metres of a zone to degrees of WGS 84."""
    return Transformer.from_crs(32600 + zone, 4326, always_xy=True)


@lru_cache(maxsize=240)
def between(zone: int, other: int) -> Transformer:
    """From metres of one zone to those of another."""
    return Transformer.from_crs(32600 + zone, 32600 + other, always_xy=True)
