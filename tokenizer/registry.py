"""The quantizers: a name in a recipe, and the `Quantizer` that it stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugins.registry import Registry

if TYPE_CHECKING:
    from tokenizer.quantizers.protocol import Quantizer
    from tokenizer.spec import CodebookSpec

QUANTIZERS: Registry[Quantizer] = Registry(
    "sidmill.quantizers",
    "quantizer",
    {
        "rq-kmeans": "tokenizer.quantizers.rq_kmeans:RQ_KMEANS",
        "pq": "tokenizer.quantizers.product:PQ",
        "opq": "tokenizer.quantizers.product:OPQ",
        "rq-opq": "tokenizer.quantizers.product:RQ_OPQ",
        "hierarchical": "tokenizer.quantizers.hierarchical:HIERARCHICAL",
        "lsh": "tokenizer.quantizers.baselines:LSH",
        "random": "tokenizer.quantizers.baselines:RANDOM",
        "rq-vae": "tokenizer.quantizers.learned:RQ_VAE",
        "fsq": "tokenizer.quantizers.learned:FSQ",
    },
)


def quantizer_of(spec: CodebookSpec) -> Quantizer:
    """Return the quantizer that a spec names. Raises UnknownMember if it is not installed."""
    return QUANTIZERS.get(spec.quantizer)
