"""Exports of a dataset whose patch files lie elsewhere, and are fetched when an export reads them."""

import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal

from obstore.store import LocalStore

from landpatch.catalog.errors import InvalidDataset, LandpatchError
from landpatch.catalog.exports.folders import export_folders
from landpatch.catalog.exports.lmdb import export_lmdb
from landpatch.catalog.exports.sources import DamagedFile
from landpatch.catalog.store import Dataset, Storage


class RemoteFiles(Storage):
    """The storage of a dataset known as ``url``, whose catalogue lies in ``folder`` and whose files ``paths`` come by
    ``fetch``. ``problems`` has those that did not come, with the reasons; ``fetched`` counts the others.
    """

    def __init__(self, url: str, folder: Path, paths: Collection[str], fetch: Callable[[str], bytes]) -> None:
        super().__init__(url, LocalStore(folder))
        self.problems: dict[str, str] = {}
        self.fetched = 0
        self._paths, self._fetch = paths, fetch
        self._changing = threading.Lock()

    def get(self, path: str) -> bytes:
        """The whole object. Raises DamagedFile for a patch file that cannot be had: exports go on without it."""
        if path not in self._paths:
            return super().get(path)
        try:
            content = self._fetch(path)
        except LandpatchError as error:
            with self._changing:
                self.problems[path] = str(error)
            raise DamagedFile(str(error)) from error
        with self._changing:
            self.fetched += 1
        return content


def export_remote(
    files: RemoteFiles, place: Path, layout: Literal["folders", "lmdb"], progress: Callable[[int, int], None]
) -> None:
    """Write the dataset to ``place``. Files that do not come are in ``files.problems``; raises what exports raise."""
    try:
        if layout == "lmdb":
            export_lmdb(Dataset(files), place, progress=progress)
        else:
            export_folders(Dataset(files), place, progress=progress)
    except InvalidDataset:
        if not files.problems:
            raise
