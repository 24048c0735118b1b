"""The generator: causal, cached as it is uncached, and trained on positive events only."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.generator import Generator
from training.histories import Batch
from training.next_code import next_code_loss
from training.spec import GeneratorSpec

SIZES = (5, 7, 3)
SPEC = GeneratorSpec(dim=32, layers=2, heads=4, kv_heads=2, ff=48, dropout=0.0, max_events=8)


def model_of(seed: int = 0, spec: GeneratorSpec = SPEC) -> Generator:
    return Generator(spec, SIZES, "v", seed).eval()


def history(events: int, users: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """BOS and `events` random events for each user, with random feedback."""
    random = torch.Generator().manual_seed(seed)
    layout = model_of().layout
    codes = [
        torch.randint(0, size, (users, events), generator=random) + int(offset)
        for size, offset in zip(SIZES, layout.offsets, strict=True)
    ]
    tokens = torch.cat([torch.full((users, 1), layout.bos), torch.stack(codes, dim=2).flatten(1)], dim=1)
    feedback = torch.randint(0, 2, (users, events), generator=random).repeat_interleave(len(SIZES), dim=1)
    return tokens, torch.cat([torch.zeros(users, 1, dtype=torch.long), feedback], dim=1)


@settings(max_examples=10, deadline=None)
@given(changed=st.integers(1, 12))
def test_a_later_token_changes_no_earlier_state(changed: int) -> None:
    model = model_of()
    tokens, feedback = history(4)
    before, _ = model.encode(tokens, feedback)
    tokens, feedback = tokens.clone(), feedback.clone()
    tokens[:, changed] = (tokens[:, changed] + 1) % model.layout.bos
    feedback[:, changed] = 1 - feedback[:, changed]
    after, _ = model.encode(tokens, feedback)
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert not torch.allclose(before[:, changed:], after[:, changed:])


@settings(max_examples=10, deadline=None)
@given(split=st.integers(1, 12), kv_heads=st.sampled_from([1, 2, 4]))
def test_cached_decoding_equals_full_recompute(split: int, kv_heads: int) -> None:
    model = model_of(spec=SPEC.model_copy(update={"kv_heads": kv_heads}))
    tokens, feedback = history(4)
    whole, _ = model.encode(tokens, feedback)
    _, cache = model.encode(tokens[:, :split], feedback[:, :split])
    length = tokens.shape[1]
    mask = torch.ones(length, length, dtype=torch.bool).tril()[split:].expand(len(tokens), -1, -1)
    rest, cache = model.encode(
        tokens[:, split:],
        feedback[:, split:],
        positions_BT=torch.arange(split, length).expand(len(tokens), -1),
        past=cache,
        mask_BTS=mask,
    )
    torch.testing.assert_close(rest, whole[:, split:], atol=1e-5, rtol=1e-4)
    assert cache[0][0].shape == (len(tokens), kv_heads, length, SPEC.dim // SPEC.heads)


def test_grouped_queries_equal_repeated_key_value_heads() -> None:
    grouped = model_of()
    full = model_of(spec=SPEC.model_copy(update={"kv_heads": SPEC.heads}))
    state = grouped.state_dict()
    width, times = SPEC.dim // SPEC.heads, SPEC.heads // SPEC.kv_heads
    for name in [name for name in state if "key_value" in name]:
        heads = state[name].view(2, SPEC.kv_heads, width, SPEC.dim)
        state[name] = heads.repeat_interleave(times, dim=1).reshape(-1, SPEC.dim)
    full.load_state_dict(state)
    torch.testing.assert_close(grouped.encode(*history(5))[0], full.encode(*history(5))[0], atol=1e-5, rtol=1e-4)


def test_rotary_attention_knows_distances_only() -> None:
    model = model_of()
    tokens, feedback = history(3)
    at = torch.arange(tokens.shape[1]).expand(len(tokens), -1)
    here, _ = model.encode(tokens, feedback, positions_BT=at)
    there, _ = model.encode(tokens, feedback, positions_BT=at + 50)
    torch.testing.assert_close(here, there, atol=1e-4, rtol=1e-3)


def batch_of(targets: Tensor, events: int = 4) -> Batch:
    tokens, feedback = history(events)
    return Batch(tokens, feedback, targets, int(targets.sum()), None)


def test_the_loss_is_the_mean_surprise_of_target_codes_and_nothing_else() -> None:
    model = model_of()
    targets = torch.tensor([[True, False, True, False], [False] * 4, [False, False, False, True]])
    batch = batch_of(targets)
    summed, codes = next_code_loss(model, model.layout, batch)
    expected, count = 0.0, 0
    for user, event in torch.nonzero(targets).tolist():
        for level, offset in enumerate(model.layout.offsets.tolist()):
            place = 1 + event * len(SIZES) + level
            hidden, _ = model.encode(batch.tokens[user : user + 1, :place], batch.feedback[user : user + 1, :place])
            surprise = -model.logits(level, hidden[0, -1]).log_softmax(-1)
            expected += surprise[batch.tokens[user, place] - offset].item()
            count += 1
    assert codes == count
    torch.testing.assert_close(summed.item(), expected, atol=1e-4, rtol=1e-5)


def test_a_batch_without_targets_has_no_loss_but_gradients_for_all_weights() -> None:
    model = model_of()
    summed, codes = next_code_loss(model, model.layout, batch_of(torch.zeros(3, 4, dtype=torch.bool)))
    summed.backward()
    assert (summed.item(), codes) == (0.0, 0)
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_selected_scores_are_those_of_the_selected_events() -> None:
    model = model_of()
    tokens, feedback = history(4)
    targets = torch.tensor([[True, False, True, False], [False] * 4, [False, True, False, True]])
    whole = model(tokens[:, :-1], feedback[:, :-1])
    some = model(tokens[:, :-1], feedback[:, :-1], targets)
    assert [scores.shape for scores in whole] == [(3, 4, size) for size in SIZES]
    for all_scores, selected in zip(whole, some, strict=True):
        torch.testing.assert_close(all_scores[targets], selected)


def test_a_seed_fixes_the_weights_and_leaves_the_global_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = model_of(1), model_of(1), model_of(2)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.tokens.weight, other.tokens.weight)
