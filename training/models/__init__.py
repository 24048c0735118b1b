"""The generator: what all architectures share, a module for each of them, and how one is built."""

from training.models.generator import Generator
from training.registry import ARCHITECTURES
from training.spec import GeneratorSpec


def build_generator(spec: GeneratorSpec, sizes: tuple[int, ...], vocabulary: str, seed: int = 0) -> Generator:
    """Return a fresh generator of the architecture that `spec` names; raise UnknownMember if it is not installed."""
    return ARCHITECTURES.get(spec.architecture)(spec, sizes, vocabulary, seed)
