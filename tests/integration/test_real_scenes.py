"""The whole line on real scenes: what comes out is what the published dataset holds."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import rasterio
from rasterio.windows import Window

from demo_build import Landpatch
from landpatch.catalog.items import items
from landpatch.catalog.schemas import validate_collection, validate_item
from landpatch.catalog.store import Dataset

TILE_PATCHES = 91 * 91
SCENE = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"
PUBLISHED = f"{SCENE}_26_57"
NATIVE = {10: ("B02", "B03", "B04", "B08"), 20: ("B05", "B06", "B07", "B8A", "B11", "B12"), 60: ("B01", "B09")}
EXPECTED_KEYS = ("S2_10m", "S2_20m", "S2_60m", "S1")


@pytest.fixture(scope="session")
def scene(shared_data: Path) -> tuple[Path, Path]:
    folder = shared_data / "scene-33uup"
    return (
        folder / SCENE / "S2A_33UUP_20170613_0_L2A.json",
        folder / "S1B_IW_GRDH_1SDV_20170612T165809" / "S1B_IW_GRDH_1SDV_20170612T165809_33UUP.json",
    )


@pytest.fixture(scope="session")
def unlabelled(tmp_path_factory: pytest.TempPathFactory, landpatch: Landpatch, scene: tuple[Path, Path]) -> Path:
    """The 14 published patches of the sparse scene, built without labels."""
    folder = tmp_path_factory.mktemp("real") / "dataset"
    result = landpatch("build", scene[0], "--s1", scene[1], "--no-labels", "--to", folder, "--json")
    answer = json.loads(result.stdout)
    assert answer["kept"] == 14
    assert answer["dropped"] == {"NODATA": TILE_PATCHES - 14}
    return folder


def planes(dataset: Dataset, item: dict) -> dict[str, np.ndarray]:
    found = {}
    for asset in item["assets"].values():
        with rasterio.open(Path(dataset.storage.url) / asset["href"]) as source:
            found |= dict(zip(source.descriptions, source.read(), strict=True))
    return found


def test_built_without_labels_the_14_patches_come_out_bit_for_bit(
    shared_data: Path, unlabelled: Path, scene: tuple[Path, Path]
) -> None:
    folder = shared_data / "scene-33uup"
    names = json.loads((folder / "patches.json").read_text())
    dataset = Dataset.open(unlabelled)
    found = list(items(dataset.table()))
    assert [item["id"] for item in found] == sorted(names[SCENE])
    assert sorted(item["properties"]["landpatch:s1_name"] for item in found) == sorted(
        names["S1B_IW_GRDH_1SDV_20170612T165809"]
    )
    compared = 0
    for item in found:
        x, y = item["properties"]["landpatch:x"], item["properties"]["landpatch:y"]
        patch = planes(dataset, item)
        for resolution, bands in NATIVE.items():
            px = 1200 // resolution
            for band in bands:
                with rasterio.open(scene[0].parent / f"{band}.tif") as source:
                    window = source.read(1, window=Window(x * px, y * px, px, px))
                assert patch[band].tobytes() == window.tobytes(), (item["id"], band)
                compared += 1
        for polarisation in ("VV", "VH"):
            with rasterio.open(scene[1].parent / f"{polarisation.lower()}.tif") as source:
                window = source.read(1, window=Window(x * 120, y * 120, 120, 120))
            assert patch[polarisation].tobytes() == window.tobytes(), (item["id"], polarisation)
            compared += 1
    assert compared == 14 * 14


def test_discovered_and_built_the_14_patches_come_out_as_from_their_items(
    tmp_path: Path, shared_data: Path, landpatch: Landpatch, unlabelled: Path, scene: tuple[Path, Path]
) -> None:
    """The two items as an item collection, asked for by place and time; what is found is built."""
    items_of = [json.loads(path.read_text()) for path in scene]
    for item, path in zip(items_of, scene, strict=True):
        for asset in item["assets"].values():
            asset["href"] = str(path.parent / asset["href"])
    catalogue, listed = tmp_path / "catalogue.json", tmp_path / "scenes.json"
    catalogue.write_text(json.dumps({"type": "FeatureCollection", "features": items_of}))
    found = landpatch(
        *("discover", "--source", catalogue, "--tiles", "33UUP", "--from", "2017-06-01", "--to", "2017-06-30"),
        *("-o", listed, "--json"),
    )
    (row,) = map(json.loads, found.stdout.splitlines())
    assert (row["item"], row["s1"], row["s1_gap_hours"], row["s1_coverage"]) == (
        "S2A_33UUP_20170613_0_L2A",
        ["S1B_IW_GRDH_1SDV_20170612T165809_33UUP"],
        17.2,
        1.0,
    )
    answer = json.loads(landpatch("build", listed, "--no-labels", "--to", tmp_path / "d", "--json").stdout)
    assert (answer["kept"], answer["dropped"]) == (14, {"NODATA": TILE_PATCHES - 14})
    files = sorted(path.relative_to(unlabelled) for path in (unlabelled / "patches").rglob("*.tif"))
    assert len(files) == 14 * len(EXPECTED_KEYS)
    for file in files:
        assert (tmp_path / "d" / file).read_bytes() == (unlabelled / file).read_bytes()


def test_with_labels_the_published_patch_comes_out_with_its_map_and_its_row(
    tmp_path: Path, shared_data: Path, landpatch: Landpatch, scene: tuple[Path, Path]
) -> None:
    folder = shared_data / "scene-33uup"
    labels = tmp_path / "clc.parquet"
    landpatch("labels", "prepare", folder / "clc2018_26_57.gpkg", labels)
    landpatch("build", scene[0], "--s1", scene[1], "--labels", labels, "--to", tmp_path / "dataset")
    dataset = Dataset.open(tmp_path / "dataset")
    (item,) = items(dataset.table())
    assert item["id"] == PUBLISHED
    with rasterio.open(folder / f"{PUBLISHED}_reference_map.tif") as source:
        published = source.read(1)
    assert np.array_equal(planes(dataset, item)["Data"], published)
    table = pq.read_table(shared_data / "bigearthnet-v2" / "metadata.parquet")
    (truth,) = table.filter(pc.field("patch_id") == PUBLISHED).to_pylist()
    (row,) = pq.read_table(tmp_path / "dataset" / "metadata.parquet").to_pylist()
    same = ("patch_id", "labels", "split", "s1_name", "contains_seasonal_snow", "contains_cloud_or_shadow")
    assert {name: row[name] for name in same} == {name: truth[name] for name in same}
    assert dataset.collection()["landpatch:dropped"] == {"NODATA": TILE_PATCHES - 14, "UNLABELLED": 13}
    status = landpatch("status", tmp_path / "dataset", "--json")
    (line,) = map(json.loads, status.stdout.splitlines())
    assert (line["state"], line["kept"]) == ("SUCCEEDED", 1)


def test_items_and_collection_are_valid_and_say_what_the_files_say(unlabelled: Path) -> None:
    dataset = Dataset.open(unlabelled)
    validate_collection(dataset.collection())
    for item in items(dataset.table()):
        validate_item(item)
        assert set(item["assets"]) == set(EXPECTED_KEYS)
        for asset in item["assets"].values():
            path = unlabelled / asset["href"]
            data = path.read_bytes()
            assert asset["file:size"] == len(data)
            assert asset["file:checksum"] == "1220" + hashlib.sha256(data).hexdigest()
            with rasterio.open(path) as source:
                assert item["properties"]["proj:code"] == f"EPSG:{source.crs.to_epsg()}"
                assert asset["proj:transform"] == list(source.transform)[:6]
                assert asset["proj:shape"] == [source.height, source.width]
                assert asset["data_type"] == source.dtypes[0]
                assert asset.get("nodata") == source.nodata
                assert [band["name"] for band in asset["bands"]] == list(source.descriptions)


def test_every_file_passes_rio_cogeo(unlabelled: Path) -> None:
    from rio_cogeo.cogeo import cog_validate

    files = sorted((unlabelled / "patches").rglob("*.tif"))
    assert len(files) == 14 * 4
    for file in files:
        valid, errors, warnings = cog_validate(file, strict=True)
        assert valid, (file.name, errors, warnings)


def test_the_parquet_opens_in_other_programs_with_the_same_rows(unlabelled: Path) -> None:
    import asyncio

    import duckdb
    import geopandas
    import rustac
    import stac_geoparquet.arrow

    path = unlabelled / "items.parquet"
    ids = sorted(pq.read_table(path, columns=["id"]).column("id").to_pylist())
    assert len(ids) == 14

    frame = geopandas.read_parquet(path)
    assert sorted(frame["id"]) == ids
    utm = frame.to_crs(32633)
    assert np.allclose(utm.area, 1200 * 1200, rtol=1e-5)

    assert sorted(row[0] for row in duckdb.sql(f"select id from '{path}'").fetchall()) == ids

    async def by_rustac() -> dict:
        return await rustac.read(str(path))

    collection = asyncio.run(by_rustac())
    assert sorted(feature["id"] for feature in collection["features"]) == ids

    reader = pq.ParquetFile(path).read()
    again = list(stac_geoparquet.arrow.stac_table_to_items(reader))
    assert sorted(item["id"] for item in again) == ids
    ours = {item["id"]: item for item in items(Dataset.open(unlabelled).table())}
    for item in again:
        assert item["properties"]["landpatch:split"] == ours[item["id"]]["properties"]["landpatch:split"]
        assert item["assets"]["S2_10m"]["href"] == ours[item["id"]]["assets"]["S2_10m"]["href"]


BRANDENBURG = "S2A_MSIL1C_20170216T102101_N0204_R065_T33UUU"


def test_brandenburg_from_jpeg_2000_with_osm_labels(tmp_path: Path, shared_data: Path, landpatch: Landpatch) -> None:
    """L1C, native crop: 72 whole patches; labels are OpenStreetMap's by a nomenclature of ours."""
    folder = shared_data / "brandenburg-l1c"
    bands = [band for group in NATIVE.values() for band in group]
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "brandenburg",
        "geometry": None,
        "properties": {"datetime": "2017-02-16T10:21:01Z", "s2:product_uri": f"{BRANDENBURG}_20170216T102204.SAFE"},
        "links": [],
        "assets": {
            band: {"href": str(folder / "IMG_DATA" / f"T33UUU_20170216T102101_{band}.jp2"), "type": "image/jp2"}
            for band in bands
        },
    }
    (tmp_path / "item.json").write_text(json.dumps(item))
    labels = tmp_path / "osm.parquet"
    source = folder / "gis_osm_landuse-water_a_free_1_area-10000-to-500000.gpkg"
    nomenclature = Path(__file__).parents[1] / "data" / "osm_landuse.csv"
    landpatch("labels", "prepare", source, labels, "--nomenclature", nomenclature, "--code-column", "fclass")
    arguments = ["build", tmp_path / "item.json", "--s2-only", "--labels", labels, "--max-unlabelled", "1"]
    answer = json.loads(landpatch(*arguments, "--to", tmp_path / "d", "--json").stdout)
    # One pixel of B8A is 0 in this lossy JPEG 2000 (row 164, column 465): nodata by the published rule, so that its
    # patch is dropped unless the user allows it.
    plain = ["build", tmp_path / "item.json", "--s2-only", "--no-labels", "--json", "--to"]
    strict = json.loads(landpatch(*plain, tmp_path / "strict").stdout)
    assert (strict["kept"], strict["dropped"]) == (71, {"NODATA": TILE_PATCHES - 71})
    assert f"{BRANDENBURG}_32_67" not in Dataset.open(tmp_path / "strict").table(["id"]).column("id").to_pylist()
    assert json.loads(landpatch(*plain, tmp_path / "n", "--max-nodata", "1").stdout)["kept"] == 72
    # OSM covers little of the ground: what has no polygon at all is dropped, whatever the limit.
    assert answer["kept"] + answer["dropped"].get("UNLABELLED", 0) == 71
    assert answer["kept"] > 36

    dataset = Dataset.open(tmp_path / "n")
    found = list(items(dataset.table()))
    positions = {(item["properties"]["landpatch:x"], item["properties"]["landpatch:y"]) for item in found}
    assert positions == {(x, y) for x in range(25, 37) for y in range(65, 71)}
    arrays = {}
    for resolution, names in NATIVE.items():
        for band in names:
            with rasterio.open(folder / "IMG_DATA" / f"T33UUU_20170216T102101_{band}.jp2") as source_band:
                arrays[band] = (1200 // resolution, source_band.read(1))
    for item in found:
        assert item["properties"]["processing:level"] == "L1C"
        x, y = item["properties"]["landpatch:x"] - 25, item["properties"]["landpatch:y"] - 65
        for name, plane in planes(dataset, item).items():
            px, whole = arrays[name]
            assert np.array_equal(plane, whole[y * px : (y + 1) * px, x * px : (x + 1) * px]), (item["id"], name)

    labelled = Dataset.open(tmp_path / "d")
    known = set(labelled.nomenclature().classes)
    seen = set()
    for item in items(labelled.table()):
        assert set(item["properties"]["landpatch:labels"]) <= known
        seen |= set(item["properties"]["landpatch:labels"])
    assert len(seen) >= 5


def test_a_tile_reduced_to_100_m_is_refused_and_nothing_is_written(
    tmp_path: Path, shared_data: Path, landpatch: Landpatch
) -> None:
    (item_path,) = (shared_data / "s2-29rkh-fulltile").rglob("S2A_29RKH_20200219_0_L2A.json")
    item = json.loads(item_path.read_text())
    for asset in item["assets"].values():
        asset["href"] = str(item_path.parent / Path(asset["href"]).name)
    (tmp_path / "item.json").write_text(json.dumps(item))
    arguments = ("build", tmp_path / "item.json", "--s2-only", "--no-labels", "--to", tmp_path / "dataset")
    result = landpatch(*arguments, check=False)
    assert result.returncode == 4
    assert "S2A_29RKH_20200219_0_L2A" in result.stderr
    assert "100 x 100 m" in result.stderr or "600 x 600 m" in result.stderr
    assert not (tmp_path / "dataset").exists()


def test_a_real_scene_and_a_damaged_one_side_by_side(
    tmp_path: Path, landpatch: Landpatch, scene: tuple[Path, Path]
) -> None:
    """One bad scene never stops the others."""
    bad = tmp_path / "bad"
    shutil.copytree(scene[0].parent, bad, copy_function=shutil.copyfile)
    band = bad / "B11.tif"
    band.write_bytes(band.read_bytes()[: band.stat().st_size // 2])
    item = json.loads((bad / scene[0].name).read_text())
    item["id"] = "damaged"
    item["properties"]["s2:product_uri"] = "S2B_MSIL2A_20170618T101031_N9999_R022_T33UUP_20240101T000000.SAFE"
    (bad / "item.json").write_text(json.dumps(item))
    target = tmp_path / "dataset"
    result = landpatch(
        "build", scene[0], bad / "item.json", "--s1", scene[1], "--no-labels", "--to", target, "--json", check=False
    )
    assert result.returncode == 3
    answer = json.loads(result.stdout)
    assert answer["kept"] == 14
    failed = [block for block in answer["blocks"] if block["state"] == "FAILED"]
    assert len(failed) == 1
    assert "swir16" in failed[0]["error"]
    assert len(Dataset.open(target).table(["id"])) == 14
    assert "B11.tif" in landpatch("status", target).stdout
