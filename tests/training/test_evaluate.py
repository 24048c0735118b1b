"""Evaluation: a generator that learned beats popularity, and what cannot be hit is counted."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from flows.gates.model_gate import judge_model
from learning.trainable import Cursor
from storage.releases.evaluation import EvaluationResult
from tokenizer.trie.masks import TrieMasks
from tokenizer.trie.trie import Trie
from training.data.events import gathered
from training.data.histories import Plan, contexts, window_rows
from training.decoding.beam_search import beam_search
from training.evaluation.cases import EvaluationCases
from training.evaluation.evaluate import Contender, TrainEvents, evaluate
from training.evaluation.rerank import VectorSimilarity
from training.models import build_generator
from training.models.generator import Generator
from training.models.trie_tensors import TrieTensors
from training.objectives.next_code import NextCode, Origin
from training.spec import EvaluateSpec, GeneratorSpec, TrainSpec

SIZES = (4, 4)
ITEMS = 16
SPEC = EvaluateSpec(k=(1, 5), beams=6, batch_size=16)
CODES = np.stack([np.arange(ITEMS) // 4, np.arange(ITEMS) % 4], axis=1).astype(np.int32)
Ints = npt.NDArray[np.int64]


def walks(users: int, events: int, seed: int) -> Ints:
    """Each user goes round one cycle of all items from a start of their own: the last item decides the next."""
    cycle = np.random.default_rng(99).permutation(ITEMS)
    starts = np.random.default_rng(seed).integers(0, ITEMS, users)
    return cycle[(starts[:, None] + np.arange(events)[None, :]) % ITEMS]


def figures(
    model: Generator,
    trie: Trie,
    cases: EvaluationCases,
    counts: Ints,
    spec: EvaluateSpec,
    users: list[Ints] | None = None,
    **others: Any,
) -> dict[str, Any]:
    """The stored record of an evaluation."""
    return evaluate(Contender(model, cases), trie, TrainEvents(counts, users), spec, **others).as_record()


def cases_of(items: Ints, targets: Ints) -> EvaluationCases:
    bounds = np.arange(len(items) + 1) * items.shape[1]
    flat = items.reshape(-1)
    return EvaluationCases(CODES[flat], np.zeros(len(flat), np.int64), bounds, flat.copy(), bounds, targets)


@pytest.fixture(scope="module")
def trie() -> Trie:
    return Trie.build(CODES, pa.array([f"i{item:02d}" for item in range(ITEMS)]), SIZES)


@pytest.fixture(scope="module")
def learned(trie: Trie) -> Generator:
    """A small generator trained on the walks."""
    return trained(trie, walks(users=96, events=10, seed=0))


def trained(trie: Trie, items: Ints) -> Generator:
    """A small generator trained on histories, in this process.

    One thread: at two, 90 steps took 43 s instead of 1 s while the cores were busy elsewhere.
    """
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = items.size
    table = pa.table(
        {
            "user_id": np.repeat([f"u{user:03d}" for user in range(len(items))], items.shape[1]),
            "event_id": [f"e{row}" for row in range(rows)],
            "event_time": pa.array(np.arange(rows)).cast(pa.timestamp("us")),
            "event_type": ["click"] * rows,
            "impression": pa.array([False] * rows),
            "codes": pa.array(CODES[items.reshape(-1)].tolist(), pa.list_(pa.int32())),
        }
    )
    spec = GeneratorSpec(dim=32, layers=1, heads=2, kv_heads=1, ff=64, dropout=0.0, max_events=10)
    plan = Plan("walks", buckets=1, sizes=SIZES, batch_size=32, max_events=10)
    task = NextCode(spec, plan, lambda _: table, Origin("v", "r-1", "recipe", lambda: TrieMasks.of(trie)))
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=5e-3)
    for epoch in range(30):
        for batch, _ in task.batches(0, 1, Cursor(plan.hash, epoch)):
            loss, _ = task.loss(task.module, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.set_num_threads(threads)
    return task.generator


def test_events_before_the_cutoff_are_counted_by_item_also_if_there_are_none() -> None:
    users = [np.array([2, 0, 2]), np.array([2])]
    before = TrainEvents.of(users, 4)
    assert (before.counts.tolist(), before.of_users) == ([1, 0, 3, 0], users)
    assert TrainEvents.of([], 4).counts.tolist() == [0, 0, 0, 0]


def test_a_planted_pattern_is_learned(trie: Trie, learned: Generator) -> None:
    held_out = walks(users=64, events=8, seed=1)
    counts = np.bincount(walks(96, 10, 0).reshape(-1), minlength=ITEMS)
    result = figures(learned, trie, cases_of(held_out[:, :-1], held_out[:, -1]), counts, SPEC)
    assert result["generator"]["recall@1"] > 0.95
    assert result["popularity"]["recall@1"] < 0.4
    assert result["generator"]["mrr"] > 0.95
    low, high = result["generator"]["recall@1_interval"]
    assert low <= result["generator"]["recall@1"] <= high
    assert (result["cases"], result["targets_missing"], result["targets_seen"]) == (64, 0, 0)
    assert "item-knn" not in result
    row = result["generator"]
    assert row["prefix_recall@1"][1] == row["recall@1"] == row["raw"]["recall@1"] <= row["prefix_recall@1"][0]
    assert row["raw"] == {name: row[name] for name in row["raw"]}


def test_a_model_is_compared_with_the_one_in_production_on_the_same_cases(trie: Trie, learned: Generator) -> None:
    held_out = walks(users=64, events=8, seed=1)
    cases = cases_of(held_out[:, :-1], held_out[:, -1])
    counts = np.bincount(walks(96, 10, 0).reshape(-1), minlength=ITEMS)
    rng = np.random.default_rng(3)
    shuffled = trained(trie, rng.permuted(walks(users=96, events=10, seed=0), axis=1))

    def verdict(model: Generator, in_production: Generator) -> dict[str, Any]:
        result = figures(model, trie, cases, counts, SPEC, rival=Contender(in_production, cases))
        alone = figures(in_production, trie, cases, counts, SPEC)
        assert result["production"]["recall@1"] == alone["generator"]["recall@1"]
        return result

    better, worse = verdict(learned, shuffled), verdict(shuffled, learned)
    assert better["against"]["production"]["verdict"] == "beats"
    assert EvaluationResult.of(better).as_record() == better
    assert worse["against"]["production"]["verdict"] == "is worse"
    assert worse["against"]["production"]["difference"] == -better["against"]["production"]["difference"] < 0
    assert verdict(learned, learned)["against"]["production"]["verdict"] == "not told apart"
    judged = judge_model("m-2", "r-1", EvaluationResult.of(worse), "block")
    assert not judged.publishable
    assert "worse than popularity and production" in judged.message or "worse than production" in judged.message
    other = cases_of(held_out[:, :-1], held_out[::-1, -1])
    with pytest.raises(ValueError, match="reads other cases"):
        figures(learned, trie, cases, counts, SPEC, rival=Contender(learned, other))


def test_what_was_found_is_put_in_order_by_vectors_too(trie: Trie, learned: Generator) -> None:
    """Vectors that point from each item to another one than the walks do, and outweigh the generator."""
    held_out = walks(users=32, events=8, seed=1)
    cases = cases_of(held_out[:, :-1], held_out[:, -1])
    wrong = VectorSimilarity.of(np.eye(ITEMS, dtype=np.float32), 1e6, 0.0)
    right = VectorSimilarity.of(np.eye(ITEMS, dtype=np.float32), 0.0, 0.0)
    counts, every = np.ones(ITEMS, np.int64), SPEC.model_copy(update={"beams": ITEMS, "exclude_seen": False})
    turned = figures(learned, trie, cases, counts, every, similarity=wrong)
    same = figures(learned, trie, cases, counts, every, similarity=right)
    assert same["reranked"]["mrr"] == same["generator"]["mrr"] == turned["generator"]["mrr"] > 0.95
    assert turned["reranked"]["recall@1"] == (held_out[:, -2] == held_out[:, -1]).mean() < 0.05
    assert turned["dense"]["recall@1"] == turned["reranked"]["recall@1"]


def test_neighbours_of_items_are_a_row_where_it_is_known_who_took_what(trie: Trie, learned: Generator) -> None:
    """The next item of a walk has been seen beside those before it, but so has the one before them."""
    taken = walks(96, 10, 0)
    held_out = walks(users=64, events=8, seed=1)
    cases = cases_of(held_out[:, :-1], held_out[:, -1])
    result = figures(learned, trie, cases, np.bincount(taken.reshape(-1), minlength=ITEMS), SPEC, list(taken))
    assert (result["item-knn"]["nearest"], result["item-knn"]["newest_events"]) == (100, 10)
    assert result["popularity"]["recall@5"] < 0.9 < result["item-knn"]["recall@5"]


def test_a_sasrec_that_is_asked_for_learns_the_pattern_too(trie: Trie, learned: Generator) -> None:
    held_out = walks(users=64, events=8, seed=1)
    cases = cases_of(held_out[:, :-1], held_out[:, -1])
    counts, spec = np.ones(ITEMS, np.int64), SPEC.model_copy(update={"sasrec_epochs": 200})
    result = figures(learned, trie, cases, counts, spec, [*walks(96, 10, 0), np.array([3])])
    assert result["sasrec"]["recall@1"] > 0.95


def test_a_sasrec_learns_from_users_of_two_events_and_leaves_out_what_was_taken_only_if_told_to(
    trie: Trie, learned: Generator
) -> None:
    again, counts = cases_of(walks(8, 5, 2), walks(8, 5, 2)[:, 0]), np.ones(ITEMS, np.int64)
    settings = {"k": (ITEMS,), "beams": ITEMS, "sasrec_epochs": 1}
    for exclude_seen, recall in ((True, 0.0), (False, 1.0)):
        spec = EvaluateSpec.model_validate({**settings, "exclude_seen": exclude_seen})
        found = figures(learned, trie, again, counts, spec, [np.array([0, 1])])
        assert found["sasrec"][f"recall@{ITEMS}"] == recall
        assert "sasrec" not in figures(learned, trie, again, counts, spec, [np.array([3])])
    nobody = replace(
        cases_of(walks(8, 5, 2), np.arange(8)), taken_rows=np.zeros(0, int), taken_offsets=np.zeros(9, int)
    )
    row = figures(learned, trie, nobody, counts, spec, [np.array([0, 1])])
    assert row["sasrec"][f"recall@{ITEMS}"] == 0.0, "of a user without an event it says nothing"


def test_cases_are_told_apart_by_how_known_their_target_and_their_user_are(trie: Trie, learned: Generator) -> None:
    counts = np.array([0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14])
    lengths = np.array([0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9])
    targets = np.array([-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15])
    flat = np.concatenate([walks(1, int(length), seed)[0] for seed, length in enumerate(lengths)])
    bounds = np.cumsum([0, *lengths])
    cases = EvaluationCases(CODES[flat], np.zeros(len(flat), np.int64), bounds, flat, bounds, targets)
    row = figures(learned, trie, cases, counts, EvaluateSpec(k=(1, 5), beams=16))["popularity"]
    cold, *known = row["by_popularity"]
    assert (cold["from"], cold["to"], cold["cases"], cold["recall@5"]) == (0, 0, 2, 0.0)
    assert [(each["from"], each["to"], each["cases"]) for each in known] == [
        (1, 3, 3),
        (4, 5, 2),
        (6, 7, 2),
        (8, 14, 2),
    ]
    assert [each["cases"] for each in row["by_history"]] == [2, 3, 2, 3, 2]
    for name in ("recall@5", "ndcg@5", "mrr"):
        whole = sum(each["cases"] * each[name] for each in row["by_history"])
        assert whole / len(targets) == pytest.approx(row[name])
    assert all(each["ndcg@5_interval"][0] <= each["ndcg@5"] <= each["ndcg@5_interval"][1] for each in known)


def test_raw_figures_count_sids_and_corrected_ones_items() -> None:
    """Against the ranking of all items, from which either is counted by hand."""
    codes = np.random.default_rng(7).integers(0, 2, (24, 3)).astype(np.int32)
    sizes = (4, 4, 2)
    trie = Trie.build(codes, pa.array([f"i{item:02d}" for item in range(24)]), sizes, shared=True)
    model = build_generator(GeneratorSpec(dim=16, layers=1, heads=2, kv_heads=1, ff=16), sizes, "v", seed=7)
    bounds, targets = np.arange(25) * 3, np.arange(24)
    rows = np.random.default_rng(8).integers(0, 24, 72)
    cases = EvaluationCases(trie.codes()[rows], np.zeros(72, np.int64), bounds, rows, bounds, targets)
    spec = EvaluateSpec(k=(1, 3), beams=24, exclude_seen=False)
    result = figures(model, trie, cases, np.ones(24, np.int64), spec)["generator"]
    searched = TrieTensors(TrieMasks.of(trie))
    events = gathered(cases.codes, cases.kinds, np.arange(72).reshape(24, 3), np.full(24, 3))
    ranked, _ = beam_search(model, searched, events, 24)
    sids = [tuple(sid) for sid in trie.codes().tolist()]
    for k in (1, 3):
        raw = [sids[target] in list(dict.fromkeys(sids[row] for row in ranked[target]))[:k] for target in targets]
        assert result["raw"][f"recall@{k}"] == np.mean(raw)
        assert result[f"recall@{k}"] == np.mean([target in ranked[target][:k] for target in targets])
    assert result["raw"]["recall@3"] > result["recall@3"]


def test_missing_and_seen_targets_are_misses_that_are_counted(trie: Trie, learned: Generator) -> None:
    items = walks(users=4, events=7, seed=2)
    targets = np.array([-1, items[1, 0], items[2, 0], -1])
    gone = cases_of(items, targets)
    gone.taken_rows[0] = -1
    result = figures(learned, trie, gone, np.ones(ITEMS, np.int64), SPEC)
    assert result["generator"]["recall@5"] == result["popularity"]["recall@5"] == 0.0
    assert (result["cases"], result["targets_missing"], result["targets_seen"]) == (4, 2, 2)
    wide = EvaluateSpec(k=(16,), beams=16, exclude_seen=False)
    result = figures(learned, trie, cases_of(items, targets), np.ones(ITEMS, np.int64), wide)
    assert result["generator"]["recall@16"] == result["popularity"]["recall@16"] == 0.5
    assert result["generator"]["raw"]["recall@16"] == 0.5
    assert "raw" not in result["popularity"], "it ranks items, not SIDs"


def test_the_batch_size_and_the_order_of_cases_change_no_metric(trie: Trie, learned: Generator) -> None:
    rng = np.random.default_rng(3)
    lengths = rng.integers(0, 14, 20)
    histories = [walks(1, int(length), seed)[0] for seed, length in enumerate(lengths)]
    targets = rng.integers(-1, ITEMS, 20)
    results = []
    for batch_size, order in ((3, np.arange(20)), (64, rng.permutation(20))):
        flat = np.concatenate([histories[case] for case in order])
        bounds = np.cumsum([0, *lengths[order]])
        cases = EvaluationCases(CODES[flat], np.zeros(len(flat), np.int64), bounds, flat, bounds, targets[order])
        spec = SPEC.model_copy(update={"batch_size": batch_size})
        results.append(figures(learned, trie, cases, np.arange(ITEMS), spec))
    for name in ("generator", "popularity"):
        assert results[0][name]["mrr"] == pytest.approx(results[1][name]["mrr"])
        assert results[0][name]["ndcg@5"] == pytest.approx(results[1][name]["ndcg@5"])


def test_without_a_case_there_is_no_figure(trie: Trie, learned: Generator) -> None:
    with pytest.raises(ValueError, match="move the cutoff"):
        figures(learned, trie, cases_of(walks(0, 3, 0), np.zeros(0, np.int64)), np.ones(ITEMS, np.int64), SPEC)


@pytest.mark.parametrize(
    ("spec", "values", "remedy"),
    [
        (EvaluateSpec, {"beams": 5}, "raise beams"),
        (EvaluateSpec, {"groups": 3}, "must be a multiple of evaluate.groups=3"),
        (EvaluateSpec, {"diversity": 0.5}, "raise groups"),
        (EvaluateSpec, {"temperature": 0.0}, "greater than 0"),
        (GeneratorSpec, {"dim": 36, "heads": 4}, "multiple of 2"),
        (GeneratorSpec, {"heads": 4, "kv_heads": 3}, "must be a multiple"),
        (GeneratorSpec, {"depth": 4}, "Extra inputs"),
        (GeneratorSpec, {"experts": 2, "experts_per_token": 3}, "is more than generator.experts"),
        (GeneratorSpec, {"separators": True}, "leave it out"),
        (TrainSpec, {"temperature": 0.5}, 'objective = "ranking"'),
    ],
)
def test_a_spec_that_cannot_work_is_refused(spec: type, values: dict[str, float], remedy: str) -> None:
    with pytest.raises(ValidationError, match=remedy):
        spec(**values)


def test_specs_and_metrics_need_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, training.spec, training.evaluation.metrics, learning.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_contexts_longer_than_the_model_was_trained_for_keep_their_end(trie: Trie, learned: Generator) -> None:
    long = walks(users=5, events=14, seed=4)
    short = long[:, -(learned.spec.max_events - 1) :]
    spec = SPEC.model_copy(update={"exclude_seen": False})
    both = [
        figures(learned, trie, cases_of(part, long[:, 3]), np.ones(ITEMS, np.int64), spec) for part in (long, short)
    ]
    assert [result["generator"].pop("by_history")[0]["to"] for result in both] == [14, 9]
    assert both[0]["generator"] == both[1]["generator"]
    assert all(a <= b for a, b in pairwise(both[0]["generator"]["recall@5_interval"]))


def test_a_case_is_read_as_the_histories_of_training_are() -> None:
    """The last events that fit before a target, and some older ones that were not only shown."""
    kinds = np.array([0, 1, 0, 0, 1, 0, 0, 1, 0, 0])
    codes = np.stack([np.arange(10), np.arange(10)], axis=1).astype(np.int32)
    bounds = np.array([0, 0, 7, 10])
    cases = EvaluationCases(codes, kinds, bounds, bounds[:0], np.zeros(4, np.int64), np.zeros(3, np.int64))
    expected = {0: [[], [4, 5, 6], [7, 8, 9]], 2: [[], [0, 3, 4, 5, 6], [7, 8, 9]]}
    for long_events, rows in expected.items():
        spec = GeneratorSpec(max_events=4, long_events=long_events)
        pool, windows = contexts(cases.codes, cases.kinds, cases.offsets, spec)
        found, lengths = window_rows(pool, windows, long_events)
        assert [pool.codes[row[:length], 0].tolist() for row, length in zip(found, lengths, strict=True)] == rows
