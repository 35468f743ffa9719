"""Which split and country each patch of a dataset gets, where the dataset has rules of its own for that.

    rules/split.json          how patches are split; absent: as the blocks wrote them, by position
    rules/countries.geojson   the boundaries by which patches get their country; absent: as the blocks wrote them

Parts stay as they are: compaction asks for the assignment of all patches together and writes it into the catalogue,
so that whatever is built into the dataset later follows the same rules.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from landpatch.catalog.countries import Countries
from landpatch.catalog.errors import InvalidDataset, InvalidParameter
from landpatch.catalog.items import SCHEMA
from landpatch.catalog.splits import NONE, SPLITS, LeftOut, Split, SplitRule, by_name, by_position, drawn
from landpatch.catalog.squares import Flags, Ints, Squares, between
from landpatch.catalog.store import NotFound, Storage

RULE = "rules/split.json"
COUNTRIES = "rules/countries.geojson"

NEEDED = (
    "id",
    "landpatch:tile",
    "landpatch:x",
    "landpatch:y",
    "landpatch:split",
    "landpatch:country",
    "landpatch:contains_seasonal_snow",
    "landpatch:contains_cloud_or_shadow",
)
"""The columns of ``items.parquet`` that an assignment is made from."""

_REASONS = tuple(LeftOut)
Codes = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Assignment:
    """Of each row of a table: ``splits``, indices of SPLITS or NONE; ``reasons``, indices of LeftOut where NONE, else
    -1; ``countries``. What no rule decides is None: it stays as the rows have it.
    """

    splits: Codes | None
    reasons: Codes | None
    countries: pa.Array | None

    @property
    def left_out(self) -> dict[str, int]:
        """Patches in no split, by reason."""
        reasons = () if self.reasons is None else self.reasons[self.reasons >= 0].tolist()
        return dict(sorted(Counter(str(_REASONS[reason]) for reason in reasons).items()))

    def into(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """The tables, whose rows together are those of the assignment, with its columns in place of theirs."""
        first = 0
        for table in tables:
            rows = slice(first, first + table.num_rows)
            first = rows.stop
            columns: dict[str, pa.Array] = {}
            if self.splits is not None:
                codes = pa.array(self.splits[rows], mask=self.splits[rows] == NONE)
                columns["landpatch:split"] = pa.array([str(split) for split in SPLITS]).take(codes)
                columns["ml-aoi:split"] = pa.array([split.ml_aoi for split in SPLITS]).take(codes)
            if self.countries is not None:
                columns["landpatch:country"] = self.countries[rows]
            for name, column in columns.items():
                if name in table.column_names:
                    table = table.set_column(table.column_names.index(name), SCHEMA.field(name), column)
            yield table


@dataclass(frozen=True, slots=True)
class Rules:
    """A dataset's own rules; ``state`` are their paths and digests."""

    split: SplitRule | None = None
    countries: Countries | None = None
    state: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, storage: Storage, paths: Sequence[str] = (RULE, COUNTRIES)) -> Self:
        """What is on storage, of ``paths``. Raises InvalidDataset where it cannot be understood."""
        found: dict[str, bytes] = {}
        for path in paths:
            try:
                found[path] = storage.get(path)
            except NotFound:
                continue
        try:
            return cls(
                SplitRule.from_document(orjson.loads(found[RULE])) if RULE in found else None,
                Countries.from_geojson(found[COUNTRIES]) if COUNTRIES in found else None,
                tuple((path, hashlib.sha256(data).hexdigest()) for path, data in found.items()),
            )
        except (AttributeError, KeyError, TypeError, ValueError, shapely.GEOSException) as error:
            raise InvalidDataset(
                f"{storage.url}/rules cannot be read ({error}); give the rule again with `landpatch split`, or the "
                "boundaries with `landpatch country`"
            ) from error

    def assign(self, table: pa.Table) -> Assignment:
        """The assignment of a table with the columns NEEDED; the order of its rows does not matter."""
        names = table.column("landpatch:tile").combine_chunks().dictionary_encode()
        squares, place_of = Squares.of(
            names.dictionary.to_pylist(),
            names.indices.to_numpy(),
            table.column("landpatch:x").to_numpy(),
            table.column("landpatch:y").to_numpy(),
        )
        nearest = None if self.countries is None else np.array(self.countries.nearest(squares), object)
        countries = None if nearest is None else pa.array(nearest[place_of], pa.string())
        if self.split is None:
            return Assignment(None, None, countries)
        if nearest is None and self.split.by == "country":
            nearest = np.empty(len(squares), object)
            nearest[place_of[::-1]] = table.column("landpatch:country").to_numpy()[::-1]
        clean = np.zeros(len(squares), bool)
        clean[place_of[~_flagged(table)]] = True
        splits, reasons = split_squares(squares, self.split, clean, nearest)
        return Assignment(splits[place_of], reasons[place_of], countries)

    def described(self, assignment: Assignment) -> dict[str, Any]:
        """What the collection says of them."""
        if self.split is None:
            return {}
        rule = self.split.to_document()
        if "areas" in rule:  # as large as the user's file
            rule["areas"] = RULE
        return {"landpatch:split_rule": rule, "landpatch:left_out": assignment.left_out}


def split_squares(
    squares: Squares, rule: SplitRule, clean: Flags, countries: NDArray[Any] | None = None
) -> tuple[Codes, Codes]:
    """The split of each square, an index of SPLITS or NONE, and why it has none, an index of LeftOut or -1.

    ``clean``: squares with at least one patch without snow, cloud or shadow; ``countries`` by square (None: unknown).
    """
    splits = _ruled(squares, rule, countries)
    reasons = np.full(len(squares), -1, np.int8)
    reasons[splits == NONE] = _REASONS.index(LeftOut.NO_SPLIT)
    if rule.one_per_ground:
        reasons[~one_tile_each(squares, clean)] = _REASONS.index(LeftOut.OVERLAP)
        splits[reasons >= 0] = NONE
    if rule.buffer is not None:
        train, validation, test = (SPLITS.index(split) for split in (Split.TRAIN, Split.VALIDATION, Split.TEST))
        # Who gives way: validation to test, then train to both. Test stays whole, and train, the largest, pays most.
        for low, high in ((validation, (test,)), (train, (validation, test))):
            near = squares.too_near(splits == low, np.isin(splits, high), rule.buffer)
            splits[near] = NONE
            reasons[near] = _REASONS.index(LeftOut.BUFFER)
    return splits, reasons


def one_tile_each(squares: Squares, clean: Flags) -> Flags:
    """Which squares are kept so that no ground is in two tiles.

    Of two that share ground the better one: with a clean patch before without, then nearer to the centre of its tile,
    then by tile, x and y. A square gives way only to one that is kept.
    """
    order = np.lexsort((squares.y, squares.x, squares.tile, squares.off_centre, ~clean))
    rank = np.empty(len(squares), np.int64)
    rank[order] = np.arange(len(squares))
    one, other = squares.sharing_ground()
    kept = np.ones(len(squares), bool)
    while len(one):
        beaten = np.zeros(len(squares), bool)
        beaten[one[rank[other] < rank[one]]] = True
        out = np.zeros(len(squares), bool)
        out[one[~beaten[other]]] = True  # beside one that nobody undecided beats, which is kept
        kept[out] = False
        undecided = ~out & beaten
        rest = undecided[one] & undecided[other]
        one, other = one[rest], other[rest]
    return kept


def _ruled(squares: Squares, rule: SplitRule, countries: NDArray[Any] | None) -> Codes:
    """What the rule alone says."""
    if rule.by == "blocks":
        blocks, block_of = np.unique(_blocks(squares, rule.block), axis=0, return_inverse=True)
        keys = [f"{zone}/{column}/{row}" for zone, column, row in blocks.tolist()]
        return drawn(keys, rule.shares, rule.seed)[block_of]
    if rule.by == "tile":
        return by_name([grid.tile for grid in squares.grids], rule)[squares.tile]
    if rule.by == "country":
        known = np.full(len(squares), None, object) if countries is None else countries
        names = sorted({name for name in known if name is not None})
        number = {name: code for code, name in enumerate([*names, None])}
        return by_name([*names, None], rule)[[number[name] for name in known]]
    if rule.by == "polygons" and rule.areas is not None:
        return _in_areas(squares, rule.areas)
    return by_position(squares.x, squares.y)


def _blocks(squares: Squares, size: int) -> Ints:
    """Zone, column and row of the block that holds the centre of each square, shape (n, 3).

    The zone is that of the ground, not of the tile: tiles of two zones that share ground share its blocks.
    """
    east, north = (values.copy() for values in squares.centres)
    own = squares.zone
    zones = _zone_of_ground(*squares.degrees())
    for zone, other in np.unique(np.stack([own, zones])[:, own != zones], axis=1).T.tolist():
        here = (own == zone) & (zones == other)
        east[here], north[here] = between(zone, other).transform(east[here], north[here])
    return np.stack([zones, east // size, north // size], axis=1).astype(np.int64)


def _zone_of_ground(longitude: NDArray[np.float64], latitude: NDArray[np.float64]) -> Ints:
    """UTM zone 1..60: six degrees each, but for south-west Norway and Svalbard (NGA.STND.0037)."""
    zones = (np.floor(longitude / 6).astype(np.int64) + 30) % 60 + 1
    zones[(latitude >= 56) & (latitude < 64) & (longitude >= 3) & (longitude < 12)] = 32
    north = (latitude >= 72) & (latitude < 84)
    for zone, west, east in ((31, 0, 9), (33, 9, 21), (35, 21, 33), (37, 33, 42)):
        zones[north & (longitude >= west) & (longitude < east)] = zone
    return zones


def _in_areas(squares: Squares, areas: Mapping[str, Any]) -> Codes:
    """The split of the polygons that hold the centre; NONE in no polygon, and in polygons of several splits."""
    shapes = shapely.from_geojson([orjson.dumps(feature["geometry"]) for feature in areas["features"]])
    words = [feature["properties"]["split"] for feature in areas["features"]]
    area, inside = shapely.STRtree(shapely.points(*squares.degrees())).query(shapes, predicate="intersects")
    claims = np.zeros((len(squares), len(SPLITS)), bool)
    claims[inside, np.array([SPLITS.index(word) for word in words])[area]] = True
    return np.where(claims.sum(axis=1) == 1, claims.argmax(axis=1), NONE).astype(np.int8)


def _flagged(table: pa.Table) -> Flags:
    flags = [pc.fill_null(table.column(f"landpatch:contains_{what}"), False) for what in _FLAGS]
    return np.asarray(pc.or_(*flags).to_numpy(), bool)


_FLAGS = ("seasonal_snow", "cloud_or_shadow")


def split_areas(shapes: list[shapely.Geometry], words: list[str]) -> dict[str, Any]:
    """Polygons and the splits that they name (``validate`` and ``val`` are validation) as SplitRule wants them.

    Raises InvalidParameter for a word that is no split.
    """
    features = []
    for shape, word in zip(shapes, words, strict=True):
        split = {"val": "validation", "validate": "validation"}.get(word, word)
        if split not in SPLITS:
            raise InvalidParameter(f"a polygon's split is {word!r}: expected one of {', '.join(SPLITS)}")
        geometry = orjson.loads(shapely.to_geojson(shape))
        features.append({"type": "Feature", "properties": {"split": split}, "geometry": geometry})
    return {"type": "FeatureCollection", "features": features}
