"""Ids of events that have none in the log: a hash of everything that happened."""

import hashlib
from collections import Counter
from functools import cache

import polars as pl

from storage.hashing.content_hash import content_hashes

DAY = 86_400_000_000
"""Microseconds of a day."""


def content_ids(events: pl.DataFrame) -> pl.Series:
    """Return the id of each event: BLAKE2b, 128 bits, of its fields as Python writes them, after each other.

    Events that agree in all fields but the times of arrival are one, however often they are delivered. All versions of
    sidmill give the same ids: by them a log that is delivered again is known.
    """
    return content_hashes(events.select(pl.concat_str(_as_python_writes(events), separator="\0")).to_series())


def _as_python_writes(events: pl.DataFrame) -> list[pl.Expr]:
    flag = pl.when(pl.col("impression")).then(pl.lit("True")).when(~pl.col("impression")).then(pl.lit("False"))
    optional = {name: pl.col(name).cast(pl.String) for name in ("session_id", "request_id", "impression", "position")}
    optional["impression"] = flag
    return [
        pl.col("user_id"),
        pl.col("item_id"),
        pl.col("event_type"),
        pl.lit(_times_as_python_writes(events["event_time"])),
        *(pl.lit("None") if _is_absent(events[name]) else each.fill_null("None") for name, each in optional.items()),
        pl.lit("None") if _is_absent(events["value"]) else pl.lit(_numbers_as_python_writes(events["value"])),
    ]


def _numbers_as_python_writes(numbers: pl.Series) -> pl.Series:
    return pl.Series(map(str, numbers), dtype=pl.String)


def _times_as_python_writes(times: pl.Series) -> pl.Series:
    """Return str(time) of Python for each: the fraction of a second is left out if it is zero."""
    stamps = times.dt.timestamp("us")
    days, in_day = stamps // DAY, stamps % DAY
    some_days = days.unique().sort()
    dates = pl.from_epoch(some_days, "d").dt.strftime("%Y-%m-%d ")
    seconds = dates.gather(some_days.search_sorted(days)) + _times_of_day().gather(in_day // 1_000_000)
    fraction = in_day % 1_000_000
    if not (fraction != 0).any():
        return seconds + "+00:00"
    digits = "." + fraction.cast(pl.String).str.zfill(6)
    return seconds + digits.set(fraction == 0, "") + "+00:00"


@cache
def _times_of_day() -> pl.Series:
    """Return the text of each second of a day."""
    return pl.from_epoch(pl.int_range(86_400, eager=True)).dt.strftime("%H:%M:%S")


def _is_absent(column: pl.Series) -> bool:
    """Return whether all values are absent."""
    return column.null_count() == len(column)


class Copies:
    """Numbering of equal rows of one source, where each is an event of its own."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def ids(self, content: pl.Series) -> pl.Series:
        """Return an id for each content id: the first copy keeps it, further ones get hashes of their own."""
        found = []
        for name in content:
            before, self._seen[name] = self._seen[name], self._seen[name] + 1
            found.append(_copy_id(name, before) if before else name)
        return pl.Series(found, dtype=pl.String)


def _copy_id(name: str, before: int) -> str:
    return hashlib.blake2b(f"{name}\0{before}".encode(), digest_size=16).hexdigest()
