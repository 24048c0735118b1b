"""The result of a SQL query, as a source: `sql:FILE.sql`, or `sql:FILE.sql@CONNECTION`.

Without a connection DuckDB runs the query, over files or what the query attaches. A connection is an address in the
environment, so no password stands in a command or a record.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from infra.addresses import without_secrets
from pipelines.sources.protocol import Found, Record, SourceKind, Spec
from pipelines.sources.row import SourceError
from pipelines.sources.spooled.spool import GROUP_ROWS, scratch_folder, spooled, write_parquet

SCHEME = "sql:"
VARIABLE = "SIDMILL_SQL_"
_ADDRESS = re.compile(r"sql:(?P<file>.+\.sql)(?:@(?P<connection>[A-Za-z0-9_]+))?", re.DOTALL)
_DUCKDB = "duckdb:"
_POSTGRES = ("postgresql://", "postgres://")
_SECRET = re.compile(r"(?i)\b(\w*(?:password|secret|token|key)\w*['\"]?\s*[=: ]\s*)('[^']*'|\"[^\"]*\"|[^\s;,)'\"]+)")


class Query(NamedTuple):
    """A file with a query, and the name of the connection that runs it; "" for DuckDB without a database."""

    file: Path
    connection: str

    @property
    def uri(self) -> str:
        return f"{SCHEME}{self.file}" + (f"@{self.connection}" if self.connection else "")

    @property
    def database(self) -> str:
        """Address of the database, which may hold a password; raise SourceError if it is not known."""
        if not self.connection:
            return _DUCKDB
        found = os.environ.get(VARIABLE + self.connection.upper(), "")
        if not found.startswith((_DUCKDB, *_POSTGRES)):
            state = "has an address of another kind" if found else "is not set"
            raise SourceError(
                f"{self.uri}: the environment variable {VARIABLE}{self.connection.upper()} {state}. Set it to the "
                "address of the database: a URI of PostgreSQL, or duckdb:FILE."
            )
        return found

    def text(self) -> str:
        try:
            found = self.file.read_text("utf-8-sig")
        except UnicodeError as error:
            raise SourceError(f"{self.uri}: the query is not text in UTF-8. Save it as UTF-8.") from error
        except OSError as error:
            raise SourceError(f"{self.uri}: the query cannot be read: {error.strerror or error}.") from error
        if not found.strip():
            raise SourceError(f"{self.uri}: the file is empty. Write a query into it.")
        return found


def _parsed(uri: str) -> Query:
    match = _ADDRESS.fullmatch(uri)
    if match is None:
        raise SourceError(
            f"{without_secrets(uri)} names no query. Write the query into a file and name it as sql:FILE.sql, or "
            f"sql:FILE.sql@CONNECTION, where the variable {VARIABLE}CONNECTION has the address of the database."
        )
    return Query(Path(match["file"]).expanduser().resolve(), match["connection"] or "")


def _check(uri: str) -> None:
    query = _parsed(uri)
    query.text()
    _require(query.database)


def _require(database: str) -> None:
    try:
        if database.startswith(_DUCKDB):
            import duckdb  # noqa: F401
        else:
            import adbc_driver_postgresql  # noqa: F401
    except ImportError as error:
        raise SourceError(f"a query needs the package {error.name}. Install sidmill with the extra `sql`.") from error


def _find(uri: str, spec: Spec, records: Iterable[Record]) -> Found:
    """Run the query, and return its result."""
    query = _parsed(uri)
    text, database = query.text(), query.database
    _require(database)
    scratch = scratch_folder()
    path = Path(scratch.name) / "result.parquet"
    run = _in_duckdb if database.startswith(_DUCKDB) else _in_postgres
    try:
        with run(database, text, query.file.parent, Path(scratch.name)) as reader:
            write_parquet(path, reader.schema, reader, query.file.name)
    except SourceError:
        raise
    except Exception as error:  # noqa: BLE001 - each database and each extension raises errors of its own
        # The cause is left out: it quotes the query, which may hold a password.
        raise SourceError(f"{query.uri}: the query failed: {_told(error, database)}") from None
    return Found([spooled(path, query.uri, query.file.name, str(query.file.parent), scratch)], [])


@contextmanager
def _in_duckdb(database: str, text: str, folder: Path, scratch: Path) -> Iterator[pa.RecordBatchReader]:
    import duckdb

    file = database.removeprefix(_DUCKDB)
    settings: dict[str, str | bool | int | float | list[str]] = {
        "file_search_path": str(folder),
        "python_enable_replacements": "false",  # else a name in the query may be a variable of this program
        "temp_directory": str(scratch / "duckdb"),
    }
    with duckdb.connect(file or ":memory:", read_only=bool(file), config=settings) as connection:
        statements = connection.extract_statements(text)
        rows = (duckdb.StatementType.SELECT, duckdb.StatementType.MULTI)  # the second is PIVOT
        result = connection.sql(text) if statements and statements[-1].type in rows else None
        if result is None:
            raise ValueError("it gives no rows; end it with a SELECT.")
        yield result.to_arrow_reader(GROUP_ROWS)


@contextmanager
def _in_postgres(database: str, text: str, folder: Path, scratch: Path) -> Iterator[pa.RecordBatchReader]:
    """Run a query in a transaction that is never committed, and may not write."""
    import adbc_driver_postgresql.dbapi as postgres

    with postgres.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION READ ONLY")
        cursor.execute(text)
        yield cursor.fetch_record_batch()


def _told(error: Exception, database: str) -> str:
    """Return the first line of an error without secrets: the lines below it quote the query."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if database != _DUCKDB:
        line = line.replace(database, "the database")
    return without_secrets(_SECRET.sub(r"\1***", line))


def _absolute(uri: str) -> str:
    return _parsed(uri).uri


SQL = SourceKind(
    claims=lambda uri: uri.startswith(SCHEME), check=_check, find=_find, absolute=_absolute, watchable=False
)
"""Results of SQL queries."""
