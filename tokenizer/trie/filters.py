"""Named filters of a release: which items may appear, by name, with the masks of each name made once.

A name stands for what all users of a batch share: not blocked, in stock, a locale. Names combine by AND of what they
allow, and the combination has masks of its own: a prefix may have an item in stock and an item that is not blocked and
none that is both, so masks of prefixes cannot be combined.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tokenizer.trie.masks import TrieMasks
from tokenizer.trie.trie import Trie


class TrieFilters:
    """Masks of a trie by the names of filters; those of a name or a combination are made when first asked for."""

    def __init__(self, trie: Trie, allowed: Mapping[str, NDArray[np.bool_]]) -> None:
        """`allowed`: by name, whether each row of the trie may appear, bool (N,).

        Masks of the names are made here. Raises ValueError for a filter of another length than the trie.
        """
        self._trie = trie
        self._allowed = {name: np.asarray(each, np.bool_) for name, each in allowed.items()}
        self._made: dict[frozenset[str], TrieMasks] = {}
        for name in self._allowed:
            self.masks(name)

    @property
    def names(self) -> tuple[str, ...]:
        """The filters there are."""
        return tuple(self._allowed)

    def masks(self, *names: str) -> TrieMasks:
        """The part of the trie that all of the named filters allow; the whole without a name. The order says nothing.

        A combination is made once, O(N), and kept. Raises ValueError for a name that is not there.
        """
        key = frozenset(names)
        if unknown := sorted(key - self._allowed.keys()):
            raise ValueError(f"no filter {unknown[0]!r}; filters here: {', '.join(sorted(self._allowed)) or 'none'}")
        if key not in self._made:
            allowed = np.logical_and.reduce([self._allowed[name] for name in key]) if key else None
            self._made[key] = TrieMasks.of(self._trie, allowed)
        return self._made[key]


def by_filter(wanted: Sequence[Sequence[str]]) -> dict[tuple[str, ...], NDArray[np.int64]]:
    """Users of a batch by the filters that each of them wants: one search for each key, of the users (n,) under it.

    `wanted` names the filters of each user. Keys are sorted names without doubles, in order of the first user.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for user, names in enumerate(wanted):
        groups.setdefault(tuple(sorted(set(names))), []).append(user)
    return {names: np.array(users, np.int64) for names, users in groups.items()}
