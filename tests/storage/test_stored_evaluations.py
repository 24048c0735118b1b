"""The record of an evaluation is read by an older version too, and written as it was read."""

import json
from typing import Any

import pytest

from storage.releases.evaluation import EvaluationResult

COUNTS = {"cases": 9, "targets_missing": 0, "targets_seen": 1}
BUCKET = {"from": 0, "to": 3, "cases": 4, "mrr": 0.25, "recall@10": 0.5, "recall@10_interval": [0.25, 0.75]}
ROW = {"mrr": 0.125, "recall@10": 0.25, "coverage@10": None, "prefix_recall@10": [0.5, 0.25], "by_length": [BUCKET]}


@pytest.mark.parametrize(
    "later",
    [
        {},
        {"recall_by_level": [0.5, 0.25]},
        {"names": ["a"]},
        {"by_age": [{"from": 0, "to": 1}]},
        {"of_nobody": []},
        {"settings": {"depth": 2}},
        {"novelty@10": 1.5},
        {"mrr_interval": None},
        {"quartiles_interval": [0.1, 0.2, 0.3]},
    ],
)
def test_what_a_later_version_adds_to_a_row_is_kept(later: dict[str, Any]) -> None:
    text = json.dumps({**COUNTS, "generator": {**ROW, **later}, "later": [1]}, sort_keys=True)
    result = EvaluationResult.parse(text)
    assert result.as_json() == text
    assert result.rankers["generator"].buckets["by_length"][0].accuracy.intervals == {"recall@10": (0.25, 0.75)}
