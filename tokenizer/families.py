"""The quantizers there are, and the one way to fit any of them."""

from collections.abc import Mapping
from dataclasses import replace

from tokenizer import hierarchical, opq, rq_kmeans
from tokenizer.baselines import Lsh, Random
from tokenizer.codebook import Codebook
from tokenizer.items import ItemIds, checked_items
from tokenizer.layout import Array
from tokenizer.learned import Learned
from tokenizer.quantizer import Quantizer
from tokenizer.rows import Rows
from tokenizer.spec import CodebookSpec, QuantizerName
from tokenizer.vae_training import Train
from tokenizer.work import HERE, Work, one_thread

QUANTIZERS: dict[QuantizerName, Quantizer] = {
    "rq-kmeans": rq_kmeans,
    "opq": opq,
    "rq-opq": opq,
    "hierarchical": hierarchical,
    "lsh": Lsh(),
    "random": Random(),
    "rq-vae": Learned(),
    "fsq": Learned(),
}


def quantizer_of(spec: CodebookSpec) -> Quantizer:
    """The implementation that a spec names."""
    return QUANTIZERS[spec.quantizer]


def fit_codebook(
    vectors: Mapping[str, Array | Rows],
    item_ids: ItemIds,
    spec: CodebookSpec,
    work: Work = HERE,
    train: Train | None = None,
) -> Codebook:
    """Fit what `spec` asks for to the vectors (N, D per source) of a catalogue: the same bytes in any order of items.

    `train` is where the network of a learned quantizer is trained, in this process by default. Raises VectorError for
    vectors that are missing, misshapen or not finite, CapacityExhausted when the levels hold fewer SIDs than planned,
    ValueError for ids that occur twice, TrainingDiverged when a loss is no longer a number.
    """
    quantizer = quantizer_of(spec)
    if train is not None and isinstance(quantizer, Learned):
        quantizer = replace(quantizer, train=train)
    with one_thread():
        return quantizer.fit(checked_items(vectors, item_ids, spec.fit_sources, work), spec, work)
