"""Next-code prediction over user histories, the training of a generator."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from learning.errors import CheckpointMismatch
from learning.trainable import Cursor
from training.data.histories import Batch, Plan, ReadBucket, batches
from training.models import build_generator
from training.models.trie_tensors import TrieTensors
from training.objectives.losses import Objective, Preference, WeightedObjective, next_code, objective_of
from training.registry import ARCHITECTURES
from training.spec import GeneratorSpec, TrainSpec

if TYPE_CHECKING:
    from tokenizer.trie.masks import TrieMasks


def plan_of(
    source: str,
    buckets: int,
    sizes: tuple[int, ...],
    model: GeneratorSpec,
    train: TrainSpec,
    fresh_only: bool = False,
) -> Plan:
    """Return the plan of a training, with the history settings of the model; `fresh_only` as in `Plan`."""
    return Plan(
        source=source,
        buckets=buckets,
        sizes=sizes,
        batch_size=train.batch_size,
        max_events=model.max_events,
        seed=train.seed,
        negative_events=train.negative_events,
        long_events=model.long_events,
        positive_only=model.positive_only,
        behaviours=model.behaviours,
        sessions=model.sessions,
        one_target=ARCHITECTURES.get(model.architecture).one_target or isinstance(objective_of(train), Preference),
        fresh_only=fresh_only,
    )


def weighted(plan: Plan, half_life_days: float | None, newest: datetime) -> Plan:
    """Return the plan with targets that count for less with their age at `newest`; as it is without a half-life."""
    if half_life_days is None:
        return plan
    return replace(plan, half_life_days=half_life_days, newest_us=int(newest.timestamp() * 1e6))


@dataclass(frozen=True)
class Origin:
    """Identity of a training: the vocabulary (hash), the release (id) and the settings of the recipe (hash).

    `read_trie` reads the trie of the release; None if it is not at hand.
    """

    vocabulary: str
    release: str
    recipe: str
    read_trie: Callable[[], TrieMasks] | None = None


class NextCode:
    """A Trainable: a generator, its training histories, and its objective."""

    def __init__(
        self,
        spec: GeneratorSpec,
        plan: Plan,
        read_bucket: ReadBucket,
        origin: Origin,
        *,
        objective: Objective = next_code,
        start: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        """Build the generator; `read_bucket` reads the sequences of the release.

        `start` are weights of an earlier stage, for all or some of the generator's parameters. A constrained generator
        needs the trie of the release, which is read with the first step.
        """
        if spec.constrained and origin.read_trie is None:
            raise ValueError(
                "a constrained generator needs the trie of its release for training: give the origin read_trie"
            )
        self.generator = build_generator(spec, plan.sizes, origin.vocabulary, plan.seed)
        self.plan, self.read_bucket, self.objective = plan, read_bucket, objective
        self.origin, self.start = origin, dict(start or {})
        self._read_trie = origin.read_trie if spec.constrained else None
        self._trie: TrieTensors | None = None
        unknown = self.generator.load_state_dict(
            {name: torch.from_numpy(array) for name, array in self.start.items()}, strict=False
        ).unexpected_keys
        if unknown:
            raise CheckpointMismatch(
                f"the weights to start from contain {', '.join(unknown)}, which this model does not have; start from a "
                "model with the same [generator]"
            )

    @property
    def module(self) -> nn.Module:
        """The generator."""
        return self.generator

    @property
    def plan_hash(self) -> str:
        """Hash of the plan."""
        return self.plan.hash

    @property
    def identity(self) -> Mapping[str, Any]:
        """The input of `training.models.saved.load_generator` to rebuild the model, and the model's origin."""
        return {
            "kind": "generator",
            "spec": self.generator.spec.model_dump(mode="json"),
            "sizes": list(self.plan.sizes),
            "vocabulary": self.generator.vocabulary,
            "release": self.origin.release,
            "recipe": self.origin.recipe,
            "plan": self.plan.hash,
            "start": _digest(self.start),
        }

    def batches(self, rank: int, world: int, cursor: Cursor) -> Iterator[tuple[Batch, Cursor]]:
        """Yield the rest of the cursor's epoch for one worker, each batch with the cursor after it."""
        return batches(self.plan, self.read_bucket, rank, world, cursor)

    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return this batch's share of the step's mean loss per code, and the sums to report.

        These are `loss`, `targets` (codes predicted, or their weights), `tokens` (codes read) and `places` (codes read,
        padding included). Impressions, and events that an earlier window predicted, are context only.
        """
        codes_NL = batch.events.codes[batch.targets]
        if self._read_trie is not None and self._trie is None:
            self._trie = TrieTensors(self._read_trie(), codes_NL.device)
        scores = module(batch.events, batch.targets, self._trie)
        levels = codes_NL.shape[1]
        if batch.weights is None:
            summed, counted, least = self.objective(scores, codes_NL), float(codes_NL.numel()), 1.0
        else:
            summed = cast(WeightedObjective, self.objective)(scores, codes_NL, batch.weights)
            counted, least = float(batch.weights.sum()) * levels, sys.float_info.min
        count = [counted, int(batch.events.lengths.sum()) * levels, batch.events.codes.numel()]
        targets, tokens, places = torch.tensor(count, dtype=torch.float64).to(summed.device)
        share = summed / max(least, batch.step_targets * levels)
        return share, {"loss": summed.detach().double(), "targets": targets, "tokens": tokens, "places": places}


def _digest(arrays: Mapping[str, NDArray[np.float32]]) -> str | None:
    """Return 16 hex digits over names and arrays; None for no arrays."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()[:16] if arrays else None
