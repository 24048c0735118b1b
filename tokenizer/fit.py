"""The entry point for fitting a codebook with any quantizer."""

from collections.abc import Mapping
from dataclasses import replace

from learning.threads import one_thread
from learning.trainer import Trainer, train_in_process
from tokenizer.arrays.array_file import Array
from tokenizer.arrays.executor import HERE, Work
from tokenizer.arrays.items import ItemIds, checked_items
from tokenizer.arrays.vectors import Rows
from tokenizer.codebook import Codebook
from tokenizer.codebook_report import quality, survey
from tokenizer.quantizers.learned import Learned
from tokenizer.quantizers.registry import quantizer_of
from tokenizer.spec import CodebookSpec


def fit_codebook(
    vectors: Mapping[str, Array | Rows],
    item_ids: ItemIds,
    spec: CodebookSpec,
    work: Work = HERE,
    train: Trainer = train_in_process,
) -> Codebook:
    """Fit a codebook of `spec` to the vectors (N, D per source) of a catalogue.

    The bytes do not depend on item order. `train` trains the network of a learned quantizer, by default in this
    process. Raises VectorError for vectors that are missing, misshapen or not finite, CapacityExhausted when the levels
    hold fewer SIDs than planned, ValueError for ids that occur twice, TrainingDiverged when a loss is not finite.
    """
    quantizer = quantizer_of(spec)
    if isinstance(quantizer, Learned):
        quantizer = replace(quantizer, train=train)
    with one_thread():
        items = checked_items(vectors, item_ids, spec.fit_sources, work)
        made = quantizer.fit(items, spec, work)
        book = made.codebook
        record = {**book.statistics, **quality(book, made.items, made.codes, work), **survey(book, items, work)}
        return replace(book, statistics=record)
