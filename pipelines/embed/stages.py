"""Encoder stages: contents in, a vector or the reason for its absence out. A bad row affects only itself.

Models load when a stage is constructed, in the process that uses it. A stage that is given the fingerprint from the
start of the run checks that it loaded the same model: weights replaced during a run must not mix with the old ones.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from pipelines.embed.attributes import MultiHot, SphericalFourierFeatures
from pipelines.embed.images import ImageRefused, decode_image
from pipelines.embed.protocol import (
    EncoderError,
    Outcome,
    describe_encoder,
    encode_all,
    fingerprint,
    load_encoder,
)
from pipelines.embed.vision import ImageEncoder, Pixels
from pipelines.spec import TASKS, AttributesSpec, CoordinatesSpec, ImageSpec, TextSpec
from storage.errors import BlobCorrupt
from storage.lake import Lake

BATCHES = 4
"""Batches of an encoder that a stage gets at a time."""


class EmbedText:
    """Stage from texts to vectors, longest texts first: a batch has texts of similar length and little padding."""

    name = "embed_text"
    reads = ("text",)
    adds = ("vector", "reason", "detail")
    uses_gpu = True
    longest_first = pl.col("text").str.len_bytes()

    def __init__(self, spec: TextSpec, expected: str | None = None) -> None:
        self._encoder = load_encoder(spec)
        _check("text", expected, lambda: describe_encoder(spec))

    def __call__(self, batch: pa.Table) -> pa.Table:
        texts = batch.column("text").to_pylist()
        filled = [row for row, text in enumerate(texts) if text]
        outcomes: list[Outcome] = [(None, "empty_text", "no text in the fields that text.fields names")] * len(texts)
        encoded = encode_all(self._encoder.encode, [texts[row] for row in filled])
        for row, outcome in zip(filled, encoded, strict=True):
            outcomes[row] = outcome
        return _with_outcomes(batch.drop_columns(["text"]), outcomes)


class EmbedAttributes:
    """Stage from contents of structured attributes to vectors."""

    name = TASKS
    reads = ("content",)
    adds = ("vector", "reason", "detail")

    def __init__(self, spec: AttributesSpec | CoordinatesSpec) -> None:
        self._encoder = MultiHot(spec) if isinstance(spec, AttributesSpec) else SphericalFourierFeatures(spec)

    def __call__(self, batch: pa.Table) -> pa.Table:
        contents = batch.column("content").to_pylist()
        return _with_outcomes(batch.drop_columns(["content"]), encode_all(self._encoder.encode, contents))


class EmbedImages:
    """Stage from stored pictures, by hash, to one vector per item: the mean over its pictures.

    Pictures are read, decoded and scaled on `decoders` threads, at most two batches ahead of the model: the model does
    not wait, and memory is bounded. An item with some refused pictures gets its vector from the others; the reason is
    stored beside it.
    """

    name = "embed_image"
    reads = ("images",)
    adds = ("vector", "reason", "detail")
    uses_gpu = True

    def __init__(self, spec: ImageSpec, lake: Lake, expected: str | None = None, decoders: int | None = None) -> None:
        import torch

        self._spec, self._lake = spec, lake
        self._encoder: ImageEncoder = load_encoder(spec)
        self._decoders = decoders or torch.get_num_threads()
        _check("image", expected, lambda: describe_encoder(spec))

    def __call__(self, batch: pa.Table) -> pa.Table:
        pictures = batch.column("images").to_pylist()
        prepared = self._prepared(digest for digests in pictures for digest in digests)
        encoded = self._encoded(prepared)
        outcomes = [_pooled(list(islice(encoded, len(digests)))) for digests in pictures]
        return _with_outcomes(batch.drop_columns(["images"]), outcomes)

    def _prepared(self, digests: Iterator[str]) -> Iterator[Pixels | ImageRefused]:
        """Yield the pixels of each picture in order, prepared ahead of use."""
        ahead = 2 * self._spec.batch_size
        waiting: deque[Future[Pixels | ImageRefused]] = deque()
        with ThreadPoolExecutor(self._decoders) as pool:
            for digest in digests:
                waiting.append(pool.submit(self._prepare, digest))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _prepare(self, digest: str) -> Pixels | ImageRefused:
        try:
            image = decode_image(self._lake.blobs.get(digest), self._spec.max_pixels, self._spec.formats)
        except ImageRefused as refused:
            return refused
        except BlobCorrupt as error:
            return ImageRefused("image_damaged", str(error))
        try:
            return self._encoder.prepare(image)
        except Exception as error:  # noqa: BLE001 - as in encode_all
            return ImageRefused("encoder_failed", f"{type(error).__name__}: {error}")

    def _encoded(self, prepared: Iterator[Pixels | ImageRefused]) -> Iterator[Outcome]:
        while group := list(islice(prepared, self._spec.batch_size)):
            good = iter(
                encode_all(self._encoder.encode, [each for each in group if not isinstance(each, ImageRefused)])
            )
            for each in group:
                yield (None, each.reason, each.detail) if isinstance(each, ImageRefused) else next(good)


def _pooled(outcomes: list[Outcome]) -> Outcome:
    """Return the mean of the available vectors, and reason and details of the refused ones."""
    vectors = [vector for vector, _, _ in outcomes if vector is not None]
    refused = [(reason, detail) for _, reason, detail in outcomes if reason is not None]
    reason = refused[0][0] if refused else None
    detail = "; ".join(detail for _, detail in refused)
    if not vectors:
        return None, reason, detail
    return np.stack(vectors).mean(axis=0, dtype=np.float64).astype(np.float32), reason, detail


def _check(modality: str, expected: str | None, describe: Callable[[], dict[str, Any]]) -> None:
    if expected is not None and fingerprint(describe()) != expected:
        raise EncoderError(
            f"the files of the {modality} encoder changed during the run, so its vectors would not match those that "
            "the run has stored already. Do not change the files, and run the same command again."
        )


def _with_outcomes(batch: pa.Table, outcomes: list[Outcome]) -> pa.Table:
    vectors, reasons, details = zip(*outcomes, strict=True)
    return (
        batch.append_column("vector", pa.array(vectors, type=pa.list_(pa.float32())))
        .append_column("reason", pa.array(reasons, type=pa.string()))
        .append_column("detail", pa.array(details, type=pa.string()))
    )
