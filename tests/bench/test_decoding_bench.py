"""The decoding benchmark on a small trie: what it prints, and that its two searches are what they are called."""

import json

import numpy as np
import pytest

from bench.__main__ import main
from bench.speed import decoding
from bench.speed.decoding import SIZES, Clocked, Unconstrained, histories
from bench.speed.trie import names, random_sids
from tokenizer.trie.masks import TrieMasks
from tokenizer.trie.trie import Trie
from training.decoding.beam_search import search_sids
from training.models import build_generator
from training.models.trie_tensors import TrieTensors
from training.spec import GeneratorSpec


def test_it_prints_each_figure_with_what_it_is_held_against(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "BATCHES", (1, 3))
    assert [shape.prefix_outputs for shape in decoding.SHAPES.values()] == [False, True]
    assert main(["decoding", "--items", "500", "--rounds", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["unit"], row["against"]) for row in rows] == 4 * [
        ("users/s", "the same search without a trie"),
        ("of time", "the limit of 0.1"),
    ]
    assert all(row["value"] > 0 and row["ratio"] > 0 for row in rows)
    assert all(row["value"] < 1 for row in rows if row["unit"] == "of time")


def test_the_clocked_search_is_the_search_and_the_free_one_leaves_the_trie() -> None:
    trie = Trie.build(random_sids(300, SIZES[0]), names(300), SIZES)
    model, masks = build_generator(GeneratorSpec(constrained=False), SIZES, "v"), TrieMasks.of(trie)
    events, seen = histories(model, trie.codes(), 2)
    clocked = Clocked(masks)
    found = search_sids(model, clocked, events, 20, seen)
    np.testing.assert_array_equal(found[0], search_sids(model, TrieTensors(masks), events, 20, seen)[0])
    assert clocked.seconds > 0
    free = search_sids(model, Unconstrained(masks), events, 20)
    assert (free[1][:, 0] >= found[1][:, 0]).all()
    assert (free[1] > found[1]).any()
