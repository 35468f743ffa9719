"""Splits of ground: what may share it, what must lie apart, held against distances measured pair by pair."""

import hashlib
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import Transformer

from landpatch.catalog.assignment import one_tile_each, split_areas, split_squares
from landpatch.catalog.errors import InvalidParameter
from landpatch.catalog.splits import NONE, SPLITS, LeftOut, Split, SplitRule, drawn, given_names
from landpatch.catalog.squares import Squares

TILES = ("32UQU", "33UUP", "33UVP")
REASONS = tuple(LeftOut)
TRAIN, VALIDATION, TEST = range(3)


def _whole_tiles(*tiles: str) -> Squares:
    ys, xs = np.divmod(np.arange(8281), 91)
    count = len(tiles)
    found, _ = Squares.of(tiles, np.repeat(np.arange(count), 8281), np.tile(xs, count), np.tile(ys, count))
    return found


def _in_zone_33(squares: Squares) -> NDArray[Any]:
    """The squares as polygons in UTM zone 33, by way of degrees and of nothing that is tested here."""
    found = []
    for tile, x, y in zip(squares.tile.tolist(), squares.x.tolist(), squares.y.tolist(), strict=True):
        grid = squares.grids[tile]
        west, south, east, north = grid.bounds(x, y)
        ring = np.array([[west, south], [east, south], [east, north], [west, north]], float)
        if grid.epsg != 32633:
            degrees = Transformer.from_crs(grid.epsg, 4326, always_xy=True).transform(*ring.T)
            ring = np.stack(Transformer.from_crs(4326, 32633, always_xy=True).transform(*degrees), axis=-1)
        found.append(shapely.Polygon(ring))
    return np.array(found)


@pytest.fixture(scope="module")
def ground() -> tuple[Squares, NDArray[Any]]:
    """Two pieces of 10 x 8 km that two tiles have each: of one zone, and of two; and the same as polygons."""
    squares = _whole_tiles(*TILES)
    longitude, latitude = squares.degrees()
    east, north = Transformer.from_crs(4326, 32633, always_xy=True).transform(longitude, latitude)
    near = np.zeros(len(squares), bool)
    for middle in (404_000, 306_000):
        near |= (np.abs(east - middle) < 5000) & (np.abs(north - 5_350_000) < 4000)
    chosen, _ = Squares.of(TILES, squares.tile[near], squares.x[near], squares.y[near])
    assert np.bincount(chosen.tile).tolist() == [56, 114, 56]
    return chosen, _in_zone_33(chosen)


def _some(squares: Squares, rows: NDArray[np.int64]) -> Squares:
    return Squares(squares.grids, squares.tile[rows], squares.x[rows], squares.y[rows])


RULES = st.one_of(
    st.builds(
        SplitRule,
        by=st.just("blocks"),
        block=st.sampled_from([1200, 2500, 3600, 60_000]),
        seed=st.integers(0, 99),
        shares=st.sampled_from([(2, 1, 1), (1, 1, 1), (0, 1, 0.5)]),
        buffer=st.sampled_from([0.0, 1.0, 60.0, 1200.0, 1201.0, 2400.0, 5000.0]),
    ),
    st.builds(SplitRule, by=st.just("tile"), seed=st.integers(0, 99), buffer=st.sampled_from([0.0, 700.0])),
    st.builds(SplitRule, buffer=st.sampled_from([0.0, 3000.0])),
)
ROWS = st.sets(st.integers(0, 225), min_size=2, max_size=80).map(lambda rows: np.array(sorted(rows)))


@settings(max_examples=60)
@given(ROWS, RULES)
def test_a_buffer_is_really_empty_and_costs_no_more_than_it_must(
    ground: tuple[Squares, NDArray[Any]], rows: NDArray[np.int64], rule: SplitRule
) -> None:
    assert rule.buffer is not None
    squares, polygons = _some(ground[0], rows), ground[1][rows]
    splits, reasons = split_squares(squares, rule, np.ones(len(squares), bool))
    ruled, _ = split_squares(squares, SplitRule(**{**_fields(rule), "buffer": None}), np.ones(len(squares), bool))

    assert (splits[splits != NONE] == ruled[splits != NONE]).all(), "a buffer leaves out, it moves nothing"
    assert {REASONS[reason] for reason in reasons[splits == NONE]} <= {LeftOut.BUFFER}
    apart = shapely.distance(polygons[:, None], polygons[None])
    shared = shapely.area(shapely.intersection(polygons[:, None], polygons[None]))
    # Metres of zone 32 and of zone 33 differ by up to 0.2 % there, and in whatever lies exactly a distance apart.
    tolerance = 0.1 + 0.002 * rule.buffer
    other = (splits[:, None] != splits[None]) & (splits[:, None] != NONE) & (splits[None] != NONE)
    assert (apart[other] >= rule.buffer - tolerance).all()
    assert (shared[other] < 1200 * 0.2).all()
    for row in np.flatnonzero(splits == NONE):
        # Test never gives way, train does to all that is kept, validation to test.
        assert ruled[row] != TEST
        near = (apart[row] < rule.buffer + tolerance) if rule.buffer else shared[row] > 0
        assert (near & (splits > ruled[row])).any()


def _fields(rule: SplitRule) -> dict[str, Any]:
    return {name: getattr(rule, name) for name in SplitRule.__slots__}


@settings(max_examples=60)
@given(ROWS, st.randoms(use_true_random=False))
def test_one_tile_of_each_ground_is_what_going_by_rank_gives(
    ground: tuple[Squares, NDArray[Any]], rows: NDArray[np.int64], random: Any
) -> None:
    squares, polygons = _some(ground[0], rows), ground[1][rows]
    clean = np.array([random.random() < 0.5 for _ in rows])
    kept = one_tile_each(squares, clean)

    shared = shapely.area(shapely.intersection(polygons[:, None], polygons[None])) > 100
    shared &= squares.tile[:, None] != squares.tile[None]
    taken = np.zeros(len(rows), bool)
    half = 54_900.0
    for row in sorted(
        range(len(rows)),
        key=lambda row: (
            not clean[row],
            np.hypot(1200 * (squares.x[row] + 0.5) - half, 1200 * (squares.y[row] + 0.5) - half),
            squares.tile[row],
            squares.x[row],
            squares.y[row],
        ),
    ):
        taken[row] = not (shared[row] & taken).any()
    assert kept.tolist() == taken.tolist()


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from(TILES), st.integers(0, 90), st.integers(0, 90)), min_size=1, max_size=40),
    st.randoms(use_true_random=False),
)
def test_places_are_the_same_in_any_order_and_on_any_date(places: list[tuple[str, int, int]], random: Any) -> None:
    def split(order: list[tuple[str, int, int]]) -> dict[tuple[str, int, int], int]:
        tiles = sorted({tile for tile, _, _ in order}, reverse=True)
        tile = np.array([tiles.index(name) for name, _, _ in order])
        xs, ys = np.array([x for _, x, _ in order]), np.array([y for _, _, y in order])
        squares, place_of = Squares.of(tiles, tile, xs, ys)
        rule = SplitRule("blocks", block=5000, buffer=2000, one_per_ground=True)
        splits, _ = split_squares(squares, rule, np.ones(len(squares), bool))
        return dict(zip(order, splits[place_of].tolist(), strict=True))

    shuffled = [*places, *places]
    random.shuffle(shuffled)
    assert split(shuffled) == split(places)


def test_blocks_lie_on_the_ground_whatever_tile_and_zone_it_is_seen_from() -> None:
    """The split of a block, from the published formula alone."""
    squares = _whole_tiles(*TILES, "19KCP")
    rule = SplitRule("blocks", block=7000, seed=5, shares=(3, 2, 1))
    splits, _ = split_squares(squares, rule, np.ones(len(squares), bool))
    longitude, latitude = squares.degrees()
    zones = set()
    for row in range(0, len(squares), 97):
        zone = int((longitude[row] + 180) // 6) + 1
        zones.add((squares.grids[squares.tile[row]].tile, zone))
        east, north = Transformer.from_crs(4326, 32600 + zone, always_xy=True).transform(
            longitude[row], latitude[row]
        )
        if min(east % 7000, north % 7000, -east % 7000, -north % 7000) < 0.001:
            continue  # on the border itself: which block it is, a rounding of PROJ's decides
        digest = hashlib.sha256(f"5:{zone}/{int(east // 7000)}/{int(north // 7000)}".encode()).digest()
        fraction = int.from_bytes(digest[:8], "big") / 2**64
        assert splits[row] == (TRAIN if fraction < 3 / 6 else VALIDATION if fraction < 5 / 6 else TEST)
    # Half of 32UQU lies beyond 12 degrees east, where zone 33 begins.
    assert {("32UQU", 32), ("32UQU", 33), ("33UUP", 33), ("19KCP", 19)} <= zones


def test_across_the_antimeridian_and_the_equator() -> None:
    """Zones 60 and 1 are neighbours, and a zone has one grid, north and south."""
    squares = _whole_tiles("60KZG", "01KAB")
    one, other = squares.sharing_ground()
    assert len(one)
    assert set(zip(one.tolist(), other.tolist(), strict=True)) == set(zip(other.tolist(), one.tolist(), strict=True))
    longitude, latitude = squares.degrees()
    turned = np.abs((longitude[one] - longitude[other] + 180) % 360 - 180)
    assert turned.max() < 0.02  # of degrees: a patch is 0.011 wide there
    assert np.abs(latitude[one] - latitude[other]).max() < 0.02

    equator = _whole_tiles("35NMA", "35MMV")
    assert {grid.epsg for grid in equator.grids} == {32635, 32735}
    one, other = equator.sharing_ground()
    east, north = equator.centres
    assert len(one)
    assert (np.abs(east[one] - east[other]) < 1200).all()
    assert (np.abs(north[one] - north[other]) < 1200).all()


def test_many_keys_come_out_in_their_shares() -> None:
    keys = [f"33/{number}/7" for number in range(20_000)]
    counts = np.bincount(drawn(keys, (2, 1, 1), 0), minlength=3)
    for found, share in zip(counts, (0.5, 0.25, 0.25), strict=True):
        assert abs(found - share * 20_000) < 4 * np.sqrt(20_000 * share * (1 - share))  # four standard deviations
    assert (drawn(keys, (2, 1, 1), 0) != drawn(keys, (2, 1, 1), 1)).mean() > 0.5
    assert set(drawn(keys, (0, 3, 0), 0)) == {VALIDATION}


def test_tiles_and_countries_go_where_they_are_told() -> None:
    squares = _whole_tiles("33UUP", "33UVP", "33UWP")
    rule = SplitRule("tile", given=given_names(["test=33UVP", "train= 33UUP"]))
    splits, reasons = split_squares(squares, rule, np.ones(len(squares), bool))
    assert [set(splits[squares.tile == tile]) for tile in range(3)] == [{TRAIN}, {TEST}, {NONE}]
    assert set(reasons[squares.tile == 2]) == {REASONS.index(LeftOut.NO_SPLIT)}

    countries = np.where(squares.tile == 0, "Austria", np.where(squares.tile == 1, None, "Ö"))
    splits, _ = split_squares(squares, SplitRule("country", given={"Ö": Split.VALIDATION}), squares.x >= 0, countries)
    assert [set(splits[squares.tile == tile]) for tile in range(3)] == [{NONE}, {NONE}, {VALIDATION}]
    splits, _ = split_squares(squares, SplitRule("country", seed=3), squares.x >= 0, countries)
    expected = drawn(["Austria", "Ö"], (2, 1, 1), 3)
    assert [set(splits[squares.tile == tile]) for tile in range(3)] == [{expected[0]}, {NONE}, {expected[1]}]


def test_a_patch_belongs_to_the_polygon_that_has_its_centre() -> None:
    squares = _whole_tiles("33UUP")
    longitude, latitude = squares.degrees()
    west, north = shapely.box(10, 40, 13, 60), shapely.box(10, 48.2, 20, 60)
    areas = split_areas([west, north], ["train", "val"])
    splits, reasons = split_squares(squares, SplitRule("polygons", areas=areas), squares.x >= 0)
    in_west, in_north = longitude < 13, latitude > 48.2
    assert (splits == np.select([in_west & ~in_north, in_north & ~in_west], [TRAIN, VALIDATION], NONE)).all()
    assert set(reasons[splits == NONE]) == {REASONS.index(LeftOut.NO_SPLIT)}  # in neither, or in both
    assert set(splits) == {TRAIN, VALIDATION, NONE}
    with pytest.raises(InvalidParameter, match="'nord'"):
        split_areas([west], ["nord"])


@given(RULES)
def test_a_rule_comes_back_from_its_document(rule: SplitRule) -> None:
    again = SplitRule.from_document(rule.to_document())
    assert again.to_document() == rule.to_document()


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"by": "colour"}, "position"),
        ({"shares": (0, 0, 0)}, "shares"),
        ({"shares": (1, -1, 1)}, "shares"),
        ({"shares": (1, 1)}, "shares"),
        ({"by": "blocks", "block": 600}, "patch"),
        ({"buffer": -1}, "buffer"),
        ({"buffer": float("nan")}, "buffer"),
        ({"by": "polygons"}, "polygons"),
        ({"by": "blocks", "given": {"a": Split.TEST}}, "names"),
    ],
)
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, Any], what: str) -> None:
    with pytest.raises(InvalidParameter, match=what):
        SplitRule(**wrong)


def test_documents_that_are_no_rule_are_refused() -> None:
    for document in ({"by": "tile", "given": {"33UUP": "dev"}}, {"by": "tile", "speed": 1}, {"by": "moon"}, []):
        with pytest.raises(InvalidParameter):
            SplitRule.from_document(document)  # type: ignore[arg-type]
    for words in (["dev=33UUP"], ["33UUP"], ["train=A", "test=A"]):
        with pytest.raises(InvalidParameter):
            given_names(words)


def test_the_order_of_splits_is_that_of_the_codes() -> None:
    assert SPLITS == (Split.TRAIN, Split.VALIDATION, Split.TEST)
