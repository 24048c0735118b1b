"""Beam search over the trie: the most probable items after a history, only SIDs of the release.

The history is read once (`Generator.read`). Each architecture shares the read history among beams in its own way.

Scores are the model's log-probabilities, so the score of a SID is the exact log p(SID | history). A constrained model
distributes probability over the codes that may follow in the release, so all SIDs of the release add up to 1. Any other
model distributes it over all codes of a level. Filtered items keep their share of the probability.

Two arguments restrict the items; neither spends a beam on a prefix that cannot end in a result. A filter for all users
(blocked, out of stock, another locale) is the trie that is searched: `TrieMasks.of(trie, allowed)`, made once per
filter (`TrieFilters` keeps them by name). `exclude` holds the rows that a single user may not see.

`SamplingOptions` makes lists more diverse. A temperature flattens the distribution of each level. In diverse beam
search (Vijayakumar et al., arXiv 1610.02424) groups of beams take turns at each level, and a code costs more for each
beam of an earlier group that has taken it.

Shape suffixes as in `training.models.generator`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tokenizer.arrays.types import Ints
from training.data.events import Events
from training.models.generator import Generator
from training.models.trie_tensors import ExcludedRows, TrieTensors

Scores = npt.NDArray[np.float32]

OTHER_GROUP_COST = 1e9
"""Cost of a child of another group's beam. It exceeds any score, so such a child is taken last."""


@dataclass(frozen=True)
class SamplingOptions:
    """Settings for more diverse results; the defaults give the most probable items.

    Logits are divided by `temperature`. With more than one group the beams are distributed evenly, and a code costs
    `diversity`, in nats, for each beam of an earlier group that took it at the same level for the same user.
    """

    temperature: float = 1.0
    groups: int = 1
    diversity: float = 0.0


MOST_PROBABLE = SamplingOptions()


@dataclass(frozen=True)
class _Search:
    """The constant part of a search. `closed` are the edges that are closed for single users, by level."""

    model: Generator
    trie: TrieTensors
    beams: int
    closed: list[Tensor] | None
    sampling: SamplingOptions


@dataclass
class _Beams:
    """Live beams (B, W): trie node, score, node of the unfiltered trie, and prefix number."""

    nodes: Tensor
    scores: Tensor
    whole: Tensor
    keys: Tensor


def beam_search(
    model: Generator,
    trie: TrieTensors,
    events: Events,
    beams: int,
    exclude: ExcludedRows | None = None,
    sampling: SamplingOptions = MOST_PROBABLE,
) -> tuple[Ints, Scores]:
    """Return the `beams` best items of each history: rows of `Trie.item_ids`, -1 padded, and log p, (B, beams).

    Only items that `trie` allows can appear. `exclude` are the rows to leave out per user (-1, an item outside the
    release, is ignored). Every user still gets min(beams, items allowed and not excluded) results without duplicates.
    With at least as many beams as items the result equals that of scoring all items. Puts the model in evaluation mode.
    Raises ValueError if the number of beams is no multiple of the number of groups.
    """
    nodes, scores = search_sids(model, trie, events, beams, exclude, sampling)
    return items_of(trie, nodes, scores, beams, exclude)


@torch.inference_mode()
def search_sids(
    model: Generator,
    trie: TrieTensors,
    events: Events,
    beams: int,
    exclude: ExcludedRows | None = None,
    sampling: SamplingOptions = MOST_PROBABLE,
) -> tuple[Ints, Scores]:
    """Return the SIDs of `beam_search`, best first: nodes after the last level (B, W), -1 padded, and log p (B, W)."""
    if beams % sampling.groups:
        raise ValueError(
            f"{beams} beams cannot be divided among {sampling.groups} groups; choose a multiple of {sampling.groups}"
        )
    model.eval()
    batch, device = len(events.lengths), events.lengths.device
    closed = trie.closed(exclude) if exclude is not None and any(len(rows) for rows in exclude) else None
    search, reading = _Search(model, trie, beams, closed, sampling), model.read(events)
    root_B1 = torch.zeros(batch, 1, dtype=torch.long, device=device)
    live = _Beams(root_B1, torch.zeros(batch, 1, device=device), root_B1, root_B1)
    for level in range(trie.levels):
        parents_BW, codes_BW = _expand_beams(search, level, reading.hidden, live)
        if level + 1 < trie.levels:
            reading.extend(level, parents_BW, codes_BW)
    scores_BW, order_BW = live.scores.sort(dim=1, descending=True, stable=True)
    return live.nodes.gather(1, order_BW).cpu().numpy(), scores_BW.cpu().numpy()


def _expand_beams(search: _Search, level: int, hidden_BWD: Tensor, live: _Beams) -> tuple[Tensor, Tensor]:
    """Move the beams one level down to the best valid children; return their parents and codes (B, W)."""
    model, trie, beams, sampling = search.model, search.trie, search.beams, search.sampling
    size, constrained = trie.sizes[level], model.spec.constrained
    if constrained:
        logits_BWK = model.scores(level, hidden_BWD, trie.whole, live.whole, live.keys)
    else:
        logits_BWK = model.logits(level, hidden_BWD)
    scores_BWK = live.scores.unsqueeze(-1) + (logits_BWK.float() / sampling.temperature).log_softmax(dim=-1)
    if constrained:  # a dead beam has no children
        scores_BWK = scores_BWK.nan_to_num(nan=-torch.inf, neginf=-torch.inf)
    if not constrained or trie.whole is not trie:
        scores_BWK = trie.restrict(level, scores_BWK, live.nodes)
    if search.closed is not None and search.closed[level].numel():
        trie.close(scores_BWK, live.nodes, search.closed[level])
    if sampling.groups == 1:
        live.scores, index_BW = scores_BWK.flatten(1).topk(min(beams, scores_BWK[0].numel()), dim=1)
    else:
        live.scores, index_BW = _diverse_topk(scores_BWK, beams // sampling.groups, sampling)
    parents_BW, codes_BW = index_BW // size, index_BW % size
    children_BW = trie.step(level, live.nodes.gather(1, parents_BW), codes_BW)
    live.keys = model.prefix_key(level, live.keys.gather(1, parents_BW), codes_BW)
    live.nodes = children_BW.where(live.scores > -torch.inf, -1)
    same = trie.whole is trie
    live.whole = live.nodes if same else trie.whole.step(level, live.whole.gather(1, parents_BW), codes_BW)
    return parents_BW, codes_BW


def _diverse_topk(scores_BWK: Tensor, share: int, sampling: SamplingOptions) -> tuple[Tensor, Tensor]:
    """Select `share` children for each group in turn: scores and indices into W * K, group by group.

    The Hamming penalty of this level affects the selection and is not carried on, so scores stay log-probabilities.
    Unlike the paper, no child is taken twice, and a group with too few children left takes those of other groups. So no
    item appears twice, and no position stays empty while an item is left.
    """
    batch, width, size = scores_BWK.shape
    left_BI = scores_BWK.flatten(1).double()
    taken_BK = left_BI.new_zeros(batch, size)
    beam_I = torch.arange(width * size, device=left_BI.device) // size
    scores, indices = [], []
    for group in range(sampling.groups):
        # The root belongs to all groups; on later levels each has its share of the beams, in order.
        foreign_I = (beam_I // (width // sampling.groups) != group) if width > 1 else beam_I > 0
        cost_BI = sampling.diversity * taken_BK.repeat(1, width) + OTHER_GROUP_COST * foreign_I
        index_BS = (left_BI - cost_BI).topk(min(share, width * size), dim=1).indices
        # If no child is left, taken ones are picked again with score -inf.
        score_BS = left_BI.gather(1, index_BS)
        taken_BK.scatter_add_(1, index_BS % size, (score_BS > -torch.inf).double())
        left_BI.scatter_(1, index_BS, -torch.inf)
        scores.append(score_BS.float())
        indices.append(index_BS)
    return torch.cat(scores, dim=1), torch.cat(indices, dim=1)


def items_of(
    trie: TrieTensors, nodes: Ints, scores: Scores, beams: int, exclude: ExcludedRows | None
) -> tuple[Ints, Scores]:
    """Return the items of SIDs (B, W), best first, without the excluded ones; items that share a SID in row order."""
    row, count = trie.masks.items(nodes.ravel())
    beam = np.repeat(np.arange(nodes.size), count)
    user = beam // nodes.shape[1]
    if trie.masks.shares and exclude is not None:
        closed = [np.isin(row[user == each], rows) for each, rows in enumerate(exclude)]
        beam, user, row = (of[~np.concatenate(closed)] for of in (beam, user, row))
    rank = np.arange(len(user)) - np.searchsorted(user, user)
    beam, user, row, rank = (of[rank < beams] for of in (beam, user, row, rank))
    best = np.full((len(nodes), beams), -1, np.int64)
    best_scores = np.full((len(nodes), beams), -np.inf, np.float32)
    best[user, rank] = row
    best_scores[user, rank] = scores.ravel()[beam]
    return best, best_scores
