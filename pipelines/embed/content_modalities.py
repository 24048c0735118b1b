"""The modalities that are made of an item's own content: what each reads, its encoder and its stage.

A new one is a record here, a name in `pipelines.modalities`, and a section of the recipe under that name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import polars as pl

from pipelines.embed.attributes import describe_attributes, describe_coordinates, place_of, values_of
from pipelines.embed.contents import ContentKind, items_content, items_pictures, items_text
from pipelines.embed.protocol import describe_encoder
from pipelines.embed.stages import BATCHES, EmbedAttributes, EmbedImages, EmbedText
from pipelines.modalities import ATTRIBUTES, COORDINATES, IMAGE, TEXT
from pipelines.spec import AttributesSpec, CoordinatesSpec, ImageSpec, TextSpec
from storage.lake import Lake

S = TypeVar("S")
CONTENT_COLUMNS = ("item_id", "title", "attributes", "images")
"""Columns of the catalogue that contents are made of."""


@dataclass(frozen=True)
class ContentModality(Generic[S]):
    """One modality, whose section of the recipe is an `S`.

    `describe` returns the settings that determine the vectors, with a hash of the weights. `rows` keeps the
    columns of a catalogue, adds content_hash and the columns that the stage reads, and leaves out items without such
    content; `lacking` says in words that no item has any. `fields` are the settings that name attributes, and the
    attributes. `batch` is how many items the model of the stage takes at a time; None for a stage without a model:
    for few items, workers would take longer to start than the stage.
    """

    name: str
    describe: Callable[[S], dict[str, Any]]
    rows: Callable[[pl.DataFrame, S], pl.DataFrame]
    stage: type[EmbedText | EmbedImages | EmbedAttributes]
    fields: Callable[[S], dict[str, tuple[str, ...]]]
    lacking: str
    batch: Callable[[S], int] | None = None
    reads_blobs: bool = False

    @property
    def light(self) -> bool:
        """True if the stage loads no model."""
        return self.batch is None

    def kind(self, spec: S) -> ContentKind:
        """Return how contents are made, and which of them come first."""
        return ContentKind(lambda items: self.rows(items, spec), getattr(self.stage, "longest_first", None))

    def arguments(self, spec: S, lake: Lake) -> dict[str, Any]:
        """Return the arguments of the stage."""
        return {"spec": spec, "lake": lake} if self.reads_blobs else {"spec": spec}

    def task_rows(self, spec: S) -> int | None:
        """Return the items that the stage gets at a time, several batches of its model; all of a unit if None."""
        return None if self.batch is None else BATCHES * self.batch(spec)


_TEXT = ContentModality[TextSpec](
    TEXT,
    describe_encoder,
    lambda items, spec: items_text(items, spec.fields),
    EmbedText,
    lambda spec: {"text.fields": tuple(field for field in spec.fields if field != "title")},
    "no item has text in text.fields",
    lambda spec: spec.batch_size,
)
_IMAGE = ContentModality[ImageSpec](
    IMAGE,
    describe_encoder,
    lambda items, spec: items_pictures(items),
    EmbedImages,
    lambda spec: {},
    "no item has a picture that was read; `items.image` names their column",
    lambda spec: spec.batch_size,
    reads_blobs=True,
)
_ATTRIBUTES = ContentModality[AttributesSpec](
    ATTRIBUTES,
    describe_attributes,
    lambda items, spec: items_content(items, partial(values_of, fields=spec.fields)),
    EmbedAttributes,
    lambda spec: {"attributes.fields": spec.fields},
    "no item has a value in attributes.fields",
)
_COORDINATES = ContentModality[CoordinatesSpec](
    COORDINATES,
    describe_coordinates,
    lambda items, spec: items_content(items, partial(place_of, latitude=spec.latitude, longitude=spec.longitude)),
    EmbedAttributes,
    lambda spec: {"coordinates": (spec.latitude, spec.longitude)},
    "no item has a latitude and a longitude",
)
CONTENT_MODALITIES: tuple[ContentModality[Any], ...] = (_TEXT, _IMAGE, _ATTRIBUTES, _COORDINATES)
