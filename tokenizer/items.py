"""Item ids and the vectors that belong to them, checked, in an order free of arrival."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenizer.errors import VectorError
from tokenizer.layout import Array
from tokenizer.rows import ArrayRows, Items, Rows, spans
from tokenizer.work import Work

ItemIds: TypeAlias = Sequence[str] | pa.Array | pa.ChunkedArray


def id_list(item_ids: ItemIds) -> list[str]:
    """The ids as Python strings, whatever array type they came in."""
    return item_ids.to_pylist() if isinstance(item_ids, pa.Array | pa.ChunkedArray) else list(item_ids)


def tie_keys(item_ids: ItemIds) -> NDArray[np.uint64]:
    """A stable 64-bit hash per id (BLAKE2b, 8 bytes), the same in every process and on every machine."""
    digests = [blake2b(item.encode(), digest_size=8).digest() for item in id_list(item_ids)]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def checked_items(
    vectors: Mapping[str, Array | Rows],
    item_ids: ItemIds,
    sources: Sequence[str],
    work: Work,
    widths: Mapping[str, int] | None = None,
) -> Items:
    """The vectors of `sources`, one finite row per id, and of the given `widths` where known.

    Arrays are float (N, D). Raises VectorError naming the source and the first bad item, ValueError when an id occurs
    twice: which of its rows should win would depend on arrival.
    """
    ties = tie_keys(item_ids)
    items = Items({source: _rows(vectors, source, len(ties), (widths or {}).get(source)) for source in sources}, ties)
    alike = ties[items.order]
    if (alike[1:] == alike[:-1]).any():
        _refuse_repeats(id_list(item_ids))
    for source, bad, first, value in work.map(_not_finite, items, spans(len(items))):
        if bad:
            raise VectorError(
                f"vector {source!r} of item {id_list(item_ids)[first]!r} holds {value} ({bad} of {len(items)} items "
                "or more are not finite); quarantine these items before assigning codes"
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
        raise VectorError(f"vectors {source!r} are missing; given: {sorted(vectors)}; pass them or change the levels")
    given = vectors[source]
    if isinstance(given, np.ndarray):
        if given.ndim != 2 or given.dtype.kind != "f":
            raise VectorError(
                f"vectors {source!r} are {given.dtype} of shape {given.shape}; pass floats, items x width"
            )
        given = ArrayRows(given)
    found, wide = given.shape
    if found != items:
        raise VectorError(f"vectors {source!r} have {found} rows for {items} item ids; pass one row per item")
    if (wide == 0 and items) or (width is not None and wide != width):
        expected = f"the codebook was fitted on {width}" if width is not None else "they need at least 1"
        raise VectorError(f"vectors {source!r} are {wide} wide; {expected}; embed with the same encoder")
    return given


def _not_finite(items: Items, start: int, stop: int) -> tuple[str, int, int, float]:
    """The source, count, row and value of what is not finite in a span."""
    for source, rows in items.rows.items():
        with np.errstate(over="ignore"):
            part = rows.read(start, stop)
        if not np.isfinite(part.sum(dtype=np.float64)):
            bad = np.flatnonzero(~np.isfinite(part).all(axis=1))
            if bad.size:
                value = part[bad[0]][~np.isfinite(part[bad[0]])][0]
                return source, len(bad), start + int(bad[0]), float(value)
    return "", 0, 0, 0.0
