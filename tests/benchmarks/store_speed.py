"""What the system alone takes: for a tile's files, as many bytes in such folders, written plainly and by landpatch's
storage; and for memory that nobody has used lately, which is what the files of a tile or an LMDB go to first.

    store_speed.py FOLDER FILES BYTES REPORT

Creating small files is nearly all the kernel's time, and on some machines that differs by a factor of ten from one
minute to the next. A virtual machine may give back what memory is free, and then a GB of it costs seconds when it is
used again. Without these figures beside it, a build's cannot be understood.
"""

import mmap
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from measure import cpu_seconds, write_report

from landpatch.catalog.store import Storage

_A_PATCH = 5
_THREADS = 2
_MEMORY = 3 * 10**9  # as an LMDB of a tile takes; some free memory is kept at hand


def speeds(folder: Path, count: int, size: int) -> dict[str, Any]:
    """CPU microseconds a file, each way in a folder of its own. Every write goes to another name and is then renamed.

    Nothing is deleted: ext4 makes new files slowly for up to five minutes after many were.
    """
    data = os.urandom(size)

    def path(number: int) -> str:
        return f"patches/33UUP/scene/patch-{number // _A_PATCH}/asset-{number % _A_PATCH}.tif"

    def plain(number: int) -> None:
        target = folder / "plain" / path(number)
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_suffix(".new")
        new.write_bytes(data)
        new.rename(target)

    def by_storage(name: str) -> Callable[[int], None]:
        storage = Storage.open(folder / name, create=True)
        return lambda number: storage.put(path(number), data)

    def cpu(work: Callable[[int], None], threads: int) -> float:
        before = cpu_seconds()
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(work, range(count)):
                pass
        return (cpu_seconds() - before) / count * 1e6

    return {
        "files": count,
        "plain": cpu(plain, 1),
        "storage, one thread": cpu(by_storage("one"), 1),
        f"storage, {_THREADS} threads": cpu(by_storage("several"), _THREADS),
    }


def new_memory() -> float:
    """CPU seconds a GB, touched page by page."""
    before = cpu_seconds()
    with mmap.mmap(-1, _MEMORY) as memory:
        np.frombuffer(memory, np.uint8)[:: mmap.PAGESIZE] = 1
        return (cpu_seconds() - before) / _MEMORY * 1e9


if __name__ == "__main__":
    _, where, files, octets, report_file = sys.argv
    figures = {"new_memory": new_memory(), **speeds(Path(where), int(files), int(octets))}
    write_report(report_file, figures)
