"""Which items are wanted, asked of a STAC API or of a dataset as it lies.

The words are those of STAC API's item search, with short forms for what patches are chosen by: their split, labels
and country. All conditions hold together.

An API answers in its own order, which is taken over; a dataset's items come in the order of their ids. The first
``maximum`` of them are meant, so that whoever needs the same answer again has to keep it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime as Datetime
from typing import Any, Self
from urllib.parse import quote, urlsplit

import cql2
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from landpatch.catalog.errors import InvalidDataset, InvalidParameter
from landpatch.catalog.items import SCHEMA, item_from_row
from landpatch.catalog.reach import Reach
from landpatch.catalog.store import COLLECTION, ITEMS, Dataset, Storage
from landpatch.catalog.transfer import Declined, Manners, Transfer, shown

SPLIT, LABELS, COUNTRY = "landpatch:split", "landpatch:labels", "landpatch:country"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: conditions that hold together, and how many items at most (None: all).

    ``filter`` is CQL2 JSON as text with sorted keys, ``datetime`` an instant or interval (RFC 3339), ``bbox`` west,
    south, east, north in degrees; ``labels``: all of them.
    """

    bbox: tuple[float, float, float, float] | None = None
    datetime: str | None = None
    filter: str | None = None
    collections: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    split: str | None = None
    labels: tuple[str, ...] = ()
    country: str | None = None
    maximum: int | None = None

    @classmethod
    def of(
        cls,
        *,
        bbox: Sequence[float] | str | None = None,
        datetime: str | None = None,
        filter: str | Mapping[str, Any] | None = None,
        collections: Iterable[str] = (),
        ids: Iterable[str] = (),
        split: str | None = None,
        labels: Iterable[str] = (),
        country: str | None = None,
        maximum: int | None = None,
    ) -> Self:
        """From what people write: ``filter`` as CQL2 text or JSON, ``datetime`` also as ``2017-06`` or
        ``2017-06-01/..``, ``bbox`` also as text. Raises InvalidParameter.
        """
        if maximum is not None and maximum < 1:
            raise InvalidParameter(f"at most {maximum} items would be none")
        return cls(
            bbox=None if bbox is None else _box(bbox),
            datetime=None if datetime is None else _interval(datetime),
            filter=None if filter is None else _expression(filter),
            collections=tuple(dict.fromkeys(collections)),
            ids=tuple(dict.fromkeys(ids)),
            split=split,
            labels=tuple(sorted(set(labels))),
            country=country,
            maximum=maximum,
        )

    def expression(self) -> dict[str, Any] | None:
        """``filter`` and the short forms as one CQL2 JSON expression; None: no condition."""
        conditions: list[dict[str, Any]] = [] if self.filter is None else [orjson.loads(self.filter)]
        for name, value in ((SPLIT, self.split), (COUNTRY, self.country)):
            if value is not None:
                conditions.append({"op": "=", "args": [{"property": name}, value]})
        if self.labels:
            conditions.append({"op": "a_contains", "args": [{"property": LABELS}, list(self.labels)]})
        if len(conditions) < 2:
            return conditions[0] if conditions else None
        return {"op": "and", "args": conditions}

    def __str__(self) -> str:
        said = {name: getattr(self, name) for name in self.__slots__}
        return ", ".join(f"{name} {value}" for name, value in said.items() if value not in (None, ())) or "everything"


def _box(value: Sequence[float] | str) -> tuple[float, float, float, float]:
    try:
        numbers = [float(part) for part in (value.split(",") if isinstance(value, str) else value)]
        if len(numbers) == 6:
            numbers = [*numbers[:2], *numbers[3:5]]
        west, south, east, north = numbers
    except ValueError as error:
        raise InvalidParameter(f"bbox {value!r}: expected west,south,east,north in degrees") from error
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= north <= 90):
        raise InvalidParameter(f"bbox {value!r}: expected west,south,east,north in degrees, south below north")
    return west, south, east, north


def _interval(text: str) -> str:
    from pystac_client import ItemSearch

    try:
        return str(ItemSearch("https://search.invalid", datetime=text).get_parameters()["datetime"])
    except Exception as error:  # pystac-client raises bare Exception
        raise InvalidParameter(f"datetime {text!r}: {error}; expected 2017-06, 2017-06-01/2017-06-30, ...") from error


def _expression(value: str | Mapping[str, Any]) -> str:
    try:
        parsed = cql2.Expr(value if isinstance(value, str) else orjson.dumps(value).decode())
        return orjson.dumps(parsed.to_json(), option=orjson.OPT_SORT_KEYS).decode()
    except Exception as error:  # cql2 raises bare Exception
        raise InvalidParameter(f"filter {value!r} is neither CQL2 text nor CQL2 JSON: {error}") from error


# --- sources ------------------------------------------------------------------------------------------------------


class Source(ABC):
    """A catalogue that can be asked. ``url`` is how the user named it."""

    url: str

    @abstractmethod
    def collection(self, name: str) -> dict[str, Any]:
        """The collection of this id, as its JSON says."""

    @abstractmethod
    def collection_href(self, name: str) -> str:
        """Where the collection lies."""

    @abstractmethod
    def items(self, question: Question) -> Iterator[Any]:
        """What answers the question: items as their JSON says, asset hrefs such that a Transfer can fetch them, or
        whatever else a server sends. May hold an item twice.
        """

    def renewed(self, item: Mapping[str, Any]) -> dict[str, Any] | None:  # noqa: ARG002
        """The item as it is now, with hrefs signed anew; None where there is nothing to renew."""
        return None  # what lies in a folder has no signatures


def open_source(url: str, *, manners: Manners | None = None, trust: Iterable[str] = ()) -> tuple[Source, Transfer]:
    """A catalogue, and how its files are fetched: a STAC API, or a dataset in a folder, on S3 or on a web server.

    ``trust`` names hosts that hrefs may lead to although they are near (see ``reach``). Raises InvalidParameter,
    InvalidDataset, UnreadableAsset, StorageError.
    """
    for name in (COLLECTION, ITEMS):
        url = url.removesuffix(f"/{name}")
    reach = Reach.of(url, frozenset(trust))
    if urlsplit(url).scheme not in ("http", "https"):
        storage = Dataset.open(url).storage
        return DatasetSource(storage, url), Transfer(reach, manners, source=storage)
    transfer = Transfer(reach, manners)
    try:
        kind = _kind(transfer, url)
        if kind == "Catalog":
            # Here, because pystac-client takes a second to import and a dataset does without it.
            from landpatch.catalog.api_source import ApiSource

            return ApiSource(url, transfer), transfer
        if _kind(transfer, f"{url.rstrip('/')}/{COLLECTION}") == "Collection":
            return DatasetSource(Dataset.open(url).storage, url), transfer
    except BaseException:
        transfer.close()
        raise
    raise InvalidParameter(
        f"{shown(url)} is neither a STAC API's landing page nor a folder with {COLLECTION} and {ITEMS}"
    )


def _kind(transfer: Transfer, url: str) -> str | None:
    try:
        document = orjson.loads(transfer.document(url, largest=2**26))
    except (orjson.JSONDecodeError, Declined, InvalidParameter):
        return None
    return document.get("type") if isinstance(document, dict) else None


class DatasetSource(Source):
    """A dataset's ``items.parquet``, read where it lies; only narrow columns of what is not wanted."""

    def __init__(self, storage: Storage, url: str) -> None:
        self.url = url
        self._dataset = Dataset(storage)
        # A web server's files are fetched as everybody's are.
        self._root = f"{storage.url}/" if urlsplit(storage.url).scheme in ("http", "https") else None

    def collection(self, name: str) -> dict[str, Any]:
        """``collection.json``. Raises InvalidDataset where it is another."""
        document = self._dataset.collection()
        if document.get("id") != name:
            raise InvalidDataset(f"{shown(self.url)}: its items belong to {name!r}, which its {COLLECTION} is not")
        return document

    def collection_href(self, name: str) -> str:  # noqa: ARG002 - there is one
        """Where the collection lies."""
        return f"{self._dataset.storage.url}/{COLLECTION}"

    def items(self, question: Question) -> Iterator[Any]:
        """What answers the question, by id."""
        sieve = _Sieve(question)
        with self._dataset.storage.open_parquet(ITEMS) as file:
            missing = [name for name in SCHEMA.names if name not in file.schema_arrow.names]
            if missing:
                raise InvalidDataset(f"{shown(self.url)}/{ITEMS} lacks the column(s) {', '.join(missing)}")
            for group in range(file.num_row_groups):
                rows = sieve.rows(file.read_row_group(group, columns=sieve.columns))
                if len(rows):
                    wanted = file.read_row_group(group).take(rows)
                    for row in wanted.to_pylist():
                        yield self._placed(item_from_row(row))

    def _placed(self, item: dict[str, Any]) -> dict[str, Any]:
        if self._root is not None:
            derived = [link for link in item["links"] if link["rel"] == "derived_from"]
            for holder in (*item["assets"].values(), *derived):
                if not urlsplit(holder["href"]).scheme:
                    holder["href"] = self._root + quote(holder["href"])
        return item


class _Sieve:
    """Finds the rows of items that answer a question."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._ids = pa.array(question.ids, pa.string())
        self._collections = pa.array(question.collections, pa.string())
        self._expression = None if question.filter is None else cql2.Expr(question.filter)
        names = set() if question.filter is None else set(_properties(orjson.loads(question.filter)))
        unknown = sorted(names - set(SCHEMA.names))
        if unknown:
            raise InvalidParameter(f"filter: items have no property {', '.join(unknown)}")
        self.columns = sorted({"id", "collection", "datetime", "geometry", SPLIT, LABELS, COUNTRY, *names})
        self._names = names

    def rows(self, table: pa.Table) -> pa.Array:
        """Numbers of the rows that are wanted, of a table with ``columns``."""
        question = self._question
        masks = []
        if question.ids:
            masks.append(pc.is_in(table.column("id"), self._ids))
        if question.collections:
            masks.append(pc.is_in(table.column("collection"), self._collections))
        for name, value in ((SPLIT, question.split), (COUNTRY, question.country)):
            if value is not None:
                masks.append(pc.equal(table.column(name), value))
        if question.datetime is not None:
            masks += _within(table.column("datetime"), question.datetime)
        rows = pa.array(range(table.num_rows), pa.int64())
        for mask in masks:
            rows = rows.filter(mask.combine_chunks().take(rows), null_selection_behavior="drop")
        if question.labels:
            wanted = set(question.labels)
            labels = table.column(LABELS).take(rows).to_pylist()
            rows = rows.filter(pa.array([wanted <= set(found or ()) for found in labels], pa.bool_()))
        if question.bbox is not None:
            rows = rows.filter(_touching(table.column("geometry").take(rows), question.bbox))
        if self._expression is not None:
            chosen = table.select(sorted(self._names | {"id"})).take(rows)
            rows = rows.filter(
                pa.array([matches(self._expression, _as_item(row)) for row in chosen.to_pylist()], pa.bool_())
            )
        return rows


def _properties(expression: Any) -> Iterator[str]:
    """Names of all properties in a CQL2 JSON expression."""
    if isinstance(expression, dict):
        if isinstance(expression.get("property"), str):
            yield expression["property"]
        for value in expression.values():
            yield from _properties(value)
    elif isinstance(expression, list):
        for value in expression:
            yield from _properties(value)


def matches(expression: cql2.Expr, item: Any) -> bool:
    """Whether an item answers a CQL2 expression."""
    try:
        return bool(expression.matches(item))
    except Exception:  # cql2's bare Exception where a property is missing: then nothing is known, which is not true
        return False


def _as_item(row: Mapping[str, Any]) -> dict[str, Any]:
    import shapely

    own = {name: row[name] for name in ("id", "collection") if name in row}
    if row.get("geometry") is not None:
        own["geometry"] = orjson.loads(shapely.to_geojson(shapely.from_wkb(row["geometry"])))
    properties = {
        name: value.isoformat().replace("+00:00", "Z") if hasattr(value, "isoformat") else value
        for name, value in row.items()
        if name not in ("id", "collection", "geometry") and value is not None
    }
    return {"type": "Feature", **own, "properties": properties}


def _within(column: pa.ChunkedArray, interval: str) -> list[pa.ChunkedArray]:
    first, slash, last = interval.partition("/")
    sides = [(pc.greater_equal, first), (pc.less_equal, last if slash else first)]
    return [
        compare(column, pa.scalar(_moment(side), column.type)) for compare, side in sides if side not in ("", "..")
    ]


def _moment(text: str) -> Datetime:
    moment = Datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _touching(column: pa.ChunkedArray, bbox: tuple[float, float, float, float]) -> pa.Array:
    import shapely

    west, south, east, north = bbox
    # West of its east side: across the antimeridian (RFC 7946, 5.2).
    spans = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    area = shapely.union_all([shapely.box(left, south, right, north) for left, right in spans])
    shapely.prepare(area)
    shapes = shapely.from_wkb(column.to_numpy())
    return pa.array(shapely.intersects(area, shapes), pa.bool_())
