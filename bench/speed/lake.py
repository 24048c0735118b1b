"""Commits to Delta Lake: `python -m bench lake`. Medians of several rounds."""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.commit import Provenance, append
from storage.lake import Lake
from storage.schemas import VECTORS

ROUNDS = 5


def seconds(function: Callable[[], object]) -> float:
    """Return the median wall time."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def row(name: str, value: float, unit: str, ratio: float, against: str) -> None:
    print(f"{name:<44} {value:>12,.3f} {unit:<6} {ratio:>8.2f} x  {against}")


def commits() -> None:
    """Measure an idempotent append of 20,000 vectors against writing the same Parquet file."""
    vectors = np.random.default_rng(0).standard_normal((20_000, 128)).astype(np.float32)
    rows = pa.table(
        {
            "item_id": [str(number) for number in range(len(vectors))],
            "modality": ["text"] * len(vectors),
            "content_hash": ["h"] * len(vectors),
            "fingerprint": ["f"] * len(vectors),
            "vector": pa.array(list(vectors), pa.list_(pa.float32())),
        },
        schema=VECTORS.schema,
    )
    with tempfile.TemporaryDirectory() as folder:
        lake, counter = Lake(folder), iter(range(1_000))
        who = Provenance("bench", "")
        once = seconds(lambda: append(lake, "vectors", rows, f"key-{next(counter)}", who))
        again = seconds(lambda: append(lake, "vectors", rows, "key-0", who))
        peer = seconds(lambda: pq.write_table(rows, Path(folder) / "peer.parquet", compression="snappy"))
    row("append of 20k x 128 vectors", once, "s", once / peer, "the bare Parquet write")
    row("the same append again (skipped)", again, "s", again / once, "the append")


def run(options: argparse.Namespace) -> None:
    """Print all figures."""
    commits()
