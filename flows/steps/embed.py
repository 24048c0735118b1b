"""Step that encodes the content of items (text, images, attributes) that has no vector yet."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl

from flows.recipe import Recipe
from flows.runtime.budget import check_stage_budget
from flows.runtime.run import Run
from flows.steps.task import step
from pipelines.compute.executors import InProcess
from pipelines.counts import Counts
from pipelines.embed.attributes import describe_attributes, describe_coordinates, place_of, values_of
from pipelines.embed.clip_agreement import check_clip_agreement
from pipelines.embed.contents import items_content, items_text
from pipelines.embed.embed import EncodingJob, embed
from pipelines.embed.protocol import describe_encoder, fingerprint
from pipelines.embed.stages import BATCHES, EmbedAttributes, EmbedImages, EmbedText
from pipelines.modalities import COLLABORATIVE
from pipelines.registry import ENCODERS
from storage.files.store import sha256
from storage.lake import Lake
from storage.quarantine import open_rows
from storage.releases.manifest import EncoderRef

TEXT, IMAGE, ATTRIBUTES, COORDINATES = "text", "image", "attributes", "coordinates"

_LACKING = {
    TEXT: "no item has text in text.fields",
    IMAGE: "no item has a picture that was read; `items.image` names their column",
    ATTRIBUTES: "no item has a value in attributes.fields",
    COORDINATES: "no item has a latitude and a longitude",
}

LIGHT_ROWS = 1 << 16
"""Rows of a commit of a stage without a model: a commit of few rows takes longer than their vectors."""


class EncoderChanged(ValueError):
    """Raised if the recipe names another encoder than the release that a night extends."""


@dataclass(frozen=True)
class Content:
    """A modality made of an item's own content: its encoder, its stage, and the input of the stage.

    `describe` returns the settings that determine the vectors, with a hash of the weights. `rows` keeps item_id and
    source, adds content_hash and the columns that the stage reads, and leaves out items without such content. A `light`
    stage loads no model: workers would take longer to start than the stage takes. A worker gets `task_rows` items at a
    time: several batches, but few enough that all workers end at about the same time.
    """

    name: str
    describe: Callable[[], dict[str, Any]]
    rows: Callable[[pl.DataFrame], pl.DataFrame]
    stage: type[EmbedText | EmbedImages | EmbedAttributes]
    arguments: dict[str, Any]
    task_rows: int | None = None
    light: bool = False


def contents(recipe: Recipe, lake: Lake) -> list[Content]:
    """Return the content modalities of a recipe, without loading models."""
    found = []
    if (text := recipe.text) is not None:
        rows = partial(items_text, fields=text.fields)
        found.append(
            Content(TEXT, partial(describe_encoder, text), rows, EmbedText, {"spec": text}, BATCHES * text.batch_size)
        )
    if (image := recipe.image) is not None:
        arguments = {"spec": image, "lake": lake}
        found.append(
            Content(
                IMAGE, partial(describe_encoder, image), _pictured, EmbedImages, arguments, BATCHES * image.batch_size
            )
        )
    if (fields := recipe.attributes) is not None:
        rows = partial(items_content, read=partial(values_of, fields=fields.fields))
        describe = partial(describe_attributes, fields)
        found.append(Content(ATTRIBUTES, describe, rows, EmbedAttributes, {"spec": fields}, light=True))
    if (place := recipe.coordinates) is not None:
        read = partial(place_of, latitude=place.latitude, longitude=place.longitude)
        rows = partial(items_content, read=read)
        describe = partial(describe_coordinates, place)
        found.append(Content(COORDINATES, describe, rows, EmbedAttributes, {"spec": place}, light=True))
    return found


def content_columns(recipe: Recipe) -> list[str]:
    """Return the columns of the catalogue, beside the id, that the steps after ingest read under a recipe."""
    encoded = any((recipe.text, recipe.image, recipe.attributes, recipe.coordinates))
    return ["deleted", *(("title", "attributes", "images", "source") if encoded else ())]


def _pictured(items: pl.DataFrame) -> pl.DataFrame:
    """Return items with pictures. The content hash is the hash of one picture, or of several hashes in order."""
    some = items.filter(pl.col("images").list.len() > 0)
    hashes = [each[0] if len(each) == 1 else sha256("".join(each).encode()) for each in some["images"]]
    return some.with_columns(pl.Series("content_hash", hashes, dtype=pl.String))


def describe_encoders(run: Run) -> dict[str, EncoderRef]:
    """Return the content encoders of the recipe with their fingerprints, without loading models."""
    details = {each.name: each.describe() for each in contents(run.recipe, run.lake)}
    return {name: EncoderRef(fingerprint=fingerprint(each), details=each) for name, each in details.items()}


def check_encoders(release: str, pinned: dict[str, EncoderRef], ours: dict[str, EncoderRef]) -> None:
    """Raise EncoderChanged, with the differences, unless a night or a refit uses the encoders of its release.

    Behaviour is left out: a night folds in on the factors that the release pins.
    """
    for modality in sorted({*pinned, *ours} - {COLLABORATIVE}):
        before, now = pinned.get(modality), ours.get(modality)
        if (before and before.fingerprint) != (now and now.fingerprint):
            raise EncoderChanged(
                f"the {modality} encoder differs from the one that {release} pins ({_difference(before, now)}), and "
                "vectors of two encoders cannot be mixed. Run `sidmill run backfill` with this recipe, without "
                "[refit], or run nightly with the recipe of the release (the default)."
            )


def content_pairs(items: pl.DataFrame, run: Run) -> dict[str, pl.DataFrame]:
    """Return (item_id, content_hash) of catalogue rows for each content modality.

    The content of the text modality is the embedded text: a change of another attribute, such as a price, changes no
    vector.
    """
    return {each.name: each.rows(items).select("item_id", "content_hash") for each in contents(run.recipe, run.lake)}


def _difference(before: EncoderRef | None, now: EncoderRef | None) -> str:
    """Return the settings that differ, as "name: before -> now"."""
    there, here = (before.details if before else {}), (now.details if now else {})
    names = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
    return ", ".join(f"{name}: {there.get(name)} -> {here.get(name)}" for name in names)


@step
def embed_items(run: Run, items: pl.DataFrame, encoders: dict[str, EncoderRef]) -> None:
    """Encode content that has no stored vector; quarantine bad content, and check the budget per modality."""
    for note in unknown_fields(run.recipe, items) if run.record.kind == "bootstrap" else []:
        run.say(f"  note: {note}")
    for content in contents(run.recipe, run.lake):
        rows = content.rows(items)
        if rows.height:
            _embed(run, content, encoders[content.name], rows)
            if content.name == IMAGE:
                _check_pictures(run, encoders[IMAGE], rows)
        elif run.record.kind != "nightly":
            run.say(
                f"  warning: the recipe has [{content.name}], but {_LACKING[content.name]}: no {content.name} vectors "
                "are made"
            )


def _check_pictures(run: Run, encoder: EncoderRef, rows: pl.DataFrame) -> None:
    """Show how well pictures match titles, if the model also encodes text and the run covers the whole catalogue."""
    image = run.recipe.image
    if image is None or not ENCODERS.get(image.encoder).text_tower or run.record.kind == "nightly":
        return
    with run.stage("check pictures") as view:
        found = run.compute.run(check_clip_agreement, run.lake, image, encoder.fingerprint, rows)
        if found is None:
            view.note("skipped: too few items have both a picture and a title")
            return
        near, chance = found["own_picture_among_nearest"], found["chance"]
        view.note(
            f"{near:.0%} of {found['items']:.0f} titles rank their picture among the first 10, {chance:.0%} by chance",
            **found,
        )


def unknown_fields(recipe: Recipe, items: pl.DataFrame) -> list[str]:
    """Return a note for each setting with fields that no item has: a misspelt one is skipped without an error."""
    named: list[tuple[str, tuple[str, ...]]] = []
    if recipe.text is not None:
        named.append(("text.fields", tuple(field for field in recipe.text.fields if field != "title")))
    if recipe.attributes is not None:
        named.append(("attributes.fields", recipe.attributes.fields))
    if (place := recipe.coordinates) is not None:
        named.append(("coordinates", (place.latitude, place.longitude)))
    known: set[str] = set()
    for attributes in items["attributes"].unique() if named else ():
        known.update(json.loads(attributes))
    unknown = {setting: ", ".join(field for field in fields if field not in known) for setting, fields in named}
    return [
        f"{setting} names {fields}, which no item has; the attributes of the items are "
        f"{', '.join(sorted(known)) or 'none'}"
        for setting, fields in unknown.items()
        if fields
    ]


def _embed(run: Run, content: Content, encoder: EncoderRef, rows: pl.DataFrame) -> None:
    with run.stage(f"embed {content.name}", rows.height) as view:
        compute = InProcess(run.recipe.compute) if content.light else run.compute
        expected = {} if content.light else {"expected": encoder.fingerprint}
        counts = embed(
            run.lake,
            EncodingJob(
                content.name,
                encoder.fingerprint,
                content.stage,
                {**content.arguments, **expected},
                max(run.recipe.compute.chunk_rows, LIGHT_ROWS) if content.light else run.recipe.compute.chunk_rows,
                content.task_rows,
            ),
            rows.select(list(dict.fromkeys(("item_id", "content_hash", *content.stage.reads)))),
            compute,
            run.provenance(),
            view.advance,
        )
        view.count(counts)
        view.note(compute.name, where=compute.name)
    check_stage_budget(counts, run.recipe.budget, _files(run, counts, rows))


def _files(run: Run, counts: Counts, rows: pl.DataFrame) -> list[str]:
    """Return the catalogue files from which refused items were read."""
    if not counts.quarantined:
        return []
    refused = open_rows(run.lake).filter(pl.col("stage") == counts.stage)["subject"].to_list()
    sources = rows.filter(pl.col("item_id").is_in(refused))["source"]
    return sources.str.replace(r"@\w+$", "").unique().sort().to_list()
