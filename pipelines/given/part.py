"""A part of a source of given vectors, and the errors of its file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
from deltalake.exceptions import DeltaError

from pipelines.sources.parquet_columns import DAMAGED
from pipelines.sources.row import SourceError
from storage.errors import in_one_line


@dataclass(frozen=True)
class VectorPart:
    """Consecutive rows of a file, from row `first` on; `width` is that of its vectors if their type states it.

    `read` yields them in batches of at most so many rows: a column of ids and one of lists.
    """

    file: str
    first: int
    rows: int
    width: int | None
    read: Callable[[int], Iterator[pa.RecordBatch]]


@contextmanager
def faults_named(where: str, file: str) -> Iterator[None]:
    """Raise SourceError, with the section and the file, for whatever reading a file raises."""
    try:
        yield
    except SourceError:
        raise
    except (DeltaError, *DAMAGED) as error:
        raise SourceError(
            f"{where}: {file} cannot be read: {in_one_line(error).rstrip('.')}. Correct the path, or write the file "
            "again."
        ) from error
