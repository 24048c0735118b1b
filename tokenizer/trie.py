"""The valid SIDs as flat arrays: what may follow a prefix, which item a SID is, where an item is.

CSR levels over the sorted SIDs. Node n of level l has the children `children{l}[n]` to `children{l}[n + 1]`,
which are nodes of level l + 1; `codes{l}` are their codes. The root is node 0 of level 0, and the nodes after
the last level are the rows of the items. A level where a bitmask per node takes little more than its codes
has one too: with 2,560 beams and 256 codes, gathering children took 17.5 ms and the softmax next to it 1.1
ms.
"""

import hashlib
import json
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenizer.errors import TrieCorrupt
from tokenizer.id_index import find_id, order_ids
from tokenizer.items import ItemIds
from tokenizer.layout import Array, pack, unpack
from tokenizer.sid_keys import check_codes, sid_order
from tokenizer.trie_arrays import build_levels, check_structure, id_array, id_text

FORMAT = "sidmill-trie-1"


@dataclass(frozen=True, eq=False)
class Trie:
    """Sorted SIDs and their items; immutable, and one memory map when opened from a file."""

    sizes: tuple[int, ...]
    arrays: Mapping[str, Array]

    @classmethod
    def build(cls, codes: NDArray[Any], item_ids: ItemIds, sizes: Sequence[int]) -> "Trie":
        """Index the SIDs (N, L) of `item_ids`; the same bytes whatever the order of the rows.

        Raises ValueError for a SID or an item that occurs twice, and for codes out of range.
        """
        sizes = tuple(int(size) for size in sizes)
        sids = check_codes(codes, sizes, "SIDs")
        ids = id_array(item_ids)
        if len(ids) != len(sids):
            raise ValueError(f"{len(sids)} SIDs for {len(ids)} item ids; pass one id per SID")
        order = sid_order(sids, sizes)
        sids, ids = sids[order], ids.take(pa.array(order))
        arrays = build_levels(sids, ids, sizes)
        text, offsets = id_text(ids)
        arrays |= {"id_text": text, "id_offsets": offsets, "id_order": order_ids(text, offsets)}
        return cls(sizes, arrays)

    @classmethod
    def open(cls, path: str | Path) -> "Trie":
        """Map a file that `write` made; milliseconds, for only its structure is checked. See `verify` for its
        content.

        Raises TrieCorrupt when it is truncated or malformed.
        """
        try:
            with Path(path).open("rb") as file:
                metadata, arrays = unpack(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            sizes = tuple(int(size) for size in json.loads(metadata["sizes"]))
            if metadata["format"] != FORMAT:
                raise ValueError(f"its format is {metadata['format']!r}, not {FORMAT!r}")
            check_structure(arrays, sizes)
        except (ValueError, KeyError, TypeError) as error:
            raise TrieCorrupt(f"trie {path}: {error!r}; export it again from its release") from error
        return cls(sizes, arrays)

    @staticmethod
    def verify(path: str | Path, sha256: str) -> None:
        """Raise TrieCorrupt unless the file has this sha256. Reads all of it."""
        with Path(path).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise TrieCorrupt(f"trie {path}: sha256 is {found}, expected {sha256}; export it again from its release")

    def to_bytes(self) -> bytes:
        """The file: safetensors layout, the same bytes for the same SIDs and items."""
        return pack(self.arrays, {"format": FORMAT, "sizes": json.dumps(self.sizes)})

    def write(self, path: str | Path) -> None:
        """Write `to_bytes` to a new file."""
        Path(path).write_bytes(self.to_bytes())

    @cached_property
    def sha256(self) -> str:
        """The hash of the file, 64 hex digits."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.arrays["id_offsets"]) - 1

    @property
    def levels(self) -> int:
        """Codes per SID."""
        return len(self.sizes)

    @cached_property
    def item_ids(self) -> pa.Array:
        """The item ids in order of their SIDs, a view of the file: large_string (N,)."""
        buffers = [None, pa.py_buffer(self.arrays["id_offsets"]), pa.py_buffer(self.arrays["id_text"])]
        return pa.Array.from_buffers(pa.large_string(), len(self), buffers)

    def codes(self) -> NDArray[np.int32]:
        """All SIDs in order, int32 (N, L)."""
        sids = np.empty((len(self), self.levels), np.int32)
        for level in range(self.levels):
            start = self.arrays[f"codes{level}"].astype(np.int32)
            for deeper in range(level + 1, self.levels):
                start = np.repeat(start, self._fanout(deeper))
            sids[:, level] = start
        return sids

    def lookup(self, codes: NDArray[Any]) -> NDArray[np.int64]:
        """The row in `item_ids` of each SID (M, L), int64 (M,); -1 for those that no item has."""
        codes = np.asarray(codes)
        nodes = np.zeros(len(codes), np.int64)
        for level in range(self.levels):
            nodes = self.step(level, nodes, codes[:, level])
        return nodes

    def find(self, item_id: str) -> NDArray[np.int32] | None:
        """The SID of an item, int32 (L,), or None."""
        row = find_id(item_id.encode(), *(self.arrays[name] for name in ("id_text", "id_offsets", "id_order")))
        if row < 0:
            return None
        sid = np.empty(self.levels, np.int32)
        node = row
        for level in reversed(range(self.levels)):
            sid[level] = self.arrays[f"codes{level}"][node]
            node = int(np.searchsorted(self.arrays[f"children{level}"], node, side="right")) - 1
        return sid

    def prefix_range(self, prefix: Sequence[int]) -> tuple[int, int]:
        """The rows (start, stop) whose SIDs begin with `prefix`; start == stop when there are none."""
        node = np.zeros(1, np.int64)
        for level, code in enumerate(prefix):
            node = self.step(level, node, np.array([code]))
        start, stop = int(node[0]), int(node[0]) + 1
        if start < 0:
            return 0, 0
        for level in range(len(prefix), self.levels):
            children = self.arrays[f"children{level}"]
            start, stop = int(children[start]), int(children[stop])
        return start, stop

    def mask(self, level: int, nodes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which codes may follow each node of a level, bool (B, K); none for node -1."""
        nodes = np.asarray(nodes, np.int64)
        if not len(self):
            return np.zeros((len(nodes), self.sizes[level]), np.bool_)
        bits = self.arrays.get(f"bits{level}")
        if bits is not None:
            allowed = np.unpackbits(bits[nodes], axis=1, count=self.sizes[level], bitorder="little").view(np.bool_)
            allowed[nodes < 0] = False
            return allowed
        allowed = np.zeros((len(nodes), self.sizes[level]), np.bool_)
        start, stop = self._children(level, nodes)
        count = stop - start
        child = np.arange(int(count.sum())) + np.repeat(start - (np.cumsum(count) - count), count)
        allowed[np.repeat(np.arange(len(nodes)), count), self.arrays[f"codes{level}"][child]] = True
        return allowed

    def step(self, level: int, nodes: NDArray[np.int64], codes: NDArray[Any]) -> NDArray[np.int64]:
        """The child of each node under its code, int64 (B,); -1 where there is none or the node is -1.

        After the last level a node is the item's row. All nodes search their children at once, by halving.
        """
        codes = np.asarray(codes, np.int64)
        low, stop = self._children(level, np.asarray(nodes, np.int64))
        labels = self.arrays[f"codes{level}"]
        if not len(labels):
            return np.full(len(codes), -1, np.int64)
        high = stop
        for _ in range(int((stop - low).max(initial=0)).bit_length()):
            middle = (low + high) // 2
            less = labels[np.minimum(middle, len(labels) - 1)] < codes
            less &= low < high
            low, high = np.where(less, middle + 1, low), np.where(less, high, middle)
        there = (low < stop) & (labels[np.minimum(low, len(labels) - 1)] == codes)
        return np.where(there, low, -1)

    def _fanout(self, level: int) -> NDArray[np.int64]:
        children = self.arrays[f"children{level}"].astype(np.int64)
        return children[1:] - children[:-1]

    def _children(self, level: int, nodes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        children, valid = self.arrays[f"children{level}"], nodes >= 0
        start = children[np.where(valid, nodes, 0)].astype(np.int64)
        return start, np.where(valid, children[np.where(valid, nodes, 0) + 1].astype(np.int64), start)
