"""Traces of a failed run: a log file in the lake with its output and traceback, and an artifact in Prefect."""

import traceback

from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext

from infra.addresses import without_secrets
from storage.files.store import Files
from storage.lake import Lake

FOLDER = "logs"


def log_name(run: str) -> str:
    return f"{run}.log"


def write_log(lake: Lake, run: str, lines: list[str], error: BaseException) -> str:
    """Write the log of a failed run; return its place."""
    raised = "".join(traceback.format_exception(error))
    text = without_secrets("\n".join([*lines, "", raised]))
    files = Files(f"{lake.uri}/{FOLDER}")
    files.write(log_name(run), text.encode())
    return f"{files.uri}/{log_name(run)}"


def show_failure(run: str, error: BaseException, log: str) -> None:
    """Show the failure as an artifact of the flow run, if there is one."""
    if FlowRunContext.get() is None:
        return
    message = without_secrets(f"{type(error).__name__}: {error}")
    create_markdown_artifact(
        f"**{run} failed**\n\n{message}\n\nLog: `{log}`\n\nThe same command goes on from there, as does "
        f"`sidmill run resume {run}`.",
        key="failure",
        description=message.splitlines()[0][:200],
    )
