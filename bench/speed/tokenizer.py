"""Codebooks and SIDs at size: `python -m bench tokenizer [--items 1e6] [--width 128] [--codes 256] [--levels 3]`.

Vectors are a skewed mixture, streamed from Parquet in .cache/bench, or the rows of a matrix (`--vectors FILE.npy`).
Each figure is printed beside a limit or a peer measured in the same run: the bare product of all vectors with the codes
of all levels, plain nearest codes, the exact optimum, Algorithm 1 of OneRec (arXiv 2502.18965).
"""

import argparse
import importlib.util
import resource
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from learning.threads import one_thread
from tokenizer.arrays.distance import BLOCK, own_distance
from tokenizer.arrays.executor import LOCAL_THREADS
from tokenizer.arrays.items import checked_items, tie_keys
from tokenizer.arrays.types import Codes
from tokenizer.arrays.vectors import SPAN, ArrayRows, ParquetRows, Rows
from tokenizer.assign import Occupancy, Status, assign_sids
from tokenizer.balancing.assign_level import assign_level, balanced_assign
from tokenizer.collisions.extra_token import extra_tokens
from tokenizer.fit import fit_codebook
from tokenizer.metrics import collision_metrics
from tokenizer.registry import quantizer_of
from tokenizer.spec import CodebookSpec

CACHE = Path(".cache/bench")


def mixture(items: int, width: int) -> ParquetRows:
    """Return a skewed mixture of 2,000 clusters, written once."""
    path = CACHE / f"mixture-{items}-{width}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draw = np.random.default_rng(0)
        centres = draw.standard_normal((2000, width), dtype=np.float32)
        kind = pa.list_(pa.float32(), width)
        partial = path.with_suffix(".partial")
        with pq.ParquetWriter(partial, pa.schema([("vector", kind)]), compression="none") as writer:
            for start in range(0, items, SPAN):
                count = min(SPAN, items - start)
                rows = centres[draw.zipf(1.3, count) % 2000]
                rows += 0.7 * draw.standard_normal((count, width), dtype=np.float32)
                column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), width)
                writer.write_table(pa.table({"vector": column}), row_group_size=SPAN)
        partial.rename(path)
    return ParquetRows((str(path),))


def ids(first: int, count: int) -> pa.Array:
    numbers = pc.cast(pa.array(np.arange(first, first + count)), pa.string())
    return pc.binary_join_element_wise("item-", numbers, "")


def say(name: str, value: str, beside: str = "") -> None:
    print(f"{name:<52} {value:>14}  {beside}", flush=True)


def peak() -> str:
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"


def product(items: int, width: int, codes: int, levels: int) -> float:
    """Return the seconds of the bare products of all items with the codes of all levels, in blocks, on all cores."""
    draw = np.random.default_rng(0)
    block = draw.standard_normal((64 * BLOCK, width), dtype=np.float32)
    points = draw.standard_normal((width, codes), dtype=np.float32)
    start = time.perf_counter()
    for _ in range(8):
        block @ points
    return (time.perf_counter() - start) / (8 * len(block)) * items * levels


def at_size(rows: Rows, codes: int, levels: int) -> None:
    """Fit on a sample, assign all but an eleventh, and append that to a tenth of them and to all."""
    items, width = rows.shape
    old = items - items // 11
    sample = min(old, 200_000)
    growth = max(1.1, min(2.0, 0.7 * codes**levels / items)) * old / sample
    spec = CodebookSpec.model_validate({"levels": [{"codes": codes}] * levels, "growth": growth, "iterations": 8})
    everyone, first = rows, ids(0, old)
    part = {"fused": Part(everyone, 0, old)}
    drawn = np.sort(np.random.default_rng(0).choice(old, sample, replace=False))
    some = everyone.take(drawn)
    start = time.perf_counter()
    book = fit_codebook({"fused": some}, first.take(drawn), spec)
    fitting = time.perf_counter() - start
    bare = product(sample, width, codes, levels) * spec.iterations
    say(
        f"fit on {sample:,} items, {spec.iterations} rounds a level",
        f"{fitting:.1f} s",
        f"products alone {bare:.1f} s: {bare / fitting:.0%} of them",
    )
    start = time.perf_counter()
    checked = checked_items(part, first, ("fused",), LOCAL_THREADS)
    say(f"read and check {old:,} items", f"{time.perf_counter() - start:.1f} s", "part of balanced below")
    with one_thread():
        start = time.perf_counter()
        for level in range(levels):
            prefix = np.zeros((old, level), np.int32)
            room = np.full(codes, old, np.int64)
            assign_level(quantizer_of(spec).level(book, level), checked, prefix, room, LOCAL_THREADS)
        plain = time.perf_counter() - start
    shared = replace(book, spec=spec.model_copy(update={"collision": "keep"}))
    start = time.perf_counter()
    kept = assign_sids(shared, part, first, Occupancy.empty(levels)).codes
    sharing = time.perf_counter() - start
    rate = collision_metrics(kept).collision_rate
    tokens = {name: _token(kept, book.sizes, name == "suffix") for name in ("suffix", "item")}
    del kept, checked, some
    start = time.perf_counter()
    made = assign_sids(book, part, first, Occupancy.empty(levels))
    whole = time.perf_counter() - start
    bare = product(old, width, codes, levels)
    say(f"plain codes of {old:,} items", f"{plain:.1f} s", f"products alone {bare:.1f} s: {bare / plain:.0%} of them")
    say("balanced, SIDs shared", f"{sharing:.1f} s", f"{rate:.1%} of the items share one")
    say("balanced, unique SIDs", f"{whole:.1f} s", f"{whole / plain:.2f} x plain codes")
    unique = whole - sharing
    pace = f"{old * rate / unique:,.0f} items/s" if unique > 0.1 * sharing else "too short to measure"
    say("time to make them unique", f"{unique:.1f} s", pace)
    for name, (seconds, most) in tokens.items():
        say(f"the same by tokens, {name}", f"{seconds:.1f} s", f"tokens up to {most:,}")
    say("items moved to a free SID, refit due", f"{(made.status == 1).mean():.1%}", f"{(made.status == 2).sum():,}")
    say("relative error", f"{made.relative_error:.4f}")
    say("peak memory of the process", peak(), "3 GiB wanted at 1e7 x 128")
    added = items - old
    for share in (10, 1):
        known = made.codes[: old // share]
        start = time.perf_counter()
        new = assign_sids(
            book, {"fused": Part(everyone, old, items)}, ids(old, added), Occupancy(known[known[:, 0] >= 0])
        )
        seconds = time.perf_counter() - start
        refit = int((new.status == Status.REFIT_DUE).sum())
        say(f"append {added:,} items to {len(known):,}", f"{seconds:.1f} s", f"refit due {refit:,}")


def _token(codes: Codes, sizes: Sequence[int], counts: bool) -> tuple[float, int]:
    """Return the seconds taken by a token for each item, and the largest token."""
    start = time.perf_counter()
    token = extra_tokens(codes, np.empty((0, len(sizes) + 1), np.int32), (*sizes, len(codes)), counts)
    return time.perf_counter() - start, int(token.max())


class Part:
    """Rows [start, stop) of other rows."""

    def __init__(self, rows: Rows, start: int, stop: int) -> None:
        self.rows, self.start, self.stop = rows, start, stop

    @property
    def shape(self) -> tuple[int, int]:
        return self.stop - self.start, self.rows.shape[1]

    def read(self, start: int, stop: int) -> Any:
        return self.rows.read(self.start + start, self.start + stop)

    def take(self, rows: Any) -> Any:
        return self.rows.take(rows + self.start)


def against_the_optimum() -> None:
    """Measure the cost over the optimum of ours and of Algorithm 1 of OneRec: exact capacity, 4,096 items, 64 codes."""
    if importlib.util.find_spec("ot") is None:
        say("over the optimum", "not measured", "the dev extra has the exact solver (pot)")
        return
    import ot

    vectors = mixture(1 << 17, 32).read(0, 4096)
    points = vectors[np.random.default_rng(0).choice(4096, 64, replace=False)]
    capacity = np.full(64, 64)
    cost = np.stack([np.square(vectors.astype(np.float64) - point).sum(axis=1) for point in points], axis=1)
    best = float((ot.emd(np.ones(4096) / 4096, capacity / 4096, cost, numItermax=10**7) * cost).sum() * 4096)
    ours = balanced_assign(vectors, points, capacity, tie_keys(ids(0, 4096)))
    say(
        "over the optimum, 4,096 x 64, exact capacity",
        f"{own_distance(vectors, points, ours.codes).sum() / best - 1:.2%}",
    )
    left, total = np.arange(4096), 0.0
    for code in range(64):
        nearest = np.argsort(cost[left, code], kind="stable")[:64]
        total += float(cost[left[nearest], code].sum())
        left = np.delete(left, nearest)
    say("the same, Algorithm 1 of OneRec", f"{total / best - 1:.2%}")


def run(options: argparse.Namespace) -> None:
    """Print all figures; the solver comes last, because its imports stay in the memory of the process."""
    if options.vectors:
        rows: Rows = ArrayRows(np.load(options.vectors, mmap_mode="r"))
    else:
        rows = mixture(options.items, options.width)
    at_size(rows, options.codes, options.levels)
    against_the_optimum()
