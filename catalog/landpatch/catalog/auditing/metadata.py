"""Patches, splits and labels of any metadata table: BigEarthNet's own, ``items.parquet``, or somebody's CSV.

A table needs a column of patch ids and one of splits; where patches lie, their ids tell.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from landpatch.catalog.auditing.findings import Findings, Kind, Severity
from landpatch.catalog.errors import InvalidDataset, InvalidName, InvalidParameter
from landpatch.catalog.leakage import Patches
from landpatch.catalog.names import TILE_PATCHES, SceneId
from landpatch.catalog.splits import SPLITS, Split
from landpatch.catalog.store import Storage

ID_COLUMNS = ("patch_id", "id")
SPLIT_COLUMNS = ("landpatch:split", "split", "ml-aoi:split")
LABEL_COLUMNS = ("landpatch:labels", "labels")

_BATCH = 65_536
_ID = r"^(?P<scene>.{44})_(?P<x>[0-9]{2})_(?P<y>[0-9]{2})$"
# Other programs' words for the same thing; ml-aoi says validate.
_WORDS = {"train": 0, "validation": 1, "validate": 1, "val": 1, "test": 2}


def batches(storage: Storage, path: str) -> Iterator[pa.RecordBatch]:
    """Id, split and labels (where there are any) of a table, renamed to ``id``, ``split``, ``labels``.

    Raises InvalidParameter where there is no such column, InvalidDataset for a damaged file, StorageError.
    """
    if path.endswith(".csv"):
        yield from _renamed(_csv(storage, path), f"{storage.url}/{path}").to_batches(max_chunksize=_BATCH)
        return
    file = storage.open_parquet(path)
    columns = _columns(file.schema_arrow.names, f"{storage.url}/{path}")
    try:
        for batch in file.iter_batches(_BATCH, columns=list(columns.values())):
            yield batch.select(list(columns.values())).rename_columns(list(columns))
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise InvalidDataset(f"{storage.url}/{path} is damaged: {reason}; restore it") from error


def _csv(storage: Storage, path: str) -> pa.Table:
    from pyarrow import csv

    try:
        return csv.read_csv(pa.BufferReader(storage.get(path)))
    except pa.ArrowException as error:
        raise InvalidParameter(f"{storage.url}/{path} is no CSV table: {error}") from error


def _renamed(table: pa.Table, where: str) -> pa.Table:
    columns = _columns(table.column_names, where)
    columns.pop("labels", None)  # how a CSV writes several labels, nobody has agreed upon
    return table.select(list(columns.values())).rename_columns(list(columns))


def _columns(names: Sequence[str], where: str) -> dict[str, str]:
    found = {
        "id": next((name for name in ID_COLUMNS if name in names), None),
        "split": next((name for name in SPLIT_COLUMNS if name in names), None),
        "labels": next((name for name in LABEL_COLUMNS if name in names), None),
    }
    for needed, known in (("id", ID_COLUMNS), ("split", SPLIT_COLUMNS)):
        if found[needed] is None:
            raise InvalidParameter(
                f"{where} has no column {' or '.join(known)}: an audit needs patch ids and splits; it has "
                f"{', '.join(names)}"
            )
    return {key: name for key, name in found.items() if name is not None}


@dataclass
class LabelCounts:
    """In how many patches of each split a label is; grows with ``add``."""

    patches: Counter[str] = field(default_factory=Counter)
    labels: dict[str, Counter[str]] = field(default_factory=lambda: {split.value: Counter() for split in SPLITS})

    def add(self, split: NDArray[np.int8], labels: pa.Array) -> None:
        """``split`` as codes of SPLITS, ``labels`` a list of strings for each patch."""
        flat = pc.list_flatten(labels)
        codes = split[pc.list_parent_indices(labels).to_numpy()]
        for code, word in enumerate(SPLITS):
            self.patches[word.value] += int((split == code).sum())
            for entry in pc.value_counts(flat.filter(pa.array(codes == code))).to_pylist():
                self.labels[word.value][entry["values"]] += entry["counts"]

    def shares(self, split: str) -> dict[str, float]:
        """The share of a split's patches that have each label."""
        names = sorted(set().union(*self.labels.values()))
        return {name: self.labels[split][name] / max(self.patches[split], 1) for name in names}

    def divergence(self, one: str, other: str) -> float | None:
        """Jensen-Shannon divergence of the labels of two splits, in bits: 0 where their shares of all labels are
        the same, 1 where they have none in common. Lin 1991, doi:10.1109/18.61115. None where a split has none.
        """
        first, second = self.labels[one], self.labels[other]
        totals = sum(first.values()), sum(second.values())
        if not all(totals):
            return None
        bits = 0.0
        for name in sorted({*first, *second}):
            p, q = first[name] / totals[0], second[name] / totals[1]
            bits += sum(0.5 * share * math.log2(2 * share / (p + q)) for share in (p, q) if share)
        return max(bits, 0.0)


class PatchReader:
    """Takes batches of ids and splits in, and gives ``Patches``; what cannot be one is a finding."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._scenes: dict[str, int] = {}
        self._parsed: list[SceneId | None] = []
        self._columns: list[tuple[NDArray[np.int32], NDArray[np.int16], NDArray[np.int16], NDArray[np.int8]]] = []

    def add(
        self, ids: pa.Array, splits: pa.Array, file: str
    ) -> tuple[NDArray[np.bool_], NDArray[np.int32], NDArray[np.int16], NDArray[np.int16], NDArray[np.int8]]:
        """Of each row whether its id can be read; scene, x, y and split of those rows that can."""
        parts = pc.extract_regex(pc.fill_null(ids, ""), _ID)
        scene = parts.field("scene").dictionary_encode()
        known = np.array([self._scene(name) for name in scene.dictionary.to_pylist()] or [-1], np.int32)
        codes = known[pc.fill_null(scene.indices, 0).to_numpy(zero_copy_only=False)]
        x, y = (
            pc.fill_null(parts.field(name).cast(pa.int16()), TILE_PATCHES).to_numpy(zero_copy_only=False)
            for name in ("x", "y")
        )
        good = pc.is_valid(parts).to_numpy(zero_copy_only=False) & (codes >= 0)
        good &= (x < TILE_PATCHES) & (y < TILE_PATCHES)
        for row in np.flatnonzero(~good).tolist():
            self._findings.add(
                Kind.NAME,
                f"{ids[row].as_py()!r} is no patch id, so it is unknown where it lies: leave it out",
                file=file,
            )
        split = self._split(splits, file)
        columns = (codes[good], x[good], y[good], split[good])
        self._columns.append(columns)
        return good, *columns

    def _scene(self, name: str) -> int:
        if name not in self._scenes:
            try:
                self._parsed.append(SceneId.parse(name))
            except InvalidName:
                self._parsed.append(None)
            self._scenes[name] = len(self._parsed) - 1
        code = self._scenes[name]
        return -1 if self._parsed[code] is None else code

    def _split(self, splits: pa.Array, file: str) -> NDArray[np.int8]:
        encoded = splits.cast(pa.string()).dictionary_encode()
        words = encoded.dictionary.to_pylist()
        for word in words:
            if word not in _WORDS:
                self._findings.add(
                    Kind.SPLIT,
                    f"split {word!r} is none of {', '.join(Split)}: its patches count as left out",
                    file=file,
                    severity=Severity.WARNING,
                )
        codes = np.array([*(_WORDS.get(word, -1) for word in words), -1], np.int8)
        split: NDArray[np.int8] = codes[pc.fill_null(encoded.indices, len(words)).to_numpy(zero_copy_only=False)]
        return split

    def patches(self) -> Patches:
        """All that was taken in; each patch that is there twice is a finding, and counts once."""
        columns = [np.concatenate(column) for column in zip(*self._columns, strict=True)] if self._columns else []
        scene, x, y, split = columns or [np.empty(0, np.int32), *(np.empty(0, np.int16),) * 2, np.empty(0, np.int8)]
        # Scenes without a name are no scene: codes become those of the ones that are.
        fit = np.array([parsed is not None for parsed in self._parsed] or [True])
        scenes = tuple(parsed for parsed in self._parsed if parsed is not None)
        scene = (np.cumsum(fit) - 1).astype(np.int32)[scene]
        everything = Patches(scenes, scene, x, y, split)
        key = (scene.astype(np.int64) * TILE_PATCHES + x) * TILE_PATCHES + y
        _, first, times = np.unique(key, return_index=True, return_counts=True)
        for row, count in zip(first[times > 1].tolist(), times[times > 1].tolist(), strict=True):
            self._findings.add(
                Kind.DUPLICATE, f"is there {count} times: leave all but one out", patch=everything.id(row)
            )
        self._same_moment(everything)
        kept = np.sort(first)
        return Patches(scenes, scene[kept], x[kept], y[kept], split[kept])

    def _same_moment(self, patches: Patches) -> None:
        """The same acquisition of a tile under two names, such as two baselines: the same pixels twice."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for code, scene in enumerate(patches.scenes):
            groups.setdefault((scene.platform, scene.sensed, scene.tile), []).append(code)
        for codes in groups.values():
            if len(codes) < 2:
                continue
            places = [
                set(zip(patches.x[here].tolist(), patches.y[here].tolist(), strict=True))
                for here in (patches.scene == code for code in codes)
            ]
            twice = sum(map(len, places)) - len(set().union(*places))
            if twice:
                names = ", ".join(str(patches.scenes[code]) for code in codes)
                self._findings.add(
                    Kind.DUPLICATE,
                    f"{twice:,} patches of one acquisition are there twice, as {names}: keep one scene",
                )
