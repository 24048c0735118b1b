"""Commits that a loss of power cannot take back: on a local disk the entry of a log is synced before anything follows.

Delta leaves that to the system, which may write a later commit of another table first, or a name without its content:
then `sources` would say that a file was read whose rows are gone. An object store has what it has confirmed.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deltalake import DeltaTable

from storage.files.disk import writing
from storage.files.store import Files


@contextmanager
def committing(table: Files, handle: DeltaTable | None = None) -> Iterator[None]:
    """Commit to a table, through a handle unless it is made now: the commit is on the disk at the end.

    Raise LakeUnusable if the disk is full or may not be written.
    """
    since = -1 if handle is None else int(handle.version())
    with writing(table.uri):
        yield
        log = table.local_path("_delta_log")
        if log is not None:
            _sync_entries(log, since)


def _sync_entries(log: Path, since: int) -> None:
    """Sync all entries after a version, of other writers too: a commit may have been rebased on theirs.

    Delta may have written a checkpoint with one of them. A table whose newest checkpoint is cut short does not open.
    """
    number = since + 1
    while (entry := log / f"{number:020d}.json").exists():
        _sync(entry)
        checkpoint = entry.with_suffix(".checkpoint.parquet")
        if checkpoint.exists():
            _sync(checkpoint)
            _sync(log / "_last_checkpoint")
        number += 1
    if number > since + 1:
        _sync(log)


def _sync(path: Path) -> None:
    """Sync a file or a folder; one that another writer is about to make, or has removed, is not ours to sync."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
