"""What a generator is, how it is trained and how it is evaluated: frozen, validated, stored with the result."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]


class GeneratorSpec(BaseModel):
    """Shape of the decoder-only transformer; `heads` divides `dim`, `kv_heads` divides `heads`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: Positive = 96
    layers: Positive = 4
    heads: Positive = 4
    kv_heads: Positive = 2
    ff: Positive = 256
    dropout: Rate = 0.1
    max_events: Annotated[int, Field(ge=2)] = 32

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(
                f"generator.dim={self.dim} over generator.heads={self.heads} must give an even whole head width "
                "(rotary positions turn pairs); choose dim as a multiple of 2 * heads"
            )
        if self.heads % self.kv_heads:
            raise ValueError(
                f"generator.heads={self.heads} is no multiple of generator.kv_heads={self.kv_heads}; "
                "every key/value head serves the same number of query heads"
            )
        return self


class TrainSpec(BaseModel):
    """How a model is trained.

    `batch_size` counts histories over all workers, so that another worker count takes the same steps.
    Events of a type in `negative_events`, and rows flagged as impressions, are context and never a target.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: Positive = 2
    cpus_per_worker: Positive = 1
    epochs: Positive = 8
    batch_size: Positive = 64
    learning_rate: Annotated[float, Field(gt=0.0)] = 2e-3
    warmup_steps: Positive = 50
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.05
    seed: Annotated[int, Field(ge=0)] = 0
    negative_events: tuple[str, ...] = ("impression",)


class EvaluateSpec(BaseModel):
    """How a model is evaluated: cut-offs `k`, beam width, cases per batch, whether seen items are left out.

    `temperature`, `groups` and `diversity` are those of `training.decoding.Variety`; as they are by default, the most
    probable items are ranked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: Annotated[tuple[Positive, ...], Field(min_length=1)] = (5, 10, 20)
    beams: Positive = 20
    batch_size: Positive = 256
    exclude_seen: bool = True
    temperature: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    groups: Positive = 1
    diversity: Annotated[float, Field(ge=0.0, le=1000.0)] = 0.0

    @model_validator(mode="after")
    def _groups_share_beams(self) -> Self:
        if self.beams % self.groups:
            raise ValueError(
                f"evaluate.beams={self.beams} is no multiple of evaluate.groups={self.groups}; "
                "every group has the same number of beams, so change one of them"
            )
        if self.diversity and self.groups == 1:
            raise ValueError(
                f"evaluate.diversity={self.diversity} with evaluate.groups=1 does nothing: it is between groups; "
                "raise groups or leave diversity at 0"
            )
        return self

    @model_validator(mode="after")
    def _beams_reach_k(self) -> Self:
        if self.beams < max(self.k):
            raise ValueError(
                f"evaluate.beams={self.beams} is less than the largest evaluate.k={max(self.k)}; "
                "a beam search returns one item a beam, so raise beams or drop that k"
            )
        return self


class SasRecSpec(BaseModel):
    """Shape and training of SASRec (training/sasrec.py); `heads` divides `dim`, `ff` is the feed-forward's width.

    The defaults are the best of the trials on the validation of Amazon Beauty (`sidmill bench recommendation`). A
    history is cut to `max_events` events; `batch_size` counts histories over all workers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: Positive = 64
    blocks: Positive = 2
    heads: Positive = 2
    ff: Positive = 64
    dropout: Rate = 0.4
    temperature: Annotated[float, Field(gt=0.0)] = 0.07
    max_events: Positive = 50
    epochs: Positive = 30
    batch_size: Positive = 128
    learning_rate: Annotated[float, Field(gt=0.0)] = 3e-3
    warmup_steps: Positive = 500
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"sasrec.dim={self.dim} is no multiple of sasrec.heads={self.heads}")
        return self
