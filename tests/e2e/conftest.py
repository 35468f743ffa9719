"""The demo's dataset, made once for all tests that use it as a user would."""

from pathlib import Path

import pytest

from demo_build import run_landpatch


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    result = run_landpatch("demo", "--to", folder)
    assert "Kept" in result.stderr
    assert result.stdout == ""
    return folder
