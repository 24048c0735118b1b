"""Export of the trie, or of the code table, as one Arrow IPC file that needs only Arrow; see docs/trie.md."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenizer.arrays.types import Array
from tokenizer.trie.trie import Trie

ARROW_FORMAT = "sidmill-trie-arrow-1"
CODES_FORMAT = "sidmill-codes-arrow-1"
BATCH_ROWS = 1 << 17
"""Rows of a batch of an exported file, the memory that an export takes beside the trie."""

_CODES = pa.list_(pa.int32())
_FIELDS = [pa.field("prefix", _CODES, False), pa.field("next", _CODES, False), pa.field("item_id", pa.large_string())]
_CODE_FIELDS = [pa.field("item_id", pa.large_string(), False), pa.field("codes", _CODES, False)]


def write_arrow(trie: Trie, path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write a row (prefix, next codes, item id) for each prefix and each item; `metadata` is added to the file's."""
    batches = (columns for depth in range(trie.levels + 1) for columns in _rows(trie, depth))
    _write(path, pa.schema(_FIELDS, metadata={**metadata, **_about(trie, ARROW_FORMAT)}), batches)


def write_codes(trie: Trie, path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write a row (item id, its codes) for each item. Codes without order have no prefixes."""
    codes, ids = trie.codes(), trie.item_ids
    batches = (
        [ids[start : start + BATCH_ROWS].cast(pa.large_string()), _code_rows(codes[start : start + BATCH_ROWS])]
        for start in range(0, len(trie), BATCH_ROWS)
    )
    _write(path, pa.schema(_CODE_FIELDS, metadata={**metadata, **_about(trie, CODES_FORMAT)}), batches)


def _about(trie: Trie, layout: str) -> dict[str, str]:
    return {"format": layout, "sizes": json.dumps(trie.sizes), "items": str(len(trie))}


def _write(path: str | Path, schema: pa.Schema, batches: Iterable[list[pa.Array]]) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for columns in batches:
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _rows(trie: Trie, depth: int) -> Iterator[list[pa.Array]]:
    """Yield the columns (_FIELDS) of all prefixes of `depth` codes, batch by batch."""
    is_sid = depth == trie.levels
    prefixes = trie.codes() if is_sid else _prefixes(trie, depth)
    starts = np.zeros(len(prefixes) + 1, np.int64) if is_sid else trie.child_starts(depth)
    codes = np.zeros(0, np.int32) if is_sid else trie.arrays[f"codes{depth}"]
    for start in range(0, len(prefixes), BATCH_ROWS):
        stop = min(start + BATCH_ROWS, len(prefixes))
        ends = starts[start : stop + 1]
        yield [
            _code_rows(prefixes[start:stop]),
            _lists(ends - ends[0], codes[ends[0] : ends[-1]]),
            trie.item_ids[start:stop].cast(pa.large_string()) if is_sid else pa.nulls(stop - start, pa.large_string()),
        ]


def _prefixes(trie: Trie, depth: int) -> NDArray[np.int32]:
    """Return the codes of all prefixes of a depth, in order, int32 (nodes, depth)."""
    columns: list[Array] = []
    for level in range(depth):
        fanout = np.diff(trie.child_starts(level))
        columns = [*(np.repeat(column, fanout) for column in columns), trie.arrays[f"codes{level}"]]
    return np.stack(columns, axis=1).astype(np.int32) if columns else np.zeros((1, 0), np.int32)


def _code_rows(codes: NDArray[np.int32]) -> pa.Array:
    """Return the rows of a matrix as lists."""
    return _lists(np.arange(len(codes) + 1) * codes.shape[1], codes)


def _lists(ends: NDArray[np.int64], codes: Array) -> pa.Array:
    """Return codes as lists; `ends` holds 0 and the end of each list."""
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), pa.array(codes.reshape(-1).astype(np.int32)))
