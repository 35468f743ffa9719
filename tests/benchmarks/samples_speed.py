"""Reading samples to train on, beside the way that people write: samples a CPU second of one process, all in memory.

    samples_speed.py FOLDER PATCHES [REPORT]

Makes, in FOLDER, an LMDB of PATCHES patches of invented pixels (305 kB each) unless it is there. Each way reads all
bands of every patch, 64 at a time in random order: ``Samples`` (a new batch each time, or one that is filled again);
``safetensors.load`` into dictionaries, as BigEarthNet's public readers have it; and those stacked to a batch. The
floor is a copy of as many bytes as a batch has. Best of three rounds, in which the ways take turns.
"""

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow.parquet as pq
import safetensors.numpy
from measure import write_report

from landpatch.catalog.bands import PATCH_ASSETS, REFERENCE_MAP
from landpatch.catalog.exports.lmdb import export_lmdb
from landpatch.catalog.samples import Samples

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_dataset import Patch, write_dataset

BATCH = 64
ROUNDS = 3
ASSETS = [asset for asset in PATCH_ASSETS if asset is not REFERENCE_MAP]


def rates(folder: Path, count: int) -> dict[str, Any]:
    """Samples a CPU second, by way."""
    ours, theirs = folder / "ours.lmdb", folder / "theirs.lmdb"  # LMDB opens a file once in a process
    if not theirs.exists():
        patches = [Patch(x, y) for x in range(91) for y in range(91)][:count]
        export_lmdb(write_dataset(str(folder / "dataset"), patches), ours)
        shutil.copytree(ours, theirs)
    samples = Samples(ours, bands=[plane for asset in ASSETS for plane in asset.planes])
    table = pq.read_table(theirs / "metadata.parquet", columns=["patch_id", "s1_name"]).to_pylist()
    keys = [(row["patch_id"].encode(), row["s1_name"].encode()) for row in table]
    order = np.random.default_rng(1).permutation(len(samples) // BATCH * BATCH).reshape(-1, BATCH).tolist()
    kept, copied = samples.read(order[0]), samples.read(order[0])
    environment = lmdb.open(str(theirs), readonly=True, lock=False, readahead=False)

    def loaded(chosen: list[int]) -> list[dict[str, Any]]:
        with environment.begin() as transaction:
            return [
                safetensors.numpy.load(transaction.get(optical)) | safetensors.numpy.load(transaction.get(radar))
                for optical, radar in (keys[index] for index in chosen)
            ]

    def stacked(chosen: list[int]) -> dict[str, Any]:
        patches = loaded(chosen)
        return {
            asset.key: np.stack([[bands[name] for name in asset.planes] for bands in patches]) for asset in ASSETS
        }

    def floor(_: list[int]) -> None:
        for name, values in copied.items():
            kept[name][...] = values

    same = stacked(order[0])
    assert all((samples.read(order[0])[key] == values).all() for key, values in same.items())
    ways: dict[str, Callable[[list[int]], Any]] = {
        "Samples, a batch filled again": lambda chosen: samples.read(chosen, kept),
        "Samples, a new batch": samples.read,
        "safetensors.load": loaded,
        "safetensors.load, stacked": stacked,
        "floor: a copy of the batch": floor,
    }
    best = dict.fromkeys(ways, 0.0)
    for _ in range(ROUNDS):
        for name, way in ways.items():
            before = time.process_time()
            for chosen in order:
                way(chosen)
            best[name] = max(best[name], len(order) * BATCH / (time.process_time() - before))
    environment.close()
    return {"patches": len(samples), "rates": best}


if __name__ == "__main__":
    found = rates(Path(sys.argv[1]), int(sys.argv[2]))
    base = found["rates"]["safetensors.load"]
    for name, rate in found["rates"].items():
        print(f"{name:<32}{rate:>10,.0f} samples/CPU s{rate / base:>8.1f} x")
    if len(sys.argv) > 3:
        write_report(sys.argv[3], found)
