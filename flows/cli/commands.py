"""Verbs of the command. Flows are imported only when needed, so verbs that only read a lake start quickly."""

import argparse
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from flows.cli import show
from flows.runtime.server import ensure_server
from flows.runtime.terminal import say
from flows.runtime.times import bounds
from infra.addresses import SETTINGS, refuse_parameters
from pipelines.ray_address import foreign_address, require_reachable
from storage.errors import LakeError, LakeNotFound
from storage.lake import Lake

Options = argparse.Namespace


class VerificationFailed(LakeError):
    """Raised if a check of the lake finds a fault."""


def run_bootstrap(options: Options) -> None:
    recipe, overrides = _recipe(options)
    sources = _checked_sources(options)
    if not sources[0] and not _lake(options).exists("items"):
        raise LakeNotFound(f"{_lake(options).uri} has no items yet: give a catalogue with --items FILE.")
    _starting()
    from flows.bootstrap import bootstrap

    require_reachable(foreign_address())
    ensure_server()
    bootstrap(_lake(options).uri, recipe, *sources, options.as_of, options.cutoff, overrides)


def run_ingest(options: Options) -> None:
    recipe, overrides = _recipe(options, _production_recipe(options))
    sources = _checked_sources(options)
    _starting()
    from flows.ingest import ingest

    ensure_server()
    ingest(_lake(options).uri, recipe, *sources, options.as_of, overrides)


def run_nightly(options: Options) -> None:
    _night(options, options.parent, retry=False)


def quarantine_retry(options: Options) -> None:
    options.items, options.interactions, options.as_of, options.cutoff = [], [], None, None
    _night(options, "production", retry=True)


def _night(options: Options, parent: str, retry: bool) -> None:
    from storage.releases.releases import read_release

    lake = existing(options)
    given, overrides = _recipe(options, read_release(lake, parent).recipe)
    lasting = any(each not in overrides for each in options.overrides)
    recipe = given if options.recipe or lasting else None  # None: the recipe of the release that the night extends
    sources = _checked_sources(options)
    _starting()
    from flows.nightly import nightly

    ensure_server()
    nightly(lake.uri, recipe, *sources, options.as_of, options.cutoff, parent, retry, overrides)


def run_backfill(options: Options) -> None:
    from storage.releases.releases import PRODUCTION, read_release

    lake = existing(options)
    recipe, overrides = _recipe(options, read_release(lake, PRODUCTION).recipe)
    bounds(options.as_of, options.cutoff)
    _starting()
    from flows.backfill import backfill

    require_reachable(foreign_address())
    ensure_server()
    backfill(lake.uri, recipe, options.as_of, options.cutoff, options.publish, options.without_model, overrides)


def run_train(options: Options) -> None:
    from storage.releases.releases import read_release

    lake = existing(options)
    recipe = _whole_recipe(options, read_release(lake, options.release).recipe)
    _starting()
    from flows.train import train

    require_reachable(foreign_address())
    ensure_server()
    train(lake.uri, recipe, options.release, options.since)


def run_evaluate(options: Options) -> None:
    from storage.releases.models import evaluations, read_model
    from storage.releases.releases import published, read_release

    lake = existing(options)
    current = published(lake)
    model = options.model or (current.model if current else None)
    if model is None:
        raise LakeNotFound(
            "production has no model; train one with `sidmill run train`, or name one: `sidmill run evaluate MODEL`."
        )
    release = options.release or read_model(lake, model).release
    recipe = _whole_recipe(options, read_release(lake, release).recipe)
    _starting()
    from flows.train import evaluate

    with redirect_stdout(sys.stderr) if options.json else nullcontext():
        ensure_server()
        key = evaluate(lake.uri, model, recipe, release)["evaluation"]
    show.evaluation(evaluations(lake, key)[0] if key else None, options.json)


def run_list(options: Options) -> None:
    from storage.runs import runs

    show.runs(runs(existing(options)), options.json)


def run_show(options: Options) -> None:
    from storage.runs import read_run

    show.run(read_run(existing(options), options.run_id), options.json)


def run_resume(options: Options) -> None:
    """Start the run again with its recorded parameters; work that it committed is found and skipped."""
    from storage.runs import read_run

    lake = existing(options)
    found = read_run(lake, options.run_id)
    if found.state == "running":
        raise LakeError(f"{found.run} is running; `sidmill run cancel {found.run}` stops it.")
    _starting()
    ensure_server()
    _flow(found.kind)(lake=lake.uri, **found.parameters)


def _flow(kind: str) -> Callable[..., Any]:
    from importlib import import_module

    module = {"evaluate": "train"}.get(kind, kind)
    flow: Callable[..., Any] = getattr(import_module(f"flows.{module}"), kind)
    return flow


def run_cancel(options: Options) -> None:
    """Interrupt the run's process on this machine; ask Prefect to cancel a run on another machine."""
    from storage.runs import read_run

    found = read_run(existing(options), options.run_id)
    if found.state != "running":
        raise LakeError(f"{found.run} is {found.state}; there is nothing to cancel.")
    if found.host == socket.gethostname():
        os.kill(found.pid, signal.SIGINT)
        print(f"{found.run}: interrupted (process {found.pid})")
        return
    from flows.runtime.cancellation import request_cancellation

    request_cancellation(found.flow_run)
    print(f"{found.run}: Prefect was asked to cancel its flow run {found.flow_run}")


def item_explain(options: Options) -> None:
    from flows.inspect.explain import explain_item
    from storage.releases.releases import read_release

    lake = existing(options)
    show.explanation(explain_item(lake, read_release(lake, options.release), options.item_id), options.json)


def quarantine_list(options: Options) -> None:
    from flows.inspect.status import refused_rows

    show.quarantine(refused_rows(existing(options), options.reason), options.limit, options.json)


def lake_status(options: Options) -> None:
    from flows.inspect.status import lake_status as status

    show.status(status(existing(options)), options.json)


def lake_verify(options: Options) -> None:
    from flows.inspect.verify import verify

    findings = list(verify(existing(options)))
    wrong = [finding for finding in findings if finding.fault is not None]
    if options.json:
        print(json.dumps([{"subject": e.subject, "what": e.what, "wrong": e.fault or ""} for e in findings]))
    else:
        for each in wrong:
            say(f"  WRONG {each.subject} {each.what}: {each.fault}")
        print(f"{len(findings)} checks of versions and hashes, {len(wrong)} wrong")
    if wrong:
        subjects = ", ".join(sorted({finding.subject for finding in wrong}))
        raise VerificationFailed(f"{subjects} cannot be trusted; roll back to a release that verifies, or restore.")


def lake_migrate(options: Options) -> None:
    from storage.commit import Provenance
    from storage.migrate import migrate

    for line in migrate(_lake(options), Provenance("lake migrate", "")):
        print(f"  {line}")


def plugin_list(options: Options) -> None:
    from flows.inspect.plugins import members

    show.plugins(members(), options.json)


def report(options: Options) -> None:
    from flows.report.page import write_report
    from storage.releases.releases import read_release

    lake = existing(options)
    if not Path(options.output).parent.is_dir():
        raise FileNotFoundError(f"--output {options.output}: there is no folder {Path(options.output).parent}.")
    size = write_report(lake, read_release(lake, options.release), Path(options.output))
    print(f"{options.output}: {size:,} bytes, self-contained")


def serve(options: Options) -> None:
    lake = existing(options)
    given = options.recipe or options.overrides
    recipe, overrides = _recipe(options, _production_recipe(options)) if given else (None, [])
    _starting()
    from flows.serve import serve as start

    start(lake.uri, recipe, *_sources(options), options.cron, options.port, overrides)


def _starting() -> None:
    """Announce the import of libraries, which takes seconds."""
    print("loading the libraries of a run", file=sys.stderr, flush=True)


def _lake(options: Options) -> Lake:
    return Lake(options.lake)


def existing(options: Options) -> Lake:
    """Return the lake in the options; raise LakeNotFound if it does not exist."""
    lake = _lake(options)
    if not any(lake.exists(table) for table in ("items", "releases", "runs")):
        raise LakeNotFound(
            f"there is no lake at {lake.uri}; name it with --lake, or make one with "
            "`sidmill run bootstrap --items FILE --interactions FILE`."
        )
    return lake


def _production_recipe(options: Options) -> dict[str, Any] | None:
    """Return the recipe of the production release, if there is one."""
    from storage.releases.releases import PRODUCTION, published, read_release

    lake = _lake(options)
    return read_release(lake, PRODUCTION).recipe if published(lake) else None


def _recipe(options: Options, base: dict[str, Any] | None = None) -> tuple[dict[str, Any], list[str]]:
    """Return the named recipe, else `base`, else the default one, and the overrides that apply to this run only."""
    from flows.recipe import load_recipe, split_overrides

    lasting, ours = split_overrides(options.overrides)
    recipe = load_recipe(options.recipe, lasting, base).model_dump(mode="json")
    load_recipe(None, ours, recipe)
    return recipe, ours


def _whole_recipe(options: Options, base: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe with all overrides, for runs that do not store it in a release."""
    from flows.recipe import load_recipe

    return load_recipe(options.recipe, options.overrides, base).model_dump(mode="json")


def _checked_sources(options: Options) -> tuple[list[str], list[str]]:
    """Return the sources, after a check of them and of the run's times, before a server is started."""
    from pipelines.sources.files import find_files

    bounds(options.as_of, getattr(options, "cutoff", None))
    sources = _sources(options)
    for uri in (*sources[0], *sources[1]):
        find_files(uri)
    return sources


def _sources(options: Options) -> tuple[list[str], list[str]]:
    for name, paths in (("--items", options.items), ("--interactions", options.interactions)):
        for path in paths:
            refuse_parameters(path, name, SETTINGS)
    return tuple(
        [path if "://" in path else str(Path(path).resolve()) for path in paths]
        for paths in (options.items, options.interactions)
    )  # type: ignore[return-value]
