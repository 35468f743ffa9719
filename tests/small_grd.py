"""A small Sentinel-1 GRD product on a circular orbit, for which the place of every point is known in closed form."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.control import GroundControlPoint

from landpatch.catalog.grid import TileGrid

GRID = TileGrid.from_tile("33UUP")
CENTRE = (GRID.ulx + 42 * 1200.0, GRID.uly - 42 * 1200.0)  # of the image: a patch corner
PRODUCT = "S1B_IW_GRDH_1SDV_20170612T165809_20170612T165834_006022_00A94B_F1E4"
START = datetime(2017, 6, 12, 16, 58, 9)
RADIUS, SPEED = 7_070_000.0, 7_500.0  # of the orbit, metres and metres a second
LINE_SECONDS, PIXEL_METRES = 0.0015, 10.0

Array = NDArray[Any]


def ecef(east: Array, north: Array, height: Array) -> Array:
    """By PROJ: points (..., 3) of metres in the tile's zone and metres above the ellipsoid."""
    longitude, latitude = Transformer.from_crs(GRID.epsg, 4326, always_xy=True).transform(east, north)
    # 4979: geographic, with heights above the ellipsoid
    return np.stack(Transformer.from_crs(4979, 4978, always_xy=True).transform(longitude, latitude, height), axis=-1)


@dataclass
class SmallGrd:
    """``shape`` (lines, samples) centred on CENTRE. ``tables`` A, ``noise`` vectors, ``blocks`` of azimuth noise
    (None: the old schema); both polarisations have the same.
    """

    shape: tuple[int, int] = (1200, 1300)
    heading: float = -13.0  # degrees: ascending, looking right
    tables: list[tuple[float, list[float], list[float]]] = field(
        default_factory=lambda: [(0, [0, 1299], [500, 500]), (1199, [0, 1299], [500, 500])]
    )
    noise: list[tuple[float, list[float], list[float]]] = field(
        default_factory=lambda: [(0, [0, 1299], [0, 0]), (1199, [0, 1299], [0, 0])]
    )
    blocks: list[tuple[int, int, int, int, list[float], list[float]]] | None = field(default_factory=list)
    counts: list[Array] = field(init=False)

    def __post_init__(self) -> None:
        line, sample = np.mgrid[: self.shape[0], : self.shape[1]]
        self.counts = [
            np.rint(3000 + 900 * np.sin(line / 90) + 700 * np.cos(sample / 110)).astype(np.uint16),
            np.rint(2000 + 500 * np.cos(line / 70 + sample / 130)).astype(np.uint16),
        ]
        target = ecef(*np.array(CENTRE), np.array(0.0))
        up = target / np.linalg.norm(target)
        east = np.cross([0, 0, 1], up)
        east /= np.linalg.norm(east)
        north = np.cross(up, east)
        turn = np.radians(self.heading)
        along = np.cos(turn) * north + np.sin(turn) * east
        right = np.cross(along, up)
        below = target - 550_000 * right
        self.radial = below / np.linalg.norm(below)
        along -= (along @ self.radial) * self.radial
        self.along = along / np.linalg.norm(along)
        time, self.origin = self.seen(target)
        self.delay = float(time) - self.shape[0] / 2 * LINE_SECONDS
        self.origin = float(self.origin) - self.shape[1] / 2 * PIXEL_METRES * 0.6

    def seen(self, points: Array) -> tuple[Array, Array]:
        """Seconds since the satellite was at ``radial``, and slant range. On a circle S.V = 0, so that zero Doppler
        is P.V = 0."""
        angle = np.arctan2(points @ self.along, points @ self.radial)
        return angle * RADIUS / SPEED, np.linalg.norm(points - self.position(angle), axis=-1)

    def position(self, angle: Array) -> Array:
        angle = np.asarray(angle)[..., None]
        return RADIUS * (np.cos(angle) * self.radial + np.sin(angle) * self.along)

    def records(self) -> list[tuple[float, list[float]]]:
        """Ground range polynomials: seconds from the first line, coefficients of metres of slant range."""
        return [(-0.5 + 0.7 * k, [0.0, 1.62 + 0.004 * k, -3e-6]) for k in range(5)]

    def place(self, east: Array, north: Array, height: Array) -> tuple[Array, Array]:
        """Line and sample of points, in closed form."""
        times, ranges = self.seen(ecef(east, north, height))
        times = times - self.delay
        ground = []
        for _, (c0, c1, c2) in self.records():
            r = ranges - self.origin
            ground.append(c0 + c1 * r + c2 * r * r)
        at = np.array([time for time, _ in self.records()])
        k = np.clip(np.searchsorted(at, times, side="right") - 1, 0, len(at) - 2)
        share = (times - at[k]) / (at[k + 1] - at[k])
        stack = np.stack(ground)
        before = np.take_along_axis(stack, k[None], 0)[0]
        after = np.take_along_axis(stack, k[None] + 1, 0)[0]
        return times / LINE_SECONDS, (before * (1 - share) + after * share) / PIXEL_METRES

    def write(self, folder: Path, **options: Any) -> Path:
        """Write the SAFE folder; returns it."""
        safe = folder / f"{PRODUCT}.SAFE"
        (safe / "annotation/calibration").mkdir(parents=True)
        (safe / "measurement").mkdir()
        (safe / "manifest.safe").write_text(MANIFEST)
        for number, (polarisation, counts) in enumerate(zip(("vv", "vh"), self.counts, strict=True), 1):
            name = f"s1b-iw-grd-{polarisation}-20170612t165809-20170612t165834-006022-00a94b-00{number}"
            (safe / f"annotation/{name}.xml").write_text(self.annotation())
            (safe / f"annotation/calibration/calibration-{name}.xml").write_text(self.calibration())
            (safe / f"annotation/calibration/noise-{name}.xml").write_text(self.noise_xml())
            with image(safe / f"measurement/{name}.tiff", self.shape, **options) as dataset:
                dataset.write(counts, 1)
        return safe

    def annotation(self) -> str:
        def at(seconds: float) -> str:
            return (START + timedelta(seconds=seconds)).isoformat(timespec="microseconds")

        orbit = ""
        for seconds in np.arange(-70.0, 81.0, 10.0):
            x, y, z = self.position((seconds + self.delay) * SPEED / RADIUS)
            orbit += f"<orbit><time>{at(seconds)}</time><position><x>{x}</x><y>{y}</y><z>{z}</z></position></orbit>"
        ground = "".join(
            f"<coordinateConversion><azimuthTime>{at(time)}</azimuthTime><sr0>{self.origin!r}</sr0>"
            f"<srgrCoefficients>{_text(numbers)}</srgrCoefficients></coordinateConversion>"
            for time, numbers in self.records()
        )
        return f"""<product>
  <adsHeader><productType>GRD</productType><mode>IW</mode></adsHeader>
  <generalAnnotation>
    <productInformation><projection>Ground Range</projection></productInformation>
    <orbitList>{orbit}</orbitList>
  </generalAnnotation>
  <imageAnnotation><imageInformation>
    <productFirstLineUtcTime>{at(0)}</productFirstLineUtcTime>
    <azimuthTimeInterval>{LINE_SECONDS}</azimuthTimeInterval>
    <rangePixelSpacing>{PIXEL_METRES}</rangePixelSpacing>
    <numberOfSamples>{self.shape[1]}</numberOfSamples>
    <numberOfLines>{self.shape[0]}</numberOfLines>
  </imageInformation></imageAnnotation>
  <coordinateConversion><coordinateConversionList>{ground}</coordinateConversionList></coordinateConversion>
  <geolocationGrid><geolocationGridPointList><geolocationGridPoint>
    <azimuthTime>{at(0)}</azimuthTime><slantRangeTime>5e-3</slantRangeTime><line>0</line><pixel>0</pixel>
    <latitude>48</latitude><longitude>13</longitude><height>0</height>
  </geolocationGridPoint></geolocationGridPointList></geolocationGrid>
</product>"""

    def calibration(self) -> str:
        vectors = "".join(
            f"<calibrationVector><line>{line}</line><pixel>{_text(pixels)}</pixel>"
            f"<sigmaNought>{_text(values)}</sigmaNought><betaNought>{_text(values)}</betaNought></calibrationVector>"
            for line, pixels, values in self.tables
        )
        return (
            "<calibration><calibrationInformation><absoluteCalibrationConstant>1.393"
            "</absoluteCalibrationConstant></calibrationInformation>"
            f"<calibrationVectorList>{vectors}</calibrationVectorList></calibration>"
        )

    def noise_xml(self) -> str:
        kind = "noise" if self.blocks is None else "noiseRange"
        vectors = "".join(
            f"<{kind}Vector><line>{line}</line><pixel>{_text(pixels)}</pixel><{kind}Lut>{_text(values)}</{kind}Lut>"
            f"</{kind}Vector>"
            for line, pixels, values in self.noise
        )
        azimuth = "".join(
            f"<noiseAzimuthVector><firstAzimuthLine>{block[0]}</firstAzimuthLine>"
            f"<firstRangeSample>{block[2]}</firstRangeSample><lastAzimuthLine>{block[1]}</lastAzimuthLine>"
            f"<lastRangeSample>{block[3]}</lastRangeSample><line>{_text(block[4])}</line>"
            f"<noiseAzimuthLut>{_text(block[5])}</noiseAzimuthLut></noiseAzimuthVector>"
            for block in self.blocks or [(0, self.shape[0] - 1, 0, self.shape[1] - 1, [0.0], [1.0])]
        )
        azimuth = "" if self.blocks is None else f"<noiseAzimuthVectorList>{azimuth}</noiseAzimuthVectorList>"
        return f"<noise><{kind}VectorList>{vectors}</{kind}VectorList>{azimuth}</noise>"


def image(path: Path, shape: tuple[int, int], **options: Any) -> rasterio.io.DatasetWriter:
    """An empty image with ground control points, as real products have them: good for nothing, and not used."""
    points = [
        GroundControlPoint(row, column, 12 + column / 1e4, 48 - row / 1e4)
        for row, column in ((0, 0), (0, shape[1]), (shape[0], 0), shape)
    ]
    profile = {"count": 1, "dtype": "uint16", "height": shape[0], "width": shape[1]}
    return rasterio.open(path, "w", "GTiff", gcps=points, crs="EPSG:4326", **profile, **options)


def _text(numbers: list[float]) -> str:
    return " ".join(repr(float(number)) for number in numbers)


MANIFEST = """<?xml version="1.0" encoding="UTF-8"?>
<xfdu:XFDU xmlns:xfdu="urn:ccsds:schema:xfdu:1" xmlns:safe="http://www.esa.int/safe/sentinel-1.0"
    xmlns:gml="http://www.opengis.net/gml"><metadataSection>
  <safe:startTime>2017-06-12T16:58:09.000000</safe:startTime><safe:stopTime>2017-06-12T16:58:34.000000</safe:stopTime>
  <safe:relativeOrbitNumber type="start">146</safe:relativeOrbitNumber><safe:pass>ASCENDING</safe:pass>
  <safe:footPrint><gml:coordinates>47.5,12.5 48.9,12.5 48.9,15.5 47.5,15.5</gml:coordinates></safe:footPrint>
</metadataSection></xfdu:XFDU>
"""


def terrain(east: Array, north: Array) -> Array:
    """A hill of 900 m in rolling country, metres."""
    x, y = (np.asarray(east) - CENTRE[0]) / 1000, (np.asarray(north) - CENTRE[1]) / 1000
    return 400 + 900 * np.exp(-(x**2 + y**2) / 8) + 60 * np.sin(x * 1.3) * np.cos(y * 1.1)


def write_dem(
    path: Path,
    pixel: float = 10.0,
    reach: float = 9000.0,
    ground: Callable[[Array, Array], Array] = terrain,
    **changes: Any,
) -> Path:
    """``ground`` as a raster in the tile's zone, ``reach`` metres around CENTRE."""
    left, top = CENTRE[0] - reach, CENTRE[1] + reach
    count = int(2 * reach / pixel)
    at = (np.arange(count) + 0.5) * pixel
    east, north = np.meshgrid(left + at, top - at)
    profile = {
        "count": 1, "dtype": "float32", "height": count, "width": count, "crs": f"EPSG:{GRID.epsg}",
        "transform": Affine(pixel, 0, left, 0, -pixel, top),
    }  # fmt: skip
    with rasterio.open(path, "w", "GTiff", **(profile | changes)) as dataset:
        dataset.write(ground(east, north).astype(np.float32), 1)
    return path
