"""Fixtures that are costly to start and shared by a whole test session, and small data to run on."""

import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.settings import configure

if TYPE_CHECKING:
    from brokers import KafkaBroker, RedisServer
    from receiver import Receiver

    from storage.lake import Lake

configure()

THEMES = {
    "space": ["rocket", "planet", "star", "orbit", "comet", "alien"],
    "kitchen": ["knife", "pan", "oven", "spoon", "bread", "soup"],
    "garden": ["rose", "shovel", "tree", "seed", "lawn", "bee"],
    "music": ["guitar", "drum", "violin", "song", "choir", "piano"],
}
START = datetime(2024, 1, 1, tzinfo=UTC)
OLD_LAKE = Path(__file__).parent / "storage" / "data" / "lake-format-1.tar.xz"
FORMAT_2_LAKE = Path(__file__).parent / "storage" / "data" / "lake-format-2.tar.xz"


@pytest.fixture(scope="session", autouse=True)
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Prefect database of this session's own; its ephemeral server starts with the first flow."""
    home = tmp_path_factory.mktemp("prefect")
    os.environ["PREFECT_HOME"] = str(home)
    os.environ.pop("PREFECT_API_URL", None)
    from flows.runtime.server import without_heartbeats

    with without_heartbeats():
        yield home


@pytest.fixture(scope="session")
def last_of_ray() -> Iterator[None]:
    """Stops the cluster at the end."""
    from pipelines.compute.cluster import shutdown

    yield
    shutdown()


@pytest.fixture
def ray_cluster(last_of_ray: None) -> None:
    """A local Ray cluster of three CPUs: two workers, one left for Ray Data. Started anew where a run stopped it."""
    from pipelines.compute.cluster import connect
    from pipelines.spec import ComputeSpec

    connect(ComputeSpec(cpus=3))


def write_items(path: Path, first: int, count: int) -> list[dict[str, object]]:
    """Items of four themes as JSONL: item_id, title, genres."""
    rows: list[dict[str, object]] = []
    for number in range(first, first + count):
        theme = list(THEMES)[number % len(THEMES)]
        words = THEMES[theme]
        title = f"{words[number % 6]} {words[(number // 4) % 6]} {number}"
        rows.append({"item_id": f"i{number:04d}", "title": title, "genres": [theme]})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def write_log(path: Path, items: list[str], users: int, events: int, start: datetime = START) -> None:
    """A log in CSV: each user stays with one theme; one event an hour."""
    lines = ["user_id,item_id,event_time,event_type,value"]
    for event in range(events):
        user = event % users
        own = [item for item in items if int(item[1:]) % 4 == user % 4]
        item = own[(event // users * 3 + user) % len(own)]
        lines.append(f"u{user},{item},{(start + timedelta(hours=event)).isoformat()},click,1")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder with items.jsonl (40 items) and log.csv (20 users, 600 events from START on)."""
    rows = write_items(tmp_path / "data" / "items.jsonl", 0, 40)
    write_log(tmp_path / "data" / "log.csv", [str(row["item_id"]) for row in rows], users=20, events=600)
    return tmp_path / "data"


@pytest.fixture
def old_lake(tmp_path: Path) -> "Lake":
    """A lake of format 1: 24 items, 300 events, a bootstrap, a training, a night; no file has a hash."""
    from storage.lake import Lake

    with tarfile.open(OLD_LAKE) as archive:
        archive.extractall(tmp_path, filter="data")
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def lake_of_format_2(tmp_path: Path) -> "Lake":
    """A lake of format 2 before erasures: 24 items, 300 events, a bootstrap that is pinned, a training, a night, a gc.

    Item i03 is deleted, and an event waits for item i77.
    """
    from storage.lake import Lake

    with tarfile.open(FORMAT_2_LAKE) as archive:
        archive.extractall(tmp_path, filter="data")
    return Lake(str(tmp_path / "lake"))


SMALL_RECIPE = {
    "text": {"encoder": "packaged-minilm", "fields": ["title", "genres"]},
    "collaborative": {"dim": 8, "method": "sppmi"},
    "fusion": {"dim": 16, "hidden": 16, "epochs": 2, "steps": 10, "batch_size": 64},
    "codebook": {"levels": [{"codes": 8}, {"codes": 8}, {"codes": 8}]},
    "generator": {"dim": 32, "layers": 1, "heads": 2, "kv_heads": 1, "ff": 64, "prefix_buckets": 256, "max_events": 8},
    "train": {"workers": 2, "epochs": 2, "batch_size": 64, "align_epochs": 0},
    "sequences": {"buckets": 2},
}


def write_recipe(path: Path, sections: Mapping[str, Mapping[str, object]]) -> Path:
    """Write sections as the TOML of a recipe."""
    lines = []
    for name, values in sections.items():
        lines.append(f"[{name}]")
        for key, value in values.items():
            inner = [f"{{codes = {each['codes']}}}" for each in value] if key == "levels" else None  # type: ignore[attr-defined]
            lines.append(f"{key} = [{', '.join(inner)}]" if inner else f"{key} = {json.dumps(value)}")
    path.write_text("\n".join([*lines, ""]))
    return path


@pytest.fixture
def recipe() -> dict[str, object]:
    """Settings of a recipe small enough for tests."""
    return json.loads(json.dumps(SMALL_RECIPE))


@pytest.fixture
def s3_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket in an S3 server of our own on loopback, in a process of its own."""
    from bench.runs.s3_server import BUCKET, s3_server

    with s3_server() as settings:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        yield f"s3://{BUCKET}"


@pytest.fixture(scope="module")
def kafka_broker() -> "KafkaBroker":
    from brokers import KafkaBroker

    return KafkaBroker()


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[RedisServer]":
    from brokers import RedisServer, redis_is_installed

    if not redis_is_installed():
        pytest.skip("needs redis-server")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.process.terminate()
    server.process.wait(10)


@pytest.fixture
def receiver() -> "Iterator[Receiver]":
    from receiver import Receiver

    found = Receiver()
    yield found
    found.server.shutdown()
    found.server.server_close()
