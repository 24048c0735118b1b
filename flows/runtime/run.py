"""One run of a flow: its lake, recipe, compute, record and display, which are opened and closed in order."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect.context import FlowRunContext
from prefect.exceptions import MissingContextError, TerminationSignal
from prefect.logging import get_run_logger

from flows.recipe import Recipe, load_recipe, parse_recipe
from flows.runtime import stopped
from flows.runtime.cancellation import stop_when_cancelled
from flows.runtime.ending import end_in_failure, end_well
from flows.runtime.memory import return_freed_memory
from flows.runtime.progress import Display, StageView
from flows.runtime.stage_artifact import StageArtifact
from flows.runtime.times import parse_time
from flows.runtime.tracking import Figures
from flows.watch.lineage import LineageEvents, addresses_of, is_wanted
from infra.addresses import check_environment, hide_secrets
from infra.heaps import give_large_arrays_pages_of_their_own
from infra.settings import configure
from learning.progress import EpochCallback, progress_listener
from pipelines.compute.cluster import shutdown
from pipelines.compute.executors import Compute, InProcess, OnRay
from pipelines.given.source import open_given
from sidmill.release import open_trie
from storage.commit import Provenance, generation
from storage.errors import ErasedMeanwhile
from storage.lake import Lake
from storage.releases.completeness import require_complete
from storage.releases.manifest import Manifest
from storage.runs.lease import Lease
from storage.runs.record import MAKES_RELEASES, RunRecord, new_run_id
from tokenizer.trie.trie import Trie

ONE_AT_A_TIME = ("nightly",)
"""Kinds of runs that take a lease: one run of each works on a lake at a time."""
AHEAD = timedelta(days=1)
"""Time by which --as-of may lie ahead of the clock without a warning."""
# Seconds that a run waits for another one of its kind.
LONGEST_WAIT_S = 3600.0


class Run:
    """State of a run, passed to every step of its flow. `compute` executes stages; `compute_for` may change it.

    `recipe` applies to this run; `stored_recipe`, without the overrides of this run, is stored in its releases.
    """

    def __init__(
        self, kind: str, lake: str, recipe: Recipe, stored: Recipe, parameters: dict[str, Any], clock: datetime
    ) -> None:
        self.kind = kind
        self.id = new_run_id(kind)
        self.lake = Lake(lake)
        self.recipe, self.stored_recipe = recipe, stored
        self.clock = clock
        self.compute: Compute = OnRay(recipe.compute)
        self.record = RunRecord(self.lake, self.id, kind, recipe.hash, parameters, _flow_run_id())
        self.display = Display(_flow_log)
        self.result: dict[str, Any] = {}
        self.blocked = ""
        self.figures = Figures(self, self.id, {})
        self._artifact: StageArtifact | None = None
        self.lineage: LineageEvents | None = None
        self.lease: Lease | None = None
        self._tries: dict[str, Trie] = {}
        self._started = time.monotonic()
        self._moved_before = _bytes_moved()
        self._vectors_taken_out = 0

    def use_recipe(self, settings: dict[str, Any], overrides: list[str] | None) -> None:
        """Continue with the recipe of another release, as a night does if its parent changes."""
        self.stored_recipe = parse_recipe(settings)
        self.recipe = load_recipe(None, overrides or [], self.stored_recipe.model_dump(mode="json"))

    def trie_of(self, manifest: Manifest) -> Trie:
        """Return the trie of a release, which is verified once in a run."""
        if manifest.trie.sha256 not in self._tries:
            self._tries[manifest.trie.sha256] = open_trie(self.lake, manifest)
        return self._tries[manifest.trie.sha256]

    def seconds(self) -> float:
        """Return seconds since the start."""
        return time.monotonic() - self._started

    def bytes_moved(self) -> dict[str, int]:
        """Return bytes that this process has read and written since the start of the run, where the system tells."""
        now = _bytes_moved()
        return {name: now[name] - before for name, before in self._moved_before.items()}

    def begin(self) -> bool:
        """Record that the run started, because there is work; return whether it waited for another one of its kind.

        A night waits until no other night works on the lake.
        """
        if self.record.begun:
            return False
        if self.kind in ONE_AT_A_TIME:
            require_complete(self.lake)  # before the commit of the lease, which would be the newest of its table
            self.lease = Lease(self.lake, self.kind, self.provenance())
            self.lease.take(LONGEST_WAIT_S, self.say)
        stopped.state.run_began = True
        self.record.begin()
        if self.kind in MAKES_RELEASES:
            self.require_vectors()  # from now on `lake gc` sees this run
        return self.lease is not None and self.lease.waited

    def notice_vectors(self) -> None:
        """Remember what `lake gc` has taken out so far, before the run reads any vectors."""
        self._vectors_taken_out = generation(self.lake, "vectors")

    def require_vectors(self, version: int | None = None) -> None:
        """Raise ErasedMeanwhile if `lake gc` took vectors out since the run was opened, up to a version or till now."""
        if generation(self.lake, "vectors", version=version) != self._vectors_taken_out:
            raise ErasedMeanwhile(
                f"`sidmill lake gc` took vectors of former releases out of the lake {self.lake.uri} as this run began: "
                "run the same command again."
            )

    def close(self) -> None:
        """Let the next run of its kind begin."""
        if self.lease is not None:
            self.lease.close()

    def provenance(self, **inputs: int) -> Provenance:
        return Provenance(self.id, self.recipe.hash, inputs)

    def say(self, line: str) -> None:
        self.display.say(line)

    def done(self, **result: Any) -> dict[str, Any]:
        """Set and return the result of the flow, which is recorded at the end of the run.

        Where a gate kept something from production without ending the run, `blocked` says so.
        """
        self.result = {**result, "blocked": self.blocked} if self.blocked else result
        return self.result

    def compute_for(self, rows: int) -> None:
        """Run stages in process if few items are new, and show that."""
        if rows < self.recipe.compute.in_process_below:
            self.compute = InProcess(self.recipe.compute)
            self.say(f"  {rows:,} items to process: stages run in process, and no cluster is started")

    def epochs(self, figures: Figures) -> EpochCallback:
        """Return a callback that writes the figures of each epoch, and shows its number as progress of the stage."""

        def report(label: str, row: Mapping[str, float], of: int) -> None:
            figures.epoch(label, row)
            done = int(row["epoch"]) + 1
            if self._artifact is not None:
                self._artifact.update(done / of, (of - done) * row["seconds"], f"{label} epoch {done} of {of}")

        return report

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[StageView]:
        """Time and show a stage, and record it with its counts at its end."""
        artifact = self._artifact = StageArtifact(name, self.say)
        with (
            self.display.stage(name, total) as (view, seconds),
            progress_listener(lambda line: self.say(f"    {line}"), self.epochs(self.figures)),
        ):
            pace = view.pace
            if pace.total:
                rows = pace.total
                view.moved.append(
                    lambda: artifact.update(pace.done / rows, pace.left_s, f"{pace.done:,} of {rows:,} rows")
                )
            yield view
            return_freed_memory()
            artifact.end()
            self.record.stage(name, {**view.detail, "seconds": round(seconds(), 3)})


@contextmanager
def open_run(
    kind: str, lake: str, recipe: str | dict[str, Any], parameters: dict[str, Any], clock: str | None = None
) -> Iterator[Run]:
    """Open a run, and record its end. A failure or an interrupt also ends its work on the cluster.

    `clock` is the arrival time of ingested data, now by default.
    """
    configure()  # for flows started by a Prefect worker, not by the command
    check_environment()
    stored = parse_recipe(recipe) if isinstance(recipe, dict) else load_recipe(recipe)
    settings = stored.model_dump(mode="json")
    effective = load_recipe(None, parameters.get("overrides") or [], settings)
    if kind in MAKES_RELEASES:
        give_large_arrays_pages_of_their_own()
    is_new = Lake(lake).format is None
    if is_new:
        _check_given(kind, effective)  # a source that cannot be read is an error before a lake is made
    recorded = {**parameters, "recipe": settings}
    run = Run(kind, lake, effective, stored, recorded, parse_time(clock) or datetime.now(UTC))
    run.say(f"{kind} ({run.id}) on {run.lake.uri}")
    if clock is not None and run.clock - datetime.now(UTC) > AHEAD:
        run.say(
            f"  warning: --as-of {run.clock:%Y-%m-%d} is later than the clock of this machine: what this run "
            "reads is stamped with it, and no later release has an earlier as-of time"
        )
    run.lineage = LineageEvents(run.lake, run.id, kind, addresses_of(parameters)) if is_wanted() else None
    if run.lineage is not None and (fault := run.lineage.start()):
        run.say(f"  warning: {fault}")
    with closing(run):
        try:
            with stop_when_cancelled():
                if kind in MAKES_RELEASES:
                    run.notice_vectors()
                if not is_new:
                    _check_given(kind, effective)
                yield run
        except (KeyboardInterrupt, TerminationSignal):  # Ctrl-C, or the signal by which Prefect ends a cancelled run
            shutdown()
            if run.record.begun:
                end_well(run, "cancelled", {"reason": "interrupted"})
            raise
        except BaseException as error:
            shutdown()
            hide_secrets(error)
            end_in_failure(run, error)
            raise
        end_well(run, "finished", run.result)


def _check_given(kind: str, recipe: Recipe) -> None:
    """Raise SourceError if a run reads given vectors and cannot open them."""
    for name, given in recipe.vectors.items() if kind in MAKES_RELEASES else ():
        open_given(name, given)


def _bytes_moved() -> dict[str, int]:
    """Return bytes that this process has read and written, page cache included; nothing where the system is silent."""
    counters = Path("/proc/self/io")
    if not counters.exists():
        return {}
    lines = dict(line.split(": ") for line in counters.read_text().splitlines())
    return {"read_bytes": int(lines["rchar"]), "written_bytes": int(lines["wchar"])}


def _flow_run_id() -> str:
    context = FlowRunContext.get()
    return str(context.flow_run.id) if context is not None and context.flow_run is not None else ""


def _flow_log(line: str) -> None:
    """Write a line that is shown to the flow run's log in Prefect as well."""
    if FlowRunContext.get() is None:
        return
    try:
        get_run_logger().info(line.strip())
    except MissingContextError:
        logging.getLogger("sidmill").info(line.strip())
