"""`rq_transformer`: a transformer over events, and a small one over the codes of the next (arXiv 2203.01941).

An event is one position for any number of codes. So with three codes, histories are a third as long as in `decoder`,
and beams continue from one state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.data.events import Events
from training.models.code_decoder import CodeDecoder, CodeReading, with_codes
from training.models.generator import Generator
from training.models.layers import TransformerBlock, rotation


class RqTransformer(Generator):
    """A generator of `layers` blocks over events and `code_layers` over the codes of an event."""

    def _build(self) -> None:
        self.join = nn.Linear(self.levels * self.spec.dim, self.spec.dim, bias=False)
        self.blocks = nn.ModuleList(TransformerBlock(self.spec) for _ in range(self.spec.layers))
        self.code_decoder = CodeDecoder(self.spec, self.spec.code_layers, memory=False)

    def states(self, events: Events, targets_BE: Tensor) -> Tensor:
        """See Generator."""
        before_BED = self._context(events)[:, :-1]
        start_ND = before_BED[targets_BE]
        x_NLD = with_codes(self, start_ND, events.codes[targets_BE])
        return self.code_decoder(x_NLD.unsqueeze(1))[0].squeeze(1)  # type: ignore[no-any-return]

    def read(self, events: Events) -> CodeReading:
        """See Generator."""
        rows = torch.arange(len(events.lengths), device=events.lengths.device)
        return CodeReading(self, self.code_decoder, self._context(events)[rows, events.lengths].unsqueeze(1))

    def _context(self, events: Events) -> Tensor:
        """Return the state after BOS and after each event, (B, 1 + E, D); no event attends to padding."""
        codes_BED = self.join(self.embed(events.codes).flatten(2))
        start = self.start.expand(len(codes_BED), 1, -1)
        x_BED = self.dropout(torch.cat([start, codes_BED + self.embed_events(events)], dim=1))
        places = torch.arange(x_BED.shape[1], device=x_BED.device)[None]
        rotary = rotation(places, self.spec.dim // self.spec.heads)
        for block in self.blocks:
            x_BED, _ = block(x_BED, rotary)
        return self.norm(x_BED)  # type: ignore[no-any-return]
