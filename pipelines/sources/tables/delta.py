"""A Delta table at a version, as a source; the address is the folder of the table, or `FOLDER@v12` for a version."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from infra.addresses import SETTINGS, refuse_parameters
from pipelines.sources.addresses import resolved
from pipelines.sources.protocol import Found, Record, RowCount, SourceKind, Spec
from pipelines.sources.row import SourceError
from pipelines.sources.tables.delta_files import DeltaFiles, KeptRows, delta_files, without_deleted
from pipelines.sources.tables.versioned import TableVersion
from storage.errors import in_one_line

KIND = "delta"
_ADDRESS = re.compile(r"(?P<table>.*?)/*(?:@v(?P<version>\d+))?(?P<whole>\+all)?", re.DOTALL)
_FEATURE = re.compile(r"reader features|Feature '|column mapping", re.IGNORECASE)
"""What the library says of a table with a feature that it does not read."""


@dataclass(frozen=True)
class DeltaFile:
    """A data file, without the rows that are deleted from it; what a version needs of its rows is its schema.

    `rows` are those with the deleted ones, by the log of the table, which need not say it.
    """

    table: "DeltaFolder"
    fragment: ds.ParquetFileFragment
    rows: int | None = None
    kept: KeptRows | None = None

    @property
    def name(self) -> str:
        """Path of the file, with a hash of its deleted rows if there are any."""
        path: str = self.fragment.path
        if self.kept is None:
            return path
        gone = np.flatnonzero(~self.kept)
        return f"{path}#{hashlib.sha256(gone.astype('<u8').tobytes()).hexdigest()[:16]}"

    def batches(self, version: int, columns: list[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
        schema = self.table.schema(version)
        try:
            # Threads of Arrow would read 1 GiB ahead of a slow reader.
            read = self.fragment.to_batches(schema=schema, columns=columns, batch_size=rows, use_threads=False)
            yield from without_deleted(read, self.kept)
        except pa.ArrowException as error:
            if retyped := self._retyped(schema, columns):
                raise self._unlike(version, retyped, error) from error
            raise

    def _retyped(self, schema: pa.Schema, columns: list[str] | None) -> list[str]:
        """Return the columns, each with its two types, that cannot be converted to those of a schema."""
        written, found = self.fragment.physical_schema, []
        for name in schema.names if columns is None else columns:
            if name in written.names and written.field(name).type != schema.field(name).type:
                try:
                    self.fragment.to_table(schema=schema, columns=[name])
                except pa.ArrowException:
                    found.append(f"{name!r} is {schema.field(name).type} there and {written.field(name).type} here")
        return found

    def _unlike(self, version: int, retyped: list[str], error: Exception) -> SourceError:
        table = self.table
        told = (
            f"{table.file}{table.mark}{version}: the rows of {self.fragment.path} cannot be converted to the columns "
            f"of this version: {', '.join(retyped)} ({in_one_line(error).rstrip('.')})."
        )
        if self.name in table.pieces(version):
            return SourceError(f"{told} Write the table anew with one type a column.")
        return SourceError(
            f"{told} The file is of a version that was read before, and is looked through for items that are gone. "
            f"Read {table.address}{table.mark}{version}+all: all rows, without that look; items that are gone then "
            "stay until a file names them as deleted."
        )

    def row_count(self) -> RowCount:
        deleted = 0 if self.kept is None else int((~self.kept).sum())
        rows = self.fragment.count_rows() if self.rows is None else self.rows
        return RowCount(rows - deleted, exact=True)


@dataclass(frozen=True)
class DeltaFolder:
    """The Delta table in the folder `address`."""

    address: str
    table_id: str
    kind = KIND
    mark = "@v"
    reopens = True
    cleaning = "a vacuum of the table"

    def __reduce__(self) -> tuple[type["DeltaFolder"], tuple[str, str]]:
        """Leave out what was read of the table."""
        return DeltaFolder, (self.address, self.table_id)

    @property
    def file(self) -> str:
        return self.address.rsplit("/", 1)[-1]

    @property
    def place(self) -> tuple[pafs.FileSystem, str]:
        if "://" in self.address:
            filesystem, path = pafs.FileSystem.from_uri(self.address)
            return filesystem, path
        return pafs.LocalFileSystem(), self.address

    def schema(self, version: int) -> pa.Schema:
        return self._files(version).schema

    def pieces(self, version: int) -> Mapping[str, DeltaFile]:
        files = self._files(version)
        found = (
            DeltaFile(self, each, files.rows.get(path), files.kept.get(path)) for path, each in files.fragments.items()
        )
        return {each.name: each for each in found}

    def _files(self, version: int) -> DeltaFiles:
        if version not in self._listed:
            self._listed[version] = _files(self.address, version)
        return self._listed[version]

    @cached_property
    def _listed(self) -> dict[int, DeltaFiles]:
        return {}

    def recorded(self, uri: str) -> tuple[int, bool] | None:
        """Return the version if the address is that of this folder: a copy of a table has its id and other versions."""
        path, version, _ = _parsed(uri)
        return None if version is None or path != self.address else (version, True)


def _without_views(schema: pa.Schema) -> pa.Schema:
    """Return a schema with plain text and bytes: Arrow cannot compare views."""
    plain = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    return pa.schema([field.with_type(plain.get(field.type, field.type)) for field in schema])


def _opened(path: str, version: int | None = None) -> DeltaTable:
    try:
        return DeltaTable(path, version=version)
    except (DeltaError, OSError, ValueError) as error:
        raise _unreadable(path, version, error) from error


def _files(path: str, version: int | None) -> DeltaFiles:
    table = _opened(path, version)
    try:
        return delta_files(table, _without_views(pa.schema(table.schema().to_arrow())))
    except (DeltaError, OSError, ValueError) as error:
        raise _unreadable(path, version, error) from error


def _unreadable(path: str, version: int | None, error: Exception) -> SourceError:
    if version is not None and (newest := _newest(path)) is not None and newest < version:
        return SourceError(
            f"the Delta table {path} has not reached version {version}: its newest is {newest}. Name a version that it "
            f"has, or {path} alone for the newest."
        )
    at = "" if version is None else f" at version {version}"
    remedy = f"If its log is damaged, repair the table, or name an older version of it ({path}@v12)."
    if _FEATURE.search(str(error)):
        remedy = (
            "Take that feature off the table, or write its current rows to a table without it or to a Parquet file."
        )
    return SourceError(f"the Delta table {path} cannot be read{at}: {in_one_line(error).rstrip('.')}. {remedy}")


def _newest(path: str) -> int | None:
    """Return the newest version of a table; None if it cannot be opened."""
    try:
        version: int = DeltaTable(path).version()
    except (DeltaError, OSError, ValueError):
        return None
    return version


def _parsed(uri: str) -> tuple[str, int | None, bool]:
    """Return table, version if one is named, and whether all rows of it are wanted."""
    match = _ADDRESS.fullmatch(uri)
    assert match is not None
    version = match["version"]
    return match["table"], None if version is None else int(version), match["whole"] is not None


def _claims(uri: str) -> bool:
    refuse_parameters(uri, "a source", SETTINGS)
    try:
        return bool(DeltaTable.is_deltatable(_parsed(uri)[0]))
    except (DeltaError, OSError, ValueError):
        return False


def _check(uri: str) -> None:
    path, version, _ = _parsed(uri)
    _files(path, version)


def _find(uri: str, spec: Spec, records: Iterable[Record]) -> Found:
    """Return the version of a table, as the change since the newest version that was read before."""
    path, wanted, whole = _parsed(uri)
    table = _opened(path, wanted)
    source = TableVersion(DeltaFolder(path, str(table.metadata().id)), table.version(), whole=whole)
    before = source.read_before(records)
    newest = max((version for _, version in before), default=source.version)
    if newest > source.version:
        raise SourceError(
            f"{source.uri} is older than version {newest}, which was read before: a run does not go back. Read version "
            f"{newest} or a newer one; `restore` of the table makes the old content a new version."
        )
    return Found([source.since_read(before, range(source.version, -1, -1))], [])


def _at_snapshot(uri: str, snapshot: str) -> str | None:
    path, wanted, whole = _parsed(uri)
    told, version, all_rows = _parsed(snapshot)
    if version is None or resolved(told) != resolved(path) or wanted not in (None, version):
        return None
    return f"{path}@v{version}{'+all' if whole or all_rows else ''}"


DELTA = SourceKind(claims=_claims, check=_check, find=_find, at_snapshot=_at_snapshot)
"""Delta tables."""
