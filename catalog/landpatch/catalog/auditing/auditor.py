"""The audit: all checks over a dataset or a metadata table, one batch after the other.

Memory does not grow with pixels or files; of each patch its place, split and row of the official table are kept.
A damaged file is a finding and stops nothing.
"""

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from landpatch.catalog.auditing.assigned import OwnRules
from landpatch.catalog.auditing.files import FileCheck
from landpatch.catalog.auditing.findings import Findings, Kind, Severity
from landpatch.catalog.auditing.items import check_items
from landpatch.catalog.auditing.journal import Journal
from landpatch.catalog.auditing.metadata import LabelCounts, PatchReader, batches
from landpatch.catalog.auditing.validity import check_validity
from landpatch.catalog.errors import AuditFailed, InvalidDataset, InvalidParameter, LandpatchError
from landpatch.catalog.items import LINKED_SCHEMA, SCHEMA, Summary, collection_document, conformed
from landpatch.catalog.leakage import SPLIT_RULES, WITHIN_METRES, Leakage, Patches, leakage
from landpatch.catalog.nomenclature import Nomenclature
from landpatch.catalog.schemas import validate_collection
from landpatch.catalog.splits import SPLITS
from landpatch.catalog.store import COLLECTION, ITEMS, METADATA, METADATA_FLAGGED, NotFound, Storage
from landpatch.catalog.tables import COLUMNS_NEEDED, OFFICIAL_SCHEMA, official_tables

Watch = Callable[[str, int, int], None]
"""Told what is being done, how much of it is, and of how much."""

_BATCH = 5000
_SHOWN = 3
_TABLES = (METADATA, METADATA_FLAGGED)


@dataclass(frozen=True, slots=True)
class Checked:
    """How far an audit went: files looked for, read as a whole, bytes of those, how many of them an interrupted audit
    had read, hrefs that lead elsewhere, patches whose items have no files; all 0 for a table.
    """

    files: int = 0
    read: int = 0
    bytes: int = 0
    remembered: int = 0
    elsewhere: int = 0
    without_files: int = 0


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found. ``rule`` is the split rule that was measured: ``recorded`` is the sources' own."""

    sources: tuple[str, ...]
    rule: str
    patches: Patches
    checked: Checked
    findings: Findings
    leakage: Leakage
    labels: LabelCounts

    def document(self) -> dict[str, Any]:
        """As plain JSON values; of the findings all counts and the first of each kind."""
        pairs = [(one, other) for i, one in enumerate(SPLITS) for other in SPLITS[i + 1 :]]
        counts: dict[str, dict[str, int]] = {severity.value: {} for severity in Severity}
        for (severity, kind), count in sorted(self.findings.counts.items()):
            counts[severity.value][kind.value] = count
        relations = asdict(self.leakage)
        for relation in relations["relations"]:
            relation["within"] = {f"{metres:g}": count for metres, count in relation["within"].items()}
        return {
            "sources": list(self.sources),
            "split_rule": self.rule,
            "patches": len(self.patches),
            "tiles": len(self.patches.tiles),
            "scenes": len(self.patches.scenes),
            "checked": asdict(self.checked),
            "counts": counts,
            "findings": [asdict(finding) for finding in self.findings.kept],
            "leakage": relations,
            "labels": {
                "shares": {split.value: self.labels.shares(split) for split in SPLITS},
                "divergence": {f"{one}-{other}": self.labels.divergence(one, other) for one, other in pairs},
            },
        }

    def check(self, worst: Severity = Severity.ERROR) -> None:
        """Raises AuditFailed where there is a finding as bad as ``worst``, or worse."""
        order = list(Severity)
        counts = {severity: self.findings.number(severity) for severity in order[: order.index(worst) + 1]}
        if any(counts.values()):
            found = " and ".join(f"{count:,} {severity}(s)" for severity, count in counts.items() if count)
            raise AuditFailed(f"{', '.join(self.sources)}: {found}; each says what to do")


def audit(
    *sources: str | os.PathLike[str],
    split_rule: str = "recorded",
    within: Sequence[float] = (),
    pixels: bool = True,
    sample: int | None = None,
    anew: bool = False,
    progress: Watch | None = None,
) -> Audit:
    """Check a dataset (a folder or ``s3://``), or metadata tables (Parquet or CSV with ids and splits).

    ``split_rule`` measures the leakage that another rule of ``leakage.SPLIT_RULES`` would have. ``within``: distances
    in metres beside ``WITHIN_METRES``. ``pixels``: read the dataset's files, those of ``sample`` patches (None: all),
    which are the same in every run. An audit that was interrupted goes on where it stopped, unless ``anew``: sound
    files that have not changed since are not read again. Raises InvalidParameter, and StorageError where there is no
    such source.
    """
    rules = ("recorded", *SPLIT_RULES)
    if split_rule not in rules:
        raise InvalidParameter(f"split rule {split_rule!r} is unknown: choose {' or '.join(rules)}")
    if not sources:
        raise InvalidParameter("an audit needs a dataset, or metadata tables")
    if any(not 0 <= metres < 100_000 for metres in within):
        raise InvalidParameter("distances are 0 to 100,000 m")
    watch = progress or (lambda *_: None)
    work = _Work(watch, split_rule)
    places = [os.fspath(source) for source in sources]
    storage = None if len(places) > 1 or _is_table(places[0]) else Storage.open(places[0])
    if storage is not None and storage.url.startswith(("http://", "https://")):
        raise InvalidParameter(
            f"{storage.url}: the web lists no files; audit {storage.url}/{ITEMS}, or what `landpatch download` makes"
        )
    if storage is not None and (storage.exists(ITEMS) or storage.exists(COLLECTION)):
        checked = _dataset(storage, work, pixels=pixels, sample=sample, anew=anew)
    else:
        checked = Checked()
        for place in [f"{places[0]}/{name}" for name in _TABLES] if storage is not None else places:
            _table(place, work, optional=storage is not None)
    pa.default_memory_pool().release_unused()  # of half a million items 300 MB, which Arrow would keep for itself
    patches = work.reader.patches()
    measured = patches if split_rule == "recorded" else patches.under(split_rule)
    found = leakage(measured, (*WITHIN_METRES, *within), lambda done, total: watch("Measuring splits", done, total))
    _leaks(found, work.findings)
    return Audit(tuple(places), split_rule, measured, checked, work.findings, found, work.labels)


class _Work:
    """What grows while batches go by."""

    def __init__(self, watch: Watch, split_rule: str) -> None:
        self.watch = watch
        self.findings = Findings()
        self.reader = PatchReader(self.findings)
        self.labels = LabelCounts()
        self._rule = split_rule

    def take(self, ids: pa.Array, splits: pa.Array, labels: pa.Array | None, file: str) -> pa.Array:
        """One batch; returns which rows have an id that can be read."""
        good, _, x, y, split = self.reader.add(ids, splits, file)
        mask = pa.array(good)
        if labels is not None:
            measured = split if self._rule == "recorded" else SPLIT_RULES[self._rule](x, y)
            self.labels.add(measured, labels.filter(mask))
        return mask


def _is_table(place: str) -> bool:
    return PurePosixPath(place).suffix in (".parquet", ".csv")


# --- metadata tables ---------------------------------------------------------------------------------------------


def _table(place: str, work: _Work, *, optional: bool) -> None:
    if not _is_table(place):
        raise InvalidParameter(f"{place}: of several sources each must be a table, .parquet or .csv")
    folder, _, name = place.rpartition("/")
    storage = Storage.open(folder or ".")
    done = 0
    try:
        for batch in batches(storage, name):
            labels = batch.column("labels") if "labels" in batch.schema.names else None
            work.take(batch.column("id"), batch.column("split"), labels, place)
            done += batch.num_rows
            work.watch("Reading metadata", done, 0)
    except NotFound as error:
        if not optional:
            raise
        if name == METADATA:
            raise InvalidDataset(
                f"{folder} holds neither {ITEMS} nor {METADATA}: it is no dataset, nor are there official tables"
            ) from error
    except InvalidDataset as error:
        work.findings.add(Kind.UNREADABLE, str(error), file=place)


# --- datasets ----------------------------------------------------------------------------------------------------


def _dataset(storage: Storage, work: _Work, *, pixels: bool, sample: int | None, anew: bool) -> Checked:
    collection = _collection(storage, work.findings)
    nomenclature = _nomenclature(collection, work.findings)
    rules = OwnRules.of(storage, collection, work.findings)
    journal = Journal(storage.url, anew=anew)
    files = FileCheck(storage, work.findings, journal)
    summary, official, assigned, links, last = Summary(), [], [], set[str](), ""
    try:
        reader = storage.open_parquet(ITEMS)
        total = reader.metadata.num_rows
        _mirror(reader, collection, work.findings)
        threshold = -1 if not pixels else 2**32 if sample is None else _threshold(storage, sample)
        done = 0
        for table in _item_batches(reader):
            ids = table.column("id").combine_chunks()
            labels = table.column("landpatch:labels").combine_chunks()
            mask = work.take(ids, table.column("landpatch:split").combine_chunks(), labels, ITEMS)
            last = _order(ids, last, work.findings)
            table = table.filter(mask)
            check_items(table, work.findings, nomenclature=nomenclature, positional=rules.positional)
            check_validity(table, work.findings)
            summary.add(table)
            official.append(table.select(COLUMNS_NEEDED))
            assigned.append(rules.needed(table))
            links.update(_derived_from(table))
            draws = np.array([_draw(patch) for patch in table.column("id").to_pylist()], np.int64)
            files.check(table, draws <= threshold)
            done += len(mask)
            work.watch("Checking patches", done, total)
        files.finish()
        if pixels:
            journal.forget()
    except NotFound:
        work.findings.add(Kind.MISSING, "is not there: `landpatch build` makes it anew", file=ITEMS)
    except InvalidDataset as error:
        work.findings.add(Kind.UNREADABLE, str(error), file=ITEMS)
    if official and rules.apply:
        work.watch("Applying the dataset's rules", 0, 0)
        rules.compare(pa.concat_tables(assigned), collection, work.findings)
    if official:
        work.watch("Comparing tables", 0, 0)
        _compare_tables(storage, pa.concat_tables(official), work.findings)
        _compare_collection(collection, summary, nomenclature, work.findings)
        _compare_links(storage, links, work.findings)
    return Checked(files.listed, files.read, files.bytes, files.remembered, files.elsewhere, files.without)


def _collection(storage: Storage, findings: Findings) -> dict[str, Any]:
    try:
        document = storage.get_json(COLLECTION)
    except LandpatchError as error:
        findings.add(Kind.UNREADABLE, f"{error}: `landpatch build` writes it anew", file=COLLECTION)
        return {}
    if not isinstance(document, dict):
        findings.add(Kind.UNREADABLE, "is no STAC collection: `landpatch build` writes it anew", file=COLLECTION)
        return {}
    try:
        validate_collection(document)
    except InvalidDataset as error:
        findings.add(Kind.STAC, f"{error}: restore it", file=COLLECTION)
    return document


def _nomenclature(collection: dict[str, Any], findings: Findings) -> Nomenclature | None:
    stored = collection.get("landpatch:nomenclature")
    try:
        return None if stored is None else Nomenclature.from_document(stored)
    except (LandpatchError, KeyError, TypeError, ValueError) as error:
        findings.add(Kind.COLLECTION, f"landpatch:nomenclature is none ({error}): restore it", file=COLLECTION)
        return None


def _item_batches(reader: Any) -> Iterator[pa.Table]:
    try:
        usual = reader.schema_arrow.field("assets").type.num_fields <= SCHEMA.field("assets").type.num_fields
        schema = SCHEMA if usual else LINKED_SCHEMA
        for batch in reader.iter_batches(_BATCH):
            yield conformed(pa.Table.from_batches([batch]), schema)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InvalidDataset(
            f"{ITEMS} is damaged, or none of landpatch's ({reason}): delete it, `landpatch build` makes it anew"
        ) from error


def _mirror(reader: Any, collection: dict[str, Any], findings: Findings) -> None:
    try:
        stored = orjson.loads((reader.metadata.metadata or {})[b"stac-geoparquet"])["collections"]
    except (KeyError, TypeError, orjson.JSONDecodeError):
        findings.add(Kind.COLLECTION, "has no stac-geoparquet metadata: build it again", file=ITEMS)
        return
    if collection and stored != {collection.get("id"): collection}:
        text = f"its metadata have another collection than {COLLECTION}: restore one of the two"
        findings.add(Kind.COLLECTION, text, file=ITEMS)


def _draw(patch: str) -> int:
    return zlib.crc32(patch.encode())


def _threshold(storage: Storage, sample: int) -> int:
    """The highest draw among the ``sample`` patches with the lowest: the same patches in every run."""
    ids = storage.open_parquet(ITEMS).read(columns=["id"]).column("id").to_pylist()
    draws = np.sort(np.array([_draw(patch or "") for patch in ids], np.int64))
    return int(draws[min(sample, len(draws)) - 1]) if len(draws) and sample else -1


def _order(ids: pa.Array, last: str, findings: Findings) -> str:
    texts = [last, *(text or "" for text in ids.to_pylist())]
    for before, after in pairwise(texts):
        if before > after:
            findings.add(
                Kind.ORDER,
                f"{ITEMS} is not sorted by id: searches will be slow, build it again",
                patch=after,
                file=ITEMS,
            )
            break
    return max(texts)


def _derived_from(table: pa.Table) -> list[str]:
    links = pc.list_flatten(table.column("links"))
    chosen = links.filter(pc.equal(pc.struct_field(links, "rel"), "derived_from"))
    hrefs: list[str] = pc.unique(pc.struct_field(chosen, "href")).to_pylist()
    return hrefs


def _compare_links(storage: Storage, links: set[str], findings: Findings) -> None:
    there = set(storage.list("scenes"))
    for href in sorted(link for link in links if "://" not in link and link not in there):
        text = "patches are derived from it, and it is not there: fetch or build its scene again"
        findings.add(Kind.LINK, text, file=href, severity=Severity.WARNING)


def _compare_tables(storage: Storage, items: pa.Table, findings: Findings) -> None:
    """The official tables against those that the items make."""
    for name, expected in zip(_TABLES, official_tables(items), strict=True):
        try:
            stored = storage.open_parquet(name).read()
        except NotFound:
            findings.add(Kind.TABLE, "is not there: `landpatch build` writes it anew", file=name)
            continue
        except (InvalidDataset, pa.ArrowException, OSError) as error:
            findings.add(Kind.UNREADABLE, f"{error}: `landpatch build` writes it anew", file=name)
            continue
        problem = _table_problem(stored, expected)
        if problem:
            findings.add(Kind.TABLE, f"{problem}: delete it, `landpatch build` writes it anew", file=name)


def _table_problem(stored: pa.Table, expected: pa.Table) -> str:
    if stored.schema.names != OFFICIAL_SCHEMA.names:
        return f"its columns are {', '.join(stored.schema.names)} instead of {', '.join(OFFICIAL_SCHEMA.names)}"
    try:
        stored = stored.cast(OFFICIAL_SCHEMA)
    except pa.ArrowException as error:
        return f"its columns have other types ({error})"
    if stored.equals(expected):
        return ""
    ids = [set(table.column("patch_id").to_pylist()) for table in (stored, expected)]
    for one, other, what in ((0, 1, "that the items do not have"), (1, 0, "missing that the items have")):
        if differ := ids[one] - ids[other]:
            return f"it has {len(differ):,} patch(es) {what}, such as {min(differ)}"
    if stored.num_rows != expected.num_rows:
        return f"it has {stored.num_rows:,} rows for {expected.num_rows:,} patches"
    stored = stored.sort_by("patch_id")
    columns = [name for name in OFFICIAL_SCHEMA.names if not stored.column(name).equals(expected.column(name))]
    return f"it differs from the items in {', '.join(columns)}" if columns else "it is not sorted by patch_id"


def _compare_collection(
    collection: dict[str, Any], summary: Summary, nomenclature: Nomenclature | None, findings: Findings
) -> None:
    """Counts, extents and summaries against what the items come to."""
    if not collection:
        return
    made = collection_document(str(collection.get("id")), summary, nomenclature=nomenclature, dropped={})
    for name in ("landpatch:patches", "landpatch:counts", "extent", "summaries"):
        said, true = collection.get(name), made[name]
        parts = {name: (said, true)}
        if isinstance(true, dict):
            parts = {
                f"{name}/{key}": (said.get(key) if isinstance(said, dict) else None, value)
                for key, value in true.items()
            }
        for path, (one, other) in parts.items():
            if one != other:
                text = f"{path} is {_short(one)}, the items come to {_short(other)}: `landpatch build` writes it anew"
                findings.add(Kind.COLLECTION, text, file=COLLECTION)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


# --- splits ------------------------------------------------------------------------------------------------------


def _leaks(found: Leakage, findings: Findings) -> None:
    relation = found.relation("test", "train")
    touching = relation.overlap + relation.edge + relation.corner
    if touching:
        findings.add(
            Kind.LEAKAGE,
            f"{touching / relation.patches:.1%} of the test patches touch or overlap a train patch: tests will "
            "promise too much of other places; split by position or by blocks",
            severity=Severity.WARNING,
        )
