"""Members of all registries: those of sidmill, and those that installed packages add."""

from collections.abc import Iterable, Iterator
from typing import Any

from flows.gates.registry import GATES
from flows.recipe import Recipe
from pipelines.registry import ENCODERS, FUSIONS, SOURCES, source_kind_of
from plugins.registry import Member, Registry
from tokenizer.registry import QUANTIZERS
from training.registry import ARCHITECTURES, OBJECTIVES

REGISTRIES: tuple[Registry[Any], ...] = (SOURCES, ENCODERS, FUSIONS, QUANTIZERS, ARCHITECTURES, OBJECTIVES, GATES)


def members() -> list[tuple[str, Member]]:
    """Return (kind, member), in order of registries."""
    return [(registry.what, member) for registry in REGISTRIES for member in registry.members.values()]


def packages_of_release(recipe: Recipe, sources: Iterable[str]) -> dict[str, str]:
    """Return the members of installed packages that make a release: kind and name, to package and version.

    `sources` are addresses that its run read.
    """
    names: list[tuple[Registry[Any], str]] = [
        *((SOURCES, name) for name in map(_kind_of, sources)),
        *((ENCODERS, each.encoder) for each in (recipe.text, recipe.image) if each is not None),
        (FUSIONS, recipe.fusion.method),
        (QUANTIZERS, recipe.codebook.quantizer),
        *((GATES, name) for name in GATES if getattr(recipe.gates, name) is not None),
    ]
    return dict(_foreign(names))


def packages_of_model(recipe: Recipe) -> dict[str, str]:
    """Return the members of installed packages that make a model, as `packages_of_release` does."""
    return dict(_foreign([(ARCHITECTURES, recipe.generator.architecture), (OBJECTIVES, recipe.train.objective)]))


def _foreign(names: Iterable[tuple[Registry[Any], str]]) -> Iterator[tuple[str, str]]:
    for registry, name in names:
        member = registry.members[registry.require(name)]
        if not member.ours:
            yield f"{registry.what} {name}", member.origin


def _kind_of(source: str) -> str:
    kind = source_kind_of(source)
    return next(name for name in SOURCES if SOURCES.get(name) is kind)
