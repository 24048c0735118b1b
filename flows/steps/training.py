"""Steps that build the sequences of a release and train a generator on them."""

import json
from collections.abc import Callable
from copy import copy
from functools import partial

import numpy as np
import polars as pl

from flows.runtime.members import packages_of_model
from flows.runtime.run import Run
from flows.runtime.tracking import Figures
from flows.steps.task import step
from learning.checkpoint import RECORD, WEIGHTS
from learning.errors import CheckpointMismatch, LossDiverged
from learning.ray_train.launch import Listener, TrainResult, forget, launch
from pipelines.compute.cluster import connect
from pipelines.event_log.user_buckets import TrainedSlice
from pipelines.event_log.visible_log import LogSlice
from pipelines.sequences import SequencesJob, build_sequences, read_bucket, sequence_buckets, targets, users_of_bucket
from pipelines.sid_table import encoded_vectors
from pipelines.vector_store import matrix
from sidmill.release import load_model, open_trie
from storage.errors import LakeNotFound
from storage.lake import Lake
from storage.releases.catalogue import deleted_items, segments
from storage.releases.manifest import Manifest
from storage.releases.models import Model, ModelCard, TrainedModel, record_model
from storage.releases.releases import read_release
from tokenizer.trie.masks import TrieMasks
from tokenizer.trie.trie import Trie
from training.auto_settings import (
    Scale,
    generator_spec,
    matches_auto_settings,
    resolved_auto_settings,
    train_spec,
    vector_weight,
)
from training.data.histories import windows_of
from training.evaluation.rerank import VectorSimilarity
from training.objectives.code_pretraining import Arrays, CodePretraining, pretrained
from training.objectives.losses import compares, objective_of
from training.objectives.next_code import Origin, plan_of, weighted
from training.objectives.preference import generator_training
from training.spec import EvaluateSpec, GeneratorSpec, TrainSpec

ALIGN = "-align"
"""Suffix of the name of the alignment run of a training."""


def trained_slice(lake: Lake, model: Model) -> TrainedSlice:
    """Return the data that the model of a row has learnt from, also through its base models."""
    manifest = read_release(lake, model.release)
    return TrainedSlice(LogSlice.of(manifest), open_trie(lake, manifest).item_ids)


@step
def sequences(run: Run, manifest: Manifest, trie: Trie, base_model: Model | None) -> str:
    """Write the release's log before its cutoff, joined with its SIDs, in user buckets; return the name for them.

    If only news are predicted, it holds users with events that the `base_model` has not learnt from; the others are
    marked.
    """
    news_since = base_model if only_news(run, base_model) else None
    log = LogSlice.of(manifest)
    buckets = sequence_buckets(run.lake, log, run.recipe.sequences)
    # The bucket of a user depends on the number of buckets.
    source = f"{manifest.id}-in-{buckets}" + (f"-since-{news_since.id}" if news_since else "")
    with run.stage("sequences") as view:
        counts = build_sequences(
            run.lake,
            SequencesJob(
                source,
                log,
                trie.item_ids,
                trie.codes(),
                buckets,
                trained_slice(run.lake, news_since) if news_since else None,
                deleted_items(run.lake, manifest.versions["items"], manifest.as_of),
            ),
            run.provenance(**manifest.versions),
        )
        view.count(counts)
        if counts.users_with_one_event:
            users = counts.users_with_one_event
            view.note(f"users with one event: {users:,}", users_with_one_event=users)
    return source


def only_news(run: Run, base_model: Model | None) -> bool:
    """Return whether a training predicts only what its `base_model` has not learnt from."""
    return base_model is not None and not compares(run.recipe.train.objective)


@step
def train_model(run: Run, manifest: Manifest, key: str, source: str, base_model: Model | None) -> str:
    """Train on Ray Train, store weights and card by hash, and record the model."""
    recipe = run.recipe
    buckets = sequence_buckets(run.lake, LogSlice.of(manifest), recipe.sequences)
    generator, settings = _settings(run, manifest, source, buckets, base_model)
    connect(recipe.compute)
    fresh_only = only_news(run, base_model)
    plan = plan_of(source, buckets, manifest.codebook.sizes, generator, settings, fresh_only)
    plan = weighted(plan, settings.half_life_days, manifest.cutoff)
    fit = partial(
        launch,
        storage_path=_storage(run.lake),
        listener=Listener(
            lambda line: run.say(f"    {line}"), run.epochs(Figures(run, key, {"sidmill.release": manifest.id}))
        ),
    )
    start = None
    if base_model is not None:
        start = _weights(run.lake, base_model, manifest.codebook.vocabulary)
    elif settings.align_epochs:
        start = _pretrained_codes(run, manifest, key, generator, settings, fit)
    make = partial(
        generator_training,
        generator,
        plan,
        partial(read_bucket, run.lake, source),
        Origin(manifest.codebook.vocabulary, manifest.id, run.recipe.model_hash, partial(_masks, run.lake, manifest)),
        objective=objective_of(settings),
        start=start,
    )
    with run.stage("train") as view:
        try:
            result = fit(make, settings, key)
        except LossDiverged as error:
            run.record.stage("train", {"diverged_on": error.event_ids})
            raise
        weights = run.lake.blobs.put((result.checkpoint_dir / WEIGHTS).read_bytes())
        record = (result.checkpoint_dir / RECORD).read_bytes()
        by = {"packages": found} if (found := packages_of_model(run.recipe)) else {}
        card = ModelCard(**{**json.loads(record), "record_blob": run.lake.blobs.put(record), **by})
        last = result.history[-1]
        view.note(
            f"{settings.workers} workers, {settings.epochs} epochs, loss {last['loss']:.3f}",
            history=result.history,
            weights=weights,
        )
    trained = TrainedModel(key, manifest.id, manifest.codebook.vocabulary, weights, card)
    model = record_model(run.lake, trained, run.provenance(**manifest.versions))
    forget_training(run.lake, key)
    return model


def _settings(
    run: Run, manifest: Manifest, source: str, buckets: int, base_model: Model | None
) -> tuple[GeneratorSpec, TrainSpec]:
    """Resolve the sections [generator] and [train] for the size of a release; show the resolved "auto" settings.

    A model that starts from a `base_model` has its shape.
    """
    sections = run.recipe.generator, run.recipe.train
    events = (users_of_bucket(run.lake, source, bucket) for bucket in range(buckets))
    windows = sum(int(windows_of(counts, sections[0].max_events).sum()) for counts in events)
    predicted = targets(run.lake, source, sections[1].negative_events, fresh_only=only_news(run, base_model))
    scale = Scale(manifest.items, len(manifest.codebook.sizes), windows, predicted)
    generator, settings = generator_spec(sections[0], scale), train_spec(sections[1], scale)
    if base_model is not None:
        generator = GeneratorSpec.model_validate({"constrained": False, **base_model.card.identity["spec"]})
        if not matches_auto_settings(sections[0], generator):
            raise CheckpointMismatch(
                f"cannot start from {base_model.id}: it has a different [generator] than the recipe; restore that "
                "section of the recipe"
            )
    auto = {**resolved_auto_settings(sections[0], generator), **resolved_auto_settings(sections[1], settings)}
    if auto:
        sized = f"{manifest.items:,} items and {predicted:,} events to predict"
        run.say(f"  for {sized}: " + ", ".join(f"{name} {value}" for name, value in auto.items()))
    return generator, settings


def forget_training(lake: Lake, key: str) -> None:
    """Delete the files that a training needs to resume, once its model is recorded."""
    for name in (key, f"{key}{ALIGN}"):
        forget(name, _storage(lake))


def _storage(lake: Lake) -> str:
    """Return the URI below which Ray Train stores unfinished runs."""
    return f"{lake.uri}/training"


def _masks(lake: Lake, manifest: Manifest) -> TrieMasks:
    return TrieMasks.of(open_trie(lake, manifest))


def similarity_of(lake: Lake, manifest: Manifest, trie: Trie, spec: EvaluateSpec) -> VectorSimilarity | None:
    """Return the similarity of items by the vectors that their SIDs encode; None if the recipe gives it no weight."""
    weight = vector_weight(spec.vector_weight, len(trie))
    if not weight:
        return None
    found = _encoded(lake, manifest)
    rows, vectors = trie.find_rows(found["item_id"].to_arrow()), matrix(found)
    placed = np.zeros((len(trie), vectors.shape[1]), np.float32)
    placed[rows[rows >= 0]] = vectors[rows >= 0]
    return VectorSimilarity.of(placed, weight, spec.vector_decay)


def _encoded(lake: Lake, manifest: Manifest) -> pl.DataFrame:
    """Return (item_id, codes, vector) of the items of a release; the vectors are those that the SIDs encode."""
    rows = segments(lake, list(manifest.assignments), manifest.codebook.id)
    both = rows.join(encoded_vectors(lake, manifest.fusion.fingerprint, rows), on="item_id", maintain_order="left")
    if both.is_empty():
        raise LakeNotFound(f"the vectors that the SIDs of {manifest.id} encode are no longer in the lake")
    return both


def _weights(lake: Lake, base_model: Model, vocabulary: str) -> Arrays:
    """Return the weights of a model."""
    model = load_model(lake, base_model, vocabulary)
    return {name: weight.numpy() for name, weight in model.state_dict().items()}


def _pretrained_codes(
    run: Run, manifest: Manifest, key: str, generator: GeneratorSpec, spec: TrainSpec, fit: Callable[..., TrainResult]
) -> Arrays:
    """Train code embeddings on items and their fused vectors alone, as a separate stage."""
    with run.stage("align") as view:
        both = _encoded(run.lake, manifest)
        items = CodePretraining(
            generator,
            manifest.codebook.sizes,
            np.array(both["codes"].to_list(), np.int32),
            matrix(both),
            spec.batch_size,
            spec.seed,
        )
        alone = spec.model_copy(update={"epochs": spec.align_epochs, "checkpoint_steps": 0, "sharding": False})
        result = fit(partial(copy, items), alone, f"{key}{ALIGN}", label="align")
        view.note(f"{both.height:,} items, loss {result.history[-1]['loss']:.3f}", history=result.history)
    return pretrained(result.checkpoint_dir)
