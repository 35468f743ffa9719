"""What messages say has arrived."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landpatch.catalog.errors import InvalidItem
from landpatch.catalog.scenes import optical_scene
from landpatch.functions.arrivals import Arrivals, arrivals

PRODUCT = "S2A_MSIL2A_20230602T000611_N0509_R016_T01WCR_20230602T025701"
ANNOUNCED = {
    "name": PRODUCT,
    "id": "5d5ebd23-4d4d-4f0c-b0a8-e1c8a4b6d1f0",
    "path": f"products/2023/6/2/{PRODUCT}",
    "timestamp": "2023-06-02T00:06:11.024Z",
    "datatakeIdentifier": "GS2A_20230602T000611_041483_N05.09",
    "tiles": [
        {
            "path": "tiles/1/W/CR/2023/6/2/0",
            "timestamp": "2023-06-02T00:06:17.000Z",
            "utmZone": 1,
            "latitudeBand": "W",
            "gridSquare": "CR",
        }
    ],
}


def notification(message: Any) -> dict[str, Any]:
    return {
        "Type": "Notification",
        "MessageId": "1e97e182-ad01-5321-ad0e-b73c8e45bd47",
        "TopicArn": "arn:aws:sns:eu-central-1:214830741341:SentinelS2L2A",
        "Subject": "productAdded",
        "Message": json.dumps(message),
    }


def test_a_product_that_the_bucket_announces_is_the_scene_that_its_own_stac_item_describes(shared_data: Path) -> None:
    name = "S2A_OPER_MSI_L2A_TL_2APS_20230602T025701_A041483_T01WCR.json"
    published = optical_scene(json.loads((shared_data / "stac-items/earth-search-v1" / name).read_text()))
    (item,) = arrivals(notification(ANNOUNCED)).items
    scene = optical_scene(item)
    assert item["id"] == "S2A_01WCR_20230602_0_L2A"
    assert scene.scene == published.scene
    assert {band: asset.href for band, asset in scene.bands.items()} == {
        band: asset.href for band, asset in published.bands.items()
    }
    assert scene.scl is not None
    assert published.scl is not None
    assert scene.scl.href == published.scl.href
    assert scene.offset.present == published.offset.present is True


def test_earth_search_s_items_come_as_they_are(shared_data: Path) -> None:
    file = next((shared_data / "stac-items").rglob("S2A_33TWN_20161202_0_L2A/*.json"), None) or next(
        path for path in sorted((shared_data / "stac-items").rglob("S2A_33TWN_20161202_0_L2A*")) if path.is_file()
    )
    item = json.loads(file.read_text())
    for message in (item, notification(item)):
        (found,) = arrivals(message).items
        assert found["id"] == item["id"]
        assert optical_scene(found).bands["B02"].href.startswith(("http", "s3"))


def test_what_names_files_of_the_function_s_machine_is_not_believed() -> None:
    item = {"type": "Feature", "id": "x", "properties": {}, "assets": {"blue": {"href": "file:///etc/passwd"}}}
    with pytest.raises(InvalidItem, match="item x: none of its files has an address"):
        arrivals(item)
    item["assets"]["red"] = {"href": "s3://bucket/red.tif"}  # type: ignore[index]
    (found,) = arrivals(item).items
    assert list(found["assets"]) == ["red"]
    for href in ("/etc/passwd", "file:///etc/passwd", "scenes.json"):
        with pytest.raises(InvalidItem, match="no address that a function can read"):
            arrivals({"scenes": href})


def test_what_s3_sends_when_a_notification_is_set_up_is_no_scene() -> None:
    assert arrivals({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"}) == Arrivals()


@pytest.mark.parametrize(
    "message",
    [
        {},
        [],
        "text",
        None,
        {"Type": "Notification"},
        {"Type": "Notification", "Message": "{"},
        {"detail-type": "Object Created", "detail": {}},
        {"Records": [{"s3": {}}]},
        {"tiles": [{}]},
        {"name": "S2A_MSIL1C_20230602T000611_N0509_R016_T01WCR", "tiles": [{"path": "tiles/1/W/CR/2023/6/2/0"}]},
        {"type": "Feature"},
    ],
)
def test_what_is_not_understood_is_said(message: Any) -> None:
    with pytest.raises(InvalidItem):
        arrivals(message)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "Type", "Message", "tiles", "Records", "s3", "name"]), inner)
    ),
    max_leaves=8,
)


@given(json_values)
def test_no_message_breaks_it(message: Any) -> None:
    with suppress(InvalidItem):
        assert arrivals(message) == Arrivals()
