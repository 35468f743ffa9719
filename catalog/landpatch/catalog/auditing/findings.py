"""What an audit finds fault with: each finding says what is wrong, where, and what to do."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

KEPT = 100
"""Findings of one kind that are kept word for word; all are counted."""


class Severity(StrEnum):
    """ERROR: the dataset is not what it says; WARNING: it is, but one should know; NOTE: nothing to do."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Kind(StrEnum):
    """What a finding is about."""

    UNREADABLE = "unreadable"
    NAME = "name"
    DUPLICATE = "duplicate"
    ORDER = "order"
    FOOTPRINT = "footprint"
    PROJECTION = "projection"
    LABELS = "labels"
    SPLIT = "split"
    COUNTRY = "country"
    STAC = "stac"
    MISSING = "missing"
    SIZE = "size"
    CHECKSUM = "checksum"
    HEADER = "header"
    PIXELS = "pixels"
    ORPHAN = "orphan"
    LINK = "link"
    TABLE = "table"
    COLLECTION = "collection"
    LEAKAGE = "leakage"


@dataclass(frozen=True, slots=True)
class Finding:
    """``patch`` is its id and ``file`` a path below the root, each empty where there is none."""

    kind: Kind
    severity: Severity
    patch: str
    file: str
    text: str

    def __str__(self) -> str:
        where = self.patch or self.file
        return ": ".join(part for part in (self.severity, self.kind, where, self.text) if part)


class Findings:
    """All findings of an audit, counted; of each kind the first KEPT word for word."""

    def __init__(self) -> None:
        self.kept: list[Finding] = []
        self.counts: Counter[tuple[Severity, Kind]] = Counter()

    def add(
        self, kind: Kind, text: str, *, patch: str = "", file: str = "", severity: Severity = Severity.ERROR
    ) -> None:
        """Take one in."""
        self.counts[severity, kind] += 1
        if self.counts[severity, kind] <= KEPT:
            self.kept.append(Finding(kind, severity, patch, file, text))

    def add_all(self, findings: Iterable[Finding]) -> None:
        """Take several in."""
        for finding in findings:
            self.add(finding.kind, finding.text, patch=finding.patch, file=finding.file, severity=finding.severity)

    def number(self, severity: Severity) -> int:
        """How many there are of one severity."""
        return sum(count for (each, _), count in self.counts.items() if each is severity)
