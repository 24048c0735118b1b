"""Footers of Parquet files, by whose hash a file is known before its pages are read."""

import hashlib

import pyarrow as pa

from storage.files.store import Files

TAIL = 1 << 15
"""Bytes read from the end of a file for its footer; a longer footer is read in a second step."""


def footer_size(end: bytes | pa.Buffer) -> int:
    """Return the bytes of the footer, including its length and the magic number, from the last 8 bytes of a file."""
    return int.from_bytes(bytes(end)[:4], "little") + 8


def footer_of(data: bytes | pa.Buffer) -> bytes | pa.Buffer:
    """Return the footer of a file, from all of its bytes or its last ones."""
    return data[-footer_size(data[-8:]) :]


def footer_hash(footer: bytes | pa.Buffer) -> str:
    return hashlib.blake2b(footer, digest_size=8).hexdigest()


def stored_footer_hash(files: Files, name: str, size: int) -> str:
    """Return the hash of the footer of a file of `size` bytes; raise FileNotFoundError."""
    tail = files.tail(name, TAIL)
    wanted = footer_size(tail[-8:])
    return footer_hash(footer_of(files.tail(name, wanted) if len(tail) < wanted <= size else tail))
