"""The demo's invented world: the same bytes each time, items that tell the truth about their files, a proper map."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyogrio
import pystac
import pytest
import rasterio
import rasterio.features
import shapely
import shapely.geometry
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import Transformer

from landpatch.catalog.bands import optical_bands
from landpatch.catalog.errors import UnreadableAsset
from landpatch.catalog.names import SceneId
from landpatch.catalog.nomenclature import clc2018
from landpatch.catalog.scenes import optical_scene, radar_scene
from landpatch.catalog.splits import Split, split_by_position
from landpatch.functions.demo.ground import Ground, Light
from landpatch.functions.demo.landscape import Landscape, Relief, Site, plan_landscape
from landpatch.functions.demo.world import (
    LABEL_LAYER,
    RADAR_NODATA,
    Frame,
    OpticalPass,
    RadarPass,
    World,
    make_world,
    write_labels,
    write_optical,
    write_radar,
)
from landpatch.functions.sources import read_scene

FRAME = Frame.of_patches("33UUP", range(20, 23), range(30, 33))  # 3 x 3 patches
WEST, SOUTH, EAST, NORTH = FRAME.bounds
RELIEF = Relief(
    base=430,
    hills=50,
    summit=(EAST + 2000, SOUTH),
    height=2600,
    reach=4500,
    tree_line=1500,
    snow_line=1900,
    river=(WEST, NORTH - 900),
)
OPTICAL = OpticalPass(
    SceneId.parse("S2A_MSIL2A_20240616T101031_N0510_R022_T33UUP"),
    FRAME,
    offset=1000,
    sun=(155.0, 27.0),
    clouds=(WEST + 2000, NORTH - 2000, 2500, 0, 0, 1),
    swath=(WEST, NORTH - 1800, 0.24),
)
RADAR = RadarPass(
    "S1A",
    datetime(2024, 6, 17, 16, 58, 16, tzinfo=UTC),
    54366,
    "069D7C",
    replace(FRAME, west=WEST - 50 + 3.7, north=NORTH + 50 - 6.2, width=372, height=371),
    swath=(EAST, NORTH - 1500, -0.17),
)
HOLE = Site(0, WEST + 2600, NORTH - 700, 500)


@dataclass(frozen=True)
class Piece:
    land: Landscape
    folder: Path
    optical: Path
    radar: Path
    labels: Path


def make_piece(folder: Path, *, seed: int = 3, offset: int = 1000, workers: int | None = None) -> Piece:
    land = plan_landscape(FRAME.bounds, FRAME.epsg, RELIEF, seed=seed)
    optical = write_optical(land, replace(OPTICAL, offset=offset), folder, workers=workers)
    radar = write_radar(land, RADAR, folder, workers=workers)
    write_labels([(land, HOLE)], folder / "clc.gpkg")
    return Piece(land, folder, optical, radar, folder / "clc.gpkg")


@pytest.fixture(scope="module")
def piece(tmp_path_factory: pytest.TempPathFactory) -> Piece:
    return make_piece(tmp_path_factory.mktemp("piece"), workers=2)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pixels(item: Path, name: str) -> NDArray[np.generic]:
    with rasterio.open(item.parent / f"{name}.tif") as file:
        found: NDArray[np.generic] = file.read(1)
    return found


def test_the_same_seed_gives_the_same_bytes_however_the_work_is_cut(piece: Piece, tmp_path: Path) -> None:
    again = make_piece(tmp_path, workers=1)
    assert files_of(again.folder) == files_of(piece.folder)


def test_another_seed_gives_another_world(piece: Piece, tmp_path: Path) -> None:
    other = files_of(make_piece(tmp_path, seed=4).folder)
    here = files_of(piece.folder)
    assert other.keys() == here.keys()
    assert not [name for name in here if name.endswith((".tif", ".gpkg")) and other[name] == here[name]]


@settings(max_examples=15)
@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 40), st.integers(1, 40))
def test_a_metre_of_ground_does_not_depend_on_the_window_through_which_it_is_seen(
    piece: Piece, left: int, top: int, width: int, height: int
) -> None:
    light = Light.from_sun(piece.land, 155.0, 27.0)
    whole = _whole_ground(piece, light)
    part = Ground.look(piece.land, light, WEST + 10 * left, NORTH - 10 * top, (height, width))
    window = (slice(top, top + height), slice(left, left + width))
    for name in ("first", "second", "blend", "gain", "tone"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[window], err_msg=name)


_GROUND: dict[int, Ground] = {}


def _whole_ground(piece: Piece, light: Light) -> Ground:
    if id(piece) not in _GROUND:
        _GROUND[id(piece)] = Ground.look(piece.land, light, WEST, NORTH, (340, 340))
    return _GROUND[id(piece)]


def test_items_say_of_their_files_what_is_true(piece: Piece) -> None:
    optical = json.loads(piece.optical.read_text())
    assert optical["id"] == piece.optical.stem == "S2A_33UUP_20240616_0_L2A"
    assert len(optical["assets"]) == 13  # 12 bands and SCL
    for key, asset in optical["assets"].items():
        with rasterio.open(piece.optical.parent / asset["href"]) as file:
            assert asset["proj:shape"] == [file.height, file.width], key
            assert asset["proj:transform"] == list(file.transform)[:6], key
            assert file.crs.to_epsg() == optical["properties"]["proj:epsg"] == 32633
            assert asset["raster:bands"][0]["data_type"] == file.dtypes[0]
            assert asset["raster:bands"][0]["nodata"] == file.nodata == 0
            assert (file.block_shapes[0], file.compression.value) == ((512, 512), "DEFLATE")
    radar = json.loads(piece.radar.read_text())
    assert radar["id"] == "S1A_IW_GRDH_1SDV_20240617T165816_20240617T165841_054366_069D7C_rtc"
    assert radar["properties"]["sat:relative_orbit"] == 44  # of S1A's orbit 54366: (54366 - 73) mod 175 + 1
    for key, asset in radar["assets"].items():
        with rasterio.open(piece.radar.parent / asset["href"]) as file:
            assert radar["properties"]["proj:shape"] == [file.height, file.width], key
            assert radar["properties"]["proj:transform"] == list(file.transform), key
            assert (file.dtypes[0], file.nodata) == ("float32", RADAR_NODATA)
            # Not on the patch grid: 3.7 m and 6.2 m off.
            assert (file.transform.c - WEST) % 10 == pytest.approx(3.7)
            assert (NORTH - file.transform.f) % 10 == pytest.approx(6.2)


def test_the_item_covers_the_ground_of_its_files(piece: Piece) -> None:
    west, south, east, north = json.loads(piece.optical.read_text())["bbox"]
    to_utm = Transformer.from_crs(4326, 32633, always_xy=True)
    corners = to_utm.transform([west, east], [south, north])
    # A box in degrees around a box in metres is a little larger than that.
    assert corners[0][0] == pytest.approx(WEST, abs=200)
    assert corners[1][1] == pytest.approx(NORTH, abs=200)


def test_an_item_s_outline_is_what_was_seen(piece: Piece) -> None:
    for item, name, nodata in ((piece.optical, "SCL", 0), (piece.radar, "iw-vv.rtc", RADAR_NODATA)):
        seen = pixels(item, name) != nodata
        (ring,) = json.loads(item.read_text())["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        assert shapely.is_ccw(shapely.LinearRing(ring))
        with rasterio.open(item.parent / f"{name}.tif") as file:
            to_utm = Transformer.from_crs(4326, file.crs, always_xy=True)
            outline = shapely.Polygon(np.stack(to_utm.transform(*np.transpose(ring)), axis=1))
            inside = rasterio.features.rasterize([outline], file.shape, transform=file.transform) == 1
        # Degrees to six places are a tenth of a metre: only pixels on the very edge may differ.
        assert (inside != seen).mean() < 0.002
        assert 0.001 < 1 - inside.mean() < 0.3


def test_landpatch_itself_reads_the_items(piece: Piece) -> None:
    scene = optical_scene(read_scene(str(piece.optical)))
    assert str(scene.scene) == "S2A_MSIL2A_20240616T101031_N0510_R022_T33UUP"
    assert (list(scene.bands), scene.failed_quality) == (list(optical_bands()), ())
    assert scene.scl is not None
    assert scene.offset.present
    radar = radar_scene(read_scene(str(piece.radar)))
    assert (radar.unit, radar.backscatter, radar.nodata) == ("power", "gamma0-terrain", RADAR_NODATA)
    assert str(radar.name) == "S1A_IW_GRDH_1SDV_20240617T165816"


def test_the_swath_ends_on_a_slanting_line_in_all_bands_at_once(piece: Piece) -> None:
    for name, resolution in {**{n: b.resolution for n, b in optical_bands().items()}, "SCL": 20}.items():
        found = pixels(piece.optical, name)
        rows, columns = np.indices(found.shape) + 0.5
        east, north = WEST + resolution * columns, NORTH - resolution * rows
        missing = east < OPTICAL.swath[0] + (north - OPTICAL.swath[1]) * OPTICAL.swath[2]
        np.testing.assert_array_equal(found == 0, missing, err_msg=name)
        assert 0.01 < missing.mean() < 0.3
    stated = json.loads(piece.optical.read_text())["properties"]["s2:nodata_pixel_percentage"]
    assert stated == pytest.approx(100 * (pixels(piece.optical, "SCL") == 0).mean(), abs=1e-5)


def test_the_offset_is_in_the_pixels_or_not_at_all(piece: Piece, tmp_path: Path) -> None:
    without = write_optical(piece.land, replace(OPTICAL, offset=0), tmp_path)
    for name in optical_bands():
        high, low = pixels(piece.optical, name).astype(np.int64), pixels(without, name).astype(np.int64)
        seen = low > 0
        assert (high[seen] - low[seen] == 1000).all()
        assert (high[~seen] == 0).all()
    assert pixels(without, "B11")[pixels(without, "SCL") > 0].min() < 700, "dark enough to tell that there is none"
    asset = json.loads(piece.optical.read_text())["assets"]["red"]
    assert asset["raster:bands"][0]["offset"] == -0.1


def test_bands_see_the_same_landscape(piece: Piece) -> None:
    seen = pixels(piece.optical, "SCL")[::3, ::3] > 0

    def at_60_metres(name: str) -> NDArray[np.float64]:
        found = pixels(piece.optical, name).astype(np.float64)
        step = found.shape[0] // 60
        return found.reshape(60, step, 60, step).mean(axis=(1, 3))[seen]

    for one, other in (("B08", "B8A"), ("B02", "B01"), ("B04", "B05"), ("B08", "B09"), ("B11", "B12")):
        assert np.corrcoef(at_60_metres(one), at_60_metres(other))[0, 1] > 0.75, (one, other)


def test_clouds_are_bright_and_their_shadows_dark(piece: Piece) -> None:
    scl = pixels(piece.optical, "SCL")
    blue = pixels(piece.optical, "B02").astype(np.float64).reshape(180, 2, 180, 2).mean(axis=(1, 3)) - 1000
    near_infrared = pixels(piece.optical, "B8A").astype(np.float64) - 1000
    assert {0, 3, 4, 9} <= set(np.unique(scl).tolist()) <= set(range(12))
    assert np.median(blue[scl == 9]) > 3 * np.median(blue[scl == 4])
    assert np.median(near_infrared[scl == 3]) < 0.75 * np.median(near_infrared[scl == 4])
    properties = json.loads(piece.optical.read_text())["properties"]
    cloudy = np.isin(scl, (8, 9, 10)).sum() / (scl > 0).sum()
    assert properties["eo:cloud_cover"] == pytest.approx(100 * cloudy, abs=1e-5)


def test_radar_is_linear_power_with_speckle(piece: Piece) -> None:
    vv, vh = (pixels(piece.radar, f"iw-{name}.rtc").astype(np.float64) for name in ("vv", "vh"))
    missing = vv == RADAR_NODATA
    np.testing.assert_array_equal(vh == RADAR_NODATA, missing)
    assert 0.001 < missing.mean() < 0.3
    assert missing[0, -1], "the swath's eastern edge leaves out the north-east"
    assert (vv[~missing] > 0).all()
    decibel = 10 * np.log10(np.array([vv[~missing].mean(), vh[~missing].mean()]))
    # BigEarthNet's means: -12.6 and -19.4 dB of sigma0.
    assert -14 < decibel[0] < -6
    assert -20 < decibel[1] < -12
    codes, _ = labels_on_grid(piece)
    forest = np.isin(codes, (311, 312, 313))[30:330, 30:330]
    values = vh[30:330, 30:330][forest & ~missing[30:330, 30:330]]
    looks = values.mean() ** 2 / values.var()
    assert 1.5 < looks < 6, "speckle of some looks"


def labels_on_grid(piece: Piece) -> tuple[NDArray[np.uint16], NDArray[np.object_]]:
    """The polygons burned on the frame's 10 m grid, 999 where there is none; and the polygons in EPSG:3035."""
    _, _, geometry, fields = pyogrio.raw.read(piece.labels)
    shapes = shapely.from_wkb(geometry)
    to_utm = Transformer.from_crs(3035, 32633, always_xy=True)
    moved = shapely.transform(shapes, lambda p: np.stack(to_utm.transform(p[:, 0], p[:, 1]), axis=1))
    codes = rasterio.features.rasterize(
        zip(moved, fields[1].astype(int), strict=True),
        (FRAME.height, FRAME.width),
        fill=999,
        transform=Affine(10, 0, WEST, 0, -10, NORTH),
        dtype="uint16",
    )
    return codes, shapes


def test_polygons_lie_in_the_official_layout(piece: Piece) -> None:
    info = pyogrio.read_info(piece.labels, layer=LABEL_LAYER)
    assert (info["crs"], info["geometry_name"], info["geometry_type"]) == ("EPSG:3035", "geom", "MultiPolygon")
    assert list(info["fields"]) == ["id", "code_18", "remark", "area_ha"]
    assert list(info["ogr_types"]) == ["OFTString", "OFTString", "OFTString", "OFTReal"]
    _, _, geometry, fields = pyogrio.raw.read(piece.labels)
    assert {int(code) for code in fields[1]} <= {code.code for code in clc2018().codes}
    np.testing.assert_allclose(fields[3], shapely.area(shapely.from_wkb(geometry)) / 1e4, atol=1e-5)
    assert len(set(fields[0])) == len(geometry)


def test_polygons_neither_overlap_nor_leave_gaps_but_for_the_hole(piece: Piece) -> None:
    codes, shapes = labels_on_grid(piece)
    assert shapely.is_valid(shapes).all()
    whole = shapely.union_all(shapes)
    assert shapely.area(shapes).sum() == pytest.approx(whole.area, abs=1.0)  # m2, of 36 km2
    rings = [ring for part in shapely.get_parts(whole) for ring in part.interiors]
    assert len(rings) == 1, "one hole and no slivers"
    # Independently: the pixels without a polygon are those around the hole's centre.
    rows, columns = np.indices(codes.shape) + 0.5
    away = np.hypot(WEST + 10 * columns - HOLE.east, NORTH - 10 * rows - HOLE.north)
    empty = codes == 999
    assert empty[away < 150].all()
    assert not empty[away > 1000].any()


def test_polygons_are_a_generalised_picture_of_the_landscape(piece: Piece) -> None:
    codes, _ = labels_on_grid(piece)
    rows, columns = np.indices(codes.shape) + 0.5
    plan = piece.land.codes[
        ((piece.land.north - NORTH + 10 * rows) // 50).astype(int),
        ((WEST - piece.land.west + 10 * columns) // 50).astype(int),
    ]
    labelled = codes != 999
    assert (codes == plan)[labelled].mean() > 0.85
    assert not np.array_equal(codes, plan)


def test_the_number_of_polygons_can_be_chosen(piece: Piece, tmp_path: Path) -> None:
    few = write_labels([(piece.land, None)], tmp_path / "few.gpkg", polygons=20)
    many = write_labels([(piece.land, None)], tmp_path / "many.gpkg", polygons=60)
    assert 12 <= few <= 28
    assert 45 <= many <= 75


def test_the_world_has_what_the_demo_shows(world: World) -> None:
    assert World.load(world.folder) == world
    positions = [(x, y) for x in range(8, 28) for y in range(8, 28)]
    assert {split_by_position(x, y) for x, y in positions} == set(Split)
    first, second = (optical_scene(read_scene(str(optical))) for optical, _ in world.scenes)
    assert (first.scene.tile, first.offset.present) == ("33UUP", True)
    assert (second.scene.tile, second.offset.present) == ("33TUN", False)
    scl = pixels(world.scenes[0][0], "SCL")
    # Each scene class that has a rule in landpatch: nodata, shadow, clouds, cirrus, snow.
    assert {0, 3, 4, 5, 6, 8, 9, 10, 11} <= set(np.unique(scl).tolist())
    codes = set(pyogrio.raw.read(world.labels)[3][1].tolist())
    assert {"112", "211", "231", "311", "312", "313", "412", "511", "512"} <= codes
    assert "124" in codes, "a cover without a class"


def test_the_catalogue_lists_every_scene(world: World) -> None:
    catalog = pystac.Catalog.from_file(str(world.catalog))
    items = {Path(item.self_href) for item in catalog.get_items(recursive=True)}
    assert items == set((world.folder / "scenes").glob("*/*.json"))
    assert {child.id for child in catalog.get_children()} == {"sentinel-2-l2a", "sentinel-1-rtc"}
    for collection in catalog.get_collections():
        members = list(collection.get_items())
        assert {item.collection_id for item in members} == {collection.id}
        bbox = shapely.box(*collection.extent.spatial.bboxes[0])
        assert all(bbox.covers(shapely.geometry.shape(item.geometry)) for item in members)
        ((first, last),) = collection.extent.temporal.intervals
        assert all(first <= item.datetime <= last for item in members)


def test_there_are_dates_to_choose_from_and_two_passes_to_pair(world: World) -> None:
    def stated(item: Path, name: str) -> float:
        return json.loads(item.read_text())["properties"][name]

    chosen, radars = world.scenes[0]
    dates = sorted((world.folder / "scenes").glob("S2*33UUP*/*.json"))
    assert len(dates) == 3
    cloudy = max(dates, key=lambda item: stated(item, "eo:cloud_cover"))
    narrow = max(dates, key=lambda item: stated(item, "s2:nodata_pixel_percentage"))
    assert len({chosen, cloudy, narrow}) == 3
    assert stated(cloudy, "eo:cloud_cover") > 40 > 10 > stated(chosen, "eo:cloud_cover")
    assert stated(narrow, "s2:nodata_pixel_percentage") > 60 > 5 > stated(chosen, "s2:nodata_pixel_percentage")
    # Neither pass sees all of the land; nearest in time first.
    assert [stated(item, "sat:orbit_state") for item in radars] == ["ascending", "descending"]
    for radar in radars:
        assert 0.005 < (pixels(radar, "iw-vv.rtc") == RADAR_NODATA).mean() < 0.3


def test_the_offset_can_be_told_from_the_pixels(world: World) -> None:
    """Dark clear pixels are above 950 with the offset and below 700 without, as in real scenes."""
    for (optical, _), present in zip(world.scenes, (True, False), strict=True):
        clear = np.isin(pixels(optical, "SCL"), (2, 4, 5, 6))
        swir = pixels(optical, "B12")[clear]
        dark = np.percentile(swir, 0.1)
        assert dark >= 950 if present else dark < 700


def test_a_world_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UnreadableAsset, match="delete the folder"):
        World.load(tmp_path)
