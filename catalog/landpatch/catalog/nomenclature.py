"""Land-cover codes and the classes that they belong to.

A nomenclature is a table: one row a code. It says which value of a label source becomes which code of the
reference map, and which class, if any, the code counts for. The one of BigEarthNet (CORINE Land Cover 2018 to 19
classes) ships with the package; any other is a CSV file with the same columns.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from landpatch.catalog.bands import read_table
from landpatch.catalog.errors import InvalidLabels

UNLABELLED = 999
"""What a reference map holds where no polygon lies (BigEarthNet v2.0)."""
NODATA = 0
NO_CLASS = 255
"""In ``Nomenclature.class_of_code``: the code has no class."""


@dataclass(frozen=True, slots=True)
class Code:
    """One row: ``code`` in reference maps (uint16), ``source`` value in the label source's code column,
    ``grid_code`` in classified rasters (None: none), ``name``, ``class_name`` ("" = none), ``original_index`` of
    the class in the nomenclature's own order, ``colour`` as red, green, blue.
    """

    code: int
    source: str
    grid_code: int | None
    name: str
    class_name: str
    original_index: int | None
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Nomenclature:
    """A table of codes. ``name`` identifies it in items (``clc2018-ben19``)."""

    name: str
    codes: tuple[Code, ...]
    classes: tuple[str, ...] = field(init=False)
    """Class names in lexicographic order: the order of ConfigILM and of the published weights."""

    def __post_init__(self) -> None:
        if not self.codes:
            raise InvalidLabels(f"nomenclature {self.name!r} has no codes")
        self._refuse_twice("source", [c.source for c in self.codes])
        self._refuse_twice("grid_code", [c.grid_code for c in self.codes if c.grid_code is not None])
        # Several source values may mean one code (OSM: farm and farmland), if they mean the same by it.
        meanings = {(c.code, c.name, c.class_name) for c in self.codes}
        self._refuse_twice("code", [code for code, _, _ in sorted(meanings)])
        for c in self.codes:
            if not 0 < c.code < 65536 or c.code == UNLABELLED:
                raise InvalidLabels(
                    f"nomenclature {self.name!r}: code {c.code} cannot be used; 1..65535 without {UNLABELLED} can"
                )
        classes = tuple(sorted({c.class_name for c in self.codes if c.class_name}))
        if len(classes) >= NO_CLASS:
            raise InvalidLabels(f"nomenclature {self.name!r} has {len(classes)} classes; 254 are possible")
        object.__setattr__(self, "classes", classes)

    def _refuse_twice(self, what: str, values: Sequence[object]) -> None:
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise InvalidLabels(f"nomenclature {self.name!r}: {what} {twice[0]!r} appears twice, with two meanings")

    @classmethod
    def from_csv(cls, text: str, name: str) -> Self:
        """From CSV text with the columns ``code, name, class`` and, where they apply, ``source`` (default: the
        code), ``grid_code``, ``original_index``, ``red, green, blue``. Lines starting with ``#`` are comments.

        Raises InvalidLabels, naming the line.
        """
        rows = read_table(text)
        missing = {"code", "name", "class"} - set(rows[0] if rows else ())
        if missing:
            raise InvalidLabels(f"nomenclature {name!r} lacks the column(s) {', '.join(sorted(missing))}")
        codes = []
        for number, row in enumerate(rows, 1):
            try:
                codes.append(
                    Code(
                        int(row["code"]),
                        (row.get("source") or row["code"]).strip(),
                        int(row["grid_code"]) if row.get("grid_code") else None,
                        row["name"].strip(),
                        (row["class"] or "").strip(),
                        int(row["original_index"]) if row.get("original_index") else None,
                        (int(row.get("red") or 0), int(row.get("green") or 0), int(row.get("blue") or 0)),
                    )
                )
            except (TypeError, ValueError, AttributeError) as error:
                raise InvalidLabels(f"nomenclature {name!r}, row {number}: {error}") from error
        return cls(name, tuple(codes))

    def to_document(self) -> dict[str, Any]:
        """As plain JSON values, for a collection; ``from_document`` gives an equal nomenclature back."""
        rows = [
            {
                "code": c.code,
                "source": c.source,
                "grid_code": c.grid_code,
                "name": c.name,
                "class": c.class_name,
                "original_index": c.original_index,
                "colour": list(c.colour),
            }
            for c in self.codes
        ]
        return {"name": self.name, "codes": rows}

    @classmethod
    def from_document(cls, document: Any) -> Self:
        """From what ``to_document`` gave. Raises InvalidLabels."""
        try:
            codes = tuple(
                Code(
                    row["code"],
                    row["source"],
                    row["grid_code"],
                    row["name"],
                    row["class"],
                    row["original_index"],
                    tuple(row["colour"]),
                )
                for row in document["codes"]
            )
            return cls(document["name"], codes)
        except (KeyError, TypeError) as error:
            raise InvalidLabels(f"not a nomenclature: {error!r}") from error

    def to_json(self) -> str:
        """As JSON text, for a file's metadata."""
        return json.dumps(self.to_document(), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """From what ``to_json`` wrote. Raises InvalidLabels."""
        try:
            return cls.from_document(json.loads(text))
        except json.JSONDecodeError as error:
            raise InvalidLabels(f"not a nomenclature: {error}") from error

    @property
    def class_of_code(self) -> NDArray[np.uint8]:
        """Lookup of shape (65536,), uint8: index into ``classes`` of each code, NO_CLASS where it has none."""
        table = np.full(65536, NO_CLASS, np.uint8)
        for c in self.codes:
            if c.class_name:
                table[c.code] = self.classes.index(c.class_name)
        return table

    @property
    def original_order(self) -> tuple[str, ...]:
        """Class names in the nomenclature's own order (TorchGeo's); lexicographic where the table gives none."""
        order: dict[str, int] = {
            c.class_name: c.original_index for c in self.codes if c.class_name and c.original_index is not None
        }
        if len(order) != len(self.classes):
            return self.classes
        return tuple(sorted(order, key=order.__getitem__))

    def labels_of(self, codes: Iterable[int]) -> list[str]:
        """The classes of these codes, sorted by name, each once. Codes without a class add nothing."""
        lookup = self.class_of_code
        return [self.classes[i] for i in sorted({int(lookup[code]) for code in codes} - {NO_CLASS})]


@cache
def clc2018() -> Nomenclature:
    """CORINE Land Cover 2018 and the 19 classes of BigEarthNet."""
    text = files("landpatch.catalog").joinpath("data/clc2018_ben19.csv").read_text("utf-8")
    return Nomenclature.from_csv(text, "clc2018-ben19")
