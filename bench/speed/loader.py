"""The log loader at size: `python -m bench loader [--events 1e7]`.

A lake holds a synthetic log: users of unequal length, some with 10,000 events, items of unequal popularity, unordered
events, one in a thousand with a repeated id. It is joined with SIDs into user buckets, and an epoch of batches is read.
Each is compared with a bare scan of the same columns of the same Parquet files, in the same run.
"""

import argparse
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from learning.threads import one_thread
from learning.trainable import Cursor
from pipelines.event_log.user_buckets import EVENT
from pipelines.event_log.visible_log import LogSlice
from pipelines.sequences import SequencesJob, build_sequences, read_bucket, sequence_buckets
from pipelines.spec import SequencesSpec
from storage.commit import Provenance, append
from storage.lake import Lake
from storage.schemas import INTERACTIONS
from training.data.histories import batches
from training.objectives.next_code import plan_of
from training.spec import GeneratorSpec, TrainSpec

CHUNK, ITEMS, LEVELS = 2_000_000, 200_000, (256, 256, 256)
HEAVY, HEAVY_SHARE = 10_000, 0.01
"""Events of a heavy user, and the share of such users' events in the log."""
START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 90


def write_log(lake: Lake, events: int) -> None:
    """Write the log, `CHUNK` events per delivery; users have 1 to some hundred events, heavy ones about `HEAVY`."""
    users, heavy = max(1, events // 30), max(1, int(events * HEAVY_SHARE) // HEAVY)
    for number, first in enumerate(range(0, events, CHUNK)):
        count = min(CHUNK, events - first)
        draw = np.random.default_rng(number)
        user = (users * draw.random(count) ** 1.6).astype(np.int64)
        of_heavy = draw.random(count) < HEAVY_SHARE
        user[of_heavy] = users + draw.integers(0, heavy, of_heavy.sum())
        item = (ITEMS * draw.random(count) ** 3).astype(np.int64)
        offset = np.arange(first, first + count)
        offset[draw.random(count) < 0.001] = first
        seconds = draw.integers(0, DAYS * 24 * 3600, count)
        time_us = pa.array(seconds * 1_000_000 + int(START.timestamp()) * 1_000_000).cast(pa.timestamp("us", "UTC"))
        arrival = START + timedelta(days=DAYS, hours=number)
        text = {name: pc.cast(pa.array(values), pa.string()) for name, values in (("u", user), ("i", item))}
        rows = {
            "event_id": pc.binary_join_element_wise("e", pc.cast(pa.array(offset), pa.string()), ""),
            "user_id": pc.binary_join_element_wise("user-", text["u"], ""),
            "item_id": pc.binary_join_element_wise("item-", text["i"], ""),
            "event_type": pa.DictionaryArray.from_arrays(
                pa.array(draw.integers(0, 4, count), pa.int8()), ["click", "view", "buy", "impression"]
            ).cast(pa.string()),
            "event_time": time_us,
            "arrival_time": pa.array([arrival] * count, pa.timestamp("us", "UTC")),
            "arrival_date": pa.array([arrival.date()] * count),
            "source": pa.array(["synthetic"] * count),
            "source_offset": pa.array(offset),
        }
        columns = [rows.get(name.name, pa.nulls(count, name.type)) for name in INTERACTIONS.schema]
        append(lake, "interactions", pa.table(columns, names=INTERACTIONS.schema.names), f"log:{number}", WHO)


WHO = Provenance("bench", "")


def run(options: argparse.Namespace) -> None:
    """Print all figures."""
    events = int(options.events)
    with tempfile.TemporaryDirectory(prefix="sidmill-bench-") as folder, one_thread():
        lake = Lake(folder)
        write_log(lake, events)
        version = lake.version("interactions")
        log = LogSlice(version, START + timedelta(days=10 * DAYS), START + timedelta(days=DAYS))
        items = pc.binary_join_element_wise("item-", pc.cast(pa.array(np.arange(ITEMS)), pa.string()), "")
        codes = np.stack(np.unravel_index(np.arange(ITEMS) * 83, LEVELS), axis=1).astype(np.int32)
        say(
            "log",
            f"{events:,} events, {lake.open('interactions').to_pyarrow_dataset().count_rows():,} rows in the lake",
        )

        began = time.perf_counter()
        scanned = sum(batch.num_rows for batch in lake.batches("interactions", EVENT, log.visible, version=version))
        bare = time.perf_counter() - began
        say("bare scan of the log", f"{scanned / bare:,.0f} events/s")
        before = peak()
        began = time.perf_counter()
        buckets = sequence_buckets(lake, log, SequencesSpec())
        counts = build_sequences(lake, SequencesJob("r-000001", log, items, codes, buckets), WHO)
        built = time.perf_counter() - began
        say(
            f"joined, in {buckets} buckets, sorted, stored",
            f"{scanned / built:,.0f} events/s",
            f"{built / bare:.1f} x the scan; {counts.by_reason}; peak {peak():.2f} GiB, {before:.2f} before",
        )

        began = time.perf_counter()
        where = ds.field("release") == "r-000001"
        columns = ["user_id", "event_id", "event_time", "event_type", "impression", "codes"]
        stored = sum(batch.num_rows for batch in lake.batches("sequences", columns, where))
        bare = time.perf_counter() - began
        say("bare scan of the sequences", f"{stored / bare:,.0f} events/s")
        train = TrainSpec(batch_size=256)
        plan = plan_of("r-000001", buckets, LEVELS, GeneratorSpec(), train)
        before = peak()
        began = time.perf_counter()
        read = places = targets = 0
        for batch, _ in batches(plan, lambda bucket: read_bucket(lake, "r-000001", bucket), 0, 1, Cursor(plan.hash)):
            read += int(batch.events.lengths.sum())
            places += batch.targets.numel()
            targets += int(batch.step_targets)
        loaded = time.perf_counter() - began
        say(
            "an epoch of batches",
            f"{stored / loaded:,.0f} events/s",
            f"{loaded / bare:.1f} x the scan; {targets:,} targets, {1 - read / places:.1%} padding; "
            f"peak {peak():.2f} GiB, {before:.2f} before",
        )


def peak() -> float:
    """Return the peak memory of this process, in GiB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1 << 30 if sys.platform == "darwin" else 1 << 20)


def say(name: str, value: str, beside: str = "") -> None:
    print(f"{name:<44} {value:>22}  {beside}", flush=True)
