"""The heart: one block of a tile, from scenes to patches, their files and their items.

A block is worked through in strips of 7 patch rows. While the threads of a pool encode, hash and write the patches
of one strip, the next strip is being read and cut. Names and bytes depend on the inputs alone: doing a block twice
writes the same objects.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from landpatch.catalog.bands import OPTICAL_ASSETS, REFERENCE_MAP, S1, S2_10M
from landpatch.catalog.cogs import CogEncoder, Compression
from landpatch.catalog.grid import PATCH_METRES, STRIP_ROWS, TileGrid, strips
from landpatch.catalog.items import (
    THUMBNAIL,
    LabelOrigin,
    Origin,
    PatchRecord,
    item_from_row,
    patch_hrefs,
    patch_table,
)
from landpatch.catalog.names import TILE_PATCHES
from landpatch.catalog.renderings import TRUE_COLOUR, picture, png
from landpatch.catalog.scenes import OpticalScene, RadarScene, by_time_gap, sensing_time
from landpatch.catalog.schemas import validate_item
from landpatch.catalog.store import Storage
from landpatch.functions.jobs import Block, Job, Parameters
from landpatch.functions.labels import Labels, count_classes
from landpatch.functions.optical import OpticalReader
from landpatch.functions.quality import Reason, classify, official_flags, reasons
from landpatch.functions.raster import gdal_environment
from landpatch.functions.sar import ElevationModel, RadarStrips, open_radar

PATCH_PIXELS = PATCH_METRES // 10
_STRIP_WIDTH = TILE_PATCHES * PATCH_PIXELS
_PATCHES_A_TASK = 7  # of the pool: on S3 32 threads still share a strip's 637, and handing over costs a patch less


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a block is: patch rows ``done`` of ``total``, patches ``kept`` so far."""

    done: int
    total: int
    kept: int


class PatchSink(Protocol):
    """Something that takes the arrays of every kept patch besides its files: the fused LMDB export."""

    def put_patch(
        self,
        patch_id: str,
        s1_name: str | None,
        optical: Mapping[str, NDArray[np.uint16]],
        radar: NDArray[np.float32] | None,
        reference_map: NDArray[np.uint16] | None,
    ) -> None:
        """Optical planes by asset key, (bands, px, px); radar (2, 120, 120) dB; map (120, 120)."""


@dataclass(slots=True)
class Outcome:
    """What became of a block: the items of its patches, how many were dropped and why, what was written."""

    table: pa.Table
    dropped: dict[str, int]
    objects: int
    bytes_written: int
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sources:
    """The scenes of a job, parsed: everything that a block reads."""

    optical: OpticalScene
    optical_item: Mapping[str, Any]
    radars: tuple[RadarScene, ...]
    labels: Labels | None
    elevation: ElevationModel | None = None

    @property
    def grid(self) -> TileGrid:
        """The patch grid of the scene's tile."""
        return TileGrid.from_tile(self.optical.scene.tile)


def elevation_model(parameters: Parameters) -> ElevationModel | None:
    """Where a job takes the height of the ground from, for GRD products."""
    if parameters.dem is None:
        return None
    return ElevationModel(parameters.dem, parameters.dem_heights, parameters.dem_sea)


def check_sources(sources: Sources) -> None:
    """Open every raster of a job and compare it with the patch grid: InvalidScene before anything is written."""
    with gdal_environment():
        OpticalReader(sources.optical, sources.grid).close()
        for radar in sources.radars:
            open_radar(radar, sources.grid, sources.elevation).close()


def build_block(
    job: Job,
    block: Block,
    sources: Sources,
    storage: Storage,
    *,
    report: Callable[[Progress], None] | None = None,
    sink: PatchSink | None = None,
) -> Outcome:
    """Cut one block into patches and write their files to ``storage``.

    ``report`` is called after every strip and may raise to stop the work. Raises what reading and writing raise:
    InvalidScene, UnreadableAsset, InvalidLabels, StorageError.
    """
    with gdal_environment(), ExitStack() as stack:
        reader = stack.enter_context(OpticalReader(sources.optical, sources.grid))
        radars = by_time_gap(sources.radars, sensing_time(sources.optical_item))
        radar_readers = [stack.enter_context(open_radar(radar, sources.grid, sources.elevation)) for radar in radars]
        # One less, since this thread reads meanwhile: on two cores as fast, for a tenth less CPU time.
        pool = stack.enter_context(ThreadPoolExecutor(max(1, storage.threads - 1)))
        worker = _Block(job, block, sources, storage, reader, radars, radar_readers, pool, sink)
        try:
            return worker.run(report or (lambda _: None))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@dataclass(slots=True)
class _Strip:
    """The arrays of one strip. Two exist in turn: one is filled while the other is written."""

    optical: dict[str, NDArray[np.uint16]]
    """By asset key (rows, 91, bands, px, px), as patches want it."""
    radar: NDArray[np.float32]
    """(rows, 91, 2, 120, 120)"""
    reference_map: NDArray[np.uint16] | None = None
    """(rows * 120, 91 * 120)"""

    @classmethod
    def empty(cls, rows: int) -> "_Strip":
        optical = {
            asset.key: np.empty((rows, TILE_PATCHES, len(asset.planes), asset.pixels, asset.pixels), np.uint16)
            for asset in OPTICAL_ASSETS
        }
        return cls(optical, np.empty((rows, TILE_PATCHES, 2, PATCH_PIXELS, PATCH_PIXELS), np.float32))


class _Block:
    def __init__(
        self,
        job: Job,
        block: Block,
        sources: Sources,
        storage: Storage,
        reader: OpticalReader,
        radars: list[RadarScene],
        radar_readers: Sequence[RadarStrips],
        pool: ThreadPoolExecutor,
        sink: PatchSink | None,
    ) -> None:
        self.block, self.sources, self.storage = block, sources, storage
        self.parameters: Parameters = job.parameters
        self.reader, self.radar_readers, self.pool, self.sink = reader, radar_readers, pool, sink
        self.grid = sources.grid
        self.scene = sources.optical.scene
        labels = sources.labels
        self.origin = Origin(
            scene=self.scene,
            grid=self.grid,
            optical_item=sources.optical.item_id,
            sensed=sensing_time(sources.optical_item),
            offset=sources.optical.offset,
            radars=tuple(radars),
            labels=None if labels is None else LabelOrigin(job.label_item or labels.name, labels.nomenclature),
            collection=job.collection,
        )
        compression: Compression = "zstd" if job.parameters.compression == "zstd" else "deflate"
        self.encoders = {
            asset.key: CogEncoder(asset, self.grid.epsg, compression)
            for asset in (*OPTICAL_ASSETS, S1, REFERENCE_MAP)
        }
        self.records: list[PatchRecord] = []
        self.dropped: Counter[str] = Counter()

    def run(self, report: Callable[[Progress], None]) -> Outcome:
        rows, _ = self.reader.covered
        rows = range(max(rows.start, self.block.first), min(rows.stop, self.block.last))
        total = len(self.block.rows)
        outside = (total - len(rows)) * TILE_PATCHES
        failed = self.sources.optical.failed_quality
        notes = []
        if failed:
            notes.append(f"quality indicators not PASSED: {', '.join(failed)}")
            self.dropped[Reason.QUALITY] = total * TILE_PATCHES
            rows = range(0)
        elif outside:
            self.dropped[Reason.NODATA] = outside
        if len(rows):
            notes.append(self._checked_offset())
            self._run_strips(rows, report, total)
        report(Progress(total, total, len(self.records)))
        table = patch_table(self.origin, self.records)
        if table.num_rows:
            validate_item(item_from_row(table.slice(0, 1).to_pylist()[0]))
        files = [file for record in self.records for file in record.files.values()]
        return Outcome(
            table,
            {reason.value: self.dropped[reason] for reason in Reason if self.dropped[reason]},
            len(files),
            sum(size for size, _ in files),
            notes,
        )

    def _checked_offset(self) -> str:
        """Have the pixels confirm the verdict on the offset and record what they said; returns it for the ledger."""
        seen = self.reader.verify_offset(overruled=self.parameters.boa_offset != "auto")
        offset = replace(self.sources.optical.offset, seen=seen)
        self.origin = replace(self.origin, offset=offset)
        return f"offset of 1000 {'removed' if offset.present else 'absent'}: {offset.reason}; {seen}"

    def _run_strips(self, rows: range, report: Callable[[Progress], None], total: int) -> None:
        at_once = max((reader.strip_rows for reader in self.radar_readers), default=STRIP_ROWS)
        size = min(len(rows), at_once)
        buffers = [_Strip.empty(size), _Strip.empty(size)]
        self.radar_strip = np.empty((2, size * PATCH_PIXELS, _STRIP_WIDTH), np.float32)
        writing: list[_Writing] = []
        for number, strip in enumerate(strips(rows.start, rows.stop, at_once)):
            buffer = buffers[number % 2]
            chosen = self._read(strip, buffer)
            # The strip before this one was written by the pool meanwhile; only now its buffer may go.
            self._finish(writing)
            writing = self._write(strip, buffer, chosen)
            report(Progress(strip.start - self.block.first, total, len(self.records)))
        self._finish(writing)

    def _read(self, strip: range, buffer: _Strip) -> "_Chosen":
        """Fill the buffer with a strip and decide which of its patches are kept."""
        shape = (len(strip), TILE_PATCHES)
        holds: dict[Reason, NDArray[np.bool_]] = {}
        empty = np.zeros(shape, np.int64)
        for asset in OPTICAL_ASSETS:
            empty += self.reader.cut(strip, asset, buffer.optical[asset.key][: len(strip)])
        holds[Reason.NODATA] = empty > self.parameters.max_nodata
        counts = self._count_labels(strip, buffer)
        unlabelled = None
        if counts is not None:
            unlabelled = (counts[:, :, -1] + counts[:, :, -2]) / PATCH_PIXELS**2
            # "Fewer than": a quarter without a class is one pixel too many. No class at all: nothing to learn.
            holds[Reason.UNLABELLED] = (unlabelled >= self.parameters.max_unlabelled) | (unlabelled == 1)
        scl = self.reader.scene_classification(strip)
        classification = None if scl is None else classify(scl)
        if classification is not None:
            if self.parameters.max_cloud is not None:
                holds[Reason.CLOUD] = classification.cloud + classification.shadow > self.parameters.max_cloud
            if self.parameters.max_snow is not None:
                holds[Reason.SNOW] = classification.snow > self.parameters.max_snow
        wanted = ~np.logical_or.reduce(list(holds.values()))
        radar_of = self._read_radar(strip, wanted, buffer)
        if self.parameters.require_s1 and self.radar_readers:
            holds[Reason.NO_S1] = radar_of < 0
        elif self.parameters.require_s1:
            holds[Reason.NO_S1] = np.ones(shape, bool)
        reason = reasons(holds)
        self.dropped.update(str(why) for why in reason[reason != None])  # noqa: E711 - elementwise
        snow, cloud = official_flags(classification, shape, self.parameters.snow_flag, self.parameters.cloud_flag)
        return _Chosen(reason == None, radar_of, counts, unlabelled, classification, snow, cloud)  # noqa: E711

    def _count_labels(self, strip: range, buffer: _Strip) -> NDArray[np.int32] | None:
        """Fill the buffer's reference map and count its classes."""
        labels = self.sources.labels
        if labels is None:
            return None
        buffer.reference_map = labels.reference_map(self.grid, strip)
        table = labels.nomenclature.class_of_code
        return count_classes(buffer.reference_map, table, len(labels.nomenclature.classes))

    def _read_radar(self, strip: range, wanted: NDArray[np.bool_], buffer: _Strip) -> NDArray[np.int64]:
        """Fill the buffer's Sentinel-1 with, for each wanted patch, the nearest scene in time that covers it.

        Returns the scene's index by patch, -1 where none covers it.
        """
        radar_of = np.full(wanted.shape, -1, np.int64)
        source = self.radar_strip[:, : len(strip) * PATCH_PIXELS]
        for index, reader in enumerate(self.radar_readers):
            missing = wanted & (radar_of < 0)
            if not missing.any():
                break
            reader.strip(strip, source)
            _cut_complete(source, missing, buffer.radar)
            radar_of[missing] = index
        return radar_of

    def _write(self, strip: range, buffer: _Strip, chosen: "_Chosen") -> list["_Writing"]:
        """Begin to write the kept patches of a strip."""
        kept = [(row, column) for row, column in np.argwhere(chosen.kept).tolist()]
        begun = []
        for start in range(0, len(kept), _PATCHES_A_TASK):
            places = kept[start : start + _PATCHES_A_TASK]
            planes = [self._planes(buffer, chosen, *place) for place in places]
            future = self.pool.submit(self._write_patches, chosen, planes, places, strip.start)
            begun.append(_Writing(planes, future))
        return begun

    def _finish(self, begun: list["_Writing"]) -> None:
        """Wait for the patches of a strip, in order."""
        for writing in begun:
            records = writing.future.result()
            if self.sink is not None:  # here and not in the pool: one order, so that the sink's bytes are the same
                for record, planes in zip(records, writing.planes, strict=True):
                    self._pass_on(record, planes)
            self.records += records

    def _planes(self, buffer: _Strip, chosen: "_Chosen", row: int, column: int) -> dict[str, NDArray[Any]]:
        """Views of one patch's arrays by asset key, (bands, px, px) each."""
        planes: dict[str, NDArray[Any]] = {
            asset.key: buffer.optical[asset.key][row, column] for asset in OPTICAL_ASSETS
        }
        if chosen.radar_of[row, column] >= 0:
            planes[S1.key] = buffer.radar[row, column]
        if buffer.reference_map is not None:
            top, left = row * PATCH_PIXELS, column * PATCH_PIXELS
            planes[REFERENCE_MAP.key] = buffer.reference_map[
                None, top : top + PATCH_PIXELS, left : left + PATCH_PIXELS
            ]
        return planes

    def _write_patches(
        self,
        chosen: "_Chosen",
        planes: Sequence[Mapping[str, NDArray[Any]]],
        places: Sequence[tuple[int, int]],
        first_row: int,
    ) -> list[PatchRecord]:
        return [
            self._write_patch(chosen, arrays, row, column, first_row + row)
            for arrays, (row, column) in zip(planes, places, strict=True)
        ]

    def _write_patch(
        self, chosen: "_Chosen", planes: Mapping[str, NDArray[Any]], row: int, x: int, y: int
    ) -> PatchRecord:
        radar_index = int(chosen.radar_of[row, x])
        radar = self.origin.radars[radar_index] if radar_index >= 0 else None
        left, top = self.grid.corner(x, y)
        hrefs = patch_hrefs(self.scene, x, y, radar)
        files = {}
        for asset in (*OPTICAL_ASSETS, S1, REFERENCE_MAP):
            if asset.key in planes:
                data = self.encoders[asset.key].encode(planes[asset.key], left, top)
                files[asset.key] = self._put(hrefs[asset.key], data)
        if self.parameters.thumbnails:
            files[THUMBNAIL] = self._put(hrefs[THUMBNAIL], png(picture(TRUE_COLOUR, planes[S2_10M.key])))
        return self._record(chosen, row, x, y, files)

    def _pass_on(self, record: PatchRecord, planes: Mapping[str, NDArray[Any]]) -> None:
        assert self.sink is not None
        radar = None if record.radar is None else self.origin.radars[record.radar]
        reference_map = planes.get(REFERENCE_MAP.key)
        self.sink.put_patch(
            str(self.scene.patch(record.x, record.y)),
            None if radar is None else str(radar.name.patch(self.scene.tile, record.x, record.y)),
            {asset.key: planes[asset.key] for asset in OPTICAL_ASSETS},
            planes.get(S1.key),
            None if reference_map is None else reference_map[0],
        )

    def _put(self, path: str, data: bytes) -> tuple[int, str]:
        self.storage.put(path, data)
        return len(data), hashlib.sha256(data).hexdigest()

    def _record(
        self, chosen: "_Chosen", row: int, x: int, y: int, files: Mapping[str, tuple[int, str]]
    ) -> PatchRecord:
        labels: tuple[str, ...] = ()
        pixels: tuple[int, ...] = ()
        if chosen.counts is not None and self.sources.labels is not None:
            counts = zip(self.sources.labels.nomenclature.classes, chosen.counts[row, x, :-2].tolist(), strict=True)
            present = [(name, count) for name, count in counts if count]
            labels, pixels = tuple(name for name, _ in present), tuple(count for _, count in present)
        scl = chosen.classification
        radar = int(chosen.radar_of[row, x])
        return PatchRecord(
            x=x,
            y=y,
            radar=radar if radar >= 0 else None,
            labels=labels,
            label_pixels=pixels,
            unlabelled=None if chosen.unlabelled is None else float(chosen.unlabelled[row, x]),
            snow=None if scl is None else float(scl.snow[row, x]),
            cloud=None if scl is None else float(scl.cloud[row, x]),
            shadow=None if scl is None else float(scl.shadow[row, x]),
            contains_seasonal_snow=bool(chosen.snow_flag[row, x]),
            contains_cloud_or_shadow=bool(chosen.cloud_flag[row, x]),
            files=files,
        )


@dataclass(frozen=True, slots=True)
class _Writing:
    """Patches on their way to storage: views of the arrays of each by asset key, and their records to come."""

    planes: Sequence[Mapping[str, NDArray[Any]]]
    future: Future[list[PatchRecord]]


@dataclass(slots=True)
class _Chosen:
    """Verdicts on a strip's patches; every array begins with (rows, 91)."""

    kept: NDArray[np.bool_]
    radar_of: NDArray[np.int64]
    counts: NDArray[np.int32] | None
    unlabelled: NDArray[np.float64] | None
    classification: Any
    snow_flag: NDArray[np.bool_]
    cloud_flag: NDArray[np.bool_]


@njit(cache=True, nogil=True)
def _cut_complete(strip: Any, wanted: Any, out: Any) -> None:  # pragma: no cover - compiled
    """Cut a (2, rows * px, columns * px) strip into the ``wanted`` patches of ``out`` (rows, columns, 2, px, px).

    ``wanted`` (rows, columns) becomes which of them have no NaN.
    """
    pixels = out.shape[3]
    for row in range(wanted.shape[0]):
        for plane in range(2):
            for y in range(pixels):
                line = strip[plane, row * pixels + y]
                for column in range(wanted.shape[1]):
                    if not wanted[row, column]:
                        continue
                    source, target = line[column * pixels : (column + 1) * pixels], out[row, column, plane, y]
                    holes = 0
                    for x in range(pixels):
                        holes += source[x] != source[x]
                        target[x] = source[x]
                    if holes:
                        wanted[row, column] = False
