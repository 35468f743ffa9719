"""Building a dataset from scenes: plan the jobs, have an engine do their blocks, bring the catalogue up to date."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from landpatch.catalog.assignment import COUNTRIES
from landpatch.catalog.compaction import compact
from landpatch.catalog.countries import Countries
from landpatch.catalog.errors import (
    DatasetConflict,
    InvalidItem,
    InvalidParameter,
    LandpatchError,
)
from landpatch.catalog.items import label_item, scene_item_href
from landpatch.catalog.scenes import optical_scene, radar_scene
from landpatch.catalog.store import NotFound, Storage, json_bytes
from landpatch.functions.engines.local import LocalEngine, Task, Watcher
from landpatch.functions.hrefs import is_remote
from landpatch.functions.jobs import Entry, Job, Ledger, Parameters, State, blocks_of
from landpatch.functions.labels import Labels, open_labels
from landpatch.functions.tile import Sources, check_sources, elevation_model

Item = Mapping[str, Any]

_WITHOUT_S1 = (
    "so that every patch would be dropped as NO_S1: give Sentinel-1 items, or keep Sentinel-2 alone (--s2-only)"
)


@dataclass(frozen=True, slots=True)
class ScenePair:
    """One Sentinel-2 item with the Sentinel-1 items beside it, all with absolute hrefs."""

    optical: Item
    radars: tuple[Item, ...] = ()


class Engine(Protocol):
    """Has blocks carried out; ``remote``: on machines that cannot read this one's files."""

    @property
    def remote(self) -> bool:
        """Whether scenes, labels and dataset must have addresses that other machines understand."""

    def run(self, storage: Storage, tasks: Sequence[Task], *, again: frozenset[State], watch: Watcher) -> list[Entry]:
        """Carry out blocks; the entries of those that were worked on."""


@dataclass(slots=True)
class BuildResult:
    """What a build left behind.

    ``entries`` are all blocks of the scenes asked for, as the ledger has them now; ``refused`` the scenes that could
    not even be planned, by item id. ``changed`` is False when a finished build was run again.
    """

    entries: list[Entry] = field(default_factory=list)
    refused: dict[str, LandpatchError] = field(default_factory=dict)
    changed: bool = False

    @property
    def kept(self) -> int:
        """Patches in the dataset from these scenes."""
        return sum(entry.kept for entry in self.entries)

    @property
    def dropped(self) -> dict[str, int]:
        """Patches that were dropped, by reason."""
        total: Counter[str] = Counter()
        for entry in self.entries:
            total.update(entry.dropped)
        return dict(total.most_common())

    @property
    def unfinished(self) -> list[Entry]:
        """Blocks that did not succeed."""
        return [entry for entry in self.entries if entry.state is not State.SUCCEEDED]


def build(
    pairs: Sequence[ScenePair],
    destination: str | Path,
    *,
    labels: str | None,
    parameters: Parameters | None = None,
    collection: str = "landpatch",
    block_rows: int = 91,
    countries: Countries | None = None,
    workers: int | None = None,
    lmdb: str | None = None,
    engine: Engine | None = None,
    watch: Watcher = lambda *_: None,
) -> BuildResult:
    """Cut scenes into patches and catalogue them at ``destination`` (folder, s3://, memory:// is not shared).

    ``labels`` is a prepared label source (None: no reference maps); by ``countries`` patches get their country, these
    and all that come later (None: as the dataset has it). Scenes that are done are not done again; blocks
    that failed are tried again. Every raster is opened and compared with the patch grid before anything is written.
    ``engine`` has the blocks carried out; by default processes of this machine, ``workers`` at a time, which also
    write the kept patches to the LMDB ``lmdb``.

    Raises InvalidParameter, InvalidLabels, DatasetConflict, StorageError; if there is one scene only, what is wrong
    with it. With several scenes a bad one is in ``refused`` and the others are built.
    """
    engine = engine or LocalEngine(workers, lmdb)
    if engine.remote:
        _refuse_local(pairs, str(destination), labels, parameters)
    result = BuildResult()
    storage, jobs = record_jobs(
        pairs,
        destination,
        labels=labels,
        parameters=parameters,
        collection=collection,
        block_rows=block_rows,
        refused=result.refused,
    )
    if countries is not None and jobs:
        storage.put_changed(COUNTRIES, countries.to_geojson())
    return _carry_out(storage, jobs, result, frozenset(), engine, watch)


def record_jobs(
    pairs: Sequence[ScenePair],
    destination: str | Path,
    *,
    labels: str | None,
    parameters: Parameters | None,
    collection: str,
    block_rows: int,
    refused: dict[str, LandpatchError],
) -> tuple[Storage, list[Job]]:
    """Plan the jobs of scenes and record them with the dataset, in the order of ``pairs``.

    Scenes that cannot be planned go to ``refused``, by item id; where there is one scene only, its error is raised.
    Raises as ``build``.
    """
    parameters = parameters or Parameters()
    if parameters.require_s1 and not any(pair.radars for pair in pairs):
        raise InvalidParameter(f"no Sentinel-2 scene comes with a Sentinel-1 scene, {_WITHOUT_S1}")
    source = None if labels is None else open_labels(labels)
    planned: list[tuple[Job, ScenePair]] = []
    for pair in pairs:
        try:
            planned.append((_plan(pair, source, parameters, collection, block_rows), pair))
        except LandpatchError as error:
            if len(pairs) == 1:
                raise
            refused[str(pair.optical.get("id", "?"))] = error
    scenes = Counter(job.scene for job, _ in planned)
    twice = [str(scene) for scene, count in scenes.items() if count > 1]
    if twice:
        raise InvalidParameter(f"the scene {twice[0]} is given more than once")
    storage = Storage.open(destination, create=bool(planned))
    if planned:
        _refuse_mixture(storage, collection, source)
    for job, pair in planned:
        _record(storage, job, pair, source)
    return storage, [job for job, _ in planned]


def rebuild(
    destination: str | Path,
    *,
    states: Iterable[State] = (State.FAILED, State.ABORTED),
    tile: str | None = None,
    workers: int | None = None,
    lmdb: str | None = None,
    engine: Engine | None = None,
    watch: Watcher = lambda *_: None,
) -> BuildResult:
    """Try the blocks of a dataset again that are in one of ``states``, of one ``tile`` or all.

    What to read and how was recorded when the scenes were first built. Blocks of dead workers count as FAILED.
    """
    storage = Storage.open(destination)
    wanted = frozenset(states)
    ledger = Ledger(storage)
    jobs = []
    for job in ledger.jobs():
        if tile is not None and job.scene.tile != tile:
            continue
        found = {ledger.entry(job.scene, block).state for block in job.blocks}
        if found & wanted or (State.FAILED in wanted and found & {State.CLAIMED, State.PROCESSING, State.PENDING}):
            jobs.append(job)
    return _carry_out(storage, jobs, BuildResult(), wanted, engine or LocalEngine(workers, lmdb), watch)


def unfinished_tasks(storage: Storage, jobs: Iterable[Job]) -> list[Task]:
    """The blocks of jobs that have not succeeded."""
    ledger = Ledger(storage)
    return [
        Task(job, block)
        for job in jobs
        for block in job.blocks
        if ledger.entry(job.scene, block).state is not State.SUCCEEDED
    ]


def _carry_out(
    storage: Storage,
    jobs: Sequence[Job],
    result: BuildResult,
    again: frozenset[State],
    engine: Engine,
    watch: Watcher,
) -> BuildResult:
    ledger = Ledger(storage)
    ended = engine.run(storage, unfinished_tasks(storage, jobs), again=again, watch=watch)
    for folder in ("", "scenes"):
        storage.sweep(folder, lambda _: True)
    result.changed = compact(storage) or bool(ended)
    now = {(entry.scene, entry.block): entry for entry in ended}
    result.entries = [
        now.get((str(job.scene), block.name)) or ledger.entry(job.scene, block)
        for job in jobs
        for block in job.blocks
    ]
    return result


def _refuse_local(
    pairs: Sequence[ScenePair], destination: str, labels: str | None, parameters: Parameters | None
) -> None:
    """Found out here, not by a function that looks for a file of somebody's machine."""
    read = [str(asset["href"]) for pair in pairs for item in (pair.optical, *pair.radars) for asset in _files(item)]
    read += [href for href in (labels, None if parameters is None else parameters.dem) if href is not None]
    for href in [destination, *read]:
        if not is_remote(href):
            raise InvalidParameter(
                f"{href} lies on this machine, where the functions in the cloud cannot see it: put it on S3, or "
                "build with --engine local"
            )


def _files(item: Item) -> Iterable[Mapping[str, Any]]:
    assets = item.get("assets")
    return assets.values() if isinstance(assets, Mapping) else ()


def _plan(pair: ScenePair, labels: Labels | None, parameters: Parameters, collection: str, block_rows: int) -> Job:
    """The job of a pair, after everything that can be checked without reading pixels has been."""
    if parameters.require_s1 and not pair.radars:
        raise InvalidItem(f"item {pair.optical.get('id')}: it comes without a Sentinel-1 scene, {_WITHOUT_S1}")
    optical = optical_scene(pair.optical, offset=parameters.boa_offset)
    radars = tuple(
        radar_scene(item, unit=parameters.s1_unit, backscatter=parameters.backscatter) for item in pair.radars
    )
    ids = [optical.item_id, *(radar.item_id for radar in radars)]
    for item_id in ids:
        if any(mark in item_id for mark in ":/\\\0") or item_id in (".", ".."):
            raise InvalidItem(f"item id {item_id!r} cannot be a file name; give the item an id without : and /")
    if len(set(ids)) != len(ids):
        raise InvalidItem(f"item {optical.item_id}: two of its scenes have the same id ({', '.join(ids)})")
    check_sources(Sources(optical, pair.optical, radars, labels, elevation_model(parameters)))
    return Job(
        scene=optical.scene,
        optical=optical.item_id,
        radars=tuple(radar.item_id for radar in radars),
        labels=None if labels is None else labels.href,
        label_item=None if labels is None else labels.name,
        collection=collection,
        parameters=parameters,
        blocks=blocks_of(block_rows),
    )


def _refuse_mixture(storage: Storage, collection: str, labels: Labels | None) -> None:
    """One dataset, one collection, one nomenclature: found out before hours of work, not at compaction."""
    nomenclature = None if labels is None else labels.nomenclature.to_document()
    try:
        there = storage.get_json("collection.json")
    except NotFound:
        return
    if there.get("id") != collection:
        raise DatasetConflict(
            f"{storage.url} holds the collection {there.get('id')!r}, not {collection!r}; use its id or another --to"
        )
    if there.get("landpatch:nomenclature") != nomenclature:
        raise DatasetConflict(
            f"{storage.url} was labelled in another way (its nomenclature: "
            f"{(there.get('landpatch:nomenclature') or {}).get('name', 'none')}); use the same labels or another --to"
        )


def _record(storage: Storage, job: Job, pair: ScenePair, labels: Labels | None) -> None:
    """Write the job and its items, where they are not there already."""
    Ledger(storage).add(job)
    documents: dict[str, Any] = {job.optical: pair.optical}
    documents |= dict(zip(job.radars, pair.radars, strict=True))
    if labels is not None and job.label_item is not None:
        documents[job.label_item] = label_item(
            job.label_item, labels.name, labels.href, labels.bounds, labels.nomenclature
        )
    for item_id, document in documents.items():
        storage.put_changed(scene_item_href(item_id), json_bytes(document))
