"""After blocks have ended: the catalogue brought up to date, and the world told which scenes are in it.

The event ``Scene Published`` of source ``landpatch`` is sent once for a scene all of whose blocks have succeeded, by
the index run that follows its plan; where that run is repeated it is sent again (at least once, as EventBridge does).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, Self

import orjson

from landpatch.catalog.compaction import compact
from landpatch.catalog.errors import CloudError
from landpatch.catalog.names import SceneId
from landpatch.catalog.store import ITEMS, Storage
from landpatch.functions.engines.aws import Plan, aws_client, explained
from landpatch.functions.jobs import Entry, Job, Ledger, State

SOURCE = "landpatch"
PUBLISHED = "Scene Published"

_EVENTS_A_CALL = 10  # the most that PutEvents takes


class Bus(Protocol):
    """Somewhere to send events."""

    def send(self, details: Iterable[dict[str, Any]]) -> int:
        """Send ``Scene Published`` for each; how many."""


@dataclass(frozen=True, slots=True)
class EventBus:
    """A bus of EventBridge, by name."""

    name: str
    client: Any

    @classmethod
    def open(cls, name: str) -> Self:
        """Raises MissingComponent without boto3."""
        return cls(name, aws_client("events"))

    def send(self, details: Iterable[dict[str, Any]]) -> int:
        """Send ``Scene Published`` for each; how many. Raises CloudError."""
        entries = [
            {
                "Source": SOURCE,
                "DetailType": PUBLISHED,
                "Detail": orjson.dumps(detail).decode(),
                "EventBusName": self.name,
            }
            for detail in details
        ]
        for start in range(0, len(entries), _EVENTS_A_CALL):
            with explained(f"take events on the bus {self.name}"):
                answer = self.client.put_events(Entries=entries[start : start + _EVENTS_A_CALL])
            if answer["FailedEntryCount"]:
                failed = next(entry for entry in answer["Entries"] if "ErrorCode" in entry)
                raise CloudError(f"the bus {self.name} refused an event: {failed['ErrorCode']}")
        return len(entries)


@dataclass(slots=True)
class Indexed:
    """What an index run found and did: ``states`` of the blocks looked at, ``lost`` those that it had to close."""

    changed: bool = False
    patches: int = 0
    events: int = 0
    states: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Blocks that have ended and did not succeed."""
        return sum(self.states.get(state, 0) for state in (State.FAILED, State.INVALID, State.ABORTED))

    def to_document(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "failed": self.failed}


def index(dataset: str, plan: str | None, bus: Bus) -> Indexed:
    """Close what lost workers left open, compact, and announce the plan's scenes that are complete.

    Without a plan all blocks of the dataset are looked at, and nothing is announced. Raises as ``compact``, and
    CloudError.
    """
    storage = Storage.open(dataset)
    # The plan's functions have all ended: who of them has not said so is lost, whatever his lease.
    ledger = Ledger(storage, owner=plan)
    done = Indexed()
    entries: dict[SceneId, list[Entry]] = {}
    jobs = _jobs(storage, ledger, plan)
    for job in jobs:
        for block in job.blocks:
            lost = ledger.close_lost(job.scene, block)
            if lost is not None:
                done.lost.append(f"{lost.scene} {lost.block}")
        entries[job.scene] = [ledger.entry(job.scene, block) for block in job.blocks]
    done.changed = compact(storage)
    done.states = dict(Counter(entry.state.value for found in entries.values() for entry in found))
    done.patches = sum(entry.kept for found in entries.values() for entry in found)
    if plan is not None:
        complete = [job for job in jobs if all(entry.state is State.SUCCEEDED for entry in entries[job.scene])]
        done.events = bus.send(_announcement(storage, job, plan, entries[job.scene]) for job in complete)
    return done


def _jobs(storage: Storage, ledger: Ledger, plan: str | None) -> list[Job]:
    if plan is None:
        return list(ledger.jobs())
    scenes = dict.fromkeys(scene for scene, _ in Plan.read(storage, plan).blocks)
    jobs = [ledger.job(SceneId.parse(scene)) for scene in scenes]
    return [job for job in jobs if job is not None]


def _announcement(storage: Storage, job: Job, plan: str, entries: list[Entry]) -> dict[str, Any]:
    dropped: Counter[str] = Counter()
    for entry in entries:
        dropped.update(entry.dropped)
    return {
        "dataset": storage.url,
        "collection": job.collection,
        "scene": str(job.scene),
        "tile": job.scene.tile,
        "plan": plan,
        "patches": sum(entry.kept for entry in entries),
        "dropped": dict(dropped),
        "items": f"{storage.url}/{ITEMS}",
    }
