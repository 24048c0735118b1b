"""Titles that are addresses or paths of pictures, under a model that encodes texts and pictures: they stay texts."""

import json
import string
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.embed.text import TextEncoder
from pipelines.spec import TextSpec


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    """A CLIP with random weights, of the smallest size, as sentence-transformers loads one."""
    from sentence_transformers import SentenceTransformer
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    parts, folder = tmp_path_factory.mktemp("clip"), tmp_path_factory.mktemp("model")
    characters = [each for each in string.printable if not each.isspace()]
    tokens = [*characters, *(f"{each}</w>" for each in characters), "<|startoftext|>", "<|endoftext|>"]
    (parts / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (parts / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(parts / "vocab.json"), str(parts / "merges.txt"), model_max_length=77)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    end = len(tokens) - 1
    words = {"vocab_size": len(tokens), "eos_token_id": end, "bos_token_id": end - 1, "pad_token_id": end}
    config = CLIPConfig(
        text_config={**small, **words, "max_position_embeddings": 77},
        vision_config={**small, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(parts)
    pixels = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(pixels, tokenizer).save_pretrained(parts)
    loaded = SentenceTransformer(str(parts), local_files_only=True)
    assert "image" in loaded.modalities
    loaded.save(str(folder))
    return TextEncoder(TextSpec(encoder="sentence-transformers", model=str(folder)))


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """The address of a server, and the paths that it was asked for."""
    paths: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", paths
    finally:
        server.shutdown()
        server.server_close()


def test_no_address_in_a_title_is_fetched_and_no_file_is_read(
    model: TextEncoder, asked: tuple[str, list[str]], tmp_path: Path
) -> None:
    address, paths = asked
    picture = tmp_path / "red.png"
    Image.new("RGB", (32, 32), "red").save(picture)
    texts = [f"{address}/a.jpg", f"{address}/b.mp4".upper(), "data:image/png;base64,AAAA", str(picture)]
    vectors = np.stack([model.encode([text])[0] for text in texts])
    Image.new("RGB", (32, 32), "blue").save(picture)
    assert np.array_equal(model.encode([str(picture)])[0], vectors[3])
    assert np.allclose(model.encode(texts), vectors, atol=1e-5), "they share a batch with any other text"
    assert paths == []


def test_a_long_title_and_one_with_a_zero_byte_are_texts_too(model: TextEncoder) -> None:
    assert model.encode(["/" + 5_000 * "a", "a\0b"]).shape == (2, 8)
