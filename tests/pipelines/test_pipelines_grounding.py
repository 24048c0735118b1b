"""The grounding corpus against plain loops, and what must not be in it."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from test_pipelines_sequences import START, WHO, deliver, event, visible

from pipelines import grounding as module
from pipelines.grounding import TEMPLATES, GroundingSpec, grounding, sid_texts, tokens
from pipelines.ingest import Counts
from storage.commit import append
from storage.lake import Lake
from storage.schemas import ITEMS
from tokenizer.trie import Trie

SIZES = (3, 3)
CODES = np.stack(np.unravel_index(np.array([7, 2, 5, 0, 3, 8]), SIZES), axis=1).astype(np.int32)
NAMES = [f"i{number}" for number in range(6)]
TITLES = ["plain", "two\nlines", "ünïcode {sid}", "", None, "last"]
DRAW = np.random.default_rng(0)
LOG = [event(int(DRAW.integers(6)), int(DRAW.integers(8)), minute, 0, minute) for minute in range(120)]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path))
    said = [{"brand": "b", "tags": ["x", "y"]}, {"brand": ""}, {}, {"tags": []}, {"brand": "c"}, {"n": 3, "m": None}]
    rows = [
        {
            "item_id": name,
            "revision": 0,
            "title": title,
            "attributes": json.dumps(attributes),
            "text_hash": "",
            "images": [],
            "deleted": False,
            "arrived_at": START,
            "source": "s",
            "source_row": 0,
        }
        for name, title, attributes in zip(NAMES, TITLES, said, strict=True)
    ]
    append(lake, "items", pa.Table.from_pylist(rows, schema=ITEMS.schema), "items", WHO)
    deliver(lake, LOG, "log:0")
    return lake


DEFAULT = GroundingSpec()


def corpus(lake: Lake, spec: GroundingSpec = DEFAULT, minutes: int = 100) -> tuple[pl.DataFrame, Counts]:
    trie = Trie.build(CODES, pa.array(NAMES), SIZES)
    counts = Counts("grounding")
    tables = list(grounding(lake, trie, visible(lake, days=1, minutes=minutes), lake.version("items"), spec, counts))
    return pl.DataFrame(pa.concat_tables(tables)), counts


def test_every_item_says_what_it_is_and_what_follows_it(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ITEM_ROWS", 4)
    found, counts = corpus(lake, GroundingSpec(next_items=2, least=1))
    text = dict(zip(NAMES, sid_texts(CODES), strict=True))
    assert text["i0"] == "<a_2><b_1>"
    rows = {(row["task"], row["item_id"], row["prompt"]): row["response"] for row in found.iter_rows(named=True)}
    assert all(row["sid"] == text[row["item_id"]] for row in found.iter_rows(named=True))
    titled = {item: title for item, title in zip(NAMES, TITLES, strict=True) if title}
    assert {item: answer for (task, item, _), answer in rows.items() if task == "sid_to_title"} == titled
    asked = {(item, prompt): answer for (task, item, prompt), answer in rows.items() if task == "title_to_sid"}
    assert {item: answer for (item, _), answer in asked.items()} == {item: text[item] for item in titled}
    assert all(titled[item] in prompt for item, prompt in asked)
    said = [(item, answer) for (task, item, _), answer in rows.items() if task == "attribute_of_sid"]
    assert sorted(said) == [("i0", "b"), ("i0", "x, y"), ("i4", "c"), ("i5", "3")]

    follows: Counter[tuple[str, str]] = Counter()
    for user in range(6):
        own = [row["item_id"] for row in LOG[:100] if row["user_id"] == f"u{user}" and row["item_id"] in NAMES]
        follows.update((a, b) for a, b in pairwise(own) if a != b)
    order = Trie.build(CODES, pa.array(NAMES), SIZES).item_ids.to_pylist()
    for item in NAMES:
        after = sorted((-count, order.index(b), b) for (a, b), count in follows.items() if a == item)[:2]
        (answer,) = [answer for (task, each, _), answer in rows.items() if (task, each) == ("co_consumed", item)]
        assert answer == ", ".join(text[b] for _, _, b in after)
    assert counts.by_reason == {
        "item_without_sid": sum(row["item_id"] not in NAMES for row in LOG[:100]),
        "no_title": 2,
        "no_attributes": 3,
    }


def test_the_future_changes_nothing_and_neither_does_a_second_time(lake: Lake) -> None:
    before, _ = corpus(lake)
    more = [event(1, 2, 101 + at, 0, 500 + at) for at in range(9)] + [event(1, 2, 5, 3, 600)]
    deliver(lake, more, "log:1")
    after, _ = corpus(lake)
    assert after.equals(before)
    assert not corpus(lake, minutes=200)[0].equals(before)


def test_tokens_are_one_a_code_and_templates_take_what_they_are_given() -> None:
    assert tokens((2, 1)) == ["<a_0>", "<a_1>", "<b_0>"]
    with pytest.raises(ValueError, match="27 codes"):
        tokens((2,) * 27)
    assert all(len(set(each)) == 3 for each in TEMPLATES.values())
