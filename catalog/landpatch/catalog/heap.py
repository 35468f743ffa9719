"""Memory that is freed and needed again at once, kept meanwhile instead of given back to the system.

glibc's malloc takes blocks of 128 kB and more from the system one by one and returns them when they are freed, and it
gives back the end of its heap when that grows large: what a value in an LMDB transaction (160 kB), a block of a band
(512 kB) or a compressed plane needs. Each time the kernel has to hand out, to clear and to enter in its tables all
their pages anew, which takes longer than the work on them.

Source: mallopt(3); malloc/malloc.c of glibc 2.36 ("M_MMAP_THRESHOLD").
"""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_KEPT = 32 * 2**20
"""glibc takes no larger limit for blocks of their own (DEFAULT_MMAP_THRESHOLD_MAX on 64 bits)."""
_KEPT = 512 * 2**20  # free bytes at the end of the heap; an LMDB transaction of 512 keys leaves 80 MB there
_AFTERWARDS = 2 * _LARGEST_KEPT
"""What glibc itself keeps in a process that has freed a block of the largest kind: it raises both limits then."""


class ThreadMemory(threading.local):
    """Memory that each thread keeps for something that it makes again and again, a piece at a time."""

    def __init__(self) -> None:
        self._kept = np.empty(0, np.uint8)

    def octets(self, size: int) -> NDArray[np.uint8]:
        """``size`` bytes without a value yet, which are this thread's until it asks again."""
        if len(self._kept) < size:
            self._kept = np.empty(size, np.uint8)
        return self._kept[:size]


_changing = threading.Lock()
_holders = 0


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep up to 512 MB of freed memory in this process; afterwards give back what is free.

    May be nested and held by several threads. Does nothing where the C library is not glibc, or where the environment
    sets malloc's limits itself (``MALLOC_MMAP_THRESHOLD_`` and the like, ``GLIBC_TUNABLES``).
    """
    library = _glibc()
    if library is None:
        yield
        return
    _hold(library, +1)
    try:
        yield
    finally:
        _hold(library, -1)


def _hold(library: Any, change: int) -> None:
    global _holders
    with _changing:
        before, _holders = _holders, _holders + change
        if not before:
            library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
            library.mallopt(_M_TRIM_THRESHOLD, _KEPT)
        elif not _holders:
            library.mallopt(_M_TRIM_THRESHOLD, _AFTERWARDS)
            library.malloc_trim(0)


@cache
def _glibc() -> Any:
    """glibc if this process runs on it and nobody else has set its limits; else None."""
    names = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")
    if any(name in os.environ for name in names) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return None
    try:
        version = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):  # Windows; macOS; musl
        return None
    if not version.startswith("glibc"):
        return None
    return ctypes.CDLL(None)
