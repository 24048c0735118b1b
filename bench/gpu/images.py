"""Images a second through the stage of the product, against the CLIP tower alone on pixels that lie on the device.

The model is open_clip's ViT-B-32 with random weights. Pictures are JPEGs of 600 x 450 with structure and noise.
"""

import io
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from bench.gpu.meter import Meter
from pipelines.embed.images import decode_image
from pipelines.embed.protocol import autocast, load_encoder
from pipelines.embed.stages import EmbedImages
from pipelines.embed.vision import ImageEncoder, Pixels
from pipelines.spec import ImageSpec
from storage.lake import Lake

MODEL = "ViT-B-32"


def run(meter: Meter) -> None:
    """Measure one model with two sizes of batches."""
    with tempfile.TemporaryDirectory() as folder:
        spec, lake = checkpoint(Path(folder)), Lake(f"{folder}/lake")
        digests = pictures(lake, meter.size(500, 8)) * meter.size(8, 1)
        for batch in (16, 256):
            _measure(meter, spec.model_copy(update={"batch_size": batch}), lake, digests)


def checkpoint(folder: Path) -> ImageSpec:
    """Write random weights of the model; return the settings of its encoder."""
    import open_clip

    path = folder / "random.pt"
    torch.manual_seed(0)
    torch.save(open_clip.create_model(MODEL).state_dict(), path)
    return ImageSpec(encoder="open-clip", model=MODEL, pretrained=str(path))


def pictures(lake: Lake, count: int) -> list[str]:
    """Store pictures in a lake; return their hashes."""
    return [lake.blobs.put(picture(number)) for number in range(count)]


def picture(number: int) -> bytes:
    """Return a JPEG: a coarse random picture, enlarged, with noise."""
    draw = np.random.default_rng(number)
    coarse = Image.fromarray(draw.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((600, 450))
    pixels = np.asarray(coarse, np.int16) + draw.integers(-12, 12, (450, 600, 3), dtype=np.int16)
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
    return out.getvalue()


def _measure(meter: Meter, spec: ImageSpec, lake: Lake, digests: list[str]) -> None:
    name = f"{MODEL}, batches of {spec.batch_size}"
    some = digests[: max(spec.batch_size, meter.size(512, 8))]
    for precision in ("float32", "bfloat16"):
        _encode(meter, name, spec.model_copy(update={"precision": precision}), lake, digests, some)
    encoder = load_encoder(spec)
    for threads in (1, meter.size(16, 2)):
        with ThreadPoolExecutor(threads) as pool:
            read = partial(pool.map, partial(prepare, encoder, spec, lake), some)
            took = meter.seconds(lambda read=read: list(read()), 1)  # type: ignore[misc]
        meter.row(f"{name}: read, decode and scale, {threads} threads", len(some) / took, "images/s")


def _encode(meter: Meter, name: str, spec: ImageSpec, lake: Lake, digests: list[str], some: list[str]) -> None:
    rows = pa.table({"images": pa.array([[each] for each in digests])})
    stage, encoder = EmbedImages(spec, lake), load_encoder(spec)
    whole = len(digests) / meter.seconds(lambda: stage(rows), 1)
    prepared = [prepare(encoder, spec, lake, each) for each in some]
    encoded = len(prepared) / meter.seconds(lambda: encoder.encode(prepared), 3)
    pixels = encoder._pixels(prepared[: spec.batch_size])
    with torch.inference_mode(), autocast(spec, meter.device.type):
        peak = len(pixels) / meter.seconds(lambda: encoder._model.encode_image(pixels), 5)
    against = f"the model alone, {spec.precision}"
    meter.row(f"{name}: stage of the product, {spec.precision}", whole, "images/s", whole / peak, against)
    meter.row(f"{name}: encoder on prepared pixels, {spec.precision}", encoded, "images/s", encoded / peak, against)
    meter.row(f"{name}: model alone, {spec.precision}", peak, "images/s")


def prepare(encoder: ImageEncoder, spec: ImageSpec, lake: Lake, digest: str) -> Pixels:
    """Read, decode and scale a stored picture."""
    return encoder.prepare(decode_image(lake.blobs.get(digest), spec.max_pixels, spec.formats))
