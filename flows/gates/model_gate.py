"""The gate of models: a run publishes no model worse than a baseline or than production's, unless the recipe allows it.

Each is compared on the same cases, and worse means beyond the interval of the difference.
"""

from dataclasses import dataclass
from typing import Literal

from flows.gates.spec import ModelGateSpec
from storage.releases.evaluation import EvaluationResult
from storage.releases.manifest import Manifest


@dataclass(frozen=True)
class ModelVerdict:
    """Verdict on the publication of a model by a run. `message` is empty if the model beats all baselines."""

    publishable: bool
    message: str


def judge_model(
    model: str, release: str, evaluation: EvaluationResult | None, severity: Literal["block", "warn"]
) -> ModelVerdict:
    """Judge a model by its newest evaluation on a release; `severity` is set by gates.model_against_baselines."""
    if evaluation is None or not evaluation.against:
        return ModelVerdict(True, f"{model} was not compared with baselines: no events were held out for an evaluation")
    worse = evaluation.worse_than()
    if worse and severity == "block":
        return ModelVerdict(
            False,
            f"{model} is not published, because it is worse than {' and '.join(worse)}. To publish it anyway, run "
            f"`sidmill release publish {release} --model {model}`; to let runs publish such models, use "
            "--set gates.model_against_baselines.severity=warn",
        )
    if worse:
        return ModelVerdict(
            True,
            f"warning: {model} is worse than {' and '.join(worse)}; the recipe only warns of this",
        )
    undecided = [name for name, found in sorted(evaluation.against.items()) if found.verdict != "beats"]
    return ModelVerdict(
        True, f"warning: {model} does not clearly differ from {' and '.join(undecided)}" if undecided else ""
    )


def may_be_worse(manifest: Manifest) -> bool:
    """Return whether the recipe of a release lets a model that is worse than a baseline be chosen for it."""
    found = manifest.recipe.get("gates", {}).get("model_against_baselines")
    return found is not None and ModelGateSpec.model_validate(found).severity == "warn"
