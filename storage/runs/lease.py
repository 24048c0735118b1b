"""The lease of a kind of run on a lake: one run of the kind at a time, on any machine and however it was started.

The lease is a pointer; its value names the run that holds it, and its sequence is the fencing token (Kleppmann,
Designing Data-Intensive Applications, chapter 8). The holder has a file, which it changes every BEAT_S seconds and
deletes at its end. Another run takes the lease over if the file is gone, if the holder's process is gone from this
machine, or if the file stayed the same for LOST_S seconds by the clock of the one who waits: clocks of two machines are
not compared.

A holder that only stalled does not know that it lost the lease. Moves of aliases therefore check the token against the
table that they commit to (`Lease.require`): a run that lost its lease publishes nothing.
"""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pyarrow as pa

from storage.commit import Provenance
from storage.errors import LakeError, LeaseLost, LeaseTaken, PointerMoved
from storage.files.store import Files
from storage.lake import Lake
from storage.releases.pointers import Pointer, history_of, move_pointer, read_pointer
from storage.runs.process import may_live, this_process

PREFIX = "lease:"
"""Prefix of the names of pointers that are leases; the kind of run follows."""
FOLDER = "leases"
# Seconds between two signs of life of a holder, and seconds without one after which it counts as dead.
BEAT_S, LOST_S = 15.0, 120.0
# Seconds between two looks of a run that waits.
LOOK_S = 1.0


class Lease:
    """A lease from `take` to `close`. `waited`: another run held it before. `token` is 0 while it is not held."""

    def __init__(self, lake: Lake, kind: str, provenance: Provenance) -> None:
        self.name, self.run, self.waited, self.token = f"{PREFIX}{kind}", provenance.run, False, 0
        self._lake, self._kind, self._provenance = lake, kind, provenance
        self._file = _SignsOfLife(lake, self.run)

    def take(self, wait_s: float, say: Callable[[str], None]) -> None:
        """Take the lease; while another run that lives holds it, wait, and `say` so.

        Raise LeaseTaken after `wait_s` seconds.
        """
        self._file.begin()  # before the pointer names this run, which without a file would count as ended
        try:
            while not self.token:
                held = read_pointer(self._lake, self.name)
                if held.value is not None:
                    self._wait_for(held, wait_s, say)
                value = {"run": self.run, **this_process()}
                with suppress(PointerMoved):  # another one that waited was faster
                    self.token = move_pointer(self._lake, held, value, self._kind, self._provenance).sequence
        except BaseException:
            self._file.end()
            raise
        if held.value is not None:
            _SignsOfLife(self._lake, held.value["run"]).delete()  # of a holder that was killed

    def require(self, rows: pa.Table) -> None:
        """Raise LeaseLost if another run took the lease over, by the rows of the table of pointers."""
        now = history_of(rows, self.name)[-1]
        if now.sequence != self.token:
            raise LeaseLost(
                f"{now.value['run']} took the place of this run, which gave no sign of life for {LOST_S:.0f} s: its "
                "process or its machine stood still, or the lake could not be reached. Nothing was published. What "
                "this run has made stays, and the next night goes on from it."
            )

    def close(self) -> None:
        """Give the lease back."""
        self._file.end()

    def _wait_for(self, held: Pointer, wait_s: float, say: Callable[[str], None]) -> None:
        """Return when the holder has ended or counts as dead."""
        if _is_over(self._lake, held):
            return
        self.waited = True
        holder = f"{held.value['run']} (process {held.value['pid']} on {held.value['host']})"
        say(f"  waiting for {holder}: one {self._kind} run at a time")
        began = changed = time.monotonic()
        file = _SignsOfLife(self._lake, held.value["run"])
        seen = file.read()
        while not _is_over(self._lake, held):
            time.sleep(LOOK_S)
            now, sign = time.monotonic(), file.read()
            if sign != seen:
                seen, changed = sign, now
            if now - changed > LOST_S:
                say(f"  {holder} gave no sign of life for {LOST_S:.0f} s: this run takes its place")
                return
            if now - began > wait_s:
                raise LeaseTaken(
                    f"{holder} is still running after {wait_s / 60:.0f} minutes, and one {self._kind} run at a time "
                    f"works on the lake {self._lake.uri}. This run did nothing. See what the other one does with "
                    f"`sidmill run show {held.value['run']}`, and run this command again when it has ended."
                )


class _SignsOfLife:
    """The file of a run that holds a lease or wants it, and the thread that changes it."""

    def __init__(self, lake: Lake, run: str) -> None:
        self._files, self._name = Files(f"{lake.uri}/{FOLDER}"), f"{run}.json"
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name=f"lease of {run}", daemon=True)

    def begin(self) -> None:
        self._write(0)
        self._thread.start()

    def end(self) -> None:
        self._closing.set()
        if self._thread.ident is not None:  # the file could be written, and the thread was started
            self._thread.join()
        self.delete()

    def read(self) -> bytes | None:
        """Return its content; None if there is no file."""
        try:
            return self._files.read(self._name)
        except FileNotFoundError:
            return None

    def delete(self) -> None:
        with suppress(OSError):  # the next run of the kind waits for LOST_S seconds then
            self._files.delete(self._name)

    def _go_on(self) -> None:
        count = 0
        while not self._closing.wait(BEAT_S):
            count += 1
            with suppress(OSError, LakeError):  # the store is away: if it stays away, the lease is lost
                self._write(count)

    def _write(self, count: int) -> None:
        self._files.write(self._name, json.dumps({"count": count}).encode())


def _is_over(lake: Lake, held: Pointer) -> bool:
    """Return whether the holder has ended by its file, or by its process if that was on this machine."""
    return not may_live(held.value) or _SignsOfLife(lake, held.value["run"]).read() is None
