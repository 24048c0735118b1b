"""The time of the event at a rank of a log, found from the bounds of its files and the rows of a few of them."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import compress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from storage.files.data_files import DataFile
from storage.lake import Lake
from storage.schemas import TIME

Times = NDArray[np.int64]
"""Microseconds since 1970."""


@dataclass(frozen=True)
class EventTimes:
    """Times of the events of a table version that arrived by `as_of`, ascending."""

    lake: Lake
    version: int
    as_of: datetime

    def __len__(self) -> int:
        return self.lake.count("interactions", self.version, ds.field("arrival_time") <= self.as_of)

    def __getitem__(self, rank: int) -> datetime:
        """Return the time of the event at a rank, 0 for the earliest.

        The bounds of the files tell between which two times it lies. Files wholly before these count with their number
        of rows, and files wholly after are left out. Of a log in order of time, one or two files are read.
        """
        bounded = [each for each in self._files if self._is_bounded(each)]
        low, high = (_numbers(pa.array([each.bounds["event_time"][side] for each in bounded], TIME)) for side in (0, 1))
        rows = np.array([each.rows for each in bounded], np.int64)
        others = self._read([each for each in self._files if not self._is_bounded(each)])
        earliest, latest = _time_at(rank, low, rows, others), _time_at(rank, high, rows, others)
        near = (low <= latest) & (high >= earliest)
        times = np.concatenate([others, self._read(list(compress(bounded, near)))])
        at = rank - int(rows[high < earliest].sum())
        found: datetime = pa.scalar(int(np.partition(times, at)[at]), TIME).as_py()
        return found

    @cached_property
    def _files(self) -> list[DataFile]:
        return self.lake.data_files("interactions", self.version)

    def _is_bounded(self, file: DataFile) -> bool:
        """Return whether the log tells the bounds of a file's times, and that all of its rows arrived."""
        arrived, happened = file.bounds.get("arrival_time"), file.bounds.get("event_time")
        return bool(file.rows is not None and happened and arrived and arrived[1] <= self.as_of)

    def _read(self, files: list[DataFile]) -> Times:
        rows = self.lake.read_files("interactions", files, ["event_time", "arrival_time"])
        seen = rows.filter(pc.field("arrival_time") <= self.as_of)
        return _numbers(seen["event_time"].combine_chunks())


def _time_at(rank: int, bounds: Times, rows: NDArray[np.int64], others: Times) -> int:
    """Return the time at a rank if all `rows` of each file happened at its bound; `others` are times of single rows."""
    times, counts = np.concatenate([bounds, others]), np.concatenate([rows, np.ones(len(others), np.int64)])
    order = np.argsort(times, kind="stable")
    return int(times[order][np.searchsorted(np.cumsum(counts[order]), rank + 1)])


def _numbers(times: pa.Array) -> Times:
    return np.asarray(times.cast(pa.int64()))
