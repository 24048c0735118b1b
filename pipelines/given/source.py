"""Sources of given vectors: Parquet files, Delta tables and `.npy` matrices, as parts that are read in batches.

Opening a source reads footers and headers, and the first vectors if no type states their width. A fault of the whole
source is a SourceError, which names the section of the recipe.
"""

import posixpath
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from pipelines.given.matrix import matrix_parts
from pipelines.given.part import VectorPart, faults_named
from pipelines.sources.addresses import HUB, resolved
from pipelines.sources.files import find_files
from pipelines.sources.parquet_columns import DAMAGED
from pipelines.sources.row import SourceError
from pipelines.sources.tables.delta_files import KeptRows, delta_files, without_deleted
from pipelines.spec import GivenSpec

BATCH_BYTES = 1 << 24
"""Most bytes of the vectors that are read at a time, as 8 bytes a number."""
MAX_ROWS = 1 << 16
"""Most rows that are read at a time, however narrow the vectors are."""
PEEK_ROWS = 256
"""Rows that are read at a time to find the width of vectors whose type does not state it."""
PARQUET = ".parquet"
"""Suffix of the files that are read of a folder."""
SHOWN = 3
"""Most file names in a warning."""


@dataclass(frozen=True)
class GivenSource:
    """Vectors of width `dim` in the parts of one section; `left_out` are files of the folder that are not read."""

    name: str
    dim: int
    parts: tuple[VectorPart, ...]
    left_out: tuple[str, ...] = ()

    @property
    def batch_rows(self) -> int:
        """Rows read at a time."""
        return max(1, min(MAX_ROWS, BATCH_BYTES // (8 * self.dim)))

    def place(self, part: int) -> str:
        """Return the path of the file of a part, from the folder that all files have in common."""
        return _below([each.file for each in self.parts], self.parts[part].file)

    @property
    def warning(self) -> str:
        """One line that names the files left out; empty if there are none."""
        if not self.left_out:
            return ""
        files = [*self.left_out, *(each.file for each in self.parts)]
        names = [_below(files, path) for path in self.left_out[:SHOWN]]
        count = len(self.left_out)
        told = f"{count:,} {'file is' if count == 1 else 'files are'} not read: {', '.join(names)}"
        more = f" and {count - SHOWN:,} more" if count > SHOWN else ""
        return f"{told}{more} (read are {PARQUET} files whose name and folders do not begin with . or _)"


def _below(files: Sequence[str], file: str) -> str:
    """Return the path of a file from the folder that some files have in common."""
    return posixpath.relpath(file, posixpath.commonpath([posixpath.dirname(each) for each in files]))


def open_given(name: str, spec: GivenSpec) -> GivenSource:
    """Open the source of a section; raise SourceError if it cannot be read, or its vectors do not match it."""
    where = f"vectors.{name}"
    left_out: tuple[str, ...] = ()
    if spec.is_matrix:
        parts = matrix_parts(where, spec)
    elif _is_table(where, spec.path):
        parts = _table_parts(where, spec)
    else:
        parts, left_out = _file_parts(where, spec)
    dim = _width(where, spec, parts)
    if spec.dim not in (None, dim):
        raise SourceError(
            f"{where}: the vectors in {spec.path} have width {dim}, and {where}.dim is {spec.dim}. "
            "Change the one that is wrong."
        )
    return GivenSource(name, dim, parts, left_out)


def _is_table(where: str, path: str) -> bool:
    if path.startswith(HUB):
        return False
    if "://" not in path:
        return (Path(path).expanduser() / "_delta_log").is_dir()
    with faults_named(f"{where}.path", path):
        return bool(DeltaTable.is_deltatable(path))


def _file_parts(where: str, spec: GivenSpec) -> tuple[tuple[VectorPart, ...], tuple[str, ...]]:
    try:
        filesystem, path, found = find_files(spec.path)
    except SourceError as error:
        raise SourceError(f"{where}.path: {error}") from error
    files = [each for each in found.read if each.lower().endswith(PARQUET)]
    if not files:
        raise SourceError(
            f"{where}.path: {path} holds no {PARQUET} file. Vectors are read from {PARQUET} files, a Delta table, or a "
            ".npy matrix: write one of these."
        )
    parts: list[VectorPart] = []
    for file in files:
        with faults_named(where, file):
            fragment = ds.ParquetFileFormat().make_fragment(file, filesystem)
            parts += _row_groups(where, spec, fragment, fragment.physical_schema)
    others = {*found.read, *found.left_out} - set(files)
    return tuple(parts), tuple(sorted(others))


def _table_parts(where: str, spec: GivenSpec) -> tuple[VectorPart, ...]:
    try:
        files = delta_files(DeltaTable(resolved(spec.path)))
    except (DeltaError, *DAMAGED) as error:
        raise SourceError(f"{where}.path: the Delta table {spec.path} cannot be read: {error}") from error
    parts: list[VectorPart] = []
    for path, fragment in sorted(files.fragments.items()):
        with faults_named(where, path):
            parts += _row_groups(where, spec, fragment, files.schema, files.kept.get(path))
    return tuple(parts)


def _row_groups(
    where: str, spec: GivenSpec, fragment: ds.ParquetFileFragment, schema: pa.Schema, kept: KeptRows | None = None
) -> Iterator[VectorPart]:
    """Yield the row groups of a file as parts; raise SourceError unless its columns are ids and lists of numbers.

    Rows that are not `kept` are left out, and not numbered.
    """
    _check_columns(where, spec, fragment.path, schema)
    first = start = 0
    for group in fragment.split_by_row_group():
        rows = sum(each.num_rows for each in group.row_groups)
        some = None if kept is None else kept[start : start + rows]
        start += rows
        kind = schema.field(spec.column).type
        width = kind.list_size if pa.types.is_fixed_size_list(kind) else None
        left = rows if some is None else rows - int((~some).sum())
        yield VectorPart(fragment.path, first, left, width, _reader(where, spec, group, schema, some))
        first += left


def _reader(
    where: str, spec: GivenSpec, group: ds.ParquetFileFragment, schema: pa.Schema, kept: KeptRows | None
) -> Callable[[int], Iterator[pa.RecordBatch]]:
    options = ds.ParquetFragmentScanOptions(pre_buffer=False)  # else a whole row group is held as bytes

    def read(rows: int) -> Iterator[pa.RecordBatch]:
        with faults_named(where, group.path):
            batches = group.to_batches(
                schema=schema,
                columns=[spec.id_column, spec.column],
                batch_size=rows,
                fragment_scan_options=options,
                use_threads=False,  # else Arrow reads 1 GiB ahead of a slow reader
            )
            yield from without_deleted(batches, kept)

    return read


def _check_columns(where: str, spec: GivenSpec, file: str, schema: pa.Schema) -> None:
    for field, column in (("id_column", spec.id_column), ("column", spec.column)):
        found = len(schema.get_all_field_indices(column))
        if found != 1:
            raise SourceError(
                f"{where}: {file} has {'two columns' if found else 'no column'} {column!r}; there are "
                f"{', '.join(schema.names)}. Name the right one in {where}.{field}."
            )
    kind = schema.field(spec.column).type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not lists or not (pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)):
        raise SourceError(
            f"{where}: the column {spec.column!r} of {file} is {kind}, and vectors are lists of numbers. Name another "
            f"column in {where}.column, or write it as lists of floats."
        )


def _width(where: str, spec: GivenSpec, parts: tuple[VectorPart, ...]) -> int:
    """Return the width that the types of all parts state, or that of most of the first vectors."""
    stated: dict[int, str] = {}
    for part in parts:
        if part.width is not None:
            stated.setdefault(part.width, part.file)
    if len(stated) > 1:
        (one, file), (other, another) = list(stated.items())[:2]
        raise SourceError(f"{where}: vectors of {file} have width {one}, those of {another} {other}; one is needed.")
    found = next(iter(stated), None) or _usual_width(parts)
    if not found:
        raise SourceError(f"{where}: {spec.path} holds no vector.")
    return found


def _usual_width(parts: tuple[VectorPart, ...]) -> int | None:
    """Return the most common width in the first batch that has a vector; a bad first row costs that row alone."""
    for part in parts:
        for batch in part.read(PEEK_ROWS):
            widths: Counter[int] = Counter(pc.list_value_length(batch.column(1)).drop_null().to_pylist())
            if widths:
                return widths.most_common(1)[0][0]
    return None
