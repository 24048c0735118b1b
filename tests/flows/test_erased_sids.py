"""SIDs of erased items stay taken under no name, so what models have learnt of them is never said of another item."""

import json
from pathlib import Path

import pyarrow as pa
from test_erase import ITEM, RECIPE, forget_both, holding, items, log, wrong

from flows.backfill import backfill
from flows.bootstrap import bootstrap
from flows.nightly import nightly
from pipelines.sid_table import occupancy
from sidmill.release import open_trie
from storage.erasure.rows import Subjects
from storage.lake import Lake
from storage.releases.catalogue import assigned_items, count_sids, segments
from storage.releases.releases import published, read_release
from tokenizer.codebook import Codebook


def codes_of(lake: Lake, release: str, item: str) -> list[int]:
    trie = open_trie(lake, read_release(lake, release))
    (row,) = trie.find_rows([item]).tolist()
    assert row >= 0
    found: list[int] = trie.codes()[row].tolist()
    return found


def test_an_item_like_an_erased_one_gets_another_sid_and_nights_and_backfills_go_on(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    bootstrap(lake.uri, RECIPE, items(tmp_path, 0, 12), log(tmp_path, 0))
    freed = codes_of(lake, "r-000001", ITEM)
    forget_both(lake)
    assert holding(lake, ITEM) == []
    alike = {"title": "again", "kind": f"k{len(ITEM) % 3}", "size": ITEM[-1]}
    twins = [f"twin{number}" for number in range(3)]
    path = tmp_path / "twins.jsonl"
    path.write_text("".join(json.dumps({"item_id": twin, **alike}) + "\n" for twin in twins))
    night = nightly(lake.uri, None, [str(path)])
    newest = read_release(lake, night["release"])
    given = [codes_of(lake, newest.id, twin) for twin in twins]
    assert freed not in given
    assert len({*map(tuple, given)}) == 3

    codebook = Codebook.from_bytes(lake.blobs.get(newest.codebook.blob))
    slow = occupancy(lake, codebook, list(newest.assignments))
    quick = occupancy(lake, codebook, list(newest.assignments), newest, open_trie(lake, newest))
    assert sorted(map(tuple, quick.codes.tolist())) == sorted(map(tuple, slow.codes.tolist()))
    assert tuple(freed) in set(map(tuple, slow.codes.tolist()))
    assert count_sids(lake, codebook.id, newest.assignments) == newest.items + 1
    named = segments(lake, list(newest.assignments), codebook.id)["item_id"].to_list()
    assert set(named) == assigned_items(lake, newest) == set(open_trie(lake, newest).item_ids.to_pylist())

    other = backfill(lake.uri, {**RECIPE, "codebook": {"levels": [{"codes": 8}, {"codes": 8}]}}, publish_when_done=True)
    assert published(lake).release == other["release"]  # type: ignore[union-attr]
    assert wrong(lake) == []


def test_several_erased_items_of_one_sid_keep_a_row_each() -> None:
    """Where a codebook lets items share a SID, also over two erasures."""
    rows = pa.table(
        {
            "assignment_id": ["a", "a", "a", "b", "a"],
            "item_id": ["x", "y", "z", "x", "w"],
            "codes": pa.array([[1, 2], [1, 2], [1, 2], [1, 2], [3, 4]], pa.list_(pa.int32())),
            "vector_hash": ["h1", "h2", "h3", "h4", "h5"],
            "status": ["assigned"] * 5,
        }
    )
    once, count = Subjects(frozenset(), frozenset({"x"})).without("sids", rows)
    assert count == 2
    twice, count = Subjects(frozenset(), frozenset({"z"})).without("sids", once)
    assert count == 1
    assert twice["item_id"].to_pylist() == [" erased 1.2", "y", " erased 1.2 2", " erased 1.2", "w"]
    assert twice["vector_hash"].to_pylist() == ["", "h2", "", "", "h5"]
    assert twice.drop_columns(["item_id", "vector_hash"]).equals(rows.drop_columns(["item_id", "vector_hash"]))
    assert Subjects(frozenset(), frozenset({"q"})).without("sids", twice)[0].equals(twice)
