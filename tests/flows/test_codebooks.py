"""Runs end to end under other codebooks, and what training reads of a log."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from test_runs import Recipe, sids, start

from bench.quality.refit import aligned, nearest, relative_error
from conftest import START, write_items, write_log
from flows.backfill import backfill
from flows.cli.main import run_command
from flows.inspect.diff import diff_releases
from flows.inspect.evaluation_tables import evaluation_tables, setting_text_with_targets
from flows.inspect.explain import explain_item
from flows.inspect.status import refused_rows
from flows.inspect.verify import verify
from flows.nightly import nightly
from flows.recipe import RecipeError, parse_recipe
from flows.train import NothingToTrainOn, train
from storage.lake import Lake
from storage.quarantine import by_reason
from storage.releases.models import evaluations, read_model
from storage.releases.releases import published, read_release
from storage.runs.record import runs
from tokenizer.arrays.vectors import ArrayRows, Items
from tokenizer.fit import fit_codebook
from tokenizer.spec import CodebookSpec


def test_a_refit_keeps_most_sids_and_its_churn_is_a_gate(
    tmp_path: Path, small: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = start(str(tmp_path / "lake"), small, recipe)
    write_items(small / "night.jsonl", 40, 20)
    nightly(lake.uri, None, [str(small / "night.jsonl")])
    before = sids(lake, "production")
    refitting = {**recipe, "refit": {"budget": 0.1, "steps": 2}, "gates": {"churn": {"limit": 0.0}}}
    once = ["gates.churn.limit=0.1"]
    made = backfill(lake.uri, refitting, as_of="2100-01-01", overrides=once)
    release = read_release(lake, made["release"])
    after = sids(lake, made["release"])
    changed = [np.mean([after[item][level] != sid[level] for item, sid in before.items()]) for level in range(3)]
    moved = sum(after[item] != sid for item, sid in before.items()) / len(before)
    assert before.keys() == after.keys()
    assert len(set(after.values())) == 60
    assert 0 < moved == pytest.approx(release.metrics["churn"])
    assert release.metrics["churn_of_levels"] == pytest.approx(changed)
    assert 0 < release.metrics["relative_error"] < read_release(lake, "production").metrics["relative_error"]
    assert [gate.passed for gate in release.gates if gate.name == "churn"] == [True]
    assert not backfill(lake.uri, refitting, as_of="2100-01-01", overrides=once)["made"]
    with pytest.raises(ValueError, match="a refit keeps the"):
        backfill(lake.uri, {**refitting, "codebook": {"levels": [{"codes": 16}, {"codes": 16}]}})

    def told(*command: str) -> str:
        capsys.readouterr()
        assert run_command([*command, "--lake", lake.uri]) == 0
        return capsys.readouterr().out

    # What changed is told as measured, seen from either side; the nights after are not judged on it.
    shares = [f"level {level} {share:.1%}" for level, share in enumerate(changed, start=1)]
    expected = f"changed codes: {', '.join(shares)}, full sid {moved:.1%}"
    assert f"; {expected}" in told("release", "diff", "production", release.id)
    told("release", "publish", release.id)
    told("report", "--output", str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    assert f"A refit of the codebook; {expected.replace('%', ' %')}." in page
    assert "every SID changes" not in page
    write_items(small / "night.jsonl", 60, 4)
    night = read_release(lake, nightly(lake.uri, None, [str(small / "night.jsonl")])["release"])
    assert night.id == published(lake).release  # type: ignore[union-attr]
    assert "churn" not in night.metrics.keys() | {gate.name for gate in night.gates}
    assert night.metrics["neighbours_sharing"] != release.metrics["neighbours_sharing"]
    diff = diff_releases(lake, night, read_release(lake, "r-000002"))
    assert (diff.items.removed, diff.churn.full_sid) == (4, pytest.approx(moved))


def test_the_peers_of_a_refit_are_what_they_are_called() -> None:
    """Lloyd's iterations from where a codebook stands, and codes numbered as those of another, against slow ones."""
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(200, 4)).astype(np.float32)
    spec = CodebookSpec.model_validate({"levels": [{"codes": 8}] * 2, "balanced": False, "collision": "keep"})
    book = fit_codebook({"fused": vectors[:150]}, [f"i{item}" for item in range(150)], spec)
    items = Items({"fused": ArrayRows(vectors)}, np.arange(200, dtype=np.uint64))
    warm, codes = nearest(book, items, 2)
    left = vectors.astype(np.float64)
    for level in range(2):
        points = book.arrays[f"level{level}"].astype(np.float64)
        for _ in range(2):
            near = ((left[:, None] - points) ** 2).sum(axis=2).argmin(axis=1)
            points = np.stack([left[near == code].mean(axis=0) for code in range(8)])
        np.testing.assert_allclose(warm.arrays[f"level{level}"], points, atol=1e-5)
        np.testing.assert_array_equal(codes[:, level], ((left[:, None] - points) ** 2).sum(axis=2).argmin(axis=1))
        left = left - points[codes[:, level]]
    spread = ((vectors - vectors.mean(axis=0)) ** 2).sum()
    assert relative_error(warm, items, codes) == pytest.approx((left**2).sum() / spread, rel=1e-4)
    turned = {name: each[draw.permutation(8)] if name != "mean.fused" else each for name, each in book.arrays.items()}
    again = aligned(replace(book, arrays=turned), book)
    for level in range(2):
        np.testing.assert_array_equal(again.arrays[f"level{level}"], book.arrays[f"level{level}"])


def test_codes_without_order_make_releases_nights_and_a_code_table_but_no_trie_and_no_generator(
    tmp_path: Path, small: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe["codebook"] = {"quantizer": "opq", "levels": [{"codes": 4}] * 4, "growth": 1.1, "slack": 1.0}
    lake = start(str(tmp_path / "lake"), small, recipe)
    first = sids(lake, "r-000001")
    assert by_reason(lake) == {}
    write_items(small / "night.jsonl", 40, 8)
    nightly(lake.uri, None, [str(small / "night.jsonl")])
    second = sids(lake, "production")
    # Each of four codes has room for 11 items: of the eight that are new at least four wait for a refit.
    assert 40 < len(set(second.values())) == len(second) <= 44
    assert {item: second[item] for item in first} == first
    waiting = {f"i{number:04d}" for number in range(48)} - second.keys()
    assert by_reason(lake) == {"refit_due": len(waiting)}
    assert f"{len(waiting)} items wait for a SID, because no SID near" in (told := capsys.readouterr().out)
    assert "sidmill run backfill, with more codes" in told
    release = read_release(lake, "production")
    assert release.counts["refit_due"] == release.counts["quarantine:refit_due"] == len(waiting)
    assert set(refused_rows(lake, "refit_due")["subject"]) == waiting
    with pytest.raises(NothingToTrainOn, match="have no order"):
        train(lake.uri)
    output, command = tmp_path / "out", ["release", "export-trie", "production", str(tmp_path / "out"), "--lake"]
    for layout in ("native", "arrow"):
        assert run_command([*command, lake.uri, "--format", layout]) == 1
        assert f"`sidmill release export-trie production {output} --format codes`" in capsys.readouterr().err
        assert not output.exists()
    assert run_command([*command, lake.uri, "--format", "codes"]) == 0
    table = pa.ipc.open_file(output).read_all()
    assert {row["item_id"]: tuple(row["codes"]) for row in table.to_pylist()} == second
    assert table.schema.metadata[b"release"] == b"r-000002"


def with_a_token(recipe: Recipe, policy: str) -> Recipe:
    """SIDs of so few codes that the token after them has much to tell apart."""
    return {**recipe, "codebook": {"levels": [{"codes": 4}] * 2, "collision": policy}}


@pytest.mark.parametrize("policy", ["suffix", "item"])
def test_a_token_makes_sids_unique_under_the_default_gates_and_a_night_counts_on(
    tmp_path: Path, small: Path, recipe: Recipe, policy: str
) -> None:
    lake = start(str(tmp_path / "lake"), small, with_a_token(recipe, policy))
    first = sids(lake, "production")
    write_items(small / "night.jsonl", 40, 8)
    nightly(lake.uri, None, [str(small / "night.jsonl")])
    second = sids(lake, "production")
    assert len(second) == len(set(second.values())) == 48 > 2 * len({sid[:2] for sid in second.values()})
    assert {item: second[item] for item in first} == first
    tokens: dict[tuple[int, ...], list[int]] = {}
    for *codes, token in second.values():
        tokens.setdefault(tuple(codes) if policy == "suffix" else (), []).append(token)
    assert all(sorted(counted) == list(range(len(counted))) for counted in tokens.values())
    assert [finding for finding in verify(lake) if finding.fault] == []


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["suffix", "item"])
def test_a_generator_says_the_token_too(tmp_path: Path, small: Path, recipe: Recipe, policy: str) -> None:
    lake = start(
        str(tmp_path / "lake"),
        small,
        {
            **with_a_token(recipe, policy),
            "train": {"workers": 1, "epochs": 6},
            "evaluate": {"exclude_seen": False},
        },
    )
    train(lake.uri)
    (stored,) = evaluations(lake)
    card = read_model(lake, stored.model).card
    assert tuple(card.identity["sizes"]) == read_release(lake, "production").codebook.sizes
    assert len(card.identity["sizes"]) == 3
    result = stored.result.as_record()
    assert result["targets_missing"] == 0 < result["cases"]
    assert result["generator"]["recall@20"] > result["popularity"]["recall@20"]


@pytest.mark.slow
def test_items_may_share_sids_where_the_recipe_keeps_collisions(
    tmp_path: Path, small: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe["codebook"] = {"levels": [{"codes": 4}] * 2, "collision": "keep"}
    with pytest.raises(RecipeError, match="lets items share SIDs"):
        parse_recipe(recipe)
    recipe["gates"] = {"collision_rate": {"limit": 1.0}, "model_against_baselines": {"severity": "warn"}}
    recipe["evaluate"] = {"exclude_seen": False, "vector_weight": 30.0}
    lake = start(str(tmp_path / "lake"), small, recipe)
    first = sids(lake, "r-000001")
    write_items(small / "night.jsonl", 40, 8)
    write_log(small / "night.csv", sorted(first), users=20, events=200, start=START + timedelta(days=40))
    nightly(lake.uri, None, [str(small / "night.jsonl")], [str(small / "night.csv")])
    second = sids(lake, "production")
    assert len(second) == 48 > len(set(second.values())) > 4
    assert {item: second[item] for item in first} == first
    release = read_release(lake, "production")
    assert release.metrics["collision_rate"] > 0
    assert release.metrics["largest_group"] > 1
    assert release.metrics["consumed_together_sharing"][0] > 1.3 * release.metrics["random_pairs_sharing"][0] > 0
    assert [finding for finding in verify(lake) if finding.fault] == []
    sharing = explain_item(lake, release, "i0000").path[-1]
    assert sharing.items == sum(sid == second["i0000"] for sid in second.values())
    train(lake.uri)
    (stored,) = evaluations(lake)
    result = stored.result.as_record()
    assert result["cases"] > 0
    assert result["generator"]["raw"]["recall@5"] > result["generator"]["recall@5"] > 0
    assert result["item-knn"]["recall@10"] > result["popularity"]["recall@10"]
    assert result["reranked"]["recall@20"] == result["generator"]["recall@20"]  # all that was found, in another order
    assert result["reranked"]["mrr"] != result["generator"]["mrr"]
    assert 0 < result["dense"]["recall@20"] <= 1

    def told(*command: str) -> str:
        capsys.readouterr()
        assert run_command([*command, "--lake", lake.uri]) == 0
        return capsys.readouterr().out

    _the_evaluation_is_shown_everywhere(lake, told, tmp_path / "report.html")

    # The model can be asked about a later release too, and not about one that holds out what it knows.
    write_log(small / "later.csv", sorted(first), users=20, events=200, start=START + timedelta(days=60))
    nightly(lake.uri, None, [], [str(small / "later.csv")])
    later = json.loads(told("run", "evaluate", "--release", "production", "--json"))
    assert (later["model"], later["release"]) == (stored.model, "r-000003")
    assert later["result"]["seen_left_out"] is False
    cases = f"{later['result']['cases']:,} cases, seen items ranked too"
    assert f"(on r-000003, {cases})" in told("lake", "status")
    assert cases in told("run", "evaluate", "--release", "production")
    assert cases in told("release", "show", "production")
    assert run_command(["run", "evaluate", "--release", "r-000001", "--lake", lake.uri]) == 1
    assert f"{stored.model} has learnt from events before" in capsys.readouterr().err


def _the_evaluation_is_shown_everywhere(lake: Lake, told: Callable[..., str], page: Path) -> None:
    (stored,) = evaluations(lake)
    result = stored.result.as_record()
    again = json.loads(told("run", "evaluate", stored.model, "--json"))
    assert (again["key"], again["result"]) == (stored.key, result)
    assert len(evaluations(lake)) == 1
    shown = told("run", "evaluate")
    told("report", "--output", str(page))
    assert setting_text_with_targets(stored.result) in shown
    assert setting_text_with_targets(stored.result) in page.read_text()
    for table in evaluation_tables(stored.result):
        assert table.title in shown
        assert f"<h3>{table.title}</h3>" in page.read_text()
        assert all(cell in shown for row in table.rows for cell in row)
    recall = result["generator"]["recall@10"]
    assert f"recall@10 {recall:.4g}" in told("release", "show", "production")
    assert json.loads(told("release", "show", "production", "--json"))["models"][0]["evaluation"] == result
    for before, after, expected in (
        ("r-000001", "r-000002", [None, recall, None]),
        ("r-000002", "r-000002", [recall, recall, 0.0]),
    ):
        diff = json.loads(told("release", "diff", before, after, "--json"))["evaluations"]
        assert diff["figures"]["recall@10"] == expected
        assert diff["after"] == {"model": stored.model, "cases": result["cases"]}
    assert re.search(rf"recall@10 +{recall:.4g}  ->  {recall:.4g}   \+0.0000", told("release", "diff", before, after))


@pytest.mark.slow
def test_training_reads_impressions_as_context_and_learns_clicks_alone(
    tmp_path: Path, small: Path, recipe: Recipe
) -> None:
    """From the file to the batches: every third event was shown and not acted on, by flag or by type."""
    head, *lines = (small / "log.csv").read_text().splitlines()
    shown = {0: ",1,4", 3: ",yes,5"}
    marked = [line + shown.get(row % 6, ",0,1") for row, line in enumerate(lines)]
    marked = [line.replace("click", "impression") if row % 9 == 1 else line for row, line in enumerate(marked)]
    (small / "log.csv").write_text("\n".join([f"{head},impression,position", *marked]) + "\n")
    recipe["generator"]["max_events"] = 64  # type: ignore[index]
    lake = start(str(tmp_path / "lake"), small, recipe)
    train(lake.uri)
    events = lake.frame("sequences")
    context = events["impression"].fill_null(False) | (events["event_type"] == "impression")
    assert 0.3 * len(events) < context.sum() < 0.5 * len(events)
    # No user has 64 events: an epoch reads each event once and predicts each of the others once.
    epochs = next(stage for stage in runs(lake)[-1].stages if stage.name == "train").others["history"]
    assert [epoch["targets"] for epoch in epochs] == [3 * (~context).sum()] * 2
    assert all(epoch["tokens"] >= 3 * len(events) for epoch in epochs)
