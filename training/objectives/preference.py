"""Training of a generator on preferences: the right item against items that its own weights prefer.

At each step the beam search of the weights being trained gives candidates for each target. A `Preference` sees their
log-probabilities under these weights and under the reference, which are the weights of the start. The search takes the
most probable items, so a step depends on weights and data alone, and a stopped training goes on with the same steps.

Shape suffixes: N targets, E events, L levels, C items compared.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.data.events import Events
from training.data.histories import Batch, Plan, ReadBucket
from training.decoding.beam_search import search_sids
from training.models import build_generator
from training.models.generator import Generator
from training.models.trie_tensors import TrieTensors
from training.objectives.losses import Candidates, Objective, Preference
from training.objectives.next_code import NextCode, Origin
from training.spec import GeneratorSpec


class PreferenceTraining(NextCode):
    """A Trainable: a generator that starts from weights and learns a `Preference`.

    A history has one target, its last event.
    """

    def __init__(
        self,
        spec: GeneratorSpec,
        plan: Plan,
        read_bucket: ReadBucket,
        origin: Origin,
        *,
        objective: Preference,
        start: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        """As NextCode; both the start and the trie are needed, else ValueError."""
        super().__init__(spec, plan, read_bucket, origin, start=start)
        if self.generator.state_dict().keys() - self.start.keys() or origin.read_trie is None or not plan.one_target:
            raise ValueError(
                "a preference needs all weights of a model to start from, a trie, and a plan with one target a history"
            )
        self.preference, self._read_masks = objective, origin.read_trie
        self._masks: TrieTensors | None = None
        self._reference: Generator | None = None

    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of the step's mean loss per target, and the sums of NextCode, over all sequences that are read."""
        compared, events = self._compared(module, batch)
        summed = self.preference(compared)
        tokens = int(events.lengths.sum()) * events.codes.shape[2]
        count = torch.tensor([len(compared.codes), tokens, events.codes.numel()])
        targets, tokens_, places = count.to(summed.device, torch.float64)
        share = summed / max(1, batch.step_targets)
        return share, {"loss": summed.detach().double(), "targets": targets, "tokens": tokens_, "places": places}

    def _compared(self, module: nn.Module, batch: Batch) -> tuple[Candidates, Events]:
        """Return the candidates of a batch with their log-probabilities, and the sequences in which they were read."""
        trie, reference = self._trie_and_reference(batch.targets.device)
        codes_NCL, real_NC = self._candidates(trie, batch.events)
        compared = codes_NCL.shape[1]
        events = Events(*(each.repeat_interleave(compared, dim=0) for each in _fields(batch.events)))
        rows, last = torch.arange(len(events.lengths), device=events.lengths.device), events.lengths - 1
        events.codes[rows, last] = codes_NCL.flatten(0, 1)
        allowed = trie if self.generator.spec.constrained else None
        policy = log_probability(module, events, allowed).view(-1, compared)
        with torch.no_grad():
            unchanged = log_probability(reference, events, allowed).view(-1, compared)
        return Candidates(codes_NCL, real_NC, policy, unchanged), events

    def _candidates(self, trie: TrieTensors, events: Events) -> tuple[Tensor, Tensor]:
        """Return the right SID of each history's last event, and those that the weights now prefer, and which count."""
        rows, last = torch.arange(len(events.lengths), device=events.lengths.device), events.lengths - 1
        right_N1L = events.codes[rows, last].unsqueeze(1)
        before = Events(events.codes.clone(), events.kinds.clone(), last)
        before.codes[rows, last], before.kinds[rows, last] = 0, 0
        training = self.generator.training
        nodes, _ = search_sids(self.generator, trie, before, self.preference.candidates)
        self.generator.train(training)
        found = torch.from_numpy(trie.masks.sids(nodes.clip(0).ravel()).reshape(*nodes.shape, -1)).to(right_N1L.device)
        there = torch.from_numpy(nodes >= 0).to(right_N1L.device) & (found != right_N1L).any(dim=2)
        return torch.cat([right_N1L, found], dim=1), torch.cat([torch.ones_like(there[:, :1]), there], dim=1)

    def _trie_and_reference(self, device: torch.device) -> tuple[TrieTensors, Generator]:
        """Return the trie of the release and a generator with the weights of the start, made with the first step."""
        if self._masks is None or self._reference is None:
            self._masks = TrieTensors(self._read_masks(), device)
            made = build_generator(self.generator.spec, self.plan.sizes, self.origin.vocabulary, self.plan.seed)
            made.load_state_dict({name: torch.from_numpy(array) for name, array in self.start.items()}, strict=False)
            self._reference = made.to(device).eval().requires_grad_(False)
        return self._masks, self._reference


def log_probability(module: nn.Module, events: Events, trie: TrieTensors | None) -> Tensor:
    """log p(SID of the last event | events before it) of each history, float32 (N,)."""
    places = torch.arange(events.codes.shape[1], device=events.codes.device)
    targets = places == (events.lengths - 1).unsqueeze(1)
    codes_NL = events.codes[targets]
    scores = module(events, targets, trie)
    return torch.stack(
        [
            each.float().log_softmax(dim=-1).gather(1, codes_NL[:, level : level + 1]).squeeze(1)
            for level, each in enumerate(scores)
        ]
    ).sum(dim=0)


def generator_training(
    spec: GeneratorSpec,
    plan: Plan,
    read_bucket: ReadBucket,
    origin: Origin,
    *,
    objective: Objective | Preference,
    start: Mapping[str, NDArray[np.float32]] | None = None,
) -> NextCode:
    """Return the Trainable for an objective; the arguments are those of NextCode."""
    if isinstance(objective, Preference):
        return PreferenceTraining(spec, plan, read_bucket, origin, objective=objective, start=start)
    return NextCode(spec, plan, read_bucket, origin, objective=objective, start=start)


def _fields(events: Events) -> tuple[Tensor, Tensor, Tensor]:
    return events.codes, events.kinds, events.lengths
