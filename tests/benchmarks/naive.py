"""Patches the way they are usually written: everything anew for each patch, every step through a library.

Loaded with odc-stac (three resolutions, Sentinel-1 bilinear), labels clipped with GeoPandas and burned with rasterio,
COGs by GDAL's COG driver, a pystac item with its extensions.

    naive.py usual CACHE FOLDER PATCHES REPORT        polygons read from the GeoPackage by box; one band a file
    naive.py careful CACHE FOLDER PATCHES REPORT      polygons in memory in the tile's CRS; landpatch's five files
"""

import hashlib
import json
import shutil
import sys
import time
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import odc.stac
import pystac
import rasterio
from full_tile import FullTile, full_tile
from measure import cpu_seconds, write_report
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from pystac.extensions.eo import Band, EOExtension
from pystac.extensions.file import FileExtension
from pystac.extensions.grid import GridExtension
from pystac.extensions.mgrs import MgrsExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.raster import RasterBand, RasterExtension
from pystac.extensions.sar import FrequencyBand, Polarization, SarExtension
from rasterio.features import rasterize

from landpatch.catalog.bands import OPTICAL_ASSETS, REFERENCE_MAP, S1, PatchAsset, optical_bands
from landpatch.catalog.grid import TileGrid

EPSG = 32633


class NaiveTile:
    """The scenes of a tile, opened as far as a careful script would open them once."""

    def __init__(self, scenes: FullTile, folder: Path, *, careful: bool) -> None:
        self.folder, self.scenes, self.careful = folder, scenes, careful
        self.grid = TileGrid.from_tile("33UUP")
        self.optical = pystac.Item.from_file(str(scenes.optical))
        self.radar = pystac.Item.from_file(str(scenes.radar))
        for item in (self.optical, self.radar):
            item.make_asset_hrefs_absolute()
        self.keys = {name: band.aliases[0] for name, band in optical_bands().items()}
        self.polygons = geopandas.read_file(scenes.polygons).to_crs(EPSG)
        self.polygons.sindex  # noqa: B018 - built on first use
        self.to_labels = Transformer.from_crs(EPSG, 3035, always_xy=True)

    def patch(self, x: int, y: int) -> None:
        """One patch: its files and an item."""
        name = f"naive_{x:02d}_{y:02d}"
        folder = self.folder / name
        folder.mkdir(parents=True)
        west, south, east, north = self.grid.bounds(x, y)
        planes = {asset.key: self._optical(x, y, asset) for asset in OPTICAL_ASSETS}
        planes[S1.key] = self._radar(x, y)
        planes[REFERENCE_MAP.key] = self._labels(x, y)
        labels = np.unique(planes[REFERENCE_MAP.key]).tolist()
        item = self._item(name, (west, south, east, north), x, y, labels)
        for asset in (*OPTICAL_ASSETS, S1, REFERENCE_MAP):
            for bands in (asset.planes,) if self.careful else zip(asset.planes):
                key = asset.key if self.careful else f"{asset.key}_{bands[0]}"
                chosen = planes[asset.key][[asset.planes.index(band) for band in bands]]
                file = folder / f"{name}_{key}.tif"
                self._write(file, chosen, asset, bands, x, y)
                self._add_asset(item, file, key, asset, bands)
        (folder / f"{name}.json").write_text(json.dumps(item.to_dict(include_self_link=False)))

    def _geobox(self, x: int, y: int, resolution: int) -> GeoBox:
        box = self.grid.geobox(x, y, resolution)
        return GeoBox(box.shape, box.transform, f"EPSG:{EPSG}")

    def _optical(self, x: int, y: int, asset: PatchAsset) -> Any:
        bands = [self.keys[name] for name in asset.planes]
        loaded = odc.stac.load([self.optical], bands=bands, geobox=self._geobox(x, y, asset.resolution))
        planes = np.stack([loaded[band].isel(time=0).values for band in bands]).astype(np.int32)
        return np.where(planes == 0, 0, np.maximum(planes - 1000, 1)).astype(np.uint16)

    def _radar(self, x: int, y: int) -> Any:
        loaded = odc.stac.load([self.radar], bands=["vv", "vh"], geobox=self._geobox(x, y, 10), resampling="bilinear")
        power = np.stack([loaded[band].isel(time=0).values for band in ("vv", "vh")])
        return (10 * np.log10(np.maximum(power, 1e-7))).astype(np.float32)

    def _labels(self, x: int, y: int) -> Any:
        box = self.grid.geobox(x, y, 10)
        bounds = self.grid.bounds(x, y)
        if self.careful:
            polygons = self.polygons
        else:
            around = self.to_labels.transform_bounds(*bounds)
            polygons = geopandas.read_file(self.scenes.polygons, bbox=around).to_crs(EPSG)
        clipped = geopandas.clip(polygons, bounds)
        shapes = zip(clipped.geometry, clipped["code_18"].astype(int), strict=True)
        burned = rasterize(shapes, out_shape=box.shape, transform=box.transform, fill=999, dtype="uint16")
        return burned[np.newaxis]

    def _write(self, file: Path, planes: Any, asset: PatchAsset, bands: tuple[str, ...], x: int, y: int) -> None:
        box = self.grid.geobox(x, y, asset.resolution)
        with rasterio.open(
            file,
            "w",
            driver="COG",
            width=asset.pixels,
            height=asset.pixels,
            count=len(bands),
            dtype=asset.dtype,
            crs=f"EPSG:{EPSG}",
            transform=box.transform,
            nodata=asset.nodata,
            compress="deflate",
            predictor="yes",
        ) as target:
            target.write(planes)
            for number, band in enumerate(bands, 1):
                target.set_band_description(number, band)

    def _item(self, name: str, bounds: tuple[int, int, int, int], x: int, y: int, labels: list[int]) -> pystac.Item:
        west, south, east, north = bounds
        transformer = Transformer.from_crs(EPSG, 4326, always_xy=True)
        xs, ys = transformer.transform([west, east, east, west, west], [south, south, north, north, south])
        ring = [list(point) for point in zip(xs, ys, strict=True)]
        item = pystac.Item(
            name,
            {"type": "Polygon", "coordinates": [ring]},
            [min(xs), min(ys), max(xs), max(ys)],
            self.optical.datetime or datetime(2024, 6, 16),
            {"gsd": 10.0, "labels": labels, "x": x, "y": y},
        )
        ProjectionExtension.ext(item, add_if_missing=True).apply(epsg=EPSG)
        EOExtension.ext(item, add_if_missing=True).apply(cloud_cover=0.0)
        GridExtension.ext(item, add_if_missing=True).apply(code="MGRS-33UUP")
        MgrsExtension.ext(item, add_if_missing=True).apply(latitude_band="U", grid_square="UP", utm_zone=33)
        SarExtension.ext(item, add_if_missing=True).apply(
            "IW", FrequencyBand.C, [Polarization.VV, Polarization.VH], "GRD"
        )
        item.add_link(pystac.Link("derived_from", self.optical.id))
        item.add_link(pystac.Link("derived_from", self.radar.id))
        return item

    def _add_asset(self, item: pystac.Item, file: Path, key: str, asset: PatchAsset, bands: tuple[str, ...]) -> None:
        data = file.read_bytes()
        entry = pystac.Asset(str(file), media_type=pystac.MediaType.COG, roles=["data"])
        item.add_asset(key, entry)
        with rasterio.open(file) as source:
            shape, transform = list(source.shape), list(source.transform)[:6]
        ProjectionExtension.ext(entry, add_if_missing=True).apply(epsg=EPSG, shape=shape, transform=transform)
        FileExtension.ext(entry, add_if_missing=True).apply(
            size=len(data), checksum="1220" + hashlib.sha256(data).hexdigest()
        )
        RasterExtension.ext(entry, add_if_missing=True).apply(
            [RasterBand.create(nodata=asset.nodata, spatial_resolution=asset.resolution) for _ in bands]
        )
        if asset in OPTICAL_ASSETS:
            known = optical_bands()
            EOExtension.ext(entry, add_if_missing=True).apply(
                [Band.create(name, center_wavelength=known[name].center_wavelength) for name in bands]
            )


def main(cache: Path, folder: Path, patches: int, *, careful: bool) -> dict[str, Any]:
    """CPU seconds a patch over patches spread over the tile; the first one only warms up."""
    warnings.simplefilter("ignore")
    shutil.rmtree(folder, ignore_errors=True)
    tile = NaiveTile(full_tile(cache, print), folder, careful=careful)
    # Golden-ratio steps spread any number of patches evenly (Kronecker sequence, R2: 1 / 1.3247 and its square).
    spots = [(int(91 * (0.7548777 * n % 1)), int(91 * (0.5698403 * n % 1))) for n in range(1, patches + 2)]
    tile.patch(*spots[0])
    before, start = cpu_seconds(), time.perf_counter()
    for spot in spots[1:]:
        tile.patch(*spot)
    return {
        "patches": patches,
        "cpu_a_patch": (cpu_seconds() - before) / patches,
        "wall_a_patch": (time.perf_counter() - start) / patches,
    }


if __name__ == "__main__":
    _, way, cache, folder, patches, report = sys.argv
    write_report(report, main(Path(cache), Path(folder), int(patches), careful=way == "careful"))
