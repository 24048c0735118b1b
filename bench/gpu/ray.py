"""Ray on the card: a step of Ray Train against the bare loop, and texts through a worker of Ray Data."""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from bench.gpu.meter import Meter
from bench.gpu.texts import SHAPES, save_model
from bench.speed.encoders import Texts, embedded
from bench.speed.training import TRAIN, WARM, Timed, run_bare_loop
from learning.ray_train.launch import launch
from pipelines.compute.cluster import connect, shutdown
from pipelines.embed.text import TextEncoder
from pipelines.spec import ComputeSpec, TextSpec
from storage.files.store import sha256
from training.spec import GeneratorSpec


def run(meter: Meter) -> None:
    """Measure both."""
    connect(ComputeSpec())
    try:
        _train(meter)
        _texts(meter)
    finally:
        shutdown()


def _train(meter: Meter) -> None:
    spec = GeneratorSpec(dim=32, layers=1, ff=32, constrained=False) if meter.quick else GeneratorSpec()
    took = {}
    with tempfile.TemporaryDirectory() as folder:
        bare, by_ray = Path(folder, "bare.npy"), Path(folder, "ray.npy")
        row = launch(partial(Timed, spec, by_ray), TRAIN, "bench", folder).history[0]
        run_bare_loop(bare, spec)
        for name, path in (("bare", bare), ("ray", by_ray)):
            took[name] = np.diff(np.load(path))[WARM:]
    mean = {name: float(times.mean()) for name, times in took.items()}
    meter.row(
        "default generator: a step of Ray Train", 1e3 * mean["ray"], "ms", mean["ray"] / mean["bare"], "bare loop"
    )
    meter.row("default generator: waited for data", row["data_wait"], "of time")


def _texts(meter: Meter) -> None:
    draw = np.random.default_rng(0)
    words = [f"word{number}" for number in range(20_000)]
    texts = [" ".join(draw.choice(words, count)) for count in draw.integers(5, 40, meter.size(20_000, 50))]
    items = pl.DataFrame(
        {
            "item_id": [f"{row:07d}" for row in range(len(texts))],
            "text": texts,
            "content_hash": [sha256(f"{row} {text}".encode())[:32] for row, text in enumerate(texts)],
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), words, SHAPES["MiniLM-L6"])
        spec = TextSpec(encoder="sentence-transformers", model=folder, batch_size=512)
        encoder = TextEncoder(spec)
        ordered = sorted(texts, key=len, reverse=True)
        bare = len(texts) / meter.seconds(lambda: encoder.encode(ordered), 1)
        done = embedded(items, "text", Texts, {"spec": spec}, 1)
    meter.row("MiniLM-L6: Ray Data into a lake, one worker", done.rate, "texts/s", done.rate / bare, "the bare encoder")
