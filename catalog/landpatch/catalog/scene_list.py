"""The scene list (``scenes.json``): which scenes to build a dataset from, as a STAC ItemCollection.

``landpatch discover`` writes it, people edit it, ``landpatch build`` reads it. ``features`` holds Sentinel-2 and
Sentinel-1 items in any order. Each Sentinel-2 item names the Sentinel-1 items that belong to it with links:

    {"rel": "landpatch:pair", "href": "#S1B_IW_GRDH_1SDV_20170612T165809_rtc", "landpatch:gap_hours": -17.2,
     "landpatch:adds": 1.0}

``href`` is ``#`` and the id of an item in the same file, nearest in time first; the two numbers are for people. The
query, the limits and the verdicts stand in the foreign member ``landpatch:discovery`` and are not needed for reading.
Hrefs are never signed: a signature runs out, and whoever opens a file signs for himself.
"""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import jsonschema_rs
import orjson

from landpatch.catalog.errors import InvalidItem
from landpatch.catalog.pairing import Pairing
from landpatch.catalog.scenes import is_radar, sensing_time, with_absolute_hrefs
from landpatch.catalog.signing import storable
from landpatch.catalog.store import Storage

Item = Mapping[str, Any]

PAIR = "landpatch:pair"
RECORD = "landpatch:discovery"

_SHOWN = 5  # problems in one message; more would hide the first


def scene_list(pairings: Iterable[Pairing], record: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The scene list of ``pairings``: Sentinel-2 items by tile and time, then Sentinel-1 items by time.

    ``record`` is what is to stand in ``landpatch:discovery``. Raises InvalidItem where two items of different content
    have the same id.
    """
    paired = sorted(pairings, key=lambda p: (p.tile, sensing_time(p.optical), str(p.optical["id"])))
    radars: dict[str, Item] = {}
    for pairing in paired:
        for partner in pairing.partners:
            _keep(radars, partner.item)
    opticals: dict[str, Item] = {}
    for pairing in paired:
        _keep(opticals, {**pairing.optical, "links": [*_other_links(pairing.optical), *_pair_links(pairing)]})
    both = sorted(opticals.keys() & radars.keys())
    if both:
        raise InvalidItem(f"item {both[0]}: a Sentinel-1 and a Sentinel-2 item have the same id")
    later = sorted(radars.values(), key=lambda item: (sensing_time(item), str(item["id"])))
    document: dict[str, Any] = {
        "type": "FeatureCollection",
        "features": [storable(item) for item in (*opticals.values(), *later)],
    }
    if record is not None:
        document[RECORD] = dict(record)
    return document


def write_scene_list(href: str, document: Mapping[str, Any]) -> None:
    """Write a scene list to a file or ``s3://``: atomically, same scenes, same bytes. Raises StorageError."""
    folder, name = _apart(href)
    data = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)
    Storage.open(folder, create=True).put_changed(name, data)


def is_scene_list(document: object) -> bool:
    """Whether a JSON document means to be a scene list."""
    return isinstance(document, Mapping) and document.get("type") == "FeatureCollection"


def scene_pairs(document: object, base: str) -> list[tuple[dict[str, Any], tuple[dict[str, Any], ...]]]:
    """Sentinel-2 items of a scene list, each with its Sentinel-1 items, in the order of the file and of the links.

    ``base`` is where the list lies, as a path or URL: relative hrefs of assets count from there. A Sentinel-1 item
    that no link names is left out. Raises InvalidItem naming the file, item and field: a broken rule of the schema
    (``data/scene-list.schema.json``), an id given to two items, a link to what is not there or is no Sentinel-1 item.
    """
    _check(document, base)
    assert isinstance(document, Mapping)
    found: dict[str, dict[str, Any]] = {}
    for item in document["features"]:
        if found.setdefault(item["id"], item) != item:
            raise InvalidItem(f"{base}: two different items have the id {item['id']}; give one of them another id")
    read = {identifier: with_absolute_hrefs(item, base) for identifier, item in found.items()}
    pairs = []
    for identifier, item in read.items():
        if is_radar(item):
            continue
        beside: dict[str, dict[str, Any]] = {}
        for link in item.get("links", ()):
            if link["rel"] != PAIR:
                continue
            wanted = unquote(link["href"].removeprefix("#"))
            if wanted not in read:
                raise InvalidItem(
                    f"{base}: item {identifier} is paired with {wanted}, which is not in the list; add that item, or "
                    f"delete the link (rel {PAIR})"
                )
            if not is_radar(read[wanted]):
                raise InvalidItem(f"{base}: item {identifier} is paired with {wanted}, which is no Sentinel-1 item")
            beside[wanted] = read[wanted]
        # Without its pair links: they lead into this file, and the item is recorded elsewhere.
        pairs.append(({**item, "links": _other_links(item)}, tuple(beside.values())))
    if not pairs:
        raise InvalidItem(f"{base}: there is no Sentinel-2 item in the list")
    return pairs


def _keep(items: dict[str, Item], item: Item) -> None:
    identifier = str(item["id"])
    if items.setdefault(identifier, item) != item:
        raise InvalidItem(f"item {identifier}: two different items have this id; a scene list needs one id for each")


def _other_links(item: Item) -> list[Any]:
    links = item.get("links")
    return [link for link in links if link.get("rel") != PAIR] if isinstance(links, list | tuple) else []


def _pair_links(pairing: Pairing) -> list[dict[str, Any]]:
    return [
        {
            "rel": PAIR,
            "href": "#" + quote(str(partner.item["id"]), safe=""),
            "type": "application/geo+json",
            "landpatch:gap_hours": round(partner.gap_hours, 2),
            "landpatch:adds": round(partner.adds, 4),
        }
        for partner in pairing.partners
    ]


def _apart(href: str) -> tuple[str, str]:
    if "://" in href:
        folder, _, name = href.rpartition("/")
        return folder, name
    path = Path(href).absolute()
    return str(path.parent), path.name


def _check(document: object, base: str) -> None:
    problems = [_problem(error, document) for error in _validator().iter_errors(document)]
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InvalidItem(f"{base} is no scene list: {'; '.join(problems[:_SHOWN])}{more}")


def _problem(error: jsonschema_rs.ValidationError, document: Any) -> str:
    path = [str(step) for step in error.instance_path]
    if path[:1] == ["features"] and len(path) > 1:
        item = document["features"][int(path[1])]
        identifier = item.get("id") if isinstance(item, Mapping) else None
        named = (
            f"item {identifier}" if isinstance(identifier, str) and identifier else f"item number {int(path[1]) + 1}"
        )
        return f"{named}: {'/'.join(path[2:]) + ': ' if path[2:] else ''}{error.message}"
    return f"{'/'.join(path) + ': ' if path else ''}{error.message}"


@cache
def _validator() -> jsonschema_rs.Validator:
    text = files("landpatch.catalog").joinpath("data/scene-list.schema.json").read_text("utf-8")
    return jsonschema_rs.validator_for(json.loads(text))
