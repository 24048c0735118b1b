"""Addresses with wildcards, and files on the Hugging Face hub, read by its client from a server on this machine."""

import glob
import gzip
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources.addresses import Pattern, has_wildcards
from pipelines.sources.files import find_files, find_sources
from pipelines.sources.row import SourceError
from pipelines.sources.source_spec import ItemsSpec

NAMES = st.sampled_from(["a", "b", "ab", ".h", "a=1"])
PARTS = st.sampled_from(["a", "b", "*", "a*", "?", "[ab]", "**", ".*", "*=1"])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(NAMES, min_size=1, max_size=4), max_size=8), st.lists(PARTS, min_size=1, max_size=4))
def test_a_pattern_means_the_files_and_the_folders_that_it_means_to_a_shell(
    files: list[list[str]], parts: list[str]
) -> None:
    pattern = "/".join(parts)
    if not has_wildcards(pattern):
        return
    with tempfile.TemporaryDirectory() as folder:
        for each in files:
            path = Path(folder, *each, "f.csv")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        every = {str(path) for path in Path(folder).rglob("*") if path.is_file()}
        matched = glob.glob(f"{folder}/{pattern}", recursive=True, include_hidden=True)  # noqa: PTH207 - hidden files too
        below = {path for path in every for each in matched if path == each or path.startswith(each.rstrip("/") + "/")}
        assert set(Pattern(f"{folder}/{pattern}").among(every)) == below


def test_files_that_match_are_read_and_others_of_the_folder_are_not(tmp_path: Path) -> None:
    for name in ("a-1.jsonl", "a-2.jsonl", "b-1.jsonl", "a-3.xlsx", "day=1/a-4.jsonl", "day=2/a-5.jsonl", "_a.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}\n")
    cases = {
        "a-*.jsonl": ["a-1.jsonl", "a-2.jsonl"],
        "day=*": ["day=1/a-4.jsonl", "day=2/a-5.jsonl"],
        "**/a-[45].jsonl": ["day=1/a-4.jsonl", "day=2/a-5.jsonl"],
        "?-1.jsonl": ["a-1.jsonl", "b-1.jsonl"],
    }
    for pattern, expected in cases.items():
        found = find_sources(f"{tmp_path}/{pattern}")
        assert [os.path.relpath(source.uri, tmp_path) for source in found] == expected
    assert find_files(f"{tmp_path}/a-*")[2].warning(str(tmp_path)).startswith("1 file is not read: a-3.xlsx")


def test_a_pattern_without_a_match_is_refused_and_a_name_with_a_bracket_is_a_name(tmp_path: Path) -> None:
    for pattern, message in {
        "none-*.csv": r"no .* file matches .*none-\*\.csv",
        "gone/*.csv": "there is no folder .*gone",
    }.items():
        with pytest.raises(SourceError, match=message):
            find_files(f"{tmp_path}/{pattern}")
    (tmp_path / "a[1].jsonl").write_text("{}\n")
    assert [source.file for source in find_sources(f"{tmp_path}/a[1].jsonl")] == ["a[1].jsonl"]


def test_atomic_files_are_read_where_the_pattern_names_them(tmp_path: Path) -> None:
    for name in ("x.item", "x.inter"):
        (tmp_path / name).write_text("item_id:token\n1\n")
    assert [source.file for source in find_sources(f"{tmp_path}/*.item")] == ["x.item"]


def test_json_files_are_read_where_they_are_named_and_a_folder_of_them_says_how(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"item_id": 0}\n')
    (tmp_path / "x.json").write_text('{"item_id": 1}\n')
    (tmp_path / "y.json.gz").write_bytes(gzip.compress(b'{"item_id": 2}\n'))
    assert [source.file for source in find_sources(f"{tmp_path}/*.json")] == ["x.json"]
    assert [source.file for source in find_sources(f"{tmp_path}/*.json.gz")] == ["y.json.gz"]
    for name in ("x.json", "y.json.gz"):
        (source,) = find_sources(str(tmp_path / name))
        assert [len(part) for part in source.parts(ItemsSpec(), 4096)] == [1]
    _, path, found = find_files(str(tmp_path))
    assert found.warning(path).startswith("2 files are not read: x.json, y.json.gz (read are ")
    assert found.warning(path).endswith("A .json file with one object a line is read where it is named: FOLDER/*.json")
    for text, remedy in (('[{"a": 1},\n{"a": 2}]', "is one JSON array"), ('{\n"a": 1\n}', "over several lines")):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(SourceError, match=remedy):
            find_sources(str(tmp_path / "x.json"))[0].check(ItemsSpec())


def test_a_part_of_a_table_is_refused_by_a_pattern_too(tmp_path: Path) -> None:
    (tmp_path / "_delta_log").mkdir()
    (tmp_path / "_delta_log" / "0.json").write_text("{}\n")
    (tmp_path / "part-1.parquet").write_bytes(b"PAR1")
    with pytest.raises(SourceError, match="is a Delta table"):
        find_files(f"{tmp_path}/part-*.parquet")


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's protocol that reads a data set: its revision, its tree, and bytes of its files."""

    files: ClassVar[dict[str, bytes]] = {}

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._json([self._entry(path) for path in [*self.files, "data"] if f'"{path}"' in asked])

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/datasets/us/shop/resolve/\w+/(.+)", path):
            data = self.files[found[1]]
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            part = data[int(asked[1]) : int(asked[2]) + 1] if asked else data
            self.send_response(206 if asked else 200)
            for name, value in {"ETag": '"e"', "X-Repo-Commit": "c" * 40, "Content-Length": str(len(part))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(part if body else b"")
        elif "/tree/" in path:
            below = path.partition("/tree/")[2].partition("/")[2]
            inside = [each for each in [*self.files, "data"] if each.startswith(f"{below}/" if below else "")]
            recursive = "recursive=true" in self.path.casefold()
            self._json([self._entry(each) for each in inside if recursive or "/" not in each[len(below) + 1 :]])
        elif path.startswith("/api/datasets/us/shop"):
            self._json({"id": "us/shop", "sha": "c" * 40, "siblings": [], "tags": [], "private": False})
        else:
            self.send_error(404)

    def _entry(self, path: str) -> dict[str, object]:
        kind = {"type": "file", "size": len(self.files[path])} if path in self.files else {"type": "directory"}
        return {"path": path, "oid": "0" * 40, **kind}

    def _json(self, answer: object) -> None:
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


READ = """
import sys
from pipelines.sources.files import find_sources
from pipelines.sources.row import SourceError
from pipelines.sources.source_spec import ItemsSpec
for address in sys.argv[1:]:
    try:
        sources = find_sources(address)
    except SourceError as error:
        print("refused", str(error)[:60])
        continue
    parts = [part for source in sources for part in source.parts(ItemsSpec(), 4096)]
    print([source.uri for source in sources], [row.values["item_id"] for part in parts for row in part.rows()])
"""


@pytest.fixture
def endpoint() -> Iterator[str]:
    """A hub with two shards of a data set."""
    for number in range(2):
        out = pa.BufferOutputStream()
        pq.write_table(pa.table({"item_id": [f"i{number}"], "title": ["shoe"]}), out)
        Hub.files[f"data/train-{number}.parquet"] = out.getvalue().to_pybytes()
    Hub.files["README.md"] = b"A shop."
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
    Hub.files.clear()


def test_shards_on_the_hub_are_read_as_files_and_a_data_set_that_is_not_there_is_one_message(endpoint: str) -> None:
    shop = "hf://datasets/us/shop"
    addresses = [f"{shop}/data", f"{shop}/data/*.parquet", f"{shop}/data/train-1.parquet", "hf://datasets/us/gone/x"]
    done = subprocess.run(
        [sys.executable, "-c", READ, *addresses],
        env={**os.environ, "HF_ENDPOINT": endpoint},
        capture_output=True,
        text=True,
        check=False,
    )
    both = [f"{shop}/data/train-0.parquet", f"{shop}/data/train-1.parquet"]
    *read, refused = done.stdout.splitlines()
    assert read == [f"{both} ['i0', 'i1']"] * 2 + [f"{both[1:]} ['i1']"], done.stderr
    assert refused.startswith("refused cannot reach hf://datasets/us/gone/x: ")


NO_STORE = {"AWS_REGION": "here", "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}
"""Settings with which a client of S3 asks no service for them."""
OPEN = """
import sys
from pipelines.given.source import open_given
from pipelines.sources.row import SourceError
from pipelines.spec import GivenSpec
for address in sys.argv[1:]:
    try:
        source = open_given("mine", GivenSpec(path=address, **({"ids": "ids.txt"} if "npy" in address else {})))
    except SourceError as error:
        print("refused", str(error)[:60])
        continue
    print(source.dim, sum(part.rows for part in source.parts))
"""


def test_vectors_on_the_hub_are_read_and_those_that_cannot_be_are_one_message(endpoint: str, tmp_path: Path) -> None:
    out = pa.BufferOutputStream()
    pq.write_table(pa.table({"item_id": ["a", "b"], "vector": [[1.0, 2.0, 3.0]] * 2}), out)
    Hub.files["vectors/a.parquet"] = out.getvalue().to_pybytes()
    matrix = io.BytesIO()
    np.save(matrix, np.ones((2, 5)))
    Hub.files["m.npy"] = matrix.getvalue()
    (tmp_path / "ids.txt").write_text("a\nb\n")
    shop = "hf://datasets/us/shop"
    done = subprocess.run(
        [sys.executable, "-c", OPEN, f"{shop}/vectors/a.parquet", f"{shop}/m.npy", "hf://datasets/us/gone/x", "s3://"],
        env={**os.environ, "HF_ENDPOINT": endpoint, "PYTHONPATH": str(Path(__file__).parents[2]), **NO_STORE},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    *read, gone, empty = done.stdout.splitlines()
    assert read == ["3 2", "5 2"], done.stderr
    assert gone.startswith("refused vectors.mine.path: cannot reach hf://datasets/us/gone/x")
    assert empty.startswith("refused vectors.mine.path: s3:// cannot be read: ")


def test_a_hub_that_cannot_be_reached_is_one_message() -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ, "hf://datasets/us/shop/x.csv"],
        env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("refused cannot reach hf://datasets/us/shop/x.csv: "), done.stderr
