"""Free SIDs below prefixes, against counting them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tokenizer.balancing.prefix_capacity import PrefixCapacity


@given(st.integers(0, 2), st.integers(0, 24), st.lists(st.booleans(), min_size=4, max_size=4), st.integers(0, 10**6))
def test_free_sids_below_a_node_are_those_that_end_in_a_code_with_room(
    level: int, taken: int, is_open: list[bool], seed: int
) -> None:
    """At the last level a node is a SID, and a code without room is refused elsewhere."""
    sizes, draw = (2, 3, 4), np.random.default_rng(seed)
    sids = np.stack(np.unravel_index(np.arange(24), sizes), axis=1).astype(np.int32)
    occupied = sids[draw.permutation(24)[:taken]]
    prefix = sids[draw.integers(0, 24, 30), :level]
    nodes = PrefixCapacity(prefix, occupied, sizes, np.array(is_open))
    assert nodes.binding
    code = draw.integers(0, sizes[level], 30).astype(np.int32)
    keys = nodes.key(nodes.home, code)
    held, expected = set(map(tuple, occupied.tolist())), []
    for node in np.column_stack([prefix, code]).tolist():
        below = [sid for sid in sids.tolist() if sid[: level + 1] == node and (level == 2 or is_open[sid[2]])]
        expected.append(sum(tuple(sid) not in held for sid in below))
    order = np.argsort(keys, kind="stable")
    assert nodes.left(keys[order]).tolist() == [expected[row] for row in order]
