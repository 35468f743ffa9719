"""`export static`: a catalogue of plain files that pystac walks, valid, bounded, and the same when written again."""

from pathlib import Path

import orjson
import pystac
import pytest

from landpatch.catalog.errors import DatasetConflict
from landpatch.catalog.exports import static
from landpatch.catalog.exports.static import export_static
from landpatch.catalog.items import items
from landpatch.catalog.schemas import validate_collection, validate_item
from landpatch.catalog.store import Dataset
from small_dataset import Patch, write_dataset

OTHER = "S2B_MSIL2A_20180204T094159_N9999_R036_T34TCR"
PATCHES = [Patch(x, y) for x in (0, 1) for y in (40, 41)] + [Patch(5, y, scene=OTHER) for y in (1, 2, 3)]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return write_dataset(str(tmp_path / "dataset"), PATCHES)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_pystac_reaches_every_item_once_and_all_are_valid(dataset: Dataset, tmp_path: Path) -> None:
    target = tmp_path / "dataset/stac"
    written = export_static(dataset, target)
    root = pystac.Collection.from_file(str(target / "collection.json"))
    found = {item.id: item for item in root.get_items(recursive=True)}
    assert len(list(root.get_items(recursive=True))) == len(found) == written.items == len(PATCHES)
    assert set(found) == {patch.id for patch in PATCHES}
    made = {item["id"]: item for item in items(dataset.table())}
    for item in found.values():
        document = orjson.loads(Path(item.self_href).read_bytes())
        validate_item(document)
        assert document["properties"] == made[item.id]["properties"]
        for asset in item.assets.values():
            assert Path(asset.get_absolute_href() or "").is_file()
    validate_collection(orjson.loads((target / "collection.json").read_bytes()))
    for path in target.rglob("*.json"):
        for link in orjson.loads(path.read_bytes()).get("links", []):
            if link["rel"] in ("child", "item", "parent", "root", "collection"):
                assert (path.parent / link["href"]).is_file(), (path, link)


def test_a_second_run_changes_nothing(dataset: Dataset, tmp_path: Path) -> None:
    target = tmp_path / "stac"
    export_static(dataset, target, assets_at="https://example.org/small")
    before = contents(target)
    again = export_static(dataset, target, assets_at="https://example.org/small")
    assert again.changed == 0
    assert contents(target) == before
    assert any(b"https://example.org/small/patches/" in content for content, _ in before.values())


def test_no_document_has_more_children_than_it_may(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static, "MOST_LINKS", 2)
    export_static(dataset, tmp_path / "stac")
    for path in (tmp_path / "stac").rglob("*.json"):
        links = orjson.loads(path.read_bytes()).get("links", [])
        assert sum(link["rel"] in ("child", "item") for link in links) <= 2
    root = pystac.Collection.from_file(str(tmp_path / "stac/collection.json"))
    assert sorted(item.id for item in root.get_items(recursive=True)) == sorted(patch.id for patch in PATCHES)


def test_the_dataset_itself_is_never_written_over(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetConflict, match="another destination"):
        export_static(dataset, tmp_path / "dataset")
