"""Free SIDs below prefixes, and the codes that are closed under them, against counting."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tokenizer.balancing.prefix_capacity import FullCodes, PrefixCapacity


@given(st.integers(0, 2), st.integers(0, 24), st.lists(st.booleans(), min_size=4, max_size=4), st.integers(0, 10**6))
def test_free_sids_below_a_node_are_those_that_end_in_a_code_with_room(
    level: int, taken: int, is_open: list[bool], seed: int
) -> None:
    """At the last level a node is a SID, and a code without room is refused elsewhere."""
    sizes, draw = (2, 3, 4), np.random.default_rng(seed)
    sids = np.stack(np.unravel_index(np.arange(24), sizes), axis=1).astype(np.int32)
    occupied = sids[draw.permutation(24)[:taken]]
    prefix = sids[draw.integers(0, 24, 30), :level]
    prefixes = PrefixCapacity(prefix, occupied, sizes, np.array(is_open))
    assert prefixes.binding
    code = draw.integers(0, sizes[level], 30).astype(np.int32)
    keys = prefixes.key(prefixes.home, code)
    held, expected = set(map(tuple, occupied.tolist())), []
    for node in np.column_stack([prefix, code]).tolist():
        below = [sid for sid in sids.tolist() if sid[: level + 1] == node and (level == 2 or is_open[sid[2]])]
        expected.append(sum(tuple(sid) not in held for sid in below))
    order = np.argsort(keys, kind="stable")
    assert prefixes.left(keys[order]).tolist() == [expected[row] for row in order]


@given(st.integers(0, 2), st.integers(0, 20), st.integers(0, 10**6))
def test_a_code_is_closed_under_a_prefix_as_soon_as_no_sid_is_free_below(level: int, taken: int, seed: int) -> None:
    """Nodes of one, two and six SIDs, of which items take some in turns."""
    sizes, draw = (2, 3, 2), np.random.default_rng(seed)
    sids = np.stack(np.unravel_index(np.arange(12), sizes), axis=1).astype(np.int32)
    occupied = sids[draw.permutation(12)[:taken]]
    rows, every = np.arange(20), np.arange(sizes[level], dtype=np.int32)
    prefix = sids[draw.integers(0, 12, 20), :level]
    prefixes = PrefixCapacity(prefix, occupied, sizes, np.ones(2, np.bool_))
    free = np.full(sizes[: level + 1], prefixes.below)
    np.subtract.at(free, tuple(occupied[:, : level + 1].T), 1)
    closed = FullCodes(prefixes, rows)
    for _ in range(4):
        expected = np.array([[free[(*home, code)] == 0 for code in every] for home in prefix.tolist()])
        found = [closed(np.full(len(every), row), every).tolist() for row in rows]
        assert found == expected.tolist()
        bits = np.unpackbits(closed.bits(rows), axis=1, bitorder="little")
        assert bits[:, : len(every)].tolist() == expected.tolist()
        asked, served = draw.integers(0, sizes[level], 20).astype(np.int32), []
        for row in rows[draw.random(20) < 0.3]:
            node = (*prefix[row], asked[row])
            if free[node] > 0:
                free[node] -= 1
                served.append(row)
        prefixes.take(prefixes.key(prefixes.home[served], asked[served]))
        closed.promised(np.array(served, np.int64), asked[served])
