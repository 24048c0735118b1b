"""K-means on the card by flash-kmeans, the product's own on the CPU, and a learned codebook.

The limit of an assignment is the product of all vectors with all points: nothing is computed that needs fewer
operations.
"""

import importlib.util
import time

import faiss
import numpy as np
import torch

from bench.gpu.meter import Meter
from tokenizer.arrays.distance import nearest
from tokenizer.arrays.items import tie_keys
from tokenizer.assign import Occupancy, assign_sids
from tokenizer.balancing.assign_level import balanced_assign
from tokenizer.fit import fit_codebook
from tokenizer.spec import CodebookSpec

WIDTH, ITERATIONS = 128, 20


def run(meter: Meter) -> None:
    """Measure fits and assignments of a skewed mixture."""
    items = meter.size(1_000_000, 2_000)
    draw = np.random.default_rng(0)
    centres = draw.standard_normal((2_000, WIDTH), dtype=np.float32)
    vectors = centres[draw.zipf(1.3, items) % 2_000] + 0.7 * draw.standard_normal((items, WIDTH), dtype=np.float32)
    there = torch.from_numpy(vectors).to(meter.device)
    learned(meter, vectors[: meter.size(200_000, 1_000)])
    for codes in (meter.size(256, 16), meter.size(8_192, 32)):
        points = there[torch.randperm(items, generator=torch.Generator().manual_seed(0))[:codes]].contiguous()
        flash(meter, f"{items:,} x {WIDTH}, {codes:,} codes", there, points)
    on_cpu(meter, vectors[: meter.size(200_000, 1_000)], meter.size(256, 16))


def flash(meter: Meter, name: str, there: torch.Tensor, points: torch.Tensor) -> None:
    """Measure flash-kmeans, if it is installed and there is a card for it."""
    products = {}
    for kind, tf32 in (("float32", False), ("TF32", True)):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        products[kind] = meter.seconds(lambda: there @ points.T)
        meter.row(f"{name}: product, {kind}", 1e3 * products[kind], "ms")
    torch.backends.cuda.matmul.allow_tf32 = False
    plain = meter.seconds(lambda: torch.cdist(there[: 1 << 16], points).argmin(dim=1)) * len(there) / (1 << 16)
    meter.row(f"{name}: torch.cdist and argmin", 1e3 * plain, "ms", products["float32"] / plain, "product, float32")
    if meter.device.type != "cuda" or importlib.util.find_spec("flash_kmeans") is None:
        return
    from flash_kmeans import batch_kmeans_Euclid
    from flash_kmeans.assign_euclid_triton import euclid_assign_triton

    x, c, norms = there[None], points[None], there.square().sum(dim=1)[None]
    took = meter.seconds(lambda: euclid_assign_triton(x, c, norms))
    meter.row(f"{name}: assign, flash-kmeans", 1e3 * took, "ms", products["TF32"] / took, "product, TF32")
    right = torch.cat([torch.cdist(part, points).argmin(dim=1) for part in torch.split(there, 1 << 16)])
    same = (euclid_assign_triton(x, c, norms)[0] == right).double().mean().item()
    meter.row(f"{name}: same codes as torch.cdist in float32", same, "of items")
    took = meter.seconds(lambda: batch_kmeans_Euclid(x, len(points), ITERATIONS, init_centroids=c.clone()), 3)
    rate = ITERATIONS * products["TF32"] / took
    meter.row(f"{name}: fit of {ITERATIONS} rounds, flash-kmeans", took, "s", rate, "products alone, TF32")


def on_cpu(meter: Meter, vectors: np.ndarray, codes: int) -> None:
    """Measure what a run does on the CPU beside the card: nearest points, balanced assignment, faiss's k-means."""
    name, points = f"{len(vectors):,} x {WIDTH}, {codes:,} codes", vectors[:codes].copy()
    took = meter.seconds(lambda: nearest(vectors, points), 3)
    meter.row(f"{name}: nearest points, one thread of the CPU", len(vectors) / took, "items/s")
    ties = tie_keys([f"item-{row}" for row in range(len(vectors))])
    room = np.full(codes, -(-len(vectors) * 5 // (4 * codes)), np.int64)
    took = meter.seconds(lambda: balanced_assign(vectors, points, room, ties), 3)
    meter.row(f"{name}: balanced assignment on the CPU", len(vectors) / took, "items/s")
    fit = faiss.Kmeans(WIDTH, codes, niter=ITERATIONS, max_points_per_centroid=len(vectors), gpu=faiss.get_num_gpus())
    start = time.perf_counter()
    fit.train(vectors, init_centroids=points)
    where = "the card" if faiss.get_num_gpus() else "the CPU"
    meter.row(f"{name}: fit of {ITERATIONS} rounds, faiss on {where}", time.perf_counter() - start, "s")


def learned(meter: Meter, vectors: np.ndarray) -> None:
    """Measure the fit of an RQ-VAE, on the card where there is one, and the error that it leaves."""
    spec = CodebookSpec.model_validate(
        {
            "quantizer": "rq-vae",
            "levels": [{"codes": meter.size(256, 16)}] * 3,
            "vae": {"epochs": meter.size(5, 1)},
        }
    )
    ids = [f"item-{row}" for row in range(len(vectors))]
    start = time.perf_counter()
    book = fit_codebook({"fused": vectors}, ids, spec)
    took = time.perf_counter() - start
    meter.row(f"{len(vectors):,} x {WIDTH}: fit of rq-vae, {meter.size(5, 1)} epochs", took, "s")
    error = assign_sids(book, {"fused": vectors}, ids, Occupancy.empty(3)).relative_error
    meter.row(f"{len(vectors):,} x {WIDTH}: relative error of rq-vae", error, "")
