"""Steps that point production to a release and emit an event for it, or give production a model."""

from dataclasses import replace
from enum import Enum, auto

from prefect.artifacts import create_table_artifact
from prefect.context import FlowRunContext
from prefect.events import emit_event

from flows.gates.model_gate import ModelVerdict, judge_model, may_be_worse
from flows.runtime.run import Run
from flows.steps.task import step
from storage.errors import PointerMoved, ProductionHeld
from storage.releases.integrity import Effort
from storage.releases.manifest import Manifest
from storage.releases.models import models_of
from storage.releases.pointers import Pointer, Published, read_pointer
from storage.releases.publishing import Publication, publish_by_run, was_published
from storage.releases.releases import PRODUCTION, published, read_release

PUBLISHED_EVENT = "sidmill.release.published"
CHECKED, CHECKED_BYTES = 0.04, 1 << 25
"""Share of a run's time, and bytes, for hashing the files that its release pins."""


class PublishOutcome(Enum):
    """Outcome of publishing. CONFLICT: production had moved from what the run read. HELD: runs may not move it."""

    PUBLISHED = auto()
    HELD = auto()
    CONFLICT = auto()


@step
def publish(run: Run, manifest: Manifest, decided_on: Pointer, without_model: bool = False) -> PublishOutcome:
    """Point production to a release if its gates pass, and emit the event that triggers training.

    A run that found the release made, by one that was killed or did not publish, begins here.
    """
    if decided_on.target is None or decided_on.target.release != manifest.id:
        run.begin()
    try:
        _move(run, manifest, decided_on, without_model=without_model)
    except PointerMoved:
        now = published(run.lake)
        to = now.release if now is not None else "nothing"
        run.say(f"  not published: another run moved production to {to} while {manifest.id} was made")
        return PublishOutcome.CONFLICT
    except ProductionHeld as held:
        run.say(f"  not published: {held}")
        return PublishOutcome.HELD
    emit_event(
        PUBLISHED_EVENT,
        resource={"prefect.resource.id": f"sidmill.release.{manifest.id}", "sidmill.lake": run.lake.uri},
        payload={"lake": run.lake.uri, "release": manifest.id, "kind": manifest.kind},
    )
    return PublishOutcome.PUBLISHED


@step
def publish_model(run: Run, manifest: Manifest, model: str) -> bool:
    """Give production a model of `manifest`, with its release kept; return whether production has the model now.

    The model must have production's vocabulary, be newer than its model, pass the gate, and never have been published:
    a person replaced a model that was. Otherwise the command to publish it is shown. If production moves meanwhile, the
    task is retried.
    """
    alias = read_pointer(run.lake, PRODUCTION)
    current = alias.target
    if current is None or current.model == model:
        return current is not None
    verdict = _judged(run, manifest, model)
    if verdict.message:
        run.say(f"  {verdict.message}")
    if not verdict.publishable:
        run.blocked = verdict.message
        return False
    pinned = read_release(run.lake, current.release)
    speaks = pinned.codebook.vocabulary == manifest.codebook.vocabulary
    newer = current.model is None or model > current.model
    if speaks and newer and not was_published(run.lake, model):
        run.begin()
        try:
            _move(run, pinned, alias, model)
            return True
        except ProductionHeld as held:
            run.say(f"  {model} is not published: {held}")
    else:
        run.say(
            f"  {model} is not published: production is ({current.release}, {current.model or 'no model'}), not "
            f"{manifest.id}; `sidmill release publish {manifest.id} --model {model}` publishes it with its release"
        )
    return False


def _judged(run: Run, manifest: Manifest, model: str) -> ModelVerdict:
    found = next((each.evaluation for each in models_of(run.lake, manifest.id) if each.id == model), None)
    return judge_model(model, manifest.id, found, run.recipe.gates.model_against_baselines.severity)


def _move(
    run: Run, manifest: Manifest, decided_on: Pointer, model: str | None = None, without_model: bool = False
) -> Published:
    with run.stage("publish") as view:
        effort = Effort(CHECKED * run.seconds(), CHECKED_BYTES)
        publication = Publication(manifest.id, run.kind, model, without_model, may_be_worse, effort)
        if run.lease is not None:
            publication = replace(publication, require=run.lease.require)
        now = publish_by_run(run.lake, publication, decided_on, run.provenance())
        view.note(f"{PRODUCTION} -> ({now.release}, {now.model or 'no model'})", release=now.release, model=now.model)
    return now


def show_release(manifest: Manifest) -> None:
    """Show the gates of a release as a table artifact of the flow run."""
    if FlowRunContext.get() is None:
        return
    rows = [
        {"gate": gate.name, "value": round(gate.value, 4), "limit": gate.limit, "passed": gate.passed}
        for gate in manifest.gates
    ]
    create_table_artifact(
        table=rows,
        key=f"release-{manifest.id}",
        description=f"{manifest.kind} {manifest.id}: {manifest.items} items, codebook {manifest.codebook.id}, "
        f"trie {manifest.trie.sha256[:12]}, cutoff {manifest.cutoff.isoformat()}",
    )
