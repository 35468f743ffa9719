"""Reading small files whole, wherever they lie: a local path, ``file://``, ``http(s)://`` or ``s3://``."""

import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit

from landpatch.catalog.errors import StorageError, UnreadableAsset
from landpatch.catalog.signing import signed_href, without_secrets

_TIMEOUT = 60.0


def is_remote(href: str) -> bool:
    """Whether ``href`` is a URL of another machine."""
    return href.startswith(("http://", "https://", "s3://"))


def local_path(href: str) -> Path:
    """The absolute path of a local href, ``file://`` or plain."""
    path = unquote(urlsplit(href).path) if href.startswith("file://") else href
    return Path(path).absolute()


def absolute(href: str) -> str:
    """``href`` so that it means the same in every working directory."""
    return href if is_remote(href) else str(local_path(href))


def read_bytes(href: str) -> bytes:
    """The whole content of ``href``, signed where it needs a token. Raises as ``signed_href``, UnreadableAsset."""
    scheme = href.partition("://")[0]
    try:
        if scheme in ("http", "https"):
            with urllib.request.urlopen(signed_href(href), timeout=_TIMEOUT) as answer:
                content: bytes = answer.read()
                return content
        if scheme == "s3":
            # Pulls in Arrow, 28 MB of memory that reading a SAFE folder can do without.
            from landpatch.catalog.store import Storage

            parent, _, name = href.rpartition("/")
            return Storage.open(parent).get(name)
        return local_path(href).read_bytes()
    except (OSError, HTTPException, ValueError, StorageError) as error:
        if isinstance(error, HTTPError):
            error.close()
        raise UnreadableAsset(without_secrets(f"{href} cannot be read: {error}")) from error
