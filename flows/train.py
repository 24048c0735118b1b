"""Train: a generator on a release's log and SIDs, evaluated on what came after its cutoff, bound to that release."""

import hashlib
import json
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import flow

from flows.cancellation import report_cancelled
from flows.diff import open_trie
from flows.evaluation import evaluation_cases
from flows.recipe import Recipe
from flows.run import Run, open_run
from flows.steps.fit import log_slice
from flows.steps.publish import publish
from flows.steps.task import step
from pipelines.compute import connect
from pipelines.sequences import bucket_count, build_sequences, read_bucket
from storage.lake import Lake
from storage.manifest import Manifest
from storage.models import find_model_by_key, read_model, record_evaluation, record_model
from storage.releases import PRODUCTION, published, read_release
from tokenizer.spec import CodebookSpec
from tokenizer.trie import Trie


class NothingToTrainOn(ValueError):
    """The log of a release holds no event that a model could learn from."""


@flow(name="train", log_prints=False, on_crashed=[report_cancelled])
def train(
    lake: str, recipe: str | dict[str, Any] | None = None, release: str = PRODUCTION, since: str | None = None
) -> dict[str, Any]:
    """Sequences, training on Ray Train, evaluation; production then points to the pair (release, model).

    Skipped where a model of this release and recipe exists. Without a recipe the release's own is used. With a model to
    go on from (`since`) training starts with its weights and predicts the events that it has not learnt from.
    """
    manifest = read_release(Lake(lake), release)
    if not CodebookSpec.model_validate(manifest.recipe["codebook"]).ordered:
        raise NothingToTrainOn(
            f"the codes of {manifest.id} have no order ({manifest.recipe['codebook']['quantizer']}), so no trie "
            "to generate from; train on a release with another codebook.quantizer"
        )
    with open_run("train", lake, recipe or manifest.recipe, {"release": manifest.id}) as run:
        former = read_model(run.lake, since) if since else None
        key = model_key(manifest, run.recipe) + (f"-since-{since}" if since else "")
        model = find_model_by_key(run.lake, key)
        if model is None:
            run.record.begin()
            trie = open_trie(run.lake, manifest)
            source = sequences(run, manifest, trie, former)
            model = train_model(run, manifest, key, source, former)
        else:
            run.say(f"  skipped: {model} was trained on {manifest.id} with this recipe already")
        evaluate_model(run, manifest, model)
        _publish_pair(run, manifest, model)
        return run.done(model=model, release=manifest.id)


@flow(name="evaluate", log_prints=False, on_crashed=[report_cancelled])
def evaluate(lake: str, model: str, recipe: str | dict[str, Any] | None = None) -> dict[str, Any]:
    """Evaluate a model on the log as it is now, on the release it was trained on."""
    row = read_model(Lake(lake), model)
    manifest = read_release(Lake(lake), row["release"])
    with open_run("evaluate", lake, recipe or manifest.recipe, {"model": model}) as run:
        result = evaluate_model(run, manifest, model)
        return run.done(model=model, evaluated=result is not None)


def _publish_pair(run: Run, manifest: Manifest, model: str) -> None:
    """Production keeps its release and gets the model, if the model speaks its vocabulary and is newer.

    Otherwise the command that would publish the pair is named.
    """
    current = published(run.lake)
    if current is None or current.model == model:
        return
    pinned = read_release(run.lake, current.release)
    if pinned.codebook.vocabulary == manifest.codebook.vocabulary and (current.model is None or model > current.model):
        run.record.begin()
        publish(run, pinned, model)
    else:
        run.say(
            f"  {model} is not published: production is ({current.release}, {current.model or 'no model'}); "
            f"`sidmill release publish {manifest.id} --model {model}` publishes it with its release"
        )


def model_key(manifest: Manifest, recipe: Recipe) -> str:
    """What makes two models the same: the release and the sections of the recipe that shape a model."""
    sections = recipe.model_dump(mode="json", include={"sequences", "generator", "train"})
    digest = hashlib.blake2b(json.dumps(sections, sort_keys=True).encode(), digest_size=8).hexdigest()
    return f"{manifest.id}-{manifest.codebook.vocabulary}-{digest}"


@step
def sequences(run: Run, manifest: Manifest, trie: Trie, former: dict[str, Any] | None) -> str:
    """The release's log before its cutoff, joined with its SIDs, in user buckets; returns the name they are under.

    What the `former` model has learnt from is marked.
    """
    log = log_slice(manifest)
    learnt = log_slice(read_release(run.lake, former["release"])) if former else None
    source = f"{manifest.id}-since-{former['id']}" if former else manifest.id
    with run.stage("sequences") as view:
        counts = build_sequences(
            run.lake,
            source,
            log,
            trie.item_ids,
            trie.codes(),
            bucket_count(run.lake, log, run.recipe.sequences),
            run.provenance(**manifest.versions),
            learnt,
        )
        view.count(counts)
    if counts.out + counts.unchanged == 0:
        raise NothingToTrainOn(
            f"{manifest.id} sees no event of its items before its cutoff {manifest.cutoff.isoformat()}: there is "
            "nothing to train on. `sidmill run nightly --interactions FILE` makes a release with a log."
        )
    return source


@step
def train_model(run: Run, manifest: Manifest, key: str, source: str, former: dict[str, Any] | None) -> str:
    """Train on Ray Train, store weights and card by hash, record the model."""
    import ray

    from training.checkpoint import RECORD, WEIGHTS
    from training.launch import launch
    from training.next_code import NextCode, plan_of
    from training.objectives import objective_of

    recipe = run.recipe
    connect(recipe.compute)
    gpus = ray.cluster_resources().get("GPU", 0)
    plan = plan_of(
        source,
        bucket_count(run.lake, log_slice(manifest), recipe.sequences),
        manifest.codebook.sizes,
        recipe.generator,
        recipe.train,
        fresh_only=former is not None,
    )
    fit = partial(
        launch,
        storage_path=f"{run.lake.uri}/training",
        use_gpu=gpus >= recipe.train.workers,
        progress=lambda line: run.say(f"    {line}"),
    )
    start = None
    if former is not None:
        start = load_arrays(former_model(run, former, manifest))
    elif recipe.train.align_epochs:
        start = _aligned(run, manifest, key, fit)
    make = partial(
        NextCode,
        recipe.generator,
        plan,
        partial(read_bucket, run.lake, source),
        manifest.codebook.vocabulary,
        manifest.id,
        run.recipe.hash,
        objective_of(recipe.train),
        start,
    )
    with run.stage("train", recipe.train.epochs) as view:
        result = fit(make, recipe.train, key)
        weights = run.lake.blobs.put((result.checkpoint_dir / WEIGHTS).read_bytes())
        card = json.loads((result.checkpoint_dir / RECORD).read_text())
        card["record_blob"] = run.lake.blobs.put((result.checkpoint_dir / RECORD).read_bytes())
        last = result.history[-1]
        view.note(
            f"{recipe.train.workers} workers, {recipe.train.epochs} epochs, loss {last['loss']:.3f}",
            history=result.history,
            weights=weights,
        )
    return record_model(
        run.lake, key, manifest.id, manifest.codebook.vocabulary, weights, card, run.provenance(**manifest.versions)
    )


def _aligned(run: Run, manifest: Manifest, key: str, fit: Callable[..., TrainResult]) -> Arrays:
    """The embeddings of codes that items and their fused vectors alone teach, as a stage of its own."""
    spec = run.recipe.train
    rows = segments(run.lake, list(manifest.assignments), manifest.codebook.id)
    pairs = rows.select("item_id", content_hash="vector_hash")
    with run.stage("align", spec.align_epochs) as view:
        vectors = read_vectors(run.lake, FUSED, manifest.fusion.fingerprint, pairs)
        if vectors is None:
            raise LakeNotFound(f"{manifest.id}: the vectors that its SIDs encode are not in the lake any more")
        codes = np.array(rows["codes"].to_list(), np.int32)[vectors.present]
        items = ItemAlignment(
            run.recipe.generator,
            manifest.codebook.sizes,
            codes,
            vectors.vectors[vectors.present],
            spec.batch_size,
            spec.seed,
        )
        alone = spec.model_copy(update={"epochs": spec.align_epochs, "checkpoint_steps": 0, "sharding": False})
        result = fit(partial(_same, items), alone, f"{key}-align")
        view.note(f"{len(codes):,} items, loss {result.history[-1]['loss']:.3f}", history=result.history)
    return aligned(load_file(result.checkpoint_dir / WEIGHTS))


@step
def evaluate_model(run: Run, manifest: Manifest, model: str) -> dict[str, Any] | None:
    """Evaluate on the events after the release's cutoff that the lake has by now; once per state of the log."""
    from training.checkpoint import RECORD, WEIGHTS, load_generator
    from training.evaluate import evaluate

    version = run.lake.version("interactions")
    key = f"{model}:{manifest.id}:{version}:{json.dumps(run.recipe.evaluate.model_dump(mode='json'), sort_keys=True)}"
    key = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    if run.lake.exists("evaluations") and run.lake.open("evaluations").transaction_version(f"evaluation:{key}"):
        run.say(f"  evaluation skipped: {model} was evaluated on this log already")
        return None
    trie = open_trie(run.lake, manifest)
    held_out = evaluation_cases(run.lake, manifest, trie, version, run.recipe.train.negative_events)
    if held_out is None:
        run.say(f"  not evaluated: the log holds no event at or after the cutoff {manifest.cutoff.isoformat()}")
        return None
    run.record.begin()
    cases, popularity = held_out
    row = read_model(run.lake, model)
    with run.stage("evaluate") as view, TemporaryDirectory() as folder:
        (Path(folder) / WEIGHTS).write_bytes(run.lake.blobs.get(row["weights"]))
        (Path(folder) / RECORD).write_bytes(run.lake.blobs.get(row["card"]["record_blob"]))
        generator, _ = load_generator(Path(folder), manifest.codebook.vocabulary)
        result = evaluate(generator, trie, cases, popularity, run.recipe.evaluate)
        result["protocol"] = (
            "per user with events at or after the cutoff: the last of them is the target, all before it the context; "
            f"full ranking over {len(trie)} items, interactions version {version}"
        )
        view.note(f"{len(cases):,} users", **{name: result[name] for name in ("cases", "targets_missing")})
    record_evaluation(run.lake, key, model, manifest.id, result, run.provenance(interactions=version))
    for ranker in ("generator", "popularity"):
        run.say(f"    {ranker:<11} {figures(result[ranker])}")
    return result


def figures(row: dict[str, Any]) -> str:
    """recall and ndcg at each k, in one line."""
    shown = [name for name in row if "@" in name and not name.endswith("_interval") and not name.startswith("hits")]
    return "  ".join(f"{name} {row[name]:.4f}" for name in shown)
