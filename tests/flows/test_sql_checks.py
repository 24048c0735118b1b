"""Checks in SQL judge a candidate beside the gates; a query that gives no number stops the run."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from flows.bootstrap import bootstrap
from flows.gates.sql_checks import CheckSpec, SqlCheckFailed, judge_by_sql
from flows.recipe import RecipeError, load_recipe, parse_recipe
from storage.errors import GateBlocked
from storage.lake import Lake
from storage.releases.releases import published, releases
from tokenizer.trie.trie import Trie

ITEMS = pl.DataFrame({"item_id": ["a", "b", "c"], "title": ["mug", "", "cup"], "price": [1.0, None, 3.0]})
TRIE = Trie.build(np.array([[0, 0], [0, 1], [1, 0]], np.int32), pa.array(["a", "b", "c"]), (2, 2))


@pytest.mark.parametrize(
    ("check", "value", "passed"),
    [
        ({"query": "SELECT COUNT(*) FROM items WHERE title = ''"}, 1, False),
        ({"query": "SELECT COUNT(*) FROM items WHERE title = ''", "limit": 1}, 1, True),
        ({"query": "SELECT COUNT(*) FROM items WHERE title = 'none'"}, 0, True),
        ({"query": "SELECT COUNT(DISTINCT code_1) FROM sids", "limit": 2, "at_least": True}, 2, True),
        ({"query": "SELECT SUM(code_1 + 10 * code_2) FROM sids", "limit": 11}, 11, True),
        ({"query": "SELECT COUNT(DISTINCT code_1) FROM sids", "limit": 3, "at_least": True}, 2, False),
        ({"query": "SELECT AVG(price) FROM items", "limit": 2.0}, 2.0, True),
        ({"query": "SELECT COUNT(*) FROM items JOIN sids ON items.item_id = sids.item_id", "limit": 3}, 3, True),
        ({"query": "SELECT MAX(price) FROM items WHERE title = 'none'", "limit": 9}, -1, False),
    ],
)
def test_a_query_gives_the_value_of_a_gate(check: dict[str, Any], value: float, passed: bool) -> None:
    (gate,) = judge_by_sql({"mine": CheckSpec(**check)}, lambda: ITEMS, TRIE)
    assert (gate.name, gate.value, gate.passed) == ("checks.mine", value, passed)
    side = "least" if "at_least" in check else "most"
    assert gate.detail == f"{check['query']}; must be at {side} the limit{', but is no number' if value < 0 else ''}"


@pytest.mark.parametrize(
    "query", ["SELECT * FROM items", "SELECT title FROM items LIMIT 1", "SELECT COUNT(*) FROM absent", "SELECT FROM"]
)
def test_a_query_that_gives_no_number_is_told_by_its_name(query: str) -> None:
    with pytest.raises(SqlCheckFailed, match=r"checks\.mine: the query"):
        judge_by_sql({"mine": CheckSpec(query=query)}, lambda: ITEMS, TRIE)


def test_without_a_check_no_item_is_read_and_no_hash_differs() -> None:
    def refuse() -> pl.DataFrame:
        raise AssertionError("items were read")

    assert judge_by_sql({}, refuse, TRIE) == ()
    checked = load_recipe(None, ["checks.x.query=SELECT 1"], {})
    assert "checks" not in parse_recipe({}).model_dump()
    assert checked.hash != parse_recipe({}).hash
    with pytest.raises(RecipeError, match=r"checks\.x\.query"):
        parse_recipe({"checks": {"x": {"limit": 1}}})


def test_a_check_that_blocks_keeps_a_candidate_from_production(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    (tmp_path / "items.csv").write_text("item_id,title,kind\n" + "".join(f"i{n},mug,k{n % 2}\n" for n in range(8)))
    recipe: dict[str, Any] = {
        "attributes": {"fields": ["kind"], "dim": 8},
        "fusion": {"method": "concat", "dim": 8},
        "codebook": {"levels": [{"codes": 4}, {"codes": 4}]},
        "gates": {"utilisation": {"limit": 0.0}, "relative_error": {"limit": 2.0}},
        "checks": {"mugs": {"query": "SELECT COUNT(*) FROM items WHERE title = 'mug'", "limit": 7}},
    }
    with pytest.raises(GateBlocked, match=r"checks\.mugs"):
        bootstrap(lake.uri, recipe, [str(tmp_path / "items.csv")])
    assert published(lake) is None
    (made,) = releases(lake)
    assert [gate.name for gate in made.blocked_by] == ["checks.mugs"]
