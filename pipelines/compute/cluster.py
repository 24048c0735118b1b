"""Connection of this process to at most one Ray cluster, made on first use: a run with nothing to do starts none."""

import logging
import os
import secrets
import sys
from pathlib import Path

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


def fix_threads(threads: int) -> None:
    """Set fixed thread counts: workers do not compete for cores, and results do not depend on the machine.

    Texts are split into tokens on all of them too: with one thread a card waits for tokens most of the time.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    import torch

    torch.set_num_threads(threads)


def machine_cpus() -> int:
    return len(os.sched_getaffinity(0))


def connect(spec: ComputeSpec) -> None:
    """Connect this process to its cluster, once: the one at RAY_ADDRESS, or a local one.

    Workers of a cluster started elsewhere get our packages and the variables in SHIPPED, which hold no secrets. They
    take credentials from their own environment, because Ray writes what it ships into its logs. A local cluster
    inherits the environment of this process, listens on the loopback address only, and keeps its files in a folder of
    this user.
    """
    import ray

    if ray.is_initialized():
        return
    _quieten()
    quiet = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.WARNING}
    if address := foreign_address():
        require_reachable(address)
        print(f"  joining the Ray cluster at {address}", file=sys.stderr, flush=True)
        shipped = {"py_modules": own_packages(), "env_vars": _worker_environment()}
        try:
            ray.init(runtime_env=shipped, **quiet)
        except (ConnectionError, SystemExit) as error:  # Ray exits the process if a cluster stops answering
            raise ClusterUnreachable(unreachable(address, str(error))) from error
        return
    print("  starting a Ray cluster on this machine", file=sys.stderr, flush=True)
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        # Ray's own token file is readable by other users.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    ray.init(
        address="local",
        num_cpus=spec.cpus or machine_cpus() + 1,
        include_dashboard=False,
        _node_ip_address=LOOPBACK,
        _temp_dir=str(private_folder() / "ray"),
        **quiet,
    )


def _quieten() -> None:
    """Silence Ray's progress bars and logs; failures reach the caller as exceptions."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def shutdown() -> None:
    """Disconnect from the cluster. A cluster that was started here stops, with all its work."""
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def own_packages() -> list[str]:
    root = Path(__file__).resolve().parents[2]
    return [str(root / package) for package in PACKAGES]


def _worker_environment() -> dict[str, str]:
    """Return the variables of SHIPPED that are set and hold no secret; a value with `@` may hold a password."""
    return {name: os.environ[name] for name in SHIPPED if "@" not in os.environ.get(name, "@")}
