"""The `sidmill` command: finds the verb, runs it, and turns its errors into messages and exit codes."""

import atexit
import errno
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from inspect import BoundArguments
from pathlib import Path
from typing import Any, NoReturn

from cyclopts import App, CoercionError, CycloptsError, MissingArgumentError, Parameter, UnusedCliTokensError
from rich.console import Console

import flows.cli.watch  # noqa: F401 - verbs of `sidmill lake`
from flows.cli import item, lake, plugin, quarantine, recipe, recorded_runs, release, run
from flows.cli.job import job
from flows.cli.options import OPTIONS, Debug
from flows.cli.report import report
from flows.cli.serve import serve
from flows.runtime import stopped
from flows.runtime.terminal import printable_lines
from infra.addresses import SecretInAddress, check_arguments, check_environment, without_secrets
from infra.settings import configure
from plugins.registry import code_version

# Exit codes; 130 is 128 + SIGINT and 143 is 128 + SIGTERM, as in a shell.
USAGE, BLOCKED, FAILED, TERMINATED = 2, 3, 1, 143
# What to do about an error of the system that names a path.
_PATH_REMEDIES = {
    errno.EISDIR: "give the path of a file, not of a folder",
    errno.ENOTDIR: "a part of this path is a file: give another path",
    errno.ENOENT: "check the path",
    errno.EACCES: "give a path that this user may use",
    errno.EPERM: "give a path that this user may use",
    errno.EROFS: "give a path on a disk that can be written",
    errno.ENOSPC: "make room, and run the command again",
    errno.ENAMETOOLONG: "give a shorter path",
}
STARTS_RUN = (
    *(run.bootstrap, run.ingest, run.nightly, run.backfill, run.train, run.evaluate),
    *(recorded_runs.resume, quarantine.retry),
)
"""Verbs that change nothing before their run begins."""


def _shown_default(value: Any) -> str | None:
    return None if value in (None, (), False, "") else str(value)


app = App(
    name="sidmill",
    help="Semantic IDs, tries and generators from a catalogue and its logs.\n\n"
    "`sidmill COMMAND --help` shows what a command does, its options and examples.",
    help_format="plaintext",
    version=lambda: f"sidmill {code_version()}",
    group_parameters=OPTIONS,
    # Of an option given twice the last one counts, so that a script can append to a command.
    default_parameter=Parameter(negative=(), allow_repeating=True, show_default=_shown_default),
)
for place, noun in enumerate((run, recipe, release, item, quarantine, lake, plugin)):
    noun.app.sort_key = place
    noun.app.synonym = tuple(noun.app)  # a verb typed without its noun leads to the noun
    app.command(noun.app)
app.command(report, sort_key=7)
app.command(serve, sort_key=8)
app.command(job, sort_key=9)
app.register_install_completion_command(help="Install tab completion for your shell (--shell names another one).")


def main() -> None:
    """Entry point of the executable."""
    exit_code = FAILED  # if run_command raises, as with --debug
    _open_closed_streams()
    stopped.raise_at_signals()

    def leave() -> NoReturn:
        """End the process without shutting down the interpreter.

        Arrow, Delta and polars have threads of their own. A thread that wakes after the interpreter and the statics of
        its library are destroyed aborts the finished process ("terminate called without an active exception").
        """
        with suppress(BrokenPipeError):  # the reader has closed the pipe
            sys.stdout.flush()
            sys.stderr.flush()
        if exit_code == TERMINATED:  # a supervisor such as systemd tells an end by SIGTERM from a failure
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        os._exit(exit_code)

    atexit.register(leave)  # registered first, so called last: Ray, Prefect and its server are closed by then
    exit_code = run_command(sys.argv[1:])
    sys.exit(exit_code)


def _open_closed_streams() -> None:
    """Open what the caller closed, as `>&-` does: Python has None in its place, and libraries expect a file."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - it stays open


def run_command(arguments: Sequence[str]) -> int:
    """Run one command in this process; return its exit code. A failure prints a message, or is raised with --debug."""
    try:
        return _run(arguments)
    except BaseException as stop:
        if not isinstance(stop, _stops()):
            raise
        return _interrupted()


def _run(arguments: Sequence[str]) -> int:
    configure()
    arguments = ["/dev/stdin" if each == "-" else each for each in arguments]  # the library takes "-" for an option
    try:
        if (empty := _empty_argument(arguments)) is not None:
            return _told(empty, USAGE)
        check_arguments(arguments)
        check_environment()
        if _names_no_verb(arguments):
            app.help_print(arguments, console=Console(stderr=True))
            return USAGE
        verb, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    except SecretInAddress as error:
        return _told(str(error), USAGE)
    except CycloptsError as error:
        return _told(_usage_error(error), USAGE)
    stopped.state.starts_run = verb in STARTS_RUN
    try:
        verb(*bound.args, **bound.kwargs)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if _debug(bound):
            raise
        if stopped.state.stopped_by:  # the library where the signal came wrapped its exception
            return _interrupted()
        return _told(_message(error), _code(error))
    except SystemExit as stop:  # of rich, if the reader has closed the pipe; of the installation of completion
        if isinstance(stop.__context__, BrokenPipeError):
            return 0
        return stop.code if isinstance(stop.code, int) else FAILED
    return 0


def _interrupted() -> int:
    print(f"sidmill: {stopped.message()}", file=sys.stderr)
    return TERMINATED if stopped.state.stopped_by == signal.SIGTERM else stopped.INTERRUPTED


def _empty_argument(arguments: Sequence[str]) -> str | None:
    """Return what to say of an empty argument: as a path it would be the working folder, as a recipe the usual one."""
    for place, each in enumerate(arguments):
        option = each.removesuffix("=") if each.startswith("--") and each.find("=") == len(each) - 1 else None
        if option is None and not each.strip():
            before = arguments[place - 1] if place else ""
            option = before if before.startswith("-") and before != "--" else "an argument"
        if option is not None:
            return (
                f"{option} is empty: give a value, or leave it out. A variable of the shell that is not set is empty."
            )
    return None


def _names_no_verb(arguments: Sequence[str]) -> bool:
    _, apps, left = app.parse_commands(arguments)
    return apps[-1].default_command is None and not left


def _usage_error(error: CycloptsError) -> str:
    return f"{_mistake(error)} See `{' '.join(['sidmill', *(error.command_chain or ())])} --help`."


def _mistake(error: CycloptsError) -> str:
    """Return the library's message, or a shorter one for what is mistyped most often."""
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f'Unexpected argument "{error.unused_tokens[0]}".'
    if isinstance(error, CoercionError) and error.target_type is timedelta and error.token is not None:
        return f'{error.token.keyword} "{error.token.value}" is no duration: write it as 7d, 12h or 90s.'
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        return f"{error.keyword} needs a value." if error.keyword else f"{error.argument.name} is missing."
    return str(error)


def _debug(bound: BoundArguments) -> bool:
    return any(isinstance(value, Debug) and value.debug for value in bound.arguments.values())


def _told(message: str, code: int) -> int:
    print(f"sidmill: error: {printable_lines(without_secrets(message))}", file=sys.stderr)
    return code


def _message(error: Exception) -> str:
    """Return the message of an error; that of Delta or of the system as one line."""
    from storage.errors import in_one_line

    if isinstance(error, OSError) and error.filename is not None and error.errno in _PATH_REMEDIES:
        return f"{error.filename}: {os.strerror(error.errno)}; {_PATH_REMEDIES[error.errno]}."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{os.strerror(error.errno)}: the output, or a temporary file in TMPDIR, found no room; make some."
    foreign = isinstance(error, OSError) or type(error).__module__ == "_internal"  # the module of Delta's errors
    return in_one_line(error) if foreign else str(error) or type(error).__name__


def _stops() -> tuple[type[BaseException], ...]:
    """Return the exceptions for Ctrl-C and for Prefect's termination; the latter only if a flow was imported."""
    exceptions = sys.modules.get("prefect.exceptions")
    return (KeyboardInterrupt, exceptions.TerminationSignal) if exceptions else (KeyboardInterrupt,)


def _code(error: Exception) -> int:
    from storage.errors import GateBlocked, QuarantineBudgetExceeded, Unhealthy

    return BLOCKED if isinstance(error, GateBlocked | QuarantineBudgetExceeded | Unhealthy) else FAILED


if __name__ == "__main__":
    main()
