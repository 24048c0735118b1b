"""Item embeddings of a SASRec after each of several logs, each of which contains the one before.

Each training continues from the last one. Known items keep their embeddings; new items start from fresh ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from learning.trainer import Trainer, train_in_process
from tokenizer.arrays.types import Floats, Ints
from training.sasrec.sasrec import LABEL, SasRec, SasRecTrainable, item_vectors
from training.spec import ItemEmbeddingsSpec, SasRecSpec


def item_embeddings_of(
    logs: Sequence[Sequence[Ints]],
    items: int,
    spec: ItemEmbeddingsSpec,
    train: Trainer = train_in_process,
) -> list[Floats]:
    """Return unit vectors of the items after each log in turn, float32 (items, D); zero for an item not in the log.

    A log is a list of histories; a history holds item numbers (0 to items - 1), oldest first. Only the events of a log
    take part in its training, so its vectors do not depend on later logs.
    """
    embeddings: list[Floats] = []
    previous: tuple[Ints, SasRec] | None = None
    for log in logs:
        present = np.unique(np.concatenate(log))
        epochs = spec.epochs if previous is None else spec.further_epochs
        model_spec = spec.model.model_copy(update={"epochs": epochs})
        start = None if previous is None else _grown(model_spec, present, *previous)
        histories = [np.searchsorted(present, history) for history in log]
        trainable = SasRecTrainable(model_spec, len(present), histories, start)
        train(trainable, model_spec.loop(spec.workers), LABEL)
        model = trainable.module
        vectors = np.zeros((items, spec.dim), np.float32)
        vectors[present] = item_vectors(model)
        embeddings.append(vectors)
        previous = present, model
    return embeddings


def _grown(spec: SasRecSpec, present: Ints, known: Ints, model: SasRec) -> dict[str, Tensor]:
    """Return the weights of a model of the items `known`, extended to `present` (both sorted); fresh for new items."""
    weights = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    items = SasRec(spec, len(present)).items.weight.detach().clone()
    _, new_place, old_place = np.intersect1d(present, known, return_indices=True)
    items[new_place] = weights["items.weight"][old_place]
    return {**weights, "items.weight": items}
