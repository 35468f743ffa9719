"""Small STAC items of Sentinel-1 and -2 for tests that need no pixels: only what the rules look at."""

import json
from datetime import datetime, timedelta
from typing import Any

import shapely
from pyproj import Transformer

from landpatch.catalog.grid import TILE_METRES, TileGrid
from small_scenes import KEYS

SENSED = datetime.fromisoformat("2017-06-13T10:10:31Z")


def optical_item(
    identifier: str = "S2A_33UUP_20170613_0_L2A",
    *,
    tile: str = "33UUP",
    sensed: datetime = SENSED,
    baseline: str = "02.05",
    generated: str = "20170614T000000",
    platform: str = "S2A",
    orbit: int = 22,
    geometry: Any = None,
    **properties: Any,
) -> dict[str, Any]:
    """An item in the manner of Earth Search; keys of ``properties`` with __ for : (eo__cloud_cover)."""
    start = f"{sensed:%Y%m%dT%H%M%S}"
    product = f"{platform}_MSIL2A_{start}_N{baseline.replace('.', '')}_R{orbit:03d}_T{tile}_{generated}.SAFE"
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": identifier,
        "collection": "sentinel-2-l2a",
        "geometry": geometry,
        "properties": {
            "datetime": sensed.isoformat().replace("+00:00", "Z"),
            "s2:product_uri": product,
            "s2:processing_baseline": baseline,
            **{key.replace("__", ":"): value for key, value in properties.items() if value is not None},
        },
        "assets": {
            key: {"href": f"https://data/{identifier}/{name}.tif", "eo:bands": [{"name": name}]}
            for name, key in KEYS.items()
        },
        "links": [],
    }


def radar_item(
    hours: float,
    geometry: Any,
    *,
    sensed: datetime = SENSED,
    platform: str = "S1A",
    collection: str = "sentinel-1-rtc",
    suffix: str = "rtc",
    state: str = "descending",
    orbit: int = 95,
    **properties: Any,
) -> dict[str, Any]:
    """An item in the manner of Planetary Computer, ``hours`` after ``sensed``."""
    when = sensed + timedelta(hours=hours)
    identifier = f"{platform}_IW_GRDH_1SDV_{when:%Y%m%dT%H%M%S}_{suffix}"
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": identifier,
        "collection": collection,
        "geometry": geometry,
        "properties": {
            "datetime": when.isoformat().replace("+00:00", "Z"),
            "platform": f"SENTINEL-{platform[1:]}",
            "sar:instrument_mode": "IW",
            "sar:polarizations": ["VV", "VH"],
            "sat:orbit_state": state,
            "sat:relative_orbit": orbit,
            **{key.replace("__", ":"): value for key, value in properties.items()},
        },
        "assets": {key: {"href": f"https://data/{identifier}/{key}.tif"} for key in ("vv", "vh")},
        "links": [],
    }


def part_of_tile(tile: str, west: float, south: float, east: float, north: float) -> dict[str, Any]:
    """A rectangle in fractions of the tile's side from its lower left corner, as GeoJSON; longitudes -180..180."""
    grid = TileGrid.from_tile(tile)
    left, bottom = grid.ulx, grid.uly - TILE_METRES
    box = shapely.box(
        left + west * TILE_METRES,
        bottom + south * TILE_METRES,
        left + east * TILE_METRES,
        bottom + north * TILE_METRES,
    )
    to_degrees = Transformer.from_crs(grid.epsg, 4326, always_xy=True)
    bent = shapely.transform(shapely.segmentize(box, TILE_METRES / 50), to_degrees.transform, interleaved=False)
    geometry: dict[str, Any] = json.loads(shapely.to_geojson(bent))
    return geometry
