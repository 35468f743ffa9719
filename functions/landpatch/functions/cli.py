"""The command ``landpatch``: parses words, calls the library, prints. No logic lives here.

Human text goes to stderr, data to stdout. Exit codes: 0 done; 2 wrong usage or parameters; 3 some blocks did not
succeed, or some tiles have no scene or no pair; 4 a scene or item cannot be used; 5 a file cannot be read; 6 labels;
7 storage; 8 contradicts the dataset; 9 damaged dataset; 10 a catalogue of scenes fails; 11 no scene found;
12 something that the verb needs is not installed; 13 a service of AWS refuses; 14 an audit found errors;
20 sen2cor is not there; 21 it failed; 22 it took too long; 130 interrupted (run the same command again to go on).
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from landpatch.catalog.errors import Incomplete, InvalidParameter, LandpatchError

if TYPE_CHECKING:
    from landpatch.catalog.areas import Area
    from landpatch.catalog.choice import Preference
    from landpatch.catalog.splits import By
    from landpatch.functions.jobs import Entry

_Number = TypeVar("_Number", int, float)
_EXAMPLE = "\b\nExample:\n  "
_SHOWN = 10  # problems on the screen; more would hide the first


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
                "--offset",
                "boa_offset",
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
                "--dem",
                metavar="SRC",
                help="Elevation model for Sentinel-1 GRD: a GeoTIFF, a folder of them, a STAC item or collection.",
            ),
            click.option(
                "--dem-heights",
                type=click.Choice(["geoid", "ellipsoid"]),
                default="geoid",
                show_default=True,
                help="What the heights of --dem are above; Copernicus, SRTM: the geoid.",
            ),
            click.option("--dem-sea", is_flag=True, help="Where --dem has no file there is sea (Copernicus GLO-30)."),
            click.option(
                "--backscatter",
                type=click.Choice(["sigma0", "gamma0-terrain"]),
                default="sigma0",
                show_default=True,
                help="What Sentinel-1 GRD becomes; BigEarthNet's is sigma0, gamma0-terrain is freed of slopes (RTC).",
            ),
            click.option(
                "--compression",
                type=click.Choice(["deflate", "zstd"]),
                default="deflate",
                show_default=True,
                help="Of the patch files; zstd reads faster, but not everywhere.",
            ),
            click.option(
                "--countries",
                metavar="FILE",
                help="Name the country of each patch by these boundaries; natural-earth, or as `landpatch country`.",
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


def _cloud_options(function: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(
        [
            click.option(
                "--engine",
                type=click.Choice(["local", "aws"]),
                default="local",
                show_default=True,
                help="Who does the work: processes of this machine, or functions in your AWS account (docs/aws.md).",
            ),
            click.option(
                "--state-machine",
                metavar="ARN",
                envvar="LANDPATCH_STATE_MACHINE",
                help="Of the deployed stack, for --engine aws. Default: $LANDPATCH_STATE_MACHINE.",
            ),
            click.option("--follow", is_flag=True, help="With --engine aws: start nothing, watch what runs."),
        ]
    ):
        function = option(function)
    return function


@contextmanager
def _engine(name: str, state_machine: str | None, follow: bool, **local: Any) -> Iterator[dict[str, Any]]:
    """Where blocks are done and how that is shown, as arguments of ``build`` and ``rebuild``."""
    from landpatch.functions.console import BuildDisplay, counting, say

    if name == "local":
        if follow:
            raise click.UsageError("--follow watches functions: it goes with --engine aws")
        with BuildDisplay() as display:
            yield {**local, "watch": display}
        return
    from landpatch.functions.engines.aws import CloudEngine, StateMachine

    if any(local.values()):
        raise click.UsageError("--workers and --lmdb are of --engine local")
    machine = StateMachine.open(state_machine)
    try:
        with counting("Blocks") as count:
            yield {"engine": CloudEngine(machine, follow, count), "watch": BuildDisplay()}
    except KeyboardInterrupt:
        say("landpatch: the functions go on without this terminal; the same command with --follow watches them again")
        sys.exit(130)


@main.command(
    epilog=_EXAMPLE
    + "landpatch discover --source earth-search --tiles 33UUP,33UVP --from 2017-06-01 --to 2017-06-30 -o scenes.json"
)
@click.option("--source", required=True, metavar="NAME", help="Catalogue by name or URL, or a file; see the docs.")
@click.option("--tiles", metavar="TILE,...", help="MGRS tiles, e.g. 33UUP,33UVP.")
@click.option("--bbox", metavar="W,S,E,N", help="Degrees; all tiles that it touches.")
@click.option("--area", metavar="FILE", help="GeoJSON, GeoPackage, ...; all tiles that it touches.")
@click.option("--from", "start", type=click.DateTime(["%Y-%m-%d"]), required=True, help="First day (UTC).")
@click.option("--to", "end", type=click.DateTime(["%Y-%m-%d"]), required=True, help="Last day (UTC), included.")
@click.option(
    "--season",
    type=click.Choice(["winter", "spring", "summer", "autumn"]),
    help="Meteorological, of the hemisphere of the tiles: summer is June to August in the north.",
)
@click.option("--months", metavar="M,...", help="Only these months, e.g. 6,7,8.")
@click.option("--max-cloud", type=click.FloatRange(0, 100), default=20, show_default=True, help="Percent of a scene.")
@click.option("--max-nodata", type=click.FloatRange(0, 100), help="Percent of the tile without data.")
@click.option("--min-sun", type=float, help="Sun elevation in degrees.")
@click.option("--min-baseline", type=float, metavar="N", help="Processing baseline, e.g. 5.0.")
@click.option("--max-baseline", type=float, metavar="N", help="Processing baseline, e.g. 5.11.")
@click.option(
    "--per-period",
    type=click.Choice(["range", "year", "season", "month"]),
    default="range",
    show_default=True,
    help="Take the best scenes of each.",
)
@click.option("--best", type=click.IntRange(1), default=1, show_default=True, help="Scenes a tile and period.")
@click.option("--target-date", metavar="DATE", help="Prefer dates near 2017-06-13, or 06-13 of each year.")
@click.option("--s1-source", metavar="NAME", help="Catalogue of Sentinel-1. Default: --source.")
@click.option("--no-s1", is_flag=True, help="Sentinel-2 alone.")
@click.option("--max-gap-hours", type=click.FloatRange(0), default=138, show_default=True, help="Between S1 and S2.")
@click.option("--orbit", type=click.Choice(["ascending", "descending"]), help="Orbit direction of Sentinel-1.")
@click.option("--relative-orbit", type=click.IntRange(1, 175), help="Relative orbit of Sentinel-1.")
@click.option("--explain", is_flag=True, help="Print rejected scenes too, and why.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line a scene on stdout.")
@click.option("-o", "--output", required=True, metavar="FILE", help="Scene list to write: a path or s3:// href.")
@_verb
def discover(
    source: str,
    tiles: str | None,
    bbox: str | None,
    area: str | None,
    start: datetime,
    end: datetime,
    season: str | None,
    months: str | None,
    s1_source: str | None,
    no_s1: bool,
    max_gap_hours: float,
    orbit: Literal["ascending", "descending"] | None,
    relative_orbit: int | None,
    explain: bool,
    as_json: bool,
    output: str,
    **wanted: Any,
) -> None:
    """Find scenes, choose the best of each tile and period, pair Sentinel-1 with Sentinel-2.

    Writes a scene list that `landpatch build` takes, and prints what was chosen with score, cloud, coverage,
    baseline, and gap and coverage of Sentinel-1. Ends with 11 where nothing was chosen (no list is written), with 3
    where a tile has no scene in a period or a scene no Sentinel-1 scene (the list holds the others).
    """
    from landpatch.catalog.discovery import discover as find
    from landpatch.catalog.discovery import season_months
    from landpatch.catalog.pairing import PairingLimits
    from landpatch.catalog.scene_list import write_scene_list
    from landpatch.catalog.stac_sources import OpticalQuery, SceneSource
    from landpatch.functions.console import counting, out, say

    where = _area(tiles, bbox, area)
    if season and months:
        raise click.UsageError("say either --season or --months")
    if no_s1 and s1_source:
        raise click.UsageError("--no-s1 and --s1-source contradict each other")
    chosen_months = season_months(season, where.tiles) if season else _months(months)
    optical = SceneSource.open(source)
    with counting("Searching tiles") as progress:
        found = find(
            optical,
            OpticalQuery(where, start.replace(tzinfo=UTC), _end_of_day(end), months=chosen_months),
            radar_source=None if no_s1 else SceneSource.open(s1_source) if s1_source else optical,
            preference=_preference(**wanted),
            limits=PairingLimits(max_gap_hours, orbit, relative_orbit),
            progress=progress,
        )
    for line in map(json.dumps, found.rows(rejected=explain)) if as_json else found.table(rejected=explain):
        out(line)
    for line in found.shortfalls():
        say(line)
    if found.pairings:
        write_scene_list(output, found.document())
        say(f"{len(found.pairings)} Sentinel-2 scene(s){'' if no_s1 else ' and their Sentinel-1 scenes'} in {output}")
    error = found.error()
    if error is not None:
        raise error


def _area(tiles: str | None, bbox: str | None, file: str | None) -> "Area":
    from landpatch.catalog.areas import Area

    if sum(given is not None for given in (tiles, bbox, file)) != 1:
        raise click.UsageError("say where with --tiles, --bbox or --area; one of the three")
    if tiles is not None:
        return Area.from_tiles(tile for tile in tiles.split(",") if tile.strip())
    if bbox is not None:
        return Area.from_bbox(_numbers(bbox, "--bbox", float))
    return Area.from_file(str(file))


def _months(text: str | None) -> frozenset[int]:
    found = frozenset() if text is None else frozenset(_numbers(text, "--months", int))
    if not found <= set(range(1, 13)):
        raise click.UsageError(f"--months {text}: months are 1 to 12")
    return found


def _numbers(text: str, option: str, kind: type[_Number]) -> list[_Number]:
    try:
        return [kind(number) for number in text.split(",")]
    except ValueError as error:
        raise click.UsageError(f"{option} {text}: expected numbers with commas between") from error


def _end_of_day(day: datetime) -> datetime:
    return day.replace(tzinfo=UTC) + timedelta(days=1, microseconds=-1)


def _preference(
    max_cloud: float,
    max_nodata: float | None,
    min_sun: float | None,
    min_baseline: float | None,
    max_baseline: float | None,
    per_period: str,
    best: int,
    target_date: str | None,
) -> "Preference":
    from landpatch.catalog.choice import Per, Preference, TargetDate

    return Preference(
        max_cloud=max_cloud / 100,
        max_nodata=None if max_nodata is None else max_nodata / 100,
        min_sun=min_sun,
        min_baseline=min_baseline,
        max_baseline=max_baseline,
        per=Per(per_period),
        best=best,
        target=None if target_date is None else TargetDate.parse(target_date),
    )


@main.command(
    epilog=_EXAMPLE
    + "landpatch build scenes.json --labels clc2018.parquet --to europe/\n  "
    + "landpatch build S2.json --s1 S1.json --labels clc2018.parquet --to europe/"
)
@click.argument("scenes", nargs=-1, required=True, metavar="SCENES...")
@click.option("--s1", "radars", multiple=True, metavar="S1_ITEM", help="Sentinel-1 item; may be given several times.")
@click.option(
    "--labels", metavar="SRC", help="Label source: prepared, or a CORINE file, which is prepared into DEST/labels."
)
@click.option("--no-labels", is_flag=True, help="Build without reference maps and labels.")
@click.option("--to", "destination", required=True, metavar="DEST", help="Folder or s3://bucket/prefix.")
@_build_options
@_engine_options
@_cloud_options
@click.option("--estimate", is_flag=True, help="Say what it will cost in the cloud, and build nothing.")
@click.option(
    "--region", metavar="NAME", default="eu-central-1", show_default=True, help="Whose prices, to --estimate."
)
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
    dem: str | None,
    countries: str | None,
    engine: str,
    state_machine: str | None,
    follow: bool,
    estimate: bool,
    region: str,
    as_json: bool,
    **parameters: Any,
) -> None:
    """Cut scenes into patches and catalogue them.

    SCENES is a scene list (the scenes.json that `landpatch discover` writes), or the STAC item of a Sentinel-2 scene
    (a file, http(s):// or s3://), or a SAFE folder or zip. All Sentinel-1 items given with --s1, or SAFE folders of
    GRD products, belong to all S2 items given. What is done is not done again.
    """
    from landpatch.catalog.countries import Countries
    from landpatch.functions.building import ScenePair
    from landpatch.functions.building import build as build_dataset
    from landpatch.functions.hrefs import absolute
    from landpatch.functions.jobs import Parameters
    from landpatch.functions.sources import prepared_labels, read_pairs

    if (labels is None) == (not no_labels):
        raise click.UsageError("say where labels come from with --labels SRC, or --no-labels; one of the two")
    pairs = [ScenePair(*pair) for pair in read_pairs(scenes, radars)]
    if estimate:
        _estimate(len(pairs), block_rows, destination, region, as_json)
        return
    source = None if labels is None else prepared_labels(labels, destination)
    boundaries = None if countries is None else Countries.read(countries)
    with _engine(engine, state_machine, follow, workers=workers, lmdb=lmdb) as work:
        result = build_dataset(
            pairs,
            destination,
            labels=source,
            parameters=Parameters(require_s1=not s2_only, dem=None if dem is None else absolute(dem), **parameters),
            collection=collection,
            block_rows=block_rows,
            countries=boundaries,
            **work,
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
@_cloud_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
@_verb
def retry(
    dataset: str,
    states: tuple[str, ...],
    tile: str | None,
    workers: int | None,
    lmdb: str | None,
    engine: str,
    state_machine: str | None,
    follow: bool,
    as_json: bool,
) -> None:
    """Try blocks again that did not succeed, with the inputs and parameters recorded for them."""
    from landpatch.catalog.names import parse_tile
    from landpatch.functions.building import rebuild
    from landpatch.functions.console import say
    from landpatch.functions.jobs import State

    chosen = [State(state) for state in states] or [State.FAILED, State.ABORTED]
    only = None if tile is None else parse_tile(tile)
    with _engine(engine, state_machine, follow, workers=workers, lmdb=lmdb) as work:
        result = rebuild(dataset, states=chosen, tile=only, **work)
    _finish_lmdb(dataset, lmdb)
    if not result.entries and not as_json:
        say(f"{dataset}: no block{f' of tile {only}' if only else ''} is {' or '.join(chosen)}: nothing to try again")
        return
    _tell(result, dataset, as_json)


@main.command(epilog=_EXAMPLE + "landpatch status europe/\n  landpatch status s3://bucket/europe --cost")
@click.argument("dataset")
@click.option("--log", "with_log", is_flag=True, help="With the log lines of blocks that did not succeed.")
@click.option("--cost", "with_cost", is_flag=True, help="What the blocks have cost so far, by tile.")
@click.option("--region", metavar="NAME", default="eu-central-1", show_default=True, help="Whose prices, to --cost.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line a block (--cost: a tile) on stdout.")
@_verb
def status(dataset: str, with_log: bool, with_cost: bool, region: str, as_json: bool) -> None:
    """What is done, dropped, failed and why. A block whose worker is lost is shown as FAILED."""
    from landpatch.catalog.store import COLLECTION, Storage
    from landpatch.functions.block_logs import log_lines
    from landpatch.functions.console import out
    from landpatch.functions.jobs import Ledger, State

    storage = Storage.open(dataset)
    ledger = Ledger(storage)
    entries = [ledger.current(job.scene, block) for job in ledger.jobs() for block in job.blocks]
    if with_cost:
        _show_costs(entries, region, as_json)
        return
    logs = {
        (entry.scene, entry.block): list(log_lines(entry))
        for entry in entries
        if with_log and entry.state in (State.FAILED, State.INVALID, State.ABORTED)
    }
    if as_json:
        for entry in entries:
            lines = logs.get((entry.scene, entry.block))
            out(json.dumps(asdict(entry) | ({} if lines is None else {"log_lines": lines})))
        return
    if not entries and storage.exists(COLLECTION):  # nothing was built here: an import or a download
        document = storage.get_json(COLLECTION)
        dropped = (
            ", ".join(f"{reason} {count:,}" for reason, count in document["landpatch:dropped"].items()) or "none"
        )
        out(f"{document['landpatch:patches']:,} patches, imported or downloaded; dropped: {dropped}")
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
    reasons: Counter[str] = Counter()
    for entry in entries:
        reasons.update(entry.dropped)
    out(
        f"{sum(entry.kept for entry in entries):,} patches; dropped: "
        + (", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common()) or "none")
        + "; blocks: "
        + (", ".join(f"{state} {count}" for state, count in sorted(states.items())) or "none")
    )
    for (scene, block), lines in logs.items():
        out(f"\n{scene} {block}:")
        for line in lines:
            out(f"  {line}")


def _show_costs(entries: list["Entry"], region: str, as_json: bool) -> None:
    from landpatch.functions.console import out
    from landpatch.functions.costs import cost, measured
    from landpatch.functions.jobs import Usage

    found = measured(entries, region)
    total = cost(sum((one.usage for one in found.values()), Usage()), sum(c.patches for c in found.values()), region)
    if as_json:
        for tile, one in found.items():
            out(
                json.dumps(
                    {"tile": tile, "region": region, **asdict(one), "total": one.total, "a_patch": one.a_patch}
                )
            )
        return
    heads = f"{'tile':6} {'patches':>8} {'attempts':>8} {'GB-s':>10} {'writes':>9} {'reads':>9} {'lists':>7}"
    out(f"{heads}  USD (a 1,000 patches)")
    for tile, one in [*found.items(), ("all", total)]:
        asked = one.usage.traffic
        each = "-" if one.a_patch is None else f"{1000 * one.a_patch:.4f}"
        out(
            f"{tile:6} {one.patches:8,} {one.usage.attempts:8,} {one.usage.gb_seconds:10,.1f} {asked.writes:9,} "
            f"{asked.reads:9,} {asked.lists:7,}  {one.total:.4f} ({each})"
        )
    out(
        f"compute {total.compute:.4f}, requests {total.requests:.4f} USD; storage of what was written "
        f"{total.storage:.4f} USD a month; list prices of {region}"
    )


def _estimate(scenes: int, block_rows: int, destination: str, region: str, as_json: bool) -> None:
    from landpatch.catalog.errors import StorageError
    from landpatch.catalog.store import Storage
    from landpatch.functions.console import out, say
    from landpatch.functions.costs import estimate
    from landpatch.functions.jobs import Ledger, blocks_of

    try:
        done = list(Ledger(Storage.open(destination)).entries())
    except StorageError:  # nothing there yet
        done = []
    blocks = blocks_of(block_rows)
    found = estimate(scenes * sum(len(block.rows) for block in blocks), scenes * len(blocks), done, region)
    expected = found.cost
    if as_json:
        out(json.dumps({**asdict(expected), "total": expected.total, "assumptions": found.assumptions}))
        return
    out(
        f"{scenes} scene(s), {scenes * len(blocks)} block(s), up to {expected.patches:,} patches: about "
        f"{expected.total:.2f} USD ({expected.compute:.2f} compute, {expected.requests:.2f} requests), and "
        f"{expected.storage:.2f} USD a month for {expected.usage.traffic.bytes_written / 1e9:,.1f} GB"
    )
    for assumption in found.assumptions:
        say(f"assumed: {assumption}")


@main.command(
    epilog=_EXAMPLE
    + "landpatch split europe/ --by blocks --block-size 12000 --buffer 1200 --dry-run\n  "
    + "landpatch split europe/ --by country --assign test=Finland,Lithuania --assign train=Austria,Belgium"
)
@click.argument("dataset")
@click.option(
    "--by",
    required=True,
    type=click.Choice(["position", "blocks", "tile", "country", "polygons"]),
    help="What decides: position in the tile (BigEarthNet v2.0), blocks of ground, tile, country, your polygons.",
)
@click.option("--shares", default="2,1,1", show_default=True, metavar="N,N,N", help="Of train, validation, test.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another one, another draw of the same shares.")
@click.option(
    "--block-size", type=click.IntRange(1200), default=12_000, show_default=True, help="Metres, side of a block."
)
@click.option(
    "--assign",
    multiple=True,
    metavar="SPLIT=NAME,...",
    help="Give tiles or countries to a split instead of drawing them; those not named are left out.",
)
@click.option(
    "--polygons", metavar="FILE", help="GeoJSON, GeoPackage, ...; a patch is in the one that has its centre."
)
@click.option("--column", default="split", show_default=True, help="Of --polygons, with train, validation or test.")
@click.option("--layer", help="Of --polygons, where there are several.")
@click.option(
    "--buffer",
    metavar="M|Np",
    help="Leave out patches nearer to another split: metres, or patches as 4p. 0: those that share ground with it. "
    "Default: 0; by position: none are left out.",
)
@click.option("--one-per-ground", is_flag=True, help="Of ground that several tiles have, keep the patches of one.")
@click.option("--dry-run", is_flag=True, help="Print what would be, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON on stdout.")
@_verb
def split(
    dataset: str,
    by: "By",
    shares: str,
    seed: int,
    block_size: int,
    assign: tuple[str, ...],
    polygons: str | None,
    column: str,
    layer: str | None,
    buffer: str | None,
    one_per_ground: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Split a dataset's patches anew, without touching their pixels.

    The rule becomes the dataset's own: what is built into it later follows it. Patches that are left out stay in the
    dataset and its tables, in no split. Prints how many patches of each label are in each split.
    """
    from landpatch.catalog.areas import read_polygons
    from landpatch.catalog.assignment import split_areas
    from landpatch.catalog.resplit import preview, resplit
    from landpatch.catalog.splits import SplitRule, given_names
    from landpatch.catalog.store import Storage
    from landpatch.functions.console import counting, out, say

    rule = SplitRule(
        by=by,
        shares=tuple(_numbers(shares, "--shares", float)),
        seed=seed,
        block=block_size,
        given=given_names(assign),
        areas=None if polygons is None else split_areas(*read_polygons(polygons, column, layer=layer)),
        buffer=_metres(buffer) if buffer is not None else None if by == "position" else 0.0,
        one_per_ground=one_per_ground,
    )
    storage = Storage.open(dataset)
    with counting("Splitting scenes") as progress:
        if dry_run:
            counts, changed = preview(storage, rule, progress=progress), False
        else:
            counts, changed = resplit(storage, rule, progress=progress)
    if as_json:
        out(json.dumps({"dataset": dataset, "changed": changed, **asdict(counts)}))
    else:
        for line in counts.table():
            out(line)
    left_out = ", ".join(f"{reason} {count:,}" for reason, count in counts.left_out.items()) or "none"
    done = "not written (--dry-run)" if dry_run else "written" if changed else "there already"
    say(f"{sum(counts.patches.values()):,} patches split by {by}; left out: {left_out}; {done}")


def _metres(text: str) -> float:
    """A distance as metres: ``1200``, or in patches, ``1p``."""
    patches = text.endswith("p")
    return _numbers(text.removesuffix("p"), "--buffer", float)[0] * (1200 if patches else 1)


@main.command(epilog=_EXAMPLE + "landpatch country europe/ --boundaries countries.gpkg --column NAME_ENGL")
@click.argument("dataset")
@click.option(
    "--boundaries",
    default="natural-earth",
    show_default=True,
    metavar="FILE",
    help="GeoJSON, GeoPackage, ...; natural-earth: its countries at 1:110 m, which come with landpatch.",
)
@click.option("--column", default="name", show_default=True, help="Of --boundaries, with the country's name.")
@click.option("--layer", help="Of --boundaries, where there are several.")
@click.option("--only", multiple=True, metavar="NAME,...", help="Only these countries of --boundaries.")
@_verb
def country(dataset: str, boundaries: str, column: str, layer: str | None, only: tuple[str, ...]) -> None:
    """Name the country of each patch of a dataset: the nearest, by planar distance in the patch's UTM zone.

    The boundaries become the dataset's own: what is built into it later gets its country too.
    """
    from landpatch.catalog.countries import Countries
    from landpatch.catalog.resplit import name_countries
    from landpatch.catalog.store import Storage
    from landpatch.functions.console import counting, say

    countries = Countries.read(boundaries, column=column, layer=layer, only=_listed(only))
    with counting("Naming countries of scenes") as progress:
        changed = name_countries(Storage.open(dataset), countries, progress=progress)
    say(f"country of each patch in {dataset}: {'written' if changed else 'there already'}")


@main.command(epilog=_EXAMPLE + "landpatch l2a S2A_MSIL1C_20170613T101031_N0500_R022_T33UUP.SAFE --to l2a/")
@click.argument("sources", nargs=-1, required=True, metavar="L1C.SAFE...")
@click.option("--to", "destination", type=click.Path(file_okay=False), help="Folder. Default: beside each product.")
@click.option(
    "--sen2cor", "program", metavar="PATH", help="L2A_Process. Default: $LANDPATCH_L2A_PROCESS, PATH, home."
)
@click.option("--resolution", type=click.Choice(["10"]), help="Passed on to sen2cor. Default: all that it makes.")
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), default=7200, show_default=True, help="Seconds a product."
)
@click.option("--json", "as_json", is_flag=True, help="Print each product's STAC item as a JSON line on stdout.")
@_verb
def l2a(
    sources: tuple[str, ...],
    destination: str | None,
    program: str | None,
    resolution: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Make L2A products of L1C SAFE folders or zips, with your own sen2cor.

    Prints the path of each product's STAC item, which `landpatch build` takes. What is done is not done again; the
    L1C products are not changed.
    """
    from landpatch.functions.console import counting, out, say
    from landpatch.functions.l2a import correct_all

    result = correct_all(
        sources,
        destination,
        program=program,
        resolution=None if resolution is None else int(resolution),
        timeout=timeout,
        watch=counting,
    )
    for product in result.products:
        if product.warning:
            say(f"warning: {product.warning}")
        say(f"{product.folder}: {'made' if product.changed else 'there already'}; log: {product.log}")
        out(json.dumps(product.item) if as_json else str(product.item_path))
    if len(sources) == 1:
        for error in result.refused.values():
            raise error
    for source, error in result.refused.items():
        say(f"refused {source}: {error}")
    if result.refused:
        raise Incomplete(f"{len(result.refused)} of {len(sources)} products did not succeed; the others are complete")


@main.command(
    epilog=_EXAMPLE
    + "landpatch download https://stac.example.org --split train --label 'Inland wetlands' --max 500 -o peat/\n  "
    + 'landpatch download s3://bucket/europe --filter "eo:cloud_cover < 1" --layout lmdb -o clear.lmdb'
)
@click.argument("url")
@click.option("-o", "--output", "destination", required=True, metavar="DEST", help="Local folder.")
@click.option("--bbox", metavar="W,S,E,N", help="Degrees; what touches the box.")
@click.option("--datetime", "when", metavar="WHEN", help="2017-06, 2017-06-01/2017-06-30, 2017/.., ...")
@click.option("--filter", "condition", metavar="CQL2", help="Condition in CQL2, text or JSON.")
@click.option("--collections", multiple=True, metavar="ID,...", help="Collections; may be given several times.")
@click.option("--ids", multiple=True, metavar="ID,...", help="Items; may be given several times. @FILE: one a line.")
@click.option("--split", help="Patches of this split: train, validation or test.")
@click.option("--label", "labels", multiple=True, help="Patches with this label; several: with all of them.")
@click.option("--country", help="Patches in this country.")
@click.option("--max", "maximum", type=click.IntRange(1), help="At most so many items, in the catalogue's order.")
@click.option(
    "--assets", multiple=True, metavar="KEY,...", help="Files wanted, by asset key. Default: a patch's five."
)
@click.option(
    "--layout",
    type=click.Choice(["dataset", "folders", "lmdb"]),
    default="dataset",
    show_default=True,
    help="landpatch's own layout, the official folder tree, or an LMDB.",
)
@click.option(
    "--connections", type=click.IntRange(1, 64), default=8, show_default=True, help="To one host, at a time."
)
@click.option(
    "--max-bytes", type=click.IntRange(1), default=4 * 2**30, show_default="4 GiB", help="Of the largest file taken."
)
@click.option("--trust", multiple=True, metavar="HOST", help="Let hrefs lead to this host although it is private.")
@click.option("--verify", is_flag=True, help="Read every file that is there again, not only those that changed.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
@_verb
def download(
    url: str,
    destination: str,
    when: str | None,
    condition: str | None,
    collections: tuple[str, ...],
    ids: tuple[str, ...],
    assets: tuple[str, ...],
    connections: int,
    max_bytes: int,
    as_json: bool,
    layout: Literal["dataset", "folders", "lmdb"],
    trust: tuple[str, ...],
    verify: bool,
    **words: Any,
) -> None:
    """Take a part of a catalogue home, as a dataset of its own.

    URL is a STAC API, or a dataset in a folder, on S3 or on a web server. The choice is made by the first run; the
    same command again fetches what is missing or broken, and nothing else.
    """
    from landpatch.catalog.selection import Question
    from landpatch.catalog.subset import download as fetch
    from landpatch.catalog.transfer import Manners
    from landpatch.functions.console import out, say, transferring

    question = Question.of(
        datetime=when, filter=condition, collections=_listed(collections), ids=_listed(ids), **words
    )
    with transferring("Downloading") as show:
        outcome = fetch(
            url,
            destination,
            question,
            layout=layout,
            assets=_listed(assets),
            manners=Manners(per_host=connections, largest=max_bytes),
            trust=trust,
            verify=verify,
            progress=lambda news: show(news.done, news.total, news.bytes),
        )
    if as_json:
        out(json.dumps({"destination": destination, **asdict(outcome)}))
    say(f"{outcome.items:,} items in {destination}; {outcome.fetched:,} files fetched, {outcome.bytes / 1e6:,.1f} MB")
    for reason in [*outcome.refused.values(), *outcome.problems.values()][:_SHOWN]:
        say(f"not taken: {reason}")
    outcome.check()


def _listed(words: tuple[str, ...]) -> list[str]:
    """Values of an option that takes several at once, or a file of them."""
    values: list[str] = []
    for word in words:
        if word.startswith("@"):
            try:
                values += Path(word[1:]).read_text("utf-8").split()
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidParameter(f"{word[1:]} cannot be read: {error}") from error
        else:
            values += [value.strip() for value in word.split(",") if value.strip()]
    return values


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


@main.command(
    epilog=_EXAMPLE
    + "landpatch audit europe/ --sample 1000 --html audit.html\n  "
    + "landpatch audit metadata.parquet --split-rule bigearthnet-v1 --json"
)
@click.argument("sources", nargs=-1, required=True, metavar="SRC...")
@click.option("--within", type=float, multiple=True, metavar="METRES", help="Also count neighbours so near.")
@click.option(
    "--split-rule",
    type=click.Choice(["recorded", "bigearthnet-v2", "bigearthnet-v1"]),
    default="recorded",
    show_default=True,
    help="Measure the splits that are recorded, or those that another rule would give.",
)
@click.option("--pixels/--no-pixels", default=True, help="Read the patch files: checksums, headers, pixels.")
@click.option("--sample", type=click.IntRange(1), metavar="N", help="Read those of N patches only, always the same.")
@click.option("--anew", is_flag=True, help="Read again what an interrupted audit had read already.")
@click.option("--html", "page", type=click.Path(dir_okay=False), help="Also write a page with maps and plots.")
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning", "never"]),
    default="error",
    show_default=True,
    help="From which finding on the exit code is 14.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
@_verb
def audit(
    sources: tuple[str, ...],
    within: tuple[float, ...],
    split_rule: str,
    pixels: bool,
    sample: int | None,
    anew: bool,
    page: str | None,
    fail_on: str,
    as_json: bool,
) -> None:
    """Is a dataset what it says, and what are its splits worth?

    SRC is a dataset (a folder or s3://bucket/prefix), or metadata tables: BigEarthNet's, items.parquet, or any
    Parquet or CSV with columns patch_id (or id) and split. Files are compared with their items; of the splits it
    measures how many patches touch, overlap or lie near those of another.
    """
    from landpatch.catalog.auditing.auditor import audit as examine
    from landpatch.catalog.auditing.findings import Severity
    from landpatch.catalog.auditing.page import write_page
    from landpatch.catalog.auditing.wording import lines
    from landpatch.functions.console import out, say, stages

    with stages() as progress:
        result = examine(
            *sources,
            split_rule=split_rule,
            within=within,
            pixels=pixels,
            sample=sample,
            anew=anew,
            progress=progress,
        )
    if page is not None:
        say(f"page: {write_page(result, Path(page))}")
    if as_json:
        out(json.dumps(result.document()))
    else:
        for line in lines(result):
            out(line)
    if fail_on != "never":
        result.check(Severity(fail_on))


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


@main.group("import")
def import_() -> None:
    """Make a dataset of a published one."""


@import_.command(
    epilog=_EXAMPLE
    + "landpatch import bigearthnet BigEarthNet/ --to bigearthnet-v2/\n  "
    + "landpatch import bigearthnet BigEarthNet/ --tables-only --assets-at https://host/BigEarthNet --to catalogue/"
)
@click.argument("source", type=click.Path(exists=True))
@click.option("--to", "destination", required=True, metavar="DEST", help="Folder or s3://bucket/prefix.")
@click.option("--tables-only", is_flag=True, help="Catalogue the tables; leave the files beside them alone.")
@click.option(
    "--assets-at",
    metavar="URL",
    help="Items lead to official files below it: URL/BigEarthNet-S2/<scene>/<patch>/<patch>_B02.tif ...",
)
@click.option("--collection", metavar="ID", help="Id of the STAC collection. Default: bigearthnet-v2.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
@_verb
def bigearthnet(source: str, destination: str, as_json: bool, **options: Any) -> None:
    """The published BigEarthNet v2.0 as a dataset that can be searched and taken in parts.

    SOURCE is a folder with its metadata tables (or one of them), and beside them the folders BigEarthNet-S1,
    BigEarthNet-S2 and Reference_Maps, or the .tar.zst archives of these names, which are read as a stream. With the
    tables alone, items have no files. What is done is not done again.
    """
    from landpatch.catalog.official import import_bigearthnet
    from landpatch.functions.console import counting, out, say

    result = import_bigearthnet(source, destination, show=counting, **options)
    if as_json:
        out(json.dumps({"dataset": destination, **asdict(result)}))
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in result.dropped.items()) or "none"
    say(f"{result.patches:,} patches in {destination}; dropped: {dropped}")
    if result.ignored:
        say(f"{result.ignored:,} file(s) in the archives belong to no patch of the tables")
    for problem in result.problems[:_SHOWN]:
        say(f"dropped: {problem}")
    result.check()


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


@export.command(
    epilog=_EXAMPLE
    + "landpatch export static europe/ europe/stac\n  "
    + "landpatch export static s3://bucket/europe stac/ --assets-at https://example.org/europe"
)
@click.argument("dataset")
@click.argument("destination")
@click.option("--assets-at", metavar="URL", help="Where the dataset can be read, for absolute hrefs of its files.")
@_verb
def static(dataset: str, destination: str, assets_at: str | None) -> None:
    """A static STAC catalogue: collection, tiles, items as plain JSON with relative links, for those without an API.

    Inside the dataset's folder (or prefix) the hrefs of patch files are relative, elsewhere absolute.
    """
    from landpatch.catalog.exports.static import export_static
    from landpatch.catalog.store import Dataset
    from landpatch.functions.console import counting, say

    with counting("Writing items") as progress:
        written = export_static(Dataset.open(dataset), destination, assets_at=assets_at, progress=progress)
    say(
        f"{written.items:,} items in {written.documents:,} documents in {destination}; "
        f"{written.changed:,} were written"
    )


@export.command(epilog=_EXAMPLE + "landpatch export ndjson europe/ for-pgstac/")
@click.argument("dataset")
@click.argument("destination", type=click.Path(file_okay=False))
@click.option("--files-at", metavar="URL", help="Where others find the dataset's files. Default: its own address.")
@_verb
def ndjson(dataset: str, destination: str, files_at: str | None) -> None:
    """The catalogue as JSON, an item a line, with absolute hrefs: what pgstac loads (docs/scaling.md)."""
    from landpatch.catalog.exports.ndjson import export_ndjson
    from landpatch.catalog.store import Dataset
    from landpatch.functions.console import counting, say

    with counting("Exporting items") as progress:
        count = export_ndjson(Dataset.open(dataset), destination, files_at=files_at, progress=progress)
    say(f"{count:,} items in {destination}")


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
