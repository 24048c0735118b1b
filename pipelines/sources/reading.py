"""Rows of a file, one by one or in columns, and checks of a file by its first bytes."""

import io
from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from pipelines.sources.file import File
from pipelines.sources.folders import is_utf8
from pipelines.sources.parquet_columns import parquet_columns
from pipelines.sources.protocol import Part, Spec
from pipelines.sources.row import Row, SourceError, grouped
from pipelines.sources.text.blocks import Blocks
from pipelines.sources.text.csv_columns import csv_columns
from pipelines.sources.text.csv_dialect import HEAD_BYTES, Dialect, dialect_of, other_encoding
from pipelines.sources.text.csv_rows import csv_rows
from pipelines.sources.text.json_columns import json_columns
from pipelines.sources.text.json_rows import json_rows
from pipelines.sources.text.text_rows import Folders, TextColumns, TextRows, gathered, with_folders

ROWS_OF_COLUMNS = 8192
"""A reader of fewer rows at once gets them one by one: a block read as columns may have many more."""
# Length of a run of zero bytes that UTF-16 text does not have.
HOLE = 16
# First bytes of other formats, and the name of the format in messages.
BINARY = {
    b"\x1f\x8b": "compressed with gzip",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"PK\x03\x04": "a ZIP archive or a spreadsheet (.xlsx)",
    b"\xd0\xcf\x11\xe0": "a spreadsheet (.xls)",
    b"PAR1": "Parquet",
    b"Obj\x01": "Avro",
    b"ORC": "ORC",
    b"SQLite format 3": "a SQLite database",
    b"PARE": "encrypted Parquet",
    b"version https://git-lfs": "the pointer of a file in Git LFS (`git lfs pull` fetches it)",
    b"ARROW1": "Arrow IPC (Feather)",
    b"\x89HDF": "HDF5",
    b"\x80\x04\x95": "a pickle of Python",
    b"\x93NUMPY": "an array of NumPy",
    b"%PDF-": "PDF",
    b"{\\rtf": "RTF",
    b"\x89PNG": "a picture (PNG)",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"Rar!\x1a": "a RAR archive",
}
MARKUP = {
    b"<?xml": "XML",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"<head": "a web page",
    b"<body": "a web page",
    b"<table": "a table of a web page",
    b"<error>": "an error message in XML",
    b"<rss": "XML",
}
"""Beginnings of markup, in small letters and behind blanks."""
SHOWS = {".gz": "zcat", ".bz2": "bzcat", ".zst": "zstdcat"}
"""Commands that print a compressed text, by suffix."""
_TAR = slice(257, 262)


def read_file(file: File, named: Folders, spec: Spec, rows: int, groups: range | None = None) -> Iterator[Part]:
    """Yield every row of a file in order, at most `rows` at once; an unreadable row has a reason and its raw text.

    `named` are values of its folder names (`event_type=buy`), which are added to every row that lacks that column. Of
    Parquet, the rows of some row `groups` can be asked for.
    Raise SourceError for a file that is not written as the recipe says.
    """
    last = -1
    try:
        with file.reading():
            for part in _parts(file, named, spec, rows, groups):
                last = part[-1].number if isinstance(part, list) else part.last
                yield _with_folders(part, named)
    except (SourceError, AssertionError, OSError, MemoryError):
        raise
    except UnicodeError as error:
        raise SourceError(
            f"{file.file} is not written in {spec.csv.encoding or 'UTF-8'} ({error}): name its encoding in "
            f"{spec.section}.csv.encoding, or export it as UTF-8."
        ) from error
    except Exception as error:
        after = "before its first row" if last < 0 else f"after row {last:,}"
        raise SourceError(f"{file.file} cannot be read {after}: {type(error).__name__}: {error}") from error


def _with_folders(part: Part, named: Folders) -> Part:
    """Add the values of folder names that rows lack."""
    if not named:
        return part
    if isinstance(part, list):
        return [with_folders(row, named) for row in part]
    if isinstance(part, TextRows):
        return replace(part, alone=tuple(with_folders(row, named) for row in part.alone), folders=named)
    if not all(value is None or is_utf8(value) for _, value in named):
        return [with_folders(row, named) for row in part.rows()]  # each is refused if that column is read
    batch = part.batch
    for name, value in named:
        if name not in batch.schema.names:
            batch = batch.append_column(name, pa.array([value] * len(part), pa.string()))
    return replace(part, batch=batch)


def _parts(file: File, named: Folders, spec: Spec, rows: int, groups: range | None) -> Iterator[Part]:
    if file.suffix == ".parquet":
        with file.filesystem.open_input_file(file.path) as stream:
            for part in parquet_columns(stream, file.file, spec, rows, groups):
                yield [part] if isinstance(part, Row) else part
        return
    dialect = check_text(file, spec)
    if rows < ROWS_OF_COLUMNS or not dialect.is_utf8:
        yield from grouped(_text_rows(file, dialect, spec), rows)
    else:
        yield from gathered(_text_columns(file, named, dialect, spec), rows)


def _text_rows(file: File, dialect: Dialect, spec: Spec) -> Iterator[Row]:
    with file.open_stream() as stream:
        buffered = io.BufferedReader(stream, 1 << 20)
        if file.is_table_text:
            yield from csv_rows(buffered, file.file, dialect, spec.selected_columns, spec.mapped_columns)
        else:
            yield from json_rows(buffered)


def _text_columns(file: File, named: Folders, dialect: Dialect, spec: Spec) -> Iterator[TextColumns | Row]:
    """Yield the rows of a text in UTF-8."""
    with file.open_stream() as stream:
        blocks = Blocks(stream, returns=file.is_table_text)
        if file.is_table_text:
            yield from csv_columns(blocks, file.file, dialect, spec.selected_columns, spec.mapped_columns)
        else:
            yield from json_columns(blocks, spec.selected_columns, [name for name, _ in named])


def check_text(file: File, spec: Spec) -> Dialect:
    """Return the dialect of a text file; raise SourceError if it is not what the recipe says."""
    head = _head(file, "text")
    if b"\0" in head and not spec.csv.encoding:
        _refuse_holes(file, head)
    if file.is_table_text:
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b'{"', b'[{"')):
            raise SourceError(f"{file.file} holds JSON, not CSV: name it .jsonl, with one object a line.")
        dialect = dialect_of(head, file.file, spec.csv, spec.section, spec.selected_columns is None)
        return replace(dialect, numbers=spec.number_columns)
    encoding = other_encoding(head)
    if encoding is not None and encoding.startswith("utf"):
        raise SourceError(f"{file.file}: the text is {encoding}, and JSON is read as UTF-8. Export it as UTF-8.")
    if _is_one_array(head):
        raise SourceError(
            f"{file.file} is one JSON array. Write one object a line, for example with `jq -c '.[]' {file.file}`."
        )
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").partition(b"\n")[0].rstrip() == b"{":
        raise SourceError(
            f"{file.file} has objects that go over several lines. Write one object a line, for example with "
            f"`jq -c . {file.file}`."
        )
    _refuse_python(file, head)
    return Dialect("utf-8", "", ".", "none")


def _head(file: File, wanted: str, size: int = HEAD_BYTES) -> bytes:
    """Return the first bytes of a file; raise SourceError if they show another kind."""
    head = file.head(size)
    kind = next((name for magic, name in BINARY.items() if head.startswith(magic)), None)
    text = head[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    kind = kind or next((name for magic, name in MARKUP.items() if text.startswith(magic)), None)
    kind = kind or ("a tar archive" if head[_TAR] == b"ustar" else None)
    if kind and kind != wanted:
        raise SourceError(f"{file.file} is {kind} by its first bytes, whatever its name says. Write it as {wanted}.")
    return head


def _refuse_holes(file: File, head: bytes) -> None:
    """Refuse a text with runs of zero bytes, as left by a killed writer; UTF-16 has no runs that long."""
    if b"\0" * HOLE in head:
        raise SourceError(
            f"{file.file} has a hole of {HOLE} or more zero bytes: it was not written to its end, or damaged since. "
            "Copy or export it again."
        )


def _refuse_python(file: File, head: bytes) -> None:
    """Refuse a text whose whole lines are Python dicts: as JSON, not one of its rows could be read."""
    lines = [line for line in head.splitlines(keepends=True) if line.strip() and line.endswith((b"\n", b"\r"))]
    if lines and all(line.startswith(b"{'") for line in lines):
        shows = next((tool for suffix, tool in SHOWS.items() if file.path.lower().endswith(suffix)), "cat")
        raise SourceError(
            f'{file.file} has Python literals, not JSON. Convert them: {shows} {file.file} | python3 -c "import ast, '
            'json, sys; [print(json.dumps(ast.literal_eval(line))) for line in sys.stdin]" > converted.jsonl'
        )


def _is_one_array(head: bytes) -> bool:
    """Return whether a text begins with a list that goes on below its first line, or is the whole text."""
    first, _, rest = head.lstrip(b"\xef\xbb\xbf \t\r\n").partition(b"\n")
    return first.startswith(b"[") and (not first.rstrip().endswith(b"]") or not rest.strip())


def check_file(file: File, spec: Spec) -> None:
    """Raise SourceError if a file is not written as the recipe says, or is of another kind."""
    if file.suffix == ".parquet":
        _head(file, "Parquet", 64)
    else:
        check_text(file, spec)
