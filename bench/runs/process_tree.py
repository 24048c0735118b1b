"""CPU time, memory and bytes of a process and all that it starts, sampled while it runs."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import psutil

PAUSE_S = 0.5
MAPPED = 256 << 20
"""Resident bytes from which a process counts with its proportional set size, which is slow to read."""


@dataclass(frozen=True)
class Used:
    """Use of a tree of processes in a span of time. Memory is its peak: of the first process, and of all."""

    cpu_s: float
    read: float
    written: float
    first_memory: float
    memory: float


@dataclass
class Samples:
    """One sample a time: sums since the start (CPU seconds, bytes read, bytes written) and memory now (first, all)."""

    times: list[float] = field(default_factory=list)
    sums: list[tuple[float, float, float]] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)

    def between(self, start: float, stop: float) -> Used:
        """Return what was used from one time to another. Sums are interpolated."""
        times, sums, memory = np.array(self.times), np.array(self.sums), np.array(self.memory)
        cpu, read, written = (float(np.diff(np.interp([start, stop], times, column))[0]) for column in sums.T)
        low, high = np.searchsorted(times, start), np.searchsorted(times, stop, side="right")
        held = memory[max(0, low - 1) : high + 1]
        return Used(cpu, read, written, float(held[:, 0].max()), float(held[:, 1].max()))


@contextmanager
def sampled(pid: int) -> Iterator[Samples]:
    """Sample the tree of a process in a thread."""
    made, over = Samples(), threading.Event()
    thread = threading.Thread(target=_sample, args=(psutil.Process(pid), made, over), name="sampler", daemon=True)
    thread.start()
    try:
        yield made
    finally:
        over.set()
        thread.join()


def _sample(first: psutil.Process, made: Samples, over: threading.Event) -> None:
    known: dict[psutil.Process, tuple[float, float, float]] = {}
    while not over.wait(PAUSE_S):
        held = {}
        for process in _tree(first):
            with suppress(psutil.Error):  # it ended; what it used until the last sample stays counted
                known[process], held[process] = _sums(process), _memory(process)
        for process in known.keys() - held.keys():
            if not process.is_running():  # its bytes are in the counters of its parent, which waited for it
                known[process] = (known[process][0], 0.0, 0.0)
        if first in held:
            made.times.append(time.time())
            cpu, read, written = np.maximum(np.sum(list(known.values()), axis=0), made.sums[-1] if made.sums else 0.0)
            made.sums.append((float(cpu), float(read), float(written)))
            made.memory.append((held[first], sum(held.values())))


def _tree(first: psutil.Process) -> list[psutil.Process]:
    try:
        return [first, *first.children(recursive=True)]
    except psutil.Error:
        return []


def _sums(process: psutil.Process) -> tuple[float, float, float]:
    with process.oneshot():
        times, counters = process.cpu_times(), process.io_counters()
    return times.user + times.system, float(counters.read_chars), float(counters.write_chars)


def _memory(process: psutil.Process) -> float:
    """Return resident bytes; of a page that several processes map each has its share."""
    resident = process.memory_info().rss
    return float(resident if resident < MAPPED else process.memory_full_info().pss)
