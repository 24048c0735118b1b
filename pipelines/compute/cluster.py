"""Connection of this process to at most one Ray cluster, made on first use: a run with nothing to do starts none."""

import logging
import os
import secrets
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from infra.settings import settings_of_workers
from pipelines.compute.ray_address import (
    ClusterUnreachable,
    foreign_address,
    private_folder,
    require_reachable,
    unreachable,
)
from pipelines.spec import ComputeSpec

# Our packages, which are sent to workers of a cluster started elsewhere.
PACKAGES = ("sidmill", "flows", "pipelines", "training", "tokenizer", "storage", "learning", "plugins", "infra")
LOOPBACK = "127.0.0.1"
LOADED_AHEAD = 4
"""Most workers that import libraries before there is a task for them; each takes 0.3 GB."""
LEAVE_S = 1.0
"""Seconds that a connection to a cluster elsewhere may still take to be made when it is no longer wanted."""
QUIET: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.WARNING}
"""Options of `ray.init`: its logs stay in its files."""
SHIPPED = (
    "AWS_ALLOW_HTTP",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
    "HF_HUB_DISABLE_TELEMETRY",
    "HF_HUB_OFFLINE",
    "PREFECT_SERVER_ANALYTICS_ENABLED",
    "TOKENIZERS_PARALLELISM",
)
"""Environment variables sent to workers of a cluster started elsewhere."""


def fix_threads(threads: int, torch_too: bool = True) -> None:
    """Set fixed thread counts: workers do not compete for cores, and results do not depend on the machine.

    Texts are split into tokens on all of them too: with one thread a card waits for tokens most of the time.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    if torch_too:  # which takes seconds to import
        import torch

        torch.set_num_threads(threads)


def machine_cpus() -> int:
    return len(os.sched_getaffinity(0))


class _Connection:
    """The connection to a cluster, made by a thread that lives as long as it.

    The processes of a cluster that is started here end with the thread that started them. A connection made by the
    main thread would replace its handler of SIGTERM, and while Ray waits for an answer, no signal is heeded there.
    """

    def __init__(self, make: Callable[[], None], *, to_own: bool) -> None:
        """Begin to connect by `make`; `to_own` says that it starts a cluster on this machine."""
        self._make, self._to_own = make, to_own
        self._made: Future[None] = Future()
        self._over = threading.Event()
        self._left = False
        threading.Thread(target=self._live, name="ray-cluster", daemon=True).start()

    def _live(self) -> None:
        try:
            self._make()
        except BaseException as error:  # noqa: BLE001 - raised where the connection is waited for
            self._made.set_exception(error)
            return
        self._made.set_result(None)
        self._over.wait()
        if self._left:
            _disconnect()

    @property
    def is_over(self) -> bool:
        """True if it could not be made, or Ray was shut down since."""
        return self._made.done() and not _is_connected()

    def wait(self) -> None:
        """Wait until it is made; raise the error of its making."""
        self._made.result()

    def stop(self) -> None:
        """Disconnect. A cluster that was started here stops, with all its work; its start is waited for.

        A cluster elsewhere that does not answer is left to the thread, which disconnects from it if it does.
        """
        with suppress(Exception):
            self._made.result(None if self._to_own else LEAVE_S)
        self._left = not self._made.done()
        if not self._left:
            _disconnect()
        self._over.set()


_connection: _Connection | None = None
"""The connection that this process began to make."""


def begin_to_connect(spec: ComputeSpec, *, load: bool = False) -> None:
    """Begin to connect to the cluster that `connect` waits for: a local one takes seconds to start.

    With `load`, workers of a local one begin to import what tasks need.
    """
    global _connection
    if _connection is not None and _connection.is_over:
        shutdown()
    if _connection is not None or _is_connected():
        return
    if address := foreign_address():
        require_reachable(address)
        print(f"  joining the Ray cluster at {address}", file=sys.stderr, flush=True)
        _connection = _Connection(partial(_join, address), to_own=False)
        return
    print("  starting a Ray cluster on this machine", file=sys.stderr, flush=True)
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        # Ray's own token file is readable by other users.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    _connection = _Connection(partial(_start_local, spec, load), to_own=True)


def connect(spec: ComputeSpec) -> None:
    """Connect this process to its cluster, once: the one at RAY_ADDRESS, or a local one.

    Workers of a cluster started elsewhere get our packages and the variables in SHIPPED, which hold no secrets. They
    take credentials from their own environment, because Ray writes what it ships into its logs. A local cluster
    inherits the environment of this process, listens on the loopback address only, and keeps its files in a folder of
    this user.
    """
    begin_to_connect(spec)
    if _connection is not None:
        _connection.wait()


def _join(address: str) -> None:
    import ray

    _quieten()
    shipped = {"py_modules": own_packages(), "env_vars": _worker_environment()}
    try:
        ray.init(runtime_env=shipped, **QUIET)
    except ConnectionError as error:
        raise ClusterUnreachable(unreachable(address, str(error))) from error
    except SystemExit as error:  # Ray exits the process if a cluster stops answering
        raise ClusterUnreachable(unreachable(address, "it stopped answering while this process joined it")) from error


def _start_local(spec: ComputeSpec, load: bool) -> None:
    import ray

    _quieten()
    with settings_of_workers():
        ray.init(
            address="local",
            num_cpus=spec.cpus or machine_cpus() + 1,
            include_dashboard=False,
            _node_ip_address=LOOPBACK,
            _temp_dir=str(private_folder() / "ray"),
            **QUIET,
        )
    if load:
        begin = ray.remote(num_cpus=0, max_retries=0)(fix_threads)  # which imports torch, and every task begins with
        for _ in range(min(machine_cpus(), LOADED_AHEAD)):
            begin.remote(1)  # nobody waits for it


def _quieten() -> None:
    """Silence Ray's progress bars and logs; failures reach the caller as exceptions."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def shutdown() -> None:
    """Disconnect from the cluster. A cluster that was started here stops, with all its work."""
    global _connection
    if _connection is not None:
        _connection.stop()
        _connection = None
    else:
        _disconnect()


def _is_connected() -> bool:
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def _disconnect() -> None:
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def own_packages() -> list[str]:
    root = Path(__file__).resolve().parents[2]
    return [str(root / package) for package in PACKAGES]


def _worker_environment() -> dict[str, str]:
    """Return the variables of SHIPPED that are set and hold no secret; a value with `@` may hold a password."""
    return {name: os.environ[name] for name in SHIPPED if "@" not in os.environ.get(name, "@")}
