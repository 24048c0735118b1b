"""Releases and models that are recorded without a run: what publishing decides by, and nothing else."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from storage.commit import Provenance, append
from storage.lake import Lake
from storage.releases.manifest import Gate, Manifest
from storage.releases.models import ModelCard, TrainedModel, record_model
from storage.releases.pointers import Published
from storage.releases.publishing import Publication
from storage.releases.publishing import publish as publish_as_asked
from storage.releases.releases import PRODUCTION, record_release
from storage.schemas import SIDS

WHO = Provenance("test", "recipe")
TIME = datetime(2024, 1, 1, tzinfo=UTC)
CUTOFF = TIME + timedelta(days=2)


def model(lake: Lake, key: str, release: str, vocabulary: str) -> str:
    return record_model(lake, TrainedModel(key, release, vocabulary, lake.blobs.put(b"weights"), ModelCard()), WHO)


def publish(
    lake: Lake, release: str, who: Provenance, model: str | None = None, alias: str = PRODUCTION, **how: Any
) -> Published:
    """Publish as a person does; `how` are further fields of a `Publication`."""
    return publish_as_asked(lake, Publication(release, model=model, **how), who, alias)


def sids(lake: Lake, codebook: str, assignment: str) -> None:
    """A segment of two items: segment "a" holds a0 and a1."""
    rows = [
        {
            "assignment_id": assignment,
            "codebook": codebook,
            "item_id": f"{assignment}{number}",
            "codes": [number],
            "vector_hash": "h",
            "status": "assigned",
        }
        for number in range(2)
    ]
    append(lake, "sids", pa.Table.from_pylist(rows, schema=SIDS.schema), f"sids:{codebook}:{assignment}", WHO)


def gate(passed: bool, severity: str = "block", name: str = "collapse", detail: str = "") -> Gate:
    return Gate.model_validate(
        {"name": name, "severity": severity, "value": 1, "limit": 0, "passed": passed, "detail": detail}
    )


def candidate(
    lake: Lake,
    key: str,
    assignments: list[str],
    codebook: str = "c1",
    failed: bool = False,
    versions: dict[str, int] | None = None,
    manifest: dict[str, Any] | None = None,
    **changes: Any,
) -> Manifest:
    """Record a release made of the given segments; `changes` are fields of its manifest, and so is `manifest`."""
    for name in assignments:
        sids(lake, codebook, name)
    blob = lake.blobs.put(b"blob")

    def make(release: str) -> Manifest:
        return Manifest.model_validate(
            {
                "id": release,
                "key": key,
                "kind": "nightly",
                "parent": None,
                "run": "test",
                "created_at": TIME,
                "recipe_hash": "r",
                "recipe": {},
                "as_of": TIME,
                "cutoff": CUTOFF,
                "fit_cutoff": TIME,
                "split_rule": "",
                "versions": {"sids": lake.version("sids"), **(versions or {})},
                "encoders": {},
                "fusion": {"fingerprint": "f", "details": {}},
                "fusion_blob": blob,
                "codebook": {
                    "id": codebook,
                    "blob": blob,
                    "sizes": [4],
                    "vocabulary": f"v-{codebook}",
                    "fitted_by": "test",
                },
                "assignments": assignments,
                "trie": {"sha256": lake.blobs.put(key.encode()), "path": "", "sids": 2},
                "items": 2,
                "counts": {},
                "metrics": {},
                "gates": [gate(not failed)],
                **changes,
                **(manifest or {}),
            }
        )

    return record_release(lake, make, key, WHO)[0]
