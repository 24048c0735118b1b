"""Two writers in an order that is chosen: what one decided is decided again on what the other left."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from made_releases import candidate, publish

from storage import commit
from storage.commit import Provenance, append, swap
from storage.conform import conform
from storage.errors import CommitConflict, SchemaMismatch
from storage.lake import Lake
from storage.releases.completeness import lost_commits
from storage.releases.pointers import move_pointer, pointer_history, read_pointer
from storage.releases.releases import published, published_assignments, read_release
from storage.retention import small_files
from storage.schemas import POINTERS, QUARANTINE, VECTORS

WHO = Provenance("test", "recipe")
TIME = datetime(2024, 1, 1, tzinfo=UTC)


def vectors(*items: str) -> pa.Table:
    rows = [
        {"item_id": item, "modality": "text", "content_hash": "h", "fingerprint": "f", "vector": [1.0]}
        for item in items
    ]
    return pa.Table.from_pylist(rows, schema=VECTORS.schema)


def files_below(lake: Lake, table: str) -> set[str]:
    return {path.name for path in Path(lake.path(table)).glob("part-*")}


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The longest that each pause between two tries might be; nobody waits."""
    longest: list[float] = []
    monkeypatch.setattr(commit.random, "uniform", lambda low, high: (longest.append(high), low)[1])
    return longest


class Interrupted:
    """A decision that others come before, `times` times: each moves the pointer that it is about."""

    def __init__(self, lake: Lake, times: int) -> None:
        self.lake, self.times, self.seen = lake, times, list[int]()

    def __call__(self, rows: pa.Table) -> pa.Table:
        self.seen.append(rows.num_rows)
        if len(self.seen) <= self.times:
            move_pointer(Lake(self.lake.uri), read_pointer(self.lake, "other"), len(self.seen), "before", WHO)
        row = read_pointer(self.lake, "other")
        assert row.at is not None
        return pa.Table.from_pylist([{**vars(row), "name": "mine", "value": str(rows.num_rows)}], POINTERS.schema)


def test_a_decision_is_taken_again_on_what_others_left_until_nobody_comes_between(
    tmp_path: Path, pauses: list[float]
) -> None:
    lake = Lake(str(tmp_path))
    move_pointer(lake, read_pointer(lake, "other"), 0, "first", WHO)
    decide = Interrupted(lake, 3)
    rows, written = swap(lake, "pointers", decide, WHO)
    assert written
    assert decide.seen == [1, 2, 3, 4], "each time it sees what the one before it left"
    order = [("name", "ascending"), ("sequence", "ascending")]
    assert rows.sort_by(order).equals(lake.read("pointers").sort_by(order))
    assert [move.value for move in pointer_history(lake, "mine")] == [None, 4]
    assert [move.value for move in pointer_history(lake, "other")] == [None, 0, 1, 2, 3]
    assert len(files_below(lake, "pointers")) == lake.rows("pointers") == 5, "a lost try leaves no file"
    assert len(pauses) == 3


def test_who_always_comes_second_gives_up_and_says_that_nothing_was_written(
    tmp_path: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "ATTEMPTS", 3)
    lake = Lake(str(tmp_path))
    move_pointer(lake, read_pointer(lake, "other"), 0, "first", WHO)
    decide = Interrupted(lake, 99)
    with pytest.raises(
        CommitConflict, match=r"table 'pointers' of the lake .* first in each of 3 attempts, so nothing was written"
    ):
        swap(lake, "pointers", decide, WHO)
    assert len(decide.seen) == 3
    assert pointer_history(lake, "mine")[-1].value is None
    assert len(files_below(lake, "pointers")) == lake.rows("pointers") == 4


def test_a_decision_for_nothing_writes_nothing(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    move_pointer(lake, read_pointer(lake, "other"), 0, "first", WHO)
    before = lake.version("pointers")
    rows, written = swap(lake, "pointers", lambda rows: None, WHO)
    assert (rows.num_rows, written, lake.version("pointers")) == (1, False, before)


def append_between(monkeypatch: pytest.MonkeyPatch, lake: Lake, item: str, key: str, times: int = 1) -> None:
    """Another writer appends between the next look at the log and its commit, `times` times."""
    write, left = commit.write_rows, [times]

    def interrupted(*arguments: Any, **options: Any) -> Any:
        made = write(*arguments, **options)
        if left[0]:
            left[0] -= 1
            append(Lake(lake.uri), "vectors", vectors(item), key, WHO)
        return made

    monkeypatch.setattr(commit, "write_rows", interrupted)


def test_of_two_who_append_under_one_key_the_second_finds_the_version_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    lake = Lake(str(tmp_path))
    append(lake, "vectors", vectors("before"), "before", WHO)
    append_between(monkeypatch, lake, "a", "key")
    made = append(lake, "vectors", vectors("a"), "key", WHO)
    assert not made.written
    assert made.ref.version == lake.version("vectors")
    assert sorted(lake.read("vectors")["item_id"].to_pylist()) == ["a", "before"]
    assert len(pauses) == 1


def test_two_who_append_under_keys_of_their_own_are_both_there_and_each_knows_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(str(tmp_path))
    append(lake, "vectors", vectors("before"), "before", WHO)
    before = lake.version("vectors")
    append_between(monkeypatch, lake, "theirs", "their key")
    made = append(lake, "vectors", vectors("mine"), "my key", WHO)
    assert made.written
    assert made.ref.version == before + 2
    append(lake, "vectors", vectors("after"), "after", WHO)
    for key, items, version in (
        ("their key", ["before", "theirs"], before + 1),
        ("my key", ["before", "theirs", "mine"], before + 2),
    ):
        again = append(lake, "vectors", vectors("of no account"), key, WHO)
        assert (again.written, again.ref.version) == (False, version)
        assert sorted(lake.read("vectors", version)["item_id"].to_pylist()) == sorted(items)


def test_files_of_a_bookkeeping_table_are_joined_when_there_are_more_than_may_be_and_none_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files whose rows were joined stay, also where another program cleans up: former versions are made of them."""
    monkeypatch.setattr(commit, "MAX_FILES", 3)
    monkeypatch.setattr(small_files, "MAX_SMALL_FILES", 3)
    lake = Lake(str(tmp_path))
    files, versions = [], []
    for number in range(8):
        move_pointer(lake, read_pointer(lake, "name"), number, "note", WHO)
        files.append(len(lake.data_files("pointers")))
        versions.append(lake.version("pointers"))
        append(lake, "vectors", vectors(f"i{number}"), f"key-{number}", WHO)
    assert files == [1, 2, 3, 1, 2, 3, 1, 2]
    assert len(lake.data_files("vectors")) == 8
    logs = [path.read_text() for path in (tmp_path / "pointers" / "_delta_log").glob("*.json")]
    joins = [entry for entry in logs if '"remove"' in entry]
    assert len(joins) == 2
    assert not any('"dataChange":true' in entry for entry in joins), "to who reads changes a join is no news"
    DeltaTable(lake.path("pointers")).vacuum(dry_run=False)
    for number, version in enumerate(versions):
        assert sorted(lake.read("pointers", version)["value"].to_pylist()) == [str(each) for each in range(number + 1)]
    assert [move.value for move in pointer_history(lake, "name")[1:]] == list(range(8))


def test_a_join_that_another_writer_comes_before_is_left_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "MAX_FILES", 2)
    monkeypatch.setattr(small_files, "MAX_SMALL_FILES", 2)
    lake = Lake(str(tmp_path))
    for number in range(2):
        move_pointer(lake, read_pointer(lake, "name"), number, "note", WHO)
    write, left = commit.write_rows, [True]

    def interrupted(*arguments: Any, news: bool = True) -> Any:
        if not news and left:
            left.clear()
            move_pointer(Lake(lake.uri), read_pointer(lake, "other"), 0, "note", WHO)
        return write(*arguments, news=news)

    monkeypatch.setattr(commit, "write_rows", interrupted)
    move_pointer(lake, read_pointer(lake, "name"), 2, "note", WHO)
    assert not left
    assert [move.value for move in pointer_history(lake, "name")[1:]] == [0, 1, 2]
    assert [move.value for move in pointer_history(lake, "other")[1:]] == [0]
    assert lake.rows("pointers") == 4
    assert len(lake.data_files("pointers")) <= 2


def test_pauses_grow_and_stay_below_half_a_second(pauses: list[float]) -> None:
    for attempt in range(60):
        commit._pause(attempt)
    assert pauses[:3] == [0.005, 0.01, 0.02]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 0.5


def test_rows_are_taken_in_any_order_of_columns_and_any_kind_of_text(tmp_path: Path) -> None:
    plain = vectors("a", "b")
    wanted = append(lake := Lake(str(tmp_path)), "vectors", plain, "plain", WHO).ref
    for name, kind in (("large", pa.large_string()), ("view", pa.string_view())):
        turned = plain.select(plain.schema.names[::-1])
        place = turned.schema.get_field_index("item_id")
        turned = turned.set_column(place, "item_id", turned["item_id"].cast(kind))
        conformed = conform("vectors", turned)
        assert conformed.equals(lake.read("vectors", wanted.version)), name


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("item_id", pa.array([7]), "column 'item_id' is int64, not string"),
        ("vector", pa.array(["1.0"]), "column 'vector' is string, not list"),
        ("item_id", pa.array([None], pa.string()), "column 'item_id' has nulls, but it is required"),
        ("vector", pa.array([[["x"]]]), "rows for table 'vectors':"),
    ],
)
def test_rows_that_a_silent_cast_would_spoil_are_refused(column: str, values: pa.Array, told: str) -> None:
    place = VECTORS.schema.get_field_index(column)
    with pytest.raises(SchemaMismatch, match=told):
        conform("vectors", vectors("a").set_column(place, column, values))


def test_missing_and_unknown_columns_are_named() -> None:
    rows = vectors("a").rename_columns(["item", *VECTORS.schema.names[1:]])
    with pytest.raises(SchemaMismatch, match=r"missing columns \['item_id'\], unknown columns \['item'\]"):
        conform("vectors", rows)


def test_the_first_of_the_rows_that_break_a_rule_is_told_and_how_many_they_are() -> None:
    row = {"quarantine_id": "q", "stage": "s", "subject": None, "reason": "r", "detail": "d",
           "payload": None, "source": "s", "source_row": 0, "at": TIME, "run": "r"}  # fmt: skip
    rows = [{**row, "status": status} for status in ("open", "first", "second", "third")]
    with pytest.raises(
        SchemaMismatch, match=r"'quarantine': 3 break the rule known_status .*, for example .*'first'"
    ) as refused:
        conform("quarantine", pa.Table.from_pylist(rows, schema=QUARANTINE.schema))
    assert "third" not in str(refused.value)


class Busy(Lake):
    """A lake on which another release is recorded and published after each read of the tables that name releases."""

    made = 0

    def read(self, table: str, *arguments: Any, **options: Any) -> pa.Table:
        rows = super().read(table, *arguments, **options)
        if table in ("releases", "models", "pointers"):
            other = Lake(self.uri)
            self.made += 1
            segments = [f"s{number}" for number in range(self.made + 1)]
            publish(other, candidate(other, f"beside-{self.made}", segments).id, WHO, without_model=True)
        return rows


def test_whoever_reads_beside_publications_misses_nothing_that_an_alias_names(tmp_path: Path) -> None:
    lake = Busy(str(tmp_path))
    first = candidate(Lake(lake.uri), "first", ["s0"])
    publish(Lake(lake.uri), first.id, WHO)
    for _ in range(3):
        before = published(Lake(lake.uri))
        assert before is not None
        assert read_release(lake, "production").id >= before.release
        taken = published_assignments(lake, first.codebook.id)
        assert set(read_release(Lake(lake.uri), before.release).assignments) <= set(taken)
        assert list(lost_commits(lake)) == []
