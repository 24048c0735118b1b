"""Step: text and image vectors of items that have none yet."""

from typing import Any

import polars as pl

from flows.run import Run
from flows.steps.ingest import check_stage_budget
from flows.steps.task import step
from pipelines.embed import EmbedImages, EmbedText, embed
from pipelines.encoders.protocol import fingerprint
from pipelines.encoders.text import describe_text
from pipelines.encoders.vision import describe_image
from pipelines.ingest_items import items_text
from storage.manifest import EncoderRef

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
                f"the {modality} encoder differs from the one {release} pins: {before and before.details} there, "
                f"{now and now.details} here. Vectors of two encoders do not mix: run `sidmill run backfill` with this "
                "recipe, or the night with the recipe of the release (the default)."
            )


def content_pairs(items: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """(item_id, content_hash) per content modality of the catalogue rows given."""
    return {
        TEXT: items.select("item_id", content_hash="text_hash"),
        IMAGE: items.filter(pl.col("image_hash").is_not_null()).select("item_id", content_hash="image_hash"),
    }


@step
def embed_items(run: Run, items: pl.DataFrame, encoders: dict[str, EncoderRef]) -> None:
    """Encode what the vector table does not have; bad content is quarantined, the budget is checked per modality."""
    pairs = content_pairs(items)
    if TEXT in encoders:
        assert run.recipe.text is not None
        texts = items_text(items, run.recipe.text.fields).select("item_id", "text")
        rows = pairs[TEXT].join(texts, on="item_id")
        _embed(run, TEXT, encoders[TEXT], rows, EmbedText, {"spec": run.recipe.text})
    if IMAGE in encoders and pairs[IMAGE].height:
        arguments = {"spec": run.recipe.image, "lake": run.lake}
        _embed(run, IMAGE, encoders[IMAGE], pairs[IMAGE], EmbedImages, arguments)


def _embed(
    run: Run, modality: str, encoder: EncoderRef, rows: pl.DataFrame, make: Any, arguments: dict[str, Any]
) -> None:
    with run.stage(f"embed {modality}", rows.height) as view:
        counts = embed(
            run.lake,
            modality,
            encoder.fingerprint,
            rows,
            make,
            arguments,
            run.compute,
            run.recipe.compute.chunk_rows,
            run.provenance(),
            view.advance,
        )
        view.count(counts)
        view.note(run.compute.name, where=run.compute.name)
    check_stage_budget(counts, run.recipe.budget)
