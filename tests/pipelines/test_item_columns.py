"""A catalogue that is converted column by column gives the items and the refusals of one converted row by row."""

import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from source_rows import ingest_new

from pipelines.ingest.items.columns import ParsedItems, _convert, parse, parse_rows
from pipelines.ingest.parts import table_of
from pipelines.sources.files import find_sources
from pipelines.sources.parquet_columns import Columns
from pipelines.sources.row import SourceError
from pipelines.sources.source_spec import ItemsSpec
from storage.lake import Lake

TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(["", " ", "a", " a\x1c", '"', "\\", "\u00e9", "\u3000x", "null", "a\nb", "0", "x" * 40]),
)
VALUES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.string(), TEXTS),
    (pa.string_view(), TEXTS),
    (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.float64(), st.floats()),
    (pa.float32(), st.floats(width=32)),
    (pa.bool_(), st.booleans()),
    (pa.binary(), st.binary(max_size=3)),
    (pa.list_(pa.string()), st.lists(st.none() | TEXTS, max_size=3)),
    (pa.list_(pa.bool_()), st.lists(st.none() | st.booleans(), max_size=2)),
    (pa.list_(pa.float64()), st.lists(st.floats(), max_size=2)),
    (pa.struct([("b", pa.string()), ("a", pa.int64())]), st.fixed_dictionaries({"b": TEXTS, "a": st.integers(0, 9)})),
    (pa.timestamp("ms", "Asia/Tokyo"), st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1))),
    (pa.timestamp("ns"), st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1))),
    (pa.date32(), st.dates()),
    (pa.decimal128(9, 2), st.decimals(-999, 999, places=2)),
]


def arrays(rows: int) -> st.SearchStrategy[pa.Array]:
    """Columns of any type."""

    def of(kind: pa.DataType, values: st.SearchStrategy[Any]) -> st.SearchStrategy[pa.Array]:
        return st.lists(st.none() | values, min_size=rows, max_size=rows).map(lambda each: pa.array(each, kind))

    return st.one_of(*(of(kind, values) for kind, values in VALUES), st.just(pa.nulls(rows)))


NAMES = st.sampled_from(["item_id", "title", "deleted", "image", "brand", "Price", "\u00e9tat", 'a "b"', "B", ""])
SPECS: list[dict[str, Any]] = [{}, {"require_title": False}, {"max_text_chars": 20}, {"title": "", "image": None}]


@given(data=st.data(), spec=st.sampled_from(SPECS))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_columns_give_what_their_rows_give(data: st.DataObject, spec: dict[str, Any]) -> None:
    rows = 4
    columns = {"item_id": pa.array(range(rows)), "title": pa.array(["mug"] * rows)}
    columns |= data.draw(st.dictionaries(NAMES, arrays(rows), max_size=4))
    batch = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
    part = Columns(7, batch, tuple(columns), exact_times=False)
    settings = ItemsSpec(**spec)
    rows_alone = list(part.rows())
    quick, listed, slow = parse(part, settings), parse(rows_alone, settings), parse_rows(rows_alone, settings)
    assert_frame_equal(listed.items, slow.items, check_exact=True)
    assert [_said(each) for each in listed.refused] == [_said(each) for each in slow.refused]
    assert _named(listed) == _named(slow)
    assert_frame_equal(quick.items, slow.items, check_exact=True)
    assert [_said(each) for each in quick.refused] == [_said(each) for each in slow.refused]
    assert _named(quick) == _named(slow)
    assert _lacked(quick) == _lacked(listed) == _lacked(slow)


def _named(parsed: ParsedItems) -> dict[int, list[str]]:
    return {row: [repr(each) for each in named] for row, (_, named) in parsed.pictures.items()}


def _lacked(parsed: ParsedItems) -> dict[int, list[str]]:
    return {number: [error.detail for error in errors] for number, (_, errors) in parsed.without.items()}


def _said(refused: Any) -> tuple[Any, ...]:
    row, error = refused
    return row.number, error.reason, error.detail


@pytest.mark.parametrize(
    "cells",
    [
        ["brand", None],
        ["caf\u00e9", 'a "quote"'],
        [1.5, 2.0],
        [1, None],
        [True, None],
        [["a", "b"], []],
        [Decimal("1.50"), None],
        [{"a": 1}, None],
    ],
)
def test_usual_columns_leave_no_row_to_be_converted_alone(cells: list[Any]) -> None:
    columns = {"item_id": pa.array(["a", "b"]), "title": pa.array(["mug", "bowl"]), "x": pa.array(cells)}
    batch = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
    table, _ = table_of(Columns(0, batch, tuple(columns), exact_times=False), None)
    _, sure = _convert(table, ItemsSpec())
    assert sure.all()


def test_columns_that_are_left_out_become_no_attributes_in_any_format(tmp_path: Path) -> None:
    rows = [{"item_id": f"i{n}", "title": "mug", "brand": "b", "emb": [0.5, n]} for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    write_deltalake(str(tmp_path / "table"), pa.Table.from_pylist(rows))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = ["item_id,title,brand,emb", *(f"i{n},mug,b,{n}" for n in range(3)), ""]
    (tmp_path / "a.csv").write_text("\n".join(text))
    for name in ("a.parquet", "a.jsonl", "a.csv", "table"):
        lake = Lake(str(tmp_path / f"lake-{name}"))
        ingest_new(lake, str(tmp_path / name), ItemsSpec(leave_out=("emb", "gone")))
        assert lake.frame("items")["attributes"].unique().to_list() == ['{"brand": "b"}'], name


def test_a_time_zone_that_does_not_exist_costs_the_attribute_of_such_times_and_names_the_column(
    tmp_path: Path,
) -> None:
    until = pa.array([1, None, 2], pa.timestamp("us", "Mars/Olympus"))
    pq.write_table(pa.table({"item_id": ["a", "b", "c"], "title": ["x"] * 3, "until": until}), tmp_path / "a.parquet")
    lake = Lake(str(tmp_path / "lake"))
    (done,) = ingest_new(lake, str(tmp_path / "a.parquet"))
    assert lake.frame("items").select("item_id", "attributes").rows() == [("a", "{}"), ("b", "{}"), ("c", "{}")]
    assert (done.stages[0].quarantined, done.stages[2].by_reason) == (0, {"unreadable_attribute": 2})
    assert "until: a time in the zone 'Mars/Olympus', which does not exist" in done.stages[2].why()
    payloads = lake.frame("quarantine")["payload"].to_list()
    assert all("Unreadable(" not in payload and "does not exist" in payload for payload in payloads)


def test_an_error_of_a_conversion_that_no_row_owns_names_the_file_and_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise KeyError("of a library")

    (tmp_path / "a.csv").write_text("item_id,title\n1,a\n2,b\n")
    monkeypatch.setattr("pipelines.ingest.items.columns._convert", fails)
    with pytest.raises(SourceError, match=r"a\.csv, rows 0 to 1: KeyError: 'of a library'"):
        ingest_new(Lake(str(tmp_path / "lake")), str(tmp_path / "a.csv"))


def test_a_column_that_is_left_out_is_not_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": ["a"], "title": ["x"], "emb": [[1.0]]}), tmp_path / "a.parquet")
    (source,) = find_sources(str(tmp_path / "a.parquet"))
    ((part,),) = [list(source.parts(ItemsSpec(leave_out=("emb",)), 10))]
    assert isinstance(part, Columns)
    assert part.names == ["item_id", "title"]
