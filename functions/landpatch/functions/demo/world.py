"""The demo world as files: Sentinel-2 and Sentinel-1 scenes with their STAC items, and a land-cover map in polygons.

Two invented pieces of land lie where two real tiles are; a static STAC catalogue lists what was taken of them. What
people meet in practice is there on purpose: dates of which one is cloudy and one cut off by its swath, an offset of
+1000 in the pixels of some scenes and none in others, clouds and their shadows, snow, radar on a grid of its own of
which no single pass covers everything, a hole in the land-cover map and covers without a class.
"""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import numpy as np
import orjson
import rasterio
import rasterio.features
from affine import Affine
from numpy.typing import NDArray

from landpatch.catalog.bands import optical_bands
from landpatch.catalog.errors import UnreadableAsset
from landpatch.catalog.grid import PATCH_METRES, TileGrid
from landpatch.catalog.names import SceneId
from landpatch.functions.demo.ground import (
    Ground,
    Light,
    backscatter,
    classify,
    expose,
    palette,
    reflectance,
    sky,
)
from landpatch.functions.demo.landscape import STEP, Landscape, Relief, Road, Site, cells_of, plan_landscape

TILES = ("33TUN", "33UUP")
"""Where the invented land lies."""
LABEL_LAYER = "U2018_CLC2018_V2020_20u1"
"""Layer of the official GeoPackage of CORINE Land Cover 2018, version 2020_u1."""
RADAR_NODATA = -32768.0
"""As in Planetary Computer's sentinel-1-rtc."""

_STRIP = 600  # rows of 10 m worked on at a time: whole 60 m pixels, and about 200 MB for a full tile
_MARGIN = 6  # pixels around a strip, for the blur
_COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
# What a thick cloud reflects (x 10000), and what share of the light its shadow takes, for each of the 12 bands.
_CLOUD = (6000, 6100, 6000, 6100, 6200, 6300, 6350, 6400, 6400, 3600, 4600, 3400)
_SHADOW = (0.25, 0.30, 0.38, 0.46, 0.50, 0.55, 0.57, 0.58, 0.59, 0.60, 0.64, 0.66)
_LIST = "world.json"
_FAR = -1e7  # a place that no tile reaches

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class World:
    """Where the generated files are.

    ``catalog`` lists every scene. ``scenes`` is what a person would take from it: of each tile the best Sentinel-2
    item, and the Sentinel-1 items that go with it, nearest in time first.
    """

    folder: Path
    catalog: Path
    scenes: list[tuple[Path, list[Path]]]
    labels: Path

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The world that ``make_world`` finished in ``folder``. Raises UnreadableAsset if there is none."""
        try:
            listed = orjson.loads((folder / _LIST).read_bytes())
            scenes = [
                (folder / optical, [folder / radar for radar in radars]) for optical, radars in listed["scenes"]
            ]
            return cls(folder, folder / listed["catalog"], scenes, folder / listed["labels"])
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise UnreadableAsset(
                f"{folder} holds no finished demo world ({error}); delete the folder and run the demo again"
            ) from error

    def save(self) -> None:
        """Write the list of files that ``load`` reads, last of all files."""
        listed = {
            "catalog": str(self.catalog.relative_to(self.folder)),
            "scenes": [
                [str(optical.relative_to(self.folder)), [str(radar.relative_to(self.folder)) for radar in radars]]
                for optical, radars in self.scenes
            ],
            "labels": str(self.labels.relative_to(self.folder)),
        }
        (self.folder / _LIST).write_bytes(orjson.dumps(listed, option=orjson.OPT_INDENT_2))


@dataclass(frozen=True)
class Frame:
    """A scene's place: upper-left corner in metres, size in pixels of 10 m, coordinate reference system."""

    epsg: int
    west: float
    north: float
    width: int
    height: int

    @classmethod
    def of_patches(cls, tile: str, columns: range, rows: range) -> "Frame":
        """The frame of whole patches of a tile."""
        grid = TileGrid.from_tile(tile)
        west, north = grid.corner(columns.start, rows.start)
        pixels = PATCH_METRES // 10
        return cls(grid.epsg, west, north, len(columns) * pixels, len(rows) * pixels)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north) in metres."""
        return self.west, self.north - 10 * self.height, self.west + 10 * self.width, self.north

    def transform(self, resolution: int) -> Affine:
        """Pixel corners to metres."""
        return Affine(resolution, 0, self.west, 0, -resolution, self.north)

    def ring(self, edge: tuple[float, float, float], *, western: bool) -> list[list[float]]:
        """Outline of what was seen, in longitude and latitude (WGS 84), counter-clockwise and closed.

        ``edge`` is where the swath ends, on its western or its eastern side, as in the two passes.
        """
        from pyproj import Transformer
        from shapely import Polygon, box, get_coordinates, orient_polygons

        east, north, slope = edge
        bounds = self.bounds
        low, high = (east + (y - north) * slope for y in (bounds[1], bounds[3]))
        # The swath lies on the other side of its edge, as far as anything here reaches.
        far = max(bounds[2], low, high) + 1 if western else min(bounds[0], low, high) - 1
        swath = Polygon([(low, bounds[1]), (high, bounds[3]), (far, bounds[3]), (far, bounds[1])])
        seen = orient_polygons(box(*bounds).intersection(swath))
        to_degrees = Transformer.from_crs(self.epsg, 4326, always_xy=True)
        longitudes, latitudes = to_degrees.transform(*get_coordinates(seen).T.tolist())
        return [[round(a, 6), round(b, 6)] for a, b in zip(longitudes, latitudes, strict=True)]


@dataclass(frozen=True)
class OpticalPass:
    """One Sentinel-2 acquisition.

    ``offset`` is what its baseline adds to the pixels (1000 from 04.00 on). ``clouds``: easting, northing, reach of
    the clouds and of the cirrus (metres; reach 1 = none). ``swath``: a point of the swath's western edge (metres),
    and how far the edge runs east for each metre north. ``sun``: azimuth and zenith distance in degrees.
    """

    scene: SceneId
    frame: Frame
    offset: int
    sun: tuple[float, float]
    clouds: tuple[float, float, float, float, float, float] = (0, 0, 1, 0, 0, 1)
    swath: tuple[float, float, float] = (_FAR, 0, 0)

    @property
    def item_id(self) -> str:
        """As Earth Search names it: ``S2A_33UUP_20240616_0_L2A``."""
        return f"{self.scene.platform}_{self.scene.tile}_{self.scene.sensed:%Y%m%d}_0_L2A"


@dataclass(frozen=True)
class RadarPass:
    """One Sentinel-1 acquisition on a grid of its own; ``swath`` is its *eastern* edge, else as in OpticalPass."""

    platform: str
    start: datetime
    orbit: int
    datatake: str
    frame: Frame
    swath: tuple[float, float, float] = (-_FAR, 0, 0)
    ascending: bool = True

    @property
    def end(self) -> datetime:
        """25 s after the start, as long as an IW product is."""
        return self.start + timedelta(seconds=25)

    @property
    def item_id(self) -> str:
        """As Planetary Computer names it: ``S1A_IW_GRDH_1SDV_<start>_<stop>_<orbit>_<datatake>_rtc``."""
        times = f"{self.start:%Y%m%dT%H%M%S}_{self.end:%Y%m%dT%H%M%S}"
        return f"{self.platform}_IW_GRDH_1SDV_{times}_{self.orbit:06d}_{self.datatake}_rtc"


@dataclass(frozen=True)
class Part:
    """One piece of the world: its land, what was taken of it, and where its map has a hole.

    The first of ``opticals`` is the one to choose; ``radars`` are those to pair with it, nearest in time first.
    """

    land: Landscape
    opticals: tuple[OpticalPass, ...]
    radars: tuple[RadarPass, ...]
    hole: Site | None = None


def make_world(folder: Path, *, seed: int = 7, progress: Progress | None = None) -> World:
    """Write the demo world into ``folder``: about 450 patches of two tiles, 12 bands, SCL, VV, VH, polygons, all
    listed in a catalogue.

    The same ``seed`` gives the same bytes. ``progress`` is called with (steps done, steps in all).
    """
    parts = [_plains(seed), _mountains(seed)]
    steps, done = sum(len(part.opticals) + len(part.radars) for part in parts) + 1, 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, steps)

    scenes = []
    items = []
    for part in parts:
        opticals, radars = [], []
        for optical in part.opticals:
            opticals.append(write_optical(part.land, optical, folder / "scenes"))
            step()
        for radar in part.radars:
            radars.append(write_radar(part.land, radar, folder / "scenes"))
            step()
        scenes.append((opticals[0], radars))
        items += opticals + radars
    labels = folder / "clc2018_demo.gpkg"
    write_labels([(part.land, part.hole) for part in parts], labels)
    step()
    world = World(folder, write_catalog(items, folder), scenes, labels)
    world.save()
    return world


def _plains(seed: int) -> Part:
    """Fields, forests, a river and a town at the foot of a mountain; patches of all three splits."""
    frame = Frame.of_patches("33UUP", range(8, 28), range(8, 28))
    west, north = frame.west, frame.north
    relief = Relief(
        base=430,
        hills=50,
        summit=(west + 300, north - 24_600),
        height=2900,
        reach=9_200,
        tree_line=1500,
        snow_line=1880,
        river=(west + 12_000, north - 10_500),
        course=0.25,
    )
    town = (west + 15_500, north - 14_500, 1450.0)
    airport = (west + 18_300, north - 16_900)
    sites = (
        Site(124, *airport, 620, 2.6, 0.5, rough=0.25),
        Site(411, west + 6_300, north - 8_400, 520),
        Site(512, west + 5_300, north - 7_900, 760, 1.8, 0.9, rough=0.6),
        Site(324, west + 21_000, north - 19_700, 900),
        Site(412, west + 21_200, north - 19_900, 720, 1.3, 0.4),
    )
    land = plan_landscape(frame.bounds, frame.epsg, relief, sites=sites, towns=(town,), seed=seed)
    runway = 950 * np.array([math.cos(0.5), math.sin(0.5)])
    land.roads.append(Road(np.array([airport - runway, airport + runway]), 3))
    good = OpticalPass(
        SceneId.parse("S2A_MSIL2A_20240616T101031_N0510_R022_T33UUP"),
        frame,
        offset=1000,
        sun=(155.0, 27.0),
        clouds=(west + 16_800, north - 4_600, 6_000, west + 5_200, north - 15_500, 4_200),
        # A descending orbit heads south-south-west: the western edge runs from the upper right to the lower left.
        swath=(west, north - 10_400, 0.24),
    )
    cloudy = replace(
        good,
        scene=SceneId.parse("S2B_MSIL2A_20240621T101029_N0510_R022_T33UUP"),
        clouds=(west + 14_000, north - 8_000, 21_000, west + 4_000, north - 18_000, 12_000),
    )
    # The neighbouring orbit sees the east of this land alone, and that without a cloud.
    narrow = replace(
        good,
        scene=SceneId.parse("S2A_MSIL2A_20240613T100031_N0510_R122_T33UUP"),
        sun=(149.0, 28.0),
        clouds=(0, 0, 1, 0, 0, 1),
        swath=(west + 17_000, north - 10_400, 0.24),
    )
    near = RadarPass(
        "S1A",
        datetime(2024, 6, 17, 16, 58, 16, tzinfo=UTC),
        54366,
        "069D7C",
        _radar_frame(frame),
        # An ascending orbit heads north-north-west: the eastern edge runs from the lower right to the upper left.
        swath=(west + 24_000, north - 9_000, -0.17),
    )
    far = replace(
        near,
        start=datetime(2024, 6, 13, 5, 17, 21, tzinfo=UTC),
        orbit=54301,
        datatake="069B3F",
        # Its own eastern edge runs the other way: where the two edges cross, a patch is left to neither.
        swath=(west + 23_000, north - 10_000, 0.19),
        ascending=False,
    )
    hole = Site(0, west + 20_700, north - 11_300, 1150, 1.2, 0.3, rough=0.5)
    return Part(land, (good, cloudy, narrow), (near, far), hole)


def _mountains(seed: int) -> Part:
    """A valley with vineyards and a lake below bare peaks, in early autumn; an older product without an offset."""
    frame = Frame.of_patches("33TUN", range(10, 16), range(40, 45))
    west, north = frame.west, frame.north
    relief = Relief(
        base=610,
        hills=45,
        summit=(west + 8_600, north + 300),
        height=2500,
        reach=8_500,
        tree_line=1450,
        snow_line=2000,
        river=(west + 1_200, north - 4_000),
        course=1.0,
        river_width=90,
        vines=True,
    )
    sites = (Site(512, west + 2_300, north - 4_700, 620, 2.2, 1.0, rough=0.6),)
    town = (west + 1_000, north - 1_800, 620.0)
    land = plan_landscape(frame.bounds, frame.epsg, relief, sites=sites, towns=(town,), seed=seed + 1)
    optical = OpticalPass(
        SceneId.parse("S2B_MSIL2A_20190926T101029_N0213_R022_T33TUN"),
        frame,
        offset=0,
        sun=(164.0, 48.0),
        clouds=(west + 6_600, north - 5_600, 2_600, 0, 0, 1),
    )
    radar = RadarPass(
        "S1A",
        datetime(2019, 9, 24, 16, 57, 54, tzinfo=UTC),
        29166,
        "034FB5",
        _radar_frame(frame),
    )
    return Part(land, (optical,), (radar,))


def _radar_frame(frame: Frame) -> Frame:
    """Some hundred metres more on every side, on a grid that is shifted by a fraction of a pixel."""
    return replace(
        frame,
        west=frame.west - 430 + 3.7,
        north=frame.north + 380 - 6.2,
        width=frame.width + 81,
        height=frame.height + 77,
    )


def write_optical(land: Landscape, taken: OpticalPass, folder: Path, *, workers: int | None = None) -> Path:
    """Photograph ``land`` and write 12 bands and SCL as COGs, and the STAC item (Earth Search v1's manner).

    Everything goes to ``folder/<item id>``; returns the item's path. The frame may be a whole tile (10980 pixels):
    about 3 GB of memory.
    """
    frame, bands = taken.frame, optical_bands()
    light = Light.from_sun(land, *taken.sun)
    tables = palette()
    azimuth, tangent = math.radians(taken.sun[0]), math.tan(math.radians(taken.sun[1]))
    # Cloud tops 1500 m above the ground throw their shadow away from the sun.
    fall = (-1500 * tangent * math.sin(azimuth), -1500 * tangent * math.cos(azimuth))
    clouds = np.array([*taken.clouds, *fall], np.float64)
    pixels = {
        name: np.empty((frame.height * 10 // band.resolution, frame.width * 10 // band.resolution), np.uint16)
        for name, band in bands.items()
    }
    scl = np.empty((frame.height // 2, frame.width // 2), np.uint8)

    def strip(top: int) -> None:
        rows = min(_STRIP, frame.height - top)
        shape = (rows + 2 * _MARGIN, frame.width + 2 * _MARGIN)
        place = (frame.west, frame.north - 10.0 * top)
        corner = (place[0] - 10.0 * _MARGIN, place[1] + 10.0 * _MARGIN)
        seen = Ground.look(land, light, *corner, shape)
        ground = (seen.first, seen.second, seen.blend, seen.gain)
        air = (np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.float32))
        sky(*air, *corner, clouds, land.seed)
        scene = np.empty(shape, np.float32)
        for index, (name, band) in enumerate(bands.items()):
            spectrum = np.ascontiguousarray(tables.spectra[:, index])
            reflectance(scene, spectrum, float(_CLOUD[index]), _SHADOW[index], ground, air)
            factor = band.resolution // 10
            part = pixels[name][top // factor : (top + rows) // factor]
            expose(part, scene, _MARGIN, factor, taken.offset, place, taken.swath, land.seed + 60 + index)
        classify(scl[top // 2 : (top + rows) // 2], tables.scl, ground, air, _MARGIN, place, taken.swath)

    destination = folder / taken.item_id
    destination.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers or _workers()) as pool:
        list(pool.map(strip, range(0, frame.height, _STRIP)))
        files: list[tuple[Path, NDArray[Any], int]] = [
            (destination / f"{name}.tif", pixels[name], band.resolution) for name, band in bands.items()
        ]
        files.append((destination / "SCL.tif", scl, 20))
        list(pool.map(lambda one: _write_cog(one, frame, 0), files))
    return _write_item(destination, _optical_item(taken, scl))


def write_radar(land: Landscape, taken: RadarPass, folder: Path, *, workers: int | None = None) -> Path:
    """Write VV and VH of ``land`` as COGs (gamma0, linear power) and the item (Planetary Computer's manner).

    Everything goes to ``folder/<item id>``; returns the item's path.
    """
    frame, tables = taken.frame, palette()
    light = Light(np.ones_like(land.height))  # terrain-corrected: slopes do not show
    power = {name: np.empty((frame.height, frame.width), np.float32) for name in ("vv", "vh")}

    def strip(top: int) -> None:
        rows = min(_STRIP, frame.height - top)
        place = (frame.west, frame.north - 10.0 * top)
        seen = Ground.look(land, light, *place, (rows + 1, frame.width + 1))
        ground = (seen.first, seen.second, seen.blend, seen.tone)
        for index, values in enumerate(power.values()):
            decibel = np.ascontiguousarray(tables.backscatter[:, index])
            part = values[top : top + rows]
            backscatter(part, decibel, ground, 0, place, taken.swath, RADAR_NODATA, land.seed + 80 + index)

    destination = folder / taken.item_id
    destination.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers or _workers()) as pool:
        list(pool.map(strip, range(0, frame.height, _STRIP)))
        files = [(destination / f"iw-{name}.rtc.tif", values, 10) for name, values in power.items()]
        list(pool.map(lambda one: _write_cog(one, frame, RADAR_NODATA), files))
    return _write_item(destination, _radar_item(taken))


def _workers() -> int:
    return min(os.cpu_count() or 1, 4)


def _write_cog(raster: tuple[Path, NDArray[Any], int], frame: Frame, nodata: float) -> None:
    """Header first, then blocks of 512 pixels: a COG, though without overviews, that nobody looks at here."""
    path, pixels, resolution = raster
    real = pixels.dtype == np.float32
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=pixels.shape[1],
        height=pixels.shape[0],
        count=1,
        dtype=pixels.dtype,
        crs=f"EPSG:{frame.epsg}",
        transform=frame.transform(resolution),
        nodata=nodata,
        tiled=True,
        blockxsize=512,
        blockysize=512,
        compress="deflate",
        zlevel=1 if real else 6,
        predictor=3 if real else 2,
    ) as file:
        file.write(pixels, 1)


def _write_item(folder: Path, item: dict[str, Any]) -> Path:
    path = folder / f"{item['id']}.json"
    _write_document(path, item)
    return path


def _write_document(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))


def _placed(frame: Frame, resolution: int) -> dict[str, Any]:
    return {
        "proj:shape": [frame.height * 10 // resolution, frame.width * 10 // resolution],
        "proj:transform": list(frame.transform(resolution))[:6],
    }


def _framed(ring: list[list[float]]) -> dict[str, Any]:
    """Geometry and bounding box of an item."""
    longitudes, latitudes = zip(*ring, strict=True)
    return {
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [min(longitudes), min(latitudes), max(longitudes), max(latitudes)],
    }


def _optical_item(taken: OpticalPass, scl: NDArray[np.uint8]) -> dict[str, Any]:
    scene, frame = taken.scene, taken.frame
    share = np.bincount(scl.ravel(), minlength=12) / scl.size
    seen = 100 / max(1 - share[0], 1e-9)  # all but the first are percentages of what was seen
    percentages = {
        f"s2:{name}_percentage": round(float(share[code] * seen), 6)
        for name, code in (
            ("dark_features", 2),
            ("cloud_shadow", 3),
            ("vegetation", 4),
            ("not_vegetated", 5),
            ("water", 6),
            ("unclassified", 7),
            ("medium_proba_clouds", 8),
            ("high_proba_clouds", 9),
            ("thin_cirrus", 10),
            ("snow_ice", 11),
        )
    }
    made = scene.sensed + timedelta(hours=6)
    baseline = f"{scene.baseline[:2]}.{scene.baseline[2:]}"
    assets: dict[str, Any] = {}
    for name, band in optical_bands().items():
        # Earth Search v1 spells the red edge its own way; the band table keeps that as its first alias.
        key = band.aliases[0]
        common = "rededge" if key.startswith("rededge") else key
        assets[key] = {
            "href": f"./{name}.tif",
            "type": _COG_TYPE,
            "title": f"{name} - {band.resolution}m",
            "eo:bands": [
                {
                    "name": key,
                    "common_name": common,
                    "description": f"{key} ({name})",
                    "center_wavelength": band.center_wavelength,
                    "full_width_half_max": band.full_width_half_max,
                }
            ],
            "gsd": band.resolution,
            **_placed(frame, band.resolution),
            "raster:bands": [
                {
                    "nodata": 0,
                    "data_type": "uint16",
                    "bits_per_sample": 15,
                    "spatial_resolution": band.resolution,
                    "scale": 0.0001,
                    "offset": -taken.offset / 10_000,
                }
            ],
            "roles": ["data", "reflectance"],
        }
    assets["scl"] = {
        "href": "./SCL.tif",
        "type": _COG_TYPE,
        "title": "Scene classification map (SCL)",
        **_placed(frame, 20),
        "raster:bands": [{"nodata": 0, "data_type": "uint8", "spatial_resolution": 20}],
        "roles": ["data", "reflectance"],
    }
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [
            "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
            "https://stac-extensions.github.io/grid/v1.0.0/schema.json",
            "https://stac-extensions.github.io/mgrs/v1.0.0/schema.json",
            "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
            "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
            "https://stac-extensions.github.io/view/v1.0.0/schema.json",
        ],
        "id": taken.item_id,
        "collection": "sentinel-2-l2a",
        **_framed(frame.ring(taken.swath, western=True)),
        "properties": {
            "datetime": f"{scene.sensed:%Y-%m-%dT%H:%M:%SZ}",
            "description": "Invented by `landpatch demo`; not a satellite's image.",
            "platform": f"sentinel-2{scene.platform[2].lower()}",
            "constellation": "sentinel-2",
            "instruments": ["msi"],
            "eo:cloud_cover": round(float(share[8:11].sum() * seen), 6),
            "eo:snow_cover": round(float(share[11] * seen), 6),
            "proj:epsg": frame.epsg,
            "mgrs:utm_zone": int(scene.tile[:2]),
            "mgrs:latitude_band": scene.tile[2],
            "mgrs:grid_square": scene.tile[3:],
            "grid:code": f"MGRS-{scene.tile}",
            "view:sun_azimuth": taken.sun[0],
            "view:sun_elevation": 90 - taken.sun[1],
            "s2:product_uri": f"{scene}_{made:%Y%m%dT%H%M%S}.SAFE",
            "s2:product_type": "S2MSI2A",
            "s2:processing_baseline": baseline,
            "s2:generation_time": f"{made:%Y-%m-%dT%H:%M:%SZ}",
            "s2:nodata_pixel_percentage": round(float(share[0] * 100), 6),
            **percentages,
            "s2:geometric_quality": "PASSED",
            "s2:general_quality": "PASSED",
            "s2:radiometric_quality": "PASSED",
            "s2:sensor_quality": "PASSED",
            "earthsearch:boa_offset_applied": False,
        },
        "assets": assets,
        "links": [],
    }


def _radar_item(taken: RadarPass) -> dict[str, Any]:
    frame, middle = taken.frame, taken.start + (taken.end - taken.start) / 2
    west, south, east, north = frame.bounds
    spelt = {"V": "vertical", "H": "horizontal"}
    assets = {
        name.lower(): {
            "href": f"./iw-{name.lower()}.rtc.tif",
            "type": _COG_TYPE,
            "roles": ["data"],
            "title": f"{name}: {spelt[name[0]]} transmit, {spelt[name[1]]} receive",
            "description": (
                f"Terrain-corrected gamma naught values of signal transmitted with {spelt[name[0]]} polarization "
                f"and received with {spelt[name[1]]} polarization with radiometric terrain correction applied."
            ),
            "raster:bands": [{"nodata": int(RADAR_NODATA), "data_type": "float32", "spatial_resolution": 10}],
        }
        for name in ("VV", "VH")
    }
    # Orbits repeat every 175 revolutions; that of Sentinel-1A is counted from 73, of 1B from 27 (ESA).
    relative = (taken.orbit - (73 if taken.platform == "S1A" else 27)) % 175 + 1
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [
            "https://stac-extensions.github.io/sar/v1.0.0/schema.json",
            "https://stac-extensions.github.io/sat/v1.0.0/schema.json",
            "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
            "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
        ],
        "id": taken.item_id,
        "collection": "sentinel-1-rtc",
        **_framed(frame.ring(taken.swath, western=False)),
        "properties": {
            "datetime": f"{middle:%Y-%m-%dT%H:%M:%S.%fZ}",
            "start_datetime": f"{taken.start:%Y-%m-%d %H:%M:%S.%f+00:00}",
            "end_datetime": f"{taken.end:%Y-%m-%d %H:%M:%S.%f+00:00}",
            "description": "Invented by `landpatch demo`; not a satellite's image.",
            "platform": f"SENTINEL-1{taken.platform[2]}",
            "constellation": "Sentinel-1",
            "proj:bbox": [west, south, east, north],
            "proj:epsg": frame.epsg,
            "proj:shape": [frame.height, frame.width],
            "proj:transform": [*frame.transform(10)],
            "sar:product_type": "GRD",
            "sar:polarizations": ["VV", "VH"],
            "sar:frequency_band": "C",
            "sar:center_frequency": 5.405,
            "sar:instrument_mode": "IW",
            "sar:looks_range": 5,
            "sar:looks_azimuth": 1,
            "sar:looks_equivalent_number": 4.4,
            "sar:resolution_range": 20,
            "sar:resolution_azimuth": 22,
            "sar:pixel_spacing_range": 10,
            "sar:pixel_spacing_azimuth": 10,
            "sar:observation_direction": "right",
            "sat:orbit_state": "ascending" if taken.ascending else "descending",
            "sat:absolute_orbit": taken.orbit,
            "sat:relative_orbit": relative,
        },
        "assets": assets,
        "links": [],
    }


def write_catalog(items: Sequence[Path], folder: Path) -> Path:
    """Write a static STAC catalogue of items that lie below ``folder``: a collection for each that they name.

    The items get their links to it. Returns the path of ``catalog.json``.
    """
    root = folder / "catalog.json"
    members: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    for path in items:
        item = orjson.loads(path.read_bytes())
        members.setdefault(item["collection"], []).append((path, item))
    for collection, members_here in members.items():
        home = folder / collection / "collection.json"
        for path, item in members_here:
            item["links"] = [
                _link("root", path, root),
                _link("parent", path, home),
                _link("collection", path, home),
            ]
            _write_document(path, item)
        _write_document(home, _collection(collection, home, root, members_here))
    links = [_link("child", root, folder / collection / "collection.json") for collection in members]
    _write_document(
        root,
        {
            "type": "Catalog",
            "stac_version": "1.0.0",
            "id": "landpatch-demo-world",
            "description": "Scenes invented by `landpatch demo`; no satellite's images.",
            "links": [_link("root", root, root), *links],
        },
    )
    return root


def _collection(
    identifier: str, home: Path, root: Path, members: Sequence[tuple[Path, dict[str, Any]]]
) -> dict[str, Any]:
    west, south, east, north = zip(*(item["bbox"] for _, item in members), strict=True)
    times = sorted(item["properties"]["datetime"] for _, item in members)
    return {
        "type": "Collection",
        "stac_version": "1.0.0",
        "id": identifier,
        "description": f"Scenes invented by `landpatch demo`, described as those of {identifier} are.",
        "license": "Apache-2.0",
        "extent": {
            "spatial": {"bbox": [[min(west), min(south), max(east), max(north)]]},
            "temporal": {"interval": [[times[0], times[-1]]]},
        },
        "links": [
            _link("root", home, root),
            _link("parent", home, root),
            *(_link("item", home, path) for path, _ in members),
        ],
    }


def _link(relation: str, here: Path, there: Path) -> dict[str, str]:
    media = "application/geo+json" if relation == "item" else "application/json"
    href = Path(os.path.relpath(there, here.parent)).as_posix()
    return {"rel": relation, "href": href if href.startswith("..") else f"./{href}", "type": media}


def write_labels(
    parts: Sequence[tuple[Landscape, Site | None]],
    destination: Path,
    *,
    smallest_hectares: float = 10.0,
    polygons: int | None = None,
) -> int:
    """Write the generalised land cover of some landscapes as a GeoPackage in the layout of CLC 2018; EPSG:3035.

    Patches of cover smaller than ``smallest_hectares`` (the official map: 25) go to their neighbours; with
    ``polygons`` that size is chosen so that about so many polygons come out. A landscape's Site is a hole that no
    polygon covers. Polygons neither overlap nor leave gaps but for the holes. Returns how many were written.
    """
    import pyogrio
    import shapely

    codes: list[NDArray[np.uint16]] = []
    shapes: list[NDArray[np.object_]] = []
    for land, hole in parts:
        smallest = _size_for(land, polygons) if polygons is not None else smallest_hectares
        code, shape = _outlines(land, hole, smallest)
        codes.append(code)
        shapes.append(shape)
    code, geometry = np.concatenate(codes), np.concatenate(shapes)
    destination.parent.mkdir(parents=True, exist_ok=True)
    destination.unlink(missing_ok=True)
    # A GeoPackage notes when it was written; the same world has the same bytes.
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "2020-02-20T00:00:00.000Z"})
    try:
        pyogrio.raw.write(
            destination,
            geometry=shapely.to_wkb(geometry),
            field_data=[
                np.array([f"EU-{number}" for number in range(1, len(code) + 1)], object),
                code.astype(str).astype(object),
                np.full(len(code), None, object),
                np.round(shapely.area(geometry) / 1e4, 6),
            ],
            fields=["id", "code_18", "remark", "area_ha"],
            layer=LABEL_LAYER,
            driver="GPKG",
            geometry_type="MultiPolygon",
            crs="EPSG:3035",
            promote_to_multi=True,
            layer_options={"GEOMETRY_NAME": "geom"},
        )
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})
    return len(code)


def _generalised(land: Landscape, smallest_hectares: float) -> NDArray[np.int32]:
    """Codes without anything smaller than the given size."""
    cells = max(int(smallest_hectares * 1e4 / STEP**2), 2)
    sieved: NDArray[np.int32] = rasterio.features.sieve(land.codes.astype(np.int32), cells, connectivity=4)
    return sieved


def _size_for(land: Landscape, polygons: int) -> float:
    """The smallest mapped size in hectares that leaves about ``polygons`` polygons."""
    low, high = 0.5, 400.0
    for _ in range(9):
        middle = math.sqrt(low * high)
        image = _generalised(land, middle)
        count = sum(1 for _ in rasterio.features.shapes(image, connectivity=4))
        low, high = (middle, high) if count > polygons else (low, middle)
    return math.sqrt(low * high)


def _outlines(
    land: Landscape, hole: Site | None, smallest_hectares: float
) -> tuple[NDArray[np.uint16], NDArray[np.object_]]:
    """CLC codes and polygons (EPSG:3035) of one landscape."""
    import shapely
    from pyproj import Transformer
    from shapely.geometry import shape

    image = _generalised(land, smallest_hectares)
    if hole is not None:
        window, inside = cells_of(land, hole)
        image[window][inside] = 0
    transform = Affine(STEP, 0, land.west, 0, -STEP, land.north)
    found = list(rasterio.features.shapes(image, image > 0, connectivity=4, transform=transform))
    code = np.array([value for _, value in found], np.uint16)
    steps = np.array([shape(outline) for outline, _ in found], object)
    # A point at every corner of a cell, so that neighbours share all their points, before and after every change.
    steps = shapely.segmentize(steps, STEP)
    smooth = shapely.coverage_simplify(_smoothed(steps), 0.5 * STEP)
    to_europe = Transformer.from_crs(land.epsg, 3035, always_xy=True)

    def move(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.round(np.stack(to_europe.transform(points[:, 0], points[:, 1]), axis=1), 4)

    return code, shapely.transform(smooth, move)


def _smoothed(steps: NDArray[np.object_], rounds: int = 3) -> NDArray[np.object_]:
    """The polygons with every point moved towards those that it is joined to: no stairs. Neighbours stay neighbours.

    Points that polygons share are one point here, so that they move alike. Where that would make a polygon cross
    itself or another (thin ones may), all stay as they are.
    """
    import shapely

    points = shapely.get_coordinates(steps)
    places, node = np.unique(points, axis=0, return_inverse=True)
    ring = shapely.get_rings(steps)
    last = np.cumsum(shapely.get_num_coordinates(ring)) - 1
    joined = np.ones(len(points), bool)
    joined[last] = False
    start = np.flatnonzero(joined)
    edges = np.unique(np.sort(np.stack([node[start], node[start + 1]], axis=1), axis=1), axis=0)
    degree = np.bincount(edges.ravel(), minlength=len(places))
    moved = places.copy()
    for _ in range(rounds):
        total = np.zeros_like(moved)
        for axis in (0, 1):
            total[:, axis] += np.bincount(edges[:, 0], moved[edges[:, 1], axis], len(places))
            total[:, axis] += np.bincount(edges[:, 1], moved[edges[:, 0], axis], len(places))
        moved = 0.5 * moved + 0.5 * total / degree[:, None]
    smooth: NDArray[np.object_] = shapely.set_coordinates(steps.copy(), moved[node])
    return smooth if shapely.is_valid(smooth).all() and shapely.coverage_is_valid(smooth) else steps
