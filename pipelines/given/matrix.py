"""A `.npy` matrix with its ids beside it, as parts of a source of given vectors."""

import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.addresses import SETTINGS, refuse_parameters
from infra.scratch import ScratchFolder
from pipelines.given.part import VectorPart, faults_named
from pipelines.sources.addresses import HUB, file_system_of
from pipelines.sources.parquet_columns import DAMAGED
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
    path = _shown(spec.path)
    with faults_named(where, path), _local(spec.path) as file:
        matrix = np.load(file, mmap_mode="r", allow_pickle=False)  # the map outlives the name of the file
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
        VectorPart(path, at, len(block), matrix.shape[1], _reader(block, ids[at : at + PART_ROWS]))
        for at in starts
        if len(block := matrix[at : at + PART_ROWS])
    )


def _shown(address: str) -> str:
    """Return an address as messages name it."""
    return address if "://" in address else str(Path(address).expanduser())


@contextmanager
def _local(address: str) -> Iterator[Path]:
    """Return the path of a file on this machine; of one in a store or on the hub, that of a scratch copy."""
    if "://" not in address:
        yield Path(address).expanduser()
        return
    refuse_parameters(address, "a matrix of vectors or its ids", SETTINGS)
    with ScratchFolder("vectors") as folder:
        yield _fetched(address, Path(folder))


def _fetched(address: str, folder: Path) -> Path:
    try:
        filesystem, place = file_system_of(address)
        path = folder / place.rsplit("/", 1)[-1]
        with filesystem.open_input_stream(place) as stream, path.open("wb") as copy:
            shutil.copyfileobj(stream, copy, 1 << 20)
    except Exception as error:
        if isinstance(error, DAMAGED) or not address.startswith(HUB):
            raise
        raise OSError(str(error)) from error  # of the library by which the hub's client connects
    return path


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
    told = _shown(spec.ids)
    with faults_named(where, told), _local(spec.ids) as path:
        if path.suffix == ".txt":
            return pa.array(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), pa.string())
        if path.suffix == ".npy":
            ids = np.load(path, allow_pickle=False)
            return pa.array(ids.astype(ids.dtype.newbyteorder("="), copy=False))
        if path.suffix == ".parquet":
            return pa.concat_arrays(pq.read_table(path, columns=[spec.id_column]).column(spec.id_column).chunks)
        if path.suffix in (".csv", ".tsv"):
            return _csv_ids(path, told, spec.id_column)
    raise SourceError(f"{where}.ids: {told} is no .txt, .npy, .parquet, .csv or .tsv file; write the ids as one.")


def _csv_ids(path: Path, file: str, column: str) -> pa.Array:
    """Return the cells of a column, by the rules of a catalogue's CSV; raise an error for a row that breaks them."""
    data, plain = path.read_bytes(), CsvSpec()
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
