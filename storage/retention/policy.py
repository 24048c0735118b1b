"""Releases and models that stay, each with its reason; all others may be retired.

Production, pins, the newest releases and what running runs need stay, and so does the release that a model which stays
was trained on: its log and its items say what the model has seen.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pyarrow as pa

from storage.lake import Lake
from storage.releases.manifest import Manifest
from storage.releases.models import Model
from storage.releases.pointers import Pointer, moves_of, newest_values, targets_of
from storage.releases.standing import standing_of
from storage.runs.record import RunSummary, runs

DEAD_AFTER = timedelta(days=30)
"""A run that recorded nothing for so long is taken for dead, though its machine or its number say that it lives."""
NAMING_PARAMETERS = ("parent", "release", "model", "since")
"""Parameters of runs that name a release or a model."""


@dataclass(frozen=True)
class Policy:
    """Beside production and pins, the `keep` releases published last and made last stay, and what is younger than
    `grace`. What was retired is removed once it has been so for `grace`: who reads it has that time to end.
    """

    keep: int = 10
    grace: timedelta = timedelta(days=7)

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"--keep {self.keep} would keep no release to roll back to: give a number from 1 on.")
        if self.grace < timedelta():
            raise ValueError("--grace must not be negative: give a duration such as 7d, 12h or 0s.")

    def cutoff(self, now: datetime, running: Iterable[RunSummary]) -> datetime:
        """Return the time after which nothing is removed that was written or retired: runs may be about to name it."""
        return min([now - self.grace, *(run.started for run in running)])


@dataclass(frozen=True)
class Kept:
    """Releases and models that stay, with the reason of each."""

    releases: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)


def running_runs(lake: Lake, now: datetime) -> list[RunSummary]:
    """Return the runs that are recorded as running and recorded something lately."""
    return [run for run in runs(lake) if run.state == "running" and now - run.seen < DEAD_AFTER]


def kept(
    policy: Policy,
    manifests: Iterable[Manifest],
    models: Iterable[Model],
    pointers: pa.Table,
    running: Iterable[RunSummary],
    now: datetime,
) -> Kept:
    """Return what stays of the recorded releases and models, of which the rows of `pointers` say which were retired."""
    standing, running = standing_of(pointers), list(running)
    there = {each.id: each for each in manifests if each.id not in standing.retired}
    moves = _moves(pointers)
    current = {pointer.name: pointer.target for pointer in newest_values(pointers) if pointer.target is not None}
    ever, needed = targets_of(moves), _needed_by_runs(running, moves)
    cutoff = policy.cutoff(now, running)

    releases = dict[str, str]()
    reasons = [(target.release, f"{name} points to it") for name, target in current.items()]
    reasons += [(release, str(pin)) for release, pin in standing.pins.items() if pin.holds(now)]
    reasons += needed.items()
    published = dict.fromkeys(target.release for target in reversed(ever) if target.release in there)
    reasons += [(release, f"one of the {policy.keep} published last") for release in list(published)[: policy.keep]]
    reasons += [(release, f"one of the {policy.keep} made last") for release in sorted(there)[-policy.keep :]]
    reasons += [(each.id, "made within the grace period") for each in there.values() if each.created_at > cutoff]
    for release, why in reasons:
        if release in there:
            releases.setdefault(release, why)

    served = {target.model: f"{name} points to it" for name, target in current.items()}
    stay = dict[str, str]()
    for model in models:
        with_it = [target.release for target in ever if target.model == model.id]
        last = next((release for release in reversed(with_it) if release in releases), None)
        whys = (
            served.get(model.id) or needed.get(model.id),
            f"published with {last}" if last else None,
            f"trained on {model.release}" if model.release in releases else None,
            "made within the grace period" if model.at > cutoff else None,
        )
        reason = next((each for each in whys if each), None)
        if reason and model.id not in standing.retired:
            stay[model.id] = reason
    own = {model.release: model.id for model in models if model.id in stay and model.release in there}
    return Kept({**{release: f"{model} was trained on it" for release, model in own.items()}, **releases}, stay)


def _moves(pointers: pa.Table) -> list[Pointer]:
    """Return the moves of all aliases, oldest first."""
    found = [move for move in moves_of(pointers) if move.target is not None]
    return sorted(found, key=lambda move: (move.at is not None, move.at))


def _needed_by_runs(running: Iterable[RunSummary], moves: list[Pointer]) -> dict[str, str]:
    """Return what running runs name, and what aliases pointed to since they started."""
    needed = dict[str, str]()
    for run in running:
        before = [move for move in moves if move.at is not None and move.at <= run.started][-1:]
        since = [move for move in moves if move.at is not None and move.at > run.started]
        values = [run.parameters.get(name) for name in NAMING_PARAMETERS]
        values += [value for target in targets_of([*before, *since]) for value in (target.release, target.model)]
        needed.update((value, f"{run.run} is running") for value in values if isinstance(value, str))
    return needed
