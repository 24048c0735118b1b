"""Two recommenders on the same cases: the difference, its interval, and when they are told apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.comparison import MIN_DIFFERENT, versus

ranks = st.lists(st.tuples(st.integers(-1, 12), st.integers(-1, 12)), min_size=1, max_size=60)


@given(ranks, st.integers(1, 10))
def test_the_difference_is_that_of_a_plain_loop_and_turns_round_with_the_two(
    drawn: list[tuple[int, int]], k: int
) -> None:
    ours, theirs = (np.array(each) for each in zip(*drawn, strict=True))
    found, turned = versus(ours, theirs, k, draws=500), versus(theirs, ours, k, draws=500)
    won = sum(0 <= a < k and not 0 <= b < k for a, b in drawn)
    lost = sum(0 <= b < k and not 0 <= a < k for a, b in drawn)
    assert (found.won, found.lost) == (won, lost) == (turned.lost, turned.won)
    assert found.difference == pytest.approx((won - lost) / len(drawn))
    assert found.difference == pytest.approx(-turned.difference)
    low, high = found.interval
    assert low - 0.1 <= found.difference <= high + 0.1
    assert found == versus(ours, theirs, k, draws=500), "the same cases give the same interval"
    if found.verdict != "not told apart":
        assert won + lost >= MIN_DIFFERENT
        assert (found.verdict == "beats") == (won > lost)


def test_the_interval_is_that_of_resampled_pairs() -> None:
    generator = np.random.default_rng(0)
    ours, theirs = generator.integers(-1, 20, 300), generator.integers(-1, 30, 300)
    difference = ((ours >= 0) & (ours < 10)).astype(int) - ((theirs >= 0) & (theirs < 10))
    drawn = [difference[generator.integers(0, 300, 300)].mean() for _ in range(4000)]
    assert versus(ours, theirs, 10).interval == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist(), abs=0.01)


@given(st.integers(1, MIN_DIFFERENT - 1), st.integers(0, 5000))
def test_few_cases_that_differ_tell_nothing_whatever_their_side(different: int, alike: int) -> None:
    ours = np.full(different + alike, -1)
    theirs = np.concatenate([np.zeros(different, int), np.full(alike, -1)])
    assert versus(ours, theirs, 10, draws=200).verdict == "not told apart"


def test_a_model_far_behind_is_worse_and_one_far_ahead_beats_and_one_case_in_a_hundred_is_neither() -> None:
    cases = np.arange(2000)
    popular = np.where(cases % 100 < 6, 0, -1)
    behind = np.where(cases % 100 < 4, 0, -1)
    assert versus(behind, popular, 10).verdict == "is worse"
    assert versus(popular, behind, 10).verdict == "beats"
    shifted = np.where((cases + 50) % 100 < 6, 0, -1)
    assert versus(shifted, popular, 10).verdict == "not told apart"


def pairs(cases: int, won: int, lost: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of two recommenders: each hits so many cases that the other misses."""
    case = np.arange(cases)
    return np.where(case < won, 0, -1), np.where((case >= won) & (case < won + lost), 0, -1)


def test_six_cases_on_one_side_can_tell_two_apart_and_five_cannot() -> None:
    """Chance puts five of five on one side more often than one time in twenty."""
    assert versus(*pairs(20, 6, 0), 10).verdict == "beats"
    assert versus(*pairs(20, 0, 6), 10).verdict == "is worse"
    assert versus(*pairs(5, 5, 0), 10).verdict == "not told apart"


def test_an_interval_that_ends_at_0_tells_nothing() -> None:
    for won, lost, end in ((6, 1, 0), (1, 6, 1)):
        found = versus(*pairs(20, won, lost), 10)
        assert found.interval[end] == 0
        assert found.verdict == "not told apart"
