"""SASRec: next-item prediction by a causal transformer over item embeddings (arXiv 1808.09781).

It is trained with cross-entropy over all items at every position, which makes it a strong baseline (arXiv 2309.07602).
A score is the cosine of a state and an item embedding, over a temperature. Input and output embeddings are the same,
and their directions serve as behaviour vectors of the items.

Shape suffixes: B histories, E events, D model width, H heads, P head width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from learning.attention import scaled_dot_product_attention
from learning.trainable import Cursor
from learning.trainer import train_in_process
from tokenizer.arrays.types import Ints
from training.errors import NothingToTrainOn
from training.sasrec.full_softmax import cross_entropy
from training.spec import SasRecSpec

LABEL = "SASRec"
AT_ONCE = 512
"""Histories ranked at a time."""


@dataclass(frozen=True)
class Padded:
    """Histories of similar length: items (B, E) int64, padded on the right with 0, and lengths (B,) of at least 1."""

    items: Tensor
    lengths: Tensor

    @property
    def real(self) -> Tensor:
        """Mask of positions that hold an event, bool (B, E)."""
        return torch.arange(self.items.shape[1], device=self.items.device) < self.lengths[:, None]

    def to(self, device: torch.device) -> Padded:
        """Return them on `device`."""
        return Padded(self.items.to(device), self.lengths.to(device))


@dataclass(frozen=True)
class SasRecBatch:
    """One worker's share of a step: histories, the next item after each event, and the step's target count."""

    groups: list[Padded]
    targets: Tensor
    step_targets: int

    def to(self, device: torch.device) -> SasRecBatch:
        """Return it on `device`."""
        return SasRecBatch([each.to(device) for each in self.groups], self.targets.to(device), self.step_targets)


class SasRecBlock(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual connection."""

    def __init__(self, spec: SasRecSpec) -> None:
        super().__init__()
        self.heads, self.drop = spec.heads, spec.dropout
        self.attention_norm, self.ff_norm = nn.LayerNorm(spec.dim), nn.LayerNorm(spec.dim)
        self.query_key_value = nn.Linear(spec.dim, 3 * spec.dim)
        self.out = nn.Linear(spec.dim, spec.dim)
        self.up, self.down = nn.Linear(spec.dim, spec.ff), nn.Linear(spec.ff, spec.dim)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, x_BED: Tensor) -> Tensor:
        """Map (B, E, D) to (B, E, D). Attention is causal, so no event sees padding on the right."""
        batch, length, dim = x_BED.shape
        parts = self.query_key_value(self.attention_norm(x_BED)).view(batch, length, 3, self.heads, dim // self.heads)
        q_BHEP, k_BHEP, v_BHEP = parts.permute(2, 0, 3, 1, 4)
        drop = self.drop if self.training else 0.0
        y_BHEP = scaled_dot_product_attention(q_BHEP, k_BHEP, v_BHEP, dropout_p=drop, is_causal=True)
        x_BED = x_BED + self.dropout(self.out(y_BHEP.transpose(1, 2).reshape(batch, length, dim)))
        hidden = self.dropout(functional.gelu(self.up(self.ff_norm(x_BED))))
        return x_BED + self.dropout(self.down(hidden))  # type: ignore[no-any-return]


class SasRec(nn.Module):
    """A model that scores each of `items` items as the next event; `spec.seed` sets the initial weights."""

    def __init__(self, spec: SasRecSpec, items: int) -> None:
        super().__init__()
        self.spec = spec
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            self.items = nn.Embedding(items, spec.dim)
            self.positions = nn.Embedding(spec.max_events, spec.dim)
            self.blocks = nn.ModuleList(SasRecBlock(spec) for _ in range(spec.blocks))
            self.norm = nn.LayerNorm(spec.dim)
            self.dropout = nn.Dropout(spec.dropout)
            for weight in self.parameters():
                if weight.ndim == 2:
                    nn.init.normal_(weight, std=0.02)

    def encode(self, histories: Padded) -> Tensor:
        """Return states (B, E, D) after each event; values at padding are undefined."""
        places = torch.arange(histories.items.shape[1], device=histories.items.device)
        x_BED = self.dropout(self.items(histories.items) + self.positions(places))
        for block in self.blocks:
            x_BED = block(x_BED)
        return self.norm(x_BED)  # type: ignore[no-any-return]

    def forward(self, batch: SasRecBatch) -> Tensor:
        """Sum over the targets of -log p(target | events before it) among all items."""
        states = torch.cat([self.encode(each)[each.real] for each in batch.groups])
        return cross_entropy(functional.normalize(states) / self.spec.temperature, self.directions, batch.targets)

    @property
    def directions(self) -> Tensor:
        """Unit vectors of the items (N, D)."""
        return functional.normalize(self.items.weight)

    def scores(self, histories: Padded) -> Tensor:
        """Score of each item (B, N) as the next event of a history."""
        rows = torch.arange(len(histories.lengths), device=histories.lengths.device)
        states = self.encode(histories)[rows, histories.lengths - 1]
        return functional.normalize(states) @ self.directions.T / self.spec.temperature


@dataclass(frozen=True)
class SasRecTrainable:
    """A Trainable: a fresh network and its training histories, rows of items oldest first.

    Histories of one event are left out. From a history longer than `max_events` + 1 events, a stretch of that length is
    drawn in each epoch. `start` are weights to continue from instead of fresh ones.
    """

    spec: SasRecSpec
    items: int
    histories: Sequence[Ints]
    start: Mapping[str, Tensor] | None = None

    @cached_property
    def module(self) -> SasRec:
        """The initial network."""
        model = SasRec(self.spec, self.items)
        if self.start is not None:
            model.load_state_dict(self.start)
        return model

    @cached_property
    def plan_hash(self) -> str:
        """16 hex digits over the spec, the number of items, the histories and the initial weights."""
        settings = {**self.spec.model_dump(mode="json", exclude={"epochs"}), "items": self.items}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for history in self.histories:
            digest.update(np.int64(len(history)).tobytes() + np.ascontiguousarray(history, np.int64).tobytes())
        for name, weight in sorted((self.start or {}).items()):
            digest.update(name.encode() + weight.numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def identity(self) -> Mapping[str, Any]:
        """Kind and plan hash."""
        return {"kind": "sasrec", "plan": self.plan_hash}

    def batches(self, rank: int, world: int, cursor: Cursor) -> Iterator[tuple[SasRecBatch, Cursor]]:
        """Yield the rest of the cursor's epoch for one worker; `sample` counts the steps taken.

        Every history with two or more events is in one step of an epoch. A worker takes every `world`-th history of a
        step, in order of length. Raises NothingToTrainOn if there are fewer such histories than workers.
        """
        useful = np.flatnonzero([len(history) > 1 for history in self.histories])
        if len(useful) < world:
            raise NothingToTrainOn(
                f"only {len(useful)} histories have two events, too few for {world} workers: lower sasrec.workers"
            )
        shuffled = np.random.default_rng([self.spec.seed, cursor.epoch]).permutation(useful)
        steps = np.array_split(shuffled, max(1, len(useful) // max(self.spec.batch_size, world)))
        for step in range(cursor.sample, len(steps)):
            draw = np.random.default_rng([self.spec.seed, cursor.epoch, step])
            windows = [self._window(self.histories[row], draw) for row in steps[step]]
            windows.sort(key=len)
            own = windows[rank::world]
            groups = padded([window[:-1] for window in own])
            follow = padded([window[1:] for window in own])
            targets = torch.cat([each.items[each.real] for each in follow])
            batch = SasRecBatch(groups, targets, sum(len(window) - 1 for window in windows))
            yield batch, Cursor(cursor.plan, cursor.epoch, step + 1)

    def _window(self, history: Ints, draw: np.random.Generator) -> Ints:
        spare = len(history) - self.spec.max_events - 1
        start = int(draw.integers(spare + 1)) if spare > 0 else 0
        return history[start : start + self.spec.max_events + 1]

    def loss(self, module: nn.Module, batch: SasRecBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of the step's mean loss per target; the sums `loss`, `targets` and `tokens` (targets as well)."""
        summed = module(batch)
        count = torch.tensor(float(len(batch.targets)), device=summed.device)
        return summed / batch.step_targets, {"loss": summed.detach(), "targets": count, "tokens": count}


def padded(histories: Sequence[Ints]) -> list[Padded]:
    """Histories sorted by length -> groups whose lengths round up to the same power of two, at least 8."""
    lengths = np.array([len(history) for history in histories])
    cuts = np.flatnonzero(np.diff(np.ceil(np.log2(np.maximum(lengths, 8))))) + 1
    groups = []
    for rows in np.split(np.arange(len(lengths)), cuts):
        items = np.zeros((len(rows), lengths[rows].max()), np.int64)
        for at, row in enumerate(rows):
            items[at, : lengths[row]] = histories[row]
        groups.append(Padded(torch.from_numpy(items), torch.from_numpy(lengths[rows])))
    return groups


SasRecCallback = Callable[[SasRec, dict[str, float]], bool | None]


def fit_sasrec(
    histories: Sequence[Ints], items: int, spec: SasRecSpec, on_epoch: SasRecCallback | None = None
) -> SasRec:
    """Train in this process and return the model, ready to rank; `histories` hold rows 0..items-1, oldest first.

    After each epoch `on_epoch` gets the model, ready to rank, and the row of the epoch; if it returns true the training
    ends. Raises LossDiverged if the loss or its gradient is not finite.
    """
    trainable = SasRecTrainable(spec, items, histories)
    model = trainable.module

    def judge(row: dict[str, float]) -> bool | None:
        return None if on_epoch is None else on_epoch(model.eval(), row)

    train_in_process(trainable, spec.loop(), LABEL, judge)
    return model


def item_vectors(model: SasRec) -> NDArray[np.float32]:
    """Return behaviour vectors of the items: unit vectors, float32 (N, D); meaningless for an item without events."""
    return model.directions.detach().cpu().numpy().astype(np.float32)


@torch.no_grad()
def rank(model: SasRec, histories: Sequence[Ints], width: int, exclude: Sequence[Ints] | None = None) -> Ints:
    """Return the `width` items most likely to follow each history, best first, without excluded rows, (n, width).

    A history has at least one event. Rows are padded with -1 if fewer items are left.
    """
    model.eval()
    items = model.items.num_embeddings
    out = np.full((len(histories), width), -1, np.int64)
    order = np.argsort([len(history) for history in histories], kind="stable")
    for start in range(0, len(order), AT_ONCE):
        rows = order[start : start + AT_ONCE]
        taken = 0
        for group in padded([histories[row][-model.spec.max_events :] for row in rows]):
            own = rows[taken : taken + len(group.lengths)]
            taken += len(own)
            scores = model.scores(group.to(model.items.weight.device))
            if exclude is not None:
                for at, row in enumerate(own):
                    scores[at, exclude[row]] = -torch.inf
            best, found = scores.topk(min(width, items), dim=1)
            out[own, : found.shape[1]] = torch.where(best > -torch.inf, found, -1).cpu().numpy()
    return out
