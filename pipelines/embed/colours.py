"""Conversion of any picture to 8-bit RGB, as it looks on a white page."""

import numpy as np
from PIL import Image

DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
"""Modes of grey with more than 8 bits; Pillow's own conversion clips them at 255."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Scale deep grey to 8 bits and lay transparency on white; convert opaque images as Pillow does."""
    if image.mode in DEEP:
        return _grey(image).convert("RGB")
    if image.has_transparency_data:
        upper = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        page = Image.new("RGBA", upper.size, "white")
        return Image.alpha_composite(page, upper).convert("RGB")
    return image.convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    """Scale to 0..255: from 16 bits, also for "I"; for "F" from 0..1 or 0..255; wider if values exceed it."""
    values = np.nan_to_num(np.asarray(image, np.float64), posinf=0, neginf=0)
    low, high = min(float(values.min()), 0.0), float(values.max())
    usual = 65535.0 if image.mode != "F" else (1.0 if high <= 1 else 255.0)
    top = max(high, usual)
    return Image.fromarray(np.rint((values - low) / (top - low) * 255).astype(np.uint8))
