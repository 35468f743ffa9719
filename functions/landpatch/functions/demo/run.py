"""``landpatch demo``: from an invented world to a page with its patches, through the same doors as everybody."""

import shutil
from pathlib import Path

from landpatch.catalog.errors import UnreadableAsset
from landpatch.catalog.exports.lmdb import export_lmdb
from landpatch.catalog.store import Dataset
from landpatch.functions.building import BuildResult, ScenePair, build
from landpatch.functions.console import BuildDisplay, counting, say
from landpatch.functions.demo.report import write_report
from landpatch.functions.demo.world import World, make_world
from landpatch.functions.labels_prepare import prepare_labels
from landpatch.functions.sources import read_scene


def run_demo(destination: Path, *, workers: int | None = None) -> Path:
    """Generate the world, build a dataset from it, export it, describe it; returns the path of the page.

    Everything lies under ``destination``. What is there already is not made again.
    """
    destination.mkdir(parents=True, exist_ok=True)
    world = _world(destination / "world")
    labels = destination / "labels" / "clc2018_demo.parquet"
    if not labels.exists():
        say("Preparing the land-cover polygons")
        labels.parent.mkdir(exist_ok=True)
        prepare_labels(str(world.labels), str(labels))
    pairs = [
        ScenePair(read_scene(str(optical)), tuple(read_scene(str(radar)) for radar in radars))
        for optical, radars in world.scenes
    ]
    dataset = destination / "dataset"
    say(f"Building patches from {len(pairs)} scenes into {dataset}")
    with BuildDisplay() as display:
        result = build(
            pairs, dataset, labels=str(labels), collection="landpatch-demo", workers=workers, watch=display
        )
    tell(result)
    lmdb = destination / "demo.lmdb"
    with counting("Exporting to LMDB") as progress:
        exported = export_lmdb(Dataset.open(dataset), lmdb, progress=progress)
    say(f"Exported {exported.patches:,} patches to {lmdb} ({exported.bytes / 1e6:.0f} MB)")
    page = write_report(Dataset.open(dataset), destination / "index.html", title="landpatch demo")
    say(f"Look at {page}")
    say(f"Go on with: landpatch status {dataset}; landpatch export folders {dataset} {destination / 'BigEarthNet'}")
    return page


def tell(result: BuildResult) -> None:
    """Say what was kept and what was dropped, and why."""
    say(f"Kept {result.kept:,} patches; dropped " + _listed(result.dropped))
    for entry in result.unfinished:
        say(f"{entry.scene} is {entry.state}: {entry.error}")


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items()) or "none"


def _world(folder: Path) -> World:
    """The generated world; one that was interrupted is generated anew."""
    try:
        return World.load(folder)
    except UnreadableAsset:
        shutil.rmtree(folder, ignore_errors=True)
    with counting("Generating a small world") as progress:
        return make_world(folder, progress=progress)
