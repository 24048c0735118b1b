"""`python -m bench faults` sees a difference in rows, hashes or production, and none in who wrote them when."""

from pathlib import Path

import pytest
from made_releases import WHO, candidate, publish, sids

from bench.faults import lake_contents
from bench.faults.erased_ids import files_holding
from bench.faults.faults import spread
from bench.faults.lake_contents import contents, differences
from storage.commit import Provenance, append
from storage.erasure.record import Seen, Wanted, begin_erasure, end_erasure, record_pass
from storage.lake import Lake
from storage.releases.releases import read_release
from storage.runs.lease import Lease


@pytest.fixture
def lakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Lake]:
    """Two lakes that hold the same, made by different runs; they have no catalogue, so nothing verifies them."""
    monkeypatch.setattr(lake_contents, "faults", lambda lake: [])
    made = []
    for name in ("one", "other"):
        lake = Lake(str(tmp_path / name))
        release = candidate(lake, "key", ["a"], manifest={"run": name})
        publish(lake, release.id, Provenance(name, "recipe"))
        made.append(lake)
    return made


def test_who_wrote_when_makes_no_difference(lakes: list[Lake]) -> None:
    one, other = (read_release(lake, "production") for lake in lakes)
    assert one.run != other.run
    assert differences(*map(contents, lakes)) == []


def test_who_held_the_lease_of_nights_makes_no_difference(lakes: list[Lake]) -> None:
    lease = Lease(lakes[1], "nightly", WHO)
    lease.take(0, print)
    lease.close()
    assert lakes[0].read("pointers").num_rows < lakes[1].read("pointers").num_rows
    assert differences(*map(contents, lakes)) == []


def test_a_row_that_is_lacking_doubled_or_changed_is_told(lakes: list[Lake]) -> None:
    whole, other = contents(lakes[0]), lakes[1]
    append(other, "sids", other.read("sids").slice(0, 1), "again", WHO)
    assert [line.partition(" [")[0] for line in differences(whole, contents(other))] == ["sids: 0 rows are lacking"]
    assert "1 are too many" in differences(whole, contents(other))[0]
    assert "1 rows are lacking" in differences(contents(other), whole)[0]
    sids(other, "c1", "b")
    publish(other, candidate(other, "another", ["a", "b"]).id, WHO)
    told = [line.partition(":")[0] for line in differences(whole, contents(other))]
    assert told == ["pointers", "production", "releases", "sids"]


def erased(lake: Lake, tries: int) -> None:
    """An erasure that took something out, and further tries of the same command, which find nothing left."""
    for number in range(tries):
        seen = Seen(("r-000001",), (), ()) if number == 0 else Seen()
        erasure = begin_erasure(lake, Wanted(frozenset({"u"}), frozenset()), seen, "", WHO)
        record_pass(lake, erasure, WHO)
        end_erasure(lake, erasure, WHO)


def test_how_often_an_erasure_was_tried_makes_no_difference_and_what_it_did_not_end_does(lakes: list[Lake]) -> None:
    erased(lakes[0], 1)
    erased(lakes[1], 3)
    assert differences(*map(contents, lakes)) == []
    begin_erasure(lakes[1], Wanted(frozenset({"v"}), frozenset()), Seen(), "", WHO)
    assert [line.partition(":")[0] for line in differences(*map(contents, lakes))] == ["erasures"]


def test_files_that_hold_an_id_are_found_by_their_bytes_and_by_their_rows(lakes: list[Lake]) -> None:
    lake = lakes[0]
    lake.files.write("logs/run.log", b"a row of 'u7' was refused")
    sids(lake, "c1", "gone")
    assert files_holding(lake, ["u7"], set())[0] == ["logs/run.log"]
    assert any(Path(each).suffix == ".parquet" for each in files_holding(lake, ["gone0"], set())[0])
    holding, clean = files_holding(lake, ["gone7"], set())
    assert holding == []
    assert f"{lake.uri}/logs/run.log" in {each.split()[0] for each in clean}


def test_crash_points_are_all_taken_or_evenly_spread() -> None:
    assert list(spread(4, None)) == list(spread(4, 9)) == [1, 2, 3, 4]
    assert list(spread(10, 4)) == [1, 3, 6, 8]
    assert list(spread(10, 0)) == []
