import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landpatch.catalog.errors import InvalidLabels
from landpatch.catalog.nomenclature import NO_CLASS, NODATA, UNLABELLED, Code, Nomenclature, clc2018

# arXiv:2407.03653, in the order of the nomenclature.
CLASSES = (
    "Urban fabric",
    "Industrial or commercial units",
    "Arable land",
    "Permanent crops",
    "Pastures",
    "Complex cultivation patterns",
    "Land principally occupied by agriculture, with significant areas of natural vegetation",
    "Agro-forestry areas",
    "Broad-leaved forest",
    "Coniferous forest",
    "Mixed forest",
    "Natural grassland and sparsely vegetated areas",
    "Moors, heathland and sclerophyllous vegetation",
    "Transitional woodland, shrub",
    "Beaches, dunes, sands",
    "Inland wetlands",
    "Coastal wetlands",
    "Inland waters",
    "Marine waters",
)

PEAT = """# a nomenclature with one code from two source values
code,source,name,class,red,green,blue
1,bog,Bog,Peat,10,20,30
2,fen,Fen,Peat,,,
3,farm,Farmland,Fields,0,255,0
3,farmland,Farmland,Fields,0,255,0
4,quarry,Quarry,,0,0,0
"""


def test_the_19_classes_in_both_orders() -> None:
    assert clc2018().original_order == CLASSES
    assert clc2018().classes == tuple(sorted(CLASSES))


def test_corine_has_44_codes_and_12_without_a_class() -> None:
    codes = clc2018().codes
    assert len(codes) == 44
    assert sum(not code.class_name for code in codes) == 12
    # CORINE's rasters number the codes from 1 in their own order.
    assert [code.grid_code for code in sorted(codes, key=lambda code: code.code)] == list(range(1, 45))
    assert all(code.source == str(code.code) for code in codes)


def test_corine_is_the_published_table(shared_data: Path) -> None:
    with (shared_data / "bigearthnet-v2/clc2018_to_ben19.csv").open(encoding="utf-8") as file:
        rows = {int(row["clc_code"]): row for row in csv.DictReader(file)}
    del rows[UNLABELLED]
    nomenclature = clc2018()
    assert [code.code for code in nomenclature.codes] == list(rows)
    for code in nomenclature.codes:
        row = rows[code.code]
        assert code.name == row["clc_name"]
        assert (code.class_name or "UNLABELED") == row["ben19_name"]
        assert code.colour == (int(row["r"]), int(row["g"]), int(row["b"]))
        if code.class_name:
            assert nomenclature.original_order.index(code.class_name) == float(row["idx_original_order"])
            assert nomenclature.class_of_code[code.code] == float(row["idx_lexicographic"])


def test_labels_are_sorted_and_named_once() -> None:
    # Two codes of one class, one code without a class, one that is no code, what no polygon covers, and nodata.
    assert clc2018().labels_of([523, 311, 213, 211, 124, 7, UNLABELLED, NODATA]) == [
        "Arable land",
        "Broad-leaved forest",
        "Marine waters",
    ]
    assert clc2018().labels_of([]) == []
    assert clc2018().labels_of([124]) == []


def test_the_lookup_knows_no_other_codes() -> None:
    table = clc2018().class_of_code
    assert (table.shape, table.dtype) == ((65536,), np.uint8)
    assert np.count_nonzero(table != NO_CLASS) == 44 - 12
    assert table[NODATA] == table[UNLABELLED] == NO_CLASS


def test_a_table_of_ones_own() -> None:
    peat = Nomenclature.from_csv(PEAT, "peat")
    assert peat.classes == ("Fields", "Peat")
    assert peat.original_order == peat.classes
    assert peat.codes[0] == Code(1, "bog", None, "Bog", "Peat", None, (10, 20, 30))
    assert peat.codes[1].colour == (0, 0, 0)
    assert [code.code for code in peat.codes] == [1, 2, 3, 3, 4]
    assert peat.labels_of([4, 3, 2, 1]) == ["Fields", "Peat"]


def test_a_table_needs_no_source_column() -> None:
    assert Nomenclature.from_csv("code,name,class\n7,Moss,Green\n", "moss").codes[0].source == "7"


def test_a_byte_order_mark_is_not_part_of_the_first_column() -> None:
    """Spreadsheets write one in front of a CSV file."""
    assert Nomenclature.from_csv("\ufeffcode,name,class\n7,Moss,Green\n", "moss").classes == ("Green",)


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20)
nomenclatures = st.builds(
    lambda name, rows: Nomenclature(
        name,
        tuple(Code(code, f"{number}{source}", None, *rest) for number, (code, source, *rest) in enumerate(rows)),
    ),
    texts,
    st.lists(
        st.tuples(
            st.integers(1, 65535).filter(lambda code: code != UNLABELLED),
            texts,
            texts,
            texts,
            st.none() | st.integers(0, 100),
            st.tuples(*[st.integers(0, 255)] * 3),
        ),
        min_size=1,
        max_size=20,
        unique_by=lambda row: row[0],
    ),
)


@given(nomenclatures)
def test_a_nomenclature_survives_json(nomenclature: Nomenclature) -> None:
    again = Nomenclature.from_document(json.loads(json.dumps(nomenclature.to_document())))
    assert again == nomenclature
    assert again.classes == nomenclature.classes


@given(nomenclatures)
def test_lookup_and_labels_agree_with_the_table(nomenclature: Nomenclature) -> None:
    for code in nomenclature.codes:
        wanted = [code.class_name] if code.class_name else []
        assert nomenclature.labels_of([code.code]) == wanted
        index = nomenclature.class_of_code[code.code]
        assert (nomenclature.classes[index] if index != NO_CLASS else "") == code.class_name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "lacks the column.*class, code, name"),
        ("# nothing but a remark\n", "lacks the column"),
        ("code,name\n1,Bog\n", "lacks the column.*class"),
        ("code,name,class\n1,Bog,Peat\nx,Fen,Peat\n", "row 2.*'x'"),
        ("code,name,class\n1\n", "row 1"),
        ("code,name,class,red\n1,Bog,Peat,dark\n", "row 1.*'dark'"),
        ("code,source,name,class\n1,a,Bog,Peat\n1,b,Fen,Peat\n", "code 1 .*twice"),
        ("code,source,name,class\n1,a,Bog,Peat\n1,b,Bog,Wetland\n", "code 1 .*twice"),
        ("code,source,name,class\n1,a,Bog,Peat\n2,a,Fen,Peat\n", "source 'a'.*twice"),
        ("code,grid_code,name,class\n1,5,Bog,Peat\n2,5,Fen,Peat\n", "grid_code 5.*twice"),
        ("code,name,class\n0,Bog,Peat\n", "code 0 cannot be used"),
        ("code,name,class\n-1,Bog,Peat\n", "code -1 cannot be used"),
        ("code,name,class\n65536,Bog,Peat\n", "code 65536 cannot be used"),
        ("code,name,class\n999,Bog,Peat\n", "code 999 cannot be used"),
        ("code,name,class\n" + "".join(f"{n},n{n},c{n}\n" for n in range(1, 256)), "255 classes; 254"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidLabels, match=says) as error:
        Nomenclature.from_csv(text, "peat")
    assert "'peat'" in str(error.value)


def test_as_many_classes_as_a_byte_can_tell_apart() -> None:
    text = "code,name,class\n" + "".join(f"{n},n{n},c{n}\n" for n in range(1, 255))
    assert len(Nomenclature.from_csv(text, "many").classes) == 254


@pytest.mark.parametrize(
    "document",
    [None, [], {}, "peat", {"name": "peat"}, {"name": "peat", "codes": [{}]}, {"name": "peat", "codes": []}],
)
def test_what_is_no_nomenclature_is_refused(document: object) -> None:
    with pytest.raises(InvalidLabels, match="nomenclature"):
        Nomenclature.from_document(document)
