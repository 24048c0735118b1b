"""Committed rows stay readable whatever other programs do to the logs, and changed files are detected."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.commit import MAX_FILES, Provenance, append
from storage.errors import DataCorrupt, LakeNotFound, LakeUnusable, SchemaMismatch
from storage.files.among import one_of
from storage.files.store import Files
from storage.files.table_log import Log
from storage.lake import Lake
from storage.schemas import PROPERTIES, QUARANTINE, SIDS, TABLES, VECTORS

WHO = Provenance("test", "recipe")


TIME = datetime(2024, 1, 1, tzinfo=UTC)


def vectors(first: int, count: int) -> pa.Table:
    rows = [
        {"item_id": f"i{item:06d}", "modality": "text", "content_hash": "h", "fingerprint": "f", "vector": [0.5] * 8}
        for item in range(first, first + count)
    ]
    return pa.Table.from_pylist(rows, schema=VECTORS.schema)


def sids(segment: str, item: str) -> pa.Table:
    row = {"assignment_id": segment, "codebook": "c", "item_id": item, "codes": [1], "vector_hash": "h", "status": "s"}
    return pa.Table.from_pylist([row], schema=SIDS.schema)


def data_file(lake: Lake, table: str) -> Path:
    (file,) = lake.data_files(table)
    return Path(lake.path(table)) / file.path


def test_a_pinned_version_outlives_an_old_log_its_checkpoints_and_an_outside_compaction_and_vacuum(
    tmp_path: Path,
) -> None:
    lake = Lake(str(tmp_path))
    append(lake, "vectors", vectors(0, 3), "first", WHO)
    pinned = lake.version("vectors")
    for number in range(30):  # more commits than lie between two checkpoints
        append(lake, "vectors", vectors(10 + number, 1), f"more-{number}", WHO)
    for entry in (tmp_path / "vectors" / "_delta_log").iterdir():
        os.utime(entry, (time.time() - 60 * 86400,) * 2)
    for number in range(30, 60):
        append(lake, "vectors", vectors(10 + number, 1), f"more-{number}", WHO)
    outside = DeltaTable(lake.path("vectors"))
    outside.create_checkpoint()
    outside.cleanup_metadata()
    outside.optimize.compact()
    DeltaTable(lake.path("vectors")).vacuum(dry_run=False)
    assert lake.read("vectors", pinned).num_rows == 3
    assert lake.read("vectors").num_rows == 63
    assert list(Log(lake.table_files("vectors"), "vectors").faults()) == []


def test_a_table_of_an_older_program_keeps_its_log_from_the_first_time_it_is_opened_for_writing(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    append(lake, "pointers", _pointer_rows(), "p", WHO)
    DeltaTable.create(lake.path("sids"), SIDS.schema, partition_by=["codebook"])
    append(lake, "sids", sids("a", "i1"), "key", WHO)
    assert PROPERTIES.items() <= lake.open("sids").metadata().configuration.items()


def _pointer_rows() -> pa.Table:
    row = {"name": "n", "sequence": 1, "value": "1", "note": "", "at": TIME, "run": "r"}
    return pa.Table.from_pylist([row], schema=TABLES["pointers"].schema)


def test_nobody_deletes_rows_by_mistake(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    append(lake, "vectors", vectors(0, 3), "first", WHO)
    with pytest.raises(Exception, match="append-only"):
        DeltaTable(lake.path("vectors")).delete("item_id = 'i000001'")


@settings(max_examples=40, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), rows=st.sampled_from([5, 20_000]))
def test_one_flipped_bit_anywhere_in_a_data_file_is_found_and_never_read_as_data(
    tmp_path_factory: pytest.TempPathFactory, position: float, bit: int, rows: int
) -> None:
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    append(lake, "vectors", vectors(0, rows), "first", WHO)
    right = lake.read("vectors")
    moved = Path(lake.uri).with_name(Path(lake.uri).name + "-copy")  # what was checked at its place stays checked
    shutil.copytree(lake.uri, moved)
    copy = Lake(str(moved))
    path = data_file(copy, "vectors")
    data = bytearray(path.read_bytes())
    place = int(position * len(data))
    data[place] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(DataCorrupt, match=r"vectors/part-.*was changed after its commit.*lake verify"):
        _check_all(copy, "vectors")
    read = None
    with suppress(DataCorrupt):
        read = copy.read("vectors")
    assert read is None or read.equals(right), f"byte {place} of {len(data)}"


def _check_all(lake: Lake, table: str) -> None:
    from storage.releases.integrity import Pinned, check_file

    for file in lake.data_files(table):
        check_file(lake, Pinned(table, file, file.sha256))


def test_a_missing_data_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    append(lake, "vectors", vectors(0, 3), "first", WHO)
    data_file(lake, "vectors").unlink()
    with pytest.raises(DataCorrupt, match=r"vectors/part-.*is missing. Restore the file from a backup"):
        lake.read("vectors")


def test_a_condition_on_a_column_without_bounds_in_the_log_passes_over_no_file(tmp_path: Path) -> None:
    """Arrow takes an unknown bound for one that nothing satisfies, and would leave out the file."""
    lake = Lake(str(tmp_path))
    append(lake, "sids", sids("a" * 40, "i1"), "one", WHO)  # too long for a bound
    append(lake, "sids", sids("b", "i2"), "two", WHO)
    found = lake.read("sids", where=one_of("assignment_id", ["a" * 40]))
    assert found["item_id"].to_pylist() == ["i1"]
    assert lake.count("sids", lake.version("sids"), ds.field("vector_hash") == "h") == 2


@settings(max_examples=25, deadline=None)
@given(micros=st.lists(st.integers(0, 5_000), min_size=1, max_size=6), bound=st.integers(-1, 5_001))
def test_bounds_of_times_in_the_log_hold_to_the_microsecond_also_those_that_others_cut(
    tmp_path_factory: pytest.TempPathFactory, micros: list[int], bound: int
) -> None:
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    base = TIME + timedelta(microseconds=400)
    rows = [
        {"item_id": f"i{place}", "revision": 0, "title": None, "attributes": "{}", "text_hash": "h", "images": [],
         "deleted": False, "arrived_at": base + timedelta(microseconds=each), "source": "s", "source_row": place}
        for place, each in enumerate(micros)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=TABLES["items"].schema)
    append(lake, "items", table, "ours", WHO)
    write_deltalake(lake.path("items"), table, mode="append")
    for later in (True, False):
        when = pa.scalar(base + timedelta(microseconds=bound), pa.timestamp("us", tz="UTC"))
        where = ds.field("arrived_at") > when if later else ds.field("arrived_at") <= when
        right = sum((each > bound) == later for each in micros)
        assert lake.read("items", where=where).num_rows == 2 * right
        assert lake.count("items", lake.version("items"), where) == 2 * right
        for both in (where & (ds.field("item_id") >= "i1"), where | (ds.field("item_id") == "i0"), ~where):
            assert lake.count("items", lake.version("items"), both) == lake.read("items", where=both).num_rows


def test_rows_that_break_a_rule_of_their_table_are_refused_before_they_are_written(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    with pytest.raises(SchemaMismatch, match=r"'quarantine'.*known_status"):
        append(lake, "quarantine", _refused("nonsense", 1), "key", WHO)
    assert not lake.exists("quarantine")


def _refused(status: str, count: int) -> pa.Table:
    row = {"quarantine_id": "q", "status": status, "stage": "s", "subject": None, "reason": "r", "detail": "d",
           "payload": None, "source": "s", "source_row": 0, "at": TIME, "run": "r"}  # fmt: skip
    return pa.Table.from_pylist([row] * count, schema=QUARANTINE.schema)


def test_small_files_of_a_bookkeeping_table_are_joined_and_its_former_versions_stay(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    pinned = 0
    for number in range(2 * MAX_FILES + 3):
        append(lake, "quarantine", _refused("open", 1), f"key-{number}", WHO)
        pinned = lake.version("quarantine") if number == 4 else pinned
    assert len(lake.data_files("quarantine")) <= MAX_FILES + 1
    assert lake.read("quarantine").num_rows == 2 * MAX_FILES + 3
    assert lake.read("quarantine", pinned).num_rows == 5
    assert all(file.sha256 for file in lake.data_files("quarantine"))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda log: (log / f"{1:020d}.json").write_text('{"commitInfo": {"times'), "cut short or damaged"),
        (lambda log: (log / f"{3:020d}.json").write_text(""), "is empty"),
        (lambda log: (log / f"{1:020d}.json").unlink(), "lacks the entries 1 to 1"),
        (
            lambda log: _edit(log / f"{2:020d}.json", "i000001", "i000000"),
            "lists other files or statistics than were committed",
        ),
    ],
)
def test_a_damaged_log_is_told_in_one_line_with_the_remedy(tmp_path: Path, damage: object, told: str) -> None:
    lake = Lake(str(tmp_path))
    for number in range(3):
        append(lake, "vectors", vectors(number, 1), f"key-{number}", WHO)
    assert callable(damage)
    damage(tmp_path / "vectors" / "_delta_log")
    (fault,) = Log(lake.table_files("vectors"), "vectors").faults()
    assert told in fault
    assert "restore the folder _delta_log" in fault
    assert "\n" not in fault
    if "committed" not in told:
        with pytest.raises(DataCorrupt, match=told):
            lake.read("vectors")


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_lake_that_is_a_file_and_a_version_that_never_was_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LakeUnusable, match="is a file, but a lake is a folder"):
        Lake(str(tmp_path / "file")).read("items")
    lake = Lake(str(tmp_path / "lake"))
    append(lake, "vectors", vectors(0, 1), "key", WHO)
    with pytest.raises(LakeNotFound, match=r"no version 99; its newest is 1"):
        lake.read("vectors", 99)


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, which only root may")
def test_a_lake_that_may_not_be_written_is_read_and_told_in_one_line(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    append(lake, "vectors", vectors(0, 2), "key", WHO)
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[2]); from test_integrity import *\n"
        "os.setgid(65534); os.setuid(65534); lake = Lake(sys.argv[1]); print(lake.read('vectors').num_rows)\n"
        "for write in (lambda: append(lake, 'vectors', vectors(5, 1), 'new', WHO), lambda: lake.blobs.put(b'x')):\n"
        "    try: write()\n"
        "    except LakeUnusable as error: print(error)\n"
    )
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", script, lake.uri, str(Path(__file__).parent)],
        env=environment, capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows, *told = done.stdout.splitlines()
    assert rows == "2"
    assert len(told) == 2
    assert all("cannot write to" in line for line in told)


def test_a_damaged_blob_is_replaced_when_its_bytes_come_again(tmp_path: Path) -> None:
    blobs = Lake(str(tmp_path)).blobs
    digest = blobs.put(b"some bytes")
    Path(blobs.location(digest)).write_bytes(b"some bytez")
    assert blobs.put(b"some bytes") == digest
    assert blobs.get(digest) == b"some bytes"


def test_what_the_lake_writes_others_may_read_as_far_as_the_umask_allows(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    old = os.umask(0o022)
    try:
        append(lake, "vectors", vectors(0, 1), "key", WHO)
        lake.blobs.put(b"blob")
    finally:
        os.umask(old)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}


def test_no_user_stands_in_the_log_of_a_table(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    spec = TABLES["interactions"]
    row = {"event_id": "canary-event", "user_id": "canary-user", "item_id": "i1", "event_type": "click",
           "event_time": TIME, "arrival_time": TIME, "arrival_date": TIME.date(), "session_id": "canary-session",
           "request_id": "canary-request", "impression": None, "position": None, "value": None, "source": "s",
           "source_offset": 0}  # fmt: skip
    append(lake, "interactions", pa.Table.from_pylist([row], schema=spec.schema), "key", WHO)
    lake.open("interactions").create_checkpoint()
    logs = b"".join(path.read_bytes() for path in (tmp_path / "interactions" / "_delta_log").iterdir())
    assert b"canary" not in logs
    assert lake.frame("interactions", where=ds.field("user_id") == "canary-user").height == 1
    assert lake.frame("interactions")["arrival_date"].to_list() == [TIME.date()]


def test_a_half_written_file_is_not_left_behind(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    with pytest.raises(TypeError):
        files.write("name", "text, not bytes")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_partitions_come_back_with_their_values_and_rows_in_their_order(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    rows = pl.concat([pl.DataFrame(vectors(0, 4)), pl.DataFrame(vectors(4, 4)).with_columns(modality=pl.lit("a b/%"))])
    mixed = rows[[4, 0, 5, 1, 6, 2, 7, 3]]
    append(lake, "vectors", mixed.to_arrow(), "key", WHO)
    assert len(lake.data_files("vectors")) == 2
    for modality in ("text", "a b/%"):
        found = lake.frame("vectors", where=ds.field("modality") == modality)
        assert found["item_id"].to_list() == mixed.filter(modality=modality)["item_id"].to_list()
