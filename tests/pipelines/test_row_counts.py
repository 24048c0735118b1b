"""The rows of a source are known before it is read: exactly from metadata, about from the first lines of a text."""

import bz2
import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from pipelines.profile.sample import MAX_SOURCES, looked_at, row_count
from pipelines.profile.sampled import Sampled
from pipelines.sources.protocol import RowCount
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec

ROWS = 60_000
ABOUT = 0.1


def _jsonl(rows: int = ROWS) -> bytes:
    return "".join(f'{{"item_id": {n}, "title": "mug number {n * 7919 % 10**7:07d}"}}\n' for n in range(rows)).encode()


def _csv(title: Callable[[int], str] = "mug number {:07d}".format) -> bytes:
    return ("item_id,title\n" + "".join(f'{n},"{title(n)}"\n' for n in range(ROWS))).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("items.jsonl", _jsonl()),
        ("items.csv", _csv()),
        ("items.csv", _csv(lambda n: f"two lines\nof mug {n:07d}")),
        ("items.csv", _csv().replace(b"\n", b"\r")),
    ],
    ids=["jsonl", "csv", "line breaks in cells", "carriage returns"],
)
def test_the_rows_of_a_text_are_about_right_and_said_to_be_about(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    found = row_count(looked_at(str(tmp_path / name), ItemsSpec()).sources, ItemsSpec())
    assert found is not None
    assert abs(found.rows - ROWS) < ABOUT * ROWS
    assert str(found) == f"about {found.rows:,}"


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_of_a_compressed_text_the_bytes_on_the_disk_are_reckoned_with(
    compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    suffix = "gz" if compress is gzip.compress else "bz2"
    (tmp_path / f"items.jsonl.{suffix}").write_bytes(compress(_jsonl(5 * ROWS)))
    found = row_count(looked_at(str(tmp_path / f"items.jsonl.{suffix}"), ItemsSpec()).sources, ItemsSpec())
    assert found is not None
    assert not found.exact
    assert abs(found.rows - 5 * ROWS) < ABOUT * 5 * ROWS


@pytest.mark.parametrize("name", ["items.jsonl", "items.jsonl.gz"])
def test_a_short_text_is_counted_exactly_refused_rows_and_all(name: str, tmp_path: Path) -> None:
    text = b'{"item_id": 1}\n\nno json\n{"item_id": 2}'
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    assert row_count(looked_at(str(tmp_path / name), ItemsSpec()).sources, ItemsSpec()) == RowCount(3, exact=True)


def test_parquet_and_delta_tables_are_counted_by_their_metadata(tmp_path: Path) -> None:
    table = pa.table({"item_id": list(range(1000)), "title": ["x"] * 1000})
    pq.write_table(table, tmp_path / "items.parquet")
    (tmp_path / "empty.parquet").write_bytes(b"")
    write_deltalake(str(tmp_path / "delta"), table)
    write_deltalake(str(tmp_path / "delta"), table, mode="append")
    for name, rows in (("items.parquet", 1000), ("empty.parquet", 0), ("delta", 2000), ("delta@v0", 1000)):
        sources = looked_at(str(tmp_path / name), ItemsSpec()).sources
        assert row_count(sources, ItemsSpec()) == RowCount(rows, exact=True), name


def test_of_many_files_some_are_asked_and_speak_for_the_others(tmp_path: Path) -> None:
    for number in range(4 * MAX_SOURCES):
        pq.write_table(pa.table({"item_id": [number, 10_000 + number]}), tmp_path / f"part-{number:03d}.parquet")
    sources = looked_at(str(tmp_path), ItemsSpec()).sources
    assert row_count(sources, ItemsSpec()) == RowCount(2 * 4 * MAX_SOURCES, exact=False)


def test_looking_at_a_file_does_not_read_it_to_its_end(tmp_path: Path) -> None:
    whole = gzip.compress(_jsonl())
    (tmp_path / "items.jsonl.gz").write_bytes(whole[: len(whole) - 1000])  # reading it to its end would fail
    (source,) = looked_at(str(tmp_path / "items.jsonl.gz"), ItemsSpec()).sources
    parts = list(Sampled(source, 10).parts(ItemsSpec(), 4))
    assert [len(part) for part in parts] == [4, 4, 2]


def test_a_sample_knows_the_columns_of_its_rows_and_folders(tmp_path: Path) -> None:
    folder = tmp_path / "event_type=buy"
    folder.mkdir()
    (folder / "log.csv").write_text("user_id,item_id,event_time,other\nu,i,2024-01-01,x\n")
    (source,) = looked_at(str(tmp_path), InteractionsSpec()).sources
    sampled = Sampled(source, 5)
    assert list(sampled.parts(InteractionsSpec(), 5))
    assert set(sampled.columns) == {"user_id", "item_id", "event_time", "other", "event_type"}


def test_a_compressed_tab_separated_file_is_read_by_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "items.tsv.gz").write_bytes(gzip.compress(b"item_id\ttitle, and more\n1\tone\n"))
    (source,) = looked_at(str(tmp_path / "items.tsv.gz"), ItemsSpec()).sources
    (part,) = source.parts(ItemsSpec(), 5)
    assert isinstance(part, list)
    assert part[0].values == {"item_id": "1", "title, and more": "one"}
