"""Figures of a release's record that are read from its log and its vectors."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from log_rows import order

import pipelines.neighbours
import pipelines.quality
from pipelines.neighbours import Added, neighbours_sharing
from pipelines.quality import HeldOut, behaviour, consumed_together, table_quality
from storage.commit import Provenance, append
from storage.lake import Lake
from storage.schemas import INTERACTIONS, VECTORS
from tokenizer.arrays.items import tie_keys
from tokenizer.fit import fit_codebook
from tokenizer.spec import CodebookSpec
from tokenizer.trie.trie import Trie

CUTOFF, LATE = datetime(2024, 1, 10, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC)


def written(folder: Path) -> tuple[Lake, list[dict[str, object]]]:
    """A log of 30 users over 20 items, of which three have no SID; some impressions, skips and late arrivals."""
    draw = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    for number in range(900):
        day = int(draw.integers(1, 20))
        arrival = LATE if draw.random() < 0.1 else datetime(2024, 1, 20, tzinfo=UTC)
        rows.append(
            {
                **dict.fromkeys(INTERACTIONS.schema.names),
                "event_id": f"e{number:04d}",
                "user_id": f"u{draw.integers(30)}",
                "item_id": f"i{draw.integers(20):02d}",
                "event_type": "skip" if draw.random() < 0.2 else "click",
                "event_time": datetime(2024, 1, day, int(draw.integers(24)), tzinfo=UTC),
                "impression": [None, False, True][int(draw.integers(3))],
                "arrival_time": arrival,
                "arrival_date": arrival.date(),
                "source": "log",
                "source_offset": number,
            }
        )
    lake = Lake(str(folder))
    append(lake, "interactions", pa.Table.from_pylist(rows, INTERACTIONS.schema), "log", Provenance("test", "recipe"))
    return lake, rows


def a_trie() -> Trie:
    codes = np.array([[item % 4, item // 4] for item in range(17)], np.int32)
    return Trie.build(codes, [f"i{item:02d}" for item in range(17)], (4, 5))


def test_a_token_after_the_codes_is_no_level_that_should_be_filled() -> None:
    """Ten items on five SIDs of 4 x 16 codes, told apart by a token of 256."""
    codes = np.array([[sid % 2, sid, token] for sid in range(5) for token in range(2)], np.int32)
    trie = Trie.build(codes, [f"i{item}" for item in range(len(codes))], (4, 16, 256))
    assert table_quality(trie, 2).utilisation_of_fillable == [2 / 4, 5 / 10]
    whole = table_quality(trie)
    assert whole.utilisation_of_fillable == [2 / 4, 5 / 10, 2 / 10]
    assert [place.utilisation for place in whole.places] == [2 / 4, 5 / 16, 2 / 256]
    assert whole.collisions.collision_rate == 0


def test_pairs_are_those_of_a_double_loop_over_the_held_out_positive_events(tmp_path: Path) -> None:
    lake, rows = written(tmp_path)
    trie = a_trie()
    held_out = HeldOut(lake.version("interactions"), datetime(2024, 1, 31, tzinfo=UTC), CUTOFF, ("skip",))
    place = {item: row for row, item in enumerate(trie.item_ids.to_pylist())}
    seen = [
        row
        for row in sorted(rows, key=order)
        if row["event_time"] >= CUTOFF  # type: ignore[operator]
        and row["arrival_time"] != LATE
        and row["event_type"] == "click"
        and not row["impression"]
        and row["item_id"] in place
    ]
    expected = sorted(
        (place[str(one["item_id"])], place[str(other["item_id"])])
        for at, one in enumerate(seen)
        for other in seen[at + 1 : at + 6]
        if other["user_id"] == one["user_id"] and other["item_id"] != one["item_id"]
    )
    found = consumed_together(lake, held_out, trie).pairs
    assert sorted(map(tuple, found.tolist())) == expected
    assert len(expected) > 100
    figures = behaviour(lake, held_out, trie)
    codes = trie.codes()
    assert figures is not None
    assert figures.consumed_together_sharing[0] == pytest.approx(
        np.mean([codes[a, 0] == codes[b, 0] for a, b in expected])
    )


def test_of_a_long_log_the_newest_events_are_taken_and_an_empty_one_gives_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, rows = written(tmp_path)
    trie, version = a_trie(), lake.version("interactions")
    newest = sorted(row["event_time"] for row in rows)[-60]  # type: ignore[type-var]
    few = consumed_together(lake, HeldOut(version, LATE, newest, ("skip",)), trie).pairs  # type: ignore[arg-type]
    monkeypatch.setattr(pipelines.quality, "EVENTS", 60)
    found = consumed_together(lake, HeldOut(version, LATE, CUTOFF, ("skip",)), trie).pairs
    assert len(found)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, few.tolist()))
    assert behaviour(lake, HeldOut(version, LATE, LATE, ()), trie) is None


def test_neighbours_are_measured_on_runs_of_the_fit_and_on_what_a_night_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a double loop: over all items where they are few, else over the sample and no other vector."""
    draw = np.random.default_rng(0)
    ids = [f"i{item:03d}" for item in draw.permutation(300)]
    vectors = dict(zip(ids, draw.normal(size=(300, 3)).astype(np.float32), strict=True))
    codes = dict(zip(ids, (np.stack([*vectors.values()]) > 0).astype(np.int32), strict=True))
    lake, trie = Lake(str(tmp_path)), Trie.build(np.stack([*codes.values()]), ids, (2, 2, 2), shared=True)
    spec = CodebookSpec.model_validate({"levels": [{"codes": 2}] * 3, "collision": "keep", "iterations": 1})
    book = fit_codebook({"fused": np.stack([*vectors.values()])}, ids, spec)
    for night, part in enumerate((sorted(ids[:200]), sorted(ids[200:240]), sorted(ids[240:]))):
        rows = [
            dict(zip(VECTORS.schema.names, (item, kind, "", "f", vectors[item].tolist()), strict=True))
            for kind in ("fused", "text")
            for item in part
        ]
        append(lake, "vectors", pa.Table.from_pylist(rows, VECTORS.schema), f"night {night}", Provenance("t", "r"))
    versions = [lake.version("vectors") - back for back in (2, 1, 0)]
    added = Added(sorted(ids[240:]), versions[1], versions[2])

    def slow(sample: list[str]) -> list[float]:
        shares: list[list[bool]] = [[], [], []]
        for item in sample:
            others = sorted(sample, key=lambda other: float(np.square(vectors[other] - vectors[item]).sum()))
            for depth, share in enumerate(shares, start=1):
                share += [bool((codes[other][:depth] == codes[item][:depth]).all()) for other in others[1:11]]
        return [sum(share) / len(share) for share in shares]

    found = neighbours_sharing(lake, "f", trie, book, versions[0], added)
    assert found == pytest.approx(slow(ids))
    monkeypatch.setattr(pipelines.neighbours, "RUNS", 3)
    monkeypatch.setattr(pipelines.neighbours, "RUN_LENGTH", 20)
    keys = dict(zip(ids, tie_keys(ids).tolist(), strict=True))
    starts = sorted(ids, key=keys.__getitem__)[:3]
    ordered = sorted(ids)
    runs = {item for start in starts for item in ordered[ordered.index(start) : ordered.index(start) + 20]}
    sample = runs & set(ids[:200]) | set(sorted(ids[240:], key=keys.__getitem__)[:20])
    assert 30 < len(sample) < 80
    found = neighbours_sharing(lake, "f", trie, book, versions[0], added)
    assert found == pytest.approx(slow(sorted(sample)))
