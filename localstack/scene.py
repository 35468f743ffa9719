"""``make localstack``: LocalStack with the stack on it, and one scene of the demo world sent through it.

``scene.py up`` leaves it running in .cache/localstack, ``scene.py down`` ends it.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import local_aws
import local_stack
from landpatch.catalog.items import items
from landpatch.catalog.names import SceneId
from landpatch.catalog.store import Dataset, Storage
from landpatch.functions.console import counting, out, say
from landpatch.functions.demo.world import World, make_world
from landpatch.functions.jobs import Ledger, State
from landpatch.functions.labels_prepare import prepare_labels

FOLDER = local_aws.CHECKOUT / ".cache/localstack"
PORT = 4566
"""LocalStack's own; another one is taken where that is in use."""
BLOCK_ROWS = "13"
"""So that the map has something to fan out over."""
PATIENCE_SECONDS = 600
"""A scene takes less than a minute; functions start slowly on a busy machine."""
SHOWN = 5
"""Patches that are shown of some hundred."""


def up() -> None:
    """Start, deploy, feed a scene, show what became of it. What did not come so far is ended again."""
    begun = time.monotonic()
    if (FOLDER / "environment").exists() and (aws := local_aws.running(FOLDER)):
        say("LocalStack is up already (make localstack-down ends it)")
        show(local_stack.deployed(aws))
        return
    try:
        with told("LocalStack starts"):
            aws = local_aws.start(FOLDER, PORT)
        with told("The demo world is made"), counting("Steps") as count:
            world = make_world(FOLDER / "world", progress=count)
        with told("infra/template.yaml is deployed"), counting("Resources") as count:
            given = {"Labels": labels(aws, world), "BlockRows": BLOCK_ROWS, "BlocksAtOnce": str(os.cpu_count())}
            stack = local_stack.deploy(aws, given, count)
        os.environ.update(stack.environment)
        listed = scene_list(stack, world.scenes[0])
        (FOLDER / "scenes.json").write_text(json.dumps(listed))
        with told("A scene goes from the inbox into the catalogue"), counting("Blocks") as count:
            feed(stack, listed, count)
        (FOLDER / "environment").write_text(environment(stack))
    except BaseException:
        say(f"Ended again; logs: {FOLDER}/localstack.log and {FOLDER}/lambda")
        local_aws.end(FOLDER)
        raise
    show(stack)
    say(f"All of it took {time.monotonic() - begun:.0f} s and {_memory(FOLDER)}")


def down() -> None:
    """End it, and what was left behind by one that was killed."""
    ended = local_aws.end(FOLDER)
    shutil.rmtree(FOLDER, ignore_errors=True)
    say(f"LocalStack and its functions are ended: {ended} processes" if ended else "LocalStack does not run")


@contextmanager
def told(what: str) -> Iterator[None]:
    """Says what is done, and how long it took."""
    say(f"{what} ...")
    begun = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - begun:.0f} s")


def labels(aws: local_aws.LocalAws, world: World) -> str:
    """The world's polygons, prepared and put where functions can read them."""
    target = FOLDER / "labels.parquet"
    prepare_labels(world.labels, target)
    return local_stack.store(aws, "labels/clc2018_demo.parquet", target)


def scene_list(stack: local_stack.LocalStack, *scenes: tuple[Path, list[Path]]) -> dict[str, Any]:
    """Sentinel-2 items, each with its Sentinel-1 items, their files on the LocalStack's S3."""
    features = []
    for optical, radars in scenes:
        scene, *pairs = [_uploaded(stack, path) for path in (optical, *radars)]
        scene["links"] = [{"rel": "landpatch:pair", "href": f"#{pair['id']}"} for pair in pairs]
        features += [scene, *pairs]
    return {"type": "FeatureCollection", "features": features}


def _uploaded(stack: local_stack.LocalStack, path: Path) -> dict[str, Any]:
    """An item, its files on the LocalStack's S3."""
    item: dict[str, Any] = json.loads(path.read_text())
    for asset in item["assets"].values():
        file = path.parent / asset["href"]
        asset["href"] = local_stack.store(stack.aws, f"scenes/{item['id']}/{file.name}", file)
    return item


def feed(stack: local_stack.LocalStack, listed: dict[str, Any], count: Any) -> None:
    """Put the scene list into the inbox, and wait for the catalogue."""
    stack.client("s3").put_object(Bucket=stack.outputs["InboxBucket"], Key="scenes.json", Body=json.dumps(listed))
    storage = Storage.open(stack.outputs["Dataset"])
    ledger, scene = Ledger(storage), SceneId.parse(Path(listed["features"][0]["properties"]["s2:product_uri"]).stem)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not storage.exists("items.parquet"):
        if time.monotonic() > deadline:
            sys.exit(f"No catalogue after {PATIENCE_SECONDS} s")
        if job := ledger.job(scene):
            states = [ledger.entry(scene, block).state for block in job.blocks]
            count(len(states) - sum(state is State.PENDING or state.active for state in states), len(states))
        time.sleep(1)


def show(stack: local_stack.LocalStack) -> None:
    """What there is: blocks with their states and reasons, some patches, and where to look further."""
    os.environ.update(stack.environment)
    dataset = stack.outputs["Dataset"]
    subprocess.run([sys.executable, "-m", "landpatch.functions", "status", dataset], check=True)
    patches = list(items(Dataset.open(dataset).table()))
    out(f"\n{len(patches)} patches in {dataset}/items.parquet, such as")
    for patch in patches[:: max(1, len(patches) // SHOWN)][:SHOWN]:
        named = patch["properties"]
        out(f"  {patch['id']}  {named['landpatch:split']}: {', '.join(named['landpatch:labels'])}")
        out(f"    {dataset}/{patch['assets']['S2_10m']['href']}")
    out("\nThe stack's outputs:")
    for name, value in sorted(stack.outputs.items()):
        out(f"  {name:20} {value}")
    out("\nTo look further, with AWS_ENDPOINT_URL, keys, and aws and landpatch on the PATH:")
    out(f"  . {FOLDER.relative_to(local_aws.CHECKOUT)}/environment")
    for command in ("landpatch status {} --log", "landpatch status {} --cost", "landpatch serve {}"):
        out(f"  {command.format(dataset)}")
    out(f"  aws s3 ls --recursive {dataset}/\n  curl {stack.outputs['ApiUrl']}collections")
    out("Another scene: docs/aws.md. What functions wrote: .cache/localstack/lambda. The end: make localstack-down")


def environment(stack: local_stack.LocalStack) -> str:
    """What a shell reads in order to take this LocalStack for AWS."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in stack.environment.items()]
    folders = ":".join(str(local_aws.CHECKOUT / folder) for folder in (".venv/bin", ".venv-localstack/bin"))
    lines.append(f'export PATH={shlex.quote(folders)}:"$PATH"')
    # Version 1 of the AWS CLI sends SQS's commands to AWS, whatever AWS_ENDPOINT_URL says.
    lines.append('aws() { command aws --endpoint-url "$AWS_ENDPOINT_URL" "$@"; }')
    return "\n".join([*lines, ""])


def _memory(folder: Path) -> str:
    held = [process.memory_info().rss for process in local_aws.processes(folder)]
    return f"{sum(held) / 1e9:.1f} GB are held by {len(held)} processes"


if __name__ == "__main__":
    try:
        {"up": up, "down": down}[sys.argv[1]]()
    except KeyboardInterrupt:
        sys.exit(130)
