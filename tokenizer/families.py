"""The quantizers there are, and the one way to fit any of them."""

from collections.abc import Mapping

from tokenizer import hierarchical, opq, rq_kmeans
from tokenizer.baselines import Lsh, Random
from tokenizer.codebook import Codebook
from tokenizer.items import ItemIds, checked_items
from tokenizer.layout import Array
from tokenizer.quantizer import Quantizer
from tokenizer.rows import Rows
from tokenizer.spec import CodebookSpec, QuantizerName
from tokenizer.work import HERE, Work, one_thread

QUANTIZERS: dict[QuantizerName, Quantizer] = {
    "rq-kmeans": rq_kmeans,
    "opq": opq,
    "rq-opq": opq,
    "hierarchical": hierarchical,
    "lsh": Lsh(),
    "random": Random(),
}


def quantizer_of(spec: CodebookSpec) -> Quantizer:
    """The implementation that a spec names."""
    return QUANTIZERS[spec.quantizer]


def fit_codebook(
    vectors: Mapping[str, Array | Rows], item_ids: ItemIds, spec: CodebookSpec, work: Work = HERE
) -> Codebook:
    """Fit what `spec` asks for to the vectors (N, D per source) of a catalogue: the same bytes in any order of items.

    Raises VectorError for vectors that are missing, misshapen or not finite, CapacityExhausted when the levels hold
    fewer SIDs than planned, ValueError for ids that occur twice.
    """
    sources = tuple(dict.fromkeys(level.source for level in spec.levels))
    with one_thread():
        return quantizer_of(spec).fit(checked_items(vectors, item_ids, sources, work), spec, work)
