"""Event times of a log by rank, found with the bounds of its files and the rows of few of them."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

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

    def __getitem__(self, place: int) -> datetime:
        """Return the time at a place, 0 for the earliest.

        A file whose events lie wholly before or after it counts with its number of rows. Of a log in order of time, one
        or two files are read.
        """
        low, high, rows = self._known
        loose = self._read([each for each in self._files if not self._is_known(each)])
        most, least = _Steps(low, rows, loose), _Steps(high, rows, loose)
        first, last = most.reaching(place + 1), least.reaching(place + 1)
        near = (low <= last) & (high >= first)
        known = [each for each in self._files if self._is_known(each)]
        times = np.concatenate([loose, self._read([each for each, read in zip(known, near, strict=True) if read])])
        at = place - int(rows[high < first].sum())
        found: datetime = pa.scalar(int(np.partition(times, at)[at]), TIME).as_py()
        return found

    @cached_property
    def _files(self) -> list[DataFile]:
        return self.lake.data_files("interactions", self.version)

    def _is_known(self, file: DataFile) -> bool:
        """Return whether the log tells the bounds of a file's times, and that all of its rows arrived."""
        arrived, happened = file.bounds.get("arrival_time"), file.bounds.get("event_time")
        return bool(file.rows is not None and happened and arrived and arrived[1] <= self.as_of)

    @property
    def _known(self) -> tuple[Times, Times, Times]:
        """Least time, greatest time and number of rows of each file whose bounds are known."""
        known = [each for each in self._files if self._is_known(each)]
        low, high = (pa.array([each.bounds["event_time"][side] for each in known], TIME) for side in (0, 1))
        return _numbers(low), _numbers(high), np.array([each.rows for each in known], np.int64)

    def _read(self, files: list[DataFile]) -> Times:
        rows = self.lake.read_files("interactions", [each.path for each in files], ["event_time", "arrival_time"])
        seen = rows.filter(pc.field("arrival_time") <= self.as_of)
        return _numbers(seen["event_time"].combine_chunks())


class _Steps:
    """The number of events up to a time, if all events of a file lay at one of its bounds."""

    def __init__(self, bounds: Times, rows: Times, loose: Times) -> None:
        times = np.concatenate([bounds, loose])
        order = np.argsort(times, kind="stable")
        self._times = times[order]
        self._upto = np.cumsum(np.concatenate([rows, np.ones(len(loose), np.int64)])[order])

    def reaching(self, count: int) -> int:
        """Return the least time up to which there are `count` events."""
        return int(self._times[np.searchsorted(self._upto, count)])


def _numbers(times: pa.Array) -> Times:
    return np.asarray(times.cast(pa.int64()))
