"""Checks that a recipe defines: SQL queries over the tables of a candidate, each with one number as its result."""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import polars as pl
from polars.exceptions import PolarsError
from pydantic import BaseModel, ConfigDict

from storage.releases.manifest import Gate
from tokenizer.trie.trie import Trie


class CheckSpec(BaseModel):
    """A query in the SQL of polars over the tables `items` and `sids`, and the largest value that passes.

    With `at_least` the limit is the smallest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    query: str
    limit: float = 0.0
    severity: Literal["block", "warn"] = "block"
    at_least: bool = False


class SqlCheckFailed(ValueError):
    """Raised if a query cannot be run, or gives something else than one number."""


def judge_by_sql(checks: Mapping[str, CheckSpec], items: Callable[[], pl.DataFrame], trie: Trie) -> tuple[Gate, ...]:
    """Return a gate for each check; `items` gives the visible items, and is called only if there is a check.

    `sids` has the column item_id and a column for each code of a SID: code_1, code_2, ... Both tables are in memory.
    """
    if not checks:
        return ()
    codes = trie.codes()
    sids = pl.DataFrame({"item_id": pl.Series(trie.item_ids, dtype=pl.String)}).with_columns(
        pl.Series(f"code_{place + 1}", codes[:, place]) for place in range(codes.shape[1])
    )
    tables = pl.SQLContext(items=items(), sids=sids, eager=True)
    return tuple(_gate(name, check, _number(tables, name, check.query)) for name, check in checks.items())


def _number(tables: "pl.SQLContext[pl.DataFrame]", name: str, query: str) -> float:
    try:
        found = tables.execute(query)
    except PolarsError as error:
        known = "the tables are items and sids"
        raise SqlCheckFailed(f"checks.{name}: the query cannot be run: {error}; {known}.") from error
    if found.shape != (1, 1) or not (found.dtypes[0].is_numeric() or found.dtypes[0] == pl.Boolean):
        shape = f"{found.height} rows of {found.width} columns"
        raise SqlCheckFailed(f"checks.{name}: the query gives {shape}, not one number: {query}")
    value = found.item()
    return math.nan if value is None else float(value)


def _gate(name: str, check: CheckSpec, value: float) -> Gate:
    finite = math.isfinite(value)
    holds = value >= check.limit if check.at_least else value <= check.limit
    detail = f"{check.query}; must be at {'least' if check.at_least else 'most'} the limit"
    return Gate(
        name=f"checks.{name}",
        severity=check.severity,
        value=value if finite else -1.0,
        limit=check.limit,
        passed=finite and holds,
        detail=detail if finite else f"{detail}, but is no number",
    )
