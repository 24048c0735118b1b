"""Item ids and the vectors that belong to them, checked, in an order free of arrival."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenizer.errors import VectorError
from tokenizer.layout import Array

ItemIds: TypeAlias = Sequence[str] | pa.Array | pa.ChunkedArray


def id_list(item_ids: ItemIds) -> list[str]:
    """The ids as Python strings, whatever array type they came in."""
    return item_ids.to_pylist() if isinstance(item_ids, pa.Array | pa.ChunkedArray) else list(item_ids)


def tie_keys(item_ids: ItemIds) -> NDArray[np.uint64]:
    """A stable 64-bit hash per id (BLAKE2b, 8 bytes), the same in every process and on every machine."""
    digests = [blake2b(item.encode(), digest_size=8).digest() for item in id_list(item_ids)]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def arrival_free_order(item_ids: ItemIds) -> NDArray[np.int64]:
    """Rows in order of tie key, the order in which all work on a batch is done.

    Raises ValueError when an id occurs twice: which of its rows should win would depend on arrival.
    """
    ids = id_list(item_ids)
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(item for item in ids if item in seen or seen.add(item))  # type: ignore[func-returns-value]
        raise ValueError(f"item {twice!r} occurs more than once in a batch of {len(ids)}; keep one vector per item")
    return np.argsort(tie_keys(ids), kind="stable")


def checked_vectors(
    vectors: Mapping[str, Array],
    item_ids: ItemIds,
    sources: Sequence[str],
    widths: Mapping[str, int] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """The vectors of `sources` as float32, one row per item, finite, and of the given `widths` where known.

    Raises VectorError naming the source and the first bad item.
    """
    return {source: _checked(vectors, source, id_list(item_ids), (widths or {}).get(source)) for source in sources}


def _checked(vectors: Mapping[str, Array], source: str, ids: list[str], width: int | None) -> NDArray[np.float32]:
    if source not in vectors:
        raise VectorError(f"vectors {source!r} are missing; given: {sorted(vectors)}; pass them or change the levels")
    given = np.asarray(vectors[source])
    if given.ndim != 2 or given.dtype.kind != "f":
        raise VectorError(f"vectors {source!r} are {given.dtype} of shape {given.shape}; pass floats, items x width")
    if len(given) != len(ids):
        raise VectorError(f"vectors {source!r} have {len(given)} rows for {len(ids)} item ids; pass one row per item")
    if given.shape[1] == 0 or (width is not None and given.shape[1] != width):
        expected = f"the codebook was fitted on {width}" if width is not None else "they need at least 1"
        raise VectorError(f"vectors {source!r} are {given.shape[1]} wide; {expected}; embed with the same encoder")
    with np.errstate(over="ignore"):
        checked = np.ascontiguousarray(given, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(checked).all(axis=1))
    if bad.size:
        first = int(bad[0])
        value = checked[first][~np.isfinite(checked[first])][0]
        raise VectorError(
            f"vector {source!r} of item {ids[first]!r} holds {value} ({bad.size} of {len(ids)} items are not finite); "
            "quarantine these items before assigning codes"
        )
    return checked
