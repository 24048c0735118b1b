"""A cluster of our own: no secret in its files, no door to other machines or users."""

import os
import stat
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from infra.settings import DEFAULTS, OF_WORKERS, PURGE, settings_of_workers
from pipelines.compute import placement as placing
from pipelines.compute.cluster import _worker_environment, own_packages
from pipelines.compute.placement import TaskStage, placement
from pipelines.compute.ray_address import private_folder
from pipelines.ingest.events.judged import ReadLog
from pipelines.spec import ComputeSpec

ROOT = Path(__file__).parents[2]
CANARIES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "PREFECT_API_KEY", "HF_TOKEN")

DRIVER = """
import os, sys, time
from infra.settings import configure
configure()
from pipelines.compute.cluster import connect, shutdown
from pipelines.spec import ComputeSpec
import ray
connect(ComputeSpec(cpus=2))
print(ray.get(ray.remote(lambda: os.environ["AWS_SECRET_ACCESS_KEY"]).remote()))
print(ray.nodes()[0]["NodeManagerAddress"], os.environ["RAY_AUTH_TOKEN"], flush=True)
sys.stdin.readline()
shutdown()
"""

AHEAD = """
import os, signal, sys, threading, time
from infra.settings import configure
configure()
from pipelines.compute.cluster import begin_to_connect, connect, shutdown
from pipelines.spec import ComputeSpec
before = signal.getsignal(signal.SIGTERM)
os.environ["RAY_TMPDIR"] = "/proc/nowhere"
begin_to_connect(ComputeSpec(cpus=2))
try:
    connect(ComputeSpec(cpus=2))
except Exception as error:
    print("refused:", type(error).__name__, flush=True)
os.environ["RAY_TMPDIR"] = sys.argv[1]
start = time.monotonic()
begin_to_connect(ComputeSpec(cpus=2))
asked = time.monotonic() - start
shutdown()
print("stopped while it started:", not sys.modules["ray"].is_initialized())
begin_to_connect(ComputeSpec(cpus=2))
connect(ComputeSpec(cpus=2))
waited = time.monotonic() - start
import ray
print("works:", ray.get(ray.remote(lambda: 3).remote()), asked < 0.1 * waited)
print("handler kept:", signal.getsignal(signal.SIGTERM) is before, flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


LOADED = """
import sys, time
from infra.settings import configure
configure()
from pipelines.compute.cluster import connect, shutdown
from pipelines.compute.executors import OnRay
from pipelines.spec import ComputeSpec
OnRay(ComputeSpec(cpus=2)).prepare(1_000_000)
connect(ComputeSpec(cpus=2))
import ray
is_loaded = ray.remote(num_cpus=0)(lambda: "torch" in sys.modules)
deadline = time.monotonic() + 60
while not ray.get(is_loaded.remote()) and time.monotonic() < deadline:
    time.sleep(0.2)
print("loaded" if time.monotonic() < deadline else "not loaded")
shutdown()
"""


def listening(pids: set[int]) -> set[str]:
    """Addresses that these processes listen on, from the tables of the kernel."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(link.readlink())
            except OSError:
                continue  # closed meanwhile
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            cells = line.split()
            if cells[3] == "0A" and cells[9] in inodes:
                found.add(cells[1].split(":")[0])
    return found


def below(pid: int) -> set[int]:
    """The process and all that descend from it."""
    parents = {}
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                parents[int(each.name)] = int((each / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # ended meanwhile
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def test_every_package_of_the_wheel_is_sent_to_a_cluster_started_elsewhere_from_where_it_lies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(own_packages()) == sorted(str(ROOT / package) for package in wheel)
    assert all(Path(package, "__init__.py").is_file() for package in own_packages())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_cluster_of_our_own_gives_workers_the_secrets_and_writes_none_and_listens_on_loopback(
    tmp_path: Path,
) -> None:
    short = Path(f"/tmp/sidmill-test-{os.getpid()}")
    environment = {**os.environ, **{name: f"canary-{name}" for name in CANARIES}, "RAY_TMPDIR": str(short)}
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        environment.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline().strip() == "canary-AWS_SECRET_ACCESS_KEY"
        address, token = process.stdout.readline().split()
        pids = below(process.pid)
        addresses = listening(pids)
        commands = "".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in pids)
    finally:
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()
    assert address == "127.0.0.1"
    assert addresses
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    (folder,) = short.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    written = b"".join(path.read_bytes() for path in files)
    assert b"canary-" not in written
    assert "canary-" not in commands
    assert token.encode() not in written
    assert token not in commands
    subprocess.run(["rm", "-r", str(short)], check=True)


def test_a_cluster_starts_beside_other_work_and_ends_with_this_process(tmp_path: Path) -> None:
    short = Path(f"/tmp/sidmill-ahead-{os.getpid()}")
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    process = subprocess.Popen(
        [sys.executable, "-c", AHEAD, str(short)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = [process.stdout.readline().strip() for _ in range(4)]
        found = below(process.pid) - {process.pid}
        pids = {pid for pid in found if b"Agent" not in Path(f"/proc/{pid}/cmdline").read_bytes()}  # these end later
        process.stdin.write("\n")
        process.stdin.flush()
        process.wait(timeout=60)
    finally:
        process.kill()
        process.stdin.close()
        process.stdout.close()
    assert said[0].startswith("refused: ")
    assert said[1:] == ["stopped while it started: True", "works: 3 True", "handler kept: True"]
    assert len(pids) >= 2
    deadline = time.monotonic() + 20
    while (left := {pid for pid in pids if Path(f"/proc/{pid}").exists()}) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == set()
    subprocess.run(["rm", "-r", str(short)], check=True)


def test_a_cluster_elsewhere_is_shipped_settings_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*CANARIES, "AWS_WEB_IDENTITY_TOKEN", "HF_HUB_TOKEN"):
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:canary@store:9000")
    shipped = _worker_environment()
    assert "canary" not in " ".join(shipped.values())
    assert shipped["AWS_REGION"] == "eu-west-1"


def test_the_folder_of_a_cluster_is_never_one_that_somebody_else_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Path(f"/tmp/sd-{os.getpid()}")
    short.mkdir()
    try:
        monkeypatch.setenv("RAY_TMPDIR", str(short))
        (short / f"sidmill-{os.getuid()}").symlink_to(tmp_path)
        found = private_folder()
        assert found.resolve() != tmp_path.resolve()
        assert stat.S_IMODE(found.stat().st_mode) == 0o700
    finally:
        subprocess.run(["rm", "-r", str(short)], check=True)


@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize("letter", ["x", "\u00e9"])
@pytest.mark.parametrize("characters", [20, 23, 29, 30, 31, 35, 40, 60])
def test_a_socket_of_ray_fits_whatever_folder_for_temporary_files_is_set(
    characters: int, letter: str, taken: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = Path(f"/tmp/sd-{os.getpid()}-".ljust(characters, letter))
    base.mkdir()
    try:
        if taken:
            (base / f"sidmill-{os.getuid()}").symlink_to(tmp_path)
        monkeypatch.setenv("RAY_TMPDIR", str(base))
        socket = f"{private_folder()}/ray/session_2026-11-28_06-46-17_412496_{os.getpid():07}/sockets/plasma_store"
        assert len(socket.encode()) <= 107
    finally:
        subprocess.run(["rm", "-r", str(base)], check=True)


def test_workers_keep_freed_memory_longer_unless_the_user_says_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    for before, inside in ((DEFAULTS[PURGE], OF_WORKERS), ("77", "77")):
        monkeypatch.setenv(PURGE, before)
        with settings_of_workers():
            assert os.environ[PURGE] == inside
        assert os.environ[PURGE] == before


def test_workers_of_a_cluster_elsewhere_are_as_many_as_its_cpus_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, spec = {"CPU": 64.0}, ComputeSpec(encoder_workers=3)
    monkeypatch.setattr(placing, "machine_cpus", lambda: 2)
    for address, served in (("", 2), ("10.0.0.7:6379", 64)):
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert placement(spec, TaskStage, 100, cluster)[1] == served, "encoder_workers are those of encoders"
        assert placement(spec, ReadLog, 10, cluster)[1] == min(served, 10), "no more than there is work for"


def test_workers_import_what_tasks_need_before_there_is_one() -> None:
    """While the process of the run does something else."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", LOADED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=180)
    assert done.stdout == "loaded\n", done.stderr[-2000:]
