"""What a fusion is fitted on: rows for its components, and pairs of items with the vectors that they had before.

Of a large catalogue these are samples of fixed size, so a fit takes the same time and memory for any catalogue.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.modalities import FusionError, Matrix, Modality
from pipelines.registry import fusion_method_of
from pipelines.spec import FusionSpec

NO_PAIRS: NDArray[np.int64] = np.empty((0, 2), np.int64)
COMPONENT_ROWS = 1 << 17
"""Most rows from which principal components are computed."""
MOST_PAIRS = 1 << 20
"""Most pairs that are kept, and most items that are kept whatever the pairs are: of more, those of the pairs are."""


@dataclass(frozen=True)
class Examples:
    """Statistics and samples of the modalities that have vectors, by name.

    `rows` counts the vectors of each, `means` are their means, `spread` has vectors (at most COMPONENT_ROWS, D) of all
    parts of the catalogue. `pairs` int64 (P, 2) are rows of `seen`, which holds the vectors as they were before the
    pairs.
    """

    rows: dict[str, int]
    means: dict[str, Matrix]
    spread: dict[str, Matrix]
    seen: dict[str, Modality]
    pairs: NDArray[np.int64]


def examples_of(
    items: Mapping[str, Modality],
    spec: FusionSpec,
    pairs: NDArray[np.int64] = NO_PAIRS,
    before: Mapping[str, Modality] | None = None,
    most: int = MOST_PAIRS,
) -> Examples:
    """Return the examples in a catalogue; a modality without vectors is left out.

    `pairs` int64 (P, 2) are rows of items that users took together. `before` are the modalities as they were before
    that: training on a vector that contains the pairs would memorise them. Without pairs, every item is paired with
    itself, with different modalities dropped. Raise FusionError if no item has a vector.
    """
    known = {name: items[name] for name in sorted(items) if items[name].present.any()}
    if not known:
        raise FusionError("no item has a vector in any modality: check `text.fields`, the images and the logs.")
    seen = {name: (before or {}).get(name, each) for name, each in known.items()}
    learns = fusion_method_of(spec.method).correction is not None and spec.epochs
    usable = _usable(seen, pairs) if learns else NO_PAIRS
    if len(usable) > most:
        draw = np.random.default_rng([spec.seed, len(usable)])
        usable = usable[np.sort(draw.choice(len(usable), most, replace=False))]
    if not len(usable):
        seen = {}
    elif len(next(iter(known.values()))) > most:
        rows, places = np.unique(usable, return_inverse=True)
        seen, usable = {name: each.take(rows) for name, each in seen.items()}, places.reshape(-1, 2).astype(np.int64)
    return Examples(
        {name: int(each.present.sum()) for name, each in known.items()},
        {name: each.mean() for name, each in known.items()},
        {name: _spread(each) for name, each in known.items()},
        seen,
        usable,
    )


def _usable(seen: Mapping[str, Modality], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return pairs whose items both have a vector; without pairs, each item of several modalities with itself."""
    there = np.sum([each.present for each in seen.values()], axis=0)
    if len(pairs):
        return np.asarray(pairs[(there[pairs] > 0).all(axis=1)])
    several = np.flatnonzero(there > 1)
    return np.column_stack([several, several]).astype(np.int64)


def _spread(modality: Modality) -> Matrix:
    there = np.flatnonzero(modality.present)
    return np.asarray(modality.vectors[there[:: -(-len(there) // COMPONENT_ROWS)]])
