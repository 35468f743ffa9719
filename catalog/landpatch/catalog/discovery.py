"""From a question (where, when, how good) to a scene list: search Sentinel-2, choose, search Sentinel-1, pair.

Tiles are worked on a few at a time, so that memory does not grow with the area: only the chosen items are kept, and
of the others their verdicts. Limits on cloud, nodata, sun and baseline are applied by the choice, not by the
catalogue: what is rejected is rejected with a reason, and of one acquisition the newest processing decides, also
where an older one stated less cloud.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from landpatch.catalog.areas import Area
from landpatch.catalog.choice import Choice, Per, Preference, Verdict, choose
from landpatch.catalog.errors import Incomplete, InvalidParameter, LandpatchError, NothingFound
from landpatch.catalog.names import parse_tile
from landpatch.catalog.pairing import PASS_SECONDS, Pairing, PairingLimits, pair
from landpatch.catalog.scene_list import scene_list
from landpatch.catalog.scenes import sensing_time, tile_of
from landpatch.catalog.seasons import SEASONS
from landpatch.catalog.stac_sources import OpticalQuery, RadarQuery, SceneSource

Item = Mapping[str, Any]

_TILES_AT_A_TIME = 8  # a year of Sentinel-2 over 8 tiles is about 1,200 items, 0.3 GB as Python objects


@dataclass(frozen=True, slots=True)
class Missing:
    """A tile and period for which nothing was chosen, and why."""

    tile: str
    period: str
    reason: str


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found: a verdict on every Sentinel-2 item, a pairing for every chosen one, and what is missing.

    ``problems`` are what the sources could not use. ``with_radar`` is False where Sentinel-1 was not asked for;
    ``record`` says what was asked, JSON-ready.
    """

    verdicts: tuple[Verdict, ...]
    pairings: tuple[Pairing, ...]
    missing: tuple[Missing, ...]
    problems: tuple[str, ...]
    with_radar: bool
    record: Mapping[str, Any]

    @property
    def unpaired(self) -> list[Pairing]:
        """Chosen scenes for which there is no Sentinel-1 scene at all."""
        return [pairing for pairing in self.pairings if self.with_radar and not pairing.partners]

    @property
    def partly_paired(self) -> list[Pairing]:
        """Chosen scenes with ground that no Sentinel-1 scene covers; patches there will be dropped as NO_S1."""
        return [pairing for pairing in self.pairings if pairing.partners and not pairing.whole]

    def document(self) -> dict[str, Any]:
        """The scene list. Raises InvalidItem where two items of different content have one id."""
        chosen = sum(verdict.chosen for verdict in self.verdicts)
        summary = {
            "verdicts": {"chosen": chosen, "rejected": len(self.verdicts) - chosen},
            "missing": [{"tile": m.tile, "period": m.period, "reason": m.reason} for m in self.missing],
            "uncovered": {
                str(pairing.optical["id"]): round(1 - pairing.covered, 4)
                for pairing in (*self.unpaired, *self.partly_paired)
            },
        }
        return scene_list(self.pairings, {**self.record, **summary})

    def rows(self, *, rejected: bool = False) -> Iterator[dict[str, Any]]:
        """One JSON-ready row a chosen scene (and a rejected one), in the order of the verdicts.

        Shares are 0..1; the ``s1`` fields are None for rejected scenes and where Sentinel-1 was not asked for.
        """
        by_id = {str(pairing.optical["id"]): pairing for pairing in self.pairings}
        for verdict in self.verdicts:
            if not (verdict.chosen or rejected):
                continue
            pairing = by_id.get(verdict.item_id) if verdict.chosen and self.with_radar else None
            yield {
                "tile": verdict.tile,
                "period": verdict.period,
                "item": verdict.item_id,
                "sensed": None if verdict.sensed is None else _iso(verdict.sensed),
                "chosen": verdict.chosen,
                "score": _rounded(verdict.score),
                "parts": {name: _rounded(value) for name, value in verdict.parts.items()},
                "cloud": _rounded(verdict.look.cloud),
                "coverage": _rounded(verdict.look.coverage),
                "baseline": None if verdict.baseline is None else f"{verdict.baseline:05.2f}",
                "s1": None if pairing is None else [str(partner.item["id"]) for partner in pairing.partners],
                "s1_gap_hours": None if pairing is None else _rounded(pairing.gap_hours, 1),
                "s1_coverage": None if pairing is None else _rounded(pairing.covered),
                "reasons": list(verdict.reasons),
            }

    def table(self, *, rejected: bool = False) -> Iterator[str]:
        """``rows`` as lines of text under a heading, for people."""
        rows = list(self.rows(rejected=rejected))
        if not rows:
            return
        width = max(len(row["item"]) for row in rows)
        yield f"tile   period    {'item':{width}}  score  cloud  cover  basel  S1  gap h  cover  why"
        for row in rows:
            cells = [
                f"{row['tile'] or '?':5}",
                f"{row['period'] or '?':8}",
                f"{row['item']:{width}}",
                _cell(row["score"], ".2f"),
                _cell(row["cloud"], ".0%"),
                _cell(row["coverage"], ".0%"),
                f"{row['baseline'] or '-':>5}",
                f"{'-' if row['s1'] is None else len(row['s1']):>2}",
                _cell(row["s1_gap_hours"], ".1f"),
                _cell(row["s1_coverage"], ".0%"),
                ("chosen: " if row["chosen"] else "") + "; ".join(row["reasons"]),
            ]
            yield "  ".join(cells)

    def shortfalls(self) -> Iterator[str]:
        """A sentence for everything that could not be used, is missing, or is there in part."""
        yield from self.problems
        for missing in self.missing:
            yield missing.reason
        for pairing in (*self.unpaired, *self.partly_paired):
            gap = "" if pairing.gap_hours is None else f", up to {pairing.gap_hours:.1f} h apart"
            yield (
                f"Sentinel-1 covers {pairing.covered:.1%} of {pairing.optical['id']}{gap}; patches outside it are "
                "dropped as NO_S1 unless built with --s2-only"
            )

    def error(self) -> LandpatchError | None:
        """NothingFound where nothing was chosen; Incomplete where a tile and period has no scene, or a chosen scene
        no Sentinel-1 scene; None where there is all that was asked for.
        """
        if not self.pairings:
            first = self.missing[0].reason if self.missing else "no tile was asked for"
            return NothingFound(f"no scene was chosen from {len(self.verdicts)} found: {first}")
        lacking = []
        if self.missing:
            reason = _first(missing.reason for missing in self.missing)
            lacking.append(f"{len(self.missing)} time(s) a tile has no scene in a period ({reason})")
        if self.unpaired:
            named = _first(str(pairing.optical["id"]) for pairing in self.unpaired)
            lacking.append(f"{len(self.unpaired)} scene(s) have no Sentinel-1 scene within the limits ({named})")
        return Incomplete("; ".join(lacking) + "; the others are complete") if lacking else None


def discover(
    source: SceneSource,
    query: OpticalQuery,
    *,
    radar_source: SceneSource | None = None,
    preference: Preference | None = None,
    limits: PairingLimits | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Discovery:
    """Find, choose and pair scenes for the tiles of ``query``; without ``radar_source`` Sentinel-2 alone.

    Limits of ``query`` on cloud, nodata, sun and baseline are not used: they stand in ``preference``. ``progress`` is
    told how many of the tiles are done. Raises InvalidParameter where no month of the query lies in its range, and
    what the sources raise (a page that cannot be had ends the search).
    """
    preference = preference or Preference()
    limits = limits or PairingLimits()
    tiles = query.area.tiles
    verdicts: dict[tuple[str | None, str], Verdict] = {}
    pairings: list[Pairing] = []
    missing: list[Missing] = []
    problems: dict[str, None] = {}
    periods = preference.per.within(query.start, query.end, query.months or range(1, 13))
    if not periods:
        raise InvalidParameter(
            f"none of the months {', '.join(map(str, sorted(query.months)))} lies between {query.start:%Y-%m-%d} and "
            f"{query.end:%Y-%m-%d}"
        )
    progress(0, len(tiles))
    for start in range(0, len(tiles), _TILES_AT_A_TIME):
        some = tiles[start : start + _TILES_AT_A_TIME]
        choice = _choose(source, query, some, preference)
        problems.update(dict.fromkeys(source.problems))
        verdicts.update({(verdict.tile, verdict.item_id): verdict for verdict in choice.verdicts})
        missing += _missing(choice, some, periods)
        for number, tile in enumerate(some, 1):
            chosen = [item for item in choice.chosen if tile_of(item) == tile]
            for item in chosen:
                near = [] if radar_source is None else radars_near(radar_source, item, tile, limits)
                pairings.append(pair(item, near, limits))
                problems.update(dict.fromkeys(radar_source.problems if radar_source else ()))
            progress(start + number, len(tiles))
    return Discovery(
        tuple(verdicts.values()),
        tuple(pairings),
        tuple(missing),
        tuple(problems),
        radar_source is not None,
        _record(query, preference, limits if radar_source is not None else None),
    )


def radars_near(source: SceneSource, optical: Item, tile: str, limits: PairingLimits) -> list[dict[str, Any]]:
    """The Sentinel-1 scenes of a source that may belong to a Sentinel-2 scene of ``tile``. Raises SourceError."""
    sensed = sensing_time(optical)
    reach = timedelta(hours=limits.max_gap_hours, seconds=PASS_SECONDS)
    return source.radar(
        RadarQuery(
            geometry=Area.from_tiles([tile]).search_geometry(),
            start=sensed - reach,
            end=sensed + reach,
            orbit_state=limits.orbit_state,
            relative_orbit=limits.relative_orbit,
        )
    )


def season_months(season: str, tiles: Iterable[str]) -> frozenset[int]:
    """The months of ``winter``, ``spring``, ``summer`` or ``autumn`` where the tiles lie.

    Raises InvalidParameter for another word, and where tiles lie on both sides of the equator.
    """
    if season not in SEASONS:
        raise InvalidParameter(f"{season!r} is no season: say {', '.join(SEASONS)}")
    southern = {parse_tile(tile)[2] < "N" for tile in tiles}
    if len(southern) > 1:
        raise InvalidParameter(
            f"the tiles lie on both sides of the equator, where {season} is not the same: say months"
        )
    turn = 6 if southern == {True} else 0
    return frozenset((month + turn - 1) % 12 + 1 for month in SEASONS[season])


def _choose(source: SceneSource, query: OpticalQuery, tiles: tuple[str, ...], preference: Preference) -> Choice:
    searched = replace(
        query,
        area=Area.from_tiles(tiles),
        max_cloud=None,
        max_nodata=None,
        min_sun=None,
        min_baseline=None,
        max_baseline=None,
    )
    # Tiles overlap, so a search finds neighbours' scenes too: no verdict on what nobody asked for.
    found = [item for item in source.optical(searched) if tile_of(item) in (None, *tiles)]
    return choose(found, preference)


def _missing(choice: Choice, tiles: tuple[str, ...], periods: list[str]) -> Iterator[Missing]:
    judged: dict[tuple[str | None, str | None], list[Verdict]] = defaultdict(list)
    for verdict in choice.verdicts:
        judged[verdict.tile, verdict.period].append(verdict)
    for tile in tiles:
        for period in periods:
            found = judged[tile, period]
            if any(verdict.chosen for verdict in found):
                continue
            if not found:
                yield Missing(tile, period, f"no scene of tile {tile} was found{_in(period)}")
                continue
            # The verdicts come by rank: the first is the one that came nearest.
            nearest = found[0]
            yield Missing(
                tile,
                period,
                f"none of {len(found)} scene(s) of tile {tile} can be taken{_in(period)}; the nearest to it is "
                f"{nearest.item_id}: {nearest.reasons[0]}",
            )


def _record(query: OpticalQuery, preference: Preference, limits: PairingLimits | None) -> dict[str, Any]:
    """What was asked, for whoever reads the scene list later."""
    wanted = {
        "max_cloud": preference.max_cloud,
        "max_nodata": preference.max_nodata,
        "min_sun": preference.min_sun,
        "min_baseline": preference.min_baseline,
        "max_baseline": preference.max_baseline,
        "per": preference.per.value,
        "best": preference.best,
        "target": None if preference.target is None else str(preference.target),
        "half_life": preference.half_life if preference.target is not None else None,
    }
    asked: dict[str, Any] = {
        "tiles": list(query.area.tiles),
        "start": _iso(query.start),
        "end": _iso(query.end),
        "months": sorted(query.months) if query.months else None,
    }
    record = {
        "query": {name: value for name, value in asked.items() if value is not None},
        "preference": {name: value for name, value in wanted.items() if value is not None},
    }
    if limits is not None:
        bounds = {
            "max_gap_hours": limits.max_gap_hours,
            "orbit_state": limits.orbit_state,
            "relative_orbit": limits.relative_orbit,
        }
        record["pairing"] = {name: value for name, value in bounds.items() if value is not None}
    return record


def _first(reasons: Iterable[str]) -> str:
    first, *others = reasons
    return f"{first}, ..." if others else first


def _in(period: str) -> str:
    return "" if period == Per.RANGE.of(datetime.min) else f" in {period}"


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _cell(value: float | None, form: str) -> str:
    return f"{'-' if value is None else format(value, form):>5}"


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)
