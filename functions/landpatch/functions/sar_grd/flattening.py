"""Radiometric terrain flattening: how much ground a radar pixel saw, and gamma0 from it.

``gamma0 = beta0 A_beta / A_gamma`` (Small, "Flattening Gamma: Radiometric Terrain Correction for SAR Imagery", IEEE
TGRS 49(8), 2011). A_gamma is the area that the ground within a pixel shows to the radar: the sum, over all facets of
the terrain that lie in the pixel, of their area projected onto the plane across the line of sight. Layover needs no
rule of its own: all its facets count. A_beta is the pixel's own area in the plane of slant range and flight.

Facets are the squares between the centres of the tile's 10 m pixels. Each is spread over the pixels of the image in
parts that are at most a third of a pixel apart, every part bilinearly over four pixels; the sum then ripples by less
than 2 %. In shadow are facets that face away, and those below the line of sight over the terrain before them (the
running maximum of the look angle along range).
"""

import numpy as np
from numba import njit

from landpatch.functions.sar_grd.annotation import Float64
from landpatch.functions.sar_grd.calibration import Float32
from landpatch.functions.sar_grd.geometry import HEIGHT_MIDDLE, HEIGHT_REACH, Geometry, record_of, sample_at, to_ecef
from landpatch.functions.warp import KNOT_PIXELS

MARGIN_PATCHES = 4
"""Patches around a piece whose terrain counts: 4.8 km. Ground further away would have to rise above a pixel by 2.8 km
to be laid over it (at the near edge of the swath, 30 degrees), by 4.6 km to hide it (at the far one, 46 degrees)."""

LEAST_AREA = np.float32(0.05)
"""A_gamma / A_beta below which a pixel is shadow: it holds hardly any ground, and 1 / 0.05 would raise its noise by
13 dB. Flat ground has 0.96 (far edge) to 1.7."""

_PART = 1 / 3  # pixels between the parts of a facet
_MOST_PARTS = 200  # along a side: a cliff of 500 m; what is steeper is an error of the elevation model
_STEEP = 0.49  # tan^2 of 35 degrees: below, no facet faces away (the far edge of IW looks at 46 degrees)
_BIN = 6.0  # metres of slant range between places along range for which a horizon is kept: a pixel on flat ground
_BEHIND = 3  # bins: lattice points of one line lie up to half a line, that is a bin's look angle, apart

# Rows of the knots: line and slant range as in Geometry.knots, then what facet_knots adds.
_TOWARDS, _RISE, _FALL, _AREA = 6, 9, 10, 12


def facet_knots(geometry: Geometry, longitude: Float64, latitude: Float64) -> Float64:
    """``Geometry.knots`` of a lattice of points every 20 pixels, with nine numbers more: shape (15, rows, columns).

    6 to 9: with the height h above the ellipsoid and slopes p, q (metres a pixel to the right, down), a facet of one
    pixel shows the radar ``(-p k6 - q k7 + k8 + h k9) / slant range`` square metres. 10, 11: the look angle from
    the satellite's nadir has the cosine ``-(k10 + h k11) / slant range``. 12 to 14: one over the area of a pixel of
    the image in the plane of slant range and flight, as a parabola of height.
    """
    shape = longitude.shape
    places = geometry.knots(longitude, latitude)
    ground = to_ecef(longitude.ravel(), latitude.ravel(), 0.0)
    satellite, velocity, acceleration = geometry.satellite(_at(places[:3], 0.0).ravel())
    sight = (ground - satellite).reshape(*shape, 3)
    lam, phi = np.radians(longitude), np.radians(latitude)
    up = np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=-1)
    down, right = (step / KNOT_PIXELS for step in np.gradient(ground.reshape(*shape, 3), axis=(0, 1)))
    zenith = (satellite / np.linalg.norm(satellite, axis=1, keepdims=True)).reshape(*shape, 3)
    added = [
        _dot(np.cross(down, up), sight),
        _dot(np.cross(up, right), sight),
        _dot(np.cross(right, down), sight),
        _dot(np.cross(right, down), up),
        _dot(sight, zenith),
        _dot(up, zenith),
    ]
    # In the plane of slant range and flight, zero Doppler moves along by (V^2 - (P - S) . A) / V metres a second.
    speed = np.linalg.norm(velocity, axis=1)
    density = []
    for u in (-1.0, 0.0, 1.0):
        towards = (sight + (HEIGHT_MIDDLE + u * HEIGHT_REACH) * up).reshape(-1, 3)
        along = (speed**2 - _dot(towards, acceleration)) / speed * geometry.line_seconds
        density.append(geometry.samples_a_metre(_at(places[:3], u).ravel(), _at(places[3:], u).ravel()) / along)
    below, middle, above = np.stack(density).reshape(3, *shape)
    added += [middle, (above - below) / 2, (above + below) / 2 - middle]
    return np.concatenate([places, np.stack(added)])


def _at(parabola: Float64, u: float) -> Float64:
    return np.asarray(parabola[0] + parabola[1] * u + parabola[2] * u * u)


def _dot(one: Float64, other: Float64) -> Float64:
    return np.asarray((one * other).sum(axis=-1))


class Facets:
    """The terrain of a piece and its surroundings, as the radar sees it.

    ``knots`` of ``facet_knots`` and ``heights`` at the pixels between them, metres above WGS 84. Where heights are
    NaN (the model does not reach there) the ground is taken to go on level.
    """

    def __init__(self, knots: Float64, heights: Float32, ground: tuple[Float64, Float64, Float64]) -> None:
        self._knots, self._ground = knots, ground
        self._heights = _continued(heights) if np.isnan(heights).any() else heights
        self._extents = _cell_extents(self._heights)
        self._steep = bool((self._extents[2] > _STEEP).any())
        self._horizon = np.empty((0, 0), np.float32)
        self._first_line, self._nearest = 0, 0.0

    def flatten(self, top: int, left: int, *powers: Float32) -> None:
        """Turn beta0 of a window of the image, whose first pixel is (``top``, ``left``), into gamma0, in place.

        Shadow is NaN. All of the window's ground must lie in the facets.
        """
        shape = powers[0].shape
        if self._steep:
            at_sea = _at(self._knots[3:6], -HEIGHT_MIDDLE / HEIGHT_REACH)
            self._first_line, self._nearest = top, float(np.nanmin(at_sea))
            bins = int((float(np.nanmax(at_sea)) - self._nearest) / _BIN) + 2
            self._horizon = np.full((shape[0], bins), -np.inf, np.float32)
            _raise_horizon(self._knots, self._heights, top, self._nearest, self._horizon)
        area = np.zeros((shape[0] + 2, shape[1] + 2), np.float32)  # a pixel more on all sides for parts of facets
        _add_facets(
            self._knots, self._heights, self._extents, top, left, self._nearest, self._horizon, *self._ground, area
        )
        area = area[1:-1, 1:-1]
        area[area < LEAST_AREA] = np.nan
        for power in powers:
            power /= area

    def mask_hidden(self, first: int, out: Float32) -> None:
        """Set pixels of the ground that are in shadow themselves to NaN: ``out`` (2, rows, columns), which begins at
        row and column ``first`` of the heights. After ``flatten``.
        """
        if self._steep:
            _mask_hidden(self._knots, self._heights, first, self._first_line, self._nearest, self._horizon, out)


def _continued(heights: Float32) -> Float32:
    """Heights without NaN: along rows the nearest one, then along columns; 0 where there is none at all."""
    filled = heights.copy()
    for view in (filled, filled.T):
        _fill(view)
        _fill(view[:, ::-1])
    return np.nan_to_num(filled, copy=False)


@njit(cache=True, nogil=True)
def _fill(values: Float32) -> None:
    for y in range(values.shape[0]):
        for x in range(1, values.shape[1]):
            if np.isnan(values[y, x]):
                values[y, x] = values[y, x - 1]


@njit(cache=True, nogil=True)
def _cell_extents(heights: Float32) -> Float32:
    """Of each cell of knots, with the row and column that its facets share: lowest and highest height, and the
    steepest slope between neighbours as the square of its tangent; shape (3, rows, columns).
    """
    cells = np.empty((3, heights.shape[0] // KNOT_PIXELS, heights.shape[1] // KNOT_PIXELS), np.float32)
    for k in range(cells.shape[1]):
        for j in range(cells.shape[2]):
            low, high, steepest = np.float32(np.inf), np.float32(-np.inf), np.float32(0)
            for row in range(k * KNOT_PIXELS, min((k + 1) * KNOT_PIXELS, heights.shape[0] - 1)):
                for column in range(j * KNOT_PIXELS, min((j + 1) * KNOT_PIXELS, heights.shape[1] - 1)):
                    here, corner = heights[row, column], heights[row + 1, column + 1]
                    right, below = heights[row, column + 1], heights[row + 1, column]
                    low = min(low, here, right, below, corner)
                    high = max(high, here, right, below, corner)
                    p, q = max(abs(right - here), abs(corner - below)), max(abs(below - here), abs(corner - right))
                    steepest = max(steepest, (p * p + q * q) / np.float32(100))
            cells[0, k, j], cells[1, k, j], cells[2, k, j] = low, high, steepest
    return cells


@njit(cache=True, nogil=True)
def _along(knots: Float64, k: int, j: int, below: float, start: Float64, step: Float64) -> None:
    """All rows of the knots along a row of pixels of a cell, ``below`` pixels from its top: values at the cell's left
    side, and their change a pixel.
    """
    t = below / KNOT_PIXELS
    for i in range(knots.shape[0]):
        start[i] = knots[i, k, j] + (knots[i, k + 1, j] - knots[i, k, j]) * t
        end = knots[i, k, j + 1] + (knots[i, k + 1, j + 1] - knots[i, k, j + 1]) * t
        step[i] = (end - start[i]) / KNOT_PIXELS


@njit(cache=True, nogil=True, inline="always")
def _linear(i: int, x: float, start: Float64, step: Float64) -> float:
    return start[i] + step[i] * x


@njit(cache=True, nogil=True, inline="always")
def _curved(i: int, x: float, u: float, start: Float64, step: Float64) -> float:
    """A parabola of height, of rows ``i`` to ``i + 2`` of the knots."""
    return start[i] + step[i] * x + u * (start[i + 1] + step[i + 1] * x + u * (start[i + 2] + step[i + 2] * x))


@njit(cache=True, nogil=True)
def _raise_horizon(knots: Float64, heights: Float32, top: int, nearest: float, horizon: Float32) -> None:
    """In ``horizon`` (lines, bins of slant range at height 0): the largest look angle, as minus its cosine, that the
    terrain before and in a bin has.
    """
    lines, bins = horizon.shape
    sea = -HEIGHT_MIDDLE / HEIGHT_REACH
    start, step = np.empty(knots.shape[0]), np.empty(knots.shape[0])
    for row in range(heights.shape[0]):
        for j in range(knots.shape[2] - 1):
            _along(knots, row // KNOT_PIXELS, j, row % KNOT_PIXELS + 0.5, start, step)
            for x in range(KNOT_PIXELS):
                height, at = heights[row, j * KNOT_PIXELS + x], x + 0.5
                u = (height - HEIGHT_MIDDLE) / HEIGHT_REACH
                line = _curved(0, at, u, start, step) - top
                if not -0.5 <= line < lines - 0.5:
                    continue
                place = int((_curved(3, at, sea, start, step) - nearest) / _BIN)
                angle = _linear(_FALL, at, start, step) + height * _linear(_FALL + 1, at, start, step)
                angle /= _curved(3, at, u, start, step)
                y, bin_ = int(line + 0.5), min(max(place, 0), bins - 1)
                horizon[y, bin_] = max(horizon[y, bin_], np.float32(angle))
    for y in range(lines):
        for x in range(1, bins):
            horizon[y, x] = max(horizon[y, x], horizon[y, x - 1])


@njit(cache=True, nogil=True)
def _hidden(horizon: Float32, line: float, at_sea: float, nearest: float, angle: float) -> bool:
    """Whether the terrain before a point hides it; ``line`` counts from the horizon's first."""
    y, x = int(line + 0.5), int((at_sea - nearest) / _BIN) - _BEHIND
    return 0 <= y < horizon.shape[0] and 0 <= x < horizon.shape[1] and angle < horizon[y, x]


@njit(cache=True, nogil=True)
def _add_facets(
    knots: Float64,
    heights: Float32,
    extents: Float32,
    top: int,
    left: int,
    nearest: float,
    horizon: Float32,
    ground: Float64,
    origins: Float64,
    coefficients: Float64,
    area: Float32,
) -> None:
    """Add to ``area``, which begins a pixel above and left of (``top``, ``left``), A_gamma / A_beta of all facets."""
    rows, columns = heights.shape
    bottom, rightmost = top + area.shape[0] - 2, left + area.shape[1] - 2
    sea = -HEIGHT_MIDDLE / HEIGHT_REACH
    side = KNOT_PIXELS + 1
    lines, samples, ranges = np.empty((side, side)), np.empty((side, side)), np.empty((side, side))
    start, step = np.empty(knots.shape[0]), np.empty(knots.shape[0])
    record = 0
    for k in range(knots.shape[1] - 1):
        for j in range(knots.shape[2] - 1):
            if not _reaches(knots, k, j, extents, top, left, bottom, rightmost, ground, origins, coefficients):
                continue
            height_rows = min(side, rows - k * KNOT_PIXELS)
            height_columns = min(side, columns - j * KNOT_PIXELS)
            for y in range(height_rows):
                _along(knots, k, j, y + 0.5, start, step)
                for x in range(height_columns):
                    u = (heights[k * KNOT_PIXELS + y, j * KNOT_PIXELS + x] - HEIGHT_MIDDLE) / HEIGHT_REACH
                    line = _curved(0, x + 0.5, u, start, step)
                    ranges[y, x] = _curved(3, x + 0.5, u, start, step)
                    record = record_of(line, record, ground)
                    lines[y, x] = line - top
                    samples[y, x] = sample_at(line, ranges[y, x], record, ground, origins, coefficients) - left
            for y in range(height_rows - 1):
                _along(knots, k, j, y + 1.0, start, step)
                for x in range(height_columns - 1):
                    row, column, at = k * KNOT_PIXELS + y, j * KNOT_PIXELS + x, x + 1.0
                    a, b = heights[row, column], heights[row, column + 1]
                    c, d = heights[row + 1, column], heights[row + 1, column + 1]
                    height = (a + b + c + d) / 4
                    p, q = (b + d - a - c) / 2, (c + d - a - b) / 2
                    distance = (ranges[y, x] + ranges[y, x + 1] + ranges[y + 1, x] + ranges[y + 1, x + 1]) / 4
                    shown = (
                        _linear(_TOWARDS + 2, at, start, step)
                        + height * _linear(_RISE, at, start, step)
                        - p * _linear(_TOWARDS, at, start, step)
                        - q * _linear(_TOWARDS + 1, at, start, step)
                    )
                    if not shown > 0:
                        continue
                    if horizon.size > 0:
                        line = (lines[y, x] + lines[y + 1, x + 1]) / 2
                        angle = _linear(_FALL, at, start, step) + height * _linear(_FALL + 1, at, start, step)
                        if _hidden(horizon, line, _curved(3, at, sea, start, step), nearest, angle / distance):
                            continue
                    u = (height - HEIGHT_MIDDLE) / HEIGHT_REACH
                    shown *= _curved(_AREA, at, u, start, step) / distance
                    _spread(lines, samples, y, x, shown, area)


@njit(cache=True, nogil=True)
def _reaches(
    knots: Float64,
    k: int,
    j: int,
    extents: Float32,
    top: int,
    left: int,
    bottom: int,
    right: int,
    ground: Float64,
    origins: Float64,
    coefficients: Float64,
) -> bool:
    """Whether the terrain of a cell may lie in a window of the image: its corners do, at its extreme heights."""
    first_line, last_line, first_sample, last_sample = np.inf, -np.inf, np.inf, -np.inf
    for corner in range(8):
        height = extents[corner % 2, k, j]
        u = (height - HEIGHT_MIDDLE) / HEIGHT_REACH
        knot = knots[:, k + corner // 2 % 2, j + corner // 4]
        line = knot[0] + u * (knot[1] + u * knot[2])
        distance = knot[3] + u * (knot[4] + u * knot[5])
        if not (np.isfinite(line) and np.isfinite(distance)):
            return False
        sample = sample_at(line, distance, record_of(line, 0, ground), ground, origins, coefficients)
        first_line, last_line = min(first_line, line), max(last_line, line)
        first_sample, last_sample = min(first_sample, sample), max(last_sample, sample)
    # Two pixels more: a facet may stick out of its cell by half of itself.
    return first_line <= bottom + 2 and last_line >= top - 3 and first_sample <= right + 2 and last_sample >= left - 3


@njit(cache=True, nogil=True)
def _parts(one: float, other: float, third: float, fourth: float) -> int:
    """Into how many parts a facet is cut along sides that go over so many lines and samples."""
    longest = max(abs(one), abs(other), abs(third), abs(fourth))
    return max(1, min(_MOST_PARTS, int(np.ceil(longest / _PART))))


@njit(cache=True, nogil=True)
def _spread(lines: Float64, samples: Float64, y: int, x: int, value: float, area: Float32) -> None:
    """Share a facet's ``value`` out over the pixels under it."""
    line, sample = lines[y, x] + 1, samples[y, x] + 1  # area has a pixel more at its start
    # Along the upper side and down the left one, and how the lower side differs from the upper one
    right_line, right_sample = lines[y, x + 1] - lines[y, x], samples[y, x + 1] - samples[y, x]
    down_line, down_sample = lines[y + 1, x] - lines[y, x], samples[y + 1, x] - samples[y, x]
    twist_line = lines[y + 1, x + 1] - lines[y + 1, x] - right_line
    twist_sample = samples[y + 1, x + 1] - samples[y + 1, x] - right_sample
    across = _parts(right_line, right_sample, right_line + twist_line, right_sample + twist_sample)
    down = _parts(down_line, down_sample, down_line + twist_line, down_sample + twist_sample)
    share = np.float32(value / (across * down))
    height, width = area.shape
    for i in range(down):
        t = (i + 0.5) / down
        begin_line, step_line = line + down_line * t, (right_line + twist_line * t) / across
        begin_sample, step_sample = sample + down_sample * t, (right_sample + twist_sample * t) / across
        for j in range(across):
            at_line, at_sample = begin_line + step_line * (j + 0.5), begin_sample + step_sample * (j + 0.5)
            if not (0 <= at_line < height - 1 and 0 <= at_sample < width - 1):
                continue
            r, c = np.uintp(at_line), np.uintp(at_sample)
            east = np.float32(at_sample - c)
            lower = share * np.float32(at_line - r)
            upper = share - lower
            area[r, c] += upper - upper * east
            area[r, c + np.uintp(1)] += upper * east
            area[r + np.uintp(1), c] += lower - lower * east
            area[r + np.uintp(1), c + np.uintp(1)] += lower * east


@njit(cache=True, nogil=True)
def _mask_hidden(
    knots: Float64, heights: Float32, first: int, top: int, nearest: float, horizon: Float32, out: Float32
) -> None:
    sea = -HEIGHT_MIDDLE / HEIGHT_REACH
    start, step = np.empty(knots.shape[0]), np.empty(knots.shape[0])
    for y in range(out.shape[1]):
        row = first + y
        for begin in range(0, out.shape[2], KNOT_PIXELS):
            j = (first + begin) // KNOT_PIXELS
            _along(knots, row // KNOT_PIXELS, j, row % KNOT_PIXELS + 0.5, start, step)
            for x in range(KNOT_PIXELS):
                height, at = heights[row, first + begin + x], x + 0.5
                u = (height - HEIGHT_MIDDLE) / HEIGHT_REACH
                line = _curved(0, at, u, start, step) - top
                angle = _linear(_FALL, at, start, step) + height * _linear(_FALL + 1, at, start, step)
                angle /= _curved(3, at, u, start, step)
                if _hidden(horizon, line, _curved(3, at, sea, start, step), nearest, angle):
                    out[0, y, begin + x] = out[1, y, begin + x] = np.float32(np.nan)
