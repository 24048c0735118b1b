"""The training loop in one process: a training that is stopped anywhere ends as one that is not."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learning import checkpoint
from learning.errors import CheckpointMismatch, LossDiverged
from learning.loop import Loop, Save
from learning.prefetcher import Prefetcher
from learning.trainable import Cursor
from training.data.histories import Batch, Plan
from training.objectives.next_code import NextCode, Origin
from training.spec import GeneratorSpec, TrainSpec

SPEC = GeneratorSpec(
    constrained=False, dim=16, layers=1, heads=2, kv_heads=1, ff=16, prefix_buckets=64, dropout=0.3, max_events=6
)
PLAN = Plan("r-1", buckets=2, sizes=(4, 4), batch_size=8, max_events=6)
TRAIN = TrainSpec(workers=1, epochs=2, warmup_steps=5, schedule="cosine", checkpoint_steps=1)


def read(bucket: int) -> pa.Table:
    users, events = 12, 9
    item = (np.arange(users)[:, None] * 3 + np.arange(events)[None, :]).reshape(-1) % 16
    return pa.table(
        {
            "user_id": np.repeat([f"u{bucket}-{user:02d}" for user in range(users)], events),
            "event_id": [f"e{bucket}-{row}" for row in range(len(item))],
            "event_time": pa.array(np.tile(np.arange(events), users)).cast(pa.timestamp("us")),
            "event_type": ["click"] * len(item),
            "impression": pa.array([None] * len(item), pa.bool_()),
            "codes": pa.array(np.stack([item // 4, item % 4], axis=1).tolist(), pa.list_(pa.int32())),
        }
    )


class Told(NextCode):
    """Remembers loss and events of every step."""

    def __init__(self, spec: GeneratorSpec = SPEC) -> None:
        super().__init__(spec, PLAN, read, Origin("v", "r-1", "recipe"))
        self.steps: list[tuple[float, list[str]]] = []

    def loss(self, module: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        share, sums = super().loss(module, batch)
        self.steps.append((share.item(), batch.event_ids.to_pylist()))
        return share, sums


class Stop(Exception):
    """The process dies here."""


def save_to(folder: Path, die_after: int | None = None) -> Save:
    def save(loop: Loop, last: bool) -> None:
        progress = loop.progress
        record = checkpoint.CheckpointRecord(
            loop.trainable.identity,
            progress.cursor,
            progress.step,
            progress.history,
            partial_epoch_sums=progress.partial_epoch_sums,
        )
        checkpoint.State.of(loop.trainable.module, loop.optimizer).write(folder, record)
        if progress.step == die_after:
            raise Stop

    return save


@settings(max_examples=4, deadline=None)
@given(stops=st.lists(st.integers(1, 15), min_size=1, max_size=3, unique=True))
def test_a_training_killed_at_any_steps_is_bit_for_bit_that_of_one_that_is_not(
    tmp_path_factory: pytest.TempPathFactory, stops: list[int]
) -> None:
    whole = Loop(Told(), TRAIN)
    whole.run(lambda _, __: None)
    folder, steps = tmp_path_factory.mktemp("run"), []
    for stop in [*sorted(stops), None]:
        loop = Loop(Told(), TRAIN)
        if steps:
            loop.load(folder)
        with suppress(Stop):  # the next loop goes on
            loop.run(save_to(folder, stop))
        steps += loop.trainable.steps
    assert steps == whole.trainable.steps
    for one, other in zip(whole.module.parameters(), loop.module.parameters(), strict=True):
        assert torch.equal(one, other)
    events = Counter(event for _, ids in steps for event in ids)
    assert events == Counter({event: 2 for bucket in (0, 1) for event in read(bucket)["event_id"].to_pylist()})
    timed = {"seconds", "tokens_per_s", "data_wait"}
    rows = [
        [{k: v for k, v in row.items() if k not in timed} for row in each.progress.history] for each in (whole, loop)
    ]
    assert rows[0] == rows[1]


def test_a_cosine_falls_to_nothing_and_a_root_does_not_look_at_the_epochs() -> None:
    loop = Loop(Told(), TRAIN)
    rates = []
    loop.run(lambda each, _: rates.append(each._rate()))
    assert rates[4] == pytest.approx(TRAIN.learning_rate)
    assert rates[-1] == pytest.approx(0, abs=1e-9)
    assert all(a >= b for a, b in pairwise(rates[7:]))


@pytest.mark.parametrize("finite", [True, False])
def test_a_step_with_a_gradient_that_is_no_number_is_not_taken(finite: bool) -> None:
    class Bad(Told):
        """The fourth step has such a gradient, of a loss that is a number or is none."""

        def loss(self, module: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            share, sums = super().loss(module, batch)
            if len(self.steps) == 4:
                self.before = {name: weight.clone() for name, weight in module.state_dict().items()}
                steep = (0 * self.generator.start).sum().sqrt()  # 0, and its slope is infinite times 0
                bad = steep if finite else share.detach() * torch.inf
                share, sums = share + bad, {**sums, "loss": sums["loss"] + bad.detach()}
            return share, sums

    loop, saved = Loop(Bad(), TRAIN), []
    loss, gradient = (r"\d\.\d+", ", and its gradient is not finite .*") if finite else ("inf", "")
    what = rf"the loss is {loss} in a step that predicts \d+ events \(e\d-.*\){gradient}\. The step was not taken"
    with pytest.raises(LossDiverged, match=what) as caught:
        loop.run(lambda each, _: saved.append(each.progress.step))
    assert caught.value.event_ids == loop.trainable.steps[-1][1]
    assert saved == [1, 2, 3]
    assert all(torch.equal(weight, loop.trainable.before[name]) for name, weight in loop.module.state_dict().items())


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        Loop(Told(), TRAIN).run(save_to(tmp_path, 1))
    with pytest.raises(CheckpointMismatch, match="from the beginning"):
        Loop(Told(SPEC.model_copy(update={"dim": 32})), TRAIN).load(tmp_path)


def test_an_epoch_tells_of_padding_and_of_time_waited_for_data() -> None:
    class Slow(Told):
        def batches(self, rank: int, world: int, cursor: Cursor) -> Iterator[tuple[Batch, Cursor]]:
            time.sleep(0.5)
            yield from super().batches(rank, world, cursor)

    rows = []
    for made in (Told(), Slow()):
        loop = Loop(made, TRAIN.model_copy(update={"epochs": 1, "checkpoint_steps": 0}))
        loop.run(lambda _, __: None)
        rows += loop.progress.history
    assert 0.4 < rows[1]["data_wait"] * rows[1]["seconds"] <= rows[1]["seconds"]
    assert rows[0]["data_wait"] <= 1
    assert all(0 <= row["padding"] < 1 for row in rows)


@given(items=st.lists(st.integers(), max_size=30), taken=st.integers(0, 30))
@settings(max_examples=20, deadline=None)
def test_what_is_made_ahead_comes_in_order_and_can_be_left(items: list[int], taken: int) -> None:
    with Prefetcher(iter(items)) as ahead:
        found = [item for _, item in zip(range(taken), ahead, strict=False)]
    assert found == items[:taken]
    assert not ahead._maker.is_alive()


def test_what_goes_wrong_ahead_is_raised_where_it_is_asked_for() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("bucket 3 is gone")

    with Prefetcher(broken()) as ahead, pytest.raises(ValueError, match="bucket 3"):
        list(ahead)


def test_an_epoch_without_a_step_ends() -> None:
    class Nothing(Told):
        def batches(self, rank: int, world: int, cursor: Cursor) -> Iterator[tuple[Batch, Cursor]]:
            return iter(())

    loop = Loop(Nothing(), TRAIN)
    loop.run(lambda _, __: None)
    assert [(row["steps"], row["loss"]) for row in loop.progress.history] == [(0, 0.0)] * 2


@pytest.mark.parametrize("model", ["training.models.layers", "training.sasrec.sasrec"])
def test_no_model_lets_cudnn_plan_its_attention_for_every_shape(model: str) -> None:
    code = f"import {model}, torch; print(torch.backends.cuda.cudnn_sdp_enabled())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
