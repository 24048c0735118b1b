"""Commits happen once, pointers move one at a time, whoever dies or races."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from storage.commit import Provenance, append
from storage.errors import PointerMoved, SchemaMismatch
from storage.lake import Lake
from storage.releases.pointers import move_pointer, pointer_history, read_pointer
from storage.schemas import SOURCES, VECTORS

WHO = Provenance("test", "recipe", {"items": 3})
WRITERS, MOVES = 8, 2


def vectors(*items: str) -> pa.Table:
    rows = [
        {"item_id": item, "modality": "text", "content_hash": "h", "fingerprint": "f", "vector": [1.0, 2.0]}
        for item in items
    ]
    return pa.Table.from_pylist(rows, schema=VECTORS.schema)


def test_append_with_the_same_key_writes_once_and_names_the_first_version(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    first = append(lake, "vectors", vectors("a"), "key", WHO)
    append(lake, "vectors", vectors("b"), "other", WHO)
    again = append(lake, "vectors", vectors("a"), "key", WHO)
    assert (first.written, again.written) == (True, False)
    assert again.ref == first.ref
    assert lake.rows("vectors") == 2


def test_commit_metadata_names_run_recipe_and_inputs(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    append(lake, "vectors", vectors("a"), "key", WHO)
    entry = lake.open("vectors").history()[0]
    assert entry["sidmill.run"] == "test"
    assert entry["sidmill.recipe"] == "recipe"
    assert entry["sidmill.inputs"] == '{"items": 3}'


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (vectors("a").drop_columns(["vector"]), "missing columns"),
        (vectors("a").set_column(0, "item_id", pa.array([1])), "item_id"),
        (vectors("a").set_column(0, "item_id", pa.array([None], pa.string())), "nulls"),
    ],
)
def test_rows_of_another_shape_are_refused(tmp_path: Path, rows: pa.Table, told: str) -> None:
    with pytest.raises(SchemaMismatch, match=told):
        append(Lake(str(tmp_path)), "vectors", rows, "key", WHO)


def _append_same(uri: str) -> bool:
    return append(Lake(uri), "vectors", vectors("a", "b"), "key", WHO).written


def _append_own(task: tuple[str, int]) -> bool:
    uri, writer = task
    return append(Lake(uri), "vectors", vectors(f"item-{writer}"), f"key-{writer}", WHO).written


def _count_up(task: tuple[str, int]) -> int:
    """Increment a counter MOVES times by compare-and-swap; returns how often it had to look again."""
    uri, _ = task
    lake, lost = Lake(uri), 0
    for _ in range(MOVES):
        while True:
            seen = read_pointer(lake, "counter")
            try:
                move_pointer(lake, seen, (seen.value or 0) + 1, "count", WHO)
                break
            except PointerMoved:
                lost += 1
    return lost


def many_writers(uri: str, writers: int) -> None:
    """The claims that must hold on every store: same key once, own keys all, no lost update."""
    tasks = [(uri, writer) for writer in range(writers)]
    with multiprocessing.get_context("spawn").Pool(writers) as pool:
        assert sorted(pool.map(_append_same, [uri] * writers, chunksize=1)) == [False] * (writers - 1) + [True]
        assert Lake(uri).rows("vectors") == 2
        assert all(pool.map(_append_own, tasks, chunksize=1))
        assert Lake(uri).rows("vectors") == 2 + writers
        pool.map(_count_up, tasks, chunksize=1)
    history = pointer_history(Lake(uri), "counter")
    assert [move.value for move in history[1:]] == list(range(1, MOVES * writers + 1))


def test_eight_writers_lose_and_double_nothing_on_disk(tmp_path: Path) -> None:
    many_writers(str(tmp_path / "lake"), WRITERS)


@pytest.mark.parametrize("writers", [3, pytest.param(WRITERS, marks=pytest.mark.slow)])
def test_several_writers_lose_and_double_nothing_on_s3(s3_bucket: str, writers: int) -> None:
    many_writers(f"{s3_bucket}/one", writers)


def test_blobs_come_back_from_s3(s3_bucket: str) -> None:
    blobs = Lake(f"{s3_bucket}/two").blobs
    digest = blobs.put(b"some bytes")
    assert blobs.get(digest) == b"some bytes"
    assert blobs.local_path(digest).read_bytes() == b"some bytes"


def test_a_writer_killed_after_its_commit_is_not_doubled_by_its_rerun(tmp_path: Path) -> None:
    """kill -9 between the commit and its acknowledgement, then the same call again."""
    script = textwrap.dedent(f"""
        import os, signal, storage.commit as commit
        from storage.lake import Lake
        from tests_rows import vectors, WHO
        write = commit._commit
        def write_then_die(*arguments, **options):
            write(*arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)
        commit._commit = write_then_die
        commit.append(Lake({str(tmp_path / "lake")!r}), "vectors", vectors("a"), "key", WHO)
    """)
    (tmp_path / "tests_rows.py").write_text(
        "import pyarrow as pa\nfrom storage.commit import Provenance\nfrom storage.schemas import VECTORS\n"
        "WHO = Provenance('killed', 'recipe')\n"
        "def vectors(item):\n"
        "    row = dict(item_id=item, modality='text', content_hash='h', fingerprint='f', vector=[1.0])\n"
        "    return pa.Table.from_pylist([row], schema=VECTORS.schema)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False, env=_python_path(tmp_path))
    assert killed.returncode == -signal.SIGKILL
    lake = Lake(str(tmp_path / "lake"))
    assert lake.rows("vectors") == 1
    assert not append(lake, "vectors", vectors("a"), "key", WHO).written
    assert lake.rows("vectors") == 1


def _python_path(folder: Path) -> dict[str, str]:
    root = Path(__file__).resolve().parents[2]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(root)])}


def test_a_pointer_read_before_it_moved_cannot_be_moved(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    stale = read_pointer(lake, "alias")
    move_pointer(lake, stale, {"release": "r-1"}, "first", WHO)
    with pytest.raises(PointerMoved, match="r-1"):
        move_pointer(lake, stale, {"release": "r-2"}, "second", WHO)
    assert read_pointer(lake, "alias").value == {"release": "r-1"}


def test_constraints_refuse_a_row_that_breaks_them(tmp_path: Path) -> None:
    from deltalake import write_deltalake
    from deltalake.exceptions import DeltaError

    lake = Lake(str(tmp_path))
    handle = lake.open_or_create("sources")
    row = {"sha256": "s", "kind": "items", "mapping": "m", "uri": "u", "rows_in": 3, "rows_out": 1, "rows_unchanged": 1}
    broken = {**row, "rows_quarantined": 0, "at": datetime.now(UTC), "run": "r"}
    with pytest.raises(DeltaError, match="validation"):
        write_deltalake(handle, pa.Table.from_pylist([broken], schema=SOURCES.schema), mode="append")


def test_a_blob_that_finds_no_room_leaves_nothing_and_is_stored_once_there_is(tmp_path: Path) -> None:
    blobs, data = Lake(str(tmp_path)).blobs, bytes(100_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            blobs.put(data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert blobs.get(blobs.put(data)) == data


def test_the_umask_decides_who_may_read_a_blob_as_it_does_for_tables(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        blobs = Lake(str(tmp_path / "lake")).blobs
        path = Path(blobs.location(blobs.put(b"trie")))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    assert [each.name for each in path.parent.iterdir()] == [path.name]
