"""The `sidmill` command: nouns, then verbs. Parses and dispatches to `flows.cli.commands` and
`flows.cli.release_commands`.
"""

import argparse
import atexit
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

from flows.runtime.terminal import printable_lines
from infra.addresses import SecretInAddress, check_arguments, check_environment, without_secrets
from infra.settings import configure
from plugins.registry import code_version

# Exit codes; 130 is 128 + SIGINT, as in a shell.
USAGE, BLOCKED, FAILED, INTERRUPTED = 2, 3, 1, 130
Verb = Callable[[argparse.Namespace], None]


def main() -> None:
    """Entry point of the executable."""
    exit_code = FAILED  # if run_command raises, as with --debug

    def leave() -> NoReturn:
        """End the process without shutting down the interpreter.

        Arrow, Delta and polars have threads of their own. A thread that wakes after the interpreter and the statics of
        its library are destroyed aborts the finished process ("terminate called without an active exception").
        """
        with suppress(BrokenPipeError):  # the reader has closed the pipe
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(exit_code)

    atexit.register(leave)  # registered first, so called last: Ray, Prefect and its server are closed by then
    exit_code = run_command(sys.argv[1:])
    sys.exit(exit_code)


def run_command(arguments: Sequence[str]) -> int:
    """Run one command in this process; return its exit code. A failure prints a message, or is raised with --debug."""
    configure()
    try:
        check_arguments(arguments)
        check_environment()
        options, unknown = build_parser().parse_known_args(arguments)
        if unknown:
            options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    except SecretInAddress as error:
        return _told(error, USAGE)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        options.verb(options)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if options.debug:
            raise
        return _told(error, _code(error))
    except BaseException as stop:
        if not isinstance(stop, _stops()):
            raise
        print("sidmill: interrupted; what was committed stays, the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    return 0


def _told(error: Exception, code: int) -> int:
    message = without_secrets(str(error)) or type(error).__name__
    print(f"sidmill: error: {printable_lines(message)}", file=sys.stderr)
    return code


def _stops() -> tuple[type[BaseException], ...]:
    """Return the exceptions for Ctrl-C and for Prefect's termination; the latter only if a flow was imported."""
    exceptions = sys.modules.get("prefect.exceptions")
    return (KeyboardInterrupt, exceptions.TerminationSignal) if exceptions else (KeyboardInterrupt,)


def _code(error: Exception) -> int:
    from storage.errors import GateBlocked, QuarantineBudgetExceeded

    return BLOCKED if isinstance(error, GateBlocked | QuarantineBudgetExceeded) else FAILED


def build_parser() -> argparse.ArgumentParser:
    """Define nouns, verbs and options."""
    from flows.cli import commands, release_commands

    parser = argparse.ArgumentParser(prog="sidmill", description="Semantic IDs, tries and generators from a catalogue.")
    parser.add_argument("--version", action="version", version=f"sidmill {code_version()}")
    nouns = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = _noun(nouns, "run", "start, list and resume runs")
    bootstrap = _recipe(_verb(run, "bootstrap", commands.run_bootstrap, "from a catalogue and logs to a first release"))
    _bounds(_sources(bootstrap))
    ingest = _recipe(_verb(run, "ingest", commands.run_ingest, "read sources into the lake; no release"))
    _as_of(_sources(ingest))
    nightly = _recipe(_verb(run, "nightly", commands.run_nightly, "SIDs for what is new, under the frozen codebook"))
    _bounds(_sources(nightly))
    nightly.add_argument("--parent", default="production", help="release to extend (a candidate makes a candidate)")
    backfill = _recipe(_verb(run, "backfill", commands.run_backfill, "the catalogue under another codebook"))
    _bounds(backfill)
    backfill.add_argument("--publish", action="store_true", help="publish the candidate when its gates hold")
    backfill.add_argument(
        "--without-model", action="store_true", help="publish though production would lose its generator by it"
    )
    train = _recipe(_verb(run, "train", commands.run_train, "train and evaluate a generator on a release"))
    train.add_argument("--release", default="production", help="release or alias to train on")
    train.add_argument("--since", metavar="MODEL", help="go on from this model, on what it has not learnt from")
    evaluate = _recipe(_verb(run, "evaluate", commands.run_evaluate, "evaluate a model on the log as it is now"))
    _reader(evaluate).add_argument("model", nargs="?", help="model id; that of production by default")
    evaluate.add_argument("--release", help="release or alias to evaluate on; that it was trained on by default")
    _reader(_verb(run, "list", commands.run_list, "runs that did something, newest last"))
    _named(_reader(_verb(run, "show", commands.run_show, "one run with its stages")), "run_id", "run id")
    _named(_verb(run, "resume", commands.run_resume, "start a run again with its parameters"), "run_id", "run id")
    _named(_verb(run, "cancel", commands.run_cancel, "stop a run and its work on the cluster"), "run_id", "run id")

    release = _noun(nouns, "release", "list, compare and publish releases")
    _reader(_verb(release, "list", release_commands.release_list, "candidates and releases, oldest first"))
    _named(
        _reader(_verb(release, "show", release_commands.release_show, "one release")), "release", "release id or alias"
    )
    diff = _reader(_verb(release, "diff", release_commands.release_diff, "what changed from one release to another"))
    _named(_named(diff, "before", "release id or alias"), "after", "release id or alias")
    publish = _named(
        _verb(release, "publish", release_commands.release_publish, "point production at it"), "release", "id"
    )
    publish.add_argument(
        "--model", help="publish the pair with this model; by default the newest trained for it, else the current one"
    )
    publish.add_argument(
        "--without-model", action="store_true", help="publish though production would lose its generator by it"
    )
    rollback = _verb(release, "rollback", release_commands.release_rollback, "point production back and hold it there")
    rollback.add_argument(
        "--to",
        metavar="RELEASE",
        help="a release published earlier; by default the one before, never one rolled away from",
    )
    hold = _verb(release, "hold", release_commands.release_hold, "keep runs from moving production, or let them again")
    hold.add_argument("--lift", action="store_true", help="let runs publish again")
    hold.add_argument("--reason", default="", help="shown to whoever asks why production does not move")
    export = _verb(
        release, "export-trie", release_commands.release_export_trie, "trie or code table as a file, for serving"
    )
    _named(_named(export, "release", "release id or alias"), "output", "file to write")
    export.add_argument("--format", choices=("native", "arrow", "codes"), default="native", help="see docs/trie.md")

    grounding = _verb(
        release, "export-grounding", release_commands.release_export_grounding, "pairs of texts to teach SIDs"
    )
    grounding.add_argument("release", nargs="?", default="production", help="release id or alias (production)")
    grounding.add_argument("--output", required=True, metavar="DIR", help="folder to write")

    item = _noun(nouns, "item", "look at one item")
    explain = _named(_reader(_verb(item, "explain", commands.item_explain, "SID, path, lineage")), "item_id", "item id")
    explain.add_argument("--release", default="production")

    quarantine = _noun(nouns, "quarantine", "rows that stages refused")
    listing = _reader(_verb(quarantine, "list", commands.quarantine_list, "open rows with their reasons"))
    listing.add_argument("--reason")
    listing.add_argument("--limit", type=int, default=50, metavar="N", help="rows shown (default 50)")
    _recipe(_verb(quarantine, "retry", commands.quarantine_retry, "a night that tries refused items again"))

    lake = _noun(nouns, "lake", "state of the lake")
    _reader(_verb(lake, "status", commands.lake_status, "tables, aliases, releases, models, quarantine"))
    _reader(_verb(lake, "verify", commands.lake_verify, "check every version and hash that a release pins"))
    _verb(lake, "migrate", commands.lake_migrate, "bring a lake of an older format to this one, in place")

    plugin = _noun(nouns, "plugin", "quantizers, encoders and other members, those of installed packages among them")
    _reader(_alone(plugin, "list", commands.plugin_list, "all members with the package and version they come from"))

    report = _verb(nouns, "report", commands.report, "a release as one self-contained HTML page")
    report.add_argument("--release", default="production")
    report.add_argument("--output", default="report.html", metavar="FILE")

    serve = _recipe(_verb(nouns, "serve", commands.serve, "Prefect server with the scheduled and triggered runs"))
    serve.add_argument("--cron", default="0 3 * * *", help="when nights run, in cron syntax (default: 03:00 every day)")
    serve.add_argument("--port", type=int, default=4200)
    _sources(serve)
    return parser


def _noun(
    nouns: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str
) -> "argparse._SubParsersAction[argparse.ArgumentParser]":
    parser = nouns.add_parser(name, help=text, description=text)
    return parser.add_subparsers(title="verbs", metavar="VERB", required=True)


def _alone(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, verb: Verb, text: str
) -> argparse.ArgumentParser:
    """Add a verb that needs no lake."""
    parser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    parser.set_defaults(verb=verb, parser=parser)
    return parser


def _verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, verb: Verb, text: str
) -> argparse.ArgumentParser:
    parser = _alone(verbs, name, verb, text)
    parser.add_argument("--lake", default="./lake", metavar="URI", help="lake folder or object-store URI (./lake)")
    return parser


def _named(parser: argparse.ArgumentParser, name: str, text: str) -> argparse.ArgumentParser:
    parser.add_argument(name, help=text)
    return parser


def _reader(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _recipe(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--recipe", metavar="FILE", help="TOML file or the name of a recipe that comes with sidmill")
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=c", dest="overrides", help="override a field of the recipe"
    )
    return parser


def _sources(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    what = "JSONL, CSV, TSV or Parquet file, or a folder of them; may be given more than once"
    parser.add_argument("--items", action="append", default=[], metavar="PATH", help=f"catalogue: {what}")
    parser.add_argument("--interactions", action="append", default=[], metavar="PATH", help=f"logs: {what}")
    return parser


def _as_of(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--as-of", metavar="TIME", help="see and stamp arrivals up to this time (default: now)")
    return parser


def _bounds(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    _as_of(parser)
    parser.add_argument("--cutoff", metavar="TIME", help="hold out events at or after this time (default: recipe)")
    return parser


if __name__ == "__main__":
    main()
