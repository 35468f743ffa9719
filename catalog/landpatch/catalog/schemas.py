"""Whether an item or a collection is what STAC 1.1.0 and its declared extensions say, checked without network.

The extensions' schemas ship with landpatch (``data/schemas``), those of the core and of GeoJSON with pystac. Two
rules go beyond the schemas, because validators do not notice when they are broken: a checksum is a multihash, and
a transform is in the order of the projection extension.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema_rs

from landpatch.catalog.errors import InvalidDataset
from landpatch.catalog.scenes import STAC_VERSION

_CORE = f"https://schemas.stacspec.org/v{STAC_VERSION}/"
_ITEM = f"{_CORE}item-spec/json-schema/item.json"
_COLLECTION = f"{_CORE}collection-spec/json-schema/collection.json"
_EXTENSION = "https://stac-extensions.github.io/"
_PROJJSON = "https://proj.org/schemas/v0.7/projjson.schema.json"
_SHOWN = 5  # problems in one message; more would hide the first

# Multihash (multiformats.io): 0x12 = sha-256, 0x20 = 32 bytes.
_SHA256_MULTIHASH = re.compile(r"1220[0-9a-f]{64}\Z", re.ASCII)


def validate_item(item: Mapping[str, Any]) -> None:
    """Check one STAC item, given as the dictionary that its JSON says.

    Raises InvalidDataset: the item's id, and for each problem the JSON pointer to it, what is wrong and which
    schema says so; also for a declared extension whose schema does not ship with landpatch.
    """
    _validate(item, "item", _ITEM)


def validate_collection(collection: Mapping[str, Any]) -> None:
    """Check one STAC collection, given as the dictionary that its JSON says. Raises InvalidDataset as
    ``validate_item`` does.
    """
    _validate(collection, "collection", _COLLECTION)


@cache
def shipped_extensions() -> tuple[str, ...]:
    """URLs of the extension schemas that items and collections may declare, sorted."""
    folder = files("landpatch.catalog").joinpath("data/schemas")
    return tuple(
        sorted(
            f"{_EXTENSION}{extension.name}/{version.name}/schema.json"
            for extension in folder.iterdir()
            if extension.is_dir()
            for version in extension.iterdir()
        )
    )


def _validate(document: Mapping[str, Any], kind: str, core: str) -> None:
    declared = document.get("stac_extensions", ())
    urls = {url for url in declared if isinstance(url, str)} if isinstance(declared, list | tuple) else set()
    known = frozenset(urls.intersection(shipped_extensions()))
    problems = [_problem(error) for error in _validator(core, known).iter_errors(document)]
    problems += [
        f"/stac_extensions: the schema of {url} does not ship with landpatch; {_versions_of(url)}"
        for url in sorted(urls - known)
    ]
    problems = list(dict.fromkeys(problems or _broken_rules(document)))
    if problems:
        shown = "; ".join(problems[:_SHOWN])
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InvalidDataset(f"{kind} {document.get('id')!r} is not valid: {shown}{more}")


def _versions_of(url: str) -> str:
    name = url.removeprefix(_EXTENSION).split("/")[0]
    same = [_title(known) for known in shipped_extensions() if known.startswith(f"{_EXTENSION}{name}/")]
    return f"declare {' or '.join(same)} instead" if same else "leave it out"


@cache
def _validator(core: str, extensions: frozenset[str]) -> jsonschema_rs.Validator:
    # One validator for all: a document is handed over to Rust once, which is most of the work.
    schemas = [{"$ref": url} for url in (core, *sorted(extensions))]
    joint = {"$schema": "http://json-schema.org/draft-07/schema#", "allOf": schemas}
    return jsonschema_rs.validator_for(joint, retriever=_shipped, validate_formats=True)


def _problem(error: jsonschema_rs.ValidationError) -> str:
    cause = _cause(error)
    # What a schema forbids it calls `not: {}`, and jsonschema-rs says just that.
    message = "must not be there" if cause.kind.name == "not" else cause.message
    return f"{_pointer(cause.instance_path)}: {message} ({_title(error.absolute_keyword_location or '')})"


def _title(schema: str) -> str:
    """``eo/v2.0.0`` or ``STAC 1.1.0`` for the address of a schema or of a place in it."""
    if schema.startswith(_EXTENSION):
        return "/".join(schema.removeprefix(_EXTENSION).split("/")[:2])
    return f"STAC {STAC_VERSION}"


def _shipped(url: str) -> Any:
    """The schema of a URL, from the files of landpatch and pystac; never from the network."""
    url = url.removesuffix("#")
    own = "projjson-v0.7.schema.json" if url == _PROJJSON else url.removeprefix(_EXTENSION)
    if own != url:
        return json.loads(files("landpatch.catalog").joinpath(f"data/schemas/{own}").read_text("utf-8"))
    name = url.rsplit("/", 1)[-1]
    folder = "geojson" if url.startswith("https://geojson.org/schema/") else f"stac-spec/v{STAC_VERSION}"
    return json.loads((_pystac_schemas() / folder / name).read_text("utf-8"))


def _pystac_schemas() -> Path:
    # Found without importing pystac, which takes five times as long as all the rest.
    spec = find_spec("pystac")
    if spec is None or not spec.submodule_search_locations:
        raise InvalidDataset("the schemas of STAC's core ship with pystac, which is not installed: install pystac")
    return Path(spec.submodule_search_locations[0], "validation", "jsonschemas")


def _cause(error: jsonschema_rs.ValidationError) -> jsonschema_rs.ValidationError:
    """The error under a failed ``oneOf`` or ``anyOf`` that tells most: in the branch for this type, deepest down."""
    context: Sequence[Sequence[jsonschema_rs.ValidationError]] = getattr(error.kind, "context", ())
    branches = [branch for branch in context if branch]
    if not branches:
        return error
    here = [*error.instance_path, "type"]
    meant = [branch for branch in branches if not any(inner.instance_path == here for inner in branch)]
    causes = [max(map(_cause, branch), key=_depth) for branch in meant or branches]
    return max(causes, key=_depth)


def _depth(error: jsonschema_rs.ValidationError) -> int:
    return len(error.instance_path)


def _pointer(path: Sequence[str | int]) -> str:
    """JSON pointer (RFC 6901); ``/`` alone for the whole document, which RFC 6901 writes as nothing."""
    return "/" + "/".join(str(step).replace("~", "~0").replace("/", "~1") for step in path)


def _broken_rules(document: Mapping[str, Any]) -> Iterator[str]:
    places: list[tuple[tuple[str | int, ...], Mapping[str, Any]]] = [
        (("properties",), document.get("properties", {})),
        *((("assets", key), asset) for key, asset in document.get("assets", {}).items()),
        *((("links", number), link) for number, link in enumerate(document.get("links", ()))),
    ]
    for path, fields in places:
        checksum = fields.get("file:checksum")
        if checksum is not None and not _SHA256_MULTIHASH.match(str(checksum)):
            yield (
                f"{_pointer([*path, 'file:checksum'])}: {checksum!r} is no sha-256 multihash: "
                "expected 1220 and 64 hexadecimal digits in lower case"
            )
        transform = fields.get("proj:transform")
        if transform is not None and list(transform[1:4:2]) != [0, 0]:
            yield (
                f"{_pointer([*path, 'proj:transform'])}: {transform!r} is rotated or in GDAL's order: "
                "expected [pixel width, 0, west, 0, -pixel height, north]"
            )
    for key, asset in document.get("item_assets", {}).items():
        for name in ("file:checksum", "file:size"):
            if name in asset:
                yield f"{_pointer(['item_assets', key, name])}: cannot be the same for all items: leave it out"
