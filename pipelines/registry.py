"""Registries: encoders and methods of fusion, by the names in a recipe, and kinds of sources of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugins.registry import Registry

if TYPE_CHECKING:
    from pipelines.embed.protocol import EncoderKind
    from pipelines.fusion.methods import FusionMethod
    from pipelines.sources.protocol import SourceKind

ENCODERS: Registry[EncoderKind] = Registry(
    "sidmill.encoders",
    "encoder",
    {
        "packaged-minilm": "pipelines.embed.text:SENTENCES",
        "sentence-transformers": "pipelines.embed.text:SENTENCES",
        "packaged-vit": "pipelines.embed.vision:PACKAGED_VIT",
        "open-clip": "pipelines.embed.vision:OPEN_CLIP",
    },
)


def encoder_of(name: str, contents: str) -> EncoderKind:
    """Return the encoder of that name. Raises UnknownMember, and ValueError if it does not encode `contents`."""
    kind = ENCODERS.get(name)
    if kind.contents != contents:
        others = ", ".join(other for other in ENCODERS if ENCODERS.get(other).contents == contents)
        raise ValueError(
            f"the encoder {name!r} encodes {kind.contents}, not {contents}: for {contents} choose one of {others}"
        )
    return kind


FUSIONS: Registry[FusionMethod] = Registry(
    "sidmill.fusions",
    "fusion",
    {
        "concat": "pipelines.fusion.methods:CONCAT",
        "contrastive": "pipelines.fusion.methods:CONTRASTIVE",
        "qformer": "pipelines.fusion.methods:QFORMER",
    },
)


def fusion_method_of(name: str) -> FusionMethod:
    """Return the method of fusion of that name. Raises UnknownMember where it is not installed."""
    return FUSIONS.get(name)


SOURCES: Registry[SourceKind] = Registry(
    "sidmill.sources",
    "source",
    {
        "stdin": "pipelines.sources.spooled.standard_input:STANDARD_INPUT",
        "sql": "pipelines.sources.spooled.sql:SQL",
        "delta": "pipelines.sources.tables.delta:DELTA",
        "iceberg": "pipelines.sources.tables.iceberg:ICEBERG",
        "kafka": "pipelines.sources.streams.kafka:KAFKA",
        "redis": "pipelines.sources.streams.redis_streams:REDIS",
        "files": "pipelines.sources.files:FILES",
    },
)


def source_kind_of(uri: str) -> SourceKind:
    """Return the kind of sources that claims an address: a kind of a package, one of sidmill, else one of the rest."""
    rest: list[SourceKind] = []
    for member in sorted(SOURCES.members.values(), key=lambda member: member.ours):
        kind = SOURCES.get(member.name)
        if kind.claims_rest:
            rest.append(kind)
        elif kind.claims(uri):
            return kind
    return next(kind for kind in rest if kind.claims(uri))
