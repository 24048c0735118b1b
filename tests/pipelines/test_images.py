"""Stored pictures are decoded, cut to what encoders look at, or refused with a reason."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.embed.images import ImageRefused, decode_image
from pipelines.embed.stages import EmbedImages
from pipelines.embed.vision import _vit_pixels
from pipelines.spec import ImageSpec
from storage.lake import Lake

FORMATS = ("JPEG", "PNG", "WEBP")


def picture(width: int = 40, height: int = 30, kind: str = "JPEG", colour: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (picture(400, 300)[:700], "image_truncated"),
        (picture(kind="GIF"), "image_format"),
        (b"not an image", "image_undecodable"),
        (b"", "image_undecodable"),
    ],
)
def test_bytes_that_are_no_good_image_are_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ImageRefused) as refused:
        decode_image(data, 50_000_000, FORMATS)
    assert refused.value.reason == reason


def without_pixels(data: bytes) -> bytes:
    """The shortest beginning of a picture that has its format and size, and too little to make a pixel of."""
    for end in range(8, len(data)):
        try:
            Image.open(io.BytesIO(data[:end]))
        except (OSError, SyntaxError):
            continue
        return data[:end]
    raise AssertionError("no beginning of these bytes has a header")


def reason_of(data: bytes, limit: int) -> str | None:
    try:
        decode_image(data, limit, FORMATS)
    except ImageRefused as refused:
        return refused.reason
    return None


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_limit_of_pixels_is_that_of_the_recipe_and_judged_by_the_header_alone(kind: str) -> None:
    """Far below the size at which Pillow itself warns. Nothing is there to decode: who decodes first says so."""
    header = without_pixels(picture(300, 200, kind))
    assert reason_of(header, 300 * 200 - 1) == "image_too_many_pixels"
    assert reason_of(header, 300 * 200) in ("image_truncated", "image_undecodable")


@settings(max_examples=25, deadline=None)
@given(width=st.integers(1, 60), height=st.integers(1, 60), limit=st.integers(1, 3_600), kind=st.sampled_from(FORMATS))
def test_a_picture_is_accepted_up_to_the_limit_and_no_further(width: int, height: int, limit: int, kind: str) -> None:
    expected = "image_too_many_pixels" if width * height > limit else None
    assert reason_of(picture(width, height, kind), limit) == expected


def test_a_pixel_bomb_beyond_what_pillow_opens_has_the_same_reason() -> None:
    stream = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(stream, "PNG")
    with pytest.raises(ImageRefused) as refused:
        decode_image(stream.getvalue(), 50_000_000, FORMATS)
    assert refused.value.reason == "image_too_many_pixels"


def test_the_stage_that_encodes_keeps_to_the_limit_of_its_recipe(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    digest = lake.blobs.put(picture(40, 30))
    for limit, reasons in ((40 * 30 - 1, ["image_too_many_pixels"]), (40 * 30, [None])):
        stage = EmbedImages(ImageSpec(max_pixels=limit), lake)
        assert stage(pa.table({"images": [[digest]]})).column("reason").to_pylist() == reasons


@pytest.mark.parametrize("upright", [True, False])
def test_a_strip_is_cut_to_its_middle_before_it_is_scaled(upright: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    asked: list[int] = []
    resize = Image.Image.resize

    def noted(image: Image.Image, size: tuple[int, int], *rest: Any, **named: Any) -> Image.Image:
        asked.append(size[0] * size[1])
        return resize(image, size, *rest, **named)

    monkeypatch.setattr(Image.Image, "resize", noted)
    for width in (1, 60):
        size = (width, 65_000) if upright else (65_000, width)
        image = decode_image(picture(*size), 50_000_000, FORMATS)
        for pixels in (_vit_pixels(image), open_clip.image_transform(224, is_train=False)(image).numpy()):
            assert pixels.shape == (3, 224, 224)
    assert len(asked) == 4
    assert max(asked) <= 8 * 224 * 224


def test_the_middle_of_a_strip_gives_the_pixels_of_the_whole() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 267, 3), np.uint8)
    whole = Image.fromarray(noise).resize((4001, 300), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    whole.save(stream, "PNG")
    middle = decode_image(stream.getvalue(), 50_000_000, FORMATS)
    assert middle.size == (2400, 300)
    # Half a pixel aside at most: 4,001 x 300 scaled to a height of 224 is no whole number of pixels wide.
    assert np.abs(_vit_pixels(middle) - _vit_pixels(whole)).mean() < 0.1 * _vit_pixels(whole).std()
    usual = picture(800, 100)
    assert decode_image(usual, 50_000_000, FORMATS) == Image.open(io.BytesIO(usual)).convert("RGB")


def test_exif_rotation_is_applied() -> None:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(stream, "JPEG", exif=exif)
    assert decode_image(stream.getvalue(), 10_000, FORMATS).size == (20, 40)
