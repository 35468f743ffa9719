"""Freed memory that is kept: in processes of their own, since a C library's limits are a process's."""

import os
import subprocess
import sys

import pytest

from landpatch.catalog.heap import kept_memory

# Blocks of 160 kB, as many as a transaction has, taken and freed again and again: how many pages the kernel had to
# hand out for the last ten rounds while memory is kept, and how much is still resident afterwards.
_ROUNDS = """
import resource
import numpy as np
from landpatch.catalog.heap import kept_memory

def one_round():
    blocks = [np.empty(160_832, np.uint8) for _ in range(256)]
    for block in blocks:
        block[::4096] = 1

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        one_round()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

one_round()
without = faults()
start = resident()
with kept_memory():
    with kept_memory():
        one_round()
    within = faults()
    held = resident() - start
print(without, within, held, resident() - start)
"""

_VARIABLES = ("MALLOC_", "GLIBC_TUNABLES")


def _rounds(**environment: str) -> list[int]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(_VARIABLES)}
    done = subprocess.run(
        [sys.executable, "-c", _ROUNDS],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(number) for number in done.stdout.split()]


def _on_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):
        return False


glibc = pytest.mark.skipif(not _on_glibc(), reason="only glibc's malloc has these limits")
_PAGES = 256 * 160_832 // 4096


@glibc
def test_blocks_are_used_again_and_given_back_afterwards() -> None:
    without, within, held, left = _rounds()
    assert without > 5 * _PAGES  # what it is for: the limits of glibc give every round fresh pages
    assert within < _PAGES
    assert held > 20 * 2**20
    assert left < 5 * 2**20


@glibc
@pytest.mark.parametrize(
    "tunables", [{"MALLOC_MMAP_THRESHOLD_": "65536"}, {"GLIBC_TUNABLES": "glibc.malloc.top_pad=0"}]
)
def test_limits_that_the_user_has_set_stay(tunables: dict[str, str]) -> None:
    _, within, held, _ = _rounds(**tunables)
    assert within > 5 * _PAGES
    assert held < 5 * 2**20


@pytest.mark.parametrize("answer", [None, "NPTL 2.36", ValueError("unrecognized configuration name")])
def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch, answer: str | Exception | None) -> None:
    import ctypes

    from landpatch.catalog import heap

    def confstr(_: str) -> str | None:
        if isinstance(answer, Exception):
            raise answer
        return answer

    def no_library(*_: object) -> None:
        raise AssertionError("there is no mallopt to call")

    monkeypatch.setattr(os, "confstr", confstr)
    monkeypatch.setattr(ctypes, "CDLL", no_library)
    heap._glibc.cache_clear()
    try:
        with kept_memory():
            pass
    finally:
        heap._glibc.cache_clear()
