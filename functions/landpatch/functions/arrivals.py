"""What a message says has arrived: which scenes, as STAC items with absolute addresses.

Messages come from an inbox bucket (through EventBridge, or as S3's own notifications), from the SNS topics that
announce new scenes (STAC items of Earth Search; products of the bucket sentinel-s2-l2a), and from people. Each may be
wrapped in an SNS notification. What is none of these is an error, so that it ends where somebody looks at it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote_plus

import orjson
from pydantic import ValidationError

from landpatch.catalog.bands import optical_bands
from landpatch.catalog.errors import InvalidItem
from landpatch.catalog.names import SceneId
from landpatch.catalog.scenes import with_absolute_hrefs
from landpatch.catalog.signing import unsigned
from landpatch.functions.hrefs import is_remote
from landpatch.functions.sources import read_documents

Item = Mapping[str, Any]

_L2A_BUCKET = "s3://sentinel-s2-l2a"
"""Of the topic SentinelS2L2A (eu-central-1, requester pays): tiles/33/U/UP/2017/6/13/0/R10m/B02.jp2, ..."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """``items`` came by themselves, Sentinel-2 or Sentinel-1; ``pairs`` with what belongs to them (scene lists)."""

    items: tuple[Item, ...] = ()
    pairs: tuple[tuple[Item, tuple[Item, ...]], ...] = ()

    def __add__(self, other: "Arrivals") -> "Arrivals":
        return Arrivals(self.items + other.items, self.pairs + other.pairs)


def arrivals(message: object) -> Arrivals:
    """What has arrived. Raises InvalidItem (not understood), UnreadableAsset (what it points at cannot be read)."""
    if not isinstance(message, Mapping):
        raise InvalidItem(f"a message is a JSON object, not {_shown(message)}")
    if message.get("Type") == "Notification":  # SNS
        return arrivals(_parsed(message.get("Message")))
    if message.get("detail-type") == "Object Created":
        return _read(_event_bridge_object(message))
    if isinstance(message.get("Records"), list):  # S3's own notification
        found = Arrivals()
        for record in message["Records"]:
            found += _read(_notified_object(record))
        return found
    if message.get("Event") == "s3:TestEvent":  # what S3 sends when a notification is set up
        return Arrivals()
    if message.get("type") == "Feature":
        return Arrivals((_reachable(unsigned(with_absolute_hrefs(message, _own_address(message)))),))
    if isinstance(message.get("tiles"), list):
        return Arrivals(tuple(_product_item(message, tile) for tile in message["tiles"]))
    for key in ("scenes", "href"):
        if isinstance(message.get(key), str):
            return _read(message[key])
    raise InvalidItem(
        f"a message that is no STAC item, no S3 event and no product of sentinel-s2-l2a: {_shown(message)}"
    )


def _read(href: str) -> Arrivals:
    """The item or scene list at an address."""
    if not is_remote(href):
        raise InvalidItem(f"{href} is no address that a function can read: expected s3:// or https://")
    items, pairs = read_documents(href)
    return Arrivals(
        tuple(map(_reachable, items)),
        tuple((_reachable(optical), tuple(map(_reachable, radars))) for optical, radars in pairs),
    )


def _event_bridge_object(event: Mapping[str, Any]) -> str:
    from aws_lambda_powertools.utilities.parser.models import S3EventNotificationEventBridgeModel

    try:
        detail = S3EventNotificationEventBridgeModel.model_validate(event).detail
    except ValidationError as error:
        raise InvalidItem(f"an S3 event that is not as EventBridge sends it: {error}") from error
    return _address(detail.bucket.name, detail.object.key)


def _notified_object(record: Any) -> str:
    try:
        place = record["s3"]
        # URL-encoded here, unlike through EventBridge.
        return _address(place["bucket"]["name"], unquote_plus(place["object"]["key"]))
    except (KeyError, TypeError) as error:
        raise InvalidItem(f"an S3 notification without bucket and key: {_shown(record)}") from error


def _address(bucket: str, key: str) -> str:
    return f"s3://{bucket}/{quote(key) if '%' in key or '#' in key or '?' in key else key}"


def _product_item(product: Mapping[str, Any], tile: Any) -> dict[str, Any]:
    """The item of a tile that the bucket sentinel-s2-l2a announces: where its files lie follows from its path."""
    try:
        name, path = str(product["name"]), str(tile["path"]).strip("/")
        scene = SceneId.parse(name)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidItem(f"a product without name or tile path: {_shown(product)} ({error})") from error
    if scene.level != "MSIL2A":
        raise InvalidItem(f"{name} is no L2A product; make one with `landpatch l2a`")
    number = path.rsplit("/", 1)[-1]
    files = {
        band.name: (f"R{band.resolution}m/{band.name}.jp2", band.resolution) for band in optical_bands().values()
    }
    files["SCL"] = ("R20m/SCL.jp2", 20)
    assets = {
        key: {"href": f"{_L2A_BUCKET}/{path}/{file}", "type": "image/jp2", "gsd": resolution, "roles": ["data"]}
        for key, (file, resolution) in files.items()
    }
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        # As Earth Search names it, so that a scene that both announce is one scene.
        "id": f"{scene.platform}_{scene.tile}_{scene.sensed:%Y%m%d}_{number}_L2A",
        "collection": "sentinel-s2-l2a",
        "geometry": None,
        "properties": {
            "datetime": str(tile.get("timestamp") or scene.sensed.isoformat().replace("+00:00", "Z")),
            "s2:product_uri": f"{name}.SAFE",
            "s2:processing_baseline": f"{scene.baseline[:2]}.{scene.baseline[2:]}",
        },
        "assets": assets,
        "links": [],
    }


def _reachable(item: Item) -> dict[str, Any]:
    """Without the assets that no function can read: an item from anybody may name files of this machine."""
    assets = {key: asset for key, asset in item["assets"].items() if is_remote(str(asset["href"]))}
    if not assets:
        raise InvalidItem(f"item {item.get('id')}: none of its files has an address that a function can read")
    return {**item, "assets": assets}


def _own_address(item: Mapping[str, Any]) -> str:
    links = item.get("links")
    for link in links if isinstance(links, list) else []:
        if isinstance(link, Mapping) and link.get("rel") == "self" and is_remote(str(link.get("href"))):
            return str(link["href"])
    return ""


def _parsed(text: Any) -> Any:
    try:
        return orjson.loads(text)
    except (orjson.JSONDecodeError, TypeError) as error:
        raise InvalidItem(f"a notification whose message is not JSON: {_shown(text)}") from error


def _shown(value: object) -> str:
    return json.dumps(value, default=str)[:120]  # not orjson, which stops at integers of 64 bits
