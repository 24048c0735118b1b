"""An architecture: the decoder, whose tokens are scaled by the root of their width, as in Vaswani et al. (2017)."""

from torch import Tensor

from training.data.events import Events
from training.models.decoder import Decoder


class ScaledDecoder(Decoder):
    """A `Decoder` with scaled tokens."""

    def _tokens(self, events: Events) -> Tensor:
        return super()._tokens(events) * self.spec.dim**0.5
