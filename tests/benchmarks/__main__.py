"""Benchmarks, each beside a limit or a peer measured in the same run: `make bench`. Medians of several rounds."""

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
from tests.benchmarks.trie import trie
from tokenizer.assignment import balanced_assign
from tokenizer.distance import nearest
from tokenizer.items import tie_keys

ROUNDS = 5


def seconds(function: Callable[[], object]) -> float:
    """Median wall time."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def row(name: str, value: float, unit: str, ratio: float, against: str) -> None:
    print(f"{name:<44} {value:>12,.3f} {unit:<6} {ratio:>8.2f} x  {against}")


def assignment() -> None:
    """Balanced and plain assignment of 100,000 x 64 to 256 codes against the bare product."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((400, 64)) * 3
    vectors = (centres[rng.zipf(1.5, 100_000) % 400] + rng.standard_normal((100_000, 64))).astype(np.float32)
    centroids = vectors[rng.choice(len(vectors), 256, replace=False)]
    keys = tie_keys([str(item) for item in range(len(vectors))])
    capacity = np.full(256, int(1.5 * len(vectors) / 256), dtype=np.int64)
    product = seconds(lambda: vectors @ centroids.T)
    plain = seconds(lambda: nearest(vectors, centroids))
    balanced = seconds(lambda: balanced_assign(vectors, centroids, capacity, keys))
    row("nearest code, 100k x 64, K=256", plain, "s", plain / product, "one GEMM of the same size")
    row("balanced assignment, slack 1.5", balanced, "s", balanced / plain, "nearest code")


def commits() -> None:
    """An idempotent append of 20,000 vectors against writing the same Parquet file."""
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


if __name__ == "__main__":
    assignment()
    trie()
    commits()
