"""A Sentinel-1 GRD SAFE folder as a STAC item.

Only what choosing and reading need is taken from ``manifest.safe``: sensing time, footprint, orbit; the files by
their names. Source of both: ESA, Sentinel-1 Product Specification (S1-RS-MDA-52-7441), SAFE manifest and naming.
"""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from landpatch.catalog.errors import InvalidItem, InvalidName
from landpatch.catalog.names import RadarSceneId
from landpatch.catalog.scenes import STAC_VERSION

_METADATA = {"product": "", "calibration": "calibration/calibration-", "noise": "calibration/noise-"}
"""The XML files of a polarisation: where under ``annotation/``, and what before the image's name."""


def is_radar_safe(folder: Path) -> bool:
    """Whether a folder is a Sentinel-1 product: a manifest.safe, and a name that begins with S1 and satellite."""
    return (folder / "manifest.safe").is_file() and re.match(r"S1[A-D]_", folder.absolute().name) is not None


def radar_safe_item(folder: Path) -> dict[str, Any]:
    """The STAC item of a GRD SAFE folder, with absolute hrefs. Raises InvalidItem, naming the file at fault."""
    folder = folder.absolute()
    manifest = folder / "manifest.safe"
    try:
        root = ElementTree.parse(manifest).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise InvalidItem(f"{manifest} cannot be read as XML ({error}); fetch the product again") from error
    identifier = folder.name.removesuffix(".SAFE")
    try:
        name = RadarSceneId.parse(identifier)
    except InvalidName as error:
        raise InvalidItem(f"{folder}: its name cannot be used: {error}") from error
    ring = _ring(root, manifest)
    longitudes, latitudes = [point[0] for point in ring], [point[1] for point in ring]
    start, stop = _utc(_text(root, "startTime")), _utc(_text(root, "stopTime"))
    properties: dict[str, Any] = {
        "datetime": start or name.start.isoformat().replace("+00:00", "Z"),
        "platform": f"sentinel-1{name.platform[-1].lower()}",
        "sar:instrument_mode": name.mode,
        "product:type": "GRD",
        "s1:product_identifier": identifier,
    }
    if start and stop:
        properties |= {"start_datetime": start, "end_datetime": stop}
    for key, element in (("sat:orbit_state", "pass"), ("sat:relative_orbit", "relativeOrbitNumber")):
        text = _text(root, element)
        if text:
            properties[key] = int(text) if text.isdigit() else text.lower()
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [],
        "id": identifier,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [min(longitudes), min(latitudes), max(longitudes), max(latitudes)],
        "properties": properties,
        "links": [],
        "assets": _assets(folder),
    }


def _assets(folder: Path) -> dict[str, dict[str, Any]]:
    """The image of each polarisation and its metadata, under the names that catalogues use."""
    assets: dict[str, dict[str, Any]] = {}
    for image in sorted((folder / "measurement").glob("*.tif*")):
        match = re.match(r"(?:s1[a-d]-)?iw-grd-(v[vh])-|iw-(v[vh])\.", image.name.lower())
        if match is None:
            continue
        polarisation = match.group(1) or match.group(2)
        assets[polarisation] = {"href": str(image), "type": "image/tiff; application=geotiff", "roles": ["data"]}
        for kind, place in _METADATA.items():
            file = folder / "annotation" / f"{place}{image.stem}.xml"
            assets[f"schema-{kind}-{polarisation}"] = {
                "href": str(file),
                "type": "application/xml",
                "roles": ["metadata"],
            }
    return assets


def _ring(root: ElementTree.Element, manifest: Path) -> list[list[float]]:
    """The footprint, closed and counter-clockwise; the manifest lists corners as latitude,longitude."""
    text = _text(root, "coordinates") or ""
    try:
        points = [[float(longitude), float(latitude)] for latitude, longitude in (p.split(",") for p in text.split())]
    except ValueError as error:
        raise InvalidItem(f"{manifest}: its footprint is no list of latitude,longitude ({error})") from error
    if len(points) < 3:
        raise InvalidItem(f"{manifest}: no footprint of at least three corners; fetch the product again")
    if points[0] != points[-1]:
        points.append(points[0])
    area = sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(points))
    return points if area > 0 else points[::-1]


def _text(root: ElementTree.Element, name: str) -> str | None:
    """The first non-empty element of that local name; namespaces differ between versions."""
    for element in root.iter():
        if element.tag.rpartition("}")[2] == name and element.text and element.text.strip():
            return element.text.strip()
    return None


def _utc(text: str | None) -> str | None:
    return text if text is None or text.endswith("Z") else f"{text}Z"
