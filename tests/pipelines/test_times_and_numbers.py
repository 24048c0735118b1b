"""Cells of times and numbers are read in every form that is clear, or refused."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cells import HUGE

from pipelines.sources.cells import Refused, Single, integer, number
from pipelines.sources.times import utc_time
from storage.reasons import Reason


@pytest.mark.parametrize(
    "cell",
    [
        *(
            "0001-01-01",
            "0001-01-01T00:00:00Z",
            "1899-12-30 00:00:00",
            "1753-01-01",
            "1900-01-01",
            "1900-01-01 00:00:00.000",
            "1970-01-01",
            "1970-01-01T02:00+02:00",
        ),
        *(datetime(1, 1, 1), datetime(1900, 1, 1), datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_date_that_programs_write_for_a_missing_time_is_refused(cell: Any) -> None:
    with pytest.raises(Refused, match=r"ts = .*missing time") as refused:
        utc_time(cell, "ts")
    assert refused.value.reason == Reason.EVENT_TIME_INVALID
    with pytest.raises(Refused, match="missing time"):
        utc_time(0, "ts", "s")


def test_a_time_of_32_bits_is_refused_with_what_to_export_instead() -> None:
    with pytest.raises(Refused, match=r"ts = 1767225600.0 is a 32-bit float.*: export 64-bit numbers, or times"):
        utc_time(Single(1767225600.0), "ts", "s")


@pytest.mark.parametrize("convert", [number, integer])
def test_bytes_are_the_numbers_that_the_same_text_is_and_python_alone_knows_underscores(convert: Any) -> None:
    for cell in ("1", " 5 ", "\xa05", "１", "1e2"):
        assert convert(cell.encode(), "value") == convert(cell, "value")
    for cell in ("1_0", "1,5", "one"):
        said = list[str]()
        for each in (cell, cell.encode()):
            with pytest.raises(Refused, match=Reason.NOT_A_NUMBER) as refused:
                convert(each, "value")
            said.append(refused.value.detail)
        assert said[0] == said[1]
    with pytest.raises(Refused, match="1_767_225_600"):
        utc_time("1_767_225_600", "ts")


def test_numbers_are_finite_and_positions_fit_in_32_bits() -> None:
    assert [number(cell, "value") for cell in ("1e3", 5, "", "N/A", None)] == [1000.0, 5.0, None, None, None]
    assert [integer(cell, "position") for cell in ("3", 3.0, "", None)] == [3, 3, None, None]
    for cell, reason in (("3,5", Reason.NOT_A_NUMBER), ("NaN", Reason.VALUE_NOT_FINITE), (True, Reason.NOT_A_NUMBER)):
        with pytest.raises(Refused, match=reason) as refused:
            number(cell, "value")
        assert ("decimal comma" in refused.value.detail) == (cell == "3,5")
    for cell in (3_000_000_000, "3.5", -(2**31) - 1, int(HUGE[:400])):
        with pytest.raises(Refused, match=Reason.NOT_A_NUMBER):
            integer(cell, "position")


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("2019-10-01 00:00:00 UTC", "2019-10-01 00:00:00"),
        ("2019-10-01 00:00:00utc", "2019-10-01 00:00:00"),
        ("2019-10-01 UTC", "2019-10-01 00:00:00"),
        ("2019-10-01T02:00:00+02:00", "2019-10-01 00:00:00"),
        ("2019-10-01 02:00:00 +0200", "2019-10-01 00:00:00"),
        ("2019-10-01 00:00:00 +0000 UTC", "2019-10-01 00:00:00"),
        ("2019-10-01T00:00:00.123456789Z", "2019-10-01 00:00:00.123456"),
        ("2019-10-01", "2019-10-01 00:00:00"),
        (b"2019-10-01", "2019-10-01 00:00:00"),
        (datetime(2019, 10, 1), "2019-10-01 00:00:00"),
        (1_569_888_000, "2019-10-01 00:00:00"),
        ("1569888000.5", "2019-10-01 00:00:00.500000"),
        (1_569_888_000_000, "2019-10-01 00:00:00"),
        (1_569_888_000_000_000, "2019-10-01 00:00:00"),
        (1_569_888_000_123_456_789, "2019-10-01 00:00:00.123456"),
        ("1.569888000123E+12", "2019-10-01 00:00:00.123000"),
        ("1.569888000E9", "2019-10-01 00:00:00"),
        (1.569888e12, "2019-10-01 00:00:00"),
    ],
)
def test_times_in_words_and_numbers_of_every_unit_are_read(cell: Any, told: str) -> None:
    assert utc_time(cell, "ts") == datetime.fromisoformat(told).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("cell", "hint"),
    [
        (20220408, "reads as 2022-04-08"),
        ("20220408.0", "reads as 2022-04-08"),
        (20220408123045, "reads as 2022-04-08 12:30:45"),
        (43831.5, "spreadsheet it would be 2020-01-01"),
        (0, "would be 1970-01-01"),
        (17, "would be 1970-01-01"),
        (-5, "would be 1969-12-31"),
        ("soon", "accepted are 2026-09-01"),
        ("01/09/2026", "accepted are 2026-09-01"),
        (True, "accepted are 2026-09-01"),
        ([1], "accepted are 2026-09-01"),
        (10**40, "accepted are 2026-09-01"),
        ("2024-01-01T00:00:00+02:00 UTC", "accepted are 2026-09-01"),
        ("1.70E+12", "without its last digits"),
        ("1.704067E+09", "without its last digits"),
        *(
            (cell, "without its last digits")
            for cell in ("1.7e+18", "1.7e+09", "1.7E9", "1.70e9", "1e+09", "1.70000001E9")
        ),
        (datetime.max.replace(tzinfo=UTC).isoformat().replace("+00:00", "-01:00"), "accepted are 2026-09-01"),
    ],
)
def test_what_is_hardly_a_time_is_refused_and_says_what_it_reads_as(cell: Any, hint: str) -> None:
    with pytest.raises(Refused, match="event_time_invalid: ts = ") as refused:
        utc_time(cell, "ts")
    assert hint in refused.value.detail


def test_a_unit_that_is_declared_is_taken_at_its_word() -> None:
    assert utc_time(20220408, "ts", "s") == datetime(1970, 8, 23, 0, 46, 48, tzinfo=UTC)
    assert utc_time("5000", "ts", "ms") == datetime(1970, 1, 1, 0, 0, 5, tzinfo=UTC)
    assert utc_time(5_000_999, "ts", "ns") == datetime(1970, 1, 1, 0, 0, 0, 5000, tzinfo=UTC)
    with pytest.raises(Refused, match="without its last digits"):
        utc_time("1.70E+12", "ts", "ms")
    assert utc_time("1900-01-01T00:00:01", "ts") == datetime(1900, 1, 1, 0, 0, 1, tzinfo=UTC)


@given(st.datetimes(datetime(1990, 1, 2), datetime(2100, 1, 1)), st.sampled_from(["s", "ms", "us"]))
def test_a_number_is_the_same_time_with_and_without_its_unit_where_it_is_none_that_reads_as_a_date(
    time: datetime, unit: Any
) -> None:
    scale = {"s": 1, "ms": 1000, "us": 1_000_000}[unit]
    value = int((time.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * scale
    known = time.replace(tzinfo=UTC, microsecond=0)
    assert utc_time(value, "ts", unit) == known
    if len(str(value)) != 14:  # digits that may read as a date
        assert utc_time(value, "ts") == known
