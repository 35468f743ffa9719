"""Measuring a piece of work in a process of its own: CPU seconds of all its threads and children, peak memory.

Times on a shared machine are worth little; CPU seconds and ratios between things measured in one run are what counts.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_PACKAGES = ("landpatch", "rasterio", "numpy", "numba", "deflate", "obstore", "lmdb", "odc-stac", "pystac")


@dataclass(frozen=True, slots=True)
class Measured:
    """What a process used: CPU seconds of itself and of the system for it, wall seconds, peak resident bytes of its
    largest process, and what it reported.
    """

    user: float
    system: float
    wall: float
    peak: int
    report: dict[str, Any]

    @property
    def cpu(self) -> float:
        """CPU seconds."""
        return self.user + self.system


def measured(
    script: str,
    *arguments: object,
    environment: dict[str, str] | None = None,
    as_installed: bool = False,
    python: str = sys.executable,
) -> Measured:
    """Run a script of this folder to its end; its last argument is the file that it writes its report (JSON) to.

    ``as_installed``: without packages that only the tests need (see only_runtime). ``python``: whose environment.

    This process must stay small: Linux counts the memory of the process that starts another as the other's.
    """
    with tempfile.TemporaryDirectory(prefix="landpatch-bench-") as folder:
        report = Path(folder) / "report.json"
        command = [python, str(_HERE / script), *map(str, arguments), str(report)]
        variables = {**os.environ, **(environment or {})}
        if as_installed:
            path = variables.get("PYTHONPATH")
            variables["PYTHONPATH"] = os.pathsep.join([str(_HERE / "only_runtime"), *([path] if path else [])])
        start = time.perf_counter()
        process = subprocess.Popen(command, env=variables)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{script} {' '.join(map(str, arguments))} failed: exit code {process.returncode}")
        unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes on macOS, else kB
        return Measured(usage.ru_utime, usage.ru_stime, wall, usage.ru_maxrss * unit, json.loads(report.read_text()))


def write_report(path: str, report: dict[str, Any]) -> None:
    """What a measured script says at its end."""
    Path(path).write_text(json.dumps(report))


def cpu_seconds() -> float:
    """Of this process so far, all threads and ended children; user and system."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Phases:
    """CPU seconds by phase, taken by wrapping functions from outside.

    Time in a wrapped function that another one calls counts for the inner one only. Work that a library does in
    threads of its own is in no phase: ``process - sum`` shows it.
    """

    def __init__(self) -> None:
        self._local = threading.local()
        self._threads: list[dict[str, float]] = []

    def wrap(self, owner: Any, name: str, phase: str | Callable[..., str]) -> None:
        """Replace ``owner.name`` by itself with a timer around; ``phase`` may depend on the arguments."""
        inner = getattr(owner, name)

        @wraps(inner)
        def timed(*arguments: Any, **named: Any) -> Any:
            totals, stack = self._mine()
            now = time.thread_time()
            if stack:
                totals[stack[-1]] += now - self._local.mark
            stack.append(phase if isinstance(phase, str) else phase(*arguments, **named))
            self._local.mark = now
            try:
                return inner(*arguments, **named)
            finally:
                now = time.thread_time()
                totals[stack.pop()] += now - self._local.mark
                self._local.mark = now

        setattr(owner, name, timed)

    def totals(self) -> dict[str, float]:
        """Of all threads."""
        sums: dict[str, float] = defaultdict(float)
        for totals in self._threads:
            for phase, seconds in totals.items():
                sums[phase] += seconds
        return dict(sums)

    def _mine(self) -> tuple[dict[str, float], list[str]]:
        if not hasattr(self._local, "stack"):
            self._local.stack, self._local.totals = [], defaultdict(float)
            self._threads.append(self._local.totals)
        return self._local.totals, self._local.stack


def machine() -> dict[str, Any]:
    """What a figure needs beside it: processor, cores, load, versions, time."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "processor": model,
        "cores": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "versions": versions(
            ("landpatch", "rasterio", "numpy", "numba", "deflate", "obstore", "lmdb", "odc-stac", "pystac")
        ),
    }


def versions(names: Iterable[str]) -> dict[str, str]:
    """Of installed packages."""
    from importlib.metadata import version

    return {name: version(name) for name in names}
