"""Encoders load real weights or refuse; a poisonous row costs itself only; the same stage runs anywhere."""

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from PIL import Image

from pipelines.compute import InProcess, OnRay, WorkerDied
from pipelines.embed import cached, embed
from pipelines.encoders.alignment import aligned
from pipelines.encoders.images import ImageRefused, decode_image
from pipelines.encoders.protocol import EncoderError, encode_all, fingerprint
from pipelines.encoders.stages import EmbedImages, EmbedText
from pipelines.encoders.text import describe_text
from pipelines.encoders.vision import OpenClip, describe_image
from pipelines.spec import ComputeSpec, ImageSpec, TextSpec
from storage.commit import Provenance
from storage.lake import Lake
from storage.quarantine import by_reason, open_rows
from tokenizer.work import HERE

WHO = Provenance("test", "recipe")
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


def test_a_pixel_bomb_is_refused_by_its_header() -> None:
    stream = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(stream, "PNG")
    with pytest.raises(ImageRefused) as refused:
        decode_image(stream.getvalue(), 50_000_000, FORMATS)
    assert refused.value.reason == "image_too_many_pixels"


def test_exif_rotation_is_applied() -> None:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(stream, "JPEG", exif=exif)
    assert decode_image(stream.getvalue(), 10_000, FORMATS).size == (20, 40)


def test_a_row_that_crashes_the_encoder_is_found_and_the_others_are_encoded() -> None:
    def encode(contents: list[int]) -> np.ndarray:
        if 13 in contents:
            raise RuntimeError("boom")
        return np.array([[float("nan") if each == 5 else each, 1.0] for each in contents], dtype=np.float32)

    outcomes = encode_all(encode, list(range(20)))
    refused = {row: reason for row, (_, reason, _) in enumerate(outcomes) if reason}
    assert refused == {13: "encoder_failed", 5: "vector_not_finite"}
    assert all(outcomes[row][0][0] == row for row in range(20) if row not in refused)


def test_open_clip_loads_a_checkpoint_file_and_its_hash_is_in_the_fingerprint(tmp_path: Path) -> None:
    import open_clip
    import torch

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-S-32-alt", pretrained=None)
    checkpoint = tmp_path / "clip.pt"
    torch.save(model.state_dict(), checkpoint)
    spec = ImageSpec(encoder="open-clip", model="ViT-S-32-alt", pretrained=str(checkpoint))
    images = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue")]
    encoder = OpenClip(spec)
    vectors = encoder.encode([encoder.prepare(image) for image in images])
    transform = open_clip.image_transform(model.visual.image_size, is_train=False)
    with torch.no_grad():
        wanted = model.eval().encode_image(torch.stack([transform(image) for image in images])).numpy()
        said = model.encode_text(open_clip.get_tokenizer("ViT-S-32-alt")(["red", "a blue one"])).numpy()
    assert np.allclose(vectors, wanted, atol=1e-4)
    assert np.allclose(encoder.encode_text(["red", "a blue one"]), said, atol=1e-4)
    before = fingerprint(describe_image(spec))
    weights = model.state_dict()
    next(iter(weights.values())).add_(1.0)
    torch.save(weights, checkpoint)
    assert fingerprint(describe_image(spec)) != before


def test_titles_find_their_own_pictures_and_not_those_of_others() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.standard_normal((200, 16)).astype(np.float32)
    right = aligned(pictures + 0.1, pictures)
    assert (right["own_picture_among_nearest"], right["chance"]) == (1.0, 0.05)
    assert right["cosine"] > 0.9
    wrong = aligned(pictures[rng.permutation(200)], pictures)
    assert wrong["own_picture_among_nearest"] < 0.15
    assert aligned(np.ones((200, 16), np.float32), pictures[:1].repeat(200, 0))["own_picture_among_nearest"] == 0


@pytest.mark.parametrize("pretrained", ["", "no_such_tag"])
def test_open_clip_with_random_weights_is_refused(pretrained: str) -> None:
    with pytest.raises(EncoderError, match="pretrained"):
        describe_image(ImageSpec(encoder="open-clip", model="ViT-B-32", pretrained=pretrained))


def test_the_fingerprint_follows_what_decides_the_vectors() -> None:
    one, other = TextSpec(fields=("title",)), TextSpec(fields=("title", "genres"))
    assert fingerprint(describe_text(one)) == fingerprint(describe_text(TextSpec(fields=("title",))))
    assert fingerprint(describe_text(one)) != fingerprint(describe_text(other))


def run_embed(lake: Lake, compute: object, items: pl.DataFrame, make: type, arguments: dict[str, object]):  # type: ignore[no-untyped-def]
    return embed(lake, "image", "print", items, make, arguments, compute, 4, WHO, lambda rows: None)  # type: ignore[arg-type]


def test_bad_images_are_quarantined_good_ones_embedded_and_a_rerun_encodes_nothing(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    contents = [picture(colour="red"), picture(colour="blue"), picture(kind="GIF"), picture(400, 300)[:500]]
    hashes = [lake.blobs.put(data) for data in contents]
    items = pl.DataFrame({"item_id": list("abcd"), "content_hash": hashes, "images": [[each] for each in hashes]})
    compute = InProcess(ComputeSpec())
    arguments = {"spec": ImageSpec(), "lake": lake}
    first = run_embed(lake, compute, items, EmbedImages, arguments)
    assert (first.rows_in, first.out, first.by_reason) == (4, 2, {"image_format": 1, "image_truncated": 1})
    assert by_reason(lake) == {"image_format": 1, "image_truncated": 1}
    version = lake.version("vectors")
    again = run_embed(lake, compute, items.head(2), EmbedImages, arguments)
    assert (again.unchanged, again.out, lake.version("vectors")) == (2, 0, version)
    assert set(cached(lake, "image", "print")["item_id"]) == {"a", "b"}


def test_the_pictures_of_an_item_are_pooled_and_a_bad_one_costs_itself_only(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    red, blue, gif = (lake.blobs.put(data) for data in (picture(), picture(colour="blue"), picture(kind="GIF")))
    pictures = [[red], [blue], [red, blue], [red, gif, blue], [gif, gif]]
    items = pl.DataFrame({"item_id": list("abcde"), "content_hash": list("12345"), "images": pictures})
    arguments = {"spec": ImageSpec(batch_size=2), "lake": lake, "decoders": 2}
    counts = run_embed(lake, InProcess(ComputeSpec()), items, EmbedImages, arguments)
    assert (counts.rows_in, counts.out, counts.by_reason) == (5, 4, {"image_format": 1})
    found = {row["item_id"]: np.array(row["vector"]) for row in lake.frame("vectors").to_dicts()}
    mean = (found["a"] + found["b"]) / 2
    assert np.allclose(found["c"], mean, atol=1e-6)
    assert np.allclose(found["d"], mean, atol=1e-4)
    stages = open_rows(lake).sort("subject").select("subject", "stage").rows()
    assert stages == [("d", "embed image, one of several"), ("e", "embed image")]


def test_a_stage_refuses_to_mix_the_vectors_of_weights_that_changed_under_it(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="changed while the run"):
        EmbedText(TextSpec(), expected="another")
    with pytest.raises(EncoderError, match="changed while the run"):
        EmbedImages(ImageSpec(), Lake(str(tmp_path)), expected=fingerprint(describe_text(TextSpec())))
    EmbedImages(ImageSpec(), Lake(str(tmp_path)), expected=fingerprint(describe_image(ImageSpec())))


def test_texts_are_given_the_longest_first_and_stored_all_the_same(tmp_path: Path) -> None:
    given: list[str] = []

    class Listens(EmbedText):
        def __init__(self) -> None:
            """Loads no model: lengths are vectors enough here."""

        def __call__(self, batch: pa.Table) -> pa.Table:
            texts = batch.column("text").to_pylist()
            given.extend(texts)
            vectors = pa.array([[float(len(text))] for text in texts], pa.list_(pa.float32()))
            nothing = pa.nulls(len(texts), pa.string())
            answer = batch.drop_columns(["text"]).append_column("vector", vectors)
            return answer.append_column("reason", nothing).append_column("detail", nothing)

    texts = ["aa", "a", "aaaa", "bb", "aaa", "ü"]
    items = pl.DataFrame({"item_id": list("fedcba"), "content_hash": list("123456"), "text": texts})
    lake = Lake(str(tmp_path))
    run_embed(lake, InProcess(ComputeSpec()), items, Listens, {})
    assert given == ["aaaa", "aaa", "ü", "bb", "aa", "a"]
    assert lake.rows("vectors") == 6


def deadly() -> type:
    """A stage that workers can be sent: a class of this module they could not import."""

    class Deadly:
        """Its process dies of some contents, as one does in which native code crashes."""

        reads = ("content",)
        adds = ("vector", "reason", "detail")

        def __call__(self, batch: pa.Table) -> pa.Table:
            contents = batch.column("content").to_pylist()
            if "deadly" in contents:
                os.kill(os.getpid(), signal.SIGKILL)
            count = len(contents)
            answer = batch.drop_columns(["content"]).append_column(
                "vector", pa.array([[1.0]] * count, pa.list_(pa.float32()))
            )
            return answer.append_column("reason", pa.nulls(count, pa.string())).append_column(
                "detail", pa.nulls(count, pa.string())
            )

    return Deadly


def test_a_row_that_kills_its_worker_ends_alone_and_no_other_is_lost(tmp_path: Path, ray_cluster: None) -> None:
    lake, compute = Lake(str(tmp_path)), OnRay(ComputeSpec(encoder_workers=1))
    names = [str(number) for number in range(3)]
    contents = ["harmless", "harmless", "deadly"]
    items = pl.DataFrame({"item_id": names, "content_hash": names, "content": contents})
    counts = run_embed(lake, compute, items, deadly(), {})
    assert (counts.rows_in, counts.out, counts.by_reason) == (3, 2, {"encoder_crashed": 1})
    assert open_rows(lake)["subject"].to_list() == ["2"]
    assert sorted(lake.frame("vectors")["item_id"]) == names[:2]


def test_where_every_row_is_deadly_the_stage_fails(tmp_path: Path) -> None:
    class Dies:
        name, work, deaths = "dies", HERE, 0

        def run(self, *_: object) -> None:
            raise NotImplementedError

        def map(self, *_: object) -> Iterator[pa.Table]:
            self.deaths += 1
            raise WorkerDied("killed")
            yield

    compute = Dies()
    names = [str(number) for number in range(1000)]
    items = pl.DataFrame({"item_id": names, "content_hash": names, "content": names})
    with pytest.raises(WorkerDied):
        run_embed(Lake(str(tmp_path)), compute, items, deadly(), {})
    assert compute.deaths < 20


def test_a_stage_gives_the_same_vectors_in_process_and_on_ray(tmp_path: Path, ray_cluster: None) -> None:
    texts = pa.table(
        {"item_id": ["a", "b", "c", "d"], "content_hash": list("1234"), "text": ["a cat", "a dog", "the moon", ""]}
    )
    spec = ComputeSpec(chunk_rows=2, encoder_workers=1)
    arguments = {"spec": TextSpec()}
    tables = [
        pl.concat([pl.DataFrame(batch) for batch in compute.map(EmbedText, arguments, texts, 2)]).sort("item_id")
        for compute in (InProcess(spec), OnRay(spec))
    ]
    assert tables[0]["reason"].to_list() == [None, None, None, "empty_text"]
    assert tables[0].drop("vector").equals(tables[1].drop("vector"))
    vectors = [np.array(table["vector"].to_list()[:3]) for table in tables]
    assert np.allclose(vectors[0], vectors[1], atol=1e-6)
