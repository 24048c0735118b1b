"""Consecutive messages of a stream, as a source; each message is a JSON object.

A batch is known by its stream and its first place, not by its last: a run that reads it again after a kill may find
more messages behind those that it had read. It has the same name and the same rows then, and further ones. The record
of a batch has its last place, where the next batch begins.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.fs as pafs

from pipelines.sources.protocol import Part, Record, RowCount, Spec
from pipelines.sources.reading import ROWS_OF_COLUMNS
from pipelines.sources.row import grouped
from pipelines.sources.text.blocks import Blocks
from pipelines.sources.text.json_columns import json_columns
from pipelines.sources.text.json_rows import json_rows
from pipelines.sources.text.text_rows import gathered

EARLIEST = "+earliest"
"""Suffix of an address: if the next message was removed, reading continues with the earliest that exists."""
AT_ONCE = 10_000
"""Messages that a server is asked for at a time."""
ANSWER_WITHIN_S = 30.0
"""Seconds after which a server that does not answer counts as failed."""
EMPTY = b"null"
"""Line of a message without a value, which is refused as no object: a blank line would be no row."""


@dataclass(frozen=True)
class StreamBatch:
    """Messages of the stream at `address` from `start` to `end`; `stream_id` tells the stream from all others.

    `messages` opens the stream and yields the values in order, or None for a message without one. `count` is about
    their number. Relative paths of pictures refer to the working folder.
    """

    address: str
    file: str
    stream_id: str
    start: str
    end: str
    count: int
    messages: Callable[[], AbstractContextManager[Iterator[bytes | None]]] = field(repr=False, compare=False)
    unread_columns: frozenset[str] = frozenset()

    @property
    def uri(self) -> str:
        return f"{self.address}@{self.start}..{self.end}"

    @property
    def sha256(self) -> str:
        return batch_identity(self.stream_id, self.start)

    @property
    def name(self) -> str:
        return f"{self.file} from {self.start}@{self.sha256[:12]}"

    @property
    def filesystem(self) -> pafs.FileSystem:
        return pafs.LocalFileSystem()

    @property
    def folder(self) -> str:
        return str(Path.cwd())

    @property
    def identities(self) -> tuple[str, ...]:
        return (self.sha256,)

    def former_names(self, records: Iterable[Record]) -> set[str]:
        """Return its name: a batch has no other."""
        return {self.name}

    def check(self, spec: Spec) -> None:
        """Do nothing: what is wrong with a message costs that message."""

    def parts(self, spec: Spec, rows: int) -> Iterator[Part]:
        """Yield the messages as rows, numbered by their place in the batch."""
        with self.messages() as values:
            if rows < ROWS_OF_COLUMNS:
                yield from grouped(json_rows(map(_line, values)), rows)
            else:
                blocks = Blocks(_Lines(values), returns=False)
                yield from gathered(json_columns(blocks, spec.selected_columns), rows)

    def row_count(self, spec: Spec) -> RowCount:
        return RowCount(self.count, exact=False)


def go_on(address: str) -> str:
    """Return the advice for a stream whose next messages are gone."""
    return (
        f"To go on with what is there, read {address}{EARLIEST} once; events that the lake has already are not stored "
        "twice."
    )


def batch_identity(stream_id: str, start: str) -> str:
    """Return the identity of the batch of a stream that begins at a place."""
    return hashlib.sha256("\0".join([stream_id, start]).encode()).hexdigest()


def _line(value: bytes | None) -> bytes:
    """Return a message as one line. Line ends within JSON are blanks; those of its texts are escaped."""
    if value is None or not value.strip():
        return EMPTY
    if b"\n" in value or b"\r" in value:
        return value.replace(b"\n", b" ").replace(b"\r", b" ")
    return value


class _Lines:
    """Messages as a stream of bytes, one line each."""

    def __init__(self, values: Iterator[bytes | None]) -> None:
        self._values = values

    def read(self, size: int) -> bytes:
        """Return lines of at least `size` bytes; fewer, or none, at the end."""
        lines, length = list[bytes](), 0
        for value in self._values:
            line = _line(value)
            lines.append(line)
            length += len(line) + 1
            if length >= size:
                break
        return b"\n".join([*lines, b""])
