"""A GRD product as the Sentinel-1 half of patches: from its SAFE folder through the command line to items."""

import json
from pathlib import Path

import numpy as np
import rasterio

from demo_build import Landpatch
from landpatch.catalog.items import items
from landpatch.catalog.scenes import radar_scene
from landpatch.catalog.store import Dataset
from landpatch.functions.raster import gdal_environment
from landpatch.functions.sar import ElevationModel, open_radar
from landpatch.functions.sources import read_scene
from small_grd import GRID, PRODUCT, SmallGrd, write_dem
from small_scenes import SmallScene


def test_patches_from_a_grd_product(tmp_path: Path, landpatch: Landpatch) -> None:
    # GIVEN four patches of Sentinel-2, a GRD product around them, and an elevation model
    optical = SmallScene(x0=41, y0=41, nx=2, ny=2).write(tmp_path / "s2")
    safe = SmallGrd().write(tmp_path)
    dem = write_dem(tmp_path / "dem.tif", pixel=40, reach=20_000)
    words = ["build", optical, "--s1", safe, "--no-labels", "--to", tmp_path / "out", "--workers", 1]
    # WHEN built without saying where heights come from, THEN that is an error, and nothing is written
    refused = landpatch(*words, check=False)
    assert refused.returncode == 2
    assert "--dem" in refused.stderr
    assert not (tmp_path / "out").exists()
    # WHEN built with it
    done = landpatch(*words, "--dem", dem, "--dem-heights", "ellipsoid")
    assert done.returncode == 0, done.stderr
    # THEN the patches hold the product's sigma0, and say so
    dataset = Dataset.open(tmp_path / "out")
    built = list(items(dataset.table()))
    assert len(built) == 4
    expected = np.empty((2, 240, 10_920), np.float32)
    with gdal_environment():
        model = ElevationModel(str(dem), "ellipsoid")
        with open_radar(radar_scene(read_scene(str(safe))), GRID, model) as reader:
            reader.strip(range(41, 43), expected)
    for item in built:
        properties = item["properties"]
        assert properties["landpatch:backscatter"] == "sigma0"
        assert properties["landpatch:s1_name"].startswith(PRODUCT[:32])
        row, column = (properties["landpatch:y"] - 41) * 120, properties["landpatch:x"] * 120
        with rasterio.open(tmp_path / "out" / item["assets"]["S1"]["href"]) as source:
            assert source.read().tobytes() == expected[:, row : row + 120, column : column + 120].tobytes()
    # AND the job knows the model; the same command again changes nothing
    job = json.loads(next((tmp_path / "out/jobs").glob("*/job.json")).read_text())
    assert job["parameters"]["dem"] == str(dem)
    assert job["parameters"]["dem_heights"] == "ellipsoid"
    again = landpatch(*words, "--dem", dem, "--dem-heights", "ellipsoid", "--json")
    assert json.loads(again.stdout)["changed"] is False


def test_patches_of_flattened_gamma0(tmp_path: Path, landpatch: Landpatch) -> None:
    optical = SmallScene(x0=41, y0=41, nx=2, ny=2).write(tmp_path / "s2")
    safe = SmallGrd().write(tmp_path)
    dem = write_dem(tmp_path / "dem.tif", pixel=40, reach=20_000)
    words = ["build", optical, "--s1", safe, "--no-labels", "--to", tmp_path / "out", "--workers", 1, "--dem", dem]
    # WHEN built as gamma0-terrain, THEN items and job say so, and the patches hold it
    landpatch(*words, "--backscatter", "gamma0-terrain")
    built = list(items(Dataset.open(tmp_path / "out").table()))
    assert [item["properties"]["landpatch:backscatter"] for item in built] == ["gamma0-terrain"] * 4
    expected = np.empty((2, 240, 10_920), np.float32)
    with gdal_environment():
        scene = radar_scene(read_scene(str(safe)), backscatter="gamma0-terrain")
        with open_radar(scene, GRID, ElevationModel(str(dem))) as reader:
            reader.strip(range(41, 43), expected)
    for item in built:
        row, column = (item["properties"]["landpatch:y"] - 41) * 120, item["properties"]["landpatch:x"] * 120
        with rasterio.open(tmp_path / "out" / item["assets"]["S1"]["href"]) as source:
            assert source.read().tobytes() == expected[:, row : row + 120, column : column + 120].tobytes()
    job = json.loads(next((tmp_path / "out/jobs").glob("*/job.json")).read_text())
    assert job["parameters"]["backscatter"] == "gamma0-terrain"
    # AND sigma0 of the same scene is another dataset
    other = landpatch(*words, check=False)
    assert other.returncode != 0
    assert "parameters" in other.stderr
