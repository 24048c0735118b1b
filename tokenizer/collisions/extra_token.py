"""The token after the codes that makes SIDs unique without moving items: a count per SID, or a number per item."""

import numpy as np

from tokenizer.arrays.sid_keys import sid_keys
from tokenizer.arrays.types import Codes


def extra_tokens(codes_NL: Codes, taken_MS: Codes, sizes: tuple[int, ...], per_sid: bool) -> Codes:
    """Return the token of each item (N,), counted on from the taken SIDs (M, L + 1); -1 beyond the last size.

    `codes_NL` are in order of tie key. `per_sid` counts the items of each combination of codes (TIGER, arXiv
    2305.05065), otherwise all items are counted (CAR). A number is never reused, even after its item is deleted.
    """
    levels = len(sizes) - 1
    group_N, group_M = np.zeros(len(codes_NL), np.int64), np.zeros(len(taken_MS), np.int64)
    if per_sid:
        keys = sid_keys(np.concatenate([codes_NL, taken_MS[:, :levels]]), sizes[:levels])
        both = np.unique(keys, return_inverse=True)[1]
        group_N, group_M = both[: len(codes_NL)], both[len(codes_NL) :]
    groups = max(group_N.max(initial=0), group_M.max(initial=0)) + 1
    next_free = np.zeros(groups, np.int64)
    np.maximum.at(next_free, group_M, taken_MS[:, levels].astype(np.int64) + 1)
    order = np.argsort(group_N, kind="stable")
    count = np.bincount(group_N, minlength=groups)
    rank = np.empty(len(codes_NL), np.int64)
    rank[order] = np.arange(len(codes_NL)) - np.repeat(np.cumsum(count) - count, count)
    token_N = next_free[group_N] + rank
    return np.where(token_N < sizes[levels], token_N, -1).astype(np.int32)
