"""One block through the public door: small scenes in, patches, items and counts out, compared pixel by pixel."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.io import MemoryFile

from landpatch.catalog.errors import InvalidScene, UnreadableAsset
from landpatch.catalog.items import items
from landpatch.catalog.scenes import optical_scene, radar_scene
from landpatch.catalog.store import Storage
from landpatch.functions.jobs import Block, Job, Parameters
from landpatch.functions.labels import open_labels
from landpatch.functions.labels_prepare import prepare_labels
from landpatch.functions.sources import read_scene
from landpatch.functions.tile import Outcome, Progress, Sources, build_block, check_sources
from small_scenes import EPSG, RESOLUTIONS, SCENE, ULX, ULY, SmallRadar, SmallScene, write_clc

TILE_PATCHES = 91 * 91


def prepare(
    scene: Path, radars: list[Path], labels: Path | None, parameters: Parameters | None = None
) -> tuple[Job, Sources]:
    optical = read_scene(str(scene))
    parameters = parameters or Parameters()
    parsed = optical_scene(optical, offset=parameters.boa_offset)
    radar_items = tuple(radar_scene(read_scene(str(path))) for path in radars)
    sources = Sources(parsed, optical, radar_items, None if labels is None else open_labels(labels))
    ids = tuple(radar.item_id for radar in radar_items)
    name = None if labels is None else "clc"
    return Job(parsed.scene, parsed.item_id, ids, name, name, "test", parameters), sources


def run(
    job: Job, sources: Sources, storage: Storage | None = None, block: Block | None = None
) -> tuple[Storage, Outcome]:
    storage = storage or Storage.open("memory://")
    return storage, build_block(job, block or Block(), sources, storage)


def read(storage: Storage, item: dict, key: str) -> tuple[np.ndarray, rasterio.profiles.Profile, tuple[str, ...]]:
    with MemoryFile(storage.get(item["assets"][key]["href"])) as memory, memory.open() as dataset:
        return dataset.read(), dataset.profile, dataset.descriptions


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Arable land west of the middle of patch column 11, forest to the east, a lake in patch (12, 12)."""
    west, north = ULX + 1200 * 10, ULY - 1200 * 11
    gpkg = write_clc(
        tmp_path / "clc.gpkg",
        [
            (west, north - 2400, west + 1800, north, "211"),
            (west + 1800, north - 2400, west + 3600, north, "312"),
            (west + 2400, north - 1500, west + 2700, north - 1200, "512"),
        ],
    )
    prepare_labels(str(gpkg), str(tmp_path / "clc.parquet"))
    return tmp_path / "clc.parquet"


def test_every_plane_of_every_patch_is_what_the_scene_held(tmp_path: Path, labels: Path) -> None:
    scene, radar = SmallScene(), SmallRadar()
    job, sources = prepare(scene.write(tmp_path / "s2"), [radar.write(tmp_path / "s1")], labels)
    storage, outcome = run(job, sources)

    assert outcome.table.num_rows == 6
    assert outcome.dropped == {"NODATA": TILE_PATCHES - 6}
    assert outcome.objects == 30
    for item in items(outcome.table):
        x, y = item["properties"]["landpatch:x"], item["properties"]["landpatch:y"]
        assert item["id"] == f"{SCENE}_{x:02d}_{y:02d}"
        for key, asset in item["assets"].items():
            pixels, profile, names = read(storage, item, key)
            assert profile["crs"].to_epsg() == EPSG
            assert list(profile["transform"])[:6] == asset["proj:transform"]
            assert list(pixels.shape[1:]) == asset["proj:shape"]
            assert len(storage.get(asset["href"])) == asset["file:size"]
            for plane, name in zip(pixels, names, strict=True):
                if name in RESOLUTIONS:
                    assert np.array_equal(plane, scene.patch(name, x, y)), (item["id"], name)
                elif name in ("VV", "VH"):
                    assert plane.tobytes() == radar.patch(name.lower(), x, y).tobytes()
        assert item["properties"]["landpatch:s1_name"] == f"S1B_IW_GRDH_1SDV_20170612T165809_33UUP_{x}_{y}"


def test_reference_maps_and_labels_follow_the_polygons(tmp_path: Path, labels: Path) -> None:
    job, sources = prepare(SmallScene().write(tmp_path / "s2"), [SmallRadar().write(tmp_path / "s1")], labels)
    storage, outcome = run(job, sources)
    by_position = {
        (item["properties"]["landpatch:x"], item["properties"]["landpatch:y"]): item for item in items(outcome.table)
    }
    expected = np.full((240, 360), 312, np.uint16)
    expected[:, :180] = 211
    expected[120:150, 240:270] = 512
    for (x, y), item in by_position.items():
        row, column = (y - 11) * 120, (x - 10) * 120
        window = expected[row : row + 120, column : column + 120]
        assert np.array_equal(read(storage, item, "reference_map")[0][0], window)
        properties = item["properties"]
        names = {211: "Arable land", 312: "Coniferous forest", 512: "Inland waters"}
        counts = {names[code]: int((window == code).sum()) for code in np.unique(window)}
        assert dict(zip(properties["landpatch:labels"], properties["landpatch:label_pixels"], strict=True)) == counts
        assert properties["landpatch:labels"] == sorted(counts)
        assert properties["landpatch:unlabelled"] == 0


@pytest.mark.parametrize(("hole", "kept"), [(3599, True), (3600, False)])
def test_a_quarter_without_a_class_is_too_much(tmp_path: Path, hole: int, kept: bool) -> None:
    """3600 of 14400 pixels are exactly a quarter: the rule is strictly below."""
    scene = SmallScene(nx=1, ny=1)
    west, north = ULX + 12000, ULY - 1200 * 11
    # Whole rows of 120 pixels from the top, then single pixels of the next row.
    rows, rest = divmod(14400 - hole, 120)
    south = north - 10 * rows
    rectangles = [(west, south, west + 1200, north, "211")]
    if rest:
        rectangles.append((west, south - 10, west + 10 * rest, south, "211"))
    prepare_labels(str(write_clc(tmp_path / "c.gpkg", rectangles)), str(tmp_path / "c.parquet"))
    job, sources = prepare(
        scene.write(tmp_path / "s2"), [SmallRadar(nx=1, ny=1).write(tmp_path / "s1")], tmp_path / "c.parquet"
    )
    _, outcome = run(job, sources)
    assert outcome.table.num_rows == int(kept)
    assert outcome.dropped.get("UNLABELLED", 0) == int(not kept)


def test_a_code_without_a_class_counts_as_unlabelled(tmp_path: Path) -> None:
    west, north = ULX + 12000, ULY - 1200 * 11
    gpkg = write_clc(
        tmp_path / "c.gpkg",
        [(west, north - 900, west + 1200, north, "211"), (west, north - 1200, west + 1200, north - 900, "124")],
    )
    prepare_labels(str(gpkg), str(tmp_path / "c.parquet"))
    job, sources = prepare(
        SmallScene(nx=1, ny=1).write(tmp_path / "s2"),
        [SmallRadar(nx=1, ny=1).write(tmp_path / "s1")],
        tmp_path / "c.parquet",
    )
    _, outcome = run(job, sources)
    assert outcome.dropped == {"NODATA": TILE_PATCHES - 1, "UNLABELLED": 1}


@pytest.mark.parametrize("band", sorted(RESOLUTIONS))
def test_one_pixel_of_nodata_in_any_band_drops_its_patch_alone(tmp_path: Path, band: str) -> None:
    scene = SmallScene()
    scene.patch(band, 11, 12)[-1, -1] = 0
    job, sources = prepare(scene.write(tmp_path / "s2"), [SmallRadar().write(tmp_path / "s1")], None)
    _, outcome = run(job, sources)
    assert outcome.dropped == {"NODATA": TILE_PATCHES - 5}
    assert f"{SCENE}_11_12" not in outcome.table.column("id").to_pylist()


@pytest.mark.parametrize("rows", [1, 7, 91])
def test_patches_do_not_depend_on_how_the_tile_is_cut_into_blocks(tmp_path: Path, labels: Path, rows: int) -> None:
    scene = SmallScene(y0=11, ny=4)
    radar = SmallRadar(y0=11, ny=4)
    job, sources = prepare(scene.write(tmp_path / "s2"), [radar.write(tmp_path / "s1")], labels)
    whole, outcome = run(job, sources)
    pieces = Storage.open("memory://")
    ids, dropped = [], 0
    for first in range(0, 91, rows):
        _, piece = run(job, sources, pieces, Block(first, min(first + rows, 91)))
        ids += piece.table.column("id").to_pylist()
        dropped += sum(piece.dropped.values())
    assert sorted(ids) == outcome.table.column("id").to_pylist()
    assert dropped == sum(outcome.dropped.values())
    assert pieces.list() == whole.list()
    assert all(pieces.get(path) == whole.get(path) for path in whole.list())


def test_each_patch_takes_the_nearest_radar_scene_that_covers_it(tmp_path: Path) -> None:
    """The nearer scene lacks column 12; one pixel is missing in patch (10, 11); a third scene is too far in time."""
    near = SmallRadar(nx=2, seed=3)
    near.patch("vh", 10, 11)[5, 7] = np.nan
    far = SmallRadar(seed=4, name="S1A_IW_GRDH_1SDV_20170611T165809", when="2017-06-11T16:58:09Z")
    last = SmallRadar(seed=5, name="S1A_IW_GRDH_1SDV_20170601T165809", when="2017-06-01T16:58:09Z")
    paths = [r.write(tmp_path / r.name) for r in (last, far, near)]
    job, sources = prepare(SmallScene().write(tmp_path / "s2"), paths, None)
    storage, outcome = run(job, sources)
    for item in items(outcome.table):
        x, y = item["properties"]["landpatch:x"], item["properties"]["landpatch:y"]
        radar = far if x == 12 or (x, y) == (10, 11) else near
        assert item["properties"]["landpatch:s1_name"] == f"{radar.name}_33UUP_{x}_{y}"
        pixels = read(storage, item, "S1")[0]
        assert pixels[0].tobytes() == radar.patch("vv", x, y).tobytes()
        assert pixels[1].tobytes() == radar.patch("vh", x, y).tobytes()
        derived = [link["href"] for link in item["links"] if link["rel"] == "derived_from"]
        assert derived == [f"scenes/small-{SCENE}.json", f"scenes/{radar.name}_small.json"]
        assert item["properties"]["start_datetime"] == radar.when
        assert item["properties"]["end_datetime"] == item["properties"]["datetime"] == "2017-06-13T10:10:31Z"


@pytest.mark.parametrize("require", [True, False])
def test_without_full_radar_coverage_a_patch_is_dropped_or_kept_with_sentinel_2_alone(
    tmp_path: Path, require: bool
) -> None:
    job, sources = prepare(
        SmallScene().write(tmp_path / "s2"),
        [SmallRadar(nx=2).write(tmp_path / "s1")],
        None,
        Parameters(require_s1=require),
    )
    _, outcome = run(job, sources)
    if require:
        assert outcome.dropped == {"NODATA": TILE_PATCHES - 6, "NO_S1": 2}
        return
    alone = [item for item in items(outcome.table) if item["properties"]["landpatch:x"] == 12]
    assert len(alone) == 2
    for item in alone:
        assert "S1" not in item["assets"]
        assert "landpatch:s1_name" not in item["properties"]
        assert not any("sar/" in extension for extension in item["stac_extensions"])


@pytest.mark.parametrize("stored", ["present", "removed"])
def test_both_baselines_come_out_on_one_scale(tmp_path: Path, stored: str) -> None:
    """The same ground, once as baseline 02.05 stores it, once as 05.10 does (+ 1000): equal patches."""
    scene = SmallScene()
    truth = {name: pixels.copy() for name, pixels in scene.bands.items()}
    if stored == "present":
        scene.baseline = "05.10"
        scene.bands = {name: pixels + 1000 for name, pixels in scene.bands.items()}
    job, sources = prepare(scene.write(tmp_path / "s2"), [SmallRadar().write(tmp_path / "s1")], None)
    storage, outcome = run(job, sources)
    present = stored == "present"
    for column, text in (
        ("boa_offset", "removed" if present else "absent"),
        ("boa_offset_reason", "baseline 05.10 adds 1000" if present else "baseline 02.05 is older than 04.00, "),
        ("boa_offset_seen", f"0.1 percentile of clear pixels {'110' if present else '10'}"),
    ):
        values = outcome.table.column(f"landpatch:{column}").to_pylist()
        assert len(values) == 6
        assert len(set(values)) == 1
        assert values[0].startswith(text)
    assert f"offset of 1000 {'removed' if present else 'absent'}: baseline" in outcome.notes[0]
    scene.bands = truth
    for item in items(outcome.table):
        x, y = item["properties"]["landpatch:x"], item["properties"]["landpatch:y"]
        for key in ("S2_10m", "S2_20m", "S2_60m"):
            pixels, _, names = read(storage, item, key)
            for plane, name in zip(pixels, names, strict=True):
                assert np.array_equal(plane, scene.patch(name, x, y))


def test_cloud_and_snow_are_measured_flagged_and_dropped(tmp_path: Path) -> None:
    scene = SmallScene()
    scene.patch("SCL", 10, 11)[:6] = 9  # a tenth cloud
    scene.patch("SCL", 11, 11)[:3] = 3  # a twentieth shadow: from there on the flag stands
    scene.patch("SCL", 12, 11)[:12] = 11  # a fifth snow
    scene.patch("SCL", 10, 12)[:2] = 10  # too little cirrus for a flag
    path, radar = scene.write(tmp_path / "s2"), SmallRadar().write(tmp_path / "s1")
    _, outcome = run(*prepare(path, [radar], None))
    seen = {
        (row["landpatch:x"], row["landpatch:y"]): row
        for row in outcome.table.select(
            [name for name in outcome.table.column_names if name != "geometry"]
        ).to_pylist()
    }
    assert seen[10, 11]["landpatch:cloud"] == pytest.approx(0.1)
    assert seen[10, 11]["landpatch:contains_cloud_or_shadow"]
    assert seen[11, 11]["landpatch:shadow"] == pytest.approx(0.05)
    assert seen[11, 11]["landpatch:contains_cloud_or_shadow"]
    assert seen[12, 11]["eo:snow_cover"] == pytest.approx(20)
    assert seen[12, 11]["landpatch:contains_seasonal_snow"]
    assert not seen[10, 12]["landpatch:contains_cloud_or_shadow"]
    strict = Parameters(max_cloud=0.05, max_snow=0.1)
    _, outcome = run(*prepare(path, [radar], None, strict))
    assert outcome.dropped == {"NODATA": TILE_PATCHES - 6, "CLOUD": 1, "SNOW": 1}


def test_a_failed_quality_indicator_drops_the_whole_tile(tmp_path: Path) -> None:
    scene = SmallScene(properties={"s2:geometric_quality": "PASSED", "s2:sensor_quality": "FAILED"})
    job, sources = prepare(scene.write(tmp_path / "s2"), [SmallRadar().write(tmp_path / "s1")], None)
    storage, outcome = run(job, sources)
    assert outcome.dropped == {"QUALITY": TILE_PATCHES}
    assert "sensor" in outcome.notes[0]
    assert storage.list() == []


def test_jpeg_2000_scenes_give_the_same_patches(tmp_path: Path) -> None:
    radar = SmallRadar().write(tmp_path / "s1")
    geotiff, _ = run(*prepare(SmallScene().write(tmp_path / "tif"), [radar], None))
    jpeg, _ = run(*prepare(SmallScene().write(tmp_path / "jp2", driver="JP2OpenJPEG"), [radar], None))
    assert geotiff.list() == jpeg.list()
    assert all(geotiff.get(path) == jpeg.get(path) for path in geotiff.list())


def test_zstd_and_thumbnails(tmp_path: Path) -> None:
    scene = SmallScene()
    job, sources = prepare(
        scene.write(tmp_path / "s2"),
        [SmallRadar().write(tmp_path / "s1")],
        None,
        Parameters(compression="zstd", thumbnails=True),
    )
    storage, outcome = run(job, sources)
    item = next(items(outcome.table))
    pixels, profile, _ = read(storage, item, "S2_20m")
    assert profile["compress"] == "zstd"
    assert np.array_equal(pixels[0], scene.patch("B05", 10, 11))
    thumbnail = storage.get(item["assets"]["thumbnail"]["href"])
    colours = np.asarray(Image.open(io.BytesIO(thumbnail)))
    assert colours.shape == (120, 120, 3)
    red = colours[:, :, 0].astype(float)
    expected = np.clip(scene.patch("B04", 10, 11) / 2000 * 255, 0, 255)
    assert np.abs(red - expected).max() <= 1


def _wrong_crs(scene: SmallScene, folder: Path) -> str:
    from small_scenes import write_raster

    write_raster(folder / "B04.tif", scene.bands["B04"], scene.transform(10), epsg=32632, nodata=0)
    return "red"


def _wrong_resolution(scene: SmallScene, folder: Path) -> str:
    from small_scenes import write_raster

    write_raster(folder / "B05.tif", scene.bands["B02"], scene.transform(10), nodata=0)
    return "rededge1"


def _misaligned(scene: SmallScene, folder: Path) -> str:
    from affine import Affine

    from small_scenes import write_raster

    shifted = scene.transform(10) @ Affine.translation(0.5, 0)
    write_raster(folder / "B08.tif", scene.bands["B08"], shifted, nodata=0)
    return "nir"


@pytest.mark.parametrize("spoil", [_wrong_crs, _wrong_resolution, _misaligned])
def test_a_band_off_the_grid_is_named_before_anything_is_written(
    tmp_path: Path, spoil: Callable[[SmallScene, Path], str]
) -> None:
    scene = SmallScene()
    path = scene.write(tmp_path / "s2")
    key = spoil(scene, tmp_path / "s2")
    _, sources = prepare(path, [SmallRadar().write(tmp_path / "s1")], None)
    with pytest.raises(InvalidScene, match=f"asset {key} "):
        check_sources(sources)


def test_a_truncated_band_is_named(tmp_path: Path) -> None:
    scene = SmallScene()
    path = scene.write(tmp_path / "s2")
    band = tmp_path / "s2" / "B11.tif"
    band.write_bytes(band.read_bytes()[: band.stat().st_size // 2])
    with pytest.raises(UnreadableAsset, match=r"asset swir16 .*B11\.tif"):
        run(*prepare(path, [SmallRadar().write(tmp_path / "s1")], None))


def test_pixels_that_contradict_the_metadata_are_never_guessed_at(tmp_path: Path) -> None:
    """Baseline 05.10 says that 1000 was added, but pixels of 100 show that somebody took it away."""
    scene = SmallScene(baseline="05.10")
    path, radar = scene.write(tmp_path / "s2"), SmallRadar().write(tmp_path / "s1")
    with pytest.raises(InvalidScene, match=f"small-{SCENE}.*--offset absent"):
        run(*prepare(path, [radar], None))
    _, outcome = run(*prepare(path, [radar], None, Parameters(boa_offset="absent")))
    for item in items(outcome.table):
        verdict = {key: value for key, value in item["properties"].items() if "boa_offset" in key}
        assert verdict["landpatch:boa_offset"] == "absent"
        assert verdict["landpatch:boa_offset_reason"] == "as the user said"
        # The pixels are asked all the same: whoever reads the item sees that they agree.
        assert verdict["landpatch:boa_offset_seen"].startswith("0.1 percentile of clear pixels 10")
    assert outcome.table.num_rows == 6


def test_progress_is_told_and_can_stop_the_work(tmp_path: Path) -> None:
    scene, radar = SmallScene(y0=0, ny=30, nx=1, x0=0), SmallRadar(y0=0, ny=30, nx=1, x0=0)
    job, sources = prepare(scene.write(tmp_path / "s2"), [radar.write(tmp_path / "s1")], None)
    seen: list[Progress] = []
    build_block(job, Block(), sources, Storage.open("memory://"), report=seen.append)
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert seen[-1] == Progress(91, 91, 30)

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_block(job, Block(), sources, Storage.open("memory://"), report=stop)


def test_a_sink_gets_every_patch_in_order(tmp_path: Path, labels: Path) -> None:
    scene, radar = SmallScene(), SmallRadar()
    got: dict[str, tuple] = {}

    class Sink:
        def put_patch(self, patch_id, s1_name, optical, radar, reference_map) -> None:
            copies = {key: planes.copy() for key, planes in optical.items()}
            got[patch_id] = (s1_name, copies, radar.copy(), reference_map.copy())

    job, sources = prepare(scene.write(tmp_path / "s2"), [radar.write(tmp_path / "s1")], labels)
    storage = Storage.open("memory://")
    outcome = build_block(job, Block(), sources, storage, sink=Sink())
    assert sorted(got) == outcome.table.column("id").to_pylist()
    for item in items(outcome.table):
        s1_name, optical, vv_vh, reference_map = got[item["id"]]
        assert s1_name == item["properties"]["landpatch:s1_name"]
        for key, planes in optical.items():
            assert np.array_equal(planes, read(storage, item, key)[0])
        assert np.array_equal(vv_vh, read(storage, item, "S1")[0])
        assert np.array_equal(reference_map, read(storage, item, "reference_map")[0][0])
