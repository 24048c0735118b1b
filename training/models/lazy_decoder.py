"""`lazy_decoder`, as in OneRec-V2 (arXiv 2508.20900): all blocks attend to the same keys and values of events.

The context is projected once, without transformer blocks. Its cost does not grow with the depth of the decoder. All
blocks, and the query heads of a group, share its keys and values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.data.events import Events
from training.models.code_decoder import CodeDecoder, CodeReading, Memory, with_codes
from training.models.generator import Generator
from training.models.layers import KeyValue, rotation


class LazyDecoder(Generator):
    """A generator with a one-projection context, and `layers` blocks over the codes of the next event."""

    def _build(self) -> None:
        self.join = nn.Linear(self.levels * self.spec.dim, self.spec.dim, bias=False)
        self.context = KeyValue(self.spec)
        self.code_decoder = CodeDecoder(self.spec, self.spec.layers, memory=True)

    def states(self, events: Events, targets_BE: Tensor) -> Tensor:
        """See Generator."""
        batch, length, levels = events.codes.shape
        places = torch.arange(length, device=events.codes.device)
        # Event e sees the BOS at place 0 and the events at places 1..e.
        seen = torch.arange(1 + length, device=places.device) <= places.repeat_interleave(levels)[:, None]
        asking = places.repeat_interleave(levels)[None]
        x_BELD = with_codes(self, self.start.expand(batch, length, -1), events.codes)
        states_BELD, _ = self.code_decoder(x_BELD, self._memory(events, seen[None, None], asking))
        return states_BELD[targets_BE]  # type: ignore[no-any-return]

    def read(self, events: Events) -> CodeReading:
        """See Generator."""
        lengths = events.lengths[:, None]
        seen = torch.arange(1 + events.codes.shape[1], device=lengths.device) <= lengths
        memory = self._memory(events, seen[:, None, None], lengths)
        return CodeReading(self, self.code_decoder, self.start.expand(len(lengths), 1, -1), memory)

    def _memory(self, events: Events, mask: Tensor, asking: Tensor) -> Memory:
        """Return keys and values of BOS and all events; `asking` are the positions of the queries."""
        codes_BED = self.join(self.embed(events.codes).flatten(2))
        start = self.start.expand(len(codes_BED), 1, -1)
        x_BSD = self.norm(self.dropout(torch.cat([start, codes_BED + self.embed_events(events)], dim=1)))
        width = self.spec.dim // self.spec.heads
        places = torch.arange(x_BSD.shape[1], device=x_BSD.device)[None]
        return Memory([self.context(x_BSD, rotation(places, width))], mask, rotation(asking, width))
