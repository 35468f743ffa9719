"""``make bench``: what landpatch costs on a whole tile, beside the usual ways, in one run.

    python tests/benchmarks/run.py [--cache FOLDER] [--json FILE] [--patches N] [--rico N] [--keep]

Generates a full-size tile once (10 minutes or so, 1 GB, kept in .cache/bench), then measures each thing in a fresh
process. Prints figures with their bars beside them and asserts nothing: docs/performance.md says how to read them.
Needs about 8 GB of disk while it runs, and 4 GB of memory.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measure import Measured, machine, measured

ROOT = Path(__file__).parents[2]
Row = tuple[str, str, str]


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(prog="make bench", description="Measure landpatch on a full-size tile.")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "bench", help="where the tile is kept")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    parser.add_argument("--patches", type=int, default=32, help="patches made the naive way")
    parser.add_argument("--rico", type=int, default=256, help="patches for rico-hdl's structure")
    parser.add_argument("--keep", action="store_true", help="keep the dataset and the LMDB files")
    options = parser.parse_args()
    cache = options.cache.absolute()
    cache.mkdir(parents=True, exist_ok=True)
    with _workspace(cache / "work", keep=options.keep) as work:
        figures = measure_all(cache, work, options.patches, options.rico)
    for title, rows in tables(figures):
        _print(title, rows)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")


def measure_all(cache: Path, work: Path, patches: int, rico: int) -> dict[str, Any]:
    """Every figure by name."""
    figures: dict[str, Any] = {"machine": machine()}
    # A cache of compiled code of its own: cold for the first process, warm for all others.
    compiled = {"NUMBA_CACHE_DIR": str(work / "numba")}

    def step(name: str, text: str, script: str, *arguments: object) -> Measured:
        print(f"  {text} ...", end="", flush=True, file=sys.stderr)
        found = measured(script, *arguments, environment=compiled)
        print(f" {found.cpu:.1f} CPU s, {found.wall:.0f} s", file=sys.stderr)
        figures[name] = {"cpu": found.cpu, "wall": found.wall, "peak": found.peak, **found.report}
        return found

    print(f"Generated scenes in {cache}, work in {work}", file=sys.stderr)
    step("tile", "the tile (generated if it is not there)", "full_tile.py", cache)
    step(
        "cold", "first start: one row of patches, all to be compiled", "tile_build.py", "start", cache, work / "cold"
    )
    step("warm", "the same again", "tile_build.py", "start", cache, work / "warm")
    step("build", "the whole tile", "tile_build.py", "build", cache, work / "dataset")
    fused = (cache, work / "fused", work / "fused.lmdb")
    step("phases", "the whole tile, timed inside, LMDB fused in", "tile_build.py", "phases", *fused)
    figures["same_objects"] = _same_tree(work / "dataset", work / "fused")
    shutil.rmtree(work / "fused")
    step("naive", f"{patches} patches the naive way", "naive.py", cache, work / "naive", patches)
    step("export", "LMDB from files", "lmdb_export.py", "landpatch", work / "dataset", work / "files.lmdb")
    files, map_sizes = (work / name / "data.mdb" for name in ("files.lmdb", "fused.lmdb")), ("fused", "files")
    figures["lmdb_bytes"] = dict(zip(map_sizes, (file.stat().st_size for file in files), strict=True))
    step("tree", f"{rico} patches, one band a file", "lmdb_export.py", "tree", work / "dataset", work / "tree", rico)
    step("rico", "LMDB in rico-hdl's structure", "lmdb_export.py", "rico", work / "tree", work / "rico.lmdb")
    step("files", "patch files in memory", "cogs_speed.py", "files", work / "dataset", rico)
    step("jp2", "JPEG 2000", "cogs_speed.py", "jp2", cache)
    figures["machine"]["load_after"] = [round(value, 2) for value in os.getloadavg()]
    return figures


def tables(figures: dict[str, Any]) -> Iterator[tuple[str, list[Row]]]:
    """Title and rows (what, figure, bar) of each table."""
    f = figures
    m, build, phases, naive = f["machine"], f["build"], f["phases"], f["naive"]
    yield (
        "Machine",
        [
            ("processor", f"{m['processor']}, {m['cores']} cores", ""),
            ("load before and after", f"{m['load'][0]} and {m['load_after'][0]}", ""),
            ("date, Python", f"{m['date']}, {m['python']}", ""),
        ],
    )
    naive_tile = naive["cpu_a_patch"] * build["kept"]
    yield (
        f"A whole tile: {build['kept']} patches, {build['objects']} files",
        [
            ("CPU s, all processes", f"{build['cpu']:.1f}", "<= 45, aim 30"),
            ("   of them in the block's process", f"{build['block_cpu']:.1f}", ""),
            ("   start of Python and imports", f"{phases['start_cpu']:.1f}", ""),
            ("wall s", f"{build['wall']:.0f}", ""),
            ("peak memory, GB", f"{build['block_peak'] / 1e9:.2f}", "<= 3"),
            ("bytes of patch files, GB", f"{build['bytes'] / 1e9:.2f}", ""),
            ("items.parquet, MB", f"{build['items_bytes'] / 1e6:.1f}", ""),
            ("naive, CPU s a patch", f"{naive['cpu_a_patch']:.3f}", ""),
            (f"naive, CPU s a tile (from {naive['patches']} patches)", f"{naive_tile:,.0f}", ""),
            ("times the naive way", f"{naive_tile / build['cpu']:.0f}", ">= 80"),
            ("first start ever: CPU s more, to compile", f"{f['cold']['cpu'] - f['warm']['cpu']:.1f}", ""),
        ],
    )
    parts = sorted(phases["phases"].items(), key=lambda part: -part[1])
    yield (
        "Where it goes, CPU s (with timers, LMDB fused in)",
        [
            *((phase, f"{seconds:.2f}", "") for phase, seconds in parts),
            ("put: obstore's own threads, thread switches", f"{phases['library_threads']:.2f}", ""),
            ("LMDB: finished afterwards", f"{phases['lmdb_finish_cpu']:.2f}", ""),
        ],
    )
    timed = sum(seconds for phase, seconds in phases["phases"].items() if phase.startswith("LMDB"))
    export, rico = f["export"], f["rico"]
    from_files, from_rico = export["patches"] / export["cpu"], rico["patches"] / rico["cpu"]
    finished = timed + phases["lmdb_finish_cpu"]
    yield (
        f"LMDB of {export['patches']} patches, patches a CPU s",
        [
            ("from files", f"{from_files:,.0f}", ">= 400"),
            ("fused into the build", f"{phases['lmdb_patches'] / timed:,.0f}", ">= 2,000"),
            ("fused, with the finishing pass", f"{phases['lmdb_patches'] / finished:,.0f}", ""),
            (f"rico-hdl's structure ({rico['patches']} patches)", f"{from_rico:,.0f}", ""),
            ("times rico-hdl's structure, from files", f"{from_files / from_rico:.1f}", ""),
            ("times rico-hdl's structure, fused", f"{phases['lmdb_patches'] / timed / from_rico:.0f}", ""),
            ("data.mdb, GB", f"{export['bytes'] / 1e9:.2f}", ""),
        ],
    )
    for way in ("write", "read"):
        yield (
            f"Patch files in memory, {way}: patches (five files) a CPU s",
            [(name, f"{rate:,.0f}", "") for name, rate in f["files"][way].items()],
        )
    jp2 = f["jp2"]
    yield (
        "JPEG 2000",
        [
            ("decoded, MB of pixels a CPU s", f"{jp2['megabytes_a_second']:.1f}", "13"),
            ("12 bands of a tile, CPU s (reckoned)", f"{jp2['tile_cpu']:.0f}", ""),
        ],
    )


def _print(title: str, rows: list[Row]) -> None:
    print(f"\n{title}")
    for name, figure, bar in rows:
        print(f"  {name:<52}{figure:>16}  {bar}".rstrip())


def _same_tree(one: Path, other: Path) -> bool:
    """Whether two datasets have the same patch files with the same bytes."""
    paths = sorted(file.relative_to(one) for file in (one / "patches").rglob("*.tif"))
    return paths == sorted(file.relative_to(other) for file in (other / "patches").rglob("*.tif")) and all(
        (one / path).read_bytes() == (other / path).read_bytes() for path in paths
    )


@contextmanager
def _workspace(folder: Path, *, keep: bool) -> Iterator[Path]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
