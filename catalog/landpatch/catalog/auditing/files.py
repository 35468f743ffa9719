"""Whether the files of a dataset are there, are those that the items record, and hold what they say.

Listings are compared a scene at a time: of half a million patches nothing is kept but the counts.
"""

import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from landpatch.catalog.auditing.findings import Finding, Findings, Kind, Severity
from landpatch.catalog.bands import PATCH_ASSETS, PatchAsset
from landpatch.catalog.cogs import has_header, read_planes
from landpatch.catalog.errors import InvalidDataset, StorageError, UnreadableAsset
from landpatch.catalog.items import THUMBNAIL, item_from_row
from landpatch.catalog.schemas import validate_item
from landpatch.catalog.store import NotFound, Storage

PATCHES = "patches"

_ASSETS = {asset.key: asset for asset in PATCH_ASSETS}
_THREADS = 16  # of one reader each: requests in flight hide the way to S3, and hashing lets others run
_SHA256 = "1220"  # multihash (multiformats.io): code 0x12 = sha-256, length 0x20
_HEADER_BYTES = 4096  # CogEncoder's are under 1 kB
_STAGED = re.compile(r"#\d+$")  # see store: files that a killed writer left unfinished
_EPSG = re.compile(r"EPSG:(\d+)\Z", re.ASCII)
_RESTORE = "restore it, or build its scene again"


@dataclass
class FileCheck:
    """Checks the files of rows of ``items.parquet``, which come sorted by id; counts what it did.

    ``listed`` files were looked for, ``read`` were read as a whole (``bytes``), ``elsewhere`` have an href that leads
    out of the dataset, ``without`` counts patches without any asset.
    """

    storage: Storage
    findings: Findings
    listed: int = 0
    read: int = 0
    bytes: int = 0
    elsewhere: int = 0
    without: int = 0
    _folder: str = ""
    _there: dict[str, int] = field(default_factory=dict)
    _owned: set[str] = field(default_factory=set)
    _seen: set[str] = field(default_factory=set)

    def check(self, rows: Iterable[Mapping[str, Any]], chosen: Callable[[str], bool]) -> None:
        """Whether the files of these rows are there; those of ``chosen`` ids are read, and their items validated."""
        tasks = (task for row in rows for task in self._tasks(row, read=chosen(row["id"])))
        with ThreadPoolExecutor(_THREADS) as pool:
            waiting: deque[Future[list[Finding]]] = deque()
            try:
                for task in tasks:
                    waiting.append(pool.submit(task))
                    if len(waiting) >= 4 * _THREADS:
                        self.findings.add_all(waiting.popleft().result())
                while waiting:
                    self.findings.add_all(waiting.popleft().result())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _tasks(self, row: Mapping[str, Any], *, read: bool) -> Iterator[Callable[[], list[Finding]]]:
        assets = {key: asset for key, asset in row["assets"].items() if asset is not None and asset["href"]}
        self.without += not assets
        patch = row["id"]
        if read:
            yield lambda: list(_stac(row))
        for key, asset in assets.items():
            href = asset["href"]
            if "://" in href or href.startswith("/"):
                self.elsewhere += 1
                continue
            self.listed += 1
            size = self._listed(href)
            if size is None:
                self.findings.add(Kind.MISSING, f"{href} is not there: {_RESTORE}", patch=patch, file=href)
            elif asset.get("file:size") not in (None, size):
                text = f"{href} has {size:,} bytes, its item says {asset['file:size']:,}: {_RESTORE}"
                self.findings.add(Kind.SIZE, text, patch=patch, file=href)
            elif read:
                self.read += 1
                self.bytes += size
                yield _File(self.storage, patch, key, asset, row["proj:code"])

    def _listed(self, href: str) -> int | None:
        """The size of a file, None where there is none; a scene's folder is listed when it is first needed."""
        folder = "/".join(href.split("/")[:-2]) or href.rpartition("/")[0]
        if folder != self._folder:
            self._finish()
            self._folder = folder
            try:
                self._there = self.storage.sizes(folder)
            except StorageError as error:  # such as a path that leads out of the dataset
                self._there = {}
                self.findings.add(Kind.UNREADABLE, str(error), file=folder)
        self._owned.add(href)
        return self._there.get(href)

    def _finish(self) -> None:
        """What is left of a scene's listing belongs to nobody."""
        if self._folder and self._folder not in self._seen:
            if self._folder.startswith(PATCHES):
                for path in sorted(self._there.keys() - self._owned):
                    self._orphan(path)
                for path in _unfinished(self.storage, self._folder):
                    self._orphan(path)
            self._seen.add(self._folder)
        self._folder, self._there, self._owned = "", {}, set()

    def _orphan(self, path: str) -> None:
        self.findings.add(Kind.ORPHAN, "belongs to no item: remove it", file=path, severity=Severity.WARNING)

    def finish(self) -> None:
        """Look for folders of scenes that no item knows. Call it once, after all rows."""
        self._finish()
        for tile in self.storage.folders(PATCHES):
            for scene in self.storage.folders(tile):
                if scene not in self._seen:
                    count = len(self.storage.sizes(scene))
                    self.findings.add(
                        Kind.ORPHAN,
                        f"holds {count:,} files of no item: `landpatch build` catalogues them, or remove it",
                        file=scene,
                        severity=Severity.WARNING,
                    )


def _unfinished(storage: Storage, folder: str) -> list[str]:
    if storage.folder is None:
        return []
    files = (storage.folder / folder).rglob("*#*")
    return sorted(str(file.relative_to(storage.folder)) for file in files if _STAGED.search(file.name))


def _stac(row: Mapping[str, Any]) -> Iterator[Finding]:
    try:
        validate_item(item_from_row(row))
    except InvalidDataset as error:
        yield Finding(Kind.STAC, Severity.ERROR, row["id"], "", f"{error}: build it again")
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        text = f"its row is no item ({type(error).__name__}: {error}): build it again"
        yield Finding(Kind.STAC, Severity.ERROR, row["id"], "", text)


@dataclass(frozen=True, slots=True)
class _File:
    """One file to be read: checksum, header against what the item says, and whether its pixels decode."""

    storage: Storage
    patch: str
    key: str
    asset: Mapping[str, Any]
    code: str | None

    def __call__(self) -> list[Finding]:
        href = self.asset["href"]
        try:
            data = self.storage.get(href)
        except NotFound:
            return [self._finding(Kind.MISSING, f"{href} is not there any more: {_RESTORE}")]
        except StorageError as error:
            return [self._finding(Kind.UNREADABLE, str(error))]
        recorded = self.asset.get("file:checksum")
        if recorded is None:
            text = f"{href} has no checksum in its item, so nobody can tell whether it is sound"
            return [self._finding(Kind.CHECKSUM, text, Severity.NOTE)]
        if recorded != _SHA256 + hashlib.sha256(data).hexdigest():
            # What is wrong inside follows from that: one finding a file is enough.
            return [self._finding(Kind.CHECKSUM, f"{href} is not the file that its item describes: {_RESTORE}")]
        if self.key == THUMBNAIL:
            return []
        return list(chain(self._header(data), self._pixels(data)))

    def _finding(self, kind: Kind, text: str, severity: Severity = Severity.ERROR) -> Finding:
        return Finding(kind, severity, self.patch, self.asset["href"], text)

    def _header(self, data: bytes) -> Iterator[Finding]:
        asset, says = _ASSETS[self.key], self.asset
        transform, match = list(says["proj:transform"] or ()), _EPSG.match(self.code or "")
        same = transform[:2] == [asset.resolution, 0] and transform[3:5] == [0, -asset.resolution]
        zone = int(match[1]) if match else 0
        if same and zone // 100 in (326, 327) and has_header(data, asset, zone, transform[2], transform[5]):
            return
        yield from (
            self._finding(
                Kind.HEADER, f"{says['href']}: {problem}; its item is wrong, or it is another file: {_RESTORE}"
            )
            for problem in _differences(data, asset, says, self.code)
        )

    def _pixels(self, data: bytes) -> Iterator[Finding]:
        try:
            read_planes(data, _ASSETS[self.key])
        except UnreadableAsset as error:
            yield self._finding(Kind.PIXELS, f"{self.asset['href']}: {error}: {_RESTORE}")


def _differences(data: bytes, asset: PatchAsset, says: Mapping[str, Any], code: str | None) -> list[str]:
    """Where a file, as GDAL reads it, is not what its item says."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError, RasterioError
    from rasterio.io import MemoryFile

    try:
        with MemoryFile(data, filename="patch.tif") as memory, memory.open(driver="GTiff") as file:
            epsg = file.crs.to_epsg() if isinstance(file.crs, CRS) else None
            found = {
                "proj:code": None if epsg is None else f"EPSG:{epsg}",
                "proj:shape": [file.height, file.width],
                "proj:transform": [float(number) for number in file.transform[:6]],
                "data_type": file.dtypes[0],
                "bands": [name or "" for name in file.descriptions],
                "nodata": file.nodata,
            }
    except (RasterioError, CRSError) as error:
        return [f"GDAL cannot read its header ({error})"]
    said = {**says, "proj:code": code, "bands": [band["name"] for band in says["bands"] or ()]}
    if len(found["bands"]) == len(asset.planes) and not any(found["bands"]):
        found["bands"] = said["bands"]  # a file need not name its bands
    return [
        f"{name} is {value} in the file and {said.get(name)} in its item"
        for name, value in found.items()
        if value != said.get(name)
    ]
