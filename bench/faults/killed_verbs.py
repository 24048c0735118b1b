"""Verbs of `sidmill` on a small made shop, each with the lake that it starts from: what `bench faults` kills."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from confluent_kafka import Producer

from bench.runs.made_shop import DAYS, Shop, delivery_in

ITEMS, NEW, EVENTS, NEW_EVENTS = 200, 20, 1_500, 100
NIGHTS = 4
CUTOFF = "2026-06-28"
ERASED = ("u000000001", "B000000000")
"""A user of the first log, and an item with a SID that each night changes."""
RECIPE = """\
[vectors.given]
path = "{vectors}"

[collaborative]
method = "sppmi"
dim = 8

[fusion]
method = "concat"
dim = 16

[codebook]
levels = [{{ codes = 16 }}, {{ codes = 16 }}, {{ codes = 16 }}]
growth = 4.0

[budget]
quarantine_share = 0.5

[gates]
outlying_items = {{ limit = 1.0, severity = "warn" }}
model_against_baselines = {{ severity = "warn" }}

[generator]
dim = 16
layers = 1
heads = 2
kv_heads = 1
ff = 32
prefix_buckets = 64
max_events = 8

[train]
workers = 1
epochs = 2
batch_size = 32
align_epochs = 0
checkpoint_steps = 5

[sequences]
buckets = 2
"""


@dataclass(frozen=True)
class Verb:
    """A command that is killed, and the commands before it, which make the lake that it starts from.

    `erased` has the ids that no file of the lake may hold after it.
    """

    name: str
    before: tuple[tuple[str, ...], ...]
    command: tuple[str, ...]
    erased: tuple[str, ...] = ()


def verbs(folder: Path, topic: str, lake: str) -> dict[str, Verb]:
    """Return the verbs by name; they read what `write` wrote to a folder, and a topic."""
    deliveries = [delivery_in(folder / f"night-{night}") for night in range(NIGHTS)]
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(vectors=deliveries[0].vectors))

    def sources(night: int) -> tuple[str, ...]:
        given = deliveries[night]
        return ("--items", str(given.items), "--interactions", str(given.log))

    def night(number: int) -> tuple[str, ...]:
        vectors = f'vectors.given.path="{deliveries[number].vectors}"'
        day = f"2026-07-{10 + number}"
        return ("run", "nightly", *sources(number), "--set", vectors, "--as-of", day, "--lake", lake)

    bounds = ("--cutoff", CUTOFF, "--as-of", "2026-07-10")
    bootstrap = ("run", "bootstrap", "--recipe", str(recipe), *sources(0), *bounds, "--lake", lake)
    wider = "codebook.levels=[{codes=32},{codes=32}]"
    backfill = ("run", "backfill", "--set", wider, "--publish", "--lake", lake)
    stream = ("run", "nightly", "--interactions", topic, "--as-of", "2026-07-12", "--lake", lake)
    gc = ("lake", "gc", "--keep", "1", "--grace", "0s", "--yes", "--lake", lake)
    erase = ("lake", "erase", "--user", ERASED[0], "--item", ERASED[1], "--yes", "--lake", lake)
    found = (
        Verb("bootstrap", (), bootstrap),
        Verb("night", (bootstrap,), night(1)),
        Verb("backfill", (bootstrap, night(1)), backfill),
        Verb("train", (bootstrap,), ("run", "train", "--lake", lake)),
        Verb("gc", (bootstrap, night(1), night(2), night(3)), gc),
        Verb("stream", (bootstrap,), stream),
        Verb("erase", (bootstrap, night(1)), erase, ERASED),
    )
    return {each.name: each for each in found}


def write(folder: Path) -> int:
    """Write a first delivery and those of nights.

    The first log has events of items that the first night brings, so that some wait in quarantine; each night changes
    an item too.
    """
    made = Shop(ITEMS).write(folder / "night-0", EVENTS)
    Shop(ITEMS + NEW).write_log(made.log, EVENTS)
    for night in range(1, NIGHTS):
        _write_night(folder / f"night-{night}", night)
    return 0


def _write_night(folder: Path, night: int) -> None:
    made = Shop(ITEMS + NEW * night).write(folder, NEW_EVENTS, ITEMS + NEW * (night - 1), day=DAYS + night, days=1)
    changed = pl.DataFrame({"item_id": ["B000000000"], "title": [f"Another title {night}"], "brand": ["brand 1"]})
    pl.concat([pl.read_parquet(made.items), changed]).write_parquet(made.items)


def start_broker(folder: Path) -> str:
    """Start a process with a mock cluster of Kafka that holds the log of the last night; return the topic's address."""
    place, parent = folder / "broker", os.getpid()
    if not os.fork():
        _serve(place, folder / f"night-{NIGHTS - 1}", lambda: os.getppid() == parent)
    until = time.monotonic() + 60
    while not place.exists():
        if time.monotonic() > until:
            raise RuntimeError("the mock cluster of Kafka did not start")
        time.sleep(0.05)
    return place.read_text()


def _serve(place: Path, night: Path, wanted: Callable[[], bool]) -> None:
    try:
        values = [json.dumps(row, default=str).encode() for row in pl.read_parquet(delivery_in(night).log).to_dicts()]
        producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock", "log_level": 0})
        (broker,) = producer.list_topics(timeout=10).brokers.values()
        for number, value in enumerate(values):
            producer.produce("log", value, partition=number % 2)
        producer.flush(30)
        draft = place.with_suffix(".draft")
        draft.write_text(f"kafka://{broker.host}:{broker.port}/log")
        draft.rename(place)
        while wanted():
            time.sleep(0.5)
    finally:
        os._exit(0)
