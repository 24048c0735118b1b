"""The share of a log's events whose item has a SID, measured on a sample of a log of any size."""

from collections.abc import Iterator
from datetime import timedelta

import numpy as np
import polars as pl
import pyarrow.compute as pc

from pipelines.event_log.visible_log import LogSlice
from storage.files.data_files import DataFile
from storage.lake import Lake
from tokenizer.trie.trie import Trie

ALL = 1 << 18
"""Events that are enough: a log whose files hold no more is read as a whole.

It is also the most that ingest writes into a file, and what a file counts whose rows the log does not tell.
"""
PLACES = 8
"""Places of a longer log, evenly spaced over its events in order of the names of files. The files there are read."""


def log_coverage(lake: Lake, log: LogSlice, trie: Trie) -> float | None:
    """Return the share of the visible events whose item is in the trie; None if none is seen.

    Of a log of more than ALL events, the files at PLACES places are read: the chance of a file to be among them grows
    with its events, and each place counts alike, with ALL / PLACES events, evenly spaced in the file. So the cost stays
    the same however long the log is, and an item that got or lost its SID long after its events counts as it is now.
    Names of files are hashes, so the places are spread over the log without regard to time.
    """
    seen = with_sid = 0.0
    for weight, step, files in _parts(_files(lake, log)):
        some = _visible_items(lake, log, files).gather_every(step)
        counts = some.value_counts(name="events")
        known = counts.filter(trie.find_rows(counts["item_id"].to_arrow()) >= 0)
        seen += weight * int(counts["events"].sum())
        with_sid += weight * int(known["events"].sum())
    return with_sid / seen if seen else None


def _files(lake: Lake, log: LogSlice) -> list[DataFile]:
    """Return the files that may hold a visible event, in order of their names."""
    found = []
    for file in lake.data_files("interactions", log.version):
        happened, arrived = file.bounds.get("event_time"), file.bounds.get("arrival_time")
        if (happened is None or happened[0] < log.cutoff) and (arrived is None or arrived[0] <= log.as_of):
            found.append(file)
    return sorted(found, key=lambda file: file.name)


def _visible_items(lake: Lake, log: LogSlice, files: list[DataFile]) -> pl.Series:
    """Return the items of the visible events of some files. Times are read only where their bounds leave a doubt."""
    columns, condition = ["item_id"], pc.scalar(True)
    for column, last in (("arrival_time", log.as_of), ("event_time", log.cutoff - timedelta.resolution)):
        bounds = [file.bounds.get(column) for file in files]
        if not all(known is not None and known[1] <= last for known in bounds):
            columns.append(column)
            condition &= pc.field(column) <= last
    rows = lake.read_files("interactions", files, columns).filter(condition)
    return pl.DataFrame(rows.select(["item_id"]))["item_id"]


def _parts(files: list[DataFile]) -> Iterator[tuple[float, int, list[DataFile]]]:
    """Yield how much an event counts, of how many one is taken, and the files to be read at once."""
    rows = np.array([ALL if file.rows is None else file.rows for file in files], np.int64)
    total = int(rows.sum())
    if total <= ALL:
        yield 1.0, 1, files
        return
    places = (2 * np.arange(PLACES) + 1) * total // (2 * PLACES)
    chosen, times = np.unique(np.searchsorted(np.cumsum(rows), places, side="right"), return_counts=True)
    for file, count in zip(chosen.tolist(), times.tolist(), strict=True):
        step = max(1, int(rows[file]) * PLACES // (ALL * count))
        yield step * count / int(rows[file]), step, [files[file]]
