"""Process settings that must be in the environment before Ray, Prefect or torch are imported.

Settings of the user take precedence; telemetry is off unless the user turned it on.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.heaps import limit_heaps

DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
    "PREFECT_LOGGING_LEVEL": "INFO",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # people see only our own lines and errors
    "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "RUST_LOG": "error",  # missing credentials of a store are reported by our error, not by warnings of its client
    # The allocators of polars and Arrow return freed memory after 10 ms. By default they keep it for half a second and
    # more, and a sort or a join takes twice the memory. Returned at once, memory that is asked for again costs a fifth
    # of the time of an ingest.
    "_RJEM_MALLOC_CONF": "dirty_decay_ms:10,muzzy_decay_ms:0",
    "MIMALLOC_PURGE_DELAY": "10",
}
PURGE, OF_WORKERS = "MIMALLOC_PURGE_DELAY", "1000"
"""Milliseconds after which Arrow returns memory in workers of a cluster on this machine, which hold parts of items."""


def configure() -> None:
    """Set every default that the environment lacks, which workers that this process starts inherit; limit heaps."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if "RAY_ADDRESS" not in os.environ:
        # Despite its name this applies on Linux too: a local cluster then listens on the loopback address only.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if "RAY_ADDRESS" not in os.environ or _has_ray_token():
        # A local cluster accepts work from its user only; one started elsewhere uses a token if there is one.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    limit_heaps()
    # Without .pyc files, importing the encoders takes three times as long in every worker.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@contextmanager
def settings_of_workers() -> Iterator[None]:
    """Give processes that are started meanwhile the setting of workers, unless the user has one."""
    ours = os.environ.get(PURGE)
    if ours != DEFAULTS[PURGE]:
        yield
        return
    os.environ[PURGE] = OF_WORKERS
    try:
        yield
    finally:
        os.environ[PURGE] = ours


def _has_ray_token() -> bool:
    named = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    return named or (Path.home() / ".ray" / "auth_token").is_file()
