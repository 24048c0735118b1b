"""Beam search on CPU: `python -m bench decoding [--items 1e5]`. Figures are medians of rounds.

Models of the default shape and of the benchmark's headline have random weights. The trie holds random SIDs of 3 x 256
codes; histories are full, and their items are excluded. The cost of masks is measured twice: as the share of a search's
time spent in the trie (masks, edges, steps and closed edges), timed separately; and against the same search without a
trie, run alternately.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.speed.trie import names, random_sids
from tokenizer.trie.masks import TrieMasks
from tokenizer.trie.trie import Trie
from training.data.events import Events, gathered
from training.decoding.beam_search import search_sids
from training.models import build_generator
from training.models.generator import Generator
from training.models.trie_tensors import ExcludedRows, TrieTensors
from training.spec import GeneratorSpec

SIZES = (256, 256, 256)
BEAMS, BATCHES = 20, (1, 64)
SHAPES = {"default": GeneratorSpec(), "prefix outputs": GeneratorSpec(prefix_outputs=True)}
LIMIT = 0.1
"""Largest share of a search's time that masks may take."""


class Clocked(TrieTensors):
    """A trie that sums the seconds spent in it."""

    seconds, inside = 0.0, False

    def restrict(self, level: int, scores_BWK: Tensor, nodes_BW: Tensor) -> Tensor:
        return self._clock(super().restrict, level, scores_BWK, nodes_BW)  # type: ignore[no-any-return]

    def close(self, scores_BWK: Tensor, nodes_BW: Tensor, closed: Tensor) -> None:
        self._clock(super().close, scores_BWK, nodes_BW, closed)

    def step(self, level: int, nodes_BW: Tensor, codes_BW: Tensor) -> Tensor:
        return self._clock(super().step, level, nodes_BW, codes_BW)  # type: ignore[no-any-return]

    def edges(self, level: int, nodes_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._clock(super().edges, level, nodes_N)  # type: ignore[no-any-return]

    def closed(self, exclude: ExcludedRows) -> list[Tensor]:
        return self._clock(super().closed, exclude)  # type: ignore[no-any-return]

    def _clock(self, function: Callable[..., Any], *arguments: object) -> Any:
        if self.inside:  # called by another method of this class
            return function(*arguments)
        self.inside, start = True, time.perf_counter()
        found = function(*arguments)
        self.inside = False
        self.seconds += time.perf_counter() - start
        return found


class Unconstrained(TrieTensors):
    """A trie that allows every code after every prefix and looks up nothing: a search without a trie."""

    def restrict(self, level: int, scores_BWK: Tensor, nodes_BW: Tensor) -> Tensor:
        return scores_BWK

    def step(self, level: int, nodes_BW: Tensor, codes_BW: Tensor) -> Tensor:
        return codes_BW


def histories(model: Generator, codes: np.ndarray, batch: int) -> tuple[Events, list[np.ndarray]]:
    """Return full histories of random items, and the rows of those items."""
    events = model.spec.max_events - 1
    rows = np.random.default_rng(batch).integers(0, len(codes), (batch, events))
    return gathered(codes, np.zeros(len(codes), np.int64), rows, np.full(batch, events)), list(rows)


def measure(items: int, shape: str, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Return table rows for a shape and batch size; searches with and without a trie alternate, after one warm-up each.

    Without a trie the prefix of a code is unknown, so that search uses the model without prefix outputs.
    """
    trie = Trie.build(random_sids(items, SIZES[0]), names(items), SIZES)
    model = build_generator(SHAPES[shape], SIZES, "bench")
    plain = build_generator(SHAPES[shape].model_copy(update={"prefix_outputs": False}), SIZES, "bench")
    masks = TrieMasks.of(trie)
    clocked, free = Clocked(masks), Unconstrained(masks)
    events, seen = histories(model, trie.codes(), batch)
    constrained, unconstrained, shares = [], [], []
    for _ in range(rounds + 1):
        clocked.seconds, start = 0.0, time.perf_counter()
        search_sids(model, clocked, events, BEAMS, seen)
        constrained.append(time.perf_counter() - start)
        shares.append(clocked.seconds / constrained[-1])
        start = time.perf_counter()
        search_sids(plain, free, events, BEAMS)
        unconstrained.append(time.perf_counter() - start)
    took, free_took, share = (statistics.median(times[1:]) for times in (constrained, unconstrained, shares))
    return [
        {
            "name": f"{shape}: beam search, {BEAMS} beams, batch of {batch}",
            "value": batch / took,
            "unit": "users/s",
            "ratio": free_took / took,
            "against": "the same search without a trie",
        },
        {
            "name": f"{shape}: share of it in masks, batch of {batch}",
            "value": share,
            "unit": "of time",
            "ratio": share / LIMIT,
            "against": f"the limit of {LIMIT}",
        },
    ]


def run(options: argparse.Namespace) -> None:
    """Print all figures, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = [
        row for shape in SHAPES for batch in BATCHES for row in measure(options.items, shape, batch, options.rounds)
    ]
    torch.set_num_threads(threads)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        value, ratio = f"{row['value']:,.3f}", f"{row['ratio']:.2f}"
        print(f"{row['name']:<52} {value:>12} {row['unit']:<8} {ratio:>6} x  {row['against']}")
