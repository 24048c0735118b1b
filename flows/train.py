"""Train: a generator for one release, trained on its log and SIDs, and evaluated on events after its cutoff."""

import hashlib
import json
from dataclasses import replace
from typing import Any

from prefect import flow

from flows.inspect.evaluation_tables import headline, rankers, verdicts
from flows.recipe import Recipe
from flows.runtime.cancellation import report_cancelled
from flows.runtime.run import Run, open_run
from flows.runtime.tracking import Figures
from flows.steps.held_out import evaluation_cases
from flows.steps.publish import publish_model
from flows.steps.task import step
from pipelines.event_log.user_buckets import users_with_fresh_events
from pipelines.event_log.visible_log import LogSlice
from pipelines.sequences import targets
from sidmill.release import open_trie
from storage.lake import Lake
from storage.releases.manifest import Manifest
from storage.releases.models import (
    Model,
    evaluations,
    find_model_by_key,
    production_model,
    read_model,
    record_evaluation,
)
from storage.releases.releases import PRODUCTION, published, read_release
from tokenizer.spec import CodebookSpec
from training.auto_settings import matches_auto_settings
from training.errors import HeldOutEventsSeen, NoReference, NothingToTrainOn, VocabularyMismatch
from training.evaluation.cases import HeldOutEvents
from training.spec import GeneratorSpec


@flow(name="train", log_prints=False, on_crashed=[report_cancelled])
def train(
    lake: str,
    recipe: str | dict[str, Any] | None = None,
    release: str = PRODUCTION,
    since: str | None = None,
    overrides: list[str] | None = None,
) -> dict[str, Any]:
    """Build sequences, train on Ray Train and evaluate; then production, with its release kept, gets the model.

    A model that is worse than a baseline is not published (`flows.gates.model_gate`). `overrides` of the recipe apply
    to this run.

    Training is skipped if a model of this release and recipe exists. Without a recipe, the release's is used. With a
    base model (`since`, or production's if the recipe says so), training starts from its weights and predicts only
    events that it has not learnt from.

    Args:
        lake: Folder or object-store address of the lake.
        recipe: A recipe: a TOML file, a name such as `demo`, or its sections as an object. Default: the release's.
        release: Release id or alias to train on.
        since: Model to go on from, such as m-000001. Default: none, or production's with train.since_production.
        overrides: Settings for this run alone, each SECTION.FIELD=VALUE, such as train.epochs=4.
    """
    from flows.steps.training import forget_training

    manifest = read_release(Lake(lake), release)
    if not CodebookSpec.model_validate(manifest.recipe["codebook"]).ordered:
        raise NothingToTrainOn(
            f"cannot train on {manifest.id}: the codes of its quantizer {manifest.recipe['codebook']['quantizer']} "
            "have no order, so there is no trie to generate from; train on a release with another codebook.quantizer"
        )
    named = read_model(Lake(lake), since) if since else None
    if named is not None:
        _require_fit(
            Lake(lake), manifest, named, "run without --since, or train on a release whose cutoff is no earlier"
        )
    parameters = {"release": manifest.id, "since": since, "overrides": overrides}
    with open_run("train", lake, recipe or manifest.recipe, parameters) as run:
        base_model = named or resumable_production_model(run, manifest)
        key = model_key(manifest, run.recipe) + (f"-since-{base_model.id}" if base_model else "")
        model = find_model_by_key(run.lake, key)
        if model is not None:
            run.say(f"  skipped: {model} was trained on {manifest.id} with this recipe already")
            forget_training(run.lake, key)  # a killed run may have left its checkpoints
        else:
            model = _trained(run, manifest, key, base_model, required=since is not None)
        evaluate_model(run, manifest, model)
        published_now = publish_model(run, manifest, model)
        return run.done(model=model, release=manifest.id, published=published_now)


@flow(name="evaluate", log_prints=False, on_crashed=[report_cancelled])
def evaluate(
    lake: str, model: str = PRODUCTION, recipe: str | dict[str, Any] | None = None, release: str | None = None
) -> dict[str, Any]:
    """Evaluate a model on the current log; `evaluation` is the key of the stored row.

    The model is evaluated on the release it was trained on, or on another one with its vocabulary. Two models that are
    evaluated on the same release and log are comparable.

    Args:
        lake: Folder or object-store address of the lake.
        model: Model id, such as m-000001, or `production` for the model that it serves.
        recipe: A recipe: a TOML file, a name such as `demo`, or its sections as an object. Default: the release's.
        release: Release id or alias to evaluate on. Default: the one that the model was trained on.
    """
    if model == PRODUCTION:
        model = production_model(Lake(lake))
    row = read_model(Lake(lake), model)
    manifest = read_release(Lake(lake), release or row.release)
    _require_fit(Lake(lake), manifest, row, "evaluate it on a release whose cutoff is no earlier")
    with open_run("evaluate", lake, recipe or manifest.recipe, {"model": model, "release": manifest.id}) as run:
        return run.done(model=model, evaluation=evaluate_model(run, manifest, model))


def _trained(run: Run, manifest: Manifest, key: str, base_model: Model | None, required: bool) -> str:
    """Train and return the model's id, or that of `base_model` if it has nothing new to learn and is not `required`.

    Raise NothingToTrainOn if there is nothing to learn otherwise.
    """
    from flows.steps.training import only_news, sequences, train_model

    _require_reference(run, base_model)
    nothing_new = base_model and f"{base_model.id} has learnt from all events that {manifest.id} can train on"
    news = only_news(run, base_model)
    if base_model and news and not required and not _news(run.lake, manifest, base_model):
        run.say(f"  skipped: {nothing_new}")
        return base_model.id
    run.begin()
    run.compute.prepare()
    source = sequences(run, manifest, open_trie(run.lake, manifest), base_model)
    negative = run.recipe.train.negative_events
    if targets(run.lake, source, negative, fresh_only=news):
        return train_model(run, manifest, key, source, base_model)
    if base_model and not required:
        run.say(f"  skipped: {nothing_new}")
        return base_model.id
    if base_model:
        raise NothingToTrainOn(f"{nothing_new}: run without --since")
    raise NothingToTrainOn(
        f"there is nothing to train on: {manifest.id} has no event of its items before its cutoff "
        f"{manifest.cutoff.isoformat()} that can be a target (impressions and events of the types in "
        f"train.negative_events, {', '.join(negative) or 'none'}, are only context). Make a release with a log by "
        "`sidmill run nightly --interactions FILE`."
    )


def _require_reference(run: Run, base_model: Model | None) -> None:
    """Raise NoReference if the recipe's objective compares with a model to start from, and there is none."""
    from training.objectives.losses import compares

    named = run.recipe.train.objective
    if base_model is None and compares(named):
        raise NoReference(
            f"train.objective = {named!r} compares with the model that the training starts from: train one with "
            "another objective first, then add `--since MODEL`, or set train.since_production"
        )


def _require_fit(lake: Lake, manifest: Manifest, row: Model, remedy: str) -> None:
    """Raise VocabularyMismatch if a model has another vocabulary than a release.

    Raise HeldOutEventsSeen if it has learnt from events that the release holds out.
    """
    if row.vocabulary != manifest.codebook.vocabulary:
        raise VocabularyMismatch(row.id, row.vocabulary, manifest.codebook.vocabulary)
    cutoff = read_release(lake, row.release).cutoff
    if cutoff > manifest.cutoff:
        raise HeldOutEventsSeen(
            f"{row.id} has learnt from events before {cutoff.isoformat()}, but {manifest.id} holds out events from "
            f"{manifest.cutoff.isoformat()} on, so it would be evaluated on events that it knows: {remedy}"
        )


def resumable_production_model(run: Run, manifest: Manifest) -> Model | None:
    """Return the row of production's model if `train.since_production` is set and training can start from it.

    It must have the release's vocabulary and the recipe's shape, and have learnt from no event that the release holds
    out. Else return None.
    """
    current = published(run.lake)
    if not run.recipe.train.since_production or current is None or current.model is None:
        return None
    row = read_model(run.lake, current.model)
    spec = GeneratorSpec.model_validate({"constrained": False, **row.card.identity["spec"]})
    speaks = row.vocabulary == manifest.codebook.vocabulary
    before = read_release(run.lake, row.release).cutoff <= manifest.cutoff
    return row if speaks and before and matches_auto_settings(run.recipe.generator, spec) else None


def _news(lake: Lake, manifest: Manifest, base_model: Model) -> bool:
    """Return whether a release may see an event that a model has not learnt from."""
    from flows.steps.training import trained_slice

    items = open_trie(lake, manifest).item_ids
    return len(users_with_fresh_events(lake, LogSlice.of(manifest), items, trained_slice(lake, base_model))) > 0


def model_key(manifest: Manifest, recipe: Recipe) -> str:
    """Return the idempotency key of a model: its release, vocabulary, and the settings that determine it."""
    return f"{manifest.id}-{manifest.codebook.vocabulary}-{recipe.model_hash}"


def _rival(run: Run, manifest: Manifest, model: str) -> Model | None:
    """Return the model in production, if it speaks a release's vocabulary and has learnt nothing that it holds out."""
    current = published(run.lake)
    if current is None or current.model in (None, model):
        return None
    row = read_model(run.lake, current.model)
    if row.vocabulary != manifest.codebook.vocabulary or read_release(run.lake, row.release).cutoff > manifest.cutoff:
        return None
    return row if "spec" in row.card.identity else None


@step
def evaluate_model(run: Run, manifest: Manifest, model: str) -> str | None:
    """Evaluate a model on all current events at or after the release's cutoff, once per version of the log.

    Return the key of the evaluation in the lake; None if the log holds nothing to evaluate on.
    """
    from flows.steps.training import similarity_of
    from sidmill.release import load_model
    from training.evaluation.evaluate import Contender, TrainEvents, evaluate

    version = run.lake.version("interactions")
    negative = run.recipe.train.negative_events
    # "paired": evaluations made before generators were compared with baselines are repeated.
    rival = _rival(run, manifest, model)
    beside = [rival.id] if rival else []
    settings = json.dumps([run.recipe.evaluate.model_dump(mode="json"), negative, "paired", *beside], sort_keys=True)
    key = hashlib.blake2b(f"{model}:{manifest.id}:{version}:{settings}".encode(), digest_size=8).hexdigest()
    if evaluations(run.lake, key):
        run.say(f"  evaluation skipped: {model} was evaluated on this log already")
        return key
    trie = open_trie(run.lake, manifest)
    row = read_model(run.lake, model)
    spec = GeneratorSpec.model_validate(row.card.identity["spec"])

    def cases_of(read_by: GeneratorSpec) -> HeldOutEvents | None:
        return evaluation_cases(run.lake, LogSlice.of(manifest), trie, version, negative, read_by)

    held_out = cases_of(spec)
    if held_out is None:
        run.say(f"  not evaluated: the log holds no event at or after the cutoff {manifest.cutoff.isoformat()}")
        return None
    run.begin()
    with run.stage("evaluate") as view:
        generator = load_model(run.lake, row, manifest.codebook.vocabulary)
        similarity = similarity_of(run.lake, manifest, trie, run.recipe.evaluate)
        before = TrainEvents.of(held_out.trained_on, len(trie))
        beside_it = None
        if rival is not None:
            its_spec = GeneratorSpec.model_validate(rival.card.identity["spec"])
            its_cases = held_out if its_spec == spec else cases_of(its_spec)
            assert its_cases is not None
            beside_it = Contender(load_model(run.lake, rival, manifest.codebook.vocabulary), its_cases.cases)
        evaluated = Contender(generator, held_out.cases)
        found = evaluate(evaluated, trie, before, run.recipe.evaluate, similarity, beside_it)
        protocol = (
            "per user with events at or after the cutoff: the last of them is the target, all before it the context; "
            f"full ranking over {len(trie)} items, interactions version {version}"
        )
        found = replace(found, protocol=protocol, production_model=rival.id if rival else None)
        view.note(f"{found.cases:,} users", cases=found.cases, targets_missing=found.targets_missing)
    record_evaluation(run.lake, key, model, manifest.id, found, run.provenance(interactions=version))
    tags = {"sidmill.release": row.release, "sidmill.model": model}
    Figures(run, row.key, tags).evaluated(found, len(row.card.history))
    for ranker in rankers(found):
        run.say(f"    {ranker:<11} {headline(found.rankers[ranker])}")
    for line in verdicts(found):
        run.say(f"    {line}")
    return key
