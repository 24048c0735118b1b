"""The search for free SIDs, against looking through all of them."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tokenizer.arrays.executor import LOCAL_THREADS
from tokenizer.arrays.items import checked_items
from tokenizer.collisions import relocate
from tokenizer.fit import fit_codebook
from tokenizer.spec import CodebookSpec, LevelSpec

SIZES = (3, 4, 5)
SIDS = list(product(*(range(size) for size in SIZES)))
DRAW = np.random.default_rng(0)
VECTORS = DRAW.normal(size=(60, 4)).astype(np.float32)
IDS = [f"item-{row}" for row in range(60)]
LEVELS = tuple(LevelSpec(codes=size) for size in SIZES)
BOOK = fit_codebook({"fused": VECTORS}, IDS, CodebookSpec(levels=LEVELS, iterations=3, growth=1.0))
ITEMS = checked_items({"fused": VECTORS}, IDS, BOOK.sources, LOCAL_THREADS)


def turn_of(sid: tuple[int, ...], vector: NDArray[np.float32], home: list[int]) -> list[tuple[bool, float]]:
    """Sort key of a SID for an item: costs level by level; above the last level the item's own codes come first."""
    place, left = [], vector.astype(np.float64)
    for level, code in enumerate(sid):
        left = left - BOOK.arrays[f"level{level}"][code]
        own = level < len(sid) - 1 and list(sid[: level + 1]) == home[: level + 1]
        place.append((not own, float(left @ left)))
    return place


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(0, len(SIDS)), st.integers(1, 15), st.integers(1, 5), st.integers(0, 10**6))
def test_each_item_in_turn_gets_the_first_free_sid_of_its_own_order(
    items: int, taken: int, most: int, together: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    in_turn = draw.permutation(60)[:items]
    homes = np.stack([draw.integers(0, size, items) for size in SIZES], axis=1).astype(np.int32)
    homes[np.arange(3) >= draw.integers(0, 4, items)[:, None]] = -1
    settled = np.array(SIDS, np.int32)[draw.permutation(len(SIDS))[:taken]].reshape(-1, 3)
    room = [draw.integers(0, most + 1, size) for size in SIZES]
    left, held = [each.copy() for each in room], set(map(tuple, settled.tolist()))
    expected = []
    for row, home in zip(in_turn, homes.tolist(), strict=True):
        free = [sid for sid in SIDS if sid not in held and all(left[at][code] for at, code in enumerate(sid))]
        found = min(free, key=lambda sid: turn_of(sid, VECTORS[row], home), default=(-1, -1, -1))
        expected.append(list(found))
        if free:
            held.add(found)
            for at, code in enumerate(found):
                left[at][code] -= 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relocate, "SPAN", together)
        placed = relocate.find_nearest_free_sids(BOOK, ITEMS, in_turn, homes, room, settled)
    assert placed.tolist() == expected
    assert [each.tolist() for each in room] == [each.tolist() for each in left]
