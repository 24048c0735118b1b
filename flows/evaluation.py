"""The held-out cases of a release: who is asked what, from events at or after its cutoff."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from storage.lake import Lake
from storage.manifest import Manifest
from tokenizer.trie import Trie
from training.evaluate import EvaluationCases
from training.events import OF_ONE_EVENT, SHOWN

Ints = NDArray[np.int64]


def evaluation_cases(
    lake: Lake,
    manifest: Manifest,
    trie: Trie,
    version: int,
    negative_events: tuple[str, ...],
    behaviours: tuple[str, ...] = (),
) -> tuple[EvaluationCases, list[Ints]] | None:
    """One case per user with a positive event at or after the cutoff: the last such event is the target.

    Context is everything of the user before it, also after the cutoff: the model never learnt from that, but a
    recommender that is asked sees it. Second result: trie rows of each user's positive events before the cutoff and
    visible to the release, oldest first, for popularity and neighbours. None when nothing is held out.
    """
    columns = ["user_id", "item_id", "event_time", "event_id", "event_type", "impression", "arrival_time"]
    log = lake.frame("interactions", version, columns)
    rows = pl.DataFrame({"item_id": pl.Series(trie.item_ids, dtype=pl.String)}).with_row_index("row")
    log = (
        log.join(rows.cast({"row": pl.Int64}), on="item_id", how="left")
        .with_columns(
            positive=~pl.col("event_type").is_in(negative_events) & ~pl.col("impression").fill_null(False),
            row=pl.col("row").fill_null(-1),
        )
        .sort("user_id", "event_time", "event_id")
        .with_columns(place=pl.int_range(pl.len()).over("user_id"))
    )
    held_out = log.filter(pl.col("positive") & (pl.col("event_time") >= manifest.cutoff))
    targets = held_out.group_by("user_id", maintain_order=True).last()
    if targets.is_empty():
        return None
    before = log.join(targets.select("user_id", target_place="place"), on="user_id").filter(
        pl.col("place") < pl.col("target_place")
    )
    known = before.filter(pl.col("row") >= 0)
    users = targets["user_id"]
    codes = trie.codes()
    named = {name: OF_ONE_EVENT + at for at, name in enumerate(behaviours)} or {"": 0}
    cases = EvaluationCases(
        codes=codes[known["row"].to_numpy()],
        kinds=known.select(
            pl.when("positive").then(pl.col("event_type").replace_strict(named, default=0)).otherwise(SHOWN)
        )
        .to_series()
        .to_numpy()
        .astype(np.int64),
        offsets=_offsets(users, known),
        seen_rows=known["row"].to_numpy(),
        seen_offsets=_offsets(users, known),
        target_rows=targets["row"].to_numpy(),
        rows=known["row"].to_numpy(),
    )
    learnt = log.filter(
        pl.col("positive")
        & (pl.col("row") >= 0)
        & (pl.col("event_time") < manifest.cutoff)
        & (pl.col("arrival_time") <= manifest.as_of)
    )
    users = learnt["user_id"].unique(maintain_order=True)
    return cases, np.split(learnt["row"].to_numpy(), _offsets(users, learnt)[1:-1])


def _offsets(users: pl.Series, events: pl.DataFrame) -> Ints:
    """Bounds of each user's rows in `events`, which are grouped in the order of `users`."""
    counts = events.group_by("user_id").len()
    aligned = pl.DataFrame({"user_id": users}).join(counts, on="user_id", how="left", maintain_order="left")
    return np.concatenate([[0], np.cumsum(aligned["len"].fill_null(0).to_numpy())]).astype(np.int64)
