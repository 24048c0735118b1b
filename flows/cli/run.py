"""`sidmill run`: start runs of every kind.

`flows.cli.recorded_runs` has the commands that show, resume and cancel runs.
Flows, and what they import, are loaded only when a run starts, so errors in the arguments are reported first.
"""

import sys
from contextlib import nullcontext, redirect_stdout
from typing import Annotated

from cyclopts import App, Group, Parameter

from flows.cli import recorded_runs
from flows.cli.options import (
    OPTIONS,
    Arrival,
    AsJson,
    Bounds,
    Common,
    DryRun,
    FitBounds,
    OptionalModel,
    OptionalRelease,
    RecipeOptions,
    ReleaseName,
    Sources,
)
from flows.cli.start import failure_recorded, get_ready, print_report, production_recipe, start_night, tell

app = App(name="run", help="Start, list, resume and cancel runs.", group_parameters=OPTIONS)
STARTS = Group("Start a run", sort_key=1)
RECORDED = Group("Runs on record", sort_key=2)


@app.command(group=STARTS, sort_key=1)
def bootstrap(
    *,
    sources: Sources = Sources(),
    recipe: RecipeOptions = RecipeOptions(),
    bounds: Bounds = Bounds(),
    dry_run: DryRun = False,
    common: Common = Common(),
) -> None:
    """Make a lake and its first release from a catalogue and logs.

    Reads the sources, embeds the items, fits a codebook, gives every item a
    SID, and publishes the release if its gates pass.

    $ sidmill run bootstrap --recipe demo --items items.jsonl --interactions log.csv
    $ sidmill run bootstrap --recipe shop.toml --items catalogue/ --lake s3://bucket/lake
    """
    from storage.errors import LakeNotFound

    settings, overrides = recipe.resolve()
    bounds.check()
    lake = common.open()
    if not sources.items and not lake.exists("items"):
        raise LakeNotFound(f"{lake.uri} has no items yet: give a catalogue with --items FILE.")
    if dry_run:
        from flows.preflight.preflight import PlannedRun

        plan_arguments = (*sources.absolute(), lake, None, bounds.as_of, bounds.cutoff, tuple(overrides))
        tell(PlannedRun("bootstrap", settings, *plan_arguments))
        return
    found = sources.found()
    get_ready("flows.bootstrap", cluster=True)
    from flows.bootstrap import bootstrap as flow

    flow(lake.uri, settings, *found, bounds.as_of, bounds.cutoff, overrides)


@app.command(group=STARTS, sort_key=2)
def ingest(
    *,
    sources: Sources = Sources(),
    recipe: RecipeOptions = RecipeOptions(),
    arrival: Arrival = Arrival(),
    dry_run: DryRun = False,
    common: Common = Common(),
) -> None:
    """Read sources into the lake without making a release.

    The next night gives SIDs to what was read. Without --recipe, the recipe of
    production applies, or the default one if nothing is published.

    $ sidmill run ingest --items new.jsonl --interactions yesterday.csv
    """
    settings, overrides = recipe.resolve(production_recipe(common.open()))
    arrival.check()
    if dry_run:
        from flows.preflight.preflight import PlannedRun

        plan_arguments = (*sources.absolute(), common.open(), None, arrival.as_of, None, tuple(overrides))
        tell(PlannedRun("ingest", settings, *plan_arguments))
        return
    found = sources.found()
    get_ready("flows.ingest", cluster=None)
    from flows.ingest import ingest as flow

    flow(common.open().uri, settings, *found, arrival.as_of, overrides)


@app.command(group=STARTS, sort_key=3)
def nightly(
    *,
    parent: ReleaseName = "production",
    sources: Sources = Sources(),
    recipe: RecipeOptions = RecipeOptions(),
    bounds: Bounds = Bounds(),
    dry_run: DryRun = False,
    common: Common = Common(),
) -> None:
    """Give SIDs to new items under the codebook of production, and publish.

    Published SIDs stay as they are. Without --recipe, the recipe of the parent
    release applies.

    $ sidmill run nightly --items new.jsonl --interactions yesterday.csv
    $ sidmill run nightly --items incoming/items --interactions incoming/logs

    Args:
        parent: Release to extend. If it is not production, the result is a candidate and is not published.
    """
    start_night(parent, sources, recipe, bounds, common, retry=False, dry_run=dry_run)


@app.command(group=STARTS, sort_key=4)
def backfill(
    *,
    publish: bool = False,
    without_model: bool = False,
    recipe: RecipeOptions = RecipeOptions(),
    bounds: FitBounds = FitBounds(),
    dry_run: DryRun = False,
    common: Common = Common(),
) -> None:
    """Give the whole catalogue new SIDs under another codebook.

    Production stays as it is: the result is a candidate, which
    `sidmill release publish` publishes.

    $ sidmill run backfill --set 'codebook.levels=[{codes=64},{codes=64}]'
    $ sidmill run backfill --set refit.budget=0.05

    Args:
        publish: Publish the candidate if its gates pass.
        without_model: With --publish: publish also if production loses its generator, which knows the old SIDs only.
    """
    from storage.releases.releases import PRODUCTION, read_release

    lake = common.existing()
    base = read_release(lake, PRODUCTION).recipe
    if dry_run:
        from flows.preflight.backfill import PlannedBackfill, preflight_backfill

        settings, overrides = recipe.resolve(base)
        whole = (lake, settings, bounds.as_of, bounds.cutoff, tuple(overrides), publish, without_model)
        print_report(preflight_backfill(PlannedBackfill(*whole)))
        return
    parameters = {
        "as_of": bounds.as_of,
        "cutoff": bounds.cutoff,
        "publish_when_done": publish,
        "without_model": without_model,
    }
    with failure_recorded("backfill", lake, base, recipe, parameters):
        settings, overrides = recipe.resolve(base)
        bounds.check()
    get_ready("flows.backfill", cluster=True)
    from flows.backfill import backfill as flow

    flow(lake.uri, settings, bounds.as_of, bounds.cutoff, publish, without_model, overrides)


@app.command(group=STARTS, sort_key=5)
def train(
    *,
    release: ReleaseName = "production",
    since: OptionalModel = None,
    recipe: RecipeOptions = RecipeOptions(),
    common: Common = Common(),
) -> None:
    """Train a generator on a release, evaluate it, and publish it with the release.

    A training that was stopped goes on from its newest checkpoint.

    $ sidmill run train
    $ sidmill run train --release r-000003 --set train.epochs=20

    Args:
        release: Release id or alias to train on.
        since: Start with the weights of this model, and train on the events it has not seen.
    """
    from storage.releases.releases import read_release

    lake = common.existing()
    base = read_release(lake, release).recipe
    with failure_recorded("train", lake, base, recipe, {"release": release, "since": since}):
        settings = recipe.resolve_whole(base)
    get_ready("flows.train", cluster=True)
    from flows.train import train as flow

    flow(lake.uri, settings, release, since)


@app.command(group=STARTS, sort_key=6)
def evaluate(
    model: Annotated[str | None, Parameter(metavar="MODEL", show_default="the model of production")] = None,
    /,
    *,
    release: OptionalRelease = None,
    recipe: RecipeOptions = RecipeOptions(),
    as_json: AsJson = False,
    common: Common = Common(),
) -> None:
    """Evaluate a model on the log as it is now.

    $ sidmill run evaluate
    $ sidmill run evaluate m-000001 --release r-000002

    Args:
        model: Model id.
        release: Release id or alias to evaluate on. Default: the release that the model was trained on.
    """
    from flows.cli import show
    from storage.releases.models import evaluations, production_model, read_model
    from storage.releases.releases import read_release

    lake = common.existing()
    model = model or production_model(lake)
    release = release or read_model(lake, model).release
    settings = recipe.resolve_whole(read_release(lake, release).recipe)
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        get_ready("flows.train")
        from flows.train import evaluate as flow

        key = flow(lake.uri, model, settings, release)["evaluation"]
    show.evaluation(evaluations(lake, key)[0] if key else None, as_json)


app.command(recorded_runs.list_runs, name="list", group=RECORDED, sort_key=1)
app.command(recorded_runs.show_run, name="show", group=RECORDED, sort_key=2)
app.command(recorded_runs.resume, group=RECORDED, sort_key=3)
app.command(recorded_runs.cancel, group=RECORDED, sort_key=4)
