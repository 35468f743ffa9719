"""Patch files alone, in memory: landpatch's encoder and reader beside GDAL's through rasterio. And one JP2 decoded.

    cogs_speed.py files DATASET PATCHES REPORT
    cogs_speed.py jp2 CACHE REPORT

The JPEG 2000 file is a cut of 4096 px (a seventh of a 10 m band), tiled and reversible as ESA's are: OpenJPEG takes
minutes to write a whole band, and its speed a pixel does not depend on how many there are.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from measure import cpu_seconds, write_report
from numpy.typing import NDArray
from rasterio.io import MemoryFile

_JP2_PIXELS = 4096
_BAND_PIXELS = 4 * 10980**2 + 6 * 5490**2 + 2 * 1830**2  # of the 12 bands of a tile


def files(dataset: Path, patches: int) -> dict[str, Any]:
    """Patches (five files each) a CPU second, encoded and read back."""
    from landpatch.catalog.bands import PATCH_ASSETS, PatchAsset
    from landpatch.catalog.cogs import CogEncoder, read_planes
    from landpatch.catalog.store import Dataset

    data = Dataset.open(dataset)
    table = data.table(["id", "assets"])
    step = table.num_rows // patches
    rows = table.take(list(range(0, step * patches, step))).to_pylist()
    epsg, left, top = 32633, 300000, 5600040
    encoders = {
        (asset, kind): CogEncoder(asset, epsg, kind) for asset in PATCH_ASSETS for kind in ("deflate", "zstd")
    }
    stored = [(asset, data.storage.get(row["assets"][asset.key]["href"])) for row in rows for asset in PATCH_ASSETS]
    planes = [(asset, read_planes(content, asset)) for asset, content in stored]
    zstd = [(asset, encoders[asset, "zstd"].encode(values, left, top)) for asset, values in planes]

    def rate(work: Callable[[PatchAsset, Any], Any], pairs: list[tuple[PatchAsset, Any]]) -> float:
        work(*pairs[0])
        before = cpu_seconds()
        for pair in pairs:
            work(*pair)
        return patches / (cpu_seconds() - before)

    def gdal(driver: str) -> Callable[[PatchAsset, NDArray[Any]], None]:
        def write(asset: PatchAsset, values: NDArray[Any]) -> None:
            transform = rasterio.transform.from_origin(left, top, asset.resolution, asset.resolution)
            with (
                MemoryFile() as memory,
                memory.open(
                    driver=driver,
                    width=asset.pixels,
                    height=asset.pixels,
                    count=len(asset.planes),
                    dtype=asset.dtype,
                    crs=f"EPSG:{epsg}",
                    transform=transform,
                    nodata=asset.nodata,
                    compress="deflate",
                    predictor="yes" if driver == "COG" else 3 if asset.dtype == "float32" else 2,
                ) as target,
            ):
                target.write(values)

        return write

    def gdal_read(asset: PatchAsset, content: bytes) -> None:
        with MemoryFile(content) as memory, memory.open() as source:
            source.read()

    small = rate(gdal("GTiff"), planes)
    return {
        "patches": patches,
        "write": {
            "landpatch, deflate": rate(lambda asset, v: encoders[asset, "deflate"].encode(v, left, top), planes),
            "landpatch, zstd": rate(lambda asset, v: encoders[asset, "zstd"].encode(v, left, top), planes),
            "rasterio, COG driver": rate(gdal("COG"), planes),
            "rasterio, GTiff driver": small,
        },
        "read": {
            "landpatch, deflate": rate(lambda asset, content: read_planes(content, asset), stored),
            "landpatch, zstd": rate(lambda asset, content: read_planes(content, asset), zstd),
            "rasterio": rate(gdal_read, stored),
        },
        "bytes_a_patch": sum(len(content) for _, content in stored) / patches,
        "zstd_bytes_a_patch": sum(len(content) for _, content in zstd) / patches,
    }


def jp2(cache: Path) -> dict[str, Any]:
    """Megabytes of pixels that OpenJPEG decodes a CPU second."""
    from full_tile import full_tile

    file = cache / "B03.jp2"
    if not file.exists():
        scenes = full_tile(cache, print)
        window = rasterio.windows.Window(2000, 2000, _JP2_PIXELS, _JP2_PIXELS)
        with rasterio.open(scenes.optical.parent / "B03.tif") as source:
            pixels = source.read(1, window=window)
            profile = {"crs": source.crs, "transform": source.window_transform(window)}
        new = file.with_suffix(".new.jp2")
        with rasterio.open(
            new,
            "w",
            driver="JP2OpenJPEG",
            width=_JP2_PIXELS,
            height=_JP2_PIXELS,
            count=1,
            dtype="uint16",
            quality=100,
            reversible=True,
            blockxsize=1024,
            blockysize=1024,
            **profile,
        ) as target:
            target.write(pixels, 1)
        new.rename(file)
    pixels = np.empty((_JP2_PIXELS, _JP2_PIXELS), np.uint16)
    before = cpu_seconds()
    with rasterio.open(file) as source:
        source.read(1, out=pixels)
    cpu = cpu_seconds() - before
    speed = pixels.nbytes / 1e6 / cpu
    return {"cpu": cpu, "megabytes_a_second": speed, "tile_cpu": 2 * _BAND_PIXELS / 1e6 / speed}


if __name__ == "__main__":
    what, *rest, report = sys.argv[1:]
    write_report(report, files(Path(rest[0]), int(rest[1])) if what == "files" else jp2(Path(rest[0])))
