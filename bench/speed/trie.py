"""Benchmarks of the trie: `python -m bench trie [--items 1e7]`.

Building runs in a separate process, so that its peak memory is that of input, build and file.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from tokenizer.trie.export import write_arrow
from tokenizer.trie.masks import TrieMasks
from tokenizer.trie.trie import Trie
from training.models.trie_tensors import TrieTensors

ROUNDS = 5
WIDE = (8192, 8192, 8192)
# SIDs that an update adds.
NEW = 100_000


def seconds(function: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Return wall times, ascending."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return sorted(times)


def show(name: str, times: list[float], unit: str = "s", note: str = "") -> None:
    scale = {"s": 1.0, "ms": 1e3, "us": 1e6}[unit]
    print(f"{name:<52} {statistics.median(times) * scale:>9.3f} {unit:<2} (best {times[0] * scale:.3f})  {note}")


def random_sids(items: int, codes: int, levels: int = 3) -> np.ndarray:
    """Return distinct SIDs, uniform at random and unordered: the worst case for shared prefixes. int32 (N, L)."""
    rng = np.random.default_rng(0)
    packed = np.zeros(0, np.int64)
    while len(packed) < items:
        packed = np.unique(np.append(packed, rng.integers(0, codes**levels, items)))
    packed = rng.permutation(packed)[:items]
    return np.stack(np.unravel_index(packed, (codes,) * levels), axis=1).astype(np.int32)


def names(items: int) -> pa.Array:
    """Return item ids of 6 to 13 bytes."""
    return pc.binary_join_element_wise("item-", pa.array(np.arange(items)).cast(pa.string()), "")


def _child(folder: Path, rounds: int) -> None:
    codes = np.load(folder / "codes.npy")
    ids = pa.ipc.open_file(folder / "ids.arrow").read_all()["id"].combine_chunks()
    before = _peak_kib()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        digest = Trie.build(codes, ids, WIDE).write(folder / "trie")
        times.append(time.perf_counter() - start)
    print(json.dumps({"times": sorted(times), "sha256": digest, "rss_before": before, "rss": _peak_kib()}))


def _peak_kib() -> int:
    """Return the peak resident memory; `ru_maxrss` would include that of the parent before exec."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith("VmHWM")))


def build(folder: Path, items: int) -> np.ndarray:
    """Build, write and hash in another process; return the codes, `NEW` more than were built."""
    codes, ids = random_sids(items + NEW, WIDE[0]), names(items + NEW)
    np.save(folder / "codes.npy", codes[:items])
    with pa.ipc.new_file(folder / "ids.arrow", pa.schema([("id", pa.string())])) as sink:
        sink.write_batch(pa.record_batch([ids[:items]], names=["id"]))
    command = [sys.executable, "-m", "bench.speed.trie", str(folder)]
    measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    note = f"peak RSS {measured['rss'] / 1024:,.0f} MiB, {measured['rss_before'] / 1024:,.0f} with the input read"
    show(f"build, write, sha256 of {items:,} SIDs", measured["times"], note=note)
    return codes


def size(trie: Trie) -> None:
    """Print bytes per SID: of the structure, with the item index and all id lookup data, and of the ids' text."""
    total = {name: array.nbytes / len(trie) for name, array in trie.arrays.items()}
    structure = sum(share for name, share in total.items() if not name.startswith("id_"))
    text = total["id_text"]
    print(f"bytes a SID: structure {structure:.2f}, with item index {sum(total.values()) - text:.2f}, text {text:.2f}")


def update(folder: Path, codes: np.ndarray, items: int) -> None:
    """Measure an update by 100,000 SIDs into a new file, also with items leaving; compare it with a full build."""
    trie, ids = Trie.open(folder / "trie"), names(len(codes))
    digest = []
    show(
        f"update by {NEW:,}, write, sha256",
        seconds(lambda: digest.append(trie.updated(codes[items:], ids[items:]).write(folder / "updated"))),
    )
    gone = ids.take(pa.array(np.arange(0, items, items // NEW)))
    show(f"the same, {len(gone):,} items leave", seconds(lambda: trie.updated(codes[items:], ids[items:], gone), 3))
    same = Trie.build(codes, ids, WIDE).sha256 == digest[0]
    print(f"the update and a full build have {'the same sha256' if same else 'DIFFERENT sha256'}")


def reading(folder: Path, codes: np.ndarray, items: int) -> None:
    """Measure open, lookup, find and export; against a Python dict, and marisa-trie if it is installed."""
    show("open", seconds(lambda: Trie.open(folder / "trie")), "ms")
    trie, ids = Trie.open(folder / "trie"), names(items)
    asked = np.random.default_rng(1).integers(0, items, 100_000)
    sids, wanted = codes[asked], ids.take(pa.array(asked))
    show("look up 100,000 SIDs", seconds(lambda: trie.lookup(sids)), "ms")
    show("find 100,000 items", seconds(lambda: trie.find_rows(wanted)), "ms")
    show("find 1 item", seconds(lambda: trie.find("item-77"), 50), "us")
    keys = [tuple(sid) for sid in sids.tolist()]
    table = {key: row for row, key in enumerate(keys)}
    show("look up 100,000 SIDs in a dict of no others", seconds(lambda: [table[key] for key in keys]), "ms")
    if importlib.util.find_spec("marisa_trie"):
        import marisa_trie

        packed = codes[:1_000_000].astype(">u2")
        peer = marisa_trie.BytesTrie((bytes(sid).decode("latin-1"), b"") for sid in packed)
        words = [bytes(sid).decode("latin-1") for sid in packed[:100_000]]
        show("look up 100,000 SIDs in marisa-trie, 1M", seconds(lambda: [word in peer for word in words]), "ms")
    show("export as Arrow", seconds(lambda: write_arrow(trie, folder / "arrow", {}), 1))


def masks(items: int, codes: int = 256, beams: int = 2_560) -> None:
    """Measure the masks of each level for beams inside random items, against the log_softmax of the same step."""
    sids = random_sids(items, codes)
    trie = Trie.build(sids, names(items), (codes,) * 3)
    start = time.perf_counter()
    whole = TrieMasks.of(trie)
    made = time.perf_counter() - start
    start = time.perf_counter()
    TrieMasks.of(trie, np.random.default_rng(0).random(items) < 0.5)
    print(f"{items:,} items: masks made in {made:.3f} s, for a filter in {time.perf_counter() - start:.3f} s")
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        masks_on(device, whole, sids[:beams])


def masks_on(device: str, whole: TrieMasks, sids_BL: np.ndarray) -> None:
    """Print the figures of `masks` on one device, for beams that follow the given SIDs."""
    beams, codes = len(sids_BL), whole.sizes[0]
    tensors = TrieTensors(whole, device)
    logits, nodes = torch.randn(beams, 1, codes, device=device), np.zeros(beams, np.int64)

    def timed(function: Callable[[], object]) -> list[float]:
        return seconds(partial(_done, device, function), 40)

    peer = timed(lambda: logits.log_softmax(dim=-1))
    where = f"{torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name()
    show(f"  log_softmax {beams:,} x {codes}, {where}", peer, "ms")
    for level in range(3):
        at = torch.from_numpy(nodes).unsqueeze(1).to(device)
        step = torch.from_numpy(sids_BL[:, level : level + 1].copy()).long().to(device)
        rows = {
            **({"numpy mask": timed(partial(whole.mask, level, nodes))} if device == "cpu" else {}),
            "torch mask": timed(partial(tensors.mask, level, at)),
            "torch step": timed(partial(tensors.step, level, at, step)),
        }
        for name, times in rows.items():
            ratio, best = statistics.median(times) / statistics.median(peer), times[0] / peer[0]
            show(f"  level {level} {name}", times, "ms", f"{ratio:.2f} x log_softmax, best {best:.2f}")
        nodes = whole.step(level, nodes, sids_BL[:, level])


def _done(device: str, function: Callable[[], object]) -> None:
    """Call the function, and wait until the device has finished."""
    function()
    if device == "cuda":
        torch.cuda.synchronize()


def run(options: argparse.Namespace) -> None:
    """Print all figures."""
    items = options.items
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        codes = build(folder, items)
        size(Trie.open(folder / "trie"))
        update(folder, codes, items)
        reading(folder, codes, items)
    for threads in (1, torch.get_num_threads()):
        torch.set_num_threads(threads)
        masks(min(100_000, items))
        masks(items)


if __name__ == "__main__":
    _child(Path(sys.argv[1]), ROUNDS)
