"""What a Sentinel-1 GRD product says of itself: its annotation, calibration and noise XML.

Element names and meanings: Sentinel-1 Product Specification (S1-RS-MDA-52-7441). Times are given in seconds from
the product's first line, which keeps a microsecond exact in float64. Both noise schemas are read: range and azimuth
vectors (IPF 2.90 and later, from March 2018), and range vectors alone (before).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from landpatch.catalog.errors import InvalidScene
from landpatch.functions.hrefs import read_bytes

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class OrbitVectors:
    """State vectors: ``times`` (n,) seconds, ``positions`` (n, 3) metres, Earth-fixed (WGS 84)."""

    times: Float64
    positions: Float64


@dataclass(frozen=True, slots=True)
class GroundRange:
    """Slant range to ground range: at ``times`` (k,) seconds, ``origins`` (k,) metres of slant range, and
    ``coefficients`` (k, m): ground range in metres = sum of c[i] (slant range - origin)^i.
    """

    times: Float64
    origins: Float64
    coefficients: Float64


@dataclass(frozen=True, slots=True)
class GeolocationGrid:
    """ESA's own geolocation of some pixels, (n,) each: seconds, metres, pixels, degrees, metres above WGS 84."""

    times: Float64
    slant_ranges: Float64
    lines: Float64
    pixels: Float64
    latitudes: Float64
    longitudes: Float64
    heights: Float64


@dataclass(frozen=True, slots=True)
class Annotation:
    """The geometry of one polarisation's image.

    ``shape`` (lines, samples); ``line_seconds`` between lines, ``pixel_metres`` of ground range between samples.
    """

    href: str
    shape: tuple[int, int]
    line_seconds: float
    pixel_metres: float
    orbit: OrbitVectors
    ground_range: GroundRange
    grid: GeolocationGrid


@dataclass(frozen=True, slots=True)
class Vectors:
    """A table of values over an image: at each of ``lines`` (k, ascending) values along ``pixels[i]``, an axis of
    its own for every line.
    """

    lines: Float64
    pixels: tuple[Float64, ...]
    values: tuple[Float64, ...]


@dataclass(frozen=True, slots=True)
class AzimuthNoise:
    """A block of an image, limits inclusive, with the factors by which its range noise changes along azimuth."""

    first_line: int
    last_line: int
    first_pixel: int
    last_pixel: int
    lines: Float64
    factors: Float64


@dataclass(frozen=True, slots=True)
class Noise:
    """Thermal noise, in squared counts: range vectors, times the factor of the block that holds a pixel.

    ``azimuth`` is None in the older schema: such products (IPF before 2.90) also have uncleaned borders.
    """

    range: Vectors
    azimuth: tuple[AzimuthNoise, ...] | None


def read_annotation(href: str) -> Annotation:
    """Read ``annotation/*.xml``. Raises UnreadableAsset, and InvalidScene naming file and element."""
    document = _Document(href, "product")
    kind = (document.text("adsHeader/productType"), document.text("adsHeader/mode"))
    projection = document.text("generalAnnotation/productInformation/projection")
    if kind != ("GRD", "IW") or projection != "Ground Range":
        raise InvalidScene(
            f"{href} describes a product of type {kind[0]}, mode {kind[1]}, projection {projection}; "
            "ground-range detected products (GRD) of mode IW can be terrain-corrected"
        )
    image = "imageAnnotation/imageInformation"
    start = document.time(f"{image}/productFirstLineUtcTime")
    annotation = Annotation(
        href=href,
        shape=(document.count(f"{image}/numberOfLines"), document.count(f"{image}/numberOfSamples")),
        line_seconds=document.positive(f"{image}/azimuthTimeInterval"),
        pixel_metres=document.positive(f"{image}/rangePixelSpacing"),
        orbit=_orbit(document, start),
        ground_range=_ground_range(document, start),
        grid=_geolocation_grid(document, start),
    )
    duration = annotation.shape[0] * annotation.line_seconds
    times = annotation.orbit.times
    if times[0] > 0 or times[-1] < duration:
        raise InvalidScene(f"{href}: the state vectors in generalAnnotation/orbitList do not span the image's time")
    return annotation


def read_calibration(href: str, quantity: str = "sigmaNought") -> Vectors:
    """Read a calibration table: power = counts^2 / value^2. The constant K is in the table already.

    ``quantity``: sigmaNought, betaNought or gamma. Raises UnreadableAsset, and InvalidScene naming file and element.
    """
    document = _Document(href, "calibration")
    vectors = _vectors(document, "calibrationVectorList/calibrationVector", quantity)
    if any((values <= 0).any() for values in vectors.values):
        raise InvalidScene(f"{href}: {quantity} has values that are not positive; fetch the product again")
    return vectors


def read_noise(href: str) -> Noise:
    """Read thermal noise of either schema. Raises UnreadableAsset, and InvalidScene naming file and element."""
    document = _Document(href, "noise")
    if document.has("noiseVectorList"):
        return Noise(_vectors(document, "noiseVectorList/noiseVector", "noiseLut"), None)
    ranges = _vectors(document, "noiseRangeVectorList/noiseRangeVector", "noiseRangeLut")
    blocks = []
    for part in document.parts("noiseAzimuthVectorList/noiseAzimuthVector"):
        limits = [
            part.count(name, least=0)
            for name in ("firstAzimuthLine", "lastAzimuthLine", "firstRangeSample", "lastRangeSample")
        ]
        lines, factors = part.numbers("line"), part.numbers("noiseAzimuthLut")
        part.same_length("line", lines, "noiseAzimuthLut", factors)
        part.ascending("line", lines)
        blocks.append(AzimuthNoise(limits[0], limits[1], limits[2], limits[3], lines, factors))
    return Noise(ranges, tuple(blocks))


def _orbit(document: "_Document", start: np.datetime64) -> OrbitVectors:
    parts = document.parts("generalAnnotation/orbitList/orbit")
    times = np.array([_seconds(part.time("time"), start) for part in parts])
    positions = np.array([[part.number(f"position/{axis}") for axis in "xyz"] for part in parts])
    document.ascending("generalAnnotation/orbitList/orbit/time", times)
    return OrbitVectors(times, positions)


def _ground_range(document: "_Document", start: np.datetime64) -> GroundRange:
    path = "coordinateConversion/coordinateConversionList/coordinateConversion"
    parts = document.parts(path)
    times = np.array([_seconds(part.time("azimuthTime"), start) for part in parts])
    document.ascending(f"{path}/azimuthTime", times)
    origins = np.array([part.number("sr0") for part in parts])
    if len(parts) < 2:
        raise InvalidScene(f"{document.href}: {path} is there once; two are needed to interpolate between them")
    rows = [part.numbers("srgrCoefficients") for part in parts]
    coefficients = np.zeros((len(rows), max(row.size for row in rows)))
    for row, values in zip(coefficients, rows, strict=True):
        row[: values.size] = values
    return GroundRange(times, origins, coefficients)


def _geolocation_grid(document: "_Document", start: np.datetime64) -> GeolocationGrid:
    parts = document.parts("geolocationGrid/geolocationGridPointList/geolocationGridPoint")

    def column(name: str) -> Float64:
        return np.array([part.number(name) for part in parts])

    return GeolocationGrid(
        times=np.array([_seconds(part.time("azimuthTime"), start) for part in parts]),
        slant_ranges=column("slantRangeTime") * (SPEED_OF_LIGHT / 2),
        lines=column("line"),
        pixels=column("pixel"),
        latitudes=column("latitude"),
        longitudes=column("longitude"),
        heights=column("height"),
    )


SPEED_OF_LIGHT = 299_792_458.0
"""Metres a second, by definition of the metre."""


def _vectors(document: "_Document", path: str, name: str) -> Vectors:
    parts = document.parts(path)
    lines = np.array([part.number("line") for part in parts])
    document.ascending(f"{path}/line", lines)
    pixels, values = [], []
    for part in parts:
        axis, row = part.numbers("pixel"), part.numbers(name)
        part.same_length("pixel", axis, name, row)
        part.ascending("pixel", axis)
        pixels.append(axis)
        values.append(row)
    return Vectors(lines, tuple(pixels), tuple(values))


def _seconds(time: np.datetime64, start: np.datetime64) -> float:
    return float((time - start) / np.timedelta64(1, "us")) * 1e-6


class _Document:
    """An XML document, or an element of one, that says what is wrong with it by file and element."""

    def __init__(self, href: str, root: str, element: ElementTree.Element | None = None, path: str = "") -> None:
        self.href, self._path = href, path
        if element is None:
            try:
                element = ElementTree.fromstring(read_bytes(href))
            except ElementTree.ParseError as error:
                raise InvalidScene(f"{href} cannot be read as XML ({error}); fetch the product again") from error
            if element.tag != root:
                raise InvalidScene(
                    f"{href}: its root element is <{element.tag}>, expected <{root}>; the item names another file "
                    "of the product"
                )
        self._element = element

    def has(self, path: str) -> bool:
        return self._element.find(path) is not None

    def parts(self, path: str) -> Sequence["_Document"]:
        """All elements at ``path``, at least one."""
        found = self._element.findall(path)
        if not found:
            raise self._error(path, "is missing")
        return [_Document(self.href, "", part, f"{self._path}{path}[{i}]/") for i, part in enumerate(found)]

    def text(self, path: str) -> str:
        text = (self._element.findtext(path) or "").strip()
        if not text:
            raise self._error(path, "is missing or empty")
        return text

    def numbers(self, path: str) -> Float64:
        """A list of finite numbers, at least one."""
        text = self.text(path)
        try:
            values = np.array(text.split(), np.float64)
        except ValueError as error:
            raise self._error(path, f"is not a list of numbers ({error})") from error
        if not np.isfinite(values).all():
            raise self._error(path, "has numbers that are not finite")
        return values

    def number(self, path: str) -> float:
        values = self.numbers(path)
        if values.size != 1:
            raise self._error(path, f"has {values.size} numbers, expected one")
        return float(values[0])

    def positive(self, path: str) -> float:
        value = self.number(path)
        if value <= 0:
            raise self._error(path, f"is {value:g}, expected a positive number")
        return value

    def count(self, path: str, least: int = 1) -> int:
        value = self.number(path)
        if value != int(value) or not least <= value < 2**31:
            raise self._error(path, f"is {value:g}, expected a whole number from {least}")
        return int(value)

    def time(self, path: str) -> np.datetime64:
        text = self.text(path)
        try:
            time = np.datetime64(text, "us")
        except ValueError as error:
            raise self._error(path, f"is no time ({text!r})") from error
        if np.isnat(time):
            raise self._error(path, f"is no time ({text!r})")
        return time

    def ascending(self, path: str, values: Float64) -> None:
        if (np.diff(values) <= 0).any():
            raise self._error(path, "does not ascend")

    def same_length(self, path: str, values: Float64, other: str, others: Float64) -> None:
        if values.size != others.size:
            raise self._error(path, f"has {values.size} numbers, but {other} has {others.size}")

    def _error(self, path: str, what: str) -> InvalidScene:
        return InvalidScene(f"{self.href}: {self._path}{path} {what}; fetch the product again")
