"""Hashes of contents: 16 bytes of BLAKE2b, in hexadecimal digits.

Python hashes one content at a time and lets no other thread run meanwhile. Many contents are therefore hashed by a
process beside this one, if there is a second core.
"""

import atexit
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from storage.hashing import process
from storage.hashing.process import DIGEST_BYTES, HEAD, digests

Offsets = NDArray[np.int64]
_DIGITS = np.array([f"{byte:02x}".encode() for byte in range(256)]).view(np.uint16)
"""The two digits of each byte."""
MIN_BESIDE = 1 << 15
"""Fewest contents that are worth a request to another process."""


def content_hashes(contents: pl.Series) -> pl.Series:
    """Return the hash of each content, of texts over their UTF-8; null for null."""
    present = contents.drop_nulls()
    column: Any = present.cast(pl.Binary).to_arrow().cast(pa.large_binary())
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    values = memoryview(data)[ends[0] : ends[-1]] if data is not None and len(column) else memoryview(b"")
    hashes = _hexadecimal(_digests(values, ends[1:] - ends[0]))
    if len(present) == len(contents):
        return hashes
    places = contents.is_not_null().cum_sum() - 1
    return hashes.gather(pl.select(pl.when(contents.is_not_null()).then(places)).to_series())


def row_hashes(rows: memoryview, width: int) -> pl.Series:
    """Return the hash of each row of `width` bytes."""
    return _hexadecimal(_digests(rows, np.arange(width, rows.nbytes + 1, width, dtype=np.int64)))


def _hexadecimal(found: bytes) -> pl.Series:
    digits = pa.py_buffer(_DIGITS[np.frombuffer(found, np.uint8)])
    ends = pa.py_buffer(np.arange(0, digits.size + 1, 2 * DIGEST_BYTES, dtype=np.int64))
    column = pa.LargeStringArray.from_buffers(digits.size // (2 * DIGEST_BYTES), ends, digits)
    return pl.Series("content_hash", column, dtype=pl.String)


_in_place = False


def hash_in_place() -> None:
    """Start no process beside this one from now on, as where the other cores have work of their own."""
    global _in_place
    _in_place = True


def _digests(data: memoryview, ends: Offsets) -> bytes:
    if len(ends) >= MIN_BESIDE and len(os.sched_getaffinity(0)) > 1 and not _in_place:
        found = _beside.digests(data, ends)
        if found is not None:
            return found
    return digests(data, ends.tolist())


class _Beside:
    """A process that hashes, started at the first request. It ends with this one, however that ends."""

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._forget)  # a fork has the pipes of its parent

    def _forget(self) -> None:
        self._started: subprocess.Popen[bytes] | None = None
        self._busy = threading.Lock()

    def digests(self, data: memoryview, ends: Offsets) -> bytes | None:
        """Return the digests; None if the process was ended. Threads take turns, as they would in this process."""
        with self._busy:
            return self._asked(data, ends)

    def _asked(self, data: memoryview, ends: Offsets) -> bytes | None:
        try:
            asked = self._process()
            assert asked.stdin is not None
            assert asked.stdout is not None
            for part in (HEAD.pack(len(ends), data.nbytes), ends.data, data):
                asked.stdin.write(part)
            asked.stdin.flush()
            found = asked.stdout.read(DIGEST_BYTES * len(ends))
        except OSError:
            found = b""
        if len(found) == DIGEST_BYTES * len(ends):
            return found
        self.end()
        return None

    def _process(self) -> "subprocess.Popen[bytes]":
        if self._started is None:
            self._started = _start()
        return self._started

    def end(self) -> None:
        """End the process, if it was started."""
        if self._started is not None:
            for pipe in (self._started.stdin, self._started.stdout):
                with suppress(OSError):  # what was not sent yet is not wanted any more
                    if pipe is not None:
                        pipe.close()
            self._started.wait()
        self._started = None


def _start() -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-I", "-S", str(Path(process.__file__))]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


_beside = _Beside()
atexit.register(_beside.end)
