"""The protocol of a source of rows: how it is found, how it is known again, and how its rows are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import pyarrow.fs as pafs

from pipelines.sources.parquet_columns import Columns
from pipelines.sources.row import Row, SourceError
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec
from pipelines.sources.text.text_rows import TextRows

Spec = ItemsSpec | InteractionsSpec
Part = Columns | TextRows | list[Row]
"""Consecutive rows: as columns where the source has columns, else one by one; of a text some are columns."""
# Most faults that one message names.
MAX_FAULTS = 10


@dataclass(frozen=True)
class Record:
    """A source of the same kind that was read before: its address, its identity, and whether under this mapping."""

    uri: str
    sha256: str
    same_mapping: bool = True


class Source(Protocol):
    """An immutable set of rows with an identity derived from its content.

    Examples are a file, a version of a table, and the result of a query.

    `sha256` is the identity: 64 hex digits over the content, or over what determines it (table id and version). A
    source with the identity of one that was read before is not read again. `uri` is its address, without secrets.
    """

    @property
    def uri(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    @property
    def file(self) -> str:
        """Short name in messages."""

    @property
    def name(self) -> str:
        """Name in the tables of the lake: `file` and the beginning of the identity."""

    @property
    def filesystem(self) -> pafs.FileSystem:
        """File system of `folder`."""

    @property
    def folder(self) -> str:
        """Place to which relative paths of pictures refer."""

    @property
    def identities(self) -> tuple[str, ...]:
        """Identities under which this or an older version of sidmill may have recorded it.

        For example, a file with columns from folder names has its `sha256` and the hash of its bytes alone, which older
        versions recorded.
        """

    @property
    def unread_columns(self) -> frozenset[str]:
        """Columns that exist outside the rows, as in folder names, and that the mapping does not read."""

    def former_names(self, records: Iterable[Record]) -> set[str]:
        """Return the names under which the lake stores its rows, by records with one of its identities.

        For example, a file that was recorded as `a.csv` and then renamed `b.csv` has the names `a.csv@0123456789ab` and
        `b.csv@0123456789ab`.
        """

    def check(self, spec: Spec) -> None:
        """Raise SourceError if it is not as the mapping says. Cheap: reads the beginning at most."""

    def parts(self, spec: Spec, rows: int) -> Iterator[Part]:
        """Yield all rows in order, at most `rows` at once, numbered from 0. The same numbers at every reading.

        Rows that cannot be read are Rows with a reason. Raise SourceError if the rest cannot be read.
        """


def check_sources(sources: Iterable[Source], spec: Spec) -> None:
    """Raise one SourceError that names every source that is not as the recipe says."""
    faults = []
    for source in sources:
        try:
            source.check(spec)
        except SourceError as error:
            faults.append(str(error))
    if faults:
        more = f"\n... and {len(faults) - MAX_FAULTS} more" if len(faults) > MAX_FAULTS else ""
        raise SourceError("\n".join(faults[:MAX_FAULTS]) + more)


@dataclass(frozen=True)
class RowCount:
    """Rows of a source, known before they are read: `exact` from metadata, else estimated from its first rows."""

    rows: int
    exact: bool

    def __add__(self, other: RowCount) -> RowCount:
        return RowCount(self.rows + other.rows, self.exact and other.exact)

    def __str__(self) -> str:
        return f"{'' if self.exact else 'about '}{self.rows:,}"


@runtime_checkable
class Counted(Protocol):
    """A source that can tell its rows without reading them all."""

    def row_count(self, spec: Spec) -> RowCount:
        """Return the number of rows. Cheap: reads metadata or the beginning at most."""


@dataclass(frozen=True)
class SourcePartition:
    """Consecutive rows that a source can read by themselves.

    It has the number of the first row, how many there are, and what the source calls them: a file, or row groups.
    """

    first: int
    rows: int
    name: str | range


@runtime_checkable
class Partitioned(Protocol):
    """A source of which several processes may read partitions. It pickles, without what was read of it."""

    @property
    def is_on_this_machine(self) -> bool:
        """True if other machines do not see it."""

    def partitions(self, spec: Spec) -> list[SourcePartition]:
        """Return the partitions in order, which have all rows; none where rows can be read only in their order.

        Cheap: reads metadata.
        """

    def partition_parts(self, partition: SourcePartition, spec: Spec, rows: int) -> Iterator[Part]:
        """Yield the rows of a partition. The parts of all partitions are those that `parts` yields."""

    def check_same(self) -> None:
        """Raise SourceError if it changed since it was found; asked once all partitions are read."""


@dataclass(frozen=True)
class Found:
    """Sources at an address, and warnings about what lies there and is not read."""

    sources: list[Source]
    warnings: list[str]


def absolute_path(uri: str) -> str:
    """Return an address that means the same in every folder; `~/` is the home folder."""
    if "://" in uri:
        return uri
    return str((Path(uri).expanduser() if uri.startswith("~/") else Path(uri)).resolve())


@dataclass(frozen=True)
class SourceKind:
    """A kind of sources, as a registry holds it.

    - `claims` returns True for an address of this kind; it does not read it.
    - `check` raises SourceError if nothing can be read at an address.
    - `find` returns the sources at an address, given the records of sources that were read before.
    - `look` returns them without reading their content, so without an identity. It is None if the kind cannot do so, or
      if `find` reads no content either.
    - `absolute` returns an address that means the same in every folder.
    - `at_snapshot` returns an address at the version that the address of a snapshot names; None if that names no
      version, or belongs to another source. It is None if the sources have no versions.
    - `watchable` is False if a look from time to time is not wanted, because it costs as much as reading.
    - `claims_rest` is True if it is asked last, for addresses that no other kind claims.
    """

    claims: Callable[[str], bool]
    check: Callable[[str], None]
    find: Callable[[str, Spec, Iterable[Record]], Found]
    look: Callable[[str, Spec], Found] | None = None
    absolute: Callable[[str], str] = absolute_path
    at_snapshot: Callable[[str, str], str | None] | None = None
    watchable: bool = True
    claims_rest: bool = False
