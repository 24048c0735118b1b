"""Beam search over the trie: the most probable items after a history, never a SID that is not in the release.

The history is encoded once. Generated codes join its cache behind it, each seeing the history and its own ancestors
only (tree attention), so beams cost no copy of the cache and changing beams only changes a mask.

Scores are the model's own log-probabilities: log_softmax over all codes of a level, then the trie's mask. They are
not renormalised over valid codes, so a beam's score is the exact log p(SID | history) and does not depend on which
other items a release holds.

Shape suffixes as in `training.generator`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.generator import Generator

if TYPE_CHECKING:
    from tokenizer.trie import Trie

Ints = npt.NDArray[np.int64]
Rows = Sequence[npt.NDArray[np.integer]]


@dataclass(frozen=True)
class Leaves:
    """The sorted SIDs of a trie (N, L), and for every level how many of them lie below each of its nodes."""

    codes: npt.NDArray[np.int32]
    below: tuple[Ints, ...]


def count_leaves(trie: Trie) -> Leaves:
    """Walk all SIDs through the trie once: O(N * L), to be kept for as many searches as follow."""
    codes = trie.codes()
    nodes, below = np.zeros(len(codes), dtype=np.int64), []
    for level in range(trie.levels):
        nodes = trie.step(level, nodes, codes[:, level])
        below.append(np.bincount(nodes))
    return Leaves(codes, tuple(below))


@dataclass(frozen=True)
class _Closed:
    """Edges one level may not take: user (X,), parent node (X,) and code (X,)."""

    user: Ints
    parent: Ints
    code: Ints

    def bar(self, barred_BWK: npt.NDArray[np.bool_], nodes_BW: Ints) -> None:
        """Add the edges to a mask of barred codes, in place."""
        edge, beam = np.nonzero(nodes_BW[self.user] == self.parent[:, None])
        barred_BWK[self.user[edge], beam, self.code[edge]] = True


def _closed_edges(trie: Trie, leaves: Leaves, exclude: Rows) -> list[_Closed]:
    """Per level, the edges below which every item is excluded for the user.

    Closing these and not just the leaves is what keeps the promise of `beam_search`: no beam is spent on a prefix
    that cannot end in a result.
    """
    user = np.repeat(np.arange(len(exclude)), [len(rows) for rows in exclude])
    rows = np.concatenate([np.asarray(rows, dtype=np.int64) for rows in exclude])
    pairs = np.unique(np.stack([user, rows], axis=1)[rows >= 0], axis=0)
    user, codes = pairs[:, 0], leaves.codes[pairs[:, 1]]
    parent = np.zeros(len(pairs), dtype=np.int64)
    edges = []
    for level in range(trie.levels):
        child = trie.step(level, parent, codes[:, level])
        keys = np.stack([user, parent, codes[:, level], child])
        unique, counts = np.unique(keys, axis=1, return_counts=True)
        full = unique[:, counts == leaves.below[level][unique[3]]]
        edges.append(_Closed(full[0], full[1], full[2]))
        parent = child
    return edges


@dataclass
class _Beams:
    """Live beams: trie node and score (B, W), and which cached positions each may see (B, W, S)."""

    nodes: Ints
    scores: Tensor
    visible: Tensor


@torch.inference_mode()
def beam_search(
    model: Generator,
    trie: Trie,
    tokens_BT: Tensor,
    feedback_BT: Tensor,
    beams: int,
    exclude: Rows | None = None,
    leaves: Leaves | None = None,
) -> tuple[Ints, npt.NDArray[np.float32]]:
    """The `beams` best items of each history: rows into `trie.item_ids` (B, beams), -1 padded, and log p (B, beams).

    tokens and feedback (B, T) hold BOS and whole events, padded on the right. `exclude` gives each user the rows that
    may not appear (-1, an item outside the release, is passed over); every user still gets min(beams, items not
    excluded) results. `leaves` spares counting them anew. With at least as many beams as items the result is that of
    scoring all items. Puts the model in evaluation mode.
    """
    model.eval()
    device = tokens_BT.device
    closed = None
    if exclude is not None and any(len(rows) for rows in exclude):
        closed = _closed_edges(trie, leaves or count_leaves(trie), exclude)
    known_BT = tokens_BT != model.layout.pad
    length_B = known_BT.sum(dim=1)
    hidden_BTD, cache = model.encode(tokens_BT, feedback_BT)
    hidden_BWD = hidden_BTD[torch.arange(len(tokens_BT), device=device), length_B - 1].unsqueeze(1)
    live = _Beams(
        np.zeros((len(tokens_BT), 1), dtype=np.int64),
        torch.zeros(len(tokens_BT), 1, device=device),
        known_BT.unsqueeze(1),
    )
    for level in range(trie.levels):
        codes_BW = _widen(model, trie, level, hidden_BWD, live, beams, closed)
        if level + 1 < trie.levels:
            width = codes_BW.shape[1]
            own = torch.eye(width, dtype=torch.bool, device=device).expand(len(codes_BW), width, width)
            live.visible = torch.cat([live.visible, own], dim=2)
            hidden_BWD, cache = model.encode(
                codes_BW + int(model.layout.offsets[level]),
                torch.zeros_like(codes_BW),
                positions_BT=(length_B + level).unsqueeze(1).expand(codes_BW.shape),
                past=cache,
                mask_BTS=live.visible,
            )
    return _padded(live, beams)


def _widen(
    model: Generator,
    trie: Trie,
    level: int,
    hidden_BWD: Tensor,
    live: _Beams,
    beams: int,
    closed: list[_Closed] | None,
) -> Tensor:
    """Move the beams one level down to the best valid children; returns the codes taken (B, W)."""
    batch, width = live.nodes.shape
    size = trie.sizes[level]
    barred_BWK = ~trie.mask(level, live.nodes.reshape(-1)).reshape(batch, width, size)
    if closed is not None:
        closed[level].bar(barred_BWK, live.nodes)
    logp_BWK = model.logits(level, hidden_BWD).float().log_softmax(dim=-1)
    scores_BWK = live.scores.unsqueeze(-1) + logp_BWK
    scores_BWK.masked_fill_(torch.from_numpy(barred_BWK).to(scores_BWK.device), -torch.inf)
    live.scores, index_BW = scores_BWK.flatten(1).topk(min(beams, width * size), dim=1)
    parent_BW = index_BW // size
    codes_BW: Tensor = index_BW % size
    live.visible = live.visible.gather(1, parent_BW.unsqueeze(-1).expand(-1, -1, live.visible.shape[2]))
    parents = np.take_along_axis(live.nodes, parent_BW.cpu().numpy(), axis=1)
    children = trie.step(level, parents.reshape(-1), codes_BW.cpu().numpy().reshape(-1)).reshape(parents.shape)
    live.nodes = np.where(live.scores.isneginf().cpu().numpy(), -1, children)
    return codes_BW


def _padded(live: _Beams, beams: int) -> tuple[Ints, npt.NDArray[np.float32]]:
    short = beams - live.nodes.shape[1]
    rows = np.pad(live.nodes, ((0, 0), (0, short)), constant_values=-1)
    scores = np.pad(live.scores.cpu().numpy(), ((0, 0), (0, short)), constant_values=-np.inf)
    return rows, scores
