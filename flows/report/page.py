"""Collect the content of the page of a release, and write the page."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from flows.inspect.diff import ReleaseDiff, diff_releases
from flows.inspect.evaluation_tables import EvaluationTable, evaluation_tables, setting_text_with_targets
from flows.inspect.lake_state import lake_state
from flows.inspect.status import models_shown
from flows.report.charts import curve_chart, line_chart, load_chart
from flows.report.samples import sample_views
from flows.runtime.terminal import printable
from infra.addresses import without_secrets
from sidmill.release import open_trie
from storage.lake import Lake
from storage.quarantine import by_reason, open_rows
from storage.reasons import remedy
from storage.releases.evaluation import EvaluationResult
from storage.releases.manifest import Manifest
from storage.releases.models import Model
from storage.releases.pointers import pointer_history
from storage.releases.releases import PRODUCTION, published, releases
from storage.runs.details import RecordedStage
from storage.runs.record import RunSummary, runs
from tokenizer.code_usage import CodeUsage
from tokenizer.codebook import Codebook
from tokenizer.trie.trie import Trie


@dataclass(frozen=True)
class LevelOnPage:
    """A level of the codebook, from 1: its number of codes, the most SIDs of a code, use, and chart of code loads."""

    level: int
    codes: int
    capacity: int
    usage: CodeUsage
    chart: str


@dataclass(frozen=True)
class ModelOnPage:
    """A model with the chart of its training loss and the tables of its newest evaluation; `cases` describes that."""

    id: str
    release: str
    evaluated_on: str | None
    chart: str
    evaluation: EvaluationResult | None
    cases: str
    tables: list[EvaluationTable]


@dataclass(frozen=True)
class RunTimes:
    """A run, its kind, and its stages with seconds and counts of rows."""

    run: str
    kind: str
    stages: list[RecordedStage]


def write_report(lake: Lake, manifest: Manifest, output: Path) -> int:
    """Write the page of a release, without scripts and external resources; return its size in bytes."""
    page = environment().get_template("page.html").render(collect(lake, manifest))
    output.parent.mkdir(parents=True, exist_ok=True)
    return output.write_bytes(page.encode())


def environment() -> Environment:
    """Return the template environment, which escapes HTML and applies `_plain`."""
    return Environment(
        loader=PackageLoader("flows.report", "."),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        finalize=_plain,
    )


def _plain(value: Any) -> Any:
    """Escape control characters and hide secrets of addresses in text; leave our own charts (Markup) unchanged."""
    return printable(without_secrets(value)) if isinstance(value, str) and not isinstance(value, Markup) else value


def collect(lake: Lake, manifest: Manifest) -> dict[str, Any]:
    """Return the variables of the template by name: all content of the page, from the lake alone."""
    shown = models_shown(lake, manifest)
    trained = [model for model in shown if model.release == manifest.id]
    known_runs = {run.run: run for run in runs(lake)}
    line = _lineage(lake, manifest)
    codebook = Codebook.from_bytes(lake.blobs.get(manifest.codebook.blob))
    trie = open_trie(lake, manifest)
    return {
        "manifest": manifest,
        "state": lake_state(lake),
        "production": published(lake, PRODUCTION),
        "alias_history": pointer_history(lake, PRODUCTION)[1:],
        "levels": _levels(manifest, codebook, trie),
        "slack": codebook.spec.slack if codebook.spec.balanced else None,
        "slack_sweep": codebook.statistics["slack_sweep"],
        "frontier": _frontier(codebook),
        "samples": sample_views(lake, manifest, trie),
        "reasons": [(reason, rows, remedy(reason)) for reason, rows in by_reason(lake).items()],
        "refused": _newest_refused(lake),
        "drift": lake.frame("drift", manifest.versions["drift"]).to_dicts(),
        "models": [_model(model) for model in shown],
        "timings": _timings(line, trained, known_runs),
        "lineage": line,
        "diffs": _diffs(lake, manifest),
        "about": manifest.recipe.get("about", ""),
    }


def _frontier(codebook: Codebook) -> str:
    """Return the chart of a refit: relative error against the share of SIDs changed; empty without a refit."""
    points = [(point["churn"], point["relative_error"]) for point in codebook.statistics.get("frontier", [])]
    return curve_chart(points, "share of SIDs changed", "relative error") if points else ""


def _levels(manifest: Manifest, codebook: Codebook, trie: Trie) -> list[LevelOnPage]:
    """Return each level with its figures in the release."""
    codes = trie.codes()
    return [
        LevelOnPage(
            level=level + 1,
            codes=size,
            capacity=codebook.capacity[level],
            usage=CodeUsage(**{each.name: manifest.metrics[each.name][level] for each in fields(CodeUsage)}),
            chart=load_chart(
                np.bincount(codes[:, level], minlength=size).tolist(),
                codebook.capacity[level],
                f"load of the codes of level {level + 1}",
            ),
        )
        for level, size in enumerate(codebook.sizes)
    ]


def _newest_refused(lake: Lake) -> list[dict[str, Any]]:
    """Return the newest open rows of the quarantine, as the table has them."""
    return open_rows(lake).sort("at", descending=True).head(20).to_dicts()


def _model(model: Model) -> ModelOnPage:
    history = model.card.history
    return ModelOnPage(
        id=model.id,
        release=model.release,
        evaluated_on=model.evaluated_on,
        chart=line_chart([row["loss"] for row in history], "training loss") if history else "",
        evaluation=model.evaluation,
        cases=setting_text_with_targets(model.evaluation) if model.evaluation else "",
        tables=evaluation_tables(model.evaluation),
    )


def _timings(line: list[Manifest], trained: list[Model], known: dict[str, RunSummary]) -> list[RunTimes]:
    """Return the runs that made the release, those it extends, and its models."""
    made = [manifest.run for manifest in reversed(line)]
    wanted = dict.fromkeys([*made, *(model.run for model in trained)])
    return [RunTimes(run, known[run].kind, known[run].stages) for run in wanted if run in known]


def _lineage(lake: Lake, manifest: Manifest) -> list[Manifest]:
    """Return the release and those it extends, newest first."""
    by_id = {each.id: each for each in releases(lake)}
    line = [manifest]
    while line[-1].parent in by_id:
        line.append(by_id[str(line[-1].parent)])
    return line


def _diffs(lake: Lake, manifest: Manifest) -> list[ReleaseDiff]:
    """Return the diffs with the parent, and with every release under another codebook, as far as they stay."""
    staying = releases(lake)
    compared = [diff_releases(lake, each, manifest) for each in staying if each.id == manifest.parent]
    others = [each for each in staying if each.codebook.id != manifest.codebook.id]
    return compared + [diff_releases(lake, manifest, other) for other in others]
