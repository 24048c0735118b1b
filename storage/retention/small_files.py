"""Joining the small files of data tables, which `lake gc` does: a table of many files is slow to open and to list."""

from collections.abc import Iterable

from storage.commit import OpenTable, Provenance, join_files
from storage.files.data_files import DataFile, data_files
from storage.lake import Lake
from storage.schemas import TABLES

MAX_SMALL_FILES = 32
"""Small files of a partition above which they are joined."""
SMALL_FILE = 16 << 20
"""Bytes from which a data file is joined no more."""
JOINED_BYTES = 64 << 20
"""Bytes of data files that are joined at once, and so held in memory."""
DAY = "arrival_date"
"""Partition column of tables whose new rows go into the newest partition alone."""


def join_small(lake: Lake, table: str, provenance: Provenance) -> int:
    """Join the small files of a data table, as far as `small_files` names them; return how many were joined.

    Former versions keep them, and `Lake.read_added` does not take their rows for new. If another writer comes between,
    a later call does it.
    """
    joined = 0
    order = "item_id" if "item_id" in TABLES[table].statistics else None  # so that its row groups hold few items each
    for small in small_files(lake.data_files(table)):
        handle = lake.open(table)
        if not {each.path for each in small} <= {each.path for each in data_files(handle, TABLES[table])}:
            continue
        if not join_files(OpenTable(lake, table, handle), small, provenance, order):
            break
        joined += len(small)
    return joined


def small_files(files: Iterable[DataFile]) -> list[list[DataFile]]:
    """Return small files, each list of one partition, to be joined into one of at most JOINED_BYTES.

    A partition has them if it has more than MAX_SMALL_FILES; that of a day that is over, if it has more than one.
    """
    by_partition: dict[tuple[object, ...], list[DataFile]] = {}
    for each in files:
        if each.size < SMALL_FILE:
            by_partition.setdefault(tuple(each.partition.values()), []).append(each)
    days = [each[0].partition[DAY] for each in by_partition.values() if DAY in each[0].partition]
    found = []
    for part in by_partition.values():
        over = DAY in part[0].partition and part[0].partition[DAY] < max(days)
        if len(part) > (1 if over else MAX_SMALL_FILES):
            found += [group for group in _groups(part) if len(group) > 1]
    return found


def _groups(files: list[DataFile]) -> list[list[DataFile]]:
    """Return the files in order, in lists of at most JOINED_BYTES."""
    groups, size = [list[DataFile]()], 0
    for each in files:
        if size + each.size > JOINED_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(each)
        size += each.size
    return groups
