"""Carrying out one block: claim it, build it, write its part, say so in the ledger.

The one piece of code that the local engine's processes and the Lambda function both run.
"""

import re
import resource
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from landpatch.catalog.compaction import part_path, write_part
from landpatch.catalog.errors import InvalidDataset, LandpatchError
from landpatch.catalog.items import scene_item_href
from landpatch.catalog.names import SceneId
from landpatch.catalog.scenes import optical_scene, radar_scene
from landpatch.catalog.signing import without_secrets
from landpatch.catalog.store import NotFound, Storage
from landpatch.catalog.traffic import traffic
from landpatch.functions.jobs import (
    LEASE_SECONDS,
    Block,
    Claim,
    Entry,
    Job,
    Ledger,
    LogPlace,
    LostClaim,
    State,
    Stopwatch,
    Usage,
)
from landpatch.functions.labels import open_labels
from landpatch.functions.tile import PatchSink, Progress, Sources, build_block, elevation_model

Report = Callable[[Progress], None]
"""Called with a block's progress; may raise to stop the block."""

_CLOSING_SECONDS = 5.0
"""Of a function's time, kept for its last words: a ledger entry takes tenths of a second, and S3 may be slow."""
_GRACE_SECONDS = 30.0
"""After which a function that had to be ended by Lambda is believed dead: clocks differ."""

_PATCH_ROW = re.compile(r"_\d\d_(\d\d)/[^/]+$")


class OutOfTime(LandpatchError):
    """A function's time does not suffice for the block."""

    exit_code = 3
    retryable = True


class BlockFailed(LandpatchError):
    """A block did not succeed, and may the next time: what a state machine tries again."""

    exit_code = 3
    retryable = True


class BlockOutOfTime(BlockFailed):
    """A block did not fit into a function's time."""


class BlockInvalid(LandpatchError):
    """A block will never succeed: its input is at fault."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Invocation:
    """The call of a function that carries a block out.

    ``seconds_left`` until it is ended from outside; ``memory`` in MB, which is what is paid for; ``begun`` by
    time.perf_counter; ``log``: where its lines go; ``owner``: the plan that it works for.
    """

    seconds_left: Callable[[], float]
    memory: int
    begun: float
    log: LogPlace
    owner: str | None = None

    def lease(self) -> float:
        """For how many seconds it is to be believed alive."""
        return min(self.seconds_left() + _GRACE_SECONDS, LEASE_SECONDS + _GRACE_SECONDS)


def load_sources(storage: Storage, job: Job) -> Sources:
    """What a job reads, from the items stored with the dataset. Raises InvalidDataset, InvalidItem, InvalidLabels."""
    parameters = job.parameters
    try:
        optical = storage.get_json(scene_item_href(job.optical))
        radars = [storage.get_json(scene_item_href(item_id)) for item_id in job.radars]
    except NotFound as error:
        raise InvalidDataset(f"job {job.scene}: a scene item is missing ({error}); build the scene again") from error
    return Sources(
        optical_scene(optical, offset=parameters.boa_offset),
        optical,
        tuple(radar_scene(item, unit=parameters.s1_unit, backscatter=parameters.backscatter) for item in radars),
        None if job.labels is None else open_labels(job.labels),
        elevation_model(parameters),
    )


def run_block(
    dataset: str, scene: str, name: str, invocation: Invocation, *, ended: Callable[[Entry], None]
) -> Entry:
    """Carry the block ``name`` out in a function; returns its entry, whoever did it.

    ``ended`` is told the entry of a block that was done here. Raises BlockFailed, BlockOutOfTime, BlockInvalid.
    """
    try:
        storage = Storage.open(dataset)
        job = Ledger(storage).job(SceneId.parse(scene))
        if job is None:
            raise InvalidDataset(f"{dataset} has no job for scene {scene}")
        block = job.block(name)
        try:
            entry = BlockRun(storage, job, block, invocation=invocation).run(lambda _: None)
        except LostClaim:  # somebody else does it by now
            entry = None
        if entry is None:
            return Ledger(storage).current(job.scene, block)
    except LandpatchError as error:
        kind = BlockFailed if error.retryable else BlockInvalid
        raise kind(f"{scene} {name}: {error}") from error
    ended(entry)
    text = f"{scene} {name}: {entry.error_class}: {entry.error}"
    if entry.state is State.INVALID:
        raise BlockInvalid(text)
    if entry.state is State.FAILED:
        raise (BlockOutOfTime if entry.error_class == OutOfTime.__name__ else BlockFailed)(text)
    return entry


class BlockRun:
    """One attempt at one block.

    ``run`` returns the entry as it stands afterwards; None when there was nothing to do (done, or somebody else's).
    Errors become the entry's FAILED or INVALID, never an exception: one bad scene does not stop the others. An
    interruption (KeyboardInterrupt) becomes ABORTED and is raised again. In a function (``invocation``) the block is
    FAILED in time where the next strip would not be done before the function is ended.
    """

    def __init__(
        self,
        storage: Storage,
        job: Job,
        block: Block,
        *,
        again: frozenset[State] = frozenset(),
        invocation: Invocation | None = None,
    ) -> None:
        self.storage, self.job, self.block, self.again = storage, job, block, again
        self.invocation = invocation
        self.ledger = Ledger(storage)
        if invocation is not None:
            self.ledger = Ledger(storage, lease=invocation.lease, owner=invocation.owner)

    def run(self, report: Report, sink: PatchSink | None = None) -> Entry | None:
        """Do the block. ``report`` is called with its progress after every strip."""
        watch = Stopwatch()
        claim = self.ledger.claim(self.job.scene, self.block, again=self.again)
        if claim is None:
            return None
        entry = self.ledger.entry(self.job.scene, self.block)
        entry.state = State.PROCESSING
        entry.log = None if self.invocation is None else self.invocation.log
        try:
            self.ledger.update(claim, entry)
            if claim.number > 1:
                self._sweep()
            self._build(claim, entry, report, sink)
            entry.state = State.SUCCEEDED
        except LostClaim:
            raise
        except KeyboardInterrupt:
            self._close(claim, entry, watch, State.ABORTED, None)
            raise
        except Exception as error:
            retryable = error.retryable if isinstance(error, LandpatchError) else True
            self._close(claim, entry, watch, State.FAILED if retryable else State.INVALID, error)
            return entry
        self._close(claim, entry, watch, State.SUCCEEDED, None)
        return entry

    def _build(self, claim: Claim, entry: Entry, report: Report, sink: PatchSink | None) -> None:
        last = time.perf_counter()

        def alive(progress: Progress) -> None:
            nonlocal last
            self.ledger.renew(claim)
            report(progress)
            now = time.perf_counter()
            if progress.done < progress.total:
                self._check_time(progress, now - last)
            last = now

        sources = load_sources(self.storage, self.job)
        outcome = build_block(self.job, self.block, sources, self.storage, report=alive, sink=sink)
        nomenclature = sources.labels.nomenclature if sources.labels else None
        entry.part = write_part(
            self.storage,
            part_path(str(self.job.scene), self.block.name),
            outcome.table,
            collection=self.job.collection,
            nomenclature=nomenclature,
            dropped=outcome.dropped,
        )
        entry.kept, entry.dropped = outcome.table.num_rows, outcome.dropped
        entry.objects, entry.bytes_written = outcome.objects, outcome.bytes_written
        entry.notes = outcome.notes

    def _check_time(self, progress: Progress, strip_seconds: float) -> None:
        if self.invocation is None:
            return
        left = self.invocation.seconds_left()
        if left - _CLOSING_SECONDS < strip_seconds:
            raise OutOfTime(
                f"{progress.done} of the block's {progress.total} patch rows were done with {left:.0f} s left, and "
                f"the last strip took {strip_seconds:.0f} s: give the function more memory (and with it CPU) or "
                "time, or build in smaller blocks (--block-rows 13)"
            )

    def _close(self, claim: Claim, entry: Entry, watch: Stopwatch, state: State, error: BaseException | None) -> None:
        entry.state = state
        entry.finished = datetime.now(UTC).isoformat(timespec="seconds")
        entry.seconds, entry.cpu_seconds = watch.read()
        entry.usage += self._used(entry.seconds, watch)
        # Linux counts in kB, macOS in bytes (getrusage(2)).
        unit = 1 if sys.platform == "darwin" else 1024
        entry.peak_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        if error is not None:
            entry.error = without_secrets(str(error) or repr(error))
            entry.error_class = type(error).__name__
            if not isinstance(error, LandpatchError):
                # A fault of landpatch itself: what a report of it needs.
                frames = "".join(traceback.format_exception(error)[-3:])
                entry.notes.append(without_secrets(frames))
        try:
            self.ledger.update(claim, entry)
        except LandpatchError as unwritable:
            if error is None:
                raise
            # Storage that takes no ledger entry either (a full disk): the caller still learns of the first error.
            entry.notes.append(f"the ledger could not be written: {unwritable}")

    def _used(self, seconds: float, watch: Stopwatch) -> Usage:
        asked = traffic() - watch.traffic
        if self.invocation is None:
            return Usage(1, seconds, 0.0, asked)
        billed = time.perf_counter() - self.invocation.begun
        return Usage(1, seconds, round(billed * self.invocation.memory / 1024, 3), asked)

    def _sweep(self) -> None:
        """Remove the unfinished files of this block's dead attempts."""
        scene = str(self.job.scene)

        def owned(path: str) -> bool:
            row = _PATCH_ROW.search(path)
            return int(row.group(1)) in self.block.rows if row else Path(path).name.startswith(self.block.name)

        self.storage.sweep(f"patches/{self.job.scene.tile}/{scene}", owned, deep=True)
        self.storage.sweep(f"parts/{scene}", owned)
