"""Ingest of a stream beside its bare messages and a file of the same lines: `python -m bench stream`.

The broker is librdkafka's mock cluster in this process, so its work is part of each figure but the file's.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import polars as pl
from confluent_kafka import Producer

from bench.speed.ingest import NOW, WHO, made, read_items
from pipelines.ingest.events.ingest import ingest_interactions
from pipelines.registry import source_kind_of
from pipelines.sources.files import find_sources
from pipelines.sources.protocol import Source
from pipelines.sources.source_spec import InteractionsSpec
from pipelines.sources.streams.batch import StreamBatch
from storage.lake import Lake

PARTITIONS = 4
"""Partitions of a topic of the mock cluster, which keeps about 5 MB of each."""


def run(options: argparse.Namespace) -> None:
    """Print events a second of the messages alone, of their ingest, and of the ingest of a file."""
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        catalogue, log = made(folder, options.events, options.items)
        lines = folder / "log.jsonl"
        pl.read_parquet(log).with_columns(pl.col("event_time").dt.to_string("iso:strict")).write_ndjson(lines)
        topic, events = _sent(lines.read_bytes().splitlines())
        if events < options.events:
            print(f"the mock cluster kept {events:,} of {options.events:,} events")
        kept = folder / "kept.jsonl"
        kept.write_bytes(b"\n".join(_values(topic)) + b"\n")
        lakes = iter(Lake(str(folder / f"lake-{number}")) for number in range(1_000))
        for _ in range(options.rounds):
            _timed(rates, "messages alone", events, lambda: sum(1 for _ in _values(topic)))
            for what in ("ingest of the stream", "ingest of a file"):
                lake = next(lakes)
                read_items(lake, catalogue)
                sources = _batches(topic) if what == "ingest of the stream" else find_sources(str(kept))
                _timed(rates, what, events, partial(_ingest, lake, sources))
    file = statistics.median(rates["ingest of a file"])
    for what, found in rates.items():
        rate = statistics.median(found)
        print(f"{what:<22} {rate:>10,.0f} events a second  {rate / file:>5.2f} x the ingest of a file")


def _sent(values: list[bytes]) -> tuple[str, int]:
    """Send messages to a new topic; return its address, and how many it keeps."""
    producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock", "log_level": 0, "linger.ms": 5})
    (broker,) = producer.list_topics(timeout=10).brokers.values()
    for number, value in enumerate(values):
        producer.produce("log", value, partition=number % PARTITIONS)
        if number % 1_000 == 0:
            producer.poll(0)
    producer.flush(60)
    _ALIVE.append(producer)
    topic = f"kafka://{broker.host}:{broker.port}/log"
    return topic, sum(1 for _ in _values(topic))


_ALIVE: list[Producer] = []
"""The mock cluster ends with its producer."""


def _batches(topic: str) -> list[Source]:
    return source_kind_of(topic).find(topic, InteractionsSpec(), []).sources


def _values(topic: str) -> Iterator[bytes]:
    for batch in _batches(topic):
        assert isinstance(batch, StreamBatch)
        with batch.messages() as values:
            yield from (value or b"" for value in values)


def _ingest(lake: Lake, sources: Iterable[Source]) -> None:
    for source in sources:
        ingest_interactions(lake, source, InteractionsSpec(), NOW, WHO)


def _timed(rates: dict[str, list[float]], what: str, events: int, work: Callable[[], object]) -> None:
    start = time.perf_counter()
    work()
    rates.setdefault(what, []).append(events / (time.perf_counter() - start))
