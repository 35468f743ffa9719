"""The deployed stack on LocalStack: real queues, state machine and function processes, and what goes wrong there."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest

from demo_build import Landpatch
from landpatch.catalog.names import SceneId
from landpatch.catalog.store import NotFound, Storage
from landpatch.functions.building import ScenePair, build
from landpatch.functions.engines.aws import CloudEngine, StateMachine
from landpatch.functions.jobs import Block, Entry, Ledger, State
from landpatch.functions.sources import read_pairs
from small_scenes import SmallRadar, SmallScene

_T = TypeVar("_T")

PATIENCE = 180.0
"""A function's cold start takes seconds, on a machine that is busy tens of seconds."""


def until(what: str, look: Callable[[], _T], seconds: float = PATIENCE) -> _T:
    """The first answer of ``look`` that is not empty."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.2)
    return found


class Stack:
    """The deployed stack as the tests use it: scenes go in, ledger entries and events come out."""

    def __init__(self, deployed: Any, folder: Path) -> None:
        self.deployed, self.folder = deployed, folder
        self.s3, self.sqs = deployed.client("s3"), deployed.client("sqs")
        self.machine, self.functions = deployed.client("stepfunctions"), deployed.client("lambda")
        self.outputs: dict[str, str] = deployed.outputs
        self.bucket, self.inbox = self.outputs["DatasetBucket"], self.outputs["InboxBucket"]
        self.dataset = self.outputs["Dataset"]
        self.storage, self.ledger = Storage.open(self.dataset), Ledger(Storage.open(self.dataset))
        SmallRadar(nx=1, ny=1).write(folder / "radar")
        self.radar = self.with_files(folder / "radar", "radar")
        ring = [[10.0, 47.0], [16.0, 47.0], [16.0, 50.0], [10.0, 50.0], [10.0, 47.0]]
        self.radar["geometry"] = {"type": "Polygon", "coordinates": [ring]}
        self.events = self.sqs.create_queue(QueueName="published")["QueueUrl"]
        bus, name = deployed.client("events"), self.outputs["EventBusName"]
        bus.put_rule(Name="published", EventBusName=name, EventPattern='{"source": ["landpatch"]}')
        arn = self.sqs.get_queue_attributes(QueueUrl=self.events, AttributeNames=["QueueArn"])["Attributes"][
            "QueueArn"
        ]
        bus.put_targets(Rule="published", EventBusName=name, Targets=[{"Id": "queue", "Arn": arn}])
        # Half an hour in the template; tests look at what happens afterwards.
        self.sqs.set_queue_attributes(
            QueueUrl=self.outputs["ArrivalsQueueUrl"], Attributes={"VisibilityTimeout": "4"}
        )

    def with_files(self, folder: Path, prefix: str) -> dict[str, Any]:
        """The item in a folder, its files uploaded."""
        for file in folder.iterdir():
            self.s3.upload_file(str(file), self.bucket, f"pixels/{prefix}/{file.name}")
        item: dict[str, Any] = json.loads((folder / "item.json").read_text())
        for asset in item["assets"].values():
            asset["href"] = f"s3://{self.bucket}/pixels/{prefix}/{asset['href'].removeprefix('./')}"
        return item

    def scene(self, number: int) -> dict[str, Any]:
        """A scene of one patch, sensed in second ``number`` of its minute."""
        scene = f"S2A_MSIL2A_20170613T1010{number:02d}_N0205_R022_T33UUP"
        small = SmallScene(nx=1, ny=1, seed=number, scene=scene)
        small.write(self.folder / scene)
        return self.with_files(self.folder / scene, scene)

    def scene_list(self, *items: dict[str, Any]) -> dict[str, Any]:
        link = {"rel": "landpatch:pair", "href": f"#{self.radar['id']}"}
        paired = [{**item, "links": [link]} for item in items]
        return {"type": "FeatureCollection", "features": [*paired, self.radar]}

    def put(self, name: str, document: dict[str, Any]) -> None:
        """Into the inbox."""
        self.s3.put_object(Bucket=self.inbox, Key=name, Body=json.dumps(document))

    def send(self, *bodies: str) -> None:
        """Into the queue of arrivals, in one batch."""
        entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(bodies)]
        self.sqs.send_message_batch(QueueUrl=self.outputs["ArrivalsQueueUrl"], Entries=entries)

    def entry(self, item: dict[str, Any]) -> Entry:
        return self.ledger.entry(SceneId.parse(item["id"].removeprefix("small-")), Block())

    def done(self, item: dict[str, Any]) -> Entry:
        """The entry of a scene's block, once it has succeeded."""
        return until(f"{item['id']} is done", lambda: e if (e := self.entry(item)).state is State.SUCCEEDED else None)

    def executions(self, status: str | None = None) -> list[dict[str, Any]]:
        only = {} if status is None else {"statusFilter": status}
        found: list[dict[str, Any]] = self.machine.list_executions(
            stateMachineArn=self.outputs["StateMachineArn"], **only
        )["executions"]
        return found

    def quiet(self) -> None:
        """Wait until no execution runs."""
        until("all executions have ended", lambda: not self.executions("RUNNING"))

    def ids(self) -> list[str]:
        """The patches in the catalogue, once all that runs has ended."""
        from landpatch.catalog.store import Dataset

        self.quiet()
        return list(Dataset.open(self.dataset).table(["id"]).column("id").to_pylist())

    def announced(self) -> list[str]:
        found = []
        while messages := self.sqs.receive_message(QueueUrl=self.events, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                found.append(json.loads(message["Body"])["detail"]["scene"])
                self.sqs.delete_message(QueueUrl=self.events, ReceiptHandle=message["ReceiptHandle"])
        return sorted(found)

    def waiting(self, queue: str) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=self.outputs[queue], AttributeNames=names)["Attributes"]
        return sum(map(int, found.values()))

    @contextmanager
    def tile_with(self, **changes: Any) -> Iterator[None]:
        """The function tile with other settings for a while; ``Environment`` is added to its own."""
        name = self.outputs["TileFunctionName"]
        before = self.functions.get_function_configuration(FunctionName=name)
        kept = {"Timeout": before["Timeout"], "Environment": before["Environment"]}
        if "Environment" in changes:
            changes["Environment"] = {"Variables": {**kept["Environment"]["Variables"], **changes["Environment"]}}
        self._configure(name, changes)
        try:
            yield
        finally:
            self._configure(name, kept)

    def _configure(self, name: str, settings: dict[str, Any]) -> None:
        self.functions.update_function_configuration(FunctionName=name, **settings)
        self.functions.get_waiter("function_updated_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1})


@pytest.fixture(scope="module")
def stack(localstack: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in localstack.environment.items():
            patch.setenv(name, value)
        yield Stack(localstack, tmp_path_factory.mktemp("scenes"))


class _Origin(BaseHTTPRequestHandler):
    """Passes requests on to LocalStack, unless its server has something else in mind."""

    protocol_version = "HTTP/1.1"
    server: "Door"

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.refuses(self):
            text = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
            self.reply(503, text, {"Content-Type": "application/xml"})
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        request = urllib.request.Request(self.server.endpoint + self.path, body or None, headers, method=self.command)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
                self.reply(answer.status, answer.read(), dict(answer.headers))
        except urllib.error.HTTPError as error:
            self.reply(error.code, error.read(), dict(error.headers))

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        given = {name.lower(): value for name, value in headers.items()}
        length = given.get("content-length", "0") if self.command == "HEAD" else str(len(body))
        for name, value in given.items():
            if name not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Door(ThreadingHTTPServer):
    """S3 as a function sees it on a bad day: every other request is refused, or one file is not answered at all."""

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Origin)
        self.endpoint, self.address = endpoint, f"http://127.0.0.1:{self.server_port}"
        self.slow_until, self.refused, self.asked = 0.0, 0, 0
        self.held, self.open = threading.Event(), threading.Event()
        self.open.set()

    def refuses(self, request: _Origin) -> bool:
        if request.path.endswith("B02.tif"):
            if not self.open.is_set():
                self.held.set()
            self.open.wait()
        self.asked += 1
        if time.monotonic() < self.slow_until and self.asked % 2:
            self.refused += 1
            return True
        return False


@pytest.fixture
def door(stack: Stack) -> Iterator[Door]:
    server = Door(stack.deployed.endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.open.set()
        server.shutdown()
        server.server_close()


def test_a_scene_list_put_into_the_inbox_becomes_the_dataset_of_the_local_engine(
    stack: Stack, tmp_path: Path, landpatch: Landpatch
) -> None:
    document = stack.scene_list(stack.scene(0))
    stack.put("first.json", document)
    entry = stack.done(document["features"][0])
    assert len(stack.ids()) == entry.kept == 1
    assert stack.announced() == [entry.scene]
    assert entry.usage.gb_seconds > 0
    assert entry.log is not None

    (tmp_path / "scenes.json").write_text(json.dumps(document))
    landpatch("build", tmp_path / "scenes.json", "--no-labels", "--to", tmp_path / "local")
    local = Storage.open(tmp_path / "local")
    paths = [path for path in local.list() if not path.startswith("jobs/")]
    assert [path for path in stack.storage.list() if not path.startswith("jobs/")] == paths
    assert all(stack.storage.get(path) == local.get(path) for path in paths)

    # The same event twice.
    stack.put("again.json", document)
    until("the queue is empty", lambda: stack.waiting("ArrivalsQueueUrl") == 0)
    assert len(stack.executions()) == 1
    assert stack.ids() == [f"{entry.scene}_10_11"]
    assert stack.announced() == []


def test_a_feed_s_message_before_that_of_its_sentinel_1_scene(stack: Stack) -> None:
    """Events out of order: the message waits in the queue until what it needs is there."""
    item = stack.scene(1)
    notification = {"Type": "Notification", "MessageId": "1", "TopicArn": "arn", "Message": json.dumps(item)}
    stack.send(json.dumps(notification))
    time.sleep(3)
    assert stack.entry(item).state is State.PENDING
    stack.put("radar.json", stack.radar)
    assert stack.done(item).kept == 1
    assert f"{stack.entry(item).scene}_10_11" in stack.ids()


def test_one_poison_message_among_ten(stack: Stack) -> None:
    items = [stack.scene(number) for number in (2, 3, 4)]
    bodies = [json.dumps(stack.scene_list(item)["features"][0] | {"links": []}) for item in items] * 3
    stack.send(*bodies[:4], "{ this is no JSON", *bodies[4:])
    assert [stack.done(item).attempt for item in items] == [1, 1, 1]
    until("the poison is in the dead-letter queue", lambda: stack.waiting("DeadLetterQueueUrl") == 1)
    assert stack.waiting("ArrivalsQueueUrl") == 0


def test_a_block_that_fails_twice_and_then_succeeds(stack: Stack) -> None:
    item = stack.scene(5)
    key = item["assets"]["blue"]["href"].removeprefix(f"s3://{stack.bucket}/")
    document = stack.scene_list(item)
    body = stack.s3.get_object(Bucket=stack.bucket, Key=key)["Body"].read()
    plan_reads_it = stack.scene_list(item)
    stack.put("fails.json", plan_reads_it)
    until("it is planned", lambda: stack.ledger.job(SceneId.parse(item["id"].removeprefix("small-"))))
    stack.s3.delete_object(Bucket=stack.bucket, Key=key)
    entry = stack.entry(document["features"][0])
    if entry.state is not State.SUCCEEDED:
        until("it fails twice", lambda: (e := stack.entry(item)).state is State.FAILED and e.attempt >= 2)
    stack.s3.put_object(Bucket=stack.bucket, Key=key, Body=body)
    assert stack.done(item).attempt >= 3


def test_a_function_that_is_killed_in_the_middle_of_a_block(stack: Stack, door: Door) -> None:
    item = stack.scene(6)
    with stack.tile_with(Environment={"AWS_ENDPOINT_URL": door.address}):
        door.open.clear()
        stack.put("killed.json", stack.scene_list(item))
        until("the function reads", door.held.is_set)
        assert stack.entry(item).state is State.PROCESSING
        door.open.set()
        for pid in stack.deployed.pids(stack.outputs["TileFunctionName"]):
            os.kill(pid, signal.SIGKILL)
        assert stack.done(item).attempt == 2
        assert f"{stack.entry(item).scene}_10_11" in stack.ids()


def test_a_function_that_does_not_end_in_time(stack: Stack, door: Door) -> None:
    item = stack.scene(7)
    with stack.tile_with(Timeout=8, Environment={"AWS_ENDPOINT_URL": door.address}):
        door.open.clear()
        stack.put("slow.json", stack.scene_list(item))
        until("the function reads", door.held.is_set)
        until("it was ended", lambda: "timed out" in stack.deployed.logs(stack.outputs["TileFunctionName"]))
        door.open.set()
        assert stack.done(item).attempt >= 2
        stack.quiet()


def test_an_s3_that_says_slow_down_for_a_while(stack: Stack, door: Door) -> None:
    item = stack.scene(8)
    with stack.tile_with(Environment={"AWS_ENDPOINT_URL": door.address}):
        door.slow_until = time.monotonic() + 20
        stack.put("refused.json", stack.scene_list(item))
        assert stack.done(item).kept == 1
        assert door.refused > 0
        stack.quiet()


def test_twenty_scenes_through_the_map_four_at_a_time(stack: Stack, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        items = list(pool.map(stack.scene, range(20, 40)))
    (tmp_path / "scenes.json").write_text(json.dumps(stack.scene_list(*items)))
    pairs = [ScenePair(*pair) for pair in read_pairs([str(tmp_path / "scenes.json")])]
    machine = StateMachine.open(stack.outputs["StateMachineArn"])
    told: list[tuple[int, int]] = []
    engine = CloudEngine(machine, count=lambda done, total: told.append((done, total)), poll_seconds=0.5)
    begun = time.monotonic()
    result = build(pairs, stack.dataset, labels=None, engine=engine)
    seconds = time.monotonic() - begun
    assert result.kept == 20
    assert result.unfinished == []
    assert told[-1] == (20, 20)
    assert len(engine.executions) == 1
    ids = stack.ids()
    assert len(ids) == len(set(ids))
    assert {f"{entry.scene}_10_11" for entry in result.entries} <= set(ids)
    assert set(stack.announced()) >= {entry.scene for entry in result.entries}
    print(f"20 scenes in {seconds:.0f} s, four functions at a time")


def test_the_terminal_may_go_and_come_again(stack: Stack, door: Door, tmp_path: Path) -> None:
    item = stack.scene(9)
    (tmp_path / "scenes.json").write_text(json.dumps(stack.scene_list(item)))
    command = [sys.executable, "-m", "landpatch.functions", "build", str(tmp_path / "scenes.json"), "--no-labels"]
    command += ["--to", stack.dataset, "--engine", "aws", "--state-machine", stack.outputs["StateMachineArn"]]
    with stack.tile_with(Environment={"AWS_ENDPOINT_URL": door.address}):
        door.open.clear()
        first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        until("the function reads", door.held.is_set)
        first.send_signal(signal.SIGINT)
        assert "--follow" in first.communicate(timeout=60)[1]
        assert first.returncode == 130
        assert stack.entry(item).state is State.PROCESSING
        again = subprocess.Popen([*command, "--follow"], stderr=subprocess.PIPE, text=True)
        time.sleep(2)
        door.open.set()
        assert "1 patches kept" in again.communicate(timeout=PATIENCE)[1]
        assert again.returncode == 0


def test_what_a_failed_block_wrote_into_the_log_is_shown(stack: Stack, landpatch: Landpatch) -> None:
    """And what the blocks have cost."""
    stack.quiet()
    scene = SceneId.parse("S2A_MSIL2A_20170613T101000_N0205_R022_T33UUP")
    path = f"jobs/{scene}/rows-00-90.json"
    entry = stack.storage.get_json(path)
    stack.storage.put_json(path, {**entry, "state": "FAILED", "error": "for this test"})
    try:
        shown = json.loads(landpatch("status", stack.dataset, "--log", "--json").stdout.splitlines()[0])
        assert any("block ended" in line for line in shown["log_lines"])
    finally:
        stack.storage.put_json(path, entry)
    (cost,) = map(json.loads, landpatch("status", stack.dataset, "--cost", "--json").stdout.splitlines())
    assert cost["tile"] == "33UUP"
    assert cost["compute"] > 0
    assert cost["total"] > cost["requests"] > 0


def test_nothing_was_left_behind(stack: Stack) -> None:
    """After all of the above: nothing lost, nothing twice, nobody PROCESSING."""
    ids = stack.ids()
    entries = list(stack.ledger.entries())
    assert {entry.state for entry in entries} == {State.SUCCEEDED}
    assert len(ids) == len(set(ids)) == len(entries)
    with pytest.raises(NotFound):
        stack.storage.get("arrivals/waiting/none.json")
    assert stack.storage.list("arrivals/waiting") == []
