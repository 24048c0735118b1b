"""The pipeline benchmark: its shop, its sampler, and the whole of it on a small shop."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bench.__main__ import main
from bench.runs.made_shop import FAITHFUL, WIDTH, Shop
from bench.runs.process_tree import Samples, sampled

BURN = (
    "import time\nheld = bytearray(100 << 20)\nend = time.process_time() + 1.0\nwhile time.process_time() < end: pass"
)
PARENT = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}], check=True)"


def test_a_larger_shop_has_the_items_of_a_smaller_one_and_more(tmp_path: Path) -> None:
    few, more = (Shop(items).write(tmp_path / str(items), 100) for items in (300, 400))
    for name in ("items", "vectors"):
        path = "vectors/*.parquet" if name == "vectors" else "items.parquet"
        small, large = pl.read_parquet(few.items.parent / path), pl.read_parquet(more.items.parent / path)
        assert large.head(300).equals(small)
        assert large["item_id"].n_unique() == 400
    assert small["vector"].dtype == pl.Array(pl.Float32, WIDTH)


def test_later_items_come_in_a_delivery_of_their_own_with_events_of_all(tmp_path: Path) -> None:
    night = Shop(400).write(tmp_path / "night", 500, since=300, day=30, days=1)
    assert pl.read_parquet(night.items)["item_id"].to_list() == [f"B{number:09}" for number in range(300, 400)]
    log = pl.read_parquet(night.log)
    assert log["event_time"].is_sorted()
    assert log["event_time"].dt.date().n_unique() == 1
    assert (log["item_id"] < "B000000300").any()


def test_users_mostly_take_items_of_the_kinds_that_they_like(tmp_path: Path) -> None:
    shop = Shop(5_000)
    log = pl.read_parquet(shop.write(tmp_path / "shop", 20_000).log)
    kind = pl.Series(shop._kind)[log["item_id"].str.slice(1).cast(pl.Int64)]
    often = log.with_columns(kind=kind).group_by("user_id", "kind").len().sort("len", descending=True)
    three = often.group_by("user_id").head(3)["len"].sum() / log.height
    assert FAITHFUL - 0.1 < three <= 1


def test_sums_are_those_of_the_span_and_memory_is_its_peak() -> None:
    sums = [(float(second), 10.0 * second, 0.0) for second in range(5)]
    samples = Samples([0.0, 1.0, 2.0, 3.0, 4.0], sums, [(1.0, 2.0), (1.0, 9.0), (3.0, 4.0), (1.0, 1.0), (8.0, 8.0)])
    used = samples.between(1.5, 2.5)
    assert (used.cpu_s, used.read, used.written) == (1.0, 10.0, 0.0)
    assert (used.first_memory, used.memory) == (3.0, 9.0)


def test_what_a_process_and_its_children_used_is_counted_after_they_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", PARENT])
    with sampled(child.pid) as samples:
        assert child.wait() == 0
    used = samples.between(samples.times[0] - 10, samples.times[-1])
    assert np.diff(np.array(samples.sums), axis=0).min() >= 0
    assert samples.sums[-1][0] > 0.3
    assert used.memory > 100 << 20
    assert used.first_memory < 100 << 20


def test_bytes_of_a_process_that_ended_are_counted_once(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(50 << 20))
    work = f"import time; open({str(tmp_path / 'data')!r}, 'rb').read(); time.sleep(1.5)"
    parent = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {work!r}]); time.sleep(1.5)"
    child = subprocess.Popen([sys.executable, "-c", parent])
    with sampled(child.pid) as samples:
        assert child.wait() == 0
    assert 50 << 20 < samples.sums[-1][1] < 70 << 20


@pytest.mark.slow
def test_a_bootstrap_and_a_night_are_measured_stage_by_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pipeline", "--items", "300", "--night", "--scratch", str(tmp_path / "kept")]) == 0
    bootstrap, night = capsys.readouterr().out.split("night: 100 items, 20,000 events")
    for stage in ("behaviour", "fit fusion", "fit codebook", "beyond the start"):
        assert stage in bootstrap
    assert "beyond the start" in night
    assert "fit codebook" not in night
    assert (tmp_path / "kept" / "lake" / "lake.json").exists()
