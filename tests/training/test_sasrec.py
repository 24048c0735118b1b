"""SASRec: what its states may see, its loss and ranking against plain definitions, its batches, and that it learns."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from learning.checkpoint import load_weights
from learning.ray_train.launch import launch
from learning.trainable import Cursor
from training.errors import NothingToTrainOn
from training.sasrec.full_softmax import cross_entropy
from training.sasrec.sasrec import Padded, SasRec, SasRecTrainable, fit_sasrec, item_vectors, padded, rank
from training.spec import SasRecSpec

Ints = NDArray[np.int64]
ITEMS = 30
SPEC = SasRecSpec(dim=16, heads=2, max_events=8, batch_size=5, epochs=2, warmup_steps=5)


def histories_of(count: int, seed: int = 0, longest: int = 14) -> list[Ints]:
    draw = np.random.default_rng(seed)
    return [draw.integers(ITEMS, size=length) for length in draw.integers(1, longest, size=count)]


def model_of(spec: SasRecSpec = SPEC) -> SasRec:
    """A model whose weights are large enough that everything matters."""
    model = SasRec(spec, ITEMS)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return model.eval()


def one(history: Ints) -> Padded:
    return padded([history])[0]


def test_a_later_event_changes_no_earlier_state() -> None:
    model, history = model_of(), np.arange(8)
    changed = history.copy()
    changed[5] = 20
    before, after = model.encode(one(history))[0], model.encode(one(changed))[0]
    torch.testing.assert_close(before[:5], after[:5], rtol=0, atol=0)
    assert not torch.isclose(before[5:], after[5:]).all(dim=1).any()


def test_padding_changes_nothing() -> None:
    model = model_of()
    histories = [np.array([3]), np.array([4, 5, 6]), np.arange(7)]
    (group,) = padded(histories)
    assert group.items.shape == (3, 7)
    together = model.encode(group)
    filled = Padded(group.items.masked_fill(~group.real, 9), group.lengths)
    for row, history in enumerate(histories):
        alone = model.encode(one(history))[0]
        torch.testing.assert_close(together[row, : len(history)], alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.encode(filled)[group.real], together[group.real], rtol=0, atol=0)


def test_the_cross_entropy_and_its_gradients_are_those_of_torch() -> None:
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(300, 8, generator=draw, dtype=torch.float64, requires_grad=True)
    items = torch.randn(ITEMS, 8, generator=draw, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(ITEMS, (300,), generator=draw)
    ours = cross_entropy(states, items, targets)
    plain = torch.nn.functional.cross_entropy(states @ items.T, targets, reduction="sum")
    torch.testing.assert_close(ours, plain)
    for mine, theirs in zip(
        torch.autograd.grad(3 * ours, (states, items)), torch.autograd.grad(3 * plain, (states, items)), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_the_loss_is_that_of_each_prefix_by_itself() -> None:
    histories = histories_of(11, longest=SPEC.max_events + 2)
    trainable = SasRecTrainable(SPEC.model_copy(update={"batch_size": 11}), ITEMS, histories)
    ((batch, _),) = trainable.batches(0, 1, Cursor(""))
    model = model_of()
    share, sums = trainable.loss(model, batch)
    losses = [
        -torch.log_softmax(model.scores(one(history[:end]))[0], 0)[history[end]]
        for history in histories
        for end in range(1, len(history))
    ]
    torch.testing.assert_close(share, torch.stack(losses).mean())
    torch.testing.assert_close(sums["loss"], torch.stack(losses).sum())
    assert float(sums["targets"]) == len(losses)


def test_two_workers_take_the_samples_of_one_and_their_shares_add_up() -> None:
    trainable, model = SasRecTrainable(SPEC, ITEMS, histories_of(23)), model_of()
    alone = list(trainable.batches(0, 1, Cursor("")))
    workers = [list(trainable.batches(worker, 2, Cursor(""))) for worker in range(2)]
    assert len(alone) == len(workers[0]) == len(workers[1])
    for (whole, cursor), (left, _), (right, other) in zip(alone, *workers, strict=True):
        assert cursor == other
        assert samples(whole) == sorted(samples(left) + samples(right))
        parts = trainable.loss(model, left)[0] + trainable.loss(model, right)[0]
        torch.testing.assert_close(trainable.loss(model, whole)[0], parts)


def samples(batch: object) -> list[list[int]]:
    groups: list[Padded] = batch.groups  # type: ignore[attr-defined]
    return sorted(
        row[:length].tolist() for each in groups for row, length in zip(each.items, each.lengths, strict=True)
    )


def test_an_epoch_holds_every_history_once_and_goes_on_from_its_cursor() -> None:
    histories = histories_of(40, longest=SPEC.max_events + 2)
    trainable = SasRecTrainable(SPEC, ITEMS, histories)
    steps = list(trainable.batches(0, 1, Cursor("plan", 1)))
    seen = sorted(sample for batch, _ in steps for sample in samples(batch))
    assert seen == sorted(history[:-1].tolist() for history in histories if len(history) > 1)
    rest = list(trainable.batches(0, 1, steps[2][1]))
    assert [samples(batch) for batch, _ in rest] == [samples(batch) for batch, _ in steps[3:]]
    assert [cursor for _, cursor in rest] == [cursor for _, cursor in steps[3:]]
    other = [samples(batch) for batch, _ in trainable.batches(0, 1, Cursor("plan", 2))]
    assert other != [samples(batch) for batch, _ in steps]


def test_of_a_long_history_each_epoch_takes_a_stretch_of_whole_length() -> None:
    history = np.arange(ITEMS)
    trainable = SasRecTrainable(SPEC, ITEMS, [history])
    starts = set()
    for epoch in range(20):
        ((batch, _),) = trainable.batches(0, 1, Cursor("", epoch))
        (sample,) = samples(batch)
        assert sample == list(range(sample[0], sample[0] + SPEC.max_events))
        assert batch.targets.tolist() == [row + 1 for row in sample]
        starts.add(sample[0])
    assert len(starts) > 10


def test_more_workers_than_histories_are_refused() -> None:
    trainable = SasRecTrainable(SPEC, ITEMS, [np.array([1, 2]), np.array([3])])
    with pytest.raises(NothingToTrainOn, match="only 1 histories have two events, too few for 2 workers"):
        next(trainable.batches(0, 2, Cursor("")))


def cycles(count: int, seed: int) -> list[Ints]:
    draw = np.random.default_rng(seed)
    lengths = draw.integers(2, 7, size=count)
    return [
        (start + np.arange(length)) % ITEMS
        for start, length in zip(draw.integers(ITEMS, size=count), lengths, strict=True)
    ]


def test_it_learns_what_follows_in_a_cycle() -> None:
    losses = []
    spec = SPEC.model_copy(update={"epochs": 12, "batch_size": 32, "learning_rate": 1e-2})
    model = fit_sasrec(cycles(600, 0), ITEMS, spec, lambda _, row: losses.append(row["loss"]))
    asked = cycles(200, 1)
    best = rank(model, asked, 1)[:, 0]
    assert (best == [(history[-1] + 1) % ITEMS for history in asked]).mean() > 0.95
    assert len(losses) == 12
    assert losses[-1] < losses[0] / 3


def test_the_training_ends_when_it_is_told_to() -> None:
    epochs = []

    def stop(_: SasRec, row: dict[str, float]) -> bool:
        epochs.append(row["epoch"])
        return row["epoch"] == 1

    fit_sasrec(cycles(20, 0), ITEMS, SPEC.model_copy(update={"epochs": 9}), stop)
    assert epochs == [0, 1]


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_a_ranking_is_the_sorted_scores_of_all_items(exclude_seen: bool) -> None:
    model, histories = model_of(), histories_of(50)
    found = rank(model, histories, 6, histories if exclude_seen else None)
    for history, row in zip(histories, found, strict=True):
        with torch.no_grad():
            scores = model.scores(one(history[-SPEC.max_events :]))[0].numpy()
        order = [item for item in np.argsort(-scores) if not exclude_seen or item not in history]
        assert row.tolist() == order[:6]


def test_a_ranking_is_filled_up_only_where_fewer_items_are_left() -> None:
    model, histories = model_of(), [np.arange(ITEMS - 3), np.array([0])]
    found = rank(model, histories, ITEMS + 2, histories)
    assert (found >= 0).sum(axis=1).tolist() == [3, ITEMS - 1]
    assert sorted(found[0][:3].tolist()) == [ITEMS - 3, ITEMS - 2, ITEMS - 1]
    whole = rank(model, histories, ITEMS)
    assert all(sorted(row) == list(range(ITEMS)) for row in whole.tolist())


def test_a_seed_fixes_the_training_and_leaves_the_global_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (
        item_vectors(fit_sasrec(histories_of(30), ITEMS, SPEC.model_copy(update={"seed": seed}))) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(first, again)
    assert first.shape == (ITEMS, SPEC.dim)
    assert first.dtype == np.float32
    assert not np.array_equal(first, other)


def test_what_is_trained_is_named_by_its_data_and_settings() -> None:
    histories = histories_of(5)
    plans = [
        SasRecTrainable(spec, items, each).plan_hash
        for spec, items, each in [
            (SPEC, ITEMS, histories),
            (SPEC.model_copy(update={"dropout": 0.1}), ITEMS, histories),
            (SPEC, ITEMS + 1, histories),
            (SPEC, ITEMS, histories[1:]),
        ]
    ]
    assert len(set(plans)) == 4
    more = SPEC.model_copy(update={"epochs": 9})
    assert SasRecTrainable(more, ITEMS, histories).plan_hash == plans[0]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_of_ray_train_end_where_a_training_in_process_does(tmp_path: Path) -> None:
    spec, losses = SPEC.model_copy(update={"dropout": 0.0}), []
    make = partial(SasRecTrainable, spec, ITEMS, cycles(60, 0))
    result = launch(make, spec.loop(workers=2), "sasrec", tmp_path)
    model = SasRec(spec, ITEMS)
    load_weights(result.checkpoint_dir, model)
    here = fit_sasrec(cycles(60, 0), ITEMS, spec, lambda _, row: losses.append(row["loss"]))
    assert [row["loss"] for row in result.history] == pytest.approx(losses, rel=1e-4)
    np.testing.assert_allclose(item_vectors(model), item_vectors(here), atol=1e-2)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sasrec.dim=10 must be a multiple of sasrec.heads=4"):
        SasRecSpec(dim=10, heads=4)
