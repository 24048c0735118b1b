"""Many nights on a small lake with `lake gc`, and what they leave: `python -m bench nights --nights N`.

Each night brings a new item and 20 events, in two files of about 1 kB. Times of nights are medians since the last row.
"""

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from flows.bootstrap import bootstrap
from flows.inspect.status import lake_status
from flows.inspect.verify import verify
from flows.nightly import nightly
from storage.commit import Provenance
from storage.lake import Lake
from storage.retention.collect import collect
from storage.retention.policy import Policy

ITEMS, EVENTS = 40, 20
RECIPE: dict[str, Any] = {
    "text": None,
    "attributes": {"fields": ["kind", "size"], "dim": 8},
    "fusion": {"method": "concat", "dim": 8},
    "codebook": {"levels": [{"codes": 16}, {"codes": 16}, {"codes": 16}], "growth": 20.0},
    "gates": {gate: {"limit": 1.0, "severity": "warn"} for gate in ("shrinkage", "events_without_sid")},
}


def run(options: argparse.Namespace) -> None:
    """Run nights, with a `lake gc` every so many, and print a row for each of these."""
    with tempfile.TemporaryDirectory(prefix="sidmill-nights-") as scratch, _quiet() as say:
        folder = Path(scratch)
        lake = Lake(str(folder / "lake"))
        bootstrap(lake.uri, RECIPE, [catalogue_of(folder, *range(ITEMS))], [log_of(folder, 0)])
        say("| night | files | MB | releases | night | status | verify | gc | gc removed |")
        say("|---|---|---|---|---|---|---|---|---|")
        seconds = []
        for night in range(1, options.nights + 1):
            seconds.append(_seconds(_night, lake, folder, night))
            if night % options.every == 0:
                say(_row(lake, night, statistics.median(seconds), options))
                seconds = []
        wrong = [each for each in verify(lake) if each.fault]
        say(f"{len(wrong)} faults found by verify at the end")


def _night(lake: Lake, folder: Path, night: int) -> None:
    made = nightly(lake.uri, None, [catalogue_of(folder, ITEMS + night)], [log_of(folder, night)])
    if not made["published"]:
        raise RuntimeError(f"night {night} published nothing: {made}")


def _row(lake: Lake, night: int, median: float, options: argparse.Namespace) -> str:
    removed, taken = "-", "-"
    if options.keep:
        start = time.perf_counter()
        policy = Policy(options.keep, timedelta(seconds=options.grace))
        found = collect(lake, policy, Provenance("bench", ""), remove=True)
        taken = f"{time.perf_counter() - start:.2f} s"
        removed = f"{len(found.garbage):,} files, {sum(each.size for each in found.garbage) / 1e6:.2f} MB"
    paths = [path for path in Path(lake.uri).rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in paths) / 1e6
    status, checked = _seconds(lake_status, lake), _seconds(lambda: list(verify(lake)))
    releases = len(lake_status(lake).releases)
    times = f"{median:.2f} s | {status:.2f} s | {checked:.2f} s | {taken}"
    return f"| {night} | {len(paths):,} | {size:.2f} | {releases} | {times} | {removed} |"


def catalogue_of(folder: Path, *numbers: int) -> str:
    """Write a catalogue of some items."""
    path = folder / f"items-{numbers[0]}.jsonl"
    rows = [
        {"item_id": f"i{number:05d}", "title": f"Item {number}", "kind": f"k{number % 5}", "size": f"s{number % 7}"}
        for number in numbers
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def log_of(folder: Path, night: int) -> str:
    """Write the log of a night: some events of one day."""
    path = folder / f"log-{night}.csv"
    day = f"2024-{1 + night // 28 % 12:02d}-{1 + night % 28:02d}"
    rows = [f"u{user},i{(night * 7 + user) % ITEMS:05d},{day}T00:00:{user:02d}" for user in range(EVENTS)]
    path.write_text("\n".join(["user_id,item_id,event_time", *rows]) + "\n")
    return str(path)


def _seconds(function: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


@contextlib.contextmanager
def _quiet() -> Iterator[Callable[[str], None]]:
    """Keep the output of runs off the terminal; yield a function that prints on it."""
    terminal = sys.stdout
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield lambda line: print(line, file=terminal, flush=True)
