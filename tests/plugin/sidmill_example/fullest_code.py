"""A gate: the share of all items that the fullest code of the first level has."""

from flows.gates.release_gates import Candidate, Figure, ReleaseGate


def measure(candidate: Candidate) -> Figure:
    """Items of the fullest first code over all items."""
    return candidate.metrics["max_load"][0] / max(1, candidate.items), "of the items have one first code"


GATE = ReleaseGate(measure, limit=0.5, severity="warn")
