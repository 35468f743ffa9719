"""Whether the files of a dataset are there, are those that the items record, and hold what they say.

Listings are compared a scene at a time: of half a million patches nothing is kept but counts, and while an audit is
unfinished 16 bytes each of those that are sound.
"""

import hashlib
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from landpatch.catalog.auditing.findings import Finding, Findings, Kind, Severity
from landpatch.catalog.auditing.journal import Journal, digest
from landpatch.catalog.bands import PATCH_ASSETS, PatchAsset
from landpatch.catalog.cogs import has_header, read_planes
from landpatch.catalog.errors import StorageError, UnreadableAsset
from landpatch.catalog.items import THUMBNAIL
from landpatch.catalog.official_layout import BAND_FILES
from landpatch.catalog.store import NotFound, Storage

PATCHES = "patches"

_ASSETS = {asset.key: asset for asset in (*BAND_FILES, *PATCH_ASSETS)}
_THREADS = 16  # of one reader each: requests in flight hide the way to S3, and hashing lets others run
_SHA256 = "1220"  # multihash (multiformats.io): code 0x12 = sha-256, length 0x20
_HEADER_BYTES = 4096  # CogEncoder's are under 1 kB
_STAGED = re.compile(r"#\d+$")  # see store: files that a killed writer left unfinished
_EPSG = re.compile(r"EPSG:(\d+)\Z", re.ASCII)
_ELSEWHERE = re.compile("^(/|.*://)")
_RESTORE = "restore it, or build its scene again"


@dataclass
class FileCheck:
    """Checks the files of rows of ``items.parquet``, which come sorted by id; counts what it did.

    ``listed`` files were looked for, ``read`` were read as a whole (``bytes``), of these ``remembered`` by an audit
    that was interrupted (``journal``); ``elsewhere`` have an href that leads out of the dataset, ``without`` counts
    patches without any asset.
    """

    storage: Storage
    findings: Findings
    journal: Journal
    listed: int = 0
    read: int = 0
    bytes: int = 0
    remembered: int = 0
    elsewhere: int = 0
    without: int = 0
    _folder: str = ""
    _there: dict[str, tuple[int, str]] = field(default_factory=dict)
    _owned: set[str] = field(default_factory=set)
    _seen: set[str] = field(default_factory=set)

    def check(self, table: pa.Table, chosen: NDArray[np.bool_]) -> None:
        """Whether the files of these rows are there; those of ``chosen`` rows are read."""
        assets = table.column("assets").combine_chunks()
        anywhere, here = np.zeros(len(assets), bool), np.zeros(len(assets), bool)
        for asset in assets.flatten():
            href = pc.fill_null(pc.struct_field(asset, "href"), "")
            there = np.asarray(pc.not_equal(href, ""))
            outside = there & np.asarray(pc.match_substring_regex(href, _ELSEWHERE.pattern))
            self.elsewhere += int(outside.sum())
            anywhere |= there
            here |= there & ~outside
        self.without += int((~anywhere).sum())
        # Of half a million patches without files no Python object is made.
        rows = table.select(["id", "proj:code", "assets"]).filter(pa.array(here)).to_pylist()
        tasks = (self._patch(row, read=read) for row, read in zip(rows, chosen[here].tolist(), strict=True))
        with ThreadPoolExecutor(_THREADS) as pool:
            waiting: deque[tuple[_Patch, Future[list[Finding]]]] = deque()
            try:
                for task in filter(None, tasks):
                    waiting.append((task, pool.submit(task)))
                    if len(waiting) >= 2 * _THREADS:
                        self._take(*waiting.popleft())
                while waiting:
                    self._take(*waiting.popleft())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _take(self, patch: "_Patch", found: "Future[list[Finding]]") -> None:
        findings = found.result()
        self.findings.add_all(findings)
        if patch.state and not findings:
            self.journal.add(patch.state)

    def _patch(self, row: Mapping[str, Any], *, read: bool) -> "_Patch | None":
        """Look for a patch's files; what is to be read of them."""
        patch, files, states = row["id"], [], []
        for key, asset in row["assets"].items():
            href = "" if asset is None else asset["href"] or ""
            if not href or _ELSEWHERE.match(href):
                continue
            self.listed += 1
            size, tag = self._listed(href) or (None, "")
            states.append(tag)
            if size is None:
                self.findings.add(Kind.MISSING, f"{href} is not there: {_RESTORE}", patch=patch, file=href)
            elif asset.get("file:size") not in (None, size):
                text = f"{href} has {size:,} bytes, its item says {asset['file:size']:,}: {_RESTORE}"
                self.findings.add(Kind.SIZE, text, patch=patch, file=href)
            elif read:
                self.read += 1
                self.bytes += size
                files.append(_File(self.storage, patch, key, asset, row["proj:code"]))
        if not files:
            return None
        state = digest([row, states]) if len(files) == len(states) else b""
        if state in self.journal:
            self.remembered += len(files)
            return None
        return _Patch(state, files)

    def _listed(self, href: str) -> tuple[int, str] | None:
        """Size and tag of a file, None where there is none; a scene's folder is listed when it is first needed."""
        folder = "/".join(href.split("/")[:-2]) or href.rpartition("/")[0]
        if folder != self._folder:
            self._finish()
            self._folder = folder
            try:
                self._there = self.storage.states(folder)
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


@dataclass(frozen=True, slots=True)
class _Patch:
    """The files of a patch that are to be read; ``state``: digest of what they and its item are, empty: not to be
    noted.
    """

    state: bytes
    files: Sequence[_File]

    def __call__(self) -> list[Finding]:
        return [finding for file in self.files for finding in file()]


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
