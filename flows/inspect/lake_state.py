"""State of a lake in brief: the last run and its outcome, production and its age, and whether it is held."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flows.inspect.evaluation_tables import VERDICTS
from storage.lake import Lake
from storage.releases.evaluation import EvaluationResult, Verdict
from storage.releases.models import Model, models
from storage.releases.pointers import Pointer, pointer_history
from storage.releases.publishing import hold_of
from storage.releases.releases import PRODUCTION, read_release
from storage.runs.beats import Beat, beats
from storage.runs.record import RunSummary, in_a_line, runs

# Figures of a model that are shown.
HEADLINE = ("recall@10", "ndcg@10")
ENDED_BADLY = ("failed", "killed", "cancelled")
# Most characters of an error that are shown.
MAX_ERROR_CHARACTERS = 300


@dataclass(frozen=True)
class MainFigures:
    """Newest evaluation of a model in brief: on which release, and of the generator the figures of HEADLINE it has.

    `against` has the verdict on each baseline, by name.
    """

    release: str | None
    cases: int
    figures: dict[str, float]
    against: dict[str, Verdict]

    def as_record(self) -> dict[str, Any]:
        """Return JSON values, each figure under its name."""
        return {"release": self.release, "cases": self.cases, **self.figures, "against": self.against}


@dataclass(frozen=True)
class Production:
    """The release in production and its model; times are ISO 8601, and `age` is in seconds since it was published."""

    release: str
    model: str | None
    published_at: str
    age: int
    as_of: str
    evaluation: MainFigures | None

    def as_record(self) -> dict[str, Any]:
        """Return JSON values by name."""
        return {**vars(self), "evaluation": self.evaluation.as_record() if self.evaluation else None}


@dataclass(frozen=True)
class RunInBrief:
    """A run with its state, and what it made or its error; times are ISO 8601.

    `published` says whether it moved production, None where such runs do not.
    """

    run: str
    kind: str
    state: str
    started: str
    ended: str | None
    error: str | None
    release: str | None
    model: str | None
    published: bool | None

    def as_record(self) -> dict[str, Any]:
        """Return JSON values by name."""
        return dict(vars(self))


@dataclass(frozen=True)
class LakeState:
    """State of a lake. `last_run` is the newest run.

    `unresolved_failures` are the newest runs of other kinds, where they ended badly. `later` is the end of a run of the
    last run's kind that found nothing to do after it: such a run is not recorded.
    """

    last_run: RunInBrief | None
    unresolved_failures: list[RunInBrief]
    production: Production | None
    held: str | None
    later: str | None = None

    def as_record(self) -> dict[str, Any]:
        """Return the entries of `sidmill lake status --json`."""
        return {
            "last_run": self.last_run.as_record() if self.last_run else None,
            "unmended": [run.as_record() for run in self.unresolved_failures],
            "production": self.production.as_record() if self.production else None,
            "held": self.held,
            "later": self.later,
        }

    @property
    def _later(self) -> list[str]:
        if self.last_run is None or self.later is None:
            return []
        return [f"a later {self.last_run.kind} found nothing to do, ended {_minute(self.later)}"]

    @property
    def lines(self) -> list[str]:
        """The state in sentences, the last run first."""
        last = f"last run: {_run_line(self.last_run)}" if self.last_run else "no run is recorded"
        return [
            last,
            *self._later,
            *(f"unresolved failure: {_run_line(run)}" for run in self.unresolved_failures),
            _production_line(self.production),
            *([f"{self.held} `sidmill release hold --lift` ends that."] if self.held else []),
        ]


def lake_state(lake: Lake, now: datetime | None = None) -> LakeState:
    """Return the state of a lake. A run that found nothing to do is not recorded, so it is not the last one."""
    known = runs(lake)
    newest = {run.kind: run for run in known}
    last = known[-1] if known else None
    ends = beats(lake)
    others = [
        run
        for run in newest.values()
        if run is not last and run.state in ENDED_BADLY and not _found_nothing_after(run, ends.get(run.kind))
    ]
    history = pointer_history(lake, PRODUCTION)
    return LakeState(
        last_run=_run(last) if last else None,
        unresolved_failures=[_run(run) for run in sorted(others, key=lambda run: run.started)],
        production=_production(lake, history, now or datetime.now(UTC)),
        held=hold_of(history),
        later=ends[last.kind].at.isoformat() if last and _found_nothing_after(last, ends.get(last.kind)) else None,
    )


def _found_nothing_after(run: RunSummary, end: Beat | None) -> bool:
    """Return whether a run of the same kind finished later, and left no record because there was nothing to do."""
    return end is not None and end.outcome == "finished" and end.run != run.run and end.at > (run.ended or run.started)


def _run(run: RunSummary) -> RunInBrief:
    result = run.result
    return RunInBrief(
        run=run.run,
        kind=run.kind,
        state=run.state,
        started=run.started.isoformat(),
        ended=run.ended.isoformat() if run.ended else None,
        error=result.error,
        release=result.release,
        model=result.model,
        published=result.published,
    )


def remedy_of(run: RunInBrief) -> str:
    """Return what to do for a run that was stopped, which could say nothing itself; "" for others."""
    whys = {"killed": "its process is gone", "cancelled": "it was stopped"}
    return f"{whys[run.state]}; `sidmill run resume {run.run}` goes on with it" if run.state in whys else ""


def _run_line(run: RunInBrief) -> str:
    when = f"{run.kind} {run.state}, " + (
        f"ended {_minute(run.ended)}" if run.ended else f"started {_minute(run.started)}"
    )
    made = ", ".join(part for part in (run.release, run.model) if part)
    text = f"{when} ({run.run})"
    if run.state == "finished" and made:
        text += f": {made}" + (", not published" if run.published is False else "")
    if run.error:
        error = in_a_line(run.error)
        cut = f"{error[: MAX_ERROR_CHARACTERS - 1]}… (`sidmill run show {run.run}` has all of it)"
        text += f": {error if len(error) <= MAX_ERROR_CHARACTERS else cut}"
    elif told := remedy_of(run):
        text += f": {told}"
    return text


def _production(lake: Lake, history: list[Pointer], now: datetime) -> Production | None:
    target = history[-1].target
    if target is None:
        return None
    came = history[-1].at or now
    for move in reversed(history[1:]):
        if move.target is None or move.target.release != target.release:
            break
        came = move.at or came
    model = next((each for each in models(lake) if each.id == target.model), None)
    return Production(
        release=target.release,
        model=target.model,
        published_at=came.isoformat(),
        age=round((now - came).total_seconds()),
        as_of=read_release(lake, target.release).as_of.isoformat(),
        evaluation=_evaluation(model) if model else None,
    )


def _evaluation(model: Model) -> MainFigures | None:
    result = model.evaluation
    if result is None:
        return None
    against = {name: found.verdict for name, found in sorted(result.against.items())}
    return MainFigures(model.evaluated_on, result.cases, main_figures(result), against)


def main_figures(result: EvaluationResult | None) -> dict[str, float]:
    """Return the figures of HEADLINE of an evaluation's generator, as far as it has them."""
    row = result.generator if result else None
    figures = row.accuracy.figures() if row else {}
    return {name: figures[name] for name in HEADLINE if name in figures}


def _production_line(production: Production | None) -> str:
    if production is None:
        return "production: nothing is published"
    text = (
        f"production: {production.release}, published {_minute(production.published_at)} "
        f"({age(production.age)} ago), sees arrivals up to {_minute(production.as_of)}; "
    )
    if production.model is None:
        return text + "no model"
    found = production.evaluation
    if found is None:
        return f"{text}model {production.model}, not evaluated"
    figures = ", ".join(f"{name} {value:.4f}" for name, value in found.figures.items())
    of = f"{found.cases:,} cases, on {found.release}"
    verdicts = [f"{VERDICTS[verdict]} {name}" for name, verdict in found.against.items()]
    return f"{text}model {production.model}: {'; '.join([f'{figures} ({of})', *verdicts])}"


def age(seconds: float) -> str:
    """Format seconds in whole days, hours or minutes."""
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 2 * length or (unit == "minute" and seconds >= length):
            count = int(seconds // length)
            return f"{count:,} {unit}{'s' if count > 1 else ''}"
    return "less than a minute"


def _minute(time: str) -> str:
    return f"{datetime.fromisoformat(time):%Y-%m-%d %H:%M} UTC"
