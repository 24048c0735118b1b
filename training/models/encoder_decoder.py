"""`encoder_decoder`, as in TIGER (arXiv 2305.05065): an encoder of the history, a decoder of the next SID.

The encoder attends in both directions, so a history serves one target only: a window of the log loader ends with it.
Positions are rotary; TIGER's T5 has relative biases.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from training.data.events import Events
from training.models.code_decoder import CodeDecoder, CodeReading, Memory, with_codes
from training.models.generator import Generator
from training.models.layers import KeyValue, TransformerBlock, rotation


class EncoderDecoder(Generator):
    """A generator of `layers` blocks over the history's codes and `code_layers` over the next event's."""

    one_target: ClassVar[bool] = True

    def _build(self) -> None:
        self.blocks = nn.ModuleList(TransformerBlock(self.spec, causal=False) for _ in range(self.spec.layers))
        self.memories = nn.ModuleList(KeyValue(self.spec) for _ in range(self.spec.code_layers))
        self.code_decoder = CodeDecoder(self.spec, self.spec.code_layers, memory=True)

    def states(self, events: Events, targets_BE: Tensor) -> Tensor:
        """See Generator. Raises ValueError if a history has more than one target."""
        rows, places = torch.nonzero(targets_BE, as_tuple=True)
        if (rows[1:] == rows[:-1]).any():
            raise ValueError("encoder_decoder reads a history for one target; make one window for each target")
        before = Events(events.codes[rows], events.kinds[rows], places)
        start = self.start.expand(len(rows), 1, -1)
        x_N1LD = with_codes(self, start, events.codes[targets_BE].unsqueeze(1))
        return self.code_decoder(x_N1LD, self._encode(before))[0].squeeze(1)  # type: ignore[no-any-return]

    def read(self, events: Events) -> CodeReading:
        """See Generator."""
        return CodeReading(self, self.code_decoder, self.start.expand(len(events.lengths), 1, -1), self._encode(events))

    def _encode(self, events: Events) -> Memory:
        """Return keys and values of the tokens of a history, BOS and the codes of its events; padding is masked."""
        x_BELD = self.embed(events.codes) + self.embed_whole(events).unsqueeze(2)
        start = self.start.expand(len(x_BELD), 1, -1)
        x_BSD = self.dropout(torch.cat([start, x_BELD.flatten(1, 2)], dim=1))
        places = torch.arange(x_BSD.shape[1], device=x_BSD.device)[None]
        seen = (places <= events.lengths[:, None] * self.levels)[:, None, None]
        rotary = rotation(places, self.spec.dim // self.spec.heads)
        for block in self.blocks:
            x_BSD, _ = block(x_BSD, rotary, mask=seen)
        x_BSD = self.norm(x_BSD)
        return Memory([memory(x_BSD) for memory in self.memories], seen)
