"""Rasters of any grid and CRS, resampled onto the patch grid of a tile.

GDAL's warper gives results that depend on the window that is asked for: against an exact transform 0.002 dB off in a
window of 120 px, 2.8 dB in one of 5460 px. Here the position of every patch-grid pixel in the source is exact (PROJ)
on a lattice of knots fixed to the patches, and linear between them: a patch depends on nothing but itself, so that
the same bytes come out however the work is cut. Read are only the pixels that the asked rows need.

Source positions are in pixels from the source's upper-left corner: the centre of its first pixel is (0.5, 0.5).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numba import njit
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import MaskFlags, WktVersion
from rasterio.errors import RasterioError
from rasterio.windows import Window

from landpatch.catalog.errors import InvalidScene, UnreadableAsset
from landpatch.catalog.grid import PATCH_METRES, TileGrid, strips
from landpatch.catalog.names import TILE_PATCHES

PIXEL_METRES = 10
PATCH_PIXELS = PATCH_METRES // PIXEL_METRES
TILE_PIXELS = TILE_PATCHES * PATCH_PIXELS
"""Width of a tile's patch area in pixels of 10 m: 10920."""

KNOT_PIXELS = 20
"""Distance of the knots; it divides a patch, so that every patch corner is one. Measured error of interpolating
between them: at most 2e-5 px between UTM zones and from EPSG:3035, 2e-4 px from EPSG:4326 at 65 N, 7e-4 px at 83 N
(at 120 px: 6e-4, 7e-3 and 3e-2 px), for 0.1 CPU s a tile."""

_PATCH_KNOTS = PATCH_PIXELS // KNOT_PIXELS
_ALIGNED_PIXELS = 1e-3  # a centimetre: far below any geolocation, far above the rounding of a geotransform
_STRAYING_PIXELS = 1e-4  # what a shift may grow by across the tile and still count as one
_SNAP_PIXELS = 1e-6  # weights below this are rounding: float32 cannot show them, but they would spread nodata
_FAR_BEFORE, _FAR_BEHIND = -(2.0**30), 2.0**30  # indices that lie in no window, and still in int32
_WINDOW_PIXELS = 2**25  # largest source window read at once (134 MB as float32): four times a strip of 7 patch rows
_SEAM_METRES, _SEAM_DEGREES = 100_000.0, 90.0  # knots 200 m apart never lie so far apart but across a map's seam

Float32 = NDArray[np.float32]
Box = tuple[int, int, int, int]
"""A source window: top, left, bottom, right, the last two exclusive."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Patches to be done at once: patch rows and columns (rows counted from the first asked one), and the source
    window that they need, or None where the source has nothing.
    """

    top: int
    bottom: int
    left: int
    right: int
    window: Box | None

    @property
    def corner(self) -> tuple[int, int]:
        """Row and column of the piece's first pixel among the asked ones."""
        return self.top * PATCH_PIXELS, self.left * PATCH_PIXELS

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Where the piece's pixels are among the asked ones."""
        rows = slice(self.top * PATCH_PIXELS, self.bottom * PATCH_PIXELS)
        return rows, slice(self.left * PATCH_PIXELS, self.right * PATCH_PIXELS)

    @property
    def knots(self) -> tuple[slice, slice, slice]:
        """Where the piece's knots are in an array (2, rows, columns) of knots."""
        rows = slice(self.top * _PATCH_KNOTS, self.bottom * _PATCH_KNOTS + 1)
        columns = slice(self.left * _PATCH_KNOTS, self.right * _PATCH_KNOTS + 1)
        return slice(None), rows, columns


class Lattice:
    """Where the patch grid of a tile lies in a source grid.

    Rasters on one grid (the polarisations of a scene) share one lattice. Raises InvalidScene when the source's CRS
    cannot be transformed.
    """

    def __init__(self, dataset: rasterio.DatasetReader, grid: TileGrid) -> None:
        self.grid = grid
        self.crs: CRS = dataset.crs
        self.transform: Affine = dataset.transform
        self.shape: tuple[int, int] = dataset.shape
        self._same_crs = bool(self.crs == CRS.from_epsg(grid.epsg))
        self._transformer = None if self._same_crs else self._to_source(dataset.name)
        pixel = math.sqrt(abs(self.transform.determinant))
        self.seam = (_SEAM_DEGREES if self.crs.is_geographic else _SEAM_METRES) / pixel
        self._last: tuple[range, range, NDArray[np.float64]] | None = None
        self.shift = self._shift()

    def _to_source(self, name: str) -> Any:
        from pyproj import Transformer
        from pyproj.exceptions import ProjError

        try:
            wkt = self.crs.to_wkt(version=WktVersion.WKT2_2019)
            return Transformer.from_crs(self.grid.epsg, wkt, always_xy=True)
        except (ProjError, RasterioError) as error:
            raise InvalidScene(
                f"{name}: no transformation from the tile's EPSG:{self.grid.epsg} to the file's CRS ({error}); "
                "give the file a known geographic or projected CRS"
            ) from error

    def serves(self, dataset: rasterio.DatasetReader, grid: TileGrid) -> bool:
        """Whether this lattice was made for the tile, and for a raster of the same grid as ``dataset``."""
        return bool(
            grid == self.grid
            and dataset.crs == self.crs
            and dataset.transform == self.transform
            and dataset.shape == self.shape
        )

    def knots(self, rows: range, columns: range = range(TILE_PATCHES)) -> NDArray[np.float64]:
        """Source column and row of the knots of some patch rows and columns, which may lie beyond the tile's.

        Shape (2, len(rows) * 6 + 1, len(columns) * 6 + 1), float64 pixels; not finite where the source's CRS does
        not reach.
        """
        last = self._last
        if last is not None and last[:2] == (rows, columns):
            return last[2]
        metres = KNOT_PIXELS * PIXEL_METRES
        east = self.grid.ulx + metres * np.arange(
            columns.start * _PATCH_KNOTS, columns.stop * _PATCH_KNOTS + 1, dtype=np.float64
        )
        north = self.grid.uly - metres * np.arange(
            rows.start * _PATCH_KNOTS, rows.stop * _PATCH_KNOTS + 1, dtype=np.float64
        )
        knots = self.position(*np.meshgrid(east, north))
        self._last = (rows, columns, knots)
        return knots

    def position(self, east: NDArray[np.float64], north: NDArray[np.float64]) -> NDArray[np.float64]:
        """Exact source column and row, stacked (2, ...), of points in metres of the tile's UTM zone."""
        x, y = east, north
        if self._transformer is not None:
            x, y = self._transformer.transform(east, north)
            if self.crs.is_geographic:
                x = self._unwrapped(x, self._transformer)
        t = self.transform
        with np.errstate(invalid="ignore"):  # infinities of points that PROJ cannot transform
            dx, dy = x - t.c, y - t.f
            return np.stack([(t.e * dx - t.b * dy), (t.a * dy - t.d * dx)]) / t.determinant

    def _unwrapped(self, longitude: NDArray[np.float64], transformer: Any) -> NDArray[np.float64]:
        """Longitudes without a jump inside the tile, on the turn of the globe that is nearest to the source."""
        (height, width), t = self.shape, self.transform
        source = t.c + t.a * width / 2 + t.b * height / 2
        tile, _ = transformer.transform(self.grid.ulx + 54_600, self.grid.uly - 54_600)
        turned = tile + 360 * round((source - tile) / 360)
        with np.errstate(invalid="ignore"):
            turns = np.round((turned - longitude) / 360)
            return np.asarray(np.where(turns == 0, longitude, longitude + 360 * turns))

    def _shift(self) -> tuple[float, float] | None:
        """Source (row, column) of the tile's corner where both grids differ by no more than a shift, else None."""
        if not self._same_crs:
            return None
        far = TILE_PIXELS * PIXEL_METRES
        columns, rows = self.position(
            self.grid.ulx + np.array([0.0, far, 0, far]), self.grid.uly - np.array([0.0, 0, far, far])
        )
        straying = np.abs(
            [
                columns - columns[0] - np.array([0, TILE_PIXELS, 0, TILE_PIXELS]),
                rows - rows[0] - np.array([0, 0, TILE_PIXELS, TILE_PIXELS]),
            ]
        )
        return (float(rows[0]), float(columns[0])) if straying.max() <= _STRAYING_PIXELS else None

    def pieces(self, rows: range) -> Iterator[_Piece]:
        """The asked patch rows, cut so that no source window is too large for memory. The cut changes no pixel."""
        knots = self.knots(rows)
        pending = [(0, len(rows), 0, TILE_PATCHES)] if len(rows) else []
        while pending:
            top, bottom, left, right = pending.pop()
            piece = _Piece(top, bottom, left, right, None)
            window = self.window(knots[piece.knots])
            height, width = bottom - top, right - left
            if (
                window is not None
                and (window[2] - window[0]) * (window[3] - window[1]) > _WINDOW_PIXELS
                and height * width > 1
            ):
                if height >= width:
                    middle = top + height // 2
                    pending += [(middle, bottom, left, right), (top, middle, left, right)]
                else:
                    middle = left + width // 2
                    pending += [(top, bottom, middle, right), (top, bottom, left, middle)]
            else:
                yield _Piece(top, bottom, left, right, window)

    def window(self, knots: NDArray[np.float64]) -> Box | None:
        """The source pixels that bilinear needs under some knots, None where the source has none."""
        reached = knots[:, np.isfinite(knots).all(axis=0)]
        if reached.shape[1] == 0:
            return None
        height, width = self.shape
        low, high = np.floor(reached.min(axis=1)), np.floor(reached.max(axis=1))
        # One pixel more on either side: bilinear's neighbours.
        left, right = max(0, int(low[0]) - 1), min(width, int(high[0]) + 2)
        top, bottom = max(0, int(low[1]) - 1), min(height, int(high[1]) + 2)
        return (top, left, bottom, right) if left < right and top < bottom else None


class TileSampler:
    """One band of a raster, sampled at the 10 m pixels of a tile's patches.

    ``nodata`` overrides what the file declares. ``lattice`` may be shared between rasters of the same grid. The
    dataset must have a CRS and a geotransform; it stays open and belongs to the caller. Not for two threads at once.
    """

    def __init__(
        self,
        dataset: rasterio.DatasetReader,
        grid: TileGrid,
        band: int = 1,
        *,
        nodata: float | None = None,
        lattice: Lattice | None = None,
    ) -> None:
        self._dataset = dataset
        self._band = band
        if lattice is None or not lattice.serves(dataset, grid):
            lattice = Lattice(dataset, grid)
        self.lattice = lattice
        self._dtype = np.dtype(dataset.dtypes[band - 1])
        self._nodata = dataset.nodatavals[band - 1] if nodata is None else nodata
        self._scale, self._shift = dataset.scales[band - 1], dataset.offsets[band - 1]
        self._masked = MaskFlags.per_dataset in dataset.mask_flag_enums[band - 1]
        self._buffers: dict[str, NDArray[Any]] = {}

    @property
    def aligned(self) -> bool:
        """Whether the source's pixels are the tile's: same CRS, 10 m, north up, shifted by whole pixels. Then
        pixels are copied, not resampled.
        """
        shift = self.lattice.shift
        return shift is not None and all(abs(side - round(side)) <= _ALIGNED_PIXELS for side in shift)

    def nearest(self, rows: range, fill: float) -> NDArray[Any]:
        """The source pixel in which each pixel's centre lies; ``fill`` where there is none.

        ``rows``: patch rows 0..90. Shape (len(rows) * 120, 10920), in the source's dtype, without regard to nodata.
        Raises UnreadableAsset.
        """
        out = np.full((len(rows) * PATCH_PIXELS, TILE_PIXELS), fill, self._dtype)
        shift = self.lattice.shift
        if shift is not None:
            row, column = (math.floor(side + 0.5) for side in shift)
            for target, window in self._shifted(rows, row, column):
                out[target] = self._read(window)
            return out
        knots = self.lattice.knots(rows)
        for piece in self.lattice.pieces(rows):
            if piece.window is not None:
                raw = self._read(piece.window)
                _nearest(raw, *piece.window[:2], knots[piece.knots], self.lattice.seam, out, *piece.corner)
        return out

    def bilinear(
        self, rows: range, out: Float32 | None = None, *, linearise: Callable[[Float32], None] | None = None
    ) -> Float32:
        """Weighted mean of the four source pixels around each pixel's centre; NaN where one that counts is invalid.

        ``rows``: patch rows 0..90. ``out``, made if not given: float32 of shape (len(rows) * 120, 10920). Invalid
        are nodata, NaN, infinities, masked pixels and what lies outside the source. Where the grids coincide,
        pixels are copied bit for bit. ``linearise`` changes source values in place (float32, 2-D, contiguous)
        before they are averaged. Raises UnreadableAsset.
        """
        shape = (len(rows) * PATCH_PIXELS, TILE_PIXELS)
        if out is None:
            out = np.empty(shape, np.float32)
        elif out.shape != shape:
            raise ValueError(f"out has shape {out.shape}; {len(rows)} patch rows need {shape}")
        shift = self.lattice.shift
        if shift is not None:
            out.fill(np.nan)
            snap = _ALIGNED_PIXELS if self.aligned else _SNAP_PIXELS
            row, column = (math.floor(side + snap) for side in shift)
            south, east = (side - whole for side, whole in zip(shift, (row, column), strict=True))
            more_rows, more_columns = int(south > snap), int(east > snap)
            for target, window in self._shifted(rows, row, column, more_rows, more_columns):
                values = self._values(window, linearise)
                if more_rows or more_columns:
                    _bilinear_shifted(values, more_rows * south, more_columns * east, out[target])
                else:
                    out[target] = values
            return out
        knots = self.lattice.knots(rows)
        for piece in self.lattice.pieces(rows):
            if piece.window is None:
                out[piece.pixels] = np.nan
                continue
            values = self._values(piece.window, linearise)
            _bilinear(values, *piece.window[:2], knots[piece.knots], self.lattice.seam, out, *piece.corner)
        return out

    def gather(self, rows: range, columns: range, total: Float32, weight: Float32, reach: Float32) -> None:
        """Add the four source pixels around each pixel's centre to what other rasters of a mosaic gave.

        ``rows``, ``columns``: patch rows and columns, few enough for one source window; they may lie beyond the
        tile's. Float32 arrays of shape
        (len(rows) * 120, len(columns) * 120): ``total`` takes the sum of valid pixels times their bilinear weights,
        ``weight`` the sum of these weights, ``reach`` the weights of all pixels that the source has, nodata or not.
        ``total / weight`` is bilinear, and between rasters that continue each other just as inside one. Raises
        UnreadableAsset.
        """
        knots = self.lattice.knots(rows, columns)
        window = self.lattice.window(knots)
        if window is not None:
            _gather(self._values(window, None), *window[:2], knots, self.lattice.seam, total, weight, reach)

    def _shifted(
        self, rows: range, first_row: int, first_column: int, more_rows: int = 0, more_columns: int = 0
    ) -> Iterator[tuple[tuple[slice, slice], Box]]:
        """Where the grids differ by a shift, strip by strip: slices of the output and the source windows for them.

        ``first_row``, ``first_column``: the source pixel of the tile's first. The windows are larger than the
        slices by ``more_rows`` at the bottom and ``more_columns`` at the right.
        """
        height, width = self.lattice.shape[0] - more_rows, self.lattice.shape[1] - more_columns
        left, right = max(0, first_column), min(width, first_column + TILE_PIXELS)
        above = first_row + rows.start * PATCH_PIXELS
        for strip in strips(rows.start, rows.stop):
            top = max(0, first_row + strip.start * PATCH_PIXELS)
            bottom = min(height, first_row + strip.stop * PATCH_PIXELS)
            if top < bottom and left < right:
                target = (slice(top - above, bottom - above), slice(left - first_column, right - first_column))
                yield target, (top, left, bottom + more_rows, right + more_columns)

    def _values(self, window: Box, linearise: Callable[[Float32], None] | None) -> Float32:
        """The pixels of a window as float32, NaN where invalid; the next call overwrites them."""
        raw = self._read(window)
        if self._dtype == np.float32:
            values, nodata = raw, self._nodata
        else:
            values, nodata = self._buffer("values", raw.shape, np.dtype(np.float32)), None
            with np.errstate(over="ignore"):
                np.copyto(values, raw, casting="unsafe")
            if self._nodata is not None:
                values[raw == self._nodata] = np.nan
        with np.errstate(over="ignore"):  # float64's lowest number, which people take for nodata, is infinity then
            nodata = np.float32(np.nan if nodata is None else nodata)
        _invalidate(values.reshape(-1), nodata)
        if self._masked:
            values[self._read(window, mask=True) == 0] = np.nan
        if (self._scale, self._shift) != (1.0, 0.0):
            values *= np.float32(self._scale)
            values += np.float32(self._shift)
        if linearise is not None:
            linearise(values)
        return values

    def _read(self, window: Box, mask: bool = False) -> NDArray[Any]:
        top, left, bottom, right = window
        dtype = np.dtype(np.uint8) if mask else self._dtype
        out = self._buffer("mask" if mask else "raw", (bottom - top, right - left), dtype)
        read = self._dataset.read_masks if mask else self._dataset.read
        try:
            read(self._band, window=Window(left, top, right - left, bottom - top), out=out)
        except RasterioError as error:
            raise UnreadableAsset(
                f"{self._dataset.name}: rows {top} to {bottom}, columns {left} to {right} cannot be read "
                f"({error.__cause__ or error}); "
                "the file is truncated, corrupt or no longer reachable: fetch it again"
            ) from error
        return out

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Memory that is kept between calls: new pages for every strip cost as much as the resampling."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            buffer = self._buffers[name] = np.empty(size, dtype)
        return buffer[:size].reshape(shape)


@njit(cache=True, nogil=True)
def _invalidate(values: Float32, nodata: np.float32) -> None:
    """Nodata and infinities become NaN, in place."""
    for i in range(values.size):
        value = values[i]
        if value == nodata or np.abs(value) == np.float32(np.inf):
            values[i] = np.float32(np.nan)


@njit(cache=True, nogil=True)
def _across(knots: NDArray[np.float64], k: int, j: int, seam: float) -> bool:
    """Whether the cell of knots right of and below (k, j) lies across a seam of the source's map, or beyond it."""
    for axis in range(2):
        a, b, c, d = knots[axis, k, j], knots[axis, k, j + 1], knots[axis, k + 1, j], knots[axis, k + 1, j + 1]
        # "not (small)" is also true of NaN, and of infinity minus infinity.
        if not (abs(a - b) < seam and abs(a - c) < seam and abs(a - d) < seam):
            return True
    return False


@njit(cache=True, nogil=True)
def _nearest(
    raw: NDArray[Any],
    window_top: int,
    window_left: int,
    knots: NDArray[np.float64],
    seam: float,
    out: NDArray[Any],
    out_top: int,
    out_left: int,
) -> None:
    """Fill the pixels of ``out`` that lie in the window ``raw`` of the source; leave the others."""
    height, width = raw.shape
    for k in range(knots.shape[1] - 1):
        for j in range(knots.shape[2] - 1):
            if _across(knots, k, j, seam):
                continue
            for y in range(KNOT_PIXELS):
                below = (y + 0.5) / KNOT_PIXELS
                column = knots[0, k, j] + (knots[0, k + 1, j] - knots[0, k, j]) * below
                row = knots[1, k, j] + (knots[1, k + 1, j] - knots[1, k, j]) * below
                end = knots[0, k, j + 1] + (knots[0, k + 1, j + 1] - knots[0, k, j + 1]) * below
                column_step = (end - column) / KNOT_PIXELS
                end = knots[1, k, j + 1] + (knots[1, k + 1, j + 1] - knots[1, k, j + 1]) * below
                row_step = (end - row) / KNOT_PIXELS
                for x in range(KNOT_PIXELS):
                    r = math.floor(row + row_step * (x + 0.5)) - window_top
                    c = math.floor(column + column_step * (x + 0.5)) - window_left
                    if 0 <= r < height and 0 <= c < width:
                        out[out_top + k * KNOT_PIXELS + y, out_left + j * KNOT_PIXELS + x] = raw[r, c]


@njit(cache=True, nogil=True)
def _bilinear(
    values: Float32,
    window_top: int,
    window_left: int,
    knots: NDArray[np.float64],
    seam: float,
    out: Float32,
    out_top: int,
    out_left: int,
) -> None:
    """Fill all pixels of ``out`` under the knots from the window ``values`` of the source; NaN outside it.

    Cell by cell: a few lines of source and output stay in the first-level cache, however the grids are turned.
    """
    height, width = values.shape
    flat = values.reshape(-1)
    next_row, next_column, one = np.uintp(width), np.uintp(1), np.float32(1)
    rows, souths = np.empty(KNOT_PIXELS, np.int32), np.empty(KNOT_PIXELS, np.float32)
    columns, easts = np.empty(KNOT_PIXELS, np.int32), np.empty(KNOT_PIXELS, np.float32)
    for k in range(knots.shape[1] - 1):
        for j in range(knots.shape[2] - 1):
            left = out_left + j * KNOT_PIXELS
            across = _across(knots, k, j, seam)
            inside = not across and _inside(knots, k, j, window_top, window_left, height, width)
            for y in range(KNOT_PIXELS):
                target = out[out_top + k * KNOT_PIXELS + y, left : left + KNOT_PIXELS]
                if across:
                    target[:] = np.float32(np.nan)
                    continue
                _place(knots[1], k, j, y, window_top, rows, souths)
                _place(knots[0], k, j, y, window_left, columns, easts)
                for x in range(KNOT_PIXELS):
                    south, east = souths[x], easts[x]
                    if inside:
                        i = np.uintp(rows[x]) * next_row + np.uintp(columns[x])
                        upper = flat[i] * (one - east) + flat[i + next_column] * east
                        i += next_row
                        lower = flat[i] * (one - east) + flat[i + next_column] * east
                        value = upper * (one - south) + lower * south
                        if value == value or (south > 0 and east > 0):
                            target[x] = value
                            continue
                    target[x] = _bilinear_at_edge(values, rows[x], columns[x], south, east)


@njit(cache=True, nogil=True)
def _inside(knots: NDArray[np.float64], k: int, j: int, top: int, left: int, height: int, width: int) -> bool:
    """Whether all four neighbours of every pixel of a cell lie in the window: a pixel of margin allows rounding."""
    for below in range(2):
        for right in range(2):
            row, column = knots[1, k + below, j + right] - top, knots[0, k + below, j + right] - left
            if not (1.5 <= row <= height - 1.5 and 1.5 <= column <= width - 1.5):
                return False
    return True


@njit(cache=True, nogil=True)
def _place(
    knots: NDArray[np.float64],
    k: int,
    j: int,
    y: int,
    origin: int,
    whole: NDArray[np.int32],
    fraction: Float32,
) -> None:
    """Along one axis, where the centres of a cell's pixels in row ``y`` lie among those of the source's pixels:
    the one before, counted from ``origin``, and the distance from it, 0 to 1.
    """
    below = (y + 0.5) / KNOT_PIXELS
    start = knots[k, j] + (knots[k + 1, j] - knots[k, j]) * below
    end = knots[k, j + 1] + (knots[k + 1, j + 1] - knots[k, j + 1]) * below
    step = (end - start) / KNOT_PIXELS
    start -= 0.5  # from corners of pixels to centres
    for x in range(KNOT_PIXELS):
        at = start + step * (x + 0.5)
        before = np.floor(at + _SNAP_PIXELS)
        after = at - before
        fraction[x] = np.float32(after if after > _SNAP_PIXELS else 0.0)
        whole[x] = np.int32(min(max(before - origin, _FAR_BEFORE), _FAR_BEHIND))


@njit(cache=True, nogil=True)
def _bilinear_at_edge(values: Float32, r: int, c: int, south: np.float32, east: np.float32) -> np.float32:
    """One pixel, where not all four neighbours count or exist: those of no weight may be invalid or missing."""
    height, width = values.shape
    rows, columns = (2 if south > 0 else 1), (2 if east > 0 else 1)
    if r < 0 or c < 0 or r + rows > height or c + columns > width:
        return np.float32(np.nan)
    one = np.float32(1)
    value = values[r, c]
    if columns == 2:
        value = value * (one - east) + values[r, c + 1] * east
    if rows == 2:
        lower = values[r + 1, c]
        if columns == 2:
            lower = lower * (one - east) + values[r + 1, c + 1] * east
        value = value * (one - south) + lower * south
    return value


@njit(cache=True, nogil=True)
def _gather(
    values: Float32,
    window_top: int,
    window_left: int,
    knots: NDArray[np.float64],
    seam: float,
    total: Float32,
    weight: Float32,
    reach: Float32,
) -> None:
    """Add a window's pixels, NaN where invalid, to the sums of all pixels under the knots; see TileSampler.gather."""
    height, width = values.shape
    one = np.float32(1)
    rows, souths = np.empty(KNOT_PIXELS, np.int32), np.empty(KNOT_PIXELS, np.float32)
    columns, easts = np.empty(KNOT_PIXELS, np.int32), np.empty(KNOT_PIXELS, np.float32)
    for k in range(knots.shape[1] - 1):
        for j in range(knots.shape[2] - 1):
            if _across(knots, k, j, seam):
                continue
            inside = _inside(knots, k, j, window_top, window_left, height, width)
            for y in range(KNOT_PIXELS):
                _place(knots[1], k, j, y, window_top, rows, souths)
                _place(knots[0], k, j, y, window_left, columns, easts)
                for x in range(KNOT_PIXELS):
                    south, east = souths[x], easts[x]
                    r, c = rows[x], columns[x]
                    out_row, out_column = k * KNOT_PIXELS + y, j * KNOT_PIXELS + x
                    # The same sum whether or not the window ends here: it depends on how the work was cut.
                    if inside or (r >= 0 and c >= 0 and r + 1 < height and c + 1 < width):
                        upper = values[r, c] * (one - east) + values[r, c + 1] * east
                        lower = values[r + 1, c] * (one - east) + values[r + 1, c + 1] * east
                        value = upper * (one - south) + lower * south
                        if value == value:
                            total[out_row, out_column] += value
                            weight[out_row, out_column] += one
                            reach[out_row, out_column] += one
                            continue
                    for down in range(2):
                        for right in range(2):
                            share = (south if down else one - south) * (east if right else one - east)
                            if share == 0 or not (0 <= r + down < height and 0 <= c + right < width):
                                continue
                            reach[out_row, out_column] += share
                            value = values[r + down, c + right]
                            if value == value:
                                total[out_row, out_column] += share * value
                                weight[out_row, out_column] += share


@njit(cache=True, nogil=True)
def _bilinear_shifted(values: Float32, south: float, east: float, out: Float32) -> None:
    """``out`` lies in ``values`` from its corner, shifted by ``south`` and ``east``, less than a pixel each.

    ``values`` has one more row if ``south`` is not 0, one more column if ``east`` is not 0.
    """
    s, e = np.float32(south), np.float32(east)
    n, w = np.float32(1) - s, np.float32(1) - e
    width = out.shape[1]
    for y in range(out.shape[0]):
        target, upper = out[y], values[y]
        if s == 0:
            for x in range(width):
                target[x] = upper[x] * w + upper[x + 1] * e
            continue
        lower = values[y + 1]
        if e == 0:
            for x in range(width):
                target[x] = upper[x] * n + lower[x] * s
        else:
            for x in range(width):
                target[x] = (upper[x] * w + upper[x + 1] * e) * n + (lower[x] * w + lower[x + 1] * e) * s
