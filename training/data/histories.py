"""The log loader: user histories as windows, shuffled, sharded and resumable, in batches of SID tokens.

Input is the table `sequences`, read bucket by bucket through a function, so storage stays outside. A window holds at
most `max_events` events and predicts the positive ones that no earlier window of its user predicted. So over an epoch
every positive event is predicted exactly once, for any number of workers. Windows of similar length share a step, which
keeps padding low. All work on events is numpy over a whole bucket. Memory holds a pool of some buckets, never the whole
log.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from learning.errors import CheckpointMismatch
from learning.trainable import Cursor
from tokenizer.arrays.types import Bools, Ints
from training.data.events import FIRST_OF_SESSION, Events, event_kinds, gathered, length_mask, only_shown, positive
from training.errors import SequencesInvalid
from training.spec import GeneratorSpec

ReadBucket = Callable[[int], pa.Table]

SHUFFLE_WINDOWS = 65_536
"""Windows that are shuffled together; the order of buckets is shuffled too."""
SHUFFLE_EVENTS = 4_000_000
"""Largest pool of events, plus one bucket, even if it has few windows: about 300 MB."""
DAY_US = 86_400_000_000
SORTED_STEPS = 64
"""Steps whose windows are sorted by length together."""


@dataclass(frozen=True)
class Plan:
    """The samples of a training and their order, independent of the workers that read them.

    `source` names the data (release or table version). A cursor is valid only for the plan whose `hash` it carries. The
    settings of a history (`max_events`, `long_events`, `positive_only`, `behaviours`, `sessions`) are those of
    `GeneratorSpec`. With `one_target` there is a window for each target, as its last event. With `fresh_only`, rows
    that the table marks as already learnt from are only context. With `half_life_days` what a target counts for halves
    with each half-life of its age at `newest_us`, in microseconds since 1970.
    """

    source: str
    buckets: int
    sizes: tuple[int, ...]
    batch_size: int
    max_events: int
    seed: int = 0
    negative_events: tuple[str, ...] = ("impression",)
    long_events: int = 0
    positive_only: bool = False
    behaviours: tuple[str, ...] = ()
    sessions: bool = False
    one_target: bool = False
    fresh_only: bool = False
    half_life_days: float | None = None
    newest_us: int = 0

    @property
    def hash(self) -> str:
        """Content hash of the plan, 16 hex digits."""
        settings = asdict(self)
        if self.half_life_days is None:  # a plan without weights has the hash that it had before there were any
            del settings["half_life_days"], settings["newest_us"]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Batch:
    """One worker's share of a step.

    targets (B, E) bool: the events to predict. `step_targets` counts the targets of all workers in this step;
    `event_ids` are the ids of this worker's targets, row by row, and `weights` (N,) what they count for, where they do
    not all count for 1; `step_targets` is then the sum of those of all workers.
    """

    events: Events
    targets: torch.Tensor
    step_targets: float
    event_ids: pa.Array
    weights: torch.Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on `device`."""
        targets = self.targets.to(device, non_blocking=True)
        weights = None if self.weights is None else self.weights.to(device, non_blocking=True)
        return Batch(self.events.to(device), targets, self.step_targets, self.event_ids, weights)


@dataclass(frozen=True)
class Windows:
    """Windows over a pool of events: context [start, stop), in which [predict, stop) may be targets.

    `first` is the first row of the user.
    """

    first: Ints
    start: Ints
    stop: Ints
    predict: Ints

    def __len__(self) -> int:
        return len(self.start)

    def take(self, index: Ints | Bools | slice) -> Windows:
        """Return the windows at `index`, in that order."""
        return Windows(self.first[index], self.start[index], self.stop[index], self.predict[index])


@dataclass(frozen=True)
class Pool:
    """Events of some buckets: codes (N, L), kinds (N,), possible targets `wanted` (N,), ids (N,).

    `users` holds the first row of each user, and the end. `weights` (N,) is what each target counts for, if not 1.
    """

    codes: npt.NDArray[np.int32]
    kinds: Ints
    wanted: Bools
    event_ids: pa.Array
    users: Ints
    weights: npt.NDArray[np.float64] | None = None

    @cached_property
    def counted_before(self) -> npt.NDArray[np.float64]:
        """Return the weight of the possible targets before each row, and before the end, (N + 1,)."""
        return np.concatenate([[0.0], np.cumsum(self.wanted * (1.0 if self.weights is None else self.weights))])

    @cached_property
    def positive_rows(self) -> Ints:
        """Rows of positive events (not only shown), in order."""
        return np.flatnonzero(positive(self.kinds))


def windows_of(counts: Ints, max_events: int) -> Ints:
    """Return the number of windows of users with that many events, (n,), including windows without a target."""
    return np.asarray(1 + np.maximum(0, -((max_events - counts) // max(1, max_events // 2))))


def cut(users: Ints, wanted: Bools, max_events: int, one_target: bool = False) -> Windows:
    """Return windows that predict each wanted event exactly once.

    A user's first window holds the first `max_events` events. Each later one moves on by half of that, so every later
    target has at least half a window of context. Windows without a target are left out. With `one_target` each wanted
    event is the end of its own window.
    """
    counts = np.diff(users)
    if one_target:
        predict = np.flatnonzero(wanted)
        first = np.repeat(users[:-1], counts)[predict]
        return Windows(first, np.maximum(first, predict + 1 - max_events), predict + 1, predict)
    stride = max(1, max_events // 2)
    per_user = windows_of(counts, max_events)
    first = np.cumsum(per_user) - per_user
    ordinal = np.arange(per_user.sum()) - np.repeat(first, per_user)
    base, count = np.repeat(users[:-1], per_user), np.repeat(counts, per_user)
    stop = np.minimum(count, max_events + ordinal * stride)
    predict = np.where(ordinal == 0, 0, max_events + (ordinal - 1) * stride)
    windows = Windows(base, base + np.maximum(0, stop - max_events), base + stop, base + predict)
    seen = np.concatenate([[0], np.cumsum(wanted)])
    return windows.take(seen[windows.stop] > seen[windows.predict])


def read_pool(table: pa.Table, plan: Plan, where: str) -> Pool:
    """Return events of one bucket as arrays. Rows must be sorted by user and time and hold one code per level.

    Raises SequencesInvalid, naming the bucket.
    """
    levels = len(plan.sizes)
    lengths = pc.unique(pc.list_value_length(table["codes"])).to_pylist()
    if table.num_rows and lengths != [levels]:
        raise SequencesInvalid(
            f"sequences {where}: rows have {lengths} codes, but the vocabulary has {levels} levels; "
            "rebuild the sequences of this release"
        )
    codes = np.asarray(pc.list_flatten(table["codes"]).to_numpy(), dtype=np.int32).reshape(-1, levels)
    if ((codes < 0) | (codes >= np.asarray(plan.sizes))).any():
        raise SequencesInvalid(
            f"sequences {where}: codes up to {codes.max(axis=0).tolist()} do not fit the level sizes {plan.sizes}; "
            "these sequences belong to another codebook: rebuild them for this release"
        )
    starts = _user_starts(table, where)
    shown = only_shown(table, plan.negative_events)
    if plan.positive_only:
        # Before sessions are detected, because a session begins with an event that is read.
        kept = ~shown
        starts = np.unique(np.append(0, np.cumsum(kept))[starts])
        table, codes, shown = table.filter(kept), codes[kept], shown[kept]
    kinds = event_kinds(table, shown, plan.behaviours, plan.sessions)
    wanted = ~shown & table["fresh"].to_numpy() if plan.fresh_only else ~shown
    return Pool(codes, kinds, wanted, table["event_id"].combine_chunks(), starts, _weights(table, plan))


def _weights(table: pa.Table, plan: Plan) -> npt.NDArray[np.float64] | None:
    if plan.half_life_days is None:
        return None
    age = np.maximum(0, plan.newest_us - pc.cast(table["event_time"], pa.int64()).to_numpy())
    return np.asarray(0.5 ** (age / (plan.half_life_days * DAY_US)), np.float64)


def _user_starts(table: pa.Table, where: str) -> Ints:
    """Return the first row of each user, and the number of rows. Raises SequencesInvalid for unsorted rows."""
    if not table.num_rows:
        return np.zeros(1, dtype=np.int64)
    users = table["user_id"].combine_chunks()
    new = pc.not_equal(users[1:], users[:-1]).to_numpy(zero_copy_only=False)
    starts = np.concatenate([[0], np.flatnonzero(new) + 1, [len(users)]]).astype(np.int64)
    times = pc.cast(table["event_time"], pa.int64()).to_numpy()
    if pc.count_distinct(users).as_py() != len(starts) - 1 or (~new & (np.diff(times) < 0)).any():
        raise SequencesInvalid(
            f"sequences {where}: rows are not sorted by (user_id, event_time); rebuild the sequences"
        )
    return starts


def _merge(pools: list[Pool]) -> Pool:
    rows = np.cumsum([0] + [len(pool.codes) for pool in pools])
    users = [pool.users[:-1] + row for pool, row in zip(pools, rows[:-1], strict=True)]
    weights = [pool.weights for pool in pools if pool.weights is not None]
    return Pool(
        np.concatenate([pool.codes for pool in pools]),
        np.concatenate([pool.kinds for pool in pools]),
        np.concatenate([pool.wanted for pool in pools]),
        pa.concat_arrays([pool.event_ids for pool in pools]),
        np.concatenate([*users, rows[-1:]]).astype(np.int64),
        np.concatenate(weights) if weights else None,
    )


def _pools(plan: Plan, read_bucket: ReadBucket, epoch: int) -> Iterator[tuple[Pool, list[Windows]]]:
    """Yield the epoch's pools of whole buckets in shuffled order, each with the windows of its steps."""
    order = np.random.default_rng([plan.seed, epoch]).permutation(plan.buckets)
    waiting: list[Pool] = []
    held = np.zeros(2, np.int64)
    for turn, bucket in enumerate(order.tolist()):
        pool = read_pool(read_bucket(bucket), plan, f"{plan.source} bucket {bucket}")
        waiting.append(pool)
        held += (len(cut(pool.users, pool.wanted, plan.max_events, plan.one_target)), len(pool.codes))
        if (held >= (SHUFFLE_WINDOWS, SHUFFLE_EVENTS)).any() or turn == plan.buckets - 1:
            merged = _merge(waiting)
            windows = cut(merged.users, merged.wanted, plan.max_events, plan.one_target)
            yield merged, _steps(windows, plan.batch_size, np.random.default_rng([plan.seed, epoch, turn + 1]))
            waiting, held[:] = [], 0


def _steps(windows: Windows, size: int, draw: np.random.Generator) -> list[Windows]:
    """Return the windows in shuffled steps of `size`, one smaller, sorted by length within SORTED_STEPS steps."""
    shuffled = windows.take(draw.permutation(len(windows)))
    section = np.arange(len(windows)) // (size * SORTED_STEPS)
    ordered = shuffled.take(np.lexsort([shuffled.stop - shuffled.start, section]))
    starts = range(0, len(windows), size)
    return [ordered.take(slice(starts[at], starts[at] + size)) for at in draw.permutation(len(starts))]


def batches(
    plan: Plan, read_bucket: ReadBucket, rank: int, world: int, cursor: Cursor
) -> Iterator[tuple[Batch, Cursor]]:
    """Yield the rest of the cursor's epoch for worker `rank` of `world`, each batch with the cursor after it.

    A step takes `batch_size` samples over all workers (fewer once per pool), and rank r takes the samples r, r + world,
    ...: any number of workers takes the same steps over the same samples. A worker without a sample gets one empty row.
    Raises CheckpointMismatch for a cursor of another plan.
    """
    if cursor.plan != plan.hash:
        raise CheckpointMismatch(
            f"the checkpoint belongs to plan {cursor.plan}, not to {plan.hash} (source {plan.source}): data, batch "
            "size or seed changed since then; delete the folder of this training to start it from the beginning"
        )
    sample = 0
    for pool, steps in _pools(plan, read_bucket, cursor.epoch):
        for step in steps:
            sample += len(step)
            if sample > cursor.sample:
                share = step.take(slice(rank, None, world))
                targets = float((pool.counted_before[step.stop] - pool.counted_before[step.predict]).sum())
                yield _batch(plan, pool, share, targets), Cursor(plan.hash, cursor.epoch, sample)


def _batch(plan: Plan, pool: Pool, share: Windows, step_targets: float) -> Batch:
    if not len(share):
        share = Windows(*np.zeros((4, 1), np.int64))
    rows, lengths = window_rows(pool, share, plan.long_events)
    rows = rows if rows.shape[1] else np.zeros((1, 1), np.int64)
    targets = length_mask(lengths, rows.shape[1]) & (rows >= share.predict[:, None]) & pool.wanted[rows]
    return Batch(
        gathered(pool.codes, pool.kinds, rows, lengths),
        torch.from_numpy(targets),
        step_targets,
        pool.event_ids.take(pa.array(rows[targets])),
        None if pool.weights is None else torch.from_numpy(pool.weights[rows[targets]].astype(np.float32)),
    )


def window_rows(pool: Pool, windows: Windows, long_events: int) -> tuple[Ints, Ints]:
    """Return rows of the events of each window, int64 (B, E), and their number (B,).

    Up to `long_events` come first, spread evenly over the user's positive events before the window.
    """
    low, high = (np.searchsorted(pool.positive_rows, rows) for rows in (windows.first, windows.start))
    long, recent = np.minimum(high - low, long_events), windows.stop - windows.start
    lengths = long + recent
    ordinal = np.arange(lengths.max(initial=0))[None, :]
    spread = low[:, None] + (ordinal * 2 + 1) * (high - low)[:, None] // np.maximum(1, 2 * long[:, None])
    older = ordinal < long[:, None]
    rows = windows.start[:, None] + ordinal - long[:, None]
    if older.any():
        rows = np.where(older, pool.positive_rows[np.where(older, spread, 0)], rows)
    return np.where(ordinal < lengths[:, None], rows, 0), lengths


def contexts(codes: npt.NDArray[np.int32], kinds: Ints, offsets: Ints, spec: GeneratorSpec) -> tuple[Pool, Windows]:
    """Return a model's input for each history: its last events, as many as precede a target in training.

    codes (E, L) and kinds (E,) of the events, oldest first; history i holds [offsets[i], offsets[i + 1]).
    """
    pool = Pool(codes, kinds, positive(kinds), pa.nulls(len(codes), pa.string()), offsets)
    first, stop = offsets[:-1], offsets[1:]
    return pool, Windows(first, np.maximum(first, stop - (spec.max_events - 1)), stop, stop)


def events_of_rows(histories: Sequence[Ints], codes_NL: npt.NDArray[np.int32], spec: GeneratorSpec) -> Events:
    """Return histories (rows of `codes_NL`, oldest first) as a model's input: plain events of one session."""
    offsets = np.concatenate([[0], np.cumsum([len(rows) for rows in histories])]).astype(np.int64)
    rows = np.concatenate([np.zeros(0, np.int64), *histories])
    kinds = np.zeros(len(rows), np.int64)
    if spec.sessions:
        kinds[offsets[:-1][np.diff(offsets) > 0]] += FIRST_OF_SESSION
    pool, windows = contexts(codes_NL[rows], kinds, offsets, spec)
    found, lengths = window_rows(pool, windows, spec.long_events)
    return gathered(pool.codes, pool.kinds, found, lengths)
