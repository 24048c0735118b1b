"""The generator: a decoder-only transformer that reads a history as SID tokens and writes the next SID.

RMSNorm (arXiv 1910.07467), rotary positions (arXiv 2104.09864), grouped queries (arXiv 2305.13245), SwiGLU
(arXiv 2002.05202); the next-code formulation is TIGER's (arXiv 2305.05065). Each level has an output of its own, so
a prediction is a distribution over exactly that level's codes. An event's feedback class (0 positive, 1 shown only)
is an embedding added to the tokens of the event.

Shape suffixes: B batch, T tokens, E events, L levels, K codes of a level, D model width, H query heads,
G key/value heads, P head width, S cached positions, W beams, N targets.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.spec import GeneratorSpec
from training.tokens import TokenLayout

Cache = list[tuple[Tensor, Tensor]]
"""Keys and values of every layer, each (B, G, S, P), keys already rotated."""


def rotation(positions: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary angles: positions (..., T) -> two (..., 1, T, width // 2), ready for heads."""
    half = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32)
    angle = positions.unsqueeze(-1).float() * torch.exp(-math.log(10_000.0) / width * half)
    return angle.cos().unsqueeze(-3), angle.sin().unsqueeze(-3)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs (i, i + P/2) of x (B, heads, T, P) by the angles of their positions."""
    cos, sin = (part.to(x.dtype) for part in turn)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Attention(nn.Module):
    """Causal self-attention in which a group of query heads shares one key/value head."""

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width = spec.heads, spec.kv_heads, spec.dim // spec.heads
        self.query = nn.Linear(spec.dim, spec.dim, bias=False)
        self.key_value = nn.Linear(spec.dim, 2 * self.kv_heads * self.width, bias=False)
        self.out = nn.Linear(spec.dim, spec.dim, bias=False)

    def forward(
        self, x_BTD: Tensor, turn: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor] | None, mask: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend causally without a past; with one, to the past and the new tokens as `mask` (B, 1, T, S+T) says."""
        batch, length, dim = x_BTD.shape
        q_BHTP = rotate(self.query(x_BTD).view(batch, length, self.heads, self.width).transpose(1, 2), turn)
        k_BTGP, v_BTGP = self.key_value(x_BTD).view(batch, length, 2 * self.kv_heads, self.width).chunk(2, dim=2)
        k_BGSP, v_BGSP = rotate(k_BTGP.transpose(1, 2), turn), v_BTGP.transpose(1, 2)
        if past is not None:
            k_BGSP, v_BGSP = torch.cat([past[0], k_BGSP], dim=2), torch.cat([past[1], v_BGSP], dim=2)
        y_BHTP = functional.scaled_dot_product_attention(
            q_BHTP, k_BGSP, v_BGSP, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )
        return self.out(y_BHTP.transpose(1, 2).reshape(batch, length, dim)), (k_BGSP, v_BGSP)


class SwiGLU(nn.Module):
    """Gated feed-forward: (silu(x W1) * x W2) W3."""

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        self.gate_up = nn.Linear(spec.dim, 2 * spec.ff, bias=False)
        self.down = nn.Linear(spec.ff, spec.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(functional.silu(gate) * up)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual connection."""

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        self.attention_norm, self.ff_norm = nn.RMSNorm(spec.dim), nn.RMSNorm(spec.dim)
        self.attention, self.feed_forward = Attention(spec), SwiGLU(spec)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(
        self, x_BTD: Tensor, turn: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor] | None, mask: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the new hidden states and this layer's keys and values, the past's included."""
        mixed, present = self.attention(self.attention_norm(x_BTD), turn, past, mask)
        x_BTD = x_BTD + self.dropout(mixed)
        return x_BTD + self.dropout(self.feed_forward(self.ff_norm(x_BTD))), present


class Generator(nn.Module):
    """p(code at the next level | history, codes so far), for the vocabulary it was built with.

    `vocabulary` is the hash that names the meaning of the output layer (codebook, levels, collision policy); the
    same `seed` gives the same initial weights.
    """

    def __init__(self, spec: GeneratorSpec, sizes: tuple[int, ...], vocabulary: str, seed: int = 0) -> None:
        super().__init__()
        self.spec, self.vocabulary, self.layout = spec, vocabulary, TokenLayout(tuple(sizes))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.tokens = nn.Embedding(self.layout.count, spec.dim)
            self.feedback = nn.Embedding(2, spec.dim)
            self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.layers))
            self.norm = nn.RMSNorm(spec.dim)
            self.heads = nn.ModuleList(nn.Linear(spec.dim, size, bias=False) for size in sizes)
            self.dropout = nn.Dropout(spec.dropout)
            self._initialise()

    def _initialise(self) -> None:
        """GPT-2's scheme: normal 0.02, and less on what writes to the residual stream of a deep stack."""
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * self.spec.layers) if residual else 0.02)

    def encode(
        self,
        tokens_BT: Tensor,
        feedback_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        past: Cache | None = None,
        mask_BTS: Tensor | None = None,
    ) -> tuple[Tensor, Cache]:
        """Hidden states (B, T, D) of the tokens, and the cache that holds them behind `past`.

        Without `past` the tokens stand at positions 0..T-1 and see each other causally. With it, `positions_BT` says
        where they stand and `mask_BTS` (bool, S counts past and new) what each may see.
        """
        if positions_BT is None:
            positions_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device).unsqueeze(0)
        turn = rotation(positions_BT, self.spec.dim // self.spec.heads)
        mask = None if mask_BTS is None else mask_BTS.unsqueeze(1)
        x_BTD = self.dropout(self.tokens(tokens_BT) + self.feedback(feedback_BT))
        cache: Cache = []
        for depth, block in enumerate(self.blocks):
            x_BTD, present = block(x_BTD, turn, None if past is None else past[depth], mask)
            cache.append(present)
        return self.norm(x_BTD), cache

    def logits(self, level: int, hidden: Tensor) -> Tensor:
        """Scores of the level's codes: hidden (..., D) of the token before that level -> (..., K)."""
        return self.heads[level](hidden)  # type: ignore[no-any-return]

    def forward(self, tokens_BT: Tensor, feedback_BT: Tensor, targets_BE: Tensor | None = None) -> list[Tensor]:
        """Scores of every next code, one tensor per level.

        tokens (B, E*L) are BOS and all but the last code of E events; the token before event e's code at level l
        stands at e*L + l. -> per level (B, E, K), or (N, K) for the N events that `targets_BE` (bool) selects: a wide
        codebook's scores are computed only where a loss needs them.
        """
        hidden_BTD, _ = self.encode(tokens_BT, feedback_BT)
        hidden_BELD = hidden_BTD.view(len(tokens_BT), -1, self.layout.levels, self.spec.dim)
        hidden = hidden_BELD if targets_BE is None else hidden_BELD[targets_BE]
        return [self.logits(level, hidden[..., level, :]) for level in range(self.layout.levels)]
