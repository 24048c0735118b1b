"""The ways to write: `append`, once for each key, and `swap`, a compare-and-swap of the version of a table.

Delta's log is a sequence of files made with put-if-absent, which is a compare-and-swap of the table version. Used
directly it is too lenient: two stale appends both succeed, because appends are rebased. The functions below decide
from a table handle and commit *through that same handle*:

- `append` attaches an application transaction named by the idempotency key. A handle that has seen the key skips;
  a stale handle that has not is refused by Delta's conflict check, because another writer committed the same key.
  Other keys are rebased without a conflict. A kill between commit and acknowledgement is handled like a second run.
- `swap` forbids rebasing (`max_commit_retries=0`): after any other commit in between, the decision is made again
  from the new state. Aliases, release ids and model ids are rows decided this way. `append_decided` is the same for
  tables too large to be handed over whole: new events are those that the table lacks, so two runs that read logs with
  common events must not both decide from the table as it was before.
- Housekeeping (`join_files`, `take_out`, `mark`) changes no row that a reader of the newest version needs. It forbids
  rebasing too, and leaves the work to a later call if another commit came between.

All write the data files themselves (`storage.files.data_files`), named by their hashes, and commit their names.
"""

import json
import random
import secrets
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction

from storage.conform import conform
from storage.errors import CommitConflict
from storage.files.data_files import DataFile, data_files, entries_hash, removal, write_rows
from storage.files.durable import committing
from storage.files.table_log import FILES_HASH, RUN, SEEN
from storage.lake import Lake, TableRef
from storage.schemas import TABLES

# Commits that may lose a race before CommitConflict is raised.
ATTEMPTS = 60
# Files of a bookkeeping table above which they are joined.
MAX_FILES = 32
# Shortest and longest upper bound of the random pause after a lost race, in seconds.
FIRST_PAUSE_S = 0.005
LONGEST_PAUSE_S = 0.5


@dataclass(frozen=True)
class Provenance:
    """Writer and inputs of a commit, stored as the commit's metadata.

    `by_hand` tells that the writer is no run. An erasure waits for runs alone, so such a writer joins no files: a kill
    between the new file and its commit would leave rows of before the erasure in a file that no version names.
    """

    run: str
    recipe: str
    inputs: dict[str, int] = field(default_factory=dict)
    by_hand: bool = False

    def metadata(self, key: str) -> dict[str, str]:
        return {
            RUN: self.run,
            "sidmill.recipe": self.recipe,
            "sidmill.inputs": json.dumps(self.inputs, sort_keys=True),
            "sidmill.key": key,
        }


@dataclass(frozen=True)
class Commit:
    """Place of the rows, and whether this call wrote them (False: an earlier call had), in which files."""

    ref: TableRef
    written: bool
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class OpenTable:
    """A table of a lake, opened at the version that a commit was decided on."""

    lake: Lake
    table: str
    handle: DeltaTable


def append(lake: Lake, table: str, rows: pa.Table, key: str, provenance: Provenance) -> Commit:
    """Append `rows` once, even if several writers call this several times with the same `key`.

    Return the version that holds the rows, also if an earlier call wrote them, so that derived data is derived again
    from the same input. Raise CommitConflict after ATTEMPTS lost races.
    """
    rows = conform(table, rows)
    return append_files(
        lake, table, lambda: write_rows(lake.table_files(table), TABLES[table], rows, key), key, provenance
    )


def write_files(lake: Lake, table: str, rows: pa.Table, key: str) -> list[AddAction]:
    """Write rows for `append_files` or `append_decided`, in any process, and return the log entries of their files."""
    return write_rows(lake.table_files(table), TABLES[table], conform(table, rows), key)


def append_files(
    lake: Lake, table: str, write: Callable[[], list[AddAction]], key: str, provenance: Provenance
) -> Commit:
    """Append the files that `write` makes, as `append` does; it is not called if the key was committed before."""
    files: list[AddAction] | None = None
    for attempt in range(ATTEMPTS):
        handle = lake.open_or_create(table)
        if handle.transaction_version(key) is not None:
            return Commit(TableRef(table, committed_version(handle, key)), written=False)
        if files is None:
            files = write()
        try:
            _commit(OpenTable(lake, table, handle), [*files], provenance, key)
        except CommitFailedError:
            _pause(attempt)
            continue
        before, many = handle.version(), len(handle.file_uris()) + len(files) > MAX_FILES
        handle.update_incremental()  # only the version is read of it: an erasure may have changed what it named before
        version = handle.version()
        lake.saw(table, version)
        if version > before + 1:
            version = committed_version(handle, key, version - before)
        if many and not provenance.by_hand:
            join_bookkeeping(lake, table, provenance)
        return Commit(TableRef(table, version), True, tuple(file.path for file in files))
    raise CommitConflict(_lost(lake, table))


Decided = tuple[pa.Table | list[AddAction], str]
"""Rows to append, or the files that `write_files` made of them, and their idempotency key."""


def append_decided(
    lake: Lake, table: str, decide: Callable[[int], Decided | None], provenance: Provenance
) -> Commit | None:
    """Append the rows that `decide` makes of a version of the table, only if no other commit came between.

    `decide` gets the version, and returns None if there is nothing to write; it is called again after a lost race.
    Return None if it did. Raise CommitConflict after ATTEMPTS lost races.
    """
    for attempt in range(ATTEMPTS):
        handle = lake.open_or_create(table)
        decided = decide(handle.version())
        if decided is None:
            return None
        rows, key = decided
        if isinstance(rows, pa.Table):
            rows = conform(table, rows)
        if handle.transaction_version(key) is not None:
            return Commit(TableRef(table, committed_version(handle, key)), written=False)
        files = _commit_alone(OpenTable(lake, table, handle), rows, provenance, key=key)
        if files:
            return Commit(TableRef(table, handle.version() + 1), True, tuple(file.path for file in files))
        _pause(attempt)
    raise CommitConflict(_lost(lake, table))


def _commit(
    opened: OpenTable,
    actions: list[AddAction | RemoveAction],
    provenance: Provenance,
    key: str = "",
    alone: bool = False,
    transactions: Collection[Transaction] = (),
) -> None:
    """Commit log entries through a handle: with a key, once; `alone`, only if no other commit came between."""
    lake, table, handle = opened.lake, opened.table, opened.handle
    added = [action for action in actions if isinstance(action, AddAction)]
    seen = json.dumps(dict(sorted(lake.seen.items())))
    metadata = {**provenance.metadata(key), FILES_HASH: entries_hash(added), SEEN: seen}
    with committing(lake.table_files(table), handle):
        handle.create_write_transaction(
            actions,
            mode="append",
            schema=TABLES[table].schema,
            partition_by=list(TABLES[table].partition_by),
            commit_properties=CommitProperties(
                custom_metadata=metadata,
                app_transactions=[*([Transaction(key, 1)] if key else []), *transactions] or None,
                max_commit_retries=0 if alone else None,
            ),
        )


def committed_version(handle: DeltaTable, key: str, newest: int | None = None) -> int:
    """Return the version of the commit with `key` among the `newest` commits, or else the handle's own version."""
    for entry in handle.history(newest):
        if entry.get("sidmill.key") == key:
            return int(entry["version"])
    return int(handle.version())


def swap(
    lake: Lake, table: str, decide: Callable[[pa.Table], pa.Table | None], provenance: Provenance
) -> tuple[pa.Table, bool]:
    """Append the row(s) that `decide` makes of the table's current rows, only if no other commit came between.

    `decide` gets all current rows (these tables are small) and returns the rows to add, or None if there is nothing to
    do; it may raise to refuse. Return the table's rows after the swap, and whether rows were added.
    """
    for attempt in range(ATTEMPTS):
        handle = lake.open_or_create(table)
        current = lake.rows_of(handle, table)
        rows = decide(current)
        if rows is None:
            return current, False
        rows = conform(table, rows)
        if _commit_alone(OpenTable(lake, table, handle), rows, provenance):
            if len(handle.file_uris()) + 1 > MAX_FILES and not provenance.by_hand:
                join_bookkeeping(lake, table, provenance)
            return pa.concat_tables([current.cast(rows.schema), rows]), True
        _pause(attempt)
    raise CommitConflict(_lost(lake, table))


def _commit_alone(
    opened: OpenTable,
    rows: pa.Table | list[AddAction],
    provenance: Provenance,
    instead: tuple[RemoveAction, ...] = (),
    key: str = "",
) -> list[AddAction]:
    """Commit rows, given as files or not, or new files `instead` of those that hold their rows now; return the files.

    Return none if another commit came between. New files are deleted then, but with a `key`: another writer may be
    about to commit the same rows in files of the same names.
    """
    lake, table = opened.lake, opened.table
    place = lake.table_files(table)
    files = rows
    if isinstance(files, pa.Table):
        files = write_rows(place, TABLES[table], files, key or secrets.token_hex(8), news=not instead)
    try:
        _commit(opened, [*files, *instead], provenance, key, alone=True)
    except CommitFailedError:
        for each in () if key else files:
            with suppress(FileNotFoundError):  # an erasure deleted it
                place.delete(each.path)
        return []
    lake.saw(table, opened.handle.version() + 1)
    return files


def mark(lake: Lake, handle: DeltaTable, table: str, provenance: Provenance) -> bool:
    """Commit an entry without rows through `handle`; return False if another commit came between.

    Whoever decided from an earlier state of the table has to decide again: a join of files that were replaced since
    would bring their rows back.
    """
    try:
        _commit(OpenTable(lake, table, handle), [], provenance, alone=True)
    except CommitFailedError:
        return False
    return True


def take_out(
    lake: Lake, table: str, paths: Collection[str], provenance: Provenance, partition: tuple[str, ...] = ()
) -> bool:
    """Take files out of the newest version of a table; former versions keep them until `lake gc` removes these.

    With a `partition`, which they are the files of, this commit raises its generation, and that of the table. Keys of
    appends that have the generation in them can then append the same rows again.
    Return False if there are none, or if another commit came between: a later call does it.
    """
    handle = lake.open(table)
    now = int(time.time() * 1000)
    instead = [removal(file, now) for file in data_files(handle, TABLES[table]) if file.path in paths]
    counted = [Transaction(_counter(each), _generation(handle, each) + 1) for each in (partition, ()) if partition]
    try:
        if instead:
            _commit(OpenTable(lake, table, handle), [*instead], provenance, alone=True, transactions=counted)
    except CommitFailedError:
        return False
    return bool(instead)


def generation(lake: Lake, table: str, partition: tuple[str, ...] = (), version: int | None = None) -> int:
    """Return how often `take_out` took a partition out of a table, or any partition."""
    return _generation(lake.open(table, version), partition) if lake.exists(table) else 0


def _generation(handle: DeltaTable, partition: tuple[str, ...]) -> int:
    return handle.transaction_version(_counter(partition)) or 0


def _counter(partition: tuple[str, ...]) -> str:
    return f"taken out: {':'.join(partition)}"


def join_files(
    opened: OpenTable, files: Collection[DataFile], provenance: Provenance, sort_by: str | None = None
) -> bool:
    """Put one file in the place of some files of an open table; return False if another commit came between."""
    rows = opened.lake.rows_of(opened.handle, opened.table, list(files))
    now = int(time.time() * 1000)
    gone = tuple(removal(each, now) for each in files)
    return bool(_commit_alone(opened, rows if sort_by is None else rows.sort_by(sort_by), provenance, gone))


def join_bookkeeping(lake: Lake, table: str, provenance: Provenance) -> None:
    """Join the many small files of a bookkeeping table, so that it can be read in milliseconds.

    Only a run, or who holds the lease of logs, may call it. If another writer comes between, a later commit does it.
    """
    if not TABLES[table].bookkeeping:
        return
    handle = lake.open(table)
    files = data_files(handle, TABLES[table])
    if len(files) > MAX_FILES:
        join_files(OpenTable(lake, table, handle), files, provenance)


def _pause(attempt: int) -> None:
    time.sleep(random.uniform(0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(attempt, 10))))


def _lost(lake: Lake, table: str) -> str:
    return (
        f"table {table!r} of the lake {lake.uri}: other runs committed first in each of {ATTEMPTS} attempts, so "
        "nothing was written. Run the command again when fewer runs write to this lake."
    )
