"""The official metadata tables against the published ones."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from landpatch.catalog.errors import InvalidDataset
from landpatch.catalog.items import SCHEMA
from landpatch.catalog.tables import COLUMNS_NEEDED, OfficialTables, official_tables, write_table

PUBLISHED = ("metadata.parquet", "metadata_for_patches_with_snow_cloud_or_shadow.parquet")
SCENE = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"


def items(rows: list[dict[str, object]]) -> pa.Table:
    return pa.Table.from_pylist(rows, pa.schema([SCHEMA.field(name) for name in COLUMNS_NEEDED]))


def row(x: int, *, snow: bool = False, cloud: bool = False, s1: bool = True) -> dict[str, object]:
    return {
        "id": f"{SCENE}_{x:02d}_00",
        "landpatch:labels": ["Arable land", "Pastures"][: x % 3],
        "landpatch:split": "train",
        "landpatch:s1_name": f"S1B_IW_GRDH_1SDV_20170612T165809_33UUP_{x}_0" if s1 else None,
        "landpatch:contains_seasonal_snow": snow,
        "landpatch:contains_cloud_or_shadow": cloud,
    }


def test_published_tables_come_out_of_their_own_rows(shared_data: Path) -> None:
    published = [pq.read_table(shared_data / "bigearthnet-v2" / name) for name in PUBLISHED]
    shuffled = pa.concat_tables(published).take(np.random.default_rng(1).permutation(549_488))
    again = shuffled.rename_columns(list(COLUMNS_NEEDED))

    for made, expected in zip(official_tables(again), published, strict=True):
        assert made.schema.equals(expected.schema)
        assert made.equals(expected)
        file = pq.ParquetFile(io.BytesIO(write_table(made)))
        assert file.schema_arrow.equals(expected.schema, check_metadata=True)
        assert file.read().equals(expected)
        groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        assert groups[:-1] == [122_880] * (len(groups) - 1)


def test_tables_written_bit_by_bit_are_the_same_files(shared_data: Path, tmp_path: Path) -> None:
    published = pa.concat_tables([pq.read_table(shared_data / "bigearthnet-v2" / name) for name in PUBLISHED])
    items = published.sort_by("patch_id").rename_columns(list(COLUMNS_NEEDED))
    with OfficialTables(tmp_path / "clean", tmp_path / "flagged") as tables:
        for start in range(0, items.num_rows, 50_021):
            tables.add(items.slice(start, 50_021))
    for name, whole in zip(("clean", "flagged"), official_tables(items), strict=True):
        assert (tmp_path / name).read_bytes() == write_table(whole)


def test_physical_columns_are_those_of_the_published_file(shared_data: Path) -> None:
    published = pq.ParquetFile(shared_data / "bigearthnet-v2" / PUBLISHED[0])
    ours = pq.ParquetFile(io.BytesIO(write_table(official_tables(items([row(1)]))[0])))
    for number in range(8):
        mine, theirs = ours.schema.column(number), published.schema.column(number)
        assert (mine.path, mine.physical_type, mine.logical_type.type, mine.max_definition_level) == (
            theirs.path,
            theirs.physical_type,
            theirs.logical_type.type,
            theirs.max_definition_level,
        )
        compression = {file.metadata.row_group(0).column(number).compression for file in (ours, published)}
        assert compression == {"ZSTD"}


def test_flags_part_the_tables_and_unknown_values_are_null() -> None:
    clean, flagged = official_tables(items([row(4), row(3, snow=True), row(2, s1=False), row(1, cloud=True)]))
    assert clean.column("patch_id").to_pylist() == [f"{SCENE}_02_00", f"{SCENE}_04_00"]
    assert flagged.column("patch_id").to_pylist() == [f"{SCENE}_01_00", f"{SCENE}_03_00"]
    assert clean.to_pylist()[0] == {
        "patch_id": f"{SCENE}_02_00",
        "labels": ["Arable land", "Pastures"],
        "split": "train",
        "country": None,
        "s1_name": None,
        "s2v1_name": None,
        "contains_seasonal_snow": False,
        "contains_cloud_or_shadow": False,
    }
    assert flagged.column("labels").to_pylist() == [["Arable land"], []]


def test_a_table_without_rows_is_a_file_with_all_columns(tmp_path: Path) -> None:
    clean, flagged = official_tables(items([row(1)]))
    assert flagged.num_rows == 0
    assert pq.read_table(io.BytesIO(write_table(flagged))).schema.equals(clean.schema)
    with OfficialTables(tmp_path / "clean", tmp_path / "flagged") as tables:
        tables.add(items([row(1)]))
    assert (tmp_path / "flagged").read_bytes() == write_table(flagged)


def test_bytes_do_not_tell_how_a_table_was_put_together() -> None:
    whole = items([row(x) for x in range(20)])
    pieces = pa.concat_tables([whole.slice(start, 7) for start in range(0, 20, 7)])
    assert pieces.column("id").num_chunks == 3
    assert write_table(official_tables(pieces)[0]) == write_table(official_tables(whole)[0])


def test_a_missing_column_is_named() -> None:
    with pytest.raises(InvalidDataset, match="landpatch:country"):
        official_tables(items([row(1)]).drop_columns(["landpatch:country"]))
