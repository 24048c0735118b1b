"""The behaviour of a bootstrap alone, on the log of the synthetic shop: `python -m bench log_fit --items N`.

The log lies in a lake. Another process counts its items, reads it, fits, folds in all items, and makes the pairs and
vectors that a fusion learns from. Vectors are not stored. Seconds and CPU seconds are those of each part, memory is the
peak of the process so far.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from bench.runs.made_shop import Shop
from learning.threads import one_thread
from pipelines.collaborative.log_fit import fit_log
from pipelines.collaborative.newest_pairs import NewestPairs
from pipelines.event_log.behaviour_log import LogItems, behaviour_log
from pipelines.event_log.visible_log import LogSlice
from pipelines.spec import CollaborativeSection, FusionSpec, collaborative_spec
from storage.commit import Provenance, append
from storage.lake import Lake
from storage.schemas import INTERACTIONS

NOW = datetime(2026, 12, 1, tzinfo=UTC)
COMMIT_EVENTS = 1 << 20


def run(options: argparse.Namespace) -> None:
    """Write the log of a shop into a lake, and measure in another process."""
    events = options.events or 5 * options.items
    with tempfile.TemporaryDirectory(prefix="sidmill-log-fit-") as name:
        lake, path = Lake(f"{name}/lake"), Path(name) / "log.parquet"
        Shop(options.items).write_log(path, events)
        for part, batch in enumerate(pq.ParquetFile(path).iter_batches(COMMIT_EVENTS)):
            append(
                lake, "interactions", _rows(pl.DataFrame(pa.table(batch)), part), f"log:{part}", Provenance("bench", "")
            )
        path.unlink()
        print(f"{options.items:,} items, {events:,} events", flush=True)
        subprocess.run([sys.executable, "-m", "bench.runs.log_fit", lake.uri, str(options.fit_items)], check=True)


def _rows(events: pl.DataFrame, part: int) -> pa.Table:
    number = pl.int_range(pl.len()).cast(pl.Int64)
    made = events.with_columns(
        event_id=pl.format("e{}-{}", pl.lit(part), number),
        arrival_time=pl.lit(NOW).cast(pl.Datetime("us", "UTC")),
        arrival_date=pl.lit(NOW.date()),
        source=pl.lit("shop"),
        source_offset=part * COMMIT_EVENTS + number,
    )
    absent = [pl.lit(None).alias(name) for name in INTERACTIONS.schema.names if name not in made.columns]
    return made.with_columns(absent).select(INTERACTIONS.schema.names).to_arrow()


def measure(lake: Lake, fit_items: int) -> None:
    """Print what each part of the behaviour takes."""
    section, log = (
        CollaborativeSection(method="sppmi", fit_items=fit_items),
        LogSlice(lake.version("interactions"), NOW, NOW),
    )
    clock = Clock()
    items = LogItems.of(lake, log, section)
    clock.lap(f"items counted: {len(items.ids):,}")
    spec = collaborative_spec(section, items.events, len(items.ids))
    behaviour = behaviour_log(lake, log, items, spec)
    del items  # as in the flow
    with one_thread(), behaviour as taken:
        clock.lap(f"log read: {len(taken.items):,} items with behaviour, {taken.seen.sum():,} events")
        fit = fit_log(taken, spec)
        assert fit is not None
        clock.lap(f"fitted on {len(fit.factors.names):,} items: {fit.pairs_covered:.1%} of the pairs")
        clock.lap(f"folded in: {sum(vectors.height for vectors in fit.vectors()):,} vectors")
        newest = NewestPairs.of(fit, FusionSpec())
        clock.lap(f"pairs, and vectors before them: {len(newest.pairs):,} pairs, {len(newest.items):,} items")
    print(f"  {'all':<70}{time.monotonic() - clock.start:>8.1f}{time.process_time():>8.1f}")


class Clock:
    """Prints seconds, CPU seconds and the peak of memory of each part."""

    def __init__(self) -> None:
        print(f"  {'part':<70}{'seconds':>8}{'CPU s':>8}{'GiB':>6}")
        self.start = self._last = time.monotonic()
        self._used = time.process_time()

    def lap(self, name: str) -> None:
        """Print the part that ends now."""
        now, used = time.monotonic(), time.process_time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
        print(f"  {name:<70}{now - self._last:>8.1f}{used - self._used:>8.1f}{peak:>6.2f}", flush=True)
        self._last, self._used = now, used


if __name__ == "__main__":
    measure(Lake(sys.argv[1]), int(sys.argv[2]))
