"""Every row is stored or lies in quarantine with a reason, and reading twice changes nothing."""

import io
import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.embed.attributes import values_of
from pipelines.embed.contents import items_content, items_text
from pipelines.ingest.accounting import record_source, records, unread
from pipelines.ingest.events.ingest import ingest_interactions
from pipelines.ingest.events.waiting import admit_waiting
from pipelines.ingest.items.ingest import ingest_items
from pipelines.sources.files import SourceError, find_sources
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec
from storage.commit import Provenance
from storage.lake import Lake
from storage.quarantine import by_reason, open_rows
from storage.releases.catalogue import catalogue

WHO = Provenance("test", "recipe")
NOW = datetime(2024, 6, 1, tzinfo=UTC)


def source(path: Path):  # type: ignore[no-untyped-def]
    return find_sources(str(path))[0]


def items(lake: Lake, path: Path, spec: ItemsSpec | None = None, at: datetime = NOW):  # type: ignore[no-untyped-def]
    return ingest_items(lake, source(path), spec or ItemsSpec(), at, WHO).stages[:2]


def log(lake: Lake, path: Path, spec: InteractionsSpec | None = None):  # type: ignore[no-untyped-def]
    return ingest_interactions(lake, source(path), spec or InteractionsSpec(), NOW, WHO).stages[0]


def jsonl(path: Path, *rows: object) -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def jpeg(width: int = 8, height: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(stream, "JPEG")
    return stream.getvalue()


def test_bad_items_are_quarantined_with_their_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "big.jpg").write_bytes(b"x" * 2000)
    (tmp_path / "good.jpg").write_bytes(jpeg())
    path = jsonl(
        tmp_path / "items.jsonl",
        {"item_id": "a", "title": "good", "image": "good.jpg"},
        {"item_id": "b", "title": ""},
        {"item_id": "a", "title": "again"},
        {"title": "no id"},
        b'{"item_id": "c", "title": "caf\xe9"}',
        b'{"item_id": "d", "title": "lone \\ud800 surrogate"}',
        b"{not json",
        b"[1, 2]",
        {"item_id": "e", "title": "x" * 5_000_000},
        {"item_id": "f", "title": "too big a picture", "image": "big.jpg"},
        {"item_id": "g", "title": "no such picture", "image": "gone.jpg"},
        {"item_id": "h", "title": "somebody else's picture", "image": "../../etc/passwd"},
        {"item_id": 9, "title": "a number for an id"},
    )
    lake = Lake(str(tmp_path / "lake"))
    rows, images = items(lake, path, ItemsSpec(max_image_bytes=1000))
    assert (rows.rows_in, rows.out, rows.quarantined) == (13, 5, 8)
    assert rows.by_reason == {
        "empty_title": 1,
        "duplicate_item_id": 1,
        "missing_item_id": 1,
        "invalid_utf8": 2,
        "invalid_json": 2,
        "text_too_long": 1,
    }
    assert (images.rows_in, images.out) == (4, 1)
    assert images.by_reason == {"image_too_large": 1, "image_unreadable": 1, "image_outside_folder": 1}
    assert set(catalogue(lake)["item_id"]) == {"a", "f", "g", "h", "9"}
    assert by_reason(lake) == dict(sorted((rows.by_reason | images.by_reason).items()))


def test_reading_a_source_again_changes_no_table(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "items.jsonl", {"item_id": "a", "title": "one"}, {"item_id": "b", "title": ""})
    lake = Lake(str(tmp_path / "lake"))
    items(lake, path)
    before = {table: lake.version(table) for table in ("items", "quarantine", "sources")}
    done = ingest_items(lake, source(path), ItemsSpec(), NOW, WHO)  # as after a kill before the source was recorded
    assert {table: lake.version(table) for table in before} == before
    record_source(lake, done, WHO)
    assert unread(find_sources(str(path)), records(lake, "items", ItemsSpec())) == []
    assert unread(find_sources(str(path)), records(lake, "items", ItemsSpec(title="name"))) == find_sources(str(path))


def test_a_file_read_under_another_mapping_gives_what_it_refused_and_doubles_nothing(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "items.jsonl", *({"item_id": name, "name": f"item {name}"} for name in "abc"))
    lake = Lake(str(tmp_path / "lake"))
    rows, _ = items(lake, path)
    assert rows.by_reason == {"empty_title": 3}
    told = "the row has no 'title', it has item_id, name: write a value, or name the column in items.title"
    assert rows.examples["empty_title"] == told
    rows, _ = items(lake, path, ItemsSpec(title="name"))
    assert (rows.out, rows.unchanged, rows.quarantined) == (3, 0, 0)
    assert open_rows(lake).is_empty()
    events = _csv(tmp_path / "log.csv", "u1,a,1700000000,1", "u1,b,1700000001,2", ",c,1700000002,3", "u2,d,1700000003,")
    assert log(lake, events, InteractionsSpec(user_id="reader")).by_reason == {"missing_user_id": 4}
    assert "interactions.user_id" in open_rows(lake)["detail"][0]
    counts = log(lake, events, InteractionsSpec(value="points"))
    assert (counts.out, counts.by_reason) == (2, {"missing_user_id": 1, "unknown_item": 1})
    # An event that was written stays as it was read, also where its id would be another one now.
    counts = log(lake, events)
    assert (counts.out, counts.unchanged, counts.quarantined) == (0, 2, 2)
    assert by_reason(lake) == {"missing_user_id": 1, "unknown_item": 1}
    moved = tmp_path / "elsewhere" / "renamed.csv"
    moved.parent.mkdir()
    record_source(lake, ingest_interactions(lake, source(events), InteractionsSpec(), NOW, WHO), WHO)
    events.rename(moved)
    counts = log(lake, moved, InteractionsSpec(value="points"))
    assert (counts.out, counts.unchanged, counts.quarantined) == (0, 2, 2)
    assert by_reason(lake) == {"missing_user_id": 1, "unknown_item": 1}


def test_reading_a_file_again_does_not_undo_what_a_newer_file_changed(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    first = jsonl(tmp_path / "one.jsonl", {"item_id": "a", "title": "old", "image": "late.jpg"}, {"item_id": "b"})
    items(lake, first)
    items(lake, jsonl(tmp_path / "two.jsonl", {"item_id": "a", "title": "new"}))
    rows, _ = items(lake, first)
    assert (rows.out, rows.unchanged) == (0, 1)
    assert catalogue(lake)["title"].to_list() == ["new"]
    (tmp_path / "late.jpg").write_bytes(jpeg())  # what the file gives now, it did not give before
    rows, images = items(lake, first)
    assert (rows.out, images.out, by_reason(lake)) == (1, 1, {"empty_title": 1})


@pytest.mark.parametrize("name", ["items.csv", "items.jsonl", "items.parquet"])
def test_an_empty_file_gives_no_row_and_no_reject(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert items(Lake(str(tmp_path / "lake")), tmp_path / name)[0].rows_in == 0


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "items.parquet").write_bytes(b"item_id,title\n")
    rows, _ = items(Lake(str(tmp_path / "lake")), tmp_path / "items.parquet")
    assert rows.examples["unreadable_parquet"].startswith("items.parquet is not Parquet")


def test_a_changed_item_gets_a_revision_and_an_unchanged_one_none(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    items(lake, jsonl(tmp_path / "one.jsonl", {"item_id": "a", "title": "old"}, {"item_id": "b", "title": "same"}))
    rows, _ = items(
        lake, jsonl(tmp_path / "two.jsonl", {"item_id": "a", "title": "new"}, {"item_id": "b", "title": "same"})
    )
    assert (rows.out, rows.unchanged) == (1, 1)
    assert catalogue(lake).select("item_id", "revision", "title").rows() == [("a", 1, "new"), ("b", 0, "same")]


@pytest.mark.parametrize("nested", [False, True])
def test_parquet_with_image_bytes_is_read(tmp_path: Path, nested: bool) -> None:
    value = {"bytes": jpeg(), "path": None} if nested else jpeg()
    table = pa.Table.from_pylist([{"item_id": 1, "title": "with bytes", "image": value, "tags": ["a", "b"]}])
    pq.write_table(table, tmp_path / "items.parquet")
    lake = Lake(str(tmp_path / "lake"))
    _, images = items(lake, tmp_path / "items.parquet")
    row = catalogue(lake).to_dicts()[0]
    assert images.out == 1
    assert lake.blobs.get(row["images"][0]) == jpeg()
    assert json.loads(row["attributes"]) == {"tags": ["a", "b"]}
    assert items_text(catalogue(lake), ("tags", "title"))["text"].to_list() == ["a, b. with bytes"]
    read = partial(values_of, fields=["tags"])
    assert items_content(catalogue(lake), read)["content"].to_list() == ['[["tags", "a"], ["tags", "b"]]']


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_of_a_cell_in_several_languages_the_first_wanted_one_is_taken(tmp_path: Path, kind: str) -> None:
    rows = [
        {"item_id": "a", "title": {"en": "oven glove", "de": "Topfhandschuh"}, "colour": {"en_GB": "grey"}},
        {"item_id": "b", "title": {"fr": "gant", "es": "guante"}, "colour": {"en": None, "de": ""}},
        {"item_id": "c", "title": {"en": "cup"}, "colour": {"de": None, "en": "white"}},
    ]
    if kind == "jsonl":
        tagged = [
            {"language_tag": tag, "value": value} for tag, value in (("de_DE", "k"), ("en_US", "u"), ("de_DE", "l"))
        ]
        rows[0]["keywords"], rows[1]["keywords"], rows[2]["size"] = tagged, ["plain", "list"], {"high": 3}
        path = jsonl(tmp_path / "items.jsonl", *rows)
    else:
        kinds = {"item_id": pa.string(), **dict.fromkeys(("title", "colour"), pa.map_(pa.string(), pa.string()))}
        maps = [
            {name: value if name == "item_id" else list(value.items()) for name, value in row.items()} for row in rows
        ]
        path = tmp_path / "items.parquet"
        pq.write_table(pa.Table.from_pylist(maps, pa.schema(kinds)), path)
    lake = Lake(str(tmp_path / "lake"))
    items(lake, path, ItemsSpec(languages=("de", "en")))
    found = {row["item_id"]: (row["title"], json.loads(row["attributes"])) for row in catalogue(lake).to_dicts()}
    told = [{"keywords": ["k", "l"]}, {"keywords": ["plain", "list"]}, {"size": '{"high": 3}'}]
    a, b, c = told if kind == "jsonl" else ({}, {}, {})
    assert found["a"] == ("Topfhandschuh", {"colour": "grey", **a})
    assert found["b"] == ("guante", b)
    assert found["c"] == ("cup", {"colour": "white", **c})
    if kind == "jsonl":
        items(lake, path, ItemsSpec())
        assert {row["title"] for row in catalogue(lake, among=["c"]).to_dicts()} == {'{"en": "cup"}'}


def test_bad_events_are_quarantined_with_their_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    items(lake, jsonl(tmp_path / "items.jsonl", {"item_id": "a", "title": "one"}))
    path = tmp_path / "log.csv"
    path.write_bytes(
        b"user_id,item_id,event_time,value\n"
        b"u1,a,1700000000,5\n"  # good, seconds
        b"u1,a,1700000001000,4\n"  # good, milliseconds
        b"u2,a,2023-11-14T22:13:20Z,\n"  # good, ISO, no value
        b"u1,a,1700000000,5\n"  # the first one again
        b"u1,a,1700000002,NaN\n"
        b"u1,a,1700000003,five\n"
        b"u1,zzz,1700000004,1\n"  # unknown item
        b"u1,a,4102444800,1\n"  # the year 2100
        b"u1,a,soon,1\n"
        b"u1,a,,1\n"
        b",a,1700000005,1\n"
        b"u1,,1700000006,1\n"
        b"u\xff,a,1700000007,1\n"
        b"u1,a,1700000008\n"
    )
    counts = log(lake, path)
    assert (counts.rows_in, counts.out) == (14, 3)
    assert counts.by_reason == {
        "duplicate_event": 1,
        "value_not_finite": 1,
        "not_a_number": 1,
        "unknown_item": 1,
        "event_in_future": 1,
        "event_time_invalid": 1,
        "missing_event_time": 1,
        "missing_user_id": 1,
        "missing_item_id": 1,
        "invalid_utf8": 1,
        "malformed_row": 1,
    }
    assert by_reason(lake) == dict(sorted(counts.by_reason.items()))
    assert lake.frame("interactions")["impression"].null_count() == 3


def test_an_event_waits_for_its_item_and_enters_once_when_it_arrives(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    items(lake, jsonl(tmp_path / "items.jsonl", {"item_id": "a", "title": "one"}))
    log(lake, _csv(tmp_path / "log.csv", "u1,late,1700000000,1", "u1,a,1700000001,1"))
    assert lake.rows("interactions") == 1
    assert admit_waiting(lake, NOW, WHO) == 0
    items(lake, jsonl(tmp_path / "more.jsonl", {"item_id": "late", "title": "two"}))
    later = datetime(2024, 7, 1, tzinfo=UTC)
    assert admit_waiting(lake, later, WHO) == 1
    assert admit_waiting(lake, later, WHO) == 0
    admitted = lake.frame("interactions").filter(pl.col("item_id") == "late").to_dicts()[0]
    assert (admitted["arrival_time"], admitted["value"]) == (later, 1.0)
    assert open_rows(lake).is_empty()


@pytest.mark.parametrize("beside", [True, False])
def test_an_id_that_comes_back_with_another_time_is_refused_and_not_lost(tmp_path: Path, beside: bool) -> None:
    lake = Lake(str(tmp_path / "lake"))
    items(lake, jsonl(tmp_path / "items.jsonl", {"item_id": "a", "title": "one"}))
    spec = InteractionsSpec(event_id="id")
    events = [("e1", "u1", "2024-01-01T00:00:00"), ("e0", "u9", "1900-01-01T00:00:01")]
    again = [("e1", "u1", "2024-01-01T05:00:00"), *([("e2", "u2", "2024-01-01T07:00:00")] if beside else [])]
    for name, rows in (("log", events), ("again", again)):
        lines = [f"{event},{user},a,{time}" for event, user, time in rows]
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join(["id,user_id,item_id,event_time", *lines]) + "\n")
        counts = log(lake, path, spec)
    assert counts.by_reason == {"conflicting_event": 1}
    stored = lake.frame("interactions").sort("event_id")
    assert stored["event_id"].to_list() == ["e0", "e1", *(["e2"] if beside else [])]
    # Far from the stored one it is taken for another event, and is written, not merely said to be.
    far = tmp_path / "far.csv"
    far.write_text("id,user_id,item_id,event_time\ne1,u1,a,2024-02-01T05:00:00\n")
    assert log(lake, far, spec).out == 1
    assert lake.rows("interactions") == 3 + beside


def test_an_event_that_waited_and_is_refused_in_the_end_is_quarantined_anew(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    items(lake, jsonl(tmp_path / "items.jsonl", {"item_id": "a", "title": "one"}))
    spec = InteractionsSpec(event_id="id")
    for name, item in (("first", "late"), ("second", "a")):
        path = tmp_path / f"{name}.csv"
        path.write_text(f"id,user_id,item_id,event_time\ne1,u1,{item},1700000000\n")
        log(lake, path, spec)
    items(lake, jsonl(tmp_path / "more.jsonl", {"item_id": "late", "title": "two"}))
    assert admit_waiting(lake, NOW, WHO) == 0
    assert by_reason(lake) == {"conflicting_event": 1}
    assert admit_waiting(lake, NOW, WHO) == 0
    assert by_reason(lake) == {"conflicting_event": 1}


def test_a_log_exported_again_with_more_rows_adds_only_these(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    items(lake, jsonl(tmp_path / "items.jsonl", {"item_id": "a", "title": "one"}))
    log(lake, _csv(tmp_path / "day1.csv", "u1,a,1700000000,1", "u2,a,1700000001,1"))
    counts = log(lake, _csv(tmp_path / "day2.csv", "u1,a,1700000000,1", "u2,a,1700000001,1", "u3,a,1700000002,1"))
    assert (counts.out, counts.unchanged, counts.quarantined) == (1, 2, 0)


def test_impressions_keep_request_and_position(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    items(lake, jsonl(tmp_path / "items.jsonl", {"item_id": "a", "title": "one"}))
    event = {"user_id": 1, "item_id": "a", "event_time": 1700000000, "event_type": "impression"}
    shown = {**event, "impression": True, "request_id": "q", "position": 3, "session_id": "s"}
    log(lake, jsonl(tmp_path / "log.jsonl", shown))
    row = lake.frame("interactions").to_dicts()[0]
    assert {name: row[name] for name in ("impression", "request_id", "position", "session_id", "value")} == {
        "impression": True,
        "request_id": "q",
        "position": 3,
        "session_id": "s",
        "value": None,
    }


def test_a_source_that_is_not_there_or_of_another_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no file or folder"):
        find_sources(str(tmp_path / "gone.jsonl"))
    (tmp_path / "items.xlsx").write_bytes(b"")
    with pytest.raises(SourceError, match=r"\.xlsx is not a"):
        find_sources(str(tmp_path / "items.xlsx"))


def _csv(path: Path, *rows: str) -> Path:
    path.write_text("user_id,item_id,event_time,value\n" + "\n".join(rows) + "\n")
    return path
