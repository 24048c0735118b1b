"""Hashes of contents: 16 bytes of BLAKE2b, in hexadecimal digits."""

import hashlib
from collections.abc import Iterable

import polars as pl


def content_hashes(contents: Iterable[bytes | memoryview | None]) -> pl.Series:
    """Return the hash of each content; null for None."""
    fresh = hashlib.blake2b(digest_size=16).copy  # a copy takes half the time of a new one
    digests: list[bytes | None] = []
    for content in contents:
        if content is None:
            digests.append(None)
            continue
        hashed = fresh()
        hashed.update(content)
        digests.append(hashed.digest())
    return pl.Series("content_hash", digests, dtype=pl.Binary).bin.encode("hex")
