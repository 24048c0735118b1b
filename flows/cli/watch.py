"""`sidmill lake check`, `metrics` and `audit`: the lake as a watcher sees it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from flows.cli.lake import app
from flows.cli.options import AsJson, Common, RecipeOptions
from flows.cli.start import production_recipe
from flows.runtime.terminal import say
from storage.errors import Unhealthy

if TYPE_CHECKING:
    from flows.watch.spec import WatchSpec
    from storage.lake import Lake


@app.command
def check(
    *,
    alert: bool = False,
    as_json: AsJson = False,
    recipe: RecipeOptions = RecipeOptions(),
    common: Common = Common(),
) -> None:
    """Print the problems of a lake; exit with 3 if there are any.

    Problems are: production, its model or a source is too old, no night
    finished, the newest run of a kind failed, or a stream lags. The limits are
    those of [watch] in the recipe of production.

    $ sidmill lake check
    $ sidmill lake check --set watch.night_hours=2 --alert

    Args:
        alert: Notify the hooks of [watch] once of each problem, and once when it is over.
    """
    from flows.watch.alerts import send_alerts
    from flows.watch.health import problems

    lake = common.existing()
    watch = _watch(lake, recipe)
    found = problems(lake, watch)
    if as_json:
        print(json.dumps([{"problem": each.name, "message": each.message} for each in found]))
    else:
        for each in found:
            say(f"  {each.name}: {each.message}")
        print("1 problem" if len(found) == 1 else f"{len(found)} problems")
    for fault in send_alerts(lake, watch, found) if alert else []:
        say(f"warning: {fault}")
    if found:
        raise Unhealthy(f"{lake.uri}: {', '.join(each.name for each in found)}. See `sidmill lake status`.")


@app.command
def metrics(
    *,
    output: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    recipe: RecipeOptions = RecipeOptions(),
    common: Common = Common(),
) -> None:
    """Print metrics of the lake in the text format of Prometheus.

    $ sidmill lake metrics --output /var/lib/node_exporter/sidmill.prom

    Args:
        output: File to replace, in one step. Default: print.
    """
    from flows.watch.metrics import metrics_text, write_metrics

    lake = common.existing()
    text = metrics_text(lake, _watch(lake, recipe))
    if output is None:
        print(text.decode(), end="")
    else:
        write_metrics(output, text)


@app.command
def audit(*, as_json: AsJson = False, common: Common = Common()) -> None:
    """Show who published, rolled back, held, pinned and retired what, oldest first.

    Runs are named by their id, people by command, user and host.

    $ sidmill lake audit
    """
    from flows.inspect.audit import audit as read_audit

    moves = read_audit(common.existing())
    if as_json:
        print(json.dumps([move.as_record() for move in moves]))
    else:
        for move in moves:
            say(str(move))


def _watch(lake: "Lake", recipe: RecipeOptions) -> "WatchSpec":
    from flows.recipe import load_recipe

    return load_recipe(recipe.recipe, recipe.overrides, production_recipe(lake)).watch
