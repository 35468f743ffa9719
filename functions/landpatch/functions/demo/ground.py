"""The invented ground pixel by pixel: which surface lies where, and how a sensor sees it.

Everything is a function of the place (easting, northing), so that two sensors with different grids, or two cuts of
the same work, see the same fields and houses. Surfaces and covers are the tables in ``data/``.
"""

import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from threading import Lock
from typing import Self

import numpy as np
import rasterio.features
import shapely
from affine import Affine
from numba import njit
from numpy.typing import NDArray

from landpatch.catalog.bands import optical_bands, read_table
from landpatch.functions.demo.landscape import STEP, Landscape
from landpatch.functions.demo.noise import cell, fractal, hashed, noise, ramp, unit

_PATTERNS = ("water", "parcels", "canopy", "town", "works", "open")
_WATER, _PARCELS, _CANOPY, _TOWN, _WORKS, _OPEN = range(6)
_MOST = 10  # surfaces of one cover
# rasterio silences a warning of its own through `warnings.catch_warnings`, which threads must not do at once.
_RASTERIZING = Lock()
_ROAD_WIDTHS = {1: 9.0, 2: 22.0, 3: 60.0}  # metres: a lane with its verges, a main road, a runway


@dataclass(frozen=True)
class Palette:
    """The tables of surfaces and covers as arrays; ``n`` surfaces, ``m`` covers.

    ``spectra`` (n, 12) float32 reflectance x 10000 in the order of ``optical_bands``; ``backscatter`` (n, 2) float32
    gamma0 in dB, VV and VH; ``scl`` (n,) uint8; ``fades`` (n,) uint8 the surface each shades into; ``rows`` (1000,)
    uint8 from CLC code to cover; per cover its ``pattern``, size in ``metres``, and surfaces with cumulated weights.
    """

    names: tuple[str, ...]
    spectra: NDArray[np.float32]
    backscatter: NDArray[np.float32]
    scl: NDArray[np.uint8]
    fades: NDArray[np.uint8]
    rows: NDArray[np.uint8]
    pattern: NDArray[np.uint8]
    metres: NDArray[np.float32]
    surfaces: NDArray[np.uint8]
    weights: NDArray[np.float32]


@cache
def palette() -> Palette:
    """The palette of ``data/surfaces.csv`` and ``data/covers.csv``."""
    folder = files("landpatch.functions.demo").joinpath("data")
    surfaces = read_table(folder.joinpath("surfaces.csv").read_text("utf-8"))
    covers = read_table(folder.joinpath("covers.csv").read_text("utf-8"))
    names = tuple(row["surface"] for row in surfaces)
    lookup = np.zeros(1000, np.uint8)
    chosen = np.zeros((len(covers), _MOST), np.uint8)
    weights = np.ones((len(covers), _MOST), np.float32)
    for index, cover in enumerate(covers):
        lookup[int(cover["code"])] = index
        shares = [part.split(":") for part in cover["surfaces"].split()]
        share = np.array([float(weight) for _, weight in shares])
        chosen[index, : len(shares)] = [names.index(name) for name, _ in shares]
        weights[index, : len(shares)] = np.cumsum(share) / share.sum()
    return Palette(
        names,
        np.array([[float(row[band]) for band in optical_bands()] for row in surfaces], np.float32),
        np.array([[float(row["vv"]), float(row["vh"])] for row in surfaces], np.float32),
        np.array([int(row["scl"]) for row in surfaces], np.uint8),
        np.array([names.index(row["fades_to"]) for row in surfaces], np.uint8),
        lookup,
        np.array([_PATTERNS.index(row["pattern"]) for row in covers], np.uint8),
        np.array([float(row["metres"]) for row in covers], np.float32),
        chosen,
        weights,
    )


@dataclass(frozen=True)
class Ground:
    """A window of ground at 10 m, arrays of shape (rows, columns).

    Each pixel is ``first`` mixed with the share ``blend`` of ``second`` (uint8 surfaces; float32 0..1). ``gain``
    float32: brightness of its texture and of the light on its slope; ``tone`` float32: dB of its own roughness.
    """

    first: NDArray[np.uint8]
    second: NDArray[np.uint8]
    blend: NDArray[np.float32]
    gain: NDArray[np.float32]
    tone: NDArray[np.float32]

    @classmethod
    def look(cls, land: Landscape, light: "Light", west: float, north: float, shape: tuple[int, int]) -> Self:
        """The window whose upper-left corner is (``west``, ``north``) in metres; it must lie inside the plan."""
        ground = cls(
            np.empty(shape, np.uint8),
            np.empty(shape, np.uint8),
            np.empty(shape, np.float32),
            np.empty(shape, np.float32),
            np.empty(shape, np.float32),
        )
        p, relief = palette(), land.relief
        _look(
            (ground.first, ground.second, ground.blend, ground.gain, ground.tone),
            (west, north, land.west, land.north),
            (land.codes, land.height, land.river, light.shade),
            _paved(land, west, north, shape),
            (p.rows, p.pattern, p.metres, p.surfaces, p.weights, p.fades),
            tuple(p.names.index(name) for name in _NAMED),
            (relief.base + 2.5 * relief.hills, relief.snow_line, 0.5 * relief.river_width),
            land.seed,
        )
        return ground


_NAMED = ("hedge", "track", "asphalt", "gravel", "snow", "river", "broadleaf")


@dataclass(frozen=True)
class Light:
    """Sunlight on a landscape. ``shade`` float32 as the plan's arrays: brightness against that of level ground."""

    shade: NDArray[np.float32]

    @classmethod
    def from_sun(cls, land: Landscape, azimuth: float, zenith: float) -> Self:
        """From the sun's azimuth (from the north, clockwise) and zenith distance in degrees."""
        south, east = np.gradient(land.height, STEP)
        sun, tangent = math.radians(azimuth), math.tan(math.radians(zenith))
        # Lambert's cosine law on the slope, over that on level ground; the sky gives a quarter of the light.
        lit = (1 - tangent * (east * math.sin(sun) - south * math.cos(sun))) / np.sqrt(1 + east**2 + south**2)
        return cls((0.25 + 0.75 * np.clip(lit, 0.0, 1.7)).astype(np.float32))


def _paved(land: Landscape, west: float, north: float, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Kind of road of each pixel, 0 where there is none."""
    window = shapely.box(west - 100, north - 10 * shape[0] - 100, west + 10 * shape[1] + 100, north + 100)
    drawn = []
    for road in sorted(land.roads, key=lambda road: road.kind):
        line = shapely.LineString(road.points)
        if line.intersects(window):
            drawn.append((line.buffer(_ROAD_WIDTHS[road.kind] / 2, cap_style="flat"), road.kind))
    if not drawn:
        return np.zeros(shape, np.uint8)
    with _RASTERIZING:
        paved: NDArray[np.uint8] = rasterio.features.rasterize(
            drawn, shape, transform=Affine(10, 0, west, 0, -10, north), dtype="uint8", all_touched=False
        )
    return paved


@njit(cache=True, nogil=True)
def _between(values: NDArray[np.float32], row: float, column: float) -> float:
    """Bilinear value; ``row`` and ``column`` count from the middle of the first cell."""
    r = min(max(math.floor(row), 0), values.shape[0] - 2)
    c = min(max(math.floor(column), 0), values.shape[1] - 2)
    v, u = row - r, column - c
    top = values[r, c] * (1.0 - u) + values[r, c + 1] * u
    return top * (1.0 - v) + (values[r + 1, c] * (1.0 - u) + values[r + 1, c + 1] * u) * v


@njit(cache=True, nogil=True)
def _code_at(codes: NDArray[np.uint16], row: float, column: float) -> int:
    """The code with the largest bilinear weight: outlines run diagonally instead of in steps of 50 m."""
    r = min(max(math.floor(row), 0), codes.shape[0] - 2)
    c = min(max(math.floor(column), 0), codes.shape[1] - 2)
    v, u = row - r, column - c
    a, b, d, e = int(codes[r, c]), int(codes[r, c + 1]), int(codes[r + 1, c]), int(codes[r + 1, c + 1])
    if a == b and a == d and a == e:
        return a
    wa, wb, wd, we = (1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v
    best, most = a, wa + (wb if b == a else 0.0) + (wd if d == a else 0.0) + (we if e == a else 0.0)
    weight = wb + (wd if d == b else 0.0) + (we if e == b else 0.0)
    if b != a and weight > most:
        best, most = b, weight
    weight = wd + (we if e == d else 0.0)
    if d not in (a, b) and weight > most:
        best, most = d, weight
    return e if we > most else best


@njit(cache=True, nogil=True)
def _river_at(river: NDArray[np.float32], row: float, column: float) -> float:
    """Metres to the middle of the river; far where its sign flips halfway between two rivers."""
    r = min(max(math.floor(row), 0), river.shape[0] - 2)
    c = min(max(math.floor(column), 0), river.shape[1] - 2)
    if abs(river[r, c]) > 500.0 or abs(river[r + 1, c + 1]) > 500.0 or abs(river[r, c + 1]) > 500.0:
        return 1e6
    if abs(river[r + 1, c]) > 500.0:
        return 1e6
    return abs(_between(river, row, column))


@njit(cache=True, nogil=True)
def _parcel(x: float, y: float, metres: float, seed: int) -> tuple[int, float, float, float, float]:
    """The field of a point: key, offset of its middle from the point, distance to its border and to its block's."""
    block, dx, dy, border = cell(x, y, 6.0 * metres, seed)
    # Fields of a neighbourhood lie in about the same direction, those of a block in exactly the same.
    angle = 4.0 * noise((x - dx) / 8000.0, (y - dy) / 8000.0, seed + 1) + 0.6 * unit(hashed(block, 1, seed))
    cosine, sine = math.cos(angle), math.sin(angle)
    along, across = dx * cosine + dy * sine, dy * cosine - dx * sine
    wide = metres * (0.55 + 0.9 * unit(hashed(block, 2, seed)))
    long = metres * (1.4 + 2.2 * unit(hashed(block, 3, seed)))
    j = math.floor(across / wide)
    shifted = along + long * unit(hashed(block, j, seed + 2))
    i = math.floor(shifted / long)
    a, b = (i + 0.5) * long - shifted, (j + 0.5) * wide - across
    inside = min(0.5 * long - abs(a), 0.5 * wide - abs(b))
    key = hashed(hashed(i, j, seed + 3), block, seed)
    return key, a * cosine - b * sine, a * sine + b * cosine, inside, border


@njit(cache=True, nogil=True)
def _look(
    out: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
    place: tuple[float, float, float, float],
    plan: tuple[NDArray[np.uint16], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
    paved: NDArray[np.uint8],
    table: tuple[
        NDArray[np.uint8],
        NDArray[np.uint8],
        NDArray[np.float32],
        NDArray[np.uint8],
        NDArray[np.float32],
        NDArray[np.uint8],
    ],
    named: tuple[int, ...],
    levels: tuple[float, float, float],
    seed: int,
) -> None:
    first, second, blend, gain, tone = out
    west, north, plan_west, plan_north = place
    codes, height, river, shade = plan
    rows, pattern, metres, surfaces, weights, fades = table
    hedge, track, asphalt, gravel, snow, stream, trees = named
    hilly, snow_line, river_half = levels
    for r in range(first.shape[0]):
        y = north - 10.0 * r - 5.0
        for c in range(first.shape[1]):
            x = west + 10.0 * c + 5.0
            pr, pc = (plan_north - y) / STEP - 0.5, (x - plan_west) / STEP - 0.5
            # Nature's borders wander by some tens of metres around the plan's.
            wx = 34.0 * noise(x / 140.0, y / 140.0, seed + 31) + 13.0 * noise(x / 37.0, y / 37.0, seed + 32)
            wy = 34.0 * noise(x / 140.0, y / 140.0, seed + 33) + 13.0 * noise(x / 37.0, y / 37.0, seed + 34)
            code = _code_at(codes, pr + wy / STEP, pc + wx / STEP)
            index = rows[code]
            kind, size = pattern[index], metres[index]
            fine = noise(x / 21.0, y / 21.0, seed + 35)
            broad = noise(x / 160.0, y / 160.0, seed + 36)
            grain = unit(hashed(int(x), int(y), seed + 37)) - 0.5
            border, key = 1e6, 0
            bright, rough, share = 1.0, 0.0, 0.0
            covering = -1
            if kind == _PARCELS:
                key, ax, ay, border, block = _parcel(x, y, size, seed + 40 + int(size))
                inner = _code_at(codes, pr - ay / STEP, pc + ax / STEP)
                if pattern[rows[inner]] == _PARCELS:
                    code, index = inner, rows[inner]
                bright = 0.90 + 0.2 * unit(hashed(key, 1, seed)) + 0.07 * broad + 0.05 * fine
                share = 0.45 * unit(hashed(key, 2, seed)) + 0.30 * broad + 0.15 * fine + 0.1
                rough = 3.0 * (unit(hashed(key, 3, seed)) - 0.5) + 1.2 * broad
                if block < 4.5:
                    covering = hedge if code in (231, 243) else track
                elif border < 6.0 and unit(hashed(key, 4, seed)) < (0.30 if code in (231, 243, 242) else 0.10):
                    covering = hedge
                elif border < 5.0:
                    share += 0.35
                elif code in (242, 243, 231) and fine > 0.52:
                    covering = hedge
            elif kind == _CANOPY:
                key, _, _, border = cell(x + 2.2 * wx, y + 2.2 * wy, size, seed + 41)
                bright = 0.92 + 0.16 * unit(hashed(key, 1, seed)) + 0.24 * fine + 0.10 * broad + 0.16 * grain
                share = 0.5 * unit(hashed(key, 2, seed)) + 0.5 * broad + 0.5 * fine
                rough = 1.8 * fine + 1.0 * broad
            elif kind in (_TOWN, _WORKS):
                block, bx, by, border = cell(x, y, 420.0 if kind == _TOWN else 300.0, seed + 42)
                angle = 3.0 * unit(block)
                along, across = (
                    bx * math.cos(angle) + by * math.sin(angle),
                    by * math.cos(angle) - bx * math.sin(angle),
                )
                lane = 5.0 * size
                street = min(
                    abs(along - lane * round(along / lane)), abs(across - 0.6 * lane * round(across / (0.6 * lane)))
                )
                key = hashed(math.floor(along / size), math.floor(across / size), seed + block % 1000)
                bright = 0.80 + 0.40 * unit(hashed(key, 1, seed)) + 0.10 * grain
                share = 0.45 * unit(hashed(key, 2, seed))
                corner = unit(hashed(key, 3, seed))
                rough = 10.0 * corner * corner * corner - 3.0
                if (street < 5.0 and kind == _TOWN) or (street < 8.0 and kind == _WORKS) or border < 7.0:
                    covering = asphalt
                    rough = 1.0
            elif kind == _OPEN:
                key, _, _, border = cell(x + 2.6 * wx, y + 2.6 * wy, size, seed + 43)
                bright = 0.93 + 0.14 * unit(hashed(key, 1, seed)) + 0.16 * fine + 0.10 * broad + 0.08 * grain
                share = 0.5 * unit(hashed(key, 2, seed)) + 0.7 * broad + 0.5 * fine
                rough = 1.5 * fine + 1.2 * broad
            else:
                # Water is smooth and shades slowly; a breeze roughens parts of it.
                key = 0
                share = 0.35 + 0.9 * noise(x / 700.0, y / 700.0, seed + 44) + 0.25 * broad
                bright = 1.0 + 0.06 * broad
                rough = 3.5 * noise(x / 1300.0, y / 1300.0, seed + 45)
            if covering < 0:
                u = unit(hashed(key, 5, seed))
                k = 0
                while k < _MOST - 1 and weights[index, k] <= u:
                    k += 1
                covering = surfaces[index, k]
            else:
                share = 0.2 + 0.3 * fine
            away = _river_at(river, pr + 0.3 * wy / STEP, pc + 0.3 * wx / STEP)
            if away < river_half and code != 512:
                covering, bright, rough = stream, 1.0 + 0.05 * broad, -0.5
                share = ramp(away, 0.4 * river_half, river_half) * 0.5 + 0.2 * broad
            elif code == 511:
                # The plan's river is cut from 50 m cells; the banks are gravel and willows.
                covering, share = (gravel if broad > 0.12 else trees), 0.2
                bright = 0.95 + 0.2 * fine
            road = paved[r, c] if code != 512 else 0
            if road == 1 and away > river_half:
                covering, share, bright, rough = track, 0.15 + 0.25 * grain, 1.0, 0.5
            elif road >= 2:
                covering, share, bright, rough = asphalt, 0.12, 1.05, 0.5
            metres_up = _between(height, pr, pc)
            rugged = ramp(metres_up, hilly, hilly + 500.0)
            if kind != _WATER:
                # Small relief that the plan's heights do not hold.
                crag = fractal(x, y, 240.0, 4, seed + 46)
                bright *= 1.0 + 0.30 * rugged * crag
                bright *= _between(shade, pr, pc)
            other = fades[covering]
            white = (metres_up + 150.0 * broad + 60.0 * fine - snow_line) / 110.0
            if white > 0.0 and kind != _WATER:
                other, share = snow, white
            first[r, c] = covering
            second[r, c] = other
            blend[r, c] = min(max(share, 0.0), 1.0)
            gain[r, c] = max(bright, 0.12)
            tone[r, c] = rough


@njit(cache=True, nogil=True)
def _opacity(x: float, y: float, clouds: NDArray[np.float64], seed: int) -> float:
    away = math.hypot(x - clouds[0], y - clouds[1]) / clouds[2]
    if away > 1.0:
        return 0.0
    puff = fractal(x, y, 2300.0, 6, seed + 51) + 0.55 * (1.0 - away * away) - 0.42
    return ramp(puff, 0.0, 0.36) * ramp(1.0 - away, 0.0, 0.3)


@njit(cache=True, nogil=True)
def _veil(x: float, y: float, clouds: NDArray[np.float64], seed: int) -> float:
    away = math.hypot(x - clouds[3], y - clouds[4]) / clouds[5]
    if away > 1.0:
        return 0.0
    # Streaks, four times longer than wide.
    along, across = 0.8 * x + 0.6 * y, 0.8 * y - 0.6 * x
    return 0.32 * ramp(fractal(along / 4.0, across, 1500.0, 4, seed + 52), -0.15, 0.4) * ramp(1.0 - away, 0.0, 0.5)


@njit(cache=True, nogil=True)
def sky(
    white: NDArray[np.float32],
    dark: NDArray[np.float32],
    veil: NDArray[np.float32],
    west: float,
    north: float,
    clouds: NDArray[np.float64],
    seed: int,
) -> None:
    """Fill opacity of clouds, depth of their shadows and opacity of thin cirrus, each 0 .. 1, at 10 m.

    ``clouds``: easting, northing and reach (metres) of the clouds, the same of the cirrus, and where their shadow
    falls (metres east, metres north).
    """
    for r in range(white.shape[0]):
        y = north - 10.0 * r - 5.0
        for c in range(white.shape[1]):
            x = west + 10.0 * c + 5.0
            white[r, c] = _opacity(x, y, clouds, seed)
            dark[r, c] = _opacity(x - clouds[6], y - clouds[7], clouds, seed)
            veil[r, c] = _veil(x, y, clouds, seed)


@njit(cache=True, nogil=True)
def reflectance(
    out: NDArray[np.float32],
    spectrum: NDArray[np.float32],
    cloud: float,
    shadow: float,
    ground: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]],
    air: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
) -> None:
    """Fill one band at 10 m, reflectance x 10000, without the sensor's noise.

    ``spectrum`` (n,): the band's reflectance of each surface; ``cloud``: that of a thick cloud; ``shadow``: what
    share of the light a cloud's shadow takes away.
    """
    first, second, blend, gain = ground
    white, dark, veil = air
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            b = blend[r, c]
            value = ((1.0 - b) * spectrum[first[r, c]] + b * spectrum[second[r, c]]) * gain[r, c]
            value *= 1.0 - shadow * dark[r, c]
            value += veil[r, c] * 0.35 * (cloud - value)
            out[r, c] = value + white[r, c] * (cloud * (0.55 + 0.45 * white[r, c]) - value)


@njit(cache=True, nogil=True)
def expose(
    out: NDArray[np.uint16],
    scene: NDArray[np.float32],
    margin: int,
    factor: int,
    offset: int,
    place: tuple[float, float],
    swath: tuple[float, float, float],
    seed: int,
) -> None:
    """Fill digital numbers from a band at 10 m: blur or average to the band's pixels, noise, offset, swath's edge.

    ``scene`` has ``margin`` pixels more on each side than ``out`` times ``factor``; ``place`` is the upper-left
    corner of ``out`` in metres. West of the line through (``swath[0]``, ``swath[1]``), that runs ``swath[2]`` metres
    east for each metre north, the satellite saw nothing: 0.
    """
    for r in range(out.shape[0]):
        y = place[1] - 10.0 * factor * (r + 0.5)
        edge = swath[0] + (y - swath[1]) * swath[2]
        for c in range(out.shape[1]):
            x = place[0] + 10.0 * factor * (c + 0.5)
            if x < edge:
                out[r, c] = 0
                continue
            i, j = margin + r * factor, margin + c * factor
            value = 0.0
            if factor == 1:
                # The optics spread a tenth of the light into each neighbour.
                value = 0.52 * scene[i, j] + 0.10 * (
                    scene[i - 1, j] + scene[i + 1, j] + scene[i, j - 1] + scene[i, j + 1]
                )
                value += 0.02 * (
                    scene[i - 1, j - 1] + scene[i - 1, j + 1] + scene[i + 1, j - 1] + scene[i + 1, j + 1]
                )
            else:
                for k in range(factor):
                    for m in range(factor):
                        value += scene[i + k, j + m]
                value /= factor * factor
            h = hashed(int(x), int(y), seed)
            value += (5.0 + 0.006 * value) * 2.4 * ((h & 0xFFFF) / 65536.0 + (h >> 16) / 65536.0 - 1.0)
            out[r, c] = max(int(value + 0.5), 1) + offset


@njit(cache=True, nogil=True)
def classify(
    out: NDArray[np.uint8],
    scl: NDArray[np.uint8],
    ground: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]],
    air: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
    margin: int,
    place: tuple[float, float],
    swath: tuple[float, float, float],
) -> None:
    """Fill the scene classification at 20 m: SCL codes as sen2cor's, 0 beyond the swath."""
    first, second, blend, gain = ground
    white, dark, veil = air
    for r in range(out.shape[0]):
        y = place[1] - 20.0 * (r + 0.5)
        edge = swath[0] + (y - swath[1]) * swath[2]
        for c in range(out.shape[1]):
            i, j = margin + 2 * r, margin + 2 * c
            cloud = white[i, j]
            if place[0] + 20.0 * (c + 0.5) < edge:
                out[r, c] = 0
            elif cloud > 0.55:
                out[r, c] = 9
            elif cloud > 0.2:
                out[r, c] = 8
            elif veil[i, j] > 0.12:
                out[r, c] = 10
            elif dark[i, j] > 0.35:
                out[r, c] = 3
            else:
                surface = second[i, j] if blend[i, j] > 0.5 else first[i, j]
                code = scl[surface]
                out[r, c] = 2 if gain[i, j] < 0.4 and code != 6 else code


@njit(cache=True, nogil=True)
def backscatter(
    out: NDArray[np.float32],
    decibel: NDArray[np.float32],
    ground: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]],
    margin: int,
    place: tuple[float, float],
    swath: tuple[float, float, float],
    nodata: float,
    seed: int,
) -> None:
    """Fill one polarisation at 10 m: linear power, speckle of about four looks as GRD has, ``nodata`` off the swath.

    ``decibel`` (n,): mean of each surface; ``swath`` as in ``expose``, but what lies *east* of the line is missing.
    """
    first, second, blend, tone = ground
    rows, columns = out.shape
    raw = np.empty((rows + 1, columns + 1), np.float32)
    for r in range(rows + 1):
        y = place[1] - 10.0 * r - 5.0
        for c in range(columns + 1):
            x = place[0] + 10.0 * c + 5.0
            i, j = margin + r, margin + c
            b = blend[i, j]
            mean = (1.0 - b) * decibel[first[i, j]] + b * decibel[second[i, j]] + tone[i, j]
            # One look is exponential; neighbours share it, as the sensor resolves 20 m and samples 10 m.
            look = -math.log(unit(hashed(int(x), int(y), seed)) + 1e-9)
            raw[r, c] = math.exp(0.23025850929940458 * mean) * look
    for r in range(rows):
        y = place[1] - 10.0 * r - 5.0
        edge = swath[0] + (y - swath[1]) * swath[2]
        for c in range(columns):
            if place[0] + 10.0 * c + 5.0 > edge:
                out[r, c] = nodata
            else:
                out[r, c] = 0.34 * raw[r, c] + 0.25 * (raw[r, c + 1] + raw[r + 1, c]) + 0.16 * raw[r + 1, c + 1]
