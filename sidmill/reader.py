"""Read a lake: releases, their SIDs, tries, items, vectors and models, and recommendations from them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pipelines.sid_table import encoded_vectors
from sidmill.release import load_model, open_trie
from storage.errors import LakeNotFound
from storage.lake import Lake
from storage.releases.catalogue import catalogue, segments
from storage.releases.manifest import Manifest
from storage.releases.models import newest_model, read_model
from storage.releases.releases import PRODUCTION, published, read_release, releases
from tokenizer.trie.trie import Trie

if TYPE_CHECKING:
    from training.models.generator import Generator
    from training.models.trie_tensors import TrieTensors


def open_lake(uri: str | os.PathLike[str]) -> LakeReader:
    """Open the lake at a folder or object-store URI. Raises LakeNotFound where there is none."""
    lake = Lake(os.fspath(uri))
    if lake.format is None:
        raise LakeNotFound(f"there is no lake at {lake.uri}; give the lake that `sidmill run bootstrap` wrote.")
    return LakeReader(lake)


class LakeReader:
    """A lake, opened for reading."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    @property
    def uri(self) -> str:
        """The address of the lake."""
        return self._lake.uri

    def releases(self) -> list[str]:
        """Return the ids of all releases and candidates, oldest first."""
        return [manifest.id for manifest in releases(self._lake)]

    def release(self, name: str = PRODUCTION) -> Release:
        """Return a release by its id or by an alias. Raises LakeNotFound where there is none of that name."""
        if not isinstance(name, str):
            raise TypeError(f"a release has a name, such as 'r-000003' or 'production': {name!r} is none.")
        manifest = read_release(self._lake, name)
        alias = published(self._lake)
        model = alias.model if alias is not None and name == PRODUCTION else newest_model(self._lake, manifest.id)
        return Release(self._lake, manifest, model)


class Release:
    """One release. Its contents are read at the first use, and never change."""

    def __init__(self, lake: Lake, manifest: Manifest, model: str | None) -> None:
        self._lake, self._model = lake, model
        self.manifest = manifest

    def __repr__(self) -> str:
        return f"Release({self.id}, {self.manifest.items:,} items, model {self._model or 'none'})"

    @property
    def id(self) -> str:
        """Its id, as in `r-000001`."""
        return self.manifest.id

    def sids(self) -> pl.DataFrame:
        """Return the items of the trie with their SIDs: item_id, sid (a list of codes), in the order of the SIDs."""
        trie = self.trie()
        codes = pl.Series("sid", trie.codes(), dtype=pl.List(pl.Int32))
        return pl.DataFrame({"item_id": pl.from_arrow(trie.item_ids), "sid": codes})

    def trie(self) -> Trie:
        """Return the trie of its SIDs."""
        return self._trie

    def items(self) -> pl.DataFrame:
        """Return the catalogue as the release sees it, without deleted items.

        Columns: item_id, title, attributes (JSON), images.
        """
        frame = catalogue(self._lake, self.manifest.versions["items"], self.manifest.as_of)
        return frame.filter(~pl.col("deleted")).drop("deleted")

    def vectors(self) -> pl.DataFrame:
        """Return the vectors that the SIDs encode: item_id, vector."""
        rows = segments(self._lake, list(self.manifest.assignments), self.manifest.codebook.id)
        found = encoded_vectors(self._lake, self.manifest.fusion.fingerprint, rows)
        return found.filter(pl.col("item_id").is_in(pl.from_arrow(self.trie().item_ids).implode()))  # type: ignore[union-attr]

    def model(self) -> Generator:
        """Return its generator, a torch module in evaluation mode: that of production, else the newest trained for it.

        Raises LakeNotFound where it has none.
        """
        return self._generator

    def recommend(
        self, histories: Sequence[Sequence[str]], k: int = 10, beams: int | None = None, seen: bool = False
    ) -> pl.DataFrame:
        """Return the `k` most probable next items of each history of item ids, oldest first.

        Returns history (its number), rank (from 1), item_id and log_probability. Ids that the release does not have are
        ignored. Items of the history itself are left out unless `seen`. `beams` is the width of the search, by default
        `k` or 20, whichever is more.
        """
        from training.data.histories import events_of_rows
        from training.decoding.beam_search import beam_search

        trie, model = self.trie(), self.model()
        rows = [trie.find_rows(list(history)) for history in histories]
        rows = [each[each >= 0] for each in rows]
        events = events_of_rows(rows, trie.codes(), model.spec)
        found, scores = beam_search(model, self._search, events, max(k, beams or 20), None if seen else rows)
        history, rank = np.nonzero(found[:, :k] >= 0)
        return pl.DataFrame(
            {
                "history": history,
                "rank": rank + 1,
                "item_id": pl.from_arrow(trie.item_ids.take(found[history, rank])),
                "log_probability": scores[history, rank],
            }
        )

    @cached_property
    def _trie(self) -> Trie:
        return open_trie(self._lake, self.manifest)

    @cached_property
    def _generator(self) -> Generator:
        if self._model is None:
            raise LakeNotFound(f"{self.id} has no model; train one with `sidmill run train --release {self.id}`.")
        return load_model(self._lake, read_model(self._lake, self._model), self.manifest.codebook.vocabulary)

    @cached_property
    def _search(self) -> TrieTensors:
        from tokenizer.trie.masks import TrieMasks
        from training.models.trie_tensors import TrieTensors

        return TrieTensors(TrieMasks.of(self._trie), next(self._generator.parameters()).device)
