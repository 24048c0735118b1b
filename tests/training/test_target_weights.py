"""Targets count for less with their age, the same for any number of workers; without a half-life nothing changes."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from flows.recipe import load_recipe
from learning.trainable import Cursor
from training.data.histories import Batch, Plan, batches
from training.objectives.losses import Ranking
from training.objectives.next_code import NextCode, Origin, next_code, plan_of, weighted
from training.spec import GeneratorSpec, TrainSpec

SIZES = (5, 7)
CUTOFF = datetime(2026, 3, 1, tzinfo=UTC)
SHAPE = GeneratorSpec(
    dim=16, heads=2, kv_heads=2, layers=1, ff=16, max_events=4, constrained=False, prefix_buckets=0, dropout=0.0
)
AGES = {"e0": 40.0, "e1": 20.0, "e2": 10.0, "e3": 0.0, "e4": 30.0, "e5": -5.0}
"""Days before the cutoff; an event after it counts as one at it."""


def table() -> pa.Table:
    rows = len(AGES)
    times = [CUTOFF - timedelta(days=age) for age in AGES.values()]
    return pa.table(
        {
            "user_id": pa.array(["a"] * 4 + ["b"] * 2),
            "event_id": pa.array(list(AGES)),
            "event_time": pa.array(times, pa.timestamp("us", tz="UTC")),
            "event_type": pa.array(["click"] * rows),
            "impression": pa.array([False] * rows),
            "codes": pa.array([[each % 5, each] for each in range(rows)], pa.list_(pa.int32())),
        }
    )


def plan(half_life_days: float | None = 10.0) -> Plan:
    return weighted(plan_of("r-1", 1, SIZES, SHAPE, TrainSpec(batch_size=2)), half_life_days, CUTOFF)


def read(which: Plan, world: int) -> list[list[Batch]]:
    return [
        [batch for batch, _ in batches(which, lambda _: table(), rank, world, Cursor(which.hash))]
        for rank in range(world)
    ]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_target_counts_for_half_with_each_half_life_before_the_cutoff(world: int) -> None:
    ranks = read(plan(), world)
    found = dict[str, float]()
    for rank in ranks:
        for batch in rank:
            assert batch.weights is not None
            found |= zip(batch.event_ids.to_pylist(), batch.weights.tolist(), strict=True)
    assert found == pytest.approx({event: 0.5 ** (max(0.0, age) / 10) for event, age in AGES.items()})
    for shares in zip(*ranks, strict=True):
        (counted,) = {share.step_targets for share in shares}
        assert counted == pytest.approx(sum(float(share.weights.sum()) for share in shares))


def trainable(which: Plan, objective: Any = next_code) -> NextCode:
    return NextCode(SHAPE, which, lambda _: table(), Origin("v", "r-1", "r"), objective=objective)


@pytest.mark.parametrize("objective", [next_code, Ranking(0.5)], ids=["next_code", "ranking"])
def test_the_loss_is_the_weighted_mean_of_that_of_each_target(objective: Any) -> None:
    training = trainable(plan(), objective)
    for batch in read(plan(), 1)[0]:
        assert batch.weights is not None
        expected = 0.0
        for weight, place in zip(batch.weights.tolist(), torch.nonzero(batch.targets).tolist(), strict=True):
            alone = torch.zeros_like(batch.targets)
            alone[tuple(place)] = True
            codes = batch.events.codes[alone]
            expected += weight * objective(training.generator(batch.events, alone, None), codes).item()
        share, sums = training.loss(training.module, batch)
        assert share.item() == pytest.approx(expected / (batch.step_targets * len(SIZES)), rel=1e-4)
        assert sums["loss"].item() / sums["targets"].item() == pytest.approx(share.item(), rel=1e-4)


def test_a_step_of_very_old_targets_keeps_its_mean() -> None:
    old = plan(half_life_days=0.05)
    training = trainable(old)
    for batch in read(old, 1)[0]:
        share, _ = training.loss(training.module, batch)
        assert np.log(5) / 2 < share.item() < 10


def test_without_a_half_life_nothing_is_weighted_and_no_hash_differs() -> None:
    plain = plan(None)
    assert plain == plan_of("r-1", 1, SIZES, SHAPE, TrainSpec(batch_size=2))
    assert Plan("r", 1, (4,), 8, 50).hash == "24776262f67b008b", "that of a plan before there were weights"
    assert plain.hash != plan().hash
    assert all(batch.weights is None for batch in read(plain, 1)[0])
    assert "half_life_days" not in load_recipe("default").train.model_dump()
    assert load_recipe("default", ["train.half_life_days=30"]).model_hash != load_recipe("default").model_hash


def test_a_half_life_is_refused_where_a_loss_is_no_sum_over_targets() -> None:
    with pytest.raises(ValidationError, match="half_life_days=30 is only for objective"):
        TrainSpec(objective="softmax_dpo", half_life_days=30)
