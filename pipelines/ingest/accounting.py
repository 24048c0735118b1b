"""Shared parts of both ingests: the record of files read under a mapping, and refusals of single rows."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
from pydantic import BaseModel

from infra.addresses import without_secrets
from pipelines.counts import Counts
from pipelines.sources.cells import Refused, Unreadable, shown
from pipelines.sources.files import SourceFile
from pipelines.sources.protocol import Record, Source
from pipelines.sources.row import Row, SourceError
from storage.commit import Provenance, append
from storage.files.among import one_of
from storage.json_hash import json_hash
from storage.lake import Lake
from storage.quarantine import open_rows, resolve
from storage.reasons import Reason
from storage.schemas import SOURCES


@dataclass(frozen=True)
class IngestedSource:
    """Outcome of one file. `stages` holds its counts: of rows, and for a catalogue of pictures and attributes too.

    `unread_pictures` counts pictures that are named but not requested by the recipe. `lost` are columns that items of
    the file had a value in before, and have no more. `marks` are attributes that look like marks of deletion, and
    `row_numbers` attributes that look like row numbers. `columns` are those of the columns that the recipe names which
    the file has.
    """

    source: Source
    kind: str
    mapping: str
    stages: list[Counts]
    unread_pictures: int = 0
    lost: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    row_numbers: tuple[str, ...] = ()
    columns: frozenset[str] = frozenset()


def mapping_hash(spec: BaseModel) -> str:
    """Return 16 hex digits over the settings that shape how a file is read; defaults do not enter."""
    return json_hash(spec.model_dump(mode="json", exclude_defaults=True))


def records(lake: Lake, kind: str, spec: BaseModel) -> list[Record]:
    """Return the sources of a kind that were read, also under other mappings, in the order in which they were."""
    mapping = mapping_hash(spec)
    rows = lake.frame("sources", columns=["uri", "sha256", "mapping", "at"], where=ds.field("kind") == kind).sort("at")
    return [Record(uri, sha256, each == mapping) for uri, sha256, each, _ in rows.iter_rows()]


def unread(sources: Iterable[Source], before: Iterable[Record]) -> list[Source]:
    """Return the sources not read `before` under this mapping, by content; of several alike the first counts."""
    done = {record.sha256 for record in before if record.same_mapping}
    fresh: dict[str, Source] = {}
    for source in sources:
        if source.sha256 not in done:
            fresh.setdefault(source.sha256, source)
    return list(fresh.values())


def names_of(lake: Lake, source: Source, kind: str) -> list[str]:
    """Return the names under which the lake stores the rows of a source, also those of former places."""
    where = (ds.field("kind") == kind) & one_of("sha256", source.identities)
    rows = lake.read("sources", columns=["uri", "sha256"], where=where).to_pylist()
    return sorted(source.former_names(Record(**row) for row in rows))


def close_superseded(
    lake: Lake, source: Source, stages: list[Counts], refused: set[str], provenance: Provenance
) -> None:
    """Resolve open quarantine rows from an earlier reading of the file that this reading did not refuse.

    A whole file in the place of a compressed text that broke off resolves the row that stood for the rest of that.
    """
    rows = open_rows(lake).filter(
        pl.col("stage").is_in([counts.stage for counts in stages]) & ~pl.col("quarantine_id").is_in(sorted(refused))
    )
    same = rows["source"].str.ends_with(f"@{source.sha256[:12]}")
    if isinstance(source, SourceFile):
        broken = rows.filter(pl.col("reason") == Reason.UNREADABLE_TEXT).select("quarantine_id", "payload")
        whole = [row for row, told in broken.iter_rows() if told and source.completes(json.loads(told))]
        same |= rows["quarantine_id"].is_in(whole)
    rows = rows.filter(same)
    resolve(lake, rows, f"{source.name} was read again and the row was not refused", provenance)


def record_source(lake: Lake, done: IngestedSource, provenance: Provenance) -> None:
    """Record that a file was read under its mapping, with the counts of the first stage."""
    main = done.stages[0]
    row = {
        "sha256": done.source.sha256,
        "kind": done.kind,
        "mapping": done.mapping,
        "uri": done.source.uri,
        "rows_in": main.rows_in,
        "rows_out": main.out,
        "rows_unchanged": main.unchanged,
        "rows_quarantined": main.quarantined,
        "at": datetime.now(UTC),
        "run": provenance.run,
    }
    rows = pa.Table.from_pylist([row], schema=SOURCES.schema)
    append(lake, "sources", rows, f"source:{done.kind}:{done.source.sha256}:{done.mapping}", provenance)


def content_key(table: str, rows: pa.Table) -> str:
    """Return the idempotency key of a commit, by its content: another reading of a file may write more."""
    digest, arrow = Digest(), rows.combine_chunks()
    with pa.PythonFile(digest, "w") as sink, pa.ipc.new_stream(sink, arrow.schema) as stream:
        stream.write_table(arrow)
    return f"{table}:{digest.hexdigest()[:24]}"


class Digest:
    """File that keeps only the hash of what is written."""

    closed = False

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._sha256.update(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: the hash is always up to date."""

    def close(self) -> None:
        """Do nothing: the hash stays readable."""

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


_PLAIN_NAME = re.compile(r"\w([\w .:/-]*\w)?", re.ASCII)
"""Names of columns that show all their characters without quotes around them."""


def lacking(row: Row, column: str, setting: str) -> str:
    """Explain why a row has no value in a required column, and name the setting for that column."""
    columns = row.columns or tuple(row.values)
    if column in columns:
        value = row.values.get(column)
        word = f": {shown(value)} stands for none" if value not in (None, "") else ""
        return f"no value in column {column!r}{word}"
    if not columns:
        return f"the row has no {column!r}, and no other column"
    if len(columns) == 1 and column in columns[0]:
        section = setting.partition(".")[0]
        told = f"if it is several, set {section}.csv.delimiter to what separates them"
        return f"the header is one cell, {columns[0]!r}: {told}"
    there = ", ".join(name if _PLAIN_NAME.fullmatch(name) else repr(name) for name in sorted(columns)[:12])
    return f"the row has no {column!r}, it has {there}: write a value, or name the column in {setting}"


def as_refused(error: Exception) -> Refused:
    """Convert an exception from a row to a refusal of that row alone; re-raise MemoryError."""
    if isinstance(error, MemoryError):
        raise error
    if isinstance(error, Refused):
        return error
    return Refused(Reason.UNREADABLE_ROW, f"{type(error).__name__}: {error}")


_OF_NO_ROW = (
    *(ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError),
    *(pa.ArrowException, pl.exceptions.PolarsError),
)
"""Errors of a conversion that no single row causes."""


@contextmanager
def naming(source: Source, first: int, last: int) -> Iterator[None]:
    """Add the file and the numbers of the rows to errors that no single row causes."""
    try:
        yield
    except SourceError:
        raise
    except _OF_NO_ROW as error:
        raise SourceError(f"{source.file}, rows {first:,} to {last:,}: {type(error).__name__}: {error}") from error


def payload(values: dict[str, Any], whole: str | None = None) -> str:
    """Return the values of a refused row as JSON, each shown as far as it can be.

    Secrets are removed from addresses, except in the column `whole`, whose addresses are fetched again.
    """
    told = {str(name): _showable(value, name == whole) for name, value in values.items()}
    return json.dumps(told, default=str, ensure_ascii=False)


def _showable(value: Any, whole: bool) -> Any:
    try:
        inner = _plain(value, whole)
        json.dumps(inner, default=str)
    except (ValueError, TypeError, RecursionError):
        return without_secrets(shown(value))
    return inner


def _plain(value: Any, whole: bool) -> Any:
    """Return a value without bytes and, unless it is kept whole, without secrets in addresses."""
    if isinstance(value, Unreadable):
        return value.text or f"<{value.why}>"
    if isinstance(value, list):
        return [_plain(each, whole) for each in value]
    if isinstance(value, dict):
        return {name: _plain(each, whole) for name, each in value.items()}
    if isinstance(value, str) and not whole:
        return without_secrets(value)
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else value
