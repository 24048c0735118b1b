"""A log that is converted column by column gives the events and the refusals of one that is converted row by row."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipelines.ingest.cell_columns import booleans, identifiers, integers, numbers, series_of, times
from pipelines.ingest.events.columns import EVENTS, parse, parse_rows
from pipelines.ingest.events.ids import content_ids
from pipelines.ingest.events.rows import EventRules
from pipelines.sources.cells import NULL_WORDS
from pipelines.sources.parquet_columns import Columns
from pipelines.sources.row import Row
from pipelines.sources.source_spec import InteractionsSpec
from storage.reasons import Reason

NOW = datetime(2026, 9, 1, tzinfo=UTC)
BORDERS = [0, 1, 19_000_101, 631_151_999, 631_152_000, 1_700_000_000, 2**32, 2**32 + 1, 10**11]
COUNTS = st.one_of(
    st.sampled_from(BORDERS).flatmap(lambda n: st.sampled_from([n, n * 1000, n * 10**6, n * 1000 + 123, -n])),
    st.sampled_from([20_220_408, 20_220_408_123_045, 2_022_040_812_304_599, 43_831, 253_402_300_799, 10**17, 2**62]),
    st.integers(10**8, 10**18),
)
SPELLINGS = (
    "2024-01-02|2024-01-02T03:04:05Z|2024-01-02 03:04:05.123|2024-01-02 03:04:05 UTC|2024-02-30|0000-01-01|0001-01-01|"
    "2024-01-02T03:04:05.1234567|2024-01-02T24:00:00|2024-01-02T03:04:60|2024-01-02 03:04:05+02:00|20240102|1e9|1.7E9|"
    "1900-01-01|1e+05|1.7e+09|"
    "2024-01-02 03:04:05+00:00| 2024-01-02|1700000000.5|9999-12-31T23:59:59.999999Z|2024-01-02T03:04Z|12/31/2023|t|F|"
    "Yes|1.5|-0|007|+7|1,5|1.2E+12|null|NaN|N/A|| |a b| a|b |\u00e9|\ufeffx|12345678901|-2147483648|2147483648|0.1|"
    "02024010203|123456789012345.678|1_000|\u0664"
)
WRITTEN = st.sampled_from([*SPELLINGS.split("|"), "x" * 130])
TEXTS = st.one_of(
    WRITTEN, st.text(max_size=6), st.sampled_from(sorted(NULL_WORDS)), COUNTS.map(str), st.from_regex(r"[!-~]{1,9}")
)
FLOATS = st.one_of(COUNTS.map(float), st.floats(), st.sampled_from([2.0**53, 2.0**24, 1.5, -0.0, 1_700_000_000.25]))
STAMPS = st.sampled_from([-62_135_596_800, -62_135_596_801, 0, -1, 1_700_000_000, 253_402_300_799, 253_402_300_800])


def arrays(rows: int) -> st.SearchStrategy[pa.Array]:
    """Columns of any type, among them all that are converted as wholes."""

    def of(values: st.SearchStrategy[Any], build: Callable[[list[Any]], pa.Array]) -> st.SearchStrategy[pa.Array]:
        return st.lists(st.none() | values, min_size=rows, max_size=rows).map(build)

    texts = st.sampled_from([pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
    stamps = st.sampled_from([pa.timestamp("s"), pa.timestamp("ms", "Asia/Tokyo"), pa.timestamp("us", "UTC")])
    encodable = TEXTS.filter(lambda text: not any("\ud800" <= each <= "\udfff" for each in text))
    return st.one_of(
        texts.flatmap(lambda kind: of(encodable, lambda values: pa.array(values, pa.string()).cast(kind))),
        of(COUNTS, lambda values: pa.array(values, pa.int64())),
        of(st.integers(-128, 127), lambda values: pa.array(values, pa.int8())),
        of(st.integers(0, 2**64 - 1), lambda values: pa.array(values, pa.uint64())),
        of(FLOATS, lambda values: pa.array(values, pa.float64())),
        of(st.floats(width=32), lambda values: pa.array(values, pa.float32())),
        of(st.booleans(), lambda values: pa.array(values, pa.bool_())),
        stamps.flatmap(lambda kind: of(STAMPS, lambda values: pa.array(values, pa.timestamp("s")).cast(kind))),
        of(st.integers(-(2**62), 2**62), lambda values: pa.array(values, pa.timestamp("ns"))),
        of(st.integers(-800_000, 3_000_000), lambda values: pa.array(values, pa.date32())),
        of(st.binary(max_size=4), lambda values: pa.array(values, pa.binary())),
        of(st.lists(st.integers()), lambda values: pa.array([None] * rows, pa.list_(pa.int64()))),
        st.just(pa.nulls(rows)),
    )


FIELDS = ["user_id", "item_id", "event_time", "event_id", "event_type", "arrival_time", "session_id", "impression"]
FIELDS += ["position", "value"]


@given(data=st.data(), unit=st.sampled_from(["auto", "s", "ms", "us", "ns"]))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_columns_give_what_their_rows_give(data: st.DataObject, unit: Any) -> None:
    rows = 4
    good = {"user_id": pa.array(["u"] * rows), "item_id": pa.array([1] * rows)}
    good |= {"event_time": pa.array([datetime(2024, 1, 1)] * rows)}
    drawn = data.draw(st.dictionaries(st.sampled_from(FIELDS), arrays(rows), max_size=3))
    columns = good | drawn
    part = Columns(7, pa.RecordBatch.from_arrays(list(columns.values()), list(columns)), tuple(columns))
    rules = EventRules(InteractionsSpec(time_unit=unit), NOW)
    rows_alone = list(part.rows())
    quick, listed, slow = parse(part, rules), parse(rows_alone, rules), parse_rows(rows_alone, rules)
    assert_frame_equal(listed.events, slow.events, check_exact=True)
    assert [_said(each) for each in listed.refused] == [_said(each) for each in slow.refused]
    assert_frame_equal(quick.events, slow.events, check_exact=True)
    assert [_said(each) for each in quick.refused] == [_said(each) for each in slow.refused]


def _said(refused: Any) -> tuple[Any, ...]:
    row, error = refused
    return row.number, error.reason, error.detail, row.columns


@pytest.mark.parametrize(
    ("array", "convert"),
    [
        (pa.array(["user-17", "B000123"]), identifiers),
        (pa.array([17, 18]), identifiers),
        (pa.array([17.0, None]), identifiers),
        (pa.array(["a", "a"]).dictionary_encode(), identifiers),
        (pa.array([1_700_000_000, 1_700_000_000_123]), lambda column: times(column, "auto")),
        (pa.array([1_700_000_000_000, None], pa.timestamp("ms")), lambda column: times(column, "auto")),
        (pa.array(["2024-01-01T00:00:00Z", "2024-01-01"]), lambda column: times(column, "auto")),
        (pa.array(["1700000000", "1700000000123"]), lambda column: times(column, "auto")),
        (pa.array([True, None]), booleans),
        (pa.array(["true", "0"]), booleans),
        (pa.array([1, None]), integers),
        (pa.array(["1", "-7"]), integers),
        (pa.array([1.5, None]), numbers),
        (pa.array(["1.5", "3"]), numbers),
    ],
)
def test_usual_columns_leave_no_row_to_be_converted_alone(array: pa.Array, convert: Any) -> None:
    assert convert(series_of(array)).sure.all()


MOMENTS = ["2024-01-02T03:04:05Z", "2024-01-02 03:04:05", "2024-01-02 03:04:05 UTC", "2024-01-02T03:04:05.123456+00:00"]


@pytest.mark.parametrize("beside", [None, *MOMENTS, "2024-02-30T00:00:00Z", "0000-01-01T00:00:00Z", "1e9"])
@pytest.mark.parametrize("written", [*MOMENTS, "2024-01-02T03:04:05+0000", "2024-01-02", "1700000000", "yesterday"])
def test_times_of_one_spelling_and_of_two_are_what_each_is_alone(written: str, beside: str | None) -> None:
    table = {"user_id": ["u"] * 3, "item_id": ["i"] * 3, "event_time": [written, beside, written]}
    part = Columns(0, pa.RecordBatch.from_pydict(table), tuple(table))
    rules = EventRules(InteractionsSpec(), NOW)
    quick, slow = parse(part, rules), parse_rows(list(part.rows()), rules)
    assert_frame_equal(quick.events, slow.events, check_exact=True)
    assert [_said(each) for each in quick.refused] == [_said(each) for each in slow.refused]


CONTENT = "user_id item_id event_type event_time session_id request_id impression position value"
EVENT = st.fixed_dictionaries(
    {
        "user_id": st.text(max_size=4),
        "item_id": st.text(max_size=4),
        "event_type": st.sampled_from(["view", "buy"]),
        "event_time": st.datetimes(timezones=st.just(UTC)),
        "session_id": st.none() | st.text(max_size=3),
        "request_id": st.none() | st.text(max_size=3),
        "impression": st.none() | st.booleans(),
        "position": st.none() | st.integers(-(2**31), 2**31 - 1),
        "value": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    }
)


@given(st.lists(EVENT, min_size=1, max_size=5))
@settings(deadline=None)
def test_the_id_of_an_event_is_the_hash_of_its_fields_as_python_writes_them(events: list[dict[str, Any]]) -> None:
    frame = pl.DataFrame(events, schema={name: EVENTS[name] for name in CONTENT.split()}, orient="row")
    expected = [
        hashlib.blake2b("\0".join(str(event[name]) for name in CONTENT.split()).encode(), digest_size=16).hexdigest()
        for event in events
    ]
    assert content_ids(frame).to_list() == expected


JSON_CELL = st.none() | st.booleans() | COUNTS | FLOATS | TEXTS | st.lists(st.integers(), max_size=2) | st.just({})


@given(st.dictionaries(st.sampled_from(FIELDS), st.lists(JSON_CELL, min_size=3, max_size=3), max_size=4))
@settings(max_examples=200, deadline=None)
def test_rows_of_any_values_give_together_what_each_gives_alone(columns: dict[str, list[Any]]) -> None:
    good = {"user_id": ["u"] * 3, "item_id": [1, 2.0, "3"], "event_time": ["2024-01-01"] * 3} | columns
    rows = [Row(number, {name: cells[number] for name, cells in good.items()}) for number in range(3)]
    rows.append(Row(3, {"raw": "{"}, Reason.INVALID_JSON, "it is not closed"))
    rules = EventRules(InteractionsSpec(), NOW)
    quick, slow = parse(rows, rules), parse_rows(rows, rules)
    assert_frame_equal(quick.events, slow.events, check_exact=True)
    assert [_said(each) for each in quick.refused] == [_said(each) for each in slow.refused]
