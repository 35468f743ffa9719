import json
from pathlib import Path

import pytest

from landpatch.catalog.errors import InvalidItem, InvalidLabels, InvalidParameter, UnreadableAsset
from landpatch.catalog.scenes import optical_scene
from landpatch.functions.sources import prepared_labels, read_pairs, read_scene
from small_items import optical_item, radar_item
from small_scenes import KEYS, SmallScene, write_clc
from small_server import serve


@pytest.fixture
def item(tmp_path: Path) -> Path:
    """An item without its files: reading an item opens none of them."""
    scene = SmallScene(nx=1, ny=1)
    path = tmp_path / "bucket/a b/item.json"
    path.parent.mkdir(parents=True)
    assets = {key: scene._asset(f"{name}.tif", name, 10) for name, key in KEYS.items()}
    path.write_text(json.dumps({"type": "Feature", "id": "x", "properties": {}, "assets": assets}))
    return path


def test_a_local_item(item: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = str(item.parent / "B02.tif")
    monkeypatch.chdir(item.parent)
    for href in (str(item), "item.json", "./item.json", f"file://{item.parent.parent}/a%20b/item.json"):
        assert read_scene(href)["assets"]["blue"]["href"] == expected, href


def test_an_item_over_http(item: Path) -> None:
    with serve(item.parents[1]) as server:
        read = read_scene(f"{server.url}/a%20b/item.json")
        assert read["assets"]["blue"]["href"] == f"{server.url}/a%20b/B02.tif"
        with pytest.raises(UnreadableAsset, match=f"{server.url}/none.json cannot be read: HTTP Error 404"):
            read_scene(f"{server.url}/none.json")
    with pytest.raises(UnreadableAsset, match=f"{server.url}/a/item.json cannot be read"):
        read_scene(f"{server.url}/a/item.json")


def test_an_item_on_s3(item: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    with serve(item.parents[2]) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        read = read_scene("s3://bucket/a b/item.json")
        assert read["assets"]["blue"]["href"] == "s3://bucket/a b/B02.tif"
        with pytest.raises(UnreadableAsset, match=r"s3://bucket/none\.json"):
            read_scene("s3://bucket/none.json")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("<html>", "is not JSON .*; a scene is given as STAC item or SAFE folder"),
        ("", "is not JSON"),
        ("[]", "its type is 'list', expected 'Feature'"),
        ('{"type": "FeatureCollection"}', "its type is 'FeatureCollection'"),
        ('{"type": "Feature", "id": "x"}', "item x has no assets"),
        ('{"type": "Feature", "assets": {"a": {"href": "http://[x"}}}', "a scene item has no id"),
    ],
)
def test_what_is_no_item(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "item.json"
    path.write_text(content)
    with pytest.raises(InvalidItem, match=says):
        read_scene(str(path))


def test_what_is_not_there(tmp_path: Path) -> None:
    for href in (f"{tmp_path}/none.json", f"file://{tmp_path}/none.json"):
        with pytest.raises(UnreadableAsset, match="cannot be read"):
            read_scene(href)
    with pytest.raises(InvalidItem, match="is no path and no URL"):
        read_scene("http://[x/item.json")


def test_a_folder_that_is_no_safe(tmp_path: Path) -> None:
    with pytest.raises(InvalidItem, match=f"{tmp_path} is a folder, but no SAFE product"):
        read_scene(str(tmp_path))


def test_a_scene_as_written_by_a_catalogue_of_one_s_own(tmp_path: Path) -> None:
    """From the file to what the reader needs, with nothing between."""
    small = SmallScene(nx=1, ny=1)
    path = small.write(tmp_path)
    scene = optical_scene(read_scene(str(path)))
    assert {name: asset.href for name, asset in scene.bands.items()} == {
        name: str(tmp_path / f"{name}.tif") for name in KEYS
    }
    assert scene.offset.present is False


# --- scene lists ---------------------------------------------------------------------------------------------------


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    optical, radar = optical_item(), radar_item(-17, None)
    optical["links"] = [{"rel": "landpatch:pair", "href": f"#{radar['id']}"}]
    optical["assets"]["red"]["href"] = "files/B04.tif"
    radar["assets"]["vv"]["href"] = "https://sentinel1.blob.core.windows.net/s1/vv.tif?st=2024&se=2025&sig=abc"
    path = tmp_path / "list" / "scenes.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [radar, optical]}))
    return path


def test_a_scene_list_says_itself_what_belongs_together(listed: Path, item: Path) -> None:
    ((optical, (radar,)),) = read_pairs([str(listed)])
    assert (optical["id"], radar["id"]) == (optical_item()["id"], radar_item(-17, None)["id"])
    assert optical["assets"]["red"]["href"] == f"{listed.parent}/files/B04.tif"
    assert radar["assets"]["vv"]["href"] == "https://sentinel1.blob.core.windows.net/s1/vv.tif"
    assert optical["links"] == []
    with serve(listed.parent) as server:
        ((remote, _),) = read_pairs([f"{server.url}/scenes.json"])
        assert remote["assets"]["red"]["href"] == f"{server.url}/files/B04.tif"
    # Scenes and lists side by side, in the order given.
    assert [pair[0]["id"] for pair in read_pairs([str(item), str(listed)])] == ["x", optical["id"]]


def test_a_scene_list_beside_other_sentinel_1_items_is_refused(listed: Path, item: Path) -> None:
    with pytest.raises(InvalidParameter, match=f"{listed} is a scene list, .* leave --s1 out"):
        read_pairs([str(listed)], [str(item)])
    assert [len(radars) for _, radars in read_pairs([str(item)], [str(item)])] == [1]


def test_a_scene_list_with_a_mistake_names_file_and_item(listed: Path) -> None:
    document = json.loads(listed.read_text())
    del document["features"][0]["assets"]
    listed.write_text(json.dumps(document))
    with pytest.raises(InvalidItem, match=f'{listed} is no scene list: item S1A_IW_.*: "assets" is a required'):
        read_pairs([str(listed)])


# --- labels ------------------------------------------------------------------------------------------------------


def test_labels_are_prepared_once_into_the_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_clc(tmp_path / "clc.gpkg", [(300000, 5390000, 310000, 5400000, "311")])
    destination = tmp_path / "dataset"
    first = prepared_labels(str(source), str(destination))
    assert Path(first).parent == destination / "labels"
    assert Path(first).match("clc-*.parquet")
    written = Path(first).stat()
    assert prepared_labels(str(source), str(destination)) == first
    assert Path(first).stat().st_mtime_ns == written.st_mtime_ns
    # What is prepared already is used where it lies.
    assert prepared_labels(first, str(tmp_path / "other")) == first
    assert not (tmp_path / "other").exists()
    # Another file of the same name is another source.
    (tmp_path / "elsewhere").mkdir()
    other = write_clc(tmp_path / "elsewhere" / "clc.gpkg", [(300000, 5390000, 310000, 5400000, "512")])
    second = prepared_labels(str(other), str(destination))
    assert second != first
    assert Path(second).exists()


def test_labels_that_are_none(tmp_path: Path) -> None:
    broken = tmp_path / "clc.gpkg"
    broken.write_bytes(b"SQLite format 3\0 and nothing more")
    with pytest.raises(InvalidLabels, match=str(broken)):
        prepared_labels(str(broken), str(tmp_path / "dataset"))
    other = tmp_path / "labels.parquet"
    other.write_bytes(b"PAR1PAR1")
    with pytest.raises(InvalidLabels, match=str(other)):
        prepared_labels(str(other), str(tmp_path / "dataset"))
    with pytest.raises(InvalidLabels, match=r"none\.gpkg"):
        prepared_labels(str(tmp_path / "none.gpkg"), str(tmp_path / "dataset"))
