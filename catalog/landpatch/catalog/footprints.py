"""Where a scene has data, in metres of a tile's UTM zone, so that areas can be compared.

Footprints come as GeoJSON in degrees, drawn in three ways where they cross 180 degrees: cut in two there, with a jump
from 179 to -179, or with longitudes beyond 180. All three end up as one piece beside the tile.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from shapely.errors import ShapelyError

from landpatch.catalog.errors import InvalidItem
from landpatch.catalog.grid import TILE_METRES, TileGrid

# A straight edge of GeoJSON is straight in degrees (RFC 7946, 3.1.1): a node every 0.05 degrees keeps it so in
# metres, to a metre over the 250 km of a Sentinel-1 scene.
_NODE_DEGREES = 0.05
# What lies further from the tile's middle in longitude is none of its business, and UTM ends somewhere. A tile at
# 84 N is 9.4 degrees wide.
_REACH_DEGREES = 40.0


def tile_square(tile: str) -> shapely.Polygon:
    """The square of a tile, metres of its UTM zone. Raises InvalidName."""
    grid = _grid(tile)
    return shapely.box(grid.ulx, grid.uly - TILE_METRES, grid.ulx + TILE_METRES, grid.uly)


def footprint(item: Mapping[str, Any], tile: str) -> shapely.Geometry:
    """The footprint of ``item``, metres of the tile's UTM zone; empty where it lies far from the tile.

    Raises InvalidItem where the item has none or it is no area, InvalidName where there is no such tile.
    """
    try:
        with np.errstate(invalid="ignore"):  # NaN is looked for below
            shape = shapely.geometry.shape(item.get("geometry"))
        parts = [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon" and not part.is_empty]
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, ShapelyError) as error:
        raise InvalidItem(f"item {item.get('id')}: its geometry is no GeoJSON ({error})") from error
    if not parts or not np.isfinite(shapely.get_coordinates(parts)).all():
        raise InvalidItem(f"item {item.get('id')}: its geometry is no area, so it is unknown where its data lie")
    to_utm, middle = _zone(tile)
    near = [_beside(part, middle) for part in parts]
    joined = shapely.union_all([shapely.make_valid(part) for part in near])
    south, north = shapely.bounds(joined)[[1, 3]]
    reached = shapely.intersection(
        joined, shapely.box(middle - _REACH_DEGREES, south - 1, middle + _REACH_DEGREES, north + 1)
    )
    if reached.is_empty:
        return reached
    fine = shapely.segmentize(reached, _NODE_DEGREES)
    return shapely.make_valid(shapely.transform(fine, lambda points: np.stack(to_utm.transform(*points.T), axis=-1)))


def covered_share(shape: shapely.Geometry, target: shapely.Geometry) -> float:
    """The share 0..1 of the area of ``target`` that ``shape`` covers."""
    return min(1.0, float(shapely.intersection(shape, target).area / target.area))


@lru_cache(maxsize=256)
def _grid(tile: str) -> TileGrid:
    return TileGrid.from_tile(tile)


@lru_cache(maxsize=256)
def _zone(tile: str) -> tuple[Transformer, float]:
    """From degrees to the tile's zone, and the longitude of the tile's middle."""
    grid = _grid(tile)
    to_utm = Transformer.from_crs(4326, grid.epsg, always_xy=True)
    half = TILE_METRES / 2
    middle, _ = to_utm.transform(grid.ulx + half, grid.uly - half, direction="INVERSE")
    return to_utm, float(middle)


def _beside(part: shapely.Polygon, middle: float) -> shapely.Polygon:
    """The polygon without jumps, moved by whole turns to where it is nearest to the longitude ``middle``."""
    rings = [_without_jumps(shapely.get_coordinates(ring)) for ring in (part.exterior, *part.interiors)]
    centre = (rings[0][:, 0].min() + rings[0][:, 0].max()) / 2
    moved = []
    for ring in rings:
        own = (ring[:, 0].min() + ring[:, 0].max()) / 2
        # Holes follow the outer ring first; then all go the same way.
        turn = 360 * round((centre - own) / 360) + 360 * round((middle - centre) / 360)
        moved.append(ring + np.array([turn, 0.0]))
    return shapely.Polygon(moved[0], moved[1:])


def _without_jumps(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    steps = np.diff(ring[:, 0])
    turns = np.concatenate([[0.0], np.cumsum(-360.0 * np.round(steps / 360.0))])
    return np.stack([ring[:, 0] + turns, ring[:, 1]], axis=-1)
