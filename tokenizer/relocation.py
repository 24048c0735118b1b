"""Give every item a SID of its own: the nearest free one to where it belongs.

Of the items that share a SID the nearest keeps it, ties by tie key; the others take the nearest free last
code within their prefix, and where the prefix is full, the nearest free SID outside, changing as late a level
as can be. A published SID is taken for good. Nothing depends on arrival: rows come in order of tie key.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenizer.codebook import Codebook
from tokenizer.distance import Floats, distance_blocks, own_distance
from tokenizer.outward import place_outward
from tokenizer.quantizer import Quantizer
from tokenizer.sid_keys import sid_keys

COST_CELLS = 1 << 24

Codes = NDArray[np.int32]
Vectors = Mapping[str, Floats]


@dataclass(frozen=True)
class Space:
    """A codebook with what is taken in it: the SIDs (M, L) of `occupied`, and the `room` left per code and
    level.

    `room` is reduced in place as items are placed.
    """

    codebook: Codebook
    quantizer: Quantizer
    occupied: Codes
    room: list[NDArray[np.int64]]


def resolve_collisions(space: Space, vectors: Vectors, codes_NL: Codes) -> Codes:
    """SIDs (N, L) that are unique among themselves and against the occupied; -1 in all levels where there is
    no room.

    `codes_NL` respect the room per code; rows are in order of tie key.
    """
    codes_NL = codes_NL.copy()
    for level, room in enumerate(space.room):
        room -= np.bincount(codes_NL[:, level], minlength=len(room))
    homeless = np.flatnonzero(~_keeps(space, vectors, codes_NL))
    if not homeless.size:
        return codes_NL
    last = space.room[-1]
    last += np.bincount(codes_NL[homeless, -1], minlength=len(last))
    sizes = space.codebook.sizes
    prefix_keys = sid_keys(codes_NL[homeless, :-1], sizes[:-1])
    homeless = homeless[np.argsort(prefix_keys, kind="stable")]
    placed = np.ones(len(codes_NL), bool)
    placed[homeless] = False
    chunk = max(1, COST_CELLS // sizes[-1])
    for start in range(0, len(homeless), chunk):
        rows = homeless[start : start + chunk]
        settled = np.concatenate([space.occupied, codes_NL[placed]])
        own = {source: vector[rows] for source, vector in vectors.items()}
        found = _within_prefix(space, own, codes_NL[rows, :-1], settled)
        codes_NL[rows, -1] = found
        placed[rows] = found >= 0
    if not placed.all():
        left = np.flatnonzero(~placed)
        settled = np.concatenate([space.occupied, codes_NL[placed]])
        for level, room in enumerate(space.room[:-1]):
            room += np.bincount(codes_NL[left, level], minlength=len(room))
        own = {source: vector[left] for source, vector in vectors.items()}
        codes_NL[left] = place_outward(space.codebook, space.quantizer, space.room, own, codes_NL[left], settled)
    return codes_NL


def _keeps(space: Space, vectors: Vectors, codes_NL: Codes) -> NDArray[np.bool_]:
    """Whether an item may keep its SID: nobody has it yet, and no one nearer wants it."""
    sizes, last = space.codebook.sizes, space.codebook.levels - 1
    keys = sid_keys(codes_NL, sizes)
    aim = space.quantizer.target(space.codebook, vectors, codes_NL[:, :last])
    distance = own_distance(aim, space.quantizer.centroids(space.codebook, last), codes_NL[:, last])
    order = np.lexsort((distance, keys))
    keeps = np.zeros(len(keys), bool)
    keeps[order] = np.r_[True, keys[order][1:] != keys[order][:-1]]
    return keeps & ~np.isin(keys, sid_keys(space.occupied, sizes))


def _within_prefix(space: Space, vectors: Vectors, prefix_Ul: Codes, settled_ML: Codes) -> Codes:
    """The nearest free last code within each row's prefix, int32 (U,), -1 where the prefix is full.

    In rounds: everyone asks for its nearest free code; of those who ask for the same SID the nearest gets it,
    and of those who ask for the same code as many as it has room for.
    """
    codebook, last = space.codebook, space.codebook.levels - 1
    cost_UK = np.empty((len(prefix_Ul), codebook.sizes[last]), np.float32)
    aim = space.quantizer.target(codebook, vectors, prefix_Ul)
    for rows, cost in distance_blocks(aim, space.quantizer.centroids(codebook, last)):
        cost_UK[rows] = cost
    prefixes, group_U = np.unique(sid_keys(prefix_Ul, codebook.sizes[:last]), return_inverse=True)
    taken_PK = _taken_codes(prefixes, settled_ML, codebook.sizes)
    room, found_U = space.room[last], np.full(len(prefix_Ul), -1, np.int32)
    waiting = np.arange(len(prefix_Ul))
    while waiting.size:
        cost = np.where(taken_PK[group_U[waiting]] | (room <= 0), np.float32(np.inf), cost_UK[waiting])
        code = cost.argmin(axis=1)
        price = cost[np.arange(len(waiting)), code]
        possible = np.isfinite(price)
        waiting, code, price = waiting[possible], code[possible], price[possible]
        order = np.lexsort((price, code, group_U[waiting]))
        first = np.ones(len(order), bool)
        pair = group_U[waiting[order]] * len(room) + code[order]
        first[1:] = pair[1:] != pair[:-1]
        winner = order[first]
        winner = winner[np.lexsort((winner, price[winner], code[winner]))]
        rank = np.arange(len(winner)) - np.searchsorted(code[winner], code[winner])
        winner = winner[rank < room[code[winner]]]
        found_U[waiting[winner]] = code[winner]
        taken_PK[group_U[waiting[winner]], code[winner]] = True
        room -= np.bincount(code[winner], minlength=len(room))
        waiting = waiting[found_U[waiting] < 0]
    return found_U


def _taken_codes(prefixes: NDArray[np.generic], settled_ML: Codes, sizes: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which last codes are taken under each of the sorted prefix keys, bool (P, K)."""
    taken_PK = np.zeros((len(prefixes), sizes[-1]), bool)
    keys = sid_keys(settled_ML[:, :-1], sizes[:-1])
    place = np.minimum(np.searchsorted(prefixes, keys), len(prefixes) - 1)
    under = prefixes[place] == keys
    taken_PK[place[under], settled_ML[under, -1]] = True
    return taken_PK
