"""The published dataset as a catalogue: tables, folders, archives, round trips, interruptions, hostile archives."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from landpatch.catalog import official_files
from landpatch.catalog.auditing.auditor import audit
from landpatch.catalog.bands import PATCH_ASSETS, S1, band_files
from landpatch.catalog.cogs import read_planes
from landpatch.catalog.errors import (
    DatasetConflict,
    Incomplete,
    InvalidDataset,
    InvalidParameter,
    InvalidSource,
    UnreadableAsset,
)
from landpatch.catalog.exports.folders import export_folders
from landpatch.catalog.exports.lmdb import export_lmdb
from landpatch.catalog.grid import TileGrid
from landpatch.catalog.items import items
from landpatch.catalog.official import import_bigearthnet
from landpatch.catalog.official_layout import TREES, official_file
from landpatch.catalog.official_pixels import read_band
from landpatch.catalog.schemas import validate_collection, validate_item
from landpatch.catalog.store import Dataset, Storage
from landpatch.catalog.subset import download
from landpatch.functions.cli import main
from s3_server import serve_s3
from small_dataset import Patch
from small_official import tar_of, write_archives, write_tiff, write_tree, zstd

OTHER = "S2B_MSIL2A_20170115T104029_N9999_R008_T31UDQ"
OTHER_RADAR = "S1A_IW_GRDH_1SDV_20170115T055000"
PATCHES = [
    Patch(2, 9),
    Patch(11, 3, flags=(True, False)),
    Patch(12, 90),
    Patch(0, 0, scene=OTHER, radar=OTHER_RADAR),
]
TABLES = ("metadata.parquet", "metadata_for_patches_with_snow_cloud_or_shadow.parquet")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("official") / "tree"
    write_tree(root, PATCHES)
    return root


@pytest.fixture(scope="module")
def archives(tree: Path) -> Path:
    root = tree.parent / "archives"
    write_archives(root, tree)
    return root


@pytest.fixture(scope="module")
def imported(tree: Path) -> Dataset:
    result = import_bigearthnet(tree, tree.parent / "dataset")
    assert (result.patches, result.dropped, result.changed) == (4, {}, True)
    return Dataset.open(tree.parent / "dataset")


def contents(root: Path) -> dict[str, bytes]:
    """All files but what only an import looks at."""
    found = (path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in found
        if path.relative_to(root).parts[0] != "import"
    }


def written(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


# --- folders and archives -----------------------------------------------------------------------------------------


def test_pixels_labels_and_places_come_back(imported: Dataset) -> None:
    table = imported.table()
    for patch, item in zip(sorted(PATCHES, key=lambda patch: patch.id), items(table), strict=True):
        assert item["id"] == patch.id
        validate_item(item)
        pixels = patch.pixels()
        for asset in PATCH_ASSETS:
            data = imported.storage.get(item["assets"][asset.key]["href"])
            assert len(data) == item["assets"][asset.key]["file:size"]
            np.testing.assert_array_equal(read_planes(data, asset), pixels[asset.key])
        properties = item["properties"]
        codes = pixels["reference_map"]
        assert properties["landpatch:unlabelled"] == np.count_nonzero(codes == 999) / 14400
        expected = {"Arable land": np.count_nonzero(codes == 211), "Pastures": np.count_nonzero(codes == 231)}
        assert dict(zip(properties["landpatch:labels"], properties["landpatch:label_pixels"], strict=True)) == {
            name: int(count) for name, count in expected.items()
        }
        assert properties["landpatch:s1_name"] == patch.s1_name
        assert properties["landpatch:backscatter"] == "sigma0"
        assert properties["landpatch:boa_offset"] == "absent"
        assert "eo:cloud_cover" not in properties
    assert table.column("landpatch:season").to_pylist() == ["summer"] * 3 + ["winter"]
    assert table.column("landpatch:s1_gap_hours").to_pylist()[0] == pytest.approx(17.2061, abs=1e-4)
    validate_collection(imported.collection())


@pytest.mark.parametrize("kind", ["tree", "archives"])
def test_on_s3_as_in_a_folder(
    kind: str, imported: Dataset, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = request.getfixturevalue(kind)
    with serve_s3(monkeypatch, "official") as client:
        result = import_bigearthnet(source, "s3://official/v2")
        assert (result.patches, result.dropped, result.changed) == (4, {}, True)
        remote = Storage.open("s3://official/v2")
        paths = [path for path in remote.list() if not path.startswith("import/")]
        assert {path: remote.get(path) for path in paths} == contents(Path(imported.storage.url))

        def states() -> dict[str, tuple[str, Any]]:
            entries = client.list_objects_v2(Bucket="official")["Contents"]
            return {entry["Key"]: (entry["ETag"], entry["LastModified"]) for entry in entries}

        before = states()
        assert not import_bigearthnet(source, "s3://official/v2").changed
        assert states() == before
        assert dict(audit("s3://official/v2").findings.counts) == {}


def test_the_items_that_patches_are_derived_from_are_there(imported: Dataset) -> None:
    hrefs = {link["href"] for item in items(imported.table()) for link in item["links"]} - {"collection.json"}
    assert len(hrefs) == 5  # two scenes of each sensor, one label source
    for href in hrefs:
        validate_item(imported.storage.get_json(href))


def test_archives_give_the_same_dataset_as_folders(archives: Path, imported: Dataset, tmp_path: Path) -> None:
    result = import_bigearthnet(archives, tmp_path / "dataset")
    assert (result.patches, result.dropped, result.ignored) == (4, {}, 0)
    assert contents(tmp_path / "dataset") == contents(Path(imported.storage.url))


@pytest.mark.parametrize("kind", ["tree", "archives"])
def test_a_second_run_changes_nothing(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    source = request.getfixturevalue(kind)
    import_bigearthnet(source, tmp_path / "dataset")
    before = written(tmp_path / "dataset")
    result = import_bigearthnet(source, tmp_path / "dataset")
    assert (result.patches, result.changed) == (4, False)
    assert written(tmp_path / "dataset") == before


def test_an_interrupted_stream_goes_on_and_decodes_nothing_twice(
    archives: Path, imported: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[tuple[str, str]] = []
    write = official_files.PatchWriter.write

    def stopping(self: Any, tree: str, patch: Any, *rest: Any) -> Any:
        if len(decoded) == 6:
            raise KeyboardInterrupt
        decoded.append((tree, str(patch)))
        return write(self, tree, patch, *rest)

    monkeypatch.setattr(official_files.PatchWriter, "write", stopping)
    with pytest.raises(KeyboardInterrupt):
        import_bigearthnet(archives, tmp_path / "dataset")
    assert not (tmp_path / "dataset" / "items.parquet").exists()

    def counting(self: Any, tree: str, patch: Any, *rest: Any) -> Any:
        decoded.append((tree, str(patch)))
        return write(self, tree, patch, *rest)

    monkeypatch.setattr(official_files.PatchWriter, "write", counting)
    import_bigearthnet(archives, tmp_path / "dataset")
    assert len(decoded) == len(set(decoded)) == 12
    assert contents(tmp_path / "dataset") == contents(Path(imported.storage.url))


def test_folders_and_lmdb_come_out_again(imported: Dataset, tree: Path, tmp_path: Path) -> None:
    assert export_lmdb(imported, tmp_path / "lmdb").patches == 4
    export_folders(imported, tmp_path / "tree")
    for name in TABLES:
        assert pq.read_table(tmp_path / "tree" / name).equals(pq.read_table(tree / name))
    files = {str(path.relative_to(tree)) for path in tree.rglob("*.tif")}
    assert {str(path.relative_to(tmp_path / "tree")) for path in (tmp_path / "tree").rglob("*.tif")} == files
    assert all(official_file(name) for name in files)
    import_bigearthnet(tmp_path / "tree", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(Path(imported.storage.url))


# --- what is missing or damaged -----------------------------------------------------------------------------------


def test_patches_without_files_are_counted_and_come_when_the_files_do(
    tree: Path, imported: Dataset, tmp_path: Path
) -> None:
    shutil.copytree(tree, tmp_path / "tree")
    for number, name in enumerate(TREES):
        held = sorted((tmp_path / "tree" / name).glob("*/*"))[number]
        shutil.move(held, tmp_path / f"held{number}")
        (tmp_path / f"held{number}.place").write_text(str(held))
    dropped = import_bigearthnet(tmp_path / "tree", tmp_path / "dataset").dropped
    assert sum(dropped.values()) == 4 - Dataset.open(tmp_path / "dataset").table(["id"]).num_rows
    assert set(dropped) <= {"NO_S2", "NO_S1", "NO_REFERENCE_MAP"}
    assert len(dropped) > 1
    for number in range(3):
        shutil.move(tmp_path / f"held{number}", (tmp_path / f"held{number}.place").read_text())
    assert import_bigearthnet(tmp_path / "tree", tmp_path / "dataset").dropped == {}
    assert contents(tmp_path / "dataset") == contents(Path(imported.storage.url))


def damaged_elsewhere(path: Path) -> None:
    write_tiff(path, np.ones((120, 120), np.uint16), 32633, 300_010, 5_400_000, 10)


def damaged_zone(path: Path) -> None:
    write_tiff(path, np.ones((120, 120), np.uint16), 32634, 302_400, 5_389_200, 10)


def damaged_shape(path: Path) -> None:
    write_tiff(path, np.ones((121, 120), np.uint16), 32633, 302_400, 5_389_200, 10)


def damaged_dtype(path: Path) -> None:
    write_tiff(path, np.ones((120, 120), np.float32), 32633, 302_400, 5_389_200, 10)


def damaged_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def damaged_all(path: Path) -> None:
    path.write_bytes(b"II*\0" + b"\xff" * 1000)


@pytest.mark.parametrize(
    "damage", [damaged_elsewhere, damaged_zone, damaged_shape, damaged_dtype, damaged_end, damaged_all]
)
def test_a_damaged_file_costs_its_patch_alone(tree: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    shutil.copytree(tree, tmp_path / "tree")
    patch = PATCHES[0]
    damage(tmp_path / f"tree/BigEarthNet-S2/{patch.scene}/{patch.id}/{patch.id}_B04.tif")
    result = import_bigearthnet(tmp_path / "tree", tmp_path / "dataset")
    assert (result.patches, result.dropped) == (3, {"DAMAGED": 1})
    assert f"patch {patch.id}, BigEarthNet-S2, B04" in result.problems[0]
    with pytest.raises(Incomplete, match="the others are complete"):
        result.check()


def test_compressed_files_are_read_too(tree: Path, imported: Dataset, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "tree")
    patch = PATCHES[0]
    path = tmp_path / f"tree/BigEarthNet-S2/{patch.scene}/{patch.id}/{patch.id}_B04.tif"
    write_tiff(path, patch.pixels()["S2_10m"][2], 32633, 302_400, 5_389_200, 10, compress="lzw", tiled=False)
    import_bigearthnet(tmp_path / "tree", tmp_path / "dataset")
    assert contents(tmp_path / "dataset") == contents(Path(imported.storage.url))


def test_without_sentinel_2_there_is_nothing_to_import(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "tree")
    shutil.rmtree(tmp_path / "tree/BigEarthNet-S2")
    with pytest.raises(InvalidSource, match="but not BigEarthNet-S2"):
        import_bigearthnet(tmp_path / "tree", tmp_path / "dataset")


def test_trees_that_are_not_there_are_left_out(tree: Path, tmp_path: Path) -> None:
    for name in (*TABLES, "BigEarthNet-S2"):
        source = tree / name
        (tmp_path / "tree").mkdir(exist_ok=True)
        (tmp_path / "tree" / name).symlink_to(source)
    assert import_bigearthnet(tmp_path / "tree", tmp_path / "dataset").patches == 4
    item = next(items(Dataset.open(tmp_path / "dataset").table()))
    validate_item(item)
    assert set(item["assets"]) == {"S2_10m", "S2_20m", "S2_60m"}


# --- hostile archives ---------------------------------------------------------------------------------------------

S2_FILE = f"BigEarthNet-S2/{PATCHES[0].scene}/{PATCHES[0].id}/{PATCHES[0].id}_B04.tif"


def member(name: str, data: bytes = b"x", **fields: Any) -> bytes:
    """A whole archive of one member."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo(name)
        info.size = len(data) if fields.get("type", tarfile.REGTYPE) == tarfile.REGTYPE else 0
        for key, value in fields.items():
            setattr(info, key, value)
        archive.addfile(info, io.BytesIO(data))
    return target.getvalue()


def hostile(tree: Path) -> Iterator[tuple[str, bytes, str]]:
    whole = tar_of(tree, "BigEarthNet-S2")
    packed = zstd(whole)
    yield "traversal", zstd(member(f"../../{S2_FILE}")), "leads out of the archive"
    yield "inner-traversal", zstd(member(f"BigEarthNet-S2/../../../{S2_FILE}")), "leads out of the archive"
    yield "absolute", zstd(member(f"/{S2_FILE}")), "leads out of the archive"
    yield "symlink", zstd(member(S2_FILE, type=tarfile.SYMTYPE, linkname="/etc/passwd")), "is a symbolic link"
    yield "hardlink", zstd(member(S2_FILE, type=tarfile.LNKTYPE, linkname="/etc/passwd")), "is a hard link"
    yield "device", zstd(member(S2_FILE, type=tarfile.CHRTYPE, devmajor=1, devminor=5)), "is a device"
    yield "fifo", zstd(member(S2_FILE, type=tarfile.FIFOTYPE)), "is a device"
    yield "oversized", zstd(member(S2_FILE, bytes(2**20 + 1))), "more than any file of a patch"
    yield "long-name-bomb", zstd(member("a" * 2**23)), "bytes between two files"
    yield "twice", zstd(member(S2_FILE)[:2048] + member(S2_FILE)), "is there twice"
    yield "truncated-zstd", packed[: len(packed) // 2], "truncated"
    yield "truncated-zstd-end", packed[:-3], "truncated"
    yield "truncated-tar", zstd(whole[: len(whole) // 2 + 300]), "truncated|ends early"
    yield "no-end", zstd(member(S2_FILE)[:2048]), "ends early"
    yield "size-beyond", zstd(member(S2_FILE, bytes(4000))[:2560]), "truncated|ends early"
    yield "damaged-header", zstd(whole[:512] + b"\xff" * 512 + whole[1024:]), "damaged|sound|bytes between"
    yield "not-zstd", b"PK\3\4" + bytes(1000), "no sound .tar.zst"
    yield "not-tar", zstd(b"\xfe" * 5000), "no sound .tar.zst"
    yield "empty", b"", "no sound .tar.zst|ends early"
    yield "bomb-behind", zstd(whole + bytes(2**23)), "bytes between two files"
    yield "data-behind", zstd(whole + b"more"), "damaged"


HOSTILE = [
    "traversal", "inner-traversal", "absolute", "symlink", "hardlink", "device", "fifo", "oversized",
    "long-name-bomb", "twice", "truncated-zstd", "truncated-zstd-end", "truncated-tar", "no-end", "size-beyond",
    "damaged-header", "not-zstd", "not-tar", "empty", "bomb-behind", "data-behind",
]  # fmt: skip


@pytest.fixture(scope="module")
def refused(tree: Path) -> dict[str, tuple[bytes, str]]:
    return {name: (data, reason) for name, data, reason in hostile(tree)}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused_and_touches_nothing(
    refused: dict[str, tuple[bytes, str]], tree: Path, tmp_path: Path, kind: str
) -> None:
    data, reason = refused[kind]
    source = tmp_path / "inner/source"
    source.mkdir(parents=True)
    for name in TABLES:
        shutil.copy(tree / name, source / name)
    (source / "BigEarthNet-S2.tar.zst").write_bytes(data)
    before = written(tmp_path)
    with pytest.raises(InvalidSource, match=reason):
        import_bigearthnet(source, tmp_path / "inner/dataset")
    after = written(tmp_path)
    new = set(after) - set(before)
    assert {name: after[name] for name in before} == before
    assert all(name.startswith("inner/dataset/") for name in new)
    assert not (tmp_path / "inner/dataset/items.parquet").exists()


def test_what_is_in_no_table_is_ignored_and_counted(tree: Path, tmp_path: Path) -> None:
    archive = io.BytesIO(tar_of(tree, "BigEarthNet-S2"))
    with tarfile.open(fileobj=archive, mode="a") as more:
        for name in ("BigEarthNet-S2/README", S2_FILE.replace("_02_09", "_05_05")):
            more.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    for name in TABLES:
        shutil.copy(tree / name, tmp_path / name)
    (tmp_path / "BigEarthNet-S2.tar.zst").write_bytes(zstd(archive.getvalue()))
    result = import_bigearthnet(tmp_path, tmp_path / "dataset")
    assert (result.patches, result.ignored) == (4, 2)


# --- tables alone -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def catalogue(tree: Path) -> Dataset:
    import_bigearthnet(tree, tree.parent / "catalogue", tables_only=True)
    return Dataset.open(tree.parent / "catalogue")


def test_items_of_tables_say_what_the_tables_say_and_no_more(catalogue: Dataset, tree: Path) -> None:
    for item in items(catalogue.table()):
        validate_item(item)
        assert item["assets"] == {}
        unknown = {"landpatch:label_pixels", "landpatch:unlabelled", "landpatch:cloud", "eo:cloud_cover"}
        assert not unknown & set(item["properties"])
    validate_collection(catalogue.collection())
    assert catalogue.collection()["license"] == "CDLA-Permissive-1.0"
    assert catalogue.collection()["landpatch:counts"]["flags"]["contains_seasonal_snow"] == 1
    for name in TABLES:
        assert catalogue.storage.get(name) == (tree / name).read_bytes()


def test_exports_and_downloads_of_items_without_files_say_so(catalogue: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="has no asset"):
        download(catalogue.storage.url, tmp_path / "download")
    with pytest.raises(InvalidDataset, match="no files"):
        export_lmdb(catalogue, tmp_path / "lmdb")
    with pytest.raises(InvalidDataset, match="no files"):
        export_folders(catalogue, tmp_path / "folders")
    assert not written(tmp_path / "folders")


def test_hrefs_lead_to_the_official_layout(tree: Path, tmp_path: Path) -> None:
    import_bigearthnet(tree, tmp_path / "linked", tables_only=True, assets_at=f"file://{tree}/")
    dataset = Dataset.open(tmp_path / "linked")
    hrefs = set()
    for item in items(dataset.table()):
        validate_item(item)
        hrefs |= {asset["href"].removeprefix("file://") for asset in item["assets"].values()}
    assert hrefs == {str(path) for path in tree.rglob("*.tif")}
    validate_collection(dataset.collection())
    assert set(dataset.collection()["item_assets"]) >= {"B02", "VV", "reference_map"}


def test_a_band_of_zeros_as_gdal_writes_it(tmp_path: Path) -> None:
    """Its last strip is longer than the rows that are left; it was taken for damaged."""
    band, place = band_files(S1)[0], TileGrid.from_tile("33UUP").geobox(2, 9, 10)
    for value in (0, 7):
        plane = np.full((120, 120), value, np.float32)
        write_tiff(tmp_path / "band.tif", plane, 32633, place.transform.c, place.transform.f, 10)
        data = (tmp_path / "band.tif").read_bytes()
        np.testing.assert_array_equal(read_band(data, band, place), plane)
        with pytest.raises(UnreadableAsset, match="truncated or damaged"):
            read_band(data[: len(data) // 2], band, place)


def test_another_source_or_a_dataset_of_ones_own_is_not_mixed_in(tree: Path, imported: Dataset) -> None:
    with pytest.raises(DatasetConflict, match="trees differ"):
        import_bigearthnet(tree, imported.storage.url, tables_only=True)
    with pytest.raises(DatasetConflict, match="collection differ"):
        import_bigearthnet(tree, imported.storage.url, collection="other")


def test_a_dataset_that_was_built_is_left_alone(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "collection.json").write_text("{}")
    with pytest.raises(DatasetConflict, match="no import put there"):
        import_bigearthnet(tree, tmp_path)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("patch_id", "S2A_nonsense", "no patch id"),
        ("s1_name", "S1B_IW_GRDH_1SDV_20170612T165809_33UUP_5_5", "lies elsewhere"),
        ("labels", ["Moon"], "no class"),
        ("labels", ["Pastures", "Arable land"], "not sorted"),
        ("split", "holdout", "holdout"),
    ],
)
def test_a_row_that_makes_no_sense_is_named(tree: Path, tmp_path: Path, column: str, value: Any, reason: str) -> None:
    table = pq.read_table(tree / TABLES[0])
    rows = table.to_pylist()
    rows[0][column] = value
    pq.write_table(type(table).from_pylist(rows, table.schema), tmp_path / TABLES[0])
    with pytest.raises(InvalidSource, match=reason):
        import_bigearthnet(tmp_path, tmp_path / "dataset")


def test_the_command(tree: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        main, ["import", "bigearthnet", str(tree / TABLES[0]), "--to", str(tmp_path / "dataset"), "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["patches"] == 3
    done = CliRunner().invoke(main, ["status", str(tmp_path / "dataset")])
    assert done.stdout == "3 patches, imported or downloaded; dropped: none\n"
    done = CliRunner().invoke(
        main, ["import", "bigearthnet", str(tree / "BigEarthNet-S2"), "--to", str(tmp_path / "x")]
    )
    assert done.exit_code == 5
    assert "holds neither metadata.parquet" in done.stderr
