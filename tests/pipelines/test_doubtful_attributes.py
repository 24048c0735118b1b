"""Columns of a catalogue that look like marks of deletion or row numbers, and become attributes, are told."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_rows import ingest_new

from pipelines.ingest.items.marks import doubtful_attributes
from pipelines.sources.source_spec import ItemsSpec
from storage.lake import Lake
from storage.releases.catalogue import catalogue


def told(folder: Path, data: str | pa.Table, name: str = "x.csv", spec: ItemsSpec | None = None) -> list[str]:
    """Ingest a catalogue; return the lines about its attributes."""
    if isinstance(data, str):
        (folder / name).write_text(data)
    else:
        pq.write_table(data, folder / name)
    return list(doubtful_attributes(ingest_new(Lake(str(folder / "lake")), str(folder / name), spec)))


@pytest.mark.parametrize(
    "column",
    ["is_deleted", "isDeleted", "Deleted", "deleted_flag", "DELETE_FLAG", "removed", "is_archived", "discontinued"],
)
def test_a_column_whose_yes_looks_like_deleted_is_told_with_the_setting_that_reads_it(
    tmp_path: Path, column: str
) -> None:
    (line,) = told(tmp_path, f"item_id,title,{column}\n1,mug,1\n2,cup,0\n")
    assert line.startswith(f"x.csv: {column!r} may mark deleted items, and deletes none")
    assert f'set items.deleted = "{column}"' in line
    lake = Lake(str(tmp_path / "lake"))
    assert ingest_new(lake, str(tmp_path / "x.csv"), ItemsSpec(deleted=column))[0].marks == ()
    assert catalogue(lake).filter("deleted")["item_id"].to_list() == ["1"]


@pytest.mark.parametrize(
    "column", ["is_active", "status", "deleted_at", "__op", "_change_type", "available", "enabled", "item_status"]
)
def test_a_column_that_says_it_by_no_a_word_or_a_time_is_told_to_need_another(tmp_path: Path, column: str) -> None:
    (line,) = told(tmp_path, f"item_id,title,{column}\n1,mug,x\n")
    assert f"x.csv: {column!r} may mark deleted items" in line
    assert "items.deleted names a column in which yes means deleted" in line


def test_flags_are_named_before_others_and_many_columns_are_one_line(tmp_path: Path) -> None:
    (line,) = told(tmp_path, "item_id,title,active,status,is_deleted\n1,mug,1,new,\n")
    assert line.startswith("x.csv: 'is_deleted', 'active', 'status' may mark deleted items")
    assert 'set items.deleted = "is_deleted"' in line


def test_a_mark_that_only_later_rows_have_is_told_also_where_such_a_row_is_refused(tmp_path: Path) -> None:
    rows = '{"item_id": 1, "title": "mug"}\n{"item_id": 3, "title": "mug"}\n' + '{"item_id": 2, "is_deleted": true}\n'
    (line,) = told(tmp_path, rows, "x.jsonl")
    assert "'is_deleted' may mark deleted items" in line


def test_a_mark_in_parquet_is_told(tmp_path: Path) -> None:
    table = pa.table({"item_id": [1, 2], "title": ["mug", "cup"], "is_deleted": [True, False]})
    (line,) = told(tmp_path, table, "x.parquet")
    assert 'set items.deleted = "is_deleted"' in line


@pytest.mark.parametrize(
    ("columns", "spec"),
    [
        ("deleted,status", ItemsSpec()),
        ("gone,is_deleted", ItemsSpec(deleted="gone")),
        ("is_deleted", ItemsSpec(deleted="")),
        ("is_deleted", ItemsSpec(deleted=None)),
        ("is_deleted", ItemsSpec(leave_out=["is_deleted"])),
        ("operator,validity,state,brand,published_in,deleted_scenes,price", ItemsSpec()),
    ],
)
def test_nothing_is_told_where_the_recipe_has_said_what_a_column_is_or_its_name_says_nothing(
    tmp_path: Path, columns: str, spec: ItemsSpec
) -> None:
    cells = ",".join("0" for _ in columns.split(","))
    assert told(tmp_path, f"item_id,title,{columns}\n1,mug,{cells}\n", spec=spec) == []


@pytest.mark.parametrize("column", ["", "Unnamed: 0", "__index_level_0__"])
def test_row_numbers_that_pandas_wrote_are_told_with_the_setting_that_leaves_them_out(
    tmp_path: Path, column: str
) -> None:
    (line,) = told(tmp_path, f"{column},item_id,title\n0,1,mug\n1,2,cup\n")
    assert f"x.csv: {column!r} has row numbers" in line
    assert f'items.leave_out = ["{column}"]' in line
    (tmp_path / "without").mkdir()
    spec = ItemsSpec(leave_out=[column])
    assert told(tmp_path / "without", f"{column},item_id,title\n0,1,mug\n", spec=spec) == []


def test_a_mark_in_the_names_of_folders_is_told(tmp_path: Path) -> None:
    for name in ("true", "false"):
        (tmp_path / "in" / f"is_deleted={name}").mkdir(parents=True)
        (tmp_path / "in" / f"is_deleted={name}" / "x.csv").write_text(f"item_id,title\n{name},mug\n")
    lake = Lake(str(tmp_path / "lake"))
    (line,) = doubtful_attributes(ingest_new(lake, str(tmp_path / "in")))
    assert 'set items.deleted = "is_deleted"' in line
    done = ingest_new(lake, str(tmp_path / "in"), ItemsSpec(deleted="is_deleted"))
    assert list(doubtful_attributes(done)) == []
    assert catalogue(lake).filter("deleted")["item_id"].to_list() == ["true"]


def test_a_delimiter_at_the_end_of_each_line_makes_no_row_numbers(tmp_path: Path) -> None:
    assert told(tmp_path, "item_id,title,\n1,mug,\n2,cup,\n") == []


def test_words_in_a_column_without_a_name_are_no_row_numbers(tmp_path: Path) -> None:
    assert told(tmp_path, '{"item_id": 1, "title": "mug", "": "blue"}\n', "x.jsonl") == []
