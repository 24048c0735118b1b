"""The Arrow form of a trie, read with pyarrow alone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer.trie import export as trie_export
from tokenizer.trie.export import write_arrow, write_codes
from tokenizer.trie.trie import Trie


def read(path: Path) -> tuple[dict[tuple[int, ...], list[int]], dict[tuple[int, ...], str]]:
    """Return the codes after each prefix, and the item of each SID, read as docs/trie.md describes."""
    table = pa.ipc.open_file(path).read_all()
    rows = [(tuple(row["prefix"]), row["next"], row["item_id"]) for row in table.to_pylist()]
    return (
        {prefix: following for prefix, following, item in rows if item is None},
        {prefix: item for prefix, _, item in rows if item is not None},
    )


@settings(max_examples=50, deadline=None)
@given(data=st.data(), sizes=st.lists(st.sampled_from([1, 3, 9, 300]), min_size=1, max_size=4).map(tuple))
def test_every_prefix_and_every_item_is_there(
    data: st.DataObject, sizes: tuple[int, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    sids = data.draw(st.lists(st.tuples(*(st.integers(0, size - 1) for size in sizes)), unique=True, max_size=30))
    ids = [f"item é {row}" for row in range(len(sids))]
    trie = Trie.build(np.array(sids, np.int32).reshape(-1, len(sizes)), ids, sizes)
    path = tmp_path_factory.mktemp("arrow") / "trie.arrow"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trie_export, "BATCH_ROWS", 7)
        write_arrow(trie, path, {"release": "r-000001"})
        write_codes(trie, path.with_name("codes"), {"release": "r-000001"})
    table = pa.ipc.open_file(path.with_name("codes")).read_all()
    assert [field.type for field in table.schema] == [pa.large_string(), pa.list_(pa.int32())]
    assert [(tuple(row["codes"]), row["item_id"]) for row in table.to_pylist()] == sorted(zip(sids, ids, strict=True))
    assert json.loads(table.schema.metadata[b"sizes"]) == list(sizes)
    following, items = read(path)
    assert items == dict(zip(sids, ids, strict=True))
    assert following == {
        prefix: sorted({sid[len(prefix)] for sid in sids if sid[: len(prefix)] == prefix})
        for prefix in {sid[:depth] for sid in sids for depth in range(len(sizes))} | {()}
    }


def test_the_file_is_read_where_sidmill_is_not_installed(tmp_path: Path) -> None:
    codes = np.array([[0, 5], [0, 7], [2, 5]], np.int32)
    write_arrow(Trie.build(codes, ["a", "b", "c"], (3, 8)), tmp_path / "trie.arrow", {"release": "r-000007"})
    script = """
import json, sys
import pyarrow as pa
table = pa.ipc.open_file(sys.argv[1]).read_all()
meta = table.schema.metadata
assert json.loads(meta[b"sizes"]) == [3, 8] and meta[b"items"] == b"3" and meta[b"release"] == b"r-000007"
rows = {tuple(row["prefix"]): (row["next"], row["item_id"]) for row in table.to_pylist()}
assert rows == {(): ([0, 2], None), (0,): ([5, 7], None), (2,): ([5], None),
                (0, 5): ([], "a"), (0, 7): ([], "b"), (2, 5): ([], "c")}
assert not {"tokenizer", "flows"} & set(sys.modules)
"""
    command = [sys.executable, "-I", "-c", script, str(tmp_path / "trie.arrow")]
    assert subprocess.run(command, check=False, capture_output=True, text=True).stderr == ""
