"""Trie-constrained beam search against scoring every item one by one."""

from unittest import mock

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import training.models.trie_tensors as trie_tensors
from tokenizer.trie.filters import TrieFilters, by_filter
from tokenizer.trie.masks import TrieMasks
from tokenizer.trie.trie import Trie
from training.data.events import Events, gathered
from training.decoding.beam_search import SamplingOptions, beam_search
from training.models import build_generator
from training.models.generator import Generator
from training.models.trie_tensors import TrieTensors
from training.registry import ARCHITECTURES
from training.spec import GeneratorSpec

SIZES = (5, 4, 3)


SPEC = GeneratorSpec(dim=32, layers=2, heads=4, kv_heads=2, ff=48, dropout=0.1, max_events=8)


Ints = npt.NDArray[np.int64]


def trie_of(items: int, seed: int, shared: bool = False) -> Trie:
    """A trie of random SIDs; where they are shared, items pile up on a third of them."""
    rng = np.random.default_rng(seed)
    sids = int(np.prod(SIZES))
    packed = rng.integers(0, sids // 3, items) if shared else rng.choice(sids, size=items, replace=False)
    codes = np.stack(np.unravel_index(packed, SIZES), axis=1).astype(np.int32)
    return Trie.build(codes, pa.array([f"i{item:03d}" for item in range(items)]), SIZES, shared)


def whole(trie: Trie) -> TrieTensors:
    return TrieTensors(TrieMasks.of(trie))


def model_of(
    seed: int, architecture: str = "rq_transformer", constrained: bool = True, prefixes: bool = False
) -> Generator:
    """A generator whose scores differ enough to be ranked the same way in two orders of summation."""
    changes = {"architecture": architecture, "constrained": constrained, "prefix_outputs": prefixes}
    model = build_generator(SPEC.model_copy(update=changes), SIZES, "v", seed)
    with torch.no_grad():
        if prefixes:
            model.prefixes.weight.mul_(20)
        for head in model.heads:
            head.weight.mul_(20)
    return model.eval()


def histories(lengths: list[int], seed: int) -> Events:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, SIZES, size=(sum(lengths), len(SIZES)))
    first = np.cumsum([0, *lengths])[:-1]
    rows = first[:, None] + np.arange(max(lengths))[None, :]
    return gathered(codes, rng.integers(0, 2, sum(lengths)), rows, np.array(lengths))


def one(events: Events, user: int) -> Events:
    """The history of one user, without padding."""
    length = int(events.lengths[user])
    rows = slice(user, user + 1)
    return Events(events.codes[rows, :length], events.kinds[rows, :length], events.lengths[rows])


def within(model: Generator, trie: Trie, sid: tuple[int, ...], logits: list[torch.Tensor]) -> list[torch.Tensor]:
    """log p of the codes of each level behind the prefixes of a SID."""
    sids = [tuple(codes) for codes in trie.codes().tolist()]
    for level, each in enumerate(logits):
        follow = {other[level] for other in sids if other[:level] == sid[:level]}
        if model.spec.constrained:
            each[[code for code in range(SIZES[level]) if code not in follow]] = -torch.inf
    return [each.log_softmax(-1) for each in logits]


def every_prefix(model: Generator, sid: tuple[int, ...]) -> list[tuple[int, tuple[int, ...]]]:
    """(level, prefix) of all prefixes, longer than a code, that one code more than those of a SID leads to."""
    return [(at, (*sid[:at], code)) for at in range(1, len(sid)) for code in range(SIZES[at])]


def prefix_vector(model: Generator, prefix: tuple[int, ...]) -> torch.Tensor:
    """The embedding that a history's event with this prefix gets for it."""
    filled = torch.tensor([*prefix, *[0] * (len(SIZES) - len(prefix))])
    rows = model.prefix_rows(filled)[2 * (len(prefix) - 2) : 2 * (len(prefix) - 1)]
    assert model.prefixes is not None
    return model.prefixes(rows).sum(dim=0)


@torch.no_grad()
def score_all(model: Generator, trie: Trie, events: Events, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """log p of every item after every history, one full pass each, as in training; (B, N)."""
    scores = np.empty((len(events.lengths), len(trie)))
    for user in range(len(scores)):
        known = one(events, user)
        target = torch.arange(known.codes.shape[1] + 1)[None] == known.lengths
        kinds = torch.cat([known.kinds, torch.zeros(1, 1, dtype=torch.long)], dim=1)
        for row, codes in enumerate(trie.codes().tolist()):
            item = torch.tensor(codes).view(1, 1, -1)
            whole = Events(torch.cat([known.codes, item], dim=1), kinds, known.lengths + 1)
            logits = [each[0] for each in model(whole, target)]
            if model.spec.prefix_outputs:
                hidden = model.states(whole, target)[0]
                for level, code in every_prefix(model, tuple(codes)):
                    logits[level][code[-1]] += hidden[level] @ prefix_vector(model, code)
            logp = within(model, trie, tuple(codes), [each / temperature for each in logits])
            scores[user, row] = sum(each[code].item() for each, code in zip(logp, codes, strict=True))
    return scores


@pytest.mark.parametrize(("constrained", "prefixes"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_with_a_beam_for_each_item_the_search_is_exhaustive(
    architecture: str, constrained: bool, prefixes: bool
) -> None:
    model, trie = model_of(0, architecture, constrained, prefixes), trie_of(25, 0)
    events = histories([3, 0, 5], 0)
    expected = score_all(model, trie, events)
    rows, scores = beam_search(model, whole(trie), events, beams=30)
    assert (rows[:, 25:] == -1).all()
    assert np.isneginf(scores[:, 25:]).all()
    np.testing.assert_array_equal(rows[:, :25], np.argsort(-expected, axis=1))
    np.testing.assert_allclose(scores[:, :25], np.take_along_axis(expected, rows[:, :25], axis=1), atol=1e-3)


@pytest.mark.parametrize("compared", [1, trie_tensors.COMPARED])
def test_excluding_items_leaves_the_exhaustive_ranking_of_the_rest(
    compared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trie_tensors, "COMPARED", compared)
    model, trie = model_of(1), trie_of(20, 1)
    events = histories([2, 4], 1)
    exclude: list[Ints] = [np.array([3, 3, -1, 17, 0]), np.arange(12)]
    expected = score_all(model, trie, events)
    rows, _ = beam_search(model, whole(trie), events, 20, exclude)
    for user, seen in enumerate(exclude):
        order = [row for row in np.argsort(-expected[user]) if row not in seen]
        assert rows[user, : len(order)].tolist() == order
        assert (rows[user, len(order) :] == -1).all()


@settings(max_examples=40, deadline=None)
@given(
    items=st.integers(0, 40),
    beams=st.integers(1, 12),
    allowed=st.lists(st.booleans(), min_size=40, max_size=40),
    seen=st.lists(st.integers(0, 40), min_size=2, max_size=2),
    seed=st.integers(0, 1000),
    shared=st.booleans(),
    groups=st.integers(1, 4),
    diversity=st.sampled_from([0.0, 0.5, 100.0]),
    constrained=st.booleans(),
    apart=st.booleans(),
)
def test_no_barred_item_appears_and_no_place_stays_empty(
    items: int,
    beams: int,
    allowed: list[bool],
    seen: list[int],
    seed: int,
    shared: bool,
    groups: int,
    diversity: float,
    constrained: bool,
    apart: bool,
) -> None:
    """Filters for everybody and items seen by one user, against sets; also where items share SIDs, and in groups.

    With few beams: a filter after the search would leave places empty. `apart`: probability goes to the whole trie.
    """
    beams *= groups
    model, trie = model_of(2, constrained=constrained), trie_of(items, seed, shared)
    events = histories([3, 6], seed)
    rng = np.random.default_rng(seed)
    exclude = [rng.permutation(items)[:count] for count in seen]
    masks = TrieMasks.of(trie, np.array(allowed[:items], bool))
    filtered = TrieTensors(masks, whole=whole(trie) if apart else None)
    rows, scores = beam_search(model, filtered, events, beams, exclude, SamplingOptions(1.0, groups, diversity))
    for user, gone in enumerate(exclude):
        good = {row for row in range(items) if allowed[row]} - set(gone.tolist())
        found = rows[user][rows[user] >= 0].tolist()
        assert len(found) == len(set(found)) == min(beams, len(good))
        assert set(found) <= good
        assert (np.diff(scores[user][: len(found)]) <= 0).all()


def test_items_that_share_a_sid_share_its_place() -> None:
    model, trie = model_of(3), trie_of(40, 3, shared=True)
    events = histories([2, 4], 3)
    expected = score_all(model, trie, events)
    rows, scores = beam_search(model, whole(trie), events, 45)
    assert trie.shared > 2
    for user in range(2):
        order = np.lexsort((np.arange(40), -np.round(expected[user], 4)))
        np.testing.assert_array_equal(rows[user, :40], order)
        np.testing.assert_allclose(scores[user, :40], expected[user][order], atol=1e-3)
        assert (rows[user, 40:] == -1).all()


@pytest.mark.parametrize("constrained", [True, False])
def test_a_filter_leaves_the_exhaustive_ranking_of_the_rest(constrained: bool) -> None:
    model, trie = model_of(6, constrained=constrained), trie_of(30, 6)
    events = histories([2, 4], 6)
    allowed = np.random.default_rng(6).random(30) < 0.4
    expected = score_all(model, trie, events)
    filtered = TrieTensors(TrieMasks.of(trie, allowed), whole=whole(trie))
    rows, scores = beam_search(model, filtered, events, 30)
    for user in range(2):
        order = [row for row in np.argsort(-expected[user]).tolist() if allowed[row]]
        assert rows[user, : len(order)].tolist() == order
        np.testing.assert_allclose(scores[user, : len(order)], expected[user][order], atol=1e-3)
        assert (rows[user, len(order) :] == -1).all()


def test_each_user_of_a_batch_is_searched_under_filters_of_their_own() -> None:
    model, trie = model_of(8), trie_of(9, 8)
    draw, events = np.random.default_rng(8), histories([2, 4, 3], 8)
    allowed = {name: draw.random(9) < 0.6 for name in ("stock", "locale")}
    filters, everything = TrieFilters(trie, allowed), whole(trie)
    wanted = [["stock", "locale"], [], ["locale"]]
    expected, rows = score_all(model, trie, events), np.empty((3, 9), np.int64)
    for names, users in by_filter(wanted).items():
        searched = TrieTensors(filters.masks(*names), whole=everything)
        theirs = Events(events.codes[users], events.kinds[users], events.lengths[users])
        rows[users], _ = beam_search(model, searched, theirs, 9)
    for user, names in enumerate(wanted):
        may = [row for row in np.argsort(-expected[user]).tolist() if all(allowed[name][row] for name in names)]
        assert rows[user].tolist() == may + [-1] * (9 - len(may))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_gpu_finds_what_the_cpu_finds(architecture: str) -> None:
    model, trie = model_of(9, architecture), trie_of(40, 9)
    events, seen = histories([2, 5], 9), [np.array([0, 3, 4]), np.array([7])]
    allowed = np.random.default_rng(9).random(40) < 0.8
    masks = TrieMasks.of(trie, allowed)
    without_bits = TrieMasks(masks.sizes, masks.starts, masks.codes, (None,) * len(SIZES), masks.rows)
    for made in (masks, without_bits):
        here, there = TrieTensors(made), TrieTensors(made, "cuda")
        nodes = torch.tensor([[0, -1, 0]])
        for level in range(len(SIZES)):
            mask = here.mask(level, nodes)
            assert torch.equal(there.mask(level, nodes.cuda()).cpu(), mask)
            codes = mask.int().argmax(dim=-1)
            stepped = here.step(level, nodes, codes)
            assert torch.equal(there.step(level, nodes.cuda(), codes.cuda()).cpu(), stepped)
            nodes = stepped
        expected = beam_search(model.cpu(), TrieTensors(made, whole=whole(trie)), events, 20, seen)
        everything = TrieTensors(TrieMasks.of(trie), "cuda")
        searched = TrieTensors(made, "cuda", everything)
        found = beam_search(model.cuda(), searched, events.to(torch.device("cuda")), 20, seen)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_allclose(found[1], expected[1], atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([1, 2, 3, 40, 300]), min_size=1, max_size=3).map(tuple),
    items=st.integers(0, 30),
    seed=st.integers(0, 10**6),
)
def test_tensors_say_what_arrays_say(sizes: tuple[int, ...], items: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    space = int(np.prod(sizes))
    packed = rng.choice(space, size=min(items, space), replace=False)
    codes = np.stack(np.unravel_index(packed, sizes), axis=1).astype(np.int32)
    trie = Trie.build(codes, pa.array([str(item) for item in range(len(codes))]), sizes)
    for masks in (TrieMasks.of(trie), TrieMasks.of(trie, rng.random(len(trie)) < 0.5)):
        without_bits = TrieMasks(masks.sizes, masks.starts, masks.codes, (None,) * len(sizes), masks.rows)
        with mock.patch.object(trie_tensors, "TABLE", 0):
            tensors, plain = TrieTensors(masks), TrieTensors(without_bits)
        ways = (TrieTensors(masks), tensors, plain)
        nodes = np.array([0, 0, 0, -1, 0, 0], np.int64)
        for level, size in enumerate(sizes):
            expected = masks.mask(level, nodes)
            nodes_BW, taken = torch.from_numpy(nodes.reshape(2, 3)), rng.integers(0, size, (2, 3))
            owner, code = expected.nonzero()
            for made in ways:
                np.testing.assert_array_equal(made.mask(level, nodes_BW).reshape(6, size).numpy(), expected)
                edges = (owner, masks.step(level, nodes[owner], code), code)
                for found, each in zip(made.edges(level, nodes_BW.flatten()), edges, strict=True):
                    np.testing.assert_array_equal(found.numpy(), each)
            np.testing.assert_array_equal(plain.masks.mask(level, nodes), expected)
            # Half of the beams take a code that is there, where there is one.
            pick = np.where(expected.any(axis=1) & (rng.random(6) < 0.5), expected.argmax(axis=1), taken.reshape(-1))
            nodes = masks.step(level, nodes, pick)
            for made in ways:
                stepped = made.step(level, nodes_BW, torch.from_numpy(pick.reshape(2, 3)))
                np.testing.assert_array_equal(stepped.reshape(-1).numpy(), nodes)


def test_a_constrained_model_shares_out_all_probability_over_the_items() -> None:
    model, trie = model_of(3), trie_of(40, 0)
    for temperature in (1.0, 3.0):
        _, scores = beam_search(model, whole(trie), histories([4, 1], 3), 40, sampling=SamplingOptions(temperature))
        np.testing.assert_allclose(np.exp(scores.astype(np.float64)).sum(axis=1), 1.0, atol=1e-4)


def test_scores_of_another_are_probabilities_of_the_model_not_of_the_valid_items() -> None:
    model, events = model_of(3, constrained=False), histories([4], 3)
    few, many = trie_of(5, 0), trie_of(40, 0)
    _, scores = beam_search(model, whole(many), events, beams=40)
    assert np.exp(scores.astype(np.float64)).sum() < 1.0
    shared = many.lookup(few.codes())
    rows, scores_few = beam_search(model, whole(few), events, beams=5)
    rows_many, scores_many = beam_search(model, whole(many), events, beams=40)
    score = dict(zip(rows_many[0].tolist(), scores_many[0].tolist(), strict=True))
    for row, value in zip(rows[0].tolist(), scores_few[0].tolist(), strict=True):
        if shared[row] >= 0:
            assert score[int(shared[row])] == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_history_is_searched_the_same_alone_and_in_a_batch(architecture: str) -> None:
    model, trie = model_of(4, architecture), trie_of(30, 4)
    events = histories([1, 7, 4], 4)
    together, _ = beam_search(model, whole(trie), events, 6)
    for user in range(3):
        alone, _ = beam_search(model, whole(trie), one(events, user), 6)
        np.testing.assert_array_equal(alone[0], together[user])


def test_seen_items_outside_the_release_exclude_nothing() -> None:
    model, trie = model_of(5), trie_of(9, 5)
    events = histories([2], 5)
    rows, _ = beam_search(model, whole(trie), events, 9, [np.array([-1, -1])])
    assert sorted(rows[0].tolist()) == list(range(9))
