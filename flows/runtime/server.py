"""The Prefect server of a process: the configured one, or one that is started here and ends with the process.

Prefect starts temporary servers too, but in our process group: Ctrl-C ends such a server before the run can report its
state, and it outlives a killed run. A server started here has its own session and dies with its parent.
"""

import atexit
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

# Most seconds to wait for a new server.
READY_WITHIN_S = 180.0
HOST = "127.0.0.1"
SERVER_LOGIN, CLIENT_LOGIN = "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"
# Option of prctl(2): the signal that a process gets when its parent dies.
_PR_SET_PDEATHSIG = 1
_AS_LONG_AS_THE_PROCESS = ExitStack()


class ServerNotReadyError(RuntimeError):
    """Raised if the Prefect server does not start."""


def ensure_server(
    port: int | None = None, with_services: bool = False, meanwhile: Callable[[], object] = lambda: None
) -> str:
    """Return the API URL of the configured server, else of one started here that ends with this process.

    `with_services` also runs its scheduler, triggers and web pages. A server started here requires a login, which is in
    the environment of this process and its children. Without it, any user of the machine could start flows as us.
    `meanwhile` is called while the server starts.
    """
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_API_URL

    configured = PREFECT_API_URL.value()
    if configured:
        return str(configured)
    print("starting a Prefect server that ends with this command", file=sys.stderr, flush=True)
    chosen = port or _free_port()
    _require_free(chosen)
    url = f"http://{HOST}:{chosen}/api"
    os.environ |= dict.fromkeys((SERVER_LOGIN, CLIENT_LOGIN), _login(kept=with_services))
    server = _start(chosen, url, with_services)
    meanwhile()
    _wait_until_ready(url, server)
    os.environ["PREFECT_API_URL"] = url
    refresh_global_settings_context()
    if not with_services:
        _AS_LONG_AS_THE_PROCESS.enter_context(without_heartbeats())
    return url


@contextmanager
def without_heartbeats() -> Iterator[None]:
    """Have flow runs send no heartbeats: at its end each would wait up to a second for the thread that sends them.

    Prefect tells by them that a run died, where somebody watches its server. Nobody watches one that dies with the run.
    """
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def login_file() -> Path:
    """Return the file with the login of the served pages, kept between starts; only this user can read it."""
    from prefect.settings import PREFECT_HOME

    return Path(PREFECT_HOME.value()) / "sidmill-login"


def _login(kept: bool) -> str:
    """Return the login in the environment, else the kept one, else a new one."""
    given = os.environ.get(SERVER_LOGIN) or os.environ.get(CLIENT_LOGIN)
    if given:
        return given
    if not kept:
        return f"sidmill:{secrets.token_urlsafe(32)}"
    path = login_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        path.chmod(0o600)
        if found := path.read_text().strip():
            return found
        raise ServerNotReadyError(
            f"the login file {path} is empty: delete it, and start the server again to get a new login."
        ) from None
    with os.fdopen(descriptor, "w") as file:
        file.write(f"sidmill:{secrets.token_urlsafe(32)}")
    return path.read_text()


def _require_free(port: int) -> None:
    """Refuse a port in use, because its listener would get the login."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServerNotReadyError(
                f"port {port} of {HOST} cannot be used ({error}): choose another port with --port, or set the "
                "address of a running server "
                "in PREFECT_API_URL."
            ) from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _start(port: int, url: str, with_services: bool) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    # The API does not answer pages of other origins; the server's own pages need no permission.
    environment = {**os.environ, "PREFECT_API_URL": url, "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{port}"}
    if not with_services:
        # As in Prefect's temporary server, states and task runs are recorded; nothing is scheduled or triggered.
        environment |= {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT_UI_ENABLED": "0"}
    server = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
        umask=0o077,  # its database has the parameters of all flow runs
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )
    atexit.register(_stop, server)
    return server


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(server: "subprocess.Popen[bytes]") -> None:
    server.terminate()
    try:
        server.wait(timeout=10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _wait_until_ready(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ServerNotReadyError(
                f"`prefect server start` ended with exit code {server.returncode}; the port may be in use. Choose "
                "another port with --port, or set the address of a running server in PREFECT_API_URL."
            )
        try:
            if httpx.get(f"{url}/health", timeout=2).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            time.sleep(0.2)  # not listening yet
    raise ServerNotReadyError(
        f"the Prefect server at {url} was not ready within {READY_WITHIN_S:.0f} s. Check the server, then run again."
    )
