"""Nothing fitted sees past the cutoff, and vectors from behaviour say what is taken together."""

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.collaborative.sequence_model import fit_collaborative
from pipelines.collaborative.sppmi import fit_rows
from pipelines.event_log.visible_log import COLUMNS, LogSlice, histories
from pipelines.fusion.fit import fit_fusion
from pipelines.fusion.fuse import placed
from pipelines.modalities import Modality
from pipelines.spec import CollaborativeSpec, FusionSpec
from storage.commit import Provenance, append
from storage.lake import Lake
from storage.schemas import INTERACTIONS
from tokenizer.assign import Occupancy, assign_sids
from tokenizer.fit import fit_codebook
from tokenizer.spec import CodebookSpec
from training.sasrec.item_embeddings import item_embeddings_of
from training.spec import ItemEmbeddingsSpec

START = datetime(2024, 1, 1, tzinfo=UTC)
CUTOFF = START + timedelta(days=10)
TOWER = ItemEmbeddingsSpec(dim=4, heads=2, ff=4, epochs=2, further_epochs=1, batch_size=4)
FUSING = FusionSpec(dim=16, hidden=16, heads=2, epochs=1, steps=5, batch_size=64)


def collaborative_vectors(lake: Lake, log: LogSlice, spec: CollaborativeSpec) -> pl.DataFrame:
    seen = histories(log.read(lake, COLUMNS), spec)
    fitted = fit_rows(seen, spec)
    assert fitted is not None
    return fitted[0].fold(seen)


def events(rows: list[tuple[str, str, datetime]], arrival: datetime | None = None) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "event_id": f"{user}-{item}-{time.isoformat()}",
                "user_id": user,
                "item_id": item,
                "event_type": "click",
                "event_time": time,
                "arrival_time": arrival or time,
                "arrival_date": (arrival or time).date(),
                "session_id": None,
                "request_id": None,
                "impression": None,
                "position": None,
                "value": None,
                "source": "s",
                "source_offset": row,
            }
            for row, (user, item, time) in enumerate(rows)
        ],
        schema=INTERACTIONS.schema,
    )


def history(users: int = 12, length: int = 12) -> list[tuple[str, str, datetime]]:
    return [
        (f"u{user}", f"i{(user * 3 + step * (1 + user % 3)) % 15}", START + timedelta(hours=step))
        for user in range(users)
        for step in range(length)
    ]


FUTURE = st.lists(st.tuples(st.integers(0, 14), st.integers(0, 20), st.integers(0, 500)), max_size=20, unique=True)


@settings(max_examples=8, deadline=None)
@given(one=FUTURE, other=FUTURE, late=st.booleans())
def test_two_futures_of_one_past_give_the_same_vectors_and_the_same_sids(
    tmp_path_factory: pytest.TempPathFactory,
    one: list[tuple[int, int, int]],
    other: list[tuple[int, int, int]],
    late: bool,
) -> None:
    """From the log to the SIDs. What differs lies at or after the cutoff, or (late) arrives after the as-of time."""
    made = []
    for future in (one, other):
        lake = Lake(str(tmp_path_factory.mktemp("lake")))
        append(lake, "interactions", events(history()), "past", Provenance("t", "r"))
        start = CUTOFF - timedelta(days=9) if late else CUTOFF
        rows = [(f"u{user}", f"i{item}", start + timedelta(hours=hour)) for user, item, hour in future]
        if rows:
            append(lake, "interactions", events(rows, arrival=CUTOFF), "future", Provenance("t", "r"))
        made.append(sids_of(lake, LogSlice(lake.version("interactions"), CUTOFF - timedelta(microseconds=1), CUTOFF)))
    assert made[0] == made[1]
    assert len(set(map(tuple, made[0][2]))) == 15


def test_nor_does_a_sequence_model_see_the_future(tmp_path: Path) -> None:
    made = []
    for user in (0, 1):
        lake = Lake(str(tmp_path / str(user)))
        append(lake, "interactions", events(history()), "past", Provenance("t", "r"))
        rows = [(f"u{user}", f"i{(user + step) % 15}", CUTOFF + timedelta(hours=step)) for step in range(9)]
        append(lake, "interactions", events(rows, arrival=CUTOFF), "future", Provenance("t", "r"))
        made.append(sids_of(lake, LogSlice(lake.version("interactions"), CUTOFF, CUTOFF), "both"))
    assert made[0] == made[1]


def sids_of(lake: Lake, log: LogSlice, method: str = "sppmi") -> tuple[bytes, bytes, list[list[int]]]:
    """Collaborative vectors, fused vectors and SIDs of 15 items, made as a run makes them."""
    spec = CollaborativeSpec.model_validate({"dim": 4, "window": 3, "method": method})
    seen = histories(log.read(lake, COLUMNS), spec)
    since = seen.newest(FUSING.recent)
    behaviour = fit_collaborative(seen, spec, since, partial(item_embeddings_of, spec=TOWER))
    assert behaviour is not None
    items = pl.DataFrame({"item_id": sorted(f"i{number}" for number in range(15))})
    text = np.random.default_rng(0).standard_normal((15, 6)).astype(np.float32)
    known = {
        "text": Modality(text, np.ones(15, np.bool_)),
        "collaborative": placed(items, behaviour.vectors),
    }
    before = {"collaborative": placed(items, behaviour.before)}
    row = {item: row for row, item in enumerate(items["item_id"])}
    pairs = np.array([row[name] for name in seen.names])[seen.pairs(FUSING.pair_window, since)]
    assert len(pairs)
    fused, _ = fit_fusion(known, FUSING, pairs, before).transform(known)
    ids = items["item_id"].to_list()
    book = fit_codebook({"fused": fused}, ids, CodebookSpec.model_validate({"levels": [{"codes": 4}] * 3}))
    codes = assign_sids(book, {"fused": fused}, ids, Occupancy.empty(3)).codes
    return known["collaborative"].vectors.tobytes(), fused.tobytes(), codes.tolist()


def test_items_consumed_together_get_near_vectors(tmp_path: Path) -> None:
    rows = [
        (f"u{user}", f"i{(user % 2) * 5 + (user + step) % 5}", START + timedelta(hours=step))
        for user in range(40)
        for step in range(5)
    ]
    lake = Lake(str(tmp_path))
    append(lake, "interactions", events(rows), "log", Provenance("t", "r"))
    log = LogSlice(lake.version("interactions"), CUTOFF, CUTOFF)
    found = collaborative_vectors(lake, log, CollaborativeSpec(dim=2, window=3))
    vectors = np.array(found["vector"].to_list())
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    group = np.array([int(item[1:]) // 5 for item in found["item_id"]])
    similar = unit @ unit.T
    same = group[:, None] == group[None, :]
    assert similar[same].min() > similar[~same].max()
