"""Whether patches have the splits and countries that the dataset's own rules give them: these are applied again.

A dataset that was split has its rule on storage. A part of one that somebody took has it in its collection alone, and
lacks the patches for which others were left out: there only those that have a split are compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from landpatch.catalog.assignment import NEEDED, RULE, Assignment, Rules
from landpatch.catalog.auditing.findings import Findings, Kind, Severity
from landpatch.catalog.errors import InvalidDataset, InvalidParameter
from landpatch.catalog.splits import NONE, SPLITS, LeftOut, SplitRule
from landpatch.catalog.store import COLLECTION, Storage

_RULE = "landpatch:split_rule"
_LEFT_OUT = "landpatch:left_out"
_AGAIN = "give the rule again with `landpatch split`"


@dataclass(frozen=True, slots=True)
class OwnRules:
    """The rules of a dataset; ``whole``: it has all patches that they were applied to. ``positional``: it has none
    for splits, so that these are by position.
    """

    rules: Rules
    whole: bool
    positional: bool

    @classmethod
    def of(cls, storage: Storage, collection: Mapping[str, Any], findings: Findings) -> "OwnRules":
        """From storage, or from what the collection says."""
        recorded = collection.get(_RULE)
        try:
            rules = Rules.read(storage)
        except InvalidDataset as error:
            findings.add(Kind.UNREADABLE, str(error), file="rules")
            return cls(Rules(), whole=True, positional=False)
        if rules.split is not None:
            says = rules.described(Assignment(None, None, None))[_RULE]
            if collection and says != recorded:
                text = f"{_RULE} is {recorded}, {RULE} says {says}: {_AGAIN}"
                findings.add(Kind.COLLECTION, text, file=COLLECTION)
            return cls(rules, whole=True, positional=False)
        if recorded in (None, "position"):
            return cls(rules, whole=True, positional=True)
        try:
            if not isinstance(recorded, Mapping):
                raise InvalidParameter("it is no rule of landpatch")
            if recorded.get("areas") == RULE:
                raise InvalidParameter(f"{RULE}, which has the polygons, is not here")
            rule = SplitRule.from_document(recorded)
        except InvalidParameter as error:
            text = f"{_RULE} is {recorded}, which cannot be applied again ({error}): splits are measured as they are"
            findings.add(Kind.SPLIT, text, file=COLLECTION, severity=Severity.NOTE)
            return cls(rules, whole=True, positional=False)
        rule = replace(rule, buffer=None, one_per_ground=False)
        return cls(replace(rules, split=rule), whole=False, positional=False)

    def needed(self, table: pa.Table) -> pa.Table:
        """What of some rows of ``items.parquet`` is needed to apply them; where they lie is what their ids say."""
        ids = table.column("id")
        says = {
            "landpatch:tile": pc.utf8_slice_codeunits(ids, -11, -6),
            "landpatch:x": pc.utf8_slice_codeunits(ids, -5, -3).cast(pa.int64()),
            "landpatch:y": pc.utf8_slice_codeunits(ids, -2).cast(pa.int64()),
        }
        rows = [says.get(name, table.column(name)) for name in NEEDED] if self.apply else []
        return pa.table(rows, names=NEEDED if self.apply else [])

    @property
    def apply(self) -> bool:
        """Whether there is anything to apply."""
        return self.rules.split is not None or self.rules.countries is not None

    def compare(self, table: pa.Table, collection: Mapping[str, Any], findings: Findings) -> None:
        """All rows, as ``needed`` gave them."""
        assignment = self.rules.assign(table)
        ids, countries = table.column("id"), table.column("landpatch:country").combine_chunks()
        if assignment.countries is not None:
            wrong = pc.fill_null(pc.not_equal(countries, assignment.countries), True)
            for row in np.flatnonzero(np.asarray(wrong)).tolist():
                text = f"is in {countries[row].as_py()}, the nearest country is {assignment.countries[row].as_py()}"
                findings.add(Kind.COUNTRY, f"{text}: run `landpatch country` again", patch=ids[row].as_py())
        if assignment.splits is None or assignment.reasons is None or self.rules.split is None:
            return
        words = np.array([*SPLITS, None], object)[assignment.splits]  # NONE, -1, is the last
        found = table.column("landpatch:split").to_numpy()
        wrong = found != words if self.whole else (found != words) & (found != None)  # noqa: E711
        for row in np.flatnonzero(wrong).tolist():
            code = int(assignment.splits[row])
            means = f"none ({tuple(LeftOut)[assignment.reasons[row]]})" if code == NONE else SPLITS[code].value
            text = f"is {found[row] or 'none'}, the rule of the dataset, by {self.rules.split.by}, means {means}"
            findings.add(Kind.SPLIT, f"{text}: {_AGAIN}", patch=ids[row].as_py())
        if self.whole and collection and collection.get(_LEFT_OUT) != assignment.left_out:
            text = f"{_LEFT_OUT} is {collection.get(_LEFT_OUT)}, the rule leaves out {assignment.left_out}: {_AGAIN}"
            findings.add(Kind.COLLECTION, text, file=COLLECTION)
