"""Networks of fusion: a projection of each modality, and a learned correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from pipelines.fusion.two_threads import product_by_halves, run_both, runs_in_parts
from pipelines.modalities import COLLABORATIVE
from pipelines.registry import fusion_method_of
from pipelines.spec import FusionSpec

# Upper bound of the learned score scale (1 / temperature).
MAX_SCALE = 100.0

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class FusionBatch:
    """Items of one step, a pair in each row: `left` holds (B, D) per modality, `right` (R, D).

    The first B rows of `right` are the pair partners, the other R - B are hard negatives. `keep_left` and `keep_right`
    (B or R, modalities) mark the modalities used, `present` those that right items have. `taken` (B, R) marks columns
    that are no negatives of a row, because they repeat one of its items; `repeated` (B, B) those of the same right
    item. `popularity` (R,) is the log frequency with which a right item is drawn. The loss covers the rows `own`, a
    share of the step.
    """

    left: Tensors
    right: Tensors
    keep_left: Tensor
    keep_right: Tensor
    present: Tensor
    taken: Tensor
    repeated: Tensor
    popularity: Tensor
    own: slice

    def to(self, device: torch.device) -> FusionBatch:
        """Return the step on a device."""
        return FusionBatch(
            {name: each.to(device) for name, each in self.left.items()},
            {name: each.to(device) for name, each in self.right.items()},
            self.keep_left.to(device),
            self.keep_right.to(device),
            self.present.to(device),
            self.taken.to(device),
            self.repeated.to(device),
            self.popularity.to(device),
            self.own,
        )


class ByModality(nn.ModuleDict):
    """Modules by modality. Any name will do: of a ModuleDict none may be that of a method, such as `items`."""

    def __setitem__(self, key: str, module: nn.Module) -> None:
        self._modules[key] = module


class FusionNet(nn.Module):
    """Network whose fused vectors are the sum of each modality's projection and of a correction.

    The projection starts at principal components, each modality in dimensions of its own. The correction starts at
    zero, so training starts where `concat` ends.
    """

    def __init__(self, spec: FusionSpec, widths: Mapping[str, int]) -> None:
        super().__init__()
        torch.manual_seed(spec.seed)
        self.spec, self.modalities = spec, sorted(widths)
        self.linear = ByModality({name: nn.Linear(widths[name], spec.dim) for name in self.modalities})
        method = fusion_method_of(spec.method)
        self.correction = None if method.correction is None else method.correction(spec, widths)
        self._randomness = method.randomness
        self.log_scale = nn.Parameter(torch.tensor(1 / spec.temperature).log())

    def encode(self, vectors: Tensors) -> list[Tensor]:
        """Encode each modality on its own, before it is known which are present."""
        found = [torch.stack([self.linear[name](vectors[name]) for name in self.modalities], dim=1)]
        return found if self.correction is None else [*found, self.correction.encode(vectors)]

    def merge(self, encoded: Sequence[Tensor], keep: Tensor) -> Tensor:
        """Return fused vectors (n, F) of unit length from the modalities that `keep` (n, modalities) marks."""
        fused = (encoded[0] * keep[:, :, None]).sum(dim=1)
        if self.correction is not None:
            fused = fused + self.correction.merge(encoded[1], keep)
        return normalize(fused, dim=1, eps=1e-6)

    def forward(self, step: FusionBatch) -> tuple[Tensor, Tensor]:
        """Return, of the step's own rows, their share of the mean loss and the sum of their pair losses."""
        own, spec, scale = step.own, self.spec, self.log_scale.exp().clamp(max=MAX_SCALE)
        left, right, encoded = self._both_sides(step)
        pairs = len(step.taken)
        target = torch.arange(pairs, device=right.device)[own]
        products = product_by_halves(left, right) if runs_in_parts(self) else left @ right.T
        scores = (products * scale - spec.popularity * step.popularity).masked_fill(step.taken[own], -torch.inf)
        summed = cross_entropy(scores, target, reduction="sum")
        share = summed / pairs
        if spec.align and len(self.modalities) > 1:
            share = share + spec.align * self._two_view_loss([each[:pairs] for each in encoded], step, scale, target)
        return share, summed.detach()

    def _both_sides(self, step: FusionBatch) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """Return fused vectors of the left items of the step's own rows and of the right ones, and these encoded."""

        def of_left() -> Sequence[Tensor]:
            own = {name: each[step.own] for name, each in step.left.items()}
            return [self.merge(self.encode(own), step.keep_left[step.own])]

        def of_right() -> Sequence[Tensor]:
            encoded = self.encode(step.right)
            return [self.merge(encoded, step.keep_right), *encoded]

        if self._randomness or not runs_in_parts(self):
            (left,), (right, *encoded) = of_left(), of_right()
        else:
            (left,), (right, *encoded) = run_both(of_left, of_right, self)
        return left, right, encoded

    def _two_view_loss(self, encoded: Sequence[Tensor], step: FusionBatch, scale: Tensor, target: Tensor) -> Tensor:
        """Return InfoNCE of two views of the same items: behaviour, or else the first modality, and all others."""
        present = step.present[: len(step.repeated)]
        alone = torch.zeros_like(present)
        at = self.modalities.index(COLLABORATIVE) if COLLABORATIVE in self.modalities else 0
        alone[:, at] = present[:, at]
        others = present - alone
        both = alone.any(dim=1) & others.any(dim=1)
        if not both.any():
            return scale * 0
        one, rest = self.merge(encoded, alone)[step.own], self.merge(encoded, others)
        scores = (one @ rest.T * scale).masked_fill(step.repeated[step.own] | ~both, -torch.inf)
        mine = both[step.own]
        return cross_entropy(scores[mine], target[mine], reduction="sum") / both.sum()


class Towers(nn.Module):
    """Correction from each modality on its own, such as the behaviour that text predicts."""

    def __init__(self, spec: FusionSpec, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.modalities = sorted(widths)
        self.tower = ByModality(
            {
                name: nn.Sequential(
                    nn.Linear(widths[name], spec.hidden), nn.GELU(), _silent(nn.Linear(spec.hidden, spec.dim))
                )
                for name in self.modalities
            }
        )

    def encode(self, vectors: Tensors) -> Tensor:
        """Return (n, modalities, F)."""
        return torch.stack([self.tower[name](vectors[name]) for name in self.modalities], dim=1)

    def merge(self, encoded: Tensor, keep: Tensor) -> Tensor:
        """Return (n, F)."""
        return (encoded * keep[:, :, None]).sum(dim=1)


class QFormer(nn.Module):
    """Queries that attend to one another and to a token of each modality an item has (OxygenRec, after BLIP-2)."""

    def __init__(self, spec: FusionSpec, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.modalities = sorted(widths)
        self.token = ByModality({name: nn.Linear(widths[name], spec.hidden) for name in self.modalities})
        self.queries = nn.Parameter(0.02 * torch.randn(spec.queries, spec.hidden))
        self.blocks = nn.ModuleList(QueryBlock(spec.hidden, spec.heads) for _ in range(spec.blocks))
        self.out = _silent(nn.Linear(spec.queries * spec.hidden, spec.dim))

    def encode(self, vectors: Tensors) -> Tensor:
        """Return tokens (n, modalities, hidden)."""
        return torch.stack([self.token[name](vectors[name]) for name in self.modalities], dim=1)

    def merge(self, tokens: Tensor, keep: Tensor) -> Tensor:
        """Return (n, F); zero for an item without any modality."""
        some = keep.any(dim=1)
        # A row with only masked tokens would give NaN: it attends to all of them and is set to zero at the end.
        masked = (keep == 0) & some[:, None]
        state = self.queries.expand(len(tokens), -1, -1)
        for block in self.blocks:
            state = block(state, tokens, masked)
        answer: Tensor = self.out(state.flatten(1))
        return answer * some[:, None]


class QueryBlock(nn.Module):
    """Self-attention, cross-attention and a feed-forward layer, each pre-normalised with a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own = nn.MultiheadAttention(width, heads, batch_first=True)
        self.cross = nn.MultiheadAttention(width, heads, batch_first=True)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, state: Tensor, tokens: Tensor, masked: Tensor) -> Tensor:
        """Return (n, queries, width)."""
        seen = self.norms[0](state)
        state = state + self.own(seen, seen, seen, need_weights=False)[0]
        seen = self.norms[1](state)
        state = state + self.cross(seen, tokens, tokens, key_padding_mask=masked, need_weights=False)[0]
        added: Tensor = state + self.feed(self.norms[2](state))
        return added


def _silent(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
