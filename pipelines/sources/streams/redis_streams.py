"""A Redis stream as a source: `redis://HOST:PORT/STREAM`, or `rediss://` with TLS.

The number of a database may precede STREAM. A run reads the entries behind the one that was read last. The lake holds
its id, no consumer group does. An entry is an object of its fields; an entry with the one field `json` is the object in
that field.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from infra.addresses import refuse_parameters, without_secrets
from pipelines.sources.protocol import Found, Record, SourceKind, Spec
from pipelines.sources.row import SourceError
from pipelines.sources.streams.batch import ANSWER_WITHIN_S, AT_ONCE, StreamBatch, batch_identity, go_on

if TYPE_CHECKING:
    from redis import Redis

USER, PASSWORD = "SIDMILL_REDIS_USER", "SIDMILL_REDIS_PASSWORD"
"""Environment variables with the login."""
WHOLE = b"json"
"""Name of a field that holds the whole object."""
_ADDRESS = re.compile(
    r"(?P<scheme>rediss?)://(?P<host>[^/:\s]+):(?P<port>\d+)/(?:(?P<db>\d+)/)?(?P<stream>[^/\s@+]+)(?P<earliest>\+earliest)?"
)
_READ = re.compile(r"(?P<stream>redis.*)@(?P<start>\S+)\.\.(?P<end>\S+)")


@dataclass(frozen=True)
class Place:
    """A place behind an entry: its id, and the number of entries that were ever added up to it, if the server counts.

    By the number a later run knows whether entries were removed that it has not read. `anew` tells the places of a
    stream that was made anew from those before.
    """

    entry: str = "0-0"
    added: int | None = 0
    anew: str = ""

    @classmethod
    def parse(cls, text: str) -> "Place":
        place, mark, anew = text.partition("~")
        entry, _, added = place.partition("/")
        return cls(entry, int(added) if added else None, mark + anew)

    @property
    def order(self) -> tuple[int, int]:
        milliseconds, _, number = self.entry.partition("-")
        return int(milliseconds), int(number)

    def __str__(self) -> str:
        return f"{self.entry}{'' if self.added is None else f'/{self.added}'}{self.anew}"


@dataclass(frozen=True)
class RedisStream:
    """A stream, and whether its earliest entries are read where the next ones are gone."""

    address: str
    host: str
    port: int
    db: int
    name: str
    tls: bool
    earliest: bool

    @property
    def stream_id(self) -> str:
        return f"redis\0{self.address}"


@dataclass(frozen=True)
class StreamState:
    """Entries of a stream: their number, the first, and the place behind the last one that was ever added."""

    length: int
    first: Place | None
    last: Place


def _parsed(uri: str) -> RedisStream:
    refuse_parameters(uri, "a source")
    match = _ADDRESS.fullmatch(uri)
    if match is None:
        raise SourceError(f"{without_secrets(uri)} names no stream. Write redis://HOST:PORT/STREAM.")
    db, tls = int(match["db"] or 0), match["scheme"] == "rediss"
    address = f"{match['scheme']}://{match['host']}:{match['port']}/{db}/{match['stream']}"
    return RedisStream(
        address, match["host"], int(match["port"]), db, match["stream"], tls, match["earliest"] is not None
    )


@contextmanager
def _client(stream: RedisStream) -> "Iterator[Redis]":
    try:
        import redis
    except ImportError as error:
        raise SourceError("a stream needs the package redis. Install sidmill with the extra `redis`.") from error
    client = redis.Redis(
        host=stream.host,
        port=stream.port,
        db=stream.db,
        username=os.environ.get(USER),
        password=os.environ.get(PASSWORD),
        ssl=stream.tls,
        socket_timeout=ANSWER_WITHIN_S,
        socket_connect_timeout=ANSWER_WITHIN_S,
    )
    try:
        yield client
    except redis.RedisError as error:
        raise SourceError(
            f"{stream.address} cannot be read: {error}. Check the address and that the server runs; a login stands in "
            f"{USER} and {PASSWORD}."
        ) from error
    finally:
        client.close()


def state_of(stream: RedisStream) -> StreamState:
    """Return what a stream holds now; raise SourceError if there is none."""
    with _client(stream) as client:
        if client.type(stream.name) != b"stream":
            raise SourceError(f"{stream.address}: the database has no stream of that name.")
        found: dict[str, Any] = client.xinfo_stream(stream.name)
    first = found["first-entry"]
    last = Place(found["last-generated-id"].decode(), found.get("entries-added"))
    return StreamState(found["length"], Place(first[0].decode()) if first else None, last)


def _next(stream: RedisStream, state: StreamState, records: Iterable[Record]) -> Place:
    """Return the place behind what the records read; raise SourceError if entries behind it are gone."""
    ends = [end for record in records if (end := _end(stream, record))]
    read = ends[-1] if ends else Place()
    if read.order > state.last.order:
        if stream.earliest:
            return Place(anew=f"~{len(ends)}")
        raise SourceError(
            f"{stream.address} ends at {state.last.entry}, but entries up to {read.entry} were read before: the stream "
            f"was made anew. {go_on(stream.address)}"
        )
    if stream.earliest or read.added is None or state.last.added is None or not read.order[0]:
        return read
    trimmed = state.first is None or state.first.order > read.order
    lost = state.last.added - read.added - state.length
    if trimmed and lost > 0:
        raise SourceError(
            f"{stream.address}: {lost:,} entries behind {read.entry} were removed before they were read. Trim the "
            f"stream less. {go_on(stream.address)}"
        )
    return read


def _end(stream: RedisStream, record: Record) -> Place | None:
    """Return the place behind a batch of this stream; None for a record of another source."""
    found = _READ.fullmatch(record.uri)
    if found is None or record.sha256 != batch_identity(stream.stream_id, found["start"]):
        return None
    return Place.parse(found["end"])


@contextmanager
def _messages(stream: RedisStream, start: Place, end: Place) -> Iterator[Iterator[bytes]]:
    with _client(stream) as client:
        yield _read(client, stream.name, start, end)


def _read(client: "Redis", name: str, start: Place, end: Place) -> Iterator[bytes]:
    after = start.entry
    while True:
        found: Any = client.xrange(name, min=f"({after}", max=end.entry, count=AT_ONCE)
        entries: list[tuple[bytes, dict[bytes, bytes]]] = found
        for _, fields in entries:
            yield _object(fields)
        if len(entries) < AT_ONCE:
            return
        after = entries[-1][0].decode()


def _object(fields: dict[bytes, bytes]) -> bytes:
    """Return the JSON object of an entry; of fields that are no UTF-8, a text that is none."""
    if list(fields) == [WHOLE]:
        return fields[WHOLE]
    try:
        return json.dumps({name.decode(): value.decode() for name, value in fields.items()}).encode()
    except UnicodeDecodeError:
        return b"fields that are not UTF-8: " + repr(fields).encode()


def _find(uri: str, spec: Spec, records: Iterable[Record]) -> Found:
    stream = _parsed(uri)
    state = state_of(stream)
    start = _next(stream, state, records)
    if start.entry == state.last.entry:
        return Found([], [])
    added = state.length if state.last.added is None or start.added is None else state.last.added - start.added
    messages = partial(_messages, stream, start, state.last)
    end = replace(state.last, anew=start.anew)
    batch = StreamBatch(
        stream.address, stream.name, stream.stream_id, str(start), str(end), min(added, state.length), messages
    )
    return Found([batch], [])


def _check(uri: str) -> None:
    state_of(_parsed(uri))


REDIS = SourceKind(claims=lambda uri: uri.startswith(("redis://", "rediss://")), check=_check, find=_find)
"""Redis streams."""
