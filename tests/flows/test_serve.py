"""A schedule fires, and the event of a published release starts a training; cancelling a flow run stops its work."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from conftest import SMALL_RECIPE, START, write_items, write_log
from flows.bootstrap import bootstrap
from flows.cli.main import run_command
from flows.train import train
from storage.lake import Lake
from storage.releases.models import models
from storage.releases.releases import published
from storage.runs.record import runs

pytestmark = pytest.mark.slow

AUTH = ("tester", "of the served flows")
LOGIN = ":".join(AUTH)


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(1)
    return False


def is_up(api: str) -> bool:
    try:
        return httpx.get(f"{api}/health", timeout=2).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


@pytest.fixture
def serving(tmp_path: Path, small: Path) -> Iterator[tuple[Lake, str, subprocess.Popen[bytes]]]:
    """`sidmill serve` with a night every minute over two folders, on a lake that has a first release and its model."""
    uri = str(tmp_path / "lake")
    going_on = {**SMALL_RECIPE, "train": {"workers": 2, "epochs": 2, "align_epochs": 0, "since_production": True}}
    bootstrap(uri, going_on, [str(small / "items.jsonl")], [str(small / "log.csv")])
    train(uri)
    incoming, logs = tmp_path / "incoming", tmp_path / "logs"
    rows = write_items(incoming / "night.jsonl", 40, 4)
    ids = [f"i{number:04d}" for number in range(40)] + [str(row["item_id"]) for row in rows]
    write_log(logs / "log.csv", ids, users=20, events=100, start=START + timedelta(hours=600))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_API_AUTH_STRING": LOGIN}
    environment.pop("PREFECT_API_URL", None)
    command = [
        sys.executable,
        "-m",
        "flows.cli.main",
        "serve",
        "--lake",
        uri,
        "--cron",
        "* * * * *",
        "--port",
        str(port),
    ]
    command += ["--items", str(incoming), "--interactions", str(logs)]
    said = tmp_path / "said.txt"
    with said.open("w") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=Path(__file__).parents[2],
            start_new_session=True,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Lake(uri), f"http://127.0.0.1:{port}/api", process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=90)
        print(said.read_text())
    assert "RuntimeWarning" not in said.read_text()


@pytest.mark.timeout(900)
def test_a_night_runs_by_schedule_and_its_release_starts_a_training_that_goes_on(
    serving: tuple[Lake, str, subprocess.Popen[bytes]],
) -> None:
    lake, api, _ = serving
    assert wait_for(lambda: published(lake).release == "r-000002", 300)  # type: ignore[union-attr]
    assert wait_for(lambda: published(lake).model == "m-000002", 400)  # type: ignore[union-attr]
    first, second = models(lake)
    assert (first.card.identity["start"], second.release) == (None, "r-000002")
    assert second.card.identity["start"] is not None
    states = {run.kind: run.state for run in runs(lake)}
    assert states["nightly"] == "finished"
    found = httpx.post(f"{api}/flow_runs/filter", json={"flows": {"name": {"any_": ["train"]}}}, auth=AUTH).json()
    assert [run["parameters"]["release"] for run in found if run["parameters"].get("release")] == ["r-000002"]
    artifacts = httpx.post(f"{api}/artifacts/filter", json={}, auth=AUTH).json()
    assert any(artifact["key"] == "release-r-000002" for artifact in artifacts)
    said = (Path(lake.uri).parent / "said.txt").read_text()
    assert "last run: train finished" in said.split("Prefect server http")[0], "at its start it tells the state"
    assert "last run: nightly finished" in said, "and after a run, which nobody sees"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", ["Prefect", "run cancel", "SIGTERM"])
def test_a_run_in_the_background_that_is_stopped_ends_as_cancelled_with_its_ray_work(
    serving: tuple[Lake, str, subprocess.Popen[bytes]], how: str
) -> None:
    lake, api, _ = serving
    assert wait_for(lambda: is_up(api), 120)
    command = [sys.executable, "-m", "flows.cli.main", "run", "backfill", "--lake", lake.uri]
    long = ("compute.in_process_below=0", "codebook.levels=[{codes=16},{codes=16}]", "fusion.epochs=5000")
    options = [word for setting in long for word in ("--set", setting)]
    environment = {**os.environ, "PREFECT_API_URL": api, "PREFECT_API_AUTH_STRING": LOGIN}
    process = subprocess.Popen(
        [*command, *options],
        env=environment,
        cwd=Path(__file__).parents[2],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as a script starts it in the background
    )

    def ray_processes() -> set[str]:
        found = subprocess.run(["ps", "-ww", "--ppid", str(process.pid), "-o", "args="], capture_output=True, text=True)
        started = {Path(line.split()[0]).name for line in found.stdout.splitlines() if line.strip()}
        return started & {"raylet", "gcs_server"}

    try:
        assert wait_for(lambda: len(ray_processes()) == 2 or process.poll() is not None, 200)
        assert process.poll() is None, "the backfill ended before its Ray cluster was seen"
        (run,) = [run for run in runs(lake) if run.kind == "backfill"]
        if how == "Prefect":
            state = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
            httpx.post(f"{api}/flow_runs/{run.flow_run}/set_state", json=state, auth=AUTH).raise_for_status()
        elif how == "run cancel":
            assert run_command(["run", "cancel", run.run, "--lake", lake.uri]) == 0
        else:
            process.terminate()
        assert process.wait(timeout=90) == (-signal.SIGTERM if how == "SIGTERM" else 130)
    finally:
        process.kill()
    assert ray_processes() == set()
    assert [run.state for run in runs(lake) if run.kind == "backfill"] == ["cancelled"]
    if how == "Prefect":
        assert httpx.get(f"{api}/flow_runs/{run.flow_run}", auth=AUTH).json()["state_type"] == "CANCELLED"


@pytest.mark.timeout(900)
def test_runs_of_a_service_that_gets_sigterm_end_as_cancelled(
    serving: tuple[Lake, str, subprocess.Popen[bytes]],
) -> None:
    """As by `docker stop`, which tells the first process alone."""
    lake, api, service = serving
    assert wait_for(lambda: is_up(api), 120)
    named = f"{api}/deployments/name/backfill/backfill"
    assert wait_for(lambda: httpx.get(named, auth=AUTH).status_code == httpx.codes.OK, 120)
    long = {"lake": lake.uri, "overrides": ["codebook.levels=[{codes=16},{codes=16}]", "fusion.epochs=5000"]}
    started = f"{api}/deployments/{httpx.get(named, auth=AUTH).json()['id']}/create_flow_run"
    # a server that has just started may be too busy
    assert wait_for(lambda: httpx.post(started, json={"parameters": long}, auth=AUTH).is_success, 60)

    def states() -> list[str]:
        return [run.state for run in runs(lake) if run.kind == "backfill"]

    assert wait_for(lambda: states() == ["running"], 120)
    time.sleep(3)
    service.terminate()
    assert service.wait(timeout=90) == 0
    assert states() == ["cancelled"]


@pytest.mark.timeout(900)
def test_ctrl_c_while_training_ends_the_run_as_cancelled(tmp_path: Path, small: Path) -> None:
    uri = str(tmp_path / "lake")
    bootstrap(uri, SMALL_RECIPE, [str(small / "items.jsonl")], [str(small / "log.csv")])
    command = [sys.executable, "-m", "flows.cli.main", "run", "train", "--lake", uri, "--set", "train.epochs=5000"]
    root = Path(__file__).parents[2]
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=out, stderr=subprocess.STDOUT)
        try:
            assert wait_for(lambda: "epoch 1 of 5000:" in (tmp_path / "out").read_text(), 300)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=90) == 130
        finally:
            process.kill()
    assert "sidmill: interrupted" in (tmp_path / "out").read_text()
    assert [run.state for run in runs(Lake(uri)) if run.kind == "train"] == ["cancelled"]
