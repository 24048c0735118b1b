"""Steps: make a release what production points to, and tell whoever waits for it; give production a model."""

from prefect.artifacts import create_table_artifact
from prefect.context import FlowRunContext
from prefect.events import emit_event

from flows.run import Run
from flows.steps.task import step
from storage.manifest import Manifest
from storage.releases import PRODUCTION, Published, published, read_release, was_published
from storage.releases import publish as move_alias

PUBLISHED_EVENT = "sidmill.release.published"


@step
def publish(run: Run, manifest: Manifest) -> Published:
    """Point production at the release if its gates hold; emits the event that training waits for."""
    now = _move(run, manifest)
    emit_event(
        PUBLISHED_EVENT,
        resource={"prefect.resource.id": f"sidmill.release.{manifest.id}", "sidmill.lake": run.lake.uri},
        payload={"lake": run.lake.uri, "release": manifest.id, "kind": manifest.kind},
    )
    return now


@step
def publish_model(run: Run, manifest: Manifest, model: str) -> None:
    """Production keeps its release and gets a model of `manifest`, if that speaks its vocabulary, is newer and was
    never published: somebody has put another in place of one that was.

    Otherwise the command that would publish the pair is named. Decided anew where production moves meanwhile.
    """
    current = published(run.lake)
    if current is None or current.model == model:
        return
    pinned = read_release(run.lake, current.release)
    speaks = pinned.codebook.vocabulary == manifest.codebook.vocabulary
    newer = current.model is None or model > current.model
    if speaks and newer and not was_published(run.lake, model):
        run.record.begin()
        _move(run, pinned, model, current)
    else:
        run.say(
            f"  {model} is not published: production is ({current.release}, {current.model or 'no model'}); "
            f"`sidmill release publish {manifest.id} --model {model}` publishes it with its release"
        )


def _move(run: Run, manifest: Manifest, model: str | None = None, replacing: Published | None = None) -> Published:
    with run.stage("publish") as view:
        now = move_alias(run.lake, manifest.id, run.provenance(), model, note=run.kind, replacing=replacing)
        view.note(f"{PRODUCTION} -> ({now.release}, {now.model or 'no model'})", release=now.release, model=now.model)
    return now


def show_release(manifest: Manifest) -> None:
    """The release as a table artifact of the flow run."""
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
