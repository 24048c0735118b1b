"""Preferences: the right item against items that the weights being trained prefer, beyond a reference."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learning.spec import LoopSpec
from learning.trainable import Cursor
from learning.trainer import train_in_process
from tokenizer.trie.masks import TrieMasks
from tokenizer.trie.trie import Trie
from training.data.events import Events
from training.data.histories import Batch, Plan
from training.decoding.beam_search import search_sids
from training.models import build_generator
from training.models.trie_tensors import TrieTensors
from training.objectives.losses import Candidates, SoftmaxDpo, objective_of
from training.objectives.next_code import NextCode, Origin, plan_of
from training.objectives.preference import PreferenceTraining, generator_training
from training.spec import GeneratorSpec, TrainSpec

SIZES = (4, 5)
SPEC = GeneratorSpec(dim=16, layers=1, code_layers=1, heads=2, kv_heads=1, ff=16, dropout=0.0, max_events=6)
TRAIN = TrainSpec(objective="softmax_dpo", batch_size=6, workers=1, epochs=4, learning_rate=0.01, warmup_steps=1)


def masks() -> TrieMasks:
    codes = np.stack(np.unravel_index(np.arange(20)[::2], SIZES), axis=1).astype(np.int32)
    return TrieMasks.of(Trie.build(codes, pa.array([f"i{row}" for row in range(10)]), SIZES))


def read(bucket: int) -> pa.Table:
    """Users who walk over the ten items, each from another start."""
    users, events = 9, 5
    item = 2 * ((np.arange(users)[:, None] + np.arange(events)[None]).ravel() % 10)
    return pa.table(
        {
            "user_id": np.repeat([f"u{user}" for user in range(users)], events),
            "event_id": [f"e{row}" for row in range(users * events)],
            "event_time": pa.array(np.tile(np.arange(events), users), pa.int64()).cast(pa.timestamp("us")),
            "event_type": ["click"] * users * events,
            "impression": pa.array([None] * users * events, pa.bool_()),
            "codes": pa.array(np.stack(np.unravel_index(item, SIZES), axis=1).tolist(), pa.list_(pa.int32())),
        }
    )


def training(constrained: bool = True) -> PreferenceTraining:
    spec = SPEC.model_copy(update={"constrained": constrained})
    start = {name: weight.numpy().copy() for name, weight in build_generator(spec, SIZES, "v", 3).state_dict().items()}
    plan = plan_of("r-1", 1, SIZES, spec, TRAIN)
    return PreferenceTraining(spec, plan, read, Origin("v", "r-1", "r", masks), objective=SoftmaxDpo(1.0), start=start)


def steps(trainable: PreferenceTraining, world: int = 1) -> list[list[Batch]]:
    """The batches of an epoch, by rank."""
    cursor = Cursor(trainable.plan_hash)
    return [[batch for batch, _ in trainable.batches(rank, world, cursor)] for rank in range(world)]


@given(targets=st.integers(0, 4), others=st.integers(1, 5), seed=st.integers(0, 99), temperature=st.floats(0.1, 5))
@settings(max_examples=40, deadline=None)
def test_the_loss_of_softmax_dpo_is_that_of_its_paper_written_out(
    targets: int, others: int, seed: int, temperature: float
) -> None:
    draw = torch.Generator().manual_seed(seed)
    policy, reference = (-5 * torch.rand(targets, 1 + others, generator=draw) for _ in range(2))
    real = torch.rand(targets, 1 + others, generator=draw) < 0.7
    found = SoftmaxDpo(temperature)(Candidates(torch.zeros(targets, 1 + others, 2), real, policy, reference))
    expected = 0.0
    for row in range(targets):
        gains = [(policy[row, each] - reference[row, each]).item() / temperature for each in range(1 + others)]
        worse = sum(math.exp(gains[each] - gains[0]) for each in range(1, 1 + others) if real[row, each])
        expected += -math.log(1 / (1 + worse))
    assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("constrained", [True, False])
def test_candidates_are_what_the_search_finds_and_have_its_log_probabilities(constrained: bool) -> None:
    trainable = training(constrained)
    (batch, *_), *_ = steps(trainable)
    compared, _ = trainable._compared(trainable.module.eval(), batch)
    trie, (right, *others) = TrieTensors(masks()), compared.codes.unbind(1)
    last = batch.events.lengths - 1
    assert torch.equal(right, batch.events.codes[torch.arange(len(last)), last])
    for user, length in enumerate(last.tolist()):
        before = Events(
            batch.events.codes[user : user + 1, :length], batch.events.kinds[user : user + 1, :length], last[user][None]
        )
        nodes, scores = search_sids(trainable.generator, trie, before, SoftmaxDpo.candidates)
        wanted = masks().sids(nodes[0])
        np.testing.assert_array_equal(torch.stack(others, dim=1)[user], wanted)
        np.testing.assert_allclose(compared.policy[user, 1:].detach(), scores[0], atol=1e-4)
        assert compared.real[user, 0]
        assert compared.real[user, 1:].tolist() == [tuple(sid) != tuple(right[user].tolist()) for sid in wanted]
    np.testing.assert_allclose(compared.reference, compared.policy.detach(), atol=1e-5)  # nothing was learnt yet


def test_the_shares_of_all_workers_add_up_to_the_step() -> None:
    alone, two = training(), training()
    for batch, *parts in zip(steps(alone)[0], *steps(two, 2), strict=True):
        whole, sums = alone.loss(alone.module.eval(), batch)
        shares = [two.loss(two.module.eval(), part) for part in parts]
        assert sum(share.item() for share, _ in shares) == pytest.approx(whole.item(), rel=1e-4)
        for name, value in sums.items():
            if name != "places":
                assert sum(each[name].item() for _, each in shares) == pytest.approx(value.item(), rel=1e-4)


def test_training_prefers_the_right_item_beyond_the_reference_which_stays() -> None:
    trainable = training()
    batches = steps(trainable)[0]

    def loss_and_gain() -> tuple[float, float]:
        compared = [trainable._compared(trainable.module.eval(), batch)[0] for batch in batches]
        gains = torch.cat([(each.policy - each.reference)[:, 0] for each in compared])
        return sum(SoftmaxDpo(1.0)(each).item() for each in compared), gains.mean().item()

    before, gain = loss_and_gain()
    assert gain == pytest.approx(0, abs=1e-6)
    losses = train_in_process(trainable, LoopSpec(**TRAIN.model_dump(include=set(LoopSpec.model_fields))), "preference")
    assert losses[-1] < losses[0]
    after, gain = loss_and_gain()
    assert after < 0.8 * before
    assert gain > 0.1
    assert trainable._reference is not None
    for name, weight in trainable._reference.state_dict().items():
        np.testing.assert_array_equal(weight.numpy(), trainable.start[name])


def test_the_trie_says_which_sid_leads_to_a_node() -> None:
    made = masks()
    nodes = np.arange(len(made))
    walked = made.step(1, made.step(0, np.zeros(len(made), np.int64), made.sids(nodes)[:, 0]), made.sids(nodes)[:, 1])
    np.testing.assert_array_equal(walked, nodes)


def test_a_preference_needs_weights_to_start_from_and_other_objectives_do_not() -> None:
    objective = objective_of(TRAIN)
    plan, origin = Plan("r-1", 1, SIZES, 6, 6, one_target=True), Origin("v", "r-1", "r", masks)
    plain = generator_training(SPEC, plan, read, origin, objective=objective_of(TrainSpec()))
    assert type(plain) is NextCode
    with pytest.raises(ValueError, match="all weights of a model to start from"):
        generator_training(SPEC, plan, read, origin, objective=objective)
