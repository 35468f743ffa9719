"""What this process has asked of remote storage since it began, as getrusage says what it has asked of the kernel.

Requests are the larger part of what a dataset on S3 costs, so they are counted where they are made. What is repeated
below obstore's surface (its own retries, the pages of a listing, the parts of a large upload) is not seen here.
"""

import threading
from dataclasses import dataclass, fields
from typing import Self


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests by S3's price classes, and bytes: ``reads`` are GET and HEAD, ``writes`` PUT, ``lists`` LIST."""

    reads: int = 0
    writes: int = 0
    lists: int = 0
    bytes_read: int = 0
    bytes_written: int = 0

    def __add__(self, other: Self) -> "Traffic":
        return Traffic(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Self) -> "Traffic":
        return Traffic(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


_lock = threading.Lock()
_total = Traffic()


def traffic() -> Traffic:
    """All of it so far; what a piece of work asked for is the difference of two."""
    return _total


def count(asked: Traffic) -> None:
    """Add what was asked for."""
    global _total
    with _lock:
        _total = _total + asked
