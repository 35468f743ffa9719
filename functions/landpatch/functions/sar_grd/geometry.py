"""Where points of the ground lie in a GRD product: range-Doppler geocoding.

A point is imaged when it is abeam of the satellite: at the time t at which (P - S(t)) . V(t) = 0 (zero Doppler), S
and V being the satellite's position and velocity. The line follows from t, the sample from the slant range
|P - S(t)| by the product's slant-to-ground-range polynomials. (ESA, Guide to Sentinel-1 Geocoding, UZH-S1-GC-AD.)

Newton's method is run on a lattice of knots fixed to the patch grid, at three heights; between them both time and
slant range are almost linear. Measured against Newton's method at every pixel, heights 0 to 8,800 m: 6e-6 lines and
0.002 samples (12 mm of slant range) at most. A pixel depends on the knots of its own cell alone, so that the same
bytes come out however the work is cut.
"""

import numpy as np
from numba import njit
from numpy.polynomial import Polynomial
from numpy.typing import NDArray

from landpatch.catalog.errors import InvalidScene
from landpatch.functions.sar_grd.annotation import Annotation, Float64, GroundRange, OrbitVectors

ORBIT_DEGREE = 7
"""Of the polynomials through the satellite's positions: the lowest that leaves 1e-5 m at the state vectors of
100 to 160 s (degree 5: 1.5e-4 m, 6: 2e-5 m); higher ones follow the vectors' rounding."""

HEIGHT_MIDDLE, HEIGHT_REACH = 4_250.0, 4_750.0
"""Knots are computed at -500, 4250 and 9000 m: a parabola through these is within a centimetre of slant range."""

_STEPS = 20  # Newton's method ends after four or five
_CONVERGED = 1e-12  # of half the span of the orbit's vectors: 1e-10 s, less than a micrometre of flight
_FAR = 1.5  # spans beyond which a point was certainly not imaged, and a polynomial of degree 7 has no meaning

# WGS 84: semi-major axis, first eccentricity squared.
_MAJOR = 6_378_137.0
_ECCENTRICITY2 = 0.0066943799901413165


class Geometry:
    """The geometry of one product, shared by its polarisations. Raises InvalidScene for an orbit of few vectors."""

    def __init__(self, annotation: Annotation) -> None:
        self._orbit, self._middle, self._half = _fitted(annotation)
        self.line_seconds = annotation.line_seconds
        self.ground = ground_lines(annotation)

    def seen_from_orbit(self, ecef: Float64) -> tuple[Float64, Float64]:
        """Azimuth time (seconds from the first line) and slant range (metres) of points (n, 3), WGS 84 metres.

        NaN where the satellite does not pass abeam of the point.
        """
        scaled, ranges = _zero_doppler(np.ascontiguousarray(ecef, np.float64), self._orbit)
        return self._middle + self._half * scaled, ranges

    def pixels(self, times: Float64, slant_ranges: Float64) -> tuple[Float64, Float64]:
        """Line and sample, (n,) each, of azimuth times and slant ranges; whole numbers are centres of pixels."""
        lines = times / self.line_seconds
        return lines, samples(lines, slant_ranges, *self.ground)

    def satellite(self, lines: Float64) -> tuple[Float64, Float64, Float64]:
        """Position, velocity and acceleration (n, 3) when lines (n,) were imaged; metres, seconds, Earth-fixed."""
        scaled = (lines * self.line_seconds - self._middle) / self._half
        axes = [Polynomial(axis) for axis in self._orbit]
        position, velocity, acceleration = (
            np.stack([axis.deriv(order)(scaled) for axis in axes], axis=1) / self._half**order for order in range(3)
        )
        return position, velocity, acceleration

    def samples_a_metre(self, lines: Float64, slant_ranges: Float64) -> Float64:
        """How many samples a metre of slant range is, (n,), around places in the product."""
        near, far = (samples(lines, slant_ranges + side, *self.ground) for side in (-50.0, 50.0))
        return np.asarray((far - near) / 100)

    def knots(self, longitude: Float64, latitude: Float64) -> Float64:
        """Line and slant range above points in degrees, as parabolas of height.

        Shape (6, ...) for points of shape (...): three coefficients of line, three of slant range, powers of
        ``(height - HEIGHT_MIDDLE) / HEIGHT_REACH`` with heights in metres above WGS 84.
        """
        shape = longitude.shape
        values = np.empty((3, 2, longitude.size))
        for level, reach in enumerate((-1.0, 0.0, 1.0)):
            points = to_ecef(longitude.ravel(), latitude.ravel(), HEIGHT_MIDDLE + reach * HEIGHT_REACH)
            times, ranges = self.seen_from_orbit(points)
            values[level] = times / self.line_seconds, ranges
        below, middle, above = values
        coefficients = np.stack([middle, (above - below) / 2, (above + below) / 2 - middle], axis=1)
        return coefficients.reshape(6, *shape)


def _fitted(annotation: Annotation) -> tuple[Float64, float, float]:
    """Polynomials (3, 8) of x, y, z in time scaled to -1..1, which keeps the fit well conditioned; middle and half
    of the span in seconds.
    """
    orbit: OrbitVectors = annotation.orbit
    if orbit.times.size <= ORBIT_DEGREE:
        raise InvalidScene(
            f"{annotation.href}: {orbit.times.size} state vectors in generalAnnotation/orbitList; more than "
            f"{ORBIT_DEGREE} are needed"
        )
    domain = [float(orbit.times[0]), float(orbit.times[-1])]
    fits = [Polynomial.fit(orbit.times, axis, ORBIT_DEGREE, domain=domain).coef for axis in orbit.positions.T]
    middle, half = (domain[0] + domain[1]) / 2, (domain[1] - domain[0]) / 2
    return np.array(fits), middle, half


def ground_lines(annotation: Annotation) -> tuple[Float64, Float64, Float64]:
    """What ``samples`` needs: the lines at which the ground range polynomials stand, their origins, and their
    coefficients in samples.
    """
    ground: GroundRange = annotation.ground_range
    return (
        ground.times / annotation.line_seconds,
        ground.origins,
        np.ascontiguousarray(ground.coefficients / annotation.pixel_metres),
    )


@njit(cache=True, nogil=True)
def to_ecef(longitude: Float64, latitude: Float64, height: float) -> Float64:
    """Earth-centred WGS 84 coordinates (n, 3), metres, of points in degrees at one ellipsoidal height.

    By the C library, point by point: a vectorised sine may differ by the place of a point in its array.
    """
    points = np.empty((longitude.size, 3))
    for i in range(longitude.size):
        lam, phi = np.radians(longitude[i]), np.radians(latitude[i])
        normal = _MAJOR / np.sqrt(1 - _ECCENTRICITY2 * np.sin(phi) ** 2)
        points[i, 0] = (normal + height) * np.cos(phi) * np.cos(lam)
        points[i, 1] = (normal + height) * np.cos(phi) * np.sin(lam)
        points[i, 2] = (normal * (1 - _ECCENTRICITY2) + height) * np.sin(phi)
    return points


@njit(cache=True, nogil=True)
def _zero_doppler(points: Float64, orbit: Float64) -> tuple[Float64, Float64]:
    """Scaled time and slant range of points (n, 3): Newton's method on (P - S) . S' = 0, from the orbit's middle."""
    times, ranges = np.empty(len(points)), np.empty(len(points))
    degree = orbit.shape[1] - 1
    for i in range(len(points)):
        t, step = 0.0, np.inf
        for _ in range(_STEPS):
            f, slope = 0.0, 0.0
            for axis in range(3):
                s, v, a = orbit[axis, degree], 0.0, 0.0
                for power in range(degree - 1, -1, -1):
                    a = a * t + 2 * v
                    v = v * t + s
                    s = s * t + orbit[axis, power]
                d = points[i, axis] - s
                f += d * v
                slope += d * a - v * v
            step = f / slope
            t -= step
            if not (abs(step) > _CONVERGED and abs(t) < _FAR):
                break
        if not (abs(step) <= _CONVERGED and abs(t) < _FAR):
            times[i] = ranges[i] = np.nan
            continue
        square = 0.0
        for axis in range(3):
            s = orbit[axis, degree]
            for power in range(degree - 1, -1, -1):
                s = s * t + orbit[axis, power]
            square += (points[i, axis] - s) ** 2
        times[i], ranges[i] = t, np.sqrt(square)
    return times, ranges


@njit(cache=True, nogil=True)
def sample_at(
    line: float, slant_range: float, record: int, lines: Float64, origins: Float64, coefficients: Float64
) -> float:
    """The sample of a slant range, between the polynomials of ``record`` and the next; linear between them.

    The polynomials follow the terrain's mean height from second to second, by several samples at far range. ESA's
    geolocation grid was made with the nearest one, which leaves jumps that images do not have; the points of the
    grid lie near a polynomial's own time, where both ways agree within half a sample.
    """
    share = (line - lines[record]) / (lines[record + 1] - lines[record])
    before, after = slant_range - origins[record], slant_range - origins[record + 1]
    p = q = 0.0
    for power in range(coefficients.shape[1] - 1, -1, -1):
        p = p * before + coefficients[record, power]
        q = q * after + coefficients[record + 1, power]
    return p + (q - p) * share


@njit(cache=True, nogil=True)
def record_of(line: float, guess: int, lines: Float64) -> int:
    """The last of ``lines`` at or before ``line``, but not the very last; the first where all are behind it."""
    record = guess
    while record > 0 and line < lines[record]:
        record -= 1
    while record < lines.size - 2 and line >= lines[record + 1]:
        record += 1
    return record


@njit(cache=True, nogil=True)
def samples(
    lines: Float64, slant_ranges: Float64, ground: Float64, origins: Float64, coefficients: Float64
) -> NDArray[np.float64]:
    """Samples of points (n,) from their lines and slant ranges; see ``sample_at``."""
    out = np.empty(lines.size)
    record = 0
    for i in range(lines.size):
        if np.isnan(lines[i]):
            out[i] = np.nan
            continue
        record = record_of(lines[i], record, ground)
        out[i] = sample_at(lines[i], slant_ranges[i], record, ground, origins, coefficients)
    return out
