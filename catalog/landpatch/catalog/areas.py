"""Where to look: an area on the ground, and the Sentinel-2 tiles that it touches.

Sentinel-2's tiles are MGRS's 100 km squares, each grown to 109.8 km to the south and east, so that neighbours
overlap. A square belongs to the latitude band of its centre (51QUG reaches over 24 N, where R begins; there is no
51RUG) and to a zone that it has ground in. Checked with the 115 tiles of BigEarthNet and those of the public items
in the tests. ESA leaves out squares of open ocean, which no rule tells: such a tile simply has no scenes.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike, fspath
from typing import Any, Self

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError

from landpatch.catalog.errors import InvalidParameter
from landpatch.catalog.grid import BANDS, COLUMNS, ROWS, TILE_METRES, TileGrid
from landpatch.catalog.names import parse_tile

_SQUARE = 100_000
_LIMIT = 84.0  # degrees: band X ends at 84 N, and Sentinel-2 goes on to 84 S
# How far from its central meridian a zone's tiles can reach: half of the widest zone (6 degrees, 33X) and one tile,
# which at 84 degrees is 9.4 degrees wide.
_REACH = 18.0
# Edges of an area are straight in longitude and latitude. In pieces of this length they are within 2 m of straight
# in UTM too.
_PIECE_DEGREES = 0.05
_PIECES_ALONG = 200  # of the longer side of an area in a projected CRS, before it becomes longitude and latitude


@dataclass(frozen=True, slots=True)
class Area:
    """Where scenes are looked for.

    ``tiles`` are MGRS tiles (``33UUP``), sorted, never empty. ``geometry`` is what was asked for as a GeoJSON
    geometry in WGS 84, cut at the antimeridian (RFC 7946, 3.1.9); None when tiles were asked for by name.
    """

    tiles: tuple[str, ...]
    geometry: Mapping[str, Any] | None = None

    @classmethod
    def from_tiles(cls, tiles: Iterable[str]) -> Self:
        """From tile names (``33UUP``, ``T33UUP``, ``MGRS-33UUP``). Raises InvalidName, InvalidParameter for none."""
        names = sorted({TileGrid.from_tile(tile).tile for tile in tiles})
        if not names:
            raise InvalidParameter("no tile is named: give at least one, such as 33UUP")
        return cls(tuple(names))

    @classmethod
    def from_bbox(cls, bbox: Sequence[float]) -> Self:
        """From (west, south, east, north) in degrees; west > east: across the antimeridian.

        Raises InvalidParameter for anything that is no box, and for one that no tile touches.
        """
        numbers = [float(number) for number in bbox]
        if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
            raise InvalidParameter(f"bbox {bbox}: expected four numbers in degrees: west, south, east, north")
        west, south, east, north = numbers
        if south > north or min(south, north) < -90 or max(south, north) > 90:
            raise InvalidParameter(f"bbox {bbox}: south must not lie north of north, and both within -90..90")
        if min(west, east) < -180 or max(west, east) > 180:
            raise InvalidParameter(
                f"bbox {bbox}: longitudes must lie within -180..180; across the antimeridian west is greater than "
                "east (178,-20,-178,-10)"
            )
        return cls._of(_box(west, south, east + 360 if west > east else east, north), f"bbox {bbox}")

    @classmethod
    def from_file(cls, path: str | PathLike[str], *, layer: str | None = None) -> Self:
        """From a file that GDAL reads (GeoJSON, GeoPackage, Shapefile...), in any CRS: all of its features together.

        ``layer`` chooses one where the file has several. Raises InvalidParameter: not readable, several layers, no
        CRS, no geometry, no tile.
        """
        name = fspath(path)
        geometries, crs, _ = _read_layer(name, layer)
        pieces = [_to_degrees(geometry, crs, name) for geometry in geometries]
        return cls._of(shapely.union_all(pieces), name)

    @classmethod
    def _of(cls, geometry: shapely.Geometry, what: str) -> Self:
        geometry = _cut_at_antimeridian(geometry)
        if geometry.is_empty:
            raise InvalidParameter(f"{what} is empty: no ground to look at")
        tiles = tiles_of(geometry)
        if not tiles:
            raise InvalidParameter(f"{what}: no Sentinel-2 tile lies there; tiles reach from 84 S to 84 N")
        return cls(tiles, shapely.geometry.mapping(geometry))

    def search_geometry(self) -> dict[str, Any]:
        """A GeoJSON geometry that everything wanted touches: the area itself, or the outlines of its tiles."""
        if self.geometry is not None:
            return dict(self.geometry)
        outlines = shapely.union_all([tile_outline(tile) for tile in self.tiles])
        return dict(shapely.geometry.mapping(outlines))


def tiles_of(geometry: shapely.Geometry) -> tuple[str, ...]:
    """The tiles whose 109.8 km footprints a geometry in WGS 84 degrees (-180..180) touches, sorted."""
    return tuple(sorted({tile for zone in range(1, 61) for tile in _tiles_in_zone(geometry, zone)}))


def tile_outline(tile: str) -> shapely.Geometry:
    """The footprint of a tile in WGS 84 degrees, cut at the antimeridian; edges bend, hence 20 pieces a side.

    Raises InvalidName.
    """
    grid = TileGrid.from_tile(parse_tile(tile))
    square = shapely.box(grid.ulx, grid.uly - TILE_METRES, grid.ulx + TILE_METRES, grid.uly)
    bent = shapely.segmentize(square, TILE_METRES / 20)
    return _cut_at_antimeridian(_unwrapped(_transformed(bent, CRS.from_epsg(grid.epsg))))


def _tiles_in_zone(geometry: shapely.Geometry, zone: int) -> list[str]:
    middle = 6 * zone - 183
    window = shapely.box(middle - _REACH, -_LIMIT, middle + _REACH, _LIMIT)
    west, _, east, _ = geometry.bounds
    turns = [turn for turn in (-360, 0, 360) if abs((west + east) / 2 + turn - middle) <= _REACH + (east - west) / 2]
    parts = [shapely.intersection(_shifted(geometry, turn), window) for turn in turns]
    near = shapely.union_all([part for part in parts if not part.is_empty])
    if near.is_empty:
        return []
    to_metres = Transformer.from_crs(4326, 32600 + zone, always_xy=True)  # south of the equator: negative northings
    metres = shapely.transform(shapely.segmentize(near, _PIECE_DEGREES), to_metres.transform, interleaved=False)
    if metres.geom_type.endswith(("Polygon", "Collection")) and not metres.is_valid:
        metres = shapely.make_valid(metres)
    names, squares = _zone_tiles(zone)
    shapely.prepare(metres)
    return [str(name) for name in names[shapely.intersects(metres, squares)]]


@lru_cache(maxsize=60)
def _zone_tiles(zone: int) -> tuple[NDArray[np.str_], NDArray[Any]]:
    """All tiles of a zone: names, and footprints in metres from its central meridian's UTM origin at the equator."""
    columns, rows = (axis.ravel() for axis in np.meshgrid(np.arange(1, 9), np.arange(-95, 95)))
    to_degrees = Transformer.from_crs(32600 + zone, 4326, always_xy=True)
    _, latitude = to_degrees.transform((columns + 0.5) * _SQUARE, (rows + 0.5) * _SQUARE)
    across = np.array([0, 1, 0, 1])
    down = np.array([0, 0, 1, 1])
    corner = to_degrees.transform((columns[:, None] + across) * _SQUARE, (rows[:, None] + down) * _SQUARE)[0]
    # As seen from the central meridian: longitudes of zones 1 and 60 do not jump.
    middle = 6 * zone - 183
    corner = (corner - middle + 180) % 360 - 180
    names, kept = [], []
    for i in np.flatnonzero(np.abs(latitude) < _LIMIT):
        band = BANDS[min(max(int(latitude[i] + 80) // 8, 0), 19)]
        limits = _zone_limits(zone, band)
        if limits is None or corner[i].max() <= limits[0] - middle or corner[i].min() >= limits[1] - middle:
            continue
        letter = ROWS[(int(rows[i]) + (5 if zone % 2 == 0 else 0)) % 20]  # even zones start their rows at F
        names.append(f"{zone:02d}{band}{COLUMNS[zone % 3][int(columns[i]) - 1]}{letter}")
        kept.append(i)
    # The corner is rounded outwards to a multiple of 60 m: TileGrid.
    left = columns[kept] * _SQUARE // 60 * 60
    top = -(-(rows[kept] + 1) * _SQUARE // 60) * 60
    return np.array(names), shapely.box(left, top - TILE_METRES, left + TILE_METRES, top)


def _zone_limits(zone: int, band: str) -> tuple[float, float] | None:
    """West and east limit of a zone in degrees; None where it has no ground.

    Six degrees, but for Norway (32V reaches to 3 E) and Svalbard (31X, 33X, 35X and 37X share it): NGA.STND.0037.
    """
    west, east = 6 * zone - 186, 6 * zone - 180
    if band == "V" and zone in (31, 32):
        return (0, 3) if zone == 31 else (3, 12)
    if band == "X" and 31 <= zone <= 37:
        return {31: (0, 9), 33: (9, 21), 35: (21, 33), 37: (33, 42)}.get(zone)
    return west, east


def _box(west: float, south: float, east: float, north: float) -> shapely.Geometry:
    """The box; a line or a point where it has no width or height to a tenth of a millimetre."""
    west, south, east, north = (round(degrees, 9) for degrees in (west, south, east, north))
    if west == east or south == north:
        ends = [(west, south), (east, north)]
        return shapely.Point(ends[0]) if ends[0] == ends[1] else shapely.LineString(ends)
    return shapely.box(west, south, east, north)


def read_polygons(
    path: str | PathLike[str], column: str, *, layer: str | None = None
) -> tuple[list[shapely.Geometry], list[str]]:
    """The shapes of a file that GDAL reads, in WGS 84 degrees (cut at the antimeridian), and their words in a column.

    A shape without a word has the empty one. Raises InvalidParameter as ``Area.from_file`` does, and where there is
    no such column.
    """
    name = fspath(path)
    geometries, crs, words = _read_layer(name, layer, column)
    return [_to_degrees(geometry, crs, name) for geometry in geometries], words


def _read_layer(
    path: str, layer: str | None, column: str | None = None
) -> tuple[list[shapely.Geometry], CRS, list[str]]:
    # Half a second to import, which searches by tile or box do not need.
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
        if layer is None and len(layers) > 1:
            raise InvalidParameter(f"{path} has several layers ({', '.join(layers)}): say which one")
        meta, _, geometry, values = pyogrio.raw.read(
            path, layer=layer or next(iter(layers), None), columns=[] if column is None else [column]
        )
        if column is not None and not len(values):
            known = ", ".join(pyogrio.read_info(path, layer=layer or next(iter(layers), None))["fields"]) or "none"
            raise InvalidParameter(f"{path} has no column {column!r}; it has {known}")
        found = [(g, i) for i, g in enumerate(shapely.from_wkb(geometry)) if g is not None and not g.is_empty]
        geometries = [g for g, _ in found]
        words = [] if column is None else ["" if values[0][i] is None else str(values[0][i]) for _, i in found]
    except (DataSourceError, DataLayerError, shapely.GEOSException, OSError, ValueError) as error:
        if isinstance(error, InvalidParameter):
            raise
        raise InvalidParameter(f"{path} cannot be read as an area ({error}); give a GeoJSON or GeoPackage") from error
    if not geometries:
        raise InvalidParameter(f"{path} holds no geometry: no ground to look at")
    if meta["crs"] is None:
        raise InvalidParameter(f"{path} does not say its CRS; write it with one (GeoJSON is always WGS 84)")
    try:
        return geometries, CRS.from_user_input(meta["crs"]), words
    except CRSError as error:
        raise InvalidParameter(f"{path}: its CRS is not understood ({error})") from error


def _to_degrees(geometry: shapely.Geometry, crs: CRS, path: str) -> shapely.Geometry:
    geometry = shapely.force_2d(geometry)
    if not geometry.is_valid:
        geometry = shapely.make_valid(geometry)
    if not crs.is_geographic:
        west, south, east, north = geometry.bounds
        longest = max(east - west, north - south)
        geometry = shapely.segmentize(geometry, longest / _PIECES_ALONG) if longest else geometry
    try:
        degrees = _transformed(geometry, crs)
    except ProjError as error:
        raise InvalidParameter(f"{path}: its coordinates do not lie in its CRS {crs.name} ({error})") from error
    if not crs.is_geographic:
        degrees = _unwrapped(degrees)
    west, south, east, north = degrees.bounds
    if west < -360 or east > 360 or south < -90.000001 or north > 90.000001:
        raise InvalidParameter(
            f"{path}: longitudes {west:g}..{east:g} and latitudes {south:g}..{north:g} are no degrees of WGS 84; is "
            "its CRS right?"
        )
    return _cut_at_antimeridian(degrees)


def _transformed(geometry: shapely.Geometry, crs: CRS) -> shapely.Geometry:
    """From a CRS to WGS 84. Raises ProjError where a point has no place there."""
    transformer = Transformer.from_crs(crs, 4326, always_xy=True)
    return shapely.transform(
        geometry, lambda x, y: transformer.transform(x, y, errcheck=True), include_z=False, interleaved=False
    )


def _unwrapped(geometry: shapely.Geometry) -> shapely.Geometry:
    """A projected shape's parts that cross the antimeridian, in longitudes that go on beyond 180.

    Nothing that one projected polygon covers is wider than half the Earth and yet leaves out its middle.
    """
    if hasattr(geometry, "geoms"):
        return shapely.union_all([_unwrapped(part) for part in geometry.geoms])
    west, _, east, _ = geometry.bounds
    if east - west <= 180:
        return geometry
    return shapely.transform(geometry, lambda x, y: (np.where(x < 0, x + 360, x), y), interleaved=False)


def _cut_at_antimeridian(geometry: shapely.Geometry) -> shapely.Geometry:
    """The same ground in longitudes -180..180, cut where it crosses."""
    west, _, east, _ = geometry.bounds if not geometry.is_empty else (0, 0, 0, 0)
    if west >= -180 and east <= 180:
        return geometry
    world = shapely.box(-180, -90, 180, 90)
    parts = [shapely.intersection(_shifted(geometry, turn), world) for turn in (-360, 0, 360)]
    return shapely.union_all(list(_of_highest_dimension(parts)))


def _of_highest_dimension(parts: Sequence[shapely.Geometry]) -> Iterator[shapely.Geometry]:
    """Without the lines that are left where a polygon only touches the cut."""
    dimensions = [int(shapely.get_dimensions(part)) for part in parts if not part.is_empty]
    yield from (part for part in parts if not part.is_empty and shapely.get_dimensions(part) == max(dimensions))


def _shifted(geometry: shapely.Geometry, degrees: float) -> shapely.Geometry:
    if not degrees:
        return geometry
    return shapely.transform(geometry, lambda x, y: (x + degrees, y), interleaved=False)


def touches(geometry: Any, shape: shapely.Geometry) -> bool:
    """Whether a footprint, GeoJSON in WGS 84, meets ``shape`` (degrees, cut at the antimeridian).

    True for a footprint that is missing or no GeoJSON: it cannot be excluded. A ring that jumps from 179 to -179 is
    taken as one that crosses there, as no scene is half the Earth wide.
    """
    try:
        footprint = shapely.geometry.shape(geometry)
        if footprint.is_empty or not np.isfinite(footprint.bounds).all():
            return True
        if not footprint.is_valid:
            footprint = shapely.make_valid(footprint)
        return bool(shapely.intersects(shape, _cut_at_antimeridian(_unwrapped(footprint))))
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, shapely.GEOSException):
        return True
