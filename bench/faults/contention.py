"""Many writers and readers on one lake at once: `python -m bench contention --seconds N --moves N [--store]`.

Writers append rows and increment a counter by compare-and-swap: no row and no count may be lost or doubled. Then
production goes back and forth between two releases, each with its model, while readers resolve it: each has to see one
of the two pairs, with the trie of its release. With `--store` the lake is in moto's S3 on this machine, so that seconds
say nothing of a real one.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import statistics
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import pyarrow.fs as pafs

from bench.faults.contenders import COUNTER, WHO, read_production, seconds_of, vector_row, write_and_count
from bench.runs.nights import ITEMS, RECIPE, catalogue_of, log_of
from bench.runs.s3_server import BUCKET
from bench.runs.store import store_server
from flows.bootstrap import bootstrap
from flows.nightly import nightly
from storage.commit import append
from storage.lake import Lake
from storage.releases.models import ModelCard, TrainedModel, record_model
from storage.releases.pointers import Published, move_pointer, pointer_history, read_pointer
from storage.releases.publishing import Publication, publish, rollback
from storage.releases.releases import read_release

READERS = 2


def run(options: argparse.Namespace) -> None:
    """Print the times of commits, and what was lost, doubled or mixed. Raise RuntimeError if anything was."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sidmill-contention-")))
        place = str(folder)
        if options.store:
            stack.enter_context(store_server(folder / "requests"))
            place = f"s3://{BUCKET}"
        faults = [*_write(f"{place}/written", options.writers, options.seconds), *_publish(folder, place, options)]
    if faults:
        raise RuntimeError("; ".join(faults))


def _write(uri: str, writers: int, seconds: float) -> list[str]:
    append(Lake(uri), "vectors", vector_row("first"), "first", WHO)  # the tables are there
    move_pointer(Lake(uri), read_pointer(Lake(uri), COUNTER), 0, "count", WHO)
    with multiprocessing.get_context("spawn").Pool(writers) as pool:
        tasks = [(uri, number, seconds) for number in range(writers)]
        found = pool.map(write_and_count, tasks, chunksize=1)
    appends, swaps = ([each for one in found for each in one[kind]] for kind in range(2))
    for name, times in (("append", appends), ("swap", swaps)):
        cut = statistics.quantiles(times, n=100)
        print(f"{name:<8} {len(times):>6,} commits  p50 {cut[49] * 1e3:>7,.0f} ms  p99 {cut[98] * 1e3:>7,.0f} ms")
    items = Counter(Lake(uri).read("vectors", columns=["item_id"])["item_id"].to_pylist())
    counts = [move.value for move in pointer_history(Lake(uri), COUNTER)[1:]]
    lost, doubled = len(appends) + 1 - len(items), sum(items.values()) - len(items)
    print(f"{writers} writers, {seconds:.0f} s: {lost} rows lost, {doubled} doubled", flush=True)
    right = counts == list(range(len(swaps) + 1))
    return [f"{lost} rows lost, {doubled} doubled"] * bool(lost or doubled) + ["the counter is wrong"] * (not right)


def _publish(folder: Path, place: str, options: argparse.Namespace) -> list[str]:
    """Move production back and forth under readers."""
    made = Lake(str(folder / "made"))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        bootstrap(made.uri, RECIPE, [catalogue_of(folder, *range(ITEMS))], [log_of(folder, 0)])
        first = _with_model(made, "r-000001")
        nightly(made.uri, None, [catalogue_of(folder, ITEMS)], [log_of(folder, 1)])
        second = _with_model(made, "r-000002")
    if options.store:
        pafs.copy_files(made.uri, f"{place}/made", use_threads=False)
    lake = Lake(f"{place}/made")
    old, new = (read_release(lake, each.release) for each in (first, second))
    pairs = {old.id: (first.model, old.items), new.id: (second.model, new.items)}
    context = multiprocessing.get_context("spawn")
    over, started = context.Event(), context.Semaphore(0)
    places = [folder / f"reader-{number}" for number in range(READERS)]
    readers = [context.Process(target=read_production, args=(lake.uri, pairs, each, started, over)) for each in places]
    for reader in readers:
        reader.start()
    for _ in readers:
        started.acquire()
    back = partial(rollback, lake, WHO, to=old.id)
    forth = partial(publish, lake, Publication(new.id, model=second.model), WHO)
    times = [seconds_of(forth if number % 2 else back) for number in range(options.moves)]
    over.set()
    for reader in readers:
        reader.join()
    seen = Counter[str]()
    for each in places:
        seen.update(json.loads(each.read_text()))
    reads, mixed = sum(seen.values()), seen.get("mixed", 0)
    cut = statistics.quantiles(times, n=100)
    kinds = ", ".join(f"{count:,} of {name}" for name, count in sorted(seen.items()))
    print(f"{'move':<8} {len(times):>6,} commits  p50 {cut[49] * 1e3:>7,.0f} ms  p99 {cut[98] * 1e3:>7,.0f} ms")
    print(f"{READERS} readers: {reads:,} reads ({kinds}), {mixed} mixed", flush=True)
    return [f"{mixed} reads saw a mixed pair"] * bool(mixed)


def _with_model(lake: Lake, release: str) -> Published:
    """Record a model of a release, and publish both."""
    vocabulary, weights = read_release(lake, release).codebook.vocabulary, lake.blobs.put(release.encode())
    model = record_model(lake, TrainedModel(release, release, vocabulary, weights, ModelCard()), WHO)
    return publish(lake, Publication(release, model=model), WHO)
