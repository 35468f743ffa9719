"""What a person sees on stderr while work goes on: bars on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from landpatch.functions.jobs import Entry, State

if TYPE_CHECKING:  # a verb that builds nothing must not wait seconds for what building needs
    from landpatch.functions.engines.local import Task
    from landpatch.functions.tile import Progress as BlockProgress

_LINE_SECONDS = 10.0  # between plain lines of one piece of work

stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One line to stderr, as it is."""
    stderr.print(text, markup=False)


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=stderr,
        transient=True,
    )


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A callback ``(done, total)`` that shows itself; nothing is shown of work that takes under two seconds."""
    begun = time.monotonic()
    said = begun
    if stderr.is_terminal:
        with _bars() as bars:
            task = bars.add_task(what, total=None, note="", visible=False)

            def show(done: int, total: int) -> None:
                bars.update(task, completed=done, total=total, visible=time.monotonic() - begun > 2)

            yield show
    else:

        def line(done: int, total: int) -> None:
            nonlocal said
            if time.monotonic() - said >= _LINE_SECONDS:
                said = time.monotonic()
                say(f"{what}: {done:,} of {total:,}" if total else f"{what}: {done:,}")

        yield line


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """A callback ``(what, done, total)`` for work that changes its name: each is shown as ``counting`` does."""
    with ExitStack() as stack:
        known: dict[str, Callable[[int, int], None]] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in known:
                stack.close()
                known[what] = stack.enter_context(counting(what))
            known[what](done, total)

        yield show


@contextmanager
def transferring(what: str) -> Iterator[Callable[[int, int, int], None]]:
    """A callback ``(done, total, bytes)`` that shows itself with rate and time left, as ``counting`` does."""
    begun = said = time.monotonic()
    first: tuple[float, int] | None = None

    def rate(done: int, size: int) -> tuple[str, float]:
        """What to show, and seconds a file: from the first one on, which earlier runs and searching precede."""
        nonlocal first
        now = time.monotonic()
        first = first or (now, done)
        passed = max(now - first[0], 1e-3)
        return f"{size / 1e6:,.1f} MB, {size / 1e6 / passed:,.1f} MB/s", passed / max(done - first[1], 1)

    if stderr.is_terminal:
        with _bars() as bars:
            task = bars.add_task(what, total=None, note="", visible=False)

            def show(done: int, total: int, size: int) -> None:
                visible = time.monotonic() - begun > 2
                bars.update(task, completed=done, total=total, note=rate(done, size)[0], visible=visible)

            yield show
    else:

        def line(done: int, total: int, size: int) -> None:
            nonlocal said
            text, seconds = rate(done, size)
            if time.monotonic() - said >= _LINE_SECONDS:
                said = time.monotonic()
                say(f"{what}: {done:,} of {total:,}, {text}, about {seconds * (total - done):,.0f} s left")

        yield line


class BuildDisplay:
    """Shows a build's blocks; a context manager, called as the engine's watcher."""

    def __init__(self) -> None:
        self._bars = _bars() if stderr.is_terminal else None
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, float] = {}

    def __enter__(self) -> "BuildDisplay":
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, task: "Task", news: "BlockProgress | Entry | None") -> None:
        """Show what the engine tells."""
        if news is not None and not isinstance(news, Entry):
            self._progress(task, news)
            return
        if self._bars is not None and task.name in self._tasks:
            self._bars.remove_task(self._tasks.pop(task.name))
        if news is None:
            say(f"{task.name}: nothing to do, or another process works on it")
        elif news.state is State.SUCCEEDED:
            dropped = sum(news.dropped.values())
            say(f"{task.name}: {news.kept:,} patches kept, {dropped:,} dropped, {news.seconds:.0f} s")
        else:
            say(f"{task.name}: {news.state}: {news.error or 'interrupted'}")

    def _progress(self, task: "Task", news: "BlockProgress") -> None:
        note = f"{news.kept:,} kept"
        if self._bars is not None:
            if task.name not in self._tasks:
                self._tasks[task.name] = self._bars.add_task(task.name, total=news.total, note=note)
            self._bars.update(self._tasks[task.name], completed=news.done, note=note)
        elif time.monotonic() - self._said.get(task.name, 0.0) >= _LINE_SECONDS:
            self._said[task.name] = time.monotonic()
            say(f"{task.name}: {news.done} of {news.total} patch rows, {note}")


def out(text: str) -> None:
    """Data to stdout."""
    sys.stdout.write(text + "\n")
