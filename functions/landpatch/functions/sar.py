"""Sentinel-1 on the patch grid of a tile: VV and VH as float32 decibel.

Takes terrain-corrected scenes in linear power or in decibel, on any grid; GRD products are left to ``sar_grd``.
Pixels are averaged in power, never in decibel (the logarithm of a mean is not the mean of logarithms), and only where
the grids do not coincide. What the backscatter of these is (sigma0, gamma0) stays as it was: the scene says it.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import rasterio
from affine import Affine
from numba import njit
from numpy.typing import NDArray

from landpatch.catalog.errors import InvalidParameter, InvalidScene
from landpatch.catalog.grid import STRIP_ROWS, TileGrid
from landpatch.catalog.scenes import HeightsAbove, RadarScene
from landpatch.functions.raster import open_raster
from landpatch.functions.warp import Float32, TileSampler

POWER_FLOOR = 1e-7
"""Power below this (also zero, and negative after noise removal) counts as this: -70 dB, far below the noise."""


@dataclass(frozen=True, slots=True)
class ElevationModel:
    """Where the height of the ground comes from, which GRD products need.

    ``source``: href of a GeoTIFF in any CRS, of a STAC item or item collection (.json, .geojson), or a folder of
    GeoTIFFs. ``heights``: what they are above. ``sea``: where the model has no file there is sea, as in Copernicus
    GLO-30, which has none for open sea; else a model that does not cover the tile is an error.
    """

    source: str
    heights: HeightsAbove = "geoid"
    sea: bool = False


class RadarStrips(Protocol):
    """What reads a scene on the patch grid of a tile; see RadarReader."""

    @property
    def aligned(self) -> bool:
        """Whether pixels are on the tile's own grid."""

    @property
    def strip_rows(self) -> int:
        """How many patch rows are best read at once."""

    def strip(self, rows: range, out: Float32) -> None:
        """Read some patch rows as decibel."""

    def close(self) -> None:
        """Close all files."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_radar(scene: RadarScene, grid: TileGrid, model: ElevationModel | None) -> RadarStrips:
    """The reader for a scene; ``model`` is needed for GRD products. Raises what readers raise, InvalidParameter."""
    if scene.grd is None:
        return RadarReader(scene, grid)
    if model is None:
        raise InvalidParameter(
            f"Sentinel-1 scene {scene.item_id} is a GRD product in radar geometry, which needs the height of the "
            "ground: give an elevation model with --dem (a GeoTIFF, a folder of them, or the STAC items of "
            "Copernicus GLO-30), or use a terrain-corrected product such as sentinel-1-rtc"
        )
    # Here, because few builds need it: its compiled functions take a while to load.
    from landpatch.functions.sar_grd.reader import GrdReader

    return GrdReader(scene, grid, model)


class RadarReader:
    """The two polarisations of a scene at the 10 m pixels of a tile's patches; a context manager.

    Raises UnreadableAsset for a file that cannot be opened, and InvalidScene for one that is not a geocoded raster
    of one real-valued band.
    """

    def __init__(self, scene: RadarScene, grid: TileGrid) -> None:
        self.scene = scene
        self._stack = ExitStack()
        with ExitStack() as opened:
            vv = opened.enter_context(open_raster(scene.vv))
            vh = opened.enter_context(open_raster(scene.vh))
            for href, dataset in ((scene.vv, vv), (scene.vh, vh)):
                _check(scene, href, dataset)
            first, second = scene.bands or (1, 1)
            self._samplers = [TileSampler(vv, grid, first, nodata=scene.nodata)]
            self._samplers.append(
                TileSampler(vh, grid, second, nodata=scene.nodata, lattice=self._samplers[0].lattice)
            )
            self._stack = opened.pop_all()

    @property
    def aligned(self) -> bool:
        """Whether both files are on the tile's own grid, so that decibel pixels come out bit for bit."""
        return all(sampler.aligned for sampler in self._samplers)

    @property
    def strip_rows(self) -> int:
        """Those of a strip: how the work is cut is all the same here."""
        return STRIP_ROWS

    def strip(self, rows: range, out: Float32) -> None:
        """Read some patch rows (0..90) as ``out``, float32 of shape (2, len(rows) * 120, 10920): VV, VH in dB.

        NaN where there is no data: outside the scene, nodata, not finite, or where one of the pixels that a
        weighted mean needs is so. Decibel on the tile's own grid is copied unchanged; all else is
        ``10 log10(max(power, 1e-7))``. Raises UnreadableAsset.
        """
        for plane, sampler in zip(out, self._samplers, strict=True):
            if self.scene.unit == "dB" and sampler.aligned:
                sampler.bilinear(rows, plane)
            else:
                sampler.bilinear(rows, plane, linearise=to_power if self.scene.unit == "dB" else None)
                to_decibel(plane)

    def close(self) -> None:
        """Close both files."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check(scene: RadarScene, href: str, dataset: rasterio.DatasetReader) -> None:
    what = f"Sentinel-1 scene {scene.item_id}: {href}"
    ground_control_points, _ = dataset.gcps
    if ground_control_points and (dataset.crs is None or dataset.transform == Affine.identity()):
        raise InvalidScene(
            f"{what} has ground control points instead of a grid, as GRD products do; it must be geocoded (terrain "
            "corrected) first. Use a terrain-corrected product such as sentinel-1-rtc"
        )
    if dataset.crs is None or dataset.transform == Affine.identity() or dataset.transform.is_degenerate:
        raise InvalidScene(f"{what} has no CRS or no geotransform; geocode it first")
    if dataset.count != (1 if scene.bands is None else 2):
        raise InvalidScene(
            f"{what} has {dataset.count} bands; a file per polarisation is needed, with one band, or one file of two "
            "bands that the item names VV and VH"
        )
    if np.dtype(dataset.dtypes[0]).kind not in "fiu":
        raise InvalidScene(f"{what} has pixels of type {dataset.dtypes[0]}; backscatter as real numbers is needed")


# Both conversions work on bits of IEEE 754 float32, so that compilers can do eight or sixteen pixels at once: four to
# eight times faster than the C library. Every operation is exactly rounded and none depends on a pixel's neighbours,
# so neither the cut of the work nor the machine changes a bit.
_CHUNK = 2048  # pixels; input and output of a chunk stay in the processor's first-level cache
_EXPONENT_BITS = np.int32(23)
_MANTISSA = np.int32(0x7FFFFF)
_INFINITY = np.int32(0x7F800000)
_NO_SIGN = np.int32(0x7FFFFFFF)
_FLOOR_BITS = np.float32(POWER_FLOOR).view(np.int32)
_SQRT2 = np.float32(2**0.5)
_DB_PER_NEPER = np.float32(10 / np.log(10))
_DB_PER_OCTAVE = np.float32(10 * np.log10(2))
_OCTAVES_PER_DB = np.float32(np.log2(10) / 10)


def to_decibel(power: Float32) -> None:
    """``10 log10(max(power, 1e-7))`` in place: contiguous float32 of any shape; NaN stays. Within 6e-6 dB."""
    _to_decibel(*_flat(power))


def to_power(decibel: Float32) -> None:
    """``10 ** (decibel / 10)`` in place: contiguous float32 of any shape; NaN stays.

    Within 8e-7 of the value (3e-6 dB); decibel outside -300..300 count as those.
    """
    _to_power(*_flat(decibel))


def _flat(values: Float32) -> tuple[Float32, NDArray[np.int32]]:
    """The same memory as numbers and as bits."""
    if values.dtype != np.float32 or not values.flags.c_contiguous:
        raise ValueError("pixels must be contiguous float32 to be converted in place")
    flat = values.reshape(-1)
    return flat, flat.view(np.int32)


@njit(cache=True, nogil=True)
def _to_decibel(values: Float32, bits: NDArray[np.int32]) -> None:
    """``bits`` is the same memory as ``values``."""
    chunk = np.empty(_CHUNK, np.int32)
    for start in range(0, values.size, _CHUNK):
        size = min(_CHUNK, values.size - start)
        chunk[:size] = bits[start : start + size]
        _decibel_of_bits(chunk[:size], values[start : start + size])


@njit(cache=True, nogil=True)
def _decibel_of_bits(bits: NDArray[np.int32], decibel: Float32) -> None:
    """The logarithm of m * 2^e, with m between sqrt(1/2) and sqrt(2): Cephes' polynomial (logf.c, S. Moshier)."""
    for i in range(bits.size):
        bit = bits[i]
        mantissa = np.float32(1) + np.float32(bit & _MANTISSA) * np.float32(2.0**-23)
        exponent = np.float32(np.int32((bit >> _EXPONENT_BITS) - np.int32(127)))
        large = mantissa > _SQRT2
        f = (mantissa * np.float32(0.5) if large else mantissa) - np.float32(1)
        exponent = exponent + np.float32(1) if large else exponent
        p = np.float32(7.0376836292e-2)
        p = p * f - np.float32(1.1514610310e-1)
        p = p * f + np.float32(1.1676998740e-1)
        p = p * f - np.float32(1.2420140846e-1)
        p = p * f + np.float32(1.4249322787e-1)
        p = p * f - np.float32(1.6668057665e-1)
        p = p * f + np.float32(2.0000714765e-1)
        p = p * f - np.float32(2.4999993993e-1)
        p = p * f + np.float32(3.3333331174e-1)
        square = f * f
        nepers = f + (square * f * p - np.float32(0.5) * square)
        value = _DB_PER_NEPER * nepers + _DB_PER_OCTAVE * exponent
        # Negative numbers have negative bits.
        value = value if bit > _FLOOR_BITS else np.float32(-70)
        decibel[i] = np.float32(np.nan) if (bit & _NO_SIGN) > _INFINITY else value


@njit(cache=True, nogil=True)
def _to_power(values: Float32, bits: NDArray[np.int32]) -> None:
    """``bits`` is the same memory as ``values``."""
    fraction = np.empty(_CHUNK, np.float32)
    exponent = np.empty(_CHUNK, np.int32)
    for start in range(0, values.size, _CHUNK):
        size = min(_CHUNK, values.size - start)
        _power_in_parts(values[start : start + size], fraction[:size], exponent[:size])
        _times_power_of_two(fraction[:size].view(np.int32), exponent[:size], bits[start : start + size])


@njit(cache=True, nogil=True)
def _power_in_parts(decibel: Float32, fraction: Float32, exponent: NDArray[np.int32]) -> None:
    """10^(dB/10) = 2^x = 2^f * 2^e with whole e and f between -1/2 and 1/2; ``fraction`` is 2^f."""
    for i in range(decibel.size):
        value = decibel[i]
        octaves = value * _OCTAVES_PER_DB
        octaves = octaves if octaves > np.float32(-100) else np.float32(-100)  # also NaN
        octaves = octaves if octaves < np.float32(100) else np.float32(100)
        whole = np.floor(octaves + np.float32(0.5))
        f = octaves - whole
        # Least squares at Chebyshev nodes, relative error 3e-9.
        p = np.float32(1.54697320e-4)
        p = p * f + np.float32(1.34004322e-3)
        p = p * f + np.float32(9.61802560e-3)
        p = p * f + np.float32(5.55032721e-2)
        p = p * f + np.float32(2.40226512e-1)
        p = p * f + np.float32(6.93147207e-1)
        p = p * f + np.float32(1)
        fraction[i] = p if value == value else value
        exponent[i] = np.int32(whole) if value == value else np.int32(0)


@njit(cache=True, nogil=True)
def _times_power_of_two(fraction: NDArray[np.int32], exponent: NDArray[np.int32], product: NDArray[np.int32]) -> None:
    """On bits: adding to a float's exponent multiplies it by that power of two."""
    for i in range(fraction.size):
        product[i] = fraction[i] + (exponent[i] << _EXPONENT_BITS)
