"""A Delta table as a source: after each reading the catalogue is what the table holds, deleted rows among it."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from deletion_vectors import mark_deleted
from deltalake import DeltaTable, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st
from source_rows import NOW, WHO
from source_rows import ingest_new as read

from pipelines.ingest.accounting import records
from pipelines.ingest.items.ingest import ingest_items
from pipelines.registry import source_kind_of
from pipelines.sources.protocol import Part, Source, Spec
from pipelines.sources.row import SourceError
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec
from storage.lake import Lake
from storage.releases.catalogue import catalogue


def rows(**titles: str) -> pa.Table:
    return pa.table({"item_id": list(titles), "title": list(titles.values())})


def living(lake: Lake) -> dict[str, str]:
    return dict(catalogue(lake).filter(~pl.col("deleted")).select("item_id", "title").iter_rows())


CHANGES = st.one_of(
    st.tuples(st.just("append"), st.sampled_from("abcdef"), st.sampled_from(["mug", "bowl"])),
    st.tuples(st.just("update"), st.sampled_from("abcdef"), st.sampled_from(["jug", "pot"])),
    st.tuples(st.sampled_from(["delete", "mark"]), st.sampled_from("abcdef"), st.just("")),
    st.tuples(st.just("compact"), st.just(""), st.just("")),
    st.tuples(st.just("read"), st.just(""), st.just("")),
)


@given(st.lists(CHANGES, max_size=12))
@settings(max_examples=15, deadline=timedelta(seconds=60))
def test_the_catalogue_is_the_table_after_any_changes(changes: list[tuple[str, str, str]]) -> None:
    """Rows may be marked in deletion vectors instead of being left out of new files."""
    with TemporaryDirectory() as folder:
        path, lake = f"{folder}/table", Lake(f"{folder}/lake")
        write_deltalake(path, rows(a="cup", b="tray"))
        held = {"a": "cup", "b": "tray"}
        for change, item, title in [*changes, ("read", "", "")]:
            table = DeltaTable(path)
            if change == "append" and item not in held:
                write_deltalake(path, rows(**{item: title}), mode="append")
                held[item] = title
            elif change == "update" and item in held:
                table.update(updates={"title": f"'{title}'"}, predicate=f"item_id = '{item}'")
                held[item] = title
            elif change == "delete" and item in held and len(held) > 1:
                table.delete(f"item_id = '{item}'")
                del held[item]
            elif change == "mark" and item in held and len(held) > 1:
                mark_deleted(path, "item_id", item)
                del held[item]
            elif change == "compact":
                table.optimize.compact()
            elif change == "read":
                for done in read(lake, path):
                    assert done.stages[0].quarantined == 0
                assert living(lake) == held


def test_a_version_that_was_read_is_not_read_again_and_of_a_later_one_only_what_came(tmp_path: Path) -> None:
    path, lake = str(tmp_path / "table"), Lake(str(tmp_path / "lake"))
    write_deltalake(path, rows(a="mug", b="bowl"))
    write_deltalake(path, rows(c="jug"), mode="append")
    assert [each.stages[0].rows_in for each in read(lake, f"{path}@v0")] == [2]
    assert read(lake, f"{path}@v0") == []
    assert [each.stages[0].rows_in for each in read(lake, path)] == [1]
    assert read(lake, path) == []
    assert [each.stages[0].unchanged for each in read(lake, f"{path}+all")] == [3]
    titled = ItemsSpec(title="title", max_text_chars=40)
    assert [each.stages[0].rows_in for each in read(lake, path, titled)] == [3]


def test_rows_that_a_vector_marks_are_gone_and_the_rest_of_their_file_is_read_in_each_partition(tmp_path: Path) -> None:
    path, lake = str(tmp_path / "table"), Lake(str(tmp_path / "lake"))
    shops = pa.table({"item_id": list("abcd"), "title": ["mug"] * 4, "shop": ["a b", "a b", "c/d", None]})
    write_deltalake(path, shops, partition_by=["shop"])
    mark_deleted(path, "item_id", "b")
    first = read(lake, path)[0]
    assert (first.stages[0].rows_in, sorted(living(lake))) == (3, ["a", "c", "d"])
    attributes = {row["item_id"]: json.loads(row["attributes"]) for row in catalogue(lake).to_dicts()}
    assert attributes == {"a": {"shop": "a b"}, "c": {"shop": "c/d"}, "d": {}}
    mark_deleted(path, "item_id", "c")
    assert [each.stages[0].out for each in read(lake, path)] == [1]
    assert sorted(living(lake)) == ["a", "d"]


def test_a_deletion_is_seen_also_where_the_recipe_reads_the_table_anew(tmp_path: Path) -> None:
    path, lake = str(tmp_path / "table"), Lake(str(tmp_path / "lake"))
    write_deltalake(path, rows(a="mug", b="bowl"))
    read(lake, path)
    DeltaTable(path).delete("item_id = 'a'")
    read(lake, path, ItemsSpec(max_text_chars=40))
    assert living(lake) == {"b": "bowl"}


def test_a_table_that_went_back_or_was_made_anew_is_refused(tmp_path: Path) -> None:
    path, lake = str(tmp_path / "table"), Lake(str(tmp_path / "lake"))
    write_deltalake(path, rows(a="mug"))
    write_deltalake(path, rows(b="bowl"), mode="append")
    read(lake, path)
    with pytest.raises(SourceError, match="older than version 1, which was read before"):
        read(lake, f"{path}@v0")
    DeltaTable(path).restore(0)
    read(lake, path)
    assert living(lake) == {"a": "mug"}
    (tmp_path / "table").rename(tmp_path / "old")
    write_deltalake(path, rows(a="mug"))
    with pytest.raises(SourceError, match="made anew"):
        read(lake, path)


@pytest.mark.parametrize("undo", ["restore", "delete"])
def test_an_item_whose_newest_row_goes_has_again_what_the_table_says(tmp_path: Path, undo: str) -> None:
    path, lake = str(tmp_path / "table"), Lake(str(tmp_path / "lake"))
    write_deltalake(path, rows(a="mug", b="bowl"))
    read(lake, path)
    write_deltalake(path, rows(a="wrong", c="wrong"), mode="append")
    read(lake, path)
    assert living(lake) == {"a": "wrong", "b": "bowl", "c": "wrong"}
    if undo == "restore":
        DeltaTable(path).restore(0)
    else:
        DeltaTable(path).delete("title = 'wrong'")
    read(lake, path)
    assert living(lake) == {"a": "mug", "b": "bowl"}


def test_a_vacuum_below_the_reader_is_one_message_with_the_way_out(tmp_path: Path) -> None:
    path, lake = str(tmp_path / "table"), Lake(str(tmp_path / "lake"))
    write_deltalake(path, rows(a="mug", b="bowl"))
    read(lake, path)
    table = DeltaTable(path)
    table.delete("item_id = 'a'")
    table.vacuum(0, dry_run=False, enforce_retention_duration=False)
    with pytest.raises(SourceError, match=r"a vacuum of the table removed it.*\+all") as told:
        read(lake, path)
    assert "alone" not in str(told.value), "that was read"
    read(lake, f"{path}+all")
    assert set(living(lake)) == {"a", "b"}


class VacuumedBetweenParts:
    """A source whose table is vacuumed behind the first part of its rows."""

    def __init__(self, source: Source, table: DeltaTable) -> None:
        self._source, self._table = source, table

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def parts(self, spec: Spec, rows: int) -> Iterator[Part]:
        """Yield the first part, take the files away, and go on."""
        parts = self._source.parts(spec, 2)
        yield next(parts)
        self._table.vacuum(0, dry_run=False, enforce_retention_duration=False)
        yield from parts


def test_a_vacuum_in_the_middle_of_a_reading_is_one_message_and_the_next_reading_is_complete(tmp_path: Path) -> None:
    path, lake, spec = str(tmp_path / "table"), Lake(str(tmp_path / "lake")), ItemsSpec()
    for first in "acegi":
        write_deltalake(path, rows(**{first: "mug", chr(ord(first) + 1): "bowl"}), mode="append")
    (source,) = source_kind_of(path).find(path, spec, []).sources
    source.check(spec)
    table = DeltaTable(path)
    table.optimize.compact()
    table.update(updates={"title": "'jug'"}, predicate="item_id = 'a'")
    with pytest.raises(SourceError, match=r"^table@v4: part-\S+ is gone, a vacuum of the table removed it\. "):
        ingest_items(lake, VacuumedBetweenParts(source, DeltaTable(path)), spec, NOW, WHO)
    assert records(lake, "items", spec) == []
    assert [each.stages[0].quarantined for each in read(lake, path)] == [0]
    assert living(lake) == {**{each: "mug" if each in "cegi" else "bowl" for each in "bcdefghij"}, "a": "jug"}
    assert read(lake, path) == []


def test_ids_that_got_another_type_are_told_by_column_with_a_remedy_that_works(tmp_path: Path) -> None:
    path, lake = str(tmp_path / "table"), Lake(str(tmp_path / "lake"))
    write_deltalake(path, rows(a="mug", b="bowl"))
    read(lake, path)
    numbers = pa.table({"item_id": [1, 2], "title": ["mug", "bowl"]})
    write_deltalake(path, numbers, mode="overwrite", schema_mode="overwrite")
    told = r"table@v1: the rows of \S+ cannot .*: 'item_id' is int64 there and string here .*table@v1\+all: "
    with pytest.raises(SourceError, match=told):
        read(lake, path)
    read(lake, f"{path}@v1+all")
    assert set(living(lake)) == {"a", "b", "1", "2"}
    assert [each.stages[0].rows_in for each in read(lake, path)] == [0]


def test_items_that_went_need_a_column_to_say_so(tmp_path: Path) -> None:
    path, lake = str(tmp_path / "table"), Lake(str(tmp_path / "lake"))
    write_deltalake(path, rows(a="mug", b="bowl"))
    spec = ItemsSpec(deleted="")
    read(lake, path, spec)
    DeltaTable(path).delete("item_id = 'a'")
    with pytest.raises(SourceError, match=r"set items\.deleted"):
        read(lake, path, spec)


def test_a_log_takes_new_events_by_version_and_keeps_those_that_the_table_deletes(tmp_path: Path) -> None:
    path, lake = str(tmp_path / "log"), Lake(str(tmp_path / "lake"))
    catalog = str(tmp_path / "items")
    write_deltalake(catalog, rows(a="mug"))
    read(lake, catalog)
    log = {"user_id": ["u", "v"], "item_id": ["a", "a"], "event_time": [datetime(2026, 1, 1), datetime(2026, 1, 2)]}
    write_deltalake(path, pa.table(log), partition_by=["user_id"])
    spec = InteractionsSpec()
    assert [each.stages[0].out for each in read(lake, path, spec)] == [2]
    DeltaTable(path).delete("user_id = 'u'")
    write_deltalake(path, pa.table({name: values[:1] for name, values in log.items()}), mode="append")
    assert [each.stages[0].unchanged for each in read(lake, path, spec)] == [1]
    assert lake.rows("interactions") == 2


def test_a_table_with_half_a_log_entry_is_refused_in_one_line(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path / "table"), rows(a="cup"))
    entry = tmp_path / "table" / "_delta_log" / f"{0:020d}.json"
    entry.write_text(entry.read_text()[:40])
    with pytest.raises(SourceError, match=r"table cannot be read: .*name an older version of it") as refused:
        read(Lake(str(tmp_path / "lake")), str(tmp_path / "table"))
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("feature", ["v2Checkpoint", "columnMapping"])
def test_a_table_with_a_feature_that_is_not_read_is_not_called_damaged(tmp_path: Path, feature: str) -> None:
    path = tmp_path / "table"
    write_deltalake(str(path), rows(a="mug"))
    log = path / "_delta_log" / "00000000000000000000.json"
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    for entry in entries:
        if "protocol" in entry:
            entry["protocol"] = {"minReaderVersion": 3, "minWriterVersion": 7}
            entry["protocol"] |= {"readerFeatures": [feature], "writerFeatures": [feature]}
        elif "metaData" in entry and feature == "columnMapping":
            entry["metaData"]["configuration"] = {"delta.columnMapping.mode": "name"}
    log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    with pytest.raises(SourceError, match=r"cannot be read.*Take that feature off the table, or write its"):
        read(Lake(str(tmp_path / "lake")), str(path))
