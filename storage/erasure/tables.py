"""Take subjects out of all data files of a table, and out of its log.

Files are found by listing the folder, so those of former versions, of retired releases and of killed writers are among
them. A file with rows to erase gets a successor with the other rows; the log then names the successor in its place, in
all versions. The former file is deleted later, when nobody reads it. The log may still name a file that `lake gc`
deleted, with the least and the greatest item it had; these bounds go too.
"""

from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq

from storage.commit import Provenance, mark
from storage.erasure.rows import Subjects
from storage.errors import CommitConflict, DataCorrupt
from storage.files.data_files import write_file
from storage.files.rewritten_log import Successor, replace_in_log
from storage.files.table_log import Log
from storage.lake import Lake
from storage.schemas import TABLES

ATTEMPTS = 60
"""Commits that may lose a race before CommitConflict is raised."""


class TableCleaner:
    """Cleans one table. Files that hold nothing are not read again."""

    def __init__(self, lake: Lake, table: str, subjects: Subjects) -> None:
        self._lake, self._table, self._subjects = lake, table, subjects
        self._files, self._spec = lake.table_files(table), TABLES[table]
        self._counted = dict[str, int]()
        self._made = dict[str, Successor]()

    def held(self) -> dict[str, int]:
        """Return the data files that hold rows to erase, named by the log or not, with the number of these rows."""
        columns = self._subjects.columns(self._table)
        if columns == []:
            return {}
        there = set[str]()
        for each in self._files.found():
            if each.path.endswith(".parquet") and "_delta_log" not in each.path:
                with suppress(FileNotFoundError):  # of a join that lost a race, which deleted it
                    if each.path not in self._counted:
                        rows = self._read(each.path, columns)
                        self._counted[each.path] = self._subjects.without(self._table, rows)[1]
                    there.add(each.path)
        return {path: rows for path, rows in self._counted.items() if rows and path in there}

    def clean(self, provenance: Provenance) -> dict[str, int]:
        """Put successors in the place of all files that hold something; return these files, as `held` does.

        A join that was decided before may commit meanwhile. It then removes a file whose successor is in its place: the
        next attempt finds the removal, and removes the successor too.

        Safe to rerun after a kill. Raise CommitConflict after ATTEMPTS lost races.
        """
        for _ in range(ATTEMPTS):
            handle = self._lake.open(self._table)
            held = self.held()
            if not held and not self._in_bounds:
                return {}
            log = Log(self._files, self._table)
            named = named_files(log)
            removed = frozenset().union(*(entry.removed for entry in log.entries.values()))
            gone = named - {each.path for each in self._files.found()} if self._in_bounds else ()
            try:
                made = {path: self._successor(path) for path in (named | removed) & held.keys()}
            except FileNotFoundError:  # of a join that lost a race
                continue
            changed = replace_in_log(self._files, {**made, **dict.fromkeys(gone)})
            if not (held or changed) or mark(self._lake, handle, self._table, provenance):
                return held
        raise CommitConflict(
            f"table {self._table!r} of the lake {self._lake.uri}: other runs committed first in each of {ATTEMPTS} "
            "attempts, so the erasure did not end. Run the command again when fewer runs write to this lake."
        )

    @property
    def _in_bounds(self) -> bool:
        """True if bounds in the log may name what is erased."""
        return bool(self._subjects.items) and "item_id" in self._spec.statistics

    def remove(self, paths: list[str]) -> int:
        """Delete former files that no version names; return how many were there."""
        gone = set(paths) - named_files(Log(self._files, self._table))
        for path in gone:
            with suppress(FileNotFoundError):  # of a join that lost a race
                self._files.delete(path)
            del self._counted[path]
        return len(gone)

    def _successor(self, path: str) -> Successor:
        if path not in self._made:
            rows, _ = self._subjects.without(self._table, self._read(path, None))
            made = write_file(self._files, self._spec, {}, rows, f"erased:{path}")
            self._made[path] = Successor(made.path, made.size, made.modification_time, made.stats)
        return self._made[path]

    def _read(self, path: str, columns: list[str] | None) -> pa.Table:
        try:
            with self._files.filesystem.open_input_file(path) as stream:
                return pq.ParquetFile(stream).read(columns)
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise DataCorrupt(
                f"the data file {self._files.uri}/{path} cannot be read ({error}), so it is not known whether it holds "
                "rows to erase. Restore it from a backup of the lake, or delete it if `sidmill lake verify` does not "
                "miss it, and run the command again."
            ) from error


def named_files(log: Log) -> frozenset[str]:
    """Return the data files that any version of a table names; raise DataCorrupt if its log is damaged."""
    for fault in log.faults():
        raise DataCorrupt(fault)
    added = (entry.added for entry in log.entries.values())
    return frozenset().union(*added, *map(log.files_by_checkpoint, log.checkpoints))
