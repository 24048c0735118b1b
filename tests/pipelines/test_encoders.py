"""Encoders load real weights or refuse; a fingerprint names everything that decides the vectors."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import polars as pl
import pyarrow as pa
import pytest
import torch
from made_contents import kind_of, made_contents
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from pipelines.compute.executors import InProcess
from pipelines.counts import Counts
from pipelines.embed.clip_agreement import agreement
from pipelines.embed.embed import EncodingJob, embed
from pipelines.embed.protocol import EncoderError, describe_encoder, encode_all, fingerprint
from pipelines.embed.stages import EmbedText
from pipelines.embed.text import TextEncoder, describe_text, model_folder
from pipelines.embed.vision import OpenClip, describe_image
from pipelines.spec import ComputeSpec, ImageSpec, TextSpec
from pipelines.vector_store import read_vectors
from storage.commit import Provenance
from storage.files.store import sha256
from storage.lake import Lake

WHO = Provenance("test", "recipe")


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
        job = EncodingJob(lake, "text", mark, Counted, {"spec": spec}, kind_of(Counted), 50)
        counts = embed(job, made_contents(items, Counted), compute, WHO, lambda rows: None)
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
