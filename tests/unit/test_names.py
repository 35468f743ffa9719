from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landpatch.catalog.errors import InvalidName, LandpatchError
from landpatch.catalog.names import (
    PatchId,
    RadarPatchName,
    RadarSceneId,
    SceneId,
    V1PatchName,
    parse_tile,
)

PATCH = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57"
RADAR = "S1B_IW_GRDH_1SDV_20170612T165809_33UUP_26_57"

# MGRS letters leave out I and O.
tiles = st.builds(
    lambda zone, letters: f"{zone:02d}{letters}",
    st.integers(1, 60),
    st.from_regex(r"[C-HJ-NP-X][A-HJ-NP-Z][A-HJ-NP-V]", fullmatch=True),
)
positions = st.integers(0, 90)
times = st.datetimes(datetime(2014, 1, 1), datetime(2099, 12, 31)).map(lambda t: t.replace(microsecond=0, tzinfo=UTC))
scenes = st.builds(
    SceneId,
    st.sampled_from(["S2A", "S2B", "S2C", "S2D"]),
    st.sampled_from(["MSIL1C", "MSIL2A"]),
    times,
    st.integers(0, 9999).map("{:04d}".format),
    st.integers(1, 143),
    tiles,
)
radar_scenes = st.builds(
    RadarSceneId,
    st.sampled_from(["S1A", "S1B", "S1C", "S1D"]),
    st.sampled_from(["IW", "EW", "S1"]),
    st.sampled_from(["GRDH", "GRDM", "GRDF", "SLC_", "RTC_"]),
    st.sampled_from(["SH", "SV", "DH", "DV"]),
    times,
)


def test_a_published_patch_id_says_what_it_is() -> None:
    patch = PatchId.parse(PATCH)
    assert patch.scene == SceneId(
        platform="S2A",
        level="MSIL2A",
        sensed=datetime(2017, 6, 13, 10, 10, 31, tzinfo=UTC),
        baseline="9999",
        orbit=22,
        tile="33UUP",
    )
    assert (patch.x, patch.y) == (26, 57)
    assert patch.reference_map == PATCH + "_reference_map"


def test_a_published_radar_name_says_what_it_is() -> None:
    name = RadarPatchName.parse(RADAR)
    start = datetime(2017, 6, 12, 16, 58, 9, tzinfo=UTC)
    assert name.scene == RadarSceneId("S1B", "IW", "GRDH", "DV", start)
    assert (name.tile, name.x, name.y) == ("33UUP", 26, 57)
    assert name.belongs_to(PatchId.parse(PATCH))


@pytest.mark.parametrize(
    "patch",
    [
        PATCH.replace("26_57", "27_57"),
        PATCH.replace("26_57", "26_58"),
        PATCH.replace("33UUP", "33UUQ"),
    ],
)
def test_a_radar_name_belongs_to_no_other_ground(patch: str) -> None:
    assert not RadarPatchName.parse(RADAR).belongs_to(PatchId.parse(patch))


def test_only_optical_names_are_padded() -> None:
    """The published pair ..._34VER_0_45 and ..._T34VER_00_45."""
    optical = PatchId.parse("S2A_MSIL2A_20170613T101031_N9999_R022_T34VER_00_45")
    radar = RadarPatchName.parse("S1B_IW_GRDH_1SDV_20170612T165809_34VER_0_45")
    assert radar.belongs_to(optical)
    assert str(optical.scene.patch(0, 5)).endswith("_T34VER_00_05")
    assert str(radar.scene.patch("34VER", 0, 5)).endswith("_34VER_0_5")


@given(scenes, positions, positions)
def test_patch_ids_format_back(scene: SceneId, x: int, y: int) -> None:
    patch = scene.patch(x, y)
    assert PatchId.parse(str(patch)) == patch
    assert len(str(patch)) == len(PATCH)


@given(scenes, times, st.sampled_from(["", ".SAFE"]))
def test_scene_ids_format_back_without_their_generation_time(scene: SceneId, made: datetime, ending: str) -> None:
    assert SceneId.parse(str(scene)) == scene
    assert SceneId.parse(f"{scene}_{made:%Y%m%dT%H%M%S}{ending}") == scene


@given(radar_scenes, tiles, positions, positions)
def test_radar_names_format_back(scene: RadarSceneId, tile: str, x: int, y: int) -> None:
    name = scene.patch(tile, x, y)
    assert RadarPatchName.parse(str(name)) == name
    assert RadarSceneId.parse(str(scene)) == scene


@given(scenes, radar_scenes, positions, positions)
def test_a_pair_at_one_position_belongs_together(scene: SceneId, radar: RadarSceneId, x: int, y: int) -> None:
    assert radar.patch(scene.tile, x, y).belongs_to(scene.patch(x, y))
    assert not radar.patch(scene.tile, (x + 1) % 91, y).belongs_to(scene.patch(x, y))


@pytest.mark.parametrize(
    "item_id",
    [
        "S1A_IW_GRDH_1SDV_20240325T055038_20240325T055103_053134_066FC4_rtc",
        "S1A_IW_GRDH_1SDV_20240325T055038_20240325T055103_053134_066FC4_1A2B.SAFE",
    ],
)
def test_what_follows_the_start_time_of_a_radar_scene_is_dropped(item_id: str) -> None:
    assert str(RadarSceneId.parse(item_id)) == "S1A_IW_GRDH_1SDV_20240325T055038"


@given(st.lists(st.tuples(scenes, positions, positions), min_size=2, max_size=5))
def test_patches_of_one_scene_sort_as_their_ids_do(patches: list[tuple[SceneId, int, int]]) -> None:
    scene = patches[0][0]
    ids = [scene.patch(x, y) for _, x, y in patches]
    assert [str(patch) for patch in sorted(ids)] == sorted(map(str, ids))


@pytest.mark.parametrize(
    ("text", "sensed"),
    [
        ("S2A_MSIL2A_20170613T101031_26_57", datetime(2017, 6, 13, 10, 10, 31, tzinfo=UTC)),
        ("S2B_MSIL2A_20180204T94160_3_7", datetime(2018, 2, 4, 9, 41, 59, tzinfo=UTC)),
        ("S2B_MSIL2A_20180204T94161_90_0", datetime(2018, 2, 4, 9, 41, 59, tzinfo=UTC)),
        ("S2A_MSIL2A_20180525T94030_0_90", datetime(2018, 5, 25, 9, 40, 30, tzinfo=UTC)),
    ],
)
def test_quirks_of_the_first_version_are_mended_and_kept(text: str, sensed: datetime) -> None:
    name = V1PatchName.parse(text)
    assert name.sensed == sensed
    assert str(name) == text
    assert [name.x, name.y] == [int(part) for part in text.split("_")[-2:]]


@given(
    st.sampled_from(["S2A", "S2B"]),
    times,
    st.integers(0, 99),
    positions,
    positions,
    st.booleans(),
)
def test_names_of_the_first_version_parse_in_every_spelling(
    platform: str, time: datetime, seconds: int, x: int, y: int, drop_zero: bool
) -> None:
    clock = f"{time:%H%M}{seconds:02d}"
    if drop_zero and clock.startswith("0"):
        clock = clock[1:]
    text = f"{platform}_MSIL2A_{time:%Y%m%d}T{clock}_{x}_{y}"
    name = V1PatchName.parse(text)
    assert (name.platform, name.x, name.y, str(name)) == (platform, x, y, text)
    assert name.sensed == time.replace(second=min(seconds, 59))


@pytest.mark.parametrize(
    ("text", "tile"),
    [("33UUP", "33UUP"), ("T33UUP", "33UUP"), ("MGRS-33UUP", "33UUP"), (" 33uup\n", "33UUP"), ("1CCV", "01CCV")],
)
def test_tiles_in_the_spellings_of_catalogues(text: str, tile: str) -> None:
    assert parse_tile(text) == tile


@given(tiles, st.sampled_from(["{}", "T{}", "MGRS-{}", "t{}"]))
def test_a_tile_is_found_in_each_spelling(tile: str, spelling: str) -> None:
    assert parse_tile(spelling.format(tile)) == tile
    assert parse_tile(spelling.format(tile.lstrip("0"))) == tile


@pytest.mark.parametrize(
    "text", ["", "33UU", "33UUPP", "00UUP", "61UUP", "33IUP", "33UOP", "33UUW", "TT33UUP", "33-UP"]
)
def test_what_is_no_tile_is_refused(text: str) -> None:
    with pytest.raises(InvalidName, match="no Sentinel-2 tile"):
        parse_tile(text)


WRONG = [
    (PatchId, ""),
    (PatchId, PATCH + "\n"),
    (PatchId, " " + PATCH),
    (PatchId, PATCH + ".SAFE"),
    (PatchId, PATCH.replace("26_57", "26_7")),
    (PatchId, PATCH.replace("26_57", "91_57")),
    (PatchId, PATCH.replace("26_57", "26_91")),
    (PatchId, PATCH.replace("26_57", "2٦_57")),  # an Arabic-Indic six is a digit to Python
    (PatchId, PATCH.replace("S2A", "S2E")),
    (PatchId, PATCH.replace("S2A", "s2a")),
    (PatchId, PATCH.replace("_T33", "_33")),
    (PatchId, PATCH.replace("20170613", "20170631")),
    (PatchId, PATCH.replace("T101031", "T251031")),
    (PatchId, PATCH.replace("T101031", "T101060")),
    (PatchId, PATCH.removesuffix("_26_57")),
    (SceneId, PATCH),
    (SceneId, PATCH.removesuffix("_26_57") + "\n"),
    (SceneId, RADAR),
    (RadarPatchName, PATCH),
    (RadarPatchName, RADAR.replace("26_57", "06_57")),
    (RadarPatchName, RADAR.replace("26_57", "26_91")),
    (RadarPatchName, RADAR.replace("_33UUP", "_T33UUP")),
    (RadarPatchName, RADAR + "\n"),
    (RadarPatchName, RADAR.replace("20170612", "20170229")),
    (RadarSceneId, "S1B_IW_GRDX_1SDV_20170612T165809"),
    (RadarSceneId, "S1B_IW_GRDH_1SDV_20170612T1658"),
    (V1PatchName, PATCH),
    (V1PatchName, "S2A_MSIL2A_20170613T101031_26_91"),
    (V1PatchName, "S2A_MSIL2A_20170613T1031_26_57"),
    (V1PatchName, "S2A_MSIL2A_20170613T107531_26_57"),
    (V1PatchName, "S2A_MSIL2A_20170613T101031_26_57\n"),
]


@pytest.mark.parametrize(("kind", "text"), WRONG)
def test_a_wrong_name_is_refused_and_repeated(
    kind: type[PatchId | SceneId | RadarPatchName | RadarSceneId | V1PatchName], text: str
) -> None:
    with pytest.raises(InvalidName) as error:
        kind.parse(text)
    assert repr(text) in str(error.value)
    assert isinstance(error.value, LandpatchError)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(("x", "y"), [(-1, 0), (0, -1), (91, 0), (0, 91)])
def test_no_patch_lies_outside_its_tile(x: int, y: int) -> None:
    with pytest.raises(InvalidName, match="outside its tile"):
        PatchId.parse(PATCH).scene.patch(x, y)
    with pytest.raises(InvalidName, match="outside its tile"):
        RadarPatchName.parse(RADAR).scene.patch("33UUP", x, y)


@given(st.text(max_size=60))
def test_no_text_breaks_the_parsers(text: str) -> None:
    for kind in (PatchId, SceneId, RadarPatchName, RadarSceneId, V1PatchName):
        with pytest.raises(InvalidName):
            kind.parse(text)
