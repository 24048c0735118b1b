"""Problems of a lake: what is too old, what failed, and what lags behind."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flows.inspect.lake_state import ENDED_BADLY, LakeState, age, lake_state, remedy_of
from flows.watch.lag import Lag, lags
from flows.watch.spec import WatchSpec
from storage.errors import GateBlocked
from storage.lake import Lake
from storage.releases.models import models
from storage.runs.beats import Beat, beats
from storage.runs.record import in_a_line, runs

NIGHT, TRAIN = "nightly", "train"
SOURCE, UNANSWERED = "source ", "unanswered"
"""Beginning of the names of problems of sources; name of the problem that runs that are asked for do not come."""
SEEN_BY_WATCHER = (SOURCE, UNANSWERED)
"""Beginnings of the names of problems that only the watcher of `serve` can see."""


@dataclass(frozen=True)
class Problem:
    """A problem: its kind, which stays the same while it lasts, and a sentence about it."""

    name: str
    message: str


@dataclass(frozen=True)
class Vital:
    """A time that must not be long ago. `at` is None where it never happened."""

    name: str
    at: datetime | None
    hours: float | None
    never: str
    since: str

    def problem(self, now: datetime) -> Problem | None:
        if self.hours is None:
            return None
        if self.at is None:
            return Problem(self.name, f"{self.never}; the limit is {self.hours:g} hours")
        if now - self.at <= timedelta(hours=self.hours):
            return None
        passed = age((now - self.at).total_seconds())
        return Problem(self.name, f"{self.since} {passed} ago; the limit is {self.hours:g} hours")


def problems(lake: Lake, watch: WatchSpec, now: datetime | None = None) -> list[Problem]:
    """Return what is wrong with a lake now, by the limits of a recipe. Lags are asked of the streams' servers."""
    clock = now or datetime.now(UTC)
    state, ends = lake_state(lake, clock), beats(lake)
    found = [*_failures(state), *_kept_back(state, ends.get(TRAIN)), *_stale(vitals(lake, watch, state, ends), clock)]
    if watch.lag_messages is not None:
        found += _lagging(lags(lake), watch.lag_messages)
    return found


def vitals(lake: Lake, watch: WatchSpec, state: LakeState, ends: dict[str, Beat]) -> list[Vital]:
    """Return the times that are watched, with their limits."""
    night = ends.get(NIGHT)
    return [
        Vital(
            "stale_production",
            current_since(state, night),
            watch.production_hours,
            "nothing is published",
            "production was last published or confirmed by a night",
        ),
        Vital(
            "no_night", _night_ended(lake, night), watch.night_hours, "no night has finished", "the last night finished"
        ),
        Vital(
            "stale_model",
            _model_made_at(lake, state),
            watch.model_hours,
            "production has no model",
            "the model in production was trained",
        ),
        *_sources(lake, watch),
    ]


def current_since(state: LakeState, night: Beat | None) -> datetime | None:
    """Return when production was last known to be current: when it was published, or a night found nothing newer."""
    if state.production is None:
        return None
    published = datetime.fromisoformat(state.production.published_at)
    confirms = night is not None and night.found_nothing and night.result.release == state.production.release
    return max(published, night.at) if night is not None and confirms else published


def _night_ended(lake: Lake, night: Beat | None) -> datetime | None:
    """Return when a night, or the bootstrap before all nights, last finished."""
    recorded = [run.ended for run in runs(lake) if run.kind in (NIGHT, "bootstrap") and run.state == "finished"]
    beat = [night.at] if night is not None and night.outcome == "finished" else []
    return max([each for each in recorded if each is not None] + beat, default=None)


def _model_made_at(lake: Lake, state: LakeState) -> datetime | None:
    served = state.production and state.production.model
    return next((model.at for model in models(lake) if model.id == served), None)


def _sources(lake: Lake, watch: WatchSpec) -> Iterator[Vital]:
    """Yield, for each watched beginning of an address, when a source of that address was read last."""
    if not watch.source_hours:
        return
    read = lake.frame("sources", columns=["uri", "at"]).sort("at")
    for start, hours in sorted(watch.source_hours.items()):
        times = read.filter(read["uri"].str.starts_with(start))["at"]
        at = times[-1] if len(times) else None
        yield Vital(f"stale_source {start}", at, hours, f"nothing of {start} was read", f"{start} gave news")


def _stale(times: Sequence[Vital], now: datetime) -> list[Problem]:
    return [problem for each in times if (problem := each.problem(now)) is not None]


def _failures(state: LakeState) -> Iterator[Problem]:
    """Yield the kinds of runs whose newest run ended badly; a person who cancels one knows of it."""
    last = [state.last_run] if state.last_run and not state.later else []
    for run in [*last, *state.unresolved_failures]:
        if run.state in ENDED_BADLY and run.state != "cancelled":
            error = in_a_line(run.error) or remedy_of(run)
            how = "blocked" if (run.error or "").startswith(GateBlocked.__name__) else "failed"
            yield Problem(f"{how} {run.kind}", f"{run.run} {run.state}{': ' if error else ''}{error}")


def _kept_back(state: LakeState, training: Beat | None) -> Iterator[Problem]:
    """Yield the model that a gate kept from production in the last training, until a person publishes it."""
    blocked = training.result.blocked if training is not None else None
    if training is None or not blocked:
        return
    served = state.production.model if state.production is not None else None
    if served is None or served != training.result.model:
        yield Problem(f"blocked {TRAIN}", f"{training.run}: {blocked}")


def _lagging(found: Sequence[Lag], limit: int) -> list[Problem]:
    return [
        Problem(
            f"lag {each.address}",
            each.fault
            or f"{each.messages:,} messages of {each.address} are not read yet; the limit is {limit:,} messages",
        )
        for each in found
        if each.fault or each.messages > limit
    ]
