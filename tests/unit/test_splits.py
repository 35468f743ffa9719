from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landpatch.catalog.splits import Split, split_by_position, splits_by_position

positions = st.integers(0, 90)


def test_a_full_tile_is_split_as_published() -> None:
    ys, xs = np.divmod(np.arange(8281), 91)
    assert Counter(splits_by_position(xs, ys)) == {"train": 4056, "validation": 2109, "test": 2116}


@pytest.mark.parametrize(
    ("x", "y", "split"),
    [
        (0, 0, "train"),
        (12, 45, "train"),
        (13, 45, "validation"),
        (22, 45, "validation"),
        (23, 45, "test"),
        (26, 57, "test"),  # the published patch ..._T33UUP_26_57
        (68, 68, "test"),
        (69, 45, "validation"),
        (77, 77, "validation"),
        (78, 45, "train"),
        (45, 90, "train"),
    ],
)
def test_splits_change_where_the_rule_says(x: int, y: int, split: str) -> None:
    assert split_by_position(x, y) == split
    assert split_by_position(y, x) == split


@given(st.lists(st.tuples(positions, positions)))
def test_many_positions_are_split_as_one_is(points: list[tuple[int, int]]) -> None:
    xs = np.array([x for x, _ in points], np.int16)
    ys = np.array([y for _, y in points], np.int16)
    assert splits_by_position(xs, ys) == [split_by_position(x, y) for x, y in points]


def test_test_and_train_lie_twelve_kilometres_apart() -> None:
    """What the split is for. From any test patch it is ten patches, or 12 km, to the nearest train patch."""
    ys, xs = np.divmod(np.arange(8281), 91)
    splits = np.array(splits_by_position(xs, ys))
    places = {word: np.stack([xs, ys], axis=1)[splits == word].astype(np.int8) for word in ("test", "train")}
    apart = np.abs(places["test"][:, None] - places["train"][None]).max(axis=2)
    assert apart.min() == 10


def test_the_words_of_the_dataset_and_of_stac() -> None:
    assert [str(split) for split in Split] == ["train", "validation", "test"]
    assert [split.ml_aoi for split in Split] == ["train", "validate", "test"]
