"""Evaluation cases: for each user the last event held out is the target, and all events before it are the context."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from tokenizer.arrays.types import Ints
from training.data.events import event_kinds, only_shown
from training.spec import GeneratorSpec


@dataclass(frozen=True)
class EvaluationCases:
    """Held-out events with their contexts. Ragged parts are flat: case i holds [offsets[i], offsets[i+1]).

    codes (E, L) and kinds (E,) (see training/data/events.py) of the context events that the model reads, oldest first,
    with `offsets` (n+1,). `taken_rows` (T,): rows in `trie.item_ids` of the positive context events, oldest first, with
    `taken_offsets` (n+1,). `target_rows` (n,): rows of the targets, -1 for an item that is not in the release.
    """

    codes: npt.NDArray[np.int32]
    kinds: Ints
    offsets: Ints
    taken_rows: Ints
    taken_offsets: Ints
    target_rows: Ints

    def __len__(self) -> int:
        return len(self.target_rows)

    def taken(self, cases: Ints) -> list[Ints]:
        """Return items that the user of each of these cases took, without those only shown."""
        return [self.taken_rows[self.taken_offsets[case] : self.taken_offsets[case + 1]] for case in cases]


@dataclass(frozen=True)
class HeldOutEvents:
    """Evaluation cases, and for each user the items of the positive events trained on, oldest first."""

    cases: EvaluationCases
    trained_on: list[Ints]


@dataclass(frozen=True)
class _Bucket:
    """Cases of some users as flat arrays of item rows in the trie, with lengths.

    `rows`, `kinds`: events read before a target (`read` per case). `taken`: positive events before it (`taken_counts`
    per case). `targets`: one row per case. `trained_on`: positive events trained on (`trained_counts` per user).
    """

    rows: Ints
    kinds: Ints
    read: Ints
    taken: Ints
    taken_counts: Ints
    targets: Ints
    trained_on: Ints
    trained_counts: Ints


def held_out_events(
    buckets: Iterable[pl.DataFrame],
    codes: npt.NDArray[np.int32],
    cutoff: datetime,
    negative_events: tuple[str, ...],
    model: GeneratorSpec,
) -> HeldOutEvents | None:
    """Return a case per user with a positive event at or after `cutoff`, or None if there is none.

    A bucket has whole users, their events sorted by user and time, with `row`, the item's row in the trie (null if it
    has none), and `fresh`, which marks events that were not trained on. `codes` (N, L) are those of the trie's items.
    """
    parts = [_bucket(rows, cutoff, negative_events, model) for rows in buckets]
    targets = np.concatenate([part.targets for part in parts])
    if not len(targets):
        return None
    cases = EvaluationCases(
        codes=codes[np.concatenate([part.rows for part in parts])],
        kinds=np.concatenate([part.kinds for part in parts]),
        offsets=_bounds(np.concatenate([part.read for part in parts])),
        taken_rows=np.concatenate([part.taken for part in parts]),
        taken_offsets=_bounds(np.concatenate([part.taken_counts for part in parts])),
        target_rows=targets,
    )
    per_user = _bounds(np.concatenate([part.trained_counts for part in parts]))
    return HeldOutEvents(cases, np.split(np.concatenate([part.trained_on for part in parts]), per_user[1:-1]))


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
    trained_on = taken[~rows["fresh"].to_numpy()[taken]]
    return _Bucket(
        rows=row[read[before]],
        kinds=kinds[before],
        read=per_user(read[before])[target >= 0],
        taken=row[taken_before],
        taken_counts=per_user(taken_before)[target >= 0],
        targets=row[target[target >= 0]],
        trained_on=row[trained_on],
        trained_counts=per_user(trained_on),
    )


def _bounds(counts: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
