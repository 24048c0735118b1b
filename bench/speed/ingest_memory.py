"""Memory of an ingest of a log by its size: `python -m bench ingest_memory --events N`, a process for each size."""

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from bench.speed.ingest import ROW_GROUP, made, read_items, read_log
from storage.lake import Lake

ITEMS = 1_000_000
PIECE = 1 << 20
"""Events that are made at a time."""
PAUSE_S = 0.1


def run(options: argparse.Namespace) -> None:
    """Print the anonymous memory before an ingest and its peak in it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        catalogue, log = made(folder, 10, ITEMS)
        write_log(log, options.events)
        lake = Lake(str(folder / "lake"))
        read_items(lake, catalogue)
        before, start = _anonymous(), time.perf_counter()
        with _peak() as seen:
            read_log(lake, log)
        seconds = time.perf_counter() - start
    print(
        f"{options.events:,} events of {ITEMS:,} items: {before} MiB before, {max(seen)} MiB at the most, "
        f"{seconds:.0f} s, {options.events / seconds:,.0f} events a second"
    )


def write_log(path: Path, events: int) -> None:
    """Write a log of 30 days in order of time; popularity of items by Zipf, 20 events a user."""
    draw, writer = np.random.default_rng(0), None
    for start in range(0, events, PIECE):
        rows = min(PIECE, events - start)
        times = 1_700_000_000_000_000 + (start + np.arange(rows)) * (86_400_000_000 * 30 // events)
        users, items = draw.integers(0, max(events // 20, 1), rows), draw.zipf(1.3, rows) % ITEMS
        piece = pl.DataFrame({"user": users, "item": items, "event_time": times}).select(
            pl.format("u{}", "user").alias("user_id"),
            pl.format("B{}", pl.col("item").cast(pl.String).str.zfill(9)).alias("item_id"),
            pl.col("event_time").cast(pl.Datetime("us", "UTC")),
        )
        table = piece.to_arrow()
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table, ROW_GROUP)
    if writer is not None:
        writer.close()


@contextmanager
def _peak() -> Iterator[list[int]]:
    """Sample the anonymous memory of this process, in MiB."""
    seen, over = [_anonymous()], threading.Event()

    def look() -> None:
        while not over.wait(PAUSE_S):
            seen.append(_anonymous())

    thread = threading.Thread(target=look, name="memory", daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _anonymous() -> int:
    """Return the resident memory of this process that no file backs, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) >> 10
