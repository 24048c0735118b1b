"""Behaviour: factors fitted with a codebook, vectors folded in on them, and pairs of co-consumed items."""

from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flows.runtime.run import Run
from flows.snapshot import Snapshot, added_events
from flows.steps.trainer import ray_trainer
from learning.threads import one_thread
from pipelines.collaborative.factors_file import BLOB, read_factors, store_factors
from pipelines.collaborative.sequence_model import Collaborative, Train, fit_collaborative
from pipelines.collaborative.sppmi import beside, describe_collaborative
from pipelines.compute.executors import OnRay
from pipelines.embed.protocol import fingerprint
from pipelines.event_log.visible_log import COLUMNS, Histories, LogSlice, histories
from pipelines.fusion.fuse import placed
from pipelines.modalities import COLLABORATIVE, Modality
from pipelines.spec import CollaborativeSpec, FusionSpec, collaborative_spec
from pipelines.vector_store import cached, store_vectors
from storage.lake import Lake
from storage.releases.manifest import EncoderRef, Manifest


def fit_behaviour(run: Run, snapshot: Snapshot) -> tuple[dict[str, EncoderRef], Collaborative | None]:
    """Fit collaborative vectors on the visible log, and the factors on which later items are folded in.

    The reference holds the factors and the log slices that vectors on them were made from, oldest first.
    """
    section, log = run.recipe.collaborative, snapshot.log
    if section is None or log.version < 0:
        return {}, None
    taken = log.read(run.lake, ["item_id"])["item_id"]
    spec = collaborative_spec(section, len(taken), taken.n_unique())
    if section.method == "auto":
        run.say(f"  collaborative.method {spec.method}, for {len(taken):,} events of {taken.n_unique():,} items")
    details = describe_collaborative(spec)
    if spec.method != "sppmi":
        details["sasrec"] = run.recipe.sasrec.model_dump(mode="json", exclude={"workers"})
    with run.stage("behaviour") as view:
        made = _fit_in_task_or_on_workers(run, log, spec)
        rows = 0 if made is None else made.vectors.height
        view.note(f"{rows:,} items in the log before {log.cutoff:%Y-%m-%d}; {run.compute.name}")
        if spec.method == "both" and spec.weighted:
            view.note(f"{spec.weighted} apply only to the PMI; the SASRec weighs all events equally")
        if made is None or not rows:
            return {}, None
        stored = store_factors(run.lake.blobs, made.factors)
        made_from = f"{log.content_hash}/on/{stored[BLOB][:16]}"
        reference = EncoderRef(fingerprint=fingerprint(details), details={**details, **stored, "slices": [made_from]})
        _store(run, reference, made_from, made.vectors)
    return {COLLABORATIVE: reference}, made


def _fit_in_task_or_on_workers(run: Run, log: LogSlice, spec: CollaborativeSpec) -> Collaborative | None:
    """Fit in one task, or here on several workers of Ray Train if the run is on Ray and the recipe asks for them."""
    tower, fusion = run.recipe.sasrec, run.recipe.fusion
    if spec.method == "sppmi":
        return run.compute.run(_fitted, run.lake, log, spec, fusion)
    from training.sasrec.item_embeddings import item_embeddings_of

    if tower.workers == 1 or not isinstance(run.compute, OnRay):
        return run.compute.run(_fitted, run.lake, log, spec, fusion, partial(item_embeddings_of, spec=tower))
    with one_thread():
        return _fitted(run.lake, log, spec, fusion, partial(item_embeddings_of, spec=tower, train=ray_trainer(run)))


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
        _store(run, reference, made_from, vectors)
    slices = [*reference.details["slices"], made_from]
    return {
        **encoders,
        COLLABORATIVE: reference.model_copy(update={"details": {**reference.details, "slices": slices}}),
    }


def behaviour_pairs(lake: Lake, reference: EncoderRef, items: pl.Series) -> pl.DataFrame:
    """Return (item_id, content_hash) of the collaborative vectors of some items from the slices of a release."""
    pairs = cached(lake, COLLABORATIVE, reference.fingerprint, items)
    return pairs.filter(pl.col("content_hash").is_in(reference.details["slices"])).unique("item_id", keep="any")


def co_consumed_pairs(
    lake: Lake, log: LogSlice, made: Collaborative, items: pl.DataFrame, spec: FusionSpec
) -> tuple[NDArray[np.int64], dict[str, Modality]]:
    """Return pairs of rows of `items` co-consumed in the newest visible events, and the vectors before those events."""
    seen = histories(log.read(lake, COLUMNS), made.factors.spec)
    width = len(made.vectors["vector"][0])
    before = Modality(np.zeros((items.height, width), np.float32), np.zeros(items.height, np.bool_))
    if made.before.height:
        before = placed(items, made.before)
    return _rows_of(seen, items, seen.pairs(spec.pair_window, seen.newest(spec.recent))), {COLLABORATIVE: before}


def _fitted(
    lake: Lake, log: LogSlice, spec: CollaborativeSpec, fusion: FusionSpec, train: Train | None = None
) -> Collaborative | None:
    """Fit on the visible events; also make vectors before the newest of them if the fusion learns from those."""
    seen = histories(log.read(lake, COLUMNS), spec)
    return fit_collaborative(seen, spec, None if fusion.method == "concat" else seen.newest(fusion.recent), train)


def _store(run: Run, reference: EncoderRef, made_from: str, vectors: pl.DataFrame) -> None:
    """Store vectors under the slice they were made from, unless an earlier attempt did."""
    there = cached(run.lake, COLLABORATIVE, reference.fingerprint, vectors["item_id"])
    if there.filter(content_hash=made_from).is_empty():
        tagged = vectors.with_columns(
            content_hash=pl.lit(made_from),
            modality=pl.lit(COLLABORATIVE),
            fingerprint=pl.lit(reference.fingerprint),
        )
        store_vectors(run.lake, tagged, run.provenance())


def _rows_of(seen: Histories, items: pl.DataFrame, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the pairs whose two items are among `items`, as rows of `items`."""
    names = pl.Series(seen.names, dtype=pl.String).to_frame("item_id")
    found = names.join(items.select("item_id").with_row_index("row"), on="item_id", how="left", maintain_order="left")
    rows = found["row"].cast(pl.Int64).fill_null(-1).to_numpy()[pairs]
    return np.asarray(rows[(rows >= 0).all(axis=1)])
