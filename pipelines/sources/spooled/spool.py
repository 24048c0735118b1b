"""Rows that come once, from a query or a pipe: they are kept in a scratch file, and known by their content."""

import atexit
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from infra.scratch import ScratchFolder
from pipelines.sources.files import SourceFile, find_sources
from pipelines.sources.row import SourceError

GROUP_ROWS = 1 << 16
"""Rows of a row group of a scratch file. A reader holds one group in memory."""


@dataclass(frozen=True)
class Spooled(SourceFile):
    """A scratch file, which lives as long as this object; messages name it `label`.

    Relative paths of pictures refer to the folder `near`.
    """

    label: str = ""
    near: str = ""
    scratch: ScratchFolder | None = field(default=None, repr=False, compare=False)

    @property
    def file(self) -> str:
        return self.label

    @property
    def name(self) -> str:
        return f"{self.label}@{self.sha256[:12]}"

    @property
    def folder(self) -> str:
        return self.near


def scratch_folder() -> ScratchFolder:
    """Return a folder that goes with the object, or with the process: a command ends without finalizers."""
    folder = ScratchFolder("source")
    atexit.register(shutil.rmtree, folder.name, ignore_errors=True)
    return folder


def spooled(path: Path, uri: str, label: str, near: str, scratch: ScratchFolder) -> Spooled:
    """Return a file in a scratch folder as the source at an address."""
    (found,) = find_sources(str(path))  # which refuses one that breaks off
    return Spooled(
        found.path, found.filesystem, uri, found.sha256, found.sha256, label=label, near=near, scratch=scratch
    )


def write_parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], label: str) -> None:
    """Write batches as Parquet: equal rows in equal order give equal bytes, however they are batched."""
    for each in schema:
        try:
            pq.ParquetWriter(pa.BufferOutputStream(), pa.schema([each])).close()
        except pa.ArrowNotImplementedError as error:
            raise SourceError(
                f"{label}: the column {each.name!r} has the type {each.type}, which Parquet cannot hold. Cast it in "
                "the query, for example to text."
            ) from error
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in _regrouped(batches):
            writer.write_table(group, GROUP_ROWS)


def _regrouped(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        while batch.num_rows:
            part = batch.slice(0, GROUP_ROWS - rows)
            batch = batch.slice(part.num_rows)
            held.append(part)
            rows += part.num_rows
            if rows == GROUP_ROWS:
                yield pa.Table.from_batches(held).combine_chunks()
                held, rows = [], 0
    if held:
        yield pa.Table.from_batches(held).combine_chunks()
