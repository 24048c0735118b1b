"""The order of a user's events, the same in every reader of the log: by time, and where times are equal as they came.

Logs with days or minutes alone have many equal times. What arrived first comes first, then what stands first in its
file.
"""

import polars as pl

PLACE = ["arrival_time", "source", "source_offset"]
ORDER = ["user_id", "event_time", *PLACE, "event_id"]
"""The id is last, for rows that were not read from a file."""


def in_order(events: pl.DataFrame) -> pl.DataFrame:
    """Events with the columns of ORDER, user by user, whatever order they were stored in."""
    return events.sort(ORDER)
