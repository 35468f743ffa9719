"""Splits and countries of a finished dataset: the catalogue changes, parts and pixels do not."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely
from click.testing import CliRunner

from catalogue_items import made_up, scene_tables, write_catalogue
from landpatch.catalog.assignment import COUNTRIES, RULE
from landpatch.catalog.compaction import compact, part_path, write_part
from landpatch.catalog.countries import Countries
from landpatch.catalog.errors import DatasetConflict, InvalidDataset, InvalidParameter
from landpatch.catalog.exports.folders import export_folders
from landpatch.catalog.exports.lmdb import export_lmdb
from landpatch.catalog.items import item_from_row
from landpatch.catalog.nomenclature import clc2018
from landpatch.catalog.placing import patch_files
from landpatch.catalog.resplit import name_countries, resplit
from landpatch.catalog.schemas import validate_collection, validate_item
from landpatch.catalog.splits import Split, SplitRule
from landpatch.catalog.store import COLLECTION, ITEMS, METADATA, METADATA_FLAGGED, Dataset, Storage
from landpatch.catalog.subset import download
from landpatch.functions.cli import main
from s3_server import serve_s3
from small_dataset import SCENE, Patch, write_dataset

TABLES = (METADATA, METADATA_FLAGGED)
COLUMNS = ("id", "landpatch:split", "ml-aoi:split", "landpatch:country", "landpatch:tile", "landpatch:labels")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tiles in three countries, 300 patches of each, on one column after the other."""
    folder = tmp_path_factory.mktemp("made") / "dataset"
    rows = [row for row in made_up(3 * 8281) if int(row["patch_id"][-2:]) % 13 == 0 and row["patch_id"][-4] in "05"]
    write_catalogue(folder, rows)
    return folder


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "dataset"))


def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = Dataset.open(folder).table(COLUMNS).to_pylist()
    return found


def run(*words: str) -> Any:
    return CliRunner().invoke(main, list(words), catch_exceptions=False)


def test_split_from_the_command_line(dataset: Path) -> None:
    before = contents(dataset)
    words = ("split", str(dataset), "--by", "tile", "--assign", "test=34TCR", "--assign", "train=33UUP", "--json")
    dry = run(*words, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert contents(dataset) == before
    done = run(*words)
    assert done.exit_code == 0, done.output
    told, expected = json.loads(done.stdout), json.loads(dry.stdout)
    assert told["changed"]
    assert not expected["changed"]
    assert {**told, "changed": False} == expected

    after = contents(dataset)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {RULE, ITEMS, COLLECTION, *TABLES}, "parts stay as they are"
    of_tile = {"33UUP": "train", "34TCR": "test", "35VNK": None}
    found = rows(dataset)
    assert {row["landpatch:split"] == of_tile[row["landpatch:tile"]] for row in found} == {True}
    assert all(row["ml-aoi:split"] == row["landpatch:split"] for row in found)  # no validation here
    counts = {split: sum(row["landpatch:split"] == split for row in found) for split in Split}
    assert told["patches"] == counts
    for label, by_split in told["labels"].items():
        for split, count in by_split.items():
            assert count == sum(row["landpatch:split"] == split and label in row["landpatch:labels"] for row in found)
    assert told["left_out"] == {"NO_SPLIT": sum(row["landpatch:split"] is None for row in found)}

    collection = Dataset.open(dataset).collection()
    validate_collection(collection)
    assert collection["landpatch:split_rule"] == {
        "by": "tile",
        "given": {"33UUP": "train", "34TCR": "test"},
        "buffer": 0,
    }
    assert collection["landpatch:left_out"] == told["left_out"]
    assert collection["landpatch:counts"]["splits"] == {"test": counts["test"], "train": counts["train"]}
    assert collection["summaries"]["ml-aoi:split"] == ["test", "train"]

    at = times(dataset)
    again = run(*words)
    assert not json.loads(again.stdout)["changed"]
    assert times(dataset) == at


def test_patches_that_are_left_out_are_valid_items_and_stay_in_the_tables(dataset: Path) -> None:
    original = {name: pd.read_parquet(dataset / name) for name in TABLES}
    counts, _ = resplit(Storage.open(dataset), SplitRule(buffer=5000))
    assert counts.left_out["BUFFER"] > 0
    table = Dataset.open(dataset).table()
    left_out = table.filter(pc.is_null(table.column("landpatch:split")))
    assert left_out.num_rows == counts.left_out["BUFFER"]
    item = item_from_row(left_out.slice(0, 1).to_pylist()[0])
    assert not {"landpatch:split", "ml-aoi:split"} & set(item["properties"])
    validate_item(item)
    assert patch_files(item, ["S2_10m"])  # a download takes it

    total = 0
    for name in TABLES:
        now = pd.read_parquet(dataset / name)
        assert list(now["patch_id"]) == list(original[name]["patch_id"])
        kept = now["split"].notna()
        assert (now["split"][kept] == original[name]["split"][kept]).all()
        for split in Split:
            # How ConfigILM 0.7 and TorchGeo 0.8 choose: a patch without a split is in none of them.
            total += len(now[now["split"] == split.value])
    assert total == sum(counts.patches.values()) == table.num_rows - left_out.num_rows


def test_what_is_built_later_follows_the_rule(dataset: Path) -> None:
    storage = Storage.open(dataset)
    rule = SplitRule("blocks", block=20_000, buffer=0)
    resplit(storage, rule)
    name_countries(storage, Countries.read(only=["Austria", "Finland", "Serbia"]))
    before = {row["id"]: row["landpatch:split"] for row in rows(dataset)}

    # The same places on another day.
    later = [{**row, "patch_id": row["patch_id"].replace("20170613", "20180613")} for row in made_up(3 * 8281)]
    chosen = [row for row in later if "20180613" in row["patch_id"] and row["patch_id"].endswith(("_00", "_13"))]
    ((scene, table),) = scene_tables(chosen)
    write_part(
        storage, part_path(scene, "0-91"), table, collection="bigearthnet-v2", nomenclature=clc2018(), dropped={}
    )
    assert compact(storage)
    after = rows(dataset)
    assert len(after) == len(before) + len(chosen)
    splits = {row["id"]: row["landpatch:split"] for row in after}
    assert {name: splits[name] for name in before} == before
    both = [name for name in splits if "20180613" in name and name.replace("20180613", "20170613") in before]
    assert len(both) > 30
    assert all(splits[name] == before[name.replace("20180613", "20170613")] for name in both)
    # Which by position would be others.
    positions = dict(zip(table["id"].to_pylist(), table["landpatch:split"].to_pylist(), strict=True))
    assert any(splits[name] != positions[name] for name in both)
    assert {row["landpatch:country"] for row in after if "20180613" in row["id"]} == {"Austria"}


def test_and_back_by_position(dataset: Path) -> None:
    before = contents(dataset)
    resplit(Storage.open(dataset), SplitRule("tile", seed=4, buffer=0))
    assert contents(dataset)[METADATA] != before[METADATA]
    resplit(Storage.open(dataset), SplitRule())
    after = contents(dataset)
    assert {name: after[name] for name in TABLES} == {name: before[name] for name in TABLES}


def test_by_country_of_natural_earth(dataset: Path) -> None:
    storage = Storage.open(dataset)
    done = run("country", str(dataset))
    assert done.exit_code == 0, done.output
    found = rows(dataset)
    assert {(row["landpatch:tile"], row["landpatch:country"]) for row in found} >= {
        ("33UUP", "Austria"),
        ("33UUP", "Germany"),
        ("35VNK", "Finland"),
    }
    at = times(dataset)
    assert "there already" in run("country", str(dataset)).output
    assert times(dataset) == at
    resplit(storage, SplitRule("country", given={"Finland": Split.TEST, "Germany": Split.TRAIN}, buffer=0))
    of_country = {"Finland": "test", "Germany": "train"}
    assert all(row["landpatch:split"] == of_country.get(row["landpatch:country"]) for row in rows(dataset))
    assert [item for item in storage.list("rules") if "#" in item] == []
    refused = run("split", str(dataset), "--by", "country", "--assign", "test=Finnland")
    assert refused.exit_code == 2
    assert "Finnland" in refused.output
    assert "Finland" in refused.output


def test_by_polygons_in_any_crs(dataset: Path, tmp_path: Path) -> None:
    """Two halves of tile 33UUP, in Europe's equal-area projection."""
    halves = np.array(
        [shapely.box(4_200_000, 2_000_000, 4_540_000, 4_000_000), shapely.box(4_540_000, 2e6, 5e6, 4e6)]
    )
    words = np.array(["train", "test"], object)
    pyogrio.raw.write(
        tmp_path / "halves.gpkg", shapely.to_wkb(halves), [words], ["part"], geometry_type="Polygon", crs="EPSG:3035"
    )
    arguments = ("split", str(dataset), "--by", "polygons", "--polygons", str(tmp_path / "halves.gpkg"))
    refused = run(*arguments)
    assert refused.exit_code == 2
    assert "it has part" in refused.output
    assert run(*arguments, "--column", "part", "--buffer", "1p").exit_code == 0
    by_x: dict[int, set[str | None]] = {}
    for row in rows(dataset):
        if row["landpatch:tile"] == "33UUP":
            by_x.setdefault(int(row["id"][-5:-3]), set()).add(row["landpatch:split"])
    assert by_x[0] == {"train"}
    assert by_x[90] == {"test"}
    collection = Dataset.open(dataset).collection()
    assert collection["landpatch:split_rule"] == {"by": "polygons", "areas": RULE, "buffer": 1200}


def test_a_collections_own_words_stay(dataset: Path) -> None:
    storage = Storage.open(dataset)
    mine = {**storage.get_json(COLLECTION), "title": "Mine", "license": "CDLA-Permissive-1.0"}
    mine["summaries"]["sci:seasons"] = ["summer"]
    storage.put_json(COLLECTION, mine)
    resplit(storage, SplitRule("tile", given={"33UUP": Split.TEST}))
    now = storage.get_json(COLLECTION)
    assert (now["title"], now["license"], now["summaries"]["sci:seasons"]) == ("Mine", mine["license"], ["summer"])
    assert now["summaries"]["landpatch:split"] == ["test"]


KILLED = """
import os, signal, sys
from landpatch.catalog.resplit import resplit
from landpatch.catalog.splits import SplitRule
from landpatch.catalog.store import Storage

left = int(sys.argv[2])

def counted(write):
    def write_or_die(self, path, data):
        global left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        write(self, path, data)
    return write_or_die

Storage.put, Storage.put_file = counted(Storage.put), counted(Storage.put_file)
resplit(Storage.open(sys.argv[1]), SplitRule("blocks", buffer=1200))
"""


@pytest.mark.parametrize("writes", [2, 4])
def test_killed_between_two_writes_it_is_finished_by_the_next(
    dataset: Path, made: Path, tmp_path: Path, writes: int
) -> None:
    """The rule, two tables, the collection, the items: each is whole or not there, and the next run does the rest."""
    undisturbed = Path(shutil.copytree(made, tmp_path / "undisturbed"))
    rule = SplitRule("blocks", buffer=1200)
    resplit(Storage.open(undisturbed), rule)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(dataset), str(writes)], env=dict(os.environ), check=False
    )
    assert done.returncode == -signal.SIGKILL
    half = contents(dataset)
    assert half[ITEMS] == contents(made)[ITEMS]
    assert half[RULE] == contents(undisturbed)[RULE]
    for name in TABLES:
        assert len(pd.read_parquet(dataset / name))
    if writes == 2:  # a build, say, comes first: it takes the rule as its own
        assert compact(Storage.open(dataset))
        assert rows(dataset) == rows(undisturbed)
    _, changed = resplit(Storage.open(dataset), rule)
    assert changed == (writes == 4)
    assert contents(dataset) == contents(undisturbed)


def test_on_s3_as_in_a_folder(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_s3(monkeypatch, "splits") as client:
        for path in dataset.rglob("*"):
            if path.is_file():
                client.upload_file(str(path), "splits", f"here/{path.relative_to(dataset)}")
        remote, local = Storage.open("s3://splits/here"), Storage.open(dataset)
        for storage in (remote, local):
            name_countries(storage, Countries.read(only=["Austria", "Finland", "Germany"]))
            resplit(storage, SplitRule("country", buffer=0, one_per_ground=True))
        for name in (RULE, COUNTRIES, ITEMS, COLLECTION, *TABLES):
            assert remote.get(name) == local.get(name), name
        assert resplit(remote, SplitRule("country", buffer=0, one_per_ground=True))[1] is False


def test_a_download_keeps_the_splits_that_its_source_has(tmp_path: Path) -> None:
    dataset = write_dataset(str(tmp_path / "dataset"), [Patch(2, 9), Patch(40, 41)])
    table, rule = dataset.table(), {"by": "blocks", "block": 12_000, "shares": [2, 1, 1], "seed": 0}
    for name, values in (("landpatch:split", [None, "train"]), ("ml-aoi:split", [None, "train"])):
        column = table.column_names.index(name)
        table = table.set_column(column, table.schema.field(column), pa.array(values))
    pq.write_table(table, tmp_path / "dataset" / ITEMS)
    dataset.storage.put_json(COLLECTION, {**dataset.collection(), "landpatch:split_rule": rule})

    download(str(tmp_path / "dataset"), tmp_path / "home").check()
    home = Dataset.open(tmp_path / "home")
    assert home.table(["landpatch:split"])["landpatch:split"].to_pylist() == [None, "train"]
    assert home.collection()["landpatch:split_rule"] == rule
    resplit(home.storage, SplitRule("tile", given={"33UUP": Split.TEST}))
    assert {row["landpatch:split"] for row in rows(tmp_path / "home")} == {"test"}
    assert home.collection()["landpatch:split_rule"] == {"by": "tile", "given": {"33UUP": "test"}}
    assert [link["rel"] for link in home.collection()["links"]].count("derived_from") == 1


def test_a_rule_that_cannot_be_read_stops_compaction(dataset: Path) -> None:
    storage = Storage.open(dataset)
    storage.put(RULE, b'{"by": "moon"}')
    with pytest.raises(InvalidDataset, match="landpatch split"):
        compact(storage)
    resplit(storage, SplitRule("country"))  # which needs what is beside it, and not the broken rule
    unknown = Storage.open(dataset.parent / "unknown", create=True)
    write_catalogue(dataset.parent / "unknown", [{**row, "country": None} for row in made_up(30)])
    with pytest.raises(InvalidParameter, match="landpatch country"):
        resplit(unknown, SplitRule("country"))
    with pytest.raises(InvalidDataset, match="no patches"):
        resplit(Storage.open(dataset.parent / "nothing", create=True), SplitRule())
    assert not (dataset.parent / "nothing" / RULE).exists()


def test_exports_that_are_there_take_the_new_splits_into_their_tables(tmp_path: Path) -> None:
    patches = [Patch(2, 9), Patch(40, 41)]
    place = tmp_path / "dataset"
    dataset = write_dataset(str(place), patches)
    for name, export in (("tree", export_folders), ("lmdb", export_lmdb)):
        export(dataset, tmp_path / name)
    table = dataset.table()
    column = table.column_names.index("landpatch:split")
    table = table.set_column(column, table.schema.field(column), pa.array([None, "validation"]))
    pq.write_table(table, place / ITEMS)
    pixels = {name: times(tmp_path / name) for name in ("tree", "lmdb")}
    for name, export in (("tree", export_folders), ("lmdb", export_lmdb)):
        export(Dataset.open(place), tmp_path / name)
        assert pq.read_table(tmp_path / name / METADATA)["split"].to_pylist() == [None, "validation"]
        changed = {path for path, at in times(tmp_path / name).items() if at != pixels[name][path]}
        assert changed == {str(tmp_path / name / METADATA)}
    with pytest.raises(DatasetConflict):
        export_folders(write_dataset(str(tmp_path / "other"), [Patch(2, 9, radar_seed=5)]), tmp_path / "tree")
    assert SCENE in patches[0].id
