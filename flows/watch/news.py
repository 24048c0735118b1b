"""News of the sources that `serve` watches, and the runs that they start.

What is watched is a state, not an event: as long as no run began after the newest change, a run is asked for. So
several changes during a run are one run after it, and a request that was lost is made again.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flows.watch.health import SOURCE, Problem
from pipelines.ingest.accounting import records, unread
from pipelines.registry import source_kind_of
from pipelines.sources.protocol import Source, Spec
from pipelines.sources.row import SourceError
from storage.lake import Lake
from storage.runs.beats import Beat

REPEAT = timedelta(minutes=10)
"""A request that no run has followed by then is made again."""


@dataclass
class Trigger:
    """A state that a run has to follow. `request` asks for a run.

    A run is asked for once a state has stayed for two looks, so that files are complete. With `later`, something else
    asks first, and a run is asked for only if none began within REPEAT. `unanswered`: a run was asked for, and none
    ended within REPEAT.
    """

    request: Callable[[], None]
    later: bool = False
    unanswered: bool = False
    _seen: str = ""
    _changed: datetime | None = None
    _asked: datetime | None = None

    def look(self, state: str, beat: Beat | None, now: datetime | None = None) -> bool:
        """Take note of the state and of the last end of a run; return whether a run was asked for."""
        clock = now or datetime.now(UTC)
        if state != self._seen:
            self._seen, self._changed, self._asked = state, clock, clock if self.later else None
            return False
        if self._changed is None:
            return False
        answered = self._asked is not None and beat is not None and beat.at > self._asked
        if answered:
            self.unanswered = False
        if beat is not None and beat.began > self._changed:
            self._changed = None
            return False
        if self._asked is None or clock - self._asked > REPEAT or answered:
            self.unanswered |= self._asked is not None and not answered
            self._asked = clock
            self.request()
            return True
        return False


@dataclass(frozen=True)
class News:
    """State of the sources: a digest that changes with it, and those that cannot be looked at."""

    digest: str
    problems: tuple[Problem, ...]


def news(lake: Lake, wanted: Mapping[str, tuple[Sequence[str], Spec]]) -> News:
    """Return what the sources hold that the lake may not have read; `wanted` has addresses and mapping by kind."""
    parts, faults = list[str](), list[Problem]()
    for kind, (addresses, spec) in wanted.items():
        for address in addresses:
            try:
                parts += [f"{kind} {each}" for each in _unread(lake, kind, address, spec)]
            except (SourceError, OSError) as error:
                faults.append(Problem(f"{SOURCE}{address}", str(error)))
    return News(hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest(), tuple(faults))


def _unread(lake: Lake, kind: str, address: str, spec: Spec) -> list[str]:
    """Return what tells the sources at an address that may be news from those of another look."""
    found = source_kind_of(address)
    if address in ("-", "/dev/stdin") or address.startswith("sql:"):
        return []
    if found.look is not None:
        return [_looks(source) for source in found.look(address, spec).sources]
    before = records(lake, kind, spec)
    return [source.uri for source in unread(found.find(address, spec, before).sources, before)]


def _looks(source: Source) -> str:
    """Return the address of a file with its size and time: its content is not read for a look."""
    size, changed = getattr(source, "stamp", (0, 0))
    return f"{source.uri} {size} {changed}"
