"""A part of a catalogue taken home: the patches that one wants, from any STAC API or dataset, in one of three forms.

``dataset`` is landpatch's own layout: what comes out can be served, exported and downloaded from in its turn.
``folders`` is the official tree and ``lmdb`` the file that BigEarthNet v2.0 is trained on; they are made by the same
exports as elsewhere, which read patch files that are fetched when they are wanted and are never on the disk.
Items that are no patches come as they are, ``<collection>/<item>/<file>``, as a static STAC catalogue.

A run that ends, however it ends, leaves what the next one goes on from (``manifest``, ``transfer``).
"""

import os
import re
import shutil
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import orjson

from landpatch.catalog.bands import OPTICAL_ASSETS, PATCH_ASSETS
from landpatch.catalog.compaction import compact, part_path, write_part
from landpatch.catalog.errors import (
    DatasetConflict,
    Incomplete,
    InvalidItem,
    InvalidParameter,
    LandpatchError,
    StorageError,
)
from landpatch.catalog.items import ABOUT, ABOUT_LINKS, table_from_items
from landpatch.catalog.manifest import Files, Manifest, Tree, replace_file
from landpatch.catalog.nomenclature import Nomenclature
from landpatch.catalog.placing import (
    ITEM_FILE,
    PATCH_KEYS,
    PlainPlaces,
    claims_to_be_patch,
    expected,
    item_id,
    patch_files,
)
from landpatch.catalog.scenes import STAC_VERSION, absolute_href
from landpatch.catalog.selection import Question, Source, open_source
from landpatch.catalog.store import COLLECTION, ITEMS, METADATA, METADATA_FLAGGED, Storage, json_bytes
from landpatch.catalog.transfer import Expected, Manners, Parts, Renew, Transfer, shown

Layout = Literal["dataset", "folders", "lmdb"]

STATE = ".download"
"""Folder of the manifest in the destination; beside it, as ``<destination>.download``, where that is an LMDB."""

_DEFAULT_KEYS = tuple(asset.key for asset in PATCH_ASSETS)
_BLOCK = "download"  # name of the parts, one a scene
_SCENE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}\.json")
_SCENE_BYTES = 2**24
_BATCH = 250  # items checked together, which costs a tenth of one by one
_ROOM = 2**26  # bytes left free on the disk


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download has come: ``done`` of ``total`` files (or values of an LMDB, or patches of a tree), and
    ``bytes`` received in this run.
    """

    done: int
    total: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a download has left behind: the number of ``items`` chosen, of files ``fetched`` and ``bytes`` received
    in this run; ``problems`` by file and ``refused`` items by id, each with the reason.
    """

    items: int
    fetched: int
    bytes: int
    problems: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raises Incomplete where something could not be had."""
        if self.problems or self.refused:
            raise Incomplete(
                f"{len(self.problems)} file(s) could not be fetched and {len(self.refused)} item(s) were refused; "
                "the others are complete. The same command again tries the files once more"
            )


Watch = Callable[[Progress], None]


def download(
    url: str,
    destination: str | os.PathLike[str],
    question: Question | None = None,
    *,
    layout: Layout = "dataset",
    assets: Sequence[str] = (),
    manners: Manners | None = None,
    trust: Iterable[str] = (),
    verify: bool = False,
    progress: Watch | None = None,
) -> Outcome:
    """Take what answers ``question`` (default: everything) from the catalogue at ``url`` to a local ``destination``.

    ``url`` is a STAC API, or a dataset in a folder, on S3 or on a web server. ``assets`` are the keys of the files
    wanted (default: a patch's five; of items that are no patches they must be said). ``trust`` names hosts that
    hrefs may lead to although they are in a private network or on this machine. The choice is made by the first run
    and kept; further runs fetch what is missing or broken, and read every file again with ``verify``.

    Files that cannot be had are told in the outcome, and everything else is complete. Raises InvalidParameter,
    DatasetConflict (the destination holds something else), StorageError; UnreadableAsset, InvalidItem, InvalidDataset
    where the catalogue itself is not usable.
    """
    place = _place(destination)
    state = place.with_name(place.name + STATE) if layout == "lmdb" else place / STATE
    _claim(place, state, layout)
    question = question or Question()
    keys = list(dict.fromkeys(assets))
    with (
        Manifest.held(state, url, question, layout=layout, assets=keys) as manifest,
        _Catalogue(url, manners, trust) as catalogue,
    ):
        if not manifest.chosen:
            _choose(catalogue.source, question, manifest, layout, keys)
        wanted = _wanted(manifest, keys)
        if layout == "dataset":
            return _Fetching(place, manifest, catalogue, wanted, progress or _silent).run(verify=verify)
        return _export(place, state, manifest, catalogue, wanted, layout, progress or _silent)


def _silent(_: Progress) -> None:
    """No progress wanted."""


def _place(destination: str | os.PathLike[str]) -> Path:
    text = os.fspath(destination)
    if "://" in text:
        raise InvalidParameter(f"{text!r}: downloads go to a local folder")
    return Path(text).absolute()


def _claim(place: Path, state: Path, layout: Layout) -> None:
    """Make the destination; raises DatasetConflict where it is somebody else's."""
    try:
        if not state.exists() and place.exists() and any(place.iterdir()):
            raise DatasetConflict(
                f"{place} is there and is no download{' of this form' if layout == 'lmdb' else ''}: choose another "
                "destination"
            )
        (state.parent).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write to {place}: {error.strerror}") from error


class _Catalogue:
    """The source and the transfer from it, opened when they are first needed: a complete download needs neither."""

    def __init__(self, url: str, manners: Manners | None, trust: Iterable[str]) -> None:
        self.url = url
        self._how = (manners, tuple(trust))
        self._opened: tuple[Source, Transfer] | None = None
        self._opening = threading.Lock()

    def _open(self) -> tuple[Source, Transfer]:
        with self._opening:
            if self._opened is None:
                manners, trust = self._how
                self._opened = open_source(self.url, manners=manners, trust=trust)
            return self._opened

    @property
    def source(self) -> Source:
        return self._open()[0]

    @property
    def transfer(self) -> Transfer:
        return self._open()[1]

    @property
    def received(self) -> int:
        """Bytes that have come in this run."""
        return self._opened[1].received if self._opened else 0

    def stop(self) -> None:
        """Make all transfers end."""
        if self._opened:
            self._opened[1].stop()

    def __enter__(self) -> "_Catalogue":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._opened:
            self._opened[1].close()


# --- the choice ---------------------------------------------------------------------------------------------------


def _choose(source: Source, question: Question, manifest: Manifest, layout: Layout, keys: Sequence[str]) -> None:
    """Ask, and write down what was answered. Raises InvalidParameter where nothing usable is."""
    chosen = _Choice(layout, keys, question.maximum)
    count = manifest.choose(islice(chosen.items(source.items(question)), question.maximum))
    if not count:
        more = "".join(f"; refused {reason}" for reason in islice(chosen.refused.values(), 3))
        raise InvalidParameter(f"nothing in {shown(source.url)} answers {question}{more}")
    manifest.refused = chosen.refused
    if chosen.patches:
        manifest.collections = {name: source.collection(name) for name in chosen.collections}
        manifest.origins = {name: source.collection_href(name) for name in chosen.collections}
        _nomenclature(manifest)
    manifest.write(finished=False)


class _Choice:
    """Picks the usable items out of what a catalogue sends; ``refused`` has the others, by id, with the reasons."""

    def __init__(self, layout: Layout, keys: Sequence[str], maximum: int | None) -> None:
        self._batch = min(_BATCH, maximum or _BATCH)  # so that no page is asked for in vain
        self.refused: dict[str, str] = {}
        self.collections: set[str] = set()
        self.patches = False
        self._layout = layout
        self._keys = keys

    def items(self, found: Iterator[Any]) -> Iterator[dict[str, Any]]:
        """Each usable item once."""
        seen: set[tuple[str | None, str]] = set()
        for number, batch in enumerate(_batches(found, self._batch)):
            if number == 0:
                self.patches = any(map(claims_to_be_patch, batch))
                self._admit(batch)
            for item in self._usable(batch):
                name = (None if self.patches else item.get("collection"), item["id"])
                if name not in seen:
                    seen.add(name)
                    yield item

    def _admit(self, batch: Sequence[Any]) -> None:
        """Whether the download can be made of these items at all. Raises InvalidParameter."""
        if not self.patches:
            keys = sorted({key for item in batch if isinstance(item, dict) for key in item.get("assets") or ()})
            if self._layout != "dataset":
                raise InvalidParameter(
                    f"these items are no patches of landpatch: no {self._layout} can be made of them"
                )
            if not self._keys or not set(self._keys).intersection(keys):
                raise InvalidParameter(
                    f"these items are no patches of landpatch: say with --assets which files you want, of "
                    f"{', '.join(map(str, keys))}"
                )
            return
        unknown = [key for key in self._keys if key not in PATCH_KEYS]
        if unknown:
            raise InvalidParameter(f"patches have no assets {', '.join(unknown)}; they have {', '.join(PATCH_KEYS)}")
        missing = [asset.key for asset in OPTICAL_ASSETS if asset.key not in (self._keys or _DEFAULT_KEYS)]
        if self._layout == "lmdb" and missing:
            raise InvalidParameter(
                f"an LMDB holds all Sentinel-2 bands of a patch: add {','.join(missing)} to --assets"
            )

    def _usable(self, batch: Sequence[Any]) -> list[dict[str, Any]]:
        usable = []
        for item in batch:
            try:
                self._check(item)
            except InvalidItem as error:
                name = str(item.get("id"))[:200] if isinstance(item, Mapping) else repr(item)[:200]
                self.refused[name] = str(error)
                continue
            usable.append(item)
        if not self.patches:
            return usable
        try:
            table_from_items(usable)
        except InvalidItem as error:
            if len(usable) > 1:
                return [one for item in usable for one in self._usable([item])]
            self.refused[usable[0]["id"]] = str(error)
            return []
        self.collections |= {item["collection"] for item in usable}
        if len(self.collections) > 1:
            raise InvalidParameter(
                f"the patches belong to several collections ({', '.join(sorted(self.collections))}), and a dataset "
                "has one: choose it with --collections"
            )
        return usable

    def _check(self, item: Any) -> None:
        name = item_id(item)
        if not self.patches:
            if not any(isinstance(item["assets"].get(key), Mapping) for key in self._keys):
                raise InvalidItem(f"{name!r} has none of the assets {', '.join(self._keys)}")
            return
        if not claims_to_be_patch(item):
            raise InvalidItem(f"{name!r} is no patch item of landpatch")
        found = patch_files(item, self._keys or _DEFAULT_KEYS)
        missing = [asset.key for asset in OPTICAL_ASSETS if asset.key not in found] if self._layout == "lmdb" else []
        if missing or not found:
            raise InvalidItem(f"{name!r} has no asset {' and '.join(missing or self._keys or _DEFAULT_KEYS)}")


def _batches(found: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(islice(found, size)):
        yield batch


def _nomenclature(manifest: Manifest) -> Nomenclature | None:
    """Of the collection that the chosen patches belong to."""
    ((name, collection),) = manifest.collections.items()
    stored = collection.get("landpatch:nomenclature")
    try:
        return None if stored is None else Nomenclature.from_document(stored)
    except (LandpatchError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidItem(f"collection {name}: its landpatch:nomenclature is damaged ({error!r})") from error


# --- what is wanted -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _File:
    """A file that is wanted: its place, its href, what is recorded of it, and which asset of which item it is."""

    path: str
    href: str
    expected: Expected
    item: str
    collection: str | None
    key: str


@dataclass(slots=True)
class _Wanted:
    """All files, and the folders of items that are no patches by the number of the item (None: patches)."""

    files: list[_File]
    items: int
    folders: list[str] | None


def _wanted(manifest: Manifest, keys: Sequence[str]) -> _Wanted:
    wanted = _Wanted([], 0, None)
    places = PlainPlaces()
    for number, item in enumerate(manifest.items()):
        if number == 0 and not claims_to_be_patch(item):
            wanted.folders = []
        if wanted.folders is None:
            paths = patch_files(item, keys or _DEFAULT_KEYS)
        else:
            folder, paths = places.files(item, keys)
            wanted.folders.append(folder)
        wanted.items += 1
        for key, path in paths.items():
            asset = item["assets"][key]
            wanted.files.append(_File(path, asset["href"], expected(asset), item["id"], item.get("collection"), key))
    return wanted


class _Renewals:
    """Hrefs that have become useless, replaced by those that the catalogue gives now; one request for an item."""

    def __init__(self, catalogue: _Catalogue) -> None:
        self._catalogue = catalogue
        self._found: dict[tuple[str | None, str], dict[str, Any]] = {}
        self._locks: dict[tuple[str | None, str], threading.Lock] = {}
        self._changing = threading.Lock()

    def of(self, file: _File) -> Renew:
        """What finds new hrefs for a file."""
        name = (file.collection, file.item)

        def renew(old: str) -> str | None:
            with self._changing:
                lock = self._locks.setdefault(name, threading.Lock())
            with lock:
                known = self._href(file, self._found.get(name))
                if known not in (None, old):
                    return known
                document = {"id": file.item, "collection": file.collection}
                found = self._catalogue.source.renewed(document)
                if found is not None:
                    self._found[name] = found
                return self._href(file, found)

        return renew

    @staticmethod
    def _href(file: _File, item: Mapping[str, Any] | None) -> str | None:
        try:
            return None if item is None else str(item["assets"][file.key]["href"])
        except (KeyError, TypeError):
            return None


# --- files on the disk --------------------------------------------------------------------------------------------


class _Fetching:
    """Files to their places, then the catalogue of those that are there."""

    def __init__(self, place: Path, manifest: Manifest, catalogue: _Catalogue, wanted: _Wanted, watch: Watch) -> None:
        self._place, self._manifest, self._catalogue, self._wanted = place, manifest, catalogue, wanted
        self._watch = watch
        self._tree = Tree(place)
        self._renewals = _Renewals(catalogue)

    def run(self, *, verify: bool) -> Outcome:
        """Bring everything to its place that is not there."""
        with self._manifest.files() as files:
            missing = [
                file
                for file in self._wanted.files
                if not files.sound(self._place, file.path, file.expected, thorough=verify)
            ]
            problems = self._fetch(missing, files) if missing else {}
        if missing or not self._manifest.finished or not self._catalogued():
            broken = {file.item for file in missing if file.path in problems}
            if self._wanted.folders is None:
                self._catalogue_patches(broken)
            else:
                _write_plain(self._place, self._manifest, self._wanted, self._catalogue.url, broken)
            self._manifest.write(finished=not problems)
        return Outcome(
            self._wanted.items,
            len(missing) - len(problems),
            self._catalogue.received,
            problems,
            self._manifest.refused,
        )

    def _catalogued(self) -> bool:
        patches = self._wanted.folders is None
        names = (COLLECTION, ITEMS, METADATA, METADATA_FLAGGED) if patches else ("catalog.json",)
        return all((self._place / name).exists() for name in names)

    def _fetch(self, missing: Sequence[_File], files: Files) -> dict[str, str]:
        """Fetch these files; returns what could not be had, with the reasons."""
        size = sum(file.expected.size or 0 for file in missing)
        free = shutil.disk_usage(self._place).free
        if size + _ROOM > free:
            raise StorageError(
                f"{self._place} has room for {free:,} bytes, and {size:,} are to come: free some space"
            )
        transfer, total = self._catalogue.transfer, len(self._wanted.files)
        parts = Parts(self._manifest.parts)
        done = total - len(missing)

        def one(file: _File) -> str | None:
            try:
                target = self._tree.place(file.path)
                files.record(
                    file.path, transfer.fetch(file.href, target, parts, file.expected, self._renewals.of(file))
                )
            except StorageError:
                raise
            except LandpatchError as error:
                return str(error)
            return None

        problems = {}
        workers = 2 * transfer.manners.per_host  # so that one slow host leaves the others something
        pool = ThreadPoolExecutor(workers)
        ahead: deque[tuple[_File, Future[str | None]]] = deque()
        try:
            todo = iter(missing)
            while True:
                ahead.extend((file, pool.submit(one, file)) for file in islice(todo, 4 * workers - len(ahead)))
                if not ahead:
                    break
                file, future = ahead.popleft()
                problem = future.result()
                if problem is not None:
                    problems[file.path] = problem
                done += 1
                self._watch(Progress(done - len(problems), total, transfer.received))
        except BaseException:
            self._catalogue.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        parts.sweep()
        return problems

    def _catalogue_patches(self, broken: Collection[str]) -> None:
        scenes = _fetch_scenes(self._manifest, self._catalogue, self._tree)
        _write_catalogue(Storage.open(self._place), self._manifest, self._wanted, broken, scenes)


def _fetch_scenes(manifest: Manifest, catalogue: _Catalogue, tree: Tree) -> dict[str, str]:
    """The scene and label items that patches are derived from, as far as they can be had; paths by href."""
    hrefs = dict.fromkeys(
        link["href"] for item in manifest.items() for link in item["links"] if link["rel"] == "derived_from"
    )
    found = {}
    for href in hrefs:
        name = urlsplit(href).path.rpartition("/")[2]
        if _SCENE_NAME.fullmatch(name) is None:
            continue
        try:
            content = catalogue.transfer.read(href, Expected(largest=_SCENE_BYTES))
            document = orjson.loads(content)
            if document["type"] != "Feature" or f"{document['id']}.json" != name:
                continue
        except (LandpatchError, orjson.JSONDecodeError, KeyError, TypeError):
            continue  # the link goes on leading to where it led
        found[href] = f"scenes/{name}"
        replace_file(tree.place(found[href]), content)
    return found


def _write_catalogue(
    storage: Storage, manifest: Manifest, wanted: _Wanted, broken: Collection[str], scenes: Mapping[str, str]
) -> None:
    """Parts and catalogue of the chosen patches, but for those that are ``broken``."""
    paths: dict[str, dict[str, str]] = {}
    for file in wanted.files:
        paths.setdefault(file.item, {})[file.key] = file.path
    rows: dict[str, list[dict[str, Any]]] = {}
    for item in manifest.items():
        if item["id"] not in broken:
            rows.setdefault(item["properties"]["landpatch:scene"], []).append(
                _taken(item, paths[item["id"]], scenes, manifest)
            )
    ((name, source),) = manifest.collections.items()
    nomenclature = _nomenclature(manifest)
    written = set()
    for scene, documents in sorted(rows.items()):
        path = part_path(scene, _BLOCK)
        table = table_from_items(sorted(documents, key=lambda item: str(item["id"])))
        write_part(storage, path, table, collection=name, nomenclature=nomenclature, dropped={})
        written.add(path)
    storage.delete(
        path for path in storage.list("parts") if path.endswith(f"/{_BLOCK}.parquet") and path not in written
    )
    compact(storage, describe=lambda document: _described(document, source, manifest.origins[name]))


def _taken(
    item: Mapping[str, Any], paths: Mapping[str, str], scenes: Mapping[str, str], manifest: Manifest
) -> dict[str, Any]:
    """The item as it is in the download. Links to scenes that could not be had lead to where the source has them."""
    origin = manifest.origins[item["collection"]]
    links = [{"rel": "collection", "href": COLLECTION, "type": "application/json"}]
    links += [
        {**link, "href": scenes.get(link["href"]) or _at(link["href"], origin)}
        for link in item["links"]
        if link["rel"] == "derived_from"
    ]
    assets = {key: {**item["assets"][key], "href": path} for key, path in paths.items()}
    return {**item, "links": links, "assets": assets}


def _at(href: str, base: str) -> str:
    try:
        return absolute_href(href, base)
    except ValueError:
        return href


def _described(document: dict[str, Any], source: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """A subset's collection: its own extents and counts, the source's words, terms and credits."""
    told, declared = source.get("links"), source.get("stac_extensions")
    links = [
        link
        for link in (told if isinstance(told, list) else [])
        if isinstance(link, Mapping) and link.get("rel") in ABOUT_LINKS and isinstance(link.get("href"), str)
    ]
    own = [link for link in document["links"] if not links or link["rel"] not in ABOUT_LINKS]
    derived = {"rel": "derived_from", "href": origin, "type": "application/json", "title": "Taken from"}
    extensions = {*document["stac_extensions"]}
    extensions |= {
        url
        for url in (declared if isinstance(declared, list) else [])
        if isinstance(url, str) and "/scientific/" in url
    }
    return {
        # By what rule the source was split; a rule that the subset has itself comes after it.
        **{key: source[key] for key in ("landpatch:split_rule",) if isinstance(source.get(key), Mapping)},
        **document,
        **{key: source[key] for key in ABOUT if key in source},
        "links": [*own, *links, derived],
        "stac_extensions": sorted(extensions),
    }


def _write_plain(place: Path, manifest: Manifest, wanted: _Wanted, url: str, broken: Collection[str]) -> None:
    """Items that are no patches, beside their files, and a static catalogue of them."""
    paths: dict[tuple[str | None, str], dict[str, str]] = {}
    for file in wanted.files:
        paths.setdefault((file.collection, file.item), {})[file.key] = file.path
    entries = []
    tree = Tree(place)
    for item, folder in zip(manifest.items(), wanted.folders or (), strict=True):
        if item["id"] in broken:
            continue
        files = paths.get((item.get("collection"), item["id"]), {})
        assets = {
            key: {**item["assets"][key], "href": f"./{path.removeprefix(folder + '/')}"}
            for key, path in files.items()
        }
        links = [{"rel": "root", "href": "../../catalog.json", "type": "application/json"}]
        links += [
            {"rel": "derived_from", "href": link["href"], "type": "application/geo+json"}
            for link in item.get("links", ())
            if isinstance(link, Mapping) and link.get("rel") == "self" and isinstance(link.get("href"), str)
        ]
        document = {**item, "assets": assets, "links": links}
        document.pop("collection", None)  # STAC wants a link to it, and only its items were taken
        replace_file(tree.place(f"{folder}/{ITEM_FILE}"), json_bytes(document))
        entries.append({"rel": "item", "href": f"./{folder}/{ITEM_FILE}", "type": "application/geo+json"})
    catalog = {
        "type": "Catalog",
        "stac_version": STAC_VERSION,
        "id": "download",
        "description": f"{len(entries)} items taken from {shown(url)}",
        "links": [{"rel": "root", "href": "./catalog.json", "type": "application/json"}, *entries],
    }
    replace_file(place / "catalog.json", json_bytes(catalog))


# --- straight into an export --------------------------------------------------------------------------------------


def _export(
    place: Path,
    state: Path,
    manifest: Manifest,
    catalogue: _Catalogue,
    wanted: _Wanted,
    layout: Literal["folders", "lmdb"],
    watch: Watch,
) -> Outcome:
    """The chosen patches as the official tree or as an LMDB, by the exports that write them from a dataset."""
    # Here, because numba takes seconds to import and files that are only fetched are never decoded.
    from landpatch.catalog.exports.remote import RemoteFiles, export_remote

    folder = state / "catalogue"
    local = Storage.open(folder, create=True)
    if not manifest.finished:
        _write_catalogue(local, manifest, wanted, (), {})
    renewals = _Renewals(catalogue)
    files = {file.path: file for file in wanted.files}

    def fetch(path: str) -> bytes:
        file = files[path]
        return catalogue.transfer.read(file.href, file.expected, renewals.of(file))

    remote = RemoteFiles(shown(catalogue.url), folder, files.keys(), fetch)
    try:
        export_remote(remote, place, layout, lambda done, total: watch(Progress(done, total, catalogue.received)))
    except BaseException:
        catalogue.stop()
        raise
    manifest.write(finished=not remote.problems)
    return Outcome(wanted.items, remote.fetched, catalogue.received, remote.problems, manifest.refused)
