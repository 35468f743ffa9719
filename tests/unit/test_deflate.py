"""Deflate streams of our own: whatever the bytes, zlib reads them back, and they are always the same."""

import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from landpatch.catalog.deflate import deflate


def restored(strips: np.ndarray) -> list[bytes]:
    return [zlib.decompress(stream) for stream in deflate(strips)]


@given(
    arrays.arrays(
        np.uint8,
        st.tuples(st.integers(1, 4), st.integers(1, 700)),
        elements=st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 255])),
    )
)
def test_zlib_reads_back_any_bytes(strips: np.ndarray) -> None:
    assert restored(strips) == [strip.tobytes() for strip in strips]


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(1, 900)), min_size=1, max_size=12), st.integers(0, 3))
def test_runs_of_every_length_come_back(runs: list[tuple[int, int]], skew: int) -> None:
    octets = np.array([7] * skew + [value for value, count in runs for _ in range(count)], np.uint8)
    assert restored(octets[None]) == [octets.tobytes()]


def test_very_uneven_frequencies_stay_within_the_longest_code() -> None:
    """Fibonacci frequencies ask for the longest Huffman codes there can be."""
    counts = [1, 1]
    while len(counts) < 26:
        counts.append(counts[-1] + counts[-2])
    octets = np.concatenate([np.full(count, value, np.uint8) for value, count in enumerate(counts)])
    np.random.default_rng(1).shuffle(octets)
    assert restored(octets[None]) == [octets.tobytes()]


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (2, 20, 20), (4, 120, 120)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_strips_of_any_kind_are_taken_as_bytes(shape: tuple[int, ...], dtype: str) -> None:
    strips = np.random.default_rng(2).integers(0, 60, shape).astype(dtype)
    assert restored(strips) == [strip.tobytes() for strip in strips]


def test_the_size_is_that_of_an_entropy_code() -> None:
    """Noise around zero, as predictors leave it: within 2 % of what zlib's own Huffman coding reaches."""
    noise = np.random.default_rng(3).geometric(0.05, (1, 28800)).astype(np.uint8)
    packer = zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_HUFFMAN_ONLY)
    usual = len(packer.compress(noise.tobytes()) + packer.flush())
    assert len(deflate(noise)[0]) < 1.02 * usual


def test_memory_that_was_used_before_does_not_show() -> None:
    """isal's level 1 fails this: glibc fills fresh memory with another pattern in each process."""
    program = """
import hashlib, numpy as np
from landpatch.catalog.deflate import deflate
strips = np.random.default_rng(4).geometric(0.1, (200, 28800)).astype(np.uint8)
print(hashlib.sha256(b"".join(deflate(strips))).hexdigest())
"""
    seen = set()
    for pattern in ("0", "85", "170"):
        environment = {"MALLOC_PERTURB_": pattern, "PATH": ""}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        seen.add(done.stdout)
    assert len(seen) == 1
