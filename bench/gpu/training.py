"""Training steps of the generators in bfloat16, with and without torch.compile, against the product of the same run."""

from dataclasses import dataclass

from bench.gpu.meter import Meter
from bench.speed.training import LARGE, LARGER, gemm, speed
from training.registry import ARCHITECTURES
from training.spec import GeneratorSpec


def run(meter: Meter) -> None:
    """Measure the shape of more than 100 million weights first, then smaller ones, then the other architectures."""
    default = GeneratorSpec()
    row = Steps(meter, meter.size(30, 2), gemm(meter.device)).row
    if meter.quick:
        row("default", default, 16)
        row("default", default, 16, "aot_eager")
        return
    row("larger", LARGER, 512)
    row("default", default, 128)
    row("larger", LARGER, 128)
    row("large", LARGE, 512)
    row("default", default, 512)
    for name in ARCHITECTURES:
        row(f"{name}, larger", LARGER.model_copy(update={"architecture": name}), 128)
    # Last, because a compiler may fail where all else works.
    row("larger", LARGER, 512, "inductor")
    row("default", default, 128, "inductor")


@dataclass(frozen=True)
class Steps:
    """Training steps to measure, `count` of each kind, and the operations a second of the product beside them."""

    meter: Meter
    count: int
    product: float

    def row(self, name: str, spec: GeneratorSpec, size: int, backend: str = "") -> None:
        """Measure the steps of a generator with `size` histories each; a `backend` compiles them."""
        found = speed(spec, self.meter.device, self.count, size, backend)
        way = "compiled" if backend else "eager"
        what = f"{name}, {found.weights / 1e6:.1f}M weights, batch of {size}, {way}"
        self.meter.row(what, found.tokens, "tokens/s", found.flops / self.product, "the product (MFU)")
