"""The encoders of texts and pictures: a name in a recipe, and the `EncoderKind` that it stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugins.registry import Registry

if TYPE_CHECKING:
    from pipelines.embed.protocol import EncoderKind

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
    """The encoder of that name. Raises UnknownMember, and ValueError where it does not encode such `contents`."""
    kind = ENCODERS.get(name)
    if kind.contents != contents:
        others = ", ".join(other for other in ENCODERS if ENCODERS.get(other).contents == contents)
        raise ValueError(
            f"the encoder {name!r} encodes {kind.contents}, not {contents}: for {contents} choose one of {others}"
        )
    return kind
