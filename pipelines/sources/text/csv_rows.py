"""Rows of CSV and TSV: a bad quote costs one line, and every line of the file is accounted for.

A quoted cell may hold line breaks. If its closing quote is missing, the standard reader would absorb the rows below it
up to another quote. Here such a row is refused and reading continues with the next line.
"""

import csv
import io
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipelines.sources.row import Row, SourceError, without_blanks
from pipelines.sources.text import decimal_comma
from pipelines.sources.text.csv_dialect import Dialect
from storage.reasons import Reason

MAX_LINES = 1000
MAX_CHARACTERS = 1 << 24
"""A row with more lines or characters is taken to lack its closing quote; so much of the file is held to find out."""
csv.field_size_limit(sys.maxsize)  # the default of 128 KiB would refuse a long cell
Asked = frozenset[str] | None
_MIXED = "write all lines of it in one encoding, best in UTF-8 with no `encoding` in csv"
_NAMELESS = "the first line has to be the header, with a name for each column"
_JOINED = "it is the header again: files were joined with their headers"
_DECLARED = "it is a header, and csv.columns of the recipe says that the file has none: take `columns` out of csv"
_BLANK = "a blank stands before a quote, which then opens no cell: take such blanks away"


@dataclass(frozen=True)
class CsvRecord:
    """Cells of one row and the lines they were read from, or `why` its line gives no cells."""

    cells: list[str]
    lines: list[str]
    why: str = ""


class Lines:
    """Iterator over lines that takes lines back. `drawn` counts the lines that were read and not put back.

    A record may go on beyond the last of them: `more` then gives further lines, none at the end of the file.
    """

    def __init__(self, text: Iterable[str], more: Callable[[], Iterable[str]] = tuple) -> None:
        self._text, self._more = iter(text), more
        self._back, self._borrowed = list[str](), list[str]()
        self._beyond: Iterator[str] = iter(())
        self._lent = 0
        self.drawn = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self._lent = 0
        line = self._back.pop() if self._back else next(self._text)
        self.drawn += 1
        return line

    def following(self) -> str | None:
        """Return the next line of a record, also one of `more`; None at the end of the file."""
        if not self._lent and (line := next(self, None)) is not None:
            return line
        if self._borrowed:
            line = self._borrowed.pop()
        elif (line := next(self._beyond, None)) is None:
            self._beyond = iter(self._more())
            line = next(self._beyond, None)
        if line is not None:
            self._lent += 1
            self.drawn += 1
        return line

    def put_back(self, lines: list[str]) -> None:
        """Take back the lines that were read last."""
        own = max(0, len(lines) - self._lent)
        self._back.extend(reversed(lines[:own]))
        self._borrowed.extend(reversed(lines[own:]))
        self._lent -= len(lines) - own
        self.drawn -= len(lines)

    def feed(self, text: Iterable[str]) -> None:
        """Go on with further lines after the last."""
        self._text = iter(text)

    def go_on(self) -> bool:
        """Go on with the lines of `more` after the last; return False at the end of the file."""
        text = self.unread() or "".join(self._more())
        self.feed(io.StringIO(text, newline=""))
        return bool(text)

    def unread(self) -> str:
        """Return the lines of `more` that no record took, and forget them."""
        text = "".join([*reversed(self._borrowed), *self._beyond])
        self._borrowed, self._beyond = [], iter(())
        return text


@dataclass(frozen=True)
class Layout:
    """The columns of a file's records: the names of its columns, and those that are `asked` for, all if None."""

    names: list[str]
    dialect: Dialect
    asked: Asked

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The names, as a row has them."""
        return tuple(self.names)

    @cached_property
    def undecoded(self) -> re.Pattern[str]:
        """Characters that stand for bytes that cannot be decoded."""
        return re.compile("[\udc80-\udcff]" if self.dialect.errors == "surrogateescape" else "\ufffd")

    def row(self, number: int, line: int, record: CsvRecord) -> Row:
        """Convert a record to a row; `line` is the first of its lines, counted from 1."""
        names, dialect, cells, raw = self.names, self.dialect, record.cells, "".join(record.lines)

        def refused(reason: Reason, detail: str) -> Row:
            return Row(number, {"raw": raw.rstrip("\r\n")}, reason, f"line {line}: {detail}", columns=self.columns)

        if record.why:
            return refused(Reason.UNPAIRED_QUOTE, record.why)
        if "\0" in raw and raw.count("\0") >= len(raw) // 3:
            return refused(Reason.INVALID_UTF8, f"it has zero bytes between its characters, as UTF-16 has: {_MIXED}")
        if len(cells) != len(names):
            only = f", {names[0]!r}" if len(names) == 1 else ""
            blank = dialect.quotes != "none" and f"{dialect.delimiter} {dialect.quote}" in raw
            hint = _told_escaped(raw, dialect) or (_BLANK if blank else "")
            told = f"{len(cells)} cells, {'csv.columns' if dialect.columns else 'the header'} has {len(names)}{only}"
            return refused(Reason.MALFORMED_ROW, f"{told}; {hint}" if hint else told)
        if cells[0].strip() == names[0].strip() and _stripped(cells) == _stripped(names):
            return refused(Reason.MALFORMED_ROW, _DECLARED if dialect.columns else _JOINED)
        named = list(zip(names, cells, strict=True))
        if not raw.isascii():
            if wrong := [name for name, cell in named if self._is_asked(name) and dialect.is_mistaken(cell)]:
                told = f"{wrong[0]} is UTF-8, and the file is declared {dialect.encoding}"
                return refused(Reason.INVALID_UTF8, f"{told}: {_MIXED}")
            if bad := [name for name, cell in named if self._is_asked(name) and self.undecoded.search(cell)]:
                return refused(Reason.INVALID_UTF8, f"{bad[0]} has bytes that are not {dialect.encoding}")
        values: dict[str, Any] = {name: cell or None for name, cell in named}
        if dialect.decimal == ",":
            values = {name: cell and self.rewrite(name)(cell) for name, cell in values.items()}
        if len(values) < len(names) and sum(1 for name, cell in named if cell and not name) > 1:
            return refused(Reason.MALFORMED_ROW, f"several columns without a name have a value: {_NAMELESS}")
        return Row(number, values, columns=self.columns)

    def rewrite(self, name: str) -> decimal_comma.Rewrite:
        """Return how numbers in a column are rewritten where their decimal sign is a comma."""
        return decimal_comma.number if name in self.dialect.numbers else decimal_comma.with_point

    def _is_asked(self, name: str) -> bool:
        return self.asked is None or name in self.asked


class CsvReader:
    """Reader of rows in order, which knows how many lines lie above: rows are numbered by their first lines.

    Their numbers do not depend on how the quotes above them are read. `meant` names the columns with a meaning. Raise
    SourceError for a header that cannot be read, or that names a column of `asked` (any, if None) twice.
    """

    def __init__(self, lines: Lines, file: str, dialect: Dialect, asked: Asked, meant: Collection[str]) -> None:
        self._lines, self._file = lines, file
        header = CsvRecord([*dialect.columns], []) if dialect.columns else _header(lines, dialect)
        self.layout = Layout(_names(header, file, dialect, asked, meant), dialect, asked)
        self._above = self._accounted = lines.drawn
        self._passed = 0

    @property
    def number(self) -> int:
        """Number of the row of the next line."""
        return self._accounted - self._above

    def rows(self) -> Iterator[Row]:
        """Yield the rows of the lines; blank lines are skipped."""
        layout = self.layout
        for record in records(self._lines, layout.dialect, len(layout.names)):
            number, line = self.number, self._accounted + 1
            self._accounted += len(record.lines)
            if record.cells or record.why:
                yield layout.row(number, line, record)

    def again(self, number: int, lines: bytes) -> Iterator[Row]:
        """Yield the rows of lines that were passed; `number` is that of the first. Each is a record by itself."""
        for place, record in enumerate(
            records(Lines(lines_of(lines)), self.layout.dialect, len(self.layout.names)), number
        ):
            yield self.layout.row(place, place + self._above + 1, record)

    def passed(self, lines: int) -> None:
        """Take note of lines that were read as columns."""
        self._accounted += lines
        self._passed += lines

    def check(self) -> None:
        """Raise AssertionError unless every line that was drawn is accounted for."""
        read = self._lines.drawn + self._passed
        if self._accounted != read:
            raise AssertionError(f"{self._file}: {read:,} lines were read and {self._accounted:,} are accounted for")


def csv_rows(
    stream: io.BufferedReader, file: str, dialect: Dialect, asked: Asked, meant: Collection[str] = ()
) -> Iterator[Row]:
    """Yield every row below the header, in order; see `CsvReader`."""
    encoding = "utf-8-sig" if dialect.is_utf8 else dialect.encoding
    lines = Lines(io.TextIOWrapper(stream, encoding=encoding, errors=dialect.errors, newline=""))
    reader = CsvReader(lines, file, dialect, asked, meant)
    yield from reader.rows()
    reader.check()


def lines_of(text: bytes) -> Iterable[str]:
    """Return the lines of bytes in UTF-8; single surrogates stand for bytes that are not UTF-8."""
    return io.StringIO(text.decode("utf-8", "surrogateescape"), newline="")


def encoded(text: str) -> bytes:
    """Return the bytes that `lines_of` made a text of."""
    return text.encode("utf-8", "surrogateescape")


def _header(lines: Lines, dialect: Dialect) -> CsvRecord:
    """Return the first record that is not blank; one without cells if there is none."""
    while True:
        for record in records(lines, dialect):
            if record.cells or record.why:
                return record
        if not lines.go_on():
            return CsvRecord([], [])


def _names(header: CsvRecord, file: str, dialect: Dialect, asked: Asked, meant: Collection[str]) -> list[str]:
    if header.why:
        raise SourceError(f"{file}: its first line cannot be read: {header.why}. Correct the header.")
    names = without_blanks(header.cells, meant)
    if wrong := [name for name in names if dialect.is_mistaken(name)]:
        meant_name = dialect.bytes_of(wrong[0]).decode()
        if asked is None or meant_name in asked:
            told = f"its header has {meant_name!r} in UTF-8, and the file is declared {dialect.encoding}"
            raise SourceError(f"{file}: {told}: {_MIXED}.")
    twice = sorted({name for name in names if name and names.count(name) > 1 and (asked is None or name in asked)})
    if twice:
        raise SourceError(f"{file}: its header has {twice[0]!r} twice. Give every column a name of its own.")
    return names


def _stripped(cells: list[str]) -> list[str]:
    return [cell.strip() for cell in cells]


def records(lines: Lines, dialect: Dialect, width: int = 0) -> Iterator[CsvRecord]:
    """Yield every record, those of blank lines without cells; `width` is the number of cells of the header."""
    delimiter, plain = dialect.delimiter, dialect.quotes == "none"
    for line in lines:
        line = line.removeprefix("\ufeff")  # joined files may have a byte order mark at the start of any line
        if not (dialect.escapes and "\\" in line) and (plain or dialect.quote not in line):
            bare = line.rstrip("\r\n")
            yield CsvRecord(bare.split(delimiter) if bare else [], [line])
        else:
            yield from _quoted(line, lines, dialect, width if dialect.quotes != "trusted" else 0)


def _quoted(line: str, lines: Lines, dialect: Dialect, width: int) -> Iterator[CsvRecord]:
    """Yield the record of a line that has quotes; lines below it that are no part of it are put back."""
    taken: list[str] = []
    try:
        cells = next(_reader(_bounded(line, lines, taken), dialect, strict=True))
    except csv.Error:
        lines.put_back(taken[1:])
        escaped = _told_escaped(line, dialect)
        cells = _lenient(line, dialect) if len(taken) == 1 and not escaped else []
        yield CsvRecord(cells, [line], "" if cells else escaped or "a quote opens a cell and none closes it properly")
        return
    apart = f"a quote opens a cell that is closed {len(taken) - 1} lines below"
    if len(taken) == 1 or not width:
        yield CsvRecord(cells, taken)
    elif len(cells) != width:
        lines.put_back(taken[1:])
        yield CsvRecord([], [line], f"{apart}, and the row then has {len(cells)} cells, the header {width}")
    elif width > 1 and _may_be_rows(taken, dialect, width):
        yield CsvRecord([], [line], f"{apart}, and each of these lines may be a row by itself")
        yield from records(Lines(taken[1:-1]), dialect, width)
        yield CsvRecord([], taken[-1:], f"a quote closes a cell that was opened {len(taken) - 1} lines above")
    else:
        yield CsvRecord(cells, taken)


def _told_escaped(text: str, dialect: Dialect) -> str:
    """Return what to do about quotes behind backslashes, where a quote ends a cell; nothing if there are none."""
    escaped = f"\\{dialect.quote}"
    if dialect.escapes or dialect.quotes == "none" or escaped not in text:
        return ""
    return f'a cell in quotes has {escaped} in it: where that is a quote, set csv.quotes of the section to "escaped"'


def _bounded(line: str, lines: Lines, taken: list[str]) -> Iterator[str]:
    """Yield the line and those below it, up to the limits of one record; append those drawn to `taken`."""
    characters = 0
    while True:
        taken.append(line)
        characters += len(line)
        yield line
        if len(taken) >= MAX_LINES or characters > MAX_CHARACTERS:
            return
        following = lines.following()
        if following is None:
            return
        line = following


def _may_be_rows(lines: list[str], dialect: Dialect, width: int) -> bool:
    """Return whether each line of a record may be a row by itself, written as the first is.

    A writer that quotes the whole first cell of a row does so in every row.
    """
    quote = re.escape(dialect.quote)
    closed = re.match(f"{quote}(?:[^{quote}]|{quote}{quote})*+{quote}{re.escape(dialect.delimiter)}", lines[0])
    if closed and not all(line.startswith(dialect.quote) for line in lines):
        return False
    return all(len(line.rstrip("\r\n").split(dialect.delimiter)) == width for line in lines)


def _reader(lines: Iterable[str], dialect: Dialect, strict: bool) -> Iterator[list[str]]:
    """Return the standard reader; with backslash escapes, the null of databases, `\\N`, is an empty cell."""
    signs: dict[str, Any] = {"delimiter": dialect.delimiter, "quotechar": dialect.quote, "strict": strict}
    if not dialect.escapes:
        return csv.reader(lines, **signs)
    return csv.reader((_only_escapes(line, dialect) for line in lines), escapechar="\\", **signs)


def _only_escapes(line: str, dialect: Dialect) -> str:
    """Double the backslashes of a line that escape nothing, as in a path, and empty a cell `\\N`."""
    edge, quote = re.escape(dialect.delimiter), re.escape(dialect.quote)
    bare = re.sub(rf"(?<![^{edge}])\\N(?=[{edge}\r\n]|$)", "", line)
    return re.sub(rf"\\([{edge}{quote}\\\r\n])?", lambda found: found[0] if found[1] else r"\\", bare)


def _lenient(line: str, dialect: Dialect) -> list[str]:
    """Return the standard reader's cells of a line with text after a closing quote; none if a cell stays open."""
    feed = iter([line, "\n"])
    cells = next(_reader(feed, dialect, strict=False))
    return cells if next(feed, None) is not None else []
