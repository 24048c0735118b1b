"""Rows from a pipe: `-` reads what a file with the same bytes reads."""

import bz2
import gzip
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from flows.cli.main import run_command
from pipelines.registry import source_kind_of
from pipelines.sources.protocol import Part
from pipelines.sources.row import Row
from pipelines.sources.source_spec import ItemsSpec
from pipelines.sources.spooled import standard_input
from pipelines.sources.spooled.standard_input import suffix_of

ROWS = [{"item_id": f"i{number}", "title": f"mug {number}"} for number in range(50)]
CSV = "item_id,title\n" + "".join(f"{row['item_id']},{row['title']}\n" for row in ROWS)
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)


def parquet() -> bytes:
    file = io.BytesIO()
    pl.DataFrame(ROWS).write_parquet(file)
    return file.getvalue()


def zstd(text: str) -> bytes:
    return bytes(pa.compress(text.encode(), "zstd", asbytes=True))


def bz2_of(text: str) -> bytes:
    return bz2.compress(text.encode())


FORMATS = {
    ".jsonl": JSONL.encode(),
    ".csv": CSV.encode(),
    ".tsv": CSV.replace(",", "\t").encode(),
    ".parquet": parquet(),
    ".jsonl.gz": gzip.compress(JSONL.encode()),
    ".csv.bz2": bz2_of(CSV),
    ".tsv.zst": zstd(CSV.replace(",", "\t")),
}


def sidmill(folder: Path, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "flows.cli.main", *arguments]
    environment = {**os.environ, "TMPDIR": str(folder / "scratch")}
    (folder / "scratch").mkdir(exist_ok=True)
    done = subprocess.run(
        command, input=given, capture_output=True, cwd=folder, env=environment, timeout=300, check=False
    )
    assert not list((folder / "scratch").glob("sidmill-*")), "the copy of the rows outlives the command"
    return done


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_format_is_known_by_its_first_bytes(suffix: str) -> None:
    assert suffix_of(FORMATS[suffix]) == suffix


@pytest.mark.parametrize(
    ("head", "suffix"),
    [
        (b'\xef\xbb\xbf\n {"a": 1}', ".jsonl"),
        ('{"a": 1}'.encode("utf-16"), ".jsonl"),
        ("a,b\n1,2\n".encode("utf-16"), ".csv"),
        (b'[\n {"a": 1}]', ".jsonl"),
        (b"[id],[name]\n1,2\n", ".csv"),
        (b"id\n1\n", ".csv"),
        (b"\n", ".csv"),
        (b"note, long\tid\n", ".csv"),
        (b"id\tname\na,b\tc\n", ".tsv"),
        (gzip.compress(os.urandom(1 << 17).hex().join(["id\t", "\n"]).encode())[: 1 << 16], ".tsv.gz"),
        (b"\x1f\x8bbroken", ".csv.gz"),
    ],
)
def test_text_is_json_where_it_begins_as_an_object_and_tsv_where_its_header_has_only_tabs(
    head: bytes, suffix: str
) -> None:
    assert suffix_of(head) == suffix


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, given: bytes) -> int:
    """Run a command in this process, with bytes in its standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    standard_input._read.cache_clear()
    return run_command(arguments)


def test_a_pipe_has_the_identity_of_a_file_with_its_rows_and_is_read_once_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "items.jsonl").write_bytes(FORMATS[".jsonl"])
    (file,) = source_kind_of(str(tmp_path)).find(str(tmp_path), ItemsSpec(), []).sources
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(FORMATS[".jsonl.gz"])))
    standard_input._read.cache_clear()
    for _ in range(2):
        (source,) = source_kind_of("-").find("-", ItemsSpec(), []).sources
        assert source.sha256 == file.sha256
        assert (source.uri, source.file, source.folder) == ("-", "stdin.jsonl.gz", str(Path.cwd()))
        rows = [row.values for part in source.parts(ItemsSpec(), 20) for row in as_rows(part)]
        assert rows == ROWS


def as_rows(part: Part) -> list[Row]:
    return part if isinstance(part, list) else list(part.rows())


def test_a_check_reads_a_pipe_and_leaves_no_copy(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('[text]\nfields = ["title"]\n')
    checked = sidmill(
        tmp_path, "recipe", "check", "--quick", "--recipe", "recipe.toml", "--items", "-", given=FORMATS[".csv.bz2"]
    )
    assert b"items         -: 50 rows" in checked.stdout, checked


def test_a_pipe_that_cannot_be_read_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.toml").write_text('[text]\nfields = ["title"]\n')
    check = ("recipe", "check", "--quick", "--recipe", str(tmp_path / "recipe.toml"), "--items", "-")
    assert run(monkeypatch, *check, "--interactions", "-", given=FORMATS[".csv"]) != 0
    assert "standard input (-) can be read once" in capsys.readouterr().err
    assert run(monkeypatch, *check, given=b"") != 0
    told = capsys.readouterr()
    assert "standard input (-) is empty" in told.err + told.out
    ours, theirs = pty.openpty()
    with io.FileIO(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(terminal)))
        assert run_command(("run", "ingest", "--lake", str(tmp_path / "lake"), *check[3:])) != 0
    os.close(ours)
    assert "is a terminal or closed: send rows into it" in capsys.readouterr().err
