"""Numbers of CSV files with decimal commas: a point separates thousands, also in the same column."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from source_rows import read_rows
from text_twins import LOG, NOW, csv_twins, in_columns

from pipelines.ingest.events import columns as event_columns
from pipelines.ingest.events.rows import EventRules
from pipelines.sources.cells import Unreadable
from pipelines.sources.files import find_sources
from pipelines.sources.source_spec import CsvSpec, ItemsSpec
from pipelines.sources.text.csv_dialect import Dialect
from pipelines.sources.text.decimal_comma import number
from storage.reasons import Reason

COMMA = Dialect("utf-8", ";", ",", "checked")
HEADER = "user_id;item_id;event_time;value\n"


def log(cells: list[str]) -> bytes:
    return (HEADER + "".join(f"u{n};1.234;2026-01-01;{cell}\n" for n, cell in enumerate(cells))).encode()


def test_a_point_separates_thousands_where_the_decimal_sign_is_a_comma() -> None:
    cells = {"1,5": 1.5, "1.234,50": 1234.5, "1.234": 1234.0, "12.345.678": 12345678.0, "-1.234": -1234.0, "7": 7.0}
    parts = csv_twins(log(list(cells) * 20), COMMA, LOG, 4000, 40)
    assert in_columns(parts) >= 100
    events = [event_columns.parse(part, EventRules(LOG, NOW)).events for part in parts]
    assert [value for frame in events for value in frame["value"]] == list(cells.values()) * 20
    assert {item for frame in events for item in frame["item_id"]} == {"1.234"}


@pytest.mark.parametrize("cell", ["1.23", "1234.5", "0.125", "1.2345", "1.234.56", "1234.567", "17.0", "1.5e3"])
def test_a_point_that_separates_no_groups_of_three_digits_is_no_number(cell: str) -> None:
    (part,) = csv_twins(log(["1,5", cell, "2"]), COMMA, LOG, 4000, 4000)
    parsed = event_columns.parse(part, EventRules(LOG, NOW))
    assert parsed.events["value"].to_list() == [1.5, 2.0]
    ((_, refused),) = parsed.refused
    assert (refused.reason, cell in refused.detail) == (Reason.NOT_A_NUMBER, True)
    assert ("a point separates groups of three digits" in refused.detail) == (cell != "1.234.56")


def test_ids_titles_and_attributes_keep_points_that_may_not_separate_thousands(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id;title;price;version\n1.234;2.000;1.234;1.2\n1.235;x;1.234,50;0.125\n")
    spec = ItemsSpec(csv=CsvSpec(delimiter=";", decimal=","))
    assert [list(row.values.values()) for row in read_rows(find_sources(str(path))[0], spec)] == [
        ["1.234", "2.000", "1.234", "1.2"],
        ["1.235", "x", "1234.50", "0.125"],
    ]


@given(st.integers(-(10**12), 10**12), st.integers(0, 999))
def test_a_number_reads_alike_with_and_without_groups(whole: int, fraction: int) -> None:
    grouped = f"{whole:,}".replace(",", ".")
    assert number(grouped) == number(str(whole)) == str(whole)
    assert number(f"{grouped},{fraction:03}") == f"{whole}.{fraction:03}"


@given(st.floats(allow_nan=False, allow_infinity=False).map(repr))
def test_a_number_with_a_decimal_point_is_whole_or_no_number(cell: str) -> None:
    found = number(cell)
    assert isinstance(found, Unreadable) or "." not in found
