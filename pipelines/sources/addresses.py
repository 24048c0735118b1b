"""File systems of addresses, and addresses with wildcards."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs
from fsspec.core import url_to_fs
from fsspec.utils import glob_translate

HUB = "hf://"
"""Start of the address of files on the Hugging Face hub: hf://datasets/OWNER/NAME[@REVISION]/PATH."""
WILDCARDS = re.compile(r"[*?\[]")


def file_system_of(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a URI and the path in it. Raises OSError, ValueError, RuntimeError."""
    if uri.startswith(HUB):
        hub, path = url_to_fs(uri)
        return pafs.PyFileSystem(pafs.FSSpecHandler(hub)), path
    filesystem, path = pafs.FileSystem.from_uri(uri)
    return filesystem, path


def resolved(address: str) -> str:
    """Return a URI as it is, and the absolute path of a local address, in which `~` is the home folder."""
    return address if "://" in address else str(Path(address).expanduser().resolve())


@dataclass(frozen=True)
class Pattern:
    """A path with `*` and `?` (no slash), `**` (any folders) or `[abc]`, as shells mean them.

    It means the files that match, and those in folders that match.
    """

    path: str

    @property
    def root(self) -> str:
        """The last folder above all wildcards."""
        parts = self.path.split("/")
        first = next(place for place, part in enumerate(parts) if WILDCARDS.search(part))
        return "/".join(parts[:first]) or "/"

    def among(self, paths: Iterable[str]) -> list[str]:
        """Return the paths that it means."""
        matches = re.compile(glob_translate(self.path)).fullmatch
        return [path for path in paths if any(matches(each) for each in _with_folders(path, len(self.root)))]


def has_wildcards(path: str) -> bool:
    """Return whether a path may be a pattern."""
    return WILDCARDS.search(path) is not None


def _with_folders(path: str, above: int) -> Iterable[str]:
    """Yield a path and its folders below the first `above` characters."""
    while len(path) > above:
        yield path
        path = path.rpartition("/")[0]
