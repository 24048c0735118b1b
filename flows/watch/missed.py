"""Nights that a schedule asked for and that did not begin: nobody served, or the process or the machine was gone."""

import asyncio
from datetime import datetime

from flows.watch.health import NIGHT
from flows.watch.news import REPEAT
from storage.lake import Lake
from storage.releases.pointers import pointer_history
from storage.releases.releases import PRODUCTION
from storage.runs.beats import beats


def missed_night(lake: Lake, cron: str, timezone: str, now: datetime) -> datetime | None:
    """Return the first time of the schedule since the last night began, if REPEAT has passed since then.

    However many times were missed, one night makes up for all. Before the first night, times count from the newest
    publication.
    """
    from prefect.server.schemas.schedules import CronSchedule

    night = beats(lake).get(NIGHT)
    since = night.began if night is not None else pointer_history(lake, PRODUCTION)[-1].at
    if since is None or since >= now - REPEAT:
        return None
    dates = asyncio.run(CronSchedule(cron=cron, timezone=timezone).get_dates(1, since, now - REPEAT))
    return datetime.fromtimestamp(dates[0].timestamp(), tz=now.tzinfo) if dates else None
