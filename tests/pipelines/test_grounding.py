"""The grounding corpus against plain loops, and what must not be in it."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from log_rows import START, WHO, Row, deliver, event
from test_sequences import visible

from pipelines import grounding as module
from pipelines.counts import Counts
from pipelines.event_log.visible_log import LogSlice
from pipelines.grounding import SCHEMA, TEMPLATES, GroundingSpec, grounding, sid_texts, tokens
from storage.commit import append
from storage.lake import Lake
from storage.schemas import ITEMS
from tokenizer.trie.trie import Trie

SIZES = (3, 3)
CODES = np.stack(np.unravel_index(np.array([7, 2, 5, 0, 3, 8]), SIZES), axis=1).astype(np.int32)
NAMES = [f"i{number}" for number in range(6)]
TITLES = ["plain", "two\r\nlines", "ünïcode 本 {sid}", " ", None, "last"]
SAID = [
    {"brand": "b", "tags": ["x", "", "y"]},
    {"brand": ""},
    {},
    {"tags": []},
    {"brand": "c\nd"},
    {"n": 3, "m": None, "": "7"},
]
TEXT = dict(zip(NAMES, sid_texts(CODES), strict=True))
DRAW = np.random.default_rng(0)
LOG = [event(int(DRAW.integers(6)), int(DRAW.integers(8)), minute, 0, minute) for minute in range(120)]
DEFAULT = GroundingSpec()


def describe(
    lake: Lake, rows: Sequence[tuple[str, int, str | None, Row]], key: str, days: int = 0, deleted: bool = False
) -> None:
    """Revisions (item, revision, title, attributes) that arrive some days after START."""
    same = {"text_hash": "", "images": [], "deleted": deleted, "source": "s", "source_row": 0}
    found = [
        {"item_id": item, "revision": revision, "title": title, "attributes": json.dumps(said), **same}
        for item, revision, title, said in rows
    ]
    arrived = START.replace(day=1 + days)
    append(
        lake, "items", pa.Table.from_pylist([row | {"arrived_at": arrived} for row in found], ITEMS.schema), key, WHO
    )


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path))
    describe(lake, [("i0", 0, "before", {"brand": "old"})], "items:0")
    describe(lake, [(*row[:1], 1, *row[1:]) for row in zip(NAMES, TITLES, SAID, strict=True)], "items:1")
    deliver(lake, LOG, "log:0")
    return lake


def trie_of(codes: np.ndarray, shared: bool = False) -> Trie:
    return Trie.build(codes, pa.array(NAMES), SIZES, shared)


def corpus(
    lake: Lake, spec: GroundingSpec = DEFAULT, log: LogSlice | None = None, trie: Trie | None = None
) -> tuple[list[Row], Counts]:
    counts = Counts("grounding")
    slice_of = log or visible(lake, days=1, minutes=100)
    batches = grounding(lake, trie or trie_of(CODES), slice_of, lake.version("items"), spec, counts)
    return pa.Table.from_batches(batches, SCHEMA).to_pylist(), counts


def of(rows: list[Row], task: str, *columns: str) -> list[tuple[str, ...]]:
    return [tuple(row[name] for name in columns) for row in rows if row["task"] == task]


def after(log: list[Row], text: dict[str, str], spec: GroundingSpec) -> dict[str, list[str]]:
    """The SIDs taken after each item, by a plain loop; of those as often taken the one that sorts first."""
    follows: Counter[tuple[str, str]] = Counter()
    for user in {row["user_id"] for row in log}:
        own = [
            row["item_id"]
            for row in log
            if row["user_id"] == user
            and row["item_id"] in text
            and not row.get("impression")
            and row["event_type"] not in spec.negative_events
        ]
        for at, item in enumerate(own):
            later = {text[other] for other in own[at + 1 : at + 1 + spec.window]} - {text[item]}
            follows.update((item, sid) for sid in later)
    enough = {pair: count for pair, count in follows.items() if count >= spec.least}
    ranked = {item: sorted((-count, sid) for (one, sid), count in enough.items() if one == item) for item in text}
    return {item: [sid for _, sid in each[: spec.next_items]] for item, each in ranked.items() if each}


def taken(rows: list[Row]) -> dict[str, list[str]]:
    return {item: answer.split(", ") for item, answer in of(rows, "co_consumed", "item_id", "response")}


def test_items_say_their_title_and_their_attributes_on_one_line(lake: Lake) -> None:
    rows, counts = corpus(lake)
    assert TEXT["i0"] == "<a_2><b_1>"
    assert all(row["sid"] == TEXT[row["item_id"]] for row in rows)
    titles = {"i0": "plain", "i1": "two lines", "i2": "ünïcode 本 {sid}", "i5": "last"}
    assert dict(of(rows, "sid_to_title", "item_id", "response")) == titles
    assert all(TEXT[item] in prompt for item, prompt in of(rows, "sid_to_title", "item_id", "prompt"))
    assert dict(of(rows, "title_to_sid", "item_id", "response")) == {item: TEXT[item] for item in titles}
    assert all(titles[item] in prompt for item, prompt in of(rows, "title_to_sid", "item_id", "prompt"))
    said = of(rows, "attribute_of_sid", "item_id", "response")
    assert sorted(said) == [("i0", "b"), ("i0", "x, y"), ("i4", "c d"), ("i5", "3")]
    only, _ = corpus(lake, GroundingSpec(fields=("tags", "nowhere")))
    assert of(only, "attribute_of_sid", "item_id", "response") == [("i0", "x, y")]
    without = Counter(row["item_id"] for row in LOG[:100] if row["item_id"] not in NAMES)
    assert counts.by_reason == {"item_without_sid": without.total(), "no_title": 2, "no_attributes": 3}
    describe(lake, [("i7", 1, None, {})], "gone", deleted=True)
    again, counts = corpus(lake)
    assert again == rows
    assert 0 < counts.by_reason["item_deleted"] == without["i7"] == without.total() - without["i6"]


@pytest.mark.parametrize(
    "spec", [GroundingSpec(2, 1, 1), GroundingSpec(9, 2, 1), GroundingSpec(3, 2, 4), GroundingSpec(9, 1, 500)]
)
def test_what_follows_an_item_is_what_a_plain_loop_counts(
    lake: Lake, spec: GroundingSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = [
        event(2, item, 60 + at, 0, 300 + at)
        | {"impression": at % 2 == 0, "event_type": ("click", "impression")[at % 2]}
        for at, item in enumerate([0, 1] * 8)
    ]
    deliver(lake, looked, "log:1")
    deliver(lake, LOG[:30], "log:2")
    expected = after(sorted(LOG[:100] + looked, key=lambda row: row["event_time"]), TEXT, spec)
    whole, counts = corpus(lake, spec)
    assert taken(whole) == expected
    assert counts.by_reason["negative_event"] == len(looked)
    assert counts.by_reason["duplicate_event"] == 30
    for name, value in (("RANGE_ITEMS", 4), ("PAIRS", 3), ("BATCH_ROWS", 2), ("READ_ROWS", 2)):
        monkeypatch.setattr(module, name, value)
    assert corpus(lake, spec)[0] == whole


def test_items_that_share_a_sid_are_one_to_who_takes_it_next(lake: Lake) -> None:
    codes = CODES[[0, 0, 0, 1, 1, 2]]
    text = dict(zip(NAMES, sid_texts(codes), strict=True))
    spec = GroundingSpec(least=1)
    rows, _ = corpus(lake, spec, trie=trie_of(codes, shared=True))
    assert taken(rows) == after(LOG[:100], text, spec)
    assert dict(of(rows, "sid_to_title", "item_id", "sid")) == {item: text[item] for item in ("i0", "i1", "i2", "i5")}


def test_a_text_that_holds_a_token_of_a_sid_is_left_out(lake: Lake) -> None:
    told = [("i0", 2, "see <a_1>", {"brand": "<b_7>x", "tags": ["<c_1>", "<a_b>"]})]
    describe(lake, told, "items:2")
    rows, counts = corpus(lake)
    assert not [row for row in rows if row["item_id"] == "i0" and "title" in row["task"]]
    assert ("i0", "<c_1>, <a_b>") in of(rows, "attribute_of_sid", "item_id", "response")
    assert counts.by_reason["text_with_token"] == 2
    assert counts.by_reason["no_title"] == 3


def test_nothing_that_comes_later_changes_a_byte(lake: Lake) -> None:
    log, before = visible(lake, days=1, minutes=100), corpus(lake)
    at_cutoff = [event(1, 2 + at % 2, 100 + at, 0, 500 + at) for at in range(40)]
    arrived_later = [event(1, 2 + at % 2, 5 + at, 3, 600 + at) for at in range(40)]
    deliver(lake, at_cutoff + arrived_later, "log:1")
    describe(lake, [("i0", 9, "renamed", {"brand": "new"})], "items:9", days=5)
    newer = visible(lake, days=1, minutes=100)
    assert newer.version > log.version
    assert corpus(lake, log=newer) == before
    in_time = [event(1, 2 + at % 2, 5 + at, 0, 700 + at) for at in range(40)]
    deliver(lake, in_time, "log:2")
    assert corpus(lake, log=log) == before
    for later in (visible(lake, days=1, minutes=100), visible(lake, days=1, minutes=200), visible(lake, minutes=100)):
        assert taken(corpus(lake, log=later)[0]) != taken(before[0])
    assert ("i0", "renamed") in of(corpus(lake, log=visible(lake))[0], "sid_to_title", "item_id", "response")


def test_a_catalogue_without_a_log_has_titles_and_attributes(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    describe(lake, [(name, 0, title, {}) for name, title in zip(NAMES, TITLES, strict=True)], "items:0")
    rows, counts = corpus(lake)
    assert {row["task"] for row in rows} == {"sid_to_title", "title_to_sid"}
    assert counts.by_reason == {"no_title": 2, "no_attributes": 6, "nothing_follows": 6}


def test_tokens_are_one_a_code_and_beyond_z_there_are_none(lake: Lake) -> None:
    assert tokens((2, 1)) == ["<a_0>", "<a_1>", "<b_0>"]
    assert tokens((1,) * 26)[-1] == "<z_0>"
    deep = Trie.build(np.zeros((1, 27), np.int32), pa.array(["i0"]), (2,) * 27)
    with pytest.raises(ValueError, match="27 codes, but SID tokens have letters for only 26 levels; export a release"):
        corpus(lake, trie=deep)


def test_every_template_asks_and_which_one_is_drawn_by_the_item(lake: Lake) -> None:
    describe(lake, [(f"j{number}", 0, f"title {number}", {}) for number in range(30)], "items:5")
    codes = np.stack(np.unravel_index(np.arange(30), (6, 6)), axis=1)
    trie = Trie.build(codes, pa.array([f"j{number}" for number in range(30)]), (6, 6))
    rows = pl.DataFrame(corpus(lake, trie=trie)[0]).filter(task="sid_to_title")
    asked = {row["prompt"].replace(row["sid"], "{sid}") for row in rows.to_dicts()}
    assert asked == set(TEMPLATES["sid_to_title"])
