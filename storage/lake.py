"""`Lake`: open tables at a version, read them as Arrow or polars, and find the blobs beside them."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from storage.blobs import Blobs
from storage.errors import LakeNotFound
from storage.schemas import TABLES, TableSpec


def one_of(column: str, values: Iterable[str]) -> ds.Expression:
    """Rows whose text column holds one of the values; none where there are no values."""
    return ds.field(column).isin(pa.array(values, pa.string()))


def file_name(path: str) -> str:
    """The name of a data file, which no other file of its table has."""
    return path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class TableRef:
    """(table, version): what passes between flow tasks, never the data itself."""

    table: str
    version: int


class Lake:
    """A lake at a local directory or an object-store URI.

    Credentials of an object store are read from its usual environment variables (AWS_*, ...), which deltalake
    hands to the store. The object is cheap, holds no open handle and pickles as its URI.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/") if "://" in uri else str(Path(uri).expanduser().resolve())
        self.blobs = Blobs(f"{self.uri}/blobs")

    def __reduce__(self) -> tuple[type["Lake"], tuple[str]]:
        return (Lake, (self.uri,))

    @property
    def is_local(self) -> bool:
        return "://" not in self.uri

    def path(self, table: str) -> str:
        return f"{self.uri}/{table}"

    def exists(self, table: str) -> bool:
        return bool(DeltaTable.is_deltatable(self.path(table)))

    def open(self, table: str, version: int | None = None) -> DeltaTable:
        """The table at `version` (newest by default); LakeNotFound names what is missing."""
        try:
            return DeltaTable(self.path(table), version=version)
        except (TableNotFoundError, DeltaError) as error:
            at = "" if version is None else f" at version {version}"
            raise LakeNotFound(
                f"the lake {self.uri} has no table {table!r}{at} ({error}); "
                "is --lake right? `sidmill run bootstrap` makes a lake."
            ) from error

    def open_or_create(self, table: str) -> DeltaTable:
        """The newest state of the table, made with its constraints if it is not there (safe under concurrency)."""
        spec = TABLES[table]
        if not self.exists(table):
            self._create(spec)
        handle = self.open(table)
        missing = {
            name: rule
            for name, rule in spec.constraints.items()
            if f"delta.constraints.{name}" not in handle.metadata().configuration
        }
        return self._constrain(handle, missing) if missing else handle

    def _create(self, spec: TableSpec) -> None:
        if self.is_local:
            os.makedirs(self.uri, exist_ok=True)
        try:
            DeltaTable.create(self.path(spec.name), spec.schema, mode="error", partition_by=list(spec.partition_by))
        except DeltaError:
            if not self.exists(spec.name):  # otherwise another writer created it first, which is as good
                raise

    def _constrain(self, handle: DeltaTable, rules: dict[str, str]) -> DeltaTable:
        """Add the constraints a killed creator left out, or that a concurrent one is adding now."""
        for name, rule in rules.items():
            try:
                handle.alter.add_constraint({name: rule})
            except DeltaError:
                handle = self.open(handle.table_uri.rstrip("/").rsplit("/", 1)[-1])
                if f"delta.constraints.{name}" not in handle.metadata().configuration:
                    raise
        return handle

    def version(self, table: str) -> int:
        """The newest version, -1 when the table does not exist yet."""
        return int(self.open(table).version()) if self.exists(table) else -1

    def ref(self, table: str) -> TableRef:
        return TableRef(table, self.version(table))

    def read(
        self,
        table: str,
        version: int | None = None,
        columns: Sequence[str] | None = None,
        where: ds.Expression | None = None,
    ) -> pa.Table:
        """The rows at `version` (newest by default) with partitions and files pruned by `where`.

        A table that was never written (or version -1) reads as no rows.
        """
        schema = TABLES[table].schema
        names = list(columns) if columns is not None else schema.names
        if version == -1 or (version is None and not self.exists(table)):
            return schema.empty_table().select(names)
        dataset = self.open(table, version).to_pyarrow_dataset()
        return dataset.to_table(columns=names, filter=where)

    def batches(
        self,
        table: str,
        columns: Sequence[str],
        where: ds.Expression,
        rows: int = 1 << 16,
        version: int | None = None,
        since: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """`read`, in batches of at most `rows` rows of one file: few of them are in memory at a time.

        With `since` only files are read that another version has not.
        """
        if version != -1 and self.exists(table):
            dataset = self.open(table, version).to_pyarrow_dataset()
            yield from (dataset if since is None else self._without(dataset, table, since)).to_batches(
                columns=list(columns), filter=where, batch_size=rows, batch_readahead=2, fragment_readahead=1
            )

    def count(self, table: str, version: int, where: ds.Expression) -> int:
        """How many rows `read` would give."""
        return 0 if version == -1 else int(self.open(table, version).to_pyarrow_dataset().count_rows(filter=where))

    def read_added(self, table: str, since: int, version: int, columns: Sequence[str]) -> pa.Table:
        """The rows of the files that `version` has and version `since` had not: reads nothing else.

        A compaction writes rows that were there before into files that were not.
        """
        schema = TABLES[table].schema
        if version == -1 or since == version:
            return schema.empty_table().select(list(columns))
        return self._without(self.open(table, version).to_pyarrow_dataset(), table, since).to_table(
            columns=list(columns)
        )

    def file_names(self, table: str, version: int) -> set[str]:
        """Names of the files of a version, without their folders; none of version -1."""
        return set() if version == -1 else {file_name(uri) for uri in self.open(table, version).file_uris()}

    def _without(self, dataset: ds.FileSystemDataset, table: str, since: int) -> ds.FileSystemDataset:
        before = self.file_names(table, since)
        fragments = [part for part in dataset.get_fragments() if file_name(part.path) not in before]
        return ds.FileSystemDataset(fragments, dataset.schema, dataset.format, dataset.filesystem)

    def frame(
        self,
        table: str,
        version: int | None = None,
        columns: Sequence[str] | None = None,
        where: ds.Expression | None = None,
    ) -> pl.DataFrame:
        """`read` as a polars frame."""
        frame = pl.from_arrow(self.read(table, version, columns, where))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def rows(self, table: str, version: int | None = None) -> int:
        """Number of rows, from the log alone."""
        if version == -1 or (version is None and not self.exists(table)):
            return 0
        return int(self.open(table, version).count())
