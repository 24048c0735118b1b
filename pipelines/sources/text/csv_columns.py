"""CSV and TSV read as columns of text, block by block; a block with anything unusual is read line by line.

`csv_rows` has the rules for one line. A block is read as columns only where simple tests show that these rules give
what Arrow's reader gives: one row a line, the same cells. Any other block is cut in two, and what stays small is read
line by line. So a test may be timid, but not wrong.
"""

import codecs
from collections.abc import Collection, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pipelines.sources.cells import Unreadable
from pipelines.sources.row import Row
from pipelines.sources.text.blocks import MAX_BYTES_OF_COLUMNS, Blocks
from pipelines.sources.text.csv_dialect import Dialect
from pipelines.sources.text.csv_rows import Asked, CsvReader, Layout, Lines, encoded, lines_of
from pipelines.sources.text.decimal_comma import with_point
from pipelines.sources.text.text_rows import Ends, TextColumns, array_of, has, line_ends, line_starts

_STAND_IN = "\x1f"
"""What stands for a delimiter of several characters, which Arrow does not know, in blocks without this one."""


def csv_columns(
    blocks: Blocks, file: str, dialect: Dialect, asked: Asked, meant: Collection[str] = ()
) -> Iterator[TextColumns | Row]:
    """Yield the rows below the header of a file in UTF-8, in order, as `csv_rows` gives them."""
    lines = Lines(lines_of(blocks.next_small().removeprefix(codecs.BOM_UTF8)), lambda: lines_of(blocks.next_small()))
    reader = CsvReader(lines, file, dialect, asked, meant)
    plain, names = PlainCsv.of(reader.layout), tuple(reader.layout.names)
    yield from reader.rows()
    blocks.put_back(encoded(lines.unread()))
    while block := blocks.next():
        table = plain.table(block) if plain else None
        if table is not None:
            yield TextColumns(reader.number, table, names, block, reader.again)
            reader.passed(table.num_rows)
            blocks.taken()
        elif plain is None or not blocks.halve(block):
            lines.feed(lines_of(blocks.alone(block)))
            yield from reader.rows()
            blocks.put_back(encoded(lines.unread()))
    reader.check()


class PlainCsv:
    """Reader of blocks as columns of text: those that are asked for, null where a cell is empty."""

    def __init__(self, layout: Layout, places: dict[str, str], needle: bytes) -> None:
        self._layout, self._places, self._needle = layout, places, needle
        dialect = layout.dialect
        self._quotes = dialect.quotes != "none"
        self._long = dialect.delimiter.encode() if len(dialect.delimiter) > 1 else b""
        self._parse = pa.csv.ParseOptions(
            delimiter=_STAND_IN if self._long else dialect.delimiter,
            quote_char=dialect.quote if self._quotes else False,
            escape_char=False,
            newlines_in_values=False,
            ignore_empty_lines=False,
        )
        self._convert = pa.csv.ConvertOptions(
            include_columns=list(places),
            column_types=dict.fromkeys(places, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
        )

    @classmethod
    def of(cls, layout: Layout) -> "PlainCsv | None":
        """Return a reader of blocks with this header; None if every line has to be looked at."""
        names = layout.names
        places = {str(place): name for place, name in enumerate(names) if layout.asked is None or name in layout.asked}
        needles = [
            name.strip()
            for name in names
            if name.strip().isascii() and layout.dialect.quote not in name and name.strip()
        ]
        unsure = (
            names.count("") > 1 or len(set(places.values())) < len(places) or layout.undecoded.search("".join(names))
        )
        if not places or not needles or unsure or not layout.dialect.delimiter.isascii():
            return None
        return cls(layout, places, max(needles, key=len).encode())

    def table(self, block: bytes) -> pa.Table | None:
        """Return the rows of a block; None if its lines have to be looked at one by one."""
        if len(block) > MAX_BYTES_OF_COLUMNS:
            return None
        ends = line_ends(block)
        if not self._is_plain(block, ends):
            return None
        names = [str(place) for place in range(len(self._layout.names))]
        options = pa.csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=names)
        if self._long and _STAND_IN.encode() in block:
            return None
        text = block.replace(self._long, _STAND_IN.encode()) if self._long else block
        try:
            table = pa.csv.read_csv(pa.BufferReader(text), options, self._parse, self._convert)
        except pa.ArrowException:  # a line with more or fewer cells, or bytes that are not UTF-8
            return None
        if table.num_rows != len(ends) or self._has_header(block, table):
            return None
        table = table.rename_columns([self._places[place] for place in table.schema.names])
        return _with_points(table, self._layout) if self._layout.dialect.decimal == "," else table

    def _is_plain(self, block: bytes, ends: Ends) -> bool:
        """Return whether each line is a record by itself, as far as single bytes show."""
        first = array_of(block)[line_starts(ends)]
        if b"\0" in block:  # it may be UTF-16
            return False
        if has(block, codecs.BOM_UTF8) or (first == ord("\n")).any() or (first == ord("\r")).any():
            return False
        if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
            return False
        if self._layout.dialect.escapes and b"\\" in block:
            return False
        dialect = self._layout.dialect
        return not self._quotes or dialect.quote.encode() not in block or are_paired(block, ends, dialect)

    def _has_header(self, block: bytes, table: pa.Table) -> bool:
        """Return whether a line may be the header again."""
        if self._needle not in block:
            return False
        found = pa.array(np.ones(table.num_rows, bool))
        for place, column in zip(table.schema.names, table.columns, strict=True):
            name = self._places[place].strip()
            found = pc.and_(found, pc.match_substring(column, name)) if name else found
        return bool(pc.any(found).as_py())


def are_paired(block: bytes, ends: Ends, dialect: Dialect) -> bool:
    """Return whether every quote opens or closes a cell, or is one of two in a cell, and no cell has a line break."""
    bytes_of = array_of(block)
    quotes = np.flatnonzero(bytes_of == ord(dialect.quote))
    if len(quotes) % 2:
        return False
    opening, closing = quotes[::2], quotes[1::2]
    edges = np.zeros(256, bool)
    edges[[ord(dialect.delimiter), ord("\n"), ord(dialect.quote)]] = True
    before = edges[bytes_of[opening - 1]] | (opening == 0)
    edges[ord("\r")] = True
    after = edges[bytes_of[np.minimum(closing + 1, len(block) - 1)]]  # the last byte may be the quote itself
    same_line = np.searchsorted(ends, opening, side="right") == np.searchsorted(ends, closing, side="right")
    return bool((before & after & same_line).all())


def _with_points(table: pa.Table, layout: Layout) -> pa.Table | None:
    """Rewrite the numbers of a file with decimal commas; return None if one cannot be read."""
    for place, (name, column) in enumerate(zip(table.schema.names, table.columns, strict=True)):
        rewrite = layout.rewrite(name)
        signs = pc.match_substring_regex(column, "," if rewrite is with_point else "[.,]")
        if pc.any(signs).as_py():
            cells = [None if cell is None else rewrite(cell) for cell in column.to_pylist()]
            if any(isinstance(cell, Unreadable) for cell in cells):
                return None
            table = table.set_column(place, name, pa.array(cells, pa.string()))
    return table
