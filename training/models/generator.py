"""The base class of generators: p(code at the next level | history, codes so far), for one vocabulary.

The next-code formulation is TIGER's (arXiv 2305.05065). Each level has its own output, so a prediction is a
distribution over exactly that level's codes. The kind of an event (shown only, or a behaviour that the spec names) is
an embedding added to it. The architectures are in `training.models`.

Shape suffixes: B histories, E events, L levels, K codes of a level, D model width, W beams, N targets, M codes that may
follow them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from training.data.events import FIRST_OF_SESSION, OF_ONE_EVENT, Events
from training.models.trie_tensors import TrieTensors
from training.spec import GeneratorSpec

CHILDREN = (1 << 18, 1 << 13)
"""Next codes scored at once, on an accelerator and on a CPU, where they fit the cache."""
HASHES = ((0x5851F42D4C957F2D, 0x14057B7EF767814F), (0x2545F4914F6CDD1D, 0x369DEA0F31A53F85))
"""Odd factor and offset of each of two hashes of a prefix."""


class Reading(Protocol):
    """Histories that have been read, with beams of codes after each, for use in a beam search."""

    hidden: Tensor
    """The state before the next code of each beam (B, W, D)."""

    def extend(self, level: int, parents_BW: Tensor, codes_BW: Tensor) -> None:
        """Replace beam w by beam parents[w] with its code at `level` appended."""
        ...


class Generator(nn.Module, ABC):
    """A module that scores the next code of histories; the same seed gives the same initial weights.

    `vocabulary` is the hash of the output layer's meaning (codebook, levels, collision policy).
    """

    offsets: Tensor
    one_target: ClassVar[bool] = False
    """Whether a history is read for one target, its last event, instead of for all of its events at once."""
    reads_separators: ClassVar[bool] = False
    """Whether it can read a BOS before every event (`generator.separators`)."""

    def __init__(self, spec: GeneratorSpec, sizes: tuple[int, ...], vocabulary: str, seed: int = 0) -> None:
        super().__init__()
        self.spec, self.sizes, self.vocabulary = spec, tuple(sizes), vocabulary
        first = torch.tensor([0, *self.sizes[:-1]]).cumsum(0)
        self.register_buffer("offsets", first, persistent=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.codes = nn.Embedding(sum(self.sizes), spec.dim)
            self.kinds = nn.Embedding(OF_ONE_EVENT + len(spec.behaviours), spec.dim)
            self.session = nn.Parameter(torch.empty(1, spec.dim)) if spec.sessions else None
            buckets = spec.prefix_buckets
            self.prefixes = nn.Embedding(buckets, spec.dim) if buckets else None
            self.start = nn.Parameter(torch.empty(1, spec.dim))
            self.heads = nn.ModuleList(nn.Linear(spec.dim, size, bias=False) for size in self.sizes)
            self.norm = nn.RMSNorm(spec.dim)
            self.dropout = nn.Dropout(spec.dropout)
            self._build()
            self._initialise()

    @abstractmethod
    def _build(self) -> None:
        """Make the layers."""

    def _initialise(self) -> None:
        """Initialise as GPT-2: normal 0.02, and less for weights that write to the residual stream."""
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * self.spec.layers) if residual else 0.02)

    @property
    def levels(self) -> int:
        """Codes per item."""
        return len(self.sizes)

    def embed(self, codes: Tensor, first: int = 0) -> Tensor:
        """Return embeddings (..., l, D) of codes (..., l) of the levels from `first` on."""
        embedded: Tensor = self.codes(codes + self.offsets[first : first + codes.shape[-1]])
        return embedded

    def embed_whole(self, events: Events) -> Tensor:
        """Return the embedding of an event as a whole (B, E, D): its kind and, with `prefix_buckets`, its prefixes.

        Each prefix has its own embedding (arXiv 2306.08121). So common traits of the items below it, and traits of a
        single item, need not be composed from codes that have other meanings elsewhere. It is the sum of two rows of a
        hashed table: prefixes that share one row hardly ever share the other (arXiv 1709.03933).
        """
        whole_BED: Tensor = self.kinds(events.kinds % FIRST_OF_SESSION)
        if self.session is not None:
            whole_BED = whole_BED + (events.kinds >= FIRST_OF_SESSION).unsqueeze(-1) * self.session
        return whole_BED if self.prefixes is None else whole_BED + self.prefixes(self.prefix_rows(events.codes)).sum(-2)

    def prefix_rows(self, codes: Tensor) -> Tensor:
        """Return table rows of the prefixes (..., 2 * (L - 1)) of SIDs (..., L), shortest prefix first."""
        key, rows = codes[..., 0], []
        for level in range(1, self.levels):
            key = self.prefix_key(level, key, codes[..., level])
            rows += self._hashed(level, key)
        return torch.stack(rows, dim=-1) if rows else codes[..., :0]

    def prefix_key(self, level: int, key: Tensor, codes: Tensor) -> Tensor:
        """Return the number of a prefix, from that of the prefix before (0 if empty) and the code at `level`."""
        return key * self.sizes[level] + codes

    def _hashed(self, level: int, key: Tensor) -> list[Tensor]:
        # Wrap to signed 64 bits, as tensor arithmetic does.
        starts = [(level * start + (1 << 63)) % (1 << 64) - (1 << 63) for _, start in HASHES]
        return [
            ((key + start) * odd >> 20) % self.spec.prefix_buckets
            for (odd, _), start in zip(HASHES, starts, strict=True)
        ]

    def embed_events(self, events: Events) -> Tensor:
        """Return one embedding per event (B, E, D): the sum of its code embeddings and `embed_whole`."""
        return self.embed(events.codes).sum(dim=2) + self.embed_whole(events)

    def logits(self, level: int, hidden: Tensor) -> Tensor:
        """Return scores of the level's codes: hidden (..., D) before that level -> (..., K)."""
        return self.heads[level](hidden)  # type: ignore[no-any-return]

    def scores(self, level: int, hidden_BWD: Tensor, trie: TrieTensors, nodes_BW: Tensor, keys_BW: Tensor) -> Tensor:
        """Return scores (B, W, K) of the codes that may follow nodes with prefix numbers `keys`; -inf for others."""
        scores_BWK = self.logits(level, hidden_BWD)
        if self.spec.prefix_outputs and level:
            owner_M, child_M, codes_M = trie.edges(level, nodes_BW.flatten())
            keys_M = self.prefix_key(level, keys_BW.flatten()[owner_M], codes_M)
            led_to_M = self._scores_of_prefixes(level, hidden_BWD.flatten(0, 1), trie, owner_M, child_M, keys_M)
            flat_NK = scores_BWK.flatten(0, 1)
            flat_NK = flat_NK.index_put((owner_M, codes_M), led_to_M.to(flat_NK.dtype), accumulate=True)
            scores_BWK = flat_NK.view_as(scores_BWK)
        return trie.restrict(level, scores_BWK, nodes_BW)

    def _scores_of_prefixes(
        self, level: int, hidden_ND: Tensor, trie: TrieTensors, owner_M: Tensor, child_M: Tensor, keys_M: Tensor
    ) -> Tensor:
        """Return the score (M,) that the embedding of the prefix after each code adds.

        If many beams share nodes, each prefix of the level is embedded once.
        """
        edges, table_CD = len(trie.codes[level]), None
        if edges < len(keys_M):
            table_CD = self._embed_prefixes(level, keys_M.new_zeros(edges).index_put((child_M,), keys_M))
        found = []
        at_once = CHILDREN[hidden_ND.device.type == "cpu"]
        for start in range(0, max(1, len(keys_M)), at_once):
            part = slice(start, start + at_once)
            led_to = self._embed_prefixes(level, keys_M[part]) if table_CD is None else table_CD[child_M[part]]
            found.append(torch.sum(hidden_ND[owner_M[part]] * led_to, dim=-1))
        return torch.cat(found)

    def _embed_prefixes(self, level: int, keys_M: Tensor) -> Tensor:
        """Return embeddings of prefixes whose last code is one of `level` (M, D)."""
        assert self.prefixes is not None
        embedded: Tensor = self.prefixes(torch.stack(self._hashed(level, keys_M), dim=-1)).sum(dim=-2)
        return embedded

    @abstractmethod
    def states(self, events: Events, targets_BE: Tensor) -> Tensor:
        """Return the state before each code of the N events that `targets` (bool) selects, (N, L, D), row by row.

        It depends on the events before the code's event and on the event's earlier codes.
        """

    @abstractmethod
    def read(self, events: Events) -> Reading:
        """Read histories to predict the next event; one beam each."""

    def forward(self, events: Events, targets_BE: Tensor, trie: TrieTensors | None = None) -> list[Tensor]:
        """Return scores of every code of the targets, one tensor (N, K) per level.

        With a trie, only codes that may follow the target's earlier codes are scored; others get -inf.
        """
        states_NLD = self.states(events, targets_BE)
        if trie is None:
            return [self.logits(level, states_NLD[:, level]) for level in range(self.levels)]
        codes_1NL, scores = events.codes[targets_BE].unsqueeze(0), []
        nodes_1N = keys_1N = torch.zeros_like(codes_1NL[..., 0])
        for level in range(self.levels):
            scores.append(self.scores(level, states_NLD[None, :, level], trie, nodes_1N, keys_1N).squeeze(0))
            nodes_1N = trie.step(level, nodes_1N, codes_1NL[..., level])
            keys_1N = self.prefix_key(level, keys_1N, codes_1NL[..., level])
        return scores
