"""The gate of models: a run publishes no model worse than a baseline, unless the recipe allows it."""

from dataclasses import dataclass
from typing import Any, Literal

from flows.gates.spec import ModelGateSpec
from storage.releases.manifest import Manifest
from storage.releases.models import worse_than


@dataclass(frozen=True)
class ModelVerdict:
    """Verdict on the publication of a model by a run. `message` is empty if the model beats all baselines."""

    publishable: bool
    message: str


def judge_model(
    model: str, release: str, evaluation: dict[str, Any] | None, severity: Literal["block", "warn"]
) -> ModelVerdict:
    """Judge a model by its newest evaluation on a release; `severity` is set by gates.model_against_baselines."""
    if not (evaluation or {}).get("against"):
        return ModelVerdict(
            True, f"{model} was not compared with baselines: no case was held out for it to be judged on"
        )
    worse = worse_than(evaluation)
    if worse and severity == "block":
        return ModelVerdict(
            False,
            f"{model} is not published, for it is worse than {' and '.join(worse)}. "
            f"`sidmill release publish {release} --model {model}` publishes it all the same; with "
            "--set gates.model_against_baselines.severity=warn runs publish such models",
        )
    if worse:
        return ModelVerdict(
            True, f"warning: {model} is worse than {' and '.join(worse)}; the recipe lets it be published"
        )
    alike = [name for name, found in sorted(evaluation["against"].items()) if found["verdict"] != "beats"]  # type: ignore[index]
    return ModelVerdict(True, f"warning: {model} is not told apart from {' and '.join(alike)}" if alike else "")


def may_be_worse(manifest: Manifest) -> bool:
    """Return whether the recipe of a release lets a model that is worse than a baseline be chosen for it."""
    found = manifest.recipe.get("gates", {}).get("model_against_baselines")
    return found is not None and ModelGateSpec.model_validate(found).severity == "warn"
