"""The registry of quantizers."""

from tokenizer.quantizers import hierarchical, rq_kmeans
from tokenizer.quantizers import product as opq
from tokenizer.quantizers.baselines import Lsh, Random
from tokenizer.quantizers.learned import Learned
from tokenizer.quantizers.protocol import Quantizer
from tokenizer.spec import CodebookSpec, QuantizerName

QUANTIZERS: dict[QuantizerName, Quantizer] = {
    "rq-kmeans": rq_kmeans,
    "pq": opq,
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
