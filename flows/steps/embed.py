"""Step that encodes the content of items (text, images, attributes) that has no vector yet."""

from contextlib import nullcontext
from typing import Any

import polars as pl

from flows.recipe import Recipe
from flows.runtime.budget import check_stage_budget
from flows.runtime.run import Run
from flows.snapshot import Snapshot
from flows.steps.task import step
from pipelines.compute.executors import InProcess
from pipelines.counts import Counts
from pipelines.embed.clip_agreement import check_clip_agreement, titled_sample
from pipelines.embed.content_modalities import CONTENT_COLUMNS, CONTENT_MODALITIES, ContentModality
from pipelines.embed.contents import ItemContents, contents_of
from pipelines.embed.embed import EncodingJob, embed
from pipelines.embed.item_rows import item_parts
from pipelines.embed.protocol import fingerprint
from pipelines.modalities import COLLABORATIVE, IMAGE
from pipelines.registry import ENCODERS
from storage.quarantine import open_rows
from storage.releases.manifest import EncoderRef

LIGHT_ROWS = 1 << 16
"""Least rows of a unit of a stage without a model: with fewer, the commit takes longer than the vectors."""


class EncoderChanged(ValueError):
    """Raised if the recipe names another encoder than the release that a night extends."""


def contents(recipe: Recipe) -> list[tuple[ContentModality[Any], Any]]:
    """Return the content modalities of a recipe, and their sections."""
    sections = [(each, getattr(recipe, each.name)) for each in CONTENT_MODALITIES]
    return [(each, section) for each, section in sections if section is not None]


def embed_stage(modality: str) -> str:
    """Return the name of the stage that makes the vectors of a content modality."""
    return f"embed {modality}"


def describe_encoders(run: Run) -> dict[str, EncoderRef]:
    """Return the content encoders of the recipe with their fingerprints, without loading models."""
    details = {each.name: each.describe(section) for each, section in contents(run.recipe)}
    return {name: EncoderRef(fingerprint=fingerprint(each), details=each) for name, each in details.items()}


def check_encoders(release: str, pinned: dict[str, EncoderRef], wanted: dict[str, EncoderRef]) -> None:
    """Raise EncoderChanged, with the differences, unless a night or a refit uses the encoders of its release.

    `pinned` are those of the release, `wanted` those of the recipe, by modality. Behaviour is left out: a night folds
    in on the factors that the release pins.
    """
    for modality in sorted({*pinned, *wanted} - {COLLABORATIVE}):
        before, now = pinned.get(modality), wanted.get(modality)
        if (before and before.fingerprint) != (now and now.fingerprint):
            raise EncoderChanged(
                f"the {modality} encoder differs from the one that {release} pins ({_difference(before, now)}), and "
                "vectors of two encoders cannot be mixed. Run `sidmill run backfill` with this recipe, without "
                "[refit], or run nightly with the recipe of the release (the default)."
            )


def _difference(before: EncoderRef | None, now: EncoderRef | None) -> str:
    """Return the settings that differ, as "name: before -> now"."""
    old, new = (before.details if before else {}), (now.details if now else {})
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return ", ".join(f"{name}: {old.get(name)} -> {new.get(name)}" for name in names)


@step
def embed_items(
    run: Run, snapshot: Snapshot, items: pl.DataFrame, encoders: dict[str, EncoderRef]
) -> dict[str, pl.DataFrame]:
    """Encode the content of items (item_id, sorted; revision) that has no stored vector.

    Return (item_id, content_hash) of the items with a content of each modality. The content of the text modality is the
    embedded text: a change of another attribute, such as a price, changes no vector. Bad content goes to quarantine;
    the budget is checked for each modality.
    """
    found = _contents(run, snapshot, items)
    for content, spec in contents(run.recipe):
        some = found[content.name]
        if some.pairs.height:
            _embed(run, snapshot, content, spec, encoders[content.name], some)
            if content.name == IMAGE:
                _check_pictures(run, snapshot, encoders[IMAGE], some.pairs)
        elif run.record.kind != "nightly":
            run.say(
                f"  warning: the recipe has [{content.name}], but {content.lacking}: no {content.name} vectors are made"
            )
    return {name: each.pairs for name, each in found.items()}


def _contents(run: Run, snapshot: Snapshot, items: pl.DataFrame) -> dict[str, ItemContents]:
    """Return the contents of items by modality; in a bootstrap, show settings that name fields which no item has."""
    kinds = {each.name: each.kind(spec) for each, spec in contents(run.recipe)}
    if not kinds:
        return {}
    parts = item_parts(run.lake, items, snapshot.items.version, snapshot.as_of, CONTENT_COLUMNS)
    first, work = run.record.kind == "bootstrap", run.compute.work
    with run.stage("read contents", items.height) if len(parts) > 1 else nullcontext() as view:
        advance = view.advance if view else lambda rows: None
        found, names = contents_of(items["item_id"], parts, kinds, work, names=first, advance=advance)
    for note in unknown_fields(run.recipe, names) if first else []:
        run.say(f"  note: {note}")
    return found


def _check_pictures(run: Run, snapshot: Snapshot, encoder: EncoderRef, pictured: pl.DataFrame) -> None:
    """Show how well pictures match titles, if the model also encodes text and the run covers the whole catalogue."""
    image = run.recipe.image
    if image is None or not ENCODERS.get(image.encoder).text_tower or run.record.kind == "nightly":
        return
    with run.stage("check pictures") as view:
        titled = titled_sample(pictured, lambda some: snapshot.catalogue(run.lake, ["title"], some))
        found = run.compute.run(check_clip_agreement, run.lake, image, encoder.fingerprint, titled)
        if found is None:
            view.note("skipped: too few items have both a picture and a title")
            return
        near, chance = found["own_picture_among_nearest"], found["chance"]
        view.note(
            f"{near:.0%} of {found['items']:.0f} titles rank their picture among the first 10, {chance:.0%} by chance",
            **found,
        )


def unknown_fields(recipe: Recipe, known: set[str]) -> list[str]:
    """Return a note for each setting with fields that no item has: a misspelt one is skipped without an error.

    `known` are the names of the attributes that items have.
    """
    named = {setting: fields for each, spec in contents(recipe) for setting, fields in each.fields(spec).items()}
    unknown = {setting: ", ".join(field for field in fields if field not in known) for setting, fields in named.items()}
    return [
        f"{setting} names {fields}, which no item has; the attributes of the items are "
        f"{', '.join(sorted(known)) or 'none'}"
        for setting, fields in unknown.items()
        if fields
    ]


def _embed(
    run: Run, snapshot: Snapshot, content: ContentModality[Any], spec: Any, encoder: EncoderRef, found: ItemContents
) -> None:
    with run.stage(embed_stage(content.name), found.pairs.height) as view:
        is_here = content.light and len(found.parts) == 1
        compute = InProcess(run.recipe.compute) if is_here else run.compute
        expected = {} if content.light else {"expected": encoder.fingerprint}
        job = EncodingJob(
            run.lake,
            content.name,
            encoder.fingerprint,
            content.stage,
            {**content.arguments(spec, run.lake), **expected},
            content.kind(spec),
            max(run.recipe.compute.chunk_rows, LIGHT_ROWS) if content.light else run.recipe.compute.chunk_rows,
            content.task_rows(spec),
        )
        counts = embed(job, found, compute, run.provenance(), view.advance)
        view.count(counts)
        view.note(compute.name, where=compute.name)
    files = _files(run, snapshot, counts, found.pairs["item_id"]) if counts.quarantined else []
    check_stage_budget(counts, run.recipe.budget, files)


def _files(run: Run, snapshot: Snapshot, counts: Counts, items: pl.Series) -> list[str]:
    """Return the catalogue files from which refused ones of the items were read."""
    refused = open_rows(run.lake).filter(pl.col("stage") == counts.stage)["subject"].drop_nulls()
    sources = snapshot.catalogue(run.lake, ["source"], refused.filter(refused.is_in(items.implode())))["source"]
    return sources.str.replace(r"@\w+$", "").unique().sort().to_list()
