"""The decoder of the codes of one event from its context; part of all generators except `decoder`.

Shape suffixes as in `training.models.generator`, and S positions of the memory, G key/value heads, P head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.generator import Generator
from training.models.layers import KeysValues, Queries, RotaryAngles, SelfAttention, feed_forward, rotation
from training.spec import GeneratorSpec


class Memory:
    """Keys and values of a history: one pair for each block, or one for all.

    `mask` (B or 1, 1, T or 1, S) bool marks the positions visible to the T query tokens. `rotary` has the angles of the
    queries, if positions count.
    """

    def __init__(self, pairs: list[KeysValues], mask: Tensor, rotary: RotaryAngles | None = None) -> None:
        self.pairs, self.mask, self.rotary = pairs, mask, rotary

    def attend(self, queries: Queries, x_BTD: Tensor, depth: int) -> Tensor:
        """Return the attention output (B, T, D) of block number `depth`."""
        return queries.attend(x_BTD, self.pairs[depth % len(self.pairs)], self.rotary, self.mask, causal=False)


class CodeBlock(nn.Module):
    """Attention to a memory, if there is one, and to earlier codes, then feed-forward; pre-norm and residual."""

    def __init__(self, spec: GeneratorSpec, memory: bool) -> None:
        super().__init__()
        self.cross = Queries(spec) if memory else None
        self.cross_norm = nn.RMSNorm(spec.dim) if memory else None
        self.attention_norm, self.ff_norm = nn.RMSNorm(spec.dim), nn.RMSNorm(spec.dim)
        self.attention, self.feed_forward = SelfAttention(spec), feed_forward(spec)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(
        self, x_BELD: Tensor, rotary: RotaryAngles, past: KeysValues | None, memory: Memory | None, depth: int
    ) -> tuple[Tensor, KeysValues]:
        """Return the new x (B, E, L, D), and the keys and values of its codes (B * E, G, l, P), `past` ones included.

        Each of the E events sees its own codes alone.
        """
        batch, events, levels, dim = x_BELD.shape
        if memory is not None:
            assert self.cross is not None
            assert self.cross_norm is not None
            queries = self.cross_norm(x_BELD).view(batch, events * levels, dim)
            x_BELD = x_BELD + self.dropout(memory.attend(self.cross, queries, depth).view(x_BELD.shape))
        own = self.attention_norm(x_BELD).view(batch * events, levels, dim)
        mixed, present = self.attention(own, rotary, past)
        x_BELD = x_BELD + self.dropout(mixed.view(x_BELD.shape))
        return x_BELD + self.dropout(self.feed_forward(self.ff_norm(x_BELD))), present


class CodeDecoder(nn.Module):
    """Blocks over the tokens of an event: its start, then all its codes but the last."""

    def __init__(self, spec: GeneratorSpec, blocks: int, memory: bool) -> None:
        super().__init__()
        self.width = spec.dim // spec.heads
        self.blocks = nn.ModuleList(CodeBlock(spec, memory) for _ in range(blocks))
        self.norm = nn.RMSNorm(spec.dim)

    def forward(
        self, x_BELD: Tensor, memory: Memory | None = None, past: list[KeysValues] | None = None
    ) -> tuple[Tensor, list[KeysValues]]:
        """Return the states (B, E, L, D) of tokens that continue those of `past`, and the new past."""
        before = 0 if past is None else past[0][0].shape[2]
        rotary = rotation(torch.arange(before, before + x_BELD.shape[2], device=x_BELD.device)[None], self.width)
        cache: list[KeysValues] = []
        for depth, block in enumerate(self.blocks):
            x_BELD, present = block(x_BELD, rotary, None if past is None else past[depth], memory, depth)
            cache.append(present)
        return self.norm(x_BELD), cache


class CodeReading:
    """A Reading in which each beam has the keys and values of its own codes, and beams share the memory."""

    def __init__(self, model: Generator, decoder: CodeDecoder, start_B1D: Tensor, memory: Memory | None = None) -> None:
        self._model, self._decoder, self._memory = model, decoder, memory
        states, self._past = decoder(start_B1D.unsqueeze(2), memory)
        self.hidden: Tensor = states[:, :, 0]

    def extend(self, level: int, parents_BW: Tensor, codes_BW: Tensor) -> None:
        """Replace each beam by its parent with a code appended; see `Reading`."""
        batch, before = len(parents_BW), self.hidden.shape[1]
        rows = (torch.arange(batch, device=parents_BW.device)[:, None] * before + parents_BW).flatten()
        past = [(keys[rows], values[rows]) for keys, values in self._past]
        x_BWD = self._model.embed(codes_BW.unsqueeze(-1), level).squeeze(2)
        states, self._past = self._decoder(x_BWD.unsqueeze(2), self._memory, past)
        self.hidden = states[:, :, 0]


def with_codes(model: Generator, start: Tensor, codes: Tensor) -> Tensor:
    """Return the tokens (..., L, D) of events: their start tokens (..., D), then their codes (..., L) but the last."""
    return torch.cat([start.unsqueeze(-2), model.embed(codes[..., :-1])], dim=-2)
