"""The height of the ground above the ellipsoid at the pixels of a tile, from a digital elevation model.

A model is one raster in any CRS, or many that continue each other (Copernicus GLO-30: one file a degree): a file, a
folder of files, a STAC item or an item collection. Its heights are above the geoid, as those of Copernicus (EGM2008),
SRTM (EGM96) and national models are, or above the ellipsoid already. Nodata inside a raster is sea, at 0 m.

The geoid is EGM96 on a grid of 15', of 0.1 m, bicubic between its nodes: within 0.2 m of the full model, which
itself agrees with EGM2008 within a metre over land; a metre of height is a tenth of a pixel of GRD. The grid is
taken from the public-domain model as PyPI's egm96 0.3.0 carries it, every third node.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import orjson
import rasterio
from affine import Affine
from numba import njit
from numpy.typing import NDArray

from landpatch.catalog.errors import InvalidItem, InvalidParameter
from landpatch.catalog.grid import PATCH_METRES, TILE_METRES, TileGrid
from landpatch.catalog.names import TILE_PATCHES
from landpatch.catalog.scenes import with_absolute_hrefs
from landpatch.functions.hrefs import is_remote, local_path, read_bytes
from landpatch.functions.raster import open_raster
from landpatch.functions.sar import ElevationModel
from landpatch.functions.warp import KNOT_PIXELS, PATCH_PIXELS, TileSampler

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

_GEOID = Path(__file__).parents[1] / "data" / "egm96_15min.tif"
_ASSETS = ("data", "elevation", "dem")
_TIFF = (".tif", ".tiff")


class Elevation:
    """An elevation model at the 10 m pixels of a tile's patches, and ``margin`` metres around; a context manager.

    Raises InvalidParameter for a model that cannot be used, UnreadableAsset, InvalidItem.
    """

    def __init__(self, model: ElevationModel, grid: TileGrid, margin: float = 0.0) -> None:
        self._model, self._grid = model, grid
        self._buffers: dict[str, Float32] = {}
        with ExitStack() as opened:
            self._samplers = []
            for href in _hrefs(model.source, grid, margin):
                dataset = opened.enter_context(open_raster(href))
                _check(href, dataset)
                self._samplers.append(TileSampler(dataset, grid))
            self._stack = opened.pop_all()

    def require(self, wanted: NDArray[np.bool_]) -> None:
        """Check that the model reaches all patch corners that are ``wanted`` (92, 92). Raises InvalidParameter."""
        if self._model.sea:
            return
        east, north = np.meshgrid(
            self._grid.ulx + PATCH_METRES * np.arange(TILE_PATCHES + 1.0),
            self._grid.uly - PATCH_METRES * np.arange(TILE_PATCHES + 1.0),
        )
        reached = np.zeros(wanted.shape, bool)
        for sampler in self._samplers:
            column, row = sampler.lattice.position(east, north)
            height, width = sampler.lattice.shape
            # The half pixel beyond the outermost centres: files that continue each other may leave it to rounding.
            reached |= (row >= -0.5) & (row <= height + 0.5) & (column >= -0.5) & (column <= width + 0.5)
        missing = np.argwhere(wanted & ~reached)
        if len(missing):
            from pyproj import Transformer

            corner = tuple(missing[0])
            to_degrees = Transformer.from_crs(self._grid.epsg, 4326, always_xy=True)
            longitude, latitude = to_degrees.transform(east[corner], north[corner])
            raise InvalidParameter(
                f"the elevation model {self._model.source} does not cover tile {self._grid.tile}: {len(missing)} of "
                f"{int(wanted.sum())} patch corners that the Sentinel-1 scene covers have no height, such as "
                f"{latitude:.3f} N {longitude:.3f} E. Give a larger one, or say --dem-sea where missing files are sea"
            )

    def heights(self, rows: range, columns: range, longitude: Float64, latitude: Float64) -> Float32:
        """Metres above WGS 84 at the pixels of some patches, of the margin too; NaN where the model does not reach.

        Shape (len(rows) * 120, len(columns) * 120), float32; the next call overwrites it. ``longitude`` and
        ``latitude``: degrees of the patches' knots (every 20 pixels, both ends included).
        """
        shape = (len(rows) * PATCH_PIXELS, len(columns) * PATCH_PIXELS)
        total, weight, reach = (self._buffer(name, shape) for name in ("total", "weight", "reach"))
        for sampler in self._samplers:
            sampler.gather(rows, columns, total, weight, reach)
        undulation = np.zeros(longitude.shape)
        if self._model.heights == "geoid":
            undulation = geoid_undulation(longitude, latitude)
        _finish(total, weight, reach, undulation, self._model.sea)
        return total

    def close(self) -> None:
        """Close all files."""
        self._stack.close()

    def _buffer(self, name: str, shape: tuple[int, int]) -> Float32:
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != shape:
            buffer = self._buffers[name] = np.empty(shape, np.float32)
        buffer.fill(0)
        return buffer


def geoid_undulation(longitude: Float64, latitude: Float64) -> Float64:
    """Height of the EGM96 geoid above WGS 84 in metres, at points in degrees of any shape."""
    return _undulation(longitude.ravel(), latitude.ravel(), _geoid()).reshape(longitude.shape)


@cache
def _geoid() -> Float32:
    """Nodes from 90 N to 90 S and from 180 W to 179.75 E, metres, with two more columns and rows on every side."""
    with rasterio.open(_GEOID) as dataset:
        nodes = dataset.read(1).astype(np.float32) * np.float32(dataset.scales[0])
    # Beyond a pole the grid goes on at the opposite longitude.
    turned = np.roll(nodes, nodes.shape[1] // 2, axis=1)
    nodes = np.concatenate([turned[2:0:-1], nodes, turned[-2:-4:-1]])
    return np.ascontiguousarray(np.pad(nodes, ((0, 0), (2, 2)), mode="wrap"))


def _hrefs(source: str, grid: TileGrid, margin: float) -> list[str]:
    """The rasters of a model that may touch a tile, or ``margin`` metres around it."""
    if not is_remote(source) and local_path(source).is_dir():
        found = sorted(str(path) for path in local_path(source).iterdir() if path.suffix.lower() in _TIFF)
        if not found:
            raise InvalidParameter(f"{source} is a folder without GeoTIFFs (*.tif): no elevation model")
        return found
    if not urlsplit(source).path.lower().endswith((".json", ".geojson")):
        return [source]
    try:
        document = orjson.loads(read_bytes(source))
    except orjson.JSONDecodeError as error:
        raise InvalidItem(
            f"{source} is not JSON ({error}); an elevation model is given as raster or STAC item"
        ) from (error)
    kind = document.get("type") if isinstance(document, dict) else None
    if kind not in ("Feature", "FeatureCollection"):
        raise InvalidItem(f"{source} is neither a STAC item nor an item collection (its type is {kind!r})")
    items = [document] if kind == "Feature" else document.get("features") or []
    base = source if is_remote(source) else str(local_path(source))
    found = [_asset(with_absolute_hrefs(item, base)) for item in items if _near(item, grid, margin)]
    if not found:
        raise InvalidParameter(f"none of the {len(items)} items of {source} touches tile {grid.tile}")
    return sorted(set(found))


def _near(item: Any, grid: TileGrid, margin: float) -> bool:
    """Whether an item's bbox touches the tile's with its margin; True where it has none that can be compared."""
    from pyproj import Transformer

    box = item.get("bbox") if isinstance(item, dict) else None
    if not isinstance(box, Sequence) or len(box) not in (4, 6):
        return True
    try:
        west, south, east, north = (float(box[i]) for i in ((0, 1, 2, 3) if len(box) == 4 else (0, 1, 3, 4)))
    except (TypeError, ValueError):
        return True
    to_degrees = Transformer.from_crs(grid.epsg, 4326, always_xy=True)
    left, bottom, right, top = to_degrees.transform_bounds(
        grid.ulx - margin, grid.uly - TILE_METRES - margin, grid.ulx + TILE_METRES + margin, grid.uly + margin
    )
    if top < south or bottom > north:
        return False
    if left > right or west > east:  # across the antimeridian: let the pixels decide
        return True
    return not (right < west or left > east)


def _asset(item: dict[str, Any]) -> str:
    """The raster of a DEM item: the asset ``data`` (Copernicus DEM of both catalogues), or the only GeoTIFF."""
    assets: dict[str, dict[str, Any]] = item["assets"]
    for key in _ASSETS:
        if key in assets:
            return str(assets[key]["href"])
    tiffs = [str(a["href"]) for a in assets.values() if str(a.get("type", "")).startswith("image/tiff")]
    if len(tiffs) != 1:
        raise InvalidItem(
            f"item {item.get('id')}: which of its assets ({', '.join(assets)}) holds heights? "
            "Name it data or elevation"
        )
    return tiffs[0]


def _check(href: str, dataset: rasterio.DatasetReader) -> None:
    if dataset.crs is None or dataset.transform == Affine.identity() or dataset.transform.is_degenerate:
        raise InvalidParameter(f"the elevation model {href} has no CRS or no geotransform")
    if dataset.count != 1:
        raise InvalidParameter(f"the elevation model {href} has {dataset.count} bands; heights are one band")
    if np.dtype(dataset.dtypes[0]).kind not in "fiu":
        raise InvalidParameter(f"the elevation model {href} has pixels of type {dataset.dtypes[0]}, not heights")


@njit(cache=True, nogil=True)
def _finish(total: Float32, weight: Float32, reach: Float32, undulation: Float64, sea: bool) -> None:
    """From sums to heights above the ellipsoid, in ``total``; the undulation is bilinear between knots."""
    for k in range(undulation.shape[0] - 1):
        for j in range(undulation.shape[1] - 1):
            for y in range(KNOT_PIXELS):
                below = (y + 0.5) / KNOT_PIXELS
                start = undulation[k, j] + (undulation[k + 1, j] - undulation[k, j]) * below
                end = undulation[k, j + 1] + (undulation[k + 1, j + 1] - undulation[k, j + 1]) * below
                row = k * KNOT_PIXELS + y
                for x in range(KNOT_PIXELS):
                    column = j * KNOT_PIXELS + x
                    if weight[row, column] > 0:
                        height = total[row, column] / weight[row, column]
                    elif sea or reach[row, column] > 0:
                        height = np.float32(0)
                    else:
                        height = np.float32(np.nan)
                    geoid = start + (end - start) * ((x + 0.5) / KNOT_PIXELS)
                    total[row, column] = height + np.float32(geoid)


@njit(cache=True, nogil=True)
def _cubic(t: float) -> tuple[float, float, float, float]:
    """Weights of the nodes at -1, 0, 1, 2 for a point at ``t`` in 0..1 (Catmull-Rom)."""
    return (
        ((2 - t) * t - 1) * t / 2,
        ((3 * t - 5) * t * t + 2) / 2,
        ((4 - 3 * t) * t + 1) * t / 2,
        (t - 1) * t * t / 2,
    )


@njit(cache=True, nogil=True)
def _undulation(longitude: Float64, latitude: Float64, nodes: Float32) -> Float64:
    out = np.empty(longitude.size)
    for i in range(longitude.size):
        if not (np.isfinite(longitude[i]) and np.isfinite(latitude[i])):
            out[i] = np.nan
            continue
        row, column = (90 - latitude[i]) * 4, ((longitude[i] + 180) % 360) * 4
        r, c = int(min(row, 719)), int(column)
        across, down = _cubic(column - c), _cubic(row - r)
        value = 0.0
        for y in range(4):
            for x in range(4):
                value += down[y] * across[x] * nodes[r + 1 + y, c + 1 + x]
        out[i] = value
    return out
