"""A command as a job of a Ray cluster: its log comes back, failures are told, and an interrupt stops it there.

The dashboard of Ray needs more packages than sidmill: RAY_WITH_DASHBOARD names the `ray` of an environment that has
`ray[default]` of the same version.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from test_two_nodes import START
from test_whole_day import free_port

from conftest import SMALL_RECIPE, write_items, write_log, write_recipe
from flows.runtime.ray_job import JobFailed, connected, require_shared_lake
from storage.lake import Lake
from storage.releases.releases import published

RAY = os.environ.get("RAY_WITH_DASHBOARD", "")


@pytest.mark.parametrize(
    ("command", "shared"),
    [
        (["run", "nightly", "--lake", "s3://bucket/lake"], True),
        (["run", "nightly", "--lake=/shared/lake"], True),
        (["run", "nightly", "--lake", "./books", "--lake", "/shared/books"], True),
        (["run", "nightly", "--lake", "./books"], False),
        (["run", "nightly", "--lake"], False),
        (["run", "nightly"], False),
    ],
)
def test_a_job_names_a_lake_that_the_cluster_can_see(command: list[str], shared: bool) -> None:
    if shared:
        require_shared_lake(command)
    else:
        with pytest.raises(ValueError, match="an address that all nodes of the cluster can see"):
            require_shared_lake(command)


def test_an_address_without_a_dashboard_is_told_with_what_helps() -> None:
    with pytest.raises(JobFailed, match=r"no Ray dashboard answers at http://127.0.0.1:9 .* such as http://head:8265"):
        connected("http://127.0.0.1:9")


@pytest.fixture
def dashboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the dashboard of a head on loopback, with a token."""
    short, port = Path(f"/tmp/sd-jobs-{os.getpid()}"), free_port()
    token = secrets.token_hex(32)
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    here = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{here}:{os.environ['PATH']}", "RAY_AUTH_MODE": "token"}
    environment.pop("RAY_ADDRESS", None)
    ports = [f"--port={free_port()}", f"--dashboard-port={port}", "--min-worker-port=0", "--max-worker-port=0"]
    head = [RAY, *START[1:], "--head", *ports, "--num-cpus=3", f"--temp-dir={short}", "--dashboard-host=127.0.0.1"]
    with (tmp_path / "head.txt").open("wb") as out:
        process = subprocess.Popen(head, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                httpx.get(f"{address}/api/version", headers={"Authorization": f"Bearer {token}"}).raise_for_status()
                break
            except httpx.HTTPError:
                assert time.monotonic() < deadline, (tmp_path / "head.txt").read_text()
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(short, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.skipif(not RAY, reason="needs an environment with ray[default]: set RAY_WITH_DASHBOARD to its `ray`")
def test_a_job_shows_its_log_and_ends_as_the_command_does_and_an_interrupt_stops_it(
    dashboard: str, tmp_path: Path
) -> None:
    rows = write_items(tmp_path / "items.jsonl", 0, 40)
    write_log(tmp_path / "log.csv", [str(row["item_id"]) for row in rows], users=20, events=600)
    recipe = write_recipe(tmp_path / "r.toml", SMALL_RECIPE)
    lake = ["--lake", str(tmp_path / "lake")]
    bootstrap = ["run", "bootstrap", "--recipe", str(recipe), "--items", str(tmp_path / "items.jsonl"), *lake]
    job = [sys.executable, "-m", "flows.cli.main", "job", "--address", dashboard, "--"]

    stopped = subprocess.Popen([*job, *bootstrap], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert stopped.stdout is not None
    for line in stopped.stdout:
        if "ingest items" in line:
            break
    stopped.send_signal(signal.SIGINT)
    left = stopped.stdout.read()
    assert stopped.wait(timeout=180) == 130
    assert "stopping job" in left
    found = connected(dashboard)
    (state,) = found.client.get("/api/jobs/").json()
    assert state["status"] == "STOPPED"

    done = subprocess.run([*job, *bootstrap], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "production -> (r-000001, no model)" in done.stdout
    assert published(Lake(lake[1])) is not None
    failed = subprocess.run([*job, "run", "nightly", "--items", "/nowhere", *lake], capture_output=True, text=True)
    assert failed.returncode == 1
    assert "no file or folder at /nowhere" in failed.stdout
    assert "failed (exit code 1). Its log is above." in failed.stderr
