"""Events of one source that were written: a set of 64-bit keys, and how to tell whether an event may be among them.

The key of an event is the hash of its id. Where the id is a hash of the content, the time is part of it: then the key
begins with the second, so that events of a log in order of time are looked for among few others.
"""

from collections.abc import Callable, Iterable

import numpy as np
import polars as pl

from pipelines.ingest.hash_set import Hashes, SeenHashes, id_hashes

HASH_BITS = 30
"""Bits of the hash behind the second, of which 34 bits are kept."""


def event_keys(events: pl.DataFrame, own_ids: bool) -> Hashes:
    """Return the key of each event; without `own_ids`, all ids are hashes of the content."""
    hashes = id_hashes(events["event_id"])
    if own_ids:
        return hashes
    seconds = events["event_time"].dt.epoch("s").to_numpy().astype(np.uint64)
    return (seconds << np.uint64(HASH_BITS)) | (hashes >> np.uint64(64 - HASH_BITS))


class SeenEvents:
    """Events that were written. Keys have the second in front until the source gives an id of its own."""

    def __init__(self, written_ids: Callable[[], Iterable[pl.Series]]) -> None:
        """`written_ids` reads the ids of all events that were added."""
        self._written_ids = written_ids
        self._keys, self._own_ids = SeenHashes(), False

    def has(self, events: pl.DataFrame, own_ids: bool) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Return for each event whether one with its key was added."""
        self._expect(own_ids)
        return self._keys.has(event_keys(events, self._own_ids))

    def add(self, events: pl.DataFrame, own_ids: bool) -> None:
        self._expect(own_ids)
        self._keys.add(event_keys(events, self._own_ids))

    def may_have(self, keys: Hashes, own_ids: bool) -> bool:
        """Return whether events with some keys of `event_keys` may have been added."""
        if not len(keys):
            return False
        self._expect(own_ids)
        return own_ids != self._own_ids or bool(self._keys.has(keys).any())

    def add_keys(self, keys: Hashes) -> None:
        """Add events that `may_have` told to be new."""
        self._keys.add(keys)

    def _expect(self, own_ids: bool) -> None:
        """Compare by ids alone from now on, if there are `own_ids`."""
        if own_ids and not self._own_ids:
            self._keys, self._own_ids = SeenHashes(), True
            for ids in self._written_ids():
                self._keys.add(id_hashes(ids))
