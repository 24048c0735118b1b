"""Deliveries of the shop of `bench soak`: files, given vectors, and messages of a mock topic of Kafka."""

import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from confluent_kafka import Producer

from bench.faults.killing import forked
from bench.faults.soak_oracle import Event, Oracle
from bench.runs.made_shop import START, Shop, delivery_in

ITEMS, EVENTS, USERS, REFUSED = 200, 1_500, 75, 3
KINDS = ("view", "click", "buy")


@dataclass(frozen=True)
class Delivered:
    """A delivery: items by title (None: deleted), events, and the files that hold them."""

    items: dict[str, str | None]
    events: list[Event]
    catalogue: Path
    log: Path


class SoakShop:
    """Draws deliveries and writes them below a folder. Item number `count` is the next one to arrive."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.vectors, self.count, self._written = folder, folder / "vectors", 0, 0
        self.vectors.mkdir(parents=True)

    def first(self, start: datetime, days: int) -> Delivered:
        """Write the catalogue and the log of a bootstrap; the log spans some days."""
        draw = random.Random(0)
        items: dict[str, str | None] = self._new(ITEMS)
        names = sorted(items)
        events = [_event(draw, _popular(draw, names), start, days * 86_400) for _ in range(EVENTS)]
        return self._write(items, events, set())

    def draw(self, seed: int, now: datetime, oracle: Oracle) -> Delivered:
        """Write new, changed, deleted and returned items, and events of the last hour.

        Some events are of items that come with the next delivery, and some came before.
        """
        draw, live = random.Random(seed), sorted(oracle.live())
        gone = sorted(item for item, title in oracle.items.items() if title is None)
        items: dict[str, str | None] = dict.fromkeys(draw.sample(live, draw.randint(0, 2)), f"Title {seed}")
        items |= dict.fromkeys(draw.sample(live, draw.random() < 0.3))
        items |= dict.fromkeys(draw.sample(gone, draw.random() < 0.2 and bool(gone)), f"Back {seed}")
        items |= self._new(draw.randint(1, 2))
        names = [*live, *(item for item in items if item not in oracle.items), _item(self.count)]
        hour_ago = now - timedelta(hours=1)
        events = [_event(draw, _popular(draw, names), hour_ago, 3_500) for _ in range(draw.randint(20, 60))]
        events += [_event(draw, names[-1], hour_ago, 3_500)]
        events += draw.sample(sorted(oracle.events), 3)
        kept = [each for each in events if not {each[0], each[1]} & oracle.erased]
        return self._write(items, kept, oracle.erased)

    def _new(self, number: int) -> dict[str, str | None]:
        """Bring the next items with their vectors, which a process of its own writes."""
        since, self.count = self.count, self.count + number
        scratch = self.folder / f"scratch-{since}"
        ended = forked(lambda: _write_vectors(self.count, since, scratch, self.vectors), self.folder / "output")
        if ended.code != 0:
            raise RuntimeError((self.folder / "output").read_text())
        return {_item(each): f"Item {each}" for each in range(since, self.count)}

    def _write(self, items: dict[str, str | None], events: list[Event], erased: set[str]) -> Delivered:
        """Write a delivery. Its log has rows that are refused, so that the quarantine names users and items too."""
        self._written += 1
        catalogue, log = (self.folder / f"{self._written:05}-{name}.jsonl" for name in ("items", "log"))
        rows = [
            {"item_id": item, "title": title or "gone", "brand": f"brand {int(item[1:]) % 7}", "deleted": title is None}
            for item, title in items.items()
        ]
        catalogue.write_text("".join(json.dumps(row) + "\n" for row in rows))
        draw = random.Random(self._written)
        refused = [_event(draw, _popular(draw, sorted(items)), START, 1) for _ in range(REFUSED) if items]
        lines = [_record(event) for event in events]
        lines += [{**_record(each), "event_time": "never"} for each in refused if not {each[0], each[1]} & erased]
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return Delivered(items, events, catalogue, log)


def _item(number: int) -> str:
    return f"B{number:09}"


def _popular(draw: random.Random, names: list[str]) -> str:
    return names[int(draw.random() ** 2 * len(names))]


def _event(draw: random.Random, item: str, start: datetime, seconds: int) -> Event:
    at = int(start.timestamp() * 1e6) + draw.randrange(seconds) * 1_000_000
    return f"u{draw.randrange(USERS):09}", item, at, draw.choice(KINDS)


def _record(event: Event) -> dict[str, str]:
    user, item, at, kind = event
    when = datetime.fromtimestamp(at // 1_000_000, UTC).isoformat()
    return {"user_id": user, "item_id": item, "event_time": when, "event_type": kind}


def _write_vectors(stop: int, since: int, scratch: Path, place: Path) -> int:
    made = Shop(stop).write(scratch, 1, since)
    for part in made.vectors.iterdir():
        part.rename(place / part.name)
    for path in (made.items, made.log):
        path.unlink()
    made.vectors.rmdir()
    scratch.rmdir()
    assert delivery_in(scratch) == made
    return 0


class Topic:
    """A mock cluster of Kafka in a process of its own, which produces the batches that are put into a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder, parent = folder, os.getpid()
        if not os.fork():
            _serve(folder, lambda: os.getppid() == parent)
        self.address = self._wait_for(folder / "address").read_text()

    def send(self, log: Path) -> None:
        """Send the rows of a log, and wait until they are there."""
        batch = self._folder / f"{log.stem}.batch"
        draft = batch.with_suffix(".draft")
        draft.write_text(log.read_text())
        draft.rename(batch)
        self._wait_for(batch.with_suffix(".sent"))

    def _wait_for(self, path: Path) -> Path:
        until = time.monotonic() + 60
        while not path.exists():
            if time.monotonic() > until:
                raise RuntimeError(f"the mock cluster of Kafka did not write {path.name}")
            time.sleep(0.05)
        return path


def _serve(folder: Path, wanted: Callable[[], bool]) -> None:
    try:
        producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock", "log_level": 0})
        (broker,) = producer.list_topics(timeout=10).brokers.values()
        draft = folder / "draft"
        draft.write_text(f"kafka://{broker.host}:{broker.port}/log")
        producer.produce("log", b"{}", partition=0)  # the topic is there; the row is refused
        producer.flush(30)
        draft.rename(folder / "address")
        while wanted():
            for batch in sorted(folder.glob("*.batch")):
                for number, line in enumerate(batch.read_text().splitlines()):
                    producer.produce("log", line.encode(), partition=number % 2)
                producer.flush(30)
                batch.rename(batch.with_suffix(".sent"))
            time.sleep(0.2)
    finally:
        os._exit(0)
