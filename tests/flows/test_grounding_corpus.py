"""The folder of a grounding corpus: whose it is, and what a run that is stopped leaves in it."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows import grounding as module
from flows.grounding import FolderTaken, GroundingManifest, export_grounding
from pipelines.grounding import SCHEMA
from tokenizer.trie.trie import Trie

ROW = {"task": "sid_to_title", "item_id": "i0", "prompt": "?", "response": "!", "sid": "<a_0>"}


def release(name: str, trie: str = "0" * 64) -> Any:
    """As much of a manifest as an export reads."""
    day = np.datetime64("2026-01-01").astype(object)
    return SimpleNamespace(
        id=name,
        recipe={},
        trie=SimpleNamespace(sha256=trie),
        codebook=SimpleNamespace(vocabulary="v"),
        versions={"items": 0, "interactions": 0},
        as_of=day,
        cutoff=day,
    )


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int | Exception]:
    """Rows of each batch that the corpus has, or what stops it there."""
    sizes: list[int | Exception] = [2, 2, 1]

    def corpus(*_: Any) -> Iterator[pa.RecordBatch]:
        for size in sizes:
            if isinstance(size, Exception):
                raise size
            yield pa.RecordBatch.from_pylist([ROW] * size, schema=SCHEMA)

    monkeypatch.setattr(module, "grounding", corpus)
    monkeypatch.setattr(module, "open_trie", lambda *_: Trie.build(np.array([[0]]), pa.array(["i0"]), (2,)))
    monkeypatch.setattr(module, "PART_ROWS", 3)
    return sizes


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def export(name: str, folder: Path, **other: str) -> GroundingManifest:
    return export_grounding(None, release(name, **other), folder)  # type: ignore[arg-type]


def test_parts_hold_all_rows_and_the_manifest_their_hashes(tmp_path: Path, batches: list[int | Exception]) -> None:
    made = export("r-000001", tmp_path / "new" / "corpus")
    found = contents(tmp_path / "new" / "corpus")
    assert json.loads(found.pop("manifest.json")) == json.loads(json.dumps(asdict(made)))
    assert made.parts == {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}
    rows = [pq.read_table(tmp_path / "new" / "corpus" / name).num_rows for name in sorted(found)]
    assert rows == [4, 1]
    assert made.rows == {"sid_to_title": 5, "title_to_sid": 0, "attribute_of_sid": 0, "co_consumed": 0}
    assert made.special_tokens == ["<a_0>", "<a_1>"]


def test_a_stopped_export_leaves_no_manifest_and_the_next_leaves_nothing_of_it(
    tmp_path: Path, batches: list[int | Exception]
) -> None:
    export("r-000001", tmp_path / "whole")
    batches[:] = [3, 3, 3, RuntimeError("stopped")]
    folder = tmp_path / "folder"
    with pytest.raises(RuntimeError, match="stopped"):
        export("r-000001", folder)
    assert sorted(contents(folder)) == [f"grounding-r-000001-0000{number}.parquet" for number in range(3)]
    batches[:] = [2, 2, 1]
    export("r-000001", folder)
    assert contents(folder) == contents(tmp_path / "whole")
    batches[:] = [RuntimeError("stopped")]
    with pytest.raises(RuntimeError, match="stopped"):
        export("r-000001", folder)
    assert "manifest.json" not in contents(folder)


def test_a_folder_with_anything_else_is_refused_and_stays_as_it_is(
    tmp_path: Path, batches: list[int | Exception]
) -> None:
    folder = tmp_path / "folder"
    export("r-000001", folder)
    before = contents(folder)
    with pytest.raises(FolderTaken, match=r"the corpus of r-000001 .*, not that of r-000002 .*; give an empty folder"):
        export("r-000002", folder)
    with pytest.raises(FolderTaken, match=r"r-000001 \(00000000\), not that of r-000001 \(ffffffff\)"):
        export("r-000001", folder, trie="f" * 64)
    assert contents(folder) == before
    (folder / "manifest.json").unlink()
    with pytest.raises(FolderTaken, match=r"contains grounding-r-000001-00000.parquet; give an empty folder"):
        export("r-000002", folder)
    for text in ("{", "[]", '{"name": "an app"}'):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(FolderTaken, match=r"a manifest.json that is not of a corpus"):
            export("r-000001", folder)
    with pytest.raises(FolderTaken, match="is a file; give a folder"):
        export("r-000001", folder / "manifest.json")
