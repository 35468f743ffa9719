"""What the image (infra/Dockerfile) compiles beforehand must be what its functions look for on another machine."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from infra_templates import INFRA


def _in_the_image(program: str, cache: Path) -> str:
    text = (INFRA / "Dockerfile").read_text()
    settings = dict(re.findall(r'(NUMBA_CPU_\w+)="?([^"\s]*)"?', text))
    assert set(settings) == {"NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"}
    environment = {**os.environ, **settings, "NUMBA_CACHE_DIR": str(cache)}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_compiled_code_is_for_no_machine_in_particular(tmp_path: Path) -> None:
    """numba's cache is looked up by target, CPU name and features: none of them may come from this machine's CPU."""
    program = "import json; from numba.core.registry import cpu_target as c; print(json.dumps({}))"
    key = "c.target_context.codegen().magic_tuple()"
    _, name, features = json.loads(_in_the_image(program.format(key), tmp_path))
    assert (name, features) == ("x86-64-v3", "")


def test_the_entry_point_fills_the_cache_and_hands_on(tmp_path: Path) -> None:
    (tmp_path / "opt" / "warp").mkdir(parents=True)
    (tmp_path / "opt" / "warp" / "cut.nbc").write_text("compiled")
    (tmp_path / "lambda-entrypoint.sh").write_text('#!/bin/sh\necho "runs $*"\n')
    (tmp_path / "lambda-entrypoint.sh").chmod(0o755)
    script = (INFRA / "entrypoint.sh").read_text()
    moved = script.replace("/opt/numba", f"{tmp_path}/opt").replace("exec /lambda", f"exec {tmp_path}/lambda")
    assert moved.count(str(tmp_path)) == 2
    cache = tmp_path / "tmp" / "numba"
    for _ in range(2):  # /tmp outlives an environment that starts again
        done = subprocess.run(
            ["sh", "-c", moved, "entrypoint", "a.handler"],
            env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "runs a.handler\n"
        assert [path.relative_to(cache).as_posix() for path in cache.rglob("*.nbc")] == ["warp/cut.nbc"]
