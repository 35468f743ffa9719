"""The bands of a Sentinel-2 scene, a strip of patch rows at a time.

Every band is opened once and read in strips of whole patch rows at its native resolution; JPEG 2000 bands, whose
code blocks do not follow strips, are decoded once as a whole. Numbers come out on the dataset's scale (reflectance
x 10000, 0 = nodata), whatever the baseline.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any, Self

import numpy as np
import rasterio
from numba import njit
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window

from landpatch.catalog.bands import PatchAsset, optical_bands
from landpatch.catalog.errors import InvalidScene, UnreadableAsset
from landpatch.catalog.grid import PATCH_METRES, TileGrid
from landpatch.catalog.names import TILE_PATCHES
from landpatch.catalog.predictors import restore_line
from landpatch.catalog.safe import verify_zip_member
from landpatch.catalog.scenes import BandAsset, OpticalScene
from landpatch.functions.geotiff_blocks import BlockReader, Part, open_blocks
from landpatch.functions.raster import gdal_environment, open_raster

# The darkest clear pixels (0.1 percentile) tell whether 1000 was added: about 950 or more with the offset, less
# than 700 without (the project's Sentinel notes). Bands that are dark somewhere in nearly every scene:
_WITNESSES = ("B02", "B03", "B04", "B11", "B12")
_WITH_OFFSET = 950
_WITHOUT_OFFSET = 700
_CLEAR = np.array([2, 4, 5, 6])  # SCL: dark features, vegetation, bare soil, water
_WITNESS_WINDOWS = 5  # along each side of what the scene covers
_WITNESS_METRES = 5120  # a window is 512 pixels of a 10 m band: one block of a usual COG
_ENOUGH_PIXELS = 2000  # fewer make a 0.1 percentile meaningless


@dataclass(slots=True)
class _Band:
    """An open band: ``row`` and ``column`` are the tile's upper-left pixel in the file (negative: the file starts
    inside the tile).
    """

    name: str
    asset: BandAsset
    dataset: rasterio.DatasetReader
    pixels: int
    row: int
    column: int
    blocks: BlockReader | None
    whole: NDArray[np.uint16] | None = None

    def read(self, top: int, left: int, out: NDArray[Any]) -> None:
        """Fill ``out`` from the tile's pixel (top, left) on; 0 where the file has no pixels."""
        height, width = out.shape
        first_row, first_column = top + self.row, left + self.column
        r0, r1 = max(first_row, 0), min(first_row + height, self.dataset.height)
        c0, c1 = max(first_column, 0), min(first_column + width, self.dataset.width)
        if r0 >= r1 or c0 >= c1:
            out.fill(0)
            return
        if self.whole is None and self.dataset.driver == "JP2OpenJPEG":
            self.whole = self._decode()
        inside = (slice(r0 - first_row, r1 - first_row), slice(c0 - first_column, c1 - first_column))
        if (r1 - r0, c1 - c0) != out.shape:
            out.fill(0)
        if self.whole is not None:
            out[inside] = self.whole[r0:r1, c0:c1]
            return
        if self.blocks is not None and self.blocks.dtype == out.dtype:
            with self._decoding():
                self.blocks.read(r0, c0, out[inside])
            return
        window = Window(c0, r0, c1 - c0, r1 - r0)
        self._read(self.dataset, window, out[inside])

    def parts(self, top: int, buffer: NDArray[np.uint16]) -> Iterator[Part]:
        """The pixels of a strip of the tile, from row ``top`` on, as they come: block by block where the file allows
        that, else all at once. ``buffer``, as large as the strip, is room for them where they need to be copied.
        """
        first_row, (height, width) = top + self.row, buffer.shape
        inside = first_row >= 0 and self.column >= 0
        inside = inside and first_row + height <= self.dataset.height and self.column + width <= self.dataset.width
        if inside and self.blocks is not None and self.blocks.dtype == buffer.dtype:
            with self._decoding():
                yield from self.blocks.parts(first_row, self.column, height, width)
        else:
            self.read(top, 0, buffer)
            yield Part(buffer, 1, 0, 0, height, width, 0, 0)

    def _decode(self) -> NDArray[np.uint16]:
        """The whole band, decoded on all cores.

        Not on GDAL's own threads: what goes wrong there is lost, and a truncated file would read as zeros. Each
        thread opens the file for itself, since a handle is not shared.
        """
        if self.asset.href.startswith("zip:"):
            verify_zip_member(self.asset.href)
        whole = np.empty((self.dataset.height, self.dataset.width), np.uint16)
        windows = [window for _, window in self.dataset.block_windows(1)]
        threads = min(os.cpu_count() or 1, len(windows))

        def decode_some(first: int) -> None:
            with gdal_environment(), rasterio.Env(GDAL_NUM_THREADS=1), open_raster(self.asset.href) as dataset:
                for window in windows[first::threads]:
                    self._read(dataset, window, whole[window.toslices()])

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(decode_some, range(threads)))
        return whole

    def _read(self, dataset: rasterio.DatasetReader, window: Window, out: NDArray[Any]) -> None:
        number = self.asset.band or 1
        with self._decoding():
            if np.dtype(dataset.dtypes[number - 1]).kind == "i":
                out[...] = _unsigned(dataset.read(number, window=window), dataset.nodatavals[number - 1])
            elif out.flags.c_contiguous:
                dataset.read(number, window=window, out=out)
            else:
                out[...] = dataset.read(number, window=window, out_dtype=out.dtype)

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        try:
            yield
        except (RasterioError, ValueError) as error:
            reason = error.__cause__ or error
            raise UnreadableAsset(
                f"asset {self.asset.key} ({self.asset.href}) cannot be decoded: {reason}; the file is probably "
                "truncated or corrupt: fetch it again and run the same command"
            ) from error


class OpticalReader:
    """A scene opened for reading on the patch grid of its tile; a context manager.

    Opening checks CRS, resolution, alignment and dtype of every band and raises InvalidScene, naming the asset,
    before a single pixel is read; UnreadableAsset where a file cannot be opened.
    """

    def __init__(self, scene: OpticalScene, grid: TileGrid) -> None:
        self.scene = scene
        self.grid = grid
        self._stack = ExitStack()
        self._buffers: dict[int, NDArray[np.uint16]] = {}
        try:
            self._bands = {
                name: self._open(name, asset, optical_bands()[name].resolution) for name, asset in scene.bands.items()
            }
            self._scl = None if scene.scl is None else self._open("SCL", scene.scl, 20)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        self._stack.close()

    @property
    def covered(self) -> tuple[range, range]:
        """Patch rows and patch columns that the files cover at least in part; patches elsewhere are nodata."""
        first_row = first_column = 0
        last_row = last_column = TILE_PATCHES
        for band in self._bands.values():
            first_row = max(first_row, -band.row // band.pixels)
            first_column = max(first_column, -band.column // band.pixels)
            last_row = min(last_row, -(-(band.dataset.height - band.row) // band.pixels))
            last_column = min(last_column, -(-(band.dataset.width - band.column) // band.pixels))
        return range(first_row, max(first_row, last_row)), range(first_column, max(first_column, last_column))

    def cut(self, rows: range, asset: PatchAsset, out: NDArray[np.uint16]) -> NDArray[np.int64]:
        """Read patch rows ``rows`` of the bands of one file kind, harmonise and cut them into patches.

        ``out`` has shape (len(rows), 91, bands, px, px), uint16. Returns how many pixels of each patch are 0
        (nodata), all bands together: int64, (len(rows), 91). Raises UnreadableAsset.
        """
        empty = np.zeros((len(rows), TILE_PATCHES), np.int64)
        for plane, name in enumerate(asset.planes):
            buffer = self._buffer(len(rows) * asset.pixels, TILE_PATCHES * asset.pixels)
            for part in self._bands[name].parts(rows.start * asset.pixels, buffer):
                _cut(*part, self.scene.offset.present, out, plane, empty)
        return empty

    def scene_classification(self, rows: range) -> NDArray[np.uint8] | None:
        """SCL of patch rows ``rows``: uint8, (len(rows) * 60, 91 * 60), 0 where there is none; None without SCL."""
        if self._scl is None:
            return None
        out = np.empty((len(rows) * self._scl.pixels, TILE_PATCHES * self._scl.pixels), np.uint8)
        self._scl.read(rows.start * self._scl.pixels, 0, out)
        return out

    def verify_offset(self, *, overruled: bool = False) -> str:
        """Check on the pixels what the metadata says about the radiometric offset; ``overruled``: only look.

        Looks at windows spread over the scene, in clear pixels where there is a scene classification. Returns what
        was seen, as text. Raises InvalidScene when the darkest pixels contradict the metadata.
        """
        darkest = self._darkest()
        if darkest is None:
            return "too few clear pixels to check the offset"
        present = self.scene.offset.present
        seen = f"0.1 percentile of clear pixels {darkest:.0f}"
        if overruled:
            return seen
        if present and darkest < _WITHOUT_OFFSET:
            found, remedy = f"below {_WITHOUT_OFFSET}: the 1000 is not there", "absent"
        elif not present and darkest >= _WITH_OFFSET:
            found, remedy = f"{_WITH_OFFSET} or more: 1000 was probably added", "present"
        else:
            return seen
        raise InvalidScene(
            f"item {self.scene.item_id}: its metadata says that the offset of 1000 is "
            f"{'present' if present else 'absent'} ({self.scene.offset.reason}), but the {seen}, {found}. "
            f"Nothing was guessed; say which is right with --offset {remedy} (or "
            f"{'present' if present else 'absent'}, if the scene really is that "
            f"{'dark' if present else 'bright'})"
        )

    def _open(self, name: str, asset: BandAsset, resolution: int) -> _Band:
        dataset = self._stack.enter_context(open_raster(asset.href))
        what = f"item {self.scene.item_id}, asset {asset.key} ({asset.href})"
        if dataset.crs is None or dataset.crs.to_epsg() != self.grid.epsg:
            raise InvalidScene(
                f"{what}: its CRS is {dataset.crs and dataset.crs.to_string()}, tile {self.grid.tile} has "
                f"EPSG:{self.grid.epsg}; patches are cut on the tile's own grid, without resampling"
            )
        transform = dataset.transform
        if (transform.a, transform.e) != (resolution, -resolution) or transform.b or transform.d:
            raise InvalidScene(
                f"{what}: its pixels are {abs(transform.a):g} x {abs(transform.e):g} m, {name} must have "
                f"{resolution} m, north up; give the band at its native resolution"
            )
        number = asset.band or 1
        enough = dataset.count == 1 if asset.band is None else dataset.count >= number
        if not enough or np.dtype(dataset.dtypes[number - 1]).kind not in "ui":
            raise InvalidScene(
                f"{what}: it has {dataset.count} band(s) of {dataset.dtypes[0]}, expected one band of integers, or "
                "bands that the item names"
            )
        row, column = (self.grid.uly - transform.f) / -resolution, (self.grid.ulx - transform.c) / resolution
        if row != int(row) or column != int(column):
            raise InvalidScene(
                f"{what}: its corner ({transform.c:g}, {transform.f:g}) is not on the {resolution} m grid of tile "
                f"{self.grid.tile}, whose corner is ({self.grid.ulx}, {self.grid.uly})"
            )
        pixels = PATCH_METRES // resolution
        band = _Band(name, asset, dataset, pixels, int(row), int(column), open_blocks(dataset, number))
        size = TILE_PATCHES * pixels
        if band.row >= dataset.height or band.column >= dataset.width or min(band.row, band.column) <= -size:
            raise InvalidScene(f"{what}: it lies outside tile {self.grid.tile}")
        return band

    def _buffer(self, height: int, width: int) -> NDArray[np.uint16]:
        """Memory for strips of one width, used again for every strip: fresh pages cost half of the cutting. Where
        bands come in blocks, none of it is written, and it takes no memory.
        """
        buffer = self._buffers.get(width)
        if buffer is None or buffer.shape[0] < height:
            buffer = self._buffers[width] = np.empty((height, width), np.uint16)
        return buffer[:height]

    def _darkest(self) -> float | None:
        """The smallest 0.1 percentile among the witness bands; None where too few clear pixels were found."""
        seen = self._clear_pixels(self._windows(_WITNESS_WINDOWS))
        if any(values.size < _ENOUGH_PIXELS for values in seen):  # cloud or nodata nearly everywhere: look at all
            seen = self._clear_pixels(self._windows(TILE_PATCHES))
        smallest = [float(np.percentile(values, 0.1)) for values in seen if values.size >= _ENOUGH_PIXELS]
        return min(smallest) if smallest else None

    def _clear_pixels(self, windows: Iterator[tuple[int, int]]) -> list[NDArray[np.uint16]]:
        """The clear pixels of each witness band in some windows."""
        seen: dict[str, list[NDArray[np.uint16]]] = {name: [np.empty(0, np.uint16)] for name in _WITNESSES}
        for down, right in windows:
            clear = self._clear(down, right)
            for name, values in seen.items() if clear.any() else ():
                sample = self._sample(self._bands[name], down, right)
                values.append(sample[clear & (sample > 0)])
        return [np.concatenate(values) for values in seen.values()]

    def _windows(self, most: int) -> Iterator[tuple[int, int]]:
        """Upper-left corners, in metres from the tile's, of windows spread over what the scene covers.

        At most ``most`` along each side (one more where the first begins outside), and no more than fit side by side:
        a pixel counts once. They are whole numbers of windows from the tile's corner, where the blocks of a usual COG
        are too: a window across four blocks would cost as much as four.
        """
        sides = []
        for patches in self.covered:
            first, last = patches.start * PATCH_METRES, patches.stop * PATCH_METRES
            step = -(-(last - first) // (most * _WITNESS_METRES)) * _WITNESS_METRES
            sides.append(range(first // _WITNESS_METRES * _WITNESS_METRES, last, step))
        yield from product(*sides)

    def _sample(self, band: _Band, down: int, right: int) -> NDArray[np.uint16]:
        """A window of a band; of a 10 m band every other pixel, so that all have the size of the classification."""
        resolution = PATCH_METRES // band.pixels
        values = np.empty((_WITNESS_METRES // resolution,) * 2, np.uint16)
        band.read(down // resolution, right // resolution, values)
        return values[:: 20 // resolution, :: 20 // resolution]

    def _clear(self, down: int, right: int) -> NDArray[np.bool_]:
        """Which pixels of 20 m of a window are free of cloud, shadow and snow; all, without a classification."""
        classes = np.full((_WITNESS_METRES // 20,) * 2, _CLEAR[0], np.uint8)
        if self._scl is not None:
            self._scl.read(down // 20, right // 20, classes)
        return np.isin(classes, _CLEAR)


def _unsigned(values: NDArray[Any], nodata: float | None) -> NDArray[Any]:
    """Signed pixels on the scale of unsigned ones: 0 and the file's nodata are 0; a negative reflectance, which
    sources have that took the offset away in signed numbers, is 1, as where landpatch takes it away.
    """
    empty = values == 0
    if nodata is not None:
        empty |= values == nodata
    return np.where(empty, 0, np.clip(values.astype(np.int64), 1, 65535))


@njit(cache=True, nogil=True)
def _cut(
    block: Any,
    predictor: int,
    row: int,
    column: int,
    height: int,
    width: int,
    y: int,
    x: int,
    offset: bool,
    out: Any,
    plane: int,
    empty: Any,
) -> None:  # pragma: no cover - compiled
    """Cut a part of a strip into patches, take the offset away and count nodata, line by line; see Part."""
    pixels = out.shape[3]
    end = column + width
    line = np.empty(end, np.uint16)
    for i in range(height):
        restore_line(block[row + i, :end], predictor, line)
        start, patch, inner = column, x // pixels, x % pixels
        while start < end:
            stop = min(end, start + pixels - inner)
            target = out[(y + i) // pixels, patch, plane, (y + i) % pixels, inner : inner + stop - start]
            empty[(y + i) // pixels, patch] += _harmonise(line[start:stop], offset, target)
            start, patch, inner = stop, patch + 1, 0


@njit(cache=True, nogil=True)
def _harmonise(values: Any, offset: bool, out: Any) -> int:  # pragma: no cover - compiled
    """Values of one patch's line without the offset; returns how many are nodata. All in 16 bits, so that compilers
    can do sixteen pixels at once.
    """
    nothing, one = np.uint16(0), np.uint16(1)
    below = np.uint16(1001 if offset else 1)  # 0 means nodata, so that a darker pixel than the offset becomes 1
    zeros = nothing
    for i in range(values.size):
        value = values[i]
        zeros = np.uint16(zeros + (one if value == nothing else nothing))
        bright = value if value > below else below
        out[i] = nothing if value == nothing else np.uint16(bright - (below - one))
    return int(zeros)
