"""Users a second of the beam search, against the same search without a trie."""

import torch

from bench.gpu.meter import Meter
from bench.speed.decoding import BEAMS, SHAPES, SIZES, Unconstrained, histories
from bench.speed.training import LARGER
from bench.speed.trie import names, random_sids
from tokenizer.trie.masks import TrieMasks
from tokenizer.trie.trie import Trie
from training.decoding.beam_search import search_sids
from training.models import build_generator
from training.models.trie_tensors import TrieTensors
from training.spec import GeneratorSpec


def run(meter: Meter) -> None:
    """Measure the shapes of `bench decoding` and one of more than 100 million weights."""
    items = meter.size(100_000, 1_000)
    tries = Tries(Trie.build(random_sids(items, SIZES[0]), names(items), SIZES), meter.device)
    shapes = {**SHAPES, **({} if meter.quick else {"larger": LARGER})}
    for name, spec in shapes.items():
        for batch in (1, meter.size(64, 2), meter.size(512, 3)):
            _search(meter, name, spec, batch, tries)


class Tries:
    """A trie on a device, and in its place one that allows all codes."""

    def __init__(self, trie: Trie, device: torch.device) -> None:
        masks = TrieMasks.of(trie)
        self.codes = trie.codes()
        self.tensors, self.free = TrieTensors(masks, device), Unconstrained(masks, device)


def _search(meter: Meter, name: str, spec: GeneratorSpec, batch: int, tries: Tries) -> None:
    model = build_generator(spec, SIZES, "bench").to(meter.device)
    plain = build_generator(spec.model_copy(update={"prefix_outputs": False}), SIZES, "bench").to(meter.device)
    events, seen = histories(model, tries.codes, batch)
    events = events.to(meter.device)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast(meter.device.type, dtype, enabled=dtype != torch.float32):
            took = meter.seconds(lambda: search_sids(model, tries.tensors, events, BEAMS, seen))
            peer = meter.seconds(lambda: search_sids(plain, tries.free, events, BEAMS))
        kind = str(dtype).removeprefix("torch.")
        against = "the same search without a trie"
        meter.row(f"{name}, batch of {batch}, {kind}, {BEAMS} beams", batch / took, "users/s", peer / took, against)
