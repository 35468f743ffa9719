"""A Sentinel-1 GRD product on the patch grid of a tile: sigma0 or gamma0 of VV and VH as float32 decibel.

Work goes piece by piece, 7 x 7 patches: the piece's window of both images is read and calibrated in radar
geometry, then every pixel of the piece takes the bilinear mean, in power, of the four calibrated pixels around its
place in the product. Neither pieces nor strips change a bit of a pixel: those of sigma0 depend on nothing else, and
terrain is flattened in pieces of 13 x 13 patches that lie fixed in the tile and are made whole.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from types import TracebackType
from typing import Any, Self

import numpy as np
import rasterio
from numba import njit
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window

from landpatch.catalog.errors import InvalidScene, UnreadableAsset
from landpatch.catalog.grid import PATCH_METRES, TileGrid, strips
from landpatch.catalog.names import TILE_PATCHES
from landpatch.catalog.scenes import RadarScene
from landpatch.functions.raster import open_raster
from landpatch.functions.sar import ElevationModel, to_decibel
from landpatch.functions.sar_grd.annotation import Float64, read_annotation, read_calibration, read_noise
from landpatch.functions.sar_grd.calibration import Calibration, Counts, Float32
from landpatch.functions.sar_grd.elevation import Elevation
from landpatch.functions.sar_grd.flattening import MARGIN_PATCHES, Facets, facet_knots
from landpatch.functions.sar_grd.geometry import (
    HEIGHT_MIDDLE,
    HEIGHT_REACH,
    Geometry,
    record_of,
    sample_at,
    samples,
)
from landpatch.functions.warp import KNOT_PIXELS, PATCH_PIXELS, PIXEL_METRES

_PIECE_PATCHES = 7  # a piece's arrays take 40 MB; 13 would take 120 and be no faster
_FLAT_PATCHES = 13  # divides a tile, and is how many rows a build then reads at once; 7 would have twice the margins
_PATCH_KNOTS = PATCH_PIXELS // KNOT_PIXELS
_MARGIN = 8  # pixels around what a piece's knots ask for: between knots lie joints of ground range polynomials


class GrdReader:
    """The two polarisations of a GRD product at the 10 m pixels of a tile's patches; a context manager.

    Takes the place of ``sar.RadarReader``. Raises UnreadableAsset; InvalidScene for a product whose files contradict
    each other; InvalidParameter for an elevation model that cannot be used or does not cover what the product does.
    """

    def __init__(self, scene: RadarScene, grid: TileGrid, model: ElevationModel) -> None:
        from pyproj import Transformer

        assert scene.grd is not None
        self.scene, self.grid = scene, grid
        self._flattens = scene.backscatter == "gamma0-terrain"
        quantity = "betaNought" if self._flattens else "sigmaNought"
        annotation = read_annotation(scene.grd.annotation)
        self.geometry = Geometry(annotation)
        self.shape = annotation.shape
        self._to_degrees = Transformer.from_crs(grid.epsg, 4326, always_xy=True)
        self._buffers: dict[str, NDArray[Any]] = {}
        self._calibrations = [
            Calibration(read_calibration(calibration, quantity), read_noise(noise), self.shape)
            for calibration, noise in zip(scene.grd.calibration, scene.grd.noise, strict=True)
        ]
        with ExitStack() as opened:
            self._images = []
            for href in (scene.vv, scene.vh):
                image = opened.enter_context(open_raster(href))
                if (image.count, image.dtypes[0], image.shape) != (1, "uint16", self.shape):
                    raise InvalidScene(
                        f"Sentinel-1 scene {scene.item_id}: {href} has {image.count} band(s) of {image.dtypes[0]}, "
                        f"shape {image.shape}; its annotation {annotation.href} describes uint16 of {self.shape}"
                    )
                self._images.append(image)
            margin = MARGIN_PATCHES * PATCH_METRES if self._flattens else 0
            self._elevation = opened.enter_context(closing(Elevation(model, grid, margin)))
            self._elevation.require(self._covered_corners())
            self._stack = opened.pop_all()

    @property
    def aligned(self) -> bool:
        """Never: pixels of radar geometry are always resampled."""
        return False

    @property
    def strip_rows(self) -> int:
        """A whole number of pieces."""
        return _FLAT_PATCHES if self._flattens else _PIECE_PATCHES

    def strip(self, rows: range, out: Float32) -> None:
        """Read some patch rows (0..90) as ``out``, float32 of shape (2, len(rows) * 120, 10920): VV, VH in dB.

        ``10 log10(max(power, 1e-7))``; NaN outside the product, where it has no data, where the elevation model
        has none, and, of gamma0, in shadow. Raises UnreadableAsset.
        """
        self.power(rows, range(TILE_PATCHES), out)
        for plane in out:
            to_decibel(plane)

    def power(self, rows: range, columns: range, out: Float32) -> None:
        """Read some patch rows and columns as ``out``, float32 (2, len(rows) * 120, len(columns) * 120): VV, VH.

        Sigma0 or gamma0 as linear power; NaN as in ``strip``. Raises UnreadableAsset.
        """
        for piece_rows in self._pieces(rows):
            for piece_columns in self._pieces(columns):
                (lines, from_lines), (pixels, from_pixels) = (
                    _shared(piece, whole) for piece, whole in ((piece_rows, rows), (piece_columns, columns))
                )
                target = out[:, lines, pixels]
                size = len(piece_rows) * PATCH_PIXELS, len(piece_columns) * PATCH_PIXELS
                if target.shape[1:] == size:
                    self._piece(piece_rows, piece_columns, target)
                else:
                    piece = np.empty((2, *size), np.float32)
                    self._piece(piece_rows, piece_columns, piece)
                    target[:] = piece[:, from_lines, from_pixels]

    def _pieces(self, asked: range) -> Iterator[range]:
        """Patch rows (or columns) that hold those asked for."""
        if not self._flattens:
            return strips(asked.start, asked.stop, _PIECE_PATCHES)
        first = asked.start // _FLAT_PATCHES * _FLAT_PATCHES
        last = -(-asked.stop // _FLAT_PATCHES) * _FLAT_PATCHES
        return strips(first, min(last, TILE_PATCHES), _FLAT_PATCHES)

    def _piece(self, rows: range, columns: range, out: Float32) -> None:
        """The same for a few patches, whose arrays fit into memory at once."""
        out.fill(np.nan)
        margin_patches = MARGIN_PATCHES if self._flattens else 0
        wide_rows, wide_columns = (
            range(part.start - margin_patches, part.stop + margin_patches) for part in (rows, columns)
        )
        longitude, latitude = self._degrees(
            *(
                np.arange(part.start * _PATCH_KNOTS, part.stop * _PATCH_KNOTS + 1.0) * (KNOT_PIXELS * PIXEL_METRES)
                for part in (wide_rows, wide_columns)
            )
        )
        knots = _inner(self.geometry.knots(longitude, latitude), margin_patches * _PATCH_KNOTS)
        if self._window(knots, -500.0, 9000.0, _MARGIN) is None:
            return
        heights = self._elevation.heights(wide_rows, wide_columns, longitude, latitude)
        facets = None
        if self._flattens:
            facets = Facets(facet_knots(self.geometry, longitude, latitude), heights, self.geometry.ground)
            heights = _inner(heights, margin_patches * PATCH_PIXELS)
        lowest, highest = _extremes(heights)
        if lowest > highest:
            return
        margin, outside = _MARGIN, 1
        while outside:
            window = self._window(knots, lowest, highest, margin)
            if window is None:
                return
            powers = self._powers(*window)
            if facets is not None:
                facets.flatten(*window[:2], *powers)
            outside = _sample(*powers, *window[:2], *self.shape, knots, heights, *self.geometry.ground, out)
            margin *= 4
        if facets is not None:
            facets.mask_hidden(margin_patches * PATCH_PIXELS, out)

    def _degrees(self, down: Float64, right: Float64) -> tuple[Float64, Float64]:
        """Longitude and latitude of the lattice of points at these metres from the tile's corner."""
        east, north = np.meshgrid(self.grid.ulx + right, self.grid.uly - down)
        return self._to_degrees.transform(east, north)

    def _window(self, knots: Float64, lowest: float, highest: float, margin: int) -> tuple[int, int, int, int] | None:
        """Top, left, bottom, right of the pixels under some knots at heights of this range, if any."""
        places = []
        for height in (lowest, highest):
            u = (height - HEIGHT_MIDDLE) / HEIGHT_REACH
            lines = (knots[0] + knots[1] * u + knots[2] * u * u).ravel()
            ranges = (knots[3] + knots[4] * u + knots[5] * u * u).ravel()
            places.append(np.stack([lines, samples(lines, ranges, *self.geometry.ground)]))
        reached = np.concatenate(places, axis=1)
        reached = reached[:, np.isfinite(reached).all(axis=0)]
        if reached.shape[1] == 0:
            return None
        limits = np.array(self.shape)
        low = np.clip(np.floor(reached.min(axis=1)) - margin, 0, limits).astype(int)
        high = np.clip(np.ceil(reached.max(axis=1)) + margin + 1, 0, limits).astype(int)
        if (low >= high).any():
            return None
        return int(low[0]), int(low[1]), int(high[0]), int(high[1])

    def _covered_corners(self) -> NDArray[np.bool_]:
        """Which patch corners (92, 92) the product covers, if the ground lay at sea level."""
        along = np.arange(TILE_PATCHES + 1.0) * PATCH_METRES
        knots = self.geometry.knots(*self._degrees(along, along))
        u = -HEIGHT_MIDDLE / HEIGHT_REACH
        lines = knots[0] + knots[1] * u + knots[2] * u * u
        ranges = knots[3] + knots[4] * u + knots[5] * u * u
        pixels = samples(lines.ravel(), ranges.ravel(), *self.geometry.ground).reshape(lines.shape)
        with np.errstate(invalid="ignore"):
            return np.asarray(
                (lines >= 0) & (lines <= self.shape[0] - 1) & (pixels >= 0) & (pixels <= self.shape[1] - 1)
            )

    def _powers(self, top: int, left: int, bottom: int, right: int) -> tuple[Float32, Float32]:
        """The calibrated window of both images; the next call overwrites it."""
        shape = (bottom - top, right - left)
        powers, border = [], None
        for name, image, calibration in zip(("vv", "vh"), self._images, self._calibrations, strict=True):
            counts = self._read(image, name, Window(left, top, shape[1], shape[0]))
            power = self._buffer(f"power-{name}", shape, np.dtype(np.float32))
            calibration.power(counts, top, left, power)
            powers.append(power)
            if name == "vv" and calibration.has_border_noise:
                border = counts
        if border is not None:
            self._calibrations[0].mask_border(border, top, left, *powers)
        return powers[0], powers[1]

    def _read(self, image: rasterio.DatasetReader, name: str, window: Window) -> Counts:
        counts: Counts = self._buffer(f"counts-{name}", (window.height, window.width), np.dtype(np.uint16))
        try:
            image.read(1, window=window, out=counts)
        except RasterioError as error:
            raise UnreadableAsset(
                f"{image.name}: lines {window.row_off} to {window.row_off + window.height} cannot be read "
                f"({error.__cause__ or error}); the file is truncated, corrupt or no longer reachable: fetch it again"
            ) from error
        return counts

    def _buffer(self, name: str, shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Memory that is kept between pieces."""
        size = shape[0] * shape[1]
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            buffer = self._buffers[name] = np.empty(size, dtype)
        return buffer[:size].reshape(shape)

    def close(self) -> None:
        """Close all files."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _shared(piece: range, whole: range) -> tuple[slice, slice]:
    """The pixels that patches of a piece and of a whole share: slices of the whole, of the piece."""
    first, last = max(piece.start, whole.start) * PATCH_PIXELS, min(piece.stop, whole.stop) * PATCH_PIXELS
    of_whole, of_piece = (
        slice(first - part.start * PATCH_PIXELS, last - part.start * PATCH_PIXELS) for part in (whole, piece)
    )
    return of_whole, of_piece


def _inner(values: NDArray[Any], margin: int) -> NDArray[Any]:
    """Without so many rows and columns (the last two axes) on all sides; contiguous."""
    if margin == 0:
        return values
    return np.ascontiguousarray(values[..., margin:-margin, margin:-margin])


@njit(cache=True, nogil=True)
def _extremes(heights: Float32) -> tuple[float, float]:
    """Lowest and highest number; infinities the wrong way round where there is none."""
    low, high = np.float32(np.inf), np.float32(-np.inf)
    for row in heights:
        for value in row:
            low = min(low, value) if value == value else low
            high = max(high, value) if value == value else high
    return float(low), float(high)


@njit(cache=True, nogil=True)
def _sample(
    vv: Float32,
    vh: Float32,
    top: int,
    left: int,
    image_lines: int,
    image_samples: int,
    knots: Float64,
    heights: Float32,
    ground: Float64,
    origins: Float64,
    coefficients: Float64,
    out: Float32,
) -> int:
    """Fill ``out`` (2, rows, columns) from the windows ``vv`` and ``vh``, whose first pixel is (``top``, ``left``).

    Returns how many pixels lie in the image, but not in the windows.
    """
    height, width = vv.shape
    one, outside, record = np.float32(1), 0, 0
    start, step = np.empty(6), np.empty(6)
    for k in range(knots.shape[1] - 1):
        for y in range(KNOT_PIXELS):
            below = (y + 0.5) / KNOT_PIXELS
            row = k * KNOT_PIXELS + y
            for j in range(knots.shape[2] - 1):
                for i in range(6):
                    start[i] = knots[i, k, j] + (knots[i, k + 1, j] - knots[i, k, j]) * below
                    end = knots[i, k, j + 1] + (knots[i, k + 1, j + 1] - knots[i, k, j + 1]) * below
                    step[i] = (end - start[i]) / KNOT_PIXELS
                for x in range(KNOT_PIXELS):
                    column = j * KNOT_PIXELS + x
                    at = x + 0.5
                    u = (heights[row, column] - HEIGHT_MIDDLE) / HEIGHT_REACH
                    line = start[0] + step[0] * at + u * (start[1] + step[1] * at + u * (start[2] + step[2] * at))
                    if not 0 <= line <= image_lines - 1:  # also NaN
                        continue
                    distance = start[3] + step[3] * at + u * (start[4] + step[4] * at + u * (start[5] + step[5] * at))
                    record = record_of(line, record, ground)
                    sample = sample_at(line, distance, record, ground, origins, coefficients)
                    if not 0 <= sample <= image_samples - 1:
                        continue
                    r, c = int(line), int(sample)
                    south, east = np.float32(line - r), np.float32(sample - c)
                    r -= top
                    c -= left
                    down, right = (1 if south > 0 else 0), (1 if east > 0 else 0)
                    if r < 0 or c < 0 or r + down >= height or c + right >= width:
                        outside += 1
                        continue
                    upper = vv[r, c] * (one - east) + vv[r, c + right] * east
                    lower = vv[r + down, c] * (one - east) + vv[r + down, c + right] * east
                    out[0, row, column] = upper * (one - south) + lower * south
                    upper = vh[r, c] * (one - east) + vh[r, c + right] * east
                    lower = vh[r + down, c] * (one - east) + vh[r + down, c + right] * east
                    out[1, row, column] = upper * (one - south) + lower * south
    return outside
