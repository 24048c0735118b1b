"""Settings of a generator, its training and its evaluation: frozen, validated, stored with the result."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from learning.spec import LoopSpec, Positive
from plugins.younger import OmitsYoungerDefaults
from training.registry import ARCHITECTURES, OBJECTIVES

DropoutRate = Annotated[float, Field(ge=0.0, lt=1.0)]
Auto = Literal["auto"]
"""A setting that depends on the size of the catalogue and of the log (training/auto_settings.py)."""


class GeneratorSection(BaseModel):
    """Architecture and shape of the generator; `heads` divides `dim`, `kv_heads` divides `heads`.

    `architecture`: `rq_transformer` (a transformer over events, a small one over codes), `decoder` (one token per
    code), `lazy_decoder` (OneRec-V2) or `encoder_decoder` (TIGER). `code_layers` is the number of layers over the codes
    of the next event; `decoder` and `lazy_decoder` do not use it. With `experts` each feed-forward is a mixture of that
    many, of which a token uses `experts_per_token`.

    A `constrained` generator distributes probability over the codes that may follow in the release, in training and in
    search, so no probability goes to SIDs without an item. Otherwise it is over all codes of a level.

    With `prefix_buckets`, SID prefixes longer than one code that were read have embeddings in a hashed table of that
    many rows. With `prefix_outputs`, the score of a code that may follow includes the embedding of the prefix it leads
    to, which costs one product per such code.

    A history is cut to its last `max_events` events, plus up to `long_events` more, spread evenly over the positive
    ones before them. `positive_only` leaves out events that were only shown. Events of a type in `behaviours` get their
    own embedding. With `sessions`, so do events that begin a session (by `session_id`; without one, after half an hour
    without an event). `separators` puts BOS before every event (`decoder`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str = "rq_transformer"
    dim: Positive = 128
    layers: Positive = 2
    code_layers: Positive = 1
    heads: Positive = 4
    kv_heads: Positive = 4
    ff: Positive = 256
    experts: Annotated[int, Field(ge=0)] = 0
    experts_per_token: Positive = 2
    constrained: bool = True
    prefix_buckets: Annotated[int, Field(ge=0)] | Auto = "auto"
    prefix_outputs: bool | Auto = "auto"
    dropout: DropoutRate = 0.3
    max_events: Annotated[int, Field(ge=2)] = 50
    long_events: Annotated[int, Field(ge=0)] = 0
    positive_only: bool = False
    behaviours: Annotated[tuple[str, ...], Field(max_length=100)] = ()
    sessions: bool = False
    separators: bool = False

    @field_validator("architecture")
    @classmethod
    def _is_installed(cls, value: str) -> str:
        return ARCHITECTURES.require(value)

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(
                f"generator.dim={self.dim} divided by generator.heads={self.heads} must be an even whole number, "
                "because rotary positions work on pairs; choose dim as a multiple of 2 * heads"
            )
        if self.heads % self.kv_heads:
            raise ValueError(
                f"generator.heads={self.heads} must be a multiple of generator.kv_heads={self.kv_heads}, because every "
                "key/value head serves the same number of query heads; change one of them"
            )
        if self.experts and self.experts_per_token > self.experts:
            raise ValueError(
                f"generator.experts_per_token={self.experts_per_token} is more than generator.experts={self.experts}; "
                "lower the first or raise the second"
            )
        if self.prefix_outputs is True and not (self.constrained and self.prefix_buckets):
            raise ValueError(
                "generator.prefix_outputs needs generator.constrained = true and generator.prefix_buckets above 0; set "
                "them, or leave prefix_outputs out"
            )
        if self.separators and not ARCHITECTURES.get(self.architecture).reads_separators:
            able = " or ".join(f'"{name}"' for name in ARCHITECTURES if ARCHITECTURES.get(name).reads_separators)
            raise ValueError(
                f'generator.separators is only for architecture {able}, not for "{self.architecture}", which '
                "reads an event as one, or both ways; leave it out"
            )
        return self


class GeneratorSpec(GeneratorSection):
    """A `GeneratorSection` without "auto", from which a model is built. Recipes use the section's defaults."""

    prefix_buckets: Annotated[int, Field(ge=0)] = 32_768
    prefix_outputs: bool = False
    dropout: DropoutRate = 0.2


class TrainSection(OmitsYoungerDefaults):
    """Training settings of a generator.

    `batch_size` counts histories over all workers, so any number of workers takes the same steps. Events of a type in
    `negative_events`, and rows flagged as impressions, are context and never a target.

    `objective`: `next_code` (cross-entropy) or `ranking` (LETTER, arXiv 2405.07314: cross-entropy of scores over
    `temperature`; below 1, codes that compete with the right one weigh more) or `softmax_dpo` (arXiv 2406.09215: the
    right item against those that the model prefers at each step, beyond what the model it starts from gives them; 1 /
    `temperature` is its beta). `schedule` follows the warm-up:
    `inverse_sqrt` does not depend on the number of epochs; `cosine` falls to 0 by the last epoch, from the second on.
    The number of steps is known after the first epoch, so that epoch stays at the peak.

    A checkpoint is written after each epoch, and after every `checkpoint_steps` steps if that is not 0. `sharding`
    splits weights and optimizer over the workers (FSDP2); without it each worker has all of them (DDP).

    `align_epochs` passes over the items come first, in which only the embeddings of codes learn. With
    `since_production` a training continues, if possible, from production's model, on the events that model has not
    learnt from. With `half_life_days` what a target counts for halves with each half-life before the cutoff.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    younger: ClassVar[frozenset[str]] = frozenset({"half_life_days"})

    workers: Positive = 2
    cpus_per_worker: Positive = 1
    epochs: Positive | Auto = "auto"
    batch_size: Positive | Auto = "auto"
    learning_rate: Annotated[float, Field(gt=0.0)] = 2e-3
    warmup_steps: Positive | Auto = "auto"
    schedule: Literal["inverse_sqrt", "cosine"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    objective: str = "next_code"
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    align_epochs: Annotated[int, Field(ge=0)] | Auto = "auto"
    since_production: bool = False
    checkpoint_steps: Annotated[int, Field(ge=0)] = 0
    sharding: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
    negative_events: tuple[str, ...] = ("impression",)
    half_life_days: Annotated[float, Field(gt=0.0)] | None = None

    @field_validator("objective")
    @classmethod
    def _is_installed(cls, value: str) -> str:
        return OBJECTIVES.require(value)

    @model_validator(mode="after")
    def _options_fit_the_objective(self) -> Self:
        if self.objective == "next_code" and self.temperature != 1.0:
            raise ValueError(
                f'train.temperature={self.temperature} is only for objective = "ranking" and "softmax_dpo"; set one '
                "of them, or leave temperature out"
            )
        if self.half_life_days is not None and self.objective not in ("next_code", "ranking"):
            raise ValueError(
                f'train.half_life_days={self.half_life_days:g} is only for objective = "next_code" and "ranking", '
                f"whose loss is a sum over targets, not for {self.objective!r}; leave it out"
            )
        return self


class TrainSpec(TrainSection, LoopSpec):
    """A `TrainSection` without "auto", which a training follows. Recipes use the section's defaults."""

    epochs: Positive = 8
    batch_size: Positive = 64
    warmup_steps: Positive = 50
    schedule: Literal["inverse_sqrt", "cosine"] = "inverse_sqrt"
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.05
    align_epochs: Annotated[int, Field(ge=0)] = 0


class EvaluateSpec(BaseModel):
    """Evaluation settings: cut-offs `k`, beam width, cases per batch, and exclusion of seen items.

    `temperature`, `groups` and `diversity` are those of `training.decoding.beam_search.SamplingOptions`; by default the
    most probable items are ranked. With `vector_weight` there are two more rows: the found items reordered by the
    vectors that the SIDs were made of (`training.evaluation.rerank`), and all items by these vectors alone. "auto" is
    the weight that did best, for catalogues whose vectors fit in memory (training/auto_settings.py). With
    `sasrec_epochs` a SASRec with the default shape of `SasRecSpec` is trained for that many epochs on the events that
    the model could learn from, and has a row too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: Annotated[tuple[Positive, ...], Field(min_length=1)] = (5, 10, 20)
    beams: Positive = 20
    batch_size: Positive = 256
    exclude_seen: bool = True
    temperature: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    groups: Positive = 1
    diversity: Annotated[float, Field(ge=0.0, le=1000.0)] = 0.0
    vector_weight: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | Auto = "auto"
    vector_decay: Annotated[float, Field(ge=0.0, le=1.0)] = 0.3
    sasrec_epochs: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _groups_share_beams(self) -> Self:
        if self.beams % self.groups:
            raise ValueError(
                f"evaluate.beams={self.beams} must be a multiple of evaluate.groups={self.groups}, because every group "
                "has the same number of beams; change one of them"
            )
        if self.diversity and self.groups == 1:
            raise ValueError(
                f"evaluate.diversity={self.diversity} has no effect with evaluate.groups=1, because it acts between "
                "groups; raise groups or leave diversity at 0"
            )
        return self

    @model_validator(mode="after")
    def _beams_reach_k(self) -> Self:
        if self.beams < max(self.k):
            raise ValueError(
                f"evaluate.beams={self.beams} is less than the largest evaluate.k={max(self.k)}; "
                "a beam search returns one item per beam, so raise beams or remove that k"
            )
        return self


class SasRecSpec(BaseModel):
    """Shape and training of SASRec (training/sasrec/); `heads` divides `dim`, `ff` is the feed-forward width.

    The defaults are the best of the trials on the validation of Amazon Beauty (`python -m bench recommendation`). A
    history is cut to `max_events` events; `batch_size` counts histories over all workers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: Positive = 64
    blocks: Positive = 2
    heads: Positive = 2
    ff: Positive = 64
    dropout: DropoutRate = 0.4
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
            raise ValueError(
                f"sasrec.dim={self.dim} must be a multiple of sasrec.heads={self.heads}; change one of them"
            )
        return self

    def loop(self, workers: int = 1) -> LoopSpec:
        """Return the loop settings for that many workers."""
        return LoopSpec.of(self, workers=workers)


class ItemEmbeddingsSpec(SasRecSpec):
    """A SASRec trained for its item embeddings, by `workers` of Ray Train or in one task.

    It is trained for `epochs` on the oldest log, then for `further_epochs` on each larger one.
    """

    epochs: Positive = 12
    further_epochs: Positive = 6
    workers: Positive = 1

    @property
    def model(self) -> SasRecSpec:
        """Shape and training of the network alone."""
        return SasRecSpec.model_validate(self.model_dump(include=set(SasRecSpec.model_fields)))
