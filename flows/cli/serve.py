"""`sidmill serve`: a server with scheduled runs."""

from typing import Annotated

from cyclopts import Parameter

from flows.cli.options import Common, RecipeOptions, Sources
from flows.cli.start import production_recipe, say_loading


def serve(
    *,
    cron: Annotated[str, Parameter(metavar="CRON")] = "0 3 * * *",
    port: Annotated[int, Parameter(metavar="PORT")] = 4200,
    sources: Sources = Sources(),
    recipe: RecipeOptions = RecipeOptions(),
    common: Common = Common(),
) -> None:
    """Serve nightly runs on a schedule, and training on each published release.

    Starts a Prefect server, or uses that of PREFECT_API_URL, and runs until
    Ctrl-C. Each night reads what is new in the sources.

    $ sidmill serve --items incoming/items --interactions incoming/logs
    $ sidmill serve --cron "30 1 * * *" --lake s3://bucket/lake

    Args:
        cron: Times of the nights, in cron syntax. The default is 03:00 every day.
        port: Port of a server that is started here.
    """
    lake = common.existing()
    given = recipe.recipe or recipe.overrides
    settings, overrides = recipe.resolve(production_recipe(lake)) if given else (None, [])
    say_loading()
    from flows.serve import serve as start

    start(lake.uri, settings, *sources.absolute(), cron, port, overrides)
