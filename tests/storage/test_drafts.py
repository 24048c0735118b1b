"""What a killed writer left beside the tables goes with `lake gc` once it is old, and with an erasure at once."""

import os
from pathlib import Path

import pytest
from made_releases import candidate

from storage.commit import Provenance
from storage.erasure.erase import erase
from storage.erasure.rows import Subjects
from storage.files.store import WRITING
from storage.lake import Lake
from storage.retention.collect import collect
from storage.retention.policy import Policy

WHO = Provenance("test", "")
FOLDERS = ("beats", "blobs/ab", "erasing", "leases", "logs", "watch")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake(str(tmp_path / "lake"))
    candidate(made, "inputs", ["s0"])
    return made


def drafts(lake: Lake) -> list[Path]:
    found = [Path(lake.uri) / folder / f"{WRITING}1" for folder in FOLDERS]
    for path in found:
        lake.files.write(str(path.relative_to(lake.uri)), b'{"users": ["c4n4ry"]}')
    return found


def test_gc_removes_drafts_of_every_folder_once_they_are_old(lake: Lake) -> None:
    left = drafts(lake)
    collect(lake, Policy(), WHO, remove=True)
    assert all(path.exists() for path in left), "all of it is young"
    for path in left:
        os.utime(path, (10**9, 10**9))
    collect(lake, Policy(), WHO, remove=True)
    assert [path for path in left if path.exists()] == []


def test_an_erasure_removes_drafts_that_may_name_whom_it_erases(lake: Lake) -> None:
    """Among them is the file of an erasure that was killed while it wrote whom to erase."""
    left = [path for path in drafts(lake) if path.parent.name != "leases"]
    erase(lake, Subjects(frozenset({"c4n4ry"}), frozenset()), "", WHO, wait_s=0)
    assert [path for path in left if path.exists()] == []
