"""Jobs, their blocks, and the ledger that says how far each block is.

A job is one Sentinel-2 scene with its Sentinel-1 scenes, label source and parameters; a block is some of its patch
rows, by default all. Both are JSON on the dataset's storage:

    jobs/<scene>/job.json             the job
    jobs/<scene>/<block>.json         the ledger entry of a block: its state, counts, figures, error
    jobs/<scene>/<block>/claim-0001.json      who works on it, and until when that is believed

A claim is a conditional write (create if absent), which every storage has: of two workers that want a block, one
gets the next number. Whoever holds the highest number may write the entry; a worker that lost its lease finds a
higher one and stops. A block whose worker fell silent is taken over by whoever does it next, or closed as FAILED
(``close_lost``): no block is PROCESSING for ever.
"""

import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from landpatch.catalog.errors import DatasetConflict, InvalidDataset, InvalidParameter, LandpatchError
from landpatch.catalog.names import TILE_PATCHES, SceneId
from landpatch.catalog.scenes import GrdBackscatter, HeightsAbove, OffsetChoice, RadarUnit
from landpatch.catalog.store import NotFound, Storage, json_bytes
from landpatch.catalog.traffic import Traffic, traffic

LEASE_SECONDS = 900
"""How long a silent worker is believed to be alive: the longest that a Lambda function may run."""


class State(StrEnum):
    """Of a block. FAILED may be tried again, INVALID never is of itself: its input is at fault."""

    PENDING = "PENDING"
    CLAIMED = "CLAIMED"
    PROCESSING = "PROCESSING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    INVALID = "INVALID"
    ABORTED = "ABORTED"

    @property
    def active(self) -> bool:
        """Whether somebody works on the block, if they live."""
        return self in (State.CLAIMED, State.PROCESSING)


@dataclass(frozen=True, slots=True)
class Parameters:
    """How patches are made; part of a dataset's identity: all blocks of a job share them.

    ``max_unlabelled``: a patch is kept iff its share of pixels without a class is below (0.25: BigEarthNet v2.0).
    ``max_nodata``: pixels of 0, all bands together, that a patch may have (0: BigEarthNet v2.0).
    ``require_s1``: drop patches that no Sentinel-1 scene covers wholly, or keep them with Sentinel-2 alone.
    ``max_cloud`` (cloud and shadow) and ``max_snow``: shares above which patches are dropped (None: never).
    ``cloud_flag``, ``snow_flag``: shares from which the official flags stand.
    ``boa_offset``, ``s1_unit``: overrule what items say of their pixels.
    ``dem``: href of the elevation model by which GRD products are terrain-corrected; its heights are above the geoid
    or the ellipsoid (``dem_heights``); ``dem_sea``: where it has no file there is sea. ``backscatter``: what GRD
    products become.
    """

    max_unlabelled: float = 0.25
    max_nodata: int = 0
    require_s1: bool = True
    max_cloud: float | None = None
    max_snow: float | None = None
    cloud_flag: float = 0.05
    snow_flag: float = 0.05
    compression: str = "deflate"
    thumbnails: bool = False
    boa_offset: OffsetChoice = "auto"
    s1_unit: RadarUnit | None = None
    dem: str | None = None
    dem_heights: HeightsAbove = "geoid"
    dem_sea: bool = False
    backscatter: GrdBackscatter = "sigma0"

    def __post_init__(self) -> None:
        for name in ("max_unlabelled", "max_cloud", "max_snow", "cloud_flag", "snow_flag"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InvalidParameter(f"{name} is a share between 0 and 1, not {value}")
        if self.max_nodata < 0:
            raise InvalidParameter(f"max_nodata is a number of pixels, not {self.max_nodata}")
        for name, known in (
            ("compression", ("deflate", "zstd")),
            ("boa_offset", ("auto", "present", "absent")),
            ("s1_unit", (None, "dB", "power")),
            ("dem_heights", ("geoid", "ellipsoid")),
            ("backscatter", ("sigma0", "gamma0-terrain")),
        ):
            if getattr(self, name) not in known:
                raise InvalidParameter(f"{name} is one of {known}, not {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """Patch rows ``first`` up to but not including ``last`` of a tile."""

    first: int = 0
    last: int = TILE_PATCHES

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.last <= TILE_PATCHES:
            raise InvalidParameter(f"a block lies within patch rows 0..{TILE_PATCHES}, not {self.first}..{self.last}")

    @property
    def name(self) -> str:
        """``rows-00-90``: first and last row."""
        return f"rows-{self.first:02d}-{self.last - 1:02d}"

    @property
    def rows(self) -> range:
        """The patch rows."""
        return range(self.first, self.last)


def blocks_of(rows: int) -> tuple[Block, ...]:
    """A tile in blocks of ``rows`` patch rows each."""
    return tuple(Block(first, min(first + rows, TILE_PATCHES)) for first in range(0, TILE_PATCHES, rows))


@dataclass(frozen=True, slots=True)
class Job:
    """One scene to be cut. ``optical`` and ``radars`` are item ids (stored under ``scenes/``); ``labels`` is the
    href of a prepared label source (None: no reference maps) and ``label_item`` its item's id.
    """

    scene: SceneId
    optical: str
    radars: tuple[str, ...]
    labels: str | None
    label_item: str | None
    collection: str
    parameters: Parameters = field(default_factory=Parameters)
    blocks: tuple[Block, ...] = (Block(),)

    def block(self, name: str) -> Block:
        """The block that goes by ``name``. Raises InvalidParameter."""
        for block in self.blocks:
            if block.name == name:
                return block
        raise InvalidParameter(f"scene {self.scene} has no block {name!r}; it has {_names(self.blocks)}")

    def to_document(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "scene": str(self.scene), "radars": list(self.radars), "blocks": _spans(self.blocks)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """From what ``to_document`` gave. Raises InvalidDataset."""
        try:
            return cls(
                SceneId.parse(document["scene"]),
                document["optical"],
                tuple(document["radars"]),
                document["labels"],
                document["label_item"],
                document["collection"],
                Parameters(**document["parameters"]),
                tuple(Block(*span) for span in document["blocks"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidDataset(f"not a job of this version of landpatch: {error!r}") from error


def _names(blocks: Iterable[Block]) -> str:
    return ", ".join(block.name for block in blocks)


def _spans(blocks: Iterable[Block]) -> list[list[int]]:
    return [[block.first, block.last] for block in blocks]


@dataclass(frozen=True, slots=True)
class Usage:
    """What all attempts at a block cost together, those that could still say so before they ended.

    ``seconds`` of wall time; ``gb_seconds``: memory that was given times time that is billed, of functions in the
    cloud (0 elsewhere); ``traffic`` with the dataset's storage and label sources on S3, not with the scenes' files,
    which GDAL reads.
    """

    attempts: int = 0
    seconds: float = 0.0
    gb_seconds: float = 0.0
    traffic: Traffic = field(default_factory=Traffic)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """From JSON."""
        return cls(**{**document, "traffic": Traffic(**document["traffic"])})

    def __add__(self, other: Self) -> "Usage":
        return Usage(
            self.attempts + other.attempts,
            round(self.seconds + other.seconds, 3),
            round(self.gb_seconds + other.gb_seconds, 3),
            self.traffic + other.traffic,
        )


@dataclass(frozen=True, slots=True)
class LogPlace:
    """Where the log lines of an attempt lie in CloudWatch."""

    group: str
    stream: str
    request: str


@dataclass(slots=True)
class Entry:
    """A block's line in the ledger.

    ``dropped`` counts patches by reason; ``part`` is the sha-256 of the part's bytes; ``seconds`` and
    ``cpu_seconds`` are of the last attempt, ``peak_memory`` in bytes; ``notes`` are sentences worth reading, such
    as what the pixels said about the radiometric offset. ``usage`` is of all attempts; ``log`` of the last one.
    """

    scene: str
    block: str
    state: State = State.PENDING
    attempt: int = 0
    worker: str | None = None
    started: str | None = None
    finished: str | None = None
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    objects: int = 0
    bytes_written: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory: int = 0
    part: str | None = None
    error: str | None = None
    error_class: str | None = None
    notes: list[str] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    log: LogPlace | None = None

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """From JSON; fields that this version does not know are left out."""
        known = {f.name for f in fields(cls)}
        values = {key: value for key, value in document.items() if key in known}
        if "usage" in values:
            values["usage"] = Usage.from_document(values["usage"])
        if values.get("log"):
            values["log"] = LogPlace(**values["log"])
        return cls(**{**values, "state": State(document["state"])})


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a block until ``until``; renewed while work goes on."""

    scene: SceneId
    block: Block
    number: int


class LostClaim(LandpatchError):
    """Another worker took the block over because this one was silent for longer than its lease."""

    retryable = True


class WorkerLost(LandpatchError):
    """A block's worker ended without a word: killed, out of memory, out of time."""

    exit_code = 3
    retryable = True


def _lease_seconds() -> float:
    return LEASE_SECONDS


class Ledger:
    """The jobs of a dataset and the states of their blocks.

    ``lease`` says for how many more seconds a claim is to be believed. ``owner`` names on whose behalf blocks are
    claimed, where there is an owner that never has two workers on a block at a time (a plan, which its state machine
    carries out): a claim of the same owner is then that of a dead predecessor.
    """

    def __init__(
        self, storage: Storage, *, lease: Callable[[], float] = _lease_seconds, owner: str | None = None
    ) -> None:
        self.storage, self.owner = storage, owner
        self._lease_seconds = lease

    def add(self, job: Job) -> bool:
        """Record a job; False if the same is there already.

        Raises DatasetConflict if the scene's job is there with other inputs or parameters: a dataset in which
        patches of one scene follow different rules would be wrong without anybody noticing.
        """
        path = _job_path(job.scene)
        document = job.to_document()
        if self.storage.create(path, json_bytes(document)):
            return True
        there = self.storage.get_json(path)
        if there == document or Job.from_document(there) == job:  # recorded when parameters were fewer
            return False
        differing = sorted(key for key in document if there.get(key) != document[key])
        details = "; ".join(f"{key} was {there.get(key)!r}, now {document[key]!r}" for key in differing)
        raise DatasetConflict(
            f"scene {job.scene} is in {self.storage.url} already, built in another way ({details}). "
            "Use the same inputs and options again, or another --to"
        )

    def jobs(self) -> Iterator[Job]:
        """All jobs, by scene."""
        for path in self.storage.list("jobs"):
            if path.endswith("/job.json"):
                document = self.storage.get_json(path)
                try:
                    yield Job.from_document(document)
                except InvalidDataset as error:
                    raise InvalidDataset(f"{self.storage.url}/{path}: {error}") from error

    def job(self, scene: SceneId) -> Job | None:
        """The job of a scene; None where there is none."""
        try:
            return Job.from_document(self.storage.get_json(_job_path(scene)))
        except NotFound:
            return None

    def entry(self, scene: SceneId, block: Block) -> Entry:
        """A block's entry; PENDING where nobody has begun."""
        try:
            return Entry.from_document(self.storage.get_json(_entry_path(scene, block)))
        except NotFound:
            return Entry(str(scene), block.name)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InvalidDataset(
                f"{self.storage.url}/{_entry_path(scene, block)} is damaged ({error!r}); delete it and build again"
            ) from error

    def entries(self) -> Iterator[Entry]:
        """The entries of all blocks of all jobs, those not begun among them."""
        for job in self.jobs():
            for block in job.blocks:
                yield self.entry(job.scene, block)

    def current(self, scene: SceneId, block: Block) -> Entry:
        """A block's entry as it is to be taken: FAILED where its worker is lost, whatever it last wrote."""
        number = self._last_claim(scene, block)
        dead = number == 0 or self._is_dead(scene, block, number)
        entry = self.entry(scene, block)
        return _lost(entry) if entry.state.active and dead else entry

    def close_lost(self, scene: SceneId, block: Block) -> Entry | None:
        """Write FAILED for a block whose worker is lost; None where there is nothing to close."""
        if not self.entry(scene, block).state.active:
            return None
        lost = self.current(scene, block)
        if lost.state.active:
            return None
        claim = self.claim(scene, block)  # so that a worker that was only slow finds that it lost it
        if claim is None:
            return None
        lost.attempt = claim.number
        self.update(claim, lost)
        return lost

    def reopen(self, scene: SceneId, block: Block) -> bool:
        """Make a block that ended INVALID one that anybody may try again; whether it was one."""
        if self.entry(scene, block).state is not State.INVALID:
            return False
        claim = self.claim(scene, block, again=frozenset({State.INVALID}))
        if claim is None:
            return False
        self.update(claim, replace(self.entry(scene, block), state=State.PENDING))
        return True

    def claim(self, scene: SceneId, block: Block, *, again: frozenset[State] = frozenset()) -> Claim | None:
        """The right to work on a block, or None: it is done, somebody works on it, or it is INVALID.

        ``again`` lists terminal states that are to be tried once more (SUCCEEDED never is).
        """
        # The entry is read last: what a worker wrote just before it ended must not be taken for its death.
        number = self._last_claim(scene, block)
        dead = number == 0 or self._is_dead(scene, block, number)
        entry = self.entry(scene, block)
        if entry.state is State.SUCCEEDED or (entry.state is State.INVALID and State.INVALID not in again):
            return None
        active = entry.state.active or number > entry.attempt
        if active and not dead:
            return None
        claim = Claim(scene, block, number + 1)
        if not self.storage.create(_claim_path(claim), self._lease()):
            return None
        taken = Entry(str(scene), block.name, State.CLAIMED, claim.number, _worker(), _now(), usage=entry.usage)
        self._write(taken)
        return claim

    def renew(self, claim: Claim) -> None:
        """Say that the work goes on. Raises LostClaim."""
        self._still_mine(claim)
        self.storage.put(_claim_path(claim), self._lease())

    def update(self, claim: Claim, entry: Entry) -> None:
        """Write the claimed block's entry. Raises LostClaim."""
        self._still_mine(claim)
        self._write(entry)

    def _lease(self) -> bytes:
        until = datetime.now(UTC) + timedelta(seconds=self._lease_seconds())
        lease = {"host": _host(), "pid": os.getpid(), "born": _born(os.getpid()), "until": until.isoformat()}
        return json_bytes(lease if self.owner is None else {**lease, "owner": self.owner})

    def _write(self, entry: Entry) -> None:
        self.storage.put_json(f"jobs/{entry.scene}/{entry.block}.json", asdict(entry))

    def _still_mine(self, claim: Claim) -> None:
        last = self._last_claim(claim.scene, claim.block)
        if last != claim.number:
            raise LostClaim(
                f"{claim.scene} {claim.block.name}: attempt {claim.number} was silent for too long and attempt "
                f"{last} took over; this one stops"
            )

    def _last_claim(self, scene: SceneId, block: Block) -> int:
        paths = self.storage.list(f"jobs/{scene}/{block.name}")
        return max((int(path[-9:-5]) for path in paths if "/claim-" in path), default=0)

    def _is_dead(self, scene: SceneId, block: Block, number: int) -> bool:
        try:
            lease = self.storage.get_json(_claim_path(Claim(scene, block, number)))
            if datetime.fromisoformat(lease["until"]) < datetime.now(UTC):
                return True
            if self.owner is not None and lease.get("owner") == self.owner:
                return True
            # On the same machine there is no need to wait for the lease of a process that is gone.
            return bool(lease["host"] == _host() and not _alive(lease["pid"], lease["born"]))
        except (NotFound, InvalidDataset, KeyError, TypeError, ValueError):  # damaged: nobody can be asked
            return True


def _job_path(scene: SceneId) -> str:
    return f"jobs/{scene}/job.json"


def _entry_path(scene: SceneId, block: Block) -> str:
    return f"jobs/{scene}/{block.name}.json"


def _claim_path(claim: Claim) -> str:
    return f"jobs/{claim.scene}/{claim.block.name}/claim-{claim.number:04d}.json"


def _lost(entry: Entry) -> Entry:
    return replace(
        entry,
        state=State.FAILED,
        finished=_now(),
        error=f"its worker {entry.worker or 'unknown'} fell silent: killed, out of memory or out of time",
        error_class=WorkerLost.__name__,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _worker() -> str:
    return f"{platform.node()}:{os.getpid()}"


def _host() -> str:
    """This machine since its last start: after a reboot, old process numbers mean nothing.

    Lambda's machines are copies of one another, down to the name; each has a log stream of its own.
    """
    boot = Path("/proc/sys/kernel/random/boot_id")
    name = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME") or platform.node()
    return f"{name}/{boot.read_text().strip()}" if boot.exists() else name


def _born(pid: int) -> str | None:
    """When a process started, so that a number used again is not taken for its former owner; None if unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    values = stat.rsplit(")", 1)[1].split()  # the process name before it may hold blanks
    state, start = values[0], values[19]  # fields 3 and 22 of proc(5)
    return None if state == "Z" else start  # a zombie's number lives on, its work does not


def _alive(pid: int, born: str | None) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return born is None or _born(pid) == born


class Stopwatch:
    """Wall and CPU seconds of this process since it was made; ``traffic`` is its traffic till then."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        self.traffic = traffic()

    def read(self) -> tuple[float, float]:
        """(wall, CPU) seconds, to the millisecond."""
        return round(time.perf_counter() - self._wall, 3), round(time.process_time() - self._cpu, 3)
