"""A subset taken from catalogues on loopback: whole and right whatever the server does and whenever it is killed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from demo_build import Landpatch
from landpatch.catalog.errors import DatasetConflict, Incomplete, InvalidParameter
from landpatch.catalog.exports.folders import export_folders
from landpatch.catalog.exports.lmdb import export_lmdb
from landpatch.catalog.items import items
from landpatch.catalog.schemas import validate_collection, validate_item
from landpatch.catalog.selection import Question
from landpatch.catalog.store import Dataset, Storage
from landpatch.catalog.subset import download
from landpatch.catalog.transfer import Manners
from small_catalogue import FAULTS, serve_catalogue, some_faults
from small_dataset import Patch, write_dataset
from small_server import serve

BRISK = Manners(first_wait=0.005, per_host=8)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """500 patches, 2,500 files."""
    positions = [(x, y) for x in range(25) for y in range(20)]
    return write_dataset(str(tmp_path_factory.mktemp("many")), [Patch(x, y) for x, y in positions])


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Patches of all splits, some without Sentinel-1, with snow or cloud, of two scenes."""
    other = "S2B_MSIL2A_20170715T101029_N9999_R022_T33UUP"
    patches = [
        Patch(0, 0),
        Patch(14, 14, flags=(True, False)),
        Patch(15, 16, scene=other),
        Patch(40, 40, radar=None),
        Patch(41, 40, scene=other, flags=(False, True)),
    ]
    return write_dataset(str(tmp_path_factory.mktemp("few")), patches)


def patch_files(place: Path) -> dict[str, bytes]:
    """Path and content of every file that is not the download's own bookkeeping."""
    return {
        path.relative_to(place).as_posix(): path.read_bytes()
        for path in sorted((place / "patches").rglob("*"))
        if path.is_file()
    }


def folder_of(dataset: Dataset) -> Path:
    assert dataset.storage.folder is not None
    return dataset.storage.folder


def snapshot(place: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in sorted(place.rglob("*"))
        if path.is_file()
    }


def without_links(dataset: Dataset) -> list[dict[str, Any]]:
    return [{**item, "links": None} for item in items(dataset.table())]


def test_a_hostile_network_changes_nothing_in_the_result(many: Dataset, tmp_path: Path) -> None:
    with serve_catalogue(many, faults=some_faults) as catalogue:
        outcome = download(catalogue.url, tmp_path / "out", manners=BRISK)
        assert (outcome.items, outcome.fetched, outcome.problems, outcome.refused) == (500, 2500, {}, {})
        assert set(catalogue.faulted) == set(FAULTS)
        assert catalogue.ranges, "nothing was gone on with"
        assert patch_files(tmp_path / "out") == patch_files(folder_of(many))
        before, asked = snapshot(tmp_path / "out"), len(catalogue.requests)
        again = download(catalogue.url, tmp_path / "out", manners=BRISK)
    assert (again.items, again.fetched, again.bytes) == (500, 0, 0)
    assert len(catalogue.requests) == asked
    after = snapshot(tmp_path / "out")
    assert {path for path in after if after[path] != before.get(path)} <= {
        str(tmp_path / "out/.download/manifest.json")
    }
    assert not list((tmp_path / "out/.download/parts").iterdir())


def test_the_result_is_a_dataset(few: Dataset, tmp_path: Path) -> None:
    with serve_catalogue(few) as catalogue:
        download(catalogue.url, tmp_path / "out", manners=BRISK)
    taken = Dataset.open(tmp_path / "out")
    assert without_links(taken) == without_links(few)
    for item in items(taken.table()):
        validate_item(item)
    collection = taken.collection()
    validate_collection(collection)
    assert collection["landpatch:patches"] == 5
    assert collection["landpatch:nomenclature"] == few.collection()["landpatch:nomenclature"]
    assert {"rel": "derived_from", "href": f"{catalogue.url}/collections/small"}.items() <= collection["links"][
        -1
    ].items()
    assert collection["license"] == few.collection()["license"]

    export_lmdb(few, tmp_path / "whole.lmdb")
    export_lmdb(taken, tmp_path / "taken.lmdb")
    assert (tmp_path / "taken.lmdb/data.mdb").read_bytes() == (tmp_path / "whole.lmdb/data.mdb").read_bytes()

    again = download(str(tmp_path / "out"), tmp_path / "third", Question.of(split="test"), manners=BRISK)
    assert again.items == 2
    assert set(patch_files(tmp_path / "third")) < set(patch_files(folder_of(few)))


def test_scenes_come_along_as_far_as_they_can_be_had(few: Dataset, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(folder_of(few), source)
    (source / "scenes").mkdir()
    scene = Patch(0, 0).scene
    for name, content in ((scene, {"type": "Feature", "id": scene}), ("clc", {"type": "Feature", "id": "../clc"})):
        (source / f"scenes/{name}.json").write_text(json.dumps(content))
    with serve(source) as server:
        for url, origin in ((str(source), str(source)), (server.url, server.url)):
            place = tmp_path / f"out{len(url)}"
            download(url, place, manners=BRISK)
            assert [path.name for path in (place / "scenes").iterdir()] == [f"{scene}.json"]
            first = next(items(Dataset.open(place).table()))
            hrefs = [link["href"] for link in first["links"] if link["rel"] == "derived_from"]
            assert hrefs[0] == f"scenes/{scene}.json"
            assert hrefs[-1] == f"{origin}/scenes/clc.json"


def test_straight_into_an_lmdb_and_into_folders(few: Dataset, tmp_path: Path) -> None:
    export_lmdb(few, tmp_path / "want.lmdb")
    export_folders(few, tmp_path / "want")
    with serve_catalogue(few, faults=some_faults) as catalogue:
        for layout in ("lmdb", "folders"):
            for fetched in (24, 0):
                place = tmp_path / f"got.{layout}"
                assert download(catalogue.url, place, layout=layout, manners=BRISK).fetched == fetched
    assert (tmp_path / "got.lmdb/data.mdb").read_bytes() == (tmp_path / "want.lmdb/data.mdb").read_bytes()
    for name in ("metadata.parquet", "metadata_for_patches_with_snow_cloud_or_shadow.parquet"):
        assert (tmp_path / "got.lmdb" / name).read_bytes() == (tmp_path / "want.lmdb" / name).read_bytes()
    trees = []
    for place in (tmp_path / "want", tmp_path / "got.folders"):
        files = [path for path in sorted(place.rglob("*")) if path.is_file() and ".download" not in path.parts]
        trees.append({path.relative_to(place): path.read_bytes() for path in files})
    assert trees[0] == trees[1]


def test_killed_at_any_moment_it_goes_on(many: Dataset, tmp_path: Path) -> None:
    """A quarter of the files: the command line in a process of its own, killed where it happens to be."""
    question = ["--max", "125", "--connections", "4"]
    moments = random.Random(4)
    place = tmp_path / "out"
    with serve_catalogue(many, faults=some_faults) as catalogue:
        command = [
            sys.executable,
            "-m",
            "landpatch.functions",
            "download",
            catalogue.url,
            "-o",
            str(place),
            *question,
        ]
        for _ in range(3):
            goal = len(catalogue.files) + moments.randrange(40, 160)
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            while len(catalogue.files) < goal and process.poll() is None:
                time.sleep(0.001)
            assert process.poll() is None, process.communicate()[1]
            process.send_signal(signal.SIGKILL)
            process.communicate()
            whole = patch_files(place)
            assert all(data == (folder_of(many) / path).read_bytes() for path, data in whole.items())
        left = 625 - len(whole)
        assert 0 < left < 625
        outcome = download(catalogue.url, place, Question.of(maximum=125), manners=BRISK)
    assert outcome.fetched == left
    wanted = [item["id"] for item in items(many.table())][:125]
    assert Dataset.open(place).table(["id"]).column("id").to_pylist() == wanted
    assert len(patch_files(place)) == 625


def test_ctrl_c_leaves_what_goes_on(few: Dataset, tmp_path: Path) -> None:
    seen = []

    def interrupt(news: object) -> None:
        seen.append(news)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with serve_catalogue(few) as catalogue:
        with pytest.raises(KeyboardInterrupt):
            download(catalogue.url, tmp_path / "out", manners=BRISK, progress=interrupt)
        assert 5 <= len(patch_files(tmp_path / "out")) <= 24
        download(catalogue.url, tmp_path / "out", manners=BRISK)
        assert patch_files(tmp_path / "out") == patch_files(folder_of(few))
        assert max(catalogue.counts.values()) <= 2


def test_only_what_is_missing_or_broken_comes_again(few: Dataset, tmp_path: Path) -> None:
    place = tmp_path / "out"
    with serve_catalogue(few) as catalogue:
        download(catalogue.url, place, manners=BRISK)
        paths = list(patch_files(place))
        flip(place / paths[0])
        (place / paths[1]).unlink()
        (place / paths[2]).write_bytes((place / paths[2]).read_bytes())  # touched, and still sound
        status = (place / paths[3]).stat()
        flip(place / paths[3])
        os.utime(place / paths[3], ns=(status.st_atime_ns, status.st_mtime_ns))  # seen only by reading it
        catalogue.counts.clear()
        assert download(catalogue.url, place, manners=BRISK).fetched == 2
        assert set(catalogue.counts) == set(paths[:2])
        assert download(catalogue.url, place, manners=BRISK, verify=True).fetched == 1
        (place / "items.parquet").unlink()
        download(catalogue.url, place, manners=BRISK)
    assert patch_files(place) == patch_files(folder_of(few))
    assert without_links(Dataset.open(place)) == without_links(few)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)


def test_expired_signatures_are_renewed(few: Dataset, tmp_path: Path) -> None:
    """They expire twice, after 8 and after 30 requests."""

    def signature() -> str:
        served = sum(catalogue.counts.values())
        return str((served >= 8) + (served >= 30))

    with serve_catalogue(few) as catalogue:
        catalogue.signature = signature
        outcome = download(catalogue.url, tmp_path / "out", manners=BRISK)
        assert outcome.problems == {}
        assert 0 < catalogue.requests.count("/search") <= 2 * 5, "more than one request an item and expiry"
    assert patch_files(tmp_path / "out") == patch_files(folder_of(few))


def test_what_cannot_be_had_is_told_and_the_rest_is_complete(few: Dataset, tmp_path: Path) -> None:
    lost = "patches/33UUP/S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP/"
    with serve_catalogue(few) as catalogue:
        source = tmp_path / "source"
        shutil.copytree(folder_of(few), source)
        catalogue.folder = source
        gone = next(path for path in sorted((source / lost).rglob("*_S2_20m.tif")))
        content = gone.read_bytes()
        gone.write_bytes(content[:-1] + b"?")
        outcome = download(catalogue.url, tmp_path / "out", manners=BRISK)
        (problem,) = outcome.problems.values()
        assert gone.name in problem
        assert "checksum" in problem
        with pytest.raises(Incomplete, match="1 file"):
            outcome.check()
        assert Dataset.open(tmp_path / "out").table(["id"]).num_rows == 4
        gone.write_bytes(content)
        outcome = download(catalogue.url, tmp_path / "out", manners=BRISK)
        assert (outcome.fetched, outcome.problems) == (1, {})
    assert without_links(Dataset.open(tmp_path / "out")) == without_links(few)


@pytest.mark.parametrize("filters", [True, False], ids=["filter extension", "no filter extension"])
def test_the_words_become_one_question(few: Dataset, tmp_path: Path, filters: bool) -> None:
    """A server without the Filter extension is not trusted to filter: the same answer without its help."""
    question = Question.of(filter="eo:cloud_cover < 50", split="test", labels=["Pastures", "Arable land"])
    with serve_catalogue(few, page=2) as catalogue:
        if not filters:
            catalogue.conforms = [name for name in catalogue.conforms if "filter" not in name]
        outcome = download(catalogue.url, tmp_path / "out", question, manners=BRISK)
        assert outcome.items == 1
        assert [asked.get("filter") for asked in catalogue.asked] == (
            [question.expression()] if filters else [None] * 3
        )
    download(str(folder_of(few)), tmp_path / "local", question, manners=BRISK)
    for place in ("out", "local"):
        assert [item["id"] for item in items(Dataset.open(tmp_path / place).table())] == [Patch(40, 40).id]


def test_the_choice_stays_when_the_catalogue_changes(few: Dataset, tmp_path: Path) -> None:
    question = Question.of(maximum=2)
    with serve_catalogue(few) as catalogue:
        download(catalogue.url, tmp_path / "out", question, manners=BRISK)
        assert len(catalogue.asked) == 1, "a page was asked for in vain"
        chosen = Dataset.open(tmp_path / "out").table(["id"])
        shutil.rmtree(tmp_path / "out/patches")
        catalogue.documents.reverse()
        assert download(catalogue.url, tmp_path / "out", question, manners=BRISK).fetched == 10
        assert Dataset.open(tmp_path / "out").table(["id"]) == chosen
        with pytest.raises(DatasetConflict, match="question"):
            download(catalogue.url, tmp_path / "out", Question.of(maximum=3), manners=BRISK)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/thesis.txt").write_text("x")
        with pytest.raises(DatasetConflict, match="no download"):
            download(catalogue.url, tmp_path / "mine", question, manners=BRISK)


@pytest.mark.parametrize("assets", [["S2_10m", "reference_map"], ["S1"]])
def test_only_the_assets_that_are_wanted(few: Dataset, tmp_path: Path, assets: Sequence[str]) -> None:
    with serve_catalogue(few) as catalogue:
        outcome = download(catalogue.url, tmp_path / "out", assets=assets, manners=BRISK)
        assert {path.rpartition("_")[0] for path in outcome.refused} == (
            set() if "S2_10m" in assets else {Patch(40, 40).id[:-3]}
        )
        with pytest.raises(InvalidParameter, match="S2_20m"):
            download(catalogue.url, tmp_path / "x.lmdb", assets=assets, layout="lmdb", manners=BRISK)
    for item in items(Dataset.open(tmp_path / "out").table()):
        assert sorted(item["assets"]) == sorted(assets)
        validate_item(item)


def test_from_a_web_server_and_the_command_line(few: Dataset, tmp_path: Path, landpatch: Landpatch) -> None:
    with serve(folder_of(few)) as server:
        result = landpatch("download", server.url, "-o", tmp_path / "out", "--split", "validation", "--json")
        assert "2 items" in result.stderr
        failed = landpatch("download", server.url, "-o", tmp_path / "x", "--label", "Lunar maria", check=False)
    assert failed.returncode == 2
    assert "nothing in" in failed.stderr
    assert Dataset.open(tmp_path / "out").table(["id"]).num_rows == 2
    assert not Storage.open(tmp_path / "out").exists("scenes")
