"""Content of items that encoders take: their text, or values of their attributes, with a hash of it.

Attributes are JSON, which Python reads item by item. Parts of a catalogue are read by workers if there are several:
this process holds Arrow arrays of all items, and the Python objects of one part.
"""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import polars as pl

from storage.files.store import sha256
from storage.hashing.content_hash import content_hashes
from tokenizer.arrays.executor import Executor, Threads
from tokenizer.arrays.vectors import NOTHING, Items

PART_ROWS = 1 << 16
"""Items whose content is made at a time."""
ONE_THREAD = Threads(1)


def items_text(frame: pl.DataFrame, fields: tuple[str, ...], work: Executor = ONE_THREAD) -> pl.DataFrame:
    """Add `text`, the non-empty title and attributes named by `fields`, joined by ". ", and its hash.

    The values of a list are joined by ", ".
    """
    return frame.with_columns(_by_parts(partial(_texts, fields), frame.select("title", "attributes"), work))


def items_pictures(frame: pl.DataFrame) -> pl.DataFrame:
    """Return items with pictures. The content hash is the hash of one picture, or of several hashes in order."""
    some = frame.filter(pl.col("images").list.len() > 0)
    several = some["images"].filter(some["images"].list.len() > 1)
    hashes = pl.Series([sha256("".join(each).encode()) for each in several], dtype=pl.String)
    places = (some["images"].list.len() > 1).arg_true()
    return some.with_columns(some["images"].list.first().scatter(places, hashes).alias("content_hash"))


def items_content(
    frame: pl.DataFrame, read: Callable[[dict[str, Any]], str | None], work: Executor = ONE_THREAD
) -> pl.DataFrame:
    """Add `content`, the result of `read` on an item's attributes, and its hash; drop items where it is None."""
    found = _by_parts(partial(_contents, read), frame.select("attributes"), work)
    return frame.with_columns(found).filter(pl.col("content").is_not_null())


def _by_parts(make: Callable[[pl.DataFrame], pl.Series], frame: pl.DataFrame, work: Executor) -> list[pl.Series]:
    """Return what `make` makes of a frame, and its content hashes."""
    parts = ((part,) for part in frame.iter_slices(PART_ROWS))
    made = list(work.map(partial(_hashed, make), NOTHING, parts)) or [_hashed(make, NOTHING, frame)]
    return pl.concat(made, rechunk=True).get_columns()


def _hashed(make: Callable[[pl.DataFrame], pl.Series], _: Items, part: pl.DataFrame) -> pl.DataFrame:
    made = make(part)
    return pl.DataFrame([made, content_hashes(made)])


def _texts(fields: tuple[str, ...], part: pl.DataFrame) -> pl.Series:
    texts = []
    for title, attributes in part.iter_rows():
        known = {**json.loads(attributes), "title": title}
        texts.append(". ".join(_joined(known[name]) for name in fields if known.get(name)))
    return pl.Series("text", texts, dtype=pl.String)


def _contents(read: Callable[[dict[str, Any]], str | None], part: pl.DataFrame) -> pl.Series:
    return pl.Series("content", [read(json.loads(each)) for each in part["attributes"]], dtype=pl.String)


def _joined(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)
