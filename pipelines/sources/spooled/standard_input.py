"""Standard input as a source, `-`: JSONL, CSV, TSV or Parquet, also compressed, known by its first bytes."""

import io
import re
import shutil
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pyarrow as pa

from pipelines.sources.file import COMPRESSIONS
from pipelines.sources.protocol import Found, Record, SourceKind, Spec
from pipelines.sources.row import SourceError
from pipelines.sources.spooled.spool import Spooled, scratch_folder, spooled

ADDRESS = "-"
HEAD_BYTES = 1 << 16
"""First bytes of standard input, kept in memory, from which its format and compression are detected."""
MAGIC = {".gz": b"\x1f\x8b", ".bz2": b"BZh", ".zst": b"\x28\xb5\x2f\xfd"}
_JSON = re.compile(rb"\{|\[\s*\{")
_BEFORE_TEXT = b"\xef\xbb\xbf\xff\xfe\0 \t\r\n"


def suffix_of(head: bytes) -> str:
    """Return the suffix that a file with these first bytes would have.

    JSON begins with a brace, or with a bracket and a brace. Other text is CSV, or TSV where its first line has tabs and
    no comma.
    """
    if head.startswith(b"PAR1"):
        return ".parquet"
    compression = next((suffix for suffix, magic in MAGIC.items() if head.startswith(magic)), "")
    text = _decompressed(head, compression) if compression else head
    bare = text.lstrip(_BEFORE_TEXT)
    if _JSON.match(bare):
        return f".jsonl{compression}"
    first = bare.splitlines()[0] if bare else b""
    tabs = b"\t" in first and b"," not in first
    return f"{'.tsv' if tabs else '.csv'}{compression}"


def _decompressed(head: bytes, compression: str) -> bytes:
    """Return as much text as the first bytes of a compressed one hold."""
    text = b""
    try:
        with pa.CompressedInputStream(io.BytesIO(head), COMPRESSIONS[compression]) as stream:
            while block := stream.read(1024):
                text += block
    except OSError:  # the first bytes end within a block
        return text
    return text


def _check(uri: str) -> None:
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        raise SourceError(
            "standard input (-) is a terminal or closed: send rows into it, as in `cat FILE | sidmill ...`."
        )


@cache
def _read() -> Spooled:
    """Copy standard input to a scratch file, once a process."""
    _check(ADDRESS)
    scratch = scratch_folder()
    stream = sys.stdin.buffer
    head = stream.read(HEAD_BYTES)
    if not head:
        raise SourceError("standard input (-) is empty: the command before it gave no rows.")
    suffix = suffix_of(head)
    path = Path(scratch.name) / f"stdin{suffix}"
    with path.open("wb") as file:
        file.write(head)
        shutil.copyfileobj(stream, file, 1 << 20)
    return spooled(path, ADDRESS, f"stdin{suffix}", str(Path.cwd()), scratch)


def _find(uri: str, spec: Spec, records: Iterable[Record]) -> Found:
    return Found([_read()], [])


STANDARD_INPUT = SourceKind(
    claims=lambda uri: uri in (ADDRESS, "/dev/stdin"),
    check=_check,
    find=_find,
    absolute=lambda uri: ADDRESS,
    watchable=False,
)
"""Standard input."""
