"""Random fields that depend on the place only: the same metre of ground is the same however the work is cut.

All functions take plain numbers and are compiled; seeds are small integers. Gradient noise: K. Perlin, "Improving
noise", SIGGRAPH 2002; hashing: C. Wellons, "lowbias32", 2018.
"""

import math

from numba import njit

_MASK = 0xFFFFFFFF


@njit(cache=True, nogil=True)
def hashed(a: int, b: int, seed: int) -> int:
    """A well-mixed number 0 .. 2**32 - 1 for two integers and a seed."""
    h = ((a * 0x27D4EB2D) ^ (b * 0x165667B1) ^ (seed * 0x1E3779B1)) & _MASK
    h = ((h ^ (h >> 16)) * 0x7FEB352D) & _MASK
    h = ((h ^ (h >> 15)) * 0x846CA68B) & _MASK
    return h ^ (h >> 16)


@njit(cache=True, nogil=True)
def unit(h: int) -> float:
    """A hashed number as a fraction 0 <= u < 1."""
    return h / 4294967296.0


@njit(cache=True, nogil=True)
def _corner(ix: int, iy: int, fx: float, fy: float, seed: int) -> float:
    h = hashed(ix, iy, seed) & 7
    u = fx if h < 4 else fy
    v = fy if h < 4 else fx
    return (u if h & 1 else -u) + (0.5 * v if h & 2 else -0.5 * v)


@njit(cache=True, nogil=True)
def noise(x: float, y: float, seed: int) -> float:
    """Gradient noise, about -1 .. 1 and mostly within -0.5 .. 0.5; one bump takes about one unit."""
    ix, iy = math.floor(x), math.floor(y)
    fx, fy = x - ix, y - iy
    jx, jy = int(ix), int(iy)
    u = fx * fx * fx * (fx * (fx * 6.0 - 15.0) + 10.0)
    v = fy * fy * fy * (fy * (fy * 6.0 - 15.0) + 10.0)
    a = _corner(jx, jy, fx, fy, seed)
    b = _corner(jx + 1, jy, fx - 1.0, fy, seed)
    c = _corner(jx, jy + 1, fx, fy - 1.0, seed)
    d = _corner(jx + 1, jy + 1, fx - 1.0, fy - 1.0, seed)
    top = a + u * (b - a)
    return top + v * (c + u * (d - c) - top)


@njit(cache=True, nogil=True)
def fractal(x: float, y: float, metres: float, octaves: int, seed: int) -> float:
    """Sum of ``octaves`` noises, the widest of bumps ``metres`` wide, each next one half as wide and as strong."""
    total, weight = 0.0, 1.0
    u, v = x / metres, y / metres
    for octave in range(octaves):
        # Turned by 37 degrees each time, so that the lattices' directions do not show.
        u, v = 0.8 * u - 0.6 * v, 0.6 * u + 0.8 * v
        total += weight * noise(u, v, seed + 101 * octave)
        weight *= 0.5
        u *= 2.03
        v *= 2.03
    return total


@njit(cache=True, nogil=True)
def cell(x: float, y: float, metres: float, seed: int) -> tuple[int, float, float, float]:
    """The Voronoi cell, about ``metres`` wide, that holds a point.

    Returns its key (hashed), the point's offset from its seed in x and y, and about the distance to its border.
    """
    px, py = x / metres, y / metres
    ix, iy = math.floor(px), math.floor(py)
    first, second = 1e9, 1e9
    key, dx, dy = 0, 0.0, 0.0
    for j in range(iy - 1, iy + 2):
        for i in range(ix - 1, ix + 2):
            h = hashed(i, j, seed)
            ex = px - i - 0.15 - 0.7 * (h & 0xFFFF) / 65536.0
            ey = py - j - 0.15 - 0.7 * (h >> 16) / 65536.0
            d = ex * ex + ey * ey
            if d < first:
                second, first = first, d
                key, dx, dy = h, ex, ey
            elif d < second:
                second = d
    border = 0.5 * (math.sqrt(second) - math.sqrt(first)) * metres
    return key, dx * metres, dy * metres, border


@njit(cache=True, nogil=True)
def ramp(value: float, low: float, high: float) -> float:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)
