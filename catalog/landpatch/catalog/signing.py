"""Signatures of hrefs: taken off before anything is stored, put on when a file is opened.

The Planetary Computer's files lie in Azure's blob storage and open with a token (a shared access signature, SAS) in
the address, which is valid for less than an hour. A stored one is useless tomorrow and a secret today.
"""

import re
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from landpatch.catalog.errors import InvalidItem, MissingComponent, UnreadableAsset

Item = Mapping[str, Any]

_BLOBS = ".blob.core.windows.net"
_PUBLIC = {"ai4edatasetspublicassets.blob.core.windows.net"}  # thumbnails, open to all; planetary_computer.sas
_KEPT = {
    "snapshot",
    "versionid",
}  # parameters of a blob's address that say which blob, not who asks: Azure's REST API
# Query parameters of signatures: Azure's (learn.microsoft.com, "Create a service SAS"), AWS's and Google's version 4,
# AWS's version 2 and CloudFront's.
_SAS = re.compile(r"(sv|st|se|sr|sp|sig|sip|spr|srt|ss|skoid|sktid|skt|ske|sks|skv|saoid|suoid|scid|sdd)\Z", re.ASCII)
_V4 = re.compile(r"x-(amz|goog)-", re.ASCII | re.IGNORECASE)
_V2 = frozenset({"awsaccesskeyid", "googleaccessid", "signature", "expires", "key-pair-id", "policy"})
_SIGNATURE = re.compile(r"([?&]sig=)[^&\s'\"]+")
# A block of a tile is done in minutes: a token with less than this left might not last to its end.
_SECONDS_LEFT = 900
_TRIES = 4

_lock = threading.Lock()


def unsigned_href(href: str) -> str:
    """The href without a shared access signature; any other href as it is."""
    if "sig=" not in href:
        return href
    try:
        parts = urlsplit(href)
    except ValueError:
        return href
    if not (parts.hostname or "").endswith(_BLOBS):
        return href
    kept = [(key, value) for key, value in parse_qsl(parts.query) if key.lower() in _KEPT]
    return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(kept), ""))


def unsigned(item: Item) -> dict[str, Any]:
    """A copy of the item as it may be stored: no asset's href carries a signature."""
    return _with_hrefs(item, unsigned_href)


def storable(item: Item) -> dict[str, Any]:
    """A copy of the item with no signature of any kind in any ``href``: of assets, their alternates, links.

    More than ``unsigned`` takes off: a file that only opens with a signature of somebody else's is not opened again
    by anybody, and the signature is not landpatch's to pass on.
    """
    return {key: _storable(value) for key, value in item.items()}


def storable_href(href: str) -> str:
    """The href without the query parameters of a signature; whatever else the query holds stays as it is."""
    address, mark, rest = href.partition("?")
    if not mark:
        return href
    query, hash_mark, fragment = rest.partition("#")
    parameters = query.split("&")
    names = [unquote(parameter.partition("=")[0]) for parameter in parameters]
    lower = {name.lower() for name in names}
    sas = "sig" in names
    old = "signature" in lower and len(lower & _V2) > 1
    left = [
        parameter
        for parameter, name in zip(parameters, names, strict=True)
        if not ((sas and _SAS.match(name)) or _V4.match(name) or (old and name.lower() in _V2))
    ]
    return address + ("?" + "&".join(left) if any(left) else "") + hash_mark + fragment


def signed_hrefs(item: Item) -> dict[str, Any]:
    """A copy of the item whose assets can be read now; never to be stored. Raises as signed_href."""
    return _with_hrefs(item, signed_href)


def signed_href(href: str) -> str:
    """The href with which a file can be opened now; hrefs that need no signature as they are.

    Tokens come from the Planetary Computer, through its package ``planetary-computer`` (which ``PC_SDK_SAS_URL`` and
    ``PC_SDK_SUBSCRIPTION_KEY`` configure), and are used again until a quarter of an hour before they expire. A
    container that it has no tokens for is left unsigned: it may be public.

    Raises MissingComponent without that package, UnreadableAsset when no token can be had.
    """
    try:
        parts = urlsplit(href)
    except ValueError as error:
        raise InvalidItem(f"href {href!r} is no path and no URL: {error}") from error
    host = parts.hostname or ""
    container = parts.path.lstrip("/").partition("/")[0]
    if not host.endswith(_BLOBS) or host in _PUBLIC or not container or "sig=" in parts.query:
        return href
    token = _token(host.removesuffix(_BLOBS), container)
    return href if token is None else f"{href}{'&' if parts.query else '?'}{token}"


def without_secrets(text: str) -> str:
    """A message that may quote a signed href, fit to be logged and stored."""
    return _SIGNATURE.sub(r"\1...", text)


def _token(account: str, container: str) -> str | None:
    try:
        import requests
        from planetary_computer import sas
    except ImportError as error:
        raise MissingComponent(
            f"files in Azure storage ({account}/{container}) are opened with tokens of the Planetary Computer, which "
            "its package fetches: pip install 'landpatch[planetary-computer]'"
        ) from error
    with _lock:
        for key in [key for key, token in sas.TOKEN_CACHE.items() if token.ttl() < _SECONDS_LEFT]:
            del sas.TOKEN_CACHE[key]
        try:
            return str(sas.get_token(account, container, retry_total=_TRIES).token)
        except requests.HTTPError as error:
            if error.response is not None and error.response.status_code in (400, 403, 404):
                return None
            reason: Exception = error
        except (requests.RequestException, ValueError) as error:
            reason = error
    raise UnreadableAsset(
        f"the Planetary Computer gives no token for {account}/{container} ({reason}); run the same command "
        "again later"
    ) from reason


def _storable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: storable_href(inner) if key == "href" and isinstance(inner, str) else _storable(inner)
            for key, inner in value.items()
        }
    return [_storable(inner) for inner in value] if isinstance(value, list | tuple) else value


def _with_hrefs(item: Item, change: Any) -> dict[str, Any]:
    assets = item.get("assets")
    if not isinstance(assets, Mapping):
        return dict(item)
    changed = {
        key: {**asset, "href": change(str(asset["href"]))}
        if isinstance(asset, Mapping) and "href" in asset
        else asset
        for key, asset in assets.items()
    }
    return {**item, "assets": changed}
