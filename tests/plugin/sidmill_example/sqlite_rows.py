"""A source: the rows of a table in a SQLite file, `sqlite:///FOLDER/FILE/TABLE`."""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs

from pipelines.sources.protocol import Found, Part, Record, SourceKind, Spec
from pipelines.sources.row import Row, SourceError

SCHEME = "sqlite://"


@dataclass(frozen=True)
class Table:
    """One table of a file; its identity is the content of the file."""

    path: str
    table: str
    sha256: str

    filesystem = pafs.LocalFileSystem()
    unread_columns = frozenset[str]()

    @property
    def uri(self) -> str:
        return f"{SCHEME}{self.path}/{self.table}"

    @property
    def file(self) -> str:
        return f"{Path(self.path).name}/{self.table}"

    @property
    def name(self) -> str:
        return f"{self.file}@{self.sha256[:12]}"

    @property
    def folder(self) -> str:
        return str(Path(self.path).parent)

    @property
    def identities(self) -> tuple[str, ...]:
        return (self.sha256,)

    def former_names(self, records: Iterable[Record]) -> set[str]:
        return {self.name}

    def check(self, spec: Spec) -> None:
        with closing(sqlite3.connect(self.path)) as database:
            if self.table not in {name for (name,) in database.execute("SELECT name FROM sqlite_master")}:
                raise SourceError(f"{self.path} has no table {self.table!r}.")

    def parts(self, spec: Spec, rows: int) -> Iterator[Part]:
        with closing(sqlite3.connect(self.path)) as database:
            cursor = database.execute(f'SELECT * FROM "{self.table}" ORDER BY rowid')
            names = tuple(column for column, *_ in cursor.description)
            first = 0
            while cells := cursor.fetchmany(rows):
                yield [
                    Row(first + number, dict(zip(names, row, strict=True)), columns=names)
                    for number, row in enumerate(cells)
                ]
                first += len(cells)


def find(uri: str, spec: Spec, records: Iterable[Record]) -> Found:
    path, _, table = uri.removeprefix(SCHEME).rpartition("/")
    return Found([Table(path, table, hashlib.sha256(Path(path).read_bytes()).hexdigest())], [])


def check(uri: str) -> None:
    path = uri.removeprefix(SCHEME).rpartition("/")[0]
    if not Path(path).is_file():
        raise SourceError(f"there is no file {path}.")


SQLITE = SourceKind(claims=lambda uri: uri.startswith(SCHEME), check=check, find=find)
