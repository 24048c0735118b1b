"""Ids are told to be those of items or not: the same by look-ups, by an index, and by what is certain before."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from source_rows import NOW, WHO

from pipelines.ingest.events import known_items
from pipelines.ingest.events.known_items import KnownItems
from pipelines.ingest.items.ingest import ingest_items
from pipelines.sources.files import find_sources
from pipelines.sources.source_spec import ItemsSpec
from storage.lake import Lake

IDS = st.lists(st.text("ab\x00é", min_size=1, max_size=3), max_size=12)
LOOKED_UP, INDEXED = -(1 << 40), 1 << 40
"""Values of GROUP_ROWS with which an index is never made, and is made after one look-up."""


def lake_of(folder: Path, items: list[str]) -> Lake:
    lake = Lake(str(folder / "lake"))
    if items:
        pl.DataFrame({"item_id": items, "title": items}).write_parquet(folder / "items.parquet")
        (source,) = find_sources(str(folder / "items.parquet"))
        ingest_items(lake, source, ItemsSpec(), NOW, WHO)
    return lake


@pytest.mark.parametrize("rows", [LOOKED_UP, 8, INDEXED])
@settings(max_examples=25, deadline=None)
@given(items=IDS, parts=st.lists(IDS, max_size=3), certain=st.booleans())
def test_each_part_is_told_what_the_catalogue_has(
    rows: int, items: list[str], parts: list[list[str]], certain: bool
) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(known_items, "GROUP_ROWS", rows)
        lake = lake_of(Path(folder), sorted(set(items)))
        there = set(lake.frame("items")["item_id"])
        half = sorted(there)[::2]

        def has(ids: pl.Series) -> NDArray[np.bool_]:
            return ids.is_in(half).to_numpy()

        known = KnownItems(lake, has if certain else None)
        for part in parts:
            asked = pl.Series(part, dtype=pl.String)
            assert known.known(asked).to_list() == [item in there for item in part]


def test_many_look_ups_read_the_catalogue_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_items, "GROUP_ROWS", 8)
    lake, read = lake_of(tmp_path, [f"i{number:03}" for number in range(200)]), []
    whole = Lake.read
    monkeypatch.setattr(Lake, "read", lambda self, *given, **named: read.append(named) or whole(self, *given, **named))
    known = KnownItems(lake, None)
    for start in range(0, 300, 10):
        asked = pl.Series([f"i{number:03}" for number in range(start, start + 10)])
        assert known.known(asked).to_list() == [number < 200 for number in range(start, start + 10)]
    assert len([each for each in read if each.get("among") is not None]) == 2, "20 ids cost less than all 200"
    assert len(read) == 3
