"""Generators in the lake: weights by hash, the vocabulary they speak, their card, and their evaluations."""

import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from storage.commit import Provenance, append, swap
from storage.errors import LakeNotFound
from storage.lake import Lake
from storage.schemas import EVALUATIONS, MODELS


def record_model(
    lake: Lake, key: str, release: str, vocabulary: str, weights: str, card: dict[str, Any], provenance: Provenance
) -> str:
    """Record a trained model under the next free id (`m-000001`, ...), or return the one made with `key`."""

    def decide(rows: pa.Table) -> pa.Table | None:
        if key in rows.column("key").to_pylist():
            return None
        row = {
            "id": f"m-{rows.num_rows + 1:06d}",
            "key": key,
            "release": release,
            "vocabulary": vocabulary,
            "weights": weights,
            "card": json.dumps(card, sort_keys=True),
            "at": datetime.now(UTC),
            "run": provenance.run,
        }
        return pa.Table.from_pylist([row], schema=MODELS.schema)

    rows, _ = swap(lake, "models", decide, provenance)
    return next(str(row["id"]) for row in rows.to_pylist() if row["key"] == key)


def models(lake: Lake) -> list[dict[str, Any]]:
    """Return all models, oldest first, with the result of their newest `evaluation` and its release `evaluated_on`."""
    newest = {row["model"]: {"evaluation": row["result"], "evaluated_on": row["release"]} for row in evaluations(lake)}
    never = {"evaluation": None, "evaluated_on": None}
    return [
        {**row, "card": json.loads(row["card"]), **newest.get(row["id"], never)}
        for row in lake.read("models").sort_by("id").to_pylist()
    ]


def models_of(lake: Lake, release: str) -> list[dict[str, Any]]:
    """Return the models trained or evaluated on a release, oldest first, with their newest `evaluation` on it."""
    newest = {row["model"]: row["result"] for row in evaluations(lake) if row["release"] == release}
    return [
        {**row, "evaluation": newest.get(row["id"]), "evaluated_on": release if row["id"] in newest else None}
        for row in models(lake)
        if row["release"] == release or row["id"] in newest
    ]


def read_model(lake: Lake, model: str) -> dict[str, Any]:
    """Return one model by id; LakeNotFound lists the existing ones."""
    known = models(lake)
    for row in known:
        if row["id"] == model:
            return row
    raise LakeNotFound(
        f"the lake {lake.uri} has no model {model!r}; models: {', '.join(row['id'] for row in known) or 'none'}."
    )


def find_model_by_key(lake: Lake, key: str) -> str | None:
    """Return the id of the model made with this idempotency key, or None."""
    return next((row["id"] for row in lake.read("models").to_pylist() if row["key"] == key), None)


def newest_model(lake: Lake, release: str, worse_too: bool = True) -> str | None:
    """Return the id of the newest model trained for exactly this release.

    Without `worse_too`, models whose newest evaluation on it finds them worse than a baseline are skipped.
    """
    rows = lake.read("models", columns=["id"], where=ds.field("release") == release).column("id").to_pylist()
    if rows and not worse_too:
        rows = [
            row["id"] for row in models_of(lake, release) if row["id"] in rows and not worse_than(row["evaluation"])
        ]
    return max(rows, default=None)


def worse_than(evaluation: dict[str, Any] | None) -> list[str]:
    """Return the baselines that a generator is worse than, beyond the interval of the difference."""
    against = (evaluation or {}).get("against", {})
    return sorted(name for name, found in against.items() if found["verdict"] == "is worse")


def model_vocabulary(lake: Lake, model: str) -> str:
    """Return the hash of a model's vocabulary."""
    return str(read_model(lake, model)["vocabulary"])


def record_evaluation(
    lake: Lake, key: str, model: str, release: str, result: dict[str, Any], provenance: Provenance
) -> bool:
    """Record an evaluation once per key; return True if it was new."""
    row = {
        "key": key,
        "model": model,
        "release": release,
        "result": json.dumps(result, sort_keys=True),
        "at": datetime.now(UTC),
        "run": provenance.run,
    }
    rows = pa.Table.from_pylist([row], schema=EVALUATIONS.schema)
    return append(lake, "evaluations", rows, f"evaluation:{key}", provenance).written


def evaluations(lake: Lake, key: str | None = None) -> list[dict[str, Any]]:
    """Return all evaluations, or that of a key; oldest first."""
    rows = lake.read("evaluations", where=None if key is None else ds.field("key") == key).sort_by("at").to_pylist()
    return [{**row, "result": json.loads(row["result"])} for row in rows]
