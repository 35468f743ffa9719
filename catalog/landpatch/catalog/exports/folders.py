"""The dataset as the official folder tree of BigEarthNet v2.0: one file a band, and the two metadata tables.

    BigEarthNet-S1/<s1 scene>/<s1_name>/<s1_name>_{VV,VH}.tif
    BigEarthNet-S2/<s2 scene>/<patch_id>/<patch_id>_{B01,...,B12}.tif
    Reference_Maps/<s2 scene>/<patch_id>/<patch_id>_reference_map.tif
    metadata.parquet, metadata_for_patches_with_snow_cloud_or_shadow.parquet

This is what TorchGeo's ``BigEarthNetV2`` and rico-hdl read. Half a million patches are eight million files: LMDB is
the better form of anything large.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from landpatch.catalog.bands import PATCH_ASSETS, S1, PatchAsset, band_files
from landpatch.catalog.cogs import CogEncoder
from landpatch.catalog.errors import DatasetConflict, InvalidDataset
from landpatch.catalog.exports.sources import (
    DamagedFile,
    PatchFile,
    asset_columns,
    asset_field,
    damage_report,
    fingerprints,
)
from landpatch.catalog.items import about_of
from landpatch.catalog.names import PatchId, RadarPatchName
from landpatch.catalog.official_layout import MARKER, TREES, official_stem
from landpatch.catalog.store import ITEMS, METADATA, METADATA_FLAGGED, Dataset, NotFound, Storage
from landpatch.catalog.tables import COLUMNS_NEEDED, official_tables, write_table

_OPTICAL_TREE, _RADAR_TREE, _MAP_TREE = TREES
_AHEAD = 64  # patches under way; one is about 0.3 MB


def export_folders(
    dataset: Dataset, destination: str | os.PathLike[str], *, progress: Callable[[int, int], None] | None = None
) -> int:
    """Write all patches of a dataset to ``destination`` (a folder or ``s3://``); returns their number.

    Files that are there already are not written again: an export that was interrupted goes on, and scenes that the
    dataset has gained are added. ``progress`` gets (patches done, all patches).

    Raises InvalidDataset after everything else was written if files are missing or damaged, naming them;
    DatasetConflict if the destination holds other files, or a scene in another state; StorageError.
    """
    target = Storage.open(destination, create=True)
    states = fingerprints(dataset)
    finished = _claim(target, dataset, states)
    overview = dataset.table(
        sorted({"landpatch:scene", "landpatch:backscatter", *COLUMNS_NEEDED, *asset_columns((S1,), "file:checksum")})
    )
    total: int = overview.num_rows
    report = progress or _silent
    if finished:
        _write_tables(target, overview)  # splits and countries may be others by now
        report(total, total)
        return total
    problems: list[str] = []
    done = 0
    work = _Work(dataset.storage, target, overview)
    with ThreadPoolExecutor(target.threads) as pool:
        try:
            for found in _ahead(pool, (partial(work.export, patch) for patch in _patches(dataset))):
                problems += found
                done += 1
                report(done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if problems:
        raise damage_report(problems, f"Everything else is in {target.url}.")
    _write_tables(target, overview)
    target.put_json(MARKER, {"scenes": states, "complete": True, "collection": _collection(dataset, overview)})
    return total


def _write_tables(target: Storage, overview: pa.Table) -> None:
    for name, table in zip((METADATA, METADATA_FLAGGED), official_tables(overview), strict=True):
        target.put_changed(name, write_table(table))


def _collection(dataset: Dataset, overview: pa.Table) -> dict[str, Any]:
    """What the tree itself cannot say, for an import of it: the collection's words, nomenclature, backscatter."""
    document = dataset.collection()
    backscatter = pc.unique(overview.column("landpatch:backscatter")).drop_null().to_pylist()
    return {
        **about_of(document),
        "id": document["id"],
        "landpatch:nomenclature": document.get("landpatch:nomenclature"),
        "landpatch:backscatter": backscatter[0] if len(backscatter) == 1 else None,
    }


def _silent(done: int, total: int) -> None:
    """No progress wanted."""


def _claim(target: Storage, dataset: Dataset, states: Mapping[str, str]) -> bool:
    """Note what is going to be there; True if it is there already. Raises DatasetConflict."""
    known: dict[str, str] = {}
    complete = False
    try:
        marker = target.get_json(MARKER)
        known, complete = dict(marker["scenes"]), bool(marker["complete"])
    except NotFound:
        if target.exists(METADATA) or any(_there(target, scene) for scene in states):
            raise DatasetConflict(
                f"{target.url} holds patches that no export of landpatch put there: choose another destination"
            ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidDataset(f"{target.url}/{MARKER} is damaged: remove the folder and export again") from error
    if complete and known == dict(states):
        return True
    changed = [scene for scene, state in known.items() if states.get(scene) != state]
    if changed:
        raise DatasetConflict(
            f"{target.url} holds {len(changed)} scene(s) in another state than {dataset.storage.url}, first "
            f"{changed[0]}: choose another destination, or remove it"
        )
    target.put_json(MARKER, {"scenes": dict(states), "complete": False})
    return False


def _there(target: Storage, scene: str, radar_scenes: Collection[str] = ()) -> frozenset[str]:
    """The files of a scene's patches that the destination has; a file is whole or not there."""
    folders = [f"{_OPTICAL_TREE}/{scene}", f"{_MAP_TREE}/{scene}"]
    folders += [f"{_RADAR_TREE}/{radar}" for radar in sorted(radar_scenes)]
    return frozenset(path for folder in folders for path in target.list(folder))


def _contested(table: pa.Table) -> frozenset[str]:
    """Sentinel-1 names that several patches share, of different dates, without sharing the file byte for byte."""
    checksums: dict[str, set[str]] = {}
    for name, checksum in zip(
        table.column("landpatch:s1_name").to_pylist(),
        asset_field(table, S1, "file:checksum").to_pylist(),
        strict=True,
    ):
        if checksum is not None:
            checksums.setdefault(name, set()).add(checksum)
    return frozenset(name for name, found in checksums.items() if len(found) > 1)


def _ahead(pool: ThreadPoolExecutor, work: Iterable[Callable[[], list[str]]]) -> Iterator[list[str]]:
    """What each piece of work returns, in order; a bounded number is under way."""
    waiting: deque[Future[list[str]]] = deque()
    for piece in work:
        waiting.append(pool.submit(piece))
        if len(waiting) >= _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _patches(dataset: Dataset) -> Iterator["_Patch"]:
    """All patches, scene by scene: the items are sorted by id, and ids begin with the scene."""
    columns = ["id", "landpatch:scene", "landpatch:s1_name", "proj:code"]
    columns += asset_columns(PATCH_ASSETS, "href", "file:checksum", "proj:transform")
    with dataset.storage.open_parquet(ITEMS) as file:
        for batch in file.iter_batches(batch_size=1024, columns=columns):
            yield from _batch_patches(pa.Table.from_batches([batch]), columns[1:4])


def _batch_patches(rows: pa.Table, others: Sequence[str]) -> Iterator["_Patch"]:
    ids = rows.column("id").to_pylist()
    files: list[dict[PatchAsset, PatchFile]] = [{} for _ in ids]
    corners = [(0, 0)] * len(ids)
    for asset in PATCH_ASSETS:
        fields = (asset_field(rows, asset, name).to_pylist() for name in ("href", "file:checksum", "proj:transform"))
        for number, (href, checksum, transform) in enumerate(zip(*fields, strict=True)):
            if href is not None:
                files[number][asset] = PatchFile(ids[number], asset, href, checksum)
                corners[number] = (int(transform[2]), int(transform[5]))
    more = (rows.column(name).to_pylist() for name in others)
    for patch_id, scene, s1_name, code, corner, found in zip(ids, *more, corners, files, strict=True):
        yield _Patch(patch_id, scene, s1_name, int(code.removeprefix("EPSG:")), corner, found)


@dataclass(frozen=True, slots=True)
class _Patch:
    """A patch of the dataset: its upper-left corner in metres of its UTM zone, and its files."""

    id: str
    scene: str
    s1_name: str | None
    epsg: int
    corner: tuple[int, int]
    files: Mapping[PatchAsset, PatchFile]

    def stem(self, asset: PatchAsset) -> str:
        """Path in the tree of an asset's files, without the end of their names."""
        radar = None if self.s1_name is None else RadarPatchName.parse(self.s1_name)
        return official_stem(asset, PatchId.parse(self.id), radar)


class _Work:
    """Turns patches into files; called by several threads."""

    def __init__(self, source: Storage, target: Storage, overview: pa.Table) -> None:
        self._source, self._target = source, target
        self._radars: dict[str, set[str]] = {}
        for scene, name in zip(
            overview.column("landpatch:scene").to_pylist(),
            overview.column("landpatch:s1_name").to_pylist(),
            strict=True,
        ):
            if name is not None:
                self._radars.setdefault(scene, set()).add(str(RadarPatchName.parse(name).scene))
        self._contested = _contested(overview)
        self._listed: dict[str, frozenset[str]] = {}
        self._listing = threading.Lock()

    def export(self, patch: _Patch) -> list[str]:
        """Write what is missing of a patch's files; returns the problems that were met."""
        there = self._there(patch.scene)
        problems = []
        for asset, file in patch.files.items():
            compare = asset is S1 and patch.s1_name in self._contested
            paths = [f"{patch.stem(asset)}{band.suffix}.tif" for band in band_files(asset)]
            if all(path in there for path in paths) and not compare:
                continue
            try:
                planes = file.read(self._source)
            except DamagedFile as error:
                problems.append(str(error))
                continue
            for number, (band, path) in enumerate(zip(band_files(asset), paths, strict=True)):
                data = _encoder(band, patch.epsg).encode(planes[number : number + 1], *patch.corner)
                if compare and not self._target.create(path, data) and self._target.get(path) != data:
                    problems.append(
                        f"{path} has other pixels in one patch than in another: two Sentinel-1 products of this name"
                    )
                elif not compare and path not in there:
                    self._target.put(path, data)
        return problems

    def _there(self, scene: str) -> frozenset[str]:
        with self._listing:
            if scene not in self._listed:
                # At the seam of two scenes patches of both are under way; older ones are done.
                for done in list(self._listed)[:-1]:
                    del self._listed[done]
                self._listed[scene] = _there(self._target, scene, self._radars.get(scene, ()))
            return self._listed[scene]


@cache
def _encoder(band: PatchAsset, epsg: int) -> CogEncoder:
    # Deflate, whatever the dataset has: the official tree's readers may be old.
    return CogEncoder(band, epsg)
