"""A patch file: how the planes of one asset become a small cloud-optimised GeoTIFF, and are read back.

A patch is smaller than one block of an ordinary COG, so its file needs none of a raster library's machinery: the
header is the same for every patch but for two coordinates and the sizes of its strips. In this order a file holds

* the 8 bytes that begin a little-endian classic TIFF, and GDAL's ghost area, which announces the layout;
* one directory (IFD); the tables of sample types and strips that it points to; then georeferencing and band names;
* one strip a plane (``PlanarConfiguration`` separate, ``RowsPerStrip`` = the height), each compressed by itself
  after the usual predictor: 2 (horizontal differences) for uint16, 3 (differences of byte planes) for float32. Its
  length stands before it and its last 4 bytes are repeated behind it, which lets GDAL fetch it in one request.

So the file is cloud-optimised (rio-cogeo, strict), a band can be read without the others, and GDAL, tifffile and GIS
programs see what GDAL's own driver would have stored. Sources: TIFF 6.0; Adobe's TIFF technical note 3 (predictor
3); OGC GeoTIFF 1.1 (19-008r4); https://gdal.org/drivers/raster/cog.html (ghost area); RFC 1950 and 8878 (streams).
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from typing import Any, Literal, get_args
from xml.sax.saxutils import escape

import deflate as libdeflate
import numpy as np
from numba import njit
from numpy.typing import NDArray

from landpatch.catalog.bands import PatchAsset
from landpatch.catalog.deflate import deflate
from landpatch.catalog.errors import InvalidParameter, UnreadableAsset
from landpatch.catalog.heap import ThreadMemory
from landpatch.catalog.predictors import LANES, restore_bytes, restore_line

Compression = Literal["deflate", "zstd"]

# On Sentinel-2 L2A at 10 m zstandard's level 1 reaches the size of deflate and is read twice as fast (smoother L1C
# pixels it writes more slowly); level 3 takes three times as long for 1 % less. One stream for all planes would save
# a tenth of a patch's time, and nobody could read a band alone.
_ZSTD_LEVEL = 1

# TIFF field types as struct's letters, with their codes: ASCII, SHORT, LONG, DOUBLE.
_TYPE_CODES = {"s": 2, "H": 3, "I": 4, "d": 12}
_TIFF_COMPRESSION: dict[Compression, int] = {"deflate": 8, "zstd": 50000}  # Adobe's deflate; libtiff's zstd
_STRIP_OFFSETS, _STRIP_BYTE_COUNTS, _MODEL_PIXEL_SCALE, _MODEL_TIEPOINT = 273, 279, 33550, 33922

# The first line gives the number of bytes after it; the last ends with a space, so that GDAL can write YES in place
# when an edit breaks the layout. What the lines promise is kept by CogEncoder.encode. GDAL writes INTERLEAVE behind
# BLOCK_TRAILER, and only for several bands: that it stands here is how files of this module are told from GDAL's.
_GHOST_LINES = (
    b"LAYOUT=IFDS_BEFORE_DATA\nINTERLEAVE=BAND\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)
_GHOST = b"GDAL_STRUCTURAL_METADATA_SIZE=%06d bytes\n" % len(_GHOST_LINES) + _GHOST_LINES
_IFD_AT = (8 + len(_GHOST) + 1) // 2 * 2  # a directory lies on a word boundary
_BEGINNING = (struct.pack("<2sHI", b"II", 42, _IFD_AT) + _GHOST).ljust(_IFD_AT, b"\0")

_GEO_ASCII_BYTES = 29
"""GeoAsciiParams of a two-digit zone, without its NUL; a one-digit zone gets a second bar at the end, so that no
length depends on the zone. (A second NUL makes libtiff warn.)"""


class CogEncoder:
    """Encodes patches of one asset in one UTM zone; may be shared by threads.

    ``epsg`` is a WGS 84 UTM zone (32601 to 32660 north, 32701 to 32760 south). ``compression`` is ``deflate``
    (default: every program reads it) or ``zstd``. The same input gives the same bytes on every machine, with zstd as
    long as its version is the same. Raises InvalidParameter for any other zone, compression or dtype.
    """

    def __init__(self, asset: PatchAsset, epsg: int, compression: Compression = "deflate") -> None:
        if compression not in get_args(Compression):
            raise InvalidParameter(f"compression {compression!r} is unknown: choose deflate or zstd")
        if not (epsg // 100 in (326, 327) and 1 <= epsg % 100 <= 60):
            raise InvalidParameter(f"EPSG:{epsg} is no UTM zone of WGS 84 (326xx north, 327xx south)")
        if asset.dtype not in _PREDICTORS:
            raise InvalidParameter(f"{asset.key}: {asset.dtype} planes have no encoding, only uint16 and float32")
        self._asset = asset
        self._shape = (len(asset.planes), asset.pixels, asset.pixels)
        self._dtype = np.dtype(asset.dtype)
        self._template = _template(asset, compression, epsg)
        self._predict = _PREDICTORS[asset.dtype][0]
        self._compress = deflate if compression == "deflate" else _zstd_compress

    def encode(self, planes: NDArray[Any], left: int, top: int) -> bytes:
        """The file of one patch.

        ``planes`` has shape (planes, pixels, pixels) and the asset's dtype, may be a view of a larger array and is
        only read; ``left`` and ``top`` are the upper-left corner's easting and northing in metres. Raises
        InvalidParameter for another shape or dtype.
        """
        if planes.shape != self._shape or planes.dtype != self._dtype:
            raise InvalidParameter(
                f"{self._asset.key} takes {_describe(self._shape, self._dtype)}, "
                f"not {_describe(planes.shape, planes.dtype)}"
            )
        strips = self._compress(self._predict(planes))
        counts = [len(strip) for strip in strips]
        # 4 bytes with its length before each strip, which offsets do not count in, and 4 behind it.
        offsets = accumulate((count + 8 for count in counts[:-1]), initial=len(self._template.header) + 4)
        header = self._template.fill(offsets, counts)
        struct.pack_into("<2d", header, self._template.corner_at, left, top)
        parts: list[bytes | bytearray] = [header]
        for strip in strips:
            parts += (struct.pack("<I", len(strip)), strip, strip[-4:])
        return b"".join(parts)


def read_planes(data: bytes, asset: PatchAsset) -> NDArray[Any]:
    """The pixels of a patch file: a new array (planes, pixels, pixels) of the asset's dtype.

    Raises UnreadableAsset as ``read_planes_into`` does.
    """
    planes = np.empty((len(asset.planes), asset.pixels, asset.pixels), asset.dtype)
    read_planes_into(data, asset, list(planes))
    return planes


def read_planes_into(data: bytes, asset: PatchAsset, planes: Sequence[NDArray[Any]]) -> None:
    """Fill ``planes``, one contiguous array (pixels, pixels) of the asset's dtype each, from a patch file.

    Files of CogEncoder are checked byte by byte as far as their header says how pixels are stored, and decoded
    without a raster library; any other TIFF of the right shape and dtype is read by rasterio. Raises UnreadableAsset,
    which says what is wrong but not in which file, if the data is truncated, damaged or of another shape or dtype.
    """
    for compression, template in _templates(asset):
        if strips := template.strips(data):
            _read_strips(data, asset, compression, strips, planes)
            return
    if data.startswith(_BEGINNING):
        # Not for GDAL: it would believe a damaged header, and might return wrong pixels without a word.
        shape = (len(asset.planes), asset.pixels, asset.pixels)
        raise UnreadableAsset(
            "truncated, damaged or the file of another asset: its header is not the one that landpatch writes "
            f"for {asset.key} ({_describe(shape, asset.dtype)})"
        )
    if not data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):  # classic and BigTIFF, either byte order
        raise UnreadableAsset("not a TIFF, or its first bytes are damaged" if data else "empty")
    for plane, pixels in zip(planes, _read_with_gdal(data, asset), strict=True):
        plane[...] = pixels


def has_header(data: bytes, asset: PatchAsset, epsg: int, left: float, top: float) -> bool:
    """Whether a file begins, byte by byte, as CogEncoder begins that of ``asset`` with this corner in this zone.

    False says nothing of files that other programs wrote.
    """
    for compression in get_args(Compression):
        template = _template(asset, compression, epsg)
        if strips := template.strips(data):
            header = template.fill(*zip(*strips, strict=True))
            struct.pack_into("<2d", header, template.corner_at, left, top)
            return data.startswith(header)
    return False


def _describe(shape: Sequence[int], dtype: Any) -> str:
    return f"{' x '.join(map(str, shape))} of {dtype}"


# --- The header -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Template:
    """The header of one kind of file: every byte before the first strip, and where those that vary lie."""

    header: bytes
    table: struct.Struct
    """Of the strips' offsets, and of their byte counts."""
    offsets_at: int
    counts_at: int
    corner_at: int
    constant: tuple[tuple[int, bytes], ...]
    """With their places, all bytes but those two tables that say how pixels are stored; those behind say where the
    patch lies and what the pixels mean."""

    def fill(self, offsets: Iterable[int], counts: Iterable[int]) -> bytearray:
        """A copy for strips that lie at ``offsets`` and have ``counts`` bytes; its corner is still (0, 0)."""
        header = bytearray(self.header)
        self.table.pack_into(header, self.offsets_at, *offsets)
        self.table.pack_into(header, self.counts_at, *counts)
        return header

    def strips(self, data: bytes) -> list[tuple[int, int]]:
        """Offset and byte count of each strip in a file of this kind; empty if ``data`` is none."""
        if len(data) < len(self.header):
            return []
        for start, part in self.constant:
            if not data.startswith(part, start):
                return []
        offsets = self.table.unpack_from(data, self.offsets_at)
        counts = self.table.unpack_from(data, self.counts_at)
        return list(zip(offsets, counts, strict=True))


@cache
def _templates(asset: PatchAsset) -> list[tuple[Compression, _Template]]:
    """The headers that a file of ``asset`` may have, as far as they say how pixels are stored: in any zone."""
    return [(compression, _template(asset, compression, 32601)) for compression in get_args(Compression)]


@cache
def _template(asset: PatchAsset, compression: Compression, epsg: int) -> _Template:
    """The header of ``asset``'s files; sorted by tag, all that concerns the pixels comes first, as TIFF has it."""
    dtype, planes = np.dtype(asset.dtype), len(asset.planes)
    is_float = dtype.kind == "f"
    fields: list[tuple[int, str, Any]] = [
        (256, "H", [asset.pixels]),  # ImageWidth
        (257, "H", [asset.pixels]),  # ImageLength
        (258, "H", [dtype.itemsize * 8] * planes),  # BitsPerSample
        (259, "H", [_TIFF_COMPRESSION[compression]]),
        (262, "H", [1]),  # PhotometricInterpretation: the smallest value is black
        (_STRIP_OFFSETS, "I", [0] * planes),
        (277, "H", [planes]),  # SamplesPerPixel
        (278, "H", [asset.pixels]),  # RowsPerStrip
        (_STRIP_BYTE_COUNTS, "I", [0] * planes),
        (284, "H", [2]),  # PlanarConfiguration: separate
        (317, "H", [3 if is_float else 2]),  # Predictor
        (338, "H", [0] * (planes - 1)),  # ExtraSamples: unspecified, so never taken for transparency
        (339, "H", [3 if is_float else 1] * planes),  # SampleFormat: IEEE float, unsigned integer
        (_MODEL_PIXEL_SCALE, "d", [asset.resolution, asset.resolution, 0]),
        (_MODEL_TIEPOINT, "d", [0] * 6),  # column, row, height of a pixel corner; its easting, northing, height
        (34735, "H", _geo_keys(epsg)),
        (34737, "s", [_geo_ascii(epsg)]),
        (42112, "s", [_band_names(asset.planes)]),
        (42113, "s", [b"" if asset.nodata is None else b"%d\0" % asset.nodata]),
    ]
    fields = [(tag, letter, values) for tag, letter, values in fields if values not in ([], [b""])]
    directory = struct.pack("<H", len(fields))
    tables = b""
    tables_at = _IFD_AT + 2 + 12 * len(fields) + 4  # a field takes 12 bytes, the link to a next directory 4
    places = {}
    for tag, letter, values in fields:
        count = len(values[0]) if letter == "s" else len(values)
        value = values[0] if letter == "s" else struct.pack(f"<{count}{letter}", *values)
        places[tag] = tables_at + len(tables)
        directory += struct.pack("<HHI", tag, _TYPE_CODES[letter], count)
        if len(value) > 4:
            directory += struct.pack("<I", places[tag])
            tables += value + b"\0" * (len(value) % 2)
        else:  # so short that it stands in the field itself
            places[tag] = _IFD_AT + len(directory)
            directory += value.ljust(4, b"\0")
    header = _BEGINNING + directory + bytes(4) + tables
    table = struct.Struct(f"<{planes}I")
    varying = (places[_STRIP_OFFSETS], places[_STRIP_BYTE_COUNTS])
    starts = (0, *(start + table.size for start in varying))
    ends = (*varying, places[_MODEL_PIXEL_SCALE])
    return _Template(
        header=header,
        table=table,
        offsets_at=places[_STRIP_OFFSETS],
        counts_at=places[_STRIP_BYTE_COUNTS],
        corner_at=places[_MODEL_TIEPOINT] + 3 * 8,
        constant=tuple((start, header[start:end]) for start, end in zip(starts, ends, strict=True)),
    )


def _citation(epsg: int) -> bytes:
    return b"WGS 84 / UTM zone %d%c|" % (epsg % 100, b"N" if epsg < 32700 else b"S")


def _geo_ascii(epsg: int) -> bytes:
    return (_citation(epsg) + b"WGS 84|").ljust(_GEO_ASCII_BYTES, b"|") + b"\0"


def _geo_keys(epsg: int) -> list[int]:
    """GeoKeyDirectory of a UTM zone, key for key as GDAL writes it."""
    keys = [
        (1024, 0, 1, 1),  # GTModelType: projected
        (1025, 0, 1, 1),  # GTRasterType: PixelIsArea
        (1026, 34737, len(_citation(epsg)), 0),  # GTCitation: length and start in GeoAsciiParams
        (2049, 34737, len(b"WGS 84|"), len(_citation(epsg))),  # GeogCitation
        (2054, 0, 1, 9102),  # GeogAngularUnits: degree
        (3072, 0, 1, epsg),  # ProjectedCSType
        (3076, 0, 1, 9001),  # ProjLinearUnits: metre
    ]
    return [1, 1, 0, len(keys), *(number for key in keys for number in key)]


_QUOTE = {'"': "&quot;"}


def _band_names(names: Sequence[str]) -> bytes:
    """GDAL_METADATA: what GDAL reads as the bands' descriptions; it escapes them twice."""
    items = "".join(
        f'  <Item name="DESCRIPTION" sample="{sample}" role="description">{escape(escape(name, _QUOTE))}</Item>\n'
        for sample, name in enumerate(names)
    )
    return f"<GDALMetadata>\n{items}</GDALMetadata>\n\0".encode()


# --- Reading back ---------------------------------------------------------------------------------------------------


def _read_strips(
    data: bytes,
    asset: PatchAsset,
    compression: Compression,
    strips: Sequence[tuple[int, int]],
    planes: Sequence[NDArray[Any]],
) -> None:
    if any(offset + count > following for (offset, count), (following, _) in pairwise(sorted(strips))):
        # A wrong offset can point at another plane's strip, which would decompress without complaint.
        raise UnreadableAsset(f"damaged: the planes of {asset.key} overlap, says its header")
    decompress = _inflate if compression == "deflate" else _zstd_decompress
    restore = _PREDICTORS[asset.dtype][1]
    view = memoryview(data)
    for name, plane, (offset, count) in zip(asset.planes, planes, strips, strict=True):
        end = offset + count
        if end + 4 > len(data):  # 4: the repeated bytes behind a strip
            raise UnreadableAsset(
                f"truncated or damaged: {asset.key} plane {name} should end at byte {end + 4} of {len(data)}"
            )
        try:
            raw = decompress(view[offset:end], plane.nbytes)
        except _STREAM_ERRORS as error:
            raise UnreadableAsset(f"damaged: {asset.key} plane {name} does not decompress ({error})") from error
        if len(raw) != plane.nbytes:
            raise UnreadableAsset(
                f"damaged: {asset.key} plane {name} decompresses to {len(raw)} bytes instead of {plane.nbytes}"
            )
        restore(raw, plane)


def _read_with_gdal(data: bytes, asset: PatchAsset) -> NDArray[Any]:
    from rasterio.errors import CRSError, RasterioError
    from rasterio.io import MemoryFile

    shape = (len(asset.planes), asset.pixels, asset.pixels)
    with MemoryFile(data, filename="patch.tif") as memory:
        try:
            with memory.open(driver="GTiff") as dataset:
                found = (dataset.count, dataset.height, dataset.width)
                if found == shape and set(dataset.dtypes) == {asset.dtype}:
                    planes: NDArray[Any] = dataset.read()
                    return planes
                found_dtype = dataset.dtypes[0]
        except (RasterioError, CRSError) as error:
            reason = str(error).replace(memory.name, "patch.tif")
            raise UnreadableAsset(f"truncated or damaged: GDAL cannot read it as a TIFF ({reason})") from error
    raise UnreadableAsset(
        f"holds {_describe(found, found_dtype)} where {asset.key} has {_describe(shape, asset.dtype)}"
    )


# --- Streams --------------------------------------------------------------------------------------------------------


_STREAM_ERRORS = (libdeflate.DeflateError, OSError)  # the latter is Arrow's


def _inflate(strip: memoryview, size: int) -> bytearray:
    return libdeflate.zlib_decompress(strip, size)


@cache
def _zstd() -> Any:
    from pyarrow import Codec

    return Codec("zstd", compression_level=_ZSTD_LEVEL)


def _zstd_compress(strips: NDArray[Any]) -> list[bytes]:
    return [_zstd_frame(strip) for strip in strips]


def _zstd_frame(raw: NDArray[Any]) -> bytes:
    """One zstd frame with its checksum, which Arrow leaves out: without it damage would go unnoticed."""
    frame = bytearray(_zstd().compress(raw, asbytes=True))
    frame[4] |= 0b100  # Content_Checksum_flag of the descriptor, which follows the 4 magic bytes
    octets = raw.reshape(-1).view(np.uint8)
    words = octets[: len(octets) // 8 * 8].view(np.uint64)
    return bytes(frame) + struct.pack("<I", int(_xxh64(words, octets[len(words) * 8 :])) & 0xFFFFFFFF)


def _zstd_decompress(strip: memoryview, size: int) -> bytes:
    raw: bytes = _zstd().decompress(strip, decompressed_size=size, asbytes=True)
    return raw


# XXH64's primes: github.com/Cyan4973/xxHash, doc/xxhash_spec.md.
_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)


@njit(cache=True, nogil=True)
def _rotate(word: Any, bits: int) -> Any:
    return (word << np.uint64(bits)) | (word >> np.uint64(64 - bits))


@njit(cache=True, nogil=True)
def _round(lane: Any, word: Any) -> Any:
    return _rotate(lane + word * _P2, 31) * _P1


@njit(cache=True, nogil=True)
def _xxh64(words: NDArray[np.uint64], rest: NDArray[np.uint8]) -> Any:
    """XXH64 with seed 0 of ``words`` followed by ``rest``, fewer than 8 bytes: zstd's content checksum."""
    zero = np.uint64(0)
    size = np.uint64(8 * len(words) + len(rest))
    whole = len(words) // 4 * 4
    if whole:
        a, b, c, d = _P1 + _P2, _P2, zero, zero - _P1
        for i in range(0, whole, 4):
            a = _round(a, words[i])
            b = _round(b, words[i + 1])
            c = _round(c, words[i + 2])
            d = _round(d, words[i + 3])
        digest = _rotate(a, 1) + _rotate(b, 7) + _rotate(c, 12) + _rotate(d, 18)
        for lane in (a, b, c, d):
            digest = (digest ^ _round(zero, lane)) * _P1 + _P4
    else:
        digest = _P5
    digest += size
    for word in words[whole:]:
        digest = _rotate(digest ^ _round(zero, word), 27) * _P1 + _P4
    if len(rest) >= 4:
        word = zero
        for i in range(4):
            word |= np.uint64(rest[i]) << np.uint64(8 * i)
        digest = _rotate(digest ^ (word * _P1), 23) * _P2 + _P3
    for octet in rest[len(rest) // 4 * 4 :]:
        digest = _rotate(digest ^ (np.uint64(octet) * _P5), 11) * _P1
    digest = (digest ^ (digest >> np.uint64(33))) * _P2
    digest = (digest ^ (digest >> np.uint64(29))) * _P3
    return digest ^ (digest >> np.uint64(32))


# --- Predictors -----------------------------------------------------------------------------------------------------


_room = ThreadMemory()


def _predict_uint16(planes: NDArray[np.uint16]) -> NDArray[np.uint16]:
    differences = _room.octets(planes.nbytes).view(np.uint16).reshape(planes.shape)
    # One copy of a strided view costs half of what numba loses on one.
    _difference(np.ascontiguousarray(planes), differences)
    return differences


@njit(cache=True, nogil=True)
def _difference(planes: NDArray[np.uint16], differences: NDArray[np.uint16]) -> None:
    for plane in range(planes.shape[0]):
        for row in range(planes.shape[1]):
            values, target = planes[plane, row], differences[plane, row]
            target[0] = values[0]
            for column in range(1, len(values)):
                target[column] = values[column] - values[column - 1]


# What restores holds Python's lock: it takes microseconds, and to be without the lock for so long costs more.


def _restore_uint16(raw: bytes | bytearray, plane: NDArray[np.uint16]) -> None:
    _restore_lines(np.frombuffer(raw, np.uint16).reshape(plane.shape), plane)


@njit(cache=True)
def _restore_lines(differences: NDArray[np.uint16], plane: NDArray[np.uint16]) -> None:
    for row in range(len(plane)):
        restore_line(differences[row], 2, plane[row])


def _predict_float32(planes: NDArray[np.float32]) -> NDArray[np.uint8]:
    count, height, width = planes.shape
    differences = _room.octets(planes.nbytes).reshape(count, height, 4 * width)
    _difference_bytes(np.ascontiguousarray(planes).view(np.uint32), differences)
    return differences


@njit(cache=True, nogil=True)
def _difference_bytes(words: NDArray[np.uint32], differences: NDArray[np.uint8]) -> None:
    """Each row becomes four runs, its values' highest bytes first; then each byte minus the one to its left."""
    width = words.shape[2]
    for plane in range(words.shape[0]):
        for row in range(words.shape[1]):
            values = words[plane, row]
            left = np.uint32(0)
            for run in range(4):
                shift = np.uint32(24 - 8 * run)
                target = differences[plane, row, run * width : (run + 1) * width]
                target[0] = (values[0] >> shift) - left
                for column in range(1, width):
                    target[column] = (values[column] >> shift) - (values[column - 1] >> shift)
                left = values[width - 1] >> shift


def _restore_float32(raw: bytes | bytearray, plane: NDArray[np.float32]) -> None:
    _restore_lines_of_bytes(np.frombuffer(raw, np.uint8).reshape(len(plane), -1), plane.view(np.uint32))


@njit(cache=True)
def _restore_lines_of_bytes(differences: NDArray[np.uint8], words: NDArray[np.uint32]) -> None:
    lanes = np.empty(LANES, np.uint64)
    for row in range(len(words)):
        restore_bytes(differences[row], lanes, words[row])


_PREDICTORS: dict[str, tuple[Any, Any]] = {
    "uint16": (_predict_uint16, _restore_uint16),
    "float32": (_predict_float32, _restore_float32),
}
