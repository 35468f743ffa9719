"""`landpatch audit` of datasets with rules of their own: each patch that they do not hold for is named."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from catalogue_items import made_up, write_catalogue
from landpatch.catalog.assignment import COUNTRIES, RULE, split_areas
from landpatch.catalog.auditing.auditor import Audit, audit
from landpatch.catalog.countries import Countries
from landpatch.catalog.official import import_bigearthnet
from landpatch.catalog.resplit import name_countries, resplit
from landpatch.catalog.splits import Split, SplitRule
from landpatch.catalog.store import COLLECTION, ITEMS, Dataset, Storage
from landpatch.catalog.subset import download
from small_dataset import Patch, write_dataset
from small_official import write_tables

HALVES = split_areas([shapely.box(10, 40, 14.3, 60), shapely.box(14.3, 40, 20, 60)], ["train", "test"])
RULES = {
    "buffer": SplitRule(buffer=5000),
    "blocks": SplitRule("blocks", block=6000, seed=3, buffer=0),
    "tile": SplitRule("tile", given={"33UUP": Split.TRAIN}, buffer=0),
    "country": SplitRule("country", given={"Austria": Split.TEST}, buffer=1200),
    "polygons": SplitRule("polygons", areas=HALVES, buffer=0),
    "overlap": SplitRule(one_per_ground=True),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 patches where tiles 33UUP and 33UVP share ground, the latter said to be in another country."""
    rows = []
    for row in made_up(3 * 8281)[:8281]:
        x, y = int(row["patch_id"][-5:-3]), int(row["patch_id"][-2:])
        if x > 76 and y % 15 == 0:
            rows.append(row)
        if x < 14 and y % 15 == 0:
            beside = {key: value.replace("33UUP", "33UVP") for key, value in row.items() if isinstance(value, str)}
            rows.append({**row, **beside, "country": "Serbia"})
    folder = tmp_path_factory.mktemp("made") / "dataset"
    write_catalogue(folder, sorted(rows, key=lambda row: str(row["patch_id"])))
    return folder


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "dataset"))


def told(result: Audit) -> dict[str, set[str]]:
    """Kinds of errors of rules, and the patches that are named."""
    found: dict[str, set[str]] = {}
    for finding in result.findings.kept:
        if finding.severity != "warning" and finding.kind in ("split", "country", "collection"):
            found.setdefault(finding.kind, set()).add(finding.patch or finding.file)
    return found


def with_column(root: Path, change: Callable[[list[dict[str, Any]]], None], *names: str) -> None:
    """Values of some columns of the items changed."""
    file = pq.ParquetFile(root / ITEMS)
    table = file.read()
    rows = table.select(names).to_pylist()
    change(rows)
    for name in names:
        values = pa.array([row[name] for row in rows], table.schema.field(name).type)
        table = table.set_column(table.column_names.index(name), table.schema.field(name), values)
    pq.write_table(table.replace_schema_metadata(file.schema_arrow.metadata), root / ITEMS)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_applied_again(dataset: Path, name: str) -> None:
    resplit(Storage.open(dataset), RULES[name])
    right = audit(dataset, pixels=False)
    assert told(right) == {}
    assert right.leakage.patches["train"] + right.leakage.patches["test"] > 30
    before = Dataset.open(dataset).table(["id", "landpatch:split"]).to_pylist()
    of_split = next(row for row in before if row["landpatch:split"] is not None)
    left_out = next((row for row in before if row["landpatch:split"] is None), of_split)
    wrong = {of_split["id"]: None, left_out["id"]: "validation"}

    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            word = wrong.get(row["id"], row["landpatch:split"])
            row["landpatch:split"], row["ml-aoi:split"] = word, "validate" if word == "validation" else word

    with_column(dataset, change, "id", "landpatch:split", "ml-aoi:split")
    assert told(audit(dataset, pixels=False))["split"] == set(wrong)


def test_what_the_collection_says_of_the_rule(dataset: Path) -> None:
    storage = Storage.open(dataset)
    resplit(storage, RULES["overlap"])
    storage.put_json(COLLECTION, {**storage.get_json(COLLECTION), "landpatch:left_out": {"OVERLAP": 1}})
    assert COLLECTION in told(audit(dataset, pixels=False))["collection"]
    storage.put_json(RULE, SplitRule(buffer=0).to_document())
    found = audit(dataset, pixels=False).findings.kept
    assert any("landpatch:split_rule is" in finding.text for finding in found)
    storage.put(RULE, b'{"by": "moon"}')
    assert ("error", "unreadable") in audit(dataset, pixels=False).findings.counts


def test_polygons_that_are_not_at_hand_are_a_note(dataset: Path) -> None:
    resplit(Storage.open(dataset), RULES["polygons"])
    (dataset / RULE).unlink()
    result = audit(dataset, pixels=False)
    (note,) = (finding for finding in result.findings.kept if finding.kind == "split")
    assert (note.severity, note.file) == ("note", COLLECTION)
    assert "polygons, is not here" in note.text


def test_countries_are_found_again(dataset: Path) -> None:
    name_countries(Storage.open(dataset), Countries.read(only=["Austria", "Germany"]))
    assert told(audit(dataset, pixels=False)) == {}
    first = Dataset.open(dataset).table(["id"]).column("id")[0].as_py()
    with_column(dataset, lambda rows: rows[0].update({"landpatch:country": "Moon"}), "id", "landpatch:country")
    assert told(audit(dataset, pixels=False))["country"] == {first}
    assert (dataset / COUNTRIES).is_file()


def test_a_part_is_compared_where_it_has_splits(tmp_path: Path) -> None:
    """Whom a buffer left out depends on patches that a part does not have."""
    patches = [Patch(x, 40) for x in (10, 12, 13, 14, 22, 24)]
    dataset = write_dataset(str(tmp_path / "dataset"), patches)
    rule = SplitRule(buffer=2400)
    places = {12: None, 22: None}

    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            x = int(row["id"][-5:-3])
            if x in places:
                row["landpatch:split"] = row["ml-aoi:split"] = places[x]

    with_column(tmp_path / "dataset", change, "id", "landpatch:split", "ml-aoi:split")
    dataset.storage.put_json(COLLECTION, {**dataset.collection(), "landpatch:split_rule": rule.to_document()})
    download(str(tmp_path / "dataset"), tmp_path / "part").check()
    assert told(audit(tmp_path / "part")).get("split") is None
    places[14] = "train"
    with_column(tmp_path / "part", change, "id", "landpatch:split", "ml-aoi:split")
    assert told(audit(tmp_path / "part"))["split"] == {patches[3].id}


def test_links_into_the_official_layout(tmp_path: Path) -> None:
    patches = [Patch(2, 9), Patch(3, 9, radar=None)]
    write_tables(tmp_path / "tables", patches)
    root = tmp_path / "dataset"
    import_bigearthnet(tmp_path / "tables", root, assets_at="https://host.example/BigEarthNet")
    result = audit(root)
    assert dict(result.findings.counts) == {}
    assert (result.checked.elsewhere, result.checked.files) == (15 + 13, 0)

    def change(rows: list[dict[str, Any]]) -> None:
        band, radar = (rows[0]["assets"][key] for key in ("B02", "VV"))
        band["href"] = band["href"].replace("_B02", "_B03")
        radar["proj:transform"][2] += 10
        rows[1]["assets"]["B8A"]["data_type"] = "uint17"

    with_column(root, change, "id", "assets")
    assert {(finding.kind, finding.patch) for finding in audit(root).findings.kept} == {
        ("link", patches[0].id),
        ("projection", patches[0].id),
        ("projection", patches[1].id),
        ("stac", patches[1].id),
    }
