"""Columns that a recipe names and no file of a run has are told, and so are pictures that items lose."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_rows import ingest_new

from pipelines.ingest.absent import absent_columns
from pipelines.sources.files import find_sources
from pipelines.sources.protocol import check_sources
from pipelines.sources.row import SourceError
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec, ItemsWithoutImages
from storage.lake import Lake

EVENT = {"user_id": "u", "item_id": "1", "event_time": "2026-08-01"}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV, JSON lines or Parquet."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(",".join(map(str, row)) + "\n" for row in [rows[0], *(row.values() for row in rows)]))


def told(folder: Path, name: str, rows: list[dict[str, Any]], spec: ItemsSpec | InteractionsSpec) -> list[str]:
    (folder / "c.jsonl").write_text('{"item_id": 1, "title": "mug"}\n')
    lake = Lake(str(folder / "lake"))
    ingest_new(lake, str(folder / "c.jsonl"))
    write(folder / name, rows)
    return list(absent_columns(ingest_new(lake, str(folder / name), spec), spec))


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
def test_a_log_without_a_column_that_the_recipe_names_is_told(tmp_path: Path, name: str) -> None:
    spec = InteractionsSpec(event_type="action", value="stars")
    (line,) = told(tmp_path, name, [{**EVENT, "act": "buy", "stars": 3}], spec)
    assert line.startswith(f"{name}: no row has 'action' (interactions.event_type), which the recipe names: correct")


@pytest.mark.parametrize("rows", [1, 9000])
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
def test_a_log_with_all_columns_that_the_recipe_names_is_not_told_of(tmp_path: Path, name: str, rows: int) -> None:
    spec = InteractionsSpec(event_type="action")
    events = [{**EVENT, "user_id": f"u{row}", "action": "buy"} for row in range(rows)]
    assert told(tmp_path, name, events, spec) == []
    (tmp_path / "other").mkdir()
    assert told(tmp_path / "other", name, [EVENT], InteractionsSpec()) == []


@pytest.mark.parametrize(
    ("name", "spec", "absent"),
    [
        ("x.csv", ItemsSpec(image="photo"), "'photo' (items.image)"),
        ("x.csv", ItemsWithoutImages(image="photo", pictures=False), ""),
        ("x.csv", ItemsSpec(deleted="gone"), "'gone' (items.deleted)"),
        ("x.parquet", ItemsSpec(deleted="gone"), "'gone' (items.deleted)"),
        ("x.jsonl", ItemsSpec(deleted="gone"), ""),
        ("x.jsonl", ItemsSpec(title="name", require_title=False), "'name' (items.title)"),
        ("x.csv", ItemsSpec(leave_out=["vek", "price"]), "'vek' (items.leave_out)"),
        ("x.parquet", ItemsSpec(leave_out=["vek", "price"]), "'vek' (items.leave_out)"),
    ],
)
def test_a_catalogue_without_a_column_that_the_recipe_names_is_told(
    tmp_path: Path, name: str, spec: ItemsSpec, absent: str
) -> None:
    lines = told(tmp_path, name, [{"item_id": 2, "title": "cup", "price": 3}], spec)
    assert [line.partition(": no row has ")[2].partition(", which")[0] for line in lines] == (
        [absent] if absent else []
    )


def test_a_column_that_folders_or_one_of_several_files_have_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "action=buy"
    folder.mkdir(parents=True)
    assert told(folder, "x.csv", [EVENT], InteractionsSpec(event_type="action")) == []
    write(tmp_path / "in" / "y.csv", [{**EVENT, "user_id": "v"}])
    spec = InteractionsSpec(event_type="action")
    (folder / "c.jsonl").unlink()
    lake = Lake(str(folder / "lake"))
    both = ingest_new(lake, str(tmp_path / "in" / "y.csv"), spec)
    assert len(list(absent_columns(both, spec))) == 1


def test_pictures_that_changed_items_lose_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"picture")
    lake = Lake(str(tmp_path / "lake"))
    write(tmp_path / "a.csv", [{"item_id": 1, "title": "mug", "image": "a.png"}])
    write(tmp_path / "b.csv", [{"item_id": 1, "title": "blue mug"}])
    ingest_new(lake, str(tmp_path / "a.csv"))
    (done,) = ingest_new(lake, str(tmp_path / "b.csv"))
    assert done.lost == ("image",)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"ARROW1\0\0", "Arrow IPC"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"%PDF-1.7\n", "PDF"),
        (rb"{\rtf1\ansi a,b}", "RTF"),
        (b"\r\n  <TABLE><tr>", "a table of a web page"),
        (b"<Error><Code>AccessDenied</Code></Error>\n", "an error message in XML"),
        (b"\x89PNG\r\n\x1a\n", "a picture"),
        (b"x" * 257 + b"ustar", "a tar archive"),
        (b"\x80\x04\x95abc", "a pickle of Python"),
    ],
)
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_a_file_of_another_kind_is_refused_by_what_it_is(tmp_path: Path, name: str, data: bytes, kind: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=f"{name} is {kind}"):
        check_sources(find_sources(str(tmp_path / name)), ItemsSpec())


def test_a_header_in_angle_brackets_is_one(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("<DATE>,<TIME>\n1,2\n")
    check_sources(find_sources(str(tmp_path / "x.csv")), ItemsSpec())
