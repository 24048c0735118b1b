"""The Ray cluster of this process: at most one, connected to lazily, so that a run with nothing to do starts none."""

import logging
import os
import secrets
import sys
from pathlib import Path

from pipelines.ray_address import ClusterUnreachable, foreign_address, private_folder, require_reachable, unreachable
from pipelines.spec import ComputeSpec

PACKAGES = ("flows", "pipelines", "training", "tokenizer", "storage", "learning", "plugins", "infra")
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
"""Settings that workers of a cluster started elsewhere are given."""


def fix_threads(threads: int) -> None:
    """Fixed thread counts, so that workers do not fight for cores and results do not depend on the machine."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    import torch

    torch.set_num_threads(threads)


def machine_cpus() -> int:
    return len(os.sched_getaffinity(0))


def connect(spec: ComputeSpec) -> None:
    """Connect this process to its cluster once: RAY_ADDRESS, or a local one.

    Workers of a cluster that was started elsewhere get our packages and the settings that are no secrets; credentials
    they have from their own environment, for Ray writes what it ships into its logs. A local cluster inherits the
    environment of this process, listens on the loopback address alone, and keeps its files in a folder of this user.
    """
    import ray

    if ray.is_initialized():
        return
    _quieten()
    quiet = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.WARNING}
    if address := foreign_address():
        require_reachable(address)
        print(f"  joining the Ray cluster at {address}", file=sys.stderr, flush=True)
        shipped = {"py_modules": _own_packages(), "env_vars": _worker_environment()}
        try:
            ray.init(runtime_env=shipped, **quiet)
        except (ConnectionError, SystemExit) as error:  # Ray ends the process where a cluster stops answering
            raise ClusterUnreachable(unreachable(address, str(error))) from error
        return
    print("  starting a Ray cluster on this machine", file=sys.stderr, flush=True)
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        # Ray's own token lies in a file that other users can read.
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
    """Ray speaks through its failures only; they reach the caller as exceptions."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def shutdown() -> None:
    """Leave the cluster; one that was started here stops, with all the work of this process."""
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def _own_packages() -> list[str]:
    root = Path(__file__).resolve().parent.parent
    return [str(root / package) for package in PACKAGES]


def _worker_environment() -> dict[str, str]:
    """Settings that workers elsewhere need and that are no secrets; an address with a password in it is one."""
    return {name: os.environ[name] for name in SHIPPED if "@" not in os.environ.get(name, "@")}
