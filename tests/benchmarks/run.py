"""``make bench``: what landpatch costs on a whole tile, beside the usual ways, in one run.

    python tests/benchmarks/run.py [--cache FOLDER] [--work FOLDER] [--json FILE] [--patches N] [--rico N] [--keep]

Generates a full-size tile once (some minutes, 2.5 GB, kept in .cache/bench), then measures each thing in a process of
its own. Prints figures with their bars beside them and asserts nothing: docs/performance.md says how to read them.
Needs 4 GB of memory, and 13 GB of disk while it runs.
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

from measure import machine, measured

ROOT = Path(__file__).parents[2]
Row = tuple[str, str, str]


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(prog="make bench", description="Measure landpatch on a full-size tile.")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "bench", help="where the tile is kept")
    parser.add_argument("--work", type=Path, help="where datasets are written meanwhile (default: in the cache)")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    parser.add_argument("--patches", type=int, default=32, help="patches made the naive way")
    parser.add_argument("--rico", type=int, default=256, help="patches for rico-hdl's structure")
    parser.add_argument("--keep", action="store_true", help="keep the dataset and the LMDB files")
    options = parser.parse_args()
    cache = options.cache.absolute()
    cache.mkdir(parents=True, exist_ok=True)
    work = (options.work or cache).absolute() / "landpatch-bench-work"
    with _workspace(work, keep=options.keep):
        figures = measure_all(cache, work, options.patches, options.rico)
    for title, rows in tables(figures):
        _print(title, rows)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")


def measure_all(cache: Path, work: Path, patches: int, rico: int) -> dict[str, Any]:
    """Every figure by name."""
    figures: dict[str, Any] = {"machine": machine(), "work": str(work)}
    # A cache of compiled code of its own: cold for the first process, warm for all others.
    compiled = {"NUMBA_CACHE_DIR": str(work / "numba")}

    def step(name: str, text: str, script: str, *arguments: object, as_installed: bool = False) -> dict[str, Any]:
        print(f"  {text} ...", end="", flush=True, file=sys.stderr)
        found = measured(script, *arguments, environment=compiled, as_installed=as_installed)
        print(f" {found.cpu:.1f} CPU s, {found.wall:.0f} s", file=sys.stderr)
        usage = {"cpu": found.cpu, "user": found.user, "system": found.system, "wall": found.wall, "peak": found.peak}
        figures[name] = {**usage, **found.report}
        return figures[name]

    def product(name: str, text: str, script: str, *arguments: object) -> dict[str, Any]:
        return step(name, text, script, *arguments, as_installed=True)

    print(f"Scenes in {cache}, work in {work}", file=sys.stderr)
    dataset, tile = work / "dataset", "tile_build.py"
    step("tile", "the tile (generated if it is not there)", "full_tile.py", cache)
    product("cold", "one row of patches, everything to be compiled", tile, "start", cache, work / "cold")
    product("warm", "the same again", tile, "start", cache, work / "warm")
    built = product("build", "the whole tile", tile, "build", cache, dataset)
    size = built["bytes"] // built["objects"]
    step("store", "plain files of the same size", "store_speed.py", work / "store", 10_000, size)
    product(
        "phases", "the tile, timed inside, LMDB on the way", tile, "phases", cache, work / "fused", work / "on.lmdb"
    )
    figures["same_bytes"] = _same_tree(dataset, work / "fused")
    product("export", "LMDB from files", "lmdb_export.py", "landpatch", dataset, work / "from.lmdb")
    product("arrays", "LMDB from arrays, twice", "lmdb_export.py", "arrays", dataset, work / "arrays.lmdb")
    step("tree", f"{rico} patches, one band a file", "lmdb_export.py", "tree", dataset, work / "tree", rico)
    step("rico", "LMDB in rico-hdl's structure", "lmdb_export.py", "rico", work / "tree", work / "rico.lmdb")
    for way in ("usual", "careful"):
        step(way, f"{patches} patches the {way} naive way", "naive.py", way, cache, work / "naive", patches)
    step("files", "patch files in memory", "cogs_speed.py", "files", dataset, rico)
    step("jp2", "JPEG 2000", "cogs_speed.py", "jp2", cache)
    figures["machine"]["load_after"] = [round(value, 2) for value in os.getloadavg()]
    return figures


def tables(figures: dict[str, Any]) -> Iterator[tuple[str, list[Row]]]:
    """Title and rows (what, figure, bar) of each table."""
    f = figures
    m, build, phases, naive = f["machine"], f["build"], f["phases"], f["usual"]
    load = ", ".join(f"{sample[0]:.1f}" for sample in (m["load"], m["load_after"]))
    yield (
        "Machine",
        [
            ("processor, cores", f"{m['processor']}, {m['cores']}", ""),
            ("load before and after", load, ""),
            ("date, Python", f"{m['date']}, {m['python']}", ""),
            ("memory that was not used lately, CPU s a GB", f"{f['store']['new_memory']:.2f}", ""),
        ],
    )
    naive_tile = naive["cpu_a_patch"] * build["kept"]
    plain = f["store"]["plain"] * build["objects"] / 1e6
    yield (
        f"A whole tile: {build['kept']:,} patches, {build['objects']:,} files, {build['bytes'] / 1e9:.2f} GB",
        [
            ("CPU s, all processes, compiled code cached", f"{build['cpu']:.1f}", "<= 45, aim 30"),
            ("   of them the system's", f"{build['system']:.1f}", ""),
            ("   of them outside the block's process", f"{build['cpu'] - build['block_cpu']:.1f}", ""),
            ("   plain writing of as many files, by itself", f"{plain:.1f}", ""),
            ("wall s", f"{build['wall']:.0f}", ""),
            ("peak memory, GB", f"{build['block_peak'] / 1e9:.2f}", "<= 3"),
            (f"the naive way, CPU s a patch ({naive['patches']} patches)", f"{naive['cpu_a_patch']:.3f}", ""),
            ("the naive way, CPU s a tile", f"{naive_tile:,.0f}", ""),
            ("times the naive way", f"{naive_tile / build['cpu']:.0f}", ">= 80"),
            ("the careful naive way, CPU s a patch", f"{f['careful']['cpu_a_patch']:.3f}", ""),
            ("first start after installing: CPU s more", f"{f['cold']['cpu'] - f['warm']['cpu']:.1f}", ""),
            ("items.parquet, MB", f"{build['items_bytes'] / 1e6:.1f}", ""),
            ("a second build's patch files are the same bytes", "yes" if f["same_bytes"] else "NO", "yes"),
        ],
    )
    parts = sorted(phases["phases"].items(), key=lambda part: -part[1])
    yield (
        "Where it goes, CPU s (another build: one process, timers inside, LMDB on the way)",
        [
            ("Python, imports, plan", f"{phases['start_cpu']:.2f}", ""),
            *((phase, f"{seconds:.2f}", "") for phase, seconds in parts),
            ("put: obstore's own threads", f"{phases['library_threads']:.2f}", ""),
            ("LMDB: finishing pass", f"{phases['lmdb_finish_cpu']:.2f}", ""),
            ("sum", f"{phases['cpu']:.2f}", ""),
        ],
    )
    on_the_way = sum(seconds for phase, seconds in phases["phases"].items() if phase.startswith("LMDB"))
    export, rico = f["export"], f["rico"]
    from_files, from_rico = export["patches"] / export["cpu"], rico["patches"] / rico["cpu"]
    fused = phases["lmdb_patches"] / on_the_way
    finished = phases["lmdb_patches"] / (on_the_way + phases["lmdb_finish_cpu"])
    yield (
        f"LMDB of {export['patches']:,} patches ({export['bytes'] / 1e9:.2f} GB), patches a CPU s",
        [
            ("from files", f"{from_files:,.0f}", ">= 400"),
            ("from arrays, by itself, memory at hand", f"{f['arrays']['again']:,.0f}", ">= 2,000"),
            ("   the first time", f"{f['arrays']['first']:,.0f}", ""),
            ("on the way of a build", f"{fused:,.0f}", ">= 2,000"),
            ("   with the finishing pass", f"{finished:,.0f}", ""),
            (f"rico-hdl's structure ({rico['patches']} patches)", f"{from_rico:,.0f}", ""),
            ("times rico-hdl's structure: from files", f"{from_files / from_rico:.1f}", ""),
            ("times rico-hdl's structure: on the way", f"{fused / from_rico:.0f}", ""),
        ],
    )
    for way, title in (("write", "Encoding"), ("read", "Decoding")):
        rows = [(name, f"{rate:,.0f}", "") for name, rate in f["files"][way].items()]
        yield f"{title} patch files in memory, patches (five files) a CPU s", rows
    jp2 = f["jp2"]
    yield (
        "JPEG 2000",
        [
            ("decoded, MB of pixels a CPU s", f"{jp2['megabytes_a_second']:.1f}", ""),
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
def _workspace(folder: Path, *, keep: bool) -> Iterator[None]:
    # Nothing is deleted before or between: for up to five minutes after many files were, ext4 makes new ones at many
    # times the cost (it looks for inodes that were not freed lately).
    old = folder.with_name(f"{folder.name}-old")
    if folder.exists():
        folder.rename(old)
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(old, ignore_errors=True)
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
