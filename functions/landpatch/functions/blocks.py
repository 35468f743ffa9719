"""Carrying out one block: claim it, build it, write its part, say so in the ledger.

The one piece of code that the local engine's processes and the Lambda function both run.
"""

import re
import resource
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from landpatch.catalog.compaction import part_path, write_part
from landpatch.catalog.errors import InvalidDataset, LandpatchError
from landpatch.catalog.items import scene_item_href
from landpatch.catalog.scenes import optical_scene, radar_scene
from landpatch.catalog.signing import without_secrets
from landpatch.catalog.store import NotFound, Storage
from landpatch.functions.jobs import Block, Claim, Entry, Job, Ledger, LostClaim, State, Stopwatch
from landpatch.functions.labels import open_labels
from landpatch.functions.tile import PatchSink, Progress, Sources, build_block, elevation_model

Report = Callable[[Progress], None]
"""Called with a block's progress; may raise to stop the block."""

_PATCH_ROW = re.compile(r"_\d\d_(\d\d)/[^/]+$")


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


class BlockRun:
    """One attempt at one block.

    ``run`` returns the entry as it stands afterwards; None when there was nothing to do (done, or somebody else's).
    Errors become the entry's FAILED or INVALID, never an exception: one bad scene does not stop the others. An
    interruption (KeyboardInterrupt) becomes ABORTED and is raised again.
    """

    def __init__(self, storage: Storage, job: Job, block: Block, *, again: frozenset[State] = frozenset()) -> None:
        self.storage, self.job, self.block, self.again = storage, job, block, again
        self.ledger = Ledger(storage)

    def run(self, report: Report, sink: PatchSink | None = None) -> Entry | None:
        """Do the block. ``report`` is called with its progress after every strip."""
        claim = self.ledger.claim(self.job.scene, self.block, again=self.again)
        if claim is None:
            return None
        watch = Stopwatch()
        entry = self.ledger.entry(self.job.scene, self.block)
        entry.state = State.PROCESSING
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
        def alive(progress: Progress) -> None:
            self.ledger.renew(claim)
            report(progress)

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

    def _close(self, claim: Claim, entry: Entry, watch: Stopwatch, state: State, error: BaseException | None) -> None:
        entry.state = state
        entry.finished = datetime.now(UTC).isoformat(timespec="seconds")
        entry.seconds, entry.cpu_seconds = watch.read()
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

    def _sweep(self) -> None:
        """Remove the unfinished files of this block's dead attempts."""
        scene = str(self.job.scene)

        def owned(path: str) -> bool:
            row = _PATCH_ROW.search(path)
            return int(row.group(1)) in self.block.rows if row else Path(path).name.startswith(self.block.name)

        self.storage.sweep(f"patches/{self.job.scene.tile}/{scene}", owned, deep=True)
        self.storage.sweep(f"parts/{scene}", owned)
