"""The demo world, generated once for all tests that build from it, and the command line."""

import pytest

from demo_build import DemoWorld, Landpatch, run_landpatch
from landpatch.functions.building import ScenePair
from landpatch.functions.demo.world import make_world
from landpatch.functions.labels_prepare import prepare_labels
from landpatch.functions.sources import read_scene


@pytest.fixture(scope="session")
def demo_world(tmp_path_factory: pytest.TempPathFactory) -> DemoWorld:
    folder = tmp_path_factory.mktemp("world")
    world = make_world(folder / "world")
    labels = folder / "labels.parquet"
    prepare_labels(str(world.labels), str(labels))
    pairs = [ScenePair(read_scene(str(s2)), tuple(read_scene(str(s1)) for s1 in s1s)) for s2, s1s in world.scenes]
    return DemoWorld(world.scenes, pairs, labels)


@pytest.fixture(scope="session")
def landpatch() -> Landpatch:
    return run_landpatch
