"""What is made once for all tests: the demo world, and the stack on LocalStack. And the command line."""

import asyncio
from collections.abc import Callable, Iterator

import pytest

import local_aws
import local_stack
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


@pytest.fixture(scope="module")
def event_loop() -> Iterator[None]:
    """Handlers of the API run in the thread's event loop, which in AWS Lambda nobody closes."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture(scope="session")
def localstack(
    tmp_path_factory: pytest.TempPathFactory, component: Callable[[str, object], None]
) -> Iterator[local_stack.LocalStack]:
    """infra/template.yaml, deployed; four blocks at once, and an SNS topic that it listens to."""
    component("LocalStack (make localstack)", local_aws.PYTHON.exists())
    aws = local_aws.start(tmp_path_factory.mktemp("localstack") / "state")
    try:
        feed = aws.client("sns").create_topic(Name="feed")["TopicArn"]
        given = {"FeedTopicArn": feed, "FeedRegion": local_aws.REGION, "FeedTiles": "MGRS-33UUP"}
        yield local_stack.deploy(aws, {"BlocksAtOnce": "4", **given})
    finally:
        aws.stop()
