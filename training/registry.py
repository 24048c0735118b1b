"""Architectures of the generator and its objectives: names in a recipe, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from plugins.registry import Registry

if TYPE_CHECKING:
    from training.models.generator import Generator
    from training.objectives.losses import Objective, Preference
    from training.spec import TrainSpec

ARCHITECTURES: Registry[type[Generator]] = Registry(
    "sidmill.models",
    "architecture",
    {
        "decoder": "training.models.decoder:Decoder",
        "rq_transformer": "training.models.rq_transformer:RqTransformer",
        "lazy_decoder": "training.models.lazy_decoder:LazyDecoder",
        "encoder_decoder": "training.models.encoder_decoder:EncoderDecoder",
    },
)
OBJECTIVES: Registry[Callable[[TrainSpec], Objective | Preference]] = Registry(
    "sidmill.objectives",
    "objective",
    {
        "next_code": "training.objectives.losses:plain",
        "ranking": "training.objectives.losses:ranking",
        "softmax_dpo": "training.objectives.losses:softmax_dpo",
    },
)
