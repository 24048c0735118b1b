"""Encoders load real weights or refuse; a poisonous row costs itself only; the same stage runs anywhere."""

import io
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from pipelines.compute.cluster import machine_cpus
from pipelines.compute.executors import InProcess, OnRay, StageError, WorkerDied, _placement
from pipelines.counts import Counts
from pipelines.embed.clip_agreement import agreement
from pipelines.embed.embed import EncodingJob, embed
from pipelines.embed.images import ImageRefused, decode_image
from pipelines.embed.protocol import EncoderError, describe_encoder, encode_all, fingerprint
from pipelines.embed.stages import EmbedImages, EmbedText
from pipelines.embed.text import TextEncoder, describe_text, model_folder
from pipelines.embed.vision import OpenClip, _vit_pixels, describe_image
from pipelines.spec import ComputeSpec, ImageSpec, TextSpec
from pipelines.vector_store import cached, read_vectors
from storage.commit import Provenance
from storage.files.store import sha256
from storage.lake import Lake
from storage.quarantine import by_reason, open_rows
from tokenizer.arrays.executor import LOCAL_THREADS

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


def test_a_row_that_crashes_the_encoder_is_found_and_the_others_are_encoded() -> None:
    def encode(contents: list[int]) -> np.ndarray:
        if 13 in contents:
            raise RuntimeError("boom")
        return np.array([[float("nan") if each == 5 else each, 1.0] for each in contents], dtype=np.float32)

    outcomes = encode_all(encode, list(range(20)))
    refused = {row: reason for row, (_, reason, _) in enumerate(outcomes) if reason}
    assert refused == {13: "encoder_failed", 5: "vector_not_finite"}
    assert all(outcomes[row][0][0] == row for row in range(20) if row not in refused)


def lookup() -> Callable[[Sequence[int]], np.ndarray]:
    """A real session that refuses numbers from 10 on: it looks up rows of a table of 10, row 3 of which is zero."""
    table = np.arange(1, 21, dtype=np.float32).reshape(10, 2)
    table[3] = 0
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "rows"], ["vectors"])],
        "lookup",
        [helper.make_tensor_value_info("rows", onnx.TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("vectors", onnx.TensorProto.FLOAT, ["n", 2])],
        [onnx.numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda rows: session.run(None, {"rows": np.array(rows, np.int64)})[0]


def test_rows_that_onnxruntime_refuses_or_memory_lacks_for_are_found_and_a_zero_has_no_direction() -> None:
    run = lookup()
    with pytest.raises(Exception, match="out of data bounds") as refusal:
        run([13])
    assert type(refusal.value).__module__.startswith("onnxruntime")
    assert not isinstance(refusal.value, RuntimeError | ValueError)

    def encode(contents: Sequence[int]) -> np.ndarray:
        if 8 in contents:
            raise MemoryError("too much")
        return run(contents)

    outcomes = encode_all(encode, [*range(10), 13])
    refused = {row: reason for row, (_, reason, _) in enumerate(outcomes) if reason}
    assert refused == {3: "vector_zero", 8: "encoder_failed", 10: "encoder_failed"}
    assert outcomes[8][2] == "MemoryError: too much"
    for row in set(range(11)) - set(refused):
        assert outcomes[row][0].tolist() == [2 * row + 1, 2 * row + 2]


def test_an_encoder_that_cannot_be_used_is_no_fault_of_a_row() -> None:
    def encode(contents: Sequence[int]) -> np.ndarray:
        raise EncoderError("the weights changed")

    with pytest.raises(EncoderError, match="the weights changed"):
        encode_all(encode, [1, 2])


def test_open_clip_loads_a_checkpoint_file_or_tag_and_what_decides_its_vectors_is_in_the_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip
    from open_clip import pretrained

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
    described = describe_image(spec)["preprocessing"]
    assert (described["resize_mode"], described["size"]) == ("shortest", 224)
    # A tag brings the preprocessing that it was trained with, as those of SigLIP do.
    tag = {"url": checkpoint.as_uri(), "mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "squash"}
    monkeypatch.setitem(pretrained._PRETRAINED, "ViT-S-32-alt", {"ours": tag})
    monkeypatch.setenv("HOME", str(tmp_path))
    tagged = spec.model_copy(update={"pretrained": "ours"})
    told = open_clip.image_transform(224, is_train=False, mean=(0.5,) * 3, std=(0.5,) * 3, resize_mode="squash")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    other = OpenClip(tagged)
    assert np.array_equal(other._pixels([other.prepare(noise)])[0].cpu(), told(noise))
    seen = {before, fingerprint(describe_image(tagged))}
    tag["mean"] = (0.4,) * 3
    seen.add(fingerprint(describe_image(tagged)))
    assert len(seen) == 3
    weights = model.state_dict()
    next(iter(weights.values())).add_(1.0)
    torch.save(weights, checkpoint)
    assert fingerprint(describe_image(spec)) != before


def test_titles_find_their_own_pictures_and_not_those_of_others() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.standard_normal((200, 16)).astype(np.float32)
    right = agreement(pictures + 0.1, pictures)
    assert (right["own_picture_among_nearest"], right["chance"]) == (1.0, 0.05)
    assert right["cosine"] > 0.9
    wrong = agreement(pictures[rng.permutation(200)], pictures)
    assert wrong["own_picture_among_nearest"] < 0.15
    assert agreement(np.ones((200, 16), np.float32), pictures[:1].repeat(200, 0))["own_picture_among_nearest"] == 0


@pytest.mark.parametrize("pretrained", ["", "no_such_tag"])
def test_open_clip_with_random_weights_is_refused(pretrained: str) -> None:
    with pytest.raises(EncoderError, match="pretrained"):
        describe_image(ImageSpec(encoder="open-clip", model="ViT-B-32", pretrained=pretrained))


def test_the_fingerprint_follows_what_decides_the_vectors() -> None:
    one, other = TextSpec(fields=("title",)), TextSpec(fields=("title", "genres"))
    assert fingerprint(describe_text(one)) == fingerprint(describe_text(TextSpec(fields=("title",))))
    assert fingerprint(describe_text(one)) != fingerprint(describe_text(other))


def tiny_model(folder: Path, prompts: dict[str, str]) -> TextSpec:
    """A sentence-transformers model of 32 dimensions with random weights, and the tokenizer of the packaged one."""
    from transformers import BertConfig, BertModel

    shutil.copytree(model_folder(TextSpec()), folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    shutil.copytree(model_folder(TextSpec()) / "1_Pooling", folder / "1_Pooling", dirs_exist_ok=True)
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, max_position_embeddings=256
    )
    BertModel(config).save_pretrained(folder)
    rewrite(folder / "1_Pooling" / "config.json", word_embedding_dimension=32)
    rewrite(folder / "config_sentence_transformers.json", prompts=prompts)
    return TextSpec(encoder="sentence-transformers", model=str(folder), prompt_name=next(iter(prompts), None))


def rewrite(path: Path, **changed: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def test_every_file_that_decides_the_vectors_is_in_the_fingerprint_and_what_is_told_of_them_is_not(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "model"
    spec = tiny_model(folder, {"query": "query: "})
    seen = [fingerprint(describe_text(spec))]
    (folder / "README.md").write_text("another")
    (folder / ".gitattributes").write_text("another")
    assert fingerprint(describe_text(spec)) == seen[0]
    for change in (
        lambda: rewrite(folder / "1_Pooling" / "config.json", pooling_mode_cls_token=True),
        lambda: rewrite(folder / "sentence_bert_config.json", max_seq_length=16),
        lambda: rewrite(folder / "config_sentence_transformers.json", prompts={"query": "ask: "}),
        lambda: rewrite(folder / "tokenizer_config.json", do_lower_case=False),
        lambda: (folder / "vocab.txt").write_text("other words"),
        lambda: (folder / "model.safetensors").write_bytes(b"others"),
        lambda: (folder / "vocab.txt").rename(folder / "words.txt"),
    ):
        change()
        seen.append(fingerprint(describe_text(spec)))
    assert len(set(seen)) == 8
    (folder / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match="has no weights"):
        describe_text(spec)


def test_a_prompt_stands_before_each_text_and_one_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    spec = tiny_model(tmp_path / "model", {"query": "find: "})
    plain = TextEncoder(spec.model_copy(update={"prompt_name": None}))
    asked = TextEncoder(spec).encode(["a red hat", "shoes"])
    assert np.allclose(asked, plain.encode(["find: a red hat", "find: shoes"]), atol=1e-6)
    assert not np.allclose(asked, plain.encode(["a red hat", "shoes"]), atol=1e-3)
    with pytest.raises(EncoderError, match=r"no prompt 'ask'; set `prompt_name` to one of .*query"):
        TextEncoder(spec.model_copy(update={"prompt_name": "ask"}))


def test_one_changed_text_of_100_is_encoded_and_another_model_writes_beside_the_first(tmp_path: Path) -> None:
    lake, compute = Lake(str(tmp_path / "lake")), InProcess(ComputeSpec())
    given: list[str] = []

    class Counted(EmbedText):
        def __call__(self, batch: pa.Table) -> pa.Table:
            given.extend(batch.column("text").to_pylist())
            return super().__call__(batch)

    def encoded(spec: TextSpec, texts: list[str]) -> tuple[Counts, NDArray[np.float32]]:
        given.clear()
        hashes = [sha256(text.encode()) for text in texts]
        names = [f"{row:03d}" for row in range(len(texts))]
        items = pl.DataFrame({"item_id": names, "content_hash": hashes, "text": texts})
        mark = fingerprint(describe_text(spec))
        counts = embed(
            lake, EncodingJob("text", mark, Counted, {"spec": spec}, 50), items, compute, WHO, lambda rows: None
        )
        found = read_vectors(lake, "text", mark, items)
        assert found is not None
        assert found.present.all()
        return counts, found.take(slice(None)).vectors

    spec = tiny_model(tmp_path / "model", {})
    texts = [f"item number {row}" for row in range(100)]
    counts, before = encoded(spec, texts)
    assert (counts.out, len(given)) == (100, 100)
    texts[37] = "something else"
    counts, after = encoded(spec, texts)
    assert (counts.out, counts.unchanged, given) == (1, 99, ["something else"])
    assert np.flatnonzero((before != after).any(axis=1)).tolist() == [37]

    other = tiny_model(tmp_path / "other", {})
    rewrite(
        tmp_path / "other" / "1_Pooling" / "config.json", pooling_mode_mean_tokens=False, pooling_mode_cls_token=True
    )
    counts, theirs = encoded(other, texts)
    assert (counts.out, lake.rows("vectors")) == (100, 201)
    assert np.array_equal(theirs, TextEncoder(other).encode(texts))
    counts, again = encoded(spec, texts)
    assert (counts.out, given) == (0, [])
    assert np.array_equal(again, after)


def run_embed(lake: Lake, compute: object, items: pl.DataFrame, make: type, arguments: dict[str, object]):  # type: ignore[no-untyped-def]
    job = EncodingJob("image", "print", make, arguments, 4)
    return embed(lake, job, items, compute, WHO, lambda rows: None)  # type: ignore[arg-type]


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
    with pytest.raises(EncoderError, match="changed during the run"):
        EmbedText(TextSpec(), expected="another")
    with pytest.raises(EncoderError, match="changed during the run"):
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
    names, contents = ["0", "1"], ["harmless", "deadly"]
    items = pl.DataFrame({"item_id": names, "content_hash": names, "content": contents})
    counts = run_embed(lake, compute, items, deadly(), {})
    assert (counts.rows_in, counts.out, counts.by_reason) == (2, 1, {"encoder_crashed": 1})
    assert open_rows(lake)["subject"].to_list() == ["1"]
    assert lake.frame("vectors")["item_id"].to_list() == ["0"]


def test_where_every_row_is_deadly_the_stage_fails(tmp_path: Path) -> None:
    class Dies:
        name, work, deaths = "dies", LOCAL_THREADS, 0

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


@pytest.mark.parametrize(
    ("asked", "cluster", "batches", "expected"),
    [
        ({}, {"CPU": 8, "GPU": 2}, 9, (2, 1.0)),
        ({}, {"CPU": 8}, 99, (machine_cpus(), 0.0)),
        ({"num_gpus": 0.25}, {"CPU": 8, "GPU": 2}, 9, (8, 0.25)),
        ({"num_gpus": 0.25, "workers": 3}, {"CPU": 8, "GPU": 2}, 9, (3, 0.25)),
        ({"num_gpus": 0.25}, {"CPU": 8, "GPU": 2}, 5, (5, 0.25)),
        ({"num_gpus": 0}, {"CPU": 8, "GPU": 2}, 1, (1, 0.0)),
    ],
)
def test_workers_of_a_stage_take_what_the_recipe_says_else_a_gpu_each(
    asked: dict[str, float], cluster: dict[str, float], batches: int, expected: tuple[int, float]
) -> None:
    spec = ComputeSpec.model_validate({"stages": {"embed_text": asked}})
    stage, workers = _placement(spec, EmbedText, batches, cluster)
    assert (workers, stage.num_gpus) == expected


@pytest.mark.parametrize("asked", [{"num_gpus": 1}, {"num_cpus": 9}, {"resources": {"fast_disk": 1}}])
def test_a_stage_that_reserves_more_than_the_cluster_has_is_refused_and_does_not_wait(asked: dict[str, Any]) -> None:
    spec = ComputeSpec.model_validate({"stages": {"embed_text": asked}})
    with pytest.raises(StageError, match=r"\[compute.stages.embed_text\] reserves .* the whole cluster has"):
        _placement(spec, EmbedText, 3, {"CPU": 8})


def test_a_precision_is_part_of_the_fingerprint_and_stored_sections_stay_as_they_were() -> None:
    plain, fast = TextSpec(), TextSpec(precision="bfloat16")
    assert "precision" not in plain.model_dump()
    assert fast.model_dump()["precision"] == "bfloat16"
    assert fingerprint(describe_encoder(plain)) != fingerprint(describe_encoder(fast))
    one, other = (TextEncoder(spec).encode(["a red shoe", "an old map"]) for spec in (plain, fast))
    cosines = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert not np.array_equal(one, other)
    assert cosines.min() > 0.999
    with pytest.raises(ValidationError, match="'packaged-vit' has no precision 'bfloat16'"):
        ImageSpec(precision="bfloat16")
