"""The local engine: one process a block, as many at a time as there are cores.

A process that dies (out of memory, killed) costs its own block and nothing else; when this process dies, its workers
end by themselves, and the next build takes their blocks over.
"""

import gc
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any, ClassVar

from landpatch.catalog.store import Storage
from landpatch.functions.blocks import BlockRun
from landpatch.functions.jobs import Block, Entry, Job, Ledger, State
from landpatch.functions.tile import Progress


@dataclass(frozen=True, slots=True)
class Task:
    """A block to be done, of a job that the ledger holds."""

    job: Job
    block: Block

    @property
    def name(self) -> str:
        """For people: the scene, and the rows where it is not the whole tile."""
        whole = len(self.job.blocks) == 1
        return str(self.job.scene) if whole else f"{self.job.scene} {self.block.name}"


Watcher = Callable[[Task, Progress | Entry | None], None]
"""Told of a task's progress, its entry when it has ended, None when somebody else has it or had done it."""


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """``run_tasks`` as an engine of ``build``."""

    workers: int | None = None
    lmdb: str | None = None
    remote: ClassVar[bool] = False

    def run(self, storage: Storage, tasks: Iterable[Task], *, again: frozenset[State], watch: Watcher) -> list[Entry]:
        """Carry out blocks; the entries of those that were worked on."""
        return run_tasks(storage, tasks, workers=self.workers, again=again, lmdb=self.lmdb, watch=watch)


@dataclass(slots=True)
class _Worker:
    task: Task
    process: Any
    pipe: Connection
    entry: Entry | None = None
    answered: bool = False


def run_tasks(
    storage: Storage,
    tasks: Iterable[Task],
    *,
    workers: int | None = None,
    again: frozenset[State] = frozenset(),
    lmdb: str | None = None,
    watch: Watcher = lambda *_: None,
) -> list[Entry]:
    """Carry out blocks; returns the entries of those that were worked on.

    ``workers``: processes at a time (default: cores). ``lmdb``: a directory that kept patches are also written to.
    KeyboardInterrupt ends the workers, which note ABORTED, and is raised again.
    """
    context = multiprocessing.get_context("spawn")
    waiting = deque(tasks)
    running: dict[Connection, _Worker] = {}
    ended: list[Entry] = []
    limit = workers or os.cpu_count() or 1
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                task = waiting.popleft()
                receiver, sender = context.Pipe(duplex=False)
                arguments = (storage.url, task.job.to_document(), task.block, again, lmdb, sender)
                process = context.Process(target=_work, args=arguments, name=task.name)
                process.start()
                sender.close()
                running[receiver] = _Worker(task, process, receiver)
            for pipe in wait(list(running)):
                assert isinstance(pipe, Connection)
                worker = running[pipe]
                try:
                    message = pipe.recv()
                except EOFError:
                    worker.process.join()
                    del running[pipe]
                    entry = _ended(storage, worker)
                    watch(worker.task, entry)
                    if entry is not None:
                        ended.append(entry)
                    continue
                if isinstance(message, Progress):
                    watch(worker.task, message)
                else:
                    worker.entry, worker.answered = message, True
    except BaseException:
        for worker in running.values():
            worker.process.terminate()
        for worker in running.values():
            worker.process.join(10)
            if worker.process.is_alive():
                worker.process.kill()
        raise
    return ended


def _ended(storage: Storage, worker: _Worker) -> Entry | None:
    """What a worker said at its end; for one that died without a word, what that means for its block."""
    if worker.answered:
        return worker.entry
    code = worker.process.exitcode
    entry = Ledger(storage).entry(worker.task.job.scene, worker.task.block)
    death = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
    hint = " (out of memory? try fewer --workers)" if code == -signal.SIGKILL else ""
    # The entry on storage keeps CLAIMED or PROCESSING; its owner being dead, the next build takes the block over.
    return replace(
        entry, state=State.FAILED, error=f"the worker process died: {death}{hint}", error_class="WorkerDied"
    )


def _work(
    url: str, document: dict[str, Any], block: Block, again: frozenset[State], lmdb: str | None, pipe: Connection
) -> None:
    """A worker process: one block, then the end."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    _end_with_parent()
    gc.freeze()  # what the imports made stays anyway: the collector need not look at it again and again
    with pipe, ExitStack() as stack:
        sink = None
        if lmdb is not None:
            from landpatch.catalog.exports.lmdb import LmdbWriter

            sink = stack.enter_context(LmdbWriter(lmdb, dataset=url))
        run = BlockRun(Storage.open(url), Job.from_document(document), block, again=again)
        try:
            pipe.send(run.run(pipe.send, sink))
        except KeyboardInterrupt:
            raise SystemExit(130) from None


def _interrupt(*_: object) -> None:
    # Once: Ctrl-C reaches this process and its parent, whose SIGTERM must not cut the last ledger entry short.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """End this process when its parent is gone, however that went: nobody waits for its work any more."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
