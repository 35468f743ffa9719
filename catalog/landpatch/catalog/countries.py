"""The country of patches: the nearest one, by planar distance in the patch's UTM zone.

BigEarthNet v2.0's rule. With its ten countries in Natural Earth 1:110 m it gives the published column, all 549,488
rows; distances are those of the patch's square, vertices alone are projected, and of several countries that a patch
touches the largest is taken.
"""

from collections.abc import Collection
from dataclasses import dataclass
from importlib.resources import as_file, files
from os import PathLike, fspath
from typing import Any, Self

import numpy as np
import orjson
import shapely
from numpy.typing import NDArray
from pyproj import Transformer

from landpatch.catalog.areas import read_polygons
from landpatch.catalog.errors import InvalidParameter
from landpatch.catalog.squares import Ints, Squares

NATURAL_EARTH = "natural-earth"
"""Instead of a file: the countries of Natural Earth 1:110 m, which come with landpatch."""

# Natural Earth 1:110m Cultural Vectors, Admin 0 Countries (public domain): NAME and shapes, unchanged, as pyogrio
# carries them among its tests.
_DATA = "data/natural_earth_110m_countries.fgb"
# Beyond this many degrees from its meridian a zone's projection says little; no land lies so far from any other.
_REACH = 40.0


@dataclass(frozen=True, slots=True)
class Countries:
    """``names`` of countries and their ``shapes``, in degrees of WGS 84, the largest first."""

    names: tuple[str, ...]
    shapes: tuple[shapely.MultiPolygon, ...]

    @classmethod
    def read(
        cls,
        path: str | PathLike[str] = NATURAL_EARTH,
        *,
        column: str = "name",
        layer: str | None = None,
        only: Collection[str] = (),
    ) -> Self:
        """From a polygon file that GDAL reads; ``column`` has the names, ``only`` takes some of them.

        Raises InvalidParameter: not readable, no such column, one of ``only`` is not there.
        """
        if fspath(path) == NATURAL_EARTH:
            with as_file(files("landpatch.catalog") / _DATA) as file:
                shapes, names = read_polygons(file, "name")
        else:
            shapes, names = read_polygons(path, column, layer=layer)
        missing = sorted(set(only) - set(names))
        if missing:
            raise InvalidParameter(f"{fspath(path)} has no country {', '.join(missing)} in its column {column!r}")
        return cls._of(zip(names, shapes, strict=True), only)

    @classmethod
    def from_geojson(cls, data: bytes) -> Self:
        """From what ``to_geojson`` gave."""
        features = orjson.loads(data)["features"]
        shapes = shapely.from_geojson([orjson.dumps(feature["geometry"]) for feature in features])
        return cls._of(zip((feature["properties"]["name"] for feature in features), shapes, strict=True), ())

    @classmethod
    def _of(cls, pairs: Any, only: Collection[str]) -> Self:
        parts: dict[str, list[shapely.Polygon]] = {}
        for name, shape in pairs:
            if name and (not only or name in only):
                found = parts.setdefault(str(name), [])
                # Parts of parts: a shape that was mended may be a collection with a multipolygon in it.
                pieces = shapely.get_parts(shapely.get_parts(shape))
                found += [piece for piece in pieces if piece.geom_type == "Polygon"]
        joined = {name: shapely.multipolygons(polygons) for name, polygons in parts.items() if polygons}
        if not joined:
            raise InvalidParameter("the boundaries hold no polygon with a name")
        order = sorted(joined, key=lambda name: (-_size(joined[name]), name))
        return cls(tuple(order), tuple(joined[name] for name in order))

    def to_geojson(self) -> bytes:
        """As a FeatureCollection, the same bytes for the same countries."""
        features = [
            {
                "type": "Feature",
                "properties": {"name": name},
                "geometry": orjson.loads(shapely.to_geojson(shape)),
            }
            for name, shape in zip(self.names, self.shapes, strict=True)
        ]
        return orjson.dumps({"type": "FeatureCollection", "features": features}, option=orjson.OPT_APPEND_NEWLINE)

    def nearest(self, squares: Squares) -> list[str | None]:
        """The country of each square; None where none lies within 40 degrees of longitude."""
        found: NDArray[Any] = np.full(len(squares), None, object)
        zones = squares.zone
        for zone in np.unique(zones):
            rows = np.flatnonzero(zones == zone)
            found[rows] = self._in_zone(squares, rows, int(zone))
        return list(found)

    def _in_zone(self, squares: Squares, rows: Ints, zone: int) -> NDArray[Any]:
        shapes, names = [], []
        for name, shape in zip(self.names, self.shapes, strict=True):
            near = _projected(shape, zone)
            if not near.is_empty:
                shapes.append(near)
                names.append(name)
        first = np.full(len(rows), len(names))  # in the order of the names, of those that touch the square
        if names:
            boxes = squares.boxes(rows)
            which, touched = shapely.STRtree(boxes).query(shapes, predicate="intersects")
            np.minimum.at(first, touched, which)
            rest = np.flatnonzero(first == len(names))
            if len(rest):
                one, other = shapely.STRtree(shapes).query_nearest(boxes[rest])
                np.minimum.at(first, rest[one], other)
        return np.asarray(np.array([*names, None], object)[first])


def _projected(shape: shapely.MultiPolygon, zone: int) -> shapely.Geometry:
    """What of a country lies within reach of a zone, in its metres; across 180 degrees too."""
    west, south, east, north = 6 * zone - 183 - _REACH, -85.0, 6 * zone - 183 + _REACH, 85.0
    pieces = []
    for turn in (-360, 0, 360):
        left, bottom, right, top = shape.bounds
        if left + turn >= east or right + turn <= west:
            continue
        piece = shapely.transform(shape, lambda x, y, turn=turn: (x + turn, y), interleaved=False)
        if left + turn < west or right + turn > east or bottom < south or top > north:
            piece = shapely.intersection(shapely.make_valid(piece), shapely.box(west, south, east, north))
        pieces.append(piece)
    near = shapely.union_all(pieces) if len(pieces) != 1 else pieces[0]
    to_metres = Transformer.from_crs(4326, 32600 + zone, always_xy=True)
    return shapely.transform(near, to_metres.transform, interleaved=False)


def _size(shape: shapely.MultiPolygon) -> float:
    """Area on a cylinder of equal area; its unit does not matter."""
    return float(shapely.area(shapely.transform(shape, lambda x, y: (x, np.sin(np.radians(y))), interleaved=False)))
