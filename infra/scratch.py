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


class NoLocksError(OSError):
    """Raised where the file system has no locks."""


class ScratchFolder(tempfile.TemporaryDirectory[str]):
    """New folder in TMPDIR whose name contains `what`, deleted with the object, at a clean exit, or by a later process.

    A process holds a lock on each of its folders, and the system drops the lock when the process ends. So a folder
    without a lock belongs to no process. Where the file system has no locks, folders of killed processes stay.
    """

    def __init__(self, what: str) -> None:
        _delete_unowned()
        self._unlock: Callable[[], object] = lambda: None
        super().__init__(prefix=f"{PREFIX}{what}-")
        with suppress(NoLocksError):
            while (lock := _lock(self.path)) is None:  # another process saw it before it was locked, and deletes it
                super().__init__(prefix=f"{PREFIX}{what}-")
            self._unlock = weakref.finalize(self, os.close, lock)

    @property
    def path(self) -> Path:
        return Path(self.name)

    def cleanup(self) -> None:
        """Delete the folder, and release its lock."""
        super().cleanup()
        self._unlock()


def _delete_unowned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # it is of another user, or no locks
            if (lock := _lock(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """Return a descriptor that holds the lock on a folder; None if another process has it, or the folder is gone.

    Raise NoLocksError if the file system has no locks.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        os.close(descriptor)
        return None
    except OSError as error:
        os.close(descriptor)
        raise NoLocksError(str(error)) from error
    os.close(descriptor)
    return None
