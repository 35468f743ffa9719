import json
import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod

from landpatch.catalog.errors import InvalidItem, InvalidParameter
from landpatch.catalog.footprints import covered_share, footprint, tile_square
from landpatch.catalog.pairing import MAX_GAP_HOURS, Pairing, PairingLimits, pair
from small_items import SENSED, optical_item, part_of_tile, radar_item

TILE = "33UUP"
WHOLE = part_of_tile(TILE, -1, -1, 2, 2)
WEST = part_of_tile(TILE, -1, -1, 0.6, 2)
EAST = part_of_tile(TILE, 0.5, -1, 2, 2)


def taken(pairing: Pairing) -> list[str]:
    return [str(partner.item["id"]) for partner in pairing.partners]


# --- the rule ----------------------------------------------------------------------------------------------------


def test_the_nearest_in_time_that_covers_the_tile_is_alone() -> None:
    near, far = radar_item(-17.2, WHOLE), radar_item(30, WHOLE, platform="S1B")
    pairing = pair(optical_item(), [far, near])
    assert taken(pairing) == [near["id"]]
    (partner,) = pairing.partners
    assert (round(partner.gap_hours, 2), partner.adds) == (-17.2, pytest.approx(1))
    assert pairing.whole
    assert (pairing.covered, pairing.gap_hours) == (pytest.approx(1), pytest.approx(17.2, abs=0.001))
    assert pairing.rejected == {far["id"]: "30.0 h after; adds no ground to scenes that are nearer in time"}


def test_scenes_are_added_in_time_order_only_while_they_add_ground() -> None:
    west, again, east, last = (
        radar_item(-5, WEST),
        radar_item(8, WEST, platform="S1B"),
        radar_item(12, EAST),
        radar_item(20, WHOLE, platform="S1B"),
    )
    pairing = pair(optical_item(), [last, east, again, west])
    assert taken(pairing) == [west["id"], east["id"]]
    assert [round(partner.adds, 3) for partner in pairing.partners] == [0.6, 0.4]
    assert pairing.whole
    assert set(pairing.rejected) == {again["id"], last["id"]}


def test_a_tile_without_a_full_pair_is_reported_with_what_is_covered() -> None:
    pairing = pair(optical_item(), [radar_item(-5, WEST)])
    assert (round(pairing.covered, 3), pairing.whole, pairing.gap_hours) == (0.6, False, 5)
    nothing = pair(optical_item(), [])
    assert (nothing.partners, nothing.covered, nothing.whole, nothing.gap_hours) == ((), 0, False, None)


def test_only_what_the_optical_scene_shows_must_be_covered() -> None:
    pairing = pair(
        optical_item(geometry=part_of_tile(TILE, 0, 0, 0.5, 1)), [radar_item(-5, WEST), radar_item(1, EAST)]
    )
    assert taken(pairing) == [radar_item(-5, WEST)["id"]]
    assert pairing.whole


def test_the_limit_counts_for_a_pass_not_for_each_slice() -> None:
    north, south = part_of_tile(TILE, -1, 0.5, 2, 2), part_of_tile(TILE, -1, -1, 2, 0.5)
    seconds = 25 / 3600
    first, second = radar_item(MAX_GAP_HOURS - seconds / 2, north), radar_item(MAX_GAP_HOURS + seconds / 2, south)
    assert len(pair(optical_item(), [first, second]).partners) == 2
    late = radar_item(MAX_GAP_HOURS + 1, WHOLE)
    pairing = pair(optical_item(), [late])
    assert pairing.rejected == {late["id"]: "139.0 h after, over the limit of 138 h"}
    assert pair(optical_item(), [late], PairingLimits(139.1)).whole


def test_slices_of_one_pass_belong_together() -> None:
    """Two passes 12 h before and after: slice by slice both would be mixed, for one second's sake."""
    north, south = part_of_tile(TILE, -1, 0.5, 2, 2), part_of_tile(TILE, -1, -1, 2, 0.5)
    seconds = 1 / 3600
    before = [radar_item(-12, north), radar_item(-12 - 25 * seconds, south)]
    after = [radar_item(12 + seconds, north, platform="S1B"), radar_item(12 + 20 * seconds, south, platform="S1B")]
    pairing = pair(optical_item(), [*after, *before])
    assert taken(pairing) == [item["id"] for item in before]


def test_orbit_direction_and_number_can_be_fixed() -> None:
    up = radar_item(-5, WHOLE, state="ascending", orbit=44)
    down = radar_item(-20, WHOLE, state="descending", orbit=95)
    assert taken(pair(optical_item(), [up, down])) == [up["id"]]
    pairing = pair(optical_item(), [up, down], PairingLimits(orbit_state="descending"))
    assert taken(pairing) == [down["id"]]
    assert pairing.rejected == {up["id"]: "its orbit is ascending, not descending"}
    pairing = pair(optical_item(), [up, down], PairingLimits(relative_orbit=95))
    assert pairing.rejected == {up["id"]: "its relative orbit is 44, not 95"}
    assert taken(
        pair(optical_item(), [{**down, "properties": {**down["properties"], "sat:orbit_state": "DESCENDING"}}])
    )
    with pytest.raises(InvalidParameter):
        PairingLimits(max_gap_hours=-1)


def test_of_the_same_acquisition_the_terrain_corrected_one_is_taken() -> None:
    rtc = radar_item(-5, WHOLE)
    grd = radar_item(-5, WHOLE, collection="sentinel-1-grd", suffix="20170613T051030_006024_00A9C5_E763")
    newer = radar_item(
        -5, WHOLE, collection="sentinel-1-grd", suffix="AAAA", s1__processing_datetime="2020-01-01T00:00:00Z"
    )
    pairing = pair(optical_item(), [grd, newer, rtc])
    assert taken(pairing) == [rtc["id"]]
    reason = f"same acquisition as {rtc['id']}, which is terrain-corrected"
    assert pairing.rejected == {grd["id"]: reason, newer["id"]: reason}
    pairing = pair(optical_item(), [grd, newer])
    assert pairing.rejected == {grd["id"]: f"same acquisition as {newer['id']}, which was made later"}


def test_items_that_cannot_be_paired_are_told_why() -> None:
    single = radar_item(-1, WHOLE)
    del single["assets"]["vh"]
    wide = radar_item(-2, WHOLE)
    wide["id"] = wide["id"].replace("_IW_", "_EW_")
    wide["properties"]["sar:instrument_mode"] = "EW"
    nowhere = radar_item(-3, None)
    elsewhere = radar_item(-4, part_of_tile(TILE, 3, 3, 4, 4))
    antipode = radar_item(-6, part_of_tile("01CCV", 0, 0, 1, 1))
    good = radar_item(-7, WHOLE)
    pairing = pair(optical_item(), [single, wide, nowhere, elsewhere, antipode, good])
    assert taken(pairing) == [good["id"]]
    assert pairing.rejected[single["id"]].startswith("no asset vh")
    assert pairing.rejected[wide["id"]].startswith("its mode is EW")
    assert "no GeoJSON" in pairing.rejected[nowhere["id"]]
    for item in (elsewhere, antipode):
        assert pairing.rejected[item["id"]] == f"covers nothing of what S2A_33UUP_20170613_0_L2A shows of tile {TILE}"


def test_an_optical_item_without_a_name_cannot_be_paired() -> None:
    item = optical_item()
    del item["properties"]["s2:product_uri"]
    with pytest.raises(InvalidItem, match="no Sentinel-2 product id"):
        pair(item, [])


# --- constellations of which the right answer is known -----------------------------------------------------------

CELLS = 12  # to a side of the tile; one is 0.7 % of it
Box = tuple[int, int, int, int]


def cells(box: Box) -> set[tuple[int, int]]:
    west, south, east, north = box
    return {(x, y) for x in range(CELLS) for y in range(CELLS) if west <= x < east and south <= y < north}


def drawn(box: Box, tile: str) -> dict[str, Any]:
    west, south, east, north = (edge / CELLS for edge in box)
    return part_of_tile(tile, west, south, east, north)


def boxes(least: int, most: int) -> st.SearchStrategy[Box]:
    edges = st.lists(st.integers(least, most), min_size=2, max_size=2, unique=True).map(sorted)
    return st.tuples(edges, edges).map(lambda pair: (pair[0][0], pair[1][0], pair[0][1], pair[1][1]))


passes = st.lists(
    st.tuples(st.integers(-160, 160).filter(bool), st.lists(boxes(-6, CELLS + 6), min_size=1, max_size=3)),
    max_size=5,
    unique_by=lambda flight: abs(flight[0]),
)


@settings(max_examples=60)
@given(
    passes,
    st.none() | boxes(0, CELLS),
    st.sampled_from([TILE, "01CCV", "60WXU", "20EPT", "35MNM"]),
    st.randoms(use_true_random=False),
)
def test_generated_constellations(
    flights: list[tuple[int, list[Box]]], shown: Box | None, tile: str, shuffler: random.Random
) -> None:
    ground = cells(shown or (0, 0, CELLS, CELLS))
    optical = optical_item(tile=tile, geometry=drawn(shown, tile) if shown else None)
    items, flown = [], []
    for number, (hours, slices) in enumerate(flights):
        flight = []
        for place, box in enumerate(slices):
            item = radar_item(hours + 25 * place / 3600, drawn(box, tile), platform="S1A" if number % 2 else "S1B")
            flight.append((item["id"], hours + 25 * place / 3600, cells(box) & ground))
            items.append(item)
        flown.append([entry for entry in flight if entry[2]])
    # By hand: passes by their nearest slice that shows any of the ground, slices of each by time.
    expected, left = [], set(ground)
    near = [sorted(flight, key=lambda entry: abs(entry[1])) for flight in flown if flight]
    for flight in sorted(near, key=lambda flight: abs(flight[0][1])):
        if abs(flight[0][1]) > MAX_GAP_HOURS:
            continue
        for identifier, gap, seen in flight:
            if seen & left:
                expected.append((identifier, gap, len(seen & left) / len(ground)))
                left -= seen
    shuffler.shuffle(items)
    pairing = pair(optical, items)
    found = [
        (str(p.item["id"]), pytest.approx(p.gap_hours, abs=1e-3), pytest.approx(p.adds, abs=2e-4))
        for p in pairing.partners
    ]
    assert expected == found
    assert pairing.covered == pytest.approx(1 - len(left) / len(ground), abs=5e-4)
    assert pairing.whole is not bool(left)
    assert {*taken(pairing), *pairing.rejected} == {item["id"] for item in items}


# --- footprints --------------------------------------------------------------------------------------------------


def cut_at_180(geometry: dict[str, Any]) -> dict[str, Any]:
    (ring,) = geometry["coordinates"]
    turned = shapely.Polygon([(x + 360 if x < 0 else x, y) for x, y in ring])
    east = shapely.intersection(turned, shapely.box(0, -90, 180, 90))
    west = shapely.transform(shapely.intersection(turned, shapely.box(180, -90, 360, 90)), lambda p: p - [360, 0])
    return dict(shapely.geometry.mapping(shapely.MultiPolygon([east, west])))


@pytest.mark.parametrize("tile", ["01WCR", "60WXU", "01KAB", "60WXD"])
def test_a_footprint_across_the_antimeridian_however_it_is_drawn(tile: str) -> None:
    jumping = part_of_tile(tile, -1, -1, 0.75, 2)
    longitudes = [x for x, _ in jumping["coordinates"][0]]
    assert min(longitudes) < -170
    assert max(longitudes) > 170
    beyond = {"type": "Polygon", "coordinates": [[(x % 360, y) for x, y in jumping["coordinates"][0]]]}
    for geometry in (jumping, beyond, cut_at_180(jumping)):
        shape = footprint({"id": "x", "geometry": geometry}, tile)
        assert covered_share(shape, tile_square(tile)) == pytest.approx(0.75, abs=1e-4)


def test_areas_are_of_the_ground() -> None:
    """Against the ellipsoid: UTM stretches lengths by 0.9996 to 1.001."""
    shape = footprint({"id": "x", "geometry": part_of_tile(TILE, 0.2, 0.3, 0.7, 0.9)}, TILE)
    ring = part_of_tile(TILE, 0.2, 0.3, 0.7, 0.9)["coordinates"][0]
    area, _ = Geod(ellps="WGS84").polygon_area_perimeter(*zip(*ring, strict=True))
    assert shape.area == pytest.approx(abs(area), rel=2e-3)
    assert shape.area == pytest.approx(0.5 * 0.6 * 109_800**2, rel=1e-4)


@pytest.mark.parametrize(
    "geometry",
    [
        None,
        {},
        "somewhere",
        {"type": "Point", "coordinates": [12, 48]},
        {"type": "Polygon", "coordinates": []},
        {"type": "Polygon", "coordinates": [[[12, 48], [13, 48]]]},
        {"type": "Polygon", "coordinates": [[[12, 48], [13, 48], [13, float("nan")], [12, 48]]]},
        {"type": "Blob", "coordinates": [[[12, 48], [13, 48], [13, 49], [12, 48]]]},
        {"type": "Polygon", "coordinates": "x"},
    ],
)
def test_what_is_no_footprint(geometry: Any) -> None:
    with pytest.raises(InvalidItem, match="item x: its geometry is no"):
        footprint({"id": "x", "geometry": geometry}, TILE)


def test_a_footprint_that_crosses_itself_is_mended() -> None:
    ring = part_of_tile(TILE, 0, 0, 1, 1)["coordinates"][0]
    corners = [ring[0], ring[50], ring[100], ring[150]]
    bow = {"type": "Polygon", "coordinates": [[corners[0], corners[2], corners[1], corners[3], corners[0]]]}
    assert covered_share(footprint({"id": "x", "geometry": bow}, TILE), tile_square(TILE)) == pytest.approx(
        0.5, abs=0.01
    )


def test_a_footprint_with_a_hole() -> None:
    outer = part_of_tile(TILE, 0, 0, 1, 1)["coordinates"][0]
    hole = part_of_tile(TILE, 0.25, 0.25, 0.75, 0.75)["coordinates"][0]
    shape = footprint({"id": "x", "geometry": {"type": "Polygon", "coordinates": [outer, hole]}}, TILE)
    assert covered_share(shape, tile_square(TILE)) == pytest.approx(0.75, abs=1e-4)


# --- real items --------------------------------------------------------------------------------------------------


def test_real_radar_items_over_the_tiles_that_they_show(shared_data: Path) -> None:
    with (shared_data / "stac-items/sentinel_items.jsonl").open(encoding="utf-8") as lines:
        items = [json.loads(line)["item"] for line in lines]
    radars = [item for item in items if str(item["collection"]).lower().startswith("sentinel-1")]
    grd = next(item for item in radars if item["id"].startswith("S1A_IW_GRDH_1SDV_20250312T052236"))
    tile = "32SNC"  # in the middle of the scene
    sensed = SENSED.replace(year=2025, month=3, day=13)
    pairing = pair(optical_item(tile=tile, sensed=sensed), radars)
    assert taken(pairing) == [grd["id"]]
    assert pairing.whole
    assert len(pairing.rejected) == len({item["id"] for item in radars}) - 1
    assert {text.split(" ")[0] for text in pairing.rejected.values()} <= {"no", "its", "covers", "item"}
    later = pair(optical_item(tile=tile, sensed=sensed + timedelta(days=20)), radars)
    assert "over the limit of 138 h" in later.rejected[grd["id"]]


def test_the_published_pair(shared_data: Path) -> None:
    folder = shared_data / "scene-33uup"
    (optical,) = (folder / "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP").glob("*.json")
    (radar,) = (folder / "S1B_IW_GRDH_1SDV_20170612T165809").glob("*.json")
    pairing = pair(json.loads(optical.read_text()), [json.loads(radar.read_text())])
    assert pairing.whole
    assert pairing.gap_hours == pytest.approx(17.206, abs=0.001)
