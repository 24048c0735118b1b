"""Tables of an evaluation, the same on a terminal and on the page of a release."""

from collections.abc import Callable
from dataclasses import dataclass

from storage.releases.evaluation import Accuracy, Comparison, EvaluationResult, RankerResult
from training.evaluation.metrics import headline_cut

RANKERS = ("generator", "production", "reranked", "dense", "sasrec", "item-knn", "popularity")
"""Recommenders, in the order of display."""
VERDICTS = {"beats": "beats", "not told apart": "does not clearly differ from", "is worse": "is worse than"}
"""Verdicts of an evaluation in a sentence: the generator ... the baseline."""
RESULTS = {"beats": "better", "not told apart": "no clear difference", "is worse": "worse"}
"""Verdicts of an evaluation in a column."""
SHOWN = ("coverage", "novelty", "diversity", "exposure_gini")
"""Figures of the recommended lists."""


@dataclass(frozen=True)
class EvaluationTable:
    """A table of text. The first column names the row; `note` explains the figures."""

    title: str
    note: str
    columns: list[str]
    rows: list[list[str]]


def rankers(result: EvaluationResult) -> list[str]:
    """Return the recommenders with a row in an evaluation, the generator first."""
    return [name for name in RANKERS if name in result.rankers]


def setting_text(result: EvaluationResult) -> str:
    """Describe the evaluation setting; figures of different settings are not comparable."""
    text = f"{result.cases:,} cases"
    if result.seen_left_out is not None:
        text += ", seen items left out" if result.seen_left_out else ", seen items ranked too"
    return text


def setting_text_with_targets(result: EvaluationResult) -> str:
    """Return `setting_text` with counts of missing and seen targets."""
    seen = " (a miss, because of evaluate.exclude_seen)" if result.seen_left_out else ""
    return (
        f"{setting_text(result)}; {result.targets_missing:,} have a target outside the release (a miss), "
        f"{result.targets_seen:,} have one that the user has seen{seen}"
    )


def headline(row: RankerResult) -> str:
    """Format recall and ndcg at each k in one line."""
    accuracy = row.accuracy
    return "  ".join(f"recall@{k} {accuracy.recall[k]:.4f}  ndcg@{k} {accuracy.ndcg[k]:.4f}" for k in accuracy.cuts)


def figures(row: RankerResult) -> dict[str, float | list[float] | None]:
    """Return the figures of a recommender for comparison: without intervals, counts and buckets."""
    cuts, values = row.accuracy.cuts, row.accuracy.figures()
    prefixes = {f"prefix_recall@{k}": row.prefix_recall[k] for k in cuts if k in row.prefix_recall}
    shown = [f"{name}@{k}" for name in SHOWN for k in cuts]
    return {
        **{name: values[name] for name in _compared(row.accuracy)},
        **prefixes,
        **{name: row.exposure[name] for name in shown if name in row.exposure},
    }


def _compared(accuracy: Accuracy) -> list[str]:
    """Return the names of the figures that are shown of an accuracy."""
    return [*(f"{name}@{k}" for name in ("recall", "ndcg") for k in accuracy.cuts), "mrr"]


def evaluation_tables(result: EvaluationResult | None) -> list[EvaluationTable]:
    """Return all tables of an evaluation; an older one may lack figures and their tables."""
    if result is None or result.generator is None:
        return []
    names = rankers(result)
    k = headline_cut(result.generator.accuracy.cuts)
    tables = [_accuracy(result, names), *([_against(result)] if result.against else [])]
    if k in result.generator.prefix_recall:
        tables += [_prefixes(result, names, k), _shown(result, names)]
        tables.append(
            _buckets(result, names, k, "by_popularity", "By training events of the target", {0: "none (cold)"})
        )
        tables.append(_buckets(result, names, k, "by_history", "By known events of the user", {0: "none"}))
    return tables


def show_evaluation(say: Callable[[str], None], result: EvaluationResult) -> None:
    """Print the tables with aligned columns."""
    say(f"  {setting_text_with_targets(result)}")
    for table in evaluation_tables(result):
        say("")
        say(f"  {table.title}" + (f" ({table.note})" if table.note else ""))
        lines = [table.columns, *table.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for first, *others in lines:
            cells = "".join(f"  {cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
            say(f"    {first:<{widths[0]}}{cells}".rstrip())


def _accuracy(result: EvaluationResult, names: list[str]) -> EvaluationTable:
    generator = result.rankers["generator"]
    wanted = _compared(generator.accuracy)
    rows = [[name, *(_with_interval(result.rankers[ranker].accuracy, name) for ranker in names)] for name in wanted]
    raw = generator.raw or generator.accuracy
    if any(raw.figures()[name] != generator.accuracy.figures()[name] for name in wanted):
        empty = [""] * (len(names) - 1)
        rows += [[f"{name}, raw", _with_interval(raw, name), *empty] for name in wanted]
    note = "bootstrapped 95 % intervals" + (
        "; raw: a hit is the SID of the target, even if several items share it" if len(rows) > len(wanted) else ""
    )
    return EvaluationTable("Accuracy", note, ["", *names], rows)


def verdicts(result: EvaluationResult | None) -> list[str]:
    """Return a sentence per baseline that compares the generator with it; older evaluations have none."""
    return [
        f"recall@{found.k} {VERDICTS[found.verdict]} {name}: difference {_difference(found)}"
        for name, found in sorted(result.against.items() if result else ())
    ]


def _difference(found: Comparison) -> str:
    low, high = found.interval
    return f"{found.difference:+.4f} (95 % {low:+.4f} to {high:+.4f})"


def _against(result: EvaluationResult) -> EvaluationTable:
    rows = [
        [name, _difference(found), f"{found.won:,}", f"{found.lost:,}", RESULTS[found.verdict]]
        for name, found in sorted(result.against.items())
    ]
    k = next(iter(result.against.values())).k
    note = "the same cases for both; only those that one hits and the other misses count for the result"
    columns = ["baseline", f"difference in recall@{k}", "only generator hits", "only baseline hits", "generator is"]
    return EvaluationTable("The generator against baselines", note, columns, rows)


def _prefixes(result: EvaluationResult, names: list[str], k: int) -> EvaluationTable:
    levels = len(result.rankers["generator"].prefix_recall[k])
    rows = [
        [
            f"{level + 1} code{'s' if level else ''}",
            *(f"{result.rankers[name].prefix_recall[k][level]:.4f}" for name in names),
        ]
        for level in range(levels)
    ]
    note = f"share of cases in which one of the first {k} items begins with so many codes of the target's SID"
    return EvaluationTable(f"Recall@{k} of prefixes", note, ["", *names], rows)


def _shown(result: EvaluationResult, names: list[str]) -> EvaluationTable:
    wanted = [f"{figure}@{k}" for figure in SHOWN for k in result.rankers["generator"].accuracy.cuts]
    rows = [
        [name.replace("_", " "), *(_figure(result.rankers[ranker].exposure[name]) for ranker in names)]
        for name in wanted
    ]
    note = (
        "coverage: share of all items that appear in any list; novelty: -log2 of an item's share of the training "
        "events, in bits; diversity: 1 - share of leading codes that two items of a list have in common"
    )
    return EvaluationTable("Recommended lists", note, ["", *names], rows)


def _buckets(
    result: EvaluationResult, names: list[str], k: int, key: str, title: str, called: dict[int, str]
) -> EvaluationTable:
    rows = []
    for at, bucket in enumerate(result.rankers["generator"].buckets[key]):
        low, high = bucket.low, bucket.high
        text = called.get(high, f"{low:,}" if low == high else f"{low:,} to {high:,}")
        recalls = [_with_interval(result.rankers[name].buckets[key][at].accuracy, f"recall@{k}") for name in names]
        rows.append([text, f"{bucket.cases:,}", *recalls, _with_interval(bucket.accuracy, f"ndcg@{k}")])
    columns = ["", "cases", *(f"{name} recall@{k}" for name in names), f"generator ndcg@{k}"]
    return EvaluationTable(title, "", columns, rows)


def _with_interval(accuracy: Accuracy, name: str) -> str:
    interval = accuracy.intervals.get(name)
    return f"{accuracy.figures()[name]:.4f}" + (f" ({interval[0]:.4f}–{interval[1]:.4f})" if interval else "")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
