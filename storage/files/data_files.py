"""Data files of a table: Parquet files named by their hash, their log entries, and verified reading.

A file is named `part-<sha256 of all bytes>-<hash of the footer>-<hash of the commit's key>.parquet`, so its name gives
its hash from its commit on. Reading checks the footer against the name (small files as a whole), and each page against
the checksum that Parquet stores with it.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.transaction import AddAction, RemoveAction

from storage.errors import DataCorrupt
from storage.files.footers import footer_hash, footer_of, stored_footer_hash
from storage.files.store import Files, sha256
from storage.json_hash import json_hash
from storage.schemas import TableSpec

NAME = re.compile(r"part-(?P<whole>[0-9a-f]{64})-(?P<footer>[0-9a-f]{16})-[0-9a-f]{16}\.parquet")
SMALL = 1 << 16
"""Files of at most this many bytes are hashed as a whole before they are read."""
LONGEST_STATISTIC = 30
"""Other writers truncate longer texts in their statistics; delta-rs truncates at 32 characters."""
GROUP_BYTES, MIN_GROUP_ROWS = 1 << 20, 1 << 10
"""Bytes in memory of a row group of a table in which rows are looked up by item, and its fewest rows."""
DISTINCT = frozenset({"vector", "event_id", "source_offset", "source_row"})
"""Columns whose values hardly ever repeat: a dictionary of them takes time and space."""
MAX_OPEN = 1024
"""Data files of a table whose footers stay in memory."""
FORMAT = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(pre_buffer=True, page_checksum_verification=True)
)


@dataclass(frozen=True)
class DataFile:
    """One file of a table version, as in the log: path below the table, size, time, partition and bounds."""

    path: str
    size: int
    changed_ms: int
    rows: int | None
    partition: Mapping[str, Any]
    bounds: Mapping[str, tuple[Any, Any]]

    @classmethod
    def at(cls, path: str) -> "DataFile":
        """Return a file of which only the path is known. Its partition columns are not read."""
        return cls(path, 0, 0, None, {}, {})

    @property
    def name(self) -> str:
        """Last part of the path, unique within the table."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def sha256(self) -> str | None:
        """Hash of its bytes; None for a file that another program wrote."""
        match = NAME.fullmatch(self.path)
        return match["whole"] if match else None

    def guarantee(self, schema: pa.Schema) -> ds.Expression:
        """Return a condition that all its rows fulfil; readers skip files by it."""
        known = ds.scalar(True)
        for name, value in self.partition.items():
            known &= ds.field(name) == pa.scalar(value, schema.field(name).type)
        for name, (low, high) in self.bounds.items():
            kind = schema.field(name).type
            if low == high:  # as an equation it decides conditions of any kind
                known &= ds.field(name) == pa.scalar(low, kind)
            else:
                known &= (ds.field(name) >= pa.scalar(low, kind)) & (ds.field(name) <= pa.scalar(high, kind))
        return known


def write_rows(files: Files, spec: TableSpec, rows: pa.Table, key: str, news: bool = True) -> list[AddAction]:
    """Write `rows` as files of a table and return the log entries to commit them.

    The same rows under the same key give the same names, so a rerun after a kill leaves no orphan. `news` is False for
    rows that the table already holds in other files.
    """
    return [write_file(files, spec, values, part, key, news) for values, part in _partitions(rows, spec.partition_by)]


def write_file(
    files: Files, spec: TableSpec, values: dict[str, str], rows: pa.Table, key: str, news: bool = True
) -> AddAction:
    """Write the rows of one partition, without its columns, as `write_rows` does."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        rows,
        sink,
        _group_rows(rows, spec),
        compression="zstd",
        use_dictionary=_repetitive(rows),
        write_page_checksum=True,
    )
    data = sink.getvalue()
    name = f"part-{hashlib.sha256(data).hexdigest()}-{footer_hash(footer_of(data))}-{json_hash([key, values])}.parquet"
    files.write(name, data)
    (written,) = files.info([name])
    changed = written[1] // 1_000_000 if written else 0
    return AddAction(name, data.size, values, changed, news, json.dumps(_statistics(rows, spec)))


def _repetitive(rows: pa.Table) -> list[str]:
    """Return the columns to be stored as dictionaries: those whose values repeat."""
    return [name for name in rows.schema.names if name not in DISTINCT]


def _group_rows(rows: pa.Table, spec: TableSpec) -> int | None:
    """Return the rows of a row group: few where rows are looked up by item, because whole groups are read."""
    if not _is_looked_up(spec):
        return None
    return max(MIN_GROUP_ROWS, int(GROUP_BYTES * rows.num_rows // max(1, rows.nbytes)))


def _is_looked_up(spec: TableSpec) -> bool:
    return "item_id" in spec.statistics


def removal(file: DataFile, at_ms: int) -> RemoveAction:
    """Return the log entry that drops a file whose rows are now in others; the file stays."""
    return RemoveAction(file.path, False, at_ms, size=file.size, partition_values={})


def _partitions(rows: pa.Table, by: tuple[str, ...]) -> Iterator[tuple[dict[str, str], pa.Table]]:
    """Yield the rows of each combination of partition values, in their order, without the partition columns."""
    if not by or not rows.num_rows:
        yield from [({}, rows)] if rows.num_rows else []
        return
    codes = [pc.dictionary_encode(rows[name].combine_chunks()) for name in by]
    flat = np.zeros(rows.num_rows, np.int64)
    for each in codes:
        flat = flat * len(each.dictionary) + each.indices.to_numpy(zero_copy_only=False)
    order = np.argsort(flat, kind="stable")
    bounds = np.flatnonzero(np.diff(flat[order], prepend=-1))
    kept = rows.drop_columns(list(by))
    for start, stop in zip(bounds, [*bounds[1:], rows.num_rows], strict=True):
        values = {name: str(rows[name][int(order[start])].as_py()) for name in by}
        whole = stop - start == rows.num_rows
        yield values, kept if whole else kept.take(pa.array(order[start:stop]))


def _statistics(rows: pa.Table, spec: TableSpec) -> dict[str, Any]:
    """Return row count and bounds of the columns that the log may show (never those of users)."""
    low, high = {}, {}
    for name in spec.statistics:
        if name in rows.schema.names:
            bounds = pc.min_max(rows[name])
            least, most = bounds["min"].as_py(), bounds["max"].as_py()
            if isinstance(least, str) and max(len(least), len(most)) > LONGEST_STATISTIC:
                continue
            low[name], high[name] = _stated(least), _stated(most)
    return {"numRecords": rows.num_rows, "minValues": low, "maxValues": high, "nullCount": dict.fromkeys(low, 0)}


def _stated(value: Any) -> Any:
    return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if isinstance(value, datetime) else value


def data_files(handle: DeltaTable, spec: TableSpec) -> list[DataFile]:
    """Return the files of the version of `handle`, in the order of the log."""
    actions = pa.table(handle.get_add_actions(flatten=True))
    columns = {name: actions[name].to_pylist() for name in ("path", "size_bytes", "modification_time", "num_records")}
    partitions = {name: actions[f"partition.{name}"].to_pylist() for name in spec.partition_by}
    named = set(actions.schema.names)
    bounded = {
        name: (actions[f"min.{name}"].to_pylist(), actions[f"max.{name}"].to_pylist())
        for name in spec.statistics
        if {f"min.{name}", f"max.{name}"} <= named
    }
    files = []
    for row, path in enumerate(map(unquote, columns["path"])):
        ours = NAME.fullmatch(path) is not None
        bounds = {name: _bounds(low[row], high[row], ours) for name, (low, high) in bounded.items()}
        files.append(
            DataFile(
                path,
                int(columns["size_bytes"][row]),
                int(columns["modification_time"][row]),
                columns["num_records"][row],
                {name: values[row] for name, values in partitions.items()},
                {name: each for name, each in bounds.items() if each is not None},
            )
        )
    return files


def _bounds(low: Any, high: Any, ours: bool) -> tuple[Any, Any] | None:
    """Return safe bounds: other writers truncate times to milliseconds and texts to 32 characters."""
    if low is None or high is None:
        return None
    if isinstance(low, str) and max(len(low), len(high)) > LONGEST_STATISTIC:
        return None
    if isinstance(high, datetime) and not ours:
        return low, high + timedelta(milliseconds=1)
    return low, high


class OpenFiles:
    """Data files of a table that were opened.

    Their footers are read once, where they are small: the name of a file is a hash of its content, so they stay right.
    """

    def __init__(self, files: Files, spec: TableSpec) -> None:
        self.files, self._schema, self._small_footers = files, spec.schema, not _is_looked_up(spec)
        self._known = dict[str, tuple[DataFile, ds.ParquetFileFragment]]()
        self._lock = Lock()

    def dataset(self, found: Sequence[DataFile]) -> ds.FileSystemDataset:
        """Return the rows of some files, with footers checked against the commit. Pages are checked on reading."""
        check_footers(self.files, found)
        return self._unchecked(found)

    def within(self, found: Sequence[DataFile], where: ds.Expression | None) -> list[DataFile]:
        """Return those of some files that may hold a row of a condition, by their bounds."""
        paths = {part.path for part in self._unchecked(found).get_fragments(filter=where)}
        return [each for each in found if each.path in paths]

    def _unchecked(self, found: Sequence[DataFile]) -> ds.FileSystemDataset:
        with self._lock:
            fragments = [self._opened(each) for each in found]
        return ds.FileSystemDataset(fragments, self._schema, FORMAT, self.files.filesystem)

    def _opened(self, file: DataFile) -> ds.ParquetFileFragment:
        known = self._known.pop(file.path, None)
        if known is None or known[0] != file:
            known = file, FORMAT.make_fragment(file.path, self.files.filesystem, file.guarantee(self._schema))
        if self._small_footers and file.sha256 is not None:
            self._known[file.path] = known  # as the newest, the last to be forgotten
            while len(self._known) > MAX_OPEN:
                del self._known[next(iter(self._known))]
        return known[1]


_checked: set[tuple[str, str]] = set()
"""Files whose footer this process has verified against their name, which is a hash of their content."""


def check_footers(files: Files, found: Iterable[DataFile]) -> None:
    """Raise DataCorrupt unless each file exists with the footer in its name, or all bytes if it is small."""
    fresh = [each for each in found if each.sha256 and (files.uri, each.path) not in _checked]
    if len(fresh) > 1:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda each: _check_footer(files, each), fresh))
    else:
        for each in fresh:
            _check_footer(files, each)
    _checked.update((files.uri, each.path) for each in fresh)


def _check_footer(files: Files, file: DataFile) -> None:
    match = NAME.fullmatch(file.path)
    assert match is not None
    try:
        if file.size <= SMALL:
            right = sha256(files.read(file.path)) == match["whole"]
        else:
            right = stored_footer_hash(files, file.path, file.size) == match["footer"]
    except FileNotFoundError as error:
        raise missing(files, file) from error
    if not right:
        raise corrupt(files, file)


def consecutive(dataset: ds.FileSystemDataset, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
    """Read rows of a data set of one file, at least one, without the row groups that hold none of them."""
    (fragment,) = dataset.get_fragments()
    ends = np.cumsum([fragment.metadata.row_group(group).num_rows for group in range(fragment.metadata.num_row_groups)])
    first, last = np.searchsorted(ends, [start, stop - 1], side="right").tolist()
    some = [fragment.subset(row_group_ids=list(range(first, last + 1)))]
    narrowed = ds.FileSystemDataset(some, dataset.schema, dataset.format, dataset.filesystem)
    before = int(ends[first - 1]) if first else 0
    return narrowed.to_table(columns=list(columns)).slice(start - before, stop - start)


@contextmanager
def reading(files: Files, dataset: ds.FileSystemDataset) -> Iterator[None]:
    """Raise DataCorrupt for the damaged file if Arrow fails to read one."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        for path in dataset.files:
            check_whole(files, path)
        raise DataCorrupt(f"the table {files.uri} cannot be read: {error}") from error


RESTORE = "Restore the file from a backup of the lake; `sidmill lake verify` lists all damaged files."


def missing(files: Files, file: DataFile) -> DataCorrupt:
    return DataCorrupt(
        f"the data file {files.uri}/{file.path} is missing. {RESTORE} If `sidmill lake erase` ran meanwhile, run the "
        "command again."
    )


def corrupt(files: Files, file: DataFile) -> DataCorrupt:
    return DataCorrupt(f"the data file {files.uri}/{file.path} was changed after its commit. {RESTORE}")


def entries_hash(actions: list[AddAction]) -> str:
    """Return the hash of the log entries of files, kept in the commit to detect a change of the log."""
    return entry_hash(
        {
            "path": each.path,
            "size": each.size,
            "partitionValues": dict(each.partition_values),
            "stats": json.loads(each.stats),
        }
        for each in actions
    )


def entry_hash(entries: Iterable[Mapping[str, Any]]) -> str:
    """Return `entries_hash` of entries as the log stores them."""
    said = sorted(json.dumps(each, sort_keys=True) for each in entries)
    return hashlib.blake2b("\n".join(said).encode(), digest_size=16).hexdigest()


def check_whole(files: Files, path: str) -> None:
    """Raise DataCorrupt unless all bytes of a file match its name; skip files of other programs."""
    file = DataFile.at(path)
    try:
        if file.sha256 and files.hash(file.path) != file.sha256:
            raise corrupt(files, file)
    except FileNotFoundError as error:
        raise missing(files, file) from error
