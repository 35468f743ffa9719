"""What an audit that was interrupted had read and found sound, so that the next one goes on from there.

One file a dataset in the user's cache folder, 16 bytes a patch, each a digest of what its item says and of the sizes
and entity tags of its files: where any of these has changed, the patch is read anew. A finished audit forgets it, and
the next one reads everything: files rot without changing their dates.
"""

import hashlib
from contextlib import suppress
from importlib.metadata import version
from typing import Any, BinaryIO

import orjson

from landpatch.catalog.cache import cache_folder

_BYTES = 16


def digest(value: Any) -> bytes:
    """Of plain JSON values."""
    return hashlib.blake2b(orjson.dumps(value), digest_size=_BYTES).digest()


class Journal:
    """Digests of sound patches of the dataset at ``url``, each noted at once; ``anew``: those noted before are not
    believed. Where nothing can be written, nothing is remembered.
    """

    def __init__(self, url: str, *, anew: bool = False) -> None:
        self._path = cache_folder() / "audits" / digest([url, version("landpatch")]).hex()
        self._file: BinaryIO | None = None
        if anew:
            self.forget()
        try:
            noted = self._path.read_bytes()
        except OSError:
            noted = b""
        # A killed process may have left half an entry at the end.
        self._whole = len(noted) // _BYTES * _BYTES
        self._known = {noted[at : at + _BYTES] for at in range(0, self._whole, _BYTES)}

    def __contains__(self, state: bytes) -> bool:
        return state in self._known

    def add(self, state: bytes) -> None:
        """Note one."""
        with suppress(OSError):
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("ab", buffering=0)
                self._file.truncate(self._whole)
            self._file.write(state)

    def forget(self) -> None:
        """Everything; the audit is finished."""
        if self._file is not None:
            self._file.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
