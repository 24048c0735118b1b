"""Step: make a release what production points to, and tell whoever waits for it."""

from prefect.artifacts import create_table_artifact
from prefect.context import FlowRunContext
from prefect.events import emit_event

from flows.run import Run
from flows.steps.task import step
from storage.manifest import Manifest
from storage.releases import PRODUCTION, Published
from storage.releases import publish as move_alias

PUBLISHED_EVENT = "sidmill.release.published"


@step
def publish(run: Run, manifest: Manifest, model: str | None = None) -> Published:
    """Point production at the release (and model) if its gates hold; emits the event that training waits for."""
    with run.stage("publish") as view:
        now = move_alias(run.lake, manifest.id, run.provenance(), model, note=run.kind)
        view.note(f"{PRODUCTION} -> ({now.release}, {now.model or 'no model'})", release=now.release, model=now.model)
    if model is None:
        emit_event(
            PUBLISHED_EVENT,
            resource={"prefect.resource.id": f"sidmill.release.{manifest.id}", "sidmill.lake": run.lake.uri},
            payload={"lake": run.lake.uri, "release": manifest.id, "kind": manifest.kind},
        )
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
