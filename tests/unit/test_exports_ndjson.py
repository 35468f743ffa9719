"""Items as JSON lines: what the API says of them, with hrefs that lead somewhere."""

import json
import tracemalloc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pystac
import pytest

from landpatch.catalog.errors import InvalidDataset
from landpatch.catalog.exports.ndjson import export_ndjson
from landpatch.catalog.items import items
from landpatch.catalog.store import ITEMS, Dataset
from s3_server import serve_s3
from small_dataset import Patch, write_dataset

PATCHES = [Patch(2, 9), Patch(11, 3, radar=None), Patch(0, 0, labelled=False)]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return write_dataset(str(tmp_path / "dataset"), PATCHES)


def exported(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "items.ndjson").read_text().splitlines()]


def hrefs(document: dict[str, Any]) -> list[str]:
    return [entry["href"] for entry in (*document["assets"].values(), *document["links"])]


def test_every_item_is_there_as_the_dataset_has_it(dataset: Dataset, tmp_path: Path) -> None:
    target = tmp_path / "export"
    seen: list[tuple[int, int]] = []
    assert export_ndjson(dataset, target, progress=lambda done, total: seen.append((done, total))) == len(PATCHES)
    assert seen[-1] == (len(PATCHES), len(PATCHES))
    documents = exported(target)
    assert [item["id"] for item in documents] == sorted(patch.id for patch in PATCHES)
    for item, expected in zip(documents, items(dataset.table()), strict=True):
        for asset in item["assets"].values():
            asset["href"] = asset["href"].removeprefix((tmp_path / "dataset").as_uri() + "/")
        assert item["assets"] == expected["assets"]
        assert item["properties"] == expected["properties"]
        assert item["geometry"]["coordinates"] == json.loads(json.dumps(expected["geometry"]))["coordinates"]
        assert pystac.Item.from_dict(item).collection_id == "small"
    assert sorted(path.name for path in target.iterdir()) == ["collection.json", "items.ndjson"]


def test_hrefs_lead_to_the_files(dataset: Dataset, tmp_path: Path) -> None:
    export_ndjson(dataset, tmp_path)
    collection = json.loads((tmp_path / "collection.json").read_text())
    assert collection["id"] == "small"
    local = [href for document in (*exported(tmp_path), collection) for href in hrefs(document)]
    files = [Path(urlsplit(href).path) for href in local if href.startswith("file:///")]
    assert all("://" in href for href in local)
    assert tmp_path / "dataset" / "patches" in {path.parents[3] for path in files if path.suffix == ".tif"}
    assert all(path.exists() for path in files if path.suffix == ".tif")


def test_files_may_be_found_elsewhere_by_others(dataset: Dataset, tmp_path: Path) -> None:
    export_ndjson(dataset, tmp_path, files_at="https://host/assets/small")
    (item, *_) = exported(tmp_path)
    assert item["assets"]["S1"]["href"].startswith("https://host/assets/small/patches/33UUP/")
    assert item["links"][0] == {
        "rel": "collection",
        "type": "application/json",
        "href": "https://host/assets/small/collection.json",
    }


def test_a_dataset_on_s3_is_referred_to_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_s3(monkeypatch, "bucket"):
        dataset = write_dataset("s3://bucket/europe", PATCHES[:1])
        export_ndjson(dataset, tmp_path)
    (item,) = exported(tmp_path)
    assert item["assets"]["S2_10m"]["href"].startswith("s3://bucket/europe/patches/")


def test_columns_that_an_earlier_version_did_not_write_are_left_out(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "dataset" / ITEMS
    pq.write_table(pq.read_table(path).drop_columns(["landpatch:season"]), path)
    export_ndjson(dataset, tmp_path)
    assert all("landpatch:season" not in item["properties"] for item in exported(tmp_path))


def test_a_damaged_catalogue_leaves_the_last_export_alone(dataset: Dataset, tmp_path: Path) -> None:
    export_ndjson(dataset, tmp_path)
    before = (tmp_path / "items.ndjson").read_bytes()
    path = tmp_path / "dataset" / ITEMS
    damaged = bytearray(path.read_bytes())
    damaged[100:2100] = bytes(2000)
    path.write_bytes(damaged)
    with pytest.raises(InvalidDataset, match=r"items\.parquet is damaged"):
        export_ndjson(dataset, tmp_path)
    assert (tmp_path / "items.ndjson").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["collection.json", "dataset", "items.ndjson"]


def test_memory_does_not_grow_with_the_catalogue(dataset: Dataset, tmp_path: Path) -> None:
    table = dataset.table()
    peaks = []
    for count in (1_000, 3_000):
        many = pa.concat_tables([table] * (count // len(PATCHES)))
        pq.write_table(many, tmp_path / "dataset" / ITEMS, row_group_size=1_000)
        tracemalloc.start()
        export_ndjson(dataset, tmp_path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
