"""A run as a job of a Ray cluster: the driver runs there too, its log comes back, and cancelling here stops it there.

RAY_ADDRESS makes this process the driver of a cluster, so it must be a node of it. A job needs no more than the address
of the cluster's dashboard. Ray's own client needs the packages of a whole dashboard, so its REST interface is used:
https://docs.ray.io/en/latest/cluster/running-applications/job-submission/rest.html
"""

import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from prefect import flow

from flows.runtime.cancellation import report_cancelled, stop_when_cancelled
from infra.addresses import check_arguments
from storage.errors import LakeError

POLL_S = 1.0
"""Seconds between two questions for the state and the log of a job: lines are shown that much late."""
STOPS_WITHIN_S = 120.0
"""Seconds that a job has to end after it was asked to."""
QUEUED_S = 600.0
"""Seconds after which a job that has not started is withdrawn."""
ANSWERS_WITHIN_S = 30.0
"""Seconds that the server of jobs has for an answer. A longer bound lets MISSED answers hang for longer."""
MISSED = 10
"""Answers in a row that may be missing while a job runs."""


class JobFailed(LakeError):
    """Raised when a job failed, was stopped there, or does not start."""


@flow(name="ray-job", log_prints=False, on_crashed=[report_cancelled])
def ray_job(address: str, command: list[str]) -> dict[str, Any]:
    """Run a `sidmill` command as a job of a cluster, print its log, and return its id.

    `address` is that of the dashboard, such as http://head:8265. The cluster needs sidmill and credentials of its own.
    Raise JobFailed. An interrupt, or the cancellation of the flow run, stops the job; the same command then goes on.
    """
    check_arguments(command)
    require_shared_lake(command)
    cluster = connected(address)
    job = cluster.submit(["sidmill", *command])
    print(f"job {job} on {address}: sidmill {shlex.join(command)}", flush=True)
    try:
        with stop_when_cancelled():
            _follow(cluster, job)
    except BaseException:
        _stop(cluster, job)
        raise
    return {"job": job, "address": address}


def require_shared_lake(command: Sequence[str]) -> None:
    """Raise ValueError unless a command names a lake that the cluster can see."""
    values = [*command, ""]
    named = [
        values[at + 1] if each == "--lake" else each[7:] for at, each in enumerate(command) if each[:6] == "--lake"
    ]
    if not named or not ("://" in named[-1] or named[-1].startswith("/")):
        raise ValueError(
            "a job needs --lake with an address that all nodes of the cluster can see: an object store "
            "(s3://bucket/lake), or the absolute path of a shared folder."
        )


@dataclass(frozen=True)
class JobsOfCluster:
    """The jobs of a cluster, by the REST interface of its dashboard; raises httpx.HTTPError."""

    client: httpx.Client

    def submit(self, command: Sequence[str]) -> str:
        """Start a job and return its id."""
        body = {"entrypoint": shlex.join(command), "metadata": {"started_by": "sidmill job"}}
        return str(self._asked("POST", "/api/jobs/", json=body)["submission_id"])

    def info(self, job: str) -> dict[str, Any]:
        """Return the `status`, and the `message` and `driver_exit_code` that explain it."""
        return self._asked("GET", f"/api/jobs/{job}")

    def log(self, job: str) -> str:
        return str(self._asked("GET", f"/api/jobs/{job}/logs")["logs"] or "")

    def stop(self, job: str) -> None:
        self._asked("POST", f"/api/jobs/{job}/stop")

    def ended(self, job: str) -> bool:
        return self.info(job)["status"] in ("SUCCEEDED", "FAILED", "STOPPED")

    def _asked(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        answer = self.client.request(method, path, **body)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found


def connected(address: str) -> JobsOfCluster:
    """Return the jobs of a cluster; raise JobFailed if no dashboard of Ray answers at the address."""
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        client = httpx.Client(base_url=address, headers=headers, timeout=ANSWERS_WITHIN_S)
        client.get("/api/version").raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise JobFailed(
            f"no Ray dashboard answers at {address} ({error or type(error).__name__}): give the address of the head "
            "with the port of the dashboard, such as http://head:8265. The head needs `ray[default]`. For a cluster "
            "with a token set RAY_AUTH_TOKEN here."
        ) from error
    return JobsOfCluster(client)


def _follow(cluster: JobsOfCluster, job: str) -> None:
    """Print the log of a job until it ends; raise JobFailed unless it succeeded."""
    shown, missed, begun = 0, 0, time.monotonic()
    while True:
        try:
            info, log = cluster.info(job), cluster.log(job)
            missed = 0
        except httpx.HTTPError as error:
            missed += 1
            if missed == MISSED:
                raise JobFailed(
                    f"the dashboard does not answer any more ({error or type(error).__name__}). The job {job} may go "
                    "on: look there, or run the same command again."
                ) from error
            time.sleep(POLL_S)
            continue
        sys.stdout.write(log[shown:])
        sys.stdout.flush()
        shown = len(log)
        if info["status"] == "SUCCEEDED":
            return
        if info["status"] in ("FAILED", "STOPPED"):
            raise JobFailed(_why(job, info))
        if info["status"] == "PENDING" and time.monotonic() - begun > QUEUED_S:
            raise JobFailed(
                f"the job {job} did not start within {QUEUED_S:.0f} s ({info['message']}): it was withdrawn."
            )
        time.sleep(POLL_S)


def _why(job: str, info: dict[str, Any]) -> str:
    ended = "failed" if info["status"] == "FAILED" else "was stopped on the cluster"
    code, message = info.get("driver_exit_code"), str(info.get("message") or "").splitlines()
    detail = f" (exit code {code})" if code is not None else f" ({message[0]})" if message else ""
    return f"the job {job} {ended}{detail}. Its log is above. What it committed stays; the same command goes on."


def _stop(cluster: JobsOfCluster, job: str) -> None:
    """Ask a job to end, and wait until it has: Ray sends SIGTERM, and later SIGKILL."""
    try:
        if cluster.ended(job):
            return
        print(f"stopping job {job}", flush=True)
        cluster.stop(job)
        until = time.monotonic() + STOPS_WITHIN_S
        while not cluster.ended(job) and time.monotonic() < until:
            time.sleep(POLL_S)
    except httpx.HTTPError as error:
        print(f"job {job} could not be stopped ({error}): stop it on the cluster", file=sys.stderr)
