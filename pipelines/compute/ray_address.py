"""Location of the Ray cluster: check of a named address, and the folder of a cluster that is started here."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from storage.errors import LakeError

# Seconds allowed for connecting to an address, and for its first bytes.
CONNECT_S = 5.0
CALL_S = 8
"""Seconds in which a cluster has to answer a call. It is made in a process that needs IMPORT_S at most to begin."""
IMPORT_S = 10.0
LONGEST_SOCKET = 107
"""Most bytes of the path of a socket."""
SOCKET = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest path of a socket that Ray makes below a folder."""
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # HTTP/2 preface, empty SETTINGS
_TOKEN = re.compile("InvalidAuthToken|couldn't find an authentication token")
"""What Ray says of a cluster that another token protects, and of a token that is nowhere."""
_SETTINGS = 4  # type of a frame of HTTP/2 (RFC 9113, 6.5), with which a server begins


class ClusterUnreachable(LakeError):
    """Raised when RAY_ADDRESS names no cluster that answers."""


def foreign_address() -> str | None:
    """Return the address of a cluster that was started elsewhere; None if this process starts its own."""
    address = os.environ.get("RAY_ADDRESS", "")
    return address if address and address != "local" else None


def require_reachable(address: str | None) -> None:
    """Raise ClusterUnreachable, within 30 seconds, unless a cluster of Ray at the address answers a call.

    Ray itself retries for a minute or more, heeds no signal meanwhile, and then may end the process.
    """
    require_address(address)
    if address is None:
        return
    if address != "auto":
        _require_listener(address)
    _require_answer(address)


def require_address(address: str | None) -> None:
    """Raise ClusterUnreachable if an address cannot be that of a cluster, without asking there."""
    if address is None or address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address.startswith("ray://"):
        raise ClusterUnreachable(
            f"RAY_ADDRESS={address} is an address for Ray Client, with which sidmill does not work: on a node of the "
            f"cluster, set RAY_ADDRESS={host or 'HOST'}:6379 (the address of its head); elsewhere, submit the command "
            f"as a job with `sidmill job --address http://{host or 'HOST'}:8265 -- COMMAND` (docs/operations.md, Ray)."
        )
    if not host or not port.isdigit():
        raise ClusterUnreachable(f"RAY_ADDRESS={address} is not an address: write it as host:port, or auto.")


def _require_listener(address: str) -> None:
    """Raise ClusterUnreachable unless a server listens there that speaks HTTP/2, as Ray does."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") in ("", "0"):
                connection.settimeout(CONNECT_S)
                connection.sendall(_HELLO)
                answer = connection.recv(9)
                if len(answer) < 4 or answer[3] != _SETTINGS:
                    raise ClusterUnreachable(unreachable(address, "another service than Ray listens there"))
    except (OSError, OverflowError) as error:
        raise ClusterUnreachable(unreachable(address, getattr(error, "strerror", None) or str(error))) from error


_CALL = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray._raylet import GcsClient
signal.alarm(int(sys.argv[2]))
GcsClient(canonicalize_bootstrap_address_or_die(sys.argv[1]))
"""
"""Program that asks a cluster for its id, and ends at a signal."""


def _require_answer(address: str) -> None:
    """Raise ClusterUnreachable unless a cluster there says its id in time.

    Another process asks: Ray's code can neither be interrupted nor given a deadline.
    """
    command = [sys.executable, "-P", "-c", _CALL, address, str(CALL_S)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_S + CALL_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ClusterUnreachable(unreachable(address, "timed out")) from error
    if done.returncode == -signal.SIGALRM:
        raise ClusterUnreachable(unreachable(address, f"timed out: it accepts connections, but no call in {CALL_S} s"))
    if done.returncode and _TOKEN.search(done.stderr):
        raise ClusterUnreachable(
            f"the Ray cluster at RAY_ADDRESS={address} does not accept the token of this process: set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the token of the cluster."
        )
    if done.returncode:
        told = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ClusterUnreachable(unreachable(address, told[-1].rpartition("Error: ")[2].rstrip(".")))


def unreachable(address: str, why: str) -> str:
    return (
        f"the Ray cluster at RAY_ADDRESS={address} does not answer ({why}): start it or correct the address, or unset "
        "RAY_ADDRESS to work on this machine."
    )


def private_folder() -> Path:
    """Return a folder that only this user can enter, for Ray's files: Ray's own folders are open to all users."""
    base = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    name = f"sidmill-{os.getuid()}"
    folder = _short_enough(base, name) / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
        folder.chmod(0o700)
        return folder
    parent = _short_enough(base, "sidmill-xxxxxxxx")  # another user owns a folder of that name
    return Path(tempfile.mkdtemp(prefix="sidmill-", dir=parent))


def _short_enough(base: str, name: str) -> Path:
    """Return `base` if the path of a socket in its folder `name` is not too long, else `/tmp`."""
    fits = len(os.fsencode(f"{base}/{name}/{SOCKET}")) <= LONGEST_SOCKET
    return Path(base if fits else "/tmp")
