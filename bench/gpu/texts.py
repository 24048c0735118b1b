"""Texts a second through the text encoder of the product, against the model alone on tokens that lie on the device.

The models have the shapes of MiniLM-L6 and of BERT base, random weights and a vocabulary of random words: no hub is
needed, and the speed is that of trained weights.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.gpu.meter import Meter
from pipelines.embed.protocol import Vectors
from pipelines.embed.text import TextEncoder
from pipelines.spec import TextSpec

SHAPES = {
    "MiniLM-L6": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "BERT base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}
BATCHES = (64, 512)


def run(meter: Meter) -> None:
    """Measure both models with two sizes of batches."""
    draw = np.random.default_rng(0)
    words = np.array(sorted({"".join(draw.choice(list("abcdefghij"), 6)) for _ in range(20_000)}))
    counts = draw.integers(5, 40, meter.size(20_000, 60))
    texts = sorted((" ".join(draw.choice(words, count)) for count in counts), key=len, reverse=True)
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            small = {"num_hidden_layers": 1, "hidden_size": 384} if meter.quick else {}
            save_model(Path(folder), words.tolist(), {**shape, **small})
            for batch in BATCHES:
                spec = TextSpec(encoder="sentence-transformers", model=folder, batch_size=batch)
                _measure(meter, f"{name}, batches of {batch}", spec, texts)


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
    from sentence_transformers.util import batch_to_device

    vectors = {}
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        encoder = TextEncoder(spec.model_copy(update={"precision": precision}))
        vectors[precision] = encoder.encode(texts[:200])
        whole = len(texts) / meter.seconds(lambda: encoder.encode(texts), 1)
        model = encoder._model
        batches = [texts[at : at + spec.batch_size] for at in range(0, len(texts), spec.batch_size)]
        tokens = [batch_to_device(model.preprocess(each), meter.device) for each in batches]
        with torch.inference_mode(), torch.autocast(meter.device.type, dtype, enabled=dtype != torch.float32):
            peak = len(texts) / meter.seconds(lambda: [model(dict(each)) for each in tokens], 1)
        against = f"the model alone, {precision}"
        meter.row(f"{name}: encoder of the product, {precision}", whole, "texts/s", whole / peak, against)
        meter.row(f"{name}: model alone, {precision}", peak, "texts/s")
    start = meter.seconds(lambda: [model.preprocess(each) for each in batches], 1)
    meter.row(f"{name}: tokens alone", len(texts) / start, "texts/s")
    meter.row(f"{name}: smallest cosine of bfloat16 and float32", least_cosine(*vectors.values()), "")


def least_cosine(one: Vectors, other: Vectors) -> float:
    """Return the smallest cosine of two encodings (N, D) of the same contents."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / lengths).min())
