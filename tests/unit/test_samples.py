"""Samples to train on, beside what the safetensors library makes of the same values."""

import csv
import gc
import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from landpatch.catalog import Samples
from landpatch.catalog.bands import PATCH_ASSETS, S1
from landpatch.catalog.errors import InvalidDataset, InvalidLabels, InvalidParameter, StorageError
from landpatch.catalog.exports.lmdb import export_lmdb
from landpatch.catalog.nomenclature import clc2018
from landpatch.catalog.tables import OFFICIAL_SCHEMA, write_table
from small_dataset import LABELS, Patch, write_dataset

TRAIN = [Patch(2, 9), Patch(2, 10), Patch(11, 3)]
OTHERS = [Patch(20, 20), Patch(40, 41), Patch(41, 40)]  # validation, test, test
SNOW = Patch(5, 5, flags=(True, False))
BANDS = [plane for asset in PATCH_ASSETS if asset.key != "reference_map" for plane in asset.planes]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    export_lmdb(write_dataset(str(folder / "dataset"), [*TRAIN, *OTHERS, SNOW]), folder / "all.lmdb")
    return folder / "all.lmdb"


def by_library(patch: Patch) -> dict[str, Any]:
    """Planes by name, through safetensors and back."""
    pixels = patch.pixels()
    planes = {
        name: np.ascontiguousarray(plane)
        for asset in PATCH_ASSETS
        for name, plane in zip(asset.planes, pixels.get(asset.key, ()), strict=False)
    }
    return safetensors.numpy.load(safetensors.numpy.save(planes))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    bands=st.lists(st.sampled_from(BANDS), min_size=1, unique=True), chosen=st.lists(st.integers(-7, 6), max_size=5)
)
def test_a_batch_holds_the_bands_in_the_order_asked_for(export: Path, bands: list[str], chosen: list[int]) -> None:
    samples = Samples(export, bands=bands, flagged=True, reference_map=True)
    patches = sorted([*TRAIN, *OTHERS, SNOW], key=lambda patch: patch.id)
    assert samples.patch_ids == [patch.id for patch in patches]
    batch = samples.read(chosen)
    assert batch["index"].tolist() == [index % 7 for index in chosen]
    assert sorted(band for names in samples.bands.values() for band in names) == sorted(bands)
    for names in samples.bands.values():
        assert list(names) == [band for band in bands if band in names]
    assert set(batch) == {*samples.bands, "reference_map", "labels", "index"}
    for number, index in enumerate(chosen):
        expected = by_library(patches[index])
        for key, names in samples.bands.items():
            assert batch[key].dtype == expected[names[0]].dtype
            for band, name in enumerate(names):
                np.testing.assert_array_equal(batch[key][number, band], expected[name])
        np.testing.assert_array_equal(batch["reference_map"][number], expected["Data"])


def test_native_sizes_and_one_sample(export: Path) -> None:
    samples = Samples(export, bands=BANDS, split="train")
    shapes = {key: values.shape for key, values in samples.__getitems__([0, 1]).items()}
    assert shapes == {
        "S2_10m": (2, 4, 120, 120),
        "S2_20m": (2, 6, 60, 60),
        "S2_60m": (2, 2, 20, 20),
        "S1": (2, 2, 120, 120),
        "labels": (2, 19),
        "index": (2,),
    }
    one = samples[1]
    np.testing.assert_array_equal(one["S2_20m"], samples.read([1])["S2_20m"][0])
    assert len(list(samples)) == len(samples) == 3  # iteration ends where IndexError says so


@pytest.mark.parametrize("order", [clc2018().classes, clc2018().original_order, LABELS[::-1]])
def test_labels_follow_the_order_of_the_classes(export: Path, order: tuple[str, ...]) -> None:
    samples = Samples(export, bands=["B04"], classes=order)
    labels = samples.read([0, 3])["labels"]
    assert labels.dtype == np.float32
    for row in labels:
        assert [name for name, there in zip(order, row, strict=True) if there] == sorted(LABELS, key=order.index)
    assert samples.labels.sum(0).tolist() == [6 * (name in LABELS) for name in order]
    assert clc2018().classes != clc2018().original_order


def test_splits_and_flags(export: Path) -> None:
    def ids(**options: Any) -> set[str]:
        return set(Samples(export, bands=["VV"], **options).patch_ids)

    assert ids(split="train") == {patch.id for patch in TRAIN}
    assert ids(split="train", flagged=True) == {patch.id for patch in [*TRAIN, SNOW]}
    assert ids(split="validation") | ids(split="test") == {patch.id for patch in OTHERS}
    assert ids() == {patch.id for patch in [*TRAIN, *OTHERS]}


def test_a_batch_outlives_the_file_and_can_be_filled_again(export: Path, tmp_path: Path) -> None:
    shutil.copytree(export, tmp_path / "copy.lmdb")
    samples = Samples(tmp_path / "copy.lmdb", bands=["B02", "VH"])
    batch = samples.read([0, 1])
    again = samples.read([2, 3], batch)
    assert again is batch
    assert batch["index"].tolist() == [2, 3]
    kept = {name: values.copy() for name, values in batch.items()}
    for values in batch.values():
        assert values.base is None or isinstance(values.base, np.ndarray)
    del samples
    gc.collect()
    shutil.rmtree(tmp_path / "copy.lmdb")
    for name, values in kept.items():
        np.testing.assert_array_equal(batch[name], values)


def _in_child(samples: Samples, queue: Any) -> None:
    try:
        queue.put((os.getpid(), samples.read([0])["S1"].sum()))
    except Exception as error:
        queue.put((os.getpid(), error))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_several_in_one_process_in_threads_and_in_children(export: Path, method: str) -> None:
    train, test = (Samples(export, bands=["VV"], split=split) for split in ("train", "test"))
    expected = by_library(TRAIN[0])["VV"].sum(), by_library(OTHERS[2])["VV"].sum()
    read = train.read([0])["S1"].sum(), test.read([1])["S1"].sum()  # both are open now
    assert read == expected
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: train.read([0])["S1"].sum(), range(40))) == [expected[0]] * 40
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(train, queue))
    child.start()
    process, found = queue.get(timeout=60)
    child.join()
    assert process != os.getpid()
    assert found == expected[0]
    assert pickle.loads(pickle.dumps(train)).read([0])["S1"].sum() == train.read([0])["S1"].sum() == expected[0]


def test_what_is_asked_for_has_to_be_there(export: Path, tmp_path: Path) -> None:
    for bands in (["B10"], [], ["B02", "B02"], "B02", ["Data"]):
        with pytest.raises(InvalidParameter, match="each once"):
            Samples(export, bands=bands)
    with pytest.raises(InvalidParameter, match="'val' is no split"):
        Samples(export, bands=["B02"], split="val")
    with pytest.raises(InvalidLabels, match="'Arable land'"):
        Samples(export, bands=["B02"], classes=["Pastures"])
    with pytest.raises(StorageError, match="metadata"):
        Samples(tmp_path, bands=["B02"])
    with pytest.raises(IndexError):
        Samples(export, bands=["B02"]).read([6])
    elsewhere = Samples(tmp_path / "none.lmdb", bands=["B02"], metadata=export)
    with pytest.raises(StorageError, match=r"none\.lmdb"):
        elsewhere.read([0])


def test_a_patch_without_sentinel_1_has_none(tmp_path: Path) -> None:
    dataset = write_dataset(str(tmp_path / "dataset"), [Patch(2, 9), Patch(2, 10, radar=None)])
    export_lmdb(dataset, tmp_path / "some.lmdb")
    with pytest.raises(InvalidParameter, match="1 of 2 patches have no Sentinel-1"):
        Samples(tmp_path / "some.lmdb", bands=["B02", "VV"])
    assert S1.key not in Samples(tmp_path / "some.lmdb", bands=["B02"]).read([0, 1])


def test_values_that_are_not_what_the_metadata_say(tmp_path: Path) -> None:
    folder = tmp_path / "odd.lmdb"
    folder.mkdir()
    rows = [
        {"patch_id": name, "labels": ["Pastures"], "split": "train", "s1_name": f"{name}_s1"}
        for name in ("a", "b", "c", "d")
    ]
    (folder / "metadata.parquet").write_bytes(write_table(pa.Table.from_pylist(rows, schema=OFFICIAL_SCHEMA)))
    good = np.arange(120 * 120, dtype=np.uint16).reshape(120, 120)
    values = {
        "a": safetensors.numpy.save({"B02": good, "B99": good[:7]}, metadata={"made": "elsewhere"}),
        "b": safetensors.numpy.save({"B05": good[:60, :60]}),
        "c": safetensors.numpy.save({"B02": good[:60]}),
    }
    with lmdb.open(str(folder), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)
    samples = Samples(folder, bands=["B02"])
    np.testing.assert_array_equal(samples[0]["S2_10m"][0], good)
    for index, problem in ((1, "b lacks the band B02"), (2, r"c holds B02 as \[60, 120\] of U16"), (3, "holds no d")):
        with pytest.raises(InvalidDataset, match=problem):
            samples.read([index])


def test_the_published_tables_give_the_published_counts(shared_data: Path) -> None:
    folder = shared_data / "bigearthnet-v2"
    for split in ("train", "validation", "test"):
        samples = Samples("absent.lmdb", bands=["B02"], split=split, metadata=folder)
        counts = dict(zip(samples.classes, samples.labels.sum(0).tolist(), strict=True))
        with (folder / "class_counts_clean_by_split.csv").open() as file:
            assert counts == {row["labels"]: int(row[split]) for row in csv.DictReader(file)}
