"""Pixels of plain local GeoTIFFs, block by block, without GDAL's block cache between file and patch.

Nearly all bands of scenes are one kind of file: whole numbers or float32 in tiles (or strips), each block compressed
by deflate after a predictor. GDAL opens every file and says what it is. Where it is of that kind, the blocks are read
here: a block is inflated, and undoing its predictor writes its pixels to where they are wanted, line by line, so that
they pass through memory once. Everything else is left to GDAL (``open_blocks`` gives None), and the pixels are the
same either way.

Sources: TIFF 6.0 (directories, strips, tiles); the BigTIFF design of the libtiff project (8-byte offsets).
"""

import os
import struct
import weakref
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import deflate
import numpy as np
import rasterio
from numba import njit
from numpy.typing import NDArray
from rasterio.errors import RasterioIOError

from landpatch.catalog.predictors import LANES, restore_bytes, restore_line

# Fields of a TIFF directory: their tags, and what counts where the file leaves them out.
_WIDTH, _LENGTH, _BITS, _COMPRESSION, _FILL_ORDER = 256, 257, 258, 259, 266
_STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES, _PLANAR, _PREDICTOR = 273, 277, 278, 279, 284, 317
_TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_BYTES, _SAMPLE_FORMAT = 322, 323, 324, 325, 339
_DEFAULTS: Final = {
    _BITS: 1,
    _COMPRESSION: 1,
    _FILL_ORDER: 1,
    _SAMPLES: 1,
    _PLANAR: 1,
    _PREDICTOR: 1,
    _SAMPLE_FORMAT: 1,
}
_WHOLE_NUMBERS: Final = {1: "u1", 3: "<u2", 4: "<u4", 16: "<u8"}  # BYTE, SHORT, LONG, LONG8 by type code
_DEFLATE = (8, 32946)
_FORMATS: Final = {"uint8": (1, 8), "uint16": (1, 16), "float32": (3, 32)}  # sample format and bits by dtype
_WORDS: Final = {1: np.uint8, 2: np.uint16, 4: np.uint32}

_LARGEST_BLOCK = 2**24  # bytes; 1024 x 1024 float32 are 2**22, and a file that is one strip is no block to be kept


class Part(NamedTuple):
    """What one block gives to a window.

    ``block``: its rows with the ``predictor`` still in them: unsigned words, (rows, columns); with predictor 3 uint8,
    (rows, bytes). The pixels (``y``, ``x``) to (``y + height``, ``x + width``) of the window are the block's from
    (``row``, ``column``) on.
    """

    block: NDArray[Any]
    predictor: int
    row: int
    column: int
    height: int
    width: int
    y: int
    x: int


class BlockReader:
    """One band of a plain GeoTIFF; made by ``open_blocks``. Not for two threads at once.

    Blocks that reach below a window are kept inflated, at most a row of them: windows that follow each other
    downwards inflate each block once.
    """

    def __init__(self, descriptor: int, tags: dict[int, NDArray[Any]], dtype: np.dtype[Any], band: int) -> None:
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        self.dtype = dtype
        self.shape = int(tags[_LENGTH][0]), int(tags[_WIDTH][0])
        self.predictor = int(tags[_PREDICTOR][0])
        self._tiled = _TILE_OFFSETS in tags
        self._block = _block_shape(tags)
        self._across = -(-self.shape[1] // self._block[1])
        down = -(-self.shape[0] // self._block[0])
        plane = slice((band - 1) * self._across * down, band * self._across * down)
        self._offsets, self._sizes = (tags[table][plane].tolist() for table in _tables(tags))
        self._compressed = bytearray(max(self._sizes))
        self._kept: dict[int, NDArray[Any]] = {}

    def parts(self, top: int, left: int, height: int, width: int) -> Iterator[Part]:
        """The parts of a window that lies in the band, from left to right and from top to bottom.

        Raises RasterioIOError for a block that is not there as a whole, or does not inflate to its pixels.
        """
        rows, columns = self._block
        for down in range(top // rows, -(-(top + height) // rows)):
            first_row, last_row = max(top, down * rows), min(top + height, (down + 1) * rows)
            for right in range(left // columns, -(-(left + width) // columns)):
                first, last = max(left, right * columns), min(left + width, (right + 1) * columns)
                index = down * self._across + right
                block = self._kept.pop(index, None)
                if block is None:
                    block = self._read(index)
                if (down + 1) * rows > top + height:  # the next window may go on in it
                    self._keep(index, block)
                yield Part(
                    block,
                    self.predictor,
                    first_row - down * rows,
                    first - right * columns,
                    last_row - first_row,
                    last - first,
                    first_row - top,
                    first - left,
                )

    def read(self, top: int, left: int, out: NDArray[Any]) -> None:
        """Fill ``out``, 2-D and of the band's dtype, from pixel (top, left) on. Raises as ``parts`` does."""
        words = out.view(np.uint32) if out.dtype == np.float32 else out
        for part in self.parts(top, left, *out.shape):
            target = words[part.y : part.y + part.height, part.x : part.x + part.width]
            if self.predictor == 3:
                _restore_bytes(part.block, part.row, part.column, target)
            else:
                _restore(part.block, self.predictor, part.row, part.column, target)

    def _keep(self, index: int, block: NDArray[Any]) -> None:
        """At most as many as lie beside each other; the one longest unused goes first."""
        while len(self._kept) >= self._across:
            del self._kept[next(iter(self._kept))]
        self._kept[index] = block

    def _read(self, index: int) -> NDArray[Any]:
        rows, columns = self._block
        room = rows * columns * self.dtype.itemsize
        if not self._tiled:  # the last strip ends with the image, or as tiles do after a whole block
            rows = min(rows, self.shape[0] - index * rows)
        offset, size = self._offsets[index], self._sizes[index]
        what = f"block {index} at bytes {offset} to {offset + size}"
        compressed = memoryview(self._compressed)[:size]
        try:
            found = os.preadv(self._descriptor, [compressed], offset)
        except OSError as error:
            raise RasterioIOError(f"{what} cannot be read: {error}") from error
        if found != size:
            raise RasterioIOError(f"{what} lies beyond the end of the file")
        expected = rows * columns * self.dtype.itemsize
        try:
            raw = deflate.zlib_decompress(compressed, room)
        except deflate.DeflateError as error:
            raise RasterioIOError(f"{what} does not inflate: {error}") from error
        if len(raw) < expected:
            raise RasterioIOError(f"{what} inflates to {len(raw)} bytes instead of {expected}")
        words = np.frombuffer(raw, np.uint8, expected).reshape(rows, -1)
        return words if self.predictor == 3 else words.view(_WORDS[self.dtype.itemsize])


def open_blocks(dataset: rasterio.DatasetReader, band: int = 1) -> BlockReader | None:
    """A reader for a band (counted from 1), if its file is of the plain kind; None where GDAL must read it.

    Plain: a local little-endian TIFF or BigTIFF; uint8, uint16 or float32; deflate; predictor 1, 2 or 3; one sample
    a pixel, or planes of their own; every block there.
    """
    if dataset.driver != "GTiff" or dataset.name.startswith("/vsi") or not hasattr(os, "preadv"):  # as on Windows
        return None
    try:
        descriptor = os.open(dataset.name, os.O_RDONLY)
    except OSError:
        return None
    try:
        file_size = os.fstat(descriptor).st_size
        tags = _directory(descriptor, file_size)
        dtype = np.dtype(dataset.dtypes[band - 1])
        plain = _is_plain(tags, dtype, dataset, file_size)
    except (LookupError, ValueError, ArithmeticError, struct.error, OSError):  # GDAL says what is wrong
        plain = False
    if not plain:
        os.close(descriptor)
        return None
    return BlockReader(descriptor, tags, dtype, band)


def _is_plain(
    tags: dict[int, NDArray[Any]], dtype: np.dtype[Any], dataset: rasterio.DatasetReader, file_size: int
) -> bool:
    samples = int(tags[_SAMPLES][0])
    formats = set(zip(tags[_SAMPLE_FORMAT].tolist(), tags[_BITS].tolist(), strict=False))
    rows, columns = _block_shape(tags)
    blocks = -(-dataset.height // rows) * -(-dataset.width // columns) * samples
    offsets, sizes = (tags[table] for table in _tables(tags))
    predictors = (1, 2, 3) if dtype.kind == "f" else (1, 2)
    return bool(
        (tags[_LENGTH][0], tags[_WIDTH][0], samples) == (*dataset.shape, dataset.count)
        and (samples == 1 or tags[_PLANAR][0] == 2)
        and formats == {_FORMATS.get(dtype.name)}
        and tags[_COMPRESSION][0] in _DEFLATE
        and tags[_PREDICTOR][0] in predictors
        and tags[_FILL_ORDER][0] == 1
        and rows * columns * dtype.itemsize <= _LARGEST_BLOCK
        and len(offsets) == len(sizes) == blocks
        and offsets.all()  # 0: a block that was left out
        and sizes.all()
        and max(offsets.max(), sizes.max()) <= file_size
    )


def _tables(tags: dict[int, NDArray[Any]]) -> tuple[int, int]:
    """The fields that say where the blocks are, and how many bytes they have."""
    return (_TILE_OFFSETS, _TILE_BYTES) if _TILE_OFFSETS in tags else (_STRIP_OFFSETS, _STRIP_BYTES)


def _block_shape(tags: dict[int, NDArray[Any]]) -> tuple[int, int]:
    if _TILE_OFFSETS in tags:
        return int(tags[_TILE_LENGTH][0]), int(tags[_TILE_WIDTH][0])
    length, width = int(tags[_LENGTH][0]), int(tags[_WIDTH][0])
    return min(int(tags[_ROWS_PER_STRIP][0]), length) if _ROWS_PER_STRIP in tags else length, width


def _directory(descriptor: int, file_size: int) -> dict[int, NDArray[Any]]:
    """The fields of the first directory that are whole numbers, by tag. Raises KeyError for another byte order."""
    beginning = os.pread(descriptor, 16, 0)
    offset_at, count, entry, value = {b"II*\0": ("<4xI", "<H", "<HHI", 4), b"II+\0": ("<8xQ", "<Q", "<HHQ", 8)}[
        beginning[:4]
    ]
    (at,) = struct.unpack_from(offset_at, beginning)
    count_size, entry_size = struct.calcsize(count), struct.calcsize(entry) + value
    (entries,) = struct.unpack(count, os.pread(descriptor, count_size, at))
    table = os.pread(descriptor, entries * entry_size, at + count_size)
    tags = {tag: np.array([default]) for tag, default in _DEFAULTS.items()}
    for start in range(0, len(table), entry_size):
        tag, kind, number = struct.unpack_from(entry, table, start)
        if kind not in _WHOLE_NUMBERS:
            continue
        dtype = np.dtype(_WHOLE_NUMBERS[kind])
        inline = table[start + entry_size - value : start + entry_size]
        size = number * dtype.itemsize
        if size > file_size:
            raise ValueError(f"field {tag} is larger than the file")
        data = inline if size <= value else os.pread(descriptor, size, int.from_bytes(inline, "little"))
        tags[tag] = np.frombuffer(data, dtype, number)
    return tags


# --- Predictors -----------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _restore(block: NDArray[Any], predictor: int, row: int, column: int, out: NDArray[Any]) -> None:
    height, width = out.shape
    line = np.empty(column + width, block.dtype)
    for y in range(height):
        restore_line(block[row + y, : column + width], predictor, line)
        for x in range(width):
            out[y, x] = line[column + x]


@njit(cache=True, nogil=True)
def _restore_bytes(block: NDArray[np.uint8], row: int, column: int, out: NDArray[np.uint32]) -> None:
    height, width = out.shape
    line, lanes = np.empty(column + width, np.uint32), np.empty(LANES, np.uint64)
    for y in range(height):
        restore_bytes(block[row + y], lanes, line)
        for x in range(width):
            out[y, x] = line[column + x]
