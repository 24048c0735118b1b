"""A text that is read as columns gives the rows, the events, the items and the refusals of one read line by line."""

import gzip
import io
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipelines.ingest import event_columns, item_columns
from pipelines.ingest.event_rows import EventRules
from pipelines.ingest.parts import bounds, row_count, row_numbers, rows_at
from pipelines.sources import blocks
from pipelines.sources.blocks import Blocks
from pipelines.sources.csv_columns import csv_columns
from pipelines.sources.csv_dialect import Dialect
from pipelines.sources.csv_rows import csv_rows
from pipelines.sources.files import find_sources
from pipelines.sources.json_columns import json_columns
from pipelines.sources.json_rows import json_rows
from pipelines.sources.protocol import Part, Spec
from pipelines.sources.row import Row, SourceError
from pipelines.sources.source_spec import CsvSpec, InteractionsSpec, ItemsSpec
from pipelines.sources.text_rows import TextRows, gathered

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
    asked = spec.selected_columns
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
WORDS = words("u1|i 2|NULL|| x|\u00e9|\ufeffx|x\0|\x1cx\x1f|\u2028|\x85|1.23E+11|007|-0")
WORDS += words("3,5|1.234,50|true|\\N|a\\|item_id|title|user_id")
PLAIN_CELL = st.sampled_from([*WORDS, "9" * 20, "x" * 90, *TIMES]) | st.text("ab 0\u00e9\u3000.-", max_size=5)
DIRT = st.sampled_from(words('"|\r|\n|,|"a"|""|"a,b"|"a\nb"|"a""b"|"a"b|a"b|"open|\\|\\"'))
BYTES = st.sampled_from([b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\0", b"\xe2\x82", b"\r"])
LINE_ENDS = st.sampled_from(["\n", "\n", "\n", "\r\n", "\r", "\n\n"])
HEADERS = words(
    "user_id,item_id,event_time,value,impression|item_id, title ,price,,deleted|user_id,item_id,event_time,x,x|"
    '"user_id","item_id","event_time","a""b","c"|\u00e9,user_id,item_id,event_time,position|item_id,title,,,x'
)


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """Files of five columns: good rows, and dirt of every kind between them."""
    dirty = draw(st.sampled_from([0, 0, 1, 4]))
    lines = [draw(st.sampled_from(HEADERS))]
    quoted = draw(st.booleans())
    for _ in range(draw(st.integers(0, 12))):
        cells = [draw(st.sampled_from(["u1", "u2"])), draw(st.sampled_from(["i1", "7"])), draw(st.sampled_from(TIMES))]
        cells += [draw(PLAIN_CELL), draw(PLAIN_CELL)]
        if dirty and draw(st.integers(0, 5)) < dirty:
            cells[draw(st.integers(0, 4))] = draw(PLAIN_CELL | DIRT)
            cells = cells[: draw(st.sampled_from([5, 5, 5, 4, 1]))]
        if quoted and draw(st.booleans()):
            cells = ['"' + cell.replace('"', '""') + '"' for cell in cells]
        lines.append(draw(st.sampled_from([",".join(cells)] * 8 + [lines[0]])))
    end = draw(LINE_ENDS)
    ends = [draw(LINE_ENDS) if dirty and draw(st.booleans()) else end for _ in lines]
    text = "".join(line + each for line, each in zip(lines, ends, strict=True)).encode()
    text = draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf"])) + text
    return _damaged(draw, text if draw(st.booleans()) else text[: -len(end)], bool(dirty))


def _damaged(draw: st.DrawFn, text: bytes, dirty: bool) -> bytes:
    if not dirty or draw(st.booleans()):
        return text
    place = draw(st.integers(0, len(text)))
    return text[:place] + draw(BYTES) + text[place:]


SIZES = st.sampled_from([1, 2, 7, 30, 64, 200, 5000])


@given(
    tables(),
    st.sampled_from(["checked", "escaped", "trusted", "none"]),
    st.sampled_from([".", ","]),
    st.sampled_from([LOG, CATALOGUE]),
    SIZES,
    SIZES,
    st.sampled_from([1, 3, MANY]),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_csv_file_of_any_dirt_is_read_alike(
    text: bytes, quotes: str, decimal: str, spec: Spec, size: int, small: int, rows: int
) -> None:
    csv_twins(text, Dialect("utf-8", ",", decimal, quotes), spec, size, small, rows)


@given(
    st.sampled_from(["item_id,title\n", "item_id\n", ",item_id\r\n"]),
    st.text(st.sampled_from('ab,"\n\r'), max_size=30),
    SIZES,
    st.sampled_from(["checked", "trusted", "none"]),
)
@settings(max_examples=300, deadline=None)
def test_a_csv_file_of_quotes_and_line_breaks_is_read_alike(header: str, text: str, size: int, quotes: str) -> None:
    csv_twins(f"{header}{text}".encode(), Dialect("utf-8", ",", ".", quotes), CATALOGUE, size, 1)


VALUES = words("1|-0|1.0|2.5|1e3|1e400|-0.0|9007199254740993|9007199254740993.0|01|1.|+1||null|true|false|NaN")
VALUES += words('Infinity|-Infinity|Inf|-NaN|"u1"|"i\\u00e9"|"\\ud800"|"\\u0000x"|"\u00e9"|" "|"a\tb"|"a|["a","b"]')
VALUES += words('[1,null]|[]|[1,2.5]|[[1]]|{"a":1}')
VALUES += [*(f'"{time}"' for time in TIMES), "1" * 25, "1" * 5000, "[" * 500 + "]" * 500, "[" * 3000 + "]" * 3000]
NAMES = words("user_id|item_id|event_time|value|impression|position|title|x|\\u0078|\u00e9")
PAIRS = st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES))
GOOD = {"user_id": '"u1"', "item_id": "7", "event_time": "1700000000"}


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    """Lines of JSON: good objects, and dirt of every kind between them."""
    dirty = draw(st.sampled_from([0, 0, 1, 4]))
    usual = GOOD | dict(draw(st.lists(PAIRS, max_size=3)))
    lines = []
    for _ in range(draw(st.integers(0, 12))):
        pairs = list(usual.items())
        for _ in range(draw(st.integers(0, 2)) if dirty else 0):
            pairs.insert(draw(st.integers(0, len(pairs))), draw(PAIRS))
        if draw(st.booleans()):
            pairs[draw(st.integers(0, len(pairs) - 1))] = draw(PAIRS)
        line = "{" + ",".join(f'"{name}": {value}' for name, value in pairs) + "}"
        if dirty and draw(st.integers(0, 5)) < dirty:
            others = ["", " ", line + line, line + " ", " " + line, line + ",", "[1]", line[:9], "{}", '{"a":{}']
            others += [line.replace(":", ":\n", 1), line.replace(":", ":\r", 1), line.replace("u1", "\0")]
            others += [line[:-1] + ",}", "\ufeff" + line]
            line = draw(st.sampled_from(others))
        lines.append(line)
    end = draw(st.sampled_from(["\n", "\n", "\r\n", "\r"]))
    text = "".join(line + end for line in lines).encode()
    return _damaged(draw, text if draw(st.booleans()) else text[: -len(end)], bool(dirty))


@given(objects(), st.sampled_from([LOG, CATALOGUE]), SIZES, SIZES, st.sampled_from([1, 3, MANY]))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_lines_of_json_of_any_dirt_are_read_alike(text: bytes, spec: Spec, size: int, small: int, rows: int) -> None:
    json_twins(text, spec, size, small, rows)


CLEAN = "user_id,item_id,event_time,other\n" + "".join(f"u{n},i{n},2024-01-02T03:04:05Z,x{n}\n" for n in range(100))
QUOTED = re.sub("x(.+)", r'"a, ""\1"""', CLEAN.replace("2024-01-02T03:04:05Z", '"1700000000"'))


@pytest.mark.parametrize("text", [CLEAN, QUOTED, CLEAN.replace("\n", "\r\n"), QUOTED.replace("\n", "\r\n"), CLEAN[:-1]])
@pytest.mark.parametrize("size", [1, 17, 1000, 1 << 20])
def test_all_lines_of_a_clean_csv_file_but_the_first_are_read_as_columns(text: str, size: int) -> None:
    parts = csv_twins(text.encode(), Dialect("utf-8", ",", ".", "checked"), LOG, size, 40)
    assert in_columns(parts) >= 99


@pytest.mark.parametrize(
    "bad", ['u,i"x,1,', "u,i", 'u,"i\nj",1,', "", "u,i,1,\xff", "user_id,item_id,event_time,other"]
)
def test_a_bad_line_of_a_csv_file_costs_the_lines_beside_it_their_columns_and_no_others(bad: str) -> None:
    lines = CLEAN.splitlines()
    text = "\n".join([*lines[:50], bad, *lines[50:]]).encode("latin-1")
    parts = csv_twins(
        text, Dialect("utf-8", ",", ".", "checked"), CATALOGUE.model_copy(update={"title": ""}), 4000, 100
    )
    assert in_columns(parts) >= 90


@pytest.mark.parametrize("quotes", ["checked", "escaped", "trusted", "none"])
@pytest.mark.parametrize(
    "header", ["user_id,item_id", "item_id", ",item_id", '"item_id",x', ",,item_id", "item_id,x,x"]
)
@pytest.mark.parametrize(
    "unusual",
    words(
        '\ufeffa,b|a\\,b,c|\\N,x|"a\nb",c|"a\nb"|"a\rb",c|a\rb,c|\r|\na,b|\r\na,b|item_id| item_id ,x|a"b,c|"a"b,c|a,"b"""|""'
    )
    + words(
        '"a"" b",c|"a", "b"|a,"|"a,b"|a,b,c|a|user_id, item_id|,item_id|"x""","y"|,,|a,b,|,a,b|a,b,b|"item_id",x|\0,b'
    ),
)
def test_one_unusual_line_of_a_csv_file_is_read_alike(header: str, unusual: str, quotes: str) -> None:
    clean = [",".join(["a7"] * (header.count(",") + 1))] * 30
    for end in ("\n", "\r\n"):
        text = end.join([header, *clean, unusual, *clean, ""]).encode()
        csv_twins(text, Dialect("utf-8", ",", ".", quotes), CATALOGUE, 4000, 20)


@pytest.mark.parametrize("above", ["\n" * 9, "\r" * 9, "\r\n" * 9, "\ufeff\n\ufeff\n"])
def test_a_header_below_blank_lines_that_fill_blocks_is_the_header(above: str) -> None:
    parts = csv_twins((above + CLEAN).encode(), Dialect("utf-8", ",", ".", "checked"), LOG, 3, 2)
    assert in_columns(parts) >= 99


def test_a_quote_that_is_never_closed_costs_the_lines_beside_it() -> None:
    lines = CLEAN.splitlines()
    text = "\n".join([*lines[:50], 'u,"x,1,', *lines[50:], 'u,"a\nb\nc",1,', *lines[50:]]).encode()
    parts = csv_twins(text, Dialect("utf-8", ",", ".", "checked"), LOG, 2000, 100)
    assert in_columns(parts) >= 130


def lines_of(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


EVENTS = [
    {"user_id": f"u{n}", "item_id": n, "event_time": "2024-01-02", "value": n / 4, "x": {"a": [n]}} for n in range(100)
]
ITEMS = [
    {"item_id": n, "title": f"t\u00e9 {n}", "tags": ["a", str(n)], "price": n / 4, "new": n > 5} for n in range(100)
]


@pytest.mark.parametrize(("rows", "spec"), [(EVENTS, LOG), (ITEMS, CATALOGUE)])
@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_all_lines_of_usual_json_but_the_first_are_read_as_columns(rows: Any, spec: Spec, size: int) -> None:
    parts = json_twins(lines_of(rows).encode(), spec, size, 100)
    assert in_columns(parts) >= 98


def test_types_and_columns_are_learned_and_a_bad_line_costs_only_the_lines_beside_it() -> None:
    rows = [
        *[{"item_id": n, "title": None} for n in range(50)],
        *[{"item_id": n, "title": "a", "price": n} for n in range(50, 100)],
        {"item_id": "torn"},
        *[{"item_id": n, "title": "a", "price": n / 4} for n in range(100, 150)],
        *[{"item_id": n, "title": "a", "price": 7} for n in range(150, 200)],
    ]
    parts = json_twins(lines_of(rows).encode(), CATALOGUE, 2000, 60)
    assert in_columns(parts) >= 185
    assert len(parts) == 2  # integers became floats


UNUSUAL = words(
    'NaN|-NaN|Inf|-Inf|Infinity|-0|-0.0|9007199254740993|1e400|"a"|null|[]|{"y":1}|01|"\\ud800"|"\xff"|"\0"'
)
UNUSUAL += [
    "[" * 900 + "]" * 900,
    "1" * 5000,
    '1,"x":2',
    '1,"x":1',
    "1}",
    "1}\0{",
    '1}{"x":2',
    '\n1}\n{"x":2}{"x":3',
    "\r1",
]


@pytest.mark.parametrize("spec", [LOG, CATALOGUE])
@pytest.mark.parametrize("name", ["value", "x"])
@pytest.mark.parametrize("usual", ["1", "0.5", '"a"', "null"])
@pytest.mark.parametrize("unusual", UNUSUAL)
def test_one_unusual_value_of_json_is_read_alike(unusual: str, usual: str, name: str, spec: Spec) -> None:
    start = '{"item_id":"7","user_id":"u","event_time":"2024-01-02",'
    clean = [f'{start}"{name}":{usual}}}'] * 30
    line = f'{start}"{name}":{unusual}}}'.replace('"x"', f'"{name}"')
    json_twins("\n".join([*clean, line, *clean, ""]).encode("latin-1"), spec, 1 << 20, 100)


def test_a_catalogue_of_nested_objects_is_read_line_by_line() -> None:
    rows = [{"item_id": n, "title": "a", "size": {"x": n, "y": None}} for n in range(50)]
    assert in_columns(json_twins(lines_of(rows).encode(), CATALOGUE, 1000, 60)) == 0


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.jsonl", "log.jsonl.gz", "log.jsonl.zst"])
def test_files_of_any_kind_are_read_as_columns_with_the_values_of_their_folders(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 999)
    monkeypatch.setattr(blocks, "SMALL_BYTES", 99)
    rows = [{key: each[key] for key in ("user_id", "item_id", "event_time")} for each in EVENTS]
    text = lines_of([*rows, {**rows[0], "event_type": None}, *rows]) if "json" in name else CLEAN
    folder = tmp_path / "event_type=buy"
    folder.mkdir()
    codec = {"gz": "gzip", "zst": "zstd"}.get(name.rsplit(".", 1)[-1])
    data = text.encode()
    (folder / name).write_bytes(pa.compress(data, codec, asbytes=True) if codec == "zstd" else data)
    if codec == "gzip":
        (folder / name).write_bytes(gzip.compress(data))
    (source,) = find_sources(str(tmp_path), LOG.from_folders)
    one_by_one = [row for part in source.parts(LOG, 100) for row in (part if isinstance(part, list) else part.rows())]
    parts = list(source.parts(LOG, 1 << 18))
    assert in_columns(parts) > 80
    assert_same(parts, one_by_one, LOG)
    types = event_columns.parse(parts[0], EventRules(LOG, NOW)).events["event_type"]
    assert types.unique().sort().to_list() == (["buy", "interaction"] if "json" in name else ["buy"])


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_a_csv_file_in_another_encoding_is_read_line_by_line(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "log.csv").write_bytes(CLEAN.replace("x", "\xe9").encode(encoding))
    (source,) = find_sources(str(tmp_path))
    parts = list(source.parts(InteractionsSpec(csv=CsvSpec(encoding=encoding)), 1 << 18))
    assert [len(part) for part in parts] == [100]
    assert in_columns(parts) == 0
