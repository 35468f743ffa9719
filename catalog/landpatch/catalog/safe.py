"""A Sentinel-2 SAFE folder or zip as a STAC item: L2A from sen2cor or the archive, L1C as it comes.

A zip stays packed: its bands go by hrefs ``zip:///path/product.zip!/member``, which only this module makes.
Only what reading needs is taken from the product's XML: product id, baseline, radiometric offset, quality
indicators, sensing time, footprint of the granule. Source of the element names: ESA, Sentinel-2 Products
Specification Document (S2-PDGS-TAS-DI-PSD), MTD_MSIL1C, MTD_MSIL2A and MTD_TL.
"""

import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree

from landpatch.catalog.bands import optical_bands
from landpatch.catalog.errors import InvalidItem, InvalidName, UnreadableAsset
from landpatch.catalog.grid import TILE_METRES, TileGrid
from landpatch.catalog.names import SceneId
from landpatch.catalog.scenes import STAC_VERSION

_INDICATORS = {
    "GEOMETRIC_QUALITY": "geometric",
    "GENERAL_QUALITY": "general",
    "RADIOMETRIC_QUALITY": "radiometric",
    "SENSOR_QUALITY": "sensor",
}
_MEDIA = {".jp2": "image/jp2", ".tif": "image/tiff; application=geotiff", ".tiff": "image/tiff; application=geotiff"}


# A zip says how large its members are before a byte of them is unpacked. Real ones: metadata below 12 MB, bands below
# 250 MB, and no band is larger than 10980 x 10980 pixels of two bytes.
_MOST_METADATA_BYTES = 64 * 2**20
_MOST_BYTES = 2**30
_BOTH_READ = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the methods that GDAL knows too


class _Product(Protocol):
    """The files of a product, by their paths relative to its root; ``root`` and ``where`` are for messages."""

    root: str
    name: str

    def glob(self, pattern: str) -> list[str]:
        """The files that match, sorted; ``*`` is within one level."""

    def read(self, path: str) -> bytes:
        """A file's bytes. Raises InvalidItem, OSError."""

    def href(self, path: str) -> str:
        """A file's absolute href."""

    def where(self, path: str) -> str:
        """A file's place as a person writes it."""


class _Folder:
    """A product unpacked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root, self.name = folder, str(folder), folder.name

    def glob(self, pattern: str) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.glob(pattern))

    def read(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()

    def href(self, path: str) -> str:
        return str(self.folder / path)

    where = href


class _Zip:
    """A product in the zip that it was downloaded as, with or without a folder around it.

    Nothing is unpacked. Raises UnreadableAsset (missing, truncated) and InvalidItem (no product, or hostile).
    """

    def __init__(self, archive: Path) -> None:
        self.archive, self.root = archive, str(archive)
        self._sizes: dict[str, int] = {}
        try:
            with zipfile.ZipFile(archive) as opened:
                members = opened.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise UnreadableAsset(
                f"{archive} cannot be read as a zip ({error}); it is truncated or none: fetch the product again"
            ) from error
        for member in members:
            self._accept(member)
        roots = {path.parent for path in map(PurePosixPath, self._sizes) if path.match("MTD_MSIL*.xml")}
        roots = {path for path in roots if len(path.parts) <= 1}
        if len(roots) != 1:
            inner = next((name for name in self._sizes if name.lower().endswith(".zip")), None)
            raise InvalidItem(
                f"{archive}: {len(roots)} products in it (an MTD_MSIL2A.xml or MTD_MSIL1C.xml, at the top or in one "
                f"folder); expected one{f'. It holds another zip, {inner}: unpack that first' if inner else ''}"
            )
        self._base = roots.pop()
        self.name = self._base.name or archive.stem

    def _accept(self, member: zipfile.ZipInfo) -> None:
        what = f"{self.archive}: member {member.filename!r}"
        name = member.orig_filename  # as it stands there: zipfile makes '\\' and NUL harmless, GDAL may not
        if not _is_plain(name.removesuffix("/")):
            raise InvalidItem(f"{what} does not lie inside the product; this zip is not to be trusted")
        if name.endswith("/"):
            return
        if name in self._sizes:
            raise InvalidItem(f"{what} is there twice; this zip is not to be trusted")
        if member.flag_bits & 1:
            raise InvalidItem(f"{what} is encrypted; unpack the product with its password and give the folder")
        if member.compress_type not in _BOTH_READ:
            raise InvalidItem(f"{what} is packed by method {member.compress_type}; unpack it and give the folder")
        limit = _MOST_BYTES if PurePosixPath(name).suffix.lower() in _MEDIA else None
        if limit is not None and member.file_size > limit:
            raise InvalidItem(
                f"{what} would unpack to {member.file_size:,} bytes; no band of Sentinel-2 is that large"
            )
        self._sizes[name] = member.file_size

    def glob(self, pattern: str) -> list[str]:
        full = (self._base / pattern).parts
        return sorted(
            PurePosixPath(name).relative_to(self._base).as_posix()
            for name in self._sizes
            if len(PurePosixPath(name).parts) == len(full) and PurePosixPath(name).match("/".join(full))
        )

    def read(self, path: str) -> bytes:
        name = str(self._base / path)
        if self._sizes[name] > _MOST_METADATA_BYTES:
            raise InvalidItem(
                f"{self.where(path)} would unpack to {self._sizes[name]:,} bytes; no metadata is so large"
            )
        try:
            with zipfile.ZipFile(self.archive) as opened:
                return opened.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise OSError(f"damaged: {error}") from error

    def href(self, path: str) -> str:
        return f"zip://{quote(str(self.archive))}!/{quote(str(self._base / path))}"

    def where(self, path: str) -> str:
        return f"{self.archive}!/{self._base / path}"


def split_zip_href(href: str) -> tuple[Path, str]:
    """Archive and member of an href ``zip:///path/product.zip!/member``.

    Raises InvalidItem for anything but the absolute path of a file on this machine and a plain relative member.
    """
    parts = urlsplit(href)
    packed, separator, member = parts.path.partition("!/")
    archive = Path(unquote(packed))
    if parts.netloc or parts.query or parts.fragment or not separator or not archive.is_absolute():
        raise InvalidItem(f"href {href!r}: a member of a zip is written zip:///path/product.zip!/member")
    member = unquote(member)
    if not _is_plain(member) or not _is_plain(str(archive).lstrip("/")) or not archive.is_file():
        raise InvalidItem(f"href {href!r} names no member of a zip file on this machine")
    return archive, member


def verify_zip_member(href: str) -> None:
    """Read a member of a zip to its end and compare its checksum. Raises UnreadableAsset, InvalidItem.

    Decoders of JPEG 2000 forgive a stream that ends early, and would give wrong pixels without a word.
    """
    archive, member = split_zip_href(href)
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(member) as file:
            while file.read(2**20):
                pass
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, OSError) as error:
        raise UnreadableAsset(f"{href} is damaged ({error}); fetch the product again") from error


def _is_plain(path: str) -> bool:
    """Whether a relative path stays where it starts and holds nothing that GDAL reads meaning into."""
    parts = path.split("/")
    return not ({"", ".", ".."} & set(parts) or set(path) & set("\\{}\0") or ":" in parts[0])


def is_safe(path: Path) -> bool:
    """Whether a folder or zip is a Sentinel-2 product: it holds an MTD_MSIL1C.xml or MTD_MSIL2A.xml.

    Of a zip that cannot be read or trusted the answer is no: ``safe_item`` says what is wrong with it.
    """
    if path.is_dir():
        return any(path.glob("MTD_MSI*.xml"))
    try:
        return path.suffix.lower() == ".zip" and path.is_file() and bool(_Zip(path.absolute()).name)
    except (InvalidItem, UnreadableAsset):
        return False


def safe_item(path: Path) -> dict[str, Any]:
    """The STAC item of a SAFE folder or zip, with absolute hrefs.

    Raises InvalidItem, naming the file at fault; UnreadableAsset for a zip that is missing or truncated.
    """
    path = path.absolute()
    source: _Product = _Zip(path) if path.suffix.lower() == ".zip" and not path.is_dir() else _Folder(path)
    metadata = source.glob("MTD_MSIL*.xml")
    granules = source.glob("GRANULE/*/MTD_TL.xml")
    if not metadata:
        raise InvalidItem(f"{source.root}: no MTD_MSIL2A.xml or MTD_MSIL1C.xml; is this a Sentinel-2 SAFE folder?")
    if len(granules) != 1:
        raise InvalidItem(
            f"{source.root}: {len(granules)} granules (GRANULE/*/MTD_TL.xml); expected one, as in products since 2016"
        )
    product, granule = _parse(source, metadata[0]), _parse(source, granules[0])
    uri = _text(product, "PRODUCT_URI") or _text(product, "PRODUCT_URI_2A") or source.name
    try:
        scene = SceneId.parse(uri)
    except InvalidName as error:
        raise InvalidItem(f"{source.where(metadata[0])}: its product name cannot be used: {error}") from error
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
            "landpatch:boa_add_offset": _offset(product, source.where(metadata[0])),
            **{f"s2:{name}_quality": value for name, value in _quality(product, granule).items()},
        },
        "links": [],
        "assets": _assets(source, PurePosixPath(granules[0]).parent),
    }


def grid_ring(grid: TileGrid) -> list[list[float]]:
    """A tile's outline in degrees, closed, counter-clockwise from the lower left."""
    from pyproj import Transformer

    left, top = grid.ulx, grid.uly
    right, bottom = left + TILE_METRES, top - TILE_METRES
    transformer = Transformer.from_crs(grid.epsg, 4326, always_xy=True)
    xs, ys = transformer.transform([left, right, right, left, left], [bottom, bottom, top, top, bottom])
    return [[x, y] for x, y in zip(xs, ys, strict=True)]


def _parse(source: _Product, path: str) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(source.read(path))
    except (ElementTree.ParseError, OSError) as error:
        raise InvalidItem(f"{source.where(path)} cannot be read as XML ({error}); fetch the product again") from error


def _elements(root: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """Elements of that local name; namespaces differ between product versions."""
    return (element for element in root.iter() if element.tag.rpartition("}")[2] == name)


def _text(root: ElementTree.Element, name: str) -> str | None:
    for element in _elements(root, name):
        if element.text and element.text.strip():
            return element.text.strip()
    return None


def _offset(product: ElementTree.Element, path: str) -> float:
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


def _assets(source: _Product, granule: PurePosixPath) -> dict[str, dict[str, Any]]:
    """One asset a band at its native resolution, and the scene classification."""
    assets: dict[str, dict[str, Any]] = {}
    wanted = {name: band.resolution for name, band in optical_bands().items()} | {"SCL": 20}
    for path in (*source.glob(f"{granule}/IMG_DATA/*"), *source.glob(f"{granule}/IMG_DATA/*/*")):  # L1C, L2A
        file = PurePosixPath(path)
        match = re.search(r"_(B\d[\dA]|SCL)(?:_(\d\d)m)?$", file.stem)
        media = _MEDIA.get(file.suffix.lower())
        if match is None or media is None or match.group(1) not in wanted:
            continue
        name, resolution = match.groups()
        if resolution is not None and int(resolution) != wanted[name]:
            continue
        bands = [] if name == "SCL" else [{"name": name}]
        assets[name] = {"href": source.href(path), "type": media, "roles": ["data"], "bands": bands}
    return assets
