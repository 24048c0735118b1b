"""Encoder workers of Ray that share the card, against one worker: tokens and pixels are made in all of them."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from bench.gpu.images import checkpoint, pictures
from bench.gpu.meter import Meter
from bench.gpu.texts import SHAPES, save_model, some_texts, some_words
from pipelines.compute.cluster import shutdown
from pipelines.compute.executors import OnRay
from pipelines.embed.protocol import apply
from pipelines.embed.stages import BATCHES, EmbedImages, EmbedText
from pipelines.spec import ComputeSpec, ImageSpec, TextSpec
from storage.lake import Lake


def run(meter: Meter) -> None:
    """Measure texts, then pictures, in both precisions."""
    with tempfile.TemporaryDirectory() as folder:
        words = some_words()
        save_model(Path(folder, "text"), words.tolist(), SHAPES["MiniLM-L6"])
        texts = some_texts(words, meter.size(60_000, 300))
        lake = Lake(f"{folder}/lake")
        digests = pictures(lake, meter.size(500, 8)) * meter.size(16, 1)
        clip = checkpoint(Path(folder))
        for precision in ("bfloat16", "float32"):
            text = TextSpec(
                encoder="sentence-transformers", model=f"{folder}/text", batch_size=512, precision=precision
            )
            _measure(meter, f"texts, MiniLM-L6, {precision}", EmbedText, {"spec": text}, pa.table({"text": texts}))
            image = clip.model_copy(update={"precision": precision, "batch_size": 64})
            table = pa.table({"images": pa.array([[each] for each in digests])})
            _measure(meter, f"images, ViT-B-32, {precision}", EmbedImages, {"spec": image, "lake": lake}, table)
    shutdown()


@dataclass(frozen=True)
class Encoding:
    """Job on parts of a table: what a stage makes of them is dropped, their rows are counted."""

    stage: Any
    arguments: dict[str, Any]

    def start(self) -> Callable[[pa.Table], int]:
        """Load the model."""
        stage = self.stage(**self.arguments)
        return lambda part: int(apply(stage, part).num_rows)


def _measure(meter: Meter, name: str, stage: Any, arguments: dict[str, Any], table: pa.Table) -> None:
    """Print the rows a second of the second half of a table: in the first, workers start and load their models."""
    spec: TextSpec | ImageSpec = arguments["spec"]
    task_rows = meter.size(BATCHES * spec.batch_size // 2, 8)
    one = 0.0
    for workers in (1, meter.size(4, 2)):
        share = {"workers": workers, "num_gpus": 1 / workers if meter.device.type == "cuda" else 0}
        compute = OnRay(ComputeSpec.model_validate({"stages": {stage.name: share}}))
        seen = [(time.perf_counter(), 0)]
        parts = [table.slice(start, task_rows) for start in range(0, table.num_rows, task_rows)]
        for _, rows in compute.map(Encoding(stage, arguments), parts):
            seen.append((time.perf_counter(), seen[-1][1] + rows))
        began, before = next(each for each in seen if each[1] >= table.num_rows // 2)
        rate = (table.num_rows - before) / max(seen[-1][0] - began, 1e-9)
        one = one or rate
        meter.row(f"{name}: {workers} workers", rate, "rows/s", rate / one, "one worker")
