import json
import math
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landpatch.catalog.choice import (
    Choice,
    Per,
    Preference,
    TargetDate,
    Verdict,
    choose,
    look,
)
from landpatch.catalog.errors import InvalidName, InvalidParameter
from landpatch.catalog.scenes import tile_of
from small_items import SENSED, optical_item, part_of_tile


def by_id(choice: Choice) -> dict[str, Verdict]:
    return {verdict.item_id: verdict for verdict in choice.verdicts}


def chosen(choice: Choice) -> list[str]:
    return [item["id"] for item in choice.chosen]


def day(number: int) -> datetime:
    return SENSED + timedelta(days=number)


# --- one acquisition ---------------------------------------------------------------------------------------------


def test_of_one_acquisition_the_newest_baseline_is_taken_whatever_it_is_called() -> None:
    items = [
        optical_item("S2A_0", baseline="02.05", eo__cloud_cover=0),
        optical_item("S2A_1", baseline="05.00", eo__cloud_cover=9),
        optical_item("S2A_2", baseline="04.00", eo__cloud_cover=1),
    ]
    choice = choose(items, Preference())
    assert chosen(choice) == ["S2A_1"]
    assert by_id(choice)["S2A_0"].reasons == ("same acquisition as S2A_1, which has the newer baseline 05.00",)
    assert by_id(choice)["S2A_1"].reasons[0].startswith("the only one: ground in sight on ")


def test_sen2cor_by_hand_is_no_newer_baseline() -> None:
    choice = choose([optical_item("hand", baseline="99.99"), optical_item("esa", baseline="02.05")], Preference())
    assert chosen(choice) == ["esa"]
    (reason,) = by_id(choice)["hand"].reasons
    assert reason == "same acquisition as esa, which has ESA's baseline 02.05 (this one was processed by hand)"
    assert chosen(choose([optical_item("hand", baseline="99.99")], Preference())) == ["hand"]


def test_of_one_baseline_the_later_generation_is_taken() -> None:
    items = [optical_item("a", generated="20200101T000000"), optical_item("b", generated="20190101T000000")]
    choice = choose(items, Preference())
    assert chosen(choice) == ["a"]
    assert by_id(choice)["b"].reasons == ("same acquisition as a, which was generated later (2020-01-01T00:00:00Z)",)
    later = optical_item("b", generated="20190101T000000", s2__generation_time="2021-03-01T00:00:00.5+02:00")
    assert chosen(choose([items[0], later], Preference())) == ["b"]


def test_of_two_parts_of_a_datatake_the_fuller_one_is_taken() -> None:
    """13TDE on 2024-05-30 at Planetary Computer: two downlinks, each with a part of the tile."""
    items = [
        optical_item("part", generated="20200102T000000", s2__nodata_pixel_percentage=59),
        optical_item("most", generated="20200101T000000", s2__nodata_pixel_percentage=33),
    ]
    choice = choose(items, Preference())
    assert chosen(choice) == ["most"]
    assert by_id(choice)["part"].reasons == ("same acquisition as most, which covers more of the tile (67 %)",)


def test_the_newest_decides_also_where_an_older_one_states_less_cloud() -> None:
    items = [
        optical_item("old", baseline="02.05", eo__cloud_cover=18),
        optical_item("new", baseline="05.00", eo__cloud_cover=25),
    ]
    choice = choose(items, Preference(max_cloud=0.2))
    assert chosen(choice) == []
    assert by_id(choice)["new"].reasons == ("cloud 25 % is over the limit of 20 %",)
    assert by_id(choice)["old"].reasons[0].startswith("same acquisition as new")


@pytest.mark.parametrize(
    "spoilt",
    [{"s2__general_quality": "FAILED"}, {"baseline": "05.11"}, {"assets": {}}],
    ids=lambda spoilt: next(iter(spoilt)),
)
def test_where_the_newest_cannot_be_used_an_older_one_is(spoilt: dict[str, Any]) -> None:
    assets = spoilt.pop("assets", None)
    new = optical_item("new", **{"baseline": "05.00", **spoilt})
    if assets is not None:
        new["assets"] = assets
    choice = choose([optical_item("old", baseline="04.00"), new], Preference(max_baseline=5.0))
    assert chosen(choice) == ["old"]


def test_other_tiles_platforms_and_days_are_other_acquisitions() -> None:
    items = [
        optical_item("a"),
        optical_item("b", tile="33UVP"),
        optical_item("c", platform="S2B"),
        optical_item("d", sensed=day(5)),
    ]
    assert not [v for v in choose(items, Preference()).verdicts if "same" in v.reasons[0]]


def test_an_item_listed_twice_gets_a_verdict_each_time() -> None:
    choice = choose([optical_item(), optical_item()], Preference())
    assert sorted(v.reasons[0][:8] for v in choice.verdicts) == ["the only", "the same"]


# --- limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preference", "properties", "reason"),
    [
        ({"max_cloud": 0.2}, {"eo__cloud_cover": 83.1}, "cloud 83 % is over the limit of 20 %"),
        ({"max_cloud": 0.2}, {"eo__cloud_cover": 20.04}, "cloud 20.04 % is over the limit of 20 %"),
        ({"max_cloud": 0.2}, {"eo__cloud_cover": 20}, None),
        ({"max_cloud": 0.2}, {}, "cloud is not stated, so that the limit of 20 % cannot be checked"),
        ({"max_cloud": 0.2}, {"eo__cloud_cover": 0, "sentinel__valid_cloud_cover": False}, "cloud is not stated"),
        ({"max_nodata": 0.1}, {"s2__nodata_pixel_percentage": 33.4}, "nodata 33 % is over the limit of 10 %"),
        ({"max_nodata": 0.1}, {"sentinel__data_coverage": 95}, None),
        ({"max_nodata": 0.1}, {"statistics": {"nodata": 50}}, "nodata 50 % is over the limit of 10 %"),
        ({"max_nodata": 0.1}, {}, "nodata is not stated"),
        ({"min_sun": 20}, {"view__sun_elevation": 12.34}, "the sun stood at 12.3°, under the limit of 20°"),
        ({"min_sun": 20}, {"s2__mean_solar_zenith": 80}, "the sun stood at 10.0°, under the limit of 20°"),
        ({"min_sun": 20}, {"s2__mean_solar_zenith": 60}, None),
        ({"min_sun": 20}, {}, "sun elevation is not stated"),
        ({"min_baseline": 4.0}, {"baseline": "02.05"}, "baseline 02.05 is below 04.00"),
        ({"max_baseline": 3.01}, {"baseline": "04.00"}, "baseline 04.00 is above 03.01"),
        ({"min_baseline": 4.0, "max_baseline": 5.11}, {"baseline": "05.11"}, None),
        ({}, {"s2__geometric_quality": "FAILED"}, "its quality indicator GEOMETRIC did not pass"),
        ({}, {"s2__geometric_quality": "PASSED"}, None),
    ],
)
def test_hard_limits(preference: dict[str, Any], properties: dict[str, Any], reason: str | None) -> None:
    (verdict,) = choose([optical_item(**properties)], Preference(**preference)).verdicts
    assert verdict.chosen is (reason is None)
    if reason is not None:
        assert verdict.reasons[0].startswith(reason)


@pytest.mark.parametrize(
    "wrong", [{"max_cloud": 20}, {"max_nodata": -0.1}, {"best": 0}, {"half_life": 0}, {"max_cloud": math.nan}]
)
def test_preferences_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        Preference(**wrong)


def test_an_item_that_cannot_be_read_is_rejected_with_what_is_wrong() -> None:
    bare = optical_item("bare")
    del bare["assets"]["red"]
    nameless = optical_item("nameless", grid__code="MGRS-33UUP")
    del nameless["properties"]["s2:product_uri"]
    unknown = optical_item("unknown")
    del unknown["properties"]["s2:processing_baseline"]
    dateless = optical_item("dateless")
    del dateless["properties"]["datetime"]
    choice = choose([bare, nameless, dateless, {"id": "nothing"}, {}, optical_item("good")], Preference())
    assert chosen(choice) == ["good"]
    reasons = {item: verdict.reasons[0] for item, verdict in by_id(choice).items()}
    assert reasons["bare"] == "no asset at native resolution for band(s) B04"
    assert reasons["nameless"].startswith("no Sentinel-2 product id found")
    assert by_id(choice)["nameless"].tile == "33UUP"
    assert reasons["dateless"].startswith("no valid datetime")
    assert "has no properties" in reasons["nothing"]
    assert len(choice.verdicts) == 6


def test_only_the_tiles_asked_for() -> None:
    items = [optical_item("a"), optical_item("b", tile="33UVP")]
    choice = choose(items, Preference(), ["T33UVP"])
    assert chosen(choice) == ["b"]
    assert by_id(choice)["a"].reasons == ("tile 33UUP was not asked for",)
    with pytest.raises(InvalidName):
        choose(items, Preference(), ["nowhere"])


# --- the score ---------------------------------------------------------------------------------------------------


def test_the_score_is_the_product_of_its_parts() -> None:
    item = optical_item(
        eo__cloud_cover=10,
        s2__cloud_shadow_percentage=2,
        s2__snow_ice_percentage=8,
        s2__nodata_pixel_percentage=25,
        view__sun_elevation=25,
    )
    target = TargetDate.parse("2017-08-12")  # 60 days later
    (verdict,) = choose([item], Preference(target=target)).verdicts
    expected = {"coverage": 0.75, "clear": 0.8, "sun": math.sin(math.radians(25)) / 0.5, "date": 0.5}
    assert verdict.parts == pytest.approx(expected)
    assert verdict.score == pytest.approx(math.prod(expected.values()))
    assert verdict.reasons == (
        "the only one: ground in sight on 60 % of the tile (covered 75 %, cloud 10 %, shadow 2 %, snow 8 %), sun at "
        "25°, 60 days from 2017-08-12",
    )


def test_coverage_comes_from_the_footprint_where_it_is_not_stated() -> None:
    item = optical_item(geometry=part_of_tile("33UUP", 0, 0, 0.25, 1))
    (verdict,) = choose([item], Preference()).verdicts
    assert verdict.look.coverage == pytest.approx(0.25, abs=1e-4)
    assert look(optical_item(tile="01WCR", geometry=part_of_tile("01WCR", 0, 0.5, 1, 1)), "01WCR").coverage == (
        pytest.approx(0.5, abs=2e-4)
    )


def test_what_is_not_stated_counts_as_half_seen() -> None:
    (verdict,) = choose([optical_item()], Preference()).verdicts
    assert verdict.parts == {"coverage": 0.5, "clear": 0.5, "sun": 1.0, "date": 1.0}
    assert "coverage not stated, cloud not stated" in verdict.reasons[0]


def test_more_cloud_than_there_are_pixels_is_no_negative_score() -> None:
    (verdict,) = choose([optical_item(eo__cloud_cover=90, s2__snow_ice_percentage=40)], Preference()).verdicts
    assert verdict.score == 0
    assert verdict.chosen


def test_the_clearer_one_wins_and_the_other_is_told_why() -> None:
    seen = {"s2__nodata_pixel_percentage": 0}
    items = [
        optical_item("cloudy", eo__cloud_cover=15, **seen),
        optical_item("clear", sensed=day(5), eo__cloud_cover=3, **seen),
    ]
    choice = choose(items, Preference())
    assert chosen(choice) == ["clear"]
    assert by_id(choice)["cloudy"].reasons == (
        "number 2 of 2: ground in sight on 85 % of the tile (covered 100 %, cloud 15 %); behind clear with a score "
        "of 0.97",
    )
    # Nearer to the target date outweighs a few percent of cloud.
    assert chosen(choose(items, Preference(target=TargetDate.parse("2017-05-01")))) == ["clear"]
    nearer = choose(items, Preference(target=TargetDate.parse("06-01"), half_life=10))
    assert chosen(nearer) == ["cloudy"]


# --- periods -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("per", "names"),
    [
        (Per.RANGE, ["all"] * 4),
        (Per.YEAR, ["2017", "2017", "2018", "2018"]),
        (Per.SEASON, ["2017-SON", "2018-DJF", "2018-DJF", "2018-MAM"]),
        (Per.MONTH, ["2017-11", "2017-12", "2018-01", "2018-03"]),
    ],
)
def test_periods(per: Per, names: list[str]) -> None:
    moments = [datetime(2017, 11, 30, tzinfo=UTC), datetime(2017, 12, 1, tzinfo=UTC)]
    moments += [datetime(2018, 1, 31, tzinfo=UTC), datetime(2018, 3, 1, tzinfo=UTC)]
    assert [per.of(moment) for moment in moments] == names
    assert per.within(moments[0], moments[-1], {11, 12, 1, 3}) == list(dict.fromkeys(names))
    items = [optical_item(f"item{n}", sensed=moment) for n, moment in enumerate(moments)]
    choice = choose(reversed(items), Preference(per=per, best=2))
    assert Counter(v.period for v in choice.verdicts if v.chosen) == {n: min(names.count(n), 2) for n in names}
    assert [v.period for v in choice.verdicts] == names  # in order of time


@given(st.datetimes(datetime(1, 2, 1), datetime(9998, 1, 1)), st.integers(0, 800), st.sampled_from(Per))
def test_every_moment_lies_in_one_of_the_periods_between(start: datetime, days: int, per: Per) -> None:
    start = start.replace(tzinfo=UTC)
    names = per.within(start, start + timedelta(days=800))
    assert len(set(names)) == len(names)
    assert per.of(start + timedelta(days=days)) in names


@given(st.dates(date(1950, 1, 1), date(2100, 1, 1)), st.dates(date(1950, 1, 1), date(2100, 1, 1)))
def test_days_from_a_target(wanted: date, sensed: date) -> None:
    moment = datetime(sensed.year, sensed.month, sensed.day, 23, 59, tzinfo=UTC)
    assert TargetDate.parse(str(wanted)).days_from(moment) == abs((wanted - sensed).days)
    every = TargetDate.parse(f"{wanted:%m-%d}")
    assert str(every) == f"{wanted:%m-%d}"
    assert every.days_from(moment) <= 184
    for year in range(1949, 2102):
        try:
            assert every.days_from(moment) <= abs((wanted.replace(year=year) - sensed).days)
        except ValueError:  # 29 February
            continue


@pytest.mark.parametrize("text", ["", "13", "2017", "06-31", "2017-13-01", "June", "2017-06-13T00:00"])
def test_no_target_date(text: str) -> None:
    with pytest.raises(InvalidParameter, match="is no target date"):
        TargetDate.parse(text)


# --- the same answer each time -----------------------------------------------------------------------------------

anything = st.fixed_dictionaries(
    {
        "identifier": st.sampled_from(["a", "b", "c", "d"]),
        "sensed": st.integers(0, 3).map(lambda n: day(40 * n)),
        "baseline": st.sampled_from(["02.05", "05.00", "99.99"]),
        "generated": st.sampled_from(["20200101T000000", "20210101T000000", "never"]),
        "tile": st.sampled_from(["33UUP", "33UVP"]),
        "eo__cloud_cover": st.sampled_from([None, 0, 10, 10, 50]),
        "s2__nodata_pixel_percentage": st.sampled_from([None, 0, 0.4, 30]),
        "s2__general_quality": st.sampled_from(["PASSED", "PASSED", "FAILED"]),
    }
)


@given(
    st.lists(anything, max_size=12),
    st.randoms(use_true_random=False),
    st.sampled_from(Per),
    st.integers(1, 3),
    st.sampled_from([None, 0.2]),
    st.sampled_from([None, TargetDate(7, 1)]),
)
def test_the_choice_does_not_depend_on_the_order(
    drawn: list[dict[str, Any]],
    shuffler: random.Random,
    per: Per,
    best: int,
    max_cloud: float | None,
    target: TargetDate | None,
) -> None:
    items = [optical_item(**one) for one in drawn]
    preference = Preference(max_cloud=max_cloud, per=per, best=best, target=target)
    choice = choose(items, preference)
    shuffler.shuffle(items)
    assert choose(items, preference) == choice
    assert Counter(v.item_id for v in choice.verdicts) == Counter(item["id"] for item in items)
    assert all(v.reasons and all(v.reasons) for v in choice.verdicts)
    assert all(v.score is None or 0 <= v.score <= 1 for v in choice.verdicts)
    taken = [v for v in choice.verdicts if v.chosen]
    assert [item["id"] for item in choice.chosen] == [v.item_id for v in taken]
    # Never more than asked for, never twice the same acquisition, never worse than what was left.
    assert all(count <= best for count in Counter((v.tile, v.period) for v in taken).values())
    assert len({(v.tile, v.sensed) for v in taken}) == len(taken)
    for left in choice.verdicts:
        if not left.chosen and left.reasons[0].startswith("number"):
            rivals = [v for v in taken if (v.tile, v.period) == (left.tile, left.period)]
            assert len(rivals) == best
            assert min(v.score or 0 for v in rivals) >= (left.score or 0)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_an_item_that_is_wrong_anywhere_is_judged_and_never_raises(data: st.DataObject) -> None:
    item: Any = optical_item(
        eo__cloud_cover=3, s2__nodata_pixel_percentage=1, geometry=part_of_tile("33UUP", 0, 0, 1, 1)
    )
    place = data.draw(st.sampled_from(["", "properties", "assets", "geometry"]))
    target = item[place] if place else item
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(json_values)
    choice = choose([item, optical_item("good", sensed=day(5))], Preference(best=2))
    assert len(choice.verdicts) == 2
    assert "good" in chosen(choice)


# --- real items --------------------------------------------------------------------------------------------------


def earth_search(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((folder / "stac-items/earth-search-v1").rglob("*")):
        if path.is_file() and path.suffix != ".xml":
            yield json.loads(path.read_text())


def test_the_series_of_33twn(shared_data: Path) -> None:
    """15 dates, two orbits: the one that sees the whole tile nearly without cloud is taken."""
    choice = choose(earth_search(shared_data), Preference(max_cloud=0.6), ["33TWN"])
    verdicts = [v for v in choice.verdicts if v.tile == "33TWN"]
    assert len(verdicts) == 15
    assert chosen(choice) == ["S2A_33TWN_20210629_0_L2A"]
    ranked = [v.item_id[10:18] for v in verdicts if v.reasons[0].startswith("number")]
    # 1 % of cloud on 63 % of the tile comes before 27 % on 66 %; half under cloud before a fifth under snow.
    assert ranked[:4] == ["20210629", "20181005", "20180806", "20180521"]
    assert ranked[-1] == "20220122"
    over = {v.item_id[10:18] for v in verdicts if "is over the limit of 60 %" in v.reasons[0]}
    assert over == {"20220226", "20190707", "20210328", "20190503", "20181104", "20181119"}


def test_every_one_of_the_assorted_items_gets_a_verdict(shared_data: Path) -> None:
    with (shared_data / "stac-items/sentinel_items.jsonl").open(encoding="utf-8") as lines:
        items = [json.loads(line)["item"] for line in lines]
    choice = choose(items, Preference())
    assert len(choice.verdicts) == len(items) == 150
    verdicts = by_id(choice)
    for item_id, reason in {
        "S2A_32TNT_20200305_0_L2A": "same acquisition as S2A_32TNT_20200305_1_L2A, which has the newer baseline",
        "S2B_1CDH_20190104_1_L2A": "same acquisition as S2B_1CDH_20190104_0_L2A, which covers more of the tile (1 %)",
        "S2B_9VXK_20171016_0": "no asset at native resolution for band(s) B01",
        "Jaca_4": "no Sentinel-2 product id found",
        "ESA_WorldCover_10m_2021_v200_S60W030": "no Sentinel-2 product id found",
    }.items():
        assert verdicts[item_id].reasons[0].startswith(reason)
    assert sum(v.chosen for v in choice.verdicts) == len({v.tile for v in choice.verdicts if v.score is not None})


def test_footprints_say_what_catalogues_state_of_coverage(shared_data: Path) -> None:
    """Also at the antimeridian, where footprints are drawn in three ways."""
    compared = 0
    with (shared_data / "stac-items/sentinel_items.jsonl").open(encoding="utf-8") as lines:
        items = [json.loads(line)["item"] for line in lines]
    for item in items:
        tile = tile_of(item)
        stated = look(item, None).coverage
        if tile is None or stated is None:
            continue
        bare = {**item, "properties": {}}
        assert look(bare, tile).coverage == pytest.approx(stated, abs=0.015), item["id"]
        compared += 1
    assert compared > 100


def test_a_year_of_planetary_computer_month_by_month(shared_data: Path) -> None:
    import pyarrow.parquet as pq
    from stac_geoparquet.arrow import stac_table_to_items

    folder = shared_data / "stac-items/planetary-computer"
    items = [
        item
        for name in ("100-sentinel-2-items.parquet", "1000-sentinel-2-items.parquet")
        for item in stac_table_to_items(pq.read_table(folder / name))
    ]
    choice = choose(items, Preference(max_cloud=0.2, per=Per.MONTH))
    assert len(choice.verdicts) == len(items) == 1100
    tile = [v for v in choice.verdicts if v.tile == "13TDE" and v.chosen]
    assert [v.period for v in tile] == [f"2024-{month:02d}" for month in range(4, 13)]  # no clear one in March
    assert next(v.item_id for v in tile if v.period == "2024-07").startswith("S2B_MSIL2A_20240729T174909_R141_T13TDE")
    # The datatake of 30 May was downlinked in two parts.
    (part,) = [v for v in choice.verdicts if v.item_id == "S2B_MSIL2A_20240530T174909_R141_T13TDE_20240530T231838"]
    assert "which covers more of the tile (67 %)" in part.reasons[0]
