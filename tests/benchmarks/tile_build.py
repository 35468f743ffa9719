"""A whole tile through landpatch, each way in a process of its own.

tile_build.py build CACHE DATASET REPORT          what a user runs: build(..., workers=1)
tile_build.py phases CACHE DATASET LMDB REPORT    the same in this process, its parts timed, LMDB fused in
tile_build.py start CACHE DATASET REPORT          one row of patches: what starting costs
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import orjson
from full_tile import full_tile
from measure import Phases, cpu_seconds, write_report

import landpatch.functions.blocks as blocks
import landpatch.functions.building as building
import landpatch.functions.optical as optics
import landpatch.functions.tile as tile
from landpatch.catalog.cogs import CogEncoder
from landpatch.catalog.scenes import with_absolute_hrefs
from landpatch.catalog.store import Dataset, Storage
from landpatch.functions.blocks import BlockRun
from landpatch.functions.building import BuildResult, ScenePair, build
from landpatch.functions.engines.local import Task
from landpatch.functions.jobs import Entry
from landpatch.functions.labels import PolygonLabels
from landpatch.functions.sar import RadarReader
from landpatch.functions.warp import TileSampler


@dataclass(frozen=True, slots=True)
class _Here:
    """An engine in this process, which does one block its own way."""

    work: Callable[[Storage, Iterable[Task]], Entry | None]
    remote: ClassVar[bool] = False

    def run(self, storage: Storage, tasks: Iterable[Task], **_: Any) -> list[Entry]:
        """That block's entry."""
        entry = self.work(storage, tasks)
        assert entry is not None
        return [entry]


def _built(cache: Path, dataset: Path, **options: Any) -> BuildResult:
    scenes = full_tile(cache, print)
    optical, radar = (
        with_absolute_hrefs(orjson.loads(path.read_bytes()), str(path)) for path in (scenes.optical, scenes.radar)
    )
    pair = ScenePair(optical, (radar,))
    result = build([pair], dataset, labels=str(scenes.labels), **options)
    for entry in result.entries:
        if entry.error:
            raise SystemExit(f"the build failed: {entry.error}")
    return result


def _described(entry: Entry, dataset: Path) -> dict[str, Any]:
    return {
        "kept": entry.kept,
        "dropped": entry.dropped,
        "objects": entry.objects,
        "bytes": entry.bytes_written,
        "block_cpu": entry.cpu_seconds,
        "block_peak": entry.peak_memory,
        "items_bytes": (dataset / "items.parquet").stat().st_size,
        "notes": entry.notes,
    }


def whole(cache: Path, dataset: Path) -> dict[str, Any]:
    """The build as a user runs it, its one block in one worker process."""
    (entry,) = _built(cache, dataset, workers=1).entries
    return _described(entry, dataset)


def start(cache: Path, dataset: Path) -> dict[str, Any]:
    """One row of 91 patches in this process: everything is imported, compiled or loaded, opened and begun."""

    def one_row(storage: Storage, tasks: Iterable[Task]) -> Entry | None:
        task = next(iter(tasks))
        return BlockRun(storage, task.job, task.block).run(lambda _: None)

    entry, *_ = _built(cache, dataset, block_rows=1, engine=_Here(one_row)).entries
    return {"kept": entry.kept}


def phases(cache: Path, dataset: Path, lmdb: Path) -> dict[str, Any]:
    """The build with timers around its parts, and an LMDB file written on the way.

    The functions wrapped are the doors between modules, and a few behind them where reading and computing meet.
    """
    from landpatch.catalog.exports.lmdb import LmdbWriter, export_lmdb

    timers = Phases()
    timers.wrap(optics._Band, "read", "read Sentinel-2 and SCL (GDAL)")
    timers.wrap(optics, "_cut", "cut Sentinel-2")
    timers.wrap(optics.OpticalReader, "verify_offset", "check the offset on pixels")
    timers.wrap(tile, "classify", "scene classification")
    timers.wrap(TileSampler, "_read", "read Sentinel-1 (GDAL)")
    timers.wrap(RadarReader, "strip", "warp Sentinel-1, decibel")
    timers.wrap(tile, "_cut_complete", "warp Sentinel-1, decibel")
    timers.wrap(PolygonLabels, "reference_map", "reference map")
    timers.wrap(tile, "count_classes", "multi-label counts")
    timers.wrap(CogEncoder, "encode", lambda encoder, *_: f"encode {encoder._asset.key}")
    timers.wrap(Storage, "put", "put: calling thread")
    timers.wrap(tile._Block, "_put", "sha-256")
    timers.wrap(tile._Block, "_write_patch", "names and records of patches")
    timers.wrap(tile, "patch_table", "items")
    timers.wrap(tile, "validate_item", "items")
    timers.wrap(blocks, "write_part", "part")
    timers.wrap(building, "compact", "catalogue (items.parquet, tables)")
    timers.wrap(LmdbWriter, "put_patch", "LMDB: put_patch")
    timers.wrap(LmdbWriter, "close", "LMDB: close")
    timers.wrap(BlockRun, "run", "rest of the main thread")
    before = {"process": 0.0, "phases": {}}
    block = {"cpu": 0.0}

    def fused(storage: Storage, tasks: Iterable[Task]) -> Entry | None:
        (task,) = tasks
        before["process"] = cpu_seconds()
        with LmdbWriter(lmdb, dataset=storage.url) as sink:
            entry = BlockRun(storage, task.job, task.block).run(lambda _: None, sink)
        block["cpu"] = cpu_seconds() - before["process"]
        block["phases"] = sum(timers.totals().values())
        return entry

    (entry,) = _built(cache, dataset, engine=_Here(fused)).entries
    built = cpu_seconds()
    finished = export_lmdb(Dataset.open(dataset), lmdb, fused=True)
    return {
        **_described(entry, dataset),
        "start_cpu": before["process"],
        "in_block_cpu": block["cpu"],
        "phases": timers.totals(),
        # obstore writes in threads of its own, which no timer in Python sees.
        "library_threads": block["cpu"] - block["phases"],
        "lmdb_finish_cpu": cpu_seconds() - built,
        "lmdb_read_from_files": finished.written,
        "lmdb_patches": finished.patches,
        "lmdb_bytes": finished.bytes,
    }


if __name__ == "__main__":
    what, *paths, report = sys.argv[1:]
    work = {"build": whole, "start": start, "phases": phases}[what]
    write_report(report, work(*map(Path, paths)))
