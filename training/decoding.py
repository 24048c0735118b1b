"""Beam search over the trie: the most probable items after a history, never a SID that is not in the release.

The history is read once (`Generator.read`); how beams share what was read is the architecture's own.

Scores are the model's own log-probabilities: log_softmax over all codes of a level, then the trie's mask. They are
not renormalised over valid codes, so a beam's score is the exact log p(SID | history) and does not depend on which
other items a release holds.

Which items may appear is said in two places, neither of which spends a beam on a prefix that cannot end in a result: a
filter for everybody (blocked, out of stock, another locale) is the trie that is searched, `TrieMasks.of(trie, allowed)`
made once per filter; what one user may not see is `exclude`.

Shape suffixes as in `training.generator`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.events import Events
from training.generator import Generator
from training.trie_tensors import Rows, TrieTensors

Ints = npt.NDArray[np.int64]


@dataclass
class _Beams:
    """Live beams: trie node and score (B, W)."""

    nodes: Tensor
    scores: Tensor


@torch.inference_mode()
def beam_search(
    model: Generator,
    trie: TrieTensors,
    events: Events,
    beams: int,
    exclude: Rows | None = None,
) -> tuple[Ints, npt.NDArray[np.float32]]:
    """The `beams` best items of each history: rows into `Trie.item_ids` (B, beams), -1 padded, and log p (B, beams).

    Only items that `trie` allows can appear. `exclude` gives each user the rows that may not (-1, an item outside the
    release, is passed over); every user still gets min(beams, items allowed and not excluded) results. With at least
    as many beams as items the result is that of scoring all items. Puts the model in evaluation mode.
    """
    model.eval()
    batch, device = len(events.lengths), events.lengths.device
    closed = trie.closed(exclude) if exclude is not None and any(len(rows) for rows in exclude) else None
    reading = model.read(events)
    live = _Beams(torch.zeros(batch, 1, dtype=torch.long, device=device), torch.zeros(batch, 1, device=device))
    for level in range(trie.levels):
        parents_BW, codes_BW = _widen(model, trie, level, reading.hidden, live, beams, closed)
        if level + 1 < trie.levels:
            reading.extend(level, parents_BW, codes_BW)
    return _ranked(trie, live, beams, exclude)


def _widen(
    model: Generator,
    trie: TrieTensors,
    level: int,
    hidden_BWD: Tensor,
    live: _Beams,
    beams: int,
    closed: list[tuple[Tensor, Tensor]] | None,
) -> tuple[Tensor, Tensor]:
    """Move the beams one level down to the best valid children; returns their parents and the codes taken (B, W)."""
    size = trie.sizes[level]
    mask_BWK = trie.mask(level, live.nodes)
    if closed is not None:
        trie.close(level, mask_BWK, live.nodes, closed[level])
    logp_BWK = model.logits(level, hidden_BWD).float().log_softmax(dim=-1)
    scores_BWK = (live.scores.unsqueeze(-1) + logp_BWK).where(mask_BWK, -torch.inf)
    live.scores, index_BW = scores_BWK.flatten(1).topk(min(beams, scores_BWK[0].numel()), dim=1)
    parents_BW, codes_BW = index_BW // size, index_BW % size
    children_BW = trie.step(level, live.nodes.gather(1, parents_BW), codes_BW)
    live.nodes = children_BW.where(live.scores > -torch.inf, -1)
    return parents_BW, codes_BW


def _ranked(trie: TrieTensors, live: _Beams, beams: int, exclude: Rows | None) -> tuple[Ints, npt.NDArray[np.float32]]:
    """The items behind the beams, best first; of those that share a SID in order of row, without the excluded."""
    nodes_BW = live.nodes.cpu().numpy()
    row, count = trie.masks.items(nodes_BW.ravel())
    beam = np.repeat(np.arange(nodes_BW.size), count)
    user = beam // nodes_BW.shape[1]
    if trie.masks.shares and exclude is not None:
        closed = [np.isin(row[user == each], rows) for each, rows in enumerate(exclude)]
        beam, user, row = (of[~np.concatenate(closed)] for of in (beam, user, row))
    rank = np.arange(len(user)) - np.searchsorted(user, user)
    beam, user, row, rank = (of[rank < beams] for of in (beam, user, row, rank))
    rows = np.full((len(nodes_BW), beams), -1, np.int64)
    scores = np.full((len(nodes_BW), beams), -np.inf, np.float32)
    rows[user, rank] = row
    scores[user, rank] = live.scores.cpu().numpy().ravel()[beam]
    return rows, scores
