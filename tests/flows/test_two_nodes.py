"""A Ray cluster that was started elsewhere: two nodes that share the lake and no other folder with the driver."""

import json
import os
import pickle
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from bench.faults.lake_contents import contents, differences
from conftest import SMALL_RECIPE, write_items, write_log, write_recipe
from learning.trainable import Cursor
from storage.lake import Lake
from storage.releases.models import models_of
from storage.releases.releases import read_release
from training.data import histories

RAY = str(Path(sys.executable).with_name("ray"))
ALIVE = "import sys; from ray._raylet import GcsClient; print(len(GcsClient(sys.argv[1]).get_all_node_info()))"
WITHIN_S = 240
START = [RAY, "start", "--block", "--node-ip-address=127.0.0.1", "--object-store-memory=200000000"]
ENCODES = "MapWorker"
"""Title of workers that encode; the recipe has no other stage on Ray Data."""
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

    def works(self, node: int, title: str) -> bool:
        """True if a process with a title, as Ray gives to its workers, runs on a node."""
        workers = subprocess.run(["pgrep", "-f", f"^ray::{title}"], capture_output=True, text=True, check=False)
        return any(self.nodes[node].pid in _ancestors(int(pid)) for pid in workers.stdout.split())


def _ancestors(pid: int) -> Iterator[int]:
    """The parents of a process, from the nearest on."""
    while pid > 1:
        with suppress(OSError):
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            yield pid
            continue
        return


def taken(folder: Path) -> dict[tuple[int, int], list[str]]:
    """Return the events of each step of all workers; a repeated step with the same events counts once."""
    steps: dict[tuple[int, int], set[str]] = {}
    for path in folder.glob("taken-*"):
        for epoch, sample, events in map(json.loads, path.read_text().splitlines()):
            steps.setdefault((epoch, sample), set()).update(events)
    return {at: sorted(events) for at, events in steps.items()}


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
    sections = {**SMALL_RECIPE, "compute": {"in_process_below": 0, "chunk_rows": 10, "encoder_workers": 2}}
    write_recipe(folder / "in" / "r.toml", sections)
    items, log = str(folder / "in" / "items.jsonl"), str(folder / "in" / "log.csv")
    return ["run", "bootstrap", "--recipe", str(folder / "in" / "r.toml"), "--items", items, "--interactions", log]


def _run(
    cluster: Cluster,
    arguments: list[str],
    lake: Path,
    disturb: Callable[[Path], bool] | None = None,
    *,
    program: Sequence[str] = (sys.executable, "-m", "flows.cli.main"),
    **more: str,
) -> str:
    """Run a command on the cluster; call `disturb` with its output till it has killed a node. Returns the output."""
    path = cluster.folder / f"{lake.name}-{arguments[1]}.txt"
    command = [*program, *arguments, "--lake", str(lake)]
    with path.open("wb") as out:
        running = subprocess.Popen(
            command, env=cluster.environment | more, cwd=cluster.folder, stdout=out, stderr=subprocess.STDOUT
        )
        end = time.monotonic() + WITHIN_S
        while running.poll() is None and time.monotonic() < end:
            if disturb is not None and disturb(path):
                disturb = None
            time.sleep(0.1)
        running.kill()
    assert running.wait() == 0, path.read_text()
    assert disturb is None, "nothing was killed"
    return path.read_text()


RECORDED = """
import json, os, pickle, sys, time
from pathlib import Path
from flows.cli import main
from flows.steps import training
from training.objectives.next_code import NextCode

record = Path(sys.argv[1])

class Recording(NextCode):
    # Writes the events of each step of a worker, and the plan of them all.
    def batches(self, rank, world, cursor):
        draft = record / f"draft-{os.getpid()}"
        draft.write_bytes(pickle.dumps((self.plan, self.read_bucket)))
        draft.rename(record / "plan")
        self.at = []
        for each in super().batches(rank, world, cursor):
            self.at.append(each)
            yield each

    def loss(self, module, batch):
        (cursor,) = (cursor for each, cursor in self.at if each.event_ids is batch.event_ids)
        with (record / f"taken-{os.getpid()}").open("a") as steps:
            steps.write(json.dumps([cursor.epoch, cursor.sample, batch.event_ids.to_pylist()]) + "\\n")
        time.sleep(0.1)  # there is time to kill it
        return super().loss(module, batch)

def recording(spec, plan, read_bucket, origin, *, objective, start=None):
    return Recording(spec, plan, read_bucket, origin, objective=objective, start=start)

training.generator_training = recording
del sys.argv[1]
main.main()
"""
"""Program that does what `sidmill` does, and records the events that workers train on: folder, then arguments."""


def made_in(lake: Lake) -> dict[str, list[str]]:
    """Return all that a lake holds: hashes of codebooks and tries, SIDs, vectors and the rows of the other tables.

    Vectors are stored in more commits if a worker is lost, so the number of these commits is left out.
    """
    found = contents(lake)
    rows = [json.loads(row) for row in found["releases"]]
    for row in rows:
        del row["manifest"]["versions"]["vectors"]
        assert row["manifest"]["trie"]["sha256"]
    return {**found, "releases": sorted(json.dumps(row, sort_keys=True) for row in rows)}


SHIPPED = """
from infra.settings import configure
configure()
import ray
import pyarrow as pa
from pipelines.compute.cluster import connect
from pipelines.compute.executors import OnRay
from pipelines.embed.protocol import apply
from pipelines.embed.stages import EmbedText
from pipelines.spec import ComputeSpec, TextSpec
spec = ComputeSpec.model_validate({"stages": {"embed_text": {"num_gpus": 0.5}}})
connect(spec)
def where():
    import os, pipelines, ray
    return os.sep.join(pipelines.__file__.split(os.sep)[:4]), ray.get_runtime_context().get_node_id()
found = ray.get([ray.remote(where).options(scheduling_strategy="SPREAD").remote() for _ in range(8)])
texts = pa.table({"item_id": ["a", "b", "c"], "text": ["one", "two", "three"]})
class Texts:
    stage = EmbedText
    def start(self):
        stage = EmbedText(TextSpec())
        return lambda part: apply(stage, part)
encoded = pa.concat_tables([made for _, made in OnRay(spec).map(Texts(), [texts.slice(0, 2), texts.slice(2)])])
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
def test_a_bootstrap_and_a_night_that_each_lose_a_node_end_with_the_bytes_of_one_machine(
    cluster: Cluster, tmp_path: Path
) -> None:
    bootstrap, whole, hit = _inputs(tmp_path), tmp_path / "whole", tmp_path / "hit"
    alone = {"RAY_ADDRESS": "", "RAY_AUTH_MODE": "", "RAY_TMPDIR": str(cluster.short)}
    write_items(tmp_path / "in" / "night.jsonl", 120, 100)
    night = ["run", "nightly", "--items", str(tmp_path / "in" / "night.jsonl")]

    def while_it_encodes(node: int, items: int, _: Path) -> bool:
        """Kill the node once some of the vectors are stored; the worker there has others to encode."""
        stored = partial(Lake(str(hit)).rows, "vectors")
        if not (hit.exists() and Lake(str(hit)).exists("vectors") and stored() > before):
            return False
        assert cluster.works(node, ENCODES)
        cluster.kill(node)
        assert stored() < before + items
        return True

    for number, (command, items) in enumerate(((bootstrap, 120), (night, 100)), start=1):
        if number == 2:
            cluster.add()  # in the place of the one that was killed
        command += ["--as-of", f"2024-03-1{number}"]
        _run(cluster, command, whole, **alone)
        before = Lake(str(hit)).rows("vectors") if hit.exists() else 0
        _run(cluster, command, hit, partial(while_it_encodes, number, items))
        assert differences(*(made_in(Lake(str(lake))) for lake in (whole, hit))) == []
        assert read_release(Lake(str(hit)), "production").id == f"r-00000{number}"


@pytest.mark.slow
def test_a_training_that_loses_a_node_trains_on_the_same_events(cluster: Cluster, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    cluster.add()  # with two nodes of two CPUs and a head of three, four workers need more than one node
    _run(cluster, _inputs(tmp_path), lake)
    record = tmp_path / "record"
    record.mkdir()

    def in_the_third_epoch(_: Path) -> bool:
        begun = max((epoch for epoch, _ in taken(record)), default=0)
        if begun < 2:
            return False
        cluster.kill(next(node for node in (1, 2) if cluster.works(node, "RayTrainWorker")))
        assert max(epoch for epoch, _ in taken(record)) < 5
        return True

    train = ["run", "train", "--set", "train.epochs=6", "--set", "train.workers=4", "--set", "train.batch_size=16"]
    program = [sys.executable, "-c", RECORDED, str(record)]
    said = _run(cluster, train, lake, in_the_third_epoch, program=program)
    assert "train epoch 6 of 6" in said
    assert said.count("is lost, and 2 are left; its workers are replaced") == 1
    assert len([line for line in said.splitlines() if "raylet" in line]) <= 3, "Ray tells of it too"
    (model,) = models_of(Lake(str(lake)), "r-000001")
    assert [row["epoch"] for row in model.card.history] == list(range(6))
    assert len({row["targets"] for row in model.card.history}) == 1

    assert len(list(record.glob("taken-*"))) > 4, "others took the steps that were left"
    plan, read = pickle.loads((record / "plan").read_bytes())
    starts = [Cursor(plan.hash, epoch) for epoch in range(6)]
    undisturbed = {
        (cursor.epoch, cursor.sample): sorted(batch.event_ids.to_pylist())
        for start in starts
        for batch, cursor in histories.batches(plan, read, 0, 1, start)
    }
    assert taken(record) == undisturbed
