"""Events that repeat, ids that are none, and items whose id is written otherwise: the refusal leads on."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.counts import Counts
from pipelines.ingest.accounting import naming
from pipelines.ingest.events.ingest import ingest_interactions
from pipelines.ingest.events.near_ids import near_ids, other_spellings
from pipelines.ingest.items.ingest import ingest_items
from pipelines.sources.files import find_sources
from pipelines.sources.row import SourceError
from pipelines.sources.source_spec import CsvSpec, InteractionsSpec, ItemsSpec
from storage.commit import Provenance
from storage.errors import DataCorrupt
from storage.lake import Lake
from storage.quarantine import open_rows
from storage.reasons import Reason, remedy

WHO = Provenance("test", "recipe")
NOW = datetime(2024, 6, 1, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake(str(tmp_path / "lake"))
    path = tmp_path / "items.csv"
    path.write_text("item_id,title\na,mug\n007,bowl\n0108775015,stool\n")
    ingest_items(made, find_sources(str(path))[0], ItemsSpec(), NOW, WHO)
    return made


def log(lake: Lake, path: Path, *rows: str, header: str = "user_id,item_id,event_time", **spec: str) -> Counts:
    path.write_text("\n".join([header, *rows]) + "\n")
    fields = InteractionsSpec(**spec)  # type: ignore[arg-type]
    return ingest_interactions(lake, find_sources(str(path))[0], fields, NOW, WHO).stages[0]


def test_repeats_of_a_day_are_one_event_or_as_many_as_there_are(lake: Lake, tmp_path: Path) -> None:
    rows = ["u,a,2024-01-01", "v,a,2024-01-01", "u,a,2024-01-01", "u,a,2024-01-01"]
    refused = log(lake, tmp_path / "log.csv", *rows)
    assert (refused.out, refused.by_reason) == (2, {Reason.DUPLICATE_EVENT: 2})
    assert "user 'u', item 'a' at 2024-01-01" in refused.examples[Reason.DUPLICATE_EVENT]
    assert 'interactions.repeats = "keep"' in refused.why()
    kept = log(lake, tmp_path / "log.csv", *rows, repeats="keep")
    assert (kept.out, kept.unchanged, kept.quarantined) == (2, 2, 0)
    again = log(lake, tmp_path / "log.csv", *rows, repeats="keep")
    assert (again.out, again.unchanged) == (0, 4)
    longer = log(lake, tmp_path / "longer.csv", *rows, "u,a,2024-01-01", repeats="keep")
    assert (longer.out, longer.unchanged) == (1, 4)
    assert lake.rows("interactions") == lake.frame("interactions")["event_id"].n_unique() == 5
    assert open_rows(lake).is_empty()


def test_a_log_without_ids_that_comes_again_is_known_and_the_days_beside_it_are_not_read(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ids of its own, an event may come back with a time of another zone."""
    for day in range(1, 6):
        log(lake, tmp_path / f"{day}.csv", *(f"u,a,2024-01-0{day}T0{hour}:00:00" for hour in range(3)))
    opened: list[int] = []
    plain = Lake._dataset

    def counted(self: Lake, table: str, *arguments: Any) -> ds.FileSystemDataset:
        dataset = plain(self, table, *arguments)
        opened.append(len(dataset.files) if table == "interactions" else 0)
        return dataset

    monkeypatch.setattr(Lake, "_dataset", counted)
    again = log(lake, tmp_path / "again.csv", *(f"u,a,2024-01-03T0{hour}:00:00" for hour in range(4)))
    assert (again.out, again.unchanged) == (1, 3)
    assert max(opened) == 1
    opened.clear()
    header = "event_id,user_id,item_id,event_time"
    named = log(lake, tmp_path / "named.csv", "e1,v,a,2024-01-03T00:00:00", header=header)
    assert (named.out, max(opened)) == (1, 6)


def test_a_log_that_is_read_again_with_other_quotes_gives_what_it_refused_and_loses_and_doubles_nothing(
    lake: Lake, tmp_path: Path
) -> None:
    """Spans that may be one row or several move the rows below them: their numbers must not move along."""
    span = '{user},"a",2024-01-01,"seen\n{user},a,2024-01-02,twice"'
    rows = [each for n in range(4) for each in (f"u{n},a,2024-01-03,once", "", span.format(user=f"v{n}"))]
    header = "user_id,item_id,event_time,note"
    checked = log(lake, tmp_path / "log.csv", *rows, header=header)
    assert (checked.out, checked.by_reason) == (4, {Reason.UNPAIRED_QUOTE: 8})
    fields = InteractionsSpec(csv=CsvSpec(quotes="trusted"))
    source = find_sources(str(tmp_path / "log.csv"))[0]
    trusted = ingest_interactions(lake, source, fields, NOW, WHO).stages[0]
    assert (trusted.out, trusted.unchanged, trusted.quarantined) == (4, 4, 0)
    assert sorted(lake.frame("interactions")["user_id"]) == [f"{kind}{n}" for kind in "uv" for n in range(4)]


def test_a_column_of_event_ids_that_holds_types_can_be_said_to_be_none(lake: Lake, tmp_path: Path) -> None:
    rows = [f"u{n},a,2024-01-01T00:0{n}:00,{kind}" for n, kind in enumerate(["view", "view", "buy", "view", "buy"])]
    header = "user_id,item_id,event_time,event_id"
    refused = log(lake, tmp_path / "log.csv", *rows, header=header)
    assert (refused.out, refused.by_reason) == (2, {Reason.DUPLICATE_EVENT: 3})
    assert "event 'view' is in this source already" in refused.why()
    assert 'interactions.event_id = ""' in refused.why()
    kept = log(lake, tmp_path / "log.csv", *rows, header=header, event_id="", event_type="event_id")
    assert (kept.out, kept.unchanged) == (3, 2)


def test_an_unknown_item_that_the_catalogue_has_in_another_spelling_says_so(lake: Lake, tmp_path: Path) -> None:
    rows = [f"u,{item},2024-01-0{n + 1}" for n, item in enumerate(["zzz", "7.0", "108775015.0", "A", "b'a'"])]
    counts = log(lake, tmp_path / "log.csv", *rows)
    assert counts.by_reason == {Reason.UNKNOWN_ITEM: 5}
    assert "the catalogue has '007', which differs in a .0 behind it and zeros in front alone" in counts.why()
    told = {row["detail"].split("'")[1]: row["detail"] for row in open_rows(lake).to_dicts()}
    assert "the catalogue has '0108775015'" in told["108775015.0"]
    assert "differs in case" in told["A"]
    assert told["zzz"].endswith("is not in the catalogue yet")


@pytest.mark.parametrize(("written", "known"), [("ab2", "Ab2"), ("AB2", "Ab2"), ("red  mug", "red mug")])
def test_the_case_of_first_letters_and_runs_of_blanks_are_seen_through(written: str, known: str) -> None:
    assert known in near_ids([written], lambda ids: {known} & ids)[written]


@given(st.from_regex(r"[a-zA-Z0-9]{1,9}", fullmatch=True), st.integers(0, 5), st.booleans(), st.booleans())
def test_zeros_a_fraction_and_python_bytes_are_seen_through(
    item: str, zeros: int, fraction: bool, wrapped: bool
) -> None:
    known = item if not item.isdecimal() else "0" * zeros + item
    written = (item.lstrip("0") or "0" if item.isdecimal() else item) + (".0" if fraction else "")
    written = f"b'{written}'" if wrapped else written
    if written != known:
        told = near_ids([written], lambda ids: {known} & ids)
        assert told[written].startswith(f"the catalogue has {known!r}")
    assert near_ids([written], lambda ids: set()) == {}
    assert written not in [name for name, _ in other_spellings(written)]


def test_an_arrival_after_the_run_costs_its_row(lake: Lake, tmp_path: Path) -> None:
    header = "user_id,item_id,event_time,arrival_time"
    far = "9999-12-31T23:59:59Z"
    rows = [f"u,a,{far},{far}", "u,a,2024-01-01,2024-01-02", f"v,a,2024-01-01,{far}", f"w,a,{far},2024-01-01"]
    counts = log(lake, tmp_path / "log.csv", *rows, header=header)
    assert (counts.out, counts.by_reason) == (1, {Reason.EVENT_IN_FUTURE: 3})
    details = sorted(open_rows(lake)["detail"])
    assert [detail.split(" = ")[0] for detail in details] == ["arrival_time", "arrival_time", "event_time"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_bytes_that_are_not_utf8_matter_only_in_a_column_that_is_asked_for(
    lake: Lake, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / f"log.{kind}"
    rows = [(b"u1", b"caf\xe9"), (b"u\xff", b"plain"), *((b"u2", b"caf\xe9"),) * 9]
    if kind == "csv":
        lines = [b"user_id,item_id,event_time,agent", *(b"%s,a,2024-01-01,%s" % row for row in rows)]
    else:
        lines = [b'{"user_id": "%s", "item_id": "a", "event_time": "2024-01-01", "agent": "%s"}' % row for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    counts = ingest_interactions(lake, find_sources(str(path))[0], InteractionsSpec(), NOW, WHO).stages[0]
    assert (counts.out, counts.by_reason) == (2, {Reason.INVALID_UTF8: 1, Reason.DUPLICATE_EVENT: 8})
    assert "user_id" in counts.examples[Reason.INVALID_UTF8]
    assert sorted(lake.frame("interactions")["user_id"]) == ["u1", "u2"]


def test_an_outgrown_codebook_names_the_backfill() -> None:
    counts = Counts("assign", rows_in=1)
    counts.refuse(Reason.REFIT_DUE, detail="codebook c has no free SID near this item")
    assert "sidmill run backfill" in counts.why()
    assert remedy("a reason of an old lake") == ""


def test_an_error_that_no_row_owns_names_the_file_and_the_rows(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id\n")
    told = r"log\.csv, rows 3 to 5: OverflowError: date value out of range"
    with pytest.raises(SourceError, match=told), naming(find_sources(str(tmp_path / "log.csv"))[0], 3, 5):
        raise OverflowError("date value out of range")


def test_a_reading_looks_for_earlier_ones_in_the_files_of_its_source_alone(lake: Lake, tmp_path: Path) -> None:
    """A night costs what is new: the log of a year is not scanned for rows of a file that is new."""
    for day in ("2024-01-01", "2024-03-01"):
        log(lake, tmp_path / f"{day}.csv", f"u,a,{day}")
    first, *_ = (each for each in lake.data_files("interactions") if "01-01" in str(each.bounds["event_time"][0]))
    lake.table_files("interactions").delete(first.path)
    assert log(lake, tmp_path / "2024-05-01.csv", "u,a,2024-05-01").out == 1
    with pytest.raises(DataCorrupt):
        lake.frame("interactions")
