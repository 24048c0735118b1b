"""A first line that is a row, and lines that a missing header makes unreadable, are told."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_rows import ingest_new

from flows.draft.draft import draft_recipe
from pipelines.sources.column_names import header_of, lacking_headers, near_columns
from pipelines.sources.files import find_sources
from pipelines.sources.source_spec import CsvSpec, InteractionsSpec, ItemsSpec
from storage.lake import Lake


def lines(path: Path, spec: ItemsSpec | InteractionsSpec) -> list[str]:
    (source,) = find_sources(str(path))
    header = header_of(source, spec)
    return list(lacking_headers([header] if header else [], spec))


@pytest.mark.parametrize(
    ("first", "spec"),
    [
        ("1,mug", ItemsSpec()),
        ("00012,mug", ItemsSpec(item_id="00012", title="mug")),
        ("3.5,mug", ItemsSpec()),
        ("u1,7,2026-08-01 08:00:00", InteractionsSpec()),
        ("u1,i7,2026-08-01", InteractionsSpec(user_id="u1", item_id="i7", event_time="2026-08-01")),
    ],
)
def test_a_first_line_that_reads_as_a_row_is_told(
    tmp_path: Path, first: str, spec: ItemsSpec | InteractionsSpec
) -> None:
    (tmp_path / "x.csv").write_text(f"{first}\n{first}\n")
    (line,) = lines(tmp_path / "x.csv", spec)
    assert line.startswith("x.csv seems to have no header: its first line, with ")


@pytest.mark.parametrize("first", ["item_id,title,2023,2024", "item_id,title,2026-08-01", "sku,name", "item_id"])
def test_a_header_is_a_header_whatever_further_columns_are_called(tmp_path: Path, first: str) -> None:
    (tmp_path / "x.csv").write_text(f"{first}\n{first.replace('e', 'x')}\n")
    assert lines(tmp_path / "x.csv", ItemsSpec()) == []


def test_only_texts_of_cells_have_a_first_line_that_names_columns(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"1": "a", "2": "b"}\n')
    pq.write_table(pa.table({"1": ["a"], "2": ["b"]}), tmp_path / "x.parquet")
    assert lines(tmp_path / "x.jsonl", ItemsSpec()) == lines(tmp_path / "x.parquet", ItemsSpec()) == []


def test_a_draft_from_a_text_without_a_header_says_so(tmp_path: Path) -> None:
    rows = "".join(f"{row:05d},{word} lamp\n" for row, word in enumerate(["oak", "steel", "paper", "wool"] * 6))
    (tmp_path / "x.csv").write_text(rows)
    assert any("seems to have no header" in note for note in draft_recipe([str(tmp_path / "x.csv")], []).notes)
    (tmp_path / "y.csv").write_text(f"sku,name\n{rows}")
    assert not any("header" in note for note in draft_recipe([str(tmp_path / "y.csv")], []).notes)


def test_columns_that_nearly_fit_are_told_where_the_first_row_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("'item_id',Title\n'1','a, b'\n")
    (source,) = find_sources(str(tmp_path / "x.csv"))
    header = header_of(source, ItemsSpec())
    assert header is not None
    assert near_columns(header, ItemsSpec()) == {"item_id": "'item_id'", "title": "Title"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "Products,,\nitem_id,title,price\n1,mug,3\n",
            "the first line has to be the header, with a name for each column",
        ),
        ('item_id,title,price\n1, "mug, blue",3\n', "a blank stands before a quote, which then opens no cell"),
    ],
)
def test_a_row_that_cannot_be_cut_into_cells_says_what_is_likely(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    (done,) = ingest_new(Lake(str(tmp_path / "lake")), str(tmp_path / "x.csv"))
    assert why in done.stages[0].why()


def test_an_object_without_fields_is_told_to_have_none(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("{}\n")
    (done,) = ingest_new(Lake(str(tmp_path / "lake")), str(tmp_path / "x.jsonl"))
    assert "the row has no 'item_id', and no other column" in done.stages[0].why()


@pytest.mark.parametrize(("text", "delimiter"), [("item_id,title\n1,mug\n", ";"), ("item_id  title\n1  mug\n", "")])
def test_a_header_in_one_cell_is_told_to_need_a_delimiter(tmp_path: Path, text: str, delimiter: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    spec = ItemsSpec(csv=CsvSpec(delimiter=delimiter))
    (done,) = ingest_new(Lake(str(tmp_path / "lake")), str(tmp_path / "x.csv"), spec)
    assert "the header is one cell, 'item_id" in done.stages[0].why()
    assert "set items.csv.delimiter to what separates them" in done.stages[0].why()
