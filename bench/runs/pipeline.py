"""A bootstrap, and a night after it, on a synthetic shop: `python -m bench pipeline --items N`.

Its vectors are given, or, with `--texts`, made of titles and brands by a static encoder. The command runs in a process
of its own. Stages and their seconds are those of the run's record; CPU seconds, memory and bytes are those of all its
processes, sampled meanwhile. Bytes read and written include those of pipes and of the page cache. The share of checks
is the time in which files were compared with their hashes (bench.runs.checked_run).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import polars as pl

from bench.runs.made_shop import DAYS, Delivery, Shop
from bench.runs.process_tree import Samples, Used, sampled
from bench.speed.encoders import save_static_model
from storage.commit import Provenance
from storage.lake import Lake
from storage.retention.collect import collect
from storage.retention.policy import Policy

NIGHT_ITEMS, NIGHT_EVENTS = 1_000, 20_000
GC_EVERY = 10
"""Nights between two `lake gc`, which keeps as many releases."""
GIB = 1 << 30
GIVEN = """\
[vectors.given]
path = "{vectors}"
"""
TEXTS = """\
[text]
encoder = "sentence-transformers"
model = "{model}"
fields = ["title", "brand"]
"""
REST = """\

[collaborative]
method = "sppmi"

[codebook]
levels = [{{ codes = 256 }}, {{ codes = 256 }}, {{ codes = 256 }}, {{ codes = 256 }}]
sample = 65_536
"""
RECIPE = GIVEN + REST


@dataclass(frozen=True)
class Stage:
    """A stage of a run, or the time between two stages."""

    name: str
    start: float
    stop: float


@dataclass(frozen=True)
class Measured:
    """The stages of a command, what was used meanwhile, and the seconds of the command and of its checks of files."""

    stages: list[Stage]
    samples: Samples
    seconds: float
    checks: float

    @property
    def beyond_start(self) -> tuple[float, float]:
        """Times at which the first stage began, and at which the command ended."""
        return self.stages[0].stop, self.stages[-1].stop


def run(options: argparse.Namespace) -> None:
    """Print the stages of a bootstrap, with `--night` those of a night, with `--backfill` those of two backfills.

    With `--nights` a line for each night. The backfills fit another codebook, on one core and one worker, and on two of
    each.
    """
    events = options.events or 5 * options.items
    with _folder(options.scratch) as folder:
        lake = Lake(options.lake or str(folder / "lake"))
        recipe = folder / "recipe.toml"
        first = Shop(options.items).write(folder / "first", events)
        recipe.write_text(_text_recipe(folder) if options.texts else RECIPE.format(vectors=first.vectors))
        print(f"bootstrap: {options.items:,} items{' with texts' if options.texts else ''}, {events:,} events")
        command = ["bootstrap", "--recipe", str(recipe)]
        _print(measure(command, lake, first, folder / "bootstrap.log"), options.items)
        if options.night or options.nights:
            run_nights(lake, options.items, options.nights, folder, options.texts)
        for workers in (1, 2) if options.backfill else ():
            print(f"backfill, {workers} workers: {options.items:,} items")
            command = ["backfill", "--set", f"codebook.seed={workers}", "--set", f"compute.cpus={1 + workers}"]
            made = measure(command, lake, None, folder / f"backfill-{workers}.log", cores=workers)
            _print(made, options.items)


def _text_recipe(folder: Path) -> str:
    """Return a recipe that encodes titles and brands by a static model, which is made here."""
    save_static_model(folder / "model")
    return (TEXTS + REST).format(model=folder / "model")


def run_nights(lake: Lake, items: int, nights: int, folder: Path, texts: bool) -> None:
    """Run nights on a lake of some items, and print a line for each; the stages of one night for no number.

    `lake gc` runs after every GC_EVERY nights. Its bytes and files are those left after it.
    """
    fresh = min(NIGHT_ITEMS, items // (2 + max(1, nights)))  # the codebook has room for twice the items of its fit
    print(f"night: {fresh:,} items, {NIGHT_EVENTS:,} events")
    if nights:
        print("| night | seconds | CPU s | read MB | wrote MB | delivered MB | files | MB of the lake | open ms |")
        print("|---|---|---|---|---|---|---|---|---|")
    for night in range(max(1, nights)):
        first, place = items + night * fresh, folder / f"night-{night + 1}"
        more = Shop(first + fresh).write(place, NIGHT_EVENTS, first, day=DAYS + night, days=1)
        command = ["nightly", *([] if texts else ["--set", f'vectors.given.path="{more.vectors}"'])]
        made = measure(command, lake, more, folder / f"night-{night + 1}.log")
        if not nights:
            _print(made, fresh)
            return
        used = made.samples.between(*made.beyond_start)
        if (night + 1) % GC_EVERY == 0:
            collect(lake, Policy(keep=GC_EVERY, grace=timedelta(0)), Provenance("bench", ""), remove=True)
        files = [path.stat().st_size for path in Path(lake.uri).rglob("*") if path.is_file()]
        delivered = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        print(
            f"| {night + 1} | {made.beyond_start[1] - made.beyond_start[0]:.1f} | {used.cpu_s:.1f} "
            f"| {used.read / 1e6:,.0f} | {used.written / 1e6:,.0f} | {delivered / 1e6:.1f} | {len(files):,} "
            f"| {sum(files) / 1e6:,.0f} | {_opened_ms(lake.uri):.0f} |",
            flush=True,
        )


def _opened_ms(uri: str) -> float:
    """Return the milliseconds in which the tables of a lake are opened at their newest version."""
    start = time.perf_counter()
    lake = Lake(uri)
    for table in ("items", "interactions", "vectors", "sids"):
        lake.data_files(table)
    return 1e3 * (time.perf_counter() - start)


def measure(command: list[str], lake: Lake, given: Delivery | None, output: Path, cores: int | None = None) -> Measured:
    """Run a command of `sidmill run`, on a delivery if it reads one; return what each of its stages used.

    It has that many `cores` of this machine, all by default.
    """
    ours = sorted(os.sched_getaffinity(0))[:cores]
    before = lake.version("runs")
    sources = ["--items", str(given.items), "--interactions", str(given.log)] if given else []
    sources += ["--lake", lake.uri]
    checks = output.with_suffix(".checks.json")
    program = [sys.executable, "-m", "bench.runs.checked_run", str(checks)]
    start = time.time()
    with output.open("wb") as file:
        child = subprocess.Popen(
            [*program, "run", *command, *sources],
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=partial(os.sched_setaffinity, 0, ours),
        )
        with sampled(child.pid) as samples:
            code = child.wait()
    stop = time.time()
    if code:
        raise RuntimeError(f"`sidmill run {command[0]}` ended with exit code {code}:\n{output.read_text()}")
    spent = json.loads(checks.read_text())
    return Measured(stages_of(lake, before, start, stop), samples, spent["seconds"], spent["checks"])


def stages_of(lake: Lake, before: int, start: float, stop: float) -> list[Stage]:
    """Return the stages that were recorded after a version of the table of runs and a time, and the times between them.

    The time leaves out stages of earlier runs, whose rows a run may have joined in new files.
    """
    rows = pl.DataFrame(lake.read_added("runs", before, lake.version("runs"), ["event", "name", "detail", "at"]))
    ours = rows.filter(pl.col("event") == "stage", pl.col("at").dt.epoch("ms") >= 1e3 * start)
    found: list[Stage] = []
    for name, detail, at in ours.sort("at").select("name", "detail", "at").iter_rows():
        end = at.timestamp()
        found.append(Stage(name, end - json.loads(detail)["seconds"], end))
    if not found:
        raise RuntimeError("the run recorded no stage")
    edges = [start, *(each.stop for each in found)]
    names = ["start", *(f"  after {each.name}" for each in found)]
    gaps = [Stage(name, edge, each.start) for name, edge, each in zip(names, edges, found, strict=False)]
    whole = [each for pair in zip(gaps, found, strict=True) for each in pair]
    return [*whole, Stage(names[-1], found[-1].stop, stop)]


def _print(made: Measured, items: int) -> None:
    stages, samples = made.stages, made.samples
    heads = f"{'driver GiB':>12}{'all GiB':>9}{'read MB':>10}{'wrote MB':>10}{'items/s':>11}"
    print(f"  {'stage':<24}{'seconds':>9}{'CPU s':>9}{heads}")
    for each in stages:
        if each.stop - each.start > 0.1:
            _line(each.name, each.stop - each.start, samples.between(each.start, each.stop), items)
    first, (begun, last) = stages[0].start, made.beyond_start
    _line("beyond the start", last - begun, samples.between(begun, last), items)
    _line("all", last - first, samples.between(first, last), items)
    print(f"  checks of files: {made.checks:.2f} s, {made.checks / made.seconds:.1%} of the command", flush=True)


def _line(name: str, seconds: float, used: Used, items: int) -> None:
    memory = f"{used.first_memory / GIB:>12.2f}{used.memory / GIB:>9.2f}"
    moved = f"{used.read / 1e6:>10,.0f}{used.written / 1e6:>10,.0f}"
    print(f"  {name:<24}{seconds:>9.1f}{used.cpu_s:>9.1f}{memory}{moved}{items / seconds:>11,.0f}", flush=True)


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    """Yield the folder given, which is kept, or one that is removed at the end."""
    if kept is not None:
        kept.mkdir(parents=True)
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="sidmill-pipeline-") as name:
        yield Path(name)
