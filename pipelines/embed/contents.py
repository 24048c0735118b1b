"""Content of items that encoders take: their text, or values of their attributes, with a hash of it."""

import json
from collections.abc import Callable
from typing import Any

import polars as pl

from storage.files.store import sha256
from storage.hashing.content_hash import content_hashes


def items_text(frame: pl.DataFrame, fields: tuple[str, ...]) -> pl.DataFrame:
    """Add `text`, the non-empty title and attributes named by `fields`, joined by ". ", and its hash.

    The values of a list are joined by ", ".
    """
    texts = []
    for title, attributes in frame.select("title", "attributes").iter_rows():
        known = {**json.loads(attributes), "title": title}
        texts.append(". ".join(_joined(known[name]) for name in fields if known.get(name)))
    text = pl.Series("text", texts, dtype=pl.String)
    return frame.with_columns(text, content_hashes(text))


def items_pictures(frame: pl.DataFrame) -> pl.DataFrame:
    """Return items with pictures. The content hash is the hash of one picture, or of several hashes in order."""
    some = frame.filter(pl.col("images").list.len() > 0)
    hashes = [each[0] if len(each) == 1 else sha256("".join(each).encode()) for each in some["images"]]
    return some.with_columns(pl.Series("content_hash", hashes, dtype=pl.String))


def _joined(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def items_content(frame: pl.DataFrame, read: Callable[[dict[str, Any]], str | None]) -> pl.DataFrame:
    """Add `content`, the result of `read` on an item's attributes, and its hash; drop items where it is None."""
    contents = [read(json.loads(attributes)) for attributes in frame["attributes"]]
    content = pl.Series("content", contents, dtype=pl.String)
    return frame.with_columns(content, content_hashes(content)).filter(pl.col("content").is_not_null())
