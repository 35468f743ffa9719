"""Giving a finished dataset other splits, or countries, without touching a pixel.

The rule is written first, in one piece, then the catalogue is compacted anew by it. What was interrupted is finished
by the same call again, or by whatever compacts the dataset next.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from landpatch.catalog.assignment import COUNTRIES, NEEDED, RULE, Assignment, Rules
from landpatch.catalog.compaction import compact, overview
from landpatch.catalog.countries import Countries
from landpatch.catalog.errors import InvalidParameter
from landpatch.catalog.splits import SPLITS, SplitRule
from landpatch.catalog.store import COLLECTION, NotFound, Storage, json_bytes

_LABELS = "landpatch:labels"
# What compaction finds out anew; the rest of a collection may be somebody's own words.
_COMPUTED = ("extent", "landpatch:patches", "landpatch:counts", "landpatch:dropped")
_OF_THE_RULE = ("landpatch:split_rule", "landpatch:left_out")
_SUMMARIES = ("ml-aoi:split", "landpatch:split")


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """What a rule makes of a dataset: ``patches`` by split, ``labels`` by label and split, ``left_out`` by reason."""

    patches: Mapping[str, int]
    labels: Mapping[str, Mapping[str, int]]
    left_out: Mapping[str, int]

    def table(self) -> list[str]:
        """As lines of text, the whole first."""
        rows = {"patches": self.patches, **self.labels}
        width = max(map(len, rows))
        lines = [f"{'':{width}}" + "".join(f"  {split:>10}" for split in SPLITS)]
        for name, counts in rows.items():
            lines.append(f"{name:{width}}" + "".join(f"  {counts[split]:10,}" for split in SPLITS))
        return lines


def preview(storage: Storage, rule: SplitRule, *, progress: Callable[[int, int], None] | None = None) -> SplitCounts:
    """What ``resplit`` would make of the dataset. Raises InvalidParameter where the rule names what is not there."""
    table = overview(storage, (*NEEDED, _LABELS), progress=progress)
    rules = Rules(rule, Rules.read(storage, (COUNTRIES,)).countries if rule.by == "country" else None)
    assignment = rules.assign(table)
    _check(rule, table, assignment)
    (assigned,) = assignment.into(iter([table]))
    return _counted(assigned, assignment.left_out)


def resplit(
    storage: Storage, rule: SplitRule, *, progress: Callable[[int, int], None] | None = None
) -> tuple[SplitCounts, bool]:
    """Split the dataset by a rule, which stays its rule; False if it was split so already.

    Raises InvalidParameter (the rule names what is not there), InvalidDataset, DatasetConflict, StorageError.
    """
    counts = preview(storage, rule, progress=progress)
    storage.put_changed(RULE, json_bytes(rule.to_document()))
    return counts, _compacted(storage, progress)


def name_countries(
    storage: Storage, countries: Countries, *, progress: Callable[[int, int], None] | None = None
) -> bool:
    """Give each patch the nearest of these countries, and those that are built later; False if it was so already.

    Raises InvalidDataset, DatasetConflict, StorageError.
    """
    overview(storage, ("id",))
    storage.put_changed(COUNTRIES, countries.to_geojson())
    return _compacted(storage, progress)


def _compacted(storage: Storage, progress: Callable[[int, int], None] | None) -> bool:
    for folder in ("", "rules"):
        storage.sweep(folder, lambda _: True)
    try:
        present = storage.get_json(COLLECTION)
    except NotFound:
        return compact(storage, progress=progress)
    return compact(storage, progress=progress, describe=lambda document: _kept(present, document))


def _kept(present: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """The collection as it was, but for what the rules decide: who made it, on what terms, in whose words."""
    summaries = {key: value for key, value in present.get("summaries", {}).items() if key not in _SUMMARIES}
    return {
        **{key: value for key, value in present.items() if key not in _OF_THE_RULE},
        **{key: document[key] for key in (*_COMPUTED, *_OF_THE_RULE) if key in document},
        "summaries": {**summaries, **document["summaries"]},
    }


def _check(rule: SplitRule, table: pa.Table, assignment: Assignment) -> None:
    if rule.by not in ("tile", "country"):
        return
    column = table.column("landpatch:tile") if rule.by == "tile" else assignment.countries
    if column is None:
        column = table.column("landpatch:country")
    known = {name for name in column.unique().to_pylist() if name is not None}
    if not known:
        raise InvalidParameter("the patches have no country yet: run `landpatch country` on the dataset first")
    unknown = sorted(set(rule.given) - known)
    if unknown:
        raise InvalidParameter(
            f"no patch lies in {rule.by} {', '.join(unknown)}; the dataset has {', '.join(sorted(known))}"
        )


def _counted(table: pa.Table, left_out: Mapping[str, int]) -> SplitCounts:
    split = table.column("landpatch:split").combine_chunks()
    labels = table.column(_LABELS).combine_chunks()
    pairs = pa.table(
        {"label": pc.list_flatten(labels), "split": split.take(pc.list_parent_indices(labels))}
    ).group_by(["label", "split"])
    by_label: dict[str, dict[str, int]] = {}
    for row in pairs.aggregate([([], "count_all")]).to_pylist():
        if row["split"] is not None:
            by_label.setdefault(row["label"], dict.fromkeys(SPLITS, 0))[row["split"]] = row["count_all"]
    counted = Counter(dict.fromkeys(SPLITS, 0))
    counted.update(value for value in split.to_pylist() if value is not None)
    return SplitCounts(
        {str(word): count for word, count in counted.items()},
        {label: {str(word): count for word, count in by_label[label].items()} for label in sorted(by_label)},
        left_out,
    )
