"""End of a run: its sign of life, its event, alerts, and the state of the lake. None of them may hide how it ended."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prefect.context import FlowRunContext

from flows.inspect.lake_state import lake_state
from flows.runtime.failure import show_failure, write_log
from flows.watch.alerts import send_alerts
from flows.watch.health import problems
from infra.addresses import without_secrets
from storage.errors import LakeUnusable
from storage.runs.beats import beat_of, record_beat
from storage.runs.details import RunResult

if TYPE_CHECKING:
    from flows.runtime.run import Run


def end_well(run: "Run", outcome: str, result: dict[str, Any]) -> None:
    """Record that a run finished or was cancelled, and tell whoever watches."""
    run.record.end(outcome, result)
    _tell(run, outcome, result, _Guard(run))


def end_in_failure(run: "Run", error: BaseException) -> None:
    """Leave the traces of a failed run, and tell whoever watches. Raise nothing: the caller raises the error."""
    guard = _Guard(run, error)
    log = guard("log of the failure", lambda: write_log(run.lake, run.id, run.display.lines, error)) or ""
    result = {"error": f"{type(error).__name__}: {error}", "log": log}
    guard("record of the failure", lambda: run.record.end("failed", result))
    _tell(run, "failed", result, guard)
    guard("artifact of the failure", lambda: show_failure(run.id, error, log))


class _Guard:
    """Does what must not change how a run ended. An error of it is said; that a lake cannot be written is said once."""

    def __init__(self, run: "Run", failure: BaseException | None = None) -> None:
        self._run, self._lake_told = run, isinstance(failure, LakeUnusable)

    def __call__(self, what: str, act: Callable[[], Any]) -> Any:
        """Return what `act` returns; None if it fails."""
        try:
            return act()
        except LakeUnusable as error:
            if not self._lake_told:
                self._say(what, error)
            self._lake_told = True
        except Exception as error:  # noqa: BLE001 - an error of a notification must not change the end of the run
            self._say(what, error)
        return None

    def _say(self, what: str, error: Exception) -> None:
        self._run.say(f"  warning: the {what} failed: {without_secrets(str(error)) or type(error).__name__}")


def _tell(run: "Run", outcome: str, result: dict[str, Any], guard: _Guard) -> None:
    guard("sign of life", lambda: _leave_beat(run, outcome, result))
    if run.lineage is not None and (unsent := run.lineage.end(outcome, result)):
        run.say(f"  warning: {unsent}")
    guard("alerts", lambda: _alert(run))
    guard("state of the lake", lambda: _say_lake_state(run))


def _leave_beat(run: "Run", outcome: str, result: dict[str, Any]) -> None:
    if run.lake.exists("runs") or run.lake.exists("releases"):
        ended = RunResult.of({**result, **run.bytes_moved()})
        record_beat(run.lake, beat_of(run.kind, run.id, run.seconds(), outcome, ended))


def _alert(run: "Run") -> None:
    watch = run.recipe.watch
    if watch.alerts:
        for fault in send_alerts(run.lake, watch, problems(run.lake, watch)):
            run.say(f"  warning: {fault}")


def _say_lake_state(run: "Run") -> None:
    """Show the state of the lake if a schedule or a trigger started the run, because no person sees its output."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.deployment_id is None:
        return
    for line in lake_state(run.lake).lines:
        run.say(f"  {line}")
