"""Printing of records on a terminal; with `as_json`, the same record is printed as JSON.

Foreign text, such as titles and cells, is escaped by `flows.runtime.terminal`.
"""

import json
import sys
from dataclasses import replace
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.inspect.evaluation_tables import setting_text, show_evaluation, verdicts
from flows.runtime.terminal import printable, say
from infra.addresses import hidden
from plugins.registry import Member
from storage.reasons import remedy
from storage.releases.models import Evaluation
from storage.releases.pointers import Published
from storage.runs.details import RunResult
from storage.runs.record import RunSummary, in_a_line

if TYPE_CHECKING:
    from flows.inspect.explain import Explanation
    from flows.inspect.status import LakeStatus, ListedRelease, ReleaseStatus, ShownRelease

JsonObject = dict[str, Any]

# Width of a table in a pipe, in characters: wide enough that no cell is broken.
PIPE_WIDTH = 10_000


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


def _table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Print a table. Cells wrap between words on a narrow terminal, and never in a pipe."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    cells = [["-" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    for column, *below in zip(columns, *cells, strict=True):
        words = " ".join([column, *below]).split()
        last = column == columns[-1]
        table.add_column(column, overflow="fold", min_width=None if last else max(map(len, words)))
    for row in cells:
        table.add_row(*map(escape, row))
    Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


def plugins(members: list[tuple[str, Member]], as_json: bool) -> None:
    """Print members of registries by kind."""
    columns = ["kind", "name", "from", "object"]
    rows = [[kind, member.name, member.origin, member.target] for kind, member in members]
    if as_json:
        _print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        _table("plugins", columns, rows)


def record(value: JsonObject, as_json: bool) -> None:
    """Print one record, field by field."""
    if as_json:
        _print_json(value)
        return
    for name, field in value.items():
        if isinstance(field, dict) and field:
            say(f"{name}:")
            for key, each in field.items():
                _say_folded(f"    {key}: {_short(each)}")
        elif _is_table(field):
            say(f"{name}:")
            for each in field:
                _say_folded("    " + "  ".join(f"{key} {_short(part)}" for key, part in each.items()))
        else:
            _say_folded(f"{name}: {_short(field)}")


def _say_folded(line: str) -> None:
    """Print a line, which wraps between words on a narrow terminal, and never in a pipe."""
    line = printable(line)
    if not sys.stdout.isatty():
        say(line)
        return
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    for part in wrap(line, Console().width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False):
        say(part)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        between = "; " if any(isinstance(each, dict | list | tuple) for each in value) else ", "
        return between.join(_short(each) for each in value) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(each)}" for name, each in value.items()) or "-"
    return "-" if value is None else str(value)


def runs(found: list[RunSummary], as_json: bool) -> None:
    """Print runs as lines."""
    found = [_open(each) for each in found]
    if as_json:
        _print_json([each.as_record() for each in found])
        return
    rows = [["run (started, UTC)", "state", "took", "error"]]
    for each in found:
        took = f"{(each.ended - each.started).total_seconds():.0f} s" if each.ended else "-"
        rows.append([each.run, each.state, took, in_a_line(each.result.error)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    room = max(10, Console().width - sum(widths[:3]) - 6)
    for name, state, took, error in rows:
        cut = error if len(error) <= room else error[: room - 1] + "…"
        say(f"{name:<{widths[0]}}  {state:<{widths[1]}}  {took:>{widths[2]}}  {cut}".rstrip())


def _open(found: RunSummary) -> RunSummary:
    """Return a run with secrets of addresses hidden: older versions recorded addresses as typed."""
    return replace(found, parameters=hidden(found.parameters), result=RunResult.of(hidden(found.result.as_record())))


def run(found: RunSummary, as_json: bool) -> None:
    """Print one run with its parameters, its result, its stages, and the recipe fields that are not defaults."""
    found = _open(found)
    if as_json:
        _print_json(found.as_record())
        return
    asked = {name: value for name, value in found.parameters.items() if value not in (None, [], False)}
    recipe = asked.pop("recipe", {})
    record(
        {
            "run": found.run,
            "state": found.state,
            "started": f"{found.started:%Y-%m-%d %H:%M:%S} UTC",
            "ended": f"{found.ended:%Y-%m-%d %H:%M:%S} UTC" if found.ended else None,
            "parameters": asked,
            "recipe": _non_default_fields(recipe) if isinstance(recipe, dict) else recipe,
            "result": found.result.as_record(),
            "process": f"{found.pid} on {found.host}",
            "flow run": found.flow_run,
        },
        False,
    )
    say("stages:")
    for stage in found.stages:
        figures = stage.as_record()
        left_out = {"name", "seconds"} | {name for name, value in figures.items() if _is_table(value)}
        told = "  ".join(f"{name} {_short(value)}" for name, value in figures.items() if name not in left_out)
        say(f"    {stage.name:<18} {stage.seconds or 0:8.1f} s  {told}".rstrip())


def _is_table(value: Any) -> bool:
    """Return whether a value is a list of records, such as epochs; `run` leaves those to `--json` and the report."""
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _non_default_fields(settings: JsonObject) -> JsonObject:
    """Return the recipe fields that are not defaults, by full name, and modalities with only default fields."""
    from flows.recipe import Recipe
    from pipelines.modalities import COLLABORATIVE, CONTENT

    modalities = (*CONTENT, COLLABORATIVE)
    defaults = Recipe.model_validate({name: {} for name in modalities}).model_dump(mode="json")
    found: JsonObject = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            usual = defaults.get(name) or {}  # none for sections that a recipe does not have by default
            told = {f"{name}.{field}": each for field, each in value.items() if usual.get(field) != each}
            found |= told or ({name: "defaults"} if name in modalities else {})
        elif value:
            found[name] = value
    return found


def _failed(status: "ReleaseStatus") -> list[str]:
    """Return the gates that a release fails."""
    return [gate.name for gate in status.gates if not gate.passed]


def releases(found: list["ListedRelease"], current: Published | None, retired: int, as_json: bool) -> None:
    """Print a line per release; an asterisk marks production.

    Failed gates, pins and the number of retired releases stand below.
    """
    if as_json:
        _print_json([each.as_record() for each in found])
        return
    rows = [
        [
            each.id + (" *" if current and each.id == current.release else ""),
            each.kind,
            each.parent,
            f"{each.items:,}",
            " x ".join(map(str, each.codebook_sizes)),
            each.codebook[:8],
            each.as_of[:10],
            f"{len(failed)} failed" if (failed := _failed(each)) else "passed",
        ]
        for each in (listed.status for listed in found)
    ]
    _table("", ["release", "kind", "parent", "items", "sizes", "codebook", "as of", "gates"], rows)
    if current:
        say(f"* production, with {current.model or 'no model'}")
    for listed in found:
        if failed := _failed(listed.status):
            say(f"{listed.status.id} failed {', '.join(failed)}")
        if listed.pinned:
            say(f"{listed.status.id} {listed.pinned}")
        if listed.redacted:
            say(f"{listed.status.id} was redacted by `sidmill lake erase` on {', '.join(listed.redacted)}")
    if retired:
        say(f"{retired:,} releases were retired: by `sidmill lake gc`, or by a backup that left them out")


def release(found: "ShownRelease", as_json: bool) -> None:
    """Print one release, and the headline figures of the newest evaluation of its models."""
    value = found.as_record()
    if not as_json:
        value["models"] = [
            {"id": each.id, **each.metrics, **({"of": setting_text(each.evaluation)} if each.evaluation else {})}
            for each in found.models
        ]
    record(value, as_json)


def evaluation(found: Evaluation | None, as_json: bool) -> None:
    """Print a stored evaluation: recall, NDCG and MRR with intervals, prefixes, list figures, buckets."""
    if as_json:
        _print_json({**vars(found), "result": found.result.as_record()} if found else None)
    elif found:
        say(f"{found.model} on {found.release}, evaluated {found.at:%Y-%m-%d %H:%M} UTC")
        say(f"  {found.result.protocol}")
        show_evaluation(say, found.result)


def explanation(found: "Explanation", as_json: bool) -> None:
    """Print an item: SID, prefixes with items that share them, lineage."""
    value = found.as_record()
    if as_json:
        _print_json(value)
        return
    sid = "no SID" if found.sid is None else "SID " + "-".join(map(str, found.sid))
    sid += ", deleted" if found.deleted else ""
    say(f"{found.item}  {found.title or ''}  {sid}  ({found.release})")
    for step in found.path:
        say(f"  {'-'.join(map(str, step.prefix)):<20} {step.items:,} item(s)")
        for other in step.sharing:
            say(f"      {other.item_id}  {other.title or ''}")
    record({"lineage": value["lineage"], "quarantine": value["quarantine"]}, False)


def quarantine(rows: pl.DataFrame, limit: int, as_json: bool) -> None:
    """Print open rows by reason, with the remedy, then the newest ones."""
    if as_json:
        _print_json(rows.to_dicts())
        return
    counts = rows.group_by("stage", "reason").len().sort("stage", "reason")
    _table(f"{rows.height:,} open rows", ["stage", "reason", "rows"], [list(row) for row in counts.iter_rows()])
    for reason in counts["reason"].unique(maintain_order=True):
        if told := remedy(reason):
            print(f"{reason}: {told}")
    for row in rows.sort("at", descending=True).head(limit).to_dicts():
        about = f"  item {row['item']}" if row["item"] else ""
        say(f"{row['stage']}: {row['reason']}{about}  {row['file'] or row['source']} row {row['row'] or 0}")
        say(f"    {row['detail']}")


def status(found: "LakeStatus", as_json: bool) -> None:
    """Print the lake's state."""
    if as_json:
        _print_json(found.as_record())
        return
    say(f"lake {found.lake}")
    for line in found.state.lines:
        say(line)
    _table(
        "",
        ["table", "version", "rows"],
        [[name, table.version, f"{table.rows:,}"] for name, table in found.tables.items()],
    )
    production = found.state.production
    for each in found.releases:
        failed = [gate.name for gate in each.gates if not gate.passed]
        told = f"gates failed: {', '.join(failed)}" if failed else "gates passed"
        mark = "*" if production and each.id == production.release else " "
        say(f"{mark} {each.id} {each.kind:<10} {each.items:,} items, codebook {each.codebook[:8]}, {told}")
    for model in found.models:
        metrics = "  ".join(f"{name} {figure:.4f}" for name, figure in model.metrics.items())
        elsewhere = f"on {model.evaluated_on}, " if model.evaluated_on not in (None, model.release) else ""
        of = f"  ({elsewhere}{setting_text(model.evaluation)})" if model.evaluation else ""
        mark = "*" if production and model.id == production.model else " "
        say(f"{mark} {model.id} on {model.release}  {metrics}{of}")
        for line in verdicts(model.evaluation):
            say(f"      {line}")
    reasons = ", ".join(f"{reason} {rows:,}" for reason, rows in found.refused.items())
    say(f"quarantine: {found.refused_rows:,} open rows" + (f" ({reasons})" if reasons else ""))
