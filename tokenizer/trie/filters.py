"""Named item filters of a release, with masks that are built once per name.

A name stands for a condition that many users share: not blocked, in stock, a locale. Names combine by AND of the
allowed items, and each combination has its own masks. Prefix masks cannot be combined: a prefix may have an item in
stock and an item that is not blocked, but none that is both.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tokenizer.trie.masks import TrieMasks
from tokenizer.trie.trie import Trie


class TrieFilters:
    """Masks of a trie by filter name; combinations are built on first use."""

    def __init__(self, trie: Trie, allowed: Mapping[str, NDArray[np.bool_]]) -> None:
        """`allowed`: by name, whether each row of the trie may appear, bool (N,).

        Builds the masks of the names. Raises ValueError for a filter of another length than the trie.
        """
        self._trie = trie
        self._allowed = {name: np.asarray(each, np.bool_) for name, each in allowed.items()}
        self._made: dict[frozenset[str], TrieMasks] = {}
        for name in self._allowed:
            self.masks(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all filters."""
        return tuple(self._allowed)

    def masks(self, *names: str) -> TrieMasks:
        """Return the part of the trie that all of the named filters allow; without a name, the whole trie.

        The order of names does not matter. A combination is built once, O(N), and kept. Raises ValueError for an
        unknown name.
        """
        key = frozenset(names)
        if unknown := sorted(key - self._allowed.keys()):
            raise ValueError(
                f"there is no filter {unknown[0]!r}; known filters: {', '.join(sorted(self._allowed)) or 'none'}"
            )
        if key not in self._made:
            allowed = np.logical_and.reduce([self._allowed[name] for name in key]) if key else None
            self._made[key] = TrieMasks.of(self._trie, allowed)
        return self._made[key]


def by_filter(wanted: Sequence[Sequence[str]]) -> dict[tuple[str, ...], NDArray[np.int64]]:
    """Group the users of a batch by their filters: one search per key, for the users (n,) under it.

    `wanted` names the filters of each user. Keys are sorted names without duplicates, in order of the first user.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for user, names in enumerate(wanted):
        groups.setdefault(tuple(sorted(set(names))), []).append(user)
    return {names: np.array(users, np.int64) for names, users in groups.items()}
