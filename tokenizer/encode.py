"""From vectors to SIDs that nobody has: codes level by level under capacity, then collisions."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from tokenizer.assignment import assign_in_order
from tokenizer.codebook import Codebook
from tokenizer.distance import Floats
from tokenizer.items import ItemIds, arrival_free_order, checked_vectors
from tokenizer.layout import Array
from tokenizer.load import level_load
from tokenizer.metrics import relative_error
from tokenizer.quantizer import quantizer_of
from tokenizer.relocation import Space, resolve_collisions
from tokenizer.sid_keys import check_codes


class Status(IntEnum):
    """What became of an item."""

    ASSIGNED = 0
    RELOCATED = 1
    REFIT_DUE = 2

    @property
    def label(self) -> str:
        """The status in words: "assigned", "relocated" or "refit due"."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class Occupancy:
    """All SIDs ever published under a codebook, int32 (M, L); those of deleted items are among them."""

    codes: NDArray[np.int32]

    @classmethod
    def empty(cls, levels: int) -> "Occupancy":
        """Nothing published yet."""
        return cls(np.empty((0, levels), np.int32))

    def load(self, codebook: Codebook) -> list[NDArray[np.int64]]:
        """SIDs published per code, int64 (K,) for each level."""
        return level_load(check_codes(self.codes, codebook.sizes, "occupied SIDs"), codebook.sizes)


@dataclass(frozen=True)
class Assignment:
    """New SIDs, in the order the items came in.

    `codes` int32 (N, L) are unique and free, -1 in all levels for "refit due". `raw_codes` are the codes
    under capacity before collisions were resolved (-1 where no code had room). `status` int8 (N,) holds
    `Status` values. `relative_error` is that of the items which got a SID.
    """

    codes: NDArray[np.int32]
    raw_codes: NDArray[np.int32]
    status: NDArray[np.int8]
    relative_error: float


def assign_sids(codebook: Codebook, vectors: Mapping[str, Array], item_ids: ItemIds, occupied: Occupancy) -> Assignment:
    """Assign each item a SID that is not occupied, within the capacity that the occupied ones leave.

    `vectors` are float (N, D) for each source of the codebook; `item_ids` are N distinct ids. Each level
    encodes what the codes actually chosen before leave over. An item's SID depends on the batch and the
    occupancy, not on the order of either. Raises VectorError for unfit vectors, ValueError for repeated ids
    or occupied codes out of range.
    """
    quantizer = quantizer_of(codebook.spec)
    widths = {source: len(codebook.arrays[f"mean.{source}"]) for source in codebook.sources}
    checked = checked_vectors(vectors, item_ids, codebook.sources, widths)
    order = arrival_free_order(item_ids)
    ordered = {source: vector[order] for source, vector in checked.items()}
    room = [np.maximum(most - load, 0) for most, load in zip(codebook.capacity, occupied.load(codebook), strict=True)]
    space = Space(codebook, quantizer, occupied.codes.astype(np.int32), room)
    raw_NL = _codes_under_capacity(space, ordered)
    codes_NL = raw_NL.copy()
    coded = np.flatnonzero(raw_NL[:, -1] >= 0)
    codes_NL[coded] = resolve_collisions(space, _rows(ordered, coded), raw_NL[coded])
    has_sid = codes_NL[:, -1] >= 0
    status = np.where(has_sid, np.where((codes_NL != raw_NL).any(axis=1), Status.RELOCATED, Status.ASSIGNED), 2)
    error = relative_error(codebook, _rows(ordered, np.flatnonzero(has_sid)), codes_NL[has_sid])
    back = np.argsort(order)
    return Assignment(codes_NL[back], raw_NL[back], status[back].astype(np.int8), error)


def _codes_under_capacity(space: Space, vectors: Mapping[str, Floats]) -> NDArray[np.int32]:
    """Codes (N, L) that respect the room of each level; -1 in all levels where a level had no room."""
    codebook = space.codebook
    codes_NL = np.full((len(vectors[codebook.sources[0]]), codebook.levels), -1, np.int32)
    alive = np.arange(len(codes_NL))
    for level, room in enumerate(space.room):
        aim = space.quantizer.target(codebook, _rows(vectors, alive), codes_NL[alive, :level])
        codes, _ = assign_in_order(aim, space.quantizer.centroids(codebook, level), room, None)
        codes_NL[alive, level] = codes
        codes_NL[alive[codes < 0]] = -1
        alive = alive[codes >= 0]
    return codes_NL


def _rows(vectors: Mapping[str, Floats], rows: NDArray[np.int64]) -> dict[str, Floats]:
    return {source: vector[rows] for source, vector in vectors.items()}
