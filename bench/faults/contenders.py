"""Processes that write to a lake or read it at once, for `bench contention`; they import little, so they start soon."""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from multiprocessing.synchronize import Event, Semaphore
from pathlib import Path

import pyarrow as pa

from sidmill.release import open_trie
from storage.commit import Provenance, append
from storage.errors import PointerMoved
from storage.lake import Lake
from storage.releases.pointers import move_pointer, read_pointer
from storage.releases.releases import published, read_release
from storage.schemas import VECTORS

WHO = Provenance("bench", "")
COUNTER = "counter"


def write_and_count(task: tuple[str, int, float]) -> tuple[list[float], list[float]]:
    """Append and count in turn until the time is over; return the seconds of each."""
    uri, writer, seconds = task
    lake, until = Lake(uri), time.monotonic() + seconds
    times: tuple[list[float], list[float]] = ([], [])
    while time.monotonic() < until:
        name = f"{writer}-{len(times[0])}"
        times[0].append(seconds_of(partial(append, lake, "vectors", vector_row(name), name, WHO)))
        times[1].append(seconds_of(partial(_count, lake)))
    return times


def _count(lake: Lake) -> None:
    while True:
        seen = read_pointer(lake, COUNTER)
        with contextlib.suppress(PointerMoved):
            move_pointer(lake, seen, seen.value + 1, "count", WHO)
            return


def vector_row(item: str) -> pa.Table:
    """Return a row of the table of vectors."""
    row = {"item_id": item, "modality": "text", "content_hash": "h", "fingerprint": "f", "vector": [1.0]}
    return pa.Table.from_pylist([row], schema=VECTORS.schema)


def read_production(
    uri: str, pairs: dict[str, tuple[str | None, int]], place: Path, started: Semaphore, over: Event
) -> None:
    """Resolve production until it is over; count the reads of each release, and those that are no pair."""
    seen = Counter[str]()
    started.release()
    while not over.is_set():
        lake = Lake(uri)
        pair = published(lake)
        assert pair is not None
        items = len(open_trie(lake, read_release(lake, pair.release)))
        seen[pair.release if pairs.get(pair.release) == (pair.model, items) else "mixed"] += 1
    place.write_text(json.dumps(seen))


def seconds_of(function: Callable[[], object]) -> float:
    """Return the wall time of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
