"""The engine in the cloud: a state machine has functions carry out a plan's blocks, many at a time.

A plan is a JSON array of blocks at ``jobs/plans/<name>.json`` of the dataset, which Step Functions' Distributed Map
reads. Its name follows from the blocks and from how often each has been tried: the same event twice names the same
plan, whose execution exists already, and a block that is tried again on purpose makes another name.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self
from urllib.parse import urlsplit

import orjson

from landpatch.catalog.errors import CloudError, InvalidParameter, MissingComponent
from landpatch.catalog.store import NotFound, Storage
from landpatch.functions.jobs import Entry, Ledger, State

if TYPE_CHECKING:  # the local engine makes pixels; the function index starts without all that this needs
    from landpatch.functions.engines.local import Task, Watcher

_POLL_SECONDS = 2.0

Count = Callable[[int, int], None]
"""Told how many blocks have ended, of how many."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Blocks that one execution carries out, under a name of at most 77 characters."""

    name: str
    blocks: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, storage: Storage, tasks: Iterable["Task"]) -> Self:
        """The plan of blocks: of those that nobody works on, and that are not done or INVALID."""
        ledger = Ledger(storage)
        blocks, tries = [], []
        for task in tasks:
            entry = ledger.current(task.job.scene, task.block)
            if not entry.state.active and entry.state not in (State.SUCCEEDED, State.INVALID):
                blocks.append((entry.scene, entry.block))
                tries.append(entry.attempt)
        digest = hashlib.sha256(orjson.dumps([storage.url, blocks, tries])).hexdigest()[:16]
        scenes = {scene for scene, _ in blocks}
        return cls(f"{scenes.pop() if len(scenes) == 1 else f'{len(scenes)}-scenes'}-{digest}", tuple(blocks))

    @classmethod
    def read(cls, storage: Storage, name: str) -> Self:
        """The plan as it was written. Raises NotFound."""
        blocks = tuple((row["scene"], row["block"]) for row in storage.get_json(_path(name)))
        return cls(name, blocks)

    def write(self, storage: Storage, name: str) -> str:
        """Write it under ``name``; returns its path."""
        rows = [{"scene": scene, "block": block} for scene, block in self.blocks]
        storage.put_changed(_path(name), orjson.dumps(rows))
        return _path(name)


def _path(name: str) -> str:
    return f"jobs/plans/{name}.json"


@dataclass(frozen=True, slots=True)
class Execution:
    """One run of the state machine, for the plan ``name``."""

    arn: str
    name: str


@dataclass(frozen=True, slots=True)
class StateMachine:
    """The state machine of ``infra/template.yaml``, by its ARN. Methods raise CloudError."""

    arn: str
    client: Any

    @classmethod
    def open(cls, arn: str | None) -> Self:
        """Raises InvalidParameter without an ARN, MissingComponent without boto3."""
        if not arn:
            raise InvalidParameter(
                "which state machine? Say --state-machine ARN or set LANDPATCH_STATE_MACHINE; the stack's output "
                "StateMachineArn is it"
            )
        return cls(arn, aws_client("stepfunctions", arn.split(":")[3] if arn.count(":") >= 6 else None))

    def start(self, storage: Storage, plan: Plan) -> Execution:
        """Have a plan carried out, or join the execution that does so already.

        An execution of that name that has ended did not get these blocks done: the next number is taken.
        """
        parts = urlsplit(storage.url)
        number = 1
        while True:
            name = plan.name if number == 1 else f"{plan.name}-{number}"
            key = "/".join(filter(None, (parts.path.strip("/"), plan.write(storage, name))))
            document = {"dataset": storage.url, "bucket": parts.netloc, "key": key, "plan": name}
            execution = Execution(self._execution_arn(name), name)
            try:
                with explained(f"start {name}"):
                    self.client.start_execution(
                        stateMachineArn=self.arn, name=name, input=orjson.dumps(document).decode()
                    )
                return execution
            except self.client.exceptions.ExecutionAlreadyExists:
                if self.describe(execution)["status"] == "RUNNING":
                    return execution
                number += 1

    def describe(self, execution: Execution) -> dict[str, Any]:
        """What Step Functions says of an execution: ``status``, ``input``; ``error`` and ``cause`` if it failed."""
        with explained(f"look at {execution.name}"):
            return dict(self.client.describe_execution(executionArn=execution.arn))

    def running(self, storage: Storage) -> Iterator[tuple[Execution, Plan]]:
        """The executions that work on a dataset now, with what they do."""
        with explained("list executions"):
            pages = self.client.get_paginator("list_executions").paginate(
                stateMachineArn=self.arn, statusFilter="RUNNING"
            )
            found = [Execution(row["executionArn"], row["name"]) for page in pages for row in page["executions"]]
        for execution in found:
            if orjson.loads(self.describe(execution).get("input") or "{}").get("dataset") == storage.url:
                try:
                    yield execution, Plan.read(storage, execution.name)
                except NotFound:
                    continue

    def _execution_arn(self, name: str) -> str:
        return f"{self.arn.replace(':stateMachine:', ':execution:', 1)}:{name}"


def aws_client(service: str, region: str | None = None) -> Any:
    """boto3's client of a service. Raises MissingComponent, CloudError."""
    try:
        import boto3
    except ModuleNotFoundError as error:
        raise MissingComponent("this needs boto3: pip install 'landpatch[aws]'") from error
    with explained(f"reach {service}"):
        return boto3.client(service, region_name=region)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn boto3's errors into CloudError: AWS did not ``what``."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        if isinstance(error, ClientError) and error.response["Error"]["Code"] == "ExecutionAlreadyExists":
            raise
        raise CloudError(f"AWS did not {what}: {error}") from error


@dataclass(slots=True)
class CloudEngine:
    """Blocks by functions. ``follow_only``: start nothing, watch what runs. ``count`` is told how far it is.

    An interruption leaves the executions running; whoever runs the engine again joins them.
    """

    machine: StateMachine
    follow_only: bool = False
    count: Count = lambda *_: None
    poll_seconds: float = _POLL_SECONDS
    executions: list[Execution] = field(default_factory=list)
    remote: ClassVar[bool] = True

    def run(
        self, storage: Storage, tasks: Sequence["Task"], *, again: frozenset[State], watch: "Watcher"
    ) -> list[Entry]:
        """Start what nobody does yet and wait for all of it; the entries of the blocks that were worked on.

        Raises CloudError where an execution ended otherwise than by its own account.
        """
        wanted = {(str(task.job.scene), task.block.name): task for task in tasks}
        followed: set[tuple[str, str]] = set()
        for execution, plan in self.machine.running(storage):
            if common := wanted.keys() & set(plan.blocks):
                followed |= common
                self.executions.append(execution)
        if not self.follow_only:
            ledger = Ledger(storage)
            rest = [task for key, task in wanted.items() if key not in followed]
            if State.INVALID in again:
                for task in rest:
                    ledger.reopen(task.job.scene, task.block)
            plan = Plan.of(storage, rest)
            if plan.blocks:
                self.executions.append(self.machine.start(storage, plan))
                followed |= set(plan.blocks)
        return self._follow(storage, [wanted[key] for key in wanted if key in followed], watch)

    def _follow(self, storage: Storage, tasks: "list[Task]", watch: "Watcher") -> list[Entry]:
        ledger = Ledger(storage)
        ended: dict[str, Entry] = {}
        open_tasks, running = list(tasks), list(self.executions)
        while open_tasks or running:
            running = [execution for execution in running if not self._over(execution)]
            for task in list(open_tasks):
                entry = ledger.current(task.job.scene, task.block)
                # FAILED may be tried again as long as the execution runs.
                if entry.state in (State.SUCCEEDED, State.INVALID) or not running:
                    open_tasks.remove(task)
                    ended[task.name] = entry
                    watch(task, entry)
            self.count(len(ended), len(tasks))
            if running:
                time.sleep(self.poll_seconds)
        return [ended[task.name] for task in tasks]

    def _over(self, execution: Execution) -> bool:
        seen = self.machine.describe(execution)
        if seen["status"] in ("FAILED", "TIMED_OUT", "ABORTED"):
            why = ": ".join(filter(None, (seen.get("error"), seen.get("cause"))))
            raise CloudError(f"the execution {execution.name} ended {seen['status']}{why and f' ({why})'}")
        return bool(seen["status"] == "SUCCEEDED")
