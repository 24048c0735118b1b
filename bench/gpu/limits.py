"""The card's own limits: products in each precision, and copies."""

import torch

from bench.gpu.meter import Meter


def run(meter: Meter) -> None:
    """Measure all."""
    for name, dtype, tf32 in (
        ("bfloat16", torch.bfloat16, False),
        ("TF32", torch.float32, True),
        ("float32", torch.float32, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        meter.row(f"product of 8,192 x 8,192, {name}", meter.product(dtype) / 1e12, "TFLOP/s")
    source = torch.randn(meter.size(1 << 29, 1 << 20), device=meter.device)
    target = torch.empty_like(source)
    took = meter.seconds(lambda: target.copy_(source))
    meter.row("copy on the card, read and written", 2 * source.nbytes / took / 1e9, "GB/s")
    here = torch.empty(meter.size(1 << 26, 1 << 18), pin_memory=meter.device.type == "cuda")
    took = meter.seconds(lambda: here.to(meter.device, non_blocking=True))
    meter.row("copy to the card from pinned memory", here.nbytes / took / 1e9, "GB/s")
