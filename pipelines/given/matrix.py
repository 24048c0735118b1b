"""A `.npy` matrix with its ids beside it, as parts of a source of given vectors."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.given.part import VectorPart, faults_named
from pipelines.sources.row import SourceError
from pipelines.sources.source_spec import CsvSpec
from pipelines.sources.text.csv_dialect import HEAD_BYTES, dialect_of, other_settings
from pipelines.sources.text.csv_rows import csv_rows
from pipelines.spec import GivenSpec

PART_ROWS = 1 << 16
"""Rows of a part of a matrix: the unit that is read again if the lake lacks one of its vectors."""
NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
COLUMNS = ["item_id", "vector"]


def matrix_parts(where: str, spec: GivenSpec) -> tuple[VectorPart, ...]:
    """Map the matrix into memory, read its ids, and return its rows as parts."""
    path = Path(spec.path).expanduser()
    with faults_named(where, str(path)):
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    if matrix.ndim != 2 or matrix.dtype.str[1:] not in NUMBERS or not matrix.shape[1]:
        raise SourceError(
            f"{where}: {path} holds {matrix.dtype} of shape {matrix.shape}, and vectors are the rows of a matrix of "
            "numbers of 8 to 64 bits. Save such a matrix."
        )
    ids = _read_ids(where, spec)
    if len(ids) != len(matrix):
        raise SourceError(
            f"{where}: {path} has {len(matrix):,} rows, and {spec.ids} has {len(ids):,} ids; there must be one a row."
        )
    starts = range(0, len(matrix), PART_ROWS)
    return tuple(
        VectorPart(str(path), at, len(block), matrix.shape[1], _reader(block, ids[at : at + PART_ROWS]))
        for at in starts
        if len(block := matrix[at : at + PART_ROWS])
    )


def _reader(matrix: NDArray[Any], ids: pa.Array) -> Callable[[int], Iterator[pa.RecordBatch]]:
    native = matrix.dtype.newbyteorder("=")

    def read(rows: int) -> Iterator[pa.RecordBatch]:
        for start in range(0, len(matrix), rows):
            values = np.ascontiguousarray(matrix[start : start + rows], native)
            lists = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), matrix.shape[1])
            yield pa.RecordBatch.from_arrays([ids[start : start + rows], lists], COLUMNS)

    return read


def _read_ids(where: str, spec: GivenSpec) -> pa.Array:
    """Return the ids as they are written: texts, or numbers of a Parquet or `.npy` file."""
    path = Path(spec.ids).expanduser()
    with faults_named(where, str(path)):
        if path.suffix == ".txt":
            return pa.array(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), pa.string())
        if path.suffix == ".npy":
            return pa.array(np.load(path, allow_pickle=False))
        if path.suffix == ".parquet":
            return pa.concat_arrays(pq.read_table(path, columns=[spec.id_column]).column(spec.id_column).chunks)
        if path.suffix in (".csv", ".tsv"):
            return _csv_ids(path, spec.id_column)
    raise SourceError(f"{where}.ids: {path} is no .txt, .npy, .parquet, .csv or .tsv file; write the ids as one.")


def _csv_ids(path: Path, column: str) -> pa.Array:
    """Return the cells of a column, by the rules of a catalogue's CSV; raise an error for a row that breaks them."""
    data, file, plain = path.read_bytes(), str(path), CsvSpec()
    head = data[:HEAD_BYTES]
    if found := other_settings(head, file, plain, "items", every_column=False):
        told = ", ".join(f"{name} is {value!r}" for name, value in found.items())
        raise ValueError(f"its {told}, and ids are read with commas, or tabs in .tsv, as UTF-8")
    dialect = dialect_of(head, file, plain, "items", every_column=False)
    ids = []
    for row in csv_rows(io.BufferedReader(io.BytesIO(data)), file, dialect, frozenset({column}), {column}):
        if row.reason:
            raise ValueError(f"{row.reason}: {row.detail}")
        if column not in row.values:
            raise ValueError(f"it has no column {column!r}; there are {', '.join(row.values)}")
        ids.append(row.values[column])
    return pa.array(ids, pa.string())
