import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landpatch.catalog.errors import DatasetConflict, InvalidDataset, InvalidParameter, StorageError
from landpatch.catalog.names import SceneId
from landpatch.catalog.store import Storage
from landpatch.catalog.traffic import Traffic
from landpatch.functions.jobs import (
    LEASE_SECONDS,
    Block,
    Claim,
    Entry,
    Job,
    Ledger,
    LostClaim,
    Parameters,
    State,
    Stopwatch,
    Usage,
    blocks_of,
)

SCENE = SceneId.parse("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP")
BLOCK = Block()


def job(**changes: Any) -> Job:
    values: dict[str, Any] = {
        "scene": SCENE,
        "optical": "S2A_33UUP_20170613_0_L2A",
        "radars": ("S1B_IW_GRDH_1SDV_20170612T165809",),
        "labels": "/data/clc.parquet",
        "label_item": "clc",
        "collection": "patches",
    }
    return Job(**{**values, **changes})


@pytest.fixture(params=["folder", "memory"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    return Ledger(Storage.open(tmp_path if request.param == "folder" else "memory://"))


def finish(ledger: Ledger, claim: Claim, state: State, **values: Any) -> None:
    ledger.update(claim, dataclasses.replace(ledger.entry(claim.scene, claim.block), state=state, **values))


def claim_path(number: int) -> str:
    return f"jobs/{SCENE}/rows-00-90/claim-{number:04d}.json"


def edit_claim(ledger: Ledger, number: int, **changes: Any) -> None:
    ledger.storage.put_json(claim_path(number), {**ledger.storage.get_json(claim_path(number)), **changes})


# --- parameters, blocks, jobs ------------------------------------------------------------------------------------

shares = st.floats(0, 1)
parameters = st.builds(
    Parameters,
    max_unlabelled=shares,
    max_nodata=st.integers(0, 10**6),
    require_s1=st.booleans(),
    max_cloud=st.none() | shares,
    max_snow=st.none() | shares,
    cloud_flag=shares,
    snow_flag=shares,
    compression=st.sampled_from(["deflate", "zstd"]),
    thumbnails=st.booleans(),
    boa_offset=st.sampled_from(["auto", "present", "absent"]),
    backscatter=st.sampled_from(["sigma0", "gamma0-terrain"]),
    s1_unit=st.sampled_from([None, "dB", "power"]),
)
blocks = st.tuples(st.integers(0, 90), st.integers(1, 91)).filter(lambda span: span[0] < span[1])


@given(
    parameters,
    st.lists(blocks, min_size=1, max_size=4),
    st.lists(st.text(), max_size=3),
    st.none() | st.text(),
    st.none() | st.text(),
)
def test_a_job_survives_its_file(
    chosen: Parameters, spans: list[tuple[int, int]], radars: list[str], labels: str | None, label_item: str | None
) -> None:
    one = job(
        parameters=chosen,
        blocks=tuple(Block(*span) for span in spans),
        radars=tuple(radars),
        labels=labels,
        label_item=label_item,
    )
    ledger = Ledger(Storage.open("memory://"))
    assert ledger.add(one) is True
    assert list(ledger.jobs()) == [one]
    assert ledger.add(one) is False
    assert Job.from_document(json.loads(json.dumps(one.to_document()))) == one


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_unlabelled", 1.01),
        ("max_cloud", -0.1),
        ("max_nodata", -1),
        ("max_snow", float("nan")),
        ("cloud_flag", 5),
        ("snow_flag", float("inf")),
        ("compression", "lzw"),
        ("boa_offset", "maybe"),
        ("s1_unit", "amplitude"),
    ],
)
def test_parameters_that_make_no_sense(name: str, value: Any) -> None:
    with pytest.raises(InvalidParameter, match=f"^{name} is "):
        Parameters(**{name: value})


@pytest.mark.parametrize("span", [(0, 0), (5, 5), (6, 5), (-1, 3), (0, 92)])
def test_blocks_that_are_none(span: tuple[int, int]) -> None:
    with pytest.raises(InvalidParameter, match=r"within patch rows 0\.\.91"):
        Block(*span)


@given(st.integers(1, 200))
def test_blocks_share_a_tile_without_gap_or_overlap(rows: int) -> None:
    found = blocks_of(rows)
    assert [row for block in found for row in block.rows] == list(range(91))
    assert all(len(block.rows) == rows for block in found[:-1])
    assert sorted(block.name for block in found) == [block.name for block in found]
    assert len({block.name for block in found}) == len(found)


def test_names_of_blocks() -> None:
    assert [block.name for block in blocks_of(40)] == ["rows-00-39", "rows-40-79", "rows-80-90"]
    assert Block().name == "rows-00-90"


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": {"unknown": 1}},
        {"parameters": {"max_unlabelled": 2}},
        {"blocks": [["0", "91"]]},
        {"scene": "S2A"},
        {"blocks": [[5, 1]]},
        {"scene": None},
        {"radars": None},
    ],
)
def test_a_job_s_file_that_is_none(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidDataset, match="not a job of this version of landpatch"):
        Job.from_document({**job().to_document(), **change})
    ledger = Ledger(Storage.open("memory://"))
    ledger.storage.put_json(f"jobs/{SCENE}/job.json", {**job().to_document(), **change})
    with pytest.raises(InvalidDataset, match=f"jobs/{SCENE}/job.json: not a job"):
        list(ledger.jobs())
    for key in job().to_document():
        document = job().to_document()
        del document[key]
        with pytest.raises(InvalidDataset, match="not a job of this version"):
            Job.from_document(document)


def test_a_job_recorded_when_parameters_were_fewer_is_the_same_job(ledger: Ledger) -> None:
    document = job().to_document()
    for name in ("dem", "dem_heights", "dem_sea", "backscatter"):
        del document["parameters"][name]
    ledger.storage.put_json(f"jobs/{job().scene}/job.json", document)
    assert ledger.add(job()) is False
    with pytest.raises(DatasetConflict):
        ledger.add(job(parameters=Parameters(dem="/dem.tif")))


def test_the_same_scene_built_in_another_way_is_a_conflict(ledger: Ledger) -> None:
    ledger.add(job())
    others = {
        "radars": job(radars=()),
        "labels": job(labels="/data/other.parquet"),
        "parameters": job(parameters=Parameters(max_cloud=0.5)),
        "blocks": job(blocks=blocks_of(13)),
        "collection": job(collection="others"),
    }
    for name, other in others.items():
        with pytest.raises(DatasetConflict, match=rf"scene {SCENE} is in .* \({name} was ") as caught:
            ledger.add(other)
        assert "another --to" in str(caught.value)
    assert list(ledger.jobs()) == [job()]
    elsewhere = SceneId.parse(str(SCENE).replace("33UUP", "33UVP"))
    assert ledger.add(job(scene=elsewhere, radars=())) is True
    assert [one.scene for one in ledger.jobs()] == [SCENE, elsewhere]


# --- entries -----------------------------------------------------------------------------------------------------

entries = st.builds(
    Entry,
    scene=st.just(str(SCENE)),
    block=st.just(BLOCK.name),
    state=st.sampled_from(State),
    attempt=st.integers(0, 50),
    worker=st.none() | st.text(),
    started=st.none() | st.text(),
    finished=st.none() | st.text(),
    kept=st.integers(0, 8281),
    dropped=st.dictionaries(st.text(), st.integers(0, 8281), max_size=4),
    objects=st.integers(0, 50000),
    bytes_written=st.integers(0, 2**50),
    seconds=st.floats(0, 1e6),
    cpu_seconds=st.floats(0, 1e6),
    peak_memory=st.integers(0, 2**40),
    part=st.none() | st.text(),
    error=st.none() | st.text(),
    error_class=st.none() | st.text(),
    notes=st.lists(st.text(), max_size=3),
)


@given(entries, st.dictionaries(st.sampled_from(["new", "fields", "of tomorrow"]), st.integers()))
def test_an_entry_survives_its_file(entry: Entry, unknown: dict[str, int]) -> None:
    document = {**dataclasses.asdict(entry), **unknown}
    assert Entry.from_document(json.loads(json.dumps(document))) == entry
    ledger = Ledger(Storage.open("memory://"))
    claim = ledger.claim(SCENE, BLOCK)
    assert claim is not None
    ledger.update(claim, entry)
    assert ledger.entry(SCENE, BLOCK) == entry


def test_what_nobody_has_begun_is_pending(ledger: Ledger) -> None:
    assert ledger.entry(SCENE, BLOCK) == Entry(str(SCENE), "rows-00-90")
    ledger.add(job(blocks=blocks_of(50)))
    claim = ledger.claim(SCENE, Block(50, 91))
    assert claim is not None
    assert [(entry.block, entry.state) for entry in ledger.entries()] == [
        ("rows-00-49", State.PENDING),
        ("rows-50-90", State.CLAIMED),
    ]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"state": "DONE"}', b'{"state": "FAILED"}', b'{"state"'])
def test_a_damaged_entry_is_named(ledger: Ledger, content: bytes) -> None:
    ledger.storage.put(f"jobs/{SCENE}/rows-00-90.json", content)
    with pytest.raises(InvalidDataset, match=rf"{SCENE}/rows-00-90\.json"):
        ledger.entry(SCENE, BLOCK)


# --- claims ------------------------------------------------------------------------------------------------------


def test_a_claim_names_its_worker(ledger: Ledger) -> None:
    claim = ledger.claim(SCENE, BLOCK)
    assert claim == Claim(SCENE, BLOCK, 1)
    entry = ledger.entry(SCENE, BLOCK)
    assert (entry.state, entry.attempt) == (State.CLAIMED, 1)
    assert entry.worker == f"{os.uname().nodename}:{os.getpid()}"
    assert entry.started is not None
    assert datetime.now(UTC) - datetime.fromisoformat(entry.started) < timedelta(minutes=1)
    lease = ledger.storage.get_json(claim_path(1))
    left = datetime.fromisoformat(lease["until"]) - datetime.now(UTC)
    assert timedelta(seconds=LEASE_SECONDS - 60) < left <= timedelta(seconds=LEASE_SECONDS)


def test_a_live_worker_keeps_its_block(ledger: Ledger) -> None:
    claim = ledger.claim(SCENE, BLOCK)
    assert claim is not None
    assert ledger.claim(SCENE, BLOCK) is None
    finish(ledger, claim, State.PROCESSING)
    assert ledger.claim(SCENE, BLOCK) is None
    assert ledger.claim(SCENE, BLOCK, again=frozenset(State)) is None


def test_blocks_are_claimed_each_for_itself(ledger: Ledger) -> None:
    claims = [ledger.claim(SCENE, block) for block in blocks_of(13)]
    assert [claim.number for claim in claims if claim] == [1] * 7
    other = SceneId.parse(str(SCENE).replace("33UUP", "33UVP"))
    assert ledger.claim(other, blocks_of(13)[0]) is not None


def test_of_many_threads_one_gets_the_block(ledger: Ledger) -> None:
    for block in blocks_of(8):
        start = threading.Barrier(8)

        def attempt(_: int, block: Block = block, start: threading.Barrier = start) -> Claim | None:
            start.wait()
            return ledger.claim(SCENE, block)

        with ThreadPoolExecutor(8) as pool:
            won = [claim for claim in pool.map(attempt, range(8)) if claim is not None]
        assert won == [Claim(SCENE, block, 1)]
        assert ledger.entry(SCENE, block).state is State.CLAIMED


CLAIMING = """
import sys
from landpatch.catalog.names import SceneId
from landpatch.catalog.store import Storage
from landpatch.functions.jobs import Ledger, blocks_of
ledger, scene = Ledger(Storage.open(sys.argv[1])), SceneId.parse(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
print(*[block.first for block in blocks_of(int(sys.argv[3])) if ledger.claim(scene, block)], flush=True)
sys.stdin.read()
"""


def claiming(folder: Path, rows: int) -> "subprocess.Popen[str]":
    """A process that claims a tile's blocks when it is sent a line and lives until its input ends."""
    program = [sys.executable, "-c", CLAIMING, str(folder), str(SCENE), str(rows)]
    worker = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker


def go(worker: "subprocess.Popen[str]") -> None:
    assert worker.stdin is not None
    worker.stdin.write("go\n")
    worker.stdin.flush()


def test_of_many_processes_one_gets_each_block(tmp_path: Path) -> None:
    workers = [claiming(tmp_path, 1) for _ in range(3)]
    for worker in workers:
        go(worker)
    won = []
    for worker in workers:
        assert worker.stdout is not None
        won += worker.stdout.readline().split()
    for worker in workers:
        worker.communicate("", timeout=60)
        assert worker.returncode == 0
    assert sorted(map(int, won)) == list(range(91))


@pytest.mark.parametrize("state", [State.CLAIMED, State.PROCESSING])
def test_a_killed_worker_s_block_is_taken_over_at_once(tmp_path: Path, state: State) -> None:
    ledger = Ledger(Storage.open(tmp_path))
    with claiming(tmp_path, 91) as worker:
        go(worker)
        assert worker.stdout is not None
        assert worker.stdout.readline() == "0\n"
        finish(ledger, Claim(SCENE, BLOCK, 1), state)
        assert ledger.claim(SCENE, BLOCK) is None
        worker.send_signal(signal.SIGSTOP)
        assert ledger.claim(SCENE, BLOCK) is None  # asleep is not dead
        worker.kill()
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)  # a zombie: its number is still taken
        claim = ledger.claim(SCENE, BLOCK)
    assert claim == Claim(SCENE, BLOCK, 2)
    assert ledger.entry(SCENE, BLOCK).worker == f"{os.uname().nodename}:{os.getpid()}"


def test_a_worker_that_died_between_its_claim_and_its_entry(ledger: Ledger) -> None:
    ledger.claim(SCENE, BLOCK)
    edit_claim(ledger, 1, pid=2**22 + 1)
    ledger.storage.delete([f"jobs/{SCENE}/rows-00-90.json"])
    assert ledger.claim(SCENE, BLOCK) == Claim(SCENE, BLOCK, 2)


def test_one_that_is_alive_between_them_is_left_alone(ledger: Ledger) -> None:
    ledger.claim(SCENE, BLOCK)
    ledger.storage.delete([f"jobs/{SCENE}/rows-00-90.json"])
    assert ledger.claim(SCENE, BLOCK) is None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc, which says when a process began")
def test_a_process_number_used_again_is_not_its_former_owner(ledger: Ledger) -> None:
    ledger.claim(SCENE, BLOCK)
    edit_claim(ledger, 1, born="1")
    assert ledger.claim(SCENE, BLOCK) == Claim(SCENE, BLOCK, 2)


def test_elsewhere_a_worker_is_believed_until_its_lease_ends(ledger: Ledger) -> None:
    """GIVEN a worker on another machine, whose processes cannot be seen, THEN only its lease tells."""
    claim = ledger.claim(SCENE, BLOCK)
    assert claim is not None
    soon = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    edit_claim(ledger, 1, host="another/boot", pid=2**22 + 1, until=soon)
    assert ledger.claim(SCENE, BLOCK) is None
    edit_claim(ledger, 1, until=(datetime.now(UTC) - timedelta(seconds=1)).isoformat())
    assert ledger.claim(SCENE, BLOCK) == Claim(SCENE, BLOCK, 2)
    with pytest.raises(LostClaim, match=rf"{SCENE} rows-00-90: attempt 1 .* attempt 2 took over"):
        ledger.renew(claim)


def test_renewing_puts_the_end_off(ledger: Ledger) -> None:
    claim = ledger.claim(SCENE, BLOCK)
    assert claim is not None
    edit_claim(ledger, 1, until=(datetime.now(UTC) - timedelta(seconds=1)).isoformat())
    ledger.renew(claim)
    assert ledger.claim(SCENE, BLOCK) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"until": 5}', b'{"until": "x", "host": "", "pid": 1}'])
def test_a_damaged_claim_is_nobody_s(ledger: Ledger, content: bytes) -> None:
    ledger.claim(SCENE, BLOCK)
    ledger.storage.put(claim_path(1), content)
    assert ledger.claim(SCENE, BLOCK) == Claim(SCENE, BLOCK, 2)


def test_who_lost_its_claim_writes_nothing(ledger: Ledger) -> None:
    first = ledger.claim(SCENE, BLOCK)
    assert first is not None
    edit_claim(ledger, 1, until="2020-01-01T00:00:00+00:00")
    second = ledger.claim(SCENE, BLOCK)
    assert second is not None
    taken = ledger.entry(SCENE, BLOCK)
    for write in (lambda: ledger.renew(first), lambda: finish(ledger, first, State.SUCCEEDED)):
        with pytest.raises(LostClaim, match="attempt 1 was silent for too long and attempt 2 took over"):
            write()
    assert ledger.entry(SCENE, BLOCK) == taken
    assert LostClaim.retryable is True
    finish(ledger, second, State.SUCCEEDED)
    assert ledger.entry(SCENE, BLOCK).state is State.SUCCEEDED


# --- what may be tried again -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "again", "claimable"),
    [
        (State.SUCCEEDED, frozenset(), False),
        (State.SUCCEEDED, frozenset(State), False),
        (State.INVALID, frozenset(), False),
        (State.INVALID, frozenset({State.FAILED}), False),
        (State.INVALID, frozenset({State.INVALID}), True),
        (State.FAILED, frozenset(), True),
        (State.ABORTED, frozenset(), True),
    ],
)
def test_which_blocks_are_tried_again(ledger: Ledger, state: State, again: frozenset[State], claimable: bool) -> None:
    claim = ledger.claim(SCENE, BLOCK)
    assert claim is not None
    finish(ledger, claim, state)
    found = ledger.claim(SCENE, BLOCK, again=again)
    assert found == (Claim(SCENE, BLOCK, 2) if claimable else None)
    assert ledger.entry(SCENE, BLOCK).state is (State.CLAIMED if claimable else state)


def test_attempts_are_counted(ledger: Ledger) -> None:
    for number in range(1, 13):
        claim = ledger.claim(SCENE, BLOCK)
        assert claim == Claim(SCENE, BLOCK, number)
        assert ledger.entry(SCENE, BLOCK).attempt == number
        finish(ledger, claim, State.FAILED, error="disk full", error_class="StorageError")
    assert ledger.entry(SCENE, BLOCK).error == "disk full"


def test_of_two_that_try_again_one_does(ledger: Ledger) -> None:
    claim = ledger.claim(SCENE, BLOCK)
    assert claim is not None
    finish(ledger, claim, State.FAILED)
    start = threading.Barrier(6)

    def attempt(_: int) -> Claim | None:
        start.wait()
        return ledger.claim(SCENE, BLOCK)

    with ThreadPoolExecutor(6) as pool:
        won = [found for found in pool.map(attempt, range(6)) if found is not None]
    assert won == [Claim(SCENE, BLOCK, 2)]


def test_a_worker_that_succeeded_and_ended_meanwhile_is_not_taken_for_dead(tmp_path: Path) -> None:
    """GIVEN a worker that writes SUCCEEDED and ends just while another asks whether it lives, THEN it is done."""

    class Slow(Storage):
        """Somebody else finishes while this one looks at the claim."""

        def get_json(self, path: str) -> Any:
            lease = super().get_json(path)
            if "/claim-" in path:
                finish(other, claim, State.SUCCEEDED)
                lease["pid"] = 2**22 + 1
            return lease

    other = Ledger(Storage.open(tmp_path))
    taken = other.claim(SCENE, BLOCK)
    assert taken is not None
    claim = taken
    finish(other, claim, State.PROCESSING)
    assert Ledger(Slow.open(tmp_path)).claim(SCENE, BLOCK) is None
    assert other.entry(SCENE, BLOCK).state is State.SUCCEEDED


def test_a_ledger_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("a file in the way")
    ledger = Ledger(Storage.open(tmp_path))
    with pytest.raises(StorageError, match=f"cannot write {tmp_path}/jobs/{SCENE}/job.json"):
        ledger.add(job())


def test_the_stopwatch() -> None:
    watch = Stopwatch()
    sum(range(10**6))
    wall, cpu = watch.read()
    assert 0 < cpu < 60
    assert 0 < wall < 60
    threading.Event().wait(0.05)
    later, busy = watch.read()
    assert later - wall >= 0.045
    assert busy - cpu < 0.045


# --- lost workers ------------------------------------------------------------------------------------------------


def test_a_lost_worker_s_block_is_seen_as_failed_and_closed_once(ledger: Ledger) -> None:
    claim = ledger.claim(SCENE, BLOCK)
    assert claim is not None
    assert ledger.current(SCENE, BLOCK).state is State.CLAIMED
    assert ledger.close_lost(SCENE, BLOCK) is None
    edit_claim(ledger, 1, until="2020-01-01T00:00:00+00:00")
    assert ledger.current(SCENE, BLOCK).state is State.FAILED
    assert ledger.entry(SCENE, BLOCK).state is State.CLAIMED
    lost = ledger.close_lost(SCENE, BLOCK)
    assert lost is not None
    assert (lost.state, lost.error_class, lost.attempt) == (State.FAILED, "WorkerLost", 2)
    assert ledger.entry(SCENE, BLOCK) == lost
    assert ledger.close_lost(SCENE, BLOCK) is None
    with pytest.raises(LostClaim):
        ledger.renew(claim)
    assert ledger.claim(SCENE, BLOCK) == Claim(SCENE, BLOCK, 3)


def test_an_owner_takes_over_from_itself_only(ledger: Ledger) -> None:
    mine, other = (Ledger(ledger.storage, owner=name) for name in ("mine", "other"))
    assert mine.claim(SCENE, BLOCK) == Claim(SCENE, BLOCK, 1)
    assert other.claim(SCENE, BLOCK) is None
    assert ledger.claim(SCENE, BLOCK) is None
    assert other.close_lost(SCENE, BLOCK) is None
    assert mine.claim(SCENE, BLOCK) == Claim(SCENE, BLOCK, 2)


def test_a_lease_is_as_long_as_its_holder_may_live(ledger: Ledger) -> None:
    assert Ledger(ledger.storage, lease=lambda: -1.0).claim(SCENE, BLOCK) is not None
    assert ledger.claim(SCENE, BLOCK) == Claim(SCENE, BLOCK, 2)


def test_what_ended_invalid_can_be_opened_again(ledger: Ledger) -> None:
    claim = ledger.claim(SCENE, BLOCK)
    assert claim is not None
    finish(ledger, claim, State.FAILED)
    assert ledger.reopen(SCENE, BLOCK) is False
    claim = ledger.claim(SCENE, BLOCK)
    assert claim is not None
    finish(ledger, claim, State.INVALID)
    assert ledger.claim(SCENE, BLOCK) is None
    assert ledger.reopen(SCENE, BLOCK) is True
    assert ledger.claim(SCENE, BLOCK) is not None


def test_what_attempts_used_is_kept_for_the_next(ledger: Ledger) -> None:
    used = Usage(1, 2.5, 10.0, Traffic(reads=3))
    for attempt in (1, 2):
        claim = ledger.claim(SCENE, BLOCK)
        assert claim is not None
        finish(ledger, claim, State.FAILED, usage=ledger.entry(SCENE, BLOCK).usage + used)
        assert ledger.entry(SCENE, BLOCK).usage == Usage(
            attempt, 2.5 * attempt, 10.0 * attempt, Traffic(reads=3 * attempt)
        )
