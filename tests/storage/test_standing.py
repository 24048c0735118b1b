"""Pins and retirements: until when they hold, and what is told of them."""

from datetime import timedelta
from pathlib import Path

import pytest
from made_releases import TIME, WHO, candidate

from storage.commit import append
from storage.errors import LakeNotFound
from storage.lake import Lake
from storage.releases.pointers import read_pointer
from storage.releases.standing import Pin, pin, read_standing, retirement_of, retirements, unpin

DAY = timedelta(days=1)


def test_a_pin_holds_for_good_or_before_its_time() -> None:
    for_good, until = Pin("the report", TIME, None), Pin("the audit", TIME, TIME + DAY)
    assert for_good.holds(TIME + 1000 * DAY)
    assert until.holds(TIME + DAY - timedelta(microseconds=1))
    assert not until.holds(TIME + DAY)
    assert (str(for_good), str(until)) == (
        "pinned on 2024-01-01: the report",
        "pinned on 2024-01-01 until 2024-01-02: the audit",
    )


def test_what_was_retired_is_told_with_what_to_use_in_place_of_it() -> None:
    release, model = (str(retirement_of(name, TIME)) for name in ("r-000001", "m-000001"))
    assert release.startswith(
        "r-000001 was retired on 2024-01-01 (`sidmill lake gc` removes what retired releases pinned). Read one that "
        "stays (`sidmill release list`), or restore"
    )
    assert model.startswith(
        "m-000001 was retired on 2024-01-01 (`sidmill lake gc` removes what retired models pinned). Use a model that "
        "stays (`sidmill lake status`), or restore"
    )


def test_pins_and_retirements_are_read_as_they_were_written(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    one, two = (candidate(lake, key, ["a"]).id for key in ("one", "two"))
    made = pin(lake, one, "the report", None, WHO)
    assert read_standing(lake).pins == {one: made}
    assert unpin(lake, one, WHO)
    assert read_standing(lake).pins == {}
    append(lake, "pointers", retirements([two, "m-000001"], TIME, "a note", WHO), "retire", WHO)
    assert read_standing(lake).retired == {two: TIME, "m-000001": TIME}
    found = read_pointer(lake, f"retired:{two}")
    assert (found.sequence, found.value, found.note, found.at) == (1, {"retired": True}, "a note", TIME)
    for name in ("m-000001", "production"):
        with pytest.raises(LakeNotFound, match=f"'{name}' is not the id of a release, such as r-000001"):
            pin(lake, name, "the report", None, WHO)
