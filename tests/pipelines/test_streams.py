"""Streams as sources: whatever comes, in whatever order, is stored once or refused once, also after kills.

The Kafka broker is librdkafka's mock cluster, which listens on loopback as a real one does. The Redis server is
Debian's; its tests are skipped where it is not installed.
"""

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker, KafkaBroker, RedisServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import storage.commit
from pipelines.ingest.accounting import record_source, records, unread
from pipelines.ingest.events.ingest import ingest_interactions
from pipelines.ingest.items.ingest import ingest_items
from pipelines.registry import source_kind_of
from pipelines.sources.files import find_sources
from pipelines.sources.row import SourceError
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec
from pipelines.sources.streams import kafka, redis_streams
from storage.commit import Provenance
from storage.lake import Lake
from storage.quarantine import by_reason, open_rows

WHO = Provenance("test", "recipe")
NOW = datetime(2026, 9, 1, tzinfo=UTC)
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
PARTITIONS = 4
"""Partitions of a topic of the mock cluster."""


@pytest.fixture(params=["kafka_broker", "redis_server"])
def broker(request: pytest.FixtureRequest) -> Broker:
    found: Broker = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return lake_with_items(tmp_path)


def lake_with_items(folder: Path) -> Lake:
    path = folder / "items.csv"
    path.write_text("item_id,title\ni,mug\nj,cup\n")
    lake = Lake(str(folder / "lake"))
    ingest_items(lake, find_sources(str(path))[0], ItemsSpec(), NOW, WHO)
    return lake


def event(name: str, item: str = "i", hour: int = 0) -> bytes:
    when = (FIRST + timedelta(hours=hour)).isoformat()
    return json.dumps({"event_id": name, "user_id": "u", "item_id": item, "event_time": when}).encode()


def read(lake: Lake, address: str) -> int:
    """Read what came, as a run does; return the number of events written."""
    spec, written = InteractionsSpec(), 0
    before = records(lake, "interactions", spec)
    for source in unread(source_kind_of(address).find(address, spec, before).sources, before):
        done = ingest_interactions(lake, source, spec, NOW, WHO)
        written += done.stages[0].out
        record_source(lake, done, WHO)
    return written


def stored(lake: Lake) -> list[str]:
    return sorted(lake.frame("interactions")["event_id"])


POISON = [b"{", b"[1]", b"\xff\xfe", b"two\nlines", b"", b" ", None, b'{"user_id": "u"}', b"\0", b'"text"']
MESSAGE = st.one_of(
    st.tuples(st.just("event"), st.sampled_from("abcdef")),
    st.tuples(st.just("poison"), st.integers(0, len(POISON) - 1)),
)
WAVE = st.lists(st.tuples(st.integers(0, PARTITIONS - 1), MESSAGE), max_size=8)
FAILURE = st.sampled_from(["no", "no", "before its record", "in its second commit", "another reader"])


@given(waves=st.lists(st.tuples(WAVE, FAILURE), min_size=1, max_size=3), most=st.sampled_from([2, 1000]))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_message_is_stored_once_or_refused_once(
    broker: Broker, tmp_path_factory: pytest.TempPathFactory, waves: list[Any], most: int
) -> None:
    """Double, out of order, poison, without a value; read in batches, stopped anywhere, by two readers at once."""
    lake, topic = lake_with_items(tmp_path_factory.mktemp("kafka")), broker.topic()
    events, poison = set[str](), 0
    broker.send(topic, event("first"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(kafka, "MAX_MESSAGES", most)
        for wave, failure in waves:
            for partition, (kind, what) in wave:
                # The same id always comes with the same time: another one would be a conflict.
                value = event(what, hour=ord(what)) if kind == "event" else POISON[what]
                broker.send(topic, value, partition)
                events |= {what} if kind == "event" else set()
                poison += kind == "poison"
            _read_with(monkeypatch, lake, topic, failure)
        read(lake, topic)
        assert read(lake, topic) == 0
    assert stored(lake) == sorted(events | {"first"})
    refused = open_rows(lake)
    repeats = {"duplicate_event"}  # an id twice in a batch: refused as in a file
    assert sum(row["reason"] not in repeats for row in refused.to_dicts()) == poison
    assert len(refused.unique(["source", "source_row"])) == len(refused), "no message is refused twice"


def _read_with(monkeypatch: pytest.MonkeyPatch, lake: Lake, topic: str, failure: str) -> None:
    with monkeypatch.context() as patched:
        if failure == "before its record":
            patched.setattr(sys.modules[__name__], "record_source", _fail)
        elif failure == "in its second commit":
            commit, made = storage.commit._commit, list[int]()

            def second_fails(*arguments: Any, **others: Any) -> None:
                made.append(0)
                if len(made) == 2:
                    raise Stopped
                commit(*arguments, **others)

            patched.setattr(storage.commit, "_commit", second_fails)
        elif failure == "another reader":
            commit, made = storage.commit._commit, list[int]()

            def after_another(*arguments: Any, **others: Any) -> None:
                made.append(0)
                if len(made) == 1:
                    read(lake, topic)
                commit(*arguments, **others)

            patched.setattr(storage.commit, "_commit", after_another)
        try:
            read(lake, topic)
        except Stopped:
            return


class Stopped(Exception):
    """A run that ends here."""


def _fail(*arguments: Any) -> None:
    raise Stopped


READER = """
import os, signal, sys
import storage.commit
from storage.lake import Lake
sys.path[:0] = {tests!r}
from test_streams import read

commit, made = storage.commit._commit, []

def killed(*arguments, **others):
    if len(made) == {place}:
        os.kill(os.getpid(), signal.SIGKILL)
    made.append(0)
    commit(*arguments, **others)

storage.commit._commit = killed
read(Lake({lake!r}), {topic!r})
"""


def test_a_reader_that_is_killed_at_any_commit_loses_and_doubles_nothing(broker: Broker, lake: Lake) -> None:
    topic, place = broker.topic(), 0
    expected, refused, ended = set[str](), 0, False
    while not ended:
        for number in range(3):
            expected.add(f"{place}-{number}")
            broker.send(topic, event(f"{place}-{number}"), number)
            broker.send(topic, b"poison", number)
            refused += 1
        folders = [str(each) for each in Path(__file__).parents[:2]]
        code = READER.format(tests=folders, place=place, lake=lake.uri, topic=topic)
        code_of_exit = subprocess.run([sys.executable, "-c", code], cwd=Path.cwd(), check=False).returncode
        assert code_of_exit in (0, -signal.SIGKILL)
        ended = code_of_exit == 0
        place += 3
    assert place > 3, "it was killed several times"
    read(lake, topic)
    assert stored(lake) == sorted(expected)
    assert by_reason(lake) == {"invalid_json": refused}


def test_messages_that_are_gone_before_they_were_read_stop_the_run_until_that_is_accepted(
    kafka_broker: KafkaBroker, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = kafka_broker.topic()
    kafka_broker.send(topic, event("a"))
    assert read(lake, topic) == 1
    found = kafka.partitions
    moved = {"low": 5, "high": 9}

    def cut(asked: kafka.Topic) -> list[kafka.Partition]:
        return [kafka.Partition(asked, 0, each.cluster, **moved) for each in found(asked)[:1]]

    monkeypatch.setattr(kafka, "partitions", cut)
    with pytest.raises(SourceError, match="4 messages were removed before they were read, from offset 1 to 4"):
        read(lake, topic)
    (batch,) = _found(lake, f"{topic}+earliest")
    assert (batch.start, batch.end) == ("5", "9")
    moved.update(low=0, high=0)
    with pytest.raises(SourceError, match=r"ends at offset 0, but offsets up to 0 were read before.*made anew or cut"):
        read(lake, topic)
    assert _found(lake, f"{topic}+earliest") == []
    moved.update(low=0, high=1)
    read(lake, f"{topic}+earliest")
    moved.update(low=0, high=3)
    (batch,) = _found(lake, topic)
    assert (batch.start, batch.end) == ("1", "3"), "a topic of one message may have been made anew, unseen"


def test_a_topic_of_another_cluster_at_the_same_address_is_refused(
    kafka_broker: KafkaBroker, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = kafka_broker.topic()
    kafka_broker.send(topic, event("a"))
    read(lake, topic)
    found = kafka.partitions
    monkeypatch.setattr(
        kafka,
        "partitions",
        lambda asked: [kafka.Partition(asked, each.number, "other", each.low, each.high) for each in found(asked)],
    )
    with pytest.raises(SourceError, match="belongs to another cluster"):
        read(lake, topic)
    assert read(lake, f"{topic}+earliest") == 0, "the event is there already"


def _found(lake: Lake, address: str) -> list[Any]:
    spec = InteractionsSpec()
    return source_kind_of(address).find(address, spec, records(lake, "interactions", spec)).sources


def test_what_cannot_be_read_says_why(
    kafka_broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kafka, "ANSWER_WITHIN_S", 2.0)
    for address, message in (
        ("kafka://127.0.0.1:1/log", r"cannot be read: .*refused.*Check the address"),
        (f"{kafka_broker.address}/absent", "cannot be read: .*Unknown topic"),
        ("kafka://127.0.0.1:1", "names no topic. Write kafka://HOST:PORT/TOPIC"),
        ("kafka://me:secret@127.0.0.1:1/log", "contains credentials"),
    ):
        with pytest.raises(ValueError, match=message):
            source_kind_of(address).check(address)
    properties = tmp_path / "client.properties"
    properties.write_text("# login\nsecurity.protocol = nonsense\n")
    monkeypatch.setenv(kafka.PROPERTIES, str(properties))
    with pytest.raises(SourceError, match=r"the client cannot start: .*security.protocol"):
        source_kind_of(kafka_broker.address).check(f"{kafka_broker.address}/log-1")
    monkeypatch.setenv(kafka.PROPERTIES, str(tmp_path / "absent"))
    with pytest.raises(SourceError, match=r"SIDMILL_KAFKA_PROPERTIES: the file .*absent cannot be read"):
        source_kind_of(kafka_broker.address).check(f"{kafka_broker.address}/log-1")


def test_entries_that_are_gone_before_they_were_read_stop_the_run_until_that_is_accepted(
    redis_server: RedisServer, lake: Lake
) -> None:
    topic = redis_server.topic()
    name = topic.rpartition("/")[2]
    for each in "abc":
        redis_server.send(topic, event(each))
    assert read(lake, topic) == 3
    redis_server.client.xtrim(name, maxlen=0, approximate=False)
    assert read(lake, topic) == 0, "what was read may go"
    for each in "defg":
        redis_server.send(topic, event(each))
    redis_server.client.xtrim(name, maxlen=1, approximate=False)
    with pytest.raises(SourceError, match=r"3 entries behind .* were removed before they were read"):
        read(lake, topic)
    assert read(lake, f"{topic}+earliest") == 1
    assert stored(lake) == ["a", "b", "c", "g"]
    redis_server.client.delete(name)
    redis_server.client.xadd(name, {b"json": event("h")}, id="1-1")
    with pytest.raises(SourceError, match=r"ends at 1-1, but entries up to .*the stream was made anew"):
        read(lake, topic)
    assert read(lake, f"{topic}+earliest") == 1


def test_the_fields_of_an_entry_are_an_object(redis_server: RedisServer, lake: Lake) -> None:
    topic = redis_server.topic()
    name = topic.rpartition("/")[2]
    redis_server.client.xadd(name, json.loads(event("a")))
    redis_server.client.xadd(name, {**json.loads(event("b")), "note": b"\xff"})
    assert read(lake, topic) == 1
    assert stored(lake) == ["a"]
    assert by_reason(lake) == {"invalid_json": 1}


def test_a_stream_that_cannot_be_read_says_why(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_streams, "ANSWER_WITHIN_S", 2.0)
    monkeypatch.setattr("redis.retry.sleep", lambda seconds: None)  # between the tries of the client
    redis_server.client.set("text", "no stream")
    for address, message in (
        ("redis://127.0.0.1:1/log", r"cannot be read: .*refused.*Check the address"),
        (f"{redis_server.address}/absent", "the database has no stream of that name"),
        (f"{redis_server.address}/text", "the database has no stream of that name"),
        ("redis://127.0.0.1/log", "names no stream. Write redis://HOST:PORT/STREAM"),
        ("redis://:secret@127.0.0.1:1/log", "contains credentials"),
    ):
        with pytest.raises(ValueError, match=message):
            source_kind_of(address).check(address)
    redis_server.send(f"{redis_server.address}/guarded", event("a"))
    redis_server.client.config_set("requirepass", "right")
    try:
        with pytest.raises(SourceError, match=r"authenticated.*SIDMILL_REDIS_PASSWORD"):
            source_kind_of(redis_server.address).check(f"{redis_server.address}/guarded")
        monkeypatch.setenv(redis_streams.PASSWORD, "right")
        source_kind_of(redis_server.address).check(f"{redis_server.address}/guarded")
    finally:
        redis_server.client.config_set("requirepass", "")
