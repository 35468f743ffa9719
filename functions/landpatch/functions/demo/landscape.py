"""What lies where: heights, a river and CORINE-like cover of an invented piece of land, every 50 m.

The plan is coarse on purpose. ``ground`` looks at it pixel by pixel, with fields, houses and trees; ``world`` draws
the generalised polygons of a land-cover map from it.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

from landpatch.functions.demo.noise import fractal, noise, ramp

STEP = 50
"""Metres between the points of the plan: half the narrowest thing that CORINE maps (100 m)."""
MARGIN = 1200
"""Metres that a plan reaches beyond what is asked, so that nothing ends at the edge of a scene."""

_FARMLAND = (211, 231, 242, 243)
_WATER = (511, 512)


@dataclass(frozen=True)
class Relief:
    """The shape of the land. Heights in metres above the sea, places as (easting, northing) in metres.

    A plain at ``base`` with ``hills`` metres of undulation; a mountain of ``height`` at ``summit``, ``reach`` metres
    wide. Above ``tree_line`` no forest, above ``snow_line`` snow. Rivers run at angle ``course`` (radians from the
    east), ``spacing`` metres apart, one of them past ``river``, ``river_width`` metres wide. ``vines``: are there
    any.
    """

    base: float
    hills: float
    summit: tuple[float, float]
    height: float
    reach: float
    tree_line: float
    snow_line: float
    river: tuple[float, float]
    course: float = 0.0
    spacing: float = 26_000.0
    river_width: float = 130.0
    vines: bool = False


@dataclass(frozen=True)
class Site:
    """A blob of one cover: CLC ``code``, centre and ``radius`` in metres, ``length`` times longer along ``angle``.

    ``rough``: how ragged its outline is (0 = an ellipse); ``on_farmland``: only where there was farmland.
    """

    code: int
    east: float
    north: float
    radius: float
    length: float = 1.0
    angle: float = 0.0
    rough: float = 0.9
    on_farmland: bool = False


@dataclass(frozen=True)
class Road:
    """A line through ``points`` (easting, northing), shape (n, 2); ``kind`` 1 lane, 2 main road, 3 runway."""

    points: NDArray[np.float64]
    kind: int


@dataclass(frozen=True)
class Landscape:
    """A plan. Arrays have shape (rows, columns), row 0 in the north, one value every 50 m at the middle of its cell.

    ``codes`` uint16 CLC codes; ``height`` float32 metres; ``river`` float32 signed metres to the middle of the
    nearest river; ``west``, ``north`` the upper-left corner of the plan in metres of ``epsg``.
    """

    seed: int
    epsg: int
    west: float
    north: float
    relief: Relief
    codes: NDArray[np.uint16]
    height: NDArray[np.float32]
    river: NDArray[np.float32]
    roads: list[Road] = field(default_factory=list)


def plan_landscape(
    bounds: tuple[float, float, float, float],
    epsg: int,
    relief: Relief,
    *,
    sites: tuple[Site, ...] = (),
    towns: tuple[tuple[float, float, float], ...] = (),
    seed: int = 7,
) -> Landscape:
    """Plan the land within ``bounds`` (west, south, east, north in metres of ``epsg``) and 1200 m around it.

    Towns, villages, lakes, bogs, quarries and golf courses are strewn by ``seed``; ``towns`` (easting, northing,
    radius) and ``sites`` are added to them, later ones over earlier ones.
    """
    west, south = bounds[0] - MARGIN, bounds[1] - MARGIN
    east, north = bounds[2] + MARGIN, bounds[3] + MARGIN
    shape = (math.ceil((north - south) / STEP), math.ceil((east - west) / STEP))
    height, course = np.empty(shape, np.float32), np.empty(shape, np.float64)
    _heights(height, course, west, north, _numbers(relief), seed)
    river = np.empty(shape, np.float32)
    _river_distance(course, river, relief.spacing)
    _taper(river, west, north, relief)
    codes = np.empty(shape, np.uint16)
    _natural_cover(codes, height, river, west, north, _numbers(relief), seed)
    land = Landscape(seed, epsg, west, north, relief, codes, height, river)
    strewn, places = _strew(land, (west, south, east, north))
    places += list(towns)
    for place in towns:
        strewn += _town(place, np.random.default_rng([seed, 5, int(place[0])]))
    for site in (*strewn, *sites):
        _paint(land, site)
    land.roads.extend(_roads(land, places))
    return land


def _numbers(relief: Relief) -> NDArray[np.float64]:
    """The relief as the compiled functions take it; the order is theirs too."""
    r = relief
    return np.array(
        [
            *(r.base, r.hills, *r.summit, r.height, r.reach, r.tree_line, r.snow_line),
            *(*r.river, math.cos(r.course), math.sin(r.course), r.spacing, r.river_width, float(r.vines)),
        ]
    )


@njit(cache=True, nogil=True)
def _heights(
    height: NDArray[np.float32],
    course: NDArray[np.float64],
    west: float,
    north: float,
    relief: NDArray[np.float64],
    seed: int,
) -> None:
    base, hills, summit_x, summit_y, peak, reach = relief[0], relief[1], relief[2], relief[3], relief[4], relief[5]
    river_x, river_y, cosine, sine, spacing = relief[8], relief[9], relief[10], relief[11], relief[12]
    for row in range(height.shape[0]):
        y = north - (row + 0.5) * STEP
        for column in range(height.shape[1]):
            x = west + (column + 0.5) * STEP
            h = base + 1.7 * hills * fractal(x, y, 7000.0, 6, seed + 1)
            away = math.hypot(x - summit_x, y - summit_y) / reach + 0.25 * noise(x / 4000.0, y / 4000.0, seed + 2)
            if away < 1.0:
                foot = ramp(1.0 - away, 0.0, 1.0)
                ridge = 1.0 - 2.2 * abs(fractal(x, y, 3100.0, 6, seed + 3))
                h += peak * foot * (0.5 + 0.5 * ridge)
            height[row, column] = h
            # Rivers are where this field passes a whole number.
            course[row, column] = (
                ((y - river_y) * cosine - (x - river_x) * sine) / spacing
                + 0.085 * noise(x / 6500.0, y / 6500.0, seed + 4)
                + 0.030 * noise(x / 1900.0, y / 1900.0, seed + 5)
            )


@njit(cache=True, nogil=True)
def _river_distance(course: NDArray[np.float64], river: NDArray[np.float32], spacing: float) -> None:
    rows, columns = course.shape
    for row in range(rows):
        up, down = max(row - 1, 0), min(row + 1, rows - 1)
        for column in range(columns):
            left, right = max(column - 1, 0), min(column + 1, columns - 1)
            gx = (course[row, right] - course[row, left]) / ((right - left) * STEP)
            gy = (course[down, column] - course[up, column]) / ((down - up) * STEP)
            rest = course[row, column] - round(course[row, column])
            river[row, column] = rest / max(math.hypot(gx, gy), 0.3 / spacing)


def _taper(river: NDArray[np.float32], west: float, north: float, relief: Relief) -> None:
    """Rivers grow narrow towards the summit and end on its slopes: what lies far from a river stays dry."""
    y = north - (np.arange(river.shape[0])[:, None] + 0.5) * STEP - relief.summit[1]
    x = west + (np.arange(river.shape[1])[None, :] + 0.5) * STEP - relief.summit[0]
    close = np.clip(0.95 - np.hypot(x, y) / relief.reach, 0, None)
    river += np.where(river < 0, -1, 1) * (3000 * close).astype(np.float32)


@njit(cache=True, nogil=True)
def _natural_cover(
    codes: NDArray[np.uint16],
    height: NDArray[np.float32],
    river: NDArray[np.float32],
    west: float,
    north: float,
    relief: NDArray[np.float64],
    seed: int,
) -> None:
    base, hills, tree_line, river_half = relief[0], relief[1], relief[6], 0.5 * relief[13]
    vines = relief[14] > 0.5
    for row in range(codes.shape[0]):
        y = north - (row + 0.5) * STEP
        for column in range(codes.shape[1]):
            x = west + (column + 0.5) * STEP
            h = height[row, column]
            away = abs(river[row, column])
            if away < river_half:
                codes[row, column] = 511
                continue
            above = (h - tree_line) / 330.0 + 1.3 * fractal(x, y, 1300.0, 4, seed + 11)
            if above > 0.0:
                codes[row, column] = 322 if above < 0.25 else 321 if above < 0.9 else 333 if above < 2.1 else 332
                continue
            high = ramp(h, base + 2.2 * hills, base + 2.2 * hills + 260.0)
            wooded = fractal(x, y, 3900.0, 5, seed + 12) + 0.34 * high - 0.13
            if away < 320.0 and noise(x / 900.0, y / 900.0, seed + 13) > 0.05:
                codes[row, column] = 311
                continue
            if wooded > 0.0:
                kind = fractal(x, y, 3000.0, 3, seed + 14) - 0.22 * high
                young = fractal(x, y, 1500.0, 3, seed + 15)
                if young > 0.40 or above > -0.16:
                    codes[row, column] = 324
                else:
                    codes[row, column] = 312 if kind < -0.10 else 313 if kind < 0.14 else 311
                continue
            wet = fractal(x, y, 5200.0, 4, seed + 16) + 0.5 * high
            small = fractal(x, y, 2700.0, 3, seed + 17)
            if vines and small > 0.12 and h < base + 2.5 * hills:
                codes[row, column] = 221
            elif vines and wet > 0.42:
                codes[row, column] = 322
            elif wooded > -0.06 and small > -0.08:
                codes[row, column] = 243
            elif wet > 0.15 or away < 240.0:
                codes[row, column] = 231
            else:
                codes[row, column] = 242 if small > 0.36 else 211


def _strew(
    land: Landscape, bounds: tuple[float, float, float, float]
) -> tuple[list[Site], list[tuple[float, float, float]]]:
    """Random sites, in the order in which they are painted, and the towns and villages among them."""

    def scattered(kind: int, spacing: float, share: float) -> list[tuple[float, float, np.random.Generator]]:
        found = []
        west, south, east, north = bounds
        for i in range(math.floor(west / spacing), math.ceil(east / spacing)):
            for j in range(math.floor(south / spacing), math.ceil(north / spacing)):
                rng = np.random.default_rng([land.seed, kind, i, j])
                x, y = spacing * (i + rng.uniform(0.1, 0.9)), spacing * (j + rng.uniform(0.1, 0.9))
                if rng.random() < share and west < x < east and south < y < north:
                    found.append((x, y, rng))
        return found

    sites: list[Site] = []
    low = land.relief.base + 3 * land.relief.hills
    for x, y, rng in scattered(1, 9000, 0.45):
        if _at(land.height, land, x, y) < low:
            radius = rng.uniform(280, 620)
            sites += [Site(324, x, y, 1.3 * radius), Site(412, x, y, radius, rng.uniform(1, 1.7), rng.uniform(0, 3))]
    for x, y, rng in scattered(2, 7000, 0.5):
        radius, angle = rng.uniform(180, 620), rng.uniform(0, 3)
        if _at(land.height, land, x, y) < low:
            sites.append(Site(411, x + 0.9 * radius, y, 0.7 * radius))
            sites.append(Site(512, x, y, radius, rng.uniform(1, 2.0), angle, rough=0.7))
    for kind, code, spacing, share, smallest, largest in (
        (3, 131, 8000, 0.5, 220, 380),
        (4, 142, 11000, 0.5, 260, 420),
        (6, 324, 5200, 0.35, 250, 480),
        (8, 222, 8500, 0.4, 250, 420),
    ):
        for x, y, rng in scattered(kind, spacing, share):
            if _at(land.height, land, x, y) < land.relief.tree_line - 200:
                radius = rng.uniform(smallest, largest)
                sites.append(Site(code, x, y, radius, on_farmland=code in (142, 222)))
    places: list[tuple[float, float, float]] = []
    for x, y, rng in scattered(9, 2900, 0.72):
        if _at(land.height, land, x, y) < low and _at(land.codes, land, x, y) in (*_FARMLAND, 221):
            radius = rng.uniform(110, 330)
            sites += [Site(242, x, y, 1.5 * radius, on_farmland=True), Site(112, x, y, radius, rng.uniform(1, 1.9))]
            places.append((x, y, radius))
    for x, y, rng in scattered(10, 9500, 0.6):
        if _at(land.height, land, x, y) < low:
            place = (x, y, rng.uniform(420, 950))
            sites += _town(place, rng)
            places.append(place)
    return sites, places


def _town(place: tuple[float, float, float], rng: np.random.Generator) -> list[Site]:
    """Gardens and orchards around, houses, an old centre, an industrial quarter and a park."""
    x, y, radius = place
    sites = [Site(242, x, y, 1.45 * radius, on_farmland=True), Site(112, x, y, radius, rng.uniform(1, 1.5))]
    for code, size, away in ((222, 0.45, 1.35), (121, 0.40, 0.95), (142, 0.24, 1.0)):
        angle = rng.uniform(0, 2 * math.pi)
        spot = x + away * radius * math.cos(angle), y + away * radius * math.sin(angle)
        if size * radius > 150:
            sites.append(Site(code, *spot, size * radius, rng.uniform(1, 1.8), angle, rough=0.5))
    if radius > 800:
        sites.append(Site(111, x, y, 0.36 * radius, rough=0.6))
    return sites


def _at(values: NDArray[np.generic], land: Landscape, x: float, y: float) -> float:
    row = min(max(int((land.north - y) / STEP), 0), values.shape[0] - 1)
    column = min(max(int((x - land.west) / STEP), 0), values.shape[1] - 1)
    return float(values[row, column])


def cells_of(land: Landscape, site: Site) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """The window of the plan around a site, and which of its cells the site covers."""
    reach = 1.9 * site.radius * max(site.length, 1.0)
    top, bottom = (max(int((land.north - site.north + away) / STEP), 0) for away in (-reach, reach))
    left, right = (max(int((site.east - land.west + away) / STEP), 0) for away in (-reach, reach))
    window = (slice(top, bottom), slice(left, right))
    rows, columns = land.codes[window].shape
    if rows == 0 or columns == 0:
        return window, np.zeros((rows, columns), bool)
    y = land.north - (np.arange(top, top + rows)[:, None] + 0.5) * STEP - site.north
    x = land.west + (np.arange(left, left + columns)[None, :] + 0.5) * STEP - site.east
    along = (x * math.cos(site.angle) + y * math.sin(site.angle)) / math.sqrt(site.length)
    across = (y * math.cos(site.angle) - x * math.sin(site.angle)) * math.sqrt(site.length)
    ragged = np.empty((rows, columns))
    _fractal_grid(ragged, x[0, 0] + site.east, y[0, 0] + site.north, 1.3 * site.radius, land.seed + site.code)
    inside: NDArray[np.bool_] = np.hypot(along, across) / site.radius + site.rough * ragged < 1.0
    return window, inside


def _paint(land: Landscape, site: Site) -> None:
    place, inside = cells_of(land, site)
    window = land.codes[place]
    if site.code not in _WATER:
        inside &= ~np.isin(window, _WATER)
    if site.on_farmland:
        inside &= np.isin(window, _FARMLAND)
    window[inside] = site.code


@njit(cache=True, nogil=True)
def _fractal_grid(out: NDArray[np.float64], x: float, y: float, metres: float, seed: int) -> None:
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            out[row, column] = fractal(x + column * STEP, y - row * STEP, metres, 3, seed)


def _roads(land: Landscape, places: list[tuple[float, float, float]]) -> list[Road]:
    """Each place is joined to its two nearest, and each town to its two nearest towns by a main road."""
    roads: list[Road] = []
    for kind, smallest in ((1, 0.0), (2, 400.0)):
        chosen = [place for place in places if place[2] >= smallest]
        spots = np.array([place[:2] for place in chosen]).reshape(-1, 2)
        joined = set()
        for start, spot in enumerate(spots):
            distance = np.hypot(*(spots - spot).T)
            for end in np.argsort(distance, kind="stable")[1:3]:
                pair = (min(start, int(end)), max(start, int(end)))
                if pair not in joined and distance[end] < 20_000:
                    joined.add(pair)
                    roads.append(Road(_winding(spots[pair[0]], spots[pair[1]], land.seed + 21), kind))
    return roads


def _winding(start: NDArray[np.float64], end: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    span = end - start
    length = max(float(np.hypot(*span)), 1.0)
    steps = max(int(length / 120), 2)
    t = np.linspace(0, 1, steps + 1)
    points = start + t[:, None] * span
    away = np.array([fractal(float(x), float(y), 2500.0, 3, seed) for x, y in points])
    normal = np.array([-span[1], span[0]]) / length
    shifted: NDArray[np.float64] = points + (np.sin(np.pi * t) * away * min(500.0, 0.25 * length))[:, None] * normal
    return shifted
