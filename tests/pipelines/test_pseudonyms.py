"""Pseudonyms of users: nothing that a lake stores names a user, and nothing else changes."""

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from pipelines.ingest.events.ingest import ingest_interactions
from pipelines.ingest.events.pseudonyms import KEY, Pseudonyms, UserKeyWrong, with_pseudonyms
from pipelines.ingest.events.waiting import admit_waiting
from pipelines.ingest.items.ingest import ingest_items
from pipelines.sources.files import find_sources
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec
from storage.commit import Provenance
from storage.lake import Lake
from storage.quarantine import open_rows

WHO = Provenance("test", "recipe")
NOW = datetime(2024, 6, 1, tzinfo=UTC)
CANARY = "c4n4ry"
ROWS = [
    f"{CANARY}-1,a,2024-01-01,click",
    f"{CANARY}-1,a,2024-01-01,click",
    f"{CANARY}-2,b,2024-01-02,",
    f"{CANARY}-2,later,2024-01-03,click",
    f"{CANARY}-3,a,never,click",
    f"{CANARY}-4,,2024-01-03,click",
    f",a,2024-01-03,{CANARY}-5",
    f"{CANARY}-6,a,2024-01-03,click,{CANARY},one,too many",
    f"{CANARY}-7 \t ,a,2034-01-03,click",
    "1001,a,2024-01-03,click",
]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "a key of the tests")


def lake_of(folder: Path, *items: str) -> Lake:
    lake = Lake(str(folder))
    catalogue(lake, *items)
    return lake


def catalogue(lake: Lake, *items: str) -> None:
    path = Path(f"{lake.uri}-items-{len(items)}.csv")
    path.write_text("\n".join(["item_id,title", *(f"{item},mug" for item in items)]) + "\n")
    ingest_items(lake, find_sources(str(path))[0], ItemsSpec(), NOW, WHO)


def ingest(lake: Lake, path: Path, *, pseudonyms: bool, rows: list[str] = ROWS) -> dict[str, int]:
    path.write_text("\n".join(["user_id,item_id,event_time,event_type", *rows]) + "\n")
    spec = InteractionsSpec(pseudonyms=pseudonyms)
    counts = ingest_interactions(lake, find_sources(str(path))[0], spec, NOW, WHO).stages[0]
    return {"in": counts.rows_in, "out": counts.out, **{str(name): rows for name, rows in counts.by_reason.items()}}


def test_events_are_the_same_but_for_the_users_and_no_file_names_one(tmp_path: Path) -> None:
    """Rows that are refused, and events that wait for their item, included."""
    lakes = [lake_of(tmp_path / name, "a", "b") for name in ("plain", "named")]
    plain, named = (ingest(lake, tmp_path / "log.csv", pseudonyms=lake is lakes[1]) for lake in lakes)
    assert plain == named
    assert {"unknown_item", "missing_user_id", "event_time_invalid"} <= plain.keys()
    for lake in lakes:
        catalogue(lake, "a", "b", "later")
        assert admit_waiting(lake, NOW, WHO) == 1
    old, new = (lake.frame("interactions").sort("event_time", "item_id", "source_offset") for lake in lakes)
    pseudonyms = Pseudonyms.of(InteractionsSpec(pseudonyms=True))
    assert pseudonyms is not None
    assert new["user_id"].to_list() == [pseudonyms.name(user) for user in old["user_id"]]
    same = [name for name in old.columns if name not in ("user_id", "event_id")]
    assert new.select(same).equals(old.select(same))
    assert CANARY in repr(open_rows(lakes[0])["payload"].to_list())
    for path in Path(lakes[1].uri).rglob("*"):
        if path.is_file():
            rows = repr(pl.read_parquet(path).rows()) if path.suffix == ".parquet" else path.read_text("latin-1")
            assert CANARY not in rows, path
            assert "1001" not in rows or path.suffix != ".parquet", path


def test_rows_that_are_converted_one_by_one_have_the_same_pseudonyms() -> None:
    pseudonyms = Pseudonyms.of(InteractionsSpec(pseudonyms=True))
    assert pseudonyms is not None
    users = ["anna", "", "ünal", "anna", None]
    assert pseudonyms.names(pl.Series(users)).to_list() == [
        None if user is None else pseudonyms.name(user) for user in users
    ]
    assert len({pseudonyms.name(f"u{number}") for number in range(1_000)}) == 1_000
    assert pseudonyms.of_refused({"uid": "anna", "n": 1}, "uid", "uid = 'anna' is odd") == (
        {"uid": pseudonyms.name("anna"), "n": 1},
        "uid = '[erased]' is odd",
    )


def test_another_key_or_none_is_refused_before_anything_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = lake_of(tmp_path / "lake", "a")
    ingest(lake, tmp_path / "1.csv", pseudonyms=True)
    before = lake.version("interactions")
    with pytest.raises(UserKeyWrong, match="this run asks for none"):
        ingest(lake, tmp_path / "2.csv", pseudonyms=False, rows=["u,a,2024-01-05,"])
    monkeypatch.setenv(KEY, "another key of the tests")
    with pytest.raises(UserKeyWrong, match=f"another key in {KEY}"):
        ingest(lake, tmp_path / "2.csv", pseudonyms=True, rows=["u,a,2024-01-05,"])
    monkeypatch.setenv(KEY, "short")
    with pytest.raises(UserKeyWrong, match="at least 16 characters"):
        ingest(lake, tmp_path / "2.csv", pseudonyms=True, rows=["u,a,2024-01-05,"])
    assert lake.version("interactions") == before


def test_a_user_is_found_by_the_id_of_the_log_where_the_key_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = lake_of(tmp_path / "lake", "a")
    assert with_pseudonyms(lake, frozenset({"anna"})) == {"anna"}
    ingest(lake, tmp_path / "1.csv", pseudonyms=True, rows=["anna,a,2024-01-05,"])
    assert set(lake.frame("interactions")["user_id"]) < with_pseudonyms(lake, frozenset({"anna"}))
    monkeypatch.setenv(KEY, "another key of the tests")
    with pytest.raises(UserKeyWrong):
        with_pseudonyms(lake, frozenset({"anna"}))


def test_a_lake_that_has_users_in_clear_gets_no_pseudonyms(tmp_path: Path) -> None:
    lake = lake_of(tmp_path / "lake", "a")
    ingest(lake, tmp_path / "1.csv", pseudonyms=False)
    with pytest.raises(UserKeyWrong, match="Begin a new lake"):
        ingest(lake, tmp_path / "2.csv", pseudonyms=True)


def test_a_recipe_without_pseudonyms_is_stored_as_before_they_were_a_field() -> None:
    assert "pseudonyms" not in InteractionsSpec().model_dump()
    assert InteractionsSpec.model_validate(InteractionsSpec(pseudonyms=True).model_dump()).pseudonyms
