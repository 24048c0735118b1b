"""Evaluation cases of a release: contexts and targets from events at or after its cutoff."""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pyarrow as pa

from pipelines.counts import Counts
from pipelines.event_log.user_buckets import TrainedSlice, bucket_count, in_buckets
from pipelines.event_log.visible_log import LogSlice
from storage.lake import Lake
from tokenizer.arrays.types import Ints
from tokenizer.trie.trie import Trie
from training.data.events import event_kinds, only_shown
from training.evaluation.evaluate import EvaluationCases
from training.spec import GeneratorSpec

# Later than all events: as a bound it excludes none.
FOREVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class _Bucket:
    """Cases of some users as flat arrays of item rows in the trie, with lengths.

    `rows`, `kinds`: events read before a target (`read` per case). `taken`: positive events before it (`taken_counts`
    per case). `targets`: one row per case. `learnt`: positive events of the slice (`learnt_counts` per user).
    """

    rows: Ints
    kinds: Ints
    read: Ints
    taken: Ints
    taken_counts: Ints
    targets: Ints
    learnt: Ints
    learnt_counts: Ints


def evaluation_cases(
    lake: Lake, learnt: LogSlice, trie: Trie, version: int, negative_events: tuple[str, ...], model: GeneratorSpec
) -> tuple[EvaluationCases, list[Ints]] | None:
    """Return a case per user with a positive event at or after the cutoff of `learnt`: the last one is the target.

    The context is the user's earlier events on items of the trie, also those after the cutoff: the model was not
    trained on them, but a recommender in service sees them. The second result has the trie rows of each user's positive
    events in the slice `learnt`, oldest first, for popularity and neighbours. None if nothing is held out.

    The log is read by buckets of users; a row and a kind are kept of each event.
    """
    log = LogSlice(version, FOREVER, FOREVER)
    buckets = bucket_count(lake, log)
    read = in_buckets(lake, log, trie.item_ids, buckets, Counts("evaluation"), TrainedSlice(learnt, trie.item_ids))
    parts = [_bucket(rows, learnt.cutoff, negative_events, model) for rows in read]
    targets = np.concatenate([part.targets for part in parts])
    if not len(targets):
        return None
    cases = EvaluationCases(
        codes=trie.codes()[np.concatenate([part.rows for part in parts])],
        kinds=np.concatenate([part.kinds for part in parts]),
        offsets=_bounds(np.concatenate([part.read for part in parts])),
        taken_rows=np.concatenate([part.taken for part in parts]),
        taken_offsets=_bounds(np.concatenate([part.taken_counts for part in parts])),
        target_rows=targets,
    )
    per_user = _bounds(np.concatenate([part.learnt_counts for part in parts]))
    return cases, np.split(np.concatenate([part.learnt for part in parts]), per_user[1:-1])


def _bucket(rows: pl.DataFrame, cutoff: datetime, negative_events: tuple[str, ...], model: GeneratorSpec) -> _Bucket:
    """Return the cases of some users, whose events are sorted by user and time."""
    table = rows.to_arrow()
    row = rows["row"].fill_null(-1).to_numpy().astype(np.int64)
    user = rows["user_id"].rle_id().to_numpy().astype(np.int64)
    shown = only_shown(table, negative_events)
    held_out = np.flatnonzero(~shown & (rows["event_time"] >= cutoff).to_numpy())
    target = np.full(user[-1] + 1 if len(user) else 0, -1, np.int64)
    target[user[held_out]] = held_out  # the last assignment wins

    def per_user(events: Ints) -> Ints:
        return np.bincount(user[events], minlength=len(target))

    # Starts of sessions are found among the events that a model reads, as in training.
    read = np.flatnonzero((row >= 0) & ~(shown & model.positive_only))
    kinds = event_kinds(table.take(pa.array(read)), shown[read], model.behaviours, model.sessions)
    before = read < target[user[read]]
    taken = np.flatnonzero((row >= 0) & ~shown)
    taken_before = taken[taken < target[user[taken]]]
    learnt = taken[~rows["fresh"].to_numpy()[taken]]
    return _Bucket(
        rows=row[read[before]],
        kinds=kinds[before],
        read=per_user(read[before])[target >= 0],
        taken=row[taken_before],
        taken_counts=per_user(taken_before)[target >= 0],
        targets=row[target[target >= 0]],
        learnt=row[learnt],
        learnt_counts=per_user(learnt),
    )


def _bounds(counts: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
