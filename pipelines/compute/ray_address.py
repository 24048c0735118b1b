"""Location of the Ray cluster: check of a named address, and the folder of a cluster that is started here."""

import os
import socket
import stat
import tempfile
from pathlib import Path

from storage.errors import LakeError

# Seconds allowed for connecting to an address, and for its answer.
WITHIN_S = 10.0
LONGEST_SOCKET = 107
"""Most bytes of the path of a socket."""
SOCKET = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest path of a socket that Ray makes below a folder."""
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # HTTP/2 preface, empty SETTINGS
_SETTINGS = 4  # type of a frame of HTTP/2 (RFC 9113, 6.5), with which a server begins


class ClusterUnreachable(LakeError):
    """Raised when RAY_ADDRESS names no cluster that answers."""


def foreign_address() -> str | None:
    """Return the address of a cluster that was started elsewhere; None if this process starts its own."""
    address = os.environ.get("RAY_ADDRESS", "")
    return address if address and address != "local" else None


def require_reachable(address: str | None) -> None:
    """Raise ClusterUnreachable, within seconds, unless a server that speaks as Ray does listens at the address.

    Ray itself retries for minutes, and then ends the process. With `auto` Ray looks on this machine and reports at
    once.
    """
    if address is None or address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ClusterUnreachable(f"RAY_ADDRESS={address} is not an address: write it as host:port, or auto.")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), WITHIN_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") in ("", "0"):
                connection.settimeout(WITHIN_S)
                connection.sendall(_HELLO)
                answer = connection.recv(9)
                if len(answer) < 4 or answer[3] != _SETTINGS:
                    raise ClusterUnreachable(unreachable(address, "another service than Ray listens there"))
    except (OSError, OverflowError) as error:
        raise ClusterUnreachable(unreachable(address, str(error))) from error


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
