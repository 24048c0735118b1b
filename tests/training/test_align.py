"""Item alignment: codes learn what items are, the same for any number of workers, and a generator starts with them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from learning.checkpoint import CheckpointRecord, State
from learning.errors import CheckpointMismatch
from learning.loop import Loop
from learning.optimizer import adamw
from learning.trainable import Cursor
from training.data.histories import Plan
from training.objectives.code_pretraining import CodePretraining, pretrained
from training.objectives.next_code import NextCode, Origin
from training.spec import GeneratorSpec, TrainSpec

SIZES = (6, 5)
SPEC = GeneratorSpec(constrained=False, dim=16, layers=1, heads=2, kv_heads=1, ff=16, dropout=0.0, prefix_buckets=100)


def items(seed: int = 0) -> CodePretraining:
    """The vector of an item is the sum of one of its first code and half of one of its second."""
    draw = np.random.default_rng(seed)
    codes = np.stack(np.unravel_index(np.arange(30), SIZES), axis=1).astype(np.int32)
    first, second = draw.standard_normal((6, 12)), draw.standard_normal((5, 12))
    vectors = (first[codes[:, 0]] + 0.5 * second[codes[:, 1]]).astype(np.float32)
    return CodePretraining(SPEC, SIZES, codes, vectors, batch_size=12)


def test_codes_learn_which_item_is_meant_and_nothing_else_changes(tmp_path: Path) -> None:
    training = items()
    spec = TrainSpec(epochs=120, learning_rate=1e-2, warmup_steps=10, weight_decay=0.0)
    loop = Loop(training, spec)
    loop.run(lambda _, __: None)
    history = [row["loss"] for row in loop.progress.history]
    assert history[-1] < 0.3 * history[0]

    state = State.of(training.module, adamw(training.module, 0.1, 0.0))
    state.write(tmp_path, CheckpointRecord(training.identity, Cursor("", 0), 1, []))
    start = pretrained(tmp_path)
    plan = Plan("r-1", buckets=1, sizes=SIZES, batch_size=4, max_events=8)
    made = NextCode(SPEC, plan, lambda _: None, Origin("v", "r-1", "r"), start=start)
    fresh = NextCode(SPEC, plan, lambda _: None, Origin("v", "r-1", "r"))
    assert made.identity["start"] != fresh.identity["start"]
    for name, weight in made.generator.state_dict().items():
        same = torch.equal(weight, fresh.generator.state_dict()[name])
        assert same == (name.split(".")[0] not in ("codes", "heads", "prefixes"))
        assert name not in start or torch.equal(weight, torch.from_numpy(start[name]))


@pytest.mark.parametrize("world", [2, 5])
def test_shares_of_workers_add_up_to_the_loss_of_one(world: int) -> None:
    training = items()
    alone = list(training.batches(0, 1, Cursor(training.plan_hash)))
    shares = [list(training.batches(rank, world, Cursor(training.plan_hash))) for rank in range(world)]
    for step, (whole, cursor) in enumerate(alone):
        assert {each[step][1] for each in shares} == {cursor}
        losses = [training.loss(training.module, each[step][0]) for each in shares]
        expected, sums = training.loss(training.module, whole)
        torch.testing.assert_close(sum(share for share, _ in losses), expected, atol=1e-4, rtol=1e-5)
        assert sum(each["targets"] for _, each in losses) == sums["targets"]


def test_weights_of_another_shape_of_model_are_refused() -> None:
    plan = Plan("r-1", buckets=1, sizes=SIZES, batch_size=4, max_events=8)
    with pytest.raises(CheckpointMismatch, match=r"contain blocks\.7\.norm, which this model does not have"):
        NextCode(SPEC, plan, lambda _: None, Origin("v", "r-1", "r"), start={"blocks.7.norm": np.zeros(3, np.float32)})
