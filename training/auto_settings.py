"""Settings that depend on the size of the catalogue and of the log, where a recipe leaves them at "auto".

The rules fit the settings that did best on the validation of Amazon Beauty (12,101 items, 154,000 events in 22,580
windows) and of smaller catalogues (docs/recommendation.md). Nothing was measured above that size. There the number of
passes falls with the square root of the size, so the work grows with the square root.
"""

from dataclasses import dataclass
from math import ceil, log2, sqrt
from typing import Any

from training.spec import Auto, GeneratorSection, GeneratorSpec, TrainSection, TrainSpec

MEASURED_EVENTS, MEASURED_ITEMS = 154_000, 12_101
EVENTS_A_STEP, MIN_BATCH, MAX_BATCH = 768, 16, 128
"""Predicted events per step, and bounds of the batch size in windows."""
PASSES, WARMUP, ITEM_PASSES = 14, 300, 20
"""Epochs at the measured size, most warm-up steps, and alignment epochs at the measured size."""
MIN_ROWS, MAX_ROWS = 1_024, 2**20
"""Bounds of `prefix_buckets`."""
VECTOR_WEIGHT, MAX_RANKED = 4.0, 1_000_000
"""Weight of vectors in evaluations, and the most items for which it is used."""


@dataclass(frozen=True)
class Scale:
    """Number of items in a release, of levels in its SIDs, of windows, and of the events that windows predict."""

    items: int
    levels: int
    windows: int
    targets: int


def generator_spec(section: GeneratorSection, scale: Scale) -> GeneratorSpec:
    """Resolve the "auto" settings of a model.

    The hashed table has about one row for each SID prefix longer than one code.
    """
    wanted = section.model_dump()
    if wanted["prefix_buckets"] == "auto":
        prefixes = max(1, scale.levels - 1) * scale.items
        wanted["prefix_buckets"] = min(MAX_ROWS, max(MIN_ROWS, _power_of_two(prefixes)))
    if wanted["prefix_outputs"] == "auto":
        wanted["prefix_outputs"] = bool(wanted["constrained"] and wanted["prefix_buckets"])
    return GeneratorSpec.model_validate(wanted)


def train_spec(section: TrainSection, scale: Scale) -> TrainSpec:
    """Resolve the "auto" settings of a training.

    A step has about EVENTS_A_STEP events; larger logs and catalogues get fewer passes.
    """
    wanted = section.model_dump()
    if wanted["batch_size"] == "auto":
        batch = EVENTS_A_STEP * scale.windows / max(1, scale.targets)
        wanted["batch_size"] = min(MAX_BATCH, max(MIN_BATCH, _power_of_two(batch)))
    if wanted["epochs"] == "auto":
        wanted["epochs"] = _passes(PASSES, scale.targets / MEASURED_EVENTS)
    if wanted["align_epochs"] == "auto":
        wanted["align_epochs"] = _passes(ITEM_PASSES, scale.items / MEASURED_ITEMS)
    if wanted["warmup_steps"] == "auto":
        steps = wanted["epochs"] * ceil(scale.windows / wanted["batch_size"])
        wanted["warmup_steps"] = min(WARMUP, max(1, steps // 8))
    return TrainSpec.model_validate(wanted)


def vector_weight(wanted: float | Auto, items: int) -> float:
    """Return the weight of vectors in evaluations. "auto" is 0 above MAX_RANKED items, so that no vector is read."""
    if wanted != "auto":
        return wanted
    return VECTOR_WEIGHT if items <= MAX_RANKED else 0.0


def matches_auto_settings(section: GeneratorSection, spec: GeneratorSpec) -> bool:
    """Return whether a model has the settings of a section, except "auto"."""
    built = spec.model_dump()
    return all(value in ("auto", built[name]) for name, value in section.model_dump().items())


def resolved_auto_settings(section: GeneratorSection | TrainSection, spec: GeneratorSpec | TrainSpec) -> dict[str, Any]:
    """Return the settings that a section leaves at "auto", with their resolved values."""
    built = spec.model_dump()
    return {name: built[name] for name, value in section.model_dump().items() if value == "auto"}


def _passes(measured: int, larger: float) -> int:
    return max(1, round(measured / sqrt(max(1.0, larger))))


def _power_of_two(number: float) -> int:
    """Return the smallest power of two that is not less."""
    return int(2 ** ceil(log2(max(1.0, number))))
