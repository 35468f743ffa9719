"""Memory is asked for, touched and given back, so that what is measured next finds some at hand.

    memory.py GIGABYTES REPORT

A virtual machine may return what is free to its host, and then each GB of it costs seconds when it is used again: as
much as an LMDB of a tile takes otherwise. That says nothing of landpatch, so it is paid before.
"""

import mmap
import os
import sys
from typing import Any

import numpy as np
from measure import cpu_seconds, write_report


def touch(gigabytes: float) -> dict[str, Any]:
    """CPU seconds a GB, touched page by page; no more than a third of the machine's memory."""
    size = min(int(gigabytes * 1e9), os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE // 3)
    before = cpu_seconds()
    with mmap.mmap(-1, size) as memory:
        np.frombuffer(memory, np.uint8)[:: mmap.PAGESIZE] = 1
        return {"cpu_a_gigabyte": (cpu_seconds() - before) / size * 1e9}


if __name__ == "__main__":
    _, gigabytes, report_file = sys.argv
    write_report(report_file, touch(float(gigabytes)))
