"""The arrays of a trie, built from sorted keys and checked when a file is opened. See docs/trie.md."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenizer.arrays.id_index import bucket_bits
from tokenizer.arrays.ragged import Ragged
from tokenizer.arrays.sid_keys import key_codes
from tokenizer.arrays.types import Array

Texts = tuple[NDArray[np.uint8], Array]
"""Concatenated UTF-8 bytes, and the start of each string and the end of the last: int32 or int64 (N + 1,)."""


def build_levels(keys: NDArray[Any], sizes: tuple[int, ...]) -> dict[str, Array]:
    """Return codes of the nodes and fan-out of their parents per level, from distinct sorted keys (N,)."""
    first = np.zeros(len(keys), np.bool_)
    first[:1] = True
    starts = np.zeros(1, np.int64)
    arrays: dict[str, Array] = {}
    for level, codes in enumerate(key_codes(keys, sizes)):
        first[1:] |= codes[1:] != codes[:-1]
        parents, starts = starts[: len(keys) or None], np.flatnonzero(first)
        arrays[f"codes{level}"] = codes[starts]
        node_of_row = np.cumsum(first, dtype=np.int32)
        ragged = Ragged.of(np.append(node_of_row[parents] - 1 if len(keys) else [0] * (level == 0), len(starts)))
        arrays |= {f"fanout{level}": ragged.lengths, f"blocks{level}": ragged.blocks}
    return arrays


def check_distinct(keys: NDArray[Any], ids: pa.Array, sizes: tuple[int, ...]) -> None:
    """Raise ValueError naming both items when two of the sorted keys (N,) are equal."""
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if len(twice):
        row = int(twice[0])
        sid = tuple(int(codes[0]) for codes in key_codes(keys[row : row + 1], sizes))
        raise ValueError(
            f"SID {sid} belongs to both {ids[row].as_py()!r} and {ids[row + 1].as_py()!r}; "
            "resolve collisions before building a trie"
        )


def text_array(text: NDArray[np.uint8], offsets: Array) -> pa.Array:
    """Return a string array (N,) over UTF-8 bytes and offsets, int32 or int64 (N + 1,), without a copy."""
    kind = pa.large_string() if offsets.dtype == np.int64 else pa.string()
    return pa.Array.from_buffers(kind, len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(text)])


def check_structure(arrays: Mapping[str, Array], sizes: Sequence[int]) -> None:
    """Raise ValueError or KeyError unless the arrays fit together as levels, items and index of one trie."""
    nodes = 1
    for level in range(len(sizes)):
        codes = arrays[f"codes{level}"]
        Ragged(arrays[f"fanout{level}"], arrays[f"blocks{level}"]).check(nodes, len(codes), f"level {level}")
        nodes = len(codes)
    Ragged(arrays["id_lengths"], arrays["id_blocks"]).check(nodes, len(arrays["id_text"]), "item ids")
    order, buckets = arrays["id_order"], arrays["id_buckets"]
    if len(order) != nodes or len(buckets) != (1 << bucket_bits(nodes)) + 1 or int(buckets[-1]) != nodes:
        raise ValueError(f"{nodes} SIDs do not fit an index of {len(order)} items with {len(buckets)} buckets")
