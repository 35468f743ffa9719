from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from landpatch.functions.quality import Reason, SceneClassification, classify, official_flags, reasons

# Sentinel-2 products specification: 3 cloud shadow; 8, 9 cloud of medium, high probability, 10 cirrus; 11 snow.
SNOW, CLOUD, SHADOW = [11], [8, 9, 10], [3]


def share(patch: np.ndarray, classes: list[int]) -> float:
    return float(np.isin(patch, classes).sum()) / patch.size


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(0, 2**32 - 1), st.lists(st.integers(0, 255), min_size=1, max_size=12))
def test_fractions_are_those_that_numpy_counts(rows: int, seed: int, classes: list[int]) -> None:
    scl = np.random.default_rng(seed).choice(np.array(classes, np.uint8), (rows * 60, 91 * 60))
    found = classify(scl)
    for y in range(rows):
        for x in (0, 45, 90):
            patch = scl[60 * y : 60 * (y + 1), 60 * x : 60 * (x + 1)]
            assert found.snow[y, x] == share(patch, SNOW)
            assert found.cloud[y, x] == share(patch, CLOUD)
            assert found.shadow[y, x] == share(patch, SHADOW)
    assert found.snow.shape == found.cloud.shape == found.shadow.shape == (rows, 91)


@pytest.mark.parametrize("value", range(13))
def test_every_class_counts_for_one_thing_at_most(value: int) -> None:
    found = classify(np.full((60, 91 * 60), value, np.uint8))
    expected = (float(value in SNOW), float(value in CLOUD), float(value in SHADOW))
    assert {(s, c, h) for s, c, h in zip(found.snow[0], found.cloud[0], found.shadow[0], strict=True)} == {expected}


def test_one_pixel_counts_in_its_patch_alone() -> None:
    scl = np.full((2 * 60, 91 * 60), 4, np.uint8)
    scl[59, 59], scl[60, 60], scl[119, 5459] = 11, 9, 3
    found = classify(scl)
    assert {tuple(place) for place in np.argwhere(found.snow)} == {(0, 0)}
    assert {tuple(place) for place in np.argwhere(found.cloud)} == {(1, 1)}
    assert {tuple(place) for place in np.argwhere(found.shadow)} == {(1, 90)}
    assert found.snow[0, 0] == found.cloud[1, 1] == found.shadow[1, 90] == 1 / 3600


def test_a_part_of_a_larger_array_is_counted_the_same() -> None:
    scl = np.random.default_rng(1).integers(0, 12, (180, 91 * 60 + 7)).astype(np.uint8)
    part = scl[60:120, 3 : 3 + 91 * 60]
    assert not part.flags.c_contiguous
    np.testing.assert_array_equal(classify(part).cloud, classify(part.copy()).cloud)


# --- flags -------------------------------------------------------------------------------------------------------

# In steps of 1/64, so that sums are exact.
fractions = arrays(np.float64, (2, 5), elements=st.integers(0, 64).map(lambda n: n / 64))
limits = st.integers(0, 64).map(lambda n: n / 64)


@given(fractions, fractions, fractions, limits, limits)
def test_flags_stand_from_their_limit_on_and_never_both(
    snow: np.ndarray, cloud: np.ndarray, shadow: np.ndarray, snow_from: float, cloud_from: float
) -> None:
    snowy, cloudy = official_flags(SceneClassification(snow, cloud, shadow), (2, 5), snow_from, cloud_from)
    for place in np.ndindex(2, 5):
        is_snowy, is_cloudy = snow[place] >= snow_from, cloud[place] + shadow[place] >= cloud_from
        if is_snowy and is_cloudy:
            wins = snow[place] >= cloud[place] + shadow[place]
            is_snowy, is_cloudy = wins, not wins
        assert (bool(snowy[place]), bool(cloudy[place])) == (bool(is_snowy), bool(is_cloudy))
        assert not (snowy[place] and cloudy[place])


def test_cloud_and_shadow_count_together() -> None:
    half = np.full((1, 1), 0.03)
    none = np.zeros((1, 1))
    assert official_flags(SceneClassification(none, half, half), (1, 1), 0.05, 0.05)[1].all()
    assert not official_flags(SceneClassification(none, half, none), (1, 1), 0.05, 0.05)[1].any()


def test_without_a_classification_there_are_no_flags() -> None:
    for flags in official_flags(None, (3, 91), 0.0, 0.0):
        assert flags.shape == (3, 91)
        assert flags.dtype == bool
        assert not flags.any()


# --- reasons -----------------------------------------------------------------------------------------------------

ORDER = ["QUALITY", "NODATA", "UNLABELLED", "CLOUD", "SNOW", "NO_S1"]


def test_the_order_of_reasons() -> None:
    assert [reason.value for reason in Reason] == ORDER


@given(
    st.dictionaries(st.sampled_from(Reason), arrays(np.bool_, (2, 7)), min_size=1), st.randoms(use_true_random=False)
)
def test_a_patch_is_counted_under_the_first_reason_that_holds(holds: dict[Reason, np.ndarray], random: Any) -> None:
    shuffled = list(holds.items())
    random.shuffle(shuffled)
    found = reasons(dict(shuffled))
    for place in np.ndindex(2, 7):
        expected = next((name for name in ORDER if name in holds and holds[Reason(name)][place]), None)
        assert found[place] == expected
        assert isinstance(found[place], Reason) or found[place] is None


def test_quality_comes_first() -> None:
    every = {reason: np.ones((1, 91), bool) for reason in Reason}
    for name in ORDER:
        assert (reasons(every) == name).all()
        del every[Reason(name)]
        if not every:
            break
