"""The result of a query as a source: its cells keep their types, and an unchanged result is not read again."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import adbc_driver_postgresql.dbapi as postgres
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ingest.accounting import IngestedSource, record_source, records, unread
from pipelines.ingest.items.ingest import ingest_items
from pipelines.profile.sample import sample
from pipelines.registry import source_kind_of
from pipelines.sources.protocol import check_sources
from pipelines.sources.row import SourceError
from pipelines.sources.source_spec import ItemsSpec
from pipelines.sources.spooled.spool import GROUP_ROWS, write_parquet
from storage.commit import Provenance
from storage.lake import Lake
from storage.releases.catalogue import catalogue

WHO = Provenance("test", "recipe")
NOW = datetime(2026, 9, 1, tzinfo=UTC)
POSTGRES = next((each for each in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
SECRET = "geheim-8471"


def query(folder: Path, text: str) -> str:
    (folder / "items.sql").write_text(text)
    return f"sql:{folder}/items.sql"


def read(lake: Lake, uri: str) -> list[IngestedSource]:
    spec = ItemsSpec()
    before = records(lake, "items", spec)
    fresh = unread(source_kind_of(uri).find(uri, spec, before).sources, before)
    check_sources(fresh, spec)
    done = [ingest_items(lake, source, spec, NOW, WHO) for source in fresh]
    for each in done:
        record_source(lake, each, WHO)
    return done


def living(lake: Lake) -> dict[str, str]:
    return dict(catalogue(lake).filter(~pl.col("deleted")).select("item_id", "title").iter_rows())


def test_a_result_is_read_once_and_again_only_when_it_changed(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    pl.DataFrame({"item_id": ["a", "b"], "title": ["mug", "bowl"]}).write_csv(tmp_path / "items.csv")
    uri = query(tmp_path, "SELECT * FROM 'items.csv' ORDER BY item_id")
    (done,) = read(lake, uri)
    assert (done.source.uri, done.source.file, done.stages[0].out) == (uri, "items.sql", 2)
    assert read(lake, uri) == []
    pl.DataFrame({"item_id": ["b", "c"], "title": ["bowl", "jug"]}).write_csv(tmp_path / "items.csv")
    (done,) = read(lake, uri)
    assert (done.stages[0].out, done.stages[0].unchanged) == (1, 1)
    assert living(lake) == {"a": "mug", "b": "bowl", "c": "jug"}, "a row that vanishes deletes no item"


def test_a_flag_in_the_result_deletes_an_item(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    read(lake, query(tmp_path, "FROM (VALUES ('a', 'mug', false), ('b', 'jug', false)) t(item_id, title, deleted)"))
    read(lake, query(tmp_path, "SELECT 'a' AS item_id, 'mug' AS title, true AS deleted"))
    assert living(lake) == {"b": "jug"}


def test_cells_of_duckdb_keep_their_types(tmp_path: Path) -> None:
    uri = query(
        tmp_path,
        "SELECT 'a' AS item_id, 1.50::DECIMAL(9,2) AS price, TIMESTAMPTZ '2026-01-02 03:04:05' AS at, "
        "['red', 'blue'] AS tags, {'cm': 4} AS size, 7::HUGEINT AS sold, NULL AS note",
    )
    looked = sample([uri], "items")
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    cells = {"price": Decimal("1.50"), "at": at, "tags": ["red", "blue"], "size": {"cm": 4}, "sold": 7, "note": None}
    assert looked.rows == [{"item_id": "a", **cells}]
    assert (looked.whole, looked.formats) == (True, {"Spooled"})


def test_a_type_that_parquet_lacks_is_refused_with_its_column(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"items\.sql: the column 'age' has the type .*interval.* Cast it"):
        read(Lake(str(tmp_path / "lake")), query(tmp_path, "SELECT 'a' AS item_id, INTERVAL 1 DAY AS age"))


def test_a_database_file_is_opened_for_reading_by_the_name_of_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with duckdb.connect(tmp_path / "shop.db") as database:
        database.execute("CREATE TABLE products AS SELECT 'a' AS item_id, 'mug' AS title")
    monkeypatch.setenv("SIDMILL_SQL_SHOP", f"duckdb:{tmp_path}/shop.db")
    lake = Lake(str(tmp_path / "lake"))
    (done,) = read(lake, query(tmp_path, "FROM products") + "@shop")
    assert done.source.uri == f"sql:{tmp_path}/items.sql@shop"
    assert living(lake) == {"a": "mug"}
    with pytest.raises(SourceError, match="read-only"):
        read(lake, query(tmp_path, "DELETE FROM products; FROM products") + "@shop")


@pytest.mark.parametrize(
    ("uri", "text", "told"),
    [
        ("sql:{}/none.sql", "", r"none\.sql: the query cannot be read: No such file"),
        ("sql:{}/items.sql", " \n", "the file is empty"),
        ("sql:SELECT 1", "", r"names no query\. Write the query into a file"),
        ("sql:postgresql://me:geheim-8471@host/shop", "", r"sql:postgresql://\*\*\*@host/shop names no query"),
        ("sql:{}/items.sql@other", "SELECT 1", "SIDMILL_SQL_OTHER is not set"),
        ("sql:{}/items.sql@odd", "SELECT 1", "SIDMILL_SQL_ODD has an address of another kind"),
    ],
)
def test_an_address_that_cannot_be_read_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, text: str, told: str
) -> None:
    monkeypatch.setenv("SIDMILL_SQL_ODD", f"mysql://me:{SECRET}@host/shop")
    query(tmp_path, text)
    with pytest.raises(SourceError, match=told) as error:
        source_kind_of("sql:").check(uri.format(tmp_path))
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("SELEC 1", r"items\.sql: the query failed: Parser Error"),
        ("CREATE TABLE t AS SELECT 1 AS a", "it gives no rows; end it with a SELECT"),
        ("-- SELECT 1", "it gives no rows"),
        ("FROM lake", "lake does not exist"),
        (f"FROM read_csv('/nothing?token={SECRET}')", r"token=\*\*\*"),
        (f"SELECT error('cannot connect: host=h password={SECRET} port=1')", r"password=\*\*\*"),
        (f'SELECT error(\'cannot connect: "secret_key": "{SECRET}"\')', r"\*\*\*"),
    ],
)
def test_a_query_that_fails_is_one_line_without_secrets(tmp_path: Path, text: str, told: str) -> None:
    lake = Lake(str(tmp_path / "lake"))
    with pytest.raises(SourceError, match=told) as error:
        read(lake, query(tmp_path, text))
    assert SECRET not in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is None


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, GROUP_ROWS // 3), min_size=1, max_size=8))
def test_equal_rows_give_equal_bytes_however_they_are_batched(sizes: list[int]) -> None:
    table = pa.table({"n": range(sum(sizes))})
    batches, first = [], 0
    for size in sizes:
        batches += table.slice(first, size).to_batches()
        first += size
    with TemporaryDirectory() as folder:
        one, other = Path(folder) / "one", Path(folder) / "other"
        write_parquet(one, table.schema, batches, "")
        write_parquet(other, table.schema, table.to_batches(), "")
        assert one.read_bytes() == other.read_bytes()
        assert pq.read_table(one).equals(table)


def test_the_scratch_file_goes_with_its_source(tmp_path: Path) -> None:
    uri = query(tmp_path, "SELECT 'a' AS item_id")
    (source,) = source_kind_of(uri).find(uri, ItemsSpec(), []).sources
    assert getattr(source, "scratch", None) is not None
    scratch = Path(str(getattr(source, "path", ""))).parent
    assert scratch.is_dir()
    del source
    assert not scratch.exists()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A PostgreSQL server on the loopback address; returns its address."""
    if POSTGRES is None:
        pytest.skip("needs a PostgreSQL server")
    with TemporaryDirectory() as place:
        folder = Path(place)
        user = None
        if os.geteuid() == 0:  # the server does not run as root
            user = "nobody"
            shutil.chown(folder, user)
        run = {"user": user, "cwd": folder, "stdout": subprocess.DEVNULL}
        data = str(folder / "data")
        (folder / "password").write_text(SECRET)
        if user:
            shutil.chown(folder / "password", user)
        arguments = ["-D", data, "-U", "shop", "--no-sync", "-A", "scram-sha-256", "--pwfile", str(folder / "password")]
        subprocess.run([POSTGRES / "initdb", *arguments], check=True, **run)  # type: ignore[call-overload]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [POSTGRES / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **run)  # type: ignore[call-overload]
        try:
            server = f"postgresql://shop:{SECRET}@127.0.0.1:{port}/postgres"
            until = time.monotonic() + 60
            while not answers(server):  # it listens before it is ready
                assert time.monotonic() < until
                time.sleep(0.1)
            yield server
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def answers(server: str) -> bool:
    try:
        execute(server, "SELECT 1")
    except postgres.Error:
        return False
    return True


def execute(server: str, *statements: str) -> None:
    with postgres.connect(server, autocommit=True) as connection, connection.cursor() as cursor:
        for each in statements:
            cursor.execute(each)


def test_cells_of_postgres_keep_their_types_and_its_rows_are_read_again_when_they_changed(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDMILL_SQL_SHOP", server)
    execute(
        server,
        "CREATE TABLE products (item_id text, title text, price numeric(9, 2), at timestamptz, tags text[], n bigint, "
        "seen boolean, weight real, day date)",
        "INSERT INTO products VALUES ('a', 'mug', 1.50, '2026-01-02 03:04:05+01', '{red,blue}', 7, true, 0.5, "
        "'2026-01-02'), ('b', 'jug', NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
    )
    lake, uri = Lake(str(tmp_path / "lake")), query(tmp_path, "SELECT * FROM products ORDER BY item_id") + "@shop"
    first = sample([uri], "items").rows[0]
    assert first["at"] == datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)
    assert (first["tags"], first["n"], first["seen"], first["weight"]) == (["red", "blue"], 7, True, 0.5)
    assert str(first["day"]) == "2026-01-02"
    assert Decimal(first["price"]) == Decimal("1.50")
    assert [each.stages[0].out for each in read(lake, uri)] == [2]
    assert read(lake, uri) == []
    execute(server, "UPDATE products SET title = 'pot' WHERE item_id = 'b'")
    assert [(each.stages[0].out, each.stages[0].unchanged) for each in read(lake, uri)] == [(1, 1)]
    assert living(lake) == {"a": "mug", "b": "pot"}


def test_a_query_changes_nothing_in_postgres(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDMILL_SQL_SHOP", server)
    execute(server, "CREATE TABLE kept AS SELECT 'a' AS item_id, 'mug' AS title")
    lake = Lake(str(tmp_path / "lake"))
    with pytest.raises(SourceError, match="read-only transaction"):
        read(lake, query(tmp_path, "DELETE FROM kept RETURNING *") + "@shop")
    read(lake, query(tmp_path, "SELECT * FROM kept") + "@shop")
    assert living(lake) == {"a": "mug"}


def test_a_server_that_refuses_is_one_line_without_the_password(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = query(tmp_path, "SELECT 1") + "@shop"
    for address in (server.replace(SECRET, f"{SECRET}x"), server.replace("/postgres", "/none"), f"{server}?nothing=1"):
        monkeypatch.setenv("SIDMILL_SQL_SHOP", address)
        with pytest.raises(SourceError, match="the query failed: ") as error:
            read(Lake(str(tmp_path / "lake")), uri)
        assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("lacking", "database"), [("duckdb", "duckdb:"), ("adbc_driver_postgresql", "postgresql://host/shop")]
)
def test_without_the_library_of_a_database_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str, database: str
) -> None:
    monkeypatch.setitem(sys.modules, lacking, None)
    monkeypatch.setenv("SIDMILL_SQL_SHOP", database)
    uri = query(tmp_path, "SELECT 1") + "@shop"
    with pytest.raises(SourceError, match=f"needs the package {lacking}.*extra `sql`"):
        source_kind_of(uri).check(uri)
