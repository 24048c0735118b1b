"""Texts a second through the text encoder of the product, against the model alone on tokens that lie on the device.

The models have the shapes of MiniLM-L6 and of BERT base, random weights and a vocabulary of random words: no hub is
needed, and the speed is that of trained weights.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.gpu.meter import Meter
from pipelines.embed.protocol import Vectors, autocast
from pipelines.embed.text import TextEncoder
from pipelines.spec import TextSpec

SHAPES = {
    "MiniLM-L6": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "BERT base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}
BATCHES = (64, 512)


def run(meter: Meter) -> None:
    """Measure both models with two sizes of batches."""
    words = some_words()
    texts = some_texts(words, meter.size(20_000, 60))
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            small = {"num_hidden_layers": 1, "hidden_size": 384} if meter.quick else {}
            save_model(Path(folder), words.tolist(), {**shape, **small})
            for batch in BATCHES:
                spec = TextSpec(encoder="sentence-transformers", model=folder, batch_size=batch)
                _measure(meter, f"{name}, batches of {batch}", spec, texts)


def some_words() -> NDArray[np.str_]:
    """Return some 20,000 random words."""
    draw = np.random.default_rng(0)
    return np.array(sorted({"".join(draw.choice(list("abcdefghij"), 6)) for _ in range(20_000)}))


def some_texts(words: NDArray[np.str_], count: int) -> list[str]:
    """Return texts of 5 to 39 random words, longest first."""
    draw = np.random.default_rng(1)
    texts = (" ".join(draw.choice(words, length)) for length in draw.integers(5, 40, count))
    return sorted(texts, key=len, reverse=True)


def save_model(folder: Path, words: list[str], shape: dict[str, Any]) -> None:
    """Write a sentence-transformers model with random weights and mean pooling."""
    from sentence_transformers import SentenceTransformer, models
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers import models as vocabularies
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    bare = Tokenizer(vocabularies.WordPiece(vocabulary, unk_token="[UNK]"))
    bare.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    bare.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="[PAD]", unk_token="[UNK]")  # type: ignore[no-untyped-call]
    bert = folder / "bert"
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(bert)
    tokenizer.save_pretrained(bert)
    transformer = models.Transformer(str(bert), max_seq_length=128)
    pooling = models.Pooling(transformer.get_word_embedding_dimension())
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(folder))


def _measure(meter: Meter, name: str, spec: TextSpec, texts: list[str]) -> None:
    encoders = [TextEncoder(spec.model_copy(update={"precision": each})) for each in ("float32", "bfloat16")]
    for encoder in encoders:
        _encode(meter, name, encoder, texts)
    model, batches = encoders[0]._model, _batches(spec, texts)
    start = meter.seconds(lambda: [model.preprocess(each) for each in batches], 1)
    meter.row(f"{name}: tokens alone", len(texts) / start, "texts/s")
    one, other = (encoder.encode(texts[:200]) for encoder in encoders)
    meter.row(f"{name}: smallest cosine of bfloat16 and float32", least_cosine(one, other), "")


def _encode(meter: Meter, name: str, encoder: TextEncoder, texts: list[str]) -> None:
    from sentence_transformers.util import batch_to_device

    spec, model = encoder._spec, encoder._model
    whole = len(texts) / meter.seconds(lambda: encoder.encode(texts), 1)
    tokens = [batch_to_device(model.preprocess(each), meter.device) for each in _batches(spec, texts)]
    with torch.inference_mode(), autocast(spec, meter.device.type):
        peak = len(texts) / meter.seconds(lambda: [model(dict(each)) for each in tokens], 1)
    against = f"the model alone, {spec.precision}"
    meter.row(f"{name}: encoder of the product, {spec.precision}", whole, "texts/s", whole / peak, against)
    meter.row(f"{name}: model alone, {spec.precision}", peak, "texts/s")


def _batches(spec: TextSpec, texts: list[str]) -> list[list[str]]:
    return [texts[first : first + spec.batch_size] for first in range(0, len(texts), spec.batch_size)]


def least_cosine(one: Vectors, other: Vectors) -> float:
    """Return the smallest cosine of two encodings (N, D) of the same contents."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / lengths).min())
