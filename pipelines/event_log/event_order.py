"""The order of a user's events, the same for every reader of the log: by time, then by arrival.

Logs with a resolution of days or minutes have many equal times. Of these, the event that arrived first comes first,
then the one that is first in its file.
"""

from collections.abc import Callable

import polars as pl

ARRIVAL_ORDER = ["arrival_time", "source", "source_offset"]
WITHOUT_ID = ["user_id", "event_time", *ARRIVAL_ORDER]
ORDER = [*WITHOUT_ID, "event_id"]
"""Sort order; the id is last, for rows not read from a file."""


def in_order(events: pl.DataFrame) -> pl.DataFrame:
    """Sort events (with the columns of ORDER) user by user, independent of their stored order."""
    return events.sort(ORDER)


def read_in_order(read: Callable[[list[str]], pl.DataFrame]) -> pl.DataFrame:
    """Return events in order, as `read` gives them with some columns for it.

    Ids take most of the space of a log. They are read only where the other columns leave two events equal.
    """
    events = read(WITHOUT_ID).sort(WITHOUT_ID)
    return in_order(read(ORDER)) if events.select(WITHOUT_ID).is_duplicated().any() else events
