"""Ingest of a catalogue and a log beside the bare pipeline: `python -m bench ingest`. Medians of several rounds.

With `--workers`, those of a Ray cluster on this machine read the partitions, whatever the size. Their start, which is
that of an ingest of a few rows, is told apart.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
from deltalake import write_deltalake

from bench.speed.ingest_text import KINDS, Steps, measure_all, report, write_texts
from pipelines.compute.executors import Compute, OnRay
from pipelines.ingest import partitions
from pipelines.ingest.events.ingest import LogResources, ingest_interactions
from pipelines.ingest.items.ingest import ingest_items
from pipelines.sources import files
from pipelines.sources.files import find_sources
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec, ItemsWithoutImages
from pipelines.spec import ComputeSpec
from storage.commit import Provenance
from storage.lake import Lake

WHO = Provenance("bench", "")
NOW = datetime(2026, 9, 1, tzinfo=UTC)
ROW_GROUP = 1 << 18


def made(folder: Path, events: int, items: int) -> tuple[Path, Path]:
    """Write a catalogue and a log of 30 days in Parquet: items by popularity (Zipf), users with 20 events each."""
    generator = np.random.default_rng(0)
    seconds = 1_700_000_000 + np.sort(generator.integers(0, 86_400 * 30, events))
    log = pl.DataFrame(
        {
            "user_id": generator.integers(0, max(events // 20, 1), events),
            "item_id": generator.zipf(1.3, events) % items,
            "event_time": seconds * 1_000_000,
            "event_type": generator.choice(["view", "click", "buy"], events),
        }
    ).with_columns(
        pl.format("u{}", "user_id").alias("user_id"),
        _item_ids(pl.col("item_id")),
        pl.col("event_time").cast(pl.Datetime("us", "UTC")),
    )
    numbers = pl.int_range(items, eager=True)
    catalogue = pl.DataFrame(
        {
            "item_id": numbers,
            "title": pl.select(pl.format("Item number {} of its kind", numbers)).to_series(),
            "brand": pl.select(pl.format("brand {}", numbers % 500)).to_series(),
            "category": pl.select(pl.format("kind {}, part {}", numbers % 50, numbers % 300)).to_series(),
            "price": generator.random(items).round(2),
        }
    ).with_columns(_item_ids(pl.col("item_id")))
    log.write_parquet(folder / "log.parquet", row_group_size=min(ROW_GROUP, -(-events // 2)))
    catalogue.write_parquet(folder / "items.parquet", row_group_size=min(ROW_GROUP, -(-items // 2)))
    return folder / "items.parquet", folder / "log.parquet"


def _item_ids(number: pl.Expr) -> pl.Expr:
    return pl.format("B{}", number.cast(pl.String).str.zfill(9)).alias("item_id")


def bare_log(log: Path, catalogue: Path, table: Path, hashed: "Hashed") -> None:
    """Scan, cast, join with the catalogue, hash, write a Delta table: the least that an ingest of a log does."""
    known = pl.scan_parquet(catalogue).select("item_id").unique()
    rows = (
        pl.scan_parquet(log)
        .with_columns(pl.col("user_id", "item_id", "event_type").cast(pl.String))
        .join(known, on="item_id", how="semi")
        .with_columns(arrival_time=pl.lit(NOW))
    )
    write_deltalake(str(table), hashed(rows, ["user_id", "item_id", "event_type", "event_time"]))


def bare_catalogue(catalogue: Path, table: Path, hashed: "Hashed") -> None:
    """Scan, join the attributes as JSON, hash, write a Delta table."""
    attributes = pl.struct("brand", "category", "price").struct.json_encode()
    rows = pl.scan_parquet(catalogue).select("item_id", "title", attributes.alias("attributes"))
    write_deltalake(str(table), hashed(rows, ["title", "attributes"]))


Hashed = Callable[[pl.LazyFrame, list[str]], Any]
"""Collects rows and adds a hash of some columns."""


def by_polars(rows: pl.LazyFrame, names: list[str]) -> pl.DataFrame:
    """Hash with polars: 64 bits, which another version of polars may compute otherwise."""
    return rows.with_columns(hash=pl.struct(names).hash().reinterpret(signed=True)).collect(engine="streaming")


def by_md5(rows: pl.LazyFrame, names: list[str]) -> pa.Table:
    """Hash with MD5 in DuckDB: 128 bits that a table can keep, as ingest makes them."""
    found = duckdb.from_arrow(rows.collect(engine="streaming").to_arrow())
    return found.project(f"*, md5(concat_ws(chr(0), {', '.join(names)})) AS hash").to_arrow_table()


def run(options: argparse.Namespace) -> None:
    """Print rows a second, and the share of the bare pipeline's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        catalogue, log = made(folder, options.events, options.items)
        if options.workers:
            run_workers(folder, catalogue, log, options)
            return
        write_texts(catalogue, log)
        steps = Steps()
        lakes = iter(Lake(str(folder / f"lake-{number}")) for number in range(1_000))
        tables = iter(folder / f"table-{number}" for number in range(1_000))
        for _ in range(options.rounds):
            lake = next(lakes)
            _timed("items", options.items, lambda lake=lake: read_items(lake, catalogue))  # type: ignore[misc]
            for kind, hashed in HASHES.items():
                bare = partial(bare_catalogue, catalogue, next(tables), hashed)
                _timed(f"items {kind}", options.items, bare)
            _timed("events", options.events, lambda lake=lake: read_log(lake, log))  # type: ignore[misc]
            for kind, hashed in HASHES.items():
                bare = partial(bare_log, log, catalogue, next(tables), hashed)
                _timed(f"events {kind}", options.events, bare)
            measure_all(steps, catalogue, log, options.items, options.events)
            for kind in KINDS:
                lake = next(lakes)
                with steps.timed(f"items {kind} ingest", options.items):
                    read_items(lake, catalogue.with_suffix(f".{kind}"))
                with steps.timed(f"interactions {kind} ingest", options.events):
                    read_log(lake, log.with_suffix(f".{kind}"))
    rates = {name: statistics.median(each) for name, each in RATES.items()}
    for name in ("items", "events"):
        shares = (f"{rates[name] / rates[f'{name} {kind}']:.2f} x bare with {kind}" for kind in HASHES)
        print(f"{name:<8} {rates[name]:>12,.0f} a second; {'; '.join(shares)}")
    report(steps)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB, benchmark included")


def run_workers(folder: Path, catalogue: Path, log: Path, options: argparse.Namespace) -> None:
    """Print the rates of an ingest by workers, of one in this process, and of the bare pipeline."""
    partitions.MIN_ROWS = partitions.MIN_ROWS_OF_TWO = 1
    files.PARTITION_ROWS = 1
    compute = OnRay(ComputeSpec())
    (few := folder / "few").mkdir()
    few_items, few_events = made(few, FEW, FEW)
    read_items(Lake(str(few / "first")), few_items, compute)  # which starts the cluster
    starts: dict[str, list[float]] = {"items": [], "events": []}
    for number in range(options.rounds):
        lake, start = Lake(str(few / f"lake-{number}")), time.perf_counter()
        read_items(lake, few_items, compute)
        between = time.perf_counter()
        read_log(lake, few_events, compute)
        starts["items"].append(between - start)
        starts["events"].append(time.perf_counter() - between)
        tables = {kind: folder / f"{number}-{at}" for at, kind in enumerate(HASHES)}
        for kind, hashed in HASHES.items():
            bare = partial(bare_catalogue, catalogue, Path(f"{tables[kind]}-items"), hashed)
            _timed(f"items, bare, {kind}", options.items, bare)
            bare = partial(bare_log, log, catalogue, Path(f"{tables[kind]}-log"), hashed)
            _timed(f"events, bare, {kind}", options.events, bare)
        for name, by in (("in one process", None), ("by workers", compute)):
            lake = Lake(str(folder / f"lake-{number}-{name}"))
            _timed(f"items {name}", options.items, partial(read_items, lake, catalogue, by))
            _timed(f"events {name}", options.events, partial(read_log, lake, log, by))
    middle = {name: statistics.median(each) for name, each in RATES.items()}
    for name, each in RATES.items():
        print(f"{name:<40} {middle[name]:>12,.0f} a second ({', '.join(f'{rate:,.0f}' for rate in each)})")
    for name, rows in (("items", options.items), ("events", options.events)):
        start = statistics.median(starts[name])
        beyond = rows / (rows / middle[f"{name} by workers"] - start)
        told = "; ".join(f"{beyond / middle[f'{name}, bare, {kind}']:.2f} x bare with {kind}" for kind in HASHES)
        print(f"{name} by workers beyond their start of {start:.1f} s: {beyond:,.0f} a second; {told}")


FEW = 1_000
"""Rows of the sources whose ingest is the start of workers."""
HASHES: dict[str, Hashed] = {"a 64-bit hash of polars": by_polars, "MD5 of DuckDB": by_md5}
RATES: dict[str, list[float]] = {}


def _timed(name: str, rows: int, work: Callable[[], None]) -> None:
    start = time.perf_counter()
    work()
    RATES.setdefault(name, []).append(rows / (time.perf_counter() - start))


def read_items(lake: Lake, path: Path, compute: Compute | None = None) -> None:
    (source,) = find_sources(str(path))
    ingest_items(lake, source, ItemsWithoutImages.of(ItemsSpec()), NOW, WHO, compute)


def read_log(lake: Lake, path: Path, compute: Compute | None = None) -> None:
    (source,) = find_sources(str(path))
    ingest_interactions(lake, source, InteractionsSpec(), NOW, WHO, LogResources(compute))
