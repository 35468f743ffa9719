import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landpatch.catalog.errors import InvalidItem
from landpatch.catalog.pairing import Pairing, pair
from landpatch.catalog.scene_list import PAIR, RECORD, scene_list, scene_pairs, write_scene_list
from landpatch.catalog.signing import storable_href
from small_items import SENSED, optical_item, part_of_tile, radar_item

BASE = "/somewhere/scenes.json"
WEST, EAST = part_of_tile("33UUP", -1, -1, 0.6, 2), part_of_tile("33UUP", 0.5, -1, 2, 2)


def pairings() -> list[Pairing]:
    """33UUP with two scenes, 33UVP with one of them, 33UWP with none."""
    radars = [radar_item(-17.2, WEST), radar_item(30, EAST, platform="S1B")]
    ids = {
        "33UUP": "S2A_33UUP_20170613_0_L2A",
        "33UVP": "S2A_33UVP_20170613_0_L2A",
        "33UWP": "S2A_33UWP_20170613_0_L2A",
    }
    found = [
        pair(optical_item(identifier, tile=tile), radars if tile != "33UWP" else [])
        for tile, identifier in ids.items()
    ]
    assert [len(pairing.partners) for pairing in found] == [2, 1, 0]
    return found


def document(found: list[Pairing] | None = None) -> dict[str, Any]:
    written: dict[str, Any] = json.loads(json.dumps(scene_list(found or pairings(), {"query": {"tiles": ["33UUP"]}})))
    return written


def ids(pairs: list[tuple[dict[str, Any], tuple[dict[str, Any], ...]]]) -> list[tuple[str, list[str]]]:
    return [(optical["id"], [radar["id"] for radar in radars]) for optical, radars in pairs]


def test_what_is_written_is_read_again() -> None:
    found = pairings()
    read = scene_pairs(document(found), BASE)
    assert ids(read) == [(p.optical["id"], [q.item["id"] for q in p.partners]) for p in found]
    for (optical, radars), pairing in zip(read, found, strict=True):
        assert optical == pairing.optical
        assert list(radars) == [partner.item for partner in pairing.partners]


def test_the_document_is_a_stac_item_collection_that_says_how_it_came_about() -> None:
    import pystac

    written = document()
    collection = pystac.ItemCollection.from_dict(written)
    assert len(collection) == 5
    assert written[RECORD] == {"query": {"tiles": ["33UUP"]}}
    first = written["features"][0]
    links = [link for link in first["links"] if link["rel"] == PAIR]
    near, far = (partner.item["id"] for partner in pairings()[0].partners)
    assert [link["href"] for link in links] == [f"#{near}", f"#{far}"]
    assert [link["landpatch:gap_hours"] for link in links] == [-17.2, 30.0]
    assert [round(link["landpatch:adds"], 2) for link in links] == [0.6, 0.4]
    assert RECORD not in scene_list(pairings())


def test_the_same_scenes_give_the_same_bytes(tmp_path: Path) -> None:
    found = pairings()
    path = tmp_path / "new" / "scenes.json"
    write_scene_list(str(path), scene_list(found))
    first, written = path.read_bytes(), path.stat().st_mtime_ns
    write_scene_list(str(path), scene_list(reversed(found)))
    assert path.read_bytes() == first
    assert path.stat().st_mtime_ns == written  # not even touched
    assert [p.name for p in path.parent.iterdir()] == ["scenes.json"]
    assert scene_pairs(json.loads(first), str(path))


@given(st.randoms(use_true_random=False))
def test_the_order_of_features_and_of_keys_says_nothing(shuffler: random.Random) -> None:
    written = document()
    shuffler.shuffle(written["features"])
    turned = json.loads(json.dumps(written, sort_keys=shuffler.random() < 0.5))
    assert sorted(ids(scene_pairs(turned, BASE))) == sorted(ids(scene_pairs(document(), BASE)))


# --- edited by hand ------------------------------------------------------------------------------------------------


def test_items_can_be_deleted_and_added() -> None:
    written = document()
    west, east = (partner.item["id"] for partner in pairings()[0].partners)
    optical = next(item for item in written["features"] if item["id"] == "S2A_33UUP_20170613_0_L2A")
    # A Sentinel-2 item goes: its Sentinel-1 items stay behind, and are left out.
    assert "S2A_33UUP_20170613_0_L2A" not in dict(
        ids(scene_pairs({**written, "features": [i for i in written["features"] if i is not optical]}, BASE))
    )
    # A Sentinel-1 item is added, relative to the file, and linked by its plain id, before the others.
    added = radar_item(1, WEST, platform="S1C")
    added["assets"] = {"VV": {"href": "./s1/vv.tif"}, "VH": {"href": "s1/vh.tif"}}
    written["features"].insert(0, added)
    optical["links"].insert(0, {"rel": PAIR, "href": added["id"]})
    (beside,) = (radars for item, radars in scene_pairs(written, BASE) if item["id"] == optical["id"])
    assert [radar["id"] for radar in beside] == [added["id"], west, east]
    assert beside[0]["assets"]["VV"]["href"] == "/somewhere/s1/vv.tif"
    # No links and no foreign member: a plain ItemCollection.
    bare = {"type": "FeatureCollection", "features": [{**optical_item(), "note": "mine"}, optical_item()]}
    del bare["features"][1]["links"]
    with pytest.raises(InvalidItem, match="two different items have the id S2A_33UUP_20170613_0_L2A"):
        scene_pairs(bare, BASE)
    assert ids(scene_pairs({**bare, "features": bare["features"][1:] * 2}, BASE)) == [
        ("S2A_33UUP_20170613_0_L2A", [])
    ]


def _dangling(written: dict[str, Any]) -> None:
    written["features"] = [item for item in written["features"] if not item["id"].startswith("S1A")]


def _to_optical(written: dict[str, Any]) -> None:
    written["features"][0]["links"].append({"rel": PAIR, "href": "#S2A_33UVP_20170613_0_L2A"})


def _twice(written: dict[str, Any]) -> None:
    written["features"].append({**written["features"][0], "properties": {}})


def _no_optical(written: dict[str, Any]) -> None:
    written["features"] = written["features"][3:]


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (_dangling, r"item S2A_33UUP_20170613_0_L2A is paired with S1A_IW_\w+_rtc, which is not in the list; add"),
        (_to_optical, "is paired with S2A_33UVP_20170613_0_L2A, which is no Sentinel-1 item"),
        (_twice, "two different items have the id S2A_33UUP_20170613_0_L2A"),
        (_no_optical, "there is no Sentinel-2 item in the list"),
        (lambda w: w.pop("features"), '"features" is a required property'),
        (lambda w: w.update(features={}), "features: .* is not of type"),
        (lambda w: w["features"].insert(1, 3), "item number 2: 3 is not of type"),
        (lambda w: w["features"][2].pop("id"), 'item number 3: "id" is a required property'),
        (
            lambda w: w["features"][0].update(type="Item"),
            "item S2A_33UUP_20170613_0_L2A: type: .Feature. was expected",
        ),
        (lambda w: w["features"][0].pop("assets"), 'item S2A_33UUP_20170613_0_L2A: "assets" is a required property'),
        (
            lambda w: w["features"][0]["assets"]["red"].pop("href"),
            'item S2A_33UUP_20170613_0_L2A: assets/red: "href" is a required property',
        ),
        (
            lambda w: w["features"][1]["links"].append({"rel": PAIR}),
            'item S2A_33UVP_20170613_0_L2A: links/1: "href" is a required property',
        ),
        (lambda w: w.update({RECORD: []}), "landpatch:discovery: .* is not of type"),
    ],
)
def test_a_broken_list_is_refused_with_file_item_and_field(edit: Any, says: str) -> None:
    written = document()
    edit(written)
    with pytest.raises(InvalidItem, match=f"^{BASE}.*{says}"):
        scene_pairs(written, BASE)


@pytest.mark.parametrize("wrong", [None, [], "FeatureCollection", {"type": "Feature"}, 3])
def test_what_is_no_scene_list(wrong: Any) -> None:
    with pytest.raises(InvalidItem, match=f"^{BASE} is no scene list: "):
        scene_pairs(wrong, BASE)


def test_two_items_of_one_id_cannot_be_listed() -> None:
    same = radar_item(-3, WEST)
    found = [pair(optical_item(), [same]), pair(optical_item("other", sensed=SENSED), [{**same, "note": "not"}])]
    with pytest.raises(InvalidItem, match="two different items have this id"):
        scene_list(found)
    renamed = {**radar_item(-3, WEST), "id": "S2A_33UUP_20170613_0_L2A"}
    with pytest.raises(InvalidItem, match="a Sentinel-1 and a Sentinel-2 item have the same id"):
        scene_list([pair(optical_item(), [renamed])])


# --- signatures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("href", "stored"),
    [
        ("https://a.blob.core.windows.net/c/f.tif?st=1&se=2&sp=rl&sv=2021&sr=c&skoid=x&sig=ab%3D", "{}/c/f.tif"),
        ("https://a.blob.core.windows.net/c/f.tif?sig=x&snapshot=2024&sv=1#here", "{}/c/f.tif?snapshot=2024#here"),
        ("https://b.s3.amazonaws.com/f.tif?X-Amz-Algorithm=A&X-Amz-Signature=b&x-amz-date=c", "{}/f.tif"),
        ("https://b.s3.amazonaws.com/f.tif?versionId=7&X-Amz-Signature=b", "{}/f.tif?versionId=7"),
        ("https://b.s3.amazonaws.com/f.tif?AWSAccessKeyId=a&Signature=b&Expires=1", "{}/f.tif"),
        ("https://d.cloudfront.net/f.tif?Policy=a&Signature=b&Key-Pair-Id=c&v=2", "{}/f.tif?v=2"),
        ("https://storage.googleapis.com/b/f.tif?X-Goog-Signature=a", "{}/b/f.tif"),
        # What is no signature stays, to the letter.
        ("https://pc/api/tilejson.json?collection=s2&item=a%20b&assets=visual&sp=1", None),
        ("https://pc/f.tif?signature=by+hand", None),
        ("https://pc/f.tif?", None),
        ("s3://bucket/a?b.tif", None),
        ("/data/a#b.tif", None),
    ],
)
def test_signatures_are_not_stored(href: str, stored: str | None) -> None:
    host = "/".join(href.split("/")[:3])
    expected = href if stored is None else stored.format(host)
    assert storable_href(href).removesuffix("?") == expected.removesuffix("?")
    assert storable_href(expected) == storable_href(href)


def test_no_signature_is_left_anywhere_in_a_scene_list() -> None:
    optical = optical_item()
    signed = "https://a.blob.core.windows.net/c/f.tif?se=2&sp=rl&sig=secret"
    optical["assets"]["red"] = {
        "href": signed,
        "alternate": {"https": {"href": signed}},
        "eo:bands": [{"name": "B04"}],
    }
    optical["links"] = [{"rel": "preview", "href": signed}]
    text = json.dumps(scene_list([pair(optical, [])]))
    assert "secret" not in text
    assert text.count("https://a.blob.core.windows.net/c/f.tif") == 3
    assert "secret" in json.dumps(optical)  # the item itself is left as it was
