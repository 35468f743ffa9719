"""From a question to a scene list, on files as sources: what a server answers is the sources' own subject."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from landpatch.catalog.areas import Area
from landpatch.catalog.choice import Per, Preference
from landpatch.catalog.discovery import Discovery, discover, season_months
from landpatch.catalog.errors import Incomplete, InvalidParameter, NothingFound
from landpatch.catalog.pairing import PairingLimits
from landpatch.catalog.scene_list import RECORD, scene_pairs
from landpatch.catalog.stac_sources import OpticalQuery, SceneSource
from landpatch.functions.cli import main
from small_items import SENSED, optical_item, part_of_tile, radar_item

SEEN = {"s2__nodata_pixel_percentage": 0, "platform": "S2A"}


def world() -> list[dict[str, Any]]:
    """June 2017: 33UUP thrice (clear, an old baseline of the same, cloudy), 33UVP once, 33UWP too cloudy.

    One Sentinel-1 scene shows 33UUP and a quarter of 33UVP, one more than half of 33UVP, one comes too late.
    """
    later = SENSED.replace(day=23)

    def seen(identifier: str, tile: str, cloud: float, **more: Any) -> dict[str, Any]:
        ground = part_of_tile(tile, 0, 0, 1, 1)
        item = optical_item(identifier, tile=tile, eo__cloud_cover=cloud, geometry=ground, **SEEN, **more)
        item["properties"]["constellation"] = "sentinel-2"
        return item

    return [
        seen("S2A_33UUP_20170613_0_L2A", "33UUP", 1),
        seen("S2A_33UUP_20170613_1_L2A", "33UUP", 2, baseline="05.00"),
        seen("S2A_33UUP_20170623_0_L2A", "33UUP", 9, sensed=later),
        seen("S2A_33UVP_20170613_0_L2A", "33UVP", 3),
        seen("S2A_33UWP_20170613_0_L2A", "33UWP", 83),
        radar_item(-17.2, part_of_tile("33UUP", -1, -1, 1.5, 2)),
        radar_item(200, part_of_tile("33UUP", -1, -1, 9, 2), platform="S1B"),
        radar_item(-5, part_of_tile("33UVP", -3, -1, 0.25, 2), platform="S1C", orbit=44),
    ]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "world.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": world()}))
    return path


def query(*tiles: str) -> OpticalQuery:
    return OpticalQuery(Area.from_tiles(tiles), datetime(2017, 6, 1, tzinfo=UTC), datetime(2017, 6, 30, tzinfo=UTC))


def find(path: Path, *tiles: str, **options: Any) -> Discovery:
    opened = SceneSource.open(str(path))
    options = {"preference": Preference(max_cloud=0.2), "radar_source": opened, **options}
    return discover(opened, query(*tiles), **options)


def pairs(found: Discovery) -> dict[str, list[str]]:
    read = scene_pairs(json.loads(json.dumps(found.document())), "/x/scenes.json")
    return {optical["id"]: [radar["id"][:3] for radar in radars] for optical, radars in read}


def test_every_tile_gets_its_best_scene_and_its_pair(source: Path) -> None:
    told: list[tuple[int, int]] = []
    found = find(source, "33UUP", "33UVP", progress=lambda done, total: told.append((done, total)))
    assert pairs(found) == {
        "S2A_33UUP_20170613_1_L2A": ["S1C"],
        "S2A_33UVP_20170613_0_L2A": ["S1C", "S1A"],
    }
    assert told[0] == (0, 2)
    assert told[-1] == (2, 2)
    assert (found.missing, found.unpaired, found.error()) == ((), [], None)
    assert [pairing.optical["id"] for pairing in found.partly_paired] == ["S2A_33UVP_20170613_0_L2A"]
    (sentence,) = found.shortfalls()
    assert sentence.startswith("Sentinel-1 covers ")
    assert sentence.endswith("patches outside it are dropped as NO_S1 unless built with --s2-only")
    assert {v.item_id: v.chosen for v in found.verdicts} == {
        "S2A_33UUP_20170613_0_L2A": False,
        "S2A_33UUP_20170613_1_L2A": True,
        "S2A_33UUP_20170623_0_L2A": False,
        "S2A_33UVP_20170613_0_L2A": True,
    }


def test_what_is_missing_is_reported_not_lost(source: Path) -> None:
    found = find(source, "33UUP", "33UWP", "33UXP")
    assert [(m.tile, m.period, m.reason) for m in found.missing] == [
        (
            "33UWP",
            "all",
            "none of 1 scene(s) of tile 33UWP can be taken; the nearest to it is S2A_33UWP_20170613_0_L2A: cloud "
            "83 % is over the limit of 20 %",
        ),
        ("33UXP", "all", "no scene of tile 33UXP was found"),
    ]
    error = found.error()
    assert isinstance(error, Incomplete)
    assert "2 time(s) a tile has no scene in a period" in str(error)
    assert set(pairs(found)) == {"S2A_33UUP_20170613_1_L2A"}
    assert [m["tile"] for m in found.document()[RECORD]["missing"]] == ["33UWP", "33UXP"]


def test_a_scene_without_a_pair_is_reported_and_listed(source: Path) -> None:
    found = find(source, "33UUP", limits=PairingLimits(max_gap_hours=3))
    assert pairs(found) == {"S2A_33UUP_20170613_1_L2A": []}
    error = found.error()
    assert isinstance(error, Incomplete)
    assert str(error).startswith("1 scene(s) have no Sentinel-1 scene within the limits (S2A_33UUP_20170613_1_L2A)")
    assert found.document()[RECORD]["uncovered"] == {"S2A_33UUP_20170613_1_L2A": 1.0}
    without = find(source, "33UUP", radar_source=None)
    assert (without.error(), without.unpaired, list(without.shortfalls())) == (None, [], [])
    assert "pairing" not in without.record


def test_nothing_found_is_an_error_of_its_own(source: Path) -> None:
    found = find(source, "33UWP")
    assert isinstance(found.error(), NothingFound)
    assert found.error().exit_code not in (0, 2, 3)  # type: ignore[union-attr]
    assert list(found.table()) == []
    (row,) = found.rows(rejected=True)
    assert row["reasons"] == ["cloud 83 % is over the limit of 20 %"]


def test_limits_of_the_query_do_not_hide_why_a_scene_is_rejected(source: Path) -> None:
    opened = SceneSource.open(str(source))
    limited = OpticalQuery(Area.from_tiles(["33UWP"]), query("33UWP").start, query("33UWP").end, max_cloud=0.2)
    assert len(discover(opened, limited, preference=Preference(max_cloud=0.2)).verdicts) == 1


def test_more_tiles_than_are_worked_on_at_a_time(source: Path) -> None:
    tiles = ["33UUP", "33UVP", *(f"33U{column}{row}" for column in "UVWX" for row in "QRST")]
    found = find(source, *tiles)
    assert set(pairs(found)) == {"S2A_33UUP_20170613_1_L2A", "S2A_33UVP_20170613_0_L2A"}
    assert {missing.tile for missing in found.missing} == set(tiles) - {"33UUP", "33UVP"}


def test_month_by_month(source: Path) -> None:
    opened = SceneSource.open(str(source))
    asked = OpticalQuery(
        Area.from_tiles(["33UUP"]),
        datetime(2017, 5, 1, tzinfo=UTC),
        datetime(2017, 8, 31, tzinfo=UTC),
        months=frozenset({6, 7}),
    )
    found = discover(opened, asked, preference=Preference(per=Per.MONTH, best=5))
    assert [v.period for v in found.verdicts if v.chosen] == ["2017-06", "2017-06"]
    assert [(m.period, m.reason) for m in found.missing] == [
        ("2017-07", "no scene of tile 33UUP was found in 2017-07")
    ]
    assert found.record["query"]["months"] == [6, 7]


def test_what_a_source_cannot_use_is_told(source: Path) -> None:
    document = json.loads(source.read_text())
    document["features"].append({"type": "Feature", "id": 7})
    source.write_text(json.dumps(document))
    found = find(source, "33UUP")
    assert any("id 7" in problem for problem in found.shortfalls())


def test_seasons_follow_the_hemisphere() -> None:
    assert season_months("summer", ["33UUP"]) == {6, 7, 8}
    assert season_months("winter", ["33UUP", "32TMS"]) == {12, 1, 2}
    assert season_months("summer", ["20EPT"]) == {12, 1, 2}
    assert season_months("autumn", ["20EPT"]) == {3, 4, 5}
    with pytest.raises(InvalidParameter, match="both sides of the equator"):
        season_months("summer", ["33UUP", "20EPT"])
    with pytest.raises(InvalidParameter, match="monsoon"):
        season_months("monsoon", ["33UUP"])


# --- the command line ----------------------------------------------------------------------------------------------


def run(source: Path, *arguments: str) -> Result:
    period = ["--from", "2017-06-01", "--to", "2017-06-30"]
    output = ["-o", str(source.parent / "scenes.json")]
    return CliRunner().invoke(main, ["discover", "--source", str(source), *period, *output, *arguments])


def test_the_verb_writes_the_list_and_prints_the_table(source: Path) -> None:
    result = run(source, "--tiles", "33UUP,T33UVP")
    assert result.exit_code == 0, result.output
    heading, first, second = result.stdout.splitlines()
    assert " ".join(heading.split()) == "tile period item score cloud cover basel S1 gap h cover why"
    assert first.split()[:7] == ["33UUP", "all", "S2A_33UUP_20170613_1_L2A", "0.98", "2%", "100%", "05.00"]
    assert second.split()[7:9] == ["2", "17.2"]
    written = (source.parent / "scenes.json").read_bytes()
    assert run(source, "--tiles", "33UVP,33UUP").exit_code == 0
    assert (source.parent / "scenes.json").read_bytes() == written
    assert len(scene_pairs(json.loads(written), "/x")) == 2
    # A scene list is an item collection: it can be a source itself.
    again = run(source.parent / "scenes.json", "--tiles", "33UUP")
    assert again.exit_code == 0, again.output


def test_explain_and_json(source: Path) -> None:
    plain = run(source, "--tiles", "33UUP", "--explain")
    assert "same acquisition as S2A_33UUP_20170613_1_L2A, which has the newer baseline 05.00" in plain.stdout
    lines = [json.loads(line) for line in run(source, "--tiles", "33UUP", "--explain", "--json").stdout.splitlines()]
    assert [line["chosen"] for line in lines] == [True, False, False]
    assert lines[0]["s1_coverage"] == 1
    assert lines[0]["s1"]
    assert lines[1]["s1"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--tiles", "33UUP,33UWP"], 3, "1 time(s) a tile has no scene in a period"),
        (["--tiles", "33UWP"], 11, "no scene was chosen from 1 found"),
        (["--tiles", "33UWP", "--max-cloud", "90"], 3, "no Sentinel-1 scene within the limits"),
        (["--tiles", "33UUP", "--max-gap-hours", "3"], 3, "no Sentinel-1 scene within the limits"),
        (["--tiles", "33UUP", "--max-gap-hours", "3", "--no-s1"], 0, "1 Sentinel-2 scene(s) in"),
        (["--tiles", "33UUP", "--relative-orbit", "44", "--orbit", "descending"], 0, ""),
        (["--tiles", "33UUP", "--season", "winter"], 2, "none of the months 1, 2, 12 lies between 2017-06-01"),
        (["--tiles", "33UUP", "--min-baseline", "5.0", "--target-date", "06-13", "--best", "2"], 0, ""),
        (["--bbox", "13.2,48.0,13.3,48.1", "--no-s1"], 0, ""),
        ([], 2, "one of the three"),
        (["--tiles", "33UUP", "--bbox", "1,2,3,4"], 2, "one of the three"),
        (["--bbox", "1,2,x,4"], 2, "expected numbers"),
        (["--tiles", "33UUP", "--months", "13"], 2, "months are 1 to 12"),
        (["--tiles", "33UUP", "--months", "6", "--season", "summer"], 2, "either --season or --months"),
        (["--tiles", "33UUP", "--target-date", "soon"], 2, "is no target date"),
        (["--tiles", "33UUP", "--no-s1", "--s1-source", "cdse"], 2, "contradict"),
        (["--tiles", "nowhere"], 2, "is no Sentinel-2 tile"),
        (["--tiles", "33UUP", "--s1-source", "none.json"], 2, "there is no source"),
    ],
)
def test_exit_codes(source: Path, arguments: list[str], code: int, says: str) -> None:
    result = run(source, *arguments)
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert (source.parent / "scenes.json").exists() is (code in (0, 3))
