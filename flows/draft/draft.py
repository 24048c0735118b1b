"""Draft of a recipe: looks at a catalogue and a log, and proposes every section with the reasons."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from flows.draft.shape import LEVELS, codes_for
from flows.draft.toml import Entry, TomlSection, comment
from flows.recipe import Recipe, parse_recipe
from infra.addresses import without_secrets
from pipelines.modalities import MADE_HERE
from pipelines.profile.column import Column, columns_of
from pipelines.profile.content import Content, contents_of
from pipelines.profile.mapping import Mapping, map_interactions, map_items
from pipelines.profile.presets import Preset, SectionName, recognised
from pipelines.profile.sample import Sample, sample, sample_with_quotes
from pipelines.sources.column_names import seems_to_lack_header, told_header
from pipelines.sources.row import SourceError
from pipelines.sources.source_spec import CsvSpec, InteractionsSpec, ItemsSpec
from tokenizer.codebook import check_capacity

SHOWN_IDS = frozenset({"impression", "impressions", "show", "shown", "exposure", "expose", "display"})
"""Event types that say that an item was shown and not taken."""
TEXTS = frozenset({".csv", ".tsv"})
"""Suffixes of texts whose first line is the header."""
_UNMAPPED = "PUT_A_COLUMN_HERE"


@dataclass(frozen=True)
class Draft:
    """A recipe as text. `lacking` names what has to be filled in before a run, `notes` are for the reader."""

    text: str
    preset: str
    items: Sample
    interactions: Sample | None
    lacking: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass
class _Data:
    """A sample with its columns, their proposed mapping, and the preset that it looks like."""

    sample: Sample
    columns: dict[str, Column]
    mapping: Mapping
    preset: Preset | None
    csv: dict[str, Any] = field(default_factory=dict)

    @property
    def meant(self) -> list[str]:
        """Columns that are proposed for a field."""
        return [choice.column for choice in self.mapping.choices.values() if choice.column]


def draft_recipe(items: list[str], interactions: list[str]) -> Draft:
    """Look at samples of the sources and propose a recipe; raise SourceError for one that cannot be read."""
    catalogue = _looked_at("items", items)
    known = set(catalogue.columns[column].ids) if (column := catalogue.mapping.column("item_id")) else set()
    log = _looked_at("interactions", interactions, catalogue.mapping, known) if interactions else None
    content = contents_of(catalogue.sample, catalogue.columns, catalogue.mapping)
    count = catalogue.sample.count
    lacking = [f"items.{name}: {why}" for name, why in catalogue.mapping.lacking.items()]
    lacking += [f"interactions.{name}: {why}" for name, why in (log.mapping.lacking if log else {}).items()]
    notes = list[str]()
    if column and len(set(catalogue.columns[column].ids)) < len(catalogue.columns[column].ids):
        again = len(catalogue.columns[column].ids) - len(catalogue.columns[column].kinds)
        notes.append(
            f"{again:,} rows of the catalogue's sample repeat an id in {column}: of one file the first row of an item "
            "counts and the others are refused. Make the catalogue one row an item"
        )
        notes += catalogue.preset.notes if catalogue.preset else ()
    if content.unread_vectors:
        notes.append(
            f"{', '.join(name for _, name in content.unread_vectors)}: vectors, as it seems, which are left out: given "
            "vectors are read from Parquet, a Delta table or a .npy matrix. Write them so, with the ids of the items, "
            "and complete [vectors] of the recipe, which is commented out"
        )
    if not (content.text or content.pictures or content.attributes or content.vectors or content.coordinates or log):
        lacking.append(
            "text.fields: no column holds text, pictures, shared values or readable vectors, and there is no log"
        )
    for data in filter(None, (catalogue, log)):
        if data.sample.unreadable:
            notes.append(f"{data.sample} of {_names(data)}, the first because: {data.sample.why}")
        if data.sample.formats <= TEXTS and seems_to_lack_header(data.sample.columns, data.meant):
            notes.append(told_header(_names(data), data.sample.columns))
    sections = [*_data_sections(catalogue, log, content), *_content_sections(catalogue, content), *_log_sections(log)]
    sections.append(_codebook(count.rows if count else None, str(count)))
    text = "\n".join([*_header(catalogue, log, lacking), *("\n" + each.render() for each in sections), ""])
    recipe = parse_recipe(tomllib.loads(text), "the draft")
    if count and count.rows:
        check_capacity(recipe.codebook, count.rows)
    name = catalogue.preset.name if catalogue.preset else log.preset.name if log and log.preset else ""
    return Draft(text, name, catalogue.sample, log.sample if log else None, tuple(lacking), tuple(notes))


def _names(data: _Data) -> str:
    return ", ".join(map(without_secrets, data.sample.uris))


def _looked_at(
    section: SectionName, uris: list[str], items: Mapping | None = None, known: set[str] | None = None
) -> _Data:
    found = sample_with_quotes(uris, section)
    preset = recognised(section, found.columns)
    csv: dict[str, Any] = dict(found.csv)
    if preset and (declared := preset.section(section).settings.get("csv")) and not found.csv:
        csv, found = declared, sample(uris, section, CsvSpec(**declared))
    if not found.rows:
        why = f" ({found.unreadable:,} are refused, the first because: {found.why})" if found.unreadable else ""
        raise SourceError(f"{', '.join(map(without_secrets, uris))}: no row can be read{why}. Nothing can be proposed.")
    columns = columns_of(found.rows, found.columns)
    if section == "items":
        mapping = map_items(found, columns)
    else:
        mapping = map_interactions(found, columns, items or Mapping(), known or set())
    return _Data(found, columns, mapping, preset, csv)


def _header(catalogue: _Data, log: _Data | None, lacking: list[str]) -> Iterator[str]:
    yield from comment("Drafted by `sidmill recipe init` from a sample. Every line says why it is proposed.")
    for title, data in (("items", catalogue), ("interactions", log)):
        if data is not None:
            names = ", ".join(without_secrets(each).rsplit("/", 1)[-1] for each in data.sample.uris)
            known = f"; the columns are those of {data.preset.about}" if data.preset else ""
            yield from comment(f"  {title}: {data.sample} of {names}{known}")
    yield from comment("docs/recipes.md has all fields. `sidmill recipe check` says what a run would do.")
    if lacking:
        yield from comment("\nTO DO before a run:")
        for each in lacking:
            yield from comment(f"  {each}")


def _data_sections(catalogue: _Data, log: _Data | None, content: Content) -> Iterator[TomlSection]:
    vectors = [column for _, column, _ in content.vectors] + [column for _, column in content.unread_vectors]
    left_out = (Entry("leave_out", vectors, "vectors, which would become attributes as texts"),) if vectors else ()
    yield TomlSection("items", (*_mapped("items", catalogue), *left_out))
    if log is not None:
        yield TomlSection("interactions", tuple(_mapped("interactions", log)))


def _mapped(section: SectionName, data: _Data) -> Iterator[Entry]:
    """Yield the fields of a section: columns, then settings of the preset and of the format."""
    spec: Any = ItemsSpec() if section == "items" else InteractionsSpec()
    settings = dict(data.preset.section(section).settings) if data.preset else {}
    settings.pop("csv", None)
    for name in sorted(data.mapping.choices, key=list(type(spec).model_fields).index):
        choice = data.mapping.choices[name]
        settings.pop(name, None)
        yield Entry(name, choice.column, choice.why)
    for name, why in data.mapping.lacking.items():
        yield Entry(name, _UNMAPPED, f"TO DO: {why}")
    if section == "items":
        yield from _title_settings(data, settings)
    else:
        yield from _time_settings(data, settings)
    for name, value in settings.items():
        if value != getattr(spec, name):
            yield Entry(name, value, f"by the preset {data.preset.name}" if data.preset else "")
    if data.csv:
        by = "by its first lines" if data.sample.csv or not data.preset else f"by the preset {data.preset.name}"
        yield Entry("csv", data.csv, f"how the file is written, {by}")


def _title_settings(data: _Data, settings: dict[str, Any]) -> Iterator[Entry]:
    title = data.columns.get(data.mapping.column("title"))
    untitled = len(title.cells) - len(title.texts) if title else 0
    if title is None:
        settings.pop("require_title", None)
        yield Entry("require_title", False, "no column holds titles")
    elif untitled:
        settings.pop("require_title", None)
        yield Entry("require_title", False, title.of(untitled, "have none, and would be refused with true"))


def _time_settings(data: _Data, settings: dict[str, Any]) -> Iterator[Entry]:
    mapping = data.mapping
    if mapping.unit is not None:
        yield Entry("time_unit", mapping.unit, "times are numbers since 1970; the unit by their size")
    if mapping.days_only and not mapping.column("event_id") and settings.get("repeats") is None:
        yield Entry("repeats", "keep", "times are days, so two equal rows may be two events")


def _content_sections(catalogue: _Data, content: Content) -> Iterator[TomlSection]:
    if content.text:
        told = "\n".join(f"  {each.column}: {each.why}" for each in content.text)
        fields = Entry("fields", [each.column for each in content.text])
        yield TomlSection("text", (fields,), f"What the encoder reads, in this order; long texts last.\n{told}")
    if content.pictures or content.web_pictures:
        yield _image_section(content)
    if content.attributes:
        told = "\n".join(f"  {each.column}: {each.why}" for each in content.attributes)
        fields = Entry("fields", [each.column for each in content.attributes])
        yield TomlSection(
            "attributes", (fields,), f"No column holds text, so shared values stand for the items.\n{told}"
        )
    if content.coordinates:
        latitude, longitude = content.coordinates
        degrees = Entry("latitude", latitude), Entry("longitude", longitude)
        yield TomlSection("coordinates", degrees, "All sampled rows that have a value have degrees.")
    taken = set(MADE_HERE)
    for name, column, width in content.vectors:
        name = f"{name}_given" if name in taken else name
        taken.add(name)
        path = re.sub(r"(@v\d+)?(\+all)?$", "", catalogue.sample.uris[0])
        entries = (
            Entry("path", path),
            Entry("id_column", catalogue.mapping.column("item_id") or _UNMAPPED),
            Entry("column", column, f"lists of {width} numbers"),
        )
        yield TomlSection(f"vectors.{name}", entries, "Vectors that the catalogue holds.")
    for name, column in content.unread_vectors:
        name = f"{name}_given" if name in taken else name
        taken.add(name)
        entries = (
            Entry("path", f"{name}.parquet"),
            Entry("id_column", catalogue.mapping.column("item_id") or _UNMAPPED),
            Entry("column", column),
        )
        told = "The catalogue seems to hold vectors, in a form from which they are not read. Write them to Parquet as "
        told += "lists of numbers, with the ids of their items, name the file here, and remove the #."
        yield TomlSection(f"vectors.{name}", entries, told, active=False)


def _image_section(content: Content) -> TomlSection:
    if content.pictures:
        return TomlSection("image", (), f"The sample names {content.pictures:,} pictures as paths or bytes.")
    return TomlSection(
        "image",
        (),
        f"The sample names {content.web_pictures:,} pictures on the web. With this section a run fetches all of them; "
        "remove the # to have them.",
        active=False,
    )


def _log_sections(log: _Data | None) -> Iterator[TomlSection]:
    if log is None:
        return
    sections = {name: dict(fields) for name, fields in (log.preset.sections if log.preset else {}).items()}
    types = log.columns.get(log.mapping.column("event_type"))
    shown = sorted(kind for kind in types.kinds if kind.casefold() in SHOWN_IDS) if types else []
    if shown:
        sections.setdefault("collaborative", {}).setdefault("exclude_events", shown)
        sections.setdefault("train", {}).setdefault("negative_events", shown)
    why = "events of these types say that an item was shown, not that it was taken"
    told = "What users did becomes vectors too."
    yield TomlSection(
        "collaborative", tuple(Entry(*each, why) for each in sections.pop("collaborative", {}).items()), told
    )
    for name, fields in sections.items():
        yield TomlSection(name, tuple(Entry(*each, why) for each in fields.items()))


def _codebook(items: int | None, told: str) -> TomlSection:
    if items is None:
        codes, why = 256, "The number of items is unknown before they are read; 256 codes a level suit 60,000."
    else:
        codes = codes_for(items)
        planned = int(Recipe().codebook.growth * items)
        why = (
            f"Codes a level: about the square root of {told} items. {LEVELS} levels of {codes} hold "
            f"{codes**LEVELS:,} SIDs, and {planned:,} items are planned for (codebook.growth = 2)."
        )
    return TomlSection("codebook", (Entry("levels", [{"codes": codes}] * LEVELS),), why)
