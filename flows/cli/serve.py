"""`sidmill serve`: a server with scheduled runs."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Literal
from zoneinfo import available_timezones

from cyclopts import Parameter

from flows.cli.options import Common, RecipeOptions, Sources
from flows.cli.start import production_recipe, say_loading


def serve(
    *,
    cron: Annotated[str, Parameter(metavar="CRON")] = "0 3 * * *",
    timezone: Annotated[str, Parameter(metavar="ZONE")] = "UTC",
    every: Annotated[float, Parameter(metavar="SECONDS")] = 60.0,
    metrics_port: Annotated[int, Parameter(metavar="PORT")] = 0,
    port: Annotated[int, Parameter(metavar="PORT")] = 4200,
    name: Annotated[str, Parameter(metavar="NAME")] = "",
    gc: Annotated[str, Parameter(metavar="CRON")] = "",
    evaluate: Annotated[str, Parameter(metavar="CRON")] = "",
    catch_up: Literal["one", "none"] = "one",
    refit: bool = False,
    sources: Sources = Sources(),
    recipe: RecipeOptions = RecipeOptions(),
    common: Common = Common(),
) -> None:
    """Serve nightly runs on a schedule and for news, and training on each release.

    Starts a Prefect server, or uses that of PREFECT_API_URL, and runs until
    Ctrl-C. Each night reads what is new in the sources. A night also runs when
    the sources have news: a new version of a table, new files, messages of a
    stream. What came while nothing was served is read after the start.

    $ sidmill serve --items incoming/items --interactions incoming/logs
    $ sidmill serve --cron "30 1 * * *" --timezone Europe/Berlin --every 0
    $ sidmill serve --interactions kafka://broker:9092/clicks --every 300

    Args:
        cron: Times of the nights, in cron syntax. The default is 03:00 every day.
        timezone: Time zone of these times.
        every: Seconds between two looks at the sources and the lake; 0 never looks, so that nights run on schedule
            alone, no alert is sent, and catch_up and refit do nothing.
        metrics_port: Port of 127.0.0.1 with metrics for Prometheus; 0 for none.
        port: Port of a server that is started here.
        name: Name of the deployments, for a server that has deployments of the default names (nightly, backfill, ...).
        gc: Times of `lake gc` with its defaults, in cron syntax. Default: never.
        evaluate: Times of an evaluation of production's model on the log as it is then. Default: never.
        catch_up: Nights of the schedule that did not begin are made up for by `one` night, or by `none`.
        refit: Start a backfill, which makes a candidate, once the gates capacity_used, drifted_items or
            new_items_distance of production fail, or items find no free SID.
    """
    if timezone not in available_timezones():
        raise ValueError(f"there is no time zone {timezone!r}: give one such as UTC or Europe/Berlin.")
    if every < 0:
        raise ValueError(f"--every {every:g}: give the seconds between two looks, or 0 to look never.")
    for option, number in (("--port", port), ("--metrics-port", metrics_port or port)):
        if not 0 < number < 1 << 16:
            raise ValueError(f"{option} {number}: give a port from 1 to 65535.")
    lake = common.existing()
    given = recipe.recipe or recipe.overrides
    settings, overrides = recipe.resolve(production_recipe(lake)) if given else (None, [])
    say_loading()
    for option, times in (("--cron", cron), ("--gc", gc), ("--evaluate", evaluate)):
        if times:
            _check_cron(option, times)
    from flows.serve import Served
    from flows.serve import serve as start

    served = Served(
        lake.uri,
        settings,
        *sources.absolute(),
        cron,
        timezone,
        overrides,
        every,
        metrics_port,
        name,
        gc,
        evaluate,
        catch_up == "one",
        refit,
    )
    start(served, port)


def _check_cron(option: str, times: str) -> None:
    """Raise ValueError unless a text is in cron syntax, and such a time comes."""
    from prefect.server.schemas.schedules import CronSchedule

    try:
        schedule = CronSchedule(cron=times)
    except ValueError as error:
        raise ValueError(
            f"{option} {times!r} is not in cron syntax: give five fields (minute, hour, day, month, weekday), such as "
            '"0 3 * * *" for 03:00 every day.'
        ) from error
    try:
        asyncio.run(schedule.get_dates(1, datetime.now(UTC)))
    except ValueError as error:
        raise ValueError(f"{option} {times!r}: no day of any year is such a day. Give other times.") from error
