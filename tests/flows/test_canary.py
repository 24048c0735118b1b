"""All that a bootstrap leaves, searched for what must not be there: secrets, users outside the tables, open doors."""

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from conftest import SMALL_RECIPE, write_items, write_log
from flows.inspect.verify import verify
from storage.lake import Lake
from storage.schemas import TABLES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Ray's folder is looked for in /tmp"),
]

SECRET, SIGNATURE, USER = "c4n4ry-secret", "c4n4ry-signature", "c4n4ry-user"
SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "SHOP_DATABASE_PASSWORD")
OF_USERS = ("interactions", "sequences")
"""Tables that may hold ids of users, in their data files; quarantine has those of the rows that were refused."""


class Forbidding(BaseHTTPRequestHandler):
    """A host that lets nobody have a picture."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal of the tests."""


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All that a bootstrap and a training on Ray, a failed night and the commands that look at them leave."""
    folder, short = tmp_path_factory.mktemp("canary"), Path(f"/tmp/sd-canary-{os.getpid()}")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Forbidding)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    _write_inputs(folder, f"127.0.0.1:{server.server_address[1]}")
    environment = {**os.environ, **{name: f"{SECRET}-{name}" for name in SECRETS}}
    environment |= {"PREFECT_HOME": str(folder / "left" / "prefect"), "RAY_TMPDIR": str(short)}
    for name in ("PREFECT_API_URL", "RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        environment.pop(name, None)
    (folder / "left").mkdir()
    lake = ["--lake", str(folder / "left" / "lake")]
    commands = [
        [
            *("run", "bootstrap", "--recipe", str(folder / "r.toml"), "--items", str(folder / "in" / "items.jsonl")),
            *("--interactions", str(folder / "in" / "log.csv")),
        ],
        ["run", "train"],
        [
            "run",
            "nightly",
            "--items",
            str(folder / "in" / "bad.jsonl"),
            "--interactions",
            str(folder / "in" / "bad.csv"),
        ],
        ["run", "bootstrap", "--items", f"s3://KEY:{SECRET}@bucket/items"],
        *(["quarantine", "list"], ["quarantine", "list", "--json"], ["run", "list", "--json"], ["lake", "status"]),
        ["report", "--output", str(folder / "left" / "report.html")],
    ]
    codes = []
    try:
        for number, command in enumerate(commands):
            run = [sys.executable, "-m", "flows.cli.main", *command, *lake]
            done = subprocess.run(run, env=environment, capture_output=True, umask=0o027, check=False)
            (folder / "left" / f"{number}.out").write_bytes(done.stdout + done.stderr)
            (folder / "left" / f"{number}.out").chmod(0o640)
            codes.append(done.returncode)
        assert codes == [0, 0, 3, 2, 0, 0, 0, 0, 0], [(folder / "left" / f"{at}.out").read_text() for at in range(4)]
        shutil.copytree(short, folder / "left" / "ray", symlinks=True, ignore=_sockets)
        yield folder / "left"
    finally:
        server.shutdown()
        server.server_close()
        shutil.rmtree(short)


def _sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if stat.S_ISSOCK((Path(folder) / name).lstat().st_mode)]


def _write_inputs(folder: Path, host: str) -> None:
    """A catalogue whose pictures nobody gets, a log with users to look for, and a delivery that breaks the budget."""
    rows = write_items(folder / "in" / "items.jsonl", 0, 40)
    write_log(folder / "in" / "log.csv", [str(row["item_id"]) for row in rows], users=20, events=600)
    for number, row in enumerate(rows):
        user = f"ana:{SIGNATURE}@" if number % 2 else ""
        row["image"] = f"http://{user}{host}/{number}.jpg?X-Amz-Signature={SIGNATURE}&x=a b"
    (folder / "in" / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = (folder / "in" / "log.csv").read_text().replace("\nu", f"\n{USER}-")
    (folder / "in" / "log.csv").write_text(log)
    bad = [f'{{"item_id": "b{number}", "image": "http://{host}/a.jpg?sig={SIGNATURE}"\n' for number in range(40)]
    (folder / "in" / "bad.jsonl").write_text("".join(bad))
    (folder / "in" / "bad.csv").write_text("user_id,item_id,event_time\n" + f"{USER},i0001,never\n" * 40)
    sections = {**SMALL_RECIPE, "image": {}, "compute": {"in_process_below": 0, "cpus": 3}}
    sections["items"] = {"trusted_hosts": ["127.0.0.1"]}
    lines = [f"{name} = {_toml(value)}" for name, value in sections.items()]
    (folder / "r.toml").write_text("\n".join(lines) + "\n")


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def _files(left: Path) -> list[Path]:
    found = [path for path in left.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(found) > 50
    return found


def _holding(folder: Path, text: str) -> list[Path]:
    """The files that hold a text in their bytes, or in their rows: checkpoints of logs are compressed."""
    holding = []
    for path in _files(folder):
        data = path.read_bytes()
        if data[:4] == b"PAR1":
            data += repr(pq.read_table(path, partitioning=None).to_pylist()).encode()
        if text.encode() in data:
            holding.append(path)
    return holding


def test_no_secret_of_the_process_or_its_operator_is_left_anywhere(left: Path) -> None:
    assert _holding(left, SECRET) == []
    assert SECRET not in repr(_rows(left, TABLES))


def test_what_signs_an_address_of_a_row_is_left_where_it_is_asked_again_alone(left: Path) -> None:
    data = set((left / "lake" / "quarantine").glob("*.parquet"))
    assert set(_holding(left, SIGNATURE)) <= data
    rows = _rows(left, TABLES)
    kept = [row for row in rows if row.get("reason") == "image_unreachable"]
    assert sum(SIGNATURE in row["payload"] for row in kept) == 40
    assert SIGNATURE not in repr([{**row, "payload": None} for row in kept] + [row for row in rows if row not in kept])


def _rows(left: Path, tables: Iterable[str]) -> list[dict[str, Any]]:
    lake = Lake(str(left / "lake"))
    return [row for table in tables if lake.exists(table) for row in lake.read(table).to_pylist()]


def test_no_user_is_named_outside_the_tables_that_are_about_users(left: Path) -> None:
    data = {path for table in (*OF_USERS, "quarantine") for path in (left / "lake" / table).glob("*.parquet")}
    assert set(_holding(left, USER)) <= data, "logs and their checkpoints have no bounds of users"
    assert USER not in repr(_rows(left, set(TABLES) - {*OF_USERS, "quarantine"}))
    assert USER in repr(_rows(left, ["interactions"]))


def test_after_an_erasure_no_file_of_the_lake_holds_the_user_or_the_item(left: Path, tmp_path: Path) -> None:
    """Sequences, a trained model, factors and refused rows included; the other users stay."""
    lake, user, item = Lake(str(shutil.copytree(left / "lake", tmp_path / "lake"))), f"{USER}-7", "i0007"
    assert any(row["user_id"] == user for row in lake.read("sequences").to_pylist())
    run = [sys.executable, "-m", "flows.cli.main", "lake", "erase", "--user", user, "--item", item, "--yes"]
    done = subprocess.run([*run, "--lake", lake.uri], capture_output=True, text=True, check=True)
    assert "trained on them: m-000001" in done.stdout
    assert [*_holding(Path(lake.uri), user), *_holding(Path(lake.uri), item)] == []
    assert [each for each in verify(lake) if each.fault] == []
    assert len({row["user_id"] for row in lake.read("sequences").to_pylist()}) > 10


def test_all_of_it_is_open_to_the_same_people_and_to_nobody_else(left: Path) -> None:
    lake = {path: stat.S_IMODE(path.stat().st_mode) for path in (left / "lake").rglob("*")}
    assert {oct(mode) for path, mode in lake.items() if path.is_file()} == {"0o640"}
    assert {oct(mode) for path, mode in lake.items() if path.is_dir()} == {"0o750"}
    (folder,) = (left / "ray").iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    others = [path for path in (left / "prefect").rglob("*") if path.stat().st_mode & stat.S_IRWXO]
    assert others == []
    assert not (left / "report.html").stat().st_mode & stat.S_IRWXO
