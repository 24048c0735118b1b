"""Rows of the catalogue that workers read from its files are those that a process of its own would have read."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_rows import START, WHO

from pipelines.compute.executors import Compute, InProcess, OnRay
from pipelines.embed import item_rows
from pipelines.embed.attributes import values_of
from pipelines.embed.contents import ContentKind, contents_of, items_content, items_pictures, items_text
from pipelines.embed.embed import EncodingJob, embed
from pipelines.embed.item_rows import CataloguePart, RowsHere, RowsOfFiles, item_parts
from pipelines.embed.stages import EmbedText
from pipelines.spec import ComputeSpec, TextSpec
from storage.commit import append
from storage.files import data_files
from storage.lake import Lake
from storage.releases.catalogue import catalogue
from storage.schemas import ITEMS
from tokenizer.arrays.executor import LOCAL_THREADS

Files: TypeAlias = list[list[tuple[int, int, bool]]]
COLUMNS = ("item_id", "title", "attributes", "images")
DAY = timedelta(days=1)
ROW = st.tuples(st.integers(0, 12), st.integers(0, 2), st.booleans())
FILES = st.lists(st.lists(ROW, min_size=1, max_size=9), max_size=4)
KINDS = {
    "text": ContentKind(lambda items: items_text(items, ("title", "brand")), EmbedText.longest_first),
    "image": ContentKind(items_pictures),
    "attributes": ContentKind(lambda items: items_content(items, lambda found: values_of(found, ("brand",)))),
}


def deliver(lake: Lake, files: Files) -> None:
    """Write a file of rows (item, day of arrival, deleted) each time; the revision of a row is its number."""
    revision = 0
    for number, rows in enumerate(files):
        table = []
        for place, (item, day, deleted) in enumerate(rows):
            brand = {"brand": f"brand {revision % 3}"} if revision % 4 else {"size": 1}
            pictures = ["p" * 64, "q" * 64][: revision % 3]
            found = {"item_id": f"i{item:02d}", "revision": revision, "title": "word " * (revision % 5)}
            found |= {"attributes": json.dumps(brand), "text_hash": "h", "images": pictures, "deleted": deleted}
            table.append({**found, "arrived_at": START + day * DAY, "source": "s", "source_row": place})
            revision += 1
        append(lake, "items", pa.Table.from_pylist(table, schema=ITEMS.schema), str(number), WHO)


def alive(lake: Lake, day: int) -> pl.DataFrame:
    return catalogue(lake, as_of=START + day * DAY).filter(~pl.col("deleted"))


def parts_of(lake: Lake, items: pl.DataFrame, day: int) -> tuple[CataloguePart, ...]:
    return item_parts(lake, items, lake.version("items"), START + day * DAY, COLUMNS)


@settings(max_examples=40, deadline=None)
@given(files=FILES, day=st.integers(0, 2), part_rows=st.integers(1, 6), draw=st.randoms(use_true_random=False))
def test_parts_cover_each_item_once_with_its_newest_row_and_contents_are_those_of_one_part(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[list[tuple[int, int, bool]]],
    day: int,
    part_rows: int,
    draw: Any,
) -> None:
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_files, "GROUP_BYTES", 1)
        patch.setattr(data_files, "MIN_GROUP_ROWS", 2)
        deliver(lake, files)
        items = alive(lake, day)
        patch.setattr(item_rows, "PART_ROWS", part_rows)
        parts = parts_of(lake, items.select("item_id", "revision"), day)
    assert sorted(place for part in parts for place in part.places.tolist()) == list(range(items.height))
    for part in parts:
        assert isinstance(part.rows, RowsHere if items.height <= part_rows else RowsOfFiles)
        assert part.rows.read().equals(items[part.places].select(COLUMNS))
        some = np.array(sorted(draw.sample(range(len(part.rows)), draw.randint(0, len(part.rows)))), np.int64)
        if len(some):
            assert part.rows.take(some).read().equals(items[part.places[some]].select(COLUMNS))
    whole = (CataloguePart(RowsHere(items.select(COLUMNS)), np.arange(items.height, dtype=np.int32)),)
    expected, known = contents_of(items["item_id"], whole, KINDS, LOCAL_THREADS, names=True)
    found, names = contents_of(items["item_id"], parts, KINDS, LOCAL_THREADS, names=True)
    assert names == known
    for name, kind in KINDS.items():
        made = kind.make(items)
        assert found[name].pairs.equals(expected[name].pairs)
        assert found[name].pairs["item_id"].to_list() == made["item_id"].to_list()
        rows = {place for part in found[name].parts for place in part.places.tolist()}
        assert rows == set(range(made.height))
        for part in found[name].parts:
            if len(part.rows):
                assert part.rows.read()["item_id"].to_list() == found[name].pairs["item_id"][part.places].to_list()


def test_what_workers_encode_from_files_is_stored_as_what_this_process_gives_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ray_cluster: None
) -> None:
    lake = Lake(str(tmp_path))
    deliver(lake, [[(7 * number % 40, 0, False) for number in range(start, start + 10)] for start in range(0, 40, 10)])
    items, spec = alive(lake, 0).select("item_id", "revision"), ComputeSpec(encoder_workers=1)

    def vectors(name: str, compute: Compute) -> pl.DataFrame:
        kinds = {"text": KINDS["text"]}
        contents, _ = contents_of(items["item_id"], parts_of(lake, items, 0), kinds, compute.work)
        job = EncodingJob(lake, "text", name, EmbedText, {"spec": TextSpec()}, kinds["text"], 6)
        done: list[int] = []
        with pytest.MonkeyPatch.context() as patch:
            if isinstance(compute, OnRay):  # this process reads no title then; workers import their own class
                patch.setattr(RowsOfFiles, "read", None)
            counts = embed(job, contents["text"], compute, WHO, done.append)
        assert (counts.rows_in, counts.out, counts.by_reason) == (40, 38, {"empty_text": 2})
        assert sum(done) == 40
        again = embed(job, contents["text"], InProcess(spec), WHO, done.append)
        assert (again.unchanged, again.out, again.by_reason) == (38, 0, {"empty_text": 2})
        return lake.frame("vectors").filter(pl.col("fingerprint") == name).sort("item_id")

    here = vectors("here", InProcess(spec))
    monkeypatch.setattr(item_rows, "PART_ROWS", 9)
    in_files = vectors("in files", InProcess(spec))
    in_workers = vectors("in workers", OnRay(spec))
    for there in (in_files, in_workers):
        assert there.select("item_id", "content_hash").equals(here.select("item_id", "content_hash"))
        assert np.allclose(there["vector"].to_list(), here["vector"].to_list(), atol=1e-6)
