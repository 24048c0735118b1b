"""Events of equal times stay in the order in which they came, for every reader of the log."""

from datetime import UTC, datetime
from pathlib import Path
from random import Random

import numpy as np
import polars as pl
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from log_rows import START, WHO, event, order

from pipelines.event_log.event_order import ORDER, in_order, read_in_order
from pipelines.event_log.visible_log import COLUMNS, LogSlice, histories
from pipelines.ingest.events.ingest import ingest_interactions
from pipelines.ingest.items.ingest import ingest_items
from pipelines.sequences import SequencesJob, build_sequences, read_bucket
from pipelines.sources.files import find_sources
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec
from pipelines.spec import CollaborativeSpec
from storage.lake import Lake

ITEMS = [f"i{number}" for number in range(12)]
FAR = datetime(2100, 1, 1, tzinfo=UTC)


def days_alone(folder: Path) -> tuple[Lake, list[str]]:
    """A lake with a log of days in three files of two deliveries, and the items in the order in which they came."""
    lake = Lake(str(folder / "lake"))
    catalogue = folder / "items.csv"
    catalogue.write_text("item_id,title\n" + "".join(f"{item},{item}\n" for item in ITEMS))
    ingest_items(lake, find_sources(str(catalogue))[0], ItemsSpec(), START, WHO)
    draw, came = np.random.default_rng(7), []
    for name, hour in (("b", 0), ("c", 0), ("a", 1)):
        taken = draw.permutation(ITEMS).tolist()
        path = folder / f"{name}.csv"
        path.write_text(
            "user_id,item_id,event_time,session_id\n" + "".join(f"u,{t},2014-07-01,{name}\n" for t in taken)
        )
        arrived = START.replace(hour=hour)
        ingest_interactions(lake, find_sources(str(path))[0], InteractionsSpec(), arrived, WHO)
        came += taken
    return lake, came


def test_a_log_of_days_is_read_in_the_order_of_its_files_by_behaviour_and_by_sequences(tmp_path: Path) -> None:
    lake, came = days_alone(tmp_path)
    codes = np.arange(len(ITEMS), dtype=np.int32)[:, None]
    for name in ("before", "compacted"):
        log = LogSlice(lake.version("interactions"), FAR, FAR)
        seen = histories(log.read(lake, COLUMNS), CollaborativeSpec(min_events=1))
        assert [seen.names[item] for item in seen.item] == came
        build_sequences(lake, SequencesJob(name, log, pa.array(ITEMS), codes, 1), WHO)
        assert read_bucket(lake, name, 0)["item_id"].to_pylist() == came
        lake.open("interactions").optimize.compact()
        lake.open("sequences").optimize.compact()
        assert read_bucket(lake, name, 0)["item_id"].to_pylist() == came


rows = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)), max_size=30)


@given(rows, st.randoms())
@settings(deadline=None)
def test_the_order_does_not_depend_on_that_in_which_rows_are_stored(given_rows: list[tuple[int, ...]], draw) -> None:  # type: ignore[no-untyped-def]
    made = [event(user, item, minute, day, name) for name, (user, item, minute, day) in enumerate(given_rows)]
    shuffled = draw.sample(made, len(made))
    found = in_order(pl.DataFrame({name: [row[name] for row in shuffled] for name in ORDER}))
    assert found["event_id"].to_list() == [row["event_id"] for row in sorted(made, key=order)]


@given(rows, st.integers(1, 20), st.randoms())
@settings(deadline=None)
def test_ids_are_read_only_where_other_columns_leave_events_equal(
    given_rows: list[tuple[int, ...]], offsets: int, draw: Random
) -> None:
    """`offsets` rows of a file have different places; more rows repeat them, as rows that came from no file do."""
    made = [event(*row, name) | {"source_offset": name % offsets} for name, row in enumerate(given_rows)]
    shuffled, asked = draw.sample(made, len(made)), list[bool]()
    stored = pl.DataFrame({name: [row[name] for row in shuffled] for name in ("item_id", *ORDER)})

    def read(columns: list[str]) -> pl.DataFrame:
        asked.append("event_id" in columns)
        return stored.select("item_id", *columns)

    columns = ["item_id", *ORDER[:-1]]
    assert read_in_order(read).select(columns).equals(in_order(stored).select(columns))
    keys = [order(row) for row in made]
    assert asked == ([False] if len(set(keys)) == len(keys) else [False, True])
