"""Training steps of the generators in bfloat16, with and without torch.compile, against the product of the same run."""

from bench.gpu.meter import Meter
from bench.speed.training import LARGE, LARGER, gemm, speed
from training.registry import ARCHITECTURES
from training.spec import GeneratorSpec


def run(meter: Meter) -> None:
    """Measure the shape of more than 100 million weights first, then smaller ones, then the other architectures."""
    peak, steps, default = gemm(meter.device), meter.size(30, 2), GeneratorSpec()
    if meter.quick:
        _row(meter, "default", default, 16, "", steps, peak)
        _row(meter, "default", default, 16, "aot_eager", steps, peak)
        return
    _row(meter, "larger", LARGER, 512, "", steps, peak)
    _row(meter, "default", default, 128, "", steps, peak)
    _row(meter, "larger", LARGER, 128, "", steps, peak)
    _row(meter, "large", LARGE, 512, "", steps, peak)
    _row(meter, "default", default, 512, "", steps, peak)
    for name in ARCHITECTURES:
        _row(meter, f"{name}, larger", LARGER.model_copy(update={"architecture": name}), 128, "", steps, peak)
    # Last, because a compiler may fail where all else works.
    _row(meter, "larger", LARGER, 512, "inductor", steps, peak)
    _row(meter, "default", default, 128, "inductor", steps, peak)


def _row(meter: Meter, name: str, spec: GeneratorSpec, size: int, backend: str, steps: int, peak: float) -> None:
    found = speed(spec, meter.device, steps, size, backend)
    way = "compiled" if backend else "eager"
    what = f"{name}, {found.weights / 1e6:.1f}M weights, batch of {size}, {way}"
    meter.row(what, found.tokens, "tokens/s", found.flops / peak, "the product (MFU)")
