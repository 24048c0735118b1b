"""Lakes that more than one file of tests reads."""

import tarfile
from pathlib import Path

import pytest

from storage.lake import Lake

OLD_LAKE = Path(__file__).parent / "data" / "lake-format-1.tar.xz"


@pytest.fixture
def old_lake(tmp_path: Path) -> Lake:
    """A lake of format 1: 24 items, 300 events, a bootstrap, a training, a night; no file has a hash."""
    with tarfile.open(OLD_LAKE) as archive:
        archive.extractall(tmp_path, filter="data")
    return Lake(str(tmp_path / "lake"))
