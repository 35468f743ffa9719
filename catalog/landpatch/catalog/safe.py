"""A Sentinel-2 SAFE folder as a STAC item: L2A from sen2cor or the archive, L1C as it comes.

Only what reading needs is taken from the product's XML: product id, baseline, radiometric offset, quality
indicators, sensing time, footprint of the granule. Source of the element names: ESA, Sentinel-2 Products
Specification Document (S2-PDGS-TAS-DI-PSD), MTD_MSIL1C, MTD_MSIL2A and MTD_TL.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from landpatch.catalog.bands import optical_bands
from landpatch.catalog.errors import InvalidItem, InvalidName
from landpatch.catalog.grid import TILE_METRES, TileGrid
from landpatch.catalog.items import STAC_VERSION
from landpatch.catalog.names import SceneId

_INDICATORS = {
    "GEOMETRIC_QUALITY": "geometric",
    "GENERAL_QUALITY": "general",
    "RADIOMETRIC_QUALITY": "radiometric",
    "SENSOR_QUALITY": "sensor",
}
_MEDIA = {".jp2": "image/jp2", ".tif": "image/tiff; application=geotiff", ".tiff": "image/tiff; application=geotiff"}


def is_safe(folder: Path) -> bool:
    """Whether a folder is a Sentinel-2 product: it holds an MTD_MSIL1C.xml or MTD_MSIL2A.xml."""
    return folder.is_dir() and any(folder.glob("MTD_MSI*.xml"))


def safe_item(folder: Path) -> dict[str, Any]:
    """The STAC item of a SAFE folder, with absolute hrefs. Raises InvalidItem, naming the file at fault."""
    folder = folder.absolute()
    metadata = sorted(folder.glob("MTD_MSIL*.xml"))
    granules = sorted(folder.glob("GRANULE/*/MTD_TL.xml"))
    if not metadata:
        raise InvalidItem(f"{folder}: no MTD_MSIL2A.xml or MTD_MSIL1C.xml; is this a Sentinel-2 SAFE folder?")
    if len(granules) != 1:
        raise InvalidItem(
            f"{folder}: {len(granules)} granules (GRANULE/*/MTD_TL.xml); expected one, as in products since 2016"
        )
    product, granule = _parse(metadata[0]), _parse(granules[0])
    uri = _text(product, "PRODUCT_URI") or _text(product, "PRODUCT_URI_2A") or folder.name
    try:
        scene = SceneId.parse(uri)
    except InvalidName as error:
        raise InvalidItem(f"{metadata[0]}: its product name cannot be used: {error}") from error
    grid = TileGrid.from_tile(scene.tile)
    ring = grid_ring(grid)
    longitudes, latitudes = [point[0] for point in ring], [point[1] for point in ring]
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [],
        "id": uri.removesuffix(".SAFE"),
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [min(longitudes), min(latitudes), max(longitudes), max(latitudes)],
        "properties": {
            "datetime": _text(granule, "SENSING_TIME") or scene.sensed.isoformat().replace("+00:00", "Z"),
            "platform": f"sentinel-2{scene.platform[-1].lower()}",
            "s2:product_uri": uri,
            "s2:processing_baseline": _text(product, "PROCESSING_BASELINE")
            or f"{scene.baseline[:2]}.{scene.baseline[2:]}",
            "landpatch:boa_add_offset": _offset(product, metadata[0]),
            **{f"s2:{name}_quality": value for name, value in _quality(product, granule).items()},
        },
        "links": [],
        "assets": _assets(granules[0].parent),
    }


def grid_ring(grid: TileGrid) -> list[list[float]]:
    """A tile's outline in degrees, closed, counter-clockwise from the lower left."""
    from pyproj import Transformer

    left, top = grid.ulx, grid.uly
    right, bottom = left + TILE_METRES, top - TILE_METRES
    transformer = Transformer.from_crs(grid.epsg, 4326, always_xy=True)
    xs, ys = transformer.transform([left, right, right, left, left], [bottom, bottom, top, top, bottom])
    return [[x, y] for x, y in zip(xs, ys, strict=True)]


def _parse(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise InvalidItem(f"{path} cannot be read as XML ({error}); fetch the product again") from error


def _elements(root: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """Elements of that local name; namespaces differ between product versions."""
    return (element for element in root.iter() if element.tag.rpartition("}")[2] == name)


def _text(root: ElementTree.Element, name: str) -> str | None:
    for element in _elements(root, name):
        if element.text and element.text.strip():
            return element.text.strip()
    return None


def _offset(product: ElementTree.Element, path: Path) -> float:
    """The additive offset of the 12 bands: 0 where the product lists none (before baseline 04.00)."""
    try:
        values = {
            float(element.text or "")
            for name in ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET")
            for element in _elements(product, name)
        }
    except ValueError as error:
        raise InvalidItem(f"{path}: one of its offsets is no number ({error}); fetch the product again") from error
    if len(values) > 1:
        raise InvalidItem(f"{path}: bands have different offsets ({sorted(values)}); landpatch expects one for all")
    offset = values.pop() if values else 0.0
    if offset not in (0.0, -1000.0):
        raise InvalidItem(f"{path}: an offset of {offset:g}; landpatch knows products with none and with -1000")
    return offset


def _quality(*documents: ElementTree.Element) -> dict[str, str]:
    """The four quality indicators that BigEarthNet asks for, as far as the product states them.

    Each is ``<quality_check checkType="GEOMETRIC_QUALITY">``; in products before PSD 14
    ``<GEOMETRIC_QUALITY_FLAG>``. One that failed anywhere has failed.
    """
    found: dict[str, str] = {}
    for document in documents:
        for element in document.iter():
            tag = element.tag.rpartition("}")[2].upper()
            kind = element.get("checkType", "").upper() if tag == "QUALITY_CHECK" else tag.removesuffix("_FLAG")
            name = _INDICATORS.get(kind)
            verdict = (element.text or "").strip().upper()
            if name and verdict and found.get(name, "PASSED") == "PASSED":
                found[name] = verdict
    return found


def _assets(granule: Path) -> dict[str, dict[str, Any]]:
    """One asset a band at its native resolution, and the scene classification."""
    assets: dict[str, dict[str, Any]] = {}
    wanted = {name: band.resolution for name, band in optical_bands().items()} | {"SCL": 20}
    for file in sorted(granule.glob("IMG_DATA/**/*")):
        match = re.search(r"_(B\d[\dA]|SCL)(?:_(\d\d)m)?$", file.stem)
        media = _MEDIA.get(file.suffix.lower())
        if match is None or media is None or match.group(1) not in wanted:
            continue
        name, resolution = match.groups()
        if resolution is not None and int(resolution) != wanted[name]:
            continue
        bands = [] if name == "SCL" else [{"name": name}]
        assets[name] = {"href": str(file), "type": media, "roles": ["data"], "bands": bands}
    return assets
