"""``landpatch demo``: from an invented world to a page with its patches, through the same doors as everybody."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

from landpatch.catalog.areas import Area
from landpatch.catalog.discovery import discover
from landpatch.catalog.errors import UnreadableAsset
from landpatch.catalog.exports.lmdb import export_lmdb
from landpatch.catalog.scene_list import write_scene_list
from landpatch.catalog.stac_sources import OpticalQuery, SceneSource
from landpatch.catalog.store import Dataset
from landpatch.functions.building import BuildResult, ScenePair, build
from landpatch.functions.console import BuildDisplay, counting, say
from landpatch.functions.demo.report import write_report
from landpatch.functions.demo.world import TILES, World, make_world
from landpatch.functions.labels_prepare import prepare_labels
from landpatch.functions.sources import read_pairs


def run_demo(destination: Path, *, workers: int | None = None) -> Path:
    """Generate the world, find its scenes, build a dataset, export it, describe it; returns the path of the page.

    Everything lies under ``destination``. What is there already is not made again.
    """
    destination.mkdir(parents=True, exist_ok=True)
    world = _world(destination / "world")
    labels = destination / "labels" / "clc2018_demo.parquet"
    if not labels.exists():
        say("Preparing the land-cover polygons")
        labels.parent.mkdir(exist_ok=True)
        prepare_labels(str(world.labels), str(labels))
    scenes = _discovered(world, destination / "scenes.json")
    pairs = [ScenePair(*pair) for pair in read_pairs([str(scenes)])]
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


def _discovered(world: World, scene_list: Path) -> Path:
    """The best scene of each tile, with the Sentinel-1 scenes that cover it together, written to ``scene_list``."""
    say(f"Looking for scenes in {world.catalog}")
    catalog = SceneSource.open(str(world.catalog))
    years = datetime(2019, 1, 1, tzinfo=UTC), datetime(2024, 12, 31, tzinfo=UTC)
    found = discover(catalog, OpticalQuery(Area.from_tiles(TILES), *years), radar_source=catalog)
    for line in found.table(rejected=True):
        say(f"  {line}")
    write_scene_list(str(scene_list), found.document())
    return scene_list


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
