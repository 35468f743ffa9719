"""`landpatch audit`: nothing is wrong with a sound dataset, and planted damage is found, each by its name."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from demo_build import Landpatch
from landpatch.catalog.auditing.auditor import Audit, audit
from landpatch.catalog.auditing.findings import Severity
from landpatch.catalog.bands import REFERENCE_MAP
from landpatch.catalog.errors import AuditFailed
from landpatch.catalog.store import COLLECTION, ITEMS, METADATA, METADATA_FLAGGED, Storage
from landpatch.catalog.tables import COLUMNS_NEEDED, official_tables, write_table
from small_dataset import SCENE, Patch, write_dataset

PATCHES = [Patch(x, y) for x in (0, 1, 40) for y in (40, 41)]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A whole one: with the tables that a build makes and the scenes that its items come from."""
    root = tmp_path / "dataset"
    table = write_dataset(str(root), PATCHES).table()
    for name, part in zip((METADATA, METADATA_FLAGGED), official_tables(table.select(COLUMNS_NEEDED)), strict=True):
        (root / name).write_bytes(write_table(part))
    links = pc.list_flatten(table.column("links"))
    for link in links.to_pylist():
        if link["rel"] == "derived_from":
            (root / link["href"]).parent.mkdir(exist_ok=True)
            (root / link["href"]).write_text("{}")
    return root


def found(result: Audit) -> set[tuple[str, str]]:
    return {(severity.value, kind.value) for severity, kind in result.findings.counts}


def asset(root: Path, patch: Patch, key: str) -> Path:
    table = pq.read_table(root / ITEMS, columns=["id", "assets"]).to_pylist()
    return root / next(row["assets"][key]["href"] for row in table if row["id"] == patch.id)


def rewritten(root: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    file = pq.ParquetFile(root / ITEMS)
    pq.write_table(change(file.read()).replace_schema_metadata(file.schema_arrow.metadata), root / ITEMS)


def test_a_sound_dataset(dataset: Path) -> None:
    result = audit(dataset)
    assert found(result) == set()
    assert (result.checked.files, result.checked.read) == (5 * len(PATCHES), 5 * len(PATCHES))
    assert result.leakage.patches == {"train": 4, "validation": 0, "test": 2}
    result.check(Severity.NOTE)


def _flip(root: Path) -> None:
    file = asset(root, PATCHES[0], "S2_10m")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _shorten(root: Path) -> None:
    file = asset(root, PATCHES[1], "S1")
    file.write_bytes(file.read_bytes()[:-10])


def _lose(root: Path) -> None:
    asset(root, PATCHES[2], REFERENCE_MAP.key).unlink()


def _orphan(root: Path) -> None:
    (asset(root, PATCHES[0], "S1").parent / "left.tif").write_bytes(b"?")


def _twice(root: Path) -> None:
    rewritten(root, lambda table: pa.concat_tables([table.slice(0, 1), table]))


def _other_split(root: Path) -> None:
    def change(table: pa.Table) -> pa.Table:
        for name, word in (("landpatch:split", "test"), ("ml-aoi:split", "test")):
            words = [word, *table.column(name).to_pylist()[1:]]
            table = table.set_column(table.column_names.index(name), name, pa.array(words, pa.string()))
        return table

    rewritten(root, change)


def _elsewhere(root: Path) -> None:
    def change(table: pa.Table) -> pa.Table:
        boxes = table.column("bbox").to_pylist()
        boxes[0]["xmax"] += 48  # as in an old public catalogue
        return table.set_column(
            table.column_names.index("bbox"), "bbox", pa.array(boxes, table.schema.field("bbox").type)
        )

    rewritten(root, change)


def _counts(root: Path) -> None:
    document = orjson.loads((root / COLLECTION).read_bytes())
    document["landpatch:counts"]["splits"]["train"] = 3
    (root / COLLECTION).write_bytes(orjson.dumps(document))


def _table(root: Path) -> None:
    table = pq.read_table(root / METADATA)
    (root / METADATA).write_bytes(write_table(table.slice(1)))


def _cut_catalogue(root: Path) -> None:
    (root / ITEMS).write_bytes((root / ITEMS).read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "kinds"),
    [
        (_flip, {("error", "checksum")}),
        (_shorten, {("error", "size")}),
        (_lose, {("error", "missing")}),
        (_orphan, {("warning", "orphan")}),
        (_twice, {("error", "duplicate"), ("error", "table"), ("error", "collection")}),
        (_other_split, {("error", "split"), ("error", "table"), ("error", "collection"), ("warning", "leakage")}),
        (_elsewhere, {("error", "footprint"), ("error", "collection")}),
        (_counts, {("error", "collection")}),
        (_table, {("error", "table")}),
        (_cut_catalogue, {("error", "unreadable")}),
    ],
)
def test_planted_damage(dataset: Path, damage: Callable[[Path], None], kinds: set[tuple[str, str]]) -> None:
    damage(dataset)
    result = audit(dataset)
    assert found(result) == kinds
    assert all(finding.text for finding in result.findings.kept)
    if any(severity == "error" for severity, _ in kinds):
        with pytest.raises(AuditFailed, match="each says what to do"):
            result.check()


def test_a_sample_is_the_same_in_every_run(dataset: Path) -> None:
    first, second = (audit(dataset, sample=2) for _ in range(2))
    assert first.checked == second.checked
    assert first.checked.read == 10
    assert audit(dataset, pixels=False).checked.read == 0


KILLED = """
import os, signal, sys
from landpatch.catalog.auditing.auditor import audit
from landpatch.catalog.auditing.journal import Journal

add, noted = Journal.add, []

def add_or_die(self, state):
    if len(noted) == 3:
        self._file.write(state[:5])  # as a process leaves it that dies while it writes
        os.kill(os.getpid(), signal.SIGKILL)
    noted.append(state)
    add(self, state)

Journal.add = add_or_die
audit(sys.argv[1])
"""


def test_killed_in_the_middle_it_goes_on_and_finds_the_same(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _shorten(dataset)
    undisturbed = audit(dataset).document()
    journals = tmp_path / "cache/landpatch/audits"
    read: list[str] = []
    get = Storage.get

    def counted(storage: Storage, path: str) -> bytes:
        read.append(path)
        return get(storage, path)

    def again(**options: Any) -> tuple[Audit, int]:
        died = subprocess.run([sys.executable, "-c", KILLED, str(dataset)], env=dict(os.environ), check=False)
        assert died.returncode == -signal.SIGKILL
        (journal,) = journals.iterdir()
        assert journal.stat().st_size == 3 * 16 + 5
        read.clear()
        return audit(dataset, **options), sum(path.endswith(".tif") for path in read)

    monkeypatch.setattr(Storage, "get", counted)
    result, files = again()
    assert (files, result.checked.remembered) == (5 * len(PATCHES) - 1 - 15, 15)
    document = result.document()
    document["checked"]["remembered"] = 0
    assert document == undisturbed
    assert list(journals.iterdir()) == []  # what is finished begins from the start

    assert again(anew=True)[1] == 5 * len(PATCHES) - 1

    # A patch that has changed since is read again: here the first one, which had been read.
    died = subprocess.run([sys.executable, "-c", KILLED, str(dataset)], env=dict(os.environ), check=False)
    assert died.returncode == -signal.SIGKILL
    _flip(dataset)
    result = audit(dataset)
    assert result.checked.remembered == 10
    assert ("error", "checksum") in found(result)


def test_the_command_prints_writes_a_page_and_says_by_its_exit_code(
    dataset: Path, tmp_path: Path, landpatch: Landpatch
) -> None:
    page = tmp_path / "audit.html"
    sound = landpatch("audit", dataset, "--json", "--html", page)
    document: dict[str, Any] = json.loads(sound.stdout)
    assert (document["patches"], document["counts"]["error"]) == (len(PATCHES), {})
    text = page.read_text()
    assert SCENE in text
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", text)
    _lose(dataset)
    broken = landpatch("audit", dataset, check=False)
    assert broken.returncode == 14
    assert "missing" in broken.stdout
    assert landpatch("audit", dataset, "--fail-on", "never").returncode == 0
