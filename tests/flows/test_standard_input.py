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

from pipelines.sources.standard_input import suffix_of
from storage.lake import Lake

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


def test_a_pipe_is_checked_and_read_and_not_read_again(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('[text]\nfields = ["title"]\n')
    options = ("--recipe", "recipe.toml", "--items", "-")
    checked = sidmill(tmp_path, "recipe", "check", "--quick", *options, given=FORMATS[".jsonl.gz"])
    assert b"items         -: 50 rows" in checked.stdout, checked
    run = ("run", "ingest", "--lake", "lake", *options)
    first = sidmill(tmp_path, *run, given=FORMATS[".jsonl.gz"])
    assert first.returncode == 0, first.stderr
    assert Lake(str(tmp_path / "lake")).frame("items").height == 50
    again = sidmill(tmp_path, *run, given=FORMATS[".jsonl"])
    assert b"skipped, all 1 sources were read before" in again.stdout + again.stderr, again
    names = Lake(str(tmp_path / "lake")).frame("sources").select("uri", "rows_in").rows()
    assert names == [("-", 50)]


def test_a_pipe_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('[text]\nfields = ["title"]\n')
    run = ("run", "ingest", "--lake", "lake", "--recipe", "recipe.toml", "--items", "-")
    twice = sidmill(tmp_path, *run, "--interactions", "-", given=FORMATS[".csv"])
    assert twice.returncode == 2, twice
    assert b"standard input (-) can be read once" in twice.stderr
    empty = sidmill(tmp_path, *run)
    assert empty.returncode != 0
    assert b"standard input (-) is empty" in empty.stderr + empty.stdout, empty
    ours, theirs = pty.openpty()
    try:
        command = [sys.executable, "-m", "flows.cli.main", *run]
        terminal = subprocess.run(command, stdin=theirs, capture_output=True, cwd=tmp_path, timeout=300, check=False)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"is a terminal or closed: send rows to it" in terminal.stderr
    assert not (tmp_path / "lake").exists()
