"""Jobs, their blocks, and the ledger that says how far each block is.

A job is one Sentinel-2 scene with its Sentinel-1 scenes, label source and parameters; a block is some of its patch
rows, by default all. Both are JSON on the dataset's storage:

    jobs/<scene>/job.json             the job
    jobs/<scene>/<block>.json         the ledger entry of a block: its state, counts, figures, error
    jobs/<scene>/<block>/claim-0001.json      who works on it, and until when that is believed

A claim is a conditional write (create if absent), which every storage has: of two workers that want a block, one
gets the next number. Whoever holds the highest number may write the entry; a worker that lost its lease finds a
higher one and stops.
"""

import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from landpatch.catalog.errors import DatasetConflict, InvalidDataset, InvalidParameter, LandpatchError
from landpatch.catalog.names import TILE_PATCHES, SceneId
from landpatch.catalog.scenes import GrdBackscatter, HeightsAbove, OffsetChoice, RadarUnit
from landpatch.catalog.store import NotFound, Storage, json_bytes

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


def _spans(blocks: Iterable[Block]) -> list[list[int]]:
    return [[block.first, block.last] for block in blocks]


@dataclass(slots=True)
class Entry:
    """A block's line in the ledger.

    ``dropped`` counts patches by reason; ``part`` is the sha-256 of the part's bytes; ``seconds`` and
    ``cpu_seconds`` are of the last attempt, ``peak_memory`` in bytes; ``notes`` are sentences worth reading, such
    as what the pixels said about the radiometric offset.
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

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """From JSON; fields that this version does not know are left out."""
        known = {f.name for f in fields(cls)}
        values = {key: value for key, value in document.items() if key in known}
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


class Ledger:
    """The jobs of a dataset and the states of their blocks."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

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
        active = entry.state in (State.CLAIMED, State.PROCESSING) or number > entry.attempt
        if active and not dead:
            return None
        claim = Claim(scene, block, number + 1)
        if not self.storage.create(_claim_path(claim), json_bytes(_lease())):
            return None
        taken = Entry(str(scene), block.name, State.CLAIMED, claim.number, _worker(), _now())
        self._write(taken)
        return claim

    def renew(self, claim: Claim) -> None:
        """Say that the work goes on. Raises LostClaim."""
        self._still_mine(claim)
        self.storage.put(_claim_path(claim), json_bytes(_lease()))

    def update(self, claim: Claim, entry: Entry) -> None:
        """Write the claimed block's entry. Raises LostClaim."""
        self._still_mine(claim)
        self._write(entry)

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


def _lease() -> dict[str, Any]:
    until = datetime.now(UTC) + timedelta(seconds=LEASE_SECONDS)
    return {"host": _host(), "pid": os.getpid(), "born": _born(os.getpid()), "until": until.isoformat()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _worker() -> str:
    return f"{platform.node()}:{os.getpid()}"


def _host() -> str:
    """This machine since its last start: after a reboot, old process numbers mean nothing."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{platform.node()}/{boot.read_text().strip()}" if boot.exists() else platform.node()


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
    """Wall and CPU seconds of this process since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """(wall, CPU) seconds, to the millisecond."""
        return round(time.perf_counter() - self._wall, 3), round(time.process_time() - self._cpu, 3)
