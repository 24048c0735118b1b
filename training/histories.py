"""The log loader: user histories cut into windows, shuffled, sharded and resumable, as batches of SID tokens.

Input is the table `sequences`, read bucket by bucket through a function, so storage stays outside. A window holds at
most `max_events` events and predicts the positive ones that no earlier window of its user predicted: over an epoch
every positive event is predicted exactly once, whatever the number of workers. All work on events is numpy over a
whole bucket.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from training.errors import CheckpointMismatch, SequencesInvalid
from training.tokens import TokenLayout
from training.trainable import Cursor

ReadBucket = Callable[[int], pa.Table]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

SHUFFLE_WINDOWS = 65_536
"""Windows shuffled as one; about 100 MB at 32 events of 3 codes, and buckets are shuffled as wholes besides."""


@dataclass(frozen=True)
class Plan:
    """Which samples there are and in what order: everything but who reads them.

    `source` names the data (release or table version). A cursor is valid only for the plan whose `hash` it carries.
    """

    source: str
    buckets: int
    sizes: tuple[int, ...]
    batch_size: int
    max_events: int
    seed: int = 0
    negative_events: tuple[str, ...] = ("impression",)

    @property
    def hash(self) -> str:
        """Content hash of the plan, 16 hex digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Batch:
    """One worker's share of a step.

    tokens and feedback (B, 1 + E*L), padded on the right; targets (B, E) bool: the events to predict.
    `step_targets` counts the targets of all workers in this step, `event_ids` names this worker's, row by row.
    """

    tokens: torch.Tensor
    feedback: torch.Tensor
    targets: torch.Tensor
    step_targets: int
    event_ids: pa.Array

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on `device`."""
        return Batch(
            self.tokens.to(device, non_blocking=True),
            self.feedback.to(device, non_blocking=True),
            self.targets.to(device, non_blocking=True),
            self.step_targets,
            self.event_ids,
        )


@dataclass(frozen=True)
class Windows:
    """Windows over a pool of events: context [start, stop) of which [predict, stop) may be targets."""

    start: Ints
    stop: Ints
    predict: Ints

    def __len__(self) -> int:
        return len(self.start)

    def take(self, index: Ints | Bools | slice) -> Windows:
        """The windows at `index`, in that order."""
        return Windows(self.start[index], self.stop[index], self.predict[index])


@dataclass(frozen=True)
class Pool:
    """Events of some buckets: codes (N, L), positive (N,), ids (N,), and the first row of each user plus the end."""

    codes: npt.NDArray[np.int32]
    positive: Bools
    event_ids: pa.Array
    users: Ints


def cut(users: Ints, positive: Bools, max_events: int) -> Windows:
    """Windows that predict each positive event exactly once.

    A user's first window holds the first `max_events` events; each later one moves on by half of that, so every
    later target has at least half a window of context. Windows without a target are left out.
    """
    counts = np.diff(users)
    stride = max(1, max_events // 2)
    per_user = 1 + np.maximum(0, -((max_events - counts) // stride))
    first = np.cumsum(per_user) - per_user
    ordinal = np.arange(per_user.sum()) - np.repeat(first, per_user)
    base, count = np.repeat(users[:-1], per_user), np.repeat(counts, per_user)
    stop = np.minimum(count, max_events + ordinal * stride)
    predict = np.where(ordinal == 0, 0, max_events + (ordinal - 1) * stride)
    windows = Windows(base + np.maximum(0, stop - max_events), base + stop, base + predict)
    seen = np.concatenate([[0], np.cumsum(positive)])
    return windows.take(seen[windows.stop] > seen[windows.predict])


def read_pool(table: pa.Table, plan: Plan, where: str) -> Pool:
    """Events of one bucket as arrays; rows must be sorted by user and time and hold one code per level.

    Raises SequencesInvalid, naming the bucket.
    """
    levels = len(plan.sizes)
    lengths = pc.unique(pc.list_value_length(table["codes"])).to_pylist()
    if table.num_rows and lengths != [levels]:
        raise SequencesInvalid(
            f"sequences {where}: rows hold {lengths} codes, the vocabulary has {levels} levels; "
            "rebuild the sequences of this release"
        )
    codes = np.asarray(pc.list_flatten(table["codes"]).to_numpy(), dtype=np.int32).reshape(-1, levels)
    if ((codes < 0) | (codes >= np.asarray(plan.sizes))).any():
        raise SequencesInvalid(
            f"sequences {where}: codes up to {codes.max(axis=0).tolist()} do not fit the level sizes {plan.sizes}; "
            "these sequences belong to another codebook: rebuild them for this release"
        )
    negative = pc.or_(
        pc.is_in(table["event_type"], pa.array(plan.negative_events, pa.string())),
        pc.fill_null(table["impression"], False),
    )
    return Pool(
        codes,
        ~negative.to_numpy().astype(bool),
        table["event_id"].combine_chunks(),
        _user_starts(table, where),
    )


def _user_starts(table: pa.Table, where: str) -> Ints:
    """First row of each user, and the number of rows; refuses rows out of order."""
    if not table.num_rows:
        return np.zeros(1, dtype=np.int64)
    users = table["user_id"].combine_chunks()
    new = pc.not_equal(users[1:], users[:-1]).to_numpy(zero_copy_only=False)
    starts = np.concatenate([[0], np.flatnonzero(new) + 1, [len(users)]]).astype(np.int64)
    times = pc.cast(table["event_time"], pa.int64()).to_numpy()
    if pc.count_distinct(users).as_py() != len(starts) - 1 or (~new & (np.diff(times) < 0)).any():
        raise SequencesInvalid(
            f"sequences {where}: rows are not sorted by (user_id, event_time, event_id); rebuild the sequences"
        )
    return starts


def _merge(pools: list[Pool]) -> Pool:
    rows = np.cumsum([0] + [len(pool.codes) for pool in pools])
    users = [pool.users[:-1] + row for pool, row in zip(pools, rows[:-1], strict=True)]
    return Pool(
        np.concatenate([pool.codes for pool in pools]),
        np.concatenate([pool.positive for pool in pools]),
        pa.concat_arrays([pool.event_ids for pool in pools]),
        np.concatenate([*users, rows[-1:]]).astype(np.int64),
    )


def _pools(plan: Plan, read_bucket: ReadBucket, epoch: int) -> Iterator[tuple[Pool, Windows]]:
    """The epoch's pools of whole buckets in shuffled order, each with its shuffled windows."""
    order = np.random.default_rng([plan.seed, epoch]).permutation(plan.buckets)
    waiting: list[Pool] = []
    waiting_windows = 0
    for turn, bucket in enumerate(order.tolist()):
        pool = read_pool(read_bucket(bucket), plan, f"{plan.source} bucket {bucket}")
        waiting.append(pool)
        waiting_windows += len(cut(pool.users, pool.positive, plan.max_events))
        if waiting_windows >= SHUFFLE_WINDOWS or turn == plan.buckets - 1:
            merged = _merge(waiting)
            windows = cut(merged.users, merged.positive, plan.max_events)
            shuffle = np.random.default_rng([plan.seed, epoch, turn + 1])
            yield merged, windows.take(shuffle.permutation(len(windows)))
            waiting, waiting_windows = [], 0


def batches(
    plan: Plan, read_bucket: ReadBucket, rank: int, world: int, cursor: Cursor
) -> Iterator[tuple[Batch, Cursor]]:
    """The rest of the cursor's epoch for worker `rank` of `world`, each batch with the cursor that follows it.

    A step takes the next `batch_size` samples over all workers (fewer at the end of a pool), and rank r the samples
    whose global index is r modulo `world`: every worker count takes the same steps over the same samples. A worker
    without a sample in a step gets one padded row without a target. Raises CheckpointMismatch for a cursor of
    another plan.
    """
    if cursor.plan != plan.hash:
        raise CheckpointMismatch(
            f"cursor of plan {cursor.plan} used with plan {plan.hash} (source {plan.source}): data, batch size or seed "
            "changed since the checkpoint; train under another run name"
        )
    first = 0
    for pool, windows in _pools(plan, read_bucket, cursor.epoch):
        for begin in range(max(first, cursor.sample), first + len(windows), plan.batch_size):
            step = windows.take(slice(begin - first, begin - first + plan.batch_size))
            index = np.arange(begin, begin + len(step))
            batch = _batch(plan, pool, step, index % world == rank)
            yield batch, Cursor(plan.hash, cursor.epoch, begin + len(step))
        first += len(windows)


def _batch(plan: Plan, pool: Pool, step: Windows, mine: Bools) -> Batch:
    layout = TokenLayout(plan.sizes)
    total = np.concatenate([[0], np.cumsum(pool.positive)])
    step_targets = int((total[step.stop] - total[step.predict]).sum())
    share = step.take(mine)
    if not len(share):
        empty = np.zeros(1, dtype=np.int64)
        share = Windows(empty, empty, empty)
    negative = (~pool.positive).astype(np.int64)
    tokens, feedback, rows = layout.sequences(pool.codes, negative, share.start, share.stop)
    if not rows.shape[1]:
        tokens = np.array([[layout.bos] + [layout.pad] * layout.levels])
        feedback, rows = np.zeros_like(tokens), np.full((1, 1), -1)
    targets = (rows >= share.predict[:, None]) & (rows >= 0) & pool.positive[rows]
    return Batch(
        torch.from_numpy(tokens),
        torch.from_numpy(feedback),
        torch.from_numpy(targets),
        step_targets,
        pool.event_ids.take(pa.array(rows[targets])),
    )
