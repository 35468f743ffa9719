"""The files of the published dataset on their way to ours: read from folders or archives, checked, written as COGs.

Of every patch that is read there remain size and checksum of the files written, and how many pixels its reference map
has of each class: what its item needs. From a folder a scene is read at a time. An archive is read once from front to
back, in whatever order its patches come, and what remains of them is kept in a journal beside the dataset
(``import/<tree>/``): 36 bytes a file, in memory too. A stream that was interrupted is read again from its start, but
patches in the journal are passed over without being decoded.
"""

import hashlib
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from landpatch.catalog.bands import REFERENCE_MAP, S1, PatchAsset, band_files
from landpatch.catalog.cogs import CogEncoder
from landpatch.catalog.errors import UnreadableAsset
from landpatch.catalog.grid import TileGrid
from landpatch.catalog.items import patch_hrefs
from landpatch.catalog.names import PatchId, RadarPatchName
from landpatch.catalog.nomenclature import Nomenclature
from landpatch.catalog.official_archives import ArchiveReader
from landpatch.catalog.official_layout import TREES, official_stem
from landpatch.catalog.official_pixels import LARGEST_FILE, read_band
from landpatch.catalog.official_rows import OfficialRow
from landpatch.catalog.scenes import RadarScene
from landpatch.catalog.store import NotFound, Storage

_AHEAD = 64  # patches under way, 0.3 MB each
_FRAGMENT = 2000  # patches a file of the journal
_FRAGMENT_SECONDS = 30.0

File = tuple[int, str]
"""Size in bytes and sha-256 (hex) of a file written."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What remains of a patch's files in one tree: the files written by asset key, and the pixels of each class, in
    the nomenclature's order, with those of no class last. ``problem``: why they cannot be used.
    """

    files: Mapping[str, File] = field(default_factory=dict)
    pixels: tuple[int, ...] | None = None
    problem: str | None = None


class PatchWriter:
    """Writes the COGs of patches to a dataset; may be shared by threads."""

    def __init__(self, storage: Storage, nomenclature: Nomenclature | None) -> None:
        self._storage, self._nomenclature = storage, nomenclature
        self._grids: dict[str, TileGrid] = {}

    def write(self, tree: str, patch: PatchId, radar: RadarScene | None, bands: Mapping[str, bytes]) -> Stored:
        """Decode, check, encode and write the files of a patch in one tree. Raises StorageError."""
        grid = self._grids.setdefault(patch.scene.tile, TileGrid.from_tile(patch.scene.tile))
        files, pixels = {}, None
        hrefs = patch_hrefs(patch.scene, patch.x, patch.y, radar)
        for asset in TREES[tree]:
            planes = np.empty((len(asset.planes), asset.pixels, asset.pixels), asset.dtype)
            place = grid.geobox(patch.x, patch.y, asset.resolution)
            for plane, band in zip(planes, band_files(asset), strict=True):
                try:
                    plane[...] = read_band(bands[band.key], band, place)
                except UnreadableAsset as error:
                    return Stored(problem=f"patch {patch}, {tree}, {band.key}: {error}")
            if asset is REFERENCE_MAP and self._nomenclature is not None:
                pixels = self._counted(planes[0])
            data = _encoder(asset, grid.epsg).encode(planes, *grid.corner(patch.x, patch.y))
            self._storage.put(hrefs[asset.key], data)
            files[asset.key] = (len(data), hashlib.sha256(data).hexdigest())
        return Stored(files, pixels)

    def _counted(self, codes: NDArray[np.uint16]) -> tuple[int, ...]:
        count = len(self._nomenclature.classes) if self._nomenclature else 0
        classes = np.minimum(self._classes[codes], count)
        return tuple(np.bincount(classes.ravel(), minlength=count + 1).tolist())

    @cached_property
    def _classes(self) -> NDArray[np.uint8]:
        assert self._nomenclature is not None
        return self._nomenclature.class_of_code


@cache
def _encoder(asset: PatchAsset, epsg: int) -> CogEncoder:
    return CogEncoder(asset, epsg)


def ahead(pool: ThreadPoolExecutor, work: Iterable[tuple[int, Callable[[], Any]]]) -> Iterator[tuple[int, Any]]:
    """What each numbered piece of work returns, in order; a bounded number is under way."""
    waiting: deque[tuple[int, Future[Any]]] = deque()
    for number, piece in work:
        waiting.append((number, pool.submit(piece)))
        if len(waiting) >= _AHEAD:
            number, future = waiting.popleft()
            yield number, future.result()
    for number, future in waiting:
        yield number, future.result()


def folder_bands(root: Path, tree: str, row: OfficialRow) -> dict[str, bytes] | None:
    """The files of a row's patch in a tree of folders, by band; None where one is missing, or is no plain file."""
    bands = {}
    for asset in TREES[tree]:
        stem = root / official_stem(asset, row.patch, row.radar)
        for band in band_files(asset):
            for ending in (".tif", ".tiff"):
                path = stem.with_name(f"{stem.name}{band.suffix}{ending}")
                if path.is_file():
                    with path.open("rb") as file:
                        bands[band.key] = file.read(LARGEST_FILE + 1)
                    break
            else:
                return None
    return bands


# --- archives -----------------------------------------------------------------------------------------------------


class PatchNumbers:
    """Numbers all rows of the tables, scene by scene in the order of ids, in 20 bytes a row."""

    def __init__(self, scenes: Iterable[Sequence[OfficialRow]]) -> None:
        self._scenes: list[Any] = []
        self._starts: list[int] = []
        self._places: dict[Any, NDArray[np.int32]] = {}
        self._twins: dict[int, list[int]] = {}
        self._radars: list[RadarPatchName | None] = []
        xs: list[int] = []
        ys: list[int] = []
        radar_of: list[int] = []
        scenes_seen: dict[Any, int] = {}
        for rows in scenes:
            self._scenes.append(rows[0].patch.scene)
            self._starts.append(len(xs))
            for row in rows:
                number = len(xs)
                xs.append(row.patch.x)
                ys.append(row.patch.y)
                self._grid(row.patch.scene)[row.patch.y, row.patch.x] = number
                if row.radar is None:
                    radar_of.append(-1)
                    continue
                radar_of.append(scenes_seen.setdefault(row.radar.scene, len(scenes_seen)))
                place = self._grid((row.radar.scene, row.radar.tile))
                first = int(place[row.radar.y, row.radar.x])
                if first < 0:
                    place[row.radar.y, row.radar.x] = number
                else:  # two dates of Sentinel-2 with one of Sentinel-1
                    self._twins.setdefault(first, []).append(number)
        self._xs, self._ys = np.array(xs, np.uint8), np.array(ys, np.uint8)
        self._radar_of = np.array(radar_of, np.int32)
        self._radar_scenes = list(scenes_seen)

    def __len__(self) -> int:
        return len(self._xs)

    def _grid(self, key: Any) -> NDArray[np.int32]:
        if key not in self._places:
            self._places[key] = np.full((91, 91), -1, np.int32)
        return self._places[key]

    def number_of(self, patch: PatchId | RadarPatchName) -> int | None:
        """Of a patch of either sensor; None where no row has it, the first where several share a Sentinel-1 patch."""
        key = patch.scene if isinstance(patch, PatchId) else (patch.scene, patch.tile)
        place = self._places.get(key)
        number = -1 if place is None else int(place[patch.y, patch.x])
        return None if number < 0 else number

    def sharing(self, number: int) -> list[int]:
        """The numbers of all rows with the Sentinel-1 patch of this one."""
        return [number, *self._twins.get(number, ())]

    def first(self, scene: Any) -> int:
        """The number of a scene's first row."""
        return self._starts[self._scenes.index(scene)]

    def patch(self, number: int) -> PatchId:
        """The patch of a row."""
        scene = self._scenes[bisect_right(self._starts, number) - 1]
        return PatchId(scene, int(self._xs[number]), int(self._ys[number]))

    def radar(self, number: int) -> RadarScene | None:
        """The Sentinel-1 scene of a row."""
        index = int(self._radar_of[number])
        return None if index < 0 else radar_scene_named(self._radar_scenes[index], "unknown")


@cache
def radar_scene_named(name: Any, backscatter: str) -> RadarScene:
    """A Sentinel-1 scene of which only the name is known; its pixels are those of the published files, dB."""
    return RadarScene(str(name), name, name.start, "", "", "dB", backscatter, None)


class Journal:
    """What remains of the patches of one archive: in memory by number, and in files below ``import/<tree>/``."""

    def __init__(self, storage: Storage, tree: str, count: int, classes: int) -> None:
        self._storage, self._folder = storage, f"import/{tree}"
        self._keys = [asset.key for asset in TREES[tree]]
        self._sizes = np.zeros((count, len(self._keys)), np.int32)
        self._digests = np.zeros((count, len(self._keys), 32), np.uint8)
        self._pixels = np.zeros((count, classes + 1 if REFERENCE_MAP.key in self._keys else 0), np.uint16)
        self._problems: dict[int, str] = {}
        self._fresh: list[int] = []
        self._flushed = time.monotonic()
        self._fragments = 0
        for path in storage.list(self._folder):
            if path.endswith(".parquet"):
                self._load(path)

    @property
    def done(self) -> NDArray[np.bool_]:
        """Of each number, whether its patch has been read."""
        done: NDArray[np.bool_] = self._sizes[:, 0] > 0
        done[list(self._problems)] = True
        return done

    def get(self, number: int) -> Stored | None:
        """What remains of a patch; None if it has not come."""
        if number in self._problems:
            return Stored(problem=self._problems[number])
        if not self._sizes[number, 0]:
            return None
        files = {
            key: (int(self._sizes[number, place]), self._digests[number, place].tobytes().hex())
            for place, key in enumerate(self._keys)
        }
        return Stored(files, tuple(self._pixels[number].tolist()) if self._pixels.shape[1] else None)

    def add(self, number: int, stored: Stored) -> None:
        """Note down a patch."""
        if stored.problem is not None:
            self._problems[number] = stored.problem
        for place, key in enumerate(self._keys):
            if key in stored.files:
                size, digest = stored.files[key]
                self._sizes[number, place] = size
                self._digests[number, place] = np.frombuffer(bytes.fromhex(digest), np.uint8)
        if stored.pixels is not None and self._pixels.shape[1]:
            self._pixels[number] = stored.pixels
        self._fresh.append(number)
        if len(self._fresh) >= _FRAGMENT or time.monotonic() - self._flushed > _FRAGMENT_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Bring what is new to storage."""
        self._flushed = time.monotonic()
        if not self._fresh:
            return
        at = np.array(self._fresh)
        table = pa.table(
            {
                "number": pa.array(at, pa.int32()),
                "sizes": pa.array(self._sizes[at].tolist(), pa.list_(pa.int32())),
                "digests": pa.array([self._digests[number].tobytes() for number in self._fresh], pa.binary()),
                "pixels": pa.array(self._pixels[at].tolist(), pa.list_(pa.uint16())),
                "problem": pa.array([self._problems.get(number) for number in self._fresh], pa.string()),
            }
        )
        target = pa.BufferOutputStream()
        pq.write_table(table, target, compression="zstd")
        self._storage.put(f"{self._folder}/{self._fragments:06d}.parquet", target.getvalue().to_pybytes())
        self._fragments += 1
        self._fresh = []

    def _load(self, path: str) -> None:
        self._fragments = int(path.rpartition("/")[2].removesuffix(".parquet")) + 1
        for row in self._storage.open_parquet(path).read().to_pylist():
            number = row["number"]
            self._sizes[number] = row["sizes"]
            self._digests[number] = np.frombuffer(row["digests"], np.uint8).reshape(-1, 32)
            self._pixels[number] = row["pixels"]
            if row["problem"] is not None:
                self._problems[number] = row["problem"]

    @property
    def finished(self) -> dict[str, Any] | None:
        """What was noted when the archive had been read to its end; None before."""
        try:
            found: dict[str, Any] = self._storage.get_json(f"{self._folder}/finished.json")
        except NotFound:
            return None
        return found

    def finish(self, document: Mapping[str, Any]) -> None:
        """Note that the archive has been read to its end."""
        self.flush()
        self._storage.put(f"{self._folder}/finished.json", orjson.dumps(document))

    def forget(self) -> None:
        """Remove the files that later runs do not need: what they say is in the items."""
        self._storage.delete(path for path in self._storage.list(self._folder) if path.endswith(".parquet"))


def read_archive(
    path: Path,
    tree: str,
    numbers: PatchNumbers,
    known: NDArray[np.bool_],
    journal: Journal,
    writer: PatchWriter,
    pool: ThreadPoolExecutor,
    report: Callable[[int, int], None],
) -> None:
    """Read an archive to its end and write the files of all patches that are neither ``known`` nor in the journal.

    Nothing is done where that has been done before. Raises InvalidSource, StorageError; the journal has what came
    before.
    """
    if journal.finished is not None:
        return
    reader = ArchiveReader(path, tree, numbers.number_of, known | journal.done, report)

    def work() -> Iterator[tuple[int, Callable[[], Stored]]]:
        for found in reader:
            for number in numbers.sharing(found.number) if TREES[tree] == (S1,) else [found.number]:
                patch, radar = numbers.patch(number), numbers.radar(number)
                yield number, partial(writer.write, tree, patch, radar, found.bands)

    try:
        for number, stored in ahead(pool, work()):
            journal.add(number, stored)
    finally:
        journal.flush()
    journal.finish({"ignored": reader.ignored, "incomplete": len(reader.incomplete)})
