"""Encoding and delimiter of a CSV file by its first bytes, or one error with the settings that read it.

Nothing is guessed silently: a file that is not UTF-8 with the delimiter of its suffix is read once the recipe says so.
"""

import codecs
import csv
import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.sources.cells import COMMA_NUMBER
from pipelines.sources.file import CELLS, COMPRESSIONS, TABBED
from pipelines.sources.row import SourceError
from pipelines.sources.source_spec import CsvSpec
from pipelines.sources.text.eight_bit import THAI, is_eight_bit, reads_as_utf8

# Bytes of a file that are examined.
HEAD_BYTES = 1 << 20
DELIMITERS = (",", ";", "\t", "|")
RARE_DELIMITERS = ("\x01", "\x1f", "^", "~")
"""Delimiters that are believed only where they cut all lines alike: Hive's, and signs that are also text."""
LONG_DELIMITERS = ("::", "|@|", "~~", "^^")
"""Delimiters of several characters that are believed only where they cut all lines alike."""
# Lines below the header on which a delimiter is tested.
LINES_COMPARED = 5
BAD_LINES = 3
"""Number of lines that are not UTF-8 which, without a valid non-ASCII line, mean another encoding and not damage."""
_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WIDE = ("utf-16", "utf-16-le", "utf-16-be", "utf-32")
"""Encodings that are known by their bytes. Of others only a reader can tell which it is."""
_SEP_LINE = re.compile(r'"?sep=(.)"?')


@dataclass(frozen=True)
class Dialect:
    """Rules that split the lines of a file into cells. The cells of the columns `numbers` are numbers.

    `columns` are the names of columns where the file has no header.
    """

    encoding: str
    delimiter: str
    decimal: str
    quotes: str
    numbers: frozenset[str] = frozenset()
    columns: tuple[str, ...] = ()
    quote: str = '"'

    @property
    def is_utf8(self) -> bool:
        return self.encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig")

    @property
    def is_eight_bit(self) -> bool:
        """True if a character is one byte, so that any bytes are text."""
        return not self.is_utf8 and is_eight_bit(self.encoding)

    @property
    def errors(self) -> str:
        """How bytes that cannot be decoded are kept: each by itself, or as one character for any."""
        return "surrogateescape" if self.is_utf8 or self.is_eight_bit else "replace"

    def bytes_of(self, text: str) -> bytes:
        """Return the bytes that a text was decoded from."""
        return text.encode(self.encoding, self.errors)

    def is_mistaken(self, text: str) -> bool:
        """Return whether a text that was decoded from an 8-bit encoding is UTF-8. Thai words can be both."""
        if text.isascii() or not self.is_eight_bit or codecs.lookup(self.encoding).name in THAI:
            return False
        return reads_as_utf8(self.bytes_of(text))

    @property
    def escapes(self) -> bool:
        """True if a quote inside quotes is written with a backslash."""
        return self.quotes == "escaped"


def dialect_of(head: bytes, file: str, spec: CsvSpec, section: str, every_column: bool = True) -> Dialect:
    """Return the dialect that the recipe declares, or the usual one if it declares none.

    Raise SourceError if `head`, the first bytes of the file, are clearly of another one. If not every column is read,
    single bytes that are not UTF-8 are tolerated: their column may be unused.
    """
    if spec.encoding and _is_rather_utf8(head, spec.encoding):
        raise SourceError(
            f"{file}: the text is UTF-8, but the recipe declares {spec.encoding}. Take `encoding` out of csv below "
            f"[{section}], or read files of different encodings with different recipes"
        )
    found = other_settings(head, file, spec, section, every_column)
    if found:
        what = " and ".join(_TOLD[name](value) for name, value in found.items())
        encoding = found.get("encoding", "")
        doubt = "" if encoding in ("", *_WIDE) else _doubt(head, encoding)
        raise SourceError(f"{file}: {what}. Read it with {_setting(section, found)}{doubt}")
    delimiter = spec.delimiter or _usual(file)
    quotes = spec.quotes if len(delimiter) == 1 else "none"
    return Dialect(spec.encoding or "utf-8", delimiter, spec.decimal, quotes, columns=spec.columns, quote=spec.quote)


def other_settings(head: bytes, file: str, spec: CsvSpec, section: str, every_column: bool = True) -> dict[str, str]:
    """Return the fields of `csv` that the recipe leaves open and that `head`, the first bytes of the file, contradicts.

    Raise SourceError for a first line that is meant for a spreadsheet.
    """
    usual = _usual(file)
    encoding, delimiter = spec.encoding or "utf-8", spec.delimiter or usual
    found: dict[str, str] = {}
    if not spec.encoding and (other := other_encoding(head)) and (every_column or other.startswith("utf")):
        found["encoding"] = encoding = other
    lines = head.decode(encoding, "replace").lstrip("\ufeff").splitlines()
    lines = [line for line in lines if line.strip()][: LINES_COMPARED + 1]
    if lines and (separator := _SEP_LINE.fullmatch(lines[0].strip())):
        raise SourceError(
            f"{file}: its first line, {lines[0].strip()!r}, is for a spreadsheet. Delete that line, and read the file "
            f"with {_setting(section, {**found, 'delimiter': separator[1]})}"
        )
    other = None if spec.delimiter else _other_delimiter(lines, usual)
    if other or not (spec.delimiter or _tells_delimiter(file)):
        found["delimiter"] = delimiter = other or usual
        if spec.decimal == "." and any(COMMA_NUMBER.fullmatch(cell) for cell in _cells(lines[1:], delimiter)):
            found["decimal"] = ","
    return found


def _usual(file: str) -> str:
    return "\t" if _uncompressed(file).endswith(TABBED) else ","


def _tells_delimiter(file: str) -> bool:
    """Return whether the name of a file tells what separates its cells."""
    return not _uncompressed(file).endswith(CELLS)


def _uncompressed(file: str) -> str:
    """Return a name in small letters, without the suffix of a compression."""
    name = file.lower()
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    return name


_TOLD: dict[str, Callable[[str], str]] = {
    "encoding": lambda value: f"the text is {value}, not UTF-8",
    "delimiter": lambda value: f"its cells are separated by {value!r}",
    "decimal": lambda value: "its numbers have decimal commas",
}


def _setting(section: str, fields: dict[str, str]) -> str:
    """Return the line of the recipe and the command option that declare these fields."""
    quoted = {name: json.dumps(value) for name, value in fields.items()}
    table = "{ " + ", ".join(f"{name} = {value}" for name, value in quoted.items()) + " }"
    return f"csv = {table} below [{section}] in the recipe, or with --set '{section}.csv={table}'"


def other_encoding(head: bytes) -> str | None:
    """Return the encoding of bytes that are clearly not UTF-8; None for UTF-8, also if it may be damaged."""
    for bom, encoding in _BOMS:
        if head.startswith(bom):
            return encoding
    if head.count(0) > len(head) // 4 and 0 in head.split(b"\n", 1)[0]:  # else UTF-16 was appended to another text
        return "utf-16-le" if head[1::2].count(0) >= head[::2].count(0) else "utf-16-be"
    lines = head.split(b"\n")
    bad = [number for number, line in enumerate(lines[:-1] or lines) if not line.isascii() and not _is_utf8(line)]
    good = sum(not line.isascii() for line in lines[:-1] or lines) - len(bad)
    if bad and (bad[0] == 0 or (len(bad) >= BAD_LINES and not good)):
        return "cp1252" if _decodes(head, "cp1252") else "latin-1"
    return None


def _is_rather_utf8(head: bytes, encoding: str) -> bool:
    """Return whether a text that is declared to be of another encoding is clearly UTF-8."""
    if not head or Dialect(encoding, "", "", "").is_utf8:
        return False
    if head.startswith(codecs.BOM_UTF8):
        return True
    if b"\0" in head:
        return False
    lines = head.split(b"\n")
    beyond = [line for line in lines[:-1] or lines if not line.isascii()]
    if not all(map(_is_utf8, beyond)):
        return False
    if codecs.lookup(encoding).name in _WIDE:
        return True
    return len(beyond) >= BAD_LINES and (not is_eight_bit(encoding) or any(map(reads_as_utf8, beyond)))


def _doubt(head: bytes, encoding: str) -> str:
    """Return how a text reads in an encoding that its bytes do not prove, from about its first byte beyond ASCII."""
    line = next((line for line in head.split(b"\n") if not line.isascii()), b"")
    place = next((at for at, byte in enumerate(line) if byte > 127), 0)
    sample = line[max(0, place - 20) : place + 20].decode(encoding, "replace").strip()
    return f". Its text then begins with {sample!r}: if that is wrong, name the encoding in which it is right"


def _is_utf8(line: bytes) -> bool:
    return _decodes(line, "utf-8")


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _other_delimiter(lines: list[str], usual: str) -> str | None:
    """Return the delimiter that gives the header most cells, above the usual one.

    The lines below must agree, or the usual one must give one cell.
    """
    if not lines:
        return None
    if long := _long_delimiter(lines, usual):
        return long
    tried = DELIMITERS + tuple(each for each in RARE_DELIMITERS if each in lines[0])
    counts = {delimiter: [len(list(_cells([line], delimiter))) for line in lines] for delimiter in tried}
    best = max(tried, key=lambda delimiter: (counts[delimiter][0], delimiter == usual))
    if counts[best][0] <= counts[usual][0]:
        return None
    alike = all(count == counts[best][0] for count in counts[best][1:])
    if best in RARE_DELIMITERS:
        return best if alike and len(lines) > 1 and counts[usual][0] == 1 else None
    return best if alike or counts[usual][0] == 1 else None


def _long_delimiter(lines: list[str], usual: str) -> str | None:
    """Return the delimiter of several characters that cuts all lines alike, where the usual one leaves them whole."""
    if len(lines) < 2 or usual in lines[0]:
        return None
    counts = ({line.count(long) for line in lines} for long in LONG_DELIMITERS)
    cut = (long for long, found in zip(LONG_DELIMITERS, counts, strict=True) if len(found) == 1 and 0 not in found)
    return next(cut, None)


def _cells(lines: list[str], delimiter: str) -> list[str]:
    if len(delimiter) > 1:
        return [cell for line in lines for cell in line.split(delimiter)]
    return [cell for line in lines for cell in next(csv.reader([line], delimiter=delimiter), [])]
