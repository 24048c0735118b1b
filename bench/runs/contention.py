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
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from bench.runs.nights import ITEMS, RECIPE, catalogue_of, log_of
from bench.runs.store import store_server
from flows.bootstrap import bootstrap
from flows.nightly import nightly
from sidmill.release import open_trie
from storage.commit import Provenance, append
from storage.errors import PointerMoved
from storage.lake import Lake
from storage.releases.models import ModelCard, record_model
from storage.releases.pointers import move_pointer, pointer_history, read_pointer
from storage.releases.publishing import publish, rollback
from storage.releases.releases import Published, published, read_release
from storage.schemas import VECTORS

WHO = Provenance("bench", "")
COUNTER = "counter"
READERS = 2


def run(options: argparse.Namespace) -> None:
    """Print the times of commits, and what was lost, doubled or mixed. Raise RuntimeError if anything was."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sidmill-contention-")))
        place = str(folder)
        if options.store:
            stack.enter_context(store_server(folder / "requests"))
            place = "s3://bench"
        faults = [*_write(f"{place}/written", options.writers, options.seconds), *_publish(folder, place, options)]
    if faults:
        raise RuntimeError("; ".join(faults))


def _write(uri: str, writers: int, seconds: float) -> list[str]:
    append(Lake(uri), "vectors", _vector("first"), "first", WHO)  # the tables are there
    move_pointer(Lake(uri), read_pointer(Lake(uri), COUNTER), 0, "count", WHO)
    with multiprocessing.get_context("spawn").Pool(writers) as pool:
        tasks = [(uri, number, seconds) for number in range(writers)]
        found = pool.map(_writer, tasks, chunksize=1)
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


def _writer(task: tuple[str, int, float]) -> tuple[list[float], list[float]]:
    """Append and count in turn until the time is over; return the seconds of each."""
    uri, writer, seconds = task
    lake, until = Lake(uri), time.monotonic() + seconds
    times: tuple[list[float], list[float]] = ([], [])
    while time.monotonic() < until:
        name = f"{writer}-{len(times[0])}"
        times[0].append(_seconds(partial(append, lake, "vectors", _vector(name), name, WHO)))
        times[1].append(_seconds(partial(_count, lake)))
    return times


def _count(lake: Lake) -> None:
    while True:
        seen = read_pointer(lake, COUNTER)
        with contextlib.suppress(PointerMoved):
            move_pointer(lake, seen, seen.value + 1, "count", WHO)
            return


def _vector(item: str) -> pa.Table:
    row = {"item_id": item, "modality": "text", "content_hash": "h", "fingerprint": "f", "vector": [1.0]}
    return pa.Table.from_pylist([row], schema=VECTORS.schema)


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
    readers = [context.Process(target=_read, args=(lake.uri, pairs, each, started, over)) for each in places]
    for reader in readers:
        reader.start()
    for _ in readers:
        started.acquire()
    back = partial(rollback, lake, WHO, to=old.id)
    forth = partial(publish, lake, new.id, WHO, second.model)
    times = [_seconds(forth if number % 2 else back) for number in range(options.moves)]
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
    model = record_model(lake, release, release, vocabulary, weights, ModelCard(), WHO)
    return publish(lake, release, WHO, model)


def _read(uri: str, pairs: dict[str, tuple[str | None, int]], place: Path, started: object, over: object) -> None:
    """Resolve production until it is over; count the reads of each release, and those that are no pair."""
    seen = Counter[str]()
    started.release()  # type: ignore[attr-defined]
    while not over.is_set():  # type: ignore[attr-defined]
        lake = Lake(uri)
        pair = published(lake)
        assert pair is not None
        items = len(open_trie(lake, read_release(lake, pair.release)))
        seen[pair.release if pairs.get(pair.release) == (pair.model, items) else "mixed"] += 1
    place.write_text(json.dumps(seen))


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
