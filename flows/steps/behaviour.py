"""Behaviour: factors fitted with a codebook, vectors folded in on them, and pairs of co-consumed items."""

from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from flows.runtime.progress import StageView
from flows.runtime.run import Run
from flows.snapshot import Snapshot, added_events
from flows.steps.trainer import ray_trainer, trainer_in_process
from learning.threads import one_thread
from pipelines.collaborative.factors_file import BLOB, read_factors, store_factors
from pipelines.collaborative.log_fit import fit_log
from pipelines.collaborative.newest_pairs import NewestPairs
from pipelines.collaborative.sequence_model import Collaborative, Train, fit_collaborative
from pipelines.collaborative.sppmi import Factors, beside, describe_collaborative
from pipelines.compute.executors import OnRay
from pipelines.embed.protocol import fingerprint
from pipelines.event_log.behaviour_log import BehaviourLog, LogItems, behaviour_log
from pipelines.event_log.visible_log import COLUMNS, LogSlice, histories
from pipelines.fusion.fuse import Gathered, placed
from pipelines.modalities import COLLABORATIVE, Modality, ScratchModality, StoredModality
from pipelines.registry import fusion_method_of
from pipelines.spec import CollaborativeSpec, FusionSpec, collaborative_spec
from pipelines.vector_store import store_vectors, stored_under
from storage.lake import Lake
from storage.releases.manifest import EncoderRef, Manifest
from tokenizer.arrays.id_rows import IdRows
from tokenizer.arrays.vectors import spans


def fit_behaviour(run: Run, snapshot: Snapshot) -> tuple[dict[str, EncoderRef], NewestPairs | None]:
    """Fit collaborative vectors on the visible log and store them; return also what a fusion that learns is trained on.

    The reference holds the factors and the log slices that vectors on them were made from, oldest first.
    """
    section, log = run.recipe.collaborative, snapshot.log
    if section is None or log.version < 0:
        return {}, None
    items = LogItems.of(run.lake, log, section)
    events = items.events
    spec = collaborative_spec(section, events, len(items.ids))
    if section.method == "auto":
        run.say(f"  collaborative.method {spec.method}, for {events:,} events of {len(items.ids):,} items")
    with run.stage("behaviour") as view:
        if spec.trains_sasrec:
            return _with_sequence_model(run, view, log, spec)
        behaviour = behaviour_log(run.lake, log, items, spec)
        del items
        return _factorised(run, view, log, behaviour, spec)


def _factorised(
    run: Run, view: StageView, log: LogSlice, behaviour: AbstractContextManager[BehaviourLog], spec: CollaborativeSpec
) -> tuple[dict[str, EncoderRef], NewestPairs | None]:
    """Fit a factorisation on a log of any size, here: its memory does not grow with the events."""
    before = f"the log before {log.cutoff:%Y-%m-%d}"
    with one_thread(), behaviour as taken:
        fit = fit_log(taken, spec)
        if fit is None:
            view.note(f"0 items in {before}; in process")
            return {}, None
        reference, rows = _reference(run, log, fit.factors), 0
        for vectors in fit.vectors():
            _store(run, reference, vectors)
            rows += vectors.height
        if fit.factors.spec.fit_items is None:
            view.note(f"{rows:,} items in {before}; in process")
        else:
            fitted, events, pairs = len(fit.factors.names), fit.events_covered, fit.pairs_covered
            view.note(
                f"{rows:,} of {len(taken.items):,} items in {before} have a vector; fitted on the {fitted:,} most "
                f"frequent, with {events:.1%} of the events and {pairs:.1%} of the pairs; in process",
                fit_items=fitted,
                fit_events=events,
                fit_pairs=pairs,
            )
        return {COLLABORATIVE: reference}, NewestPairs.of(fit, run.recipe.fusion) if _learns(run) else None


def _with_sequence_model(
    run: Run, view: StageView, log: LogSlice, spec: CollaborativeSpec
) -> tuple[dict[str, EncoderRef], NewestPairs | None]:
    """Fit with a sequence model: in one task, or here on workers of Ray Train if the recipe asks for several."""
    from training.sasrec.item_embeddings import item_embeddings_of

    sasrec, fusion = run.recipe.sasrec, run.recipe.fusion if _learns(run) else None
    if sasrec.workers == 1 or not isinstance(run.compute, OnRay):
        train = partial(item_embeddings_of, spec=sasrec, train=trainer_in_process(run))
        made, newest = run.compute.run(_fitted, run.lake, log, spec, fusion, train)
    else:
        with one_thread():
            train = partial(item_embeddings_of, spec=sasrec, train=ray_trainer(run))
            made, newest = _fitted(run.lake, log, spec, fusion, train)
    rows = 0 if made is None else made.vectors.height
    view.note(f"{rows:,} items in the log before {log.cutoff:%Y-%m-%d}; {run.compute.name}")
    if spec.has_both_parts and spec.weighted:
        view.note(f"{spec.weighted} apply only to the PMI; the SASRec weighs all events equally")
    if made is None or not rows:
        return {}, None
    reference = _reference(run, log, made.factors)
    _store(run, reference, made.vectors)
    return {COLLABORATIVE: reference}, newest


def _learns(run: Run) -> bool:
    return fusion_method_of(run.recipe.fusion.method).correction is not None


def _reference(run: Run, log: LogSlice, factors: Factors) -> EncoderRef:
    """Store factors, and return the reference to the vectors of a log on them."""
    details = describe_collaborative(factors.spec)
    if factors.spec.trains_sasrec:
        details["sasrec"] = run.recipe.sasrec.model_dump(mode="json", exclude={"workers"})
    stored = store_factors(run.lake.blobs, factors)
    made_from = f"{log.content_hash}/on/{stored[BLOB][:16]}"
    return EncoderRef(fingerprint=fingerprint(details), details={**details, **stored, "slices": [made_from]})


def fold_new(
    run: Run, snapshot: Snapshot, parent: Manifest, encoders: dict[str, EncoderRef], items: list[str]
) -> dict[str, EncoderRef]:
    """Fold in collaborative vectors of a night's new `items` on the frozen factors; return the night's encoders.

    The vectors are made from the events that became visible since the parent, so the cost of a night grows with the new
    data. An item that has a vector or a SID gets no other.
    """
    reference = encoders.get(COLLABORATIVE)
    if reference is None:
        return encoders
    fresh = sorted(set(items) - set(behaviour_pairs(run.lake, reference, pl.Series(items, dtype=pl.String))["item_id"]))
    if not fresh:
        return encoders
    events = added_events(run.lake, parent, snapshot, COLUMNS).filter(pl.col("event_time") < snapshot.cutoff)
    settings = {name: reference.details[name] for name in CollaborativeSpec.model_fields if name in reference.details}
    spec = CollaborativeSpec.model_validate(settings)
    seen = histories(events, spec.model_copy(update={"min_events": 1}))
    often = dict(zip(seen.names, np.bincount(seen.item, minlength=len(seen.names)).tolist(), strict=True))
    enough = [item for item in fresh if often.get(item, 0) >= spec.min_events]
    text = (
        f"{len(enough):,} of {len(fresh):,} new items have behaviour before the cutoff "
        f"{snapshot.cutoff:%Y-%m-%d %H:%M} UTC"
    )
    if spec.min_events > 1:
        text += f" (collaborative.min_events = {spec.min_events})"
    if not enough:
        run.say(f"  {text}: no vector of behaviour is folded in")
        return encoders
    with run.stage("behaviour") as view:
        factors = read_factors(run.lake.blobs, reference.details, beside(seen, enough, spec.window))
        vectors = factors.fold(seen).filter(pl.col("item_id").is_in(enough))
        view.note(f"{text}, {vectors.height:,} folded in")
        if vectors.is_empty():
            return encoders
        since = f"interactions@{parent.versions['interactions']}+"
        made_from = f"{since}{snapshot.log.content_hash}/on/{reference.details[BLOB][:16]}"
        slices = [*reference.details["slices"], made_from]
        reference = reference.model_copy(update={"details": {**reference.details, "slices": slices}})
        _store(run, reference, vectors)
    return {**encoders, COLLABORATIVE: reference}


def behaviour_pairs(lake: Lake, reference: EncoderRef, items: pl.Series) -> pl.DataFrame:
    """Return (item_id, content_hash) of the collaborative vectors of some items from the slices of a release."""
    under = stored_under(lake, COLLABORATIVE, reference.fingerprint, reference.details["slices"], items)
    pairs = pl.DataFrame({"item_id": items, "content_hash": under})
    return pairs if not under.null_count() else pairs.drop_nulls("content_hash")


def training_input(gathered: Gathered, newest: NewestPairs) -> tuple[dict[str, StoredModality], NDArray[np.int64]]:
    """Return the modalities that a fusion is trained on, and the pairs of rows of these.

    The rows are those of the items gathered, or of a sample of the pairs. Behaviour is that before the pairs.
    """
    place = IdRows(gathered.items["item_id"].to_arrow().cast(pa.large_string())).find(newest.items)
    there = np.flatnonzero(place >= 0)
    items, local = gathered.modalities, place
    if newest.one_in > 1:
        items = {name: each.only(place[there]) for name, each in items.items()}
        local[there] = np.arange(len(there))
    before = ScratchModality.absent(len(next(iter(items.values()))), newest.before.width)
    ascending = there[np.argsort(local[there], kind="stable")]
    for start, stop in spans(len(ascending)):
        some = newest.before.take(ascending[start:stop])
        before.fill(local[ascending[start:stop]][some.present], some.vectors[some.present])
    pairs = local[newest.pairs]
    return {**items, COLLABORATIVE: before}, np.asarray(pairs[(pairs >= 0).all(axis=1)])


def _fitted(
    lake: Lake, log: LogSlice, spec: CollaborativeSpec, fusion: FusionSpec | None, train: Train
) -> tuple[Collaborative | None, NewestPairs | None]:
    """Fit on the visible events in memory, and for a fusion that learns also on those before the newest of them."""
    seen = histories(log.read(lake, COLUMNS), spec)
    since = None if fusion is None else seen.newest(fusion.recent)
    made = fit_collaborative(seen, spec, since, train)
    if made is None or made.vectors.is_empty() or fusion is None or since is None:
        return made, None
    width = len(made.vectors["vector"][0])
    before = Modality(np.zeros((len(seen.names), width), np.float32), np.zeros(len(seen.names), np.bool_))
    if made.before.height:
        before = placed(pl.DataFrame({"item_id": seen.names}), made.before)
    return made, NewestPairs(pa.array(seen.names, pa.large_string()), seen.pairs(fusion.pair_window, since), before)


def _store(run: Run, reference: EncoderRef, vectors: pl.DataFrame) -> None:
    """Store vectors under the newest slice of a reference."""
    tagged = vectors.with_columns(
        content_hash=pl.lit(reference.details["slices"][-1]),
        modality=pl.lit(COLLABORATIVE),
        fingerprint=pl.lit(reference.fingerprint),
    )
    store_vectors(run.lake, tagged, run.provenance())
