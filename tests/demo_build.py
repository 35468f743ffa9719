"""The demo world as tests hand it on, and the command line in a process of its own."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from landpatch.functions.building import ScenePair

Landpatch = Callable[..., subprocess.CompletedProcess[str]]


@dataclass(frozen=True)
class DemoWorld:
    """Scenes (S2 item, S1 items), as files and as read, and prepared labels."""

    scenes: list[tuple[Path, list[Path]]]
    pairs: list[ScenePair]
    labels: Path


def run_landpatch(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The command line; ``check``: it must succeed."""
    command = [sys.executable, "-m", "landpatch.functions", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not check or result.returncode == 0, result.stderr
    return result
