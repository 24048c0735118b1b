"""A Kafka topic as sources: `kafka://HOST:PORT/TOPIC`, with commas between several brokers.

Each partition gives the messages behind those that were read before, up to those that are there when it is asked. The
lake holds the offsets, no consumer group does: an offset is recorded after the rows before it, and rows that a killed
run wrote already are not written twice. Messages of open and of aborted transactions are not read.
"""

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.addresses import refuse_parameters, without_secrets
from pipelines.sources.protocol import Found, Record, Source, SourceKind, Spec
from pipelines.sources.row import SourceError
from pipelines.sources.streams.batch import ANSWER_WITHIN_S, AT_ONCE, StreamBatch, batch_identity, go_on

if TYPE_CHECKING:
    from confluent_kafka import Consumer

SCHEME = "kafka://"
PROPERTIES = "SIDMILL_KAFKA_PROPERTIES"
"""Environment variable with the path of a file of further client settings, such as those of a login."""
MAX_MESSAGES = 1 << 20
"""Messages of one batch; a partition with more gives several."""
WAIT_S = 0.1
"""Seconds that the client waits for a batch of messages; offsets without a message never arrive."""
_ADDRESS = re.compile(r"kafka://(?P<brokers>[^/\s]+)/(?P<topic>[A-Za-z0-9._-]{1,249}?)(?P<earliest>\+earliest)?")
_PARTITION = re.compile(
    r"(?P<topic>kafka://.*)\[(?P<partition>\d+)\]@(?P<start>[\d~]+)\.\.(?P<end>\d+)"
    r"(?P<anew>~\d+)?"
)
# Settings that decide what is read, and no file may change.
_OURS: dict[str, Any] = {
    "group.id": "sidmill",  # a consumer needs one; no offset is committed to it
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "allow.auto.create.topics": False,
    "log_level": 0,
}


@dataclass(frozen=True)
class Topic:
    """A topic, and whether its earliest messages are read where the next ones are gone."""

    brokers: str
    topic: str
    earliest: bool

    @property
    def address(self) -> str:
        return f"{SCHEME}{self.brokers}/{self.topic}"


@dataclass(frozen=True)
class Partition:
    """Offsets of a partition that can be read: from `low`, before `high`."""

    topic: Topic
    number: int
    cluster: str
    low: int
    high: int

    @property
    def address(self) -> str:
        return f"{self.topic.address}[{self.number}]"

    @property
    def stream_id(self) -> str:
        return "\0".join(["kafka", self.cluster, self.topic.topic, str(self.number)])

    def batches(self, records: Iterable[Record]) -> Iterator[StreamBatch]:
        """Yield the messages behind those of the records, in order."""
        first, anew = self._next(records)
        for start in range(first, self.high, MAX_MESSAGES):
            end = min(start + MAX_MESSAGES, self.high)
            yield StreamBatch(
                self.address,
                f"{self.topic.topic}[{self.number}]",
                self.stream_id,
                f"{start}{anew}",
                f"{end}{anew}",
                end - start,
                partial(_messages, self.topic, self.number, start, end),
            )

    def _next(self, records: Iterable[Record]) -> tuple[int, str]:
        """Return the offset to continue from, and a mark that differs if the topic was created again.

        Raise SourceError if messages from there on are gone.
        """
        ends = [end for record in records if (end := self._end(record)) is not None]
        following, anew = ends[-1] if ends else (self.low, "")
        if self.low <= following <= self.high:
            return following, anew
        if self.topic.earliest:
            return self.low, anew if following < self.low else f"~{len(ends)}"
        if following < self.low:
            raise SourceError(
                f"{self.address}: {self.low - following:,} messages were removed before they were read, from offset "
                f"{following:,} to {self.low - 1:,}: the topic keeps messages for less time than lies between two "
                f"runs. Make its retention longer. {go_on(self.topic.address)}"
            )
        raise SourceError(
            f"{self.address} ends at offset {self.high:,}, but offsets up to {following - 1:,} were read before: the "
            f"topic was made anew or cut. {go_on(self.topic.address)}"
        )

    def _end(self, record: Record) -> tuple[int, str] | None:
        """Return the offset behind a batch of this partition, and its mark; None for a record of another source."""
        found = _PARTITION.fullmatch(record.uri)
        if found is None or int(found["partition"]) != self.number:
            return None
        if record.sha256 == batch_identity(self.stream_id, found["start"]):
            return int(found["end"]), found["anew"] or ""
        if found["topic"] == self.topic.address and not self.topic.earliest:
            raise SourceError(
                f"{self.address} belongs to another cluster than the one that was read from there before. "
                f"{go_on(self.topic.address)}"
            )
        return None


def _parsed(uri: str) -> Topic:
    refuse_parameters(uri, "a source")
    match = _ADDRESS.fullmatch(uri)
    if match is None:
        raise SourceError(f"{without_secrets(uri)} names no topic. Write kafka://HOST:PORT/TOPIC.")
    return Topic(match["brokers"], match["topic"], match["earliest"] is not None)


@contextmanager
def _consumer(topic: Topic) -> "Iterator[Consumer]":
    try:
        from confluent_kafka import Consumer, KafkaException
    except ImportError as error:
        raise SourceError(
            "a topic needs the package confluent-kafka. Install sidmill with the extra `kafka`."
        ) from error
    faults = list[str]()
    settings = {
        **_properties(),
        **_OURS,
        "bootstrap.servers": topic.brokers,
        "error_cb": lambda error: faults.append(error.str()),
    }
    try:
        consumer = Consumer(settings)
    except KafkaException as error:
        raise SourceError(f"{topic.address}: the client cannot start: {error.args[0].str()}") from error
    try:
        yield consumer
    except KafkaException as error:
        consumer.poll(0)  # hands faults of the connection to `error_cb`
        why = faults[-1] if faults else error.args[0].str()
        raise SourceError(
            f"{topic.address} cannot be read: {why}. Check the address and that the broker runs; settings of a login "
            f"stand in a file of lines NAME=VALUE, whose path is in {PROPERTIES}."
        ) from error
    finally:
        consumer.close()


def _properties() -> dict[str, str]:
    """Return the settings in the file that PROPERTIES names."""
    path = os.environ.get(PROPERTIES)
    if not path:
        return {}
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise SourceError(f"{PROPERTIES}: the file {path} cannot be read: {error}") from error
    settings = [line.partition("=") for line in map(str.strip, lines) if line and not line.startswith("#")]
    return {name.strip(): value.strip() for name, _, value in settings}


def partitions(topic: Topic) -> list[Partition]:
    """Return the partitions of a topic, with the offsets that can be read now."""
    with _consumer(topic) as consumer:
        from confluent_kafka import TopicPartition

        found = consumer.list_topics(topic.topic, timeout=ANSWER_WITHIN_S)
        described = found.topics[topic.topic]
        if described.error is not None:
            raise SourceError(f"{topic.address} cannot be read: {described.error.str()}")
        numbers = sorted(described.partitions)
        ends = [
            consumer.get_watermark_offsets(TopicPartition(topic.topic, each), timeout=ANSWER_WITHIN_S)
            for each in numbers
        ]
    return [
        Partition(topic, number, found.cluster_id or "", low, high)
        for number, (low, high) in zip(numbers, ends, strict=True)
    ]


@contextmanager
def _messages(topic: Topic, partition: int, start: int, end: int) -> Iterator[Iterator[bytes | None]]:
    with _consumer(topic) as consumer:
        yield _read(consumer, topic, partition, start, end)


def _read(consumer: "Consumer", topic: Topic, partition: int, start: int, end: int) -> Iterator[bytes | None]:
    """Yield the values of the messages from `start` before `end`."""
    from confluent_kafka import KafkaError, KafkaException, TopicPartition

    consumer.assign([TopicPartition(topic.topic, partition, start)])
    deadline = time.monotonic() + ANSWER_WITHIN_S
    while True:
        messages = consumer.consume(min(AT_ONCE, end - start), timeout=WAIT_S)
        if messages:
            deadline = time.monotonic() + ANSWER_WITHIN_S
        elif time.monotonic() > deadline:
            raise SourceError(
                f"{topic.address}[{partition}]: no message came within {ANSWER_WITHIN_S:.0f} s. What was read stays; "
                "run the command again when the broker answers."
            )
        for message in messages:
            error = message.error()
            if error is None:
                offset = message.offset() or 0
                if offset < end:
                    start = offset + 1
                    yield message.value()
                if offset >= end - 1:
                    return
            elif error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            elif (message.offset() or 0) >= end:
                return  # the last offsets hold no message, such as the mark of a transaction


def _find(uri: str, spec: Spec, records: Iterable[Record]) -> Found:
    before = list(records)
    sources: list[Source] = [each for partition in partitions(_parsed(uri)) for each in partition.batches(before)]
    return Found(sources, [])


def _check(uri: str) -> None:
    partitions(_parsed(uri))


KAFKA = SourceKind(claims=lambda uri: uri.startswith(SCHEME), check=_check, find=_find)
"""Kafka topics."""
