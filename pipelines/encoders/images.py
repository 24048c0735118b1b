"""Safe decoding of item images: format, size and truncation are judged before and while pixels are read."""

import io
import re
import warnings
from collections.abc import Sequence

from PIL import Image, ImageOps

MOST_RATIO = 8
"""Of a picture that is longer than so many times its width the middle is taken. Encoders scale the short side to theirs
and look at a square in the middle: of a picture 1 x 65,535 that would be 3 billion pixels, to look at 50,000."""


class ImageRefused(ValueError):
    """Bytes that are not an image we accept; `reason` is the quarantine reason."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def decode_image(data: bytes, max_pixels: int, formats: Sequence[str]) -> Image.Image:
    """The image as upright RGB, its middle if it is longer than MOST_RATIO times its width.

    The header alone decides on format and pixel count, so a bomb is never inflated.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            if image.format not in formats:
                raise ImageRefused("image_format", f"the bytes are {image.format}, accepted are {', '.join(formats)}")
            if image.width * image.height > max_pixels:
                raise ImageRefused(
                    "image_too_many_pixels", f"{image.width} x {image.height}, at most {max_pixels} are accepted"
                )
            image.load()
            return _middle(ImageOps.exif_transpose(image) or image).convert("RGB")
    except ImageRefused:
        raise
    except Image.DecompressionBombError as error:
        raise ImageRefused("image_too_many_pixels", str(error)) from error
    except (OSError, SyntaxError, ValueError, IndexError, EOFError) as error:
        reason = "image_truncated" if "truncated" in str(error).lower() else "image_undecodable"
        raise ImageRefused(reason, _stable(str(error))) from error


def _middle(image: Image.Image) -> Image.Image:
    width, height = (min(side, MOST_RATIO * min(image.size)) for side in image.size)
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _stable(text: str) -> str:
    """Without the memory address by which Pillow names the stream: the same bytes have the same detail."""
    return re.sub(r"<_io\.BytesIO object at 0x[0-9a-f]+>", "the bytes", text)
