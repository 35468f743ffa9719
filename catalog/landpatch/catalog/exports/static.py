"""The dataset as a static STAC catalogue: plain JSON with relative links, for those without an API.

    collection.json                       the collection, its children the tiles
    <tile>/catalog.json                   a tile: its items where it has one scene and few, else its scenes
    <tile>/<scene>/catalog.json           a scene
    <tile>/<scene>/<patch>.json           an item, whatever leads to it
    <...>/page-<n>.json                   instead of more than MOST_LINKS children of one document

Half a million items are half a million objects: the catalogue itself is ``items.parquet``, this is for programs
that cannot read it.
"""

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from landpatch.catalog.errors import DatasetConflict, InvalidDataset
from landpatch.catalog.items import SCHEMA, items
from landpatch.catalog.scenes import STAC_VERSION
from landpatch.catalog.store import COLLECTION, ITEMS, Dataset, NotFound, Storage, json_bytes

MARKER = "landpatch.json"
"""Which scenes were written there, and in which state."""

MOST_LINKS = 1000
"""Children of one document; a browser shows no more, and 1000 items are 250 kB."""

_CATALOG = "catalog.json"
_JSON, _GEOJSON = "application/json", "application/geo+json"
_BATCH = 1024
_AHEAD = 256  # documents under way; one has some 6 kB
# Links that are made anew; what else a document of the dataset links to is kept.
_OWN_LINKS = ("self", "root", "parent", "collection", "child", "item", "items")


@dataclass(frozen=True, slots=True)
class Written:
    """What an export left behind: ``items``, ``documents``, and how many of these were ``changed``."""

    items: int
    documents: int
    changed: int


def export_static(
    dataset: Dataset,
    destination: str | os.PathLike[str],
    *,
    assets_at: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Write the dataset's items as a static catalogue to ``destination`` (a folder or ``s3://``).

    Hrefs of the patch files are relative where ``destination`` lies inside the dataset, so that both can be moved
    together; else absolute: below ``assets_at`` (a URL at which the dataset's root can be read), or where the
    dataset lies. A run that was interrupted goes on scene by scene; a second one changes nothing; documents of
    patches that are gone are removed. ``progress`` gets (items done, all items).

    Raises DatasetConflict where something else lies at the destination, InvalidDataset, StorageError.
    """
    target = Storage.open(destination, create=True)
    known = _claim(target, dataset)
    base = _Base.of(dataset.storage.url, target.url, assets_at)
    overview = dataset.table(["landpatch:tile", "landpatch:scene"])
    scenes = Counter(zip(*(column.to_pylist() for column in overview.columns), strict=True))
    tiles: dict[str, dict[str, int]] = {}
    for (tile, scene), count in sorted(scenes.items()):
        tiles.setdefault(tile, {})[scene] = count
    work = _Work(target, base, known, progress or (lambda *_: None), overview.num_rows)
    with ThreadPoolExecutor(target.threads) as pool:
        try:
            for scene, rows in _scenes(dataset):
                work.scene(pool, scene, rows, direct=len(tiles[rows[0]["properties"]["landpatch:tile"]]) == 1)
            work.overviews(pool, dataset.collection(), tiles)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return Written(overview.num_rows, work.documents, work.changed)


def _claim(target: Storage, dataset: Dataset) -> dict[str, str]:
    """Digests of the scenes that are there. Raises DatasetConflict."""
    try:
        marker = target.get_json(MARKER)
        return dict(marker["static"])
    except NotFound:
        if target.exists(ITEMS) or target.exists(COLLECTION):
            raise DatasetConflict(
                f"{target.url} holds a collection that this export did not put there: choose another destination, "
                f"such as {dataset.storage.url}/stac"
            ) from None
        return {}
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetConflict(f"{target.url}/{MARKER} is of another export: choose another destination") from error


@dataclass(frozen=True, slots=True)
class _Base:
    """Where the dataset's files are, seen from the catalogue: an absolute address, or ``up`` so many folders."""

    address: str
    up: int | None

    @classmethod
    def of(cls, dataset: str, target: str, assets_at: str | None) -> "_Base":
        if assets_at is not None:
            return cls(assets_at.rstrip("/"), None)
        inside = f"{target}/".startswith(f"{dataset.rstrip('/')}/")
        return cls(dataset, len(PurePosixPath(target[len(dataset) :].strip("/")).parts) if inside else None)

    def href(self, href: str, document: str) -> str:
        """The href of a file of the dataset, for the document at this path of the catalogue."""
        if "://" in href or href.startswith("/"):
            return href
        if self.up is None:
            return f"{self.address}/{href}"
        return "../" * (self.up + document.count("/")) + href


def _scenes(dataset: Dataset) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The items of one scene after the other: they are sorted by id, and ids begin with the scene."""
    for scene, rows in groupby(_items(dataset), key=lambda item: item["properties"]["landpatch:scene"]):
        yield scene, list(rows)


def _items(dataset: Dataset) -> Iterator[dict[str, Any]]:
    with dataset.storage.open_parquet(ITEMS) as file:
        try:
            for batch in file.iter_batches(_BATCH):
                yield from items(pa.Table.from_batches([batch]).select(SCHEMA.names))
        except (pa.ArrowException, OSError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise InvalidDataset(f"{dataset.storage.url}/{ITEMS} is damaged: {reason}; restore it") from error


@dataclass(slots=True)
class _Work:
    """Writes documents and counts them; ``known`` are the digests of scenes that are there."""

    target: Storage
    base: _Base
    known: dict[str, str]
    progress: Callable[[int, int], None]
    total: int
    done: int = 0
    documents: int = 0
    changed: int = 0
    made: dict[str, str] = field(default_factory=dict)

    def scene(self, pool: ThreadPoolExecutor, scene: str, rows: Sequence[dict[str, Any]], *, direct: bool) -> None:
        """All documents of one scene. ``direct``: the tile leads to its items, where they are few."""
        tile = rows[0]["properties"]["landpatch:tile"]
        if scene in self.made:
            raise InvalidDataset(f"{ITEMS} is not sorted by id (scene {scene} comes again): build it again")
        folder = f"{tile}/{scene}"
        above = f"{tile}/{_CATALOG}"
        links = [_Child("item", f"{folder}/{item['id']}.json", item["id"]) for item in rows]
        documents: dict[str, bytes] = {}
        if direct and len(rows) <= MOST_LINKS:
            parents = dict.fromkeys((link.path for link in links), above)
        else:
            title = f"{len(rows):,} patches, {rows[0]['properties']['datetime'][:10]}"
            documents, parents = _catalogs(f"{folder}/{_CATALOG}", scene, title, above, links)
        for item, link in zip(rows, links, strict=True):
            documents[link.path] = json_bytes(self._item(item, link.path, parents[link.path]))
        digest = hashlib.sha256()
        for path, content in sorted(documents.items()):
            digest.update(f"{path}\n{len(content)}\n".encode() + content)
        there = self.target.sizes(folder)
        if self.known.get(scene) != digest.hexdigest() or there != {
            path: len(content) for path, content in documents.items()
        }:
            self._put(pool, documents)
            self.target.delete(sorted(set(there) - set(documents)))
        else:
            self.documents += len(documents)
        self.made[scene] = digest.hexdigest()
        self._note({**self.known, **self.made})
        self.done += len(rows)
        self.progress(self.done, self.total)

    def overviews(
        self, pool: ThreadPoolExecutor, collection: dict[str, Any], tiles: Mapping[str, Mapping[str, int]]
    ) -> None:
        """The documents of tiles, and last the collection: whoever finds it finds the rest."""
        documents: dict[str, bytes] = {}
        children = [_Child("child", f"{tile}/{_CATALOG}", tile) for tile in tiles]
        pages, parents = _paged(COLLECTION, str(collection["id"]), COLLECTION, children)
        for tile, scenes in tiles.items():
            path = f"{tile}/{_CATALOG}"
            title = f"Tile {tile}: {sum(scenes.values()):,} patches"
            (scene, count), *more = scenes.items()
            if not more and count <= MOST_LINKS:
                ids = sorted(self.target.sizes(f"{tile}/{scene}"))
                links = [_Child("item", item, PurePosixPath(item).stem) for item in ids]
            else:
                links = [_Child("child", f"{tile}/{scene}/{_CATALOG}", scene) for scene in scenes]
            documents |= _catalogs(path, tile, title, parents[path], links)[0]
        documents |= {path: json_bytes(page) for path, page in pages.items() if path != COLLECTION}
        self._put(pool, documents)
        self._put(pool, {COLLECTION: json_bytes(self._collection(collection, pages[COLLECTION]["links"]))})
        gone = sorted(set(self.known) - set(self.made))
        for scene in gone:  # a scene's name ends with _T and its tile
            self.target.delete(self.target.list(f"{scene[-5:]}/{scene}"))
        self.target.delete(f"{tile}/{_CATALOG}" for tile in {scene[-5:] for scene in gone} - set(tiles))
        self._note(self.made)

    def _note(self, scenes: Mapping[str, str]) -> None:
        self.target.put_changed(MARKER, json_bytes({"static": dict(scenes)}))

    def _item(self, item: dict[str, Any], path: str, parent: str) -> dict[str, Any]:
        kept = [link for link in item["links"] if link["rel"] not in _OWN_LINKS]
        return {
            **item,
            "links": [
                _link("root", COLLECTION, path),
                _link("parent", parent, path),
                _link("collection", COLLECTION, path),
                *({**link, "href": self.base.href(link["href"], path)} for link in kept),
            ],
            "assets": {
                key: {**asset, "href": self.base.href(asset["href"], path)} for key, asset in item["assets"].items()
            },
        }

    def _collection(self, collection: dict[str, Any], links: Sequence[dict[str, str]]) -> dict[str, Any]:
        kept = [link for link in collection.get("links", ()) if link["rel"] not in _OWN_LINKS]
        return {
            **collection,
            "links": [*links, *({**link, "href": self.base.href(link["href"], COLLECTION)} for link in kept)],
            "assets": {
                key: {**asset, "href": self.base.href(asset["href"], COLLECTION)}
                for key, asset in collection.get("assets", {}).items()
            },
        }

    def _put(self, pool: ThreadPoolExecutor, documents: Mapping[str, bytes]) -> None:
        """Write what is not there or differs, several at a time."""
        waiting: deque[Future[bool]] = deque()
        for path, content in documents.items():
            waiting.append(pool.submit(self.target.put_changed, path, content))
            if len(waiting) >= _AHEAD:
                self.changed += waiting.popleft().result()
        self.changed += sum(future.result() for future in waiting)
        self.documents += len(documents)


@dataclass(frozen=True, slots=True)
class _Child:
    rel: str
    path: str
    title: str


def _catalogs(
    path: str, name: str, title: str, parent: str, children: Sequence[_Child]
) -> tuple[dict[str, bytes], dict[str, str]]:
    """A catalogue, and its pages where its children are many; and the document that each child hangs on."""
    pages, parents = _paged(path, name, parent, children)
    pages[path]["description"] = title
    return {place: json_bytes(page) for place, page in pages.items()}, parents


def _paged(
    path: str, name: str, parent: str, children: Sequence[_Child]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    if len(children) <= MOST_LINKS:
        return {path: _catalog(path, name, name, parent, children)}, dict.fromkeys(
            (child.path for child in children), path
        )
    folder = path.rpartition("/")[0]
    pages: dict[str, dict[str, Any]] = {}
    parents: dict[str, str] = {}
    entries = []
    for number, start in enumerate(range(0, len(children), MOST_LINKS), 1):
        part = children[start : start + MOST_LINKS]
        place = f"{folder}/page-{number}.json".lstrip("/")
        title = f"{part[0].title} to {part[-1].title}"
        pages[place] = _catalog(place, f"{name}-page-{number}", title, path, part)
        parents |= dict.fromkeys((child.path for child in part), place)
        entries.append(_Child("child", place, title))
    pages[path] = _catalog(path, name, name, parent, entries)
    return pages, parents


def _catalog(path: str, name: str, description: str, parent: str, children: Sequence[_Child]) -> dict[str, Any]:
    links = [_link("root", COLLECTION, path)]
    if parent != path:
        links.append(_link("parent", parent, path))
    links += [{**_link(child.rel, child.path, path), "title": child.title} for child in children]
    return {"type": "Catalog", "stac_version": STAC_VERSION, "id": name, "description": description, "links": links}


def _link(rel: str, path: str, document: str) -> dict[str, str]:
    """A link from one document of the catalogue to another, relative."""
    href = os.path.relpath(f"/{path}", f"/{document}/..").replace(os.sep, "/")
    return {
        "rel": rel,
        "href": href if href.startswith("../") else f"./{href}",
        "type": _GEOJSON if rel == "item" else _JSON,
    }
