"""A day with all services: Prefect on Postgres, Redis, an object store, Ray on two nodes; then all of it ends."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from brokers import RedisServer
from test_two_nodes import Cluster, cluster

from conftest import SMALL_RECIPE, START, write_items, write_log, write_recipe
from storage.lake import Lake
from storage.releases.models import models
from storage.releases.releases import published
from storage.runs.record import runs

assert cluster  # the fixture
POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(POSTGRES is None, reason="needs the server of Postgres"),
]
DEPLOYMENTS = Path(__file__).parents[2] / "infra" / "prefect.yaml"
LOGIN = "tester:of the day"


def wait_for(condition: Callable[[], bool], seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def postgres() -> Iterator[str]:
    """The address of a database of Postgres on loopback, for SQLAlchemy. The server refuses to run as root."""
    assert POSTGRES is not None
    folder, port = Path(tempfile.mkdtemp(prefix="sd-pg-", dir="/tmp")), free_port()
    command = [str(POSTGRES / "postgres"), "-D", f"{folder}/data", "-p", str(port), "-k", str(folder)]
    initdb = [str(POSTGRES / "initdb"), "-D", f"{folder}/data", "-U", "sidmill", "-A", "trust", "-N"]
    user = {}
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
        user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": ()}
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd=folder, **user)  # type: ignore[call-overload]
    options = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([*command, *options], stdout=log, stderr=log, cwd=folder, **user)  # type: ignore[call-overload]
    try:
        ready = [str(POSTGRES / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
        wait_for(lambda: subprocess.run(ready, capture_output=True).returncode == 0, 60, folder / "log")
        yield f"postgresql+asyncpg://sidmill@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)
        shutil.rmtree(folder)


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=120)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def message(user: str, item: str, day: int) -> bytes:
    when = (START + timedelta(days=day)).isoformat()
    return json.dumps({"user_id": user, "item_id": item, "event_time": when, "event_type": "click"}).encode()


def write_inputs(folder: Path) -> list[str]:
    """Write a catalogue, a log and a recipe whose stages run on the cluster; return the ids of the items."""
    ids = [str(row["item_id"]) for row in write_items(folder / "items.jsonl", 0, 60)]
    write_log(folder / "log.csv", ids, users=30, events=900)
    sections = {
        **SMALL_RECIPE,
        "train": {"workers": 2, "epochs": 1, "batch_size": 64, "align_epochs": 0},
        "compute": {"in_process_below": 0, "chunk_rows": 20},
        "gates.model_against_baselines": {"severity": "warn"},
    }
    write_recipe(folder / "r.toml", sections)
    return ids


def services(cluster: Cluster, postgres: str, api: str) -> dict[str, str]:
    """Return the environment of a process that uses the cluster, and the Prefect server at `api` on Postgres."""
    return {
        **os.environ,
        **cluster.environment,
        "PREFECT_API_DATABASE_CONNECTION_URL": postgres,
        "PREFECT_SERVER_API_AUTH_STRING": LOGIN,
        "PREFECT_API_AUTH_STRING": LOGIN,
        "PREFECT_API_URL": api,
    }


def test_a_day_with_all_services(
    tmp_path: Path, s3_bucket: str, redis_server: RedisServer, postgres: str, cluster: Cluster
) -> None:
    """A bootstrap on two nodes; messages and files start a night, its release starts a training; then housekeeping."""
    uri, port = f"{s3_bucket}/shop", free_port()
    ids, api = write_inputs(tmp_path / "in"), f"http://127.0.0.1:{port}/api"
    environment = services(cluster, postgres, api)
    prefect = [str(Path(sys.executable).with_name("prefect")), "server", "start", "--host", "127.0.0.1"]
    sidmill = [sys.executable, "-m", "flows.cli.main"]

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [*sidmill, *arguments, "--lake", uri], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    with running([*prefect, "--port", str(port)], environment, tmp_path / "prefect.log"):
        wait_for(lambda: _answers(f"{api}/health"), 180, tmp_path / "prefect.log")
        inputs = ["--items", str(tmp_path / "in" / "items.jsonl"), "--interactions", str(tmp_path / "in" / "log.csv")]
        run("run", "bootstrap", "--recipe", str(tmp_path / "in" / "r.toml"), *inputs)
        lake = Lake(uri)
        assert published(lake).release == "r-000001"  # type: ignore[union-attr]
        named = {"SIDMILL_LAKE": uri, "SIDMILL_ITEMS": f"{s3_bucket}/items", "SIDMILL_INTERACTIONS": f"{s3_bucket}/log"}
        pool = [*prefect[:1], "work-pool", "create", "sidmill", "--type", "process"]
        deploy = [*prefect[:1], "--no-prompt", "deploy", "--all", "--prefect-file", str(DEPLOYMENTS)]
        for command in (pool, deploy):
            done = subprocess.run(command, env=environment | named, capture_output=True, text=True, cwd=tmp_path)
            assert done.returncode == 0, done.stdout + done.stderr

        topic, arriving, metrics = redis_server.topic(), tmp_path / "arriving", free_port()
        arriving.mkdir()
        write_items(arriving / "first.jsonl", 60, 2)
        serve = ["serve", "--items", str(arriving), "--interactions", topic, "--every", "3", "--cron", "0 3 1 1 *"]
        log = tmp_path / "serve.log"
        served = [*sidmill, *serve, "--metrics-port", str(metrics), "--lake", uri]
        refused = subprocess.run(served, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert "work pool 'sidmill'" in refused.stderr  # the deployments of infra/prefect.yaml
        served += ["--name", "the-day"]
        with running(served, environment, log) as process:
            wait_for(lambda: _answers(f"http://127.0.0.1:{metrics}/metrics"), 180, log)
            for number in range(50):
                redis_server.send(topic, message(f"u{number % 7}", ids[number], 40))
            redis_server.send(topic, message("c4n4ry", "i0061", 40))
            redis_server.send(topic, b"no object")
            write_items(arriving / "second.jsonl", 62, 2)
            wait_for(lambda: "c4n4ry" in lake.read("interactions")["user_id"].to_pylist(), 300, log)
            wait_for(lambda: len(models(lake)) > 0 and published(lake).model is not None, 600, log)  # type: ignore[union-attr]
            wait_for(lambda: all(each.state != "running" for each in runs(lake)), 300, log)
            figures = httpx.get(f"http://127.0.0.1:{metrics}/metrics").text
            assert "sidmill_production_items" in figures
            assert process.poll() is None
        assert {each.state for each in runs(lake)} == {"finished"}
        assert {"bootstrap", "nightly", "train"} <= {each.kind for each in runs(lake)}
        assert lake.rows("items") == 64
        assert "no object" in str(lake.read("quarantine")["payload"].to_pylist())
        run("lake", "erase", "--user", "c4n4ry", "--yes")
        run("lake", "gc", "--keep", "1", "--grace", "0s", "--yes")
        run("lake", "backup", str(tmp_path / "backup"))
        assert ", 0 wrong" in run("lake", "verify")
    holding = [each.path for each in lake.files.found() if b"c4n4ry" in lake.files.read(each.path)]
    assert holding == []
    assert published(Lake(str(tmp_path / "backup"))) == published(lake)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, auth=tuple(LOGIN.split(":"))).status_code == httpx.codes.OK  # type: ignore[arg-type]
    except httpx.HTTPError:
        return False
