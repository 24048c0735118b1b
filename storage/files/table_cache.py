"""Cache of the data files and rows of a table, valid as long as the table has no newer version."""

from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.fs as pafs

from storage.files.data_files import DataFile
from storage.files.store import Files
from storage.files.table_log import entry_path

MAX_VERSIONS = 4
"""Versions of a table beside the newest whose data files are remembered."""


@dataclass
class TableCache:
    """Data files of some versions of a table, and all rows of the newest if they were read.

    All of this was read while `newest` was the newest version.
    """

    newest: int
    files: dict[int, list[DataFile]] = field(default_factory=dict)
    rows: pa.Table | None = None

    def add(self, version: int, files: list[DataFile]) -> None:
        """Remember the data files of a version, and forget those that were added first if there are too many."""
        if len(self.files) > MAX_VERSIONS:
            del self.files[next(each for each in self.files if each != self.newest)]
        self.files[version] = files

    def is_valid(self, place: Files) -> bool:
        """Return whether no version followed `newest`, which costs one request to an object store.

        An erasure, which changes entries of the log, commits one more.
        """
        following = place.filesystem.get_file_info(entry_path(self.newest + 1))
        return bool(following.type == pafs.FileType.NotFound)
