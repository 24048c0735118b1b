"""Whatever form a catalogue gives a picture in, its pixels are what a person sees, or one refusal says why not."""

import base64
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.embed.colours import to_rgb
from pipelines.embed.images import ImageRefused, decode_image
from pipelines.embed.stages import EmbedImages
from pipelines.ingest.accounting import mapping_hash
from pipelines.ingest.items.ingest import ingest_items
from pipelines.ingest.pictures.references import KEYS, data_uri, references
from pipelines.sources.cells import Refused
from pipelines.sources.files import find_sources
from pipelines.sources.source_spec import ItemsSpec, ItemsWithoutImages
from pipelines.spec import ImageSpec
from storage.commit import Provenance
from storage.lake import Lake
from storage.quarantine import by_reason
from storage.releases.catalogue import catalogue

WHO = Provenance("test", "recipe")
FORMATS = ("JPEG", "PNG", "WEBP")


def stored(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(decode_image(data, 10_000, FORMATS))


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=8))
def test_sixteen_bits_of_grey_become_the_eight_that_are_nearest(values: list[int]) -> None:
    wide = np.array([values], np.uint16)
    expected = np.rint(wide / 257).astype(np.uint8)
    for mode in (wide, wide.astype(np.int32)):
        np.testing.assert_array_equal(np.asarray(to_rgb(Image.fromarray(mode)))[..., 0], expected)
    np.testing.assert_array_equal(decoded(stored(Image.fromarray(wide)))[..., 2], expected)


@given(st.tuples(*[st.integers(0, 255)] * 4))
def test_what_is_transparent_shows_the_white_page(pixel: tuple[int, int, int, int]) -> None:
    *colour, alpha = pixel
    image = Image.new("RGBA", (3, 2), pixel)
    expected = [round((each * alpha + 255 * (255 - alpha)) / 255) for each in colour]
    for one in (decoded(stored(image)), np.asarray(to_rgb(image))):
        assert np.abs(one[0, 0].astype(int) - expected).max() <= 1
    premultiplied = np.asarray(to_rgb(image.convert("RGBa")))[0, 0].astype(int)
    assert np.abs(premultiplied - expected).max() <= 2


def test_transparency_of_a_palette_of_grey_and_of_one_colour_is_laid_on_white_too() -> None:
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    for data in (stored(palette, transparency=1), stored(Image.new("RGB", (2, 2), (9, 9, 9)), transparency=(9, 9, 9))):
        assert decoded(data).tolist() == np.full((2, 2, 3), 255).tolist()
    assert np.asarray(to_rgb(Image.new("LA", (2, 2), (7, 0)))).min() == 255
    assert np.asarray(to_rgb(Image.new("La", (2, 2), (0, 0)))).min() == 255
    opaque = Image.new("RGBA", (2, 2), (1, 2, 3, 255))
    assert to_rgb(opaque).getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LAB"])
def test_an_opaque_picture_converts_as_it_did(mode: str) -> None:
    image = Image.effect_noise((8, 8), 50).convert("RGB").convert(mode) if mode != "LAB" else Image.new("LAB", (8, 8))
    assert list(to_rgb(image).get_flattened_data()) == list(image.convert("RGB").get_flattened_data())


def test_a_jpeg_with_a_second_picture_is_its_first(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    data = stored(first, "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert decoded(data)[0, 0].tolist() == decoded(stored(first, "JPEG"))[0, 0].tolist()


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "SVG"),
        (b"<svg/>", "SVG"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"%PDF-1.7", "PDF"),
    ],
)
def test_a_format_that_is_not_read_is_named_with_what_to_do(data: bytes, named: str) -> None:
    with pytest.raises(ImageRefused, match=f"{named}.*convert the picture") as caught:
        decode_image(data, 100, FORMATS)
    assert caught.value.reason == "image_format"


def test_an_object_names_one_picture_by_its_largest_size_in_every_form_that_catalogues_have() -> None:
    one = {"thumb": "t", "large": "l", "variant": "MAIN", "hi_res": None}
    assert references([one, {"thumb": "t", "large": "l", "hi_res": "h"}, {"thumb": "t"}]) == ["l", "h", "t"]
    columns = {"hi_res": ["h", None, None], "large": ["l", "m", None], "thumb": ["t", "u", "v"], "variant": ["a"] * 3}
    assert references(columns) == ["h", "m", "v"]
    assert references({"url": ["a", "b"]}) == ["a", "b"]
    assert references({"image": {"src": "deep"}}) == ["deep"]
    assert references({"bytes": b"x", "path": "p"}) == [b"x"]
    assert references({"url": None}) == references({}) == []
    (refused,) = references([{"sku": 1, "colour": "red"}])
    assert isinstance(refused, Refused)
    assert (refused.reason, "colour, sku" in refused.detail) == ("image_reference_unknown", True)


@given(st.sets(st.sampled_from(KEYS), min_size=1))
def test_sizes_of_a_picture_are_never_several_pictures(keys: set[str]) -> None:
    (found,) = references({key: key for key in keys})
    assert found == min(keys, key=KEYS.index)


def test_a_data_uri_is_its_bytes_within_the_limit() -> None:
    data = stored(Image.new("RGB", (2, 2)))
    assert data_uri("data:image/png;base64," + base64.b64encode(data).decode(), 1000) == data
    assert data_uri("data:,a%20b", 10) == b"a b"
    for text, reason in (
        ("data:image/png;base64,@@@", "image_address"),
        ("data:nothing", "image_address"),
        ("data:;base64," + base64.b64encode(b"x" * 50).decode(), "image_too_large"),
        ("data:," + "x" * 1000, "image_too_large"),
    ):
        with pytest.raises(Refused) as caught:
            data_uri(text, 40)
        assert caught.value.reason == reason


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_followed(tmp_path: Path) -> None:
    data, outside = tmp_path / "data", tmp_path / "secret"
    (data / "in").mkdir(parents=True)
    outside.mkdir()
    for folder in (data / "in", outside):
        (folder / "a.png").write_bytes(stored(Image.new("RGB", (2, 2))))
    (data / "file.png").symlink_to(outside / "a.png")
    (data / "folder").symlink_to(outside)
    (data / "fine.png").symlink_to(Path("in") / "a.png")
    names = ["file.png", "folder/a.png", "in/../../secret/a.png", "folder/../a.png", "fine.png", "in/a.png"]
    rows = [{"item_id": str(number), "title": "t", "image": name} for number, name in enumerate(names)]
    (data / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "link").symlink_to(data)
    lake = Lake(str(tmp_path / "lake"))
    (source,) = find_sources(str(tmp_path / "link" / "items.jsonl"))
    ingest_items(lake, source, ItemsSpec(), datetime.now(UTC), WHO)
    assert by_reason(lake) == {"image_outside_folder": 3, "image_unreadable": 1}
    pictured = catalogue(lake).filter(catalogue(lake)["images"].list.len() > 0)
    assert sorted(pictured["item_id"]) == ["4", "5"]


def test_without_image_in_the_recipe_no_picture_is_read_and_with_it_they_come_in_later(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(stored(Image.new("RGB", (2, 2))))
    rows = [{"item_id": "1", "title": "t", "image": ["a.png", "http://127.0.0.1:9/never.jpg"]}]
    (tmp_path / "items.jsonl").write_text(json.dumps(rows[0]) + "\n")
    lake = Lake(str(tmp_path / "lake"))
    spec = ItemsSpec(image_timeout_s=0.001)
    (source,) = find_sources(str(tmp_path / "items.jsonl"))
    done = ingest_items(lake, source, ItemsWithoutImages.of(spec), datetime.now(UTC), WHO)
    assert (done.unread_pictures, by_reason(lake), list((tmp_path / "lake").glob("blobs"))) == (2, {}, [])
    assert done.mapping != mapping_hash(spec)
    again = ingest_items(lake, source, ItemsSpec(), datetime.now(UTC), WHO)
    assert again.stages[1].by_reason == {"image_address": 1}
    assert catalogue(lake)["images"].list.len().to_list() == [1]
    kept = ingest_items(lake, source, ItemsWithoutImages.of(spec), datetime.now(UTC), WHO)
    assert (kept.stages[0].unchanged, catalogue(lake)["images"].list.len().to_list()) == (1, [1])


def test_a_stored_picture_that_was_damaged_costs_its_item_and_not_the_run(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    digest = lake.blobs.put(stored(Image.new("RGB", (20, 20))))
    Path(lake.blobs.location(digest)).write_bytes(b"changed")
    out = EmbedImages(ImageSpec(), lake)(pa.table({"item_id": ["a"], "images": [[digest]]}))
    assert out.column("reason").to_pylist() == ["image_damaged"]
    assert out.column("vector").to_pylist() == [None]
