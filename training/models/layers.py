"""Building blocks of the generators: rotary attention with grouped queries, gated feed-forward, experts.

RMSNorm (arXiv 1910.07467), rotary positions (arXiv 2104.09864), grouped queries (arXiv 2305.13245), SwiGLU (arXiv
2002.05202), experts balanced without an auxiliary loss (arXiv 2408.15664).

Shape suffixes: B batch, T tokens, S positions attended to, D model width, H query heads, G key/value heads, P head
width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from learning.attention import scaled_dot_product_attention
from training.spec import GeneratorSpec

RotaryAngles = tuple[Tensor, Tensor]
"""Cosine and sine of rotary angles."""
KeysValues = tuple[Tensor, Tensor]
"""Keys and values, each (B, G, S, P), keys already rotated."""

BALANCING_RATE = 1e-3
"""Change of an expert's bias per step."""


def rotation(positions: Tensor, width: int) -> RotaryAngles:
    """Return cosine and sine of the rotary angles: positions (..., T) -> two (..., 1, T, width // 2), for heads."""
    half = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32)
    angle = positions.unsqueeze(-1).float() * torch.exp(-math.log(10_000.0) / width * half)
    return angle.cos().unsqueeze(-3), angle.sin().unsqueeze(-3)


def rotate(x: Tensor, rotary: RotaryAngles) -> Tensor:
    """Rotate the pairs (i, i + P/2) of x (B, heads, T, P) by the angles of their positions."""
    cos, sin = (part.to(x.dtype) for part in rotary)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Queries(nn.Module):
    """Attention to given keys and values: query and output projections."""

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        self.heads, self.width, self.drop = spec.heads, spec.dim // spec.heads, spec.dropout
        self.query = nn.Linear(spec.dim, spec.dim, bias=False)
        self.out = nn.Linear(spec.dim, spec.dim, bias=False)

    def attend(
        self, x_BTD: Tensor, given: KeysValues, rotary: RotaryAngles | None, mask: Tensor | None, causal: bool
    ) -> Tensor:
        """Attend from x (B, T, D) to `given`, by `mask` (bool, broadcast to (B, H, T, S)), else to all or causally."""
        batch, length, dim = x_BTD.shape
        q_BHTP = self.query(x_BTD).view(batch, length, self.heads, self.width).transpose(1, 2)
        y_BHTP = scaled_dot_product_attention(
            q_BHTP if rotary is None else rotate(q_BHTP, rotary),
            *given,
            attn_mask=mask,
            dropout_p=self.drop if self.training else 0.0,
            is_causal=causal,
            enable_gqa=True,
        )
        return self.out(y_BHTP.transpose(1, 2).reshape(batch, length, dim))  # type: ignore[no-any-return]


class KeyValue(nn.Module):
    """Projection to keys and values, with no more heads than the queries have."""

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        self.heads, self.width = spec.kv_heads, spec.dim // spec.heads
        self.project = nn.Linear(spec.dim, 2 * self.heads * self.width, bias=False)

    def forward(self, x_BSD: Tensor, rotary: RotaryAngles | None = None) -> KeysValues:
        """(B, S, D) -> keys, rotated, and values, each (B, G, S, P)."""
        batch, length, _ = x_BSD.shape
        k_BSGP, v_BSGP = self.project(x_BSD).view(batch, length, 2 * self.heads, self.width).chunk(2, dim=2)
        k_BGSP = k_BSGP.transpose(1, 2)
        return k_BGSP if rotary is None else rotate(k_BGSP, rotary), v_BSGP.transpose(1, 2)


class SelfAttention(nn.Module):
    """Self-attention in which a group of query heads shares one key/value head."""

    def __init__(self, spec: GeneratorSpec, causal: bool = True) -> None:
        super().__init__()
        self.causal, self.queries, self.key_value = causal, Queries(spec), KeyValue(spec)

    def forward(
        self, x_BTD: Tensor, rotary: RotaryAngles, past: KeysValues | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, KeysValues]:
        """Attend to `past`, if given, and to the tokens, by `mask`; without both causally (if set), else to all."""
        keys, values = self.key_value(x_BTD, rotary)
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        causal = self.causal and past is None and mask is None
        return self.queries.attend(x_BTD, (keys, values), rotary, mask, causal), (keys, values)


class SwiGLU(nn.Module):
    """Gated feed-forward: (silu(x W1) * x W2) W3."""

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        self.gate_up = nn.Linear(spec.dim, 2 * spec.ff, bias=False)
        self.down = nn.Linear(spec.ff, spec.dim, bias=False)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(self.dropout(functional.silu(gate) * up))  # type: ignore[no-any-return]


class Experts(nn.Module):
    """A mixture of feed-forwards, of which each token uses `experts_per_token`, weighted by a router.

    A bias that affects only the choice of experts rises for experts with less than their share of a step's tokens, over
    all workers, and falls for the others.
    """

    bias: Tensor

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        self.chosen = spec.experts_per_token
        self.router = nn.Linear(spec.dim, spec.experts, bias=False)
        self.experts = nn.ModuleList(SwiGLU(spec) for _ in range(spec.experts))
        self.register_buffer("bias", torch.zeros(spec.experts))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        flat = x.reshape(-1, x.shape[-1])
        affinity = self.router(flat).float().sigmoid()
        chosen = (affinity + self.bias).topk(self.chosen, dim=1).indices
        weight = affinity.gather(1, chosen)
        weight = (weight / weight.sum(dim=1, keepdim=True)).to(flat.dtype)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            row, rank = torch.nonzero(chosen == number, as_tuple=True)
            out = out.index_add(0, row, expert(flat[row]) * weight[row, rank, None])
        if self.training:
            load = torch.bincount(chosen.flatten(), minlength=len(self.bias)).float()
            if distributed.is_initialized():
                distributed.all_reduce(load)
            self.bias += BALANCING_RATE * torch.sign(load.mean() - load)
        return out.view_as(x)


def feed_forward(spec: GeneratorSpec) -> SwiGLU | Experts:
    """Return a single feed-forward, or a mixture."""
    return Experts(spec) if spec.experts else SwiGLU(spec)


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and feed-forward, each with a residual connection."""

    def __init__(self, spec: GeneratorSpec, causal: bool = True) -> None:
        super().__init__()
        self.attention_norm, self.ff_norm = nn.RMSNorm(spec.dim), nn.RMSNorm(spec.dim)
        self.attention, self.feed_forward = SelfAttention(spec, causal), feed_forward(spec)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(
        self, x_BTD: Tensor, rotary: RotaryAngles, past: KeysValues | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, KeysValues]:
        """Return the new hidden states, and this layer's keys and values, including the past."""
        mixed, present = self.attention(self.attention_norm(x_BTD), rotary, past, mask)
        x_BTD = x_BTD + self.dropout(mixed)
        return x_BTD + self.dropout(self.feed_forward(self.ff_norm(x_BTD))), present
