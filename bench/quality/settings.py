"""Settings of the benchmark rows that use semantic IDs: parts of a recipe, and the tried alternatives."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from flows.recipe import override_setting, parse_recipe
from pipelines.spec import CollaborativeSection, FusionSpec
from tokenizer.spec import CodebookSpec
from training.auto_settings import WARMUP
from training.spec import GeneratorSection, ItemEmbeddingsSpec, TrainSection


class Settings(BaseModel):
    """Recipe parts of one row. `modalities` names those that are fused, all if it is empty."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    modalities: tuple[str, ...] = ()
    collaborative: CollaborativeSection = CollaborativeSection(min_events=1)
    sasrec: ItemEmbeddingsSpec = ItemEmbeddingsSpec()
    fusion: FusionSpec = FusionSpec()
    codebook: CodebookSpec = CodebookSpec.model_validate({"levels": [{"codes": 256}] * 3})
    generator: GeneratorSection = GeneratorSection()
    train: TrainSection = TrainSection()


HEADLINE = Settings(train=TrainSection(checkpoint_steps=200))
"""Defaults of a recipe, with frequent checkpoints to resume from."""
# Epochs of the rows that change one setting.
SHORT_EPOCHS = 4


def _but(**changes: dict[str, Any]) -> Settings:
    """Return the headline in few epochs, with other values of some fields of its parts."""
    changes = {"train": {}, **changes}
    changes["train"] = {"epochs": SHORT_EPOCHS, "warmup_steps": WARMUP, **changes["train"]}
    parts = {name: getattr(HEADLINE, name).model_copy(update=values) for name, values in changes.items()}
    return HEADLINE.model_copy(update=parts)


def changed(settings: Settings, changes: str) -> Settings:
    """Return the settings with changes `SECTION.FIELD=VALUE`, separated by blanks."""
    values = settings.model_dump(mode="json")
    for change in changes.split():
        override_setting(values, change)
    modalities = values.pop("modalities")
    recipe = parse_recipe(values, "--try")
    return Settings.model_validate({"modalities": modalities, **recipe.model_dump(include=set(values))})


def _seeded(settings: Settings, seed: int) -> Settings:
    """Return the settings with other seeds of codebook, weights and order; the vectors are the same."""
    codebook, train = (part.model_copy(update={"seed": seed}) for part in (settings.codebook, settings.train))
    return settings.model_copy(update={"codebook": codebook, "train": train})


RQVAE = _but(codebook={"quantizer": "rq-vae"}, train={"epochs": HEADLINE.train.epochs})
GENERATORS: dict[str, Settings] = {
    "generator": HEADLINE,
    "seed-1": _seeded(HEADLINE, 1),
    "seed-2": _seeded(HEADLINE, 2),
    "rqvae": RQVAE,
    "rqvae-1": _seeded(RQVAE, 1),
    "rqvae-2": _seeded(RQVAE, 2),
    "short": _but(),
    "sids-text": _but(fusion={"method": "concat"}).model_copy(update={"modalities": ("text",)}),
    "sids-concat": _but(fusion={"method": "concat"}),
    "sids-sppmi": _but(collaborative={"method": "sppmi"}),
    "sids-qformer": _but(fusion={"method": "qformer", "hidden": 64, "blocks": 1}),
    "sids-unbalanced": _but(codebook={"balanced": False}),
    "sids-shared": _but(codebook={"balanced": False, "collision": "keep"}),
    "sids-rqvae": _but(codebook={"quantizer": "rq-vae"}),
    "no-alignment": _but(train={"align_epochs": 0}),
    "no-prefixes": _but(generator={"prefix_buckets": 0, "prefix_outputs": False}),
    "no-prefix-outputs": _but(generator={"prefix_outputs": False}),
    "unconstrained": _but(generator={"constrained": False, "prefix_outputs": False}),
    "decoder": _but(generator={"architecture": "decoder", "layers": 3}),
    "lazy-decoder": _but(generator={"architecture": "lazy_decoder", "layers": 3}),
    "encoder-decoder": _but(generator={"architecture": "encoder_decoder"}, train={"epochs": 2}),
    "ranking": _but(train={"objective": "ranking", "temperature": 0.7}),
}
"""Rows by name: the headline and its RQ-VAE variant, each also with other seeds; then the headline with one change
each, in fewer epochs, like `short`.
"""
