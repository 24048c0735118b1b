"""Training at speed: `python -m bench training`.

Generator steps on random histories: tokens per second, and the share of a bare product (GEMM) of the same run that they
reach, for each architecture, on one core or on a GPU, if present, in bfloat16. Then the same steps by Ray Train and by
the bare loop in a separate process, from step 50 on, and the time a step waits for its batch.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.quality.generative import BUCKETS, Histories
from learning.loop import Loop, WorkerContext
from learning.ray_train.launch import KEEPS_MEMORY, launch
from learning.threads import one_thread
from learning.trainable import Cursor
from pipelines.compute.cluster import connect
from pipelines.spec import ComputeSpec
from tokenizer.trie.masks import TrieMasks
from tokenizer.trie.trie import Trie
from training.data.histories import Batch
from training.objectives.next_code import NextCode, Origin, plan_of
from training.registry import ARCHITECTURES
from training.spec import GeneratorSpec, TrainSpec

SIZES, ITEMS, USERS, WARM, ROUNDS = (256, 256, 256), 20_000, 25_600, 50, 7
LARGE = GeneratorSpec(dim=512, layers=8, code_layers=2, heads=8, kv_heads=8, ff=2048)
LARGER = GeneratorSpec(dim=1024, layers=12, code_layers=2, heads=16, kv_heads=16, ff=4096)
"""Shape with more than 100 million weights, for a GPU."""
TRAIN = TrainSpec(workers=1, epochs=1, batch_size=128)


class Timed(NextCode):
    """NextCode that records the start time of each step."""

    def __init__(self, spec: GeneratorSpec, path: Path, train: TrainSpec = TRAIN) -> None:
        codes = np.stack(np.unravel_index(np.arange(ITEMS) * 83, SIZES), axis=1).astype(np.int32)
        draw = np.random.default_rng(0)
        users = [draw.integers(0, ITEMS, length) for length in draw.geometric(0.1, USERS).clip(2, 50)]
        plan = plan_of("bench", BUCKETS, SIZES, spec, train)
        names = pa.array([f"i{item:05d}" for item in range(ITEMS)])
        masks = TrieMasks.of(Trie.build(codes, names, SIZES))
        origin = Origin("bench", "bench", "bench", lambda: masks)
        super().__init__(spec, plan, Histories(codes, users), origin)
        self.path = path
        self.began: list[float] = []

    def loss(self, module: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """NextCode's loss."""
        self.began.append(time.perf_counter())
        if len(self.began) % 10 == 0:
            np.save(self.path, self.began)
        return super().loss(module, batch)


def best_device() -> torch.device:
    """Return the first GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def now(device: torch.device) -> float:
    """Return the time in seconds after all work on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def gemm(device: torch.device) -> float:
    """Return flops per second of a square matrix product, the best of several.

    On a core it has 512 rows in float32, on a GPU 8,192 in bfloat16.
    """
    rows, kind = (8192, torch.bfloat16) if device.type == "cuda" else (512, torch.float32)
    left, right = torch.randn(2, rows, rows, dtype=kind, device=device)
    took = []
    for _ in range(30):
        began = now(device)
        left @ right
        took.append(now(device) - began)
    return 2 * rows**3 / min(took)


@dataclass(frozen=True)
class Speed:
    """Weights of a generator, tokens and floating-point operations per second of its steps, and steps per second.

    Operations are those of the model with padding, forward and backward; tokens are without padding.
    """

    weights: int
    tokens: float
    flops: float
    steps: float


def speed(
    spec: GeneratorSpec, device: torch.device, steps: int = 30, batch_size: int = TRAIN.batch_size, backend: str = ""
) -> Speed:
    """Measure steps of one generator (forward, backward, optimizer), run twice; the first pass is a warm-up.

    With a `backend` the generator is compiled for it.
    """
    train = TRAIN.model_copy(update={"batch_size": batch_size})
    loop = Loop(Timed(spec, Path("/dev/null"), train), train, WorkerContext(prepare=lambda module: module.to(device)))
    batches = [batch for batch, _ in loop.trainable.batches(0, 1, Cursor(loop.trainable.plan_hash))][:steps]
    module = torch.compile(loop.module, dynamic=True, backend=backend) if backend else loop.module
    took = []

    def loss(batch: Batch, module: Any) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            return loop.trainable.loss(module, batch.to(device))[0]

    for batch in [*batches, *batches]:
        began = now(device)
        torch.autograd.backward(loss(batch, module))
        loop.optimizer.step()
        loop.optimizer.zero_grad()
        took.append(now(device) - began)
    seconds = sum(took[-len(batches) :])
    with FlopCounterMode(display=False) as counted:
        for batch in batches:
            torch.autograd.backward(loss(batch, loop.module))
    events = sum(int(batch.events.lengths.sum()) for batch in batches)
    return Speed(
        sum(each.numel() for each in loop.module.parameters()),
        len(SIZES) * events / seconds,
        counted.get_total_flops() / seconds,
        len(batches) / seconds,
    )


def show_speed(name: str, spec: GeneratorSpec, device: torch.device, steps: int = 30) -> None:
    """Print the speed of one generator."""
    peak, found = gemm(device), speed(spec, device, steps)
    print(
        f"{name:<22} {found.weights:>11,} weights {found.tokens:>9,.0f} tokens/s {found.flops / 1e9:>6.1f} GF/s  "
        f"{found.flops / peak:.0%} of GEMM",
        flush=True,
    )


def beside_ray() -> None:
    """Compare a step of Ray Train with one worker to the same step of the bare loop.

    Machines are noisy and steps differ: each step is compared with itself, and the two alternate in going first. The
    bare loop runs in a separate process, in the environment of workers.
    """
    same: list[float] = []
    together: list[float] = []
    row: dict[str, float] = {}

    def bare(path: Path, _: str) -> None:
        run_bare_loop(path, GeneratorSpec())

    def ray(path: Path, folder: str) -> None:
        row.update(launch(partial(Timed, GeneratorSpec(), path), TRAIN, "bench", folder).history[0])

    connect(ComputeSpec())
    for number in range(ROUNDS):
        took = {}
        for way in (bare, ray) if number % 2 else (ray, bare):
            with tempfile.TemporaryDirectory(prefix="sidmill-bench-") as folder:
                path = Path(folder) / "began.npy"
                way(path, folder)
                took[way] = np.diff(np.load(path))[WARM:]
        same.append(float(np.median(took[ray] / took[bare])) - 1)
        together.append(float(np.sum(took[ray]) / np.sum(took[bare])) - 1)
        print(
            f"round {number + 1}: a step of the bare loop takes {1000 * np.mean(took[bare]):.1f} ms, of Ray Train "
            f"{1000 * np.mean(took[ray]):.1f} ms: {together[-1]:+.1%}, the median step {same[-1]:+.1%}",
            flush=True,
        )
    whole, median = statistics.median(together), statistics.median(same)
    print(f"Ray Train over the bare loop, median of {ROUNDS} rounds: {whole:+.1%}, of the median step {median:+.1%}")
    print(f"waited for data {row['data_wait']:.1%} of the time, padding {row['padding']:.1%}")


def run_bare_loop(path: Path, spec: GeneratorSpec) -> None:
    """Run the bare loop in a process of its own, in the environment of workers."""
    command = [sys.executable, "-m", "bench.speed.training", str(path), spec.model_dump_json()]
    subprocess.run(command, env={**os.environ, **KEEPS_MEMORY}, check=True)


def bare_loop(path: Path, spec: GeneratorSpec) -> None:
    """Run the steps of Ray Train in this process, without it, on the same device."""
    torch.set_num_threads(TRAIN.cpus_per_worker)
    device = best_device()
    context = WorkerContext(prepare=lambda module: module.to(device))
    Loop(Timed(spec, path), TRAIN, context).run(lambda _, __: None)


def run(options: argparse.Namespace) -> None:
    """Print all figures."""
    device = best_device()
    with one_thread():
        for architecture in ARCHITECTURES:
            show_speed(architecture, GeneratorSpec.model_validate({"architecture": architecture}), device)
        show_speed("rq_transformer, large", LARGE, device, 5)
        if device.type == "cuda":
            show_speed("rq_transformer, larger", LARGER, device)
        beside_ray()


if __name__ == "__main__":
    bare_loop(Path(sys.argv[1]), GeneratorSpec.model_validate_json(sys.argv[2]))
