"""Small scenes with known pixels: what the tests feed in, so that the right answer can be computed independently."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine

TILE = "33UUP"
EPSG = 32633
ULX, ULY = 300000, 5400000  # of tile 33UUP, from its published product metadata
SCENE = "S2A_MSIL2A_20170613T101031_N0205_R022_T33UUP"

RESOLUTIONS = {
    "B01": 60,
    "B02": 10,
    "B03": 10,
    "B04": 10,
    "B05": 20,
    "B06": 20,
    "B07": 20,
    "B08": 10,
    "B8A": 20,
    "B09": 60,
    "B11": 20,
    "B12": 20,
}
KEYS = {
    "B01": "coastal",
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B05": "rededge1",
    "B06": "rededge2",
    "B07": "rededge3",
    "B08": "nir",
    "B8A": "nir08",
    "B09": "nir09",
    "B11": "swir16",
    "B12": "swir22",
}


@dataclass
class SmallScene:
    """Patches ``x0 .. x0 + nx - 1`` by ``y0 .. y0 + ny - 1`` of tile 33UUP, random pixels from ``seed``.

    ``bands`` and ``scl`` hold what was written, by band; change them before ``write``.
    """

    x0: int = 10
    y0: int = 11
    nx: int = 3
    ny: int = 2
    seed: int = 1
    scene: str = SCENE
    baseline: str = "02.05"
    collection: str = "sentinel-2-l2a"
    properties: dict[str, Any] = field(default_factory=dict)
    bands: dict[str, np.ndarray] = field(init=False)
    scl: np.ndarray | None = field(init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        self.bands = {
            name: random.integers(100, 4000, self.shape(resolution)).astype(np.uint16)
            for name, resolution in RESOLUTIONS.items()
        }
        self.scl = np.full(self.shape(20), 4, np.uint8)

    def shape(self, resolution: int) -> tuple[int, int]:
        px = 1200 // resolution
        return self.ny * px, self.nx * px

    def transform(self, resolution: int) -> Affine:
        return Affine(resolution, 0, ULX + 1200 * self.x0, 0, -resolution, ULY - 1200 * self.y0)

    def patch(self, name: str, x: int, y: int) -> np.ndarray:
        """The pixels of one band of one patch, as they were written."""
        array = self.scl if name == "SCL" else self.bands[name]
        assert array is not None
        px = array.shape[0] // self.ny
        row, column = (y - self.y0) * px, (x - self.x0) * px
        return array[row : row + px, column : column + px]

    def write(self, folder: Path, driver: str = "GTiff") -> Path:
        """Write the files and the item; returns the item's path."""
        folder.mkdir(parents=True, exist_ok=True)
        assets = {}
        suffix = ".jp2" if driver == "JP2OpenJPEG" else ".tif"
        for name, pixels in self.bands.items():
            write_raster(
                folder / f"{name}{suffix}", pixels, self.transform(RESOLUTIONS[name]), driver=driver, nodata=0
            )
            assets[KEYS[name]] = self._asset(f"{name}{suffix}", name, RESOLUTIONS[name])
        if self.scl is not None:
            write_raster(folder / f"SCL{suffix}", self.scl, self.transform(20), driver=driver)
            assets["scl"] = self._asset(f"SCL{suffix}", None, 20)
        item = {
            "type": "Feature",
            "stac_version": "1.0.0",
            "stac_extensions": [],
            "id": f"small-{self.scene}",
            "collection": self.collection,
            "geometry": None,
            "properties": {
                "datetime": "2017-06-13T10:10:31Z",
                "proj:epsg": EPSG,
                "s2:product_uri": f"{self.scene}_20240101T000000.SAFE",
                "s2:processing_baseline": self.baseline,
                **self.properties,
            },
            "assets": assets,
            "links": [],
        }
        path = folder / "item.json"
        path.write_text(json.dumps(item))
        return path

    def _asset(self, href: str, name: str | None, resolution: int) -> dict[str, Any]:
        asset: dict[str, Any] = {
            "href": f"./{href}",
            "type": "image/jp2" if href.endswith(".jp2") else "image/tiff; application=geotiff",
            "roles": ["data"],
            "proj:shape": list(self.shape(resolution)),
            "proj:transform": list(self.transform(resolution))[:6],
        }
        if name is not None:
            asset["eo:bands"] = [{"name": name}]
        return asset


@dataclass
class SmallRadar:
    """A Sentinel-1 scene in dB on the patch grid, over the same ground as a SmallScene by default."""

    x0: int = 10
    y0: int = 11
    nx: int = 3
    ny: int = 2
    seed: int = 2
    name: str = "S1B_IW_GRDH_1SDV_20170612T165809"
    when: str = "2017-06-12T16:58:09Z"
    unit: str = "dB"
    pixels: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        shape = (self.ny * 120, self.nx * 120)
        self.pixels = {
            "vv": random.normal(-12, 3, shape).astype(np.float32),
            "vh": random.normal(-19, 3, shape).astype(np.float32),
        }

    def patch(self, key: str, x: int, y: int) -> np.ndarray:
        row, column = (y - self.y0) * 120, (x - self.x0) * 120
        return self.pixels[key][row : row + 120, column : column + 120]

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        transform = Affine(10, 0, ULX + 1200 * self.x0, 0, -10, ULY - 1200 * self.y0)
        for key, pixels in self.pixels.items():
            write_raster(folder / f"{key}.tif", pixels, transform, nodata=float("nan"))
        band = {"nodata": "nan", "data_type": "float32", "unit": self.unit}
        item = {
            "type": "Feature",
            "stac_version": "1.0.0",
            "stac_extensions": [],
            "id": f"{self.name}_small",
            "collection": "sentinel-1-sigma0-db",
            "geometry": None,
            "properties": {"datetime": self.when, "platform": "sentinel-1b"},
            "assets": {
                key: {"href": f"./{key}.tif", "roles": ["data"], "raster:bands": [band]} for key in ("vv", "vh")
            },
            "links": [],
        }
        path = folder / "item.json"
        path.write_text(json.dumps(item))
        return path


def write_raster(
    path: Path,
    pixels: np.ndarray,
    transform: Affine,
    *,
    driver: str = "GTiff",
    epsg: int | None = EPSG,
    nodata: float | None = None,
    compress: str = "deflate",
) -> None:
    options: dict[str, Any] = (
        {"QUALITY": "100", "REVERSIBLE": "YES"}
        if driver == "JP2OpenJPEG"
        else {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": compress}
    )
    with rasterio.open(
        path,
        "w",
        driver=driver,
        width=pixels.shape[1],
        height=pixels.shape[0],
        count=1,
        dtype=pixels.dtype,
        crs=None if epsg is None else f"EPSG:{epsg}",
        transform=transform,
        nodata=None if driver == "JP2OpenJPEG" else nodata,
        **options,
    ) as target:
        target.write(pixels, 1)


def write_clc(path: Path, rectangles: list[tuple[float, float, float, float, str]], epsg: int = EPSG) -> Path:
    """A GeoPackage in CORINE's layout: rectangles (west, south, east, north, code_18) in metres of ``epsg``."""
    import pyarrow as pa
    import pyogrio
    import shapely

    boxes = shapely.box(*np.array([rectangle[:4] for rectangle in rectangles]).T)
    table = pa.table(
        {
            "id": [f"EU_{number}" for number in range(len(rectangles))],
            "code_18": [rectangle[4] for rectangle in rectangles],
            "remark": pa.nulls(len(rectangles), pa.string()),
            "area_ha": [float(area) / 1e4 for area in shapely.area(boxes)],
            "geom": shapely.to_wkb(boxes),
        }
    )
    pyogrio.write_arrow(
        table,
        path,
        layer="U2018_CLC2018_V2020_20u1",
        driver="GPKG",
        geometry_name="geom",
        geometry_type="Polygon",
        crs=f"EPSG:{epsg}",
    )
    return path
