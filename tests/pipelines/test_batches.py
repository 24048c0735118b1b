"""Batches of a stream: each message is one row, however it is read, and no more are held than are asked for."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import pyarrow.fs as pafs
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sources.protocol import Record, RowCount
from pipelines.sources.reading import ROWS_OF_COLUMNS
from pipelines.sources.row import Row
from pipelines.sources.source_spec import InteractionsSpec
from pipelines.sources.streams import batch
from pipelines.sources.streams.batch import StreamBatch

POISON = [b"{", b"[1]", b"\xff\xfe", b"two\nlines", b"two\rlines", b"", b" ", None, b"\0", b'"text"']
EVENTS = [
    b'{"user_id": "u"}',
    b'{"user_id":\n"u", "value":\r1}',
    b'{"user_id": "v", "value": 2}\n',
    b'{"value": 1.5}\r',
]
MESSAGE = st.sampled_from([*EVENTS, *EVENTS, *POISON])


def batch_of(messages: Sequence[bytes | None], start: str = "3", end: str = "9") -> StreamBatch:
    return StreamBatch("kafka://h/t[0]", "t[0]", "c/t/0", start, end, 7, lambda: nullcontext(iter(messages)))


def rows_of(source: StreamBatch, rows: int) -> list[Row]:
    parts = [part if isinstance(part, list) else list(part.rows()) for part in source.parts(InteractionsSpec(), rows)]
    assert all(len(part) <= rows for part in parts)
    return [row for part in parts for row in part]


@given(messages=st.lists(MESSAGE, max_size=30))
def test_each_message_is_one_row_in_order_read_alone_or_as_columns(messages: list[bytes | None]) -> None:
    alone = rows_of(batch_of(messages), 3)
    assert [row.number for row in alone] == list(range(len(messages)))
    for row, message in zip(alone, messages, strict=True):
        assert (row.reason is None) == (message in EVENTS)
        assert row.values == (json.loads(message) if message in EVENTS and message else row.values)
    as_columns = rows_of(batch_of(messages), ROWS_OF_COLUMNS)
    assert [(row.number, row.reason) for row in as_columns] == [(row.number, row.reason) for row in alone]
    asked = {"user_id", "value"}
    for one, other in zip(alone, as_columns, strict=True):
        if one.reason is None:
            assert {**dict.fromkeys(asked), **one.values} == {**dict.fromkeys(asked), **other.values}


def test_many_rows_at_once_are_read_as_columns_and_few_one_by_one() -> None:
    source = batch_of(EVENTS[:1] * 3_000)
    for rows, as_columns in ((ROWS_OF_COLUMNS - 1, False), (ROWS_OF_COLUMNS, True)):
        parts = list(source.parts(InteractionsSpec(), rows))
        assert any(not isinstance(part, list) for part in parts) == as_columns


def test_a_reader_takes_no_more_messages_than_fill_what_it_asks_for() -> None:
    taken = list[int]()

    def messages() -> Iterator[bytes]:
        for number in range(9):
            taken.append(number)
            yield b'{"n": %d}' % number  # nine bytes with the end of the line

    stream = batch._Lines(messages())
    assert stream.read(9) == b'{"n": 0}\n'
    assert stream.read(10) == b'{"n": 1}\n{"n": 2}\n'
    assert taken == [0, 1, 2]
    assert stream.read(1000).count(b"\n") == 6
    assert stream.read(1000) == b""


def test_a_batch_is_known_by_its_stream_and_its_beginning() -> None:
    one, longer = batch_of([], "3", "9"), batch_of([b"{}"], "3", "12")
    assert one == batch_of([], "3", "9"), "the way to read it is not part of it"
    assert one.sha256 == longer.sha256 == hashlib.sha256(b"c/t/0\x003").hexdigest()
    assert one.identities == (one.sha256,)
    assert one.name == longer.name == f"t[0] from 3@{one.sha256[:12]}"
    assert one.former_names([Record("elsewhere", one.sha256)]) == {one.name}
    assert batch_of([], "4").sha256 != one.sha256
    assert (one.uri, longer.uri) == ("kafka://h/t[0]@3..9", "kafka://h/t[0]@3..12")
    assert one.row_count(InteractionsSpec()) == RowCount(7, exact=False)
    assert (type(one.filesystem), one.folder) == (pafs.LocalFileSystem, str(Path.cwd()))
