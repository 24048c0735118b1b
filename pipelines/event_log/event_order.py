"""The order of a user's events, the same for every reader of the log: by time, then by arrival.

Logs with a resolution of days or minutes have many equal times. Of these, the event that arrived first comes first,
then the one that is first in its file.
"""

import polars as pl

ARRIVAL_ORDER = ["arrival_time", "source", "source_offset"]
ORDER = ["user_id", "event_time", *ARRIVAL_ORDER, "event_id"]
"""Sort order; the id is last, for rows not read from a file."""


def in_order(events: pl.DataFrame) -> pl.DataFrame:
    """Sort events (with the columns of ORDER) user by user, independent of their stored order."""
    return events.sort(ORDER)
