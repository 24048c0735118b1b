"""Safe decoding of item images: format, size and truncation are judged before and while pixels are read."""

import io
import re
import warnings
from collections.abc import Sequence

from PIL import Image, ImageOps


class ImageRefused(ValueError):
    """Bytes that are not an image we accept; `reason` is the quarantine reason."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def decode_image(data: bytes, max_pixels: int, formats: Sequence[str]) -> Image.Image:
    """The image as upright RGB. The header alone decides on format and pixel count, so a bomb is never inflated."""
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
            return (ImageOps.exif_transpose(image) or image).convert("RGB")
    except ImageRefused:
        raise
    except Image.DecompressionBombError as error:
        raise ImageRefused("image_too_many_pixels", str(error)) from error
    except (OSError, SyntaxError, ValueError, IndexError, EOFError) as error:
        reason = "image_truncated" if "truncated" in str(error).lower() else "image_undecodable"
        raise ImageRefused(reason, _stable(str(error))) from error


def _stable(text: str) -> str:
    """Without the memory address by which Pillow names the stream: the same bytes have the same detail."""
    return re.sub(r"<_io\.BytesIO object at 0x[0-9a-f]+>", "the bytes", text)
