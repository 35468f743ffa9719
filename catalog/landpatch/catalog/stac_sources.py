"""Finding scenes: the catalogues that are known by name or address, asked in their dialects, and what they answer.

A server filters as far as it can, and everything is filtered again here: one that ignores a filter gives the same
answer, only later. An item that lacks what a filter looks at is kept: the choice of scenes says what it thinks of it.
"""

import calendar
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urljoin, urlsplit

import numpy as np
import orjson
import shapely

from landpatch.catalog.areas import Area, touches
from landpatch.catalog.bands import read_table
from landpatch.catalog.errors import InvalidItem, InvalidParameter, SourceError
from landpatch.catalog.scenes import (
    absolute_href,
    processing_baseline,
    scene_id,
    sensing_time,
    tile_of,
    with_absolute_hrefs,
)
from landpatch.catalog.signing import unsigned
from landpatch.catalog.stac_documents import DocumentReader, Patience, UnusableDocument, is_remote, local_path

if TYPE_CHECKING:
    from landpatch.catalog.stac_api import StacApi

OrbitState = Literal["ascending", "descending"]
Item = dict[str, Any]
Progress = Callable[[int, int], None]

_TILES_A_REQUEST = 100
_CATALOGUE_NAMES = ("catalog.json", "collection.json")
_LARGEST_FILE = 2**31  # a file that the user names may be larger than a page of a server


@dataclass(frozen=True, slots=True)
class OpticalQuery:
    """Which Sentinel-2 L2A scenes are wanted.

    ``start`` and ``end`` are UTC and inclusive. ``months`` (1..12; empty: all) choose seasons within
    (``seasons.SEASONS``).
    ``max_cloud`` and ``max_nodata`` are shares 0..1, ``min_sun`` degrees of sun elevation, baselines numbers (5.1 for
    05.10); baseline 99.99 (sen2cor by hand) is none and passes. None: no limit.

    Raises InvalidParameter where a limit cannot be meant.
    """

    area: Area
    start: datetime
    end: datetime
    months: frozenset[int] = frozenset()
    max_cloud: float | None = None
    max_nodata: float | None = None
    min_sun: float | None = None
    min_baseline: float | None = None
    max_baseline: float | None = None

    def __post_init__(self) -> None:
        _check_period(self.start, self.end)
        if not self.months <= set(range(1, 13)):
            raise InvalidParameter(f"months {sorted(self.months)}: expected numbers from 1 to 12")
        for name in ("max_cloud", "max_nodata"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise InvalidParameter(f"{name} {share:g} is no share: expected 0 to 1 (0.2 for 20 %)")

    def intervals(self) -> list[tuple[datetime, datetime]]:
        """The stretches of time, in order, that hold the wanted months of the period."""
        if not self.months or len(self.months) == 12:
            return [(self.start, self.end)]
        found: list[tuple[datetime, datetime]] = []
        year, month = self.start.year, self.start.month
        while (year, month) <= (self.end.year, self.end.month):
            if month in self.months:
                first = datetime(year, month, 1, tzinfo=UTC)
                last = first + timedelta(days=calendar.monthrange(year, month)[1]) - timedelta(microseconds=1)
                stretch = (max(first, self.start), min(last, self.end))
                if found and stretch[0] - found[-1][1] <= timedelta(seconds=1):
                    stretch = (found.pop()[0], stretch[1])
                found.append(stretch)
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)
        return found


@dataclass(frozen=True, slots=True)
class RadarQuery:
    """Which Sentinel-1 scenes are wanted: IW, with VV and VH, terrain-corrected or GRD.

    ``geometry`` is GeoJSON in WGS 84 (``Area.search_geometry`` gives one); ``start`` and ``end`` are UTC, inclusive.
    Raises InvalidParameter.
    """

    geometry: Mapping[str, Any]
    start: datetime
    end: datetime
    orbit_state: OrbitState | None = None
    relative_orbit: int | None = None

    def __post_init__(self) -> None:
        _check_period(self.start, self.end)
        if self.orbit_state not in (None, "ascending", "descending"):
            raise InvalidParameter(f"orbit state {self.orbit_state!r}: expected ascending or descending")
        if self.relative_orbit is not None and not 1 <= self.relative_orbit <= 175:
            raise InvalidParameter(f"relative orbit {self.relative_orbit}: Sentinel-1's run from 1 to 175")


@dataclass(frozen=True, slots=True)
class KnownSource:
    """A row of ``data/stac_sources.csv``: what a public catalogue is called, has, and can filter by."""

    name: str
    url: str
    optical: tuple[str, ...]
    radar: tuple[str, ...]
    backscatter: str
    signing: str
    tile_property: str
    tile_form: str
    query: frozenset[str]
    page_size: int
    notes: str


@cache
def known_sources() -> dict[str, KnownSource]:
    """The catalogues that have a name, by it."""
    text = files("landpatch.catalog").joinpath("data/stac_sources.csv").read_text("utf-8")
    found = {}
    for row in read_table(text):
        tile_property, _, tile_form = row["tile_filter"].partition("=")
        found[row["name"]] = KnownSource(
            row["name"],
            row["url"],
            tuple(row["optical"].split()),
            tuple(row["radar"].split()),
            row["backscatter"],
            row["signing"],
            tile_property,
            tile_form,
            frozenset(row["query"].split()),
            int(row["page_size"]),
            row["notes"],
        )
    return found


@dataclass(slots=True)
class SceneSource:
    """A catalogue of scenes, opened.

    Answers are plain STAC items: absolute, unsigned hrefs and a ``self`` link; each (collection, id) once; in the
    order of time and id: the same every time. ``problems`` says which items could not be used, and why; it belongs
    to the last call.
    """

    name: str
    url: str
    patience: Patience
    known: KnownSource | None = None
    problems: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, name: str, *, patience: Patience | None = None) -> Self:
        """From a name in ``known_sources()``; the address of a STAC API or one of its collections; or the path or
        address (http, https, s3) of a static catalogue, an item collection (``.json``, ``.geojson``), items in lines
        (``.jsonl``) or a stac-geoparquet file (``.parquet``).

        Nothing is read yet. Raises InvalidParameter where there is no such file and no such name.
        """
        known = known_sources().get(name)
        if known is not None:
            return cls(name, known.url, patience or Patience(), known)
        if is_remote(name):
            if not urlsplit(name).netloc:
                raise InvalidParameter(f"{name!r} names no host")
            at = name.rstrip("/")
            same = [source for source in known_sources().values() if source.url == at]
            return cls(name, name, patience or Patience(), same[0] if same else None)
        path = local_path(name)
        if path.is_dir():
            inside = [path / file for file in _CATALOGUE_NAMES if (path / file).is_file()]
            if not inside:
                raise InvalidParameter(f"{name} is a folder without {' or '.join(_CATALOGUE_NAMES)}")
            path = inside[0]
        if not path.is_file():
            raise InvalidParameter(
                f"there is no source {name!r}: expected {', '.join(known_sources())}, the address of a STAC API, or "
                "a catalogue, an item collection or a stac-geoparquet file"
            )
        return cls(name, str(path), patience or Patience())

    def optical(self, query: OpticalQuery, *, progress: Progress | None = None) -> list[Item]:
        """The Sentinel-2 L2A scenes that answer ``query``. Raises SourceError rather than giving a part."""
        cloud = {} if query.max_cloud is None else {"eo:cloud_cover": {"lte": query.max_cloud * 100}}
        wanted = _Wanted(
            tuple(self.known.optical) if self.known else (),
            {name for source in known_sources().values() for name in source.optical},
            query.intervals(),
            query.area,
            query.area.search_geometry(),
            cloud,
        )
        return self._find(wanted, lambda item: _is_optical(item) and _answers(item, query), progress)

    def radar(self, query: RadarQuery, *, progress: Progress | None = None) -> list[Item]:
        """The Sentinel-1 scenes that answer ``query``. Raises SourceError rather than giving a part."""
        terms: dict[str, Any] = {"sar:instrument_mode": {"eq": "IW"}}
        if query.orbit_state is not None:
            terms["sat:orbit_state"] = {"eq": query.orbit_state}
        if query.relative_orbit is not None:
            terms["sat:relative_orbit"] = {"eq": query.relative_orbit}
        wanted = _Wanted(
            tuple(self.known.radar) if self.known else (),
            {name for source in known_sources().values() for name in source.radar},
            [(query.start, query.end)],
            None,
            query.geometry,
            terms,
        )
        return self._find(wanted, lambda item: _is_radar(item) and _answers_radar(item, query), progress)

    def _find(self, wanted: "_Wanted", fits: Callable[[Item], bool], progress: Progress | None) -> list[Item]:
        self.problems.clear()
        found: dict[tuple[str, str], Item] = {}
        shape = shapely.geometry.shape(wanted.geometry) if wanted.area is None or wanted.area.geometry else None
        for raw, here in self._read(wanted, progress or (lambda *_: None)):
            try:
                item = self._plain(raw, here)
                if wanted.collections and item.get("collection", wanted.collections[0]) not in wanted.collections:
                    continue
                moment = sensing_time(item)
                if not any(start <= moment <= end for start, end in wanted.intervals) or not fits(item):
                    continue
                if shape is not None and not touches(item.get("geometry"), shape):
                    continue
            except InvalidItem as error:
                self.problems.append(f"{here}: {error}")
                continue
            key = (str(item.get("collection")), item["id"])
            if key not in found or _newness(item) > _newness(found[key]):
                found[key] = item
        return sorted(found.values(), key=lambda item: (sensing_time(item), item["id"], str(item.get("collection"))))

    def _read(self, wanted: "_Wanted", progress: Progress) -> Iterator[tuple[Any, str]]:
        """Items as they come, with the href that theirs start from."""
        # pystac-client takes half a second to import, stac-geoparquet longer.
        from landpatch.catalog import stac_files
        from landpatch.catalog.stac_api import StacApi, pages_of, search_link

        suffix = Path(urlsplit(self.url).path if is_remote(self.url) else self.url).suffix.lower()
        reader = DocumentReader(self.url, self.patience)
        if suffix == ".parquet":
            bounds = shapely.geometry.shape(wanted.geometry).bounds
            yield from self._among(stac_files.read_parquet(self.url, wanted.intervals, bounds, progress))
            return
        first = DocumentReader(self.url, self.patience, most_bytes=_LARGEST_FILE)
        if suffix in (".jsonl", ".ndjson"):
            yield from self._among(stac_files.read_lines(first.content(self.url), self.url, self.problems))
            return
        document = first.json(self.url)
        if not isinstance(document, dict):
            raise UnusableDocument(f"{self.url} is no STAC document")
        kind = document.get("type")
        if kind == "Feature":
            yield document, self.url
        elif kind == "FeatureCollection":
            # On a server it may have further pages.
            http = urlsplit(self.url).scheme in ("http", "https")
            items = pages_of(self.url, first, progress) if http else stac_files.features(document, self.url)
            yield from self._among(items)
        elif search_link(document, self.url) is not None:
            yield from self._search(StacApi(self.url, document, reader), wanted, progress)
        elif (home := _home_of(document, self.url, reader)) is not None:
            only = replace(wanted, collections=(str(document.get("id")),))
            yield from self._search(StacApi(*home, reader), only, progress)
        else:
            for count, found in enumerate(stac_files.walk(document, self.url, reader, self.problems), 1):
                progress(count, 0)
                yield found

    def _among(self, items: Iterable[Any]) -> Iterator[tuple[Any, str]]:
        """Items of one file, each with its own address: the one it states, or its place in the file."""
        for item in items:
            stated = _stated_address(item)
            believed = is_remote(stated) or (stated.startswith(("/", "file:")) and not is_remote(self.url))
            yield item, stated if believed else f"{self.url}#{item.get('id') if isinstance(item, dict) else ''}"

    def _search(self, api: "StacApi", wanted: "_Wanted", progress: Progress) -> Iterator[tuple[Any, str]]:
        from landpatch.catalog.stac_api import ItemRequest

        known = self.known
        collections = wanted.collections or api.collections(sorted(wanted.usual))
        supported = known.query if known and api.has_query else frozenset()
        terms = {name: term for name, term in wanted.terms.items() if name in supported}
        places: list[tuple[Mapping[str, Any] | None, dict[str, Any]]] = [(wanted.geometry, terms)]
        if known and api.has_query and wanted.area is not None and known.tile_property:
            names = [_spellings(tile, known.tile_form) for tile in wanted.area.tiles]
            groups = [names[i : i + _TILES_A_REQUEST] for i in range(0, len(names), _TILES_A_REQUEST)]
            places = [
                (None, {**terms, known.tile_property: {"in": [name for pair in group for name in pair]}})
                for group in groups
            ]
        came, announced = 0, 0
        for start, end in wanted.intervals:
            for geometry, query in places:
                # The API specification knows whole seconds; the exact limits are looked at afterwards.
                late = end + timedelta(seconds=1) if end.microsecond else end
                request = ItemRequest(collections, start, late, geometry, query)
                before = (came, announced)

                def tell(now: int, total: int, before: tuple[int, int] = before) -> None:
                    nonlocal came, announced
                    came, announced = before[0] + now, before[1] + total
                    progress(came, announced)

                for item in api.items(request, known.page_size if known else 100, tell):
                    place = f"{api.url.rstrip('/')}/collections/{item.get('collection')}/items/{item.get('id')}"
                    stated = _stated_address(item)
                    yield item, stated if is_remote(stated) else place

    def _plain(self, raw: Any, here: str) -> Item:
        """An item with absolute, unsigned hrefs and a self link, which is ``here``. Raises InvalidItem."""
        if not isinstance(raw, dict) or raw.get("type", "Feature") != "Feature":
            raise InvalidItem(f"no STAC item but {orjson.dumps(raw, default=str)[:80].decode('utf-8', 'replace')}")
        identifier = raw.get("id")
        if not isinstance(identifier, str) or not identifier or "/" in identifier:
            raise InvalidItem(f"an item has the id {identifier!r}: it must be text without '/'")
        item = unsigned(with_absolute_hrefs(raw, here))
        if is_remote(self.url):
            for key, asset in list(item["assets"].items()):
                if not _leads_out(asset["href"]):
                    del item["assets"][key]
                    self.problems.append(
                        f"{here}: asset {key} points to {asset['href']}, a local file, which "
                        "a catalogue on the network cannot know; left out"
                    )
        kept = []
        for link in _links(raw):
            if link.get("rel") == "self":
                continue
            try:
                href = absolute_href(str(link["href"]), here)
            except ValueError:
                continue
            if not is_remote(self.url) or _leads_out(href):
                kept.append({**link, "href": href})
        return {**item, "links": [{"rel": "self", "href": here, "type": "application/geo+json"}, *kept]}


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A search, as any kind of source can take it: ``collections`` are certain, ``usual`` a guess at their names."""

    collections: tuple[str, ...]
    usual: set[str]
    intervals: list[tuple[datetime, datetime]]
    area: Area | None
    geometry: Mapping[str, Any]
    terms: Mapping[str, Mapping[str, Any]]


@lru_cache(maxsize=4)
def _outlines(tiles: tuple[str, ...]) -> shapely.Geometry:
    return shapely.geometry.shape(Area(tiles).search_geometry())


def _check_period(start: datetime, end: datetime) -> None:
    if start.tzinfo is None or end.tzinfo is None:
        raise InvalidParameter(f"{start} to {end}: times must say their zone (UTC)")
    if start > end:
        raise InvalidParameter(f"the period starts at {start:%Y-%m-%d} and ends before, at {end:%Y-%m-%d}")


def _answers(item: Item, query: OpticalQuery) -> bool:
    """Whether an optical item passes what a query limits; what it does not state passes."""
    tile = tile_of(item)
    if tile is None:
        # An area's own geometry is compared with every footprint, whatever the tile.
        if query.area.geometry is None and not touches(item.get("geometry"), _outlines(query.area.tiles)):
            return False
    elif tile not in query.area.tiles:
        return False
    properties = item["properties"]
    statistics = properties.get("statistics")
    stated = {**(statistics if isinstance(statistics, dict) else {}), **properties}
    nodata = _first(stated, "s2:nodata_pixel_percentage", "sentinel2:nodata_pixel_percentage", "nodata")
    if nodata is None and (data := _first(stated, "sentinel:data_coverage", "data_coverage")) is not None:
        nodata = 100 - data
    sun = _first(stated, "view:sun_elevation")
    if sun is None and (zenith := _first(stated, "s2:mean_solar_zenith")) is not None:
        sun = 90 - zenith
    baseline = processing_baseline(item)
    if baseline is not None and baseline >= 99:
        baseline = None
    cloud = _first(stated, "eo:cloud_cover")
    if properties.get("sentinel:valid_cloud_cover") is False:  # Earth Search v0 says so of its own number
        cloud = None
    return (
        _at_most(cloud, None if query.max_cloud is None else query.max_cloud * 100)
        and _at_most(nodata, None if query.max_nodata is None else query.max_nodata * 100)
        and _at_most(query.min_sun, sun)
        and _at_most(query.min_baseline, baseline)
        and _at_most(baseline, query.max_baseline)
    )


def _answers_radar(item: Item, query: RadarQuery) -> bool:
    properties = item["properties"]
    mode = properties.get("sar:instrument_mode")
    polarisations = properties.get("sar:polarizations")
    state, orbit = properties.get("sat:orbit_state"), _first(properties, "sat:relative_orbit")
    return (
        (mode is None or str(mode).upper() == "IW")
        and (not isinstance(polarisations, list) or {"VV", "VH"} <= {str(name).upper() for name in polarisations})
        and (query.orbit_state is None or state is None or str(state).lower() == query.orbit_state)
        and (query.relative_orbit is None or orbit is None or orbit == query.relative_orbit)
    )


def _is_optical(item: Item) -> bool:
    """Whether an item is Sentinel-2 at level 2A. What says nothing of its level is taken for it."""
    if not _is_of(item, "2"):
        return False
    properties = item["properties"]
    said = [item.get("collection"), properties.get("s2:product_type"), properties.get("product:type")]
    levels = " ".join(str(text).lower() for text in said)
    try:
        return scene_id(item).level == "MSIL2A"
    except InvalidItem:
        return "1c" not in levels and "mosaic" not in levels and not item["id"].endswith("L1C")


def _is_radar(item: Item) -> bool:
    """Whether an item is a Sentinel-1 scene, ground range or terrain-corrected: no SLC, no mosaic, no land cover."""
    properties = item["properties"]
    scene = item["id"][:3].upper() in ("S1A", "S1B", "S1C", "S1D") or any(
        key.startswith("sar:") for key in properties
    )
    if not scene or not _is_of(item, "1"):
        return False
    kind = str(properties.get("product:type") or properties.get("sar:product_type") or "GRD").upper()
    return "GRD" in kind or "RTC" in kind


def _is_of(item: Item, mission: str) -> bool:
    """Whether an item is of Sentinel-``mission``, by platform, constellation, id or collection."""
    properties = item["properties"]
    words = [properties.get("platform"), properties.get("constellation"), item.get("collection")]
    told = [str(word).lower().replace("_", "-") for word in words if word]
    return item["id"][:2].upper() == f"S{mission}" or any(
        word.startswith((f"sentinel-{mission}", f"sentinel{mission}", f"sentinel-s{mission}", f"s{mission}"))
        for word in told
    )


def _first(stated: Mapping[str, Any], *names: str) -> float | None:
    for name in names:
        try:
            number = float(stated[name])
        except (KeyError, TypeError, ValueError):
            continue
        if np.isfinite(number):
            return number
    return None


def _at_most(value: float | None, limit: float | None) -> bool:
    return value is None or limit is None or value <= limit


def _newness(item: Item) -> tuple[str, bytes]:
    """Orders versions of one item: by when it was last changed, then by content, so that one always wins."""
    properties = item["properties"]
    changed = properties.get("updated") or properties.get("created") or properties.get("published") or ""
    return str(changed), orjson.dumps(item, option=orjson.OPT_SORT_KEYS)


def _spellings(tile: str, form: str) -> list[str]:
    """A tile as catalogues write it: zones below 10 with or without the zero."""
    return sorted({form.format(tile), form.format(tile.removeprefix("0"))})


def _links(item: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    links = item.get("links")
    return [link for link in links if isinstance(link, dict) and link.get("href")] if isinstance(links, list) else []


def _stated_address(item: Any) -> str:
    """The href of an item's self link; empty where there is none."""
    links = _links(item) if isinstance(item, dict) else []
    return next((str(link["href"]) for link in links if link.get("rel") == "self"), "")


def _leads_out(href: str) -> bool:
    scheme = urlsplit(href).scheme.lower()
    return len(scheme) > 1 and scheme != "file"


def _home_of(document: Mapping[str, Any], url: str, reader: DocumentReader) -> tuple[str, Mapping[str, Any]] | None:
    """Address and landing page of the API that a collection is part of; None for a static one."""
    from landpatch.catalog.stac_api import search_link

    links = _links(document)
    served = is_remote(url) and any(link.get("rel") == "items" for link in links)
    if document.get("type") != "Collection" or not served:
        return None
    for link in links:
        if link.get("rel") == "root":
            home = urljoin(url, str(link["href"]))
            if urlsplit(home).hostname != urlsplit(url).hostname:
                continue
            try:
                landing = reader.json(home)
            except SourceError:
                return None
            if isinstance(landing, dict) and search_link(landing, home) is not None:
                return home, landing
    return None
