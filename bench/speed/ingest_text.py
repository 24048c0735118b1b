"""Part of `python -m bench ingest`: CSV and JSON lines, read and converted, beside polars' own readers."""

import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import psutil

from pipelines.ingest.events import columns as event_columns
from pipelines.ingest.events.ingest import CHUNK_ROWS
from pipelines.ingest.events.rows import EventRules
from pipelines.ingest.items import columns as item_columns
from pipelines.sources.files import find_sources
from pipelines.sources.protocol import Part, Spec
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec

KINDS = ("csv", "jsonl")
LOG = {"user_id": pl.String, "item_id": pl.String, "event_time": pl.String, "event_type": pl.String}
CATALOGUE = {"item_id": pl.String, "title": pl.String, "brand": pl.String, "category": pl.String, "price": pl.Float64}
TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass
class Steps:
    """Seconds a row of each step of each round: of the clock, and of the CPU."""

    wall: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    cpu: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @contextmanager
    def timed(self, name: str, rows: int) -> Iterator[None]:
        started, used = time.perf_counter(), cpu_seconds()
        yield
        self.wall[name].append((time.perf_counter() - started) / rows)
        self.cpu[name].append((cpu_seconds() - used) / rows)

    def microseconds(self, name: str) -> float:
        """Return the microseconds of CPU time a row, by the median."""
        return 1e6 * statistics.median(self.cpu[name])

    def rate(self, name: str) -> float:
        """Return the rows a second, by the median of elapsed time."""
        return 1 / statistics.median(self.wall[name])


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of the one that hashes for it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    others = [each.cpu_times() for each in psutil.Process().children(recursive=True)]
    return float(used.ru_utime + used.ru_stime + sum(each.user + each.system for each in others))


def write_texts(catalogue: Path, log: Path) -> None:
    """Write both files as CSV and JSON lines beside them."""
    events = pl.read_parquet(log).with_columns(pl.col("event_time").dt.strftime(TIME))
    for path, frame in ((catalogue, pl.read_parquet(catalogue)), (log, events)):
        frame.write_csv(path.with_suffix(".csv"))
        frame.write_ndjson(path.with_suffix(".jsonl"))


def measure(steps: Steps, path: Path, rows: int, spec: Spec, convert: Callable[[Part], object]) -> None:
    """Read a text as ingest does, and as polars does with the same types."""
    (source,) = find_sources(str(path))
    name = f"{spec.section} {path.suffix[1:]}"
    with steps.timed(f"{name} read", rows):
        parts = list(source.parts(spec, CHUNK_ROWS))
    with steps.timed(f"{name} convert", rows):
        for part in parts:
            convert(part)
    with steps.timed(f"{name} polars", rows):
        read_by_polars(path, spec)


def read_by_polars(path: Path, spec: Spec) -> pl.DataFrame:
    schema = LOG if isinstance(spec, InteractionsSpec) else CATALOGUE
    rows = pl.scan_csv(path, schema=schema) if path.suffix == ".csv" else pl.scan_ndjson(path, schema=schema)
    if isinstance(spec, InteractionsSpec):
        rows = rows.with_columns(pl.col("event_time").str.to_datetime(TIME, time_unit="us", time_zone="UTC"))
    return rows.collect(engine="streaming")


def measure_all(steps: Steps, catalogue: Path, log: Path, items: int, events: int) -> None:
    rules = EventRules(InteractionsSpec(), datetime.now(UTC))
    for kind in KINDS:
        items_path, log_path = (path.with_suffix(f".{kind}") for path in (catalogue, log))
        measure(steps, items_path, items, ItemsSpec(), lambda part: item_columns.parse(part, ItemsSpec()))
        measure(steps, log_path, events, InteractionsSpec(), lambda part: event_columns.parse(part, rules))


def report(steps: Steps) -> None:
    """Print the CPU time a row of each step, and that of polars' readers, with casts, as a share of it."""
    for section in ("items", "interactions"):
        for kind in KINDS:
            read, convert, peer, whole = (
                steps.microseconds(f"{section} {kind} {step}") for step in ("read", "convert", "polars", "ingest")
            )
            print(
                f"{section + ' ' + kind:<18} {peer / read:.2f} x polars' reader, with conversion and hashes "
                f"{peer / (read + convert):.2f} x: read {read:.2f}, convert {convert:.2f}, polars {peer:.2f} us of CPU "
                f"a row; whole ingest {whole:.2f}, {steps.rate(f'{section} {kind} ingest'):,.0f} a second"
            )
