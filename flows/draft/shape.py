"""Levels and codes for a number of items."""

import math

LEVELS = 3
"""Levels of a proposed codebook: three codes an item, as in TIGER and OneRec; a fourth is one more step of search."""
FEWEST, MOST = 8, 8192
"""Codes of a level, at least and at most."""


def codes_for(items: int) -> int:
    """Return codes a level: the root of the number of items, as a power of two.

    Three such levels hold at least items ** 1.5 SIDs, so nearly every item gets the codes that it is nearest to.
    """
    bits = math.ceil(math.log2(max(1.0, math.sqrt(items))))
    return min(MOST, max(FEWEST, 1 << bits))
