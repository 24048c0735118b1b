"""Number of rows of a file, without reading all of it."""

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.file import COMPRESSIONS, File
from pipelines.sources.parquet_columns import DAMAGED
from pipelines.sources.protocol import RowCount, Spec
from pipelines.sources.reading import read_file
from pipelines.sources.text.csv_dialect import HEAD_BYTES

PIECE_ROWS = 500
"""Rows that are read at a time where a sample is enough."""
COMPRESSED_HEAD_BYTES = 8 * HEAD_BYTES
"""Bytes of text that are examined of a compressed file: many times the read-ahead of the decompressor."""


def rows_of_file(file: File, spec: Spec) -> RowCount:
    """Return the rows by the footer of a Parquet file, or about those of a text, by the length of its first lines.

    A damaged Parquet file counts as one row, as when it is read.
    """
    if file.suffix != ".parquet":
        return _rows_of_text(file, spec)
    try:
        with file.filesystem.open_input_file(file.path) as stream:
            return RowCount(pq.read_metadata(stream).num_rows if stream.size() else 0, exact=True)
    except DAMAGED:
        return RowCount(1, exact=True)


def _rows_of_text(file: File, spec: Spec) -> RowCount:
    head, consumed, size = _head(file)
    if consumed is None:
        return RowCount(sum(len(part) for part in read_file(file, (), spec, PIECE_ROWS)), exact=True)
    lines = _lines(head)
    return RowCount(round(lines / max(1, consumed) * size * _rows_per_line(file, spec, lines)), exact=False)


def _lines(head: bytes) -> int:
    """Return the lines of a text; one whose lines end with carriage returns has no line feeds."""
    return max(head.count(b"\n"), head.count(b"\r"), 1)


def _rows_per_line(file: File, spec: Spec, lines: int) -> float:
    """Return rows per line: a CSV row has several where a cell in quotes holds line breaks."""
    if not file.is_table_text:
        return 1.0
    first = next(read_file(file, (), spec, max(1, min(PIECE_ROWS, lines // 2))), [])
    rows = first if isinstance(first, list) else []
    return len(rows) / (rows[-1].number + 1) if rows else 1.0


def _head(file: File) -> tuple[bytes, int | None, int]:
    """Return the first bytes of a text, the bytes on the disk that hold them, and the size of the file.

    The second is None if these bytes are the whole text.
    """
    codec = next((name for suffix, name in COMPRESSIONS.items() if file.path.lower().endswith(suffix)), None)
    with file.reading(), file.filesystem.open_input_file(file.path) as raw:
        size = raw.size()
        stream = raw if codec is None else pa.CompressedInputStream(raw, codec)
        head: bytes = stream.read(HEAD_BYTES if codec is None else COMPRESSED_HEAD_BYTES)
        rest = stream.read(1)
        return head, (raw.tell() if rest else None), size
