"""Recipe sections of the pipelines: frozen, validated once, stored with their results."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    field_validator,
    model_validator,
)

from pipelines.modalities import ENCODED
from pipelines.registry import FUSIONS, encoder_of, fusion_method_of
from pipelines.sources.source_spec import Section
from plugins.options import check_options
from plugins.younger import OmitsYoungerDefaults
from storage.reasons import Reason


class _EncoderSpec(OmitsYoungerDefaults, Section):
    """A section that names an encoder, which may declare `options` of its own.

    `precision` is the type of the numbers that the model multiplies. Weights, norms and vectors stay float32.
    """

    younger: ClassVar[frozenset[str]] = frozenset({"options", "precision"})
    contents: ClassVar[str]

    encoder: str
    options: dict[str, Any] = Field(default_factory=dict)
    precision: Literal["float32", "bfloat16"] = "float32"

    @field_validator("encoder")
    @classmethod
    def _is_installed(cls, value: str) -> str:
        encoder_of(value, cls.contents)
        return value

    @model_validator(mode="after")
    def _options_are_its_own(self) -> Self:
        check_options(self.encoder, encoder_of(self.encoder, self.contents).options, self.options)
        return self

    @model_validator(mode="after")
    def _precision_is_offered(self) -> Self:
        if self.precision != "float32" and not encoder_of(self.encoder, self.contents).bfloat16:
            raise ValueError(f"the encoder {self.encoder!r} has no precision {self.precision!r}: leave `precision` out")
        return self


class TextSpec(_EncoderSpec):
    """Settings of the text encoder: `packaged-minilm` (weights in a Python package) or a sentence-transformers `model`.

    `fields` names the title and attributes that are joined with ". " into the text of an item.
    """

    contents: ClassVar[str] = "text"

    encoder: str = "packaged-minilm"
    model: str = ""
    revision: str | None = None
    fields: tuple[str, ...] = ("title",)
    prompt_name: str | None = None
    batch_size: int = Field(64, ge=1)


class ImageSpec(_EncoderSpec):
    """Settings of the image encoder: `packaged-vit` (ONNX ViT-S/14) or `open-clip` (`model` and a tag or file).

    An item with several pictures gets the mean of their vectors.
    """

    contents: ClassVar[str] = "image"

    encoder: str = "packaged-vit"
    model: str = ""
    pretrained: str = ""
    batch_size: int = Field(16, ge=1)
    max_pixels: int = Field(50_000_000, ge=1, le=178_956_970)  # Pillow refuses larger ones as decompression bombs
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP")


class AttributesSpec(Section):
    """Settings of multi-hot attributes: every value of the `fields`, lists flattened, has its own direction.

    `weights` scales the fields, by default 1.
    """

    fields: tuple[str, ...] = Field(("brand", "categories"), min_length=1)
    dim: int = Field(256, ge=8)
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)


class CoordinatesSpec(Section):
    """Settings of places: attributes with latitude and longitude in degrees, as sinusoids down to `finest_km`."""

    latitude: str = "latitude"
    longitude: str = "longitude"
    scales: int = Field(12, ge=1)
    finest_km: float = Field(1.0, gt=0)


class GivenSpec(Section):
    """Settings of item vectors that were made elsewhere, a section `vectors.NAME`; NAME is their modality.

    `path` is a Parquet file, a folder of them or a Delta table, with ids in `id_column` and lists of numbers in
    `column`; or a `.npy` matrix, whose ids are in the file `ids`. `version` is raised when the encoder behind the
    vectors changes: vectors of two versions do not mix.
    """

    path: str = Field(min_length=1)
    id_column: str = Field("item_id", min_length=1)
    column: str = Field("vector", min_length=1)
    ids: str = ""
    dim: Annotated[int, Field(ge=1)] | None = None
    version: int = Field(1, ge=0)

    @property
    def is_matrix(self) -> bool:
        """True for a `.npy` matrix."""
        return self.path.lower().endswith(".npy")

    @model_validator(mode="after")
    def _only_a_matrix_has_ids_beside_it(self) -> Self:
        if self.is_matrix and not self.ids:
            raise ValueError("a .npy matrix has no ids: name the file that has them, one a row, in ids")
        if self.ids and not self.is_matrix:
            raise ValueError("ids is the file of a .npy matrix; Parquet and Delta have ids in id_column")
        return self


FIT_ITEMS = 1 << 17
"""Items on which the factorisation of behaviour is fitted: it takes ARPACK 1 KB of memory and 0.2 ms an item."""


class CollaborativeSection(OmitsYoungerDefaults, Section):
    """Settings of item vectors from interactions before the cutoff: `sppmi`, `sasrec`, or `both` side by side.

    `sppmi` is the truncated SVD of the shifted positive PMI (Levy and Goldberg 2014), of `dim` dimensions. `sasrec` is
    the item embeddings of a SASRec, trained as the section of that name says. `user_cap` keeps the newest events of
    each user. `window` is the number of a user's neighbouring events (in time) that form pairs with an event.
    Impressions, and events of the types in `exclude_events`, are ignored. A pair counts as the product of its events'
    weights: the weight of the type in `event_weights` (1 by default), halved with every `half_life_days` of age. A
    SASRec weighs all events equally.

    `auto` is `both` if that is affordable on one core, else `sppmi`.

    The factorisation is fitted on the `fit_items` items with the most events; other items are folded in on it.
    """

    younger: ClassVar[frozenset[str]] = frozenset({"fit_items"})

    method: Literal["auto", "sppmi", "sasrec", "both"] = "auto"
    dim: int = Field(64, ge=1)
    window: int = Field(10, ge=1)
    user_cap: int = Field(500, ge=2)
    min_events: int = Field(3, ge=1)
    exclude_events: tuple[str, ...] = ("impression",)
    event_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    half_life_days: Annotated[float, Field(gt=0)] | None = None
    shift: float = Field(1.0, gt=0)
    seed: int = Field(0, ge=0)
    fit_items: int | None = Field(FIT_ITEMS, ge=3)

    @property
    def weighted(self) -> str:
        """Fields that are set and weigh events, as text; empty if none."""
        return " and ".join(name for name in ("event_weights", "half_life_days") if getattr(self, name))

    @model_validator(mode="after")
    def _sasrec_weighs_no_events(self) -> Self:
        if self.method == "sasrec" and self.weighted:
            raise ValueError(
                f'{self.weighted} cannot be used with method = "sasrec", which weighs all events equally: remove '
                'them, and list event types that are not behaviour in exclude_events; or use method = "sppmi" or "both"'
            )
        return self


class CollaborativeSpec(CollaborativeSection):
    """The same section, with `auto` resolved; `fit_items` is None where the log has no more items."""

    method: Literal["sppmi", "sasrec", "both"] = "sppmi"
    fit_items: int | None = Field(None, ge=3)

    @property
    def trains_sasrec(self) -> bool:
        """True if vectors are, in whole or in part, item embeddings of a SASRec; otherwise they are the PMI alone."""
        return self.method != "sppmi"

    @property
    def has_both_parts(self) -> bool:
        """True if a vector is the PMI and the item embedding of a SASRec, concatenated."""
        return self.method == "both"

    def for_items(self, items: int) -> Self:
        """Return the settings for a log of some items."""
        limit = None if self.fit_items is None or self.fit_items >= items else self.fit_items
        return self.model_copy(update={"fit_items": limit})


LOGITS = 5_000_000_000
"""Largest product of events and items for which `auto` trains a SASRec, whose softmax is over all items: 12,101 items
and 154,000 events took seven minutes on one core.
"""


def collaborative_spec(section: CollaborativeSection, events: int, items: int) -> CollaborativeSpec:
    """Resolve the section for a log of that size. With event weights `auto` is `sppmi`, which uses them."""
    wanted = section.model_dump() | {"fit_items": section.fit_items}
    if wanted["method"] == "auto":
        wanted["method"] = "both" if events * items <= LOGITS and not section.weighted else "sppmi"
    return CollaborativeSpec.model_validate(wanted)


class FusionSpec(OmitsYoungerDefaults, Section):
    """Settings of the fusion of an item's vectors into one.

    `concat` puts the leading principal components of each modality side by side, times its weight. `whiten` gives all
    components of a modality equal variance and keeps its total variance. The other methods start there and learn a
    correction: `contrastive` a network per modality, `qformer` (OxygenRec) `queries` that attend to all modalities of
    an item. The training pairs are items that the same users take within `pair_window` events of each other, one of
    them among the newest `recent` share of the visible events. Behaviour vectors then come from the events before
    those, so that pairs cannot be memorised.

    The loss is InfoNCE at a learned temperature against the other items of a step. Pairs have weight 1, corrected by
    `popularity` times the log of how often an item is drawn; an item's content and its own behaviour have weight
    `align`. With `hard_negatives` each pair adds one negative, near to its first item and no pair with it. A modality
    is dropped with probability `modality_dropout`. An epoch has `steps` steps.
    """

    younger: ClassVar[frozenset[str]] = frozenset({"options"})

    method: str = "contrastive"
    options: dict[str, Any] = Field(default_factory=dict)
    dim: int = Field(256, ge=2)
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    whiten: bool = False
    hidden: int = Field(256, ge=1)
    queries: int = Field(4, ge=1)
    blocks: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    recent: float = Field(0.25, gt=0, lt=1)
    pair_window: int = Field(3, ge=1)
    align: float = Field(0.0, ge=0)
    popularity: float = Field(1.0, ge=0)
    hard_negatives: bool = False
    temperature: float = Field(0.1, gt=0)
    modality_dropout: float = Field(0.3, ge=0, lt=1)
    epochs: int = Field(6, ge=0)
    steps: int = Field(100, ge=1)
    batch_size: int = Field(1024, ge=2)
    learning_rate: float = Field(2e-3, gt=0)
    warmup_steps: int = Field(50, ge=1)
    weight_decay: float = Field(1e-2, ge=0)
    workers: int = Field(1, ge=1)
    seed: int = Field(0, ge=0)

    @field_validator("method")
    @classmethod
    def _is_installed(cls, value: str) -> str:
        return FUSIONS.require(value)

    @model_validator(mode="after")
    def _options_are_its_own(self) -> Self:
        check_options(self.method, fusion_method_of(self.method).options, self.options)
        return self

    @model_validator(mode="after")
    def _fits_its_method(self) -> Self:
        fusion_method_of(self.method).check(self)
        return self


class SequencesSpec(Section):
    """Settings of user histories as SIDs, in `buckets` by user hash, so that training streams a bucket at a time.

    0 gives about 500,000 events per bucket, with 8 buckets at least and 512 at most.
    """

    buckets: Annotated[int, Field(ge=0, le=512)] = 0


class StageSpec(Section):
    """Resources of a stage on a cluster. `workers` = 0 starts as many as its GPUs, else its CPUs, serve.

    `num_cpus`, `num_gpus` and `resources` (custom ones of nodes, by name) are those that a worker reserves. Several
    workers share a GPU where `num_gpus` is a fraction. Without it, a worker of a stage that uses a GPU takes one if the
    cluster has any.
    """

    workers: int = Field(0, ge=0)
    num_cpus: float = Field(1.0, gt=0)
    num_gpus: float | None = Field(None, ge=0)
    resources: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)


def _is_placed(name: str) -> str:
    if name not in PLACED:
        raise ValueError(f"there is no stage {name}; stages with settings are {', '.join(PLACED)}")
    return name


TASKS = "tasks"
"""Name in `compute.stages` of all tasks that load no model: reading contents, gathering, fusing, fitting, assigning."""
PLACED = (*(f"embed_{name}" for name in ENCODED), TASKS)
StageName = Annotated[str, AfterValidator(_is_placed)]


class ComputeSpec(Section):
    """Compute settings. With fewer new items than `in_process_below`, a nightly run stays in process without a cluster.

    `cpus` of a cluster started here: 0 means one more than the machine has, so that input never starves training.
    `stages` gives resources to single stages.
    """

    in_process_below: int = Field(300, ge=0)
    cpus: int = Field(0, ge=0)
    encoder_workers: int = Field(0, ge=0)
    chunk_rows: int = Field(256, ge=1)
    stages: dict[StageName, StageSpec] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _tasks_hold_no_model(self) -> Self:
        tasks = self.stages.get(TASKS)
        if tasks is not None and (tasks.workers or tasks.num_gpus):
            raise ValueError(
                f"compute.stages.{TASKS} takes num_cpus and resources: tasks use no GPU, and as many run as there are "
                "CPUs for. Remove workers and num_gpus"
            )
        return self


class BudgetSpec(OmitsYoungerDefaults, Section):
    """Limits on refusals: a run stops before publishing if a stage refuses more than `quarantine_share` of its rows.

    Up to `quarantine_rows` refused rows are accepted whatever their share, so that one bad row in a night of five does
    not stop it. `reasons` has the largest share of rows that may be refused for one reason, however few they are.
    """

    younger: ClassVar[frozenset[str]] = frozenset({"reasons"})

    quarantine_share: float = Field(0.05, ge=0, le=1)
    quarantine_rows: int = Field(20, ge=0)
    reasons: dict[Reason, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
