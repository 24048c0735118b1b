"""Texts that are read as columns and line by line, and the comparison of both."""

import io
import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipelines.ingest.events import columns as event_columns
from pipelines.ingest.events.rows import EventRules
from pipelines.ingest.items import columns as item_columns
from pipelines.ingest.parts import bounds, row_count, row_numbers, rows_at
from pipelines.sources.protocol import Part, Spec
from pipelines.sources.row import Row, SourceError
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec
from pipelines.sources.text.blocks import Blocks
from pipelines.sources.text.csv_columns import csv_columns
from pipelines.sources.text.csv_dialect import Dialect
from pipelines.sources.text.csv_rows import csv_rows
from pipelines.sources.text.json_columns import json_columns
from pipelines.sources.text.json_rows import json_rows
from pipelines.sources.text.text_rows import TextRows, gathered

NOW = datetime(2026, 9, 1, tzinfo=UTC)
LOG, CATALOGUE = InteractionsSpec(), ItemsSpec(require_title=False)
MANY = 1 << 18


def assert_same(parts: list[Part], rows: list[Row], spec: Spec) -> None:
    """The parts hold the rows, and convert to what the rows convert to one by one."""
    assert [_told(row) for part in parts for row in (part if isinstance(part, list) else part.rows())] == [
        _told(row) for row in rows
    ]
    assert sum(map(row_count, parts)) == len(rows)
    assert [number for part in parts for number in row_numbers(part)] == [row.number for row in rows]
    for part in parts:
        some = [row for row in rows if bounds(part)[0] <= row.number <= bounds(part)[1]]
        assert [_told(row) for row in rows_at(part, [row.number for row in some[::-1]])] == list(map(_told, some[::-1]))
        if isinstance(spec, ItemsSpec):
            items, one_by_one = item_columns.parse(part, spec), item_columns.parse_rows(some, spec)
            assert_frame_equal(items.items, one_by_one.items, check_exact=True)
            assert {row: repr(named) for row, (_, named) in items.pictures.items()} == {
                row: repr(named) for row, (_, named) in one_by_one.pictures.items()
            }
            assert list(map(_refused, items.refused)) == list(map(_refused, one_by_one.refused))
        else:
            rules = EventRules(spec, NOW)
            events, alone = event_columns.parse(part, rules), event_columns.parse_rows(some, rules)
            assert_frame_equal(events.events, alone.events, check_exact=True)
            assert list(map(_refused, events.refused)) == list(map(_refused, alone.refused))


def _told(row: Row) -> tuple[Any, ...]:
    return row.number, repr(row.values), row.reason, row.detail, row.columns


def _refused(each: Any) -> tuple[Any, ...]:
    row, error = each
    return *_told(row), error.reason, error.detail


def csv_twins(text: bytes, dialect: Dialect, spec: Spec, size: int, small: int, rows: int = MANY) -> list[Part]:
    """Read a text both ways and compare; return the parts with columns."""
    asked, dialect = spec.selected_columns, replace(dialect, numbers=spec.number_columns)
    stream = io.BufferedReader(io.BytesIO(text))
    found = csv_columns(Blocks(io.BytesIO(text), True, size, small), "f.csv", dialect, asked, spec.mapped_columns)
    slow, fault = _or_fault(csv_rows(stream, "f.csv", dialect, asked, spec.mapped_columns))
    parts, other_fault = _or_fault(gathered(found, rows))
    assert fault == other_fault
    assert_same(parts, slow, spec)
    return parts


def _or_fault(found: Iterable[Any]) -> tuple[list[Any], str]:
    try:
        return list(found), ""
    except SourceError as error:
        return [], str(error)


def json_twins(text: bytes, spec: Spec, size: int, small: int, rows: int = MANY) -> list[Part]:
    """Read a text both ways and compare; return the parts."""
    parts: list[Part] = list(gathered(json_columns(Blocks(io.BytesIO(text), False, size, small), asked_of(spec)), rows))
    assert_same(parts, list(json_rows(io.BytesIO(text))), spec)
    return parts


def asked_of(spec: Spec) -> frozenset[str] | None:
    return spec.selected_columns


def in_columns(parts: Iterable[Part]) -> int:
    return sum(len(part) - len(part.alone) for part in parts if isinstance(part, TextRows))


def words(text: str) -> list[str]:
    return text.split("|")


TIMES = words("2024-01-02T03:04:05Z|2024-01-02|1700000000|1700000000123|yesterday|2099-01-01|")
BYTES = st.sampled_from([b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\0", b"\xe2\x82", b"\r"])
SIZES = st.sampled_from([1, 2, 7, 30, 64, 200, 5000])
CLEAN = "user_id,item_id,event_time,other\n" + "".join(f"u{n},i{n},2024-01-02T03:04:05Z,x{n}\n" for n in range(100))
EVENTS = [
    {"user_id": f"u{n}", "item_id": n, "event_time": "2024-01-02", "value": n / 4, "x": {"a": [n]}} for n in range(100)
]


def damaged(draw: st.DrawFn, text: bytes, dirty: bool) -> bytes:
    """Return the text, or the text with bytes in it that it should not have."""
    if not dirty or draw(st.booleans()):
        return text
    place = draw(st.integers(0, len(text)))
    return text[:place] + draw(BYTES) + text[place:]


def lines_of(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
