"""The published BigEarthNet v2.0 as a dataset of landpatch: from its tables alone, or with the files.

The tables are the list of what there is. With the files (folders ``BigEarthNet-S1``, ``BigEarthNet-S2``,
``Reference_Maps`` beside them, or the ``.tar.zst`` archives of these names) every patch gets our five files; without
them items have no assets, or lead to where the official files lie. What neither tables nor files say is null.

A scene's part is written when its patches are done, and those in a part are never done again; archives have a journal
besides (``official_files``). Memory: 300 bytes a row of the tables, one scene's items, 64 patches under way.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa

from landpatch.catalog.compaction import compact, part_path, parts, write_part
from landpatch.catalog.errors import DatasetConflict, Incomplete, InvalidDataset, InvalidParameter, InvalidSource
from landpatch.catalog.grid import TILE_METRES, TileGrid
from landpatch.catalog.items import (
    LabelOrigin,
    Origin,
    PatchRecord,
    about_of,
    conformed,
    label_item,
    linked_table,
    patch_table,
    rfc3339,
    scene_item_href,
)
from landpatch.catalog.names import RadarSceneId, SceneId
from landpatch.catalog.nomenclature import Nomenclature, clc2018
from landpatch.catalog.official_layout import MARKER, TREES
from landpatch.catalog.official_rows import OfficialRow, OfficialRows
from landpatch.catalog.scenes import STAC_VERSION, BoaOffset, RadarScene
from landpatch.catalog.store import COLLECTION, NotFound, Storage, json_bytes

if TYPE_CHECKING:
    from landpatch.catalog.official_files import Journal, PatchNumbers, Stored

COLLECTION_ID = "bigearthnet-v2"
_STATE = "import/source.json"
_BLOCK = "import"  # name of the parts, one a scene
_CLC_ITEM = "U2018_CLC2018_V2020_20u1"
_CLC_HREF = "https://land.copernicus.eu/en/products/corine-land-cover/clc2018"
_CLC_BOUNDS = (-31.3, 27.6, 44.9, 71.2)  # degrees: the Azores to eastern Turkey, CORINE's 39 countries
_SHOWN = 20  # problems that are kept with their reasons
_OPTICAL_TREE, _RADAR_TREE, _MAP_TREE = TREES
_MISSING = {_OPTICAL_TREE: "NO_S2", _RADAR_TREE: "NO_S1", _MAP_TREE: "NO_REFERENCE_MAP"}

Show = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


@dataclass(slots=True)
class ImportResult:
    """What an import left behind: ``patches`` in the dataset; ``dropped`` rows of the tables by reason (NO_S2, NO_S1,
    NO_REFERENCE_MAP: files are missing; DAMAGED: ``problems`` names the first); ``ignored`` files in archives that
    belong to no row; ``changed`` is False where everything had been done.
    """

    patches: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    ignored: int = 0
    problems: list[str] = field(default_factory=list)
    changed: bool = False

    def check(self) -> None:
        """Raises Incomplete where files are damaged."""
        if self.dropped.get("DAMAGED"):
            raise Incomplete(
                f"{self.dropped['DAMAGED']} patch(es) were dropped because their files are damaged; the others are "
                "complete"
            )


def import_bigearthnet(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    tables_only: bool = False,
    assets_at: str | None = None,
    collection: str | None = None,
    show: Show | None = None,
) -> ImportResult:
    """Make a dataset at ``destination`` (folder or ``s3://``) of the published BigEarthNet v2.0 at ``source``.

    ``source`` is a local folder with one or both metadata tables, or one of them. Where trees or archives lie beside
    them, their files are taken unless ``tables_only``; trees that are not there are left out, but
    BigEarthNet-S2 must be. ``assets_at``: items lead to official files below this URL, which nobody looks at.
    ``show`` gives a progress callback ``(done, total)`` for a piece of work, by its name.

    The same call again goes on where it was interrupted, and writes nothing if everything is done. A tree that
    ``export_folders`` wrote keeps its collection's id, words and nomenclature. Raises InvalidSource,
    InvalidParameter, DatasetConflict (the destination holds something else), StorageError.
    """
    show = show or (lambda _: nullcontext(_silent))
    place = Path(source)
    if not place.exists():
        raise InvalidSource(f"{place} does not exist")
    trees = {} if tables_only or place.is_file() else _trees(place)
    if trees and assets_at is not None:
        raise InvalidParameter(f"{place} holds the files themselves: use --tables-only with --assets-at")
    if assets_at is not None and "://" not in assets_at:
        raise InvalidParameter(
            f"--assets-at {assets_at}: expected a URL such as https://host/BigEarthNet or file:///..."
        )
    work = _Import(OfficialRows.read(place), trees, assets_at, _told(place), collection, destination)
    return work.run(show)


def _silent(done: int, total: int) -> None:
    """No progress wanted."""


def _trees(place: Path) -> dict[str, Path]:
    """The trees of folders and the archives that lie in a folder, by tree."""
    found = {}
    for tree in TREES:
        there = [path for path in (place / tree, place / f"{tree}.tar.zst") if path.exists()]
        if len(there) > 1:
            raise InvalidSource(f"{place} holds {tree} both as a folder and as an archive: move one away")
        if there:
            found[tree] = there[0]
    if found and _OPTICAL_TREE not in found:
        raise InvalidSource(
            f"{place} holds {', '.join(found)} but not {_OPTICAL_TREE}: there are no patches without Sentinel-2 "
            "(--tables-only catalogues them without files)"
        )
    return found


@dataclass(frozen=True, slots=True)
class _Told:
    """What is known of a source beside its rows: of the published one, or of an export by its marker."""

    collection: str
    about: Mapping[str, Any]
    nomenclature: Nomenclature | None
    backscatter: str


def _told(place: Path) -> _Told:
    marker = place / MARKER
    if not marker.is_file():
        text = files("landpatch.catalog").joinpath("data/bigearthnet_v2.json").read_bytes()
        return _Told(COLLECTION_ID, orjson.loads(text), clc2018(), "sigma0")
    try:
        document = orjson.loads(marker.read_bytes())["collection"]
        stored = document.get("landpatch:nomenclature")
        nomenclature = None if stored is None else Nomenclature.from_document(stored)
        backscatter = document.get("landpatch:backscatter") or "unknown"
        return _Told(str(document["id"]), about_of(document), nomenclature, str(backscatter))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidSource(f"{marker} is damaged, or of an earlier version: export the dataset again") from error


class _Import:
    def __init__(
        self,
        rows: OfficialRows,
        trees: Mapping[str, Path],
        assets_at: str | None,
        told: _Told,
        collection: str | None,
        destination: str | os.PathLike[str],
    ) -> None:
        self.rows, self.trees, self.assets_at = rows, trees, assets_at
        self.told = replace(told, collection=collection or told.collection)
        self.storage = Storage.open(destination, create=True)
        self.result = ImportResult()
        self.journals: dict[str, Journal] = {}
        self.numbers: PatchNumbers | None = None

    def run(self, show: Show) -> ImportResult:
        self._claim()
        there = {part.path: part for part in parts(self.storage)}
        scenes = list(self.rows.scenes)
        with show("Importing scenes") as report:
            if self.trees:
                self._with_files(scenes, there, show, report)
            else:
                for number, scene in enumerate(scenes):
                    if part_path(scene, _BLOCK) not in there:
                        self._write(
                            scene, self._records(self.rows.scene_rows(scene, self.told.nomenclature), None), {}
                        )
                    report(number + 1, len(scenes))
        with show("Writing the catalogue") as report:
            self.result.changed |= compact(self.storage, progress=report)
        for journal in self.journals.values():
            journal.forget()
        document = self.storage.get_json(COLLECTION)
        self.result.patches, self.result.dropped = document["landpatch:patches"], document["landpatch:dropped"]
        return self.result

    def _claim(self) -> None:
        """Note what is imported; raises DatasetConflict where something else is there."""
        state = {
            "tables": self.rows.digest,
            "assets_at": self.assets_at,
            "trees": {tree: "folder" if path.is_dir() else "archive" for tree, path in self.trees.items()},
            "collection": self.told.collection,
        }
        try:
            found = self.storage.get_json(_STATE)
        except NotFound:
            if self.storage.exists(COLLECTION) or self.storage.list("parts") or self.storage.list("jobs"):
                raise DatasetConflict(
                    f"{self.storage.url} holds a dataset that no import put there: choose another destination"
                ) from None
            self.storage.put_json(_STATE, state)
            return
        if found != state:
            changed = ", ".join(key for key in state if not isinstance(found, dict) or found.get(key) != state[key])
            raise DatasetConflict(
                f"{self.storage.url} holds an import of something else ({changed} differ): choose another destination"
            )

    # --- items ----------------------------------------------------------------------------------------------------

    def _write(self, scene: str, table: pa.Table, dropped: Mapping[str, int]) -> None:
        if self.assets_at is not None:
            table = linked_table(table, self.assets_at)
        write_part(
            self.storage,
            part_path(scene, _BLOCK),
            table,
            collection=self.told.collection,
            nomenclature=self.told.nomenclature,
            dropped=dropped,
            about=self.told.about,
        )
        self.result.changed = True

    def _records(self, rows: Sequence[OfficialRow], stored: Mapping[int, Mapping[str, "Stored"]] | None) -> pa.Table:
        """The items of some rows of a scene; ``stored``: what remains of their files by place in ``rows``, tree."""
        scene = rows[0].patch.scene
        names = sorted({row.radar.scene for row in rows if row.radar is not None})
        radars = tuple(self._radar(name) for name in names)
        labels = None
        if self.told.nomenclature is not None:
            labels = LabelOrigin(_CLC_ITEM, self.told.nomenclature)
        origin = Origin(
            scene=scene,
            grid=TileGrid.from_tile(scene.tile),
            optical_item=str(scene),
            sensed=scene.sensed,
            offset=BoaOffset(False, "processed by hand with sen2cor (baseline 99.99), which adds no offset")
            if scene.baseline == "9999"
            else None,
            radars=radars,
            labels=labels,
            collection=self.told.collection,
        )
        self._scene_items(scene, names)
        # Where files were taken and there is no Sentinel-1 among them, items have none.
        with_radar = stored is None or _RADAR_TREE in self.trees
        records = []
        for place, row in enumerate(rows):
            radar = None if row.radar is None or not with_radar else names.index(row.radar.scene)
            records.append(_record(row, radar, None if stored is None else stored[place], self.told.nomenclature))
        return patch_table(origin, records)

    def _radar(self, name: RadarSceneId) -> RadarScene:
        return RadarScene(str(name), name, name.start, "", "", "dB", self.told.backscatter, None)

    def _scene_items(self, scene: SceneId, radars: Sequence[RadarSceneId]) -> None:
        """The items that patches are derived from: what their names say."""
        grid = TileGrid.from_tile(scene.tile)
        documents = [_scene_item(str(scene), "Sentinel-2", rfc3339(scene.sensed), _tile_ring(grid))]
        documents += [_scene_item(str(name), "Sentinel-1", rfc3339(name.start), None) for name in radars]
        if self.told.nomenclature is not None:
            item = label_item(_CLC_ITEM, _CLC_ITEM, _CLC_HREF, _CLC_BOUNDS, self.told.nomenclature)
            about = {"rel": "about", "href": _CLC_HREF, "type": "text/html"}
            documents.append({**item, "assets": {}, "links": [about]})
        for document in documents:
            self.storage.put_changed(scene_item_href(str(document["id"])), json_bytes(document))

    # --- files ----------------------------------------------------------------------------------------------------

    def _with_files(
        self, scenes: Sequence[str], there: Mapping[str, Any], show: Show, report: Callable[[int, int], None]
    ) -> None:
        from landpatch.catalog.official_files import PatchWriter

        writer = PatchWriter(self.storage, self.told.nomenclature)
        with ThreadPoolExecutor(self.storage.threads) as pool:
            try:
                self._read_archives(scenes, there, writer, pool, show)
                for number, scene in enumerate(scenes):
                    self._import_scene(scene, there.get(part_path(scene, _BLOCK)), writer, pool)
                    report(number + 1, len(scenes))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _read_archives(
        self, scenes: Sequence[str], there: Mapping[str, Any], writer: Any, pool: ThreadPoolExecutor, show: Show
    ) -> None:
        from landpatch.catalog.official_files import Journal, PatchNumbers, read_archive

        archives = {tree: path for tree, path in self.trees.items() if path.is_file()}
        if not archives:
            return
        nomenclature = self.told.nomenclature
        self.numbers = PatchNumbers(self.rows.scene_rows(scene, nomenclature) for scene in scenes)
        known = np.zeros(len(self.numbers), bool)
        for scene in scenes:
            for patch in self._done(there.get(part_path(scene, _BLOCK)), ["id"]).column("id").to_pylist():
                known[self._number(patch)] = True
        classes = len(nomenclature.classes) if nomenclature else 0
        for tree, path in archives.items():
            journal = self.journals[tree] = Journal(self.storage, tree, len(self.numbers), classes)
            with show(f"Reading {path.name}") as report:
                read_archive(path, tree, self.numbers, known, journal, writer, pool, report)
            self.result.ignored += (journal.finished or {}).get("ignored", 0)

    def _number(self, patch_id: str) -> int:
        from landpatch.catalog.names import PatchId

        number = None if self.numbers is None else self.numbers.number_of(PatchId.parse(patch_id))
        if number is None:
            raise InvalidDataset(f"{self.storage.url}: patch {patch_id} is in no table; remove its part")
        return number

    def _done(self, part: Any, columns: Sequence[str] | None = None) -> pa.Table:
        """The items that a part holds already."""
        if part is None:
            return pa.table({"id": pa.array([], pa.string())})
        return self.storage.open_parquet(part.path).read(columns=columns)

    def _import_scene(self, scene: str, part: Any, writer: Any, pool: ThreadPoolExecutor) -> None:
        """Make the items of those of a scene's patches that are not in its part."""
        from landpatch.catalog.official_files import ahead

        if part is not None and not part.dropped:
            return
        old = self._done(part)
        ids = set(old.column("id").to_pylist())
        every = self.rows.scene_rows(scene, self.told.nomenclature)
        rows = [row for row in every if str(row.patch) not in ids]
        first = 0 if self.numbers is None else self.numbers.first(every[0].patch.scene)
        numbers = {str(row.patch): first + place for place, row in enumerate(every)}

        def work() -> Iterator[tuple[int, Callable[[], Any]]]:
            for place, row in enumerate(rows):
                number = numbers[str(row.patch)]
                yield place, partial(self._files_of, row, number, writer)

        kept: list[OfficialRow] = []
        stored: dict[int, Mapping[str, Stored]] = {}
        dropped: Counter[str] = Counter()
        for place, found in ahead(pool, work()):
            reason = self._reason(found)
            if reason is None:
                stored[len(kept)] = found
                kept.append(rows[place])
            else:
                dropped[reason] += 1
        if part is not None and not kept and dict(dropped) == dict(part.dropped):
            return
        table = self._records(kept, stored) if kept else conformed(old).slice(0, 0)
        if old.num_rows:
            table = pa.concat_tables([conformed(old), table]).sort_by("id")
        self._write(scene, table, dict(sorted(dropped.items())))

    def _files_of(self, row: OfficialRow, number: int, writer: Any) -> dict[str, "Stored | None"]:
        """What remains of a row's files in each tree that is there; None where there are none."""
        from landpatch.catalog.official_files import folder_bands

        found: dict[str, Stored | None] = {}
        bands = {}
        for tree, path in self.trees.items():
            if tree == _RADAR_TREE and row.radar is None:
                continue
            if path.is_file():
                found[tree] = self.journals[tree].get(number)
                continue
            content = folder_bands(path.parent, tree, row)
            if content is None:
                found[tree] = None
            else:
                bands[tree] = content
        if None in found.values():  # then nothing is written that no item would lead to
            return found
        radar = None if row.radar is None else self._radar(row.radar.scene)
        for tree, content in bands.items():
            found[tree] = writer.write(tree, row.patch, radar, content)
        return found

    def _reason(self, found: Mapping[str, "Stored | None"]) -> str | None:
        """Why a patch is dropped; None if it is kept."""
        for tree in TREES:
            if tree in found and found[tree] is None:
                return _MISSING[tree]
        for stored in found.values():
            if stored is not None and stored.problem is not None:
                if len(self.result.problems) < _SHOWN:
                    self.result.problems.append(stored.problem)
                return "DAMAGED"
        return None


def _record(
    row: OfficialRow, radar: int | None, stored: Mapping[str, "Stored"] | None, nomenclature: Nomenclature | None
) -> PatchRecord:
    found = stored or {}
    pixels = found[_MAP_TREE].pixels if _MAP_TREE in found else None
    counts: tuple[int, ...] | None = None
    unlabelled = None
    if pixels is not None and nomenclature is not None:
        unlabelled = pixels[-1] / sum(pixels)
        present = {name: count for name, count in zip(nomenclature.classes, pixels[:-1], strict=True) if count}
        if tuple(sorted(present)) == row.labels:  # else the table has the last word, and nobody knows the counts
            counts = tuple(present[label] for label in row.labels)
    return PatchRecord(
        x=row.patch.x,
        y=row.patch.y,
        radar=radar,
        labels=row.labels,
        label_pixels=counts if row.labels or nomenclature is not None else (),
        unlabelled=unlabelled,
        snow=None,
        cloud=None,
        shadow=None,
        contains_seasonal_snow=row.contains_seasonal_snow,
        contains_cloud_or_shadow=row.contains_cloud_or_shadow,
        files={key: file for tree in TREES if tree in found for key, file in found[tree].files.items()},
        split=row.split,
        country=row.country,
        s2v1_name=row.s2v1_name,
    )


def _scene_item(name: str, sensor: str, sensed: str, ring: list[list[float]] | None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [],
        "id": name,
        "geometry": None,
        "properties": {"datetime": sensed, "title": f"{sensor} scene {name}", "constellation": sensor.lower()},
        "links": [],
        "assets": {},
    }
    if ring is not None:
        longitudes, latitudes = zip(*ring, strict=True)
        document["geometry"] = {"type": "Polygon", "coordinates": [ring]}
        document["bbox"] = [min(longitudes), min(latitudes), max(longitudes), max(latitudes)]
    return document


def _tile_ring(grid: TileGrid) -> list[list[float]]:
    """A tile's corners in degrees, closed."""
    from pyproj import Transformer

    to_degrees = Transformer.from_crs(grid.epsg, 4326, always_xy=True)
    west, north = grid.ulx, grid.uly
    east, south = west + TILE_METRES, north - TILE_METRES
    corners = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    return [list(to_degrees.transform(*corner)) for corner in corners]
