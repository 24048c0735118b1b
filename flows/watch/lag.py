"""Lag of the lake behind the streams that it has read: messages that are there and were not read."""

import re
from dataclasses import dataclass
from datetime import datetime

from pipelines.ingest.accounting import records
from pipelines.registry import source_kind_of
from pipelines.sources.row import SourceError
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec
from pipelines.sources.streams.batch import StreamBatch
from storage.lake import Lake

_BATCH = re.compile(r"(?P<stream>(?:kafka|rediss?)://.*?)(?:\[\d+\])?@\S+\.\.\S+")


@dataclass(frozen=True)
class Lag:
    """Messages of a stream that are not read yet; `fault` says why that is not known.

    `read` is the number of messages that were read so far, `last_read` when the last of them were. A reader takes only
    what it asks for, so a stream that brings more than is read backs up at its server: `messages` rises.
    """

    address: str
    messages: int
    read: int
    last_read: datetime
    fault: str = ""


def lags(lake: Lake) -> list[Lag]:
    """Return the lag of each stream that was ever read, by asking its server."""
    streams = dict[tuple[str, str], tuple[int, datetime]]()
    for kind, uri, rows, at in lake.frame("sources", columns=["kind", "uri", "rows_in", "at"]).iter_rows():
        if found := _BATCH.fullmatch(uri):
            read, last = streams.get((found["stream"], kind), (0, at))
            streams[found["stream"], kind] = read + rows, max(last, at)
    return [_lag(lake, address, kind, *read) for (address, kind), read in sorted(streams.items())]


def _lag(lake: Lake, address: str, kind: str, read: int, last: datetime) -> Lag:
    spec = ItemsSpec() if kind == "items" else InteractionsSpec()
    try:
        found = source_kind_of(address).find(address, spec, records(lake, kind, spec))
    except SourceError as error:
        return Lag(address, 0, read, last, str(error))
    return Lag(address, sum(each.count for each in found.sources if isinstance(each, StreamBatch)), read, last)
