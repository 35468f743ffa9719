"""A file of BigEarthNet's own layout: one band as a GeoTIFF, read and compared with where its patch must lie.

The published files are as plain as TIFF allows (one directory, uncompressed strips), and there are eight million of
them: their header is read here, in a fiftieth of the time that GDAL takes to open a file. Compressed ones are decoded
by ``cogs.read_planes``. Sources: TIFF 6.0; OGC GeoTIFF 1.1 (19-008r4).
"""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landpatch.catalog.bands import PatchAsset
from landpatch.catalog.cogs import read_planes
from landpatch.catalog.errors import UnreadableAsset
from landpatch.catalog.grid import Geobox

LARGEST_FILE = 2**20
"""Bytes: the largest published file has 58,024."""

_FIELD = {2: "s", 3: "H", 4: "I", 12: "d"}  # TIFF field types: ASCII, SHORT, LONG, DOUBLE
_WIDTH, _LENGTH, _BITS, _COMPRESSION, _OFFSETS, _SAMPLES, _COUNTS = 256, 257, 258, 259, 273, 277, 279
_SAMPLE_FORMAT, _SCALE, _TIEPOINT, _GEO_KEYS = 339, 33550, 33922, 34735
_PROJECTED_CRS = 3072  # GeoKey: the EPSG code
_FORMATS = {"uint16": (16, 1), "float32": (32, 3)}  # bits, sample format


def read_band(data: bytes, band: PatchAsset, place: Geobox) -> NDArray[Any]:
    """The pixels (pixels, pixels) of one band's file, of the band's dtype.

    Raises UnreadableAsset, which says what is wrong but not in which file: no TIFF, damaged, of another shape or
    dtype, or georeferenced elsewhere than at ``place``. A file without georeferencing is taken at its name.
    """
    if len(data) > LARGEST_FILE:
        raise UnreadableAsset(f"holds {len(data):,} bytes, more than any file of a patch")
    if not data.startswith(b"II*\0"):
        raise UnreadableAsset("not a TIFF of the published kind, or its first bytes are damaged" if data else "empty")
    try:
        tags = _directory(data)
        _check_place(tags, place)
        bits, form = _FORMATS[band.dtype]
        found = tuple(tags.get(tag, (1,)) for tag in (_WIDTH, _LENGTH, _BITS, _SAMPLES, _SAMPLE_FORMAT))
        if found != ((band.pixels,), (band.pixels,), (bits,), (1,), (form,)):
            width, length, depth, *_ = (numbers[0] for numbers in found)
            raise UnreadableAsset(
                f"holds {length} x {width} pixels of {depth} bits where {band.key} has {band.pixels} x {band.pixels} "
                f"of {band.dtype}"
            )
        if tags.get(_COMPRESSION, (1,)) == (1,) and _OFFSETS in tags:
            strips = zip(tags[_OFFSETS], tags[_COUNTS], strict=True)
            raw = b"".join(data[offset : offset + count] for offset, count in strips)
            expected = band.pixels**2 * bits // 8
            if len(raw) < expected:
                raise UnreadableAsset(f"truncated or damaged: {len(raw)} bytes of pixels")
            if len(raw) == expected:
                return np.frombuffer(raw, band.dtype).reshape(band.pixels, band.pixels)
            # GDAL writes the last strip of a band without any data as long as the others: it knows how to read it.
    except (struct.error, IndexError, KeyError, ValueError) as error:
        raise UnreadableAsset(f"truncated or damaged: its TIFF header makes no sense ({error})") from error
    plane: NDArray[Any] = read_planes(data, band)[0]
    return plane


def _directory(data: bytes) -> dict[int, tuple[Any, ...]]:
    """The values of the first directory's numeric fields, by tag."""
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    tags = {}
    for number in range(count):
        tag, kind, length, inline = struct.unpack_from("<HHI4s", data, at + 2 + 12 * number)
        letter = _FIELD.get(kind)
        if letter in (None, "s"):
            continue
        size = length * struct.calcsize(f"<{letter}")
        if size > len(data):
            raise ValueError(f"field {tag} would take {size:,} bytes")
        start = at + 2 + 12 * number + 8 if size <= 4 else struct.unpack("<I", inline)[0]
        tags[tag] = struct.unpack_from(f"<{length}{letter}", data, start)
    return tags


def _check_place(tags: dict[int, tuple[Any, ...]], place: Geobox) -> None:
    keys = tags.get(_GEO_KEYS, ())
    epsg = next((keys[at + 3] for at in range(4, len(keys) - 3, 4) if keys[at] == _PROJECTED_CRS), None)
    if epsg is not None and epsg != place.epsg:
        raise UnreadableAsset(f"lies in EPSG:{epsg}, and its tile in EPSG:{place.epsg}")
    if _SCALE in tags and _TIEPOINT in tags:
        column, row, _, east, north, _ = tags[_TIEPOINT][:6]
        across, down = tags[_SCALE][:2]
        found = (across, down, east - column * across, north + row * down)
        transform = place.transform
        expected = (transform.a, -transform.e, transform.c, transform.f)
        if found != expected:
            raise UnreadableAsset(
                f"lies at {found[2]:.2f}, {found[3]:.2f} with pixels of {across:g} m, and its patch at "
                f"{expected[2]:.0f}, {expected[3]:.0f} with pixels of {expected[0]:g} m"
            )
