"""The parts of a recipe that concern pipelines. Frozen, validated once, stored with what they made."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from pipelines.registry import encoder_of
from plugins.options import check_options, without_empty_options


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _EncoderSpec(_Spec):
    """A section that names an encoder, which may declare `options` of its own."""

    contents: ClassVar[str]

    encoder: str
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("encoder")
    @classmethod
    def _is_installed(cls, value: str) -> str:
        encoder_of(value, cls.contents)
        return value

    @model_validator(mode="after")
    def _options_are_its_own(self) -> Self:
        check_options(self.encoder, encoder_of(self.encoder, self.contents).options, self.options)
        return self

    @model_serializer(mode="wrap")
    def _without_empty_options(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `options` out where there are none: sections are hashed, and were stored before there were any."""
        return without_empty_options(serialize(self))


class CsvSpec(_Spec):
    """How CSV and TSV files are written. Without `delimiter` it goes by the suffix; without `encoding` it is UTF-8.

    `quotes` says what `"` means: "checked" cells in quotes, unless a quote seems to be missing; "escaped" such cells,
    in which a backslash stands before a quote; "trusted" cells in quotes, whatever they hold; "none" a character as
    any other. With `decimal = ","` a cell that is a number with a decimal comma is read as that number.
    """

    delimiter: str = Field("", max_length=1)
    encoding: str = ""
    decimal: Literal[".", ","] = "."
    quotes: Literal["checked", "escaped", "trusted", "none"] = "checked"

    @field_validator("delimiter")
    @classmethod
    def _separates(cls, value: str) -> str:
        if value and value in '"\r\n':
            raise ValueError("must be a character other than a quote or a line break")
        return value

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            b"ab".decode(value or "utf-8", "replace")
        except (LookupError, UnicodeError) as error:
            raise ValueError("is no encoding that Python knows, such as utf-16, cp1252 or latin-1") from error
        return value


class ItemsSpec(_Spec):
    """How a catalogue's columns map to ours. A column that is not named here becomes an attribute.

    Of a cell in several languages (an object from tags as `en` or `pt_BR` to text, or a list of objects with
    `language_tag` and `value`) the first of `languages` that is there counts, else any; without `languages` all do.
    `image` names a column of pictures, one or a list: paths (relative to the file, inside its folder), bytes, addresses
    on the web, or URIs below one of `image_roots`. They are asked for `image_workers` at once, each within
    `image_timeout_s`; a host without a public address only if it is one of `trusted_hosts`. `partitions` name
    the folders `name=value` that are attributes.
    """

    section: ClassVar[str] = "items"

    item_id: str = Field("item_id", min_length=1)
    title: str = "title"
    image: str | None = "image"
    deleted: str | None = "deleted"
    languages: tuple[str, ...] = ()
    require_title: bool = True
    max_text_chars: int = 50_000
    max_image_bytes: int = 20_000_000
    image_roots: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    image_timeout_s: float = Field(10.0, gt=0)
    image_workers: int = Field(16, ge=1)
    partitions: tuple[str, ...] = ()
    csv: CsvSpec = CsvSpec()

    @property
    def asked(self) -> None:
        """All columns: those that no field names are attributes."""
        return None

    @property
    def meant(self) -> frozenset[str]:
        """The columns that fields name."""
        return frozenset(name for name in (self.item_id, self.title, self.image, self.deleted) if name)

    @property
    def from_folders(self) -> frozenset[str]:
        """The columns that are taken from names of folders (`name=value`) where a file lacks them."""
        return self.meant | {name for name in self.partitions if name}


class UnpicturedItems(ItemsSpec):
    """The mapping of a recipe without [image]: no picture is read, and a recipe with [image] reads the file again."""

    pictures: bool = True

    @classmethod
    def of(cls, spec: ItemsSpec) -> "UnpicturedItems":
        return cls(**spec.model_dump(), pictures=False)


class InteractionsSpec(_Spec):
    """How a log's columns map to ours; a column the log does not have stays null, one called "" is no column.

    Times are ISO 8601 (UTC where no zone is given) or numbers since 1970 in `time_unit`, by default told by their size.
    `repeats` says what rows of one file are that agree in everything, where there are no event ids: one event, or as
    many as there are.
    """

    section: ClassVar[str] = "interactions"

    user_id: str = Field("user_id", min_length=1)
    item_id: str = Field("item_id", min_length=1)
    event_time: str = Field("event_time", min_length=1)
    event_id: str = "event_id"
    event_type: str = "event_type"
    arrival_time: str = "arrival_time"
    session_id: str = "session_id"
    request_id: str = "request_id"
    impression: str = "impression"
    position: str = "position"
    value: str = "value"
    default_event_type: str = "interaction"
    future_tolerance_hours: float = Field(24.0, ge=0)
    time_unit: Literal["auto", "s", "ms", "us", "ns"] = "auto"
    repeats: Literal["refuse", "keep"] = "refuse"
    csv: CsvSpec = CsvSpec()

    @property
    def asked(self) -> frozenset[str]:
        """The columns that are read of a file; what others hold does not matter."""
        columns = (
            *(self.user_id, self.item_id, self.event_time, self.event_id, self.event_type, self.arrival_time),
            *(self.session_id, self.request_id, self.impression, self.position, self.value),
        )
        return frozenset(name for name in columns if name)

    @property
    def meant(self) -> frozenset[str]:
        """The columns that fields name."""
        return self.asked

    @property
    def from_folders(self) -> frozenset[str]:
        """The columns that are taken from names of folders (`name=value`) where a file lacks them."""
        return self.asked


class TextSpec(_EncoderSpec):
    """Text encoder: `packaged-minilm` (weights in a Python package) or any sentence-transformers `model`.

    `fields` name the title and attributes that are joined with ". " into the text of an item.
    """

    contents: ClassVar[str] = "text"

    encoder: str = "packaged-minilm"
    model: str = ""
    revision: str | None = None
    fields: tuple[str, ...] = ("title",)
    prompt_name: str | None = None
    batch_size: int = Field(64, ge=1)


class ImageSpec(_EncoderSpec):
    """Image encoder: `packaged-vit` (ONNX ViT-S/14) or `open-clip` (`model` plus a pretrained tag or a checkpoint).

    An item with several pictures gets the mean of their vectors.
    """

    contents: ClassVar[str] = "image"

    encoder: str = "packaged-vit"
    model: str = ""
    pretrained: str = ""
    batch_size: int = Field(16, ge=1)
    max_pixels: int = Field(50_000_000, ge=1)
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP")


class AttributesSpec(_Spec):
    """Attributes as multi-hot values: every value of the `fields`, lists taken apart, has a direction of its own.

    `weights` say how much a field counts, 1 where it is not named.
    """

    fields: tuple[str, ...] = Field(("brand", "categories"), min_length=1)
    dim: int = Field(256, ge=8)
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)


class CoordinatesSpec(_Spec):
    """Places: the attributes with latitude and longitude in degrees, as waves down to `finest_km`."""

    latitude: str = "latitude"
    longitude: str = "longitude"
    scales: int = Field(12, ge=1)
    finest_km: float = Field(1.0, gt=0)


class CollaborativeSection(_Spec):
    """Vectors of items that the same users interact with before the cutoff: `sppmi`, `sasrec`, or `both` side by side.

    `sppmi` is the truncated SVD of the shifted positive PMI (Levy and Goldberg 2014), of `dim` dimensions; `sasrec` the
    item embeddings of a SASRec, trained as the section of that name says. `user_cap` keeps the newest events of each
    user; `window` is how many of a user's neighbouring events (in time) form pairs with an event. Rows flagged as
    impressions, and events of the types in `exclude_events`, are no behaviour. A pair counts as the product of its
    events' weights: that of their type in `event_weights` (1 where it is not named), halved with every
    `half_life_days` of age. A SASRec takes all events alike.

    `auto` is `both` where that is affordable on one core, else `sppmi`.
    """

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

    @property
    def weighted(self) -> str:
        """The fields given that weigh events, as text; empty where there are none."""
        return " and ".join(name for name in ("event_weights", "half_life_days") if getattr(self, name))

    @model_validator(mode="after")
    def _sasrec_weighs_no_events(self) -> Self:
        if self.method == "sasrec" and self.weighted:
            raise ValueError(
                f"{self.weighted}: a SASRec takes all events alike; leave them out and name types that are no "
                'behaviour in exclude_events, or use method = "sppmi" or "both", whose PMI they weigh'
            )
        return self


class CollaborativeSpec(CollaborativeSection):
    """The same with the method given."""

    method: Literal["sppmi", "sasrec", "both"] = "sppmi"


LOGITS = 5_000_000_000
"""Events times items up to which a SASRec is trained where the recipe leaves it open: its softmax is over all items,
and 12,101 items and 154,000 events took seven minutes of one core."""


def collaborative_spec(section: CollaborativeSection, events: int, items: int) -> CollaborativeSpec:
    """The section for a log of that size. Under weights of events `auto` is `sppmi`, which heeds them."""
    wanted = section.model_dump()
    if wanted["method"] == "auto":
        wanted["method"] = "both" if events * items <= LOGITS and not section.weighted else "sppmi"
    return CollaborativeSpec.model_validate(wanted)


class FusionSpec(_Spec):
    """How the vectors of an item become one.

    `concat` puts the leading principal components of each modality side by side, times its weight. With `whiten` each
    component of a modality varies as much as the next, and the modality as much as without. The other methods start
    there and learn a correction: `contrastive` a network per modality, `qformer` (OxygenRec) `queries` that attend to
    all modalities an item has. What is learnt is which items the same users take within `pair_window`
    events of each other, one of them among the newest `recent` share of the visible events. What a modality knows of
    behaviour then comes from the events before those, so that nothing can be learnt by heart.

    InfoNCE at a learnt temperature against the other items of a step: those of a pair with weight 1, corrected by
    `popularity` times the log of how often an item is drawn, and with weight `align` the content of an item with its
    own behaviour. With `hard_negatives` each pair brings one more item, near to its first and no pair with it, to tell
    apart. A modality is left out with chance `modality_dropout`. An epoch is `steps` steps.
    """

    method: Literal["concat", "contrastive", "qformer"] = "contrastive"
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

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.method == "qformer" and self.hidden % self.heads:
            raise ValueError(f"qformer: hidden = {self.hidden} is no multiple of heads = {self.heads}")
        return self


class SequencesSpec(_Spec):
    """User histories as SIDs: `buckets` by hash of the user, so that training streams a bucket at a time.

    0 is as many as leave some 500,000 events to each, 8 at least and 512 at most.
    """

    buckets: Annotated[int, Field(ge=0, le=512)] = 0


class ComputeSpec(_Spec):
    """`in_process_below`: with fewer new items a night runs its stages in this process and starts no cluster.

    `cpus` of a cluster started here: 0 means one more than the machine has, so that input never starves training.
    """

    in_process_below: int = Field(300, ge=0)
    cpus: int = Field(0, ge=0)
    encoder_workers: int = Field(0, ge=0)
    chunk_rows: int = Field(256, ge=1)


class BudgetSpec(_Spec):
    """A run stops before anything is published when a stage refuses more than `quarantine_share` of its rows.

    Up to `quarantine_rows` refused rows are let pass whatever their share, so that one bad row in a night of five
    does not stop it.
    """

    quarantine_share: float = Field(0.05, ge=0, le=1)
    quarantine_rows: int = Field(20, ge=0)
