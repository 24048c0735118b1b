"""Data files and what the log says of them: names, bounds, footers, times."""

import os
import re
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st
from log_rows import START
from made_releases import WHO

from storage.commit import append
from storage.errors import DataCorrupt, LakeNotFound
from storage.files import data_files, footers
from storage.files.data_files import DataFile, check_footers, check_whole, entry_hash
from storage.files.store import sha256
from storage.files.table_log import Log, require_whole, why_unreadable
from storage.lake import Lake
from storage.releases import integrity
from storage.schemas import INTERACTIONS, SIDS, VECTORS


def vectors(*items: str, modality: str = "text") -> pa.Table:
    rows = [
        {"item_id": item, "modality": modality, "content_hash": "h", "fingerprint": "f", "vector": [1.0, 2.0]}
        for item in items
    ]
    return pa.Table.from_pylist(rows, schema=VECTORS.schema)


def path_of(lake: Lake, file: DataFile, table: str = "vectors") -> Path:
    return Path(lake.path(table)) / file.path


def flip(path: Path, place: int) -> None:
    """One bit of a file is another; its times are as they were."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has read nothing yet."""
    monkeypatch.setattr(data_files, "_checked", set())


def test_the_same_rows_under_the_same_key_have_the_same_names_and_under_another_others(tmp_path: Path) -> None:
    names = []
    for folder, key in (("a", "key"), ("b", "key"), ("c", "other key")):
        lake = Lake(str(tmp_path / folder))
        append(lake, "vectors", pa.concat_tables([vectors("i"), vectors("i", modality="image")]), key, WHO)
        names.append({file.path for file in lake.data_files("vectors")})
    assert names[0] == names[1]
    assert len(names[0]) == 2, "two partitions of the same bytes are two files"
    assert not names[0] & names[2]


def test_the_log_tells_the_size_the_time_the_rows_and_the_partition_of_each_file(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    rows = pa.concat_tables([vectors("b", "a"), vectors("c", modality="image")])
    append(lake, "vectors", rows, "key", WHO)
    found = {file.partition["modality"]: file for file in lake.data_files("vectors")}
    assert {name: file.rows for name, file in found.items()} == {"text": 2, "image": 1}
    for file in found.values():
        there = path_of(lake, file)
        assert file.size == there.stat().st_size
        assert file.changed_ms == there.stat().st_mtime_ns // 1_000_000
        assert file.sha256 == sha256(there.read_bytes())
        assert file.name == there.name
    append(lake, "vectors", rows.slice(0, 0), "empty", WHO)
    assert len(lake.data_files("vectors")) == 2, "no rows need no file"


def sid(segment: str) -> pa.Table:
    row = {"assignment_id": segment, "codebook": "c", "item_id": "i", "codes": [1], "vector_hash": "h", "status": "s"}
    return pa.Table.from_pylist([row], schema=SIDS.schema)


@pytest.mark.parametrize("length", [29, 30, 31, 32, 33, 40])
@pytest.mark.parametrize("ours", [True, False])
def test_bounds_of_texts_pass_over_files_as_far_as_no_writer_cuts_them(tmp_path: Path, length: int, ours: bool) -> None:
    lake = Lake(str(tmp_path))
    append(lake, "sids", sid("b"), "first", WHO)
    if ours:
        append(lake, "sids", sid("x" * length), "key", WHO)
    else:
        write_deltalake(lake.path("sids"), sid("x" * length), mode="append")
    bounds = [file.bounds.get("assignment_id") for file in lake.data_files("sids")]
    assert sorted(each or ("", "") for each in bounds) == sorted(
        [("b", "b"), ("x" * length,) * 2 if length <= 30 else ("", "")]
    )
    for segment in ("b", "x" * length, "x" * (length - 1), "y"):
        there = segment in ("b", "x" * length)
        assert lake.count("sids", lake.version("sids"), ds.field("assignment_id") == segment) == there


def test_a_text_that_is_too_long_for_a_bound_leaves_the_bounds_of_other_columns_and_the_log_says_no_nulls(
    tmp_path: Path,
) -> None:
    lake = Lake(str(tmp_path))
    append(lake, "sids", sid("x" * 40), "key", WHO)
    (file,) = lake.data_files("sids")
    assert file.bounds == {"item_id": ("i", "i")}
    said = pa.table(lake.open("sids").get_add_actions(flatten=True))
    assert said["null_count.item_id"].to_pylist() == [0]


def test_a_file_is_named_by_the_last_part_of_its_path() -> None:
    assert DataFile("modality=text/part-1.parquet", 0, 0, None, {}, {}).name == "part-1.parquet"
    assert DataFile("part-1.parquet", 0, 0, None, {}, {}).name == "part-1.parquet"


def test_the_hash_that_a_commit_keeps_of_its_files_stays_what_it_is_in_lakes_and_knows_no_order() -> None:
    """Another one for the same would tell of a damaged log where none is."""
    said = [{"path": "b", "size": 1}, {"path": "a", "size": 2}]
    assert entry_hash(said) == entry_hash([{"size": 2, "path": "a"}, said[0]]) == "9d2a5f623400383e3f1c0dea500f84bf"


def test_files_that_cannot_hold_what_is_asked_for_are_not_opened(tmp_path: Path) -> None:
    """By their bounds and by their partition: they may as well be gone."""
    lake = Lake(str(tmp_path))
    for item, modality in (("a", "text"), ("m", "text"), ("z", "image")):
        append(lake, "vectors", vectors(item, modality=modality), item, WHO)
    kept = next(file for file in lake.data_files("vectors") if file.bounds["item_id"] == ("m", "m"))
    for file in lake.data_files("vectors"):
        if file != kept:
            path_of(lake, file).unlink()
    for item in ("m", "n", "b"):
        where = (ds.field("item_id") == item) & (ds.field("modality") == "text")
        assert lake.read("vectors", where=where).num_rows == (item == "m")
    with pytest.raises(DataCorrupt, match="is missing"):
        lake.read("vectors")


def test_the_footer_of_a_file_of_the_log_is_read_once_by_a_lake(tmp_path: Path) -> None:
    """It takes 64 kB of each file, whatever is read of it."""
    lake, draw = Lake(str(tmp_path)), np.random.default_rng(0)
    ids = [draw.bytes(16).hex() for _ in range(10_000)]
    rows = {"event_id": ids, "user_id": ids, "item_id": ["i"] * len(ids)}
    same = {"event_type": "click", "event_time": START, "arrival_time": START, "arrival_date": START.date()}
    whole = {
        **rows,
        **{name: [value] * len(ids) for name, value in same.items()},
        "source": ids,
        "source_offset": range(len(ids)),
    }
    none = {name: [None] * len(ids) for name in INTERACTIONS.schema.names if name not in whole}
    append(lake, "interactions", pa.table({**whole, **none}, schema=INTERACTIONS.schema), "key", WHO)

    def read() -> int:
        before = psutil.Process().io_counters().read_chars
        assert lake.read("interactions", lake.version("interactions"), ["item_id"]).num_rows == len(ids)
        return psutil.Process().io_counters().read_chars - before

    first, second = read(), read()
    assert second < first - 60_000


@settings(max_examples=12, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_page_is_never_read_as_data_though_the_footer_is_right(
    tmp_path_factory: pytest.TempPathFactory, at: float, bit: int
) -> None:
    """Numbers that no compression shortens: nothing but the checksum of the page could tell."""
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    numbers = np.frombuffer(np.random.default_rng(0).bytes(32_000), np.float32)
    rows = vectors("a").set_column(4, VECTORS.schema.field("vector"), pa.array([numbers]))
    append(lake, "vectors", rows, "key", WHO)
    (file,) = lake.data_files("vectors")
    path = path_of(lake, file)
    data = bytearray(path.read_bytes())
    start = data.find(numbers[1000:1004].tobytes())
    assert start > 0, "the numbers stand in the file as they are"
    data[start + int(at * 20_000)] ^= 1 << bit
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_files, "SMALL", 0)
        unchecked(patch)
        with pytest.raises(DataCorrupt, match="was changed after its commit"):
            lake.read("vectors")


def test_the_log_names_the_files_of_every_version_also_after_files_were_joined(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    for number in range(4):
        append(lake, "vectors", vectors(f"i{number}", modality="a b/%"), f"key-{number}", WHO)
    DeltaTable(lake.path("vectors")).optimize.compact()
    log = Log(lake.table_files("vectors"), "vectors")
    assert list(log.faults()) == []
    for version in range(lake.version("vectors") + 1):
        assert log.files_at(version) == {file.path for file in lake.data_files("vectors", version)}
    assert log.files_at(99) == frozenset()


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ([0], ["0 to 0"]),
        ([0, 1], ["0 to 1"]),
        ([1, 2], ["1 to 2"]),
        ([1, 3], ["1 to 1", "3 to 3"]),
        ([4], []),
    ],
)
def test_each_gap_in_a_log_is_told_by_its_ends(tmp_path: Path, gone: list[int], told: list[str]) -> None:
    """The newest entry that is gone is no gap: what it committed was never there for this log."""
    lake = Lake(str(tmp_path))
    for number in range(4):
        append(lake, "vectors", vectors(f"i{number}"), f"key-{number}", WHO)
    entries = sorted((Path(lake.path("vectors")) / "_delta_log").glob("*.json"))
    assert len(entries) == 5
    for number in gone:
        entries[number].unlink()
    faults = list(Log(lake.table_files("vectors"), "vectors").faults())
    assert [fault.split("lacks the entries ")[1].split(":")[0] for fault in faults] == told


def test_why_a_table_is_unreadable_is_told_in_one_line_that_ends(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    append(lake, "vectors", vectors("a"), "a", WHO)
    place, newest = lake.table_files("vectors"), lake.version("vectors")
    for version in (None, newest, 0):
        for error, told in (
            (ValueError("first line\nsecond"), r"\(first line\): restore the folder _delta_log"),
            (ValueError("x" * 300), rf"\({'x' * 200}\): restore"),
            (KeyError(), r"\(KeyError\): restore"),
        ):
            found = why_unreadable(place, "vectors", version, error)
            assert isinstance(found, DataCorrupt)
            assert re.search(told, str(found))
    later = why_unreadable(place, "vectors", newest + 1, ValueError())
    assert isinstance(later, LakeNotFound)
    assert f"no version {newest + 1}; its newest is {newest}" in str(later)
    none = why_unreadable(lake.table_files("items"), "items", 0, ValueError("gone"))
    assert isinstance(none, DataCorrupt), "a log without an entry has no newest version to tell"
    require_whole(place, "vectors", newest)
    require_whole(place, "vectors", newest + 1)
    (Path(lake.path("vectors")) / "_delta_log" / f"{newest:020d}.json").write_text("")
    with pytest.raises(DataCorrupt, match=f"entry {newest:020d}.json of the log of table 'vectors'.*is empty"):
        require_whole(place, "vectors", newest)
    require_whole(place, "vectors", newest - 1)


@pytest.mark.parametrize("footer", [8, 64, 1 << 15])
@pytest.mark.parametrize("small", [0, 1 << 16])
def test_whatever_is_read_of_it_at_once_a_footer_is_checked_to_its_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, footer: int, small: int
) -> None:
    monkeypatch.setattr(footers, "TAIL", footer)
    monkeypatch.setattr(data_files, "SMALL", small)
    lake = Lake(str(tmp_path))
    for item in "abc":
        append(lake, "vectors", vectors(item), item, WHO)
    place, found = lake.table_files("vectors"), lake.data_files("vectors")
    unchecked(monkeypatch)
    check_footers(place, found)
    path = path_of(lake, found[1])
    size = footers.footer_size(path.read_bytes()[-8:])
    assert 8 < size < path.stat().st_size
    for back in (1, 5, 9, size - 1, size):
        flip(path, -back)
        for some in ([found[1]], found):
            unchecked(monkeypatch)
            with pytest.raises(DataCorrupt, match=f"{found[1].path} was changed after its commit"):
                check_footers(place, some)
        flip(path, -back)
    flip(path, -size - 1)
    unchecked(monkeypatch)
    if small:
        with pytest.raises(DataCorrupt):
            check_footers(place, found)
    else:
        check_footers(place, found)
    with pytest.raises(DataCorrupt):
        check_whole(place, found[1].path)
    path.unlink()
    for check in (
        lambda: check_footers(place, found),
        lambda: check_whole(place, found[1].path),
        lambda: integrity.check_file(lake, integrity.Pinned("vectors", found[1], found[1].sha256)),
    ):
        unchecked(monkeypatch)
        with pytest.raises(DataCorrupt, match=r"is missing\. Restore"):
            check()


def test_a_file_that_was_found_right_is_not_looked_at_again_and_one_of_another_program_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(str(tmp_path))
    append(lake, "vectors", vectors("a"), "a", WHO)
    write_deltalake(lake.path("vectors"), vectors("b"), mode="append")
    ours, theirs = sorted(lake.data_files("vectors"), key=lambda file: file.sha256 is None)
    assert theirs.sha256 is None
    unchecked(monkeypatch)
    place = lake.table_files("vectors")
    check_footers(place, [ours, theirs])
    for file in (ours, theirs):
        path_of(lake, file).unlink()
    check_footers(place, [ours, theirs])
    check_whole(place, theirs.path)
