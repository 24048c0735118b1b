"""Model input: the SIDs of a history's events, oldest first, padded on the right.

Each event has a kind: a plain event, only shown, or one of the behaviours that a model names. If the model reads
sessions, the kind also marks the first event of a session.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from tokenizer.arrays.types import Bools, Ints

SHOWN = 1
"""The kind of an event that was only shown; 0 is a plain event."""
OF_ONE_EVENT = 2
"""The kind of the first behaviour that a model's spec names."""
FIRST_OF_SESSION = 1 << 8
"""Added to the kind of an event that begins a session."""
SESSION_GAP_US = 30 * 60 * 1_000_000
"""Largest gap in a session of events without a session id: 30 minutes, in microseconds."""


@dataclass(frozen=True)
class Events:
    """Histories: codes (B, E, L), kinds (B, E) and lengths (B,), all int64, padded with zeros."""

    codes: Tensor
    kinds: Tensor
    lengths: Tensor

    def to(self, device: torch.device) -> Events:
        """Return them on `device`."""
        return Events(*(each.to(device, non_blocking=True) for each in (self.codes, self.kinds, self.lengths)))


def length_mask(lengths: Ints, width: int) -> npt.NDArray[np.bool_]:
    """Return a mask of the first `lengths` of `width` positions, bool (B, width)."""
    return np.asarray(np.arange(width) < lengths[:, None])


def gathered(codes: npt.NDArray[np.integer], kinds: npt.NDArray[np.integer], rows: Ints, lengths: Ints) -> Events:
    """Return the events at `rows` (B, E) of a pool of codes (N, L) and kinds (N,), `lengths` (B,) a row."""
    real = length_mask(lengths, rows.shape[1])
    rows = np.where(real, rows, 0)
    if not len(codes):
        codes, kinds = np.zeros((1, codes.shape[1]), np.int64), np.zeros(1, np.int64)
    return Events(
        torch.from_numpy(np.where(real[:, :, None], codes[rows], 0).astype(np.int64)),
        torch.from_numpy(np.where(real, kinds[rows], 0).astype(np.int64)),
        torch.from_numpy(np.asarray(lengths, np.int64)),
    )


def only_shown(table: pa.Table, negative_events: tuple[str, ...]) -> Bools:
    """Return a mask of the events that were only shown, by type or by the flag `impression`: bool (N,)."""
    negative = pc.is_in(table["event_type"], pa.array(negative_events, pa.string()))
    return np.asarray(pc.or_(negative, pc.fill_null(table["impression"], False)), np.bool_)


def event_kinds(table: pa.Table, shown: Bools, behaviours: tuple[str, ...], sessions: bool) -> Ints:
    """Return the kind of each event of a table sorted by user and time, int64 (N,)."""
    named = pc.index_in(table["event_type"], pa.array(behaviours, pa.string()))
    kinds = np.where(shown, SHOWN, np.asarray(pc.fill_null(pc.add(named, OF_ONE_EVENT), 0))).astype(np.int64)
    return kinds + FIRST_OF_SESSION * begins_session(table) if sessions else kinds


def positive(kinds: Ints) -> Bools:
    """Return a mask of the kinds that are not only shown."""
    return np.asarray(kinds % FIRST_OF_SESSION != SHOWN)


def begins_session(table: pa.Table) -> Bools:
    """Return a mask of the first event of each session: a new user, a new session id, or, without an id, a gap."""
    if not table.num_rows:
        return np.zeros(0, np.bool_)
    users, ids, times = (table[name].combine_chunks() for name in ("user_id", "session_id", "event_time"))
    other_user = pc.not_equal(users[1:], users[:-1])
    gap = pa.array(np.diff(np.asarray(pc.cast(times, pa.int64()))) > SESSION_GAP_US)
    other_session = pc.coalesce(pc.not_equal(ids[1:], ids[:-1]), gap)
    return np.concatenate([[True], np.asarray(pc.or_(other_user, other_session), np.bool_)])
