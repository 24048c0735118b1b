"""The process of a run holds a few bytes an item: vectors of all items lie on the scratch disk and in the lake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FEW, MANY, WIDTH = 1 << 12, 1 << 14, 512
MAX_BYTES = 1_000
"""Of each further item, at most. Its two vectors have 4,096 bytes."""
SCRIPT = f"""
import sys, threading, time
import numpy as np
import polars as pl
from pipelines.sid_table import Segment, occupancy, write_segment
from pipelines.fusion import fuse as fusing
from pipelines.fusion.fit import fit_fusion
from pipelines.level_vectors import level_vectors
from pipelines.modalities import Modality
from pipelines.spec import FusionSpec
from pipelines.vector_store import store_vectors
from storage.commit import Provenance
from storage.lake import Lake
from tokenizer.arrays import scratch, vectors
from tokenizer.assign import assign_sids
from tokenizer.balancing import assign_level
from tokenizer.fit import fit_codebook
from tokenizer.spec import CodebookSpec, LevelSpec

LAKE, PART = Lake(sys.argv[1]), 1 << 10
# What is held at once is a part, and not all of so few items.
fusing.CHUNK = vectors.SPAN = vectors.LEAD = assign_level.REFINE_ROWS = PART
scratch.IN_MEMORY = 0
WHO, DRAW = Provenance("run", "recipe"), np.random.default_rng(0)
peak, over = [0], threading.Event()

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon"))

def sample():
    while not over.wait(0.002):
        peak[0] = max(peak[0], anonymous())

def run(name, items):
    ids = pl.DataFrame({{"item_id": [f"item-{{number:07}}" for number in range(items)]}})
    pairs = ids.with_columns(content_hash=pl.lit("c"))
    for start in range(0, items, PART):
        drawn = DRAW.standard_normal((min(PART, items - start), {WIDTH}), dtype=np.float32)
        rows = pairs[start : start + PART].with_columns(pl.Series("vector", drawn))
        store_vectors(LAKE, rows.with_columns(modality=pl.lit("given"), fingerprint=pl.lit(name)), WHO)
    peak[0] = start = anonymous()
    gathered = fusing.gather(LAKE, ids, {{"given": pairs}}, {{"given": name}})
    fused, _ = fusing.fuse(LAKE, FUSION, gathered, WHO)
    level = level_vectors(LAKE, fused, gathered, BOOK.sources, WHO)
    found = assign_sids(BOOK, level.vectors, level.items, occupancy(LAKE, BOOK, []))
    write_segment(LAKE, Segment(name, BOOK, level.fused, found), level.counts, WHO)
    return peak[0] - start

SEEN = DRAW.standard_normal((2_000, {WIDTH}), dtype=np.float32)
FUSION = fit_fusion({{"given": Modality(SEEN, np.ones(2_000, np.bool_))}}, FusionSpec(dim={WIDTH}, epochs=0))
SPEC = CodebookSpec(levels=(LevelSpec(codes=64),) * 4, iterations=1, growth=2 * {MANY} / 2_000)
FITTED, _ = FUSION.transform({{"given": Modality(SEEN, np.ones(2_000, np.bool_))}})
BOOK = fit_codebook({{"fused": FITTED}}, [f"item-{{number:07}}" for number in range(2_000)], SPEC)
threading.Thread(target=sample, daemon=True).start()
run("first", {FEW})  # libraries are loaded, and pools have what parts take
print(run("few", {FEW}), run("many", {MANY}))
"""


@pytest.mark.slow
def test_four_times_the_items_take_a_few_bytes_more_for_each_in_the_process_of_a_run(tmp_path: Path) -> None:
    """Anonymous memory, which is that of no file, while items are gathered, fused, given SIDs and written."""
    settings = {  # what is freed is given back
        "_RJEM_MALLOC_CONF": "dirty_decay_ms:0,muzzy_decay_ms:0",
        "MIMALLOC_PURGE_DELAY": "0",
        "MALLOC_MMAP_THRESHOLD_": str(1 << 18),
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    few, many = map(int, done.stdout.split())
    assert many - few < MAX_BYTES * (MANY - FEW)
