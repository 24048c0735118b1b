"""Valid SIDs as flat arrays, with look-ups of next codes, of the item of a SID, and of the SID of an item.

The sorted SIDs form levels. The children of a node of level l are adjacent nodes of level l + 1, in order of their
codes: `codes{l}`. The root is node 0 of level 0, and the nodes after the last level are the rows of the items. The file
is described in docs/trie.md.
"""

import hashlib
import json
import mmap
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from learning.file_hash import file_sha256
from tokenizer.arrays.array_file import pack, parts, unpack
from tokenizer.arrays.executor import map_on_cores
from tokenizer.arrays.id_index import build_index, candidates, hash_ids, last_bytes
from tokenizer.arrays.items import ItemIds, id_array, id_text
from tokenizer.arrays.ragged import Ragged, spans
from tokenizer.arrays.sid_keys import check_codes, code_bits, sid_keys, sort_sids
from tokenizer.arrays.types import Array
from tokenizer.errors import TrieCorrupt
from tokenizer.trie.arrays import Texts, build_levels, check_distinct, check_structure, text_array
from tokenizer.trie.splice import splice, splice_texts

FOUND_AT_ONCE = 1 << 15
"""Ids that a core looks up at a time: each is compared with some six others, in 300 to 400 bytes."""
FORMAT = "sidmill-trie-2"


@dataclass(frozen=True, eq=False)
class Trie:
    """Sorted SIDs and their items; immutable, and one memory map when opened from a file.

    `shared` is 0 if a SID is one item. If items may share SIDs, it is the size of the largest group. The items of a SID
    are then numbered by id, and the number is one more layer of nodes that is not part of the SID.
    """

    sizes: tuple[int, ...]
    arrays: Mapping[str, Array]
    shared: int = 0

    @classmethod
    def build(cls, codes: NDArray[Any], item_ids: ItemIds, sizes: Sequence[int], shared: bool = False) -> "Trie":
        """Index the SIDs (N, L) of `item_ids`; the bytes do not depend on row order.

        Raises ValueError for an item that occurs twice, for a SID that does if not `shared`, and for codes out of
        range.
        """
        sizes = tuple(int(size) for size in sizes)
        sids, ids = _checked(codes, item_ids, sizes)
        group = 0
        if shared:
            number = _numbered(sids, ids, sizes)
            sids, group = np.column_stack([sids, number]), int(number.max(initial=0)) + 1
        keys, order = sort_sids(sids, (*sizes, group) if group else sizes)
        return cls._of_sorted(keys, lambda: id_text(ids.take(pa.array(order))), sizes, group)

    @classmethod
    def _of_sorted(
        cls, keys: NDArray[Any], sorted_ids: Callable[[], Texts], sizes: tuple[int, ...], shared: int = 0
    ) -> "Trie":
        """Return the trie of sorted keys. The sorted ids are built in parallel with the levels."""
        layers = (*sizes, shared) if shared else sizes
        with ThreadPoolExecutor(1) as beside:
            levels = beside.submit(build_levels, keys, layers)
            text, offsets = sorted_ids()
            ids, rows = text_array(text, offsets), Ragged.of(offsets)
            check_distinct(keys, ids, layers)
            arrays = build_index(hash_ids(text, offsets), ids) | levels.result()
        texts = {"id_text": text, "id_lengths": rows.lengths, "id_blocks": rows.blocks}
        return cls(sizes, arrays | texts, shared)

    def updated(self, codes: NDArray[Any], item_ids: ItemIds, removed: ItemIds = ()) -> "Trie":
        """Return this trie with the SIDs (M, L) of new items and without the items `removed`, as `build` would give it.

        An item whose SID changed is both removed and new. Raises ValueError for input that `build` refuses, and for an
        item to remove that is not in the trie.
        """
        sids, ids = _checked(codes, item_ids, self.sizes)
        removed_rows = self.find_rows(removed)
        if (removed_rows < 0).any():
            raise ValueError(
                f"item {id_array(removed)[int(np.argmin(removed_rows))].as_py()!r} cannot be removed: the trie does "
                "not contain it"
            )
        removed_rows = np.unique(removed_rows)
        if self.shared:
            stay = np.delete(np.arange(len(self)), removed_rows)
            kept = pa.chunked_array([self.item_ids.cast(pa.large_string()).take(pa.array(stay)), ids])
            return Trie.build(np.concatenate([self.codes()[stay], sids]), kept, self.sizes, shared=True)
        old = self._keys()
        new, order = sort_sids(sids, self.sizes)
        places, old_ids = np.searchsorted(old, new), (self.arrays["id_text"], self._ids, len(self))

        def sorted_ids() -> Texts:
            return splice_texts(old_ids, id_text(ids.take(pa.array(order))), places, removed_rows)

        return Trie._of_sorted(splice(old, new, places, removed_rows), sorted_ids, self.sizes)

    def _keys(self) -> NDArray[Any]:
        """Return all SID keys in order. Integer keys are built without the codes (N, L)."""
        bits = code_bits(self.sizes)
        if sum(bits) > 64:
            return sid_keys(self.codes(), self.sizes)
        keys = np.zeros(1, np.uint64)
        for level in range(self.levels):
            keys = np.repeat(keys, self._fanout[level].lengths[: len(keys)])
            keys <<= np.uint64(bits[level])
            keys |= self.arrays[f"codes{level}"]
        return keys

    @classmethod
    def open(cls, path: str | Path) -> "Trie":
        """Map a file of `write`, in milliseconds, because only its structure is checked.

        `verify` checks the content. Raises TrieCorrupt when the file is truncated or malformed.
        """
        try:
            with Path(path).open("rb") as file:
                metadata, arrays = unpack(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            sizes = tuple(int(size) for size in json.loads(metadata["sizes"]))
            if metadata["format"] != FORMAT:
                raise ValueError(f"its format is {metadata['format']!r}, not {FORMAT!r}")
            shared = int(metadata.get("shared", 0))
            check_structure(arrays, (*sizes, shared) if shared else sizes)
        except (ValueError, KeyError, TypeError) as error:
            raise TrieCorrupt(
                f"the trie file {path} cannot be read: {error!r}; export it again from its release"
            ) from error
        return cls(sizes, arrays, shared)

    @staticmethod
    def verify(path: str | Path, sha256: str) -> None:
        """Raise TrieCorrupt unless the file has this sha256. Reads the whole file."""
        found = file_sha256(Path(path))
        if found != sha256:
            raise TrieCorrupt(
                f"the trie file {path} is damaged: its sha256 is {found}, expected {sha256}; export it again from "
                "its release"
            )

    @property
    def _metadata(self) -> dict[str, str]:
        return {"format": FORMAT, "sizes": json.dumps(self.sizes)} | (
            {"shared": str(self.shared)} if self.shared else {}
        )

    def to_bytes(self) -> bytes:
        """Return the bytes of the file, in safetensors layout; equal for equal SIDs and items."""
        return pack(self.arrays, self._metadata)

    def write(self, path: str | Path) -> str:
        """Write `to_bytes` to a new file and return its sha256, 64 hex digits; each array is read once."""
        digest = hashlib.sha256()
        with Path(path).open("wb") as file, ThreadPoolExecutor(1) as beside:
            for part in parts(self.arrays, self._metadata):
                hashed = beside.submit(digest.update, part)
                file.write(part)
                hashed.result()
        return digest.hexdigest()

    @cached_property
    def sha256(self) -> str:
        """sha256 of the file, 64 hex digits."""
        digest = hashlib.sha256()
        for part in parts(self.arrays, self._metadata):
            digest.update(part)
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.arrays["id_order"])

    @property
    def levels(self) -> int:
        """Codes per SID."""
        return len(self.sizes)

    @property
    def layers(self) -> tuple[int, ...]:
        """Largest number of children per layer: `sizes`, and `shared` if items may share SIDs."""
        return (*self.sizes, self.shared) if self.shared else self.sizes

    @cached_property
    def _ids(self) -> Ragged:
        return Ragged(self.arrays["id_lengths"], self.arrays["id_blocks"])

    @cached_property
    def _fanout(self) -> tuple[Ragged, ...]:
        return tuple(
            Ragged(self.arrays[f"fanout{level}"], self.arrays[f"blocks{level}"]) for level in range(len(self.layers))
        )

    @cached_property
    def item_ids(self) -> pa.Array:
        """The item ids in SID order, large_string (N,); the text is a view of the file."""
        return text_array(self.arrays["id_text"], self._ids.all_starts(len(self)))

    def child_starts(self, level: int) -> NDArray[np.int64]:
        """Return the first child of each node of a level, in the next level, and the end, int64 (nodes + 1,)."""
        return self._fanout[level].all_starts(len(self.arrays[f"codes{level - 1}"]) if level else 1)

    def codes(self) -> NDArray[np.int32]:
        """Return all SIDs in order, int32 (N, L)."""
        sids = np.empty((len(self), self.levels), np.int32)
        for level in range(self.levels):
            start: Array = self.arrays[f"codes{level}"]
            for deeper in range(level + 1, len(self.layers)):
                start = np.repeat(start, self._fanout[deeper].lengths[: len(start)])
            sids[:, level] = start
        return sids

    def codes_of(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the SIDs of some rows of `item_ids` (M,), int32 (M, L).

        The cost does not depend on the size of the trie.
        """
        sids = np.empty((len(rows), len(self.layers)), np.int32)
        nodes = np.asarray(rows, np.int64)
        for level in reversed(range(len(self.layers))):
            sids[:, level] = self.arrays[f"codes{level}"][nodes]
            nodes = self._fanout[level].holders(nodes)
        return sids[:, : self.levels]

    def lookup(self, codes: NDArray[Any]) -> NDArray[np.int64]:
        """Return the row in `item_ids` of each SID (M, L), int64 (M,).

        It is the first if items share the SID, and -1 if there is none.
        """
        codes = np.asarray(codes)
        nodes = np.zeros(len(codes), np.int64)
        for level in range(self.levels):
            nodes = self.step(level, nodes, codes[:, level])
        return self.step(self.levels, nodes, np.zeros(len(nodes), np.int64)) if self.shared else nodes

    def find(self, item_id: str) -> NDArray[np.int32] | None:
        """Return the SID of an item, int32 (L,), or None."""
        row = self.find_rows([item_id])
        return self.codes_of(row)[0] if row[0] >= 0 else None

    def find_rows(self, item_ids: ItemIds) -> NDArray[np.int64]:
        """Return the row in `Trie.item_ids` of each given item, int64 (M,); -1 if it is not in the trie."""
        given = id_array(item_ids)
        if len(given) <= FOUND_AT_ONCE:
            return self._find_rows(given)
        parts = [given.slice(first, FOUND_AT_ONCE) for first in range(0, len(given), FOUND_AT_ONCE)]
        return np.concatenate(map_on_cores(self._find_rows, parts))

    def _find_rows(self, item_ids: pa.Array) -> NDArray[np.int64]:
        text, offsets = id_text(item_ids)
        found = np.full(len(offsets) - 1, -1, np.int64)
        which, rows = candidates(hash_ids(text, offsets), self.arrays["id_order"], self.arrays["id_buckets"])
        starts, lengths = self._ids.starts(rows), self._ids.lengths[rows].astype(np.int64)
        tails = last_bytes(text, offsets[1:], np.diff(offsets))
        likely = lengths == np.diff(offsets)[which]
        likely &= last_bytes(self.arrays["id_text"], starts + lengths, lengths) == tails[which]
        which, rows, starts, lengths = which[likely], rows[likely], starts[likely], lengths[likely]
        differs = self.arrays["id_text"][spans(starts, lengths)] != text[spans(offsets[which], lengths)]
        wrong = np.zeros(len(rows), np.bool_)
        wrong[np.repeat(np.arange(len(rows)), lengths)[differs]] = True
        found[which[~wrong]] = rows[~wrong]
        return found

    def prefix_range(self, prefix: Sequence[int]) -> tuple[int, int]:
        """Return the rows (start, stop) whose SIDs begin with `prefix`; start == stop if there are none."""
        node = np.zeros(1, np.int64)
        for level, code in enumerate(prefix):
            node = self.step(level, node, np.array([code]))
        if node[0] < 0:
            return 0, 0
        bounds = node + np.arange(2)
        for level in range(len(prefix), len(self.layers)):
            bounds = self._fanout[level].starts(bounds)
        return int(bounds[0]), int(bounds[1])

    def step(self, level: int, nodes: NDArray[np.int64], codes: NDArray[Any]) -> NDArray[np.int64]:
        """Return the child of each node under its code, int64 (B,); -1 if there is none or the node is -1.

        After the last level a node is the row of the item or, if items share SIDs, the SID.
        """
        if not len(self):
            return np.full(len(nodes), -1, np.int64)
        valid = np.asarray(nodes, np.int64) >= 0
        parents = np.where(valid, nodes, 0)
        fanout = self._fanout[level]
        start = fanout.starts(parents)
        stop = start + np.where(valid, fanout.lengths[parents], 0)
        return child_under(self.arrays[f"codes{level}"], start, stop, np.asarray(codes, np.int64))


def child_under(labels: Array, low: Array, stop: Array, codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the position of each code in its ascending slice labels[low:stop], int64 (B,); -1 if it is not there.

    All codes are searched together by bisection.
    """
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


def _numbered(sids: NDArray[np.int32], ids: pa.Array, sizes: tuple[int, ...]) -> NDArray[np.int32]:
    """Return the number of each item (N,) among the items of its SID, by id."""
    by_id = np.asarray(pc.sort_indices(ids))
    keys = sid_keys(sids[by_id], sizes)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)])
    number = np.empty(len(ordered), np.int32)
    number[by_id[order]] = np.arange(len(ordered)) - np.repeat(first, np.diff(first, append=len(ordered)))
    return number


def _checked(codes: NDArray[Any], item_ids: ItemIds, sizes: tuple[int, ...]) -> tuple[NDArray[np.int32], pa.Array]:
    sids, ids = check_codes(codes, sizes, "SIDs"), id_array(item_ids)
    if len(ids) != len(sids):
        raise ValueError(f"{len(sids)} SIDs for {len(ids)} item ids; pass one id per SID")
    return sids, ids
