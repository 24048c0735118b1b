"""A folder is read as the tools that wrote it mean it, and what is not read of it is named."""

import gzip
import json
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from source_rows import ingest_new, read_rows

from pipelines.ingest.accounting import record_source, records, unread
from pipelines.ingest.events.ingest import ingest_interactions
from pipelines.ingest.items.ingest import ingest_items
from pipelines.profile.sample import sample
from pipelines.sources.column_names import differences, header_of
from pipelines.sources.file import File
from pipelines.sources.files import find_files, find_sources
from pipelines.sources.reading import check_text
from pipelines.sources.row import SourceError
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec
from storage.commit import Provenance
from storage.lake import Lake
from storage.quarantine import by_reason
from storage.reasons import Reason
from storage.releases.catalogue import catalogue

WHO = Provenance("test", "recipe")
NOW = datetime(2024, 6, 1, tzinfo=UTC)


def write(path: Path, text: str = "{}\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def parquet(path: Path, **columns: list[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def names(folder: Path, paths: tuple[str, ...]) -> list[str]:
    return [str(Path(path).relative_to(folder)) for path in paths]


def test_hidden_files_are_not_read_and_whatever_is_left_out_is_named(tmp_path: Path) -> None:
    for name in ("a.jsonl", "sub/b.CSV", "_date=1/c.parquet", ".ipynb_checkpoints/a-checkpoint.jsonl", "_old/d.csv"):
        write(tmp_path / name)
    for name in ("e.jsonl.xz", "f.xlsx", "_SUCCESS", ".g.csv.crc", "covers/h.jpg", "_h.jsonl"):
        write(tmp_path / name)
    _, path, found = find_files(str(tmp_path))
    assert names(tmp_path, found.read) == ["_date=1/c.parquet", "a.jsonl", "sub/b.CSV"]
    left_out = ["e.jsonl.xz", "f.xlsx", ".ipynb_checkpoints/a-checkpoint.jsonl", "_h.jsonl", "_old/d.csv"]
    assert names(tmp_path, found.left_out) == left_out
    assert found.warning(path).startswith(f"5 files are not read: {', '.join(left_out)} (read are")
    for number in range(20):
        write(tmp_path / f".{number:02d}.csv")
    _, path, found = find_files(str(tmp_path))
    assert found.warning(path).startswith("25 files are not read: e.jsonl.xz, f.xlsx, .00.csv")
    assert ".07.csv and 15 more (" in found.warning(path)
    for name in ("Thumbs.db", "README.md", "a.log"):
        write(tmp_path / name)
    _, path, found = find_files(str(tmp_path))
    assert found.warning(path).startswith("28 files are not read: e.jsonl.xz, f.xlsx, .00.csv"), (
        "what may hold rows first"
    )


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.bz2", "A.CSV.ZST"])
def test_compressed_text_is_the_source_that_it_holds_and_one_that_ends_early_is_named(
    tmp_path: Path, name: str
) -> None:
    is_csv = "csv" in name.lower()
    text = b"item_id,title\na,mug\n" if is_csv else b'{"item_id": "a", "title": "mug"}\n'
    plain = tmp_path / ("a.csv" if is_csv else "a.jsonl")
    plain.write_bytes(text)
    with pa.CompressedOutputStream(str(tmp_path / name), _codec(name)) as stream:
        stream.write(text)
    ((same,), (packed,)) = find_sources(str(plain)), find_sources(str(tmp_path / name))
    assert packed.sha256 == same.sha256
    lake = Lake(str(tmp_path / "lake"))
    assert ingest_items(lake, packed, ItemsSpec(), NOW, WHO).stages[0].out == 1
    assert ingest_items(lake, same, ItemsSpec(), NOW, WHO).stages[0].unchanged == 1
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match=f"{name} cannot be read to its end"):
        ingest_items(lake, find_sources(str(tmp_path / name))[0], ItemsSpec(), NOW, WHO)
    with pytest.raises(SourceError, match=f"{name} cannot be read to its end"):
        sample([str(tmp_path / name)], "items")


def test_a_compressed_text_that_ends_early_behind_its_beginning_is_named_where_it_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    rows = b"".join(
        b'{"item_id": "%d", "title": "%s"}\n' % (row, secrets.token_hex(2000).encode()) for row in range(999)
    )
    path.write_bytes(gzip.compress(rows)[:-100])
    with pytest.raises(SourceError, match=r"a\.jsonl\.gz cannot be read to its end"):
        sample([str(path)], "items")


@pytest.mark.parametrize("local", [True, False])
def test_a_fault_of_the_machine_or_of_a_store_is_no_fault_of_the_file(
    tmp_path: Path, local: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: File) -> None:
        raise OSError(5, "Input/output error") if local else OSError("When reading: AWS Error SLOW_DOWN")

    (tmp_path / "a.csv").write_text("item_id,title\n1,a\n")
    filesystem = pafs.LocalFileSystem() if local else pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    file = File(str(tmp_path / "a.csv"), filesystem)
    monkeypatch.setattr(File, "open_stream", fails)
    with pytest.raises(OSError, match=r"Input/output|SLOW_DOWN"):
        check_text(file, ItemsSpec())


def test_atomic_files_are_tabbed_texts_where_they_are_named_and_are_left_out_of_a_folder(tmp_path: Path) -> None:
    lake, spec = Lake(str(tmp_path / "lake")), ItemsSpec(item_id="item_id:token", title="title:token_seq")
    named = write(tmp_path / "in" / "shop.item", "item_id:token\ttitle:token_seq\n1\tA cup, blue\n")
    write(tmp_path / "in" / "shop.inter", "user_id:token\titem_id:token\nu\t1\n")
    ingest_items(lake, find_sources(str(named))[0], spec, NOW, WHO)
    assert catalogue(lake)["title"].to_list() == ["A cup, blue"]
    with pytest.raises(SourceError, match=r"2 files are not read: shop\.inter, shop\.item"):
        find_files(str(tmp_path / "in"))


def _codec(name: str) -> str:
    return {"gz": "gzip", "bz2": "bz2", "zst": "zstd"}[name.lower().rsplit(".", 1)[-1]]


def test_a_folder_without_a_readable_file_says_what_it_has(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl.xz")
    with pytest.raises(SourceError, match=r"holds no \.jsonl.*1 file is not read: a\.jsonl\.xz"):
        find_files(str(tmp_path))


def test_a_delta_table_is_refused_as_a_folder_as_a_partition_and_as_a_file(tmp_path: Path) -> None:
    table = tmp_path / "shop" / "items"
    write_deltalake(table, pa.table({"item_id": ["a"], "day": ["1"]}), partition_by=["day"])
    (part,) = table.rglob("*.parquet")
    for place in (tmp_path, table, table / "day=1", part):
        with pytest.raises(SourceError, match=r"shop/items is a Delta table.*Name the table itself"):
            find_files(str(place))


@pytest.mark.parametrize(
    ("log", "kind"), [("metadata/v1.metadata.json", "an Iceberg table"), (".hoodie/hoodie.properties", "a Hudi table")]
)
def test_tables_of_other_kinds_are_refused(tmp_path: Path, log: str, kind: str) -> None:
    part = parquet(tmp_path / "items" / "data" / "a.parquet", item_id=["a"])
    write(tmp_path / "items" / log)
    with pytest.raises(SourceError, match=f"items is {kind}"):
        find_files(str(tmp_path))
    for place in (part.parent, part):
        with pytest.raises(SourceError, match=f"items is {kind}"):
            find_files(str(place))


def test_a_log_gets_the_columns_that_its_folders_name_and_files_of_two_folders_are_two(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    items = write(tmp_path / "items.jsonl", '{"item_id": "a", "title": "mug"}\n')
    ingest_items(lake, find_sources(str(items))[0], ItemsSpec(), NOW, WHO)
    same = {"user_id": ["u"], "item_id": ["a"], "event_time": ["2024-01-01"]}
    for folder in ("event_type=add%20to%20cart", "event_type=click", "event_type=__HIVE_DEFAULT_PARTITION__"):
        parquet(tmp_path / "log" / "dt=2024-01-01" / folder / "part-0.parquet", **same)
    spec = InteractionsSpec()
    for _ in range(2):
        sources = find_sources(str(tmp_path / "log"), spec.from_folders)
        assert len({source.sha256 for source in sources}) == 3
        done = [
            ingest_interactions(lake, source, spec, NOW, WHO)
            for source in unread(sources, records(lake, "interactions", spec))
        ]
        for each in done:
            record_source(lake, each, WHO)
    assert done == []
    assert sorted(lake.frame("interactions")["event_type"]) == ["add to cart", "click", "interaction"]
    (one,) = find_sources(str(tmp_path / "log" / "dt=2024-01-01" / "event_type=click"), spec.from_folders)
    assert one.columns == (("event_type", "click"),)


def test_a_column_of_the_file_comes_before_that_of_its_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "title=folder" / "items.jsonl", '{"item_id": "a", "title": "file"}\n{"item_id": "b"}\n')
    lake = Lake(str(tmp_path / "lake"))
    ingest_items(lake, find_sources(str(path), ItemsSpec().from_folders)[0], ItemsSpec(), NOW, WHO)
    assert catalogue(lake)["title"].to_list() == ["file", "folder"]


def test_a_folder_is_an_attribute_only_where_the_recipe_names_it(tmp_path: Path) -> None:
    path = write(tmp_path / "kind=cup" / "dt=1" / "items.jsonl", '{"item_id": "a", "title": "mug"}\n')
    for spec, told in ((ItemsSpec(), {}), (ItemsSpec(partitions=("kind",)), {"kind": "cup"})):
        lake = Lake(str(tmp_path / f"lake{len(told)}"))
        (source,) = find_sources(str(path), spec.from_folders)
        assert (source.sha256 == source.bytes_sha256) == (not told)
        ingest_items(lake, source, spec, NOW, WHO)
        assert json.loads(catalogue(lake)["attributes"][0]) == told


def test_a_log_that_was_read_before_its_folders_counted_is_not_doubled(tmp_path: Path) -> None:
    lake, spec = Lake(str(tmp_path / "lake")), InteractionsSpec()
    items = write(tmp_path / "items.jsonl", '{"item_id": "a", "title": "mug"}\n')
    ingest_items(lake, find_sources(str(items))[0], ItemsSpec(), NOW, WHO)
    path = parquet(tmp_path / "event_type=buy" / "p.parquet", user_id=["u"], item_id=["a"], event_time=["2024-01-01"])
    (before,) = find_sources(str(path))
    record_source(lake, ingest_interactions(lake, before, spec, NOW, WHO), WHO)
    (now,) = find_sources(str(path), spec.from_folders)
    counts = ingest_interactions(lake, now, spec, NOW, WHO).stages[0]
    assert (counts.out, counts.unchanged, lake.rows("interactions")) == (0, 1, 1)


def test_of_a_damaged_parquet_file_the_other_row_groups_are_read_and_every_lost_row_counts(tmp_path: Path) -> None:
    table = pa.table({"item_id": [f"i{n}" for n in range(3000)], "title": [f"t{n}" for n in range(3000)]})
    path = tmp_path / "items.parquet"
    pq.write_table(table, path, row_group_size=1000, compression="zstd")
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 400] = b"\0" * 400
    path.write_bytes(data)
    lake = Lake(str(tmp_path / "lake"))
    counts = ingest_items(lake, find_sources(str(path))[0], ItemsSpec(), NOW, WHO).stages[0]
    assert (counts.rows_in, counts.out, counts.by_reason) == (3000, 2000, {Reason.UNREADABLE_PARQUET: 1000})
    assert counts.examples[Reason.UNREADABLE_PARQUET].startswith("items.parquet: rows 1,000 to 1,999 cannot be read")
    assert by_reason(lake) == {Reason.UNREADABLE_PARQUET: 1}


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_a_folder_name_whose_escapes_are_no_utf8_gives_no_made_up_value(tmp_path: Path, name: str) -> None:
    path = tmp_path / "items" / "item_id=caf%E9" / name
    write(path, '{"title": "mug"}\n' if name.endswith("l") else "title\nmug\n")
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"title": ["mug"]}), path)
    lake = Lake(str(tmp_path / "lake"))
    ingest_items(lake, find_sources(str(path), ItemsSpec().from_folders)[0], ItemsSpec(), NOW, WHO)
    assert by_reason(lake) == {Reason.INVALID_UTF8: 1}


def test_links_are_followed_and_those_in_a_circle_and_to_nothing_end_no_run(tmp_path: Path) -> None:
    folder = tmp_path / "items"
    write(folder / "a.jsonl")
    write(folder / "one" / "b.jsonl")
    write(folder / "two" / "c.jsonl")
    write(tmp_path / "elsewhere" / "d.jsonl")
    for number in range(3):  # each way round doubles what a walk without memory has to visit
        (folder / "one" / f"up{number}").symlink_to(folder)
        (folder / "two" / f"up{number}").symlink_to(folder / "one")
    (folder / "far").symlink_to(tmp_path / "elsewhere")
    (folder / "gone.jsonl").symlink_to("nowhere")
    (folder / "ring.jsonl").symlink_to("ring.jsonl")
    (folder / "gone.jpg").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.csv")
    _, path, found = find_files(str(folder))
    once = {Path(each).resolve() for each in found.read}
    assert {each.name for each in once} == {"a.jsonl", "b.jsonl", "c.jsonl", "d.jsonl"}
    assert len(found.read) < 50
    assert names(folder, found.left_out) == ["gone.jsonl", "pipe.csv", "ring.jsonl"]
    assert "links to nothing" in found.warning(path)
    with pytest.raises(SourceError, match="is not a regular file"):
        find_files(str(folder / "pipe.csv"))
    with pytest.raises(SourceError, match="no file or folder"):
        find_files(str(folder / "gone.jsonl"))


@pytest.mark.parametrize("name", ["v1.metadata.json", "00001-a.metadata.json.gz", "version-hint.text"])
def test_an_iceberg_table_is_known_by_any_of_its_metadata(tmp_path: Path, name: str) -> None:
    parquet(tmp_path / "t" / "data" / "a.parquet", item_id=["1"], title=["a"])
    write(tmp_path / "t" / "metadata" / name)
    for place in (tmp_path, tmp_path / "t", tmp_path / "t" / "data" / "a.parquet"):
        with pytest.raises(SourceError, match="Iceberg table"):
            find_files(str(place))


def differing(folder: Path, spec: ItemsSpec | InteractionsSpec) -> list[str]:
    headers = [header_of(source, spec) for source in find_sources(str(folder))]
    return list(differences([each for each in headers if each]))


def test_files_of_a_folder_with_other_columns_are_told_by_file_and_column(tmp_path: Path) -> None:
    for name in "abc":
        parquet(tmp_path / f"{name}.parquet", item_id=[name], title=["x"], price=[1], note=[None])
    assert differing(tmp_path, ItemsSpec()) == []
    parquet(tmp_path / "d.parquet", item_id=["d"], title=["x"], note=[None])
    parquet(tmp_path / "e.parquet", item_id=["e"], title=["x"], price=["12"], note=["n"], brand=["b"])
    parquet(tmp_path / "empty.parquet", item_id=[])
    write(tmp_path / "f.csv", "item_id,title,price,note\nf,x,1,\n")
    write(tmp_path / "g.jsonl", '{"item_id": "g", "title": "x"}\n')
    write(tmp_path / "h.parquet", "damaged")
    assert differing(tmp_path, ItemsSpec()) == [
        "d.parquet has no column 'price', unlike most of the 6 files",
        "e.parquet has also 'brand'; has text in 'price' and not whole numbers, unlike most of the 6 files",
    ]
    for number in range(9):
        parquet(tmp_path / f"z{number}.parquet", **{f"column_{number}": ["z"]})
    assert differing(tmp_path, ItemsSpec())[-1] == "6 more files have other columns than most"


def test_csv_files_of_a_folder_with_other_columns_are_told(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path / f"{name}.csv", f"item_id,title,price\n{name},x,1\n")
    assert differing(tmp_path, ItemsSpec()) == []
    write(tmp_path / "d.csv", "item_id,name,price\nd,x,1\n")
    write(tmp_path / "e.csv", "item_id,title\ne,x,1\n")
    assert differing(tmp_path, ItemsSpec()) == [
        "d.csv has no column 'title'; has also 'name', unlike most of the 5 files",
        "e.csv has no column 'price', unlike most of the 5 files",
    ]


def test_of_a_log_only_columns_that_are_read_have_kinds_that_may_differ(tmp_path: Path) -> None:
    for name, times in (("a", [1]), ("b", [2]), ("c", ["2024-01-01"])):
        parquet(tmp_path / f"{name}.parquet", user_id=["u"], item_id=["i"], event_time=times)
    assert differing(tmp_path, InteractionsSpec()) == [
        "c.parquet has text in 'event_time' and not whole numbers, unlike most of the 3 files"
    ]


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet"])
def test_a_file_that_changes_while_it_is_read_is_told_and_its_rows_come_once(tmp_path: Path, name: str) -> None:
    rows = [{"user_id": f"u{row}", "item_id": "i", "event_time": 1_600_000_000 + row} for row in range(40)]

    def deliver(count: int) -> None:
        path = tmp_path / "in" / name
        if name.endswith("parquet"):
            parquet(path, **{key: [row[key] for row in rows[:count]] for key in rows[0]})
        elif name.endswith("csv"):
            text = "user_id,item_id,event_time\n"
            write(path, text + "".join(",".join(map(str, row.values())) + "\n" for row in rows[:count]))
        else:
            write(path, "".join(json.dumps(row) + "\n" for row in rows[:count]))

    lake = Lake(str(tmp_path / "lake"))
    ingest_new(lake, str(write(tmp_path / "items.jsonl", '{"item_id": "i", "title": "x"}\n')))
    deliver(20)
    (half,) = find_sources(str(tmp_path / "in"))
    deliver(40)
    with pytest.raises(SourceError, match=f"{name} changed while it was read"):
        ingest_interactions(lake, half, InteractionsSpec(), NOW, WHO)
    os.utime(tmp_path / "in" / name)
    ingest_new(lake, str(tmp_path / "in"), InteractionsSpec())
    assert lake.frame("interactions")["user_id"].sort().to_list() == sorted(row["user_id"] for row in rows)


def test_a_file_that_is_only_touched_while_it_is_read_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "items.jsonl", '{"item_id": "i", "title": "x"}\n')
    (source,) = find_sources(str(path))
    os.utime(path, (1, 1))
    assert len(list(read_rows(source, ItemsSpec()))) == 1
