"""Copies of files from one place to another, whose hashes are compared where they arrived."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from storage.errors import DataCorrupt, LakeUnusable
from storage.files.store import Files, sha256

THREADS = 8
"""Files that are copied at a time, each whole in memory: a store answers several at once."""


@dataclass(frozen=True)
class Copied:
    """A file by path, with its bytes and their sha256."""

    path: str
    size: int
    sha256: str


def copy_files(source: Files, target: Files, paths: Iterable[str]) -> list[Copied]:
    """Copy files; raise DataCorrupt for one that is not there, or that arrives differently."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda path: _copy(source, target, path), sorted(set(paths))))


def _copy(source: Files, target: Files, path: str) -> Copied:
    try:
        data = source.read(path)
    except FileNotFoundError as error:
        raise DataCorrupt(f"the file {source.uri}/{path} is missing. See `sidmill lake verify`.") from error
    copied = Copied(path, len(data), sha256(data))
    target.write(path, data)
    if target.hash(path) != copied.sha256:
        raise DataCorrupt(
            f"the file {target.uri}/{path} is not what was written to it: look at that disk, and copy again."
        )
    return copied


def require_empty(files: Files, what: str) -> None:
    """Raise LakeUnusable if there are files in a place."""
    if files.found():
        raise LakeUnusable(
            f"{files.uri} is not empty, and {what} needs an empty place: give another one, or delete it."
        )
