"""Rows looked up by item: the right ones, from the row groups that may hold them, however large the table is."""

import bisect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st
from made_releases import WHO

from storage.commit import append
from storage.files import data_files
from storage.files.among import Among
from storage.lake import Lake
from storage.schemas import VECTORS

ITEMS = st.lists(st.text(alphabet="abyzé\U0001f600", min_size=1, max_size=3), max_size=25)


def vectors(items: list[str], fingerprint: str, width: int = 2) -> pa.Table:
    values = np.arange(len(items) * width, dtype=np.float32).reshape(len(items), width)
    return pa.table(
        {
            "item_id": items,
            "modality": ["text"] * len(items),
            "content_hash": [f"h{place}" for place in range(len(items))],
            "fingerprint": [fingerprint] * len(items),
            "vector": values.tolist(),
        },
        schema=VECTORS.schema,
    )


@settings(max_examples=25, deadline=None)
@given(commits=st.lists(ITEMS, max_size=4), ours=st.lists(st.booleans(), min_size=4, max_size=4), wanted=ITEMS)
def test_rows_of_some_items_are_those_of_a_scan_in_any_layout_of_files_and_row_groups(
    tmp_path_factory: pytest.TempPathFactory, commits: list[list[str]], ours: list[bool], wanted: list[str]
) -> None:
    """Files of another writer, whose bounds may be unknown, are among them."""
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_files, "MIN_GROUP_ROWS", 2)
        patch.setattr(data_files, "GROUP_BYTES", 1)
        for number, (items, own) in enumerate(zip(commits, ours, strict=False)):
            rows = vectors(items, f"f{number % 2}")
            if own:
                append(lake, "vectors", rows, f"{number}", WHO)
            elif items:
                lake.open_or_create("vectors")
                write_deltalake(lake.path("vectors"), rows, mode="append")
    where = ds.field("fingerprint") == "f0"
    for condition in (None, where):
        whole = lake.frame("vectors", where=condition)
        found = lake.frame("vectors", where=condition, among=Among.of("item_id", wanted))
        assert found.sort(*found.columns).equals(whole.filter(whole["item_id"].is_in(wanted)).sort(*whole.columns))
    batches = list(lake.batches("vectors", VECTORS.schema.names, where, among=Among.of("item_id", wanted)))
    assert sum(batch.num_rows for batch in batches) == found.height


PAIRS = st.tuples(*[st.text("abé\U0001f600", max_size=2)] * 2)
BOUNDS = st.lists(st.none() | PAIRS.map(lambda pair: (min(pair), max(pair))))


@settings(deadline=None)
@given(wanted=ITEMS, bounds=BOUNDS)
def test_a_value_may_be_within_bounds_that_are_not_above_and_not_below_it(
    wanted: list[str], bounds: list[tuple[str, str] | None]
) -> None:
    found = Among.of("item_id", wanted).may_be_within(bounds)
    assert found.tolist() == [
        bool(wanted) if each is None else any(each[0] <= item <= each[1] for item in wanted) for each in bounds
    ]


def read_by(work: Callable[[], object]) -> int:
    """Return the bytes that this process reads meanwhile."""
    before = psutil.Process().io_counters().read_chars
    work()
    return psutil.Process().io_counters().read_chars - before


def test_a_look_up_reads_as_much_of_a_table_of_ten_times_the_items(tmp_path: Path) -> None:
    read = []
    for size in (20_000, 200_000):
        lake, items = Lake(str(tmp_path / str(size))), [f"i{number:07}" for number in range(size)]
        append(lake, "vectors", vectors(items, "f", 16), "items", WHO)
        for wanted in (["i0000007", "i0012345"], [f"i{size + number:07}" for number in range(9)]):
            lake.frame("vectors", among=Among.of("item_id", wanted))  # opens and checks the footer once
            read.append(read_by(lambda: lake.frame("vectors", among=Among.of("item_id", wanted))))  # noqa: B023
            assert lake.frame("vectors", among=Among.of("item_id", wanted)).height == bisect.bisect(wanted, items[-1])
    here, absent, here_of_many, absent_of_many = read
    assert here < 3 << 20, "one or two row groups"
    assert here_of_many < here + (1 << 18)
    assert max(absent, absent_of_many) < 1 << 18, "the log alone tells that no file has them"


def test_a_look_up_of_ids_in_no_order_reads_their_vectors_and_the_ids_of_the_others(tmp_path: Path) -> None:
    lake, ids = Lake(str(tmp_path)), [f"{number:07}" for number in range(100_000)]
    append(lake, "vectors", vectors(ids, "f", 64), "items", WHO)
    lake.frame("vectors", among=Among.of("item_id", ids[:1]))
    between = [f"{name}a" for name in ids[::100]]
    spread = read_by(lambda: lake.frame("vectors", among=Among.of("item_id", between)))
    assert spread < 100_000 * 20, "the vectors are 25 MB"
    found = lake.frame("vectors", among=Among.of("item_id", [*between, ids[777]]))
    assert found["item_id"].to_list() == [ids[777]]
