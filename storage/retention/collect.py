"""`lake gc`: retire releases and models that nothing keeps, and remove the files that nothing needs.

Two steps, each of which another run, a reader or a kill may come between:

- Retiring is one compare-and-swap on the table of pointers, with pins and aliases in it.
- Files go when no release that stays names them, once the grace period is over: since the retirement for what a release
  pinned, since it was written for what nothing names yet, and not while a run that started before is running.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from storage.commit import Provenance, join_bookkeeping, swap, take_out
from storage.errors import ErasedMeanwhile, LakeNotFound
from storage.files.data_files import DataFile
from storage.files.trim import Trim, write_trim
from storage.format import FORMAT, write_format
from storage.lake import Lake
from storage.releases.completeness import require_complete
from storage.releases.models import recorded_models
from storage.releases.pointers import require_pointers
from storage.releases.releases import recorded_releases
from storage.releases.standing import retirements, standing_of
from storage.retention.garbage import TRAINING, Listing, Needs, erasing, former_vectors, old_sequences
from storage.retention.policy import Kept, Policy, kept, running_runs
from storage.retention.small_files import join_small
from storage.retention.tables import Garbage
from storage.runs.log_lease import changing_logs
from storage.runs.record import MAKES_RELEASES, RunSummary
from storage.schemas import TABLES

SEQUENCES = "sequences of retired releases"
JOINED = ("items", "interactions", "vectors", "sids")
"""Tables in which every night leaves a file; those of bookkeeping tables are joined as they are written."""
WAIT_S = 600.0
"""Seconds to wait for an erasure or another `lake gc`; one that was killed elsewhere counts as dead much sooner."""
TRAINS = ("bootstrap", "backfill", "train")
"""Kinds of runs that may go on from files below `training/`, however old."""


@dataclass(frozen=True)
class Collected:
    """Outcome of a `lake gc` or its plan: `retired` now, `garbage` removed now, `later` once what is `leaving` is gone.

    `leaving` has the releases and models that were retired within the grace period, with the time. `cutoff` is the time
    since which nothing goes: the grace period, or the start of the oldest of the `running` runs. `joined` is the number
    of small data files that were joined, by table. `former_vectors` are files with their sizes that are out of the
    newest version of their table; they go once no release that stays pins a version with them.
    """

    kept: Kept
    retired: tuple[str, ...]
    leaving: Mapping[str, datetime]
    garbage: tuple[Garbage, ...]
    later: tuple[Garbage, ...]
    running: tuple[str, ...]
    cutoff: datetime
    joined: Mapping[str, int]
    former_vectors: Mapping[str, int]


def collect(lake: Lake, policy: Policy, provenance: Provenance, remove: bool, now: datetime | None = None) -> Collected:
    """Retire and remove what may go, or only say what would go.

    Safe beside runs and readers, to be killed at any point, and to be run again. Raise DataCorrupt, and remove nothing,
    if a log is damaged or the lake lacks commits that it had. Raise ErasedMeanwhile if an erasure did not end, and
    LeaseTaken if one, or another `lake gc`, goes on for more than WAIT_S seconds.
    """
    if lake.format is None:
        raise LakeNotFound(f"there is no lake at {lake.uri}. Check --lake.")
    require_pointers(lake)
    require_complete(lake)
    now = now or datetime.now(UTC)
    if not remove:
        return _collect(lake, policy, provenance, now, None)
    with changing_logs(lake, provenance, WAIT_S) as require_held:
        if erasing(lake):
            raise ErasedMeanwhile(
                f"an erasure in the lake {lake.uri} did not end, so nothing was removed: run `sidmill lake erase "
                "--resume --yes`, then this command again."
            )
        return _collect(lake, policy, provenance, now, require_held)


def _collect(
    lake: Lake, policy: Policy, provenance: Provenance, now: datetime, require_held: Callable[[], None] | None
) -> Collected:
    """Collect as `collect` does; remove if it holds the lease of logs, and as long as it does."""
    remove = require_held is not None
    retired = _retire(lake, policy, provenance, now) if remove else _retiring(lake, policy, lake.read("pointers"), now)
    running = running_runs(lake, now)
    state = _State(lake, policy, now, retired, running)
    former = former_vectors(lake, state.needs(frozenset(state.leaving))) if state.none_makes_releases else {}
    if remove:
        _drop_sequences(lake, state, provenance)
        _drop_vectors(lake, former, provenance)
    tables = [table for table in TABLES if remove and lake.exists(table)]
    for table in tables:
        join_bookkeeping(lake, table, provenance)
    joined = {table: join_small(lake, table, provenance) for table in tables if table in JOINED}
    listing = Listing(lake)
    garbage, trims = listing.garbage(state.needs(frozenset(state.leaving)))
    later = _later(lake, listing, state, garbage)
    if require_held is not None:
        garbage = _remove(lake, garbage, trims, state.cutoff, require_held)
    return Collected(
        kept(policy, state.manifests, state.models, state.pointers, running, now),
        retired,
        state.leaving,
        tuple(garbage),
        tuple(later),
        tuple(run.run for run in running),
        state.cutoff,
        {table: count for table, count in joined.items() if count},
        {file.path: file.size for files in former.values() for file in files},
    )


class _State:
    """Records of the lake at one time, with `retired` beside what is retired already."""

    def __init__(
        self, lake: Lake, policy: Policy, now: datetime, retired: tuple[str, ...], running: list[RunSummary]
    ) -> None:
        self.pointers = lake.read("pointers")
        self.manifests, self.models = recorded_releases(lake), recorded_models(lake)
        self.retired = {**dict.fromkeys(retired, now), **standing_of(self.pointers).retired}
        self.cutoff = policy.cutoff(now, running)
        self.leaving = {name: at for name, at in self.retired.items() if at > self.cutoff}
        self.gone = set(self.retired) - set(self.leaving)
        self.staying = {*(each.id for each in self.manifests), *(each.id for each in self.models)} - set(self.retired)
        self._trainings = not any(run.kind in TRAINS for run in running)
        self.none_makes_releases = not any(run.kind in MAKES_RELEASES for run in running)

    def needs(self, leaving: frozenset[str] = frozenset()) -> Needs:
        """Return the needs of what stays, and of what is `leaving`."""
        staying = frozenset(self.staying)
        return Needs(staying, leaving, tuple(self.manifests), tuple(self.models), self.cutoff, self._trainings)


def _retiring(lake: Lake, policy: Policy, pointers: pa.Table, now: datetime) -> tuple[str, ...]:
    """Return the releases and models that nothing keeps, by the rows of the table of pointers."""
    manifests, models = recorded_releases(lake), recorded_models(lake)
    stay = kept(policy, manifests, models, pointers, running_runs(lake, now), now)
    recorded = {*(each.id for each in manifests), *(each.id for each in models)}
    return tuple(sorted(recorded - {*standing_of(pointers).retired, *stay.releases, *stay.models}))


def _retire(lake: Lake, policy: Policy, provenance: Provenance, now: datetime) -> tuple[str, ...]:
    note, retired = f"keep {policy.keep}, grace {policy.grace}", tuple[str, ...]()

    def decide(rows: pa.Table) -> pa.Table | None:
        nonlocal retired
        retired = _retiring(lake, policy, rows, now)
        return retirements(retired, now, note, provenance) if retired else None

    swap(lake, "pointers", decide, provenance)
    return retired


def _drop_sequences(lake: Lake, state: _State, provenance: Provenance) -> None:
    """Take the sequences of retired releases out of their table; their files go once the grace period is over."""
    if lake.exists("sequences"):
        take_out(lake, "sequences", set(old_sequences(lake, state.gone)), provenance)


def _drop_vectors(lake: Lake, former: Mapping[tuple[str, ...], list[DataFile]], provenance: Provenance) -> None:
    """Take vectors that no release was made with out of their table, so that later releases pin no version with them.

    A run that began meanwhile may have read them: it makes no release (`flows.runtime.run.Run.require_vectors`).
    """
    if former and lake.format != FORMAT:
        write_format(lake.files)  # an older program would not write them again
    for partition, files in former.items():
        take_out(lake, "vectors", {each.path for each in files}, provenance, partition)


def _later(lake: Lake, listing: Listing, state: _State, garbage: list[Garbage]) -> list[Garbage]:
    """Return what goes beside `garbage` when the grace period of what is leaving is over."""
    if not state.leaving and not state.gone:
        return []
    now = {each.path for each in garbage}
    files = old_sequences(lake, state.retired)
    sequences = [Garbage(SEQUENCES, f"sequences/{path}", size) for path, size in files.items()]
    return [each for each in [*listing.garbage(state.needs())[0], *sequences] if each.path not in now]


def _remove(
    lake: Lake,
    garbage: list[Garbage],
    trims: Mapping[str, Trim],
    cutoff: datetime,
    require_held: Callable[[], None],
) -> list[Garbage]:
    """Remove files, and return those that were not written anew meanwhile.

    Entries of logs go after all others, once the records of what they were are written.
    """
    logs = [each for each in garbage if each.in_log]
    removed = []
    for each in garbage:
        if not each.in_log and (not each.unnamed or _still_old(lake, each, cutoff)):
            _delete(lake, each)
            removed.append(each)
    for table, trim in trims.items():
        require_held()  # an erasure would have rewritten the checkpoints whose hashes are in it
        write_trim(lake.table_files(table), trim)
    for each in logs:
        _delete(lake, each)
    for folder in sorted({each.path.split("/")[1] for each in removed if each.path.startswith(f"{TRAINING}/")}):
        lake.files.delete_empty(f"{TRAINING}/{folder}")
    return [*removed, *logs]


def _still_old(lake: Lake, garbage: Garbage, cutoff: datetime) -> bool:
    """Return whether a file that nothing named when it was listed was not written anew since."""
    (info,) = lake.files.info([garbage.path])
    return info is not None and info[1] < cutoff.timestamp() * 1e9


def _delete(lake: Lake, garbage: Garbage) -> None:
    with suppress(FileNotFoundError):  # another `lake gc` was first
        lake.files.delete(garbage.path)
