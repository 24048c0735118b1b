"""The file of factors: read in part it folds as the whole does, and no changed byte is read as data."""

import json
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_collaborative import frame, some_log

from pipelines.collaborative import factors_file
from pipelines.collaborative.factors_file import BLOB, factors_bytes, read_factors, store_factors
from pipelines.collaborative.sppmi import Factors, beside, fit_rows
from pipelines.event_log.visible_log import histories
from pipelines.spec import CollaborativeSpec
from storage.errors import BlobCorrupt, LakeNotFound
from storage.files.blobs import Blobs

SPEC = CollaborativeSpec(dim=5, window=2, min_events=1, half_life_days=3)


def fitted() -> Factors:
    found = fit_rows(histories(frame(some_log()), SPEC), SPEC)
    assert found is not None
    return found[0]


EVENTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40), st.integers(0, 9), st.just("click")), max_size=40)


@settings(max_examples=30, deadline=None)
@given(events=EVENTS, wanted=st.sets(st.integers(0, 40)), rows=st.integers(1, 9))
def test_items_are_folded_on_the_factors_beside_them_as_on_all(
    tmp_path_factory: pytest.TempPathFactory,
    events: list[tuple[int, int, int, str]],
    wanted: set[int],
    rows: int,
) -> None:
    """Bit for bit, for the items that are asked for, with weights that are no whole numbers."""
    blobs, whole = Blobs(str(tmp_path_factory.mktemp("blobs"))), fitted()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factors_file, "GROUP_ROWS", rows)
        stored = store_factors(blobs, whole)
    log = histories(frame(events), SPEC)
    names = [f"i{item:03d}" for item in sorted(wanted)]
    near = beside(log, names, SPEC.window)
    part = read_factors(blobs, stored, near)
    assert set(part.names) == set(near) & set(whole.names)
    asked = [each.fold(log) for each in (whole, part)]
    one, other = (each.filter(each["item_id"].is_in(names)) for each in asked)
    assert one.equals(other)


def test_factors_of_an_earlier_version_are_read_as_they_are(tmp_path: Path) -> None:
    """As `Factors` once wrote itself: Arrow, with the spec in the metadata and no hash of a footer."""
    blobs, whole = Blobs(str(tmp_path)), fitted()
    directions = pa.FixedSizeListArray.from_arrays(pa.array(whole.directions.ravel()), 5)
    table = pa.table({"item_id": pa.array(whole.names), "met": pa.array(whole.met), "direction": directions})
    table = table.replace_schema_metadata({"spec": json.dumps(SPEC.model_dump(mode="json"))})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    log = histories(frame(some_log(1)), SPEC)
    found = read_factors(blobs, {BLOB: blobs.put(bytes(sink.getvalue()))}, [])
    assert found.fold(log).equals(whole.fold(log))


def test_a_changed_byte_anywhere_is_told_or_is_not_read(tmp_path: Path) -> None:
    blobs, whole = Blobs(str(tmp_path)), fitted()
    stored = store_factors(blobs, whole)
    path = Path(blobs.location(stored[BLOB]))
    data, told = path.read_bytes(), 0
    for place in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            found = read_factors(blobs, stored, whole.names)
        except BlobCorrupt:
            told += 1
        else:
            assert factors_bytes(found) == data
    assert told > len(data) / 7 * 0.9
    path.unlink()
    with pytest.raises(LakeNotFound, match="is missing"):
        read_factors(blobs, stored, whole.names)


def test_a_part_of_ten_times_the_factors_takes_as_many_bytes(tmp_path: Path) -> None:
    blobs, read = Blobs(str(tmp_path)), []
    for count in (20_000, 200_000):
        names = tuple(f"i{number:07}" for number in range(count))
        stored = store_factors(blobs, Factors(SPEC, names, np.zeros((count, 5), np.float32), np.ones(count), count))
        before = psutil.Process().io_counters().read_chars
        assert read_factors(blobs, stored, [names[7], names[12_345]]).names == (names[7], names[12_345])
        read.append(psutil.Process().io_counters().read_chars - before)
    assert read[1] < read[0] + (1 << 17)
