"""A Delta table at a version, as a source: all its rows, or what changed since the version that was read before.

The address is the folder of the table, or `FOLDER@v12` for a version. Of a later version only the files that came are
read. Rows of files that went, and whose item is in no file any more, come again as deleted items; a log keeps its
events.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from infra.addresses import SETTINGS, refuse_parameters
from pipelines.sources.parquet_columns import DAMAGED, Columns
from pipelines.sources.protocol import Found, Part, Record, RowCount, SourceKind, Spec
from pipelines.sources.row import SourceError, without_blanks
from pipelines.sources.source_spec import ItemsSpec

_ADDRESS = re.compile(r"(?P<table>.*?)/*(?:@v(?P<version>\d+))?(?P<whole>\+all)?", re.DOTALL)
Fragments = dict[str, ds.ParquetFileFragment]


@dataclass(frozen=True)
class TableVersion:
    """Rows of the table at `path`, at `version`: all, or those of files that came after the version `since`.

    Items that were there in version `deleted_since`, and are not any more, come as deleted. `whole` is True where all
    rows were asked for.
    """

    path: str
    table_id: str
    version: int
    since: int | None = None
    deleted_since: int | None = None
    whole: bool = False

    @property
    def uri(self) -> str:
        return f"{self.path}@v{self.version}"

    @property
    def sha256(self) -> str:
        parts = ["delta", self.table_id, str(self.version), *(["all"] if self.whole else [])]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @property
    def file(self) -> str:
        return self.uri.rsplit("/", 1)[-1]

    @property
    def name(self) -> str:
        """Name with all that decides the numbers of rows."""
        since = "" if self.since is None else f" since v{self.since}"
        return f"{self.file}{since}@{self.sha256[:12]}"

    @property
    def folder(self) -> str:
        return self._place[1]

    @property
    def filesystem(self) -> pafs.FileSystem:
        return self._place[0]

    @cached_property
    def _place(self) -> tuple[pafs.FileSystem, str]:
        if "://" in self.path:
            filesystem, path = pafs.FileSystem.from_uri(self.path)
            return filesystem, path
        return pafs.LocalFileSystem(), self.path

    @property
    def identities(self) -> tuple[str, ...]:
        return (self.sha256,)

    @property
    def unread_columns(self) -> frozenset[str]:
        return frozenset()

    def former_names(self, records: Iterable[Record]) -> set[str]:
        """Return its name: the version of a table has no other."""
        return {self.name}

    def check(self, spec: Spec) -> None:
        """Raise SourceError if a column is there twice, or the table cannot be read."""
        names = without_blanks(_dataset(self.path, self.version).schema.names, spec.mapped_columns)
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
        """Yield the rows of each file, by path, then the deleted items."""
        first = 0
        for batch in self._batches(spec, rows):
            names = without_blanks(batch.schema.names, spec.mapped_columns)
            yield Columns(first, batch.rename_columns(names), tuple(names), spec.selected_columns is not None)
            first += batch.num_rows

    def row_count(self, spec: Spec) -> RowCount:
        """Return the rows of the files that came; deleted items are not among them."""
        try:
            return RowCount(sum(each.count_rows() for each in self._came.values()), exact=True)
        except DAMAGED as error:  # also of a file that a vacuum removed
            raise SourceError(f"{self.file}: its files cannot be counted: {error}") from error

    def _batches(self, spec: Spec, rows: int) -> Iterator[pa.RecordBatch]:
        schema = _dataset(self.path, self.version).schema
        columns = _selected(schema, spec)
        for path, fragment in sorted(self._came.items()):
            yield from self._rows(path, fragment, schema, columns, rows)
        if isinstance(spec, ItemsSpec) and self._gone:
            yield from self._deleted(spec, schema, rows)

    def _rows(
        self, path: str, fragment: ds.ParquetFileFragment, schema: pa.Schema, columns: list[str] | None, rows: int
    ) -> Iterator[pa.RecordBatch]:
        try:
            for batch in fragment.to_batches(schema=schema, columns=columns, batch_size=rows):
                if batch.num_rows:
                    yield batch
        except FileNotFoundError as error:
            raise SourceError(
                f"{self.file}: {path} is gone, a vacuum of the table removed it. Read a version that is still whole: "
                f"{self.path} alone is the newest; with +all behind it no change since an older version is looked for, "
                "so deleted items stay until a file names them as deleted."
            ) from error
        except DAMAGED as error:
            raise SourceError(f"{self.file}: {path} cannot be read: {error}. Restore it, or mend the table.") from error

    def _deleted(self, spec: ItemsSpec, schema: pa.Schema, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the last rows of items that are in no file any more, marked as deleted."""
        seen: set[object] = set()
        key, mark = _written(schema, spec.item_id), _written(schema, spec.deleted or "")
        column = schema.get_field_index(mark)
        for path, fragment in sorted(self._gone.items()):
            batches = list(self._rows(path, fragment, schema, None, rows))
            ids = set(pc.unique(pa.chunked_array([batch[key] for batch in batches])).to_pylist()) if batches else set()
            lost = ids - self._present(key, ids, schema) - seen
            seen |= lost
            for batch in batches:
                keep = pc.is_in(batch[key], pa.array(sorted(lost, key=str), batch[key].type))
                dead = batch.filter(keep)
                flags = pa.array([True] * dead.num_rows)
                if dead.num_rows:
                    yield dead.append_column(mark, flags) if column < 0 else dead.set_column(column, mark, flags)

    def _present(self, key: str, ids: set[object], schema: pa.Schema) -> set[object]:
        """Return those of some ids that this version of the table has."""
        found: set[object] = set()
        wanted = pa.array(sorted(ids, key=str), schema.field(key).type)
        for fragment in self._fragments.values():
            there = fragment.to_table(schema=schema, columns=[key])[key]
            found.update(there.filter(pc.is_in(there, wanted)).to_pylist())
        return found

    @cached_property
    def _fragments(self) -> Fragments:
        return _files_at(self.path, self.version)

    @cached_property
    def _came(self) -> Fragments:
        before = _files_at(self.path, self.since)
        return {path: each for path, each in self._fragments.items() if path not in before}

    @cached_property
    def _gone(self) -> Fragments:
        before = _files_at(self.path, self.deleted_since)
        return {path: each for path, each in before.items() if path not in self._fragments}


def _files_at(path: str, version: int | None) -> Fragments:
    """Return the files of a version by path; none without a version."""
    return {} if version is None else {each.path: each for each in _dataset(path, version).get_fragments()}


def _without_views(schema: pa.Schema) -> pa.Schema:
    """Return a schema with plain text and bytes: Arrow cannot compare views."""
    plain = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    return pa.schema([field.with_type(plain.get(field.type, field.type)) for field in schema])


def _selected(schema: pa.Schema, spec: Spec) -> list[str] | None:
    """Return the columns to read, as the table writes them; None for all."""
    if spec.selected_columns is None:
        return None
    bare = without_blanks(schema.names, spec.mapped_columns)
    return [name for name, each in zip(schema.names, bare, strict=True) if each in spec.selected_columns]


def _written(schema: pa.Schema, column: str) -> str:
    """Return a column of the recipe as the table writes it: there may be blanks around the name."""
    return next((name for name in schema.names if name.strip() == column), column)


def _opened(path: str, version: int | None = None) -> DeltaTable:
    try:
        return DeltaTable(path, version=version)
    except (DeltaError, OSError, ValueError) as error:
        raise _unreadable(path, version, error) from error


def _dataset(path: str, version: int | None) -> ds.FileSystemDataset:
    table = _opened(path, version)
    try:
        return table.to_pyarrow_dataset(schema=_without_views(pa.schema(table.schema().to_arrow())))
    except (DeltaError, OSError, ValueError) as error:
        raise _unreadable(path, version, error) from error


def _unreadable(path: str, version: int | None, error: Exception) -> SourceError:
    at = "" if version is None else f" at version {version}"
    return SourceError(f"the Delta table {path} cannot be read{at}: {error}")


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
    _dataset(path, version)


def _find(uri: str, spec: Spec, records: Iterable[Record]) -> Found:
    """Return the version of a table, as the change since the newest version that was read before."""
    path, wanted, whole = _parsed(uri)
    table = _opened(path, wanted)
    source = TableVersion(path, str(table.metadata().id), table.version(), whole=whole)
    read = {record: version for record in records if (version := _version_of(record, path)) is not None}
    for record, version in read.items():
        if record.sha256 not in {replace(source, version=version, whole=each).sha256 for each in (True, False)}:
            raise SourceError(
                f"{path} is another table than the one that was read from there before: it was made anew. Its rows may "
                "repeat or contradict those. Read it from another folder if it is meant to replace them."
            )
    newest = max(read.values(), default=None)
    if newest is not None and newest > source.version:
        raise SourceError(
            f"{source.uri} is older than version {newest}, which was read before: a run does not go back. Read version "
            f"{newest} or a newer one; `restore` of the table makes the old content a new version."
        )
    since = max((version for record, version in read.items() if record.same_mapping), default=None)
    return Found([replace(source, since=None if whole else since, deleted_since=None if whole else newest)], [])


def _version_of(record: Record, path: str) -> int | None:
    table, version, _ = _parsed(record.uri)
    return version if table == path else None


DELTA = SourceKind(claims=_claims, check=_check, find=_find)
"""Delta tables."""
