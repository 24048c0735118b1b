"""The record of runs: rows of events (started, stage, finished, failed, cancelled), so that a killed run is visible.

A run that finds nothing to do writes nothing: `RunRecord` buffers its events until the first real work.
"""

import builtins
import json
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from storage.commit import Provenance, append
from storage.errors import ErasedMeanwhile, LakeNotFound
from storage.lake import Lake
from storage.releases.completeness import require_complete
from storage.runs.details import RecordedStage, RunResult
from storage.runs.process import may_live, this_process
from storage.schemas import RUNS

MAKES_RELEASES = ("bootstrap", "nightly", "backfill")
"""Kinds of runs that make releases. They read vectors that no release may name yet."""
# Seconds of finished stages that a killed run may leave unrecorded.
FLUSH_S = 5.0


def new_run_id(kind: str) -> str:
    """Return a run id that sorts by time and is unique."""
    return f"{kind}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


@dataclass
class RunRecord:
    """Recorder of what one run does. Nothing reaches the lake before `begin`."""

    lake: Lake
    run: str
    kind: str
    recipe_hash: str
    parameters: dict[str, Any]
    flow_run: str = ""
    begun: bool = False
    _buffer: list[dict[str, Any]] = field(default_factory=list)
    _written: int = 0
    _flushed: float = 0.0
    _erasures: int = field(init=False)

    def __post_init__(self) -> None:
        self._erasures = self.lake.version("erasures")

    def begin(self) -> None:
        """Record that the run started because there is work, with what `sidmill run resume` needs to start it again.

        Raise DataCorrupt if the lake lost commits: what the run made would not fit what was made of them. Raise
        ErasedMeanwhile if rows were erased since the run was opened, for it may have read them; an erasure waits for
        runs that are recorded as begun.
        """
        if self.begun:
            return
        require_complete(self.lake)
        self._start()
        if self.lake.version("erasures") != self._erasures:
            raise ErasedMeanwhile(
                f"`sidmill lake erase` took rows out of the lake {self.lake.uri} while this run looked at it: run the "
                "same command again."
            )

    def _start(self) -> None:
        if self.begun:
            return
        self.begun = True
        detail = {
            "parameters": self.parameters,
            **this_process(),
            "flow_run": self.flow_run,
        }
        self._buffer.insert(0, self._event("started", self.kind, detail))
        self._flush()

    def stage(self, name: str, detail: dict[str, Any]) -> None:
        """Record a finished stage with its counts and seconds; stages that took FLUSH_S seconds together are written.

        The others are written with the next event: a commit for each would be most of the commits of a short night.
        """
        self._buffer.append(self._event("stage", name, detail))
        if self.begun and time.monotonic() - self._flushed >= FLUSH_S:
            self._flush()

    def end(self, event: str, detail: dict[str, Any]) -> None:
        """Record the end (finished, failed, cancelled); a run that had nothing to do leaves no trace."""
        if event == "finished" and not self.begun:
            return
        self._start()
        self._buffer.append(self._event(event, self.kind, detail))
        self._flush()

    def _event(self, event: str, name: str, detail: dict[str, Any]) -> dict[str, Any]:
        return {
            "run": self.run,
            "kind": self.kind,
            "event": event,
            "name": name,
            "detail": json.dumps(detail, sort_keys=True, default=str),
            "at": datetime.now(UTC),
        }

    def _flush(self) -> None:
        rows, self._buffer = self._buffer, []
        self._written, self._flushed = self._written + 1, time.monotonic()
        table = pa.Table.from_pylist(rows, schema=RUNS.schema)
        append(self.lake, "runs", table, f"run:{self.run}:{self._written}", Provenance(self.run, self.recipe_hash))


@dataclass(frozen=True)
class RunSummary:
    """One run from its events: `state` is running, finished, failed, cancelled, or killed (its process is gone).

    `parameters` are the arguments of its flow, and `seen` is the time of its last event. A run that is not over has an
    empty result.
    """

    run: str
    kind: str
    state: str
    started: datetime
    ended: datetime | None
    parameters: dict[str, Any]
    result: RunResult
    stages: list[RecordedStage]
    host: str
    pid: int
    flow_run: str
    seen: datetime

    def as_record(self) -> dict[str, Any]:
        """Return the run by name of the field, for JSON; times are left as they are."""
        stages = [stage.as_record() for stage in self.stages]
        return {**vars(self), "result": self.result.as_record(), "stages": stages}


def in_a_line(error: str | None) -> str:
    """Return a recorded error in one line, for people: its class is named only where the error is one of Python's."""
    text = " ".join((error or "").split())
    kind, _, message = text.partition(": ")
    return message if message and kind.isidentifier() and not hasattr(builtins, kind) else text


def runs(lake: Lake) -> list[RunSummary]:
    """Return all runs that did something, oldest first."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in lake.read("runs").sort_by("at").to_pylist():
        grouped.setdefault(row["run"], []).append({**row, "detail": json.loads(row["detail"])})
    return sorted((_summary(events) for events in grouped.values()), key=lambda run: run.started)


def read_run(lake: Lake, run: str) -> RunSummary:
    """Return one run by id; LakeNotFound names the newest ones."""
    known = runs(lake)
    for summary in known:
        if summary.run == run:
            return summary
    newest = ", ".join(summary.run for summary in known[-5:]) or "none"
    raise LakeNotFound(f"the lake {lake.uri} has no run {run!r}; newest runs: {newest}.")


def _summary(events: list[dict[str, Any]]) -> RunSummary:
    first = next((event for event in events if event["event"] == "started"), events[0])
    last = events[-1]
    over = last["event"] in ("finished", "failed", "cancelled")
    state = last["event"] if over else "running" if may_live(first["detail"]) else "killed"
    return RunSummary(
        run=first["run"],
        kind=first["kind"],
        state=state,
        started=first["at"],
        ended=last["at"] if over else None,
        parameters=first["detail"].get("parameters", {}),
        result=RunResult.of(last["detail"] if over else {}),
        stages=[RecordedStage.of(event["name"], event["detail"]) for event in events if event["event"] == "stage"],
        host=str(first["detail"].get("host", "")),
        pid=int(first["detail"].get("pid", 0)),
        flow_run=str(first["detail"].get("flow_run", "")),
        seen=last["at"],
    )
