"""What the functions take, on LocalStack: cold starts; memory, time, requests and bytes of a full-size block. And
whether the demo world becomes, byte for byte, what the local engine makes of it.

    nice -n 10 .venv/bin/python tests/benchmarks/cloud_figures.py     # after make bench, whose tile it takes

Prints what docs/aws.md tells. Functions are processes of this machine, S3 is LocalStack's with about a hundred small
PUTs a second: a block's seconds are an upper bound, its CPU seconds the better guess.
"""

import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "localstack"))

import boto3  # noqa: E402
import botocore.config  # noqa: E402
import psutil  # noqa: E402

import local_aws  # noqa: E402
import local_stack  # noqa: E402
import scene  # noqa: E402
from landpatch.catalog.names import SceneId  # noqa: E402
from landpatch.catalog.store import Storage  # noqa: E402
from landpatch.functions.building import ScenePair, build, record_jobs  # noqa: E402
from landpatch.functions.demo.world import make_world  # noqa: E402
from landpatch.functions.jobs import Block, Ledger  # noqa: E402
from landpatch.functions.labels_prepare import prepare_labels  # noqa: E402
from landpatch.functions.sources import prepared_labels, read_pairs  # noqa: E402

CACHE = Path(os.environ.get("LANDPATCH_BENCH", CHECKOUT / ".cache/bench"))
ROWS = 13
REPORT = re.compile(r"Duration: ([\d.]+) ms\t.*Max Memory Used: (\d+) MB(?:\tInit Duration: ([\d.]+) ms)?")


def main() -> None:
    """Start, measure, end."""
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="landpatch-figures-") as folder:
        begun = time.monotonic()
        aws = local_aws.start(Path(folder) / "localstack")
        try:
            print(f"LocalStack starts: {time.monotonic() - begun:.0f} s")
            os.environ.update(aws.environment)
            begun = time.monotonic()
            world = make_world(Path(folder) / "world")
            prepare_labels(world.labels, Path(folder) / "labels.parquet")
            print(f"the demo world: {time.monotonic() - begun:.0f} s")
            labels = local_stack.store(aws, "labels.parquet", Path(folder) / "labels.parquet")
            begun = time.monotonic()
            stack = local_stack.deploy(aws, {"Labels": labels, "BlocksAtOnce": "2"})
            print(f"the stack: {time.monotonic() - begun:.0f} s")
            demo_world(stack, world.scenes, labels, Path(folder) / "local")
            starts(stack, full_block(stack))
        finally:
            aws.stop()


def demo_world(stack: Any, scenes: list[tuple[Path, list[Path]]], labels: str, local: Path) -> None:
    """Both scenes of the demo through the inbox, and by the local engine: the same bytes."""
    listed = scene.scene_list(stack, *scenes)
    begun = time.monotonic()
    scene.feed(stack, listed, lambda *_: None)
    seconds = time.monotonic() - begun
    (local.parent / "scenes.json").write_text(json.dumps(listed))
    pairs = [ScenePair(*pair) for pair in read_pairs([str(local.parent / "scenes.json")])]
    result = build(pairs, str(local), labels=prepared_labels(labels, str(local)))
    ours, theirs = Storage.open(local), Storage.open(stack.outputs["Dataset"])
    paths = [path for path in ours.list() if not path.startswith("jobs/")]
    assert paths == [path for path in theirs.list() if not path.startswith("jobs/")]
    other = [path for path in paths if ours.get(path) != theirs.get(path)]
    print(
        f"demo world: {result.kept} patches in {seconds:.0f} s, {len(paths)} files, {len(other)} of them not as local"
    )


def starts(stack: Any, done: dict[str, str]) -> None:
    """A first invocation, in a new process, and a second: seconds of initialisation and of each; memory. Of tile with
    a block that is done: what it takes to start, not to build.
    """
    call = {"requestContext": {"http": {"method": "GET", "path": "/"}, "domainName": "localhost"}, "rawPath": "/"}
    call |= {"version": "2.0", "headers": {}, "rawQueryString": "", "isBase64Encoded": False}
    events = {"Plan": {"waiting": True}, "Index": {}, "Api": call, "Tile": done}
    functions = stack.client("lambda")
    for name, event in events.items():
        function = stack.outputs[f"{name}FunctionName"]
        settings = functions.get_function_configuration(FunctionName=function)
        variables = {**settings["Environment"]["Variables"], "MEASURED": "1"}  # other settings: a new process
        functions.update_function_configuration(FunctionName=function, Environment={"Variables": variables})
        functions.get_waiter("function_updated_v2").wait(FunctionName=function)
        rows = [_reported(stack, function, event) for _ in range(2)]
        (first, memory, init), (second, _, _) = rows
        print(f"{function}: init {init:.1f} s, first {first:.2f} s, second {second:.2f} s, {memory} MB")


def full_block(stack: Any) -> dict[str, str]:
    """Rows 39 to 51 of the benchmark's tile, all 1,183 patches kept: what Lambda would bill with TileMemory."""
    record = json.loads((CACHE / "tile-33UUP/tile.json").read_text())
    folder, dataset = CACHE / "tile-33UUP", f"s3://{stack.outputs['DatasetBucket']}/full"
    labels = local_stack.store(stack.aws, "full.parquet", folder / record["labels"])
    scenes = Path(stack.aws.folder) / "full.json"
    scenes.write_text(json.dumps(scene.scene_list(stack, (folder / record["optical"], [folder / record["radar"]]))))
    pairs = [ScenePair(*pair) for pair in read_pairs([str(scenes)])]
    _, (job,) = record_jobs(
        pairs, dataset, labels=labels, parameters=None, collection="full", block_rows=ROWS, refused={}
    )
    block = Block(39, 52)
    function = stack.outputs["TileFunctionName"]
    event = {"dataset": dataset, "scene": str(job.scene), "block": block.name, "plan": "figures"}
    before = _cpu_seconds(stack, function)
    seconds, memory, _ = _reported(stack, function, event)
    cpu = _cpu_seconds(stack, function) - before
    entry = Ledger(Storage.open(dataset)).entry(SceneId.parse(str(job.scene)), block)
    used = entry.usage.traffic
    print(f"{ROWS} rows of a full tile: {entry.kept} patches, {seconds:.0f} s, {cpu:.0f} CPU s, {memory} MB at most")
    print(
        f"  {entry.usage.gb_seconds:.0f} GB-s; {used.writes} writes, {used.reads} reads, {used.lists} lists;", end=" "
    )
    print(f"{used.bytes_written / 1e6:.0f} MB written, {used.bytes_read / 1e6:.1f} MB read of dataset and labels")
    return event


def _cpu_seconds(stack: Any, function: str) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in stack.pids(function)]
    return sum(time.user + time.system for time in times)


def _reported(stack: Any, function: str, event: dict[str, Any]) -> tuple[float, int, float]:
    """Seconds, MB, seconds of initialisation (0: warm) of one invocation, by the line that Lambda ends it with."""
    # A block takes minutes here, and an invocation that is given up is sent again.
    patient = botocore.config.Config(read_timeout=900, retries={"total_max_attempts": 1})
    functions = boto3.client("lambda", config=patient)
    answer = functions.invoke(FunctionName=function, Payload=json.dumps(event), LogType="Tail")
    assert "FunctionError" not in answer, answer["Payload"].read()
    logs = (stack.aws.folder / "lambda" / function).glob("*.log")
    newest = max(logs, key=lambda path: path.stat().st_mtime)
    duration, memory, init = REPORT.findall(newest.read_text())[-1]
    return float(duration) / 1000, int(memory), float(init or 0) / 1000


if __name__ == "__main__":
    main()
