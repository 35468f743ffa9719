"""`landpatch demo` as a new user runs it, and what the README says can be done with what it leaves."""

import hashlib
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import geopandas
import lmdb
import pytest
import safetensors.numpy

from demo_build import run_landpatch
from landpatch.catalog.store import Dataset

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_there_is_a_dataset_an_lmdb_and_a_page(demo: Path) -> None:
    dataset = Dataset.open(demo / "dataset")
    collection = dataset.collection()
    assert collection["landpatch:patches"] > 300
    assert set(collection["landpatch:dropped"]) == {"NODATA", "UNLABELLED", "NO_S1"}
    assert set(collection["landpatch:counts"]["splits"]) == {"train", "validation", "test"}
    assert len(collection["landpatch:counts"]["labels"]) >= 12
    flags = dataset.table(["landpatch:contains_seasonal_snow", "landpatch:contains_cloud_or_shadow"])
    assert all(any(column.to_pylist()) for column in flags.columns)

    environment = lmdb.open(str(demo / "demo.lmdb"), readonly=True, lock=False)
    with environment.begin() as transaction:
        assert environment.stat()["entries"] == 3 * collection["landpatch:patches"]
        for row in dataset.table(["id", "landpatch:s1_name"]).slice(0, 5).to_pylist():
            bands = safetensors.numpy.load(transaction.get(row["id"].encode()))
            assert bands["B02"].shape == (120, 120)
            assert set(safetensors.numpy.load(transaction.get(row["landpatch:s1_name"].encode()))) == {"VV", "VH"}
    environment.close()

    page = (demo / "index.html").read_text()
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    assert f"{collection['landpatch:patches']}" in page


def test_a_second_run_changes_nothing(demo: Path) -> None:
    def state() -> dict[str, tuple[int, str]]:
        return {
            str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
            for path in demo.rglob("*")
            if path.is_file()
        }

    before = state()
    run_landpatch("demo", "--to", demo)
    assert state() == before
    assert "nothing to try again" in run_landpatch("retry", demo / "dataset").stderr
    assert state() == before


def test_the_readme_s_queries_run(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo)
    (demo / "europe").symlink_to(demo / "dataset")
    try:
        block = next(code for code in re.findall(r"```python\n(.*?)```", README, re.S) if "geopandas" in code)
        names: dict[str, object] = {}
        exec(block, names)
        bog = names["bog"]
        assert isinstance(bog, geopandas.GeoDataFrame)
        assert len(bog) > 0
        sql = re.search(r"```sql\n(.*?)```", README, re.S)
        assert sql is not None
        assert sorted(row[0] for row in duckdb.sql(sql.group(1)).fetchall()) == sorted(bog["id"])
    finally:
        (demo / "europe").unlink()


def test_the_readme_s_function_builds_the_same(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python example, with the demo's second scene for its files."""
    (item,) = (demo / "world").rglob("S2B_33TUN_*_L2A.json")
    (radar,) = (path for path in (demo / "world").rglob("S1A*20190924*_rtc.json"))
    block = next(code for code in re.findall(r"```python\n(.*?)```", README, re.S) if "ScenePair(" in code)
    for written, here in (
        ("S2_ITEM.json", str(item)),
        ("S1_ITEM.json", str(radar)),
        ("clc2018.parquet", str(next((demo / "labels").glob("*.parquet")))),
    ):
        assert written in block
        block = block.replace(written, here)
    script = tmp_path / "example.py"
    # Worker processes import the script again, as on every platform that spawns.
    script.write_text('if __name__ == "__main__":\n' + "".join(f"    {line}\n" for line in block.splitlines()))
    result = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    kept = int(result.stdout.split()[0])
    assert kept == len(Dataset.open(tmp_path / "europe").table(["id"])) > 0


def test_what_the_readme_says_of_search_and_download(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`landpatch serve`, then the search, the download and the export, as they stand there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "europe").symlink_to(demo / "dataset")
    lines = [line.partition(" #")[0].strip() for line in README.splitlines() if line.startswith("landpatch ")]
    serve, download, export = (
        next(line for line in lines if line.startswith(f"landpatch {verb}"))
        for verb in ("serve", "download", "export lmdb peat/")
    )
    search = next(code for code in re.findall(r"```python\n(.*?)```", README, re.S) if "pystac_client" in code)
    command = [sys.executable, "-m", "landpatch.functions", *shlex.split(serve)[1:], "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            (address,) = re.findall(r"http://\S+", server.stderr.readline())
            written = "http://127.0.0.1:8080/"
            assert written in download
            assert written in search
            names: dict[str, Any] = {}
            exec(search.replace(written, address), names)
            matched, ids = names["found"].matched(), {item.id for item in names["found"].items()}
            run_landpatch(*shlex.split(download.replace(written, address))[1:])
        finally:
            server.send_signal(signal.SIGINT)
            server.communicate()
    run_landpatch(*shlex.split(export)[1:])
    # Independently, from the table as it lies.
    rows = Dataset.open(demo / "dataset").table(["id", "landpatch:split", "landpatch:labels"]).to_pylist()
    wanted = {
        row["id"]
        for row in rows
        if row["landpatch:split"] == "train" and "Inland wetlands" in row["landpatch:labels"]
    }
    assert 0 < len(wanted) < 500
    assert (matched, ids) == (len(wanted), wanted)
    assert set(Dataset.open(tmp_path / "peat").table(["id"]).column("id").to_pylist()) == wanted
    environment = lmdb.open(str(tmp_path / "peat.lmdb"), readonly=True, lock=False)
    assert environment.stat()["entries"] == 3 * len(wanted)
    environment.close()


def test_every_verb_has_help_with_an_example() -> None:
    verbs = [
        ["discover"],
        ["build"],
        ["l2a"],
        ["download"],
        ["status"],
        ["retry"],
        ["labels", "prepare"],
        ["export", "lmdb"],
        ["export", "folders"],
        ["serve"],
        ["browser"],
        ["demo"],
    ]
    for verb in verbs:
        text = run_landpatch(*verb, "--help").stdout
        assert f"landpatch {' '.join(verb)}" in text.split("Example:")[1]
