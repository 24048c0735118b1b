"""The speed of a stage and the time that is left, as they are shown."""

import random

import pytest

from flows.runtime.pace import Pace
from flows.runtime.progress import duration


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("there", [0, 5_000])
@pytest.mark.parametrize("start_up", [0.0, 40.0])
@pytest.mark.parametrize("rows_a_second", [8.0, 200.0, 50_000.0])
def test_after_a_tenth_the_time_left_is_within_a_factor_of_two(
    there: int, start_up: float, rows_a_second: float
) -> None:
    """Workers start for a while, and batches take a third more or less than on average."""
    draw, clock, batch = random.Random(0), Clock(), 256
    total = there + 100 * batch
    pace = Pace(total, clock)
    if there:
        pace.advance(there)
    clock.now += start_up
    ends, steps = [], [batch / rows_a_second * draw.uniform(0.67, 1.33) for _ in range(100)]
    for step in steps:
        clock.now += step
        pace.advance(batch)
        ends.append((pace.left_s, clock.now))
    for left, now in ends[10:-1]:
        assert left is not None
        assert (clock.now - now) / 2 <= left <= 2 * (clock.now - now) + 1e-9
    assert ends[-1][0] == 0.0
    assert pace.done == total


def test_a_stage_that_slows_down_is_seen_to() -> None:
    clock = Clock()
    pace = Pace(1_000, clock)
    for step in [1.0] * 100 + [4.0] * 400:
        clock.now += step
        pace.advance(1)
    assert pace.left_s == pytest.approx(500 * 4.0, rel=0.01)


def test_nothing_is_said_before_it_is_known_and_rows_that_are_taken_back_do_not_count() -> None:
    clock = Clock()
    pace = Pace(100, clock)
    assert (pace.speed, pace.left_s) == (None, None)
    for rows in (10, 10):
        clock.now += 1
        pace.advance(rows)
    assert pace.left_s is None
    clock.now += 1
    pace.advance(-20)
    assert (pace.done, pace.speed, pace.left_s) == (0, None, None)
    assert Pace(None).left_s is None


def test_reports_are_bounded() -> None:
    clock = Clock()
    pace = Pace(10**6, clock)
    for _ in range(50_000):
        clock.now += 0.01
        pace.advance(1)
    assert len(pace._reports) <= 1_001
    assert pace.speed == pytest.approx(100, rel=0.01)


def test_a_duration_is_said_in_units_that_people_use() -> None:
    assert [duration(seconds) for seconds in (0.4, 89, 90, 3000, 5400, 40_000)] == [
        *("0 s", "89 s", "2 min", "50 min", "1.5 h", "11.1 h")
    ]
