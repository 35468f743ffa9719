"""Scenes as STAC items describe them: which file is which band, what the pixels mean, which names they go by.

Items come in dialects (Earth Search v0, v1 and Collection-1, Planetary Computer, CDSE; STAC 0.9 to 1.1). Everything
here works on the item's JSON alone; the rules are in the docstrings, with their traps.
"""

import math
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urljoin, urlsplit

from landpatch.catalog.bands import OpticalBand, optical_bands
from landpatch.catalog.errors import InvalidItem, InvalidName
from landpatch.catalog.names import RadarSceneId, SceneId, parse_tile

Item = Mapping[str, Any]
OffsetChoice = Literal["auto", "present", "absent"]
RadarUnit = Literal["dB", "power"]
GrdBackscatter = Literal["sigma0", "gamma0-terrain"]
HeightsAbove = Literal["geoid", "ellipsoid"]

STAC_VERSION = "1.1.0"
"""Of every document that landpatch writes."""

_PRODUCT_KEYS = (
    "s2:product_uri",
    "sentinel2:product_uri",
    "sentinel2:product_title",
    "sentinel:product_id",
    "s2:product_id",
    "landpatch:scene",
)
_BASELINE_KEYS = (
    "s2:processing_baseline",
    "sentinel2:processing_baseline",
    "sentinel:processing_baseline",
    "processing:version",
)
_QUALITY = re.compile(r"^(?:s2|sentinel2?|landpatch):(geometric|general|radiometric|sensor)_quality(?:_flag)?$")
_IN_ID = re.compile(r"(?:^|_)T?(\d{1,2}[C-HJ-NP-X][A-HJ-NP-Z][A-HJ-NP-V])(?:_|\Z)", re.ASCII)
_RESOLUTION_SUFFIX = re.compile(r"[-_](\d\d)m$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class BandAsset:
    """The file of one band: asset ``key`` in the item and absolute ``href``; ``band`` counts from 1 where the file
    holds several (None: it must hold one).
    """

    key: str
    href: str
    band: int | None = None


@dataclass(frozen=True, slots=True)
class BoaOffset:
    """Whether the stored numbers are reflectance x 10000 **+ 1000** (``present``), and how that is known.

    ``seen`` is what the pixels say to it, once they have been looked at.
    """

    present: bool
    reason: str
    seen: str | None = None


@dataclass(frozen=True, slots=True)
class OpticalScene:
    """One Sentinel-2 scene, ready to be read.

    ``bands`` holds all 12 bands by name; ``scl`` the scene classification where there is one. ``quality`` is the
    list of quality indicators that did not pass (empty: passed, or the item does not tell).
    """

    item_id: str
    scene: SceneId
    bands: Mapping[str, BandAsset]
    scl: BandAsset | None
    offset: BoaOffset
    failed_quality: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GrdMetadata:
    """The XML files that turn the counts of a GRD product into backscatter: hrefs, of VV and VH where two.

    The annotation is VV's: both polarisations have the same geometry.
    """

    annotation: str
    calibration: tuple[str, str]
    noise: tuple[str, str]


@dataclass(frozen=True, slots=True)
class RadarScene:
    """One Sentinel-1 scene, ready to be read: geocoded, or a GRD product in radar geometry (``grd``).

    ``unit`` says whether pixels are decibel or linear power; ``backscatter`` is sigma0, gamma0, gamma0-terrain or
    unknown; ``nodata`` is what the item declares (None: what the file says). ``bands`` are those of VV and VH,
    counted from 1, where both are in one file (None: a file each). Of a GRD product, whose pixels are counts, unit,
    backscatter and nodata say what these are made into.
    """

    item_id: str
    name: RadarSceneId
    sensed: datetime
    vv: str
    vh: str
    unit: RadarUnit
    backscatter: str
    nodata: float | None
    bands: tuple[int, int] | None = None
    grd: GrdMetadata | None = None


def absolute_href(href: str, base: str) -> str:
    """``href`` of an asset, relative to ``base`` (the item's own href), made absolute.

    ``base`` is a local path or a URL; ``/`` at the start of ``href`` and ``..`` lead no further than to the root of
    the host or bucket. Raises ValueError where either cannot be a URL.
    """
    if urlsplit(href).scheme:
        return href
    scheme, separator, rest = base.partition("://")
    if not separator:
        return posixpath.normpath(posixpath.join(posixpath.dirname(base), href))
    if scheme in ("http", "https"):
        return urljoin(base, href)
    host, _, path = rest.partition("/")
    target = posixpath.normpath(posixpath.join("/", posixpath.dirname(path), href))
    return f"{scheme}://{host}/{target.lstrip('/')}"


def with_absolute_hrefs(item: Item, base: str) -> dict[str, Any]:
    """A copy of ``item`` whose asset hrefs no longer depend on where the item lies. Raises InvalidItem."""
    assets = {}
    for key, asset in _assets(item).items():
        try:
            assets[key] = {**asset, "href": absolute_href(str(asset["href"]), base)}
        except ValueError as error:
            raise InvalidItem(f"item {_id(item)}: the href of asset {key} is no path or URL ({error})") from error
    return {**item, "assets": assets}


def optical_scene(item: Item, *, offset: OffsetChoice = "auto") -> OpticalScene:
    """The Sentinel-2 scene of a STAC item with absolute hrefs.

    ``offset`` overrules the verdict on the radiometric offset. Raises InvalidItem, naming the item.
    """
    scene = scene_id(item)
    verdict = boa_offset(item) if offset == "auto" else BoaOffset(offset == "present", "as the user said")
    properties = _properties(item)
    failed = tuple(
        sorted(
            match.group(1)
            for key, value in properties.items()
            if (match := _QUALITY.match(key)) and value is not None and str(value).upper() != "PASSED"
        )
    )
    return OpticalScene(_id(item), scene, find_bands(item), _find_scl(item), verdict, failed)


def scene_id(item: Item) -> SceneId:
    """The scene that an item describes, from its product id. Raises InvalidItem.

    The id may stand in one of several properties; the item's own id is the last resort, since most catalogues'
    ids lack the baseline.
    """
    properties = _properties(item)
    for text in [*(properties.get(key) for key in _PRODUCT_KEYS), item.get("id")]:
        try:
            scene = SceneId.parse(str(text))
        except InvalidName:
            continue
        break
    else:
        raise InvalidItem(
            f"item {_id(item)}: no Sentinel-2 product id found; set the property s2:product_uri to something like "
            "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_20240101T000000.SAFE"
        )
    # grid:code is no witness against it: in Earth Search v0 items brought to STAC 1.0 it was computed from the
    # centroid and is wrong at the antimeridian (60CWE for 01CCV). The pixels are checked against the tile instead.
    return scene


def tile_of(item: Item) -> str | None:
    """The MGRS tile of a Sentinel-2 item; None where nothing tells.

    The product id first: ``grid:code`` is wrong at the antimeridian in Earth Search v0 items brought to STAC 1.0.
    """
    try:
        return scene_id(item).tile
    except InvalidItem:
        pass
    properties = item.get("properties")
    if not isinstance(properties, Mapping):
        properties = {}
    parts = ("mgrs:utm_zone", "mgrs:latitude_band", "mgrs:grid_square")
    older = ("sentinel:utm_zone", "sentinel:latitude_band", "sentinel:grid_square")
    in_id = _IN_ID.search(str(item.get("id")))
    for text in (
        properties.get("s2:mgrs_tile"),
        properties.get("grid:code"),
        *("".join(str(properties.get(key, "?")) for key in keys) for keys in (parts, older)),
        in_id and in_id.group(1),
    ):
        try:
            return parse_tile(str(text))
        except InvalidName:
            continue
    return None


def find_bands(item: Item) -> dict[str, BandAsset]:
    """The asset of each of the 12 bands at its native resolution.

    By band name or common name first in ``bands`` / ``eo:bands``, then in the asset's key: keys differ between
    catalogues, and ``eo`` 1.x calls three different bands ``rededge``. Where a band is offered at several
    resolutions (CDSE: B02_10m, B02_20m) the native one is taken; a JPEG 2000 twin (``blue-jp2``) only where there
    is no other, and a file of several bands only where no file has the band alone. Raises InvalidItem naming every
    band that is missing.
    """
    found: dict[str, BandAsset] = {}
    missing = []
    meant: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for key, asset in _assets(item).items():
        for name in _band_names(key, asset):
            meant.setdefault(name, []).append((key, asset))
    for band in optical_bands().values():
        offered = meant.get(band.name, [])
        candidates = [pair for pair in offered if _stated_resolution(*pair) in (None, band.resolution)]
        stacked = None if candidates else _in_stack(item, band)
        if stacked is not None:
            found[band.name] = stacked
            continue
        if not candidates:
            others = ", ".join(key for key, _ in offered)
            missing.append(f"{band.name} (only as {others})" if others else band.name)
            continue
        key, asset = min(candidates, key=lambda pair: _preference(band, *pair))
        found[band.name] = BandAsset(key, str(asset["href"]))
    if missing:
        raise InvalidItem(f"item {_id(item)}: no asset at native resolution for band(s) {', '.join(missing)}")
    return found


def boa_offset(item: Item) -> BoaOffset:
    """Whether the item's pixels carry the +1000 that baselines from 04.00 add (BOA_ADD_OFFSET -1000).

    Decided in this order: what the product's own MTD says (kept by the SAFE reader in
    ``landpatch:boa_add_offset``); sen2cor run by hand (99.99: no); Earth Search's ``boa_offset_applied``;
    ``raster:offset`` where the collection's are right (of Earth Search's only Collection-1; its others say -0.1
    either way); the processing baseline, never the date. Raises InvalidItem when nothing tells.
    """
    properties = _properties(item)
    stated = _number(properties.get("landpatch:boa_add_offset"))
    if stated is not None:
        return BoaOffset(stated != 0, f"the product's metadata states an offset of {stated:.0f}")
    baseline = processing_baseline(item)
    if baseline is not None and baseline >= 99:
        return BoaOffset(False, "processed by hand with sen2cor (baseline 99.99), which adds no offset")
    for key in ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied"):
        if properties.get(key) is True:
            return BoaOffset(False, f"{key} is true: the catalogue removed it")
    earth_search = any(key.startswith("earthsearch:") for key in properties)
    believed = not earth_search or item.get("collection") == "sentinel-2-c1-l2a"
    offset = _declared_offset(item) if believed else None
    if offset is not None and offset < 0:
        return BoaOffset(True, f"the band assets declare an offset of {offset:g}")
    if baseline is None:
        raise InvalidItem(
            f"item {_id(item)}: neither a processing baseline nor an offset is stated, so it is unknown whether "
            "1000 must be subtracted; say it with --offset present or absent"
        )
    if baseline >= 4:
        return BoaOffset(True, f"baseline {baseline:05.2f} adds 1000")
    return BoaOffset(False, f"baseline {baseline:05.2f} is older than 04.00, which introduced the offset")


def processing_baseline(item: Item) -> float | None:
    """The processing baseline (5.1 for 05.10, 99.99 for sen2cor by hand); None where nothing tells. Raises
    InvalidItem where it is no item.
    """
    properties = _properties(item)
    for key in _BASELINE_KEYS:
        stated = _number(properties.get(key))
        if stated is not None:
            return stated
    try:
        return int(scene_id(item).baseline) / 100
    except InvalidItem:
        return None


def radar_scene(item: Item, *, unit: RadarUnit | None = None, backscatter: GrdBackscatter = "sigma0") -> RadarScene:
    """The Sentinel-1 scene of a STAC item with absolute hrefs: IW, VV and VH, geocoded or GRD.

    ``unit`` overrules what the item says of its pixels, but for counts of GRD, which become ``backscatter``. Such a
    product is known by its calibration files, named by the item (``schema-calibration-vv``) or beside
    ``measurement/`` as in its SAFE folder; its items' ``proj:*`` are computed from the bounding box and mean nothing.
    Raises InvalidItem.
    """
    identifier = _id(item)
    properties = _properties(item)
    name = dual_pol_name(item)
    assets = _polarisations(item)
    collection = str(item.get("collection", ""))
    described = _stated_unit(assets["vv"])
    stated = unit or described
    grd = _grd_metadata(assets) if described is None and "rtc" not in collection.lower() else None
    if grd is not None:
        return RadarScene(
            item_id=identifier,
            name=name,
            sensed=_time(item),
            vv=str(assets["vv"]["href"]),
            vh=str(assets["vh"]["href"]),
            unit="power",
            backscatter=backscatter,
            nodata=0,
            grd=grd,
        )
    if stated is None and collection == "sentinel-1-rtc":  # Planetary Computer: gamma0 as linear power
        stated = "power"
    if stated is None:
        raise InvalidItem(
            f"item {identifier}: neither its assets' unit nor its collection {collection!r} says whether pixels are "
            "dB or linear power; say it with --s1-unit dB or power (the counts of a GRD product are neither: it is "
            "calibrated and terrain-corrected where its calibration and noise files lie as in its SAFE folder)"
        )
    return RadarScene(
        item_id=identifier,
        name=name,
        sensed=_time(item),
        vv=str(assets["vv"]["href"]),
        vh=str(assets["vh"]["href"]),
        unit=stated,
        backscatter=_backscatter(collection, str(assets["vv"].get("title", "")), properties),
        nodata=_declared_nodata(assets["vv"]),
        bands=None if _STACKED not in assets["vv"] else (assets["vv"][_STACKED], assets["vh"][_STACKED]),
    )


def dual_pol_name(item: Item) -> RadarSceneId:
    """The name of a Sentinel-1 item of which patches can be made: IW, with VV and VH. Raises InvalidItem."""
    assets = _polarisations(item)
    missing = [p for p in ("vv", "vh") if p not in assets]
    if missing:
        raise InvalidItem(
            f"item {_id(item)}: no asset {' and '.join(missing)}; a patch needs VV and VH (dual polarisation 1SDV)"
        )
    name = _radar_name(item)
    if name.mode != "IW":
        raise InvalidItem(
            f"item {_id(item)}: its mode is {name.mode}; patches are made from interferometric wide swath (IW), "
            "Sentinel-1's mode over land"
        )
    return name


def is_radar(item: Item) -> bool:
    """Whether an item is of Sentinel-1: by what only radar items have, since catalogues spell platforms in many ways.

    Raises InvalidItem where it has no properties or assets.
    """
    return any(key.startswith(("sar:", "s1:", "landpatch:s1_")) for key in _properties(item)) or any(
        key in ("vv", "vh", "hh", "hv") for key in _polarisations(item)
    )


def is_terrain_corrected(item: Item) -> bool:
    """Whether a Sentinel-1 item's backscatter is gamma0-terrain (RTC). Raises InvalidItem."""
    title = str(_polarisations(item).get("vv", {}).get("title", ""))
    return _backscatter(str(item.get("collection", "")), title, _properties(item)) == "gamma0-terrain"


def by_time_gap(scenes: Iterable[RadarScene], sensed: datetime) -> list[RadarScene]:
    """Sentinel-1 scenes, nearest in time to ``sensed`` first; ties by name, so that the order is one order."""
    return sorted(scenes, key=lambda scene: (abs(scene.sensed - sensed), str(scene.name), scene.item_id))


def sensing_time(item: Item) -> datetime:
    """The item's datetime (UTC); the start where it only has a range. Raises InvalidItem."""
    return _time(item)


def _id(item: Item) -> str:
    identifier = item.get("id")
    if not isinstance(identifier, str) or not identifier:
        raise InvalidItem("a scene item has no id; is this file a STAC item?")
    if "/" in identifier or "\0" in identifier:
        raise InvalidItem(f"item {identifier!r}: an id with '/' cannot name the item's file; give it another id")
    return identifier


def _properties(item: Item) -> Mapping[str, Any]:
    properties = item.get("properties")
    if not isinstance(properties, Mapping):
        raise InvalidItem(f"item {_id(item)} has no properties; is this file a STAC item?")
    return properties


def _assets(item: Item) -> Mapping[str, Mapping[str, Any]]:
    assets = item.get("assets")
    if not isinstance(assets, Mapping):
        raise InvalidItem(f"item {_id(item)} has no assets; is this file a STAC item?")
    return {key: asset for key, asset in assets.items() if isinstance(asset, Mapping) and asset.get("href")}


def _time(item: Item) -> datetime:
    properties = _properties(item)
    text = properties.get("datetime") or properties.get("start_datetime")
    try:
        moment = datetime.fromisoformat(str(text))
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidItem(f"item {_id(item)}: no valid datetime ({text!r})") from error


def _number(value: Any) -> float | None:
    """A finite number, also one written as text; None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _band_objects(asset: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return _objects(asset.get("bands")) or _objects(asset.get("eo:bands"))


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list | tuple) else []


def _band_names(key: str, asset: Mapping[str, Any]) -> set[str]:
    """The bands that an asset can be meant as: none, or exactly one."""
    described = _band_objects(asset)
    if len(described) > 1:  # true colour and the like
        return set()
    media = str(asset.get("type", "")).lower()
    if media and not media.startswith(("image/tiff", "image/jp2", "image/vnd", "application/x-geotiff")):
        return set()
    roles = asset.get("roles")
    if isinstance(roles, list) and {"thumbnail", "overview", "metadata"} & {str(role) for role in roles}:
        return set()
    plain = _RESOLUTION_SUFFIX.sub("", key.removesuffix("-jp2"))
    words = [plain]
    for band in described:
        words = [str(band.get("name", "")), plain, str(band.get("eo:common_name") or band.get("common_name") or "")]
    for word in words:
        for known in optical_bands().values():
            if word.upper() == known.name or word.lower() in known.aliases:
                return {known.name}
    return set()


def _in_stack(item: Item, band: OpticalBand) -> BandAsset | None:
    """A band in a file of several: an asset with the role ``data`` whose bands all are Sentinel-2's, by name.

    True colour has three of them too, in 8 bits; its role is ``visual`` or none.
    """
    for key, asset in _assets(item).items():
        roles = asset.get("roles")
        names = [str(described.get("name", "")).upper() for described in _band_objects(asset)]
        measured = isinstance(roles, list) and "data" in roles and "visual" not in roles
        if measured and band.name in names and len(names) > 1 and set(names) <= set(optical_bands()):
            return BandAsset(key, str(asset["href"]), names.index(band.name) + 1)
    return None


_STACKED = "landpatch:band"  # of an asset made by the function below: which band of the file


def _polarisations(item: Item) -> dict[str, Mapping[str, Any]]:
    """The assets by key in lower case, and ``vv`` and ``vh`` where one file holds both and its bands are named so."""
    assets = {key.lower(): asset for key, asset in _assets(item).items()}
    if "vv" in assets or "vh" in assets:
        return assets
    for asset in assets.values():
        bands, raster = _band_objects(asset), _objects(asset.get("raster:bands"))
        names = [str(band.get("name", "")).lower() for band in bands]
        if sorted(names) == ["vh", "vv"]:
            alone = {
                name: {
                    **asset,
                    "bands": [bands[number]],
                    "raster:bands": raster[number : number + 1],
                    _STACKED: number + 1,
                }
                for number, name in enumerate(names)
            }
            return {**assets, **alone}
    return assets


def _stated_resolution(key: str, asset: Mapping[str, Any]) -> float | None:
    suffix = _RESOLUTION_SUFFIX.search(key)
    if suffix:
        return float(suffix.group(1))
    stated = [asset.get("raster:spatial_resolution")]
    stated += [band.get("spatial_resolution") for band in _objects(asset.get("raster:bands"))[:1]]
    transform = asset.get("proj:transform")
    stated += transform[:1] if isinstance(transform, list) else []
    # gsd is what the instrument resolves, not what the file holds: only where nothing else is said.
    stated.append(asset.get("gsd"))
    return next((abs(number) for number in map(_number, stated) if number), None)


def _preference(band: OpticalBand, key: str, asset: Mapping[str, Any]) -> tuple[bool, bool, bool, str]:
    return (
        key.endswith("-jp2"),
        "tiff" not in str(asset.get("type", "tiff")),
        _stated_resolution(key, asset) != band.resolution,
        key,
    )


def _find_scl(item: Item) -> BandAsset | None:
    candidates = [
        (key.endswith("-jp2"), key, asset)
        for key, asset in _assets(item).items()
        if _RESOLUTION_SUFFIX.sub("", key.removesuffix("-jp2")).lower() == "scl"
        and _stated_resolution(key, asset) in (None, 20)
    ]
    if not candidates:
        return None
    _, key, asset = min(candidates, key=lambda candidate: candidate[:2])
    return BandAsset(key, str(asset["href"]))


def _declared_offset(item: Item) -> float | None:
    """The additive offset that the blue band's asset declares, as reflectance (-0.1)."""
    asset = _assets(item)[find_bands(item)["B02"].key]
    bands = _band_objects(asset)
    for place in [asset, *_objects(asset.get("raster:bands")), *bands]:
        value = _number(place.get("raster:offset", place.get("offset")))
        if value is not None:
            return value
    return None


def _radar_name(item: Item) -> RadarSceneId:
    properties = _properties(item)
    for text in (properties.get("s1:product_identifier"), properties.get("landpatch:s1_scene"), item["id"]):
        try:
            return RadarSceneId.parse(str(text))
        except InvalidName:
            continue
    platform = re.fullmatch(r"sentinel-1([a-d])", str(properties.get("platform", "")).lower())
    if platform is None:
        raise InvalidItem(
            f"item {_id(item)}: no Sentinel-1 product id found; set the property s1:product_identifier to something "
            "like S1B_IW_GRDH_1SDV_20170612T165809"
        )
    mode = str(properties.get("sar:instrument_mode", "IW"))
    return RadarSceneId(f"S1{platform.group(1).upper()}", mode, "GRDH", "DV", _time(item).replace(microsecond=0))


def _grd_metadata(assets: Mapping[str, Mapping[str, Any]]) -> GrdMetadata | None:
    """The metadata files of a GRD product, None where the item is none.

    The annotation follows from the calibration file's href: catalogues' ``schema-product-vv`` may name the report on
    radio interference (annotation/rfi) instead.
    """
    calibrations = [_calibration_href(assets, polarisation) for polarisation in ("vv", "vh")]
    if None in calibrations:
        return None
    vv, vh = (str(href) for href in calibrations)
    return GrdMetadata(
        annotation=_CALIBRATION.sub(r"/\1", vv),
        calibration=(vv, vh),
        noise=(_CALIBRATION.sub(r"/calibration/noise-\1", vv), _CALIBRATION.sub(r"/calibration/noise-\1", vh)),
    )


_CALIBRATION = re.compile(r"/calibration/calibration-([^/?#]*\.xml)")
_MEASUREMENT = re.compile(r"/measurement/([^/?#]*)\.tiff?(?=$|[?#])")


def _calibration_href(assets: Mapping[str, Mapping[str, Any]], polarisation: str) -> str | None:
    """The calibration file of ``vv`` or ``vh``: as an asset names it, or beside the measurement as in SAFE."""
    for asset in assets.values():
        named = _CALIBRATION.search(str(asset["href"]))
        if named and polarisation in re.split(r"[-.]", named.group(1).lower()):
            return str(asset["href"])
    href = str(assets[polarisation]["href"])
    if not _MEASUREMENT.search(href):
        return None
    return _MEASUREMENT.sub(r"/annotation/calibration/calibration-\1.xml", href)


def _stated_unit(asset: Mapping[str, Any]) -> RadarUnit | None:
    for place in [asset, *_objects(asset.get("raster:bands")), *_band_objects(asset)]:
        unit = str(place.get("unit") or place.get("raster:unit") or "").strip().lower()
        if unit in ("db", "decibel", "decibels"):
            return "dB"
        # Not "1": a plain number may be power, amplitude or a raw count.
        if unit in ("power", "linear", "linear power", "m2/m2", "m^2/m^2"):
            return "power"
    return None


def _backscatter(collection: str, title: str, properties: Mapping[str, Any]) -> str:
    text = f"{properties.get('landpatch:backscatter', '')} {collection} {title}".lower()
    if "rtc" in text or "gamma0-terrain" in text:
        return "gamma0-terrain"
    for kind in ("sigma0", "gamma0"):
        if kind in text:
            return kind
    return "unknown"


def _declared_nodata(asset: Mapping[str, Any]) -> float | None:
    for place in [asset, *_objects(asset.get("raster:bands")), *_band_objects(asset)]:
        value = place.get("nodata")
        if value is not None:
            try:
                return float(value)
            except (TypeError, ValueError):
                return None
    return None
