"""The section [gates] of a recipe: a limit and a severity for each gate."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    create_model,
    model_serializer,
    model_validator,
)

from flows.gates.registry import FIRST_GATES, GATES

IN_EVERY_RECIPE = (*FIRST_GATES, "model_against_baselines")
"""Gates that every stored recipe has, also with its default. A gate that was added later is written, and counts in the
hash of a recipe, only where it differs from its default: so a new gate changes no hash."""


class GateSpec(BaseModel):
    """Limit of a gate, and severity of a failure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: float
    severity: Literal["block", "warn"]


class ModelGateSpec(BaseModel):
    """Severity for a model that is worse than a baseline, beyond the interval of their difference."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    severity: Literal["block", "warn"]


class _Gates(BaseModel):
    """Gates of candidates (`flows.gates.release_gates`) and of models (`flows.gates.model_gate`).

    A recipe may set only the limit or only the severity of a gate; the other keeps its default. A gate of an installed
    package has no default here: it judges if the recipe names it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _keep_the_other_half(cls, settings: Any) -> Any:
        if not isinstance(settings, dict):
            return settings
        defaults = {name: _default(name).model_dump() for name in GATES}
        defaults["model_against_baselines"] = cls.model_fields["model_against_baselines"].default.model_dump()
        return {
            name: {**defaults.get(name, {}), **given} if isinstance(given, dict) else given
            for name, given in settings.items()
        }

    @model_serializer(mode="wrap")
    def _without_absent_gates(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out gates of packages that the recipe does not name, and later gates that have their defaults."""
        set_here = {name: value for name, value in serialize(self).items() if value is not None}
        return {
            name: value
            for name, value in set_here.items()
            if name in IN_EVERY_RECIPE or value != _default(name).model_dump()
        }


def _default(name: str) -> GateSpec:
    gate = GATES.get(name)
    return GateSpec(limit=gate.limit, severity=gate.severity)


if TYPE_CHECKING:

    class GatesSpec(_Gates):
        """The section, of which two fields are named in code."""

        collision_rate: GateSpec = GateSpec(limit=0.0, severity="block")
        model_against_baselines: ModelGateSpec = ModelGateSpec(severity="block")
else:
    GatesSpec = create_model(
        "GatesSpec",
        __base__=_Gates,
        __doc__=_Gates.__doc__,
        **{name: (GateSpec, _default(name)) for name, member in GATES.members.items() if member.ours},
        **{name: (GateSpec | None, None) for name, member in GATES.members.items() if not member.ours},
        model_against_baselines=(ModelGateSpec, ModelGateSpec(severity="block")),
    )
