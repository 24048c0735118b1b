"""The first rows of a source as a source of its own, so that ingest reads them by its own rules."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow.fs as pafs

from pipelines.profile.sample import first_rows
from pipelines.sources.protocol import Part, Record, Source, Spec


@dataclass(frozen=True)
class Sampled:
    """The first `rows` rows of a source; known by its address, for its content is not read.

    `columns` are those that the rows have that were read so far.
    """

    source: Source
    rows: int
    columns: dict[str, None] = field(default_factory=dict, compare=False)

    @property
    def uri(self) -> str:
        return self.source.uri

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.source.uri.encode()).hexdigest()

    @property
    def file(self) -> str:
        return self.source.file

    @property
    def name(self) -> str:
        return f"{self.file}@{self.sha256[:12]}"

    @property
    def filesystem(self) -> pafs.FileSystem:
        return self.source.filesystem

    @property
    def folder(self) -> str:
        return self.source.folder

    @property
    def identities(self) -> tuple[str, ...]:
        return (self.sha256,)

    @property
    def unread_columns(self) -> frozenset[str]:
        return self.source.unread_columns

    def former_names(self, records: Iterable[Record]) -> set[str]:
        """Return its name: it has no other."""
        return {self.name}

    def check(self, spec: Spec) -> None:
        self.source.check(spec)

    def parts(self, spec: Spec, rows: int) -> Iterator[Part]:
        for part in first_rows(self.source, spec, self.rows, rows):
            self.columns.update(dict.fromkeys(_columns(part)))
            yield part


def _columns(part: Part) -> Iterator[str]:
    """Yield the columns of a part, those of folder names among them."""
    if not isinstance(part, list):
        yield from (*part.columns, *part.names)
        return
    for row in part:
        if row.reason is None:
            yield from (*row.columns, *row.values)
