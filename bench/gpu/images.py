"""Images a second through the stage of the product, against the CLIP tower alone on pixels that lie on the device.

The model is open_clip's ViT-B-32 with random weights. Pictures are JPEGs of 600 x 450 with structure and noise.
"""

import io
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from bench.gpu.meter import Meter
from pipelines.embed.images import decode_image
from pipelines.embed.protocol import load_encoder
from pipelines.embed.stages import EmbedImages
from pipelines.spec import ImageSpec
from storage.lake import Lake

MODEL = "ViT-B-32"


def run(meter: Meter) -> None:
    """Measure one model with two sizes of batches."""
    import open_clip

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder, "random.pt")
        torch.manual_seed(0)
        torch.save(open_clip.create_model(MODEL).state_dict(), checkpoint)
        lake = Lake(f"{folder}/lake")
        digests = [lake.blobs.put(picture(number)) for number in range(meter.size(500, 8))] * meter.size(8, 1)
        for batch in (16, 256):
            spec = ImageSpec(encoder="open-clip", model=MODEL, pretrained=str(checkpoint), batch_size=batch)
            _measure(meter, spec, lake, digests)


def picture(number: int) -> bytes:
    """Return a JPEG: a coarse random picture, enlarged, with noise."""
    draw = np.random.default_rng(number)
    coarse = Image.fromarray(draw.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((600, 450))
    pixels = np.asarray(coarse, np.int16) + draw.integers(-12, 12, (450, 600, 3), dtype=np.int16)
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
    return out.getvalue()


def _measure(meter: Meter, spec: ImageSpec, lake: Lake, digests: list[str]) -> None:
    stage = EmbedImages(spec, lake)
    rows = pa.table({"images": pa.array([[each] for each in digests])})
    whole = meter.seconds(lambda: stage(rows), 1)
    encoder = load_encoder(spec)
    some = digests[: max(spec.batch_size, meter.size(512, 8))]
    prepared = [encoder.prepare(decode_image(lake.blobs.get(each), spec.max_pixels, spec.formats)) for each in some]
    one = meter.seconds(
        lambda: encoder.prepare(decode_image(lake.blobs.get(digests[0]), spec.max_pixels, spec.formats)), 3, 5
    )
    encoded = meter.seconds(lambda: encoder.encode(prepared), 3)
    pixels = torch.from_numpy(np.stack(prepared[: spec.batch_size])).to(meter.device)
    alone = {}
    for dtype in (torch.float32, torch.bfloat16):
        with torch.inference_mode(), torch.autocast(meter.device.type, dtype, enabled=dtype != torch.float32):
            alone[dtype] = meter.seconds(lambda: encoder._model.encode_image(pixels), 5)
    peak = len(pixels) / alone[torch.float32]
    name, against = f"{MODEL}, batches of {spec.batch_size}", "the model alone, float32"
    meter.row(f"{name}: stage of the product", len(digests) / whole, "images/s", len(digests) / whole / peak, against)
    rate = len(prepared) / encoded
    meter.row(f"{name}: encoder on prepared pixels", rate, "images/s", rate / peak, against)
    meter.row(f"{name}: model alone, float32", peak, "images/s")
    meter.row(f"{name}: model alone, bfloat16", len(pixels) / alone[torch.bfloat16], "images/s")
    meter.row(f"{name}: read, decode and scale, one thread", 1 / one, "images/s")
