"""Rows of `python -m bench recommendation` that use semantic IDs: fused vectors, SIDs, a generator trained on them.

All of it is fitted on the training part of the histories. A training is a Ray Train run below CACHE, named by a hash of
its settings, data and code: a stopped benchmark resumes from its last checkpoint, and one with changed code or input
files starts anew.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel

from bench.quality.made_by import code_hash
from bench.quality.representations import SeededSplit
from bench.quality.settings import Settings
from bench.quality.split import WIDTH, Recommend, Split, say
from learning.ray_train.launch import Listener, launch
from learning.threads import one_thread
from pipelines.compute.cluster import connect, machine_cpus
from pipelines.modalities import COLLABORATIVE
from pipelines.spec import ComputeSpec, collaborative_spec
from tokenizer.arrays.types import Floats, Ints
from tokenizer.assign import Occupancy, assign_sids
from tokenizer.fit import fit_codebook
from tokenizer.trie.masks import TrieMasks
from tokenizer.trie.trie import Trie
from training.auto_settings import Scale, generator_spec, train_spec
from training.data.events import gathered
from training.data.histories import windows_of
from training.decoding.beam_search import beam_search
from training.evaluation.metrics import ndcg_at, rank_of_target, recall_at
from training.evaluation.rerank import VectorSimilarity
from training.models.generator import Generator
from training.models.saved import load_generator
from training.models.trie_tensors import TrieTensors
from training.objectives.code_pretraining import CodePretraining, pretrained
from training.objectives.losses import objective_of
from training.objectives.next_code import Origin, plan_of
from training.objectives.preference import generator_training

CACHE = Path(".cache/recommendation")
# Buckets of the training histories, and histories decoded at a time.
BUCKETS, AT_ONCE = 4, 256
BEAMS = 50
# Decays and weights from which the best on the validation is taken.
DECAYS = (0.0, 0.3, 0.6, 0.8, 0.9, 1.0)
WEIGHTS = (0.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0)
# Most users of the validation on which a reranking is chosen.
VALIDATED = 6_000


@dataclass(frozen=True)
class Histories:
    """Reader of the training histories in buckets, as the log loader expects; pickled to its workers."""

    codes: NDArray[np.int32]
    train: list[Ints]

    def __call__(self, bucket: int) -> pa.Table:
        """Return users bucket, bucket + BUCKETS, ..."""
        users = range(bucket, len(self.train), BUCKETS)
        rows = [self.train[user] for user in users]
        lengths = np.array([len(each) for each in rows], np.int64)
        items = np.concatenate([*rows, np.zeros(0, np.int64)])
        place = np.arange(len(items)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        names = np.repeat(np.array([f"u{user:07d}" for user in users]), lengths)
        levels = self.codes.shape[1]
        return pa.table(
            {
                "user_id": pa.array(names),
                "event_id": pa.array([f"{name}-{at}" for name, at in zip(names, place, strict=True)], pa.string()),
                "event_time": pa.array(place).cast(pa.timestamp("us")),
                "event_type": pa.array(["taken"] * len(items), pa.string()),
                "impression": pa.nulls(len(items), pa.bool_()),
                "codes": pa.FixedSizeListArray.from_arrays(pa.array(self.codes[items].ravel()), levels).cast(
                    pa.list_(pa.int32())
                ),
            }
        )


def fused_vectors(split: Split, settings: Settings) -> NDArray[np.float32]:
    """Return fused vectors of all items, float32 (N, D), fitted on the training events; cached."""
    events = np.concatenate(split.train)
    behaviour = collaborative_spec(settings.collaborative, len(events), len(np.unique(events)))
    parts = (behaviour, settings.sasrec, settings.fusion)
    path = CACHE / f"vectors-{key_of(split, split.train, settings.modalities, *parts)}.npy"
    if not path.exists():
        world = SeededSplit(split.catalogue, settings.fusion.seed, cold=0.0)
        with one_thread():
            modalities, before = world.content(), {}
            if COLLABORATIVE in (settings.modalities or (COLLABORATIVE,)):
                made = world.behaviour(behaviour, settings.sasrec, settings.fusion.recent)
                modalities, before = modalities | world.beside(made.vectors), world.beside(made.before)
            chosen = {name: modalities[name] for name in settings.modalities or modalities}
            vectors, present = world.fused(settings.fusion, chosen, before).transform(chosen)
        assert present.all()
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, vectors)
    return np.asarray(np.load(path), np.float32)


def tokenized(split: Split, settings: Settings) -> Trie:
    """Return the SIDs of all items."""
    vectors, ids = {"fused": fused_vectors(split, settings)}, split.catalogue.ids
    with one_thread():
        book = fit_codebook(vectors, ids, settings.codebook)
        made = assign_sids(book, vectors, ids, Occupancy.empty(len(book.sizes)))
    unique = len(np.unique(made.codes, axis=0))
    say(f"SIDs {book.sizes}: {unique:,} for {len(ids):,} items, relative error {made.relative_error:.4f}")
    return Trie.build(made.codes, pa.array(ids), book.sizes, settings.codebook.collision == "keep")


def dense(split: Split, settings: Settings) -> Recommend:
    """Retrieve by the fused vectors alone: cosine with a user's items, discounted by `decay` per event back.

    This is the baseline for SIDs. `decay` is the value of DECAYS that is best on the validation.
    """
    vectors = fused_vectors(split, settings)

    def ranked(histories: Sequence[Ints], exclude_seen: bool, decay: float) -> Ints:
        return VectorSimilarity.of(vectors, 1.0, decay).nearest(histories, WIDTH, histories if exclude_seen else None)

    def found(decay: float) -> float:
        return recall_at(rank_of_target(ranked(split.train, True, decay), split.validation), 10)

    with one_thread():
        best = max(DECAYS, key=found)
    say(f"dense: decay {best}")
    return lambda histories, exclude_seen: ranked(histories, exclude_seen, best)


Search = Callable[[Sequence[Ints], bool], tuple[Ints, Floats]]
"""Like Recommend, but returns the BEAMS best items and their log-probabilities."""


def generator(split: Split, settings: Settings) -> Recommend:
    """Use a generator on SIDs."""
    search = searched(split, settings)
    return lambda histories, exclude_seen: search(histories, exclude_seen)[0][:, :WIDTH]


def reranked(split: Split, settings: Settings) -> Recommend:
    """Rerank the results of a generator by the fused vectors as well.

    Weight and decay are the tried values that are best on the validation of some users.
    """
    search, vectors = searched(split, settings), fused_vectors(split, settings)
    users = np.random.default_rng(0).permutation(len(split.train))[:VALIDATED]
    taken, targets = [split.train[user] for user in users], split.validation[users]
    found = search(taken, False)

    def gain(similarity: VectorSimilarity) -> float:
        return ndcg_at(rank_of_target(similarity.reranked(*found, taken)[:, :WIDTH], targets), 10)

    best = max((VectorSimilarity.of(vectors, weight, decay) for weight in WEIGHTS for decay in DECAYS), key=gain)
    say(f"reranked: weight {best.weight}, decay {best.decay}, validation ndcg@10 {gain(best):.4f}")
    return lambda histories, exclude_seen: best.reranked(*search(histories, exclude_seen), histories)[:, :WIDTH]


def searched(split: Split, settings: Settings) -> Search:
    """Return the search of a generator trained by Ray Train on all cores."""
    trie = tokenized(split, settings)
    in_trie = trie.find_rows(pa.array(split.catalogue.ids))
    codes = trie.codes()[in_trie].astype(np.int32)
    counts = np.array([len(each) for each in split.train])
    windows = int(windows_of(counts, settings.generator.max_events).sum())
    scale = Scale(split.items, len(trie.sizes), windows, int(counts.sum()))
    train = train_spec(settings.train, scale).model_copy(update={"workers": machine_cpus()})
    shape = generator_spec(settings.generator, scale)
    parts = (settings.collaborative, settings.sasrec, settings.fusion)
    key = key_of(split, [*split.train, codes.ravel()], settings.modalities, *parts, shape, train)
    name = f"generator-{key}"
    plan = plan_of(name, BUCKETS, trie.sizes, shape, train)
    connect(ComputeSpec())
    start = None
    if train.align_epochs:
        alone = train.model_copy(update={"epochs": train.align_epochs, "checkpoint_steps": 0})
        items = CodePretraining(shape, trie.sizes, codes, fused_vectors(split, settings), train.batch_size, train.seed)
        start = pretrained(launch(partial(copy, items), alone, f"{name}-align", CACHE.resolve()).checkpoint_dir)
    masks = TrieMasks.of(trie)
    make = partial(
        generator_training,
        shape,
        plan,
        Histories(codes, split.train),
        Origin(name, name, name, partial(copy, masks)),
        objective=objective_of(train),
        start=start,
    )
    result = launch(make, train, name, CACHE.resolve(), listener=Listener(say))
    model, _ = load_generator(result.checkpoint_dir, name)
    rows = Rows(in_trie, codes, np.argsort(in_trie))

    def search(histories: Sequence[Ints], exclude_seen: bool) -> tuple[Ints, Floats]:
        return generate(model, TrieTensors(masks), rows, histories, exclude_seen)

    return search


def key_of(split: Split, rows: Sequence[NDArray[np.integer]], *settings: BaseModel | tuple[str, ...]) -> str:
    """Return 16 hex digits over all that determines a result: code, bytes of input files, arrays and settings."""
    digest = hashlib.blake2b(f"{code_hash()}{split.catalogue.inputs}".encode(), digest_size=8)
    for each in rows:
        digest.update(np.ascontiguousarray(each).tobytes() + b"|")
    for part in settings:
        plain = part.model_dump(mode="json") if isinstance(part, BaseModel) else part
        digest.update(json.dumps(plain, sort_keys=True).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Rows:
    """Row in the trie of each item of the catalogue, its codes, and the inverse of that row mapping."""

    in_trie: Ints
    codes: NDArray[np.int32]
    item: Ints


def generate(
    model: Generator, trie: TrieTensors, rows: Rows, histories: Sequence[Ints], exclude_seen: bool
) -> tuple[Ints, Floats]:
    """Return the BEAMS most probable items of each history, -1 padded, and their log-probabilities."""
    out = np.full((len(histories), BEAMS), -1, np.int64)
    scores = np.full((len(histories), BEAMS), -np.inf, np.float32)
    order = np.argsort([len(each) for each in histories], kind="stable")
    kinds = np.zeros(len(rows.codes), np.int64)
    with one_thread():
        for start in range(0, len(order), AT_ONCE):
            part = order[start : start + AT_ONCE]
            some = [histories[row][-(model.spec.max_events - 1) :] for row in part]
            lengths = np.array([len(each) for each in some])
            places = np.zeros((len(some), lengths.max()), np.int64)
            for at, each in enumerate(some):
                places[at, : len(each)] = each
            exclude = [rows.in_trie[histories[row]] for row in part] if exclude_seen else None
            found, scores[part] = beam_search(model, trie, gathered(rows.codes, kinds, places, lengths), BEAMS, exclude)
            out[part] = np.where(found >= 0, rows.item[found], -1)
    return out, scores
