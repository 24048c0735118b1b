"""Temporary folders that do not outlive their process by long: a later process deletes what a killed one left."""

import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PREFIX = "sidmill-scratch-"


class ScratchFolder(tempfile.TemporaryDirectory[str]):
    """New folder in TMPDIR whose name contains `what`, deleted with the object, at a clean exit, or by a later process.

    A process holds a lock on each of its folders, and the system drops the lock when the process ends. So a folder
    without a lock belongs to no process. Where the file system has no locks, folders of killed processes stay.
    """

    def __init__(self, what: str) -> None:
        _delete_unowned()
        self._unlock: Callable[[], object] = lambda: None
        while True:
            super().__init__(prefix=f"{PREFIX}{what}-")
            try:
                self._unlock = weakref.finalize(self, os.close, _lock(self.path))
            except (BlockingIOError, FileNotFoundError):
                continue  # another process saw the folder before it was locked, and deletes it
            except OSError:
                pass  # no locks
            return

    @property
    def path(self) -> Path:
        return Path(self.name)

    def cleanup(self) -> None:
        """Delete the folder, and release its lock."""
        super().cleanup()
        self._unlock()


def _delete_unowned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # its process lives, it is of another user, or gone
            lock = _lock(folder)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int:
    """Return a descriptor that holds the lock on a folder. Raise BlockingIOError if a process has it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), folder.stat()):
            raise FileNotFoundError(folder)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
