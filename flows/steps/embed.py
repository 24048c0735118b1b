"""Step: text and image vectors of items that have none yet."""

import json
from typing import Any

import polars as pl

from flows.recipe import Recipe
from flows.run import Run
from flows.steps.ingest import check_stage_budget
from flows.steps.task import step
from pipelines.embed import EmbedImages, EmbedText, embed
from pipelines.encoders.protocol import fingerprint
from pipelines.encoders.text import describe_text
from pipelines.encoders.vision import describe_image
from pipelines.ingest import Counts
from pipelines.ingest_items import items_text
from storage.manifest import EncoderRef
from storage.quarantine import open_rows

TEXT, IMAGE, COLLABORATIVE = "text", "image", "collaborative"


class EncoderChanged(ValueError):
    """The recipe names another encoder than the release that a night extends."""


def describe_encoders(run: Run) -> dict[str, EncoderRef]:
    """The content encoders of the recipe with their fingerprints; nothing heavy is loaded."""
    found: dict[str, EncoderRef] = {}
    if run.recipe.text is not None:
        found[TEXT] = _reference(describe_text(run.recipe.text))
    if run.recipe.image is not None:
        found[IMAGE] = _reference(describe_image(run.recipe.image))
    return found


def _reference(details: dict[str, Any]) -> EncoderRef:
    return EncoderRef(fingerprint=fingerprint(details), details=details)


def check_encoders(release: str, pinned: dict[str, EncoderRef], ours: dict[str, EncoderRef]) -> None:
    """A night must use the encoders of the release it extends; EncoderChanged says what differs."""
    for modality in (TEXT, IMAGE):
        before, now = pinned.get(modality), ours.get(modality)
        if (before and before.fingerprint) != (now and now.fingerprint):
            raise EncoderChanged(
                f"the {modality} encoder differs from the one {release} pins: {_difference(before, now)}. "
                "Vectors of two encoders do not mix: run `sidmill run backfill` with this recipe, or the night with "
                "the recipe of the release (the default)."
            )


def content_pairs(items: pl.DataFrame, recipe: Recipe) -> dict[str, pl.DataFrame]:
    """(item_id, content_hash) per content modality of the catalogue rows given.

    The content of the text modality is the text that is embedded: a change of another attribute, a price say, changes
    no vector.
    """
    pairs = {IMAGE: items.filter(pl.col("image_hash").is_not_null()).select("item_id", content_hash="image_hash")}
    if recipe.text is not None:
        pairs[TEXT] = items_text(items, recipe.text.fields).select("item_id", "content_hash")
    return pairs


def _difference(before: EncoderRef | None, now: EncoderRef | None) -> str:
    """The settings that differ, as "name: there -> here"."""
    there, here = (before.details if before else {}), (now.details if now else {})
    names = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
    return ", ".join(f"{name}: {there.get(name)} -> {here.get(name)}" for name in names)


@step
def embed_items(run: Run, items: pl.DataFrame, encoders: dict[str, EncoderRef]) -> None:
    """Encode what the vector table does not have; bad content is quarantined, the budget is checked per modality."""
    if run.recipe.text is not None:
        _say_unknown_fields(run, items)
        rows = items_text(items, run.recipe.text.fields).select("item_id", "content_hash", "text", "source")
        _embed(run, TEXT, encoders[TEXT], rows, EmbedText, {"spec": run.recipe.text})
    images = content_pairs(items, run.recipe)[IMAGE].join(items.select("item_id", "source"), on="item_id")
    if run.recipe.image is not None and images.height:
        arguments = {"spec": run.recipe.image, "lake": run.lake}
        _embed(run, IMAGE, encoders[IMAGE], images, EmbedImages, arguments)


def _say_unknown_fields(run: Run, items: pl.DataFrame) -> None:
    """A misspelt field would silently leave its text out."""
    assert run.recipe.text is not None
    known = {"title"}.union(*(json.loads(attributes) for attributes in items["attributes"]))
    unknown = [field for field in run.recipe.text.fields if field not in known]
    if unknown and run.record.kind == "bootstrap":
        run.say(f"  note: no item has text.fields {', '.join(unknown)}; attributes here: {', '.join(sorted(known))}")


def _embed(
    run: Run, modality: str, encoder: EncoderRef, rows: pl.DataFrame, make: Any, arguments: dict[str, Any]
) -> None:
    with run.stage(f"embed {modality}", rows.height) as view:
        counts = embed(
            run.lake,
            modality,
            encoder.fingerprint,
            rows.drop("source"),
            make,
            arguments,
            run.compute,
            run.recipe.compute.chunk_rows,
            run.provenance(),
            view.advance,
        )
        view.count(counts)
        view.note(run.compute.name, where=run.compute.name)
    check_stage_budget(counts, run.recipe.budget, _files(run, counts, rows))


def _files(run: Run, counts: Counts, rows: pl.DataFrame) -> list[str]:
    """The catalogue files that the refused items were read from."""
    if not counts.quarantined:
        return []
    refused = open_rows(run.lake).filter(pl.col("stage") == counts.stage)["subject"].to_list()
    sources = rows.filter(pl.col("item_id").is_in(refused))["source"]
    return sources.str.replace(r"@\w+$", "").unique().sort().to_list()
