"""Training steps of a fusion. `FusionTraining` is a `Trainable` (see learning/trainable.py)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from learning.spec import LoopSpec
from learning.trainable import Cursor
from pipelines.modalities import ROWS, Matrix, ModalityRows
from pipelines.spec import FusionSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipelines.fusion.network import FusionBatch, FusionNet

LOOKED_AT = 4
"""Candidates drawn for hard negatives, as a multiple of the step's pairs."""
# Nearest candidates of an item among which a hard negative is chosen.
NEAREST = 8


@dataclass(frozen=True)
class Directed:
    """Vectors of a modality relative to a mean, of unit length; those of some rows are made when they are asked for."""

    modality: ModalityRows
    mean: Matrix

    def __len__(self) -> int:
        return len(self.modality)

    def __getitem__(self, rows: NDArray[np.int64] | slice) -> Matrix:
        return self.modality.take(rows).directed(self.mean)


@dataclass(frozen=True)
class FusionTraining:
    """Unit vectors (N, D) and presence (N,) of each modality, pairs of rows (P, 2), and the initial weights."""

    spec: FusionSpec
    directed: Mapping[str, Directed | Matrix]
    present: Mapping[str, NDArray[np.bool_]]
    pairs: NDArray[np.int64]
    start: Mapping[str, Matrix]

    @cached_property
    def module(self) -> FusionNet:
        """Network with its initial weights."""
        return network(self.spec, self.start)

    @cached_property
    def plan_hash(self) -> str:
        """16 hex digits over the spec, the vectors and the pairs; the number of workers does not enter."""
        settings = self.spec.model_dump(mode="json", exclude={"workers"})
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for name in sorted(self.directed):
            directed = self.directed[name]
            for start in range(0, len(directed), ROWS):
                digest.update(np.ascontiguousarray(directed[start : start + ROWS]).data)
            digest.update(np.ascontiguousarray(self.present[name]).data)
        digest.update(np.ascontiguousarray(self.pairs).data)
        return digest.hexdigest()[:16]

    @property
    def identity(self) -> Mapping[str, Any]:
        """Kind and plan of the training."""
        return {"kind": "fusion", "plan": self.plan_hash}

    @property
    def loop(self) -> LoopSpec:
        """Settings of the loop."""
        return LoopSpec.of(self.spec)

    def batches(self, rank: int, world: int, cursor: Cursor) -> Iterator[tuple[FusionBatch, Cursor]]:
        """Yield the rest of the cursor's epoch. Each worker gets the whole step and computes its own rows' loss."""
        size = self.step_size
        own = slice(size * rank // world, size * (rank + 1) // world)
        for step in range(cursor.sample // size, self.spec.steps):
            number = cursor.epoch * self.spec.steps + step
            yield self.step(number, size, own), replace(cursor, sample=(step + 1) * size)

    @property
    def step_size(self) -> int:
        """Pairs per step: at most all pairs, and at most the number of items."""
        return min(self.spec.batch_size, len(self.pairs), len(self._present))

    def step(self, number: int, size: int, own: slice) -> FusionBatch:
        """Draw pairs at random, and for each item a random subset of its present modalities.

        An item whose modalities would all be dropped keeps all it has.
        """
        import torch

        from pipelines.fusion.network import FusionBatch

        draw = np.random.default_rng([self.spec.seed, number])
        left, right = self.pairs[draw.integers(len(self.pairs), size=size)].T
        if self.spec.hard_negatives:
            right = np.concatenate([right, self._hard_negatives(left, draw)])
        columns = torch.from_numpy(right)
        own_column = torch.eye(len(left), len(right), dtype=torch.bool)
        same = columns[: len(left), None] == columns[None, :]
        taken = (same | (torch.from_numpy(left)[:, None] == columns[None, :])) & ~own_column
        return FusionBatch(
            left={name: torch.from_numpy(each[left]) for name, each in self.directed.items()},
            right={name: torch.from_numpy(each[right]) for name, each in self.directed.items()},
            keep_left=self._kept(left, draw),
            keep_right=self._kept(right, draw),
            present=torch.from_numpy(self._present[right].astype(np.float32)),
            taken=taken,
            repeated=(same & ~own_column)[:, : len(left)],
            popularity=torch.from_numpy(self._popularity[right]),
            own=own,
        )

    def loss(self, module: nn.Module, batch: FusionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return this worker's share of the mean loss; the sums `loss`, `targets` (pairs) and `tokens` (pairs)."""
        import torch

        share, summed = module(batch)
        count = torch.tensor(float(batch.own.stop - batch.own.start), device=summed.device)
        return share, {"loss": summed, "targets": count, "tokens": count}

    @cached_property
    def _present(self) -> NDArray[np.bool_]:
        return np.column_stack([self.present[name] for name in sorted(self.present)])

    @cached_property
    def _popularity(self) -> Matrix:
        drawn = np.bincount(self.pairs[:, 1], minlength=len(self._present)) + 1.0
        return np.asarray(np.log(drawn / drawn.sum()), np.float32)

    def _hard_negatives(self, left: NDArray[np.int64], draw: np.random.Generator) -> NDArray[np.int64]:
        """Return for each left item the nearest non-partner, by initial weights, among items drawn like right items."""
        drawn = np.unique(self.pairs[draw.integers(len(self.pairs), size=LOOKED_AT * len(left)), 1])
        score = self._at_start[left] @ self._at_start[drawn].T
        nearest = min(NEAREST, len(drawn))
        top = np.argpartition(-score, nearest - 1, axis=1)[:, :nearest]
        top = np.take_along_axis(
            top, np.argsort(-np.take_along_axis(score, top, axis=1), axis=1, kind="stable"), axis=1
        )
        near = drawn[top]
        keys = left[:, None] * len(self._present) + near
        place = np.searchsorted(self._pair_keys, keys).clip(max=len(self._pair_keys) - 1)
        wrong = (self._pair_keys[place] == keys) | (near == left[:, None])
        return np.asarray(near[np.arange(len(left)), np.argmin(wrong, axis=1)])

    @cached_property
    def _pair_keys(self) -> NDArray[np.int64]:
        return np.unique(self.pairs[:, 0] * len(self._present) + self.pairs[:, 1])

    @cached_property
    def _at_start(self) -> Matrix:
        """Fused vectors (N, F) by the initial weights."""
        fused = np.zeros((len(self._present), self.spec.dim), np.float32)
        for name, each in self.directed.items():
            there = self.present[name]
            weight, bias = self.start[f"linear.{name}.weight"], self.start[f"linear.{name}.bias"]
            fused[there] += each[np.flatnonzero(there)] @ weight.T + bias
        return np.asarray(fused / np.maximum(np.linalg.norm(fused, axis=1, keepdims=True), 1e-6), np.float32)

    def _kept(self, rows: NDArray[np.int64], draw: np.random.Generator) -> Tensor:
        import torch

        there = self._present[rows]
        kept = there & (draw.random(there.shape) >= self.spec.modality_dropout)
        kept = np.where(kept.any(axis=1, keepdims=True), kept, there)
        return torch.from_numpy(kept.astype(np.float32))


def network(spec: FusionSpec, arrays: Mapping[str, Matrix]) -> FusionNet:
    """Build the network with some arrays as weights; weights that are not given keep their initial values."""
    import torch

    from pipelines.fusion.network import FusionNet

    prefix, suffix = "linear.", ".weight"
    names = [name for name in arrays if name.startswith(prefix) and name.endswith(suffix)]
    net = FusionNet(spec, {name.removeprefix(prefix).removesuffix(suffix): arrays[name].shape[1] for name in names})
    own = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items() if not name.startswith("mean.")}
    net.load_state_dict(own, strict=False)
    return net


def weights(net: FusionNet) -> dict[str, Matrix]:
    """Return the weights of a network as arrays."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in net.state_dict().items()}
