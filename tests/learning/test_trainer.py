"""Whatever is trained here takes the same steps: those of a plain loop, written out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from learning.errors import LossDiverged
from learning.optimizer import adamw, learning_rate, take_step
from learning.spec import LoopSpec
from learning.trainable import Cursor
from learning.trainer import train_in_process
from pipelines.fusion.training import FusionTraining
from pipelines.spec import FusionSpec
from tokenizer.arrays.items import tie_keys
from tokenizer.arrays.vectors import ArrayRows, Items
from tokenizer.quantizers.vae.trainable import VaeTrainable
from tokenizer.quantizers.vae.training import VaeInputs
from tokenizer.spec import CodebookSpec
from training.sasrec.sasrec import SasRecTrainable
from training.spec import SasRecSpec

Made = tuple[Any, LoopSpec]


def vae() -> Made:
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(60, 8)).astype(np.float32)
    settings = {"hidden": (8,), "latent": 4, "epochs": 3, "steps": 4, "batch_size": 16}
    spec = CodebookSpec.model_validate({"quantizer": "rq-vae", "levels": [{"codes": 4}] * 2, "vae": settings})
    items = Items({"fused": ArrayRows(vectors)}, tie_keys([f"i{row}" for row in range(60)]))
    trainable = VaeTrainable(VaeInputs(spec, items, vectors.mean(axis=0), vectors.std(axis=0)))
    return trainable, trainable.loop


def fusion() -> Made:
    draw = np.random.default_rng(1)

    def matrix(width: int) -> NDArray[np.float32]:
        return draw.normal(size=(40, width)).astype(np.float32)

    spec = FusionSpec(dim=6, hidden=8, epochs=3, steps=4, batch_size=10)
    start = {}
    for name, width in (("image", 5), ("text", 7)):
        start[f"linear.{name}.weight"] = draw.normal(size=(6, width)).astype(np.float32)
        start[f"linear.{name}.bias"] = np.zeros(6, np.float32)
    there = {"image": draw.random(40) < 0.7, "text": np.ones(40, np.bool_)}
    trainable = FusionTraining(
        spec, {"image": matrix(5), "text": matrix(7)}, there, draw.integers(40, size=(99, 2)), start
    )
    return trainable, trainable.loop


def sasrec() -> Made:
    draw = np.random.default_rng(2)
    spec = SasRecSpec(dim=8, heads=2, ff=8, epochs=3, batch_size=8, max_events=6, warmup_steps=3, dropout=0.0)
    histories = [draw.integers(20, size=length) for length in draw.integers(1, 9, size=30)]
    return SasRecTrainable(spec, 20, histories), spec.loop()


@pytest.mark.parametrize("make", [vae, fusion, sasrec])
def test_a_training_takes_the_steps_of_a_plain_loop(make: Callable[[], Made]) -> None:
    trainable, spec = make()
    told = train_in_process(trainable, spec, "twin")

    twin, _ = make()
    module, optimizer, step, losses = twin.module, adamw(twin.module, spec.learning_rate, spec.weight_decay), 0, []
    for epoch in range(spec.epochs):
        module.train()
        loss = targets = 0.0
        for batch, _ in twin.batches(0, 1, Cursor(twin.plan_hash, epoch)):
            share, sums = twin.loss(module, batch)
            take_step(module, optimizer, share, learning_rate(spec.learning_rate, spec.warmup_steps, step))
            loss, targets, step = loss + float(sums["loss"]), targets + float(sums["targets"]), step + 1
        losses.append(loss / targets)
    assert told == losses
    assert len(set(losses)) == spec.epochs
    for name, weight in module.state_dict().items():
        torch.testing.assert_close(trainable.module.state_dict()[name], weight, rtol=0, atol=0)


@pytest.mark.parametrize("make", [vae, fusion, sasrec])
def test_the_random_state_of_the_caller_stays_and_the_module_is_ready_to_be_used(make: Callable[[], Made]) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    trainable, spec = make()
    train_in_process(trainable, spec, "state")
    assert torch.equal(torch.rand(1), wanted)
    assert not trainable.module.training
    assert {weight.device.type for weight in trainable.module.parameters()} == {"cpu"}


def test_a_training_ends_early_where_it_is_told_to() -> None:
    trainable, spec = fusion()
    rows: list[dict[str, float]] = []

    def stop(row: dict[str, float]) -> bool:
        rows.append(row)
        return len(rows) == 2

    assert train_in_process(trainable, spec, "early", stop) == [row["loss"] for row in rows]
    assert [row["epoch"] for row in rows] == [0, 1]


def test_a_rate_that_leaves_the_range_of_float32_is_a_divergence() -> None:
    trainable, spec = sasrec()
    before = {name: weight.clone() for name, weight in trainable.module.state_dict().items()}
    with pytest.raises(LossDiverged, match="Lower the learning rate"):
        train_in_process(trainable, spec.model_copy(update={"learning_rate": 3e38, "warmup_steps": 1}), "wild")
    torch.testing.assert_close(trainable.module.state_dict(), before, rtol=0, atol=0)
