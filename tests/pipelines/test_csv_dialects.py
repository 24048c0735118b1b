"""Texts with a delimiter of several characters, or without a header, are read where the recipe says how."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from source_rows import ingest_new
from test_csv_columns import tables
from text_twins import CATALOGUE, LOG, MANY, SIZES, csv_twins

from pipelines.ingest.accounting import mapping_hash
from pipelines.sources.files import find_sources
from pipelines.sources.protocol import Spec, check_sources
from pipelines.sources.row import Row, SourceError
from pipelines.sources.source_spec import CsvSpec, ItemsSpec
from pipelines.sources.text.csv_dialect import Dialect
from storage.lake import Lake
from storage.quarantine import open_rows
from storage.releases.catalogue import catalogue

COLUMNS = ("user_id", "item_id", "event_time", "value", "title")


@given(
    tables(),
    st.sampled_from(["::", ":::", "|@|", ",,", "\x1f\x1f"]),
    st.sampled_from([(), COLUMNS]),
    st.sampled_from([LOG, CATALOGUE]),
    SIZES,
    SIZES,
    st.sampled_from([1, 3, MANY]),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_text_of_any_dirt_is_read_alike_as_columns_and_line_by_line(
    text: bytes, delimiter: str, columns: tuple[str, ...], spec: Spec, size: int, small: int, rows: int
) -> None:
    dialect = Dialect("utf-8", delimiter, ".", "none", columns=columns)
    csv_twins(text.replace(b",", delimiter.encode()), dialect, spec, size, small, rows)


CELL = st.text(st.characters(codec="utf-8", exclude_characters=',"\r\n\0', exclude_categories=["Cs"]), max_size=6)


@given(st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=20), st.sampled_from(["", "::", "~~"]), st.booleans())
@settings(max_examples=100, deadline=None)
def test_cells_are_those_of_the_same_rows_with_commas_and_a_header(
    rows: list[tuple[str, str, str]], delimiter: str, headless: bool
) -> None:
    names = ["item_id", "title", "x"]
    rows = [tuple(cell.replace(":", "").replace("~", "") for cell in row) for row in rows]  # type: ignore[misc]
    usual = "\n".join(map(",".join, [names, *rows])).encode() + b"\n"
    lines = list(map((delimiter or ",").join, rows if headless else [names, *rows]))
    text = "\n".join(lines).encode() + b"\n"
    dialect = Dialect("utf-8", delimiter or ",", ".", "none", columns=tuple(names) if headless else ())
    expected = csv_twins(usual, Dialect("utf-8", ",", ".", "none"), CATALOGUE, 4000, 40)
    found = csv_twins(text, dialect, CATALOGUE, 4000, 40)
    assert _values(found) == _values(expected)


def _values(parts: list[Any]) -> list[dict[str, Any]]:
    return [row.values for row in _rows(parts) if row.reason is None]


def _rows(parts: list[Any]) -> list[Row]:
    return [row for part in parts for row in (part if isinstance(part, list) else part.rows())]


SWAPPED = bytes.maketrans(b"\"'", b"'\"")


@given(
    tables(),
    st.sampled_from(["checked", "escaped", "trusted", "none"]),
    st.sampled_from([LOG, CATALOGUE]),
    SIZES,
    SIZES,
)
@example(b'user_id,item_id,event_time\n"it\\"s",i1,x\n"\\","i1"x,x\n"\\",i1\n', "checked", LOG, 1, 1)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_another_quote_character_has_the_meaning_of_the_usual_one(
    text: bytes, quotes: str, spec: Spec, size: int, small: int
) -> None:
    usual = csv_twins(text, Dialect("utf-8", ",", ".", quotes), spec, size, small)
    other = csv_twins(text.translate(SWAPPED), Dialect("utf-8", ",", ".", quotes, quote="'"), spec, size, small)
    assert [_swapped(row) for row in _rows(other)] == [
        (row.number, list(row.values.values()), row.reason, row.detail) for row in _rows(usual)
    ]


def _swapped(row: Row) -> tuple[int, list[Any], str | None, str]:
    """Return a row with both quote characters in the place of each other."""
    swap = str.maketrans("\"'", "'\"")
    values = [value.translate(swap) if isinstance(value, str) else value for value in row.values.values()]
    return row.number, values, row.reason, row.detail.replace("\\'", '\\"')


FILMS = '1::Toy Story (1995)::Animation|Children\'s\n2::The "Best"::Drama\n3::Waiting\n'
HEADLESS = ItemsSpec(csv=CsvSpec(delimiter="::", columns=("item_id", "title", "genres")))


@pytest.mark.parametrize("name", ["movies.dat", "movies.dat.gz", "movies.csv", "movies.txt"])
def test_films_without_a_header_become_items_and_a_short_row_is_refused(tmp_path: Path, name: str) -> None:
    data = FILMS.encode("latin-1")
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    lake = Lake(str(tmp_path / "lake"))
    (done,) = ingest_new(lake, str(tmp_path / name), HEADLESS)
    assert (done.stages[0].rows_in, done.stages[0].out) == (3, 2)
    items = catalogue(lake).sort("item_id")
    assert items["title"].to_list() == ["Toy Story (1995)", 'The "Best"']
    assert json.loads(items["attributes"][0]) == {"genres": "Animation|Children's"}
    assert open_rows(lake)["detail"].to_list() == ["line 3: 2 cells, csv.columns has 3"]


def test_a_header_that_is_there_after_all_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("item_id,title\n1,mug\n")
    lake = Lake(str(tmp_path / "lake"))
    ingest_new(lake, str(tmp_path / "x.csv"), ItemsSpec(csv=CsvSpec(columns=("item_id", "title"))))
    assert catalogue(lake)["title"].to_list() == ["mug"]
    (detail,) = open_rows(lake)["detail"]
    assert detail.startswith("line 1: it is a header, and csv.columns of the recipe says that the file has none")


def test_a_file_whose_name_tells_no_delimiter_asks_for_one(tmp_path: Path) -> None:
    (tmp_path / "u.data").write_text("196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    with pytest.raises(SourceError, match=r'u\.data: its cells are separated by .*csv = \{ delimiter = "\\t" \}'):
        check_sources(find_sources(str(tmp_path / "u.data")), LOG)
    (tmp_path / "words.txt").write_text("item_id\n1\n")
    with pytest.raises(SourceError, match=r"words\.txt: its cells are separated by ','"):
        check_sources(find_sources(str(tmp_path / "words.txt")), CATALOGUE)
    with pytest.raises(SourceError, match=r"holds no .*\.csv.* file; 2 files are not read: u\.data, words\.txt"):
        find_sources(str(tmp_path))
    assert [each.file for each in find_sources(str(tmp_path / "*.data"))] == ["u.data"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"delimiter": "a\n"}, "other than a quote or a line break"),
        ({"delimiter": '""'}, "other than a quote or a line break"),
        ({"delimiter": "::", "quotes": "trusted"}, "leave out `quotes`"),
        ({"delimiter": "::", "quote": "'"}, "leave out `quotes`"),
        ({"quote": ","}, "as the quote and as the delimiter"),
        ({"quote": "\\"}, "a sign of ASCII other than a backslash"),
        ({"quote": "a"}, "a sign of ASCII"),
        ({"columns": ["a", " "]}, "a name for each column"),
        ({"columns": ["a", "b", "a "]}, "'a' twice"),
    ],
)
def test_a_dialect_that_cannot_be_is_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        CsvSpec(**fields)


def test_a_recipe_without_columns_keeps_its_hashes() -> None:
    assert not {"columns", "quote"} & CsvSpec().model_dump().keys()
    csv = CsvSpec(delimiter=";")
    assert mapping_hash(ItemsSpec(csv=csv)) == mapping_hash(ItemsSpec(csv=csv.model_copy(update={"columns": ()})))
    assert mapping_hash(ItemsSpec(csv=csv)) == "4d644a17bf7d009c"
