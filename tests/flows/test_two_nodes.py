"""A Ray cluster that was started elsewhere: two nodes that share the lake and no other folder with the driver."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from test_runs import sids

from conftest import SMALL_RECIPE, write_items, write_log, write_recipe
from storage.lake import Lake
from storage.releases.models import models_of
from storage.releases.releases import read_release

RAY = str(Path(sys.executable).with_name("ray"))
ALIVE = "import sys; from ray._raylet import GcsClient; print(len(GcsClient(sys.argv[1]).get_all_node_info()))"
WITHIN_S = 240
START = [RAY, "start", "--block", "--node-ip-address=127.0.0.1", "--object-store-memory=200000000"]
DRIVERS = ("RAY_ADDRESS", "TMPDIR", "PREFECT_HOME")


@dataclass
class Cluster:
    """Nodes, each a group of processes with a temporary folder of its own, and what a driver has to know."""

    folder: Path
    short: Path
    environment: dict[str, str]
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add(self) -> None:
        """Start a node of two CPUs, which cannot see the driver's temporary folder (where the system allows that).

        It says that it has a GPU: placement is that of a node with one, and encoders run on the CPU.
        """
        number, address = len(self.nodes), self.environment["RAY_ADDRESS"]
        node = [*START, f"--address={address}", "--num-cpus=2", "--num-gpus=1", f"--temp-dir={self.short}/{number}"]
        if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode == 0:
            hide = f'mount -t tmpfs none {self.environment["TMPDIR"]} && exec "$@"'
            node = ["unshare", "-m", "sh", "-c", hide, "sh", *node]
        self.start(node)

    def start(self, command: list[str]) -> None:
        """Start a node and wait until it belongs to the cluster."""
        number = len(self.nodes)
        environment = {name: value for name, value in self.environment.items() if name not in DRIVERS}
        with (self.folder / f"node-{number}.txt").open("wb") as out:
            process = subprocess.Popen(
                command, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.nodes.append(process)
        end = time.monotonic() + 60
        while self._alive(environment) <= number:
            assert time.monotonic() < end, (self.folder / f"node-{number}.txt").read_text()
            time.sleep(0.3)

    def _alive(self, environment: dict[str, str]) -> int:
        asked = [sys.executable, "-c", ALIVE, self.environment["RAY_ADDRESS"]]
        done = subprocess.run(asked, env=environment, capture_output=True, text=True, check=False)
        return int(done.stdout) if done.returncode == 0 else 0

    def kill(self, node: int) -> None:
        """End all processes of a node at once."""
        os.killpg(self.nodes[node].pid, signal.SIGKILL)
        self.nodes[node].wait()

    def trains(self, node: int) -> bool:
        """True if a worker of a training runs on a node."""
        workers = subprocess.run(["pgrep", "-f", "RayTrainWorker"], capture_output=True, text=True, check=False)
        return any(self.nodes[node].pid in _ancestors(int(pid)) for pid in workers.stdout.split())


def _ancestors(pid: int) -> Iterator[int]:
    """The parents of a process, from the nearest on."""
    while pid > 1:
        with suppress(OSError):
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            yield pid
            continue
        return


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A head with three CPUs and a second node."""
    short, scratch = Path(f"/tmp/sd-nodes-{os.getpid()}"), tmp_path / "scratch"
    scratch.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    there = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PREFECT_"))} | secret
    driver = {"RAY_ADDRESS": f"127.0.0.1:{port}", "TMPDIR": str(scratch), "PREFECT_HOME": str(tmp_path / "prefect")}
    made = Cluster(tmp_path, short, there | driver)
    try:
        head = ["--head", f"--port={port}", "--include-dashboard=false", "--num-cpus=3", f"--temp-dir={short}/0"]
        made.start([*START, *head])
        made.add()
        yield made
    finally:
        for number, each in enumerate(made.nodes):
            if each.poll() is None:
                made.kill(number)
        shutil.rmtree(short, ignore_errors=True)


def _inputs(folder: Path) -> list[str]:
    """A catalogue, its log, and a recipe whose stages commit often, as arguments of a bootstrap."""
    rows = write_items(folder / "in" / "items.jsonl", 0, 120)
    write_log(folder / "in" / "log.csv", [str(row["item_id"]) for row in rows], users=40, events=1500)
    sections = {**SMALL_RECIPE, "compute": {"in_process_below": 0, "chunk_rows": 20, "encoder_workers": 2}}
    write_recipe(folder / "in" / "r.toml", sections)
    items, log = str(folder / "in" / "items.jsonl"), str(folder / "in" / "log.csv")
    return ["run", "bootstrap", "--recipe", str(folder / "in" / "r.toml"), "--items", items, "--interactions", log]


def _run(
    cluster: Cluster, arguments: list[str], lake: Path, kill: Callable[[Path], int] | None = None, **more: str
) -> str:
    """Run a command on the cluster; kill the node that `kill` names once it names one. Returns the output."""
    path = cluster.folder / f"{lake.name}-{arguments[1]}.txt"
    command = [sys.executable, "-m", "flows.cli.main", *arguments, "--lake", str(lake)]
    with path.open("wb") as out:
        running = subprocess.Popen(
            command, env=cluster.environment | more, cwd=cluster.folder, stdout=out, stderr=subprocess.STDOUT
        )
        end = time.monotonic() + WITHIN_S
        while running.poll() is None and time.monotonic() < end:
            if kill is not None and (node := kill(path)):
                cluster.kill(node)
                kill = None
            time.sleep(0.1)
        running.kill()
    assert running.wait() == 0, path.read_text()
    assert kill is None, "nothing was killed"
    return path.read_text()


SHIPPED = """
from infra.settings import configure
configure()
import ray
import pyarrow as pa
from pipelines.compute.cluster import connect
from pipelines.compute.executors import OnRay
from pipelines.embed.stages import EmbedText
from pipelines.spec import ComputeSpec, TextSpec
spec = ComputeSpec.model_validate({"stages": {"embed_text": {"num_gpus": 0.5}}})
connect(spec)
def where():
    import os, pipelines, ray
    return os.sep.join(pipelines.__file__.split(os.sep)[:4]), ray.get_runtime_context().get_node_id()
found = ray.get([ray.remote(where).options(scheduling_strategy="SPREAD").remote() for _ in range(8)])
texts = pa.table({"item_id": ["a", "b", "c"], "text": ["one", "two", "three"]})
encoded = pa.concat_tables(OnRay(spec).map(EmbedText, {"spec": TextSpec()}, texts, 2))
assert encoded["vector"].null_count == 0
print(*sorted({folder for folder, _ in found}), len({node for _, node in found}), encoded.num_rows)
"""


@pytest.mark.slow
def test_workers_of_every_node_import_what_the_driver_sent_and_encode_on_a_share_of_a_gpu(cluster: Cluster) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHIPPED], env=cluster.environment, cwd=cluster.folder, capture_output=True, text=True
    )
    short = str(cluster.short)
    assert done.stdout.split() == [f"{short}/0", f"{short}/1", "2", "3"], done.stderr


@pytest.mark.slow
def test_a_bootstrap_and_a_night_that_lose_a_node_end_with_the_bytes_of_one_machine(
    cluster: Cluster, tmp_path: Path
) -> None:
    bootstrap, whole, hit = _inputs(tmp_path), tmp_path / "whole", tmp_path / "hit"
    alone = {"RAY_ADDRESS": "", "RAY_AUTH_MODE": "", "RAY_TMPDIR": str(cluster.short)}
    _run(cluster, bootstrap, whole, **alone)

    _run(cluster, bootstrap, hit, lambda _: int(hit.exists() and Lake(str(hit)).version("vectors") >= 2))
    expected, found = (read_release(Lake(str(lake)), "r-000001") for lake in (whole, hit))
    assert found.codebook.id == expected.codebook.id
    assert sids(Lake(str(hit)), "r-000001") == sids(Lake(str(whole)), "r-000001")

    write_items(tmp_path / "in" / "night.jsonl", 120, 20)
    night = ["run", "nightly", "--items", str(tmp_path / "in" / "night.jsonl")]
    _run(cluster, night, hit)
    _run(cluster, night, whole, **alone)
    assert sids(Lake(str(hit)), "r-000002") == sids(Lake(str(whole)), "r-000002")


@pytest.mark.slow
def test_a_training_that_loses_a_node_trains_on_the_same_events(cluster: Cluster, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    cluster.add()  # with two nodes of two CPUs and a head of three, four workers need more than one node

    def one_that_trains(path: Path) -> int:
        if "train epoch 2 of 6" not in path.read_text():
            return 0
        return next(node for node in (1, 2) if cluster.trains(node))

    _run(cluster, _inputs(tmp_path), lake)
    train = ["run", "train", "--set", "train.epochs=6", "--set", "train.workers=4"]
    said = _run(cluster, train, lake, one_that_trains)
    assert "train epoch 6 of 6" in said
    assert said.count("is lost, and 2 are left; its workers are replaced") == 1
    assert len([line for line in said.splitlines() if "raylet" in line]) <= 3, "Ray tells of it too"
    (model,) = models_of(Lake(str(lake)), "r-000001")
    assert [row["epoch"] for row in model.card.history] == list(range(6))
    assert len({row["targets"] for row in model.card.history}) == 1
