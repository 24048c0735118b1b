"""The architectures of the generator, by their names in recipes."""

from training.models.decoder import Decoder
from training.models.encoder_decoder import EncoderDecoder
from training.models.generator import Generator
from training.models.lazy_decoder import LazyDecoder
from training.models.rq_transformer import RqTransformer
from training.spec import GeneratorSpec

ARCHITECTURES: dict[str, type[Generator]] = {
    "decoder": Decoder,
    "rq_transformer": RqTransformer,
    "lazy_decoder": LazyDecoder,
    "encoder_decoder": EncoderDecoder,
}


def build_generator(spec: GeneratorSpec, sizes: tuple[int, ...], vocabulary: str, seed: int = 0) -> Generator:
    """A fresh generator of the architecture that `spec` names."""
    return ARCHITECTURES[spec.architecture](spec, sizes, vocabulary, seed)
