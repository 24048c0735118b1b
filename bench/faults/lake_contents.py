"""Contents of a lake, apart from who wrote it when, to compare a killed run with an undisturbed one.

Left out are, with the reason:

- columns `run` and `at`, and in manifests `run`, `created_at` and `fitted_by`: the id of a run and the time of writing;
- the table `runs`, and the leases among the pointers: they tell of the killed run too;
- in cards of models, measured times, and the hash of the record that holds them;
- of erasures, what only says how often one was tried: their ids, passes and ends, and tries that found nothing left;
- in `sources`, whether rows were new: those that were stored before the kill count as unchanged the second time.

Everything else has to be equal: SIDs, tries, weights and codebooks by hash, versions that a release pins, and the rows
of every table, each as often.
"""

import json
from collections import Counter
from typing import Any

from flows.inspect.verify import verify
from sidmill.release import open_trie
from storage.commit import Provenance
from storage.lake import Lake
from storage.releases.integrity import check_pinned
from storage.releases.releases import published, read_release
from storage.runs.lease import PREFIX
from storage.schemas import TABLES

LEFT_OUT = ("run", "at", "created_at", "fitted_by", "seconds", "data_wait", "tokens_per_s", "record_blob")
NESTED = ("manifest", "card", "result", "value")
"""Columns with JSON, in which the same is left out."""


def contents(lake: Lake) -> dict[str, list[str]]:
    """Return the rows of each table as sorted texts, and production's pair."""
    found = {table: _rows(lake, table) for table in TABLES if table != "runs" and lake.exists(table)}
    return {**found, "production": [json.dumps(production(lake))], "faults": faults(lake)}


def production(lake: Lake) -> list[str | None] | None:
    """Return production's release and model, None before the first publication."""
    current = published(lake)
    return None if current is None else [current.release, current.model]


def served(lake: Lake) -> list[str | None] | None:
    """Return production's pair as a reader gets it: all that it pins is read and compared with its hashes."""
    pair = production(lake)
    if pair is not None and pair[0] is not None:
        manifest = read_release(lake, pair[0])
        check_pinned(lake, manifest, pair[1], Provenance("bench", ""))
        assert len(open_trie(lake, manifest)) == manifest.items
    return pair


def faults(lake: Lake) -> list[str]:
    """Return what `lake verify` finds wrong."""
    return [f"{each.subject} {each.what}: {each.fault}" for each in verify(lake) if each.fault]


def differences(whole: dict[str, list[str]], found: dict[str, list[str]]) -> list[str]:
    """Return a line for each part that differs, with an example."""
    lines = []
    for part in sorted(whole.keys() | found.keys()):
        wanted, there = Counter(whole.get(part, ())), Counter(found.get(part, ()))
        lacking, more = list((wanted - there).elements()), list((there - wanted).elements())
        if lacking or more:
            lines.append(f"{part}: {len(lacking)} rows are lacking {lacking[:1]}, {len(more)} are too many {more[:1]}")
    return lines


def _rows(lake: Lake, table: str) -> list[str]:
    rows = lake.read(table).to_pylist()
    if table == "pointers":
        rows = [row for row in rows if not row["name"].startswith(PREFIX)]
    if table == "erasures":
        return _erasures(rows)
    for row in rows if table == "sources" else ():
        row["rows_out"] += row.pop("rows_unchanged")
    return sorted(json.dumps(_bare(row), sort_keys=True, default=str) for row in rows)


def _erasures(rows: list[dict[str, Any]]) -> list[str]:
    """Return what was erased where, and the number of erasures that did not end."""
    begun = [row for row in rows if row["event"] == "begun"]
    unended = {row["erasure"] for row in begun} - {row["erasure"] for row in rows if row["event"] == "done"}
    told = [[row[name] for name in ("subjects", "pinned", "releases", "models", "reason")] for row in begun]
    found = {json.dumps(each) for each in told if any(each[1:4])}
    return [*sorted(found), f"{len(unended)} did not end"]


def _bare(value: Any) -> Any:
    """Return a row, or what is nested in it, without what is left out."""
    if isinstance(value, dict):
        kept = {name: each for name, each in value.items() if name not in LEFT_OUT}
        return {
            name: _bare(json.loads(each) if name in NESTED and _is_json(each) else each) for name, each in kept.items()
        }
    if isinstance(value, list):
        return [_bare(each) for each in value]
    return value


def _is_json(value: Any) -> bool:
    return isinstance(value, str) and value[:1] in ("{", "[")
