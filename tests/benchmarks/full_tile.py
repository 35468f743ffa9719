"""A whole tile to measure with: scenes of 10980 px on disk, generated once and kept.

Tile 33UUP as an invented landscape: 12 bands and SCL as COGs (deflate), Sentinel-1 VV and VH in linear power on a
grid of its own (same UTM zone, shifted by a fraction of a pixel, larger than the tile), and about 6,500 CORINE-like
polygons in EPSG:3035, prepared as GeoParquet. No pixel is nodata, so that all 8281 patches are kept: the most work
that a tile can be.
"""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from measure import write_report

TILE = "33UUP"
SCENE_PIXELS = 10980
POLYGONS = 6500  # what CLC 2018 has in a tile of Central Europe: 5,000 to 8,000
SEED = 11
BLOCK_PIXELS = 1024
"""As on the tile that the bars come from: of blocks of 1024 px, 90 bytes are decoded for each that one patch uses
(the project's notes on performance); of 512 px it would be 28, and the naive way a quarter cheaper."""
_VERSION = 3  # another number makes an old cache worthless

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class FullTile:
    """Where the generated tile lies: its two items, the prepared labels and the layer that they come from."""

    folder: Path
    optical: Path
    radar: Path
    labels: Path
    polygons: Path
    polygon_count: int

    @property
    def bytes(self) -> int:
        """On disk."""
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())


def full_tile(cache: Path, say: Say) -> FullTile:
    """The tile in ``cache``, generated if it is not there; ``say`` is told of each step."""
    folder = cache / f"tile-{TILE}"
    record = folder / "tile.json"
    if not record.exists() or json.loads(record.read_text())["version"] != _VERSION:
        if folder.exists():
            shutil.rmtree(folder)
        _generate(folder, record, say)
    found = json.loads(record.read_text())
    paths = {name: folder / found[name] for name in ("optical", "radar", "labels", "polygons")}
    return FullTile(folder, **paths, polygon_count=found["polygon_count"])


def _generate(folder: Path, record: Path, say: Say) -> None:
    # Here, because whoever only reads the tile is being measured.
    from landpatch.catalog.grid import TileGrid
    from landpatch.catalog.names import SceneId
    from landpatch.functions.demo.landscape import Relief, plan_landscape
    from landpatch.functions.demo.world import Frame, OpticalPass, RadarPass, write_labels, write_optical, write_radar
    from landpatch.functions.labels_prepare import prepare_labels

    grid = TileGrid.from_tile(TILE)
    west, north = float(grid.ulx), float(grid.uly)
    frame = Frame(grid.epsg, west, north, SCENE_PIXELS, SCENE_PIXELS)
    # On every side 3 km more than the tile, shifted by fractions of a pixel: what a real RTC scene looks like from
    # the tile's point of view, only that a real one is larger still.
    radar_frame = Frame(grid.epsg, west - 3000 + 3.7, north + 3000 - 6.2, SCENE_PIXELS + 600, SCENE_PIXELS + 600)
    relief = Relief(
        base=430,
        hills=50,
        summit=(west + 20_000, north - 15_000),
        height=900,  # no bare rock, which has no class
        reach=16_000,
        tree_line=1500,
        snow_line=1880,
        river=(west + 52_000, north - 60_500),
        course=0.25,
    )
    say("planning the landscape")
    land = plan_landscape(radar_frame.bounds, grid.epsg, relief, seed=SEED)
    scenes = folder / "scenes"
    say("writing 12 bands and SCL (some minutes)")
    optical = write_optical(
        land,
        OpticalPass(
            SceneId.parse("S2A_MSIL2A_20240616T101031_N0510_R022_T33UUP"),
            frame,
            offset=1000,
            sun=(155.0, 27.0),
            clouds=(west + 66_800, north - 24_600, 9_000, west + 35_200, north - 75_500, 6_000),
        ),
        scenes,
    )
    say("writing Sentinel-1 VV and VH")
    radar = write_radar(
        land,
        RadarPass("S1A", datetime(2024, 6, 17, 16, 58, 16, tzinfo=UTC), 54366, "069D7C", radar_frame),
        scenes,
    )
    say("cutting them into larger blocks")
    for file in sorted(scenes.rglob("*.tif")):
        _with_large_blocks(file)
    say("drawing polygons")
    polygons = folder / "clc.gpkg"
    count = write_labels([(land, None)], polygons, polygons=POLYGONS)
    labels = folder / "clc.parquet"
    prepare_labels(polygons, labels)
    found = {
        "version": _VERSION,
        "optical": str(optical.relative_to(folder)),
        "radar": str(radar.relative_to(folder)),
        "labels": labels.name,
        "polygons": polygons.name,
        "polygon_count": count,
    }
    record.write_text(json.dumps(found, indent=2) + "\n")


def _with_large_blocks(file: Path) -> None:
    import rasterio
    from rasterio.shutil import copy

    with rasterio.open(file) as source:
        overviews = "FORCE_USE_EXISTING" if source.overviews(1) else "NONE"
    new = file.with_suffix(".new")
    options = {"BLOCKSIZE": BLOCK_PIXELS, "COMPRESS": "DEFLATE", "PREDICTOR": "YES", "OVERVIEWS": overviews}
    copy(file, new, driver="COG", **options)
    new.replace(file)


if __name__ == "__main__":
    _, cache_folder, report_file = sys.argv
    tile = full_tile(Path(cache_folder), lambda step: print(f"\n    {step}", end="", flush=True, file=sys.stderr))
    write_report(report_file, {"bytes": tile.bytes, "polygons": tile.polygon_count})
