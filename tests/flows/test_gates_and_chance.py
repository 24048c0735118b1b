"""Gates that compare shares measured on few events: chance alone blocks no release, and a real loss is blocked."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from flows.gates.release_gates import BEHAVIOUR_KEPT, EVENTS_WITHOUT_SID, MIN_EVENTS, Candidate
from pipelines.quality import clustered_error

CODES = 16
DRAWS = 300


@dataclass(frozen=True)
class Parent:
    """The part of a manifest that the gates below read."""

    metrics: dict[str, Any]


def measured(draw: np.random.Generator, lift: float, users: int) -> dict[str, Any]:
    """Metrics of a log in which items taken together share their first code `lift` times as often as chance has it.

    A user's pairs come in blocks that are alike, as those of one event and its neighbours are.
    """
    blocks = draw.poisson(6, users) + 1
    user = np.repeat(np.arange(users), 5 * blocks)
    own = np.repeat(draw.gamma(2.0, lift / CODES / 2, users), blocks)
    hits = np.repeat(draw.random(len(own)) < own, 5)
    return {
        "consumed_together_sharing": [float(hits.mean())],
        "consumed_together_error": clustered_error(hits, user),
        "consumed_together_pairs": len(hits),
        "random_pairs_sharing": [1 / CODES],
    }


def blocked(before: float, now: float, users: int) -> float:
    """Share of draws in which `behaviour_kept` blocks a release."""
    draw, count = np.random.default_rng(3), 0
    for _ in range(DRAWS):
        parent = Parent(measured(draw, before, users))
        found = BEHAVIOUR_KEPT.measure(Candidate(measured(draw, now, users), 200, parent))  # type: ignore[arg-type]
        count += found is not None and found[0] < BEHAVIOUR_KEPT.limit
    return count / DRAWS


@pytest.mark.parametrize("users", [20, 60, 500])
@pytest.mark.parametrize("lift", [1.0, 1.5, 3.0, 8.0])
def test_a_log_that_did_not_change_blocks_no_release_by_chance(lift: float, users: int) -> None:
    assert blocked(lift, lift, users) <= 0.01


def test_codes_that_no_longer_follow_behaviour_are_blocked() -> None:
    assert blocked(8.0, 1.0, 500) == 1.0
    assert blocked(8.0, 1.0, 60) >= 0.9
    assert blocked(4.0, 1.5, 500) >= 0.9


def test_the_error_of_a_share_is_that_of_drawing_other_users() -> None:
    draw = np.random.default_rng(5)
    sizes = draw.poisson(9, 300)
    user = np.repeat(np.arange(300), sizes)
    hits = draw.random(len(user)) < np.repeat(draw.random(300) ** 2, sizes)
    hit_sums, drawn = np.bincount(user, weights=hits, minlength=300), draw.integers(0, 300, (4_000, 300))
    resampled = hit_sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    assert clustered_error(hits, user) == pytest.approx(resampled.std(), rel=0.05)
    assert clustered_error(hits[:3], np.array([7, 7, 7])) is None


def test_few_new_events_without_a_sid_block_no_night() -> None:
    gate = EVENTS_WITHOUT_SID
    assert gate.measure(Candidate({"new_events": MIN_EVENTS - 1, "events_without_sid": 1.0}, 200, None)) is None
    found = gate.measure(Candidate({"new_events": MIN_EVENTS, "events_without_sid": 1.0}, 200, None))
    assert found is not None
    assert found[0] > gate.limit
