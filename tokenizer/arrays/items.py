"""Item ids and their vectors, validated, in an order that does not depend on arrival."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenizer.arrays.executor import Executor, Threads
from tokenizer.arrays.id_index import hash_ids
from tokenizer.arrays.scratch import copied
from tokenizer.arrays.types import Array
from tokenizer.arrays.vectors import ArrayRows, Items, Rows, spans
from tokenizer.errors import VectorError

ItemIds: TypeAlias = Sequence[str] | pa.Array | pa.ChunkedArray


def id_list(item_ids: ItemIds) -> list[str]:
    """Return the ids as Python strings, from any array type."""
    return item_ids.to_pylist() if isinstance(item_ids, pa.Array | pa.ChunkedArray) else list(item_ids)


def tie_keys(item_ids: ItemIds) -> NDArray[np.uint64]:
    """Return a stable 64-bit hash per id, the same in every process and on every machine (see id_index.py)."""
    keys = np.empty(len(item_ids), np.uint64)
    for start, stop in spans(len(keys)):
        keys[start:stop] = hash_ids(*id_text(id_array(item_ids[start:stop])))
    return keys


def id_array(item_ids: ItemIds) -> pa.Array:
    """Return the ids as one Arrow string array, copied only if they are not one already."""
    if isinstance(item_ids, pa.ChunkedArray):
        return item_ids.cast(pa.large_string()).combine_chunks()
    if not isinstance(item_ids, pa.Array):
        return pa.array(item_ids, pa.large_string())
    is_text = item_ids.type in (pa.string(), pa.large_string())
    return item_ids if is_text else item_ids.cast(pa.large_string())


def id_text(ids: pa.Array) -> tuple[NDArray[np.uint8], Array]:
    """Return the concatenated UTF-8 bytes of a string array, and the offset of each string (N + 1), without a copy.

    Raises ValueError when one is null.
    """
    if ids.null_count:
        raise ValueError(f"{ids.null_count} of {len(ids)} item ids are null; give every SID an item")
    if not len(ids):
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    _, offsets, text = ids.buffers()
    kind = np.int64 if ids.type == pa.large_string() else np.int32
    at = np.frombuffer(offsets, kind)[ids.offset : ids.offset + len(ids) + 1]
    return np.frombuffer(text or b"", np.uint8)[at[0] : at[-1]], at - at[0] if at[0] else at


def checked_items(
    vectors: Mapping[str, Array | Rows],
    item_ids: ItemIds,
    sources: Sequence[str],
    work: Executor,
    widths: Mapping[str, int] | None = None,
) -> Items:
    """Return the vectors of `sources`, one finite row per id, of the given `widths` where known.

    Arrays are float (N, D). If `work` runs in this process, vectors that are not in memory are copied to a scratch
    file. Raises VectorError naming the source and the first bad item, and ValueError when an id occurs twice, because
    the choice between its rows would depend on arrival.
    """
    ties = tie_keys(item_ids)
    items = Items({source: _rows(vectors, source, len(ties), (widths or {}).get(source)) for source in sources}, ties)
    sorted_ties = ties[items.order]
    if (sorted_ties[1:] == sorted_ties[:-1]).any():
        _refuse_repeats(id_list(item_ids))
    if isinstance(work, Threads):
        items = copied(items, work)
    for source, bad, first, value in work.map(_not_finite, items, spans(len(items))):
        if bad:
            raise VectorError(
                f"vector {source!r} of item {id_list(item_ids)[first]!r} contains {value} (at least {bad} of "
                f"{len(items)} items have such vectors); quarantine these items before assigning codes"
            )
    return items


def _refuse_repeats(ids: list[str]) -> None:
    seen: set[str] = set()
    for item in ids:
        if item in seen:
            raise ValueError(f"item {item!r} occurs more than once in a batch of {len(ids)}; keep one vector per item")
        seen.add(item)


def _rows(vectors: Mapping[str, Array | Rows], source: str, items: int, width: int | None) -> Rows:
    if source not in vectors:
        raise VectorError(f"vectors {source!r} are missing (given: {sorted(vectors)}); pass them or change the levels")
    given = vectors[source]
    if isinstance(given, np.ndarray):
        if given.ndim != 2 or given.dtype.kind != "f":
            raise VectorError(
                f"vectors {source!r} are {given.dtype} of shape {given.shape}; pass floats of shape (items, width)"
            )
        given = ArrayRows(given)
    rows, found_width = given.shape
    if rows != items:
        raise VectorError(f"vectors {source!r} have {rows} rows for {items} item ids; pass one row per item")
    if (found_width == 0 and items) or (width is not None and found_width != width):
        expected = f"the codebook was fitted on width {width}" if width is not None else "at least 1 is needed"
        raise VectorError(f"vectors {source!r} have width {found_width}, but {expected}; embed with the same encoder")
    return given


def _not_finite(items: Items, start: int, stop: int) -> tuple[str, int, int, float]:
    """Return the first source with non-finite rows in a span, their number, the first of them, and its first bad value.

    The number is 0 if all rows are finite.
    """
    for source, rows in items.rows.items():
        with np.errstate(over="ignore"):
            part = rows.read(start, stop)
        if not np.isfinite(part.sum(dtype=np.float64)):
            bad = np.flatnonzero(~np.isfinite(part).all(axis=1))
            if bad.size:
                value = part[bad[0]][~np.isfinite(part[bad[0]])][0]
                return source, len(bad), start + int(bad[0]), float(value)
    return "", 0, 0, 0.0
