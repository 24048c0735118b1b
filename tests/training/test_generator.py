"""The generators: none sees what comes later, and each is trained on positive events only."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenizer.trie.masks import TrieMasks
from tokenizer.trie.trie import Trie
from training.data.events import FIRST_OF_SESSION, Events
from training.data.histories import Batch, Plan
from training.models import build_generator
from training.models.generator import HASHES, Generator
from training.models.layers import Experts, SelfAttention, rotation
from training.objectives.losses import Ranking, next_code
from training.objectives.next_code import NextCode, Origin
from training.registry import ARCHITECTURES
from training.spec import GeneratorSpec

SIZES = (5, 7, 3)
SPEC = GeneratorSpec(
    constrained=False, dim=32, layers=2, code_layers=2, heads=4, kv_heads=2, ff=48, dropout=0.0, max_events=8
)
SPECS = [
    *(SPEC.model_copy(update={"architecture": name}) for name in ARCHITECTURES),
    SPEC.model_copy(update={"architecture": "decoder", "separators": True}),
    SPEC.model_copy(update={"experts": 3, "prefix_buckets": 50}),
]
every = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.architecture}-{spec.experts}-{spec.separators}")


def model_of(spec: GeneratorSpec = SPEC, seed: int = 0) -> Generator:
    return build_generator(spec, SIZES, "v", seed).eval()


def history(events: int, users: int = 3, seed: int = 0) -> Events:
    """`events` random events for each user, of random kinds."""
    random = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(0, size, (users, events), generator=random) for size in SIZES], dim=2)
    return Events(codes, torch.randint(0, 2, (users, events), generator=random), torch.full((users,), events))


def only(place: int, events: Events) -> Tensor:
    """That event of each user as the target."""
    return (torch.arange(events.codes.shape[1]) == place).expand(events.kinds.shape)


@every
@settings(max_examples=4, deadline=None)
@given(place=st.integers(0, 3), level=st.integers(0, 2))
def test_no_score_depends_on_what_comes_after_it(spec: GeneratorSpec, place: int, level: int) -> None:
    model, events = model_of(spec), history(4)
    targets = only(place, events)
    before = model(events, targets)
    codes, kinds = events.codes.clone(), events.kinds.clone()
    codes[:, place, level:] = (codes[:, place, level:] + 1) % torch.tensor(SIZES[level:])
    codes[:, place + 1 :] = 0
    kinds[:, place:] = 1 - kinds[:, place:]
    after = model(Events(codes, kinds, events.lengths), targets)
    for known in range(level + 1):
        torch.testing.assert_close(after[known], before[known], atol=1e-5, rtol=1e-4)
    for later in range(level + 1, len(SIZES)):
        assert not torch.allclose(after[later], before[later])


@given(sizes=st.lists(st.integers(1, 500), min_size=1, max_size=12), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_rows_of_prefixes_are_those_of_plain_numbers_of_64_bits(sizes: list[int], seed: int) -> None:
    """Of SIDs of any length; numbers of prefixes and their hashes wrap around."""
    model = build_generator(SPEC.model_copy(update={"prefix_buckets": 50}), tuple(sizes), "v")
    codes = torch.stack([torch.from_numpy(np.random.default_rng(seed).integers(0, size, 4)) for size in sizes], dim=1)

    def wrapped(number: int) -> int:
        return (number + 2**63) % 2**64 - 2**63

    for sid, rows in zip(codes.tolist(), model.prefix_rows(codes).tolist(), strict=True):
        key, plain = sid[0], []
        for level in range(1, len(sid)):
            key = wrapped(key * sizes[level] + sid[level])
            plain += [(wrapped((key + level * start) * odd) >> 20) % 50 for odd, start in HASHES]
        assert rows == plain


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("sessions", [False, True])
def test_the_first_event_of_a_session_is_seen_where_sessions_are_read(architecture: str, sessions: bool) -> None:
    model = model_of(SPEC.model_copy(update={"architecture": architecture, "sessions": sessions}))
    events = history(4)
    kinds = events.kinds.clone()
    kinds[:, 1] += FIRST_OF_SESSION
    before, after = (
        model(Events(events.codes, each, events.lengths), only(3, events)) for each in (events.kinds, kinds)
    )
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)) != sessions


@every
def test_every_event_and_its_kind_count(spec: GeneratorSpec) -> None:
    model, events = model_of(spec), history(4)
    scores = model(events, only(3, events))[0]
    for place in range(3):
        codes, kinds = events.codes.clone(), events.kinds.clone()
        codes[:, place, 0] = (codes[:, place, 0] + 1) % SIZES[0]
        kinds[:, place] = 1 - kinds[:, place]
        for changed in (Events(codes, events.kinds, events.lengths), Events(events.codes, kinds, events.lengths)):
            assert not torch.allclose(model(changed, only(3, events))[0], scores)


@every
def test_what_stands_at_padding_is_seen_by_none(spec: GeneratorSpec) -> None:
    model, short = model_of(spec), history(2)
    codes = torch.cat([short.codes, history(3, seed=1).codes], dim=1)
    kinds = torch.cat([short.kinds, history(3, seed=1).kinds], dim=1)
    long = Events(codes, kinds, short.lengths)
    torch.testing.assert_close(model.read(long).hidden, model.read(short).hidden, atol=1e-5, rtol=1e-4)
    for padded, bare in zip(model(long, only(1, long)), model(short, only(1, short)), strict=True):
        torch.testing.assert_close(padded, bare, atol=1e-5, rtol=1e-4)


@settings(max_examples=10, deadline=None)
@given(split=st.integers(1, 11), kv_heads=st.sampled_from([1, 2, 4]))
def test_cached_attention_equals_full_recompute(split: int, kv_heads: int) -> None:
    torch.manual_seed(0)
    attention = SelfAttention(SPEC.model_copy(update={"kv_heads": kv_heads}))
    x_BTD, places = torch.randn(3, 12, SPEC.dim), torch.arange(12)[None]
    whole, _ = attention(x_BTD, rotation(places, 8))
    _, past = attention(x_BTD[:, :split], rotation(places[:, :split], 8))
    mask = torch.ones(12, 12, dtype=torch.bool).tril()[split:]
    rest, (keys, _) = attention(x_BTD[:, split:], rotation(places[:, split:], 8), past, mask)
    torch.testing.assert_close(rest, whole[:, split:], atol=1e-5, rtol=1e-4)
    assert keys.shape == (3, kv_heads, 12, 8)


def test_grouped_queries_equal_repeated_key_value_heads() -> None:
    torch.manual_seed(0)
    grouped, full = SelfAttention(SPEC), SelfAttention(SPEC.model_copy(update={"kv_heads": SPEC.heads}))
    state = grouped.state_dict()
    heads = state["key_value.project.weight"].view(2, 2, 8, SPEC.dim)
    state["key_value.project.weight"] = heads.repeat_interleave(2, dim=1).reshape(-1, SPEC.dim)
    full.load_state_dict(state)
    x_BTD, rotary = torch.randn(3, 5, SPEC.dim), rotation(torch.arange(5)[None], 8)
    torch.testing.assert_close(grouped(x_BTD, rotary)[0], full(x_BTD, rotary)[0], atol=1e-5, rtol=1e-4)


def test_rotary_attention_knows_distances_only() -> None:
    torch.manual_seed(0)
    attention, x_BTD, at = SelfAttention(SPEC), torch.randn(3, 9, SPEC.dim), torch.arange(9)[None]
    here, there = (attention(x_BTD, rotation(places, 8))[0] for places in (at, at + 50))
    torch.testing.assert_close(here, there, atol=1e-4, rtol=1e-3)


def test_a_mixture_is_the_weighted_sum_of_the_experts_chosen_and_its_load_evens_out() -> None:
    torch.manual_seed(0)
    mixture = Experts(SPEC.model_copy(update={"experts": 3}))
    x_ND = torch.randn(40, SPEC.dim)
    affinity = mixture.router(x_ND).sigmoid()
    for x_D, weights, got in zip(x_ND, affinity, mixture(x_ND), strict=True):
        best = sorted(range(3), key=lambda expert: -weights[expert].item())[:2]
        total = sum(weights[expert] for expert in best)
        wanted = sum(mixture.experts[expert](x_D) * weights[expert] / total for expert in best)
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)

    with torch.no_grad():
        mixture.router.weight[0] += 5 * x_ND.mean(dim=0)

    def spread() -> float:
        chosen = (mixture.router(x_ND).sigmoid() + mixture.bias).topk(2, dim=1).indices
        return float(torch.bincount(chosen.flatten(), minlength=3).float().std())

    mixture.bias.zero_()
    before = spread()
    for _ in range(300):
        mixture(x_ND)
    assert spread() < 0.5 * before


def trainable(spec: GeneratorSpec = SPEC) -> NextCode:
    plan = Plan("r-1", buckets=1, sizes=SIZES, batch_size=4, max_events=8)
    return NextCode(spec, plan, lambda _: None, Origin("v", "r-1", "r"))


def batch_of(targets: Tensor) -> Batch:
    return Batch(history(4), targets, int(targets.sum()), None)


def test_a_constrained_generator_is_surprised_by_what_may_follow_alone() -> None:
    batch = batch_of(TARGETS)
    sids = np.unique(np.concatenate([batch.events.codes[TARGETS].numpy(), [[0, 0, 0], [1, 2, 1]]]), axis=0)
    names = pa.array([f"i{row}" for row in range(len(sids))])
    spec = SPEC.model_copy(update={"constrained": True})
    plan = Plan("r-1", buckets=1, sizes=SIZES, batch_size=4, max_events=8)
    masks = TrieMasks.of(Trie.build(sids.astype(np.int32), names, SIZES))
    training = NextCode(spec, plan, lambda _: None, Origin("v", "r-1", "r", lambda: masks))
    expected = 0.0
    for codes, *scores in zip(batch.events.codes[TARGETS], *training.generator(batch.events, TARGETS), strict=True):
        for level, each in enumerate(scores):
            follow = {sid[level] for sid in sids.tolist() if sid[:level] == codes[:level].tolist()}
            expected += (each[list(follow)].logsumexp(0) - each[codes[level]]).item()
    share, _ = training.loss(training.module, batch)
    assert share.item() == pytest.approx(expected / (3 * len(SIZES)), rel=1e-4)
    share.backward()
    assert all(torch.isfinite(weight.grad).all() for weight in training.module.parameters() if weight.grad is not None)
    with pytest.raises(ValueError, match="give the origin read_trie"):
        NextCode(spec, plan, lambda _: None, Origin("v", "r-1", "r"))


TARGETS = torch.tensor([[True, False, True, False], [False] * 4, [False, False, False, True]])


def test_the_loss_is_the_mean_surprise_of_target_codes_and_nothing_else() -> None:
    training, batch = trainable(), batch_of(TARGETS)
    share, sums = training.loss(training.module, batch)
    expected = 0.0
    for user, event in torch.nonzero(TARGETS).tolist():
        target = torch.zeros(3, 4, dtype=torch.bool)
        target[user, event] = True
        scores = training.generator(batch.events, target)
        surprises = [
            -each[0].log_softmax(-1)[batch.events.codes[user, event, level]] for level, each in enumerate(scores)
        ]
        expected += sum(each.item() for each in surprises)
    assert (sums["targets"], sums["tokens"], sums["places"]) == (9, 36, 36)
    torch.testing.assert_close(sums["loss"].item(), expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(share.item(), expected / 9, atol=1e-5, rtol=1e-5)


def test_a_ranking_loss_is_that_of_scores_over_its_temperature() -> None:
    torch.manual_seed(0)
    scores, codes = [torch.randn(6, size) for size in SIZES], torch.zeros(6, 3, dtype=torch.long)
    assert Ranking(1.0)(scores, codes) == next_code(scores, codes)
    surprise = sum(-(each / 0.5).log_softmax(-1)[:, 0].sum() for each in scores)
    torch.testing.assert_close(Ranking(0.5)(scores, codes), surprise)


@every
def test_a_batch_without_targets_has_no_loss_but_gradients_for_all_weights(spec: GeneratorSpec) -> None:
    training = trainable(spec)
    share, sums = training.loss(training.module, batch_of(torch.zeros(3, 4, dtype=torch.bool)))
    share.backward()
    assert (sums["loss"], sums["targets"]) == (0.0, 0)
    assert all(p.grad is not None and not p.grad.any() for p in training.module.parameters())


def test_an_encoder_is_asked_for_one_target() -> None:
    model, events = model_of(SPECS[3]), history(4)
    with pytest.raises(ValueError, match="one window for each"):
        model(events, TARGETS)


@every
def test_a_seed_fixes_the_weights_and_leaves_the_global_state_alone(spec: GeneratorSpec) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = model_of(spec, 1), model_of(spec, 1), model_of(spec, 2)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.codes.weight, other.codes.weight)
