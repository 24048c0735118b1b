"""Data files of a Delta table at a version, and which of their rows deletion vectors leave.

deltalake gives deletion vectors as they are, and refuses such a table as an Arrow data set, which would read all rows.
"""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaProtocolError
from deltalake.table import SUPPORTED_READER_FEATURES
from numpy.typing import NDArray

DELETION_VECTORS = "deletionVectors"
KeptRows = NDArray[np.bool_]
"""Whether each row of a file is kept; rows beyond the last are."""


@dataclass(frozen=True)
class DeltaFiles:
    """Files of a version by path, with the schema of the table, and the rows that are kept of files that lost some.

    `rows` are the rows of a file that the log of the table tells.
    """

    schema: pa.Schema
    fragments: Mapping[str, ds.ParquetFileFragment]
    rows: Mapping[str, int | None]
    kept: Mapping[str, KeptRows]


def delta_files(table: DeltaTable, schema: pa.Schema | None = None) -> DeltaFiles:
    """Return the files of an open table, read with a schema, its own by default.

    Raises an error of deltalake for a table with a feature that is not read, such as column mapping.
    """
    schema = schema or pa.schema(table.schema().to_arrow())
    features = set(table.protocol().reader_features or ())
    added = pa.table(table.get_add_actions(flatten=True))
    rows = dict(zip(map(unquote, added["path"].to_pylist()), added["num_records"].to_pylist(), strict=True))
    if DELETION_VECTORS not in features:
        dataset = table.to_pyarrow_dataset(schema=schema)
        return DeltaFiles(dataset.schema, {each.path: each for each in dataset.get_fragments()}, rows, {})
    if others := features - {DELETION_VECTORS, *SUPPORTED_READER_FEATURES}:
        raise DeltaProtocolError(f"The table has set these reader features: {', '.join(sorted(others))}")
    root = table.table_uri.rstrip("/")
    filesystem, folder = pafs.FileSystem.from_uri(root) if "://" in root else (pafs.LocalFileSystem(), root)
    made, inside = ds.ParquetFileFormat(), pafs.SubTreeFileSystem(folder, filesystem)
    by = [name for name in added.schema.names if name.startswith("partition.")]
    fragments = {}
    for row in added.select(["path", *by]).to_pylist():
        path = unquote(row["path"])
        values = {name.removeprefix("partition."): row[name] for name in by}
        fragments[path] = made.make_fragment(path, inside, _holds(values, schema))
    vectors = pa.table(table.deletion_vectors())
    kept = {}
    for uri, flags in zip(vectors["filepath"].to_pylist(), vectors["selection_vector"], strict=True):
        kept[_path_of(unquote(uri), fragments)] = np.asarray(flags.values, np.bool_)
    return DeltaFiles(schema, fragments, rows, kept)


def _path_of(uri: str, paths: Container[str]) -> str:
    """Return the longest end of the address of a file that is its path below the table."""
    at = uri.find("/")
    while at >= 0:
        if uri[at + 1 :] in paths:
            return uri[at + 1 :]
        at = uri.find("/", at + 1)
    raise DeltaProtocolError(f"The deletion vector of {uri} is of no file of the table")


def _holds(values: Mapping[str, object], schema: pa.Schema) -> ds.Expression:
    """Return the condition that all rows of a file of a partition fulfil; Arrow fills these columns from it."""
    conditions = (
        ds.field(name).is_null() if value is None else ds.field(name) == pa.scalar(value, schema.field(name).type)
        for name, value in values.items()
    )
    return reduce(lambda one, other: one & other, conditions, ds.scalar(True))


def without_deleted(batches: Iterator[pa.RecordBatch], kept: KeptRows | None) -> Iterator[pa.RecordBatch]:
    """Yield the batches of consecutive rows without those that are not kept."""
    start = 0
    for batch in batches:
        if kept is None:
            yield batch
            continue
        flags = np.ones(batch.num_rows, np.bool_)
        told = kept[start : start + batch.num_rows]
        flags[: len(told)] = told
        start += batch.num_rows
        yield batch.filter(pa.array(flags))
