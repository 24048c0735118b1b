"""Crash points of a run: each commit, each file that it writes or deletes, each table that it makes.

They are counted by wrapping the few functions through which everything durable goes (`storage.commit._commit`,
`Files.write`, `Files.delete`, the creation of tables), in the process that is to be killed. Between two points nothing
durable is written by that process, so being killed after one point leaves what being killed before the next one leaves.
"""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deltalake.table import TableAlterer

import storage.commit
from storage.files.store import WRITING, Files
from storage.lake import Lake


class CrashPoints:
    """Counts the points that this process reaches, and writes a line for each; it stops at one of them."""

    def __init__(self, log: Path, stop_at: int | None) -> None:
        self._log, self._left, self._lock = log, stop_at, threading.Lock()
        log.write_text("")

    def reach(self, point: str) -> None:
        """Note a point. At the one to stop at the whole process stops, for its parent to kill it."""
        with self._lock, self._log.open("a") as out:
            out.write(f"{point}\n")
            out.flush()
            if self._left is not None:
                self._left -= 1
                if self._left == 0:
                    os.kill(os.getpid(), signal.SIGSTOP)

    def watch(self) -> None:
        """Wrap what makes something durable. For a process that ends after its run: nothing is put back."""
        self._before(storage.commit, "_commit", lambda opened, *rest, **named: _commit(opened.table))
        self._before(Files, "write", lambda files, name, data: f"write {_short(files, name)}")
        self._before(Files, "delete", lambda files, name: f"delete {_short(files, name)}")
        self._before(Lake, "_create", lambda lake, spec: f"create {spec.name}")
        self._before(TableAlterer, "add_constraint", lambda *rest, **named: "add constraint")
        self._before(TableAlterer, "set_table_properties", lambda *rest, **named: "set properties")
        self._before(os, "replace", lambda source, target: _renaming(source))

    def _before(self, owner: Any, name: str, describe: Callable[..., str]) -> None:
        called = getattr(owner, name)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            point = describe(*arguments, **named)
            if point:
                self.reach(point)
            return called(*arguments, **named)

        setattr(owner, name, wrapped)


def _commit(table: str) -> str:
    return "move pointer" if table == "pointers" else f"commit {table}"


def _short(files: Files, name: str) -> str:
    return f"{Path(files.uri).name}/{name[:24]}"


def _renaming(source: Any) -> str:
    """Return the point between a file that is written and its name; none for renames of others."""
    return "rename a written file" if Path(source).name.startswith(WRITING) else ""
