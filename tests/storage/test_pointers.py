"""A pointer counts its moves, tells who made them, and is not taken for unset where its table was lost."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.commit import Provenance, append
from storage.errors import DataCorrupt
from storage.lake import Lake
from storage.releases.pointers import Pointer, move_pointer, pointer_history, read_pointer
from storage.releases.releases import published, read_release

WHO = Provenance("some-run", "recipe")


def test_a_pointer_that_never_moved_is_unset_also_where_there_is_no_lake(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "none"))
    assert pointer_history(lake, "alias") == [Pointer("alias", 0, None)]
    assert published(lake) is None
    assert not (tmp_path / "none").exists(), "reading makes no lake"


@settings(max_examples=5, deadline=None)
@given(moves=st.lists(st.tuples(st.sampled_from(["one", "other"]), st.integers(0, 9)), max_size=5))
def test_each_move_is_the_next_of_its_own_pointer_and_comes_back_as_it_is_read(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[str, int]]
) -> None:
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    expected: dict[str, list[int]] = {"one": [], "other": []}
    before = datetime.now(UTC)
    for name, value in moves:
        moved = move_pointer(lake, read_pointer(lake, name), {"value": value}, f"note {value}", WHO)
        expected[name].append(value)
        assert moved == read_pointer(lake, name)
        assert (moved.name, moved.sequence, moved.value) == (name, len(expected[name]), {"value": value})
        assert (moved.note, moved.run) == (f"note {value}", "some-run")
        assert moved.at is not None
        assert before <= moved.at <= datetime.now(UTC)
    for name, values in expected.items():
        history = pointer_history(lake, name)
        assert [move.sequence for move in history] == list(range(len(values) + 1))
        assert [move.value for move in history] == [None, *({"value": value} for value in values)]


def test_a_lake_with_releases_that_lost_its_pointers_is_refused_wherever_a_pointer_is_read(
    old_lake: Lake,
) -> None:
    """In a lake of format 1 the table may be missing: it was made with the first publish."""
    shutil.rmtree(Path(old_lake.uri) / "pointers")
    assert read_pointer(old_lake, "production").value is None
    (Path(old_lake.uri) / "lake.json").write_text('{"format": 2}')
    lake = Lake(old_lake.uri)
    for read in (lambda: pointer_history(lake, "production"), lambda: read_release(lake, "production")):
        with pytest.raises(DataCorrupt, match=r"'pointers' of the lake .* is missing.*backup of the lake"):
            read()
    assert read_release(lake, "r-000001").id == "r-000001", "a release by its id is still read"


def test_a_lake_without_releases_may_have_no_pointers_yet(tmp_path: Path) -> None:
    from test_commit import vectors

    lake = Lake(str(tmp_path))
    append(lake, "vectors", vectors("a"), "key", WHO)
    shutil.rmtree(tmp_path / "pointers")
    assert read_pointer(Lake(lake.uri), "production").value is None
