"""An Iceberg table at a snapshot, as a source, read by pyiceberg.

The address is `iceberg:CATALOG.NAMESPACE.TABLE`, where pyiceberg's configuration has the catalog, or the place of a
metadata file, or the folder of a table with a version hint. `@ID` or `@NAME` behind it selects a snapshot, a branch or
a tag.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.fs as pafs

from infra.addresses import refuse_parameters, without_secrets
from pipelines.sources.addresses import HUB
from pipelines.sources.protocol import Found, Record, RowCount, SourceKind, Spec, absolute_path
from pipelines.sources.row import SourceError
from pipelines.sources.tables.versioned import TableVersion
from storage.errors import in_one_line

if TYPE_CHECKING:
    from pyiceberg.table import FileScanTask
    from pyiceberg.table import Table as Opened
    from pyiceberg.table.snapshots import Snapshot

SCHEME = "iceberg:"
_METADATA = re.compile(r"(?P<folder>.*)/metadata/[^/]*\.metadata\.json")
_ADDRESS = re.compile(r"(?P<table>.*?)/*(?:@(?P<snapshot>[^@/+]+))?(?P<whole>\+all)?", re.DOTALL)


@dataclass(frozen=True)
class Address:
    """A table, the snapshot of it that is wanted, if one is, and whether all its rows are."""

    table: str
    snapshot: str | None
    whole: bool

    @property
    def place(self) -> str:
        """Address that stays the same when the table changes: each commit writes another metadata file."""
        found = _METADATA.fullmatch(self.table)
        return found["folder"] if found else self.table


@dataclass(frozen=True)
class IcebergFile:
    """A data file without the rows that its delete files name."""

    table: IcebergTable
    task: FileScanTask

    def batches(self, version: int, columns: list[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
        from pyiceberg.expressions import AlwaysTrue
        from pyiceberg.io.pyarrow import ArrowScan

        opened = self.table.opened
        fields = opened.scan(snapshot_id=version, selected_fields=tuple(columns or ["*"])).projection()
        for batch in ArrowScan(opened.metadata, opened.io, fields, AlwaysTrue()).to_record_batches([self.task]):
            for first in range(0, batch.num_rows, rows):
                yield batch.slice(first, rows)

    def row_count(self) -> RowCount:
        return RowCount(self.task.file.record_count, exact=not self.task.delete_files)


@dataclass(frozen=True)
class IcebergTable:
    """An open table at `address`, which keeps its identity in all catalogs and places."""

    address: str
    opened: Opened = field(compare=False, repr=False)
    kind = "iceberg"
    mark = "@"
    reopens = False
    """A catalog holds connections and secrets, which are sent to nobody."""
    cleaning = "an expiry of snapshots"

    @property
    def table_id(self) -> str:
        return str(self.opened.metadata.table_uuid)

    @property
    def file(self) -> str:
        return Address(self.address, None, False).place.rsplit("/", 1)[-1]

    @property
    def place(self) -> tuple[pafs.FileSystem, str]:
        filesystem, path = pafs.FileSystem.from_uri(self.opened.location())
        return filesystem, path

    def schema(self, version: int) -> pa.Schema:
        from pyiceberg.io.pyarrow import schema_to_pyarrow

        return schema_to_pyarrow(self.opened.scan(snapshot_id=version).projection(), include_field_ids=False)

    def pieces(self, version: int) -> Mapping[str, IcebergFile]:
        """Return the data files; a delete file that is added to one makes it another piece."""
        try:
            tasks = list(self.opened.scan(snapshot_id=version).plan_files())
        except Exception as error:
            raise _unreadable(f"{self.address}{self.mark}{version}", error) from error
        return {_piece_name(each): IcebergFile(self, each) for each in tasks}

    def recorded(self, uri: str) -> tuple[int, bool] | None:
        told = _parsed(uri)
        if told.snapshot is None or not told.snapshot.isdecimal():
            return None
        return int(told.snapshot), told.place == Address(self.address, None, False).place

    def line(self, version: int) -> list[int]:
        """Return a snapshot and its ancestors that have not expired, newest first."""
        from pyiceberg.table.snapshots import ancestors_of

        return [each.snapshot_id for each in ancestors_of(self.opened.snapshot_by_id(version), self.opened.metadata)]


def _piece_name(task: FileScanTask) -> str:
    return " without ".join([task.file.file_path, *sorted(each.file_path for each in task.delete_files)])


def _parsed(uri: str) -> Address:
    match = _ADDRESS.fullmatch(uri)
    assert match is not None
    return Address(match["table"], match["snapshot"], match["whole"] is not None)


def _opened(address: str) -> Opened:
    try:
        from pyiceberg.catalog import load_catalog
        from pyiceberg.table import StaticTable
    except ImportError as error:
        raise SourceError(
            f"{address} is an Iceberg table, and pyiceberg is not installed. Install sidmill with the extra `iceberg`."
        ) from error
    try:
        if not address.startswith(SCHEME):
            return StaticTable.from_metadata(address, _store())
        catalog, _, table = address.removeprefix(SCHEME).partition(".")
        return load_catalog(catalog).load_table(table)
    except Exception as error:
        raise _unreadable(address, error) from error


def _store() -> dict[str, str]:
    """Return pyiceberg's settings of an object store, from the environment: there is no catalog to have them."""
    variables = {
        "s3.endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        "s3.region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    }
    found = {
        name: next((value for each in of if (value := os.environ.get(each))), "") for name, of in variables.items()
    }
    return {name: value for name, value in found.items() if value}


def _unreadable(address: str, error: Exception) -> SourceError:
    told = without_secrets(f"{type(error).__name__}: {in_one_line(error)}")
    remedy = ""
    if address.startswith(SCHEME):
        remedy = (
            f" It is read as {SCHEME}CATALOG.NAMESPACE.TABLE; the catalog is declared in .pyiceberg.yaml or by "
            "PYICEBERG_CATALOG__NAME__URI and variables like it."
        )
    return SourceError(f"the Iceberg table {address} cannot be read: {told.rstrip('.')}.{remedy}")


def _claims(uri: str) -> bool:
    address = _parsed(uri).table
    if uri.startswith(SCHEME) or _METADATA.fullmatch(address):
        return True
    if address.startswith(HUB):
        return False
    try:
        filesystem, path = pafs.FileSystem.from_uri(address if "://" in address else absolute_path(address))
        return bool(filesystem.get_file_info(f"{path}/metadata/version-hint.text").is_file)
    except (pa.ArrowException, OSError):
        return False


def _check(uri: str) -> None:
    refuse_parameters(uri, "a source")
    _snapshot(_opened(_parsed(uri).table), _parsed(uri))


def _snapshot(table: Opened, wanted: Address) -> Snapshot | None:
    """Return the snapshot of an address; None for a table without any."""
    if wanted.snapshot is None:
        return table.current_snapshot()
    found = table.snapshot_by_name(wanted.snapshot)
    if found is None and wanted.snapshot.isdecimal():
        found = table.snapshot_by_id(int(wanted.snapshot))
    if found is None:
        raise SourceError(
            f"{wanted.table} has no snapshot, branch or tag {wanted.snapshot}; it may have expired. {wanted.table} "
            "alone is the current snapshot."
        )
    return found


def _find(uri: str, spec: Spec, records: Iterable[Record]) -> Found:
    """Return a snapshot of a table, as the change since the last of its ancestors that was read before."""
    refuse_parameters(uri, "a source")
    wanted = _parsed(uri)
    table = IcebergTable(wanted.table, _opened(wanted.table))
    snapshot = _snapshot(table.opened, wanted)
    if snapshot is None:
        return Found([], [f"{uri} has no snapshot yet, so no rows"])
    source = TableVersion(table, snapshot.snapshot_id, whole=wanted.whole)
    before = source.read_before(records)
    line = table.line(source.version)
    if before and before[-1][1] not in line:
        _refuse_unless_whole(source, before[-1][1], table)
    return Found([source.since_read(before, line)], [])


def _refuse_unless_whole(source: TableVersion, last: int, table: IcebergTable) -> None:
    """Refuse a snapshot that was not made from the one that was read last, and say what reads it."""
    if source.version in table.line(last):
        raise SourceError(
            f"{source.uri} is older than snapshot {last}, which was read before: a run does not go back. Read {last} "
            f"or a newer one; to take back what came since, make {last} the current snapshot and write the old content "
            "over it as a new one."
        )
    if source.whole:
        return
    known = table.opened.snapshot_by_id(last) is not None
    why = (
        f"was not made from snapshot {last}, which was read last: the table was rolled back, or these are two branches"
        if known
        else f"cannot be compared with snapshot {last}, which was read last and has expired"
    )
    raise SourceError(
        f"{source.uri} {why}. Read {source.uri}+all: it reads all rows and looks for no deletions, so deleted items "
        "stay until a file names them as deleted."
    )


def _absolute(uri: str) -> str:
    return uri if uri.startswith(SCHEME) else absolute_path(uri)


def _at_snapshot(uri: str, snapshot: str) -> str | None:
    watched, told = _parsed(uri), _parsed(snapshot)
    if told.snapshot is None or _absolute(told.place) != _absolute(watched.place):
        return None
    if watched.snapshot not in (None, told.snapshot):
        return None
    return f"{told.table}@{told.snapshot}{'+all' if watched.whole or told.whole else ''}"


ICEBERG = SourceKind(claims=_claims, check=_check, find=_find, absolute=_absolute, at_snapshot=_at_snapshot)
"""Iceberg tables."""
