"""The arrays of a trie: built from sorted SIDs, and checked when a file is opened."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenizer.items import ItemIds
from tokenizer.layout import Array

# Children of a node with a bitmask are found in one read; it is kept where it costs at most this much.
BITMASK_BYTES_PER_CHILD = 2


def build_levels(sids: NDArray[np.int32], ids: pa.Array, sizes: tuple[int, ...]) -> dict[str, Array]:
    """Children, codes and bitmasks per level, of SIDs (N, L) in order. ValueError when a SID occurs twice."""
    first = np.zeros(len(sids), np.bool_)
    first[:1] = True
    starts = np.arange(min(1, len(sids)))
    arrays: dict[str, Array] = {}
    for level, size in enumerate(sizes):
        first[1:] |= sids[1:, level] != sids[:-1, level]
        former, starts = starts, np.flatnonzero(first)
        codes = sids[starts, level].astype(np.min_scalar_type(size - 1))
        children = np.searchsorted(starts, np.append(former, len(sids))) if len(sids) else np.zeros(2, np.int64)
        arrays[f"codes{level}"] = codes
        arrays[f"children{level}"] = children.astype(np.uint32)
        if len(former) * -(-size // 8) <= BITMASK_BYTES_PER_CHILD * len(codes):
            arrays[f"bits{level}"] = _bitmasks(codes, children, size)
    if len(starts) < len(sids):
        row = int(np.flatnonzero(~first)[0])
        raise ValueError(
            f"SID {tuple(sids[row].tolist())} belongs to both {ids[row - 1].as_py()!r} and {ids[row].as_py()!r}; "
            "resolve collisions before building a trie"
        )
    return arrays


def _bitmasks(codes: Array, children: NDArray[Any], size: int) -> NDArray[np.uint8]:
    """One bit per code and node, little end first, uint8 (nodes, ceil(size / 8))."""
    nodes = len(children) - 1
    bits = np.zeros((nodes, -(-size // 8)), np.uint8)
    parent = np.repeat(np.arange(nodes), np.diff(children))
    np.bitwise_or.at(bits, (parent, codes >> 3), np.uint8(1) << (codes & 7).astype(np.uint8))
    return bits


def id_array(item_ids: ItemIds) -> pa.Array:
    """The ids as one Arrow array of strings, copied only where they are not one already."""
    if isinstance(item_ids, pa.ChunkedArray):
        return item_ids.cast(pa.large_string()).combine_chunks()
    if not isinstance(item_ids, pa.Array):
        return pa.array(item_ids, pa.large_string())
    is_text = item_ids.type in (pa.string(), pa.large_string())
    return item_ids if is_text else item_ids.cast(pa.large_string())


def id_text(ids: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The UTF-8 bytes of a string array one after the other, and where each id starts (N + 1)."""
    if ids.null_count:
        raise ValueError(f"{ids.null_count} of {len(ids)} item ids are null; give every SID an item")
    if not len(ids):
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    _, offsets, text = ids.buffers()
    kind = np.int64 if ids.type == pa.large_string() else np.int32
    at = np.frombuffer(offsets, kind)[ids.offset : ids.offset + len(ids) + 1].astype(np.int64)
    return np.frombuffer(text or b"", np.uint8)[at[0] : at[-1]], at - at[0]


def check_structure(arrays: Mapping[str, Array], sizes: tuple[int, ...]) -> None:
    """Raise ValueError or KeyError unless the arrays fit together as levels, items and index of one trie."""
    items, nodes = len(arrays["id_offsets"]) - 1, 1
    for level, size in enumerate(sizes):
        codes, children = arrays[f"codes{level}"], arrays[f"children{level}"]
        if len(children) != nodes + 1 or int(children[0]) != 0 or int(children[-1]) != len(codes):
            raise ValueError(f"level {level} has {len(children)} child offsets for {nodes} nodes, {len(codes)} codes")
        bits = arrays.get(f"bits{level}")
        if bits is not None and bits.shape != (nodes, -(-size // 8)):
            raise ValueError(f"the bitmasks of level {level} have shape {bits.shape} for {nodes} nodes of {size} codes")
        nodes = len(codes)
    ends = int(arrays["id_offsets"][-1])
    if nodes != items or len(arrays["id_order"]) != items or ends != len(arrays["id_text"]):
        raise ValueError(f"{nodes} SIDs, {items} items, {len(arrays['id_order'])} in the index, text ends at {ends}")
