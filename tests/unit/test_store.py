import contextlib
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landpatch.catalog.errors import InvalidDataset, InvalidParameter, StorageError
from landpatch.catalog.store import COLLECTION, ITEMS, Dataset, NotFound, Storage, json_bytes
from small_server import serve


@pytest.fixture(params=["folder", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage.open("memory://" if request.param == "memory" else tmp_path / "root", create=True)


# --- every kind of storage ---------------------------------------------------------------------------------------


def test_what_is_put_is_there(storage: Storage) -> None:
    assert not storage.exists("a/b.txt")
    storage.put("a/b.txt", b"one")
    assert storage.exists("a/b.txt")
    assert storage.get("a/b.txt") == b"one"
    storage.put("a/b.txt", memoryview(b"two"))
    assert storage.get("a/b.txt") == b"two"
    storage.put("empty", b"")
    assert storage.get("empty") == b""


@pytest.mark.parametrize("path", ["ä ö/%20.txt", "a+b=c&d.txt", "x" * 200, "a/b/c/d/e/f.txt", "a#b.txt", ".hidden"])
def test_names_are_kept_as_they_are(storage: Storage, path: str) -> None:
    storage.put(path, path.encode())
    assert storage.get(path) == path.encode()
    assert storage.list() == [path]
    if storage.folder is not None:
        assert (storage.folder / path).read_bytes() == path.encode()


def test_what_is_not_there(storage: Storage) -> None:
    with pytest.raises(NotFound, match=f"^{storage.url}/a/b.txt is not there$") as caught:
        storage.get("a/b.txt")
    assert caught.value.retryable is False
    with pytest.raises(NotFound, match="is not there"):
        list(storage.get_many(["a/b.txt"]))
    with pytest.raises(NotFound, match="is not there"):
        storage.open_parquet("a/b.parquet")
    assert storage.list("a") == []
    storage.delete(["a/b.txt"])


@pytest.mark.parametrize("path", ["../secret", "a/../../secret", "a//b", "a/./b", "a/..", "/etc/passwd"])
def test_a_path_that_leads_elsewhere_is_refused(storage: Storage, path: str) -> None:
    """Paths come from items, which may be anybody's."""
    if storage.folder is not None:
        (storage.folder.parent / "secret").write_text("not for you")
    calls: list[Callable[[], object]] = [
        lambda: storage.get(path),
        lambda: storage.put(path, b"x"),
        lambda: storage.create(path, b"x"),
        lambda: storage.exists(path),
        lambda: storage.list(path),
        lambda: storage.delete([path]),
        lambda: storage.open_parquet(path),
    ]
    for call in calls:
        with pytest.raises(StorageError, match=r"cannot .*: the path does not lie below the root"):
            call()
    if storage.folder is not None:
        assert (storage.folder.parent / "secret").read_text() == "not for you"


def test_create_writes_only_where_nothing_is(storage: Storage) -> None:
    assert storage.create("claim", b"one") is True
    assert storage.create("claim", b"two") is False
    assert storage.get("claim") == b"one"
    storage.delete(["claim"])
    assert storage.create("claim", b"two") is True


def test_of_many_that_create_one_wins(storage: Storage) -> None:
    for round_ in range(20):
        start = threading.Barrier(8)

        def attempt(number: int, round_: int = round_, start: threading.Barrier = start) -> bool:
            start.wait()
            return storage.create(f"claims/{round_}", str(number).encode())

        with ThreadPoolExecutor(8) as pool:
            won = [number for number, first in enumerate(pool.map(attempt, range(8))) if first]
        assert len(won) == 1
        assert storage.get(f"claims/{round_}") == str(won[0]).encode()


def test_lists_follow_whole_segments_and_are_sorted(storage: Storage) -> None:
    for path in ("b", "jobs/s-10/x", "jobs/s-1/y", "jobs/s-1/a/z", "jobs/job.json", "a/1"):
        storage.put(path, b"")
    assert storage.list() == ["a/1", "b", "jobs/job.json", "jobs/s-1/a/z", "jobs/s-1/y", "jobs/s-10/x"]
    assert storage.list("jobs/s-1") == ["jobs/s-1/a/z", "jobs/s-1/y"]
    assert storage.list("jobs/") == storage.list("jobs")


def test_many_come_in_the_order_asked_for(storage: Storage) -> None:
    paths = [f"p/{number:03d}" for number in range(150)]
    for path in paths:
        storage.put(path, path.encode())
    wanted = paths[::-1] + paths[:3]
    assert list(storage.get_many(iter(wanted))) == [path.encode() for path in wanted]
    assert list(storage.get_many([])) == []


def test_files_are_put_too(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "big"
    source.write_bytes(os.urandom(12_000_000))
    storage.put_file("a/big", source)
    assert storage.get("a/big") == source.read_bytes()


def test_json(storage: Storage) -> None:
    storage.put_json("x.json", {"b": 1, "a": [None, "ä", 0.1]})
    assert storage.get("x.json") == b'{\n  "a": [\n    null,\n    "\xc3\xa4",\n    0.1\n  ],\n  "b": 1\n}\n'
    assert storage.get_json("x.json") == {"a": [None, "ä", 0.1], "b": 1}
    storage.put("bad.json", b'{"a":')
    with pytest.raises(InvalidDataset, match=r"bad\.json is not JSON"):
        storage.get_json("bad.json")


documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), documents, max_size=4), st.randoms(use_true_random=False))
def test_the_same_document_gives_the_same_bytes(document: dict[str, object], random: object) -> None:
    pairs = list(document.items())
    random.shuffle(pairs)  # type: ignore[attr-defined]
    storage = Storage.open("memory://")
    storage.put_json("x", document)
    assert storage.get("x") == json_bytes(dict(pairs))
    assert storage.get_json("x") == document


# --- folders -----------------------------------------------------------------------------------------------------


def test_a_folder_by_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Storage.open("a b%20c", create=True).put("x", b"1")
    target = tmp_path / "a b%20c"
    for url in (target, str(target), "a b%20c", "./a b%20c", f"file://{tmp_path}/a%20b%2520c"):
        storage = Storage.open(url)
        assert storage.get("x") == b"1"
        assert (storage.url, storage.folder) == (str(target), target)
    assert Storage.open("memory://").folder is None


def test_a_missing_folder_is_made_only_when_asked(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=f"{tmp_path}/a/b cannot be opened as storage"):
        Storage.open(tmp_path / "a/b")
    assert not (tmp_path / "a").exists()
    Storage.open(tmp_path / "a/b", create=True)
    assert (tmp_path / "a/b").is_dir()


@pytest.mark.parametrize("url", ["gs://b/x", "ftp://e.org/x", "s3:///x", "az://b"])
def test_other_kinds_of_storage_are_refused(url: str) -> None:
    with pytest.raises(InvalidParameter, match=url):
        Storage.open(url)


def test_below_a_file_nothing_can_be_written(tmp_path: Path) -> None:
    """Not even by root, whom permissions do not stop."""
    (tmp_path / "file").write_text("x")
    for url in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(StorageError, match=f"{url} cannot be opened as storage"):
            Storage.open(url, create=True)
    storage = Storage.open(tmp_path)
    for write in (storage.put, storage.create):
        with pytest.raises(StorageError, match=f"cannot write {tmp_path}/file/x: ") as caught:
            write("file/x", b"1")
        assert not isinstance(caught.value, NotFound)
        assert "Debug source" not in str(caught.value)


@pytest.fixture
def mounted(tmp_path: Path, component: Callable[[str, object], None]) -> Iterator[Callable[[str], Path]]:
    folder = tmp_path / "mounted"
    folder.mkdir()
    done = []

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        works = sys.platform == "linux" and os.geteuid() == 0
        works = works and subprocess.run(command, capture_output=True, check=False).returncode == 0
        component("mount -t tmpfs (root on Linux)", works)
        done.append(folder)
        return folder

    yield mount
    for each in done:
        subprocess.run(["umount", str(each)], check=True)


def test_a_full_disk_says_so_and_leaves_nothing_half_written(mounted: Callable[[str], Path]) -> None:
    folder = mounted("size=1m")
    storage = Storage.open(folder)
    storage.put("small", b"before")
    for write in (storage.put, storage.create):
        with pytest.raises(
            StorageError, match=f"cannot write {folder}/a/big: the disk is full; free some space"
        ) as caught:
            write("a/big", bytes(2**21))
        assert caught.value.retryable is True
        assert not storage.exists("a/big")
    # Over what is there: the old object stays whole.
    with pytest.raises(StorageError, match="the disk is full"):
        storage.put("small", bytes(2**21))
    assert storage.get("small") == b"before"
    storage.sweep("", lambda _: True, deep=True)
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["small"]
    storage.put("a/big", bytes(2**19))


def test_a_read_only_disk_says_so(mounted: Callable[[str], Path]) -> None:
    folder = mounted("size=1m")
    storage = Storage.open(folder)
    storage.put("x", b"1")
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    with pytest.raises(StorageError, match=f"cannot write {folder}/y: .*[Rr]ead-only"):
        storage.put("y", b"1")
    with pytest.raises(StorageError, match=f"cannot write {folder}/y: .*[Rr]ead-only"):
        storage.create("y", b"1")
    assert storage.get("x") == b"1"
    with pytest.raises(StorageError, match=r"cannot be opened as storage: .*Read-only"):
        Storage.open(folder / "new", create=True)


def test_a_reader_never_sees_a_part_of_an_object(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path)
    versions = [bytes([number]) * 500_000 for number in range(4)]
    storage.put("x", versions[0])
    done = threading.Event()

    def write() -> None:
        for number in range(200):
            storage.put("x", versions[number % 4])
        done.set()

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        seen = set()
        while not done.is_set():
            data = storage.get("x")
            assert len(data) == 500_000
            assert data == data[:1] * 500_000
            seen.add(data[0])
        writer.result()
    assert len(seen) > 1
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_of_many_that_write_one_object_each_writes_it_whole(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b#1").write_text("somebody else's, unfinished")
    contents = [bytes([letter]) * 300_000 for letter in b"abcdefgh"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: storage.put("a/b", content), contents * 8))
    assert storage.get("a/b") in contents
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"b", "b#1"}


def test_a_killed_writer_leaves_no_object(tmp_path: Path) -> None:
    """GIVEN a process killed again and again while it writes, THEN every object is whole; sweep takes the rest."""
    program = f"""
from landpatch.catalog.store import Storage
storage = Storage.open({str(tmp_path)!r})
print("ready", flush=True)
number = 0
while True:
    storage.put(f"a/{{number % 7}}", bytes([number % 251]) * 3_000_000)
    number += 1
"""
    for moment in (0.05, 0.11, 0.17):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            threading.Event().wait(moment)
            process.kill()
        storage = Storage.open(tmp_path)
        for path in storage.list():
            data = storage.get(path)
            assert data == data[:1] * 3_000_000
    storage.sweep("a", lambda _: True)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {path[2:] for path in storage.list()}


def test_sweep_takes_only_what_is_unfinished_and_one_s_own(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path)
    for path in ("jobs/a.json", "jobs/a.json#1", "jobs/b.json#27", "jobs/x#y", "jobs/below/c#3", "patches/d#4"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    assert storage.list() == ["jobs/a.json", "jobs/x#y"]

    def left() -> set[str]:
        return {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}

    everything = left()
    storage.sweep("jobs", lambda path: path == "jobs/a.json")
    assert left() == everything - {"jobs/a.json#1"}
    storage.sweep("jobs", lambda _: True)
    assert left() == everything - {"jobs/a.json#1", "jobs/b.json#27"}
    storage.sweep("jobs", lambda path: path.startswith("jobs/below/"), deep=True)
    assert left() == {"jobs/a.json", "jobs/x#y", "patches/d#4"}
    storage.sweep("nowhere", lambda _: True, deep=True)
    Storage.open("memory://").sweep("jobs", lambda _: True)


# --- datasets ----------------------------------------------------------------------------------------------------


def dataset(storage: Storage, rows: int = 1000) -> bytes:
    table = pa.table({"id": [f"patch-{row:05d}" for row in range(rows)], "x": list(range(rows))})
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=100, compression="zstd")
    storage.put_json(COLLECTION, {"id": "patches"})
    storage.put(ITEMS, file.getvalue())
    return file.getvalue()


def test_a_dataset_is_read(storage: Storage) -> None:
    dataset(storage)
    opened = Dataset(storage)
    assert opened.table().num_rows == 1000
    assert opened.table(["x"]).column_names == ["x"]
    assert opened.table(column for column in ("x", "id")).num_columns == 2
    assert opened.collection() == {"id": "patches"}
    assert opened.nomenclature() is None


@pytest.mark.parametrize("missing", [COLLECTION, ITEMS])
def test_a_folder_that_is_no_dataset(tmp_path: Path, missing: str) -> None:
    dataset(Storage.open(tmp_path))
    (tmp_path / missing).unlink()
    with pytest.raises(InvalidDataset, match=f"{tmp_path} holds no {missing}: it is not a landpatch dataset"):
        Dataset.open(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"<html>", bytes(5000)])
def test_a_parquet_file_that_is_none(storage: Storage, content: bytes) -> None:
    storage.put(ITEMS, content)
    with pytest.raises(
        InvalidDataset, match=rf"{storage.url}/items\.parquet is no readable Parquet file .*restore it"
    ):
        storage.open_parquet(ITEMS)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_parquet_file(storage: Storage, share: float) -> None:
    whole = dataset(storage)
    storage.put(ITEMS, whole[: int(len(whole) * share)])
    with pytest.raises(InvalidDataset, match=r"items\.parquet is no readable Parquet file"):
        Dataset(storage).table()


WHOLE = dataset(Storage.open("memory://"))


@settings(max_examples=150)
@given(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=8))
def test_damage_anywhere_is_an_invalid_dataset_or_goes_unseen(place: int, junk: bytes) -> None:
    """Parquet's pages have no checksums, so that damage may show as other values; but never as another error."""
    storage = Storage.open("memory://")
    dataset(storage)
    storage.put(ITEMS, (WHOLE[:place] + junk + WHOLE[place + len(junk) :])[: len(WHOLE)])
    with contextlib.suppress(InvalidDataset):
        assert Dataset(storage).table().num_columns <= 2


def test_a_dataset_on_s3_is_read_by_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN a bucket, WHEN one column of a large table is wanted, THEN the rest of the file stays where it is."""
    file = tmp_path / "bucket/d" / ITEMS
    file.parent.mkdir(parents=True)
    noise = pa.array([os.urandom(1000) for _ in range(3000)])
    table = pa.table({"id": [f"patch-{row:05d}" for row in range(3000)], "noise": noise})
    pq.write_table(table, file)
    (file.parent / COLLECTION).write_bytes(json_bytes({"id": "patches"}))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    with serve(tmp_path) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        opened = Dataset.open("s3://bucket/d/")
        assert opened.table(["id"]).equals(table.select(["id"]))
        ranges = [wanted for method, path, wanted in server.requests if method == "GET" and path.endswith(ITEMS)]
        assert ranges
        first_last = [wanted.removeprefix("bytes=").split("-") for wanted in ranges if wanted]
        assert len(first_last) == len(ranges)
        assert sum(int(last) - int(first) + 1 for first, last in first_last) < 300_000 < file.stat().st_size
        assert opened.collection() == {"id": "patches"}
        assert list(opened.storage.get_many([COLLECTION] * 3)) == [json_bytes({"id": "patches"})] * 3
        with pytest.raises(InvalidDataset, match=r"s3://bucket/other holds no collection\.json"):
            Dataset.open("s3://bucket/other")
        file.write_bytes(file.read_bytes()[:-4] + b"....")
        with pytest.raises(InvalidDataset, match=r"s3://bucket/d/items\.parquet is no readable Parquet file"):
            opened.table()
