"""What `lake gc` leaves of logs, of the versions that releases pin, and of figures of trainings."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from made_releases import WHO, candidate, model, publish, sids

from storage.commit import append
from storage.errors import DataCorrupt
from storage.files.table_log import CHECKPOINT, Log
from storage.lake import Lake
from storage.releases.pointers import read_pointer
from storage.releases.standing import pin
from storage.retention.collect import Collected, collect
from storage.retention.policy import Policy
from storage.retention.tables import table_garbage
from storage.schemas import PROPERTIES, VECTORS

DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third commit has a checkpoint."""
    monkeypatch.setitem(PROPERTIES, "delta.checkpointInterval", "3")


def gc(lake: Lake, days: float = 0, remove: bool = True) -> Collected:
    """Keep one release, and what was retired for a day, as if some days had passed."""
    return collect(lake, Policy(1, DAY), WHO, remove, datetime.now(UTC) + days * DAY)


def log_of(lake: Lake, table: str) -> Log:
    return Log(lake.table_files(table), table)


def log_files(lake: Lake, table: str) -> set[str]:
    return {path.name for path in Path(lake.path(table), "_delta_log").iterdir()}


def add_vectors(lake: Lake, count: int) -> None:
    for number in range(count):
        row = {"item_id": f"i{number}", "modality": "t", "content_hash": "h", "fingerprint": "f", "vector": [0.5]}
        append(lake, "vectors", pa.Table.from_pylist([row], schema=VECTORS.schema), f"v{number}", WHO)


def test_a_release_of_before_a_table_existed_pins_nothing_of_it(tmp_path: Path) -> None:
    """Such as one that was made without a log."""
    lake = Lake(str(tmp_path))
    first = candidate(lake, "first", ["s0"], versions={"vectors": lake.version("vectors")})
    assert first.versions["vectors"] == -1
    add_vectors(lake, 5)
    publish(lake, candidate(lake, "second", ["s0"], versions={"vectors": lake.version("vectors")}).id, WHO)
    for days in (0, 2):
        gc(lake, days)
    assert lake.read("vectors").num_rows == 5


def test_version_1_stays_while_a_release_pins_it_and_a_table_that_none_pins_keeps_its_newest_version(
    tmp_path: Path,
) -> None:
    lake = Lake(str(tmp_path))
    old = candidate(lake, "old", ["s0"])
    assert old.versions == {"sids": 1}
    rows = lake.read("sids", 1)
    pin(lake, old.id, "the report", None, WHO)
    add_vectors(lake, 8)
    made = [candidate(lake, f"key-{number}", [f"s{number}"]) for number in range(1, 8)]
    publish(lake, made[-1].id, WHO)
    gc(lake, days=2)
    gc(lake, days=4)
    assert lake.read("sids", 1).equals(rows)
    left, newest = log_of(lake, "sids"), lake.version("sids")
    assert left.entries.keys() == {0, 1, *range(left.base(newest), newest + 1)}
    left, newest = log_of(lake, "vectors"), lake.version("vectors")
    assert left.entries.keys() == set(range(left.base(newest), newest + 1))
    assert left.base(newest) > 1


def test_a_commit_between_the_looks_at_a_log_and_at_its_folder_stays(tmp_path: Path) -> None:
    """With the checkpoint that it may have."""
    lake = Lake(str(tmp_path))
    for number in range(9):
        sids(lake, "c1", f"s{number}")
    log, place = log_of(lake, "sids"), lake.table_files("sids")
    newest = max(log.entries)
    for number in range(9, 13):
        sids(lake, "c1", f"s{number}")
    later = int((datetime.now(UTC) + DAY).timestamp() * 1000)
    found = table_garbage(log, place, place.found(), {1}, set(), later)
    gone = {Path(each.path).name for each in found.files}
    written = {name for name in log_files(lake, "sids") if name[:20].isdigit() and int(name[:20]) > newest}
    assert len(written) > 4, "entries and a checkpoint"
    assert gone
    assert not gone & written


def test_a_checkpoint_that_disagrees_with_the_entries_it_stands_for_is_refused_before_they_go(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    made = [candidate(lake, f"key-{number}", [f"s{number}"]) for number in range(8)]
    publish(lake, made[-1].id, WHO)
    gc(lake, days=2)
    log = log_of(lake, "sids")
    base = log.base(max(log.entries))
    (name,) = (each for each in log_files(lake, "sids") if CHECKPOINT.fullmatch(each) and int(each[:20]) == base)
    checkpoint = Path(lake.path("sids"), "_delta_log", name)
    whole = pq.read_table(checkpoint)
    adds = pc.fill_null(pc.is_valid(pc.struct_field(whole["add"], "path")), False)
    one = pc.index(adds, True).as_py()
    pq.write_table(pa.concat_tables([whole[:one], whole[one + 1 :]]), checkpoint)
    before = log_files(lake, "sids")
    with pytest.raises(DataCorrupt, match=rf"{name} lists other files than the entries before it; restore"):
        gc(lake, days=4)
    assert log_files(lake, "sids") == before
    pq.write_table(whole, checkpoint)
    gc(lake, days=4)
    assert log_of(lake, "sids").entries.keys() == set(range(base, max(log.entries) + 1))
    assert lake.read("sids").num_rows == 16


def test_the_first_version_that_releases_pin_and_the_log_lacks_is_told(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    add_vectors(lake, 8)
    publish(lake, candidate(lake, "one", ["s0"]).id, WHO)
    gc(lake, days=2)
    assert not any(log_of(lake, "vectors").opens(version) for version in (2, 4))
    for key, version in (("two", 4), ("three", 2)):
        pin(lake, candidate(lake, key, ["s0"], versions={"vectors": version}).id, "the report", None, WHO)
    before = log_files(lake, "sids")
    with pytest.raises(DataCorrupt, match=r"the log of table 'vectors' at .* lacks version 2, which a release pins"):
        gc(lake, days=2)
    assert log_files(lake, "sids") == before


def test_figures_of_trainings_stay_as_long_as_their_model_or_codebook(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    for number in ("1", "2"):
        codebook = {"id": "c1", "blob": lake.blobs.put(b"blob"), "sizes": [4], "vocabulary": "v-c1"}
        fitted = {"codebook": {**codebook, "fitted_by": f"codebook-{number}"}}
        release = candidate(lake, f"key-{number}", ["s0"], manifest=fitted).id
        publish(lake, release, WHO, model(lake, f"model-{number}", release, "v-c1"))
    figures = {name: tmp_path / "tensorboard" / name / "events" for name in (
        "model-1", "codebook-1", "model-2", "codebook-2", "failed", "running"
    )}  # fmt: skip
    for name, path in figures.items():
        path.parent.mkdir(parents=True)
        path.write_bytes(b"events")
        if name != "running":
            os.utime(path, (10**9, 10**9))  # in 2001

    def stay() -> set[str]:
        return {name for name, path in figures.items() if path.exists()}

    later = time.time() + 1.5 * 86400
    os.utime(figures["running"], (later, later))
    assert set(gc(lake, days=2).leaving) == {"r-000001", "m-000001"}
    assert stay() == figures.keys() - {"failed"}
    gone = {each.path: each.kind for each in gc(lake, days=4).garbage if each.path.startswith("tensorboard")}
    assert gone.keys() == {f"tensorboard/{name}/events" for name in ("model-1", "codebook-1", "running")}
    assert set(gone.values()) == {"figures of trainings whose result is gone"}
    assert stay() == {"model-2", "codebook-2"}
    assert read_pointer(lake, "production").value["model"] == "m-000002"
