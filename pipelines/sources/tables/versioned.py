"""A version of a table, as a source: all its rows, or what changed since the version that was read before.

Of a later version only the pieces that came are read. Rows of pieces that went, and whose item is in no piece any more,
come again as deleted items; a log keeps its events.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from pipelines.sources.parquet_columns import DAMAGED, Columns
from pipelines.sources.protocol import Part, Record, RowCount, SourcePartition, Spec
from pipelines.sources.row import SourceError, without_blanks
from pipelines.sources.source_spec import ItemsSpec


class Piece(Protocol):
    """Rows that stay as they are: a data file, without the rows that a version deletes from it."""

    def batches(self, version: int, columns: list[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows with columns of a version of the table, in order, at most `rows` at once."""

    def row_count(self) -> RowCount: ...


class VersionedTable(Protocol):
    """A table whose versions stay readable: `kind` and `table_id` tell it from all others, wherever it is.

    `cleaning` is the operation that removes old pieces, in words.
    """

    @property
    def kind(self) -> str: ...

    @property
    def table_id(self) -> str: ...

    @property
    def address(self) -> str:
        """Address without a version."""

    @property
    def file(self) -> str:
        """Short name in messages."""

    @property
    def mark(self) -> str:
        """Text between address and version."""

    @property
    def cleaning(self) -> str: ...

    @property
    def reopens(self) -> bool:
        """True if other processes can open it by what it pickles as, and its pieces know how many rows they have."""

    @property
    def place(self) -> tuple[pafs.FileSystem, str]:
        """Folder of the table."""

    def schema(self, version: int) -> pa.Schema:
        """Return the columns of a version, in types that Arrow can compare."""

    def pieces(self, version: int) -> Mapping[str, Piece]:
        """Return the pieces of a version by name. Equal names, in any two versions, mean equal rows."""

    def recorded(self, uri: str) -> tuple[int, bool] | None:
        """Return the version in the address of a record, and whether it lies at the address of this table."""


@dataclass(frozen=True)
class TableVersion:
    """Rows of `table` at `version`: all, or those of pieces that came after the version `since`.

    Items that were there in version `deleted_since`, and are not any more, come as deleted. `whole` is True where all
    rows were asked for.
    """

    table: VersionedTable
    version: int
    since: int | None = None
    deleted_since: int | None = None
    whole: bool = False

    def __reduce__(self) -> tuple[type["TableVersion"], tuple[Any, ...]]:
        """Leave out what was read of the table."""
        return TableVersion, (self.table, self.version, self.since, self.deleted_since, self.whole)

    @property
    def uri(self) -> str:
        return f"{self.table.address}{self.table.mark}{self.version}"

    @property
    def sha256(self) -> str:
        parts = [self.table.kind, self.table.table_id, str(self.version), *(["all"] if self.whole else [])]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @property
    def file(self) -> str:
        return f"{self.table.file}{self.table.mark}{self.version}"

    @property
    def since_file(self) -> str:
        """Short name of the version that was read before."""
        return f"{self.table.file}{self.table.mark}{self.since}"

    @property
    def name(self) -> str:
        """Name with all that decides the numbers of rows."""
        since = "" if self.since is None else f" since {self.table.mark.removeprefix('@')}{self.since}"
        return f"{self.file}{since}@{self.sha256[:12]}"

    @property
    def folder(self) -> str:
        return self._place[1]

    @property
    def filesystem(self) -> pafs.FileSystem:
        return self._place[0]

    @cached_property
    def _place(self) -> tuple[pafs.FileSystem, str]:
        return self.table.place

    @property
    def identities(self) -> tuple[str, ...]:
        return (self.sha256,)

    @property
    def unread_columns(self) -> frozenset[str]:
        return frozenset()

    def former_names(self, records: Iterable[Record]) -> set[str]:
        """Return its name: the version of a table has no other."""
        return {self.name}

    def since_read(self, records: Sequence[tuple[Record, int]], line: Iterable[int]) -> "TableVersion":
        """Return the change since the versions that were read before.

        `line` are the versions that this one was made from, itself first.
        """
        if self.whole or not records:
            return self
        read = {version for _, version in records}
        alike = {version for record, version in records if record.same_mapping}
        deleted_since = since = None
        for version in line:
            deleted_since = version if deleted_since is None and version in read else deleted_since
            if version in alike:
                since = version
                break
        return replace(self, since=since, deleted_since=deleted_since)

    def read_before(self, records: Iterable[Record]) -> list[tuple[Record, int]]:
        """Return the records of this table with their versions; raise SourceError if the table was created again."""
        found = []
        for record in records:
            told = self.table.recorded(record.uri)
            if told is None:
                continue
            version, same_place = told
            if record.sha256 in {replace(self, version=version, whole=each).sha256 for each in (True, False)}:
                found.append((record, version))
            elif same_place:
                raise SourceError(
                    f"{self.table.address} is another table than the one that was read from there before: it was made "
                    "anew. Its rows may repeat or contradict those. Read it from another address if it is meant to "
                    "replace them."
                )
        return found

    def check(self, spec: Spec) -> None:
        """Raise SourceError if two columns have one name, or the table cannot be read."""
        names = without_blanks(self.table.schema(self.version).names, spec.mapped_columns)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SourceError(f"{self.file}: it has two columns {twice[0]!r}. Give every column a name of its own.")
        if isinstance(spec, ItemsSpec) and not spec.deleted and self._gone:
            raise SourceError(
                f"{self.file}: files were replaced since version {self.deleted_since}, which may delete items, and the "
                "recipe has no column for that: "
                'set items.deleted to a name, such as "deleted", which the table need not have.'
            )

    def parts(self, spec: Spec, rows: int) -> Iterator[Part]:
        """Yield the rows of each piece, by name, then the deleted items."""
        return _numbered(self._batches(spec, rows), 0, spec)

    def partitions(self, spec: Spec) -> list[SourcePartition]:
        """Return the pieces by name; none if items are deleted, which are looked for in all pieces."""
        if not self.table.reopens or (isinstance(spec, ItemsSpec) and self._gone):
            return []
        found, first = list[SourcePartition](), 0
        for name, piece in sorted(self._came.items()):
            try:
                rows = piece.row_count().rows
            except DAMAGED:  # which reading the rows explains
                return []
            if rows:
                found.append(SourcePartition(first, rows, name))
            first += rows
        return found

    def partition_parts(self, partition: SourcePartition, spec: Spec, rows: int) -> Iterator[Part]:
        name, number = str(partition.name), partition.first
        columns = _selected(self.table.schema(self.version), spec)
        for part in _numbered(self._rows(name, self._came[name], columns, rows), number, spec):
            number += len(part)
            yield part
        if number != partition.first + partition.rows:
            raise SourceError(
                f"{self.file}: {name} has {number - partition.first:,} rows, and its metadata says {partition.rows:,}. "
                "Repair the table."
            )

    @property
    def is_on_this_machine(self) -> bool:
        return "://" not in self.table.address or self.table.address.startswith("file://")

    def check_same(self) -> None:
        """Do nothing: a version of a table does not change."""

    def row_count(self, spec: Spec) -> RowCount:
        """Return the rows of the pieces that came; deleted items are not among them."""
        try:
            return sum((each.row_count() for each in self._came.values()), RowCount(0, exact=True))
        except DAMAGED as error:  # also of a file that was removed
            raise SourceError(f"{self.file}: its files cannot be counted: {error}") from error

    def _batches(self, spec: Spec, rows: int) -> Iterator[pa.RecordBatch]:
        columns = _selected(self.table.schema(self.version), spec)
        for name, piece in sorted(self._came.items()):
            yield from self._rows(name, piece, columns, rows, f"{self.table.address} alone is the newest version")
        if isinstance(spec, ItemsSpec) and self._gone:
            yield from self._deleted(spec, rows)

    def _rows(
        self, name: str, piece: Piece, columns: list[str] | None, rows: int, instead: str = ""
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a piece; `instead` is what can be read where a file of it is gone, besides all rows."""
        try:
            for batch in piece.batches(self.version, columns, rows):
                if batch.num_rows:
                    yield batch
        except FileNotFoundError as error:
            raise SourceError(
                f"{self.file}: {name} is gone, {self.table.cleaning} removed it. Read what is still whole: "
                f"{f'{instead}; ' if instead else ''}{self.table.address}+all is all rows of the newest, "
                "where no change since an older version is looked for, so deleted items stay until a file names them "
                "as deleted."
            ) from error
        except SourceError:
            raise
        except DAMAGED as error:
            raise SourceError(
                f"{self.file}: {name} cannot be read: {error}. Restore it, or repair the table."
            ) from error

    def _deleted(self, spec: ItemsSpec, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield items that lost rows: as deleted if no piece has them any more, or as pieces that stayed have them."""
        schema = self.table.schema(self.version)
        key, mark = _written(schema, spec.item_id), _written(schema, spec.deleted or "")
        column, seen, again = schema.get_field_index(mark), set[object](), set[object]()
        others = {name: each for name, each in self._pieces.items() if name not in self._came}
        if key not in schema.names:  # every row is refused for that
            return
        for name, piece in sorted(self._gone.items()):
            batches = list(self._rows(name, piece, None, rows))
            ids = set(pc.unique(pa.chunked_array([batch[key] for batch in batches])).to_pylist()) if batches else set()
            ids -= self._present(key, ids, schema, self._came)
            staying = self._present(key, ids, schema, others)
            again |= staying
            lost = ids - staying - seen
            seen |= lost
            for batch in batches:
                dead = batch.filter(pc.is_in(batch[key], pa.array(sorted(lost, key=str), batch[key].type)))
                flags = pa.array([True] * dead.num_rows)
                if dead.num_rows:
                    yield dead.append_column(mark, flags) if column < 0 else dead.set_column(column, mark, flags)
        if again:
            wanted, columns = pa.array(sorted(again, key=str), schema.field(key).type), _selected(schema, spec)
            for name, piece in sorted(others.items()):
                for batch in self._rows(name, piece, columns, rows):
                    if (kept := batch.filter(pc.is_in(batch[key], wanted))).num_rows:
                        yield kept

    def _present(self, key: str, ids: set[object], schema: pa.Schema, pieces: Mapping[str, Piece]) -> set[object]:
        """Return those of some ids that some pieces of this version have."""
        found: set[object] = set()
        wanted = pa.array(sorted(ids, key=str), schema.field(key).type)
        for name, piece in pieces.items() if ids else ():
            for batch in self._rows(name, piece, [key], _KEY_ROWS):
                found.update(batch[key].filter(pc.is_in(batch[key], wanted)).to_pylist())
        return found

    @property
    def _pieces(self) -> Mapping[str, Piece]:
        return self._pieces_at(self.version)

    @cached_property
    def _came(self) -> Mapping[str, Piece]:
        before = self._pieces_at(self.since)
        return {name: each for name, each in self._pieces.items() if name not in before}

    @cached_property
    def _gone(self) -> Mapping[str, Piece]:
        before = self._pieces_at(self.deleted_since)
        return {name: each for name, each in before.items() if name not in self._pieces}

    def _pieces_at(self, version: int | None) -> Mapping[str, Piece]:
        if version not in self._listed:
            self._listed[version] = {} if version is None else self.table.pieces(version)
        return self._listed[version]

    @cached_property
    def _listed(self) -> dict[int | None, Mapping[str, Piece]]:
        return {}


def _numbered(batches: Iterator[pa.RecordBatch], first: int, spec: Spec) -> Iterator[Columns]:
    """Yield batches as parts of a source, of which the first row has the number `first`."""
    for batch in batches:
        names = without_blanks(batch.schema.names, spec.mapped_columns)
        yield Columns(first, batch.rename_columns(names), tuple(names), spec.selected_columns is not None)
        first += batch.num_rows


# Ids of a piece that are compared at once.
_KEY_ROWS = 1 << 17


def _selected(schema: pa.Schema, spec: Spec) -> list[str] | None:
    """Return the columns to read, as the table writes them; None for all."""
    if spec.selected_columns is None and not spec.unread_columns:
        return None
    bare = without_blanks(schema.names, spec.mapped_columns)
    wanted = set(bare) - spec.unread_columns if spec.selected_columns is None else spec.selected_columns
    return [name for name, each in zip(schema.names, bare, strict=True) if each in wanted]


def _written(schema: pa.Schema, column: str) -> str:
    """Return a column of the recipe as the table writes it: there may be blanks around the name."""
    return next((name for name in schema.names if name.strip() == column), column)
