"""An Iceberg table as a source: after each reading the catalogue is what the snapshot holds, deleted rows among it."""

import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import Table
from pyiceberg.typedef import Record
from source_rows import ingest_new as read

from pipelines.profile.sample import sample
from pipelines.registry import source_kind_of
from pipelines.sources.parquet_columns import Columns
from pipelines.sources.row import SourceError
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec
from storage.lake import Lake
from storage.releases.catalogue import catalogue

SCHEMA = pa.schema({"item_id": pa.string(), "title": pa.string()})


@pytest.fixture(autouse=True)
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch, tmp_path)


def declare(environment: pytest.MonkeyPatch, folder: Path) -> None:
    """Declare the catalog `shop` in the way of pyiceberg, whose configuration is read once a process."""
    known = {"type": "sql", "uri": f"sqlite:///{folder}/catalog.db", "warehouse": f"file://{folder}/warehouse"}
    environment.setattr("pyiceberg.catalog._ENV_CONFIG.config", {"catalog": {"shop": known}})


def made(folder: Path, rows: pa.Table, name: str = "shop.items") -> Table:
    catalog = SqlCatalog("shop", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}/warehouse")
    catalog.create_namespace_if_not_exists("shop")
    table = catalog.create_table(name, schema=rows.schema)
    if rows.num_rows:
        table.append(rows)
    return table


ADDRESS = "iceberg:shop.shop.items"


def rows(**titles: str) -> pa.Table:
    return pa.table({"item_id": list(titles), "title": list(titles.values())}, SCHEMA)


def living(lake: Lake) -> dict[str, str]:
    return dict(catalogue(lake).filter(~pl.col("deleted")).select("item_id", "title").iter_rows())


def newest(table: Table) -> int:
    snapshot = table.refresh().current_snapshot()
    assert snapshot is not None
    return snapshot.snapshot_id


CHANGES = st.one_of(
    st.tuples(st.just("append"), st.sampled_from("abcdef"), st.sampled_from(["mug", "bowl"])),
    st.tuples(st.just("update"), st.sampled_from("abcdef"), st.sampled_from(["jug", "pot"])),
    st.tuples(st.just("delete"), st.sampled_from("abcdef"), st.just("")),
    st.tuples(st.just("rewrite"), st.just(""), st.just("")),
    st.tuples(st.just("read"), st.sampled_from("012345"), st.just("")),
)


@given(st.lists(CHANGES, max_size=12))
@settings(max_examples=15, deadline=timedelta(seconds=60))
def test_the_catalogue_is_the_snapshot_after_any_changes_and_readings_in_any_order(
    changes: list[tuple[str, str, str]],
) -> None:
    with TemporaryDirectory() as place, pytest.MonkeyPatch.context() as environment:
        folder = Path(place)
        declare(environment, folder)
        lake, table = Lake(f"{folder}/lake"), made(folder, rows(a="cup", b="tray"))
        held = {"a": "cup", "b": "tray"}
        history, done = [(newest(table), dict(held))], -1
        for change, item, title in [*changes, ("read", "0", "")]:
            if change == "append" and item not in held:
                table.append(rows(**{item: title}))
                held[item] = title
            elif change == "update" and item in held:
                table.overwrite(rows(**{item: title}), overwrite_filter=f"item_id == '{item}'")
                held[item] = title
            elif change == "delete" and item in held and len(held) > 1:
                table.delete(f"item_id == '{item}'")
                del held[item]
            elif change == "rewrite":
                table.overwrite(rows(**held))
            elif change == "read":
                wanted = max(0, len(history) - 1 - int(item))
                uri = f"{ADDRESS}@{history[wanted][0]}"
                if wanted < done:
                    with pytest.raises(SourceError, match="older than snapshot"):
                        read(lake, uri)
                else:
                    assert all(each.stages[0].quarantined == 0 for each in read(lake, uri))
                    done = wanted
                assert living(lake) == history[done][1]
            if newest(table) != history[-1][0]:
                history.append((newest(table), dict(held)))


def test_a_snapshot_that_was_read_is_not_read_again_and_of_a_later_one_only_what_came(tmp_path: Path) -> None:
    lake, table = Lake(str(tmp_path / "lake")), made(tmp_path, rows(a="mug", b="bowl"))
    first = newest(table)
    table.append(rows(c="jug"))
    assert [each.stages[0].rows_in for each in read(lake, f"{ADDRESS}@{first}")] == [2]
    assert read(lake, f"{ADDRESS}@{first}") == []
    assert [each.stages[0].rows_in for each in read(lake, ADDRESS)] == [1]
    assert read(lake, ADDRESS) == []
    assert [each.stages[0].unchanged for each in read(lake, f"{ADDRESS}+all")] == [3]
    assert [each.stages[0].rows_in for each in read(lake, ADDRESS, ItemsSpec(max_text_chars=40))] == [3]


def test_a_table_is_the_same_by_its_catalog_and_by_its_metadata_file(tmp_path: Path) -> None:
    lake, table = Lake(str(tmp_path / "lake")), made(tmp_path, rows(a="mug"))
    read(lake, ADDRESS)
    assert read(lake, table.metadata_location.removeprefix("file://")) == []
    table.append(rows(b="bowl"))
    metadata = table.refresh().metadata_location.removeprefix("file://")
    done = read(lake, metadata)
    assert [each.stages[0].rows_in for each in done] == [1]
    assert done[0].source.file == f"items@{newest(table)}"
    hint = tmp_path / "warehouse" / "shop" / "items" / "metadata" / "version-hint.text"
    hint.write_text(Path(metadata).name)
    assert read(lake, str(hint.parent.parent)) == []


def test_a_branch_and_a_tag_name_their_snapshot(tmp_path: Path) -> None:
    lake, table = Lake(str(tmp_path / "lake")), made(tmp_path, rows(a="mug"))
    table.manage_snapshots().create_tag(newest(table), "monday").commit()
    table.append(rows(b="bowl"))
    read(lake, f"{ADDRESS}@monday")
    assert living(lake) == {"a": "mug"}
    read(lake, f"{ADDRESS}@main")
    assert living(lake) == {"a": "mug", "b": "bowl"}
    with pytest.raises(SourceError, match=r"no snapshot, branch or tag tuesday; it may have expired\."):
        read(lake, f"{ADDRESS}@tuesday")


def test_a_table_that_was_rolled_back_is_refused_until_all_of_it_is_asked_for(tmp_path: Path) -> None:
    lake, table = Lake(str(tmp_path / "lake")), made(tmp_path, rows(a="mug"))
    first = newest(table)
    table.append(rows(b="bowl"))
    read(lake, ADDRESS)
    table.manage_snapshots().rollback_to_snapshot(first).commit()
    for uri in (ADDRESS, f"{ADDRESS}+all"):
        with pytest.raises(SourceError, match="is older than snapshot"):
            read(lake, uri)
    table.append(rows(c="jug"))
    with pytest.raises(SourceError, match=r"the table was rolled back, or these are two branches\. Read .*\+all"):
        read(lake, ADDRESS)
    read(lake, f"{ADDRESS}+all")
    table.delete("item_id == 'a'")
    read(lake, ADDRESS)
    assert living(lake) == {"b": "bowl", "c": "jug"}


def test_an_expired_snapshot_is_one_line_with_the_way_out(tmp_path: Path) -> None:
    lake, table = Lake(str(tmp_path / "lake")), made(tmp_path, rows(a="mug"))
    first = newest(table)
    read(lake, ADDRESS)
    table.append(rows(b="bowl"))
    table.maintenance.expire_snapshots().by_ids([first]).commit()
    with pytest.raises(SourceError, match=rf"snapshot {first}, which was read last and has expired\. Read .*\+all"):
        read(lake, ADDRESS)
    read(lake, f"{ADDRESS}+all")
    table.append(rows(c="jug"))
    assert [each.stages[0].rows_in for each in read(lake, ADDRESS)] == [1]
    assert set(living(lake)) == {"a", "b", "c"}


def test_a_data_file_that_was_removed_is_one_message_with_the_way_out(tmp_path: Path) -> None:
    lake, table = Lake(str(tmp_path / "lake")), made(tmp_path, rows(a="mug", b="bowl"))
    (file,) = (task.file.file_path for task in table.scan().plan_files())
    read(lake, ADDRESS)
    table.delete("item_id == 'a'")
    Path(file.removeprefix("file://")).unlink()
    with pytest.raises(SourceError, match=r"is gone, an expiry of snapshots removed it.*\+all"):
        read(lake, ADDRESS)


def delete_on_read(table: Table, folder: Path, place: int) -> None:
    """Delete a row of the only data file by a file of positions, as engines other than pyiceberg do."""
    (task,) = table.scan().plan_files()
    path = str(folder / f"deletes-{place}.parquet")
    positions = {"file_path": [task.file.file_path], "pos": [place]}
    ids = [pa.field("file_path", pa.string(), False, {"PARQUET:field_id": "2147483546"})]
    ids.append(pa.field("pos", pa.int64(), False, {"PARQUET:field_id": "2147483545"}))
    pq.write_table(pa.table(positions, pa.schema(ids)), path)
    deletes = DataFile.from_args(
        content=DataFileContent.POSITION_DELETES,
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=1,
        file_size_in_bytes=Path(path).stat().st_size,
    )
    deletes.spec_id = 0
    with table.transaction() as transaction, transaction.update_snapshot().fast_append() as snapshot:
        snapshot.append_data_file(deletes)


def test_rows_that_a_delete_file_takes_from_a_data_file_are_deleted(tmp_path: Path) -> None:
    lake, table = Lake(str(tmp_path / "lake")), made(tmp_path, rows(a="mug", b="bowl", c="jug"))
    read(lake, ADDRESS)
    for place, left in ((1, {"a": "mug", "c": "jug"}), (0, {"c": "jug"})):
        delete_on_read(table, tmp_path, place)
        looked = sample([ADDRESS], "items")
        assert [each["item_id"] for each in looked.rows] == list(left)
        read(lake, ADDRESS)
        assert living(lake) == left


def test_a_table_that_was_made_anew_is_refused(tmp_path: Path) -> None:
    lake, table = Lake(str(tmp_path / "lake")), made(tmp_path, rows(a="mug"))
    read(lake, ADDRESS)
    table.catalog.drop_table("shop.items")
    made(tmp_path, rows(a="mug"))
    with pytest.raises(SourceError, match="made anew"):
        read(lake, ADDRESS)


def test_items_that_went_need_a_column_to_say_so(tmp_path: Path) -> None:
    lake, table = Lake(str(tmp_path / "lake")), made(tmp_path, rows(a="mug", b="bowl"))
    spec = ItemsSpec(deleted="")
    read(lake, ADDRESS, spec)
    table.delete("item_id == 'a'")
    with pytest.raises(SourceError, match=r"set items\.deleted"):
        read(lake, ADDRESS, spec)


def test_columns_that_were_renamed_or_came_later_are_read_as_the_snapshot_names_them(tmp_path: Path) -> None:
    lake, table = Lake(str(tmp_path / "lake")), made(tmp_path, rows(a="mug", b="bowl"))
    read(lake, ADDRESS)
    with table.update_schema() as schema:
        schema.rename_column("title", "label")
    table.append(pa.table({"item_id": ["c"], "label": ["jug"]}))
    table.delete("item_id == 'a'")
    read(lake, ADDRESS, ItemsSpec(title="label"))
    assert living(lake) == {"b": "bowl", "c": "jug"}


def test_cells_keep_their_types(tmp_path: Path) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
    cells = pa.table(
        {
            "item_id": ["a"],
            "price": pa.array([Decimal("1.50")], pa.decimal128(9, 2)),
            "at": pa.array([at]),
            "tags": [["red", "blue"]],
            "size": [{"cm": 4}],
        }
    )
    made(tmp_path, cells)
    looked = sample([ADDRESS], "items")
    assert looked.rows == [
        {"item_id": "a", "price": Decimal("1.50"), "at": at, "tags": ["red", "blue"], "size": {"cm": 4}}
    ]
    assert looked.whole
    assert str(looked.count) == "1"


def test_a_log_takes_new_events_by_snapshot_and_keeps_those_that_the_table_deletes(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    made(tmp_path, rows(a="mug"))
    read(lake, ADDRESS)
    times = [datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)]
    log = pa.table({"user_id": ["u", "v"], "item_id": ["a", "a"], "event_time": times, "note": ["", ""]})
    table = made(tmp_path, log, "shop.log")
    spec, address = InteractionsSpec(), "iceberg:shop.shop.log"
    assert [each.stages[0].out for each in read(lake, address, spec)] == [2]
    table.delete("user_id == 'u'")
    table.append(log.slice(0, 1))
    assert [each.stages[0].unchanged for each in read(lake, address, spec)] == [2]
    assert lake.rows("interactions") == 2


def test_an_empty_table_has_no_rows_and_says_so(tmp_path: Path) -> None:
    made(tmp_path, rows())
    found = source_kind_of(ADDRESS).find(ADDRESS, ItemsSpec(), [])
    assert found.sources == []
    assert found.warnings == [f"{ADDRESS} has no snapshot yet, so no rows"]


@pytest.mark.parametrize("uri", ["iceberg:nowhere.shop.items", "iceberg:shop.shop.nothing", "iceberg:shop"])
def test_a_table_that_is_not_there_is_told_with_the_place_of_its_catalog(uri: str) -> None:
    with pytest.raises(SourceError, match=r"cannot be read: .*PYICEBERG_CATALOG__NAME__URI"):
        source_kind_of(uri).check(uri)


@pytest.mark.parametrize("lacking", ["pyiceberg.catalog", "pyiceberg.table"])
def test_without_pyiceberg_the_extra_is_named(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, lacking, None)
    with pytest.raises(SourceError, match="Install sidmill with the extra `iceberg`"):
        source_kind_of(ADDRESS).check(ADDRESS)


def test_items_whose_id_column_is_gone_are_refused_and_none_is_deleted(tmp_path: Path) -> None:
    lake, table = Lake(str(tmp_path / "lake")), made(tmp_path, rows(a="mug", b="bowl"))
    read(lake, ADDRESS)
    table.delete("item_id == 'a'")
    with table.update_schema() as schema:
        schema.rename_column("item_id", "sku")
    table.append(pa.table({"sku": ["c"], "title": ["jug"]}))
    (done,) = read(lake, ADDRESS)
    assert (done.stages[0].rows_in, done.stages[0].quarantined) == (2, 2)
    assert living(lake) == {"a": "mug", "b": "bowl"}


def test_rows_come_in_order_at_most_as_many_at_once_as_asked_for(tmp_path: Path) -> None:
    made(tmp_path, rows(a="cup", b="mug", c="pot", d="jug", e="pan"))
    (source,) = source_kind_of(ADDRESS).find(ADDRESS, ItemsSpec(), []).sources
    parts = [part for part in source.parts(ItemsSpec(), 2) if isinstance(part, Columns)]
    found = [(part.first, *part.batch["item_id"].to_pylist()) for part in parts]
    assert found == [(0, "a", "b"), (2, "c", "d"), (4, "e")]


def test_an_address_at_an_announced_snapshot_has_its_id_and_still_means_all_rows_where_it_did(tmp_path: Path) -> None:
    table = made(tmp_path, rows(a="cup"))
    first = table.current_snapshot().snapshot_id  # type: ignore[union-attr]
    at = source_kind_of(ADDRESS).at_snapshot
    assert at is not None
    assert at(ADDRESS, f"{ADDRESS}@{first}") == f"{ADDRESS}@{first}"
    assert at(f"{ADDRESS}+all", f"{ADDRESS}@{first}") == f"{ADDRESS}@{first}+all"
    for watched, snapshot in ((ADDRESS, ADDRESS), (ADDRESS, f"{ADDRESS}2@{first}"), (f"{ADDRESS}@7", f"{ADDRESS}@8")):
        assert at(watched, snapshot) is None
    source_kind_of(ADDRESS).check(f"{ADDRESS}@{first}")
    with pytest.raises(SourceError, match="has no snapshot, branch or tag 12"):
        source_kind_of(ADDRESS).check(f"{ADDRESS}@12")
