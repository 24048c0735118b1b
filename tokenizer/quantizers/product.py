"""Product quantization: a code for each part of a vector, plain or rotated, alone or after rq-kmeans.

pq is the method of Jégou et al. 2011; the rotation of opq is that of Ge et al. 2013 as faiss fits it. Alone, codes have
no order (RPG, VQ-Rec). In the last `tail` levels after residual k-means it is the tokenizer of OneSearch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from learning.trainer import Trainer, train_in_process
from tokenizer.arrays.distance import blocked_product
from tokenizer.arrays.executor import Executor
from tokenizer.arrays.types import Array, Floats
from tokenizer.arrays.vectors import Items
from tokenizer.balancing.costs import CentroidLevel, Projected, Residual
from tokenizer.codebook import Codebook
from tokenizer.quantizers.fit_levels import Fitting
from tokenizer.quantizers.protocol import Fit, Quantizer, reads_one_source
from tokenizer.quantizers.rq_kmeans import fit_level
from tokenizer.spec import CodebookSpec

ROTATION_ROWS, ROTATION_ROUNDS = 1 << 14, 10
"""Items that the rotation is fitted on, and iterations of the fit."""


def fit(items: Items, spec: CodebookSpec, work: Executor, train: Trainer = train_in_process) -> Fit:
    """Fit residual levels, then a rotation (none for pq), then balanced k-means of each part."""
    fitting = Fitting.begin(items, spec, work)
    head = _head(spec)
    for number in range(head):
        fit_level(fitting, number)
    left = _left(spec, fitting.arrays)
    rows = fitting.fitted.order[:ROTATION_ROWS]
    seen = left(fitting.fitted.take(rows, fitting.codes[rows, :head]))
    offset = seen.mean(axis=0, dtype=np.float64).astype(np.float32)
    fitting.arrays["offset"] = offset
    codes = [level.codes for level in spec.levels[head:]]
    plain = spec.quantizer == "pq"
    fitting.arrays["rotation"] = _unrotated(seen.shape[1], len(codes)) if plain else _rotation(seen - offset, codes)
    for number in range(head, len(spec.levels)):
        found = fitting.clusters(number, _part(spec, fitting.arrays, number))
        fitting.arrays[f"level{number}"] = found.centroids
        fitting.settle(number, found.codes, iterations=found.rounds)
    return fitting.done()


def level(codebook: Codebook, level: int) -> CentroidLevel:
    """Return the costs of a level: squared distances of a residual, or of a part of the rotated vector."""
    spec, arrays = codebook.spec, codebook.arrays
    target = _left(spec, arrays, level) if level < _head(spec) else _part(spec, arrays, level)
    return CentroidLevel(target, arrays[f"level{level}"])


def decode(codebook: Codebook, codes_NL: NDArray[np.int32], source: str) -> Floats:
    """Return the vectors that SIDs stand for, float32 (N, D)."""
    arrays, head = codebook.arrays, _head(codebook.spec)
    parts = [arrays[f"level{level}"][codes_NL[:, level]] for level in range(head, codebook.levels)]
    decoded = blocked_product(np.concatenate(parts, axis=1), arrays["rotation"].T.copy()) + arrays["offset"]
    for level in range(head):
        decoded += arrays[f"level{level}"][codes_NL[:, level]]
    return np.asarray(decoded, np.float32)


def _head(spec: CodebookSpec) -> int:
    return len(spec.levels) - spec.tail if spec.quantizer == "rq-opq" else 0


def _left(spec: CodebookSpec, arrays: Mapping[str, Array], level: int | None = None) -> Residual:
    levels = range(_head(spec) if level is None else level)
    return Residual(spec.levels[0].source, tuple((number, arrays[f"level{number}"]) for number in levels))


def _part(spec: CodebookSpec, arrays: Mapping[str, Array], level: int) -> Projected:
    width = arrays["rotation"].shape[1] // (len(spec.levels) - _head(spec))
    start = (level - _head(spec)) * width
    directions = np.ascontiguousarray(arrays["rotation"][:, start : start + width])
    return Projected(_left(spec, arrays), arrays["offset"], directions)


def _rotation(vectors: Floats, codes: Sequence[int]) -> Floats:
    """Return orthonormal directions (D, parts * width); width is D / parts, rounded up.

    faiss fits them for as many codes as the smallest part has, rounded down to a power of two, at most 256 and at most
    one per row.
    """
    items, dim = vectors.shape
    parts, width = len(codes), -(-dim // len(codes))
    bits = min(8, min(codes).bit_length() - 1, items.bit_length() - 1)
    if bits < 1:
        return _unrotated(dim, parts)
    # With fewer rows than dimensions, faiss 1.15 writes out of bounds, so rows are repeated.
    padded: Any = np.zeros((max(items, parts * width), parts * width), np.float32)
    padded[:, :dim] = np.resize(vectors, (len(padded), dim))
    faiss.omp_set_num_threads(1)
    fitted, quantizer = faiss.OPQMatrix(parts * width, parts), faiss.ProductQuantizer(parts * width, parts, bits)
    quantizer.cp.min_points_per_centroid = 1  # else faiss warns on stdout for every part in every round
    fitted.pq, fitted.niter = quantizer, ROTATION_ROUNDS
    fitted.train(padded)
    matrix = faiss.vector_to_array(fitted.A).reshape(parts * width, parts * width).T
    return np.ascontiguousarray(matrix[:dim], np.float32)


def _unrotated(dim: int, parts: int) -> Floats:
    """Return the identity in place of `_rotation`'s directions; the last part is padded with zeros."""
    return np.eye(dim, parts * -(-dim // parts), dtype=np.float32)


def _check_tail(spec: CodebookSpec) -> None:
    reads_one_source(spec)
    if spec.tail >= len(spec.levels):
        raise ValueError(
            f"tail = {spec.tail} leaves none of the {len(spec.levels)} levels for rq-kmeans; lower tail or add a level"
        )


PQ = OPQ = Quantizer(fit, level, decode, ordered=False, check=reads_one_source)
RQ_OPQ = Quantizer(fit, level, decode, check=_check_tail)
