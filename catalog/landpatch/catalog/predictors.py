"""TIFF's predictors undone: a row of pixels from what is stored of it.

Compiled for one row, to be called by compiled functions: those of whole blocks give Python's lock away, those of
patches, which take microseconds, do not.

Sources: TIFF 6.0 (predictor 2); Adobe's TIFF technical note 3 (predictor 3).
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

LANES = 256
"""Pixels that ``restore_bytes`` adds up at a time; sums of as many bytes fit in 16 bits."""

_EVEN_BYTES, _EVEN_PAIRS = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)


@njit(cache=True, nogil=True)
def restore_line(words: NDArray[Any], predictor: int, line: NDArray[Any]) -> None:
    """A row of unsigned words as pixels: with predictor 2 each is the difference from the one to its left, with
    predictor 1 the pixel itself. ``line`` has the same length.
    """
    value = line.dtype.type(0)
    for i in range(words.size):
        value = line.dtype.type(words[i] if predictor == 1 else value + words[i])
        line[i] = value


@njit(cache=True, nogil=True)
def restore_bytes(octets: NDArray[np.uint8], lanes: NDArray[np.uint64], line: NDArray[np.uint32]) -> None:
    """The first pixels, as bits, of a row of float32 that was stored with predictor 3; as many as ``line`` has.

    ``octets`` holds the highest bytes of all pixels of the row, then the second highest and so on, and each byte is
    the difference from the one before it, also from one of these runs to the next. The four bytes of a pixel are
    added up at once, in lanes of 16 bits; ``lanes`` is room for LANES of them.
    """
    columns = octets.size // 4
    a, b, c, d = (
        octets[:columns],
        octets[columns : 2 * columns],
        octets[2 * columns : 3 * columns],
        octets[3 * columns :],
    )
    b8, b16, b32, b48 = np.uint64(8), np.uint64(16), np.uint64(32), np.uint64(48)
    sum_a = _sum(a)
    sum_b = np.uint8(sum_a + _sum(b))
    sum_c = np.uint8(sum_b + _sum(c))
    sums = np.uint64(sum_a) << b32 | np.uint64(sum_b) << b16 | np.uint64(sum_c)
    for start in range(0, line.size, LANES):
        size = min(LANES, line.size - start)
        aa, bb, cc, dd = (
            a[start : start + size],
            b[start : start + size],
            c[start : start + size],
            d[start : start + size],
        )
        for i in range(size):
            lanes[i] = np.uint64(aa[i]) << b48 | np.uint64(bb[i]) << b32 | np.uint64(cc[i]) << b16 | np.uint64(dd[i])
        for i in range(size):
            sums += lanes[i]
            lanes[i] = sums
        sums &= _EVEN_BYTES
        target = line[start : start + size]
        for i in range(size):
            word = lanes[i] & _EVEN_BYTES
            word = (word | word >> b8) & _EVEN_PAIRS
            target[i] = np.uint32(word | word >> b16)


@njit(cache=True, nogil=True)
def _sum(octets: NDArray[np.uint8]) -> np.uint8:
    """Modulo 256."""
    total = np.uint8(0)
    for octet in octets:
        total = np.uint8(total + octet)
    return total
