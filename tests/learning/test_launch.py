"""Ray Train on a local cluster: one training, what is left of it after a fault, then more epochs of the same run."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from ray import cloudpickle
from torch import Tensor, distributed, nn

from learning.checkpoint import SHARDS
from learning.errors import CheckpointMismatch, NotEnoughCpus
from learning.ray_train.launch import Listener, launch
from training.data.histories import Batch, Plan
from training.models.generator import Generator
from training.models.layers import Experts
from training.models.saved import load_generator
from training.objectives.next_code import NextCode, Origin
from training.spec import GeneratorSpec, TrainSpec

SPEC = GeneratorSpec(
    constrained=False,
    dim=16,
    layers=1,
    heads=2,
    kv_heads=1,
    ff=16,
    experts=3,
    prefix_buckets=64,
    dropout=0.0,
    max_events=8,
)
PLAN = Plan("r-1", buckets=2, sizes=(4, 4), batch_size=9, max_events=8)


def read_cycle(bucket: int) -> pa.Table:
    """Users who walk round a cycle of 16 items, each from another start."""
    users, events = 15, 12
    item = (np.arange(users)[:, None] + np.arange(events)[None, :]).reshape(-1) % 16
    rows = len(item)
    return pa.table(
        {
            "user_id": np.repeat([f"u{bucket}-{user:02d}" for user in range(users)], events),
            "event_id": [f"e{bucket}-{row}" for row in range(rows)],
            "event_time": pa.array(np.tile(np.arange(events), users), pa.int64()).cast(pa.timestamp("us")),
            "event_type": ["click"] * rows,
            "impression": pa.array([None] * rows, pa.bool_()),
            "codes": pa.array(np.stack([item // 4, item % 4], axis=1).tolist(), pa.list_(pa.int32())),
        }
    )


class OneBias(NextCode):
    """Fails where workers do not balance their experts alike."""

    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        found = super().loss(module, batch)
        for own in (part.bias for part in self.module.modules() if isinstance(part, Experts)):
            biases = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
            distributed.all_gather(biases, own)
            assert all(torch.equal(bias, own) for bias in biases), biases
        return found


def make(vocabulary: str) -> NextCode:
    return OneBias(SPEC, PLAN, read_cycle, Origin(vocabulary, "r-1", "recipe"))


STEPS = -(-60 // 9)
"""Steps of an epoch."""


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_goes_on_from_what_is_left_of_it_with_other_workers(tmp_path: Path) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    lines: list[str] = []
    spec = TrainSpec(workers=2, epochs=2, warmup_steps=5, learning_rate=1e-2, sharding=True, checkpoint_steps=STEPS)
    first = launch(partial(make, "v"), spec, "run", tmp_path, listener=Listener(lines.append))
    assert [row["epoch"] for row in first.history] == [0, 1]
    assert [row["targets"] for row in first.history] == [2 * 15 * 12 * 2] * 2
    assert first.history[1]["loss"] < first.history[0]["loss"]
    assert [line.split(":")[0] for line in lines] == ["train epoch 1 of 2", "train epoch 2 of 2"]
    model, record = load_generator(first.checkpoint_dir, "v")
    assert isinstance(model, Generator)
    assert all(part.bias.any() for part in model.modules() if isinstance(part, Experts))
    assert (record.cursor.epoch, record.step) == (2, 2 * STEPS)
    again = launch(partial(make, "v"), spec, "run", tmp_path)
    assert again == first

    # The second worker's part of the last checkpoint is torn: the one before it is whole.
    (torn,) = (first.checkpoint_dir / SHARDS).glob("__1_*")
    os.truncate(torn, torn.stat().st_size // 2)
    longer = launch(
        partial(make, "v"),
        spec.model_copy(update={"workers": 1, "epochs": 3}),
        "run",
        tmp_path,
        listener=Listener(lines.append),
    )
    assert "newest intact checkpoint" in lines[2]
    assert longer.history[0] == first.history[0]
    assert longer.history[1]["loss"] == pytest.approx(first.history[1]["loss"], rel=1e-4)
    assert longer.history[2]["loss"] < first.history[1]["loss"]
    assert load_generator(longer.checkpoint_dir, "v")[1].step == 3 * STEPS

    lines.clear()
    launch(
        partial(make, "v"),
        spec.model_copy(update={"workers": 1, "epochs": 4}),
        "run",
        tmp_path,
        listener=Listener(lines.append),
    )
    assert lines[0] == "train: resuming after epoch 3 of 4"
    assert [line.split(":")[0] for line in lines[1:]] == ["train epoch 4 of 4"], (
        "epochs of an earlier launch are not told again"
    )

    with pytest.raises(CheckpointMismatch, match=r"vocabulary is v there and w now.*from the beginning"):
        launch(partial(make, "w"), spec, "run", tmp_path)

    # More workers than the cluster has CPUs for, which does not grow.
    with pytest.raises(
        NotEnoughCpus, match=r"64 workers of 1 CPUs need 64 CPUs, and the cluster has \d+: use fewer workers"
    ):
        launch(partial(make, "v"), spec.model_copy(update={"workers": 64}), "other", tmp_path)


WAITING = """
import os, sys, threading, time
import ray
from ray.util import placement_group_table
from learning.ray_train.launch import Listener, launch
from training.spec import TrainSpec

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
os.environ["RAY_ADDRESS"] = "a cluster that may grow"

def tell():
    while not placement_group_table():
        time.sleep(0.1)
    print("workers are asked for", flush=True)

threading.Thread(target=tell, daemon=True).start()
launch(dict, TrainSpec(workers=4), "run", sys.argv[1], listener=Listener(lambda line: print(line, flush=True)))
"""


def test_ctrl_c_ends_a_training_whose_workers_find_no_place(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WAITING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "waiting for more" in process.stdout.readline()
            assert "workers are asked for" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert "KeyboardInterrupt" in process.communicate(timeout=40)[1]
        finally:
            process.kill()
