"""L1C to L2A by the user's own sen2cor: found, run, watched, and its product checked before it counts.

sen2cor (``L2A_Process``) comes from ESA under a licence of its own and is in no package registry, so that it is run,
never shipped. It writes into a working folder beside the target; what passed the checks is moved whole. A run that
was killed leaves only that folder, which the next run takes away; one that was done is not done again.

Facts about its command line and output: ESA, Sen2Cor Configuration and User Manual (S2-PDGS-MPC-L2A-SUM).
"""

import fcntl
import os
import re
import selectors
import shutil
import signal
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from landpatch.catalog.errors import (
    InvalidItem,
    InvalidScene,
    LandpatchError,
    MissingProgram,
    ProcessingFailed,
    ProcessingTimeout,
    StorageError,
)
from landpatch.catalog.grid import TileGrid
from landpatch.catalog.names import SceneId
from landpatch.catalog.safe import safe_item
from landpatch.catalog.scenes import OpticalScene, optical_scene
from landpatch.functions.optical import OpticalReader
from landpatch.functions.raster import gdal_environment

TIMEOUT = 7200.0
"""Seconds that one product may take: two hours, several times what a tile needs on two cores."""

PROGRAM_VARIABLE = "LANDPATCH_L2A_PROCESS"

Progress = Callable[[int, int], None]

_INSTALLED = ("~/Sen2Cor-*-Linux64/bin/L2A_Process", "/opt/Sen2Cor-*-Linux64/bin/L2A_Process")  # the installer's way
_VERSION = re.compile(rb"Version:\s*(\d\d?(?:\.\d\d?)+)")
_PROGRESS = re.compile(rb"Progress\[%\]:\s*(\d+(?:\.\d+)?)\s*:")
_SUCCEEDED = b"terminated successfully"
_FAILED = b"terminated with at least one error"
# Products lack these where they are empty (CDSE's always), and sen2cor stops where they are not there.
_EMPTY_FOLDERS = ("DATASTRIP/*", "QI_DATA"), ("GRANULE/*", "AUX_DATA")
_GRACE_SECONDS = 5.0  # between asking sen2cor to stop and killing it
_MOST_UNPACKED = 8 * 2**30  # bytes of an L1C product; real ones have 0.8 GB


@dataclass(frozen=True, slots=True)
class Sen2Cor:
    """An installed sen2cor: its ``L2A_Process`` and version, ``02.11.00``."""

    program: Path
    version: str

    @property
    def release(self) -> tuple[int, int]:
        """``(2, 11)``."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)


@dataclass(frozen=True, slots=True)
class Corrected:
    """An L2A product made from an L1C one.

    ``item`` is its STAC item, kept at ``item_path``; ``folder`` the SAFE folder; ``log`` what sen2cor said.
    ``changed`` is False where all was there already. ``failed_quality``: indicators that did not pass, for which
    every patch would be dropped. ``warning``: what the user should know of sen2cor's version.
    """

    item: Mapping[str, Any]
    item_path: Path
    folder: Path
    log: Path
    changed: bool
    failed_quality: tuple[str, ...] = ()
    warning: str | None = None


@dataclass(slots=True)
class CorrectionResult:
    """What became of several products: those that are there, and the errors of the others by their path."""

    products: list[Corrected] = field(default_factory=list)
    refused: dict[str, LandpatchError] = field(default_factory=dict)


def correct_all(
    sources: Iterable[str | Path],
    destination: str | Path | None = None,
    *,
    program: str | None = None,
    resolution: int | None = None,
    timeout: float = TIMEOUT,
    watch: Callable[[str], AbstractContextManager[Progress]] | None = None,
) -> CorrectionResult:
    """Make L2A products of L1C ones, one after the other; an error of one never stops the others.

    A product whose quality indicators did not pass is kept and among ``products``, and in ``refused`` too. ``watch``
    is entered for each product and given its progress in percent. Options as in ``correct``.
    """
    result = CorrectionResult()
    for source in sources:
        path = Path(source)
        try:
            with watch(path.name) if watch else _unseen() as progress:
                product = correct(
                    path, destination, program=program, resolution=resolution, timeout=timeout, progress=progress
                )
        except LandpatchError as error:
            result.refused[str(source)] = error
            continue
        result.products.append(product)
        if product.failed_quality:
            result.refused[str(source)] = InvalidScene(
                f"{product.folder}: quality indicators not PASSED: {', '.join(product.failed_quality)}; the product "
                "is kept, but `landpatch build` drops all its patches as QUALITY"
            )
    return result


def correct(
    source: str | Path,
    destination: str | Path | None = None,
    *,
    program: str | None = None,
    resolution: int | None = None,
    timeout: float = TIMEOUT,
    progress: Progress = lambda *_: None,
) -> Corrected:
    """Make the L2A product of one L1C SAFE folder or zip in ``destination`` (default: beside it), with its item.

    The input is never changed. ``program``: sen2cor's ``L2A_Process`` (default: as ``find_sen2cor``).
    ``resolution`` (metres) is passed on to sen2cor; ``timeout`` is in seconds.

    Raises InvalidItem and UnreadableAsset (no L1C product), InvalidScene (its indicators did not pass, or the result
    is not what it should be), MissingProgram, ProcessingFailed, ProcessingTimeout (sen2cor and all its processes are
    ended), StorageError. KeyboardInterrupt, also on SIGTERM, ends sen2cor first.
    """
    source = Path(source).absolute()
    l1c = safe_item(source)
    scene = _checked_input(source, l1c)
    target = source.parent if destination is None else Path(destination).absolute()
    log = target / f"{l1c['id']}.sen2cor.log"
    found = _done(target, l1c, log)
    if found is not None:
        return found
    sen2cor = find_sen2cor(program)
    warning = version_warning(sen2cor, l1c["properties"]["s2:processing_baseline"])
    work = target / f".{l1c['id']}.l2a"
    try:
        target.mkdir(parents=True, exist_ok=True)
        with _only_one(log) as record, _terminable():
            # Whoever held the lock before may have finished, or been killed between the last steps.
            found = _done(target, l1c, log) or _resumed(work, target, l1c, log)
            if found is not None:
                return found
            shutil.rmtree(work, ignore_errors=True)
            (work / "out").mkdir(parents=True)
            try:
                folder = _prepared(source, l1c, work / "in")
                _run(sen2cor, folder, work / "out", record, log, resolution, timeout, progress)
                product = _checked_output(work / "out", scene, log)
                note = {"product": product.name, "sen2cor": sen2cor.version}
                (work / "checked.json").write_bytes(orjson.dumps(note))
                return _published(work, target, l1c, log, warning)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"{target}: the L2A product of {l1c['id']} cannot be written there: {error}") from error


def find_sen2cor(program: str | None = None) -> Sen2Cor:
    """The user's sen2cor: ``program``, or ``$LANDPATCH_L2A_PROCESS``, or ``L2A_Process`` on the PATH, or the newest
    of the folders that its installer makes in the home folder and in /opt. Raises MissingProgram.
    """
    named = program or os.environ.get(PROGRAM_VARIABLE)
    if named:
        path = shutil.which(Path(named).expanduser())
        if path is None:
            raise MissingProgram(f"{named} is no program that can be run; {_HOW_TO_GET_IT}")
        return _asked(path)
    path = shutil.which("L2A_Process")
    if path is not None:
        return _asked(path)
    installed = [
        str(found)
        for pattern in (Path(pattern).expanduser() for pattern in _INSTALLED)
        for found in Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
        if os.access(found, os.X_OK)
    ]
    if not installed:
        raise MissingProgram(f"sen2cor is not on this machine: no L2A_Process found. {_HOW_TO_GET_IT}")
    return _asked(
        max(installed, key=lambda path: [int(digits) for digits in re.findall(r"\d+", path.split("/")[-3])])
    )


_HOW_TO_GET_IT = (
    "Get the installer (Sen2Cor-02.12 or newer, Linux) from ESA's STEP site, https://step.esa.int/main/snap-supported-"
    "plugins/sen2cor/, accept its licence, run it, and name its bin/L2A_Process with --sen2cor or "
    f"{PROGRAM_VARIABLE}; no package registry has it. Or do without: catalogues offer most scenes as L2A"
)


@lru_cache(maxsize=8)
def _asked(program: str) -> Sen2Cor:
    """sen2cor's own word on its version: in the help text, since it has no ``--version``."""
    try:
        answer = subprocess.run(
            [program, "--help"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingProgram(f"{program} does not tell its version ({error}). {_HOW_TO_GET_IT}") from error
    version = _VERSION.search(answer)
    if version is None:
        raise MissingProgram(f"{program} --help names no version of sen2cor: is it L2A_Process? {_HOW_TO_GET_IT}")
    return Sen2Cor(Path(program).absolute(), version.group(1).decode())


def version_warning(sen2cor: Sen2Cor, baseline: str) -> str | None:
    """What may go wrong with this sen2cor on L1C of a baseline: 2.11 knows products up to 2022, newer want 2.12.

    (The project's Sentinel notes; baselines of 2022 are 04.00, from which pixels carry an offset.)
    """
    wanted = (2, 12) if float(baseline) > 4 else (2, 11) if float(baseline) == 4 else (0, 0)
    if sen2cor.release >= wanted:
        return None
    return (
        f"sen2cor {sen2cor.version} is older than L1C of baseline {baseline} asks for: "
        f"{wanted[0]}.{wanted[1]:02d} or newer is wanted; look at the result"
    )


def _checked_input(source: Path, l1c: Mapping[str, Any]) -> OpticalScene:
    """The L1C scene, after everything that would make the work useless has been looked at."""
    scene = optical_scene(l1c)
    if scene.scene.level != "MSIL1C":
        raise InvalidItem(f"{source} is no L1C product but {scene.scene.level[3:]}; build takes L2A as it is")
    if scene.failed_quality:
        raise InvalidScene(
            f"{source}: quality indicators not PASSED: {', '.join(scene.failed_quality)}; an L2A product of it would "
            "be dropped, so none is made"
        )
    return scene


def _done(target: Path, l1c: Mapping[str, Any], log: Path) -> Corrected | None:
    """The product that an earlier run made of this L1C product, where it and its item are there and whole."""
    for path in sorted(target.glob("S2?_MSIL2A_*.json")):
        try:
            item = orjson.loads(path.read_bytes())
            if item["properties"].get("landpatch:l1c") != l1c["id"]:
                continue
            folder = target / f"{item['id']}.SAFE"
            now = _item(folder, l1c, item["properties"]["processing:software"]["sen2cor"])
            failed = optical_scene(now).failed_quality
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, InvalidItem):
            continue  # some other JSON file, or its product is gone or damaged
        if now != item:  # the folder was moved meanwhile
            _write_item(now, path, target / f".{path.name}")
        return Corrected(now, path, folder, log, False, failed)
    return None


def _resumed(work: Path, target: Path, l1c: Mapping[str, Any], log: Path) -> Corrected | None:
    """What a run that was killed after its checks left to be moved."""
    try:
        return _published(work, target, l1c, log, None)
    except (FileNotFoundError, orjson.JSONDecodeError, InvalidItem):
        return None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _published(work: Path, target: Path, l1c: Mapping[str, Any], log: Path, warning: str | None) -> Corrected:
    """Move a checked product to its place and write its item; may be begun again after any step."""
    note = orjson.loads((work / "checked.json").read_bytes())
    folder = target / note["product"]
    if (work / "out" / note["product"]).exists():
        (work / "out" / note["product"]).rename(folder)
    item = _item(folder, l1c, note["sen2cor"])
    path = target / f"{item['id']}.json"
    _write_item(item, path, work / "item.json")
    return Corrected(item, path, folder, log, True, optical_scene(item).failed_quality, warning)


def _item(folder: Path, l1c: Mapping[str, Any], version: str) -> dict[str, Any]:
    item = safe_item(folder)
    item["properties"] |= {"landpatch:l1c": l1c["id"], "processing:software": {"sen2cor": version}}
    return item


def _write_item(item: Mapping[str, Any], path: Path, draft: Path) -> None:
    draft.write_bytes(orjson.dumps(item, option=orjson.OPT_INDENT_2))
    draft.replace(path)


@contextmanager
def _only_one(log: Path) -> Iterator[BinaryIO]:
    """The log, opened anew and locked: two runs on one product would write into each other's folders.

    The lock is the kernel's and ends with the process, however that ends.
    """
    with log.open("ab") as record:
        try:
            fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ProcessingFailed(f"{log.stem}: another process is making this product; wait for it") from error
        record.truncate(0)
        yield record


def _prepared(source: Path, l1c: Mapping[str, Any], inside: Path) -> Path:
    """The folder that sen2cor is given: the source as it is, or a working copy with what the source lacks.

    In a copy large files are links to the same bytes; metadata, which sen2cor might write to, are copied.
    """
    packed = not source.is_dir()
    whole = not packed and all(
        (parent / name).is_dir() for pattern, name in _EMPTY_FOLDERS for parent in source.glob(pattern)
    )
    if whole and source.name == l1c["properties"]["s2:product_uri"]:
        return source
    folder = inside / f"{l1c['id']}.SAFE"  # sen2cor goes by the folder's name
    if packed:
        _unpack(source, folder)
    else:
        shutil.copytree(source, folder, copy_function=_linked)
    for pattern, name in _EMPTY_FOLDERS:
        for parent in folder.glob(pattern):
            parent.chmod(parent.stat().st_mode | 0o700)
            (parent / name).mkdir(exist_ok=True)
    return folder


def _linked(source: str, target: str) -> None:
    if source.endswith(".jp2"):
        with suppress(OSError):  # another file system, or one without hard links
            os.link(source, target, follow_symlinks=True)
            return
    shutil.copy(source, target)


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a product that ``safe_item`` has read: it let no member pass that leads out of its folder."""
    with zipfile.ZipFile(archive) as opened:
        members = [member for member in opened.infolist() if not member.is_dir()]
        size = sum(member.file_size for member in members)
        if size > _MOST_UNPACKED:
            raise InvalidItem(f"{archive} would unpack to {size:,} bytes; no L1C product is that large")
        metadata = next(member.filename for member in members if re.search(r"(^|/)MTD_MSIL1C\.xml$", member.filename))
        top = metadata.rpartition("/")[0]
        for member in members:
            path = folder / member.filename.removeprefix(f"{top}/" if top else "")
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with opened.open(member) as packed, path.open("wb") as file:
                    shutil.copyfileobj(packed, file, 2**20)
            except zipfile.BadZipFile as error:
                raise InvalidItem(f"{archive}: {error}; fetch the product again") from error


def _run(
    sen2cor: Sen2Cor,
    folder: Path,
    out: Path,
    record: BinaryIO,
    log: Path,
    resolution: int | None,
    timeout: float,
    progress: Progress,
) -> None:
    """Run sen2cor to its end, its output in ``record``. Raises ProcessingFailed, ProcessingTimeout."""
    command = [str(sen2cor.program), "--output_dir", str(out), str(folder)]
    if resolution is not None:
        command[1:1] = ["--resolution", str(resolution)]
    record.write(f"sen2cor {sen2cor.version}: {' '.join(command)}\n".encode())
    last: list[bytes] = []
    with _started(command, out.parent) as process:
        for line in _lines(process, time.monotonic() + timeout):
            if line is None:
                raise ProcessingTimeout(
                    f"{folder.name}: sen2cor was not done after {timeout:g} s and was ended; its last words are in "
                    f"{log}. Give it more time with --timeout, or a faster machine"
                )
            record.write(line)
            record.flush()
            said = _PROGRESS.search(line)
            if said is not None:
                progress(min(int(float(said.group(1))), 100), 100)
            if line.strip() and (said is None or _FAILED in line or _SUCCEEDED in line):
                last = [*last[-2:], line.strip()]
        code = process.wait()
    # The words count more than the number: the exit codes of some versions say nothing.
    if (last and _FAILED in last[-1]) or (code != 0 and not (last and _SUCCEEDED in last[-1])):
        words = b" / ".join(last).decode(errors="replace") or "it said nothing"
        ending = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
        raise ProcessingFailed(f"{folder.name}: sen2cor failed ({ending}): {words}; the whole log is {log}")


@contextmanager
def _started(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """sen2cor in a process group that ends with this block, and with this process, however that ends.

    sen2cor is a shell script that starts Python, which starts more. The group's first process waits on a pipe whose
    other end only this process holds: when it is gone, killed even, the pipe ends and the whole group is killed.
    """
    guard = subprocess.Popen(["sh", "-c", "read _; kill -KILL 0"], stdin=subprocess.PIPE, process_group=0)
    try:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=guard.pid,
            )
        except OSError as error:
            raise MissingProgram(f"{command[0]} cannot be run: {error}") from error
        with process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(guard.pid, signal.SIGTERM)
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(_GRACE_SECONDS)
                os.killpg(guard.pid, signal.SIGKILL)  # the guard is there until it is waited for: so is the group
    finally:
        guard.kill()
        guard.communicate()


def _lines(process: subprocess.Popen[bytes], deadline: float) -> Iterator[bytes | None]:
    """What a process says, line by line as it comes; None once when the time is over.

    Ends with the process, even where one that it left behind still holds its output.
    """
    assert process.stdout is not None
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if time.monotonic() >= deadline:
                yield None
            ready = selector.select(min(max(deadline - time.monotonic(), 0), 0.5))
            if not ready:
                if process.poll() is not None:
                    break
                continue
            chunk = os.read(process.stdout.fileno(), 2**16)
            if not chunk:
                # Output closed, work perhaps not done: the end is awaited, no longer than the deadline.
                while process.poll() is None:
                    if time.monotonic() >= deadline:
                        yield None
                    time.sleep(0.05)
                break
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line + b"\n" for line in lines)
    if rest:
        yield rest + b"\n"


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, with which containers are stopped, as KeyboardInterrupt, so that sen2cor is ended and swept up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _unseen() -> Iterator[Progress]:
    yield lambda *_: None


def _checked_output(out: Path, l1c: OpticalScene, log: Path) -> Path:
    """The product that sen2cor wrote: whole, of the right scene and on its tile's grid. Raises ProcessingFailed."""
    products = sorted(path.parent for path in out.glob("*/MTD_MSIL2A.xml"))
    if len(products) != 1:
        there = ", ".join(path.name for path in sorted(out.iterdir())) or "nothing"
        raise ProcessingFailed(
            f"{l1c.item_id}: sen2cor ended without an error, but left no L2A product (in its output: {there}); "
            f"see {log}"
        )
    try:
        scene = optical_scene(safe_item(products[0]))
        if scene.scl is None:
            raise InvalidItem(f"item {scene.item_id}: no scene classification (SCL) at 20 m")
        if _acquisition(scene.scene) != _acquisition(l1c.scene) or scene.scene.level != "MSIL2A":
            raise InvalidItem(f"item {scene.item_id}: it is not the L2A product of {l1c.item_id}")
        with gdal_environment():
            OpticalReader(scene, TileGrid.from_tile(scene.scene.tile)).close()
    except LandpatchError as error:
        raise ProcessingFailed(
            f"{l1c.item_id}: sen2cor ended without an error, but its product cannot be used: {error}; see {log}"
        ) from error
    return products[0]


def _acquisition(scene: SceneId) -> tuple[object, ...]:
    return scene.platform, scene.sensed, scene.orbit, scene.tile
