"""Safe decoding of item images; format, size and truncation are checked before and while pixels are read."""

import io
import re
import warnings
from collections.abc import Sequence

from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines.embed.colours import to_rgb

MAX_RATIO = 8
"""Largest ratio of sides of a picture that is used whole; of a longer one the middle is kept. Encoders scale the short
side to their input size and crop a central square: a picture of 1 x 65,535 would become 3 billion pixels, of which
50,000 are used.
"""


_FORMATS = {b"%pdf": "PDF", b"8bps": "PSD", b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cjxl ": "JPEG XL"}
"""Formats that Pillow does not read, by their first bytes in small letters."""
_UNKNOWN = "the bytes are not a picture of a known format: send the picture again"
_AS_TEXT = "converted to UTF-8 as if it were text: send the picture again"
_BASE64 = "the bytes are a picture as base64 text: decode them, or write them as a data: URI"
_NO_PICTURE = {
    b"version https://git-lfs": "the bytes are the pointer of a file in Git LFS: fetch the picture with `git lfs pull`",
    b"PK\x03\x04": "the bytes are a ZIP archive: unpack the picture",
    b"\x1f\x8b": "the bytes are compressed with gzip: unpack the picture",
    b"{": "the bytes are JSON and no picture: send the picture again",
    b"/9j/": _BASE64,
    b"iVBORw0KGgo": _BASE64,
    b"UklGR": _BASE64,
    b"\xc2\x89PNG": f"the bytes are a PNG that was {_AS_TEXT}",
    b"\xc3\xbf\xc3\x98\xc3\xbf": f"the bytes are a JPEG that was {_AS_TEXT}",
    b"\x89PNG\r\r\n": "the bytes are a PNG whose line ends were converted as if it were text: send the picture again",
}
"""Beginnings of bytes that are no picture: their kind, and the remedy."""


class ImageRefused(ValueError):
    """Raised for bytes that are not an accepted image; `reason` is the quarantine reason."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def decode_image(data: bytes, max_pixels: int, formats: Sequence[str]) -> Image.Image:
    """Return the image as upright RGB; only its middle if one side is more than MAX_RATIO times the other.

    Format and pixel count are checked on the header, so a decompression bomb is never inflated.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            # A phone's JPEG may hold more pictures (MPO); its first picture is an ordinary JPEG.
            kind = "JPEG" if image.format == "MPO" else image.format
            if kind not in formats:
                raise ImageRefused("image_format", _wanted(str(image.format), formats))
            if image.width * image.height > max_pixels:
                raise ImageRefused(
                    "image_too_many_pixels",
                    f"the image has {image.width} x {image.height} pixels, at most {max_pixels} are accepted",
                )
            image.load()
            return to_rgb(_middle(ImageOps.exif_transpose(image) or image))
    except ImageRefused:
        raise
    except UnidentifiedImageError as error:
        if named := _named(data):
            raise ImageRefused("image_format", _wanted(named, formats)) from error
        told = next((told for begin, told in _NO_PICTURE.items() if data.lstrip().startswith(begin)), _UNKNOWN)
        raise ImageRefused("image_undecodable", told) from error
    except Image.DecompressionBombError as error:
        told = f"the image has more pixels than are opened at all, at most {max_pixels} are accepted"
        raise ImageRefused("image_too_many_pixels", told) from error
    except (OSError, SyntaxError, ValueError, IndexError, EOFError) as error:
        if "truncated" in str(error).lower():
            raise ImageRefused("image_truncated", "the picture breaks off before its end: send it again") from error
        told = f"the picture is damaged ({_stable(str(error))}): send it again"
        raise ImageRefused("image_undecodable", told) from error


def _wanted(found: str, formats: Sequence[str]) -> str:
    return f"the format is {found}, accepted formats are {', '.join(formats)}: convert the picture"


def _named(data: bytes) -> str | None:
    """Return the name of a format that Pillow does not read, by the file's first bytes."""
    head = data[:4096]
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return "AVIF" if brand in (b"avif", b"avis") else "HEIC" if brand[:2] in (b"he", b"mi", b"ms") else "a video"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<svg") or (text.startswith(b"<?xml") and b"<svg" in text):
        return "SVG"
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page (HTML)"
    return next((name for begin, name in _FORMATS.items() if text.startswith(begin)), None)


def _middle(image: Image.Image) -> Image.Image:
    width, height = (min(side, MAX_RATIO * min(image.size)) for side in image.size)
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _stable(text: str) -> str:
    """Remove the memory address in Pillow's name of the stream, so that the same bytes get the same detail."""
    return re.sub(r"<_io\.BytesIO object at 0x[0-9a-f]+>", "the bytes", text)
