"""The patch grid of a Sentinel-2 tile: where each 1200 m patch lies.

A tile is 109,800 m square in its UTM zone and holds 91 x 91 whole patches; ``x`` counts columns from the west,
``y`` rows from the north. Rules: BigEarthNet v2.0 (arXiv:2407.03653), recomputed on its metadata.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from landpatch.catalog.errors import InvalidName
from landpatch.catalog.names import TILE_PATCHES, parse_tile

PATCH_METRES = 1200
TILE_METRES = 109_800
STRIP_ROWS = 7
"""Patch rows worked on at a time: 91 = 13 x 7. As fast as 13 rows, with half of the memory, which costs the system a
second of a tile's time to hand out."""

# Latitude bands of 8 degrees from 80 S (X has 12) and the 20-letter cycle of 100 km rows: MGRS, NGA.STND.0037.
BANDS = "CDEFGHJKLMNPQRSTUVWX"
COLUMNS = ("STUVWXYZ", "ABCDEFGH", "JKLMNPQR")
ROWS = "ABCDEFGHJKLMNPQRSTUV"


def _northing(latitude: float) -> float:
    """UTM northing in metres, from the equator, of a latitude in degrees on the central meridian.

    Meridian arc of WGS 84 to its second harmonic (Snyder, USGS PP 1395, 3-21), times UTM's scale: within a metre.
    """
    phi = math.radians(latitude)
    return 0.9996 * (111_132.95 * latitude - 16_038.51 * math.sin(2 * phi) + 16.83 * math.sin(4 * phi))


def _square_south(zone: int, band: str, row: str) -> int | None:
    """South edge in metres from the equator of the one 100 km row of this letter that meets its latitude band."""
    letter = (ROWS.index(row) - (5 if zone % 2 == 0 else 0)) % 20  # even zones start their rows at F, not A
    limits = [-80 + 8 * BANDS.index(band), -72 + 8 * BANDS.index(band)]
    if band == "C":
        limits[0] = -84  # Sentinel-2 goes on counting south of MGRS's end: tile 01CDH lies at 83 S
    if band == "X":
        limits[1] = 84
    south, north = _northing(limits[0]), _northing(limits[1])
    # Away from the central meridian a parallel bends towards the pole: 16.3 km at the west edge of 32V.
    if band >= "N":
        north += 17_000
    else:
        south -= 17_000
    for cycle in range(-5, 5):  # row letters come again every 2,000 km
        edge = cycle * 2_000_000 + letter * 100_000
        if edge < north and edge + 100_000 > south:
            return edge
    return None


@dataclass(frozen=True, slots=True)
class Geobox:
    """A raster's place: ``shape`` (rows, columns), ``transform`` (pixel corner to metres), ``epsg`` of its CRS."""

    shape: tuple[int, int]
    transform: Affine
    epsg: int


@dataclass(frozen=True, slots=True)
class TileGrid:
    """The patch grid of one tile: ``tile`` (``33UUP``), ``epsg`` of its UTM zone, upper-left corner in metres."""

    tile: str
    epsg: int
    ulx: int
    uly: int

    @classmethod
    def from_tile(cls, tile: str) -> Self:
        """From the tile's MGRS name alone.

        The corner is the 100 km square's west edge rounded down, and its north edge rounded up, to a multiple of
        60 m. Raises InvalidName where the zone has no such column or the latitude band no such row.
        """
        tile = parse_tile(tile)
        zone, band, column, row = int(tile[:2]), tile[2], tile[3], tile[4]
        columns = COLUMNS[zone % 3]
        if column not in columns:
            raise InvalidName(f"tile {tile!r} does not exist: zone {zone} has columns {columns}")
        west = (columns.index(column) + 1) * 100_000
        south = _square_south(zone, band, row)
        if south is None:
            raise InvalidName(f"tile {tile!r} does not exist: latitude band {band} has no row {row} in zone {zone}")
        north = south + 100_000
        northern = band >= "N"
        # South of the equator the multiples of 60 m count from the equator (negative), not from the false
        # northing of 10,000 km, which is no multiple of 60 (35MNM: 9,200,020; 20EPT: 3,300,040).
        uly = math.ceil(north / 60) * 60 + (0 if northern else 10_000_000)
        epsg = (32600 if northern else 32700) + zone
        return cls(tile, epsg, west // 60 * 60, uly)

    def geobox(self, x: int, y: int, resolution: int) -> Geobox:
        """The geobox of one patch at ``resolution`` metres (10, 20 or 60)."""
        pixels = PATCH_METRES // resolution
        left, top = self.corner(x, y)
        return Geobox((pixels, pixels), Affine(resolution, 0, left, 0, -resolution, top), self.epsg)

    def tile_geobox(self, resolution: int) -> Geobox:
        """The geobox of the whole tile at ``resolution`` metres: 10980, 5490 or 1830 pixels square."""
        pixels = TILE_METRES // resolution
        return Geobox((pixels, pixels), Affine(resolution, 0, self.ulx, 0, -resolution, self.uly), self.epsg)

    def corner(self, x: int, y: int) -> tuple[int, int]:
        """Upper-left corner (easting, northing) in metres of a patch."""
        return self.ulx + PATCH_METRES * x, self.uly - PATCH_METRES * y

    def bounds(self, x: int, y: int) -> tuple[int, int, int, int]:
        """(west, south, east, north) in metres of a patch."""
        left, top = self.corner(x, y)
        return left, top - PATCH_METRES, left + PATCH_METRES, top

    def footprints(self, xs: NDArray[np.integer], ys: NDArray[np.integer]) -> NDArray[np.float64]:
        """Corner rings of ``n`` patches in longitude and latitude (WGS 84).

        Shape (n, 5, 2), float64 degrees, counter-clockwise from the lower left and closed: GeoJSON's order.
        """
        return self._degrees(xs, ys, np.array([0, 1, 1, 0, 0]), np.array([1, 1, 0, 0, 1]))

    def centres(self, xs: NDArray[np.integer], ys: NDArray[np.integer]) -> NDArray[np.float64]:
        """Centres of ``n`` patches: longitude and latitude (WGS 84), shape (n, 2), float64 degrees."""
        return self._degrees(xs, ys, np.array([0.5]), np.array([0.5]))[:, 0]

    def _degrees(
        self, xs: NDArray[np.integer], ys: NDArray[np.integer], right: NDArray[Any], down: NDArray[Any]
    ) -> NDArray[np.float64]:
        """Longitude and latitude of points that lie ``right`` of and ``down`` from patches' corners, in patches."""
        from pyproj import Transformer

        east = self.ulx + PATCH_METRES * (np.asarray(xs, np.float64)[:, None] + right)
        north = self.uly - PATCH_METRES * (np.asarray(ys, np.float64)[:, None] + down)
        transformer = Transformer.from_crs(self.epsg, 4326, always_xy=True)
        longitude, latitude = transformer.transform(east, north)
        return np.stack([longitude, latitude], axis=-1)


def strips(first: int = 0, last: int = TILE_PATCHES, rows: int = STRIP_ROWS) -> Iterator[range]:
    """Ranges of patch rows, ``rows`` at a time, from ``first`` up to but not including ``last``."""
    for start in range(first, last, rows):
        yield range(start, min(start + rows, last))
