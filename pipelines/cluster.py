"""The Ray cluster of this process: at most one, connected to lazily, so that a run with nothing to do starts none."""

import logging
import os
import sys
from pathlib import Path

from pipelines.spec import ComputeSpec

PACKAGES = ("flows", "pipelines", "tokenizer", "training", "storage", "infra")


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

    Workers of a cluster that was started elsewhere get our packages shipped; a local one imports them from here.
    """
    import ray

    if ray.is_initialized():
        return
    _quieten()
    quiet = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.WARNING}
    if os.environ.get("RAY_ADDRESS"):
        print(f"  joining the Ray cluster at {os.environ['RAY_ADDRESS']}", file=sys.stderr, flush=True)
        ray.init(runtime_env={"py_modules": _own_packages(), "env_vars": _worker_environment()}, **quiet)
        return
    print("  starting a Ray cluster on this machine", file=sys.stderr, flush=True)
    ray.init(
        address="local",
        num_cpus=spec.cpus or machine_cpus() + 1,
        include_dashboard=False,
        runtime_env={"env_vars": _worker_environment()},
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
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("AWS_", "PREFECT_SERVER_ANALYTICS", "HF_HUB_")) or name in ("TOKENIZERS_PARALLELISM",)
    }
