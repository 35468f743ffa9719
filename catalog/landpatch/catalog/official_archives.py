"""The published archives (``BigEarthNet-S2.tar.zst`` ...), read as a stream from front to back: nothing is unpacked.

What an archive says is not believed. Its names never become paths: a file counts as the band of a patch when its name
is of the official form and the patch is in the tables. Links, devices, names that lead elsewhere, files twice,
files larger than any of the dataset, and an archive that ends early are refused. Memory: the files of at most PENDING
patches, and 4 MiB for whatever stands between two files.
"""

import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from landpatch.catalog.bands import band_files
from landpatch.catalog.errors import InvalidSource
from landpatch.catalog.names import PatchId, RadarPatchName
from landpatch.catalog.official_layout import TREES, OfficialFile, official_file
from landpatch.catalog.official_pixels import LARGEST_FILE

PENDING = 256
"""Patches of which some but not all files have been read; in the published archives a patch's files lie together."""

_BUFFER = 2**18
_ALLOWANCE = 2**22  # bytes from one file to the next: its own, padding, long names
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class PatchFiles:
    """The files of one patch in one tree: their bytes by band; ``number`` is the caller's for the patch."""

    number: int
    bands: dict[str, bytes]


class ArchiveReader:
    """One pass over an archive of one tree.

    ``number_of`` gives the caller's number of a patch (None: it is in no table) below ``count``; patches of ``done``
    (shape (count,), bool) are passed over. ``ignored`` counts files of no such patch, ``incomplete`` has the numbers
    of patches that lack files. ``report`` gets (bytes read, bytes of the archive).
    """

    def __init__(
        self,
        path: Path,
        tree: str,
        number_of: Callable[[PatchId | RadarPatchName], int | None],
        done: NDArray[np.bool_],
        report: Callable[[int, int], None],
    ) -> None:
        self.ignored = 0
        self.incomplete: list[int] = []
        self._path, self._tree, self._number_of, self._done, self._report = path, tree, number_of, done, report
        bands = [band.key for asset in TREES[tree] for band in band_files(asset)]
        self._bits = {band: 1 << place for place, band in enumerate(bands)}
        self._seen = np.zeros(len(done), np.uint16)  # which bands of each patch have been read

    def __iter__(self) -> Iterator[PatchFiles]:
        """The patches in the archive's order. Raises InvalidSource naming archive and member."""
        try:
            yield from self._patches()
        except (OSError, tarfile.TarError, EOFError, UnicodeError, ValueError) as error:
            reason = "it is truncated" if "runcated" in str(error) or "unexpected end" in str(error) else str(error)
            raise InvalidSource(f"{self._path} is no sound .tar.zst archive: {reason}") from error

    def _patches(self) -> Iterator[PatchFiles]:
        size = self._path.stat().st_size
        pending: dict[int, dict[str, bytes]] = {}
        with pa.OSFile(str(self._path)) as file, closing(_Stream(self._path, file)) as stream:
            archive = tarfile.open(None, "r|", cast("Any", stream), _BUFFER)  # noqa: SIM115 - closes nothing
            while (member := archive.next()) is not None:
                cast("Any", archive).members = []  # which would grow to gigabytes
                stream.allow()
                self._report(file.tell(), size)
                found = self._checked(member)
                if found is None:
                    continue
                number = self._first_time(found, member.name)
                if number is None or self._done[number]:
                    continue
                bands = pending.setdefault(number, {})
                content = archive.extractfile(member)
                bands[found.band.key] = b"" if content is None else content.read()
                if len(bands) == len(self._bits):
                    yield PatchFiles(number, pending.pop(number))
                elif len(pending) > PENDING:
                    raise InvalidSource(
                        f"{self._path}: the files of more than {PENDING} patches lie apart from each other, first of "
                        f"{member.name}: pack it anew, folder by folder"
                    )
            stream.finish(archive.offset)
            self._report(size, size)
        self.incomplete = sorted(pending)

    def _checked(self, member: tarfile.TarInfo) -> OfficialFile | None:
        """The file that a member is; None for folders and what does not belong to the dataset."""
        name = member.name
        shown = f"{self._path}: {name[:200]!r}"
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or "\0" in name:
            raise InvalidSource(f"{shown} leads out of the archive: it is refused")
        if member.isdir():
            return None
        if not member.isreg() or member.issparse():
            kind = next((word for test, word in _KINDS if test(member)), "special file")
            raise InvalidSource(f"{shown} is a {kind}: only plain files are taken, the archive is refused")
        if member.size > LARGEST_FILE:
            raise InvalidSource(f"{shown} has {member.size:,} bytes, more than any file of a patch: it is refused")
        found = official_file(str(PurePosixPath(name)))
        if found is None or found.tree != self._tree:
            self.ignored += 1
            return None
        return found

    def _first_time(self, found: OfficialFile, name: str) -> int | None:
        number = self._number_of(found.patch)
        if number is None:
            self.ignored += 1
            return None
        bit = self._bits[found.band.key]
        if int(self._seen[number]) & bit:
            raise InvalidSource(
                f"{self._path}: {name!r} is there twice: which one is meant is unknown, it is refused"
            )
        self._seen[number] |= bit
        return number


_KINDS: tuple[tuple[Callable[[tarfile.TarInfo], bool], str], ...] = (
    (tarfile.TarInfo.issym, "symbolic link"),
    (tarfile.TarInfo.islnk, "hard link"),
    (tarfile.TarInfo.isdev, "device"),
    (tarfile.TarInfo.issparse, "sparse file"),
)


class _Stream:
    """The decompressed bytes, as tarfile reads them: no more than an allowance from one member to the next."""

    def __init__(self, path: Path, file: Any) -> None:
        self._path = path
        self._raw = pa.CompressedInputStream(file, "zstd")
        self._left = _ALLOWANCE
        self._delivered = 0
        self._tail = b""

    def read(self, size: int) -> bytes:
        """Raises InvalidSource where a member asks for more than it may."""
        self._left -= size
        if self._left < 0:
            raise InvalidSource(
                f"{self._path}: more than {_ALLOWANCE:,} bytes between two files (a name or header of that size, or "
                "an endless one): it is refused"
            )
        data: bytes = self._raw.read(size)
        self._delivered += len(data)
        self._tail = (self._tail + data)[-2 * _BUFFER :]
        return data

    def allow(self) -> None:
        """The next member begins."""
        self._left = _ALLOWANCE

    def finish(self, end: int) -> None:
        """Read what stands behind ``end``, where tarfile found no more member. Raises InvalidSource, OSError."""
        self.allow()
        rest = self._tail[len(self._tail) - (self._delivered - end) :] if self._delivered > end else b""
        while data := self.read(_BUFFER):
            rest += data
        # Two blocks of zeros end an archive (POSIX ustar); tarfile takes damage for an end, too.
        if len(rest) < 2 * _BLOCK or rest.strip(b"\0"):
            raise InvalidSource(f"{self._path} is damaged or ends early, {end:,} bytes into the archive")

    def close(self) -> None:
        """Let go of the decompressor."""
        self._raw.close()
