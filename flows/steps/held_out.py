"""The held-out cases of a release: who is asked what, from events at or after its cutoff."""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pyarrow as pa

from pipelines.event_log.user_buckets import TrainedSlice, bucket_count, in_buckets
from pipelines.event_log.visible_log import LogSlice
from pipelines.ingest.accounting import Counts
from storage.lake import Lake
from tokenizer.arrays.types import Ints
from tokenizer.trie.trie import Trie
from training.data.events import event_kinds, only_shown
from training.evaluation.evaluate import EvaluationCases
from training.spec import GeneratorSpec

FOREVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class _Bucket:
    """Of some users: rows and kinds of what is read before each target, how many a case; rows of what was taken before
    it, how many a case; the rows of the targets; and rows of what the release learnt from, how many a user."""

    rows: Ints
    kinds: Ints
    read: Ints
    taken: Ints
    taken_of: Ints
    targets: Ints
    learnt: Ints
    learnt_of: Ints


def evaluation_cases(
    lake: Lake, learnt: LogSlice, trie: Trie, version: int, negative_events: tuple[str, ...], model: GeneratorSpec
) -> tuple[EvaluationCases, list[Ints]] | None:
    """One case per user with a positive event at or after the cutoff of `learnt`: the last such event is the target.

    Context is everything of the user before it, also after the cutoff: the model never learnt from that, but a
    recommender that is asked sees it. Second result: trie rows of each user's positive events in the slice `learnt`,
    oldest first, for popularity and neighbours. None when nothing is held out.

    The log is read bucket by bucket of users; what is kept of an event is a row and a kind.
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
        taken_offsets=_bounds(np.concatenate([part.taken_of for part in parts])),
        target_rows=targets,
    )
    per_user = _bounds(np.concatenate([part.learnt_of for part in parts]))
    return cases, np.split(np.concatenate([part.learnt for part in parts]), per_user[1:-1])


def _bucket(rows: pl.DataFrame, cutoff: datetime, negative_events: tuple[str, ...], model: GeneratorSpec) -> _Bucket:
    """The cases of some users, whose events come in order of user and time."""
    table = rows.to_arrow()
    row = rows["row"].fill_null(-1).to_numpy().astype(np.int64)
    user = rows["user_id"].rle_id().to_numpy().astype(np.int64)
    shown = only_shown(table, negative_events)
    held_out = np.flatnonzero(~shown & (rows["event_time"] >= cutoff).to_numpy())
    target = np.full(user[-1] + 1 if len(user) else 0, -1, np.int64)
    target[user[held_out]] = held_out  # the last one stays

    def per_user(events: Ints) -> Ints:
        return np.bincount(user[events], minlength=len(target))

    # Sessions begin among the events that a model reads, as in training.
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
        taken_of=per_user(taken_before)[target >= 0],
        targets=row[target[target >= 0]],
        learnt=row[learnt],
        learnt_of=per_user(learnt),
    )


def _bounds(counts: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
