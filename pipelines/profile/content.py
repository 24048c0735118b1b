"""Proposes what to embed: text, images, attributes, coordinates, given vectors."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.profile.column import Column
from pipelines.profile.mapping import Choice, Mapping, bare
from pipelines.profile.presets import column_names, recognised
from pipelines.profile.sample import Sample
from pipelines.sources.tables import delta

MAX_FIELDS = 8
"""Fields of a text, at most."""
MIN_FILLED = 0.05
"""Smallest share of items that must fill a field."""


@dataclass(frozen=True)
class Content:
    """Proposed contents; `pictures` and `web_pictures` count those that the sample names.

    `vectors` maps a name to a column of vectors and their width. `unread_vectors` are such columns in data from which
    given vectors are not read, with the name of a section for them.
    """

    text: tuple[Choice, ...] = ()
    attributes: tuple[Choice, ...] = ()
    coordinates: tuple[str, str] | None = None
    vectors: tuple[tuple[str, str, int], ...] = ()
    unread_vectors: tuple[tuple[str, str], ...] = ()
    pictures: int = 0
    web_pictures: int = 0


def contents_of(sample: Sample, columns: dict[str, Column], mapping: Mapping) -> Content:
    """Propose contents for the items of a catalogue."""
    used = {mapping.column(name) for name in ("item_id", "title", "image", "deleted")}
    free = {name: column for name, column in columns.items() if name not in used}
    preset = recognised("items", sample.columns)
    title = columns.get(mapping.column("title"))
    text = _text_fields(free, title, preset.items.text if preset else ())
    attributes = [] if text else _attributes(free, preset.items.attributes if preset else ())
    image = columns.get(mapping.column("image"))
    named = image.pictures if image else []
    web = sum(isinstance(each, str) and "://" in each for each in named)
    vectors = _vectors(free, sample)
    readable = {column for _, column, _ in vectors}
    unread = tuple(
        (_section_name(name), name) for name, each in free.items() if _is_vector(each) and name not in readable
    )
    return Content(tuple(text), tuple(attributes), _coordinates(free), vectors, unread, len(named) - web, web)


def _is_vector(column: Column) -> bool:
    return column.width is not None or column.is_written_vector


def _section_name(column: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", column).strip("_-") or "given"


def _text_fields(free: dict[str, Column], title: Column | None, preset: Sequence[str]) -> list[Choice]:
    """Return the title, then short texts, then long ones, the most telling first.

    An encoder cuts off what is beyond its limit, so a long text comes last.
    """
    if preset:
        found = [free[name] for name in preset if name in free and has_several_values(free[name])]
    else:
        texts = [each for each in free.values() if each.is_text and each.share(len(each.texts)) >= MIN_FILLED]
        found = sorted(texts, key=lambda each: (each.is_long, -each.usefulness))[: MAX_FIELDS - 1]
    chosen = [Choice("title", _text_evidence(title))] if title is not None else []
    return [*chosen, *(Choice(each.name, _text_evidence(each)) for each in found)]


def has_several_values(column: Column) -> bool:
    """Return True if the items have at least two different texts."""
    return len(set(column.texts)) > 1


def _text_evidence(column: Column) -> str:
    return column.of(len(column.texts), f"have a text, {len(set(column.texts)):,} different")


def _attributes(free: dict[str, Column], preset: Sequence[str]) -> list[Choice]:
    """Return columns whose values many items share."""
    if preset:
        found = [free[name] for name in preset if name in free and has_several_values(free[name])]
    else:
        found = [each for each in free.values() if 1 < len(each.kinds) <= len(each.ids) / 2 and not _is_vector(each)]
        found = sorted(found, key=lambda each: -each.usefulness)[:MAX_FIELDS]
    return [
        Choice(each.name, each.of(len(each.texts), f"have a value, {len(each.kinds):,} different")) for each in found
    ]


def _coordinates(free: dict[str, Column]) -> tuple[str, str] | None:
    """Return the columns of latitude and longitude."""
    names = column_names()["items"]
    found = []
    for field, most in (("latitude", 90.0), ("longitude", 180.0)):
        wanted = {bare(name) for name in names[field]}
        for column in free.values():
            if bare(column.name) in wanted and _within(column, most):
                found.append(column.name)
                break
    return (found[0], found[1]) if len(found) == 2 else None


def _within(column: Column, most: float) -> bool:
    if not column.filled or column.numbers < len(column.filled):
        return False
    return all(abs(float(cell)) <= most for cell in column.filled)


def _vectors(free: dict[str, Column], sample: Sample) -> tuple[tuple[str, str, int], ...]:
    """Return a name, the column and the width for each column of vectors in one place with Parquet files or a table.

    Given vectors are not read from other formats.
    """
    if sample.formats - {".parquet", delta.KIND} or len(sample.uris) != 1:
        return ()
    return tuple((_section_name(name), name, column.width) for name, column in free.items() if column.width)
