"""Masks and steps of the trie on the device, against the log_softmax of the same step."""

import numpy as np
import torch

from bench.gpu.meter import Meter
from bench.speed.trie import names, random_sids
from tokenizer.trie.masks import TrieMasks
from tokenizer.trie.trie import Trie
from training.models.trie_tensors import TrieTensors

CODES, LEVELS = 256, 3


def run(meter: Meter) -> None:
    """Measure tries of two sizes, each for a search of 128 users and one of 8,192 with 20 beams each."""
    for items in (meter.size(100_000, 1_000), meter.size(10_000_000, 2_000)):
        sids = random_sids(items, CODES)
        whole = TrieMasks.of(Trie.build(sids, names(items), (CODES,) * LEVELS))
        tensors = TrieTensors(whole, meter.device)
        for users in (meter.size(128, 4), meter.size(8_192, 8)):
            _levels(meter, f"{items:,} items, {users:,} users", whole, tensors, np.resize(sids, (users * 20, LEVELS)))


def _levels(meter: Meter, where: str, whole: TrieMasks, tensors: TrieTensors, sids: np.ndarray) -> None:
    """Measure each level for beams that follow the given SIDs."""
    beams, nodes = len(sids), np.zeros(len(sids), np.int64)
    logits = torch.randn(beams, 1, CODES, device=meter.device)
    softmax = meter.seconds(lambda: logits.log_softmax(dim=-1), calls=20)
    meter.row(f"{where}: log_softmax", 1e3 * softmax, "ms")
    for level in range(LEVELS):
        at = torch.from_numpy(nodes).unsqueeze(1).to(meter.device)
        step = torch.from_numpy(sids[:, level : level + 1].astype(np.int64)).to(meter.device)
        for name, took in (
            ("mask", meter.seconds(lambda: tensors.mask(level, at), calls=20)),  # noqa: B023 - called here
            ("step", meter.seconds(lambda: tensors.step(level, at, step), calls=20)),  # noqa: B023
        ):
            meter.row(f"{where}: {name} of level {level}", 1e3 * took, "ms", took / softmax, "log_softmax")
        nodes = whole.step(level, nodes, sids[:, level])
