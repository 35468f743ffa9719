"""What blocks have cost and will cost, against sums done by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landpatch.catalog.errors import InvalidParameter
from landpatch.catalog.traffic import Traffic
from landpatch.functions.costs import cost, estimate, measured, prices
from landpatch.functions.jobs import Entry, State, Usage

SCENE = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"


def test_a_sum_done_by_hand() -> None:
    used = Usage(2, 60, 100, Traffic(reads=1000, writes=40000, lists=100, bytes_written=10**9))
    one = cost(used, 8000, "us-west-2")
    assert one.compute == pytest.approx(100 * 0.0000166667 + 2 * 0.0000002)
    assert one.requests == pytest.approx(40.1 * 0.005 + 1 * 0.0004 + 2 * 0.00005)
    assert one.storage == pytest.approx(0.023)
    assert one.a_patch == pytest.approx(one.total / 8000)


def test_on_this_machine_only_requests_cost() -> None:
    one = cost(Usage(1, 60, 0, Traffic(writes=1000)), 0)
    assert one.compute == 0
    assert one.requests == pytest.approx(0.0054)
    assert one.a_patch is None


def test_tiles_are_told_apart_and_attempts_add_up() -> None:
    used = Usage(1, 10, 20, Traffic(writes=10))
    entries = [
        Entry(SCENE, "rows-00-45", State.FAILED, kept=0, usage=used + used),
        Entry(SCENE, "rows-46-90", State.SUCCEEDED, kept=5, usage=used),
        Entry(SCENE.replace("33UUP", "33UVP"), "rows-00-90", State.SUCCEEDED, kept=7, usage=used),
    ]
    found = measured(entries)
    assert {tile: (one.usage.attempts, one.usage.gb_seconds, one.patches) for tile, one in found.items()} == {
        "33UUP": (3, 60, 5),
        "33UVP": (1, 20, 7),
    }


def test_an_unknown_region_is_named_with_the_known_ones() -> None:
    with pytest.raises(InvalidParameter, match="'mars-north-1', only for eu-central-1, us-west-2"):
        prices("mars-north-1")


def test_requests_are_the_bill_of_a_whole_tile() -> None:
    found = estimate(91, 1)
    assert 0.15 < found.cost.total < 0.35  # the project's performance notes: 0.21 of PUTs, 0.004 of compute
    assert found.cost.requests > 10 * found.cost.compute
    assert found.cost.patches == 8281
    assert "no block is tried twice" in found.assumptions[0]
    assert estimate(115 * 91, 115).cost.total == pytest.approx(115 * found.cost.total, rel=1e-3)


@given(st.integers(1, 91), st.integers(1, 200))
def test_what_was_measured_in_the_dataset_is_believed_first(rows: int, times: int) -> None:
    used = Usage(1, 5, 8, Traffic(reads=10, writes=1000, lists=3))
    entry = Entry(SCENE, f"rows-00-{rows - 1:02d}", State.SUCCEEDED, kept=200, usage=used)
    found = estimate(rows * times, times, [entry])
    assert found.cost.usage.gb_seconds == pytest.approx(8 * times)
    assert found.cost.usage.traffic.writes == 1000 * times
    assert found.cost.patches == 200 * times
    assert "1 block(s) that functions have done" in found.assumptions[0]
