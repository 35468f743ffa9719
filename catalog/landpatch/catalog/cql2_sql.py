"""CQL2 filters (OGC 21-065r2), text or JSON, as SQL conditions in which every literal is bound.

Text is parsed by the ``cql2`` package into the form that JSON has already; this module walks that form. Nothing of a
filter ever becomes SQL text: property names are looked up, operators are chosen from tables, literals are bound.
A property that nobody knows is NULL, as queryables with ``additionalProperties: true`` promise. Times are
microseconds since 1970 (UTC), which need no time zones in the database.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import orjson
import shapely

from landpatch.catalog.errors import LandpatchError

TEXT_LENGTH = 32_768
"""Characters of a filter in text form."""
TEXT_DEPTH = 10
"""Open parentheses in text form: cql2's parser takes twice as long for each one more (1 s at 16)."""
DEPTH = 32
NODES = 5_000
VERTICES = 20_000
"""Of one geometry in a query."""

MASK_BITS = 62
"""Words of an array's vocabulary in one BIGINT column."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_EVER = 2**62  # beyond year 9999 on both sides


class InvalidQuery(LandpatchError, ValueError):
    """A search cannot be understood, or is larger than a search may be."""

    exit_code = 2


class Kind(StrEnum):
    """What a value is; NULL is a property that is not there."""

    NUMBER = "number"
    TEXT = "text"
    TIME = "time"
    BOOLEAN = "boolean"
    ARRAY = "array"
    GEOMETRY = "geometry"
    INTERVAL = "interval"
    NULL = "null"


@dataclass(frozen=True, slots=True)
class Column:
    """A property in the database: ``sql`` is the quoted name of its column.

    An array of words has its ``vocabulary``, and instead of one column several: bit ``n % MASK_BITS`` of column
    ``n // MASK_BITS`` stands for word ``n``. An array without vocabulary is a list column with ``item`` elements.
    """

    sql: str
    kind: Kind
    vocabulary: tuple[str, ...] | None = None
    masks: tuple[str, ...] = ()
    item: str = ""


@dataclass(frozen=True, slots=True)
class Fragment:
    """A piece of SQL and the values of its ``?``, in their order."""

    sql: str
    values: tuple[Any, ...] = ()
    kind: Kind = Kind.BOOLEAN
    literal: Any = None
    """The value itself, where the piece is nothing but a literal."""


TRUE = Fragment("TRUE")
FALSE = Fragment("FALSE")
_UNKNOWN = Fragment("NULL::BOOLEAN")

Spatial = Callable[[str, Any], Fragment]
"""Condition that an item's geometry stands in a relation (``intersects``, ``within``...) to a shapely geometry."""


def parse_text(text: str) -> Any:
    """CQL2 text in the form that CQL2 JSON has. Raises InvalidQuery.

    What would keep the parser busy for long, or exhaust its stack, never reaches it.
    """
    import cql2

    if len(text) > TEXT_LENGTH:
        raise InvalidQuery(f"the filter has {len(text):,} characters; {TEXT_LENGTH:,} are possible")
    if _text_depth(text) > TEXT_DEPTH or len(re.findall(r"\bnot\b|[-+]\s*[-+]", text, re.IGNORECASE)) > 200:
        raise InvalidQuery(
            f"the filter is nested too deeply; {TEXT_DEPTH} levels of parentheses are possible in text"
        )
    try:
        return cql2.parse_text(text).to_json()
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of cql2's Rust code
            raise
        raise InvalidQuery(f"the filter is no CQL2 text: {' '.join(str(error).split())[:300]}") from None


def _text_depth(text: str) -> int:
    """Deepest nesting of parentheses outside strings; of all of them where it is in doubt what a string is."""
    if "\\'" in text or '\\"' in text:
        return text.count("(")
    depth = deepest = 0
    for token in re.findall(r"'[^']*'|\"[^\"]*\"|[()]", text):
        depth += {"(": 1, ")": -1}.get(token, 0)
        deepest = max(deepest, depth)
    if depth:
        raise InvalidQuery("the filter's parentheses do not match")
    return deepest


def condition(filter_: Any, columns: Mapping[str, Column], spatial: Spatial) -> Fragment:
    """A filter in CQL2's JSON form as an SQL condition. Raises InvalidQuery."""
    _measure(filter_)
    return _Compiler(columns, spatial).predicate(filter_)


def parse_geometry(geometry: Any) -> Any:
    """A GeoJSON geometry or ``{"bbox": [...]}`` as a valid, flat shapely geometry. Raises InvalidQuery."""
    if not isinstance(geometry, Mapping):
        raise InvalidQuery(f"expected a GeoJSON geometry, not {_shown(geometry)}")
    if "bbox" in geometry and "type" not in geometry:
        return box_geometry(geometry["bbox"])
    if geometry.get("type") == "Feature":
        raise InvalidQuery("expected a GeoJSON geometry, not a feature: give its geometry")
    try:
        shape = shapely.from_geojson(orjson.dumps(geometry))
        shape = shapely.force_2d(shape)
    except (shapely.errors.GEOSException, TypeError, ValueError, orjson.JSONEncodeError) as error:
        raise InvalidQuery(f"not a GeoJSON geometry: {' '.join(str(error).split())[:200]}") from None
    if shape is None or shapely.get_num_coordinates(shape) > VERTICES:
        raise InvalidQuery(f"a geometry may have {VERTICES:,} vertices")
    coordinates = shapely.get_coordinates(shape)
    if not len(coordinates):
        raise InvalidQuery("the geometry has no coordinates")
    if not all(math.isfinite(value) and abs(value) <= 1e6 for value in coordinates.ravel().tolist()):
        raise InvalidQuery("the geometry has coordinates that are no longitudes and latitudes")
    return shape if shapely.is_valid(shape) else shapely.make_valid(shape)


def box_geometry(bbox: Any) -> Any:
    """A bbox (4 numbers, or 6 with heights, which are ignored) as shapely geometry; two boxes where west > east.

    Raises InvalidQuery.
    """
    try:
        numbers = [float(value) for value in bbox]
    except (TypeError, ValueError, OverflowError):
        raise InvalidQuery(f"bbox has 4 or 6 numbers, not {_shown(bbox)}") from None
    if len(numbers) not in (4, 6) or not all(map(math.isfinite, numbers)):
        raise InvalidQuery(f"bbox has 4 or 6 numbers, not {_shown(bbox)}")
    half = len(numbers) // 2
    west, south, east, north = *numbers[:2], *numbers[half : half + 2]
    if south > north or (half == 3 and numbers[2] > numbers[5]):
        raise InvalidQuery(f"bbox {numbers}: its south lies north of its north, or its bottom above its top")
    if max(abs(west), abs(east)) > 180 or max(abs(south), abs(north)) > 90:
        raise InvalidQuery(f"bbox {numbers} lies outside -180, -90, 180, 90")
    if west <= east:
        return shapely.box(west, south, east, north)
    return shapely.MultiPolygon([shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)])


def microseconds(text: Any) -> int:
    """A date or an RFC 3339 time as microseconds since 1970 (UTC, where it names no offset). Raises InvalidQuery."""
    try:
        moment = datetime.fromisoformat(text.upper() if isinstance(text, str) else "")
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        return (moment - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError):
        raise InvalidQuery(
            f"{_shown(text)} is no date or time: expected something like 2017-06-13T10:10:31Z"
        ) from None


def _measure(filter_: Any) -> None:
    """Refuse what is nested too deeply or has too many parts, without recursion."""
    waiting = [(filter_, 1)]
    nodes = 0
    while waiting:
        node, depth = waiting.pop()
        nodes += 1
        if depth > DEPTH:
            raise InvalidQuery(f"the filter is nested too deeply; {DEPTH} levels are possible")
        if isinstance(node, Mapping):
            if "type" in node and "op" not in node:
                continue  # a geometry, which has a measure of its own
            waiting += [(value, depth + 1) for value in node.values()]
        elif isinstance(node, list):
            waiting += [(value, depth) for value in node]
        if nodes + len(waiting) > NODES:
            raise InvalidQuery(f"the filter is too long; {NODES:,} parts are possible")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


_COMPARISONS = {"=": "=", "<>": "<>", "!=": "<>", "<": "<", ">": ">", "<=": "<=", ">=": ">="}
_ARITHMETIC = {"+": "({} + {})", "-": "({} - {})", "*": "({} * {})", "/": "({} / nullif({}, 0))"} | {
    "%": "({} % nullif({}, 0))",
    "div": "trunc({} / nullif({}, 0))",
    "^": "pow({}, {})",
}
# Allen's relations of (a, b) to (c, d), OGC 21-065r2 table 7; a moment is an interval without length.
_TEMPORAL = {
    "t_after": "{a} > {d}",
    "t_before": "{b} < {c}",
    "t_contains": "{a} < {c} AND {b} > {d}",
    "t_disjoint": "{b} < {c} OR {a} > {d}",
    "t_during": "{a} > {c} AND {b} < {d}",
    "t_equals": "{a} = {c} AND {b} = {d}",
    "t_finishedby": "{a} < {c} AND {b} = {d}",
    "t_finishes": "{a} > {c} AND {b} = {d}",
    "t_intersects": "{a} <= {d} AND {b} >= {c}",
    "t_meets": "{b} = {c}",
    "t_metby": "{a} = {d}",
    "t_overlappedby": "{a} > {c} AND {a} < {d} AND {b} > {d}",
    "t_overlaps": "{a} < {c} AND {b} > {c} AND {b} < {d}",
    "t_startedby": "{a} = {c} AND {b} > {d}",
    "t_starts": "{a} = {c} AND {b} < {d}",
}
_SPATIAL = ("contains", "crosses", "disjoint", "equals", "intersects", "overlaps", "touches", "within")
_CONVERSE = {"contains": "within", "within": "contains"}
_ARRAY = ("a_contains", "a_containedby", "a_equals", "a_overlaps")
_ONE_OF = {"landpatch:label": "landpatch:labels"}
"""Properties for forms and people who have no array operators: any one of the values of an array."""
_ARRAY_CONVERSE = {"a_contains": "a_containedby", "a_containedby": "a_contains"}


class _Compiler:
    def __init__(self, columns: Mapping[str, Column], spatial: Spatial) -> None:
        self._columns, self._spatial = columns, spatial

    def predicate(self, node: Any) -> Fragment:
        """What is true, false or unknown of an item."""
        if isinstance(node, bool):
            return TRUE if node else FALSE
        if isinstance(node, Mapping) and "property" in node:
            found = self._value(node)
            if found.kind is Kind.NULL:
                return _UNKNOWN
            if found.kind is not Kind.BOOLEAN:
                raise InvalidQuery(f"{_shown(node['property'])} is {found.kind}: compare it with something")
            return found
        op, args = self._operation(node)
        if op in ("and", "or"):
            if not args:
                raise InvalidQuery(f"{op!r} wants conditions")
            parts = [self.predicate(argument) for argument in args]
            return _joined(f"({f' {op.upper()} '.join('{}' for _ in parts)})", *parts)
        if op == "not":
            return _joined("(NOT {})", self.predicate(*self._arguments(op, args, 1)))
        if op in _COMPARISONS:
            return self._comparison(op, *self._arguments(op, args, 2))
        if op == "isnull":
            return self._is_null(*self._arguments(op, args, 1))
        if op == "like":
            return self._like(*self._arguments(op, args, 2))
        if op == "between":
            value, low, high = self._arguments(op, args, 3)
            return _joined("({} AND {})", self._comparison(">=", value, low), self._comparison("<=", value, high))
        if op == "in":
            return self._in(*self._arguments(op, args, 2))
        if op in _TEMPORAL:
            return self._temporal(op, *self._arguments(op, args, 2))
        if op.startswith("s_") and op[2:] in _SPATIAL:
            return self._relation(op[2:], *self._arguments(op, args, 2))
        if op in _ARRAY:
            return self._array(op, *self._arguments(op, args, 2))
        raise InvalidQuery(f"{_shown(node['op'])} is no condition that this catalogue knows")

    def _operation(self, node: Any) -> tuple[str, list[Any]]:
        if not isinstance(node, Mapping) or not isinstance(node.get("op"), str):
            raise InvalidQuery(f"expected a condition, not {_shown(node)}")
        args = node.get("args")
        if not isinstance(args, list):
            raise InvalidQuery(f"{_shown(node['op'])} has no list of arguments")
        return node["op"].lower(), args

    @staticmethod
    def _arguments(op: str, args: list[Any], count: int) -> list[Any]:
        if op == "between" and len(args) == 2 and isinstance(args[1], list):
            args = [args[0], *args[1]]  # as drafts of CQL2 had it, and some clients still do
        if len(args) != count:
            raise InvalidQuery(f"{op!r} wants {count} arguments, not {len(args)}")
        return args

    def _value(self, node: Any) -> Fragment:
        """A number, a text, a time, a truth value; or NULL."""
        if isinstance(node, bool):
            return Fragment("?::BOOLEAN", (node,), Kind.BOOLEAN, node)
        if isinstance(node, int | float):
            try:
                return Fragment("?::DOUBLE", (float(node),), Kind.NUMBER, node)
            except OverflowError:
                raise InvalidQuery(f"{_shown(node)} is too large a number") from None
        if isinstance(node, str):
            return Fragment("?::VARCHAR", (_text(node),), Kind.TEXT, node)
        if not isinstance(node, Mapping):
            raise InvalidQuery(f"expected a property or a value, not {_shown(node)}")
        if "property" in node:
            return self._property(node["property"])
        for name in ("timestamp", "date"):
            if name in node:
                return _moment(microseconds(node[name]))
        if "interval" in node:
            raise InvalidQuery("an interval is no value: compare it by t_during, t_intersects and their like")
        op, args = self._operation(node)
        if op in _ARITHMETIC:
            parts = [self._value(argument) for argument in self._arguments(op, args, 2)]
            if any(part.kind is Kind.NULL for part in parts):
                return Fragment("NULL", (), Kind.NULL)
            if any(part.kind is not Kind.NUMBER for part in parts):
                raise InvalidQuery(f"{op!r} computes with numbers only")
            return _joined(_ARITHMETIC[op], *(_joined("{}::DOUBLE", part) for part in parts), kind=Kind.NUMBER)
        if op in ("casei", "accenti"):
            inner = self._value(*self._arguments(op, args, 1))
            if inner.kind is Kind.NULL:
                return inner
            if inner.kind is not Kind.TEXT:
                raise InvalidQuery(f"{op!r} is for text only")
            return _joined("lower({})" if op == "casei" else "strip_accents({})", inner, kind=Kind.TEXT)
        raise InvalidQuery(f"{_shown(node['op'])} is no function that this catalogue knows")

    def _property(self, name: Any) -> Fragment:
        column = self._column(name)
        if column is None:
            return Fragment("NULL", (), Kind.NULL)
        if column.kind in (Kind.ARRAY, Kind.GEOMETRY):
            known = "a_contains, a_overlaps" if column.kind is Kind.ARRAY else "s_intersects"
            raise InvalidQuery(f"{_shown(name)} is of kind {column.kind}: ask by {known} and their like")
        return Fragment(column.sql, (), column.kind)

    def _column(self, name: Any) -> Column | None:
        if not isinstance(name, str):
            raise InvalidQuery(f"a property has a name, not {_shown(name)}")
        return self._columns.get(name.removeprefix("properties."))

    def _comparison(self, op: str, left: Any, right: Any) -> Fragment:
        if isinstance(left, Mapping) and isinstance(array := _ONE_OF.get(str(left.get("property"))), str):
            return self._one_of(op, {"property": array}, right)
        one, other = _alike(self._value(left), self._value(right))
        if Kind.NULL in (one.kind, other.kind):
            return _UNKNOWN
        return _joined(f"({{}} {_COMPARISONS[op]} {{}})", one, other)

    def _one_of(self, op: str, array: Any, value: Any) -> Fragment:
        if op not in ("=", "<>") or not isinstance(value, str):
            raise InvalidQuery("a label is compared by = or <> with a text; of several ask by a_contains, a_overlaps")
        there = self._array("a_contains", array, [value])
        return there if op == "=" else _joined("(NOT {})", there)

    def _is_null(self, node: Any) -> Fragment:
        if isinstance(node, Mapping) and "property" in node:
            column = self._column(node["property"])
            if column is not None and column.kind is Kind.ARRAY:
                return Fragment(f"({column.masks[0] if column.masks else column.sql} IS NULL)")
            if column is not None and column.kind is Kind.GEOMETRY:
                return FALSE
        return _joined("({} IS NULL)", self._value(node))

    def _like(self, value: Any, pattern: Any) -> Fragment:
        one, other = self._value(value), self._value(pattern)
        if len(other.values) != 1 or other.kind is not Kind.TEXT:
            raise InvalidQuery(f"LIKE wants a text as its pattern, not {_shown(pattern)}")
        if one.kind is Kind.NULL:
            return _UNKNOWN
        if one.kind is not Kind.TEXT:
            raise InvalidQuery(f"LIKE is for text, not for {one.kind}")
        if len(re.findall(r"\\*\Z", other.values[0])[0]) % 2:
            raise InvalidQuery(f"the pattern {_shown(other.values[0])} ends with an escape of nothing")
        return _joined(r"({} LIKE {} ESCAPE '\')", one, other)

    def _in(self, value: Any, choices: Any) -> Fragment:
        if not isinstance(choices, list):
            raise InvalidQuery("IN wants a list of values")
        one = self._value(value)
        others = [_alike(one, self._value(choice))[1] for choice in choices]
        if one.kind is Kind.NULL:
            return _UNKNOWN
        if not others:
            return FALSE
        if any(other.kind is Kind.NULL for other in others):
            raise InvalidQuery("IN wants values, and properties that exist")
        return _joined(f"({{}} IN ({', '.join('{}' for _ in others)}))", one, *others)

    def _temporal(self, op: str, left: Any, right: Any) -> Fragment:
        one, other = self._span(left), self._span(right)
        if one is None or other is None:
            return _UNKNOWN
        ends = dict(zip("abcd", (*one, *other), strict=True))
        order = re.findall(r"{(\w)}", _TEMPORAL[op])
        return _joined("(" + re.sub(r"{\w}", "{}", _TEMPORAL[op]) + ")", *(ends[end] for end in order))

    def _span(self, node: Any) -> tuple[Fragment, Fragment] | None:
        """Start and end; None where one of them is a property that is not there."""
        if isinstance(node, Mapping) and "interval" in node:
            ends = node["interval"]
            if not isinstance(ends, list) or len(ends) != 2:
                raise InvalidQuery("an interval has a start and an end")
            pair = [
                _moment(open_) if end == ".." else self._instant(end)
                for end, open_ in zip(ends, (-_EVER, _EVER), strict=True)
            ]
        else:
            pair = [self._instant(node)] * 2
        if any(end.kind is Kind.NULL for end in pair):
            return None
        if pair[0].literal is not None and pair[1].literal is not None and pair[0].literal > pair[1].literal:
            raise InvalidQuery("an interval starts before it ends")
        return pair[0], pair[1]

    def _instant(self, node: Any) -> Fragment:
        found = _moment(microseconds(node)) if isinstance(node, str) else self._value(node)
        if found.kind not in (Kind.TIME, Kind.NULL):
            raise InvalidQuery(f"expected a time or an interval, not {_shown(node)}")
        return found

    def _relation(self, relation: str, left: Any, right: Any) -> Fragment:
        if isinstance(right, Mapping) and "property" in right:
            left, right, relation = right, left, _CONVERSE.get(relation, relation)
        if not isinstance(left, Mapping) or "property" not in left:
            raise InvalidQuery("a spatial condition is about a property: s_intersects(geometry, ...)")
        column = self._column(left["property"])
        geometry = parse_geometry(right)
        if column is None:
            return _UNKNOWN
        if column.kind is not Kind.GEOMETRY:
            raise InvalidQuery(f"{_shown(left['property'])} is {column.kind}, not a geometry")
        if relation == "disjoint":
            return _joined("(NOT {})", self._spatial("intersects", geometry))
        return self._spatial(relation, geometry)

    def _array(self, op: str, left: Any, right: Any) -> Fragment:
        if isinstance(right, Mapping) and "property" in right:
            left, right, op = right, left, _ARRAY_CONVERSE.get(op, op)
        if not isinstance(left, Mapping) or "property" not in left:
            raise InvalidQuery(f"{op} is about a property and a list of values")
        column = self._column(left["property"])
        if isinstance(right, Mapping):
            raise InvalidQuery(f"{op} compares a property with a list of values, not with {_shown(right)}")
        wanted = right if isinstance(right, list) else [right]
        if column is None:
            return _UNKNOWN
        if column.kind is not Kind.ARRAY:
            raise InvalidQuery(f"{_shown(left['property'])} is {column.kind}, not an array")
        if column.vocabulary is not None:
            return _by_masks(op, column, wanted)
        values = [self._value(value) for value in wanted]
        if any(value.literal is None or str(value.kind) != column.item for value in values):
            raise InvalidQuery(f"{_shown(left['property'])} is an array of {column.item}")
        bound = Fragment(
            "?::DOUBLE[]" if column.item == Kind.NUMBER else "?::VARCHAR[]", ([v.values[0] for v in values],)
        )
        has = Fragment(column.sql)
        within = _joined("list_has_all({}, {})", bound, has)
        contains = _joined("list_has_all({}, {})", has, bound)
        if op == "a_overlaps":
            return _joined("list_has_any({}, {})", has, bound)
        return {"a_contains": contains, "a_containedby": within}.get(op) or _joined("({} AND {})", contains, within)


def _by_masks(op: str, column: Column, wanted: Sequence[Any]) -> Fragment:
    """An array of words is a set of bits. NULL masks make NULL conditions."""
    assert column.vocabulary is not None
    places = {word: number for number, word in enumerate(column.vocabulary)}
    known = [places[word] for word in wanted if isinstance(word, str) and word in places]
    strange = len(known) < len(wanted)
    words = [0] * len(column.masks)
    for place in known:
        words[place // MASK_BITS] |= 1 << place % MASK_BITS
    never = Fragment(f"({column.masks[0]} IS NULL AND NULL)")
    if op == "a_overlaps":
        parts = [_bits("({} & {}) <> 0", mask, word) for mask, word in zip(column.masks, words, strict=True) if word]
        return _joined(f"({' OR '.join('{}' for _ in parts)})", *parts) if parts else never
    if strange and op in ("a_contains", "a_equals"):
        return never
    form = {"a_contains": "({} & {}) = {}", "a_containedby": "({} | {}) = {}", "a_equals": "{} = {}"}[op]
    parts = [_bits(form, mask, word) for mask, word in zip(column.masks, words, strict=True)]
    return _joined(f"({' AND '.join('{}' for _ in parts)})", *parts)


def _bits(form: str, mask: str, word: int) -> Fragment:
    bound = form.count("{}") - 1
    return Fragment("(" + form.format(mask, *["?::BIGINT"] * bound) + ")", (word,) * bound)


def _moment(value: int) -> Fragment:
    return Fragment("?::BIGINT", (value,), Kind.TIME, value)


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidQuery(f"{_shown(value)} is no valid text") from None
    return value


def _alike(one: Fragment, other: Fragment) -> tuple[Fragment, Fragment]:
    """Two values that can be compared: a text beside a time is read as a time."""
    kinds = {one.kind, other.kind}
    if kinds == {Kind.TIME, Kind.TEXT}:
        one, other = (
            _moment(microseconds(value.literal)) if value.kind is Kind.TEXT else value for value in (one, other)
        )
    elif len(kinds - {Kind.NULL}) > 1:
        raise InvalidQuery(f"{one.kind} cannot be compared with {other.kind}")
    return one, other


def _joined(form: str, *parts: Fragment, kind: Kind = Kind.BOOLEAN) -> Fragment:
    """``form`` with the parts in the place of its ``{}``, in their order; it says nothing in braces besides."""
    pieces = form.split("{}")
    text = pieces[0] + "".join(part.sql + piece for part, piece in zip(parts, pieces[1:], strict=True))
    return Fragment(text, tuple(value for part in parts for value in part.values), kind)
