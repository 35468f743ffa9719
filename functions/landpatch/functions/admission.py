"""What becomes of a scene that has arrived: paired with Sentinel-1, planned, or kept waiting for Sentinel-1.

A Sentinel-2 scene that Sentinel-1 does not cover wholly yet waits until it does, or until no nearer pass can come any
more; then it is planned with what there is. All of it is on the dataset's storage:

    arrivals/waiting/<item>.json            a Sentinel-2 item, and until when it waits
    arrivals/radar/<yyyymmdd>/<item>.json   Sentinel-1 items that came by themselves, by day of sensing
    arrivals/refused/<item>.json            a scene that waited in vain or cannot be planned, and why

Everything may be done twice: a scene that has its job keeps it, whatever has become known since.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self

import orjson

from landpatch.catalog.discovery import radars_near
from landpatch.catalog.errors import InvalidParameter, LandpatchError
from landpatch.catalog.names import SceneId
from landpatch.catalog.pairing import MAX_GAP_HOURS, PairingLimits, pair
from landpatch.catalog.scenes import is_radar, scene_id, sensing_time
from landpatch.catalog.stac_sources import SceneSource
from landpatch.catalog.store import Storage, json_bytes
from landpatch.functions.arrivals import Arrivals, Item
from landpatch.functions.building import ScenePair, record_jobs, unfinished_tasks
from landpatch.functions.engines.aws import Execution, Plan, StateMachine
from landpatch.functions.jobs import Job, Ledger, Parameters

WAIT = timedelta(hours=MAX_GAP_HOURS + 24)
"""After its sensing, how long a scene waits: until the last pass that may be paired is over and published."""

_WAITING = "arrivals/waiting"
_RADAR = "arrivals/radar"
_REFUSED = "arrivals/refused"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a deployment builds, where to, and how; ``radars`` names a source of Sentinel-1 items, if there is one."""

    dataset: str
    labels: str | None = None
    parameters: Parameters = field(default_factory=Parameters)
    collection: str = "landpatch"
    block_rows: int = 91
    radars: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """From ``LANDPATCH_DATASET``, ``_LABELS``, ``_PARAMETERS`` (JSON), ``_COLLECTION``, ``_BLOCK_ROWS`` and
        ``_S1_SOURCE``; empty is as if unset. Raises InvalidParameter.
        """

        def value(name: str) -> str | None:
            return environment.get(f"LANDPATCH_{name}") or None

        dataset = value("DATASET")
        if dataset is None:
            raise InvalidParameter("LANDPATCH_DATASET does not say where the dataset lies: s3://bucket/prefix")
        try:
            parameters = Parameters(**orjson.loads(value("PARAMETERS") or "{}"))
            rows = int(value("BLOCK_ROWS") or 91)
        except (TypeError, ValueError) as error:
            raise InvalidParameter(f"LANDPATCH_PARAMETERS or LANDPATCH_BLOCK_ROWS: {error}") from error
        return cls(
            dataset.rstrip("/"),
            value("LABELS"),
            parameters,
            value("COLLECTION") or "landpatch",
            rows,
            value("S1_SOURCE"),
        )


@dataclass(slots=True)
class Outcome:
    """What became of arrivals: scenes planned, items that wait, items that waited in vain, executions started."""

    planned: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    executions: list[str] = field(default_factory=list)


class Admission:
    """Takes scenes in for one dataset. Raises what planning raises, CloudError where no execution can be started."""

    def __init__(self, settings: Settings, machine: StateMachine) -> None:
        self.settings, self.machine = settings, machine
        self.storage = Storage.open(settings.dataset)
        self.ledger = Ledger(self.storage)

    def admit(self, arrived: Arrivals) -> Outcome:
        """Take in what has arrived: one execution for all scenes of one call.

        Where a scene cannot be planned its error is raised, after the others have been started.
        """
        outcome = Outcome()
        radars = [item for item in arrived.items if is_radar(item)]
        for item in radars:
            self.storage.put(f"{_RADAR}/{sensing_time(item):%Y%m%d}/{item['id']}.json", json_bytes(item))
        pairs = [ScenePair(*both) for both in arrived.pairs]
        for item in arrived.items:
            if not is_radar(item):
                pairs += self._paired(item, outcome)
        refused = self._carry_out(pairs, outcome)
        if radars:
            self._look_again(outcome)
        for error in refused.values():
            raise error
        return outcome

    def look_again(self) -> Outcome:
        """Take in those scenes that have waited long enough, or that Sentinel-1 covers by now."""
        outcome = Outcome()
        self._look_again(outcome)
        return outcome

    def _look_again(self, outcome: Outcome) -> None:
        pairs: list[ScenePair] = []
        for path in self.storage.list(_WAITING):
            pairs += self._paired(self.storage.get_json(path), outcome)
        for identifier, error in self._carry_out(pairs, outcome).items():
            self.storage.put_json(f"{_REFUSED}/{identifier}.json", {"item": identifier, "error": str(error)})
            self.storage.delete([f"{_WAITING}/{identifier}.json"])
            outcome.refused.append(identifier)

    def _paired(self, item: Item, outcome: Outcome) -> Iterator[ScenePair]:
        """The scene with its Sentinel-1 scenes; nothing where it is to wait for more."""
        scene = scene_id(item)
        if self.ledger.job(scene) is not None:
            yield ScenePair(item)
            return
        known = self._radars(item, scene)
        pairing = pair(item, known)
        beside = tuple(partner.item for partner in pairing.partners)
        wanted = self.settings.parameters.require_s1 or self.settings.radars is not None
        if wanted and not pairing.whole and datetime.now(UTC) < sensing_time(item) + WAIT:
            self.storage.put_changed(f"{_WAITING}/{item['id']}.json", json_bytes(item))
            outcome.waiting.append(str(item["id"]))
            return
        yield ScenePair(item, beside)

    def _radars(self, item: Item, scene: SceneId) -> list[Item]:
        limits = PairingLimits()
        sensed, reach = sensing_time(item), timedelta(hours=limits.max_gap_hours)
        found: dict[str, Item] = {}
        if self.settings.radars is not None:
            source = SceneSource.open(self.settings.radars)
            found = {str(radar["id"]): radar for radar in radars_near(source, item, scene.tile, limits)}
        day = (sensed - reach).date()
        while day <= (sensed + reach).date():
            for path in self.storage.list(f"{_RADAR}/{day:%Y%m%d}"):
                radar = self.storage.get_json(path)
                found.setdefault(str(radar["id"]), radar)
            day += timedelta(days=1)
        return list(found.values())

    def _carry_out(self, pairs: Iterable[ScenePair], outcome: Outcome) -> dict[str, LandpatchError]:
        """Record the jobs of scenes that have none, and have all that is not done carried out.

        Returns the errors of those that cannot be planned, by item id.
        """
        by_scene = {scene_id(both.optical): both for both in pairs}
        jobs = {scene: self.ledger.job(scene) for scene in by_scene}
        fresh = [both for scene, both in by_scene.items() if jobs[scene] is None]
        settings = self.settings
        refused: dict[str, LandpatchError] = {}
        for both in fresh:
            try:
                _, (jobs[scene_id(both.optical)],) = record_jobs(
                    [both],
                    settings.dataset,
                    labels=settings.labels,
                    parameters=settings.parameters,
                    collection=settings.collection,
                    block_rows=settings.block_rows,
                    refused=refused,
                )
            except LandpatchError as error:
                if error.retryable:
                    raise
                refused[str(both.optical["id"])] = error
        self._start([job for job in jobs.values() if job is not None], outcome)
        return refused

    def _start(self, jobs: list[Job], outcome: Outcome) -> None:
        plan = Plan.of(self.storage, unfinished_tasks(self.storage, jobs))
        if plan.blocks:
            execution: Execution = self.machine.start(self.storage, plan)
            outcome.executions.append(execution.name)
        outcome.planned += [str(job.scene) for job in jobs]
        self.storage.delete(f"{_WAITING}/{job.optical}.json" for job in jobs)
