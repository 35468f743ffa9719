"""Which Sentinel-2 scenes to take: for every tile and period the best, with a reason for each verdict.

Works on the items' JSON alone and depends on nothing but them: not on their order, not on the day. An acquisition is
looked at once, however often it was processed or is listed.

The score, 0..1, is the product of four parts, so that a part of 0 rules a scene out and parts can be compared:

* ``coverage``: share of the tile that has data (1 - nodata), stated or from the footprint;
* ``clear``: share of those pixels that show the ground: 1 - cloud - cloud shadow - snow, as far as stated;
* ``sun``: 1 from 30 degrees of sun elevation up, below in proportion to its sine (what a flat field receives),
  never under 0.5: shadows are long, but there is a picture;
* ``date``: halves with every ``half_life`` (60) days from the target date; 1 without one.

``coverage`` x ``clear`` is the share of the tile on which one sees ground, which is what a dataset is made from. What
an item does not state counts as half seen (coverage, clear) or as no matter (sun).
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any, Self

import orjson

from landpatch.catalog.errors import InvalidItem, InvalidName, InvalidParameter
from landpatch.catalog.footprints import covered_share, footprint, tile_square
from landpatch.catalog.names import SceneId, parse_tile
from landpatch.catalog.scenes import optical_scene, processing_baseline, scene_id, sensing_time, tile_of

Item = Mapping[str, Any]

_HIGH_SUN = 30.0  # degrees; mid-latitude winter lies below
_UNKNOWN = 0.5
_BY_HAND = 99.0  # baseline 99.99: sen2cor run by hand, which is no later processing than ESA's
_SEASONS = ("DJF", "MAM", "JJA", "SON")  # meteorological


class Per(StrEnum):
    """How long a period is of which the best scenes are taken."""

    RANGE = "range"
    """All dates together."""
    YEAR = "year"
    SEASON = "season"
    """Meteorological: 2018-DJF is December 2017 to February 2018."""
    MONTH = "month"

    def of(self, moment: datetime) -> str:
        """The period's name that a moment (UTC) lies in: ``all``, ``2017``, ``2017-JJA``, ``2017-06``."""
        match self:
            case Per.RANGE:
                return "all"
            case Per.YEAR:
                return f"{moment.year:04d}"
            case Per.SEASON:
                return f"{moment.year + (moment.month == 12):04d}-{_SEASONS[moment.month % 12 // 3]}"
            case Per.MONTH:
                return f"{moment.year:04d}-{moment.month:02d}"

    def within(self, start: datetime, end: datetime, months: Iterable[int] = range(1, 13)) -> list[str]:
        """The periods between two moments (both included) that have one of these months, in order of time."""
        wanted = frozenset(months)
        found: dict[str, None] = {}
        year, month = start.year, start.month
        while (year, month) <= (end.year, end.month):
            if month in wanted:
                found[self.of(datetime(year, month, 1, tzinfo=UTC))] = None
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)
        return list(found)


@dataclass(frozen=True, slots=True)
class TargetDate:
    """A date to be near to: one day (``2017-06-13``), or the day of every year (``06-13``; ``year`` is None)."""

    month: int
    day: int
    year: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``2017-06-13`` or ``06-13``. Raises InvalidParameter."""
        try:
            parsed = date.fromisoformat(text if len(text) > 5 else f"2000-{text}")  # 2000 has a 29 February
        except ValueError as error:
            raise InvalidParameter(
                f"{text!r} is no target date: expected 2017-06-13, or 06-13 for each year"
            ) from error
        return cls(parsed.month, parsed.day, parsed.year if len(text) > 5 else None)

    def __str__(self) -> str:
        day = f"{self.month:02d}-{self.day:02d}"
        return day if self.year is None else f"{self.year:04d}-{day}"

    def days_from(self, moment: datetime) -> int:
        """Days between the moment's day (UTC) and the target, of whichever year is nearest."""
        day = moment.astimezone(UTC).date()
        if self.year is not None:
            return abs((day - date(self.year, self.month, self.day)).days)
        return min(
            abs((day - self._in(year)).days) for year in (day.year - 1, day.year, day.year + 1) if 0 < year < 9999
        )

    def _in(self, year: int) -> date:
        if (self.month, self.day) == (2, 29):
            return date(year, 3, 1) - timedelta(days=1)
        return date(year, self.month, self.day)


@dataclass(frozen=True, slots=True)
class Preference:
    """What is wanted: hard limits, which period's best, how many, near which date.

    Shares are 0..1, ``min_sun`` degrees, baselines numbers (5.1 for 05.10). ``max_cloud`` is of the pixels with data,
    cloud alone; ``max_nodata`` of the whole tile. A limit on something that an item does not state is not met.
    """

    max_cloud: float | None = None
    max_nodata: float | None = None
    min_sun: float | None = None
    min_baseline: float | None = None
    max_baseline: float | None = None
    per: Per = Per.RANGE
    best: int = 1
    target: TargetDate | None = None
    half_life: float = 60.0

    def __post_init__(self) -> None:
        for name in ("max_cloud", "max_nodata"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InvalidParameter(f"{name} is a share between 0 and 1, not {value:g}")
        if self.best < 1:
            raise InvalidParameter(f"{self.best} scenes a period cannot be chosen: at least one")
        if not self.half_life > 0:
            raise InvalidParameter(
                f"the half-life of the date preference must be more than 0 days, not {self.half_life}"
            )


@dataclass(frozen=True, slots=True)
class Look:
    """What an item states of its scene: shares 0..1 (``coverage`` of the tile, the others of the pixels with data),
    ``sun`` elevation in degrees; None: not stated.
    """

    coverage: float | None
    cloud: float | None
    shadow: float | None
    snow: float | None
    sun: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided on one item, and why.

    ``tile``, ``period``, ``sensed`` and ``baseline`` are None where the item does not tell them, ``score`` and
    ``parts`` where it was not compared. ``reasons`` are sentences, the deciding one first.
    """

    item_id: str
    tile: str | None
    period: str | None
    sensed: datetime | None
    baseline: float | None
    look: Look
    score: float | None
    parts: Mapping[str, float]
    chosen: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """A verdict on every item, by tile, period and rank, and the items that were chosen, in the same order."""

    verdicts: tuple[Verdict, ...] = ()
    chosen: tuple[Item, ...] = ()


@dataclass(slots=True)
class _Candidate:
    item: Item
    item_id: str
    key: bytes
    tile: str | None = None
    period: str | None = None
    sensed: datetime | None = None
    baseline: float | None = None
    scene: SceneId | None = None
    look: Look = field(default_factory=lambda: Look(None, None, None, None, None))
    generated: str = ""
    parts: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def score(self) -> float | None:
        return math.prod(self.parts.values()) if self.parts else None

    def verdict(self, chosen: bool, *reasons: str) -> Verdict:
        return Verdict(
            self.item_id,
            self.tile,
            self.period,
            self.sensed,
            self.baseline,
            self.look,
            self.score,
            dict(self.parts),
            chosen,
            (*reasons, *self.faults),
        )


def choose(items: Iterable[Item], preference: Preference, tiles: Iterable[str] | None = None) -> Choice:
    """Judge every item; of each tile (of ``tiles``, where given) and period the ``best`` are chosen.

    An item that cannot be used (no product id, a band missing, unknown offset, failed quality indicator) is rejected
    with the reason, whatever else is wrong with it; nothing raises but InvalidName for ``tiles``.
    """
    wanted = None if tiles is None else frozenset(parse_tile(tile) for tile in tiles)
    candidates = sorted((_candidate(item, preference, wanted) for item in items), key=lambda c: (c.item_id, c.key))
    verdicts: list[tuple[_Candidate, Verdict]] = [(c, c.verdict(False)) for c in candidates if c.faults]
    acquisitions: dict[tuple[str, datetime, str], list[_Candidate]] = defaultdict(list)
    for candidate in candidates:
        if candidate.scene is not None and not candidate.faults:
            scene = candidate.scene
            acquisitions[scene.platform, scene.sensed, scene.tile].append(candidate)
    periods: dict[tuple[str, str], list[_Candidate]] = defaultdict(list)
    for same in acquisitions.values():
        first, *others = sorted(same, key=_newest, reverse=True)
        verdicts += [(other, other.verdict(False, _superseded(other, first))) for other in others]
        first.faults = _over_limits(first, preference)
        if first.faults:
            verdicts.append((first, first.verdict(False)))
        else:
            periods[str(first.tile), str(first.period)].append(first)
    for (_, period), rivals in periods.items():
        verdicts += _ranked(sorted(rivals, key=_rank), preference, period)
    verdicts.sort(key=_order)
    return Choice(tuple(v for _, v in verdicts), tuple(c.item for c, v in verdicts if v.chosen))


def look(item: Item, tile: str | None) -> Look:
    """What an item of any dialect states of its scene. Raises InvalidItem where it is no item."""
    properties = item.get("properties")
    if not isinstance(properties, Mapping):
        raise InvalidItem(f"item {item.get('id')} has no properties; is this file a STAC item?")
    statistics = properties.get("statistics")  # CDSE
    stated = {**(statistics if isinstance(statistics, Mapping) else {}), **properties}

    def share(*keys: str) -> float | None:
        value = next((number for key in keys if (number := _number(stated.get(key))) is not None), None)
        return None if value is None else min(max(value / 100, 0.0), 1.0)

    cloud = share("eo:cloud_cover")
    if properties.get("sentinel:valid_cloud_cover") is False:  # Earth Search v0 says so of its own number
        cloud = None
    nodata = share("s2:nodata_pixel_percentage", "sentinel2:nodata_pixel_percentage", "nodata")
    coverage = share("sentinel:data_coverage", "data_coverage") if nodata is None else 1 - nodata
    if coverage is None and tile is not None:
        try:
            coverage = covered_share(footprint(item, tile), tile_square(tile))
        except (InvalidItem, InvalidName):
            coverage = None
    sun = _number(stated.get("view:sun_elevation"))
    zenith = _number(stated.get("s2:mean_solar_zenith"))
    if sun is None and zenith is not None:
        sun = 90 - zenith
    return Look(
        coverage,
        cloud,
        share("s2:cloud_shadow_percentage", "sentinel2:cloud_shadow_percentage", "cloud_shadow"),
        share("s2:snow_ice_percentage", "sentinel2:snow_ice_percentage", "eo:snow_cover"),
        sun,
    )


def _candidate(item: Item, preference: Preference, wanted: frozenset[str] | None) -> _Candidate:
    """The item with all that can be known of it, and the faults for which it cannot be used at all."""
    candidate = _Candidate(
        item, str(item.get("id", "?")), orjson.dumps(item, option=orjson.OPT_SORT_KEYS, default=str)
    )

    def fault(error: Exception) -> None:
        text = str(error).removeprefix(f"item {candidate.item_id}: ")
        if text not in candidate.faults:
            candidate.faults.append(text)

    try:
        candidate.sensed = sensing_time(item)
        candidate.period = preference.per.of(candidate.sensed)
    except InvalidItem as error:
        fault(error)
    try:
        candidate.scene = scene_id(item)
        candidate.tile = candidate.scene.tile
        candidate.baseline = processing_baseline(item)
    except InvalidItem as error:
        fault(error)
        candidate.tile = tile_of(item)
    try:
        candidate.look = look(item, candidate.tile)
        failed = optical_scene(item).failed_quality
        candidate.faults += [f"its quality indicator {name.upper()} did not pass" for name in failed]
    except InvalidItem as error:
        fault(error)
    if wanted is not None and candidate.tile is not None and candidate.tile not in wanted:
        candidate.faults.insert(0, f"tile {candidate.tile} was not asked for")
    if candidate.baseline is not None:
        # Here and not among the limits: where it is too new, an older processing of the acquisition may be taken.
        if preference.min_baseline is not None and candidate.baseline < preference.min_baseline:
            candidate.faults.append(f"baseline {_two(candidate.baseline)} is below {_two(preference.min_baseline)}")
        if preference.max_baseline is not None and candidate.baseline > preference.max_baseline:
            candidate.faults.append(f"baseline {_two(candidate.baseline)} is above {_two(preference.max_baseline)}")
    candidate.generated = _generated(item)
    if not candidate.faults and candidate.sensed is not None:
        candidate.parts = _parts(candidate.look, candidate.sensed, preference)
    return candidate


def _parts(seen: Look, sensed: datetime, preference: Preference) -> dict[str, float]:
    clear = _UNKNOWN
    if seen.cloud is not None:
        clear = max(0.0, 1 - seen.cloud - (seen.shadow or 0) - (seen.snow or 0))
    sun = 1.0
    if seen.sun is not None:
        sun = min(max(math.sin(math.radians(seen.sun)) / math.sin(math.radians(_HIGH_SUN)), 0.5), 1.0)
    near = 1.0
    if preference.target is not None:
        near = 0.5 ** (preference.target.days_from(sensed) / preference.half_life)
    coverage = _UNKNOWN if seen.coverage is None else seen.coverage
    return {"coverage": coverage, "clear": clear, "sun": sun, "date": near}


def _over_limits(candidate: _Candidate, preference: Preference) -> list[str]:
    seen = candidate.look
    faults = []
    nodata = None if seen.coverage is None else 1 - seen.coverage
    for what, share, limit in (
        ("cloud", seen.cloud, preference.max_cloud),
        ("nodata", nodata, preference.max_nodata),
    ):
        if limit is not None and share is None:
            faults.append(f"{what} is not stated, so that the limit of {_percent(limit)} cannot be checked")
        elif limit is not None and share is not None and share > limit:
            faults.append(f"{what} {_percent(share, limit)} is over the limit of {_percent(limit)}")
    if preference.min_sun is not None:
        if seen.sun is None:
            faults.append(
                f"sun elevation is not stated, so that the limit of {preference.min_sun:g}° cannot be checked"
            )
        elif seen.sun < preference.min_sun:
            faults.append(f"the sun stood at {seen.sun:.1f}°, under the limit of {preference.min_sun:g}°")
    return faults


def _ranked(rivals: Sequence[_Candidate], preference: Preference, period: str) -> list[tuple[_Candidate, Verdict]]:
    when = "" if period == "all" else f" in {period}"
    verdicts = []
    for rank, rival in enumerate(rivals, 1):
        if rank <= preference.best:
            place = "the only one" if len(rivals) == 1 else f"number {rank} of {len(rivals)}"
            verdicts.append((rival, rival.verdict(True, f"{place}{when}: {_why(rival, preference)}")))
            continue
        last = rivals[preference.best - 1]
        verdicts.append(
            (
                rival,
                rival.verdict(
                    False,
                    f"number {rank} of {len(rivals)}{when}: {_why(rival, preference)}; behind {last.item_id} with a "
                    f"score of {last.score:.2f}",
                ),
            )
        )
    return verdicts


def _why(candidate: _Candidate, preference: Preference) -> str:
    """The score in words."""
    seen = candidate.look
    ground = candidate.parts["coverage"] * candidate.parts["clear"]
    told = [
        f"{name} {_percent(value)}"
        for name, value in (
            ("covered", seen.coverage),
            ("cloud", seen.cloud),
            ("shadow", seen.shadow),
            ("snow", seen.snow),
        )
        if value is not None and (name in ("covered", "cloud") or value >= 0.005)
    ]
    told += [
        f"{name} not stated" for name, value in (("coverage", seen.coverage), ("cloud", seen.cloud)) if value is None
    ]
    text = f"ground in sight on {_percent(ground)} of the tile ({', '.join(told)})"
    if seen.sun is not None and candidate.parts["sun"] < 1:
        text += f", sun at {seen.sun:.0f}°"
    if preference.target is not None and candidate.sensed is not None:
        text += f", {preference.target.days_from(candidate.sensed)} days from {preference.target}"
    return text


def _newest(candidate: _Candidate) -> tuple[bool, float, int, str, str, bytes]:
    """Of one acquisition the highest is taken: level 2A, the newest baseline, the fuller one, the later generation.

    Where a datatake was downlinked in two parts, a tile is listed twice, each time with a part of it: those differ in
    coverage, reprocessings do not.
    """
    assert candidate.scene is not None
    baseline = candidate.baseline if candidate.baseline is not None else -1.0
    return (
        candidate.scene.level == "MSIL2A",
        -1.0 if baseline >= _BY_HAND else baseline,
        round(100 * candidate.parts["coverage"]),
        candidate.generated,
        candidate.item_id,
        candidate.key,
    )


def _superseded(other: _Candidate, first: _Candidate) -> str:
    ours, theirs = _newest(other), _newest(first)
    assert first.scene is not None
    if ours[0] != theirs[0]:
        what = "is level 2A"
    elif ours[1] != theirs[1]:
        what = f"has the newer baseline {_two(first.baseline or 0)}"
        if (other.baseline or 0) >= _BY_HAND:
            what = f"has ESA's baseline {_two(first.baseline or 0)} (this one was processed by hand)"
    elif ours[2] != theirs[2]:
        what = f"covers more of the tile ({_percent(first.parts['coverage'])})"
    elif ours[3] != theirs[3]:
        what = f"was generated later ({first.generated})"
    elif ours[4] != theirs[4]:
        what = "is as good in every way (one of them has to be taken)"
    else:
        return "the same item is listed more than once"
    return f"same acquisition as {first.item_id}, which {what}"


def _rank(candidate: _Candidate) -> tuple[float, datetime, str, bytes]:
    assert candidate.sensed is not None
    return -(candidate.score or 0.0), candidate.sensed, candidate.item_id, candidate.key


def _order(judged: tuple[_Candidate, Verdict]) -> tuple[Any, ...]:
    candidate, verdict = judged
    # Compared ones first by score, then by time; those without tile or time at the end.
    return (
        verdict.tile or "~",
        _season_order(verdict),
        not verdict.chosen,
        bool(candidate.faults) or verdict.score is None,
        -(verdict.score or 0.0),
        verdict.sensed or datetime.max.replace(tzinfo=UTC),
        verdict.item_id,
        candidate.key,
    )


def _season_order(verdict: Verdict) -> str:
    """The period's name, such that names sort in order of time."""
    name = verdict.period or "~"
    for number, season in enumerate(_SEASONS):
        name = name.replace(season, str(number))
    return name


def _generated(item: Item) -> str:
    """When the product was made, as text that sorts: stated, or the last time in its product id; empty if unknown."""
    properties = item.get("properties")
    if not isinstance(properties, Mapping):
        return ""
    for key in ("s2:generation_time", "sentinel2:generation_time", "processing:datetime"):
        try:
            moment = datetime.fromisoformat(str(properties.get(key)))
        except ValueError:
            continue
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
    for key in ("s2:product_uri", "sentinel:product_id", "s2:product_id"):
        last = str(properties.get(key, "")).removesuffix(".SAFE").rpartition("_")[2]
        try:
            return f"{datetime.strptime(last, '%Y%m%dT%H%M%S'):%Y-%m-%dT%H:%M:%SZ}"
        except ValueError:
            continue
    return ""


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _two(baseline: float) -> str:
    return f"{baseline:05.2f}"


def _percent(share: float, against: float | None = None) -> str:
    """``83 %``, with as many digits as it takes to differ from ``against`` or from 0 and 100."""
    digits = 0
    while digits < 4 and (
        (against is not None and f"{100 * share:.{digits}f}" == f"{100 * against:.{digits}f}")
        or (0 < share < 1 and f"{100 * share:.{digits}f}" in ("0", "100", "0.0", "100.0"))
    ):
        digits += 1
    text = f"{100 * share:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} %"
