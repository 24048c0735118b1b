"""The Prefect server of a run lets nobody in without its login, and shows the login to nobody else."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from flows.runtime.server import ServerNotReadyError, _login, _require_free, login_file

DRIVER = """
import os, sys
from traceback import walk_stack
from infra.settings import configure
configure()
from flows.runtime.server import ensure_server
early = []

def meanwhile():
    early.append("PREFECT_API_URL" not in os.environ)

url = ensure_server(with_services=True, meanwhile=meanwhile)
assert early == [True], "called once, before the server is ready"
from prefect import flow
from flows.runtime.server import without_heartbeats

@flow
def beats():
    frames = sys._current_frames().values()
    return any("heartbeat_loop" in {each.f_code.co_name for each, _ in walk_stack(frame)} for frame in frames)

assert beats()
with without_heartbeats():
    assert not beats()
print(url, os.environ["PREFECT_API_AUTH_STRING"], flush=True)
sys.stdin.readline()
"""


def test_a_server_of_ours_refuses_who_has_no_login_and_runs_our_flows(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_API_KEY": "canary-key"}
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"):
        environment.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        url, login = process.stdout.readline().split()
        asked = {"url": f"{url}/flow_runs/filter", "json": {}}
        assert httpx.post(**asked).status_code == httpx.codes.UNAUTHORIZED
        assert httpx.post(**asked, auth=("sidmill", "guess")).status_code == httpx.codes.UNAUTHORIZED
        found = httpx.post(**asked, auth=tuple(login.split(":", 1)))
        assert [run["state_type"] for run in found.json()] == ["COMPLETED"] * 2
        origin = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
        assert "access-control-allow-origin" not in httpx.options(asked["url"], headers=origin).headers
        commands = "".join(path.read_text() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
        assert login.split(":", 1)[1] not in commands
    finally:
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()
    files = [path for path in home.rglob("*") if path.is_file()]
    holding = [path for path in files if login.split(":", 1)[1].encode() in path.read_bytes()]
    assert [path.name for path in holding] == ["sidmill-login"]
    assert stat.S_IMODE(holding[0].stat().st_mode) == 0o600
    assert any(path.name == "prefect.db" for path in files)
    assert not [path.name for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert not any(b"canary-key" in path.read_bytes() for path in files)


def test_the_login_is_kept_where_pages_are_served_and_new_for_each_run_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"):
        monkeypatch.delenv(name, raising=False)
    assert _login(kept=True) == _login(kept=True) == login_file().read_text()
    assert _login(kept=False) != _login(kept=False)
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "mine:own")
    assert _login(kept=True) == _login(kept=False) == "mine:own"


def test_a_port_that_somebody_listens_on_is_refused_before_the_login_is_sent_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServerNotReadyError, match=f"port {port} .*--port"):
            _require_free(port)
