"""LMDB from patch files: landpatch's export of the whole dataset, and rico-hdl's structure on some of its patches;
and LMDB from arrays in memory, as a build hands them over.

    lmdb_export.py landpatch DATASET LMDB REPORT
    lmdb_export.py arrays DATASET LMDB REPORT
    lmdb_export.py tree DATASET FOLDER PATCHES REPORT      writes what rico-hdl reads: one file a band
    lmdb_export.py rico FOLDER LMDB REPORT

rico-hdl (github.com/kai-tub/rico-hdl) reads every band of a patch through rasterio, collects them in a dictionary,
serialises that with safetensors and puts 512 keys a transaction; done here in one process, without its progress bars.
"""

import shutil
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import lmdb
import rasterio
import safetensors.numpy
from measure import cpu_seconds, write_report

KEYS_A_TRANSACTION = 512
COLUMNS = 91  # of patches in a tile


def export(dataset: Path, target: Path) -> dict[str, Any]:
    """The whole dataset through ``export_lmdb``; what reads patch files has been compiled, as everywhere here."""
    from landpatch.catalog.bands import PATCH_ASSETS
    from landpatch.catalog.cogs import read_planes
    from landpatch.catalog.exports.lmdb import export_lmdb
    from landpatch.catalog.store import Dataset

    (assets,) = Dataset.open(dataset).table(["assets"]).slice(0, 1).column("assets").to_pylist()
    for asset in PATCH_ASSETS:
        read_planes((dataset / assets[asset.key]["href"]).read_bytes(), asset)
    before = cpu_seconds()
    result = export_lmdb(Dataset.open(dataset), target)
    return {"patches": result.patches, "keys": result.keys, "bytes": result.bytes, "cpu": cpu_seconds() - before}


def arrays(dataset: Path, target: Path) -> dict[str, Any]:
    """A tile's worth of patches into a LmdbWriter, in one thread: the pixels of 91 patches, 91 times, each time under
    other names.

    Written twice: the memory of the first file, which is deleted, is at hand for the second. Some machines take back
    what memory is free, and have then to be asked for it.
    """
    from landpatch.catalog.bands import OPTICAL_ASSETS, PATCH_ASSETS, REFERENCE_MAP, S1
    from landpatch.catalog.cogs import read_planes
    from landpatch.catalog.exports.lmdb import LmdbWriter
    from landpatch.catalog.store import Dataset

    rows = Dataset.open(dataset).table(["id", "landpatch:s1_name", "assets"]).slice(0, COLUMNS).to_pylist()
    pixels = [
        {
            asset.key: read_planes((dataset / row["assets"][asset.key]["href"]).read_bytes(), asset)
            for asset in PATCH_ASSETS
        }
        for row in rows
    ]
    cpu = []
    for _ in range(2):
        before = cpu_seconds()
        with LmdbWriter(target, dataset=dataset.as_uri()) as writer:
            for number in range(COLUMNS):
                for row, planes in zip(rows, pixels, strict=True):
                    writer.put_patch(
                        f"{row['id']}_{number:02d}",
                        f"{row['landpatch:s1_name']}_{number:02d}",
                        {asset.key: planes[asset.key] for asset in OPTICAL_ASSETS},
                        planes[S1.key],
                        planes[REFERENCE_MAP.key][0],
                    )
        cpu.append(cpu_seconds() - before)
        shutil.rmtree(target.with_name(f"{target.name}.partial"))
    patches = COLUMNS * len(rows)
    return {"patches": patches, "first": patches / cpu[0], "again": patches / cpu[1]}


def tree(dataset: Path, folder: Path, patches: int) -> dict[str, Any]:
    """Patches in the tree of BigEarthNet v2.0, written by rasterio: GTiff, deflate, predictor, one band a file."""
    from landpatch.catalog.bands import PATCH_ASSETS, REFERENCE_MAP, S1
    from landpatch.catalog.store import Dataset

    shutil.rmtree(folder, ignore_errors=True)
    table = Dataset.open(dataset).table(["id", "landpatch:s1_name", "assets"])
    step = table.num_rows // patches
    written = 0
    for row in table.take(list(range(0, step * patches, step))).to_pylist():
        for asset in PATCH_ASSETS:
            name = row["landpatch:s1_name"] if asset is S1 else row["id"]
            kind = "S1" if asset is S1 else "maps" if asset is REFERENCE_MAP else "S2"
            place = folder / kind / name
            place.mkdir(parents=True, exist_ok=True)
            with rasterio.open(dataset / row["assets"][asset.key]["href"]) as source:
                profile = {**source.profile, "driver": "GTiff", "count": 1, "interleave": "band"}
                for number, band in enumerate(asset.planes, 1):
                    suffix = "reference_map" if asset is REFERENCE_MAP else band
                    with rasterio.open(place / f"{name}_{suffix}.tif", "w", **profile) as target:
                        target.write(source.read(number), 1)
                    written += 1
    return {"patches": patches, "files": written}


def rico(folder: Path, target: Path) -> dict[str, Any]:
    """Sentinel-1, then Sentinel-2, then maps, each sorted by key."""

    def read(file: Path) -> Any:
        with rasterio.open(file) as source:
            return source.read(1)

    def values(kind: str, suffix: str) -> Iterator[tuple[str, bytes]]:
        for place in sorted((folder / kind).iterdir()):
            files = sorted(place.glob("*.tif"))
            tensors = {"Data" if suffix else file.stem.rpartition("_")[2]: read(file) for file in files}
            yield place.name + suffix, safetensors.numpy.save(tensors)

    target.mkdir(parents=True)
    before = cpu_seconds()
    keys = 0
    # 2 GB of address space hold some hundred patches; upstream asks for 100 TB.
    with lmdb.open(str(target), map_size=2 * 2**30) as environment:
        for kind, suffix in (("S1", ""), ("S2", ""), ("maps", "_reference_map")):
            waiting = values(kind, suffix)
            while batch := list(islice(waiting, KEYS_A_TRANSACTION)):
                with environment.begin(write=True) as transaction:
                    for key, value in batch:
                        transaction.put(key.encode(), value)
                keys += len(batch)
    patches = sum(1 for _ in (folder / "S2").iterdir())
    return {"patches": patches, "keys": keys, "cpu": cpu_seconds() - before}


if __name__ == "__main__":
    what, *rest, report = sys.argv[1:]
    if what == "tree":
        write_report(report, tree(Path(rest[0]), Path(rest[1]), int(rest[2])))
    else:
        write_report(report, {"landpatch": export, "arrays": arrays, "rico": rico}[what](*map(Path, rest)))
