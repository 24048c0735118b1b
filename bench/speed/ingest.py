"""Ingest of a catalogue and a log beside the bare pipeline: `python -m bench ingest`. Medians of several rounds."""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
from deltalake import write_deltalake

from bench.speed.ingest_text import KINDS, Steps, measure_all, report, write_texts
from pipelines.ingest.events.ingest import ingest_interactions
from pipelines.ingest.items.ingest import ingest_items
from pipelines.sources.files import find_sources
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec, ItemsWithoutImages
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
    log.write_parquet(folder / "log.parquet", row_group_size=ROW_GROUP)
    catalogue.write_parquet(folder / "items.parquet", row_group_size=ROW_GROUP)
    return folder / "items.parquet", folder / "log.parquet"


def _item_ids(number: pl.Expr) -> pl.Expr:
    return pl.format("B{}", number.cast(pl.String).str.zfill(9)).alias("item_id")


def bare_log(log: Path, catalogue: Path, table: Path) -> None:
    """Scan, cast, join with the catalogue, hash, write a Delta table: the least that an ingest of a log does."""
    known = pl.scan_parquet(catalogue).select("item_id").unique()
    rows = (
        pl.scan_parquet(log)
        .with_columns(pl.col("user_id", "item_id", "event_type").cast(pl.String))
        .join(known, on="item_id", how="semi")
        .with_columns(event_id=pl.struct(pl.all()).hash().reinterpret(signed=True), arrival_time=pl.lit(NOW))
        .collect(engine="streaming")
    )
    write_deltalake(str(table), rows)


def bare_catalogue(catalogue: Path, table: Path) -> None:
    """Scan, join the attributes as JSON, hash, write a Delta table."""
    attributes = pl.struct("brand", "category", "price").struct.json_encode()
    rows = (
        pl.scan_parquet(catalogue)
        .select("item_id", "title", attributes.alias("attributes"))
        .with_columns(text_hash=pl.struct("title", "attributes").hash().reinterpret(signed=True))
        .collect(engine="streaming")
    )
    write_deltalake(str(table), rows)


def run(options: argparse.Namespace) -> None:
    """Print rows a second, and the share of the bare pipeline's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        catalogue, log = made(folder, options.events, options.items)
        write_texts(catalogue, log)
        steps = Steps()
        lakes = iter(Lake(str(folder / f"lake-{number}")) for number in range(1_000))
        tables = iter(folder / f"table-{number}" for number in range(1_000))
        for _ in range(options.rounds):
            lake = next(lakes)
            _timed("items", options.items, lambda lake=lake: read_items(lake, catalogue))  # type: ignore[misc]
            _timed("bare items", options.items, lambda: bare_catalogue(catalogue, next(tables)))
            _timed("events", options.events, lambda lake=lake: read_log(lake, log))  # type: ignore[misc]
            _timed("bare events", options.events, lambda: bare_log(log, catalogue, next(tables)))
            measure_all(steps, catalogue, log, options.items, options.events)
            for kind in KINDS:
                lake = next(lakes)
                with steps.timed(f"items {kind} ingest", options.items):
                    read_items(lake, catalogue.with_suffix(f".{kind}"))
                with steps.timed(f"interactions {kind} ingest", options.events):
                    read_log(lake, log.with_suffix(f".{kind}"))
    for kind in ("items", "events"):
        ours, bare = (statistics.median(RATES[name]) for name in (kind, f"bare {kind}"))
        print(f"{kind:<8} {ours:>12,.0f} a second  {ours / bare:>5.2f} x the bare pipeline ({bare:,.0f})")
    report(steps)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB, benchmark included")


RATES: dict[str, list[float]] = {}


def _timed(name: str, rows: int, work: Callable[[], None]) -> None:
    start = time.perf_counter()
    work()
    RATES.setdefault(name, []).append(rows / (time.perf_counter() - start))


def read_items(lake: Lake, path: Path) -> None:
    (source,) = find_sources(str(path))
    ingest_items(lake, source, ItemsWithoutImages.of(ItemsSpec()), NOW, WHO)


def read_log(lake: Lake, path: Path) -> None:
    (source,) = find_sources(str(path))
    ingest_interactions(lake, source, InteractionsSpec(), NOW, WHO)
