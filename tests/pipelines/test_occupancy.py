"""SIDs that are taken: those of a trie and of what it lacks are those of reading all segments."""

import shutil
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_releases import TIME, WHO

from pipelines.sid_table import occupancy
from storage.commit import append
from storage.lake import Lake
from storage.releases.manifest import Manifest
from storage.schemas import ITEMS, SIDS
from tokenizer.codebook import Codebook
from tokenizer.fit import fit_codebook
from tokenizer.spec import CodebookSpec
from tokenizer.trie.trie import Trie

SPEC = CodebookSpec.model_validate({"levels": [{"codes": 4}, {"codes": 16}], "iterations": 1})


@cache
def book() -> Codebook:
    vectors = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    return fit_codebook({"fused": vectors}, [f"v{row}" for row in range(30)], SPEC)


def segment(lake: Lake, codebook: str, name: str, sids: list[tuple[str, int]]) -> None:
    rows = [
        {"assignment_id": name, "codebook": codebook, "item_id": item, "codes": [sid // 16, sid % 16],
         "vector_hash": "h", "status": "assigned"}
        for item, sid in sids
    ]  # fmt: skip
    append(lake, "sids", pa.Table.from_pylist(rows, schema=SIDS.schema), f"{codebook}:{name}", WHO)


def revisions(lake: Lake, key: str, revision: int, deleted: dict[str, bool], at: datetime) -> None:
    rows: list[dict[str, Any]] = [
        {"item_id": item, "revision": revision, "title": "t", "attributes": "{}", "text_hash": "h", "images": [],
         "deleted": gone, "arrived_at": at, "source": "s", "source_row": place}
        for place, (item, gone) in enumerate(deleted.items())
    ]  # fmt: skip
    if rows:
        append(lake, "items", pa.Table.from_pylist(rows, schema=ITEMS.schema), key, WHO)


IDS = [f"i{number:02d}" for number in range(40)]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with all items, of which one has a SID of another codebook."""
    folder = tmp_path_factory.mktemp("begun") / "lake"
    revisions(Lake(str(folder)), "all", 0, dict.fromkeys(IDS, False), TIME)
    segment(Lake(str(folder)), "another", "a", [(IDS[0], 0)])
    return folder


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(range(40)),
    parts=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    gone=st.sets(st.integers(0, 39)),
    back=st.sets(st.integers(0, 39)),
    late=st.sets(st.integers(0, 39)),
    lost=st.booleans(),
)
def test_taken_sids_are_those_of_all_segments_whatever_was_deleted_when(
    begun: Path,
    tmp_path: Path,
    order: list[int],
    parts: tuple[int, int],
    gone: set[int],
    back: set[int],
    late: set[int],
    lost: bool,
) -> None:
    """Items go, come back and go later than the release; a trie that lacks more than was deleted is not believed."""
    shutil.rmtree(tmp_path)
    shutil.copytree(begun, tmp_path)
    lake, codebook, ids = Lake(str(tmp_path)), book(), IDS
    first, second = order[: parts[0]], order[parts[0] : sum(parts)]
    segment(lake, codebook.id, "a", [(ids[number], number) for number in first])
    revisions(lake, "gone", 1, {ids[number]: True for number in gone}, TIME)
    revisions(lake, "back", 2, {ids[number]: False for number in gone & back}, TIME)
    version = lake.version("items")
    live = [number for number in first if number not in gone or number in back][lost:]
    trie = Trie.build(
        np.array([(number // 16, number % 16) for number in live], np.int32).reshape(-1, 2),
        [ids[number] for number in live],
        codebook.sizes,
    )
    revisions(lake, "late", 3, {ids[number]: True for number in late}, TIME + timedelta(days=1))
    segment(lake, codebook.id, "b", [(ids[number], number) for number in second])
    parent = Manifest.model_construct(
        codebook=type("Book", (), {"id": codebook.id}), assignments=("a",), versions={"items": version}, as_of=TIME
    )
    found = occupancy(lake, codebook, ["a", "b"], parent, trie).codes
    assert found.dtype == np.int32
    assert sorted(map(tuple, found.tolist())) == sorted((number // 16, number % 16) for number in [*first, *second])
    assert occupancy(lake, codebook, ["a", "b"]).codes.shape == found.shape
    if not lost and len(live):
        assert found.tolist() == sorted(found.tolist()), "in order, so that nothing is sorted again"


def test_of_the_segments_of_a_release_without_deletions_no_row_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, codebook = Lake(str(tmp_path)), book()
    ids = [f"i{number:02d}" for number in range(30)]
    revisions(lake, "all", 0, dict.fromkeys(ids, False), TIME)
    segment(lake, codebook.id, "a", list(zip(ids, range(30), strict=True)))
    trie = Trie.build(np.array([(number // 16, number % 16) for number in range(30)], np.int32), ids, codebook.sizes)
    parent = Manifest.model_construct(
        codebook=type("Book", (), {"id": codebook.id}), assignments=("a",), versions={"items": 0}, as_of=TIME
    )
    read: list[int] = []
    plain = Lake.read

    def counted(self: Lake, *arguments: Any, **named: Any) -> pa.Table:
        rows = plain(self, *arguments, **named)
        read.append(rows.num_rows)
        return rows

    monkeypatch.setattr(Lake, "read", counted)
    assert len(occupancy(lake, codebook, ["a"], parent, trie).codes) == 30
    assert sum(read) == 0
