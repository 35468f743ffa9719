"""The command ``landpatch``: parses words, calls the library, prints. No logic lives here.

Human text goes to stderr, data to stdout. Exit codes: 0 done; 2 wrong usage or parameters; 3 some blocks did not
succeed; 4 a scene or item cannot be used; 5 a file cannot be read; 6 labels; 7 storage; 8 contradicts the dataset;
9 damaged dataset; 10 something that the verb needs is not installed;
130 interrupted (run the same command again to go on).
"""

import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any

import click

from landpatch.catalog.errors import Incomplete, LandpatchError

_EXAMPLE = "\b\nExample:\n  "


def _verb(function: Callable[..., None]) -> Callable[..., None]:
    """Turn landpatch's errors into a line on stderr and their exit code."""

    @wraps(function)
    def guarded(*arguments: Any, **options: Any) -> None:
        try:
            function(*arguments, **options)
        except LandpatchError as error:
            click.echo(f"landpatch: {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("landpatch: interrupted; run the same command again to go on where it stopped", err=True)
            sys.exit(130)

    return guarded


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="landpatch")
def main() -> None:
    """Land-cover patch datasets in the manner of BigEarthNet v2.0, for any place and year."""


def _build_options(function: Callable[..., None]) -> Callable[..., None]:
    share = click.FloatRange(0, 1)
    for option in reversed(
        [
            click.option("--s2-only", is_flag=True, help="Keep patches that no Sentinel-1 scene covers wholly."),
            click.option(
                "--max-unlabelled",
                type=share,
                default=0.25,
                show_default=True,
                help="Keep a patch iff its share of pixels without a class is below this.",
            ),
            click.option(
                "--max-nodata",
                type=click.IntRange(0),
                default=0,
                show_default=True,
                help="Pixels of 0, all bands together, that a patch may have.",
            ),
            click.option(
                "--max-cloud", type=share, help="Drop patches with a larger share of cloud and shadow (SCL)."
            ),
            click.option("--max-snow", type=share, help="Drop patches with a larger share of snow (SCL)."),
            click.option(
                "--cloud-flag",
                type=share,
                default=0.05,
                show_default=True,
                help="Share from which contains_cloud_or_shadow stands.",
            ),
            click.option(
                "--snow-flag",
                type=share,
                default=0.05,
                show_default=True,
                help="Share from which contains_seasonal_snow stands.",
            ),
            click.option(
                "--boa-offset",
                type=click.Choice(["auto", "present", "absent"]),
                default="auto",
                show_default=True,
                help="Whether 1000 was added to Sentinel-2 pixels; auto: from the metadata, checked on the pixels.",
            ),
            click.option(
                "--s1-unit",
                type=click.Choice(["dB", "power"]),
                help="What Sentinel-1 pixels are, where the item does not tell.",
            ),
            click.option(
                "--compression",
                type=click.Choice(["deflate", "zstd"]),
                default="deflate",
                show_default=True,
                help="Of the patch files; zstd reads faster, but not everywhere.",
            ),
            click.option("--thumbnails", is_flag=True, help="Write a true-colour PNG beside each patch."),
            click.option("--collection", default="landpatch", show_default=True, help="Id of the STAC collection."),
            click.option(
                "--block-rows",
                type=click.IntRange(1, 91),
                default=91,
                show_default=True,
                help="Patch rows a block; fewer need less memory and re-read more.",
            ),
        ]
    ):
        function = option(function)
    return function


def _engine_options(function: Callable[..., None]) -> Callable[..., None]:
    function = click.option(
        "--lmdb", type=click.Path(), help="Also write an LMDB (of these scenes, as `export lmdb` would)."
    )(function)
    return click.option(
        "--workers", type=click.IntRange(1), help="Processes at a time; 3 GB of memory each. Default: cores."
    )(function)


@main.command(epilog=_EXAMPLE + "landpatch build S2.json --s1 S1.json --labels clc2018.parquet --to europe/")
@click.argument("scenes", nargs=-1, required=True, metavar="S2_ITEM...")
@click.option("--s1", "radars", multiple=True, metavar="S1_ITEM", help="Sentinel-1 item; may be given several times.")
@click.option(
    "--labels", metavar="SRC", help="Label source: prepared, or a CORINE file, which is prepared into DEST/labels."
)
@click.option("--no-labels", is_flag=True, help="Build without reference maps and labels.")
@click.option("--to", "destination", required=True, metavar="DEST", help="Folder or s3://bucket/prefix.")
@_build_options
@_engine_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
@_verb
def build(
    scenes: tuple[str, ...],
    radars: tuple[str, ...],
    labels: str | None,
    no_labels: bool,
    destination: str,
    workers: int | None,
    lmdb: str | None,
    collection: str,
    block_rows: int,
    s2_only: bool,
    as_json: bool,
    **parameters: Any,
) -> None:
    """Cut scenes into patches and catalogue them.

    S2_ITEM is the STAC item of a Sentinel-2 scene (a file, http(s):// or s3://) or a SAFE folder. All Sentinel-1
    items given belong to all S2 items given. What is done is not done again.
    """
    from landpatch.functions.building import ScenePair
    from landpatch.functions.building import build as build_dataset
    from landpatch.functions.console import BuildDisplay
    from landpatch.functions.jobs import Parameters
    from landpatch.functions.sources import prepared_labels, read_scene

    if (labels is None) == (not no_labels):
        raise click.UsageError("say where labels come from with --labels SRC, or --no-labels; one of the two")
    beside = tuple(read_scene(href) for href in radars)
    pairs = [ScenePair(read_scene(href), beside) for href in scenes]
    source = None if labels is None else prepared_labels(labels, destination)
    with BuildDisplay() as display:
        result = build_dataset(
            pairs,
            destination,
            labels=source,
            parameters=Parameters(require_s1=not s2_only, **parameters),
            collection=collection,
            block_rows=block_rows,
            workers=workers,
            lmdb=lmdb,
            watch=display,
        )
    _finish_lmdb(destination, lmdb)
    _tell(result, destination, as_json)


@main.command(epilog=_EXAMPLE + "landpatch retry europe/ --state FAILED --tile 33UUP")
@click.argument("dataset")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(["FAILED", "ABORTED", "INVALID"]),
    help="Which blocks; default: FAILED and ABORTED.",
)
@click.option("--tile", help="Only this tile.")
@_engine_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
@_verb
def retry(
    dataset: str, states: tuple[str, ...], tile: str | None, workers: int | None, lmdb: str | None, as_json: bool
) -> None:
    """Try blocks again that did not succeed, with the inputs and parameters recorded for them."""
    from landpatch.catalog.names import parse_tile
    from landpatch.functions.building import rebuild
    from landpatch.functions.console import BuildDisplay
    from landpatch.functions.jobs import State

    chosen = [State(state) for state in states] or [State.FAILED, State.ABORTED]
    only = None if tile is None else parse_tile(tile)
    with BuildDisplay() as display:
        result = rebuild(dataset, states=chosen, tile=only, workers=workers, lmdb=lmdb, watch=display)
    _finish_lmdb(dataset, lmdb)
    _tell(result, dataset, as_json)


@main.command(epilog=_EXAMPLE + "landpatch status europe/")
@click.argument("dataset")
@click.option("--json", "as_json", is_flag=True, help="One JSON line a block on stdout.")
@_verb
def status(dataset: str, as_json: bool) -> None:
    """What is done, dropped, failed and why."""
    from landpatch.catalog.store import Storage
    from landpatch.functions.console import out
    from landpatch.functions.jobs import Ledger

    entries = list(Ledger(Storage.open(dataset)).entries())
    if as_json:
        for entry in entries:
            out(json.dumps(asdict(entry)))
        return
    width = max((len(entry.scene) for entry in entries), default=5)
    out(f"{'scene':{width}}  {'block':10}  {'state':10}  {'kept':>6}  {'dropped':>7}  seconds  what")
    for entry in entries:
        what = entry.error or ", ".join(f"{reason} {count}" for reason, count in entry.dropped.items())
        out(
            f"{entry.scene:{width}}  {entry.block:10}  {entry.state:10}  {entry.kept:6}  "
            f"{sum(entry.dropped.values()):7}  {entry.seconds:7.1f}  {what}"
        )
    states = Counter(entry.state.value for entry in entries)
    dropped: Counter[str] = Counter()
    for entry in entries:
        dropped.update(entry.dropped)
    out(
        f"{sum(entry.kept for entry in entries):,} patches; dropped: "
        + (", ".join(f"{reason} {count:,}" for reason, count in dropped.most_common()) or "none")
        + "; blocks: "
        + (", ".join(f"{state} {count}" for state, count in sorted(states.items())) or "none")
    )


@main.command(epilog=_EXAMPLE + "landpatch serve europe/ --open")
@click.argument("datasets", nargs=-1, required=True, metavar="DATASET...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0: all.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any that is free.")
@click.option("--browser/--no-browser", default=True, help="With STAC Browser, got and built the first time.")
@click.option(
    "--basemap",
    metavar="URL",
    help="Map tiles under the patches, as https://tile.openstreetmap.org/{z}/{x}/{y}.png. Default: none.",
)
@click.option("--open", "open_page", is_flag=True, help="Open it in your web browser.")
@click.option("--json-log", is_flag=True, help="One line of JSON a request on stdout.")
@_verb
def serve(datasets: tuple[str, ...], **options: Any) -> None:
    """Search datasets and look at them where they lie, on disk or on S3: STAC Browser, STAC API and previews.

    Needs no database. The one address is for people, who get STAC Browser, and for programs: pystac-client, QGIS and
    their like find the STAC API there.
    """
    from landpatch.functions.serving import serve as serve_datasets

    serve_datasets(datasets, **options)


@main.command(epilog=_EXAMPLE + "landpatch browser")
@_verb
def browser() -> None:
    """Get STAC Browser from the npm registry and build it now; `serve` does so when first needed.

    Takes a few minutes and Node.js, once. Prints the folder of its files.
    """
    from landpatch.catalog.browser import build_browser
    from landpatch.functions.console import counting, out

    out(str(build_browser(counting)))


@main.group()
def labels() -> None:
    """Label sources."""


@labels.command(epilog=_EXAMPLE + "landpatch labels prepare U2018_CLC2018_V2020_20u1.gpkg clc2018.parquet")
@click.argument("source", type=click.Path(exists=True))
@click.argument("destination")
@click.option(
    "--nomenclature",
    type=click.Path(exists=True, dir_okay=False),
    help="CSV: code, name, class[, source, grid_code, red, green, blue]. Default: CORINE 2018, 19 classes.",
)
@click.option("--code-column", help="Column that holds the code. Default: code_18.")
@click.option("--layer", help="Layer of the source, where it has several.")
@_verb
def prepare(
    source: str, destination: str, nomenclature: str | None, code_column: str | None, layer: str | None
) -> None:
    """Make a label source that a tile can read its own part of.

    Polygons (GeoPackage, Shapefile, GeoJSON, ...) become GeoParquet, rasters of codes a tiled GeoTIFF. DESTINATION
    is a path or s3:// href ending in .parquet or .tif.
    """
    from landpatch.catalog.nomenclature import Nomenclature
    from landpatch.functions.console import counting, say
    from landpatch.functions.labels_prepare import prepare_labels

    table = None
    if nomenclature is not None:
        path = Path(nomenclature)
        table = Nomenclature.from_csv(path.read_text("utf-8"), path.stem)
    with counting("Preparing labels") as progress:
        count = prepare_labels(
            source, destination, nomenclature=table, code_column=code_column, layer=layer, progress=progress
        )
    say(f"{count:,} label features prepared in {destination}")


@main.group()
def export() -> None:
    """Take a dataset out in the formats that existing loaders open."""


@export.command(epilog=_EXAMPLE + "landpatch export lmdb europe/ europe.lmdb")
@click.argument("dataset")
@click.argument("destination", type=click.Path(file_okay=False))
@_verb
def lmdb(dataset: str, destination: str) -> None:
    """LMDB with safetensors values, as BigEarthNet v2.0's readers expect it, with the metadata tables beside it."""
    from landpatch.catalog.exports.lmdb import export_lmdb
    from landpatch.catalog.store import Dataset
    from landpatch.functions.console import counting, say

    with counting("Exporting to LMDB") as progress:
        result = export_lmdb(Dataset.open(dataset), destination, progress=progress)
    say(f"{result.patches:,} patches, {result.bytes / 1e6:,.1f} MB in {destination}")


@export.command(epilog=_EXAMPLE + "landpatch export folders europe/ BigEarthNet/")
@click.argument("dataset")
@click.argument("destination")
@_verb
def folders(dataset: str, destination: str) -> None:
    """The official folder tree of BigEarthNet v2.0: one file a band, and the metadata tables."""
    from landpatch.catalog.exports.folders import export_folders
    from landpatch.catalog.store import Dataset
    from landpatch.functions.console import counting, say

    with counting("Exporting to folders") as progress:
        count = export_folders(Dataset.open(dataset), destination, progress=progress)
    say(f"{count:,} patches in {destination}")


@main.command(epilog=_EXAMPLE + "landpatch demo --to demo")
@click.option(
    "--to",
    "destination",
    type=click.Path(file_okay=False),
    default="demo",
    show_default=True,
    help="Folder for everything that the demo makes.",
)
@click.option("--workers", type=click.IntRange(1), help="Processes at a time. Default: cores.")
@_verb
def demo(destination: str, workers: int | None) -> None:
    """The whole thing on a small generated world, offline: scenes, patches, catalogue, LMDB, a page to look at."""
    from landpatch.functions.demo.run import run_demo

    run_demo(Path(destination), workers=workers)


def _finish_lmdb(dataset: str, path: str | None) -> None:
    """Bring an LMDB that a build wrote along up to the whole dataset: patches of earlier runs are added."""
    if path is None:
        return
    from landpatch.catalog.exports.lmdb import export_lmdb
    from landpatch.catalog.store import Dataset
    from landpatch.functions.console import counting, say

    with counting("Completing the LMDB") as progress:
        result = export_lmdb(Dataset.open(dataset), path, progress=progress, fused=True)
    say(f"{result.patches:,} patches, {result.bytes / 1e6:,.1f} MB in {path}")


def _tell(result: Any, destination: str, as_json: bool) -> None:
    """Print what a build left behind; raises Incomplete where something is missing."""
    from landpatch.functions.console import out, say

    if as_json:
        out(
            json.dumps(
                {
                    "dataset": destination,
                    "kept": result.kept,
                    "dropped": result.dropped,
                    "changed": result.changed,
                    "blocks": [asdict(entry) for entry in result.entries],
                    "refused": {item: str(error) for item, error in result.refused.items()},
                }
            )
        )
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in result.dropped.items()) or "none"
    say(f"{result.kept:,} patches in {destination}; dropped: {dropped}")
    for item, error in result.refused.items():
        say(f"refused {item}: {error}")
    if len(result.entries) == 1 and result.unfinished:
        entry = result.unfinished[0]
        raise _first_error(entry.error_class, entry.error or f"{entry.scene} is {entry.state}")
    if result.unfinished or result.refused:
        raise Incomplete(
            f"{len(result.unfinished)} block(s) and {len(result.refused)} scene(s) did not succeed; the others are "
            f"complete. `landpatch status {destination}` tells why, `landpatch retry {destination}` tries again"
        )


def _first_error(error_class: str | None, text: str) -> LandpatchError:
    """The error of a build's only block, as its own class again: its exit code says what kind it was."""
    from landpatch.catalog import errors

    kind = getattr(errors, error_class or "", Incomplete)
    return kind(text) if isinstance(kind, type) and issubclass(kind, LandpatchError) else Incomplete(text)
