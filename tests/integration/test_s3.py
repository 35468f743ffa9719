"""The same dataset on S3 as in a folder: scenes read from, and patches written to, a real S3 API on loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import rasterio

from demo_build import Landpatch
from landpatch.catalog.errors import StorageError
from landpatch.catalog.reach import Reach
from landpatch.catalog.selection import Question
from landpatch.catalog.store import Dataset, Storage
from landpatch.catalog.subset import download
from landpatch.catalog.transfer import Expected, Manners, Parts, Transfer
from landpatch.functions.raster import gdal_environment, gdal_path
from s3_server import serve_s3
from small_dataset import Patch, write_dataset
from small_scenes import ULX, ULY, SmallRadar, SmallScene, write_clc

BUCKET = "landpatch-test"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    with serve_s3(monkeypatch, BUCKET) as client:
        yield client


def upload(client: object, folder: Path, prefix: str) -> None:
    for file in folder.iterdir():
        client.upload_file(str(file), BUCKET, f"{prefix}/{file.name}")  # type: ignore[attr-defined]


def states(client: object) -> dict[str, tuple]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)  # type: ignore[attr-defined]
    entries = [entry for page in pages for entry in page["Contents"]]
    return {entry["Key"]: (entry["ETag"], entry["LastModified"]) for entry in entries}


def test_scenes_from_s3_labels_from_s3_patches_to_s3(tmp_path: Path, s3: object, landpatch: Landpatch) -> None:
    SmallScene().write(tmp_path / "s2")
    SmallRadar().write(tmp_path / "s1")
    upload(s3, tmp_path / "s2", "scenes/s2")
    upload(s3, tmp_path / "s1", "scenes/s1")
    clc = write_clc(tmp_path / "clc.gpkg", [(ULX, ULY - 20000, ULX + 20000, ULY, "412")])
    labels = f"s3://{BUCKET}/labels/clc.parquet"
    landpatch("labels", "prepare", clc, labels)
    item, radar = (f"s3://{BUCKET}/scenes/{name}/item.json" for name in ("s2", "s1"))
    command = ["build", item, "--s1", radar, "--labels", labels, "--countries", "natural-earth", "--to"]
    landpatch(*command, f"s3://{BUCKET}/europe")
    landpatch(*command, tmp_path / "europe")

    remote, local = Storage.open(f"s3://{BUCKET}/europe"), Storage.open(tmp_path / "europe")
    paths = [path for path in local.list() if not path.startswith("jobs/")]
    assert len(paths) == 6 * 5 + 3 + 1 + 4 + 1  # files, scene and label items, part, catalogue, boundaries
    assert [path for path in remote.list() if not path.startswith("jobs/")] == paths
    assert all(remote.get(path) == local.get(path) for path in paths)
    assert list(remote.get_many(paths)) == list(local.get_many(paths))

    before = states(s3)
    landpatch(*command, f"s3://{BUCKET}/europe")
    assert states(s3) == before
    assert "SUCCEEDED" in landpatch("status", f"s3://{BUCKET}/europe").stdout

    table = Dataset.open(f"s3://{BUCKET}/europe").table(["id", "landpatch:labels", "landpatch:country"])
    assert table.column("landpatch:labels").to_pylist() == [["Inland wetlands"]] * 6
    assert table.column("landpatch:country").to_pylist() == ["Germany"] * 6
    landpatch("export", "lmdb", f"s3://{BUCKET}/europe", tmp_path / "remote.lmdb")
    landpatch("export", "lmdb", tmp_path / "europe", tmp_path / "local.lmdb")
    assert (tmp_path / "remote.lmdb" / "data.mdb").read_bytes() == (tmp_path / "local.lmdb" / "data.mdb").read_bytes()


def test_one_of_many_creators_wins_on_s3(s3: object) -> None:
    from concurrent.futures import ThreadPoolExecutor

    storage = Storage.open(f"s3://{BUCKET}/claims")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: storage.create("claim", str(number).encode()), range(16)))
    assert won.count(True) == 1
    assert storage.get("claim") == str(won.index(True)).encode()


def test_a_bucket_that_is_not_there_is_named(tmp_path: Path, s3: object, landpatch: Landpatch) -> None:
    with pytest.raises(StorageError, match="s3://no-such-bucket"):
        Storage.open("s3://no-such-bucket/x").put("a", b"b")
    scene, radar = SmallScene().write(tmp_path / "s2"), SmallRadar().write(tmp_path / "s1")
    command = ["build", scene, "--s1", radar, "--no-labels", "--to", "s3://no-such-bucket/europe"]
    result = landpatch(*command, check=False)
    assert result.returncode == 7
    assert "no-such-bucket" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_subset_from_s3_and_a_part_that_goes_on(tmp_path: Path, s3: object) -> None:
    dataset = write_dataset(f"s3://{BUCKET}/small", [Patch(0, 0), Patch(14, 14), Patch(40, 40)])
    outcome = download(f"s3://{BUCKET}/small", tmp_path / "out", Question.of(split="test"))
    assert (outcome.items, outcome.fetched, outcome.problems) == (1, 5, {})
    taken = Storage.open(tmp_path / "out")
    patches = taken.list("patches")
    assert len(patches) == 5
    assert all(taken.get(path) == dataset.storage.get(path) for path in patches)
    assert download(f"s3://{BUCKET}/small", tmp_path / "out", Question.of(split="test")).fetched == 0

    (tmp_path / "parts").mkdir()
    size, tag, _ = dataset.storage.stream(patches[0])
    target = tmp_path / "x.tif"
    for state, received in ((tag, size - 1000), ('"another"', size)):
        with Parts(tmp_path / "parts").open(str(target)) as part:
            part.restart(state)
            part.write(dataset.storage.get(patches[0])[:1000])
        transfer = Transfer(Reach(), Manners(first_wait=0.01))
        transfer.fetch(f"s3://{BUCKET}/small/{patches[0]}", target, Parts(tmp_path / "parts"), Expected(size))
        assert transfer.received == received
        assert target.read_bytes() == dataset.storage.get(patches[0])
        transfer.close()


def test_a_file_that_was_replaced_at_its_address_is_read_anew(tmp_path: Path, s3: object) -> None:
    """A function's process lives for hours, and GDAL would keep what it has read."""
    for seed in (1, 2):
        scene = SmallScene(seed=seed)
        scene.write(tmp_path / "s2")
        upload(s3, tmp_path / "s2", "scenes/s2")
        with gdal_environment(), rasterio.open(gdal_path(f"s3://{BUCKET}/scenes/s2/B02.tif")) as source:
            assert source.read(1).tobytes() == scene.bands["B02"].tobytes()
