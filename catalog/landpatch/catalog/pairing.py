"""Which Sentinel-1 scenes belong to a Sentinel-2 scene: the nearest in time that together cover it.

Works on the items' JSON alone. The rule is BigEarthNet's ("for each patch the scene closest in time", at most 138 h
apart in its tables), made for whole scenes: passes are taken nearest in time first, and only those that add ground
which no nearer one covers. The tile worker then takes, patch by patch, the nearest of them that covers it wholly.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import orjson
import shapely

from landpatch.catalog.errors import InvalidItem, InvalidParameter
from landpatch.catalog.footprints import footprint, tile_square
from landpatch.catalog.scenes import dual_pol_name, is_terrain_corrected, scene_id, sensing_time

Item = Mapping[str, Any]
OrbitState = Literal["ascending", "descending"]

MAX_GAP_HOURS = 138.0
"""The largest gap in the published tables of BigEarthNet v2.0 is 137.8 h."""

# Share of the ground asked for: 8 of a tile's 8281 patches. Footprints are drawn with four to fifteen corners, and
# slices of one pass are drawn each for itself: what is less is their drawing.
_NOTICED = 0.001
PASS_SECONDS = 120.0
"""Scenes of one pass follow each other every 25 s, and a satellite is not back within 98 minutes."""


@dataclass(frozen=True, slots=True)
class PairingLimits:
    """``max_gap_hours`` between both sensors, either way; S1's direction and relative orbit (1..175), where fixed."""

    max_gap_hours: float = MAX_GAP_HOURS
    orbit_state: OrbitState | None = None
    relative_orbit: int | None = None

    def __post_init__(self) -> None:
        if not self.max_gap_hours >= 0:
            raise InvalidParameter(f"the largest gap must be 0 hours or more, not {self.max_gap_hours}")


@dataclass(frozen=True, slots=True)
class Partner:
    """One Sentinel-1 scene of a pair: ``gap_hours`` after the Sentinel-2 scene (negative: before), ``adds`` the share
    0..1 of the ground asked for that no nearer scene covers.
    """

    item: Item
    gap_hours: float
    adds: float


@dataclass(frozen=True, slots=True)
class Pairing:
    """What was found for one Sentinel-2 item: ``partners`` nearest pass first, ``covered`` the share of its ground
    that they cover together. ``rejected`` says for each other Sentinel-1 item why it was not taken, by item id.
    """

    optical: Item
    tile: str
    partners: tuple[Partner, ...]
    covered: float
    rejected: Mapping[str, str]

    @property
    def whole(self) -> bool:
        """Whether Sentinel-1 covers all of it, as exactly as footprints are drawn (to 0.1 %)."""
        return self.covered >= 1 - _NOTICED

    @property
    def gap_hours(self) -> float | None:
        """The largest gap of its scenes, without sign; None where there are none."""
        return max((abs(partner.gap_hours) for partner in self.partners), default=None)


@dataclass(frozen=True, slots=True)
class _Pass:
    """What one satellite saw of the tile in one flight over it, slices nearest in time first."""

    slices: Sequence[tuple[float, Item, shapely.Geometry]]

    @property
    def rank(self) -> tuple[float, float, str]:
        gap, item, _ = self.slices[0]
        return abs(gap), gap, str(item["id"])


def pair(optical: Item, radars: Iterable[Item], limits: PairingLimits | None = None) -> Pairing:
    """The Sentinel-1 items of ``radars`` that belong to ``optical``.

    The ground asked for is the data footprint of ``optical`` within its tile (the whole tile where the item has no
    geometry). A pass is within the limit if one of its slices is. Of the same acquisition as RTC and as GRD the RTC
    is taken. The answer does not depend on the order of ``radars``; one that cannot be used is in ``rejected``.

    Raises InvalidItem, InvalidName where ``optical`` is no Sentinel-2 item of a tile that exists.
    """
    limits = limits or PairingLimits()
    tile = scene_id(optical).tile
    sensed = sensing_time(optical)
    ground = _ground(optical, tile)
    rejected: dict[str, str] = {}
    usable = []
    for item in _one_per_acquisition(radars, rejected):
        try:
            shape = footprint(item, tile)
        except InvalidItem as error:
            rejected[str(item["id"])] = _reason(error, item)
            continue
        other = _other_orbit(item, limits)
        if other:
            rejected[str(item["id"])] = other
        elif shapely.intersection(shape, ground).area <= _NOTICED * ground.area:
            rejected[str(item["id"])] = f"covers nothing of what {optical['id']} shows of tile {tile}"
        else:
            usable.append((item, shape))
    partners: list[Partner] = []
    left = ground
    for flight in sorted(_passes(usable, sensed), key=lambda flight: flight.rank):
        for gap, item, shape in flight.slices:
            if flight.rank[0] > limits.max_gap_hours:
                rejected[str(item["id"])] = f"{_hours(gap)}, over the limit of {limits.max_gap_hours:g} h"
                continue
            rest = shapely.difference(left, shape)
            adds = (left.area - rest.area) / ground.area
            if adds <= _NOTICED:
                rejected[str(item["id"])] = f"{_hours(gap)}; adds no ground to scenes that are nearer in time"
                continue
            partners.append(Partner(item, gap, adds))
            left = rest
    covered = 1 - left.area / ground.area
    return Pairing(optical, tile, tuple(partners), covered, dict(sorted(rejected.items())))


def _ground(optical: Item, tile: str) -> shapely.Geometry:
    outline = tile_square(tile)
    try:
        shown = shapely.intersection(footprint(optical, tile), outline)
    except InvalidItem:
        return outline
    return shown if shown.area > 0 else outline


def _one_per_acquisition(radars: Iterable[Item], rejected: dict[str, str]) -> list[Item]:
    """The dual-pol IW items, one for each platform and start time; of several the RTC, then the one made last."""
    acquisitions: dict[tuple[str, datetime], list[Item]] = defaultdict(list)
    for item in radars:
        try:
            name = dual_pol_name(item)
            sensing_time(item)
        except InvalidItem as error:
            rejected[str(item.get("id", "?"))] = _reason(error, item)
        else:
            acquisitions[name.platform, name.start].append(item)
    taken = []
    for same in acquisitions.values():
        first = max(same, key=_best_processing)
        taken.append(first)
        better = "is terrain-corrected" if is_terrain_corrected(first) else "was made later"
        for other in same:
            if other["id"] != first["id"]:
                rejected[str(other["id"])] = f"same acquisition as {first['id']}, which {better}"
    return taken


def _best_processing(item: Item) -> tuple[bool, str, str, bytes]:
    properties = item["properties"]
    made = properties.get("s1:processing_datetime") or properties.get("processing:datetime") or ""
    return is_terrain_corrected(item), str(made), str(item["id"]), orjson.dumps(item, option=orjson.OPT_SORT_KEYS)


def _passes(usable: Sequence[tuple[Item, shapely.Geometry]], sensed: datetime) -> list[_Pass]:
    """Slices that one satellite took one after the other, put together."""
    flown = sorted(
        ((dual_pol_name(item).platform, sensing_time(item), str(item["id"]), item, shape) for item, shape in usable),
        key=lambda entry: entry[:3],
    )
    flights: list[list[tuple[float, Item, shapely.Geometry]]] = []
    last: tuple[str, datetime] | None = None
    for platform, when, _, item, shape in flown:
        near = last is not None and last[0] == platform and when - last[1] <= timedelta(seconds=PASS_SECONDS)
        if not near:
            flights.append([])
        flights[-1].append(((when - sensed) / timedelta(hours=1), item, shape))
        last = platform, when
    return [_Pass(sorted(flight, key=lambda entry: (abs(entry[0]), entry[0], entry[1]["id"]))) for flight in flights]


def _other_orbit(item: Item, limits: PairingLimits) -> str | None:
    """Why the item's orbit is not the one that was asked for; None where it is."""
    properties = item["properties"]
    state = properties.get("sat:orbit_state")
    if limits.orbit_state is not None and str(state).lower() != limits.orbit_state:
        return f"its orbit is {state or 'not stated'}, not {limits.orbit_state}"
    number = properties.get("sat:relative_orbit")
    if limits.relative_orbit is not None and str(number) != str(limits.relative_orbit):
        return f"its relative orbit is {'not stated' if number is None else number}, not {limits.relative_orbit}"
    return None


def _hours(gap: float) -> str:
    return f"{abs(gap):.1f} h {'before' if gap < 0 else 'after'}"


def _reason(error: InvalidItem, item: Item) -> str:
    return str(error).removeprefix(f"item {item.get('id')}: ")
