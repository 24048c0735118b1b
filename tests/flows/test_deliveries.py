"""A run is judged by the files it names, reads them under the recipe it has, and says which of them gave nothing."""

import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from conftest import write_items
from flows.bootstrap import bootstrap
from flows.ingest import ingest
from flows.nightly import nightly
from flows.preflight.preflight import PlannedRun, preflight
from flows.recipe import parse_recipe
from pipelines.ingest.events.pseudonyms import KEY
from pipelines.sources.row import SourceError
from sidmill.release import open_trie
from storage.errors import QuarantineBudgetExceeded
from storage.lake import Lake
from storage.quarantine import by_reason, open_rows
from storage.releases.releases import read_release
from storage.runs.details import RunResult
from storage.runs.record import runs

Recipe = dict[str, object]


def start(uri: str, small: Path, recipe: Recipe) -> Lake:
    bootstrap(uri, recipe, [str(small / "items.jsonl")], [str(small / "log.csv")])
    return Lake(uri)


def test_a_file_is_read_again_under_a_mended_mapping(
    tmp_path: Path, small: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {**recipe, "interactions": {"user_id": "reader"}}
    with pytest.raises(QuarantineBudgetExceeded, match=r"600 of 600 rows.* of log.csv.*no 'reader', it has event_time"):
        start(str(tmp_path / "lake"), small, wrong)
    assert "ingest items" in capsys.readouterr().out
    lake = start(str(tmp_path / "lake"), small, recipe)
    assert lake.rows("interactions") == 600
    assert by_reason(lake) == {}
    assert "ingest items: skipped" in capsys.readouterr().out
    assert runs(lake)[-1].result == RunResult(release="r-000001", made=True, published=True)


def test_a_bad_delivery_stops_its_own_night_and_no_other(tmp_path: Path, small: Path, recipe: Recipe) -> None:
    lake = start(str(tmp_path / "lake"), small, recipe)
    bad, mended = str(small / "bad.jsonl"), str(small / "mended.jsonl")
    rows = write_items(small / "mended.jsonl", 40, 50)
    (small / "bad.jsonl").write_text(
        "".join(json.dumps({"sku": row["item_id"], **row, "item_id": ""}) + "\n" for row in rows)
    )
    write_items(small / "good.jsonl", 90, 5)
    for _ in range(2):
        with pytest.raises(QuarantineBudgetExceeded, match=r"50 of 50 rows \(100.0%\) of bad.jsonl"):
            nightly(lake.uri, None, [bad])
    assert nightly(lake.uri, None, [str(small / "good.jsonl")])["release"] == "r-000002"
    with pytest.raises(QuarantineBudgetExceeded, match=r"50 of 50 rows \(100.0%\) of bad.jsonl"):
        nightly(lake.uri, None, [bad, str(small / "good.jsonl")])
    assert nightly(lake.uri, None, [mended])["release"] == "r-000003"
    assert len(open_trie(lake, read_release(lake, "production"))) == 95


def test_what_is_set_of_budget_and_gates_holds_for_one_run(tmp_path: Path, small: Path, recipe: Recipe) -> None:
    lake = start(str(tmp_path / "lake"), small, recipe)
    bad = str(small / "bad.jsonl")
    (small / "bad.jsonl").write_text('{"title": "no id"}\n' * 30)
    write_items(small / "night.jsonl", 40, 5)
    night = [bad, str(small / "night.jsonl")]
    loose = ["budget.quarantine_share=1", "gates.capacity_used.limit=0.01"]
    assert nightly(lake.uri, None, night, overrides=loose)["made"]
    made = read_release(lake, "r-000002")
    assert [gate.limit for gate in made.gates if gate.name == "capacity_used"] == [0.01]
    assert made.recipe == read_release(lake, "r-000001").recipe
    (small / "worse.jsonl").write_text('{"title": "no id either"}\n' * 30)
    with pytest.raises(QuarantineBudgetExceeded, match=r"30 of 30 rows"):
        nightly(lake.uri, None, [bad, str(small / "worse.jsonl")])


def test_a_log_or_a_catalogue_that_gives_nothing_is_named(
    tmp_path: Path, small: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    (small / "log.csv").write_text("user_id,item_id,event_time\n")
    start(str(tmp_path / "lake"), small, recipe)
    told = capsys.readouterr().out
    assert "warning: log.csv is empty" in told
    assert "the recipe has [collaborative], but the log has no event before" in told
    (small / "items.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"none came from .*items\.jsonl"):
        start(str(tmp_path / "none"), small, recipe)


def test_a_stage_after_ingest_that_refuses_too_much_names_the_file(tmp_path: Path, small: Path, recipe: Recipe) -> None:
    (small / "items.jsonl").write_text("".join(f'{{"item_id": "i{n}", "title": "t{n}"}}\n' for n in range(30)))
    with pytest.raises(QuarantineBudgetExceeded, match=r"embed text: 30 of 30 rows \(100.0%\) of items.jsonl were"):
        bootstrap(str(tmp_path / "lake"), {**recipe, "text": {"fields": ["blurb"]}}, [str(small / "items.jsonl")])


def test_what_a_run_does_not_read_is_named_and_what_it_cannot_read_stops_it_before_any_row(
    tmp_path: Path, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    folder = small / "catalogue"
    write_items(folder / "category=cups" / "a.jsonl", 0, 3)
    (folder / "b.jsonl.xz").write_bytes(b"")
    ingest(lake.uri, items=[str(folder)])
    told = capsys.readouterr().out
    assert "warning" in told
    assert "1 file is not read: b.jsonl.xz" in told
    assert "note: columns in the names of folders are not read as attributes: category. To read them, " in told
    (folder / "c.csv").write_text("item_id;title\n1;mug\n")
    write_items(folder / "d.jsonl", 3, 3)
    with pytest.raises(SourceError, match=r"c\.csv: its cells are separated by ';'.*below \[items\] in the recipe"):
        ingest(lake.uri, items=[str(folder)])
    assert lake.rows("items") == 3
    ingest(lake.uri, items=[str(folder)], overrides=["items.csv.delimiter=;"])
    assert lake.rows("items") == 7


def test_a_copy_of_a_file_is_read_once_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "incoming"
    folder.mkdir()
    rows = write_items(folder / "items.jsonl", 0, 5)
    (folder / "items (copy).jsonl").write_bytes((folder / "items.jsonl").read_bytes())
    lake = Lake(str(tmp_path / "lake"))
    ingest(lake.uri, items=[str(folder)])
    assert lake.rows("items") == len(rows)
    told = " ".join(capsys.readouterr().out.split())
    assert "note: items.jsonl not read: the content is that of another file of this run" in told


def test_empty_files_of_two_formats_are_told_by_the_first_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "incoming"
    write_items(folder / "a.jsonl", 0, 5)
    for name in ("b.parquet", "c.csv"):
        (folder / name).write_bytes(b"")
    ingest(str(tmp_path / "lake"), items=[str(folder)])
    told = " ".join(capsys.readouterr().out.split())
    assert "warning: b.parquet is empty: it has no rows" in told
    assert "note: c.csv not read: the content is that of another file of this run" in told


def test_a_table_that_lost_rows_and_got_none_is_not_called_empty(
    tmp_path: Path, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = {"user_id": ["ana", "bob"], "item_id": ["i0000"] * 2, "event_time": ["2026-09-01"] * 2}
    write_deltalake(tmp_path / "dlog", pa.table(log).slice(0, 1))
    write_deltalake(tmp_path / "dlog", pa.table(log).slice(1, 1), mode="append")
    words: dict[str, list[str]] = {"items": [str(small / "items.jsonl")], "interactions": [str(tmp_path / "dlog")]}
    ingest(str(tmp_path / "lake"), **words)
    DeltaTable(tmp_path / "dlog").delete("user_id = 'bob'")
    ingest(str(tmp_path / "lake"), **words)
    told = " ".join(capsys.readouterr().out.split())
    assert "note: dlog@v2 has no new rows: none came since dlog@v1" in told
    assert "is empty" not in told


def test_messages_name_the_file_of_a_partition_by_its_path_below_the_named_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = {
        "day=1": {"item_id": ["a"], "title": ["mug"]},
        "day=2": {"item_id": ["b"], "title": ["bowl"]},
        "day=3": {"item_id": ["c"], "name": ["jug"]},
        "day=4": {"item_id": pa.array([], pa.string()), "title": pa.array([], pa.string())},
    }
    for day, columns in tables.items():
        (tmp_path / "shop" / day).mkdir(parents=True)
        pq.write_table(pa.table(columns), tmp_path / "shop" / day / "part-00000.parquet")
    broken = tmp_path / "shop" / "day=5"
    broken.mkdir()
    (broken / "part-00000.csv").write_text("00012,oak lamp\n00013,mug\n")
    settings = ["items.leave_out=['size']", "budget.quarantine_share=1.0"]
    ingest(str(tmp_path / "lake"), items=[str(tmp_path / "shop")], overrides=settings)
    told = " ".join(capsys.readouterr().out.split())
    for line in (
        "day=3/part-00000.parquet has no column 'title'; has also 'name'",
        "day=4/part-00000.parquet is empty",
        "day=5/part-00000.csv seems to have no header",
        "day=5/part-00000.csv gave no row",
        "day=1/part-00000.parquet and 3 more: no row has 'size' (items.leave_out)",
    ):
        assert f"warning: {line}" in told


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zst"])
def test_a_compressed_file_that_breaks_off_costs_what_is_missing_until_it_is_whole(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, lake = tmp_path / "incoming", Lake(str(tmp_path / "lake"))
    write_items(folder / "a.jsonl", 0, 5)
    some = random.Random(0)
    rows = [{"item_id": f"b{n}", "title": some.randbytes(400).hex()} for n in range(4000)]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path = folder / "b" / f"items.jsonl{suffix}"
    path.parent.mkdir()
    with pa.CompressedOutputStream(str(path), {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}[suffix]) as out:
        out.write(text)
    whole = path.read_bytes()
    write_items(folder / "c.jsonl", 5, 5)
    path.write_bytes(whole[: len(whole) // 2])
    checked = preflight(PlannedRun("ingest", parse_recipe({}).model_dump(mode="json"), [str(folder)], []))
    assert checked.errors == []
    assert any("cannot be read to its end" in line for line in checked.warnings)
    counts = list[int]()
    for _ in range(2):
        ingest(lake.uri, items=[str(folder)])
        told = " ".join(capsys.readouterr().out.split())
        assert f"b/items.jsonl{suffix} cannot be read to its end: " in told
        assert "Copy or export it again" in told
        assert by_reason(lake) == {"unreadable_text": 1}
        counts.append(lake.rows("items"))
    assert counts[0] == counts[1]
    assert 900 < counts[0] < 2110
    path.write_bytes(whole)
    ingest(lake.uri, items=[str(folder)])
    assert "cannot be read" not in capsys.readouterr().out
    assert (lake.rows("items"), by_reason(lake)) == (4010, {})
    damaged = bytearray(whole)
    if suffix == ".zst":  # has no checksum
        return
    place = len(whole) - 8 if suffix == ".gz" else len(whole) // 2  # the checksum; a block, which has its own
    damaged[place : place + 4] = bytes(4)
    path.write_bytes(damaged)
    write_items(folder / "d.jsonl", 10, 5)
    ingest(lake.uri, items=[str(folder)])
    assert lake.rows("items") == 4015
    with pytest.raises(SourceError, match="cannot be read to its end"):
        ingest(lake.uri, items=[str(path)])


def test_only_the_whole_of_a_log_that_broke_off_resolves_the_row_of_its_rest(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not another log in its place; and the row is no user's, so pseudonyms leave it as it is."""
    monkeypatch.setenv(KEY, "a key of thirty-two characters!!")
    lake, some = Lake(str(tmp_path / "lake")), random.Random(0)

    def log(users: list[str]) -> bytes:
        rows = [f"{user},i0000,2026-09-01T00:00:{n % 60:02d}Z" for n, user in enumerate(users)]
        return gzip.compress("\n".join(["user_id,item_id,event_time", *rows]).encode())

    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "a.csv").write_text("user_id,item_id,event_time\nu,i0000,2026-09-01T00:00:00Z\n")
    path, whole = tmp_path / "log" / "latest.csv.gz", log([some.randbytes(200).hex() for _ in range(900)])

    def read(data: bytes) -> dict[str, int]:
        path.write_bytes(data)
        settings = ["interactions.pseudonyms=true"]
        ingest(lake.uri, items=[str(small / "items.jsonl")], interactions=[str(tmp_path / "log")], overrides=settings)
        return by_reason(lake)

    assert read(whole[: len(whole) // 2]) == {"unreadable_text": 1}
    assert "latest.csv.gz cannot be read to its end" in open_rows(lake)["detail"][0]
    assert read(log(["another", "day"])) == {"unreadable_text": 1}
    assert read(whole) == {}
    assert lake.rows("interactions") == 903


def test_one_in_an_object_store_costs_what_is_missing_too(
    tmp_path: Path, s3_bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    store, place = pafs.FileSystem.from_uri(s3_bucket)
    some = random.Random(0)
    rows = [{"item_id": f"b{n}", "title": some.randbytes(400).hex()} for n in range(900)]
    whole = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    path = f"{place}/in/b/items.jsonl.gz"

    def put(path: str, data: bytes) -> None:
        with store.open_output_stream(path, compression=None) as stream:
            stream.write(data)

    put(f"{place}/in/a.jsonl", b'{"item_id": "a", "title": "mug"}\n')
    put(path, whole[: len(whole) // 2])
    for _ in range(2):
        ingest(lake.uri, items=[f"{s3_bucket}/in"])
        assert "b/items.jsonl.gz cannot be read to its end: " in " ".join(capsys.readouterr().out.split())
        assert by_reason(lake) == {"unreadable_text": 1}
        assert 200 < lake.rows("items") < 700
    put(path, whole)
    ingest(lake.uri, items=[f"{s3_bucket}/in"])
    assert (lake.rows("items"), by_reason(lake)) == (901, {})


def test_a_bad_row_in_one_partition_of_four_costs_that_row(tmp_path: Path, small: Path) -> None:
    days = [f"day={day}" for day in range(4)]
    for day, folder in enumerate(days):
        times = [f"2026-09-0{day + 1}T00:00:{second:02d}Z" for second in range(50)]
        if day == 2:
            times[7] = "soon"
        rows = {"user_id": ["ana"] * 50, "item_id": ["i0000"] * 50, "event_time": times}
        (tmp_path / "log" / folder).mkdir(parents=True)
        pq.write_table(pa.table(rows), tmp_path / "log" / folder / "part-00000.parquet")
    lake = Lake(str(tmp_path / "lake"))
    ingest(lake.uri, items=[str(small / "items.jsonl")], interactions=[str(tmp_path / "log")])
    assert lake.rows("interactions") == 199
    (bad,) = open_rows(lake).select("reason", "source_row").rows()
    assert bad == ("event_time_invalid", 7)
    ingest(lake.uri, items=[str(small / "items.jsonl")], interactions=[str(tmp_path / "log")])
    assert (lake.rows("interactions"), open_rows(lake).height) == (199, 1)


def test_a_budget_that_is_exceeded_says_once_what_to_do_about_each_reason(
    tmp_path: Path, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"u{n},i0000,{20260901 if n < 40 else '2026-09-01'},{1 if n < 40 else 'shown'}" for n in range(60)]
    (small / "log.csv").write_text("user_id,item_id,event_time,impression\n" + "\n".join(rows) + "\n")
    told = (
        r"event_time_invalid 40: .*as 2026-09-01.*\[write times as ISO 8601.*not_a_boolean 20: .*'shown'.*\[write true"
    )
    with pytest.raises(QuarantineBudgetExceeded, match=told) as stopped:
        ingest(str(tmp_path / "lake"), items=[str(small / "items.jsonl")], interactions=[str(small / "log.csv")])
    assert (str(stopped.value) + capsys.readouterr().out).count("write times as ISO 8601") == 1


def test_a_column_that_is_nearly_one_that_is_meant_is_told_once(
    tmp_path: Path, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (small / "items.csv").write_text("item_id,title,Deleted\n1,mug,t\n")
    (small / "log.csv").write_text("user_id,item_id,event_time,eventType\nana,1,2026-09-01,buy\n")
    for _ in range(2):
        ingest(str(tmp_path / "lake"), items=[str(small / "items.csv")], interactions=[str(small / "log.csv")])
    told = capsys.readouterr().out
    assert told.count("items.csv has no column 'deleted'; if 'Deleted' is that column, name it in [items]") == 1
    assert told.count("log.csv has no column 'event_type'; if 'eventType' is that column") == 1


def test_a_column_that_may_mark_deleted_items_is_told_by_a_run_and_before_it(
    tmp_path: Path, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (small / "items.csv").write_text("item_id,title,is_deleted\n1,mug,t\n")
    line = "items.csv: 'is_deleted' may mark deleted items, and deletes none: "
    planned = PlannedRun("bootstrap", parse_recipe({}).model_dump(mode="json"), [str(small / "items.csv")], [], None)
    assert [each for each in preflight(planned, quick=True).warnings if each.startswith(line)]
    ingest(str(tmp_path / "lake"), items=[str(small / "items.csv")])
    told = " ".join(capsys.readouterr().out.split())
    assert told.count(f"warning: {line}") == 1
    assert 'set items.deleted = "is_deleted"' in told


def test_a_catalogue_whose_pictures_are_all_refused_is_named(
    tmp_path: Path, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_items(small / "items.jsonl", 0, 3)
    (small / "items.jsonl").write_text("".join(json.dumps({**row, "image": "gone.jpg"}) + "\n" for row in rows))
    ingest(str(tmp_path / "lake"), {"image": {}}, [str(small / "items.jsonl")])
    told = capsys.readouterr().out
    assert "warning: items.jsonl gave no picture: all rows were refused (image_unreadable 3: 'gone.jpg': " in told
    assert "check the path" in told
