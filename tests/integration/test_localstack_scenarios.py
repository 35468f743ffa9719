"""The deployed stack on LocalStack: real queues, state machine and function processes, and what goes wrong there."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

import local_aws
import scene as scene_files
from demo_build import Landpatch
from landpatch.catalog.names import SceneId
from landpatch.catalog.store import Storage
from landpatch.functions.building import ScenePair, build
from landpatch.functions.engines.aws import CloudEngine, StateMachine
from landpatch.functions.jobs import Block, Entry, Ledger, State
from landpatch.functions.sources import read_pairs
from small_scenes import RESOLUTIONS, SmallRadar, SmallScene, write_clc

_T = TypeVar("_T")

POISON = "{ this is no JSON"

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
        self.feed = deployed.client("sns").create_topic(Name="feed")["TopicArn"]  # that there is
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

    def scene(self, number: int, driver: str = "GTiff") -> dict[str, Any]:
        """A scene of one patch, sensed in second ``number`` of its minute."""
        scene = f"S2A_MSIL2A_20170613T1010{number:02d}_N0205_R022_T33UUP"
        small = SmallScene(nx=1, ny=1, seed=number, scene=scene, properties={"grid:code": "MGRS-33UUP"})
        small.write(self.folder / scene, driver)
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

    def said_by_plan(self) -> str:
        log: str = self.deployed.logs(self.outputs["PlanFunctionName"])
        return log

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
        if (refusal := self.server.refusal(self)) is not None:
            status, code = refusal
            self.reply(status, f"<Error><Code>{code}</Code></Error>".encode(), {"Content-Type": "application/xml"})
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
    """S3 as a function sees it on a bad day: every other request is refused, or one band is not answered at all, or
    is not there.
    """

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Origin)
        self.endpoint, self.address = endpoint, f"http://127.0.0.1:{self.server_port}"
        self.to_refuse = 0
        """Of each kind of request: a scene's pixels, which GDAL reads; all that goes through Storage."""
        self.refused, self.asked = Counter[str](), Counter[str]()
        self.gone = False
        self.counting, self.held, self.open = threading.Lock(), threading.Event(), threading.Event()
        self.open.set()

    def refusal(self, request: _Origin) -> tuple[int, str] | None:
        if request.path.endswith("B02.tif"):
            if not self.open.is_set():
                self.held.set()
            self.open.wait()
            if self.gone:
                return 404, "NoSuchKey"
        with self.counting:
            kind = "pixels" if "/pixels/" in request.path else "storage"
            self.asked[kind] += 1
            if self.refused[kind] < self.to_refuse and self.asked[kind] % 2:
                self.refused[kind] += 1
                return 503, "SlowDown"
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: functions are killed here while they are answered."""


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
    """Events out of order: the message comes again until what it needs is there. Those of other tiles do not come."""
    sns, item, elsewhere = stack.deployed.client("sns"), stack.scene(1), stack.scene(10)
    elsewhere["properties"]["grid:code"] = "MGRS-32TMS"
    for one in (elsewhere, item):
        sns.publish(TopicArn=stack.feed, Message=json.dumps(one))
    until("it is refused", lambda: "no Sentinel-2 scene comes with a Sentinel-1" in stack.said_by_plan())
    assert stack.entry(item).state is State.PENDING
    assert stack.executions("RUNNING") == []
    stack.put("radar.json", stack.radar)
    assert stack.done(item).kept == 1
    assert f"{stack.entry(item).scene}_10_11" in stack.ids()
    planned = [one["id"].removeprefix("small-") in stack.said_by_plan() for one in (item, elsewhere)]
    assert planned == [True, False]


def test_a_product_that_the_topic_of_sentinel_s2_l2a_announces(stack: Stack) -> None:
    """Its JPEG 2000 files lie where its message says, in a bucket of that name."""
    item = stack.scene(11, "JP2OpenJPEG")
    scene = item["id"].removeprefix("small-")
    stack.s3.create_bucket(
        Bucket="sentinel-s2-l2a", CreateBucketConfiguration={"LocationConstraint": stack.s3.meta.region_name}
    )
    for name, resolution in {**RESOLUTIONS, "SCL": 20}.items():
        key = f"tiles/33/U/UP/2017/6/13/11/R{resolution}m/{name}.jp2"
        stack.s3.upload_file(str(stack.folder / scene / f"{name}.jp2"), "sentinel-s2-l2a", key)
    sns = stack.deployed.client("sns")
    topic = sns.create_topic(Name="SentinelS2L2A")["TopicArn"]
    queue = stack.sqs.get_queue_attributes(QueueUrl=stack.outputs["ArrivalsQueueUrl"], AttributeNames=["QueueArn"])[
        "Attributes"
    ]["QueueArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue)
    tile = {"path": "tiles/33/U/UP/2017/6/13/11", "timestamp": "2017-06-13T10:10:11Z"}
    product = {"name": f"{scene}_20170613T101608", "tiles": [tile]}
    sns.publish(TopicArn=topic, Message=json.dumps(product))
    assert stack.done(item).kept == 1
    assert f"{scene}_10_11" in stack.ids()


def test_one_poison_message_among_ten(stack: Stack) -> None:
    """The nine are done; the one comes five times, and the last test looks where it ends."""
    items = [stack.scene(number) for number in (2, 3, 4)]
    bodies = [json.dumps(stack.scene_list(item)["features"][0] | {"links": []}) for item in items] * 3
    stack.send(*bodies[:4], POISON, *bodies[4:])
    assert [stack.done(item).attempt for item in items] == [1, 1, 1]


def test_a_block_that_fails_twice_and_then_succeeds(stack: Stack, door: Door) -> None:
    item = stack.scene(5)
    door.gone = True
    with stack.tile_with(Environment={"AWS_ENDPOINT_URL": door.address}):
        stack.put("fails.json", stack.scene_list(item))
        until("it fails twice", lambda: (e := stack.entry(item)).state is State.FAILED and e.attempt >= 2)
        assert "B02.tif" in str(stack.entry(item).error)
        door.gone = False
        entry = stack.done(item)
    assert entry.attempt == entry.usage.attempts >= 3
    assert entry.kept == 1
    assert f"{entry.scene}_10_11" in stack.ids()


def test_a_function_that_is_killed_in_the_middle_of_a_block(stack: Stack, door: Door) -> None:
    item = stack.scene(6)
    with stack.tile_with(Environment={"AWS_ENDPOINT_URL": door.address}):
        door.open.clear()
        stack.put("killed.json", stack.scene_list(item))
        until("the function reads", door.held.is_set)
        assert stack.entry(item).state is State.PROCESSING
        for pid in stack.deployed.pids(stack.outputs["TileFunctionName"]):
            os.kill(pid, signal.SIGKILL)
        door.open.set()
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
        door.to_refuse = 4
        stack.put("refused.json", stack.scene_list(item))
        entry = stack.done(item)
        stack.quiet()
    assert door.refused == {"pixels": 4, "storage": 4}
    # Storage and GDAL ask again: a block that gave up would have been started again.
    assert (entry.attempt, entry.kept) == (1, 1)
    assert f"{entry.scene}_10_11" in stack.ids()


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
    # A function that is busy gets no second block: as many processes as there were blocks at once.
    assert 2 <= len(stack.deployed.pids(stack.outputs["TileFunctionName"])) <= 4
    assert result.kept == 20
    assert result.unfinished == []
    assert told[-1] == (20, 20)
    assert len(engine.executions) == 1
    ids = stack.ids()
    assert len(ids) == len(set(ids))
    assert {f"{entry.scene}_10_11" for entry in result.entries} <= set(ids)
    assert set(stack.announced()) >= {entry.scene for entry in result.entries}
    print(f"20 scenes in {seconds:.0f} s, {1200 / seconds:.0f} a minute, four functions at a time")


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


@pytest.fixture(scope="module")
def followed(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """docs/aws.md, word for word as far as it is not about AWS alone: the folder where it was done, and what was
    said. Before the teardown the dataset is copied, and built beside by the local engine. On the real scene 33UUP,
    where that is.
    """
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("infra", ".venv", ".venv-localstack"):
        (folder / name).symlink_to(local_aws.CHECKOUT / name)
    polygons = folder / "U2018_CLC2018_V2020_20u1.gpkg"
    real = Path(os.environ.get("LANDPATCH_SHARED", local_aws.CHECKOUT.parent / "shared")) / "data/scene-33uup"
    if real.is_dir():
        shutil.copyfile(real / "clc2018_26_57.gpkg", polygons)
        optical, radar = (next(real.glob(f"{mission}*/*.json")) for mission in ("S2A_", "S1B_"))
    else:
        write_clc(polygons, [(300000, 5300000, 400000, 5400000, "312")])
        optical, radar = (
            stack.folder / "S2A_MSIL2A_20170613T101000_N0205_R022_T33UUP/item.json",
            stack.folder / "radar/item.json",
        )
    made = folder / ".cache/localstack"
    made.mkdir(parents=True)
    (made / "scenes.json").write_text(json.dumps(scene_files.scene_list(stack.deployed, (optical, [radar]))))
    (made / "environment").write_text(scene_files.environment(stack.deployed))

    marked = re.findall(r"^```bash ?(\w*)\n(.*?)^```$", (local_aws.CHECKOUT / "docs/aws.md").read_text(), re.M | re.S)
    assert [where for where, _ in marked].count("aws") == 4
    blocks = [block for where, block in marked if where != "aws"]
    (teardown,) = (number for number, block in enumerate(blocks) if "delete-stack" in block)
    beside = "aws s3 cp --quiet --recursive $dataset cloud\n"
    beside += "landpatch build scenes.json --labels $labels --to local\naws s3 ls > buckets-before\n"
    script = "\n".join(
        ["set -euo pipefail", *blocks[:teardown], beside, *blocks[teardown:], "aws s3 ls > buckets-after"]
    )
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_what_docs_aws_says_from_nothing_to_the_teardown(stack: Stack, followed: tuple[Path, str]) -> None:
    folder, said = followed
    assert re.search(r"1 patches; dropped: .*blocks: SUCCEEDED 1", said)
    assert re.search(r"^33UUP +1 +1 ", said, re.M)  # what it has cost
    assert '"collections"' in said
    before, after = ((folder / f"buckets-{when}").read_text() for when in ("before", "after"))
    assert "trial-" in before
    assert "my-artifacts" in before
    assert "trial-" not in after
    assert "my-artifacts" not in after
    stacks = stack.deployed.client("cloudformation").list_stacks(StackStatusFilter=["CREATE_COMPLETE"])
    assert [one["StackName"] for one in stacks["StackSummaries"]] == ["landpatch"]


def test_a_real_scene_with_labels_becomes_the_dataset_of_the_local_engine(
    shared_data: Path, followed: tuple[Path, str]
) -> None:
    cloud, local = (
        {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (followed[0] / "cloud", followed[0] / "local")
    )
    assert any(
        path.endswith("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57_reference_map.tif") for path in cloud
    )
    for files in (cloud, local):
        for path in [path for path in files if path.startswith("jobs/")]:  # who did it, and when
            del files[path]
    assert sorted(cloud) == sorted(local)
    assert [path for path in cloud if cloud[path] != local[path]] == []


def test_nothing_was_left_behind(stack: Stack) -> None:
    """After all of the above: nothing lost, nothing twice, nobody PROCESSING."""
    ids = stack.ids()
    entries = list(stack.ledger.entries())
    assert {entry.state for entry in entries} == {State.SUCCEEDED}
    assert len(ids) == len(set(ids)) == len(entries)
    assert stack.storage.list("arrivals/waiting") == stack.storage.list("arrivals/refused") == []
    until("the poison is in the dead-letter queue", lambda: stack.waiting("DeadLetterQueueUrl") == 1)
    assert stack.waiting("ArrivalsQueueUrl") == 0
    (dead,) = stack.sqs.receive_message(QueueUrl=stack.outputs["DeadLetterQueueUrl"])["Messages"]
    assert dead["Body"] == POISON
    assert {execution["status"] for execution in stack.executions()} == {"SUCCEEDED"}


def test_nothing_outlives_a_localstack_that_was_killed(stack: Stack) -> None:
    """Last of all: it ends the LocalStack of the session."""
    aws = stack.deployed.aws
    functions = [psutil.Process(pid) for pid in stack.deployed.pids(stack.outputs["PlanFunctionName"])]
    assert functions
    os.kill(aws.pid, signal.SIGKILL)
    assert local_aws.end(aws.folder) > len(functions)
    assert not any(function.is_running() for function in functions)
    assert local_aws.processes(aws.folder) == []
    assert local_aws.running(aws.folder) is None
    assert sorted(path.name for path in aws.folder.iterdir()) == ["lambda", "localstack.log", "packaged.yaml"]
