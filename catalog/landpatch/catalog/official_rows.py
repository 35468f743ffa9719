"""The published metadata tables of BigEarthNet v2.0, read and checked row by row against the rules of names.

The tables are the only list of what belongs to the dataset: which patches there are, their labels, split, country,
flags, and which Sentinel-1 patch is the other half of each.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from landpatch.catalog.errors import InvalidName, InvalidSource
from landpatch.catalog.names import PatchId, RadarPatchName
from landpatch.catalog.nomenclature import Nomenclature
from landpatch.catalog.splits import Split
from landpatch.catalog.store import METADATA, METADATA_FLAGGED
from landpatch.catalog.tables import OFFICIAL_SCHEMA

_SCENE_LENGTH = len("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP")


@dataclass(frozen=True, slots=True)
class OfficialRow:
    """One row of the tables; ``radar`` is the name in ``s1_name`` (None: a patch without Sentinel-1)."""

    patch: PatchId
    radar: RadarPatchName | None
    labels: tuple[str, ...]
    split: Split
    country: str | None
    s2v1_name: str | None
    contains_seasonal_snow: bool
    contains_cloud_or_shadow: bool


class OfficialRows:
    """All rows of one or both tables; kept as Arrow columns, 200 bytes a row, and looked at a scene at a time."""

    def __init__(self, tables: Sequence[pa.Table], name: str, digest: str) -> None:
        self._tables = [table.sort_by("patch_id") for table in tables]
        self._name = name
        self.digest = digest
        """Of the files' bytes, sha-256 in hex."""
        self.count = sum(table.num_rows for table in tables)
        if not self.count:
            raise InvalidSource(f"{name}: the tables have no rows")

    @classmethod
    def read(cls, source: Path) -> Self:
        """From one of the tables, or from a folder with one or both of them. Raises InvalidSource."""
        if source.is_dir():
            paths = [path for path in (source / METADATA, source / METADATA_FLAGGED) if path.is_file()]
            if not paths:
                raise InvalidSource(f"{source} holds neither {METADATA} nor {METADATA_FLAGGED}")
        else:
            paths = [source]
        digest = hashlib.sha256()
        tables = []
        for path in paths:
            try:
                digest.update(path.read_bytes())
                table = pq.read_table(path)
                missing = [name for name in OFFICIAL_SCHEMA.names if name not in table.column_names]
                if missing:
                    raise InvalidSource(
                        f"{path} lacks the column(s) {', '.join(missing)}: no metadata table of BigEarthNet v2.0"
                    )
                tables.append(table.select(OFFICIAL_SCHEMA.names).cast(OFFICIAL_SCHEMA))
            except (pa.ArrowException, OSError) as error:
                reason = " ".join(str(error).split())
                raise InvalidSource(f"{path} cannot be read as a metadata table: {reason}") from error
        return cls(tables, str(source), digest.hexdigest())

    @cached_property
    def scenes(self) -> Mapping[str, Sequence[tuple[int, int]]]:
        """Names of the scenes in their order, with their rows in each table: the first, and behind the last."""
        found: dict[str, list[tuple[int, int]]] = {}
        for number, table in enumerate(self._tables):
            names = pc.utf8_slice_codeunits(table.column("patch_id"), 0, _SCENE_LENGTH)
            start = 0
            # Sorted, so that a scene's rows lie together.
            for entry in pc.value_counts(names).to_pylist():
                spans = found.setdefault(str(entry["values"]), [(0, 0)] * len(self._tables))
                spans[number] = (start, start + entry["counts"])
                start += entry["counts"]
        return dict(sorted(found.items()))

    def scene_rows(self, scene: str, nomenclature: Nomenclature | None) -> list[OfficialRow]:
        """The rows of one scene, in the order of their ids.

        Raises InvalidSource for a row that contradicts itself, is there twice, or has a label that is no class of
        the nomenclature.
        """
        known = frozenset(nomenclature.classes if nomenclature else ())
        rows = sorted(self._scene_rows(scene, known), key=lambda row: (row.patch.x, row.patch.y))
        for one, other in pairwise(rows):
            if one.patch == other.patch:
                raise InvalidSource(f"{self._name}: patch {one.patch} is there more than once")
        return rows

    def _scene_rows(self, scene: str, known: frozenset[str]) -> Iterator[OfficialRow]:
        for table, (start, end) in zip(self._tables, self.scenes[scene], strict=True):
            for row in table.slice(start, end - start).to_pylist():
                try:
                    yield _row(row, known)
                except (InvalidName, ValueError) as error:
                    raise InvalidSource(f"{self._name}: the row of patch {row['patch_id']!r}: {error}") from error


def _row(row: Mapping[str, Any], known: frozenset[str]) -> OfficialRow:
    patch = PatchId.parse(str(row["patch_id"]))
    radar = None if row["s1_name"] is None else RadarPatchName.parse(row["s1_name"])
    if radar is not None and not radar.belongs_to(patch):
        raise ValueError(f"its s1_name {radar} lies elsewhere")
    labels = tuple(row["labels"] or ())
    if not known.issuperset(labels):
        strange = ", ".join(sorted(map(str, set(labels) - known)))
        raise ValueError(f"{strange}: no class of the nomenclature")
    if list(labels) != sorted(set(labels)):
        raise ValueError(f"its labels are not sorted, or there twice: {', '.join(labels)}")
    return OfficialRow(
        patch,
        radar,
        labels,
        Split(row["split"]),
        row["country"],
        row["s2v1_name"],
        bool(row["contains_seasonal_snow"]),
        bool(row["contains_cloud_or_shadow"]),
    )
