"""Lakes of other formats: a newer one is refused, format 1 is read, and migrated in place."""

import json
import shutil
from pathlib import Path

import pytest
from test_integrity import WHO, vectors

from storage.commit import append
from storage.errors import DataCorrupt, LakeFormat
from storage.format import FORMAT
from storage.lake import Lake
from storage.migrate import migrate
from storage.releases.integrity import check_pinned
from storage.releases.pointers import move_pointer, read_pointer
from storage.releases.releases import read_release
from storage.schemas import PROPERTIES, TABLES


def test_a_lake_of_a_newer_program_is_refused_in_one_line(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    append(lake, "vectors", vectors(0, 1), "key", WHO)
    (tmp_path / "lake.json").write_text(json.dumps({"format": FORMAT + 1}))
    for use in (
        lambda: Lake(lake.uri).read("vectors"),
        lambda: append(Lake(lake.uri), "vectors", vectors(1, 1), "k", WHO),
    ):
        with pytest.raises(LakeFormat, match=f"has format {FORMAT + 1}.*install a newer sidmill"):
            use()


def test_a_lake_of_format_1_is_read_is_not_written_and_keeps_its_logs_at_once(old_lake: Lake) -> None:
    assert old_lake.format == 1
    assert read_release(old_lake, "production").id == "r-000002"
    with pytest.raises(LakeFormat, match=r"has the old format 1.*`sidmill lake migrate --lake"):
        move_pointer(old_lake, read_pointer(old_lake, "production"), {}, "note", WHO)
    for table in TABLES:
        if old_lake.exists(table):
            assert PROPERTIES.items() <= old_lake.open(table).metadata().configuration.items()


def test_a_lake_of_format_1_is_migrated_in_place_and_its_files_are_checked_from_then_on(old_lake: Lake) -> None:
    before = {table: old_lake.frame(table) for table in TABLES if old_lake.exists(table)}
    told = list(migrate(old_lake, WHO))
    lake = Lake(old_lake.uri)
    assert "data files hashed" in told[1]
    assert list(migrate(lake, WHO)) == [f"the lake {lake.uri} has format {FORMAT} already; nothing to do"]
    assert all(lake.frame(table).equals(rows) for table, rows in before.items())
    release = read_release(lake, "production")
    check_pinned(lake, release, "m-000001", WHO)
    append(lake, "vectors", vectors(0, 1), "new", WHO)
    file = next(each for each in lake.data_files("vectors", release.versions["vectors"]))
    path = Path(lake.path("vectors")) / file.path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataCorrupt, match="was changed after its commit"):
        check_pinned(lake, release, None, WHO)


def test_a_lake_of_format_1_that_lost_its_pointers_is_not_taken_for_one_that_published_nothing(old_lake: Lake) -> None:
    shutil.rmtree(Path(old_lake.uri) / "pointers")
    with pytest.raises(DataCorrupt, match="runs have published to it"):
        list(migrate(old_lake, WHO))
