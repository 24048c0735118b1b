"""Recipe sections of the pipelines: frozen, validated once, stored with their results."""

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
    """Format of CSV and TSV files. Without `delimiter` the suffix decides; without `encoding` it is UTF-8.

    `quotes` sets the meaning of `"`: "checked" quotes cells, unless a quote seems to be missing; "escaped" quotes cells
    in which a backslash precedes a quote; "trusted" quotes cells, whatever they hold; "none" is an ordinary character.
    With `decimal = ","` a cell that is a number with a decimal comma is read as that number.
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
    """Mapping of a catalogue's columns to item fields. A column that is not named here becomes an attribute.

    Of a cell in several languages (an object from tags such as `en` or `pt_BR` to text, or a list of objects with
    `language_tag` and `value`), the first of `languages` that is present is used, else any; without `languages`, all.
    `image` names a column of pictures, one or a list: paths (relative to the file, inside its folder), bytes, web
    addresses, or URIs below one of `image_roots`. `image_workers` pictures are fetched at once, each within
    `image_timeout_s`; a host without a public address must be one of `trusted_hosts`. `partitions` names the folders
    `name=value` that become attributes.
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
        """None for all columns: those that no field names are attributes."""
        return None

    @property
    def meant(self) -> frozenset[str]:
        """Columns that fields name."""
        return frozenset(name for name in (self.item_id, self.title, self.image, self.deleted) if name)

    @property
    def from_folders(self) -> frozenset[str]:
        """Columns that are taken from folder names (`name=value`) if a file lacks them."""
        return self.meant | {name for name in self.partitions if name}


class UnpicturedItems(ItemsSpec):
    """Mapping of a recipe without [image]: no picture is read, and a recipe with [image] reads the file again."""

    pictures: bool = True

    @classmethod
    def of(cls, spec: ItemsSpec) -> "UnpicturedItems":
        return cls(**spec.model_dump(), pictures=False)


class InteractionsSpec(_Spec):
    """Mapping of a log's columns to event fields. A column that the log lacks is null; the name "" means no column.

    Times are ISO 8601 (UTC if no zone is given) or numbers since 1970 in `time_unit`, by default inferred from their
    size. `repeats` applies to rows of one file that are equal and have no event id: "refuse" makes them one event,
    "keep" keeps all.
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
        """Columns that are read of a file; others are ignored."""
        columns = (
            *(self.user_id, self.item_id, self.event_time, self.event_id, self.event_type, self.arrival_time),
            *(self.session_id, self.request_id, self.impression, self.position, self.value),
        )
        return frozenset(name for name in columns if name)

    @property
    def meant(self) -> frozenset[str]:
        """Columns that fields name."""
        return self.asked

    @property
    def from_folders(self) -> frozenset[str]:
        """Columns that are taken from folder names (`name=value`) if a file lacks them."""
        return self.asked


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
    max_pixels: int = Field(50_000_000, ge=1)
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP")


class AttributesSpec(_Spec):
    """Settings of multi-hot attributes: every value of the `fields`, lists flattened, has its own direction.

    `weights` scales the fields, by default 1.
    """

    fields: tuple[str, ...] = Field(("brand", "categories"), min_length=1)
    dim: int = Field(256, ge=8)
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)


class CoordinatesSpec(_Spec):
    """Settings of places: attributes with latitude and longitude in degrees, as sinusoids down to `finest_km`."""

    latitude: str = "latitude"
    longitude: str = "longitude"
    scales: int = Field(12, ge=1)
    finest_km: float = Field(1.0, gt=0)


class CollaborativeSection(_Spec):
    """Settings of item vectors from interactions before the cutoff: `sppmi`, `sasrec`, or `both` side by side.

    `sppmi` is the truncated SVD of the shifted positive PMI (Levy and Goldberg 2014), of `dim` dimensions. `sasrec` is
    the item embeddings of a SASRec, trained as the section of that name says. `user_cap` keeps the newest events of
    each user. `window` is the number of a user's neighbouring events (in time) that form pairs with an event.
    Impressions, and events of the types in `exclude_events`, are ignored. A pair counts as the product of its events'
    weights: the weight of the type in `event_weights` (1 by default), halved with every `half_life_days` of age. A
    SASRec weighs all events alike.

    `auto` is `both` if that is affordable on one core, else `sppmi`.
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
        """Fields that are set and weigh events, as text; empty if none."""
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
    """The same section, with `auto` resolved."""

    method: Literal["sppmi", "sasrec", "both"] = "sppmi"


LOGITS = 5_000_000_000
"""Largest product of events and items for which `auto` trains a SASRec, whose softmax is over all items: 12,101 items
and 154,000 events took seven minutes on one core.
"""


def collaborative_spec(section: CollaborativeSection, events: int, items: int) -> CollaborativeSpec:
    """Resolve the section for a log of that size. With event weights `auto` is `sppmi`, which uses them."""
    wanted = section.model_dump()
    if wanted["method"] == "auto":
        wanted["method"] = "both" if events * items <= LOGITS and not section.weighted else "sppmi"
    return CollaborativeSpec.model_validate(wanted)


class FusionSpec(_Spec):
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
    """Settings of user histories as SIDs, in `buckets` by user hash, so that training streams a bucket at a time.

    0 gives about 500,000 events per bucket, with 8 buckets at least and 512 at most.
    """

    buckets: Annotated[int, Field(ge=0, le=512)] = 0


class ComputeSpec(_Spec):
    """Compute settings. With fewer new items than `in_process_below`, a nightly run stays in process without a cluster.

    `cpus` of a cluster started here: 0 means one more than the machine has, so that input never starves training.
    """

    in_process_below: int = Field(300, ge=0)
    cpus: int = Field(0, ge=0)
    encoder_workers: int = Field(0, ge=0)
    chunk_rows: int = Field(256, ge=1)


class BudgetSpec(_Spec):
    """Limits on refusals: a run stops before publishing if a stage refuses more than `quarantine_share` of its rows.

    Up to `quarantine_rows` refused rows are accepted whatever their share, so that one bad row in a night of five does
    not stop it.
    """

    quarantine_share: float = Field(0.05, ge=0, le=1)
    quarantine_rows: int = Field(20, ge=0)
