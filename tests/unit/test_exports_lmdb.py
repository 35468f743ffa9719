"""LMDB: byte for byte what rico-hdl writes, whatever happens on the way."""

import json
import multiprocessing
import os
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from landpatch.catalog.bands import PATCH_ASSETS
from landpatch.catalog.errors import DatasetConflict, InvalidDataset, InvalidParameter
from landpatch.catalog.exports import lmdb as module
from landpatch.catalog.exports.lmdb import (
    MAP_BLOB,
    OPTICAL_BLOB,
    RADAR_BLOB,
    BlobLayout,
    LmdbWriter,
    export_lmdb,
)
from landpatch.catalog.store import Dataset, Storage
from small_dataset import RADAR, SCENE, Patch, write_dataset

LATER = "S2B_MSIL2A_20170620T101029_N9999_R022_T33UUP"
# Ids do not come in the order of positions, Sentinel-1 names are not padded: sorting has something to do.
PATCHES = [Patch(x, y) for x, y in ((2, 9), (2, 10), (11, 3), (0, 0))]
PLANES = {asset.key: asset.planes for asset in PATCH_ASSETS}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return write_dataset(str(tmp_path / "dataset"), PATCHES)


@pytest.fixture
def small_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEYS_A_TRANSACTION", 2)
    monkeypatch.setattr(module, "_FIRST_MAP", 1 << 16)  # less than one value: the map has to grow again and again


def bands_of(patch: Patch, *keys: str) -> dict[str, NDArray[Any]]:
    """Planes by band name."""
    pixels = patch.pixels()
    return {
        name: np.ascontiguousarray(plane)
        for key in keys
        for name, plane in zip(PLANES[key], pixels[key], strict=True)
    }


def expected_values(patches: list[Patch]) -> list[dict[str, bytes]]:
    """What has to be in the file, by source: through the safetensors library."""
    save = safetensors.numpy.save
    return [
        {patch.s1_name: save(bands_of(patch, "S1")) for patch in patches if patch.radar},
        {patch.id: save(bands_of(patch, "S2_10m", "S2_20m", "S2_60m")) for patch in patches},
        {f"{patch.id}_reference_map": save(bands_of(patch, "reference_map")) for patch in patches if patch.labelled},
    ]


def as_upstream(folder: Path, patches: list[Patch]) -> bytes:
    """data.mdb as rico-hdl makes it: sorted, a transaction for (up to 512 values of) each source."""
    with lmdb.open(str(folder), map_size=1 << 30) as environment:
        for source in expected_values(patches):
            with environment.begin(write=True) as transaction:
                for name in sorted(source):
                    assert transaction.put(name.encode(), source[name], overwrite=False)
    return (folder / "data.mdb").read_bytes()


def without_map_size(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[32:40] = changed[4096 + 32 : 4096 + 40] = bytes(8)
    return bytes(changed)


def read_all(folder: Path) -> list[tuple[str, bytes]]:
    """Keys and values in the order of a raw cursor, opened as readers do it."""
    with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return [(bytes(key).decode(), bytes(value)) for key, value in transaction.cursor()]


def all_values(patches: list[Patch]) -> dict[str, bytes]:
    merged: dict[str, bytes] = {}
    for source in expected_values(patches):
        merged |= source
    return merged


# --- Values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "keys", "size"),
    [
        (OPTICAL_BLOB, ("S2_10m", "S2_20m", "S2_60m"), 160_832),
        (RADAR_BLOB, ("S1",), 115_344),
        (MAP_BLOB, ("reference_map",), 28_880),
    ],
)
@given(seed=st.integers(0, 2**32 - 1), view=st.booleans())
def test_blobs_equal_those_of_safetensors(
    layout: BlobLayout, keys: tuple[str, ...], size: int, seed: int, view: bool
) -> None:
    generator = np.random.default_rng(seed)
    planes: dict[str, NDArray[Any]] = {}
    for asset in PATCH_ASSETS:
        if asset.key in keys:
            # Every bit pattern, NaN and infinities among them; a window of a larger array as in a tile's strip.
            shape = (len(asset.planes), asset.pixels, asset.pixels * (2 if view else 1))
            raw = generator.integers(0, 256, (*shape, np.dtype(asset.dtype).itemsize), np.uint8)
            planes[asset.key] = raw.view(asset.dtype)[..., 0][:, :, : asset.pixels]
    blob = bytes(layout.encode(planes))
    named = {
        name: np.ascontiguousarray(plane)
        for key in keys
        for name, plane in zip(PLANES[key], planes[key], strict=True)
    }
    assert blob == safetensors.numpy.save(named)
    assert len(blob) == size == layout.size
    for name, plane in named.items():
        start, shape = layout.tensors[name]
        assert blob[start : start + plane.nbytes] == plane.tobytes()
        assert shape == plane.shape
    filled = layout.empty()
    for key, views in layout.planes(filled).items():
        for target, plane in zip(views, planes[key], strict=True):
            target[...] = plane
    assert bytes(filled) == blob


def test_tensors_are_in_the_serialisers_order() -> None:
    names = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B11", "B12", "B8A"]
    assert list(OPTICAL_BLOB.tensors) == names
    assert list(RADAR_BLOB.tensors) == ["VH", "VV"]
    assert list(MAP_BLOB.tensors) == ["Data"]


@pytest.mark.parametrize("change", [lambda a: a.astype(np.int16), lambda a: a[:, :-1], lambda a: a[0]])
def test_other_shapes_and_dtypes_are_refused(change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    pixels = PATCHES[0].pixels()
    pixels["S2_20m"] = change(pixels["S2_20m"])
    with pytest.raises(InvalidParameter, match="S2_20m takes 6 x 60 x 60 of uint16"):
        OPTICAL_BLOB.encode(pixels)


# --- Export ---------------------------------------------------------------------------------------------------------


def test_keys_values_and_their_order(dataset: Dataset, tmp_path: Path) -> None:
    result = export_lmdb(dataset, tmp_path / "out.lmdb")
    found = read_all(tmp_path / "out.lmdb")
    expected = all_values(PATCHES)
    assert [key for key, _ in found] == sorted(expected, key=str.encode)
    assert dict(found) == expected
    assert (result.patches, result.keys, result.written) == (4, 12, 12)


def test_the_file_is_upstreams_but_for_the_map_size(tmp_path: Path) -> None:
    patches = [Patch(x, 7) for x in range(60)]  # enough for several leaf pages and a branch above them
    export_lmdb(write_dataset(str(tmp_path / "dataset"), patches), tmp_path / "out.lmdb")
    ours = (tmp_path / "out.lmdb" / "data.mdb").read_bytes()
    assert without_map_size(ours) == without_map_size(as_upstream(tmp_path / "theirs", patches))


def test_map_size_is_file_size_and_nothing_is_sparse(dataset: Dataset, tmp_path: Path) -> None:
    result = export_lmdb(dataset, tmp_path / "out.lmdb")
    file = tmp_path / "out.lmdb" / "data.mdb"
    data = file.read_bytes()
    stat = file.stat()
    assert struct.unpack_from("<Q", data, 32) == struct.unpack_from("<Q", data, 4096 + 32) == (stat.st_size,)
    assert result.bytes == stat.st_size == len(data)
    assert stat.st_blocks * 512 >= stat.st_size
    assert stat.st_size % 4096 == 0
    assert stat.st_size < sum(len(value) for value in all_values(PATCHES).values()) + 12 * 4096 + 10 * 4096


def test_metadata_tables_and_marker_lie_beside_the_data(dataset: Dataset, tmp_path: Path) -> None:
    export_lmdb(dataset, tmp_path / "out.lmdb")
    assert sorted(path.name for path in (tmp_path / "out.lmdb").iterdir()) == [
        "data.mdb",
        "landpatch.json",
        "metadata.parquet",
        "metadata_for_patches_with_snow_cloud_or_shadow.parquet",
    ]
    table = pq.read_table(tmp_path / "out.lmdb" / "metadata.parquet")
    assert table.column("patch_id").to_pylist() == sorted(patch.id for patch in PATCHES)


def test_twice_gives_the_same_bytes_and_again_writes_nothing(dataset: Dataset, tmp_path: Path) -> None:
    export_lmdb(dataset, tmp_path / "one.lmdb")
    export_lmdb(dataset, tmp_path / "two.lmdb")
    file = tmp_path / "one.lmdb" / "data.mdb"
    assert file.read_bytes() == (tmp_path / "two.lmdb" / "data.mdb").read_bytes()

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "one.lmdb").iterdir()}
    again = export_lmdb(dataset, tmp_path / "one.lmdb")
    assert (again.patches, again.keys, again.bytes, again.written) == (4, 12, file.stat().st_size, 0)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "one.lmdb").iterdir()} == before
    assert not (tmp_path / "one.lmdb.partial").exists()


def test_storage_that_is_no_folder_gives_the_same_file(dataset: Dataset, tmp_path: Path) -> None:
    export_lmdb(dataset, tmp_path / "out.lmdb")
    export_lmdb(write_dataset(Storage.open("memory://"), PATCHES), tmp_path / "memory.lmdb")
    files = [(tmp_path / name / "data.mdb").read_bytes() for name in ("out.lmdb", "memory.lmdb")]
    assert files[0] == files[1]


def test_patches_without_sentinel_1_or_map_have_no_such_keys(tmp_path: Path) -> None:
    patches = [Patch(1, 1), Patch(1, 2, radar=None), Patch(1, 3, labelled=False)]
    result = export_lmdb(write_dataset(str(tmp_path / "dataset"), patches), tmp_path / "out.lmdb")
    assert dict(read_all(tmp_path / "out.lmdb")) == all_values(patches)
    assert (result.patches, result.keys) == (3, 7)


def test_a_selection(dataset: Dataset, tmp_path: Path) -> None:
    chosen = PATCHES[1:3]
    result = export_lmdb(dataset, tmp_path / "out.lmdb", where={patch.id for patch in chosen})
    assert dict(read_all(tmp_path / "out.lmdb")) == all_values(chosen)
    assert result.patches == 2
    assert export_lmdb(dataset, tmp_path / "out.lmdb", where=[patch.id for patch in chosen]).written == 0
    with pytest.raises(DatasetConflict, match="selection"):
        export_lmdb(dataset, tmp_path / "out.lmdb")
    with pytest.raises(InvalidParameter, match="S2A_nowhere"):
        export_lmdb(dataset, tmp_path / "other.lmdb", where=["S2A_nowhere"])


def test_progress_counts_keys(dataset: Dataset, tmp_path: Path, small_transactions: None) -> None:
    told: list[tuple[int, int]] = []
    export_lmdb(dataset, tmp_path / "out.lmdb", progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 12) for done in (2, 4, 6, 8, 10, 12)]


def test_one_sentinel_1_patch_of_two_dates_has_one_key(tmp_path: Path) -> None:
    patches = [Patch(1, 1, radar_seed=7), Patch(1, 1, scene=LATER, radar_seed=7, compression="zstd")]
    result = export_lmdb(write_dataset(str(tmp_path / "dataset"), patches), tmp_path / "out.lmdb")
    assert dict(read_all(tmp_path / "out.lmdb")) == all_values(patches)
    assert (result.patches, result.keys) == (2, 5)


def test_two_sentinel_1_patches_of_one_name_are_refused(tmp_path: Path) -> None:
    dataset = write_dataset(str(tmp_path / "dataset"), [Patch(1, 1), Patch(1, 1, scene=LATER)])
    for _ in range(2):  # the second time the key is there already
        with pytest.raises(InvalidDataset, match=f"{RADAR}_33UUP_1_1 has other pixels"):
            export_lmdb(dataset, tmp_path / "out.lmdb")
    assert not (tmp_path / "out.lmdb").exists()


# --- What goes wrong ------------------------------------------------------------------------------------------------


def test_damaged_files_are_named_and_the_others_are_kept(
    dataset: Dataset, tmp_path: Path, small_transactions: None
) -> None:
    folder = tmp_path / "dataset" / "patches" / "33UUP" / SCENE
    cut = folder / PATCHES[0].id / f"{PATCHES[0].id}_S2_20m.tif"
    changed = folder / PATCHES[1].id / f"{PATCHES[1].s1_name}.tif"
    gone = folder / PATCHES[2].id / f"{PATCHES[2].id}_reference_map.tif"
    sound = {file: file.read_bytes() for file in (cut, changed, gone)}
    cut.write_bytes(sound[cut][:-10])
    changed.write_bytes(sound[changed][:-1] + bytes([sound[changed][-1] ^ 1]))
    gone.unlink()

    with pytest.raises(InvalidDataset) as caught:
        export_lmdb(dataset, tmp_path / "out.lmdb")
    text = str(caught.value)
    assert "3 file(s)" in text
    for patch, file in ((PATCHES[0], cut), (PATCHES[1], changed), (PATCHES[2], gone)):
        assert f"patch {patch.id}: {file}" in text
    assert not (tmp_path / "out.lmdb").exists()
    others = all_values(PATCHES)
    for key in (PATCHES[0].id, PATCHES[1].s1_name, f"{PATCHES[2].id}_reference_map"):
        del others[key]
    assert dict(read_all(tmp_path / "out.lmdb.partial")) == others

    for file, data in sound.items():
        file.write_bytes(data)
    assert export_lmdb(dataset, tmp_path / "out.lmdb").written == 3
    assert dict(read_all(tmp_path / "out.lmdb")) == all_values(PATCHES)


def test_what_is_no_export_is_left_alone(dataset: Dataset, tmp_path: Path) -> None:
    place = tmp_path / "out.lmdb"
    place.mkdir()
    (place / "data.mdb").write_bytes(b"somebody's")
    with pytest.raises(DatasetConflict, match="no export of landpatch"):
        export_lmdb(dataset, place)
    assert (place / "data.mdb").read_bytes() == b"somebody's"


def test_another_datasets_export_is_left_alone(dataset: Dataset, tmp_path: Path) -> None:
    export_lmdb(dataset, tmp_path / "out.lmdb")
    other = write_dataset(str(tmp_path / "other"), [Patch(50, 50)])
    with pytest.raises(DatasetConflict, match=str(tmp_path / "dataset")):
        export_lmdb(other, tmp_path / "out.lmdb")
    assert dict(read_all(tmp_path / "out.lmdb")) == all_values(PATCHES)


def test_a_grown_dataset_replaces_its_export(dataset: Dataset, tmp_path: Path) -> None:
    export_lmdb(dataset, tmp_path / "out.lmdb")
    grown = [*PATCHES, Patch(5, 5, scene=LATER)]
    result = export_lmdb(write_dataset(str(tmp_path / "dataset"), grown), tmp_path / "out.lmdb")
    assert dict(read_all(tmp_path / "out.lmdb")) == all_values(grown)
    assert (result.patches, result.written) == (5, 15)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "out.lmdb"]


def test_a_truncated_export_is_made_again(dataset: Dataset, tmp_path: Path) -> None:
    export_lmdb(dataset, tmp_path / "out.lmdb")
    file = tmp_path / "out.lmdb" / "data.mdb"
    sound = file.read_bytes()
    file.write_bytes(sound[:-4096])
    assert export_lmdb(dataset, tmp_path / "out.lmdb").written == 12
    assert file.read_bytes() == sound


def test_it_goes_to_local_folders_only(dataset: Dataset) -> None:
    with pytest.raises(InvalidParameter, match="local folder"):
        export_lmdb(dataset, "s3://bucket/out.lmdb")


# --- Killed ---------------------------------------------------------------------------------------------------------

KILLED = """
    import os, random, signal, sys, threading
    from landpatch.catalog.exports import lmdb as module
    from landpatch.catalog.store import Dataset, Storage

    source, place, after, seed = sys.argv[1:]
    module._KEYS_A_TRANSACTION = 2

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    def progress(done, total):
        if done == int(after):
            # At once: between two transactions. Else at some moment of the next ones.
            threading.Timer(random.Random(int(seed)).random() / 50, die).start() if int(seed) else die()

    module.export_lmdb(Dataset.open(source), place, progress=progress)
"""


def test_a_small_export_that_was_killed_begins_again(dataset: Dataset, tmp_path: Path) -> None:
    arguments = [dataset.storage.url, str(tmp_path / "out.lmdb"), "8", "0"]
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(KILLED).replace("_TRANSACTION = 2", "_TRANSACTION = 4"),
        *arguments,
    ]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(read_all(tmp_path / "out.lmdb.partial")) == 8
    assert export_lmdb(dataset, tmp_path / "out.lmdb").written == 12
    ours = (tmp_path / "out.lmdb" / "data.mdb").read_bytes()
    assert without_map_size(ours) == without_map_size(as_upstream(tmp_path / "theirs", PATCHES))


@pytest.mark.parametrize(("after", "seed"), [(2, 0), (10, 0), (4, 1), (8, 2)])
def test_killed_and_started_again_gives_the_same_file(
    dataset: Dataset, tmp_path: Path, small_transactions: None, after: int, seed: int
) -> None:
    export_lmdb(dataset, tmp_path / "undisturbed.lmdb")
    arguments = [dataset.storage.url, str(tmp_path / "out.lmdb"), str(after), str(seed)]
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), *arguments], check=False)
    if not seed:
        assert killed.returncode == -signal.SIGKILL
        assert not (tmp_path / "out.lmdb").exists()
    result = export_lmdb(dataset, tmp_path / "out.lmdb")
    if killed.returncode:
        assert result.written <= 12 - after
    assert (tmp_path / "out.lmdb" / "data.mdb").read_bytes() == (
        tmp_path / "undisturbed.lmdb" / "data.mdb"
    ).read_bytes()


def test_what_a_dead_machine_left_is_not_trusted(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_transactions: None
) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_lmdb(dataset, tmp_path / "out.lmdb", progress=stop)
    assert len(read_all(tmp_path / "out.lmdb.partial")) == 2
    monkeypatch.setattr(module, "_boot", lambda: "after a power cut")
    assert export_lmdb(dataset, tmp_path / "out.lmdb").written == 12


def test_an_interrupted_export_of_another_state_is_not_gone_on_with(
    dataset: Dataset, tmp_path: Path, small_transactions: None
) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_lmdb(dataset, tmp_path / "out.lmdb", progress=stop)
    changed = [Patch(patch.x, patch.y, radar_seed=1) for patch in PATCHES]
    shutil.rmtree(tmp_path / "dataset")
    export_lmdb(write_dataset(str(tmp_path / "dataset"), changed), tmp_path / "out.lmdb")
    assert dict(read_all(tmp_path / "out.lmdb")) == all_values(changed)


# --- Fused ----------------------------------------------------------------------------------------------------------


def put(writer: LmdbWriter, patch: Patch) -> None:
    pixels = patch.pixels()
    radar, reference_map = pixels.get("S1"), pixels.get("reference_map")
    writer.put_patch(
        patch.id,
        None if radar is None else patch.s1_name,
        {key: pixels[key] for key in ("S2_10m", "S2_20m", "S2_60m")},
        radar,
        None if reference_map is None else reference_map[0],
    )


def test_what_a_build_put_in_is_only_finished(dataset: Dataset, tmp_path: Path) -> None:
    with LmdbWriter(tmp_path / "out.lmdb", dataset=dataset.storage.url) as writer:
        for patch in PATCHES:
            put(writer, patch)
    assert not (tmp_path / "out.lmdb").exists()
    for file in (tmp_path / "dataset" / "patches").rglob("*.tif"):
        file.unlink()  # not needed any more
    result = export_lmdb(dataset, tmp_path / "out.lmdb", fused=True)
    assert (result.patches, result.keys, result.written) == (4, 12, 0)
    assert dict(read_all(tmp_path / "out.lmdb")) == all_values(PATCHES)
    data = (tmp_path / "out.lmdb" / "data.mdb").read_bytes()
    assert struct.unpack_from("<Q", data, 32) == (len(data),)
    assert export_lmdb(dataset, tmp_path / "out.lmdb").written == 0


def test_patches_of_earlier_builds_are_added_and_those_dropped_after_all_removed(
    dataset: Dataset, tmp_path: Path
) -> None:
    with LmdbWriter(tmp_path / "out.lmdb", dataset=dataset.storage.url) as writer:
        for patch in (PATCHES[0], Patch(90, 90)):
            put(writer, patch)
    result = export_lmdb(dataset, tmp_path / "out.lmdb", fused=True)
    assert result.written == 9
    assert dict(read_all(tmp_path / "out.lmdb")) == all_values(PATCHES)


def test_a_patch_that_is_built_again_replaces_itself(dataset: Dataset, tmp_path: Path) -> None:
    for seed in (5, None):
        with LmdbWriter(tmp_path / "out.lmdb", dataset=dataset.storage.url) as writer:
            for patch in PATCHES:
                put(writer, Patch(patch.x, patch.y, radar_seed=seed))
    export_lmdb(dataset, tmp_path / "out.lmdb", fused=True)
    assert dict(read_all(tmp_path / "out.lmdb")) == all_values(PATCHES)


def test_an_export_by_itself_does_not_trust_what_a_build_left(dataset: Dataset, tmp_path: Path) -> None:
    with LmdbWriter(tmp_path / "out.lmdb", dataset=dataset.storage.url) as writer:
        put(writer, Patch(2, 9, radar_seed=5))
    assert export_lmdb(dataset, tmp_path / "out.lmdb").written == 12
    assert dict(read_all(tmp_path / "out.lmdb")) == all_values(PATCHES)


def test_threads_share_a_writer(dataset: Dataset, tmp_path: Path, small_transactions: None) -> None:
    patches = [Patch(x, y) for x in range(4) for y in range(4)]
    with (
        LmdbWriter(tmp_path / "out.lmdb", dataset=dataset.storage.url) as writer,
        ThreadPoolExecutor(4) as pool,
    ):
        list(pool.map(lambda patch: put(writer, patch), patches))
    assert dict(read_all(tmp_path / "out.lmdb.partial")) == all_values(patches)


def put_column(place: str, url: str, x: int) -> None:
    module._KEYS_A_TRANSACTION = 2
    module._FIRST_MAP = 1 << 16
    with LmdbWriter(place, dataset=url) as writer:
        for y in range(6):
            put(writer, Patch(x, y))


def test_processes_write_the_same_file_at_the_same_time(dataset: Dataset, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=put_column, args=(str(tmp_path / "out.lmdb"), dataset.storage.url, x))
        for x in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    expected = all_values([Patch(x, y) for x in range(3) for y in range(6)])
    assert dict(read_all(tmp_path / "out.lmdb.partial")) == expected


CUT_OFF = """
    import os, signal, sys
    from landpatch.catalog.exports.lmdb import LmdbWriter
    from test_exports_lmdb import PATCHES, put

    writer = LmdbWriter(sys.argv[1], dataset=sys.argv[2])
    for patch in PATCHES[:3]:
        put(writer, patch)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_build_that_is_killed_loses_the_patches_that_wait(dataset: Dataset, tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(CUT_OFF), str(tmp_path / "out.lmdb"), dataset.storage.url]
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(command, check=False, env=os.environ | paths)
    assert killed.returncode == -signal.SIGKILL
    assert dict(read_all(tmp_path / "out.lmdb.partial")) == all_values(PATCHES[:2])
    assert export_lmdb(dataset, tmp_path / "out.lmdb", fused=True).written == 6
    assert dict(read_all(tmp_path / "out.lmdb")) == all_values(PATCHES)


HOLDER = """
    import sys
    from landpatch.catalog.exports.lmdb import LmdbWriter

    with LmdbWriter(sys.argv[1], dataset=sys.argv[2]):
        print("here", flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def another_writer(dataset: Dataset, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path / "out.lmdb"), dataset.storage.url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "here\n"
        yield process
        process.stdin.close()


def test_no_export_while_a_build_still_writes(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, another_writer: subprocess.Popen[str]
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    with pytest.raises(DatasetConflict, match="another process is writing"):
        export_lmdb(dataset, tmp_path / "out.lmdb", fused=True)
    with pytest.raises(DatasetConflict, match="would write another"):
        LmdbWriter(tmp_path / "out.lmdb", dataset="another")
    another_writer.kill()  # a dead process holds nothing
    another_writer.wait()
    assert export_lmdb(dataset, tmp_path / "out.lmdb", fused=True).written == 12


def test_the_marker_says_what_it_was_made_from(dataset: Dataset, tmp_path: Path) -> None:
    export_lmdb(dataset, tmp_path / "out.lmdb")
    marker = json.loads((tmp_path / "out.lmdb" / "landpatch.json").read_text())
    assert marker["dataset"] == dataset.storage.url
    assert (marker["patches"], marker["keys"]) == (4, 12)


@given(order=st.permutations(range(len(PATCHES))))
def test_the_order_of_building_does_not_show_in_the_values(
    order: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("order") / "out.lmdb"
    with LmdbWriter(place, dataset="any") as writer:
        for number in order:
            put(writer, PATCHES[number])
    assert read_all(place.with_name("out.lmdb.partial")) == sorted(all_values(PATCHES).items())
    shutil.rmtree(place.parent)
