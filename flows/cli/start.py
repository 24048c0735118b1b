"""Start a run: what `sidmill run` has in common with the verbs of other nouns."""

import json
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from getpass import getuser
from importlib import import_module
from typing import TYPE_CHECKING, Any

from flows.cli.options import Bounds, Common, RecipeOptions, Sources
from flows.runtime.terminal import say

if TYPE_CHECKING:
    from flows.preflight.preflight import PlannedRun
    from flows.preflight.report import Report
    from storage.commit import Provenance
    from storage.lake import Lake


def get_ready(module: str, *, cluster: bool | None = False) -> None:
    """Have a Prefect server and the module of a flow, once all that can be wrong with the options of a run was said.

    The module is imported while a server starts. With `cluster`, first check that the Ray cluster answers, if
    RAY_ADDRESS names one; with None, which is for a run that may not need it, check the address alone.
    """
    from flows.runtime.server import ensure_server
    from pipelines.compute.ray_address import foreign_address, require_address, require_reachable

    if cluster is None:
        require_address(foreign_address())
    say_loading()
    if cluster:
        require_reachable(foreign_address())
    ensure_server(meanwhile=lambda: import_module(module))


def say_loading() -> None:
    """Say that libraries are imported, which takes seconds."""
    print("loading the libraries of a run", file=sys.stderr, flush=True)


def by_hand(verb: str) -> "Provenance":
    """Return the provenance of a command that changes a lake without a run: the command, the user and the host."""
    from storage.commit import Provenance

    return Provenance(f"{verb} by {getuser()}@{socket.gethostname()}", "", by_hand=True)


def production_recipe(lake: "Lake") -> dict[str, Any] | None:
    """Return the recipe of the production release, if there is one."""
    from storage.releases.releases import PRODUCTION, published, read_release

    return read_release(lake, PRODUCTION).recipe if published(lake) else None


def tell(run: "PlannedRun", *, quick: bool = False, as_json: bool = False) -> None:
    """Print what a run would do. Raise PreflightFailed if it would not come to its end."""
    from flows.preflight.preflight import preflight

    print_report(preflight(run, quick=quick), as_json)


def print_report(report: "Report", as_json: bool = False) -> None:
    """Print what was found before a run. Raise PreflightFailed if it would not come to its end."""
    if as_json:
        print(json.dumps(asdict(report), indent=2))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        for line in report.as_text(width):
            say(line)
    report.check()


def start_night(
    parent: str,
    sources: Sources,
    recipe: RecipeOptions,
    bounds: Bounds,
    common: Common,
    *,
    retry: bool,
    dry_run: bool = False,
) -> None:
    """Start a nightly run; with `retry`, it also tries the items again that stages refused."""
    from storage.releases.releases import read_release

    lake = common.existing()
    base = read_release(lake, parent).recipe
    if dry_run:
        from flows.preflight.preflight import PlannedRun

        given, overrides = recipe.resolve(base)
        bounds.check()
        whole = (*sources.absolute(), lake, parent, bounds.as_of, bounds.cutoff, tuple(overrides))
        tell(PlannedRun("nightly", given, *whole))
        return
    items, interactions = sources.absolute()
    parameters = {
        "items": items,
        "interactions": interactions,
        "as_of": bounds.as_of,
        "cutoff": bounds.cutoff,
        "parent": parent,
        "retry_quarantined": retry,
    }
    with failure_recorded("nightly", lake, base, recipe, parameters):
        given, overrides = recipe.resolve(base)
        bounds.check()
        found = sources.found()
    lasting = any(each not in overrides for each in recipe.overrides)
    settings = given if recipe.recipe or lasting else None  # None: the recipe of the release that the night extends
    get_ready("flows.nightly", cluster=None)
    from flows.nightly import nightly as flow

    flow(lake.uri, settings, *found, bounds.as_of, bounds.cutoff, parent, retry, overrides)


@contextmanager
def failure_recorded(
    kind: str, lake: "Lake", base: dict[str, Any], recipe: RecipeOptions, parameters: dict[str, Any]
) -> Iterator[None]:
    """Record a run that cannot begin by what it was given, so that the lake tells of it when nobody saw the message.

    `base` is the recipe of the release that it starts from. The record has the named recipe and all overrides as they
    were given, so that `sidmill run resume` finds the same fault until it is mended.
    """
    from flows.runtime.run import open_run
    from pipelines.sources.row import SourceError
    from storage.errors import LakeError

    try:
        yield
    except (ValueError, OSError, SourceError, LakeError) as error:
        with suppress(type(error)), open_run(kind, lake.uri, base, parameters) as run:
            named = {"recipe": recipe.recipe} if recipe.recipe else {}
            run.record.parameters.update(named, overrides=list(recipe.overrides))
            raise
        raise
