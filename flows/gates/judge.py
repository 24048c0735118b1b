"""Judge a candidate by the gates of its recipe."""

import math

from flows.gates.registry import GATES
from flows.gates.release_gates import Candidate
from flows.gates.spec import GateSpec, GatesSpec
from storage.releases.manifest import Gate


def judge(candidate: Candidate, gates: GatesSpec) -> tuple[Gate, ...]:
    """Return all gates of a candidate, in the order of display. A metric that is not finite fails its gate."""
    found = []
    for name in GATES:
        spec: GateSpec | None = getattr(gates, name)
        if spec is not None and (gate := _judged(name, spec, candidate)) is not None:
            found.append(gate)
    return tuple(found)


def _judged(name: str, spec: GateSpec, candidate: Candidate) -> Gate | None:
    declared = GATES.get(name)
    figure = declared.measure(candidate)
    if figure is None:
        return None
    value, text = figure
    holds = value >= spec.limit if declared.at_least else value <= spec.limit
    detail = f"{text}; must be at {'least' if declared.at_least else 'most'} the limit"
    finite = math.isfinite(value)
    return Gate(
        name=name,
        severity=spec.severity,
        value=value if finite else -1.0,
        limit=spec.limit,
        passed=finite and holds,
        detail=detail if finite else f"{detail}, but is not a finite number",
    )
