"""Members of all registries: those of sidmill, and those that installed packages add."""

from flows.gates.registry import GATES
from pipelines.registry import ENCODERS, FUSIONS, SOURCES
from plugins.registry import Member
from tokenizer.registry import QUANTIZERS
from training.registry import ARCHITECTURES, OBJECTIVES

REGISTRIES = (SOURCES, ENCODERS, FUSIONS, QUANTIZERS, ARCHITECTURES, OBJECTIVES, GATES)


def members() -> list[tuple[str, Member]]:
    """Return (kind, member), in order of registries."""
    return [(registry.what, member) for registry in REGISTRIES for member in registry.members.values()]
