"""A CSV file gives every one of its lines: as a row, or as a line that is refused and says why."""

import csv
import io
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_rows import read_rows

from pipelines.sources.files import find_sources
from pipelines.sources.protocol import check_sources
from pipelines.sources.row import Row, SourceError
from pipelines.sources.source_spec import CsvSpec, InteractionsSpec, ItemsSpec
from pipelines.sources.text.csv_dialect import Dialect, dialect_of
from pipelines.sources.text.csv_rows import Lines, csv_rows, records
from storage.reasons import Reason

PLAIN = Dialect("utf-8", ",", ".", "checked")
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


def rows(text: str, dialect: Dialect = PLAIN, asked: frozenset[str] | None = None) -> list[Row]:
    return list(csv_rows(io.BufferedReader(io.BytesIO(text.encode())), "f.csv", dialect, asked))


def read(path: Path, **spec: object) -> list[Row]:
    return list(read_rows(find_sources(str(path))[0], ItemsSpec(csv=CsvSpec(**spec))))  # type: ignore[arg-type]


def strictly(text: str) -> list[str] | str:
    """The cells of a row, character by character; "open" where a quote is not closed, "bad" where it is badly."""
    cells, cell, state = [], "", "start"
    for character in text:
        if state == "quoted":
            state, cell = ("closing", cell) if character == '"' else ("quoted", cell + character)
        elif state == "closing" and character == '"':
            state, cell = "quoted", cell + '"'
        elif character in "\r\n":
            break
        elif character == ",":
            cells, cell, state = [*cells, cell], "", "start"
        elif state == "closing":
            return "bad"
        elif state == "start" and character == '"':
            state = "quoted"
        else:
            state, cell = "plain", cell + character
    return "open" if state == "quoted" else [*cells, cell]


def leniently(line: str) -> list[str] | None:
    """The cells of a line where text behind a closed cell is part of it; None where a cell is left open."""
    cells, rest = [], line.rstrip("\r\n")
    while True:
        quoted = re.match(r'"((?:[^"]|"")*+)"([^,]*)', rest)
        if rest.startswith('"') and not quoted:
            return None
        cell = quoted[1].replace('""', '"') + quoted[2] if quoted else rest.split(",", 1)[0]
        used = len(quoted[0]) if quoted else len(cell)
        cells.append(cell)
        if used == len(rest):
            return cells
        rest = rest[used + 1 :]


def twin(text: str, width: int) -> list[list[str] | None]:
    """The cells of each record, None for a refused line: tries one line, two, three, ... until a row is whole."""
    lines, found, at = LINE.findall(text), [], 0
    while at < len(lines):
        some, taken = one_row(lines[at:], width)
        found += some if lines[at].strip("\r\n") else []
        at += taken
    return found


def one_row(lines: list[str], width: int) -> tuple[list[list[str] | None], int]:
    for many in range(1, len(lines) + 1):
        cells = strictly("".join(lines[:many]))
        if cells == "bad":
            return [leniently(lines[0]) if many == 1 else None], 1
        if cells != "open":
            alone = [line.rstrip("\r\n").split(",") for line in lines[:many]]
            if many > 1 and len(cells) != width:
                return [None], 1
            lead = strictly(alone[0][0])
            plain = lead == "open" or not lines[0].startswith('"') or all(line[0] == '"' for line in lines[:many])
            if many > 1 and width > 1 and plain and all(len(each) == width for each in alone):
                return [None, *twin("".join(lines[1 : many - 1]), width), None], many
            return [list(cells)], many
    return [None], 1


CELL = st.text(st.sampled_from('ab ,";\n\r'), max_size=6)


@given(st.integers(2, 4).flatmap(lambda width: st.lists(st.lists(CELL, min_size=width, max_size=width), max_size=8)))
def test_what_a_csv_writer_wrote_is_read_as_it_was_where_quotes_are_trusted(table: list[list[str]]) -> None:
    width = len(table[0]) if table else 2
    file = io.StringIO()
    csv.writer(file).writerows([[f"c{place}" for place in range(width)], *table])
    found = rows(file.getvalue(), Dialect("utf-8", ",", ".", "trusted"))
    assert [[value or "" for value in row.values.values()] for row in found] == table
    checked = rows(file.getvalue())
    assert all(row.reason in (None, Reason.UNPAIRED_QUOTE, Reason.MALFORMED_ROW) for row in checked)
    if not any("\n" in cell or "\r" in cell for line in table for cell in line):
        assert [row.values for row in checked] == [row.values for row in found]


@given(st.text(st.sampled_from('ab,"\n'), max_size=40), st.integers(1, 3))
@settings(max_examples=300)
def test_records_are_those_of_a_reader_that_tries_every_number_of_lines(text: str, width: int) -> None:
    lines = Lines(LINE.findall(text))
    found = [record for record in records(lines, PLAIN, width) if record.cells or record.why]
    assert [None if record.why else record.cells for record in found] == twin(text, width)


@given(st.text(st.sampled_from('ab,;"\n\r\té€\0'), max_size=60), st.sampled_from(["checked", "trusted", "none"]))
def test_no_text_ends_the_reading_and_every_refused_line_says_where_it_is(text: str, quotes: str) -> None:
    found = rows("id,title\n" + text, Dialect("utf-8", ",", ".", quotes))
    for row in found:
        assert row.reason is None or row.detail.startswith("line ")
    numbers = [row.number for row in found]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("place", [0, 7, 1999])
def test_an_unpaired_quote_costs_its_line_and_no_other(place: int) -> None:
    lines = [f"{number},mug {number}" for number in range(2000)]
    lines[place] = f'{place},"mug {place}'
    found = rows("id,title\n" + "\n".join(lines) + "\n")
    assert len(found) == 2000
    (bad,) = [row for row in found if row.reason]
    assert (bad.number, bad.reason) == (place, Reason.UNPAIRED_QUOTE)
    assert bad.detail.startswith(f"line {place + 2}: ")
    assert bad.values == {"raw": lines[place]}


@pytest.mark.parametrize(
    "text",
    [
        '1,"red\n2,"blue\n3,pine\n',  # two that are never closed
        '1,"red\n2,blue"\n3,pine\n',  # closed by a quote behind a plain cell
        '1,"red\n2,"\n3,pine\n',  # closed by a quote alone
        '1,"red\n2,"blue",\n3,pine\n',  # closed by the opening quote of the next row
        '1,"red\n2,""\n3,pine\n',  # closed by an empty cell
        '1,"red\n2,blue",c\n3,pine\n',  # the row then has too many cells
    ],
)
def test_a_quote_that_pairs_with_one_of_a_later_row_does_not_take_the_rows_between(text: str) -> None:
    found = rows("id,title\n" + text)
    assert (found[0].reason, found[0].values) == (Reason.UNPAIRED_QUOTE, {"raw": '1,"red'})
    assert found[-1].values == {"id": "3", "title": "pine"}
    assert len(found) == 3


def test_two_stray_quotes_cost_their_lines_and_the_rows_between_are_read() -> None:
    text = '5,"steel mug,1\n6,pine mug,2\n7,"",3\n8,mug 12",4\n9,wool mug,5\n'
    found = rows("id,title,price\n" + text)
    assert [row.reason for row in found] == [Reason.UNPAIRED_QUOTE, None, None, Reason.UNPAIRED_QUOTE, None]
    assert [row.values["title"] for row in found if not row.reason] == ["pine mug", None, "wool mug"]


def test_a_cell_with_line_breaks_is_one_row_and_one_beyond_the_bound_is_none() -> None:
    whole = 'id,title,text\n1,mug,"line one\nline two, of ""two""\n"\n2,bowl,plain\n'
    assert [row.values["text"] for row in rows(whole)] == ['line one\nline two, of "two"\n', "plain"]
    long = 'id,title\n1,"' + "x\n" * 1200 + '"\n2,bowl\n'
    found = rows(long)
    assert found[0].reason == Reason.UNPAIRED_QUOTE
    assert found[-1].values == {"id": "2", "title": "bowl"}
    assert len(found) == 1202


def test_lines_that_may_be_rows_by_themselves_are_one_row_where_quotes_are_trusted() -> None:
    text = 'id,text\n1,"first\nsecond, with a comma"\n'
    assert [row.reason for row in rows(text)] == [Reason.UNPAIRED_QUOTE] * 2
    (row,) = rows(text, Dialect("utf-8", ",", ".", "trusted"))
    assert row.values == {"id": "1", "text": "first\nsecond, with a comma"}
    assert rows('id,text\n1,"red\n', Dialect("utf-8", ",", ".", "none"))[0].values == {"id": "1", "text": '"red'}


def test_a_writer_that_quotes_every_cell_is_believed() -> None:
    (row,) = rows('"id","text"\n"1","first\nsecond, with a comma"\n')
    assert row.values == {"id": "1", "text": "first\nsecond, with a comma"}
    text = '"title","id"\n"red,5\nblue,6\npine",7\n'
    assert [row.reason for row in rows(text)] == [Reason.UNPAIRED_QUOTE, None, Reason.UNPAIRED_QUOTE]


def test_a_quote_inside_a_cell_is_a_character() -> None:
    (row,) = rows('id,title\n1,5" pipe, 3" wide\n'.replace(", 3", " 3"))
    assert row.values == {"id": "1", "title": '5" pipe 3" wide'}


@pytest.mark.parametrize(
    ("text", "declared"),
    [
        ("item_id;title;price\n1;mug;3,5\n2;bowl, red;1.234,50\n", {"delimiter": ";", "decimal": ","}),
        ("item_id\ttitle\n1\tmug\n", {"delimiter": "\t"}),
        ("item_id|title\n1|mug\n", {"delimiter": "|"}),
        ("item_id;title, short;price\n1;mug;3\n", {"delimiter": ";"}),
    ],
)
def test_another_delimiter_stops_the_file_and_the_message_has_the_setting_that_reads_it(
    tmp_path: Path, text: str, declared: dict[str, str]
) -> None:
    path = tmp_path / "items.csv"
    path.write_text(text)
    with pytest.raises(SourceError, match=r"items\.csv: its cells are separated by") as raised:
        read(path)
    table = re.search(r"--set 'items\.csv=\{ (.+) \}'", str(raised.value))
    assert table is not None
    assert dict(re.findall(r'(\w+) = "(.+?)"', table[1].replace("\\t", "\t"))) == declared
    assert all(row.reason is None for row in read(path, **declared))
    if "decimal" in declared:
        assert [row.values["price"] for row in read(path, **declared)] == ["3.5", "1234.50"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_another_encoding_stops_the_file_and_is_read_where_it_is_declared(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id,title\n" + "".join(f"{n},caf\xe9 {n}\n" for n in range(9)), encoding=encoding, newline="")
    with pytest.raises(SourceError, match=rf"items\.csv: the text is {encoding}, not UTF-8"):
        read(path)
    found = read(path, encoding=encoding)
    assert [row.values for row in found] == [{"item_id": str(n), "title": f"caf\xe9 {n}"} for n in range(9)]


@pytest.mark.parametrize(("encoding", "shown"), [("shift_jis", "’ƒ"), ("cp1251", "÷à"), ("cp1252", "thé")])
def test_an_encoding_that_bytes_do_not_prove_is_named_with_what_it_makes_of_the_text(
    tmp_path: Path, encoding: str, shown: str
) -> None:
    title = {"shift_jis": "\u8336\u7897", "cp1251": "\u0447\u0430\u0439", "cp1252": "th\xe9"}[encoding]
    path = tmp_path / "items.csv"
    path.write_text("item_id,title\n" + "".join(f"{n},{title}\n" for n in range(9)), encoding=encoding)
    with pytest.raises(SourceError, match=r"if that is wrong, name the encoding in which it is right") as refused:
        read(path)
    assert shown in str(refused.value)


@pytest.mark.parametrize(("encoding", "title"), [("utf-16", "mug"), ("utf-16-le", "mug"), ("cp1252", "caf\xe9")])
def test_a_file_that_is_utf8_after_all_is_not_read_in_the_encoding_that_is_declared(
    tmp_path: Path, encoding: str, title: str
) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id,title\n" + "".join(f"{n},{title}\n" for n in range(9)), encoding="utf-8")
    with pytest.raises(SourceError, match=rf"the text is UTF-8, but the recipe declares {encoding}. Take"):
        read(path, encoding=encoding)


def test_a_byte_order_mark_shows_that_a_text_is_utf8_after_all(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id,title\n1,mug\n", encoding="utf-8-sig")
    with pytest.raises(SourceError, match="the text is UTF-8, but the recipe declares cp1252"):
        read(path, encoding="cp1252")
    assert [row.values for row in read(path, encoding="utf-8")] == [{"item_id": "1", "title": "mug"}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "cp1252"])
def test_an_empty_file_is_of_any_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "items.csv"
    path.write_bytes(b"")
    assert read(path, encoding=encoding) == []


def test_a_text_without_the_mark_that_its_declared_encoding_needs_is_refused_with_the_setting(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id,title\n1,mug\n", encoding="utf-16-be")
    with pytest.raises(SourceError, match=r"is not written in utf-16 .*name its encoding in items\.csv\.encoding"):
        read(path, encoding="utf-16")


def test_a_few_bytes_that_are_not_utf8_cost_their_rows(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_bytes("item_id,title\n1,café\n".encode() + b"2,caf\xe9\n3,caf\xe9\n4,caf\xe9\n5,cafe\n")
    assert [row.reason for row in read(path)] == [None, *[Reason.INVALID_UTF8] * 3, None]


def test_every_file_of_a_run_that_is_written_otherwise_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("item_id;title\n1;mug\n")
    (tmp_path / "b.csv").write_text("item_id,title\n1,mug\n")
    (tmp_path / "c.jsonl").write_text('{"item_id": 1}\n', encoding="utf-16")
    with pytest.raises(SourceError, match=r"(?s)a\.csv: its cells.*c\.jsonl: the text is utf-16"):
        check_sources(find_sources(str(tmp_path)), ItemsSpec())


def test_a_first_line_for_a_spreadsheet_is_named() -> None:
    with pytest.raises(SourceError, match=r"'sep=;', is for a spreadsheet.*delimiter = \";\""):
        dialect_of(b"sep=;\nitem_id;title\n", "f.csv", CsvSpec(), "items")


def test_a_column_name_that_comes_twice_is_refused_where_the_column_is_asked_for() -> None:
    with pytest.raises(SourceError, match=r"f\.csv: its header has 'title' twice"):
        rows("id,title,title\n1,a,b\n")
    assert len(rows("id,title,title\n1,a,b\n", asked=InteractionsSpec().selected_columns)) == 1
    assert [row.reason for row in rows("id,,\n1,,\n2,a,b\n")] == [None, Reason.MALFORMED_ROW]


@pytest.mark.parametrize("name", ["items.csv", "items.jsonl"])
@pytest.mark.parametrize(
    ("start", "told"), [(b"\x1f\x8b\x08", "compressed with gzip"), (b"PK\x03\x04", "spreadsheet"), (b"PAR1", "Parquet")]
)
def test_a_file_that_is_no_text_is_named_for_what_it_is(tmp_path: Path, name: str, start: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(start + bytes(range(256)) * 9)
    with pytest.raises(SourceError, match=rf"{name} is .*{told}"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    "text",
    ['[{"item_id": 1}, {"item_id": 2}]', '\n[\n  {"item_id": 1}\n]\n', '[{"item_id": 1},\n{}]'],
)
def test_a_json_array_is_no_lines_of_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "items.jsonl").write_text(text)
    with pytest.raises(SourceError, match=r"items\.jsonl is one JSON array"):
        read(tmp_path / "items.jsonl")
    (tmp_path / "items.jsonl").write_text('[1, 2]\n{"item_id": 1}\n')
    assert [row.reason for row in read(tmp_path / "items.jsonl")] == [Reason.INVALID_JSON, None]


@pytest.mark.parametrize("text", ['{\n  "item_id": 1\n}\n{\n  "item_id": 2\n}\n', '\n{ \r\n"item_id": 1}\r\n'])
def test_an_object_over_several_lines_is_no_line_of_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "items.jsonl").write_text(text)
    with pytest.raises(SourceError, match=r"go over several lines.*jq -c"):
        read(tmp_path / "items.jsonl")
    (tmp_path / "items.jsonl").write_text('{"item_id": 1}\n{\n{"item_id": 2}\n')
    assert [row.reason for row in read(tmp_path / "items.jsonl")] == [None, Reason.INVALID_JSON, None]
