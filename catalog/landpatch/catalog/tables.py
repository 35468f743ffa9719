"""The two official metadata tables of BigEarthNet v2.0, made from the items.

The columns, their types and how the rows are divided are those of the published files, so that programs written for
them read ours: ``metadata.parquet`` has the patches without, the other table those with snow, cloud or shadow.
"""

import io
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from landpatch.catalog.errors import InvalidDataset

OFFICIAL_SCHEMA = pa.schema(
    [
        ("patch_id", pa.string()),
        ("labels", pa.list_(pa.field("element", pa.string()))),
        ("split", pa.string()),
        ("country", pa.string()),
        ("s1_name", pa.string()),
        ("s2v1_name", pa.string()),
        ("contains_seasonal_snow", pa.bool_()),
        ("contains_cloud_or_shadow", pa.bool_()),
    ]
)
"""Of both tables. What a build does not know is null: ``country``, ``s2v1_name``, and ``s1_name`` of a patch that has
Sentinel-2 alone."""

COLUMNS_NEEDED = ("id", *(f"landpatch:{name}" for name in OFFICIAL_SCHEMA.names[1:]))
"""The columns of ``items.parquet`` that the tables are made from, in the order of OFFICIAL_SCHEMA."""

# DuckDB's default, with which the published files were written.
_ROW_GROUP = 122_880


def official_tables(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows of ``items.parquet`` (at least COLUMNS_NEEDED) as (clean, flagged) tables of OFFICIAL_SCHEMA.

    Flagged are the patches with seasonal snow, cloud or shadow, clean all others; both are sorted by ``patch_id``.
    Raises InvalidDataset if a column is missing.
    """
    missing = [name for name in COLUMNS_NEEDED if name not in table.column_names]
    if missing:
        raise InvalidDataset(f"the items lack the column(s) {', '.join(missing)}: not a table of landpatch's items")
    table = table.select(COLUMNS_NEEDED).rename_columns(OFFICIAL_SCHEMA.names).cast(OFFICIAL_SCHEMA)
    for name in ("contains_seasonal_snow", "contains_cloud_or_shadow"):
        # The published flags are never null; nothing known against a patch means that it is clean.
        table = table.set_column(
            table.column_names.index(name), OFFICIAL_SCHEMA.field(name), pc.fill_null(table.column(name), False)
        )
    table = table.sort_by("patch_id")
    flagged = pc.or_(table.column("contains_seasonal_snow"), table.column("contains_cloud_or_shadow"))
    return table.filter(pc.invert(flagged)), table.filter(flagged)


class OfficialTables:
    """Writes both tables bit by bit: a context manager that is given the items in the order of their ids.

    The files are those of ``write_table``, byte for byte; one row group of each is held in memory.
    """

    def __init__(self, clean: Path, flagged: Path) -> None:
        self._writers = [_RowGroups(clean), _RowGroups(flagged)]

    def add(self, table: pa.Table) -> None:
        """Items that follow those given before (at least COLUMNS_NEEDED)."""
        for writer, rows in zip(self._writers, official_tables(table), strict=True):
            writer.add(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers:
            writer.close()


class _RowGroups:
    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, OFFICIAL_SCHEMA, compression="zstd", store_schema=False)
        self._waiting = OFFICIAL_SCHEMA.empty_table()
        self._empty = True

    def add(self, rows: pa.Table) -> None:
        self._waiting = pa.concat_tables([self._waiting, rows])
        while self._waiting.num_rows >= _ROW_GROUP:
            self._write(self._waiting.slice(0, _ROW_GROUP))
            self._waiting = self._waiting.slice(_ROW_GROUP)

    def close(self) -> None:
        if self._waiting.num_rows or self._empty:  # a table without rows has one row group without rows
            self._write(self._waiting)
        self._writer.close()

    def _write(self, rows: pa.Table) -> None:
        # One chunk a column: how a table was put together must not show in the pages.
        self._writer.write_table(rows.combine_chunks(), row_group_size=_ROW_GROUP)
        self._empty = False


def write_table(table: pa.Table) -> bytes:
    """A table of OFFICIAL_SCHEMA as a Parquet file: zstd, row groups of 122,880 rows, no metadata of its own.

    The same table gives the same bytes, with the same version of pyarrow.
    """
    target = io.BytesIO()
    # One chunk a column: how a table was put together must not show in the pages.
    pq.write_table(
        table.cast(OFFICIAL_SCHEMA).combine_chunks(),
        target,
        compression="zstd",
        row_group_size=_ROW_GROUP,
        store_schema=False,
    )
    return target.getvalue()
