"""Lag of the lake behind the streams that it has read: messages that are there and were not read."""

import re
from dataclasses import dataclass

from pipelines.ingest.accounting import records
from pipelines.registry import source_kind_of
from pipelines.sources.row import SourceError
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec
from pipelines.sources.streams.batch import Batch
from storage.lake import Lake

_BATCH = re.compile(r"(?P<stream>(?:kafka|rediss?)://.*?)(?:\[\d+\])?@\S+\.\.\S+")


@dataclass(frozen=True)
class Lag:
    """Messages of a stream that are not read yet; `fault` says why that is not known."""

    address: str
    messages: int
    fault: str = ""


def lags(lake: Lake) -> list[Lag]:
    """Return the lag of each stream that was ever read, by asking its server."""
    read = lake.frame("sources", columns=["kind", "uri"]).unique().sort("uri", "kind")
    streams = {(found["stream"], kind) for kind, uri in read.iter_rows() if (found := _BATCH.fullmatch(uri))}
    return [_lag(lake, address, kind) for address, kind in sorted(streams)]


def _lag(lake: Lake, address: str, kind: str) -> Lag:
    spec = ItemsSpec() if kind == "items" else InteractionsSpec()
    try:
        found = source_kind_of(address).find(address, spec, records(lake, kind, spec))
    except SourceError as error:
        return Lag(address, 0, str(error))
    return Lag(address, sum(each.count for each in found.sources if isinstance(each, Batch)))
