"""Content of items that encoders take: their text, pictures, or values of their attributes, with a hash of it.

Attributes are JSON, which Python reads item by item. Workers read the parts of a catalogue of several: the process of a
run gets hashes of contents, and never the contents.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from pipelines.embed.item_rows import CataloguePart, ItemRows, Numbers
from storage.files.store import sha256
from storage.hashing.content_hash import content_hashes
from storage.hashing.packed import packed_if_all
from tokenizer.arrays.executor import Executor
from tokenizer.arrays.vectors import NOTHING, Items

Make = Callable[[pl.DataFrame], pl.DataFrame]
"""Adds content_hash, and what a stage reads, to rows of the catalogue; leaves out those without such content."""


def items_text(frame: pl.DataFrame, fields: tuple[str, ...]) -> pl.DataFrame:
    """Add `text`, the non-empty title and attributes named by `fields`, joined by ". ", and its hash.

    The values of a list are joined by ", ".
    """
    texts = []
    for title, attributes in frame.select("title", "attributes").iter_rows():
        known = {**json.loads(attributes), "title": title}
        texts.append(". ".join(_joined(known[name]) for name in fields if known.get(name)))
    return _with_hash(frame, pl.Series("text", texts, dtype=pl.String))


def items_pictures(frame: pl.DataFrame) -> pl.DataFrame:
    """Return items with pictures. The content hash is the hash of one picture, or of several hashes in order."""
    some = frame.filter(pl.col("images").list.len() > 0)
    several = some["images"].filter(some["images"].list.len() > 1)
    hashes = pl.Series([sha256("".join(each).encode()) for each in several], dtype=pl.String)
    places = (some["images"].list.len() > 1).arg_true()
    return some.with_columns(some["images"].list.first().scatter(places, hashes).alias("content_hash"))


def items_content(frame: pl.DataFrame, read: Callable[[dict[str, Any]], str | None]) -> pl.DataFrame:
    """Add `content`, the result of `read` on an item's attributes, and its hash; drop items where it is None."""
    found = pl.Series("content", [read(json.loads(each)) for each in frame["attributes"]], dtype=pl.String)
    return _with_hash(frame, found).filter(pl.col("content").is_not_null())


def _with_hash(frame: pl.DataFrame, made: pl.Series) -> pl.DataFrame:
    return frame.with_columns(made, content_hashes(made))


def _joined(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


@dataclass(frozen=True)
class PartContents:
    """Rows with a content of one modality, and their numbers in `ItemContents.pairs`, int32 (n,)."""

    rows: ItemRows
    places: Numbers


@dataclass(frozen=True)
class ItemContents:
    """Items with a content of one modality: `pairs` (item_id, content_hash), by item_id, and where their rows lie."""

    pairs: pl.DataFrame
    parts: tuple[PartContents, ...]


@dataclass(frozen=True)
class ContentKind:
    """One kind of content. If stages take some first, `order` sorts contents so, else None."""

    make: Make
    order: pl.Expr | None = None


@dataclass(frozen=True)
class _Found:
    """Of a part, the rows that have a content of one kind, int32 (n,), in the order of encoding, and its hashes."""

    rows: Numbers
    hashes: pl.Series


def contents_of(
    items: pl.Series,
    parts: Sequence[CataloguePart],
    kinds: Mapping[str, ContentKind],
    work: Executor,
    *,
    names: bool = False,
    advance: Callable[[int], None] = lambda rows: None,
) -> tuple[dict[str, ItemContents], set[str]]:
    """Return the contents of all items (their ids, in order) by kind, and, with `names`, those of their attributes.

    Rows that are here come in the order of encoding, those of files as they lie. `advance` gets numbers of rows.
    """
    found: dict[str, list[_Found]] = {name: [] for name in kinds}
    known = set[str]()
    answers = work.map(partial(_found, dict(kinds), names), NOTHING, ((part.rows,) for part in parts))
    for part, (made, seen) in zip(parts, answers, strict=True):
        for name, each in made.items():
            found[name].append(each)
        known |= seen
        advance(len(part.rows))
    return {name: _contents(items, parts, each) for name, each in found.items()}, known


def _found(kinds: dict[str, ContentKind], names: bool, _: Items, rows: ItemRows) -> tuple[dict[str, _Found], set[str]]:
    frame = rows.read()
    numbered = frame.with_columns(row=pl.int_range(frame.height, dtype=pl.Int32))
    found = {}
    for name, kind in kinds.items():
        made = kind.make(numbered)
        if rows.in_any_order and kind.order is not None:
            made = made.sort(kind.order, descending=True, maintain_order=True)
        found[name] = _Found(made["row"].to_numpy(), packed_if_all(made["content_hash"]))
    return found, attribute_names(frame) if names else set()


def attribute_names(frame: pl.DataFrame) -> set[str]:
    """Return the names of the attributes that rows of the catalogue have."""
    return {name for attributes in frame["attributes"].unique() for name in json.loads(attributes)}


def _contents(items: pl.Series, parts: Sequence[CataloguePart], found: Sequence[_Found]) -> ItemContents:
    """Put together what was found in each part."""
    places = [part.places[each.rows] for part, each in zip(parts, found, strict=True)]
    every = np.concatenate(places)
    has = np.zeros(len(items), np.bool_)
    has[every] = True
    hashes = pl.concat([each.hashes for each in found if len(each.hashes)] or [pl.Series(dtype=pl.String)])
    ids = items if has.all() else items.filter(pl.Series(has))
    pairs = pl.DataFrame([ids.alias("item_id"), hashes[np.argsort(every)].alias("content_hash")])
    number = np.cumsum(has, dtype=np.int32) - np.int32(1)
    rows = (part.rows.take(each.rows) for part, each in zip(parts, found, strict=True))
    return ItemContents(pairs, tuple(PartContents(*each) for each in zip(rows, map(number.take, places), strict=True)))
