"""Trained generators in the lake: weights and vocabulary by hash, their cards, and their evaluations."""

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from pydantic import BaseModel, ConfigDict, Field

from storage.commit import Provenance, append, swap
from storage.errors import LakeNotFound
from storage.lake import Lake
from storage.releases.evaluation import EvaluationResult
from storage.releases.releases import published
from storage.releases.standing import read_standing, retirement_of
from storage.schemas import EVALUATIONS, MODELS


class ModelCard(BaseModel):
    """The training of a model: the record of its last checkpoint.

    `identity` says what was trained on what, `history` has a row an epoch, `record_blob` is the hash of the record's
    file. `packages` are the members of installed packages that made it: kind and name, to package and version. Fields
    of records that later versions write are kept.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    identity: dict[str, Any] = Field(default_factory=dict)
    history: list[dict[str, Any]] = Field(default_factory=list)
    record_blob: str | None = None
    packages: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class TrainedModel:
    """The result of a training: release, its vocabulary (hash), weights (hash), card, and the idempotency key."""

    key: str
    release: str
    vocabulary: str
    weights: str
    card: ModelCard


@dataclass(frozen=True)
class Model(TrainedModel):
    """A recorded model, with its newest `evaluation` and the release that it was `evaluated_on`."""

    id: str
    at: datetime
    run: str
    evaluation: EvaluationResult | None = None
    evaluated_on: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a model on a release."""

    key: str
    model: str
    release: str
    result: EvaluationResult
    at: datetime
    run: str


def record_model(lake: Lake, model: TrainedModel, provenance: Provenance) -> str:
    """Record a trained model under the next free id (`m-000001`, ...), or return the one made with its key.

    One that was retired is recorded again.
    """
    retired = read_standing(lake).retired

    def decide(rows: pa.Table) -> pa.Table | None:
        if _made_with(rows, model.key, retired):
            return None
        row = {
            "id": f"m-{rows.num_rows + 1:06d}",
            "key": model.key,
            "release": model.release,
            "vocabulary": model.vocabulary,
            "weights": model.weights,
            "card": json.dumps(model.card.model_dump(mode="json", exclude_unset=True), sort_keys=True),
            "at": datetime.now(UTC),
            "run": provenance.run,
        }
        return pa.Table.from_pylist([row], schema=MODELS.schema)

    rows, _ = swap(lake, "models", decide, provenance)
    return _made_with(rows, model.key, retired)[0]


def _made_with(rows: pa.Table, key: str, retired: Collection[str]) -> list[str]:
    """Return the ids of the models that were made with a key and are not retired."""
    return [row["id"] for row in rows.to_pylist() if row["key"] == key and row["id"] not in retired]


def models(lake: Lake) -> list[Model]:
    """Return all models that can be read, oldest first: those that are not retired.

    They have the result of their newest `evaluation` and its release `evaluated_on`.
    """
    retired = read_standing(lake).retired
    return [model for model in recorded_models(lake) if model.id not in retired]


def recorded_models(lake: Lake) -> list[Model]:
    """Return all models that were ever recorded, retired ones included, as `models` does."""
    newest = {each.model: each for each in evaluations(lake)}
    known = [
        Model(**{**row, "card": ModelCard.model_validate_json(row["card"])})
        for row in lake.read("models").sort_by("id").to_pylist()
    ]
    return [_evaluated(model, newest.get(model.id)) for model in known]


def _evaluated(model: Model, found: Evaluation | None) -> Model:
    return replace(model, evaluation=found.result if found else None, evaluated_on=found.release if found else None)


def models_of(lake: Lake, release: str) -> list[Model]:
    """Return the models trained or evaluated on a release, oldest first, with their newest `evaluation` on it."""
    newest = {each.model: each for each in evaluations(lake) if each.release == release}
    return [
        _evaluated(model, newest.get(model.id))
        for model in models(lake)
        if model.release == release or model.id in newest
    ]


def read_model(lake: Lake, model: str) -> Model:
    """Return one model by id; LakeNotFound lists the existing ones. Raise Retired for one that is retired."""
    known = models(lake)
    for each in known:
        if each.id == model:
            return each
    retired = read_standing(lake).retired
    if model in retired:
        raise retirement_of(model, retired[model])
    raise LakeNotFound(
        f"the lake {lake.uri} has no model {model!r}; its models: {', '.join(each.id for each in known) or 'none'}."
    )


def production_model(lake: Lake) -> str:
    """Return the model in production; raise LakeNotFound if there is none."""
    current = published(lake)
    if current is None or current.model is None:
        raise LakeNotFound(
            "production has no model: train one with `sidmill run train`, or name one: `sidmill run evaluate MODEL`."
        )
    return current.model


def find_model_by_key(lake: Lake, key: str) -> str | None:
    """Return the id of the model made with this idempotency key, or None; a retired one does not count."""
    return next(iter(_made_with(lake.read("models"), key, read_standing(lake).retired)), None)


def newest_model(lake: Lake, release: str, worse_too: bool = True) -> str | None:
    """Return the id of the newest model trained for exactly this release.

    Without `worse_too`, models whose newest evaluation on it finds them worse than a baseline are skipped.
    """
    retired = read_standing(lake).retired
    ids = lake.read("models", columns=["id"], where=ds.field("release") == release).column("id").to_pylist()
    ids = [each for each in ids if each not in retired]
    if ids and not worse_too:
        ids = [model.id for model in models_of(lake, release) if model.id in ids and not _is_worse(model)]
    return max(ids, default=None)


def _is_worse(model: Model) -> bool:
    return model.evaluation is not None and bool(model.evaluation.worse_than())


def model_vocabulary(lake: Lake, model: str) -> str:
    """Return the hash of a model's vocabulary."""
    return read_model(lake, model).vocabulary


def record_evaluation(
    lake: Lake, key: str, model: str, release: str, result: EvaluationResult, provenance: Provenance
) -> bool:
    """Record an evaluation once per key; return True if it was new."""
    row = {
        "key": key,
        "model": model,
        "release": release,
        "result": result.as_json(),
        "at": datetime.now(UTC),
        "run": provenance.run,
    }
    rows = pa.Table.from_pylist([row], schema=EVALUATIONS.schema)
    return append(lake, "evaluations", rows, f"evaluation:{key}", provenance).written


def evaluations(lake: Lake, key: str | None = None) -> list[Evaluation]:
    """Return all evaluations, or that of a key; oldest first."""
    rows = lake.read("evaluations", where=None if key is None else ds.field("key") == key).sort_by("at").to_pylist()
    return [Evaluation(**{**row, "result": EvaluationResult.parse(row["result"])}) for row in rows]
