"""Encoders through Ray Data beside the bare ones: `python -m bench encoders DATA [--items 12000] [--pictures 400]`.

Titles of Amazon Beauty (repeated if more are requested than exist) and film posters go into a lake as in a run: read,
encoded, checked, stored. The peer is the same encoder in this process on the same contents, texts sorted by length,
with all cores. Start-up (workers, models) is the time until a worker gets its first items; it is printed, not counted.

With --static N, only the speed of a static encoder on N made titles is printed: there the way through Ray costs most.

First, the peak memory of this process and its single worker is printed, for --memory texts and for four times as many:
the difference is what grows with the catalogue. It comes first because a process keeps its peak.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer

from bench.quality.catalogues import beauty, movielens
from bench.speed.tokenizer import say
from infra.settings import configure
from pipelines.compute.cluster import machine_cpus, shutdown
from pipelines.compute.executors import Compute, OnRay
from pipelines.embed.contents import ContentKind, ItemContents, PartContents
from pipelines.embed.embed import EncodingJob, embed
from pipelines.embed.images import decode_image
from pipelines.embed.item_rows import PART_ROWS, RowsHere
from pipelines.embed.protocol import load_encoder
from pipelines.embed.stages import BATCHES, EmbedImages, EmbedText
from pipelines.embed.text import TextEncoder, model_folder
from pipelines.places import PAIR
from pipelines.spec import ComputeSpec, ImageSpec, TextSpec
from storage.commit import Provenance
from storage.files.store import sha256
from storage.lake import Lake

CHUNK = ComputeSpec().chunk_rows
MADE = {"text": ContentKind(lambda made: made, EmbedText.longest_first), "image": ContentKind(lambda made: made)}
"""Kinds of contents that are made already."""


def run(options: argparse.Namespace) -> None:
    """Print all figures."""
    configure()
    try:
        if options.static:
            static_texts(options)
            return
        memory(options)
        texts(options)
        pictures(options)
    finally:
        shutdown()


def memory(options: argparse.Namespace) -> None:
    """Print the peak memory of driver and worker at two sizes, the smaller first."""
    before = resident()
    say("memory of this process before it embeds anything", gib(before))
    for count in (options.memory, 4 * options.memory):
        done = embedded(titles(options.data, count), "text", Texts, {"spec": TextSpec()}, 1)
        say(f"peak memory with {count:,} texts, this process and its worker", f"{gib(resident())}, {gib(done.worker)}")


def titles(data: Path, count: int) -> pl.DataFrame:
    """Return `count` items (item_id, text, content_hash); titles repeat if there are not enough."""
    known = [text or "untitled" for text in beauty(data).texts]
    return _named([known[row % len(known)] for row in range(count)])


def _named(texts: list[str]) -> pl.DataFrame:
    hashes = [sha256(each.encode())[:32] for each in texts]
    names = [f"{row:07d}" for row in range(len(texts))]
    return pl.DataFrame({"item_id": names, "text": texts, "content_hash": hashes})


def texts(options: argparse.Namespace) -> None:
    """Measure texts per second: bare, and through a run with one worker and with one per core."""
    _texts(titles(options.data, options.items), TextSpec(), options.rounds)


def static_texts(options: argparse.Namespace) -> None:
    """Measure texts per second of a static encoder as `texts` does."""
    with tempfile.TemporaryDirectory() as folder:
        save_static_model(Path(folder))
        spec = TextSpec(encoder="sentence-transformers", model=folder)
        _texts(_named(made_titles(options.static)), spec, options.rounds)


def save_static_model(folder: Path) -> None:
    """Save a static encoder: the tokenizer of the MiniLM, and a random vector of 256 dimensions for each token."""
    tokenizer = Tokenizer.from_file(str(model_folder(TextSpec()) / "tokenizer.json"))
    weights = np.random.default_rng(0).standard_normal((tokenizer.get_vocab_size(), 256)).astype(np.float32)
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)]).save(str(folder))


def made_titles(count: int) -> list[str]:
    """Return titles of 3 to 12 words."""
    draw = np.random.default_rng(1)
    words = [f"word{number}" for number in range(500)]
    ends = np.cumsum(draw.integers(3, 13, count)).tolist()
    chosen = [words[place] for place in draw.integers(0, len(words), ends[-1])]
    return [" ".join(chosen[start:end]) for start, end in pairwise([0, *ends])]


def _texts(items: pl.DataFrame, spec: TextSpec, rounds: int) -> None:
    wanted = items["text"].to_list()
    encoder = TextEncoder(spec)
    longest_first = sorted(wanted, key=lambda text: -len(text.encode()))
    encoder.encode(longest_first[-CHUNK:])
    beside_bare(
        "texts",
        rounds,
        len(wanted),
        lambda: _on_all_cores(encoder, longest_first),
        lambda workers: embedded(items, "text", Texts, {"spec": spec}, workers),
    )


def _on_all_cores(encoder: TextEncoder, texts: list[str]) -> None:
    """Encode, with words cut on all cores too, which a process of sidmill leaves to its workers."""
    before = os.environ["TOKENIZERS_PARALLELISM"]
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    try:
        encoder.encode(texts)
    finally:
        os.environ["TOKENIZERS_PARALLELISM"] = before


def pictures(options: argparse.Namespace) -> None:
    """Measure pictures per second: model on prepared pixels, decoding alone, and through a run."""
    catalogue = movielens(options.data)
    paths = [path for path in catalogue.pictures if path is not None][: options.pictures]
    spec = ImageSpec()
    encoder = load_encoder(spec)
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(folder)
        data = [path.read_bytes() for path in paths]
        hashes = [lake.blobs.put(each) for each in data]
        names = [f"{row:07d}" for row in range(len(hashes))]
        items = pl.DataFrame({"item_id": names, "content_hash": hashes, "images": [[each] for each in hashes]})
        start = time.perf_counter()
        pixels = [encoder.prepare(decode_image(each, spec.max_pixels, spec.formats)) for each in data]
        decoding = (time.perf_counter() - start) / len(data)
        encoder.encode(pixels[: spec.batch_size])
        say("decode, rotate and scale a picture, one thread", f"{1000 * decoding:.1f} ms")
        beside_bare(
            "pictures",
            options.rounds,
            len(pixels),
            lambda: encoder.encode(pixels),
            lambda workers: embedded(items, "image", Pictures, {"spec": spec, "lake": lake}, workers),
        )


class Clocked:
    """Mixin that records a worker's first chunk and peak memory, in its own files below `marks`."""

    def __init__(self, marks: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._mark = Path(marks, f"{os.getpid()}.began")

    def __call__(self, batch: pa.Table) -> pa.Table:
        if not self._mark.exists():
            self._mark.write_text(str(time.time()))
        encoded = super().__call__(batch)  # type: ignore[misc]
        self._mark.with_suffix(".peak").write_text(str(resident()))
        return encoded


class Texts(Clocked, EmbedText):
    """Clocked text stage."""


class Pictures(Clocked, EmbedImages):
    """Clocked picture stage."""


@dataclass(frozen=True)
class Embedded:
    """Items per second from the first chunk on, the seconds before it, and the peak memory of a worker in KiB."""

    rate: float
    start_up: float
    worker: int


def embedded(
    items: pl.DataFrame, modality: str, stage: type[Clocked], arguments: dict[str, Any], workers: int
) -> Embedded:
    """Send all items through Ray Data into a new lake."""
    compute: Compute = OnRay(ComputeSpec(encoder_workers=workers))
    compute.run(int)  # start the cluster, which is not measured
    with tempfile.TemporaryDirectory() as folder:
        marks = Path(folder, "marks")
        marks.mkdir()
        start = time.time()
        lake = Lake(f"{folder}/lake")
        tasks = BATCHES * arguments["spec"].batch_size
        given = {**arguments, "marks": str(marks)}
        job = EncodingJob(lake, modality, "bench", stage, given, MADE[modality], CHUNK, tasks)  # type: ignore[arg-type]
        embed(job, _contents(items, job), compute, Provenance("bench", "bench"), lambda rows: None)
        end = time.time()
        first = min(float(each.read_text()) for each in marks.glob("*.began"))
        worker = max(int(each.read_text()) for each in marks.glob("*.peak"))
    return Embedded(items.height / (end - first), first - start, worker)


def _contents(items: pl.DataFrame, job: EncodingJob) -> ItemContents:
    """Return where items (item_id, in order; content) lie: here if they are few, else in parts as of a catalogue."""
    numbers = np.arange(items.height, dtype=np.int32)
    if job.kind.order is not None:
        numbers = items.select(pl.arg_sort_by(job.kind.order, descending=True)).to_series().to_numpy().astype(np.int32)
    starts = range(0, items.height, PART_ROWS)
    parts = (PartContents(RowsHere(items[some]), some) for some in (numbers[at : at + PART_ROWS] for at in starts))
    return ItemContents(items.select(PAIR), tuple(parts))


def resident() -> int:
    """Return the peak memory of this process, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def gib(kib: int) -> str:
    return f"{kib / 2**20:.2f} GiB"


def beside_bare(
    what: str, rounds: int, items: int, bare: Callable[[], object], through: Callable[[int], Embedded]
) -> None:
    """Print items per second of the bare encoder, and into the lake with one worker and one per core.

    Figures are medians and ratios.
    """
    limits: list[float] = []
    rates: dict[int, list[float]] = {}
    for _ in range(rounds):
        start = time.perf_counter()
        bare()
        limits.append(items / (time.perf_counter() - start))
        for workers in sorted({1, machine_cpus()}):
            done = through(workers)
            rates.setdefault(workers, []).append(done.rate)
            say(f"start-up of {workers} worker(s), {what}", f"{done.start_up:.1f} s")
    limit = statistics.median(limits)
    say(
        f"{what} a second, bare encoder, all cores",
        f"{limit:.1f}",
        f"{1000 / limit:.1f} ms each; {min(limits):.1f} to {max(limits):.1f}",
    )
    for workers, found in rates.items():
        rate = statistics.median(found)
        say(
            f"{what} a second into the lake, {workers} worker(s)",
            f"{rate:.1f}",
            f"{rate / limit:.2f} x bare; {rate / workers:.1f} a worker; {min(found):.1f} to {max(found):.1f}",
        )
