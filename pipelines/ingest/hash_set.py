"""Set of 64-bit hashes that grows by large arrays and is asked for large arrays. Memory holds few of them."""

import os
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import IO, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from pipelines.sources.row import SourceError

Hashes = npt.NDArray[np.uint64]
BLOCK = 1 << 19
"""Hashes of a run in a file that are in memory at a time."""
IN_MEMORY = 1 << 22
"""Most hashes of a run in memory; longer runs are files."""
_NONE = np.zeros(0, np.uint64)


_PROBE = pl.Series(["sidmill"])


def id_hashes(ids: pl.Series) -> Hashes:
    """Return a hash of each id, which all processes with the same version of polars compute alike."""
    return ids.hash().to_numpy()


def hash_probe() -> int:
    """Return a hash by which another process can tell whether it hashes as this one does."""
    return int(id_hashes(_PROBE)[0])


def require_same_hashes(probe: int) -> None:
    """Raise SourceError unless this process hashes as the one that made the probe."""
    if hash_probe() != probe:
        raise SourceError(
            f"this worker has polars {pl.__version__}, which hashes ids otherwise than that of the process of the run: "
            "install the same version on all nodes"
        )


@dataclass(frozen=True, eq=False)
class FileRun:
    """Sorted hashes in an unnamed file, which disappears with its last reader."""

    file: IO[bytes]
    firsts: Hashes
    size: int

    @classmethod
    def of(cls, blocks: Iterator[Hashes]) -> "FileRun":
        """Write ascending blocks, of at most 2 * BLOCK hashes each, to a file."""
        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed, and so deleted, with its run
        firsts, size, waiting = list[np.uint64](), 0, _NONE
        for block in chain(blocks, [_NONE]):
            waiting = np.concatenate([waiting, block])
            while len(waiting) >= BLOCK or (not len(block) and len(waiting)):
                file.write(waiting[:BLOCK].tobytes())
                firsts.append(waiting[0])
                size += len(waiting[:BLOCK])
                waiting = waiting[BLOCK:]
        file.flush()  # a full disk raises an error here at the latest
        made = cls(file, np.array(firsts, np.uint64), size)
        weakref.finalize(made, file.close)
        return made

    def __len__(self) -> int:
        return self.size

    def block(self, number: int) -> Hashes:
        """Return one block, all but the last of BLOCK hashes."""
        data = os.pread(self.file.fileno(), 8 * BLOCK, 8 * BLOCK * number)
        return np.frombuffer(data, np.uint64)

    def __iter__(self) -> Iterator[Hashes]:
        return map(self.block, range(len(self.firsts)))

    def holds(self, wanted: Hashes) -> npt.NDArray[np.bool_]:
        """Return for each of some ascending hashes whether it is in the run; only blocks that may hold one are read."""
        found = np.zeros(len(wanted), bool)
        starts = np.searchsorted(wanted, self.firsts)
        for number, (start, stop) in enumerate(zip(starts, [*starts[1:], len(wanted)], strict=True)):
            if start < stop:
                found[start:stop] = _holds(self.block(number), wanted[start:stop])
        return found


Run: TypeAlias = "Hashes | FileRun"


class SeenHashes:
    """Hashes in sorted runs, each at least twice as long as the next: 8 bytes a hash, and few runs to search.

    Adding n hashes costs O(n log n) in all, as in a log-structured merge tree. Long runs are files of TMPDIR.
    """

    def __init__(self) -> None:
        self._runs: list[Run] = []

    def add(self, hashes: Hashes) -> None:
        if not len(hashes):
            return
        run: Run = hashes if _ascend(hashes) else np.sort(hashes)
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = _merged(self._runs.pop(), run)
        self._runs.append(run)

    def has(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Return for each hash whether it was added."""
        found = np.zeros(len(hashes), bool)
        if not self._runs:
            return found
        order = slice(None) if _ascend(hashes) else np.argsort(hashes)
        wanted = hashes[order]
        for run in self._runs:
            found[order] |= run.holds(wanted) if isinstance(run, FileRun) else _holds(run, wanted)
        return found


def _ascend(hashes: Hashes) -> bool:
    return bool((hashes[1:] >= hashes[:-1]).all())


def _holds(run: Hashes, wanted: Hashes) -> npt.NDArray[np.bool_]:
    places = np.minimum(np.searchsorted(run, wanted), len(run) - 1)
    return np.asarray(run[places] == wanted)


def _merged(one: Run, other: Run) -> Run:
    if not isinstance(one, FileRun) and not isinstance(other, FileRun) and len(one) + len(other) <= IN_MEMORY:
        return np.sort(np.concatenate([one, other]), kind="stable")  # merges sorted halves
    return FileRun.of(_merged_blocks(_blocks(one), _blocks(other)))


def _blocks(run: Run) -> Iterator[Hashes]:
    if isinstance(run, FileRun):
        yield from run
    else:
        yield from (run[start : start + BLOCK] for start in range(0, len(run), BLOCK))


def _merged_blocks(ones: Iterator[Hashes], others: Iterator[Hashes]) -> Iterator[Hashes]:
    """Yield the hashes of two ascending sequences of blocks, ascending, in blocks of at most 2 * BLOCK."""
    one, other = next(ones, _NONE), next(others, _NONE)
    while len(one) and len(other):
        last = min(one[-1], other[-1])
        taken, taken_too = (int(np.searchsorted(each, last, side="right")) for each in (one, other))
        yield np.sort(np.concatenate([one[:taken], other[:taken_too]]), kind="stable")
        one = one[taken:] if taken < len(one) else next(ones, _NONE)
        other = other[taken_too:] if taken_too < len(other) else next(others, _NONE)
    yield from (each for each in chain([one], ones, [other], others) if len(each))
