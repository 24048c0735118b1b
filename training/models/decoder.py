"""`decoder`: a decoder-only transformer over the codes of a history, one token per code.

Shape suffixes as in `training.models.generator`, and T tokens, S cached positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.data.events import Events
from training.models.generator import Generator
from training.models.layers import KeysValues, TransformerBlock, rotation


class Decoder(Generator):
    """A generator that reads BOS and the codes of all events; with `spec.separators`, a BOS before each event."""

    reads_separators = True

    def _build(self) -> None:
        self.blocks = nn.ModuleList(TransformerBlock(self.spec) for _ in range(self.spec.layers))

    def states(self, events: Events, targets_BE: Tensor) -> Tensor:
        """See Generator. The token before event e's code at level l is at position e * width + l."""
        batch, length, levels = events.codes.shape
        x_BTD = self._tokens(events)
        width = levels + self.spec.separators
        x_BTD = x_BTD[:, : length * width]  # the last code, or the last separator, precedes no target
        hidden_BTD, _ = self._run(x_BTD, torch.arange(x_BTD.shape[1], device=x_BTD.device)[None])
        return hidden_BTD.view(batch, length, width, -1)[targets_BE][:, :levels]

    def read(self, events: Events) -> DecoderReading:
        """See Generator."""
        return DecoderReading(self, events)

    def _tokens(self, events: Events) -> Tensor:
        """(B, T, D): BOS, codes, codes, ...; or BOS, codes, BOS, codes, ..., BOS."""
        batch, length, _ = events.codes.shape
        x_BELD = self.embed(events.codes)
        # Only the last code gets `embed_whole`, because earlier codes are read while the event is predicted.
        x_BELD = torch.cat([x_BELD[:, :, :-1], (x_BELD[:, :, -1] + self.embed_whole(events)).unsqueeze(2)], dim=2)
        start = self.start.expand(batch, 1, -1)
        if self.spec.separators:
            each = self.start.expand(batch, length, 1, -1)
            return torch.cat([torch.cat([each, x_BELD], dim=2).flatten(1, 2), start], dim=1)
        return torch.cat([start, x_BELD.flatten(1, 2)], dim=1)

    def _run(
        self,
        x_BTD: Tensor,
        positions_BT: Tensor,
        past: list[KeysValues] | None = None,
        mask_BTS: Tensor | None = None,
    ) -> tuple[Tensor, list[KeysValues]]:
        """Return hidden states of the tokens, and the cache: `past`, then their keys and values."""
        rotary = rotation(positions_BT, self.spec.dim // self.spec.heads)
        mask = None if mask_BTS is None else mask_BTS.unsqueeze(1)
        x_BTD, cache = self.dropout(x_BTD), []
        for depth, block in enumerate(self.blocks):
            x_BTD, present = block(x_BTD, rotary, None if past is None else past[depth], mask)
            cache.append(present)
        return self.norm(x_BTD), cache


class DecoderReading:
    """A Reading that appends generated codes to the history's cache.

    Each code sees the history and its own ancestors only (tree attention). Beams need no copy of the cache, and a
    change of beams only changes a mask.
    """

    def __init__(self, model: Decoder, events: Events) -> None:
        self._model = model
        tokens_BTD = model._tokens(events)
        every = torch.arange(tokens_BTD.shape[1], device=tokens_BTD.device)[None]
        width = model.levels + model.spec.separators
        self._length_B = 1 + events.lengths * width
        hidden_BTD, self._cache = model._run(tokens_BTD, every)
        self._visible_BWS = (every < self._length_B[:, None]).unsqueeze(1)
        rows = torch.arange(len(tokens_BTD), device=tokens_BTD.device)
        self.hidden = hidden_BTD[rows, self._length_B - 1].unsqueeze(1)

    def extend(self, level: int, parents_BW: Tensor, codes_BW: Tensor) -> None:
        """See Reading."""
        batch, width = codes_BW.shape
        visible = self._visible_BWS.gather(1, parents_BW.unsqueeze(-1).expand(-1, -1, self._visible_BWS.shape[2]))
        own = torch.eye(width, dtype=torch.bool, device=codes_BW.device).expand(batch, width, width)
        self._visible_BWS = torch.cat([visible, own], dim=2)
        x_BWD = self._model.embed(codes_BW.unsqueeze(-1), level).squeeze(2)
        positions_BW = (self._length_B + level).unsqueeze(1).expand(codes_BW.shape)
        self.hidden, self._cache = self._model._run(x_BWD, positions_BW, self._cache, self._visible_BWS)
