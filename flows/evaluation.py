"""The held-out cases of a release: who is asked what, from events at or after its cutoff."""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.behaviour import LogSlice
from pipelines.ingest import Counts
from pipelines.user_buckets import bucket_count, in_buckets
from storage.lake import Lake
from tokenizer.trie import Trie
from training.evaluate import EvaluationCases
from training.events import event_kinds, only_shown, positive
from training.spec import GeneratorSpec

Ints = NDArray[np.int64]
FOREVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class _Bucket:
    """Of some users: rows and kinds of what was known before each target, how many a case, the rows of the targets; and
    rows of what the release learnt from, how many a user."""

    rows: Ints
    kinds: Ints
    known: Ints
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
    read = in_buckets(lake, log, trie.item_ids, buckets, Counts("evaluation"), learnt)
    parts = [_bucket(rows, learnt.cutoff, negative_events, model) for rows in read]
    targets = np.concatenate([part.targets for part in parts])
    if not len(targets):
        return None
    rows = np.concatenate([part.rows for part in parts])
    bounds = _bounds(np.concatenate([part.known for part in parts]))
    cases = EvaluationCases(
        codes=trie.codes()[rows],
        kinds=np.concatenate([part.kinds for part in parts]),
        offsets=bounds,
        seen_rows=rows,
        seen_offsets=bounds,
        target_rows=targets,
        rows=rows,
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

    is_known = row >= 0
    kinds = event_kinds(table.filter(is_known), shown[is_known], model.behaviours, model.sessions)
    place, owner, row_known = np.flatnonzero(is_known), user[is_known], row[is_known]
    before = place < target[owner]
    learnt = positive(kinds) & ~rows["fresh"].to_numpy()[is_known]
    return _Bucket(
        rows=row_known[before],
        kinds=kinds[before],
        known=np.bincount(owner[before], minlength=len(target))[target >= 0],
        targets=row[target[target >= 0]],
        learnt=row_known[learnt],
        learnt_of=np.bincount(owner[learnt], minlength=len(target)),
    )


def _bounds(counts: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
