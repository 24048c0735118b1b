"""Secrets in addresses: none is taken from an operator, and none of a row is shown."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray
from hypothesis import assume, given
from hypothesis import strategies as st

from flows.cli import show
from flows.cli.main import run_command
from flows.inspect.status import refused_rows
from flows.recipe import parse_recipe
from flows.runtime.progress import Display
from flows.steps.task import without_secrets_in_errors
from infra.addresses import SecretInAddress, hide_secrets, printable_address, without_secrets
from pipelines.ingest.accounting import payload
from pipelines.ingest.pictures.fetch import TRANSIENT
from pipelines.sources.files import find_files
from storage.commit import Provenance
from storage.lake import Lake
from storage.quarantine import Reject, open_rows, quarantine
from storage.runs.record import RunRecord

CANARY = "c4n4ry"
WHO = Provenance("test", "recipe")
schemes = st.sampled_from(["s3", "https", "HTTP", "gs", "abfss", "hdfs", "ftp", "postgresql+asyncpg"])
odd = st.text(alphabet="ab1:/?#&=+%@.-_~!$*,;()[]", max_size=12)
users = odd.map(lambda text: f"user:{text}{CANARY}")
reads_as_port = re.compile(r"\d+[/?#]")
places = st.sampled_from(["bucket/path.csv", "host:443/a@2x.jpg", "[::1]:80/a", "acct.dfs.core.windows.net/a/b"])
queries = st.text(alphabet="ab1&=+%.-_~", max_size=8).map(lambda text: f"?{text}&X-Amz-Signature={CANARY}")


@given(schemes, users, places)
def test_a_password_is_shown_by_nothing_and_refused_everywhere(scheme: str, user: str, place: str) -> None:
    assume(scheme in ("s3", "gs", "abfss") or not reads_as_port.match(user.removeprefix("user:")))
    address = f"{scheme}://{user}@{place}"
    _hidden(address)
    for refusing in (find_files, Lake, lambda each: parse_recipe({"text": {"model": each}})):
        with pytest.raises(SecretInAddress) as refused:
            refusing(address)
        assert CANARY not in str(refused.value)


@given(schemes, places, queries)
def test_a_signature_is_shown_by_nothing(scheme: str, place: str, query: str) -> None:
    _hidden(f"{scheme}://{place}{query}")


def _hidden(address: str) -> None:
    assert CANARY not in printable_address(address)
    escaped = json.dumps(address).replace("/", "\\/")
    for text in (f"cannot reach {address}: no route", f"{address!r} is bad", f"a,{address}\n", f'{{"a": {escaped}}}'):
        shown = without_secrets(text)
        assert CANARY not in shown
        assert without_secrets(shown) == shown
    assert without_secrets(f"cannot reach {address}: no route").startswith("cannot reach ")


@pytest.mark.parametrize(
    "text",
    [
        "a/b.jpg of s3://shop/pictures/a@2x.jpg",
        "https://host:8443/a/b.jpg; and (abfss://box@account.dfs.core.windows.net/a).",
        "hdfs://ana@name:8020/a, gs://anonymous@public/a",
        "// no address, /tmp/a?b, what? and a@b.example",
        "http://[2001:db8::1]:80/a",
    ],
)
def test_what_holds_no_secret_stays_as_it_is(text: str) -> None:
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "bootstrap", "--items", f"s3://KEY:{CANARY}@bucket/items"], "--items"),
        (["run", "nightly", f"--interactions=https://u:{CANARY}@host/log.csv"], "--interactions"),
        (["lake", "status", "--lake", f"s3://{CANARY}@bucket/lake"], "--lake"),
        (["lake", "status", "--lake", f"s3://bucket/lake?sig={CANARY}"], "--lake"),
        (["run", "bootstrap", "--items", f"gs://bucket/items?token={CANARY}"], "--items"),
        (["run", "bootstrap", "--set", f'items.image_roots=["s3://K:{CANARY}@b"]'], "--set"),
        (["run", "bootstrap", "--set", f'items.image_roots=["s3://b?sig={CANARY}"]'], "image_roots"),
        (["run", "bootstrap", "--set", f"text.model=https://{CANARY}@hub/m"], "--set"),
        (["run", "bootstrap", "--set", f"text.model=https://hub/m?token={CANARY}"], "text.model"),
        (["run", f"https://u:{CANARY}@host/"], "argument 2"),
    ],
)
def test_the_command_refuses_secrets_in_one_line_that_names_where(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(arguments) in (1, 2)
    told = capsys.readouterr()
    assert CANARY not in told.out + told.err
    assert named in told.err
    assert told.err.count("\n") == 1
    assert "environment" in told.err


@pytest.mark.parametrize("name", ["RAY_ADDRESS", "PREFECT_API_URL", "AWS_ENDPOINT_URL"])
@pytest.mark.parametrize("value", [f"https://u:{CANARY}@host:1/api", f"u:{CANARY}@host:1"])
def test_addresses_of_the_environment_are_refused_likewise(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert run_command(["lake", "status"]) == 2
    told = capsys.readouterr().err
    assert CANARY not in told
    assert name in told


def test_a_recipe_file_with_a_secret_is_refused_and_names_the_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.toml"
    path.write_text(f'[items]\nimage_roots = ["s3://shop/a", "s3://K:{CANARY}@shop/b"]\n')
    assert run_command(["run", "bootstrap", "--recipe", str(path)]) == 1
    told = capsys.readouterr().err
    assert CANARY not in told
    assert "items.image_roots" in told


def test_the_errors_of_libraries_leave_a_step_without_secrets_also_those_that_led_to_them() -> None:
    address = f"https://account.blob.example/c?sv=1&sig={CANARY}"

    def fail() -> None:
        try:
            raise OSError(f"error sending request for url ({address})")
        except OSError as error:
            raise ValueError(f"cannot be read: {error}") from error

    with pytest.raises(ValueError, match="cannot be read") as raised:
        without_secrets_in_errors(fail)()
    assert CANARY not in f"{raised.value!r} {raised.value.__cause__!r}"
    worker = ray.exceptions.RayTaskError("read", f"OSError: {address}", OSError(address))
    hide_secrets(worker)
    assert CANARY not in f"{worker} {worker!r} {worker.cause!r}"
    assert "OSError" in str(worker)
    loop = ValueError(address)
    loop.__context__ = KeyError(address)
    loop.__context__.__context__ = loop
    hide_secrets(loop)
    assert CANARY not in repr(loop) + repr(loop.__context__)
    named = FileNotFoundError(2, "No such file", address, None, address)
    named.add_note(f"while {address} was read")
    group = ExceptionGroup("of a task group", [named])
    hide_secrets(group)
    assert CANARY not in f"{named} {named!r} {named.__notes__} {group!r}"
    assert named.filename.startswith("https://account.blob.example/c")
    unnamed = OSError(2, "No such file")
    hide_secrets(unnamed)
    assert str(unnamed) == "[Errno 2] No such file"


def test_a_refused_row_shows_no_secret_of_an_address_and_keeps_what_is_asked_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"https://cdn.example/a.jpg?X-Amz-Signature={CANARY}"
    values = {
        "image": [{"url": address}],
        "other": {"of": address, "bare": address.removeprefix("https:")},
        "raw": f'{{"a": "{address}"',
    }
    assert CANARY not in payload(values)
    asked_again = json.loads(payload(values, "image"))
    assert asked_again["image"] == [{"url": address}]
    assert CANARY not in json.dumps({name: asked_again[name] for name in ("other", "raw")})

    lake = Lake(str(tmp_path / "lake"))
    kept = payload(values, "image")
    quarantine(lake, [Reject("ingest images", TRANSIENT[0], f"{address}: HTTP 403", "f", 0, "i", kept)], WHO)
    (row,) = open_rows(lake).to_dicts()
    assert CANARY not in row["detail"]
    assert json.loads(row["payload"])["image"] == [{"url": address}]
    rows = refused_rows(lake)
    for as_json in (True, False):
        show.quarantine(rows, 5, as_json)
    Display().say(f"reading {address}")
    told = capsys.readouterr().out
    assert "cdn.example/a.jpg" in told
    assert CANARY not in told


def test_a_log_of_prefect_hears_no_secret() -> None:
    heard: list[Any] = []
    Display(heard.append).say(f"  reading s3://K:{CANARY}@bucket/a?sig={CANARY}")
    assert heard == ["  reading s3://***@bucket/a?***"]


def test_a_run_that_an_older_version_recorded_is_shown_without_secrets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    asked = {"items": [f"s3://K:{CANARY}@bucket/items"], "recipe": {"about": f"https://host/?sig={CANARY}"}}
    record = RunRecord(lake, "ingest-1", "ingest", "recipe", asked)
    record.end("failed", {"error": f"OSError: https://host/a?sig={CANARY}"})
    for command in (["run", "list"], ["run", "list", "--json"], ["run", "show", "ingest-1"]):
        assert run_command([*command, "--lake", lake.uri]) == 0
    told = capsys.readouterr().out
    assert CANARY not in told
    assert "s3://***@bucket/items" in told
