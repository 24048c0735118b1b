"""Completeness: no commit that others have built on is missing, as in a lake copied without its newest log entries, and
no table is of another lake.

Each commit records the newest versions of other tables that its writer had opened, and releases, models and pointers
name each other. A table that ends before a version that is named somewhere has lost commits. Each commit also names its
writer.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping

import pyarrow.fs as pafs

from storage.errors import DataCorrupt
from storage.files.store import Files
from storage.files.table_log import ENTRY, LAST_CHECKPOINT, LogEntry, read_entry
from storage.lake import Lake
from storage.releases.models import recorded_models
from storage.releases.pointers import newest_values
from storage.releases.releases import recorded_releases
from storage.schemas import TABLES

# What `new_run_id` of storage/runs/record.py makes.
RUN_ID = re.compile(r"[a-z]+-\d{8}T\d{6}-[0-9a-f]{6}")


def require_complete(lake: Lake) -> None:
    """Raise DataCorrupt if the lake lacks commits that it had."""
    for fault in lost_commits(lake):
        raise DataCorrupt(fault)


def lost_commits(lake: Lake) -> Iterator[str]:
    """Yield what the lake names and does not have. The newest entry of each table is read."""
    tables = [table for table in TABLES if lake.exists(table)]
    pointers = newest_values(lake.read("pointers"))  # before what they name, which others record meanwhile
    needed = dict[str, tuple[int, str]]()
    last = dict[str, LogEntry]()
    for table in tables:
        place = lake.table_files(table)
        newest = _newest(place)
        last[table] = read_entry(place, newest) if newest >= 0 else LogEntry("")
        for other, version in last[table].seen.items():
            _raise_to(needed, other, version, f"the newest commit of table {table!r} has seen")
        _raise_to(needed, table, _checkpointed(place), "its last checkpoint is of")
    models, releases = recorded_models(lake), recorded_releases(lake)
    for manifest in releases:
        for table, version in manifest.versions.items():
            _raise_to(needed, table, version, f"{manifest.id} pins")
    for table, (version, why) in sorted(needed.items()):  # after all that names versions: others may commit meanwhile
        newest = _newest(lake.table_files(table)) if lake.exists(table) else -1
        if newest < version:
            ends = f"ends at version {newest}" if newest >= 0 else "has no commit"
            yield _lost(lake, f"table {table!r} {ends}, but {why} version {version}")
    known = {each.id for each in releases} | {each.id for each in models}
    for model in models:
        if model.release not in known:
            yield _lost(lake, f"{model.id} was trained on {model.release}, which table 'releases' does not have")
    for pointer in pointers:
        value = pointer.value if isinstance(pointer.value, dict) else {}
        for name in {str(value[part]) for part in ("release", "model") if value.get(part)} - known:
            yield _lost(lake, f"{pointer.name} points to {name}, which is not recorded")
    yield from rows_of_others(lake, {table: [entry] for table, entry in last.items()})


def rows_of_others(lake: Lake, entries: Mapping[str, Iterable[LogEntry]]) -> Iterator[str]:
    """Yield the log entries, by table, with which another program wrote rows of bookkeeping."""
    for table, some in entries.items():
        for each in some if TABLES[table].bookkeeping else ():
            if each.added and not each.joins and not each.run:
                yield (
                    f"another program wrote rows into table {table!r} of the lake {lake.uri} (entry {each.name}), "
                    f"which sidmill alone may write. {RESTORE}"
                )


def tables_of_others(lake: Lake, entries: Mapping[str, Iterable[LogEntry]]) -> Iterator[str]:
    """Yield the tables into which runs wrote, but none that the table `runs` knows; `entries` are those of whole logs.

    A run may write without a record: one that only fetches pictures again, or takes a lease and finds nothing to do.
    So a single unknown run says nothing.
    """
    recorded = set(lake.read("runs", columns=["run"])["run"].to_pylist())  # after the commits that may be of a new run
    for table, some in entries.items():
        writers = {each.run for each in some if RUN_ID.fullmatch(each.run)}
        if writers and recorded and not writers & recorded:
            yield (
                f"table {table!r} of the lake {lake.uri} has commits of {min(writers)} and of no run that table 'runs' "
                f"has: one of the two tables is of another lake. {RESTORE}"
            )


def _raise_to(needed: dict[str, tuple[int, str]], table: str, version: int, why: str) -> None:
    if version > needed.get(table, (-1, ""))[0]:
        needed[table] = (version, why)


def _newest(files: Files) -> int:
    listed = files.filesystem.get_file_info(pafs.FileSelector("_delta_log", allow_not_found=True))
    return max((int(match[1]) for each in listed if (match := ENTRY.fullmatch(each.base_name))), default=-1)


def _checkpointed(files: Files) -> int:
    try:
        return int(json.loads(files.read(LAST_CHECKPOINT))["version"])
    except (FileNotFoundError, ValueError, KeyError):
        return -1


RESTORE = "Restore the folder of the table from a backup of the lake (`sidmill lake restore`)."


def _lost(lake: Lake, what: str) -> str:
    return (
        f"the lake {lake.uri} has lost commits: {what}. It was copied without its newest files, or they were deleted. "
        "Copy it again while nothing writes to it, or restore a backup (`sidmill lake restore`)."
    )
