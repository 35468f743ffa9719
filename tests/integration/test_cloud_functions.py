"""The functions in the cloud, called as Lambda calls them, against S3, Step Functions and EventBridge of moto.

What only shows when Step Functions and SQS do their part is in test_localstack.py.
"""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import orjson
import pytest

from aws_requests import Asked, recorded
from demo_build import Landpatch
from infra_templates import covered, granted, read_resources
from lambda_context import Context
from landpatch.catalog.compaction import compact
from landpatch.catalog.names import SceneId
from landpatch.catalog.store import Dataset, Storage
from landpatch.functions.blocks import BlockFailed, BlockInvalid, BlockOutOfTime
from landpatch.functions.engines.aws import Plan, StateMachine
from landpatch.functions.handlers import api, index, plan, tile
from landpatch.functions.jobs import Block, Ledger, State
from s3_server import serve_s3
from small_scenes import SCENE, SmallRadar, SmallScene

BUCKET = "landpatch-cloud"
DATASET = f"s3://{BUCKET}/europe"


@dataclass
class Cloud:
    s3: Any
    machine: str
    queue: str

    def put(self, folder: Path, prefix: str) -> str:
        """Upload a scene's folder; the address of its item."""
        for file in folder.iterdir():
            self.s3.upload_file(str(file), BUCKET, f"{prefix}/{file.name}")
        return f"s3://{BUCKET}/{prefix}/item.json"

    def executions(self) -> list[str]:
        pages = boto3.client("stepfunctions").list_executions(stateMachineArn=self.machine)
        return [row["name"] for row in pages["executions"]]

    def end(self, name: str) -> None:
        arn = self.machine.replace(":stateMachine:", ":execution:") + f":{name}"
        boto3.client("stepfunctions").stop_execution(executionArn=arn)

    def announced(self) -> list[dict[str, Any]]:
        client, found = boto3.client("sqs"), []
        while messages := client.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                found.append(json.loads(message["Body"]))
                client.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
        return found


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    with serve_s3(monkeypatch, BUCKET) as s3:
        role = "arn:aws:iam::123456789012:role/any"
        machine = boto3.client("stepfunctions").create_state_machine(
            name="landpatch-blocks",
            definition='{"StartAt": "Map", "States": {"Map": {"Type": "Pass", "End": true}}}',
            roleArn=role,
        )["stateMachineArn"]
        sqs, events = boto3.client("sqs"), boto3.client("events")
        queue = sqs.create_queue(QueueName="published")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        events.put_rule(Name="published", EventPattern='{"source": ["landpatch"]}')
        events.put_targets(Rule="published", Targets=[{"Id": "queue", "Arn": arn}])
        for name, value in (
            ("LANDPATCH_DATASET", DATASET),
            ("LANDPATCH_STATE_MACHINE", machine),
            ("LANDPATCH_BLOCK_ROWS", "46"),
            ("POWERTOOLS_LOG_LEVEL", "WARNING"),
            ("POWERTOOLS_TRACE_DISABLED", "true"),
            ("POWERTOOLS_SERVICE_NAME", "landpatch"),
        ):
            monkeypatch.setenv(name, value)
        plan._admission.cache_clear()
        index._bus.cache_clear()
        yield Cloud(s3, machine, queue)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    SmallScene(nx=2, ny=2, y0=45).write(folder / "s2")
    radar = SmallRadar(nx=2, ny=2, y0=45).write(folder / "s1")
    ring = [[10.0, 47.0], [16.0, 47.0], [16.0, 50.0], [10.0, 50.0], [10.0, 47.0]]  # more than the tile
    item = json.loads(radar.read_text())
    radar.write_text(json.dumps({**item, "geometry": {"type": "Polygon", "coordinates": [ring]}}))
    return folder


def scene_list(cloud: Cloud, scenes: Path) -> str:
    """A scene list of one pair, in the bucket."""
    items = []
    for kind in ("s2", "s1"):
        address = cloud.put(scenes / kind, f"scenes/{kind}")
        item = json.loads((scenes / kind / "item.json").read_text())
        for asset in item["assets"].values():
            asset["href"] = address.replace("item.json", asset["href"].removeprefix("./"))
        items.append(item)
    items[0]["links"] = [{"rel": "landpatch:pair", "href": f"#{items[1]['id']}"}]
    document = {"type": "FeatureCollection", "features": items}
    cloud.s3.put_object(Bucket=BUCKET, Key="scenes/scenes.json", Body=json.dumps(document))
    return f"s3://{BUCKET}/scenes/scenes.json"


def created(key: str) -> dict[str, Any]:
    """As EventBridge reports a new object."""
    return {
        "version": "0",
        "id": "17793124-05d4-b198-2fde-7ededc63b103",
        "detail-type": "Object Created",
        "source": "aws.s3",
        "account": "111122223333",
        "time": "2026-11-28T00:00:00Z",
        "region": "eu-central-1",
        "resources": [f"arn:aws:s3:::{BUCKET}"],
        "detail": {
            "version": "0",
            "bucket": {"name": BUCKET},
            "object": {
                "key": key,
                "size": 5,
                "etag": "b1946ac92492d2347c6235b4d2611184",
                "sequencer": "00617F08299329D189",
            },
            "request-id": "N4N7GDK58NMKJ12R",
            "requester": "123456789012",
            "source-ip-address": "1.2.3.4",
            "reason": "PutObject",
        },
    }


def batch(*bodies: Any) -> dict[str, Any]:
    return {
        "Records": [
            {
                "messageId": f"message-{number}",
                "receiptHandle": "x",
                "body": body if isinstance(body, str) else json.dumps(body),
                "attributes": {},
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:eu-central-1:123456789012:arrivals",
                "awsRegion": "eu-central-1",
            }
            for number, body in enumerate(bodies)
        ]
    }


def blocks(name: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = orjson.loads(Storage.open(DATASET).get(f"jobs/plans/{name}.json"))
    return [{"dataset": DATASET, "plan": name, **row} for row in rows]


def carry_out(name: str) -> dict[str, Any]:
    """What the state machine does of a plan, without its retries."""
    for event in blocks(name):
        tile.handler(event, Context())
    return index.handler({"dataset": DATASET, "plan": name}, Context())


def test_a_scene_list_becomes_the_dataset_that_the_local_engine_makes(
    cloud: Cloud, scenes: Path, tmp_path: Path, landpatch: Landpatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = scene_list(cloud, scenes)
    answer = plan.handler(batch(created("scenes/scenes.json")), Context())
    assert answer == {"batchItemFailures": []}
    (name,) = cloud.executions()
    assert len(blocks(name)) == 2
    assert len(name) <= 80
    done = carry_out(name)
    assert (done["states"], done["patches"], done["events"]) == ({"SUCCEEDED": 2}, 4, 1)

    landpatch("build", address, "--no-labels", "--block-rows", 46, "--to", tmp_path / "local")
    remote, local = Storage.open(DATASET), Storage.open(tmp_path / "local")
    paths = [path for path in local.list() if not path.startswith("jobs/")]
    assert [path for path in remote.list() if not path.startswith("jobs/")] == paths
    assert all(remote.get(path) == local.get(path) for path in paths)

    (event,) = cloud.announced()
    assert (event["source"], event["detail-type"]) == ("landpatch", "Scene Published")
    assert event["detail"]["scene"] == SCENE
    assert event["detail"]["patches"] == 4
    assert event["detail"]["items"] == f"{DATASET}/items.parquet"
    emitted = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
    assert sum(line.get("PatchesKept", [0])[0] for line in emitted) == 4
    assert sum(line.get("PatchesDropped", [0])[0] for line in emitted if line.get("reason") == "NODATA") == 8277

    entries = list(Ledger(remote).entries())
    assert all(entry.usage.gb_seconds > 0 for entry in entries)
    assert sum(entry.usage.traffic.writes for entry in entries) > 4 * 4
    assert entries[0].log is not None
    assert entries[0].log.request == Context().aws_request_id


def test_the_same_event_twice_starts_nothing_twice(cloud: Cloud, scenes: Path) -> None:
    scene_list(cloud, scenes)
    event = batch(created("scenes/scenes.json"), created("scenes/scenes.json"))
    assert plan.handler(event, Context()) == {"batchItemFailures": []}
    (name,) = cloud.executions()
    assert plan.handler(event, Context()) == {"batchItemFailures": []}
    assert cloud.executions() == [name]
    carry_out(name)
    before = {path: Storage.open(DATASET).head(path)["last_modified"] for path in Storage.open(DATASET).list()}
    plan.handler(event, Context())
    assert cloud.executions() == [name]
    assert {path: Storage.open(DATASET).head(path)["last_modified"] for path in before} == before


def test_an_execution_that_was_stopped_before_it_did_anything_is_started_again(cloud: Cloud, scenes: Path) -> None:
    scene_list(cloud, scenes)
    plan.handler(created("scenes/scenes.json"), Context())
    (name,) = cloud.executions()
    cloud.end(name)
    plan.handler(created("scenes/scenes.json"), Context())
    assert sorted(cloud.executions()) == [name, f"{name}-2"]
    assert blocks(f"{name}-2")[0]["block"] == blocks(name)[0]["block"]


def test_a_poison_message_in_a_batch_of_ten_costs_itself_alone(
    cloud: Cloud, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene_list(cloud, scenes)
    good = {"scenes": f"s3://{BUCKET}/scenes/scenes.json"}
    answer = plan.handler(batch(*[good] * 4, "{ no JSON", *[good] * 5), Context())
    assert answer == {"batchItemFailures": [{"itemIdentifier": "message-4"}]}
    assert len(cloud.executions()) == 1
    emitted = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
    assert sum(sum(line.get("MessagesFailed", [])) for line in emitted) == 1


def test_nothing_but_poison_fails_message_by_message(cloud: Cloud) -> None:
    answer = plan.handler(batch("[]", {"scenes": f"s3://{BUCKET}/not/there.json"}), Context())
    assert [failure["itemIdentifier"] for failure in answer["batchItemFailures"]] == ["message-0", "message-1"]


def test_sentinel_1_may_come_after_sentinel_2(cloud: Cloud, scenes: Path) -> None:
    """GIVEN an old scene: nothing nearer can come, it is refused for want of Sentinel-1 until that is there."""
    optical = {"scenes": cloud.put(scenes / "s2", "scenes/s2")}
    radar = {"scenes": cloud.put(scenes / "s1", "scenes/s1")}
    assert plan.handler(batch(optical), Context())["batchItemFailures"] == [{"itemIdentifier": "message-0"}]
    assert plan.handler(batch(radar), Context()) == {"batchItemFailures": []}
    assert cloud.executions() == []
    assert plan.handler(batch(optical), Context()) == {"batchItemFailures": []}
    (name,) = cloud.executions()
    assert carry_out(name)["patches"] == 4


def write_new_scenes(scenes: Path, folder: Path) -> None:
    """The pair of scenes, sensed just now."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    for kind in ("s2", "s1"):
        (folder / kind).mkdir()
        for file in (scenes / kind).iterdir():
            (folder / kind / file.name).write_bytes(file.read_bytes())
        item = json.loads((folder / kind / "item.json").read_text())
        item["properties"]["datetime"] = now
        (folder / kind / "item.json").write_text(json.dumps(item))


def test_a_new_scene_waits_for_sentinel_1(cloud: Cloud, scenes: Path, tmp_path: Path) -> None:
    write_new_scenes(scenes, tmp_path)
    waiting = plan.handler({"scenes": cloud.put(tmp_path / "s2", "scenes/s2")}, Context())
    assert (waiting["waiting"], waiting["executions"]) == ([f"small-{SCENE}"], [])
    assert plan.handler({"waiting": True}, Context())["waiting"] == [f"small-{SCENE}"]
    found = plan.handler({"scenes": cloud.put(tmp_path / "s1", "scenes/s1")}, Context())
    assert found["planned"] == [SCENE]
    assert len(found["executions"]) == 1
    assert plan.handler({"waiting": True}, Context()) == {
        "planned": [],
        "waiting": [],
        "refused": [],
        "executions": [],
    }


def test_a_block_that_fails_twice_succeeds_the_third_time(cloud: Cloud, scenes: Path) -> None:
    scene_list(cloud, scenes)
    plan.handler({"scenes": f"s3://{BUCKET}/scenes/scenes.json"}, Context())
    (name,) = cloud.executions()
    ledger = Ledger(Storage.open(DATASET))
    (event,) = [one for one in blocks(name) if one["block"] == "rows-00-45"]
    body = cloud.s3.get_object(Bucket=BUCKET, Key="scenes/s2/B02.tif")["Body"].read()
    cloud.s3.delete_object(Bucket=BUCKET, Key="scenes/s2/B02.tif")
    for attempt in (1, 2):
        with pytest.raises(BlockFailed, match="B02"):
            tile.handler(event, Context())
        entry = ledger.entry(SceneId.parse(SCENE), Block(0, 46))
        assert (entry.state, entry.attempt, entry.usage.attempts) == (State.FAILED, attempt, attempt)
    cloud.s3.put_object(Bucket=BUCKET, Key="scenes/s2/B02.tif", Body=body)
    assert tile.handler(event, Context())["state"] == "SUCCEEDED"
    entry = ledger.entry(SceneId.parse(SCENE), Block(0, 46))
    assert (entry.kept, entry.attempt, entry.usage.attempts) == (2, 3, 3)
    assert tile.handler(event, Context())["kept"] == 2  # done is done
    assert ledger.entry(SceneId.parse(SCENE), Block(0, 46)) == entry


def test_what_will_never_succeed_is_not_tried_again(cloud: Cloud, scenes: Path) -> None:
    scene_list(cloud, scenes)
    plan.handler({"scenes": f"s3://{BUCKET}/scenes/scenes.json"}, Context())
    (name,) = cloud.executions()
    (event,) = [one for one in blocks(name) if one["block"] == "rows-00-45"]
    storage = Storage.open(DATASET)
    item = storage.get_json(f"scenes/small-{SCENE}.json")
    storage.put_json(f"scenes/small-{SCENE}.json", {**item, "assets": {}})
    with pytest.raises(BlockInvalid, match="no asset"):
        tile.handler(event, Context())
    assert tile.handler(event, Context())["state"] == "INVALID"
    assert Plan.of(storage, []).blocks == ()
    with pytest.raises(BlockInvalid, match="no job for scene"):
        tile.handler({**event, "scene": SCENE.replace("33UUP", "33UVP")}, Context())
    with pytest.raises(BlockInvalid, match="no block 'rows-00-90'"):
        tile.handler({**event, "block": "rows-00-90"}, Context())


def test_a_function_that_runs_out_of_time_says_so_itself(cloud: Cloud, tmp_path: Path) -> None:
    """GIVEN two strips and no time left after the first."""
    scene = SmallScene(x0=0, nx=1, ny=20, y0=0)
    address = cloud.put(scene.write(tmp_path / "s2").parent, "tall")
    settings = {"LANDPATCH_PARAMETERS": '{"require_s1": false}', "LANDPATCH_BLOCK_ROWS": "91"}
    with pytest.MonkeyPatch.context() as patch:
        for key, value in settings.items():
            patch.setenv(key, value)
        plan._admission.cache_clear()
        plan.handler({"scenes": address}, Context())
    (name,) = cloud.executions()
    (event,) = blocks(name)
    with pytest.raises(BlockOutOfTime, match=r"0 of the block's 91 patch rows.*--block-rows 13"):
        tile.handler(event, Context(timeout=5))
    ledger = Ledger(Storage.open(DATASET))
    assert [(entry.state, entry.error_class) for entry in ledger.entries()] == [(State.FAILED, "OutOfTime")]
    assert tile.handler(event, Context())["kept"] == 20


def test_a_killed_function_s_block_is_taken_over_by_its_own_plan_at_once(cloud: Cloud, scenes: Path) -> None:
    scene_list(cloud, scenes)
    plan.handler({"scenes": f"s3://{BUCKET}/scenes/scenes.json"}, Context())
    (name,) = cloud.executions()
    event = blocks(name)[0]
    scene, block = SceneId.parse(SCENE), Block(0, 46)
    storage = Storage.open(DATASET)
    killed = Ledger(storage, owner=name, lease=lambda: 600).claim(scene, block)
    assert killed is not None
    # Another plan's function believes the lease.
    assert tile.handler({**event, "plan": "another"}, Context())["state"] == "PROCESSING"
    assert Plan.of(storage, []).blocks == ()
    assert tile.handler(event, Context())["state"] == "SUCCEEDED"
    assert Ledger(storage).entry(scene, block).attempt == 2


def test_no_block_is_processing_for_ever(cloud: Cloud, scenes: Path, landpatch: Landpatch) -> None:
    """GIVEN a function that was killed for the last time, THEN index closes its block, and another plan does it."""
    scene_list(cloud, scenes)
    plan.handler({"scenes": f"s3://{BUCKET}/scenes/scenes.json"}, Context())
    (name,) = cloud.executions()
    storage, scene = Storage.open(DATASET), SceneId.parse(SCENE)
    Ledger(storage, owner=name, lease=lambda: 600).claim(scene, Block(0, 46))
    assert index.handler({}, Context())["lost"] == []
    done = index.handler({"dataset": DATASET, "plan": name}, Context())
    assert done["lost"] == [f"{SCENE} rows-00-45"]
    assert done["events"] == 0
    entry = Ledger(storage).entry(scene, Block(0, 46))
    assert (entry.state, entry.error_class) == (State.FAILED, "WorkerLost")
    cloud.end(name)
    plan.handler({"scenes": f"s3://{BUCKET}/scenes/scenes.json"}, Context())
    (other,) = set(cloud.executions()) - {name}
    assert carry_out(other)["states"] == {"SUCCEEDED": 2}


def test_of_many_functions_one_gets_a_block(cloud: Cloud) -> None:
    scene = SceneId.parse(SCENE)
    ledgers = [Ledger(Storage.open(DATASET), owner=f"plan-{number}") for number in range(8)]
    start = threading.Barrier(8)

    def claim(ledger: Ledger) -> object:
        start.wait()
        return ledger.claim(scene, Block())

    with ThreadPoolExecutor(8) as pool:
        won = [found for found in pool.map(claim, ledgers) if found is not None]
    assert len(won) == 1


def test_two_index_runs_at_once_lose_nothing(cloud: Cloud, scenes: Path) -> None:
    """GIVEN an index run that has read the parts, WHEN more come and another run is through before it writes."""
    scene_list(cloud, scenes)
    plan.handler({"scenes": f"s3://{BUCKET}/scenes/scenes.json"}, Context())
    (name,) = cloud.executions()
    first, *others = [one for one in blocks(name) if one["block"] in ("rows-00-45", "rows-46-90")]
    tile.handler(first, Context())
    storage = Storage.open(DATASET)
    overtaken = threading.Event()

    def overtake(*_: int) -> None:
        if not overtaken.is_set():
            overtaken.set()
            for event in others:
                tile.handler(event, Context())
            compact(Storage.open(DATASET))
            assert Dataset.open(DATASET).table(["id"]).num_rows == 4

    assert compact(storage, progress=overtake)
    assert overtaken.is_set()
    assert Dataset.open(DATASET).table(["id"]).num_rows == 4
    assert not compact(storage)


def test_the_state_machine_is_joined_not_started_twice(cloud: Cloud, scenes: Path) -> None:
    scene_list(cloud, scenes)
    plan.handler({"scenes": f"s3://{BUCKET}/scenes/scenes.json"}, Context())
    (name,) = cloud.executions()
    ((execution, running),) = StateMachine.open(cloud.machine).running(Storage.open(DATASET))
    assert execution.name == name
    assert len(running.blocks) == 2
    assert list(StateMachine.open(cloud.machine).running(Storage.open(f"s3://{BUCKET}/other"))) == []


def test_what_functions_cannot_read_is_refused_before_anything_is_written(
    cloud: Cloud, scenes: Path, landpatch: Landpatch
) -> None:
    command = ["build", scenes / "s2" / "item.json", "--s1", scenes / "s1" / "item.json", "--no-labels"]
    cloud_engine = ["--engine", "aws", "--state-machine", cloud.machine]
    result = landpatch(*command, "--to", DATASET, *cloud_engine, check=False)
    assert result.returncode == 2
    assert "lies on this machine" in result.stderr
    assert Storage.open(DATASET).list() == []
    missing = landpatch(*command, "--to", DATASET, "--engine", "aws", "--state-machine", "", check=False)
    assert missing.returncode == 2
    assert "--state-machine ARN" in missing.stderr
    wrong = landpatch(*command, "--to", DATASET, "--workers", "2", *cloud_engine, check=False)
    assert wrong.returncode == 2
    found = json.loads(landpatch(*command, "--to", DATASET, "--estimate", "--json").stdout)
    assert found["patches"] == 8281
    assert Storage.open(DATASET).list() == []


GRANTED_FOR_LAMBDA = frozenset({"Logs", "Traces", "Arrivals"})
"""Statements for what Lambda itself does: it writes logs and traces, and takes messages from the queue."""
SELDOM = {"s3:AbortMultipartUpload", "s3:ListBucket"}
"""The first is asked for where a large upload breaks off midway; without the second S3 says 403 instead of 404."""


def test_functions_ask_for_what_their_roles_grant_and_for_all_of_it(
    event_loop: None, cloud: Cloud, scenes: Path, tmp_path: Path
) -> None:
    """A scene that waits for its Sentinel-1, the same twice, its blocks, the catalogue, a search."""
    write_new_scenes(scenes, tmp_path)
    cloud.put(tmp_path / "s2", "inbox/s2")
    asked: dict[str, Asked] = {role: set() for role in ("PlanRole", "TileRole", "IndexRole", "ApiRole")}

    with recorded(asked["PlanRole"]):
        plan.handler(created("inbox/s2/item.json"), Context())
        plan.handler({"waiting": True}, Context())
    cloud.put(tmp_path / "s1", "sources/s1")
    with recorded(asked["PlanRole"]):
        plan.handler({"scenes": f"s3://{BUCKET}/sources/s1/item.json"}, Context())
    (stopped,) = cloud.executions()
    cloud.end(stopped)
    with recorded(asked["PlanRole"]):
        plan.handler(created("inbox/s2/item.json"), Context())
    (name,) = {*cloud.executions()} - {stopped}
    for event in blocks(name):
        with recorded(asked["TileRole"]):
            tile.handler(event, Context())
    with recorded(asked["IndexRole"]):
        index.handler({"dataset": DATASET, "plan": name}, Context())
        index.handler({}, Context())
    api._adapter.cache_clear()
    with recorded(asked["ApiRole"]):
        found = api.handler(
            {
                "version": "2.0",
                "rawPath": "/search",
                "rawQueryString": "",
                "headers": {"host": "abcdefghij.lambda-url.eu-central-1.on.aws"},
                "requestContext": {
                    "http": {"method": "GET", "path": "/search", "sourceIp": "203.0.113.7"},
                    "stage": "$default",
                },
            },
            Context(),
        )
    api._adapter.cache_clear()
    assert found["statusCode"] == 200

    resources, bucket = read_resources("template.yaml"), f"arn:aws:s3:::{BUCKET}"
    names = {
        "AWS::Partition": "aws",
        "AWS::Region": "eu-central-1",
        "AWS::AccountId": "123456789012",
        "AWS::StackName": "landpatch",
        "DatasetBucket.Arn": bucket,
        "DatasetPrefix": "europe",
        "InboxBucket.Arn": f"{bucket}/inbox",
        "SourceObjects": [f"{bucket}/inbox/*", f"{bucket}/sources/*"],
        "EventBus.Arn": "arn:aws:events:eu-central-1:123456789012:event-bus/default",
    }
    for role, needed in asked.items():
        may = granted(resources, role, names, GRANTED_FOR_LAMBDA)
        assert needed, role
        assert not [one for one in needed if not covered(one, may)], role
        used = {one for one in may if any(covered(ask, {one}) for ask in needed)}
        assert {action for action, _ in may - used} <= SELDOM, (role, may - used)
