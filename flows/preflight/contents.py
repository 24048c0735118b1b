"""Contents that a run would make vectors of: those of the sampled items, pictures, encoders, and given vectors."""

import re
from dataclasses import dataclass, field

import polars as pl
from PIL import Image

from flows.preflight.report import MAKES, Report
from flows.preflight.trial import Trial
from flows.recipe import Recipe
from flows.steps.embed import contents, unknown_fields
from pipelines.embed.contents import attribute_names
from pipelines.embed.images import ImageRefused, decode_image
from pipelines.embed.protocol import EncoderError, fingerprint
from pipelines.given.judge import judge
from pipelines.given.source import open_given
from pipelines.ingest.items.rows import pictures_of
from pipelines.ingest.pictures.ingest import Pictures
from pipelines.ingest.pictures.references import Reference
from pipelines.modalities import IMAGE, TEXT
from pipelines.profile.sampled import Sampled
from pipelines.sources.cells import Refused
from pipelines.sources.row import Row, SourceError
from storage.lake import Lake
from storage.releases.catalogue import catalogue
from storage.releases.manifest import EncoderRef

MAX_PICTURES = 20
"""Pictures that are opened; those on the web and in object stores are counted and not asked for."""
PEEK_ROWS = 256
"""Given vectors that are read of a file, from its beginning: more would find rarer faults, and take longer."""
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass
class Contents:
    """Contents of the sample: texts, opened pictures, how many items have each modality, and the encoders by name.

    `unloadable` names the modalities whose encoder cannot be loaded.
    """

    texts: list[str] = field(default_factory=list)
    pictures: list[Image.Image] = field(default_factory=list)
    items: dict[str, int] = field(default_factory=dict)
    encoders: dict[str, EncoderRef] = field(default_factory=dict)
    unloadable: list[str] = field(default_factory=list)


def look_at_contents(report: Report, recipe: Recipe, trial: Trial) -> Contents:
    """Report the modalities of a recipe with the sampled items that have them, and encoders that cannot be loaded."""
    found = Contents()
    items = trial.catalogue
    report.warnings += unknown_fields(recipe, attribute_names(items)) if items.height else []
    if recipe.image is None and trial.items.pictures:
        report.add(MAKES, IMAGE, f"nothing of {trial.items.pictures:,} pictures in the sample: there is no [image]")
    for content, spec in contents(recipe):
        try:
            details = content.describe(spec)
        except (EncoderError, OSError) as error:
            found.unloadable.append(content.name)
            report.errors.append(f"the {content.name} encoder cannot be loaded: {error}")
            continue
        found.encoders[content.name] = EncoderRef(fingerprint=fingerprint(details), details=details)
        if content.name == IMAGE:
            _look_at_pictures(report, recipe, trial, found)
            continue
        rows = content.rows(items, spec)
        if content.name == TEXT:
            rows = rows.filter(pl.col("text") != "")
            found.texts = rows["text"].to_list()
        found.items[content.name] = rows.height
        of = f"{rows.height:,} of {items.height:,} sampled items"
        encoder = "" if content.name != TEXT or recipe.text is None else f" {recipe.text.encoder};"
        report.add(MAKES, content.name, f"vectors of {of};{encoder} {fields_of(recipe, content.name)}")
        if content.name == TEXT and items.height and not rows.height:
            report.errors.append("no sampled item has text: check the names in text.fields, or remove [text]")
    return found


def fields_of(recipe: Recipe, modality: str) -> str:
    """Return the attributes that a modality reads, as words."""
    section = getattr(recipe, modality)
    names = section.fields if hasattr(section, "fields") else (section.latitude, section.longitude)
    return f"from {', '.join(names)}"


def _look_at_pictures(report: Report, recipe: Recipe, trial: Trial, found: Contents) -> None:
    """Open some of the pictures that the sampled rows name."""
    assert recipe.image is not None
    named, elsewhere, asked = 0, 0, list[tuple[Sampled, list[Reference]]]()
    for sampled in trial.items.sampled:
        for row in _rows(sampled, recipe):
            references = _references(row, recipe)
            near = [each for each in references if not (isinstance(each, str) and _ELSEWHERE.match(each))]
            named, elsewhere = named + bool(references), elsewhere + len(references) - len(near)
            if near and sum(len(each) for _, each in asked) < MAX_PICTURES:
                asked.append((sampled, near))
    found.items[IMAGE] = named
    refused = list[str]()
    for sampled, near in asked:
        for _, stored in Pictures(trial.lake, sampled, recipe.items).stored([(None, near)]):
            for each in stored:
                _open_picture(each, recipe, trial, found, refused)
    tried = len(found.pictures) + len(refused)
    on_web = f"; not asked for on the web or in object stores: {elsewhere:,}" if elsewhere else ""
    report.add(
        MAKES,
        IMAGE,
        f"vectors of {named:,} of {trial.items.counts.rows_in:,} sampled rows; {recipe.image.encoder}; "
        f"{len(found.pictures)} of {tried} pictures opened{on_web}",
    )
    if refused:
        report.warnings.append(f"{len(refused)} of {tried} pictures would be refused, the first as {refused[0]}")
    if not named and trial.items.counts.rows_in:
        report.warnings.append(f"no sampled row names a picture in the column {recipe.items.image!r} (items.image)")


def _rows(sampled: Sampled, recipe: Recipe) -> list[Row]:
    return [
        row
        for part in sampled.parts(recipe.items, sampled.rows)
        for row in (part if isinstance(part, list) else part.rows())
        if row.reason is None
    ]


def _references(row: Row, recipe: Recipe) -> list[Reference]:
    try:
        return pictures_of(row.values, recipe.items)
    except Refused as refused:
        return [refused]


def _open_picture(stored: str | Refused, recipe: Recipe, trial: Trial, found: Contents, refused: list[str]) -> None:
    assert recipe.image is not None
    if isinstance(stored, Refused):
        refused.append(str(stored))
        return
    try:
        image = decode_image(trial.lake.blobs.get(stored), recipe.image.max_pixels, recipe.image.formats)
    except ImageRefused as error:
        refused.append(str(error))
    else:
        found.pictures.append(image)


def look_at_given(report: Report, recipe: Recipe, trial: Trial, found: Contents, lake: Lake | None) -> None:
    """Report the width of given vectors, and what is wrong with the first of them."""
    delivered = set(trial.catalogue["item_id"])
    for name, spec in recipe.vectors.items():
        try:
            source = open_given(name, spec)
            batch = next(batch for part in source.parts for batch in part.read(PEEK_ROWS))
            rows = judge(batch, source.dim, 0).rows
        except SourceError as error:
            report.errors.append(str(error))
            continue
        of = sum(part.rows for part in source.parts)
        report.add(MAKES, f"vectors.{name}", f"{of:,} rows, width {source.dim}")
        if source.left_out:
            report.warnings.append(f"vectors.{name}: {source.warning}")
        bad = rows.filter(pl.col("reason").is_not_null())
        if bad.height:
            counts = bad["reason"].value_counts(sort=True).iter_rows()
            told = ", ".join(f"{reason} {count:,}" for reason, count in counts)
            report.warnings.append(f"vectors.{name}: of the first {rows.height:,} rows would be refused: {told}")
        ours = sum(item in delivered for item in rows["item_id"])
        found.items[name] = ours
        if trial.items.whole and delivered and not ours and not _any_stored(lake, rows["item_id"]):
            report.warnings.append(
                f"vectors.{name}: none of the first {rows.height} ids is in the catalogue; are they those of "
                f"items.item_id ({recipe.items.item_id})?"
            )


def _any_stored(lake: Lake | None, ids: pl.Series) -> bool:
    """Return whether the catalogue of a lake has one of some items."""
    if lake is None or not lake.exists("items"):
        return False
    return not catalogue(lake, columns=[], among=ids.drop_nulls()).is_empty()
