"""Small files of data tables are joined: their rows stay as they were, and are not taken for new."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import log_rows
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_releases import WHO, candidate, publish

from storage import commit
from storage.commit import Provenance, append
from storage.files.data_files import DataFile
from storage.files.table_log import joined_files
from storage.lake import Lake
from storage.releases.pointers import move_pointer, pointer_history, read_pointer
from storage.retention import small_files
from storage.retention.collect import collect
from storage.retention.policy import Policy
from storage.retention.small_files import join_small
from storage.schemas import ITEMS, VECTORS

LOG = "interactions"
TIME = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than four small files are many."""
    monkeypatch.setattr(commit, "MAX_FILES", 4)
    monkeypatch.setattr(small_files, "MAX_SMALL_FILES", 4)


def item(number: int) -> pa.Table:
    row = {"item_id": f"i{number:02d}", "revision": 0, "title": None, "attributes": "{}", "text_hash": "h",
           "images": [], "deleted": False, "arrived_at": TIME, "source": "s", "source_row": number}  # fmt: skip
    return pa.Table.from_pylist([row], schema=ITEMS.schema)


def deliver(lake: Lake, *numbers: int) -> int:
    for number in numbers:
        append(lake, "items", item(number), f"item-{number}", WHO)
    return lake.version("items")


def ids(rows: pa.Table) -> list[str]:
    return sorted(rows["item_id"].to_pylist())


def test_joined_rows_are_the_same_in_order_of_items_and_former_versions_keep_their_files(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    version = deliver(lake, 5, 3, 1, 4, 2)
    before = lake.read("items")
    assert join_small(lake, "items", WHO) == 5
    assert len(lake.data_files("items")) == 1
    assert lake.read("items").equals(before.sort_by("item_id"))
    assert lake.read("items", version).equals(before)
    assert join_small(lake, "items", WHO) == 0


def test_what_a_version_lacks_is_what_arrived_since_however_often_files_were_joined(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    one = deliver(lake, *range(5))
    join_small(lake, "items", WHO)
    two = deliver(lake, *range(5, 10))
    join_small(lake, "items", WHO)
    three = deliver(lake, 10)
    columns = ["item_id"]
    assert ids(lake.read_added("items", two, three, columns)) == ["i10"]
    assert ids(lake.read_added("items", one, one + 1, columns)) == []
    assert ids(lake.read_added("items", one + 1, two, columns)) == [f"i{number:02d}" for number in range(5, 10)]
    over_both = ids(lake.read_added("items", one, three, columns))
    assert {"i05", "i10"} <= set(over_both), "old and new rows were joined: all of them are read, none is lost"
    added = lake.added_files("items", two, lake.version("items"))
    since = lake.file_batches("items", added, columns, ~ds.field("deleted"), 100)
    assert [row for batch in since for row in batch.column(0).to_pylist()] == ["i10"]
    assert [lake.version_of_rows("items", each) for each in (one, one + 1, two, two + 1, three, -1)] == [
        *(one, one, two, two, three, -1)
    ]


def test_of_no_files_the_same_columns_are_read(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    deliver(lake, 1)
    columns = ["item_id", "__filename"]
    whole = lake.read_files("items", lake.data_files("items"), columns)
    assert lake.read_files("items", [], columns).equals(whole.slice(0, 0))
    assert lake.read("items", columns=columns, where=ds.field("item_id") == "none").schema == whole.schema


def test_a_join_whose_entry_was_cut_from_the_log_counts_for_new(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    one = deliver(lake, *range(5))
    join_small(lake, "items", WHO)
    two = deliver(lake, 5)
    before = {each.path for each in lake.data_files("items", one)}
    found = joined_files(lake.table_files("items"), before, one, two)
    assert len(found & {each.path for each in lake.data_files("items")}) == 1
    (tmp_path / "items" / "_delta_log" / f"{one + 1:020d}.json").unlink()
    assert joined_files(lake.table_files("items"), before, one, two) == set()


def test_files_of_other_partitions_and_large_ones_are_left_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(str(tmp_path))
    for number in range(8):
        modality = "many" if number < 5 else "few"
        rows = [{"item_id": f"i{number}", "modality": modality, "content_hash": "h", "fingerprint": "f", "vector": [1]}]
        append(lake, "vectors", pa.Table.from_pylist(rows, schema=VECTORS.schema), f"k{number}", WHO)
    assert join_small(lake, "vectors", WHO) == 5
    assert sorted(each.partition["modality"] for each in lake.data_files("vectors")) == ["few", "few", "few", "many"]
    monkeypatch.setattr(small_files, "SMALL_FILE", 1)
    deliver(lake, *range(6))
    assert join_small(lake, "items", WHO) == 0
    assert len(lake.data_files("items")) == 6


def test_commands_by_hand_join_no_files_as_an_erasure_does_not_wait_for_them_but_runs_and_gc_do(tmp_path: Path) -> None:
    lake, by_hand = Lake(str(tmp_path)), replace(WHO, by_hand=True)
    publish(lake, candidate(lake, "first", ["a"]).id, by_hand)

    def moved(who: Provenance, times: int) -> int:
        for number in range(times):
            move_pointer(lake, read_pointer(lake, "moved"), number, "", who)
        return len(lake.data_files("pointers"))

    assert moved(by_hand, 9) == 10
    collect(lake, Policy(), by_hand, remove=True)
    assert len(lake.data_files("pointers")) < 4, "`lake gc` joins what commands by hand left"
    assert len(pointer_history(lake, "moved")) == 10
    moved(by_hand, 9)
    assert moved(WHO, 1) == 1, "so does the next run"
    assert len(pointer_history(lake, "moved")) == 20


def test_files_of_a_day_that_is_over_are_joined_however_few_and_those_of_the_newest_day_if_they_are_many(
    tmp_path: Path,
) -> None:
    """Else each day of a year would keep as many as do not count as many."""
    lake = Lake(str(tmp_path))

    def days() -> dict[str, int]:
        return dict(sorted(Counter(str(each.partition["arrival_date"]) for each in lake.data_files(LOG)).items()))

    for day, count in enumerate((2, 1, 4, 3)):
        for number in range(count):
            log_rows.deliver(lake, [log_rows.event(0, 0, 0, day, 10 * day + number)], f"{day}-{number}")
    before = lake.read(LOG).sort_by("event_id")
    assert join_small(lake, LOG, WHO) == 6
    assert days() == {"2026-01-01": 1, "2026-01-02": 1, "2026-01-03": 1, "2026-01-04": 3}
    assert join_small(lake, LOG, WHO) == 0
    for number in (8, 9):
        log_rows.deliver(lake, [log_rows.event(0, 0, 0, 3, 30 + number)], f"3-{number}")
    assert join_small(lake, LOG, WHO) == 5
    log_rows.deliver(lake, [log_rows.event(0, 0, 0, 1, 19)], "late")
    assert join_small(lake, LOG, WHO) == 2, "a writer whose clock is behind adds to a day that is over"
    assert set(days().values()) == {1}
    assert lake.read(LOG, where=ds.field("event_id").isin(before["event_id"])).sort_by("event_id").equals(before)


@given(st.lists(st.integers(1, 9), min_size=33, max_size=60), st.integers(9, 99))
def test_no_more_bytes_are_joined_at_once_than_memory_is_meant_to_hold(sizes: list[int], most: int) -> None:
    files = [DataFile(f"{place}", size, 0, 1, {}, {}) for place, size in enumerate(sizes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_files, "JOINED_BYTES", most)
        groups = small_files.small_files(files)
    together = [file for group in groups for file in group]
    assert all(len(group) > 1 and sum(file.size for file in group) <= most for group in groups)
    assert [file for file in files if file in together] == together, "each once, in their order"
    left = len(files) - len(together) + len(groups)
    assert left <= 2 * sum(sizes) / most + 1, "two files that follow each other are more than may be joined"
