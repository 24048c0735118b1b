"""Item alignment: the embeddings of codes learn about the items before histories are read (OneRec, LC-Rec).

There are two tasks: identify an item's vector among those of the step from its SID (InfoNCE), and predict the SID from
the vector, code by code. Embeddings and output weights of codes and prefixes learn, as do two projections that are
discarded afterwards.

Shapes: N items, L levels, F dimensions of a vector, D model width, S items of a step, B those of a worker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from learning.checkpoint import WEIGHTS
from learning.trainable import Cursor
from training.models import build_generator
from training.models.generator import Generator
from training.objectives.losses import next_code
from training.spec import GeneratorSpec

TEMPERATURE = 0.07
"""Temperature of InfoNCE."""
Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class AlignBatch:
    """Codes (B, L) of a worker's items, and vectors (S, F) of the step's items, its own from row `first` on."""

    codes: Tensor
    vectors: Tensor
    first: int

    def to(self, device: torch.device) -> AlignBatch:
        """Return it on `device`."""
        return AlignBatch(self.codes.to(device), self.vectors.to(device), self.first)


class AlignNet(nn.Module):
    """Embeddings and output weights of a generator's codes and prefixes, and projections from and to vectors."""

    offsets: Tensor

    def __init__(self, generator: Generator, width: int, seed: int) -> None:
        super().__init__()
        self.codes, self.heads, self.prefixes = generator.codes, generator.heads, generator.prefixes
        self.levels, self.prefix_rows = generator.levels, generator.prefix_rows
        self.register_buffer("offsets", generator.offsets.clone(), persistent=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.to_vector = nn.Linear(generator.spec.dim, width, bias=False)
            self.from_vector = nn.Linear(width, generator.spec.dim, bias=False)
            self.norm = nn.RMSNorm(generator.spec.dim)

    def forward(self, batch: AlignBatch) -> Tensor:
        """Return the two losses, summed over the worker's items."""
        embedded_BLD = self.codes(batch.codes + self.offsets)
        read_BD = embedded_BLD.sum(dim=1)
        if self.prefixes is not None:
            read_BD = read_BD + self.prefixes(self.prefix_rows(batch.codes)).sum(dim=1)
        found_BF = functional.normalize(self.to_vector(read_BD), dim=-1)
        rows = torch.arange(batch.first, batch.first + len(batch.codes), device=batch.codes.device)
        contrastive = functional.cross_entropy(
            (found_BF @ batch.vectors.T).float() / TEMPERATURE, rows, reduction="sum"
        )
        state_BD = self.from_vector(batch.vectors[rows])
        scores = []
        for level in range(self.levels):
            scores.append(self.heads[level](self.norm(state_BD)))
            state_BD = state_BD + embedded_BLD[:, level]
        return contrastive + next_code(scores, batch.codes) / self.levels


@dataclass(frozen=True)
class CodePretraining:
    """A Trainable: items with codes (N, L) and vectors (N, F); vectors are centred and normalised."""

    spec: GeneratorSpec
    sizes: tuple[int, ...]
    codes: NDArray[np.int32]
    vectors: NDArray[np.float32]
    batch_size: int
    seed: int = 0

    @cached_property
    def module(self) -> AlignNet:
        """The initial network, with the generator's embeddings."""
        return AlignNet(build_generator(self.spec, self.sizes, "", self.seed), self.vectors.shape[1], self.seed)

    @cached_property
    def plan_hash(self) -> str:
        """16 hex digits over spec and items."""
        digest = hashlib.sha256(self.spec.model_dump_json().encode())
        for part in (np.array([*self.sizes, self.batch_size, self.seed]), self.codes, self.vectors):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()[:16]

    @property
    def identity(self) -> Mapping[str, Any]:
        """Kind and plan hash."""
        return {"kind": "item alignment", "plan": self.plan_hash}

    @cached_property
    def _directed(self) -> NDArray[np.float32]:
        moved = self.vectors - self.vectors.mean(axis=0)
        return np.asarray(moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12), np.float32)

    def batches(self, rank: int, world: int, cursor: Cursor) -> Iterator[tuple[AlignBatch, Cursor]]:
        """Yield the rest of the cursor's epoch for one worker: a share of each step's items, and all its vectors."""
        order = np.random.default_rng([self.seed, cursor.epoch]).permutation(len(self.codes))
        for start in range(cursor.sample, len(order), self.batch_size):
            step = order[start : start + self.batch_size]
            first, stop = len(step) * rank // world, len(step) * (rank + 1) // world
            codes = torch.from_numpy(self.codes[step[first:stop]].astype(np.int64))
            vectors = torch.from_numpy(self._directed[step])
            yield AlignBatch(codes, vectors, first), Cursor(cursor.plan, cursor.epoch, start + len(step))

    def loss(self, module: nn.Module, batch: AlignBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of the step's mean loss per item; the sums `loss`, `targets` (items) and `tokens` (codes)."""
        summed = module(batch)
        count = torch.tensor(float(len(batch.codes)), dtype=torch.float64, device=summed.device)
        sums = {"loss": summed.detach().double(), "targets": count, "tokens": count * batch.codes.shape[1]}
        return summed / len(batch.vectors), sums


def pretrained(checkpoint: Path) -> Arrays:
    """Return the weights of a pretraining that a generator starts with."""
    weights = load_file(checkpoint / WEIGHTS)
    return {
        name: tensor.numpy() for name, tensor in weights.items() if name.startswith(("codes.", "heads.", "prefixes."))
    }
