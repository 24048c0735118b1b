"""Changes of the sources that `serve` watches, and the runs that they start.

`serve` watches a state, not events: it requests a run as long as none began after the newest change. So several changes
during a run lead to one run after it, and `serve` repeats a request that was lost.
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
"""Time after which a request is repeated if no run followed it."""


@dataclass
class Trigger:
    """A state that a run has to follow. `request` asks for a run.

    A run is requested once two inspections have found the same state, so that files are complete. With `later`,
    something else requests the run first, and the trigger requests one only if none began within REPEAT. `unanswered`
    is True if a run was requested and none ended within REPEAT.
    """

    request: Callable[[], None]
    later: bool = False
    unanswered: bool = False
    _seen: str = ""
    _changed: datetime | None = None
    _asked: datetime | None = None

    def look(self, state: str, beat: Beat | None, now: datetime | None = None) -> bool:
        """Record the state and the last end of a run; return True if a run was requested."""
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
    """State of the sources: a digest that changes with the state, and a problem for each source that cannot be read."""

    digest: str
    problems: tuple[Problem, ...]


def news(lake: Lake, wanted: Mapping[str, tuple[Sequence[str], Spec]]) -> News:
    """Return the state of the sources that the lake may not have read; `wanted` has addresses and mapping by kind."""
    parts, faults = list[str](), list[Problem]()
    for kind, (addresses, spec) in wanted.items():
        for address in addresses:
            try:
                parts += [f"{kind} {each}" for each in _unread(lake, kind, address, spec)]
            except (SourceError, OSError) as error:
                faults.append(Problem(f"{SOURCE}{address}", str(error)))
    return News(hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest(), tuple(faults))


def _unread(lake: Lake, kind: str, address: str, spec: Spec) -> list[str]:
    """Return a fingerprint of the unread sources at an address."""
    source_kind = source_kind_of(address)
    if not source_kind.watchable:
        return []
    if source_kind.look is not None:
        return [_fingerprint(source) for source in source_kind.look(address, spec).sources]
    recorded = records(lake, kind, spec)
    return [_change(source) for source in unread(source_kind.find(address, spec, recorded).sources, recorded)]


def _change(source: Source) -> str:
    """Return the address of a source, of a table with the version since which it is read.

    So what is left after a night that read an earlier version is another state, which another night has to follow.
    """
    return f"{source.uri} since {getattr(source, 'since', None)}"


def _fingerprint(source: Source) -> str:
    """Return the address of a source with its size and time of change; the content is not read."""
    size, changed = getattr(source, "stamp", (0, 0))
    return f"{source.uri} {size} {changed}"
