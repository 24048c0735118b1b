"""`Lake`: open tables at a version, read them as Arrow or polars, and find the blobs beside them."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from infra.addresses import refuse_parameters
from storage.errors import LakeNotFound
from storage.files.among import Among, both
from storage.files.blobs import Blobs
from storage.files.data_files import DataFile, OpenFiles, consecutive, data_files, reading
from storage.files.durable import committing
from storage.files.store import Files
from storage.files.table_cache import TableCache
from storage.files.table_log import before_joins, is_table, joined_files, require_whole, why_unreadable
from storage.files.table_settings import with_settings
from storage.format import FORMAT, OLDEST_WRITABLE, find_format, require_writable, write_format
from storage.schemas import PROPERTIES, TABLES, TableSpec


@dataclass(frozen=True)
class TableRef:
    """(table, version): passed between flow tasks in place of the data."""

    table: str
    version: int


class Lake:
    """A lake at a local directory or an object-store URI.

    Credentials of an object store are read from its usual environment variables (AWS_*, ...), which deltalake passes to
    the store. The object is cheap and pickles as its URI. It caches what it read of the logs, because each
    look costs requests of an object store: which tables exist, and `TableCache` for each of them. `seen` has
    the newest version of each table it opened.
    """

    def __init__(self, uri: str) -> None:
        refuse_parameters(uri, "--lake")
        self.uri = uri.rstrip("/") if "://" in uri else str(Path(uri).expanduser().resolve())
        self.blobs = Blobs(f"{self.uri}/blobs")
        self.files = Files(self.uri)
        self.seen: dict[str, int] = {}
        self._format: int | None = None
        self._is_writable = False
        self._exists = set[str]()
        self._caches = dict[str, TableCache]()
        self._opened = dict[str, OpenFiles]()

    def __reduce__(self) -> tuple[type["Lake"], tuple[str]]:
        return (Lake, (self.uri,))

    @property
    def is_local(self) -> bool:
        return "://" not in self.uri

    def path(self, table: str) -> str:
        return f"{self.uri}/{table}"

    def table_files(self, table: str) -> Files:
        """Return the files of a table."""
        return self._open_files(table).files

    def _open_files(self, table: str) -> OpenFiles:
        if table not in self._opened:
            self._opened[table] = OpenFiles(Files(self.path(table)), TABLES[table])
        return self._opened[table]

    @property
    def format(self) -> int | None:
        """Format version, None if there is no lake yet; raises LakeFormat for a newer program's lake."""
        if self._format is None:
            self._format = find_format(self.files, map(self.path, TABLES))
        return self._format

    def exists(self, table: str) -> bool:
        if table not in self._exists and self.format is not None and is_table(self.path(table)):
            self._exists.add(table)
        return table in self._exists

    def open(self, table: str, version: int | None = None) -> DeltaTable:
        """Return the table at `version` (newest by default).

        Raise LakeNotFound for a table or version that never existed, DataCorrupt if the log of the table is damaged.
        """
        if not self.exists(table):
            advice = "Check --lake, or make a lake with `sidmill run bootstrap`."
            raise LakeNotFound(f"the lake {self.uri} has no table {table!r}. {advice}")
        place = self.table_files(table)
        try:
            handle = DeltaTable(self.path(table), version=version)
        except (DeltaError, OSError) as error:
            raise why_unreadable(place, table, version, error) from error
        require_whole(place, table, handle.version())
        self.saw(table, handle.version())
        return handle

    def saw(self, table: str, version: int) -> None:
        """Note that a version of a table exists."""
        self.seen[table] = max(version, self.seen.get(table, -1))

    def open_or_create(self, table: str) -> DeltaTable:
        """Return the newest state of the table for writing; create it if it does not exist (safe under concurrency).

        Missing settings and constraints are set, such as those of a table whose creation was killed. Raise LakeFormat
        for a lake of an older format, after setting its tables to keep their log.
        """
        self._require_writable()
        spec = TABLES[table]
        if not self.exists(table):
            self._create(spec)
        return self._with_settings(self.open(table), spec)

    def _require_writable(self) -> None:
        if self._is_writable:
            return
        if self.format is None:
            write_format(self.files)
            self._format = FORMAT
        found = self.format or FORMAT
        if found < OLDEST_WRITABLE:
            self.keep_logs()
        require_writable(self.files, found)
        self._is_writable = True

    def keep_logs(self) -> None:
        """Set the common settings on all existing tables."""
        for spec in TABLES.values():
            if self.exists(spec.name):
                self._with_settings(self.open(spec.name), spec)

    def _create(self, spec: TableSpec) -> None:
        if spec.name != "pointers" and not self.exists("pointers"):
            self._create(TABLES["pointers"])  # created first: if it is missing later, it was lost
        try:
            with committing(self.table_files(spec.name)):
                by, path = list(spec.partition_by), self.path(spec.name)
                DeltaTable.create(path, spec.schema, mode="error", partition_by=by, configuration=PROPERTIES)
        except DeltaError:
            if not self.exists(spec.name):  # otherwise another writer created it first, which is fine
                raise

    def _with_settings(self, handle: DeltaTable, spec: TableSpec) -> DeltaTable:
        return with_settings(self.table_files(spec.name), handle, spec, lambda: self.open(spec.name))

    def version(self, table: str) -> int:
        """Return the newest version, -1 if the table does not exist yet."""
        if not self.exists(table):
            return -1
        cache = self._valid_cache(table)
        if cache is None:
            handle = self.open(table)
            cache = self._caches[table] = TableCache(handle.version())
            cache.add(cache.newest, data_files(handle, TABLES[table]))
        return cache.newest

    def ref(self, table: str) -> TableRef:
        return TableRef(table, self.version(table))

    def data_files(self, table: str, version: int | None = None) -> list[DataFile]:
        """Return the data files of a version (newest by default); none for a table never written or version -1."""
        if version == -1 or (version is None and not self.exists(table)):
            return []
        if version is None:
            version = self.version(table)
        cache = self._valid_cache(table)
        if cache is None:
            return data_files(self.open(table, version), TABLES[table])
        if version not in cache.files:
            cache.add(version, data_files(self.open(table, version), TABLES[table]))
        return cache.files[version]

    def _valid_cache(self, table: str) -> TableCache | None:
        cache = self._caches.get(table)
        return cache if cache is not None and cache.is_valid(self.table_files(table)) else None

    def read(
        self,
        table: str,
        version: int | None = None,
        columns: Sequence[str] | None = None,
        where: ds.Expression | None = None,
        among: Among | None = None,
        without: Collection[str] = (),
    ) -> pa.Table:
        """Read the rows at `version` (newest by default), with partitions and files pruned by `where`.

        `among` is a further condition; only row groups that may hold one of its values are read. Files at the paths
        `without` are left out. A table that was never written (or version -1) has no rows. Raise DataCorrupt if a file
        that is read differs from what was committed.
        """
        if TABLES[table].bookkeeping and where is None and among is None and not without:
            rows = self._all_rows(table, version)
            return rows if columns is None else rows.select(list(columns))
        files = [file for file in self.data_files(table, version) if file.path not in without]
        return self._rows(table, files, columns, where, among)

    def _all_rows(self, table: str, version: int | None) -> pa.Table:
        """Read all rows of a bookkeeping table, which are few, and remember those of its newest version."""
        files = self.data_files(table, version)
        cache = self._caches.get(table)
        if cache is None or cache.files.get(cache.newest) is not files:
            return self._rows(table, files, None)
        if cache.rows is None:
            cache.rows = self._rows(table, files, None)
        return cache.rows

    def _rows(
        self,
        table: str,
        files: list[DataFile],
        columns: Sequence[str] | None,
        where: ds.Expression | None = None,
        among: Among | None = None,
    ) -> pa.Table:
        dataset = self._dataset(table, files, where, among, columns)
        condition = both(where, among) if dataset.files else None  # Arrow looks at all values of a condition first
        with reading(self.table_files(table), dataset):
            return dataset.to_table(columns=None if columns is None else list(columns), filter=condition)

    def rows_of(self, handle: DeltaTable, table: str, files: list[DataFile] | None = None) -> pa.Table:
        """Read all rows of an open table, at its version, or of some of its files."""
        return self._rows(table, data_files(handle, TABLES[table]) if files is None else files, None)

    def read_files(
        self,
        table: str,
        files: Iterable[DataFile],
        columns: Sequence[str] | None,
        where: ds.Expression | None = None,
        among: Among | None = None,
    ) -> pa.Table:
        """Read the rows of some files of a table, of any versions, file by file in this order."""
        return self._rows(table, list(files), columns, where, among)

    def read_span(self, table: str, file: DataFile, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
        """Read consecutive rows of a file: of its row groups, those that hold some."""
        dataset = self._dataset(table, [file], None)
        with reading(self.table_files(table), dataset):
            return consecutive(dataset, start, stop, columns)

    def batches(
        self,
        table: str,
        columns: Sequence[str],
        where: ds.Expression,
        rows: int = 1 << 16,
        version: int | None = None,
        among: Among | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Read as `read` does, in batches of at most `rows` rows of one file; memory holds few of them."""
        dataset = self._dataset(table, self.data_files(table, version), where, among, columns)
        yield from self._batches(table, dataset, columns, both(where, among), rows)

    def file_batches(
        self, table: str, files: list[DataFile], columns: Sequence[str], where: ds.Expression, rows: int = 1 << 16
    ) -> Iterator[pa.RecordBatch]:
        """Read as `batches` does, of some files of a table, of any versions."""
        yield from self._batches(table, self._dataset(table, files, where), columns, where, rows)

    def _batches(
        self, table: str, dataset: ds.FileSystemDataset, columns: Sequence[str], where: ds.Expression, rows: int
    ) -> Iterator[pa.RecordBatch]:
        options = ds.ParquetFragmentScanOptions(pre_buffer=not self.is_local)
        how = {"batch_size": rows, "fragment_scan_options": options, "use_threads": False}
        with reading(self.table_files(table), dataset):  # with threads, Arrow reads 1 GiB ahead of a slow reader
            yield from dataset.to_batches(columns=list(columns), filter=where, **how)

    def count(self, table: str, version: int, where: ds.Expression) -> int:
        """Return the number of rows `read` gives; files whose bounds decide the condition are not opened."""
        files = self.data_files(table, version)
        doubtful = {each.path for each in self._open_files(table).within(files, ~where)}
        decided = {each.path: each.rows for each in files if each.path not in doubtful and each.rows is not None}
        dataset = self._dataset(table, [each for each in files if each.path not in decided], where)
        with reading(self.table_files(table), dataset):
            return sum(decided.values()) + int(dataset.count_rows(filter=where))

    def read_added(self, table: str, since: int, version: int, columns: Sequence[str]) -> pa.Table:
        """Read the rows of the files that `version` has and version `since` lacks, but not those that `lake gc` joined.

        Old rows may be among them after a compaction of another program, or where the log between was cut.
        """
        return self._rows(table, self.added_files(table, since, version), columns)

    def version_of_rows(self, table: str, version: int) -> int:
        """Return the oldest version that has the same rows, because all commits since only joined files."""
        return before_joins(self.table_files(table), version)

    def file_names(self, table: str, version: int) -> set[str]:
        """Return the names of the files of a version, without their folders; none for version -1."""
        return {each.name for each in self.data_files(table, version)}

    def added_files(self, table: str, since: int, version: int) -> list[DataFile]:
        """Return the files that `read_added` reads."""
        files, known = self.data_files(table, version), {each.path for each in self.data_files(table, since)}
        if known - {each.path for each in files}:
            known |= joined_files(self.table_files(table), known, since, version)
        return [each for each in files if each.path not in known]

    def files_within(self, table: str, where: ds.Expression) -> list[DataFile]:
        """Return the files of the newest version that may hold a row of a condition, by their bounds."""
        return self._open_files(table).within(self.data_files(table), where)

    def _dataset(
        self,
        table: str,
        files: list[DataFile],
        where: ds.Expression | None,
        among: Among | None = None,
        columns: Sequence[str] | None = None,
    ) -> ds.FileSystemDataset:
        """Open what may hold a row of both conditions, with footers checked against the commit."""
        opened = self._open_files(table)
        kept = opened.within(files, where)
        if among is not None and kept:
            may = among.may_be_within([each.bounds.get(among.column) for each in kept])
            kept = [each for each, held in zip(kept, may, strict=True) if held]
        dataset = opened.dataset(kept)
        if among is None or not kept:
            return dataset
        with reading(self.table_files(table), dataset):
            return among.narrowed(dataset, columns)

    def frame(
        self,
        table: str,
        version: int | None = None,
        columns: Sequence[str] | None = None,
        where: ds.Expression | None = None,
        among: Among | None = None,
    ) -> pl.DataFrame:
        """Return `read` as a polars frame."""
        frame = pl.from_arrow(self.read(table, version, columns, where, among))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def rows(self, table: str, version: int | None = None) -> int:
        """Return the number of rows, from the log alone."""
        if version == -1 or (version is None and not self.exists(table)):
            return 0
        counts = [file.rows for file in self.data_files(table, version)]
        if None in counts:  # another program wrote a file without statistics
            return int(self.open(table, version).count())
        return sum(count or 0 for count in counts)
